"""The ways to a device that is not this machine: a table of kind -> module and class.

A new one is its file and its line here.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from autoshrink.devices.base import Device, Facts
from autoshrink.target import RemoteDevice, Target

DEVICES = {
    "agent": ("autoshrink.devices.agent", "AgentDevice"),
    "ssh": ("autoshrink.devices.ssh", "SshDevice"),
    "page": ("autoshrink.devices.page", "PageDevice"),
    "adb": ("autoshrink.devices.adb", "AdbDevice"),
}


def open_device(spec: RemoteDevice, target: Target, say: Callable[[str], None]) -> Device:
    """The device of a profile, for jobs of `target`; `say` is told what a user must do, such as open a page.

    Raises:
        ConfigError: what the profile names is not there: a file, a variable, a program.
    """
    return _kind(spec)(spec, target, say)


def look_at(spec: RemoteDevice, target: Target) -> Facts:
    """What can be said of a device without a search; see `Device.look`. Never raises."""
    return _kind(spec).look(spec, target)


def _kind(spec: RemoteDevice) -> type[Device]:
    module, cls = DEVICES[spec.kind]
    kind: type[Device] = getattr(import_module(module), cls)
    return kind
