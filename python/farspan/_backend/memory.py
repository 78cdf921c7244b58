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
    """How several arrays are allocated, each given by its shape and element type. Those that are alike share a piece of
    memory, since to ask for one takes longer than to cut it. What has no elements shares none: torch lets `out=` make
    it larger where it lies."""

    def __init__(self, forms: Iterable[tuple[tuple[int, ...], str]]) -> None:
        self.forms = list(forms)
        pieces: dict[Any, list[int]] = {}
        for place, form in enumerate(self.forms):
            pieces.setdefault(form if math.prod(form[0]) else place, []).append(place)
        self.pieces = [(self.forms[places[0]], len(places)) for places in pieces.values()]
        """Shape and element type of one array, and how many there are."""
        made = list(itertools.chain.from_iterable(pieces.values()))
        self._order = [made.index(place) for place in range(len(made))]

    def ordered(self, made: Sequence[Any]) -> tuple[Any, ...]:
        """The arrays as they were given, of those that were made piece by piece."""
        return tuple([made[at] for at in self._order])


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
    """torch's memory and current stream on the device of a tensor. `apart`: no two results may share memory, which
    torch's dispatcher asks of operators."""

    def __init__(self, like: Any, *, apart: bool = False) -> None:
        torch = sys.modules["torch"]
        open_compiler()
        self._torch, self._device, self._apart = torch, like.device, apart
        ordinal = like.device.index or 0
        self.place = (ordinal, torch._C._cuda_getCurrentRawStream(ordinal))  # no object around it, which takes longer
        self._held: dict[int, Any] = {}

    def empty(self, shape: tuple[int, ...], kind: str) -> Any:
        return self._torch.empty(shape, dtype=getattr(self._torch, kind), device=self._device)

    def empty_all(self, layout: Layout) -> tuple[Any, ...]:
        if self._apart:
            return tuple([self.empty(*form) for form in layout.forms])
        made: list[Any] = []
        with self._torch._C._AutoDispatchBelowADInplaceOrView():  # no views, so that callers may write to each
            for (shape, kind), count in layout.pieces:
                made += self.empty((count, *shape), kind).unbind() if count > 1 else (self.empty(shape, kind),)
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
