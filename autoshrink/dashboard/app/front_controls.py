"""The controls of the page Front: what is drawn over what, and the limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dash import Input, dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.place import Place, control
from autoshrink.dashboard.front_look import Look, default_x, look_of
from autoshrink.dashboard.limit_boxes import BOXES, Box, box_text
from autoshrink.dashboard.points import Points
from autoshrink.dashboard.quantities import QUANTITIES, noun_of
from autoshrink.dashboard.view import TargetView

LOOKS = ("x", "y", "area", "colour", "costs", "xscale", "yscale", "view", "unfinished", "apart")
"""Controls that decide how the figure looks."""
LIMITS = tuple(box.name for box in BOXES)
SCALES = {"auto": "automatic", "linear": "linear", "log": "logarithmic"}
DEFAULTS = {
    "y": "accuracy",
    "area": "auto",
    "colour": "technique",
    "costs": "relative",
    "xscale": "auto",
    "yscale": "auto",
    "view": "2d",
    "apart": "columns",
}


def look_inputs() -> dict[str, Input]:
    """Control -> its value as an input of a callback."""
    return {name: Input(control(name), "value") for name in LOOKS}


def limit_inputs() -> dict[str, Input]:
    """Box -> its text as an input of a callback."""
    return {name: Input(control(name), "value") for name in LIMITS}


def look_from(values: Mapping[str, Any], view: TargetView, points: Points, several: bool, narrow: bool) -> Look:
    """What the controls ask for, with quantities that are known of the target."""
    apart: Any = values["apart"] if several else "overlay"
    plain = Look(
        relative=values["costs"] != "absolute",
        x_scale=values["xscale"],
        y_scale=values["yscale"],
        colour=values["colour"],
        unfinished=bool(values["unfinished"]),
        solid=values["view"] == "3d",
        apart="rows" if apart == "columns" and narrow else apart,
    )
    return look_of(view, points, values["x"], values["y"], values["area"], plain)


def targets_row(place: Place, targets: Sequence[str], first: str) -> Component:
    """Which targets are looked at."""
    beside = [name for name in place.get("beside").split(",") if name in targets and name != first]
    fields = [field("Target", dcc.Dropdown(list(targets), first, id=control("target"), clearable=False), "target")]
    several = "" if len(targets) > 1 else " hidden"
    fields += [
        field(
            "Beside it",
            dcc.Dropdown(
                [name for name in targets if name != first],
                beside,
                id=control("beside"),
                multi=True,
                placeholder="no other target",
            ),
            "beside",
            f"wide-field{several}",
        ),
        field(
            "Targets",
            dropdown(place, "apart", {"columns": "side by side", "overlay": "in one figure"}),
            "apart",
            several,
            "apart-field",
        ),
    ]
    return html.Div(fields, className="fields targets-row")


def toolbar(place: Place, view: TargetView) -> list[Component]:
    """What is drawn over what; what one changes seldom unfolds."""
    nouns = {name: noun_of(quantity, view.metric) for name, quantity in QUANTITIES.items()}
    first = html.Div(
        [
            field("Up", dropdown(place, "y", nouns), "y"),
            field("Across", dropdown(place, "x", nouns, default_x(view).name), "x"),
            field("Colour", dropdown(place, "colour", {"technique": "technique", "outcome": "outcome"}), "colour"),
        ],
        className="fields",
    )
    unfinished = ["shown"] if place.get("unfinished") else []
    more = html.Div(
        [
            field("Costs", dropdown(place, "costs", {"relative": "ratio to the baseline", "absolute": "with units"}),
                  "costs"),
            field("Scale across", dropdown(place, "xscale", SCALES), "xscale"),
            field("Scale up", dropdown(place, "yscale", SCALES), "yscale"),
            field("Marker area, depth", dropdown(place, "area", {"auto": "automatic", **nouns}), "area"),
            field("View", dropdown(place, "view", {"2d": "flat", "3d": "in space"}), "view"),
            dcc.Checklist(
                [{"label": "Stopped, rejected and failed ones too", "value": "shown"}],
                unfinished,
                id=control("unfinished"),
                className="check",
            ),
        ],
        className="fields more",
    )  # fmt: skip
    opened = any(place.get(name) for name in ("costs", "xscale", "yscale", "area", "view", "unfinished"))
    return [first, html.Details([html.Summary("More ways to look"), more], open=opened)]


def limits_form(place: Place) -> list[Component]:
    """A box and a slider for each limit."""
    return [_limit(place, box) for box in BOXES]


def _limit(place: Place, box: Box) -> Component:
    slider = dcc.Input(type="range", min=0, max=1000, step=1, value=1000, id=slider_id(box), className="slider")
    number = dcc.Input(
        type="text",
        value=place.get(box.name) or None,
        id=control(box.name),
        debounce=True,
        autoComplete="off",
        spellCheck=False,
        className="limit-box",
    )
    return html.Div(
        [
            html.Label(box.label, htmlFor=dom_id(control(box.name))),
            number,
            html.Label(f"{box.label}, as a slider", htmlFor=dom_id(slider_id(box)), className="heard"),
            slider,
        ],
        className="limit hidden",
        id=row_id(box),
    )


def hint(view: TargetView, box: Box) -> str:
    """What stands in an empty box."""
    own = getattr(view.target.limits, box.field)
    return "no limit" if own is None else f"{box_text(box, own)}, the target's"


def field(label: str, widget: Component, name: str, more: str = "", identity: str = "") -> Component:
    """A control with its label above it."""
    named = {"id": identity} if identity else {}
    return html.Div([html.Label(label, htmlFor=dom_id(control(name))), widget], className=f"field {more}", **named)


def dropdown(place: Place, name: str, options: Mapping[str, str], default: str | None = None) -> Component:
    """A choice of some words; what the address asks for and is none of them is not taken."""
    asked = place.get(name)
    value = asked if asked in options else default or DEFAULTS[name]
    return dcc.Dropdown(
        [{"label": label, "value": key} for key, label in options.items()],
        value,
        id=control(name),
        clearable=False,
        searchable=False,
    )


def slider_id(box: Box) -> dict[str, str]:
    """Of the slider beside a box."""
    return {"type": "limit-slider", "name": box.name}


def row_id(box: Box) -> dict[str, str]:
    """Of what holds both."""
    return {"type": "limit-row", "name": box.name}


def dom_id(identity: Mapping[str, str]) -> str:
    """How Dash writes the id of a component into the page."""
    return json.dumps(identity, sort_keys=True, separators=(",", ":"))
