"""The page on another device, in a real browser as the phone: what it measures, and what does not count.

Chromium maps the name `phone.test` to this machine: a page from there is as little trusted as one from a network.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest

from autoshrink.backends import browser_runtime
from autoshrink.backends.base import Source
from autoshrink.backends.browser import Browser
from autoshrink.backends.onnxruntime import OnnxRuntime
from autoshrink.config import load_target
from autoshrink.devices import look_at, page_link
from autoshrink.devices.base import DeviceGone
from autoshrink.devices.page import PageDevice
from autoshrink.devices.pool import Pool
from autoshrink.errors import ChildError, StageError, TargetUnavailable
from autoshrink.isolate.job import Job, JobResult, Loaded
from autoshrink.isolate.probe import availability
from autoshrink.measure.timing import Samples
from autoshrink.target import ChildLimits, Measuring, RemoteDevice
from tests import onnx_files
from tests.dashboard_server import ARGUMENTS

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
CHROMIUM = browser_runtime.find_browser()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or shutil.which("npm") is None, reason="needs Chromium and npm: apt-get install chromium npm"
)
PHONE = "phone.test"
SHORT = Measuring(rounds_min=3, rounds_max=4, turn_ms=2, warm_up_calls=6, time_limit_s=1)
LONG = Measuring(interval=1e-6, rounds_max=500, turn_ms=5, warm_up_calls=3, time_limit_s=30)
"""Goes on for half a minute, unless something comes between."""


@pytest.fixture(scope="module")
def playwright() -> Iterator[Any]:
    browser_runtime.install()
    with sync_api.sync_playwright() as started:
        yield started


@pytest.fixture(scope="module")
def browser(playwright: Any) -> Iterator[Any]:
    started = playwright.chromium.launch(
        executable_path=CHROMIUM, args=[*ARGUMENTS, f"--host-resolver-rules=MAP {PHONE} 127.0.0.1"]
    )
    yield started
    started.close()


@pytest.fixture
def phone(playwright: Any) -> dict[str, Any]:
    return dict(playwright.devices["Pixel 7"])


class Opened:
    """A device with its page in a browser; `playwright` must be kept waiting for its own thread."""

    def __init__(self, browser: Any, said: list[str], device: PageDevice) -> None:
        self.browser = browser
        self.said = said
        self.device = device
        self.complaints: list[str] = []
        self._pool = ThreadPoolExecutor(1)

    def url(self, host: str = "127.0.0.1") -> str:
        return self.device.url.replace("127.0.0.1", host)

    def open(self, host: str = "127.0.0.1", **context: Any) -> Any:
        page = self.browser.new_context(**context).new_page()
        page.on("console", lambda message: self.complaints.append(message.text))
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.goto(self.url(host))
        self.wait_until_there()
        return page

    def wait_until_there(self, page: Any = None) -> None:
        wait_until(self.is_there, page)

    def is_there(self) -> bool:
        try:
            self.device.facts()
        except DeviceGone:
            return False
        return True

    def begin(self, job: Job, work: Path, stage: str) -> Future[JobResult]:
        """Has the device do a job, and comes back when `stage` began."""
        begun = threading.Event()
        running = self._pool.submit(
            self.device.run, job, work, lambda current: begun.set() if current == stage else None
        )
        assert begun.wait(30)
        return running

    def run(self, job: Job, work: Path) -> JobResult:
        return self.device.run(job, work, lambda _stage: None)


def wait_until(condition: Callable[[], object], page: Any = None) -> None:
    for _ in range(400):
        if condition():
            return
        if page is not None:
            page.wait_for_timeout(25)
        else:
            time.sleep(0.025)
    raise AssertionError("did not come true within 10 s")


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[..., Opened]]:
    devices: list[PageDevice] = []

    def make(threads: int = 1, **spec: str) -> Opened:
        target = replace(load_target("phone-browser"), threads=threads)
        said: list[str] = []
        devices.append(PageDevice(RemoteDevice(page="127.0.0.1:0", **spec), target, said.append))
        device = Opened(browser, said, devices[-1])
        # As a search does, which then shows the link.
        assert not device.is_there()
        return device

    yield make
    for device in devices:
        device.close()
    for context in browser.contexts:
        context.close()


@pytest.fixture
def job(onnx_file: Callable[[str], Path], tmp_path: Path) -> Job:
    """One of the residual CNN beside itself, with five samples in batches of two."""
    for name in ("artifact", "example", "val"):
        (tmp_path / name).mkdir()
    shutil.copy(onnx_file("cnn"), tmp_path / "artifact" / "model.onnx")
    np.save(tmp_path / "example" / "image.npy", onnx_files.image(1))
    np.save(tmp_path / "val" / "image.npy", np.concatenate([onnx_files.image(seed) for seed in (1, 2, 3)])[:5])
    return Job(
        *("browser", 1, 2, ChildLimits(), Loaded(tmp_path / "artifact", ("model.onnx",), "fp32")),
        example=tmp_path / "example",
        measure=SHORT,
        audit=True,
        evaluate={"val": tmp_path / "val"},
    )


def native(job: Job) -> Any:
    """What native ONNX Runtime computes for the samples of the job, the last one filled up."""
    images = np.load(job.evaluate["val"] / "image.npy")
    session = OnnxRuntime().load(job.artifact.folder, job.artifact.files, "fp32", 1)
    batches = [np.concatenate([images[at : at + 2], images[-1:]])[:2] for at in range(0, len(images), 2)]
    return np.concatenate([session.run({"image": batch})["logits"] for batch in batches])[: len(images)]


@pytest.mark.parametrize(("host", "tick"), [("127.0.0.1", 0.005), (PHONE, 0.1)])
def test_a_job_is_measured_and_its_outputs_are_the_native_ones(
    opened: Any, job: Job, tmp_path: Path, host: str, tick: float
) -> None:
    device = opened()
    device.open(host)
    facts = device.device.facts()
    assert facts.about == {"clock_tick_ms": tick, "isolated": host != PHONE}
    assert facts.identity["browser"].startswith("Chrome ") and facts.identity["runtime"] == "onnxruntime-web 1.30.0"
    result = device.run(job, tmp_path / "work")
    np.testing.assert_allclose(np.load(result.outputs["val"] / "logits.npy"), native(job), atol=1e-5)
    assert result.audit is not None and result.audit.notes[0].startswith("seen in Chrome ")
    assert result.latency is not None and result.samples is not None
    assert (result.sensors, result.modules, result.peak_memory_bytes) == ({}, (), 0)
    times = Samples.load(result.samples).table[:, 2]
    # Many calls of one sample: means of them are no multiples of a tick, and none of them is too short for the clock.
    assert (times > 0).all() and len(np.unique(times)) > len(times) / 2
    assert (tmp_path / "work" / "child.log").read_text().split() == ["load", "audit", "measure", "evaluate"]
    # A second job in the same page, which does not measure.
    again = device.run(replace(job, measure=None, audit=False), tmp_path / "again")
    np.testing.assert_array_equal(
        np.load(again.outputs["val"] / "logits.npy"), np.load(result.outputs["val"] / "logits.npy")
    )
    # No word of the content policy; of the headers that an untrusted page cannot have, one.
    assert [text for text in device.complaints if "Cross-Origin-Opener-Policy" not in text] == []


def test_threads_that_the_page_cannot_have_are_refused(opened: Any, browser: Any) -> None:
    device = opened(threads=2)
    page = browser.new_context().new_page()
    page.goto(device.url(PHONE))
    with pytest.raises(TargetUnavailable, match=r"threads is 2, .*; set threads: 1, or name a certificate"):
        wait_until(device.is_there, page)
    page.wait_for_selector("text=Not possible here")
    assert "set threads: 1" in page.inner_text("#detail")


def test_https_gives_threads(opened: Any, job: Job, tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl: apt-get install openssl")
    certificate, key = tmp_path / "phone.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={PHONE}"]
    subprocess.run([*command, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    device = opened(threads=2, certificate=str(certificate), key=str(key))
    assert device.url().startswith("https://")
    page = device.open(PHONE, ignore_https_errors=True)
    (cookie,) = page.context.cookies()
    assert (cookie["secure"], cookie["httpOnly"], cookie["sameSite"]) == (True, True, "Strict")
    assert device.device.facts().about["isolated"] is True
    result = device.run(replace(job, threads=2), tmp_path / "work")
    np.testing.assert_allclose(np.load(result.outputs["val"] / "logits.npy"), native(job), atol=1e-5)
    # As many workers as threads beside the page's own. Playwright hears of them when it is waited for.
    page.wait_for_timeout(50)
    assert len(page.workers) == 1


def test_a_second_browser_is_refused_and_the_first_may_reload(
    opened: Any, browser: Any, job: Job, tmp_path: Path
) -> None:
    device = opened()
    page = device.open()
    other = browser.new_context().new_page()
    assert other.goto(device.url()).status == 403
    assert "opened in another browser" in other.inner_text("body")
    page.reload()
    device.wait_until_there(page)
    assert device.run(replace(job, evaluate={}), tmp_path / "work").latency is not None
    page.wait_for_selector("#done:text-is('1')")
    assert len([line for line in device.said if "http" in line]) == 1


def test_a_tab_in_the_background_spoils_a_measurement_and_the_repeat_succeeds(
    opened: Any, browser: Any, job: Job, tmp_path: Path
) -> None:
    device = opened()
    # Playwright keeps its own tabs in front whatever happens; one that it does not know of is treated as a user's.
    control = browser.new_browser_cdp_session()
    tab = control.send("Target.createTarget", {"url": device.url(PHONE)})["targetId"]
    device.wait_until_there()
    measuring = device.begin(replace(job, measure=LONG), tmp_path / "disturbed", "measure")
    time.sleep(0.3)
    other = control.send("Target.createTarget", {"url": "about:blank"})["targetId"]
    with pytest.raises(DeviceGone, match="in the background, or the screen off while it was measured"):
        measuring.result(20)
    with pytest.raises(DeviceGone, match="bring it to the front"):
        device.device.facts()
    assert not (tmp_path / "disturbed" / "samples.npy").exists()
    control.send("Target.activateTarget", {"targetId": tab})
    device.wait_until_there()
    assert device.run(job, tmp_path / "repeat").latency is not None
    # Nothing begins on a page in the background.
    control.send("Target.activateTarget", {"targetId": other})
    wait_until(lambda: not device.is_there())
    with pytest.raises(DeviceGone, match="bring it to the front"):
        device.run(job, tmp_path / "hidden")
    for target in (tab, other):
        control.send("Target.closeTarget", {"targetId": target})


def test_what_a_lost_network_spoiled_is_measured_again(opened: Any, job: Job, tmp_path: Path) -> None:
    device = opened()
    page = device.open(PHONE)
    pool = Pool([device.device], None, device.said.append, ask_again_s=0.1)
    stages: list[str] = []
    with ThreadPoolExecutor(1) as threads:
        job = replace(job, measure=replace(LONG, time_limit_s=2), evaluate={})
        running = threads.submit(pool.run, job, tmp_path / "work", stages.append)
        wait_until(lambda: "measure" in stages, page)
        page.context.set_offline(True)
        page.wait_for_selector("text=No connection")
        page.context.set_offline(False)
        wait_until(running.done, page)
    result, name = running.result()
    assert stages.count("measure") == 2
    assert name == "page 127.0.0.1:0"
    assert result.latency is not None
    (said,) = [line for line in device.said if "went away" in line]
    assert "the network was lost for a while while it was measured; its measurement is done again" in said


def test_a_device_that_stood_still_spoils_a_measurement(opened: Any, job: Job, tmp_path: Path) -> None:
    device = opened()
    page = device.open()
    measuring = device.begin(replace(job, measure=LONG), tmp_path / "disturbed", "measure")
    # What a clock does that goes on while the other one sleeps.
    page.evaluate("const now = Date.now; Date.now = () => now() + 60000")
    with pytest.raises(DeviceGone, match="stood still for a while"):
        measuring.result(20)
    assert device.run(job, tmp_path / "repeat").latency is not None


def test_a_page_that_is_closed_makes_room_for_another(
    opened: Any, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_link, "RELOAD_S", 0.2)
    device = opened()
    page = device.open()
    first = device.url()
    measuring = device.begin(replace(job, measure=LONG), tmp_path / "work", "measure")
    page.close()
    with pytest.raises(DeviceGone, match="the page was closed"):
        measuring.result(20)
    wait_until(lambda: not device.is_there() and device.url() != first)
    assert [urlsplit(line.split()[1]).path for line in device.said if "http" in line] == [
        urlsplit(url).path for url in (first, device.url())
    ]
    other = device.open().context.new_page()
    assert other.goto(first).status == 410


def test_a_page_that_crashed_may_have_been_ended_by_the_artifact(opened: Any, job: Job, tmp_path: Path) -> None:
    device = opened()
    page = device.open()
    measuring = device.begin(replace(job, measure=LONG), tmp_path / "crashed", "measure")
    with pytest.raises(sync_api.Error, match="crash"):
        page.goto("chrome://crash")
    page = page.context.new_page()
    page.goto(device.url())
    wait_until(measuring.done, page)
    with pytest.raises(DeviceGone, match="reloaded") as gone:
        measuring.result()
    assert not gone.value.disturbed
    device.wait_until_there(page)


def test_what_the_runtime_refuses_is_said_and_the_page_goes_on(opened: Any, job: Job, tmp_path: Path) -> None:
    device = opened()
    device.open()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "model.onnx").write_bytes(b"no model")
    broken = replace(job, artifact=replace(job.artifact, folder=tmp_path / "broken"))
    with pytest.raises(ChildError, match=r"load: onnxruntime-web cannot load model\.onnx") as error:
        device.run(broken, tmp_path / "work")
    assert "StageError" in Path(error.value.log).read_text()
    with pytest.raises(ChildError, match=r"did not end within child\.time_limit_s = 1"):
        device.run(replace(job, measure=LONG, limits=ChildLimits(time_limit_s=1)), tmp_path / "slow")
    assert device.run(job, tmp_path / "repeat").latency is not None


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_says_what_goes_on(opened: Any, job: Job, tmp_path: Path, phone: dict[str, Any], scheme: str) -> None:
    device = opened()
    page = device.open(PHONE, **phone, color_scheme=scheme)
    assert "Linux; Android" in device.device.facts().identity["device"]
    page.wait_for_selector("text=Connected")
    places = "[...document.querySelectorAll('main > *')].map((part) => part.getBoundingClientRect().top)"
    before = page.evaluate(places)
    assert page.inner_text("h1") == "phone-browser"
    assert "screen timeout" in page.inner_text("#awake")
    measuring = device.begin(replace(job, measure=replace(LONG, time_limit_s=1)), tmp_path / "work", "measure")
    page.wait_for_selector("text=Measuring")
    assert page.evaluate(places) == before
    wait_until(measuring.done, page)
    page.wait_for_selector("#done:text-is('1')")
    assert page.evaluate("document.getAnimations().length") == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shade = sum(page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)"))
    assert shade > 600 if scheme == "light" else shade < 120
    closing = threading.Thread(target=device.device.close)
    closing.start()
    page.wait_for_selector("text=The search has ended")
    closing.join()
    assert page.evaluate(places) == before
    with pytest.raises(DeviceGone, match="the search has ended"):
        device.device.facts()


def test_compiling_for_it_needs_no_browser_here(
    onnx_file: Callable[[str], Path], browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browser_runtime, "BROWSERS", ())
    monkeypatch.setattr(browser_runtime, "PLAYWRIGHT_BROWSERS", ())
    monkeypatch.setattr("autoshrink.backends.browser._page", lambda *_: pytest.fail("a page was opened"))
    backend = Browser()
    target = load_target("phone-browser")
    assert availability(target).state == "ready"
    found = look_at(target.devices[0], target)
    assert (found.state, found.identity) == ("compile-only", {"runtime": "onnxruntime-web 1.30.0"})
    assert "open the link" in found.fix
    assert backend.refuses(None, target) == ""  # type: ignore[arg-type]
    compiled = backend.compile(Source(onnx_file("cnn"), options=target.options), tmp_path)
    assert compiled.files == ("model.onnx",)
    assert set(compiled.figures) == {"download", "download_gzip"}
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(StageError, match="compile: "):
        backend.compile(Source(tmp_path / "broken.onnx", options=target.options), tmp_path / "broken")
