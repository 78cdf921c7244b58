"""The first minutes on a GPU: is what the emulator says true of the hardware?

    python benches/gpu/first.py --out FILE

Needs the wheel, torch for CUDA, pytest and hypothesis, and the repository's files; no Rust and no network. It ends
after eight minutes. FILE gets a JSON line for each result as it comes, so a run that is cut off leaves what it had.
The order is by what would change a decision: a broken kernel ends the run. Exit code 0: all passed; 1: something did
not, and the last lines say what to run next; 2: there is no GPU that farspan can use.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from steps import Done, Record, Step, run_steps

ROOT = Path(__file__).resolve().parents[2]
TOTAL_S = 480.0
PYTEST = (sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", "--no-header")
BLOCKING = {"CUDA_LAUNCH_BLOCKING": "1"}
"""A launch returns when its kernel has run, so its error names it. No graph can be captured so."""


def plan() -> list[Step]:
    """The steps in their order; their limits add up to the whole time."""
    farspan = (sys.executable, "-m", "farspan")
    quick = {"HYPOTHESIS_PROFILE": "gpu"}

    def tests(name: str, limit_s: float, environment: dict[str, str], *options: str) -> Step:
        command = [*PYTEST, str(ROOT / "tests" / "gpu" / f"test_{name}.py"), *options]
        return Step(name.replace("_", " "), command, limit_s, quick | environment)

    return [
        Step("machine", [*farspan, "info", "--json"], 15, keeps="."),
        Step("kernels", [*farspan, "cache", "warm"], 105, keeps="."),
        tests("tensor_cores", 20, BLOCKING),
        tests("guarantees", 50, BLOCKING),
        tests("suites", 60, BLOCKING),
        tests("models", 20, {}),
        tests("graphs", 40, {}),
        Step("benches", [sys.executable, str(ROOT / "benches" / "gpu" / "run.py"), "--quick", "--json"], 50, keeps="."),
        tests("sanitizer", 120, {"FARSPAN_SANITIZER_SECONDS": "110"}, "-k", "memcheck"),
    ]


def reason() -> str | None:
    """Why nothing can be done here, or None."""
    sys.path.insert(0, str(ROOT / "tests"))
    for package in ("torch", "farspan", "pytest", "hypothesis"):
        try:
            __import__(package)
        except ImportError as error:
            return f"{package} cannot be imported: {error}"
    from support.on_gpu import reason

    found: str | None = reason()
    return found


def advice(found: Sequence[Done]) -> list[str]:
    """What to run next, the most important first."""
    lines = []
    for done in found:
        if done.state == "broken":
            tests = " ".join(map(shlex.quote, done.failed)) or "tests/gpu"
            lines += [
                f"{done.kernel or 'a kernel that was not named'} is broken; what comes after it was not run",
                f"FARSPAN_CUDA_LINEINFO=1 compute-sanitizer --tool memcheck python -m pytest -x {tests}",
            ]
        elif done.state == "failed" and done.failed:
            lines.append(f"python -m pytest {' '.join(map(shlex.quote, done.failed))}")
        elif done.state == "failed":
            lines.append(f"{done.step} failed with exit code {done.exit_code}: its last lines are in the file")
        elif done.state in ("timed out", "no time"):
            lines.append(f"{done.step} {done.state}: {shlex.join(_command(done.step))}")
    return lines or [
        "all passed: python benches/gpu/run.py measures everything, python -m pytest tests/gpu checks for races too"
    ]


def _command(name: str) -> list[str]:
    return next(list(step.command) for step in plan() if step.name == name)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="results are appended to it")
    chosen = parser.parse_args(arguments)
    why = reason()
    if why is not None:
        print(f"first: nothing can be checked here: {why}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nothing of ours goes on
    record = Record(chosen.out)
    record.write(begins="first", date=datetime.datetime.now().isoformat(timespec="seconds"), folder=os.getcwd())
    found = run_steps(plan(), record, TOTAL_S)
    lines = advice(found)
    record.write(next=lines)
    print("\nnext:", *lines, sep="\n  ", flush=True)
    return 0 if all(done.state == "passed" for done in found) else 1


if __name__ == "__main__":
    sys.exit(main())
