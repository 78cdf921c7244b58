"""`farspan.train_lens`: what it learns, that it repeats itself, and that the model stays as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.models import ids, small_model

import farspan
from farspan import Translators

TOKENS = ids(1, 200)[0]


def trained(model: Any, **changes: Any) -> Translators:
    return farspan.train_lens(model, TOKENS, **{"steps": 12, "context": 16, "batch": 4, **changes})


@pytest.mark.parametrize("changes", [{}, {"final_logit_softcapping": 3.0}, {"dtype": "bfloat16"}], ids=str)
def test_training_brings_every_layer_closer_to_the_final_one(changes: dict[str, Any]) -> None:
    model = small_model(**changes)
    before = [parameter.clone() for parameter in model.parameters()]
    told: list[tuple[int, int, str]] = []
    found = trained(model, progress=lambda *step: told.append(step))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    tokens = TOKENS[:160].view(4, 40)
    plain, tuned = (farspan.lens(model, tokens, translators=x).kl.mean((1, 2)) for x in (None, found))
    assert (tuned[:-1] < 0.97 * plain[:-1]).all()
    assert [step[:2] for step in told] == [(step, 12) for step in range(1, 13)]
    assert told[0][2].startswith("KL ")


def test_a_model_that_learns_gets_no_gradients() -> None:
    model = small_model().requires_grad_(True)
    trained(model, steps=1)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_seed_alone_decides() -> None:
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(len(found))
        found.append(trained(small_model(), steps=2, seed=seed))
    assert torch.equal(found[0].weight, found[1].weight)
    assert torch.equal(found[0].bias, found[1].bias)
    assert not torch.equal(found[0].weight, found[2].weight)


def test_no_steps_give_the_logit_lens() -> None:
    found = trained(small_model(), steps=0)
    assert not found.weight.any()
    assert not found.bias.any()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"context": 201}, "tokens: expected at least 201 ids, one context, given 200"),
        ({"context": 0}, "context: expected an integer, at least 1"),
        ({"batch": 0}, "batch: expected an integer, at least 1"),
        ({"steps": -1}, "steps: expected an integer, at least 0"),
    ],
)
def test_wrong_arguments_are_named(given: dict[str, Any], told: str) -> None:
    with pytest.raises(farspan.ArgumentError) as caught:
        trained(small_model(), **given)
    assert str(caught.value).startswith(told)
    with pytest.raises(farspan.DtypeError, match="seed: expected an integer"):
        trained(small_model(), seed=0.5)
