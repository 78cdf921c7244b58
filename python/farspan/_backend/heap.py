"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

# The parameters of glibc's mallopt, and the largest values that it takes, or comes to by itself.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_INT = 2**31 - 1
LARGEST_MMAP_THRESHOLD = 32 << 20
USUAL_TRIM_THRESHOLD = 2 * LARGEST_MMAP_THRESHOLD


@contextmanager
def freed_memory_stays() -> Iterator[None]:
    """Memory that is freed stays with the process until the end, where the C library is glibc. The steps of a training
    free and take the same memory again; a small model's spend a tenth of their time on asking for it page by page."""
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
    libc.mallopt(TRIM_THRESHOLD, LARGEST_INT)
    try:
        yield
    finally:
        libc.mallopt(TRIM_THRESHOLD, USUAL_TRIM_THRESHOLD)
        libc.malloc_trim(0)
