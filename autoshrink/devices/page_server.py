"""The server of a page for other devices: one link, one browser, listed files, and patience with nobody else."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http import HTTPStatus
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from autoshrink.backends.page_http import EXCHANGE, FRAME_TYPE, PageHandler, QuietServer
from autoshrink.devices.page_link import DISTURBANCES, PAGE_NAME, Link, Refused
from autoshrink.errors import ConfigError

INDEX = "phone.html"
STATE = "state"
STATES = ("hidden", "shown", "closing")
COOKIE = "page"
LOOPBACK = "127.0.0.1"
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 - what a profile may say
SOMEWHERE = ("192.0.2.1", 9)
"""An address for documentation (RFC 5737): the way there shows which of this machine's addresses its network sees."""
MOST_BYTES = 2**28
"""Of one answer: the outputs of one trip."""
MOST_CONNECTIONS = 64
STRANGER_S = 10.0
"""Seconds in which a connection must have named the link: whoever sends slowly, or nothing, does not stay."""
IDLE_S = 900.0
"""Seconds for which a connection of the page may be silent; it is while a model runs."""
USED = (
    "This link was opened in another browser already, and works for that one only.\n"
    "Close the page there; the terminal then shows a new link."
)
ENDED = "This link has ended. If the search goes on, its terminal shows a new one."


class DevicePageServer:
    """Serves `files` and the exchange of `link`.

    Args:
        address: `HOST:PORT`; an empty host is this machine only, port 0 any that is free.
        files: the last part of a URL -> the file.
        link: who may ask.
        tls: certificate and key, PEM; None serves plain HTTP.

    Raises:
        ConfigError: the address cannot be had, or the certificate not be used.
    """

    def __init__(self, address: str, files: Mapping[str, Path], link: Link, tls: tuple[Path, Path] | None) -> None:
        host, _, port = address.rpartition(":")
        self._host = host.strip("[]") or LOOPBACK
        self._scheme = "https" if tls else "http"
        context = _context(*tls) if tls else None
        try:
            self._server = _Server((self._host, int(port)), _handler(files, link, context is not None), context)
        except (OSError, OverflowError) as error:
            raise ConfigError(
                [f"device.page: {address} cannot be served: {error}; another search may hold the port"]
            ) from None
        # By itself it looks for the order to stop twice a second, and `close` would take that long.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def url(self, token: str) -> str:
        """The link to open."""
        host = network_address() if self._host in EVERYWHERE else self._host
        return f"{self._scheme}://{f'[{host}]' if ':' in host else host}:{self._server.server_address[1]}/{token}/"

    def close(self) -> None:
        """Ends the server. What its page was told before is still sent."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def network_address() -> str:
    """Of this machine, as its network sees it; its name where it has none. Sends nothing."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        # A datagram socket only looks up the way.
        probe.connect(SOMEWHERE)
        return str(probe.getsockname()[0])
    return socket.gethostname()


def _context(certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        # A key with a passphrase would be asked for on the terminal: it is refused instead.
        context.load_cert_chain(certificate, key, password="")
    except (OSError, ValueError) as error:
        raise ConfigError(
            [
                f"device.certificate: {certificate} and device.key: {key} cannot be used: {error}; "
                "they must be PEM files that belong together, the key without a passphrase"
            ]
        ) from None
    return context


class _Server(QuietServer):
    """Has room for some connections, and for those of strangers only for a while."""

    request_queue_size = 32

    def __init__(self, address: tuple[str, int], handler: type[PageHandler], context: ssl.SSLContext | None) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._context = context
        self._lock = threading.Lock()
        self._open: dict[socket.socket, float] = {}
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.settimeout(STRANGER_S)
        if self._context is not None:
            # Hands are shaken by the connection's own thread, when it reads.
            connection = self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            strangers = [each for each, deadline in self._open.items() if deadline < float("inf")]
            if len(self._open) >= MOST_CONNECTIONS:
                _hang_up(strangers[0] if strangers else connection)
            self._open[connection] = time.monotonic() + STRANGER_S
        return connection, address

    def welcome(self, connection: socket.socket) -> None:
        """It is the page's: it may stay."""
        connection.settimeout(IDLE_S)
        with self._lock:
            if connection in self._open:
                self._open[connection] = float("inf")

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Of the base class, every moment: hangs up on strangers whose time is over."""
        now = time.monotonic()
        with self._lock:
            for connection, deadline in self._open.items():
                if deadline < now:
                    _hang_up(connection)


def _hang_up(connection: socket.socket) -> None:
    # Its thread then reads the end, and does the rest.
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _handler(files: Mapping[str, Path], link: Link, is_safe: bool) -> type[PageHandler]:
    class Handler(PageHandler):
        def do_GET(self) -> None:  # noqa: N802 - the base class looks for it
            token, name = self.asked()
            if link.is_former(token):
                self.send_error(HTTPStatus.GONE, explain=ENDED)
            elif not link.is_known(token) or not (name in files or not name):
                self.send_error(HTTPStatus.NOT_FOUND)
            elif name:
                if self._is_admitted():
                    self.reply_file(files[name])
            elif "prefetch" in self.headers.get("Sec-Purpose", ""):
                # A browser that only looks ahead has not opened the link.
                self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
            else:
                self._open()

        def do_POST(self) -> None:  # noqa: N802 - the base class looks for it
            token, name = self.asked()
            if link.is_former(token):
                self.send_error(HTTPStatus.GONE, explain=ENDED)
            elif not link.is_known(token) or name not in (EXCHANGE, STATE):
                self.send_error(HTTPStatus.NOT_FOUND)
            elif self._is_admitted():
                (self._exchange if name == EXCHANGE else self._tell)()

        def _open(self) -> None:
            try:
                cookie = link.open(self._cookie())
            except Refused:
                self.send_error(HTTPStatus.FORBIDDEN, explain=USED)
                return
            path = f"/{link.token}/"
            secure = "; Secure" if is_safe else ""
            kept = f"{COOKIE}={cookie}; Path={path}; HttpOnly; SameSite=Strict{secure}"
            self.reply_file(files[INDEX], {"Set-Cookie": kept})

        def _exchange(self) -> None:
            asked = self._query()
            number, hidden = asked.get("answers", ""), asked.get("hidden", "")
            disturbed = [each for each in asked.get("disturbed", "").split(",") if each]
            answer = self.body(MOST_BYTES)
            if answer is None:
                return
            sound = len(number) < 10 and number.isascii() and number.isdigit() and hidden in ("0", "1")
            if not (sound and PAGE_NAME.fullmatch(asked.get("page", "")) and set(disturbed) <= set(DISTURBANCES)):
                self.send_error(HTTPStatus.BAD_REQUEST)
                return
            agent = self.headers.get("User-Agent", "")
            try:
                task = link.exchange(asked["page"], int(number), answer, hidden == "1", disturbed, agent)
            except ValueError:
                self.send_error(HTTPStatus.BAD_REQUEST)
                return
            self.reply(task, FRAME_TYPE)

        def _tell(self) -> None:
            asked = self._query()
            if self.body(0) is None:
                return
            if asked.get("is") not in STATES or not PAGE_NAME.fullmatch(asked.get("page", "")):
                self.send_error(HTTPStatus.BAD_REQUEST)
                return
            link.tell(asked["page"], asked["is"])
            self.reply(b"", FRAME_TYPE)

        def _is_admitted(self) -> bool:
            if not link.admits(self._cookie()):
                self.send_error(HTTPStatus.FORBIDDEN, explain=USED)
                return False
            assert isinstance(self.server, _Server)  # noqa: S101 - it makes this handler
            self.server.welcome(self.connection)
            return True

        def _cookie(self) -> str:
            try:
                found = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
            except CookieError:
                return ""
            return found.value if found else ""

        def _query(self) -> dict[str, str]:
            try:
                return {
                    key: values[-1] for key, values in parse_qs(self.path.partition("?")[2], max_num_fields=8).items()
                }
            except ValueError:
                return {}

    return Handler
