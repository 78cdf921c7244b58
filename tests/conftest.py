"""What the tests share: hypothesis profiles, and a fixture that runs a test once per instruction set of this CPU."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

import farspan
from farspan import _core

slow_start = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
settings.register_profile("ci", max_examples=120, deadline=None, derandomize=True, suppress_health_check=slow_start)
settings.register_profile("nightly", max_examples=10_000, deadline=None, suppress_health_check=slow_start)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture(params=[name for name, _ in _core.cpu_info()[1]])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The test runs on this instruction set, as with FARSPAN_CPU, or is skipped with the reason."""
    if not dict(_core.cpu_info()[1])[request.param]:
        pytest.skip(f"this CPU has no {request.param}")
    _core.force_cpu(request.param)
    yield request.param
    _core.force_cpu(None)


@pytest.fixture
def threads() -> Iterator[object]:
    """`set_num_threads`, put back afterwards."""
    before = farspan.get_num_threads()
    yield farspan.set_num_threads
    farspan.set_num_threads(before)
