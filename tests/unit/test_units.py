from __future__ import annotations

import pytest

from autoshrink import units


@pytest.mark.parametrize(
    ("parse", "text", "value"),
    [
        (units.milliseconds, "2ms", 2.0),
        (units.milliseconds, "300us", 0.3),
        (units.milliseconds, " 0.1 s ", 100.0),
        (units.size_bytes, "1MB", 1_000_000),
        (units.size_bytes, "1MiB", 1_048_576),
        (units.size_bytes, "1.5kB", 1_500),
        (units.seconds, "10min", 600.0),
        (units.seconds, "2h", 7200.0),
        (units.share, "1%", 0.01),
        (units.share, "0.01", 0.01),
    ],
)
def test_quantities(parse: object, text: str, value: float) -> None:
    assert parse(text) == pytest.approx(value)  # type: ignore[operator]


@pytest.mark.parametrize("text", ["2", "ms", "-1ms", "2 MB", "1e400ms", "1ms 2ms", ""])
def test_what_is_no_latency_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="such as 2ms"):
        units.milliseconds(text)
