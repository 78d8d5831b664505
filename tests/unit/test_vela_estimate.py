"""What is read from Vela, on files built by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autoshrink.backends.vela_estimate import ACCELERATORS, SYSTEMS, estimate, left_note, per_layer
from autoshrink.errors import StageError
from tests import tflm_files

WEIGHTS = np.arange(-32, 32).reshape(8, 8).astype(np.int8)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "model.tflite"
    path.write_bytes(content)
    return path


def test_each_operator_has_its_part_of_the_cycles(tmp_path: Path) -> None:
    path = written(tmp_path, tflm_files.pointwise(WEIGHTS))
    (kernel,), source = per_layer(path, "ethos-u55-128")
    assert (kernel.kind, kernel.has_weights, kernel.precision) == ("Conv2D", True, "int8")
    assert kernel.ms == pytest.approx(estimate(path, "ethos-u55-128").figures["npu_ms"].value)
    assert "ethos-u55-128, Ethos_U55_High_End_Embedded" in source


@pytest.mark.parametrize("accelerator", ["ethos-u55-128", "ethos-u65-256", "ethos-u85-256"])
def test_figures_are_estimates_with_their_source(tmp_path: Path, accelerator: str) -> None:
    found = estimate(written(tmp_path, tflm_files.pointwise(WEIGHTS)), accelerator)
    assert set(found.figures) == {"npu_cycles", "npu_ms", "npu_coverage", "npu_sram", "npu_flash"}
    for name, figure in found.figures.items():
        # The file that Vela makes for the device is there.
        assert figure.estimate == (name != "npu_flash")
        assert accelerator in figure.source
        assert SYSTEMS[accelerator.rpartition("-")[0]][0] in figure.source
    assert found.figures["npu_coverage"].value == 100
    assert found.figures["npu_cycles"].value >= 1
    # All three systems run at 500 MHz.
    assert found.figures["npu_ms"].value == pytest.approx(found.figures["npu_cycles"].value / 500e3, rel=0.01)
    assert found.notes == ()


def test_another_system_has_another_clock(tmp_path: Path) -> None:
    model = written(tmp_path, tflm_files.pointwise(WEIGHTS))
    slow = estimate(model, "ethos-u55-128", "Ethos_U55_Deep_Embedded").figures
    assert slow["npu_ms"].value == pytest.approx(slow["npu_cycles"].value / 200e3, rel=0.01)


def test_what_cannot_be_placed_is_said_and_has_no_figures(tmp_path: Path) -> None:
    found = estimate(written(tmp_path, tflm_files.elementwise("RELU", [1, 8])), "ethos-u55-128")
    assert found.figures == {}
    assert len(found.notes) == 1
    assert "no figures" in found.notes[0]
    assert "Float32" in found.notes[0]


def test_what_stays_is_counted_by_kind_with_the_first_reason() -> None:
    said = (
        "Warning (supported operators) operator: MEAN, ofm: '<unnamed>'\n"
        "Reason: Unsupported depth-reduction.  IFM: 1, 64, 7, 7\nReduction over depth is only supported if h == 1\n\n"
        "Warning (supported operators) operator: MEAN, ofm: '<unnamed>'\nReason: another\n"
    )
    assert left_note(["MEAN", "QUANTIZE", "MEAN"], said, "Vela") == (
        "Vela leaves to the main processor, whose time is not in its cycles: "
        "2 MEAN (Unsupported depth-reduction. IFM: 1, 64, 7, 7), 1 QUANTIZE",
    )
    assert left_note([], said, "Vela") == ()


def test_a_crash_is_a_note(tmp_path: Path) -> None:
    # Weights of 4 bits: the reason why they are unpacked for an Ethos-U.
    found = estimate(written(tmp_path, tflm_files.pointwise(WEIGHTS.clip(-8, 7), bits=4)), "ethos-u55-128")
    assert found.figures == {}
    assert "gives no estimate" in found.notes[0]


@pytest.mark.parametrize(
    ("system", "memory", "says"),
    [
        ("Ethos_U55_Nonsense", "", "Ethos_U55_Nonsense"),
        ("", "Nonsense", "Nonsense"),
        ("Ethos_U65_High_End", "", "none of ethos-u55-128"),
    ],
)
def test_a_wrong_system_is_refused(tmp_path: Path, system: str, memory: str, says: str) -> None:
    with pytest.raises(StageError, match=says) as caught:
        estimate(written(tmp_path, tflm_files.pointwise(WEIGHTS)), "ethos-u55-128", system, memory)
    assert caught.value.stage == "compile"
    assert "\n" not in caught.value.reason


def test_every_accelerator_has_a_usual_system() -> None:
    assert {accelerator.rpartition("-")[0] for accelerator in ACCELERATORS} == set(SYSTEMS)
