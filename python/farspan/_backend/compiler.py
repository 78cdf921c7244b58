"""Whether CUDA can be used here, and its compiler. Nothing in this module imports torch or needs a GPU."""

from __future__ import annotations

import warnings
from functools import cache
from typing import Any

from farspan import _core
from farspan._backend.nvrtc import Search, find_nvrtc


def cuda_status() -> dict[str, Any]:
    """The reason why CUDA is off, or None; the versions of driver and compiler, or None; the GPUs."""
    found = _find()
    reason, driver, nvrtc, devices = _core.cuda_status(found.path, ", ".join(found.searched))
    names = ("ordinal", "name", "architecture", "memory", "multiprocessors")
    return {
        "reason": reason,
        "driver": driver and "{}.{}".format(*driver),
        "nvrtc": nvrtc and {"version": "{}.{}".format(*nvrtc), "path": found.path},
        "devices": [dict(zip(names, device, strict=True)) for device in devices],
    }


@cache
def open_compiler() -> None:
    """Before the first kernel of a process. What is open already stays open."""
    found = _find()
    _core.cuda_open(found.path, ", ".join(found.searched))


def warn_of_cache() -> None:
    """After a call that may have compiled something: say once that it cannot be kept."""
    warning = _core.cuda_warning()
    if warning:
        warnings.warn(f"farspan: {warning}", RuntimeWarning, stacklevel=2)


def _find() -> Search:
    _, driver, _, _ = _core.cuda_status(None, "")
    return find_nvrtc(driver and driver[0])
