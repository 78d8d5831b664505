from __future__ import annotations

import base64
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest

from autoshrink.dashboard.answer import answer_markup, answer_of
from autoshrink.dashboard.figure_json import SHORT, packed
from autoshrink.dashboard.front_look import Axes, Look, Panel, default_x, look_of
from autoshrink.dashboard.front_plot import front_plot, groups, limit_patch, news_patch
from autoshrink.dashboard.front_words import caption, replaced, summary, why_nothing
from autoshrink.dashboard.markup import join
from autoshrink.dashboard.palette import LIGHT
from autoshrink.dashboard.points import Points
from autoshrink.dashboard.quantities import ACCURACY, DROP, GZIP, LATENCY, MEMORY, QUANTITIES, SIZE, THROUGHPUT
from autoshrink.dashboard.trial_card import figures_of
from autoshrink.dashboard.view import TargetView
from autoshrink.target import Limits
from autoshrink.types import Outcome, TrialRecord
from tests.fake_field import FIELD, fake_field_record
from tests.fake_study import fake_trial, fake_view

INT8 = [{"technique": "quantize", "scheme": "int8_static"}]
PRUNED = [{"technique": "prune", "ratio": 0.5}]
BOTH = [*PRUNED, *INT8]


def records() -> list[TrialRecord]:
    """A baseline of 1.24 ms and 4.92 MB, three on the front, one that is dominated, one that was rejected."""
    return [
        fake_trial(0, peak_memory_bytes=80_000_000),
        fake_trial(1, INT8, accuracy=0.89, ratio=0.2, size=1_000_000, peak_memory_bytes=60_000_000),
        fake_trial(2, PRUNED, accuracy=0.88, ratio=0.4, size=900_000),
        fake_trial(3, PRUNED, accuracy=0.87, ratio=0.5, size=2_000_000),
        fake_trial(4, BOTH, accuracy=0.885, ratio=0.1, size=500_000),
        TrialRecord(5, "onnxruntime-cpu", fake_trial(5, PRUNED).recipe, Outcome.REJECTED, "bf16: no kernels"),
    ]


def panel(found: Sequence[TrialRecord], limits: Limits | None = None, **changes: Any) -> Panel:
    return Panel(Points(fake_view(found)), limits or Limits(), **changes)


def drawn(panels: Sequence[Panel], look: Look | None = None) -> dict[str, Any]:
    look = look or Look()
    figure = front_plot(panels, look, LIGHT, LIGHT.colours(groups([each.points for each in panels], look)))
    assert figure is not None
    # Plotly checks every name and every value.
    go.Figure(figure)
    return figure


def named(figure: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    """The traces of this name that have points."""
    return [trace for trace in figure["data"] if trace["name"] == name and [x for x in trace["x"] if x is not None]]


def test_the_line_steps_along_what_none_beats() -> None:
    figure = drawn([panel(records())])
    (line,) = named(figure, "front")
    assert list(zip(line["x"], line["y"], strict=True)) == [(0.1, 88.5), (0.2, 89.0), (1.0, 90.0)]
    assert line["line"]["shape"] == "hv"


def test_where_more_is_better_the_line_steps_the_other_way() -> None:
    figure = drawn([panel(records())], Look(x=THROUGHPUT))
    (line,) = named(figure, "front")
    assert line["x"] == pytest.approx([1.0, 5.0, 10.0])
    assert line["y"] == [90.0, 89.0, 88.5]
    assert line["line"]["shape"] == "vh"


def test_costs_with_units() -> None:
    figure = drawn([panel(records())], Look(x=SIZE, relative=False))
    (star,) = named(figure, "fp32 baseline")
    assert star["x"] == [pytest.approx(4.92)]
    assert figure["layout"]["xaxis"]["title"]["text"] == "size, MB"
    figure = drawn([panel(records())], Look(relative=False))
    (star,) = named(figure, "fp32 baseline")
    assert star["x"] == [pytest.approx(1.24)]
    assert figure["layout"]["xaxis"]["title"]["text"] == "latency, ms"


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=list(QUANTITIES))
def test_every_quantity_can_be_drawn_up_and_across(quantity: Any) -> None:
    for look in (Look(x=quantity), Look(y=quantity, x=LATENCY if quantity is not LATENCY else SIZE)):
        for relative in (True, False):
            figure = drawn([panel(records())], replace(look, relative=relative))
            assert named(figure, "fp32 baseline")


def test_a_drop_counts_from_the_baseline_in_points() -> None:
    figure = drawn([panel(records(), Limits(drop=0.015))], Look(y=DROP))
    (star,) = named(figure, "fp32 baseline")
    assert star["y"] == [0.0]
    (line,) = named(figure, "front")
    assert line["y"] == pytest.approx([1.5, 1.0, 0.0])
    (limit,) = figure["layout"]["shapes"]
    assert limit["y0"] == limit["y1"] == pytest.approx(1.5)


def test_what_does_not_keep_the_limits_is_hollow() -> None:
    figure = drawn([panel(records(), Limits(latency_ms=0.5))])
    hollow = {
        tuple(name): symbol.endswith("-open")
        for trace in figure["data"]
        if trace.get("meta", {}).get("field")
        for name, symbol in zip(trace["customdata"], trace["marker"]["symbol"], strict=True)
    }
    # 0.4 of 1.24 ms is 0.496 ms; the end of its interval lies over half a millisecond.
    assert hollow == {
        (2, "onnxruntime-cpu"): True, (3, "onnxruntime-cpu"): True, (4, "onnxruntime-cpu"): False,
    }  # fmt: skip
    (plain,) = named(figure, "hand-made int8")
    assert plain["marker"]["symbol"] == "diamond"
    assert plain["customdata"] == [[1, "onnxruntime-cpu"]]
    (limit,) = figure["layout"]["shapes"]
    assert limit["x0"] == pytest.approx(0.5 / 1.24)


def test_wider_limits_let_trials_onto_the_front() -> None:
    over = fake_trial(6, PRUNED, accuracy=0.91, ratio=0.9, size=4_000_000, outcome=Outcome.INFEASIBLE)
    points = Points(fake_view([*records(), over]))
    assert points.members(points.keeps(Limits(latency_ms=0.3))).tolist()[-1] is False
    members = points.members(points.keeps(Limits()))
    assert points.numbers[members].tolist() == [1, 4, 6]


def test_pick_and_selection_are_marked_and_told() -> None:
    figure = drawn([panel(records(), chosen=4, selected=2)])
    assert named(figure, "the pick")[0]["x"] == [0.1]
    assert named(figure, "selected")[0]["x"] == [0.4]
    assert [note["text"] for note in figure["layout"]["annotations"]] == ["pick", "trial 2"]
    pick, _ = figure["layout"]["annotations"]
    assert pick["x"] == pytest.approx(math.log10(0.1))
    # What has no place is not marked.
    assert not named(drawn([panel(records(), selected=5)]), "selected")
    assert not named(drawn([panel(records(), selected=99)]), "selected")


def test_far_below_there_is_only_a_count() -> None:
    far = fake_trial(7, PRUNED, accuracy=0.1, ratio=0.05, size=100, outcome=Outcome.INFEASIBLE)
    figure = drawn([panel([*records(), far], Limits(drop=0.02))])
    assert "1 trial below" in [note["text"] for note in figure["layout"]["annotations"]]
    assert figure["layout"]["yaxis"]["autorangeoptions"]["clipmin"] > 80
    # A range would take a reader's zoom away when it changes with the next trial.
    assert "range" not in figure["layout"]["yaxis"]
    assert "range" not in figure["layout"]["xaxis"]


def test_a_scale_is_logarithmic_where_it_spans_much_or_is_asked_to() -> None:
    assert drawn([panel(records())])["layout"]["xaxis"]["type"] == "log"
    assert drawn([panel(records())], Look(x_scale="linear"))["layout"]["xaxis"].get("type") != "log"
    near = [fake_trial(0), fake_trial(1, INT8, accuracy=0.89, ratio=0.8)]
    assert drawn([panel(near)])["layout"]["xaxis"].get("type") != "log"
    assert drawn([panel(near)], Look(x_scale="log"))["layout"]["xaxis"]["type"] == "log"
    # A drop may be negative.
    assert drawn([panel(records())], Look(y=DROP, y_scale="log"))["layout"]["yaxis"].get("type") != "log"


def test_unfinished_trials_where_they_have_coordinates() -> None:
    stopped = replace(
        fake_trial(8, BOTH, accuracy=0.5, ratio=0.3), val=None, drop=None, drop_ci=None, outcome=Outcome.STOPPED
    )
    found = [*records(), stopped]
    look = Look(x=LATENCY, y=SIZE, unfinished=True)
    assert named(drawn([panel(found)], look), "stopped")[0]["customdata"] == [[8, "onnxruntime-cpu"]]
    assert not named(drawn([panel(found)], replace(look, unfinished=False)), "stopped")
    assert not named(drawn([panel(found)], Look(unfinished=True)), "stopped")
    axes = Axes(Look(unfinished=True), [panel(found)])
    assert caption(axes).endswith("Not drawn: 1 rejected, 1 stopped.")


def test_several_targets_side_by_side_below_each_other_and_in_one() -> None:
    panels = [
        Panel(Points(TargetView(FIELD[name], [fake_field_record(name, k) for k in range(6)])))
        for name in ("server", "phone")
    ]
    beside = drawn(panels, Look(apart="columns"))
    assert {trace.get("xaxis") for trace in beside["data"]} >= {"x", "x2"}
    first, second = beside["layout"]["xaxis"]["domain"], beside["layout"]["xaxis2"]["domain"]
    assert first[0] == 0
    assert first[1] < second[0]
    assert second[1] == pytest.approx(1.0)
    assert beside["layout"]["yaxis2"]["matches"] == "y"
    below = drawn(panels, Look(apart="rows"))
    assert below["layout"]["yaxis"]["domain"][0] > below["layout"]["yaxis2"]["domain"][1]
    assert below["layout"]["height"] > beside["layout"]["height"]
    one = drawn(panels, Look(apart="overlay"))
    assert {trace.get("xaxis", "x") for trace in one["data"]} == {"x"}
    assert [trace["name"] for trace in one["data"]][-2:] == ["server", "phone"]
    assert one["layout"]["uirevision"] != beside["layout"]["uirevision"]


def test_in_space() -> None:
    figure = drawn([panel(records(), chosen=4)], Look(solid=True))
    assert {trace["type"] for trace in figure["data"]} == {"scatter3d"}
    marked = [each for trace in figure["data"] if trace["name"] != "the pick" for each in trace["customdata"]]
    numbers = sorted(number for number, _ in marked)
    assert numbers == [0, 1, 2, 3, 4]
    assert figure["layout"]["scene"]["zaxis"]["title"]["text"] == "accuracy on val, %"


def test_a_group_has_a_form_of_its_own_and_a_target_in_an_overlay() -> None:
    alone = drawn([panel(records())])
    keys = {trace["name"]: trace["marker"]["symbol"] for trace in alone["data"] if trace["x"] == [None]}
    assert len(set(keys.values())) == len(keys) > 1
    for trace in alone["data"]:
        if trace.get("meta", {}).get("field"):
            assert {symbol.removesuffix("-open") for symbol in trace["marker"]["symbol"]} == {keys[trace["name"]]}
    panels = [
        Panel(Points(TargetView(FIELD[name], [fake_field_record(name, k) for k in range(6)])))
        for name in ("server", "phone")
    ]
    overlay = drawn(panels, Look(apart="overlay"))
    fields = [trace for trace in overlay["data"] if trace.get("meta", {}).get("field")]
    forms = {
        (target, symbol.removesuffix("-open"))
        for trace in fields
        for (_, target), symbol in zip(trace["customdata"], trace["marker"]["symbol"], strict=True)
    }
    assert forms == {("server", "circle"), ("phone", "square")}


def test_many_trials_are_left_to_the_page_in_binary() -> None:
    many = [fake_trial(0)] + [
        fake_trial(k, [{"technique": "prune", "ratio": k / 4000}], accuracy=0.7, ratio=0.9, size=4_000_000 + k)
        for k in range(1, 1600)
    ]
    before = panel(many, Limits(size_bytes=4_000_100))
    figure = front_plot([before], Look(), LIGHT, LIGHT.colours(groups([before.points], Look())))
    assert figure is not None
    field = next(trace for trace in figure["data"] if "painted" in trace.get("meta", {}))
    # Plotly knows where they are, for pointing and clicking, and draws nothing.
    assert (field["type"], field["mode"], field["hoveron"]) == ("scatter", "none", "points")
    assert np.frombuffer(base64.b64decode(field["x"]["bdata"]), "<f8") == pytest.approx(np.full(1599, 0.9))
    assert len(field["text"]) == 1599
    look = field["meta"]["painted"]
    assert sum(base64.b64decode(look["keeps"])) == 100
    sizes = np.frombuffer(base64.b64decode(look["sizes"]), np.uint8) / 10
    assert sizes.min() >= 5.0
    assert sizes.max() <= 14.0
    # Markers that plotly does not draw get no room of its own.
    assert figure["layout"]["xaxis"]["autorangeoptions"]["include"] == pytest.approx([1.03])
    place = figure["data"].index(field)
    changed = dict(limit_patch(figure))
    assert changed["data", place, "meta", "painted", "keeps"] == look["keeps"]
    assert not [path for path in changed if path[:2] == ("data", place) and len(path) < 5]


def test_a_patch_is_all_that_limits_and_selection_change() -> None:
    look = Look()
    before = drawn([panel(records())], look)
    after = drawn([panel(records(), Limits(latency_ms=0.5, size_bytes=950_000), chosen=4, selected=2)], look)
    for path, value in limit_patch(after):
        part = before
        for step in path[:-1]:
            part = part[step]
        part[path[-1]] = value
    assert before == after


def test_news_move_no_axis() -> None:
    later = fake_trial(6, BOTH, accuracy=0.92, ratio=0.15, size=400_000)
    figure = drawn([panel([*records(), later])])
    assert figure["layout"]["uirevision"] == drawn([panel(records())])["layout"]["uirevision"]
    paths = {path for path, _ in news_patch(figure)}
    assert ("data",) in paths
    assert {path[2] for path in paths if len(path) == 3} == {"title", "autorangeoptions"}
    solid = drawn([panel(records())], Look(solid=True))
    assert {path for path, _ in news_patch(solid)} == {("data",)}


def test_short_arrays_stay_readable_and_others_are_refused() -> None:
    assert packed(np.arange(3.0)) == [0.0, 1.0, 2.0]
    with pytest.raises(ValueError, match="complex128"):
        packed(np.zeros(SHORT + 1, dtype=np.complex128))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([], "No trial has ended yet"),
        ([fake_trial(1, INT8)], "The baseline is missing"),
        ([fake_trial(0)], "Only the baseline"),
        ([replace(fake_trial(0), outcome=Outcome.FAILED, val=None, latency=None, artifact=None, reason="no memory")],
         "no memory"),
        ([fake_trial(0), replace(fake_trial(1, INT8), val=None, latency=None, artifact=None, outcome=Outcome.FAILED)],
         "No trial but the baseline"),
    ],
)  # fmt: skip
def test_what_has_no_front_says_why(found: list[TrialRecord], said: str) -> None:
    points = Points(fake_view(found))
    assert front_plot([Panel(points)], Look(), LIGHT, {}) is None
    assert said in why_nothing(points)


def test_a_target_that_only_compiles_shows_accuracies_of_others_and_says_so() -> None:
    others = [fake_field_record("server", k) for k in range(6)]
    view = TargetView(FIELD["tablet"], [fake_field_record("tablet", k) for k in range(6)], others)
    points = Points(view)
    look = look_of(view, points, "latency", "accuracy", "auto", Look())
    assert look.x is SIZE
    assert replaced(points, [("x", "latency")], look) == ["Latency was not measured on tablet: size is shown."]
    figure = drawn([Panel(points)], look)
    assert figure["layout"]["yaxis"]["title"]["text"] == "accuracy on val, of the same recipes on server, %"
    assert not named(figure, "front")
    assert not points.knows(LATENCY)
    assert not points.knows(THROUGHPUT)
    alone = Points(replace(view, others=()))
    assert front_plot([Panel(alone)], Look(x=SIZE), LIGHT, {}) is None
    assert "no tablet here" in why_nothing(alone)


def test_what_is_not_known_is_not_a_number() -> None:
    points = Points(fake_view(records()))
    assert points.column(ACCURACY).known.tolist() == [True] * 5 + [False]
    assert points.column(MEMORY, relative=True).value[:2] == pytest.approx([1.0, 0.75])
    assert points.column(GZIP).known.tolist() == [True] * 5 + [False]
    assert default_x(points.view) is LATENCY


def test_the_figure_in_a_sentence() -> None:
    said = summary(Axes(Look(), [panel(records(), chosen=4)]))
    assert said == (
        "accuracy over latency. onnxruntime-cpu: 5 trials, 3 on the front, "
        "the pick is trial 4, prune 50 % + int8 static"
    )


def test_texts_are_escaped() -> None:
    bad = fake_trial(1, [{"technique": "<img src=x onerror=alert(1)>", "ratio": 0.5}], accuracy=0.89, ratio=0.2)
    bad = replace(bad, reason="<script>alert(1)</script>")
    figure = drawn([panel([fake_trial(0), bad], selected=1)])
    assert "<img" not in str(figure)
    assert "<script" not in str(figure)


def test_the_answer_says_what_is_gained_or_what_is_missed() -> None:
    view = fake_view(records())
    found = answer_of(view, Limits(latency_ms=0.3))
    assert found.number == 4
    text = join(answer_markup(found))
    assert "Why this one" in text
    assert "under these limits" in text
    missed = answer_of(view, Limits(latency_ms=0.05))
    assert missed.number is None
    assert missed.headline.shortfall is not None
    (way,) = missed.headline.shortfall.ways_out
    assert way.gives == 4
    again = answer_of(view, Limits(latency_ms=next(limit.parse(text) for limit, text in way.enough.items())))
    assert again.number == 4


def test_a_card_tells_all_figures_with_their_intervals() -> None:
    view = fake_view(records())
    found = dict(figures_of(view, view.records[1]))
    assert found["change, val"] == "-1.00 points [-1.40, -0.60]"
    assert found["size"] == "1.00 MB, 4.92x smaller"
    assert found["peak memory"] == "60.00 MB"
    assert dict(figures_of(view, view.records[5])) == {}


def test_drawing_needs_no_search_and_no_torch() -> None:
    code = (
        "import sys, autoshrink.dashboard.front_plot, autoshrink.dashboard.answer; "
        "print([name for name in ('torch', 'optuna', 'onnxruntime') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
