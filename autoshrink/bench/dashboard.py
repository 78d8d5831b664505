"""How long the dashboard takes with 10,000 trials: `python -m autoshrink.bench.dashboard --out results/dashboard.json`.

A generated study (`autoshrink.bench.many_trials`), the command `autoshrink dashboard` in a process of its own, and a
headless Chromium that does what a reader does. Times are taken in the page, from the event until the second frame after
the plot was drawn; that of a new trial from the end of writing its record. A browser compiles plotly, 4.8 MB of
JavaScript, on its first visits and keeps what it made of it: the first visit and later ones are two figures.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autoshrink.backends import browser_runtime
from autoshrink.backends.browser_driver import ARGUMENTS
from autoshrink.bench.many_trials import TRIALS, generate
from autoshrink.dashboard.library import Library
from autoshrink.dashboard.view import TargetView
from autoshrink.errors import NothingFits
from autoshrink.measure.environment import describe_machine
from autoshrink.records import StudyFolder, write_json
from autoshrink.search.limits import merged
from autoshrink.target import Limits
from autoshrink.types import Recipe, TrialRecord

COMMAND = "python -m autoshrink.bench.dashboard"
TIMES = 10
SCRIPT = Path(__file__).with_name("dashboard_page.js")
ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+")
WINDOW = {"width": 1440, "height": 900}
PATIENCE_MS = 120_000
SETTLE_MS = 1000
SELECTED = 17
VISITS = 4
"""After which a browser has kept what it compiled."""
PANNED = 60
"""Pixels of a move of the mouse."""
FIGURES = {
    "start": ("from the command to the server's answer", None),
    "first": ("opening the front right after the start, in a browser that was never here", None),
    "pick": ("opening the front, until the pick is shown", None),
    "open": ("opening the front, until all of it is drawn", 2.0),
    "pan": ("a move of the mouse while panning, until the plot has followed", 0.2),
    "limit": ("a limit typed, until plot and pick have followed", 0.2),
    "news": ("a new trial's record written, until its point is shown", 3.0),
}
"""Name -> what it is, and the most that people expect, seconds."""


def main(arguments: list[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=(__doc__ or "").partition("\n\n")[2])
    parser.add_argument(
        "--out", type=Path, default=Path("results/dashboard.json"), help="JSON; a page is put beside it"
    )
    parser.add_argument("--trials", type=int, default=TRIALS, help=f"over both targets (default {TRIALS})")
    parser.add_argument("--times", type=int, default=TIMES, help=f"that each is done (default {TIMES})")
    parser.add_argument("--seed", type=int, default=0, help="of the study (default 0)")
    options = parser.parse_args(arguments)
    # An absolute path would publish a folder of this machine.
    out = options.out.name if options.out.is_absolute() else options.out
    command = f"{COMMAND} --out {out} --trials {options.trials} --times {options.times} --seed {options.seed}"
    report = {"schema": 1, "command": command, **benchmark(options.trials, options.times, options.seed)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(options.out, report)
    options.out.with_suffix(".md").write_text(markdown(report))
    print(markdown(report))


def benchmark(trials: int, times: int, seed: int) -> dict[str, Any]:
    """Seconds of each of `FIGURES`, `times` of them, with the machine and the browser they were taken on.

    Raises:
        RuntimeError: there is no Chromium, or zoom or selection were lost over a new trial.
    """
    from playwright.sync_api import sync_playwright

    chromium = browser_runtime.find_browser("")
    if chromium is None:
        raise RuntimeError(f"{browser_runtime.NO_BROWSER}; {browser_runtime.BROWSER_FIX}")
    machine = describe_machine()
    seconds: dict[str, list[float]] = {name: [] for name in FIGURES}
    with tempfile.TemporaryDirectory(prefix="autoshrink-") as temporary, sync_playwright() as playwright:
        results = Path(temporary)
        study = generate(results / f"generated-{trials}", trials, seed)
        trials_drawn = _field(_view(study))
        launch = {"executable_path": str(chromium), "args": list(ARGUMENTS)}
        browser = playwright.chromium.launch(**launch)
        version = f"Chromium {browser.version}"
        for _ in range(times):
            with _server(results) as (url, started), browser.new_context(viewport=WINDOW) as stranger:
                seconds["start"].append(started)
                seconds["first"].append(_Reader(stranger, url, study, trials_drawn).opened()[1])
        browser.close()
        with tempfile.TemporaryDirectory(prefix="autoshrink-") as profile:
            known = playwright.chromium.launch_persistent_context(profile, viewport=WINDOW, **launch)
            with _server(results) as (url, _), known:
                reader = _Reader(known, url, study, trials_drawn)
                for _ in range(VISITS):
                    reader.opened()
                visits = [reader.opened() for _ in range(times)]
                seconds["pick"], seconds["open"] = ([visit[part] for visit in visits] for part in (0, 1))
                seconds |= _at_work(reader, times)
    return {"seed": seed, "trials": trials, "times": times, "machine": machine, "browser": version, "seconds": seconds}


@contextmanager
def _server(results: Path) -> Iterator[tuple[str, float]]:
    """The dashboard as its command starts it: its address, and after how many seconds it answered."""
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "autoshrink", "dashboard", str(results), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        said = ""
        for line in process.stdout or ():
            said += line
            found = ADDRESS.search(line)
            if found:
                yield found.group(), time.monotonic() - began
                return
        raise RuntimeError(f"the dashboard did not start:\n{said}")
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True)
class _Reader:
    """Somebody with a browser, before the front of a study's first target; `trials` are drawn there as a field."""

    context: Any
    url: str
    study: StudyFolder
    trials: int

    def page(self, query: str = "") -> Any:
        """The front, being opened."""
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.add_init_script(path=SCRIPT)
        page.goto(f"{self.url}/study/{self.study.path.name}/front{query}")
        return page

    def opened(self) -> tuple[float, float]:
        """Seconds from the beginning of the navigation until the pick is shown, and until the front is drawn."""
        page = self.page()
        try:
            drawn = float(_drawn(page, self.trials)["at"])
            said = float(page.evaluate("() => window.bench.said[0].at"))
            page.wait_for_timeout(SETTLE_MS)
            return said / 1000, drawn / 1000
        finally:
            page.close()


def _view(study: StudyFolder) -> TargetView:
    return next(iter(Library(study.path.parent).snapshot(study.path.name).views.values()))


def _field(view: TargetView) -> int:
    """How many trials are drawn as the field: those with figures, less the baseline and the plain int8."""
    return sum(record.is_measured for record in view.records) - 2


def _drawn(page: Any, trials: int) -> dict[str, Any]:
    """The first drawing of so many trials or more."""
    script = "trials => window.bench.drawn.find(each => each.trials >= trials)"
    found: dict[str, Any] = page.wait_for_function(script, arg=trials).json_value()
    return found


def _at_work(reader: _Reader, times: int) -> dict[str, list[float]]:
    """Pans, sets limits and waits for news on one page that stays open."""
    page, study = reader.page(f"?trial={SELECTED}"), reader.study
    try:
        trials = int(_drawn(page, reader.trials)["trials"])
        page.wait_for_timeout(SETTLE_MS)
        limits = _limits(page, _view(study), times)
        _type_limit(page, "")
        page.wait_for_timeout(SETTLE_MS)
        return {"limit": limits, "pan": _pans(page, times), "news": _news(page, study, trials, times)}
    finally:
        page.close()


def _type_limit(page: Any, text: str) -> None:
    box = page.locator("""[id='{"name":"max_latency","type":"control"}']""")
    box.fill(text)
    box.press("Enter")


def _limits(page: Any, view: TargetView, times: int) -> list[float]:
    """Limits on the latency that lead to another pick each."""
    found = []
    for text in _different_limits(view, times):
        page.evaluate("() => { for (const list of Object.values(window.bench)) list.length = 0; }")
        _type_limit(page, text)
        page.wait_for_function(
            "() => window.bench.keys.length && window.bench.drawn.length && window.bench.said.length"
        )
        # There may be more than one drawing: the last one counts.
        page.wait_for_timeout(SETTLE_MS)
        done = page.evaluate("() => window.bench")
        found.append((max(done["drawn"][-1]["at"], done["said"][-1]["at"]) - done["keys"][0]) / 1000)
    return found


def _different_limits(view: TargetView, times: int) -> list[str]:
    latencies = sorted(record.latency.ms for record in view.members if record.latency)
    found, before = [], None
    for place in range(100 * times):
        limit = round(latencies[0] + (latencies[-1] - latencies[0]) * ((place * 0.37) % 1.0), 2)
        try:
            pick = view.choose(view.applicable(merged(Limits(latency_ms=limit), view.target.limits))[0]).number
        except NothingFits:
            continue
        if pick != before:
            before = pick
            found.append(f"{limit}ms")
        if len(found) == times:
            return found
    raise RuntimeError(f"there are no {times} limits that lead to different picks")


def _pans(page: Any, times: int) -> list[float]:
    page.locator("#front-plot .modebar-btn[data-val=pan]").click()
    place = page.locator("#front-plot .nsewdrag").first.bounding_box()
    x, y = place["x"] + place["width"] / 2, place["y"] + place["height"] / 2
    found = []
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 10, y)
    for turn in range(times):
        page.wait_for_timeout(300)
        page.evaluate("() => { window.bench.moves.length = 0; window.bench.follows.length = 0; }")
        page.mouse.move(x + PANNED * (1 if turn % 2 else -1), y)
        page.wait_for_function("() => window.bench.follows.length")
        found.append(page.evaluate("() => window.bench.follows[0] - window.bench.moves[0]") / 1000)
    page.mouse.up()
    return found


def _news(page: Any, study: StudyFolder, trials: int, times: int) -> list[float]:
    """Writes trials as a search does, and looks that what the reader had chosen stays."""
    page.locator("#front-plot .modebar-btn[data-val=zoom]").click()
    place = page.locator("#front-plot .nsewdrag").first.bounding_box()
    page.mouse.move(place["x"] + 0.2 * place["width"], place["y"] + 0.2 * place["height"])
    page.mouse.down()
    page.mouse.move(place["x"] + 0.7 * place["width"], place["y"] + 0.7 * place["height"], steps=4)
    page.mouse.up()
    page.wait_for_timeout(500)
    before = _chosen(page)
    records = study.records(next(iter(study.meta.targets)))
    last, like = records[-1].number, next(record for record in reversed(records) if record.is_measured)
    found = []
    for count in range(1, times + 1):
        study.write(_following(like, last + count))
        written = time.time()
        found.append(_drawn(page, trials + count)["wall"] / 1000 - written)
    if _chosen(page) != before:
        raise RuntimeError(f"a new trial changed what the reader had chosen: {before} became {_chosen(page)}")
    return found


def _chosen(page: Any) -> Any:
    """The zoom, and the selected trial."""
    return page.evaluate(
        "() => { const layout = document.querySelector('#front-plot .js-plotly-plot')._fullLayout;"
        " return [layout.xaxis.range, layout.yaxis.range, new URLSearchParams(location.search).get('trial')]; }"
    )


def _following(like: TrialRecord, number: int) -> TrialRecord:
    """A trial with the figures of another and a recipe of its own."""
    ratio = {"technique": "prune", "ratio": round(0.5 + 1e-6 * number, 6)}
    recipe = Recipe.from_json([ratio, {"technique": "quantize", "scheme": "int8_static"}])
    return replace(like, number=number, recipe=recipe)


def markdown(report: dict[str, Any]) -> str:
    """The report as a Markdown page."""
    machine = report["machine"]
    load = machine["load_1_min"]
    lines = [
        f"# The dashboard with {report['trials']:,} trials",
        "",
        f"`{report['command']}`",
        "",
        "| what | times | median | least | most | expected |",
        "|---|---|---|---|---|---|",
    ]
    for name, (text, most) in FIGURES.items():
        values = report["seconds"][name]
        expected = "" if most is None else f"under {_text(most)}"
        lines.append(
            f"| {text} | {len(values)} | {_text(statistics.median(values))} | {_text(min(values))} "
            f"| {_text(max(values))} | {expected} |"
        )
    lines += [
        "",
        f"Generated trials, seed {report['seed']}: see `autoshrink/bench/many_trials.py`. {machine['processor']} "
        f"({machine['usable_cores']} cores), {report['browser']}, headless and without a graphics card; load before it "
        f"began {'not known' if load is None else f'{load:.1f}'}. Zoom and selection stayed over each new trial.",
        "",
    ]
    return "\n".join(lines)


def _text(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.0f} ms"


if __name__ == "__main__":
    main()
