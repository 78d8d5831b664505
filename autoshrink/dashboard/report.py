"""The HTML report of a study: one file that works offline and asks nothing of any network."""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import plotly.graph_objects as go
from plotly.offline import get_plotlyjs

from autoshrink.dashboard.figures import families
from autoshrink.dashboard.front_figure import LATENCY, SIZE, front_figure
from autoshrink.dashboard.headline import Headline, headline
from autoshrink.dashboard.library import Library, Snapshot
from autoshrink.dashboard.markup import Markup, element
from autoshrink.dashboard.palette import DARK, LIGHT, counterparts
from autoshrink.dashboard.report_data import target_data
from autoshrink.dashboard.report_search import search_figures
from autoshrink.dashboard.report_sections import body_of
from autoshrink.dashboard.report_trials import Details, Room, figures_of, trial_details
from autoshrink.dashboard.view import TargetView
from autoshrink.errors import ConfigError
from autoshrink.records import StudyFolder
from autoshrink.target import Limits

_HERE = Path(__file__).parent
_SCRIPTS = (
    "limits.js",
    "report_front.js",
    "report_answer.js",
    "report_limits.js",
    "report_pairs.js",
    "report_export.js",
    "report.js",
)
_STYLES = ("app/assets/trial.css", "report.css")
LARGEST = 5_900_000
"""Bytes at which the details of trials are cut, so that a report can be mailed."""

Views = Mapping[str, TargetView]
Data = Mapping[str, dict[str, Any] | None]


def write_report(study: StudyFolder, out: Path) -> Path:
    """Writes the report of a study, finished or not, to the HTML file `out`; gives `out`.

    Everything that comes from the records is escaped, and the page's content security policy lets no script run but
    the page's own and lets nothing be fetched. A record that cannot be read is named and hides no other.

    Raises:
        ConfigError: `out` cannot be written.
    """
    folder = study.path.resolve()
    page = _page(study, Library(folder.parent).snapshot(folder.name))
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(page, encoding="utf-8")
            partial.replace(out)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            [f"{out}: cannot be written ({error.strerror or error}); name another file with --out"]
        ) from error
    return out


def _page(study: StudyFolder, snapshot: Snapshot) -> str:
    meta, views = study.meta, snapshot.views
    scripts = [_file_text(name) for name in _SCRIPTS]
    answers = {target: headline(view) for target, view in views.items()}
    data = {target: target_data(study, view, answers[target], LIGHT) for target, view in views.items()}
    figures = _figures(views, answers, data)
    if figures:
        scripts.insert(0, get_plotlyjs())
    without = _unbroken(body_of(study, snapshot, answers, figures, data, {}))
    taken = sum(len(text.encode()) for text in [without, _data_json(figures, data), *scripts, *_styles()])
    trials = _trials(study, views, answers, Room(LARGEST - taken))
    figures |= figures_of(trials.values())
    folded = {target: found.markup for target, found in trials.items()}
    return _whole(
        meta.name, body_of(study, snapshot, answers, figures, data, folded), _data_json(figures, data), scripts
    )


def _trials(study: StudyFolder, views: Views, answers: Mapping[str, Headline], room: Room) -> dict[str, Details]:
    """The folded trials of each target; none takes more than its share of the room that the ones before it left."""
    found = {}
    for place, (target, view) in enumerate(views.items()):
        share = Room(room.left // (len(views) - place))
        before = share.left
        found[target] = trial_details(study, view, answers[target], place, LIGHT, share)
        room.takes(before - share.left)
    return found


def _styles() -> list[str]:
    return [_file_text(name) for name in _STYLES]


def _whole(title: str, body: Markup, data: str, scripts: Sequence[str]) -> str:
    policy = "; ".join(
        (
            "default-src 'none'",
            f"script-src {' '.join(_hash(script) for script in scripts)}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{title}: autoshrink study"),
        [element("style", Markup(style)) for style in _styles()],
    )
    shown = element(
        "body",
        _unbroken(body),
        element("script", Markup(data), type="application/json", id="data"),
        [element("script", Markup(script)) for script in scripts],
    )
    return f"<!doctype html>\n{element('html', head, shown, lang='en')}\n"


def _unbroken(body: Markup) -> Markup:
    """A figure and its percent sign stay on one line."""
    return Markup(body.replace(" %", "&nbsp;%"))


def _file_text(name: str) -> str:
    return (_HERE / name).read_text(encoding="utf-8")


def _hash(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _figures(views: Views, answers: Mapping[str, Headline], data: Data) -> dict[str, str]:
    """Id of the element -> figure as JSON, for a light page; those that the records give nothing for are left out.

    The JSON is empty where the page draws another of its figures on another axis.
    """
    names = families(record for view in views.values() for record in view.records)
    found: dict[str, str] = {}
    for place, (target, view) in enumerate(views.items()):
        moving = data[target] is not None
        of_target = _target_figures(view, LIGHT.colours(names), answers[target], moving)
        repeats = moving and of_target["front"] is not None
        for kind, figure in of_target.items():
            if figure is not None:
                found[f"{kind}-{place}"] = "" if kind == "size" and repeats else figure.to_json()
    return found


def _target_figures(
    view: TargetView, colours: Mapping[str, str], answer: Headline, moves: bool
) -> dict[str, go.Figure | None]:
    # Where the reader can move the limits, the page draws them and the arrow at what is chosen.
    limits, chosen = (Limits(), None) if moves else (view.target.limits, answer.chosen)
    return {
        "front": front_figure(view.records, limits, LIGHT, colours, LATENCY, chosen),
        "size": front_figure(view.records, limits, LIGHT, colours, SIZE, chosen),
        **search_figures(view, LIGHT),
    }


def _data_json(figures: Mapping[str, str], data: Data) -> str:
    drawn = f"{{{','.join(f'{json.dumps(name)}:{figure}' for name, figure in figures.items() if figure)}}}"
    targets = json.dumps(list(data.values()), allow_nan=False, separators=(",", ":"))
    dark = json.dumps(counterparts(LIGHT, DARK))
    text = f'{{"figures":{drawn},"targets":{targets},"dark":{dark}}}'
    # Nothing in the text may end the script element that holds it.
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
