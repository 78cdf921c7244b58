"""`farspan.attention` beside `torch.nn.functional.scaled_dot_product_attention`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
import torch.nn.functional as F

import farspan
from timing import Case

PEER = "torch SDPA"
NAMES = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}

HEADS = 8
PREFILL_GOALS = {  # (dtype, causal, time) at head dim 128
    (torch.float32, False, 1024): 1.1,
    (torch.float32, False, 4096): 1.1,
    (torch.float32, True, 1024): 1.4,
    (torch.float32, True, 4096): 1.25,
    (torch.bfloat16, False, 1024): 1.1,
    (torch.bfloat16, False, 4096): 1.1,
    (torch.bfloat16, True, 1024): 1.4,
    (torch.bfloat16, True, 4096): 1.25,
    (torch.float16, False, 1024): 1.6,
    (torch.float16, False, 4096): 1.6,
    (torch.float16, True, 1024): 2.0,
    (torch.float16, True, 4096): 2.0,
}
DECODE_KEYS, DECODE_HEADS, DECODE_KV_HEADS = 8192, 32, 8
PAGE_SIZE = 16
DECODE_GOALS = {torch.float32: 3.5, torch.bfloat16: 15.0}


def cases(full: bool) -> Iterator[Case]:
    for dim in (64, 128) if full else (128,):
        for time in (1024, 4096) if full else (1024,):
            for causal in (False, True):
                for dtype in NAMES:
                    yield prefill(dtype, time, dim, causal)
    for dtype in NAMES:
        yield decode(dtype, 128)
    for dtype in NAMES:
        yield decode_in_pages(dtype, 128)


def prefill(dtype: torch.dtype, time: int, dim: int, causal: bool) -> Case:
    query, key, value = (tensor((1, HEADS, time, dim), dtype, seed) for seed in range(3))
    return Case(
        operation="attention, prefill",
        case=f"{NAMES[dtype]} {HEADS} heads T {time} D {dim} {'causal' if causal else 'full'}",
        peer=PEER,
        farspan=partial(farspan.attention, query, key, value, causal=causal),
        other=partial(F.scaled_dot_product_attention, query, key, value, is_causal=causal),
        goal=PREFILL_GOALS.get((dtype, causal, time)) if dim == 128 else None,
    )


def decode(dtype: torch.dtype, dim: int) -> Case:
    query = tensor((1, DECODE_HEADS, 1, dim), dtype, 0)
    key, value = (tensor((1, DECODE_KV_HEADS, DECODE_KEYS, dim), dtype, seed) for seed in (1, 2))
    return Case(
        operation="attention, decode",
        case=f"{NAMES[dtype]} {DECODE_HEADS}/{DECODE_KV_HEADS} heads, {DECODE_KEYS} keys D {dim}",
        peer=PEER,
        farspan=partial(farspan.attention, query, key, value, causal=True),
        # One query that sees every key needs no mask; torch's own causal mask would align the starts, not the ends.
        other=partial(F.scaled_dot_product_attention, query, key, value, enable_gqa=True),
        goal=DECODE_GOALS.get(dtype),
    )


def decode_in_pages(dtype: torch.dtype, dim: int) -> Case:
    """Both sides are farspan: what it costs that keys lie in pages of 16, in no order."""
    query = tensor((1, DECODE_HEADS, 1, dim), dtype, 0)
    key, value = (tensor((1, DECODE_KV_HEADS, DECODE_KEYS, dim), dtype, seed) for seed in (1, 2))
    blocks = DECODE_KEYS // PAGE_SIZE
    table = torch.randperm(blocks, generator=torch.Generator().manual_seed(3))
    pages = [torch.empty_like(x[0]).view(blocks, DECODE_KV_HEADS, PAGE_SIZE, dim) for x in (key, value)]
    for page, x in zip(pages, (key, value), strict=True):
        page[table] = x[0].unflatten(1, (blocks, PAGE_SIZE)).transpose(0, 1)
    return Case(
        operation="attention, decode in pages",
        case=f"{NAMES[dtype]} {DECODE_HEADS}/{DECODE_KV_HEADS} heads, {DECODE_KEYS} keys D {dim}, pages of {PAGE_SIZE}",
        peer="farspan's decode of one array",
        farspan=partial(farspan.attention, query, *pages, causal=True, block_table=table[None]),
        other=partial(farspan.attention, query, key, value, causal=True),
        goal=None,
    )


def tensor(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
