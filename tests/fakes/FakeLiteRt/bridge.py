"""One call of LiteRT for FakeLiteRt: `bridge.py FOLDER THREADS INPUT...`, arrays as plain bytes in the folder."""

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter


def main() -> None:
    folder = Path(sys.argv[1])
    interpreter = Interpreter(model_path=str(folder / "model.tflite"), num_threads=int(sys.argv[2]))
    interpreter.allocate_tensors()
    call = interpreter.get_signature_runner()
    inputs = {
        name: np.frombuffer((folder / f"input-{name}").read_bytes(), detail["dtype"]).reshape(detail["shape"])
        for name, detail in call.get_input_details().items()
    }
    if set(inputs) != set(sys.argv[3:]):
        sys.exit(f"inputs are {sys.argv[3:]}, the model takes {sorted(inputs)}")
    for name, output in call(**inputs).items():
        (folder / f"output-{name}").write_bytes(np.ascontiguousarray(output).tobytes())


if __name__ == "__main__":
    main()
