"""A model that learns: gradients against float64, what is recorded and what is not, compilation, hooks, adapters."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.models import ids, reference_twin, small_model
from torch import Tensor

from farspan import positions as P
from farspan.model import Transformer
from farspan.model.operations import ArrayOperations
from farspan.testing import assert_close, assert_same_bits

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {}, "tied, biases, norms of heads": {
        "tie_word_embeddings": True, "qk_norm": True, "attention_bias": True, "attention_output_bias": True,
        "mlp_bias": True,
    },
    "bfloat16": {"dtype": "bfloat16", "tie_word_embeddings": True, "attention_bias": True},
    "float16": {"dtype": "float16", "qk_norm": True},
    "layer norm": {"norm": "layer", "gated_mlp": False, "hidden_act": "gelu_pytorch_tanh", "mlp_bias": True},
    "windows and schemes": {"windows": (None, 7, 5), "positions": (P.ALiBi(), P.NoPE(), P.Streaming(2, 9))},
    "two regions": {"positions": (P.SelfExtend(2, 5), P.ReRoPE(4), P.LogN(6))},
    "schemes that learn": {
        "positions": (P.T5(8, 20), P.LogN(6, inner=P.Kerple()), P.SSMax(9, inner=P.LogN(6, inner=P.T5(8, 20)))),
    },
    "relative positions": {
        "positions": (P.Relative(6), P.LogN(6, inner=P.Relative()), P.SSMax(9, inner=P.Relative(6))),
    },
    "relative positions, bfloat16": {"dtype": "bfloat16", "positions": P.RandomPositions(99, inner=P.Relative(6))},
    "both directions": {"causal": False, "positions": (P.T5(8, 20), P.ALiBi(), P.SSMax(9))},
}  # fmt: skip
DENSE: dict[str, Any] = {"ids": ids(2, 23)}
PACKED: dict[str, Any] = {"ids": ids(1, 46)[0], "lengths": (5, 1, 23, 14, 3)}
ROUNDING = {torch.float32: 0.0, torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11}


def gradients(model: Transformer, call: dict[str, Any], **options: Any) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    targets = {} if model.config.causal else {"targets": call["ids"]}
    model.loss(**call, **targets, **options).backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("call", [DENSE, PACKED], ids=["dense", "packed"])
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_are_those_of_the_definition(name: str, call: dict[str, Any]) -> None:
    model = small_model(learns=True, **SHAPES[name])
    found, truth = gradients(model, call), gradients(reference_twin(model).requires_grad_(), call)
    for parameter, exact in truth.items():
        assert found[parameter].dtype == model.dtype
        size = float(exact.abs().max())
        # Half-precision models round the last hidden states, which moves every gradient a little.
        allowed = (1e-4 + 6 * ROUNDING[model.dtype]) * size + 1e-7
        assert_close(found[parameter].double(), exact, allowed, f"{name}: gradient of {parameter}")


@pytest.mark.parametrize("name", SHAPES)
def test_recording_changes_no_bit(name: str) -> None:
    model, tokens = small_model(learns=True, **SHAPES[name]), ids(2, 23)
    recorded = model(tokens)
    with torch.no_grad():
        quiet = model(tokens)
    assert recorded.requires_grad
    assert not quiet.requires_grad
    assert_same_bits(recorded.detach().float().numpy(), quiet.float().numpy(), name)


def test_recomputed_layers_give_the_same_bits() -> None:
    model = small_model(learns=True, qk_norm=True)
    kept, recomputed = gradients(model, PACKED), gradients(model, PACKED, recompute=True)
    assert all(torch.equal(kept[name], recomputed[name]) for name in kept)


def test_parameters_ask_for_gradients_and_nothing_is_recorded_in_generate() -> None:
    made = Transformer(small_model().config)
    assert all(parameter.requires_grad for parameter in made.parameters())
    model, prompt = small_model(learns=True), [[1, 2, 3]]
    seen: list[Any] = []
    chosen = model.choose_operations
    model.choose_operations = lambda: seen.append(chosen()) or seen[-1]  # type: ignore[method-assign]
    cache = model.new_cache(1)
    loud = model.generate(prompt, max_new_tokens=7, temperature=1.0, cache=cache)
    assert [type(operations) for operations in seen] == [ArrayOperations]
    assert not any(store.requires_grad for store in cache._stores)
    assert loud == small_model().generate(prompt, max_new_tokens=7, temperature=1.0)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # a pure function is traced
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_loss_compiles_without_graph_breaks(dtype: str) -> None:
    torch._dynamo.reset()
    model = small_model(learns=True, dtype=dtype, qk_norm=True)
    truth = gradients(model, DENSE)
    model.zero_grad(set_to_none=True)
    compiled = torch.compile(model.loss, fullgraph=True, backend="aot_eager")
    compiled(DENSE["ids"]).backward()
    for name, parameter in model.named_parameters():
        size = float(truth[name].abs().max())
        allowed = (1e-4 + 4 * ROUNDING[model.dtype]) * size + 1e-7
        assert_close(parameter.grad.double(), truth[name].double(), allowed, f"compiled: gradient of {name}")


def test_hooks_hear_of_the_backward_pass_and_count_in_it() -> None:
    plain, hooked = small_model(learns=True), small_model(learns=True)
    heard: list[Tensor] = []
    hooked.layers[1].mlp.down.register_full_backward_hook(lambda module, given, above: heard.append(above[0]))
    handle = hooked.layers[1].mlp.register_forward_hook(lambda module, given, out: 0 * out)
    removed = gradients(hooked, DENSE)
    assert float(removed["layers.1.mlp.down.weight"].abs().max()) == 0
    assert float(heard[0].abs().max()) == 0
    handle.remove()
    expected, found = gradients(plain, DENSE), gradients(hooked, DENSE)
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert heard[1].shape == (46, 48)


def test_some_parameters_may_be_frozen() -> None:
    model = small_model(learns=True)
    everything = gradients(model, DENSE)
    model.requires_grad_(False)
    model.layers[1].attention.qkv.requires_grad_(True)
    model.zero_grad(set_to_none=True)
    model.loss(**DENSE).backward()
    learnt = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert list(learnt) == ["layers.1.attention.qkv.weight"]
    assert torch.equal(learnt["layers.1.attention.qkv.weight"], everything["layers.1.attention.qkv.weight"])


def test_lora_of_peft_learns_saves_and_loads(tmp_path: Any) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    config = peft.LoraConfig(target_modules=["qkv", "out", "up", "down"], r=4)
    adapted = peft.get_peft_model(small_model(learns=True), config)
    inner = adapted.base_model.model
    optimizer = torch.optim.AdamW([p for p in inner.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(10):
        loss = inner.loss(**DENSE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(small_model(), tmp_path).base_model.model
    with torch.no_grad():
        assert torch.equal(again(DENSE["ids"]), inner(DENSE["ids"]))
