"""What stands before the dashboard: hosts, tokens, origins, sizes, malformed requests; and what is on every answer."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from dash import ALL, Dash, Input, Output, State, html
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st

from autoshrink.dashboard.app.guard import CALLBACKS, MOST_BODY, Rules, malformed
from autoshrink.dashboard.app.server import HERE, make_app
from autoshrink.dashboard.library import Library
from tests.fake_study import make_fake_study

OWN = {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}
TOKEN = "0123456789abcdef-token"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Library:
    results = tmp_path_factory.mktemp("place") / "results"
    make_fake_study(results / "fake-study")
    (results.parent / "secret.txt").write_text("what nobody may read")
    return Library(results)


@pytest.fixture(scope="module")
def client(library: Library) -> Iterator[FlaskClient]:
    yield make_app(library).server.test_client()


def test_the_first_page_names_every_script_whatever_is_asked_for_beside_it(
    library: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dash looks for scripts during the first request, which may be that for the icon: the page came without them."""
    server = make_app(library).server
    at_work, answered = threading.Event(), threading.Event()
    look = Dash._walk_assets_directory

    def looks(app: Dash) -> None:
        at_work.set()
        answered.wait(30)
        look(app)

    monkeypatch.setattr(Dash, "_walk_assets_directory", looks)

    def ask_for_icon() -> None:
        server.test_client().get("/favicon.ico")
        at_work.set()

    beside = threading.Thread(target=ask_for_icon)
    beside.start()
    at_work.wait(30)
    page = server.test_client().get("/").get_data(as_text=True)
    answered.set()
    beside.join()
    named = re.findall(r'<script src="/assets/([a-z_]+\.js)\?', page)
    assert named == sorted(file.name for file in (HERE / "assets").glob("*.js")) and named


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("localhost:8050", True),
        ("LOCALHOST", True),
        ("127.0.0.1:9999", True),
        ("127.8.8.8", True),
        ("[::1]:8050", True),
        ("elsewhere.example:8050", False),
        ("localhost.elsewhere.example", False),
        ("127.0.0.1.elsewhere.example", False),
        ("127.0.0.1@elsewhere.example", False),
        ("192.168.0.7:8050", False),
        ("0.0.0.0:8050", False),
        ("[::]:8050", False),
        ("", False),
    ],
)
def test_names_that_could_be_bound_anew_are_refused(host: str, known: bool) -> None:
    assert Rules().knows(host) is known
    assert Rules(token=TOKEN).knows(host), "with a token the cookie decides"


def test_the_address_that_is_served_is_known() -> None:
    rules = Rules("box.local")
    assert rules.knows("Box.local:8050")
    assert not rules.knows("other.local:8050")


def test_a_foreign_host_gets_nothing(client: FlaskClient) -> None:
    for path in ("/", "/_dash-layout", "/style.css", "/assets/shell.js"):
        answer = client.get(path, headers={"Host": "elsewhere.example:8050"})
        assert answer.status_code == 403
        assert "not an address of this dashboard" in answer.text
    answer = client.get("/", headers={"Host": "a b<script>"})
    assert 400 <= answer.status_code < 500
    assert answer.mimetype == "text/plain"


def test_every_answer_says_what_a_browser_may_do_with_it(client: FlaskClient) -> None:
    for path in ("/", "/style.css", "/assets/shell.js", "/_dash-dependencies", "/assets/nothing.js"):
        with client.get(path) as answer:
            headers = answer.headers
        policy = dict(rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["connect-src"] == policy["form-action"] == "'self'"
        assert "'unsafe-inline'" not in policy["script-src"]
        assert not [source for source in policy["script-src"].split() if source.startswith(("http", "data", "*"))]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers
    assert client.get("/").headers["Cache-Control"] == "no-store"
    assert client.post(CALLBACKS, json={}, headers=OWN).headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/assets/../server.py",
        "/assets/..%2fserver.py",
        "/assets/%2e%2e/%2e%2e/library.py",
        "/assets/..%5c..%5cserver.py",
        "/_dash-component-suites/dash/../../../etc/passwd",
        "/_dash-component-suites/dash/..%2f..%2fdash.py",
        "/_dash-component-suites/os/path.py",
        "/_dash-component-suites/autoshrink/records.py",
        "/_dash-component-suites/dash/dcc/nothing.js",
    ],
)
def test_no_file_beside_the_pages_own_is_served(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.text == "404 Not Found\n"


@pytest.mark.parametrize(
    "path", ["/assets//etc/passwd", "/../secret.txt", "/study/..%2f..%2fsecret.txt", "/study/../../secret.txt/front"]
)
def test_addresses_of_pages_are_never_paths_of_files(client: FlaskClient, path: str) -> None:
    answer = client.get(path)
    assert "what nobody may read" not in answer.text and "root:" not in answer.text
    assert answer.mimetype == "text/html", "the page that says that there is none"


def test_neither_tools_of_developers_nor_other_doors_are_there(client: FlaskClient) -> None:
    layout = client.get("/").text
    config = json.loads(layout.partition('<script id="_dash-config" type="application/json">')[2].partition("</")[0])
    assert config["ui"] is False and config["props_check"] is False and config.get("hot_reload") is None
    for path in ("/_mcp", "/mcp", "/_alive_", "/console"):
        assert client.get(path).mimetype == "text/html"
        assert client.post(path, json={}, headers=OWN).status_code == 405
    for method in ("PUT", "DELETE", "PATCH", "TRACE"):
        assert client.open("/", method=method).status_code == 405


def test_a_body_over_the_limit_is_refused(client: FlaskClient) -> None:
    answer = client.post(CALLBACKS, data=b" " * (MOST_BODY + 1), content_type="application/json", headers=OWN)
    assert answer.status_code == 413
    assert answer.mimetype == "text/plain"


class TestToken:
    @pytest.fixture
    def browser(self, library: Library) -> FlaskClient:
        return make_app(library, Rules("0.0.0.0", TOKEN)).server.test_client()

    def test_without_one_nothing_is_shown(self, browser: FlaskClient) -> None:
        for path in ("/", "/_dash-layout", "/assets/shell.js", "/?token=", "/?token=wrong", "/?token=%ff%e4"):
            answer = browser.get(path)
            assert answer.status_code == 403
            assert "A token is wanted" in answer.text
        assert browser.post(CALLBACKS, json={}, headers=OWN).status_code == 403
        assert browser.post(f"/package?token={TOKEN}", data={}, headers=OWN).status_code == 403

    def test_once_brought_it_is_kept_where_no_script_sees_it(self, browser: FlaskClient) -> None:
        answer = browser.get(f"/study/fake-study/front?target=a&token={TOKEN}&x=b%26c")
        assert answer.status_code == 200
        assert 'content="0;url=/study/fake-study/front?target=a&amp;x=b%26c"' in answer.text
        assert TOKEN not in answer.text
        cookie = answer.headers["Set-Cookie"]
        assert "HttpOnly" in cookie and "SameSite=Strict" in cookie and "Path=/" in cookie
        assert browser.get("/").status_code == 200
        assert browser.get("/_dash-layout").status_code == 200

    def test_it_leads_to_no_other_site(self, browser: FlaskClient) -> None:
        for path in ("//elsewhere.example/", "/%2Felsewhere.example/", '/"><script>/'):
            answer = browser.get(f"{path}?token={TOKEN}", base_url="http://localhost")
            where = answer.text.partition("url=")[2].partition('"')[0]
            assert where.startswith("/") and not where.startswith("//")
            assert "<script" not in answer.text

    def test_another_dashboards_cookie_is_no_token(self, library: Library, browser: FlaskClient) -> None:
        browser.get(f"/?token={TOKEN}")
        other = make_app(library, Rules("0.0.0.0", "another-token-of-this")).server.test_client()
        other.set_cookie(Rules(token=TOKEN).cookie, TOKEN)
        other.set_cookie(Rules(token="another-token-of-this").cookie, TOKEN)
        assert other.get("/").status_code == 403


def _an_app() -> Dash:
    app = Dash("a", add_log_handler=False)
    app.layout = html.Div()

    @app.callback(Output("out", "children"), Input("in", "value"), State({"type": "t", "name": ALL}, "value"))
    def one(value: Any, others: Any) -> Any:
        return [value, others]

    @app.callback(Output("a", "x"), Output("b", "y"), Input({"type": "t", "name": "n"}, "value"))
    def two(value: Any) -> Any:
        return value, value

    return app


ONE = {
    "output": "out.children",
    "outputs": {"id": "out", "property": "children"},
    "inputs": [{"id": "in", "property": "value", "value": 1}],
    "state": [[{"id": {"type": "t", "name": "p"}, "property": "value", "value": 2}]],
    "changedPropIds": ["in.value"],
}
TWO = {
    "output": "..a.x...b.y..",
    "outputs": [{"id": "a", "property": "x"}, {"id": "b", "property": "y"}],
    "inputs": [{"id": {"type": "t", "name": "n"}, "property": "value"}],
}


@pytest.mark.parametrize("body", [ONE, TWO, {**ONE, "state": [[]]}])
def test_the_form_that_pages_give_is_well_formed(body: dict[str, Any]) -> None:
    assert malformed(body, _an_app().callback_map) == ""


@pytest.mark.parametrize(
    "body",
    [
        None, [], "x", {}, {"output": 3}, {"output": ["out.children"]}, {"output": "other.children"},
        {**ONE, "inputs": []}, {**ONE, "inputs": {}}, {**ONE, "inputs": [3]}, {**ONE, "inputs": [{"id": "other"}]},
        {**ONE, "inputs": [{"id": "in", "property": "other"}]}, {**ONE, "inputs": ONE["inputs"] * 2},
        {**ONE, "state": []}, {**ONE, "state": [{"id": "in", "property": "value"}]}, {**ONE, "state": [[3]]},
        {**ONE, "state": [[{"id": {"type": "other", "name": "p"}, "property": "value"}]]},
        {**ONE, "changedPropIds": 3}, {**ONE, "changedPropIds": [3]},
        {**ONE, "outputs": []}, {**ONE, "outputs": None}, {**ONE, "outputs": {"id": 3, "property": "x"}},
        {**TWO, "outputs": TWO["outputs"][:1]}, {**TWO, "outputs": [3, 4]}, {**TWO, "outputs": [[3], [4]]},
        {**TWO, "inputs": [{"id": {"type": "t", "name": "m"}, "property": "value"}]},
        {**TWO, "inputs": [{"id": {"type": "t"}, "property": "value"}]},
    ],
)  # fmt: skip
def test_other_forms_are_malformed(body: object) -> None:
    assert malformed(body, _an_app().callback_map) != ""


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
LOOK = {
    "output": "..version.data...count.data...news.children..",
    "outputs": [
        {"id": "version", "property": "data"},
        {"id": "count", "property": "data"},
        {"id": "news", "property": "children"},
    ],
    "inputs": [{"id": "look", "property": "n_intervals", "value": 1}],
    "state": [
        {"id": "place", "property": "data", "value": ["/study/fake-study/front", ""]},
        {"id": "version", "property": "data", "value": "1"},
        {"id": "count", "property": "data", "value": 47},
    ],
    "changedPropIds": ["look.n_intervals"],
}
KEYS = ("output", "outputs", "inputs", "state", "changedPropIds")


def test_a_request_of_the_frames_own_page_is_answered(client: FlaskClient) -> None:
    answer = client.post(CALLBACKS, json=LOOK, headers=OWN)
    assert answer.status_code == 200
    assert answer.json["response"]["news"] == {"children": "1 new trial, 48 in all"}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_request_is_answered_with_its_fault(client: FlaskClient, data: st.DataObject) -> None:
    """One part of a request that the frame's own page would make is another value."""
    body: dict[str, Any] = json.loads(json.dumps(LOOK))
    key = data.draw(st.sampled_from(KEYS))
    body[key] = data.draw(JSON)
    answer = client.post(CALLBACKS, data=json.dumps(body), content_type="application/json", headers=OWN)
    assert answer.status_code in (200, 204, 400)
    assert "Traceback" not in answer.text
    assert client.get("/_dash-layout").status_code == 200


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_what_is_no_json_is_refused(client: FlaskClient, body: bytes) -> None:
    for kind in ("application/json", "text/plain"):
        answer = client.post(CALLBACKS, data=body, content_type=kind, headers=OWN)
        assert answer.status_code == 400
