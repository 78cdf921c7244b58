"""What every position scheme is: a small frozen object that turns where tokens stand into attention's arguments."""

from __future__ import annotations

import abc
import dataclasses
import functools
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
    causal: bool = True
    """Whether no query sees the keys behind it."""
    signed: bool = False
    """Whether a key that a query sees may stand at a later place than it, though `causal`: places are not the order."""
    reach: int | None = None
    """A bound of the distances: all are shorter. None: as many as there are keys."""
    positions: np.ndarray | None = None
    """`[batch, keys]`: where the tokens stand, if somebody says so; what lies behind a sequence's end is nothing."""
    draw: int | None = None
    """Of a batch in training: what is drawn at random is drawn from this number too. None: always the same."""

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

    def of_queries(self, keys: np.ndarray) -> np.ndarray:
        """What the new tokens have of numbers of all keys: `[rows, keys]` -> `[rows, time]`, where one row serves
        sequences of one length."""
        rows = zip(keys, self.lengths[: len(keys)], strict=True)
        return np.stack([row[end - self.time : end] for row, end in rows])

    @property
    def seen(self) -> np.ndarray:
        """How many keys each new token sees where nothing but order hides any: shaped as `query_order`."""
        if self.causal:
            return self.query_order + 1
        everything = np.full(self.time, self.longest)
        return everything if self.uniform else np.array(self.lengths)[:, None] + 0 * everything

    @property
    def distances(self) -> np.ndarray:
        """The distances that a table over them has, `query - key`: it serves until the length doubles."""
        return distances((1 << max((self.reach or self.keys) - 1, 63).bit_length()) - 1, self.one_sided)

    @property
    def one_sided(self) -> bool:
        """Whether no distance is below 0."""
        return self.causal and not self.signed


@functools.lru_cache(maxsize=64)
def distances(longest: int, one_sided: bool) -> np.ndarray:
    """From 0, or as far behind a query, to `longest` at least: an even number of them, on both sides an odd one."""
    longest |= 1
    return np.arange(0 if one_sided else -longest, longest + 1)


def first_distance(count: int) -> int:
    """The first of so many `distances`."""
    return 0 if count % 2 == 0 else -(count // 2)


@dataclasses.dataclass(frozen=True)
class Scheme(abc.ABC):
    """A position scheme. Equal settings are equal schemes, and every scheme can be written down as a dict."""

    @abc.abstractmethod
    def hooks(self, span: Span) -> Hooks:
        """Keyword arguments of `farspan.attention`, with NumPy arrays, for the queries of `span` against all keys. An
        array that is given twice holds the same numbers both times."""

    def fixed_hooks(self, span: Span) -> Hooks:
        """Those of them that no parameter has a part in."""
        return self.hooks(span)

    def features(self, span: Span) -> dict[str, np.ndarray]:
        """What the parameters are applied to: the input of `learned_hooks` of each of `learned_parts`."""
        del span
        return {}

    @property
    def learned_parts(self) -> tuple[Any, ...]:
        """The schemes in this one that have parameters: objects of `farspan.positions.Learned`."""
        return ()

    @property
    def draws(self) -> bool:
        """Whether positions are drawn anew for each batch in training."""
        return False

    @property
    def takes_positions(self) -> bool:
        """Whether tokens stand where the caller says."""
        return False

    @property
    def by_positions(self) -> bool:
        """Whether a query and a key are as far from each other as their positions say, whatever their order is."""
        return False

    @property
    def by_rows(self) -> bool:
        """Whether the bias of a key depends on the query's place too, and not on their distance alone: such a layer has
        no window, its rows share no call of attention, and its passes are no CUDA graphs."""
        return any(part.by_rows for part in self.learned_parts if part is not self)

    @property
    def more_dims(self) -> int:
        """How many dims it adds to queries and keys, in front."""
        return 0

    def switch(self, length: int) -> int:
        """Sequences of lengths with equal switches share frequencies and positions: 0 where length does not matter."""
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

    def redrawn(self, seed: int) -> Scheme:
        """This scheme with random positions of another seed; itself where nothing is drawn."""
        del seed
        return self

    def with_base(self, base: float) -> Scheme:
        """This scheme on a model whose RoPE has this base: schemes that only scale a RoPE (base None) take it over."""
        del base
        return self

    def to_dict(self) -> dict[str, Any]:
        """`{"scheme": name, setting: value, ...}`, JSON types only."""
        settings = {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}
        return {"scheme": type(self).__name__} | settings


class Refining(Scheme):
    """A scheme that refines another one, its `inner`, and says in `fixed_hooks` how."""

    inner: Scheme

    def hooks(self, span: Span) -> Hooks:
        if self.learned_parts:
            raise needs_parameters(self.learned_parts[0])
        return self.fixed_hooks(span)

    def features(self, span: Span) -> dict[str, np.ndarray]:
        return self.inner.features(span)

    @property
    def learned_parts(self) -> tuple[Any, ...]:
        return self.inner.learned_parts

    @property
    def draws(self) -> bool:
        return self.inner.draws

    @property
    def takes_positions(self) -> bool:
        return self.inner.takes_positions

    @property
    def by_positions(self) -> bool:
        return self.inner.by_positions

    @property
    def more_dims(self) -> int:
        return self.inner.more_dims

    @property
    def rope_base(self) -> float | None:
        return self.inner.rope_base

    @property
    def rotates(self) -> bool:
        return self.inner.rotates

    def redrawn(self, seed: int) -> Scheme:
        return dataclasses.replace(self, inner=self.inner.redrawn(seed))  # type: ignore[call-arg]

    def with_base(self, base: float) -> Scheme:
        return dataclasses.replace(self, inner=self.inner.with_base(base))  # type: ignore[call-arg]

    def switch(self, length: int) -> int:
        return self.inner.switch(length)


def needs_parameters(scheme: Scheme) -> ArgumentError:
    """The error of whoever asks a scheme that learns for arguments of attention."""
    expected = "a model that holds the parameters of a scheme that learns, or fixed_hooks, features and learned_hooks"
    return ArgumentError(message(f"{type(scheme).__name__}.hooks", expected, "no parameters"))


def require_causal(scheme: Scheme, span: Span) -> None:
    """Raise an ArgumentError if there are keys behind a query, for which the scheme says nothing."""
    if not span.causal:
        name = type(scheme).__name__
        raise ArgumentError(message("positions", f"a scheme for both directions, as causal is False: not {name}", name))


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


def require_pairs(name: str, dims: Any) -> None:
    """A number of dims that sines and cosines share."""
    require_number(name, dims, at_least=2, integer=True)
    if dims % 2:
        raise ArgumentError(message(name, "an even number", dims))


def require_scheme(name: str, value: Any) -> None:
    if not isinstance(value, Scheme):
        raise ArgumentError(message(name, "a position scheme of farspan.positions", repr(value)))


def require_by_positions(name: str, value: Any, *, may_draw: bool = False) -> None:
    """A scheme to which another one can say where tokens stand."""
    require_scheme(name, value)
    if not value.by_positions or (value.draws and not may_draw) or value.takes_positions:
        expected = "a scheme that goes by positions, such as RoPE, a scaling of it, or a bias over distance"
        raise ArgumentError(message(name, expected, repr(value)))
