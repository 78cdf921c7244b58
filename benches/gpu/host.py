"""What a call costs the host, without a GPU: Python and Rust do all that they do for one, and the driver runs nothing.

    python benches/gpu/host.py              microseconds of each call, one thread
    python benches/gpu/host.py --profile    and the Python functions that they are spent in

The driver is the one that tests of failures use; a C compiler builds it. Tensors lie in memory of the CPU, so that
allocations are the CPU's: on a GPU torch takes a microsecond longer for each.
"""

from __future__ import annotations

import argparse
import cProfile
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import farspan
from farspan import _core, ops
from farspan._backend import settings
from farspan._backend.compiler import open_compiler
from farspan._backend.memory import GpuMemory

DRIVER = Path(__file__).resolve().parents[2] / "rust" / "cuda" / "tests" / "support" / "fake_driver.c"
FOLDER = "FARSPAN_BENCH_DRIVER"
"""Where the driver lies, told to the process that loads it."""

KERNELS = (
    "attention_prepare", "attention_rotate_bf16", "attention_bf16_d64_w1", "attention_combine_bf16_d64",
    "unembed_bf16_rows8", "unembed_target_bf16", "unembed_merge_rows",
)  # fmt: skip
"""The kernels that `calls` launches. They are compiled into the cache before there is a driver that runs nothing,
because NVRTC should not meet it."""


def with_driver() -> int:
    """This program again, in a process that finds the driver."""
    open_compiler()
    for name in KERNELS:
        _core.cuda_compile(name, 90)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "libcuda.so"
        compiler = os.environ.get("CC", "cc")
        subprocess.run([compiler, "-std=gnu11", "-O2", "-shared", "-fPIC", "-o", library, DRIVER], check=True)
        library.with_name("libcuda.so.1").symlink_to(library)
        found = {**os.environ, "LD_LIBRARY_PATH": folder, FOLDER: folder}
        return subprocess.run([sys.executable, *sys.argv], env=found, check=False).returncode


def take_for_gpu() -> None:
    """Tensors of the CPU go where those of a GPU would, behind the same checks."""
    torch._C._cuda_getCurrentRawStream = lambda ordinal: 0  # type: ignore[assignment]
    settings._on_gpu = lambda x: True
    ops._arrays = lambda large, lists: [large, lists]  # type: ignore[assignment]
    ops._on_arrays = lambda operation, dtype, first, given: ops.on_gpu(operation, *given)
    allocate = GpuMemory.allocate  # the CPU's is not as aligned, and nobody reads what is there
    GpuMemory.allocate = lambda self, size: allocate(self, size) // 256 * 256  # type: ignore[method-assign]


def calls() -> dict[str, Callable[[], Any]]:
    """A step of a model of a billion weights. `KERNELS` has to name every kernel that these calls launch."""
    heads, key_heads, dim, keys, vocab = 32, 8, 64, 1024, 4096
    query = torch.zeros(1, heads, 1, dim, dtype=torch.bfloat16)
    key, value = (torch.zeros(1, key_heads, keys, dim, dtype=torch.bfloat16) for _ in range(2))
    hidden, weight = (torch.zeros(rows, 256, dtype=torch.bfloat16) for rows in (1, vocab))
    lengths, seeds = torch.tensor([keys]), torch.tensor([7])
    rotary = farspan.Rotary(torch.ones(dim // 2))
    return {
        "attention": lambda: farspan.attention(query, key, value, causal=True),
        "attention, rotary, lengths": lambda: farspan.attention(
            query, key, value, causal=True, rotary=rotary, key_lengths=lengths
        ),
        "greedy": lambda: farspan.greedy(hidden, weight),
        "sample": lambda: farspan.sample(hidden, weight, seed=1, position=5, temperature=0.7),
        "sample, seeds of rows": lambda: farspan.sample(hidden, weight, seed=seeds, position=5, temperature=0.7),
        "score": lambda: farspan.score(hidden, weight, seeds),
    }


def microseconds(call: Callable[[], Any], rounds: int, each: int = 100) -> float:
    """CPU time of a call, the least of many rounds."""

    def once() -> float:
        start = time.process_time()
        for _ in range(each):
            call()
        return (time.process_time() - start) / each

    return 1e6 * min(once() for _ in range(rounds))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30, help="of a hundred calls, the least of which counts")
    parser.add_argument("--profile", action="store_true", help="name the functions that the time is spent in")
    chosen = parser.parse_args()
    if FOLDER not in os.environ:
        return with_driver()
    torch.set_num_threads(1)
    take_for_gpu()
    with torch.inference_mode():
        for name, call in calls().items():
            call()
            print(f"{name:<28} {microseconds(call, chosen.rounds):6.1f} us")
            if chosen.profile:
                with cProfile.Profile() as profile:
                    for _ in range(1000):
                        call()
                pstats.Stats(profile).sort_stats("tottime").print_stats(14)
    return 0


if __name__ == "__main__":
    sys.exit(main())
