"""Losses over a vocabulary: `linear_cross_entropy` and `divergence`, and their gradients, without the logits.

Both are passes over the vocabulary. A gradient computes the logits again, a tile at a time, so neither it nor the loss
holds anything of size rows x vocabulary.
"""

from __future__ import annotations

import math
from typing import Any

from farspan._backend import arrays
from farspan._backend.losses import REDUCTIONS, CrossEntropy, Target
from farspan._backend.settings import check_large, rules_of
from farspan._compute import compute
from farspan._errors import ArgumentError, DtypeError, message

__all__ = ["divergence", "linear_cross_entropy"]


def linear_cross_entropy(
    hidden: Any,
    weight: Any,
    targets: Any,
    *,
    scale: float = 1.0,
    softcap: float | None = None,
    bias: Any = None,
    valid_vocab: int | None = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weight: Any = None,
    z_loss: float = 0.0,
    reduction: str = "mean",
) -> Any:
    """The cross-entropy of given tokens under `softmax(l)`, with the logits l of `greedy`.

        l = reference.logits(hidden, weight, scale=scale, softcap=softcap, bias=bias, valid_vocab=valid_vocab)
        loss = torch.nn.functional.cross_entropy(l, targets, weight=class_weight, ignore_index=ignore_index,
                                                 label_smoothing=label_smoothing, reduction=reduction)

    and `z_loss * w * logsumexp(l) ** 2` for each counted token inside the same reduction, where w is its target's class
    weight, 1 without.

    Args:
        hidden, weight, scale, softcap, bias, valid_vocab: as in `greedy`.
        targets: int32 or int64 ids below `valid_vocab`, or `ignore_index`: a scalar or of the leading shape of hidden.
        ignore_index: tokens with this target do not count, whatever their hidden state is.
        label_smoothing: the share of each target that goes to all tokens that exist, 0 to 1.
        class_weight: float32 `[vocab]`.
        z_loss: keeps the logsumexp near 0.
        reduction: "mean" divides by the sum of the counted targets' class weights, and is NaN where nothing counts.
            "sum" adds up, "none" gives one loss for each row, 0 where it does not count.

    Returns:
        float32, of shape `[]` or of the leading shape of hidden.
        Tensors have gradients, of hidden, weight and bias. They are float32 sums, rounded to the dtype of
        what they belong to, and have the same bits at any thread count.

    Raises:
        ArgumentError, DtypeError: as in `greedy`.
        BackendError: a tensor that no backend of this build serves.
    """
    dtype = check_large(hidden, weight)
    rules = rules_of(hidden, scale, softcap, bias, valid_vocab)
    settings = CrossEntropy(
        arrays.per_row("targets", targets, hidden, hidden.shape[:-1], integer=True, low=-(2**63), high=2**63),
        _int64("ignore_index", ignore_index),
        _within("label_smoothing", label_smoothing, 0.0, 1.0),
        arrays.small("class_weight", class_weight, hidden),
        _within("z_loss", z_loss),
        _reduction(reduction),
    )
    return compute("linear_cross_entropy", dtype, (hidden, weight), (settings, rules))[0]


def divergence(
    hidden: Any,
    weight: Any,
    target_hidden: Any,
    target_weight: Any = None,
    *,
    temperature: float = 1.0,
    scale: float = 1.0,
    softcap: float | None = None,
    bias: Any = None,
    target_bias: Any = None,
    valid_vocab: int | None = None,
) -> Any:
    """How far the model's distribution over tokens is from a target's, in nats: what distillation minimises.

        q = log_softmax(l(target_hidden, target_weight, target_bias) / temperature)
        p = log_softmax(l(hidden, weight, bias) / temperature)
        divergence = (exp(q) * (q - p)).sum(-1)

    Args:
        hidden, weight, scale, softcap, bias, valid_vocab: as in `greedy`. scale and softcap apply to both sides.
        target_hidden: `[..., dim]` of the same dtype, with the rows of hidden.
        target_weight: `[vocab, dim]`, by default `weight`. The dim of the target's side may be another one then.
        temperature: above 0, of both sides.
        target_bias: `[vocab]` float32, by default `bias`.

    Returns:
        float32, of the leading shape of hidden: never below 0, and infinite where the model bans a token that the
        target allows. Tensors have gradients, of hidden, weight and bias. The target's side carries none.

    Raises:
        ArgumentError, DtypeError: as in `greedy`.
        BackendError: a tensor that no backend of this build serves.
    """
    dtype = check_large(hidden, weight)
    rules = rules_of(hidden, scale, softcap, bias, valid_vocab)
    temperature = _within("temperature", temperature)
    if temperature <= 0:
        raise ArgumentError(message("temperature", "a number above 0", temperature))
    target_weight = weight if target_weight is None else target_weight
    arrays.large_like("target_hidden", target_hidden, "hidden", hidden)
    arrays.large_like("target_weight", target_weight, "hidden", hidden)
    arrays.rank("target_weight", target_weight, "[vocab, dim]")
    expected = [*hidden.shape[:-1], target_weight.shape[1]]
    if list(target_hidden.shape) != expected:
        raise ArgumentError(message("target_hidden", f"shape {expected}", list(target_hidden.shape)))
    target_bias = rules.bias if target_bias is None else arrays.small("target_bias", target_bias, hidden)
    if target_bias is not None and tuple(target_bias.shape) != (target_weight.shape[0],):
        name = "bias" if target_bias is rules.bias else "target_bias"
        raise ArgumentError(message(name, f"shape [{target_weight.shape[0]}], one per token", list(target_bias.shape)))
    other = tuple(_detached(x) for x in (target_hidden, target_weight))
    target = Target(_detached(target_bias), temperature)
    return compute("divergence", dtype, (hidden, weight, *other), (target, rules))[0]


def _detached(x: Any) -> Any:
    return x.detach() if arrays.is_tensor(x) else x


def _within(name: str, x: Any, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in a range."""
    value = arrays.number(name, x)
    if not (math.isfinite(value) and low <= value <= high):
        expected = "a finite number" if math.isinf(low) else f"a number from {low:g} to {high:g}"
        raise ArgumentError(message(name, expected, value))
    return value


def _int64(name: str, x: Any) -> int:
    value = arrays.index(name, x)
    if not -(2**63) <= value < 2**63:
        raise ArgumentError(message(name, "an integer of 64 bits", value))
    return value


def _reduction(reduction: Any) -> str:
    if not isinstance(reduction, str):
        raise DtypeError(message("reduction", " or ".join(REDUCTIONS), arrays.describe(reduction)))
    if reduction not in REDUCTIONS:
        raise ArgumentError(message("reduction", " or ".join(REDUCTIONS), reduction))
    return reduction


for _function in (linear_cross_entropy, divergence):
    _function.__module__ = "farspan"
