"""The operations that layers are made of. A layer is written once; its numbers are torch tensors or NumPy arrays.

Arrays are the fast way on a CPU: a call on them costs a fifth of what it costs through torch's dispatcher, and with one
new token at a time calls, not arithmetic, are most of a small model's time. Tensors are for autograd and tracing.
Between half-precision weights everything is float32, in both; on a GPU, whose products take half-precision inputs,
everything is what the weights are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farspan._backend.hooks import Hooks
from farspan.attention import hook_arguments
from farspan.unembed import greedy, sample

HALVES = (torch.bfloat16, torch.float16)


def activation_dtype(weights: torch.dtype) -> torch.dtype:
    """What a model computes and caches in."""
    return torch.float32 if weights in HALVES else weights


class TensorKernels:
    """On tensors, by the functions of `farspan.reference` or of `farspan`; between the weights `dtype`."""

    def __init__(self, operations: Any, dtype: torch.dtype) -> None:
        self.operations, self.dtype = operations, dtype

    def embed(self, tokens: Any, embedding: Tensor) -> Tensor:
        rows = F.embedding(torch.as_tensor(tokens, device=embedding.device), embedding)
        return rows.to(self.dtype)

    def linear(self, x: Tensor, layer: nn.Module) -> Tensor:
        bias: Any = layer.bias
        if bias is not None:
            bias = bias.to(activation_dtype(x.dtype))
        out: Tensor = self.operations.linear(x, layer.weight, bias)
        return out

    def norm(self, x: Tensor, layer: Any) -> Tensor:
        weight = layer.weight.to(x.dtype)
        if layer.bias is None:
            return F.rms_norm(x, weight.shape, weight, layer.eps)
        return F.layer_norm(x, weight.shape, weight, layer.bias.to(x.dtype), layer.eps)

    def activate(self, x: Tensor, activation: str, gated: bool) -> Tensor:
        gate, up = x.chunk(2, dim=-1) if gated else (x, None)
        if activation == "silu":
            gate = F.silu(gate)
        elif activation == "relu":
            gate = F.relu(gate)
        else:
            gate = F.gelu(gate, approximate="tanh")
        return gate if up is None else gate * up

    def attention(self, query: Tensor, key: Tensor, value: Tensor, hooks: dict[str, Any]) -> Tensor:
        out: Tensor = self.operations.attention(query, key, value, **hooks)
        return out

    def concatenate(self, parts: list[Tensor], axis: int) -> Tensor:
        return torch.cat(parts, axis)

    def draw(self, hidden: Tensor, unembedding: Tensor, draws: dict[str, Any] | None) -> Any:
        """A `farspan.Sample`: greedy without draws."""
        hidden = hidden.to(unembedding.dtype)
        if draws is None:
            return self.operations.greedy(hidden, unembedding)
        return self.operations.sample(hidden, unembedding, **draws)


class DeviceKernels(TensorKernels):
    """On tensors of a GPU, by the functions of `farspan`. Passes have their arrays there, and hooks in the order of the
    operator: `staging.on_device`."""

    def __init__(self, dtype: torch.dtype) -> None:
        import farspan
        from farspan import ops

        super().__init__(farspan, dtype)
        self._attention = ops.attention

    def attention(self, query: Tensor, key: Tensor, value: Tensor, hooks: Any) -> Tensor:
        out: Tensor = self._attention(query, key, value, *hooks)[0]
        return out


class ArrayKernels:
    """On float32 NumPy arrays, by the CPU backend. The weights are the parameters' own memory, looked up at first use:
    an object serves one forward pass, or the passes of one `generate`, between which nobody changes weights."""

    def __init__(self) -> None:
        from farspan._backend import cpu, threads

        threads.follow_torch()
        self._backend = cpu
        self._weights: dict[nn.Module, tuple[Any, ...]] = {}
        self._hooks: tuple[Any, Hooks] = (None, Hooks())

    def embed(self, tokens: np.ndarray, embedding: Tensor) -> np.ndarray:
        rows: np.ndarray = F.embedding(torch.from_numpy(tokens), embedding.detach()).float().numpy()
        return rows

    def linear(self, x: np.ndarray, layer: nn.Module) -> np.ndarray:
        found = self._weights.get(layer)
        if found is None:
            found = self._weights[layer] = (*_memory(layer.weight), _numbers(layer.bias))
        return self._backend.linear_rows(x, *found)

    def norm(self, x: np.ndarray, layer: Any) -> np.ndarray:
        found = self._weights.get(layer)
        if found is None:
            found = self._weights[layer] = (_numbers(layer.weight), _numbers(layer.bias))
        weight, bias = found
        if bias is None:
            return self._backend.rms_norm(x, weight, layer.eps)
        gain, shift = torch.from_numpy(weight), torch.from_numpy(bias)
        out: np.ndarray = F.layer_norm(torch.from_numpy(x), weight.shape, gain, shift, layer.eps).numpy()
        return out

    def activate(self, x: np.ndarray, activation: str, gated: bool) -> np.ndarray:
        return self._backend.activate(x, activation, gated)

    def attention(self, query: np.ndarray, key: np.ndarray, value: np.ndarray, hooks: dict[str, Any]) -> np.ndarray:
        if self._hooks[0] is not hooks:  # the layers of a pass share them
            self._hooks = hooks, hook_arguments(query, **hooks)
        return self._backend.attention("float32", query, key, value, self._hooks[1])[0]

    def concatenate(self, parts: list[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(parts, axis)

    def draw(self, hidden: np.ndarray, unembedding: Tensor, draws: dict[str, Any] | None) -> Any:
        """A `farspan.Sample`: greedy without draws."""
        rows: Any = hidden
        weight: Any = unembedding.detach()
        if weight.dtype in HALVES:
            rows = torch.from_numpy(hidden).to(weight.dtype)
        else:
            weight = weight.numpy()
        return greedy(rows, weight) if draws is None else sample(rows, weight, **draws)


def _memory(parameter: Any) -> tuple[str, np.ndarray]:
    """A parameter's dtype and its memory as an array, half types by their bits."""
    tensor = parameter.detach()
    bits = tensor.view(torch.uint16) if tensor.dtype in HALVES else tensor
    return str(tensor.dtype).removeprefix("torch."), bits.numpy()


def _numbers(parameter: Any) -> Any:
    """A small parameter as a float32 array, None where there is none."""
    return None if parameter is None else parameter.detach().float().numpy()
