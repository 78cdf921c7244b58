"""Run every check and sum up: what passed, how many tests ran on each backend, what was skipped and why.

    python tools/checks.py lint test

Each step's own output is shown as it comes. All steps run, so that one call shows all there is to mend;
the exit code is 1 if one failed.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
ACCEPTANCE = ROOT.parent / "shared" / "acceptance"  # beside the repository where there is one
REAL_MODEL = "smollm2"
"""Files of tests that name it load hundreds of megabytes, and run in a process of their own: a process reports the
largest memory of the one that started it as its own, and other tests measure processes that they start."""

SIDE_BY_SIDE = ("--numprocesses=auto", "--dist=loadfile")
"""One process for each core; the tests of a file share what they set up. The acceptance suite does without: it measures
the memory of processes."""

BACKENDS = ("portable", "avx2", "avx512", "emulated", "cuda", "reference")
OTHER = "any"
BACKEND_IN_NAME = re.compile(r"(?<![a-z0-9])(" + "|".join(BACKENDS) + r")(?![a-z0-9])")
CARGO_TEST = re.compile(r"^test (?P<name>.+?) \.\.\. (?P<result>ok|FAILED|ignored)(?:, (?P<reason>.*))?$")


@dataclass(frozen=True)
class Outcome:
    """One test's result: `passed`, `failed` or `skipped`, the last with its reason."""

    name: str
    result: str
    reason: str = ""

    @property
    def backend(self) -> str:
        """The backend that the test's own name is about; most tests use whichever the machine's CPU selects."""
        found = BACKEND_IN_NAME.search(self.name.partition("[")[2]) or BACKEND_IN_NAME.search(self.name)
        return found.group(1) if found else OTHER


@dataclass
class Step:
    """One command, and how its tests are counted: `cargo` by its output, `pytest` by its report, else not at all."""

    name: str
    command: list[str]
    counted_by: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    ok: bool = False
    seconds: float = 0.0
    outcomes: list[Outcome] = field(default_factory=list)

    def run(self) -> None:
        print(f"\n== {self.name}: {' '.join(self.command)}", flush=True)
        started = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "junit.xml"
            command = [*self.command, f"--junitxml={report}"] if self.counted_by == "pytest" else self.command
            status, lines = run_showing(command, self.environment)
            if self.counted_by == "cargo":
                self.outcomes = cargo_outcomes(lines)
            elif self.counted_by == "pytest" and report.exists():
                self.outcomes = junit_outcomes(report.read_text())
        self.seconds = time.monotonic() - started
        self.ok = status == 0


def run_showing(command: list[str], environment: dict[str, str]) -> tuple[int, list[str]]:
    """Run a command in the repository's root, show its output as it comes, and return its status and lines."""
    lines: list[str] = []
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, **options) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.rstrip("\n"))
    return process.returncode, lines


def cargo_outcomes(lines: list[str]) -> list[Outcome]:
    results = {"ok": "passed", "FAILED": "failed", "ignored": "skipped"}
    matches = filter(None, map(CARGO_TEST.match, lines))
    return [Outcome(m["name"], results[m["result"]], m["reason"] or "") for m in matches]


def junit_outcomes(report: str) -> list[Outcome]:
    outcomes = []
    for case in ElementTree.fromstring(report).iter("testcase"):
        name = f"{case.get('classname')}::{case.get('name')}"
        skipped = case.find("skipped")
        if skipped is not None:
            outcomes.append(Outcome(name, "skipped", skipped.get("message", "")))
        elif case.find("failure") is not None or case.find("error") is not None:
            outcomes.append(Outcome(name, "failed"))
        else:
            outcomes.append(Outcome(name, "passed"))
    return outcomes


def lint_steps() -> list[Step]:
    python = sys.executable
    return [
        Step("rustfmt", ["cargo", "fmt", "--all", "--check"]),
        Step("clippy", ["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]),
        Step("ruff", [python, "-m", "ruff", "check", "."]),
        Step("mypy", [python, "-m", "mypy", "python/farspan"]),
        Step("tree", [python, "tools/tree_check.py"]),
        Step("figures", [python, "tools/readme_table.py", "--check"]),
    ]


def compiler() -> dict[str, str]:
    """Where NVRTC is, for the test that compiles every CUDA kernel; it comes with torch."""
    from farspan._backend.nvrtc import find_nvrtc

    found = find_nvrtc()
    if found.path is None:
        raise SystemExit(f"checks: no NVRTC in {', '.join(found.searched)}: pip install nvidia-cuda-nvrtc")
    return {"FARSPAN_NVRTC": found.path}


def test_steps() -> list[Step]:
    pytest = [sys.executable, "-m", "pytest", "-q"]
    steps = [
        Step("Rust tests", ["cargo", "test", "--no-fail-fast"], counted_by="cargo", environment=compiler()),
        Step("Python tests", [*pytest, *SIDE_BY_SIDE, "tests"], counted_by="pytest"),
    ]
    if ACCEPTANCE.is_dir():
        command = [*pytest, "-p", "no:cacheprovider"]
        large = [file for file in sorted(ACCEPTANCE.rglob("test_*.py")) if REAL_MODEL in file.read_text()]
        large_paths = [os.path.relpath(file, ROOT) for file in large]
        suite = [os.path.relpath(ACCEPTANCE, ROOT), *(f"--ignore={path}" for path in large_paths)]
        steps.append(Step("acceptance suite", [*command, *suite], counted_by="pytest"))
        if large:
            steps.append(Step("acceptance suite, real models", [*command, *large_paths], counted_by="pytest"))
    return steps


def summary(steps: list[Step]) -> str:
    lines = ["", "== summary"]
    for step in steps:
        counts = Counter(outcome.result for outcome in step.outcomes)
        tests = ", ".join(f"{counts[result]} {result}" for result in ("passed", "failed", "skipped") if counts[result])
        lines.append(f"  {'ok    ' if step.ok else 'FAILED'}  {step.name:<17} {step.seconds:7.1f} s  {tests}".rstrip())
    outcomes = [outcome for step in steps for outcome in step.outcomes]
    if outcomes:
        lines += ["", "Tests by the backend they name:", *backend_table(outcomes)]
        lines += ["", "Skipped, and why:", *skipped_lines(outcomes)]
    return "\n".join(lines)


def backend_table(outcomes: list[Outcome]) -> list[str]:
    counts = Counter((outcome.backend, outcome.result) for outcome in outcomes)
    rows = [f"  {'backend':<10} {'passed':>7} {'failed':>7} {'skipped':>8}"]
    for backend in (*BACKENDS, OTHER):
        passed, failed, skipped = (counts[backend, result] for result in ("passed", "failed", "skipped"))
        rows.append(f"  {backend:<10} {passed:>7} {failed:>7} {skipped:>8}")
    return rows


def skipped_lines(outcomes: list[Outcome]) -> list[str]:
    reasons = Counter(outcome.reason or "no reason given" for outcome in outcomes if outcome.result == "skipped")
    return [f"  {count:>4} x {reason}" for reason, count in reasons.most_common()] or ["  nothing"]


def main() -> int:
    groups = {"lint": lint_steps, "test": test_steps}
    chosen = sys.argv[1:]
    if not chosen or not set(chosen) <= set(groups):
        print(f"usage: python tools/checks.py {{{','.join(groups)}}} ...", file=sys.stderr)
        return 2
    steps = [step for name in chosen for step in groups[name]()]
    for step in steps:
        step.run()
    print(summary(steps), flush=True)
    return 0 if all(step.ok for step in steps) else 1


if __name__ == "__main__":
    sys.exit(main())
