"""Position schemes that learn, as parts of a model: what they compute and their gradients against eager float64 torch,
with a cache, in a checkpoint, in training."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support.eager import Scores, eager, products, weights_of
from support.models import SHAPE, ids, small_model
from torch import Tensor

import farspan
from farspan import positions as P
from farspan import training
from farspan.model import Config, Transformer
from farspan.model.rows import combined
from farspan.testing import assert_close, assert_same_bits

TIME = 40
POOL = 90
DRAWN = torch.from_numpy(P.RandomPositions(POOL, 5).hooks(P.Span(TIME, (TIME,), 4, 12))["key_positions"])


def gaps(time: int) -> Tensor:
    order = torch.arange(time)
    return order[:, None] - order


def t5(buckets: int, longest: int, causal: bool = True) -> Scores:
    def scores(query: Tensor, key: Tensor, own: dict[str, Tensor], _: Tensor) -> Tensor:
        modeling = pytest.importorskip("transformers.models.t5.modeling_t5", reason="transformers is not installed")
        bucket = modeling.T5Attention._relative_position_bucket(-gaps(query.shape[2]), not causal, buckets, longest)
        return products(query, key) + own["bucket_bias"][:, bucket]

    return scores


def kerple(query: Tensor, key: Tensor, own: dict[str, Tensor], _: Tensor) -> Tensor:
    scale, rate = (own[name].exp()[:, None, None] for name in ("log_scale", "log_rate"))
    return products(query, key) - scale * torch.log(1 + rate * gaps(query.shape[2]).abs())


def kerple_power(query: Tensor, key: Tensor, own: dict[str, Tensor], _: Tensor) -> Tensor:
    scale, exponent = own["log_scale"].exp()[:, None, None], 2 * own["exponent"].sigmoid()[:, None, None]
    gap = gaps(query.shape[2]).abs().double()
    return products(query, key) - scale * torch.where(gap > 0, gap.clamp(1) ** exponent, 0.0)


def ssmax(query: Tensor, key: Tensor, own: dict[str, Tensor], _: Tensor) -> Tensor:
    seen = torch.arange(1, query.shape[2] + 1).double()
    scale = own["query_slope"][:, None] * seen.log() + own.get("query_offset", torch.zeros(1))[:, None]
    return products(query, key) * scale[:, :, None]


def ssmax_both_ways(query: Tensor, key: Tensor, own: dict[str, Tensor], _: Tensor) -> Tensor:
    return products(query, key) * (own["query_slope"] * math.log(query.shape[2]))[:, None, None]


def at_random_places(query: Tensor, key: Tensor, own: dict[str, Tensor], _: Tensor) -> Tensor:
    places = DRAWN
    scale, rate = (own[name].exp()[:, None, None] for name in ("log_scale", "log_rate"))
    return products(query, key) - scale * torch.log(1 + rate * (places[:, None] - places).abs())


def alibi(query: Tensor, key: Tensor, own: dict[str, Tensor], _: Tensor) -> Tensor:
    slopes = torch.tensor([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])
    return products(query, key) - slopes[:, None, None] * gaps(query.shape[2]).abs()


def relative(dim: int) -> Scores:
    """Term by term, with the table of sines and cosines of every pair."""

    def scores(query: Tensor, key: Tensor, own: dict[str, Tensor], _: Tensor) -> Tensor:
        angle = gaps(query.shape[2])[..., None] * 10000.0 ** (-2 * torch.arange(dim // 2) / dim).double()
        waves = torch.cat([angle.sin(), angle.cos()], -1)
        asked = torch.einsum("bhtd,hrd->bhtr", query, own["position_query.weight"])
        asked = asked + own["position_query.bias"][:, None]
        of_content = (query + own["content_bias"][:, None]) @ key.mT
        return (of_content + torch.einsum("bhtr,tsr->bhts", asked, waves)) / query.shape[-1] ** 0.5

    return scores


def forgetting(query: Tensor, key: Tensor, own: dict[str, Tensor], x: Tensor) -> Tensor:
    """A product of gates for each pair, summed pair by pair."""
    gates = torch.sigmoid(x @ own["gate.weight"].T + own["gate.bias"])  # [batch, time, heads]
    time = query.shape[2]
    token = torch.arange(time)
    between = (token > token[:, None]) & (token <= token[:, None, None])  # [query, key, token]
    return products(query, key) + torch.einsum("bth,ijt->bhij", gates.log(), between.double())


def fire(threshold: float, places: Tensor | None = None) -> Scores:
    """The authors' form: every pair by itself through the network."""

    def scores(query: Tensor, key: Tensor, own: dict[str, Tensor], _: Tensor) -> Tensor:
        at = torch.arange(query.shape[2]) if places is None else places
        slope, farthest = own["curve_slope"].abs(), (own["threshold_share"] * threshold).abs()
        distance = torch.log(1 + slope * (at[:, None] - at).clamp(0))
        share = distance / (torch.log(1 + slope * torch.maximum(at.double(), farthest)) + 1e-6)[:, None]
        inner = F.relu(F.linear(share[..., None], own["inner_weight"][:, None], own["inner_bias"]))
        return products(query, key) + F.linear(inner, own["outer_weight"]).permute(2, 0, 1)

    return scores


def scaled_fire(query: Tensor, key: Tensor, own: dict[str, Tensor], x: Tensor) -> Tensor:
    seen = torch.arange(1, query.shape[2] + 1).double()
    bias = fire(9.0)(query, key, own, x) - products(query, key)
    return products(query, key) * (own["query_slope"][:, None] * seen.log())[:, :, None] + bias


def twice_scaled(query: Tensor, key: Tensor, own: dict[str, Tensor], _: Tensor) -> Tensor:
    seen = torch.arange(1, query.shape[2] + 1).double()
    scale = own["query_slope"][:, None] * seen.log() * (seen.log() / math.log(6)).clamp(1)
    return products(query, key) * scale[:, :, None]


CASES: dict[str, tuple[P.Scheme, Scores, bool]] = {
    "T5": (P.T5(8, 20), t5(8, 20), True),
    "T5 as published": (P.T5(), t5(32, 128), True),
    "T5, both directions": (P.T5(8, 20), t5(8, 20, False), False),
    "KERPLE": (P.Kerple(), kerple, True),
    "KERPLE, both directions": (P.Kerple(), kerple, False),
    "KERPLE, power": (P.Kerple(power=True), kerple_power, True),
    "SSMax": (P.SSMax(20, inner=P.NoPE()), ssmax, True),
    "SSMax with an offset": (P.SSMax(20, inner=P.NoPE(), offset=True), ssmax, True),
    "SSMax, both directions": (P.SSMax(20, inner=P.NoPE()), ssmax_both_ways, False),
    "relative": (P.Relative(20), relative(20), True),
    "relative, both directions": (P.Relative(), relative(64), False),
    "forget gates": (P.Forgetting(), forgetting, True),
    "FIRE": (P.FIRE(9.0), fire(9.0), True),
    "FIRE within its threshold": (P.FIRE(500.0, width=8), fire(500.0), True),
    "SSMax of FIRE": (P.SSMax(20, inner=P.FIRE(9.0)), scaled_fire, True),
    "SSMax of LogN": (P.SSMax(20, inner=P.LogN(6, inner=P.NoPE())), twice_scaled, True),
    "random positions under FIRE": (P.RandomPositions(POOL, 5, inner=P.FIRE(9.0)), fire(9.0, DRAWN), True),
    "random positions under KERPLE": (P.RandomPositions(POOL, 5, inner=P.Kerple()), at_random_places, True),
    "ALiBi, both directions": (P.ALiBi(), alibi, False),
    "nothing, both directions": (P.NoPE(), lambda query, key, own, _: products(query, key), False),
}  # fmt: skip
LEARNING = {name: scheme for name, (scheme, _, _) in CASES.items() if scheme.learned_parts}


def model_of(name: str, learns: bool = False) -> Transformer:
    scheme, _, causal = CASES[name]
    return small_model(learns=learns, num_hidden_layers=2, positions=scheme, causal=causal)


@pytest.mark.parametrize("name", CASES)
def test_what_it_computes_and_its_gradients(name: str) -> None:
    model, tokens = model_of(name, learns=True), ids(2, TIME)
    weights = weights_of(model)
    truth = eager(model, weights, tokens, CASES[name][1])
    found = model(tokens)
    assert_close(found.detach().double(), truth.detach(), 5e-5 * float(1 + truth.detach().abs().max()), name)
    with torch.no_grad():
        assert_same_bits(model(tokens).numpy(), found.detach().numpy(), f"{name}, without gradients")
    probe = torch.from_numpy(np.random.default_rng(1).normal(size=truth.shape))
    (truth * probe).sum().backward()
    (found * probe.float()).sum().backward()
    own = [(n, p) for n, p in model.named_parameters() if ".positions." in n]
    assert bool(own) == bool(CASES[name][0].learned_parts)
    for parameter, p in own:
        exact = weights[parameter].grad
        assert float(exact.abs().max()) > 0, f"{parameter} has a part in it"
        assert_close(p.grad.double(), exact, 2e-4 * float(exact.abs().max()), f"{name}: gradient of {parameter}")


@pytest.mark.parametrize("name", [name for name in LEARNING if CASES[name][2]])
def test_prefill_is_decode(name: str) -> None:
    """Token by token, in pieces and at once, and beside sequences of other lengths: the same bits."""
    model = model_of(name)
    if CASES[name][0].draws:
        model = model.with_positions(dataclasses.replace(CASES[name][0], limit=TIME))  # the only draw of so many
    tokens = ids(2, TIME)
    whole = model(tokens)
    for steps in ([TIME], [1] * TIME, [7, 1, 20, 12]):
        if CASES[name][0].draws and steps != [TIME]:
            continue  # keys move as a sequence grows
        cache = model.new_cache(2)
        parts = [model(part, cache) for part in tokens.split(steps, 1)]
        assert_same_bits(torch.cat(parts, 1).numpy(), whole.numpy(), f"{name} in steps of {steps}")
    packed = model(torch.cat([tokens[0], tokens[1, :9]]), lengths=(TIME, 9))
    assert_same_bits(packed[:TIME].numpy(), whole[0].numpy(), f"{name}, packed")


@pytest.mark.parametrize("name", [name for name in LEARNING if CASES[name][2]])
def test_generates_as_its_definition(name: str) -> None:
    """Greedy text equals that of a model that reads everything anew for each token."""
    model = model_of(name)
    prompts = [ids(1, 9)[0].tolist(), ids(1, 4, seed=3)[0].tolist()]
    written = model.generate(prompts, max_new_tokens=6, stop=())
    for prompt, completion in zip(prompts, written, strict=True):
        text = list(prompt)
        for _ in range(6):
            text.append(int((model(torch.tensor([text]))[0, -1] @ model.unembedding.T).argmax()))
        if not CASES[name][0].draws:
            assert completion.tokens == text[len(prompt) :]
        assert len(completion.tokens) == 6


@pytest.mark.parametrize("name", LEARNING)
def test_saved_and_loaded(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    model.save_pretrained(tmp_path)
    again = Transformer.from_pretrained(tmp_path)
    assert again.config == model.config
    assert {n for n, _ in again.named_parameters()} == {n for n, _ in model.named_parameters()}
    with torch.no_grad():
        assert_same_bits(again(ids(2, TIME)).numpy(), model(ids(2, TIME)).numpy(), name)


@pytest.mark.parametrize("name", LEARNING)
def test_bfloat16(name: str) -> None:
    scheme, _, causal = CASES[name]
    model = small_model(dtype="bfloat16", learns=True, positions=scheme, causal=causal)
    model.loss(ids(1, 12), ids(1, 12, seed=1)).backward()
    for parameter, p in model.named_parameters():
        assert p.grad is not None, parameter
        assert p.grad.dtype == torch.bfloat16
        assert p.grad.isfinite().all(), parameter


def test_a_cache_of_forget_gates_is_cut_and_forked() -> None:
    model, tokens = model_of("forget gates"), ids(2, TIME)
    cache = model.new_cache(2)
    model(tokens, cache)
    cache.truncate([7, 30])
    more = ids(2, 3, seed=8)
    found = model(more, cache.fork([1, 0]))
    for row, held in ((0, 30), (1, 7)):
        text = torch.cat([tokens[1 - row, :held], more[row]])[None]
        assert_same_bits(found[row].numpy(), model(text)[0, held:].numpy(), f"{held} tokens held")
    with pytest.raises(farspan.ArgumentError, match="gates"):
        model(more, small_model(num_hidden_layers=2).new_cache(2))


# ----------------------------------------------------------------------------------------------- parameters of a layer


def test_initial_values() -> None:
    shape = P.LayerShape(heads=4000, head_dim=8, width=64)
    torch.manual_seed(1)
    bias = P.T5().initial(shape)["bucket_bias"]
    assert bias.shape == (4000, 32)
    assert float(bias.std()) == pytest.approx(1 / 8, rel=0.02)
    log = P.Kerple().initial(shape)
    assert float(log["log_scale"].exp().mean()) == pytest.approx(1, abs=0.05)
    assert float(log["log_scale"].exp().max()) == pytest.approx(2, abs=0.01)
    assert float(log["log_rate"].exp().mean()) == pytest.approx(0.5, abs=0.03)
    assert float(log["log_rate"].exp().min()) == pytest.approx(0.01)
    power = P.Kerple(power=True).initial(shape)
    assert float(power["log_scale"].exp().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((2 * power["exponent"].sigmoid()).mean()) == pytest.approx(1, abs=0.05)
    slope = P.SSMax(1024).initial(shape)["query_slope"]
    assert float(slope[0]) == pytest.approx(0.168, abs=0.001)
    assert (slope * torch.arange(1, 1025).log()[:, None]).mean() == pytest.approx(1, abs=1e-5)
    curve = P.FIRE(512.0, 16).initial(shape)
    assert curve["curve_slope"].tolist() == pytest.approx([0.1])
    assert curve["threshold_share"].tolist() == [1.0]
    assert float(curve["outer_weight"].abs().max()) == pytest.approx(1 / 4, abs=1e-3)
    assert float(curve["outer_weight"].mean()) == pytest.approx(0, abs=1e-2)
    gate = P.Forgetting().initial(shape)
    assert float(gate["gate.weight"].std()) == pytest.approx(0.02, rel=0.02)
    assert not gate["gate.bias"].any()
    asked = P.Relative().initial(shape)
    assert float(asked["position_query.weight"].std()) == pytest.approx(0.02, rel=0.02)
    assert not asked["position_query.bias"].any()
    assert not asked["content_bias"].any()
    both = P.SSMax(1024, offset=True).initial(shape)
    assert (both["query_slope"] == 0).all()
    assert (both["query_offset"] == 1).all()
    assert float(P.SSMax(9, slope=0.43).initial(shape)["query_slope"][0]) == pytest.approx(0.43)


def test_the_seed_decides_them() -> None:
    def made(seed: int) -> Tensor:
        torch.manual_seed(seed)
        model = Transformer(Config(**SHAPE, positions=P.T5()))
        return model.layers[1].attention.positions.bucket_bias.detach()

    assert torch.equal(made(1), made(1))
    assert not torch.equal(made(1), made(2))


def test_with_positions_brings_parameters_and_leaves_the_model_as_it_was() -> None:
    model = small_model(learns=True)
    before, names = model(ids(1, 9)).detach(), [name for name, _ in model.named_parameters()]
    put = model.with_positions(P.T5())
    added = [name for name, _ in put.named_parameters() if name not in names]
    assert added == [f"layers.{layer}.attention.positions.bucket_bias" for layer in range(3)]
    assert all(p.requires_grad for p in put.parameters())
    assert put.layers[0].attention.qkv.weight is model.layers[0].attention.qkv.weight
    assert [name for name, _ in model.named_parameters()] == names
    assert torch.equal(model(ids(1, 9)), before)
    back = put.with_positions(P.RoPE())
    assert [name for name, _ in back.named_parameters()] == names
    assert torch.equal(back(ids(1, 9)), before)
    assert not any(p.requires_grad for p in small_model().with_positions(P.T5()).parameters())
    slope = model.with_positions(P.SSMax(1024)).layers[0].attention.positions.query_slope
    assert slope.tolist() == pytest.approx([0.168] * 4, abs=0.001), "as before training"


def test_with_positions_keeps_what_was_learned() -> None:
    """A scheme may be refined, or read further, with the parameters that the layers have."""
    trained = small_model(positions=P.T5(8, 20))
    own = trained.layers[2].attention.positions.bucket_bias
    asking = small_model(positions=P.Relative(8))
    again = asking.with_positions(P.RandomPositions(99, inner=P.Relative(8)))
    for layer, kept in zip(again.layers, asking.layers, strict=True):
        for name, parameter in kept.attention.positions.named_parameters():
            assert layer.attention.positions.get_parameter(name) is parameter
    for scheme in (P.RandomPositions(99, inner=P.T5(8, 20)), P.T5(8, 40), P.SSMax(9, inner=P.T5(8, 20))):
        assert trained.with_positions(scheme).layers[2].attention.positions.bucket_bias is own
    assert trained.with_positions(P.T5(8, 20)).layers[0] is trained.layers[0]
    assert trained.with_positions(P.T5(16, 20)).layers[2].attention.positions.bucket_bias.shape == (4, 16)
    twice = trained.with_positions(P.SSMax(9, inner=P.T5(8, 20))).with_positions(P.T5(8, 20))
    assert twice.layers[2].attention.positions.bucket_bias is own
    assert [n for n, _ in twice.named_parameters()] == [n for n, _ in trained.named_parameters()]


def test_each_layer_its_own() -> None:
    model = small_model(learns=True, positions=(P.T5(), P.RoPE(), P.SSMax(9)))
    assert [n.split(".", 4)[1::3][:2] for n, _ in model.named_parameters() if ".positions." in n] == [
        ["0", "bucket_bias"], ["2", "query_slope"]]  # fmt: skip
    model.loss(ids(1, 20)).backward()
    assert all(p.grad is not None for p in model.parameters())


# ------------------------------------------------------------------------------------------------------------ training


def test_random_positions_are_drawn_anew_for_each_batch_in_training() -> None:
    model = small_model(learns=True, positions=P.RandomPositions(200))
    tokens = ids(1, 20)
    quiet = model(tokens)
    assert torch.equal(model(tokens), quiet), "in evaluation always the same draw"
    model.train()
    torch.manual_seed(3)
    first, second = model(tokens), model(tokens)
    assert not torch.allclose(first, second)
    torch.manual_seed(3)
    assert torch.equal(model(tokens), first), "a seed decides the draws"
    assert torch.equal(model(tokens[0], lengths=(20,)), second[0]), "packed too"
    with torch.no_grad():
        assert torch.equal(model(tokens), quiet)


def test_recomputed_layers_have_the_draw_of_their_batch() -> None:
    model = small_model(learns=True, positions=P.RandomPositions(200, inner=P.T5())).train()

    def gradients(recompute: bool) -> list[Tensor]:
        torch.manual_seed(4)
        model.zero_grad()
        model.loss(ids(2, 20), recompute=recompute).backward()
        return [p.grad.clone() for p in model.parameters()]

    for kept, again in zip(gradients(False), gradients(True), strict=True):
        assert torch.equal(kept, again)


def test_a_few_steps_change_the_parameters_and_lower_the_loss() -> None:
    torch.manual_seed(0)
    model = Transformer(Config(**SHAPE, positions=(P.T5(), P.Kerple(), P.SSMax(32))))
    before = {name: p.detach().clone() for name, p in model.named_parameters() if ".positions." in name}
    recipe = training.Recipe(steps=30, batch=4, context=32, learning_rate=3e-3)
    documents = [(ids(1, 8, seed=row)[0].tolist() * 6) for row in range(20)]
    result = training.fit(model, documents, recipe)
    assert result.loss < math.log(SHAPE["vocab_size"])
    after = dict(model.named_parameters())
    assert all(not torch.equal(after[name], value) for name, value in before.items())


# ------------------------------------------------------------------------------------------------------ both directions


def test_every_token_sees_every_token() -> None:
    model, tokens = small_model(causal=False, positions=P.NoPE()), ids(1, 20)
    changed = tokens.clone()
    changed[0, 19] = (changed[0, 19] + 1) % SHAPE["vocab_size"]
    assert not torch.allclose(model(tokens)[0, 0], model(changed)[0, 0])
    packed = model(torch.cat([tokens[0], tokens[0, :7]]), lengths=(20, 7))
    assert_same_bits(packed[:20].numpy(), model(tokens)[0].numpy(), "no document sees another")


def test_a_scale_that_is_given_lies_where_the_queries_do() -> None:
    query = torch.empty(1, 1, 4, 8, device="meta")
    assert combined(np.ones(4), None, query).device == query.device
    assert combined(np.ones(4), None, np.ones((1, 1, 4, 8))).device.type == "cpu"


def test_a_model_of_both_directions_has_no_cache_and_no_next_token(tmp_path: Path) -> None:
    model = small_model(causal=False)
    for name, call in (
        ("generate", lambda: model.generate([[1, 2]])),
        ("new_cache", lambda: model.new_cache(1)),
        ("targets", lambda: model.loss(ids(1, 9))),
        ("targets", lambda: farspan.lens(model, ids(1, 9))),
        ("model", lambda: farspan.measure(model, ids(1, 200)[0], [16])),
        ("model", lambda: training.fit(model, [[1, 2, 3]], training.Recipe(steps=1))),
    ):
        with pytest.raises(farspan.ArgumentError, match=f"{name}: expected .*causal=False"):
            call()
    assert farspan.lens(model, ids(1, 9), targets=ids(1, 9)).rank.shape[1:] == (1, 9)
    assert model.loss(ids(1, 9), ids(1, 9)) > 0
    model.save_pretrained(tmp_path)
    assert not Transformer.from_pretrained(tmp_path).config.causal
    with pytest.raises(farspan.ArgumentError, match="windows"):
        Config(**SHAPE, causal=False, windows=4)


@pytest.mark.parametrize(
    "scheme", [P.SelfExtend(2, 4), P.ReRoPE(4), P.Streaming(1, 4), P.HardALiBi(), P.Forgetting(), P.FIRE()], ids=repr
)
def test_schemes_of_one_direction_are_refused(scheme: P.Scheme) -> None:
    with pytest.raises(farspan.ArgumentError, match=f"positions.*{type(scheme).__name__}"):
        small_model(causal=False, positions=scheme)(ids(1, 9))


# ------------------------------------------------------------------------------------------------------- wrong settings


@pytest.mark.parametrize(("make", "word"), [
    (lambda: P.T5(buckets=6), "buckets"), (lambda: P.T5(32, 16), "max_distance"), (lambda: P.Kerple(power=1), "power"),
    (lambda: P.Forgetting(inner=3), "inner"), (lambda: P.Coupled(P.NoPE()), "inner"),
    (lambda: P.Coupled(P.Coupled()), "inner"), (lambda: P.RandomPositions(9, inner=P.Coupled()), "inner"),
    (lambda: P.FIRE(0), "threshold"), (lambda: P.FIRE(9, 0), "width"), (lambda: P.Forgetting(P.FIRE()), "inner"),
    (lambda: Config(**SHAPE, positions=P.SSMax(9, P.FIRE()), windows=4), "windows: .*FIRE"),
    (lambda: P.Relative(7), "dim"), (lambda: P.Relative(0), "dim"),
    (lambda: Config(**SHAPE, positions=P.Relative(246)), "positions: expected .* at most 244 dims"),
    (lambda: P.SSMax(1), "original_length"), (lambda: P.SSMax(9, inner=3), "inner"),
    (lambda: P.SSMax(9, inner=P.SSMax(9)), "inner"), (lambda: P.SSMax(9, offset=1), "offset"),
    (lambda: P.SSMax(9, slope="x"), "slope"), (lambda: P.RandomPositions(9, inner=P.RandomPositions(9)), "inner"),
    (lambda: P.RandomPositions(9, inner=P.ReRoPE(4)), "inner"),
    (lambda: P.T5().hooks(P.Span(1, (9,), 4, 8)), "T5.hooks"),
    (lambda: P.LogN(9, inner=P.T5()).hooks(P.Span(1, (9,), 4, 8)), "T5.hooks"),
])  # fmt: skip
def test_refuses(make: Any, word: str) -> None:
    with pytest.raises(farspan.ArgumentError, match=word):
        make()
