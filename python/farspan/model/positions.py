"""The parameters of a layer's position scheme, as a module of its attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from farspan.positions import LayerShape, Learned

if TYPE_CHECKING:
    from farspan.model.config import Config


class LayerPositions(nn.Module):
    """What the schemes that learn, `parts`, have in one layer. Its memory is uninitialised."""

    def __init__(self, parts: tuple[Learned, ...], shape: LayerShape) -> None:
        super().__init__()
        self.parts, self.shape = parts, shape
        for part in parts:
            for name, size in self._sizes(part).items():
                self.register_parameter(name, nn.Parameter(torch.empty(size)))

    def _sizes(self, part: Learned) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
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
                    self.register_parameter(name, other.get_parameter(name))

    def learned_hooks(self, features: Mapping[str, Any]) -> dict[str, Any]:
        """The keyword arguments of attention that the parameters decide: float64 tensors."""
        device = next(self.parameters()).device
        given = {name: torch.as_tensor(x, device=device) for name, x in features.items()}
        weights = dict(self.named_parameters())
        found: dict[str, Any] = {}
        for part in self.parts:
            found |= part.learned_hooks(given, weights)
        return found

    def extra_repr(self) -> str:
        return ", ".join(f"{name} {list(x.shape)}" for name, x in self.named_parameters())


def positions_of(config: Config, layer: int) -> LayerPositions | None:
    """What a layer of this config has: None where its scheme learns nothing."""
    parts = config.positions[layer].learned_parts
    if not parts:
        return None
    return LayerPositions(parts, LayerShape(config.num_attention_heads, config.dim_per_head, config.hidden_size))


def positions_behind(own: LayerPositions | None, config: Config, layer: int, like: Tensor) -> LayerPositions | None:
    """What a layer has that had `own`: that itself where the schemes are the same, else new parameters beside those
    that it had already, of the dtype and on the device of `like`. They ask for gradients where that does."""
    if own is not None and own.parts == config.positions[layer].learned_parts:
        return own
    found = positions_of(config, layer)
    if found is None:
        return None
    found.reset_parameters()
    found.to(like).requires_grad_(like.requires_grad)
    if own is not None:
        found.take_over(own)
    return found
