"""What an agent must bear: strangers, old tokens, wrong names, broken artifacts, clients that vanish, noise.

After each of them it serves, has run nothing that it should not, and holds no file of it.
"""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx
import pytest

from autoshrink.agent.wire import request_of
from autoshrink.devices.agent import Link
from autoshrink.devices.base import DeviceGone
from autoshrink.errors import ChildError, TargetUnavailable
from autoshrink.isolate.job import Job
from autoshrink.target import ChildLimits
from tests.agents import Agent, agent, children_of, fake_job, onnx_job, resident_bytes, wait_for

RANDOM_BODIES = 10_000


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    place = tmp_path_factory.mktemp("agent") / "place"
    with agent(place, grace_s=3.0, silence_s=1.0, header_s=1.0, most_json=2**16, most_file=2**20) as running:
        yield running


@pytest.fixture(autouse=True)
def unharmed(served: Agent) -> Iterator[None]:
    yield
    served.close_links()
    wait_for(lambda: not served.files())
    assert served.is_serving()
    with served.http() as http:
        wait_for(lambda: http.get("/v1/device").json()["queue"] == 0)


def body_of(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = request_of(job)[0].model_dump(mode="json")
    return found


def session_of(http: httpx.Client) -> str:
    return str(http.post("/v1/sessions").json()["session"])


def submit(served: Agent, body: Any) -> httpx.Response:
    """Sends a job in a session of its own, which is ended again."""
    with served.http() as http:
        session = session_of(http)
        answer = http.put(f"/v1/sessions/{session}/jobs/1", json=body)
        http.delete(f"/v1/sessions/{session}")
    return answer


def no_job(_stage: str) -> None:
    """Whoever runs a job in these tests is not told of stages."""


class TestToken:
    @pytest.mark.parametrize(
        ("header", "why"),
        [
            ({}, "a token is wanted"),
            ({"Authorization": "Bearer of another token"}, "not that of this agent"),
            ({"Authorization": "Basic YTpi"}, "not that of this agent"),
            ({"Authorization": "a-token-for-tests-only"}, "a token is wanted"),
        ],
    )
    @pytest.mark.parametrize("path", ["/v1/device", "/v1/sessions", "/v1/sessions/x/jobs/1/files/y", "/", "/docs"])
    def test_without_it_nothing_is_done(self, served: Agent, header: dict[str, str], why: str, path: str) -> None:
        with httpx.Client(base_url=served.url, headers=header, trust_env=False) as http:
            for method in ("GET", "POST", "PUT", "DELETE"):
                answer = http.request(method, path)
                assert answer.status_code == 401 and why in answer.json()["error"]
                assert answer.headers["www-authenticate"] == "Bearer"

    def test_a_stranger_is_turned_away_before_the_body(self, served: Agent) -> None:
        with socket.create_connection(("127.0.0.1", served.port), 10) as stranger:
            stranger.sendall(b"PUT /v1/sessions HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n")
            assert stranger.recv(200).startswith(b"HTTP/1.1 401")

    def test_one_that_is_too_old(self, tmp_path: Path) -> None:
        with agent(tmp_path / "place", valid_for=0.0) as old, old.http() as http:
            answer = http.get("/v1/device")
            assert answer.status_code == 401 and "too old" in answer.json()["error"]

    def test_one_of_an_agent_before(self, tmp_path: Path) -> None:
        with agent(tmp_path / "place") as first:
            token = first.token
        with agent(tmp_path / "place", token="the-token-of-the-next-one") as second, second.http(token) as http:
            assert "a token ends with the agent" in http.get("/v1/device").json()["error"]


class TestBodies:
    def test_over_the_limit_as_announced(self, served: Agent) -> None:
        with served.http() as http:
            session = session_of(http)
            answer = http.put(f"/v1/sessions/{session}/jobs/1", content=b" " * (2**16 + 1))
            assert answer.status_code == 413 and "over 65,536 bytes" in answer.json()["error"]

    def test_over_the_limit_unannounced(self, served: Agent) -> None:
        with served.http() as http:
            session = session_of(http)
            parts = (b" " * 2**14 for _ in range(8))
            assert http.put(f"/v1/sessions/{session}/jobs/1", content=parts).status_code == 413

    def test_no_room_for_the_files(self, tmp_path: Path) -> None:
        with agent(tmp_path / "place", most_stored=100) as small:
            with pytest.raises(ChildError, match=r"send: the files have .* bytes more, and there is room for 100"):
                small.link().run(fake_job(tmp_path / "job"), tmp_path / "out", no_job)
            assert not small.files() and small.is_serving()

    def test_a_file_that_is_too_large_is_told_to_the_search(self, served: Agent, tmp_path: Path) -> None:
        job = fake_job(tmp_path / "job", rows=2**18)
        with pytest.raises(ChildError, match="send: the body has over 1,048,576 bytes"):
            served.link().run(job, tmp_path / "out", no_job)

    def test_other_bytes_than_announced(self, served: Agent, tmp_path: Path) -> None:
        body = body_of(fake_job(tmp_path / "job"))
        with served.http() as http:
            where = f"/v1/sessions/{session_of(http)}/jobs/1"
            http.put(where, json=body)
            state = http.get(where, params={"wait": 5, "since": 0}).json()
            assert state["state"] == "files" and len(state["missing"]) == 3
            for content in (b"", b"other", b"x" * 5000):
                answer = http.put(f"{where}/files/{state['missing'][0]}", content=content)
                assert answer.status_code == 422 and "announced" in answer.json()["error"]
            assert http.put(f"{where}/files/{'0' * 64}", content=b"x").status_code == 409
            assert http.put(f"{where}/files/..%2F..%2Fx", content=b"x").status_code == 405
            assert not served.files()
            http.delete(where)

    def test_a_slow_header_and_a_slow_body_are_cut_off(self, served: Agent) -> None:
        with (
            socket.create_connection(("127.0.0.1", served.port), 10) as header,
            socket.create_connection(("127.0.0.1", served.port), 10) as body,
            served.http() as http,
        ):
            session = session_of(http)
            header.sendall(b"GET /v1/device HTTP/1.1\r\nHost:")
            line = f"PUT /v1/sessions/{session}/jobs/1 HTTP/1.1\r\n"
            bearer = f"Host: x\r\nAuthorization: Bearer {served.token}\r\nContent-Length: 100\r\n\r\n"
            body.sendall(f"{line}{bearer}{{".encode())
            # Others do not wait for them.
            assert http.get("/v1/device").status_code == 200
            assert body.recv(200).startswith(b"HTTP/1.1 408")
            assert header.recv(200) == b""

    def test_ten_thousand_random_ones(self, served: Agent, tmp_path: Path) -> None:
        """Takes some seconds: the number is what the agent is promised to bear. The seed is fixed."""
        chance = random.Random(0)
        good = json.dumps(body_of(fake_job(tmp_path / "job"))).encode()
        before = children_of(served.process.pid)
        seen: dict[int, int] = {}
        # The standard library's client, which takes a fifth of the time of the one that opens the sessions.
        with served.http() as http, closing(HTTPConnection("127.0.0.1", served.port, timeout=20)) as sender:
            session = session_of(http)
            where = f"/v1/sessions/{session}"
            paths = [f"{where}/jobs/1", f"{where}/jobs/-1", f"{where}/jobs/1/files/{'a' * 64}", "/v1/sessions/x", "/"]
            for _ in range(RANDOM_BODIES):
                content = chance.randbytes(chance.randrange(200))
                if chance.random() < 0.5:
                    # A job with a few bytes changed: mostly no JSON, or no job, any more.
                    mangled = bytearray(good)
                    for _ in range(chance.randrange(1, 4)):
                        mangled[chance.randrange(len(mangled))] = chance.randrange(256)
                    content = bytes(mangled)
                sender.request("PUT", chance.choice(paths), content, {"Authorization": f"Bearer {served.token}"})
                with sender.getresponse() as answer:
                    said = answer.read()
                seen[answer.status] = seen.get(answer.status, 0) + 1
                if answer.status == 202:
                    # Still a job, with another seed or the like: queued, and its files never come.
                    assert json.loads(said)["state"] in ("queued", "files")
                    http.delete(f"{where}/jobs/1")
                    http.delete(where)
                    session = session_of(http)
                    paths = [path.replace(where, f"/v1/sessions/{session}") for path in paths]
                    where = f"/v1/sessions/{session}"
        assert set(seen) <= {202, 404, 405, 409, 410, 422} and seen[422] > RANDOM_BODIES / 5, seen
        assert not served.files()
        assert len(children_of(served.process.pid)) <= max(1, len(before))

    def test_random_bytes_that_are_no_http(self, served: Agent) -> None:
        chance = random.Random(1)
        for _ in range(200):
            with socket.create_connection(("127.0.0.1", served.port), 10) as stranger:
                stranger.sendall(chance.randbytes(chance.randrange(1, 300)))
                if chance.random() < 0.5:
                    stranger.sendall(b"\r\n\r\n")
                    stranger.recv(300)


class TestJobs:
    @pytest.mark.parametrize(
        "name", ["../x", "/etc/passwd", "a/../b", ".hidden", "a//b", "a\\b", "a\nb", "", "x" * 101]
    )
    @pytest.mark.parametrize("place", ["artifact", "example", "evaluate", "set"])
    def test_a_path_in_a_name(self, served: Agent, tmp_path: Path, name: str, place: str) -> None:
        body = body_of(fake_job(tmp_path / "job"))
        if place == "artifact":
            body["artifact"]["files"][0]["name"] = name
        elif place == "example":
            body["example"][0]["name"] = name
        elif place == "evaluate":
            body["evaluate"]["val"][0]["name"] = name
        else:
            body["evaluate"] = {name: body["evaluate"]["val"]}
        answer = submit(served, body)
        assert answer.status_code == 422 and "no plain file name" in answer.json()["error"]

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            ({"backend": "os:system"}, "an agent runs onnxruntime, openvino"),
            ({"backend": "tests.faulty_backend:Faulty"}, "and nothing else"),
            ({"options": {"browser": "/bin/sh"}, "backend": "browser"}, "only options whose values are listed"),
            ({"options": {"python": "/bin/sh"}}, "only options whose values are listed"),
            ({"options": {"layout": "other"}, "backend": "litert"}, "must be one of nchw, nhwc"),
            ({"source": {"model": "/etc/passwd"}}, "Extra inputs are not permitted"),
            ({"python": "/bin/sh"}, "Extra inputs are not permitted"),
            ({"artifact": None}, "artifact is missing"),
            ({"example": []}, "measure is set and example is not"),
            ({"threads": 0}, "threads: Input should be greater"),
            ({"batch": "1"}, "batch: Input should be a valid integer"),
            ({"limits": {"time_limit_s": 1e9, "memory_limit_mb": 1}}, "memory_limit_mb is 1"),
        ],
    )
    def test_what_could_run_code_or_makes_no_sense(
        self, served: Agent, tmp_path: Path, change: dict[str, Any], why: str
    ) -> None:
        answer = submit(served, body_of(fake_job(tmp_path / "job")) | change)
        assert answer.status_code == 422 and why in answer.json()["error"], answer.text

    def test_a_runtime_that_it_does_not_have(self, served: Agent, tmp_path: Path) -> None:
        body = body_of(fake_job(tmp_path / "job")) | {"backend": "tensorrt", "options": {}}
        answer = submit(served, body)
        assert answer.status_code == 424 and "pip install" in answer.json()["error"]

    def test_a_corrupted_artifact(self, served: Agent, tmp_path: Path) -> None:
        job = onnx_job(tmp_path / "job")
        file = tmp_path / "job" / "artifact" / "model.onnx"
        file.write_bytes(file.read_bytes()[:-300])
        with pytest.raises(ChildError, match=r"load: ONNX Runtime cannot load model\.onnx"):
            served.link().run(job, tmp_path / "out", no_job)

    def test_an_artifact_that_reads_files_of_the_device(self, served: Agent, tmp_path: Path) -> None:
        """ONNX may keep weights in files beside it, named in the graph: a name that leads out must not be followed."""
        onnx = pytest.importorskip("onnx")
        job = onnx_job(tmp_path / "job")
        path = tmp_path / "job" / "artifact" / "model.onnx"
        for outside in ("../../../../../../../../etc/passwd", "/etc/passwd"):
            model = onnx.load(path, load_external_data=False)
            weight = model.graph.initializer[0]
            size = len(weight.raw_data)
            weight.ClearField("raw_data")
            del weight.external_data[:]
            weight.data_location = onnx.TensorProto.EXTERNAL
            for key, value in (("location", outside), ("offset", "0"), ("length", str(size or 4))):
                weight.external_data.add(key=key, value=value)
            path.write_bytes(model.SerializeToString())
            with pytest.raises(ChildError, match="load: ONNX Runtime cannot load"):
                served.link().run(job, tmp_path / "out", no_job)

    def test_one_that_crashes_the_runtime(self, served: Agent, tmp_path: Path) -> None:
        job = fake_job(tmp_path / "job", "tests.fake_backends:FakeSegfaultAtLoad")
        with pytest.raises(ChildError, match="SIGSEGV"):
            served.link().run(job, tmp_path / "out", no_job)
        link = served.link()
        assert link.run(fake_job(tmp_path / "job"), tmp_path / "next", no_job).latency is not None

    def test_one_that_hangs_is_ended_in_time(self, served: Agent, tmp_path: Path) -> None:
        job = fake_job(tmp_path / "job", "tests.fake_backends:FakeHang", limits=ChildLimits(2, 4096))
        with pytest.raises(ChildError, match=r"load: did not end within child\.time_limit_s = 2"):
            served.link().run(job, tmp_path / "out", no_job)

    def test_a_client_that_goes_away_in_the_middle(self, served: Agent, tmp_path: Path) -> None:
        """Its connection ends without a word; after the grace its job is ended."""
        body, files = request_of(fake_job(tmp_path / "job", "tests.fake_backends:FakeHang"))
        with served.http() as http:
            where = f"/v1/sessions/{session_of(http)}/jobs/1"
            http.put(where, json=body.model_dump(mode="json"))
            for sha256 in http.get(where, params={"wait": 5, "since": 0}).json()["missing"]:
                assert http.put(f"{where}/files/{sha256}", content=files[sha256].read_bytes()).status_code == 200
            wait_for(lambda: any(path.name == "pid" for path in served.files()))
        (numbers,) = [path.read_text().split() for path in served.files() if path.name == "pid"]
        wait_for(lambda: not any(Path(f"/proc/{number}").exists() for number in numbers))

    def test_one_that_goes_away_before_its_files_came(self, served: Agent, tmp_path: Path) -> None:
        with served.http() as http:
            http.put(f"/v1/sessions/{session_of(http)}/jobs/1", json=body_of(fake_job(tmp_path / "job")))
        # The next one does not wait longer than the grace.
        assert served.link().run(fake_job(tmp_path / "job"), tmp_path / "out", no_job).runtime

    def test_replayed_requests_do_nothing(self, served: Agent, tmp_path: Path) -> None:
        body, files = request_of(fake_job(tmp_path / "job"))
        content = body.model_dump(mode="json")
        with served.http() as http:
            session = session_of(http)
            where = f"/v1/sessions/{session}/jobs/1"
            first = http.put(where, json=content)
            # The same again, as when its answer was lost, is the same job.
            assert http.put(where, json=content).status_code == first.status_code == 202
            other = http.put(where, json=content | {"seed": 7})
            assert other.status_code == 409 and "a job is done once" in other.json()["error"]
            other = http.put(f"/v1/sessions/{session}/jobs/2", json=content)
            assert other.status_code == 409 and "one job at a time" in other.json()["error"]
            missing = http.get(where, params={"wait": 5, "since": 0}).json()["missing"]
            for sha256 in missing:
                assert http.put(f"{where}/files/{sha256}", content=files[sha256].read_bytes()).status_code == 200
                assert http.put(f"{where}/files/{sha256}", content=files[sha256].read_bytes()).status_code == 409
            wait_for(lambda: http.get(where, params={"wait": 5, "since": 3}).json()["state"] == "done")
            assert http.get(f"{where}/files/../../../lock").status_code == 404
            assert http.get(f"{where}/files/%2e%2e%2flock").status_code == 404
            assert http.delete(where).status_code == 200
            assert http.put(where, json=content).status_code == 409
            http.delete(f"/v1/sessions/{session}")
            for answer in (http.put(where, json=content), http.get(where), http.delete(where)):
                assert answer.status_code == 410

    def test_too_many_clients(self, tmp_path: Path) -> None:
        with agent(tmp_path / "place") as busy, busy.http() as http:
            for _ in range(16):
                session_of(http)
            answer = http.post("/v1/sessions")
            assert answer.status_code == 429 and "16 clients" in answer.json()["error"]


def test_an_agent_that_is_killed_in_the_middle_and_comes_back(tmp_path: Path) -> None:
    with agent(tmp_path / "first") as first:
        link = first.link(patience_s=1.0)
        job = fake_job(tmp_path / "job", "tests.fake_backends:FakeHang")
        killer = threading.Thread(
            target=lambda: (wait_for(lambda: any(p.name == "pid" for p in first.files())), first.process.kill())
        )
        killer.start()
        with pytest.raises(DeviceGone):
            link.run(job, tmp_path / "out", no_job)
        killer.join()
        with agent(tmp_path / "second", port=first.port) as second:
            assert second.port == first.port
            # The client opens a new session by itself.
            assert link.run(fake_job(tmp_path / "next"), tmp_path / "out", no_job).latency is not None
        first.close_links()


def test_a_token_that_was_changed_meanwhile_is_told(tmp_path: Path) -> None:
    with agent(tmp_path / "first") as first:
        link = Link(first.url, first.token, patience_s=1.0)
        link.run(fake_job(tmp_path / "job"), tmp_path / "out", no_job)
    with closing(link), agent(tmp_path / "second", port=first.port, token="another-token-of-tests") as second:
        assert second.is_serving()
        with pytest.raises(TargetUnavailable, match="its token is refused"):
            link.run(fake_job(tmp_path / "job"), tmp_path / "out", no_job)


def test_its_own_memory_stays_flat(tmp_path: Path) -> None:
    """A thousand jobs, over real HTTP, with a fake runner: the children of a real one have memory of their own."""
    with agent(tmp_path / "place", fake_runner=True) as busy:
        link = busy.link()
        job = fake_job(tmp_path / "job")
        for _ in range(100):
            link.run(job, tmp_path / "out", no_job)
        before = resident_bytes(busy.process.pid)
        for _ in range(1000):
            link.run(job, tmp_path / "out", no_job)
        grown = resident_bytes(busy.process.pid) - before
        assert grown < 2 * 2**20, f"{grown / 1000:.0f} bytes a job"
        with busy.http() as http:
            assert http.get("/v1/device").json()["queue"] == 0


def test_a_job_in_json_is_read_as_it_was_written(tmp_path: Path) -> None:
    from autoshrink.agent.wire import JobRequest, job_of

    job = replace(onnx_job(tmp_path / "job"), reference=onnx_job(tmp_path / "job").artifact, seed=3, pin=(0, 1))
    request, files = request_of(job)
    read = JobRequest.model_validate_json(request.model_dump_json())
    assert read == request and set(files) == set(request.files())
    again, places = job_of(read, tmp_path / "there", "cpu")
    assert {path.relative_to(tmp_path / "there").as_posix() for path in places} == {
        "artifact/model.onnx", "reference/model.onnx", "example/image.npy", "inputs/val/image.npy",
    }  # fmt: skip
    assert (again.measure, again.limits, again.pin, again.seed, again.batch) == (
        job.measure, job.limits, job.pin, job.seed, job.batch,
    )  # fmt: skip
