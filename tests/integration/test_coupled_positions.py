"""Positions that a caller gives with the ids: in a pass, with a cache, packed, and in `generate`."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.eager import Scores, eager, products, weights_of
from support.models import ids, small_model
from torch import Tensor

import farspan
from farspan import positions as P
from farspan.testing import assert_close, assert_same_bits

PLACED = [0, 1, 2, 3, 170, 3, 2, 1, 0, 5, 0, 99]


@pytest.mark.parametrize(
    "inner", [P.RoPE(), P.T5(8, 20), P.Relative(8), P.ALiBi(), P.HardALiBi(2)], ids=lambda s: type(s).__name__
)
def test_coupled_tokens_stand_where_the_caller_says(inner: P.Scheme) -> None:
    model = small_model(num_hidden_layers=2, positions=P.Coupled(inner))
    tokens = ids(2, len(PLACED))
    at = torch.tensor([PLACED, PLACED[::-1]])
    truth = eager(model, weights_of(model), tokens, coupled(inner, at)).detach()
    found = model(tokens, positions=at)
    assert_close(found.double(), truth, 5e-5 * float(1 + truth.abs().max()), repr(inner))
    cache = model.new_cache(2)
    parts = [model(tokens[:, end - 1 : end], cache, positions=at[:, :end]) for end in range(1, 13)]
    assert_same_bits(torch.cat(parts, 1).numpy(), found.numpy(), "token by token")
    packed = model(torch.cat([tokens[0], tokens[1, :5]]), lengths=(12, 5), positions=[*PLACED, *PLACED[::-1][:5]])
    assert_same_bits(packed[:12].numpy(), found[0].numpy(), "packed")
    assert_same_bits(packed[12:].numpy(), found[1, :5].numpy(), "packed, the second")
    in_order = torch.arange(len(PLACED)).expand(2, -1)
    assert_same_bits(model(tokens).numpy(), model(tokens, positions=in_order).numpy(), "without positions")


def test_drawn_places_keep_together_what_a_caller_puts_together() -> None:
    """Places stand where as many tokens in order would: those of a shorter sequence at other ones."""
    drawing = P.RandomPositions(400, seed=3)
    model = small_model(num_hidden_layers=2, positions=P.Coupled(drawing))
    tokens, short = ids(2, len(PLACED)), PLACED[:4] + PLACED[5:9]
    at, of_short = (torch.tensor(drawn(drawing, places)) for places in (PLACED, short))
    assert sorted(set(of_short.tolist())) != sorted(set(at.tolist()))[: len(set(short))]
    truth = eager(model, weights_of(model), tokens, coupled(P.RoPE(), torch.stack([at, at]))).detach()
    found = model(tokens, positions=[PLACED, PLACED])
    assert_close(found.double(), truth, 5e-5 * float(1 + truth.abs().max()), "drawn")
    packed = model(torch.cat([tokens[0], tokens[1, :8]]), lengths=(12, 8), positions=[*PLACED, *short])
    assert_same_bits(packed[:12].numpy(), found[0].numpy(), "packed")
    truth = eager(model, weights_of(model), tokens[1:, :8], coupled(P.RoPE(), of_short[None])).detach()
    assert_close(packed[None, 12:].double(), truth, 5e-5 * float(1 + truth.abs().max()), "drawn for fewer places")
    with pytest.raises(farspan.ArgumentError, match="limit: expected at least the 401 places of a sequence, given 400"):
        model(tokens[:1, :2], positions=[[0, 400]])


def drawn(scheme: P.RandomPositions, places: list[int]) -> np.ndarray:
    count = max(places) + 1
    in_order = scheme.hooks(P.Span(time=count, lengths=(count,), heads=4, head_dim=12))
    found: np.ndarray = in_order["key_positions"][places]
    return found


def coupled(inner: P.Scheme, at: Tensor) -> Scores:
    """By the hooks of the inner scheme, whose distances are those of the places."""

    def scores(query: Tensor, key: Tensor, own: dict[str, Tensor], _: Tensor) -> Tensor:
        gap = at[:, :, None] - at[:, None]  # [batch, query, key]
        if isinstance(inner, P.RoPE):
            angle = at[:, None, :, None] * 10000.0 ** (-torch.arange(0, 12, 2) / 12).double()
            turned = [turn(x, angle) for x in (query, key)]
            return products(*turned)
        if isinstance(inner, P.Relative):
            angle = gap[..., None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8).double()
            asked = torch.einsum("bhtd,hrd->bhtr", query, own["position_query.weight"])
            asked = asked + own["position_query.bias"][:, None]
            waves = torch.cat([angle.sin(), angle.cos()], -1)
            of_content = (query + own["content_bias"][:, None]) @ key.mT
            return (of_content + torch.einsum("bhtr,btsr->bhts", asked, waves)) / 12**0.5
        if isinstance(inner, P.ALiBi):
            slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])
            return products(query, key) - slopes[:, None, None] * gap[:, None].abs()
        if isinstance(inner, P.HardALiBi):
            seen = torch.tensor([1, 2, math.inf, math.inf])[:, None, None]
            return products(query, key).masked_fill(gap[:, None].abs() >= seen, -math.inf)
        modeling = pytest.importorskip("transformers.models.t5.modeling_t5", reason="transformers is not installed")
        bucket = modeling.T5Attention._relative_position_bucket(-gap, True, 8, 20)
        return products(query, key) + own["bucket_bias"][:, bucket].transpose(0, 1)

    return scores


def turn(x: Tensor, angle: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat([first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], -1)


@pytest.mark.parametrize("draft", [None, "prompt-lookup"])
def test_generating_at_the_places_of_a_rule(draft: str | None) -> None:
    def rule(tokens: list[int]) -> list[int]:
        return [token % 5 + order // 3 for order, token in enumerate(tokens)]

    model = small_model(positions=P.Coupled())
    prompts = [ids(1, 9)[0].tolist(), ids(1, 4, seed=3)[0].tolist() * 2]
    written = model.generate(prompts, max_new_tokens=7, stop=(), positions=rule, draft=draft)
    for prompt, completion in zip(prompts, written, strict=True):
        text = list(prompt)
        for _ in range(7):
            hidden = model(torch.tensor([text]), positions=[rule(text)])
            text.append(int((hidden[0, -1] @ model.unembedding.T).argmax()))
        assert completion.tokens == text[len(prompt) :]
    assert model.generate(prompts, max_new_tokens=7, stop=())[0].tokens != written[0].tokens


def test_positions_that_cannot_be() -> None:
    model = small_model(positions=P.Coupled())
    for wrong in ([[0, 1]], [[0, 1, 2, -1]], [[0.5, 1, 2, 3]], [[0, 1, 2, 3], [0, 1, 2, 3]]):
        with pytest.raises(farspan.ArgumentError, match=r"^positions: expected integers"):
            model(ids(1, 4), positions=wrong)
    with pytest.raises(farspan.ArgumentError, match=r"^positions: expected None, as no layer"):
        small_model()(ids(1, 4), positions=[[0, 1, 2, 3]])
    with pytest.raises(farspan.ArgumentError, match=r"^positions: expected a callable"):
        model.generate([[1, 2]], positions=[0, 1])
    assert model.loss(ids(1, 4), positions=[[0, 1, 0, 1]]).item() != model.loss(ids(1, 4)).item()
