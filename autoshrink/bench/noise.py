"""How well measured ratios repeat: `python -m autoshrink.bench.noise --out results/measuring-noise.json`.

One artifact is measured many times against a second copy of itself, so that the true ratio is 1: on the machine as it
is, then with a process that keeps one core busy. Every measurement is a fresh process, as in a trial of a search, which
holds ONNX Runtime with one thread and no torch. The machine must be quiet otherwise, or the first part means nothing.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from autoshrink.measure.environment import describe_machine
from autoshrink.measure.timing import sample, summarise
from autoshrink.target import Measuring
from autoshrink.types import Latency

COMMAND = "python -m autoshrink.bench.noise"
SHAPE = (1, 1, 28, 28)
CONDITIONS = {"quiet": "nothing else runs", "busy": "another process keeps one core busy"}
BUSY = "while True: pass"
SPREAD_LIMIT = 1.05
"""The 90th over the 10th percentile of the ratios of one artifact may not be more, also beside a busy process."""
SETTLE_S = 1.0
"""The scheduler gets this long to move the busy process to a core of its own."""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument("--out", type=Path, help="JSON file to write; a Markdown table is written beside it")
    parser.add_argument("--width", type=int, default=64, help="channels of the network's stem (default 64)")
    parser.add_argument("--repeats", type=int, default=20, help="measurements in each condition (default 20)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and of every measurement (default 0)")
    parser.add_argument("--child", type=Path, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(asdict(measure(options.child, options.seed))))
        return
    if not options.out:
        parser.error("--out is missing; it names the JSON file to write, such as results/measuring-noise.json")
    if options.repeats < 2 or options.width < 1:
        parser.error(f"--repeats is {options.repeats} and --width {options.width}; it must be 2 or more, and 1 or more")
    # An absolute path would publish a folder of this machine.
    out = options.out.name if options.out.is_absolute() else options.out
    command = f"{COMMAND} --out {out} --width {options.width} --repeats {options.repeats} --seed {options.seed}"
    report = benchmark(options.width, options.repeats, options.seed, command)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n")
    options.out.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))


def benchmark(width: int, repeats: int, seed: int, command: str) -> dict[str, Any]:
    """The benchmark as JSON values: machine, protocol, and for each condition every measurement and the spread."""
    report: dict[str, Any] = {
        "command": command,
        "seed": seed,
        "machine": describe_machine(),
        "model": f"residual CNN of width {width}, random weights, input {list(SHAPE)}, ONNX Runtime fp32, 1 thread",
        "protocol": asdict(Measuring()),
        "spread_limit": SPREAD_LIMIT,
        "conditions": {},
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(width, seed, folder / "reference.onnx")
        shutil.copyfile(folder / "reference.onnx", folder / "candidate.onnx")
        for condition in CONDITIONS:
            with _busy_process(condition == "busy"):
                runs = [_in_child(folder, seed + repeat) for repeat in range(repeats)]
            ratios = np.array([run["ratio"] for run in runs])
            low, high = np.quantile(ratios, (0.1, 0.9))
            report["conditions"][condition] = {
                "runs": runs,
                "median_ratio": float(np.median(ratios)),
                "spread": float(high / low),
                "covering_one": sum(run["ratio_ci"]["low"] <= 1 <= run["ratio_ci"]["high"] for run in runs),
            }
    return report


def export(width: int, seed: int, path: Path) -> None:
    """Writes the network with random weights as an ONNX file."""
    import torch

    from autoshrink.tasks.resnet import ResNet

    torch.manual_seed(seed)
    torch.onnx.export(ResNet(width).eval(), (torch.zeros(SHAPE),), path, external_data=False, verbose=False)


def measure(folder: Path, seed: int) -> Latency:
    """Measures `candidate.onnx` against `reference.onnx` in this process."""
    candidate, reference = (_load(folder / f"{name}.onnx") for name in ("candidate", "reference"))
    return summarise(sample(candidate, reference, Measuring(), seed), Measuring(), seed)


def _load(path: Path) -> Callable[[], object]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {session.get_inputs()[0].name: np.random.default_rng(0).standard_normal(SHAPE, np.float32)}
    return lambda: session.run(None, feeds)


def _in_child(folder: Path, seed: int) -> dict[str, Any]:
    """What `measure` gives in a fresh process, and the wall seconds of it all."""
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "autoshrink.bench.noise", "--child", str(folder), "--seed", str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the measuring process ended with {done.returncode}:\n{done.stderr}")
    latency: dict[str, Any] = json.loads(done.stdout)
    return {"seed": seed, "seconds": round(time.perf_counter() - began, 2), **latency}


@contextmanager
def _busy_process(wanted: bool) -> Iterator[None]:
    if not wanted:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        time.sleep(SETTLE_S)
        yield
    finally:
        process.kill()
        process.wait()


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown page."""
    machine = report["machine"]
    lines = [
        "# How well a measured latency ratio repeats",
        "",
        f"One artifact against a second copy of itself, so the true ratio is 1: {report['model']}. "
        "Every measurement is a fresh process.",
        "",
        "| condition | measurements | median ratio | p90 / p10 of the ratio | smallest, largest "
        "| intervals that hold 1 | median ms | stable | contended | seconds each |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for condition, part in report["conditions"].items():
        runs = part["runs"]
        ratios = [run["ratio"] for run in runs]
        lines.append(
            f"| {condition}: {CONDITIONS[condition]} | {len(runs)} | {part['median_ratio']:.3f} | {part['spread']:.3f} "
            f"| {min(ratios):.3f}, {max(ratios):.3f} | {part['covering_one']} "
            f"| {np.median([run['ms'] for run in runs]):.3f} | {sum(run['stable'] for run in runs)} "
            f"| {sum(run['contended'] for run in runs)} | {np.median([run['seconds'] for run in runs]):.1f} |"
        )
    protocol = ", ".join(f"{name} {value}" for name, value in report["protocol"].items())
    lines += [
        "",
        f"The spread asked for is at most {report['spread_limit']}. Protocol: {protocol}. Seed {report['seed']}.",
        "",
        f"Machine: {machine['processor']}, {machine['usable_cores']} cores, {machine['system']}, "
        f"Python {machine['python']}, onnxruntime {machine['versions']['onnxruntime']}, "
        f"load before it began {machine['load_1_min']}.",
        "",
        f"Made by `{report['command']}`; every measurement is in the JSON file beside this one.",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
