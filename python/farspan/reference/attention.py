"""Attention with its score matrix: what `farspan.attention` means."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    keep_first: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
    sink: Tensor | None = None,
    key_bias: Tensor | None = None,
    distance_bias: Any = None,
    query_scale: Tensor | None = None,
    rotary: Any = None,
    query_positions: Tensor | None = None,
    key_positions: Tensor | None = None,
    key_lengths: Tensor | None = None,
    query_offsets: Tensor | None = None,
    key_offsets: Tensor | None = None,
    block_table: Tensor | None = None,
    return_lse: bool = False,
) -> Any:
    """The meaning of `farspan.attention`; arguments as there."""
    hooks = dict(
        causal=causal, window=window, keep_first=keep_first, scale=scale, softcap=softcap, sink=sink, key_bias=key_bias,
        distance_bias=distance_bias, query_scale=query_scale, rotary=rotary, query_positions=query_positions,
        key_positions=key_positions, key_lengths=key_lengths,
    )  # fmt: skip

    def of_sequences(query: Tensor, key: Tensor, value: Tensor, **hooks: Any) -> tuple[Tensor, ...]:
        scores = Scores(query, key, **hooks)
        output = _weighted_sum(scores.weights(), value, scores.visible)
        return (output, scores.lse()) if return_lse else (output,)

    output, *lse = by_sequence(of_sequences, query, (key, value), query_offsets, key_offsets, block_table, hooks)
    output = output if query_offsets is None else output.transpose(0, 1).contiguous()
    return (output, *lse) if return_lse else output


def by_sequence(
    of_sequences: Callable[..., tuple[Tensor, ...]], query: Tensor, keys: tuple[Tensor, ...], query_offsets: Any,
    key_offsets: Any, block_table: Any, hooks: dict[str, Any],
) -> tuple[Tensor, ...]:  # fmt: skip
    """What `of_sequences(query, *keys, **hooks)` gives for a dense batch, `[batch, heads, time, ...]`; keys in pages
    are gathered first. Ragged: of each sequence by itself, one behind the other, `[heads, total, ...]`."""
    if block_table is not None:
        keys = tuple(_from_pages(x, block_table, hooks["key_lengths"]) for x in keys)
    if block_table is not None and query_offsets is not None:
        sequences, _, time, _ = keys[0].shape
        key_offsets = torch.arange(sequences + 1) * time
        keys = tuple(x.transpose(1, 2).flatten(0, 1) for x in keys)
        key_bias = _behind_each_other(hooks["key_bias"], (sequences, query.shape[1], time))
        key_positions = _behind_each_other(hooks["key_positions"], (sequences, time))
        hooks = hooks | {"key_bias": key_bias, "key_positions": key_positions}
        rotary = hooks["rotary"]
        if rotary is not None and rotary.border is not None:
            far_keys = _behind_each_other(rotary.far_key_positions, (sequences, time))
            hooks["rotary"] = dataclasses.replace(rotary, far_key_positions=far_keys)
    if query_offsets is None or key_offsets is None:
        return of_sequences(query, *keys, **hooks)
    return _ragged(of_sequences, query, keys, query_offsets.tolist(), key_offsets.tolist(), hooks)


def _from_pages(pages: Tensor, table: Any, lengths: Any) -> Tensor:
    """`[pages, heads, page_size, dim]` -> `[sequences, heads, blocks * page_size, dim]`; behind a sequence's last key,
    where nobody looks, the first page's keys."""
    table = torch.as_tensor(table, device=pages.device)
    starts = torch.arange(table.shape[1], device=pages.device) * pages.shape[2]
    if lengths is not None:
        table = torch.where(starts < torch.as_tensor(lengths, device=pages.device)[:, None], table, 0)
    return pages[table.long()].transpose(1, 2).flatten(2, 3)


def _behind_each_other(x: Any, shape: tuple[int, ...]) -> Any:
    """What is said of the keys of each sequence, as of keys on one time axis: `[sequences, ..., keys]` ->
    `[..., sequences * keys]`."""
    if x is None:
        return None
    return torch.as_tensor(x).expand(shape).movedim(0, -2).flatten(-2)


class Scores:
    """The scores of `[batch, heads, time, dim]`, in the columns before the last one or as many as there are keys: a
    sink is a key more. A row that sees neither key nor sink is made harmless, and is 0 in `weights`."""

    def __init__(
        self, query: Tensor, key: Tensor, *, causal: bool = False, window: Any = None, keep_first: int = 0,
        scale: float | None = None, softcap: float | None = None, sink: Any = None, key_bias: Any = None,
        distance_bias: Any = None, query_scale: Any = None, rotary: Any = None, query_positions: Any = None,
        key_positions: Any = None, key_lengths: Any = None,
    ) -> None:  # fmt: skip
        (_, heads, queries, dim), keys = query.shape, key.shape[2]

        def table(x: Any) -> Tensor:
            return torch.as_tensor(x, device=query.device).to(query.dtype)

        def positions(x: Any, order: Tensor) -> Tensor:
            x = order if x is None else torch.as_tensor(x, device=query.device)
            return torch.atleast_2d(x.double())  # [batch or 1, time]

        # Order decides what may be seen.
        key_order = torch.arange(keys, device=query.device)
        existing = torch.as_tensor(keys if key_lengths is None else key_lengths, device=query.device).reshape(-1, 1)
        # [batch or 1, queries]: the ends align
        query_order = torch.arange(queries, device=query.device) + existing - queries
        visible = _visible(query_order, key_order, existing, causal, window, keep_first)[:, None]
        if key_bias is not None:
            bias = table(key_bias)
            bias = bias.reshape((1,) * (3 - bias.ndim) + bias.shape)[:, :, None, :]
            visible = visible & ~bias.isneginf()
            bias = bias.masked_fill(bias.isneginf(), 0)

        # Position decides how far away it looks.
        query_at, key_at = positions(query_positions, query_order), positions(key_positions, key_order)
        distance = (query_at[:, :, None] - key_at[:, None, :])[:, None]
        if rotary is None:
            scores = _products(query, key, visible)
        else:
            scores = _products(_rotate(query, query_at, rotary), _rotate(key, key_at, rotary), visible)
            if rotary.border is not None:
                query_far = positions(rotary.far_query_positions, query_order)
                key_far = positions(rotary.far_key_positions, key_order)
                far = _products(_rotate(query, query_far, rotary), _rotate(key, key_far, rotary), visible)
                scores = torch.where(distance >= rotary.border, far, scores)

        scores = scores * (1 / math.sqrt(dim) if scale is None else scale)
        if query_scale is not None:
            scores = scores * table(query_scale)[..., None]
        if softcap is not None:
            scores = softcap * torch.tanh(scores / softcap)
        if key_bias is not None:
            scores = scores + bias
        if distance_bias is not None:
            by_distance = table(distance_bias.table)
            index = (distance.floor() - distance_bias.minimum).clamp(0, by_distance.shape[1] - 1).long()
            scores = scores + by_distance[:, index[:, 0]].transpose(0, 1)

        # What the softmax is over: the visible keys and the sink.
        scores = scores.masked_fill(~visible, -math.inf)
        empty = ~visible.any(-1, keepdim=True)
        if sink is not None:
            column = table(sink).reshape(1, heads, 1, 1).expand(*scores.shape[:3], 1)
            scores, empty = torch.cat([scores, column], -1), empty & column.isneginf()
        elif keys == 0:
            scores = scores.new_full((*scores.shape[:3], 1), -math.inf)
        self.keys, self.visible, self.empty = keys, visible, empty
        self.gap = (query_order[:, :, None] - key_order)[:, None]
        """Order of each query less that of each key."""
        self.scores = scores.masked_fill(empty, 0) if empty.any() else scores

    def shares(self) -> Tensor:
        """The softmax, a sink's share last."""
        return torch.softmax(self.scores, -1).masked_fill(self.empty, 0)

    def weights(self) -> Tensor:
        """The shares of the keys."""
        return self.shares()[..., : self.keys]

    def lse(self) -> Tensor:
        scores = self.scores if self.scores.dtype == torch.float64 else self.scores.float()
        return torch.logsumexp(scores, -1).masked_fill(self.empty[..., 0], -math.inf)


def _visible(
    query_order: Tensor, key_order: Tensor, existing: Tensor, causal: bool, window: Any, keep_first: int
) -> Tensor:
    """Which keys a query may see, `[batch or 1, queries, keys]`."""
    gap = query_order[:, :, None] - key_order
    left, right = (
        window if isinstance(window, (tuple, list)) else (None if window is None else window - 1, window and 0)
    )
    visible = torch.ones_like(gap, dtype=torch.bool)
    if left is not None:
        visible = visible & (gap <= left)
    if right is not None:
        visible = visible & (-gap <= right)
    visible = visible | (key_order < keep_first)
    if causal:
        visible = visible & (gap >= 0)
    return visible & (key_order < existing[:, :, None])


def _rotate(x: Tensor, positions: Tensor, rotary: Any) -> Tensor:
    """Turn the first dims of x `[batch, heads, time, dim]` by `position * inv_freq`, pair by pair, and stretch them."""
    inv_freq = torch.as_tensor(rotary.inv_freq, device=x.device).double()
    angle = (positions[..., None] * (inv_freq[:, None] if inv_freq.ndim == 2 else inv_freq))[:, None]
    cos, sin = ((part * float(rotary.magnitude)).to(x.dtype) for part in (angle.cos(), angle.sin()))
    turning, still = x[..., : 2 * inv_freq.shape[-1]], x[..., 2 * inv_freq.shape[-1] :]
    first, second = turning.unflatten(-1, (-1, 2)).unbind(-1) if rotary.interleaved else turning.chunk(2, -1)
    turned = (first * cos - second * sin, second * cos + first * sin)
    return torch.cat([torch.stack(turned, -1).flatten(-2) if rotary.interleaved else torch.cat(turned, -1), still], -1)


def _products(query: Tensor, key: Tensor, visible: Tensor) -> Tensor:
    """`query @ key.T` `[batch, heads, queries, keys]`; query head h reads key head `h // (heads / key_heads)`."""
    batch, heads, queries, dim = query.shape
    if key.isfinite().all():
        grouped = query.reshape(batch, key.shape[1], heads // key.shape[1] * queries, dim)  # one product for a group
        return (grouped @ key.transpose(-1, -2)).reshape(batch, heads, queries, key.shape[2])
    seen = key.repeat_interleave(heads // key.shape[1], 1)[:, :, None].masked_fill(~visible[..., None], 0)
    return (query[:, :, :, None] * seen).sum(
        -1
    )  # pair by pair, so that what is hidden has no part in a gradient either


def _weighted_sum(weights: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """`weights @ value` `[batch, heads, queries, value_dim]`, over the visible keys only."""
    batch, heads, queries, keys = weights.shape
    if value.isfinite().all():
        grouped = weights.reshape(batch, value.shape[1], heads // value.shape[1] * queries, keys)
        return (grouped @ value).reshape(batch, heads, queries, value.shape[3])
    seen = value.repeat_interleave(heads // value.shape[1], 1)[:, :, None].masked_fill(~visible[..., None], 0)
    return (weights[..., None] * seen).sum(-2)


def _ragged(
    of_sequences: Callable[..., tuple[Tensor, ...]], query: Tensor, keys: tuple[Tensor, ...],
    query_offsets: list[int], key_offsets: list[int], hooks: dict[str, Any],
) -> tuple[Tensor, ...]:  # fmt: skip
    """Each sequence of `[total, heads, dim]` by itself."""

    def cut(name: str, span: slice, total: int) -> Any:
        x = hooks[name]
        return x if x is None or x.shape[-1] == 1 != total else x[..., span]

    def dense(x: Tensor, span: slice) -> Tensor:
        return x[span].transpose(0, 1)[None]

    nothing = slice(0, 0)
    found = [of_sequences(*(dense(x, nothing) for x in (query, *keys)))]
    for b, (q0, q1, k0, k1) in enumerate(
        zip(query_offsets, query_offsets[1:], key_offsets, key_offsets[1:], strict=False)
    ):
        queries, own_keys = slice(q0, q1), slice(k0, k1)
        own = {name: cut(name, queries, len(query)) for name in ("query_scale", "query_positions")}
        own |= {name: cut(name, own_keys, len(keys[0])) for name in ("key_bias", "key_positions")}
        if hooks["rotary"] is not None:
            own["rotary"] = _SequenceRotary(hooks["rotary"], b, queries, own_keys)
        if hooks["key_lengths"] is not None:
            own["key_lengths"] = hooks["key_lengths"][b : b + 1]
        found.append(of_sequences(dense(query, queries), *(dense(x, own_keys) for x in keys), **(hooks | own)))
    return tuple(torch.cat([x[0] for x in parts], 1) for parts in zip(*found, strict=True))


class _SequenceRotary:
    """The part of a `Rotary` that concerns one sequence of a ragged batch."""

    def __init__(self, rotary: Any, b: int, queries: slice, keys: slice) -> None:
        self.inv_freq = rotary.inv_freq[b] if rotary.inv_freq.ndim == 2 else rotary.inv_freq
        self.magnitude, self.interleaved, self.border = rotary.magnitude, rotary.interleaved, rotary.border
        if rotary.border is not None:
            self.far_query_positions = rotary.far_query_positions[..., queries]
            self.far_key_positions = rotary.far_key_positions[..., keys]
