"""`farspan.sample` and `farspan.greedy` beside the eager programs that build the logits."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

import farspan
from attention import NAMES, tensor
from timing import Case

VOCAB, DIM = 151_936, 896
GOALS = {  # (dtype, rows), for sampling
    (torch.bfloat16, 1): 1.5,
    (torch.bfloat16, 8): 5.0,
    (torch.bfloat16, 64): 9.0,
    (torch.float32, 1): 1.5,
    (torch.float32, 8): 4.0,
    (torch.float32, 64): 4.0,
}


def exponential_race(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """One token a row, drawn as eager programs do it without waiting for a device."""
    probabilities = torch.softmax(F.linear(hidden, weight).float(), dim=-1)
    return (probabilities / torch.empty_like(probabilities).exponential_()).argmax(dim=-1)


def argmax(hidden: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.linear(hidden, weight).argmax(dim=-1)


def cases(full: bool) -> Iterator[Case]:
    for dtype in (torch.bfloat16, torch.float32):
        weight = tensor((VOCAB, DIM), dtype, 0).mul_(DIM**-0.5)
        for rows in (1, 8, 64, 256) if full else (1, 8):
            hidden = tensor((rows, DIM), dtype, rows)
            label = f"{NAMES[dtype]} B {rows} V {VOCAB} D {DIM}"
            yield Case(
                operation="sample",
                case=label,
                peer="torch linear, softmax, exponential race",
                farspan=partial(farspan.sample, hidden, weight, seed=0, position=0, stream=torch.arange(rows)),
                other=partial(exponential_race, hidden, weight),
                goal=GOALS.get((dtype, rows)),
            )
            yield Case(
                operation="greedy",
                case=label,
                peer="torch linear, argmax",
                farspan=partial(farspan.greedy, hidden, weight),
                other=partial(argmax, hidden, weight),
            )
