from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from autoshrink.errors import NothingFits
from autoshrink.package.choose import applicable, choose
from autoshrink.target import Limits
from autoshrink.types import (
    Artifact,
    ArtifactFile,
    Figure,
    Interval,
    Latency,
    Outcome,
    Recipe,
    Score,
    StageSpec,
    TrialRecord,
)


def score(value: float, half: float = 0.01) -> Score:
    return Score(value, Interval(value - half, value + half), 1000, "wilson")


def trial(
    number: int,
    *,
    accuracy: float = 0.9,
    drop: float = 0.0,
    drop_half: float = 0.001,
    ms: float = 1.0,
    ms_high: float | None = None,
    ratio: float | None = None,
    size: int = 1_000_000,
    outcome: Outcome = Outcome.COMPLETE,
    test: float | None = None,
) -> TrialRecord:
    """A measured trial; the latency ratio is of a baseline of 1 ms, with an interval of +- 1 %."""
    ratio = ms if ratio is None else ratio
    recipe = Recipe() if number == 0 else Recipe((StageSpec.of("prune", {"ratio": number / 100}),))
    interval = Interval(ms * 0.99, ms * 1.01 if ms_high is None else ms_high)
    return TrialRecord(
        number=number,
        target="cpu",
        recipe=recipe,
        outcome=outcome,
        val=score(accuracy),
        drop=drop,
        drop_ci=Interval(drop - drop_half, drop + drop_half),
        test=None if test is None else score(test),
        latency=Latency(ms, interval, ratio, Interval(ratio * 0.99, ratio * 1.01), ms, ms, 8, 0, True, False),
        artifact=Artifact("onnxruntime", "fp32", (ArtifactFile("m.onnx", size, "0" * 64),), "artifacts/x", "x 1"),
    )


BASELINE = trial(0)


def test_most_accurate_that_keeps_a_latency_limit() -> None:
    records = [
        BASELINE,
        trial(1, accuracy=0.89, drop=0.01, ms=0.5),
        trial(2, accuracy=0.87, drop=0.03, ms=0.2),
        trial(3, accuracy=0.86, drop=0.04, ms=0.1),
    ]
    assert choose(records, Limits(latency_ms=0.6)).number == 1
    assert choose(records, Limits(latency_ms=0.3)).number == 2
    assert choose(records, Limits(latency_ms=2.0)).number == 0


def test_a_lucky_mean_does_not_pass_its_bound_has_to() -> None:
    lucky = trial(1, accuracy=0.895, drop=0.005, ms=0.29, ms_high=0.34)
    sure = trial(2, accuracy=0.88, drop=0.02, ms=0.295, ms_high=0.299)
    assert choose([BASELINE, lucky, sure], Limits(latency_ms=0.3)).number == 2
    lucky = trial(1, drop=0.009, drop_half=0.004, ms=0.1)
    sure = trial(2, drop=0.009, drop_half=0.001, ms=0.5)
    assert choose([BASELINE, lucky, sure], Limits(drop=0.01)).number == 2


def test_size_limit_is_exact_and_inclusive() -> None:
    records = [BASELINE, trial(1, size=500_000, ms=0.5)]
    assert choose(records, Limits(size_bytes=500_000)).number == 1
    with pytest.raises(NothingFits):
        choose(records, Limits(size_bytes=499_999))


def test_accuracies_within_noise_are_settled_by_latency_then_by_size() -> None:
    records = [
        trial(1, accuracy=0.891, drop=0.009, drop_half=0.004, ms=0.5, size=100),
        trial(2, accuracy=0.890, drop=0.010, drop_half=0.004, ms=0.300, size=200),
        trial(3, accuracy=0.889, drop=0.011, drop_half=0.004, ms=0.309, size=150),
        trial(4, accuracy=0.880, drop=0.020, drop_half=0.004, ms=0.1, size=50),
    ]
    assert choose(records, Limits(latency_ms=1.0)).number == 3, "2 and 3 tie in latency (3 %), 3 is smaller"
    assert choose(records[:2], Limits(latency_ms=1.0)).number == 2
    slower = replace(records[2], latency=trial(3, ms=0.33).latency)
    assert choose([*records[:2], slower], Limits(latency_ms=1.0)).number == 2, "10 % is no tie"


def test_ranks_are_of_bounds_too() -> None:
    lucky = replace(trial(1, drop=0.01, ms=0.3), val=Score(0.90, Interval(0.85, 0.95), 50, "wilson"))
    sure = replace(trial(2, drop=0.02, ms=0.5), val=Score(0.89, Interval(0.88, 0.90), 5000, "wilson"))
    assert choose([replace(lucky, drop_ci=None), replace(sure, drop_ci=None)], ANY).number == 2
    noisy = trial(1, ms=0.30)
    assert noisy.latency is not None
    noisy = replace(noisy, latency=replace(noisy.latency, ratio_ci=Interval(0.2, 0.6)))
    assert choose([noisy, trial(2, ms=0.35)], ANY).number == 2


def test_only_intervals_that_allow_a_zero_difference_are_a_tie() -> None:
    accurate = trial(1, accuracy=0.89, drop=0.010, drop_half=0.003, ms=0.5)
    # The half-widths 0.003 and 0.004 make 0.005 of the difference.
    assert choose([accurate, trial(2, drop=0.0149, drop_half=0.004, ms=0.3, accuracy=0.885)], ANY).number == 2
    assert choose([accurate, trial(2, drop=0.0151, drop_half=0.004, ms=0.3, accuracy=0.885)], ANY).number == 1


ANY = Limits(latency_ms=100.0)


def test_a_drop_limit_alone_asks_for_the_greatest_gain() -> None:
    records = [
        BASELINE,
        trial(1, accuracy=0.899, drop=0.001, ms=0.5, size=500_000),
        trial(2, accuracy=0.892, drop=0.008, ms=0.4, size=100_000),
        trial(3, accuracy=0.88, drop=0.02, ms=0.1, size=50_000),
    ]
    assert choose(records, Limits(drop=0.01)).number == 2
    assert choose(records, Limits(drop=0.005)).number == 1
    assert choose(records, Limits(drop=0.03)).number == 3


def test_without_limits_the_knee_is_within_one_point() -> None:
    records = [BASELINE, trial(1, drop=0.008, ms=0.4, size=300_000), trial(2, drop=0.012, ms=0.1, size=100_000)]
    assert choose(records, Limits()).number == 1
    assert choose(records[1:], Limits()).number == 1
    assert choose(records[2:], Limits()).number == 2, "none within a point: the most accurate"


def test_gain_is_speed_up_times_size_reduction() -> None:
    fast = trial(1, drop=0.005, ms=0.2, size=900_000)
    small = trial(2, drop=0.005, ms=0.9, size=200_000)
    both = trial(3, drop=0.005, ms=0.4, size=400_000)
    assert choose([BASELINE, fast, small, both], Limits()).number == 3
    assert choose([BASELINE, fast, trial(2, drop=0.005, ms=0.9, size=150_000)], Limits()).number == 2


def test_gains_within_noise_go_to_the_more_accurate() -> None:
    records = [
        trial(1, accuracy=0.895, drop=0.005, ms=0.5),
        trial(2, accuracy=0.893, drop=0.007, ms=0.49),
        trial(3, accuracy=0.890, drop=0.008, ms=0.52),
    ]
    assert choose(records, Limits()).number == 1


def test_what_the_search_called_infeasible_may_fit_and_the_rest_never_does() -> None:
    infeasible = trial(1, ms=0.2, outcome=Outcome.INFEASIBLE)
    assert choose([BASELINE, infeasible], Limits(latency_ms=0.5)).number == 1
    for outcome in (Outcome.FAILED, Outcome.REJECTED, Outcome.STOPPED):
        with pytest.raises(NothingFits):
            choose([BASELINE, replace(infeasible, outcome=outcome)], Limits(latency_ms=0.5))
    with pytest.raises(NothingFits):
        choose([BASELINE, replace(infeasible, latency=None)], Limits(latency_ms=0.5))


def test_test_split_refutes_a_drop_but_does_not_rank() -> None:
    baseline = trial(0, test=0.9)
    refuted = trial(1, drop=0.0, ms=0.1, test=0.85)
    sound = trial(2, drop=0.0, ms=0.5, test=0.89)
    # 0.9 - 0.01 less 0.85 + 0.01 leaves a drop of 0.03 at least.
    assert choose([baseline, refuted, sound], Limits(drop=0.02)).number == 2
    assert choose([baseline, refuted, sound], Limits(drop=0.031)).number == 1
    worse_on_test = trial(1, accuracy=0.9, ms=0.5, test=0.89)
    better_on_test = trial(2, accuracy=0.88, drop=0.02, ms=0.5, test=0.91)
    assert choose([worse_on_test, better_on_test], ANY).number == 1


def test_a_drop_without_an_interval_keeps_no_limit_unless_it_is_the_baseline() -> None:
    unknown = replace(trial(1, ms=0.1), drop_ci=None)
    bare = replace(BASELINE, drop=None, drop_ci=None)
    assert choose([bare, unknown], Limits(drop=0.5)).number == 0
    with pytest.raises(NothingFits) as refused:
        choose([unknown], Limits(drop=0.5))
    assert "trial 1 (prune 1 %): drop unknown" in str(refused.value)
    assert "leave --max-drop out" in str(refused.value)


def test_nearest_misses_and_the_limit_to_relax() -> None:
    records = [
        BASELINE,
        trial(12, accuracy=0.88, drop=0.02, ms=0.4, ms_high=0.4066),
        trial(13, accuracy=0.87, drop=0.03, ms=0.5),
        trial(14, accuracy=0.86, drop=0.04, ms=0.28, size=2_500_000),
        trial(15, accuracy=0.86, drop=0.04, ms=5, size=9_500_000),
    ]
    with pytest.raises(NothingFits) as refused:
        choose(records, Limits(latency_ms=0.3, size_bytes=2_000_000))
    assert str(refused.value).splitlines() == [
        "none of the 5 measured trials keeps --max-latency 0.3ms, --max-size 2MB "
        "(by the upper ends of the 95 % intervals)",
        "nearest:",
        "  trial 14 (prune 14 %): size 2.5MB is 500kB over 2MB",
        "  trial 12 (prune 12 %): latency 0.407ms is 0.107ms over 0.3ms",
        "  trial 13 (prune 13 %): latency 0.505ms is 0.205ms over 0.3ms",
        "--max-size 2.5MB instead of 2MB would give trial 14",
        "--max-latency 0.407ms instead of 0.3ms would give trial 12",
    ]


def test_the_suggested_limit_gives_the_trial_it_names() -> None:
    from autoshrink import units

    records = [trial(1, ms=0.3, ms_high=0.41 + 1e-12), trial(2, drop=0.02, ms=0.3, ms_high=0.4101)]
    with pytest.raises(NothingFits) as refused:
        choose(records, Limits(latency_ms=0.3))
    last = str(refused.value).splitlines()[-1]
    assert last == "--max-latency 0.411ms instead of 0.3ms would give trial 1"
    assert choose(records, Limits(latency_ms=units.milliseconds("0.411ms"))).number == 1


def test_a_drop_of_zero_can_be_asked_for_and_is_missed_in_points() -> None:
    with pytest.raises(NothingFits) as refused:
        choose([trial(1, drop=0.004, drop_half=0.0015), trial(2, drop=0.02)], Limits(drop=0.0))
    assert "--max-drop 0.55% instead of 0% would give trial 1" in str(refused.value)


def test_when_no_single_limit_will_do_it_names_several() -> None:
    with pytest.raises(NothingFits) as refused:
        choose([trial(1, ms=0.5, size=3_000_000)], Limits(latency_ms=0.3, size_bytes=2_000_000))
    last = str(refused.value).splitlines()[-1]
    assert last == "--max-latency 0.505ms instead of 0.3ms and --max-size 3MB instead of 2MB would give trial 1"


def test_no_trial_and_several_targets_are_said() -> None:
    with pytest.raises(NothingFits, match="none of the 0 trials was measured"):
        choose([], Limits())
    with pytest.raises(ValueError, match="cpu, gpu"):
        choose([BASELINE, replace(trial(1), target="gpu")], Limits())


def untimed(number: int, **given: Any) -> TrialRecord:
    """As `trial`, on a target whose device is imitated."""
    return replace(trial(number, **given), latency=None, reason="latency not measured: on an emulator")


def only_compiled(number: int, size: int, **given: Any) -> TrialRecord:
    """As `trial`, on a target that has no device here."""
    record = trial(number, size=size, outcome=Outcome.COMPILED, **given)
    return replace(
        record, target="phone", val=None, drop=None, drop_ci=None, latency=None, reason="compiled, not measured: no Mac"
    )


def test_without_latency_accuracy_and_size_decide() -> None:
    records = [
        untimed(0),
        untimed(1, accuracy=0.895, drop=0.005, size=300_000),
        untimed(2, accuracy=0.88, drop=0.02, size=100_000),
        untimed(3, accuracy=0.894, drop=0.006, size=500_000),
    ]
    assert choose(records, Limits()).number == 1
    assert choose(records, Limits(drop=0.03)).number == 2
    assert choose(records, Limits(size_bytes=200_000)).number == 2


def test_a_limit_on_what_was_not_measured_is_said_with_the_reason() -> None:
    records = [untimed(0), untimed(1, size=300_000)]
    for limits, option in (
        (Limits(latency_ms=2.0), "--max-latency 2ms: latency was not measured on cpu (latency not measured: on an emu"),
        (Limits(throughput=500.0), "--min-throughput 500/s: throughput was not measured on cpu"),
        (
            Limits(figures={"arena": 1e5}),
            "--max-figure arena=100000: compiling for cpu finds no figure 'arena'",
        ),
    ):
        with pytest.raises(NothingFits) as refused:
            choose(records, limits)
        assert str(refused.value).startswith(option)
        assert str(refused.value).endswith("leave it out")
    limits, unknown = applicable(Limits(2.0, 400_000, 0.01, 500.0, {"arena": 1e5}), records)
    assert limits == Limits(size_bytes=400_000, drop=0.01)
    assert unknown == ["latency", "throughput", "arena"]
    assert choose(records, limits).number == 1


def test_a_compiled_trial_is_judged_by_its_recipe_on_the_worst_other_target() -> None:
    records = [only_compiled(0, 1_000_000), only_compiled(1, 250_000), only_compiled(2, 200_000)]
    good = [BASELINE, trial(1, drop=0.004), trial(2, drop=0.006)]
    bad = [replace(record, target="gpu", drop=0.03, drop_ci=Interval(0.029, 0.031)) for record in good[2:]]
    assert choose(records, Limits(), others=good).number == 2
    assert choose(records, Limits(), others=[*good, *bad]).number == 1
    assert choose(records, Limits(size_bytes=240_000), others=[*good, *bad]).number == 2
    with pytest.raises(NothingFits, match=r"3 compiled trials keeps .*; accuracy is of the same recipes on cpu"):
        choose(records, Limits(size_bytes=100_000), others=good)
    with pytest.raises(NothingFits, match=r"latency was not measured on phone .*no Mac"):
        choose(records, Limits(latency_ms=1.0), others=good)


def test_what_was_compiled_and_measured_nowhere_cannot_be_chosen() -> None:
    with pytest.raises(NothingFits, match=r"the 2 trials were compiled, not measured.*--trial"):
        choose([only_compiled(0, 1_000_000), only_compiled(1, 250_000)], Limits())


def test_limits_on_figures_and_throughput() -> None:
    def sized(number: int, arena: float, **given: Any) -> TrialRecord:
        return replace(trial(number, **given), figures={"arena": Figure(arena, "bytes", "the planner", True)})

    records = [sized(1, 300_000), sized(2, 200_000, drop=0.02)]
    assert choose(records, Limits(figures={"arena": 250_000})).number == 2
    with pytest.raises(NothingFits) as refused:
        choose(records, Limits(figures={"arena": 150_000}))
    assert "trial 2 (prune 2 %): arena 200000 is 50000 over 150000" in str(refused.value)
    assert "--max-figure arena=200000 instead of 150000 would give trial 2" in str(refused.value)
    # Four rows in at most 1.01 ms are 3960 a second.
    assert (
        choose([BASELINE, trial(1, accuracy=0.88, drop=0.02, ms=0.5)], Limits(throughput=3900.0), batch=4).number == 0
    )
    assert (
        choose([BASELINE, trial(1, accuracy=0.88, drop=0.02, ms=0.5)], Limits(throughput=4000.0), batch=4).number == 1
    )
    with pytest.raises(NothingFits) as refused:
        choose([BASELINE], Limits(throughput=5000.0), batch=4)
    lines = str(refused.value).splitlines()
    assert lines[2] == "  trial 0 (fp32 baseline): throughput 3960/s is 1040/s under 5000/s"
    assert lines[3] == "--min-throughput 3960/s instead of 5000/s would give trial 0"
