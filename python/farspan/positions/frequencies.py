"""RoPE and the schemes that only change its frequencies: one table of inverse frequencies and one magnitude each."""

from __future__ import annotations

import abc
import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from farspan._errors import ArgumentError, message
from farspan.attention import Rotary
from farspan.positions.scheme import Hooks, Scheme, Span, require_number

DEFAULT_BASE = 10000.0


def rope_frequencies(base: float, dim: int) -> np.ndarray:
    """`base ** (-2 d / dim)` for the `dim / 2` pairs d, float64."""
    return base ** (-np.arange(0, dim, 2) / dim)


@dataclasses.dataclass(frozen=True)
class RotaryScheme(Scheme):
    """A scheme that is one rotation: position times `inverse_frequencies`, cosines and sines times `magnitude`."""

    @abc.abstractmethod
    def inverse_frequencies(self, dim: int, length: int) -> np.ndarray:
        """`[dim / 2]`, float64, for a sequence of `length` tokens."""

    @property
    def magnitude(self) -> float:
        return 1.0

    @property
    def rotates(self) -> bool:
        return True

    @property
    def by_positions(self) -> bool:
        return True

    def rotary(self, span: Span) -> Rotary:
        """The rotation for every sequence of `span`, each by its own length."""
        switches = tuple(self.switch(length) for length in span.lengths)
        if switches.count(switches[0]) == len(switches):
            return _one_rotary(self, span.head_dim, switches[0])
        rows = [_one_rotary(self, span.head_dim, switch).inv_freq for switch in switches]
        return Rotary(np.stack(rows), magnitude=self.magnitude)

    def hooks(self, span: Span) -> Hooks:
        return {"rotary": self.rotary(span)}


@functools.lru_cache(maxsize=64)
def _one_rotary(scheme: RotaryScheme, dim: int, switch: int) -> Rotary:
    return Rotary(scheme.inverse_frequencies(dim, switch).astype(np.float32), magnitude=scheme.magnitude)


@dataclasses.dataclass(frozen=True)
class RotaryOfBase(RotaryScheme):
    """A rotation whose frequencies come from a base. `base` None: that of the layer it is put on, 10000 where there is
    none."""

    base: float | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.base is not None:
            require_number("base", self.base, above=0)

    @property
    def rope_base(self) -> float | None:
        return self.base

    def with_base(self, base: float) -> Scheme:
        return self if self.base is not None else dataclasses.replace(self, base=base)

    @property
    def own_base(self) -> float:
        return DEFAULT_BASE if self.base is None else self.base

    def plain(self, dim: int) -> np.ndarray:
        return rope_frequencies(self.own_base, dim)


@dataclasses.dataclass(frozen=True)
class RoPE(RotaryOfBase):
    """Rotary position embedding (arXiv 2104.09864): pair d turns by `position * base ** (-2 d / dim)`. `base` None:
    that of the layer it is put on, 10000 where there is none."""

    base: float | None = DEFAULT_BASE

    def inverse_frequencies(self, dim: int, length: int) -> np.ndarray:
        return self.plain(dim)


PLAIN = RoPE()


@dataclasses.dataclass(frozen=True)
class ScaledRoPE(RotaryOfBase):
    """A RoPE whose frequencies are rescaled."""


@dataclasses.dataclass(frozen=True)
class LinearInterpolation(ScaledRoPE):
    """Position interpolation (arXiv 2306.15595): positions divided by `factor`."""

    factor: float

    def __post_init__(self) -> None:
        require_number("factor", self.factor, above=0)
        super().__post_init__()

    def inverse_frequencies(self, dim: int, length: int) -> np.ndarray:
        return self.plain(dim) / self.factor


@dataclasses.dataclass(frozen=True)
class PRoPE(ScaledRoPE):
    """p-RoPE (arXiv 2410.06205; transformers' `proportional`): the fastest `share` of the pairs turn as in RoPE, and
    the others not at all. Exponents are those of the whole head."""

    share: float = 0.75

    def __post_init__(self) -> None:
        require_number("share", self.share, at_least=0)
        if self.share > 1:
            raise ArgumentError(message("share", "a number from 0 to 1", repr(self.share)))
        super().__post_init__()

    def inverse_frequencies(self, dim: int, length: int) -> np.ndarray:
        return np.where(np.arange(dim // 2) < int(self.share * dim) // 2, self.plain(dim), 0.0)


@dataclasses.dataclass(frozen=True)
class ClippedRoPE(ScaledRoPE):
    """RoPE without its slowest pairs: those that make less than `turns` turns in `original_length` tokens do not turn
    at all. At longer distances they would reach angles that training never showed. (The truncated basis of arXiv
    2308.10882, without its middle step.)"""

    original_length: int
    turns: float = 1.0

    def __post_init__(self) -> None:
        require_number("original_length", self.original_length, at_least=1, integer=True)
        require_number("turns", self.turns, at_least=0)
        super().__post_init__()

    def inverse_frequencies(self, dim: int, length: int) -> np.ndarray:
        plain = self.plain(dim)
        return np.where(plain * self.original_length >= self.turns * 2 * math.pi, plain, 0.0)


def _ntk_frequencies(base: float, stretch: float, dim: int) -> np.ndarray:
    """The base whose slowest pair is `stretch` times slower and whose fastest (one pair alone is that) is unchanged."""
    if dim == 2:
        return rope_frequencies(base, dim)
    return rope_frequencies(base * stretch ** (dim / (dim - 2)), dim)


@dataclasses.dataclass(frozen=True)
class NTK(ScaledRoPE):
    """NTK-aware scaling (bloc97, 2023): base * factor ** (dim / (dim - 2))."""

    factor: float

    def __post_init__(self) -> None:
        require_number("factor", self.factor, above=0)
        super().__post_init__()

    def inverse_frequencies(self, dim: int, length: int) -> np.ndarray:
        return _ntk_frequencies(self.own_base, self.factor, dim)


@dataclasses.dataclass(frozen=True)
class DynamicNTK(ScaledRoPE):
    """NTK scaling by the sequence's own length n, keys in the cache included (transformers' `dynamic`).

    The base grows by `(factor * n / original_length - (factor - 1)) ** (dim / (dim - 2))` once n > original_length.
    Keys are cached un-rotated, so earlier keys turn by the new base too. Keys that were cached rotated could not.
    The hidden states that earlier keys came from were computed with the base of their time: only reading the text again
    in one pass computes those with the new one.
    """

    factor: float
    original_length: int

    def __post_init__(self) -> None:
        require_number("factor", self.factor, at_least=1)
        require_number("original_length", self.original_length, at_least=1, integer=True)
        super().__post_init__()

    def switch(self, length: int) -> int:
        return max(length, self.original_length)

    def inverse_frequencies(self, dim: int, length: int) -> np.ndarray:
        stretch = self.factor * max(length, self.original_length) / self.original_length - (self.factor - 1)
        return _ntk_frequencies(self.own_base, stretch, dim)


@dataclasses.dataclass(frozen=True)
class YaRN(ScaledRoPE):
    """YaRN (arXiv 2309.00071) as transformers computes it: interpolate slow pairs, keep fast ones, sharpen the softmax.

    The ramp runs over the pair's index, from the pair that makes `beta_fast` turns in `original_length` tokens to the
    one that makes `beta_slow`, both rounded outwards when `truncate`. `attention_factor` None: `0.1 ln(factor) + 1`.
    """

    factor: float
    original_length: int
    beta_fast: float = 32
    beta_slow: float = 1
    attention_factor: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        require_number("factor", self.factor, above=0)
        require_number("original_length", self.original_length, at_least=1, integer=True)
        require_number("beta_slow", self.beta_slow, above=0)
        require_number("beta_fast", self.beta_fast, at_least=self.beta_slow)
        if self.attention_factor is not None:
            require_number("attention_factor", self.attention_factor, above=0)
        if not isinstance(self.truncate, bool):
            raise ArgumentError(message("truncate", "True or False", repr(self.truncate)))
        if self.base is not None:  # its logarithm divides
            require_number("base", self.base, above=1)

    @property
    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return float(self.attention_factor)
        return yarn_attention_factor(self.factor)

    def inverse_frequencies(self, dim: int, length: int) -> np.ndarray:
        low, high = (self._pair_of_turns(turns, dim) for turns in (self.beta_fast, self.beta_slow))
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, dim - 1)
        ramp = np.clip((np.arange(dim // 2) - low) / (high - low if high != low else 0.001), 0, 1)
        plain = self.plain(dim)
        return plain / self.factor * ramp + plain * (1 - ramp)

    def _pair_of_turns(self, turns: float, dim: int) -> float:
        """The (fractional) pair that makes this many turns within the original length."""
        return dim * math.log(self.original_length / (turns * 2 * math.pi)) / (2 * math.log(self.own_base))


def yarn_attention_factor(factor: float, weight: float = 1.0) -> float:
    """What YaRN multiplies into cosine and sine: `0.1 * weight * ln(factor) + 1`, 1 where nothing is stretched."""
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


@dataclasses.dataclass(frozen=True)
class Llama3(ScaledRoPE):
    """Llama 3.1's scaling: frequencies of wavelengths past `original_length / low_freq_factor` are divided by `factor`.
    Those below `original_length / high_freq_factor` are kept, and those between are blended."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_length: int

    def __post_init__(self) -> None:
        require_number("factor", self.factor, above=0)
        require_number("low_freq_factor", self.low_freq_factor, above=0)
        require_number("high_freq_factor", self.high_freq_factor, above=self.low_freq_factor)
        require_number("original_length", self.original_length, at_least=1, integer=True)
        super().__post_init__()

    def inverse_frequencies(self, dim: int, length: int) -> np.ndarray:
        plain = self.plain(dim)
        turns = self.original_length * plain / (2 * math.pi)
        keep = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
        return (1 - keep) * plain / self.factor + keep * plain


@dataclasses.dataclass(frozen=True)
class LongRoPE(ScaledRoPE):
    """LongRoPE (arXiv 2402.13753): each pair's frequency is divided by its entry of `short_factor`. Once the sequence's
    own length, keys in the cache included, exceeds `original_length`, it is divided by that of `long_factor` instead.
    Keys in the cache turn by the new frequencies from then on. The hidden states that they came from stay those of
    their time.

    `attention_factor` None: `sqrt(1 + ln(max_length / original_length) / ln(original_length))`.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_length: int
    max_length: float
    attention_factor: float | None = None

    def __post_init__(self) -> None:
        for name in ("short_factor", "long_factor"):
            object.__setattr__(self, name, _factor_list(name, getattr(self, name)))
        if len(self.short_factor) != len(self.long_factor):
            expected = f"as many as short_factor, {len(self.short_factor)}"
            raise ArgumentError(message("long_factor", expected, len(self.long_factor)))
        require_number("original_length", self.original_length, at_least=2, integer=True)
        require_number("max_length", self.max_length, above=0)
        if self.attention_factor is not None:
            require_number("attention_factor", self.attention_factor, above=0)
        super().__post_init__()

    @property
    def magnitude(self) -> float:
        if self.attention_factor is not None:
            return float(self.attention_factor)
        stretch = self.max_length / self.original_length
        return 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(self.original_length))

    def switch(self, length: int) -> int:
        return self.original_length + 1 if length > self.original_length else 0

    def inverse_frequencies(self, dim: int, length: int) -> np.ndarray:
        name = "long_factor" if length > self.original_length else "short_factor"
        factors = getattr(self, name)
        if len(factors) != dim // 2:
            raise ArgumentError(message(name, f"{dim // 2} factors, half the head's {dim} dims", len(factors)))
        return self.plain(dim) / np.array(factors)


def _factor_list(name: str, value: Any) -> tuple[float, ...]:
    if isinstance(value, (str, bytes, dict)) or not isinstance(value, Iterable):
        raise ArgumentError(message(name, "a list of numbers", repr(value)))
    factors = [x.item() if isinstance(x, np.generic) else x for x in value]
    for index, factor in enumerate(factors):
        require_number(f"{name}[{index}]", factor, above=0)
    return tuple(map(float, factors))
