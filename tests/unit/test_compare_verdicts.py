"""When one trial is said to be better than another."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from autoshrink.dashboard.compare_recipes import SettingRow, setting_rows
from autoshrink.dashboard.compare_verdicts import (
    Finding,
    gzip_verdict,
    latency_verdict,
    size_verdict,
    verdict_on_test,
    verdict_on_val,
)
from autoshrink.dashboard.formatting import Metric
from autoshrink.dashboard.trial_classes import Answers
from autoshrink.types import Interval, Latency, Recipe, Score, TrialRecord
from autoshrink.val_set import ValSet
from tests.fake_study import fake_latency, fake_trial

POINTS = Metric(percent=True)
INT8 = [{"technique": "quantize", "scheme": "int8_static"}]


def dropping(drop: float, half: float, **changes: object) -> TrialRecord:
    return replace(
        fake_trial(1, INT8), drop=drop, drop_ci=Interval(drop - half, drop + half), **changes  # type: ignore[arg-type]
    )  # fmt: skip


def timed(ratio: float, half: float) -> TrialRecord:
    latency: Latency = replace(fake_latency(ratio), ratio_ci=Interval(ratio * (1 - half), ratio * (1 + half)))
    return fake_trial(1, INT8, latency=latency)


def answers(right: list[int]) -> Answers:
    truth = np.zeros(len(right), np.int64)
    return Answers(ValSet(len(right)), truth, 1 - np.array(right, np.int64))


def test_accuracy_differs_only_where_the_interval_of_the_difference_says_so() -> None:
    # The interval of the difference reaches 0.003 * sqrt(2) = 0.0042 to each side.
    better = verdict_on_val(dropping(0.001, 0.003), dropping(0.006, 0.003), POINTS)
    assert (better.finding, better.first_wins) == (Finding.BETTER, True)
    assert better.amount == "+0.50 points [+0.08, +0.92]"
    assert better.sentence("trial 1", "trial 2") == "trial 1 is better than trial 2: +0.50 points [+0.08, +0.92]"
    worse = verdict_on_val(dropping(0.006, 0.003), dropping(0.001, 0.003), POINTS)
    assert (worse.first_wins, worse.amount) == (False, better.amount)
    assert worse.sentence("a", "b") == "b is better than a: +0.50 points [+0.08, +0.92]"
    tie = verdict_on_val(dropping(0.001, 0.003), dropping(0.005, 0.003), POINTS)
    assert (tie.finding, tie.first_wins) == (Finding.TIE, None)
    assert tie.sentence("a", "b") == "a and b cannot be told apart: +0.40 points [-0.02, +0.82]"


def test_the_baseline_has_no_drop() -> None:
    assert verdict_on_val(fake_trial(0), dropping(0.005, 0.003), POINTS).first_wins is True
    assert verdict_on_val(fake_trial(0), dropping(0.002, 0.003), POINTS).finding is Finding.TIE


def test_predictions_compare_sample_by_sample() -> None:
    # 40 samples that only the first is right about, 10 that only the second is: Agresti and Min's interval is
    # (40 - 10) / 1002 -+ 1.96 sqrt(51 - 30^2 / 1002) / 1002, with half a sample added to each cell.
    first, second = [1] * 40 + [0] * 10 + [1] * 950, [0] * 40 + [1] * 10 + [1] * 950
    records = [
        replace(dropping(0.0, 0.03), val=Score(sum(right) / 1000, Interval(0.9, 1.0), 1000, "wilson"))
        for right in (first, second)
    ]
    found = verdict_on_val(*records, POINTS, (answers(first), answers(second)))
    half = 1.959963984540054 * math.sqrt(51 - 30**2 / 1002) / 1002
    assert found.first_wins is True
    assert found.amount == f"+3.00 points [{100 * (30 / 1002 - half):+.2f}, {100 * (30 / 1002 + half):+.2f}]"
    # The drops alone could not tell them apart.
    assert verdict_on_val(*records, POINTS).finding is Finding.TIE


def test_predictions_do_not_count_where_the_metric_is_another() -> None:
    records = [replace(dropping(0.0, 0.03), val=Score(0.5, Interval(0.4, 0.6), 4, "bootstrap")) for _ in range(2)]
    found = verdict_on_val(*records, POINTS, (answers([1, 1, 1, 1]), answers([0, 0, 0, 0])))
    assert found.finding is Finding.TIE


def test_trials_of_two_targets_have_no_baseline_in_common() -> None:
    other = replace(dropping(0.05, 0.001), target="openvino-cpu")
    # The drops would differ; the scores, 0.9 both, do not.
    assert verdict_on_val(dropping(0.0, 0.001), other, POINTS).finding is Finding.TIE
    assert latency_verdict(dropping(0.0, 0.001), other).finding is Finding.UNKNOWN


def test_what_was_not_measured_is_not_compared() -> None:
    nothing = replace(fake_trial(2, INT8), val=None, latency=None, artifact=None, test=None)
    for verdict in (
        verdict_on_val(fake_trial(1), nothing, POINTS),
        verdict_on_test(fake_trial(1), nothing, POINTS),
        latency_verdict(fake_trial(1), nothing),
        size_verdict(fake_trial(1), nothing),
        gzip_verdict(fake_trial(1), nothing),
    ):
        assert verdict.finding is Finding.UNKNOWN
        assert verdict.first_wins is None
        assert "are not compared: " in verdict.sentence("a", "b")


def test_test_is_compared_by_its_own_drops() -> None:
    score = Score(0.9, Interval(0.89, 0.91), 5000, "wilson")
    pair = [
        dropping(0.0, 0.1, test=score, test_drop=drop, test_drop_ci=Interval(drop - 0.001, drop + 0.001))
        for drop in (0.0, 0.004)
    ]
    assert verdict_on_test(*pair, POINTS).first_wins is True


def test_latency_differs_only_outside_the_interval_of_the_quotient() -> None:
    faster = latency_verdict(timed(0.5, 0.01), timed(1.0, 0.01))
    assert (faster.finding, faster.first_wins, faster.word) == (Finding.BETTER, True, "faster")
    assert faster.amount.startswith("2.00x [1.97, 2.03]")
    slower = latency_verdict(timed(1.0, 0.01), timed(0.5, 0.01))
    assert (slower.first_wins, slower.amount) == (False, faster.amount)
    wide = latency_verdict(timed(0.5, 0.5), timed(0.6, 0.5))
    assert (wide.finding, wide.first_wins) == (Finding.TIE, None)


def test_latencies_within_what_compiling_again_changes_are_a_tie() -> None:
    near = latency_verdict(timed(1.0, 0.001), timed(1.03, 0.001))
    assert (near.finding, near.first_wins) == (Finding.TIE, None)
    assert "compiled again" in near.why
    assert latency_verdict(timed(1.0, 0.001), timed(1.05, 0.001)).first_wins is True


def test_sizes_are_exact() -> None:
    small, large = fake_trial(1, INT8, size=1_000_000), fake_trial(2, INT8, size=2_500_000)
    assert size_verdict(large, small).sentence("a", "b") == "b is smaller than a: 2.50x"
    assert size_verdict(small, small).finding is Finding.SAME
    assert size_verdict(small, fake_trial(2, INT8, size=1_000_001)).amount == "1 byte"
    assert gzip_verdict(large, small).first_wins is False


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_recipes_differ_setting_by_setting(order: tuple[int, int]) -> None:
    recipes = [
        Recipe.from_json([{"technique": "prune", "ratio": 0.5, "scope": "global"}, *INT8]),
        Recipe.from_json(
            [{"technique": "prune", "ratio": 0.25, "scope": "global"}, {"technique": "finetune", "epochs": 2.0}]
        ),
    ]
    rows = setting_rows([recipes[place] for place in order])

    def values(*of_both: str) -> tuple[str, ...]:
        return tuple(of_both[place] for place in order)

    assert sorted(rows, key=lambda row: (row.stage, row.setting)) == [
        SettingRow("finetune", "", values("no", "yes")),
        SettingRow("finetune", "epochs", values("-", "2")),
        SettingRow("prune", "", ("yes", "yes")),
        SettingRow("prune", "ratio", values("0.5", "0.25")),
        SettingRow("prune", "scope", ("global", "global")),
        SettingRow("quantize", "", values("yes", "no")),
        SettingRow("quantize", "scheme", values("int8_static", "-")),
    ]
    assert [row.differs for row in rows if row.stage == "prune"] == [False, True, False]


def test_another_order_of_the_same_stages_is_a_difference() -> None:
    prune, factorize = {"technique": "prune", "ratio": 0.5}, {"technique": "factorize", "energy": 0.9}
    rows = setting_rows([Recipe.from_json([prune, factorize]), Recipe.from_json([factorize, prune])])
    assert [row.values for row in rows if row.differs] == [("prune → factorize", "factorize → prune")]
