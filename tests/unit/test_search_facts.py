"""What a search spent, what the cache gave, why trials were lost; the lines of its parallel coordinates."""

from __future__ import annotations

import pytest

from autoshrink.dashboard.figures import MOST_BARS, MOST_MARKS, progress_figure, time_figure
from autoshrink.dashboard.palette import DARK, LIGHT
from autoshrink.dashboard.parallel import MOST_LINES, axes_of_lines, classes, lines, parallel_figure
from autoshrink.dashboard.search_facts import reasons, reused_in_all, stage_uses
from autoshrink.target import Limits
from autoshrink.types import Outcome
from tests.fake_study import fake_trial, fake_view

PRUNED = [{"technique": "prune", "ratio": 0.5}]


def test_what_the_cache_gave() -> None:
    records = [
        fake_trial(0, seconds={"export": 4.0, "measure": 1.0}),
        fake_trial(1, seconds={"prune": 10.0, "export": 2.0, "measure": 1.0}),
        fake_trial(2, seconds={"measure": 1.0}, reused=("prune", "export")),
        # A lookup may be among the seconds: it made nothing.
        fake_trial(3, seconds={"export": 0.1, "measure": 1.0}, reused=("export",)),
    ]
    uses = {use.stage: use for use in stage_uses(records)}
    assert list(uses) == ["prune", "export", "measure"]
    export = uses["export"]
    assert (export.made, export.reused, export.share_reused) == (2, 2, 0.5)
    assert export.seconds == pytest.approx(6.1)
    assert export.saved == pytest.approx(2 * 3.0)
    assert uses["measure"].share_reused is None
    in_all = reused_in_all(uses.values())
    assert (in_all.wanted, in_all.reused) == (6, 3)
    assert in_all.saved == pytest.approx(16)


def test_what_no_trial_made_saves_nothing_that_is_known() -> None:
    (use,) = stage_uses([fake_trial(0, seconds={}, reused=("export",))])
    assert (use.made, use.reused, use.saved) == (0, 1, None)


def test_reasons_are_grouped_without_the_numbers_they_differ_in() -> None:
    over = "latency {} ms is over the limit of 0.900 ms"
    records = [
        fake_trial(0),
        fake_trial(1, outcome=Outcome.INFEASIBLE, reason=over.format("1.02")),
        fake_trial(2, outcome=Outcome.INFEASIBLE, reason=over.format("1.37")),
        fake_trial(3, outcome=Outcome.REJECTED, reason="bf16: no kernels"),
        fake_trial(4, outcome=Outcome.FAILED, reason="exit code -9 (8192 MiB)"),
        fake_trial(5, outcome=Outcome.FAILED, reason="exit code -9 (8192 MiB)"),
        fake_trial(6, outcome=Outcome.FAILED, reason=""),
    ]
    assert [(reason.outcome.value, reason.text, reason.numbers) for reason in reasons(records)] == [
        ("failed", "exit code -9 (8192 MiB)", (4, 5)),
        ("failed", "no reason was recorded", (6,)),
        ("infeasible", "latency … ms is over the limit of … ms", (1, 2)),
        ("rejected", "bf16: no kernels", (3,)),
    ]


def test_progress_over_time_stands_at_the_minutes() -> None:
    records = [fake_trial(0), fake_trial(1, PRUNED, ratio=0.5, size=1_000_000)]
    figure = progress_figure(records, Limits(), LIGHT, [1.5, 4.0])
    assert figure is not None
    assert list(figure.data[0].x) == [1.5, 4.0]
    assert "minutes" in figure.layout.xaxis.title.text
    assert [number for trace in figure.data[1:] for number in trace.customdata] == [0, 1]


def test_of_many_trials_only_those_that_raised_the_hypervolume_are_marked() -> None:
    records = [fake_trial(0), *(fake_trial(n, PRUNED, ratio=0.5, size=1_000_000) for n in range(1, MOST_MARKS + 5))]
    figure = progress_figure(records, Limits(), LIGHT)
    assert figure is not None
    assert len(figure.data[0].x) == len(records)
    assert [list(trace.x) for trace in figure.data[1:]] == [[1]]


def test_bars_of_many_trials_are_shared_and_keep_their_sum() -> None:
    records = [fake_trial(number, seconds={"measure": 2.0, "tiny": 0.001}) for number in range(2 * MOST_BARS + 1)]
    figure = time_figure(records, LIGHT)
    assert figure is not None
    measure, other = figure.data
    assert len(measure.x) <= MOST_BARS
    assert sum(measure.y) == pytest.approx(2.0 * len(records))
    assert sum(other.y) == pytest.approx(0.001 * len(records))
    assert measure.text[0] == "trials 0 to 2, measure: 6 s"
    assert list(measure.customdata[:2]) == [0, 3]


def test_a_line_goes_through_each_setting_and_figure() -> None:
    records = [
        fake_trial(0, size=4_000_000, ratio=1.0, accuracy=0.9),
        fake_trial(1, [{"technique": "prune", "ratio": 0.25}], size=3_000_000, ratio=0.5, accuracy=0.89),
        fake_trial(2, [{"technique": "prune", "ratio": 0.75}], size=2_000_000, ratio=0.75, accuracy=0.88),
    ]
    view = fake_view(records)
    ratio, latency, size, accuracy = axes_of_lines(view, records)
    assert (ratio.title, ratio.places) == ("prune ratio", (0.0, 0.5, 1.0))
    assert [text for _, text in ratio.marks] == ["off", "0.25", "0.75"]
    assert latency.places == pytest.approx((1.0, 0.0, 0.5))
    assert size.places == (1.0, 0.5, 0.0)
    assert accuracy.places == pytest.approx((1.0, 0.5, 0.0))
    figure = parallel_figure(view, DARK)
    assert figure is not None
    assert {number for trace in figure.data for number in trace.customdata} == {0, 1, 2, None}


def test_a_wide_range_stands_on_a_logarithmic_axis() -> None:
    records = [fake_trial(n, PRUNED if n else [], size=size) for n, size in enumerate((10_000, 100_000, 1_000_000))]
    size = axes_of_lines(fake_view(records), records)[-2]
    assert size.places == pytest.approx((0.0, 0.5, 1.0))


def test_lines_are_coloured_by_their_loss_in_groups_of_equal_size() -> None:
    records = [fake_trial(n, PRUNED if n else [], accuracy=0.9 - n / 100) for n in range(8)]
    found = classes(fake_view(records), records)
    assert [members for _, members, _ in found] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert [label for label, _, _ in found][:2] == ["-1.00 to 0.00 points", "-3.00 to -2.00 points"]
    assert classes(fake_view(records[:1]), records[:1]) == [("all alike", [0], 0)]


def test_the_front_keeps_its_lines_when_there_are_too_many() -> None:
    best = fake_trial(1, PRUNED, ratio=0.1, size=100_000, accuracy=0.95)
    rest = [fake_trial(number, PRUNED, accuracy=0.8) for number in range(2, MOST_LINES + 50)]
    found = lines(fake_view([fake_trial(0), best, *rest]))
    assert len(found) == MOST_LINES
    assert found[0].number == 1
    assert found[-1].number == MOST_LINES + 49


def test_one_trial_makes_no_picture() -> None:
    assert parallel_figure(fake_view([fake_trial(0)]), LIGHT) is None
