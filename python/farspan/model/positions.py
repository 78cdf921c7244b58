"""The parameters of a layer's position scheme, as a module of its attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from farspan.model.experts import ExpertLinear
from farspan.model.linear import Linear
from farspan.positions import FIRE, Forgetting, LayerShape, Learned, Relative

if TYPE_CHECKING:
    from farspan.model.config import Config
    from farspan.model.operations import Operations


class LayerPositions(nn.Module):
    """What the schemes that learn, `parts`, have in one layer. Its memory is uninitialised."""

    def __init__(self, parts: tuple[Learned, ...], shape: LayerShape, backend: str) -> None:
        super().__init__()
        self.parts, self.shape = parts, shape
        self.position_query: ExpertLinear | None = None
        self.gate: Linear | None = None
        for part in parts:
            if isinstance(part, Forgetting):
                self.gate = Linear(shape.width, shape.heads, True, backend)
            if isinstance(part, Relative):
                self.position_query = ExpertLinear(shape.heads, shape.head_dim, part.dim, True, backend)
            for name, size in self._sizes(part).items():
                if "." not in name:
                    self.register_parameter(name, nn.Parameter(torch.empty(size)))

    def _sizes(self, part: Learned) -> dict[str, tuple[int, ...]]:
        # Not on the meta device: random numbers there import torch's compiler, which takes seconds.
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):
            return {name: tuple(x.shape) for name, x in part.initial(self.shape).items()}

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """As they are before training; random ones from torch's generator."""
        for part in self.parts:
            for name, value in part.initial(self.shape).items():
                self.get_parameter(name).copy_(value)

    def take_over(self, other: LayerPositions) -> None:
        """The other's parameters of each scheme that has the same ones here."""
        others = {type(part): other._sizes(part) for part in other.parts}
        for part in self.parts:
            sizes = self._sizes(part)
            if others.get(type(part)) == sizes:
                for name in sizes:
                    module, _, own = name.rpartition(".")
                    self.get_submodule(module).register_parameter(own, other.get_parameter(name))

    def learned_hooks(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of attention that the parameters decide: float64 tensors."""
        device = next(self.parameters()).device
        given = {name: torch.as_tensor(x, device=device) for name, x in features.items()}
        weights = dict(self.named_parameters())
        found: dict[str, Any] = {}
        for part in self.parts:
            found |= part.learned_hooks(given, weights)
        return found

    @property
    def by_rows(self) -> bool:
        """Whether a bias depends on the query's place: then `farspan.model.rows` computes attention."""
        return any(part.by_rows for part in self.parts)

    @property
    def only_widens(self) -> bool:
        """Whether `widened` is all that the parameters do."""
        return all(isinstance(part, Relative) for part in self.parts)

    def row_bias(self, query_places: Tensor, key_places: Tensor) -> Tensor:
        """`[heads, queries, keys]`, where `by_rows`."""
        (fire,) = (part for part in self.parts if isinstance(part, FIRE))
        found: Tensor = fire.bias(query_places, key_places, dict(self.named_parameters()))
        return found

    def log_gates(self, x: Any, operations: Operations) -> Tensor | None:
        """`[tokens, heads]`: the logarithm of each forget gate, from what the layer's attention reads."""
        if self.gate is None:
            return None
        opened = operations.as_tensor(operations.linear(x, self.gate))
        return F.logsigmoid(opened.double()).to(torch.promote_types(opened.dtype, torch.float32))

    def widened(self, query: Any, key: Any, features: Mapping[str, Any], operations: Operations) -> tuple[Any, Any]:
        """Query and key with the dims that a scheme adds in front. Heads are the second axis."""
        linear = self.position_query
        if linear is None:
            return query, key
        asked = []
        for head in range(self.shape.heads):
            rows = query[:, head].reshape(-1, self.shape.head_dim)
            asked.append(operations.of_expert(rows, linear, head).reshape(*query[:, head].shape[:-1], -1))
        bias = operations.numbers(self.get_parameter("content_bias"))
        query = query + (bias if query.ndim == 3 else bias[:, None])
        return (
            operations.concatenate([operations.stacked(asked, 1), query], -1),
            operations.concatenate([operations.repeated(features["ahead"], key.shape[:-1]), key], -1),
        )

    def extra_repr(self) -> str:
        return ", ".join(f"{name} {list(x.shape)}" for name, x in self.named_parameters())


def forgotten(log_gates: Tensor, lengths: tuple[int, ...] | None = None) -> dict[str, Any]:
    """The bias of each key that forget gates mean, as attention's arguments: of `[batch, tokens, heads]`, or with
    lengths of `[tokens, heads]`, sequence behind sequence. It is summed up in float64, from a sequence's first token
    on: so it has the same bits however a text is read."""
    if lengths is None:
        return {"key_bias": -log_gates.mT.contiguous().double().cumsum(2)}
    sums = [own.double().cumsum(1) for own in log_gates.T.contiguous().split(lengths, 1)]
    return {"key_bias": -torch.cat(sums, 1)}


def positions_of(config: Config, layer: int, backend: str) -> LayerPositions | None:
    """What a layer of this config has: None where its scheme learns nothing."""
    parts = config.positions[layer].learned_parts
    if not parts:
        return None
    shape = LayerShape(config.num_attention_heads, config.dim_per_head, config.hidden_size)
    return LayerPositions(parts, shape, backend)


def positions_behind(
    own: LayerPositions | None, config: Config, layer: int, backend: str, like: Tensor
) -> LayerPositions | None:
    """What a layer has that had `own`: that itself where the schemes are the same, else new parameters beside those
    that it had already, of the dtype and on the device of `like`. They ask for gradients where that does."""
    if own is not None and own.parts == config.positions[layer].learned_parts:
        return own
    found = positions_of(config, layer, backend)
    if found is None:
        return None
    found.reset_parameters()
    found.to(like).requires_grad_(like.requires_grad)
    if own is not None:
        found.take_over(own)
    return found
