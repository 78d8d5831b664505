"""A Core ML program calculated by torch, operation by operation: no Apple device is here that could.

`run_package(package, inputs)` reads the files that ship. coremltools decodes the weights; arithmetic is in float32,
except that what a program casts to float16 is rounded to it. Only the operations of the test models are there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from autoshrink.backends.coreml_package import read_program, signature_of
from autoshrink.backends.coreml_vendor import quietly, vendor

Array = npt.NDArray[np.generic]


def run_package(package: Path, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of the program in `package` for the task's inputs, by the task's names."""
    vendor()
    signature = signature_of(read_program(package))
    values: dict[str, Any] = {port.port: torch.from_numpy(inputs[port.name].copy()) for port in signature.inputs}
    main = _program(package).functions["main"]
    for operation in main.operations:
        outputs = operation.outputs
        if operation.op_type == "const":
            continue
        given = {name: _value(argument, values) for name, argument in operation.inputs.items()}
        found = OPERATIONS[operation.op_type](given)
        assert len(outputs) == 1
        assert tuple(found.shape) == tuple(outputs[0].shape), (operation.op_type, found.shape, outputs[0].shape)
        values[outputs[0].name] = found
    return {port.name: values[port.port].numpy() for port in signature.outputs}


def _program(package: Path) -> Any:
    coremltools = vendor()
    from coremltools.converters.mil.frontend.milproto import load

    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    with quietly():
        plain = coremltools.optimize.coreml.decompress_weights(model)
        spec = plain.get_spec()
        return load.load(spec, spec.specificationVersion, plain.weights_dir)


def _value(argument: Any, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, tuple | list):
        return [_value(each, values) for each in argument]
    if argument is None or argument.name in values:
        return None if argument is None else values[argument.name]
    value = argument.val
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        # Integer arrays say axes and shapes; an integer tensor is a table that is looked up in.
        return torch.from_numpy(value.astype(np.float32)) if value.dtype.kind == "f" else value
    return value.item() if isinstance(value, np.generic) else value


def _conv(given: Mapping[str, Any]) -> torch.Tensor:
    pad = [int(each) for each in given["pad"]] if given["pad_type"] == "custom" else [0, 0, 0, 0]
    assert given["pad_type"] in ("custom", "valid")
    x = functional.pad(given["x"], (pad[2], pad[3], pad[0], pad[1]))
    return functional.conv2d(
        x,
        given["weight"],
        given.get("bias"),
        tuple(int(each) for each in given["strides"]),
        0,
        tuple(int(each) for each in given["dilations"]),
        int(given["groups"]),
    )


def _cast(given: Mapping[str, Any]) -> torch.Tensor:
    x: torch.Tensor = given["x"]
    if given["dtype"] == "fp16":
        return x.half().float()
    return x.float() if given["dtype"] == "fp32" else x.to(torch.int32)


def _quantize(given: Mapping[str, Any]) -> torch.Tensor:
    least, most = (0, 255) if given["output_dtype"] == "uint8" else (-128, 127)
    zero = given.get("zero_point")
    return torch.clamp(torch.round(given["input"] / given["scale"]) + float(zero or 0), least, most)


def _dequantize(given: Mapping[str, Any]) -> torch.Tensor:
    zero = given.get("zero_point")
    return (given["input"] - float(zero or 0)) * given["scale"]


def _attention(given: Mapping[str, Any]) -> torch.Tensor:
    return functional.scaled_dot_product_attention(given["query"], given["key"], given["value"])


def _matmul(given: Mapping[str, Any]) -> torch.Tensor:
    x, y = given["x"], given["y"]
    x = x.transpose(-1, -2) if given.get("transpose_x") else x
    return x @ (y.transpose(-1, -2) if given.get("transpose_y") else y)


def _norm(given: Mapping[str, Any]) -> torch.Tensor:
    shape = given["gamma"].shape
    return functional.layer_norm(given["x"], shape, given["gamma"], given.get("beta"), given["epsilon"])


def _ints(values: Any) -> tuple[int, ...]:
    return tuple(int(each) for each in values)


OPERATIONS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "add": lambda given: given["x"] + given["y"],
    "cast": _cast,
    "clip": lambda given: given["x"].clamp(given["alpha"], given["beta"]),
    "concat": lambda given: torch.cat(given["values"], given["axis"]),
    "conv": _conv,
    "dequantize": _dequantize,
    "expand_dims": lambda given: given["x"].reshape([1, *given["x"].shape]),
    "gather": lambda given: (
        given["x"]
        .index_select(int(given["axis"]), given["indices"].reshape(-1).long())
        .reshape(
            *given["x"].shape[: int(given["axis"])],
            *given["indices"].shape,
            *given["x"].shape[int(given["axis"]) + 1 :],
        )
    ),
    "gelu": lambda given: functional.gelu(given["x"]),
    "greater_equal": lambda given: given["x"] >= given["y"],
    "layer_norm": _norm,
    "linear": lambda given: functional.linear(given["x"], given["weight"], given.get("bias")),
    "matmul": _matmul,
    "max_pool": lambda given: functional.max_pool2d(given["x"], _ints(given["kernel_sizes"]), _ints(given["strides"])),
    "mul": lambda given: given["x"] * given["y"],
    "quantize": _quantize,
    "reduce_mean": lambda given: given["x"].mean(_ints(given["axes"]), keepdim=bool(given["keep_dims"])),
    "reduce_sum": lambda given: (
        given["x"].sum(_ints(given["axes"]), keepdim=bool(given["keep_dims"])).to(given["x"].dtype)
    ),
    "relu": lambda given: given["x"].relu(),
    "reshape": lambda given: given["x"].reshape(_ints(given["shape"])),
    "scaled_dot_product_attention": _attention,
    "select": lambda given: torch.where(given["cond"], given["a"], given["b"]),
    "softmax": lambda given: given["x"].softmax(int(given["axis"])),
    "transpose": lambda given: given["x"].permute(_ints(given["perm"])),
}
