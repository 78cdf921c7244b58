"""Gradients of attention cases: by `farspan.attention`, and by its definition under autograd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import farspan
from farspan import reference
from farspan.testing import EXPONENT, allowed_error, assert_close
from support.arrays import as_float64
from support.attention_cases import Case, largest_score

LARGE = ("query", "key", "value")
SMALL = ("sink", "key_bias", "query_scale")


def leaves(case: Case) -> dict[str, Tensor]:
    """The tensors of a case that have a gradient, by name."""
    found = dict(zip(LARGE, case.arrays, strict=True)) | {n: case.hooks[n] for n in SMALL if n in case.hooks}
    if "distance_bias" in case.hooks:
        found["table"] = case.hooks["distance_bias"]["table"]
    return found


def upstream(case: Case, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Random gradients of output and LSE."""
    make = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        output, lse = case.call(return_lse=True)
    return torch.randn(output.shape, generator=make).to(output.dtype), torch.randn(lse.shape, generator=make)


def gradients(case: Case, above: tuple[Tensor | None, Tensor | None], only: str | None = None) -> dict[str, Tensor]:
    """Those that `farspan.attention` gives."""
    return _ask(farspan.attention, case, above, lambda x: x, only)


def defined(case: Case, above: tuple[Tensor | None, Tensor | None], dtype: torch.dtype) -> dict[str, Tensor]:
    """Those of the definition, every step in this dtype."""
    widen = dtype == torch.float64
    return _ask(reference.attention, case, above, lambda x: x.to(dtype) if widen or x.dtype != torch.float32 else x)


def _ask(
    function: Callable[..., Any],
    case: Case,
    above: tuple[Tensor | None, Tensor | None],
    change: Callable[[Tensor], Tensor],
    only: str | None = None,
) -> dict[str, Tensor]:
    given = {n: change(x.detach()).detach().requires_grad_(only in (None, n)) for n, x in leaves(case).items()}
    hooks = dict(case.hooks) | {name: given[name] for name in SMALL if name in given}
    if "rotary" in hooks:
        hooks["rotary"] = farspan.Rotary(**hooks["rotary"])
    if "table" in given:
        hooks["distance_bias"] = farspan.DistanceBias(given["table"], minimum=hooks["distance_bias"]["minimum"])
    results = function(*(given[name] for name in LARGE), **hooks, return_lse=True)
    pairs = [(x, up.to(x.dtype)) for x, up in zip(results, above, strict=True) if up is not None and x.requires_grad]
    asking = [x for x in given.values() if x.requires_grad]
    found = torch.autograd.grad([x for x, _ in pairs], asking, [up for _, up in pairs], allow_unused=True)
    names = [name for name, x in given.items() if x.requires_grad]
    return {name: torch.zeros_like(given[name]) if x is None else x for name, x in zip(names, found, strict=True)}


def check(case: Case, above: tuple[Tensor | None, Tensor | None], found: dict[str, Tensor], roundings: int = 1) -> None:
    """Every gradient as close to the definition's as the tolerance table says, for so many roundings of large ones."""
    truth, eager = defined(case, above, torch.float64), defined(case, above, case.arrays[0].dtype)
    name = str(case.arrays[0].dtype).removeprefix("torch.")
    bounds, score = _bounds(case, above), largest_score(case)
    for leaf, gradient in found.items():
        exact = truth[leaf]
        assert gradient.dtype == leaves(case)[leaf].dtype
        largest = float(exact.nan_to_num().abs().amax()) if exact.numel() else 0.0
        rounding = name if leaf in LARGE else "logit"
        allowed = allowed_error(exact, eager[leaf].double(), rounding=rounding, magnitude=roundings * largest)
        allowed += bounds[leaf] * EXPONENT * (1.0 + score)
        assert_close(as_float64(gradient), exact, allowed, f"gradient of {leaf}")


def _bounds(case: Case, above: tuple[Tensor | None, Tensor | None]) -> dict[str, float]:
    """How large the terms of each gradient can be, before they cancel."""

    def length(x: Tensor | None) -> float:
        return float(x.double().nan_to_num().norm(dim=-1).amax()) if x is not None and x.numel() else 0.0

    query, key, value = map(length, case.arrays)
    output, lse = above
    scores = length(output) * value * 2 + (0.0 if lse is None else float(lse.abs().amax() if lse.numel() else 0.0))
    scale = abs(case.hooks.get("scale", case.arrays[0].shape[-1] ** -0.5))
    magnitude = case.hooks.get("rotary", {}).get("magnitude", 1.0)
    stretch = case.hooks.get("query_scale", torch.ones(1))
    factor = scale * magnitude * (float(stretch.abs().amax()) if stretch.numel() else 1.0)
    rows = case.arrays[0].numel() / case.arrays[0].shape[-1]
    return {
        "query": scores * factor * key, "key": rows * scores * factor * query, "value": rows * length(output),
        "query_scale": rows * scores * scale * magnitude**2 * query * key, "sink": rows * scores,
        "key_bias": rows * scores, "table": rows * scores,
    }  # fmt: skip
