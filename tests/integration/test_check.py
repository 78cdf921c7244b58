"""`farspan info --check`: it reaches every kernel, finds them right, and says so where one is not."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from support import emulated

from farspan import _core
from farspan._backend import cpu
from farspan.cli import main
from farspan.commands import check

UNUSED_ON_SMALL_DEVICES = {"attention_f32_d256_w4_hooks", "attention_statistics_f32_d256_w4_hooks"}
"""Blocks of four warps that need more shared memory than the emulated device has."""
PROBES = {"probe_bf16", "probe_f16"}
"""Of the tests alone."""


def few(device: str) -> Any:
    """Some of the comparisons."""
    yield from check._attention(device, torch.float32, 64, 1, False)
    yield from check._unembedding(device, torch.float32, 1)
    yield from check._linear(device, torch.float32)


def test_emulated_check_runs_every_kernel_and_finds_it_right() -> None:
    with emulated.emulated_kernels():
        found = check.summary(check.check("cpu"))
    assert found["wrong"] == []
    assert found["comparisons"] > 100
    launched = {name for seed in range(8) for name in emulated._of_seed(seed).launched()}
    kernels = {name for name, *_ in _core.cuda_kernels()}
    assert kernels - launched - PROBES <= UNUSED_ON_SMALL_DEVICES


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_cpu_is_checked_and_the_reason_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check, "check", few)
    assert main(["info", "--check", "--json"]) == 0
    known = json.loads(capsys.readouterr().out)["check"]
    assert known["cuda"] == check.reason()
    assert known["devices"]["cpu"]["wrong"] == []
    assert list(known["devices"]) == ["cpu"]
    assert main(["info", "--check"]) == 0
    out = capsys.readouterr().out
    assert f"{known['devices']['cpu']['comparisons']} results compared, all are right" in out
    assert f"off, and not checked: {known['cuda']}" in out


def test_a_gpu_is_checked_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    gpu = {"ordinal": 1, "architecture": 90}
    monkeypatch.setattr(check, "reason", lambda: None)
    monkeypatch.setattr(check, "cuda_status", lambda: {"devices": [gpu]})
    monkeypatch.setattr(check, "open_compiler", lambda: asked.append("compiler"))
    monkeypatch.setattr(_core, "cuda_warm", lambda architecture, threads: asked.append(architecture))
    monkeypatch.setattr(check, "check", lambda device: iter([asked.append(device) or check.Outcome("x", 0.5, 1.0)]))
    assert set(check.check_everything()["devices"]) == {"cpu", "cuda:1"}
    assert asked == ["cpu", "compiler", 90, "cuda:1"]


def test_a_wrong_result_is_named_and_fails(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    right = cpu.attention

    def wrong(*given: Any) -> Any:
        output, lse = right(*given)
        return output, np.where(lse > 0, np.float32("nan"), lse) if isinstance(lse, np.ndarray) else lse + 1

    monkeypatch.setattr(check, "check", few)
    monkeypatch.setattr(cpu, "attention", wrong)
    assert main(["info", "--check"]) == 1
    out, err = capsys.readouterr()
    assert "1 are wrong" in out
    assert err.startswith("farspan: error: check: 1 results are wrong; the first is attention float32, 64 dimensions")


def test_what_is_not_a_number_is_infinitely_wrong() -> None:
    nan = check._compared("x", torch.tensor([1.0, torch.nan]), torch.ones(2), 0.1)
    assert not nan.ok
    assert not check.Outcome("x", float("nan"), 1.0).ok
