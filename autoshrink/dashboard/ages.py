"""How long ago something was, in words."""

from __future__ import annotations

from datetime import UTC, datetime

MINUTE, HOUR, DAY = 60, 3600, 86400
NEW_S = 45
"""Whatever is younger is `just now`: two clocks may differ by as much."""


def age_seconds(moment: str, now: datetime | None = None) -> float | None:
    """Seconds since an ISO 8601 time; 0 of one that is still to come, None of what is no time.

    A time without a zone is taken for UTC, in which records are written.
    """
    try:
        then = datetime.fromisoformat(moment)
    except (ValueError, TypeError):
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, ((now or datetime.now(UTC)) - then).total_seconds())


def ago(moment: str, now: datetime | None = None) -> str:
    """`just now`, `5 min ago`, `3 h ago`, `12 days ago`; from 60 days on the date; empty of what is no time."""
    seconds = age_seconds(moment, now)
    if seconds is None:
        return ""
    if seconds < NEW_S:
        return "just now"
    if seconds < HOUR:
        return f"{max(1, round(seconds / MINUTE))} min ago"
    if seconds < 2 * DAY:
        return f"{round(seconds / HOUR)} h ago"
    return f"{round(seconds / DAY)} days ago" if seconds < 60 * DAY else moment[:10]
