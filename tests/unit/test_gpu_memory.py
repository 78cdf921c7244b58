"""How the results of a call on a GPU are allocated, over memory of the CPU."""

from __future__ import annotations

import math

import torch

from farspan._backend.memory import GpuMemory, Layout

ROWS, LISTS, NOTHING = (3,), (3, 2), (3, 0)
FORMS = [
    (ROWS, "int64"), (LISTS, "float32"), (ROWS, "float32"), (ROWS, "int64"), (ROWS, "int32"), (NOTHING, "int64"),
    (ROWS, "float32"), (ROWS, "int64"),
]  # fmt: skip


class OnCpu(GpuMemory):
    def __init__(self) -> None:
        self._torch, self._device, self._held = torch, torch.device("cpu"), {}


def test_each_array_has_its_own_place() -> None:
    made = OnCpu().empty_all(Layout(FORMS))
    assert [(tuple(x.shape), str(x.dtype)) for x in made] == [(shape, f"torch.{kind}") for shape, kind in FORMS]
    assert all(x.is_contiguous() for x in made)
    for number, x in enumerate(made):
        x.fill_(number)
    assert [x.flatten().tolist() for x in made] == [
        [number] * math.prod(shape) for number, (shape, _) in enumerate(FORMS)
    ]


def test_arrays_of_a_shape_share_memory_that_holds_no_list() -> None:
    made = OnCpu().empty_all(Layout(FORMS))
    pieces = {shape: {x.untyped_storage().data_ptr() for x in made if x.shape == shape} for shape in (ROWS, LISTS)}
    assert [len(found) for found in pieces.values()] == [1, 1]
    assert pieces[ROWS].isdisjoint(pieces[LISTS])


def test_callers_may_write_to_them_where_gradients_are_recorded() -> None:
    _, _, one, _, _, _, other, _ = OnCpu().empty_all(Layout(FORMS))
    asking = torch.ones(3, requires_grad=True)
    one.zero_().add_(asking).sum().backward()
    assert asking.grad is not None
    assert other.grad_fn is None
