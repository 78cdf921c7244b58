"""The small arrays of a pass on a GPU: packed on the host, sent in one copy, read there where they always lie."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from farspan.attention import hook_arguments
from farspan.model.passes import Pass

ALIGNMENT = 16
LARGE = 1 << 14
"""Bytes from which an array is sent by itself, and not again while it is the same one: tables that schemes keep."""

_ON_HOST = np.empty(0, np.float32)


class Slot(NamedTuple):
    """An array without its numbers."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def form_of(tree: Any, arrays: list[np.ndarray]) -> Any:
    """The tuples and lists of `tree` as tuples, arrays replaced by slots: what two passes have in common that differ in
    numbers alone. The arrays are appended to `arrays`."""
    if isinstance(tree, np.ndarray):
        arrays.append(tree)
        return Slot(tree.dtype, tree.shape)
    return tuple(form_of(x, arrays) for x in tree) if isinstance(tree, (tuple, list)) else tree


def _slots(form: Any) -> Iterator[Slot]:
    if isinstance(form, Slot):
        yield form
    elif isinstance(form, tuple):
        for x in form:
            yield from _slots(x)


def _filled(form: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(form, Slot):
        return next(tensors)
    return tuple(_filled(x, tensors) for x in form) if isinstance(form, tuple) else form


class Staged:
    """Memory of a device for all arrays of one form. `tree` is the form, with tensors that are views of it."""

    def __init__(self, form: Any, device: torch.device) -> None:
        slots = list(_slots(form))
        small = [i for i, slot in enumerate(slots) if slot.size < LARGE]
        large = [[i] for i, slot in enumerate(slots) if slot.size >= LARGE]
        self._blocks = [(which, _Block([slots[i] for i in which], device)) for which in (small, *large) if which]
        tensors = {i: x for which, block in self._blocks for i, x in zip(which, block.tensors, strict=True)}
        self.tree = _filled(form, iter([tensors[i] for i in range(len(slots))]))

    def send(self, arrays: list[np.ndarray]) -> None:
        """What is launched from now on reads these. Nothing waits."""
        for which, block in self._blocks:
            block.send([arrays[i] for i in which])


class _Block:
    """Arrays one behind the other."""

    def __init__(self, slots: list[Slot], device: torch.device) -> None:
        ends = list(itertools.accumulate(-(-slot.size // ALIGNMENT) * ALIGNMENT for slot in slots))
        self._starts = [0, *ends[:-1]]
        self._memory = torch.empty(ends[-1], dtype=torch.uint8, device=device)
        self._sent: list[np.ndarray] = []
        self.tensors = [
            self._memory[start : start + slot.size].view(_torch_dtype(slot.dtype)).view(slot.shape)
            for start, slot in zip(self._starts, slots, strict=True)
        ]

    def send(self, arrays: list[np.ndarray]) -> None:
        if self._sent and all(new is old for new, old in zip(arrays, self._sent, strict=True)):
            return
        # torch reuses pinned memory when the copy is over; a graph of the caller's would go on copying from it.
        pinned = self._memory.is_cuda and not torch.cuda.is_current_stream_capturing()
        packed = torch.empty(self._memory.shape, dtype=torch.uint8, pin_memory=pinned)
        numbers = packed.numpy()
        for start, array in zip(self._starts, arrays, strict=True):
            numbers[start : start + array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
        self._memory.copy_(packed, non_blocking=True)
        self._sent = arrays


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def arrays_of(now: Pass) -> tuple[Any, ...]:
    """The tree of all that a pass is beside its cache: slots, and of each part its shape and the hooks of each kind of
    layer as `torch.ops.farspan.attention` takes them."""
    parts = []
    for part in now.parts:
        shape = (part.tokens.start, part.tokens.stop, part.rows.start, part.rows.stop, part.span.time, part.span.keys)
        parts.append((shape, tuple(hook_arguments(_ON_HOST, **hooks) for hooks in _kinds(part.hooks).values())))
    return now.slots, tuple(parts)


def with_tensors(now: Pass, tree: tuple[Any, ...]) -> Pass:
    """The pass on what a `Staged` made of its tree."""
    slots, parts = tree
    ready = []
    for part, (_, kinds) in zip(now.parts, parts, strict=True):
        found = dict(zip(_kinds(part.hooks), kinds, strict=True))
        ready.append(dataclasses.replace(part, hooks=[found[id(hooks)] for hooks in part.hooks]))
    return dataclasses.replace(now, parts=ready, slots=slots)


def _kinds(hooks: list[Any]) -> dict[int, Any]:
    """Layers of a kind share an object."""
    return {id(x): x for x in hooks}


def on_device(now: Pass, device: torch.device) -> Pass:
    """A pass for `DeviceKernels`, its arrays sent."""
    arrays: list[np.ndarray] = []
    staged = Staged(form_of(arrays_of(now), arrays), device)
    staged.send(arrays)
    return with_tensors(now, staged.tree)
