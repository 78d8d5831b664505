"""How much memory TFLite Micro needs for a model: found by running the model, not by adding up its tensors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from autoshrink.errors import StageError

PROBE = Path(__file__).with_name("tflm_probe.py")
LARGEST = 64 * 2**20
"""Bytes of the largest arena that is tried; far beyond any microcontroller, so that a model too large has a figure."""
STEP = 16
"""Bytes; the runtime aligns what it allocates to this."""
TIME_LIMIT_S = 120.0

_TOTAL = re.compile(r"Arena allocation total (\d+) bytes")
_NO_KERNEL = re.compile(r"Didn't find op for builtin opcode '(\w+)'")
_CANNOT = re.compile(r"^Node (\w+) \(number \d+\) failed to (?:prepare|invoke)")
_PLACE = re.compile(r"^[\w/.]+(?::\d+)? ")
"""Where in the runtime's source a line comes from."""
_TOO_SMALL = re.compile(r"^(Failed to (allocate|resize)|Unable to allocate)")


def arena_bytes(model: Path) -> int:
    """The smallest arena, in bytes, in which TFLite Micro runs a model on this machine.

    The runtime itself tells what it used of an arena that is large enough. What it needs only while it prepares can
    be more, so that size is tried, and sizes above it where it is not enough.

    Raises:
        StageError: of stage `compile`: the runtime cannot run the model in any arena; names the operator.
    """
    ran, said = _run(model, LARGEST)
    total = _TOTAL.search(said)
    if not ran or not total:
        raise StageError("compile", reason(said))
    used = int(total[1])
    if _run(model, used)[0]:
        return used
    # The first power of two steps above that is enough, then between the last two.
    too_small, enough = used, used + STEP
    while not _run(model, enough)[0]:
        too_small, enough = enough, used + 2 * (enough - used)
    while enough - too_small > STEP:
        middle = too_small + (enough - too_small) // (2 * STEP) * STEP
        if _run(model, middle)[0]:
            enough = middle
        else:
            too_small = middle
    return enough


def reason(said: str) -> str:
    """Why a model does not run, from what the runtime printed; in one line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if missing := _NO_KERNEL.search(said):
        return f"TFLite Micro has no kernel for {missing[1]}; the model must do without that operator"
    for index, line in enumerate(lines):
        if node := _CANNOT.match(line):
            before = lines[index - 1] if index else "it does not say why"
            if any(_TOO_SMALL.match(earlier) for earlier in lines[:index]):
                break
            # The line before is the condition that does not hold.
            return f"TFLite Micro cannot run {node[1]}: {_PLACE.sub('', before)}"
    if any(_TOO_SMALL.match(line) for line in lines):
        return f"the model needs an arena of more than {LARGEST // 2**20} MiB; no microcontroller has that"
    return f"TFLite Micro cannot run the model: {lines[-1] if lines else 'the process ended without a word'}"


def _run(model: Path, arena: int) -> tuple[bool, str]:
    """Whether one call of the model works with that arena, and what was printed."""
    try:
        done = subprocess.run(
            [sys.executable, "-P", str(PROBE), str(model), str(arena)],
            capture_output=True,
            timeout=TIME_LIMIT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise StageError("compile", f"one call in TFLite Micro did not end within {TIME_LIMIT_S:g} s") from None
    said = (done.stdout + done.stderr).decode(errors="replace")
    return done.returncode == 0, said or f"the process ended with code {done.returncode}"
