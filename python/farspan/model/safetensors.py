"""Safetensors files, through the package of that name, which checks a header as a whole before it gives a tensor.

What it lacks stands here: words for what is wrong with which file, and a refusal of names that a header has twice.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from farspan._errors import CheckpointError, message, missing_package
from farspan._files import refuse_pointer

NUMBERS = ("F64", "F32", "F16", "BF16")
"""The kinds that hold weights."""


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, not yet read."""

    path: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    """by the format's name"""
    file: Any

    def require(self, shape: tuple[int, ...], why: str) -> None:
        """CheckpointError unless this is a floating-point tensor of `shape`, which `why` gives a reason for."""
        where = f"{self.name} in {self.path}"
        if self.dtype not in NUMBERS:
            raise CheckpointError(message(where, f"a dtype of {', '.join(NUMBERS)}", self.dtype))
        if self.shape != tuple(shape):
            raise CheckpointError(message(where, f"shape {list(shape)}, {why}", f"shape {list(self.shape)}"))

    def read(self) -> Tensor:
        """The tensor, mapped from the file: pages come in as they are used. Nobody may write to it."""
        tensor: Tensor = self.file.get_tensor(self.name)
        return tensor

    def copy_into(self, view: Tensor) -> None:
        """Writes the tensor into a view of a parameter that has its numbers in this order."""
        view.copy_(self.read().reshape(view.shape))


def open_file(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by name. CheckpointError: unreadable, cut short, or a header that contradicts itself."""
    library = _library()
    try:
        file = library.safe_open(path, framework="pt")
        _require_unique_names(path)
    except OSError as error:
        raise CheckpointError(message(str(path), "a readable file", error.strerror or error)) from None
    except (library.SafetensorError, ValueError) as error:
        with path.open("rb") as start:
            refuse_pointer(path, start.read(64))
        raise CheckpointError(message(str(path), "a sound safetensors file", error)) from None
    tensors = {}
    for name in file.keys():  # noqa: SIM118 (the file is no dict)
        entry = file.get_slice(name)
        tensors[name] = StoredTensor(path, name, tuple(entry.get_shape()), entry.get_dtype(), file)
    return tensors


def _require_unique_names(path: Path) -> None:
    """The package keeps the last of several tensors of one name. ValueError: there are several."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"duplicate field {next(name for name in names if names.count(name) > 1)!r} in header")
        return found

    with path.open("rb") as file:
        json.loads(file.read(int.from_bytes(file.read(8), "little")), object_pairs_hook=unique)


def write(path: Path, tensors: Mapping[str, Tensor], notes: Mapping[str, str] | None = None) -> None:
    """A file of these tensors, each in its own dtype, with notes in its header."""
    _library()
    from safetensors.torch import save_file

    whole = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    save_file(whole, path, {"format": "pt", **(notes or {})})


def read_notes(path: Path) -> dict[str, str]:
    """The notes in the header of a file that `write` wrote."""
    return dict(_library().safe_open(path, framework="pt").metadata() or {})


def _library() -> Any:
    try:
        import safetensors
    except ModuleNotFoundError:
        raise missing_package("reading and writing weights", "safetensors") from None
    return safetensors
