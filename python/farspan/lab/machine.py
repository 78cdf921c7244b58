"""The machine that a figure was made on."""

from __future__ import annotations

import platform
import sys
from pathlib import Path


def processor_name() -> str:
    """The processor's name where the system tells it."""
    if sys.platform.startswith("linux"):
        try:
            lines = Path("/proc/cpuinfo").read_text().splitlines()
        except OSError:
            lines = []
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
