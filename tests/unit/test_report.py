"""The report: its figures and sentences on known answers, and a page that nothing in a record can break out of."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import typer

from autoshrink.cli import app
from autoshrink.dashboard.commands import next_commands, search_command
from autoshrink.dashboard.figures import TOLERATED, family, progress, stage_seconds
from autoshrink.dashboard.formatting import Metric, gain, speed_up_interval
from autoshrink.dashboard.front_figure import SIZE, front_figure
from autoshrink.dashboard.headline import headline
from autoshrink.dashboard.markup import element
from autoshrink.dashboard.palette import DARK, LIGHT, Palette, recoloured
from autoshrink.dashboard.report import write_report
from autoshrink.dashboard.report_tables import audit_table
from autoshrink.dashboard.view import TargetView
from autoshrink.errors import ConfigError
from autoshrink.records import StudyFolder
from autoshrink.target import Limits, Target
from autoshrink.types import Interval, Outcome, Recipe, TrialRecord
from tests.fake_field import NOTE, fake_field_views, make_fake_field
from tests.fake_study import (
    FAKE_MACHINE,
    FAKE_TARGETS,
    fake_meta,
    fake_score,
    fake_trial,
    fake_view,
    make_fake_study,
)

TARGET = "onnxruntime-cpu"
INT8 = [{"technique": "quantize", "scheme": "int8_static"}]
PRUNED = [{"technique": "prune", "ratio": 0.5}, {"technique": "finetune", "epochs": 1}]
KINDS = ("front", "size", "progress", "time", "importance", "lines")
NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"


class Page(HTMLParser):
    """Elements and text of a page, as a browser would see them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.text = ""
        self._open: str = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts[-1] += data
        elif self._open != "style":
            self.text += data.replace("\xa0", " ")


def study_of(
    path: Path, records: Sequence[TrialRecord], target: Target = FAKE_TARGETS[TARGET], name: str = "fake-study"
) -> StudyFolder:
    study = StudyFolder.create(path / name, fake_meta({target.name: target}, name=name))
    for record in records:
        study.write(record)
    return study


def page_of(study: StudyFolder) -> Page:
    return Page(write_report(study, study.path / "report.html").read_text(encoding="utf-8"))


def unmeasured(record: TrialRecord, reason: str) -> TrialRecord:
    return replace(
        record, outcome=Outcome.FAILED, reason=reason, val=None, drop=None, drop_ci=None, latency=None, artifact=None,
        audit=None, agreement_db=None,
    )  # fmt: skip


def test_gains_in_words() -> None:
    assert gain(0.25, "smaller", "larger") == "4.00x smaller"
    assert gain(1.25, "faster", "slower") == "1.25x slower"
    assert gain(0.996, "faster", "slower", "same speed") == "same speed"
    assert gain(0.01, "smaller", "larger") == "100x smaller"
    assert speed_up_interval(Interval(0.25, 0.5)) == "[2.00, 4.00]"


def test_metrics_in_percent_or_plain() -> None:
    share, plain = Metric(percent=True), Metric(percent=False)
    assert share.value(0.8826) == "88.26 %"
    assert share.change(0.002) == "-0.20 points"
    assert share.change(-1e-9) == "0.00 points"
    assert share.change_interval(Interval(-0.002, 0.006)) == "[-0.60, +0.20]"
    assert plain.value(-0.03125) == "-0.03125"
    assert plain.change(0.5) == "-0.5"
    assert Metric.of([fake_trial(0)]).percent
    assert not Metric.of([replace(fake_trial(0), test=replace(fake_score(0.5), value=1.5))]).percent


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        ([], "fp32 baseline"),
        (INT8, "int8"),
        (PRUNED, "prune"),
        ([*PRUNED, *INT8], "prune + int8"),
        ([{"technique": "finetune", "epochs": 1}], "finetune"),
        ([{"technique": "cluster", "bits": 4}, {"technique": "quantize", "scheme": "fp16"}], "cluster + fp16"),
    ],
)
def test_families_leave_the_settings_out(recipe: list[dict[str, object]], name: str) -> None:
    assert family(Recipe.from_json(recipe)) == name


def test_progress_is_the_volume_of_boxes() -> None:
    half_loss = 0.9 * (1 - TOLERATED / 2)
    records = [
        fake_trial(0),
        fake_trial(1, INT8, accuracy=0.9, ratio=0.5, size=4_920_000 // 4),
        fake_trial(2, INT8, accuracy=0.95, ratio=0.1, size=1000, outcome=Outcome.INFEASIBLE),
        unmeasured(fake_trial(3, INT8), "died"),
        fake_trial(4, PRUNED, accuracy=half_loss, ratio=0.25, size=4_920_000 // 4),
        fake_trial(5, PRUNED, accuracy=0.7, ratio=0.25, size=4_920_000 // 4),
    ]
    first, grown = 0.5 * 0.75, 0.5 * 0.75 + 0.5 * 0.25 * 0.75
    assert progress(records, Limits()) == pytest.approx([0, first, first, first, grown, grown])
    assert progress(records[1:], Limits()) == []


def test_progress_counts_the_loss_against_the_limit() -> None:
    records = [fake_trial(0), fake_trial(1, INT8, accuracy=0.89, ratio=0.5, size=4_920_000 // 2)]
    assert progress(records, Limits(drop=0.04))[-1] == pytest.approx(0.75 * 0.5 * 0.5)


def test_stage_seconds_are_in_the_order_of_a_trial() -> None:
    records = [
        replace(fake_trial(0), seconds={"other": 1.0, "measure": 2.0, "export": 1.0, "distill": 5.0}),
        replace(fake_trial(1, INT8), seconds={"prune": 1.0, "measure": 3.0}),
    ]
    assert list(stage_seconds(records).items()) == [
        ("prune", 1.0), ("distill", 5.0), ("export", 1.0), ("measure", 5.0), ("other", 1.0)
    ]  # fmt: skip


def test_front_figure_draws_the_staircase_without_the_dominated() -> None:
    records = [
        fake_trial(0),
        fake_trial(1, INT8, accuracy=0.89, ratio=0.2, size=1_000_000),
        fake_trial(2, PRUNED, accuracy=0.88, ratio=0.4, size=900_000),
        fake_trial(3, PRUNED, accuracy=0.87, ratio=0.5, size=2_000_000),
    ]
    colours = LIGHT.colours(["int8", "prune"])
    figure = front_figure(records, Limits(latency_ms=0.62, drop=0.05), LIGHT, colours, chosen=records[1])
    assert figure is not None
    steps, *rest = figure.data
    assert list(zip(steps.x, steps.y, strict=True)) == [(0.2, 89.0), (1.0, 90.0)]
    faint = [trace.name for trace in rest if trace.marker.opacity < 1]
    assert faint == ["prune"]
    assert [trace.name for trace in rest if trace.marker.symbol == "star"] == ["fp32 baseline"]
    # The limits: half of the baseline's 1.24 ms, and five points below its 90 %.
    assert [(line.x0, line.y0) for line in figure.layout.shapes] == [(0.5, 0), (0, 85.0)]
    assert "chosen" in [note.text for note in figure.layout.annotations]
    by_size = front_figure(records, Limits(), LIGHT, colours, SIZE)
    assert by_size is not None
    assert by_size.data[0].x[0] == pytest.approx(900_000 / 4_920_000)


def test_front_figure_counts_what_is_far_below() -> None:
    far = fake_trial(2, PRUNED, accuracy=0.1, ratio=0.1, size=100, outcome=Outcome.INFEASIBLE)
    records = [fake_trial(0), fake_trial(1, INT8, accuracy=0.899, ratio=0.9), far]
    figure = front_figure(records, Limits(), LIGHT, LIGHT.colours(["int8"]))
    assert figure is not None
    assert "1 trial below" in [note.text for note in figure.layout.annotations]
    assert figure.layout.yaxis.range[0] > 80


def test_front_figure_needs_something_to_compare() -> None:
    assert front_figure([fake_trial(0)], Limits(), LIGHT, {}) is None
    assert front_figure([fake_trial(1, INT8), fake_trial(2, PRUNED)], Limits(), LIGHT, {}) is None


def test_headline_says_what_the_chosen_trial_gains() -> None:
    records = [
        fake_trial(0, test=fake_score(0.89, 10_000)),
        replace(
            fake_trial(12, INT8, accuracy=0.899, ratio=0.25, size=1_230_000, test=fake_score(0.888, 10_000)),
            test_drop=0.002,
            test_drop_ci=Interval(-0.001, 0.005),
        ),
    ]
    found = headline(fake_view(records))
    assert found.chosen == records[1]
    assert found.sentence.startswith("Trial 12: 4.00x smaller, 4.00x faster, -0.20 points [-0.50, +0.10] on the test")
    assert found.gains[0] == ("4.00x smaller", "1.23 MB, was 4.92 MB")
    assert found.gains[1] == ("4.00x faster", "0.310 ms, was 1.24 ms")
    on_val = headline(fake_view([replace(record, test=None, test_drop=None) for record in records]))
    assert on_val.sentence.endswith("-0.10 points [-0.50, +0.30] on the val split")


@pytest.mark.parametrize(
    ("records", "limits", "sentence"),
    [
        ([], Limits(), "No trial has finished yet."),
        ([fake_trial(0)], Limits(), "Ship the baseline: no other trial was measured."),
        ([fake_trial(0), fake_trial(1, INT8, accuracy=0.5, ratio=0.5)], Limits(), "Ship the baseline: none of 1 other"),
        ([unmeasured(fake_trial(0), "export: died")], Limits(), "The baseline was not measured: export: died."),
        ([fake_trial(1, INT8)], Limits(), "The baseline was not measured. Without it"),
        ([fake_trial(0)], Limits(latency_ms=0.1), "none of the 1 measured trial"),
    ],
)
def test_headline_without_a_gain(records: list[TrialRecord], limits: Limits, sentence: str) -> None:
    assert headline(fake_view(records, limits)).sentence.startswith(sentence)


def test_markup_escapes_text_and_attributes() -> None:
    inner = element("b", "<&")
    assert element("p", inner, "\"'<", [None, 3], class_='a"b', data_value=1, open=True, id=None) == (
        '<p class="a&quot;b" data-value="1" open><b>&lt;&amp;</b>&quot;&#x27;&lt;3</p>'
    )


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_colours_stand_out(palette: Palette) -> None:
    assert all(contrast(colour, palette.surface) >= 3 for colour in palette.series)
    assert all(contrast(colour, palette.surface) >= 4.5 for colour in (palette.ink, palette.muted, palette.limit))


def test_recoloured_swaps_every_colour_once() -> None:
    text = f"{LIGHT.ink} {LIGHT.surface} {LIGHT.series[3]} rgba(0,0,0,0)"
    assert recoloured(text, LIGHT, DARK) == f"{DARK.ink} {DARK.surface} {DARK.series[3]} rgba(0,0,0,0)"


def test_search_command_is_the_one_that_was_given() -> None:
    limited = {name: replace(t, limits=Limits(0.9, 1_500_000, 0.01)) for name, t in FAKE_TARGETS.items()}
    assert search_command(fake_meta(limited, task="/home/somebody/my task.py", time_limit_s=600.0)) == (
        "autoshrink search 'my task.py' --target onnxruntime-cpu --target openvino-cpu --space standard --trials 24 "
        "--time 600s --max-latency 0.9ms --max-size 1.5MB --max-drop 1% --seed 0 --study fake-study"
    )
    assert "--max" not in search_command(fake_meta(FAKE_TARGETS))


def test_commands_are_understood_by_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    limits = Limits(0.35, 123_457, 0.015, 500.0, {"arena": 262_144})
    study = StudyFolder.create(tmp_path / "results" / "fake-study", fake_meta(FAKE_TARGETS))
    commands = [search_command(study.meta), *(command for _, command in next_commands(study, TARGET, limits))]
    parsed = {}
    for command in commands:
        _, name, *arguments = shlex.split(command)
        parsed[name] = typer.main.get_command(app).commands[name].make_context(name, arguments).params  # type: ignore[attr-defined]
    assert list(parsed) == ["search", "pick", "verify", "resume"]
    assert parsed["pick"]["max_latency"] == 0.35
    assert parsed["pick"]["max_size"] == 123_457
    assert parsed["pick"]["max_drop"] == 0.015
    assert (parsed["pick"]["min_throughput"], parsed["pick"]["max_figure"]) == (500, ["arena=262144"])
    assert parsed["pick"]["destination"] == parsed["verify"]["package"]
    assert parsed["resume"]["trials"] == 48
    elsewhere = StudyFolder.create(tmp_path / "other" / "fake-study", study.meta)
    assert "--results other" in next_commands(elsewhere, TARGET, limits)[0][1]


def test_page_is_whole_and_asks_nothing_of_the_network(tmp_path: Path) -> None:
    study = make_fake_study(tmp_path / "fake-study")
    page = page_of(study)
    assert "http-equiv" in page.elements[3][1]
    policy = page.elements[3][1]["content"] or ""
    assert "default-src 'none'" in policy
    outward = ("src", "action", "srcset")
    loads = [value for _, found in page.elements for name, value in found.items() if name in outward]
    assert loads, "the samples that flipped have pictures"
    assert all((value or "").startswith("data:image/png;base64,") for value in loads)
    links = [found["href"] for _, found in page.elements if "href" in found]
    assert links == ["#target-0", "#target-1"]
    data, *run = page.scripts
    assert len(run) == 8
    for script in run:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    # Hover texts hold tags; none may stand in the script as such.
    assert "<" not in data
    drawn = json.loads(data)
    assert "<br>" in json.dumps(drawn)
    assert list(drawn) == ["figures", "targets", "dark"]
    places = {found["id"] for _, found in page.elements if found.get("class") == "plot"}
    # Accuracy over size is the front on another axis.
    assert places - set(drawn["figures"]) == {"size-0", "size-1"}
    # The hypervolume over time is drawn where that over trials was.
    assert set(drawn["figures"]) - places == {"pace-0", "pace-1"}
    places = {name for name in places if not name.startswith("trial-")}
    assert places == {f"{kind}-{place}" for kind in KINDS for place in (0, 1)}
    # The page makes its dark colours from the light ones, so no figure is in it twice.
    assert drawn["dark"][LIGHT.muted] == DARK.muted
    assert DARK.muted not in json.dumps(drawn["figures"])


def test_page_says_what_came_out_and_how(tmp_path: Path) -> None:
    study = make_fake_study(tmp_path / "fake-study")
    text = page_of(study).text
    for target in study.meta.targets:
        assert headline(TargetView.of(study, target)).sentence in text
        for record in study.records(target):
            assert record.reason in text
    for expected in (
        "task fashion-mini",
        "22 November 2026, 14:03 UTC",
        "Fake CPU @ 2.60GHz",
        "avx512_vnni",
        "torch 2.9.0",
        "4.92 MB4.43 MB gzip",
    ):
        assert expected in text
    for command in (search_command(study.meta), next_commands(study, TARGET, Limits())[0][1]):
        assert command in text
    assert "stem.conv (Conv, fp32), head (Conv, fp32)" in text
    assert "19 complete" in text


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([], ["No trial has finished yet.", "autoshrink resume"]),
        ([fake_trial(0)], ["Ship the baseline", "Where the time went"]),
        ([unmeasured(fake_trial(0), "export: died"), unmeasured(fake_trial(1, INT8), "compile: died")],
         ["The baseline was not measured: export: died", "2 failed", "compile: died", "autoshrink resume"]),
        ([fake_trial(0, outcome=Outcome.INFEASIBLE, reason="size 4.92 MB is over the limit of 100 kB")],
         ["1 infeasible", "size 4.92 MB is over the limit of 100 kB"]),
        ([replace(fake_trial(0), seconds={}, audit=None)], ["Ship the baseline"]),
    ],
    ids=["empty", "baseline", "failures", "infeasible", "bare"],
)  # fmt: skip
def test_page_of_a_study_without_a_front_to_speak_of(
    tmp_path: Path, records: list[TrialRecord], expected: list[str]
) -> None:
    text = page_of(study_of(tmp_path, records)).text
    for sentence in expected:
        assert sentence in text
    assert "nan" not in re.findall(r"[a-z]+", text.lower())


def test_nothing_in_a_record_breaks_out_of_the_page(tmp_path: Path) -> None:
    target = replace(FAKE_TARGETS[TARGET], summary=NASTY, unsupported={"bf16": NASTY})
    recipe = [{"technique": NASTY, "scheme": NASTY}]
    audit = replace(fake_trial(0).audit, layers=(replace(fake_trial(0).audit.layers[0], name=NASTY),))  # type: ignore[union-attr, type-var]
    records = [
        fake_trial(0, reason=NASTY),
        fake_trial(1, [*recipe, *INT8], accuracy=0.899, ratio=0.4, size=1_000_000, audit=audit, reason=NASTY),
        replace(unmeasured(fake_trial(2, recipe), NASTY), seconds={NASTY: 30.0}, log=NASTY),
    ]
    study = study_of(tmp_path, records, target)
    study = StudyFolder.create(
        tmp_path / "nasty",
        replace(
            study.meta, task=f"/tasks/{NASTY}", name=NASTY, created=NASTY, machine={**FAKE_MACHINE, NASTY: [NASTY]}
        ),
    )
    for record in records:
        study.write(record)
    page = page_of(study)
    assert len(page.scripts) == 9
    json.loads(page.scripts[0])
    assert [tag for tag, _ in page.elements if tag == "img"] == []
    assert [name for _, found in page.elements for name in found if name.startswith("on")] == []
    assert NASTY in page.text


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    study = study_of(tmp_path, [])
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(study, tmp_path / "file" / "report.html")
    assert not list(tmp_path.rglob("*.partial"))


def test_reading_records_needs_no_search_and_no_torch() -> None:
    heavy = "'torch', 'onnx', 'onnxruntime', 'optuna', 'autoshrink.search.study'"
    script = f"import sys, autoshrink.dashboard.report; print([m for m in ({heavy}) if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_trained_bits_are_listed_by_layer() -> None:
    plain = fake_trial(0)
    qat = [{"technique": "qat", "allocation": "mixed", "average_bits": 5.0, "activation_bits": 8, "epochs": 1.0}]
    trained = replace(fake_trial(1, qat, accuracy=0.89, ratio=0.3), weight_bits={"stem": 8, "conv": 3, "head": 8})
    page = str(audit_table(fake_view([plain, trained])))
    assert "8 bits: 2 layers, 3 bits: 1 layer" in page
    assert "stem 8, conv 3, head 8" in page


class TestTheField:
    """A study whose targets know more and less of its trials."""

    def test_headlines_leave_out_what_was_not_measured_and_say_so(self) -> None:
        found = {name: headline(view) for name, view in fake_field_views().items()}
        assert found["cloud"].gains[1] == ("3.57x faster", "19,048 rows/s, was 5,333 rows/s")
        board = found["microcontroller"]
        assert board.sentence == "Trial 3: 11.2x smaller, -0.70 points [-1.10, -0.30] on the val split"
        assert board.unknown == (
            "Latency not measured: the board is emulated, and an emulator's speed says nothing. "
            "The limit on latency could not be checked."
        )
        assert "arena at most 262 kB" in board.why
        tablet = found["tablet"]
        assert tablet.sentence == "Trial 1: 3.85x smaller, -0.40 points [-0.80, 0.00] on the val split on phone"
        assert tablet.unmeasured == "compiled, not measured"
        alone = headline(fake_field_views(["tablet"])["tablet"])
        assert alone.chosen is None
        assert "no other target of the study measured" in alone.sentence

    def test_progress_without_latency_is_an_area(self) -> None:
        records = [
            replace(record, latency=None) for record in (fake_trial(0), fake_trial(1, INT8, size=4_920_000 // 4))
        ]
        assert progress(records, Limits()) == pytest.approx([0, 0.75])
        assert progress([replace(record, val=None) for record in records], Limits()) == []

    def test_page_shows_figures_notes_and_what_serves_all(self, tmp_path: Path) -> None:
        page = page_of(make_fake_field(tmp_path / "results" / "fake-study"))
        for expected in (
            "19,048 rows/s",
            "~13,200,000 cycles (estimate)",
            "fake estimator",
            "not measured87.20 % [86.27, 88.13] on phone, val",
            "6 compiled",
            f"1 note{NOTE}",
            "Across the targets",
            "1 recipe: serves all 5 targets",
            "1 more brings cloud 1.86x to 1.00x its best latency",
            "phone runs 4 of 10 layers in float",
            "--max-figure arena=262144",
        ):
            assert expected in page.text
        places = {found["id"] for _, found in page.elements if found.get("class") == "plot"}
        assert {"front-3", "front-4", "size-4", "progress-4"} & places == set()
        assert {"size-3", "progress-3", "time-4"} <= places

    def test_what_only_compiles_alone_is_packed_by_its_number(self, tmp_path: Path) -> None:
        text = page_of(make_fake_field(tmp_path / "results" / "fake-study", ["tablet"])).text
        assert "--target tablet --trial 4 --out package" in text
        assert "Across the targets" not in text
