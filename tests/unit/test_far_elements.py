"""Elements more than 2^31 numbers behind the first of their array: the address space is there, the memory is not."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import fields

import numpy as np
import pytest
from support.emulated import HostMemory, emulator, library

import farspan
from farspan._backend import gpu
from farspan._backend.hooks import Hooks
from farspan._backend.settings import Rules
from farspan.testing import assert_same_bits

FAR = (1 << 31) + 64
"""A stride in elements that does not fit 32 bits."""

NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)
"""Linux's flag, which Python names from 3.13 on."""

Sparse = Callable[[np.ndarray], np.ndarray]


class InPlace(HostMemory):
    """Reads arrays where they lie: a copy of one as long as these would take gigabytes."""

    def describe(self, x: np.ndarray) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        return x.ctypes.data, x.shape, tuple(stride // x.itemsize for stride in x.strides)


@pytest.fixture
def sparse() -> Sparse:
    """Makes a copy of a float32 array whose first axis has the stride FAR."""
    if library() is None:
        pytest.skip("the emulator of the CUDA kernels is not built: cargo build -p farspan-cuda-emulator")

    def make(x: np.ndarray) -> np.ndarray:
        elements = (len(x) - 1) * FAR + x[0].size
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | NO_RESERVE
        try:
            memory = mmap.mmap(-1, elements * x.itemsize, flags=flags)
        except OSError as error:
            pytest.skip(f"{elements * x.itemsize >> 30} GiB of address space: {error}")
        flat = np.frombuffer(memory, x.dtype)
        strides = (FAR * x.itemsize, *x.strides[1:])
        found = np.lib.stride_tricks.as_strided(flat, x.shape, strides)
        found[...] = x
        return found

    return make


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


@pytest.mark.parametrize("axis", [0, 1, 2], ids=["batch", "heads", "time"])
def test_emulated_attention_of_far_elements(axis: int, sparse: Sparse) -> None:
    query, key, value = normal(2, 4, 3, 16, seed=0), normal(2, 2, 3, 16, seed=1), normal(2, 2, 3, 16, seed=2)

    def far(x: np.ndarray) -> np.ndarray:
        return np.moveaxis(sparse(np.ascontiguousarray(np.moveaxis(x, axis, 0))), 0, axis)

    hooks = Hooks(causal=True, left=None, right=None, inv_freq=np.array([1.0, 0.1], np.float32))
    expected = gpu.attention(HostMemory(emulator()), "float32", query, key, value, hooks)
    found = gpu.attention(InPlace(emulator()), "float32", far(query), far(key), far(value), hooks)
    for one, other, name in zip(found, expected, ("output", "LSE"), strict=True):
        assert_same_bits(one, other, name)


def test_emulated_pages_far_from_the_first(sparse: Sparse) -> None:
    query, pages = normal(1, 2, 3, 16, seed=0), normal(3, 2, 4, 16, seed=1)
    hooks = Hooks(causal=True, left=None, right=None, block_table=np.array([[2, 1]]))
    expected = gpu.attention(HostMemory(emulator()), "float32", query, pages, pages, hooks)
    found = gpu.attention(InPlace(emulator()), "float32", query, sparse(pages), sparse(pages), hooks)
    assert_same_bits(found[0], expected[0], "output")


def test_emulated_unembedding_of_far_rows(sparse: Sparse) -> None:
    hidden, weight = normal(3, 16, seed=0), normal(3, 16, seed=1)
    expected = gpu.greedy(HostMemory(emulator()), "float32", hidden, weight, Rules(1.0, None, None, None))
    found = gpu.greedy(InPlace(emulator()), "float32", sparse(hidden), sparse(weight), Rules(1.0, None, None, None))
    for field, one, other in zip(fields(farspan.Sample), found, expected, strict=False):
        assert_same_bits(one, other, field.name)
