"""Forms of a weight: what is chosen, what it takes, and that the written file decodes to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from autoshrink.backends.coreml_store import packed_bits, store_weights
from autoshrink.backends.coreml_vendor import quietly, vendor
from autoshrink.backends.coreml_weights import Stored, repeated, store_floats, store_integers

SHAPE = (16, 16, 3, 3)
Floats = npt.NDArray[np.float32]
random = np.random.default_rng(0)


def normal() -> Floats:
    return random.normal(size=SHAPE).astype(np.float32)


def of_values(count: int) -> Floats:
    weight = random.choice(np.linspace(-1, 1, count), SHAPE).astype(np.float32)
    weight.reshape(-1)[:count] = np.linspace(-1, 1, count)
    return weight


def signs(values: tuple[int, ...]) -> Floats:
    """Some of -1, 0, 1 times another magnitude for each channel."""
    magnitude = random.uniform(0.5, 2, (SHAPE[0], 1, 1, 1))
    return (random.choice(values, SHAPE) * magnitude).astype(np.float32)


def zeros(weight: Floats) -> Floats:
    """The same with three of four values 0."""
    return np.where(random.random(SHAPE) < 0.75, 0, weight).astype(np.float32)


@pytest.mark.parametrize(
    ("make", "system", "words"),
    [
        (normal, 18, "float"),
        (lambda: normal() * np.inf, 18, "float"),
        (lambda: normal()[:2, :2], 18, "float"),
        (lambda: of_values(2), 18, "table of 2^1 values"),
        (lambda: of_values(7), 18, "table of 2^3 values"),
        (lambda: of_values(7), 17, "table of 2^4 values"),
        (lambda: of_values(33), 18, "table of 2^6 values"),
        (lambda: signs((-1, 1)), 18, "table of 2^1 values"),
        (lambda: signs((-1, 0, 1)), 18, "table of 2^2 values"),
        (lambda: signs((-1, 1)), 17, "table of 2^6 values"),
        (lambda: zeros(normal()), 18, "sparse float"),
        (lambda: zeros(normal()), 17, "sparse float"),
        (lambda: zeros(of_values(65)), 18, "sparse table of 2^6 values"),
        (lambda: np.zeros(SHAPE, np.float32), 18, "table of 2^1 values"),
    ],
)
def test_floats_take_the_smallest_form_that_changes_nothing(
    make: Callable[[], Floats], system: int, words: str
) -> None:
    weight = make()
    with np.errstate(invalid="ignore"):
        stored = store_floats(weight, 4, system)
    assert stored.words == words
    np.testing.assert_array_equal(stored.restored(), weight)


def codes(low: int, high: int) -> npt.NDArray[np.int8]:
    return random.integers(low, high + 1, SHAPE).astype(np.int8)


SCALE = random.uniform(0.01, 0.02, (SHAPE[0], 1, 1, 1)).astype(np.float32)


@pytest.mark.parametrize(
    ("integers", "system", "packed", "words"),
    [
        (codes(-127, 127), 18, True, "int8"),
        (codes(-8, 7), 18, True, "int4"),
        (codes(-8, 7), 18, False, "int8"),
        (codes(-8, 7), 17, True, "int8"),
        (codes(-32, 31), 18, True, "table of 2^6 values"),
        (codes(-4, 3), 18, True, "table of 2^3 values"),
        (codes(-127, 127) * (random.random(SHAPE) < 0.2).astype(np.int8), 18, True, "sparse int8"),
    ],
)
def test_integers(integers: npt.NDArray[np.int8], system: int, packed: bool, words: str) -> None:
    stored = store_integers(integers, SCALE, None, 2, system, packed)
    assert stored.words == words
    assert stored.is_int8 == (words == "int8")
    np.testing.assert_array_equal(stored.restored(), integers.astype(np.float32) * SCALE)


def test_integers_with_a_zero_point_by_block() -> None:
    integers = random.integers(0, 16, SHAPE).astype(np.uint8)
    scale = random.uniform(1, 2, (16, 2, 1, 1)).astype(np.float32)
    offset = random.integers(0, 16, (16, 2, 1, 1)).astype(np.uint8)
    stored = store_integers(integers, scale, offset, 2, 18)
    assert (stored.words, stored.is_int8) == ("int4", False)
    expected = (integers[0, 9, 1, 2].astype(np.float32) - offset[0, 1, 0, 0]) * scale[0, 1, 0, 0]
    assert stored.restored()[0, 9, 1, 2] == pytest.approx(expected)


def test_what_a_form_takes() -> None:
    count = int(np.prod(SHAPE))
    assert store_floats(normal(), 2, 18).size(2) == 2 * count + 128
    assert store_floats(of_values(16), 2, 18).size(2) == count // 2 + 16 * 2 + 2 * 128
    assert store_floats(of_values(16), 2, 18).content_bits == 4 * count
    sparse = store_floats(zeros(normal()), 2, 18)
    assert sparse.mask is not None
    assert sparse.content_bits == 16 * int(sparse.mask.sum()) + count


def test_blocks_are_spread_over_what_they_are_for() -> None:
    np.testing.assert_array_equal(repeated(np.array([[1, 2]]), (2, 4)), [[1, 1, 2, 2], [1, 1, 2, 2]])


def test_indices_lie_one_after_the_other_least_bit_first() -> None:
    # 00, 11, 10, 01 and then 11 in the next byte.
    np.testing.assert_array_equal(packed_bits(np.array([0, 3, 2, 1, 3]), 2), [0b01101100, 0b11])


FORMS: dict[str, tuple[int, Stored]] = {
    "table": (18, store_floats(of_values(11), 4, 18)),
    "table of iOS 17": (17, store_floats(of_values(11), 4, 17)),
    "table and scale": (18, store_floats(signs((-1, 0, 1)), 4, 18)),
    "sparse": (18, store_floats(zeros(normal()), 4, 18)),
    "sparse of iOS 17": (17, store_floats(zeros(normal()), 4, 17)),
    "sparse table": (18, store_floats(zeros(of_values(65)), 4, 18)),
    "int8": (18, store_integers(codes(-127, 127), SCALE, None, 4, 18)),
    "int8 of iOS 17": (17, store_integers(codes(-127, 127), SCALE, None, 4, 17)),
    "int8 of one scale, iOS 17": (17, store_integers(codes(-127, 127), SCALE[:1], None, 4, 17)),
    "int4": (18, store_integers(codes(-8, 7), SCALE, None, 4, 18)),
    "sparse int8": (18, store_integers(codes(0, 1) * codes(0, 1) * codes(0, 1) * codes(5, 99), SCALE, None, 4, 18)),
    "uint4 with zero points": (
        18,
        store_integers(codes(0, 15).view(np.uint8), SCALE, np.full(SCALE.shape, 7, np.uint8), 4, 18),
    ),
    "uint8 with zero points, iOS 17": (
        17,
        store_integers(codes(0, 99).view(np.uint8), SCALE, np.full(SCALE.shape, 7, np.uint8), 4, 17),
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_written_file_decodes_to_the_weight(form: str, tmp_path: Path) -> None:
    system, stored = FORMS[form]
    coremltools: Any = vendor()
    from coremltools.converters.mil import Builder

    target = {17: coremltools.target.iOS17, 18: coremltools.target.iOS18}[system]
    builder: Any = Builder

    @builder.program(input_specs=[builder.TensorSpec((1, SHAPE[1], 5, 5))], opset_version=target)  # type: ignore[misc]
    def program(x: Any) -> Any:
        return builder.conv(x=x, weight=builder.const(val=normal(), name="layer0_weight"), name="y")

    with quietly():
        written = store_weights(program, lambda _name, _value: stored, system)
        model = coremltools.convert(
            program,
            convert_to="mlprogram",
            pass_pipeline=coremltools.PassPipeline.EMPTY,
            minimum_deployment_target=target,
            skip_model_load=True,
        )
        model.save(str(tmp_path / "model.mlpackage"))
        model = coremltools.models.MLModel(str(tmp_path / "model.mlpackage"), skip_model_load=True)
        plain = coremltools.optimize.coreml.decompress_weights(model)
        found = coremltools.optimize.coreml.get_weights_metadata(plain, weight_threshold=0)
    assert list(written.values()) == [stored]
    np.testing.assert_allclose(found[next(iter(written))].val, stored.restored(), rtol=1e-6)
    weights = (tmp_path / "model.mlpackage/Data/com.apple.CoreML/weights/weight.bin").stat().st_size
    assert 0.7 < weights / stored.size(4) < 1.3
