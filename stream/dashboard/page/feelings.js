// The reading now: one face, one word, seven bars. Bars are eased, numbers change four times a second, the word only when it is sure.
// Easing is done here at each reading, not by CSS: transitions that never end have a browser draw 60 times a second, for three times the work.

import { EMOTIONS, blend, drawFace, faceOf, palette } from "./emotions.js";

const NUMBERS_EVERY = 250;
const EASE = 230; // ms in which two thirds of a change are shown, however seldom readings come

export class Feelings {
  constructor() {
    this.glyph = document.getElementById("glyph");
    this.standing = document.getElementById("standing");
    this.about = document.getElementById("about");
    this.shown = faceOf("neutral");
    this.shares = EMOTIONS.map(() => 0);
    this.numbersAt = 0;
    this.drawnAt = 0;
    this.rows = EMOTIONS.map((name) => {
      const row = document.createElement("li");
      row.dataset.emotion = name;
      const face = document.createElementNS("http://www.w3.org/2000/svg", "svg");
      face.setAttribute("viewBox", "0 0 100 100");
      face.setAttribute("class", "glyph");
      face.setAttribute("aria-hidden", "true");
      const [label, track, bar, tick, number] = ["span", "span", "span", "span", "span"].map((tag) => document.createElement(tag));
      label.className = "label";
      label.textContent = name;
      track.className = "track";
      track.setAttribute("aria-hidden", "true");
      bar.className = "bar";
      tick.className = "tick";
      number.className = "number";
      track.append(bar, tick);
      row.append(face, label, track, number);
      document.getElementById("feelings").append(row);
      return { row, face, bar, tick, number };
    });
  }

  paint() {
    const colours = palette();
    this.rows.forEach(({ face }, k) => drawFace(face, faceOf(EMOTIONS[k]), colours[EMOTIONS[k]]));
  }

  /** `now` and `final`: readings or null; `standing`: the emotion that stands, or null; `past`: looking back. */
  show(now, final, standing, past) {
    const known = now && now.top >= 0;
    const target = known ? blend(now.p) : faceOf("neutral");
    const time = performance.now();
    const gain = 1 - Math.exp((this.drawnAt - time) / EASE);
    this.drawnAt = time;
    const eased = (values, targets) => (past ? targets : values.map((value, k) => value + gain * (targets[k] - value)));
    this.shown = eased(this.shown, target);
    this.shares = eased(this.shares, EMOTIONS.map((_, k) => (known ? now.p[k] : 0)));
    const top = known ? EMOTIONS[now.top] : null;
    const name = past ? top : standing;
    drawFace(this.glyph, this.shown, palette()[name ?? "quiet"]);
    this.glyph.classList.toggle("unknown", !known);
    const numbers = past || time - this.numbersAt > NUMBERS_EVERY;
    if (numbers) this.numbersAt = time;
    this.rows.forEach(({ row, bar, tick, number }, k) => {
      const share = known ? now.p[k] : 0;
      bar.style.transform = `scaleX(${this.shares[k].toFixed(3)})`;
      const settled = final && final.top >= 0 && !past && final.p[k] >= 0.005;
      tick.style.transform = `translateX(${settled ? (100 * final.p[k]).toFixed(1) : 0}%)`;
      tick.hidden = !settled;
      row.classList.toggle("top", EMOTIONS[k] === name);
      if (numbers) number.textContent = known ? `${Math.round(100 * share)} %` : "–";
    });
    if (numbers) this.say(now, known, top, name, past);
  }

  say(now, known, top, name, past) {
    const word = name ?? (known ? "unclear" : now ? "nobody to read" : "waiting");
    if (this.standing.textContent !== word) {
      this.standing.textContent = word;
      this.glyph.setAttribute("aria-label", name ? `a ${name} face` : word);
    }
    let about = "for a first reading";
    if (past) about = known ? `${Math.round(100 * now.p[now.top])} %, ${now.final ? "settled" : "provisional"}` : "nothing usable then";
    else if (name && !known) about = "nothing to go by just now";
    else if (name) about = name === top ? sureness(now.p[now.top]) : `turning ${top}`;
    else if (known) about = `leaning to ${top}`;
    else if (now) about = "no face, no voice, no words";
    if (this.about.textContent !== about) this.about.textContent = about;
  }
}

function sureness(p) {
  if (p >= 0.8) return "quite sure";
  return p >= 0.6 ? "fairly sure" : "not very sure";
}
