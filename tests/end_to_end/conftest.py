from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.warm import run_command

SPACE = """
name: small
techniques:
  prune: {ratio: [0.0, 0.5]}
  finetune: {epochs: 1}
  quantize: {scheme: [fp32, fp16, int8_static], samples: 64}
"""

MEASURING = "measuring: {rounds_min: 3, rounds_max: 4, turn_ms: 2, interval: 0.5, warm_up_calls: 5, time_limit_s: 5}"

TARGET = f"""
name: quick
backend: onnxruntime
precisions:
  fp32: {{}}
  fp16: {{kernels: storage}}
  int8_static: {{operators: [Conv, Gemm, MatMul, Add]}}
{MEASURING}
"""


@dataclass(frozen=True)
class Workplace:
    """A folder of a user's own, in which the command line is run as a user would.

    With `warm` in a process that was forked from one with the imports behind it, else in one that is started.
    """

    path: Path
    cache: Path
    warm: bool = True

    def command(self, *arguments: object) -> list[str]:
        return [sys.executable, "-W", "error", "-m", "autoshrink", *map(str, arguments)]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        repository = str(Path(__file__).parents[2])
        return {**os.environ, "AUTOSHRINK_CACHE": str(self.cache), "PYTHONPATH": repository, **(extra or {})}

    def run(
        self, *arguments: object, extra: Mapping[str, str] | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        if self.warm:
            return run_command([*map(str, arguments)], self.path, self.environment(extra), timeout)
        return subprocess.run(
            self.command(*arguments),
            cwd=self.path,
            env=self.environment(extra),
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def ok(self, *arguments: object) -> Any:
        """Runs a command with --json and gives its document."""
        done = self.run(*arguments, "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def refused(self, code: int, *arguments: object, extra: Mapping[str, str] | None = None) -> str:
        """Runs a command that must fail with `code` and without a stack trace; gives what it said."""
        done = self.run(*arguments, extra=extra)
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr + done.stdout
        return " ".join(done.stderr.split())

    def records(self, study: str, target: str) -> list[dict[str, Any]]:
        files = sorted((self.path / "results" / study / target / "trials").glob("[0-9]*.json"))
        return [json.loads(file.read_text()) for file in files]

    def search(self, *extra: object) -> Sequence[object]:
        return ("search", "digits", "--target", "quick.yaml", "--space", "small.yaml", "--study", "s", *extra)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def place(tmp_path: Path, shared_cache: Path) -> Workplace:
    (tmp_path / "small.yaml").write_text(SPACE)
    (tmp_path / "quick.yaml").write_text(TARGET)
    return Workplace(tmp_path, shared_cache)
