"""The page's server: frames have known bytes, only listed files are served, and a page that goes away is noticed."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from autoshrink.backends.browser_server import Lost, PageServer
from autoshrink.backends.page_frames import pack, unpack


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PageServer]:
    (tmp_path / "page.js").write_text("// here")
    (tmp_path / "secret.js").write_text("not listed")
    running = PageServer({"page.js": tmp_path / "page.js"})
    yield running
    running.close()


class FakePage:
    """The page's half of the exchange, with one connection as a browser keeps it."""

    def __init__(self, server: PageServer) -> None:
        self.path = urlsplit(server.url("exchange"))
        self.connection = http.client.HTTPConnection(self.path.netloc, timeout=10)

    def send(self, answer: bytes) -> None:
        self.connection.request("POST", self.path.path, answer)

    def task(self) -> bytes:
        return self.connection.getresponse().read()


def status(server: PageServer, path: str, method: str = "GET") -> int:
    connection = http.client.HTTPConnection(urlsplit(server.url("")).netloc, timeout=10)
    connection.request(method, path, b"" if method == "POST" else None)
    code = connection.getresponse().status
    connection.close()
    return code


def test_a_frame_has_known_bytes() -> None:
    frame = pack({"task": "run"}, [b"abc", b""])
    text = b'{"task": "run", "buffers": [3, 0]}'
    assert frame == (36).to_bytes(4, "little") + text + b"  " + b"abc" + bytes(5)
    header, buffers = unpack(frame)
    assert header == {"task": "run"}
    assert [bytes(buffer) for buffer in buffers] == [b"abc", b""]


@pytest.mark.parametrize("frame", [b"", b"\4\0\0\0nope", pack({"a": 1}, [b"12345678"])[:-1], pack({})[:-1] + b"["])
def test_what_is_no_frame_is_refused(frame: bytes) -> None:
    with pytest.raises(ValueError):
        unpack(frame)


def test_a_listed_file_is_served_isolated(server: PageServer) -> None:
    url = urlsplit(server.url("page.js"))
    assert url.hostname == "127.0.0.1"
    connection = http.client.HTTPConnection(url.netloc, timeout=10)
    connection.request("GET", url.path + "?threads=2")
    response = connection.getresponse()
    assert (response.status, response.read()) == (200, b"// here")
    assert response.headers["Content-Type"].startswith("text/javascript")
    assert response.headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert response.headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    connection.close()


def test_nothing_else_is_served(server: PageServer) -> None:
    root = urlsplit(server.url("")).path
    token = root.strip("/")
    assert len(token) >= 20
    others = ["secret.js", "../secret.js", "%2e%2e/secret.js", "./page.js", "page.js/", "", "exchange"]
    assert [status(server, root + name) for name in others] == [404] * len(others)
    assert [status(server, path) for path in ("/page.js", "/", "//page.js", f"/{token}x/page.js")] == [404] * 4
    assert [status(server, path, "POST") for path in ("/exchange", root + "page.js")] == [404] * 2


def test_every_server_has_a_path_of_its_own(server: PageServer, tmp_path: Path) -> None:
    other = PageServer({})
    assert urlsplit(other.url("")).path != urlsplit(server.url("")).path
    other.close()


def test_answers_and_tasks_take_turns(server: PageServer) -> None:
    page = FakePage(server)
    page.send(pack({"hello": 1}))
    assert server.answer(10)[0] == {"hello": 1}
    server.give({"task": "double"}, [b"\2"])
    task, buffers = unpack(page.task())
    assert (task, bytes(buffers[0])) == ({"task": "double"}, b"\2")
    page.send(pack({}, [b"\4"]))
    assert bytes(server.answer(10)[1][0]) == b"\4"
    assert server.lost == ""
    server.give({"task": "end"})
    page.task()
    page.connection.close()
    with pytest.raises(Lost, match="went away"):
        server.answer(10)
    assert "went away" in server.lost


def test_no_answer_in_time_is_said(server: PageServer) -> None:
    with pytest.raises(Lost, match=r"did not answer within 0\.01 s"):
        server.answer(0.01)


def test_the_first_reason_is_the_one_that_is_told(server: PageServer) -> None:
    server.lose("the page crashed")
    server.lose("the page went away")
    with pytest.raises(Lost, match="crashed"):
        server.answer(10)
    assert server.lost == "the page crashed"
