"""The way from the public functions to a backend: the kind of array is chosen here, once a call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from farspan._backend import cpu
from farspan._backend.operations import OPERATIONS
from farspan._backend.settings import Shard


def compute(name: str, dtype: Any, large: Sequence[Any], lists: Sequence[Any], shard: Shard | None = None) -> Any:
    """What an operation gives for NumPy arrays or torch tensors: an array, or a tuple where there are several results.
    Arguments are checked and of one kind already; `dtype` is what `Operation.dtype` says of them."""
    if not isinstance(large[0], np.ndarray):
        ops = sys.modules.get("farspan.ops") or _operators()
        if shard is not None:
            return ops.of_shard(OPERATIONS[name], large, lists, shard)
        return ops.of_tensors(OPERATIONS[name], dtype, large, lists)
    kernel = getattr(cpu, name)
    of_shard = () if shard is None else (shard,)
    if dtype in FLOAT32:
        return kernel(dtype, *large, *lists, *of_shard)
    found = kernel(dtype, *map(cpu.bits, large), *lists, *of_shard)
    like = large[0].dtype
    return tuple([_typed(x, like) for x in found]) if isinstance(found, tuple) else _typed(found, like)


def _operators() -> Any:
    """What serves tensors; an import statement, even of what is there already, takes as long as some operations."""
    from farspan import ops

    return ops


FLOAT32 = ("float32", ("float32", "float32"))
"""Element types of large inputs none of which is seen by its bits."""


def _typed(x: np.ndarray, like: Any) -> np.ndarray:
    """A result; half types come as their bits."""
    return x.view(like) if x.dtype.itemsize == 2 else x
