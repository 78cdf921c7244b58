"""Sequences one behind the other: `lengths` in a model's call, and its loss. No sequence sees another."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.models import ids, reference_twin, small_model
from torch import Tensor

import farspan
from farspan import positions as P
from farspan.model import Transformer
from farspan.model.passes import plan_documents
from farspan.positions import Scheme, Span
from farspan.positions.scheme import Hooks
from farspan.testing import assert_same_bits

LENGTHS = (5, 1, 12, 12, 3)
TOKENS = ids(1, sum(LENGTHS), seed=4)[0]
SCHEMES: dict[str, Scheme] = {
    "RoPE": P.RoPE(), "DynamicNTK": P.DynamicNTK(2.0, 4), "YaRN": P.YaRN(4.0, 4), "ALiBi": P.ALiBi(), "NoPE": P.NoPE(),
    "LongRoPE": P.LongRoPE((1.0,) * 6, (2.0,) * 6, 4, 16), "LogN": P.LogN(3), "SelfExtend": P.SelfExtend(2, 3),
    "ReRoPE": P.ReRoPE(4), "Streaming": P.Streaming(1, 4),
    "HardALiBi": P.HardALiBi(), "Sandwich": P.Sandwich(), "RandomPositions": P.RandomPositions(40),
    "SSMax of T5": P.SSMax(9, inner=P.T5(8, 20)), "Relative": P.Relative(8), "forget gates": P.Forgetting(),
    "random KERPLE": P.RandomPositions(40, inner=P.Kerple()),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ByLength(Scheme):
    """A window as long as half the sequence, which no ragged call can say of several at once."""

    def hooks(self, span: Span) -> Hooks:
        return {"window": max(1, span.longest // 2)}


@dataclasses.dataclass(frozen=True)
class Everything(Scheme):
    """The hooks with an entry for each token that no scheme of the package has."""

    def hooks(self, span: Span) -> Hooks:
        order = span.key_order.astype(np.float32)
        return {
            "query_positions": order * 2, "key_positions": order * 2 + 1, "key_bias": (order % 3)[None, None],
            "query_scale": np.float32([[0.5]]), "sink": np.zeros(span.heads, np.float32),
            "rotary": P.RoPE().rotary(span),
        }  # fmt: skip


def model_of(scheme: Scheme, **changes: Any) -> Transformer:
    return small_model(positions=scheme, windows=(None, 4, None), **changes)


def apart(model: Transformer, compute: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """What comes of each sequence alone."""
    return [compute(part[None]) for part in TOKENS.split(LENGTHS)]


@torch.no_grad()
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("scheme", [*SCHEMES.values(), Everything(), ByLength()], ids=lambda own: type(own).__name__)
def test_packed_sequences_have_the_bits_that_they_have_alone(scheme: Scheme, dtype: str) -> None:
    model = model_of(scheme, dtype=dtype)
    packed = model(TOKENS, lengths=LENGTHS)
    assert packed.shape == (len(TOKENS), 48)
    alone = torch.cat([hidden[0] for hidden in apart(model, model)])
    assert_same_bits(packed.float().numpy(), alone.float().numpy(), f"{scheme}")


def test_all_schemes_of_the_package_need_one_call() -> None:
    for scheme in [*SCHEMES.values(), Everything()]:
        assert len(plan_documents(model_of(scheme).config, LENGTHS).calls) == 1, scheme
    assert len(plan_documents(model_of(ByLength()).config, LENGTHS).calls) == 4


@pytest.mark.parametrize("name", SCHEMES)
def test_the_packed_loss_and_its_gradients_are_those_of_the_sequences_apart(name: str) -> None:
    """In float64, where one token of another sequence would show."""
    model = reference_twin(model_of(SCHEMES[name])).requires_grad_()
    packed = model.loss(TOKENS, lengths=LENGTHS, reduction="sum")
    packed.backward()
    found = [parameter.grad for parameter in model.parameters()]
    model.zero_grad(set_to_none=True)
    alone = sum(apart(model, lambda part: model.loss(part, reduction="sum")))
    alone.backward()
    torch.testing.assert_close(packed, alone, rtol=1e-6, atol=0)  # the sums are float32
    for gradient, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-5, atol=1e-7)


def test_lengths_that_cannot_be() -> None:
    model = small_model()
    for wrong in ((5, 1), (*LENGTHS, 1), (*LENGTHS, 0), (len(TOKENS) + 1, -1)):
        with pytest.raises(farspan.ArgumentError, match=r"^lengths: expected .* at least 1 that add up to the 33 ids"):
            model(TOKENS, lengths=wrong)
    with pytest.raises(farspan.ArgumentError, match=r"^ids: expected shape \[tokens\], given shape \[1, 33\]"):
        model(TOKENS[None], lengths=LENGTHS)
    with pytest.raises(farspan.ArgumentError, match=r"^lengths: expected None, as there is a cache"):
        model(TOKENS, model.new_cache(1), lengths=LENGTHS)
    with pytest.raises(farspan.ArgumentError, match=r"^lengths: expected integers"):
        model(TOKENS, lengths=[16.5, 16.5])


# ------------------------------------------------------------------------------------------------------------ the loss


def test_the_loss_is_the_cross_entropy_of_the_logits() -> None:
    model, tokens = small_model(learns=True), ids(2, 9)
    targets = ids(2, 9, seed=1)
    targets[0, 2:5] = -100
    logits = model.logits(tokens).detach().double()

    def expected(rows: Tensor, wanted: Tensor, **options: Any) -> Tensor:
        return torch.nn.functional.cross_entropy(rows.flatten(0, 1), wanted.flatten(), **options)

    def close(found: Tensor, truth: Tensor) -> None:
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), truth.view(found.shape), rtol=1e-5, atol=1e-5)

    close(model.loss(tokens), expected(logits[:, :-1], tokens[:, 1:]))
    close(model.loss(tokens, targets), expected(logits, targets))
    close(model.loss(tokens, targets, reduction="sum"), expected(logits, targets, reduction="sum"))
    close(model.loss(tokens, targets, reduction="none"), expected(logits, targets, reduction="none"))
    other = targets.masked_fill(targets == -100, 7)
    close(model.loss(tokens, other, ignore_index=7), expected(logits, other, ignore_index=7))
    assert model.loss(tokens).requires_grad
    assert model.loss([[1, 2, 3]], [[2, 3, 4]]).ndim == 0


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        (ids(2, 8), farspan.ArgumentError, r"^targets: expected shape \[2, 9\], that of ids, given shape \[2, 8\]"),
        (torch.zeros(2, 9), farspan.DtypeError, "^targets: expected integers, one for each id, given torch.float32"),
    ],
)
def test_targets_that_cannot_be(targets: Tensor, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        small_model("reference").loss(ids(2, 9), targets)


def test_recomputed_layers_give_the_same_gradients() -> None:
    model = small_model(learns=True)
    kept = torch.autograd.grad(model.loss(ids(2, 9)), list(model.parameters()))
    calls = []
    model.layers[1].register_forward_pre_hook(lambda module, given: calls.append(1))
    recomputed = torch.autograd.grad(model.loss(ids(2, 9), recompute=True), list(model.parameters()))
    assert len(calls) == 2
    assert all(torch.equal(a, b) for a, b in zip(kept, recomputed, strict=True))
    with torch.no_grad():
        model.loss(ids(2, 9), recompute=True)
    assert len(calls) == 3


def test_a_cache_records_nothing() -> None:
    model, tokens = small_model(learns=True), ids(1, 9)
    cache = model.new_cache(1)
    assert not model(tokens, cache).requires_grad
    assert model(tokens).requires_grad
