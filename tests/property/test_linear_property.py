"""`linear` and its gradients against their definition in float64, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.arrays import DTYPES, LAYOUTS, as_float64, as_kind, as_numpy, lay_out

import farspan
from farspan import reference
from farspan.testing import allowed_error, assert_close, assert_same_bits


class Case(NamedTuple):
    x: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None
    upstream: torch.Tensor
    """The gradient of the result."""


SIZES = st.one_of(st.integers(1, 40), st.sampled_from([64, 127, 128, 129, 300]))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    rows, inputs, outputs = (draw(SIZES) for _ in range(3))
    make = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    dtype, weight_dtype = (DTYPES[draw(st.sampled_from(list(DTYPES)))] for _ in range(2))
    leading = draw(st.sampled_from([(rows,), (2, rows), (), (0,)]))
    x = torch.randn(*leading, inputs, generator=make).to(dtype)
    x = lay_out(x, draw(st.sampled_from(LAYOUTS)) if leading else "plain")
    weight = torch.randn(outputs, inputs, generator=make).to(weight_dtype) * inputs**-0.5
    weight = lay_out(weight, draw(st.sampled_from(["plain", "padded"])))
    bias = torch.randn(outputs, generator=make) if draw(st.booleans()) else None
    upstream = torch.randn(*leading, outputs, generator=make).to(dtype)
    return Case(
        x, weight, bias, upstream if draw(st.booleans()) else torch.ones_like(upstream[..., :1]).expand_as(upstream)
    )


def gradients(
    function: Callable[..., torch.Tensor], case: Case, dtype: torch.dtype | None = None
) -> list[torch.Tensor]:
    """Those of x, weight and bias; computed in a dtype, or in the case's own."""
    tensors = [x for x in case[:3] if x is not None]
    leaves = [(x if dtype is None else x.to(dtype)).detach().requires_grad_() for x in tensors]
    output = function(*leaves)
    return list(torch.autograd.grad(output, leaves, case.upstream.to(output.dtype)))


@given(case=cases(), kind=st.sampled_from(["torch", "numpy"]))
def test_linear_is_its_definition(instruction_set: str, case: Case, kind: str) -> None:
    x, weight, bias, _ = case
    result = farspan.linear(as_kind(x, kind), as_kind(weight, kind), as_kind(bias, kind))
    truth = reference.linear(x.double(), weight.double(), None if bias is None else bias.double())
    eager = reference.linear(x, weight, bias)
    size = float(truth.abs().max()) if truth.numel() else 0.0
    allowed = allowed_error(truth, eager.double(), rounding=str(x.dtype).removeprefix("torch."), magnitude=1 + size)
    assert as_numpy(result).dtype == as_numpy(x).dtype
    assert_close(as_float64(result), truth, allowed, "linear")


@given(case=cases())
def test_gradients_of_linear_are_those_of_its_definition(instruction_set: str, case: Case) -> None:
    found = gradients(farspan.linear, case)
    truth = gradients(reference.linear, case, torch.float64)
    eager = gradients(reference.linear, case)
    tensors = [x for x in case[:3] if x is not None]
    for name, tensor, ours, right, plain in zip(("x", "weight", "bias"), tensors, found, truth, eager, strict=False):
        assert ours.dtype == tensor.dtype
        size = float(right.abs().max()) if right.numel() else 0.0
        rounding = str(tensor.dtype).removeprefix("torch.")
        allowed = allowed_error(right, plain.double(), rounding=rounding, magnitude=1 + size)
        assert_close(as_float64(ours), right, allowed, f"gradient of {name}")


@pytest.mark.parametrize(("inputs", "outputs"), [(0, 4), (5, 0), (0, 0)])
def test_gradients_of_layers_without_inputs_or_outputs(inputs: int, outputs: int) -> None:
    case = Case(torch.randn(3, inputs), torch.randn(outputs, inputs), torch.randn(outputs), torch.randn(3, outputs))
    for ours, right in zip(gradients(farspan.linear, case), gradients(reference.linear, case), strict=True):
        assert_close(as_float64(ours), right.double(), 1e-6, "gradient")


@pytest.mark.parametrize("dtype", list(DTYPES))
def test_gradients_of_linear_do_not_depend_on_threads(threads: Callable[[int], None], dtype: str) -> None:
    make = torch.Generator().manual_seed(3)
    x, weight, upstream = (
        torch.randn(*shape, generator=make).to(DTYPES[dtype]) for shape in ((301, 130), (257, 130), (301, 257))
    )
    found = []
    for count in (1, 2, 5):
        threads(count)
        found.append(
            gradients(farspan.linear, Case(x, weight, torch.randn(257, generator=make.manual_seed(4)), upstream))
        )
    for other in found[1:]:
        for name, one, two in zip(("x", "weight", "bias"), found[0], other, strict=True):
            assert_same_bits(as_numpy(one), as_numpy(two), f"gradient of {name}")


def test_a_row_of_the_gradient_has_the_bits_that_it_has_alone() -> None:
    make = torch.Generator().manual_seed(5)
    case = Case(
        torch.randn(33, 70, generator=make),
        torch.randn(90, 70, generator=make),
        None,
        torch.randn(33, 90, generator=make),
    )
    together = gradients(farspan.linear, case)[0]
    alone = gradients(farspan.linear, case._replace(x=case.x[7:8], upstream=case.upstream[7:8]))[0]
    assert_same_bits(as_numpy(together[7:8]), as_numpy(alone), "gradient of x")


def test_a_penalty_on_a_gradient_of_linear_is_right() -> None:
    make = torch.Generator().manual_seed(6)
    x, weight = (
        torch.randn(3, 4, generator=make, requires_grad=True),
        torch.randn(5, 4, generator=make, requires_grad=True),
    )

    def penalty(function: Callable[..., torch.Tensor]) -> torch.Tensor:
        (slope,) = torch.autograd.grad(function(x, weight).square().sum(), x, create_graph=True)
        return torch.autograd.grad(slope.square().sum(), weight)[0]

    torch.testing.assert_close(penalty(farspan.linear), penalty(reference.linear), rtol=1e-4, atol=1e-4)
