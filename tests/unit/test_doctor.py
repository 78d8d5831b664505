"""Doctor on FAKE backends of every state, and what it would install."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import pytest

from autoshrink import doctor, fix
from autoshrink.backends.base import Availability, Backend, Compiled, Session, Source
from autoshrink.doctor import examine, examine_all
from autoshrink.errors import AutoshrinkError
from autoshrink.fix import fixes
from autoshrink.target import ChildLimits, Precision, Target


class FakeState(Backend):
    """In one of the states; nothing of it can be compiled or run."""

    name = "fake"
    packages = ("numpy",)
    extra = ""
    state: ClassVar[Any] = "ready"

    def machine(self) -> Availability:
        return Availability(self.state, *(("", "") if self.state == "ready" else ("no board here", "buy one")))

    def capabilities(self) -> frozenset[str]:
        assert self.state != "compile-only", "what is only compiled need not be started"
        return frozenset({"FAKE"})

    def compile(self, source: Source, folder: Path) -> Compiled:
        raise AssertionError

    def load(self, *arguments: object, **named: object) -> Session:
        raise AssertionError


class FakeUntimed(FakeState):
    state = "untimed"


class FakeCompiler(FakeState):
    state = "compile-only"


class FakeBroken(FakeState):
    def capabilities(self) -> NoReturn:
        raise RuntimeError("the driver is too old")


class FakeRaises(FakeState):
    def machine(self) -> NoReturn:
        raise RuntimeError("a bug in a user's backend")


class FakeHangs(FakeState):
    def machine(self) -> NoReturn:
        while True:
            time.sleep(1)


class FakeInstallable(FakeState):
    state = "unavailable"
    packages = ("numpy", "no-such-package")
    extra = "fake"
    installed: ClassVar[list[str]] = []

    installs = "the runtime of FakeInstallable"

    def install(self) -> None:
        self.installed.append("runtime")


def target(backend: str, **given: Any) -> Target:
    return Target("board", f"{__name__}:{backend}", {"fp32": Precision()}, child=ChildLimits(60.0), **given)


@pytest.mark.parametrize(
    ("backend", "state", "why"),
    [
        ("FakeState", "ready", ""),
        ("FakeUntimed", "untimed", "no board here"),
        ("FakeCompiler", "compile-only", "no board here"),
        ("FakeBroken", "unavailable", "probe: RuntimeError: the driver is too old"),
        ("FakeRaises", "unavailable", "RuntimeError: a bug in a user's backend"),
        ("FakeNowhere", "unavailable", "has no attribute 'FakeNowhere'"),
        ("FakeInstallable", "unavailable", "no-such-package is not installed"),
    ],
)
def test_every_state_is_found_out(backend: str, state: str, why: str) -> None:
    found = examine(target(backend))
    assert list(found) == ["target", "state", "runtime", "why", "fix"]
    assert (found["target"], found["state"]) == ("board", state)
    assert why in found["why"]
    assert found["runtime"].startswith("numpy ") == (state != "unavailable" or backend == "FakeBroken")
    assert bool(found["fix"]) == (state != "ready")


def test_a_target_that_hangs_is_given_up() -> None:
    (found,) = [examine(target("FakeHangs"), seconds=0.2)]
    assert (found["state"], found["why"]) == ("unavailable", "gave no answer in 0.2 s")


def test_several_are_examined_in_their_order() -> None:
    found = examine_all([target("FakeRaises"), target("FakeCompiler")])
    assert [each["state"] for each in found] == ["unavailable", "compile-only"]


def test_an_environment_of_its_own_that_is_missing_or_of_another_version_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = examine(target("FakeState", python=str(tmp_path / "bin" / "python")))
    assert "no such file is there" in found["why"]
    assert found["fix"] == "autoshrink doctor --fix board"
    monkeypatch.setattr(doctor, "__version__", "0.0.9")
    found = examine(target("FakeState", python=sys.executable))
    assert f"autoshrink 0.1.0 is in {sys.executable}" in found["why"]
    assert "0.0.9 here" in found["why"]


def test_nothing_is_to_be_done_for_what_is_ready() -> None:
    assert fixes(target("FakeState")) == []


def test_a_missing_package_is_installed_by_its_extra_and_the_runtime_by_the_backend() -> None:
    first, second = fixes(target("FakeInstallable"))
    root = Path(__file__).parents[2]
    assert first.text == f"{sys.executable} -m pip install --editable {root}[fake]"
    FakeInstallable.installed.clear()
    second.run()
    assert FakeInstallable.installed == ["runtime"]


def test_an_environment_is_made_where_the_profile_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "own" / "bin" / "python"
    monkeypatch.setattr(fix, "_wanted", lambda _target, _backend: ["--version"])
    make, install = fixes(target("FakeState", python=str(python)))
    assert make.text == f"makes an environment in {tmp_path / 'own'}"
    make.run()
    assert python.is_file()
    assert install.text == f"{python} -m pip install --version"
    with pytest.raises(AutoshrinkError, match="pip install --no-such-option` ended with code 2"):
        fix._run([str(python), "-m", "pip", "install", "--no-such-option"])


def test_a_place_where_no_environment_can_be_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AutoshrinkError, match="ends in bin/python only"):
        fixes(target("FakeState", python=str(tmp_path / "python3")))
    with pytest.raises(AutoshrinkError, match="backend nowhere:Nothing is not there"):
        fixes(Target("board", "nowhere:Nothing", {"fp32": Precision()}))
