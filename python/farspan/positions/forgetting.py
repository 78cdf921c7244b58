"""The forget gates of the Forgetting Transformer: how much each token lets through of those before it."""

from __future__ import annotations

import dataclasses
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.positions.biases import NoPE
from farspan.positions.fire import FIRE
from farspan.positions.learned import LayerShape, Learned
from farspan.positions.scheme import Hooks, Refining, Scheme, Span, require_causal, require_scheme

DEVIATION = 0.02
NONE = NoPE()


@dataclasses.dataclass(frozen=True)
class Forgetting(Refining, Learned):
    """The Forgetting Transformer (arXiv 2503.02130) on top of `inner`: to the score of query i and key j it adds the
    sum of `log(sigmoid(w @ x + b))` over the tokens behind key j up to i, where x is what the layer's attention reads
    of a token. Each head of each layer learns w and b.

    The sum is `C_i - C_j` of running sums C, and `C_i` is the same for all keys of a query: `-C_j` is a bias for each
    key. A cache holds the logarithms of the gates beside keys and values.
    """

    inner: Scheme = NONE

    def __post_init__(self) -> None:
        require_scheme("inner", self.inner)
        if any(isinstance(part, (Forgetting, FIRE)) for part in self.inner.learned_parts):
            raise ArgumentError(message("inner", "a scheme without Forgetting and FIRE in it", repr(self.inner)))

    @property
    def learned_parts(self) -> tuple[Any, ...]:
        return (self, *self.inner.learned_parts)

    def fixed_hooks(self, span: Span) -> Hooks:
        require_causal(self, span)
        return self.inner.fixed_hooks(span)

    def initial(self, shape: LayerShape) -> dict[str, Any]:
        import torch

        return {
            "gate.weight": torch.randn(shape.heads, shape.width) * DEVIATION,
            "gate.bias": torch.zeros(shape.heads),
        }
