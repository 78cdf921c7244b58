"""How much memory a program takes, measured in a process of its own.

Run as a script, this file is that process: it makes something and says by how much it has grown since its imports.
"""

from __future__ import annotations

import gc
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

import torch

import farspan
from process_memory import STATUS, forget_peak, kernel_says, peak, resident

MIB = 2**20
SPARED = 0.1
"""The share of the free memory that no call may take: then it fails instead of the machine."""


@dataclass(frozen=True)
class Memory:
    """What is made: `maker` of the suite `suite`, called with `arguments`, gives parameters and what else it made.

    Before that the same function makes it once of `warm`, so that imports do not count. `goal` is the most that the
    growth may be, as a share of the weights. With `peak` the maker gives parameters and a call, and what is measured is
    the most that the call needs beside what was there before it, or that the machine has not so much.
    """

    operation: str
    case: str
    suite: str
    maker: str
    arguments: tuple[str | int, ...]
    warm: tuple[str | int, ...]
    goal: float | None = None
    peak: bool = False


def weigh(memory: Memory) -> dict:
    """One row of a results file."""
    given = (memory.arguments, memory.warm, memory.peak, torch.get_num_threads())
    call = [memory.suite, memory.maker, *map(json.dumps, given)]
    told = subprocess.run([sys.executable, __file__, *call], stdout=subprocess.PIPE, text=True, check=True).stdout
    found = json.loads(told.splitlines()[-1])
    grown = found["grown"]
    return {
        "operation": memory.operation,
        "case": memory.case,
        "weights_mib": found["weights"] / MIB,
        "grown_mib": None if grown is None else grown / MIB,
        "imports_mib": found["before"] / MIB,
        "ratio": None if grown is None else grown / found["weights"],
        "goal": memory.goal,
    }


def peak_of(call: Callable[[], object]) -> int | None:
    """The bytes that a call adds at its peak; None: more than the machine has to give."""
    room = int((1 - SPARED) * kernel_says("/proc/meminfo", "MemAvailable"))
    resource.setrlimit(resource.RLIMIT_AS, (kernel_says(STATUS, "VmSize") + room, resource.RLIM_INFINITY))
    forget_peak()
    before = peak()
    try:
        call()
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return None
    return peak() - before


def main(suite: str, maker: str, arguments: str, warm: str, of_call: str, threads: str) -> None:
    torch.set_num_threads(json.loads(threads))
    farspan.set_num_threads(json.loads(threads))
    make = getattr(import_module(suite), maker)
    made = make(*json.loads(warm))
    if json.loads(of_call):
        made[1]()
    del made
    gc.collect()
    before = resident()
    made = make(*json.loads(arguments))
    gc.collect()
    grown = peak_of(made[1]) if json.loads(of_call) else resident() - before
    weights = sum(weight.numel() * weight.element_size() for weight in made[0])
    print(json.dumps({"weights": weights, "before": before, "grown": grown}))


if __name__ == "__main__":
    main(*sys.argv[1:])
