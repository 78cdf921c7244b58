"""The peak memory of a program, as text for a process of its own, and the mark of tests that read it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import process_memory

PEAK = f"""
import sys
sys.path.append({str(Path(process_memory.__file__).parent)!r})
from process_memory import peak
"""
"""Defines `peak()`, in bytes."""

needs_peak = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither /proc nor getrusage")
