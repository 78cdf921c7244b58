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
from farspan.model.passes import PassPlan

_ON_HOST = np.empty(0, np.float32)
"""Stands for the query where small arrays shall be NumPy's, whatever the query is."""

ALIGNMENT = 16
LARGE = 1 << 14
"""Bytes from which an array is sent by itself, and not again while it is the same one: tables that schemes keep."""


class ArraySpec(NamedTuple):
    """An array without its numbers."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def form_of(tree: Any, arrays: list[np.ndarray]) -> Any:
    """The tuples and lists of `tree` as tuples, arrays replaced by their specs: what two passes have in common that
    differ in numbers alone. The arrays are appended to `arrays`."""
    if isinstance(tree, np.ndarray):
        arrays.append(tree)
        return ArraySpec(tree.dtype, tree.shape)
    return tuple(form_of(x, arrays) for x in tree) if isinstance(tree, (tuple, list)) else tree


def _specs(form: Any) -> Iterator[ArraySpec]:
    if isinstance(form, ArraySpec):
        yield form
    elif isinstance(form, tuple):
        for x in form:
            yield from _specs(x)


def _filled(form: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(form, ArraySpec):
        return next(tensors)
    return tuple(_filled(x, tensors) for x in form) if isinstance(form, tuple) else form


class Staged:
    """Memory of a device for all arrays of one form. `tree` is the form, with tensors that are views of it."""

    def __init__(self, form: Any, device: torch.device) -> None:
        specs = list(_specs(form))
        small = [i for i, spec in enumerate(specs) if spec.size < LARGE]
        large = [[i] for i, spec in enumerate(specs) if spec.size >= LARGE]
        self._blocks = [(which, _Block([specs[i] for i in which], device)) for which in (small, *large) if which]
        tensors = {i: x for which, block in self._blocks for i, x in zip(which, block.tensors, strict=True)}
        self.tree = _filled(form, iter([tensors[i] for i in range(len(specs))]))

    def send(self, arrays: list[np.ndarray]) -> None:
        """What is launched from now on reads these. Nothing waits."""
        for which, block in self._blocks:
            block.send([arrays[i] for i in which])


class _Block:
    """Arrays one behind the other."""

    def __init__(self, specs: list[ArraySpec], device: torch.device) -> None:
        ends = list(itertools.accumulate(-(-spec.size // ALIGNMENT) * ALIGNMENT for spec in specs))
        self._starts = [0, *ends[:-1]]
        self._memory = torch.empty(ends[-1], dtype=torch.uint8, device=device)
        self._sent: list[np.ndarray] = []
        self.tensors = [
            self._memory[start : start + spec.size].view(_torch_dtype(spec.dtype)).view(spec.shape)
            for start, spec in zip(self._starts, specs, strict=True)
        ]

    def send(self, arrays: list[np.ndarray]) -> None:
        if self._sent and all(new is old for new, old in zip(arrays, self._sent, strict=True)):
            return
        # Pinned: else the copy would wait. torch keeps the memory until the copy is over. No graph may record the copy,
        # for the graph would go on copying from there; `check_not_capturing` sees to that.
        packed = torch.empty(self._memory.shape, dtype=torch.uint8, pin_memory=self._memory.is_cuda)
        numbers = packed.numpy()
        for start, array in zip(self._starts, arrays, strict=True):
            numbers[start : start + array.nbytes].view(array.dtype).reshape(array.shape)[...] = array
        self._memory.copy_(packed, non_blocking=True)
        self._sent = arrays


def _torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dtype)).dtype


def arrays_of(plan: PassPlan) -> tuple[Any, ...]:
    """The tree of all that a plan is beside its cache: slots, places, and of each call its shape, the hooks of each
    kind of layer as `torch.ops.farspan.attention` takes them, and the features of each."""
    calls = []
    for call in plan.calls:
        per_call = () if call.span is None else (call.span.time, call.span.keys)
        shape = (call.tokens.start, call.tokens.stop, call.rows.start, call.rows.stop, *per_call)
        hooks = tuple(hook_arguments(_ON_HOST, **hooks) for hooks in _kinds(call.hooks).values())
        calls.append((shape, hooks, tuple(tuple(found.items()) for found in _kinds(call.features).values())))
    return plan.slots, plan.places, tuple(calls)


def with_tensors(plan: PassPlan, tree: tuple[Any, ...]) -> PassPlan:
    """The plan on what a `Staged` made of its tree."""
    slots, places, calls = tree
    ready = []
    for call, (_, kinds, features) in zip(plan.calls, calls, strict=True):
        hooks_of = dict(zip(_kinds(call.hooks), kinds, strict=True))
        features_of = dict(zip(_kinds(call.features), map(dict, features), strict=True))
        hooks = [hooks_of[id(x)] for x in call.hooks]
        ready.append(dataclasses.replace(call, hooks=hooks, features=[features_of[id(x)] for x in call.features]))
    return dataclasses.replace(plan, calls=ready, slots=slots, places=places)


def _kinds(hooks: list[Any]) -> dict[int, Any]:
    """Layers of a kind share an object."""
    return {id(x): x for x in hooks}


def on_device(plan: PassPlan, device: torch.device) -> PassPlan:
    """A plan for `DeviceOperations`, its arrays sent."""
    arrays: list[np.ndarray] = []
    staged = Staged(form_of(arrays_of(plan), arrays), device)
    staged.send(arrays)
    return with_tensors(plan, staged.tree)
