"""Two programs timed side by side in one process: rounds in turn, each round a run of calls back to back."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

LONGEST_BLOCK = 200  # calls


@dataclass(frozen=True)
class Case:
    """What is timed: farspan's call and the other's, on the same data.

    `calls` says how many operations one call performs (tokens, say), so that times are given for one; `goal` is the
    ratio this case has to reach on an AVX2 machine, where one is set. `rounds`: at most so many, for calls of minutes.
    """

    operation: str
    case: str
    peer: str
    farspan: Callable[[], object]
    other: Callable[[], object]
    calls: int = 1
    goal: float | None = None
    rounds: int | None = None


@dataclass(frozen=True)
class Effort:
    """How long to measure: rounds, and the least time a block of calls lasts."""

    rounds: int
    block_seconds: float


def block(call: Callable[[], object], seconds: float) -> list[float]:
    """Seconds of each call in a run of calls. The first does not count: the other side's threads may still spin."""
    call()
    times: list[float] = []
    while sum(times) < seconds and len(times) < LONGEST_BLOCK:
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return times


def measure(case: Case, effort: Effort) -> dict:
    """One row of a results file. `ratio` is the other's least time over farspan's: above 1, farspan is faster."""
    farspan: list[float] = []
    other: list[float] = []
    for _ in range(min(effort.rounds, case.rounds or effort.rounds)):
        farspan += block(case.farspan, effort.block_seconds)
        other += block(case.other, effort.block_seconds)
    return {
        "operation": case.operation,
        "case": case.case,
        "farspan": milliseconds(farspan, case.calls),
        "peer": {"name": case.peer, **milliseconds(other, case.calls)},
        "ratio": min(other) / min(farspan),
        "ratio_of_medians": statistics.median(other) / statistics.median(farspan),
        "goal_on_avx2": case.goal,
    }


def milliseconds(times: list[float], calls: int) -> dict[str, float]:
    return {
        "min_ms": 1e3 * min(times) / calls,
        "median_ms": 1e3 * statistics.median(times) / calls,
        "timed_calls": len(times),
    }
