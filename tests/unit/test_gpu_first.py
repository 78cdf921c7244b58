"""`benches/gpu/first.py` without a GPU: order, limits, what is left of a run that is cut off, and where it stops."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import first
import steps
from steps import Done, Record, Step, run_steps

GPU = Path(first.__file__).parent
RESULTS = "tests/gpu/test_a.py::test_one PASSED\ntests/gpu/test_a.py::test_two FAILED\ntests/gpu/test_b.py::t SKIPPED"


def step(name: str, code: str, limit_s: float = 20.0, **more: Any) -> Step:
    return Step(name, [sys.executable, "-c", code], limit_s, **more)


def printing(text: str, then: str = "") -> str:
    return f"print({text!r}, flush=True); {then}"


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_steps_run_in_order_and_each_result_is_a_line(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    plan = [
        step("a", printing(RESULTS, "raise SystemExit(1)")),
        step("b", printing("x 1\ny 2"), keeps="."),
        step("c", "import os; print(os.environ['SAID'] + '::t PASSED')", environment={"SAID": "so"}),
    ]
    found = run_steps(plan, Record(out), 60)
    assert [(done.step, done.state, done.exit_code) for done in found] == [
        ("a", "failed", 1), ("b", "passed", 0), ("c", "passed", 0),
    ]  # fmt: skip
    assert found[0].counts == {"passed": 1, "failed": 1, "skipped": 1}
    assert found[0].failed == ["tests/gpu/test_a.py::test_two"]
    written = entries(out)
    lines = [entry["line"] for entry in written if "line" in entry]
    assert lines == [*RESULTS.split("\n"), "x 1", "y 2", "so::t PASSED"]
    assert [entry.get("begins") for entry in written if "line" not in entry] == ["a", None, "b", None, "c", None]
    assert [entry["state"] for entry in written if "state" in entry] == ["failed", "passed", "passed"]


def test_a_step_ends_at_its_limit_with_all_that_it_started(tmp_path: Path) -> None:
    child = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print(p.pid, flush=True); p.wait()"
    began = time.monotonic()
    slow, fast = run_steps([step("slow", child, 1.0), step("fast", "")], Record(tmp_path / "out"), 60)
    assert (slow.state, fast.state) == ("timed out", "passed")
    assert time.monotonic() - began < 15
    while runs(slow.tail[0]) and time.monotonic() - began < 15:
        time.sleep(0.05)
    assert not runs(slow.tail[0])


def runs(process: str) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_no_step_begins_after_the_whole_time(tmp_path: Path) -> None:
    plan = [step("slow", "import time; time.sleep(60)", 60.0), step("late", printing("never"), keeps=".")]
    slow, late = run_steps(plan, Record(tmp_path / "out"), 1.0)
    assert (slow.state, late.state) == ("timed out", "no time")
    assert not any("line" in entry for entry in entries(tmp_path / "out"))


def names() -> list[str]:
    return [step.name for step in first.plan()]


FAULTS = {
    "farspan's own error": (
        "device: expected no failure of this or an earlier kernel of any library; the process cannot use this GPU any "
        "more, given a driver that refused to launch attention_bf16_d128_w4 (8 x 1 x 1 blocks): ILLEGAL_ADDRESS",
        "attention_bf16_d128_w4",
    ),
    "torch's error": ("RuntimeError: CUDA error: an illegal memory access was encountered", None),
    "compute-sanitizer": (
        "========= Invalid __global__ read of size 4 bytes\n=========     at unembed_bf16_rows8+0x10 in walk.cuh:9",
        "unembed_bf16_rows8",
    ),
}


@pytest.mark.parametrize(("text", "kernel"), FAULTS.values(), ids=FAULTS)
def test_a_broken_kernel_ends_the_run_and_is_named(
    text: str, kernel: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "GRACE_S", 1.0)
    hangs = printing(f"tests/gpu/test_a.py::test_one FAILED\n{text}", "import time; time.sleep(60)")
    found = run_steps([step("a", hangs), step("b", "")], Record(tmp_path / "out"), 60)
    assert [(done.step, done.state, done.kernel) for done in found] == [("a", "broken", kernel)]
    what, command = first.advice(found)
    assert (kernel or "not named") in what
    assert command.endswith("--tool memcheck python -m pytest -x tests/gpu/test_a.py::test_one")
    assert entries(tmp_path / "out")[-1]["kernel"] == kernel


def test_a_run_that_is_cut_off_leaves_what_it_had(tmp_path: Path) -> None:
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from steps import *\n"
        "hangs = [sys.executable, '-c', \"print('a::one PASSED', flush=True); import time; time.sleep(5)\"]\n"
        f"run_steps([Step('a', hangs, 60)], Record(Path({str(out)!r})), 60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], cwd=GPU)
    began = time.monotonic()
    while (not out.exists() or out.read_text().count("\n") < 2) and time.monotonic() - began < 30:
        time.sleep(0.05)
    process.kill()
    process.wait()
    assert [entry.get("line") for entry in entries(out)] == [None, "a::one PASSED"]


def test_the_plan_fits_eight_minutes_and_the_tests_four() -> None:
    plan = first.plan()
    assert names() == [
        "machine", "kernels", "tensor cores", "guarantees", "suites", "models", "graphs", "benches", "sanitizer",
    ]  # fmt: skip
    assert sum(step.limit_s for step in plan) <= first.TOTAL_S <= 480
    assert sum(step.limit_s for step in plan if "pytest" in step.command and step.name != "sanitizer") <= 240 - 50
    for one in plan:
        files = [Path(word) for word in one.command if word.endswith(".py")]
        assert all(path.is_file() for path in files), one
        blocking = "CUDA_LAUNCH_BLOCKING" in one.environment
        assert blocking == (one.name in ("tensor cores", "guarantees", "suites")), "no graph is captured under it"
    tested = {Path(word).name for one in plan for word in one.command if "test_" in word}
    assert tested == {path.name for path in (first.ROOT / "tests" / "gpu").glob("test_*.py")}


def test_what_to_run_next_follows_from_what_happened() -> None:
    assert first.advice([Done("suites", "passed")])[0].startswith("all passed: python benches/gpu/run.py")
    lines = first.advice([
        Done("suites", "failed", failed=["t.py::a[x y]"]), Done("machine", "failed", exit_code=3),
        Done("graphs", "timed out"), Done("benches", "no time"),
    ])  # fmt: skip
    assert lines[0] == "python -m pytest 't.py::a[x y]'"
    assert lines[1].startswith("machine failed with exit code 3")
    assert lines[2].startswith("graphs timed out: ")
    assert lines[2].endswith("test_graphs.py")
    assert lines[3].endswith("run.py --quick --json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_reason_is_told(tmp_path: Path) -> None:
    command = [sys.executable, str(GPU / "first.py"), "--out", str(tmp_path / "out")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("first: nothing can be checked here: torch ")
    assert "finds no GPU" in run.stderr
    assert not (tmp_path / "out").exists()
