from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console

from autoshrink.progress import Progress
from autoshrink.types import Outcome, Recipe
from tests.fake_field import FIELD, fake_field_record
from tests.fake_study import fake_trial

INT8 = [{"technique": "quantize", "scheme": "int8_static"}]


def shown(terminal: bool) -> tuple[Progress, StringIO]:
    text = StringIO()
    console = Console(file=text, force_terminal=terminal, width=120, color_system=None)
    return Progress(console, "study", planned=4, time_limit_s=None), text


def test_without_a_terminal_each_trial_is_one_line() -> None:
    progress, text = shown(terminal=False)
    with progress:
        progress.begin("t", 0, Recipe())
        progress.stage("export", 0, 0)
        progress.end(fake_trial(0), 1, 4)
        progress.end(fake_trial(1, INT8, ratio=0.25, outcome=Outcome.FAILED, reason="ran over\nsecond line"), 2, 4)
    lines = text.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["[1/4]", "[2/4]"]
    assert "fp32 baseline" in lines[0] and "int8 static" in lines[1]
    assert "ran over" in lines[1] and "second line" not in text.getvalue()


def test_a_terminal_shows_trial_stage_best_and_time_left() -> None:
    progress, text = shown(terminal=True)
    with progress:
        progress.end(fake_trial(0), 1, 4)
        progress.end(fake_trial(1, INT8, ratio=0.25), 2, 4)
        progress.begin("t", 2, Recipe.from_json(INT8))
        progress.stage("finetune", 3, 10)
        progress.stage("finetune", 10, 10)
    for part in ("trial 2 of 4", "left", "finetune 10/10", "best so far", "(4.00x)"):
        assert part in text.getvalue()


def test_an_interrupt_that_was_swallowed_comes_again_at_the_next_event() -> None:
    """In a process of its own: a signal to pytest itself would meet whatever else it has loaded."""
    code = """
import io, signal, sys, weakref
from rich.console import Console
from autoshrink.progress import Progress

class Holder: pass

before = signal.getsignal(signal.SIGINT), sys.unraisablehook
try:
    with Progress(Console(file=io.StringIO()), "study", planned=4, time_limit_s=None) as progress:
        holder = Holder()
        reference = weakref.ref(holder, lambda _: signal.raise_signal(signal.SIGINT))
        del holder
        print("alive")
        progress.stage("export", 0, 0)
        print("went on")
except KeyboardInterrupt:
    print("interrupted", (signal.getsignal(signal.SIGINT), sys.unraisablehook) == before)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == ["alive", "interrupted", "True"]
    assert done.stderr == ""


def test_lines_say_what_is_known_of_each_target() -> None:
    text = StringIO()
    console = Console(file=text, width=400, color_system=None)
    with Progress(console, "study", planned=None, time_limit_s=None, targets=FIELD) as progress:
        for name in ("cloud", "microcontroller", "tablet"):
            progress.end(fake_field_record(name, 0), 1, None)
            progress.end(fake_field_record(name, 3), 2, None)
    lines = [line for line in text.getvalue().splitlines() if " 3  prune" in line]
    cloud, board, tablet = lines
    assert "0.8940  14,815 rows/s (2.78x)  700 kB (7.3x smaller)" in cloud
    assert "0.8930  440 kB (11.2x smaller)  arena 88 kB  cycles ~13,200,000 cycles (estimate)  latency not" in board
    assert tablet.startswith("[2] compiled ")
    assert "450 kB (11.1x smaller)  compiled, not measured: there is no tablet here" in tablet


def test_the_best_so_far_is_the_smallest_where_nothing_is_timed() -> None:
    text = StringIO()
    console = Console(file=text, width=200, color_system=None, force_terminal=True)
    with Progress(console, "study", planned=None, time_limit_s=None) as progress:
        for number in (0, 1, 3, 2):
            progress.end(fake_field_record("microcontroller", number), number, None)
        assert progress._best["microcontroller"].number == 3
