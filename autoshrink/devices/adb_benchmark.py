"""LiteRT's program `benchmark_model`: its flags, and what it prints.

Flags and output are those of tensorflow/lite/tools/benchmark (README.md, benchmark_model.cc, benchmark_tflite_model.cc)
and of its later home, LiteRT's tflite/tools/benchmark. It prints no time of a single call: of the warm-up and of the
timed calls there is one line each, `count=N first= curr= min= max= avg= std=` in microseconds (later ones add `p5=
median= p95=`), or `count=N curr=` where all took equally long. The mean is what is taken: the median and the
percentiles are whole microseconds, too coarse for a call of ten, and absent from older programs.
"""

from __future__ import annotations

import math
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass

from autoshrink.isolate.parent import LOG_LINES, OUT_OF_MEMORY

WARM_UP_CALLS = 3
WARM_UP_S = 0.25
"""Every start of the program is a cold one: the weights are read and packed anew, and the clock is still low."""
MEMORY_EVERY_MS = 5
RUNNING = "Running benchmark for at least"
STATISTICS = re.compile(r"^(?:\w+: )?count=(\d+)(?P<rest>.*)$", re.MULTILINE)
VALUE = r"=([-+.\w]+)"
SUMMARY = re.compile(r"timings in us: .*?(?:Inference \(avg\)|Inference|no stats): (\S+)")
PEAK = re.compile(r"Overall peak memory footprint \(MB\) via periodic monitoring: (\S+)")
NOTES = re.compile(
    r"^(?:\w+: )?((?:Explicitly applied|Though) \w+ delegate.*|Unconsumed cmdline flags: .*)$", re.MULTILINE
)
FAULTS = re.compile(r"ERROR|FATAL|CANNOT LINK|not executable|not found|denied|[Aa]borted|Segmentation", re.MULTILINE)
LAST_WORD = "Benchmarking failed."
SAME = 2e-3
"""What a rounded mean may differ by where the program prints it again."""


@dataclass(frozen=True)
class Benchmark:
    """What one start of the program found.

    Attributes:
        calls: timed ones.
        seconds: of a call, their mean.
        peak_bytes: most memory the process had resident; 0 where it was not asked, or cannot tell.
        notes: what it says of XNNPACK, and of flags it does not know.
    """

    calls: int
    seconds: float
    peak_bytes: int
    notes: tuple[str, ...]


def flags(
    graph: str,
    threads: int,
    calls: int,
    seconds: float,
    most_s: float,
    inputs: Sequence[tuple[str, Sequence[int]]] = (),
    memory: bool = False,
) -> list[str]:
    """The arguments of one start.

    Args:
        graph: the model's path on the device.
        threads: of the interpreter.
        calls: at least so many timed ones.
        seconds: at least for so long.
        most_s: after which no further call begins.
        inputs: file of the raw values and shape of each input, in the model's order; empty are random values.
        memory: has it watch its memory, in a thread beside, and so is for no start that is timed.
    """
    given = [
        f"--graph={graph}",
        f"--num_threads={threads}",
        f"--warmup_runs={1 if memory else WARM_UP_CALLS}",
        f"--warmup_min_secs={0 if memory else WARM_UP_S}",
        f"--num_runs={calls}",
        f"--min_secs={seconds:.4f}",
        f"--max_secs={max(1, math.ceil(most_s))}",
        "--use_xnnpack=true",
    ]
    if memory:
        given += ["--report_peak_memory_footprint=true", f"--memory_footprint_check_interval_ms={MEMORY_EVERY_MS}"]
    if inputs:
        # The names need not be the model's, only the order.
        names = [f"input{number}" for number in range(len(inputs))]
        shapes = (",".join(map(str, shape)) for _, shape in inputs)
        files = (f"{name}:{file}" for name, (file, _) in zip(names, inputs, strict=True))
        given += [
            f"--input_layer={','.join(names)}",
            f"--input_layer_shape={':'.join(shapes)}",
            f"--input_layer_value_files={','.join(files)}",
        ]
    return given


def parse_benchmark(text: str) -> Benchmark:
    """What the program printed, of a start that ended well.

    Raises:
        ValueError: it is not what the program prints; says what is amiss.
    """
    _, running, timed = text.rpartition(RUNNING)
    found, summary = STATISTICS.search(timed), SUMMARY.search(timed)
    if not running or text.count(RUNNING) < 2 or found is None or summary is None:
        raise ValueError("has not the lines of statistics that benchmark_model prints")
    calls = int(found[1])
    mean = _value("avg", found["rest"])
    mean = _value("curr", found["rest"]) if mean is None else mean
    if not calls or mean is None or not math.isfinite(mean) or mean < 0:
        raise ValueError(f"has no time of a call in {found[0].strip()!r}")
    again = _number(summary[1])
    if again is None or not math.isclose(mean, again, rel_tol=SAME, abs_tol=SAME):
        raise ValueError(f"says {mean:g} us a call in one line and {summary[1]} in another")
    if not mean:
        raise ValueError(
            "says 0 us a call: one is too short for its clock; a higher batch in the target makes it longer"
        )
    peak = PEAK.search(timed)
    megabytes = (_number(peak[1]) if peak else None) or 0.0
    notes = tuple(dict.fromkeys(match[1].strip() for match in NOTES.finditer(text)))
    return Benchmark(calls, mean / 1e6, int(megabytes * 2**20) if megabytes > 0 else 0, notes)


def why_failed(text: str, code: int) -> str:
    """In one line, with the program's own last words."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in reversed(lines):
        if OUT_OF_MEMORY.search(line):
            return f"the device has no memory left for it ({line})"
    telling = [line for line in lines if FAULTS.search(line) and LAST_WORD not in line]
    said = " | ".join((telling or lines)[-LOG_LINES:]) or "nothing"
    if code == 128 + signal.SIGKILL:
        return f"benchmark_model was killed on the device, as Android does when memory is short; it last said: {said}"
    if code > 128:
        return f"benchmark_model ended by {_signal(code - 128)}, a fault in native code; it last said: {said}"
    return f"benchmark_model ended with code {code}: {said}"


def _signal(number: int) -> str:
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def _value(name: str, statistics: str) -> float | None:
    found = re.search(rf"\b{name}{VALUE}", statistics)
    return _number(found[1]) if found else None


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
