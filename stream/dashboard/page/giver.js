// This browser's camera and microphone, given to the session: pictures as JPEG, sound as 16 kHz PCM, each with the time it was taken.

const WIDTH = 640;
const QUALITY = 0.82;
const EVERY = 30; // ms between pictures at least
const FULL = 300_000; // bytes on their way: newer pictures wait
const AGAIN = [300, 700, 1500, 3000];
const PICTURE = 1;
const SOUND = 2;
const VIDEO = { width: { ideal: WIDTH }, height: { ideal: 480 }, frameRate: { ideal: 30 }, facingMode: "user" };
const AUDIO = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };
const STUCK = 3000; // ms without a picture of a camera that is on
const WHY = {
  NotAllowedError: "The browser was told not to give it. Allow it in the address bar, then try again.",
  NotFoundError: "There is none on this device.",
  NotReadableError: "Another program holds it.",
  OverconstrainedError: "It cannot do what is asked.",
};

export class Giver {
  /** `on`: {changed()}: something to show; `on.picture(stream or null)`. */
  constructor(on) {
    this.on = on;
    this.wanted = { camera: false, microphone: false };
    this.off = { camera: false, microphone: false }; // paused by an order
    this.tracks = { camera: null, microphone: null };
    this.trouble = { camera: "", microphone: "" };
    this.reasons = { camera: "", microphone: "" }; // why one that is wanted is not given, as the server knows it
    this.connected = false;
    this.aligned = false; // a probe of this connection was answered, so that stamps mean something there
    this.arrives = null; // what the server says of it
    this.sent = 0;
    this.times = [];
    this.attempt = 0;
    this.wish = 0;
    this.acquiring = false;
    this.pictureAt = 0;
    document.addEventListener("visibilitychange", () => this.seen());
    navigator.mediaDevices?.addEventListener("devicechange", () => this.plugged());
    setInterval(() => this.giving && this.tend(), 2000);
  }

  get giving() {
    return this.wanted.camera || this.wanted.microphone;
  }

  get possible() {
    return Boolean(navigator.mediaDevices?.getUserMedia);
  }

  /** Pictures a second of the last two. */
  get rate() {
    const now = performance.now();
    this.times = this.times.filter((time) => now - time < 2000);
    return this.times.length / 2;
  }

  async give(camera, microphone) {
    this.wanted = { camera, microphone };
    this.trouble = { camera: "", microphone: "" };
    this.reasons = { camera: "", microphone: "" };
    this.connect();
    await this.acquire();
    sessionStorage.setItem("giving", JSON.stringify(this.wanted));
  }

  stop() {
    this.wanted = { camera: false, microphone: false };
    sessionStorage.removeItem("giving");
    this.release("camera");
    this.release("microphone");
    this.say({ type: "offer", camera: false, microphone: false });
    const socket = this.socket;
    this.socket = null;
    socket?.close();
    this.on.changed();
  }

  /** An order of the session: the lamp goes out while it is off. */
  hush(camera, microphone) {
    if (!this.giving || (camera === this.off.camera && microphone === this.off.microphone)) return;
    this.off = { camera, microphone };
    if (camera) this.release("camera");
    if (microphone) this.release("microphone");
    this.acquire();
  }

  /** Gets what is wanted and not here yet; one request at a time, and again if the wish changed meanwhile. */
  async acquire() {
    this.wish += 1;
    if (this.acquiring) return;
    this.acquiring = true;
    for (let wish = 0; wish !== this.wish;) {
      wish = this.wish;
      const ask = {};
      if (this.lacks("camera")) ask.video = VIDEO;
      if (this.lacks("microphone")) ask.audio = AUDIO;
      if (!ask.video && !ask.audio) continue;
      try {
        await this.get(ask);
      } catch (error) {
        // Where both fail, one alone may be had.
        const each = ask.video && ask.audio && error.name !== "NotAllowedError" ? [{ video: VIDEO }, { audio: AUDIO }] : [];
        if (!each.length) this.failed(ask, error);
        for (const one of each) await this.get(one).catch((again) => this.failed(one, again));
      }
    }
    this.acquiring = false;
    this.on.changed();
  }

  lacks(what) {
    return this.wanted[what] && !this.off[what] && !this.tracks[what];
  }

  async get(ask) {
    const stream = await navigator.mediaDevices.getUserMedia(ask);
    for (const track of stream.getTracks()) {
      const what = track.kind === "video" ? "camera" : "microphone";
      if (!this.lacks(what)) {
        track.stop();
        continue;
      }
      this.tracks[what] = track;
      this.trouble[what] = this.reasons[what] = "";
      track.addEventListener("ended", () => this.lost(what, track));
      if (what === "camera") this.watch(track);
      else await this.listen(track);
    }
    this.offer();
  }

  failed(ask, error) {
    for (const what of [ask.video && "camera", ask.audio && "microphone"].filter(Boolean)) {
      this.trouble[what] = `${what}: ${WHY[error.name] ?? error.message}`;
      this.away(what, "refused");
    }
  }

  /** The device is gone: unplugged, or taken back in the browser's own menu. */
  lost(what, track) {
    if (this.tracks[what] !== track) return;
    this.release(what);
    this.trouble[what] = `The ${what} was unplugged, or its permission taken back. It goes on when it is there again.`;
    this.away(what, "unplugged");
    this.on.changed();
  }

  plugged() {
    if (this.giving) this.acquire();
  }

  seen() {
    if (!this.wanted.camera) return;
    if (document.hidden) this.say({ type: "away", what: "camera", reason: "hidden" });
    this.on.changed();
  }

  release(what) {
    const track = this.tracks[what];
    this.tracks[what] = null;
    track?.stop();
    if (what === "camera") this.on.picture(null);
    else if (this.context) {
      this.context.close();
      this.context = null;
    }
  }

  // --- the connection

  connect() {
    clearTimeout(this.timer);
    const socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/source`);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.attempt = 0;
      this.connected = true;
      this.aligned = false;
      for (let k = 0; k < 6; k++) setTimeout(() => this.probe(), 30 * k);
      this.offer();
      this.on.changed();
    };
    socket.onmessage = ({ data }) => this.hear(JSON.parse(data));
    socket.onclose = () => {
      this.connected = false;
      if (socket !== this.socket || !this.giving) return;
      this.on.changed();
      this.timer = setTimeout(() => this.connect(), AGAIN[Math.min(this.attempt++, AGAIN.length - 1)]);
    };
  }

  hear(message) {
    if (message.type === "probe") {
      this.say({ type: "probed", sent: message.sent, received: performance.now() });
      this.aligned = true;
    } else if (message.type === "arrives") {
      this.arrives = message;
      this.on.changed();
    } else if (message.type === "taken") {
      this.wanted[message.what] = false;
      this.release(message.what);
      this.trouble[message.what] = `Another page gives its ${message.what} now.`;
      this.on.changed();
    }
  }

  tend() {
    this.probe();
    const track = this.tracks.camera;
    if (track && !document.hidden && performance.now() - this.pictureAt > STUCK) this.watch(track);
    if (!this.acquiring && ["camera", "microphone"].some((what) => this.lacks(what) && !this.trouble[what])) this.acquire();
  }

  probe() {
    this.say({ type: "probe", sent: performance.now() });
  }

  offer() {
    this.say({ type: "offer", camera: this.wanted.camera, microphone: this.wanted.microphone, rate: this.context?.sampleRate ?? 16_000 });
    for (const what of ["camera", "microphone"]) if (this.wanted[what] && this.reasons[what]) this.away(what, this.reasons[what]);
  }

  away(what, reason) {
    this.reasons[what] = reason;
    this.say({ type: "away", what, reason });
  }

  say(message) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  send(kind, number, stamp, sample, payload) {
    if (this.socket?.readyState !== WebSocket.OPEN || !this.aligned) return;
    const message = new Uint8Array(24 + payload.byteLength);
    const head = new DataView(message.buffer);
    head.setUint8(0, kind);
    head.setUint32(4, number >>> 0, true);
    head.setFloat64(8, stamp, true);
    head.setFloat64(16, sample, true);
    message.set(new Uint8Array(payload), 24);
    this.socket.send(message);
  }

  // --- pictures

  watch(track) {
    const stream = new MediaStream([track]);
    this.on.picture(stream);
    const watching = (this.watching = {});
    const mine = () => this.tracks.camera === track && this.watching === watching;
    this.pictureAt = performance.now();
    const video = document.getElementById("video");
    video.play().catch(() => {});
    const canvas = new OffscreenCanvas(WIDTH, 480);
    const context = canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    let busy = false;
    let last = -Infinity;
    const take = async (taken) => {
      if (busy || taken - last < EVERY || this.socket?.bufferedAmount > FULL || document.hidden) return;
      busy = true;
      last = taken;
      try {
        const scale = Math.min(1, WIDTH / video.videoWidth);
        const [width, height] = [Math.round(video.videoWidth * scale), Math.round(video.videoHeight * scale)];
        if (!width || !height) return;
        if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
        context.drawImage(video, 0, 0, width, height);
        const jpeg = await (await canvas.convertToBlob({ type: "image/jpeg", quality: QUALITY })).arrayBuffer();
        if (!mine() || document.hidden) return; // a picture after word that there is none would say otherwise
        this.send(PICTURE, this.sent++, taken, 0, jpeg);
        this.pictureAt = performance.now();
        this.times.push(this.pictureAt);
      } finally {
        busy = false;
      }
    };
    if (video.requestVideoFrameCallback) {
      const next = (now, about) => {
        if (!mine()) return;
        take(about.captureTime ?? now);
        video.requestVideoFrameCallback(next);
      };
      video.requestVideoFrameCallback(next);
    } else {
      const timer = setInterval(() => (mine() ? take(performance.now()) : clearInterval(timer)), 33);
    }
  }

  // --- sound

  async listen(track) {
    const stream = new MediaStream([track]);
    let context;
    let source;
    try {
      context = new AudioContext({ sampleRate: 16_000, latencyHint: "interactive" });
      source = context.createMediaStreamSource(stream);
    } catch {
      context = new AudioContext(); // some browsers join no two rates: the worker resamples
      source = context.createMediaStreamSource(stream);
    }
    this.context = context;
    await context.audioWorklet.addModule("pcm.js");
    const pcm = new AudioWorkletNode(context, "pcm", { numberOfInputs: 1, numberOfOutputs: 0, channelCount: 1, channelCountMode: "explicit" });
    source.connect(pcm);
    const delay = 1000 * (track.getSettings().latency ?? 0);
    pcm.port.onmessage = ({ data: { first, pcm: samples } }) => {
      if (this.tracks.microphone !== track) return;
      const stamp = performance.now() - (1000 * samples.length) / context.sampleRate - delay;
      this.send(SOUND, 0, stamp, first, samples.buffer);
    };
    if (context.state === "suspended") await context.resume().catch(() => {});
  }
}
