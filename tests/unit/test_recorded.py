"""Rows under autograd: the bits of inference, the gradients of float64."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import farspan
from farspan._backend.packed import Call
from farspan.attention import hook_arguments
from farspan.model import recorded
from farspan.model.activations import Activation
from farspan.testing import assert_same_bits

X, WEIGHT = (torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))) for shape in ((3, 5, 24), (24,)))
UPSTREAM = torch.randn(3, 5, 24, generator=torch.Generator().manual_seed(7))
EPS = 0.05


def exact_norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, EPS)


ACTIVATIONS = [
    *(Activation(name, gated) for name in ("silu", "relu", "gelu_pytorch_tanh", "gelu") for gated in (False, True)),
    Activation("clamped_swiglu", True, alpha=1.3, limit=0.7),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_has_the_bits_of_inference_and_the_gradients_of_its_definition(dtype: torch.dtype) -> None:
    x, weight = X.clone().requires_grad_(), WEIGHT.clone().to(dtype).requires_grad_()
    found = recorded.rms_norm(x, weight, EPS)
    with torch.no_grad():
        quiet = recorded.rms_norm(x, weight, EPS)
    assert not quiet.requires_grad
    assert_same_bits(found.detach().numpy(), quiet.numpy(), "recorded")
    found.backward(UPSTREAM)
    truth = [t.detach().double().requires_grad_() for t in (x, weight)]
    exact_norm(*truth).backward(UPSTREAM.double())
    torch.testing.assert_close(x.grad.double(), truth[0].grad, rtol=1e-5, atol=1e-5)
    assert weight.grad.dtype == dtype
    tolerance = 1e-5 if dtype == torch.float32 else 2.0**-8
    torch.testing.assert_close(weight.grad.double(), truth[1].grad, rtol=tolerance, atol=1e-5)


def test_a_norm_gives_only_the_gradients_that_are_asked_for() -> None:
    def leaves(*asking: bool) -> list[Tensor]:
        given = [t.clone().requires_grad_(asks) for t, asks in zip((X, WEIGHT), asking, strict=True)]
        recorded.rms_norm(*given, EPS).backward(UPSTREAM)
        return given

    x, weight = leaves(True, True)
    for alone, silent, both in ((leaves(True, False), 1, x), (leaves(False, True), 0, weight)):
        assert alone[silent].grad is None
        assert_same_bits(alone[1 - silent].grad.numpy(), both.grad.numpy(), "asked for alone")


@pytest.mark.parametrize("used", ["both", "the norm", "the rows"])
def test_rows_beside_their_norm_have_the_bits_and_gradients_of_both(used: str) -> None:
    rows, upstream = X.flatten(0, 1), UPSTREAM.flatten(0, 1)
    weigh = {"both": (0.3, 1.0), "the norm": (None, 1.0), "the rows": (0.3, None)}[used]

    def both(total: Tensor, normed: Tensor) -> Tensor:
        parts = [share * part for share, part in zip(weigh, (total, normed), strict=True) if share is not None]
        return (sum(parts) * upstream.to(total.dtype)).sum()

    def gradients(function: Callable[..., Tensor], *given: Tensor) -> list[Tensor | None]:
        leaves = [x.clone().requires_grad_() for x in given]
        return list(torch.autograd.grad(function(*leaves), leaves, allow_unused=True))

    other = rows.roll(1, 0)
    total, normed = recorded.norm_of_sum(rows, other, WEIGHT, EPS)
    assert_same_bits(total.numpy(), (rows + other).numpy(), "sum")
    assert_same_bits(normed.numpy(), recorded.rms_norm(rows + other, WEIGHT, EPS).numpy(), "norm of the sum")
    same, normed = recorded.norm_beside(rows, WEIGHT, EPS)
    assert_same_bits(same.numpy(), rows.numpy(), "rows")
    assert_same_bits(normed.numpy(), recorded.rms_norm(rows, WEIGHT, EPS).numpy(), "norm beside the rows")
    of_sum = gradients(lambda x, y, w: both(*recorded.norm_of_sum(x, y, w, EPS)), rows, other, WEIGHT)
    alone = gradients(lambda x, w: both(*recorded.norm_beside(x, w, EPS)), rows + other, WEIGHT)
    exact = [x.double() for x in (rows + other, WEIGHT)]
    truth = gradients(lambda x, w: both(x, exact_norm(x, w)), *exact)
    for found, right in zip((*of_sum, *alone), (truth[0], *truth, *truth), strict=True):
        if right is None:
            assert found is None
        else:
            torch.testing.assert_close(found.double(), right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ACTIVATIONS, ids=repr)
def test_an_activation_has_those_bits_and_gradients(activation: Activation) -> None:
    rows, upstream = X.flatten(0, 1), UPSTREAM.flatten(0, 1)[:, : 12 if activation.gated else 24]
    x = rows.clone().requires_grad_()
    found = recorded.activate(x, activation)
    with torch.no_grad():
        assert_same_bits(found.detach().numpy(), recorded.activate(x, activation).numpy(), "recorded")
    found.backward(upstream)
    truth = rows.double().requires_grad_()
    exact = activation.of_parts(activation.parts(truth))
    torch.testing.assert_close(found.detach().double(), exact.detach(), rtol=1e-5, atol=1e-6)
    exact.backward(upstream.double())
    torch.testing.assert_close(x.grad.double(), truth.grad, rtol=1e-5, atol=1e-6)


def test_gradients_of_many_equal_tokens_are_added_up_in_float32() -> None:
    table = torch.zeros(4, 2, dtype=torch.bfloat16, requires_grad=True)
    tokens = torch.tensor([2] * 1000 + [0])
    rows = recorded.widened_rows(tokens, table)
    assert rows.dtype == torch.float32
    rows.sum().backward()
    assert table.grad.dtype == torch.bfloat16
    assert table.grad[:, 0].tolist() == [1, 0, 1000, 0]  # bfloat16 sums of ones end at 256


RECORDED: dict[str, Callable[[Tensor], Tensor]] = {
    "a linear layer": lambda x: recorded.linear(x, X[0], None),
    "a norm": lambda x: recorded.rms_norm(x, WEIGHT, EPS),
    "a norm beside its rows": lambda x: torch.cat(recorded.norm_beside(x, WEIGHT, EPS)),
    "a norm of a sum": lambda x: torch.cat(recorded.norm_of_sum(x, x, WEIGHT, EPS)),
    "an activation": lambda x: recorded.activate(x, Activation("silu", True)),
}


@pytest.mark.parametrize("name", RECORDED)
def test_a_second_derivative_is_an_error(name: str) -> None:
    x = X.flatten(0, 1).clone().requires_grad_()
    (first,) = torch.autograd.grad(RECORDED[name](x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rows", [0, 1, 300])
def test_a_linear_layer_has_the_bits_of_the_public_function(rows: int, biased: bool, dtype: torch.dtype) -> None:
    make = torch.Generator().manual_seed(rows)
    x, above = (torch.randn(rows, width, generator=make) for width in (24, 40))
    weight, bias = torch.randn(40, 24, generator=make).to(dtype), torch.randn(40, generator=make).to(dtype)
    if dtype == torch.float64:  # as the public function
        with pytest.raises(farspan.DtypeError, match="weight"):
            recorded.linear(x, weight, None)
        return
    found = []
    for function in (recorded.linear, lambda *given: farspan.linear(*given[:2], _widened(given[2]))):
        leaves = [t.clone().requires_grad_() for t in (x, weight, *([bias] if biased else []))]
        out = function(*leaves, *([] if biased else [None]))
        out.backward(above)
        assert [t.grad.dtype for t in leaves] == [t.dtype for t in leaves]
        found.append([out.detach(), *(t.grad for t in leaves)])
    for name, one, other in zip(("output", "x", "weight", "bias"), *found, strict=False):
        assert_same_bits(one.float().numpy(), other.float().numpy(), name)


def _widened(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.float()


@pytest.mark.parametrize("asks", range(1, 8))
def test_a_linear_layer_computes_and_keeps_what_is_asked_for(asks: int) -> None:
    make = torch.Generator().manual_seed(asks)
    shapes = {"x": (7, 24), "weight": (5, 24), "bias": (5,)}
    wanted = [bool(asks >> place & 1) for place in range(3)]
    given = [
        torch.randn(shape, generator=make).requires_grad_(a) for shape, a in zip(shapes.values(), wanted, strict=True)
    ]
    whole = [t.detach().clone().requires_grad_() for t in given]
    for leaves in (given, whole):
        recorded.linear(*leaves).square().sum().backward()
    for name, one, other, wants in zip(shapes, given, whole, wanted, strict=True):
        assert (one.grad is not None) == wants, name
        if wants:
            assert_same_bits(one.grad.numpy(), other.grad.numpy(), name)
    kept = recorded.linear(*given).grad_fn.saved_tensors[0]
    assert (kept is not None) == wanted[1], "x is for the gradient of the weight"


COUNTS = (4, 2, 2)


@pytest.mark.parametrize("lengths", [(9, 9, 9), (4, 1, 22)], ids=["equal lengths", "ragged"])
def test_heads_that_lie_packed_are_mixed_as_attention_does(lengths: tuple[int, ...]) -> None:
    make = torch.Generator().manual_seed(9)
    tokens, dim = sum(lengths), 16
    heads, upstream = (torch.randn(tokens, count, dim, generator=make) for count in (sum(COUNTS), COUNTS[0]))
    offsets = np.cumsum([0, *lengths])
    ragged = {"query_offsets": offsets, "key_offsets": offsets}
    time = lengths[0] if len(set(lengths)) == 1 else None
    hooks = hook_arguments(heads.numpy(), causal=True, window=7, **({} if time else ragged))

    def apart(heads: Tensor) -> Tensor:
        return farspan.attention(*heads.split(COUNTS, 1), causal=True, window=7, **ragged).flatten(1)

    found = []
    for mix in (lambda x: recorded.mix_heads(x, Call(COUNTS, time, hooks)), apart):
        x = heads.clone().requires_grad_()
        mixed = mix(x)
        mixed.backward(upstream.flatten(1))
        found.append((mixed.detach().numpy(), x.grad.numpy()))
    for name, one, other in zip(("mixed", "gradient"), *found, strict=True):
        assert_same_bits(one, other, name)


def test_a_sum_is_a_sum() -> None:
    x, y = X.clone().requires_grad_(), X.roll(1).requires_grad_()
    total = recorded.add(x, y)
    assert_same_bits(total.detach().numpy(), (x + y).detach().numpy(), "sum")
    total.backward(UPSTREAM)
    assert torch.equal(x.grad, UPSTREAM)
    assert torch.equal(y.grad, UPSTREAM)
