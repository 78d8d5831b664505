from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from autoshrink import __version__

REPOSITORY = Path(__file__).parents[2]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def test_every_package_is_listed() -> None:
    found = {
        str(path.parent.relative_to(REPOSITORY)).replace("/", ".")
        for path in (REPOSITORY / "autoshrink").rglob("__init__.py")
    }
    assert set(PROJECT["tool"]["setuptools"]["packages"]) == found | {"autoshrink.targets", "autoshrink.search_spaces"}


def test_the_version_is_said_once() -> None:
    assert PROJECT["project"]["version"] == __version__


def test_every_data_file_matches_a_pattern() -> None:
    data = PROJECT["tool"]["setuptools"]["package-data"]["autoshrink"]
    matched = {path for pattern in data for path in (REPOSITORY / "autoshrink").glob(pattern)}
    files = {
        path for path in (REPOSITORY / "autoshrink").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert files <= matched, files - matched


@pytest.mark.parametrize(
    "command",
    ["import autoshrink", "import autoshrink.cli", "import autoshrink.types", "import autoshrink.isolate.job"],
)
def test_light_imports_bring_no_heavy_package(command: str) -> None:
    heavy = "('torch', 'onnx', 'onnxruntime', 'openvino', 'optuna', 'pandas', 'plotly', 'pydantic', 'sklearn')"
    code = f"{command}; import sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.strip() == "[]"
