"""Where NVRTC is looked for, in which order, and what passes for it."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from farspan._backend import nvrtc
from farspan._backend.nvrtc import find_nvrtc


def library(folder: Path, name: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(b"")
    return str(folder / name)


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any NVRTC, whose packages would be in the folder that this gives."""
    for variable in ("FARSPAN_NVRTC", "CONDA_PREFIX", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(variable, raising=False)
    packages = tmp_path / "site-packages"
    monkeypatch.setattr(sysconfig, "get_path", lambda kind: str(packages))
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(nvrtc, "_loaded", lambda: iter([]))
    monkeypatch.setattr(nvrtc, "_LOADER_NAMES", ())
    return packages


def test_nothing_is_found_and_every_place_is_named(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONDA_PREFIX", "/conda")
    monkeypatch.setenv("CUDA_HOME", "/toolkit")
    found = find_nvrtc()
    assert found.path is None
    assert found.searched == (
        "the libraries of this process", f"{nowhere}/nvidia", "/conda/lib", "the system's loader", "CUDA_HOME=/toolkit",
    )  # fmt: skip


def test_the_order_of_the_places(nowhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    toolkit, conda = tmp_path / "toolkit", tmp_path / "conda"
    monkeypatch.setenv("CUDA_PATH", str(toolkit))
    monkeypatch.setenv("CONDA_PREFIX", str(conda))
    nvidia = nowhere / "nvidia"
    for folder in (toolkit / "lib64", conda / "lib", nvidia / "cuda_nvrtc" / "lib", nvidia / "cu13" / "lib"):
        path = library(folder, "libnvrtc.so.12")
        assert find_nvrtc().path == path, "each comes before those above it"
    monkeypatch.setattr(nvrtc, "_loaded", lambda: iter(["/torch/libnvrtc.so.12"]))
    assert find_nvrtc().path == "/torch/libnvrtc.so.12"
    monkeypatch.setenv("FARSPAN_NVRTC", "/mine/libnvrtc.so")
    assert find_nvrtc() == nvrtc.Search("/mine/libnvrtc.so", ("FARSPAN_NVRTC=/mine/libnvrtc.so",))


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["libnvrtc.so.12", "libnvrtc.so.13.0.88", "libnvrtc.so"], "libnvrtc.so.13.0.88"),
        (["libnvrtc.so.9", "libnvrtc.so.12.9"], "libnvrtc.so.12.9"),
        (["libnvrtc.so"], "libnvrtc.so"),
        (["libnvrtc-builtins.so.13.0", "libnvrtc.alt.so.13", "libnvrtc.so.11.2", "libnvrtc.so.13.sha256"], None),
    ],
)
def test_which_file_of_a_folder(nowhere: Path, names: list[str], chosen: str | None) -> None:
    folder = nowhere / "nvidia" / "cu13" / "lib"
    for name in names:
        library(folder, name)
    assert find_nvrtc().path == (chosen and str(folder / chosen))


def test_a_compiler_is_not_newer_than_the_driver(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    new = library(nowhere / "nvidia" / "cu13" / "lib", "libnvrtc.so.13")
    old = library(nowhere / "nvidia" / "cuda_nvrtc" / "lib", "libnvrtc.so.12")
    assert [find_nvrtc(newest).path for newest in (None, 14, 13, 12, 11)] == [new, new, new, old, None]
    monkeypatch.setenv("FARSPAN_NVRTC", new)
    assert find_nvrtc(12).path == new, "whoever names it means it"


def test_a_library_of_this_process_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FARSPAN_NVRTC", raising=False)
    path = tmp_path / "libnvrtc.so.13"
    source = "int nvrtc;"
    subprocess.run(["cc", "-shared", "-x", "c", "-", "-o", str(path)], input=source, text=True, check=True)
    load, look = f"import ctypes; ctypes.CDLL({str(path)!r})", "from farspan._backend.nvrtc import find_nvrtc"
    code = f"{load}\n{look}\nprint(find_nvrtc().path)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == str(path)
