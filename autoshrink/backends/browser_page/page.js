// The page in the browser of this machine: asks its server for a task, does it, and hands the answer back with the next
// question. See autoshrink/backends/browser_server.py.
import { begin, pack, perform, unpack, version } from "./models.js";

const threads = Number(new URLSearchParams(location.search).get("threads"));
begin(threads);

let answer = pack({ isolated: self.crossOriginIsolated, threads, version });
for (;;) {
  const response = await fetch("exchange", { method: "POST", body: answer });
  const frame = await response.arrayBuffer();
  if (!frame.byteLength) break;
  answer = pack(...(await perform(...unpack(frame))));
}
