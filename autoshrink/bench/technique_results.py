"""What the benchmark of the techniques found, as rows of JSON values, and what of the goals they reach."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autoshrink.bench.technique_rows import GOALS, Goal, TechniqueRow
from autoshrink.pipeline import EXPORT, LOOKUP
from autoshrink.search.words import describe
from autoshrink.types import Interval, TrialRecord


@dataclass(frozen=True)
class Made:
    """What a recipe became on a target before it was measured.

    Attributes:
        key: of its ONNX file, by content: equal keys are equal models.
        minutes: of making it when it was made for the first time, whatever the cache served now; without the export.
    """

    key: str
    minutes: float

    @classmethod
    def of(cls, key: str, cost_seconds: Iterable[tuple[str, float]]) -> Made:
        """From the seconds that each stage took."""
        return cls(key, sum(seconds for stage, seconds in cost_seconds if stage not in (EXPORT, LOOKUP)) / 60)


@dataclass(frozen=True)
class Result:
    """A technique on a model and a target. What was not measured is None, and `reason` says why.

    Attributes:
        technique: name of the row of the benchmark; `baseline` is the model as it was brought, in fp32.
        model: `cnn` or `encoder`, or the name of another task.
        target: name of the target.
        recipe: in its readable form.
        words: the recipe in a few words.
        model_key: of the ONNX file that was compiled, by content.
        accuracy: of the compiled artifact on the test split, with its 95 % interval.
        baseline_accuracy: of the baseline's artifact on the same target and samples.
        drop: `baseline_accuracy - accuracy`, with the 95 % interval of the paired difference; 0.01 is one point.
        latency_ms: of one call.
        latency_ratio: to the baseline's artifact, measured interleaved, with its 95 % interval; under 1 is faster.
        speedup: `1 / latency_ratio`; over 1 is faster.
        stable: the interval of the ratio is as narrow as the target asks.
        size_bytes: of the files that ship.
        size_ratio: the baseline's size over this one: how many times smaller it is.
        compressed_bytes: of the files that ship, each compressed with gzip.
        size_ratio_compressed: the baseline's compressed size over this one: how many times smaller it is.
        minutes: of making the model: training and everything else but the export, when it was made for the first time.
        agreement_db: signal to quantization noise of the artifact's outputs against the float torch model, decibel.
        int8_layers: layers with weights that the runtime computes in 8 bit, of `layers`.
    """

    technique: str
    model: str
    target: str
    recipe: list[dict[str, Any]]
    words: str
    reason: str = ""
    model_key: str | None = None
    accuracy: float | None = None
    accuracy_ci: list[float] | None = None
    baseline_accuracy: float | None = None
    drop: float | None = None
    drop_ci: list[float] | None = None
    latency_ms: float | None = None
    latency_ratio: float | None = None
    latency_ratio_ci: list[float] | None = None
    speedup: float | None = None
    stable: bool | None = None
    size_bytes: int | None = None
    size_ratio: float | None = None
    compressed_bytes: int | None = None
    size_ratio_compressed: float | None = None
    minutes: float | None = None
    agreement_db: float | None = None
    int8_layers: int | None = None
    layers: int | None = None

    @property
    def is_measured(self) -> bool:
        """Whether the row has its figures."""
        return not self.reason and None not in (self.accuracy, self.latency_ratio, self.size_ratio)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Result:
        """The inverse of `to_json`.

        Raises:
            TypeError: a field is missing or unknown.
        """
        return cls(**data)


def failed(row: TechniqueRow, model: str, target: str, reason: str, made: Made | None = None) -> Result:
    """The result of a technique that could not be made or measured."""
    return Result(
        row.name,
        model,
        target,
        row.recipe.to_json(),
        describe(row.recipe),
        reason or "no reason was given",
        made.key if made else None,
        minutes=round(made.minutes, 2) if made else None,
    )


def measured(row: TechniqueRow, model: str, made: Made, record: TrialRecord, baseline: TrialRecord) -> Result:
    """The result of a record whose test split is scored; one that was not measured gives its reason."""
    test, latency, artifact, whole = record.test, record.latency, record.artifact, baseline.artifact
    if test is None or latency is None or artifact is None or baseline.test is None or whole is None:
        return failed(row, model, record.target, record.reason or "it has no score on the test split", made)
    compressed, whole_compressed = artifact.compressed_bytes, whole.compressed_bytes
    return Result(
        row.name,
        model,
        record.target,
        record.recipe.to_json(),
        describe(record.recipe),
        model_key=made.key,
        accuracy=test.value,
        accuracy_ci=_ends(test.ci),
        baseline_accuracy=baseline.test.value,
        drop=record.test_drop if record.recipe.stages else 0.0,
        drop_ci=_ends(record.test_drop_ci if record.recipe.stages else Interval(0.0, 0.0)),
        latency_ms=latency.ms,
        latency_ratio=latency.ratio,
        latency_ratio_ci=_ends(latency.ratio_ci),
        speedup=1 / latency.ratio,
        stable=latency.stable,
        size_bytes=artifact.size_bytes,
        size_ratio=whole.size_bytes / artifact.size_bytes,
        compressed_bytes=compressed,
        size_ratio_compressed=whole_compressed / compressed if compressed and whole_compressed else None,
        minutes=round(made.minutes, 2),
        agreement_db=record.agreement_db,
        int8_layers=record.audit.int8_layers if record.audit else None,
        layers=len(record.audit.layers) if record.audit else None,
    )


def _ends(interval: Interval | None) -> list[float] | None:
    return [interval.low, interval.high] if interval else None


def summary(result: Result) -> str:
    """A result in one line."""
    if not result.is_measured or result.accuracy is None or result.drop is None:
        return result.reason
    return (
        f"{100 * result.accuracy:.2f} % ({-100 * result.drop:+.2f} points), {result.size_ratio:.2f} times smaller, "
        f"{result.speedup:.2f} times faster, {result.minutes:.1f} minutes"
    )


def goals_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Each goal on each target that has results of its model: what was asked for, what was found, what is missed.

    Of several rows that a goal allows, the one that misses the fewest of its figures is taken, the first of equals.
    """
    found = []
    for goal in GOALS:
        of_model = [result for result in results if result.model == goal.model and result.technique in goal.rows]
        for target in dict.fromkeys(result.target for result in of_model):
            offers = sorted(
                (r for r in of_model if r.target == target),
                key=lambda r: (not r.is_measured, len(_missed(goal, r)), goal.rows.index(r.technique)),
            )
            best = offers[0]
            missed = _missed(goal, best)
            found.append(
                {
                    "goal": goal.words,
                    "model": goal.model,
                    "target": target,
                    "technique": best.technique,
                    "drop": best.drop,
                    "size_ratio": best.size_ratio,
                    "speedup": best.speedup,
                    "reached": not missed,
                    "missed": missed,
                }
            )
    return found


def _missed(goal: Goal, result: Result) -> list[str]:
    if not result.is_measured or result.drop is None or result.size_ratio is None or result.speedup is None:
        return [f"not measured: {result.reason}"]
    missed = []
    if goal.drop is not None and result.drop > goal.drop:
        missed.append(f"loses {100 * result.drop:.2f} points, over {100 * goal.drop:g}")
    if goal.smaller is not None and result.size_ratio < goal.smaller:
        missed.append(f"{result.size_ratio:.2f} times smaller, under {goal.smaller:g}")
    if goal.faster is not None and result.speedup < goal.faster:
        missed.append(f"{result.speedup:.2f} times faster, under {goal.faster:g}")
    return missed
