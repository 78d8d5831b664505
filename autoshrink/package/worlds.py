"""What a package holds for those who run its artifact: a runner in Python, and the language of the target.

A backend's line names the file in `runners/` that opens its artifacts, which is shipped as `runtime.py`, and the folder
in `snippets/` whose files are filled in (see `autoshrink.package.templates`) and shipped under the same names; its
`usage.md` becomes a part of the model card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path, PurePosixPath

from autoshrink.backends.base import installed_version
from autoshrink.package.facts import coreml_facts, micro_facts, tensorrt_facts, tflite_facts
from autoshrink.package.manifest import Manifest
from autoshrink.package.templates import Ports, Values, fill, ports_of, values_of

USAGE = "usage.md"
Facts = Callable[[Manifest, Path], tuple[Values, Ports]]


@dataclass(frozen=True)
class World:
    """How the artifacts of one backend are run.

    Attributes:
        runner: file in `runners/`; empty where Python is not what runs them.
        snippets: folder in `snippets/`; empty where Python is all there is.
        requires: what pip installs beside numpy, a line each; `{runtime}` is the runtime with its version, `{torch}`
            torch's version here.
        facts: `(manifest, package) -> (values, lists)`: what only the files of a backend tell.
    """

    runner: str = ""
    snippets: str = ""
    requires: tuple[str, ...] = ("{runtime}",)
    facts: Facts | None = None


_TENSORRT = World(runner="tensorrt.py", snippets="tensorrt", facts=tensorrt_facts)
WORLDS = {
    "onnxruntime": World(runner="onnxruntime.py"),
    "openvino": World(runner="openvino.py"),
    "litert": World(runner="litert.py", snippets="litert", facts=tflite_facts),
    "executorch": World(runner="executorch.py", snippets="executorch", requires=("{runtime}", "torch=={torch}")),
    "coreml": World(runner="coreml.py", snippets="coreml", requires=("{runtime}", "numpy<2.4"), facts=coreml_facts),
    "tensorrt": _TENSORRT,
    "tensorrt_rtx": _TENSORRT,
    "browser": World(snippets="browser"),
    "microcontroller": World(runner="microcontroller.py", snippets="microcontroller", facts=micro_facts),
}
_OTHER = World()


def has_runner(manifest: Manifest) -> bool:
    """Whether the package gets a `run.py`."""
    return bool(WORLDS.get(manifest.runtime.backend, _OTHER).runner)


def write_runner(manifest: Manifest, package: Path) -> None:
    """Writes `run.py`, `runtime.py` and `requirements.txt`, where Python runs the artifact."""
    world = WORLDS.get(manifest.runtime.backend, _OTHER)
    if not world.runner:
        return
    here = resources.files("autoshrink.package")
    (package / "run.py").write_bytes(here.joinpath("runner.py").read_bytes())
    (package / "runtime.py").write_bytes(here.joinpath("runners", world.runner).read_bytes())
    distribution, _, version = manifest.runtime.version.partition(" ")
    torch = installed_version("torch").partition("+")[0]
    lines = [line.format(runtime=f"{distribution}=={version}", torch=torch) for line in world.requires]
    (package / "requirements.txt").write_text("\n".join([*lines, "numpy>=1.26"]) + "\n", encoding="utf-8")


def write_snippets(manifest: Manifest, package: Path) -> None:
    """Writes the files of the target's own language, filled in.

    Raises:
        StageError: the artifact's files are not such as they need.
    """
    values, ports = _values(manifest, package)
    for name, text in _templates(manifest).items():
        if name == USAGE:
            continue
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(fill(text, values, ports, path.suffix), encoding="utf-8")


def usage(manifest: Manifest, package: Path) -> str:
    """What a person of that world does with the package, as Markdown; empty where `run.py` is all there is."""
    text = _templates(manifest).get(USAGE, "")
    return fill(text, *_values(manifest, package), ".md")


def _values(manifest: Manifest, package: Path) -> tuple[Values, Ports]:
    values: dict[str, str] = values_of(manifest)
    ports: dict[str, tuple[Values, ...]] = dict(ports_of(manifest))
    world = WORLDS.get(manifest.runtime.backend, _OTHER)
    if world.facts:
        more, lists = world.facts(manifest, package)
        values.update(more)
        ports.update(lists)
    return values, ports


def _templates(manifest: Manifest) -> Mapping[str, str]:
    """Name in the package -> text, of the files of the backend's folder."""
    world = WORLDS.get(manifest.runtime.backend, _OTHER)
    if not world.snippets:
        return {}
    root = resources.files("autoshrink.package").joinpath("snippets", world.snippets)
    return dict(_texts(root, PurePosixPath()))


def _texts(folder: Traversable, at: PurePosixPath) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        name = at / entry.name
        if entry.is_dir():
            found += [] if entry.name == "__pycache__" else _texts(entry, name)
        else:
            found.append((str(name), entry.read_text(encoding="utf-8")))
    return found
