"""The browser backend passes the contract; beside it, what a page promises: real Chromium, real onnxruntime-web."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoshrink.backends import browser_driver, browser_runtime
from autoshrink.backends.base import Array, Backend, Session, Source
from autoshrink.backends.browser import Browser, BrowserCalls, BrowserSession
from autoshrink.backends.onnxruntime import OnnxRuntime
from autoshrink.errors import StageError
from autoshrink.isolate.job import Job, Loaded
from autoshrink.isolate.parent import run_job
from tests import onnx_files
from tests.contracts.backend_contract import LIMITS, OnnxContract, OnnxFile

KINDS = {
    "float32": TensorProto.FLOAT,
    "float64": TensorProto.DOUBLE,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
    "bool": TensorProto.BOOL,
}
IMAGE = {"image": onnx_files.image(1)}

pytestmark = pytest.mark.skipif(
    browser_runtime.find_browser() is None or shutil.which("npm") is None,
    reason="needs Chromium and npm: apt-get install chromium npm",
)


@pytest.fixture(scope="module", autouse=True)
def runtime() -> Iterator[None]:
    browser_runtime.install()
    yield
    browser_driver.close_pages()


class TestBrowser(OnnxContract):
    modules = frozenset({"playwright", "greenlet", "typing_extensions"})
    vendors = frozenset({"playwright", "greenlet"})

    @pytest.fixture
    def backend(self) -> Backend:
        return Browser()

    def outputs_of_timed(self, call: Any, session: Session) -> list[Array]:
        assert isinstance(call, BrowserCalls)
        call.turn(0, 1)
        return list(call.outputs().values())

    def test_equals_native_onnx_runtime(self, onnx_file: OnnxFile, tmp_path: Path) -> None:
        found, native = (
            self.loaded(backend, onnx_file("cnn"), tmp_path / backend.name).run(IMAGE)["logits"]
            for backend in (Browser(), OnnxRuntime())
        )
        np.testing.assert_allclose(found, native, atol=1e-5)

    def test_the_download_is_runtime_and_model(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        figures = backend.compile(Source(onnx_file("cnn")), tmp_path).figures
        files = [browser_runtime.runtime_folder() / name for name in browser_runtime.FILES] + [tmp_path / "model.onnx"]
        assert figures["download"].value == sum(path.stat().st_size for path in files)
        assert 3_000_000 < figures["download_gzip"].value < figures["download"].value / 3
        assert {figure.unit for figure in figures.values()} == {"bytes"}

    def test_a_linear_with_float_bias_stays_int8(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        session = self.loaded(backend, onnx_file("linear_float_bias"), tmp_path, "int8_static")
        assert [(layer.name, layer.precision) for layer in session.audit().layers] == [("linear", "int8")]

    @pytest.mark.parametrize("dtype", KINDS)
    def test_every_dtype_comes_back_as_it_went(self, backend: Backend, dtype: str, tmp_path: Path) -> None:
        values = np.array([[0, 1, 1, 0, 1], [1, 0, 1, 1, 0]]) * (1 if dtype == "bool" else 3)
        nodes = [helper.make_node("Transpose", ["x"], ["y"], "turn")]
        _save(tmp_path / "m.onnx", nodes, {"x": (KINDS[dtype], [2, 5])}, {"y": (KINDS[dtype], [5, 2])})
        found = self.loaded(backend, tmp_path / "m.onnx", tmp_path / "artifact").run({"x": values.astype(dtype)})["y"]
        assert found.dtype == np.dtype(dtype)
        np.testing.assert_array_equal(found, values.T.astype(dtype))

    def test_many_batches_are_as_one_by_one(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        session = self.loaded(backend, onnx_file("free_batch"), tmp_path)
        assert isinstance(session, BrowserSession)
        batches = [onnx_files.pair(seed, rows=1 + (seed > 20)) for seed in range(30)]
        together = list(session.run_batches(batches))
        assert len(together) == 30
        for found, inputs in zip(together, batches, strict=True):
            for name, expected in session.run(inputs).items():
                np.testing.assert_array_equal(found[name], expected)

    def test_a_turn_times_at_least_so_many_calls_for_so_long(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path
    ) -> None:
        call = self.loaded(backend, onnx_file("two_by_two"), tmp_path).timed(onnx_files.pair(1))
        assert isinstance(call, BrowserCalls)
        few = call.turn(0.0, 5)
        assert few.shape == (5, 2)
        long = call.turn(0.03, 3)
        # Calls of microseconds are timed several together: each sample stands for those of half a millisecond.
        assert 3 <= len(long) <= 70
        assert (long[:, 0] > 0).all() and (long[:, 1] == 0).all()

    def test_two_threads_have_a_page_of_their_own(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        files = backend.compile(Source(onnx_file("cnn"), threads=2), tmp_path).files
        one, two = (backend.load(tmp_path, files, "fp32", threads) for threads in (1, 2))
        np.testing.assert_allclose(one.run(IMAGE)["logits"], two.run(IMAGE)["logits"], atol=1e-5)
        assert len(browser_driver._pages) == 2
        browser_driver._pages.popitem()[1].close()

    def test_a_browser_that_is_not_there_is_said(self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path) -> None:
        with pytest.raises(StageError, match=r"compile: options\.browser is 'no-such-browser'"):
            backend.compile(Source(onnx_file("cnn"), options={"browser": "no-such-browser"}), tmp_path)

    @pytest.mark.parametrize(("part", "said"), [("--type=renderer", "crashed"), ("", "ended|went away")])
    def test_a_page_that_crashes_is_said_and_replaced(
        self, backend: Backend, onnx_file: OnnxFile, tmp_path: Path, part: str, said: str
    ) -> None:
        session = self.loaded(backend, onnx_file("cnn"), tmp_path)
        expected = session.run(IMAGE)["logits"]
        folder = str(browser_driver._pages[_key(1)].folder)
        for process in _processes(folder, part) if part else _processes(folder)[:1]:
            os.kill(process, signal.SIGKILL)
        _wait_for(lambda: bool(browser_driver._pages[_key(1)].lost))
        for _ in range(2):
            with pytest.raises(StageError, match=f"evaluate: .*({said})"):
                session.run(IMAGE)
        np.testing.assert_array_equal(self.loaded(backend, onnx_file("cnn"), tmp_path).run(IMAGE)["logits"], expected)

    def test_a_page_that_hangs_is_ended(
        self, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        _save_endless(tmp_path / "endless.onnx")
        session = self.loaded(backend, tmp_path / "endless.onnx", tmp_path / "artifact")
        page = browser_driver._pages[_key(1)]
        monkeypatch.setattr(browser_driver, "ANSWER_LIMIT_S", 0.5)
        with pytest.raises(StageError, match=r"evaluate: the page did not answer within 0\.5 s"):
            session.run({"x": np.ones(1, np.float32)})
        assert page.lost
        _wait_for(lambda: not _processes(str(page.folder)))
        assert not page.folder.exists()

    def test_nothing_stays_of_a_child_that_is_given_up(
        self, backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class GivenUp(Exception):
            pass

        def give_up(stage: str) -> None:
            if stage == "evaluate":
                # By now the page is in a call that takes hours.
                time.sleep(0.5)
                raise GivenUp

        # Of the browser's own folder, whose path must be short.
        place = Path(tempfile.mkdtemp(dir="/tmp"))
        monkeypatch.setenv("TMPDIR", str(place))
        _save_endless(tmp_path / "endless.onnx")
        (tmp_path / "val").mkdir()
        np.save(tmp_path / "val" / "x.npy", np.ones(1, np.float32))
        job = Job(
            *(backend.name, 1, 1, LIMITS, Loaded(tmp_path / "artifact", (), "fp32")),
            source=Source(tmp_path / "endless.onnx"),
            evaluate={"val": tmp_path / "val"},
        )
        with pytest.raises(GivenUp):
            run_job(job, tmp_path / "work", give_up)
        assert list(place.glob(f"{browser_driver.PREFIX}*"))
        _wait_for(lambda: not _processes(str(place / browser_driver.PREFIX)))
        shutil.rmtree(place)


def test_a_long_path_of_temporary_files_is_avoided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("long" * 20)
    long.mkdir()
    monkeypatch.setattr(browser_driver.tempfile, "tempdir", str(long))
    assert browser_driver._place() == Path("/tmp")


def _key(threads: int) -> tuple[Path, int]:
    found = browser_runtime.find_browser()
    assert found is not None
    return found, threads


def _processes(*parts: str) -> list[int]:
    """Numbers of the processes that have all of `parts` in their command line, the first started first."""
    found = []
    for folder in sorted(Path("/proc").glob("[0-9]*"), key=lambda folder: int(folder.name)):
        with suppress(OSError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if all(part in command for part in parts):
                found.append(int(folder.name))
    return found


def _wait_for(condition: Callable[[], bool]) -> None:
    for _ in range(200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("did not come true within 10 s")


def _save_endless(path: Path) -> None:
    """A model that takes hours: a loop of 10^12 rounds. x float32 [1] -> y float32 [1]."""
    scalar = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Sin", ["v"], ["w"])],
        "body",
        [scalar("i", TensorProto.INT64, []), scalar("go", TensorProto.BOOL, []), scalar("v", TensorProto.FLOAT, [1])],
        [scalar("goes", TensorProto.BOOL, []), scalar("w", TensorProto.FLOAT, [1])],
    )
    weights = [numpy_helper.from_array(np.array(10**12), "rounds"), numpy_helper.from_array(np.array(True), "always")]
    loop = helper.make_node("Loop", ["rounds", "always", "x"], ["y"], "loop", body=body)
    _save(path, [loop], {"x": (TensorProto.FLOAT, [1])}, {"y": (TensorProto.FLOAT, [1])}, weights)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: dict[str, tuple[int, list[int]]],
    outputs: dict[str, tuple[int, list[int]]],
    weights: list[onnx.TensorProto] | None = None,
) -> None:
    ends = [
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in values.items()]
        for values in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "graph", *ends, weights or [])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
