"""`model.attention_statistics`: every family against its definition, and bits that depend on nothing but the text."""

from __future__ import annotations

import pytest
import torch
from support.family_models import CASES
from support.models import ids, reference_twin, small_model

import farspan
from farspan import positions as P
from farspan.testing import assert_close, assert_same_bits


def check_against_reference(model: farspan.Transformer, tokens: torch.Tensor) -> farspan.AttentionStatistics:
    found, expected = model.attention_statistics(tokens), reference_twin(model).attention_statistics(tokens)
    assert isinstance(found, farspan.AttentionStatistics)
    layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
    for name, one, other in zip(found._fields, found, expected, strict=True):
        assert one.shape == (layers, len(tokens), heads, tokens.shape[1])
        assert one.dtype == torch.float32
        assert not one.requires_grad
        assert_close(one.numpy(), other.double().numpy(), 1e-3 * (1 + float(other.abs().max())), name)
    return found


@pytest.mark.parametrize("family", CASES)
def test_every_family_has_statistics(family: str, tmp_path: pytest.TempPathFactory) -> None:
    pytest.importorskip("transformers", reason="it makes the checkpoints")
    from support.family_models import theirs

    theirs(family).save_pretrained(tmp_path)
    model = farspan.Transformer.from_pretrained(str(tmp_path), dtype="float32")
    found = check_against_reference(model, ids(2, 37) % model.config.vocab_size)
    assert bool((found.sink > 0).all()) == model.config.attention_sinks


@pytest.mark.parametrize(
    "scheme", [P.ALiBi(), P.Streaming(2, 9), P.ReRoPE(8), P.LogN(8), P.DynamicNTK(4.0, 8)], ids=repr
)
def test_every_scheme_is_seen(scheme: P.Scheme) -> None:
    check_against_reference(small_model().with_positions(scheme), ids(2, 23))


def test_statistics_have_the_same_bits_however_they_are_asked_for() -> None:
    model, tokens = small_model(), ids(3, 40)
    found = model.attention_statistics(tokens)
    alone = model.attention_statistics(tokens[1:2].tolist())
    handle = model.layers[1].mlp.register_forward_hook(lambda *_: None)
    hooked = model.attention_statistics(tokens)
    handle.remove()
    for name, one, other, called in zip(found._fields, found, alone, hooked, strict=True):
        assert_same_bits(one[:, 1:2].numpy(), other.numpy(), f"{name} of a sequence alone")
        assert_same_bits(one.numpy(), called.numpy(), f"{name} of a model whose modules are called")


def test_no_tokens_have_no_statistics() -> None:
    model = small_model()
    for shape in ((0, 5), (2, 0)):
        found = model.attention_statistics(torch.zeros(shape, dtype=torch.int64))
        layers, heads = model.config.num_hidden_layers, model.config.num_attention_heads
        assert all(field.shape == (layers, shape[0], heads, shape[1]) for field in found)


def test_a_scheme_whose_rows_have_keys_of_their_own_is_refused() -> None:
    model = small_model().with_positions(P.FIRE())
    for look in (model.attention_statistics, lambda tokens: farspan.attribution(model, tokens, -1, 3)):
        with pytest.raises(farspan.BackendError, match="positions: expected a scheme whose rows share one call"):
            look(ids(1, 9))
