"""Biases over distance that are learned, each head's own: a number for each range of distances, or a curve."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from farspan._errors import ArgumentError, message
from farspan.attention import DistanceBias
from farspan.positions.learned import LayerShape, Learned
from farspan.positions.scheme import Hooks, Span, distances, first_distance, require_number

LEAST = 0.01
"""What the parameters of KERPLE are at least when they are drawn."""


@dataclasses.dataclass(frozen=True)
class T5(Learned):
    """T5's relative bias (arXiv 1910.10683): a learned number for each head and each range of distances.

    Of `buckets` ranges the first half are single distances from 0 on. The others grow as powers do, up to
    `max_distance`, from which on all distances share the last one. Where queries see both directions, and in `Coupled`,
    each direction has half of the buckets. T5 shares the numbers among its layers; here each layer has its own.
    """

    buckets: int = 32
    max_distance: int = 128

    def __post_init__(self) -> None:
        require_number("buckets", self.buckets, at_least=4, integer=True)
        if self.buckets % 4:
            raise ArgumentError(message("buckets", "a multiple of 4", self.buckets))
        require_number("max_distance", self.max_distance, above=self.buckets // 2, integer=True)

    @property
    def by_positions(self) -> bool:
        return True

    def features(self, span: Span) -> dict[str, np.ndarray]:
        return {"bucket": _buckets(self.buckets, self.max_distance, span.one_sided)}

    def initial(self, shape: LayerShape) -> dict[str, Any]:
        import torch

        return {"bucket_bias": torch.randn(shape.heads, self.buckets) * shape.width**-0.5}

    def learned_hooks(self, features: Mapping[str, Any], weights: Mapping[str, Any]) -> Hooks:
        bucket = features["bucket"]
        table = weights["bucket_bias"].double()[:, bucket.long()]
        return {"distance_bias": DistanceBias(table, minimum=first_distance(len(bucket)))}


@functools.lru_cache(maxsize=16)
def _buckets(buckets: int, max_distance: int, one_sided: bool) -> np.ndarray:
    """The bucket of each distance. All beyond the last one are as it."""
    distance = distances(max_distance, one_sided)
    side = buckets if one_sided else buckets // 2
    exact = side // 2
    gap = np.abs(distance)
    grown = np.log(np.maximum(gap, 1) / exact) / math.log(max_distance / exact) * (side - exact)
    found = np.where(gap < exact, gap, np.minimum(exact + grown.astype(np.int64), side - 1))
    return found + np.where(distance < 0, side, 0)


@dataclasses.dataclass(frozen=True)
class Kerple(Learned):
    """KERPLE (arXiv 2205.09921): to a score at distance d it adds `-scale * log(1 + rate * d)`, or with `power`
    `-scale * d ** exponent`. A head learns its two positive numbers, as their logarithms; exponents stay below 2.

    They begin at random, as the authors' do: the scale of the logarithm and the exponent between 0 and 2, the others
    between 0 and 1, none below 0.01. Where queries see both directions, d is without its sign.
    """

    power: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.power, bool):
            raise ArgumentError(message("power", "True or False", repr(self.power)))

    @property
    def by_positions(self) -> bool:
        return True

    def features(self, span: Span) -> dict[str, np.ndarray]:
        return {"distance": span.distances}

    def initial(self, shape: LayerShape) -> dict[str, Any]:
        import torch

        wide, narrow = (torch.rand(2, shape.heads) * torch.tensor([[2.0], [1.0]])).clamp(LEAST)
        if self.power:
            return {"log_scale": narrow.log(), "exponent": _before_bound(wide)}
        return {"log_scale": wide.log(), "log_rate": narrow.log()}

    def learned_hooks(self, features: Mapping[str, Any], weights: Mapping[str, Any]) -> Hooks:
        signed = features["distance"]
        distance = signed.double().abs()
        scale = weights["log_scale"].double().exp()[:, None]
        if self.power:
            exponent = 2 * weights["exponent"].double().sigmoid()[:, None]
            # The power of 0 has no gradient of the exponent; its value is 0.
            shape = (exponent * distance.clamp(1).log()).exp() * (distance > 0)
        else:
            shape = (weights["log_rate"].double().exp()[:, None] * distance).log1p()
        return {"distance_bias": DistanceBias(-scale * shape, minimum=first_distance(len(signed)))}


def _before_bound(exponent: Any) -> Any:
    """What `2 * sigmoid` makes the exponents of."""
    share = (exponent / 2).clamp(max=1 - LEAST)
    return share.log() - (1 - share).log()
