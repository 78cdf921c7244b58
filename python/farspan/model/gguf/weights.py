"""The numbers of a GGUF file: blocks of few bits, which the package gguf widens to float32."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farspan._errors import CheckpointError, message, missing_package

READABLE = (
    "F32", "F16", "BF16", "F64", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K",
    "TQ1_0", "TQ2_0", "MXFP4", "IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS",
)  # fmt: skip
"""The kinds that hold weights."""
AT_ONCE = 2**18
"""How many numbers are widened at a time: memory at load is the model's, and little more, and stays in the caches."""


@dataclasses.dataclass(frozen=True)
class Quantization:
    """How numbers are stored: blocks of `block` numbers in `block_bytes` bytes."""

    name: str
    block: int
    block_bytes: int
    code: Any


def quantization(number: int) -> Quantization | str:
    """The kind of this number in the format; in words what it is where nothing can be read of it."""
    known = _kinds()
    if number in known:
        return known[number]
    library = _library()
    name = next((kind.name for kind in library.GGMLQuantizationType if kind == number), None)
    return f"kind {name}, which holds no weights" if name else f"kind {number}, which is unknown"


@functools.cache
def _kinds() -> dict[int, Quantization]:
    library = _library()
    kinds = {kind.name: kind for kind in library.GGMLQuantizationType}
    sizes = library.GGML_QUANT_SIZES
    readable = [kinds[name] for name in READABLE if name in kinds]
    return {int(kind): Quantization(kind.name, int(sizes[kind][0]), int(sizes[kind][1]), kind) for kind in readable}


@dataclasses.dataclass(frozen=True)
class GgufTensor:
    """One tensor of a file, not yet read."""

    path: Path
    name: str
    shape: tuple[int, ...]
    kind: Quantization
    data: np.ndarray
    """`[rows, bytes]`, mapped from the file"""

    def require(self, shape: tuple[int, ...], why: str) -> None:
        """CheckpointError unless this is a tensor of `shape`, which `why` gives a reason for."""
        if self.shape != tuple(shape):
            where = f"{self.name} in {self.path}"
            raise CheckpointError(message(where, f"shape {list(shape)}, {why}", f"shape {list(self.shape)}"))

    def read(self) -> np.ndarray:
        """All numbers, float32."""
        return self._widened(self.data).reshape(self.shape)

    def copy_into(self, view: Tensor, less: float) -> None:
        """Writes the numbers, each less `less`, into a view of a parameter that has them in the file's order, a part
        after the other."""
        rows = len(self.data)
        if len(self.shape) == 1 or rows % len(view):
            view.copy_(self._part(self.data, less).reshape(view.shape))
            return
        each = rows // len(view)  # rows of the file in each entry of the view's first axis
        step = max(1, AT_ONCE // (each * self.shape[-1]))
        for first in range(0, len(view), step):
            part = view[first : first + step]
            stored = self.data[first * each : (first + len(part)) * each]
            row = stored.reshape(1, -1)  # one: the library takes a few rows at a time
            part.copy_(self._part(row, less).reshape(part.shape))

    def _part(self, data: np.ndarray, less: float) -> Tensor:
        numbers = self._widened(data)
        return torch.from_numpy(numbers - np.float32(less) if less else np.array(numbers))

    def _widened(self, data: np.ndarray) -> np.ndarray:
        if self.kind.name == "F64":
            return data.view(np.float64).astype(np.float32)
        numbers: np.ndarray = _library().quants.dequantize(data, self.kind.code)
        return numbers


def _library() -> Any:
    try:
        import gguf
    except ModuleNotFoundError:
        raise missing_package("reading GGUF files", "gguf") from None
    return gguf
