"""`farspan.lens` against its definition: the logits of every layer, built here in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.models import VOCAB, ids, small_model
from torch import Tensor

import farspan
from farspan import Lens, Transformer, Translators, reference
from farspan.inside import final, reading
from farspan.testing import assert_same_bits

FIELDS = ("entropy", "kl", "logprob", "rank", "top_token", "top_logprob")
DEPTH = 3

KINDS: dict[str, dict[str, Any]] = {
    "plain": {}, "scaled logits": {"logits_scaling": 4.0}, "soft cap": {"final_logit_softcapping": 3.0},
    "half": {"dtype": "bfloat16"},
    "layer norm": {"norm": "layer", "gated_mlp": False, "hidden_act": "gelu_pytorch_tanh"},
}  # fmt: skip


def random_translators(width: int = 48, seed: int = 1) -> Translators:
    noise = torch.Generator().manual_seed(seed)
    weight = torch.randn(DEPTH, width, width, generator=noise) * 0.1
    return Translators(weight, torch.randn(DEPTH, width, generator=noise))


def log_probabilities(model: Transformer, tokens: Tensor, translators: Translators | None = None) -> Tensor:
    states = model.hidden_states(tokens)
    if translators is not None:
        moved = torch.einsum("lij,lbtj->lbti", translators.weight, states[:-1]) + translators.bias[:, None, None]
        states = torch.cat((states[:-1] + moved, states[-1:]))
    hidden, settings = model.final_norm(states).double(), model.logit_settings
    return reference.logits(hidden, model.unembedding.double(), **settings).double().log_softmax(-1)


def check(found: Lens, expected: Tensor, targets: Tensor, tolerance: float = 1e-4) -> None:
    def close(name: str, exact: Tensor) -> None:
        torch.testing.assert_close(getattr(found, name).double(), exact, rtol=0, atol=tolerance, equal_nan=True)

    p = expected.exp()
    close("entropy", -(p * expected).sum(-1))
    close("kl", (p[-1] * (expected[-1] - expected)).sum(-1))
    known = (targets >= 0).expand(expected.shape[:-1])
    at = targets.clamp(min=0).expand(expected.shape[:-1])[..., None]
    picked = expected.gather(-1, at)
    close("logprob", picked[..., 0].masked_fill(~known, torch.nan))
    least, most = ((expected > picked + x).sum(-1) for x in (tolerance, -tolerance))
    assert ((found.rank >= least) & (found.rank < most))[known].all()
    assert (found.rank[~known] == -1).all()
    top = found.top_token.shape[-1]
    close("top_logprob", expected.sort(-1, descending=True).values[..., :top])
    torch.testing.assert_close(expected.gather(-1, found.top_token), found.top_logprob.double(), rtol=0, atol=1e-4)


def next_tokens(tokens: Tensor) -> Tensor:
    return torch.cat((tokens[:, 1:], torch.full_like(tokens[:, :1], -1)), 1)


def same(found: Lens, expected: dict[str, Tensor], what: str) -> None:
    for name in FIELDS:
        assert_same_bits(getattr(found, name).numpy(), expected[name].numpy(), f"{what}: {name}")


def fields(of: Lens, *index: Any) -> dict[str, Tensor]:
    return {name: getattr(of, name)[index] for name in FIELDS}


@pytest.mark.parametrize("translated", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_the_lens_is_what_the_logits_of_each_layer_say(kind: str, translated: bool) -> None:
    model, tokens = small_model(**KINDS[kind]), ids(2, 19)
    translators = random_translators() if translated else None
    found = farspan.lens(model, tokens, top=7, translators=translators)
    # A half-precision norm rounds translated states that differ in the last bit of float32 to other numbers.
    tolerance = 0.1 if translated and kind == "half" else 1e-4
    if tolerance < 0.1:
        check(found, log_probabilities(model, tokens, translators), next_tokens(tokens))
    else:
        exact = -(log_probabilities(model, tokens, translators).exp() * log_probabilities(model, tokens, translators))
        torch.testing.assert_close(found.entropy.double(), exact.sum(-1), rtol=0, atol=tolerance)
    assert (found.kl[-1] <= 1e-5).all()
    assert (found.kl >= 0).all()
    assert (found.layers, found.positions) == (tuple(range(4)), tuple(range(19)))


def test_given_targets_are_asked_for_at_every_position() -> None:
    model, tokens, targets = small_model(), ids(2, 19), ids(2, 19, seed=4)
    check(farspan.lens(model, tokens, targets=targets), log_probabilities(model, tokens), targets)


def test_some_layers_and_positions_have_the_bits_they_have_among_all() -> None:
    model, tokens, translators = small_model(), ids(2, 19), random_translators()
    whole = farspan.lens(model, tokens, translators=translators)
    some = farspan.lens(model, tokens, translators=translators, layers=[-1, 1], positions=(4, -1, 0))
    assert (some.layers, some.positions) == ((3, 1), (4, 18, 0))
    chosen = {name: x[[3, 1]][:, :, [4, 18, 0]] for name, x in fields(whole).items()}
    same(some, chosen, "sub-sampled")
    assert farspan.lens(model, tokens, layers=[], positions=[2]).entropy.shape == (0, 2, 1)


def test_chunks_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = small_model(), ids(2, 19)
    whole = farspan.lens(model, tokens)
    monkeypatch.setattr(reading, "ROWS", 5)
    same(farspan.lens(model, tokens), fields(whole), "in chunks")


@pytest.mark.parametrize("top", [0, 129, 300])
def test_more_of_the_likeliest_than_score_lists(top: int) -> None:
    model, tokens = small_model(vocab_size=300), ids(1, 9)
    found = farspan.lens(model, tokens, top=top)
    check(found, log_probabilities(model, tokens), next_tokens(tokens))
    assert found.top_token.shape == (4, 1, 9, top)


def test_sums_of_rows_are_those_of_any_width() -> None:
    for width in (1, 2, 3, 48, 97):
        x = torch.arange(width * 2, dtype=torch.float32).view(2, width)
        assert torch.equal(final.row_sums(x), x.sum(-1))


def test_translators_are_saved_as_they_are(tmp_path: Path) -> None:
    given, path = random_translators(), tmp_path / "translators.safetensors"
    given.save(path)
    loaded = Translators.load(path)
    assert torch.equal(loaded.weight, given.weight)
    assert torch.equal(loaded.bias, given.bias)
    assert repr(loaded) == "Translators(layers=3, dim=48)"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_of_something_else_is_no_file_of_translators(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    with pytest.raises(farspan.CheckpointError, match="expected the tensors weight and bias of translators"):
        Translators.load(tmp_path / "model.safetensors")
    with pytest.raises(farspan.CheckpointError, match=r"absent: expected a readable file"):
        Translators.load(tmp_path / "absent")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"ids": torch.tensor([[3, VOCAB]])}, f"ids: expected ids of the vocabulary, 0 to 100, given {VOCAB}"),
        ({"ids": torch.empty(1, 0, dtype=torch.long)}, "ids: expected at least one token"),
        ({"top": VOCAB + 1}, "top: expected 0 to 101"),
        ({"targets": ids(2, 18)}, "targets: expected shape"),
        ({"targets": ids(2, 19) - 1000}, "targets: expected ids of the vocabulary"),
        ({"translators": random_translators(47)}, "translators: expected some for 3 layers of width 48"),
        ({"layers": [4]}, "layers: expected indices from 0 to 3"),
        ({"layers": [0, -4]}, "layers: expected each layer once"),
        ({"positions": [19]}, "positions: expected indices from 0 to 18"),
    ],
)
def test_wrong_arguments_are_named(given: dict[str, Any], told: str) -> None:
    with pytest.raises(farspan.ArgumentError) as caught:
        farspan.lens(small_model(), **{"ids": ids(2, 19), **given})
    assert str(caught.value).startswith(told)


def test_wrong_types_are_named() -> None:
    model, tokens = small_model(), ids(2, 19)
    nothing: Any = [1]
    for call, told in (
        (lambda: farspan.lens(nothing, tokens), "model: expected a farspan.Transformer"),
        (lambda: farspan.lens(model, tokens, translators=nothing), "translators: expected farspan.Translators"),
        (lambda: farspan.lens(model, tokens, targets=tokens.float()), "targets: expected integers"),
        (lambda: Translators(torch.ones(1, 2, 2, dtype=torch.int64), torch.ones(1, 2)), "weight: expected floating"),
    ):
        with pytest.raises(farspan.DtypeError, match=told):
            call()
