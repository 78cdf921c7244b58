"""The arguments of the losses as the backends take them, beside those of `settings.py`.

As there, each class is the one list of its arguments. Where one is read from a backward pass, its fields are what a
forward pass gave, and the gradients of a result by that (`by_...`).
"""

from __future__ import annotations

from typing import NamedTuple

from farspan._backend.schema import Array
from farspan._backend.settings import Rules

REDUCTIONS = ("mean", "sum", "none")
"""What becomes of the losses of rows."""


class CrossEntropy(NamedTuple):
    """What is lost at each row, and what becomes of it."""

    targets: Array
    """int64, one for each row or one for all."""
    ignore_index: int = -100
    label_smoothing: float = 0.0
    class_weight: Array | None = None
    """float32 `[vocab]`"""
    z_loss: float = 0.0
    reduction: str = "mean"


class Target(NamedTuple):
    """What a divergence is from, beside target_hidden and target_weight."""

    target_bias: Array | None = None
    temperature: float = 1.0

    def rules(self, rules: Rules) -> Rules:
        """How products of the target's side become logits, beside the rules of the other side."""
        return rules._replace(bias=self.target_bias)


class Asked(NamedTuple):
    """Which gradients are asked for."""

    of_hidden: bool = True
    of_weight: bool = True
    of_bias: bool = True


class CrossEntropyRead(NamedTuple):
    """What the gradients of `linear_cross_entropy` follow from. The lse is `max + log_sum`: where logits are large, one
    float32 would lose what probabilities are made of."""

    max: Array
    log_sum: Array
    by_loss: Array


class ScoreRead(NamedTuple):
    """What the gradients of `score` follow from."""

    entropy: Array
    lse: Array
    top_token: Array
    by_logprob: Array
    by_entropy: Array
    by_lse: Array
    by_top_logprob: Array


class DivergenceRead(NamedTuple):
    """What the gradients of `divergence` follow from."""

    max: Array
    log_sum: Array
    target_max: Array
    target_log_sum: Array
    by_divergence: Array
