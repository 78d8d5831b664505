// The page on another device: as page.js, over a network that may go away, in front of a person who may do as well.
// What disturbed a task goes to the server with its answer. See autoshrink/devices/page_link.py.
import { begin, clock, clockOffset, moved, pack, perform, unpack, version } from "./models.js";

const PATIENCE_MS = 30000; // The server says something every few seconds: a connection that stays silent is gone.
const SLOWEST = 20; // Bytes a millisecond of the slowest network that is still of use.
const STATES = {
  connecting: ["Connecting", "calm", "Loading the runtime, some megabytes."],
  waiting: ["Connected", "good", "The next measurement starts by itself."],
  load: ["Loading", "busy", "A model comes from the computer."],
  audit: ["Checking", "busy", "Which kernels the runtime has chosen."],
  measure: ["Measuring", "busy", "Please leave the device alone for a moment."],
  evaluate: ["Computing", "busy", "The model's outputs for many samples."],
  hidden: ["Paused", "bad", "This page was in the background. What was measured then is measured again."],
  offline: ["No connection", "bad", "Trying again. Is this device still in the computer's network?"],
  refused: ["Not possible here", "bad", ""],
  failed: ["This page failed", "bad", ""],
  replaced: ["Open elsewhere", "calm", "Another tab of this browser has taken over. You can close this one."],
  over: ["This link has ended", "calm", "If the search goes on, its terminal shows a new one."],
  end: ["Done", "good", "The search has ended. You can close this page."],
};
const LAST = ["replaced", "over", "end", "failed"];

const page = [...crypto.getRandomValues(new Uint8Array(8))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
const element = (name) => document.getElementById(name);
let shown = "connecting";
let disturbed = new Set();
let awake;

class Refused extends Error {}

// Only when it changes: nothing is drawn between the turns of a measurement.
async function show(name, more = "") {
  if (shown === name || LAST.includes(shown)) return;
  shown = name;
  const [words, kind, detail] = STATES[name];
  element("state").textContent = words;
  element("state").dataset.kind = kind;
  element("detail").textContent = more || detail;
  document.title = `${words} – autoshrink`;
  if (LAST.includes(name)) {
    element("keep").style.visibility = "hidden";
    awake?.release();
  }
  // What follows may be timed: the drawing is to be over. Hidden pages draw nothing.
  const drawn = new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
  await Promise.race([drawn, pause(200)]);
}

function put(name, text) {
  if (element(name).textContent !== text) element(name).textContent = text;
}

function pause(milliseconds) {
  return new Promise((done) => setTimeout(done, milliseconds));
}

function tell(what) {
  navigator.sendBeacon(`state?page=${page}&is=${what}`);
}

function disturb(what) {
  disturbed.add(what);
}

function hide() {
  disturb("hidden");
  tell("hidden");
  show("hidden");
}

async function keepAwake() {
  if (LAST.includes(shown)) return;
  // Only where the page is loaded safely: over https, or from the device itself.
  if (!("wakeLock" in navigator)) {
    put("awake", "Over plain http the page cannot keep it on by itself: set the screen timeout to its longest.");
    return;
  }
  try {
    awake = await navigator.wakeLock.request("screen");
    put("awake", "The screen is kept on.");
  } catch {
    put("awake", "The device does not let the page keep the screen on, as when its battery is low.");
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    hide();
  } else {
    tell("shown");
    keepAwake();
  }
});
document.addEventListener("freeze", hide);
addEventListener("pageshow", (event) => event.persisted && tell("shown"));
addEventListener("pagehide", (event) => (event.persisted ? hide() : tell("closing")));

// The frame that the server gives for `body`.
async function post(query, body) {
  const control = new AbortController();
  const giveUp = () => control.abort();
  let timer = setTimeout(giveUp, PATIENCE_MS + body.byteLength / SLOWEST);
  try {
    const response = await fetch(`exchange?${query}`, { method: "POST", body, signal: control.signal });
    if (!response.ok) throw new Refused();
    const frame = new Uint8Array(Number(response.headers.get("Content-Length")));
    const reader = response.body.getReader();
    for (let begin = 0; ; ) {
      const { done, value } = await reader.read();
      if (done) return frame.buffer;
      frame.set(value, begin);
      begin += value.length;
      clearTimeout(timer);
      timer = setTimeout(giveUp, PATIENCE_MS);
    }
  } finally {
    clearTimeout(timer);
  }
}

// Hands in the answer to the task `number` until the server has it, and gives the next task.
async function exchange(number, answer) {
  for (let wait = 250; ; wait = Math.min(4000, 2 * wait)) {
    // What happened during the task is told to the page only now.
    await pause(0);
    if (document.hidden) disturb("hidden");
    const told = disturbed;
    disturbed = new Set();
    const query = `page=${page}&answers=${number}&hidden=${Number(document.hidden)}&disturbed=${[...told].join(",")}`;
    try {
      return unpack(await post(query, answer));
    } catch (error) {
      if (error instanceof Refused) throw error;
      told.forEach(disturb);
      disturb("network");
      await show("offline");
      await pause(wait);
    }
  }
}

// What the graphics processor is called tells two phones apart whose browsers say the same of themselves.
function graphics() {
  const context = document.createElement("canvas").getContext("webgl");
  const info = context?.getExtension("WEBGL_debug_renderer_info");
  const name = context?.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : context.RENDERER);
  context?.getExtension("WEBGL_lose_context")?.loseContext();
  return name ?? "";
}

async function hello() {
  const wanted = ["model", "platformVersion", "architecture", "bitness", "fullVersionList"];
  return {
    version,
    isolated: self.crossOriginIsolated === true && typeof SharedArrayBuffer === "function",
    tick: clock.tick,
    cores: navigator.hardwareConcurrency ?? 0,
    memory: navigator.deviceMemory ?? 0,
    platform: navigator.platform ?? "",
    graphics: graphics(),
    agent: (await navigator.userAgentData?.getHighEntropyValues(wanted)) ?? {},
  };
}

async function work() {
  put("clock", clock.tick < 1 ? `${Math.round(clock.tick * 1000)} µs` : `${clock.tick} ms`);
  keepAwake();
  let number = 0;
  let answer = pack(await hello());
  let offset = clockOffset();
  for (let begun = false; ; ) {
    const [header, buffers] = await exchange(number, answer);
    put("done", String(header.done));
    if (LAST.includes(header.task)) {
      await show(header.task);
      return;
    }
    if (!begun) {
      begin(header.threads);
      put("target", header.target);
      put("threads", String(header.threads));
      begun = true;
    }
    if (header.task === "wait") {
      answer = new Uint8Array();
      await (header.refused ? show("refused", header.refused) : document.hidden || show("waiting"));
    } else {
      await show(header.stage);
      const [found, results] = await perform(header, buffers);
      if (found.suspended) disturb("suspended");
      number = header.number;
      answer = pack(found, results);
    }
    if (moved(offset)) disturb("suspended");
    offset = clockOffset();
  }
}

try {
  await work();
} catch (error) {
  tell("closing");
  await show(error instanceof Refused ? "over" : "failed", error instanceof Refused ? "" : String(error?.message ?? error));
}
