"""What the tests share: hypothesis profiles, and a fixture that runs a test once per backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import HealthCheck, settings
from support.emulated import emulated_kernels

import farspan
from farspan import _core

slow_start = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
settings.register_profile("ci", max_examples=120, deadline=None, derandomize=True, suppress_health_check=slow_start)
settings.register_profile("nightly", max_examples=10_000, deadline=None, suppress_health_check=slow_start)
settings.register_profile("deep", max_examples=400, deadline=None, suppress_health_check=slow_start)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


INSTRUCTION_SETS = [name for name, _ in _core.cpu_info()[1]]


@pytest.fixture(params=[*INSTRUCTION_SETS, "emulated"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs on this instruction set, as with FARSPAN_CPU, or on the emulated CUDA kernels, or is skipped with
    the reason."""
    with emulated_kernels() if request.param == "emulated" else instructions(request.param):
        yield request.param


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same for what has no CUDA kernel of its own."""
    with instructions(request.param):
        yield request.param


@pytest.fixture
def emulated() -> Iterator[None]:
    """The test runs on the emulated CUDA kernels."""
    with emulated_kernels():
        yield


@contextmanager
def instructions(name: str) -> Iterator[None]:
    if not dict(_core.cpu_info()[1])[name]:
        pytest.skip(f"this CPU has no {name}")
    _core.force_cpu(name)
    yield
    _core.force_cpu(None)


@pytest.fixture
def no_gradients() -> Iterator[None]:
    """The test is about numbers: nothing is recorded."""
    with torch.no_grad():
        yield


@pytest.fixture
def threads() -> Iterator[object]:
    """`set_num_threads`, put back afterwards."""
    before = farspan.get_num_threads()
    yield farspan.set_num_threads
    farspan.set_num_threads(before)
