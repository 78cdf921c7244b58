"""farspan beside torch: the same shapes in one process, in turn; writes benches/results/<cpu>.json.

python benches/peers/run.py --quick              a minute or so, to look at
python benches/peers/run.py --full               what benches/results holds
python benches/peers/run.py --full --isa avx2    both sides held to AVX2 on a newer machine
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from importlib import import_module
from pathlib import Path

from machine import HELD_TO, describe_cpu, slug, usable_cores
from memory import Memory, weigh
from timing import Effort, measure

RESULTS = Path(__file__).resolve().parent.parent / "results"
SUITES = (
    "attention",
    "linear",
    "backward",
    "unembed",
    "loss",
    "settings",
    "generate",
    "train",
    "small",
    "peak",
    "lens",
    "real",
    "llama",
)
QUICK, FULL = Effort(rounds=3, block_seconds=0.1), Effort(rounds=5, block_seconds=0.4)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    effort = parser.add_mutually_exclusive_group(required=True)
    what = "few cases, short rounds, nothing written unless --out says where"
    effort.add_argument("--quick", action="store_true", help=what)
    effort.add_argument("--full", action="store_true", help="every case")
    parser.add_argument("--suite", choices=SUITES, action="append", help="only this one (may be given again)")
    parser.add_argument("--isa", choices=sorted(HELD_TO), help="hold both sides to this instruction set")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of either side (default: all cores)")
    parser.add_argument("--out", type=Path, help="where to write the results instead")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    os.environ.update(HELD_TO.get(chosen.isa, {}))  # before torch is loaded: it reads them once
    import torch

    import farspan

    torch.set_num_threads(chosen.threads)
    farspan.set_num_threads(chosen.threads)
    machine = describe_cpu()
    report = {
        "machine": machine,
        "isa": chosen.isa,
        "threads": chosen.threads,
        "software": {"farspan": farspan.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "command": " ".join(["python benches/peers/run.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "results": [],
        "memory": [],
    }
    for suite in chosen.suite or SUITES:
        module = import_module(suite)
        if absent := getattr(module, "missing", lambda: None)():
            print(f"{suite}: left out: {absent}", flush=True)
            continue
        for case in module.cases(chosen.full):
            if isinstance(case, Memory):
                report["memory"].append(weigh(case))
                print(memory_line(report["memory"][-1]), flush=True)
                continue
            report["results"].append(measure(case, FULL if chosen.full else QUICK))
            print(line(report["results"][-1]), flush=True)
    out = chosen.out or (RESULTS / f"{slug(machine['cpu'], chosen.isa)}.json" if chosen.full else None)
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written: {os.path.relpath(out)}")


def line(row: dict) -> str:
    goal = f" (goal on AVX2 {row['goal_on_avx2']:.2f}x)" if row["goal_on_avx2"] else ""
    return (
        f"{row['operation']:<20} {row['case']:<42} farspan {row['farspan']['min_ms']:9.3f} ms"
        f"   {row['peer']['name']} {row['peer']['min_ms']:9.3f} ms   {row['ratio']:.2f}x{goal}"
    )


def memory_line(row: dict) -> str:
    goal = f" (goal at most {row['goal']:.2f})" if row["goal"] else ""
    grown = "does not fit" if row["grown_mib"] is None else f"{row['grown_mib']:8.0f} MiB   {row['ratio']:.2f}{goal}"
    return f"{row['operation']:<20} {row['case']:<42} weights {row['weights_mib']:8.0f} MiB   grown by {grown}"


if __name__ == "__main__":
    main()
