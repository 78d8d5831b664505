"""Explains an artifact: profiles it in a child, reads its file, and asks the rules."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

from autoshrink.backends import get_backend
from autoshrink.errors import ConfigError, NothingFits, TargetUnavailable
from autoshrink.explain.explanation import Explanation, explained
from autoshrink.explain.graph import FileGraph
from autoshrink.explain.known import Known
from autoshrink.explain.place import Listen, Place, quiet
from autoshrink.explain.subject import Subject, made_inputs, read_inputs, stage, write_arrays
from autoshrink.isolate.job import Job, Loaded
from autoshrink.target import Target
from autoshrink.types import Audit, Profile, Recipe, StageSpec, TrialRecord

NO_PROFILE = Profile(notes=("this kind of device gives no profile",))
CALLS = 50
"""Profiled calls where none are asked for."""


@dataclass(frozen=True)
class Explained:
    """An explanation, and what it was made from, for who goes on from there."""

    explanation: Explanation
    artifact: Loaded
    example: Path
    audit: Audit | None = None


def explain_file(
    file: Path,
    place: Place,
    folder: Path,
    calls: int = CALLS,
    inputs: Path | None = None,
    seed: int = 0,
    listen: Listen = quiet,
) -> tuple[Explained, Subject]:
    """Explains a user's own file as a plain user of the target's runtime would run it.

    Args:
        file: of a form that the backend runs; see `subject.FORMS`.
        place: of the target whose backend, threads, options and limits are used.
        folder: for what is made on the way.
        calls: that are profiled.
        inputs: an npz or npy file; random ones are made without it.
        seed: of those.
        listen: told each stage.

    Raises:
        ConfigError: the backend runs no such file; the inputs do not fit.
        TargetUnavailable: the runtime is not here.
        ChildError: the file cannot be loaded or run; with the runtime's own reason.
    """
    target = place.target
    subject = stage(file, target, folder / "original")
    if place.here.state not in ("ready", "untimed"):
        here = place.here
        raise TargetUnavailable(f"target {target.name} is {here.state}: {here.why}; {here.fix}")
    notes = list(subject.notes)
    if inputs is None:
        arrays = made_inputs(subject.ports, seed)
        free = [port.name for port in subject.ports if port.free]
        notes.append(
            "inputs are random"
            + (f"; free dimensions of {', '.join(free)} are 1 (--input FILE gives others)" if free else "")
        )
    else:
        arrays = read_inputs(inputs, subject.ports)
    example = write_arrays(arrays, folder / "example")
    artifact = Loaded(subject.folder, subject.files, "fp32")
    job = replace(job_of(target, artifact), example=example, audit=True, profile=calls)
    result = place.run(job, folder / "explain", listen)
    profile = result.profile or NO_PROFILE
    known = Known(
        target.backend,
        profile,
        result.audit,
        graph_at(subject.path, target.backend, profile),
        channel_multiple=target.channel_multiple,
        batch=target.batch,
        precisions=tuple(map(str, target.precisions)),
        options=target.options,
        capabilities=place.capabilities,
    )
    found = explained(known, str(file), target.name, result.runtime, tuple(notes))
    return Explained(found, artifact, example, result.audit), subject


def explain_artifact(
    record: TrialRecord,
    subject: str,
    place: Place,
    artifact: Loaded | None,
    example: Path,
    calls: int = CALLS,
    listen: Listen = quiet,
) -> Explained:
    """Explains the artifact of a trial.

    Args:
        record: of the trial.
        subject: what it is, in words.
        place: of the target.
        artifact: where the trial's files lie.
        example: folder with the inputs of one call.
        calls: that are profiled.
        listen: told each stage.

    Raises:
        NothingFits: the trial has no compiled files.
        ChildError: they cannot be loaded or run.
    """
    if artifact is None or record.artifact is None:
        raise NothingFits(f"trial {record.number} has no compiled files: {record.outcome}, {record.reason}")
    target, here = place.target, place.here
    runtime = record.artifact.runtime
    away = here.state in ("compile-only", "unavailable")
    if away:
        why = f"not profiled: the device is not here ({here.why})"
        profile = Profile(notes=(why,))
    else:
        with tempfile.TemporaryDirectory(prefix="autoshrink-") as work:
            job = replace(job_of(target, artifact), example=example, profile=calls)
            result = place.run(job, Path(work), listen)
        profile, runtime = result.profile or NO_PROFILE, result.runtime
    static = next((each for name, each in target.precisions.items() if str(name) == "int8_static"), None)
    known = Known(
        target.backend,
        profile,
        record.audit,
        graph_at(artifact.folder / artifact.files[0], target.backend, profile),
        is_file=False,
        precision=record.recipe.precision,
        recipe=record.recipe,
        channel_multiple=target.channel_multiple,
        batch=target.batch,
        precisions=tuple(map(str, target.precisions)),
        activations=static.activations if static else "",
        options=target.options,
        capabilities=frozenset() if away else place.capabilities,
    )
    found = explained(known, subject, target.name, runtime, trial=record.number)
    return Explained(found, artifact, example, record.audit)


def job_of(target: Target, artifact: Loaded) -> Job:
    """A job of this target that does nothing with `artifact` yet."""
    return Job(
        backend=target.backend,
        threads=target.threads,
        batch=target.batch,
        limits=target.child,
        artifact=artifact,
        options=target.options,
        pin=target.pin,
        device=target.device,
    )


def graph_at(path: Path, backend: str, profile: Profile) -> FileGraph | None:
    """What a file says of its layers; for other formats what the profile says of their shapes."""
    if path.suffix == ".onnx":
        import onnx

        from autoshrink.explain import onnx_layers

        return onnx_layers.graph_of(onnx.load(str(path)))
    if path.suffix == ".tflite" and backend != "microcontroller":
        from autoshrink.backends.tflite_graph import Graph
        from autoshrink.explain import tflite_layers

        return tflite_layers.graph_of(Graph(path.read_bytes()))
    from autoshrink.explain import kernel_layers

    found = kernel_layers.graph_of(profile)
    return found if found.layers else None


def changed_recipe(recipe: Recipe, key: str, value: object) -> Recipe:
    """`recipe` with one setting changed (`technique.parameter`), or without a technique (`technique`).

    What no longer applies to a new scheme is left out, so that the defaults of that scheme hold.
    """
    technique, _, parameter = key.partition(".")
    if value is None:
        return Recipe(tuple(stage for stage in recipe.stages if stage.technique != technique))
    stages = []
    for each in recipe.stages:
        settings = dict(each.settings)
        if each.technique == technique:
            settings = {} if parameter == "scheme" else settings
            settings[parameter] = value  # type: ignore[assignment]
        stages.append(StageSpec.of(each.technique, settings))
    if all(each.technique != technique for each in recipe.stages):
        stages.append(StageSpec.of(technique, {parameter: value}))  # type: ignore[dict-item]
    return Recipe(tuple(stages))


def changed_target(target: Target, key: str, value: object) -> Target:
    """`target` with one key of its profile changed, such as `precisions.int8_static.activations` or `options.NAME`.

    Raises:
        ConfigError: there is no such key.
    """
    first, _, rest = key.partition(".")
    try:
        if first == "precisions":
            name, _, attribute = rest.partition(".")
            if name not in target.precisions:
                raise KeyError(name)
            return replace(
                target,
                precisions={
                    each: replace(precision, **{attribute: value}) if each == name else precision  # type: ignore[arg-type]
                    for each, precision in target.precisions.items()
                },
            )
        if first == "options":
            if rest not in get_backend(target.backend).options:
                raise KeyError(rest)
            return replace(target, options={**target.options, rest: value})  # type: ignore[dict-item]
        return replace(target, **{first: value})  # type: ignore[arg-type]
    except (KeyError, TypeError) as error:
        raise ConfigError([f"{target.name}:{key}: there is no such key in the profile"]) from error
