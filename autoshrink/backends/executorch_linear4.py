"""Linear layers with 4-bit weights in blocks, as XNNPACK's blockwise kernel takes them."""

from __future__ import annotations

import operator

import torch

# Registers the operators that XNNPACK's partitioner matches.
import torchao.quantization.quant_primitives  # noqa: F401
from torch import fx

from autoshrink.backends.base import Source
from autoshrink.backends.executorch_graph import add_constant, aten, tensor_of
from autoshrink.program import WRAPPER, Node, weight_layers

LOW, HIGH = -8, 7
SHARES = (*(0.7 + 0.025 * step for step in range(17)), LOW / -HIGH)
"""Of the step that puts a block's largest magnitude at -8; the last one puts it at 7."""
LEAST_STEP = 2.0**-100


def quantize_linear4(module: fx.GraphModule, source: Source) -> fx.GraphModule:
    """The module whose linear layers have 4-bit weights; inputs are rounded to 8 bits of the range of each row.

    A layer whose inputs are no multiple of the block stays float.
    """
    block = int(source.settings.get("block", 32))
    for name, node in list(weight_layers(module)):
        weight = node.args[1]
        if node.target == aten.linear.default and weight.op == "get_attr":
            values = tensor_of(module, weight)
            if values.shape[1] % block == 0:
                _quantize(module, node, name, values, block)
    return module


def rounded4(weight: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Integers from -8 to 7, int8 [N, K], and the step of each block, float32 [N, K / block], without zero points.

    The step is the one of least squared error among shares of the block's largest magnitude; it is a number of
    bfloat16, in which the kernel keeps it.
    """
    blocks = weight.reshape(len(weight), -1, block)
    largest = blocks.abs().amax(-1)
    best_error = torch.full_like(largest, torch.inf)
    best = largest
    for share in SHARES:
        step = (largest * share / -LOW).clamp_min(LEAST_STEP).to(torch.bfloat16).float()
        error = ((blocks / step[..., None]).round().clamp(LOW, HIGH) * step[..., None] - blocks).square().sum(-1)
        better = error < best_error
        best_error, best = torch.where(better, error, best_error), torch.where(better, step, best)
    integers = (blocks / best[..., None]).round().clamp(LOW, HIGH).to(torch.int8)
    return integers.reshape(weight.shape), best


def _quantize(module: fx.GraphModule, node: Node, name: str, weight: torch.Tensor, block: int) -> None:
    ops = torch.ops.torchao
    integers, scale = rounded4(weight, block)
    own = f"{WRAPPER}{name}.weight_integers"
    stored = add_constant(module, own, integers, node)
    steps = add_constant(module, f"{own}_scale", scale, node)
    zeros = add_constant(module, f"{own}_zero_point", torch.zeros(scale.shape, dtype=torch.int8), node)
    value = node.args[0]
    row = [1] * (value.meta["val"].ndim - 1) + [weight.shape[1]]
    graph = module.graph
    with graph.inserting_before(node):
        back = graph.call_function(
            ops.dequantize_affine.default, (stored, [1, block], steps, zeros, torch.int8, LOW, HIGH)
        )
        chosen = graph.call_function(
            ops.choose_qparams_affine.default, (value, "ASYMMETRIC", row, torch.int8, -128, 127, None, None, torch.int8)
        )
        at = tuple(graph.call_function(operator.getitem, (chosen, index)) for index in range(2))
        rounded = graph.call_function(ops.quantize_affine.default, (value, row, *at, torch.int8, -128, 127))
        restored = graph.call_function(ops.dequantize_affine.default, (rounded, row, *at, torch.int8, -128, 127))
    node.update_arg(0, restored)
    node.update_arg(1, back)
