"""Every family beside transformers: the same logits, the same text with a cache, folders that both libraries read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from support.family_models import CASES, theirs
from support.models import SHAPE, ids

import farspan
from farspan import positions as P
from farspan.model import Config, Transformer, safetensors
from farspan.model.places import named_tensors
from farspan.testing import assert_same_bits

pytest.importorskip("transformers", reason="transformers is not installed")
TIME = 40


@pytest.fixture(autouse=True)
def nothing_recorded() -> Iterator[None]:
    """What `generate` computes with: a model whose parameters ask for gradients takes another way."""
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Any, Transformer, Path]]:
    """A family's model of transformers, ours, and the folder that ours was read from."""
    made: dict[str, tuple[Any, Transformer, Path]] = {}

    def load(family: str) -> tuple[Any, Transformer, Path]:
        if family not in made:
            folder, model = tmp_path_factory.mktemp(family), theirs(family)
            model.save_pretrained(folder)
            made[family] = model, Transformer.from_pretrained(folder), folder
        return made[family]

    return load


Pair = Callable[[str], tuple[Any, Transformer, Path]]
every = pytest.mark.parametrize("family", CASES)


def assert_close(ours: torch.Tensor, truth: torch.Tensor) -> None:
    assert torch.allclose(ours, truth, atol=1e-4 * float(1 + truth.abs().max())), float((ours - truth).abs().max())


def logits_of(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(tokens).logits
    return found


@every
def test_logits_are_those_of_transformers(family: str, pair: Pair) -> None:
    other, model, _ = pair(family)
    for time in (9, TIME):
        assert_close(model.logits(ids(2, time)), logits_of(other, ids(2, time)))
        with torch.enable_grad():
            recorded = model(ids(2, time))
        assert_same_bits(recorded.detach().numpy(), model(ids(2, time)).numpy(), f"{family} under autograd")


@every
def test_text_with_a_cache(family: str, pair: Pair) -> None:
    """Greedy tokens are the first of one pass over the whole text; log-probabilities are of the scaled logits."""
    other, model, _ = pair(family)
    prompts = [ids(1, 26)[0].tolist(), [3]]
    for prompt, greedy, drawn in zip(
        prompts, model.generate(prompts, max_new_tokens=6), model.generate(prompts, 6, 1.0, seed=1), strict=True
    ):
        for text in (greedy.tokens, drawn.tokens):
            logits = logits_of(other, torch.tensor([prompt + text]))[0, len(prompt) - 1 : -1]
            picked = logits.log_softmax(-1)[range(6), text]
            if text is greedy.tokens:
                assert (logits.max(-1).values - logits[range(6), text] < 1e-3).all()
            else:
                assert torch.allclose(picked, torch.tensor(drawn.logprobs), atol=1e-3)


@every
def test_tokens_do_not_depend_on_their_batch(family: str, pair: Pair) -> None:
    _, model, _ = pair(family)
    both = model(ids(2, 21))
    for row in range(2):
        assert_same_bits(model(ids(2, 21)[row : row + 1])[0].numpy(), both[row].numpy(), f"{family}, row {row} alone")
    cache = model.new_cache(2)
    parts = [model(ids(2, 21)[:, part], cache=cache) for part in (slice(0, 13), slice(13, 14), slice(14, 21))]
    assert_same_bits(torch.cat(parts, 1).numpy(), both.numpy(), f"{family} in chunks")
    lone = model(torch.cat([ids(2, 21)[0], ids(2, 21)[1, :7]]), lengths=[21, 7])
    assert_same_bits(lone[21:].numpy(), both[1, :7].numpy(), f"{family}, packed")


@every
def test_arrays_tensors_and_the_reference_agree(family: str, pair: Pair) -> None:
    _, model, folder = pair(family)
    on_arrays = model(ids(2, 21))
    handle = model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert_same_bits(model(ids(2, 21)).numpy(), on_arrays.numpy(), f"{family}, modules called")
    handle.remove()
    reference = Transformer.from_pretrained(folder, dtype="float64", backend="reference")
    assert_close(on_arrays, reference(ids(2, 21)).detach().float())


@every
@pytest.mark.parametrize("backend", ["fused", "reference"])
def test_every_parameter_has_the_gradient_of_transformers(family: str, backend: str, pair: Pair) -> None:
    other, _, folder = pair(family)
    model = Transformer.from_pretrained(folder, backend=backend)
    with torch.enable_grad():
        (other(ids(2, 12)).logits ** 2).sum().backward()
        (model.logits(ids(2, 12)) ** 2).sum().backward()
    grads = {name: place for name, place in named_tensors(_gradients(model)).items()}
    for name, parameter in other.named_parameters():
        if name in grads:  # the stacks of experts of transformers are other tensors than those of its files
            assert_close(grads[name], parameter.grad)
    other.zero_grad()


def _gradients(model: Transformer) -> Transformer:
    """A model whose weights are the gradients of this one's."""
    twin = Transformer(model.config)
    twin.load_state_dict({name: parameter.grad for name, parameter in model.named_parameters()})
    return twin


@every
def test_the_loss_is_that_of_the_logits_of_transformers(family: str, pair: Pair) -> None:
    other, model, _ = pair(family)
    tokens = ids(2, 12)
    truth = torch.nn.functional.cross_entropy(logits_of(other, tokens)[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
    assert torch.allclose(model.loss(tokens), truth, rtol=1e-4)


@every
def test_transformers_reads_what_we_save(family: str, pair: Pair, tmp_path: Path) -> None:
    import transformers

    other, model, _ = pair(family)
    model.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", experts_implementation="eager"
    )
    assert type(again) is type(other)
    assert {name: x for name, x in again.state_dict().items() if not torch.equal(x, other.state_dict()[name])} == {}
    assert_close(logits_of(again, ids(1, TIME)), logits_of(other, ids(1, TIME)))
    back = Transformer.from_pretrained(tmp_path)
    assert back.config == model.config
    assert_same_bits(back(ids(1, TIME)).numpy(), model(ids(1, TIME)).numpy(), family)


@every
def test_our_own_form_holds_every_family(family: str, pair: Pair, tmp_path: Path) -> None:
    """A scheme that no family can say is written as it is, with all that the layers are."""
    model = pair(family)[1].with_positions(P.ALiBi())
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == "farspan"
    again = Transformer.from_pretrained(tmp_path)
    assert again.config == model.config
    assert_same_bits(again(ids(1, 20)).numpy(), model(ids(1, 20)).numpy(), family)


@pytest.mark.parametrize("family", [family for family in CASES if family != "gpt2"])
def test_another_scheme_keeps_each_layers_base_and_width(family: str, pair: Pair) -> None:
    _, model, _ = pair(family)
    config = model.with_positions(P.LinearInterpolation(3)).config
    assert [scheme.rope_base for scheme in config.positions] == list(model.config.rope_bases or ())
    assert config.rotary_dim == model.config.rotary_dim
    hidden = model.with_positions(P.SelfExtend(4, 8))(ids(1, TIME))
    assert hidden.isfinite().all()
    assert not torch.equal(hidden, model(ids(1, TIME)))


# ----------------------------------------------------------------------------------------------------------- one by one


def test_learned_positions_run_out(pair: Pair) -> None:
    _, model, _ = pair("gpt2")
    model(ids(1, 64))
    with pytest.raises(farspan.ArgumentError, match="at most 64 tokens"):
        model(ids(1, 65))
    with pytest.raises(farspan.ArgumentError, match="at most 64 tokens"):
        model(torch.arange(65), lengths=[65])
    with pytest.raises(farspan.ArgumentError, match=r"prompts.*at most 64 tokens.*65"):
        model.generate([[1] * 60], max_new_tokens=6)
    assert len(model.generate([[1] * 60], max_new_tokens=5)[0].tokens) == 5


@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu", "silu"])
def test_activations_by_their_names(activation: str, pair: Pair) -> None:
    from transformers.activations import ACT2FN

    other, _, folder = pair("gpt_neox")
    settings = {**json.loads((folder / "config.json").read_text()), "hidden_act": activation}
    model = Transformer(Config.from_dict(settings))
    model.load_state_dict(pair("gpt_neox")[1].state_dict())
    before = [layer.mlp.act for layer in other.gpt_neox.layers]
    for layer in other.gpt_neox.layers:
        layer.mlp.act = ACT2FN[activation]
    assert_close(model.logits(ids(1, 20)), logits_of(other, ids(1, 20)))
    for layer, act in zip(other.gpt_neox.layers, before, strict=True):
        layer.mlp.act = act


def test_weights_less_one_gain_one_in_float32(pair: Pair) -> None:
    """0.001 more than one is lost in bfloat16, and so is a gain that was rounded to it."""
    folder = pair("gemma3_text")[2]
    half = Transformer.from_pretrained(folder, dtype="bfloat16")
    with torch.no_grad():
        half.norm.weight.fill_(0.001)
        plain = half(ids(1, 5)).float()
        half.norm.weight.fill_(0.0)
        shrunk = half(ids(1, 5)).float()
    ratio = float(plain.norm() / shrunk.norm())
    assert 1.0005 < ratio < 1.0015


def test_a_pass_has_one_product_for_each_expert(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    from farspan.model.operations import ArrayOperations

    _, model, _ = pair("gpt_oss")
    seen: list[tuple[int, int]] = []
    real = ArrayOperations.of_expert

    def counted(self: ArrayOperations, x: Any, layer: Any, expert: int) -> Any:
        if layer is model.layers[0].mlp.expert_up:
            seen.append((expert, len(x)))
        return real(self, x, layer, expert)

    monkeypatch.setattr(ArrayOperations, "of_expert", counted)
    model(ids(2, 30))
    assert sorted(expert for expert, _ in seen) == sorted({expert for expert, _ in seen})
    assert sum(rows for _, rows in seen) == 2 * 30 * 2


def test_the_text_of_models_that_see(pair: Pair, tmp_path: Path) -> None:
    """Both ages of names; what belongs to other parts is left out, and what belongs to none is an error."""
    for family, whole, kind in (
        ("gemma3_text", "gemma3", "Gemma3ForConditionalGeneration"),
        ("ministral3", "mistral3", "Mistral3ForConditionalGeneration"),
    ):
        _, model, folder = pair(family)
        text = json.loads((folder / "config.json").read_text())
        tied = text.pop("tie_word_embeddings")
        settings = {
            "model_type": whole, "architectures": [kind], "text_config": text, "vision_config": {"hidden_size": 4},
            "eos_token_id": [1, 6], "tie_word_embeddings": tied,
        }  # fmt: skip
        (tmp_path / "config.json").write_text(json.dumps(settings))
        for prefix, head in (
            ("language_model.model.", "language_model.lm_head."),
            ("model.language_model.", "lm_head."),
        ):
            tensors = {
                head + name.removeprefix("lm_head.") if name.startswith("lm_head.") else prefix + name[6:]: x
                for name, x in named_tensors(model).items()
            }
            seeing = {"vision_tower.patch.weight": torch.zeros(2, 2)}
            safetensors.write(tmp_path / "model.safetensors", tensors | seeing)
            ours = Transformer.from_pretrained(tmp_path)
            assert ours.config.eos_token_ids == (1, 6)
            assert_same_bits(ours(ids(1, 9)).numpy(), model(ids(1, 9)).numpy(), f"{whole}, {prefix}")
        assert ours.config.to_dict()["model_type"] == family
        safetensors.write(tmp_path / "model.safetensors", tensors | {"hearing.weight": torch.zeros(2)})
        with pytest.raises(farspan.CheckpointError, match=r"hearing\.weight"):
            Transformer.from_pretrained(tmp_path)
    settings["text_config"] = None
    with pytest.raises(farspan.CheckpointError, match="text_config"):
        Config.from_dict(settings)


def test_names_and_masks_of_the_first_files(pair: Pair, tmp_path: Path) -> None:
    for family, mask in (("gpt2", "h.{}.attn.bias"), ("gpt_neox", "gpt_neox.layers.{}.attention.bias")):
        _, model, folder = pair(family)
        tensors = {name.removeprefix("transformer."): x for name, x in named_tensors(model).items()}
        tensors |= {mask.format(layer): torch.ones(1, 1, 8, 8).tril() for layer in range(3)}
        (tmp_path / "config.json").write_text((folder / "config.json").read_text())
        safetensors.write(tmp_path / "model.safetensors", tensors)
        again = Transformer.from_pretrained(tmp_path)
        assert_same_bits(again(ids(1, 9)).numpy(), model(ids(1, 9)).numpy(), family)
    twice = tensors | {"lm_head.weight": tensors["embed_out.weight"].clone()}
    safetensors.write(tmp_path / "model.safetensors", twice)
    with pytest.raises(farspan.CheckpointError, match=r"lm_head\.weight.*embed_out|embed_out.*lm_head\.weight"):
        Transformer.from_pretrained(tmp_path)


MISSING = {
    "recurrent layers": {"model_type": "qwen3_5_text"},
    "recurrent": {"model_type": "lfm2"},
    "latent attention": {"model_type": "deepseek_v3"},
    "mamba": {"model_type": "granitemoehybrid", **SHAPE, "num_local_experts": 0, "layer_types": ["attention", "mamba"]},
    "num_local_experts": {"model_type": "granitemoehybrid", **SHAPE, "num_local_experts": 4, "layer_types": []},
    "mxfp4": {"model_type": "llama", **SHAPE, "quantization_config": {"quant_method": "mxfp4"}},
    "fp8": {"model_type": "llama", **SHAPE, "quantization_config": {"quant_method": "fp8"}},
}  # fmt: skip


@pytest.mark.parametrize("word", MISSING)
def test_what_is_missing_is_said(word: str) -> None:
    with pytest.raises(farspan.CheckpointError, match=word):
        Config.from_dict(MISSING[word])


def test_a_config_of_new_fields_that_cannot_be() -> None:
    for name, changes in {
        "num_experts": {"expert_layers": True},
        "num_experts_per_tok": {"num_experts": 2, "num_experts_per_tok": 3},
        "gated_mlp": {"hidden_act": "clamped_swiglu", "gated_mlp": False},
        "partial_rotary_factor": {"partial_rotary_factor": 0.25},
        "norm_place": {"norm_place": "beside"},
        "logits_scaling": {"logits_scaling": 0.0},
    }.items():
        with pytest.raises(farspan.ArgumentError, match=name):
            Config(**SHAPE, **changes)  # type: ignore[arg-type]
