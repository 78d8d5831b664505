// The page that runs and times models: asks its server for a task, does it, and hands the answer back with the next
// question. See autoshrink/backends/browser_server.py for the frames.
import * as ort from "./ort.wasm.min.mjs";

const ALIGNMENT = 8;
const SHORTEST_MS = 0.5; // The clock ticks in 5 microseconds: 1 % of this.
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

function pack(header, buffers = []) {
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

function unpack(frame) {
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
    calls.set(++latest, { runner: sessions.get(session), feeds: feedsOf(tensors, buffers), fastest: Infinity });
    return [{ call: latest }, []];
  },

  // Milliseconds of single calls, in float64. Calls too short for the clock are timed several together, and the mean
  // stands for them.
  async turn({ call, leastMs, leastCalls }) {
    const bound = calls.get(call);
    const { runner, feeds } = bound;
    const together = Math.max(1, Math.min(1000, Math.ceil(SHORTEST_MS / bound.fastest)));
    const times = [];
    await runner.run(feeds);
    const began = performance.now();
    let end = began;
    while (times.length < leastCalls || end - began < leastMs) {
      const start = performance.now();
      for (let left = together; left > 0; left -= 1) {
        bound.outputs = await runner.run(feeds);
      }
      end = performance.now();
      times.push((end - start) / together);
    }
    // Over 0 even where the clock did not tick between.
    bound.fastest = Math.max(0.001, Math.min(bound.fastest, ...times));
    return [{ together }, [Float64Array.from(times)]];
  },

  async outputs({ call }) {
    const { runner, outputs } = calls.get(call);
    return answerOf([outputs], runner.outputNames);
  },

  async profile({ session, tensors }, buffers) {
    const runner = sessions.get(session);
    heard = [];
    listening = true;
    try {
      await runner.run(feedsOf(tensors, buffers));
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

async function answerTo(frame) {
  const [header, buffers] = unpack(frame);
  try {
    return pack(...(await tasks[header.task](header, buffers)));
  } catch (error) {
    // A WebAssembly that stopped, or a number: what the runtime throws is not always an Error.
    return pack({ error: String(error?.message ?? error) });
  }
}

ort.env.wasm.wasmPaths = new URL(".", location.href).href;
ort.env.wasm.numThreads = Number(new URLSearchParams(location.search).get("threads"));
ort.env.logLevel = "error";

let answer = pack({ isolated: self.crossOriginIsolated, threads: ort.env.wasm.numThreads, version: ort.env.versions.web });
for (;;) {
  const response = await fetch("exchange", { method: "POST", body: answer });
  const frame = await response.arrayBuffer();
  if (!frame.byteLength) break;
  answer = await answerTo(frame);
}
