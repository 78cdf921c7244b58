"""The CUDA kernels on a machine without a GPU: their own text, run by the emulator over NumPy's memory."""

from __future__ import annotations

import ctypes
import itertools
import math
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from farspan import _core
from farspan._backend import cpu, gpu
from farspan._backend.memory import GpuMemory, Layout
from farspan._backend.settings import Draws
from support.kernels import ON_GPU

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "libfarspan_cuda_emulator.so"
BITS = {"bfloat16": "uint16", "float16": "uint16"}
ALIGNMENT = 256


def library() -> Path | None:
    """The newest that `cargo test` or `cargo build -p farspan-cuda-emulator` made, or what `FARSPAN_EMULATOR` names."""
    named = os.environ.get("FARSPAN_EMULATOR")
    built = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
    places = [Path(named)] if named else [built / LIBRARY, built / "deps" / LIBRARY]
    return max(filter(Path.is_file, places), key=lambda path: path.stat().st_mtime, default=None)


@cache
def _of_seed(seed: int) -> Any:
    return _core.Emulator(str(library()), seed)


_TURNS = itertools.cycle(range(8))


def emulator() -> Any:
    """Threads run in another order from call to call, which must not show in any result."""
    return _of_seed(next(_TURNS))


def guarded(x: np.ndarray) -> tuple[int, Any]:
    """The address of a copy of x, gaps between its rows included, behind which lies memory that nobody may read; and
    what keeps the copy."""
    extent = sum((size - 1) * stride for size, stride in zip(x.shape, x.strides, strict=True)) + x.itemsize
    if os.environ.get("FARSPAN_SANITIZE"):  # then all that is allocated ends at forbidden memory, to the byte
        copy = np.empty(x.ctypes.data % 16 + extent, np.uint8)
        start = copy.ctypes.data + x.ctypes.data % 16
        ctypes.memmove(start, x.ctypes.data, extent)
        return start, copy
    size = -(-(extent + 16) // mmap.PAGESIZE) * mmap.PAGESIZE
    memory = mmap.mmap(-1, size + mmap.PAGESIZE)
    first = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(first + size), ctypes.c_size_t(mmap.PAGESIZE), 0):
        raise OSError(ctypes.get_errno(), "mprotect")
    start = first + size - extent
    start -= (start - x.ctypes.data) % 16  # aligned as x is
    ctypes.memmove(start, x.ctypes.data, extent)
    return start, memory


class HostMemory:
    """A `farspan._backend.memory.Memory` of the emulator. A kernel that reads behind an input ends the process."""

    def __init__(self, place: Any) -> None:
        self.place = place
        self._held: dict[int, np.ndarray] = {}
        self._copies: list[Any] = []

    def empty(self, shape: tuple[int, ...], kind: str) -> np.ndarray:
        dtype = np.dtype(BITS.get(kind, kind))
        array = np.full(math.prod(shape) * dtype.itemsize, 0xA5, np.uint8).view(dtype).reshape(shape)
        self._held[array.ctypes.data] = array
        return array

    def empty_all(self, layout: Layout) -> tuple[np.ndarray, ...]:
        return tuple([self.empty(*form) for form in layout.forms])

    def address(self, x: np.ndarray) -> int:
        return self.describe(x)[0]

    def describe(self, x: np.ndarray) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
        address = x.ctypes.data
        if x.size and address not in self._held:
            address, copy = guarded(x)
            self._copies.append(copy)
        if not x.size:  # whose strides NumPy says are zero
            return address, x.shape, tuple(math.prod(x.shape[axis + 1 :]) for axis in range(x.ndim))
        return address, x.shape, tuple(stride // x.itemsize for stride in x.strides)

    def take(self, x: np.ndarray, kind: str) -> np.ndarray:
        return x.astype(kind, copy=False)

    def take_all(self, arrays: Any, kinds: Any) -> list[np.ndarray]:
        return [self.take(x, kind) for x, kind in zip(arrays, kinds, strict=True)]

    def host(self, x: Any) -> Any:
        return x

    def host_all(self, arrays: Any) -> Any:
        return arrays

    def allocate(self, size: int) -> int:
        memory = np.full(size + ALIGNMENT, 0xA5, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        memory = memory[start : start + size]
        self._held[memory.ctypes.data] = memory
        return memory.ctypes.data

    def upload(self, data: bytes) -> int:
        address = self.allocate(len(data))
        self._held[address][...] = np.frombuffer(data, np.uint8)
        return address

    def download(self, address: int, size: int) -> bytes:
        return self._held[address][:size].tobytes()


class TensorMemory(GpuMemory):
    """torch's memory on the CPU, where the emulator works as a GPU does on its own."""

    def __init__(self, like: torch.Tensor, *, apart: bool = False) -> None:
        self._torch, self._device, self._held, self._apart = torch, like.device, {}, apart
        self.place = emulator()

    def allocate(self, size: int) -> int:
        memory = torch.empty(size + ALIGNMENT, dtype=torch.uint8)
        return self._hold(memory[-memory.data_ptr() % ALIGNMENT :])


def _with_plain_numbers(x: Any) -> Any:
    """Draws as a call on a GPU has them."""
    return Draws(*[y.item() if y.ndim == 0 else y for y in x]) if isinstance(x, Draws) else x


@contextmanager
def emulated_kernels() -> Iterator[None]:
    """Every operation that has CUDA kernels runs on them; the test is skipped where the emulator is not built."""
    if library() is None:
        pytest.skip("the emulator of the CUDA kernels is not built: cargo build -p farspan-cuda-emulator")

    def on_emulator(name: str) -> Any:
        operation = getattr(gpu, name)
        return lambda *arguments: operation(HostMemory(emulator()), *map(_with_plain_numbers, arguments))

    with mock.patch.multiple(cpu, **{name: on_emulator(name) for name in ON_GPU}):
        yield
