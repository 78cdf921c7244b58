"""`farspan.attention` as transformers calls an attention function."""

from __future__ import annotations

from typing import Any

import torch

from farspan._backend import arrays
from farspan._errors import ArgumentError, message
from farspan.attention import attention
from farspan.integrations.transformers.visible import EXPECTED, Visible

HARMLESS = frozenset(
    {
        "cache_position", "num_items_in_batch", "output_hidden_states", "output_router_logits", "position_ids",
        "return_dict", "use_cache",
    }
)  # fmt: skip
"""What models hand through that changes nothing about attention. `position_ids` were used by the rotation and the mask
by then."""


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """The attention function: `[batch, heads, time, dim]` in, `[batch, time, heads, dim]` out."""
    if dropout:
        raise ArgumentError(
            message("dropout", "0, as farspan's attention has none (config.attention_dropout)", dropout)
        )
    for name, given in more.items():
        if name not in HARMLESS and given is not None and given is not False:
            expected = "no such setting with attn_implementation='farspan'"
            raise ArgumentError(message(name, expected, arrays.describe(given)))
    if attention_mask is None:
        attention_mask = _without_mask(module, query, key, sliding_window, is_causal)
    elif not isinstance(attention_mask, Visible):
        raise ArgumentError(message("attention_mask", EXPECTED, arrays.describe(attention_mask)))
    elif is_causal is False and attention_mask.causal and query.shape[2] > 1:
        raise ArgumentError(message("is_causal", "what the mask says", "False and a causal mask"))
    seen = attention_mask
    if (query.shape[2], key.shape[2]) != (seen.queries, seen.keys):
        expected = f"{query.shape[2]} queries and {key.shape[2]} keys, as the layer has"
        raise ArgumentError(message("attention_mask", expected, f"a mask of {seen.queries} and {seen.keys}"))
    hooks: dict[str, Any] = {
        "causal": seen.causal, "window": seen.window, "scale": scaling, "softcap": softcap,
        "sink": None if s_aux is None else s_aux.float(),
    }  # fmt: skip
    if seen.offsets is None:
        output = attention(query, key, value, key_bias=seen.key_bias, **hooks)
        return output.transpose(1, 2).contiguous(), None
    # Packed rows, laid end to end, are ragged sequences.
    ragged = (x.transpose(1, 2).flatten(0, 1) for x in (query, key, value))
    output = attention(*ragged, query_offsets=seen.offsets, key_offsets=seen.offsets, **hooks)
    return output.unflatten(0, (query.shape[0], query.shape[2])), None


def _without_mask(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, window: int | None, is_causal: bool | None
) -> Visible:
    """What a layer sees that no mask was made for: everything, or what is not later where the layer is causal."""
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal) and query.shape[2] > 1
    if window is not None or (causal and query.shape[2] != key.shape[2]):
        given = f"no mask for {query.shape[2]} queries and {key.shape[2]} keys with a window of {window}"
        raise ArgumentError(message("attention_mask", EXPECTED, given))
    return Visible(causal, None, query.shape[2], key.shape[2])
