"""An agent that does what it should: real jobs over loopback, queues, and nothing left behind."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from autoshrink.backends import get_backend
from autoshrink.config import load_target
from autoshrink.devices import open_device
from autoshrink.devices.agent import AgentDevice
from autoshrink.devices.base import DeviceGone
from autoshrink.errors import ChildError, ConfigError, TargetUnavailable
from autoshrink.isolate.parent import WAITING, run_job
from autoshrink.measure.identity import identity_here
from autoshrink.measure.timing import Samples, summarise
from autoshrink.target import RemoteDevice
from tests.agents import MOMENT, TOKEN, Agent, agent, children_of, fake_job, onnx_job, wait_for

VARIABLE = "TEST_AGENT_TOKEN"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    with agent(tmp_path_factory.mktemp("agent") / "place") as running:
        yield running


@pytest.fixture(autouse=True)
def closed(served: Agent) -> Iterator[None]:
    yield
    served.close_links()


Open = Callable[..., AgentDevice]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """Opens a device of a profile for an agent."""
    opened: list[AgentDevice] = []

    def open_one(served: Agent, token: str | None = None, **more: str) -> AgentDevice:
        monkeypatch.setenv(VARIABLE, served.token if token is None else token)
        spec = RemoteDevice(agent=served.url, token_env=VARIABLE, **more)
        found = open_device(spec, replace(load_target("onnxruntime-cpu"), devices=(spec,)), lambda _text: None)
        assert isinstance(found, AgentDevice)
        opened.append(found)
        return found

    yield open_one
    for each in opened:
        each.close()


def test_facts_are_those_of_the_machine_and_its_runtime(served: Agent, device: Open) -> None:
    found = device(served)
    facts = found.facts()
    assert facts.identity == identity_here(get_backend("onnxruntime"))
    assert facts.state == "ready" and facts.about["queue"] == 0 and facts.about["memory_bytes"] > 0
    assert served.url in found.name and TOKEN not in found.name


def test_a_real_job_gives_what_it_gives_here(served: Agent, tmp_path: Path, device: Open) -> None:
    job = onnx_job(tmp_path / "job")
    stages: list[str] = []
    remote = device(served)
    result = remote.run(job, tmp_path / "there", stages.append)
    here = run_job(job, tmp_path / "here")
    remote.close()
    # Short stages may pass between two looks.
    assert stages[0] == WAITING
    assert stages[1:] == [stage for stage in ("load", "audit", "measure", "evaluate") if stage in stages] != []
    assert result.runtime == here.runtime and result.audit == here.audit and result.files == here.files
    assert result.outputs == {"val": tmp_path / "there" / "outputs" / "val"}
    for name in ("logits",):
        there = np.load(result.outputs["val"] / f"{name}.npy", allow_pickle=False)
        np.testing.assert_array_equal(there, np.load(here.outputs["val"] / f"{name}.npy", allow_pickle=False))
    assert result.samples == tmp_path / "there" / "samples.npy" and result.latency is not None
    assert summarise(Samples.load(result.samples), MOMENT, job.seed) == result.latency
    assert result.peak_memory_bytes > 0
    assert "torch" not in result.modules and "optuna" not in result.modules
    # The session is over: nothing of it stays.
    wait_for(lambda: not served.files())


def test_capabilities_are_asked_there(served: Agent, tmp_path: Path) -> None:
    link = served.link()
    job = replace(fake_job(tmp_path / "job"), probe=True)
    assert link.run(job, tmp_path / "out", lambda _stage: None).capabilities == {"FAKE"}
    link.close()


def test_a_data_set_is_sent_once(served: Agent, tmp_path: Path) -> None:
    link = served.link()
    link.run(fake_job(tmp_path / "first", rows=1000), tmp_path / "a", lambda _stage: None)
    wait_for(lambda: len(served.files()) == 3)
    kept = {path: path.stat().st_ino for path in served.files()}
    link.run(fake_job(tmp_path / "second", rows=1000), tmp_path / "b", lambda _stage: None)
    wait_for(lambda: len(served.files()) == 3)
    assert {path: path.stat().st_ino for path in served.files()} == kept
    link.close()
    wait_for(lambda: not served.files())


def test_two_clients_at_once_wait_for_each_other(served: Agent, tmp_path: Path) -> None:
    slow = replace(MOMENT, rounds_min=40, rounds_max=40, turn_ms=25, interval=0.0001)
    links = [served.link(), served.link()]
    begun = threading.Event()
    stages: list[list[str]] = [[], []]

    def first() -> None:
        def on_stage(stage: str) -> None:
            stages[0].append(stage)
            if stage == "measure":
                begun.set()

        links[0].run(replace(fake_job(tmp_path / "0"), measure=slow), tmp_path / "out0", on_stage)

    thread = threading.Thread(target=first)
    thread.start()
    assert begun.wait(20)
    with served.http() as http:
        assert http.get("/v1/device").json()["queue"] == 1
    result = links[1].run(fake_job(tmp_path / "1"), tmp_path / "out1", stages[1].append)
    thread.join()
    assert stages[1][0] == WAITING and "measure" in stages[1]
    assert result.latency is not None and (tmp_path / "out0" / "samples.npy").exists()
    for link in links:
        link.close()


def test_closing_ends_the_job_that_runs(served: Agent, tmp_path: Path) -> None:
    link = served.link()
    hanging = fake_job(tmp_path / "job", "tests.fake_backends:FakeHang")
    ended: list[BaseException] = []

    def run() -> None:
        try:
            link.run(hanging, tmp_path / "out", lambda _stage: None)
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    wait_for(lambda: any(path.name == "pid" for path in served.files()))
    pids = [path for path in served.files() if path.name == "pid"]
    numbers = [int(number) for number in pids[0].read_text().split()]
    link.close()
    thread.join(20)
    assert not thread.is_alive() and isinstance(ended[0], DeviceGone)
    wait_for(lambda: not any(Path(f"/proc/{number}").exists() for number in numbers))
    wait_for(lambda: not served.files())
    assert served.is_serving()


def test_the_token_is_of_this_agent(served: Agent, tmp_path: Path, device: Open) -> None:
    with pytest.raises(TargetUnavailable, match=rf"\${VARIABLE} is refused: the token is not that of this agent"):
        device(served, token="another-token-than-it").facts()
    with pytest.raises(ConfigError, match=rf"device.token_env: \${VARIABLE} is empty"):
        device(served, token="")


def test_no_agent_there_and_something_else_there(device: Open, tmp_path: Path) -> None:
    with agent(tmp_path / "place") as ended:
        pass
    with pytest.raises(DeviceGone, match="does not answer"):
        ended.link(patience_s=0.2).facts(device(ended))

    def other(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, text="<html>a router</html>")

    link = ended.link()
    link._http = httpx.Client(transport=httpx.MockTransport(other), base_url=ended.url)
    with pytest.raises(TargetUnavailable, match="no autoshrink agent"):
        link.facts(device(ended))


def test_another_version_is_told(served: Agent, device: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autoshrink.devices.agent.__version__", "9.9")
    with pytest.raises(TargetUnavailable, match=r"pip install 'autoshrink\[agent\]==9.9' there"):
        device(served).facts()


def test_tls(tmp_path: Path, device: Open) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
         "-keyout", key, "-out", certificate, "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1"],
        check=True, capture_output=True,
    )  # fmt: skip
    with agent(tmp_path / "place", certificate=str(certificate), key=str(key)) as secure:
        assert secure.scheme == "https"
        link = secure.link(certificates=str(certificate))
        assert link.run(fake_job(tmp_path / "job"), tmp_path / "out", lambda _stage: None).runtime
        link.close()
        with pytest.raises(DeviceGone, match="certificate verify failed"):
            secure.link(patience_s=0.1).run(fake_job(tmp_path / "job"), tmp_path / "b", lambda _stage: None)
        with pytest.raises(ConfigError, match=r"device\.ca"):
            secure.link(certificates=str(tmp_path / "none.pem"))


def test_it_ends_with_nothing_left(tmp_path: Path) -> None:
    with agent(tmp_path / "place") as running:
        link = running.link()
        link.run(fake_job(tmp_path / "job"), tmp_path / "out", lambda _stage: None)
        children = children_of(running.process.pid)
        assert children and running.files()
    assert running.process.returncode == 0
    assert list(running.place.iterdir()) == []
    assert not any(Path(f"/proc/{child}").exists() for child in children)


def test_it_ends_as_well_when_it_is_told_to(tmp_path: Path) -> None:
    with agent(tmp_path / "place") as running:
        running.process.terminate()
        assert running.process.wait(20) == 0
    assert list(running.place.iterdir()) == []


def test_what_a_killed_agent_left_is_removed_by_the_next(tmp_path: Path) -> None:
    with agent(tmp_path / "place") as killed:
        killed.link().run(fake_job(tmp_path / "job"), tmp_path / "out", lambda _stage: None)
        children = children_of(killed.process.pid)
        killed.process.kill()
        killed.process.wait()
        wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))
        left = list(killed.place.iterdir())
        assert left
        with agent(tmp_path / "place") as next_one:
            assert next_one.is_serving() and not left[0].exists()


def test_a_failure_comes_with_its_log(served: Agent, tmp_path: Path) -> None:
    link = served.link()
    with pytest.raises(ChildError, match="load: RuntimeError: a shape is wrong") as found:
        link.run(fake_job(tmp_path / "job", "tests.fake_backends:FakeBroken"), tmp_path / "out", lambda _stage: None)
    assert "in line 3" in Path(found.value.log).read_text()
    link.close()
