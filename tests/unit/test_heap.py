"""Memory between the steps of a training."""

from __future__ import annotations

import ctypes
import platform
import subprocess
import sys
from types import SimpleNamespace

import pytest

import farspan
from farspan.lab.extrapolation import Settings
from farspan.lab.extrapolation.learning import Learner
from farspan.lab.extrapolation.subject import Subject
from farspan.training import Recipe, fit
from farspan.training.heap import freed_memory_stays

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")

ALONE = """
import resource
from pathlib import Path
import numpy as np
from farspan.training.heap import freed_memory_stays

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [np.ones(2 << 20, np.uint8) for _ in range(64)]
    del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1])

with freed_memory_stays():
    first, again, held = faults(), faults(), resident()
print(again < first / 20, resident() < held - (64 << 20) // resource.getpagesize())
"""
"""In a process of its own, whose heap nobody else has used: pages asked for, and pages given back."""


def test_freed_memory_is_taken_again_and_given_back_at_the_end() -> None:
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, timeout=100, check=True)
    assert done.stdout.split() == ["True", "True"]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the C library is told."""
    calls: list[str] = []
    fake = SimpleNamespace(
        mallopt=lambda name, value: calls.append("keep" if value == 2**31 - 1 else "size"),
        malloc_trim=lambda kept: calls.append("give back"),
    )
    monkeypatch.setattr(ctypes, "CDLL", lambda name: fake)
    return calls


def test_the_last_to_end_gives_memory_back(told: list[str]) -> None:
    with freed_memory_stays():
        with freed_memory_stays():
            assert told == ["size", "keep"]
        assert told == ["size", "keep"], "another training goes on"
    assert told == ["size", "keep", "size", "give back"]


@pytest.mark.parametrize(
    ("name", "value"), [("MALLOC_TRIM_THRESHOLD_", "1000"), ("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1000")]
)
def test_settings_of_the_environment_stay(
    name: str, value: str, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with freed_memory_stays():
        pass
    assert told == []


def test_trainings_keep_their_memory_between_steps(told: list[str]) -> None:
    config = farspan.Config(
        vocab_size=4, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1
    )
    fit(farspan.Transformer(config), [[0, 1, 2, 3]], Recipe(steps=1, batch=1))
    assert told == ["size", "keep", "size", "give back"]
    told.clear()
    sizes = {"layers": 1, "width": 8, "heads": 1, "batch": 1}
    (trial,) = Settings("bucket_sort", schemes=("rope",), steps=1, seeds=1, **sizes).trials()
    Learner(trial, Subject(trial), None).finish(lambda step, loss: told.append("step"))
    assert told == ["size", "keep", "step", "size", "give back"]
