"""Padded and packed batches as users of transformers pass them: `attention_mask` and `position_ids` as sequences."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from farspan._errors import ArgumentError, DtypeError, message


def sequences(ids: Tensor, attention_mask: Any, position_ids: Any) -> tuple[Tensor, list[int]]:
    """Which ids are no padding, `[batch, time]` bools, and how many tokens each sequence has that these are, one behind
    the other: a row is one, or with `position_ids` as many as begin at 0 in it.

    ArgumentError, DtypeError: anything else, such as a mask with holes or positions that skip.
    """
    kept = np.ones(tuple(ids.shape), bool) if attention_mask is None else _kept(ids, attention_mask)
    begins = np.zeros_like(kept)
    first = kept.argmax(axis=1)
    begins[np.arange(len(kept)), first] = kept.any(axis=1)
    if (np.diff(np.pad(kept, ((0, 0), (1, 1))).astype(np.int8), axis=1) == 1).sum(axis=1).max(initial=0) > 1:
        expected = "tokens side by side, and padding before or behind them"
        raise ArgumentError(message("attention_mask", expected, "a row with padding between its tokens"))
    if position_ids is not None:
        begins |= _restarts(ids, position_ids, kept, begins)
    edges = np.flatnonzero(begins[kept])
    lengths: list[int] = np.diff(np.append(edges, kept.sum())).tolist()
    return torch.from_numpy(kept).to(ids.device), lengths


def _kept(ids: Tensor, attention_mask: Any) -> np.ndarray:
    mask = _array("attention_mask", attention_mask)
    if mask.shape != tuple(ids.shape):
        expected = f"shape {list(ids.shape)}, that of ids: 1 for a token, 0 for padding"
        raise ArgumentError(message("attention_mask", expected, f"shape {list(mask.shape)}"))
    if mask.dtype != bool and not np.isin(mask, (0, 1)).all():
        raise ArgumentError(message("attention_mask", "1 for a token, 0 for padding", "other numbers"))
    return mask.astype(bool)


def _restarts(ids: Tensor, position_ids: Any, kept: np.ndarray, begins: np.ndarray) -> np.ndarray:
    """Where positions are 0, which has to be where they do not go up by 1."""
    positions = _array("position_ids", position_ids)
    if positions.ndim != 2 or positions.shape[1] != ids.shape[1] or positions.shape[0] not in (1, len(ids)):
        expected = f"shape {list(ids.shape)}, that of ids"
        raise ArgumentError(message("position_ids", expected, f"shape {list(positions.shape)}"))
    if positions.dtype.kind not in "iu":
        raise DtypeError(message("position_ids", "integers", positions.dtype))
    positions = np.broadcast_to(positions, kept.shape)
    zero = positions == 0
    steps = np.zeros_like(kept)
    steps[:, 1:] = np.diff(positions, axis=1) == 1
    if (kept & ~(zero | (steps & ~begins))).any():
        row, token = np.argwhere(kept & ~(zero | (steps & ~begins)))[0]
        given = f"{int(positions[row, token])} for token {int(token)} of row {int(row)}"
        raise ArgumentError(message("position_ids", "positions that count from 0 in each sequence", given))
    return kept & zero


def _array(name: str, value: Any) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu().numpy() if value.dtype != torch.bfloat16 else value.float().numpy()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(message(name, "numbers [batch, time]", error)) from None
    if array.dtype.kind not in "iubf":
        raise DtypeError(message(name, "numbers [batch, time]", array.dtype))
    return array
