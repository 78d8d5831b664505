"""What a microcontroller's file keeps of a `.tflite`: known answers on files built by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from autoshrink.backends.tflm_model import (
    End,
    WeightKernel,
    ends,
    for_micro,
    operators,
    pack_fours,
    resolver_calls,
    unpack_bits,
    weight_kernels,
)
from autoshrink.backends.tflm_runtime import runtime, schema
from autoshrink.errors import StageError
from tests import tflm_files

WEIGHTS = np.array([[1, 2, 3, 4], [-1, -2, -3, -4], [7, 0, -8, 5]], np.int8)
INPUT = np.array([1, -2, 3, 4], np.int8)
LARGE = WEIGHTS * np.int8(9)
"""Integers that take 8 bits."""
PRODUCTS = [22, -22, 3]


def call(model: bytes, inputs: npt.NDArray[Any] = INPUT) -> list[int]:
    interpreter = runtime().Interpreter.from_bytes(model, arena_size=2**16)
    interpreter.set_input(inputs.reshape(interpreter.get_input_details(0)["shape"]), 0)
    interpreter.invoke()
    return [int(value) for value in interpreter.get_output(0).ravel()]


def parsed(model: bytes) -> Any:
    return schema().ModelT.InitFromObj(schema().Model.GetRootAsModel(model, 0))


@pytest.mark.parametrize(
    "model",
    [
        tflm_files.dense(WEIGHTS),
        tflm_files.dense(WEIGHTS, scales=3),
        tflm_files.dense(WEIGHTS, bits=4),
        tflm_files.dense(WEIGHTS, bits=4, scales=3),
        tflm_files.dense(WEIGHTS, outside=True),
        tflm_files.pointwise(WEIGHTS),
        tflm_files.pointwise(WEIGHTS, bits=4),
    ],
    ids=["dense", "dense by row", "dense 4", "dense 4 by row", "dense outside", "conv", "conv 4"],
)
@pytest.mark.parametrize("pack", [False, True])
def test_computes_what_the_weights_say(model: bytes, pack: bool) -> None:
    made = for_micro(model, pack).content
    assert call(made) == PRODUCTS
    saturated = np.array([100, 100, 100, 100], np.int8)
    assert call(made, saturated) == [127, -128, 127]


def test_weights_behind_the_flatbuffer_come_into_it() -> None:
    outside = tflm_files.dense(WEIGHTS, outside=True)
    assert parsed(outside).buffers[1].data is None
    # The trap: TFLite Micro takes the file, and computes with whatever lies in the arena.
    assert call(outside) != PRODUCTS
    assert for_micro(outside) == for_micro(tflm_files.dense(WEIGHTS))


def test_data_is_aligned() -> None:
    made = for_micro(tflm_files.dense(WEIGHTS)).content
    model = schema().Model.GetRootAsModel(made, 0)
    buffers = [model.Buffers(index) for index in range(model.BuffersLength())]
    places = [buffer._tab.Vector(buffer._tab.Offset(4)) for buffer in buffers if buffer.DataLength()]
    assert len(places) == 2
    assert [place % 16 for place in places] == [0, 0]


def test_only_names_of_ports_and_weights_stay() -> None:
    made = for_micro(tflm_files.pointwise(LARGE)).content
    model = parsed(made)
    assert [tensor.name for tensor in model.subgraphs[0].tensors] == [
        *(b"image", b"layer.weight", None, b"a long name that nobody reads on the device")
    ]
    assert model.description in (None, b"")
    assert ends(made) == (
        [End("image", (1, 1, 1, 4), "int8", 1.0, 0)],
        [End("logits", (1, 1, 1, 3), "int8", 1.0, 0)],
    )
    assert weight_kernels(made) == [WeightKernel("layer", "CONV_2D", "INT8", "INT8")]


@pytest.mark.parametrize(
    ("model", "pack", "stored", "changed"),
    [
        (tflm_files.pointwise(WEIGHTS), True, "INT4", "packed"),
        (tflm_files.pointwise(WEIGHTS), False, "INT8", ""),
        (tflm_files.pointwise(LARGE), True, "INT8", ""),
        (tflm_files.pointwise(WEIGHTS, bits=4), True, "INT4", ""),
        (tflm_files.pointwise(WEIGHTS, bits=4), False, "INT8", "unpacked"),
        (tflm_files.dense(WEIGHTS), True, "INT4", "packed"),
        (tflm_files.dense(WEIGHTS, scales=3), True, "INT8", ""),
        (tflm_files.dense(WEIGHTS, bits=4, scales=3), True, "INT8", "unpacked"),
    ],
)
def test_four_bits_where_a_kernel_takes_them(model: bytes, pack: bool, stored: str, changed: str) -> None:
    made = for_micro(model, pack)
    assert weight_kernels(made.content)[0].weight_type == stored
    assert made.packed == (("layer",) if changed == "packed" else ())
    assert made.unpacked == (("layer",) if changed == "unpacked" else ())
    sizes = [0 if buffer.data is None else len(buffer.data) for buffer in parsed(made.content).buffers]
    # Weights and bias, and nothing of the weights as they were stored before.
    assert sorted(size for size in sizes if size) == ([6, 12] if stored == "INT4" else [12, 12])


def test_floats_stay_what_they_are() -> None:
    made = for_micro(tflm_files.float_dense(WEIGHTS.astype(np.float32)))
    assert made.packed == made.unpacked == ()
    assert weight_kernels(made.content) == [WeightKernel("layer", "FULLY_CONNECTED", "FLOAT32", "FLOAT32")]
    assert call(made.content, INPUT.astype(np.float32)) == PRODUCTS


@pytest.mark.parametrize("depthwise", [False, True])
def test_an_odd_number_of_packed_weights(depthwise: bool) -> None:
    weights = np.array([[1, -8, 7]], np.int8)
    if depthwise:
        assert call(for_micro(tflm_files.depthwise(weights[0])).content, np.array([3, 2, -1], np.int8)) == [3, -16, -7]
    else:
        assert call(for_micro(tflm_files.pointwise(weights)).content, np.array([3, 2, -1], np.int8)) == [3 - 16 - 7]


def test_the_runtime_refuses_what_is_unpacked() -> None:
    with pytest.raises(RuntimeError):
        call(tflm_files.dense(WEIGHTS, bits=4, scales=3))


@pytest.mark.parametrize(("bits", "packed"), [(4, [0x21, 0xF8, 0x07]), (2, [0b10_11_01_00])])
def test_signed_integers_lowest_first(bits: int, packed: list[int]) -> None:
    stored = np.array(packed, np.uint8)
    found = unpack_bits(stored, bits, 5 if bits == 4 else 4)
    assert found.tolist() == ([1, 2, -8, -1, 7] if bits == 4 else [0, 1, -1, -2])
    assert found.dtype == np.int8
    if bits == 4:
        np.testing.assert_array_equal(pack_fours(found), stored)


def test_operators_and_their_calls() -> None:
    assert operators(tflm_files.dense(WEIGHTS)) == ("FULLY_CONNECTED",)
    names = ("CONV_2D", "PADV2", "BATCH_MATMUL", "L2_POOL_2D", "SPACE_TO_BATCH_ND", "RELU6", "CUMSUM", "SELECT_V2")
    assert resolver_calls(names) == (
        *("AddConv2D", "AddPadV2", "AddBatchMatMul", "AddL2Pool2D", "AddSpaceToBatchNd", "AddRelu6", "AddCumSum"),
        "AddSelectV2",
    )
    assert resolver_calls(("UNIDIRECTIONAL_SEQUENCE_LSTM",)) == ("AddUnidirectionalSequenceLSTM",)


@pytest.mark.parametrize("content", [b"", b"TFL3", b"no model" * 9])
def test_what_is_no_model_is_refused(content: bytes) -> None:
    with pytest.raises(StageError, match="no TensorFlow Lite model"):
        operators(content)
