"""Tests of this folder need a GPU; without one each is skipped with the reason."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.on_gpu import gpu_kernels, reason

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    missing = reason()
    for item in items:
        if missing and HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.skip(reason=f"needs a GPU: {missing}"))


@pytest.fixture(params=["cuda"])
def backend(request: pytest.FixtureRequest) -> Iterator[str]:
    """The suites' fixture of this name: the test runs on the GPU."""
    with gpu_kernels():
        yield request.param
