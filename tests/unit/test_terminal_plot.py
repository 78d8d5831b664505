"""The front in characters: a picture as recorded, and what must hold of every one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from autoshrink.cli import app
from autoshrink.dashboard.terminal_plot import BASELINE, MEANINGS, MEMBER, OTHER, OVER, PICK, front_picture
from autoshrink.dashboard.view import TargetView
from autoshrink.types import Outcome
from tests.fake_field import fake_field_views
from tests.fake_study import fake_trial, fake_view, make_fake_study

INT8 = [{"technique": "quantize", "scheme": "int8_static"}]
FP16 = [{"technique": "quantize", "scheme": "fp16"}]
PRUNED = [{"technique": "prune", "ratio": 0.5}]
SMALL = [{"technique": "prune", "ratio": 0.75}]


@pytest.fixture
def view() -> TargetView:
    """Latencies 1.24, 0.62, 1.24, 0.31 ms; the pruned one is dominated, the smallest over a limit."""
    return fake_view(
        [
            fake_trial(0),
            fake_trial(1, INT8, accuracy=0.898, ratio=0.5, size=1_250_000),
            fake_trial(2, PRUNED, accuracy=0.894, ratio=1.0, size=2_500_000),
            fake_trial(3, SMALL, accuracy=0.89, ratio=0.25, size=600_000),
            fake_trial(
                4, FP16, accuracy=0.892, ratio=0.75, size=600_000, outcome=Outcome.INFEASIBLE, reason="too large"
            ),
        ]
    )


RECORDED = """\
accuracy on val, %
 90.04+                                      B-
      |                                      |
      |             X-------------------------
 89.68+             |
      |             |
      |             |
      |             |                        .
 89.32+             |
      |             |            x
      |             |
 88.96+ o------------
      ++-------------------+------------------+
   0.273 ms            0.775 ms         1.28 ms
       latency of a call;
       up and to the left is better
       X what `pick` ships   B baseline
       o front   . dominated   x over a limit"""


def test_a_picture_as_recorded(view: TargetView) -> None:
    picture = front_picture(view, width=48, height=11)
    assert picture is not None
    assert "\n".join(picture.lines) == RECORDED


@pytest.mark.parametrize("width", [20, 48, 80, 110])
@pytest.mark.parametrize("name", ["server", "phone", "cloud", "microcontroller"])
def test_every_picture_keeps_its_width_and_shows_its_marks(name: str, width: int) -> None:
    view = fake_field_views()[name]
    picture = front_picture(view, width)
    assert picture is not None
    assert max(map(len, picture.lines)) <= max(width, 48)
    assert all(line == line.rstrip() and line.isascii() for line in picture.lines)
    for (row, column), mark in picture.marks.items():
        assert picture.lines[row][column] == mark
    marks = list(picture.marks.values())
    assert marks.count(PICK) == 1
    below = "\n".join(picture.lines)
    assert all(f"{mark} {MEANINGS[mark]}" in below for mark in marks)


def test_what_is_not_timed_is_drawn_over_its_size() -> None:
    picture = front_picture(fake_field_views()["microcontroller"])
    assert picture is not None
    assert any("size of the file" in line for line in picture.lines)
    assert any("MB" in line for line in picture.lines)


def test_a_faster_trial_stands_left_and_a_better_one_higher(view: TargetView) -> None:
    picture = front_picture(view)
    assert picture is not None
    places = {mark: place for place, mark in picture.marks.items()}
    assert places[MEMBER][1] < places[PICK][1] < places[OVER][1] < places[OTHER][1]
    assert places[BASELINE][0] < places[PICK][0] < places[OTHER][0] < places[OVER][0] < places[MEMBER][0]


def test_a_trial_far_below_does_not_flatten_the_others(view: TargetView) -> None:
    records = [*view.records, fake_trial(5, SMALL, accuracy=0.1, ratio=0.2)]
    picture = front_picture(fake_view(records))
    assert picture is not None
    assert "1 below the axis, drawn at its foot" in picture.lines[-1]
    rows = {row for row, _ in picture.marks}
    assert len(rows) >= 5


def test_one_trial_makes_no_picture() -> None:
    assert front_picture(fake_view([fake_trial(0)])) is None
    assert front_picture(fake_field_views()["tablet"]) is None


def test_the_command_draws_above_the_table_and_without_colour_in_a_pipe(tmp_path: Path) -> None:
    make_fake_study(tmp_path / "fake-study", trials=8)
    found = CliRunner().invoke(app, ["front", "fake-study", "--plot", "--results", str(tmp_path)])
    assert found.exit_code == 0, found.output
    assert found.output.count("up and to the left is better") == 2
    assert not re.search("\x1b", found.output)
    drawn = found.output[: found.output.index("up and to the left")].splitlines()
    assert max(map(len, drawn)) <= 80


@pytest.mark.parametrize("other", ["--json", "--across"])
def test_the_command_refuses_what_shows_no_front(tmp_path: Path, other: str) -> None:
    make_fake_study(tmp_path / "fake-study", trials=2)
    found = CliRunner().invoke(app, ["front", "fake-study", "--plot", other, "--results", str(tmp_path)])
    assert found.exit_code != 0
    assert other in str(found.exception)
