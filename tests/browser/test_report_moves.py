"""What the reader of a report can do: move limits, switch axes, save figures and tables; no server is needed."""

from __future__ import annotations

import csv
import io
import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import typer

from autoshrink.cli import app
from autoshrink.dashboard.report import write_report
from autoshrink.package.choose import choose
from autoshrink.records import StudyFolder
from autoshrink.target import Limits
from tests.fake_field import make_fake_field
from tests.fake_study import FAKE_TARGETS, fake_meta, fake_trial, make_fake_study
from tests.report_page import OpenedReport

ONNXRUNTIME, OPENVINO = 0, 1


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> StudyFolder:
    return make_fake_study(tmp_path_factory.mktemp("study") / "fake-study")


@pytest.fixture(scope="module")
def report(study: StudyFolder) -> Path:
    return write_report(study, study.path / "report.html")


def panel(opened: OpenedReport, place: int = ONNXRUNTIME) -> Any:
    return opened.page.locator(f"#limits-{place}")


def ask(opened: OpenedReport, label: str, value: str, place: int = ONNXRUNTIME) -> None:
    panel(opened, place).get_by_label(f"{label} at most", exact=True).fill(value)
    # The figure follows with the next frame.
    opened.page.evaluate("() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")


def command(opened: OpenedReport, place: int = ONNXRUNTIME) -> list[str]:
    shown = opened.page.locator(f"#pick-{place}").inner_text().replace("\xa0", " ")
    assert panel(opened, place).locator("pre").inner_text().split() == shown.split()
    return shlex.split(shown)


def options(words: list[str]) -> dict[str, Any]:
    """What the command line makes of the command."""
    found = typer.main.get_command(app).commands["pick"].make_context("pick", words[2:])  # type: ignore[attr-defined]
    return dict(found.params)


def plotted(opened: OpenedReport, name: str = "front-0") -> Any:
    """Traces and layout as plotly has them."""
    return opened.page.evaluate(
        """name => { const {data, layout} = document.getElementById(name);
        return {points: data.filter(t => t.customdata).flatMap(t =>
                  t.customdata.map((n, i) => [n, t.x[i], t.y[i], t.marker.symbol[i]])),
                line: data.filter(t => !t.customdata).map(t => t.x.map((x, i) => [x, t.y[i]])),
                arrows: layout.annotations.filter(a => a.text === "chosen").map(a => [a.x, a.y]),
                lines: layout.shapes.map(s => [s.x0, s.y0]),
                axis: [layout.xaxis.type, layout.xaxis.title.text, layout.xaxis.range]}}""",
        name,
    )


def test_what_is_chosen_follows_the_limits_as_pick_would_choose(opened: OpenedReport, study: StudyFolder) -> None:
    records = study.records("onnxruntime-cpu")
    first = choose(records, Limits())
    assert f"Trial {first.number}\n" in panel(opened).inner_text()
    assert options(command(opened))["max_drop"] == 0.01
    ask(opened, "Latency", "0.3")
    ask(opened, "Size", "0.4")
    second = choose(records, Limits(latency_ms=0.3, size_bytes=400_000))
    assert second.number != first.number, "the limits should lead to another trial"
    assert f"Trial {second.number}\n" in panel(opened).inner_text()
    given = options(command(opened))
    assert (given["max_latency"], given["max_size"], given["max_drop"]) == (0.3, 400_000, None)
    marked = opened.page.locator("#target-0 table.front tr.chosen")
    assert marked.get_attribute("data-trial") == str(second.number)
    assert marked.locator(".badge").inner_text() == "chosen"
    assert opened.page.locator("#target-0 table.front .badge.pick").count() == 1
    panel(opened).get_by_role("button", name="No limits").click()
    panel(opened).get_by_text(f"Trial {first.number}", exact=True).wait_for()
    assert marked.get_attribute("data-trial") == str(first.number)


NAMED = """place => {
  const section = document.getElementById(`target-${place}`);
  const card = document.getElementById(`card-${place}`);
  const shown = each => each && each.checkVisibility();
  return {
    numbers: [
      section.querySelector(".r-ship b").textContent.replace("Trial ", ""),
      card.querySelector(".recipe").textContent.split(":")[0].replace("trial ", ""),
      ...[...section.querySelectorAll("[data-trial]:has(.badge.pick)")].map(each => each.dataset.trial),
    ],
    gains: [".card .gains b", ".r-gained b"].map(path =>
      [...document.querySelectorAll(path)].filter(each => (each.closest("section, .card") ?? section) === section
        || each.closest(".card") === card).map(each => each.textContent)),
    said: shown(section.querySelector(".r-said")),
    asked: shown(card.querySelector(".asked")),
  };
}"""
"""Every place of the page that names the trial to ship, and what it says of it."""


def test_the_page_has_one_answer_wherever_it_says_it(opened: OpenedReport, study: StudyFolder) -> None:
    records = study.records("onnxruntime-cpu")
    asked = [({}, Limits()), ({"Latency": "0.3"}, Limits(latency_ms=0.3)), ({"Size": "0.4"}, Limits(0.3, 400_000))]
    picks = []
    for boxes, limits in asked:
        for label, value in boxes.items():
            ask(opened, label, value)
        found = opened.page.evaluate(NAMED, ONNXRUNTIME)
        picks.append(choose(records, limits).number)
        # The panel, the card, the table of the front and the folded trial.
        assert found["numbers"] == [str(picks[-1])] * 4
        assert found["gains"][0] == found["gains"][1] != []
        assert found["said"] is False
        assert found["asked"] == (limits != Limits())
    assert len(set(picks)) > 1, "the limits should lead to another trial"
    ask(opened, "Size", "0.01")
    assert opened.page.locator("#card-0").inner_text().splitlines() == [
        "onnxruntime-cpu", "under the limits that you set", "No trial surely keeps these limits."
    ]  # fmt: skip
    assert opened.page.locator("#target-0 .badge.pick").count() == 0
    # The other target has limits of its own.
    other = opened.page.evaluate(NAMED, OPENVINO)
    assert set(other["numbers"]) == {
        str(choose(study.records("openvino-cpu"), FAKE_TARGETS["openvino-cpu"].limits).number)
    }
    assert other["asked"] is False


def test_the_first_answer_is_that_of_a_reader_without_scripts(browser: Any, opened: OpenedReport, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(report.as_uri())
    for place in (ONNXRUNTIME, OPENVINO):
        card = f"#card-{place}"
        assert plain.locator(card).inner_text() == opened.page.locator(card).inner_text()
        number = opened.page.locator(f"#target-{place} .r-ship b").inner_text()
        assert plain.locator(f"#target-{place} .headline").inner_text().startswith(f"{number}: ")
        assert not plain.locator(f"#limits-{place}").is_visible()
    context.close()


def test_where_nothing_is_better_the_page_says_to_ship_the_baseline(browser: Any, tmp_path: Path) -> None:
    target = FAKE_TARGETS["onnxruntime-cpu"]
    study = StudyFolder.create(tmp_path / "fake-study", fake_meta({target.name: target}))
    study.write(fake_trial(0))
    study.write(fake_trial(1, [{"technique": "quantize", "scheme": "int8_static"}], accuracy=0.7, ratio=0.3))
    opened = OpenedReport(browser, write_report(study, tmp_path / "report.html"))
    for room in ("#card-0", "#limits-0 .r-answer"):
        assert "Ship the baseline" in opened.page.locator(room).inner_text()
    ask(opened, "Latency", "0.5")
    assert "trial 1:" in opened.page.locator("#card-0").inner_text()
    opened.check_quiet()
    opened.close()


def test_the_front_shows_what_keeps_the_limits(opened: OpenedReport, study: StudyFolder) -> None:
    records = {record.number: record for record in study.records("onnxruntime-cpu")}
    assert all(not symbol.endswith("-open") for *_, symbol in plotted(opened)["points"])
    ask(opened, "Latency", "0.3")
    drawn = plotted(opened)
    for number, ratio, _, symbol in drawn["points"]:
        latency = records[number].latency
        assert latency is not None
        assert symbol.endswith("-open") == (latency.ms_ci.high > 0.3)
        assert ratio == pytest.approx(latency.ratio, rel=1e-4)
    chosen = choose(list(records.values()), Limits(latency_ms=0.3))
    assert chosen.latency is not None
    ((x, _),) = drawn["arrows"]
    assert x == pytest.approx(math.log10(chosen.latency.ratio), abs=1e-4)
    assert drawn["lines"] == [[pytest.approx(0.3 / 1.24), 0]]


def test_a_slider_moves_the_box_and_its_end_is_no_limit(opened: OpenedReport) -> None:
    slider = panel(opened).get_by_label("Latency at most, slider")
    box = panel(opened).get_by_label("Latency at most", exact=True)
    slider.focus()
    assert slider.get_attribute("aria-valuetext") == "no limit"
    slider.press("ArrowLeft")
    assert float(box.input_value()) > 0.5
    assert slider.get_attribute("aria-valuetext") == f"{box.input_value()} ms"
    before = float(box.input_value())
    slider.press("PageDown")
    assert float(box.input_value()) < before
    slider.press("End")
    assert box.input_value() == ""


def test_when_nothing_fits_it_says_what_is_nearest_and_what_to_relax(opened: OpenedReport) -> None:
    ask(opened, "Latency", "0.3")
    ask(opened, "Size", "0.01")
    text = panel(opened).inner_text()
    assert "No trial surely keeps these limits." in text
    assert panel(opened).locator(".r-misses li").count() == 3
    assert all(symbol.endswith("-open") for *_, symbol in plotted(opened)["points"])
    assert plotted(opened)["arrows"] == []
    assert opened.page.locator("#pick-0").inner_text() == "No trial keeps the limits that are set above."
    way = panel(opened).locator(".r-ways button").first
    number = way.inner_text().rpartition("trial ")[2]
    way.click()
    assert panel(opened).locator(".r-ship").inner_text().startswith(f"Trial {number}\n")
    assert plotted(opened)["arrows"] != []


def test_a_box_that_holds_no_limit_says_so_and_limits_nothing(opened: OpenedReport) -> None:
    ask(opened, "Latency", "0")
    row = panel(opened).locator(".r-limit").first
    assert "must be over 0" in row.inner_text()
    assert row.locator("input[type=number]").get_attribute("aria-invalid") == "true"
    assert options(command(opened))["max_latency"] is None


def test_a_target_has_its_own_limits_until_one_is_taken_away(opened: OpenedReport, study: StudyFolder) -> None:
    own = FAKE_TARGETS["openvino-cpu"].limits
    records = study.records("openvino-cpu")
    assert panel(opened, OPENVINO).get_by_label("Latency at most", exact=True).input_value() == "0.9"
    given = options(command(opened, OPENVINO))
    assert (given["max_latency"], given["max_drop"]) == (own.latency_ms, own.drop)
    ask(opened, "Latency", "", OPENVINO)
    alone = choose(records, Limits(drop=own.drop))
    # `pick` would hold the target's own limit against it where none is given.
    assert options(command(opened, OPENVINO))["trial"] == alone.number
    panel(opened, OPENVINO).get_by_role("button", name="Back to the target's limits").click()
    opened.page.wait_for_function("document.getElementById('pick-1').textContent.includes('--max-latency 0.9ms')")


def test_the_axis_of_the_front_is_switched(opened: OpenedReport, study: StudyFolder) -> None:
    records = {record.number: record for record in study.records("onnxruntime-cpu")}
    figure = opened.page.locator("#target-0 figure").first
    over, values, log = figure.locator(".r-axes select, .r-axes input").all()
    assert log.is_checked()
    over.select_option(label="size")
    values.select_option(label="absolute")
    log.uncheck()
    drawn = plotted(opened)
    assert drawn["axis"][:2] == ["linear", "size, MB"]
    for number, x, y, _ in drawn["points"]:
        record = records[number]
        assert record.artifact is not None
        assert record.val is not None
        assert x == pytest.approx(record.artifact.size_bytes / 1e6, rel=1e-4)
        assert y == pytest.approx(100 * record.val.value)
    (line,) = drawn["line"]
    assert line == sorted(line)
    assert [y for _, y in line] == sorted(y for _, y in line)
    assert figure.locator("h3").inner_text() == "Accuracy over size"
    assert "grow with the latency" in figure.locator("figcaption").inner_text()
    ask(opened, "Size", "1.5")
    assert plotted(opened)["lines"] == [[1.5, 0]]


def test_a_zoom_outlives_a_limit(opened: OpenedReport) -> None:
    opened.page.evaluate("Plotly.relayout('front-0', {'yaxis.range': [89.1, 89.9]})")
    ask(opened, "Size", "1.5")
    assert opened.page.evaluate("document.getElementById('front-0').layout.yaxis.range") == [89.1, 89.9]


def test_figures_are_saved_as_png_and_svg(opened: OpenedReport) -> None:
    figure = opened.page.locator("#target-0 figure").first
    found = {}
    for name in ("PNG", "SVG"):
        with opened.page.expect_download() as download:
            figure.get_by_role("button", name=f"Save Accuracy over latency as {name}").click()
        found[name] = download.value
    assert found["PNG"].suggested_filename == "fake-study-onnxruntime-cpu-Accuracy-over-latency.png"
    assert found["PNG"].path().read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert found["PNG"].path().stat().st_size > 10_000
    drawing = ElementTree.fromstring(found["SVG"].path().read_text(encoding="utf-8"))
    assert drawing.tag.endswith("svg")
    assert "fp32 baseline" in "".join(drawing.itertext())


def test_a_table_is_saved_with_its_numbers_and_units(opened: OpenedReport, study: StudyFolder) -> None:
    opened.page.locator("#target-0 summary", has_text="with outcome and reason").click()
    with opened.page.expect_download() as download:
        opened.page.locator("#target-0").get_by_role("button", name="Save All trials as CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text(encoding="utf-8-sig"))))
    records = study.records("onnxruntime-cpu")
    assert [int(row["trial"]) for row in rows] == [record.number for record in records]
    for row, record in zip(rows, records, strict=True):
        assert row["outcome"].split()[0] == record.outcome.value
        assert record.reason in row["recipe, reason, more"]
        if record.val and record.latency and record.artifact:
            assert float(row["accuracy, val [%]"]) == pytest.approx(100 * record.val.value)
            assert float(row["latency [ms]"]) == pytest.approx(record.latency.ms)
            assert int(row["size [bytes]"]) == record.artifact.size_bytes
        else:
            assert row["latency [ms]"] == ""


def test_a_table_starts_no_formula_in_a_spreadsheet(browser: Any, tmp_path: Path) -> None:
    target = FAKE_TARGETS["onnxruntime-cpu"]
    study = StudyFolder.create(tmp_path / "fake-study", fake_meta({target.name: target}))
    study.write(fake_trial(0))
    study.write(fake_trial(1, [{"technique": "=cmd|' /C calc'!A0", "scheme": 'a"b'}], accuracy=0.899, ratio=0.3))
    opened = OpenedReport(browser, write_report(study, tmp_path / "report.html"))
    text = opened.page.evaluate("save.csv(document.querySelector('table.front'))")
    opened.check_quiet()
    opened.close()
    (row,) = [row for row in csv.DictReader(io.StringIO(text)) if row["trial"] == "1"]
    assert row["recipe"].startswith("'=cmd")
    assert 'a"b' in row["recipe"]


def test_names_that_are_html_stay_text_where_limits_move(browser: Any, tmp_path: Path) -> None:
    nasty = "<img src=x onerror=alert(1)>"
    target = replace(FAKE_TARGETS["onnxruntime-cpu"], limits=Limits(latency_ms=1.0))
    study = StudyFolder.create(tmp_path / "fake-study", fake_meta({target.name: target}))
    study.write(fake_trial(0))
    study.write(fake_trial(1, [{"technique": nasty, "scheme": nasty}], accuracy=0.899, ratio=0.3, size=900_000))
    opened = OpenedReport(browser, write_report(study, tmp_path / "report.html"))
    assert nasty in panel(opened).locator(".r-ship").inner_text()
    ask(opened, "Latency", "0.01")
    assert nasty in panel(opened).locator(".r-misses").inner_text()
    assert opened.page.locator("img").count() == 0
    opened.check_quiet()
    opened.close()


def test_of_what_was_not_measured_there_is_no_limit(browser: Any, tmp_path: Path) -> None:
    opened = OpenedReport(browser, write_report(make_fake_field(tmp_path / "fake-study"), tmp_path / "report.html"))
    labels = {
        place: [row.inner_text().partition(" at ")[0] for row in panel(opened, place).locator("label").all()]
        for place in (2, 3, 4)
    }
    assert labels[2] == ["Latency", "Size", "Loss", "Throughput"]
    assert labels[3] == ["Size", "Loss", "arena", "cycles"]
    assert labels[4] == ["Size", "Loss"]
    ask(opened, "arena", "100", 3)
    assert options(command(opened, 3))["max_figure"] == ["arena=100000"]
    opened.check_quiet()
    opened.close()
