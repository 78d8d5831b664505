"""A hardware profile as `targets/*.yaml` holds it. Standard library only: the timed child imports this file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from autoshrink.types import Scalar

# Read by pydantic where a profile is loaded: a key that is not a field is a problem, and so is a text for a number.
_NO_OTHER_KEYS = {"extra": "forbid", "strict": True}

PrecisionName = Literal["fp32", "fp16", "bf16", "int8_dynamic", "int8_static", "int8_weights", "int4_weights"]


@dataclass(frozen=True)
class Precision:
    """How a target runs one precision.

    Attributes:
        kernels: `native` when the arithmetic itself is done in this precision, `storage` when only the file is smaller
            and the arithmetic stays float32.
        operators: ONNX operator types that are quantized (integers only).
        activations: integer grid of the activations (static int8 only).
        per_channel: one scale per output channel of a weight rather than one per tensor (int8 only).
        weight_bits: of the integers of a weight in static and dynamic int8 and of the most that `qat` trains, where the
            backend compiles ONNX: 7 leaves out the ends, -64 to 64, so that two products with 8-bit activations fit
            into 16 bits. None is 8, or 7 where the runtime reports `INT8_SATURATES` on its device.
        requires: a capability the runtime must report on this machine, such as `BF16`; None when it needs none.
        note: what a user should know about it.
    """

    __pydantic_config__ = _NO_OTHER_KEYS

    kernels: Literal["native", "storage"] = "native"
    operators: tuple[str, ...] = ()
    activations: Literal["uint8", "int8"] = "uint8"
    per_channel: bool = True
    weight_bits: Literal[7, 8] | None = None
    requires: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Limits:
    """What a trial must keep to be feasible; None is no limit.

    Attributes:
        latency_ms: of one call with the target's batch, milliseconds.
        size_bytes: of the files that ship.
        drop: loss of the metric against the baseline on the same target, in the metric's own unit (0.01 is one point
            of accuracy).
        throughput: least rows per second, batch over latency.
        figures: name of a figure that the target's backend finds in compiling (see `Figure`), such as `arena` -> the
            most it may be.
    """

    __pydantic_config__ = _NO_OTHER_KEYS

    latency_ms: float | None = None
    size_bytes: int | None = None
    drop: float | None = None
    throughput: float | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("latency_ms", "size_bytes", "throughput"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"{name} is {value}, which no artifact can keep; it must be over 0")
        if self.drop is not None and self.drop < 0:
            raise ValueError(f"drop is {self.drop}; it must be 0 or more (0.01 is one point of accuracy)")


@dataclass(frozen=True)
class Measuring:
    """The measuring protocol of a target.

    Attributes:
        interval: stop when the 95 % interval of the latency ratio is narrower than +- this share.
        rounds_min: interleaved rounds before that may happen.
        rounds_max: rounds after which it is over; flagged unstable when the interval is still wider.
        turn_ms: least time for which an artifact runs in its turn of a round, milliseconds.
        warm_up_calls: calls before the running median is looked at.
        time_limit_s: seconds after which no further round begins.
    """

    __pydantic_config__ = _NO_OTHER_KEYS

    interval: float = 0.02
    rounds_min: int = 8
    rounds_max: int = 40
    turn_ms: float = 12.0
    warm_up_calls: int = 30
    time_limit_s: float = 20.0

    def __post_init__(self) -> None:
        if not 0 < self.interval < 1:
            raise ValueError(f"interval is {self.interval}; it must be between 0 and 1 (0.02 is +- 2 %)")
        if not 3 <= self.rounds_min <= self.rounds_max:
            raise ValueError(
                f"rounds_min is {self.rounds_min} and rounds_max {self.rounds_max}; "
                "it must be 3 <= rounds_min <= rounds_max"
            )
        for name in ("turn_ms", "warm_up_calls", "time_limit_s"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be over 0")


@dataclass(frozen=True)
class ChildLimits:
    """What the child process of a trial may take: wall seconds in all, and address space in MiB."""

    __pydantic_config__ = _NO_OTHER_KEYS

    time_limit_s: float = 300.0
    memory_limit_mb: int = 8192

    def __post_init__(self) -> None:
        if self.time_limit_s < 1:
            raise ValueError(f"time_limit_s is {self.time_limit_s}; starting a child alone takes a second: 1 or more")
        if self.memory_limit_mb < 512:
            raise ValueError(f"memory_limit_mb is {self.memory_limit_mb}; a runtime alone needs 512 or more")


@dataclass(frozen=True)
class RemoteDevice:
    """A device that is not this machine, and how it is reached; exactly one of `agent`, `ssh`, `page`, `adb` is set.

    Attributes:
        agent: URL of an `autoshrink agent`, such as `http://raspberrypi:8765`; with `token_env`, the name of the
            environment variable that holds its token, and `ca`, a file of certificates to trust for `https`.
        ssh: `user@host` or a name of the user's ssh configuration, where an agent is started for the time of the
            search; with `python`, the interpreter there.
        page: `HOST:PORT` of this machine, on which a page is served for any browser that opens it. An empty host is
            this machine only, port 0 any that is free; with `certificate` and `key`, PEM files, over https, which a
            page needs for more than one thread.
        adb: serial number of an Android device, or `any` for the only one; with `benchmark_model`, the file of
            LiteRT's benchmark program for it.
        patience_s: seconds for which a device that went away is waited for.
    """

    __pydantic_config__ = _NO_OTHER_KEYS

    agent: str = ""
    ssh: str = ""
    page: str = ""
    adb: str = ""
    token_env: str = ""
    ca: str = ""
    python: str = ""
    benchmark_model: str = ""
    certificate: str = ""
    key: str = ""
    patience_s: float = 600.0

    def __post_init__(self) -> None:
        kinds = [kind for kind in KEYS_OF_DEVICES if getattr(self, kind)]
        if len(kinds) != 1:
            found = " and ".join(kinds) or "none of them"
            raise ValueError(f"has {found}; it must have one of {', '.join(KEYS_OF_DEVICES)}")
        allowed = KEYS_OF_DEVICES[kinds[0]]
        others = {key for keys in KEYS_OF_DEVICES.values() for key in keys} - set(allowed)
        wrong = sorted(key for key in others if getattr(self, key))
        if wrong:
            raise ValueError(f"{', '.join(wrong)} says nothing of {kinds[0]}; it takes {', '.join(allowed) or 'none'}")
        if self.agent and not self.agent.startswith(("http://", "https://")):
            raise ValueError(f"agent is {self.agent!r}; it must be a URL such as http://raspberrypi:8765")
        if self.agent and not self.token_env:
            raise ValueError("token_env is missing; name the environment variable that holds the agent's token")
        if self.ssh.startswith("-"):
            raise ValueError(f"ssh is {self.ssh!r}; it must be user@host, or a name of the ssh configuration")
        if self.page and not self.page.rpartition(":")[2].isdigit():
            raise ValueError(f"page is {self.page!r}; it must be HOST:PORT, such as 0.0.0.0:8766")
        if bool(self.certificate) != bool(self.key):
            missing = "key" if self.certificate else "certificate"
            raise ValueError(
                f"{missing} is missing; a page over https needs the certificate and its key, two PEM files"
            )
        if self.adb and not self.benchmark_model:
            raise ValueError("benchmark_model is missing; name the file of LiteRT's benchmark program for the device")
        if self.patience_s <= 0:
            raise ValueError(f"patience_s is {self.patience_s}; it must be over 0")

    @property
    def kind(self) -> str:
        """`agent`, `ssh`, `page` or `adb`."""
        return next(kind for kind in KEYS_OF_DEVICES if getattr(self, kind))

    @property
    def address(self) -> str:
        """Where it is reached: the value of its kind."""
        return str(getattr(self, self.kind))

    @property
    def name(self) -> str:
        """As it is shown and recorded; without anything secret."""
        return f"{self.kind} {self.address}"


KEYS_OF_DEVICES = {
    "agent": ("token_env", "ca"),
    "ssh": ("python",),
    "page": ("certificate", "key"),
    "adb": ("benchmark_model",),
}
"""Kind of a remote device -> the other keys that it takes, beside `patience_s`."""


@dataclass(frozen=True)
class Target:
    """A hardware profile.

    Attributes:
        name: as the command line names it.
        backend: key of the table in `autoshrink/backends`.
        summary: one line for `autoshrink targets`.
        device: what is locked while it measures; two targets on one device never measure at once.
        devices: the devices that measure in this machine's place; in a profile they stand under `device` too, as one
            mapping or a list of them. Empty is this machine.
        threads: threads of the runtime for one call.
        batch: rows of one call.
        precisions: precision name -> how it runs here; only these are searched.
        unsupported: precision name -> why it is not searched here.
        avoid: technique, or `technique.parameter=value` -> why it gains nothing here; searched only when forced.
        channel_multiple: channel counts are rounded to multiples of this when channels are pruned.
        options: what only this target's backend knows, such as the input's layout; see `Backend.options`.
        objective: what is shown first of the same measurement: `latency` of one call, or `throughput` in rows a second.
        pin: numbers of the processors that the child keeps to; empty is all of them.
        python: interpreter of the child, where the runtime has an environment of its own; empty is this one's.
    """

    __pydantic_config__ = _NO_OTHER_KEYS

    name: str
    backend: str
    precisions: Mapping[PrecisionName, Precision]
    summary: str = ""
    device: str = "cpu"
    devices: tuple[RemoteDevice, ...] = ()
    threads: int = 1
    batch: int = 1
    unsupported: Mapping[PrecisionName, str] = field(default_factory=dict)
    avoid: Mapping[str, str] = field(default_factory=dict)
    channel_multiple: int = 8
    options: Mapping[str, Scalar] = field(default_factory=dict)
    objective: Literal["latency", "throughput"] = "latency"
    pin: tuple[int, ...] = ()
    python: str = ""
    limits: Limits = field(default_factory=Limits)
    measuring: Measuring = field(default_factory=Measuring)
    child: ChildLimits = field(default_factory=ChildLimits)

    def __post_init__(self) -> None:
        for name in ("threads", "batch", "channel_multiple"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if any(cpu < 0 for cpu in self.pin) or len(set(self.pin)) < len(self.pin):
            raise ValueError(f"pin is {list(self.pin)}; it must list processors by their numbers, each once")
        if len(set(self.devices)) < len(self.devices):
            raise ValueError("device names one device twice; each can do one measurement at a time")
        if self.devices and self.python:
            raise ValueError("python is of children on this machine; with a remote device, it belongs under device.ssh")
        if "fp32" not in self.precisions:
            raise ValueError("precisions has no fp32; the baseline is measured in it, so it must be there")
        both = sorted(set(self.precisions) & set(self.unsupported))
        if both:
            raise ValueError(f"{', '.join(both)} stands under precisions and under unsupported; it must be one of them")
