"""How fast a search goes: the time that it has worked, and what is left of it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from autoshrink.dashboard.ages import age_seconds
from autoshrink.dashboard.library import Snapshot, StudyState
from autoshrink.types import TrialRecord

SLACK_S = 30.0
"""Between two trials more than the seconds of the second may pass by so much: a sampler thinks, a child starts."""
ENOUGH = 2
"""So many trials of this run must have ended before their pace tells anything."""


def worked_seconds(records: Sequence[TrialRecord]) -> list[float]:
    """For each record the seconds that the search had worked when it ended, pauses between two runs left out.

    A gap between two ends counts as far as the later trial accounts for it, with `SLACK_S`: what is longer was a pause.
    Where trials of several devices end side by side, only the gap counts. A record without a time of its end counts its
    own seconds.

    Args:
        records: of one target or of several, in the order in which they ended.
    """
    worked, at, before = [], 0.0, None
    for record in records:
        own = sum(record.seconds.values())
        end = _moment(record.finished)
        if end is None or before is None:
            at += own
        else:
            gap = max(0.0, (end - before).total_seconds())
            at += gap if gap <= own + SLACK_S else own
        before = end or before
        worked.append(at)
    return worked


def in_order_of_end(records: Sequence[TrialRecord]) -> list[TrialRecord]:
    """Sorted by when they ended; those that do not say stay where their numbers put them."""
    latest, keyed = "", []
    for record in sorted(records, key=lambda each: each.number):
        latest = record.finished or latest
        keyed.append((latest, record.number, record))
    return [record for _, _, record in sorted(keyed, key=lambda each: each[:2])]


def seconds_left(snapshot: Snapshot, now: datetime | None = None) -> float | None:
    """Of a running search, by the pace of this run and by its time limit, whichever comes first.

    None when it does not run, when neither a number of trials nor a time was asked for, or when it is too early to say.
    """
    activity = snapshot.activity
    if snapshot.state is not StudyState.RUNNING or activity is None:
        return None
    elapsed = age_seconds(activity.began, now)
    if elapsed is None:
        return None
    records = [record for view in snapshot.views.values() for record in view.records]
    began = _moment(activity.began)
    ends = [_moment(record.finished) for record in records]
    done = sum(1 for end in ends if end is not None and began is not None and end >= began.replace(microsecond=0))
    known = []
    if activity.planned is not None and done >= ENOUGH:
        known.append(max(0, activity.planned - len(records)) * elapsed / done)
    if activity.time_limit_s is not None:
        known.append(max(0.0, activity.time_limit_s - elapsed))
    return min(known) if known else None


def roughly(seconds: float) -> str:
    """A time to wait, no finer than anybody can tell: `under a minute`, `about 12 min`, `about 2 h 20 min`."""
    minutes = seconds / 60
    if minutes < 1:
        return "under a minute"
    if minutes < 90:
        return f"about {round(minutes)} min"
    whole = 10 * round(minutes / 10)
    return f"about {whole // 60} h" + (f" {whole % 60} min" if whole % 60 else "")


def _moment(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
