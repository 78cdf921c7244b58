"""Peak memory of one training step of the embedded model's shape, batch 1, beside the same model in eager torch.

A step is the loss, the backward pass, clipping and AdamW. Each is a process of its own, which takes a short step first,
so that what is counted is what the long one adds. Only on Linux: the kernel counts the peak.

python benches/peers/peak.py 4096 8192               to look at
python benches/peers/peak.py --out FILE.json         4k, 8k, 16k and 32k tokens, for benches/results
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from machine import describe_cpu, usable_cores

LENGTHS = (4096, 8192, 16384, 32768)
SHORT = 64
PEER = "torch SDPA, cross_entropy"
MEBIBYTE = 2**20
SPARED = 0.1
"""The share of the free memory that no process may take: then it fails instead of the machine."""
TOO_LARGE = 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lengths", type=int, nargs="*", default=LENGTHS, help="tokens (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of either side (default: all cores)")
    parser.add_argument("--out", type=Path, help="where to write the results")
    parser.add_argument("--child", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    if chosen.child:
        sys.exit(child(chosen.child, *chosen.lengths, chosen.threads))
    import torch

    import farspan

    report = {
        "machine": describe_cpu(),
        "isa": None,
        "threads": chosen.threads,
        "software": {"farspan": farspan.__version__, "torch": torch.__version__, "python": platform.python_version()},
        "command": " ".join(["python benches/peers/peak.py", *sys.argv[1:]]),
        "date": datetime.date.today().isoformat(),
        "results": [],
        "peaks": [],
    }
    for length in chosen.lengths:
        other = peak("torch", length, chosen.threads)
        for side, note in (("farspan", ""), ("recompute", ", recompute")):
            ours = peak(side, length, chosen.threads)
            row = {
                "operation": "training step",
                "case": f"f32 embedded model, batch 1 x {length}{note}",
                "farspan": {"peak_mib": ours},
                "peer": {"name": PEER, "peak_mib": other},
                "ratio": other / ours if ours and other else None,
            }
            report["peaks"].append(row)
            print(f"{row['case']:<50} farspan {told(ours):>14}   {PEER} {told(other):>14}", flush=True)
    if chosen.out is not None:
        chosen.out.write_text(json.dumps(report, indent=1) + "\n")
        print(f"written: {os.path.relpath(chosen.out)}")


def told(mebibytes: float | None) -> str:
    return "does not fit" if mebibytes is None else f"{mebibytes:.0f} MiB"


def peak(side: str, length: int, threads: int) -> float | None:
    """Mebibytes that a step of this length adds to a process; None: more than the machine has to give."""
    command = [sys.executable, __file__, str(length), "--threads", str(threads), "--child", side]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode == TOO_LARGE:
        return None
    done.check_returncode()
    return int(done.stdout) / MEBIBYTE


# ------------------------------------------------------------------------------------------------------- in the child


def child(side: str, length: int, threads: int) -> int:
    """Prints the bytes that the step adds."""
    import torch

    import farspan

    torch.set_num_threads(threads)
    farspan.set_num_threads(threads)
    step = SIDES[side](length)
    step(SHORT)
    room = int((1 - SPARED) * memory("/proc/meminfo", "MemAvailable"))
    resource.setrlimit(resource.RLIMIT_AS, (memory("/proc/self/status", "VmSize") + room, resource.RLIM_INFINITY))
    Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
    before = memory("/proc/self/status", "VmHWM")
    try:
        step(length)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        return TOO_LARGE
    print(memory("/proc/self/status", "VmHWM") - before)
    return 0


def memory(file: str, name: str) -> int:
    """Bytes, by the kernel's name for them."""
    lines = dict(line.split(":", 1) for line in Path(file).read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


Step = Callable[[int], None]


def of_farspan(length: int, recompute: bool = False) -> Step:
    import farspan
    from train import step_of

    model, _ = farspan.load_embedded()
    return lambda n: step_of(list(model.parameters()), partial(model.loss, ids(n), recompute=recompute))()


def of_torch(length: int) -> Step:
    import torch
    from safetensors.torch import load_file

    from farspan.embedded import FOLDER
    from farspan.lab.eager import EagerLlama, weights_of
    from farspan.model import Config
    from train import loss_with_logits, step_of

    weights = weights_of(load_file(FOLDER / "model.safetensors"), torch.float32)
    config = Config.from_pretrained(FOLDER)
    eager = EagerLlama({name: weight.requires_grad_() for name, weight in weights.items()}, config, length)
    return lambda n: step_of(list(weights.values()), partial(loss_with_logits, eager, ids(n)))()


def ids(length: int) -> Any:
    import torch

    return torch.randint(256, (1, length), generator=torch.Generator().manual_seed(0))


SIDES: dict[str, Callable[[int], Step]] = {
    "farspan": of_farspan,
    "recompute": partial(of_farspan, recompute=True),
    "torch": of_torch,
}


if __name__ == "__main__":
    main()
