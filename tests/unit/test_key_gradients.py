"""Gradients of only the last dims of keys."""

from __future__ import annotations

import numpy as np
import pytest

from farspan import ArgumentError, Rotary, _core
from farspan._backend import cpu
from farspan._backend.hooks import Above, Gradients, Hooks
from farspan.attention import hook_arguments
from farspan.testing import assert_same_bits

DIM, TURNED = 14, 8
PLACES = np.arange(70, dtype=np.float32)
FREQUENCIES = np.float32(10000.0) ** (-np.arange(TURNED // 2, dtype=np.float32) / 4)
ROTATIONS = {
    "none": None, "one": Rotary(FREQUENCIES),
    "two": Rotary(FREQUENCIES, border=5.0, far_query_positions=PLACES / 3 + 4, far_key_positions=PLACES / 3),
}  # fmt: skip


class Case:
    def __init__(self, rotation: str) -> None:
        make = np.random.default_rng(5)
        self.query, self.key, self.value = (
            make.standard_normal((2, heads, 70, dim), np.float32) for heads, dim in ((4, DIM), (2, DIM), (2, 5))
        )
        self.hooks: Hooks = hook_arguments(self.query, causal=True, rotary=ROTATIONS[rotation])
        self.output, lse = cpu.attention("float32", self.query, self.key, self.value, self.hooks)
        self.slope = make.standard_normal(self.output.shape, np.float32)
        self.above = Above(lse, None, "query,key,value")

    def gradient(self, dims: int) -> np.ndarray:
        found = np.zeros((*self.key.shape[:3], dims), np.float32)
        large = self.query, self.key, self.value, self.output, self.slope
        _core.attention_backward("float32", Gradients(key=found), *large, self.above, self.hooks)
        return found


@pytest.mark.parametrize("dims", [1, 5, DIM - TURNED])
@pytest.mark.parametrize("rotation", ROTATIONS)
def test_they_are_those_among_the_gradients_of_all_dims(rotation: str, dims: int) -> None:
    case = Case(rotation)
    assert_same_bits(case.gradient(dims), case.gradient(DIM)[..., -dims:], rotation)


@pytest.mark.parametrize("dims", [0, DIM - TURNED + 1, DIM + 1])
def test_dims_that_turn_have_gradients_only_together(dims: int) -> None:
    with pytest.raises(ArgumentError, match="key"):
        Case("one").gradient(dims)
