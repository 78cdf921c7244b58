"""What every position scheme is: a small frozen object that turns where tokens stand into attention's arguments."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any

import numpy as np

from farspan._errors import ArgumentError, message

Hooks = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Span:
    """The new tokens of a batch: the last `time` of sequences of `lengths` tokens, those in the cache included."""

    time: int
    lengths: tuple[int, ...]
    heads: int
    head_dim: int
    """How many dims of a head turn."""
    slots: int | None = None
    """How many keys attention is given where those are more than there are tokens: it is told the lengths as well."""

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def keys(self) -> int:
        """How many keys attention is given."""
        return self.longest if self.slots is None else self.slots

    @property
    def uniform(self) -> bool:
        """Whether all sequences are equally long, so that one row of positions serves them all."""
        return min(self.lengths) == self.longest

    @property
    def query_order(self) -> np.ndarray:
        """Index of each new token in its sequence: `[time]`, or `[batch, time]` where the lengths differ."""
        new = np.arange(self.time)
        if self.uniform:
            return new + (self.longest - self.time)
        return new + (np.array(self.lengths) - self.time)[:, None]

    @property
    def key_order(self) -> np.ndarray:
        """Index of each key: `[keys]`."""
        return np.arange(self.keys)


@dataclasses.dataclass(frozen=True)
class Scheme(abc.ABC):
    """A position scheme. Equal settings are equal schemes, and every scheme can be written down as a dict."""

    @abc.abstractmethod
    def hooks(self, span: Span) -> Hooks:
        """Keyword arguments of `farspan.attention`, with NumPy arrays, for the queries of `span` against all keys. An
        array that is given twice holds the same numbers both times."""

    def switch(self, length: int) -> int:
        """Sequences of lengths with equal switches share their frequencies: 0 where the length does not matter."""
        del length
        return 0

    @property
    def rope_base(self) -> float | None:
        """The base of the RoPE in it, None where there is none or it is not settled."""
        return None

    @property
    def rotates(self) -> bool:
        """Whether queries and keys are rotated."""
        return self.rope_base is not None

    def with_base(self, base: float) -> Scheme:
        """This scheme on a model whose RoPE has this base: schemes that only scale a RoPE (base None) take it over."""
        del base
        return self

    def to_dict(self) -> dict[str, Any]:
        """`{"scheme": name, setting: value, ...}`, JSON types only."""
        settings = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"scheme": type(self).__name__} | settings


def _plain(value: Any) -> Any:
    if isinstance(value, Scheme):
        return value.to_dict()
    return list(value) if isinstance(value, tuple) else value


def require_number(
    name: str, value: Any, *, at_least: float = -math.inf, above: float = -math.inf, integer: bool = False
) -> None:
    """Raise an ArgumentError naming the setting unless `value` is a finite number (an int if asked) in range."""
    kinds = int if integer else (int, float)
    right = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
    if right and value >= at_least and value > above:
        return
    bounds = [f"at least {at_least:g}"] * (at_least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    expected = " ".join(["an integer" if integer else "a finite number", *bounds])
    raise ArgumentError(message(name, expected, repr(value)))


def require_scheme(name: str, value: Any) -> None:
    if not isinstance(value, Scheme):
        raise ArgumentError(message(name, "a position scheme of farspan.positions", repr(value)))
