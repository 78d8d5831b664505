"""The same artifact measured in four places: `python -m autoshrink.bench.devices --out results/devices.json`.

The static int8 form of the demo's network beside its fp32 form: by a child of this machine, through an agent on
loopback, in a page of this machine's Chromium, and in the phone's page, opened by a Chromium with a phone's profile. In
turn, so that what the machine does meets all of them. Then the memory of an agent over many short measurements; with
--explain, what `autoshrink.bench.explain_cases` wrote as well. --times 0 or --jobs 0 leaves that part as --out has it.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from autoshrink.backends import browser_runtime
from autoshrink.backends.browser_driver import ARGUMENTS
from autoshrink.bench.device_page import page
from autoshrink.bench.techniques import open_folder
from autoshrink.cache import StageCache
from autoshrink.config import load_target
from autoshrink.devices import open_device
from autoshrink.devices.base import Device, DeviceGone
from autoshrink.errors import AutoshrinkError
from autoshrink.isolate.job import Job, JobResult
from autoshrink.isolate.parent import run_job
from autoshrink.isolate.probe import probe
from autoshrink.measure.environment import describe_machine
from autoshrink.pipeline import Pipeline
from autoshrink.records import write_json
from autoshrink.search.trial import TrialRunner
from autoshrink.search.weight_range import with_exact_sums
from autoshrink.target import ChildLimits, Measuring, RemoteDevice, Target
from autoshrink.tasks.loading import load_task
from autoshrink.types import Recipe

TASK = "fashion-mini"
RECIPE = Recipe.from_json([{"technique": "quantize", "scheme": "int8_static"}])
NATIVE, IN_BROWSER = "onnxruntime-cpu", "browser-wasm"
TIMES = 20
JOBS = 1000
LOOKS = 10
"""How often the agent's memory is looked at."""
VARIABLE = "AUTOSHRINK_BENCH_TOKEN"
LISTENS = re.compile(rb"listens on (\S+?),")
QUICK = Measuring(rounds_min=3, rounds_max=3, turn_ms=1, warm_up_calls=3, time_limit_s=2)
OPEN_S = 60.0

Run = Callable[[Job, Path], JobResult]


@dataclass(frozen=True)
class Way:
    """A place in which the artifact is measured, and how; `job` is of that place's backend."""

    name: str
    job: Job
    run: Run


@dataclass(frozen=True)
class Figure:
    """One measurement: latency ratio to the reference, half the width of its interval (a share), seconds in all and of
    these of measuring, and whether it was steady.
    """

    ratio: float
    interval: float
    ms: float
    seconds: float
    measuring: float
    unrest: str


def main() -> None:
    """Measures, and writes JSON and a page beside it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/devices.json"))
    parser.add_argument("--times", type=int, default=TIMES)
    parser.add_argument("--jobs", type=int, default=JOBS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--explain", type=Path, help="JSON of autoshrink.bench.explain_cases.")
    options = parser.parse_args()
    try:
        found = _before(options.out) | _measure(options.times, options.jobs, options.seed)
    except (AutoshrinkError, OSError) as error:
        sys.exit(f"error: {error}")
    if options.explain:
        found["explain"] = json.loads(options.explain.read_text())
    write_json(options.out, found)
    options.out.with_suffix(".md").write_text(page(found))
    print(f"wrote {options.out} and {options.out.with_suffix('.md')}")


def _measure(times: int, jobs: int, seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="autoshrink-") as temporary, ExitStack() as stack:
        place = Path(temporary)
        targets = [load_target(name) for name in (NATIVE, IN_BROWSER)]
        exact = [with_exact_sums(target, probe(target)) for target in targets]
        made = {target.name: _compiled(place / target.name, target, seed) for target in exact}
        url, process = stack.enter_context(_agent(place / "agent.log"))
        target = load_target(NATIVE)
        agent = _device(RemoteDevice(agent=url, token_env=VARIABLE), target)
        phone = _device(RemoteDevice(page="127.0.0.1:0"), replace(load_target(IN_BROWSER), name="phone-browser"))
        stack.callback(agent.close)
        stack.callback(phone.close)
        stack.enter_context(_phone(phone))
        ways = [
            Way("child of this machine", made[NATIVE], lambda job, work: run_job(job, work)),
            Way("agent on loopback", made[NATIVE], lambda job, work: agent.run(job, work, _silent)),
            Way("page of this machine", made[IN_BROWSER], lambda job, work: run_job(job, work)),
            Way("phone's page", made[IN_BROWSER], lambda job, work: phone.run(job, work, _silent)),
        ]
        figures: dict[str, list[Figure]] = {way.name: [] for way in ways}
        for number in range(times):
            for way in ways:
                figures[way.name].append(_figure(way, place / f"{way.name} {number}", seed + number))
                print(f"{number + 1} of {times}: {way.name}: {figures[way.name][-1]}", flush=True)
        memory = _memory(agent, process, made[NATIVE], place / "memory", jobs) if jobs else {}
    found: dict[str, Any] = {"machine": describe_machine()}
    if times:
        found |= {"seed": seed, "ways": {name: [asdict(each) for each in of] for name, of in figures.items()}}
    return found | ({"memory": memory} if jobs else {})


def _before(out: Path) -> dict[str, Any]:
    """What is there of an earlier run on this machine."""
    try:
        found: dict[str, Any] = json.loads(out.read_text())
        machine = describe_machine()
        same = all(found["machine"][name] == machine[name] for name in ("processor", "instruction_sets", "versions"))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return found if same else {}


def _compiled(place: Path, target: Target, seed: int) -> Job:
    """The job that measures the int8 artifact beside the fp32 one: both compiled as a search does."""
    task = load_task(TASK)
    folder = open_folder(place, task.source or task.name, [target], seed)
    runner = TrialRunner(folder, task, target, Pipeline(task, StageCache(), seed), StageCache())
    baseline = runner.run(Recipe(), 0, None, _no_steps)
    record = runner.run(RECIPE, 1, baseline, _no_steps)
    if baseline.artifact is None or record.artifact is None:
        raise AutoshrinkError(f"{target.name}: {baseline.reason or record.reason}")
    example = runner.arrays_folder({name: array[:1] for name, array in task.val.inputs.items()})
    job = runner.job(runner.loaded(record.artifact))
    return replace(job, reference=runner.loaded(baseline.artifact), example=example, measure=target.measuring)


def _figure(way: Way, work: Path, seed: int) -> Figure:
    began = time.monotonic()
    result = way.run(replace(way.job, seed=seed), work)
    seconds = time.monotonic() - began
    latency = result.latency
    if latency is None:
        raise AutoshrinkError(f"{way.name}: nothing was measured")
    half = (latency.ratio_ci.high - latency.ratio_ci.low) / 2 / latency.ratio
    # The next one finds a waiting child, as it does in a search, where this machine prepares a trial between two.
    time.sleep(0.5)
    return Figure(latency.ratio, half, latency.ms, seconds, result.seconds["measure"], latency.unrest)


def _memory(agent: Device, process: int, job: Job, work: Path, jobs: int) -> dict[str, Any]:
    """Bytes that the agent itself holds while it does `jobs` short measurements, at equal distances."""
    found = []
    for done in range(jobs + 1):
        if done % max(1, jobs // LOOKS) == 0:
            found.append({"jobs": done, "bytes": _resident(process)})
        if done < jobs:
            agent.run(replace(job, measure=QUICK, limits=ChildLimits()), work, _silent)
    return {"looks": found}


def _resident(process: int) -> int:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def _agent(log: Path) -> Iterator[tuple[str, int]]:
    """An agent on loopback; gives its URL and the number of its process."""
    os.environ[VARIABLE] = secrets.token_urlsafe(24)
    command = [sys.executable, "-m", "autoshrink", "agent", "--listen", "127.0.0.1:0", "--token-env", VARIABLE]
    with log.open("wb") as stream, subprocess.Popen(command, stderr=stream) as process:
        try:
            until = time.monotonic() + OPEN_S
            while not (said := LISTENS.search(log.read_bytes())):
                if time.monotonic() > until or process.poll() is not None:
                    raise AutoshrinkError(f"the agent does not start: {log.read_text().strip()}")
                time.sleep(0.1)
            yield said[1].decode(), process.pid
        finally:
            process.terminate()


@contextmanager
def _phone(device: Device) -> Iterator[None]:
    """A Chromium with a phone's profile that has the device's page open."""
    from playwright.sync_api import sync_playwright

    browser = browser_runtime.find_browser()
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=list(ARGUMENTS))
        phone = chromium.new_context(**playwright.devices["Pixel 7"]).new_page()
        phone.goto(device.url)  # type: ignore[attr-defined]
        until = time.monotonic() + OPEN_S
        while True:
            try:
                device.facts()
                break
            except DeviceGone:
                if time.monotonic() > until:
                    raise
                phone.wait_for_timeout(200)
        yield
        chromium.close()


def _device(spec: RemoteDevice, target: Target) -> Device:
    return open_device(spec, replace(target, devices=(spec,)), lambda _text: None)


def _silent(_stage: str) -> None:
    """Nobody waits for the stages of a benchmark."""


def _no_steps(_stage: str, _done: int, _total: int) -> None:
    """Nor for its steps."""


if __name__ == "__main__":
    main()
