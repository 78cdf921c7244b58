"""Schemes without a rotation of their own: a bias over distance, nothing at all, a scale per query."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np

from farspan.attention import DistanceBias
from farspan.positions.frequencies import PLAIN
from farspan.positions.scheme import Hooks, Scheme, Span, require_number, require_scheme


@dataclasses.dataclass(frozen=True)
class NoPE(Scheme):
    """No position encoding (arXiv 2305.19466): only the causal mask tells order."""

    def hooks(self, span: Span) -> Hooks:
        return {}


@dataclasses.dataclass(frozen=True)
class ALiBi(Scheme):
    """Attention with linear biases (arXiv 2108.12409): `-slope * (query - key)` is added to the score of head h.

    The bias is a table over the distance rather than a number per key: `slope * key` loses bits as keys move away from
    the origin, and a score must not depend on where in a document its two tokens stand.
    """

    def hooks(self, span: Span) -> Hooks:
        room = 1 << max(span.keys - 1, 63).bit_length()  # a table serves until the length doubles
        return {"distance_bias": _alibi_bias(span.heads, room)}


@functools.lru_cache(maxsize=16)
def _alibi_bias(heads: int, length: int) -> DistanceBias:
    table = -np.outer(alibi_slopes(heads), np.arange(length))
    return DistanceBias(table.astype(np.float32))


def alibi_slopes(heads: int) -> list[float]:
    """`2 ** (-8 h / heads)` for h = 1 ..; heads that are no power of two take every other slope of the next power."""
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * h / power) for h in range(1, power + 1)]
    between = [2.0 ** (-8 * h / (2 * power)) for h in range(1, 2 * power, 2)]
    return slopes + between[: heads - power]


@dataclasses.dataclass(frozen=True)
class LogN(Scheme):
    """Log-n scaling (kexue.fm 8823; Qwen's `use_logn_attn`) on top of `inner`: the query of order i is scaled by
    `max(1, log(i + 1) / log(original_length))`. Its own order counts, and not how long the sequence becomes later."""

    original_length: int
    inner: Scheme = PLAIN

    def __post_init__(self) -> None:
        require_number("original_length", self.original_length, at_least=2, integer=True)
        require_scheme("inner", self.inner)

    @property
    def rope_base(self) -> float | None:
        return self.inner.rope_base

    @property
    def rotates(self) -> bool:
        return self.inner.rotates

    def with_base(self, base: float) -> Scheme:
        return dataclasses.replace(self, inner=self.inner.with_base(base))

    def switch(self, length: int) -> int:
        return self.inner.switch(length)

    def hooks(self, span: Span) -> Hooks:
        hooks = self.inner.hooks(span)
        scale = np.maximum(1, np.log(span.query_order + 1) / math.log(self.original_length)).astype(np.float32)
        scale = scale[:, None, :] if scale.ndim == 2 else scale
        earlier = hooks.get("query_scale")
        return hooks | {"query_scale": scale if earlier is None else earlier * scale}
