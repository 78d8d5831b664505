"""What the page Search says of the layers' sensitivities, and of what was expected by them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from autoshrink.dashboard.app.search_sensitivity import (
    foresight_csv,
    foresight_table,
    sensitivity_csv,
    sensitivity_table,
)
from autoshrink.dashboard.correlation import FEW, rank_correlation
from autoshrink.dashboard.palette import LIGHT
from autoshrink.dashboard.sensitivity import (
    foresight_words,
    foresights,
    measurements,
    most_sensitive,
    options_of,
    positive_floor,
)
from autoshrink.dashboard.sensitivity_figures import MOST_LAYERS, foresight_figure, sensitivity_figure
from autoshrink.records import StudyFolder
from autoshrink.sensitivities import Allocation, Sensitivities
from autoshrink.types import TrialRecord
from tests.fake_allocations import FAKE_SENSITIVITIES, write_fake_allocated
from tests.fake_study import FAKE_TARGETS, fake_meta, fake_trial, fake_view

SHARES = Sensitivities(
    "prune",
    "share of channels removed",
    "one layer alone",
    "mean squared error over the mean square",
    {"a": ((0.0, 0.0), (0.12, 0.1), (0.5, 0.4)), "b": ((0.0, 0.0), (0.13, 0.0)), "narrow": ((0.0, 0.0),)},
)


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return StudyFolder.create(tmp_path / "s", fake_meta({"onnxruntime-cpu": FAKE_TARGETS["onnxruntime-cpu"]}))


@pytest.fixture
def records(study: StudyFolder) -> list[TrialRecord]:
    return [fake_trial(0), *write_fake_allocated(study, 1)]


class TestRankCorrelation:
    def test_known_answers(self) -> None:
        """What scipy.stats.spearmanr gives for the same lists."""
        cases = [
            ([1, 2, 3, 4, 5], [5, 6, 7, 8, 7], 0.8207826816681233),
            ([1, 2, 3, 4, 5, 6], [1, 4, 9, 16, 25, 36], 1.0),
            ([1, 2, 3, 4, 5, 6], [6, 5, 4, 3, 2, 1], -1.0),
            ([106, 86, 100, 101, 99, 103, 97, 113, 112, 110], [7, 0, 27, 50, 28, 29, 20, 12, 6, 17], -0.1757575757),
        ]
        for first, second, expected in cases:
            found = rank_correlation(first, second)
            assert found is not None
            assert found.value == pytest.approx(expected)
            assert found.pairs == len(first)

    def test_what_may_be_chance(self) -> None:
        """Of 120 orders of five, 2 are as extreme as a perfect one; over 0.82 and ties are more than 6 of them."""
        perfect, close = (
            rank_correlation([1, 2, 3, 4, 5], [2, 3, 5, 7, 9]),
            rank_correlation([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]),
        )
        assert perfect is not None and perfect.is_sure
        assert close is not None and not close.is_sure
        assert str(close) == "rank correlation 0.82 over 5 trials, which may be chance"

    def test_both_tests_agree_where_they_meet(self) -> None:
        random = np.random.default_rng(0)
        first = random.normal(size=FEW + 1)
        for strength, sure in ((0.0, False), (1.0, True)):
            second = strength * first + random.normal(size=FEW + 1)
            for count in (FEW, FEW + 1):
                found = rank_correlation([*first[:count]], [*second[:count]])
                assert found is not None and found.is_sure is sure

    @pytest.mark.parametrize("second", [[1, 2, 3, 4], [1, 1, 1, 1, 1]])
    def test_too_little_to_compare(self, second: list[float]) -> None:
        assert rank_correlation([*range(len(second))], second) is None


class TestMeasurements:
    def test_trials_that_share_one_are_together(self, records: list[TrialRecord]) -> None:
        first, second = measurements(fake_view(records))
        assert [record.number for record in first.records] == [1, 2, 3, 4]
        assert first.title == "QAT, trials 1, 2, 3 and 1 more"
        assert second.title == "QAT, trials 5, 6"
        assert first.given("head") == {8.0: 1, 6.0: 1, 4.0: 1, 2.0: 1}
        assert first.key != second.key

    def test_records_from_before_have_none(self) -> None:
        view = fake_view([fake_trial(0), fake_trial(1, [{"technique": "qat"}])])
        assert measurements(view) == foresights(view) == []
        assert foresight_figure([], view.metric, LIGHT) is None

    def test_options_that_layers_have_in_common(self) -> None:
        assert options_of(SHARES) == ["1/8 of channels", "1/2 of channels"]
        assert options_of(FAKE_SENSITIVITIES) == ["8 bits", "6 bits", "4 bits", "2 bits"]

    def test_the_most_sensitive_in_the_order_of_the_model(self) -> None:
        assert most_sensitive(FAKE_SENSITIVITIES, 2) == ["head", "<b>odd</b>"]
        assert most_sensitive(SHARES, 9) == ["a", "b"]

    def test_zeros_stand_left_of_all_others(self) -> None:
        assert positive_floor([0.0, 0.3, 9.0]) == pytest.approx(0.1)
        assert positive_floor([0.0]) is None


class TestShown:
    def test_a_row_a_layer_and_a_point_an_option(self, records: list[TrialRecord], study: StudyFolder) -> None:
        shared = measurements(fake_view(records))[0]
        measured = study.sensitivities(shared.allocations[0])
        assert measured == FAKE_SENSITIVITIES
        figure = sensitivity_figure(measured, shared, LIGHT)
        assert figure is not None
        points = {
            trace.name: dict(zip(trace.y, trace.x, strict=True)) for trace in figure.data if trace.mode == "markers"
        }
        assert set(points) == set(options_of(measured))
        assert points["4 bits"]["stem.conv"] == 4.0**-4
        texts = " ".join([*figure.layout.yaxis.ticktext, *(text for trace in figure.data for text in trace.text or ())])
        assert "&lt;b&gt;odd" in texts and "<b>odd" not in texts
        assert "given to it by 1 of 4 trials" in texts
        table = json.dumps(sensitivity_table(measured, shared).to_plotly_json(), default=lambda o: o.to_plotly_json())
        assert "0.0039" in table and "8 bits (1), 6 bits (1), 4 bits (1), 2 bits (1)" in table
        rows = [*sensitivity_csv(measured, shared).rows]
        assert ("stem.conv", 4.0, 4.0**-4, 1, 4) in rows
        assert len(rows) == len(measured.losses) * 4

    def test_a_model_of_many_layers_shows_the_most_sensitive(self, records: list[TrialRecord]) -> None:
        losses = {f"layer{place}": ((8.0, 0.001), (4.0, float(place))) for place in range(MOST_LAYERS + 7)}
        figure = sensitivity_figure(
            replace(FAKE_SENSITIVITIES, losses=losses), measurements(fake_view(records))[0], LIGHT
        )
        assert figure is not None
        assert list(figure.layout.yaxis.categoryarray[-2:]) == ["layer8", "layer7"]

    def test_nothing_to_draw(self, records: list[TrialRecord]) -> None:
        shared = measurements(fake_view(records))[0]
        flat = replace(SHARES, losses={"a": ((0.0, 0.0), (0.5, 0.0))})
        assert sensitivity_figure(flat, shared, LIGHT) is None

    def test_expected_against_measured(self, records: list[TrialRecord]) -> None:
        view = fake_view(records)
        (found,) = foresights(view)
        assert found.name == "QAT"
        assert found.expected[2] == pytest.approx(sum(range(1, 12)) * 4.0**-4)
        assert found.lost == pytest.approx([0, 0.002, 0.01, 0.2, 0.002, 0.01])
        assert foresight_words([found]) == "QAT: rank correlation 1.00 over 6 trials."
        figure = foresight_figure([found], view.metric, LIGHT)
        assert figure is not None
        (trace,) = figure.data
        assert list(trace.customdata) == [1, 2, 3, 4, 5, 6]
        assert trace.y[3] == pytest.approx(20)
        table = json.dumps(foresight_table(view, [found], "s").to_plotly_json(), default=lambda o: o.to_plotly_json())
        assert "-20.00 points" in table
        assert [row[0] for row in foresight_csv(view).rows] == [1, 2, 3, 4, 5, 6]

    def test_several_stages_are_one_expectation(self) -> None:
        both = (
            Allocation("prune", {}, 0.5, "sensitivities/a.json"),
            Allocation("qat", {}, 0.25, "sensitivities/b.json"),
        )
        records = [
            replace(fake_trial(number, [{"technique": "qat"}]), allocations=both[number % 2 :])
            for number in range(1, 4)
        ]
        found = foresights(fake_view([fake_trial(0), *records]))
        assert [(each.name, each.expected) for each in found] == [("QAT", (0.25, 0.25)), ("prune + QAT", (0.75,))]
        assert foresight_words(found).startswith("All: too early to say, with 3 of them. QAT: too early")
