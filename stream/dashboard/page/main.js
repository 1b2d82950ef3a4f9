// The page: takes what the server tells, keeps the last minute, and draws it calmly.

import { Drawing } from "./drawing.js";
import { readPalette } from "./emotions.js";
import { Feelings } from "./feelings.js";
import { Giver } from "./giver.js";
import { Hood, put } from "./hood.js";
import { Live } from "./live.js";
import { Minute } from "./minute.js";
import { Picture } from "./picture.js";
import { Plane } from "./plane.js";
import { Timeline } from "./timeline.js";
import { Words } from "./words.js";

const $ = (id) => document.getElementById(id);

const drawing = new Drawing(draw);
const later = () => drawing.later();
const minute = new Minute();
const feelings = new Feelings();
const picture = new Picture(later);
const plane = new Plane(later);
const words = new Words();
const hood = new Hood();
const giver = new Giver({ changed: () => showGiving(), picture: (stream) => picture.use(stream) });

let past = null; // {minute, t} while looking back
let slow = {}; // what the server told last of streams, workers and session
let fresh = false; // it has not been shown yet
let standing = null;
let connected = false;
let trouble = "";

const timeline = new Timeline((t) => {
  if (t === null) past = null;
  else past = { minute: past?.minute ?? minute.frozen(), t };
  drawing.now();
}, later);

const live = new Live({
  told: (message) => {
    if (message.hello) begin(message);
    if (message.rows) minute.add(message.rows);
    if (message.words) minute.hear(message.words, message.tentative);
    if (message.stages) hood.time(message.stages, live.clock()?.now ?? null);
    if ("face" in message) picture.follow(message.face);
    if ("standing" in message) change(message.standing);
    if (message.streams) take(message);
    if (message.rows) drawing.soon();
    else if (message.words) later();
  },
  picture: (about, jpeg) => picture.see(about, jpeg),
  lost: () => {
    connected = false;
    showState();
  },
  back: () => {
    connected = true;
    showState();
  },
});

function begin(hello) {
  minute.clear();
  minute.add(hello.minute);
  hood.forget();
  past = null;
  timeline.choose(0);
  $("give").disabled = $("give-camera").disabled = $("give-microphone").disabled = !hello.ready || !giver.possible;
  giver.unready = hello.ready ? "" : hello.why;
}

function take(message) {
  slow = message;
  fresh = true;
  hood.take(message);
  const { camera, microphone } = message.workers ?? {};
  giver.hush(camera?.state === "paused", microphone?.state === "paused"); // at once: a hidden page draws nothing, and may still give
  later();
}

/** What stands has changed, by the same rule that apps are told by: said aloud once. */
function change(emotion) {
  if (emotion === standing) return;
  standing = emotion;
  if (!past) $("announce").textContent = emotion ?? "no clear expression";
}

function draw() {
  const shown = past?.minute ?? minute;
  const now = past ? shown.at(past.t) ?? null : minute.now;
  document.body.classList.toggle("past", Boolean(past));
  feelings.show(now, minute.final, standing, Boolean(past));
  put($("now-title"), past ? `${((timeline.end - past.t) / 1000).toFixed(1)} seconds ago` : "Right now");
  timeline.show(shown, past?.t ?? null);
  plane.show(shown, now);
  words.show(shown, past?.t ?? null);
  hood.weights(now);
  picture.show();
  picture.tint(standing);
  if (!fresh) return;
  fresh = false;
  showState();
  showControls();
  showGiving();
  hood.show(live.clock());
}

function showState() {
  const { session, workers = {} } = slow;
  let [state, text] = ["waiting", "waiting for a session"];
  if (!connected) [state, text] = ["lost", "connection lost, trying again"];
  else if (!session) [state, text] = ["waiting", "no session yet"];
  else if (!session.connected) [state, text] = ["lost", "the session is silent"];
  else if (session.ended) [state, text] = ["over", "over"];
  else if (!session.begun) [state, text] = ["waiting", "starting"];
  else if (off("camera") && off("microphone")) [state, text] = ["paused", "paused"];
  else if (Object.values(workers).some((worker) => worker.state === "failed")) [state, text] = ["lost", "part of it failed"];
  else [state, text] = ["live", session.speed && session.speed !== 1 ? `playing at ${session.speed}×` : "live"];
  $("state").dataset.state = state;
  put($("state-text"), text);
  notice();
}

/** What a person should know or do, in one line. */
function notice() {
  const { session, workers = {} } = slow;
  const failed = Object.entries(workers).find(([, worker]) => worker.state === "failed");
  let text = "";
  if (connected && slow.session && !session.connected) text = `Nothing is heard from ${session.hub}. This page goes on by itself when the program is back.`;
  else if (connected && slow.session === null) text = "No session runs yet. Start one with “affect run”; this page goes on by itself.";
  else if (failed) text = `The ${failed[0]} has failed${failed[1].text ? `: ${failed[1].text}` : ""}.`;
  else if (giver.unready && usesBrowser()) text = `This page cannot give a camera: ${giver.unready}`;
  $("notice").hidden = !text;
  put($("notice"), text);
}

function declared(stream) {
  return slow.streams?.[stream]?.declared ?? false;
}

/** A source that was asked not to look or listen, or is not there at all. */
function off(worker) {
  return !declared(worker === "camera" ? "face" : "voice") || slow.workers?.[worker]?.state === "paused";
}

function usesBrowser() {
  const { face, voice } = slow.sources ?? {};
  return { camera: face === "browser", microphone: voice === "browser", any: face === "browser" || voice === "browser" }.any;
}

function showControls() {
  for (const [id, stream] of [["camera", "face"], ["microphone", "voice"]]) {
    $(id).hidden = !declared(stream);
    $(id).setAttribute("aria-pressed", String(!off(id)));
    $(id).title = off(id) ? `${id} is off` : `${id} is on`;
  }
  const paused = off("camera") && off("microphone");
  put($("pause").querySelector("span"), paused ? "Resume" : "Pause");
  $("pause").querySelector("path").setAttribute("d", paused ? "M8 5l11 7-11 7z" : "M8 5v14M16 5v14");
}

function showGiving() {
  const { face, voice } = slow.sources ?? {};
  const [camera, microphone] = [face === "browser", voice === "browser"];
  const nothing = !giver.giving;
  $("offer").hidden = !((camera || microphone) && nothing);
  put($("where"), location.host);
  put($("give"), camera && microphone ? "Use this browser’s camera and microphone" : camera ? "Use this browser’s camera" : "Use this browser’s microphone");
  document.querySelector(".either").hidden = !(camera && microphone);
  $("stop").hidden = nothing;
  const parts = Object.values(giver.trouble).filter(Boolean);
  if (giver.giving && !giver.connected) parts.push("Connection lost: trying again.");
  else if (giver.giving && document.hidden) parts.push("This page is hidden: pictures rest until it is seen again.");
  if (!giver.possible && (camera || microphone)) {
    parts.push("This browser gives its camera and microphone to https pages and to its own machine only.");
  }
  const said = parts.join(" ");
  if (said !== trouble) $("announce").textContent = trouble = said; // figures are not read aloud, troubles are
  if (giver.giving && giver.connected && giver.tracks.camera && giver.arrives) {
    const { age, uncertainty, refused, why } = giver.arrives;
    parts.push(`${giver.rate.toFixed(0)} pictures a second, ${age === null ? "–" : age.toFixed(0)} ms old on arrival, clock ± ${uncertainty?.toFixed(1) ?? "–"} ms`
      + (refused ? `; ${refused} refused (${why})` : ""));
  }
  $("giving").hidden = !parts.length;
  put($("giving"), parts.join(" "));
  const worker = slow.workers?.camera;
  const missing = worker?.state === "paused" ? "paused" : worker?.state === "reconnecting" && !nothing ? worker.text : "";
  picture.tell(face ?? "", missing);
}

$("give").addEventListener("click", () => giver.give(slow.sources?.face === "browser", slow.sources?.voice === "browser"));
$("give-camera").addEventListener("click", () => giver.give(true, false));
$("give-microphone").addEventListener("click", () => giver.give(false, true));
$("stop").addEventListener("click", () => giver.stop());
$("pause").addEventListener("click", () => live.order(off("camera") && off("microphone") ? "resume" : "pause", "*"));
for (const id of ["camera", "microphone"]) $(id).addEventListener("click", () => live.order(off(id) ? "resume" : "pause", id));
$("theme").addEventListener("click", () => {
  const theme = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = theme;
  localStorage.setItem("theme", theme);
});
new MutationObserver(() => repaint()).observe(document.documentElement, { attributeFilter: ["data-theme"] });

function repaint() {
  readPalette();
  feelings.paint();
  later();
}

repaint();
setInterval(() => {
  showState();
  if (!slow.streams || !connected) later();
}, 1000);

const before = sessionStorage.getItem("giving");
if (before && giver.possible) {
  // The page was loaded anew while it gave: goes on where the browser still allows it.
  const { camera, microphone } = JSON.parse(before);
  giver.give(camera, microphone);
}
