"""What a page saves: the text of CSV files."""

from __future__ import annotations

import csv
import io

from autoshrink.dashboard.app.exports import Table


def test_a_table_becomes_csv_that_reads_back() -> None:
    text = Table(("layer", "share, %"), [("a,b", 12.5), ('say "hi"', None), ("line\nbreak", -0.25)]).csv()
    assert list(csv.reader(io.StringIO(text))) == [
        ["layer", "share, %"],
        ["a,b", "12.5"],
        ['say "hi"', ""],
        ["line\nbreak", "-0.25"],
    ]


def test_a_text_that_a_spreadsheet_would_calculate_stays_text() -> None:
    rows = Table(("name",), [("=1+1",), ("@SUM(A1)",), ("-cmd",), ("plain",)]).csv().splitlines()
    assert rows == ["name", "'=1+1", "'@SUM(A1)", "'-cmd", "plain"]
