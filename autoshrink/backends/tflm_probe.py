"""A program of its own: one call of a model in TFLite Micro with an arena of a given size; what it takes, on stderr.

Run as `python -P tflm_probe.py MODEL ARENA_BYTES`. The runtime ends its process on some errors, so it gets one that
may end. It must not be imported by anything, and imports nothing of autoshrink: it starts some ten times a model.
"""

import sys
from pathlib import Path

from tflite_micro.python.tflite_micro import runtime


def main() -> None:
    """Calls the model once, on inputs that are zero, and prints the use of the arena."""
    model, arena = Path(sys.argv[1]).read_bytes(), int(sys.argv[2])
    try:
        interpreter = runtime.Interpreter.from_bytes(model, arena_size=arena)
        interpreter.invoke()
    except RuntimeError as error:
        # The reason was printed by the runtime itself before.
        sys.exit(str(error))
    interpreter.print_allocations()


if __name__ == "__main__":
    main()
