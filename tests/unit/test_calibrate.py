"""Calibration: ranges with known answers."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from autoshrink.errors import StageError
from autoshrink.techniques.calibrate import BINS, TAIL, collect_ranges, histogram, spread, tail_range


def model(*nodes: onnx.NodeProto, **constants: np.ndarray) -> onnx.ModelProto:
    """float32 x [2, 4] -> y [2, 4] by `nodes`."""
    graph = helper.make_graph(
        list(nodes),
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 4])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


DOUBLED = (helper.make_node("Add", ["x", "x"], ["a"], "double"), helper.make_node("Relu", ["a"], ["y"], "rectify"))


def test_minmax_is_over_all_samples():
    samples = np.array([[0, 1, 2, 3], [-5, 0, 0, 0], [0, 0, 0, 10.5]], np.float32)
    ranges = collect_ranges(model(*DOUBLED), {"x": samples}, 2, "minmax")
    assert ranges.of == {"x": (-5, 10.5), "a": (-10, 21), "y": (0, 21)}
    assert not ranges.unbounded


def test_percentile_cuts_the_outliers():
    samples = np.random.default_rng(0).uniform(-1, 1, (10_000, 4)).astype(np.float32)
    samples[0, 0] = 1000
    cut = collect_ranges(model(*DOUBLED), {"x": samples}, 2, "percentile").of
    assert collect_ranges(model(*DOUBLED), {"x": samples}, 2, "minmax").of["x"][1] == 1000
    assert 1 <= cut["x"][1] < 1.5
    assert cut["y"] == (0, pytest.approx(2, abs=0.6))


def test_percentile_of_a_uniform_ramp():
    counts = np.ones(20_000, np.int64)
    low, high = tail_range(counts, 0.0, 20_000.0)
    assert (low, high) == (20_000 * TAIL, 20_000 - 20_000 * TAIL)


def test_percentile_of_few_values_cuts_nothing():
    assert tail_range(np.array([1, 0, 0, 5]), -2.0, 2.0) == (-2.0, 2.0)


def test_a_constant_activation_has_a_range_of_no_width():
    counts = histogram(np.full(7, 3.0, np.float32), 3.0, 3.0)
    assert counts[0] == 7 and counts.sum() == 7
    assert tail_range(counts, 3.0, 3.0) == (3.0, 3.0)


def test_the_histogram_is_numpys():
    values = np.random.default_rng(0).normal(size=5000).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    expected, _ = np.histogram(values.astype(np.float64), BINS, (low, high))
    found = histogram(values, low, high)
    assert found.sum() == 5000 and found[0] == expected[0] and found[-1] == expected[-1]
    # An edge may round to the neighbouring bin in float32.
    assert np.abs(np.cumsum(found) - np.cumsum(expected)).max() <= 2


@pytest.mark.parametrize("shape", [(64, 28, 28), (3, 5), (1, 100, 100), (16384,)])
def test_spread_meets_every_column(shape):
    columns = np.broadcast_to(np.arange(shape[-1], dtype=np.float32), shape)
    met = spread(np.ascontiguousarray(columns))
    assert len(met) <= 8192
    if len(shape) > 1:
        assert set(met.tolist()) == set(range(shape[-1]))


def test_a_masked_activation_is_unbounded():
    mask = np.array([0, 0, -np.inf, np.finfo(np.float32).min], np.float32)
    masked = model(
        helper.make_node("Add", ["x", "mask"], ["a"], "mask"), helper.make_node("Softmax", ["a"], ["y"]), mask=mask
    )
    ranges = collect_ranges(masked, {"x": np.ones((4, 4), np.float32)}, 2, "percentile")
    assert ranges.unbounded == {"a"}
    assert set(ranges.of) == {"x", "y"}


def test_nan_is_refused_by_name():
    with pytest.raises(StageError, match="activation 'y' is NaN"):
        collect_ranges(model(helper.make_node("Log", ["x"], ["y"])), {"x": -np.ones((2, 4), np.float32)}, 2, "minmax")


def test_progress_is_told():
    told = []
    samples = {"x": np.ones((6, 4), np.float32)}
    collect_ranges(model(*DOUBLED), samples, 2, "percentile", lambda done, total: told.append((done, total)))
    assert told == [(done, 6) for done in range(1, 7)]
