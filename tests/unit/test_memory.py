"""Peak memory: nothing grows with T x T or rows x vocabulary. Each measurement is a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest
from support.peak import PEAK, needs_peak

PROGRAM = """
import numpy as np
import farspan
{peak}
def ones(*shape):
    return np.ones(shape, np.float32)

farspan.set_num_threads(2)
{small}
{inputs}
before = peak()
{large}
print(peak() - before)
"""
MEBIBYTE = 2**20
OUTPUT = 32 * MEBIBYTE
"""More than any result below, threads' stacks and 1.5 MiB of scratch a thread; far less than what must not exist."""

CASES = {
    # 32768 x 32768 scores would take 4 GiB, a mask of bytes 1 GiB
    "prefill": (
        "farspan.attention(ones(1, 1, 64, 16), ones(1, 1, 64, 16), ones(1, 1, 64, 16), causal=True)",
        "x = ones(1, 1, 32768, 16)",
        "farspan.attention(x, x, x, causal=True, rotary=farspan.Rotary(ones(8)), return_lse=True)",
    ),
    # scores of 64 heads over a million keys would take 256 MiB
    "decode": (
        "farspan.attention(ones(1, 64, 1, 8), ones(1, 1, 64, 8), ones(1, 1, 64, 8))",
        "q, x = ones(1, 64, 1, 8), ones(1, 1, 1 << 20, 8)",
        "farspan.attention(q, x, x)",
    ),
    # logits of 256 rows over 200000 tokens would take 195 MiB
    "sample": (
        "farspan.sample(ones(2, 8), ones(64, 8), seed=0, position=0)",
        "x, w = ones(256, 8), ones(200_000, 8)",
        "farspan.sample(x, w, seed=0, position=0, temperature=0.7)",
    ),
    "score": (
        "farspan.score(ones(2, 8), ones(64, 8), 0)",
        "x, w = ones(256, 8), ones(200_000, 8)",
        "farspan.score(x, w, 7)",
    ),
    "top": (
        "farspan.top(ones(2, 8), ones(64, 8), 2)",
        "x, w = ones(256, 8), ones(200_000, 8)",
        "farspan.top(x, w, 20)",
    ),
}


TRAINING = """
import torch
def tensor(*shape):
    return torch.ones(*shape, requires_grad=True)
"""
# The gradients take 7 MiB, slopes and weights 8 MiB; logits of 512 rows over 200000 tokens would take 390 MiB.
CASES |= {
    "linear_cross_entropy": (
        TRAINING + "farspan.linear_cross_entropy(tensor(2, 8), tensor(64, 8), torch.zeros(2).long()).backward()",
        "x, w, t = tensor(512, 8), tensor(200_000, 8), torch.zeros(512).long()",
        "farspan.linear_cross_entropy(x, w, t, label_smoothing=0.1, z_loss=1e-4).backward()",
    ),
    "gradient of score": (
        TRAINING + "farspan.score(tensor(2, 8), tensor(64, 8), 0).entropy.sum().backward()",
        "x, w = tensor(512, 8), tensor(200_000, 8)",
        "farspan.score(x, w, 7).entropy.sum().backward()",
    ),
    "divergence": (
        TRAINING + "farspan.divergence(tensor(2, 8), tensor(64, 8), torch.ones(2, 8)).sum().backward()",
        "x, w, y = tensor(512, 8), tensor(200_000, 8), torch.ones(512, 8)",
        "farspan.divergence(x, w, y).sum().backward()",
    ),
}


@needs_peak
@pytest.mark.parametrize("name", CASES)
def test_peak_memory(name: str) -> None:
    small, inputs, large = CASES[name]
    program = PROGRAM.format(peak=PEAK, small=small, inputs=inputs, large=large)
    grown = int(subprocess.check_output([sys.executable, "-c", program], text=True))
    assert grown < OUTPUT, f"{name} took {grown / MEBIBYTE:.0f} MiB beside its inputs"
