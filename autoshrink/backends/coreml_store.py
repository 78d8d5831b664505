"""Weights of a Core ML program (MIL) in the form that was chosen for them: `const` operations become `constexpr_*`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from autoshrink.backends.coreml_weights import BLOCKWISE, Array, Stored

WEIGHTED = ("conv", "conv_transpose", "linear", "matmul")
"""Operations that are layers where one operand is constant."""
OPERANDS = ("weight", "y", "x")
"""Their inputs that may be it."""
CHANNEL_AXIS = 0

Choose = Callable[[str, Array], Stored]
"""Name of a constant and its value -> how it is to lie in the file."""


def store_weights(program: Any, choose: Choose, system: int) -> dict[str, Stored]:
    """Rewrites the weights of all layers in place.

    Args:
        program: a converted program, its constants being float16 or float32.
        choose: asked once for each weight.
        system: iOS version that must read it, 17 or 18.

    Returns:
        Name of the variable that a layer now reads -> how it is stored, of every weight.
    """
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil.scope import ScopeInfo, ScopeSource

    # Every operation of a program that was traced must tell from where; those that are added here come from nowhere.
    scopes = (
        ScopeInfo(source=ScopeSource.EXIR_STACK_TRACE, data=["weights"]),
        ScopeInfo(source=ScopeSource.EXIR_DEBUG_HANDLE, data=[None]),
    )
    main = program.functions["main"]
    stored: dict[str, Stored] = {}
    with main, Builder.scope(*scopes):
        for weight in weights_of(main.operations):
            chosen = choose(weight.name, weight.val)
            stored[weight.name] = chosen
            if chosen.form == "plain" and chosen.mask is None:
                continue
            constant = weight.op
            build = _build_17 if system < BLOCKWISE else _build
            new = build(Builder, chosen, weight.val.dtype, constant, f"{weight.name}_stored")
            main.replace_uses_of_var_after_op(
                anchor_op=constant, old_var=weight, new_var=new, no_check_var_types=True, force_replace=True
            )
            main.remove_ops([constant])
            stored[new.name] = stored.pop(weight.name)
    return stored


def weights_of(operations: Any) -> list[Any]:
    """The constant float variables of rank 2 and more that layers, and nothing but layers, read as their weight."""
    found: dict[str, Any] = {}
    for operation in operations:
        if operation.op_type not in WEIGHTED:
            continue
        for operand in OPERANDS:
            value = operation.inputs.get(operand)
            if value is None or value.op is None or value.op.op_type != "const" or value.rank < 2:
                continue
            if value.val.dtype.kind == "f" and all(reader.op_type in WEIGHTED for reader in value.child_ops):
                found[value.name] = value
    return list(found.values())


def _build(builder: Any, stored: Stored, dtype: np.dtype[Any], before: Any, name: str) -> Any:
    """The operations of iOS 18."""
    at = {"before_op": before}
    scale = None if stored.scale is None else stored.scale.astype(dtype)
    if stored.mask is not None:
        return _sparse(builder, stored, scale, dtype, at, name)
    if stored.form == "linear":
        kind = _integer(stored.bits, stored.data.dtype == np.int8)
        return builder.constexpr_blockwise_shift_scale(
            data=stored.data.astype(kind), scale=scale, name=name, **_offset(stored, kind), **at
        )
    indices, table = stored.data.astype(_integer(stored.bits, False)), _table(stored, dtype)
    if scale is None:
        return builder.constexpr_lut_to_dense(indices=indices, lut=table, name=name, **at)
    looked_up = builder.constexpr_lut_to_dense(indices=indices, lut=table, name=f"{name}_unscaled", **at)
    return builder.constexpr_blockwise_shift_scale(data=looked_up, scale=scale, name=name, **at)


def _sparse(
    builder: Any, stored: Stored, scale: Array | None, dtype: np.dtype[Any], at: Mapping[str, Any], name: str
) -> Any:
    if stored.mask is None:
        raise ValueError("a dense weight has no mask")
    mask = stored.mask.astype(_integer(1, False))
    values = stored.data[stored.mask]
    if stored.form == "plain":
        return builder.constexpr_sparse_to_dense(nonzero_data=values.astype(dtype), mask=mask, name=name, **at)
    if stored.form == "palette":
        kept, looked_up = builder.constexpr_lut_to_sparse(
            indices_mask=mask,
            indices_nonzero_data=values.astype(_integer(stored.bits, False)),
            lut=_table(stored, dtype),
            name=f"{name}_sparse",
            **at,
        )
    else:
        kind = _integer(stored.bits, stored.data.dtype == np.int8)
        kept, looked_up = builder.constexpr_sparse_blockwise_shift_scale(
            data_mask=mask,
            nonzero_data=values.astype(kind),
            scale=scale,
            name=f"{name}_sparse",
            **_offset(stored, kind),
            **at,
        )
    return builder.constexpr_sparse_to_dense(nonzero_data=looked_up, mask=kept, name=name, **at)


def _build_17(builder: Any, stored: Stored, dtype: np.dtype[Any], before: Any, name: str) -> Any:
    """The operations of iOS 16 and 17: bytes that hold several indices, scales by channel only."""
    shape = np.array(stored.data.shape, np.uint32)
    if stored.mask is not None:
        return builder.constexpr_sparse_to_dense(
            nonzero_data=stored.data[stored.mask].astype(dtype),
            mask=packed_bits(stored.mask.astype(np.uint8), 1),
            shape=shape,
            before_op=before,
            name=name,
        )
    if stored.form == "palette" and stored.table is not None:
        return builder.constexpr_lut_to_dense(
            indices=packed_bits(stored.data, stored.bits),
            lut=stored.table.astype(dtype),
            shape=shape,
            before_op=before,
            name=name,
        )
    if stored.scale is None:
        raise ValueError("integers without a scale")
    scale = stored.scale.reshape(-1).astype(dtype)
    zero = np.zeros(len(scale), stored.data.dtype) if stored.offset is None else stored.offset.reshape(-1)
    one = len(scale) == 1
    return builder.constexpr_affine_dequantize(
        quantized_data=stored.data,
        zero_point=zero[0] if one else zero,
        scale=scale[0] if one else scale,
        axis=CHANNEL_AXIS,
        before_op=before,
        name=name,
    )


def packed_bits(values: Array, bits: int) -> Array:
    """Unsigned values one after the other in `bits` each, the least significant bit first: uint8 [bytes]."""
    fields = np.unpackbits(values.astype(np.uint8).reshape(-1, 1), axis=1, bitorder="little")[:, :bits]
    return np.packbits(fields.reshape(-1), bitorder="little")


def _offset(stored: Stored, kind: Any) -> dict[str, Any]:
    return {} if stored.offset is None else {"offset": stored.offset.astype(kind)}


def _table(stored: Stored, dtype: np.dtype[Any]) -> Array:
    if stored.table is None:
        raise ValueError("a palette has a table")
    return stored.table.astype(dtype).reshape([1] * stored.data.ndim + [-1, 1])


def _integer(bits: int, signed: bool) -> Any:
    """The numpy type of an integer of `bits`, as coremltools marks it."""
    from coremltools.converters.mil.mil import types

    return types.nptype_from_builtin(types.get_nbits_int_builtin_type(bits, signed))
