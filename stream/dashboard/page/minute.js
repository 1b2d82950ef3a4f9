// The last minute of readings: a final takes the place of its provisional. Nothing is kept longer, and nothing leaves the page.

export const SPAN = 60_000;

/** One reading, from the server's row. Times are session ms. */
function reading([t, final, top, valence, arousal, p, weights, present, changed]) {
  return { t, final: Boolean(final), top, valence, arousal, p, weights, present, changed: Boolean(changed) };
}

export class Minute {
  constructor() {
    this.clear();
  }

  clear() {
    this.readings = []; // ascending in t
    this.now = null; // the newest provisional, or final where there are no others
    this.final = null; // the newest final
    this.words = []; // {text, begin, end}
    this.tentative = [];
  }

  add(rows) {
    for (const row of rows) {
      const one = reading(row);
      const at = this.find(one.t);
      const known = this.readings[at];
      if (known?.t === one.t) {
        if (one.final || !known.final) this.readings[at] = { ...one, first: known.first ?? known };
      } else {
        this.readings.splice(known && known.t < one.t ? at + 1 : at, 0, one);
      }
      if (one.final) this.final = !this.final || one.t >= this.final.t ? one : this.final;
      else this.now = one;
    }
    if (!this.now || (this.final && this.final.t > this.now.t)) this.now = this.final ?? this.now;
    const newest = this.readings.at(-1)?.t ?? 0;
    const old = this.readings.findIndex((one) => one.t >= newest - SPAN);
    if (old > 0) this.readings.splice(0, old);
  }

  hear(words, tentative) {
    this.words.push(...words.map(([text, begin, end]) => ({ text, begin, end })));
    if (this.words.length > 120) this.words.splice(0, this.words.length - 80);
    this.tentative = tentative;
  }

  /** Index of the reading at or after `t`; the last one where all are earlier. */
  find(t) {
    let low = 0;
    let high = this.readings.length - 1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.readings[middle].t < t) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low);
  }

  /** The reading nearest to `t`, or undefined when none lies within a second. */
  at(t) {
    const k = this.find(t);
    const near = [this.readings[k - 1], this.readings[k]].filter(Boolean).sort((a, b) => Math.abs(a.t - t) - Math.abs(b.t - t))[0];
    return near && Math.abs(near.t - t) < 1000 ? near : undefined;
  }

  /** A copy that stands still, to look back in. */
  frozen() {
    const copy = new Minute();
    Object.assign(copy, this, { readings: [...this.readings], words: [...this.words], tentative: [] });
    return copy;
  }
}
