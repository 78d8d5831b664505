"""Every callback of every page, asked by hand for what no page asks for: a calm answer, and no stack trace."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dash import Dash
from flask.testing import FlaskClient

from autoshrink.dashboard.app.guard import CALLBACKS
from autoshrink.dashboard.app.page import PLACE
from autoshrink.dashboard.app.pages import OWN, PAGES
from autoshrink.dashboard.app.place import address
from autoshrink.dashboard.app.server import make_app
from autoshrink.dashboard.app.values import fits
from autoshrink.dashboard.library import Library
from tests.fake_allocations import write_fake_allocated
from tests.fake_study import make_fake_study

OWN_PAGE = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
ODD: tuple[Any, ...] = (None, True, 5, 10**40, "", "nope", "0", "\x00", [], {}, {"points": []}, ["a", 3])
USUAL = {
    "pathname": "/study/fake-study/front",
    "search": "",
    "n_clicks": 1,
    "n_intervals": 1,
    "clickData": {"points": [{"customdata": 3}]},
}
STORES = {PLACE: ["/study/fake-study/front", ""], "scheme": "light", "narrow": False, "version": "1"}
CONTROLS = {"target": "onnxruntime-cpu", "trial": "3", "trials": "0,3", "selected": 3, "over": "trials"}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Dash:
    results = tmp_path_factory.mktemp("results")
    write_fake_allocated(make_fake_study(results / "fake-study", trials=10), 10)
    made = make_app(Library(results))
    made.server.test_client().get("/")
    return made


@pytest.fixture
def errors(app: Dash) -> Iterator[list[str]]:
    found: list[str] = []

    class Collected(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            found.append(self.format(entry))

    handler = Collected(logging.ERROR)
    app.server.logger.addHandler(handler)
    yield found
    app.server.logger.removeHandler(handler)


def usual(wanted: dict[str, Any]) -> Any:
    """A part of a request as a page makes it; of a pattern the list of none."""
    component = wanted["id"]
    if component.startswith("{"):
        component = json.loads(component)
        if ["ALL"] in component.values():
            return []
        value = USUAL.get(wanted["property"], CONTROLS.get(component["name"]))
    else:
        value = USUAL.get(wanted["property"], STORES.get(component))
    return {"id": component, "property": wanted["property"], "value": value}


def named(output: str) -> Any:
    def one(text: str) -> Any:
        component, _, property_ = text.rpartition(".")
        return {"id": json.loads(component) if component.startswith("{") else component, "property": property_}

    return [one(text) for text in output[2:-2].split("...")] if output.startswith("..") else one(output)


def requests(app: Dash) -> Iterator[dict[str, Any]]:
    for output, known in app.callback_map.items():
        if "callback" in known and "MATCH" not in output and '["ALL"]' not in output:
            inputs, state = ([usual(each) for each in known[key]] for key in ("inputs", "state"))
            yield {"output": output, "outputs": named(output), "inputs": inputs, "state": state, "changedPropIds": []}


def ask(client: FlaskClient, body: dict[str, Any]) -> int:
    answer = client.post(CALLBACKS, json=body, headers=OWN_PAGE)
    assert "Traceback" not in answer.text
    return int(answer.status_code)


def test_what_a_page_asks_for_is_answered(app: Dash, errors: list[str]) -> None:
    client = app.server.test_client()
    bodies = list(requests(app))
    assert len(bodies) > 30
    for body in bodies:
        assert ask(client, body) in (200, 204), body["output"]
        assert errors == [], body["output"]


def test_what_no_page_asks_for_is_refused_or_answered_without_a_trace(app: Dash, errors: list[str]) -> None:
    client = app.server.test_client()
    refused: set[str] = set()
    faults: list[tuple[object, ...]] = []
    files = 0
    for body in requests(app):
        # Those that save a file are all of one make.
        files += '"csv-file"' in body["output"]
        if '"csv-file"' in body["output"] and files % 8 != 1:
            continue
        for key in ("inputs", "state"):
            for place, part in enumerate(body[key]):
                if isinstance(part, list):
                    continue
                for odd in ODD:
                    # What is refused for its kind is so in every request.
                    said = f"{part['id']} {part['property']} {odd!r}"
                    if said in refused:
                        continue
                    asked = {**body, key: [*body[key]]}
                    asked[key][place] = {**part, "value": odd}
                    status = ask(client, asked)
                    if status not in (200, 204, 400) or errors:
                        faults.append((body["output"], said, status, *errors))
                        errors.clear()
                    if status == 400:
                        refused.add(said)
    assert not faults, faults
    assert len(refused) > 100


@pytest.mark.parametrize("page", [*OWN, *PAGES], ids=lambda page: page.title)
@pytest.mark.parametrize("asked", [{"target": "nope"}, {"target": "nope", "trial": "x", "trials": "nope:3,,9,a:b"}])
def test_an_address_that_names_no_target_of_the_study_opens(
    app: Dash, errors: list[str], page: Any, asked: dict[str, str]
) -> None:
    client = app.server.test_client()
    where = address(page.name, "fake-study" if page in PAGES else "", **asked)
    path, _, query = where.partition("?")
    (body,) = (each for each in requests(app) if each["output"].startswith("..head.children"))
    for part, value in zip(body["inputs"], (path, f"?{query}"), strict=False):
        part["value"] = value
    for part in body["state"]:
        part["value"] = None
    body["changedPropIds"] = ["url.pathname"]
    answer = client.post(CALLBACKS, json=body, headers=OWN_PAGE)
    content = json.dumps(answer.json["response"]["content"])
    assert "cannot be shown" not in content and "no such page" not in content
    assert errors == []


@pytest.mark.parametrize(
    ("component", "property_", "value", "expected"),
    [
        ('{"name":"target","type":"control"}', "value", "a", True),
        ('{"name":"target","type":"control"}', "value", 5, False),
        ({"type": "control", "name": "max_size"}, "value", "5 MB", True),
        ({"type": "control", "name": "max_size"}, "value", [], False),
        ({"type": "control", "name": "max_size"}, "value", True, False),
        ("trial-number", "value", 7, True),
        ("place", "data", ["/", ""], True),
        ("place", "data", ["/"], False),
        ("place", "data", {"0": "/"}, False),
        ("progress", "clickData", {"points": [{}]}, True),
        ("progress", "clickData", {"points": []}, False),
        ("a", "n_clicks", True, False),
        ("a", "n_clicks", None, True),
    ],
)
def test_kinds(component: Any, property_: str, value: object, expected: bool) -> None:
    assert fits(component, property_, value) is expected


def test_nothing_of_a_page_is_made_where_none_is_open(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    app = make_app(Library(tmp_path / "results"))
    client = app.server.test_client()
    client.get("/")
    for body in requests(app):
        for part in body["state"]:
            if not isinstance(part, list) and part["id"] == PLACE:
                part["value"] = None
                of_frame = any(isinstance(each, dict) and each["id"] in ("look", "url") for each in body["inputs"])
                assert ask(client, body) in ((200, 204) if of_frame else (400,))
