"""Explanations as they are shown and kept: the terminal, the report, changes of recipes and profiles, verdicts."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from autoshrink.agent.wire import JobRequest, job_of, request_of
from autoshrink.bench.explain_cases import benchmark, markdown
from autoshrink.bench.explain_files import CASES
from autoshrink.config import load_target
from autoshrink.dashboard.explain_terminal import bar, explain_renderables
from autoshrink.dashboard.report import write_report
from autoshrink.errors import ConfigError
from autoshrink.explain.apply_file import variants_of
from autoshrink.explain.apply_trial import variant_name
from autoshrink.explain.explanation import FILE, Explanation, Tried, explained, read, write
from autoshrink.explain.findings import Change, Expected, Finding
from autoshrink.explain.run import changed_recipe, changed_target
from autoshrink.isolate.job import Job, JobResult, Loaded
from autoshrink.target import ChildLimits, Measuring
from autoshrink.types import Interval, Kernel, Profile, Recipe, StageSpec
from tests.explain_known import conversion, kernel, known, layer
from tests.fake_study import make_fake_study

MOMENT = Measuring(rounds_min=3, rounds_max=3, turn_ms=1, warm_up_calls=3, time_limit_s=5)
NASTY = "</script><script>alert(1)</script>"
UINT8 = Change("target", "precisions.int8_static.activations", "uint8")
KEEP = Change("recipe", "quantize.keep_float", "none")


def an_explanation(name: str = "a") -> Explanation:
    layers = [layer(name, activation="int8"), layer("b", activation="int8")]
    kernels = [kernel(name, "FusedConv", "fp32", 3.0), kernel("b", "QLinearConv", "int8", 1.0), conversion("q", ms=1.0)]
    found = explained(known(layers, kernels, 10.0), f"file {name}", "onnxruntime-cpu", "invented 1.0", trial=0)
    tried = Tried((UINT8,), 0.5, Interval(0.49, 0.51), 10.0, 5.0, 2.0, (1, 2), (2, 2), 40.0, where="trial 1 of x")
    return found.with_tried((tried,))


class TestVerdicts:
    @pytest.mark.parametrize(
        ("ratio", "low", "high", "verdict"),
        [
            (0.5, 0.48, 0.52, "2.00x as fast"),
            (0.95, 0.90, 0.99, "brought nothing"),
            (0.98, 0.975, 0.985, "brought nothing"),
            (1.2, 1.1, 1.3, "slower: 1.20 times as long"),
            (1.02, 1.01, 1.025, "brought nothing"),
        ],
    )
    def test_only_what_the_interval_allows(self, ratio: float, low: float, high: float, verdict: str) -> None:
        assert Tried((KEEP,), ratio, Interval(low, high)).verdict == verdict

    def test_what_was_not_measured_says_why(self) -> None:
        assert Tried((KEEP,), why="it failed").verdict == "not measured: it failed"


class TestChanges:
    recipe = Recipe(
        (StageSpec.of("prune", {"ratio": 0.5}), StageSpec.of("quantize", {"scheme": "int8_dynamic", "samples": 9}))
    )

    def test_a_setting(self) -> None:
        changed = changed_recipe(self.recipe, "quantize.keep_float", "none")
        assert changed.settings("quantize") == {"scheme": "int8_dynamic", "samples": 9, "keep_float": "none"}
        assert changed.settings("prune") == {"ratio": 0.5}

    def test_another_scheme_has_its_own_defaults(self) -> None:
        changed = changed_recipe(self.recipe, "quantize.scheme", "int8_static")
        assert changed.settings("quantize") == {"scheme": "int8_static"}

    def test_a_technique_goes_or_comes(self) -> None:
        assert changed_recipe(self.recipe, "quantize", None).settings("quantize") is None
        assert changed_recipe(Recipe(), "quantize.scheme", "int8_weights").precision == "int8_weights"

    def test_keys_of_a_profile(self) -> None:
        target = load_target("onnxruntime-cpu")
        assert changed_target(target, UINT8.key, "int8").precisions["int8_static"].activations == "int8"
        assert changed_target(target, "channel_multiple", 16).channel_multiple == 16
        assert changed_target(target, "options.fuse_matmul_add", "off").options["fuse_matmul_add"] == "off"
        for key in ("options.nothing", "precisions.int3.activations", "colour"):
            with pytest.raises(ConfigError, match=f"onnxruntime-cpu:{key}"):
                changed_target(target, key, 1)

    def test_a_changed_profile_is_named_after_what_changed(self) -> None:
        assert variant_name("x", (UINT8, KEEP)) == "x-activations-uint8"
        assert (
            variant_name("x", (UINT8, Change("target", "channel_multiple", 8)))
            == "x-activations-uint8-channel-multiple-8"
        )

    def test_each_change_alone_and_all_together(self) -> None:
        def finding(change: Change | None, ms: float | None) -> Finding:
            return Finding("r", (), "", "", "", None, change, Expected(ms, ""))

        found = variants_of([finding(UINT8, 1.0), finding(KEEP, None), finding(KEEP, 2.0), finding(None, 9.0)])
        assert [(each.changes, each.expected_ms) for each in found] == [
            ((UINT8,), 1.0),
            ((KEEP,), 2.0),
            ((UINT8, KEEP), 3.0),
        ]
        assert variants_of([finding(None, 1.0)]) == []


class TestShown:
    def test_the_terminal_has_kernels_findings_and_what_was_tried(self) -> None:
        console = Console(width=200, record=True, file=StringIO())
        for part in explain_renderables(an_explanation()):
            console.print(part)
        said = console.export_text()
        for words in (
            "a call takes 10.0 ms, layers with weights 40.0 %, conversions 10.0 %, outside kernels 50.0 %",
            "[signed_activations]",
            "[fixed_overhead]",
            "--apply:  file: unsigned_activations",
            "expected: 2.00 ms less",
            "2.00x as fast; time x 0.50 [0.49, 0.51]: 10.0 ms → 5.00 ms",
            "1 of 2 layers in 8 bit → 2 of 2; outputs agree to 40 dB",
        ):
            assert words in said

    def test_bars(self) -> None:
        assert bar(1.0) == "█" * 20
        assert bar(0.025) == "▌"
        assert bar(0.0) == bar(None) == ""

    def test_profiled_times_are_scaled_to_a_plain_call(self) -> None:
        found = explained(known([layer("a")], [kernel("a", "QLinearConv", "int8", 4.0)], 1.0), "f", "t", "r")
        assert found.rows[0].ms == pytest.approx(1.0)
        assert found.rows[0].share == pytest.approx(1.0)
        assert any("4.0 times as long" in note for note in found.notes)

    def test_without_a_device_the_layers_of_the_audit_are_listed(self) -> None:
        from autoshrink.types import Audit, Layer

        nothing = known([], [], None, "coreml", audit=Audit((Layer("conv", "conv", "fp16"),), 0, 1))
        profile = Profile(notes=("not profiled: the device is not here",))
        found = explained(replace(nothing, profile=profile), "f", "coreml-iphone", "coremltools 9.0")
        assert [(row.name, row.precision, row.ms) for row in found.rows] == [("conv", "fp16", None)]
        console = Console(width=120, record=True, file=StringIO())
        for part in explain_renderables(found):
            console.print(part)
        assert "no times: not profiled: the device is not here" in console.export_text()

    def test_the_report_shows_what_is_kept_beside_trials_and_escapes_it(self, tmp_path: Path) -> None:
        study = make_fake_study(tmp_path / "fake-study", 1, 4)
        target = next(iter(study.meta.targets))
        assert "<h3>Where the time goes</h3>" not in write_report(study, tmp_path / "before.html").read_text()
        write(an_explanation(NASTY), study.trial_folder(target, 0))
        page = write_report(study, tmp_path / "after.html").read_text()
        assert "<h3>Where the time goes</h3>" in page
        assert NASTY not in page
        assert "&lt;/script&gt;" in page
        assert "width: 30.00%" in page

    def test_a_damaged_explanation_names_its_file(self, tmp_path: Path) -> None:
        assert read(tmp_path) is None
        (tmp_path / FILE).write_text(json.dumps({"schema": 1, "rows": 3}))
        with pytest.raises(ConfigError, match=FILE):
            read(tmp_path)


class TestProfilesTravel:
    profile = Profile(
        (Kernel("a", "Conv", "int8", 0.5, ((1, 3), ()), ((1, 4),), 12, True), Kernel("q", "Cast", is_conversion=True)),
        0.75, 10, "invented", False, ("a note",),
    )  # fmt: skip

    def test_a_result_survives_json(self) -> None:
        result = JobResult(profile=self.profile)
        assert JobResult.from_json(result.to_json()) == result

    def test_a_job_survives_json_and_the_way_to_an_agent(self, tmp_path: Path) -> None:
        for name in ("model.onnx", "x.npy"):
            (tmp_path / name).write_bytes(b"1")
        job = Job(
            "onnxruntime",
            1,
            1,
            ChildLimits(),
            Loaded(tmp_path, ("model.onnx",), "fp32", {"fuse_matmul_add": "off"}),
            reference=Loaded(tmp_path, ("model.onnx",), "fp32"),
            example=tmp_path,
            profile=7,
        )
        assert Job.from_json(job.to_json()) == job
        request, _ = request_of(job)
        sent = JobRequest.model_validate_json(request.model_dump_json())
        assert sent.problems() == []
        there, _ = job_of(sent, tmp_path / "there", "cpu")
        assert there.profile == 7
        assert there.artifact.options == {"fuse_matmul_add": "off"}
        assert there.reference is not None
        assert there.reference.options is None

    def test_a_profile_needs_an_input(self) -> None:
        with pytest.raises(ValueError, match="profile is set and example is not"):
            Job("onnxruntime", 1, 1, ChildLimits(), Loaded(Path(), ("m",), "fp32"), profile=1)

    def test_an_agent_takes_no_option_of_an_artifact_that_it_would_not_take_of_a_job(self, tmp_path: Path) -> None:
        (tmp_path / "model.onnx").write_bytes(b"1")
        loaded = Loaded(tmp_path, ("model.onnx",), "fp32", {"browser": "/bin/sh"})
        request, _ = request_of(Job("browser", 1, 1, ChildLimits(), loaded))
        assert request.problems() == ["options.browser: an agent takes only options whose values are listed"]


def test_the_benchmark_has_a_row_for_a_case_with_its_interval() -> None:
    (case,) = [each for each in CASES if each.name == "MatMul + Add fusion"]
    report = benchmark([case], "command", MOMENT)
    (row,) = report["rows"]
    assert (row["rule"], row["layers"], row["change"]) == (
        "matmul_add_fusion",
        ["fc"],
        "target: options.fuse_matmul_add: off",
    )
    assert (row["int8_before"], row["int8_after"]) == ((0, 1), (1, 1))
    assert row["ratio_ci"]["low"] <= row["ratio"] <= row["ratio_ci"]["high"]
    json.dumps(report, allow_nan=False)
    assert "| MatMul + Add fusion | onnxruntime-cpu | target: options.fuse_matmul_add: off |" in markdown(report)
