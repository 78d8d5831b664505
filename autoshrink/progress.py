"""What a person sees while a search runs: trial, stage, best so far, time left."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from types import FrameType, TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from autoshrink.search.space import Removal
from autoshrink.search.words import (
    describe,
    human_bytes,
    human_figure,
    human_ms,
    human_rate,
    human_seconds,
    rows_per_second,
)
from autoshrink.target import Target
from autoshrink.types import Outcome, Recipe, TrialRecord

RECENT = 6
WORTHY_DROP = 0.01
"""The best so far is the fastest that loses at most one point; where nothing is timed, the smallest."""

_COLOURS = {
    Outcome.COMPLETE: "green",
    Outcome.COMPILED: "cyan",
    Outcome.INFEASIBLE: "yellow",
    Outcome.REJECTED: "yellow",
    Outcome.FAILED: "red",
}


class Progress:
    """A live display on a terminal, one line a trial elsewhere.

    It is redrawn only when something happened, never by a clock: a thread that ticks would disturb the measurement.
    """

    def __init__(
        self,
        console: Console,
        study: str,
        planned: int | None,
        time_limit_s: float | None,
        targets: Mapping[str, Target] | None = None,
    ) -> None:
        self._targets = targets or {}
        self._console = console
        self._study = study
        self._planned = planned
        self._time_limit = time_limit_s
        self._began = time.monotonic()
        self._first_count: int | None = None
        self._finished = 0
        self._now = Text("preparing")
        self._stage = ""
        self._drawn = 0.0
        self._recent: deque[TrialRecord] = deque(maxlen=RECENT)
        self._baselines: dict[str, TrialRecord] = {}
        self._best: dict[str, TrialRecord] = {}
        self._elsewhere: dict[tuple[str, int], str] = {}
        self._interrupted = False
        self._previous: Callable[[int, FrameType | None], Any] | int | None = None
        self._hook = sys.unraisablehook
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None

    def __enter__(self) -> Progress:
        if threading.current_thread() is threading.main_thread():
            self._previous = signal.signal(signal.SIGINT, self._interrupt)
            self._hook, sys.unraisablehook = sys.unraisablehook, self._unraisable
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGINT, self._previous)
            sys.unraisablehook = self._hook
        if self._live:
            self._live.stop()

    def _interrupt(self, _number: int, _frame: FrameType | None) -> None:
        # Raised where it strikes, and again at the next event: in a destructor Python would swallow it.
        self._interrupted = True
        raise KeyboardInterrupt

    def _unraisable(self, found: sys.UnraisableHookArgs) -> None:
        # An interrupt that a destructor swallowed comes again at the next event: no stack trace for it.
        if not (self._interrupted and found.exc_type is KeyboardInterrupt):
            self._hook(found)

    def removed(self, target: str, removals: Iterable[Removal]) -> None:
        """Says what a target's space was relieved of."""
        for removal in removals:
            self.say(f"{target}: left out {removal.what}: {removal.why}")

    def begin(self, target: str, number: int, recipe: Recipe) -> None:
        """A trial begins."""
        self._now = Text.assemble((target, "bold"), f"  trial {number}  ", (describe(recipe), "cyan"))
        self._stage = ""
        self._draw(force=True)

    def stage(self, stage: str, done: int, total: int) -> None:
        """A stage of the trial begins, or has come so far."""
        self._stage = f"{stage} {done}/{total}" if total else stage
        self._draw(force=not total or done == total)

    def elsewhere(self, target: str, number: int, stage: str) -> None:
        """A trial that a device elsewhere measures has come to a stage."""
        self._elsewhere[target, number] = stage
        self._draw(force=True)

    def lost(self, target: str, number: int) -> None:
        """A trial is left for another run: the devices of its target are gone."""
        self._elsewhere.pop((target, number), None)
        self._draw(force=True)

    def waiting_for_devices(self, target: str) -> None:
        """The search waits for a device of a target."""
        self._now = Text.assemble((target, "bold"), "  looks for its devices")
        self._draw(force=True)

    def end(self, record: TrialRecord, finished: int, planned: int | None) -> None:
        """A trial ended."""
        if self._first_count is None:
            self._first_count = finished - 1
        self._finished, self._planned = finished, planned
        self._elsewhere.pop((record.target, record.number), None)
        if record.number == 0:
            self._baselines[record.target] = record
        elif record.outcome is Outcome.COMPLETE and record.is_scored and (record.drop or 0) <= WORTHY_DROP:
            best = self._best.get(record.target)
            if best is None or _cost(record) < _cost(best):
                self._best[record.target] = record
        self._recent.append(record)
        if self._live is None:
            total = f"/{planned}" if planned else ""
            self._console.print(f"[{finished}{total}] {self._line(record).plain}", highlight=False, soft_wrap=True)
        self._draw(force=True)

    def scoring(self, record: TrialRecord) -> None:
        """A member of the front is scored on the test split."""
        self._now = Text.assemble(
            (record.target, "bold"), f"  trial {record.number}  ", (describe(record.recipe), "cyan")
        )
        self._stage = "test split"
        self._draw(force=True)

    def say(self, text: str) -> None:
        """A line that stays; its own colours, where it has some, go before the usual ones."""
        coloured = Text.from_ansi(text)
        if not coloured.spans:
            coloured.stylize("dim")
        self._console.print(coloured, soft_wrap=True)

    def _draw(self, force: bool) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        # Training reports every step; ten pictures a second are enough.
        if self._live and (force or time.monotonic() - self._drawn > 0.1):
            self._drawn = time.monotonic()
            self._live.update(self._picture(), refresh=True)

    def _picture(self) -> RenderableType:
        elapsed = time.monotonic() - self._began
        head = Table.grid(padding=(0, 2))
        count = f"trial {self._finished} of {self._planned}" if self._planned else f"trial {self._finished}"
        left = self._left(elapsed)
        head.add_row(
            Text(f"autoshrink  {self._study}", style="bold"),
            count,
            ProgressBar(total=self._planned or 1, completed=self._finished if self._planned else 0, width=28),
            human_seconds(elapsed),
            f"about {human_seconds(left)} left" if left is not None else "",
        )
        rows: list[RenderableType] = [head, Text("")]
        rows.extend(self._line(record) for record in self._recent)
        now = self._now.copy()
        now.append(f"  {self._stage}", style="dim")
        rows.append(now)
        rows.extend(
            Text.assemble((target, "bold"), f"  trial {number}  ", (stage, "dim"))
            for (target, number), stage in self._elsewhere.items()
        )
        rows.append(Text(""))
        rows.extend(Text.assemble(("best so far  ", "bold"), self._line(record)) for record in self._best.values())
        return Group(*rows)

    def _left(self, elapsed: float) -> float | None:
        done = self._finished - (self._first_count or 0)
        if done < 2:
            return None
        by_trials = (self._planned - self._finished) * elapsed / done if self._planned else None
        by_time = self._time_limit - elapsed if self._time_limit else None
        known = [max(0.0, value) for value in (by_trials, by_time) if value is not None]
        return min(known) if known else None

    def _line(self, record: TrialRecord) -> Text:
        line = Text.assemble(
            (f"{record.outcome:<10} ", _COLOURS.get(record.outcome, "")),
            f"{record.target} {record.number:>3}  ",
            (describe(record.recipe), "cyan"),
            no_wrap=True,
            overflow="ellipsis",
        )
        line.append("".join(f"  {figure}" for figure in self._figures(record)))
        if record.reason:
            line.append(f"  {record.reason.splitlines()[0][:160]}", style="dim")
        return line

    def _figures(self, record: TrialRecord) -> Iterable[str]:
        """What is known of a trial; what was not measured is left to its reason."""
        if record.val is not None:
            yield f"{record.val.value:.4f}"
        if record.latency is not None:
            target = self._targets.get(record.target)
            speed = human_ms(record.latency.ms)
            if target is not None and target.objective == "throughput":
                speed = human_rate(rows_per_second(record.latency, target.batch))
            yield f"{speed} ({1 / record.latency.ratio:.2f}x)"
        if record.artifact is not None:
            baseline = self._baselines.get(record.target)
            smaller = ""
            if baseline and baseline.artifact:
                smaller = f" ({baseline.artifact.size_bytes / record.artifact.size_bytes:.1f}x smaller)"
            yield f"{human_bytes(record.artifact.size_bytes)}{smaller}"
        yield from (f"{name} {human_figure(figure)}" for name, figure in record.figures.items())


def _cost(record: TrialRecord) -> float:
    if record.latency is not None:
        return record.latency.ratio
    return float(record.artifact.size_bytes) if record.artifact else 0.0
