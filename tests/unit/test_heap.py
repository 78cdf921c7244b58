"""Memory between the steps of a training."""

from __future__ import annotations

import ctypes
import platform
import resource
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import farspan
from farspan._backend.heap import freed_memory_stays
from farspan.lab.extrapolation import Settings
from farspan.lab.extrapolation.learning import Learner
from farspan.lab.extrapolation.subject import Subject
from farspan.training import Recipe, fit

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")

PIECES, PIECE = 64, 2 << 20


def take_and_free() -> int:
    """How many pages the process asked for."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    pieces = [np.ones(PIECE, np.uint8) for _ in range(PIECES)]
    del pieces
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_freed_memory_is_taken_again_and_given_back_at_the_end() -> None:
    with freed_memory_stays():
        take_and_free()
        assert take_and_free() < PIECES * PIECE // resource.getpagesize() // 20
        held = resident()
    assert resident() < held - PIECES * PIECE // 2


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
