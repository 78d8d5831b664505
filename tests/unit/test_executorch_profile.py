"""What the runtime's event trace says, and what an audit makes of it."""

from __future__ import annotations

import struct
import warnings

import pytest

from autoshrink.backends.executorch_profile import audit_of, kernels_of, profile_of, runs_of
from autoshrink.backends.executorch_trace import Event, events
from autoshrink.types import LOW_BIT_WEIGHTS, Layer

RUNS = [
    ("Default", [("Program::load_method", None)]),
    ("Execute", [("native_call_embedding.out", None), ("OPERATOR_CALL", None)]),
    (
        "Execute",
        [
            ("native_call_native_layer_norm.out", None),
            ("OPERATOR_CALL", None),
            (None, "Convert (NC) #1"),
            (None, "Fully Connected (NC, QS8, QC8W) GEMM #1"),
            ("DELEGATE_CALL", None),
            ("Method::execute", None),
        ],
    ),
]


@pytest.fixture(scope="module")
def trace() -> bytes:
    """Those runs as ExecuTorch's own tools write them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from executorch.devtools.etdump import schema_flatcc as schema
        from executorch.devtools.etdump.serialize import serialize_to_etdump_flatcc

        def event(name: str | None, delegate: str | None) -> object:
            profile = schema.ProfileEvent(
                name=name,
                chain_index=0,
                instruction_id=0,
                delegate_debug_id_int=-1,
                delegate_debug_id_str=delegate,
                delegate_debug_metadata=None,
                start_time=1,
                end_time=2,
            )
            return schema.Event(profile_event=profile, allocation_event=None, debug_event=None)

        runs = [
            schema.RunData(name=name, bundled_input_index=-1, allocators=[], events=[event(*each) for each in listed])
            for name, listed in RUNS
        ]
        content = serialize_to_etdump_flatcc(schema.ETDumpFlatCC(version=0, run_data=runs))
    return struct.pack("<I", len(content)) + content


def test_reads_what_executorch_writes(trace: bytes) -> None:
    assert list(events(trace)) == [
        (name, [Event(one or other or "", 1) for one, other in listed]) for name, listed in RUNS
    ]


def test_kernels_are_those_of_the_last_call(trace: bytes) -> None:
    assert kernels_of(trace) == [
        "native_call_native_layer_norm.out",
        "Convert (NC) #1",
        "Fully Connected (NC, QS8, QC8W) GEMM #1",
    ]


def test_a_profile_has_times_and_the_layers_names(trace: bytes) -> None:
    runs = runs_of(trace)
    assert [len(run) for run in runs] == [1, 3]
    norm, convert, linear = profile_of(runs, ["fc"], 0, "fp32")
    assert (norm.name, norm.ms, norm.has_weights) == ("native_layer_norm", 1e-6, False)
    assert convert.is_conversion
    assert (linear.name, linear.precision, linear.has_weights) == ("fc", "int8", True)


@pytest.mark.parametrize("damage", [b"", b"no trace at all", b"\0\0\0\0\xff\xff\xff\x7fED00"])
def test_a_damaged_trace_is_refused(damage: bytes) -> None:
    with pytest.raises(ValueError, match="trace"):
        list(events(damage))


def test_a_truncated_trace_is_refused(trace: bytes) -> None:
    refused = 0
    for length in range(len(trace) // 4, len(trace), 16):
        try:
            list(events(trace[:length]))
        except ValueError:
            refused += 1
    assert refused


KERNELS = [
    "native_call_embedding.out",
    "Transpose (ND, X32) #1",
    "Convolution (NHWC, F32) IGEMM #1",
    "Convert (NC) #1",
    "Convolution (NHWC, QC8) DWConv #1",
    "Convert (NC, F32, QDU8) #1",
    "Fully Connected (NC, QDU8, F32, QC8W) GEMM #1",
    "Fully Connected (NC, QDU8, F32, QB4W) GEMM #1",
    "Fully Connected (NC, QDU8, F32, QC4W) GEMM #2",
    "Convolution (NHWC, F16) IGEMM #1",
    "Transpose (ND, X32) #2",
    "Batch Matrix Multiply (NC, F32) GEMM #1",
    "native_call_native_layer_norm.out",
    "native_call_convolution.out",
    "native_call_native_layer_norm.out",
]


def test_precisions_are_those_of_the_kernels_names() -> None:
    audit = audit_of(KERNELS, list("abcdefg"), permutations=1, portable_precision="fp32")
    assert audit.layers == (
        Layer("a", "Convolution", "fp32"),
        Layer("b", "Convolution", "int8"),
        Layer("c", "Fully Connected", "int8"),
        Layer("d", "Fully Connected", LOW_BIT_WEIGHTS),
        Layer("e", "Fully Connected", LOW_BIT_WEIGHTS),
        Layer("f", "Convolution", "fp16"),
        Layer("g", "convolution.out", "fp32"),
    )
    # Two conversions to integers, and one transpose that the model did not ask for.
    assert (audit.conversions, audit.kernels) == (3, len(KERNELS))
    assert audit.notes == ("not fully accelerated: outside XNNPACK run convolution, embedding, 2 native_layer_norm",)


def test_layers_that_do_not_fit_their_kernels_are_numbered() -> None:
    audit = audit_of(["Convolution (NHWC, F32) IGEMM #1"], ["a", "b"], permutations=0, portable_precision="fp32")
    assert audit.layers == (Layer("kernel 0", "Convolution", "fp32"),)
    assert audit.notes == ("1 kernels have weights and 2 layers: which is which is not known",)
