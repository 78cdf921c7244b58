"""`farspan.attention_statistics`: what attention looks at, without its output."""

from __future__ import annotations

from typing import Any

from farspan._backend import arrays
from farspan._compute import compute
from farspan._results import AttentionStatistics
from farspan.attention import DistanceBias, Rotary, hook_arguments


def attention_statistics(
    query: Any,
    key: Any,
    *,
    causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    keep_first: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
    sink: Any = None,
    key_bias: Any = None,
    distance_bias: DistanceBias | None = None,
    query_scale: Any = None,
    rotary: Rotary | None = None,
    query_positions: Any = None,
    key_positions: Any = None,
    key_lengths: Any = None,
    query_offsets: Any = None,
    key_offsets: Any = None,
    block_table: Any = None,
) -> AttentionStatistics:
    """How widely and how far back each row of attention looks, without the matrix of its weights.

        p = exp(s - lse)                                               # s, lse: the scores and LSE of farspan.attention
        entropy = -(p * log(p)).sum() - share * log(share)             # share = exp(sink - lse), 0 without a sink
        largest, first, sink = p.max(), p[0], share
        distance = (p * (query_order - key_order)).sum()

    Args:
        query: `[batch, q_heads, q_time, dim]`, or ragged `[total, q_heads, dim]` with both offsets. float32, bfloat16
            or float16.
        key: `[batch, kv_heads, k_time, dim]` (ragged `[total, kv_heads, dim]`), un-rotated.

    The other arguments are those of `farspan.attention`.

    Returns:
        An `AttentionStatistics`, float32, `[batch, q_heads, q_time]` (ragged `[q_heads, total]`). A row that sees
        nothing: lse -inf, the rest 0; with a sink, lse is the sink and its share 1. A masked key has no influence, even
        if it is NaN. Each row has the same bits in prefill and decode, in any batch, at any thread count, on every
        instruction set, and its lse those of `farspan.attention`.

    Raises:
        ArgumentError, DtypeError: as in `farspan.attention`.
        BackendError: a tensor that no backend of this build serves, or one that needs a gradient: there is none.
    """
    dtype = arrays.large("query", query)
    arrays.large_like("key", key, "query", query)
    hooks = hook_arguments(
        query, causal=causal, window=window, keep_first=keep_first, scale=scale, softcap=softcap, sink=sink,
        key_bias=key_bias, distance_bias=distance_bias, query_scale=query_scale, rotary=rotary,
        query_positions=query_positions, key_positions=key_positions, key_lengths=key_lengths,
        query_offsets=query_offsets, key_offsets=key_offsets, block_table=block_table,
    )  # fmt: skip
    return AttentionStatistics(*compute("attention_statistics", dtype, (query, key), (hooks,)))


attention_statistics.__module__ = "farspan"
