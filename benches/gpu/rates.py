"""How fast the device at hand reads its memory and multiplies, and how long calls take there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], Any]


@dataclass(frozen=True)
class Rates:
    """What the bounds of cases are made of, measured here: data sheets name rates that nothing reaches."""

    bytes_per_second: float
    """The larger of what a sum reads, and of what a copy reads and writes."""
    flop_per_second: float
    """Of torch's bfloat16 product of large matrices."""

    def bound_ms(self, read: float, flop: float) -> float:
        """The least time for these bytes and these operations."""
        return 1e3 * max(read / self.bytes_per_second, flop / self.flop_per_second)


def measure_rates() -> Rates:
    rows = 8192
    source = torch.ones(256 << 20, dtype=torch.float32, device="cuda")
    target = torch.empty_like(source)
    left, right = (torch.randn(rows, rows, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    size = source.numel() * source.itemsize
    reading = size / best_ms(source.sum)
    copying = 2 * size / best_ms(lambda: target.copy_(source))
    multiplying = 2 * rows**3 / best_ms(lambda: left @ right)
    return Rates(1e3 * max(reading, copying), 1e3 * multiplying)


def best_ms(call: Call) -> float:
    """Milliseconds of the fastest of a few calls back to back."""
    call()
    torch.cuda.synchronize()
    return min(time_many(call, 5) for _ in range(5))


def time_once(call: Call, flush: torch.Tensor) -> float:
    """Milliseconds of one call with a cold L2 cache."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    flush.zero_()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def time_many(call: Call, calls: int) -> float:
    """Milliseconds of each of several calls back to back."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def captured(call: Call) -> Call:
    """The call as a CUDA graph, which costs the host one launch."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay
