"""Post-training quantization: known answers on hand-built graphs, kernels and agreement on exported models."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from autoshrink.agreement import sqnr_db
from autoshrink.backends import get_backend
from autoshrink.backends.base import Source
from autoshrink.errors import StageError
from autoshrink.export import export_onnx
from autoshrink.onnx_graph import fixed_batches, quiet_session, run
from autoshrink.search.weight_range import INTEGERS
from autoshrink.target import Precision, Target
from autoshrink.task import Array, Task
from autoshrink.tasks.resnet import ResNet
from autoshrink.techniques.base import Context
from autoshrink.techniques.onnx_int8 import Grid
from autoshrink.techniques.quantize import Quantize
from autoshrink.types import PRECISIONS
from tests.model_tasks import task_of
from tests.processors import LARGEST_WEIGHT, for_kernels_here
from tests.small_models import BUILDERS, tiny_task

OPERATORS = ("Conv", "Gemm", "MatMul", "Add", "Relu", "Clip", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat")
FULL_RANGE = Target(
    name="cpu",
    backend="onnxruntime",
    precisions={
        "fp32": Precision(),
        "fp16": Precision(kernels="storage"),
        "bf16": Precision(kernels="storage"),
        "int8_dynamic": Precision(operators=("MatMul", "Gemm")),
        "int8_static": Precision(operators=OPERATORS),
        "int8_weights": Precision(operators=("MatMul", "Gemm")),
        "int4_weights": Precision(operators=("MatMul", "Gemm")),
    },
)
TARGET = for_kernels_here(FULL_RANGE)


def quantize(source: Path, out: Path, task: Task, scheme: str, target: Target = TARGET, **settings: str | int) -> Path:
    """`source` in `scheme`, as the pipeline would ask for it."""
    technique = Quantize()
    resolved = technique.resolve({"scheme": scheme, **settings}, target)
    technique.transform(source, out, resolved, Context(task, task.model))
    return out


def of_bits(bits: int) -> Target:
    """`FULL_RANGE` with integer weights of 7 or 8 bits."""
    precisions = {
        name: replace(precision, weight_bits=bits) if name in INTEGERS else precision
        for name, precision in FULL_RANGE.precisions.items()
    }
    return replace(FULL_RANGE, precisions=precisions)


def constants(path: Path) -> dict[str, Array]:
    return {value.name: numpy_helper.to_array(value) for value in onnx.load(path).graph.initializer}


def kernels(path: Path, tmp_path: Path) -> Counter[str]:
    """What ONNX Runtime makes of a file: operator type -> how many nodes."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


def agreement(reference: Path, other: Path, task: Task, batch: int = 1) -> float:
    """The worst output's, over 32 samples of val, both in ONNX Runtime."""
    sessions = [quiet_session(path) for path in (reference, other)]
    batches = list(fixed_batches({name: array[:32] for name, array in task.val.inputs.items()}, batch))
    results = [[run(session, rows) for rows in batches] for session in sessions]
    stacked = [{name: np.stack([r[name] for r in rows]) for name in task.outputs} for rows in results]
    return min(sqnr_db(stacked[0][name], stacked[1][name]) for name in task.outputs)


@pytest.fixture(scope="module")
def resnet(tmp_path_factory) -> tuple[Path, Task]:
    """A ResNet(16) with lively batch normalisation, exported."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNet(16)
        for _ in range(3):
            model(torch.randn(8, 1, 28, 28))
    task = task_of(model, ("logits",), image=np.random.default_rng(0).normal(size=(1, 1, 28, 28)).astype(np.float32))
    path = tmp_path_factory.mktemp("resnet") / "m.onnx"
    export_onnx(model, task, 1, path)
    return path, task


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """name, batch -> the exported file and the task of a small model, made once."""
    folder, made = tmp_path_factory.mktemp("exported"), {}

    def get(name: str, batch: int = 1) -> tuple[Path, Task]:
        if (name, batch) not in made:
            task, path = tiny_task(name), folder / f"{name}-{batch}.onnx"
            export_onnx(task.model(), task, batch, path)
            made[name, batch] = path, task
        return made[name, batch]

    return get


def pointwise(tmp_path: Path) -> tuple[Path, Task]:
    """A 1 x 1 convolution whose weights lie on this processor's grid, with samples that lie on the uint8 grid."""
    random = np.random.default_rng(0)
    weight = random.integers(-LARGEST_WEIGHT, LARGEST_WEIGHT + 1, (4, 3, 1, 1)).astype(np.float32) * 2.0**-7
    weight[:, 0] = LARGEST_WEIGHT * 2.0**-7
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "w"], ["y"], "conv")],
        "graph",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 4, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4, 4, 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), tmp_path / "conv.onnx"
    )
    rows = random.integers(0, 256, (16, 3, 4, 4)).astype(np.float32) * 2.0**-5
    rows[0, 0, 0, :2] = 0, 255 * 2.0**-5
    task = task_of(nn.Identity(), x=np.zeros((1, 3, 4, 4), np.float32))
    return tmp_path / "conv.onnx", replace(task, calibration={"x": rows})


def test_a_convolution_on_the_grid_is_exact_to_half_a_step(tmp_path):
    source, task = pointwise(tmp_path)
    out = quantize(source, tmp_path / "int8.onnx", task, "int8_static")
    values = constants(out)
    assert values["x_scale"] == 2.0**-5 and values["x_zero_point"] == 0
    np.testing.assert_array_equal(values["w_scale"], np.full(4, 2.0**-7, np.float32))
    np.testing.assert_array_equal(values["w_quantized"] * 2.0**-7, constants(source)["w"])
    for rows in fixed_batches(task.calibration, 1):
        exact = run(quiet_session(source), rows)["y"]
        found = run(quiet_session(out), rows)["y"]
        assert np.abs(found - exact).max() <= values["y_scale"] / 2 * 1.0001


@pytest.mark.parametrize(("bits", "end"), [(8, 127), (7, 64)])
def test_weights_are_symmetric_per_channel_and_rectified_activations_start_at_zero(resnet, tmp_path, bits, end):
    source, task = resnet
    target = of_bits(bits)
    before, after = constants(source), constants(quantize(source, tmp_path / "m.onnx", task, "int8_static", target))
    weights = [name for name in before if name.endswith(".weight")]
    assert len(weights) == 10
    for name in weights:
        largest = np.abs(before[name]).reshape(len(before[name]), -1).max(1)
        np.testing.assert_allclose(after[f"{name}_scale"], largest / end, rtol=1e-6)
        assert np.abs(after[f"{name}_quantized"].astype(int)).max() == end
        assert after[f"{name}_quantized"].dtype == np.int8 and not after[f"{name}_zero_point"].any()
        restored = after[f"{name}_quantized"] * after[f"{name}_scale"].reshape(-1, *[1] * (before[name].ndim - 1))
        assert np.all(np.abs(restored - before[name]).reshape(len(largest), -1).max(1) <= largest / end / 2 * 1.001)
        assert name not in after
    assert after["stem.2/Relu_zero_point"] == 0 and after["stem.2/Relu_zero_point"].dtype == np.uint8


def test_every_layer_of_a_residual_network_runs_in_8_bit(resnet, tmp_path):
    source, task = resnet
    out = quantize(source, tmp_path / "m.onnx", task, "int8_static")
    found = kernels(out, tmp_path)
    assert found["QLinearConv"] == 9 and found["QGemm"] == 1 and found["QLinearAdd"] == 3
    assert found["QLinearGlobalAveragePool"] == 1
    # One conversion at each end, none between, and nothing in float.
    assert found["QuantizeLinear"] == found["DequantizeLinear"] == 1
    assert not {"Conv", "FusedConv", "Gemm", "Add", "Relu", "ReduceMean"} & set(found)
    assert agreement(source, out, task) > 30


@pytest.mark.parametrize(("keep_float", "quantized"), [("first", (8, 1)), ("last", (9, 0)), ("first_last", (8, 0))])
def test_layers_can_be_kept_in_float(resnet, tmp_path, keep_float, quantized):
    source, task = resnet
    out = quantize(source, tmp_path / "m.onnx", task, "int8_static", keep_float=keep_float)
    found = kernels(out, tmp_path)
    assert (found["QLinearConv"], found["QGemm"]) == quantized
    assert ("stem.0.weight" in constants(out)) == keep_float.startswith("first")
    assert ("head.weight" in constants(out)) == keep_float.endswith("last")


def test_sizes_follow_from_the_elements(resnet, tmp_path):
    source, task = resnet
    before = constants(source)
    structure = source.stat().st_size - sum(value.nbytes for value in before.values())
    large = sum(value.size for value in before.values() if value.size >= 256)
    small = sum(value.size for value in before.values() if value.size < 256)
    half = quantize(source, tmp_path / "half.onnx", task, "fp16")
    assert sum(value.nbytes for value in constants(half).values()) == 2 * large + 4 * small
    assert half.stat().st_size < 2 * large + 4 * small + 2 * structure
    whole = quantize(source, tmp_path / "int8.onnx", task, "int8_static")
    elements = sum(value.size for name, value in before.items() if name.endswith(".weight"))
    channels = sum(value.size for name, value in before.items() if not name.endswith(".weight"))
    # A channel has a weight scale and zero point (4 + 1 bytes) and a bias with scale and zero point (4 + 4 + 4).
    assert sum(value.nbytes for value in constants(whole).values()) <= elements + 17 * channels + 5 * len(before)


def test_half_precision_of_what_it_can_hold_is_exact(tmp_path):
    source, task = pointwise(tmp_path)
    model = onnx.load(source)
    weight = (np.arange(300, dtype=np.float32).reshape(100, 3, 1, 1) - 150) * 2.0**-3
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 100
    onnx.save(model, source)
    for scheme in ("fp16", "bf16"):
        out = quantize(source, tmp_path / f"{scheme}.onnx", task, scheme)
        assert constants(out)["w/float16"].dtype == np.float16
        for rows in fixed_batches(task.calibration, 1):
            np.testing.assert_array_equal(run(quiet_session(out), rows)["y"], run(quiet_session(source), rows)["y"])


@pytest.mark.parametrize("worst", [65505.0, -1e9])
def test_weights_beyond_half_precision_are_refused_by_name(resnet, tmp_path, worst):
    source, task = resnet
    model = onnx.load(source)
    for initializer in model.graph.initializer:
        if initializer.name == "blocks.1.conv2.weight":
            values = numpy_helper.to_array(initializer).copy()
            values.flat[5] = worst
            initializer.CopyFrom(numpy_helper.from_array(values, initializer.name))
    onnx.save(model, tmp_path / "large.onnx")
    with pytest.raises(StageError, match=r"weight 'blocks.1.conv2.weight' holds .*; float16 ends at 65504"):
        quantize(tmp_path / "large.onnx", tmp_path / "m.onnx", task, "fp16")


@pytest.mark.parametrize("scheme", ["fp16", "int8_dynamic", "int8_static", "int8_weights", "int4_weights"])
def test_it_is_pure_quiet_and_repeatable(resnet, tmp_path, scheme, capfd):
    source, task = resnet
    before = source.read_bytes()
    for name in ("a", "b"):
        quantize(source, tmp_path / name, task, scheme)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() != before
    assert source.read_bytes() == before
    assert [path.name for path in source.parent.iterdir()] == [source.name]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert str(tmp_path.parent).encode() not in (tmp_path / "a").read_bytes()
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("calibration", ["minmax", "percentile"])
@pytest.mark.parametrize("name", BUILDERS)
def test_every_kind_of_model_in_8_bit(exported, tmp_path, name, calibration):
    source, task = exported(name)
    out = quantize(source, tmp_path / "m.onnx", task, "int8_static", calibration=calibration)
    assert agreement(source, out, task) > 30


@pytest.mark.parametrize("name", ["transformer", "fused_qkv", "tied", "two_outputs"])
def test_dynamic_8_bit(exported, tmp_path, name):
    source, task = exported(name)
    out = quantize(source, tmp_path / "m.onnx", task, "int8_dynamic")
    assert agreement(source, out, task) > 30
    assert out.stat().st_size < source.stat().st_size
    assert any(kind.startswith(("MatMulInteger", "DynamicQuantizeMatMul")) for kind in kernels(out, tmp_path))


def test_a_batch_of_more_rows_than_divide_the_samples(exported, tmp_path):
    source, task = exported("cnn", 6)
    out = quantize(source, tmp_path / "m.onnx", task, "int8_static", samples=40)
    assert agreement(source, out, task, 6) > 30


@pytest.mark.parametrize("name", ["cnn", "transformer"])
@pytest.mark.parametrize("scheme", ["fp16", "int8_static"])
def test_openvino_computes_the_same(exported, tmp_path, name, scheme):
    pytest.importorskip("openvino")
    source, task = exported(name)
    backend = get_backend("openvino")
    files = backend.compile(
        Source(quantize(source, tmp_path / "m.onnx", task, scheme), scheme), tmp_path / "artifact"
    ).files
    session = backend.load(tmp_path / "artifact", files, scheme, 1)
    reference = quiet_session(source)
    batches = list(fixed_batches({name: array[:16] for name, array in task.val.inputs.items()}, 1))
    expected = np.stack([run(reference, rows)["logits"] for rows in batches])
    found = np.stack([session.run(rows)["logits"] for rows in batches])
    assert sqnr_db(expected, found) > (60 if scheme == "fp16" else 30)
    audit = session.audit()
    assert audit.int8_layers == (0 if scheme == "fp16" else len(audit.layers))


class SharedConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.conv(torch.relu(self.conv(x)))
        return out


@pytest.mark.parametrize("keep_float", ["none", "first"])
def test_a_weight_of_two_layers(tmp_path, keep_float):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SharedConvolution()
    task = task_of(model, x=np.zeros((1, 3, 6, 6), np.float32))
    export_onnx(model, task, 1, tmp_path / "m.onnx")
    out = quantize(tmp_path / "m.onnx", tmp_path / "int8.onnx", task, "int8_static", keep_float=keep_float)
    assert kernels(out, tmp_path)["QLinearConv"] == (2 if keep_float == "none" else 1)
    assert agreement(tmp_path / "m.onnx", out, task) > 30


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scores = self.fc(x) @ x.mT
        mask = torch.full((4, 4), -torch.inf).triu(1)
        return torch.softmax(scores + mask, -1) @ x


def test_masked_scores_stay_float(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Masked()
    task = task_of(model, x=np.zeros((1, 4, 4), np.float32))
    export_onnx(model, task, 1, tmp_path / "m.onnx")
    out = quantize(tmp_path / "m.onnx", tmp_path / "int8.onnx", task, "int8_static")
    assert agreement(tmp_path / "m.onnx", out, task) > 25


def test_a_bias_of_a_sequence_layer_has_32_bits(exported, tmp_path):
    source, task = exported("transformer")
    values = constants(quantize(source, tmp_path / "m.onnx", task, "int8_static"))
    assert values["expand.bias_quantized"].dtype == np.int32
    assert values["expand.weight_scale"].shape == (64,)


def test_dynamic_without_matrix_products_is_refused(exported, tmp_path):
    source, task = exported("conv_only")
    with pytest.raises(StageError, match="no Gemm/MatMul with constant weights is in the graph"):
        quantize(source, tmp_path / "m.onnx", task, "int8_dynamic")


def test_static_without_anything_to_quantize_is_refused(tmp_path):
    source, task = pointwise(tmp_path)
    with pytest.raises(StageError, match=r"quantize: no .*Conv.* that could be quantized"):
        quantize(source, tmp_path / "m.onnx", task, "int8_static", keep_float="first")


@pytest.mark.parametrize(
    ("calibration", "words"),
    [
        ({"image": np.zeros((9, 1, 32, 32), np.float32)}, r"shape \[9, 1, 32, 32\]; the model takes \[1, 1, 28, 28\]"),
        ({"picture": np.zeros((9, 1, 28, 28), np.float32)}, "no input 'image'; it has picture"),
        ({"image": np.zeros((0, 1, 28, 28), np.float32)}, "'image' has no rows"),
    ],
)
def test_a_calibration_set_that_does_not_fit_is_refused(resnet, tmp_path, calibration, words):
    source, task = resnet
    with pytest.raises(StageError, match=words):
        quantize(source, tmp_path / "m.onnx", replace(task, calibration=calibration), "int8_static")
    assert not (tmp_path / "m.onnx").exists()


def test_settings_are_resolved_by_the_target():
    technique = Quantize()
    assert technique.resolve({"scheme": "fp16"}, TARGET) == {"scheme": "fp16"}
    assert technique.resolve({"scheme": "int8_static", "samples": 64}, FULL_RANGE) == {
        "scheme": "int8_static",
        "calibration": "minmax",
        "samples": 64,
        "keep_float": "none",
        "grid": {"operators": sorted(OPERATORS), "activations": "uint8", "per_channel": True},
    }
    assert set(technique.resolve({"scheme": "int8_dynamic"}, TARGET)) == {"scheme", "grid"}
    for bits in (7, 8):
        grid = technique.resolve({}, of_bits(bits))["grid"]
        assert Grid.from_json(grid).to_json() == grid
        assert Grid.from_json(grid).weight_bits == bits


def test_a_scheme_that_the_target_lacks_is_refused():
    target = Target(name="plain", backend="onnxruntime", precisions={"fp32": Precision(), "fp16": Precision()})
    with pytest.raises(StageError, match="target plain has no int8_static; it has fp32, fp16"):
        Quantize().resolve({"scheme": "int8_static"}, target)


def test_fp32_is_off_and_the_rest_is_on():
    assert Quantize().is_off({"scheme": "fp32"})
    assert not any(Quantize().is_off({"scheme": scheme}) for scheme in PRECISIONS[1:])
    assert not Quantize().trains


def test_the_fingerprint_is_of_the_calibration_set():
    task = task_of(nn.Identity(), x=np.zeros((1, 3), np.float32))
    same = replace(task, calibration={"x": task.calibration["x"].copy()}, metric_name="other")
    other = replace(task, calibration={"x": task.calibration["x"] + 1})
    assert Quantize().fingerprint(task) == Quantize().fingerprint(same) != Quantize().fingerprint(other)
