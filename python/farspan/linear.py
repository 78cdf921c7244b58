"""`farspan.linear`: a matrix product whose rows do not depend on each other."""

from __future__ import annotations

from typing import Any

from farspan._backend import arrays
from farspan._backend.settings import NO_BIAS, Bias
from farspan._compute import compute


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
        On a GPU this is torch's product in the dtype of x, and rows may depend on their batch.
        Tensors have gradients, second ones too; they are float32 sums, rounded to the dtype of what they belong to.

    Raises:
        ArgumentError: shapes that do not fit.
        DtypeError: an element type or a kind of object that the argument cannot have.
        BackendError: a tensor that no backend of this build serves.
    """
    dtypes = arrays.large("x", x), arrays.large_like("weight", weight, "x", x, any_float=True)
    given = NO_BIAS if bias is None else Bias(arrays.small("bias", bias, x))
    return compute("linear", dtypes, (x, weight), (given,))


linear.__module__ = "farspan"
