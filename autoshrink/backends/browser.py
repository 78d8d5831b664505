"""ONNX Runtime in a browser: onnxruntime-web's WebAssembly on the processor, in headless Chromium or another's page.

The artifact is the ONNX file itself: the page compiles it when it loads it, as it does at a visitor's.
"""

from __future__ import annotations

import json
import shutil
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt

from autoshrink.backends import browser_runtime
from autoshrink.backends.base import (
    NO_OPTIONS,
    Array,
    Arrays,
    Availability,
    Backend,
    Compiled,
    Option,
    Session,
    Source,
)
from autoshrink.backends.browser_driver import Page, close_pages, page_for
from autoshrink.backends.browser_runtime import BROWSER_FIX, INSTALL, NO_BROWSER, PACKAGE, VERSION, find_browser
from autoshrink.backends.onnx_kernels import audit_of, kernels_of
from autoshrink.backends.onnxruntime import FUSIONS, OnnxRuntime, fused
from autoshrink.backends.page_frames import Buffer, Frame, PageError
from autoshrink.backends.ports import Port, in_order
from autoshrink.compressed_size import gzip_bytes
from autoshrink.errors import StageError
from autoshrink.measure.timing import RemoteCalls, beside_ms
from autoshrink.target import Target
from autoshrink.types import Audit, Figure, Profile, Recipe, Settings

ARTIFACT = "model.onnx"
DTYPES: Mapping[str, npt.DTypeLike] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
    "uint32": np.uint32,
    "int64": np.int64,
    "uint64": np.uint64,
    "bool": np.bool_,
}
"""Types as the runtime names them, little-endian in memory as WebAssembly is."""
TRIP_CALLS = 256
TRIP_BYTES = 8 * 2**20
"""What `run_batches` sends to the page at once at most: the inputs of so many calls, of so many bytes."""
TRIP_S = 1.0
"""Seconds below which the next trip may hold more calls."""
MESSAGE = "ERROR_MESSAGE: "
NO_LOCAL = "none"
"""Value of `options.browser` where no page of this machine is wanted."""


class ModelPage(Protocol):
    """A page that runs models, in whatever browser."""

    @property
    def browser(self) -> str:
        """Name and version."""

    def ask(self, stage: str, task: Mapping[str, Any], buffers: Sequence[Buffer] = (), extra_s: float = 0.0) -> Frame:
        """What the page answers.

        Args:
            stage: of a trial.
            task: as `browser_page/models.js` knows them.
            buffers: of the task.
            extra_s: seconds that the task is to take at least.

        Raises:
            AutoshrinkError: the page is gone.
            PageError: the page could not do it.
        """

    def release(self, number: int) -> None:
        """Has the page forget a session or a call, with its next task."""


class Browser(Backend):
    """onnxruntime-web with its WebAssembly provider."""

    name = "browser"
    packages = ("playwright",)
    extra = "browser"
    installs = f"{PACKAGE} {VERSION}"
    reserves_address_space = True
    options: ClassVar[Mapping[str, Option]] = {
        "browser": Option(
            None,
            "",
            "the Chromium to use: a path or a command; the first that is found when empty; `none` for a page elsewhere",
        ),
        **FUSIONS,
    }

    def machine(self) -> Availability:
        """Whether the pinned runtime and a Chromium are there."""
        if not browser_runtime.is_installed():
            return Availability("unavailable", f"{PACKAGE} {VERSION} is not installed", INSTALL)
        if find_browser() is None:
            return Availability("unavailable", NO_BROWSER, BROWSER_FIX)
        return Availability("ready")

    def to_compile(self, options: Settings = NO_OPTIONS) -> Availability:
        """As `available`; where no page of this machine is wanted, without Chromium and what drives it."""
        if options.get("browser") != NO_LOCAL:
            return self.available()
        if not browser_runtime.is_installed():
            return Availability("unavailable", f"{PACKAGE} {VERSION} is not installed", INSTALL)
        return Availability("ready")

    def install(self) -> None:
        """Gets the pinned runtime into the user's cache; see `browser_runtime.install`."""
        browser_runtime.install()

    def capabilities(self) -> frozenset[str]:
        """Nothing: a page is not told what the processor has. That one starts at all is seen here.

        WebAssembly's kernels add 8-bit products without overflow, also on a processor whose own would.

        Raises:
            StageError: it does not.
        """
        _page(NO_OPTIONS, 1, "probe")
        return frozenset()

    def refuses(self, recipe: Recipe, target: Target) -> str:
        """The Chromium of the target's options is not there."""
        del recipe
        wanted = str(target.options.get("browser", ""))
        if wanted not in ("", NO_LOCAL) and find_browser(wanted) is None:
            return f"options.browser is {wanted!r}, and no such program is here"
        return ""

    def compile(self, source: Source, folder: Path) -> Compiled:
        """Copies the file to `model.onnx` and has a page load it once; tells what a visitor would download.

        Where no page of this machine is wanted, native ONNX Runtime loads it, which reads graphs with the same code.

        Raises:
            StageError: it cannot be loaded; with the runtime's own reason.
        """
        if source.options.get("browser") == NO_LOCAL:
            OnnxRuntime().compile(source, folder)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.model, folder / ARTIFACT)
            page = _page(source.options, source.threads, "compile")
            _Model(page, folder / ARTIFACT, fused(source.precision, source.options), "compile")
        raw, compressed = browser_runtime.download_sizes()
        sizes = {
            "download": raw + (folder / ARTIFACT).stat().st_size,
            "download_gzip": compressed + gzip_bytes([folder / ARTIFACT]),
        }
        figures = {name: Figure(size, "bytes", f"{PACKAGE} {VERSION} and the model") for name, size in sizes.items()}
        return Compiled((ARTIFACT,), figures=figures)

    def load(
        self, folder: Path, files: tuple[str, ...], precision: str, threads: int, options: Settings = NO_OPTIONS
    ) -> BrowserSession:
        """The artifact in the page with `threads` threads, which those of one process share.

        Raises:
            StageError: the page cannot load it, with the runtime's own reason; there is no browser.
        """
        return BrowserSession(_page(options, threads, "load"), folder / files[0], fused(precision, options))

    def close(self) -> None:
        """Ends the browsers of this process; sessions that are left do not run any more."""
        close_pages()

    def runtime(self) -> str:
        """The version of onnxruntime-web; that of the browser is in the audit."""
        return f"{PACKAGE} {VERSION}"


class BrowserSession(Session):
    """A model that a page has loaded."""

    def __init__(self, page: ModelPage, path: Path, is_fused: bool) -> None:
        self._page = page
        self._path = path
        self._is_fused = is_fused
        self._model = _Model(page, path, is_fused, "load")
        self._calls_of_trip = 1

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """One call; see `Session.run`.

        Raises:
            ValueError: a name, shape or dtype is not the model's.
            StageError: the call fails, or the page is gone.
        """
        return self._run([in_order(inputs, self._model.ports)])[0]

    def run_batches(self, batches: Iterable[Arrays]) -> Iterator[dict[str, Array]]:
        """`run` of each, many of them in one trip to the page: a trip takes longer than the call of a small model.

        Raises:
            ValueError: as `run`.
            StageError: as `run`.
        """
        trip: list[list[Array]] = []
        for inputs in batches:
            arrays = in_order(inputs, self._model.ports)
            if trip and not self._has_room(trip, arrays):
                yield from self._run(trip)
                trip = []
            trip.append(arrays)
        if trip:
            yield from self._run(trip)

    def timed(self, inputs: Arrays) -> BrowserCalls:
        """Calls on `inputs`, which go to the page now; they are made and timed there."""
        return BrowserCalls(self._page, self._model, in_order(inputs, self._model.ports))

    def audit(self) -> Audit:
        """The kernels of one call on zeros (free dimensions are 1), as a second, profiled session ran them.

        A kernel that the runtime fused or moved to another layout may have the name of its output for its own.

        Raises:
            StageError: the call fails.
        """
        found = audit_of(self._events("audit", [port.zeros() for port in self._model.ports], 1))
        return Audit(found.layers, found.conversions, found.kernels, (f"seen in {self._page.browser}",))

    def profile(self, inputs: Arrays, calls: int) -> Profile:
        """The kernels of a second, profiled session in the page; see `Session.profile`.

        Raises:
            StageError: a call fails, or the page is gone.
        """
        events = self._events("profile", in_order(inputs, self._model.ports), calls)
        source = f"{PACKAGE} {VERSION}, its profiler, in {self._page.browser}"
        return Profile(kernels_of(events, calls), beside_ms(self.timed(inputs), calls), calls, source)

    def _events(self, stage: str, arrays: Sequence[Array], calls: int) -> list[Mapping[str, Any]]:
        """The events of the kernels of `calls` calls."""
        model = _Model(self._page, self._path, self._is_fused, stage, enableProfiling=True)
        try:
            _, (text,) = model.ask(stage, "profile", arrays, calls=calls)
            events = json.loads(bytes(text))
        except (PageError, ValueError) as error:
            raise StageError(stage, f"a profiled call fails: {_reason(error)}") from error
        return [event for event in events if event["cat"] == "Node"]

    def _has_room(self, trip: Sequence[Sequence[Array]], arrays: Sequence[Array]) -> bool:
        same = all(one.shape == other.shape for one, other in zip(trip[0], arrays, strict=True))
        size = sum(array.nbytes for array in arrays)
        return same and len(trip) < self._calls_of_trip and (len(trip) + 1) * size <= TRIP_BYTES

    def _run(self, trip: Sequence[Sequence[Array]]) -> list[dict[str, Array]]:
        began = time.monotonic()
        together = [np.concatenate(arrays) if len(trip) > 1 else arrays[0] for arrays in zip(*trip, strict=True)]
        try:
            header, buffers = self._model.ask("evaluate", "run", together, trip[0], calls=len(trip))
        except PageError as error:
            raise StageError("evaluate", f"a call of {self._path.name} fails: {_reason(error)}") from error
        # The page must answer within a limit: what one trip took says how many calls the next may hold.
        factor = 4.0 if time.monotonic() - began < TRIP_S else 0.25
        self._calls_of_trip = int(np.clip(len(trip) * factor, 1, TRIP_CALLS))
        return _results(header, buffers)


class BrowserCalls(RemoteCalls):
    """Calls that the page makes and times by its own clock, `performance.now()`.

    In an isolated page that ticks in 5 microseconds, in others in up to a millisecond. Calls shorter than a hundred
    ticks are timed several together; a sample is then their mean.
    """

    def __init__(self, page: ModelPage, model: _Model, arrays: Sequence[Array]) -> None:
        self._page = page
        # The page runs it as long as this is here.
        self._model = model
        self._call: int = model.ask("measure", "bind", arrays)[0]["call"]
        weakref.finalize(self, page.release, self._call)

    def turn(self, least_s: float, least_calls: int) -> npt.NDArray[np.float64]:
        """See `RemoteCalls.turn`. No page is told of CPU time: that column is 0.

        Raises:
            StageError: a call fails, or the page is gone.
        """
        task = {"task": "turn", "call": self._call, "leastMs": least_s * 1000, "leastCalls": least_calls}
        try:
            _, (times,) = self._page.ask("measure", task, extra_s=least_s)
        except PageError as error:
            raise StageError("measure", f"a timed call fails: {_reason(error)}") from error
        wall = np.frombuffer(times, np.float64) / 1000
        if len(wall) < least_calls or not (np.isfinite(wall) & (wall > 0)).all():
            raise StageError("measure", f"the page gives {wall.tolist()} for {least_calls} calls, which are no times")
        return np.column_stack((wall, np.zeros_like(wall)))

    def outputs(self) -> dict[str, Array]:
        """What the last timed call computed."""
        return _results(*self._page.ask("measure", {"task": "outputs", "call": self._call}))[0]


class _Model:
    """A session in the page, which forgets it when this goes.

    Raises:
        StageError: of `stage`: the page cannot load the file.
    """

    def __init__(self, page: ModelPage, path: Path, is_fused: bool, stage: str, **more: object) -> None:
        self._page = page
        disabled = {} if is_fused else {"disable_specified_optimizers": "MatMulAddFusion"}
        options = {"graphOptimizationLevel": "all", "extra": {"optimization": disabled}, **more}
        try:
            content = path.read_bytes()
            header, _ = page.ask(stage, {"task": "load", "options": options}, [content])
        except (OSError, PageError) as error:
            raise StageError(stage, f"{PACKAGE} cannot load {path.name}: {_reason(error)}") from error
        self._session: int = header["session"]
        weakref.finalize(self, page.release, self._session)
        self.ports = tuple(_port(node, path, stage) for node in header["inputs"])

    def ask(
        self, stage: str, task: str, arrays: Sequence[Array], like: Sequence[Array] | None = None, **more: object
    ) -> Frame:
        """Has the page do a task with inputs; `like` are those of one call where `arrays` hold several."""
        tensors = [
            {"name": port.name, "type": port.dtype.name, "shape": array.shape}
            for port, array in zip(self.ports, like or arrays, strict=True)
        ]
        header = {"task": task, "session": self._session, "tensors": tensors, **more}
        return self._page.ask(stage, header, [array.reshape(-1).view(np.uint8).data for array in arrays])


def _page(options: Settings, threads: int, stage: str) -> Page:
    wanted = str(options.get("browser", ""))
    if wanted == NO_LOCAL:
        raise StageError(stage, f"options.browser is {NO_LOCAL}, so nothing runs here: only a page elsewhere runs it")
    browser = find_browser(wanted)
    if browser is None:
        why = f"options.browser is {wanted!r}, and no such program is here" if wanted else NO_BROWSER
        raise StageError(stage, f"{why}; {BROWSER_FIX}")
    return page_for(browser, threads, stage)


def _results(header: Mapping[str, Any], buffers: Sequence[memoryview]) -> list[dict[str, Array]]:
    """The outputs of every call by name; copies, which hold on to nothing else."""
    tensors = header["tensors"]
    calls = [buffers[begin : begin + len(tensors)] for begin in range(0, len(buffers), len(tensors))]
    return [
        {
            tensor["name"]: np.frombuffer(buffer, DTYPES[tensor["type"]]).reshape(tensor["shape"]).copy()
            for tensor, buffer in zip(tensors, call, strict=True)
        }
        for call in calls
    ]


def _port(node: Mapping[str, Any], path: Path, stage: str) -> Port:
    kind = node["type"] if node["isTensor"] else "no tensor"
    if kind not in DTYPES:
        raise StageError(stage, f"{path.name}: input {node['name']!r} is {kind}; it must be one of {list(DTYPES)}")
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in node["shape"])
    return Port(node["name"], shape, np.dtype(DTYPES[kind]))


def _reason(error: object) -> str:
    """The runtime's message in one line."""
    text = " ".join(str(error).split())
    return text.partition(MESSAGE)[2] or text or type(error).__name__
