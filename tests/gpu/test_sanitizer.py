"""No kernel reads or writes what is not its own, nor races for shared memory: compute-sanitizer watches them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

TOOL = shutil.which("compute-sanitizer", path=f"{os.environ.get('PATH', '')}:/usr/local/cuda/bin")


@pytest.mark.skipif(TOOL is None, reason="compute-sanitizer is not installed")
@pytest.mark.parametrize("check", ["memcheck", "racecheck"])
def test_kernels_are_clean(check: str) -> None:
    # Without torch's cache of memory every tensor is an allocation of its own, whose bounds are watched.
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    command = [str(TOOL), "--tool", check, "--error-exitcode", "9", sys.executable, "small_calls.py"]
    run = subprocess.run(command, cwd=Path(__file__).parent, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    assert "every kernel ran" in run.stdout
