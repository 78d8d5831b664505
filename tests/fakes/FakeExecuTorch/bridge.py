"""One call of ExecuTorch for FakeExecuTorch: `bridge.py MODEL FOLDER THREADS DTYPE:SHAPE...`, arrays as plain bytes."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch
    from executorch.extension.pybindings import _C as runtime  # noqa: N811 - it has no other name


def main() -> None:
    model, folder, threads, *inputs = sys.argv[1:]
    runtime._unsafe_reset_threadpool(int(threads))
    program = runtime._load_program(model)
    method = program.load_method("forward")
    tensors = []
    for index, described in enumerate(inputs):
        dtype, _, shape = described.partition(":")
        content = bytearray(Path(folder, f"input-{index}").read_bytes())
        tensors.append(torch.from_numpy(np.frombuffer(content, dtype).reshape(json.loads(shape))))
    for index, value in enumerate(method.call(tensors)):
        Path(folder, f"output-{index}").write_bytes(value.numpy().tobytes())


if __name__ == "__main__":
    main()
