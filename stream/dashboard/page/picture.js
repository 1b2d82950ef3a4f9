// The picture and the face in it: the browser's own camera, or the preview that the camera's machine hands to a page it trusts.

import { palette } from "./emotions.js";

const OLD = 1500; // ms after which a preview is taken away

export class Picture {
  /** `changed()`: there is something to show. */
  constructor(changed) {
    this.changed = changed;
    [this.frame, this.video, this.preview, this.outline, this.empty, this.caption] =
      ["frame", "video", "preview", "outline", "empty", "caption"].map((id) => document.getElementById(id));
    this.own = false;
    this.box = null;
    this.shownAt = 0;
    this.busy = false; // from a preview's coming until it is drawn
    this.waiting = null; // {bitmap, box}
  }

  /** The browser's own camera, or null when it stops. */
  use(stream) {
    this.own = Boolean(stream);
    this.video.srcObject = stream;
    this.video.hidden = !this.own;
    if (this.own) this.preview.hidden = true;
    this.outline.hidden = true;
    this.frame.classList.toggle("mirror", this.own);
  }

  /** A preview: `about` {t, box}, bytes. One that comes before the last is drawn is left out. */
  async see(about, jpeg) {
    if (this.own || this.busy || document.hidden) return;
    this.busy = true;
    try {
      this.waiting = { bitmap: await createImageBitmap(new Blob([jpeg], { type: "image/jpeg" })), box: about.box };
      this.changed();
    } catch {
      this.busy = false; // a picture that cannot be decoded is no loss: the next one comes at once
    }
  }

  /** Where the face is, from the readings: needed for the browser's own picture only. */
  follow(face) {
    if (!this.own) return;
    this.box = face?.box ?? null;
    this.changed();
  }

  /** Draws what has come. */
  show() {
    if (this.own) {
      if (this.video.videoWidth) this.frame.style.aspectRatio = `${this.video.videoWidth} / ${this.video.videoHeight}`;
      this.mark(this.box);
    }
    if (!this.waiting) return;
    const { bitmap, box } = this.waiting;
    [this.waiting, this.busy] = [null, false];
    if (!this.own) {
      const { width, height } = bitmap;
      if (this.preview.width !== width || this.preview.height !== height) [this.preview.width, this.preview.height] = [width, height];
      this.frame.style.aspectRatio = `${width} / ${height}`;
      this.preview.getContext("2d").drawImage(bitmap, 0, 0);
      this.preview.hidden = false;
      this.shownAt = performance.now();
      this.mark(box);
    }
    bitmap.close();
  }

  mark(box) {
    this.outline.hidden = !box;
    if (!box) return;
    const [left, y0, right, y1] = box;
    const [x0, x1] = this.own ? [1 - right, 1 - left] : [left, right]; // one's own picture is a mirror
    const grow = 0.04;
    Object.assign(this.outline.style, {
      left: `${100 * (x0 - grow)}%`, top: `${100 * (y0 - 2 * grow)}%`, width: `${100 * (x1 - x0 + 2 * grow)}%`, height: `${100 * (y1 - y0 + 3 * grow)}%`,
    });
  }

  tint(emotion) {
    this.outline.style.borderColor = palette()[emotion] ?? palette().quiet;
  }

  /** Says what is seen, and why not. */
  tell(source, missing) {
    if (!this.own && performance.now() - this.shownAt > OLD) {
      this.preview.hidden = true;
      this.outline.hidden = true;
    }
    const seen = this.own || !this.preview.hidden;
    this.empty.hidden = seen;
    const about = this.own ? "this browser’s camera" : source === "browser" ? "a browser’s camera, once one is given" : source ? source.replace(/^file:(.*[\\/])?/, "file ") : "no camera in this session";
    const text = missing ? `${about}: ${missing}` : about;
    if (this.caption.textContent !== text) this.caption.textContent = text;
  }
}
