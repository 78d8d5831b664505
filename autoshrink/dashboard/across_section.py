"""The section of a report about all targets together: which recipes serve them, and where they disagree."""

from __future__ import annotations

from autoshrink.dashboard.across import Across, RecipeSet, across
from autoshrink.dashboard.across_words import (
    Views,
    agreement,
    change,
    notes,
    penalty,
    size,
    speed,
    speed_heading,
    titles,
)
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.report_tables import figure_cell, sortable_table
from autoshrink.dashboard.target_agreement import disagreements
from autoshrink.search.words import describe

_LIMITS = "All of it is under the limits that each target came with."


def across_section(views: Views) -> Markup | None:
    """The section; None of a study with one target, or with none that has trials yet."""
    if len(views) < 2 or not any(view.axes for view in views.values()):
        return None
    found = across(views)
    return element(
        "section",
        element("h2", "Across the targets"),
        [_set(each, title, text, views) for each, title, text in titles(found)],
        _unserved(found),
        element("p", ". ".join(notes(found, views)), ". ", _LIMITS, class_="note"),
        element("h3", "Do the targets agree?"),
        _agreement(views),
        id="across",
    )


def _set(each: RecipeSet, title: str, text: str, views: Views) -> Markup:
    rows = []
    for name, service in each.services.items():
        view = views[name]
        latency, artifact = service.record.latency, service.record.artifact
        speed_text, gained = speed(service, view)
        changed, where = change(service, view)
        drop = service.scored.drop
        rows.append(
            element(
                "tr",
                element("td", name),
                element("td", describe(service.record.recipe), class_="recipe"),
                figure_cell(str(service.record.number), service.record.number),
                figure_cell(speed_text, latency.ratio if latency else None, gained),
                figure_cell(penalty(service), service.penalty),
                figure_cell(changed, None if drop is None else -drop, where),
                figure_cell(size(service), artifact.size_bytes if artifact else None),
            )
        )
    heads = [
        ("target", False), ("recipe", False), ("trial", True), (speed_heading(each, views), True),
        ("of its best", True), ("change", True), ("size", True),
    ]  # fmt: skip
    return element(
        "div",
        element("h3", title, ": ", text),
        sortable_table(heads, [element("tbody", rows)], title),
    )


def _unserved(found: Across) -> list[Markup]:
    return [
        element("p", element("b", target), f": no recipe serves it. {why}", class_="headline problem")
        for target, why in found.unserved.items()
    ]


def _agreement(views: Views) -> list[Markup]:
    written = []
    for sentence, reasons in agreement(*disagreements(views), views):
        written.append(element("p", f"{sentence}."))
        if reasons:
            written.append(element("ul", [element("li", reason) for reason in reasons], class_="notes"))
    return written
