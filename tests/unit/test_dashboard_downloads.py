"""Packages from the dashboard: what `pick` writes comes as a zip that verifies, and nothing else is started."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tempfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from werkzeug.test import TestResponse

from autoshrink.dashboard.app import packing
from autoshrink.dashboard.app.packing import Busy, NotBuilt, Packer, package_name
from autoshrink.dashboard.app.server import make_app
from autoshrink.dashboard.library import Library
from autoshrink.errors import ConfigError
from autoshrink.package import verify
from autoshrink.records import StudyFolder
from tests.package_study import make_study

TASK = """
from dataclasses import replace
from tests.package_study import float_task

task = replace(float_task(), model=lambda: float_task().model().eval())
"""
OWN = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
ASKED = {"study": "products", "target": "bench", "trial": "3"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study on real compiled files, whose task is a file."""
    place = tmp_path_factory.mktemp("place")
    (place / "exact.py").write_text(TASK)
    study, record = make_study(place / "results" / "products")
    study.write(replace(record, number=4, artifact=None, reason="it did not compile"))
    text = (study.path / "study.json").read_text()
    (study.path / "study.json").write_text(text.replace('"task": "products"', f'"task": "{place / "exact.py"}"'))
    assert study.meta.task.endswith("exact.py")
    return place / "results"


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    place = tmp_path / "temporary"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    return place


def ask(library: Library, form: dict[str, Any], packer: Packer | None = None, **headers: str) -> TestResponse:
    client = make_app(library, packer=packer).server.test_client()
    return client.post("/package", data=form, headers={**OWN, **headers})


def test_the_download_is_a_package_that_verifies(results: Path, temporary: Path, tmp_path: Path) -> None:
    """Slow for a unit: `pick` and the runtime run in processes of their own."""
    answer = ask(Library(results), ASKED)
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Disposition"] == "attachment; filename=products-bench-trial3.zip"
    assert answer.mimetype == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.data)) as archive:
        assert {name.split("/")[0] for name in archive.namelist()} == {"products-bench-trial3"}
        archive.extractall(tmp_path)
    answer.close()
    found = verify(tmp_path / "products-bench-trial3")
    assert {check.name for check in found.checks} >= {"files", "parity logits", "latency"}
    assert found.ok, found.checks
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({}, 400, "study, target, trial"),
        ({**ASKED, "out": "/tmp/x"}, 400, "nothing else"),
        ({**ASKED, "trial": ["3", "0"]}, 400, "each once"),
        ({**ASKED, "trial": "-3"}, 400, "number"),
        ({**ASKED, "trial": "3 --out /"}, 400, "number"),
        ({**ASKED, "trial": "\u0663"}, 400, "number"),
        ({**ASKED, "trial": "9" * 30}, 400, "number"),
        ({**ASKED, "study": "../products"}, 404, "no study of this name"),
        ({**ASKED, "study": "--help"}, 404, "no study of this name"),
        ({**ASKED, "study": ""}, 404, "no study of this name"),
        ({**ASKED, "target": "--out=x"}, 404, "it has bench"),
        ({**ASKED, "trial": "7"}, 404, "no trial of this number"),
        ({**ASKED, "trial": "4"}, 404, "it did not compile"),
    ],
)
def test_only_trials_that_are_there_are_packed(
    results: Path, monkeypatch: pytest.MonkeyPatch, form: dict[str, Any], status: int, words: str
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    answer = ask(Library(results), form)
    assert (answer.status_code, answer.mimetype) == (status, "text/plain")
    assert words in answer.text


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://elsewhere.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://localhost:1", "Sec-Fetch-Site": "same-site"},
        {"Origin": "null", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://elsewhere.example"},
        {},
    ],
)
def test_pages_of_other_sites_start_nothing(
    results: Path, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str]
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    client = make_app(Library(results)).server.test_client()
    assert client.post("/package", data=ASKED, headers=headers).status_code == 403
    assert client.get("/package", query_string=ASKED, headers=OWN).mimetype == "text/html"


def test_what_pick_says_is_passed_on(results: Path, temporary: Path, tmp_path: Path) -> None:
    copied = _copied(results, tmp_path)
    file = copied / "products" / "study.json"
    file.write_text(file.read_text().replace("exact.py", "gone.py"))
    answer = ask(Library(copied), ASKED)
    assert answer.status_code == 422
    assert "gone.py: there is no such file; give the path of a task's file" in answer.text
    assert "Traceback" not in answer.text and "error:" not in answer.text
    assert list(temporary.iterdir()) == []


def test_a_record_that_leads_out_of_its_study_is_refused(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", None)
    copied = _copied(results, tmp_path)
    study = StudyFolder.open(copied / "products")
    record = next(each for each in study.records("bench") if each.number == 3)
    assert record.artifact is not None
    file = record.artifact.files[0]
    for artifact in (
        replace(record.artifact, folder="../../.."),
        replace(record.artifact, folder="/etc"),
        replace(record.artifact, files=(replace(file, name="../../study.json"),)),
    ):
        study.write(replace(record, artifact=artifact))
        with pytest.raises(ConfigError, match="outside of its study"):
            Packer(Library(copied)).build("products", "bench", 3)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A FAKE interpreter that never ends, and says its process id in a file."""
    said, program = tmp_path / "pid", tmp_path / "FakePython"
    program.write_text(f'#!/bin/sh\necho $$ > "{said}.part"\nmv "{said}.part" "{said}"\nwhile :; do sleep 1; done\n')
    program.chmod(0o755)
    monkeypatch.setattr(packing.sys, "executable", str(program))
    yield said


def test_a_pick_that_takes_too_long_is_ended(results: Path, temporary: Path, endless: Path) -> None:
    with pytest.raises(NotBuilt, match=r"not done within 0\.5 s"):
        Packer(Library(results), time_limit_s=0.5).build("products", "bench", 3)
    _check_gone(endless)
    assert list(temporary.iterdir()) == []


def test_one_package_is_built_at_a_time_and_ends_with_the_dashboard(
    results: Path, temporary: Path, endless: Path
) -> None:
    library = Library(results)
    packer = Packer(library)
    found: list[Exception] = []

    def build() -> None:
        try:
            packer.build("products", "bench", 3)
        except NotBuilt as error:
            found.append(error)

    first = threading.Thread(target=build)
    first.start()
    while not endless.exists():
        first.join(0.02)
        assert first.is_alive()
    with pytest.raises(Busy):
        packer.build("products", "bench", 0)
    assert ask(library, ASKED, packer).status_code == 409
    packer.stop()
    first.join(timeout=30)
    assert len(found) == 1
    _check_gone(endless)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("study", "target", "name"),
    [
        ("digits", "onnxruntime-cpu", "digits-onnxruntime-cpu-trial7"),
        ("../x\n", 'a"b;', ".._x_-a_b_-trial7".lstrip(".-")),
        ("-s", "t", "s-t-trial7"),
        ("\u00e4", "t", "_-t-trial7"),
        ("n" * 300, "t", f"{'n' * 80}-t-trial7"),
    ],
)
def test_names_of_downloads_hold_nothing_that_a_file_system_or_a_header_minds(
    study: str, target: str, name: str
) -> None:
    assert package_name(study, target, 7) == name


def _copied(results: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(results, tmp_path / "results"))


def _check_gone(said: Path) -> None:
    with pytest.raises(ProcessLookupError):
        os.kill(int(said.read_text()), 0)
