"""The operators and a model under `torch.func`: gradients and batches as torch has them, and clear refusals."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from support.training import CONFIG, learner
from torch import Tensor
from torch.func import functional_call, grad, jacrev, jvp, vjp, vmap

import farspan
from farspan import reference
from farspan._errors import BackendError

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


QUERY, KEY, VALUE = random(1, 4, 5, 8), random(1, 2, 5, 8, seed=1), random(1, 2, 5, 8, seed=2)
X, WEIGHT, TARGETS = random(3, 8), random(11, 8), torch.tensor([4, 0, 10])
TABLE = random(4, 5, seed=3)

Losses = dict[str, tuple[Callable[[Any, Tensor], Tensor], Tensor]]
LOSSES: Losses = {
    "query": (lambda f, q: f.attention(q, KEY, VALUE, causal=True).square().sum(), QUERY),
    "key": (lambda f, k: f.attention(QUERY, k, VALUE, causal=True, softcap=5.0).square().sum(), KEY),
    "table": (
        lambda f, t: f.attention(QUERY, KEY, VALUE, causal=True, distance_bias=farspan.DistanceBias(t)).square().sum(),
        TABLE,
    ),
    "linear, x": (lambda f, x: f.linear(x, WEIGHT).square().sum(), X),
    "linear, weight": (lambda f, w: f.linear(X, w).square().sum(), WEIGHT),
    "loss": (lambda f, w: f.linear_cross_entropy(X, w, TARGETS, label_smoothing=0.1), WEIGHT),
    "score": (lambda f, w: f.score(X, w, TARGETS).entropy.sum(), WEIGHT),
    "divergence": (lambda f, w: f.divergence(X, w, X + 1, WEIGHT).sum(), WEIGHT + 0.1),
}


@pytest.mark.parametrize("name", LOSSES)
def test_grad_is_that_of_the_reference(name: str) -> None:
    loss, at = LOSSES[name]
    found = grad(lambda x: loss(farspan, x))(at)
    torch.testing.assert_close(found, grad(lambda x: loss(reference, x))(at), rtol=1e-4, atol=1e-5)
    value, pull = vjp(lambda x: loss(farspan, x), at)
    assert torch.equal(pull(torch.ones_like(value))[0], found)
    leaf = at.clone().requires_grad_()
    loss(farspan, leaf).backward()
    torch.testing.assert_close(found, leaf.grad, rtol=0, atol=0)


def test_jacrev_and_vmap_of_a_gradient() -> None:
    torch.testing.assert_close(jacrev(lambda x: farspan.linear(x, WEIGHT))(X[0]), WEIGHT)
    several = random(4, 3, 8), torch.randint(11, (4, 3), generator=torch.Generator().manual_seed(0))

    def ours(weight: Tensor, x: Tensor, targets: Tensor) -> Tensor:
        return farspan.linear_cross_entropy(x, weight, targets)

    def torchs(weight: Tensor, x: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(x @ weight.T, targets)

    each, wanted = (vmap(grad(loss), (None, 0, 0))(WEIGHT, *several) for loss in (ours, torchs))
    torch.testing.assert_close(each, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", LOSSES)
def test_a_second_derivative_is_an_error_that_says_so(name: str) -> None:
    loss, at = LOSSES[name]
    with pytest.raises(BackendError, match=r"expected no second derivative: farspan\.\w+ has a first one only"):
        grad(lambda x: grad(lambda x: loss(farspan, x))(x).square().sum())(at)


@pytest.mark.parametrize("name", LOSSES)
def test_a_derivative_in_forward_mode_is_an_error_that_says_so(name: str) -> None:
    loss, at = LOSSES[name]
    expected = r"expected no derivative in forward mode: farspan\.(\w+) has none \(farspan\.reference\.\1\)"
    with pytest.raises(BackendError, match=expected):
        jvp(lambda x: loss(farspan, x), (at,), (at,))
    with torch.autograd.forward_ad.dual_level(), pytest.raises(BackendError, match=expected):
        loss(farspan, torch.autograd.forward_ad.make_dual(at, at))


def test_an_operation_without_a_gradient_refuses_under_grad_too() -> None:
    with pytest.raises(BackendError, match=r"^hidden: expected no gradient: farspan\.top has none yet"):
        grad(lambda x: farspan.top(x, WEIGHT, 2).logprob.sum())(X)
    with torch.autograd.forward_ad.dual_level():  # without a tangent there is nothing to refuse
        assert torch.equal(farspan.top(X, WEIGHT, 2).token, farspan.top(X, WEIGHT, 2).token)


class Loss(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = learner()

    def forward(self, ids: Tensor) -> Tensor:
        return self.model.loss(ids)


def test_a_models_gradients_by_functional_call() -> None:
    module = Loss()
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    ids = torch.randint(CONFIG.vocab_size, (3, 7), generator=torch.Generator().manual_seed(0))
    found = grad(lambda weights: functional_call(module, weights, (ids,)))(weights)
    module(ids).backward()
    for name, weight in module.named_parameters():
        torch.testing.assert_close(found[name], weight.grad, rtol=1e-4, atol=1e-6)
    each = vmap(grad(lambda weights, row: functional_call(module, weights, (row[None],))), (None, 0))(weights, ids)
    for name, gradients in each.items():
        torch.testing.assert_close(gradients.mean(0), found[name], rtol=1e-4, atol=1e-6)


def test_gradients_of_a_model_in_half_precision_by_functional_call() -> None:
    module = Loss().to(torch.bfloat16)
    weights = {name: weight.detach() for name, weight in module.named_parameters()}
    ids = torch.randint(CONFIG.vocab_size, (3, 7), generator=torch.Generator().manual_seed(0))
    found = grad(lambda weights: functional_call(module, weights, (ids,)))(weights)
    module(ids).backward()
    for name, weight in module.named_parameters():
        assert found[name].dtype == torch.bfloat16
        torch.testing.assert_close(found[name], weight.grad, rtol=0.05, atol=1e-3)
