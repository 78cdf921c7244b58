"""`farspan.linear_cross_entropy` and `divergence` with their gradients, beside programs that build the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

import farspan
from attention import NAMES, tensor
from timing import Case

VOCAB, DIM = 151_936, 896
GOALS = {torch.float32: 1.0, torch.bfloat16: 5.0}


def eager(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(F.linear(hidden, weight).float(), targets)


def of_torch(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """torch's own, which is there from 2.13 on."""
    return F.linear_cross_entropy(hidden, weight, targets)


def eager_divergence(hidden: torch.Tensor, weight: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        wanted = F.log_softmax(F.linear(target, weight).float(), dim=-1)
    return F.kl_div(F.log_softmax(F.linear(hidden, weight).float(), dim=-1), wanted, log_target=True, reduction="sum")


def step(loss: Callable[..., torch.Tensor], *given: torch.Tensor) -> None:
    """Forward and backward; gradients are made anew each time."""
    for x in given[:2]:
        x.grad = None
    loss(*given).sum().backward()


def cases(full: bool) -> Iterator[Case]:
    vocab, rows = (VOCAB, 512) if full else (VOCAB // 8, 128)
    for dtype in (torch.float32, torch.bfloat16):
        weight = tensor((vocab, DIM), dtype, 0).mul_(DIM**-0.5).requires_grad_()
        hidden = tensor((rows, DIM), dtype, 1).requires_grad_()
        targets = torch.randint(vocab, (rows,), generator=torch.Generator().manual_seed(2))
        label = f"{NAMES[dtype]} rows {rows} V {vocab} D {DIM}"
        peers = {"torch linear, cross_entropy": eager, "torch linear_cross_entropy": of_torch}
        for peer, other in peers.items():
            if other is of_torch and not hasattr(F, "linear_cross_entropy"):
                continue
            yield Case(
                operation="linear_cross_entropy, forward and backward",
                case=label,
                peer=peer,
                farspan=partial(step, farspan.linear_cross_entropy, hidden, weight, targets),
                other=partial(step, other, hidden, weight, targets),
                goal=GOALS[dtype] if full and other is eager else None,
            )
        target = tensor((rows, DIM), dtype, 3)
        yield Case(
            operation="divergence, forward and backward",
            case=label,
            peer="torch linear, log_softmax, kl_div",
            farspan=partial(step, farspan.divergence, hidden, weight, target),
            other=partial(step, eager_divergence, hidden, weight, target),
        )
