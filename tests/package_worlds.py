"""Packages for the targets' own languages, made of one small model, so that a test can run what `pick` writes."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from autoshrink.package.manifest import Manifest, read_manifest
from autoshrink.package.worlds import write_snippets


def in_world(package: Path, backend: str, version: str, artifact: Path, out: Path) -> Manifest:
    """Writes into `out` what a package of `backend` holds: the artifact, the samples of `package`, and the snippets.

    Args:
        package: of the study of `tests.package_study`, whose signature and samples are taken.
        backend: key of the table of backends.
        version: distribution and version of the runtime.
        artifact: a compiled file, or the folder of several.
        out: is made.

    Returns:
        What `package.json` would say.
    """
    shutil.copytree(package / "samples", out / "samples")
    files = sorted(path for path in artifact.rglob("*") if path.is_file()) if artifact.is_dir() else [artifact]
    names = []
    for path in files:
        name = path.relative_to(artifact).as_posix() if artifact.is_dir() else path.name
        (out / "artifact" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, out / "artifact" / name)
        names.append(name)
    manifest = read_manifest(package)
    runtime = replace(manifest.runtime, backend=backend, version=version, artifact=tuple(names), reference=())
    manifest = replace(manifest, runtime=runtime, target=replace(manifest.target, backend=backend))
    write_snippets(manifest, out)
    return manifest


def run(command: Sequence[str | Path], cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """What a program prints, which has to end well.

    Raises:
        AssertionError: it does not; with what it said.
    """
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, f"{command[0]} ended with {done.returncode}:\n{done.stdout}\n{done.stderr}"
    return done.stdout
