"""CUDA graphs without a GPU: what was recorded is run again, with Python's numbers as they were, and sends nothing."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from farspan.model import Cache, Completion
from support.emulated import TensorMemory

READING = {"cpu", "item", "numpy", "tolist", "__array__", "__bool__", "__float__", "__index__", "__int__"}
SENDING = {"from_numpy", "frombuffer", "tensor"}


class _NothingCrosses(TorchFunctionMode):
    """Refuses what would read from a device or send to it: in a capture that is an error, or is done only once."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, given = getattr(func, "__name__", ""), (*args, *(kwargs or {}).values())
        if name in READING | SENDING or any(isinstance(x, np.ndarray) for x in given):
            raise AssertionError(f"{name} while work is recorded")
        if name in ("__getitem__", "__setitem__") and isinstance(given[1], list):
            raise AssertionError(f"{name} by a list while work is recorded")
        return func(*args, **(kwargs or {}))


def _refused(*arguments: Any) -> Any:
    raise AssertionError("memory of the host while work is recorded")


class ReplayedPython:
    """A `Recorder` of `farspan.model.generation.graphs`. Results lie where the first lay until another is replayed."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0
        self._results: list[list[torch.Tensor]] = []

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        self.recorded += 1
        with self._on_its_own() as places:
            result = work()
        own = _tensors(result)
        self._results.append(own)
        self._lose_results()  # a capture computes nothing

        def replay() -> Any:
            self.replayed += 1
            with self._on_its_own() as now:
                again = _tensors(work())
            assert now == places, "the memory that was recorded is no longer that of the cache"
            self._lose_results()
            for first, new in zip(own, again, strict=True):
                first.copy_(new)
            return result

        return replay

    def _lose_results(self) -> None:
        for tensor in (tensor for result in self._results for tensor in result):
            tensor.fill_(-7)

    @contextmanager
    def _on_its_own(self) -> Iterator[list[int]]:
        """Gives where keys and values are written."""
        places: list[int] = []
        write = Cache.write

        def noted(cache: Cache, layer: int, *arguments: Any) -> None:
            places.append(cache.stores[layer].data_ptr())
            write(cache, layer, *arguments)

        refused = dict.fromkeys(("take", "host", "upload", "download"), _refused)
        with (
            mock.patch.multiple(TensorMemory, **refused), mock.patch.object(Cache, "write", noted),
            mock.patch.object(torch, "from_numpy", _refused), _NothingCrosses(),
        ):  # fmt: skip
            yield places


def _tensors(result: Any) -> list[torch.Tensor]:
    if isinstance(result, torch.Tensor):
        return [result]
    fields = (getattr(result, field.name) for field in dataclasses.fields(result))
    return [x for x in fields if isinstance(x, torch.Tensor)]


def numbers(completions: list[Completion]) -> Any:
    """All that was drawn, to the last bit."""
    return [(c.tokens, c.logprobs, c.finish_reason, c.top_tokens, c.top_logprobs) for c in completions]
