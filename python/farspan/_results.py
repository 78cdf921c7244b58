"""What operations return that give several arrays. Fields are of the kind and device of the first argument."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

FLAG_NAN = 1
"""`Sample.flag` of a row with a NaN logit: no token was drawn, `token` is -1."""

FLAG_EMPTY = 2
"""`Sample.flag` of a row whose every logit is -inf: no token was drawn, `token` is -1."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """What was drawn from each row of `hidden`. Every field has the leading shape of `hidden`; with `samples=n` token,
    logprob, raw_logprob, logit and rank have a last axis n, and with `top=n` the lists do."""

    token: Any
    """int64; -1 where `flag` is not 0."""
    logprob: Any
    """float32, nats, under the distribution the token was drawn from; 0 at temperature 0."""
    raw_logprob: Any
    """float32, nats, under `softmax(l)`: no temperature, no cuts."""
    lse: Any
    """float32, `logsumexp(l)`."""
    flag: Any
    """int32: 0, `FLAG_NAN` or `FLAG_EMPTY`."""
    logit: Any
    """float32, the token's l."""
    kept: Any
    """int64: how many tokens the cuts left to draw from."""
    kept_mass: Any
    """float32: their probability at the temperature, before renormalising."""
    entropy: Any
    """float32, nats, of `softmax(l)`."""
    top_token: Any = None
    """int64 `[..., top]`: the most likely tokens, ties by the lowest id; None unless `top` asks for them."""
    top_logprob: Any = None
    """float32 `[..., top]`, nats, under `softmax(l)`."""
    _count_ranks: Callable[[], Any] | None = field(default=None, repr=False)
    _ranks: Any = field(default=None, init=False, repr=False)

    @property
    def rank(self) -> Any:
        """int64: how many tokens have a larger logit than the one drawn, or an equal one and a lower id; -1 where
        `flag` is not 0. Known at once for the 128 most likely tokens; for others the row is read again when this is
        first asked for, so `hidden` and `weight` must not have changed until then."""
        if self._ranks is None and self._count_ranks is not None:
            object.__setattr__(self, "_ranks", self._count_ranks())
            object.__setattr__(self, "_count_ranks", None)
        return self._ranks


class Score(NamedTuple):
    """What the model says about one given token per row of `hidden`."""

    logprob: Any
    """float32, nats, of the target under `softmax(l)`."""
    rank: Any
    """int64: how many tokens have a larger logit, or an equal one and a lower id."""
    entropy: Any
    """float32, nats, of `softmax(l)`."""
    lse: Any
    """float32, `logsumexp(l)`."""
    top_token: Any = None
    """int64 `[..., top]`: the most likely tokens, ties by the lowest id; None unless `top` asks for them."""
    top_logprob: Any = None
    """float32 `[..., top]`, nats, of those."""


class Top(NamedTuple):
    """The k largest logits per row of `hidden`, largest first, ties by the lowest id."""

    token: Any
    """int64 `[..., k]`."""
    logit: Any
    """float32 `[..., k]`."""
    lse: Any
    """float32 `[...]`, over the whole vocabulary."""


class AttentionStatistics(NamedTuple):
    """What the weights of each row of attention look like, float32 `[batch, q_heads, q_time]` (ragged
    `[q_heads, total]`). p is a key's share of the softmax, `exp(score - lse)`."""

    lse: Any
    """The natural logarithm of the softmax's denominator, the sink included: that of `farspan.attention`."""
    entropy: Any
    """`-sum(p * log(p))`, nats, the sink's own share included: how widely the row looks."""
    largest: Any
    """The largest p of a key."""
    first: Any
    """p of the sequence's first key."""
    sink: Any
    """The share that no key gets: `exp(sink - lse)`, 0 without a sink."""
    distance: Any
    """`sum(p * (order of the query - order of the key))`: how far back the row looks, a key ahead counted negative."""


for _class in (Sample, Score, Top, AttentionStatistics):
    _class.__module__ = "farspan"
