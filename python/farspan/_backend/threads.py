"""How many threads an operation uses: what the caller set, else torch's number, else what the CPU offers."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from farspan import _core
from farspan._backend.arrays import index
from farspan._errors import ArgumentError, message

MAX_THREADS = 1024

_chosen = False  # by set_num_threads: from then on torch's number no longer counts
_followed = 0  # torch's number at the last call
_alone = 0  # how many callers have torch on one thread now: that number of torch's is not meant for us
_of_torch = 1  # its number before the first of them
_counting = threading.Lock()
_own = threading.local()  # `depth`: how many of them are this thread's; torch's number is each thread's own


def set_num_threads(n: int) -> None:
    """Use n threads in every following call of any operation. Results never change with n.

    Without it farspan follows `torch.get_num_threads()` where torch is imported, else uses the CPUs that it may run on.
    """
    global _chosen
    n = index("n", n)
    if not 1 <= n <= MAX_THREADS:
        raise ArgumentError(message("n", f"1 to {MAX_THREADS} threads", n))
    _core.set_num_threads(n)
    _chosen = True


def get_num_threads() -> int:
    """The number of threads that the next call uses."""
    follow_torch()
    return _core.num_threads()


def follow_torch() -> None:
    """Take over torch's thread count, unless the caller has set one."""
    global _followed
    if _chosen or _alone:
        return
    current = getattr(sys.modules.get("torch"), "get_num_threads", None)
    if current is not None and (n := min(current(), MAX_THREADS)) != _followed:
        _core.set_num_threads(n)
        _followed = n


@contextlib.contextmanager
def torch_on_one_thread() -> Iterator[None]:
    """The cores are for our own threads meanwhile, as many as before. A thread of torch's spins for milliseconds after
    each operation, in case another follows: where most operations are ours, it takes a core from them.
    """
    import torch

    global _alone, _of_torch
    follow_torch()
    with _counting:
        if _alone == 0:
            _of_torch = torch.get_num_threads()
        _alone += 1
    _own.depth = getattr(_own, "depth", 0) + 1
    try:
        torch.set_num_threads(1)
        yield
    finally:
        _own.depth -= 1
        if _own.depth == 0:
            torch.set_num_threads(_of_torch)
        with _counting:
            _alone -= 1
