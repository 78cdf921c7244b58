"""The operations that layers are made of. A layer is written once; its numbers are torch tensors or NumPy arrays.

Arrays are the fast way on a CPU: a call on them costs a fifth of what it costs through torch's dispatcher, and with one
new token at a time calls, not arithmetic, are most of a small model's time. Tensors are for autograd and tracing.
Between half-precision weights everything is float32, in both; on a GPU, whose products take half-precision inputs,
everything is what the weights are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farspan import _transforms, ops, reference
from farspan._backend import cpu, threads
from farspan._backend.hooks import Hooks
from farspan.attention import DistanceBias, attention, hook_arguments
from farspan.linear import linear
from farspan.loss import linear_cross_entropy
from farspan.model import recorded
from farspan.model.activations import Activation
from farspan.model.passes import PassPlan
from farspan.model.staging import on_device
from farspan.statistics import AttentionStatistics, attention_statistics
from farspan.unembed import greedy, sample

NO_RULES: Mapping[str, Any] = {}
HALVES = ops.HALVES
ROWS_AT_ONCE = 2048
"""Tokens that go through an MLP together where nobody records: so many rows of what is inside are in memory."""
FUSED = SimpleNamespace(
    attention=attention, attention_statistics=attention_statistics, linear=linear, greedy=greedy, sample=sample,
    linear_cross_entropy=linear_cross_entropy,
)  # fmt: skip
"""The package's own functions, under the names that `farspan.reference` has for them."""
FUNCTIONS: dict[str, Any] = {"fused": FUSED, "reference": reference}
"""What each backend of a model computes with on tensors."""


def activation_dtype(weights: torch.dtype) -> torch.dtype:
    """What a model computes and caches in."""
    return torch.float32 if weights in HALVES else weights


class Operations(Protocol):
    """What a model asks for. Numbers are of one kind, NumPy arrays or tensors, from `embed` to `draw`."""

    refuses_unknown_ids: bool
    """Whether `embed` raises IndexError for an id outside the vocabulary; a GPU ends all work of the process."""

    def prepared(self, plan: PassPlan, device: torch.device) -> PassPlan:
        """The plan as `attention` and the cache read it."""

    def embed(self, tokens: Any, embedding: Tensor) -> Any:
        """A row of the embedding for each of `tokens`, an array or a tensor on any device: of words, or of places."""

    def call(self, module: nn.Module, *arguments: Any) -> Any:
        """What a part of a layer does."""

    def rowwise(self, module: nn.Module, x: Any) -> Any:
        """What a part of a layer makes of rows that know nothing of each other, of the same width."""

    def linear(self, x: Any, layer: nn.Module) -> Any:
        """`x @ weight.T + bias`."""

    def norm(self, x: Any, layer: Any) -> Any:
        """The norm that `layer` describes, over the last dim."""

    def norm_beside(self, x: Any, layer: Any) -> tuple[Any, Any]:
        """x for its other use, and its norm."""

    def norm_of_sum(self, x: Any, y: Any, layer: Any) -> tuple[Any, Any]:
        """`x + y`, and its norm."""

    def add(self, x: Any, y: Any) -> Any:
        """`x + y`"""

    def activate(self, x: Any, activation: Activation) -> Any:
        """What an `Activation` makes of rows."""

    def learned(self, positions: Any, features: Mapping[str, Any]) -> Any:
        """The hooks that the parameters of a layer's position scheme decide."""

    def shared_by_rows(self, hooks: Any) -> tuple[Any, Any]:
        """The hooks without those that go by token or sequence, and the scale of each query, None where it has none."""

    def attention(self, query: Any, key: Any, value: Any, hooks: Any, sink: Tensor | None, learned: Any = None) -> Any:
        """Attention with the hooks that the plan has for a layer, the layer's own sink, and what `learned` gave."""

    def statistics(self, query: Any, key: Any, *settings: Any) -> AttentionStatistics:
        """What attention with the same hooks, sink and `learned` looks at."""

    def route(self, logits: Any, chosen: int, sums_to_one: bool) -> tuple[Any, Any]:
        """Shares and indices `[tokens, chosen]` of the experts with the largest logits."""

    def sorted_by_expert(self, experts: Any, count: int) -> tuple[Any, list[int]]:
        """The order of all choices `[tokens * chosen]` by expert and then by token, and how many each expert has."""

    def of_expert(self, x: Any, layer: Any, expert: int) -> Any:
        """`x @ weight.T + bias` of one expert of an `ExpertLinear`."""

    def summed(self, parts: Any, tokens: Any, count: int, chosen: int) -> Any:
        """`[count, width]`: for each token the sum of its `chosen` rows of `parts`, in the order in which they lie."""

    def contiguous(self, x: Any) -> Any:
        """The same numbers, one behind the other in memory."""

    def concatenate(self, parts: list[Any], axis: int) -> Any:
        """Several arrays as one."""

    def stacked(self, parts: list[Any], axis: int) -> Any:
        """Several arrays as one with one axis more."""

    def repeated(self, row: Any, shape: tuple[int, ...]) -> Any:
        """A row of a plan's features, as numbers that can be computed with, once for each index of `shape`."""

    def numbers(self, parameter: Tensor) -> Any:
        """A small parameter as numbers that can be computed with."""

    def as_tensor(self, x: Any) -> Tensor:
        """Numbers of this kind as a tensor."""

    def draw(
        self, hidden: Any, unembedding: Tensor, draws: dict[str, Any] | None, rules: Mapping[str, Any] = NO_RULES
    ) -> Any:
        """A `farspan.Sample`: greedy without draws. `rules`: what the logits are beside the unembedding."""


class TensorOperations:
    """On tensors, by the functions of a backend; between the weights `dtype`. Modules are called, with their hooks."""

    refuses_unknown_ids = True

    def __init__(self, backend: str, dtype: torch.dtype) -> None:
        self.backend, self.functions, self.dtype = backend, FUNCTIONS[backend], dtype

    def prepared(self, plan: PassPlan, device: torch.device) -> PassPlan:
        return plan

    def embed(self, tokens: Any, embedding: Tensor) -> Tensor:
        ids = torch.as_tensor(tokens, device=embedding.device)
        if embedding.dtype in HALVES and self.dtype == torch.float32:
            return recorded.widened_rows(ids, embedding)
        return F.embedding(ids, embedding).to(self.dtype)

    def call(self, module: nn.Module, *arguments: Any) -> Any:
        return module(*arguments)

    def rowwise(self, module: nn.Module, x: Tensor) -> Any:
        return module(x, self)

    def linear(self, x: Tensor, layer: nn.Module) -> Tensor:
        out: Tensor = layer(x)
        return out

    def norm(self, x: Tensor, layer: Any) -> Tensor:
        out: Tensor = layer(x)
        return out

    def norm_beside(self, x: Tensor, layer: Any) -> tuple[Tensor, Tensor]:
        return x, self.norm(x, layer)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y

    def norm_of_sum(self, x: Tensor, y: Tensor, layer: Any) -> tuple[Tensor, Tensor]:
        total = x + y
        return total, self.norm(total, layer)

    def activate(self, x: Tensor, activation: Activation) -> Tensor:
        if self.backend == "fused" and arrays_serve(x):
            return recorded.activate(x, activation)
        out: Tensor = activation.of_parts(activation.parts(x))
        return out

    def learned(self, positions: Any, features: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = positions.learned_hooks(features)
        return found

    def shared_by_rows(self, hooks: Any) -> tuple[Any, Any]:
        return _shared_by_rows(hooks)

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, hooks: dict[str, Any], sink: Tensor | None,
        learned: dict[str, Any] | None = None,
    ) -> Tensor:  # fmt: skip
        out: Tensor = self.functions.attention(query, key, value, **self._given(query, hooks, sink, learned))
        return out

    def statistics(self, query: Tensor, key: Tensor, *settings: Any) -> AttentionStatistics:
        given = self._given(query, *settings)
        found: AttentionStatistics = self.functions.attention_statistics(query, key, **given)
        return found

    def _given(
        self, query: Tensor, hooks: dict[str, Any], sink: Tensor | None, learned: dict[str, Any] | None
    ) -> dict[str, Any]:
        given = hooks if sink is None else hooks | {"sink": sink.to(small_dtype(query))}
        return given if learned is None else with_learned(given, learned, small_dtype(query))

    def route(self, logits: Tensor, chosen: int, sums_to_one: bool) -> tuple[Tensor, Tensor]:
        wide = logits.to(small_dtype(logits))
        experts = wide.detach().argsort(dim=-1, descending=True, stable=True)[:, :chosen]
        picked = wide.gather(-1, experts)
        total = (picked if sums_to_one else wide).logsumexp(-1, keepdim=True)
        shares = (picked - total).exp().to(logits.dtype)
        if self.backend == "fused" and arrays_serve(logits):  # the bits of arrays, and the slopes of what is above
            exact, _ = ArrayOperations.route(logits.detach().numpy(), chosen, sums_to_one)
            return torch.from_numpy(exact) + (shares - shares.detach()), experts
        return shares, experts

    def sorted_by_expert(self, experts: Tensor, count: int) -> tuple[Tensor, list[int]]:
        flat = experts.reshape(-1)
        return flat.argsort(stable=True), torch.bincount(flat, minlength=count).tolist()

    def of_expert(self, x: Tensor, layer: Any, expert: int) -> Tensor:
        out: Tensor = layer(x, expert)
        return out

    def summed(self, parts: Tensor, tokens: Tensor, count: int, chosen: int) -> Tensor:
        back = tokens.argsort(stable=True)
        return _in_turn(parts[back].reshape(count, chosen, -1))

    def contiguous(self, x: Tensor) -> Tensor:
        return x.contiguous()

    def concatenate(self, parts: list[Tensor], axis: int) -> Tensor:
        return torch.cat(parts, axis)

    def stacked(self, parts: list[Tensor], axis: int) -> Tensor:
        return torch.stack(parts, axis)

    def repeated(self, row: Any, shape: tuple[int, ...]) -> Tensor:
        return torch.as_tensor(row).to(self.dtype).expand(*shape, -1)

    def numbers(self, parameter: Tensor) -> Tensor:
        return parameter.to(self.dtype)

    def as_tensor(self, x: Tensor) -> Tensor:
        return x

    def draw(
        self, hidden: Tensor, unembedding: Tensor, draws: dict[str, Any] | None, rules: Mapping[str, Any] = NO_RULES
    ) -> Any:
        hidden = hidden.to(unembedding.dtype)
        if draws is None:
            return self.functions.greedy(hidden, unembedding, **rules)
        return self.functions.sample(hidden, unembedding, **draws, **rules)


class DeviceOperations(TensorOperations):
    """On tensors of a GPU, by the functions of `farspan`. Plans have their arrays there, and hooks in the order of the
    operator."""

    refuses_unknown_ids = False

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__("fused", dtype)
        self._attention = ops.CALLS["attention"]

    def shared_by_rows(self, hooks: Any) -> tuple[Any, Any]:
        nothing: dict[str, Any] = dict.fromkeys(OF_TOKENS)
        return Hooks(*hooks)._replace(**nothing), hooks[_QUERY_SCALE]

    def prepared(self, plan: PassPlan, device: torch.device) -> PassPlan:
        return on_device(plan, device)

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, hooks: Any, sink: Tensor | None, learned: Any = None
    ) -> Tensor:
        out: Tensor = self._attention(query, key, value, *self._hooks(hooks, sink, learned))[0]
        return out

    def statistics(self, query: Tensor, key: Tensor, *settings: Any) -> AttentionStatistics:
        given = self._hooks(*settings)
        return AttentionStatistics(*ops.CALLS["attention_statistics"](query, key, *given))

    def _hooks(self, hooks: Any, sink: Tensor | None, learned: Any) -> Any:
        given = hooks if sink is None else Hooks(*hooks)._replace(sink=sink.float())
        if learned is None:
            return given
        return _replaced(Hooks(*given), with_learned({"query_scale": given[_QUERY_SCALE]}, learned, torch.float32))


def norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, backend: str) -> Tensor:
    """RMSNorm, with a bias LayerNorm: with the bits of `ArrayOperations` where that could have done it."""
    if bias is not None:
        return F.layer_norm(x, weight.shape, weight.to(x.dtype), bias.to(x.dtype), eps)
    if backend == "fused" and arrays_serve(x):
        return recorded.rms_norm(x, weight, eps)
    return F.rms_norm(x, weight.shape, weight.to(x.dtype), eps)


def arrays_serve(x: Tensor) -> bool:
    """Whether x may be computed with as an array: float32 on a CPU, and nobody traces or transforms."""
    traced = torch.compiler.is_compiling() or _transforms.at_work()
    return not traced and x.is_cpu and x.dtype == torch.float32


class ArrayOperations:
    """On float32 NumPy arrays, by the CPU backend. The weights are the parameters' own memory, looked up at first use:
    an object serves one forward pass, or the passes of one `generate`, between which nobody changes weights."""

    refuses_unknown_ids = True

    def __init__(self) -> None:
        threads.follow_torch()
        self._weights: dict[Any, tuple[Any, ...]] = {}  # by module, or parameter
        self._hooks: tuple[Any, Hooks] = (None, Hooks())
        self._learned: dict[Any, tuple[Any, Any]] = {}  # by module: features, and the hooks that these gave

    def prepared(self, plan: PassPlan, device: torch.device) -> PassPlan:
        return plan

    def embed(self, tokens: Any, embedding: Tensor) -> np.ndarray:
        ids = torch.from_numpy(tokens) if isinstance(tokens, np.ndarray) else torch.as_tensor(tokens)
        rows: np.ndarray = F.embedding(ids, embedding.detach()).float().numpy()
        return rows

    def call(self, module: nn.Module, *arguments: Any) -> Any:
        return module.forward(*arguments)  # nobody has hooked it

    def rowwise(self, module: nn.Module, x: np.ndarray) -> np.ndarray:
        """Many rows in parts: what is inside is several times as wide as they are."""
        if len(x) <= ROWS_AT_ONCE:
            whole: np.ndarray = module.forward(x, self)
            return whole
        out = np.empty_like(x)
        for start in range(0, len(x), ROWS_AT_ONCE):
            out[start : start + ROWS_AT_ONCE] = module.forward(x[start : start + ROWS_AT_ONCE], self)
        return out

    def linear(self, x: np.ndarray, layer: nn.Module) -> np.ndarray:
        found = self._weights.get(layer)
        if found is None:
            found = self._weights[layer] = (*recorded.memory(layer.weight), _numbers(layer.bias))
        return cpu.linear_rows(x, *found)

    def norm(self, x: np.ndarray, layer: Any) -> np.ndarray:
        weight, bias = self._gain(layer)
        if bias is None:
            return cpu.rms_norm(x, weight, layer.eps)
        gain, shift = torch.from_numpy(weight), torch.from_numpy(bias)
        out: np.ndarray = F.layer_norm(torch.from_numpy(x), weight.shape, gain, shift, layer.eps).numpy()
        return out

    def add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        total: np.ndarray = x + y
        return total

    def norm_beside(self, x: np.ndarray, layer: Any) -> tuple[np.ndarray, np.ndarray]:
        return x, self.norm(x, layer)

    def norm_of_sum(self, x: np.ndarray, y: np.ndarray, layer: Any) -> tuple[np.ndarray, np.ndarray]:
        weight, bias = self._gain(layer)
        if bias is None:
            return cpu.add_rms_norm(x, y, weight, layer.eps)
        total = x + y
        return total, self.norm(total, layer)

    def _gain(self, layer: Any) -> tuple[np.ndarray, np.ndarray | None]:
        """What a norm multiplies with and adds."""
        found = self._weights.get(layer)
        if found is None:
            gain = _numbers(layer.weight)
            found = self._weights[layer] = (1 + gain if layer.adds_one else gain, _numbers(layer.bias))
        return found[0], found[1]

    def activate(self, x: np.ndarray, activation: Activation) -> np.ndarray:
        out: np.ndarray = activation.of_array(x)
        return out

    def learned(self, positions: Any, features: Mapping[str, Any]) -> Any:
        given = list(features.values())
        known, found = self._learned.get(positions, (None, None))
        if known is None or any(x is not y for x, y in zip(known, given, strict=True)):
            with torch.no_grad():
                found = positions.learned_hooks(features)
            self._learned[positions] = given, found
        return found

    def attention(
        self, query: np.ndarray, key: np.ndarray, value: np.ndarray, hooks: dict[str, Any], sink: Tensor | None,
        learned: dict[str, Any] | None = None,
    ) -> np.ndarray:  # fmt: skip
        return cpu.attention("float32", query, key, value, self._given(query, hooks, sink, learned))[0]

    def statistics(self, query: np.ndarray, key: np.ndarray, *settings: Any) -> AttentionStatistics:
        given = self._given(query, *settings)
        return AttentionStatistics(*cpu.attention_statistics("float32", query, key, given))

    def _given(
        self, query: np.ndarray, hooks: dict[str, Any], sink: Tensor | None, learned: dict[str, Any] | None
    ) -> Hooks:
        if self._hooks[0] is not hooks:  # the layers of a pass share them
            self._hooks = hooks, hook_arguments(query, **hooks)
        given = self._hooks[1] if sink is None else self._hooks[1]._replace(sink=self.numbers(sink))
        if learned is not None:
            own = with_learned({"query_scale": given.query_scale}, learned, torch.float32)
            given = _replaced(given, own, lambda x: x.numpy())
        return given

    def shared_by_rows(self, hooks: Any) -> tuple[Any, Any]:
        return _shared_by_rows(hooks)

    @staticmethod
    def route(logits: np.ndarray, chosen: int, sums_to_one: bool) -> tuple[np.ndarray, np.ndarray]:
        experts = np.argsort(-logits, axis=-1, kind="stable")[:, :chosen]  # equal logits: the lowest index
        raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
        shares = np.take_along_axis(raised, experts, axis=-1)
        total = (shares if sums_to_one else raised).sum(axis=-1, keepdims=True)
        return shares / total, experts

    def sorted_by_expert(self, experts: np.ndarray, count: int) -> tuple[np.ndarray, list[int]]:
        flat = experts.reshape(-1)
        return np.argsort(flat, kind="stable"), np.bincount(flat, minlength=count).tolist()

    def of_expert(self, x: np.ndarray, layer: Any, expert: int) -> np.ndarray:
        found = self._weights.get(layer)
        if found is None:
            found = self._weights[layer] = (*recorded.memory(layer.weight), _numbers(layer.bias))
        dtype, weight, bias = found
        return cpu.linear_rows(x, dtype, weight[expert], None if bias is None else bias[expert])

    def summed(self, parts: np.ndarray, tokens: np.ndarray, count: int, chosen: int) -> np.ndarray:
        back = np.argsort(tokens, kind="stable")
        return _in_turn(parts[back].reshape(count, chosen, -1))

    def contiguous(self, x: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(x)

    def concatenate(self, parts: list[np.ndarray], axis: int) -> np.ndarray:
        return np.concatenate(parts, axis)

    def stacked(self, parts: list[np.ndarray], axis: int) -> np.ndarray:
        return np.stack(parts, axis)

    def repeated(self, row: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        return np.broadcast_to(row, (*shape, len(row)))

    def numbers(self, parameter: Tensor) -> np.ndarray:
        found = self._weights.get(parameter)
        if found is None:
            found = self._weights[parameter] = (_numbers(parameter),)
        return found[0]

    def as_tensor(self, x: np.ndarray) -> Tensor:
        return torch.from_numpy(x)

    def draw(
        self, hidden: np.ndarray, unembedding: Tensor, draws: dict[str, Any] | None,
        rules: Mapping[str, Any] = NO_RULES,
    ) -> Any:  # fmt: skip
        rows: Any = hidden
        weight: Any = unembedding.detach()
        if weight.dtype in HALVES:
            rows = torch.from_numpy(hidden).to(weight.dtype)
        else:
            weight = weight.numpy()
        return greedy(rows, weight, **rules) if draws is None else sample(rows, weight, **draws, **rules)


OF_TOKENS = ("query_positions", "key_positions", "key_lengths", "query_offsets", "key_offsets", "query_scale")
"""Hooks that have an entry for each token or sequence."""


def _shared_by_rows(hooks: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    return {name: x for name, x in hooks.items() if name not in OF_TOKENS}, hooks.get("query_scale")


_QUERY_SCALE = Hooks._fields.index("query_scale")


def with_learned(hooks: Mapping[str, Any], learned: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Hooks with those that parameters decide, tensors of a dtype; the two scales of a query are multiplied."""
    found: dict[str, Any] = dict(hooks)
    for name, x in learned.items():
        if isinstance(x, DistanceBias):
            found[name] = DistanceBias(x.table.to(dtype), minimum=x.minimum)
        elif name == "query_scale" and found.get(name) is not None:
            found[name] = (x * torch.as_tensor(found[name], device=x.device)).to(dtype)
        else:
            found[name] = x.to(dtype)
    return found


def _replaced(hooks: Hooks, own: dict[str, Any], ready: Callable[[Tensor], Any] = lambda x: x) -> Hooks:
    """The fields of the operator with these hooks in their places."""
    bias = own.pop("distance_bias", None)
    if bias is not None:
        hooks = hooks._replace(distance_table=ready(bias.table), distance_minimum=bias.minimum)
    return hooks._replace(**{name: ready(x) for name, x in own.items() if isinstance(x, Tensor)})


def _in_turn(parts: Any) -> Any:
    """`parts` `[tokens, chosen, width]` summed over the second axis, one after the other: no sum runs otherwise for
    other shapes."""
    total = parts[:, 0]
    for turn in range(1, parts.shape[1]):
        total = total + parts[:, turn]
    return total


def small_dtype(x: Tensor) -> torch.dtype:
    """The dtype of sinks, shares and biases beside x: float32 at least."""
    return torch.promote_types(x.dtype, torch.float32)


def _numbers(parameter: Any) -> Any:
    """A small parameter as a float32 array, None where there is none."""
    return None if parameter is None else parameter.detach().float().numpy()
