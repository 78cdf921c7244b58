"""The safetensors format, read and written: an 8-byte header length, a JSON header, the tensors' bytes.

A file is checked as a whole before one byte of a tensor is used, so that a damaged or hostile one is an error that
names it: a header no longer than the file, ranges inside the data that fit shape and dtype, and no two that overlap.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farspan._errors import CheckpointError, message

LONGEST_HEADER = 100_000_000  # bytes; the bound of the format's own library
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
NAMES = {dtype: name for name, dtype in DTYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, not yet read."""

    path: Path
    start: int
    stop: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def read(self) -> Tensor:
        """The tensor, mapped from the file: pages come in as they are used."""
        if self.start == self.stop:
            return torch.empty(self.shape, dtype=self.dtype)
        # Copy-on-write only because torch takes no read-only memory; nothing writes.
        raw = np.memmap(self.path, np.uint8, mode="c", offset=self.start, shape=(self.stop - self.start,))
        if self.start % self.dtype.itemsize:
            raw = raw.copy()
        return torch.from_numpy(raw).view(self.dtype).view(self.shape)


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name. CheckpointError: unreadable, truncated, or a header that contradicts itself."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(size - 8, LONGEST_HEADER):
                raise _damaged(path, f"a header within the file's {size} bytes", f"a header of {length} bytes")
            header = json.loads(file.read(length))
    except OSError as error:
        raise CheckpointError(message(str(path), "a readable file", error.strerror or error)) from None
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "a JSON header", error) from None
    if not isinstance(header, dict):
        raise _damaged(path, "a header that is a JSON object", type(header).__name__)
    data = 8 + length
    tensors = {name: _entry(path, name, x, data, size) for name, x in header.items() if name != "__metadata__"}
    _require_disjoint(path, tensors)
    return tensors


def _entry(path: Path, name: str, entry: Any, data: int, size: int) -> StoredTensor:
    where = f"{name} in {path}"
    fields: dict[str, Any] = entry if isinstance(entry, dict) else {}
    shape, offsets, dtype = fields.get("shape"), fields.get("data_offsets"), fields.get("dtype")
    if shape is None or offsets is None or not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise CheckpointError(message(where, "a dtype, a shape and two data_offsets", repr(entry)))
    if dtype not in DTYPES:
        raise CheckpointError(message(where, f"a dtype of {', '.join(DTYPES)}", repr(dtype)))
    start, stop = offsets
    if not start <= stop <= size - data:
        raise CheckpointError(message(where, f"bytes within the file's {size - data} of data", f"{start} to {stop}"))
    needed = math.prod(shape) * DTYPES[dtype].itemsize
    if stop - start != needed:
        raise CheckpointError(message(where, f"{needed} bytes for {dtype} {shape}", f"{stop - start} bytes"))
    return StoredTensor(path, data + start, data + stop, DTYPES[dtype], tuple(shape))


def _counts(value: Any) -> bool:
    """Whether this is a list of integers, none negative."""
    return isinstance(value, list) and all(isinstance(x, int) and not isinstance(x, bool) and x >= 0 for x in value)


def _require_disjoint(path: Path, tensors: Mapping[str, StoredTensor]) -> None:
    end, last = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].stop)):
        if tensor.start < end:
            raise _damaged(path, "tensors that do not overlap", f"{last} and {name}")
        end, last = tensor.stop, name


def _damaged(path: Path, expected: str, given: object) -> CheckpointError:
    return CheckpointError(message(str(path), expected, given))


def write(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """A file of these tensors, each in its own dtype."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of eight
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors.values():
            file.write(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
