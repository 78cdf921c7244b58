"""The comparison that the property tests rest on: it must fail when it should."""

from __future__ import annotations

import numpy as np
import pytest

from farspan.testing import FACTOR, ROUNDING, allowed_error, assert_close, assert_same_bits


def test_the_bound_grows_with_the_eager_error_and_the_magnitude() -> None:
    truth, eager = np.array([1.0, 2.0, np.inf]), np.array([1.0, 2.25, np.inf])
    floor = allowed_error(truth, truth, rounding="bfloat16")
    assert floor == pytest.approx(ROUNDING["bfloat16"], rel=1e-3)
    assert allowed_error(truth, eager, rounding="bfloat16") == pytest.approx(FACTOR * 0.25 + floor)
    assert allowed_error(truth, truth, rounding="bfloat16", magnitude=10.0) == pytest.approx(10 * floor)
    assert allowed_error(truth, truth, rounding="float32", largest_score=1e6) > 0.2


@pytest.mark.parametrize(
    ("result", "truth"),
    [([1.0, 2.2], [1.0, 2.0]), ([np.nan], [1.0]), ([1.0], [np.nan]), ([np.inf], [-np.inf]), ([1.0], [[1.0]])],
)
def test_what_is_off_is_refused(result: list, truth: list) -> None:
    with pytest.raises(AssertionError, match="what"):
        assert_close(np.array(result), np.array(truth), 0.1, "what")


def test_what_is_close_passes() -> None:
    assert_close(np.array([1.0, np.nan, -np.inf, 5.05]), np.array([1.0, np.nan, -np.inf, 5.0]), 0.1, "what")
    assert_close(np.zeros((0, 3)), np.zeros((0, 3)), 0.0, "nothing")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (np.float32([0.0]), np.float32([-0.0])),
        (np.float32([1.0]), np.float64([1.0])),
        (np.float32([1.0]), np.nextafter(np.float32([1.0]), np.float32(2))),
        (np.int32([1, 2]), np.int32([1])),
    ],
)
def test_other_bits_are_refused(first: np.ndarray, second: np.ndarray) -> None:
    assert_same_bits(first, first.copy(), "itself")
    with pytest.raises(AssertionError, match="what"):
        assert_same_bits(first, second, "what")
