"""Operations on NumPy arrays and tensors of the CPU, computed by a GPU: the suites of the CPU run there as they are."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch

from farspan._backend import cpu, gpu
from farspan._backend.memory import GpuMemory
from farspan._backend.settings import Settings
from support.kernels import ON_GPU

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


def reason() -> str | None:
    """Why nothing runs on a GPU here, or None."""
    if not torch.cuda.is_available():
        return f"torch {torch.__version__} finds no GPU"
    from farspan._backend.compiler import cuda_status

    found: str | None = cuda_status()["reason"]
    return found


PIECE = 16
"""Bytes that kernels read at a time where an array is aligned to as many."""


def laid_out(x: np.ndarray, device: str) -> torch.Tensor:
    """The array on a device as it lies here: its gaps, its repeated rows, and its place between aligned addresses."""
    if not x.size:
        return torch.from_numpy(x.copy()).to(device)
    extent = sum((size - 1) * stride for size, stride in zip(x.shape, x.strides, strict=True)) + x.itemsize
    skew = x.ctypes.data % PIECE
    flat = np.zeros(skew + extent, np.uint8)
    ctypes.memmove(flat.ctypes.data + skew, x.ctypes.data, extent)
    placed = torch.from_numpy(flat).to(device)[skew:].view(torch.from_numpy(np.empty(0, x.dtype)).dtype)
    strides = [stride // x.itemsize for stride in x.strides]
    return placed.as_strided(x.shape, strides, placed.storage_offset())


def moved(x: Any, dtype: str, device: str) -> Any:
    """An argument on a device, with the arrays of its lists; half types come as their bits. Settings stay here."""
    if isinstance(x, tuple) and not isinstance(x, Settings):
        parts = [moved(y, dtype, device) for y in x]
        return type(x)(*parts) if hasattr(x, "_fields") else tuple(parts)
    if not isinstance(x, np.ndarray):
        return x
    tensor = laid_out(x, device)
    return tensor.view(HALVES[dtype]) if x.dtype == np.uint16 else tensor


def _back(x: Any) -> Any:
    if isinstance(x, tuple):
        return tuple(map(_back, x))
    return (x.view(torch.uint16) if x.dtype in HALVES.values() else x).cpu().numpy()


@contextmanager
def gpu_kernels() -> Iterator[None]:
    """Every operation that has CUDA kernels runs on the first GPU."""

    def there(name: str) -> Any:
        operation = getattr(gpu, name)

        def call(dtype: str, *arguments: Any) -> Any:
            on_gpu = [moved(x, dtype, "cuda") for x in arguments]
            return _back(operation(GpuMemory(on_gpu[0]), dtype, *on_gpu))

        return call

    with mock.patch.multiple(cpu, **{name: there(name) for name in ON_GPU}):
        yield
