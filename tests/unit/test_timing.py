"""Timing on a fake clock: what the machine does is replayed, so every figure has a known answer."""

from __future__ import annotations

import gc
import itertools
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autoshrink.measure import timing
from autoshrink.measure.timing import CANDIDATE, REFERENCE, Clock, RemoteCalls, Samples, sample, summarise
from autoshrink.target import Measuring

MS = 1e-3


class FakeMachine:
    """A clock that moves only while an artifact runs, and as far as the test says."""

    def __init__(self) -> None:
        self.now = 0.0
        self.cpu = 0.0
        self.order: list[str] = []
        self.clock = Clock(wall=lambda: self.now, cpu=lambda: self.cpu)

    def artifact(self, name: str, seconds: Callable[[], float], cpu_share: float = 1.0) -> Callable[[], object]:
        def call() -> None:
            self.order.append(name)
            took = seconds()
            self.now += took
            self.cpu += took * cpu_share

        return call

    def new_level_each_turn(self, seconds: Callable[[], float]) -> Callable[[], float]:
        """Noise between turns: noise between calls would be gone in the quartile of a turn."""
        level = [0.0]

        def take() -> float:
            if len(self.order) < 2 or self.order[-1] != self.order[-2]:
                level[0] = seconds()
            return level[0]

        return take

    def turns(self) -> list[tuple[str, int]]:
        """Which artifact ran how many calls in a row."""
        return [(name, len(list(calls))) for name, calls in itertools.groupby(self.order)]


def constant(seconds: float) -> Callable[[], float]:
    return lambda: seconds


def turns_of(samples: Samples, which: int) -> list[np.ndarray]:
    table = samples.table[samples.table[:, 1] == which]
    return [table[table[:, 0] == number, 2] for number in np.unique(table[:, 0])]


def table_of(candidate: list[list[float]], reference: list[list[float]], cpu_share: float = 1.0) -> Samples:
    """Samples from the wall milliseconds of each round."""
    rows = [
        (number, which, ms * MS, ms * MS * cpu_share)
        for number, both in enumerate(zip(candidate, reference, strict=True))
        for which, calls in enumerate(both)
        for ms in calls
    ]
    return Samples(np.array(rows, np.float64))


def test_quiet_machine_stops_at_the_least_rounds_with_the_exact_ratio() -> None:
    machine = FakeMachine()
    protocol = Measuring(rounds_min=8)
    samples = sample(
        machine.artifact("candidate", constant(0.5 * MS)),
        machine.artifact("reference", constant(2 * MS)),
        protocol,
        clock=machine.clock,
    )
    latency = summarise(samples, protocol)
    assert latency.ratio == pytest.approx(0.25)
    assert (latency.ratio_ci.low, latency.ratio_ci.high) == pytest.approx((0.25, 0.25))
    assert (latency.ms, latency.ms_ci.low, latency.ms_ci.high) == pytest.approx((0.5, 0.5, 0.5))
    assert (latency.p50_ms, latency.p90_ms) == pytest.approx((0.5, 0.5))
    assert (latency.rounds, latency.dropped, latency.stable, latency.contended) == (8, 0, True, False)


def test_drift_of_the_machine_cancels_in_the_ratio() -> None:
    machine = FakeMachine()
    protocol = Measuring(rounds_min=20)
    drifting = lambda ms: lambda: ms * MS * (1 + 0.1 * machine.now)  # noqa: E731
    samples = sample(
        machine.artifact("candidate", drifting(0.3)),
        machine.artifact("reference", drifting(1.0)),
        protocol,
        clock=machine.clock,
    )
    quartiles = [float(np.quantile(turn, 0.25)) for turn in turns_of(samples, CANDIDATE)]
    assert quartiles[-1] / quartiles[0] > 1.04
    latency = summarise(samples, protocol)
    assert latency.ratio == pytest.approx(0.3, rel=0.002)
    assert latency.stable


def test_burst_is_dropped_and_its_rounds_are_repeated() -> None:
    machine = FakeMachine()
    protocol = Measuring(rounds_min=8)
    begin, end = 0.15, 0.25

    def slowed(ms: float, factor: float) -> Callable[[], float]:
        return lambda: ms * MS * (factor if begin <= machine.now < end else 1)

    samples = sample(
        machine.artifact("candidate", slowed(1, 3)),
        machine.artifact("reference", slowed(2, 1.5)),
        protocol,
        clock=machine.clock,
    )
    latency = summarise(samples, protocol)
    assert latency.dropped >= 2
    assert latency.rounds == 8
    assert latency.ratio == pytest.approx(0.5)
    assert (latency.ratio_ci.low, latency.ratio_ci.high) == pytest.approx((0.5, 0.5))


def test_noise_runs_to_the_last_round_and_is_called_unstable() -> None:
    machine = FakeMachine()
    random = np.random.default_rng(1)
    protocol = Measuring(rounds_min=4, rounds_max=9)
    samples = sample(
        machine.artifact("candidate", machine.new_level_each_turn(lambda: random.lognormal(0, 0.5) * MS)),
        machine.artifact("reference", constant(MS)),
        protocol,
        clock=machine.clock,
    )
    latency = summarise(samples, protocol)
    assert latency.rounds == 9 or latency.rounds + latency.dropped == 18
    assert not latency.stable
    assert latency.ratio_ci.low < latency.ratio < latency.ratio_ci.high


def test_some_noise_stops_in_between_and_is_stable_for_the_same_seed() -> None:
    machine = FakeMachine()
    random = np.random.default_rng(2)
    protocol = Measuring(rounds_min=3, rounds_max=200, interval=0.01)
    samples = sample(
        machine.artifact("candidate", machine.new_level_each_turn(lambda: random.lognormal(0, 0.03) * MS)),
        machine.artifact("reference", constant(MS)),
        protocol,
        seed=7,
        clock=machine.clock,
    )
    latency = summarise(samples, protocol, seed=7)
    assert 3 < latency.rounds < 200
    assert latency.stable
    assert latency.ratio == pytest.approx(1, abs=0.03)


def test_slow_rounds_are_repeated_but_rounds_are_at_most_doubled() -> None:
    machine = FakeMachine()
    random = np.random.default_rng(3)
    protocol = Measuring(rounds_min=8, rounds_max=10)
    rarely_quiet = machine.new_level_each_turn(lambda: (1 if random.random() < 0.3 else random.uniform(2, 9)) * MS)
    samples = sample(
        machine.artifact("candidate", constant(MS)),
        machine.artifact("reference", rarely_quiet),
        protocol,
        clock=machine.clock,
    )
    latency = summarise(samples, protocol)
    assert latency.rounds + latency.dropped == 20
    assert latency.ratio == pytest.approx(1)


@pytest.mark.parametrize(
    ("cpu_share", "contended"), [(1.0, False), (0.8, False), (0.5, True), (2.0, False), (0.0, False)]
)
def test_contention_is_wall_time_far_ahead_of_cpu_time(cpu_share: float, contended: bool) -> None:
    """A share over 1 is several threads; 0 is a clock too coarse to tell."""
    samples = table_of([[1.0] * 4] * 3, [[2.0] * 4] * 3, cpu_share)
    assert summarise(samples, Measuring()).contended is contended


class FakeRemote(RemoteCalls):
    """An artifact elsewhere with a clock of its own, whose first calls are slow; a trip to it takes a while as well."""

    def __init__(self, machine: FakeMachine, seconds: float, slow_calls: int = 0, trip: float = 2 * MS) -> None:
        self.machine, self.seconds, self.slow_calls, self.trip = machine, seconds, slow_calls, trip
        self.turns: list[tuple[float, int]] = []

    def turn(self, least_s: float, least_calls: int) -> np.ndarray:
        self.turns.append((least_s, least_calls))
        self.machine.now += self.trip
        self._call()
        walls: list[float] = []
        while len(walls) < least_calls or sum(walls) < least_s:
            walls.append(self._call())
        return np.array([(wall, 0.0) for wall in walls])

    def _call(self) -> float:
        self.slow_calls -= 1
        took = self.seconds * (10 if self.slow_calls >= 0 else 1)
        self.machine.now += took
        return took


def test_remote_calls_are_timed_by_their_own_clock() -> None:
    machine = FakeMachine()
    protocol = Measuring(rounds_min=8, turn_ms=12, warm_up_calls=30)
    candidate, reference = FakeRemote(machine, 0.5 * MS, slow_calls=25), FakeRemote(machine, 2 * MS)
    samples = sample(candidate, reference, protocol, clock=machine.clock)
    latency = summarise(samples, protocol)
    assert (latency.ratio, latency.ms, latency.rounds) == (pytest.approx(0.25), pytest.approx(0.5), 8)
    assert (latency.p90_ms, latency.contended) == (pytest.approx(0.5), False)
    assert {len(turn) for turn in turns_of(samples, CANDIDATE)} == {24}
    # Warmed up in blocks of calls, then in turns like those of an artifact here.
    for remote in (candidate, reference):
        assert set(remote.turns) == {(0.0, 10), (0.012, 3)}
    assert candidate.turns.count((0.0, 10)) > reference.turns.count((0.0, 10)) == 3
    assert remote.turns.count((0.012, 3)) == 8


def test_warming_up_a_slow_remote_artifact_ends_with_its_share_of_the_time() -> None:
    machine = FakeMachine()
    protocol = Measuring(time_limit_s=20)
    remote = FakeRemote(machine, 1.0)
    sample(remote, machine.artifact("reference", constant(1 * MS)), protocol, clock=machine.clock)
    assert remote.turns.count((0.0, 10)) == 1
    assert remote.turns.count((0.012, 3)) == timing.LEAST_ROUNDS


def test_both_run_in_each_round_in_shuffled_order() -> None:
    machine = FakeMachine()
    protocol = Measuring(rounds_min=30, turn_ms=3.5, warm_up_calls=6)
    samples = sample(
        machine.artifact("candidate", constant(MS)),
        machine.artifact("reference", constant(MS)),
        protocol,
        clock=machine.clock,
    )
    firsts = []
    for number in range(30):
        of_round = samples.table[samples.table[:, 0] == number, 1]
        assert sorted(of_round) == [CANDIDATE] * 4 + [REFERENCE] * 4
        assert len(list(itertools.groupby(of_round))) == 2
        firsts.append(of_round[0])
    assert 5 < sum(firsts) < 25


def test_seed_fixes_the_order() -> None:
    def order(seed: int) -> list[str]:
        machine = FakeMachine()
        artifacts = [machine.artifact(name, constant(MS)) for name in ("candidate", "reference")]
        sample(artifacts[0], artifacts[1], Measuring(rounds_min=20), seed, machine.clock)
        return machine.order

    assert order(1) == order(1)
    assert order(1) != order(2)


def test_first_call_of_a_turn_is_not_timed() -> None:
    machine = FakeMachine()

    def cold(name: str) -> Callable[[], float]:
        return lambda: (1 if machine.order[-2:-1] == [name] else 50) * MS

    samples = sample(
        machine.artifact("candidate", cold("candidate")),
        machine.artifact("reference", cold("reference")),
        Measuring(),
        clock=machine.clock,
    )
    assert samples.table[:, 2].max() == pytest.approx(MS)


def test_turns_last_as_long_as_asked() -> None:
    machine = FakeMachine()
    samples = sample(
        machine.artifact("candidate", constant(0.25 * MS)),
        machine.artifact("reference", constant(5 * MS)),
        Measuring(turn_ms=11.9),
        clock=machine.clock,
    )
    assert {len(turn) for turn in turns_of(samples, CANDIDATE)} == {48}
    assert {len(turn) for turn in turns_of(samples, REFERENCE)} == {3}


def test_calls_of_a_second_work() -> None:
    machine = FakeMachine()
    protocol = Measuring(time_limit_s=20)
    samples = sample(
        machine.artifact("candidate", constant(1.0)),
        machine.artifact("reference", constant(1.25)),
        protocol,
        clock=machine.clock,
    )
    latency = summarise(samples, protocol)
    assert {len(turn) for which in (0, 1) for turn in turns_of(samples, which)} == {3}
    assert latency.rounds == 3
    assert latency.ratio == pytest.approx(0.8)
    warm_up = len(machine.order) - 3 * 2 * 4
    assert warm_up == 4, "two calls of each reach a tenth of the limit"


def test_time_limit_ends_the_rounds() -> None:
    machine = FakeMachine()
    random = np.random.default_rng(4)
    protocol = Measuring(interval=0.0001, rounds_max=1000, time_limit_s=2)
    noisy = lambda: random.uniform(1, 2) * MS  # noqa: E731
    sample(machine.artifact("candidate", noisy), machine.artifact("reference", noisy), protocol, 0, machine.clock)
    assert 2 <= machine.now < 2 + 2 * (12 + 2 + 2) * MS


def test_warm_up_waits_for_the_median_to_settle() -> None:
    machine = FakeMachine()
    calls = itertools.count()
    compiling = lambda: (1 + 50 * 0.97 ** next(calls)) * MS  # noqa: E731
    samples = sample(
        machine.artifact("candidate", compiling),
        machine.artifact("reference", constant(MS)),
        Measuring(warm_up_calls=10),
        clock=machine.clock,
    )
    assert samples.table[samples.table[:, 1] == CANDIDATE, 2].max() < 4 * MS


def test_warm_up_that_never_settles_ends() -> None:
    machine = FakeMachine()
    calls = itertools.count(1)
    growing = lambda: 1e-9 * 1.1 ** next(calls)  # noqa: E731
    machine_order_before_rounds = 10 * 12
    protocol = Measuring(warm_up_calls=12, rounds_min=3, rounds_max=3, turn_ms=0.001)
    sample(
        machine.artifact("candidate", growing), machine.artifact("reference", constant(MS)), protocol, 0, machine.clock
    )
    assert machine.turns()[0] == ("candidate", machine_order_before_rounds)


@pytest.mark.parametrize("was_on", [True, False])
def test_garbage_collection_is_off_while_timing_and_then_as_before(was_on: bool) -> None:
    machine = FakeMachine()
    seen = set()

    def look() -> float:
        seen.add(gc.isenabled())
        return MS

    try:
        if not was_on:
            gc.disable()
        sample(machine.artifact("candidate", look), machine.artifact("reference", look), Measuring(), 0, machine.clock)
        assert gc.isenabled() is was_on
    finally:
        gc.enable()
    assert seen == {False}


@pytest.mark.parametrize("fails_at", [0, 100])
def test_failure_of_an_artifact_comes_through_with_garbage_collection_on(fails_at: int) -> None:
    machine = FakeMachine()
    calls = itertools.count()

    def failing() -> float:
        if next(calls) == fails_at:
            raise RuntimeError("the runtime gave up")
        return MS

    with pytest.raises(RuntimeError, match="gave up"):
        sample(
            machine.artifact("candidate", constant(MS)),
            machine.artifact("reference", failing),
            Measuring(),
            0,
            machine.clock,
        )
    assert gc.isenabled()


def test_statistics_of_a_table_by_hand() -> None:
    # Lower quartiles: candidate 1, 1.1, 1.2 and reference 2, 2, 2; the fourth round is slow.
    samples = table_of(
        [[1, 1, 5, 6, 9], [1.1, 1.1, 5, 6, 10], [1.2, 1.2, 5, 6, 11], [8, 8, 8, 8, 8]],
        [[2, 2, 7], [2, 2, 7], [2, 2, 7], [4, 4, 4]],
    )
    latency = summarise(samples, Measuring())
    assert (latency.rounds, latency.dropped) == (3, 1)
    assert latency.ms == pytest.approx(1.1)
    assert latency.ratio == pytest.approx(0.55)
    assert (latency.ratio_ci.low, latency.ratio_ci.high) == pytest.approx((0.5, 0.6))
    assert (latency.ms_ci.low, latency.ms_ci.high) == pytest.approx((1.0, 1.2))
    # Of all 20 calls: between the 10th and 11th; a tenth of the way from the 18th to the 19th.
    assert latency.p50_ms == pytest.approx(6)
    assert latency.p90_ms == pytest.approx(9.1)
    # +- 0.05 of 0.55 is 9.1 %.
    assert not summarise(samples, Measuring(interval=0.090)).stable
    assert summarise(samples, Measuring(interval=0.092)).stable


def test_three_rounds_are_kept_however_slow() -> None:
    samples = table_of([[1.0] * 3] * 5, [[level] * 3 for level in (1.0, 2.0, 4.0, 8.0, 16.0)])
    latency = summarise(samples, Measuring())
    assert (latency.rounds, latency.dropped) == (3, 2)
    assert latency.ratio == pytest.approx(0.5)


def test_slow_rounds_do_not_become_typical_when_they_are_most() -> None:
    quiet, slow = [[1.0] * 3] * 4, [[1.6] * 3] * 8
    samples = table_of([[1.0] * 3] * 4 + [[2.4] * 3] * 8, quiet + slow)
    latency = summarise(samples, Measuring())
    assert (latency.rounds, latency.dropped) == (4, 8)
    assert latency.ratio == pytest.approx(1.0)


def test_one_lucky_round_does_not_make_all_others_slow() -> None:
    samples = table_of([[1.0] * 3] * 9 + [[0.8] * 3], [[1.0] * 3] * 9 + [[0.8] * 3])
    assert summarise(samples, Measuring()).dropped == 0


def test_dropping_rounds_favours_neither_artifact() -> None:
    """One artifact against itself: dropping where the reference alone is slow gives 1.04 here, by selection."""
    noise = np.random.default_rng(5).lognormal(0, 0.1, (2, 3000, 1))
    candidate, reference = noise.tolist()
    latency = summarise(table_of(candidate, reference), Measuring())
    assert latency.dropped > 1000
    assert latency.ratio == pytest.approx(1, abs=0.01)


def test_too_few_rounds_and_missing_artifacts_are_refused() -> None:
    with pytest.raises(ValueError, match="2 rounds"):
        summarise(table_of([[1.0]] * 2, [[1.0]] * 2), Measuring())
    with pytest.raises(ValueError, match="round 1 has no call of the reference"):
        summarise(table_of([[1.0]] * 3, [[1.0], [], [1.0]]), Measuring())


def test_samples_go_through_a_file_without_pickle(tmp_path: Path) -> None:
    samples = table_of([[1.0, 2.0]] * 3, [[3.0]] * 3)
    path = tmp_path / "0001.samples"
    samples.save(path)
    assert np.array_equal(Samples.load(path).table, samples.table)
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle"):
        Samples.load(tmp_path / "object.npy")
    np.save(tmp_path / "other.npy", np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"float64 \[4, 3\].*float64 \[calls, 4\]"):
        Samples.load(tmp_path / "other.npy")
    (tmp_path / "empty.npy").touch()
    with pytest.raises(ValueError, match="EOF"):
        Samples.load(tmp_path / "empty.npy")


def test_real_clock_and_functions() -> None:
    work = np.ones((40, 40))
    protocol = Measuring(rounds_min=3, rounds_max=3, turn_ms=1, warm_up_calls=3)
    samples = sample(lambda: work @ work, lambda: work @ work, protocol)
    latency = summarise(samples, protocol)
    assert latency.rounds + latency.dropped <= 6
    assert 0 < latency.ms <= latency.p90_ms
    assert latency.ratio > 0


def test_the_timed_child_needs_numpy_only() -> None:
    heavy = ["torch", "onnx", "onnxruntime", "openvino", "optuna", "pandas", "pydantic", "scipy", "filelock"]
    code = f"import sys, {timing.__name__}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_device_that_grows_hot_drifts_and_its_ratio_holds() -> None:
    """Known answer: every call of both takes 1 % longer each round, as when the clock goes down."""
    rows = []
    for number in range(30):
        pace = 1.0 + 0.01 * number
        for which, seconds in ((CANDIDATE, 0.002), (REFERENCE, 0.004)):
            rows += [(float(number), float(which), seconds * pace, seconds * pace)] * 4
    latency = summarise(Samples(np.array(rows)), Measuring())
    first, last = np.median(1.0 + 0.01 * np.arange(10)), np.median(1.0 + 0.01 * np.arange(20, 30))
    assert latency.drift == pytest.approx(last / first - 1) and latency.drifts
    assert latency.ratio == pytest.approx(0.5) and latency.stable
    assert "became 19 % slower, as one that grows hot does" in latency.unrest


def test_a_steady_device_does_not_drift() -> None:
    rows = [(float(n), float(which), 0.002, 0.002) for n in range(9) for which in (CANDIDATE, REFERENCE)]
    latency = summarise(Samples(np.array(rows)), Measuring())
    assert latency.drift == 0 and not latency.drifts and latency.unrest == ""
