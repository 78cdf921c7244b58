"""`farspan.attribution`: shares that add up to the logit, each that of its part."""

from __future__ import annotations

import pytest
import torch
from support.family_models import CASES
from support.models import ids, small_model

import farspan
from farspan import positions as P

SHAPES = {
    "plain": {},
    "layer norm": {"norm": "layer", "gated_mlp": False, "hidden_act": "gelu_pytorch_tanh", "mlp_bias": True},
    "norms on both sides": {"norm_place": "both"},
    "norms behind": {"norm_place": "after"},
    "parallel": {"parallel_residual": True, "attention_output_bias": True},
    "half": {"dtype": "bfloat16"},
}


def raw_logit(model: farspan.Transformer, tokens: torch.Tensor, at: int, token: int) -> float:
    """Of the final state in float64, before a soft cap."""
    state = model.hidden_states(tokens)[-1][0, at].double()
    norm = model.norm
    centred = state - state.mean() if norm.kind == "layer" else state
    normal = centred * (centred.square().mean() + norm.eps).rsqrt() * (norm.weight.double() + norm.adds_one)
    normal = normal if norm.bias is None else normal + norm.bias.double()
    return float((normal @ model.unembedding[token].double()).detach()) * model.logit_settings.get("scale", 1.0)


def check(model: farspan.Transformer) -> torch.Tensor:
    tokens = ids(1, 23) % model.config.vocab_size
    for at, token in ((22, 5), (-1, 5), (0, 40)):
        found = farspan.attribution(model, tokens, at, token)
        assert found.shape == (model.config.num_hidden_layers, 2 + model.config.num_attention_heads)
        assert found.dtype == torch.float64
        assert abs(float(found.sum()) - raw_logit(model, tokens, at, token)) < 1e-9 * (1 + float(found.abs().sum()))
    return found


@pytest.mark.parametrize("name", SHAPES)
def test_shares_add_up_to_the_logit(name: str) -> None:
    model = small_model(**SHAPES[name])
    check(model)
    if name == "plain":
        tokens = ids(1, 23)
        logit = float(model.logits(tokens)[0, -1, 5])
        assert abs(float(farspan.attribution(model, tokens[0].tolist(), -1, 5).sum()) - logit) < 1e-4 * (1 + abs(logit))


@pytest.mark.parametrize("family", CASES)
def test_every_family_has_shares(family: str, tmp_path: pytest.TempPathFactory) -> None:
    pytest.importorskip("transformers", reason="it makes the checkpoints")
    from support.family_models import theirs

    theirs(family).save_pretrained(tmp_path)
    check(farspan.Transformer.from_pretrained(str(tmp_path), dtype="float32"))


@pytest.mark.parametrize("name", ["plain", "layer norm", "norms on both sides"])
def test_a_head_without_weights_has_no_share(name: str) -> None:
    """Column 2 + h is head h, column 1 the MLP: what is set to zero gives nothing."""
    model = small_model(**SHAPES[name])
    width = model.config.dim_per_head
    with torch.no_grad():
        model.layers[1].attention.out.weight[:, 2 * width : 3 * width] = 0
        model.layers[2].mlp.down.weight.zero_()
        if model.layers[2].mlp.down.bias is not None:
            model.layers[2].mlp.down.bias.zero_()
    found = farspan.attribution(model, ids(1, 23), 20, 7)
    assert found[1, 2 + 2] == 0
    assert (found[:, 2:].abs() > 1e-4).sum() == found[:, 2:].numel() - 1
    assert abs(float(found[2, 1])) < 1e-5 * float(found.abs().sum())
    assert (found[:2, 1].abs() > 1e-4).all()


def test_the_embedding_alone_is_in_the_first_row() -> None:
    model = small_model()
    with torch.no_grad():
        for block in model.layers:
            block.attention.out.weight.zero_()
            block.mlp.down.weight.zero_()
    found = farspan.attribution(model, ids(1, 9), 4, 7)
    assert (found.flatten()[1:].abs() < 1e-6).all()
    assert abs(float(found[0, 0] - model.logits(ids(1, 9))[0, 4, 7])) < 1e-4


def test_wrong_arguments_are_told() -> None:
    model = small_model().with_positions(P.NoPE())
    for arguments, name in (
        ((ids(2, 5), 0, 1), "ids"),
        ((ids(1, 5)[:, :0], 0, 1), "ids"),
        ((ids(1, 5), 5, 1), "position"),
        ((ids(1, 5), 0.5, 1), "position"),
        ((ids(1, 5), 0, -1), "token"),
        ((ids(1, 5), 0, 10**6), "token"),
    ):
        with pytest.raises(farspan.ArgumentError, match=name):
            farspan.attribution(model, *arguments)
    model.layers[0].mlp.register_forward_hook(lambda *_: None)
    with pytest.raises(farspan.BackendError, match="model"):
        farspan.attribution(model, ids(1, 5), 0, 1)
