"""How exact a backend must be: the one tolerance table, and the comparison that uses it.

A result may be off from the float64 definition by a small multiple of the error that the plain eager program makes in
the same dtype on the same data, because that program is what one would otherwise run; and by a floor, because on tiny
inputs the plain program can be right by luck:

    |result - truth| <= FACTOR * max|eager - truth| + magnitude * (ROUNDING[dtype] + EXPONENT * (1 + largest score))
"""

from __future__ import annotations

from typing import Any

import numpy as np

FACTOR = 3.0
"""How many times the eager program's own error."""

ROUNDING = {"float32": 2.0**-22, "bfloat16": 2.0**-8, "float16": 2.0**-11, "logit": 2.0**-20}
"""The floor, relative to the largest magnitude that enters the result: one rounding of the result's dtype, or, for
float32 numbers made of many terms (`logit`: logits, LSE, log-probabilities), a few of float32."""

EXPONENT = 2.0**-22
"""Scores are float32, and a score's rounding error enters the exponent: relative to one plus the largest score."""


def allowed_error(
    truth: Any, eager: Any, *, rounding: str, magnitude: float = 1.0, largest_score: float = 0.0
) -> float:
    """The bound above, for one array of results."""
    truth, eager = np.asarray(truth, np.float64), np.asarray(eager, np.float64)
    both = np.isfinite(truth) & np.isfinite(eager)
    off = np.abs(truth[both] - eager[both]).max(initial=0.0)
    return float(FACTOR * off + magnitude * (ROUNDING[rounding] + EXPONENT * (1.0 + largest_score)))


def assert_close(result: Any, truth: Any, allowed: float, what: str) -> None:
    """Every element within `allowed` of the truth; infinities and NaN must be the same."""
    result, truth = np.asarray(result, np.float64), np.asarray(truth, np.float64)
    if result.shape != truth.shape:
        raise AssertionError(f"{what}: shape {result.shape}, expected {truth.shape}")
    equal = (result == truth) | (np.isnan(result) & np.isnan(truth))
    with np.errstate(invalid="ignore"):
        error = np.where(equal, 0.0, np.abs(result - truth))
    error = np.where(np.isnan(error), np.inf, error)
    if error.size and error.max() > allowed:
        worst = np.unravel_index(error.argmax(), error.shape)
        raise AssertionError(
            f"{what}: at {tuple(map(int, worst))} got {result[worst]!r}, float64 says {truth[worst]!r}; "
            f"error {error[worst]:.3g}, allowed {allowed:.3g}; {int((error > allowed).sum())} of {error.size} are off"
        )


def assert_same_bits(first: Any, second: Any, what: str) -> None:
    """Equal in every bit, signs of zero and payloads of NaN included."""
    first, second = np.ascontiguousarray(first), np.ascontiguousarray(second)
    if first.shape != second.shape or first.dtype != second.dtype:
        raise AssertionError(f"{what}: {first.dtype}{first.shape} against {second.dtype}{second.shape}")
    if first.tobytes() != second.tobytes():
        words = np.dtype(f"u{first.dtype.itemsize}")
        differing = np.argwhere(first.view(words) != second.view(words))
        raise AssertionError(
            f"{what}: {len(differing)} of {first.size} elements differ, the first at {differing[0].tolist()}"
        )
