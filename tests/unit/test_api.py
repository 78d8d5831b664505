from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from autoshrink import api
from autoshrink.config import load_target
from autoshrink.errors import ConfigError, NothingFits
from autoshrink.progress import Progress
from autoshrink.records import StudyFolder
from autoshrink.search import run
from autoshrink.target import Limits, Target
from autoshrink.types import Outcome, Recipe, TrialRecord
from tests.fake_field import make_fake_field
from tests.fake_study import fake_meta
from tests.small_models import tiny_task


@pytest.mark.parametrize("fidelity", [0.0, -0.1, 1.5, float("nan")])
def test_a_fidelity_is_a_share_over_0(fidelity: float, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--fidelity: .*; it must be over 0 and at most 1"):
        api.search(tiny_task("cnn"), fidelity=fidelity, results=tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("shrink", "--force: 'shrink' is no technique; there are student"),
        ("sparsify.pattern=3:4", "--force: '3:4' is no value of sparsify.pattern; allowed are unstructured, 2:4, 1:4"),
        ("prune", "--force: no target avoids prune; avoided are sparsify, sparsify.pattern=2:4"),
        ("quantize.scheme=bf16", "--force: no target avoids quantize.scheme=bf16"),
    ],
)
def test_what_cannot_be_forced_is_a_problem_of_the_command(key: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        api.search(tiny_task("cnn"), force=(key, "melt"), results=tmp_path)
    first, second = caught.value.problems
    assert expected in first
    assert "'melt' is no technique" in second


def test_what_is_forced_and_the_fidelity_are_kept_with_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_run(folder: StudyFolder, *_rest: object) -> api.Study:
        return api.Study(folder)

    def available(_targets: object) -> None:
        return None

    monkeypatch.setattr(api, "_run", no_run)
    monkeypatch.setattr(api, "_check_available", available)
    force = ("sparsify", "sparsify.pattern=2:4", "sparsify", "sparsify.ratio=0.50")
    made = api.search(tiny_task("cnn"), fidelity=0.3, force=force, results=tmp_path, study="mine")
    meta = StudyFolder.open(made.folder.path).meta
    assert meta.fidelity == 0.3
    assert meta.force == ("sparsify", "sparsify.pattern=2:4", "sparsify.ratio=0.5")
    assert meta.targets["onnxruntime-cpu"].avoid == load_target("onnxruntime-cpu").avoid
    plain = api.search(tiny_task("cnn"), results=tmp_path, study="plain").folder.meta
    assert (plain.fidelity, plain.force) == (1.0, ())


def test_the_search_hands_on_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(Exception):
        pass

    def pipeline(_task: object, _cache: object, seed: int, fidelity: float) -> None:
        handed.update(seed=seed, fidelity=fidelity)

    def reduce(*arguments: object) -> None:
        handed.update(force=arguments[4])
        raise Stop

    def no_capabilities(_target: Target) -> frozenset[str]:
        return frozenset()

    handed: dict[str, object] = {}
    monkeypatch.setattr(run, "Pipeline", pipeline)
    monkeypatch.setattr(run, "reduce_space", reduce)
    monkeypatch.setattr(run, "probe", no_capabilities)
    meta = fake_meta({"onnxruntime-cpu": load_target("onnxruntime-cpu")}, seed=3, fidelity=0.3, force=("sparsify",))
    output = io.StringIO()
    with pytest.raises(Stop), Progress(Console(file=output), "mine", None, None) as progress:
        run.run_search(StudyFolder.create(tmp_path / "mine", meta), tiny_task("cnn"), progress)
    assert handed == {"seed": 3, "fidelity": 0.3, "force": ("sparsify",)}
    assert output.getvalue() == "every training makes 30 % of its steps\n"


def test_a_study_from_before_there_was_a_fidelity_opens(tmp_path: Path) -> None:
    targets: dict[str, Target] = {"onnxruntime-cpu": load_target("onnxruntime-cpu")}
    folder = StudyFolder.create(tmp_path / "old", fake_meta(targets))
    path = folder.path / "study.json"
    kept = [line for line in path.read_text().splitlines() if '"fidelity"' not in line and '"force"' not in line]
    kept[-2] = kept[-2].rstrip(",")
    path.write_text("\n".join(kept))
    assert '"fidelity"' not in path.read_text()
    assert StudyFolder.open(folder.path).meta.fidelity == 1.0


def test_the_targets_own_limits_hold_where_none_is_given(tmp_path: Path) -> None:
    study = api.Study(make_fake_field(tmp_path / "fake-study"))
    # The arena's limit leaves out trials 0, 2 and 5; the latency's cannot be checked.
    assert study.choose("microcontroller").number == 3
    assert study.choose("microcontroller", Limits(figures={"arena": 80_000})).number == 4
    with pytest.raises(NothingFits, match=r"--max-latency 20ms: latency was not measured on microcontroller .*emulat"):
        study.choose("microcontroller", Limits(latency_ms=20.0))
    assert study.choose("tablet").number == 1
    assert study.choose("tablet", trial=4).number == 4
    assert study.choose("cloud", Limits(throughput=18_000.0)).number == 2


def test_a_trial_that_is_not_there_or_has_no_files_is_said(tmp_path: Path) -> None:
    study = api.Study(make_fake_field(tmp_path / "fake-study"))
    with pytest.raises(ConfigError, match="--trial: tablet has no trial 9; it has 0 to 5"):
        study.choose("tablet", trial=9)
    study.folder.write(TrialRecord(6, "tablet", Recipe(), Outcome.REJECTED, "int4: no kernels"))
    with pytest.raises(NothingFits, match="trial 6 of tablet has no compiled files: rejected, int4: no kernels"):
        study.choose("tablet", trial=6)
