"""Attention with its score matrix: what `farspan.attention` means."""

from __future__ import annotations

import dataclasses
import math
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
    if block_table is not None:
        key, value = (_from_pages(x, block_table, key_lengths) for x in (key, value))
    if block_table is not None and query_offsets is not None:
        sequences, _, keys, _ = key.shape
        key_offsets = torch.arange(sequences + 1) * keys
        key, value = (x.transpose(1, 2).flatten(0, 1) for x in (key, value))
        key_bias = _behind_each_other(key_bias, (sequences, query.shape[1], keys))
        key_positions = _behind_each_other(key_positions, (sequences, keys))
        if rotary is not None and rotary.border is not None:
            far_keys = _behind_each_other(rotary.far_key_positions, (sequences, keys))
            rotary = dataclasses.replace(rotary, far_key_positions=far_keys)
    hooks = dict(
        causal=causal, window=window, keep_first=keep_first, scale=scale, softcap=softcap, sink=sink, key_bias=key_bias,
        distance_bias=distance_bias, query_scale=query_scale, rotary=rotary, query_positions=query_positions,
        key_positions=key_positions, key_lengths=key_lengths, return_lse=return_lse,
    )  # fmt: skip
    if query_offsets is None or key_offsets is None:
        output, lse = _dense(query, key, value, **hooks)
    else:
        output, lse = _ragged(query, key, value, query_offsets.tolist(), key_offsets.tolist(), hooks)
    return (output, lse) if return_lse else output


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


def _dense(
    query: Tensor, key: Tensor, value: Tensor, *, causal: bool, window: Any, keep_first: int, scale: float | None,
    softcap: float | None, sink: Any, key_bias: Any, distance_bias: Any, query_scale: Any, rotary: Any,
    query_positions: Any, key_positions: Any, key_lengths: Any, return_lse: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Attention of `[batch, heads, time, dim]`; the LSE is None unless it is asked for."""
    (_, heads, queries, dim), keys = query.shape, key.shape[2]

    def table(x: Any) -> Tensor:
        return torch.as_tensor(x, device=query.device).to(query.dtype)

    def positions(x: Any, order: Tensor) -> Tensor:
        x = order if x is None else torch.as_tensor(x, device=query.device)
        return torch.atleast_2d(x.double())  # [batch or 1, time]

    # Order decides what may be seen.
    key_order = torch.arange(keys, device=query.device)
    existing = torch.as_tensor(keys if key_lengths is None else key_lengths, device=query.device).reshape(-1, 1)
    query_order = (
        torch.arange(queries, device=query.device) + existing - queries
    )  # [batch or 1, queries]: the ends align
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
        scores = _scores(query, key, visible)
    else:
        scores = _scores(_rotate(query, query_at, rotary), _rotate(key, key_at, rotary), visible)
        if rotary.border is not None:
            query_far = positions(rotary.far_query_positions, query_order)
            key_far = positions(rotary.far_key_positions, key_order)
            far = _scores(_rotate(query, query_far, rotary), _rotate(key, key_far, rotary), visible)
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

    # The softmax, over the visible keys and the sink. A row without either is made harmless first and 0 afterwards.
    scores = scores.masked_fill(~visible, -math.inf)
    empty = ~visible.any(-1, keepdim=True)
    if sink is not None:
        column = table(sink).reshape(1, heads, 1, 1).expand(*scores.shape[:3], 1)
        scores, empty = torch.cat([scores, column], -1), empty & column.isneginf()
    elif keys == 0:
        scores = scores.new_full((*scores.shape[:3], 1), -math.inf)
    if empty.any():
        scores = scores.masked_fill(empty, 0)
    weights = torch.softmax(scores, -1)[..., :keys]
    output = _weighted_sum(weights, value, visible).masked_fill(empty, 0)
    if not return_lse:
        return output, None
    lse = torch.logsumexp(scores if scores.dtype == torch.float64 else scores.float(), -1)
    return output, lse.masked_fill(empty[..., 0], -math.inf)


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


def _scores(query: Tensor, key: Tensor, visible: Tensor) -> Tensor:
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
    query: Tensor, key: Tensor, value: Tensor, query_offsets: list[int], key_offsets: list[int], hooks: dict[str, Any]
) -> tuple[Tensor, Tensor | None]:
    """Each sequence of `[total, heads, dim]` by itself."""

    def cut(name: str, span: slice, total: int) -> Any:
        x = hooks[name]
        return x if x is None or x.shape[-1] == 1 != total else x[..., span]

    outputs, lses = [query.new_zeros(0, query.shape[1], value.shape[2])], [query.new_zeros(query.shape[1], 0).float()]
    for b, (q0, q1, k0, k1) in enumerate(
        zip(query_offsets, query_offsets[1:], key_offsets, key_offsets[1:], strict=False)
    ):
        queries, keys = slice(q0, q1), slice(k0, k1)
        own = {name: cut(name, queries, len(query)) for name in ("query_scale", "query_positions")}
        own |= {name: cut(name, keys, len(key)) for name in ("key_bias", "key_positions")}
        if hooks["rotary"] is not None:
            own["rotary"] = _SequenceRotary(hooks["rotary"], b, queries, keys)
        if hooks["key_lengths"] is not None:
            own["key_lengths"] = hooks["key_lengths"][b : b + 1]
        large = (x[span].transpose(0, 1)[None] for x, span in ((query, queries), (key, keys), (value, keys)))
        output, lse = _dense(*large, **(hooks | own))
        outputs.append(output[0].transpose(0, 1))
        if lse is not None:
            lses.append(lse[0])
    return torch.cat(outputs), torch.cat(lses, 1) if hooks["return_lse"] else None


class _SequenceRotary:
    """The part of a `Rotary` that concerns one sequence of a ragged batch."""

    def __init__(self, rotary: Any, b: int, queries: slice, keys: slice) -> None:
        self.inv_freq = rotary.inv_freq[b] if rotary.inv_freq.ndim == 2 else rotary.inv_freq
        self.magnitude, self.interleaved, self.border = rotary.magnitude, rotary.interleaved, rotary.border
        if rotary.border is not None:
            self.far_query_positions = rotary.far_query_positions[..., queries]
            self.far_key_positions = rotary.far_key_positions[..., keys]
