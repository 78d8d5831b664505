"""The controls of the page Front: what is drawn over what, and the limits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dash import Input, dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.choice import choice
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
    "unfinished": "",
    "apart": "columns",
}
_OFTEN = ("y", "x", "colour")
_SELDOM = ("costs", "xscale", "yscale", "area", "view", "unfinished")
LABELS = {
    "y": "Up",
    "x": "Across",
    "colour": "Colour",
    "costs": "Costs",
    "xscale": "Scale across",
    "yscale": "Scale up",
    "area": "Marker area, depth",
    "view": "View",
    "unfinished": "Stopped, rejected, failed",
    "apart": "Arranged",
}
ALL = "*"
"""In the place of a target: all of them."""


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


def targets_row(place: Place, targets: Sequence[str], view: TargetView) -> Component:
    """Which targets are looked at; `view` is the first."""
    first = view.name
    fields = [choice("target", "Target", {name: name for name in targets}, first)]
    beside = {"": "no other"} | {name: name for name in targets} | ({ALL: "all others"} if len(targets) > 2 else {})
    fields += [
        html.Div(
            choice("beside", "Beside it", beside, place.get("beside")), className="" if len(targets) > 1 else "hidden"
        ),
        html.Div(
            choice("apart", LABELS["apart"], _options(view)["apart"], looks_of(place, view)["apart"]),
            className="hidden",
            id="apart-field",
        ),
    ]
    return html.Div(fields, className="fields targets-row")


def toolbar(place: Place, view: TargetView) -> list[Component]:
    """What is drawn over what; what one changes seldom unfolds."""
    values, options = looks_of(place, view), _options(view)
    first, more = (
        html.Div([choice(name, LABELS[name], options[name], values[name]) for name in names], className=f"fields{kind}")
        for names, kind in ((_OFTEN, ""), (_SELDOM, " more"))
    )
    changed = any(values[name] != DEFAULTS[name] for name in _SELDOM)
    return [first, html.Details([html.Summary("More ways to look"), more], open=changed)]


def looks_of(place: Place, view: TargetView) -> dict[str, str]:
    """Control of the look -> its value; what the address asks for and is no option is not taken."""
    defaults = DEFAULTS | {"x": default_x(view).name}
    return {
        name: place.get(name) if place.get(name) in options else defaults[name]
        for name, options in _options(view).items()
    }


def _options(view: TargetView) -> dict[str, dict[str, str]]:
    """Control of the look -> value -> text."""
    nouns = {name: noun_of(quantity, view.metric) for name, quantity in QUANTITIES.items()}
    return {
        "x": nouns,
        "y": nouns,
        "area": {"auto": "automatic", **nouns},
        "colour": {"technique": "technique", "outcome": "outcome"},
        "costs": {"relative": "ratio to the baseline", "absolute": "with units"},
        "xscale": SCALES,
        "yscale": SCALES,
        "view": {"2d": "flat", "3d": "in space"},
        "unfinished": {"": "left out", "shown": "shown"},
        "apart": {"columns": "side by side", "overlay": "in one figure"},
    }


def targets_of(target: str, beside: str | None, known: Sequence[str]) -> list[str]:
    """The target that is looked at, then those beside it."""
    others = [name for name in known if name != target]
    return [target, *(others if beside == ALL else [name for name in others if name == beside])]


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


def slider_id(box: Box) -> dict[str, str]:
    """Of the slider beside a box."""
    return {"type": "limit-slider", "name": box.name}


def row_id(box: Box) -> dict[str, str]:
    """Of what holds both."""
    return {"type": "limit-row", "name": box.name}


def dom_id(identity: Mapping[str, str]) -> str:
    """How Dash writes the id of a component into the page."""
    return json.dumps(identity, sort_keys=True, separators=(",", ":"))
