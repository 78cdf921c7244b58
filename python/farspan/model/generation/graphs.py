"""Passes on a GPU whose shapes repeat, as those of decoding do: captured in CUDA graphs and replayed.

A pass is its structure, which is all that Python decides on, and the numbers in its small arrays. The first pass of a
structure runs as it stands, which also compiles and loads its kernels; the second is captured; from then on the numbers
are sent to where the graph reads them, and the graph is replayed: one launch instead of a dozen for each layer.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch

from farspan.model.decoder import Decoder
from farspan.model.operations import DeviceOperations
from farspan.model.passes import PassPlan
from farspan.model.staging import Staged, arrays_of, form_of, with_tensors

MOST_STRUCTURES = 8
"""How many are known at a time; the one that was not used for longest goes."""

Work = Callable[[], Any]


class Recorder(Protocol):
    """What makes graphs that are replayed one at a time."""

    def record(self, work: Work) -> Work:
        """Does what `work` did, on the same memory and without Python, whenever it is called. What it gives is valid
        until any graph of this recorder is replayed."""


class CudaGraphs:
    """torch's graphs on a device, which share their memory."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pool: Any = None
        self._newest: torch.cuda.CUDAGraph | None = None  # holds the memory, that an unused pool would lose

    def record(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.cuda.device(self._device):
            stream, caller = _capturing_stream(self._device), torch.cuda.current_stream()
            # The caller's stream is put back also where a capture fails; other threads may go on allocating.
            with _ONE_AT_A_TIME, torch.cuda.stream(caller):
                try:
                    with torch.cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
                        result = work()
                except BaseException:
                    self._end_recording()
                    raise
        self._newest = graph

        def replay() -> Any:
            graph.replay()
            return result

        return replay

    def _end_recording(self) -> None:
        """Where the driver gave a capture up, torch's allocator may believe that it goes on. Then memory that another
        stream has used would never be given out again. What the failed capture itself took may stay taken."""
        end = getattr(torch._C, "_cuda_endAllocateToPool", None)
        if end is not None:
            with suppress(RuntimeError):  # the allocator knows already, as it does where Python gave up
                end(self._device.index or 0, self._pool)


_ONE_AT_A_TIME = threading.Lock()


@cache
def _capturing_stream(device: torch.device) -> torch.cuda.Stream:
    """One for good: torch keeps a workspace of cuBLAS for each stream that there ever was."""
    return torch.cuda.Stream(device)


def recorder(device: torch.device) -> Recorder | None:
    """What records work on this device, None where nothing can."""
    return CudaGraphs(device) if device.type == "cuda" else None


@dataclass
class _Step:
    inputs: Staged
    work: Work
    """The pass on what `inputs` were sent last."""
    replay: Work | None = None


class RepeatedPasses:
    """The passes of one `generate` of a model on a GPU; without `graphs` each is launched anew.

    Graphs read the weights and the cache where these were when they were captured: weights stay as they are while an
    object lives, and all graphs go when the cache has grown.
    """

    def __init__(self, model: Decoder, operations: DeviceOperations, graphs: bool) -> None:
        self._model, self._operations, self._graphs = model, operations, graphs
        self._stores: Any = None
        self._recorder: Recorder | None = None
        self._steps: OrderedDict[Any, _Step] = OrderedDict()

    def hidden(self, tokens: np.ndarray, plan: PassPlan, last: np.ndarray | None) -> Any:
        """As `Decoder.run`; of the tokens at `last` alone where it is given. Valid until the next call."""
        return self._run(plan, (tokens, last, arrays_of(plan), False, None))

    def drawn(self, tokens: np.ndarray, plan: PassPlan, last: np.ndarray | None, draws: dict[str, Any] | None) -> Any:
        """The `farspan.Sample` of those by `DeviceOperations.draw`, for plain `draws`. Valid until the next call."""
        return self._run(plan, (tokens, last, arrays_of(plan), True, draws and tuple(draws.items())))

    def _run(self, plan: PassPlan, tree: tuple[Any, ...]) -> Any:
        self._follow(plan)
        arrays: list[np.ndarray] = []
        form = form_of(tree, arrays)
        step = self._steps.pop(form, None)
        again = step is not None
        if step is None:
            inputs = Staged(form, self._model.device)
            step = _Step(inputs, self._work(plan, inputs.tree))
        self._steps[form] = step
        if len(self._steps) > MOST_STRUCTURES:
            self._steps.popitem(last=False)
        step.inputs.send(arrays)
        if again and step.replay is None:
            step.replay = self._recorded(step.work)
        result = (step.replay or step.work)()
        plan.commit()
        return result

    def _work(self, plan: PassPlan, tree: tuple[Any, ...]) -> Work:
        tokens, last, arrays, draw, draws = tree
        ready = with_tensors(plan, arrays)
        model, operations = self._model, self._operations

        def work() -> Any:
            hidden = model.compute(tokens, ready, operations)
            hidden = hidden if last is None else hidden[last]
            if not draw:
                return hidden
            return operations.draw(hidden, model.unembedding, draws and dict(draws), model.logit_settings)

        return work

    def _recorded(self, work: Work) -> Work | None:
        if self._recorder is None:
            return None
        try:
            return self._recorder.record(work)
        except Exception as error:  # whatever it is, the pass itself will say so again if it is to blame
            warnings.warn(f"farspan: generate goes on without CUDA graphs: {error}", RuntimeWarning, stacklevel=2)
            self._graphs, self._recorder = False, None
            return None

    def _follow(self, plan: PassPlan) -> None:
        """Nothing that was captured over memory which the cache has left is replayed again."""
        stores = plan.cache and plan.cache.stores
        if stores is not self._stores:
            self._steps.clear()
            self._stores = stores
            self._recorder = recorder(self._model.device) if self._graphs else None
