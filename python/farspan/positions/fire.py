"""FIRE: a learned curve over distances that are measured by how far on the query stands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from farspan.positions.learned import LayerShape, Learned
from farspan.positions.scheme import Hooks, Span, require_causal, require_number

SLOPE = 0.1
"""c before training."""
LEAST = 1e-6


@dataclasses.dataclass(frozen=True)
class FIRE(Learned):
    """FIRE (arXiv 2310.04418): to the score of query i and key j it adds `f(g(i - j) / g(max(L, i)))`, where
    `g(x) = log(1 + c * x)` and f is a network of one input, `width` ReLUs and an output for each head. Each layer
    learns c, L and its network. L begins at `threshold`. (The outputs need no constant: it would be the same for all
    keys, and a softmax does not see it.)

    The bias depends on the query's place and not on the distance alone, so no table over distance holds it. A model
    computes it for a few queries at a time: each of these is given to attention as a head of its own, with its own row
    of a table.
    """

    threshold: float = 512.0
    width: int = 32

    def __post_init__(self) -> None:
        require_number("threshold", self.threshold, above=0)
        require_number("width", self.width, at_least=1, integer=True)

    @property
    def by_positions(self) -> bool:
        return True

    @property
    def by_rows(self) -> bool:
        return True

    def fixed_hooks(self, span: Span) -> Hooks:
        require_causal(self, span)
        return {}

    def features(self, span: Span) -> dict[str, np.ndarray]:
        if span.positions is None:
            return {"query_places": span.query_order, "key_places": span.key_order}
        keys = np.array(np.broadcast_to(span.positions, (len(span.lengths), span.keys)))
        queries = span.of_queries(keys)
        if span.uniform and len(span.positions) == 1:
            return {"query_places": queries[0], "key_places": keys[0]}
        return {"query_places": queries, "key_places": keys}

    def initial(self, shape: LayerShape) -> dict[str, Any]:
        import torch

        def even(bound: float, *size: int) -> Any:
            return (2 * torch.rand(*size) - 1) * bound

        outward = self.width**-0.5
        return {
            "curve_slope": torch.full((1,), SLOPE),
            "threshold_share": torch.ones(1),
            "inner_weight": even(1, self.width),
            "inner_bias": even(1, self.width),
            "outer_weight": even(outward, shape.heads, self.width),
        }

    def bias(self, query: Any, key: Any, weights: Mapping[str, Any]) -> Any:
        """`[heads, queries, keys]`, float64, of the places of some queries and keys; a key that stands further on than
        a query counts as if it stood there."""
        slope = weights["curve_slope"].double().abs()
        farthest = (weights["threshold_share"].double() * self.threshold).abs()
        query, key = query.double()[:, None], key.double()[None]
        distance = ((query - key).clamp(0) * slope).log1p()
        share = distance / ((query.maximum(farthest) * slope).log1p() + LEAST)
        inner = share[..., None] * weights["inner_weight"].double() + weights["inner_bias"].double()
        outer = inner.relu() @ weights["outer_weight"].double().T
        return outer.movedim(-1, 0)
