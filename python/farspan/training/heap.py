"""What the C library does with memory that is freed."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# The parameters of glibc's mallopt, and the largest values that it takes, or comes to by itself.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST_INT = 2**31 - 1
LARGEST_MMAP_THRESHOLD = 32 << 20
USUAL_TRIM_THRESHOLD = 2 * LARGEST_MMAP_THRESHOLD

_lock = threading.Lock()
_inside = 0


def _is_set_by_environment() -> bool:
    tunables = os.environ.get("GLIBC_TUNABLES", "")
    return "malloc" in tunables or any(name.startswith("MALLOC_") for name in os.environ)


@contextmanager
def freed_memory_stays() -> Iterator[None]:
    """Memory that is freed, in pieces of up to 32 MiB, stays with the process until the last of these blocks ends. The
    steps of a training free and take the same memory again; a small model's spend a tenth of their time on asking for
    it page by page.

    Afterwards pieces of up to 32 MiB still come from the heap, which glibc comes to by itself where a program frees
    such pieces. Nothing happens under another C library, or where the environment has settings for malloc.
    """
    global _inside
    if platform.libc_ver()[0] != "glibc" or _is_set_by_environment():
        yield
        return
    libc = ctypes.CDLL(None)
    with _lock:
        _inside += 1
        if _inside == 1:
            libc.mallopt(MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
            libc.mallopt(TRIM_THRESHOLD, LARGEST_INT)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                libc.mallopt(TRIM_THRESHOLD, USUAL_TRIM_THRESHOLD)
                libc.malloc_trim(0)
