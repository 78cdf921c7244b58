"""Schemes that look at far keys in another way than at near ones: a window, a border, positions beyond it."""

from __future__ import annotations

import dataclasses

import numpy as np

from farspan._errors import ArgumentError, message
from farspan.attention import Rotary
from farspan.positions.biases import NoPE
from farspan.positions.frequencies import PLAIN, RotaryScheme
from farspan.positions.scheme import Hooks, Refining, Span, require_causal, require_number


@dataclasses.dataclass(frozen=True)
class RegionScheme(Refining):
    """The rotation of `inner`, at other positions where `query - key >= border`."""

    @property
    def by_positions(self) -> bool:
        return False

    def two_regions(self, span: Span, border: int, query: np.ndarray, key: np.ndarray) -> Hooks:
        near = self.inner.rotary(span)  # type: ignore[attr-defined]
        rotary = Rotary(
            near.inv_freq, magnitude=near.magnitude, border=border, far_query_positions=query, far_key_positions=key
        )
        return {"rotary": rotary}


def require_rotation(scheme: object, or_none: bool = False) -> None:
    if not isinstance(scheme, (RotaryScheme, NoPE) if or_none else RotaryScheme):
        expected = "RoPE or a scaling of it" + ", or NoPE" * or_none
        raise ArgumentError(message("inner", expected, repr(scheme)))


@dataclasses.dataclass(frozen=True)
class SelfExtend(RegionScheme):
    """Self-Extend (arXiv 2401.01325): near keys keep their positions. From distance `window` on, the query's position
    is `i // group + window - window // group` and the key's is `j // group`, so that `group` keys share one. It reaches
    `(trained - window) * group + window` tokens."""

    group: int
    window: int
    inner: RotaryScheme = PLAIN

    def __post_init__(self) -> None:
        require_number("group", self.group, at_least=1, integer=True)
        require_number("window", self.window, at_least=1, integer=True)
        require_rotation(self.inner)

    def fixed_hooks(self, span: Span) -> Hooks:
        require_causal(self, span)
        query = span.query_order // self.group + (self.window - self.window // self.group)
        return self.two_regions(span, self.window, query, span.key_order // self.group)


@dataclasses.dataclass(frozen=True)
class ReRoPE(RegionScheme):
    """ReRoPE (kexue.fm 9708): every distance past `window` counts as `window`."""

    window: int
    inner: RotaryScheme = PLAIN

    def __post_init__(self) -> None:
        require_number("window", self.window, at_least=1, integer=True)
        require_rotation(self.inner)

    def fixed_hooks(self, span: Span) -> Hooks:
        require_causal(self, span)
        query = np.full_like(span.query_order, self.window)
        return self.two_regions(span, self.window, query, np.zeros_like(span.key_order))


@dataclasses.dataclass(frozen=True)
class Streaming(RegionScheme):
    """StreamingLLM (arXiv 2309.17453): the first `sinks` keys and the last `window`, the query's own included.

    Positions count inside what is kept: a sink j at distance >= window is seen at `min(i, sinks + window - 1) - j`, so
    no distance ever exceeds `sinks + window - 1`.
    """

    sinks: int
    window: int
    inner: RotaryScheme | NoPE = PLAIN

    def __post_init__(self) -> None:
        require_number("sinks", self.sinks, at_least=0, integer=True)
        require_number("window", self.window, at_least=1, integer=True)
        require_rotation(self.inner, or_none=True)

    def fixed_hooks(self, span: Span) -> Hooks:
        require_causal(self, span)
        visible: Hooks = {"window": self.window, "keep_first": self.sinks}
        if isinstance(self.inner, NoPE):
            return visible
        query = np.minimum(span.query_order, self.sinks + self.window - 1)
        return visible | self.two_regions(span, self.window, query, span.key_order)
