"""What a position scheme with parameters is. A model holds them, layer by layer; the scheme says what they do."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Mapping
from typing import Any

from farspan.positions.scheme import Hooks, Scheme, Span, needs_parameters


@dataclasses.dataclass(frozen=True)
class LayerShape:
    """What a scheme has to know of the layer that holds its parameters."""

    heads: int
    head_dim: int
    width: int
    """of the residual stream"""


class Learned(Scheme):
    """A scheme with parameters of its own in each layer. `hooks` is an error, since it has none.

    Attention's arguments are those of `fixed_hooks`, and beside them what `learned_hooks` makes of `features`, which
    are arrays, and of the parameters, which are tensors. Gradients run through that.
    """

    def hooks(self, span: Span) -> Hooks:
        raise needs_parameters(self)

    def fixed_hooks(self, span: Span) -> Hooks:
        return {}

    @property
    def learned_parts(self) -> tuple[Any, ...]:
        return (self,)

    @abc.abstractmethod
    def initial(self, shape: LayerShape) -> dict[str, Any]:
        """A layer's parameters before training, by name: tensors, random ones drawn from torch's generator."""

    def learned_hooks(self, features: Mapping[str, Any], weights: Mapping[str, Any]) -> Hooks:
        """Keyword arguments of `farspan.attention` that the parameters decide, from tensors, in float64."""
        return {}
