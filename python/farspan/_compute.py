"""The way from the public functions to a backend: the kind of array is chosen here, once a call."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from farspan._backend import cpu
from farspan._backend.operations import OPERATIONS, Operation
from farspan._backend.settings import Shard


def compute(name: str, large: Sequence[Any], lists: Sequence[Any], shard: Shard | None = None) -> Any:
    """What an operation gives for NumPy arrays or torch tensors: an array, or a tuple where there are several results.
    Arguments are checked and of one kind already."""
    if isinstance(large[0], np.ndarray):
        return _on_arrays(OPERATIONS[name], large, lists, shard)
    ops = sys.modules.get("farspan.ops") or _operators()
    if shard is not None:
        return ops.of_shard(OPERATIONS[name], large, lists, shard)
    return ops.of_tensors(OPERATIONS[name], large, lists)


def _operators() -> Any:
    """What serves tensors; an import statement, even of what is there already, takes as long as some operations."""
    from farspan import ops

    return ops


def _on_arrays(operation: Operation, large: Sequence[Any], lists: Sequence[Any], shard: Shard | None) -> Any:
    kernel, dtype = getattr(cpu, operation.name), operation.dtype(large)
    of_shard = () if shard is None else (shard,)
    if dtype in FLOAT32:
        return kernel(dtype, *large, *lists, *of_shard)
    found = kernel(dtype, *map(cpu.bits, large), *lists, *of_shard)
    like = large[0].dtype
    return tuple([_typed(x, like) for x in found]) if isinstance(found, tuple) else _typed(found, like)


FLOAT32 = ("float32", ("float32", "float32"))
"""Element types of large inputs none of which is seen by its bits."""


def _typed(x: np.ndarray, like: Any) -> np.ndarray:
    """A result; half types come as their bits."""
    return x.view(like) if x.dtype.itemsize == 2 else x
