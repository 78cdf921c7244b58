"""Tests of this folder need a GPU; without one each is skipped with the reason."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from support.on_gpu import gpu_kernels, reason

from steps import BROKEN

HERE = Path(__file__).parent

# For a machine that is lent for minutes: the cases are those of the usual profile, but a third of them.
slow = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture, HealthCheck.differing_executors]
settings.register_profile("gpu", max_examples=40, deadline=None, derandomize=True, suppress_health_check=slow)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = reason()
    for item in items:
        if missing and HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {missing}"))
    items.sort(key=lambda item: item.path.name == "test_sanitizer.py")  # the slowest come last


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, Any, Any]:
    """A kernel that broke takes the process with it: what came after would be failures that say nothing."""
    report = yield
    if report.failed and HERE in Path(item.path).parents and BROKEN.search(report.longreprtext):
        item.session.shouldstop = f"a kernel broke in {item.nodeid}"
    return report


@pytest.fixture(params=["cuda"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The suites' fixture of this name: the test runs on the GPU."""
    with gpu_kernels():
        yield request.param
