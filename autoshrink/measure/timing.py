"""Latency of a candidate, interleaved with a reference so that what the machine does to both cancels in the ratio.

Nothing is imported here that could disturb the process being timed: numpy and the standard library only.
"""

from __future__ import annotations

import gc
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from autoshrink.measure.stats import bootstrap_interval
from autoshrink.target import Measuring
from autoshrink.types import Interval, Latency

Floats = npt.NDArray[np.float64]

CANDIDATE, REFERENCE = 0, 1
TIMED_CALLS = 3
"""Least timed calls of a turn; the untimed first one makes it four."""
LEAST_ROUNDS = 3
SLOW_ROUND = 1.05
"""A round is slow when the two artifacts together take longer than this times their baseline."""
CONTENDED = 1.3
SETTLED = 0.05
"""The running median has settled when it moves by less than this share."""
WARM_UP_FACTOR = 10
BESIDE_CALLS = 10
"""Calls of a turn of `beside_ms`."""
WARM_UP_SHARE = 0.1
"""Warming up an artifact ends after this multiple of `warm_up_calls`, or this share of the time limit."""


@dataclass(frozen=True)
class Clock:
    """What tells the time: wall and process CPU seconds. Tests replay known values through it."""

    wall: Callable[[], float] = time.perf_counter
    cpu: Callable[[], float] = time.process_time


@dataclass(frozen=True, eq=False)
class Samples:
    """Every timed call.

    Attributes:
        table: float64 [calls, 4]: number of the round, which artifact (0 candidate, 1 reference), wall seconds, CPU
            seconds of the process (all its threads). The untimed first call of each turn is not in it.
    """

    table: Floats

    def __post_init__(self) -> None:
        if self.table.ndim != 2 or self.table.shape[1] != 4 or self.table.dtype != np.float64:
            raise ValueError(
                f"samples are {self.table.dtype} {list(self.table.shape)}; they must be float64 [calls, 4]: "
                "round, which, wall seconds, CPU seconds"
            )

    def save(self, path: Path) -> None:
        """Writes the table as an npy file of exactly this name."""
        with path.open("wb") as stream:
            np.save(stream, self.table, allow_pickle=False)

    @classmethod
    def load(cls, path: Path) -> Samples:
        """The inverse of `save`.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is no npy file, or not of samples.
        """
        # Not numpy.load, which opens archives as well and says EOFError of an empty file.
        read: Callable[..., Floats] = np.lib.format.read_array
        with path.open("rb") as stream:
            return cls(read(stream, allow_pickle=False))


class RemoteCalls(ABC):
    """Calls of an artifact that another process, or another device, makes and times by its own clock."""

    @abstractmethod
    def turn(self, least_s: float, least_calls: int) -> Floats:
        """One untimed call, then timed ones for at least `least_s` and at least `least_calls` of them.

        Returns:
            float64 [calls, 2]: wall seconds, and CPU seconds where they are known, else 0.
        """


Timed = Callable[[], object] | RemoteCalls
"""One call with its inputs bound, or what makes such calls elsewhere."""


def sample(
    candidate: Timed,
    reference: Timed,
    protocol: Measuring,
    seed: int = 0,
    clock: Clock = Clock(),
) -> Samples:
    """Times both artifacts in rounds, each of them taking one turn a round, in shuffled order.

    A turn is one untimed call, which fetches the weights back into the processor's caches, and then timed calls for at
    least `turn_ms` and at least three. Rounds go on until the interval of the ratio is narrow enough (see `summarise`,
    which finds the same interval for the same seed), `rounds_max` are kept, or no time is left. A slow round is
    repeated, as long as there are at most twice `rounds_max` rounds in all. However short the time limit is, there are
    three rounds.

    Args:
        candidate: one call of the artifact, its input bound; or its calls elsewhere.
        reference: the same of the reference artifact.
        protocol: how long.
        seed: of the order within the rounds and of the bootstrap.
        clock: what tells the time.

    Raises:
        Exception: whatever a call raises.
    """
    random = np.random.default_rng(seed)
    calls = (candidate, reference)
    turns: list[Floats] = []
    quartiles: list[tuple[float, float]] = []
    began = clock.wall()
    with _garbage_collection_off():
        for call in calls:
            _warm_up(call, protocol, clock)
        while not _is_enough(np.array(quartiles), clock.wall() - began, protocol, seed):
            quartile = [0.0, 0.0]
            for which in random.permutation(2):
                times = _turn(calls[which], protocol.turn_ms / 1000, clock)
                labels = np.broadcast_to((float(len(quartiles)), float(which)), (len(times), 2))
                turns.append(np.hstack((labels, times)))
                quartile[which] = _lower_quartile(times[:, 0])
            quartiles.append((quartile[CANDIDATE], quartile[REFERENCE]))
    return Samples(np.concatenate(turns))


def summarise(samples: Samples, protocol: Measuring, seed: int = 0) -> Latency:
    """The statistics of `samples`.

    A round counts with the lower quartile of its wall times: preempted calls are the slow ones, so the quartile stands
    still while up to three quarters of the calls are disturbed, yet it is no single lucky call as the minimum is.

    Slow rounds are dropped, but never below three: those whose pace, the geometric mean of both quartiles, is over 5 %
    slower than the baseline. Not those in which the reference alone is slow: that keeps rounds in which chance made the
    reference fast, and so makes every candidate look slower (by 2 % on a busy machine, and its interval misses the
    truth). Under like noise on both, the product says nothing of the quotient, so dropping on it favours neither. The
    baseline is the lower quartile over the rounds: it holds while three quarters of the rounds are slow, where the
    median over the rounds would call slow rounds typical, and a few rounds at a boosted clock do not make all others
    slow, as they would with the minimum.

    What is left is the median over the rounds of candidate / reference, with a percentile bootstrap over rounds (Efron
    and Tibshirani 1993, chapter 13), not over calls: calls of a round are not independent.

    `contended` compares the medians of wall and CPU time. Several threads spend more CPU than wall time, so it is
    never set for artifacts with more than one; nor where the CPU clock is too coarse to see a call (it reads 0).

    `drift` is of all rounds, the slow ones too: on a device that throttles they are its last.

    Raises:
        ValueError: fewer than three rounds, or an artifact is missing from one.
    """
    quartiles = round_quartiles(samples.table)
    kept = quartiles[quiet_rounds(quartiles)]
    ratios = kept[:, CANDIDATE] / kept[:, REFERENCE]
    milliseconds = kept[:, CANDIDATE] * 1000
    ratio_ci = bootstrap_interval(ratios, _median, seed)
    calls = [samples.table[samples.table[:, 1] == which, 2:] for which in (CANDIDATE, REFERENCE)]
    p50, p90 = np.quantile(calls[CANDIDATE][:, 0], (0.5, 0.9)) * 1000
    return Latency(
        ms=float(np.median(milliseconds)),
        ms_ci=bootstrap_interval(milliseconds, _median, seed),
        ratio=float(np.median(ratios)),
        ratio_ci=ratio_ci,
        p50_ms=float(p50),
        p90_ms=float(p90),
        rounds=len(kept),
        dropped=len(quartiles) - len(kept),
        stable=_is_narrow(ratio_ci, float(np.median(ratios)), protocol),
        contended=any(_is_contended(times) for times in calls),
        drift=_drift(quartiles[:, REFERENCE]),
    )


def beside_ms(
    call: Timed, calls: int, profiled: Callable[[int], object] = lambda _calls: None, clock: Clock = Clock()
) -> float:
    """Median of the wall time of `calls` calls, milliseconds, in turns with as many profiled ones.

    In turns, so that the times of kernels and of calls are of the same moments. For nothing that is compared: there is
    no reference and no interval.

    Args:
        call: that nothing profiles.
        calls: of each.
        profiled: makes so many profiled calls.
        clock: what tells the time.
    """
    times: list[float] = []
    with _garbage_collection_off():
        while len(times) < calls:
            block = min(BESIDE_CALLS, calls - len(times))
            profiled(block)
            if isinstance(call, RemoteCalls):
                times += call.turn(0.0, block)[:block, 0].tolist()
                continue
            call()
            for _ in range(block):
                start = clock.wall()
                call()
                times.append(clock.wall() - start)
    return 1000 * float(np.median(times))


@contextmanager
def _garbage_collection_off() -> Iterator[None]:
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _warm_up(call: Timed, protocol: Measuring, clock: Clock) -> None:
    """Calls until the median of a block of calls is that of the block before; bounded in calls and time."""
    block = max(1, protocol.warm_up_calls // 3)
    began = clock.wall()
    times: list[float] = []
    while len(times) < WARM_UP_FACTOR * protocol.warm_up_calls:
        if isinstance(call, RemoteCalls):
            times += call.turn(0.0, block)[:block, 0].tolist()
            end = clock.wall()
        else:
            start = clock.wall()
            call()
            end = clock.wall()
            times.append(end - start)
        if end - began >= WARM_UP_SHARE * protocol.time_limit_s:
            return
        since = len(times) - max(protocol.warm_up_calls, 2 * block)
        if since >= 0 and since % block == 0:
            before, latest = np.median(times[-2 * block : -block]), np.median(times[-block:])
            if abs(latest - before) <= SETTLED * before:
                return


def _turn(call: Timed, least_s: float, clock: Clock) -> Floats:
    """Wall and CPU seconds [calls, 2] of one turn."""
    if isinstance(call, RemoteCalls):
        return call.turn(least_s, TIMED_CALLS)
    wall, cpu = clock.wall, clock.cpu
    times: list[tuple[float, float]] = []
    call()
    began = end = wall()
    while len(times) < TIMED_CALLS or end - began < least_s:
        # The CPU clock is a system call: it is read outside the wall interval.
        start_cpu = cpu()
        start = wall()
        call()
        end = wall()
        times.append((end - start, cpu() - start_cpu))
    return np.array(times)


def _is_enough(quartiles: Floats, elapsed_s: float, protocol: Measuring, seed: int) -> bool:
    if len(quartiles) < LEAST_ROUNDS:
        return False
    if elapsed_s >= protocol.time_limit_s or len(quartiles) >= 2 * protocol.rounds_max:
        return True
    kept = quartiles[quiet_rounds(quartiles)]
    if len(kept) < protocol.rounds_min:
        return False
    ratios = kept[:, CANDIDATE] / kept[:, REFERENCE]
    return len(kept) >= protocol.rounds_max or _is_narrow(
        bootstrap_interval(ratios, _median, seed), float(np.median(ratios)), protocol
    )


def quiet_rounds(quartiles: Floats) -> npt.NDArray[np.bool_]:
    """Which rounds are kept (see `summarise`), from the quartiles [rounds, 2]: bool [rounds]."""
    pace = np.sqrt(quartiles[:, CANDIDATE] * quartiles[:, REFERENCE])
    limit = SLOW_ROUND * np.quantile(pace, 0.25)
    # However few pass, the fastest three stay, for a median needs them.
    quiet: npt.NDArray[np.bool_] = pace <= max(limit, np.sort(pace)[LEAST_ROUNDS - 1])
    return quiet


def _is_narrow(interval: Interval, ratio: float, protocol: Measuring) -> bool:
    return (interval.high - interval.low) / 2 <= protocol.interval * ratio


def _drift(reference: Floats) -> float:
    """How the last third of the rounds [rounds] compares with the first."""
    third = len(reference) // LEAST_ROUNDS
    first, last = float(np.median(reference[:third])), float(np.median(reference[-third:]))
    return last / first - 1 if first > 0 else 0.0


def _is_contended(times: Floats) -> bool:
    wall, cpu = np.median(times, axis=0)
    return bool(cpu > 0 and wall > CONTENDED * cpu)


def round_quartiles(table: Floats) -> Floats:
    """Seconds [rounds, 2]: the lower quartile of each artifact's wall times in each round.

    Raises:
        ValueError: fewer than three rounds, or an artifact is missing from one.
    """
    numbers = np.unique(table[:, 0])
    if len(numbers) < LEAST_ROUNDS:
        raise ValueError(f"the samples hold {len(numbers)} rounds; a median over rounds needs {LEAST_ROUNDS}")
    quartiles = np.empty((len(numbers), 2))
    for row, number in enumerate(numbers):
        of_round = table[table[:, 0] == number]
        for which in (CANDIDATE, REFERENCE):
            wall = of_round[of_round[:, 1] == which, 2]
            if not len(wall):
                raise ValueError(f"round {number:.0f} has no call of the {('candidate', 'reference')[which]}")
            quartiles[row, which] = _lower_quartile(wall)
    return quartiles


def _lower_quartile(values: Floats) -> float:
    return float(np.quantile(values, 0.25))


def _median(values: Floats) -> Floats:
    medians: Floats = np.median(values, axis=-1)
    return medians
