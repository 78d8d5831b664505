"""The command `explain`: where the time of a trial or of a user's own file goes, and what to change."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoshrink.cli_common import RESULTS, AsJson, Results, app, log, out, print_json
from autoshrink.errors import ConfigError

if TYPE_CHECKING:
    from autoshrink.explain.explanation import Explanation

FILE_ENDINGS = (".onnx", ".tflite", ".xml", ".pte")


@app.command()
def explain(
    subject: Annotated[str, typer.Argument(metavar="STUDY|FILE", help="A study, or a file of your own.")],
    trial: Annotated[int | None, typer.Argument(min=0, metavar="[TRIAL]", help="Of the study.")] = None,
    target: Annotated[
        str | None, typer.Option(help="Of the study, where it has several; for a file a name or YAML file.")
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Try the changes, and show what they really brought.")] = False,
    calls: Annotated[int, typer.Option(min=1, help="Calls that are profiled.")] = 50,
    inputs: Annotated[
        Path | None, typer.Option("--input", help="Inputs of a call for a file: .npz, or .npy for a single input.")
    ] = None,
    destination: Annotated[
        Path | None, typer.Option("--out", help="With --apply on a file: folder for the changed files.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of random inputs.")] = 0,
    every: Annotated[bool, typer.Option("--all", help="Every kernel in the table, not only the dearest.")] = False,
    results: Results = RESULTS,
    as_json: AsJson = False,
) -> None:
    """Shows where the time of a trial or a file goes, layer by layer, why, and what to change."""
    is_file = Path(subject).suffix.lower() in FILE_ENDINGS
    problems = []
    if is_file:
        if trial is not None:
            problems.append(f"TRIAL: {trial} is given, and {subject} is a file; a file has no trials")
        if target is None:
            problems.append(f"--target: needed for {subject}; `autoshrink targets` lists those that are shipped")
    else:
        if trial is None:
            problems.append(
                f"TRIAL: needed for study {subject}; a file of your own ends in {', '.join(FILE_ENDINGS)}. "
                f"`autoshrink front {subject}` lists its trials"
            )
        problems += [
            f"{name}: is for a file of your own, and {subject} is a study"
            for name, value in (("--input", inputs), ("--out", destination))
            if value is not None
        ]
    if is_file and destination is not None and not apply:
        problems.append("--out: is for --apply, which makes changed files")
    if problems:
        raise ConfigError(problems)

    from autoshrink.dashboard.explain_terminal import explain_renderables
    from autoshrink.explain.explanation import to_json

    if is_file:
        assert target is not None  # noqa: S101 - a problem otherwise
        found = _file(Path(subject), target, apply, calls, inputs, destination, seed)
    else:
        assert trial is not None  # noqa: S101 - a problem otherwise
        found = _trial(subject, trial, target, apply, calls, results)
    if as_json:
        print_json(to_json(found))
        return
    for part in explain_renderables(found, every):
        out.print(part, highlight=False)


def _file(
    path: Path, target: str, apply: bool, calls: int, inputs: Path | None, destination: Path | None, seed: int
) -> Explanation:
    from autoshrink.config import load_target
    from autoshrink.explain.apply_file import apply_to_file
    from autoshrink.explain.place import place_of
    from autoshrink.explain.run import explain_file

    profile = load_target(target)
    if not path.is_file():
        raise ConfigError([f"{path}: there is no such file"])
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="autoshrink-")))
        place = stack.enter_context(place_of(profile, say=_say))
        explained, staged = explain_file(path, place, work, calls, inputs, seed, _say)
        found = explained.explanation
        if apply:
            folder = destination or Path(tempfile.mkdtemp(prefix="autoshrink-explain-"))
            found = found.with_tried(apply_to_file(explained, staged, place, folder, work, seed, _say))
    return found


def _trial(study: str, trial: int, target: str | None, apply: bool, calls: int, results: Path) -> Explanation:
    from autoshrink.api import open_study
    from autoshrink.explain.chosen import chosen_record, chosen_target

    opened = open_study(study, results)
    folder = opened.folder
    profile = chosen_target(folder, target)
    chosen_record(folder, profile.name, trial)

    # torch comes with these.
    from autoshrink.explain.apply_trial import apply_to_trial
    from autoshrink.explain.explanation import read, write
    from autoshrink.explain.place import place_of
    from autoshrink.explain.trial import explain_trial

    with place_of(profile, folder.identity(profile.name), _say) as place:
        explained, record = explain_trial(folder, opened.task(), trial, place, calls, _say)
        found = explained.explanation
        if apply:
            tried = apply_to_trial(
                explained, record, folder, opened.task(), place, lambda stage, _done, _all: _say(stage)
            )
            found = found.with_tried(tried)
    place_of_trial = folder.trial_folder(profile.name, trial)
    earlier = None if apply else read(place_of_trial)
    # What was tried before stays in the report: the artifact is the same.
    write(found.with_tried(earlier.tried) if earlier else found, place_of_trial)
    return found


def _say(stage: str) -> None:
    if log.is_terminal:
        log.print(stage, style="dim", highlight=False)
