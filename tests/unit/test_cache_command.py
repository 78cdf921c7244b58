"""`farspan cache`: what it prints, and that it needs no GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farspan import BackendError, _core
from farspan._backend.compiler import cuda_status
from farspan._backend.nvrtc import find_nvrtc
from farspan.commands import cache


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("FARSPAN_CACHE_DIR", str(tmp_path))
    return tmp_path


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out


def test_info_and_clear(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / ("0" * 64 + ".cubin")).write_bytes(b"x" * 1000)
    (folder / "mine.txt").write_text("mine")
    cache.print_info(as_json=True)
    known = json.loads(printed(capsys))
    assert (known["folder"], known["kernels"], known["bytes"]) == (str(folder), 1, 1000)
    cache.print_info(as_json=False)
    assert str(folder) in printed(capsys)
    cache.clear(as_json=True)
    assert json.loads(printed(capsys)) == {"removed": 1}
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    cache.clear(as_json=False)
    assert printed(capsys) == "0 kernels removed\n"


def test_a_machine_without_nvrtc(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARSPAN_NVRTC", "/nowhere/libnvrtc.so.13")
    assert cuda_status()["nvrtc"] is None
    reason, *_ = _core.cuda_status(None, "here, there")
    assert reason is not None
    if cuda_status()["driver"] is not None:
        assert "/nowhere" in str(cuda_status()["reason"])


def test_warm_without_a_gpu_asks_for_architectures(folder: Path) -> None:
    if cuda_status()["devices"]:
        pytest.skip("this machine has a GPU")
    with pytest.raises(BackendError, match=r"architectures: expected .* such as 90"):
        cache.warm([], as_json=True)


def test_status_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    status = cuda_status()
    if status["devices"]:
        pytest.skip("this machine has a GPU")
    assert status["reason"] is not None
    assert "NVIDIA driver" in status["reason"] or "device" in status["reason"]
    found = find_nvrtc()
    assert (status["nvrtc"] is None) == (found.path is None)
