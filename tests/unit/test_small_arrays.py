"""A small NumPy array beside tensors means what it means beside NumPy arrays, or is refused alike."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch

import farspan

TURNS = np.array([1.0, 0.1, 0.01, 0.001], np.float32)
HIDDEN, WEIGHT = torch.linspace(-1, 1, 16).reshape(2, 8), torch.linspace(1, -2, 72).reshape(9, 8)


def attention(**hooks: Any) -> Callable[[Callable[[torch.Tensor], Any]], Any]:
    query, key = torch.linspace(-1, 1, 64).reshape(1, 2, 4, 8), torch.linspace(2, -1, 96).reshape(1, 2, 6, 8)
    return lambda kind: farspan.attention(kind(query), kind(key), kind(key), causal=True, **hooks)


def unembed(name: str, **arguments: Any) -> Callable[[Callable[[torch.Tensor], Any]], Any]:
    return lambda kind: getattr(farspan, name)(kind(HIDDEN), kind(WEIGHT), **arguments).lse


def reversed_(x: np.ndarray) -> np.ndarray:
    return x[..., ::-1]


CASES = {
    "positions reversed": attention(rotary=farspan.Rotary(TURNS), query_positions=reversed_(np.arange(4))),
    "positions read-only": attention(
        rotary=farspan.Rotary(TURNS), query_positions=np.broadcast_to(np.int64(3), (4,))
    ),
    "frequencies reversed": attention(rotary=farspan.Rotary(reversed_(TURNS))),
    "key_bias reversed": attention(key_bias=reversed_(np.arange(6, dtype=np.float32))),
    "sink reversed": attention(sink=reversed_(np.ones(2, np.float32))),
    "table reversed": attention(distance_bias=farspan.DistanceBias(reversed_(np.ones((2, 9), np.float32)))),
    "table transposed": attention(distance_bias=farspan.DistanceBias(np.ones((9, 2), np.float32).T)),
    "key_lengths of the other byte order": attention(key_lengths=np.array([3], np.dtype(np.int64).newbyteorder())),
    "key_lengths of objects": attention(key_lengths=np.array([3], object)),
    "sink of long doubles": attention(sink=np.zeros(2, np.longdouble)),
    "sink of bfloat16": attention(sink=np.zeros(2, ml_dtypes.bfloat16)),
    "sink a tensor of bfloat16": attention(sink=torch.zeros(2, dtype=torch.bfloat16)),
    "bias reversed": unembed("greedy", bias=reversed_(np.arange(9, dtype=np.float32))),
    "targets reversed": unembed("score", targets=reversed_(np.array([1, 2]))),
    "seed reversed": unembed("sample", seed=reversed_(np.array([1, 2])), position=0),
    "seed of uint64": unembed("sample", seed=np.array([2**64 - 1, 2], np.uint64), position=0),
    "seed a tensor of uint64": unembed(
        "sample", seed=torch.tensor([2**63 + 1, 2], dtype=torch.uint64), position=0
    ),
    "temperature a tensor of bfloat16": unembed(
        "sample", seed=1, position=0, temperature=torch.tensor([0.5, 2.0], dtype=torch.bfloat16)
    ),
    "history reversed": unembed(
        "sample", seed=1, position=0, repetition_penalty=1.5,
        history=(reversed_(np.array([1, 2, 3])), np.array([0, 1, 3])),
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CASES.values(), ids=CASES)
def test_the_same_beside_tensors_as_beside_arrays(call: Callable[..., Any]) -> None:
    def outcome(kind: Callable[[torch.Tensor], Any]) -> Any:
        try:
            return np.asarray(call(kind))
        except farspan.Error as error:
            return type(error), str(error).partition(":")[0]

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # torch warns of memory that it may not write to
        beside_tensors, beside_arrays = outcome(lambda x: x), outcome(torch.Tensor.numpy)
    assert type(beside_tensors) is type(beside_arrays)
    np.testing.assert_array_equal(beside_tensors, beside_arrays)
