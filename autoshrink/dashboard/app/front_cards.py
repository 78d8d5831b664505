"""The cards beside the front: the pick under the limits, and the trial that is selected."""

from __future__ import annotations

import json
from collections.abc import Iterator

from dash import dcc, html
from dash.development.base_component import Component

from autoshrink.dashboard.answer import Answer, answer_markup
from autoshrink.dashboard.app.downloads import package_button
from autoshrink.dashboard.app.exports import command_words
from autoshrink.dashboard.app.nodes import components
from autoshrink.dashboard.app.place import address
from autoshrink.dashboard.commands import next_commands
from autoshrink.dashboard.library import Snapshot
from autoshrink.dashboard.limit_boxes import BOXES
from autoshrink.dashboard.markup import join
from autoshrink.dashboard.trial_card import trial_card
from autoshrink.dashboard.view import TargetView
from autoshrink.package.shortfall import Shortfall, WayOut
from autoshrink.search.words import describe
from autoshrink.types import TrialRecord

RELAX = "relax"
"""Type of the ids of the buttons that set limits which would do."""
SELECT = "select-trial"
"""Type of the ids of the buttons that select a trial."""


def answer_card(snapshot: Snapshot, view: TargetView, answer: Answer) -> list[Component | str]:
    """The pick, why it is that one, and the command that ships it; or the nearest misses and the ways out."""
    card = components(join(answer_markup(answer)))
    if answer.headline.shortfall is not None:
        return [*_missed(answer.headline.shortfall), *card]
    if answer.number is None:
        return card
    _, command = next_commands(snapshot.folder, view.name, answer.limits)[0]
    links = html.Div(
        [dcc.Link("All about it", href=address("trial", snapshot.name, target=view.name, trial=answer.number))],
        className="links",
    )
    return [*card, package_button(snapshot.name, view.name, answer.number), _command(command), links]


def _command(command: str) -> Component:
    copy = dcc.Clipboard(content=command, title="Copy the command", className="copy")
    return html.Div(
        [html.P("Or write it where you are:", className="note"), html.Div([html.Pre(command_words(command)), copy])],
        className="command",
    )


def _missed(shortfall: Shortfall) -> Iterator[Component]:
    yield html.P("Nothing fits", className="eyebrow")
    yield html.P(f"{shortfall.sentence[:1].upper()}{shortfall.sentence[1:]}.", className="said")
    yield html.H4("Nearest")
    yield html.Ul(
        [
            html.Li(
                [
                    html.Button(
                        f"Trial {miss.candidate.number}",
                        id={"type": SELECT, "number": miss.candidate.number},
                        className="as-link",
                    ),
                    html.Span(f" {describe(miss.candidate.record.recipe)}", className="quiet"),
                    *(html.Div(text) for text in miss.breaks),
                ]
            )
            for miss in shortfall.nearest
        ],
        className="misses",
    )
    if shortfall.ways_out:
        yield html.H4("What to relax")
        yield html.Ul([html.Li(_way_out(way)) for way in shortfall.ways_out], className="ways")
    else:
        yield html.P("No drop has an interval: take the limit on the drop away.", className="said")


def _way_out(way: WayOut) -> list[Component | str]:
    fields = {box.field: box for box in BOXES}
    words = [f"{fields[limit.name].label.lower()} {text}" for limit, text in way.enough.items() if limit.name in fields]
    gives = "" if way.gives is None else f" gives trial {way.gives}"
    if len(words) < len(way.enough):
        # A limit on a figure of the backend has no box here.
        return [way.text]
    values = {fields[limit.name].name: text for limit, text in way.enough.items()}
    words[0] = f"{words[0][:1].upper()}{words[0][1:]}"
    button = html.Button(" and ".join(words), id={"type": RELAX, "to": json.dumps(values)}, className="way")
    return [button, html.Span(gives, className="quiet")]


def selected_card(
    snapshot: Snapshot, view: TargetView, record: TrialRecord, pick: int | None, is_member: bool
) -> list[Component | str]:
    """The selected trial, with the ways to more."""
    badges = (*(("front",) if is_member else ()), *(("pick",) if record.number == pick else ()))
    links = [dcc.Link("All about it", href=address("trial", snapshot.name, target=view.name, trial=record.number))]
    if pick is not None and pick != record.number:
        compared = address("compare", snapshot.name, target=view.name, trials=f"{pick},{record.number}")
        links.append(dcc.Link("Compare with the pick", href=compared))
    return [*components(join(trial_card(view, record, badges))), html.Div(links, className="links")]
