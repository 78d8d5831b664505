"""TFLM for FakeTfliteMicro: `bridge.py describe|invoke ARENA_BYTES OPERATOR...`, on the files of the working folder."""

import sys
from pathlib import Path

import numpy as np

from autoshrink.backends.tflm_model import operators
from autoshrink.backends.tflm_runtime import runtime


def main() -> None:
    what, arena, *added = sys.argv[1:]
    model = Path("model.tflite").read_bytes()
    missing = set(operators(model)) - set(added)
    if missing:
        sys.exit(f"the resolver lacks {sorted(missing)}")
    interpreter = runtime().Interpreter.from_bytes(model, arena_size=int(arena))
    ends = {"input": interpreter.get_input_details, "output": interpreter.get_output_details}
    found = {}
    for kind, details in ends.items():
        found[kind] = []
        while True:
            try:
                found[kind].append(details(len(found[kind])))
            except (IndexError, RuntimeError, ValueError):
                break
    if what == "describe":
        lines = [
            f"{kind} {int(np.prod(detail['shape'])) * np.dtype(detail['dtype']).itemsize}"
            for kind, listed in found.items()
            for detail in listed
        ]
        Path("tensors.txt").write_text("\n".join(lines))
        return
    for index, detail in enumerate(found["input"]):
        content = Path(f"input-{index}").read_bytes()
        interpreter.set_input(np.frombuffer(content, detail["dtype"]).reshape(detail["shape"]), index)
    interpreter.invoke()
    for index in range(len(found["output"])):
        Path(f"output-{index}").write_bytes(np.ascontiguousarray(interpreter.get_output(index)).tobytes())


if __name__ == "__main__":
    main()
