"""The dashboard's server: addresses that cannot be bound are told, and it ends with nothing left open."""

from __future__ import annotations

import http.client
import threading

import pytest
from flask import Flask

from autoshrink.dashboard.app.listening import Server
from autoshrink.errors import ConfigError


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("192.0.2.7", "--host: '192.0.2.7' cannot be listened on"),
        ("no-such-host.invalid", "--host: 'no-such-host.invalid' is no address of this machine"),
        ("a" * 70, "is no address of this machine"),
        ("", "--host: '' is no address of this machine"),
    ],
)
def test_an_address_that_is_not_of_this_machine_is_told(host: str, words: str) -> None:
    with pytest.raises(ConfigError) as found:
        Server(Flask("a"), host, 0)
    assert words in found.value.problems[0]


def test_a_port_that_is_taken_is_told_with_a_way_out() -> None:
    first = Server(Flask("a"), "127.0.0.1", 0)
    try:
        with pytest.raises(ConfigError, match=f"--port: {first.port} is taken, perhaps by another dashboard"):
            Server(Flask("a"), "127.0.0.1", first.port)
    finally:
        first.close()


def test_it_stops_while_connections_are_open_and_answers_wait() -> None:
    """What is left open would be a ResourceWarning, which fails the test."""
    application, asked = Flask("a"), threading.Event()

    @application.get("/")
    def answer() -> str:
        asked.set()
        return "x" * 5_000_000

    server = Server(application, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    connection.request("GET", "/")
    assert asked.wait(30)
    server.stop()
    thread.join(30)
    assert not thread.is_alive()
    connection.close()


def test_what_is_no_http_is_refused_and_the_next_is_served() -> None:
    application = Flask("a")
    server = Server(application, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        for bad in (b"\x00\xff\r\n\r\n", b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n", b"A" * 300_000 + b"\r\n\r\n"):
            raw = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            raw.connect()
            raw.sock.sendall(bad)
            assert raw.sock.recv(64).split()[1][:1] == b"4"
            raw.close()
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        connection.request("GET", "/")
        assert connection.getresponse().status == 404
        connection.close()
    finally:
        server.stop()
        thread.join(30)
