// The last minute as one band of seven shares. What is settled is full, what is provisional pale; where nothing is known there is a gap.

import { EMOTIONS, palette, stampFace } from "./emotions.js";
import { Sheet } from "./drawing.js";
import { SPAN } from "./minute.js";

const LANE = 28; // pixels above the band, where whoever leads is named
const [FACE, FACE_NARROW, NARROW] = [20, 14, 500];
const [SETTLED, PROVISIONAL] = [0.85, 0.4];
const BREAK = 600; // readings further apart than this are not joined

export class Timeline {
  /** `look(t or null)`: the person points at a moment (session ms), or lets go of the past; `resized()`. */
  constructor(look, resized) {
    this.sheet = new Sheet("timeline", resized);
    this.canvas = this.sheet.canvas;
    this.slider = document.getElementById("look");
    this.back = document.getElementById("back");
    this.look = look;
    this.end = 0;
    this.slider.addEventListener("input", () => this.choose(Number(this.slider.value)));
    this.back.addEventListener("click", () => this.choose(0));
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      this.point(event);
    });
    this.canvas.addEventListener("pointermove", (event) => event.buttons && this.point(event));
    addEventListener("keydown", (event) => event.key === "Escape" && this.choose(0));
  }

  point(event) {
    const { left, width } = this.canvas.getBoundingClientRect();
    this.choose(Math.max(-60, Math.min(0, -60 + (60 * (event.clientX - left)) / width)));
  }

  choose(seconds) {
    const past = seconds < -0.05;
    this.slider.value = seconds;
    this.back.hidden = !past;
    this.look(past ? this.end + 1000 * seconds : null);
  }

  /** `chosen`: the moment looked at, or null for now. */
  show(minute, chosen) {
    const context = this.sheet.clear();
    const { width, height } = this.sheet;
    const { readings } = minute;
    const end = readings.at(-1)?.t ?? 0;
    this.end = end;
    const x = (t) => width * (1 - (end - t) / SPAN);
    const settled = minute.final?.t ?? -Infinity;
    context.fillStyle = palette().well;
    context.beginPath();
    context.roundRect(0, LANE, width, height - LANE, 8);
    context.fill();
    context.save();
    context.clip();
    for (const run of runs(readings)) this.band(context, run, x, height, settled);
    context.restore();
    if (settled > end - SPAN && settled < end) {
      context.setLineDash([2, 4]);
      this.line(context, x(settled), height, palette().quiet, 1, LANE);
      context.setLineDash([]);
    }
    this.names(context, readings, x, width < NARROW ? FACE_NARROW : FACE);
    if (chosen !== null) this.line(context, x(chosen), height, palette().ink, 2);
    const text = this.describe(minute, chosen);
    if (this.slider.getAttribute("aria-valuetext") !== text) this.slider.setAttribute("aria-valuetext", text);
  }

  band(context, run, x, height, settled) {
    const colours = palette();
    const edges = [];
    let low = run.map(() => height);
    for (let k = 0; k < EMOTIONS.length; k++) {
      const high = run.map((one, i) => low[i] - one.p[k] * (height - LANE));
      edges.push([low, high]);
      low = high;
    }
    const cut = run.findIndex((one) => one.t > settled);
    const parts = cut < 0 ? [[0, run.length, SETTLED]] : [[0, cut + 1, SETTLED], [Math.max(0, cut), run.length, PROVISIONAL]];
    edges.forEach(([bottom, top], k) => {
      context.fillStyle = colours[EMOTIONS[k]];
      for (const [from, to, alpha] of parts) {
        if (to - from < 2) continue;
        context.globalAlpha = alpha;
        context.beginPath();
        for (let i = from; i < to; i++) context.lineTo(x(run[i].t), bottom[i]);
        for (let i = to - 1; i >= from; i--) context.lineTo(x(run[i].t), top[i]);
        context.fill();
      }
    });
    context.globalAlpha = 1;
  }

  line(context, at, height, colour, width = 1, from = 0) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    context.moveTo(at, from);
    context.lineTo(at, height);
    context.stroke();
  }

  /** Face and name of whoever leads for a while, above the band: nobody needs the colours. */
  names(context, readings, x, size) {
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    context.textAlign = "left";
    for (const { top, from, to } of leads(readings)) {
      const name = EMOTIONS[top];
      const room = x(to) - x(from);
      context.fillStyle = palette()[name];
      context.fillRect(x(from), LANE - 4, Math.max(1, room - 1), 3);
      if (room < size) continue;
      const written = context.measureText(name).width;
      const wide = room >= size + 6 + written;
      const left = wide ? (x(from) + x(to) - size - 4 - written) / 2 : (x(from) + x(to) - size) / 2;
      stampFace(context, name, left + size / 2, FACE / 2 + 1, size);
      context.fillStyle = palette().ink;
      if (wide) context.fillText(name, left + size + 4, FACE / 2 + 1.5);
    }
  }

  describe(minute, chosen) {
    if (chosen === null) return "now";
    const one = minute.at(chosen);
    const ago = ((this.end - chosen) / 1000).toFixed(1);
    return one && one.top >= 0 ? `${ago} seconds ago: ${EMOTIONS[one.top]}, ${Math.round(100 * one.p[one.top])} percent` : `${ago} seconds ago: nothing usable`;
  }
}

/** Readings in unbroken runs in which something was known. */
function runs(readings) {
  const found = [];
  let run = [];
  for (const one of readings) {
    const last = run.at(-1);
    if (one.top < 0 || (last && one.t - last.t > BREAK)) {
      if (run.length > 1) found.push(run);
      run = [];
    }
    if (one.top >= 0) run.push(one);
  }
  if (run.length > 1) found.push(run);
  return found;
}

/** Stretches in which one emotion leads; leads shorter than half a second count for the one before. */
function leads(readings) {
  const found = [];
  for (const one of readings) {
    const last = found.at(-1);
    if (one.top < 0) continue;
    if (last && last.top === one.top && one.t - last.to <= BREAK) last.to = one.t;
    else found.push({ top: one.top, from: one.t, to: one.t });
  }
  const kept = [];
  for (const lead of found) {
    const last = kept.at(-1);
    if (last && (last.top === lead.top || lead.to - lead.from < 500) && lead.from - last.to <= 1000) last.to = lead.to;
    else kept.push({ ...lead });
  }
  return kept;
}
