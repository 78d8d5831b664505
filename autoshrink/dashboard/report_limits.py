"""What the reader of a report can move: the limits of a target and the axis of its front. Scripts bring it to life."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoshrink.dashboard.markup import Markup, element


def limits_panel(place: int, data: dict[str, Any]) -> Markup:
    """A slider and a box for each limit, and room for the trial that they lead to.

    It is hidden until the page's script shows it: without one nothing could be moved.

    Args:
        place: of the target among those of the study.
        data: see `autoshrink.dashboard.report_data.target_data`.
    """
    rows = [_row(place, number, control) for number, control in enumerate(data["controls"])]
    has_own = any(control["start"] is not None for control in data["controls"])
    back = "Back to the target's limits" if has_own else "No limits"
    return element(
        "form",
        element("h3", "What may it cost?"),
        element("fieldset", element("legend", "Limits", class_="r-unseen"), rows),
        element("p", element("button", back, type="reset", class_="r-plain"), class_="r-back"),
        element("div", class_="r-answer", aria_live="polite"),
        class_="r-limits",
        autocomplete="off",
        id=f"limits-{place}",
        hidden=True,
    )


def _row(place: int, number: int, control: dict[str, Any]) -> Markup:
    box, side = f"limit-{place}-{number}", "at least" if control["least"] else "at most"
    value = control["start"]
    return element(
        "div",
        element("label", control["label"], element("span", f" {side}"), for_=box),
        element(
            "span",
            element(
                "input", type="number", id=box, min="0", step="any", placeholder="any",
                value=None if value is None else f"{value:.12g}", aria_describedby=f"{box}-kept",
            ),
            element("span", control["unit"], class_="r-unit"),
            class_="r-box",
        ),
        element("input", type="range", min="0", max="200", step="1", aria_label=f"{control['label']} {side}, slider"),
        element("small", id=f"{box}-kept"),
        class_="r-limit",
        data_control=str(number),
    )  # fmt: skip


def axis_switches(place: int, figure: str, axes: Sequence[dict[str, Any]]) -> Markup | None:
    """What the metric is drawn over, as a ratio or as it is, and on which scale; hidden until the script shows it."""
    if not axes:
        return None
    across = [element("option", axis["name"], value=str(number)) for number, axis in enumerate(axes)]
    units = [element("option", "to baseline", value="ratio"), element("option", "absolute", value="own")]
    return element(
        "span",
        element("label", element("span", "over "), element("select", across, autocomplete="off")),
        element("label", element("span", "values", class_="r-unseen"), element("select", units, autocomplete="off")),
        element("label", element("input", type="checkbox", autocomplete="off"), " log"),
        class_="r-axes",
        data_place=str(place),
        data_figure=figure,
        hidden=True,
    )
