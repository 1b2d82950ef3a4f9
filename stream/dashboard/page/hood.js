// What it goes by, and how: modalities and what is missing, streams, latency by stage, engine.

import { MODALITIES } from "./emotions.js";

const STREAM_OF = { text: "words", voice: "voice", face: "face" };
const WORKER_OF = { face: "camera", voice: "microphone", words: "transcriber", affect: "fusion" };
const TITLES = { face: "Face", voice: "Voice", text: "Words" };
const ICONS = {
  face: "M12 3a9 9 0 1 0 0 18 9 9 0 0 0 0-18M9 10v.01M15 10v.01M8.5 14.5q3.5 3 7 0",
  voice: "M4 10v4M8 7v10M12 4v16M16 7v10M20 10v4",
  text: "M5 6h14M5 11h14M5 16h8",
};
const KEPT = 30; // newest readings whose stages are shown: three seconds of ten a second

export class Hood {
  constructor() {
    this.rows = {};
    for (const name of [...MODALITIES].reverse()) this.rows[name] = this.row(name);
    this.stages = [];
    this.slow = {};
    this.hood = document.getElementById("hood");
    this.hood.open = localStorage.getItem("hood") === "open" || (localStorage.getItem("hood") === null && innerWidth >= 1500);
    this.hood.addEventListener("toggle", () => localStorage.setItem("hood", this.hood.open ? "open" : "closed"));
  }

  row(name) {
    const row = document.createElement("li");
    const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    icon.setAttribute("viewBox", "0 0 24 24");
    icon.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", ICONS[name]);
    icon.append(path);
    const [label, track, bar, number, state] = ["span", "span", "span", "span", "span"].map((tag) => document.createElement(tag));
    label.className = "label";
    label.textContent = TITLES[name];
    track.className = "track";
    bar.className = "bar";
    number.className = "number";
    state.className = "why";
    track.append(bar);
    row.append(icon, label, track, number, state);
    document.getElementById("modalities").append(row);
    return { row, bar, number, state };
  }

  /** What changes slowly, told twice a second. */
  take(slow) {
    this.slow = slow;
  }

  forget() {
    this.stages = [];
  }

  /** When the newest samples passed each stage; `seen`: session time (ms) at which the page has it. */
  time(stages, seen) {
    this.stages.push({ ...stages, seen });
    if (this.stages.length > KEPT) this.stages.shift();
  }

  weights(now) {
    MODALITIES.forEach((name, k) => {
      const { row, bar, number, state } = this.rows[name];
      const present = now ? Boolean(now.present & (1 << k)) : false;
      const weight = present ? now.weights[k] : 0;
      bar.style.transform = `scaleX(${weight.toFixed(3)})`;
      put(number, present ? `${Math.round(100 * weight)} %` : "");
      put(state, present ? "" : this.missing(name));
      row.classList.toggle("missing", !present);
    });
  }

  missing(name) {
    const stream = STREAM_OF[name];
    const { streams = {}, workers = {} } = this.slow;
    const flow = streams[stream];
    const worker = workers[WORKER_OF[stream]];
    if (!flow) return "waiting";
    if (!flow.declared) return "not part of this session";
    if (worker?.state === "paused" || (name === "text" && workers.microphone?.state === "paused")) return "paused";
    if (worker?.state === "failed" || worker?.state === "reconnecting") return worker.text || worker.state;
    if (flow.gap) return flow.gap;
    return { face: "no face in sight", voice: "nobody speaks", text: "no words lately" }[name];
  }

  show(clock) {
    const { streams, workers, sources = {}, session, latency, counts, engine } = this.slow;
    if (!streams) return;
    const face = latency.face.p50 ?? latency.voice.p50;
    put(document.getElementById("hood-line"), engine ? `${engine.model} · ${engine.backend}${face === null ? "" : ` · ${Math.round(face)} ms from the world to the reading`}` : "");
    put(document.getElementById("facts"), session ? facts(session, latency) : "");
    if (!this.hood.open) return;
    const body = document.getElementById("streams");
    const lines = Object.keys(streams).filter((name) => streams[name].declared).map((name) => {
      const flow = streams[name];
      const worker = workers[WORKER_OF[name]] ?? { state: "absent", text: "" };
      const rate = name === "words" ? `${flow.spoken} heard` : flow.rate === null ? "–" : `${flow.rate.toFixed(1)} /s`;
      const uncertainty = name === "words" ? "–" : milliseconds(Math.max(flow.uncertainty, session?.clock_uncertainty ?? 0), 1);
      const lost = flow.skipped ? `${flow.lost} (${flow.skipped} skipped)` : String(flow.lost);
      return [name, sources[name] ?? WORKER_OF[name], [worker.state, worker.text].filter(Boolean).join(": "), rate, milliseconds(flow.age), lost, uncertainty];
    });
    fill(body, lines);
    this.waterfall(clock);
    define(document.getElementById("engine"), [
      ["model", engine?.model ?? "–"],
      ["backend", engine?.backend ?? "–"],
      ["features", engine ? Object.entries(engine.features).map(([name, hash]) => `${name} ${hash.slice(0, 8)}`).join(", ") : "–"],
      ["windows", session ? `${session.window / 1000} s, every ${session.hop} ms` : "–"],
      ["readings", `${counts.provisionals} provisional, ${counts.finals} final, ${counts.changed} changed by late words`],
      ["final after", latency.final.p50 === null ? "–" : `${milliseconds(latency.final.p50)} (p95 ${milliseconds(latency.final.p95)})`],
      ["this page's clock", clock ? `± ${clock.uncertainty.toFixed(1)} ms` : "–"],
      ["session", session ? `${session.name} at ${session.hub}` : "–"],
    ]);
  }

  /** Median length of each stage of the last seconds, as bars on one scale. */
  waterfall(clock) {
    const place = document.getElementById("stages");
    const rows = [];
    for (const name of ["face", "voice"]) {
      const parts = this.stages.filter((one) => one.streams[name]).map((one) => {
        const [end, grabbed, sent, received] = one.streams[name];
        const [, closed, started, computed, out] = one.window;
        const marks = [end, grabbed, sent, received, closed, started, computed, out, ...(one.seen === null ? [] : [one.seen])];
        return marks.slice(1).map((mark, k) => mark - marks[k]);
      });
      if (parts.length) rows.push([name, parts[0].map((_, k) => median(parts.map((part) => part[k] ?? NaN).filter((v) => !Number.isNaN(v))))]);
    }
    const longest = Math.max(60, ...rows.map(([, spans]) => total(spans)));
    const names = ["taken in", "understood", "carried", "window closes", "prepared", "computed", "said", "on this page"];
    const key = JSON.stringify(rows.map(([name, spans]) => [name, spans.map((v) => Math.round(v))]));
    if (key === this.drawn) return;
    this.drawn = key;
    place.replaceChildren(...rows.map(([name, spans]) => {
      const line = document.createElement("div");
      line.className = "stage-line";
      const label = document.createElement("span");
      label.textContent = name;
      const bar = document.createElement("span");
      bar.className = "stage-bar";
      spans.forEach((span, k) => {
        const part = document.createElement("span");
        part.style.width = `${(100 * Math.max(0, span)) / longest}%`;
        part.dataset.stage = k;
        bar.append(part);
      });
      bar.setAttribute("role", "img");
      bar.setAttribute("aria-label", spans.map((span, k) => `${names[k]} ${Math.round(span)} ms`).join(", "));
      const sum = document.createElement("span");
      sum.className = "n";
      sum.textContent = `${Math.round(total(spans))} ms`;
      line.append(label, bar, sum);
      return line;
    }), legend(names, rows[0]?.[1]));
    if (!clock) place.append(note("the page's clock is being aligned"));
  }
}

function facts(session, latency) {
  const parts = [`Each reading is made of the last ${session.window / 1000} seconds, ${Math.round(1000 / session.hop)} times a second.`];
  if (latency.window.p50 !== null) parts.push(`A first one is here ${milliseconds(latency.window.p50)} after its moment`);
  if (latency.final.p50 !== null) parts.push(`and settles after ${milliseconds(latency.final.p50)}, when the words are in.`);
  return parts.join(" ");
}

function legend(names, spans) {
  const list = document.createElement("ul");
  list.className = "legend";
  names.forEach((name, k) => {
    if (spans?.[k] === undefined) return;
    const item = document.createElement("li");
    item.dataset.stage = k;
    item.textContent = `${name} ${Math.round(Math.max(0, spans[k]))}`;
    list.append(item);
  });
  return list;
}

function note(text) {
  const made = document.createElement("p");
  made.className = "quiet";
  made.textContent = text;
  return made;
}

function total(spans) {
  return spans.reduce((a, b) => a + Math.max(0, b), 0);
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted.length ? sorted[sorted.length >> 1] : 0;
}

function milliseconds(value, digits = 0) {
  if (value === null || value === undefined) return "–";
  return Math.abs(value) < 1000 ? `${value.toFixed(digits)} ms` : `${(value / 1000).toFixed(1)} s`;
}

export function put(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

function fill(body, lines) {
  while (body.rows.length < lines.length) {
    const row = body.insertRow();
    const head = document.createElement("th");
    head.scope = "row";
    row.append(head);
    for (let k = 1; k < lines[0].length; k++) row.insertCell().className = k > 2 ? "n" : "";
  }
  while (body.rows.length > lines.length) body.deleteRow(-1);
  lines.forEach((line, r) => line.forEach((text, c) => put(body.rows[r].cells[c], text)));
}

function define(list, pairs) {
  if (list.children.length !== 2 * pairs.length) {
    list.replaceChildren(...pairs.flatMap(() => [document.createElement("dt"), document.createElement("dd")]));
  }
  pairs.forEach(([name, value], k) => {
    put(list.children[2 * k], name);
    put(list.children[2 * k + 1], value);
  });
}
