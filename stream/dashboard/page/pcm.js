// Runs beside the sound: cuts it into blocks of 20 ms, int16, each with the number of its first sample.

class Pcm extends AudioWorkletProcessor {
  constructor() {
    super();
    this.block = new Int16Array(Math.round(sampleRate / 50));
    this.filled = 0;
    this.first = 0;
  }

  process([input]) {
    const samples = input?.[0];
    if (!samples) {
      this.filled = 0; // nothing comes: what follows is no continuation
      return true;
    }
    if (!this.filled) this.first = currentFrame;
    for (let i = 0; i < samples.length; i++) {
      this.block[this.filled++] = Math.max(-1, Math.min(1, samples[i])) * 32767;
      if (this.filled === this.block.length) {
        this.port.postMessage({ first: this.first, pcm: this.block.slice() });
        this.filled = 0;
        this.first = currentFrame + i + 1;
      }
    }
    return true;
  }
}

registerProcessor("pcm", Pcm);
