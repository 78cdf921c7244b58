"""Statistics of attention's weights, with the weights: what `farspan.attention_statistics` means."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from farspan._results import AttentionStatistics
from farspan.reference.attention import Scores, by_sequence


def attention_statistics(
    query: Tensor,
    key: Tensor,
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
) -> AttentionStatistics:
    """The meaning of `farspan.attention_statistics`; arguments as there. float64 inputs give float64."""
    hooks = dict(
        causal=causal, window=window, keep_first=keep_first, scale=scale, softcap=softcap, sink=sink, key_bias=key_bias,
        distance_bias=distance_bias, query_scale=query_scale, rotary=rotary, query_positions=query_positions,
        key_positions=key_positions, key_lengths=key_lengths,
    )  # fmt: skip

    def of_sequences(query: Tensor, key: Tensor, **hooks: Any) -> tuple[Tensor, ...]:
        scores = Scores(query, key, **hooks)
        lse = scores.lse()
        p = scores.shares().to(lse.dtype)
        weights = p[..., : scores.keys]
        nothing = torch.zeros_like(lse)
        return (
            lse,
            -torch.xlogy(p, p).sum(-1),
            weights.amax(-1) if scores.keys else nothing,
            weights[..., 0] if scores.keys else nothing,
            p[..., -1] if hooks.get("sink") is not None else nothing,
            (weights * scores.gap).sum(-1),
        )

    return AttentionStatistics(
        *by_sequence(of_sequences, query, (key,), query_offsets, key_offsets, block_table, hooks)
    )
