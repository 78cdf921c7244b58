"""farspan beside torch on a GPU, in one process, in turn, timed by CUDA events; writes benches/results/<gpu>.json.

python benches/gpu/run.py            every case
python benches/gpu/run.py --quick    few rounds, nothing written

`cold`: the L2 cache is overwritten before each call, as it is in a model whose other layers ran in between; `warm`: the
same call again and again. A bound is the least time that the bytes or the products of a case need on this GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch
from cases import Case, attention_cases, generate_cases, unembedding_cases

import farspan
from farspan._backend.compiler import cuda_status

RESULTS = Path(__file__).resolve().parent.parent / "results"


def time_once(call, flush: torch.Tensor | None) -> float:
    """Milliseconds of one call."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    if flush is not None:
        flush.zero_()
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


def time_many(call, calls: int) -> float:
    """Milliseconds of each of several calls back to back: what the launch costs the host is hidden."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(calls):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / calls


def measure(case: Case, rounds: int, flush: torch.Tensor) -> dict:
    """One row of the results: the median over rounds, each side in turn."""
    sides = {"farspan": case.farspan, **case.peers}
    times: dict[str, dict[str, list[float]]] = {name: {"cold": [], "warm": []} for name in sides}
    for call in sides.values():
        call()
    torch.cuda.synchronize()
    for _ in range(rounds):
        for name, call in sides.items():
            times[name]["cold"].append(time_once(call, flush))
            times[name]["warm"].append(time_many(call, 10))
    row = {"operation": case.operation, "case": case.case, "bound_ms": case.bound_ms, "tflop": case.tflop}
    for name, kinds in times.items():
        row[name] = {kind: sorted(values)[len(values) // 2] for kind, values in kinds.items()}
    return row


def line(row: dict) -> str:
    own = row["farspan"]
    rate = f"{row['tflop'] / own['warm'] * 1e3:.0f} TFLOP/s" if row["tflop"] else f"{row['bound_ms'] / own['cold']:.0%}"
    others = ", ".join(
        f"{name} {times['cold']:.3f} ({times['cold'] / own['cold']:.2f}x)"
        for name, times in row.items()
        if isinstance(times, dict) and name != "farspan"
    )
    return (
        f"{row['operation']:<10} {row['case']:<44} {own['cold']:.3f} ms cold, {own['warm']:.3f} warm, {rate}; {others}"
    )


def clocks() -> str:
    """What nvidia-smi says of clocks and power, where it is."""
    query = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds, nothing written")
    parser.add_argument("--out", type=Path, help="where to write the results instead")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"skipped: torch {torch.__version__} finds no GPU")
        return
    device = cuda_status()["devices"][torch.cuda.current_device()]
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    report = {
        "device": device,
        "driver": cuda_status()["driver"],
        "nvrtc": cuda_status()["nvrtc"]["version"],
        "software": {"farspan": farspan.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "command": " ".join(["python benches/gpu/run.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "clocks_before": clocks(),
        "results": [],
    }
    for cases in (attention_cases, unembedding_cases, generate_cases):
        for case in cases():
            row = measure(case, 3 if chosen.quick else 20, flush)
            report["results"].append(row)
            print(line(row), flush=True)
    report["clocks_after"] = clocks()
    name = re.sub(r"[^a-z0-9]+", "-", device["name"].lower()).strip("-")
    out = chosen.out or (None if chosen.quick else RESULTS / f"{name}.json")
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written: {os.path.relpath(out)}")


if __name__ == "__main__":
    main()
