"""`farspan cache`: the compiled CUDA kernels on this machine. None of it needs a GPU."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

from farspan import _core
from farspan._backend.compiler import cuda_status, open_compiler
from farspan._errors import BackendError, message
from farspan.commands.options import add_json
from farspan.commands.output import print_json
from farspan.commands.values import whole

SUMMARY = "The compiled CUDA kernels on this machine; none of it needs a GPU."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "info: where the kernels are and how many; clear: remove them; warm: compile all of them now"
    add("action", choices=("info", "clear", "warm"), help=what)
    what = "for warm: compute capabilities such as 90 for 9.0 (default: those of the GPUs here)"
    add("architectures", type=whole(80), nargs="*", metavar="ARCH", help=what)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    if options.action == "warm":
        warm(options.architectures, as_json=options.json)
        return
    if options.architectures:
        options.parser.error("architectures are for warm")
    {"info": print_info, "clear": clear}[options.action](as_json=options.json)


def print_info(*, as_json: bool) -> None:
    """Print where the kernels are, how many, and what would compile more."""
    folder, entries, size = _core.cuda_cache()
    status = cuda_status()
    if as_json:
        known = {"folder": folder, "kernels": entries, "bytes": size, "nvrtc": status["nvrtc"]}
        print_json(known)
        return
    print(f"folder:   {folder}")
    print(f"kernels:  {entries}, {size / 1e6:.1f} MB")
    print(f"compiler: {_compiler(status)}")


def clear(*, as_json: bool) -> None:
    """Remove the compiled kernels, and nothing else that the folder holds."""
    removed = _core.cuda_clear_cache()
    if as_json:
        print_json({"removed": removed})
    else:
        print(f"{removed} kernels removed")


def warm(architectures: Sequence[int], *, as_json: bool) -> None:
    """Compile every kernel for the given compute capabilities, 90 for 9.0; for none, those of the GPUs here."""
    chosen = architectures or sorted({device["architecture"] for device in cuda_status()["devices"]})
    if not chosen:
        wanted = "the compute capabilities to compile for, such as 90 for 9.0, where no GPU tells them"
        raise BackendError(message("architectures", wanted, cuda_status()["reason"]))
    open_compiler()
    done = []
    for architecture in chosen:
        started = time.perf_counter()
        compiled, kept = _core.cuda_warm(architecture, os.cpu_count() or 1)
        seconds = time.perf_counter() - started
        done.append({"architecture": architecture, "compiled": compiled, "kept": kept, "seconds": round(seconds, 3)})
        if not as_json:
            print(f"{architecture}: {compiled} kernels compiled, {kept} were there, {seconds:.1f} s", flush=True)
    warning = _core.cuda_warning()
    if as_json:
        print_json({"architectures": done, "warning": warning})
    elif warning:
        print(f"warning: {warning}")


def _compiler(status: dict[str, Any]) -> str:
    nvrtc = status["nvrtc"]
    return f"NVRTC {nvrtc['version']}, {nvrtc['path']}" if nvrtc else "none; pip install nvidia-cuda-nvrtc"
