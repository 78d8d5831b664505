"""Taking along what a page shows: a figure as PNG or SVG, a table as CSV, a text to paste."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dash import MATCH, Dash, Input, Output, State, dcc, html, no_update
from dash.development.base_component import Component

IMAGE, CSV, FILE = "save-image", "save-csv", "csv-file"
"""Types of the ids of the buttons, and of what a table is downloaded through."""
COPY = "copy"
COPY_WORD = "Copy"
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet takes a text that begins with one of these for a formula."""

# The figure is transparent on the page; alone it wants the page's ground behind it.
_SAVE_IMAGE = """
function(clicks, id) {
  const plot = document.getElementById(id.name)?.querySelector(".js-plotly-plot");
  if (!clicks || !plot) return;
  const ground = getComputedStyle(document.documentElement).getPropertyValue("--surface").trim();
  const layout = {...plot.layout, paper_bgcolor: ground, plot_bgcolor: ground};
  const study = decodeURIComponent(window.location.pathname.split("/")[2] || "autoshrink").replace(/[^\\w.-]+/g, "-");
  window.Plotly.downloadImage({data: plot.data.map(window.autoshrink.drawable), layout: layout}, {
    format: id.format, filename: study + "-" + id.name, scale: id.format === "png" ? 2 : 1,
    width: plot.clientWidth, height: plot.clientHeight,
  });
}
"""
_COPY = """
async function(clicks, id) {
  const source = document.getElementById("copied-" + id.name);
  if (!clicks || !source) return window.dash_clientside.no_update;
  setTimeout(() => window.dash_clientside.set_props(id, {children: "WORD"}), 2000);
  try {
    await navigator.clipboard.writeText(source.textContent);
    return "Copied";
  } catch (refused) {
    const range = document.createRange();
    range.selectNodeContents(source);
    window.getSelection().removeAllRanges();
    window.getSelection().addRange(range);
    return "Selected: press Ctrl+C";
  }
}
""".replace("WORD", COPY_WORD)


@dataclass(frozen=True)
class Table:
    """What a CSV file holds.

    Attributes:
        heads: of the columns, units in them.
        rows: of each column a value; None is an empty cell.
    """

    heads: Sequence[str]
    rows: Iterable[Sequence[object]]

    def csv(self) -> str:
        """The file's text; a text that a spreadsheet would take for a formula gets an apostrophe in front of it."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([_cell(head) for head in self.heads])
        writer.writerows([_cell(value) for value in row] for row in self.rows)
        return stream.getvalue()


def _cell(value: object) -> object:
    if value is None:
        return ""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value


def save_buttons(name: str, what: str, image: bool = True, table: bool = False) -> Component:
    """Buttons that save the figure in the `dcc.Graph` with the id `name`, and the table of `on_csv` of that name.

    Args:
        name: id of the graph, and the end of the files' names.
        what: is saved, for those who hear the page: `the front`.
        image: whether there is a figure.
        table: whether there is a table.
    """
    parts: list[Component] = [html.Span("Save", className="save-word", **{"aria-hidden": "true"})]
    if image:
        parts += [
            html.Button(
                form.upper(),
                id={"type": IMAGE, "name": name, "format": form},
                className="save",
                **{"aria-label": f"Save {what} as {form.upper()}"},
            )
            for form in ("png", "svg")
        ]
    if table:
        spoken = {"aria-label": f"Save {what} as CSV"}
        parts.append(html.Button("CSV", id={"type": CSV, "name": name}, className="save", **spoken))
        parts.append(dcc.Download(id={"type": FILE, "name": name}))
    return html.Div(parts, className="save-buttons")


def command_words(command: str) -> list[Component | str]:
    """A command for an `html.Pre`: its lines end between words, not at the hyphens of an option."""
    return [part for word in command.split(" ") for part in (" ", html.Span(word, className="word"))][1:]


def copyable(name: str, text: str | list[Component | str], what: str, block: bool = True) -> Component:
    """A text with a button that copies it.

    Args:
        name: one on the page.
        text: as it is copied; see `command_words` for a command.
        what: is copied, for those who hear the page: `the command`.
        block: whether it stands in a block of its own, with its line breaks.
    """
    source = (html.Pre if block else html.Code)(text, id=f"copied-{name}")
    button = html.Button(COPY_WORD, id={"type": COPY, "name": name}, className="save", title=f"Copy {what}")
    return html.Div([source, html.Span(button, **{"aria-live": "polite"})], className="copyable")


def register(app: Dash) -> None:
    """Adds what saves figures and copies texts; once an application."""
    button = {"type": IMAGE, "name": MATCH, "format": MATCH}
    app.clientside_callback(_SAVE_IMAGE, Input(button, "n_clicks"), State(button, "id"), prevent_initial_call=True)
    copy = {"type": COPY, "name": MATCH}
    app.clientside_callback(
        _COPY, Output(copy, "children"), Input(copy, "n_clicks"), State(copy, "id"), prevent_initial_call=True
    )


def on_csv(app: Dash, name: str, table: Callable[..., Table | None], *states: State) -> None:
    """Adds what saves a table.

    Args:
        app: the application.
        name: of the `save_buttons`.
        table: (values of `states`) -> the table; None where there is none now.
        states: what it depends on.
    """

    @app.callback(
        Output({"type": FILE, "name": name}, "data"),
        Input({"type": CSV, "name": name}, "n_clicks"),
        *states,
        prevent_initial_call=True,
    )
    def save(clicks: int | None, *values: Any) -> object:
        found = table(*values) if clicks else None
        return no_update if found is None else dcc.send_string(found.csv(), f"{name}.csv")
