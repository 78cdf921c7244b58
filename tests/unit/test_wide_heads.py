"""Attention among widened heads under autograd: the bits of the plain path, the gradients of float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import farspan
from farspan import positions as P
from farspan import reference
from farspan._backend.packed import Call
from farspan.attention import hook_arguments
from farspan.model import recorded
from farspan.model.operations import TensorOperations
from farspan.model.positions import LayerPositions
from farspan.positions import LayerShape
from farspan.testing import assert_same_bits

SCHEME = P.Relative(6)
DIM = 5
COUNTS = [(1, 1, 1), (3, 1, 1), (5, 5, 5)]
LENGTHS = {
    "equal": (7, 7), "one token": (1,), "tokens alone": (1, 1, 1), "ragged": (4, 1, 22), "many tokens": (300, 20),
}  # fmt: skip
NAMES = ("heads", "weight", "bias", "content_bias")
Counts = tuple[int, int, int]


class Case:
    """Numbers of a call, and what it is given beside them."""

    def __init__(self, counts: Counts, lengths: tuple[int, ...], weights: torch.dtype = torch.float32) -> None:
        make = torch.Generator().manual_seed(sum(counts) + sum(lengths))
        self.counts, self.lengths = counts, lengths
        tokens, heads = sum(lengths), counts[0]
        shapes = [(tokens, sum(counts), DIM), (heads, SCHEME.dim, DIM), (heads, SCHEME.dim), (heads, DIM)]
        given = [torch.randn(shape, generator=make) for shape in shapes]
        self.given = [given[0], *[x.to(weights) for x in given[1:]]]
        self.upstream = torch.randn(tokens, heads * DIM, generator=make)
        span = P.Span(1, (1,), heads, DIM)
        self.ahead = SCHEME.features(span)["ahead"]
        self.hooks = {"causal": True, "scale": 0.4, **SCHEME.fixed_hooks(span)}
        offsets = np.cumsum([0, *lengths])
        self.ragged = {"query_offsets": offsets, "key_offsets": offsets}

    def leaves(self, asking: tuple[str, ...] = NAMES) -> list[Tensor]:
        return [x.clone().requires_grad_(name in asking) for name, x in zip(NAMES, self.given, strict=True)]

    def recorded(self, heads: Tensor, *parameters: Tensor) -> Tensor:
        time = self.lengths[0] if len(set(self.lengths)) == 1 else None
        hooks = hook_arguments(heads.detach().numpy(), **self.hooks, **({} if time else self.ragged))
        return recorded.mix_wide_heads(
            heads, recorded.Widening(*parameters, self.ahead), Call(self.counts, time, hooks)
        )

    def plain(self, heads: Tensor, *parameters: Tensor) -> Tensor:
        """As a layer does it where nobody records."""
        module = LayerPositions((SCHEME,), LayerShape(self.counts[0], DIM, 8), "fused")
        names = ("position_query.weight", "position_query.bias", "content_bias")
        module.load_state_dict(dict(zip(names, parameters, strict=True)), assign=True)
        query, key, value = heads.split(self.counts, 1)
        wide = module.widened(query, key, {"ahead": self.ahead}, TensorOperations("fused", torch.float32))
        return farspan.attention(*wide, value, **self.hooks, **self.ragged).flatten(1)

    def exact(self, heads: Tensor, weight: Tensor, bias: Tensor, content_bias: Tensor) -> Tensor:
        query, key, value = heads.split(self.counts, 1)
        asked = torch.einsum("thd,hrd->thr", query, weight) + bias
        ahead = torch.tensor(self.ahead).to(key).expand(*key.shape[:2], -1)
        wide = torch.cat([asked, query + content_bias], -1), torch.cat([ahead, key], -1)
        ragged: dict[str, Any] = {name: torch.tensor(x) for name, x in self.ragged.items()}
        return reference.attention(*wide, value, **self.hooks, **ragged).flatten(1)


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_they_are_mixed_as_the_plain_path_does(counts: Counts, lengths: tuple[int, ...], weights: torch.dtype) -> None:
    case = Case(counts, lengths, weights)
    leaves = case.leaves()
    found = case.recorded(*leaves)
    with torch.no_grad():
        assert_same_bits(found.detach().numpy(), case.plain(*case.given).numpy(), "mixed")
    found.backward(case.upstream)
    truth = [x.double().requires_grad_() for x in case.given]
    case.exact(*truth).backward(case.upstream.double())
    rounding = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}[weights]
    for name, x, exact in zip(NAMES, leaves, truth, strict=True):
        assert x.grad.dtype == x.dtype
        own = 1e-5 if name == "heads" else 1e-5 + rounding
        largest = float(exact.grad.abs().max())
        torch.testing.assert_close(x.grad.double(), exact.grad, rtol=own, atol=2e-6 * (1 + largest), msg=name)


@pytest.mark.parametrize("asking", [NAMES[1:], *[(name,) for name in NAMES]], ids=str)
def test_only_gradients_that_are_asked_for_are_there(asking: tuple[str, ...]) -> None:
    case = Case((3, 1, 1), (4, 1, 22))
    some, every = case.leaves(asking), case.leaves()
    for leaves in (some, every):
        case.recorded(*leaves).backward(case.upstream)
    for name, own, whole in zip(NAMES, some, every, strict=True):
        if name in asking:
            assert_same_bits(own.grad.numpy(), whole.grad.numpy(), name)
        else:
            assert own.grad is None


def test_a_second_derivative_is_an_error() -> None:
    case = Case((3, 1, 1), (4, 1, 22))
    leaves = case.leaves()
    (first,) = torch.autograd.grad(case.recorded(*leaves).square().sum(), leaves[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        first.sum().backward()


def test_a_parameter_that_changes_before_the_backward_pass_is_an_error() -> None:
    case = Case((3, 1, 1), (7, 7))
    leaves = case.leaves()
    mixed = case.recorded(*leaves)
    with torch.no_grad():
        leaves[1].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        mixed.backward(case.upstream)
