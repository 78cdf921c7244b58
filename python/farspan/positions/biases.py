"""Schemes without a rotation and without parameters: a bias over distance, or nothing at all."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np

from farspan._errors import ArgumentError, message
from farspan.attention import DistanceBias
from farspan.positions.scheme import (
    Hooks,
    Scheme,
    Span,
    first_distance,
    require_causal,
    require_number,
    require_pairs,
)


@dataclasses.dataclass(frozen=True)
class NoPE(Scheme):
    """No position encoding (arXiv 2305.19466): only the causal mask tells order."""

    def hooks(self, span: Span) -> Hooks:
        return {}


@dataclasses.dataclass(frozen=True)
class ALiBi(Scheme):
    """Attention with linear biases (arXiv 2108.12409): `-slope * |query - key|` is added to the score of head h.

    The bias is a table over the distance rather than a number per key: `slope * key` loses bits as keys move away from
    the origin, and a score must not depend on where in a document its two tokens stand.
    """

    @property
    def by_positions(self) -> bool:
        return True

    def hooks(self, span: Span) -> Hooks:
        return {"distance_bias": _alibi_bias(span.heads, *bounds(span))}


def bounds(span: Span) -> tuple[int, int]:
    """The first distance of a table, and the one behind its last."""
    first = first_distance(len(span.distances))
    return first, first + len(span.distances)


@functools.lru_cache(maxsize=16)
def _alibi_bias(heads: int, first: int, end: int) -> DistanceBias:
    table = -np.outer(alibi_slopes(heads), np.abs(np.arange(first, end)))
    return DistanceBias(table.astype(np.float32), minimum=first)


def alibi_slopes(heads: int) -> list[float]:
    """`2 ** (-8 h / heads)` for h = 1 ..; heads that are no power of two take every other slope of the next power."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * h / power) for h in range(1, power + 1)]
    between = [2.0 ** (-8 * h / (2 * power)) for h in range(1, 2 * power, 2)]
    return slopes + between[: heads - power]


@dataclasses.dataclass(frozen=True)
class HardALiBi(Scheme):
    """Hard-ALiBi (arXiv 2402.01032): the first `masked` heads see 1, 2, 3, ... tokens, the query's own included. The
    others see all, without positions. None: half of the heads."""

    masked: int | None = None

    def __post_init__(self) -> None:
        if self.masked is not None:
            require_number("masked", self.masked, at_least=0, integer=True)

    @property
    def by_positions(self) -> bool:
        return True

    def hooks(self, span: Span) -> Hooks:
        require_causal(self, span)
        masked = span.heads // 2 if self.masked is None else self.masked
        if masked > span.heads:
            raise ArgumentError(message("masked", f"at most the {span.heads} heads of the model", masked))
        return {"distance_bias": _hard_alibi_bias(span.heads, masked, span.one_sided)}


@functools.lru_cache(maxsize=16)
def _hard_alibi_bias(heads: int, masked: int, one_sided: bool) -> DistanceBias:
    seen = np.arange(1, heads + 1)[:, None]
    distances = np.arange(0 if one_sided else -masked, masked + 1)  # those at the ends stand for all longer ones
    hidden = (np.abs(distances) >= seen) & (seen <= masked)
    return DistanceBias(np.where(hidden, -np.inf, 0.0).astype(np.float32), minimum=int(distances[0]))


@dataclasses.dataclass(frozen=True)
class Sandwich(Scheme):
    """Sandwich (arXiv 2212.10356): to the score of head h = 1 .. H it adds `H / (8 h)` times the sum over
    i = 1 .. dim / 2 of `cos(distance / 10000 ** (2 i / dim)) - 1`. The cosines are the product of two sinusoidal
    position embeddings of `dim` dims. The sum falls about as the logarithm of the distance."""

    dim: int = 128

    def __post_init__(self) -> None:
        require_pairs("dim", self.dim)

    @property
    def by_positions(self) -> bool:
        return True

    def hooks(self, span: Span) -> Hooks:
        return {"distance_bias": _sandwich_bias(self.dim, span.heads, *bounds(span))}


@functools.lru_cache(maxsize=16)
def _sandwich_bias(dim: int, heads: int, first: int, end: int) -> DistanceBias:
    frequencies = 10000.0 ** (-2 * np.arange(1, dim // 2 + 1) / dim)
    product = np.cos(np.outer(np.arange(first, end), frequencies)).sum(axis=1) - dim / 2
    table = np.outer(heads / (8 * np.arange(1, heads + 1)), product).astype(np.float32)
    return DistanceBias(table, minimum=first)
