"""The button that builds the package of a trial, and the address that it asks.

The button's behaviour is in assets/downloads.js: it posts the three names, tells how far it is, and saves the answer.
"""

from __future__ import annotations

from dash import Dash, html
from dash.development.base_component import Component
from flask import Response, request, send_file

from autoshrink.dashboard.app.packing import Busy, NotBuilt, Packer
from autoshrink.errors import ConfigError

ADDRESS = "/package"
_FIELDS = ("study", "target", "trial")


def package_button(study: str, target: str, trial: int) -> Component:
    """A button that builds a trial's package and downloads it, with room beside it for what is said meanwhile.

    Args:
        study: name of the study.
        target: of the study.
        trial: number of a trial that has compiled files.
    """
    asked = {"data-study": study, "data-target": target, "data-trial": str(trial)}
    return html.Div(
        [
            html.Button("Build and download the package", type="button", className="package-button", **asked),
            html.Span("", className="package-said", role="status"),
        ],
        className="package",
        # Another trial's is another element: what was said of this one goes with it.
        key=f"{study} {target} {trial}",
    )


def register(app: Dash, packer: Packer) -> None:
    """Adds the address that the buttons ask."""

    @app.server.post(ADDRESS)
    def package() -> Response:
        form = request.form.to_dict(flat=False)
        values = [form[name][0] for name in _FIELDS if len(form.get(name, ())) == 1]
        if len(form) != len(_FIELDS) or len(values) != len(_FIELDS):
            return _said(f"The form has {', '.join(_FIELDS)}, each once, and nothing else.", 400)
        study, target, trial = values
        if not (trial.isascii() and trial.isdecimal() and len(trial) < 10):
            return _said("The trial is a number.", 400)
        try:
            name, content = packer.build(study, target, int(trial))
        except ConfigError as error:
            return _said(str(error), 404)
        except Busy as error:
            return _said(str(error), 409)
        except NotBuilt as error:
            return _said(str(error), 422)
        return send_file(content, mimetype="application/zip", as_attachment=True, download_name=name, max_age=0)


def _said(text: str, status: int) -> Response:
    return Response(text + "\n", status, mimetype="text/plain")
