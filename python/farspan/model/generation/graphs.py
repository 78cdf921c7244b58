"""Passes on a GPU whose shapes repeat, as those of decoding do: captured in CUDA graphs and replayed.

A pass is its structure, which is all that Python decides on, and the numbers in its small arrays. The first passes of a
structure run as they stand, which also compiles and loads its kernels; a short text ends before a capture would pay.
The next one is captured. From then on the numbers are sent to where the graph reads them, and the graph is replayed:
one launch instead of a dozen for each layer. Graphs stay with the cache that they read.
"""

from __future__ import annotations

import dataclasses
import threading
import warnings
import weakref
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
"""How many are known of a cache at a time; the one that was not used for longest goes."""

RUNS_BEFORE_CAPTURE = 2
"""A capture takes as long as one or two passes."""

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
    runs: int = 0
    replay: Work | None = None


class KeptGraphs:
    """The structures of a model's passes over one cache, and their graphs, which read weights and keys where these were
    when they were captured. They hold neither the model nor the cache."""

    def __init__(self, model: Decoder, stores: Any, recorder: Recorder | None) -> None:
        self.steps: OrderedDict[Any, _Step] = OrderedDict()
        self.recorder = recorder
        self._model, self._places = weakref.ref(model), _places(model)
        self._store = weakref.ref(stores[0]) if stores else None  # a cache that grows has others

    def serve(self, model: Decoder, stores: Any) -> bool:
        """Whether all that the graphs read is where it was. Other numbers in the same weights are read as they are."""
        same = self._model() is model and self._store is not None and self._store() is stores[0]
        return same and self.recorder is not None and self._places == _places(model)


def _places(model: Decoder) -> list[Any]:
    """Which modules a model is of, and where its weights lie."""
    weights = [(x.data_ptr(), x.dtype, x.shape) for x in (*model.parameters(), *model.buffers())]
    return [weakref.ref(module) for module in model.modules()] + weights


class RepeatedPasses:
    """The passes of one `generate` of a model on a GPU; without `graphs` each is launched anew. With them, what was
    captured over the same cache before is replayed. All graphs go when the cache has grown."""

    def __init__(self, model: Decoder, operations: DeviceOperations, graphs: bool) -> None:
        self._model, self._operations, self._graphs = model, operations, graphs
        self._stores: Any = None
        self._kept = KeptGraphs(model, None, None)

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
        steps = self._kept.steps
        step = steps.pop(form, None)
        if step is None:
            inputs = Staged(form, self._model.device)
            step = _Step(inputs, self._work(plan, inputs.tree))
        steps[form] = step
        if len(steps) > MOST_STRUCTURES:
            steps.popitem(last=False)
        step.inputs.send(arrays)
        if step.replay is None and step.runs >= RUNS_BEFORE_CAPTURE:
            step.replay = self._recorded(step.work)
        step.runs += 1
        result = (step.replay or step.work)()
        plan.commit()
        return result

    def _work(self, plan: PassPlan, tree: tuple[Any, ...]) -> Work:
        tokens, last, arrays, draw, draws = tree
        ready = with_tensors(plan, arrays)
        if plan.cache is not None:  # which keeps the work
            ready = dataclasses.replace(ready, cache=weakref.proxy(plan.cache))
        model, operations = weakref.proxy(self._model), self._operations

        def work() -> Any:
            hidden = model.compute(tokens, ready, operations)
            hidden = hidden if last is None else hidden[last]
            if not draw:
                return hidden
            return operations.draw(hidden, model.unembedding, draws and dict(draws), model.logit_settings)

        return work

    def _recorded(self, work: Work) -> Work | None:
        kept = self._kept
        if kept.recorder is None:
            return None
        try:
            return kept.recorder.record(work)
        except Exception as error:  # whatever it is, the pass itself will say so again if it is to blame
            warnings.warn(f"farspan: generate goes on without CUDA graphs: {error}", RuntimeWarning, stacklevel=2)
            self._graphs, kept.recorder = False, None
            return None

    def _follow(self, plan: PassPlan) -> None:
        """Nothing that was captured over memory which the cache has left is replayed again."""
        cache = plan.cache
        stores = cache and cache.stores
        if stores is self._stores:
            return
        self._stores = stores
        kept = cache.graphs if cache is not None and self._graphs else None
        if kept is None or not kept.serve(self._model, stores):
            kept = KeptGraphs(self._model, stores, recorder(self._model.device) if self._graphs else None)
        self._kept = kept
        if cache is not None and self._graphs:
            cache.graphs = kept
