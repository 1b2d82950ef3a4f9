// The socket that tells the page what is read: it comes back by itself, and keeps the session's clock by probes.

const AGAIN = [300, 700, 1500, 3000];
const PROBE_EVERY = 2000;

export class Live {
  /** `on`: {told(message), picture(about, jpeg), lost(), back()}. */
  constructor(on) {
    this.on = on;
    this.attempt = 0;
    this.probes = []; // {offset, half}: session minus page clock, half the round trip (ms)
    this.open();
    setInterval(() => this.probe(), PROBE_EVERY);
    addEventListener("online", () => this.socket.readyState > 1 && this.open());
  }

  open() {
    clearTimeout(this.timer);
    const socket = new WebSocket(`${location.protocol.replace("http", "ws")}//${location.host}/live`);
    this.socket = socket;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      this.attempt = 0;
      this.probes = [];
      for (let k = 0; k < 4; k++) setTimeout(() => this.probe(), 60 * k);
      this.on.back();
    };
    socket.onmessage = ({ data }) => (typeof data === "string" ? this.take(JSON.parse(data)) : this.see(data));
    socket.onclose = () => {
      if (socket !== this.socket) return;
      this.on.lost();
      this.timer = setTimeout(() => this.open(), AGAIN[Math.min(this.attempt++, AGAIN.length - 1)]);
    };
  }

  take(message) {
    if (message.probe === undefined) {
      this.on.told(message);
    } else if (message.now !== null) {
      const received = performance.now();
      this.probes.push({ offset: message.now - (message.probe + received) / 2, half: (received - message.probe) / 2 });
      if (this.probes.length > 20) this.probes.shift();
    }
  }

  see(data) {
    const size = new DataView(data).getUint32(0, true);
    const about = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, size)));
    this.on.picture(about, new Uint8Array(data, 4 + size));
  }

  send(message) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  probe() {
    this.send({ type: "probe", sent: performance.now() });
  }

  order(action, target) {
    this.send({ type: "order", action, target });
  }

  /** Session time (ms) and how far it may be off; null before the first answer. The quickest round trip is the truest. */
  clock() {
    if (!this.probes.length) return null;
    const best = this.probes.reduce((a, b) => (b.half < a.half ? b : a));
    return { now: performance.now() + best.offset, uncertainty: best.half };
  }
}
