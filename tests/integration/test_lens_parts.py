"""`farspan.lens` reads long texts in parts: with the bits of one pass, and in memory that the text does not decide."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from support.models import ids, small_model
from support.peak import PEAK, needs_peak
from torch import Tensor

import farspan
from farspan import Lens, Transformer
from farspan import positions as P
from farspan.inside import parts
from farspan.testing import assert_same_bits

TIME, ORIGINAL = 37, 20
SCHEMES = (
    P.ALiBi(), P.HardALiBi(2), P.Sandwich(64), P.LogN(9), P.SelfExtend(2, 4), P.ReRoPE(4), P.Streaming(2, 9),
    P.T5(16, 99), P.Kerple(True), P.SSMax(9, P.T5(), True), P.Relative(8), P.Forgetting(), P.FIRE(9.0, 8), P.YaRN(2, 9),
)  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "plain": {}, "half": {"dtype": "bfloat16"}, "soft cap": {"final_logit_softcapping": 3.0},
    "learned places": {"learned_positions": True}, "windows": {"windows": (None, 7, 5)},
    "one layer": {"num_hidden_layers": 1},
    **{type(scheme).__name__: {"positions": (scheme,) * 3} for scheme in SCHEMES},
}  # fmt: skip
WHOLE: dict[str, dict[str, Any]] = {
    "dynamic": {"positions": (P.DynamicNTK(2, ORIGINAL),) * 3},
    "switching": {"positions": (P.LongRoPE([1.0] * 6, [2.0] * 6, ORIGINAL, 60),) * 3},
    "switching in the first part": {"positions": (P.LongRoPE([1.0] * 6, [2.0] * 6, 9, 60),) * 3},
    "random": {"positions": (P.RandomPositions(200),) * 3},
    "encoder": {"causal": False},
    "reference": {"backend": "reference"},
}
FIELDS = ("entropy", "kl", "logprob", "rank", "top_token", "top_logprob")


def same(found: Lens, whole: Lens, what: str) -> None:
    for name in FIELDS:
        assert_same_bits(getattr(found, name).numpy(), getattr(whole, name).numpy(), f"{what}: {name}")


def passes(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the ids that the model reads from now on."""
    seen: list[tuple[int, ...]] = []
    forward = type(model).forward

    def count(self: Transformer, tokens: Tensor, *given: Any, **more: Any) -> Tensor:
        seen.append(tuple(tokens.shape))
        return forward(self, tokens, *given, **more)

    monkeypatch.setattr(type(model), "forward", count)
    return seen


def shorten(monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
    monkeypatch.setattr(parts, "MOST_TOKENS", tokens)
    monkeypatch.setattr(parts, "LEAST_TOKENS", tokens)


@pytest.mark.parametrize("shape", SHAPES)
def test_parts_of_a_text_have_the_bits_of_the_whole(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, targets = small_model(**SHAPES[shape]), ids(2, TIME), ids(2, TIME, seed=4)
    whole = farspan.lens(model, tokens, targets=targets)
    shorten(monkeypatch, 10)
    seen = passes(model, monkeypatch)
    same(farspan.lens(model, tokens, targets=targets), whole, shape)
    assert seen == [(1, 9), (1, 9), (1, 9), (1, 10)] * 2


@pytest.mark.parametrize("shape", WHOLE)
def test_what_cannot_be_cut_is_read_twice(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = small_model(**WHOLE[shape]), ids(1, TIME)
    whole = farspan.lens(model, tokens, targets=tokens)
    shorten(monkeypatch, 10)
    seen = passes(model, monkeypatch)
    same(farspan.lens(model, tokens, targets=tokens), whole, shape)
    assert seen == [(1, TIME)] * 2


def test_hooks_see_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    model, seen = small_model(), []
    model.layers[1].register_forward_hook(lambda module, given, out: seen.append(len(out)))
    whole = farspan.lens(model, ids(2, TIME))
    shorten(monkeypatch, 10)
    same(farspan.lens(model, ids(2, TIME)), whole, "hooked")
    assert seen == [2 * TIME] * 3


def test_short_sequences_are_read_several_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = small_model(), ids(5, 9)
    whole = farspan.lens(model, tokens)
    shorten(monkeypatch, 20)
    seen = passes(model, monkeypatch)
    same(farspan.lens(model, tokens), whole, "a batch in parts")
    assert seen == [(2, 9), (2, 9), (1, 9)]


def test_positions_in_any_order_and_nothing_behind_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens, chosen = small_model(), ids(2, TIME), {"layers": [-1, 2], "positions": [20, 3, 3, 11]}
    whole = farspan.lens(model, tokens, **chosen)
    shorten(monkeypatch, 10)
    seen = passes(model, monkeypatch)
    same(farspan.lens(model, tokens, **chosen), whole, "some positions")
    assert seen == [(1, 9)] * 6
    assert farspan.lens(model, tokens, positions=[]).entropy.shape == (4, 2, 0)


def test_a_text_beyond_the_learned_places_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model(learned_positions=True)
    seen = passes(model, monkeypatch)
    with pytest.raises(farspan.ArgumentError, match="sequences of at most 256 tokens"):
        farspan.lens(model, ids(1, 2000))
    assert not seen


MEMORY = f"""
import sys
import torch
import farspan
{PEAK}
layers, vocab, time = map(int, sys.argv[1:])
shape = farspan.Config(
    vocab_size=vocab, hidden_size=128, intermediate_size=256, num_hidden_layers=layers, num_attention_heads=4,
    num_key_value_heads=1, tie_word_embeddings=True,
)
farspan.set_num_threads(2)
model, ids = farspan.Transformer(shape), torch.arange(time)[None] % vocab
farspan.lens(model, ids[:, :9], layers=[0, -1])
before = peak()
farspan.lens(model, ids, top=2)
print(peak() - before)
"""


@needs_peak
def test_peak_memory_is_keys_values_and_a_part() -> None:
    """Logits of one layer would take 100 MiB, the states of all layers 42 MiB."""
    layers, vocab, time = 40, 12_500, 2048
    arguments = [sys.executable, "-c", MEMORY, *map(str, (layers, vocab, time))]
    grown = int(subprocess.check_output(arguments, text=True))
    keys_and_values = 2 * layers * time * 32 * 4
    read = (layers + 1) * time * (3 * 4 + 8 + 2 * 12)
    assert grown < keys_and_values + read + parts.HELD_BYTES + 24 * 2**20, f"{grown / 2**20:.1f} MiB"
