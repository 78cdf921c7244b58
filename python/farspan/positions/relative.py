"""Transformer-XL's relative positions: what a query asks of a distance is learned, and depends on the query."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import numpy as np

from farspan.attention import Rotary
from farspan.positions.frequencies import DEFAULT_BASE, rope_frequencies
from farspan.positions.learned import LayerShape, Learned
from farspan.positions.scheme import Hooks, Span, require_pairs

DEVIATION = 0.02


@dataclasses.dataclass(frozen=True)
class Relative(Learned):
    """Relative positions (arXiv 1901.02860): the score of query q and key k at distance d is
    `((q + u) @ k + (W q + v) @ R(d)) / sqrt(dim of a head)`, where R(d) holds `dim / 2` sines and as many cosines of
    `d * 10000 ** (-2 i / dim)`. Each head of each layer learns u, v and W.

    A rotation computes the second product: `W q + v` stands as `dim` more dims in front of a query, and turns. Every
    key has the same numbers there, zeros and ones. (The paper's v is in the space of queries; W times it is this v.)
    """

    dim: int = 64

    def __post_init__(self) -> None:
        require_pairs("dim", self.dim)

    @property
    def by_positions(self) -> bool:
        return True

    @property
    def more_dims(self) -> int:
        return self.dim

    def fixed_hooks(self, span: Span) -> Hooks:
        return {"rotary": _rotary(self.dim)}

    def features(self, span: Span) -> dict[str, np.ndarray]:
        return {"ahead": _ahead(self.dim)}

    def initial(self, shape: LayerShape) -> dict[str, Any]:
        import torch

        return {
            "content_bias": torch.zeros(shape.heads, shape.head_dim),
            "position_query.weight": torch.randn(shape.heads, self.dim, shape.head_dim) * DEVIATION,
            "position_query.bias": torch.zeros(shape.heads, self.dim),
        }


@functools.lru_cache(maxsize=16)
def _rotary(dim: int) -> Rotary:
    return Rotary(rope_frequencies(DEFAULT_BASE, dim).astype(np.float32))


@functools.lru_cache(maxsize=16)
def _ahead(dim: int) -> np.ndarray:
    """What every key has in its further dims: turned, it holds sines and cosines."""
    return np.repeat(np.array([0, 1], np.float32), dim // 2)
