"""A CUDA device as `_core.cuda_*` sees it: where it is, memory for one call, and arrays by their addresses."""

from __future__ import annotations

import itertools
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from farspan._backend.arrays import name_of
from farspan._backend.compiler import open_compiler

Described = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Address, shape, and strides in elements."""


class Layout:
    """How several arrays are allocated, each given by its shape and element type. Those of a shape share a piece of
    memory, since to ask for one takes longer than to cut it. A list has a piece of its own: who keeps the numbers of
    the rows shall not keep their lists."""

    def __init__(self, forms: Iterable[tuple[tuple[int, ...], str]]) -> None:
        self.forms = list(forms)
        pieces: dict[tuple[int, ...], dict[Any, list[int]]] = {}
        for place, (shape, kind) in enumerate(self.forms):
            of_shape = shape if math.prod(shape) else self.forms[0][0]  # what has no elements lies anywhere
            pieces.setdefault(of_shape, {}).setdefault((shape, kind), []).append(place)
        self.pieces = [_cut(alike) for alike in pieces.values()]
        """Of each piece its bytes, and its parts: of arrays that are alike the element type, how many there are, and
        shape, strides and beginning of the one, or of all of them as one array."""
        made = [place for alike in pieces.values() for places in alike.values() for place in places]
        self._order = [made.index(place) for place in range(len(made))]

    def ordered(self, made: Sequence[Any]) -> tuple[Any, ...]:
        """The arrays as they were given, of those that were made part by part."""
        return tuple([made[at] for at in self._order])


_Part = tuple[str, int, tuple[int, ...], tuple[int, ...], int]


def _cut(alike: dict[tuple[tuple[int, ...], str], list[int]]) -> tuple[int, list[_Part]]:
    """The bytes of a piece and its parts, of the places of the arrays that share it by shape and element type."""
    counts = [len(places) for places in alike.values()]
    together = [(count, *shape) if count > 1 else shape for count, (shape, _) in zip(counts, alike, strict=True)]
    kinds = [np.dtype(kind) for _, kind in alike]
    sizes = [math.prod(shape) * kind.itemsize for shape, kind in zip(together, kinds, strict=True)]
    starts, size = _one_behind_the_other(sizes)
    parts = []
    for count, shape, kind, start in zip(counts, together, kinds, starts, strict=True):
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        parts.append((kind.name, count, shape, strides, start // kind.itemsize))
    return size, parts


class Memory(Protocol):
    """What a call needs of a device. An object serves one call, and keeps what it allocated until the call is over."""

    place: Any
    """`(ordinal, stream)`, or a `_core.Emulator`."""

    def empty(self, shape: tuple[int, ...], kind: str) -> Any:
        """An array that outlives the call."""

    def empty_all(self, layout: Layout) -> tuple[Any, ...]:
        """Several of them."""

    def address(self, x: Any) -> int:
        """Where an array of the device begins."""

    def describe(self, x: Any) -> Described:
        """An array of the device as `_core` takes it."""

    def take(self, x: Any, kind: str) -> Any:
        """A small array of the host or of the device, as one of the device."""

    def take_all(self, arrays: Sequence[Any], kinds: Sequence[str]) -> list[Any]:
        """Several of them, in one copy."""

    def host(self, x: Any) -> Any:
        """A small array of the device or of the host, as NumPy's; waits for the device."""

    def host_all(self, arrays: Sequence[Any]) -> list[Any]:
        """Several of them, in one copy."""

    def allocate(self, size: int) -> int:
        """The address of so many bytes, at a multiple of 256."""

    def upload(self, data: bytes) -> int:
        """The address of a copy of these bytes."""

    def download(self, address: int, size: int) -> bytes:
        """What lies at an address that `allocate` gave, once everything before has run."""


class GpuMemory:
    """torch's memory and current stream on the device of a tensor."""

    def __init__(self, like: Any) -> None:
        torch = sys.modules["torch"]
        open_compiler()
        self._torch, self._device = torch, like.device
        ordinal = like.device.index or 0
        self.place = (ordinal, torch._C._cuda_getCurrentRawStream(ordinal))  # no object around it, which takes longer
        self._held: dict[int, Any] = {}

    def empty(self, shape: tuple[int, ...], kind: str) -> Any:
        return self._torch.empty(shape, dtype=getattr(self._torch, kind), device=self._device)

    def empty_all(self, layout: Layout) -> tuple[Any, ...]:
        torch = self._torch
        made: list[Any] = []
        with torch._C._AutoDispatchBelowADInplaceOrView():  # no views of each other, so that callers may write to them
            for size, parts in layout.pieces:
                piece = torch.empty(size, dtype=torch.uint8, device=self._device)
                for kind, alike, shape, strides, start in parts:
                    part = piece.view(getattr(torch, kind)).as_strided(shape, strides, start)
                    made += part.unbind() if alike > 1 else (part,)
        return layout.ordered(made)

    def address(self, x: Any) -> int:
        found: int = x.data_ptr()
        return found

    def describe(self, x: Any) -> Described:
        return x.data_ptr(), x.shape, x.stride()

    def take(self, x: Any, kind: str) -> Any:
        x = self._torch.from_numpy(x) if isinstance(x, np.ndarray) else x
        return x.to(self._device, getattr(self._torch, kind))

    def take_all(self, arrays: Sequence[Any], kinds: Sequence[str]) -> list[Any]:
        sent = {i: np.asarray(x, kinds[i], order="C") for i, x in enumerate(arrays) if isinstance(x, np.ndarray)}
        if not sent:
            return [self.take(x, kind) for x, kind in zip(arrays, kinds, strict=True)]
        starts, size = _one_behind_the_other([x.nbytes for x in sent.values()])
        packed = np.empty(size, np.uint8)
        for start, x in zip(starts, sent.values(), strict=True):
            packed[start : start + x.nbytes] = x.reshape(-1).view(np.uint8)
        there = self.take(packed, "uint8")
        views = {i: self._view(there, start, x) for start, (i, x) in zip(starts, sent.items(), strict=True)}
        return [views[i] if i in views else self.take(x, kinds[i]) for i, x in enumerate(arrays)]

    def _view(self, memory: Any, start: int, like: np.ndarray) -> Any:
        kind = getattr(self._torch, like.dtype.name)
        return memory[start : start + like.nbytes].view(kind).view(like.shape)

    def host(self, x: Any) -> Any:
        return x.detach().cpu().numpy() if isinstance(x, self._torch.Tensor) else x

    def host_all(self, arrays: Sequence[Any]) -> list[Any]:
        there = [x.detach() for x in arrays if isinstance(x, self._torch.Tensor)]
        if len(there) < 2:
            return [self.host(x) for x in arrays]
        packed = self.host(self._torch.cat([x.reshape(-1).view(self._torch.uint8) for x in there]))
        parts = iter(np.split(packed, np.cumsum([x.nbytes for x in there])[:-1]))
        return [_as(next(parts), x) if isinstance(x, self._torch.Tensor) else x for x in arrays]

    def allocate(self, size: int) -> int:
        return self._hold(self._torch.empty(size, dtype=self._torch.uint8, device=self._device))

    def upload(self, data: bytes) -> int:
        copied = self._torch.frombuffer(bytearray(data), dtype=self._torch.uint8)
        address = self.allocate(len(data))
        self._held[address][: len(data)].copy_(copied)
        return address

    def download(self, address: int, size: int) -> bytes:
        found: bytes = self._held[address][:size].cpu().numpy().tobytes()
        return found

    def _hold(self, tensor: Any) -> int:
        address: int = tensor.data_ptr()
        self._held[address] = tensor
        return address


ALIGNMENT = 16
"""Of each of several arrays in one piece of memory."""


def _one_behind_the_other(sizes: list[int]) -> tuple[list[int], int]:
    """Where arrays of so many bytes begin, and where they end."""
    ends = list(itertools.accumulate((-(-size // ALIGNMENT) * ALIGNMENT for size in sizes), initial=0))
    return ends[:-1], ends[-1]


def _as(raw: np.ndarray, like: Any) -> np.ndarray:
    """Bytes as the array that a tensor is, where they begin at a multiple of its elements or not."""
    return np.frombuffer(raw.tobytes(), name_of(like.dtype)).reshape(tuple(like.shape))
