"""What stands before every request of the dashboard and is written on every answer.

A page of another site may not read the dashboard (a name that it binds anew to 127.0.0.1 is refused), may not make a
browser post to it, and may not frame it; on an address that others reach, a token is wanted. What is malformed is
answered with a code of 400 or above and one line.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from dash import Dash
from dash.exceptions import DashException
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from autoshrink.dashboard.app.page import LOOK, PLACE, URL
from autoshrink.dashboard.app.values import fits
from autoshrink.tokens import is_loopback

CALLBACKS = "/_dash-update-component"
LIBRARIES = "/_dash-component-suites/"
MOST_BODY = 8_000_000
"""Bytes of a request, at most: a table of 10,000 trials can be part of one."""
_POLICY = {
    "default-src": "'none'",
    # Plotly's WebGL, which draws thousands of points, compiles its drawing functions. No script within the page runs.
    "script-src": "'self' 'unsafe-eval'",
    # Plotly and the tables set styles from their scripts.
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self' data:",
    "connect-src": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
    "base-uri": "'none'",
}


@dataclass(frozen=True)
class Rules:
    """Who may ask.

    Attributes:
        host: the address that is listened on.
        token: that a browser has to bring once; empty is none.
    """

    host: str = "127.0.0.1"
    token: str = ""

    @property
    def cookie(self) -> str:
        """Name of the cookie: another dashboard on the same machine has another."""
        return f"autoshrink-{hashlib.sha256(self.token.encode()).hexdigest()[:8]}"

    def knows(self, host: str) -> bool:
        """Whether a request may name `host`, the header of that name.

        With a token the name tells nothing: the cookie belongs to the name that the token was brought to.
        """
        if self.token:
            return True
        name = _name(host)
        return is_loopback(name) or (name == self.host.lower() and not _is_any(name))

    def admits(self, given: str | None) -> bool:
        """Whether `given` is the token; the time that this takes tells nothing of it."""
        return not self.token or hmac.compare_digest((given or "").encode(errors="replace"), self.token.encode())


def guard(app: Dash, rules: Rules, why_not: Callable[[Iterable[Mapping[str, Any]]], str] = lambda _parts: "") -> None:
    """Puts the rules before every address of the application. Called when all callbacks are registered.

    Args:
        app: the application.
        rules: who may ask.
        why_not: (inputs and state of a callback's request) -> why it is refused although it is well formed.
    """
    server: Flask = app.server
    server.config["MAX_CONTENT_LENGTH"] = MOST_BODY
    server.config["MAX_FORM_MEMORY_SIZE"] = MOST_BODY
    policy = _policy(app.csp_hashes())

    @server.before_request
    def check() -> Response | None:
        if not rules.knows(request.host):
            return said(f"{request.host!r} is not an address of this dashboard; open it as it was printed.", 403)
        if rules.token:
            refused = _token(rules)
            if refused is not None:
                return refused
        if request.method == "POST" and not _is_own():
            return said("Only pages of this dashboard may ask for this.", 403)
        if request.path == CALLBACKS:
            body = request.get_json(silent=True)
            problem = malformed(body, app.callback_map) or why_not(_parts(body))
            if problem:
                return said(problem, 400)
        return None

    # It comes before whatever Dash does before a request.
    functions = server.before_request_funcs[None]
    functions.insert(0, functions.pop())

    @server.after_request
    def write(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = policy
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        if not request.path.startswith((LIBRARIES, "/assets/", "/style.css")):
            response.headers["Cache-Control"] = "no-store"
        return response

    @server.errorhandler(HTTPException)
    def refused(error: HTTPException) -> BaseResponse:
        answer = error.get_response(request.environ)
        if answer.status_code >= 400:
            answer.set_data(f"{error.code} {error.name}\n")
            answer.mimetype = "text/plain"
        return answer

    @server.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        if isinstance(error, DashException) and request.path.startswith(LIBRARIES):
            return said("404 Not Found", 404)
        server.logger.error("%s %s", request.method, request.path, exc_info=error)
        return said("The dashboard has a fault; what it is stands in its terminal.", 500)


def said(text: str, status: int) -> Response:
    """An answer of one line."""
    return Response(text + "\n", status, mimetype="text/plain")


def malformed(body: object, callbacks: Mapping[str, Mapping[str, Any]]) -> str:
    """What is wrong with the body of a callback's request; empty when it has the form that the page gives it.

    Args:
        body: as read from JSON.
        callbacks: output -> what Dash knows of the callback.
    """
    if not isinstance(body, dict):
        return "A callback is asked for by an object of JSON."
    known = callbacks.get(body["output"]) if isinstance(body.get("output"), str) else None
    if known is None or "callback" not in known:
        return "There is no callback of this output."
    for key, expected in (("inputs", known["inputs"]), ("state", known["state"])):
        given = body.get(key, [])
        if not isinstance(given, list) or len(given) != len(expected) or not all(map(_is_value, given, expected)):
            return f"{key}: are not those of the callback."
        for one in _flat(given):
            if not fits(one["id"], one["property"], one.get("value")):
                return f"{key}: the {one['property']} of {_spoken(one['id'])} is not of its kind."
    if _is_nowhere(body):
        return "place: no page is open."
    changed = body.get("changedPropIds", [])
    if not isinstance(changed, list) or not all(isinstance(each, str) for each in changed):
        return "changedPropIds: is no list of names."
    if not known.get("no_output") and not _are_outputs(body.get("outputs"), body["output"]):
        return "outputs: are not those of the callback."
    return ""


def _parts(body: Any) -> list[Mapping[str, Any]]:
    """Inputs and state of a body that is not malformed."""
    return [*_flat(body["inputs"]), *_flat(body.get("state", []))]


def _flat(given: Sequence[Any]) -> Iterator[Mapping[str, Any]]:
    for one in given:
        yield from one if isinstance(one, list) else (one,)


def _spoken(component: object) -> str:
    return (
        component if isinstance(component, str) else str(component.get("name")) if isinstance(component, dict) else ""
    )


def _is_nowhere(body: Mapping[str, Any]) -> bool:
    """Whether a part of a page is asked for where there is no page; what the frame itself asks for is none."""
    places = [one for one in _flat(body.get("state", [])) if one["id"] == PLACE]
    of_frame = any(one["id"] in (LOOK, URL) for one in _flat(body["inputs"]))
    return bool(places) and not of_frame and any(one.get("value") is None for one in places)


def _is_value(given: object, expected: Mapping[str, Any]) -> bool:
    """One value, or the list of those that a pattern found."""
    wanted = expected["id"]
    if not wanted.startswith("{"):
        return isinstance(given, dict) and given.get("id") == wanted and given.get("property") == expected["property"]
    pattern = json.loads(wanted)
    if ["ALL"] in pattern.values() or ["ALLSMALLER"] in pattern.values():
        return isinstance(given, list) and all(_is_one(each, pattern, expected["property"]) for each in given)
    return _is_one(given, pattern, expected["property"])


def _is_one(given: object, pattern: Mapping[str, Any], property_: str) -> bool:
    if not isinstance(given, dict) or not isinstance(given.get("id"), dict) or given.get("property") != property_:
        return False
    found = given["id"]
    return found.keys() == pattern.keys() and all(isinstance(v, list) or found[k] == v for k, v in pattern.items())


def _are_outputs(given: object, output: str) -> bool:
    """Whether `given` has as many parts as `output` names, each a component and its property."""
    if not output.startswith(".."):
        return _is_output(given, output)
    named = output[2:-2].split("...")
    return isinstance(given, list) and len(given) == len(named) and all(map(_is_output, given, named))


def _is_output(given: object, named: str) -> bool:
    """One component, or the list of those that a pattern found."""
    if '["ALL"]' in named:
        return isinstance(given, list) and all(_is_output(each, "") for each in given)
    return (
        isinstance(given, dict) and isinstance(given.get("id"), (str, dict)) and isinstance(given.get("property"), str)
    )


def _token(rules: Rules) -> Response | None:
    """Lets pass who has the cookie, gives it to who brings the token, refuses others."""
    brought = request.args.get("token")
    if brought is not None and request.method == "GET" and rules.admits(brought):
        response = Response(_onward(), mimetype="text/html")
        response.set_cookie(rules.cookie, rules.token, httponly=True, samesite="Strict", secure=request.is_secure)
        return response
    if rules.admits(request.cookies.get(rules.cookie)):
        return None
    return said(
        "A token is wanted: open the address that `autoshrink dashboard` printed, with `?token=` at its end.", 403
    )


def _onward() -> str:
    """A page that goes on to the same address without the token.

    Not a redirect: after one from a mail's link the browser would keep the cookie, which is only for requests that
    the dashboard's own pages make.
    """
    left = [(name, value) for name, values in request.args.lists() if name != "token" for value in values]
    where = "/" + quote(request.path.lstrip("/")) + (f"?{urlencode(left)}" if left else "")
    shown = escape(where)
    return (
        f'<!DOCTYPE html><html lang="en"><meta http-equiv="refresh" content="0;url={shown}"><title>autoshrink</title>'
        f'<a href="{shown}">Open the dashboard</a></html>'
    )


def _is_own() -> bool:
    """Whether a page of this dashboard asks, by what a browser says of it and a page cannot change."""
    origin = request.headers.get("Origin")
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None and site != "same-origin":
        return False
    return urlsplit(origin).netloc == request.host if origin is not None else site is not None


def _name(host: str) -> str:
    """A host without its port, in small letters; IPv6 without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_any(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_unspecified
    except ValueError:
        return False


def _policy(hashes: Sequence[str]) -> str:
    rules = {**_POLICY, "script-src": " ".join((_POLICY["script-src"], *hashes))}
    return "; ".join(f"{name} {sources}" for name, sources in rules.items())
