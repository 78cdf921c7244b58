"""The operations of a model whose gradients autograd records on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from farspan._backend.hooks import Hooks
from farspan._backend.packed import Call, Counts
from farspan._backend.threads import torch_on_one_thread
from farspan.attention import hook_arguments
from farspan.model import recorded
from farspan.model.operations import TensorOperations
from farspan.model.passes import AttentionCall


class RecordedOperations(TensorOperations):
    """On float32 tensors of a CPU, by the functions of `farspan`, as autograd records them. What stands beside each
    other in a layer is one operation where that is quicker: nobody has hooked a module, so none has to be called."""

    def __init__(self) -> None:
        super().__init__("fused", torch.float32)
        self._hooks: tuple[Any, Hooks] = (None, Hooks())

    def mix_heads(self, heads: Tensor, counts: Counts, call: AttentionCall, layer: int, positions: Any) -> Tensor:
        """Attention among packed heads of queries, keys and values, `[tokens, heads, dim]` -> `[tokens, query heads *
        dim]`, where no cache, sink or learned hook has a part in it. `positions`: what widens the heads, or None."""
        hooks = call.hooks[layer]
        if self._hooks[0] is not hooks:  # the layers of a pass share them
            self._hooks = hooks, hook_arguments(heads.detach().numpy(), **hooks)
        own = Call(counts, None if call.span is None else call.span.time, self._hooks[1])
        if positions is None:
            return recorded.mix_heads(heads, own)
        linear, content_bias = positions.position_query, positions.content_bias
        widening = recorded.Widening(linear.weight, linear.bias, content_bias, call.features[layer]["ahead"])
        return recorded.mix_wide_heads(heads, widening, own)

    def linear(self, x: Tensor, layer: Any) -> Tensor:
        return recorded.linear(x, layer.weight, layer.bias)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return recorded.add(x, y)

    def norm_beside(self, x: Tensor, layer: Any) -> tuple[Tensor, Tensor]:
        if layer.bias is not None:
            return super().norm_beside(x, layer)
        return recorded.norm_beside(x, layer.gain, layer.eps)

    def norm_of_sum(self, x: Tensor, y: Tensor, layer: Any) -> tuple[Tensor, Tensor]:
        if layer.bias is not None:
            return super().norm_of_sum(x, y, layer)
        return recorded.norm_of_sum(x, y, layer.gain, layer.eps)


@contextlib.contextmanager
def with_all_cores(model: Any) -> Iterator[None]:
    """For passes of a model and their gradients: torch's threads stand aside where farspan's do the work."""
    ours = isinstance(model.choose_operations(), RecordedOperations)
    with torch_on_one_thread() if ours else contextlib.nullcontext():
        yield


def tensor_operations(model: Any, traced: bool) -> TensorOperations:
    """What a model computes with on tensors: whole operations where it may, else whatever its modules do."""
    serves = model.backend == "fused" and model.device.type == "cpu" and not traced
    if serves and model.activations == torch.float32 and not model.instrumented:
        return RecordedOperations()
    return TensorOperations(model.backend, model.activations)
