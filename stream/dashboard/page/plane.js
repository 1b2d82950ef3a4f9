// Valence to the right, arousal upwards: where the mood is, and a trail that fades over eight seconds.

import { Sheet } from "./drawing.js";
import { EMOTIONS, palette } from "./emotions.js";

const TRAIL = 8000;
const CORNERS = [["tense", -1, 1], ["excited", 1, 1], ["gloomy", -1, -1], ["calm", 1, -1]];

export class Plane {
  constructor(resized) {
    this.sheet = new Sheet("plane", resized);
    this.said = 0;
  }

  show(minute, now) {
    const context = this.sheet.clear();
    const { width, height } = this.sheet;
    const colours = palette();
    const margin = 10; // for the mark at the rim
    const halfY = height / 2 - margin;
    const halfX = Math.min(width / 2 - margin, 1.6 * halfY);
    const x = (v) => width / 2 + v * halfX;
    const y = (a) => height / 2 - a * halfY;
    context.strokeStyle = colours.line;
    context.lineWidth = 1;
    for (const scale of [1, 0.5]) {
      context.beginPath();
      context.ellipse(width / 2, height / 2, halfX * scale, halfY * scale, 0, 0, 2 * Math.PI);
      context.stroke();
    }
    context.beginPath();
    context.moveTo(x(-1), y(0));
    context.lineTo(x(1), y(0));
    context.moveTo(x(0), y(-1));
    context.lineTo(x(0), y(1));
    context.stroke();
    context.fillStyle = colours.quiet;
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    for (const [word, v, a] of CORNERS) {
      context.textAlign = v < 0 ? "left" : "right";
      context.fillText(word, x(v), y(a) - 4 * Math.sign(-a));
    }
    context.textAlign = "right";
    context.fillText("pleasant", x(0.97), y(0) - 9);
    context.textAlign = "left";
    context.fillText("unpleasant", x(-0.97), y(0) - 9);
    if (!now || now.valence === null) {
      this.label("no reading");
      return;
    }
    const trail = smooth(minute.readings.filter((one) => one.t <= now.t && one.t > now.t - TRAIL && one.valence !== null));
    const tint = now.top >= 0 ? colours[EMOTIONS[now.top]] : colours.quiet;
    context.lineCap = "round";
    context.lineWidth = 3;
    context.strokeStyle = tint;
    for (let i = 1; i < trail.length; i++) {
      context.globalAlpha = 0.75 * Math.max(0, 1 - (now.t - trail[i].t) / TRAIL) ** 1.5;
      context.beginPath();
      context.moveTo(x(trail[i - 1].v), y(trail[i - 1].a));
      context.lineTo(x(trail[i].v), y(trail[i].a));
      context.stroke();
    }
    context.globalAlpha = 1;
    const { v, a } = trail.at(-1) ?? { v: now.valence, a: now.arousal };
    context.beginPath();
    context.arc(x(v), y(a), 8, 0, 2 * Math.PI);
    context.fillStyle = tint;
    context.fill();
    context.lineWidth = 2.5;
    context.strokeStyle = colours.ink;
    context.stroke();
    this.label(`valence ${signed(now.valence)} from unpleasant to pleasant, arousal ${signed(now.arousal)} from calm to excited`);
  }

  label(text) {
    if (performance.now() - this.said < 1000) return;
    this.said = performance.now();
    this.sheet.canvas.setAttribute("aria-label", `Valence and arousal: ${text}`);
  }
}

/** A running mean over about half a second: the eye follows a path, not a tremble. */
function smooth(readings) {
  const path = [];
  let v = null;
  let a = null;
  for (const one of readings) {
    v = v === null ? one.valence : v + 0.3 * (one.valence - v);
    a = a === null ? one.arousal : a + 0.3 * (one.arousal - a);
    path.push({ t: one.t, v, a });
  }
  return path;
}

export function signed(value) {
  return `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;
}
