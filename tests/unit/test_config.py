from __future__ import annotations

from pathlib import Path

import pytest

from autoshrink.config import load_space, load_target, profile_folder, profile_names
from autoshrink.errors import ConfigError
from autoshrink.types import Choice, Range


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    return str(path)


def problems(load: object, path: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(path)  # type: ignore[operator]
    return [problem.removeprefix(f"{path}") for problem in caught.value.problems]


@pytest.mark.parametrize("name", profile_names("targets"))
def test_shipped_targets_load_and_are_named_like_their_file(name: str) -> None:
    assert load_target(name).name == name


@pytest.mark.parametrize("name", profile_names("search_spaces"))
def test_shipped_spaces_load_and_are_named_like_their_file(name: str) -> None:
    assert load_space(name).name == name


def test_a_copy_of_a_shipped_target_can_be_edited(tmp_path: Path) -> None:
    text = (profile_folder("targets") / "onnxruntime-cpu.yaml").read_text()
    path = write(tmp_path, text.replace("name: onnxruntime-cpu", "name: my-server").replace("threads: 1", "threads: 4"))
    assert load_target(path).threads == 4
    assert load_target(path).name == "my-server"


def test_every_problem_of_a_target_is_reported_at_once_with_what_is_allowed(tmp_path: Path) -> None:
    found = problems(
        load_target,
        write(
            tmp_path,
            """
name: mine
backend: onnxruntime
threads: "1"
batchh: 2
precisions:
  fp32: {kernel: native}
  int4: {}
limits: {latency_ms: 0}
measuring: {interval: 2}
child: {time_limit_s: 60, speed: 1}
""",
        ),
    )
    by_key = {problem[1:].split(": ")[0]: problem for problem in found}
    assert by_key.keys() == {
        "threads", "batchh", "precisions.fp32.kernel", "precisions.int4", "limits", "measuring", "child.speed"
    }  # fmt: skip
    assert "'1'" in by_key["threads"] and "integer" in by_key["threads"]
    assert "allowed are name, backend, precisions" in by_key["batchh"]
    assert "allowed are kernels, operators" in by_key["precisions.fp32.kernel"]
    assert "'int8_static'" in by_key["precisions.int4"]
    assert "must be over 0" in by_key["limits"]
    assert "0.02 is +- 2 %" in by_key["measuring"]
    assert "time_limit_s, memory_limit_mb" in by_key["child.speed"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [", "is not YAML"),
        ("- a\n- b\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("name: a\n", ":backend: is missing"),
        ("name: a\nbackend: onnx\nprecisions: {fp32: {}}\n", ":backend: 'onnx'; allowed are onnxruntime, openvino"),
        ("name: a/b\nbackend: onnxruntime\nprecisions: {fp32: {}}\n", ":name: 'a/b' may hold letters"),
        ("name: a\nbackend: onnxruntime\nprecisions: {fp16: {}}\n", "precisions has no fp32"),
        ("name: a\nbackend: onnxruntime\nprecisions: {fp32: {}}\nunsupported: {fp32: slow}\n", "one of them"),
        ("name: 2026-01-01\nbackend: onnxruntime\nprecisions: {fp32: {}}\n", "no text, number, list or mapping"),
    ],
)
def test_what_is_wrong_with_a_target_is_named(tmp_path: Path, text: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(load_target, write(tmp_path, text)))


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(ConfigError, match=r"unknown target; there are .*onnxruntime-cpu, openvino-cpu"):
        load_target("toaster")
    with pytest.raises(ConfigError, match="unknown search space; there are full, ptq, standard, tiny"):
        load_space("../targets/onnxruntime-cpu")
    with pytest.raises(ConfigError, match="No such file"):
        load_target("nowhere.yaml")


def test_space_values_lists_and_ranges(tmp_path: Path) -> None:
    space = load_space(
        write(
            tmp_path,
            """
name: mine
techniques:
  quantize: {scheme: int8_static}
  prune:
    ratio: {low: 0.25, high: 0.75, step: 0.25}
    importance: [magnitude, taylor]
""",
        )
    )
    assert list(space.techniques) == ["prune", "quantize"]
    assert space.techniques["prune"]["ratio"] == Range(0.25, 0.75, 0.25)
    assert space.techniques["prune"]["importance"] == Choice(("magnitude", "taylor"))
    assert space.techniques["quantize"]["scheme"] == Choice(("int8_static",))


def test_every_problem_of_a_space_is_reported_at_once(tmp_path: Path) -> None:
    found = problems(
        load_space,
        write(
            tmp_path,
            """
name: my space
color: red
techniques:
  shrink: {}
  prune: {ratio: [0.5, 2], shape: round, importance: [magnitude, magnitude]}
  quantize: {scheme: [int9], calibration: {low: 0, high: 1}, keep_float: []}
  finetune: {epochs: {low: 3, high: 1}}
""",
        ),
    )
    keys = [problem[1:].split(": ")[0] for problem in found]
    assert sorted(keys) == sorted(
        [
            "name", "color", "techniques.shrink", "techniques.prune.ratio", "techniques.prune.shape",
            "techniques.prune.importance", "techniques.quantize.scheme", "techniques.quantize.calibration",
            "techniques.quantize.keep_float", "techniques.finetune.epochs",
        ]
    )  # fmt: skip
    text = "\n".join(found)
    assert "2 not allowed; allowed are numbers from 0 to" in text
    assert "'int9' not allowed; allowed are fp32, fp16" in text
    assert "allowed are student, prune, factorize, finetune" in text
    assert "low 3 and high 1 must satisfy" in text


def test_a_space_may_offer_orders(tmp_path: Path) -> None:
    text = "name: mine\norders: [pipeline, factorize_first]\ntechniques: {prune: {ratio: [0.0, 0.5]}}\n"
    assert load_space(write(tmp_path, text)).orders == ("pipeline", "factorize_first")
    assert load_space("standard").orders == ("pipeline",)


@pytest.mark.parametrize("orders", ["backwards", "[]", "[backwards]", "[pipeline, pipeline]", "[[pipeline]]"])
def test_unknown_orders_are_refused_with_the_known_ones(tmp_path: Path, orders: str) -> None:
    text = f"name: mine\norders: {orders}\ntechniques: {{prune: {{ratio: [0.0, 0.5]}}}}\n"
    (problem,) = problems(load_space, write(tmp_path, text))
    assert problem.startswith(":orders: ")
    assert problem.endswith("must be a list, without repetition, of pipeline, factorize_first, distill_first")


def test_what_a_target_avoids_is_kept_under_canonical_keys(tmp_path: Path) -> None:
    text = """
name: mine
backend: onnxruntime
precisions: {fp32: {}}
avoid:
  prune: slow
  prune.ratio=0.50: half is not enough
  quantize.scheme=int8_dynamic: no kernel
"""
    assert load_target(write(tmp_path, text)).avoid == {
        "prune": "slow",
        "prune.ratio=0.5": "half is not enough",
        "quantize.scheme=int8_dynamic": "no kernel",
    }


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("shrink", "'shrink' is no technique; there are student, prune"),
        ("prune.shape=round", "must be prune or prune.PARAMETER=VALUE; its parameters are ratio, importance"),
        ("prune.ratio", "must be prune or prune.PARAMETER=VALUE; its parameters are ratio, importance"),
        ("prune=0.5", "must be prune or prune.PARAMETER=VALUE"),
        ("prune.ratio=2", "'2' is no value of prune.ratio; allowed are 0 to 0.95"),
        ("prune.ratio=half", "'half' is no value of prune.ratio"),
        ("prune.importance=luck", "'luck' is no value of prune.importance; allowed are magnitude, taylor"),
    ],
)
def test_a_key_that_names_nothing_is_a_problem_of_the_target(tmp_path: Path, key: str, expected: str) -> None:
    text = f"name: mine\nbackend: onnxruntime\nprecisions: {{fp32: {{}}}}\navoid: {{{key}: why, x.y=1: why}}\n"
    first, second = problems(load_target, write(tmp_path, text))
    assert first.startswith(f":avoid.{key}: ")
    assert expected in first
    assert "'x' is no technique" in second
