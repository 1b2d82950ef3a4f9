// When the page draws: all that has changed together, ten times a second, and more seldom where drawing takes long, so that a page takes
// a small part of a machine which also reads. And the sheets it draws on.

const OFTEN = 95; // ms from one drawing to the next
const SELDOM = 250;
const SHARE = 0.03; // of the page's time that drawing may take

export class Drawing {
  /** `draw()` shows everything as it stands. */
  constructor(draw) {
    this.draw = draw;
    this.begun = 0;
    this.cost = 0; // ms of a drawing, style, layout and painting included
    this.asked = 0;
    this.after = new MessageChannel();
    this.after.port1.onmessage = () => {
      this.cost += 0.2 * (performance.now() - this.begun - this.cost);
    };
    document.addEventListener("visibilitychange", () => this.soon());
  }

  /** Something has changed. */
  soon() {
    if (this.asked || document.hidden) return;
    const pause = Math.min(SELDOM, Math.max(OFTEN, this.cost / SHARE));
    this.asked = setTimeout(() => requestAnimationFrame(() => this.now()), pause - (performance.now() - this.begun));
  }

  now() {
    clearTimeout(this.asked);
    this.asked = 0;
    this.begun = performance.now();
    this.draw();
    this.after.port2.postMessage(null); // comes when the browser has done its part
  }
}

/** A canvas that fills its box at the screen's density. */
export class Sheet {
  constructor(id, resized) {
    this.canvas = document.getElementById(id);
    this.width = this.height = 0;
    // Asking for the box at every drawing would have the browser lay out the page twice.
    new ResizeObserver(([{ contentRect }]) => {
      [this.width, this.height] = [contentRect.width, contentRect.height];
      resized();
    }).observe(this.canvas);
  }

  /** Its context, empty, in CSS pixels. */
  clear() {
    const density = Math.min(2, devicePixelRatio || 1);
    const [w, h] = [Math.round(this.width * density), Math.round(this.height * density)];
    if (this.canvas.width !== w || this.canvas.height !== h) [this.canvas.width, this.canvas.height] = [w, h];
    const context = this.canvas.getContext("2d");
    context.setTransform(density, 0, 0, density, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    return context;
  }
}
