"""`farspan.attention` forward and backward beside `torch.nn.functional.scaled_dot_product_attention`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F

import farspan
from attention import HEADS, NAMES, PEER, tensor
from timing import Case

GOALS = {  # (dtype, causal)
    (torch.float32, False): 1.05,
    (torch.float32, True): 1.6,
    (torch.bfloat16, False): 4.0,
    (torch.bfloat16, True): 6.0,
    (torch.float16, False): 5.0,
    (torch.float16, True): 7.0,
}
GROUPED_TIME, GROUPED_HEADS, GROUPED_KV_HEADS, GROUPED_GOAL = 2048, 32, 8, 6.0


def cases(full: bool) -> Iterator[Case]:
    for dim in (64, 128) if full else (64,):
        for time in (1024, 4096) if full else (1024,):
            for causal in (False, True):
                for dtype in NAMES:
                    yield both_ways(dtype, time, dim, causal)
    yield grouped(torch.bfloat16, 64 if not full else 128)


def both_ways(dtype: torch.dtype, time: int, dim: int, causal: bool) -> Case:
    arrays = [tensor((1, HEADS, time, dim), dtype, seed) for seed in range(3)]
    upstream = tensor((1, HEADS, time, dim), dtype, 3)
    return Case(
        operation="attention, backward too",
        case=f"{NAMES[dtype]} {HEADS} heads T {time} D {dim} {'causal' if causal else 'full'}",
        peer=PEER,
        farspan=gradients(partial(farspan.attention, causal=causal), arrays, upstream),
        other=gradients(partial(F.scaled_dot_product_attention, is_causal=causal), arrays, upstream),
        goal=GOALS[dtype, causal],
    )


def grouped(dtype: torch.dtype, dim: int) -> Case:
    """Four query heads on a key head; torch's fused backward pass wants each key head four times."""
    query = tensor((1, GROUPED_HEADS, GROUPED_TIME, dim), dtype, 0)
    key, value = (tensor((1, GROUPED_KV_HEADS, GROUPED_TIME, dim), dtype, seed) for seed in (1, 2))
    upstream = tensor(query.shape, dtype, 3)

    def expanded(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        key, value = (x.repeat_interleave(GROUPED_HEADS // GROUPED_KV_HEADS, 1) for x in (key, value))
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)

    return Case(
        operation="attention, backward too",
        case=f"{NAMES[dtype]} {GROUPED_HEADS}/{GROUPED_KV_HEADS} heads T {GROUPED_TIME} D {dim} causal",
        peer=f"{PEER}, expanded keys",
        farspan=gradients(partial(farspan.attention, causal=True), [query, key, value], upstream),
        other=gradients(expanded, [query, key, value], upstream),
        goal=GROUPED_GOAL,
    )


def gradients(
    function: Callable[..., torch.Tensor], arrays: list[torch.Tensor], upstream: torch.Tensor
) -> Callable[[], object]:
    """A call forward and backward."""
    leaves = [x.clone().requires_grad_() for x in arrays]
    return lambda: torch.autograd.grad(function(*leaves), leaves, upstream)
