"""`Transformer.from_transformers`, and batches with the masks and positions of transformers' users."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.family_models import CASES, theirs
from support.models import ids, small_model, transformers_model

from farspan import ArgumentError, CheckpointError, DtypeError
from farspan.model import Transformer
from farspan.testing import assert_same_bits

pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("family", CASES)
def test_a_model_in_memory(family: str) -> None:
    other = theirs(family)
    model = Transformer.from_transformers(other)
    truth = other(ids(2, 20)).logits
    assert torch.allclose(model.logits(ids(2, 20)), truth, atol=1e-4 * float(1 + truth.abs().max()))
    assert not any(parameter.is_meta for parameter in model.parameters())


def test_what_lies_alike_is_the_same_memory() -> None:
    other = transformers_model("Llama", tie_word_embeddings=True).to(torch.bfloat16)
    model = Transformer.from_transformers(other)
    assert model.dtype == torch.bfloat16
    layer, block = other.model.layers[0], model.layers[0]
    for ours, one in (
        (model.embedding, other.model.embed_tokens), (block.attention.out.weight, layer.self_attn.o_proj),
        (block.mlp.down.weight, layer.mlp.down_proj), (model.norm.weight, other.model.norm),
    ):  # fmt: skip
        assert ours.data_ptr() == one.weight.data_ptr()
        assert isinstance(ours, torch.nn.Parameter)
    assert model.unembedding is model.embedding
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_head_of_its_own_is_used() -> None:
    other = transformers_model("Llama", tie_word_embeddings=True)
    other.lm_head.weight = torch.nn.Parameter(other.lm_head.weight.detach() * 2)
    assert torch.equal(Transformer.from_transformers(other).unembedding, other.lm_head.weight)


def test_the_tokens_that_end_a_text() -> None:
    other = transformers_model("Llama")
    other.generation_config.eos_token_id = [5, 6]
    assert Transformer.from_transformers(other).config.eos_token_ids == (5, 6)


def test_what_cannot_be_borrowed() -> None:
    for wrong in (torch.nn.Linear(2, 2), small_model(), "org/model"):
        with pytest.raises(ArgumentError, match="transformers"):
            Transformer.from_transformers(wrong)
    import transformers

    shape = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "ffn_dim": 16, "vocab_size": 20}
    with pytest.raises(CheckpointError, match="opt"):
        Transformer.from_transformers(transformers.OPTForCausalLM(transformers.OPTConfig(**shape)))


# ------------------------------------------------------------------------------------------------ padding and packing


@pytest.mark.usefixtures("no_gradients")
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["gemma3_text", "gpt2", "phi3"])
def test_padding_has_no_influence(side: str, family: str) -> None:
    other = theirs(family)
    model = Transformer.from_transformers(other)
    tokens, mask = ids(3, 12), torch.ones(3, 12, dtype=torch.int64)
    for row, padding in enumerate((0, 5, 12)):
        mask[row, slice(0, padding) if side == "left" else slice(12 - padding, 12)] = 0
    hidden = model(tokens, attention_mask=mask)
    for row in range(3):
        alone = model(tokens[row][mask[row] == 1][None])
        assert_same_bits(hidden[row][mask[row] == 1].numpy(), alone[0].numpy(), f"row {row}")
        assert (hidden[row][mask[row] == 0] == 0).all()
    places = (mask.cumsum(1) - 1).clamp(min=0)
    truth = other(tokens, attention_mask=mask, position_ids=places).logits[mask == 1]
    for same in ({}, {"position_ids": places}):
        found = model.logits(tokens, attention_mask=mask.bool(), **same)[mask == 1]
        assert torch.allclose(found, truth, atol=1e-4 * float(1 + truth.abs().max()))


def test_packed_rows_and_gradients() -> None:
    model = small_model(learns=True)
    tokens = ids(2, 9)
    places = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4], [0, 0, 1, 2, 3, 4, 5, 6, 7]])
    model(tokens, position_ids=places).square().sum().backward()
    gradient = model.embedding.grad.clone()
    model.embedding.grad = None
    parts = [tokens[:1, :4], tokens[:1, 4:], tokens[1:, :1], tokens[1:, 1:]]
    hidden = [model(part) for part in parts]
    sum(part.square().sum() for part in hidden).backward()
    assert torch.allclose(gradient, model.embedding.grad, atol=1e-4)
    with torch.no_grad():
        packed = model(tokens, position_ids=places)
        assert_same_bits(packed[0, 4:].numpy(), hidden[1][0].detach().numpy(), "the second sequence of a row")
        assert_same_bits(packed[1, 1:].numpy(), hidden[3][0].detach().numpy(), "one behind a single token")


WRONG: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "shape .2, 5.*: 1 for a token": ({"attention_mask": torch.ones(2, 1, 5, 5)}, ArgumentError),
    "other numbers": ({"attention_mask": torch.full((2, 5), -1e9)}, ArgumentError),
    "between its tokens": ({"attention_mask": [[1, 1, 0, 1, 1], [1] * 5]}, ArgumentError),
    "position_ids.*7 for token 1 of row 0": ({"position_ids": [[0, 7, 8, 9, 10]]}, ArgumentError),
    "position_ids.*3 for token 0": ({"position_ids": [[3, 4, 5, 6, 7]]}, ArgumentError),
    "position_ids: expected shape": ({"position_ids": [[0, 1]]}, ArgumentError),
    "position_ids: expected integers": ({"position_ids": [[0.0, 1.0, 2.0, 3.0, 4.0]]}, DtypeError),
    "attention_mask: expected numbers": ({"attention_mask": [["a"] * 5] * 2}, DtypeError),
    "lengths: expected None": ({"attention_mask": torch.ones(2, 5), "lengths": [5, 5]}, ArgumentError),
    "tap: expected None": ({"attention_mask": torch.ones(2, 5), "tap": print}, ArgumentError),
}


@pytest.mark.parametrize("told", WRONG)
def test_what_masks_and_positions_cannot_say(told: str) -> None:
    options, error = WRONG[told]
    tokens = ids(2, 5).reshape(-1) if "lengths" in options else ids(2, 5)
    with pytest.raises(error, match=told):
        small_model()(tokens, **options)


def test_a_cache_has_no_padding() -> None:
    model = small_model()
    with pytest.raises(ArgumentError, match="cache: expected None"):
        model(ids(2, 5), model.new_cache(2), attention_mask=torch.ones(2, 5))
