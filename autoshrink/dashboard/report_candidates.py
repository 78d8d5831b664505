"""What a report's page needs to choose a trial by other limits: each candidate's bounds, as JSON values."""

from __future__ import annotations

import math
from typing import Any

from autoshrink.dashboard.view import TargetView
from autoshrink.package.choose import Candidate, candidates, drop_interval
from autoshrink.search.words import describe


def candidate_rows(view: TargetView) -> list[dict[str, Any]]:
    """The candidates of a target (see `autoshrink.package.choose.candidates`) as `limits.js` takes them.

    A drop without an upper bound is None, as is what was not measured; `loss` is the drop with both ends of its
    interval.
    """
    return [_row(candidate) for candidate in candidates(view.records, view.target.batch, view.others)]


def _row(candidate: Candidate) -> dict[str, Any]:
    loss = drop_interval(candidate.scored)
    return {
        "number": candidate.number,
        "words": describe(candidate.record.recipe),
        "size_bytes": candidate.size_bytes,
        "drop": candidate.drop if math.isfinite(candidate.drop) else None,
        "accuracy": candidate.accuracy,
        "latency_ms": candidate.latency_ms,
        "throughput": candidate.throughput,
        "ratio": candidate.ratio,
        "loss": None if loss is None else [loss[0], loss[1].low, loss[1].high],
        "figures": dict(candidate.figures),
        "scored_on": candidate.scored.target,
    }
