"""No kernel reads or writes what is not its own, nor races for shared memory: compute-sanitizer watches them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.sanitizer import verdict

TOOL = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")
LIMIT_S = float(os.environ.get("FARSPAN_SANITIZER_SECONDS", "25"))
"""Kernels are a hundred times slower under the tool; what it has not found by then is not looked for."""


@pytest.mark.skipif(TOOL is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("check", ["memcheck", "racecheck"])
def test_kernels_are_clean(check: str) -> None:
    # Without torch's cache of memory every tensor is an allocation of its own, whose bounds are watched.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [str(TOOL), "--tool", check, "--error-exitcode", "9", sys.executable, "-u", "small_calls.py"]
    options = {"cwd": Path(__file__).parent, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, **options) as process:  # type: ignore[call-overload]
        try:
            output, _ = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            output, _ = process.communicate()
            process.returncode = None
    clean, why = verdict(output, process.returncode, LIMIT_S)
    if clean is None:
        pytest.skip(why)
    assert clean, why
