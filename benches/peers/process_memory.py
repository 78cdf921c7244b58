"""The memory of this process, as its system tells it. Only Python itself is imported: tests measure with this too."""

from __future__ import annotations

import gc
import sys
from pathlib import Path

STATUS = "/proc/self/status"


def kernel_says(file: str, name: str) -> int:
    """Bytes, by Linux's name for them."""
    lines = dict(line.split(":", 1) for line in Path(file).read_text().splitlines())
    return int(lines[name].split()[0]) * 1024


def resident() -> int:
    """Bytes of this process in memory, what it shares with others counted by its share (Linux)."""
    return kernel_says("/proc/self/smaps_rollup", "Pss")


def forget_peak() -> None:
    """The largest memory so far is that of now (Linux)."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    """The most bytes that there were in memory, on Linux since `forget_peak`.

    What getrusage says begins with the peak of the process that started this one, so it comes second.
    """
    if Path(STATUS).exists():
        return kernel_says(STATUS, "VmHWM")
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
