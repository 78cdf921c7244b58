"""Looking inside a model: taps on the residual stream, hooks and adapters on its modules, and how it prints."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.emulated import emulated_kernels
from support.loras import adapt, merge
from support.models import VOCAB, ids, small_model
from torch import Tensor, nn

import farspan
from farspan import positions as P
from farspan.model import Transformer, operations
from farspan.model.layers import Linear
from farspan.model.operations import ArrayOperations, DeviceOperations
from farspan.model.passes import plan_pass
from farspan.testing import assert_close, assert_same_bits

SHAPES: dict[str, dict[str, Any]] = {
    "plain": {}, "half": {"dtype": "bfloat16"}, "q and k norm": {"qk_norm": True},
    "layer norm": {"norm": "layer", "gated_mlp": False, "hidden_act": "gelu_pytorch_tanh", "mlp_bias": True},
    "windows and schemes": {"windows": (None, 7, 5), "positions": (P.RoPE(), P.NoPE(), P.Streaming(2, 9))},
    "reference": {"backend": "reference"},
}  # fmt: skip


def bits(found: Tensor, expected: Tensor, what: str) -> None:
    assert found.dtype == expected.dtype
    assert_same_bits(found.detach().float().numpy(), expected.detach().float().numpy(), what)


# --------------------------------------------------------------------------------------------------------------- taps


def tapped(model: Transformer, tokens: Tensor, cache: Any = None) -> tuple[list[Tensor], Tensor]:
    streams: dict[int, Tensor] = {}
    hidden = model(tokens, cache, tap=streams.__setitem__)
    assert list(streams) == list(range(model.config.num_hidden_layers + 1))
    assert all(stream.shape == hidden.shape for stream in streams.values())
    return list(streams.values()), hidden


def by_hand(model: Transformer, tokens: Tensor) -> list[Tensor]:
    chosen = model.choose_operations()
    plan = chosen.prepared(plan_pass(model.config, (tokens.shape[1],) * len(tokens), None), model.device)
    streams = [chosen.embed(tokens.reshape(-1), model.embedding)]
    for index, block in enumerate(model.layers):
        streams.append(block(streams[-1], index, plan, chosen))
    return [chosen.as_tensor(x).view(*tokens.shape, -1) for x in streams]


@pytest.mark.parametrize("name", SHAPES)
def test_a_tap_is_shown_the_stream_at_every_depth(name: str) -> None:
    model, tokens = small_model(**SHAPES[name]), ids(2, 23)
    streams, hidden = tapped(model, tokens)
    for depth, (found, expected) in enumerate(zip(streams, by_hand(model, tokens), strict=True)):
        bits(found, expected, f"{name}: depth {depth}")
    bits(hidden, model(tokens), f"{name}: a tap changes nothing")
    bits(model.norm(streams[-1]).to(model.dtype), hidden, f"{name}: the last stream under the final norm")


@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("shape", [*SHAPES.values(), {"dtype": "bfloat16", "norm_adds_one": True}], ids=str)
def test_the_final_norm_of_the_last_state_is_what_the_model_gives(shape: dict[str, Any], gradients: bool) -> None:
    model, tokens = small_model(**shape), ids(2, 23)
    with torch.set_grad_enabled(gradients):
        states, hidden = model.hidden_states(tokens), model(tokens)
        bits(model.final_norm(states[-1]), hidden, "the last state")
        streams, _ = tapped(model, tokens)
        bits(states, torch.stack(streams), "the states")
        last = model.final_norm(states)
    bits(last[1, 0, 3], model.final_norm(states[1, 0, 3]), "one vector")
    bits(last[:, 1:, ::2], model.final_norm(states[:, 1:, ::2]), "rows with gaps between them")


def test_states_of_no_ids_and_norms_of_what_is_no_state() -> None:
    model = small_model()
    assert model.hidden_states(torch.empty(2, 0, dtype=torch.long)).shape == (4, 2, 0, 48)
    assert model.final_norm(torch.empty(0, 48)).shape == (0, 48)
    with pytest.raises(farspan.ArgumentError, match=r"x: expected shape \[\.\.\., 48\], given shape \[2, 47\]"):
        model.final_norm(torch.ones(2, 47))
    with pytest.raises(farspan.DtypeError, match="x: expected a tensor"):
        model.final_norm([1.0])  # type: ignore[arg-type]


@pytest.mark.parametrize("name", SHAPES)
def test_taps_are_shown_the_same_in_chunks(name: str) -> None:
    model, tokens = small_model(**SHAPES[name]), ids(2, 23)
    streams, _ = tapped(model, tokens)
    cache = model.new_cache(2)
    chunks = [tapped(model, tokens[:, a:b], cache) for a, b in ((0, 1), (1, 17), (17, 23))]
    for depth, whole in enumerate(streams):
        found = torch.cat([parts[depth] for parts, _ in chunks], 1)
        if name == "reference":  # a batch of torch's products has bits of its own
            assert torch.allclose(found, whole, atol=1e-5)
        else:
            bits(found, whole, f"{name}: depth {depth}")
    for parts, hidden in chunks:
        bits(model.norm(parts[-1]).to(model.dtype), hidden, f"{name}: the last stream of a chunk")


def test_emulated_taps_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = small_model(), ids(2, 9)
    on_cpu, _ = tapped(model, tokens)
    monkeypatch.setattr(Transformer, "choose_operations", lambda model: DeviceOperations(model.activations))
    monkeypatch.setattr(operations, "arrays_serve", lambda *inputs: False)
    with emulated_kernels():
        streams, hidden = tapped(model, tokens)
        for depth, (found, expected) in enumerate(zip(streams, by_hand(model, tokens), strict=True)):
            bits(found, expected, f"depth {depth}")
            assert torch.allclose(found, on_cpu[depth], atol=2e-4)
        bits(model.norm(streams[-1]), hidden, "the last stream under the final norm")


def test_a_tap_that_raises_leaves_the_cache() -> None:
    model = small_model()
    cache = model.new_cache(1)
    with pytest.raises(ZeroDivisionError):
        model(ids(1, 5), cache, tap=lambda depth, stream: 1 / (2 - depth))
    assert cache.counts == (0,)
    with pytest.raises(farspan.ArgumentError, match=r"^tap: expected a callable \(depth, stream\), given 3$"):
        model(ids(1, 5), tap=3)  # type: ignore[arg-type]


# -------------------------------------------------------------------------------------------------------------- hooks

MODULES: dict[str, Callable[[Transformer], nn.Module]] = {
    "a layer": lambda m: m.layers[1], "attention": lambda m: m.layers[1].attention, "an MLP": lambda m: m.layers[1].mlp,
    "a linear layer": lambda m: m.layers[1].mlp.up, "a norm": lambda m: m.layers[1].mlp_norm,
    "the final norm": lambda m: m.norm, "a norm of queries": lambda m: m.layers[1].attention.q_norm,
}  # fmt: skip
SAMPLED: dict[str, Any] = {"max_new_tokens": 9, "temperature": 0.9, "seed": 3}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("place", MODULES)
def test_a_hook_sees_tensors_and_changes_no_bit(place: str, dtype: str) -> None:
    model, tokens = small_model(dtype=dtype, qk_norm=True), ids(2, 11)
    plain, text = model(tokens), model.generate(tokens, **SAMPLED)
    seen: list[Any] = []
    handle = MODULES[place](model).register_forward_hook(lambda module, given, out: seen.append((given[0], out)))
    bits(model(tokens), plain, place)
    assert model.generate(tokens, **SAMPLED) == text
    assert len(seen) == 1 + 9
    assert all(isinstance(x, Tensor) and x.dtype == torch.float32 for pair in seen for x in pair)
    handle.remove()
    assert isinstance(model.choose_operations(), ArrayOperations)


DOUBLED: dict[str, Callable[[Transformer], list[Tensor]]] = {
    "attention": lambda m: [m.layers[1].attention.out.weight], "an MLP": lambda m: [m.layers[1].mlp.down.weight],
    "a linear layer": lambda m: [m.layers[1].mlp.up.weight], "a norm": lambda m: [m.layers[1].mlp_norm.weight],
    "the final norm": lambda m: [m.norm.weight],
}  # fmt: skip


@pytest.mark.parametrize("place", DOUBLED)
def test_what_a_hook_returns_counts(place: str) -> None:
    """Twice the output has the bits of twice the weights."""
    hooked, doubled, tokens = small_model(), small_model(), ids(2, 11)
    MODULES[place](hooked).register_forward_hook(lambda module, given, out: 2 * out)
    with torch.no_grad():
        for weight in DOUBLED[place](doubled):
            weight.mul_(2)
    bits(hooked(tokens), doubled(tokens), place)
    assert hooked.generate(tokens, **SAMPLED) == doubled.generate(tokens, **SAMPLED)


def test_a_hook_that_returns_a_layers_input_removes_the_layer() -> None:
    hooked, removed, tokens = small_model(), small_model(), ids(2, 11)
    hooked.layers[1].register_forward_hook(lambda module, given, out: given[0])
    with torch.no_grad():
        removed.layers[1].attention.out.weight.zero_()
        removed.layers[1].mlp.down.weight.zero_()
    bits(hooked(tokens), removed(tokens), "no second layer")


def own_forward(linear: nn.Linear) -> None:
    forward = linear.forward
    linear.forward = lambda x: 2 * forward(x)  # type: ignore[method-assign]


class Twice(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


OTHER_WAYS: dict[str, Callable[[nn.Linear], Any]] = {
    "a hook before": lambda linear: linear.register_forward_pre_hook(lambda module, given: (2 * given[0],)),
    "a forward of its own": own_forward,
    "a parametrization": lambda linear: nn.utils.parametrize.register_parametrization(linear, "weight", Twice()),
    "a hook of all modules": lambda linear: nn.modules.module.register_module_forward_hook(
        lambda module, given, out: 2 * out if module is linear else None
    ),
}  # fmt: skip


@pytest.mark.parametrize("way", OTHER_WAYS)
def test_other_ways_into_a_module_count_too(way: str) -> None:
    changed, doubled, tokens = small_model(), small_model(), ids(2, 11)
    handle = OTHER_WAYS[way](changed.layers[1].mlp.down)
    with torch.no_grad():
        doubled.layers[1].mlp.down.weight.mul_(2)
    bits(changed(tokens), doubled(tokens), way)
    assert changed.generate(tokens, **SAMPLED) == doubled.generate(tokens, **SAMPLED)
    if way == "a hook of all modules":
        handle.remove()


# ----------------------------------------------------------------------------------------------------------- adapters


def test_adapters_in_the_place_of_linear_layers() -> None:
    adapted, merged, tokens = small_model(mlp_bias=True), small_model(mlp_bias=True), ids(2, 11)
    plain = adapted(tokens)
    adapters = adapt(adapted)
    assert len(adapters) == 4 * 3
    merge(merged, adapters)
    with torch.no_grad():
        found, truth = adapted(tokens), merged(tokens)
    assert_close(found, truth.double(), 1e-4, "adapters against their sum with the weights")
    assert float((found - plain).abs().max()) > 0.1
    texts = [model.generate(tokens, max_new_tokens=9) for model in (adapted, merged)]
    assert [text.tokens for text in texts[0]] == [text.tokens for text in texts[1]]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_adapters_learn_and_what_is_frozen_has_no_gradient(dtype: str) -> None:
    fused, reference = (small_model(backend, dtype) for backend in ("fused", "reference"))
    found, truth = adapt(fused), adapt(reference)
    for model in (fused, reference):
        model(ids(1, 9)).float().square().sum().backward()
    for adapter, other in zip(found, truth, strict=True):
        assert adapter.base_layer.weight.grad is None
        for mine, its in ((adapter.up.grad, other.up.grad), (adapter.down.grad, other.down.grad)):
            assert float(mine.abs().max()) > 0
            assert_close(mine, its.double(), 2e-3 * float(its.abs().max()), f"{dtype}: an adapter's gradient")


def test_a_model_with_adapters_is_not_saved_without_them(tmp_path: Path) -> None:
    model = small_model(tie_word_embeddings=True, mlp_bias=True)
    model.save_pretrained(tmp_path / "before")
    adapt(model)
    expected = r"^model: expected its own parameters alone, adapters merged, given layers\.0\.attention\.qkv\.\w+ too$"
    with pytest.raises(farspan.ArgumentError, match=expected):
        model.save_pretrained(tmp_path / "after")
    assert not (tmp_path / "after").exists()


def test_linear_layers_are_those_of_torch_and_keep_their_names_and_dtype() -> None:
    model = small_model(dtype="bfloat16", attention_bias=True, qk_norm=True)
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert list(linear)[:4] == [f"layers.0.{name}" for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.down")]
    assert {module.weight.dtype for module in linear.values()} == {torch.bfloat16}
    qkv = linear["layers.0.attention.qkv"]
    assert (qkv.in_features, qkv.out_features) == (48, (4 + 2 * 2) * 12)
    names = {name for name in model.state_dict() if name.startswith("layers.1.") or "layers" not in name}
    assert names == {
        "embedding", "head", "norm.weight", "layers.1.attention_norm.weight", "layers.1.attention.qkv.weight",
        "layers.1.attention.qkv.bias", "layers.1.attention.out.weight", "layers.1.attention.q_norm.weight",
        "layers.1.attention.k_norm.weight", "layers.1.mlp_norm.weight", "layers.1.mlp.up.weight",
        "layers.1.mlp.down.weight",
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ modules by themselves


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_norms_and_linear_layers_take_tensors(norm: str, dtype: torch.dtype) -> None:
    backend = "reference" if dtype == torch.float64 else "fused"
    model = small_model(backend, norm=norm).requires_grad_(False)
    x = torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(1)).to(dtype)
    found, product = model.norm(x), model.layers[0].attention.qkv(x)
    wide, weight = x.double(), model.norm.weight.double()
    exact = (
        nn.functional.rms_norm(wide, (48,), weight, model.norm.eps) if norm == "rms"
        else nn.functional.layer_norm(wide, (48,), weight, model.norm.bias.double(), model.norm.eps)
    )  # fmt: skip
    rounding = 4 * torch.finfo(dtype).eps
    assert found.dtype == product.dtype == dtype
    assert_close(found.double(), exact, rounding * float(1 + exact.abs().max()) + 1e-6, "a norm")
    exact = wide @ model.layers[0].attention.qkv.weight.double().T
    assert_close(product.double(), exact, rounding * float(1 + exact.abs().max()) + 1e-5, "a linear layer")


def test_a_norm_of_a_tensor_that_wants_a_gradient() -> None:
    x = torch.randn(2, 48, requires_grad=True)
    small_model().norm(x).sum().backward()
    assert x.grad is not None


def test_a_model_prints_its_shape() -> None:
    schemes = (P.RoPE(), P.NoPE(), P.RoPE())
    printed = repr(small_model(qk_norm=True, dtype="bfloat16", positions=schemes, windows=(None, None, 7)))
    for part in (
        f"vocab_size={VOCAB}, hidden_size=48, intermediate_size=50, num_hidden_layers=3",
        "num_attention_heads=4, num_key_value_heads=2, head_dim=12, tie_word_embeddings=False",
        "layers 0: RoPE(base=10000.0)\n", "layers 1: NoPE()\n", "layers 2: RoPE(base=10000.0), window 7\n",
        "dtype=bfloat16, device=cpu, backend=fused", "(0-2): 3 x Block(",
        "(qkv): Linear(in_features=48, out_features=96, bias=False)", "(norm): Norm(rms, 48, eps=1e-06)",
        "(q_norm): Norm(rms, 12, eps=1e-06)",
    ):  # fmt: skip
        assert part in printed, part
    assert "all layers: ALiBi()" in repr(small_model().with_positions(P.ALiBi()))


def test_a_pass_finds_its_modules_without_the_search_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    searched = []
    search = nn.Module.__getattr__
    model = small_model()
    monkeypatch.setattr(nn.Module, "__getattr__", lambda self, name: searched.append(name) or search(self, name))
    cache = model.new_cache(1)
    searched.clear()
    plan = plan_pass(model.config, [1], cache)
    model.run(np.array([3]), plan, ArrayOperations())
    assert set(searched) <= {"weight", "bias"}  # of layers that are met for the first time


def test_parts_of_a_model_are_set_replaced_and_deleted_as_torch_does() -> None:
    model = small_model()
    mlp = model.layers[0].mlp
    other = Linear(*reversed(mlp.up.weight.shape), bias=False, backend="fused")
    mlp.up = other
    assert mlp.up is other
    assert mlp._modules["up"] is other
    del mlp.up
    assert not hasattr(mlp, "up")
    mlp.up = None
    assert mlp.up is None
    assert not hasattr(small_model(tie_word_embeddings=True), "head")


@pytest.mark.parametrize("experts", [False, True], ids=["plain", "experts"])
def test_many_tokens_go_through_an_mlp_in_parts_with_the_same_bits(
    experts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"expert_layers": (True, False, True), "num_experts": 4, "num_experts_per_tok": 2} if experts else {}
    model, tokens, seen = small_model(**changes), ids(2, 30), []
    whole = model(tokens)
    monkeypatch.setattr(operations, "ROWS_AT_ONCE", 7)
    forward = type(model.layers[1].mlp).forward
    monkeypatch.setattr(
        type(model.layers[1].mlp), "forward", lambda *given: (seen.append(len(given[1])), forward(*given))[1]
    )
    bits(model(tokens), whole, "in parts")
    assert max(seen) == 7
