"""`autoshrink front` of a study with broken records: it names them and shows the others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from autoshrink.cli import app
from autoshrink.records import StudyFolder
from tests.fake_study import make_fake_study

TORN = "fake-study/onnxruntime-cpu/trials/0003.json"


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    made = make_fake_study(tmp_path / "fake-study")
    file = tmp_path / TORN
    file.write_text(file.read_text()[:200])
    return made


def front(study: StudyFolder, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["front", "fake-study", "--results", str(study.path.parent), *arguments])


@pytest.mark.parametrize("arguments", [(), ("--plot",), ("--across",), ("--target", "onnxruntime-cpu")])
def test_a_broken_record_is_named_and_hides_no_other(study: StudyFolder, arguments: tuple[str, ...]) -> None:
    found = front(study, *arguments)
    assert found.exit_code == 0, found.output
    said = " ".join(found.stderr.split())
    assert said.startswith(f"{TORN} cannot be read and is left out: is not JSON")
    assert "0003" not in found.stdout
    assert "onnxruntime-cpu" in found.stdout


@pytest.mark.parametrize("arguments", [(), ("--across",)])
def test_the_document_names_it_too(study: StudyFolder, arguments: tuple[str, ...]) -> None:
    found = front(study, "--json", *arguments)
    document = json.loads(found.stdout)
    assert [each["file"] for each in document["broken"]] == [TORN]
    assert "is not JSON" in document["broken"][0]["why"]
    if not arguments:
        numbers = [row["number"] for row in document["targets"]["onnxruntime-cpu"]["trials"]]
        assert numbers == [number for number in range(24) if number != 3]


def test_of_a_whole_study_nothing_is_said(tmp_path: Path) -> None:
    study = make_fake_study(tmp_path / "fake-study")
    assert front(study).stderr == ""
    assert json.loads(front(study, "--json").stdout)["broken"] == []


def test_without_a_record_of_the_baseline_the_others_are_shown(study: StudyFolder) -> None:
    (study.path / "openvino-cpu" / "trials" / "0000.json").write_text("")
    found = front(study, "--target", "openvino-cpu")
    assert found.exit_code == 0, found.output
    assert "openvino-cpu/trials/0000.json cannot be read" in " ".join(found.stderr.split())


def test_a_target_that_is_not_there_is_refused_as_before(study: StudyFolder) -> None:
    found = front(study, "--target", "nowhere")
    assert found.exit_code != 0
    assert "'nowhere' is not in study fake-study; it has onnxruntime-cpu, openvino-cpu" in str(found.exception)
