"""What `farspan.linear_cross_entropy` and `divergence` mean."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from farspan.reference.unembed import logits


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Any,
    *,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    class_weight: Tensor | None = None,
    z_loss: float = 0.0,
    reduction: str = "mean",
    **rules: Any,
) -> Tensor:
    """The meaning of `farspan.linear_cross_entropy`."""
    l = logits(hidden, weight, **rules)
    targets = torch.as_tensor(targets, device=l.device).long().expand(l.shape[:-1]).reshape(-1)
    rows, counted = l.reshape(-1, l.shape[-1]), targets != ignore_index
    if class_weight is not None:
        class_weight = class_weight[: l.shape[-1]].to(l)
    loss = torch.nn.functional.cross_entropy(
        rows, targets, class_weight, ignore_index=ignore_index, reduction="none", label_smoothing=label_smoothing
    )
    share = counted.to(l) if class_weight is None else class_weight[targets.where(counted, 0)].where(counted, 0)
    if z_loss:
        loss = loss + z_loss * share * rows.logsumexp(-1).square()
    loss = loss.masked_fill(~counted, 0)
    if reduction == "none":
        return loss.reshape(l.shape[:-1])
    return loss.sum() / share.sum() if reduction == "mean" else loss.sum()


def divergence(
    hidden: Tensor,
    weight: Tensor,
    target_hidden: Tensor,
    target_weight: Tensor | None = None,
    *,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    target_bias: Tensor | None = None,
    **rules: Any,
) -> Tensor:
    """The meaning of `farspan.divergence`."""
    with torch.no_grad():
        other = weight if target_weight is None else target_weight
        target = logits(target_hidden, other, bias=bias if target_bias is None else target_bias, **rules)
        target = torch.log_softmax(target / temperature, -1)
    model = torch.log_softmax(logits(hidden, weight, bias=bias, **rules) / temperature, -1)
    possible = ~target.isneginf()
    gap = target.masked_fill(~possible, 0) - model.masked_fill(~possible, 0)
    return (target.exp() * gap).sum(-1)
