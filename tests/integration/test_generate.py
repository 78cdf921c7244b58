"""model.generate: what a text may depend on, and what not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.models import ids, reference_twin, small_model

import farspan
from farspan import positions as P
from farspan.model import Completion, Transformer

PROMPTS = [ids(1, 11)[0].tolist(), ids(1, 3, seed=1)[0].tolist(), ids(1, 40, seed=2)[0].tolist(), [7]]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return small_model()


def same(first: list[Completion], second: list[Completion]) -> bool:
    """Tokens, logprobs to the last bit, and how they ended."""
    return [(c.tokens, c.logprobs, c.finish_reason) for c in first] == [
        (c.tokens, c.logprobs, c.finish_reason) for c in second
    ]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
@pytest.mark.parametrize("scheme", [None, P.DynamicNTK(2, 16), P.Streaming(2, 8), P.ALiBi()], ids=repr)
def test_a_text_does_not_know_its_batch_mates(model: Transformer, temperature: float, scheme: Any) -> None:
    model = model if scheme is None else model.with_positions(scheme)
    seeds = [11, 2**40 + 3, 0, -5]
    together = model.generate(PROMPTS, max_new_tokens=12, temperature=temperature, seed=seeds)
    for row, prompt in enumerate(PROMPTS):
        alone = model.generate([prompt], max_new_tokens=12, temperature=temperature, seed=[seeds[row]])
        assert same(alone, together[row : row + 1]), f"prompt {row}"


def test_draws_follow_the_definition(model: Transformer) -> None:
    """Token by token what `farspan.reference.sample` draws from the float64 model, where rounding cannot decide."""
    twin = reference_twin(model)
    for row, completion in enumerate(model.generate(PROMPTS, max_new_tokens=20, temperature=0.8, seed=77)):
        sequence = torch.tensor([PROMPTS[row] + completion.tokens])
        at = torch.arange(len(PROMPTS[row]), sequence.shape[1])
        logits = twin.logits(sequence)[0, at - 1]
        noise = farspan.reference.noise(77, at.numpy(), row, np.arange(logits.shape[-1]))
        perturbed = logits / 0.8 + torch.from_numpy(noise)
        two = perturbed.topk(2).values
        clear = two[:, 0] - two[:, 1] > 1e-3
        drawn = torch.tensor(completion.tokens)
        assert torch.equal(perturbed.argmax(-1)[clear], drawn[clear])
        truth = torch.log_softmax(logits / 0.8, -1).gather(-1, drawn[:, None])[:, 0]
        assert torch.allclose(truth, torch.tensor(completion.logprobs, dtype=torch.float64), atol=1e-4)


def test_resuming_changes_nothing(model: Transformer) -> None:
    """Half the tokens, then the rest with the same cache or with none: the positions of the draws are the same."""
    whole = model.generate(PROMPTS, max_new_tokens=16, temperature=1.0, seed=3)
    cache = model.new_cache(len(PROMPTS))
    half = model.generate(PROMPTS, max_new_tokens=7, temperature=1.0, seed=3, cache=cache)
    longer = [prompt + completion.tokens for prompt, completion in zip(PROMPTS, half, strict=True)]
    assert cache.lengths.tolist() == [len(prompt) - 1 for prompt in longer]
    for held in (cache, None):
        rest = model.generate(longer, max_new_tokens=9, temperature=1.0, seed=3, cache=held)
        joined = [a.tokens + b.tokens for a, b in zip(half, rest, strict=True)]
        assert joined == [c.tokens for c in whole]


@pytest.mark.parametrize("chunks", [(5, 35), (1, 1, 38), (40,)], ids=str)
def test_prefill_in_chunks_gives_the_same_tokens(model: Transformer, chunks: tuple[int, ...]) -> None:
    prompt = PROMPTS[2]
    cache, start = model.new_cache(1), 0
    for chunk in chunks:
        model([prompt[start : start + chunk]], cache)
        start += chunk
    given = model.generate([prompt], max_new_tokens=10, temperature=1.0, seed=8, cache=cache)
    assert same(given, model.generate([prompt], max_new_tokens=10, temperature=1.0, seed=8))


def test_one_seed_is_a_stream_per_row(model: Transformer) -> None:
    out = model.generate([PROMPTS[0]] * 3, max_new_tokens=20, temperature=1.0, seed=5)
    assert out[0].tokens != out[1].tokens != out[2].tokens
    assert same(model.generate([PROMPTS[0]], max_new_tokens=20, temperature=1.0, seed=[5]), out[:1])
    assert same(model.generate([PROMPTS[0]], max_new_tokens=20, temperature=1.0, seed=5), out[:1])


def test_seed_is_taken_by_its_bits(model: Transformer) -> None:
    negative = model.generate(PROMPTS[:1], max_new_tokens=9, temperature=1.0, seed=-1)
    assert same(model.generate(PROMPTS[:1], max_new_tokens=9, temperature=1.0, seed=2**64 - 1), negative)


def test_temperature_of_each_row(model: Transformer) -> None:
    out = model.generate(PROMPTS[:2], max_new_tokens=9, temperature=[0.0, 1.0], seed=4)
    assert out[0].logprobs == [0.0] * 9
    assert out[0].tokens == model.generate(PROMPTS[:1], max_new_tokens=9)[0].tokens
    assert all(p < 0 for p in out[1].logprobs)


def test_stop(model: Transformer) -> None:
    free = model.generate(PROMPTS, max_new_tokens=20, temperature=1.0, seed=3)
    stop = free[1].tokens[6]
    for row, completion in enumerate(model.generate(PROMPTS, max_new_tokens=20, temperature=1.0, seed=3, stop=[stop])):
        end = free[row].tokens.index(stop) + 1 if stop in free[row].tokens else 20
        assert completion.tokens == free[row].tokens[:end]
        assert completion.logprobs == free[row].logprobs[:end]
        assert completion.finish_reason == ("stop" if stop in completion.tokens else "length")
    assert same(model.generate(PROMPTS, max_new_tokens=20, temperature=1.0, seed=3, stop=stop)[:1], model.generate(
        PROMPTS[:1], max_new_tokens=20, temperature=1.0, seed=3, stop=(stop,)))  # fmt: skip


def test_stop_defaults_to_the_ends_of_sequence_of_the_config() -> None:
    first = small_model().generate(PROMPTS[:1], max_new_tokens=12, temperature=1.0)[0].tokens
    ending = small_model(eos_token_ids=(first[4], 100))
    cut = ending.generate(PROMPTS[:1], max_new_tokens=12, temperature=1.0)[0]
    assert (cut.tokens, cut.finish_reason) == (first[: first.index(first[4]) + 1], "stop")
    assert ending.generate(PROMPTS[:1], max_new_tokens=12, temperature=1.0, stop=())[0].tokens == first


def test_streamer_hears_every_token_and_may_stop_a_row(model: Transformer) -> None:
    heard: list[tuple[int, int]] = []

    def listen(row: int, token: int) -> bool:
        heard.append((row, token))
        return row == 1 and sum(r == 1 for r, _ in heard) == 3

    out = model.generate(PROMPTS[:3], max_new_tokens=6, temperature=1.0, streamer=listen)
    for row, completion in enumerate(out):
        assert completion.tokens == [token for r, token in heard if r == row]
    assert [len(c.tokens) for c in out] == [6, 3, 6]
    assert [c.finish_reason for c in out] == ["length", "stop", "length"]
    assert [r for r, _ in heard[:3]] == [0, 1, 2], "a row is heard as it is drawn, not at the end"


def test_fixed_cache_that_just_suffices(model: Transformer) -> None:
    prompts = [PROMPTS[0], PROMPTS[0][:4]]
    cache = model.new_cache(2, capacity=11 + 5 - 1)
    assert same(model.generate(prompts, max_new_tokens=5, cache=cache), model.generate(prompts, max_new_tokens=5))


def test_no_tokens_and_no_prompts(model: Transformer) -> None:
    assert model.generate([], max_new_tokens=5) == []
    assert model.generate([[1], [2]], max_new_tokens=0) == [Completion(), Completion()]


def test_nan_weights_are_an_error_not_a_text() -> None:
    model = small_model()
    with torch.no_grad():
        model.norm.weight[0] = float("nan")
    with pytest.raises(farspan.Error, match=r"prompts\[0\].*NaN"):
        model.generate([[1, 2]], max_new_tokens=3)


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"temperature": -1.0}, "temperature"), ({"temperature": float("nan")}, "temperature"),
        ({"temperature": [1.0]}, "temperature"), ({"temperature": "hot"}, "temperature"),
        ({"max_new_tokens": -1}, "max_new_tokens"), ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"seed": [1, 2, 3]}, "seed"), ({"seed": 2**64}, "seed"), ({"seed": 0.5}, "seed"),
        ({"stop": "x"}, "stop"), ({"streamer": 3}, "streamer"), ({"cache": 3}, "cache"),
        ({"prompts": [[1], []]}, r"prompts\[1\]"), ({"prompts": [[1], ["a"]]}, r"prompts\[1\]"),
        ({"prompts": 3}, "prompts"), ({"prompts": [[1], [101]]}, "ids"),
    ],
    ids=str,
)  # fmt: skip
def test_refuses(model: Transformer, options: dict[str, Any], word: str) -> None:
    with pytest.raises(farspan.Error, match=word):
        model.generate(**{"prompts": PROMPTS[:2], "max_new_tokens": 2, **options})


def test_refuses_a_cache_that_knows_more_than_the_prompt(model: Transformer) -> None:
    cache = model.new_cache(1)
    model(ids(1, 9), cache)
    with pytest.raises(farspan.ArgumentError, match=r"prompts\[0\].*9 tokens"):
        model.generate([[1, 2]], cache=cache)
    with pytest.raises(farspan.ArgumentError, match="cache"):
        model.generate([[1, 2], [3]], cache=cache)


def test_reference_backend_generates_the_same_text(model: Transformer) -> None:
    slow = small_model("reference")
    for temperature in (0.0, 0.7):
        first, second = (m.generate(PROMPTS, max_new_tokens=8, temperature=temperature, seed=2) for m in (model, slow))
        assert [c.tokens for c in first] == [c.tokens for c in second]
