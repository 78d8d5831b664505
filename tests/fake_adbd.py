"""FAKE: the daemon of an Android device, for the real `adb` program to talk to. Its files and programs are FakeAdb's.

The protocol is that of Android's packages/modules/adb (protocol.txt, SYNC.TXT, shell_protocol.h); it lets all in.
"""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from contextlib import suppress
from pathlib import Path
from queue import Queue

MAPPED = ("/data/local/tmp", "/sys/devices", "/proc/meminfo")
MOST = 64 * 1024
STDOUT, STDERR, EXIT = 1, 2, 3


class FakeAdbd:
    """Listens on a free port of this machine until `unplug` or `close`.

    Args:
        home: the folder of a FakeAdb; its `root` and `bin` are this device's.
        features: as the daemon tells them; without `shell_v2` it is one before Android 7.
    """

    def __init__(self, home: Path, features: str = "shell_v2") -> None:
        self._home, self._features = home, features
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.unplug_at = ""
        """A text: the device goes away when a line with it is to run."""
        self.full = False
        """No room for a file that is pushed."""
        self._connections: list[_Connection] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def close(self) -> None:
        self._listener.close()
        # Wakes up the thread that waits for a connection.
        self.unplug()
        self._thread.join()

    def unplug(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for connection in self._connections:
            connection.close()

    def mapped(self, text: str) -> str:
        for path in MAPPED:
            text = text.replace(path, f"{self._home / 'root'}{path}")
        return text

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(_Connection(self, peer, self._features))

    def run(self, line: str, together: bool) -> subprocess.CompletedProcess[bytes] | None:
        """What a line does; None where the device went away. `together` puts standard error into the output."""
        if self.unplug_at and self.unplug_at in line:
            self.unplug()
            return None
        environment = {**os.environ, "PATH": f"{self._home / 'bin'}:{os.environ['PATH']}"}
        error = subprocess.STDOUT if together else subprocess.PIPE
        command = ["sh", "-c", self.mapped(line)]
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=error)


class _Connection:
    def __init__(self, daemon: FakeAdbd, peer: socket.socket, features: str) -> None:
        self._daemon, self._peer = daemon, peer
        self._banner = (
            f"device::ro.product.name=fake;ro.product.model=Fake 9;ro.product.device=fake;features={features}"
        )
        self._lock = threading.Lock()
        self._streams: dict[int, _Stream] = {}
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            self._peer.shutdown(socket.SHUT_RDWR)
        self._peer.close()

    def send(self, command: bytes, first: int, second: int, data: bytes = b"") -> None:
        (number,) = struct.unpack("<I", command)
        header = struct.pack("<6I", number, first, second, len(data), sum(data) & 0xFFFFFFFF, number ^ 0xFFFFFFFF)
        try:
            with self._lock:
                self._peer.sendall(header + data)
        except OSError:
            self.close()

    def _serve(self) -> None:
        try:
            while True:
                number, first, second, size, _, _ = struct.unpack("<6I", self._read(24))
                self._take(struct.pack("<I", number), first, second, self._read(size))
        except (EOFError, OSError):
            self.close()

    def _take(self, command: bytes, first: int, second: int, data: bytes) -> None:
        if command == b"CNXN":
            self.send(b"CNXN", 0x01000000, MOST, self._banner.encode())
        elif command == b"OPEN":
            stream = _Stream(self, len(self._streams) + 1, first)
            self._streams[stream.own] = stream
            self.send(b"OKAY", stream.own, first)
            service = data.rstrip(b"\0").decode()
            threading.Thread(target=self._answer, args=(service, stream), daemon=True).start()
        elif command == b"WRTE":
            self._streams[second].read.put(data)
            self.send(b"OKAY", second, first)
        elif command == b"OKAY" and second in self._streams:
            self._streams[second].free.set()

    def _answer(self, service: str, stream: _Stream) -> None:
        kind, _, rest = service.partition(":")
        if kind.startswith("shell"):
            apart = kind.startswith("shell,v2")
            ran = self._daemon.run(rest, together=not apart)
            if ran is None:
                return
            if apart:
                for which, content in ((STDOUT, ran.stdout), (STDERR, ran.stderr)):
                    if content:
                        stream.write(struct.pack("<BI", which, len(content)) + content)
                stream.write(struct.pack("<BIB", EXIT, 1, abs(ran.returncode)))
            else:
                # A terminal there ends lines with both.
                stream.write(ran.stdout.replace(b"\n", b"\r\n"))
        elif kind == "sync":
            _sync(stream, self._daemon)
        self.send(b"CLSE", stream.own, stream.theirs)

    def _read(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            part = self._peer.recv(size - len(content))
            if not part:
                raise EOFError
            content += part
        return content


class _Stream:
    def __init__(self, connection: _Connection, own: int, theirs: int) -> None:
        self.own, self.theirs = own, theirs
        self.read: Queue[bytes] = Queue()
        self.free = threading.Event()
        self._connection = connection
        self._rest = b""

    def write(self, data: bytes) -> None:
        for start in range(0, len(data), MOST):
            self.free.clear()
            self._connection.send(b"WRTE", self.own, self.theirs, data[start : start + MOST])
            self.free.wait(20)

    def take(self, size: int) -> bytes:
        while len(self._rest) < size:
            self._rest += self.read.get(timeout=20)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _sync(stream: _Stream, daemon: FakeAdbd) -> None:
    while True:
        verb, size = struct.unpack("<4sI", stream.take(8))
        if verb == b"QUIT":
            return
        if verb in (b"STAT", b"LIST"):
            place = Path(daemon.mapped(stream.take(size).decode()))
            found = place.stat() if place.exists() else None
            stream.write(b"STAT" + struct.pack("<3I", *((found.st_mode, found.st_size, 0) if found else (0, 0, 0))))
        elif verb == b"SEND":
            place = Path(daemon.mapped(stream.take(size).decode().rpartition(",")[0]))
            content = b""
            while True:
                part, length = struct.unpack("<4sI", stream.take(8))
                if part == b"DONE":
                    break
                content += stream.take(length)
            if daemon.full:
                said = b"write failed: No space left on device"
                stream.write(b"FAIL" + struct.pack("<I", len(said)) + said)
                continue
            place.write_bytes(content)
            stream.write(b"OKAY" + struct.pack("<I", 0))
