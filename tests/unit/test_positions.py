"""Each position scheme against its published formula, and against transformers where that has the scheme."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import farspan
from farspan import positions as P
from farspan.positions.biases import alibi_slopes

DIM, BASE = 16, 10000.0
D = np.arange(DIM // 2)
THETA = BASE ** (-2 * D / DIM)


def span(time: int, *lengths: int, heads: int = 4) -> P.Span:
    return P.Span(time, lengths, heads, DIM)


def frequencies(scheme: Any, length: int = 100) -> np.ndarray:
    rotary = scheme.hooks(span(1, length))["rotary"]
    assert rotary.inv_freq.dtype == np.float32
    return np.asarray(rotary.inv_freq, np.float64)


def magnitude(scheme: Any) -> float:
    return float(scheme.hooks(span(1, 100))["rotary"].magnitude)


def yarn(factor: float, original: int, fast: float, slow: float, truncate: bool) -> np.ndarray:
    """Peng et al. 2023, with the ramp over the pair's index as transformers has it."""
    low, high = (DIM * math.log(original / (2 * math.pi * turns)) / (2 * math.log(BASE)) for turns in (fast, slow))
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, DIM - 1)
    interpolated = np.clip((D - low) / max(high - low, 0.001), 0, 1)
    return THETA * (1 - interpolated) + THETA / factor * interpolated


def llama3(factor: float, low: float, high: float, original: int) -> np.ndarray:
    """By wavelength, case by case, as the Llama 3.1 release does."""
    out = []
    for theta in THETA:
        wavelength = 2 * math.pi / theta
        if wavelength < original / high:
            out.append(theta)
        elif wavelength > original / low:
            out.append(theta / factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            out.append((1 - smooth) * theta / factor + smooth * theta)
    return np.array(out)


RAMP = [1.0, 1.1, 1.3, 2.0, 3.0, 4.0, 6.0, 8.0]

FORMULAS: dict[str, tuple[P.Scheme, int, np.ndarray]] = {
    "RoPE": (P.RoPE(), 100, THETA),
    "RoPE of another base": (P.RoPE(5e5), 100, 5e5 ** (-2 * D / DIM)),
    "LinearInterpolation": (P.LinearInterpolation(4), 100, THETA / 4),
    "NTK": (P.NTK(4), 100, (BASE * 4 ** (DIM / (DIM - 2))) ** (-2 * D / DIM)),
    "DynamicNTK within": (P.DynamicNTK(2, 100), 100, THETA),
    "DynamicNTK beyond": (P.DynamicNTK(2, 50), 200, (BASE * (2 * 200 / 50 - 1) ** (DIM / (DIM - 2))) ** (-2 * D / DIM)),
    "YaRN": (P.YaRN(8, 2048), 100, yarn(8, 2048, 32, 1, True)),
    "YaRN with its betas": (P.YaRN(4, 512, beta_fast=8, beta_slow=2), 100, yarn(4, 512, 8, 2, True)),
    "YaRN, not truncated": (P.YaRN(4, 512, truncate=False), 100, yarn(4, 512, 32, 1, False)),
    "Llama3": (P.Llama3(8, 1, 4, 8192), 100, llama3(8, 1, 4, 8192)),
    "Llama3, short": (P.Llama3(4, 1, 4, 64), 100, llama3(4, 1, 4, 64)),
    "LongRoPE, short": (P.LongRoPE([2.0] * 8, RAMP, 100, 800), 100, THETA / 2),
    "LongRoPE, long": (P.LongRoPE([2.0] * 8, RAMP, 100, 800), 101, THETA / RAMP),
    "PRoPE": (P.PRoPE(0.75), 100, np.array([*THETA[:6], 0, 0])),
    "PRoPE of all": (P.PRoPE(1), 100, THETA),
    "PRoPE of a base": (P.PRoPE(0.4, base=5e5), 100, np.array([*(5e5 ** (-2 * D / DIM))[:3], 0, 0, 0, 0, 0])),
    "ClippedRoPE": (P.ClippedRoPE(100), 100, np.array([theta if 2 * math.pi / theta < 100 else 0 for theta in THETA])),
    "ClippedRoPE, 4 turns": (P.ClippedRoPE(30, 4), 100, np.array([THETA[0], 0, 0, 0, 0, 0, 0, 0])),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_frequencies(name: str) -> None:
    scheme, length, truth = FORMULAS[name]
    np.testing.assert_allclose(frequencies(scheme, length), truth, rtol=2e-7)


def test_magnitudes() -> None:
    assert magnitude(P.YaRN(8, 2048)) == pytest.approx(0.1 * math.log(8) + 1)
    assert magnitude(P.YaRN(1, 2048)) == 1.0
    assert magnitude(P.YaRN(8, 2048, attention_factor=1.2)) == 1.2
    assert magnitude(P.LongRoPE(RAMP, RAMP, 100, 800)) == pytest.approx(math.sqrt(1 + math.log(8) / math.log(100)))
    assert magnitude(P.LongRoPE(RAMP, RAMP, 100, 100)) == 1.0
    assert all(magnitude(s) == 1.0 for s in (P.RoPE(), P.NTK(4), P.LinearInterpolation(4), P.Llama3(8, 1, 4, 8192)))


HUGGING_FACE: dict[str, tuple[P.Scheme, dict[str, Any]]] = {
    "linear": (P.LinearInterpolation(4), {"factor": 4.0}),
    "dynamic": (P.DynamicNTK(2, 128), {"factor": 2.0}),
    "yarn": (P.YaRN(8, 64), {"factor": 8.0, "original_max_position_embeddings": 64}),
    "proportional": (P.PRoPE(0.7), {"partial_rotary_factor": 0.7}),
    "llama3": (P.Llama3(8, 1, 4, 64), {
        "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}),
    "longrope": (P.LongRoPE([1.5] * 8, RAMP, 64, 128), {
        "short_factor": [1.5] * 8, "long_factor": RAMP, "original_max_position_embeddings": 64}),
}  # fmt: skip


@pytest.mark.parametrize("length", [50, 300])
@pytest.mark.parametrize("kind", HUGGING_FACE)
def test_transformers_computes_the_same(kind: str, length: int) -> None:
    utils = pytest.importorskip("transformers.modeling_rope_utils", reason="transformers is not installed")
    from transformers import LlamaConfig

    scheme, settings = HUGGING_FACE[kind]
    config = LlamaConfig(
        hidden_size=4 * DIM, num_attention_heads=4, head_dim=DIM, max_position_embeddings=128,
        rope_parameters={"rope_type": kind, "rope_theta": BASE, **settings},
    )  # fmt: skip
    theirs, factor = utils.ROPE_INIT_FUNCTIONS[kind](config, "cpu", seq_len=length)
    np.testing.assert_allclose(frequencies(scheme, length), theirs.double().numpy(), rtol=3e-6)
    assert magnitude(scheme) == pytest.approx(factor)


def test_each_sequence_has_the_frequencies_of_its_own_length() -> None:
    scheme = P.DynamicNTK(2, 50)
    rows = scheme.hooks(span(1, 40, 200, 120))["rotary"].inv_freq
    for row, length in enumerate((40, 200, 120)):
        np.testing.assert_array_equal(rows[row], scheme.hooks(span(1, length))["rotary"].inv_freq)
    assert scheme.hooks(span(1, 30, 50))["rotary"].inv_freq.ndim == 1, "within the original length all are alike"


# ----------------------------------------------------------------------------------------- distances, biases and scales


def effective_distances(scheme: Any, length: int) -> np.ndarray:
    """How far query i sees key j, NaN where it does not see it, from the arguments given to attention."""
    hooks = scheme.hooks(span(length, length))
    order = np.arange(length)
    gap = order[:, None] - order
    distance = gap.astype(float)
    rotary = hooks["rotary"]
    if rotary.border is not None:
        far = rotary.far_query_positions[:, None] - rotary.far_key_positions
        distance = np.where(gap >= rotary.border, far, distance)
    visible = (gap >= 0) & ((gap < hooks.get("window", length)) | (order < hooks.get("keep_first", 0)))
    return np.where(visible, distance, np.nan)


def by_hand(length: int, distance: Any) -> np.ndarray:
    return np.array([[distance(i, j) if j <= i else np.nan for j in range(length)] for i in range(length)], float)


def test_self_extend() -> None:
    def distance(i: int, j: int) -> int:
        return i - j if i - j < 8 else i // 3 + 8 - 8 // 3 - j // 3

    np.testing.assert_array_equal(effective_distances(P.SelfExtend(3, 8), 50), by_hand(50, distance))


def test_rerope() -> None:
    np.testing.assert_array_equal(effective_distances(P.ReRoPE(7), 40), by_hand(40, lambda i, j: min(i - j, 7)))


def test_streaming() -> None:
    """The positions are those inside the kept keys: sinks first, then the window, as the paper's cache numbers them."""
    sinks, window = 3, 6

    def distance(i: int, j: int) -> float:
        kept = [k for k in range(i + 1) if k < sinks or i - k < window]
        return kept.index(i) - kept.index(j) if j in kept else math.nan

    np.testing.assert_array_equal(effective_distances(P.Streaming(sinks, window), 40), by_hand(40, distance))


def test_streaming_without_rotation() -> None:
    assert P.Streaming(2, 5, inner=P.NoPE()).hooks(span(1, 9)) == {"window": 5, "keep_first": 2}


@pytest.mark.parametrize(
    ("heads", "slopes"),
    [
        (8, [2.0**-h for h in range(1, 9)]), (4, [2.0 ** (-2 * h) for h in range(1, 5)]), (1, [2.0**-8]),
        (6, [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3]),
        (12, [2.0**-h for h in range(1, 9)] + [2.0**-0.5, 2.0**-1.5, 2.0**-2.5, 2.0**-3.5]),
    ],
)  # fmt: skip
def test_alibi(heads: int, slopes: list[float]) -> None:
    assert alibi_slopes(heads) == pytest.approx(slopes)
    bias = P.ALiBi().hooks(span(3, 1000, heads=heads))["distance_bias"]
    assert bias.minimum == 0
    np.testing.assert_allclose(bias.table[:, :1000], -np.outer(slopes, np.arange(1000)), rtol=1e-7)


@pytest.mark.parametrize(("heads", "masked"), [(4, None), (5, None), (4, 4), (4, 0), (3, 1)])
def test_hard_alibi(heads: int, masked: int | None) -> None:
    bias = P.HardALiBi(masked).hooks(span(3, 50, heads=heads))["distance_bias"]
    masked = heads // 2 if masked is None else masked
    for head in range(heads):
        for distance in range(50):
            added = bias.table[head, min(distance, bias.table.shape[1] - 1)]
            assert added == (-math.inf if head < masked and distance > head else 0.0)
    with pytest.raises(farspan.ArgumentError, match="masked: expected at most the 4 heads of the model, given 5"):
        P.HardALiBi(5).hooks(span(1, 9))


def test_hard_alibi_hides_keys_whatever_they_hold(backend: str) -> None:
    """Long enough for chunks of keys of which a head sees none; what is hidden may even be too large for a float."""
    hooks = P.HardALiBi().hooks(span(300, 300))
    random = np.random.default_rng(0)
    query, key, value = (random.standard_normal((1, 4, 300, DIM), np.float32) for _ in range(3))
    found = farspan.attention(query, key, value, causal=True, **hooks)
    np.testing.assert_allclose(found[0, 0], value[0, 0], rtol=1e-6)
    scores = np.float64(query[0, 1]) @ np.float64(key[0, 1]).T / math.sqrt(DIM)
    for i in (1, 150, 299):
        weights = np.exp(scores[i, i - 1 : i + 1])
        np.testing.assert_allclose(found[0, 1, i], weights / weights.sum() @ value[0, 1, i - 1 : i + 1], rtol=1e-4)
    plain = farspan.attention(query, key, value, causal=True)
    np.testing.assert_allclose(found[0, 2:], plain[0, 2:], rtol=1e-5, atol=1e-6)


def test_sandwich() -> None:
    """The product of sinusoidal embeddings, whose frequencies begin at the second, as published."""
    dim, heads = 32, 4
    position = np.arange(200)[:, None] / 10000.0 ** (2 * np.arange(1, dim // 2 + 1) / dim)
    embedding = np.hstack([np.sin(position), np.cos(position)])
    product = (embedding @ embedding.T)[199, ::-1] - dim / 2
    bias = P.Sandwich(dim).hooks(span(3, 200, heads=heads))["distance_bias"]
    assert bias.minimum == 0
    truth = np.outer([1 / (h * 8 / heads) for h in range(1, heads + 1)], product)
    np.testing.assert_allclose(bias.table[:, :200], truth, rtol=1e-5, atol=1e-5)


def test_random_positions() -> None:
    scheme = P.RandomPositions(64, seed=3)
    hooks = scheme.hooks(span(5, 20))
    keys, queries = hooks["key_positions"], hooks["query_positions"]
    assert keys.shape == (20,)
    assert (np.diff(keys) > 0).all()
    assert 0 <= keys[0] < keys[-1] < 64
    np.testing.assert_array_equal(queries, keys[-5:])
    np.testing.assert_array_equal(hooks["rotary"].inv_freq, P.RoPE().hooks(span(1, 9))["rotary"].inv_freq)
    assert (P.RandomPositions(64, seed=4).hooks(span(5, 20))["key_positions"] != keys).any()
    several = scheme.hooks(span(2, 20, 7))
    for row, length in enumerate((20, 7)):
        alone = scheme.hooks(span(2, length))
        np.testing.assert_array_equal(several["key_positions"][row, :length], alone["key_positions"])
        np.testing.assert_array_equal(several["query_positions"][row], alone["query_positions"])
    np.testing.assert_array_equal(scheme.hooks(span(1, 64))["key_positions"], np.arange(64))
    with pytest.raises(farspan.ArgumentError, match="limit: expected at least the 65 places of a sequence, given 64"):
        scheme.hooks(span(1, 65))


def test_random_positions_are_drawn_evenly() -> None:
    counts = np.zeros(16)
    for seed in range(2000):
        counts[P.RandomPositions(16, seed=seed).hooks(span(1, 4))["key_positions"]] += 1
    assert counts == pytest.approx(np.full(16, 500), abs=5 * math.sqrt(500))


def test_log_n() -> None:
    hooks = P.LogN(16).hooks(span(30, 40))
    truth = [max(1.0, math.log(i + 1) / math.log(16)) for i in range(10, 40)]
    np.testing.assert_allclose(hooks["query_scale"], truth, rtol=1e-7)
    assert P.LogN(16).hooks(span(2, 9, 40))["query_scale"].shape == (2, 1, 2)
    np.testing.assert_array_equal(hooks["rotary"].inv_freq, P.RoPE().hooks(span(1, 9))["rotary"].inv_freq)
    assert "rotary" not in P.LogN(16, inner=P.NoPE()).hooks(span(30, 40))
    twice = P.LogN(8, inner=P.LogN(16)).hooks(span(1, 64))["query_scale"]
    assert twice == pytest.approx([math.log(64) ** 2 / math.log(8) / math.log(16)])


def test_nope() -> None:
    assert P.NoPE().hooks(span(3, 9)) == {}


# -------------------------------------------------------------------------------------------------------- the objects

ALL: list[P.Scheme] = [
    P.RoPE(), P.LinearInterpolation(2), P.NTK(2), P.DynamicNTK(2, 9), P.YaRN(2, 9), P.Llama3(8, 1, 4, 9),
    P.LongRoPE(RAMP, RAMP, 9, 18), P.ALiBi(), P.NoPE(), P.LogN(9), P.SelfExtend(2, 4), P.ReRoPE(4), P.Streaming(1, 4),
    P.PRoPE(0.5), P.ClippedRoPE(9, 2.0), P.HardALiBi(2), P.Sandwich(64), P.RandomPositions(99, 1, P.NTK(2)),
    P.T5(16, 99), P.Kerple(True), P.SSMax(9, P.T5(), True), P.Relative(8), P.Forgetting(), P.FIRE(9.0, 8),
    P.Coupled(P.T5()),
]  # fmt: skip


@pytest.mark.parametrize("scheme", ALL, ids=lambda s: type(s).__name__)
def test_written_down_and_read(scheme: P.Scheme) -> None:
    again = P.scheme_from_dict(json.loads(json.dumps(scheme.to_dict())))
    assert again == scheme
    assert hash(again) == hash(scheme)


def test_every_scheme_is_tested_here() -> None:
    assert {type(scheme) for scheme in ALL} == set(P.SCHEMES)


def test_a_scaling_takes_the_base_of_the_model() -> None:
    assert P.NTK(2).with_base(5e5) == P.NTK(2, base=5e5)
    assert P.NTK(2, base=1e4).with_base(5e5) == P.NTK(2, base=1e4)
    assert P.SelfExtend(2, 4, inner=P.YaRN(2, 9)).with_base(5e5).rope_base == 5e5
    assert P.RoPE(1e4).with_base(5e5) == P.RoPE(1e4)


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: P.RoPE(0), "base"), (lambda: P.RoPE(math.nan), "base"), (lambda: P.RoPE("x"), "base"),
        (lambda: P.LinearInterpolation(0), "factor"), (lambda: P.LinearInterpolation(2, base=-1), "base"),
        (lambda: P.NTK(-1), "factor"), (lambda: P.DynamicNTK(0.5, 9), "factor"),
        (lambda: P.DynamicNTK(2, 0), "original_length"),
        (lambda: P.DynamicNTK(2, 9.5), "original_length"), (lambda: P.YaRN(2, 9, beta_fast=0.5), "beta_fast"),
        (lambda: P.YaRN(2, 9, beta_slow=0), "beta_slow"),
        (lambda: P.YaRN(2, 9, attention_factor=0), "attention_factor"),
        (lambda: P.Llama3(8, 4, 1, 9), "high_freq_factor"), (lambda: P.Llama3(8, 0, 1, 9), "low_freq_factor"),
        (lambda: P.LongRoPE([1.0], [1.0, 2.0], 9, 18), "long_factor"),
        (lambda: P.LongRoPE([0.0], [1.0], 9, 18), "short_factor"),
        (lambda: P.LongRoPE("ab", [1.0], 9, 18), "short_factor"),
        (lambda: P.LongRoPE([1.0], [1.0], 1, 18), "original_length"),
        (lambda: P.LogN(1), "original_length"), (lambda: P.LogN(9, inner="rope"), "inner"),
        (lambda: P.SelfExtend(0, 4), "group"), (lambda: P.SelfExtend(2, 0), "window"), (lambda: P.ReRoPE(0), "window"),
        (lambda: P.SelfExtend(2, 4, inner=P.ALiBi()), "inner"), (lambda: P.ReRoPE(4, inner=P.NoPE()), "inner"),
        (lambda: P.Streaming(-1, 4), "sinks"), (lambda: P.Streaming(1, 0), "window"),
        (lambda: P.Streaming(True, 4), "sinks"),
        (lambda: P.Streaming(1, 4, inner=P.ALiBi()), "inner"),
        (lambda: P.PRoPE(1.5), "share"), (lambda: P.PRoPE(-1), "share"), (lambda: P.PRoPE(0.5, base=0), "base"),
        (lambda: P.ClippedRoPE(0), "original_length"), (lambda: P.ClippedRoPE(9, -1), "turns"),
        (lambda: P.ClippedRoPE(9, base=0), "base"), (lambda: P.HardALiBi(-1), "masked"),
        (lambda: P.Sandwich(0), "dim"), (lambda: P.Sandwich(7), "dim"), (lambda: P.RandomPositions(0), "limit"),
        (lambda: P.RandomPositions(9, -1), "seed"), (lambda: P.RandomPositions(9, 0, P.NoPE()), "inner"),
        (lambda: P.scheme_from_dict({"scheme": "Rope"}), "scheme"), (lambda: P.scheme_from_dict(3), "scheme"),
        (lambda: P.scheme_from_dict({"scheme": "RoPE", "angle": 3}), "angle"),
    ],
)  # fmt: skip
def test_refuses(make: Any, word: str) -> None:
    with pytest.raises(farspan.ArgumentError, match=word):
        make()


def test_long_rope_of_another_head_is_refused_when_it_is_used() -> None:
    with pytest.raises(farspan.ArgumentError, match=r"short_factor.*8"):
        P.LongRoPE([1.0], [1.0], 9, 18).hooks(span(1, 5))
