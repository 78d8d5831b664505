"""The command `dashboard` as a process: it binds, says where, serves, and ends; its mistakes are messages."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from autoshrink.dashboard.app.guard import CALLBACKS
from tests.end_to_end.conftest import Workplace
from tests.fake_study import make_fake_study

HEAVY = ("torch", "optuna", "onnx", "onnxruntime", "openvino", "ai_edge_litert", "executorch", "pandas", "sqlalchemy")
TOKEN = "a-token-of-many-characters"


@contextmanager
def dashboard(
    place: Workplace, *arguments: object, extra: Mapping[str, str] | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the address that it printed."""
    environment = place.environment({"COLUMNS": "400", **(extra or {})})
    process = subprocess.Popen(
        place.command("dashboard", *arguments),
        cwd=place.path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.stderr.read()
        yield process, found[0]
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def ended(process: subprocess.Popen[str], sent: signal.Signals) -> tuple[int, str]:
    process.send_signal(sent)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_where_it_says_and_ends_quietly(place: Workplace, sent: signal.Signals) -> None:
    make_fake_study(place.path / "results" / "fake-study")
    with dashboard(place, "results", "--port", "0") as (process, url):
        status, text = get(url)
        assert status == 200 and "<title>autoshrink</title>" in text
        assert get(url, Host="elsewhere.example")[0] == 403
        code, said = ended(process, sent)
    assert code == 0
    assert said.split() == ["Ctrl-C", "ends", "it"], said


def test_a_taken_port_is_told_with_a_way_out(place: Workplace) -> None:
    (place.path / "results").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = place.refused(2, "dashboard", "results", "--port", port)
        assert f"--port: {port} is taken, perhaps by another dashboard; name another, or 0 for any that is free" in said
        assert "http://" not in said, "an address is told once it is bound"
    assert "--host: '192.0.2.7' cannot be listened on" in place.refused(
        2, "dashboard", "results", "--host", "192.0.2.7"
    )
    assert "no-such-host.invalid" in place.refused(2, "dashboard", "results", "--host", "no-such-host.invalid")


def test_a_folder_that_is_not_there_is_told(place: Workplace) -> None:
    assert "nothing: there is no such folder" in place.refused(2, "dashboard", "nothing")


def test_a_study_opens_its_folder_at_itself(place: Workplace) -> None:
    make_fake_study(place.path / "results" / "fake-study")
    make_fake_study(place.path / "results" / "other")
    with dashboard(place, "results/fake-study", "--port", "0") as (_, url):
        assert url.endswith("/study/fake-study/front")
        assert get(url)[0] == 200
        assert "other: Front - autoshrink" in _callback(url, "/study/other/front")


def _callback(url: str, path: str) -> str:
    """What the frame shows of a page."""
    root = "/".join(url.split("/")[:3])
    with urllib.request.urlopen(f"{root}/_dash-dependencies", timeout=60) as answer:
        known = json.load(answer)
    frame = next(each for each in known if "content.children" in each["output"])
    ids = [named.split("@")[0].rpartition(".") for named in frame["output"].strip(".").split("...")]
    body = {
        "output": frame["output"],
        "outputs": [{"id": name, "property": key} for name, _, key in ids],
        "inputs": [
            {"id": "url", "property": "pathname", "value": path},
            {"id": "url", "property": "search", "value": ""},
            {"id": "scheme", "property": "data", "value": "light"},
            {"id": "narrow", "property": "data", "value": False},
        ],
        "state": [{"id": "place", "property": "data", "value": None}],
        "changedPropIds": ["url.pathname"],
    }
    request = urllib.request.Request(
        root + CALLBACKS,
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Sec-Fetch-Site": "same-origin"},
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return str(answer.read().decode())


def test_an_address_that_others_reach_wants_a_token(place: Workplace) -> None:
    (place.path / "results").mkdir()
    with dashboard(place, "results", "--host", "0.0.0.0", "--port", "0") as (process, url):
        bare, _, token = url.partition("?token=")
        assert len(token) >= 32
        assert get(bare)[0] == 403
        assert get(bare + "?token=" + token[:-1])[0] == 403
        assert get(url)[0] == 200
        _, said = ended(process, signal.SIGINT)
        assert "travel unencrypted" in said
    with dashboard(place, "results", "--host", "0.0.0.0", "--port", "0", "--token-env", "T", extra={"T": TOKEN}) as (
        process,
        url,
    ):
        assert TOKEN not in url
        assert get(url)[0] == 403
        assert get(f"{url}?token={TOKEN}")[0] == 200
        _, said = ended(process, signal.SIGINT)
        assert TOKEN not in said and "$T" in said
    said = place.refused(2, "dashboard", "results", "--token-env", "T", extra={"T": "short"})
    assert "--token-env: $T has 5 characters" in said


@pytest.mark.skipif(not socket.has_ipv6 or not Path("/proc/net/if_inet6").exists(), reason="no IPv6 here")
def test_ipv6(place: Workplace) -> None:
    (place.path / "results").mkdir()
    with dashboard(place, "results", "--host", "::1", "--port", "0") as (_, url):
        assert url.startswith("http://[::1]:")
        assert get(url)[0] == 200


def test_it_opens_the_browser_when_asked(place: Workplace) -> None:
    """The browser is a FAKE one that writes the address into a file; it is found as any by $BROWSER."""
    (place.path / "results").mkdir()
    fake, said = place.path / "FakeBrowser", place.path / "opened"
    fake.write_text(f'#!/bin/sh\nprintf %s "$1" > "{said}"\n')
    fake.chmod(0o755)
    with dashboard(place, "results", "--port", "0", "--open", extra={"BROWSER": str(fake)}) as (process, url):
        assert get(url)[0] == 200
        assert said.read_text() == url
        assert ended(process, signal.SIGINT)[0] == 0


def test_without_its_packages_the_way_to_install_them_is_told(place: Workplace) -> None:
    (place.path / "results").mkdir()
    code = "import sys; sys.modules['dash'] = None; from autoshrink.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "dashboard", "results"],
        cwd=place.path, env=place.environment(), capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2
    assert "pip install 'autoshrink[dashboard]'" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_neither_torch_nor_a_runtime_is_imported_to_show_a_study(tmp_path: Path) -> None:
    make_fake_study(tmp_path / "results" / "fake-study")
    code = f"""
import sys
from pathlib import Path
from autoshrink.dashboard.app.page import Screen
from autoshrink.dashboard.app.pages import OWN, PAGES
from autoshrink.dashboard.app.place import Place
from autoshrink.dashboard.app.server import make_app
from autoshrink.dashboard.library import Library
library = Library(Path("results"))
app = make_app(library)
assert app.server.test_client().get("/").status_code == 200
for page in OWN:
    page.layout(Place(page.name), library, Screen("light", False))
for page in PAGES:
    page.layout(Place(page.name, "fake-study"), library, Screen("light", False))
print([name for name in {HEAVY} if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.stdout.strip() == "[]", done.stderr
