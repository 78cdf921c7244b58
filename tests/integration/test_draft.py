"""Speculative decoding: a drafter changes how fast a text comes, never what it says."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest
from support.models import VOCAB, disturbed, ids, small_model

import farspan
from farspan import positions as P
from farspan.model import Completion, Transformer
from farspan.model.generation.draft import ModelDrafter
from farspan.model.generation.drawing import Drawing

PROMPTS = [ids(1, 11)[0].tolist(), [3, 1, 4, 1, 5] * 6, ids(1, 40, seed=2)[0].tolist(), [7]]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.0},
    {"temperature": [0.0, 0.5, 1.3, 0.8], "top_k": [0, 5, 20, 1], "top_p": 0.9, "order": "vllm"},
    {"repetition_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": [0.0, 0.5, -0.5, 0.1], "min_p": 0.02},
    {"no_repeat_ngram": 2, "dry_multiplier": 0.8, "dry_allowed_length": 1, "typical": 0.9},
    {"xtc_probability": 0.5, "xtc_threshold": 0.02, "order": "llamacpp", "logit_bias": {5: 2.0, 9: float("-inf")}},
    {"bad_words": [[1, 4], [3]], "min_tokens": 9, "stop": range(60), "banned": [[1], [2], [], [4, 5]], "top": 3},
    {"mask": lambda row, tokens: np.array([-1, 0x0F0F0F0F, -1, len(tokens) % 3 - 2], np.int32)},
]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return small_model(tie_word_embeddings=True)


@pytest.fixture(scope="module")
def similar() -> Transformer:
    return disturbed(small_model(tie_word_embeddings=True))


@pytest.fixture(scope="module")
def other() -> Transformer:
    """A smaller model of another shape, right by chance only."""
    return small_model(hidden_size=16, intermediate_size=20, num_hidden_layers=1, num_attention_heads=2)


def same(first: list[Completion], second: list[Completion]) -> bool:
    """Everything but the guesses, to the last bit."""
    fields = ("tokens", "logprobs", "finish_reason", "top_tokens", "top_logprobs")
    return all(getattr(a, f) == getattr(b, f) for a, b in zip(first, second, strict=True) for f in fields)


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: "-".join(s) or "plain")
def test_the_text_is_that_without_a_drafter(
    settings: dict[str, Any], model: Transformer, similar: Transformer, other: Transformer
) -> None:
    options = {"max_new_tokens": 18, "temperature": 0.9, "seed": 5} | settings
    plain = model.generate(PROMPTS, **options)
    drafters: dict[str, Any] = {"itself": model, "similar": similar, "other": other, "lookup": "prompt-lookup"}
    for name, draft in drafters.items():
        drafted = model.generate(PROMPTS, draft=draft, draft_length=3, **options)
        assert same(drafted, plain), name
        if name == "itself":
            assert all(c.acceptance == 1.0 for c in drafted)
        if name == "similar" and not settings:
            assert 0 < sum(c.accepted for c in drafted) < sum(c.drafted for c in drafted)


@pytest.mark.parametrize("length", [1, 2, 4, 30])
def test_any_number_of_drafts(length: int, model: Transformer, similar: Transformer) -> None:
    plain = model.generate(PROMPTS, max_new_tokens=13, temperature=0.7, seed=2)
    drafted = model.generate(PROMPTS, max_new_tokens=13, temperature=0.7, seed=2, draft=similar, draft_length=length)
    assert same(drafted, plain)
    assert plain[0].acceptance is None


@pytest.mark.parametrize(
    "scheme",
    [P.DynamicNTK(4, 20), P.LongRoPE((1.0,) * 6, (3.0,) * 6, 20, 80), P.LogN(8, P.DynamicNTK(2, 20)),
     P.SelfExtend(3, 8, P.DynamicNTK(2, 20)), P.Streaming(2, 8), P.ALiBi()],
    ids=lambda s: type(s).__name__,
)  # fmt: skip
def test_frequencies_that_change_with_the_length(scheme: P.Scheme, model: Transformer) -> None:
    """A pass over several tokens would turn all of them by the longest one's frequencies."""
    model = model.with_positions(scheme)
    plain = model.generate(PROMPTS, max_new_tokens=16, temperature=0.9, seed=1)
    assert same(model.generate(PROMPTS, max_new_tokens=16, temperature=0.9, seed=1, draft=model), plain)


def test_the_cache_knows_nothing_of_rejected_drafts(model: Transformer, similar: Transformer) -> None:
    plain, drafted = model.new_cache(4), model.new_cache(4)
    stop = model.generate(PROMPTS, max_new_tokens=13, temperature=0.9)[1].tokens[7]
    options: dict[str, Any] = {"max_new_tokens": 13, "temperature": 0.9, "stop": stop}
    out = model.generate(PROMPTS, cache=plain, **options)
    assert same(model.generate(PROMPTS, cache=drafted, draft=similar, draft_length=5, **options), out)
    assert drafted.counts == plain.counts
    assert drafted.counts[1] == len(PROMPTS[1]) + len(out[1].tokens) - 1
    longer = [prompt + c.tokens for prompt, c in zip(PROMPTS, out, strict=True)]
    rest = [model.generate(longer, max_new_tokens=6, temperature=0.9, cache=cache) for cache in (plain, drafted, None)]
    assert same(rest[0], rest[1])
    assert same(rest[0], rest[2])


def test_drafts_need_no_more_room_than_the_text(model: Transformer, similar: Transformer) -> None:
    cache = model.new_cache(1, capacity=11 + 9 - 1)
    out = model.generate(PROMPTS[:1], max_new_tokens=9, cache=cache, draft=similar, draft_length=30)
    assert same(out, model.generate(PROMPTS[:1], max_new_tokens=9))


def test_a_model_that_drafts_forgets_what_was_rejected(model: Transformer) -> None:
    drawing = Drawing([len(PROMPTS[0])], VOCAB, (), 0.9, 3, {})
    used, fresh = (ModelDrafter(model, 1, drawing, ()) for _ in range(2))
    text = array("q", PROMPTS[0])
    first = used.propose({0: text}, {0: 5})[0]
    text.extend([*first[:2], (first[2] + 1) % VOCAB])
    assert used.propose({0: text}, {0: 5}) == fresh.propose({0: text}, {0: 5})


def test_prompt_lookup_finds_repetitions_and_saves_passes(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    passes = []
    run = Transformer.run
    monkeypatch.setattr(Transformer, "run", lambda *arguments: passes.append(1) or run(*arguments))

    def words(row: int, tokens: list[int]) -> np.ndarray:  # a text that goes round and round
        found = np.zeros(4, np.int32)
        found[0] = 1 << [3, 1, 4][len(tokens) % 3]
        return found

    prompt = [[3, 1, 4] * 3]
    (plain,) = model.generate(prompt, max_new_tokens=24, temperature=1.0, mask=words)
    count = len(passes)
    (drafted,) = model.generate(prompt, max_new_tokens=24, temperature=1.0, mask=words, draft="prompt-lookup")
    assert plain.tokens == drafted.tokens == [3, 1, 4] * 8
    assert drafted.acceptance == 1.0
    assert count == 24
    assert len(passes) - count <= 6, "the prompt, and five tokens in each pass behind it"


def test_guesses_behind_the_end_of_a_text_are_not_counted(model: Transformer) -> None:
    (whole,) = model.generate(PROMPTS[:1], max_new_tokens=12, temperature=0.8, seed=4)
    for end in range(1, 12):
        left = iter([*[False] * (end - 1), True])
        options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.8, "seed": 4, "draft": model}
        (stopped,) = model.generate(
            PROMPTS[:1], draft_length=5, streamer=lambda row, token, left=left: next(left), **options
        )
        assert stopped.tokens == whole.tokens[:end]
        assert stopped.finish_reason == "stop"
        assert stopped.accepted <= stopped.drafted <= end, "no more guesses than tokens"
        assert stopped.acceptance in (None, 1.0)


def test_verify_accepts_what_generate_wrote(model: Transformer) -> None:
    prompt = PROMPTS[0]
    options: dict[str, Any] = {"temperature": 0.8, "top_k": 30, "repetition_penalty": 1.2}
    (text,) = model.generate([prompt], max_new_tokens=9, seed=[4], draft="prompt-lookup", **options)
    hidden = model([prompt + text.tokens])[:, len(prompt) - 1 : -1]
    history = (np.array(prompt), np.array([0, len(prompt)]))
    seen = farspan.verify(
        hidden, model.unembedding.detach(), [text.tokens[:-1]], seed=4, position=len(prompt), history=history,
        prompt_lengths=[len(prompt)], **options,
    )  # fmt: skip
    assert seen.accepted.tolist() == [8]
    assert seen.token.tolist() == text.tokens[-1:]


def test_streamer_hears_the_tokens_in_order_and_may_stop(model: Transformer) -> None:
    heard: list[tuple[int, int]] = []

    def listen(row: int, token: int) -> bool:
        heard.append((row, token))
        return row == 1 and sum(r == 1 for r, _ in heard) == 3

    out = model.generate(PROMPTS, max_new_tokens=10, temperature=1.0, streamer=listen, draft=model)
    for row, completion in enumerate(out):
        assert completion.tokens == [token for r, token in heard if r == row]
    assert [len(c.tokens) for c in out] == [10, 3, 10, 10]


MOVING = [P.RandomPositions(200), P.LogN(16, inner=P.RandomPositions(200)), P.DynamicNTK(4, 16)]


@pytest.mark.parametrize("scheme", MOVING, ids=str)
def test_no_draft_is_read_where_positions_move_as_the_text_grows(scheme: P.Scheme, model: Transformer) -> None:
    moving = model.with_positions(scheme)
    options: dict[str, Any] = {"max_new_tokens": 18, "temperature": 0.9, "seed": 5}
    plain = moving.generate(PROMPTS, **options)
    assert same(moving.generate(PROMPTS, draft="prompt-lookup", draft_length=3, **options), plain)


def test_reference_backend_drafts_too(model: Transformer) -> None:
    slow = small_model("reference", tie_word_embeddings=True)
    plain = model.generate(PROMPTS[:2], max_new_tokens=6, temperature=0.9, seed=2, top_k=9)
    drafted = slow.generate(PROMPTS[:2], max_new_tokens=6, temperature=0.9, seed=2, top_k=9, draft=model)
    assert [c.tokens for c in drafted] == [c.tokens for c in plain]
    assert [c.acceptance for c in drafted] == [1.0, 1.0]


@pytest.mark.parametrize(
    ("options", "word"),
    [({"draft": "lookup"}, "draft"), ({"draft": 3}, "draft"),
     ({"draft": "prompt-lookup", "draft_length": 0}, "draft_length"),
     ({"draft": "prompt-lookup", "draft_length": 1.5}, "draft_length"),
     ({"draft": small_model(vocab_size=VOCAB + 1)}, f"draft.*{VOCAB} tokens")],
    ids=["unknown", "number", "none", "fraction", "vocabulary"],
)  # fmt: skip
def test_refuses(model: Transformer, options: dict[str, Any], word: str) -> None:
    with pytest.raises(farspan.ArgumentError, match=word):
        model.generate(PROMPTS, max_new_tokens=2, **options)
