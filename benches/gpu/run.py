"""farspan beside torch on a GPU, in one process, in turn, timed by CUDA events; writes benches/results/<gpu>.json.

python benches/gpu/run.py            every case
python benches/gpu/run.py --quick    some cases, few rounds, nothing written

`cold`: the L2 cache is overwritten before each call, as it is in a model whose other layers ran in between; `warm`: the
same call again and again. `graph_cold` and `graph_warm`: the same as a CUDA graph, which leaves out what the host needs
for a call. A bound is the least time that the bytes or the products of a case need, at the rates that torch reaches on
this GPU. The file is written anew after each case.
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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

import farspan
from cases import Case, Sides, all_cases
from farspan._backend.compiler import cuda_status
from rates import Rates, captured, measure_rates, time_many, time_once
from steps import BROKEN

RESULTS = Path(__file__).resolve().parent.parent / "results"

Row = dict[str, Any]


def run_cases(cases: Iterable[Case], measure: Callable[[Case], Row], take: Callable[[Row], None]) -> bool:
    """Each case by itself: one that fails is a row that says so. False, and no further case, where a kernel broke."""
    for case in cases:
        row: Row = {"operation": case.operation, "case": case.name}
        try:
            row |= measure(case)
        except Exception as error:
            row["error"] = f"{type(error).__name__}: {error}"
        take(row)
        if any(BROKEN.search(text) for text in errors(row)):
            return False
    return True


def errors(row: Row) -> list[str]:
    """What went wrong in a case, and on a side of it."""
    sides = row.get("sides", {}).values()
    return [text for x in (row, *sides) for text in (x.get("error"), x.get("graph_error")) if text]


def measure_sides(case: Case, sides: Sides, rates: Rates, rounds: int, flush: torch.Tensor) -> Row:
    """The medians over rounds, each side in turn. A side that fails says why."""
    found: dict[str, Row] = {}
    calls: dict[str, dict[str, Callable[[], Any]]] = {}
    for name, call in {"farspan": sides.farspan, **sides.peers}.items():
        found[name] = {}
        try:
            call()  # compiles and loads
            torch.cuda.synchronize()
            calls[name] = {"": call}
        except Exception as error:
            found[name]["error"] = f"{type(error).__name__}: {error}"
            continue
        try:
            if case.captures:
                calls[name]["graph_"] = captured(call)
        except Exception as error:
            found[name]["graph_error"] = f"{type(error).__name__}: {error}"
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for name, kinds in calls.items():
            for kind, call in kinds.items():
                times.setdefault((name, f"{kind}cold"), []).append(time_once(call, flush))
                times.setdefault((name, f"{kind}warm"), []).append(time_many(call, 10 if case.captures else 1))
    for (name, kind), values in times.items():
        found[name][kind] = sorted(values)[len(values) // 2]
    bound = rates.bound_ms(sides.read, sides.flop)
    return {"bound_ms": bound, "read_bytes": sides.read, "flop": sides.flop, "sides": found}


def line(row: Row) -> str:
    """A case for people: what the kernels need beside the bound, and what the host adds."""
    head = f"{row['operation']:<10} {row['case']:<52}"
    own = row.get("sides", {}).get("farspan", {})
    if "cold" not in own:
        return f"{head} {row.get('error') or own.get('error')}"
    kernels = own.get("graph_cold", own["cold"])
    others = ", ".join(
        f"{name} {kernels_of(side)}" for name, side in row["sides"].items() if name != "farspan"
    )  # fmt: skip
    share = f"{row['bound_ms'] / kernels:.0%} of the bound"
    return f"{head} {kernels:.3f} ms cold, {share}, plain call {own['cold']:.3f}, warm {own['warm']:.3f}; {others}"


def kernels_of(side: Row) -> str:
    time = side.get("graph_cold", side.get("cold"))
    return f"{time:.3f}" if time is not None else "failed"


def clocks() -> str:
    """What nvidia-smi says of clocks and power, where it is."""
    query = "clocks.sm,clocks.mem,power.draw,temperature.gpu"
    command = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"


def write(report: Row, out: Path) -> None:
    """The whole report or the one before, whatever happens meanwhile."""
    unfinished = out.with_name(out.name + ".unfinished")
    unfinished.write_text(json.dumps(report, indent=1) + "\n")
    unfinished.replace(out)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="some cases, few rounds, nothing written")
    parser.add_argument("--json", action="store_true", help="print each case as a line of JSON")
    parser.add_argument("--out", type=Path, help="where to write the results instead")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"skipped: torch {torch.__version__} finds no GPU")
        return 0
    status = cuda_status()
    device = status["devices"][torch.cuda.current_device()]
    rates, flush = measure_rates(), torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    report: Row = {
        "device": device,
        "rates": vars(rates),
        "driver": status["driver"],
        "nvrtc": status["nvrtc"]["version"],
        "software": {"farspan": farspan.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "command": " ".join(["python benches/gpu/run.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "clocks_before": clocks(),
        "results": [],
    }
    name = re.sub(r"[^a-z0-9]+", "-", device["name"].lower()).strip("-")
    out = chosen.out or (None if chosen.quick else RESULTS / f"{name}.json")
    print(json.dumps({"rates": vars(rates)}) if chosen.json else rates, flush=True)

    def measured(case: Case) -> Row:
        try:
            return measure_sides(case, case.build(), rates, 3 if chosen.quick else 20, flush)
        finally:
            torch.cuda.empty_cache()

    def take(row: Row) -> None:
        report["results"].append(row)
        report["clocks_after"] = clocks()
        print(json.dumps(row) if chosen.json else line(row), flush=True)
        if out is not None:
            write(report, out)

    whole = run_cases(all_cases(chosen.quick), measured, take)
    if out is not None:
        print(f"written: {os.path.relpath(out)}")
    failed = not whole or any("error" in row or "error" in row["sides"]["farspan"] for row in report["results"])
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
