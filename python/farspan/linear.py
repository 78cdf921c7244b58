"""`farspan.linear`: a matrix product whose rows do not depend on each other."""

from __future__ import annotations

from typing import Any

import numpy as np

from farspan._backend import arrays, cpu


def linear(x: Any, weight: Any, bias: Any = None) -> Any:
    """A linear layer that accumulates in float32 and gives each row the same bits in any batch.

        x @ weight.T + bias

    Args:
        x: `[..., in]`, float32, bfloat16 or float16, the last dimension contiguous.
        weight: `[out, in]`, of any of the three types, whatever that of x is. Half-precision weights are widened as
            they are read.
        bias: `[out]`, float32.

    Returns:
        `[..., out]` of the kind and dtype of x; each number is rounded once, at the end.

    Raises:
        ArgumentError: shapes that do not fit.
        DtypeError: an element type or a kind of object that the argument cannot have.
        BackendError: a tensor that no backend of this build serves, or one that needs a gradient.
    """
    dtype = arrays.large("x", x)
    weight_dtype = arrays.large_like("weight", weight, "x", x, any_float=True)
    bias = arrays.small("bias", bias, x)
    if isinstance(x, np.ndarray):
        return cpu.linear(dtype, weight_dtype, cpu.bits(x), cpu.bits(weight), bias).view(x.dtype)
    from farspan import ops

    return ops.linear(x, weight, bias)


linear.__module__ = "farspan"
