"""What goes wrong in real life: each fault has a clear outcome, the study goes on, nothing measured is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import TARGET, Workplace

TASK = """
import numpy as np
import torch
from torch import nn

from autoshrink import Split, Task, TrainingSet


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 16, 3, 2, 1)
        self.inner = {inner}
        self.head = nn.Linear(16, 3)

    def forward(self, image):
        return self.head(self.inner(torch.relu(self.conv(image))).mean((2, 3)))


class Branches(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def right(outputs, targets):
    return (outputs["logits"].argmax(1) == targets["label"]).astype(np.float64)


def cross_entropy(outputs, targets):
    return nn.functional.cross_entropy(outputs["logits"], targets["label"]) {loss}


def task():
    random = np.random.default_rng(0)

    def split(count):
        return Split(
            {{"image": random.standard_normal((count, 1, 8, 8)).astype(np.float32)}},
            {{"label": random.integers(0, 3, count)}},
        )

    def model():
        torch.manual_seed(0)
        return Net().eval()

    train = split(256)
    return Task(
        name="own",
        model=model,
        example_inputs={{"image": train.inputs["image"][:1]}},
        outputs={{"logits": "logits"}},
        calibration={{"image": np.zeros({calibration}, np.float32)}},
        val=split(50),
        test=split(50),
        metric=right,
        train=TrainingSet(train, 32),
        loss=cross_entropy,
    )
"""


def own_task(
    place: Workplace, inner: str = "nn.Identity()", loss: str = "", calibration: str = "(64, 1, 8, 8)"
) -> None:
    (place.path / "own.py").write_text(TASK.format(inner=inner, loss=loss, calibration=calibration))


def own_search(*extra: object) -> tuple[object, ...]:
    return ("search", "own.py", "--target", "quick.yaml", "--space", "small.yaml", "--study", "s", *extra)


def test_kill_9_loses_nothing_and_resume_goes_on(place: Workplace) -> None:
    search = subprocess.Popen(
        place.command(*place.search("--trials", 6)), cwd=place.path, env=place.environment(), stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 240
        while len(place.records("s", "quick")) < 2:
            assert search.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
    finally:
        search.send_signal(signal.SIGKILL)
        search.wait()
    kept = place.records("s", "quick")
    assert len(kept) >= 2
    place.ok("resume", "s")
    records = place.records("s", "quick")
    # The test split was scored since; what was measured is untouched.
    measured = [{key: value for key, value in record.items() if not key.startswith("test")} for record in records]
    assert measured[: len(kept)] == [{k: v for k, v in record.items() if not k.startswith("test")} for record in kept]
    assert [record["number"] for record in records] == list(range(6))
    assert len({json.dumps(record["recipe"]) for record in records}) == 6
    assert all(record["outcome"] == "complete" for record in records)


def test_ctrl_c_says_how_to_go_on(place: Workplace) -> None:
    search = subprocess.Popen(
        place.command(*place.search("--trials", 6)),
        cwd=place.path,
        env=place.environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not place.records("s", "quick"):
        assert search.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    search.send_signal(signal.SIGINT)
    _, said = search.communicate(timeout=60)
    assert search.returncode == 130, said
    assert "autoshrink resume" in said and "Traceback" not in said


def test_a_study_that_exists_says_resume(place: Workplace) -> None:
    place.ok(*place.search("--trials", 1))
    assert "autoshrink resume s" in place.refused(2, *place.search("--trials", 1))


def test_two_searches_on_one_study_are_refused(place: Workplace) -> None:
    from autoshrink.records import StudyFolder

    place.ok(*place.search("--trials", 1))
    with StudyFolder.open(place.path / "results" / "s").locked():
        assert "another search is running" in place.refused(2, "resume", "s")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("search", "digits", "--target", "toaster"), "unknown target; there are agent, "),
        (("search", "nothing.py", "--target", "quick.yaml"), "no such file"),
        (("search", "fashion-nano", "--target", "quick.yaml"), "fashion-mini"),
        (("search", "digits", "--target", "quick.yaml", "--space", "all"), "unknown search space"),
        (("search", "digits", "--target", "quick.yaml", "--max-latency", "2"), "such as 2ms"),
        (("search", "digits", "--target", "quick.yaml", "--trials", "0"), "trials"),
        (("search", "digits", "--target", "quick.yaml", "--study", "../x"), "may hold letters"),
        (("resume", "nothing"), "no study here"),
        (("front", "nothing"), "no study here"),
        (("pick", "nothing", "--target", "quick", "--out", "x"), "no study here"),
        (("verify", "nothing"), "nothing"),
        (("report", "nothing"), "no study here"),
    ],
)
def test_bad_input_is_said_in_one_line(place: Workplace, arguments: tuple[str, ...], expected: str) -> None:
    assert expected in place.refused(2, *arguments)


def test_every_problem_of_a_target_file_at_once(place: Workplace) -> None:
    (place.path / "quick.yaml").write_text(TARGET + "threads: 0\ncolour: red\nlimits: {size_bytes: -1}\n")
    said = place.refused(2, *place.search())
    for key in ("quick.yaml:colour", "quick.yaml:limits", "allowed are name"):
        assert key in said


def test_a_task_that_does_not_import(place: Workplace) -> None:
    (place.path / "own.py").write_text("import numpy\nimport no_such_module\n")
    said = place.refused(2, *own_search())
    assert "no_such_module" in said and "own.py" in said and "2" in said


def test_a_model_that_cannot_be_exported_names_op_and_layer(place: Workplace) -> None:
    own_task(place, inner="Branches()")
    said = place.refused(2, *own_search())
    assert "export" in said and "inner" in said and "own.py" in said


def test_a_calibration_set_of_the_wrong_shape(place: Workplace) -> None:
    own_task(place, calibration="(64, 1, 9, 9)")
    said = place.refused(2, *own_search())
    assert "calibration" in said and "(64, 1, 9, 9)" in said


def test_nan_in_training_fails_that_trial_only(place: Workplace) -> None:
    own_task(place, loss="* float('nan') if torch.is_grad_enabled() else 0")
    # The check of the task runs the loss without gradients; only training meets the NaN.
    text = (place.path / "own.py").read_text().replace("* float('nan') if torch.is_grad_enabled() else 0", "")
    text = text.replace(
        'return nn.functional.cross_entropy(outputs["logits"], targets["label"])',
        'loss = nn.functional.cross_entropy(outputs["logits"], targets["label"])\n'
        '    return loss * float("nan") if len(targets["label"]) == 32 else loss',
    )
    (place.path / "own.py").write_text(text)
    place.ok(*own_search("--trials", 6))
    records = place.records("s", "quick")
    for record in records:
        trained = any(stage["technique"] == "finetune" for stage in record["recipe"])
        assert record["outcome"] == ("failed" if trained else "complete"), record["reason"]
        if trained:
            assert "nan" in record["reason"] and "learning_rate" in record["reason"]
    assert any(record["outcome"] == "failed" for record in records)


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("segfault", "SIGSEGV"),
        ("hang", "child.time_limit_s"),
        ("memory", "child.memory_limit_mb"),
    ],
)
def test_a_child_that_dies_fails_that_trial_only(place: Workplace, fault: str, expected: str) -> None:
    """A backend that is ONNX Runtime but for int8 files, on which it dies in the way that is asked for."""
    target = TARGET.replace("backend: onnxruntime", "backend: tests.faulty_backend:FakeFaultyBackend")
    # Memory is filled long before the time is up, also on a machine that does other things.
    limits = "{time_limit_s: 10, memory_limit_mb: 4096}" if fault == "hang" else "{memory_limit_mb: 2048}"
    (place.path / "quick.yaml").write_text(f"{target}child: {limits}\n")
    (place.path / "small.yaml").write_text("name: small\ntechniques: {quantize: {scheme: [fp16, int8_static]}}\n")
    done = place.run(*place.search("--trials", 3), extra={"AUTOSHRINK_TEST_FAULT": fault})
    assert done.returncode == 0, done.stderr
    outcomes = {
        record["recipe"][0]["scheme"] if record["recipe"] else "baseline": record
        for record in place.records("s", "quick")
    }
    assert outcomes["int8_static"]["outcome"] == "failed"
    assert expected in outcomes["int8_static"]["reason"]
    assert outcomes["fp16"]["outcome"] == outcomes["baseline"]["outcome"] == "complete"


def test_a_results_folder_that_cannot_be_written(place: Workplace) -> None:
    (place.path / "results").write_text("a file in the way")
    assert "--results" in place.refused(2, *place.search())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 kB of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"mount is not permitted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_cache_disk_fails_trials_and_loses_nothing(place: Workplace, small_disk: Path) -> None:
    done = place.run(*place.search("--trials", 6), extra={"AUTOSHRINK_CACHE": str(small_disk / "cache")})
    assert "Traceback" not in done.stderr
    records = place.records("s", "quick")
    assert records[0]["outcome"] == "complete"
    failed = [record for record in records if record["outcome"] == "failed"]
    assert failed and all("no space left" in record["reason"].lower() for record in failed)
    assert all("AUTOSHRINK_CACHE" in record["reason"] for record in failed)


def test_a_full_results_disk_stops_the_search_and_resume_goes_on(place: Workplace, small_disk: Path) -> None:
    results = ("--results", small_disk)
    said = place.refused(2, *place.search("--trials", 4, *results))
    assert "No space left" in said or "disk is full" in said
    kept = len(list((small_disk / "s" / "quick" / "trials").glob("[0-9]*.json")))
    subprocess.run(["mount", "-o", "remount,size=50m", str(small_disk)], check=True)
    rows = place.ok("resume", "s", *results)["targets"]["quick"]["trials"]
    assert len(rows) == 4 >= kept
