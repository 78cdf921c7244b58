"""How many threads an operation uses. Each test in a fresh process: a number that is set holds for good."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from support.models import SHAPE

import farspan
from farspan.model.recorded_operations import with_all_cores

HEAD = """
import torch, farspan
from farspan._backend.threads import torch_on_one_thread
def numbers(): print(torch.get_num_threads(), farspan.get_num_threads())
"""


def printed(program: str) -> list[str]:
    return subprocess.check_output([sys.executable, "-c", HEAD + program], text=True).splitlines()


def test_they_follow_torch_until_they_are_set() -> None:
    program = """
torch.set_num_threads(3); numbers()
torch.set_num_threads(1); numbers()
farspan.set_num_threads(2); torch.set_num_threads(4); numbers()
"""
    assert printed(program) == ["3 3", "1 1", "4 2"]


def test_torch_stands_aside_where_the_work_is_ours() -> None:
    program = """
torch.set_num_threads(3)
with torch_on_one_thread():
    numbers()
    with torch_on_one_thread():
        numbers()
    numbers()
numbers()
try:
    with torch_on_one_thread():
        farspan.set_num_threads(2)
        raise KeyError
except KeyError:
    numbers()
"""
    assert printed(program) == ["1 3", "1 3", "1 3", "3 3", "3 2"]


def test_callers_that_overlap_leave_torch_as_it_was() -> None:
    program = """
import contextlib
torch.set_num_threads(3)
first, second = contextlib.ExitStack(), contextlib.ExitStack()
first.enter_context(torch_on_one_thread()); second.enter_context(torch_on_one_thread())
first.close(); numbers()
second.close(); numbers()
"""
    assert printed(program) == ["1 3", "3 3"]


def test_other_threads_of_python_leave_it_as_it_was_too() -> None:
    program = """
import threading
torch.set_num_threads(3)
entered, left = threading.Event(), threading.Event()
def other():
    with torch_on_one_thread():
        numbers()
        entered.set(); left.wait()
    numbers()
thread = threading.Thread(target=other)
with torch_on_one_thread():
    thread.start(); entered.wait()
numbers()
left.set(); thread.join()
numbers()
"""
    assert printed(program) == ["1 3", "3 3", "3 3", "3 3"]


@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_a_training_step_has_torch_aside_where_it_computes_nothing_large(backend: str) -> None:
    model = farspan.Transformer(farspan.Config(**SHAPE), backend=backend)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with with_all_cores(model):
            assert torch.get_num_threads() == (1 if backend == "fused" else 2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
