from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoshrink.config import load_target
from autoshrink.devices.base import DeviceGone
from autoshrink.devices.pool import Pool
from autoshrink.devices.seen import all_seen
from autoshrink.errors import ChildError, TargetUnavailable
from autoshrink.isolate.job import Job, Loaded
from autoshrink.isolate.parent import WAITING
from autoshrink.target import ChildLimits
from tests.fake_devices import IDENTITY, FakeDevice

TARGET = load_target("onnxruntime-cpu")
JOB = Job("onnxruntime", 1, 1, ChildLimits(), Loaded(Path("artifact"), ("model.onnx",), "fp32"))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def two(said: list[str]) -> list[FakeDevice]:
    return [FakeDevice(number, TARGET, said.append) for number in range(2)]


@pytest.fixture
def pool(two: list[FakeDevice], said: list[str]) -> Iterator[Pool]:
    made = Pool(two, None, said.append, ask_again_s=0.01)
    made.open()
    yield made
    made.close()


def silent(_stage: str) -> None:
    pass


def test_what_the_first_says_holds_for_all(pool: Pool, two: list[FakeDevice], said: list[str]) -> None:
    assert pool.identity == IDENTITY and pool.state == "ready" and pool.size == 2
    assert f"{two[0].name} is there: Fake-A76, fake64, 4 cores, Linux, fake 1" in said and len(said) == 2
    assert {seen.name for seen in all_seen()} >= {device.name for device in two}


def test_both_work_at_once_and_each_on_one_job(pool: Pool, two: list[FakeDevice], tmp_path: Path) -> None:
    for device in two:
        device.hold = threading.Event()
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(pool.run(JOB, tmp_path / str(n), silent)[1]))
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for device in two:
        assert device.begun.wait(5)
    for device in two:
        assert device.hold
        device.hold.set()
    for thread in threads:
        thread.join(10)
    assert len(results) == 6 and set(results) == {device.name for device in two}
    assert [device.most_at_once for device in two] == [1, 1]


def test_one_that_goes_away_costs_its_measurement_only(
    pool: Pool, two: list[FakeDevice], said: list[str], tmp_path: Path
) -> None:
    two[0].gone = [DeviceGone("the cable was pulled")]
    two[0].absent = 1000
    _, name = pool.run(JOB, tmp_path / "work", silent)
    assert name == two[1].name and len(two[0].runs) == len(two[1].runs) == 1
    # What the first had measured so far is not there any more, and does not count.
    assert (tmp_path / "work" / "samples.npy").read_text() == "half of it"
    assert any("went away: the cable was pulled; its measurement is done again" in line for line in said)


def test_the_only_one_is_waited_for(said: list[str], tmp_path: Path) -> None:
    device = FakeDevice(0, TARGET, said.append)
    pool = Pool([device], None, said.append, ask_again_s=0.01)
    pool.open()
    device.gone = [DeviceGone("the lid was closed")]
    device.absent = 3
    stages: list[str] = []
    assert pool.run(JOB, tmp_path, stages.append)[1] == device.name
    assert len(device.runs) == 2 and device.absent == 0 and WAITING in stages


def test_one_that_does_not_come_back_ends_the_wait(said: list[str], tmp_path: Path) -> None:
    device = FakeDevice(0, TARGET, said.append)
    pool = Pool([device], None, said.append, ask_again_s=0.01)
    pool.open()
    device.gone, device.absent = [DeviceGone("stolen")], 10**6
    with pytest.raises(TargetUnavailable, match=r"no device came within 0\.5 s: .*does not answer"):
        pool.run(JOB, tmp_path, silent)


def test_an_artifact_that_takes_its_devices_down_is_blamed(pool: Pool, two: list[FakeDevice], tmp_path: Path) -> None:
    for device in two:
        device.gone = [DeviceGone(f"{device.name} was reset")] * 3
    with pytest.raises(ChildError, match=r"3 times the device went away.*was reset") as found:
        pool.run(JOB, tmp_path / "work", silent)
    assert Path(found.value.log).read_text().count("was reset") == 3
    assert sum(len(device.runs) for device in two) == 3


def test_who_was_disturbed_does_not_blame_the_artifact(pool: Pool, two: list[FakeDevice], tmp_path: Path) -> None:
    for device in two:
        device.gone = [DeviceGone("the screen was off", disturbed=True)] * 5
    assert pool.run(JOB, tmp_path / "work", silent)[1] in {device.name for device in two}
    assert sum(len(device.runs) for device in two) >= 6


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"processor": "Fake-A55"}, "processor: Fake-A76 and Fake-A55"),
        ({"runtime": "fake 2"}, "runtime: fake 1 and fake 2"),
        ({"cores": "8"}, "cores: 4 and 8"),
    ],
)
def test_devices_that_differ_are_never_mixed(
    said: list[str], tmp_path: Path, changed: dict[str, str], words: str
) -> None:
    alike, other = FakeDevice(0, TARGET, said.append), FakeDevice(1, TARGET, said.append, IDENTITY | changed)
    pool = Pool([alike, other], None, said.append, ask_again_s=0.01)
    pool.open()
    assert pool.size == 1
    for number in range(3):
        pool.run(JOB, tmp_path / str(number), silent)
    assert not other.runs and len(alike.runs) == 3
    assert any(words in line and "never mixed" in line for line in said)


def test_those_of_another_kind_than_the_front_are_refused(said: list[str]) -> None:
    pool = Pool([FakeDevice(0, TARGET, said.append)], IDENTITY | {"processor": "Fake-M1"}, said.append)
    with pytest.raises(TargetUnavailable, match="another device than those of this front"):
        pool.open()


def test_an_update_of_the_runtime_in_the_middle_is_noticed(pool: Pool, two: list[FakeDevice], tmp_path: Path) -> None:
    two[0].runtime = "fake 1.1"
    assert pool.run(JOB, tmp_path / "work", silent)[1] == two[1].name
    assert pool.size == 1 and len(two[0].runs) == 1
    two[1].runtime = "fake 1.1"
    with pytest.raises(TargetUnavailable, match=r"has fake 1\.1 now, and this front is of fake 1"):
        pool.run(JOB, tmp_path / "work", silent)


def test_one_that_comes_back_as_another_is_refused(pool: Pool, two: list[FakeDevice], tmp_path: Path) -> None:
    two[0].gone, two[0].identity = [DeviceGone("it was swapped")], IDENTITY | {"processor": "Fake-A55"}
    pool.run(JOB, tmp_path / "work", silent)
    # It is looked for as soon as a job has nobody else.
    two[1].hold = threading.Event()
    two[1].begun.clear()
    threads = [threading.Thread(target=pool.run, args=(JOB, tmp_path / str(n), silent)) for n in range(2)]
    for thread in threads:
        thread.start()
    until = time.monotonic() + 5
    while pool.size == 2 and time.monotonic() < until:
        time.sleep(0.01)
    two[1].hold.set()
    for thread in threads:
        thread.join(5)
    assert pool.size == 1 and len(two[0].runs) == 1 and len(two[1].runs) == 3


def test_one_that_cannot_run_the_target(said: list[str]) -> None:
    pool = Pool([FakeDevice(0, TARGET, said.append, state="unavailable")], None, said.append)
    with pytest.raises(TargetUnavailable, match="is unavailable: it is broken; mend it"):
        pool.open()


def test_closing_ends_what_waits(pool: Pool, two: list[FakeDevice], tmp_path: Path) -> None:
    for device in two:
        device.hold = threading.Event()
    ended: list[BaseException] = []

    def run(number: int) -> None:
        try:
            pool.run(JOB, tmp_path / str(number), silent)
        except BaseException as error:
            ended.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for device in two:
        assert device.begun.wait(5)
    pool.close()
    for thread in threads:
        thread.join(5)
    assert not any(thread.is_alive() for thread in threads)
    # Two were in the middle and came to their end; the third never began.
    assert [type(error) for error in ended] == [TargetUnavailable] and all(device.closed for device in two)
