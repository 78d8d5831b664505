// Reads an array that numpy saved: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

const TYPES = {
  "<f4": ["float32", Float32Array],
  "<f8": ["float64", Float64Array],
  "<f2": ["float16", Uint16Array],
  "|i1": ["int8", Int8Array],
  "|u1": ["uint8", Uint8Array],
  "<i2": ["int16", Int16Array],
  "<u2": ["uint16", Uint16Array],
  "<i4": ["int32", Int32Array],
  "<u4": ["uint32", Uint32Array],
  "<i8": ["int64", BigInt64Array],
  "<u8": ["uint64", BigUint64Array],
  "|b1": ["bool", Uint8Array],
};

// { type, shape, data } of the content of a .npy file; `type` as onnxruntime-web names it.
export function readNpy(content) {
  const bytes = new Uint8Array(content);
  if (String.fromCharCode(...bytes.subarray(0, 6)) !== "\x93NUMPY") throw new Error("this is no .npy file");
  const view = new DataView(content);
  const long = bytes[6] > 1;
  const begin = long ? 12 : 10;
  const length = long ? view.getUint32(8, true) : view.getUint16(8, true);
  const header = new TextDecoder().decode(bytes.subarray(begin, begin + length));
  const kind = TYPES[/'descr':\s*'([^']+)'/.exec(header)?.[1]];
  const sizes = /'shape':\s*\(([^)]*)\)/.exec(header)?.[1];
  if (!kind || sizes === undefined || !/'fortran_order':\s*False/.test(header)) {
    throw new Error(`cannot read an array of ${header.trim()}`);
  }
  const shape = sizes.split(",").filter((size) => size.trim()).map(Number);
  const count = shape.reduce((product, size) => product * size, 1);
  // A copy: the data need not begin where its type could be looked at.
  return { type: kind[0], shape, data: new kind[1](content.slice(begin + length), 0, count) };
}
