"""The section of a report about one target: answer, front, figures, what runs in 8 bit, trials, next commands."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from autoshrink.dashboard.commands import limit_options, more_trials, next_commands, resume_command
from autoshrink.dashboard.explain_section import explain_section
from autoshrink.dashboard.formatting import counted
from autoshrink.dashboard.headline import Headline
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.report_limits import axis_switches, limits_panel
from autoshrink.dashboard.report_search import PACE, PROGRESS, over_switch, stages_table
from autoshrink.dashboard.report_tables import audit_table, front_table, outcome_list, trials_table
from autoshrink.dashboard.tables import latency_ties
from autoshrink.dashboard.view import TargetView
from autoshrink.package.choose import applicable
from autoshrink.records import StudyFolder
from autoshrink.search.words import describe
from autoshrink.target import Limits, Target

_FIGURES = {
    "front": (
        "Accuracy over latency",
        "Up and to the left is better. Markers grow with the file; bars are 95 % intervals on val. The line joins the "
        "trials that no other beats in these two; a member of the front off the line is there for its size. "
        "Faint: dominated. Hollow: over a limit, or not surely within it.",
    ),
    "size": ("Accuracy over size", "Up and to the left is better. Markers grow with the latency."),
    "progress": (
        "Progress of the search",
        "Hypervolume of loss, latency and size after each trial: 0 is the baseline, 1 would be a model without loss "
        "that takes no time and no space. Flat at the end: more trials may not help.",
    ),
    "importance": (
        "What the settings explain",
        "How much of the order of the trials each setting explains by itself, among the trials that have it. Hatched: "
        "that much may be chance. What settings do only together is not seen.",
    ),
    "lines": (
        "Settings and what they came to",
        "Each line is a trial, from its settings to what it came to; its colour and dashes are the change of the "
        "metric. Click a name in the legend to hide its lines.",
    ),
    "time": ("Where the time went", "Seconds of each trial by stage. A stage that came from the cache costs nothing."),
}


_UNTIMED_FIGURES = {
    "size": (
        "Accuracy over size",
        "Up and to the left is better. Bars are 95 % intervals on val. The line is the front. Faint: dominated. "
        "Hollow: over a limit, or not surely within it.",
    ),
    "progress": (
        "Progress of the search",
        "Area of loss and size after each trial: 0 is the baseline, 1 would be a model without loss that takes no "
        "space. Flat at the end: more trials may not help.",
    ),
}


def target_section(
    study: StudyFolder,
    view: TargetView,
    answer: Headline,
    place: int,
    figures: Collection[str],
    data: dict[str, Any] | None = None,
    trials: Markup | None = None,
) -> Markup:
    """The section, with the id `target-PLACE`.

    Args:
        study: of the target.
        view: of the target.
        answer: what it came to.
        place: among the targets of the study.
        figures: those that the page will draw; only they get an element to be drawn in.
        data: what the page can choose among (see `target_data`); without it there is no panel of limits.
        trials: the folded trials of the front.
    """
    captions = _FIGURES if view.is_timed else {**_FIGURES, **_UNTIMED_FIGURES}
    main = next((name for name in (f"front-{place}", f"size-{place}") if name in figures), None)

    def figure(kind: str) -> Markup | None:
        name = f"{kind}-{place}"
        if name not in figures:
            return None
        switches = axis_switches(place, name, data["axes"]) if data and name == main else None
        if kind == PROGRESS and f"{PACE}-{place}" in figures:
            switches = over_switch(name, {name: "trials", f"{PACE}-{place}": "time"})
        return _figure(name, *captions[kind], switches)

    panel = limits_panel(place, data) if data else None
    beside = figure("front") or (figure("size") if main else None)
    pair = [figure("size") if main and main.startswith("front") else None, figure("progress")]
    return element(
        "section",
        element("h2", view.name),
        element("p", _profile(view.target), class_="facts"),
        _left_out(study.left_out(view.name)),
        _answer(answer, follows=panel is not None),
        element("div", beside, panel, class_="r-explore" if beside and panel else None) if beside or panel else None,
        _front(view, answer),
        trials,
        element("div", pair, class_="pair"),
        _audit(view),
        explain_section(study, view),
        element("div", [figure("time"), figure("importance")], class_="pair"),
        figure("lines"),
        stages_table(view),
        _trials(view),
        element("h3", "What to do next"),
        _next(study, view, answer, place),
        id=f"target-{place}",
    )


def _profile(target: Target) -> Iterator[Markup]:
    if target.summary:
        yield element("span", target.summary)
    yield element("span", f"{counted(target.threads, 'thread')}, batch {target.batch}")
    if target.objective == "throughput":
        yield element("span", "throughput goes first")
    limits = " ".join(limit_options(target.limits))
    yield element("span", "limits: ", element("code", limits)) if limits else element("span", "no limits")


def _left_out(left_out: Mapping[str, str]) -> Markup | None:
    """What was not searched and why, folded: the eye is to land on the front."""
    if not left_out:
        return None
    listed = element("ul", [element("li", f"{what}, since {why}") for what, why in left_out.items()], class_="notes")
    return element("details", element("summary", f"{counted(len(left_out), 'setting')} not searched"), listed)


def _answer(answer: Headline, follows: bool) -> Iterator[Markup]:
    """What it came to; where limits can be moved, `r-said`: it gives way to the panel's answer, which follows them."""
    yield element("div", list(_said(answer)), class_="r-said" if follows else None)
    if answer.unknown:
        yield element("p", answer.unknown, class_="unknown")


def _said(answer: Headline) -> Iterator[Markup]:
    yield element("p", answer.sentence, class_="headline" if answer.chosen else "headline problem")
    if answer.chosen:
        yield element("p", element("b", describe(answer.chosen.recipe)), ". ", _code(answer.why), class_="why")


def _figure(name: str, title: str, caption: str, switches: Markup | None) -> Markup:
    return element(
        "figure",
        element("div", element("h3", title), element("div", switches, class_="r-tools"), class_="r-head"),
        _drawn(name, element("div", id=name, class_="plot", role="group", aria_label=f"{title}. {caption}")),
        element("figcaption", caption),
    )


def _drawn(name: str, plot: Markup) -> Markup:
    """Lines from axis to axis need the width of a table, and scroll as one."""
    if not name.startswith("lines"):
        return plot
    label = "Settings and what they came to, scrolls sideways"
    return element("div", plot, class_="r-wide", tabindex="0", role="region", aria_label=label)


def _front(view: TargetView, answer: Headline) -> Iterator[Markup]:
    members = view.members
    if not members:
        return
    notes = ["Click a heading to sort."]
    if view.is_scored:
        notes = [
            "Brackets are 95 % intervals; those of changes are of the same samples through both models. "
            "Val steered the search, so its best figures are a little lucky; test was scored once, for the front.",
            *notes,
        ]
    else:
        notes = [
            "Where a target that measured shares recipes with this one, those on its front are listed; accuracies are "
            "of the same recipe on the target that is named, the worst where there are several.",
            *notes,
        ]
    if view.is_timed:
        notes.insert(1, "Speed-up is against the baseline, measured in turn with it.")
    if latency_ties([record for record in members if record.recipe.stages]):
        notes.append("≈: as fast as the row above, as far as anybody can tell.")
    if any(record.latency and (not record.latency.stable or record.latency.drifts) for record in members):
        notes.append(
            "Unstable: the interval is wider than the target asks, or the device's own pace changed by over 10 % while "
            "it measured, as heat does it; measure again on a quiet, cool device."
        )
    yield element("h3", "The front" if view.is_scored else "What was compiled")
    yield front_table(view, answer.chosen)
    yield element("p", " ".join(notes), class_="note")


def _audit(view: TargetView) -> Iterator[Markup]:
    if not any(record.audit for record in view.members):
        return
    yield element("h3", "What runs in 8 bit")
    yield audit_table(view)
    counted_from = "the kernels that the runtime chose" if view.is_scored else "the compiled files"
    yield element(
        "p",
        f"Counted from {counted_from}. A layer that stayed in float costs time, and so does every conversion left "
        "between layers.",
        class_="note",
    )


def _trials(view: TargetView) -> Iterator[Markup]:
    records = view.records
    if not records:
        return
    yield element("h3", "All trials")
    yield outcome_list(view)
    yield element(
        "details",
        element("summary", f"Show {counted(len(records), 'trial')} with outcome and reason"),
        trials_table(view),
        open=not view.members,
    )


def _next(study: StudyFolder, view: TargetView, answer: Headline, place: int) -> Markup:
    if answer.chosen is not None:
        limits, _ = applicable(view.target.limits, view.records, view.target.batch, view.others)
        steps = next_commands(study, view.name, limits)
    elif view.was_compiled and view.members:
        steps = next_commands(study, view.name, Limits(), view.members[0].number)
    elif any(record.is_scored for record in view.records):
        steps = [more_trials(study)]
    elif view.records:
        steps = [("Go on with the search once the reasons above are mended", resume_command(study))]
    else:
        steps = [("Go on with the search", resume_command(study))]
    picks = f"pick-{place}" if answer.chosen is not None else None
    listed = [
        [element("dt", what), element("dd", element("pre", command, id=None if number else picks))]
        for number, (what, command) in enumerate(steps)
    ]
    return element("dl", listed, class_="next")


def _code(text: str) -> list[object]:
    """Words between backticks as code."""
    return [element("code", part) if place % 2 else part for place, part in enumerate(text.split("`"))]
