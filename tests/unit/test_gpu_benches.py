"""`benches/gpu/run.py` without a GPU: each case fails by itself, and the file holds what was measured until then."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import cases as gpu_cases
import steps
from cases import Case, Sides, all_cases
from farspan._backend.nvrtc import find_nvrtc
from rates import Rates

SCRIPT = Path(gpu_cases.__file__).with_name("run.py")
_spec = importlib.util.spec_from_file_location("benches_gpu_run", SCRIPT)
assert _spec is not None
assert _spec.loader is not None
run = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(run)

RATES = Rates(bytes_per_second=2e12, flop_per_second=5e14)


def case(name: str, **more: Any) -> Case:
    return Case("decode", name, lambda: Sides(lambda: None), **more)


def test_each_case_fails_by_itself_and_a_broken_kernel_ends_the_run(tmp_path: Path) -> None:
    said = {"b": "no room", "d": "CUDA error: an illegal memory access was encountered"}
    out, seen = tmp_path / "gpu.json", []

    def measure(case: Case) -> dict[str, Any]:
        seen.append(json.loads(out.read_text())["results"] if out.exists() else [])
        if case.name in said:
            raise RuntimeError(said[case.name])
        return {"sides": {"farspan": {"cold": 1.0}}}

    report: dict[str, Any] = {"results": []}

    def take(row: dict[str, Any]) -> None:
        report["results"].append(row)
        run.write(report, out)

    assert run.run_cases([case("a"), case("b"), case("c")], measure, take)
    assert [len(rows) for rows in seen] == [0, 1, 2], "each is in the file before the next begins"
    assert report["results"][1] == {"operation": "decode", "case": "b", "error": "RuntimeError: no room"}
    assert not run.run_cases([case("d"), case("e")], measure, take)
    assert [row["case"] for row in report["results"]] == ["a", "b", "c", "d"]
    assert [path.name for path in tmp_path.iterdir()] == ["gpu.json"]


def test_a_side_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    def refused() -> None:
        raise RuntimeError("no kernel for this shape")

    def capture(call: Any) -> Any:
        if call is waits:
            raise RuntimeError("operation not permitted when stream is capturing")
        return lambda: made.append("replayed")

    def ours() -> None:
        made.append("called")

    def waits() -> None:
        pass

    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(run, "captured", capture)
    monkeypatch.setattr(run, "time_once", lambda call, flush: call() or 3.0)
    monkeypatch.setattr(run, "time_many", lambda call, calls: call() or 2.0)
    sides = Sides(ours, {"refused": refused, "waits": waits}, read=4e9, flop=5e11)
    row = run.measure_sides(case("a"), sides, RATES, 2, torch.empty(0))
    found = row["sides"]
    assert found["farspan"] == {"cold": 3.0, "warm": 2.0, "graph_cold": 3.0, "graph_warm": 2.0}
    assert found["refused"] == {"error": "RuntimeError: no kernel for this shape"}
    assert found["waits"]["cold"] == 3.0
    assert "graph_cold" not in found["waits"]
    assert "not permitted" in found["waits"]["graph_error"]
    assert made == ["called", *["called"] * 2, *["replayed"] * 2, *["called"] * 2, *["replayed"] * 2]
    assert row["bound_ms"] == pytest.approx(2.0), "4 GB at 2 TB/s, which is more than the products need"
    text = run.line({"operation": "decode", "case": "a", **row})
    assert "67% of the bound" in text
    assert "refused failed, waits 3.000" in text
    assert steps.BROKEN.search(" ".join(run.errors(row))) is None


def test_no_bound_is_a_constant_and_the_cases_that_models_take_are_there() -> None:
    assert RATES.bound_ms(0, 1e12) == pytest.approx(2.0)
    names = [case.name for case in all_cases(quick=False)]
    for word in ("rotary", "window", "sequences of", "pages of", "keys 32768"):
        assert any(word in name for name in names), word
        assert any(word in case.name for case in all_cases(quick=True)), f"{word}, in the short run"
    assert len(set((case.operation, case.name) for case in all_cases(quick=False))) == len(names)
    assert {case.operation for case in all_cases(quick=True)} == {case.operation for case in all_cases(quick=False)}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU, whose driver it would hide")
@pytest.mark.skipif(find_nvrtc().path is None, reason="no NVRTC here: pip install nvidia-cuda-nvrtc")
def test_the_host_is_timed_without_a_gpu() -> None:
    host = SCRIPT.with_name("host.py")
    found = subprocess.run([sys.executable, str(host), "--rounds", "1"], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert {line.rpartition("  ")[0].strip() for line in found.stdout.splitlines()} >= {"attention", "sample", "score"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_reason_is_told() -> None:
    found = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert (found.returncode, found.stdout) == (0, f"skipped: torch {torch.__version__} finds no GPU\n")
