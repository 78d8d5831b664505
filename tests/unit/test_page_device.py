"""The link, its server and the device behind it, against a page that is no browser: who gets in, and what counts."""

from __future__ import annotations

import http.client
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from autoshrink.backends.browser_runtime import INSTALL
from autoshrink.backends.page_frames import Frame, pack, unpack
from autoshrink.backends.page_http import HEADERS
from autoshrink.cache import CACHE_VARIABLE
from autoshrink.config import load_target
from autoshrink.devices import look_at, open_device, page_link, page_server
from autoshrink.devices.base import DeviceGone
from autoshrink.devices.page_link import Link
from autoshrink.devices.page_server import INDEX, DevicePageServer, network_address
from autoshrink.errors import ConfigError, TargetUnavailable
from autoshrink.isolate.probe import availability
from autoshrink.target import RemoteDevice

PIXEL = (
    "Mozilla/5.0 (Linux; Android 10; K) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Mobile Safari/537.36"
)
NAME, OTHER_NAME = "0123456789abcdef", "fedcba9876543210"
HELLO = pack({"version": "1"})
TASK = {"task": "double"}


@pytest.fixture
def link() -> Link:
    return Link({"target": "a-target", "threads": 1})


@pytest.fixture
def served(link: Link, tmp_path: Path) -> Iterator[DevicePageServer]:
    (tmp_path / INDEX).write_text("<p>hello")
    (tmp_path / "phone.js").write_text("// here")
    (tmp_path / "secret.js").write_text("not listed")
    server = DevicePageServer(":0", {name: tmp_path / name for name in (INDEX, "phone.js")}, link, None)
    yield server
    link.end("the test is over")
    server.close()


class FakePage:
    """What a page asks, one request a connection."""

    def __init__(self, server: DevicePageServer, link: Link, name: str = NAME) -> None:
        self.link = urlsplit(server.url(link.token))
        self.name = name
        self.cookie = ""

    def ask(self, method: str, name: str, body: bytes | None = None, **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(self.link.netloc, timeout=10)
        cookie = {"Cookie": self.cookie} if self.cookie else {}
        connection.request(method, self.link.path + name, body, {"User-Agent": PIXEL, **cookie, **headers})
        response = connection.getresponse()
        response.content = response.read()  # type: ignore[attr-defined]
        connection.close()
        return response

    def open(self) -> int:
        response = self.ask("GET", "")
        self.cookie = response.headers.get("Set-Cookie", "").partition(";")[0]
        return response.status

    def exchange(self, number: int, answer: bytes, hidden: int = 0, disturbed: str = "") -> Frame:
        query = f"page={self.name}&answers={number}&hidden={hidden}&disturbed={disturbed}"
        response = self.ask("POST", f"exchange?{query}", answer)
        assert response.status == 200
        return unpack(response.content)  # type: ignore[attr-defined]

    def tell(self, what: str) -> int:
        return self.ask("POST", f"state?page={self.name}&is={what}", b"").status


@pytest.fixture
def page(served: DevicePageServer, link: Link) -> FakePage:
    """One that has opened the link and said hello."""
    opened = FakePage(served, link)
    assert opened.open() == 200
    assert opened.exchange(0, HELLO)[0]["task"] == "wait"
    return opened


@pytest.fixture
def asked(link: Link) -> Iterator[Callable[..., Future[Frame | None]]]:
    """Asks the page for `TASK` in another thread."""
    with ThreadPoolExecutor() as pool:
        yield lambda is_timed=False, limit_s=10.0: pool.submit(link.ask, link.visit(), TASK, [b"\2"], limit_s, is_timed)
        link.end("the test is over")


def text_of(response: http.client.HTTPResponse) -> str:
    return response.content.decode()  # type: ignore[attr-defined, no-any-return]


def wait_until(condition: Callable[[], object]) -> None:
    for _ in range(400):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("did not come true within 4 s")


class TestWhoGetsIn:
    def test_the_first_browser_gets_a_cookie_and_the_second_nothing(self, served: DevicePageServer, link: Link) -> None:
        first, second = FakePage(served, link), FakePage(served, link)
        assert first.ask("GET", "phone.js").status == 403
        given = first.ask("GET", "").headers["Set-Cookie"]
        assert f"Path={first.link.path}; HttpOnly; SameSite=Strict" in given
        response = second.ask("GET", "")
        assert (response.status, response.headers["Set-Cookie"]) == (403, None)
        assert "was opened in another browser" in text_of(response) and "terminal" in text_of(response)
        second.cookie = "page=guess"
        assert [second.ask(*asked).status for asked in (("GET", "phone.js"), ("POST", "exchange", HELLO))] == [403, 403]
        first.cookie = given.partition(";")[0]
        assert [first.ask("GET", name).status for name in ("", "phone.js", "")] == [200] * 3

    def test_only_listed_files_and_only_with_the_token(self, page: FakePage) -> None:
        names = ["secret.js", "../secret.js", "%2e%2e/secret.js", "./phone.js", "phone.js/", "exchange", "state"]
        assert [page.ask("GET", name).status for name in names] == [404] * len(names)
        assert page.ask("POST", "phone.js", b"").status == 404
        for path in ("/", "/x/", f"/x{page.link.path}", f"{page.link.path[:-2]}/", "/%00/"):
            page.link = page.link._replace(path=path)
            assert page.ask("GET", "").status == 404

    def test_a_browser_that_looks_ahead_has_not_opened_it(self, served: DevicePageServer, link: Link) -> None:
        page = FakePage(served, link)
        assert page.ask("GET", "", **{"Sec-Purpose": "prefetch;prerender"}).status == 503
        assert page.open() == 200

    def test_every_reply_has_the_headers(self, page: FakePage) -> None:
        replies = [
            page.ask(*asked)
            for asked in (
                ("GET", ""),
                ("GET", "phone.js"),
                ("GET", "x"),
                ("POST", "exchange", HELLO),
                ("PUT", "", b"x"),
            )
        ]
        assert [reply.status for reply in replies] == [200, 200, 404, 400, 501]
        for reply in replies:
            assert {name: reply.headers[name] for name in HEADERS} == HEADERS
            assert "Python" not in reply.headers["Server"]
        policy = dict(part.split(" ", 1) for part in HEADERS["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
        assert policy["script-src"] == "'self' 'wasm-unsafe-eval'"

    def test_a_new_link_ends_the_old_one(self, page: FakePage, served: DevicePageServer, link: Link) -> None:
        link.renew()
        for response in (page.ask("GET", ""), page.ask("POST", "exchange", HELLO)):
            assert response.status == 410
            assert "has ended" in text_of(response)
        assert FakePage(served, link).open() == 200

    def test_hundreds_of_random_bodies_change_nothing(self, page: FakePage, asked: Any) -> None:
        answer = asked()
        rng = random.Random(1)
        hello = f"exchange?page={OTHER_NAME}&answers=0&hidden=0&disturbed="
        now = f"exchange?page={NAME}&answers=1&hidden=0&disturbed="
        odd = ["", "page=1", "answers=-1", "answers=9999999999", "hidden=2", "disturbed=x", "page=../../etc/passwd"]
        sent = [(rng.choice((hello, now)), rng.randbytes(rng.randrange(1, 200))) for _ in range(200)]
        sent += [(f"exchange?page={NAME}&answers=1&hidden=0&{query}", b"x") for query in odd]
        sent += [(now, b"\xff\xff\xff\x7f"), (now, pack({})[:-1]), (hello, b"\4\0\0\0[[[["), (now, b"\2\0\0\0{}")]
        sent += [(f"state?page={NAME}&is={what}", b"") for what in ("", "x", "closed")]
        assert {page.ask("POST", *each).status for each in sent} == {400}
        assert unpack_of(page.exchange(0, b"")) == (1, b"\2")
        page_is_waiting = threading.Thread(target=page.exchange, args=(1, pack({}, [b"\4"])), daemon=True)
        page_is_waiting.start()
        found = answer.result(10)
        assert bytes(found[1][0]) == b"\4"

    def test_bodies_have_a_limit_and_a_length(self, page: FakePage) -> None:
        for length, status in (("9" * 30, 413), (str(2**28 + 1), 413), ("-1", 411), ("1_0", 411), ("x", 411)):
            assert page.ask("POST", "exchange", b"", **{"Content-Length": length}).status == status
        assert page.ask("POST", f"state?page={NAME}&is=closing", b"x").status == 413

    def test_slow_and_silent_senders_do_not_stop_the_page(
        self, page: FakePage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        host, port = page.link.hostname, page.link.port
        assert host and port
        strangers = [
            socket.create_connection((host, port), timeout=10) for _ in range(page_server.MOST_CONNECTIONS + 8)
        ]
        for index, stranger in enumerate(strangers):
            if index % 2:
                try:
                    stranger.sendall(b"\x16\3\1\0GET / HTTP")
                except OSError:
                    continue
        assert page.ask("GET", "phone.js").status == 200
        assert page.tell("shown") == 200
        for stranger in strangers:
            stranger.close()

    def test_a_stranger_that_sends_byte_by_byte_is_hung_up_on(
        self, link: Link, served: DevicePageServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(page_server, "STRANGER_S", 0.2)
        url = urlsplit(served.url(link.token))
        stranger = socket.create_connection((str(url.hostname), url.port or 0), timeout=10)
        with stranger, pytest.raises(OSError):
            for _ in range(200):
                stranger.sendall(b"G")
                time.sleep(0.05)

    def test_a_port_that_is_taken_is_said(self, served: DevicePageServer, link: Link) -> None:
        address = urlsplit(served.url("")).netloc
        with pytest.raises(ConfigError, match=f"device.page: {address} cannot be served"):
            DevicePageServer(address, {}, link, None)

    def test_loopback_unless_told_otherwise(self, served: DevicePageServer, link: Link) -> None:
        assert urlsplit(served.url("")).hostname == "127.0.0.1"
        wide = DevicePageServer("0.0.0.0:0", {}, link, None)
        assert urlsplit(wide.url("")).hostname == network_address() != "0.0.0.0"
        wide.close()


def unpack_of(frame: Frame) -> tuple[int, bytes]:
    return frame[0]["number"], bytes(frame[1][0])


class TestWhatCounts:
    def test_an_answer_that_is_handed_in_twice_counts_once(self, page: FakePage, link: Link, asked: Any) -> None:
        first = asked()
        assert unpack_of(page.exchange(0, b"")) == (1, b"\2")
        with ThreadPoolExecutor() as pool:
            pool.submit(page.exchange, 1, pack({"first": 1}))
            assert first.result(10)[0] == {"first": 1}
            second = asked()
            # The reply to the first was lost: the page hands in the same again, and gets the task after it.
            retried = pool.submit(page.exchange, 1, pack({"first": 1}), 0, "network")
            assert unpack_of(retried.result(10)) == (2, b"\2")
            assert not second.done()
            pool.submit(page.exchange, 2, pack({"second": 2}))
            assert second.result(10)[0] == {"second": 2}
            link.end("over")

    def test_a_task_whose_reply_was_lost_is_given_again(self, page: FakePage, asked: Any) -> None:
        asked()
        assert [unpack_of(page.exchange(0, b"")) for _ in range(3)] == [(1, b"\2")] * 3

    @pytest.mark.parametrize("what", page_link.DISTURBANCES)
    def test_a_disturbed_measurement_does_not_count(self, page: FakePage, asked: Any, link: Link, what: str) -> None:
        answer = asked(is_timed=True)
        page.exchange(0, b"")
        threading.Thread(target=page.exchange, args=(1, pack({}), 0, what), daemon=True).start()
        with pytest.raises(DeviceGone, match=f"{page_link.DISTURBANCES[what]} while it was measured") as gone:
            answer.result(10)
        assert gone.value.disturbed

    def test_outputs_count_whatever_happens_meanwhile(self, page: FakePage, asked: Any, link: Link) -> None:
        answer = asked()
        page.exchange(0, b"")
        threading.Thread(target=page.exchange, args=(1, pack({"is": 1}), 1, "hidden,network"), daemon=True).start()
        assert answer.result(10)[0] == {"is": 1}
        with pytest.raises(DeviceGone, match="in the background"):
            link.visit()

    def test_a_late_answer_is_to_a_question_that_is_over(self, page: FakePage, link: Link, asked: Any) -> None:
        assert link.ask(link.visit(), TASK, [], 0.05, False) is None
        second = asked()
        assert unpack_of(page.exchange(1, pack({"late": 1}))) == (2, b"\2")
        assert not second.done()

    def test_hidden_shown_and_closed_are_noticed_at_once(self, page: FakePage, link: Link) -> None:
        assert link.visit().agent == PIXEL
        assert page.tell("hidden") == 200
        with pytest.raises(DeviceGone, match="in the background"):
            link.visit()
        page.tell("shown")
        assert link.visit().disturbed == {"hidden"}
        page.tell("closing")
        # As browsers do after it.
        page.tell("hidden")
        with pytest.raises(DeviceGone, match="was closed"):
            link.visit()
        assert not link.is_used_up()

    def test_a_reload_is_the_same_browser_with_another_page(self, page: FakePage, link: Link, asked: Any) -> None:
        answer = asked()
        page.tell("closing")
        with pytest.raises(DeviceGone, match="was closed") as closed:
            answer.result(10)
        assert closed.value.disturbed
        page.name = OTHER_NAME
        assert page.ask("GET", "").status == 200
        assert page.exchange(0, HELLO)[0] == {
            "target": "a-target",
            "threads": 1,
            "done": 0,
            "task": "wait",
            "refused": "",
        }
        assert link.visit().page == OTHER_NAME
        page.name = NAME
        assert page.exchange(0, b"")[0]["task"] == "replaced"

    def test_a_page_that_crashed_is_told_from_one_that_was_closed(self, page: FakePage, link: Link, asked: Any) -> None:
        answer = asked()
        page.name = OTHER_NAME
        page.exchange(0, HELLO)
        with pytest.raises(DeviceGone, match="reloaded") as crashed:
            answer.result(10)
        assert not crashed.value.disturbed

    def test_silence_is_noticed(self, page: FakePage, link: Link, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(page_link, "SILENT_S", 0.0)
        with pytest.raises(DeviceGone, match="silent"):
            link.visit()
        assert not link.is_used_up()
        monkeypatch.setattr(page_link, "FORGOTTEN_S", 0.0)
        assert link.is_used_up()

    def test_a_page_that_waits_is_told_the_end(self, page: FakePage, link: Link) -> None:
        with ThreadPoolExecutor() as pool:
            waiting = pool.submit(page.exchange, 0, b"")
            link.end("the search has ended")
            assert waiting.result(10)[0]["task"] == "end"
        with pytest.raises(DeviceGone, match="ended"):
            link.visit()


class TestProfile:
    def test_the_shipped_one_lets_the_network_in_and_wants_no_chromium(self) -> None:
        target = load_target("phone-browser")
        assert target.devices == (RemoteDevice(page="0.0.0.0:8766"),)
        assert target.options["browser"] == "none"
        looked = look_at(target.devices[0], replace(target, backend="onnxruntime"))
        assert looked.state == "unavailable"

    def test_without_the_runtime_it_says_how_to_get_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, link: Link
    ) -> None:
        monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
        target = load_target("phone-browser")
        found = look_at(target.devices[0], target)
        assert (found.state, found.fix) == ("unavailable", INSTALL)
        assert (availability(target).state, availability(target).fix) == ("unavailable", INSTALL)
        with pytest.raises(TargetUnavailable, match="is not installed"):
            open_device(target.devices[0], target, print)
        with pytest.raises(ConfigError, match="backend is onnxruntime"):
            open_device(target.devices[0], replace(target, backend="onnxruntime"), print)

    def test_a_certificate_comes_with_its_key_and_for_a_page_only(self) -> None:
        with pytest.raises(ValueError, match="key is missing"):
            RemoteDevice(page=":0", certificate="a.pem")
        with pytest.raises(ValueError, match="certificate, key says nothing of ssh"):
            RemoteDevice(ssh="pi", certificate="a.pem", key="b.pem")

    def test_a_certificate_that_is_none_is_said(self, link: Link, tmp_path: Path) -> None:
        (tmp_path / "a.pem").write_text("nothing")
        with pytest.raises(ConfigError, match=r"device\.certificate: .* cannot be used"):
            DevicePageServer(":0", {}, link, (tmp_path / "a.pem", tmp_path / "none.pem"))
