from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path

from rich.console import Console

from autoshrink.progress import Progress
from autoshrink.types import Outcome, Recipe
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
import contextlib, io, signal
from rich.console import Console
from autoshrink.progress import Progress

before = signal.getsignal(signal.SIGINT)
try:
    with Progress(Console(file=io.StringIO()), "study", planned=4, time_limit_s=None) as progress:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        progress.stage("export", 0, 0)
        print("went on")
except KeyboardInterrupt:
    print("interrupted", signal.getsignal(signal.SIGINT) is before)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert done.stdout.split() == ["interrupted", "True"]
