"""The package of the browser, in a real one: the page of the package, served by the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoshrink.backends import browser_runtime
from autoshrink.errors import TargetUnavailable
from autoshrink.package import verify, write_package
from tests.package_study import a_task, failures, make_study

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = browser_runtime.find_browser()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=f"{browser_runtime.NO_BROWSER}: {browser_runtime.BROWSER_FIX}")
ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The package as `pick` writes it, with the pinned runtime where npm would put it."""
    try:
        runtime = browser_runtime.install()
    except TargetUnavailable as error:
        pytest.skip(f"onnxruntime-web cannot be had: {error}")
    place = tmp_path_factory.mktemp("browser")
    # Locks of these tests alone, so that a search on this machine does not hold them up.
    shutil.copytree(runtime, place / "cache" / runtime.parent.name / runtime.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AUTOSHRINK_CACHE", str(place / "cache"))
        study, record = make_study(place / "study", "browser")
        out = write_package(study, record, a_task(), place / "package", samples=9)
        dist = out / "web/node_modules/onnxruntime-web/dist"
        dist.mkdir(parents=True)
        for name in browser_runtime.FILES:
            shutil.copyfile(runtime / name, dist / name)
        yield out


@pytest.fixture(scope="module")
def address(package: Path) -> Iterator[str]:
    """Where the package's own server shows its page."""
    with subprocess.Popen(
        [sys.executable, str(package / "serve.py"), "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        assert server.stdout is not None
        yield server.stdout.readline().strip()
        server.terminate()


@pytest.fixture(scope="module")
def page(address: str) -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=ARGUMENTS)
        opened = browser.new_page()
        yield opened
        browser.close()


def result(page: Any, address: str) -> dict[str, Any]:
    """What the page of the package found out."""
    page.goto(address)
    page.wait_for_function("window.result", timeout=60_000)
    return dict(page.evaluate("window.result"))


def test_the_page_gives_the_recorded_outputs(page: Any, address: str) -> None:
    found = result(page, address)
    assert found["ok"] and found["samples"] == 9, found
    assert [line["name"] for line in found["lines"]] == ["logits"]
    assert found["lines"][0]["decibel"] is None or found["lines"][0]["decibel"] > 100, "infinity, or almost"
    assert "The package runs here." in page.inner_text("#said")
    assert page.evaluate("self.crossOriginIsolated") is True


def test_it_verifies_here_and_the_card_is_of_its_world(package: Path) -> None:
    found = verify(package)
    assert [check.name for check in failures(found) if check.name != "latency"] == []
    assert found.latency is not None
    card = (package / "README.md").read_text()
    assert "python serve.py" in card and "Cross-Origin-Opener-Policy: same-origin" in card
    assert "@{" not in card and "run.py" not in card
    assert not (package / "run.py").exists() and not (package / "requirements.txt").exists()
    assert f'"onnxruntime-web": "{browser_runtime.VERSION}"' in (package / "web/package.json").read_text()


def test_a_page_of_ones_own_gets_typed_arrays(page: Any, address: str, package: Path) -> None:
    page.goto(address)
    x = np.load(package / "samples/inputs/x.npy")[:2]
    script = """async ([url, x]) => {
        const { load } = await import(url);
        const model = await load();
        const refused = await model.run({ x: new Float32Array(3) }).catch((error) => error.message);
        return [Array.from((await model.run({ x: new Float32Array(x) })).logits), refused];
    }"""
    logits, refused = page.evaluate(script, [address.replace("index.html", "main.mjs"), x.ravel().tolist()])
    expected = np.load(package / "samples/outputs/logits.npy")[:2]
    np.testing.assert_allclose(np.reshape(logits, (2, 4)), expected, rtol=1e-4, atol=1e-5)
    assert refused == "input x has 3 elements; the model takes float32 [2,8]"


def test_outputs_that_differ_are_told(page: Any, address: str, package: Path) -> None:
    path = package / "samples/outputs/logits.npy"
    kept = path.read_bytes()
    np.save(path, -np.load(path), allow_pickle=False)
    try:
        found = result(page, address)
        assert not found["ok"]
        assert "NOT those that were recorded" in page.inner_text("#said")
    finally:
        path.write_bytes(kept)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "uint8", "int16", "int32", "int64", "bool"])
def test_every_array_that_numpy_saves_is_read(page: Any, address: str, package: Path, dtype: str) -> None:
    array = np.arange(12).reshape(3, 4).astype(dtype)
    np.save(package / "web/array.npy", array, allow_pickle=False)
    page.goto(address)
    script = """async ([npy, url]) => {
        const { readNpy } = await import(npy);
        const read = readNpy(await (await fetch(url)).arrayBuffer());
        return [read.type, read.shape, Array.from(read.data, Number)];
    }"""
    web = address.removesuffix("index.html")
    found = page.evaluate(script, [f"{web}npy.mjs", f"{web}array.npy?{dtype}"])
    assert found == [dtype, [3, 4], array.astype(int).ravel().tolist()]
