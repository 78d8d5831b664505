// Runs the compiled model of this package in a page:
//
//   import { load } from "./main.mjs";
//   const model = await load();
//   const outputs = await model.run({ INPUT_NAME: typedArray });

import * as ort from "./node_modules/onnxruntime-web/dist/ort.wasm.min.mjs";
import { readNpy } from "./npy.mjs";

const PACKAGE = new URL("../", import.meta.url);
const BATCH = @{batch};
const THREADS = @{threads};
const INPUTS = [
  // @each inputs
  { name: "@{name}", type: "@{dtype}", shape: [@{shape}] },
  // @end
];
const OUTPUTS = [
  // @each outputs
  { name: "@{name}", type: "@{dtype}", shape: [@{shape}], kind: "@{kind}" },
  // @end
];
const RECORDED = @{recorded};
// Decibel; processors round differently, not more than that.
const AGREEMENT = 30;

ort.env.wasm.wasmPaths = new URL("./node_modules/onnxruntime-web/dist/", import.meta.url).href;
// Fixed with the first session of a page. Without cross-origin isolation there is no shared memory, and one thread.
ort.env.wasm.numThreads = self.crossOriginIsolated ? THREADS : 1;

export async function load() {
  const content = await fetched("@{model}");
  const session = await ort.InferenceSession.create(new Uint8Array(content), {
    executionProviders: ["wasm"],
    graphOptimizationLevel: "all",
    // An 8-bit product that is fused with its float bias runs in float, and much slower.
    extra: "@{precision}" === "int8_static" ? { optimization: { disable_specified_optimizers: "MatMulAddFusion" } } : {},
  });
  return new Model(session);
}

class Model {
  constructor(session) {
    this.session = session;
  }

  // One call: a typed array of the whole input [BATCH, ...] by name in, one of each output by name out.
  async run(inputs) {
    const feeds = {};
    for (const { name, type, shape } of INPUTS) {
      const count = shape.reduce((product, size) => product * size, 1);
      if (inputs[name]?.length !== count) {
        throw new Error(`input ${name} has ${inputs[name]?.length} elements; the model takes ${type} [${shape}]`);
      }
      feeds[name] = new ort.Tensor(type, inputs[name], shape);
    }
    const results = await this.session.run(feeds);
    return Object.fromEntries(OUTPUTS.map(({ name }) => [name, results[name].data]));
  }

  // The samples of the package: a line for each output, and whether all agree with what was recorded.
  async check() {
    const inputs = await arrays("inputs", INPUTS);
    const expected = await arrays(RECORDED ? "outputs" : "float", OUTPUTS);
    const count = inputs[INPUTS[0].name].shape[0];
    const found = Object.fromEntries(OUTPUTS.map(({ name }) => [name, []]));
    for (let first = 0; first < count; first += BATCH) {
      const feeds = {};
      for (const { name } of INPUTS) feeds[name] = rows(inputs[name], first);
      const outputs = await this.run(feeds);
      for (const { name } of OUTPUTS) found[name].push(...outputs[name]);
    }
    const lines = OUTPUTS.map(({ name }) => {
      const decibel = agreement(expected[name].data, found[name]);
      return { name, decibel, ok: RECORDED ? decibel >= AGREEMENT : found[name].every((value) => isFinite(Number(value))) };
    });
    return { ok: lines.every((line) => line.ok), recorded: RECORDED, samples: count, lines };
  }
}

async function fetched(name) {
  const answer = await fetch(new URL(name.split("/").map(encodeURIComponent).join("/"), PACKAGE));
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return answer.arrayBuffer();
}

async function arrays(kind, ports) {
  const read = async ({ name }) => [name, readNpy(await fetched(`samples/${kind}/${name}.npy`))];
  return Object.fromEntries(await Promise.all(ports.map(read)));
}

// The batch that begins with a row; filled up with the last row where there are too few.
function rows({ data, shape }, first) {
  const size = data.length / shape[0];
  const batch = new data.constructor(BATCH * size);
  for (let i = 0; i < BATCH; i++) {
    const row = Math.min(first + i, shape[0] - 1);
    batch.set(data.subarray(row * size, (row + 1) * size), i * size);
  }
  return batch;
}

// Signal to noise, decibel; the rows that filled up the last batch are left out.
function agreement(expected, found) {
  let signal = 0;
  let noise = 0;
  for (let i = 0; i < expected.length; i++) {
    const wanted = Number(expected[i]);
    signal += wanted ** 2;
    noise += (wanted - Number(found[i])) ** 2;
  }
  if (noise === 0) return Infinity;
  return signal > 0 && Number.isFinite(noise) ? 10 * Math.log10(signal / noise) : -Infinity;
}
