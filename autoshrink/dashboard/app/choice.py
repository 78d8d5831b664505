"""A list to choose from that is the browser's own: it works by keyboard, on a phone, and with a screen reader.

The `dcc.Dropdown` of Dash 4 has an element in the tab order that it hides from screen readers (aria-hidden-focus).
"""

from __future__ import annotations

from collections.abc import Mapping

from dash import dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.app.place import control


def choice(name: str, label: str, options: Mapping[str, str], value: str) -> Component:
    """A labelled list whose value is that of the control `name`, so that it is in the address.

    Callbacks take `Input(control(name), "value")`. What is chosen is told by assets/choice.js.

    Args:
        name: of the control.
        label: stands above it.
        options: value -> text; the empty value may be among them.
        value: the one that is chosen at first; the first option when it is not among them.
    """
    value = value if value in options else next(iter(options), "")
    listed = [html.Option(text, value=each, selected=each == value) for each, text in options.items()]
    return html.Label(
        [
            html.Span(label),
            html.Select(listed, **{"data-control": name, "aria-label": label}),
            dcc.Input(id=control(name), type="hidden", value=value),
        ],
        className="control",
    )


def labelled(label: str, one: Component) -> Component:
    """A control with its label above it."""
    return html.Label([html.Span(label), one], className="control")
