// When the page draws: all that has changed together, at a reading's coming, and not at every one where drawing takes long: a page takes a
// small part of a machine which also reads, and its drawing falls into the pause after a reading. And the sheets it draws on.

const OFTEN = 80; // ms from one drawing to the next at least: readings come every 100, or as --hop-ms says
const SELDOM = 250;
const SHARE = 0.03; // of the page's time that drawing may take
const ALONE = 150; // ms after which what no reading follows is drawn by itself

export class Drawing {
  /** `draw()` shows everything as it stands. */
  constructor(draw) {
    this.draw = draw;
    this.begun = 0;
    this.cost = 0; // ms of a drawing, style, layout and painting included
    this.frame = this.timer = 0;
    this.after = new MessageChannel();
    this.after.port1.onmessage = () => {
      this.cost += 0.2 * (performance.now() - this.begun - this.cost);
    };
    document.addEventListener("visibilitychange", () => this.later());
  }

  /** ms until the page may draw again. */
  get pause() {
    return this.begun + Math.min(SELDOM, Math.max(OFTEN, this.cost / SHARE)) - performance.now();
  }

  /** A reading has come. */
  soon() {
    if (this.pause > 0) this.later();
    else if (!document.hidden) this.ask();
  }

  /** Something has changed that can wait for the next reading. */
  later() {
    if (!document.hidden) this.timer ||= setTimeout(() => this.ask(), Math.max(0, this.pause) + ALONE);
  }

  ask() {
    this.frame ||= requestAnimationFrame(() => this.now());
  }

  now() {
    clearTimeout(this.timer);
    cancelAnimationFrame(this.frame);
    this.frame = this.timer = 0;
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
