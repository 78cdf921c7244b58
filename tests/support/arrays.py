"""Arrays in the kinds, dtypes and strides that callers bring."""

from __future__ import annotations

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np
import torch

import farspan

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = ("plain", "time_first", "padded", "expanded")


def lay_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same shape in other strides; `expanded` repeats the first entry of the first axis."""
    if layout == "time_first" and x.ndim > 2:
        return x.transpose(-2, -3).contiguous().transpose(-2, -3)
    if layout == "padded":  # rows cut out of a wider buffer of NaN, so that a step over a row's end shows
        wide = x.new_full((*x.shape[:-1], x.shape[-1] + 5), float("nan"))
        wide[..., 2:-3] = x
        return wide[..., 2:-3]
    if layout == "expanded" and x.shape[0]:
        return x[:1].expand(x.shape)
    return x


def as_kind(x: Any, kind: str) -> Any:
    """A tensor as the given kind, sharing its memory and strides; everything else passes through."""
    if kind == "torch" or not isinstance(x, torch.Tensor):
        return x
    if x.dtype == torch.bfloat16:
        return x.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return x.numpy()


def as_numpy(x: Any) -> np.ndarray:
    """Any result as an array of its own dtype; bfloat16 by its bits."""
    if isinstance(x, torch.Tensor):
        return (x.view(torch.uint16) if x.dtype == torch.bfloat16 else x).numpy()
    return x.view(np.uint16) if x.dtype == ml_dtypes.bfloat16 else x


def as_float64(x: Any) -> np.ndarray:
    """Any result by its values."""
    return x.double().numpy() if isinstance(x, torch.Tensor) else x.astype(np.float64)


def fields_of(result: Any) -> dict[str, Any]:
    """What an unembedding operation returned, by name, without what was not asked for; ranks are counted."""
    if isinstance(result, farspan.Sample):
        names = (*(field.name for field in dataclasses.fields(result) if field.name[0] != "_"), "rank")
        found = {name: getattr(result, name) for name in names}
    else:
        found = result._asdict()
    return {name: value for name, value in found.items() if value is not None}
