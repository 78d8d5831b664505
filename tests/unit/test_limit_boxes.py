from __future__ import annotations

import pytest

from autoshrink.dashboard.limit_boxes import (
    BOXES,
    DROP_BOX,
    LATENCY_BOX,
    SIZE_BOX,
    THROUGHPUT_BOX,
    asked_limits,
    box_text,
    range_of,
    scales,
    shown_boxes,
)
from autoshrink.dashboard.points import Points
from autoshrink.dashboard.view import TargetView
from autoshrink.target import Limits
from tests.fake_field import FIELD, fake_field_record
from tests.fake_study import fake_trial, fake_view

INT8 = [{"technique": "quantize", "scheme": "int8_static"}]


def test_boxes_say_limits_as_the_command_line_does() -> None:
    limits, problems = asked_limits(
        {"max_latency": "0.5ms", "max_size": "1.5 MB", "max_drop": "1%", "min_throughput": "500/s"}
    )
    assert limits == Limits(latency_ms=0.5, size_bytes=1_500_000, drop=0.01, throughput=500.0)
    assert problems == {}
    assert asked_limits({"max_latency": "", "max_size": None}) == (Limits(), {})


def test_a_bare_number_has_the_unit_of_its_box() -> None:
    limits, _ = asked_limits({"max_latency": "0.5", "max_size": "2", "max_drop": "1"})
    assert limits == Limits(latency_ms=0.5, size_bytes=2_000_000, drop=0.01)
    limits, _ = asked_limits({"max_drop": "1"}, percent=False)
    assert limits == Limits(drop=1.0)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("max_latency", "fast", "a latency such as 2ms"),
        ("max_size", "-1MB", "a size such as 1MB"),
        ("max_latency", "0ms", "must be over 0"),
        ("max_drop", "<b>1</b>", "a drop such as 1%"),
    ],
)
def test_what_is_no_limit_is_said_and_the_others_hold(name: str, text: str, said: str) -> None:
    other = "max_size" if name == "max_latency" else "max_latency"
    limits, problems = asked_limits({name: text, other: "1"})
    assert said in problems[name]
    assert list(problems) == [name]
    assert limits != Limits()


def test_a_value_comes_back_as_it_was_written() -> None:
    values = {LATENCY_BOX: 0.125, THROUGHPUT_BOX: 812.0, SIZE_BOX: 420_000.0, DROP_BOX: 0.015}
    for box in BOXES:
        limits, problems = asked_limits({box.name: box_text(box, values[box])})
        assert problems == {}
        assert getattr(limits, box.field) == pytest.approx(values[box])


def test_sliders_reach_over_all_trials_and_the_targets_own_limit() -> None:
    records = [fake_trial(0), fake_trial(1, INT8, accuracy=0.89, ratio=0.2, size=1_000_000)]
    points = Points(fake_view(records, Limits(latency_ms=3.0)))
    latency, size, drop = (range_of(points, box) for box in (LATENCY_BOX, SIZE_BOX, DROP_BOX))
    assert latency is not None
    assert size is not None
    assert drop is not None
    bounds = points.bound("latency_ms")
    assert latency.low <= bounds.min()
    assert latency.high == 3.0
    assert latency.own == 3.0
    assert (size.low, size.high) == (1_000_000, 5_000_000)
    assert drop.low == 0.0
    # The one on the front loses 1.4 points at most; a slider reaches two at least.
    assert drop.high == pytest.approx(0.02)
    # Within the range, every trial keeps the right end and none but the best the left one.
    assert points.keeps(Limits(latency_ms=latency.high)).all()
    assert points.keeps(Limits(size_bytes=round(size.low))).tolist() == [False, True]


def test_boxes_are_those_of_what_is_known() -> None:
    def names(target: str) -> list[str]:
        view = TargetView(FIELD[target], [fake_field_record(target, k) for k in range(6)])
        return [box.name for box in shown_boxes(view)]

    assert names("server") == ["max_latency", "max_size", "max_drop"]
    assert names("cloud") == ["min_throughput", "max_size", "max_drop"]
    assert names("microcontroller") == ["max_size", "max_drop"]
    assert names("tablet") == ["max_size"]
    assert scales(Points(TargetView(FIELD["server"], []))) == {}
