"""The `adb` program: what is attached and in which state, a line for a device's shell, a file pushed to it.

Every call has a time limit. Arguments are lists on this machine; on the device adb makes them one line of its shell, so
what goes there is made of names that this package makes, never of a user's text.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autoshrink.devices.base import DeviceGone
from autoshrink.errors import TargetUnavailable

ANY = "any"
READY = "device"
CALL_S = 20.0
"""Seconds for a call that has nothing to wait for, the start of adb's own server among them."""
PUSH_BYTES_S = 2**20
"""A push may be this slow: USB 2 with a long cable, or a wireless connection."""
ENDED = re.compile(r"autoshrink-ended:(\d+)\s*\Z")
"""The last that a line on the device prints, with its exit status.

adb does not pass that on before Android 7; and of a connection that breaks off it says nothing, and ends with 0.
"""
LISTED = re.compile(r"(\(no serial number\)|\S+)\s+(no permissions|\S+)")
INSTALL = "apt-get install adb, or Android's platform-tools"
CLOSED = "the device was closed while it worked"

STATES = {
    "unauthorized": (
        "does not let this computer in",
        "unlock its screen and allow USB debugging for this computer; if it does not ask, revoke the USB debugging "
        "authorizations in its developer options and plug it in again",
    ),
    "authorizing": ("is about to ask whether to let this computer in", "unlock its screen and answer"),
    "connecting": ("is about to connect", "wait a few seconds and try again"),
    "offline": (
        "is attached and does not answer",
        "unplug it and plug it in again; if that does not help: adb kill-server",
    ),
    "no permissions": (
        "may not be opened by this user",
        "apt-get install android-sdk-platform-tools-common, which brings the udev rules; sudo usermod -aG plugdev "
        "$USER; log in again, plug it in again, adb kill-server",
    ),
    "recovery": ("is in recovery mode", "start it as usual: adb reboot"),
    "sideload": ("waits for an update in recovery mode", "start it as usual: adb reboot"),
    "rescue": ("is in rescue mode", "start it as usual: adb reboot"),
    "bootloader": ("is in its bootloader", "start it as usual: fastboot reboot"),
}
"""State of `adb devices` -> what it means of a device, and what to do."""


class Unready(TargetUnavailable):
    """No device can be worked with now: `why`, and the `fix`."""

    def __init__(self, why: str, fix: str) -> None:
        self.why = why
        self.fix = fix
        super().__init__(f"{why}; {fix}")


@dataclass(frozen=True)
class Attached:
    """A line of `adb devices`."""

    serial: str
    state: str


@dataclass(frozen=True)
class Ran:
    """What a line on the device printed, standard error among it, and its exit status."""

    text: str
    code: int


class Adb:
    """The program on this machine's path. One call at a time; `stop` may come from another thread.

    Raises:
        Unready: there is no such program.
    """

    def __init__(self) -> None:
        program = shutil.which("adb")
        if program is None:
            raise Unready("adb is not on this machine's PATH", INSTALL)
        self._program = program
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        self._stopped = False

    def devices(self) -> list[Attached]:
        """What is attached, whatever its state.

        Raises:
            Unready: adb's server cannot be asked.
        """
        try:
            code, text, said = self._call(["devices", "-l"], CALL_S)
        except TimeoutError:
            raise Unready(
                f"adb devices gave no answer in {CALL_S:g} s", "adb kill-server, then adb devices says why"
            ) from None
        if code:
            raise Unready(f"adb's server cannot be asked: {_last_line(said or text)}", "adb start-server says why")
        lines = text.partition("List of devices attached")[2].splitlines()
        return [Attached(match[1], match[2]) for line in lines if (match := LISTED.match(line))]

    def pick(self, wanted: str) -> str:
        """The serial number of the device to work with, which is ready.

        Args:
            wanted: its serial number, or `any` for the only one.

        Raises:
            Unready: it is not there, not ready, or not the only one.
        """
        attached = self.devices()
        listed = ", ".join(f"{each.serial} ({each.state})" for each in attached)
        if not attached:
            raise Unready(
                "no device is attached",
                "attach one by USB, turn on USB debugging in its developer options; adb devices must list it",
            )
        if wanted == ANY and len(attached) > 1:
            raise Unready(
                f"{len(attached)} devices are attached: {listed}",
                "set device.adb in the profile to the serial number of one of them, in place of any",
            )
        found = [each for each in attached if wanted in (ANY, each.serial)]
        if not found:
            raise Unready(
                f"no device with the serial number {wanted} is attached; there is {listed}",
                "attach it, or set device.adb in the profile to one of those",
            )
        if found[0].state != READY:
            raise Unready(*_explain(found[0]))
        return found[0].serial

    def shell(self, serial: str, line: str, seconds: float) -> Ran:
        """Has the device's shell run a line.

        Raises:
            DeviceGone: the connection broke off before it ended.
            TimeoutError: it did not end within `seconds`; it may still run there.
        """
        _, text, said = self._call(["-s", serial, "shell", f"{line}; echo autoshrink-ended:$?"], seconds)
        text = text.replace("\r\n", "\n")
        ended = ENDED.search(text)
        if ended is None:
            raise self._gone(serial, said or text)
        return Ran(text[: ended.start()], int(ended[1]))

    def ask(self, serial: str, line: str) -> Ran:
        """As `shell`, for a line that ends at once.

        Raises:
            DeviceGone: it did not.
        """
        try:
            return self.shell(serial, line, CALL_S)
        except TimeoutError:
            raise DeviceGone(f"device {serial} gave no answer in {CALL_S:g} s") from None

    def push(self, serial: str, file: Path, place: str) -> str:
        """Copies a file to a place on the device.

        Returns:
            why the device did not take it, such as no room; empty when it did.

        Raises:
            DeviceGone: the connection broke off.
        """
        seconds = CALL_S + file.stat().st_size / PUSH_BYTES_S
        try:
            code, text, said = self._call(["-s", serial, "push", str(file.absolute()), place], seconds)
        except TimeoutError:
            raise DeviceGone(f"pushing {file.name} to device {serial} took longer than {seconds:.0f} s") from None
        if code and serial not in {each.serial for each in self._ready_ones()}:
            raise self._gone(serial, said or text)
        # What went wrong stands on standard output, before how much was pushed.
        wrong = [line for line in f"{said}\n{text}".splitlines() if "error" in line]
        return _last_line("\n".join(wrong) or said or text) if code else ""

    def stop(self) -> None:
        """Ends the call that runs, and lets no other begin but `remove`; they raise `DeviceGone`."""
        with self._lock:
            self._stopped = True
            if self._running is not None:
                _kill(self._running)

    def remove(self, serial: str, folder: str) -> None:
        """Deletes a folder on the device, if it is there still; also after `stop`."""
        with suppress(TimeoutError, Unready):
            self._call(["-s", serial, "shell", f"rm -rf {folder}"], CALL_S, stopped_too=True)

    def _ready_ones(self) -> list[Attached]:
        try:
            return [each for each in self.devices() if each.state == READY]
        except Unready:
            return []

    def _gone(self, serial: str, said: str) -> DeviceGone:
        how = f" (adb: {_last_line(said)})" if said.strip() else ""
        try:
            found = [each for each in self.devices() if each.serial == serial]
        except Unready as error:
            return DeviceGone(str(error))
        if not found:
            return DeviceGone(f"device {serial} is not attached any more{how}")
        if found[0].state == READY:
            return DeviceGone(f"the connection to device {serial} broke off{how}")
        return DeviceGone("; ".join(_explain(found[0])))

    def _call(self, arguments: Sequence[str], seconds: float, stopped_too: bool = False) -> tuple[int, str, str]:
        """Exit status, standard output and standard error of the program."""
        with self._lock:
            if self._stopped and not stopped_too:
                raise DeviceGone(CLOSED)
            try:
                process = subprocess.Popen(
                    [self._program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    # A group of its own can be killed as a whole, and an interrupt from the keyboard is left to us.
                    start_new_session=True,
                )
            except OSError as error:
                raise Unready(f"{self._program} does not start: {error.strerror}", INSTALL) from error
            if not stopped_too:
                self._running = process
        with process:
            try:
                out, err = process.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                raise TimeoutError from None
            finally:
                with self._lock:
                    if not stopped_too:
                        self._running = None
                    _kill(process)
        if self._stopped and not stopped_too:
            raise DeviceGone(CLOSED)
        return process.returncode, out.decode(errors="replace"), err.decode(errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    # Unless it was waited for, the number is still its own, even when it has ended.
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def _explain(device: Attached) -> tuple[str, str]:
    why, fix = STATES.get(
        device.state, (f"is in the state {device.state!r}", "start it as usual; adb devices lists it")
    )
    return f"device {device.serial} {why} ({device.state})", fix


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("* daemon")]
    return lines[-1] if lines else "it says nothing"
