"""model.with_positions: every scheme through the whole model, with caches that are already filled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from support.models import SHAPE, ids, reference_twin, small_model

import farspan
from farspan import positions as P
from farspan.model import Config, Transformer
from farspan.testing import assert_close, assert_same_bits

LENGTH, ORIGINAL = 60, 20
RAMP = [1.0, 1.2, 1.5, 2.0, 3.0, 4.0]

SCHEMES: dict[str, P.Scheme] = {
    "RoPE": P.RoPE(500.0), "LinearInterpolation": P.LinearInterpolation(3), "NTK": P.NTK(3),
    "DynamicNTK": P.DynamicNTK(2, ORIGINAL), "YaRN": P.YaRN(3, ORIGINAL), "Llama3": P.Llama3(4, 1, 4, ORIGINAL),
    "LongRoPE": P.LongRoPE([1.0] * 6, RAMP, ORIGINAL, 60), "ALiBi": P.ALiBi(), "NoPE": P.NoPE(),
    "LogN": P.LogN(ORIGINAL), "SelfExtend": P.SelfExtend(4, 8), "ReRoPE": P.ReRoPE(10), "Streaming": P.Streaming(4, 16),
    "PRoPE": P.PRoPE(0.5), "ClippedRoPE": P.ClippedRoPE(ORIGINAL), "HardALiBi": P.HardALiBi(), "Sandwich": P.Sandwich(),
    "RandomPositions": P.RandomPositions(200, inner=P.DynamicNTK(2, ORIGINAL)),
    "LogN of Streaming of YaRN": P.LogN(ORIGINAL, inner=P.Streaming(2, 9, inner=P.YaRN(2, ORIGINAL))),
    "Streaming of DynamicNTK": P.Streaming(4, 16, inner=P.DynamicNTK(2, ORIGINAL)),
}  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Transformer:
    return small_model(max_position_embeddings=ORIGINAL)


@pytest.fixture(scope="module")
def shallow() -> Transformer:
    """One layer: its cached keys and values depend on the tokens alone, whatever the scheme was when they came."""
    return small_model(num_hidden_layers=1)


@pytest.mark.parametrize("name", SCHEMES)
def test_follows_the_definition(name: str, model: Transformer) -> None:
    switched = model.with_positions(SCHEMES[name])
    truth = reference_twin(switched)(ids(2, LENGTH))
    assert_close(switched(ids(2, LENGTH)), truth, 5e-5 * float(1 + truth.abs().max()), f"{name} against float64")
    assert not torch.allclose(truth.float(), model(ids(2, LENGTH)), atol=1e-3), f"{name} must not be plain RoPE"


@pytest.mark.parametrize("name", SCHEMES)
def test_switching_with_a_filled_cache(name: str, shallow: Transformer) -> None:
    """Keys cached under RoPE serve any scheme: they are cached as they were before rotation."""
    tokens = ids(2, LENGTH)
    cache = shallow.new_cache(2)
    shallow(tokens[:, :33], cache)
    switched = shallow.with_positions(SCHEMES[name])
    fresh = switched(tokens)[:, 33:]
    assert_same_bits(switched(tokens[:, 33:], cache).numpy(), fresh.numpy(), f"{name} after 33 tokens of RoPE")


@pytest.mark.parametrize("name", SCHEMES)
def test_sequences_of_different_lengths_in_one_batch(name: str, model: Transformer) -> None:
    """Each by its own length, also where that changes its angles: the other sequences have no part in it."""
    switched = model.with_positions(SCHEMES[name])
    tokens, new = ids(3, 50), ids(3, 1, seed=9)
    held = [50, 7, 26]
    cache = switched.new_cache(3)
    switched(tokens, cache)
    cache.truncate(held)
    together = switched(new, cache)
    for row, count in enumerate(held):
        alone_cache = switched.new_cache(1)
        switched(tokens[row : row + 1], alone_cache)
        alone = switched(new[row : row + 1], alone_cache.truncate(count))
        assert_same_bits(together[row].numpy(), alone[0].numpy(), f"{name}: {count} tokens beside {held}")


def test_weights_are_shared_and_the_model_stays_as_it_was(model: Transformer) -> None:
    before = model(ids(1, 30))
    switched = model.with_positions(P.NoPE())
    switched(ids(1, 30))
    assert torch.equal(model(ids(1, 30)), before)
    assert switched.unembedding is model.unembedding
    assert switched.config != model.config


def test_a_scaling_takes_the_base_of_the_checkpoint() -> None:
    model = small_model(positions=P.RoPE(5e5))
    assert model.with_positions(P.NTK(2)).config.positions[0] == P.NTK(2, base=5e5)
    through_others = model.with_positions(P.ALiBi()).with_positions(P.ReRoPE(9, inner=P.LinearInterpolation(2)))
    assert through_others.config.positions[0].rope_base == 5e5
    assert model.with_positions(P.RoPE()).config.positions[0] == P.RoPE(10000.0)


MIXED: dict[str, Any] = {"positions": (P.RoPE(5e5), P.NoPE(), P.RoPE(2e4))}


@pytest.mark.parametrize("scheme", [P.YaRN(2, 64), P.NoPE(), P.ALiBi(), P.LogN(9), P.ReRoPE(9), P.NTK(2)], ids=repr)
def test_only_layers_that_rotate_are_changed(scheme: P.Scheme) -> None:
    """Each keeps its own base, and a layer without a rotation stays without, whatever came between."""
    model = small_model(**MIXED)
    for start in (model, model.with_positions(P.ALiBi()), model.with_positions(P.NoPE()).with_positions(P.NTK(3))):
        switched = start.with_positions(scheme).config
        assert switched.positions == (scheme.with_base(5e5), P.NoPE(), scheme.with_base(2e4))
        assert switched.rotating_layers == (0, 2)
        assert Config.from_dict(switched.to_dict()) == switched
    assert model.config.rope_bases == (5e5, None, 2e4)
    assert model.config.rope_theta == 5e5


def test_a_model_without_any_rotation_takes_a_scheme_in_every_layer() -> None:
    config = Config(**SHAPE, positions=(P.ALiBi(), P.NoPE(), P.ALiBi()))
    assert config.with_positions(P.RoPE(7.0)).positions == (P.RoPE(7.0),) * 3


@pytest.mark.parametrize(("scheme", "rope"), [
    (P.LinearInterpolation(2), {"rope_type": "linear", "factor": 2.0}),
    (P.YaRN(4, 16), {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
])  # fmt: skip
def test_switching_a_smollm3_is_what_its_settings_would_do(scheme: P.Scheme, rope: dict[str, Any]) -> None:
    settings = {**SHAPE, "model_type": "smollm3", "no_rope_layers": [1, 0, 1]}
    own = Config.from_dict(settings)
    read = Config.from_dict({**settings, "rope_parameters": {**rope, "rope_theta": own.rope_theta}})
    assert own.with_positions(scheme) == read


def test_window_of_the_layer_and_of_the_scheme() -> None:
    """The narrower of the two holds."""
    options: dict[str, Any] = {"num_hidden_layers": 1, "positions": P.Streaming(0, 9, inner=P.NoPE())}
    narrow = small_model(windows=4, **options)(ids(1, 30))
    four = small_model(windows=4, num_hidden_layers=1, positions=P.NoPE())(ids(1, 30))
    assert_same_bits(narrow.numpy(), four.numpy(), "4 of 9")
    wide = small_model(windows=20, **options)(ids(1, 30))
    assert_same_bits(wide.numpy(), small_model(**options)(ids(1, 30)).numpy(), "9 of 20")


def test_refuses_what_is_no_scheme(model: Transformer) -> None:
    with pytest.raises(farspan.ArgumentError, match="scheme"):
        model.with_positions("yarn")  # type: ignore[arg-type]
    with pytest.raises(farspan.ArgumentError, match="short_factor"):
        model.with_positions(P.LongRoPE([1.0], [1.0], 9, 18))(ids(1, 3))


def test_default_scheme_of_a_config() -> None:
    assert Config(**SHAPE).positions == (P.RoPE(),) * 3
