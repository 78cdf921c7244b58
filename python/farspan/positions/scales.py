"""Schemes that scale each query by the logarithm of how many keys it sees, on top of another scheme."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from farspan._errors import ArgumentError, message
from farspan.positions.frequencies import PLAIN
from farspan.positions.learned import LayerShape, Learned
from farspan.positions.scheme import Hooks, Refining, Scheme, Span, require_number, require_scheme


@dataclasses.dataclass(frozen=True)
class LogN(Refining):
    """Log-n scaling (kexue.fm 8823; Qwen's `use_logn_attn`) on top of `inner`: the query of order i is scaled by
    `max(1, log(i + 1) / log(original_length))`. Its own order counts, and not how long the sequence becomes later."""

    original_length: int
    inner: Scheme = PLAIN

    def __post_init__(self) -> None:
        require_number("original_length", self.original_length, at_least=2, integer=True)
        require_scheme("inner", self.inner)

    def fixed_hooks(self, span: Span) -> Hooks:
        hooks = self.inner.fixed_hooks(span)
        scale = over_heads(np.maximum(1, np.log(span.seen) / math.log(self.original_length)).astype(np.float32))
        earlier = hooks.get("query_scale")
        return hooks | {"query_scale": scale if earlier is None else earlier * scale}


@dataclasses.dataclass(frozen=True)
class SSMax(Refining, Learned):
    """Scalable softmax (arXiv 2501.19399) on top of `inner`: a query that sees n keys is scaled by `slope * log(n)`,
    with `offset` by `slope * log(n) + offset`. Slope and offset are learned, one of each for a head.

    Without an offset the slope begins where the scale is 1 on average over n from 1 to `original_length`; `slope` sets
    another beginning. With one it begins at 0 and the offset at 1, where nothing is scaled.
    """

    original_length: int
    inner: Scheme = PLAIN
    offset: bool = False
    slope: float | None = None

    def __post_init__(self) -> None:
        require_number("original_length", self.original_length, at_least=2, integer=True)
        require_scheme("inner", self.inner)
        if any(isinstance(part, SSMax) for part in self.inner.learned_parts):
            raise ArgumentError(message("inner", "a scheme without SSMax in it", repr(self.inner)))
        if not isinstance(self.offset, bool):
            raise ArgumentError(message("offset", "True or False", repr(self.offset)))
        if self.slope is not None:
            require_number("slope", self.slope)

    @property
    def learned_parts(self) -> tuple[Any, ...]:
        return (self, *self.inner.learned_parts)

    def fixed_hooks(self, span: Span) -> Hooks:
        return self.inner.fixed_hooks(span)

    def features(self, span: Span) -> dict[str, np.ndarray]:
        return self.inner.features(span) | {"log_seen": over_heads(np.log(span.seen).astype(np.float32))}

    def initial(self, shape: LayerShape) -> dict[str, Any]:
        import torch

        slope = self.slope
        if slope is None:
            slope = 0.0 if self.offset else 1 / float(np.log(np.arange(1, self.original_length + 1)).mean())
        found = {"query_slope": torch.full((shape.heads,), slope)}
        return found | ({"query_offset": torch.ones(shape.heads)} if self.offset else {})

    def learned_hooks(self, features: Mapping[str, Any], weights: Mapping[str, Any]) -> Hooks:
        scale = weights["query_slope"].double()[:, None] * features["log_seen"].double()
        return {"query_scale": scale + weights["query_offset"].double()[:, None] if self.offset else scale}


def over_heads(scale: np.ndarray) -> np.ndarray:
    """`[time]` as it is, `[batch, time]` as `[batch, 1, time]`."""
    return scale[:, None, :] if scale.ndim == 2 else scale
