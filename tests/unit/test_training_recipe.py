"""A recipe's settings, and how the learning rate moves."""

from __future__ import annotations

from typing import Any

import pytest

from farspan._errors import ArgumentError
from farspan.training import Recipe


def rates(**settings: Any) -> list[float]:
    recipe = Recipe(learning_rate=2.0, **settings)
    return [recipe.rate(step) for step in range(1, recipe.steps + 1)]


def test_the_rate_rises_and_falls_along_a_cosine() -> None:
    found = rates(steps=7, warmup=3)
    assert found == pytest.approx([2 / 3, 4 / 3, 2, 1 + 0.809017, 1 + 0.309017, 1 - 0.309017, 1 - 0.809017], abs=1e-6)


def test_the_rate_stays_and_falls_over_the_last_steps() -> None:
    assert rates(steps=10, warmup=2, schedule="plateau") == pytest.approx([1, 2, 2, 2, 2, 2, 2, 2, 2, 1])
    assert rates(steps=8, warmup=1, schedule="plateau", decay=0.5) == pytest.approx([2, 2, 2, 2, 2, 1.5, 1, 0.5])


def test_the_rate_ends_near_a_share_of_itself() -> None:
    assert rates(steps=5, warmup=1, schedule="plateau", decay=0.8, final=0.5) == pytest.approx([2, 2, 1.75, 1.5, 1.25])
    assert rates(steps=4, warmup=0, final=1.0) == pytest.approx([2, 2, 2, 2])
    long = rates(steps=1000, warmup=0, final=0.1)
    assert long[-1] == pytest.approx(0.2, abs=1e-4)
    assert min(long) > 0.2


def test_the_warmup_follows_from_the_steps() -> None:
    assert [Recipe(steps=steps).warmup_steps for steps in (5, 60, 5000)] == [0, 6, 100]
    assert Recipe(steps=5, warmup=7).warmup_steps == 7


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("steps", 0), ("steps", 2.5), ("steps", True), ("batch", -1), ("context", 0), ("learning_rate", 0.0),
        ("learning_rate", float("nan")), ("warmup", -1), ("seed", 0.5), ("seed", 2**63), ("schedule", "linear"),
        ("decay", 1.5), ("final", -0.1), ("weight_decay", -1.0), ("beta2", 1.0), ("clip", 0.0), ("accumulate", 0),
        ("recompute", 1), ("validate_every", 0), ("save_every", "often"),
    ],
)  # fmt: skip
def test_a_setting_that_cannot_be_is_named(name: str, value: Any) -> None:
    with pytest.raises(ArgumentError, match=f"^{name}: expected .* given {value!r}"):
        Recipe(**{name: value})
