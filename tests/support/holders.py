"""Processes that hold a part of a vocabulary each. This file is the program that each of them runs."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import torch

import farspan
from farspan import VocabularyShard, vocabulary_ranges

FIELDS = (
    "token", "logprob", "raw_logprob", "lse", "flag", "logit", "kept", "kept_mass", "entropy", "top_token",
    "top_logprob", "rank",
)  # fmt: skip


def bits(sample: farspan.Sample) -> list[Any]:
    """Every field that the sample has, to be compared bit for bit."""
    arrays = [np.asarray(x) for name in FIELDS if (x := getattr(sample, name)) is not None]
    return [(x.shape, x.dtype, x.tobytes()) for x in arrays]


def run_holders(world: int, store: str) -> None:
    """Start `world` processes that find each other through the file `store`, and wait for them."""
    command = [sys.executable, __file__]
    holders = [subprocess.Popen([*command, str(rank), str(world), store]) for rank in range(world)]
    assert [holder.wait(timeout=120) for holder in holders] == [0] * world


def draw_in_parts(rank: int, world: int, store: str) -> None:
    """One of `world` processes, which gathers with torch and checks that all of them draw what one would."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)

    def gather(part: bytes) -> list[bytes]:
        parts = [b""] * world
        torch.distributed.all_gather_object(parts, part)
        return parts

    make = torch.Generator().manual_seed(5)
    hidden, weight = torch.randn(3, 32, generator=make), torch.randn(9000, 32, generator=make)
    own = vocabulary_ranges(9000, world)[rank]
    options: dict[str, Any] = {"seed": 1, "position": 3, "stream": torch.arange(3), "top_p": 0.9}
    shard = VocabularyShard(own.start, 9000, gather)
    drawn = farspan.sample(hidden, weight[own.start : own.stop], shard=shard, **options)
    assert bits(drawn) == bits(farspan.sample(hidden, weight, **options))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    draw_in_parts(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
