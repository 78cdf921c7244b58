"""The container: settings and the places of tensors. The package gguf undoes the kinds of numbers.

That package's own reader believes every count in a file, so a damaged one keeps it busy for years. Here nothing is read
before it is known to lie inside the file.
"""

from __future__ import annotations

import dataclasses
import mmap
import struct
from pathlib import Path
from typing import Any

import numpy as np

from farspan._errors import CheckpointError, message
from farspan._files import refuse_pointer
from farspan.model.gguf.weights import GgufTensor, Quantization, quantization
from farspan.model.kinds import shown

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32
MOST_DIMENSIONS = 4
STRING, ARRAY = 8, 9
NUMBERS: dict[int, np.dtype[Any]] = {
    kind: np.dtype(name)
    for kind, name in {
        0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 7: "?", 10: "<u8", 11: "<i8", 12: "<f8",
    }.items()
}  # fmt: skip
"""Kinds of settings by the format's numbers."""


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a file holds, tensors not yet read."""

    path: Path
    settings: dict[str, Any]
    tensors: dict[str, GgufTensor]


def open_file(path: Path) -> Contents:
    """The settings and tensors of a file. CheckpointError: unreadable, cut short, or contradicting itself."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
            if start[:4] != MAGIC:
                refuse_pointer(path, start)
                raise CheckpointError(message(str(path), "a GGUF file, which begins with GGUF", f"magic {start[:4]!r}"))
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise CheckpointError(message(str(path), "a readable file", error.strerror or error)) from None
    try:
        return _Reader(path, data).contents()
    except _DamagedError as damage:
        raise CheckpointError(message(str(path), "a sound GGUF file", damage)) from None


class _DamagedError(Exception):
    """What is wrong with the file."""


class _Reader:
    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path, self._data, self._at = path, data, len(MAGIC)
        self._reading = "its beginning"

    def contents(self) -> Contents:
        version = self._number("<I")
        if version not in VERSIONS:
            raise _DamagedError(f"version {version}, where {' and '.join(map(str, VERSIONS))} are read")
        tensors, settings = self._count("tensors", 24), self._count("settings", 13)
        found: dict[str, Any] = {}
        for index in range(settings):
            self._reading = f"setting {index + 1} of {settings}"
            name = self._unique(self._string(), found)
            self._reading = name
            found[name] = self._value(self._number("<I"))
        entries: dict[str, tuple[tuple[int, ...], Quantization, int]] = {}
        for index in range(tensors):
            self._reading = f"tensor {index + 1} of {tensors}"
            name = self._unique(self._string(), entries)
            self._reading = name
            entries[name] = self._entry()
        step = found.get("general.alignment", ALIGNMENT)
        if not isinstance(step, int) or step <= 0 or step & (step - 1):
            raise _DamagedError(f"general.alignment {shown(step)}, where it is a power of two")
        start = -(-self._at // step) * step
        placed = {name: self._placed(name, start, step, *entry) for name, entry in entries.items()}
        return Contents(self._path, found, placed)

    # ---- tensors

    def _entry(self) -> tuple[tuple[int, ...], Quantization, int]:
        """Shape, kind and place of one tensor."""
        dimensions = self._number("<I")
        if not 1 <= dimensions <= MOST_DIMENSIONS:
            raise _DamagedError(f"{self._reading} with {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))[::-1]  # the file has the innermost first
        kind = quantization(self._number("<I"))
        if isinstance(kind, str):
            raise _DamagedError(f"{self._reading} of {kind}")
        return shape, kind, self._number("<Q")

    def _placed(
        self, name: str, start: int, step: int, shape: tuple[int, ...], kind: Quantization, offset: int
    ) -> GgufTensor:
        rows = 1
        for size in shape[:-1]:
            rows *= size
        if not rows or not shape[-1] or shape[-1] % kind.block:
            expected = f"rows of a multiple of {kind.block} numbers, as {kind.name} has them"
            raise _DamagedError(f"{name} of shape {list(shape)}, where there are {expected}")
        row_bytes = shape[-1] // kind.block * kind.block_bytes
        begin, end = start + offset, start + offset + rows * row_bytes
        if offset % step:
            raise _DamagedError(f"{name} at {offset}, no multiple of {step}")
        if end > len(self._data):
            raise _DamagedError(f"{name} up to byte {end} of {len(self._data)}: the file is cut short")
        data = np.frombuffer(self._data, np.uint8, end - begin, begin).reshape(rows, row_bytes)
        return GgufTensor(self._path, name, shape, kind, data)

    # ---- settings

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind == ARRAY:
            return self._array()
        if kind not in NUMBERS:
            raise _DamagedError(f"{self._reading} of kind {kind}, which there is not")
        return self._numbers(NUMBERS[kind], 1)[0]

    def _array(self) -> list[Any]:
        kind = self._number("<I")
        if kind == STRING:
            count = self._count(f"entries of {self._reading}", 8)
            return [self._string() for _ in range(count)]
        if kind not in NUMBERS:
            raise _DamagedError(f"{self._reading}, an array of kind {kind}")
        return self._numbers(NUMBERS[kind], self._count(f"entries of {self._reading}", NUMBERS[kind].itemsize))

    def _numbers(self, kind: np.dtype[Any], count: int) -> list[Any]:
        numbers: list[Any] = np.frombuffer(self._take(count * kind.itemsize), kind, count).tolist()
        return numbers

    def _unique(self, name: str, found: dict[str, Any]) -> str:
        if name in found:
            raise _DamagedError(f"{name} twice")
        return name

    # ---- bytes

    def _number(self, form: str) -> int:
        (value,) = struct.unpack(form, self._take(struct.calcsize(form)))
        return int(value)

    def _count(self, what: str, least_bytes: int) -> int:
        """How many things follow, each of which takes at least so many bytes."""
        count = self._number("<Q")
        if count * least_bytes > len(self._data) - self._at:
            raise _DamagedError(f"{count} {what}, more than the file has room for")
        return count

    def _string(self) -> str:
        size = self._number("<Q")
        raw = self._take(size)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise _DamagedError(f"{self._reading}, which is no UTF-8: {error.reason}") from None

    def _take(self, size: int) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise _DamagedError(f"its end within {self._reading}: the file is cut short")
        raw = self._data[self._at : end]
        self._at = end
        return raw
