"""What a figure needs beside it: the processor, what it can do, and the versions that ran."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

FLAGS = ("avx2", "fma", "f16c", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "asimd")

# Variables that hold both sides to one instruction set, so that a newer machine stands in for an older one.
# torch reads its own when it is loaded.
HELD_TO = {
    "avx2": {
        "FARSPAN_CPU": "avx2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    }
}


def describe_cpu() -> dict:
    """`cpu`: its name with family and model (names alone are shared by several); `flags`: what matters to a kernel."""
    first = cpuinfo()
    name = first.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in first:
        name += f" (family {first['cpu family']}, model {first['model']})"
    present = first.get("flags", first.get("Features", "")).split()
    return {"cpu": name, "flags": [flag for flag in FLAGS if flag in present], "cores": usable_cores()}


def cpuinfo() -> dict[str, str]:
    """The first processor's entries in /proc/cpuinfo; nothing where there is no such file."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def slug(cpu: str, isa: str | None) -> str:
    """A file name for a machine's results."""
    return re.sub(r"[^a-z0-9]+", "-", (f"{cpu} held to {isa}" if isa else cpu).lower()).strip("-")
