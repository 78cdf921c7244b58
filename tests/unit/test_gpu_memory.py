"""How the results of a call on a GPU are allocated, over memory of the CPU."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import pytest
import torch

from farspan._backend.memory import GpuMemory, Layout

ROWS, LISTS, NOTHING = (3,), (3, 2), (3, 0)
FORMS = [
    (ROWS, "int64"), (LISTS, "float32"), (ROWS, "float32"), (ROWS, "int64"), (ROWS, "int32"), (NOTHING, "int64"),
    (ROWS, "float32"), (ROWS, "int64"),
]  # fmt: skip


class OnCpu(GpuMemory):
    def __init__(self, apart: bool = False) -> None:
        self._torch, self._device, self._held, self._apart = torch, torch.device("cpu"), {}, apart


@pytest.mark.parametrize("apart", [False, True])
def test_each_array_has_its_own_place(apart: bool) -> None:
    made = OnCpu(apart).empty_all(Layout(FORMS))
    assert [(tuple(x.shape), str(x.dtype)) for x in made] == [(shape, f"torch.{kind}") for shape, kind in FORMS]
    assert all(x.is_contiguous() for x in made)
    for number, x in enumerate(made):
        x.fill_(number)
    assert [x.flatten().tolist() for x in made] == [
        [number] * math.prod(shape) for number, (shape, _) in enumerate(FORMS)
    ]


def storages(made: Sequence[torch.Tensor]) -> list[int]:
    return [x.untyped_storage()._cdata for x in made]


def test_arrays_that_are_alike_share_memory_and_no_others() -> None:
    """torch saves no two tensors of different types that share memory."""
    made = OnCpu().empty_all(Layout(FORMS))
    assert [
        len({*storages([x for x in made if (tuple(x.shape), x.dtype) == form])})
        for form in (
            (ROWS, torch.int64),
            (ROWS, torch.float32),
            (ROWS, torch.int32),
            (LISTS, torch.float32),
        )
    ] == [1, 1, 1, 1]
    assert len({*storages(made)}) == 5
    torch.save(list(made), io.BytesIO())


def test_operators_give_results_that_share_nothing() -> None:
    made = OnCpu(apart=True).empty_all(Layout(FORMS))
    assert len({*storages(made)}) == len(FORMS)
    assert all(x.storage_offset() == 0 for x in made)


def test_what_is_made_larger_writes_over_nothing() -> None:
    least, most = OnCpu().empty_all(Layout([(NOTHING, "int64")] * 2))
    numbers = torch.arange(12.0).view(3, 4)
    for largest, out in (False, least), (True, most):
        torch.topk(numbers, 2, largest=largest, out=(torch.empty(0), out))
    assert least.tolist() == [[0, 1]] * 3
    assert most.tolist() == [[3, 2]] * 3


def test_callers_may_write_to_them_where_gradients_are_recorded() -> None:
    _, _, one, _, _, _, other, _ = OnCpu().empty_all(Layout(FORMS))
    asking = torch.ones(3, requires_grad=True)
    one.zero_().add_(asking).sum().backward()
    assert asking.grad is not None
    assert other.grad_fn is None
