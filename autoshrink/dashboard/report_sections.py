"""The visible page of a report: what came out, each target, and how it was made."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from autoshrink.dashboard.across_section import across_section
from autoshrink.dashboard.commands import resume_command, search_command
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.headline import Headline
from autoshrink.dashboard.library import Snapshot, StudyState
from autoshrink.dashboard.markup import Markup, element, join
from autoshrink.dashboard.standing import broken_markup, trials_so_far
from autoshrink.dashboard.target_section import target_section
from autoshrink.dashboard.view import TargetView
from autoshrink.records import StudyFolder, StudyMeta
from autoshrink.search.words import describe, human_seconds


def body_of(
    study: StudyFolder,
    snapshot: Snapshot,
    answers: Mapping[str, Headline],
    figures: Collection[str],
    data: Mapping[str, dict[str, Any] | None],
    trials: Mapping[str, Markup],
) -> Markup:
    """The visible page.

    Args:
        study: its name, targets and machine.
        snapshot: its trials, and what of it cannot be read.
        answers: target -> what it came to.
        figures: ids of the figures that the page will draw, as `front-0` for the first target.
        data: target -> what its page can choose among, see `target_data`.
        trials: target -> the folded trials of its front; nothing of a target that is not named.
    """
    meta, views = study.meta, snapshot.views
    return join(
        [
            element("header", element("div", _title(meta, views), _standing(snapshot), _cards(answers), class_="wide")),
            element(
                "main",
                [
                    target_section(study, view, answers[target], place, figures, data[target], trials.get(target))
                    for place, (target, view) in enumerate(views.items())
                ],
                across_section(views),
                _how(meta),
            ),
            element(
                "footer",
                f"Made by autoshrink {meta.autoshrink}. Every figure is of a compiled artifact: measured, unless it is "
                "marked as an estimate.",
            ),
        ]
    )


def _title(meta: StudyMeta, views: Mapping[str, TargetView]) -> Markup:
    trials = sum(len(view.records) for view in views.values())
    seconds = sum(sum(record.seconds.values()) for view in views.values() for record in view.records)
    facts = [
        element("span", "task ", element("b", Path(meta.task).name)),
        element("span", _date(meta.created)),
        element("span", counted(trials, "trial"), " on ", counted(len(meta.targets), "target")),
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


def _standing(snapshot: Snapshot) -> Markup | None:
    """What of the study is not there yet, and what cannot be read."""
    done = trials_so_far(snapshot)
    command = element("code", resume_command(snapshot.folder))
    words: tuple[object, ...] | None = {
        StudyState.RUNNING: (element("b", "Running"), f": {done} had ended when this page was written."),
        StudyState.INTERRUPTED: (element("b", "Interrupted"), f" after {done}. ", command, " goes on."),
    }.get(snapshot.state)
    notices = [element("p", words, class_="notice") if words else None, broken_markup(snapshot)]
    return element("div", notices, class_="notices") if any(notices) else None


def _cards(answers: Mapping[str, Headline]) -> Markup:
    cards = [_card(target, answer, place) for place, (target, answer) in enumerate(answers.items())]
    return element("div", cards, class_="cards")


def _card(target: str, answer: Headline, place: int) -> Markup:
    """The answer of a target; the page's script writes it anew, in `r-found`, when its reader moves a limit."""
    found: list[object] = [element("span", answer.sentence.partition("\n")[0], class_="nothing")]
    if answer.gains and answer.chosen:
        recipe = element("span", f"trial {answer.chosen.number}: {describe(answer.chosen.recipe)}", class_="recipe")
        found = [_gains(answer), recipe]
    return element(
        "a",
        element("span", target, class_="name"),
        element("span", "under the limits that you set", class_="asked", hidden=True),
        element("span", found, class_="r-found"),
        element("span", answer.unmeasured, class_="recipe") if answer.unmeasured else None,
        class_="card",
        id=f"card-{place}",
        href=f"#target-{place}",
    )


def _gains(answer: Headline) -> Markup:
    return element(
        "span",
        [element("span", element("b", large), element("small", small)) for large, small in answer.gains],
        class_="gains",
    )


def _how(meta: StudyMeta) -> Markup:
    study = {
        "space": f"{meta.space.name}: {', '.join(meta.space.techniques)}",
        "trials a target": str(meta.trials) if meta.trials is not None else "until the time is up",
        "time limit": human_seconds(meta.time_limit_s) if meta.time_limit_s is not None else "none",
        "seed": str(meta.seed),
        "began": _date(meta.created),
    }
    if meta.fidelity != 1:
        study["training"] = f"{100 * meta.fidelity:g} % of the steps"
    if meta.force:
        study["forced"] = ", ".join(meta.force)
    return element(
        "section",
        element("h2", "How this was made"),
        element("div", _facts("The study", study), _facts("The machine", machine_facts(meta.machine)), class_="pair"),
        element("p", "The command that asks for this study:", class_="note"),
        element("pre", search_command(meta)),
    )


def _facts(title: str, facts: Mapping[str, str]) -> Markup:
    listed = [[element("dt", name), element("dd", value)] for name, value in facts.items()]
    return element("div", element("h3", title), element("dl", listed, class_="list"))


def machine_facts(machine: Mapping[str, Any]) -> dict[str, str]:
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
            name, text = name.removesuffix("_bytes"), f"{value / 1e9:.1f} GB"
        else:
            text = str(value)
        facts[name.replace("_", " ")] = text
    return facts


def _date(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{moment.day} {moment:%B %Y, %H:%M} {moment.tzname() or ''}".strip()
