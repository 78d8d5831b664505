// Runs and times models: what every page does with a task, and the frames in which tasks and answers go. See
// autoshrink/backends/page_frames.py for the frames.
import * as ort from "./ort.wasm.min.mjs";

const ALIGNMENT = 8;
const TICKS = 100; // A sample lasts so many ticks of the clock, which makes a tick 1 % of it,
const SHORTEST_MS = 0.5; // but at least this,
const LONGEST_MS = 250; // and where the clock is coarser than in any browser as it comes, no more than this.
const MOST_TOGETHER = 10000;
const GAP_MS = 1000; // A call may take so much longer than ten of its like, and the clocks differ so much.
const ARRAYS = {
  float32: Float32Array,
  float64: Float64Array,
  float16: Uint16Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  bool: Uint8Array,
};

const sessions = new Map();
const calls = new Map();
let latest = 0;

export function pack(header, buffers = []) {
  const aligned = (size) => Math.ceil(size / ALIGNMENT) * ALIGNMENT;
  const views = buffers.map((view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength));
  let text = new TextEncoder().encode(JSON.stringify({ ...header, buffers: views.map((view) => view.length) }));
  const size = aligned(4 + text.length) - 4;
  const frame = new Uint8Array(4 + size + views.reduce((sum, view) => sum + aligned(view.length), 0));
  frame.fill(32, 4, 4 + size);
  new DataView(frame.buffer).setUint32(0, size, true);
  frame.set(text, 4);
  let begin = 4 + size;
  for (const view of views) {
    frame.set(view, begin);
    begin += aligned(view.length);
  }
  return frame;
}

export function unpack(frame) {
  const size = new DataView(frame).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(frame, 4, size)));
  let begin = 4 + size;
  const buffers = header.buffers.map((length) => {
    const view = new Uint8Array(frame, begin, length);
    begin += Math.ceil(length / ALIGNMENT) * ALIGNMENT;
    return view;
  });
  return [header, buffers];
}

// Of the call number `index` in buffers that hold those of several calls, one after the other.
function feedsOf(tensors, buffers, index = 0) {
  const feeds = {};
  tensors.forEach(({ name, type, shape }, input) => {
    const Kind = ARRAYS[type];
    const size = shape.reduce((product, length) => product * length, 1);
    const { buffer, byteOffset } = buffers[input];
    feeds[name] = new ort.Tensor(type, new Kind(buffer, byteOffset + index * size * Kind.BYTES_PER_ELEMENT, size), shape);
  });
  return feeds;
}

// The outputs of several calls, one buffer a call and output.
function answerOf(results, names) {
  const tensors = names.map((name) => ({ name, type: results[0][name].type, shape: results[0][name].dims }));
  const unknown = tensors.find(({ type }) => !(type in ARRAYS));
  if (unknown) {
    throw new Error(`output '${unknown.name}' is ${unknown.type}; it must be one of ${Object.keys(ARRAYS)}`);
  }
  return [{ tensors }, results.flatMap((outputs) => names.map((name) => outputs[name].data))];
}

// A profile is told on the console and nowhere else. The runtime takes hold of it once, when it starts.
let heard = [];
let listening = false;
for (const name of ["log", "warn", "error"]) {
  const say = console[name].bind(console);
  console[name] = (...words) => (listening ? heard.push(words.join(" ")) : say(...words));
}

const tasks = {
  async load({ options }, [model]) {
    const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"], ...options });
    sessions.set(++latest, session);
    return [{ session: latest, inputs: session.inputMetadata, outputs: session.outputNames }, []];
  },

  async run({ session, tensors, calls: count }, buffers) {
    const runner = sessions.get(session);
    const results = [];
    for (let index = 0; index < count; index += 1) {
      results.push(await runner.run(feedsOf(tensors, buffers, index)));
    }
    return answerOf(results, runner.outputNames);
  },

  async bind({ session, tensors }, buffers) {
    calls.set(++latest, { runner: sessions.get(session), feeds: feedsOf(tensors, buffers), together: 0 });
    return [{ call: latest }, []];
  },

  // Milliseconds of single calls, in float64. Calls too short for the clock are timed several together, and the mean
  // stands for them. `suspended` says that the device did not run all the while.
  async turn({ call, leastMs, leastCalls }) {
    const bound = calls.get(call);
    const entered = performance.now();
    const offset = clockOffset();
    await block(bound, 1);
    if (!bound.together) {
      await findTogether(bound);
    }
    const { together } = bound;
    const times = [];
    const began = performance.now();
    let end = began;
    while (times.length < leastCalls || end - began < leastMs) {
      times.push(await block(bound, together));
      end = performance.now();
    }
    const sorted = [...times].sort((one, other) => one - other);
    const gap = sorted.at(-1) > GAP_MS + 10 * sorted[Math.floor(sorted.length / 2)];
    const suspended = gap || moved(offset);
    // The engine compiles anew what runs often: what was long enough may not be any more.
    if (sorted[0] < clock.shortest) {
      bound.together = atMost(together * (clock.shortest / Math.max(sorted[0], clock.shortest / 10)));
    }
    // Over 0 even where the clock did not tick between.
    const took = performance.now() - entered;
    return [{ together, suspended, took }, [Float64Array.from(times, (time) => Math.max(time, clock.tick / 2) / together)]];
  },

  async outputs({ call }) {
    const { runner, outputs } = calls.get(call);
    return answerOf([outputs], runner.outputNames);
  },

  async profile({ session, tensors, calls: count }, buffers) {
    const runner = sessions.get(session);
    heard = [];
    listening = true;
    try {
      for (let left = count; left > 0; left -= 1) {
        await runner.run(feedsOf(tensors, buffers));
      }
      runner.endProfiling();
    } finally {
      listening = false;
    }
    return [{}, [new TextEncoder().encode(heard.join("\n"))]];
  },

  async release({ released }) {
    for (const number of released) {
      await sessions.get(number)?.release();
      sessions.delete(number);
      calls.delete(number);
    }
    return [{}, []];
  },
};

// One step of `performance.now()`, milliseconds: what it moves by when it is read again and again.
function tickOf() {
  let smallest = Infinity;
  const began = performance.now();
  let before = began;
  for (let seen = 0; seen < 50 && before - began < 200; ) {
    const now = performance.now();
    if (now > before) {
      smallest = Math.min(smallest, now - before);
      before = now;
      seen += 1;
    }
  }
  return Math.round(smallest * 1000) / 1000 || 0.001;
}

const tick = tickOf();
export const clock = { tick, shortest: Math.min(LONGEST_MS, Math.max(SHORTEST_MS, TICKS * tick)) };

// Moves when the device slept, in which one of the two clocks stands still on most systems.
export function clockOffset() {
  return Date.now() - performance.now();
}

export function moved(offset) {
  return Math.abs(clockOffset() - offset) > GAP_MS;
}

function atMost(together) {
  return Math.min(MOST_TOGETHER, Math.ceil(together));
}

// Milliseconds of so many calls, one after the other.
async function block(bound, together) {
  const { runner, feeds } = bound;
  const start = performance.now();
  for (let left = together; left > 0; left -= 1) {
    bound.outputs = await runner.run(feeds);
  }
  return performance.now() - start;
}

// Sets how many calls last long enough for the clock. What a coarse one says of a single call may be nothing.
async function findTogether(bound) {
  for (bound.together = 1; bound.together < MOST_TOGETHER; ) {
    const took = await block(bound, bound.together);
    if (took >= clock.shortest) {
      return;
    }
    bound.together = atMost(bound.together * Math.min(10, Math.max(1.25, (1.1 * clock.shortest) / (took || tick))));
  }
}

// The answer to a task: its header and its buffers. What goes wrong is an answer too.
export async function perform(header, buffers) {
  try {
    return await tasks[header.task](header, buffers);
  } catch (error) {
    // A WebAssembly that stopped, or a number: what the runtime throws is not always an Error.
    return [{ error: String(error?.message ?? error) }, []];
  }
}

// To be called before the first task: the runtime cannot change it any more.
export function begin(threads) {
  ort.env.wasm.wasmPaths = new URL(".", location.href).href;
  ort.env.wasm.numThreads = threads;
  ort.env.logLevel = "error";
}

export const version = ort.env.versions.web;
