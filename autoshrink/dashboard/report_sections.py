"""The sections of a report: what came out, each target, and how it was made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from autoshrink.dashboard.commands import limit_options, next_commands, resume_command, search_command
from autoshrink.dashboard.figures import stage_seconds
from autoshrink.dashboard.headline import Headline, headline
from autoshrink.dashboard.markup import Markup, element, join
from autoshrink.dashboard.report_tables import audit_table, front_table, outcome_list, trials_table
from autoshrink.dashboard.tables import latency_ties
from autoshrink.records import StudyFolder, StudyMeta
from autoshrink.search.front import front
from autoshrink.search.words import describe, human_bytes, human_seconds
from autoshrink.types import Target, TrialRecord

Records = Mapping[str, Sequence[TrialRecord]]

_FIGURES = {
    "front": (
        "Accuracy over latency",
        "Up and to the left is better. Markers grow with the file; bars are 95 % intervals on val. The line joins the "
        "trials that no other beats in these two; a member of the front off the line is there for its size. "
        "Faint: dominated.",
    ),
    "size": ("Accuracy over size", "Up and to the left is better. Markers grow with the latency."),
    "progress": (
        "Progress of the search",
        "Hypervolume of loss, latency and size after each trial: 0 is the baseline, 1 would be a model without loss "
        "that takes no time and no space. Flat at the end: more trials may not help.",
    ),
    "time": ("Where the time went", "Seconds of each trial by stage. A stage that came from the cache costs nothing."),
}


def body_of(study: StudyFolder, records: Records, figures: Collection[str]) -> Markup:
    """The visible page.

    Args:
        study: its name, targets and machine.
        records: target -> its trials.
        figures: ids of the figures that the page will draw, as `front-0` for the first target.
    """
    meta = study.meta
    answers = {target: headline(records[target], profile.limits) for target, profile in meta.targets.items()}
    return join(
        [
            element("header", element("div", _title(meta, records), _cards(answers), class_="wide")),
            element(
                "main",
                [
                    _target(study, profile, records[target], answers[target], place, figures)
                    for place, (target, profile) in enumerate(meta.targets.items())
                ],
                _how(meta),
            ),
            element(
                "footer", f"Made by autoshrink {meta.autoshrink}. Every figure is of a compiled artifact, measured."
            ),
        ]
    )


def _title(meta: StudyMeta, records: Records) -> Markup:
    trials = sum(map(len, records.values()))
    seconds = sum(sum(record.seconds.values()) for of_target in records.values() for record in of_target)
    facts = [
        element("span", "task ", element("b", Path(meta.task).name)),
        element("span", _date(meta.created)),
        element("span", _counted(trials, "trial"), " on ", _counted(len(meta.targets), "target")),
        element("span", f"{human_seconds(seconds)} of work") if seconds else None,
        element("span", str(meta.machine["processor"])) if meta.machine.get("processor") else None,
    ]
    return join(
        [
            element("p", "autoshrink study", class_="eyebrow"),
            element("h1", meta.name),
            element("p", facts, class_="facts"),
        ]
    )


def _cards(answers: Mapping[str, Headline]) -> Markup:
    return element(
        "div",
        [
            element(
                "a",
                element("span", target, class_="name"),
                _gains(answer)
                if answer.gains
                else element("span", answer.sentence.partition("\n")[0], class_="nothing"),
                element("span", f"trial {answer.chosen.number}: {describe(answer.chosen.recipe)}", class_="recipe")
                if answer.chosen and answer.gains
                else None,
                class_="card",
                href=f"#target-{place}",
            )
            for place, (target, answer) in enumerate(answers.items())
        ],
        class_="cards",
    )


def _gains(answer: Headline) -> Markup:
    return element(
        "span",
        [element("span", element("b", large), element("small", small)) for large, small in answer.gains],
        class_="gains",
    )


def _target(
    study: StudyFolder,
    target: Target,
    records: Sequence[TrialRecord],
    answer: Headline,
    place: int,
    figures: Collection[str],
) -> Markup:
    def figure(kind: str) -> Markup | None:
        name = f"{kind}-{place}"
        return _figure(name, *_FIGURES[kind]) if name in figures else None

    members = front(records)
    parts: list[object] = [
        element("h2", target.name),
        element("p", _profile(target), class_="facts"),
        element("p", answer.sentence, class_="headline" if answer.chosen else "headline problem"),
        element("p", element("b", describe(answer.chosen.recipe)), ". ", _code(answer.why), class_="why")
        if answer.chosen
        else None,
        figure("front"),
    ]
    if members:
        parts += [
            element("h3", "The front"),
            front_table(records, answer.chosen),
            element("p", _notes(records, members), class_="note"),
        ]
    parts.append(element("div", figure("size"), figure("progress"), class_="pair"))
    if latency_ties([record for record in members if record.recipe.stages]):
        notes.append("≈: as fast as the row above, as far as anybody can tell.")
    if any(record.latency and not record.latency.stable for record in records):
        notes.append("Unstable: the interval is wider than the target asks; measure again on a quiet machine.")
    return " ".join(notes)


def _time_note(records: Sequence[TrialRecord]) -> Markup | None:
    totals = stage_seconds(records)
    if not totals:
        return None
    longest = sorted(totals.items(), key=lambda item: -item[1])[:4]
    reused = sum(len(record.reused) for record in records)
    text = f"In all {human_seconds(sum(totals.values()))}: " + ", ".join(
        f"{stage} {human_seconds(s)}" for stage, s in longest
    )
    return element("p", f"{text}. {_counted(reused, 'stage')} came from the cache.", class_="note")


def _next(study: StudyFolder, target: Target, records: Sequence[TrialRecord]) -> Markup:
    if any(record.is_measured for record in records):
        steps = next_commands(study, target.name, target.limits)
    else:
        steps = [("Go on with the search, when the reasons above are mended", resume_command(study))]
    return element(
        "dl", [[element("dt", what), element("dd", element("pre", command))] for what, command in steps], class_="next"
    )


def _how(meta: StudyMeta) -> Markup:
    study = {
        "space": f"{meta.space.name}: {', '.join(meta.space.techniques)}",
        "trials a target": str(meta.trials) if meta.trials is not None else "until the time is up",
        "time limit": human_seconds(meta.time_limit_s) if meta.time_limit_s is not None else "none",
        "seed": str(meta.seed),
        "began": _date(meta.created),
    }
    return element(
        "section",
        element("h2", "How this was made"),
        element("div", _facts("The study", study), _facts("The machine", _machine(meta.machine)), class_="pair"),
        element("p", "The command that asks for this study:", class_="note"),
        element("pre", search_command(meta)),
    )


def _facts(title: str, facts: Mapping[str, str]) -> Markup:
    listed = [[element("dt", name), element("dd", value)] for name, value in facts.items()]
    return element("div", element("h3", title), element("dl", listed, class_="list"))


def _machine(machine: Mapping[str, Any]) -> dict[str, str]:
    """What `describe_machine` gave, what it could not see left out."""
    facts = {}
    for name, value in machine.items():
        if value is None or value == "":
            continue
        if isinstance(value, Mapping):
            text = ", ".join(f"{key} {part}" for key, part in value.items())
        elif isinstance(value, list | tuple):
            text = ", ".join(map(str, value)) or "none"
        elif name.endswith("_bytes") and isinstance(value, int | float):
            name, text = name.removesuffix("_bytes"), human_bytes(value)
        else:
            text = str(value)
        facts[name.replace("_", " ")] = text
    return facts


def _code(text: str) -> list[object]:
    """Words between backticks as code."""
    return [element("code", part) if place % 2 else part for place, part in enumerate(text.split("`"))]


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _date(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()
