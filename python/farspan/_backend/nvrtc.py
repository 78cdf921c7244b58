"""Where NVRTC is, NVIDIA's run-time compiler. torch for CUDA brings it; else it comes from PyPI, conda or a toolkit."""

from __future__ import annotations

import ctypes
import os
import re
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

OLDEST = 12
"""The major version of CUDA from which on a compiler is taken; Rust checks what the library itself says."""

_LIBRARY = re.compile(r"libnvrtc\.so(?:\.(?P<version>[\d.]+))?$")
_LOADER_NAMES = ("libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so")


@dataclass(frozen=True)
class Search:
    """The library's absolute path, or None, and the places looked at until then."""

    path: str | None
    searched: tuple[str, ...]


def find_nvrtc(newest: int | None = None) -> Search:
    """Look where `FARSPAN_NVRTC` says and nowhere else; without it, for a library that this process has loaded, then in
    Python's packages, in conda's environment, by the system's loader, and in a toolkit. `newest`: the major version of
    CUDA that the driver knows; what a newer compiler writes it would not load."""
    named = os.environ.get("FARSPAN_NVRTC")
    if named:
        return Search(os.path.abspath(named), (f"FARSPAN_NVRTC={named}",))
    searched = []
    for place, candidates in _places():
        searched.append(place)
        for path in candidates:
            if _is_usable(path, newest):
                return Search(os.path.abspath(path), tuple(searched))
    return Search(None, tuple(searched))


def _places() -> Iterator[tuple[str, Iterator[str]]]:
    yield "the libraries of this process", _loaded()
    installed = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    imported = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
    for packages in dict.fromkeys(installed + imported):
        yield f"{packages}/nvidia", _in_packages(Path(packages))
    conda = os.environ.get("CONDA_PREFIX")
    if conda:
        yield f"{conda}/lib", _in_folder(Path(conda, "lib"))
    yield "the system's loader", _by_loader()
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        home = os.environ.get(variable)
        if home:
            yield f"{variable}={home}", _in_folder(Path(home, "lib64"), Path(home, "lib"))


def _in_packages(packages: Path) -> Iterator[str]:
    """CUDA 13 has its libraries in one folder, CUDA 12 has a folder for each."""
    yield from _in_folder(*sorted(packages.glob("nvidia/cu[0-9]*/lib"), reverse=True))
    yield from _in_folder(packages / "nvidia" / "cuda_nvrtc" / "lib")


def _in_folder(*folders: Path) -> Iterator[str]:
    for folder in folders:
        yield from sorted(map(str, folder.glob("libnvrtc.so*")), key=lambda path: _version(path) or (), reverse=True)


def _loaded() -> Iterator[str]:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:  # not Linux
        return
    paths = (line.partition("/")[2] for line in lines if "libnvrtc" in line)
    yield from (f"/{path}" for path in dict.fromkeys(paths))


def _by_loader() -> Iterator[str]:
    for name in _LOADER_NAMES:
        try:
            ctypes.CDLL(name)
        except OSError:
            continue
        yield from _loaded()


def _version(path: str) -> tuple[int, ...] | None:
    """What the file's name says of its version, () if nothing; None for another library."""
    match = _LIBRARY.match(os.path.basename(path))
    return match and tuple(map(int, filter(None, (match["version"] or "").split("."))))


def _is_usable(path: str, newest: int | None) -> bool:
    version = _version(path)
    return version == () or (version is not None and OLDEST <= version[0] <= (newest or version[0]))
