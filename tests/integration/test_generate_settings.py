"""Every sampler setting of model.generate: what it means, and that batch mates do not see it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.models import VOCAB, ids, small_model

import farspan
from farspan.model import Completion, Transformer

PROMPTS = [ids(1, 11)[0].tolist(), ids(1, 3, seed=1)[0].tolist(), ids(1, 40, seed=2)[0].tolist(), [7]]
WORDS = -(-VOCAB // 32)

PER_PROMPT: list[dict[str, list[Any]]] = [
    {"top_k": [0, 5, 1, 40], "top_p": [0.9, 1.0, 0.3, 0.0], "min_p": [0.0, 0.1, 0.02, 1.0]},
    {"typical": [1.0, 0.5, 0.9, 0.2], "epsilon": [0.0, 0.01, 0.0, 0.02], "eta": [0.02, 0.0, 0.01, 0.0]},
    {"top_h": [0.5, 1.0, 0.9, 0.3], "top_n_sigma": [0.0, 1.0, 2.0, 0.0], "min_keep": [1, 3, 2, 1]},
    {"xtc_probability": [0.0, 1.0, 0.5, 0.9], "xtc_threshold": [0.1, 0.01, 0.05, 0.2]},
    {"repetition_penalty": [1.0, 1.5, 0.7, 2.0], "frequency_penalty": [0.5, 0.0, -0.3, 0.1]},
    {"presence_penalty": [0.0, 1.0, -1.0, 0.5], "no_repeat_ngram": [0, 1, 2, 3]},
    {"dry_multiplier": [0.0, 1.0, 2.0, 0.5], "dry_base": [1.75, 1.0, 2.0, 3.0], "dry_allowed_length": [2, 1, 0, 3]},
    {"logit_bias": [None, {3: 5.0}, {4: float("-inf"), 5: -2.0}, {}], "allowed": [range(30), None, [], [1, 2, 70]]},
    {"banned": [[1], [], None, list(range(50))], "bad_words": [[[2], [7, 7]], None, [], [[1, 2]]]},
    {"min_tokens": [0, 5, 12, 3], "mask": [[-1] * WORDS, [0x55555555] * WORDS, [-1, 0, 0, 0], [0, -1, 3, 0]]},
]


@pytest.fixture(scope="module")
def model() -> Transformer:
    return small_model(tie_word_embeddings=True)


def generate(model: Transformer, prompts: list[list[int]], **settings: Any) -> list[Completion]:
    options: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0.9, "stop": range(90, VOCAB)}
    return model.generate(prompts, **options | settings)


def as_array(name: str, values: list[Any]) -> Any:
    return np.array(values, np.int32) if name == "mask" else values


@pytest.mark.parametrize("settings", PER_PROMPT, ids="-".join)
@pytest.mark.parametrize("order", ["hf", "sglang"])
def test_a_text_does_not_know_the_settings_of_its_batch_mates(
    model: Transformer, settings: dict[str, list[Any]], order: str
) -> None:
    seeds = [11, 2**40 + 3, 0, -5]
    arrays = {name: as_array(name, values) for name, values in settings.items()}
    together = generate(model, PROMPTS, seed=seeds, order=order, top=4, **arrays)
    for row, prompt in enumerate(PROMPTS):
        own = {name: as_array(name, [values[row]]) for name, values in settings.items()}
        assert generate(model, [prompt], seed=[seeds[row]], order=order, top=4, **own) == [together[row]], row
    half = {name: as_array(name, [values[3], values[1]]) for name, values in settings.items()}
    assert generate(model, [PROMPTS[3], PROMPTS[1]], seed=[-5, seeds[1]], order=order, top=4, **half) == [
        together[3], together[1],
    ]  # fmt: skip
    assert generate(model, PROMPTS, seed=seeds, order=order, top=4) != together


@pytest.mark.parametrize("settings", PER_PROMPT, ids="-".join)
def test_each_token_is_what_sample_draws_there(model: Transformer, settings: dict[str, list[Any]]) -> None:
    """The lists, the history and the bans of each step written down anew, step by step."""
    arrays = {name: as_array(name, values) for name, values in settings.items()}
    stops = list(range(90, VOCAB))
    for row, completion in enumerate(generate(model, PROMPTS, seed=77, **arrays)):
        prompt, own = PROMPTS[row], {name: values[row] for name, values in settings.items()}
        hidden = model([prompt + completion.tokens])[0]
        fixed = {name: x for name, x in own.items() if np.isscalar(x) and name != "min_tokens"}
        for step, token in enumerate(completion.tokens):
            text = prompt + completion.tokens[:step]
            banned = list(own.get("banned") or [])
            banned += stops if step < own.get("min_tokens", 0) else []
            words = own.get("bad_words") or []
            banned += [word[-1] for word in words if (text + word)[len(text) - len(word) + 1 :] == word]
            lists = {"banned": banned, "allowed": list(own.get("allowed") or [])}
            bias = own.get("logit_bias") or {}
            drawn = farspan.sample(
                hidden[None, len(text) - 1], model.unembedding.detach(), seed=77, stream=row, position=len(text),
                temperature=0.9, history=(text, [0, len(text)]), prompt_lengths=[len(prompt)],
                logit_bias=(list(bias), np.array([*bias.values()], np.float32), [0, len(bias)]),
                mask=np.array([own["mask"]], np.int32) if "mask" in own else None,
                **fixed, **{name: (np.array(x, np.int64), [0, len(x)]) for name, x in lists.items()},
            )  # fmt: skip
            assert (drawn.token.item(), drawn.logprob.item()) == (token, completion.logprobs[step]), (row, step)


def test_one_value_is_for_all_prompts(model: Transformer) -> None:
    one = {"top_k": 9, "logit_bias": {3: 1.0}, "banned": {1, 2}, "allowed": torch.arange(80),
           "bad_words": [[5], [6, 7]], "min_tokens": 4, "repetition_penalty": 1.1,
           "mask": np.array([-2, -1, -1], np.int32)}  # fmt: skip
    each = {name: np.stack([x] * 4) if name == "mask" else [x] * 4 for name, x in one.items()}
    assert generate(model, PROMPTS, **one) == generate(model, PROMPTS, **each)


def test_defaults_change_nothing(model: Transformer) -> None:
    off = {"order": "hf", "top_k": 0, "top_p": 1.0, "repetition_penalty": 1.0, "min_tokens": 0, "banned": [],
           "mask": None, "allowed": None, "bad_words": [], "logit_bias": {}, "top": 0}  # fmt: skip
    assert generate(model, PROMPTS, **off) == generate(model, PROMPTS)
    assert generate(model, PROMPTS, temperature=0.0, **off) == generate(model, PROMPTS, temperature=0.0)


def test_min_tokens_holds_back_the_end(model: Transformer) -> None:
    free = generate(model, PROMPTS, stop=range(VOCAB))
    assert [len(c.tokens) for c in free] == [1] * 4
    for least in (3, [0, 1, 2, 12]):
        out = generate(model, PROMPTS, stop=range(50), min_tokens=least)
        for completion, n in zip(out, least if isinstance(least, list) else [least] * 4, strict=True):
            assert all(token >= 50 for token in completion.tokens[:n])
            assert completion.finish_reason == "length" or len(completion.tokens) > n


def test_bad_words_are_never_written(model: Transformer) -> None:
    (free,) = generate(model, PROMPTS[:1], stop=(), seed=4)
    word = free.tokens[4:7]
    (held,) = generate(model, PROMPTS[:1], stop=(), seed=4, bad_words=[word, [free.tokens[9]]])
    until = min(free.tokens.index(free.tokens[9]), 6)
    assert held.tokens[:until] == free.tokens[:until]
    assert held.tokens[until] != free.tokens[until]
    assert free.tokens[9] not in held.tokens
    assert all(held.tokens[i : i + 3] != word for i in range(10))
    (first,) = generate(model, PROMPTS[:1], stop=(), seed=4, bad_words=[[*PROMPTS[0][-2:], free.tokens[0]]])
    assert first.tokens[0] != free.tokens[0], "a word may begin in the prompt"


def test_a_mask_may_be_asked_for(model: Transformer) -> None:
    asked: list[tuple[int, list[int]]] = []

    def words(row: int, tokens: list[int]) -> Any:
        asked.append((row, tokens))
        return None if row == 0 else torch.tensor([[1 << (len(tokens) + row)]], dtype=torch.int32)

    out = generate(model, PROMPTS[:3], max_new_tokens=4, mask=words, stop=())
    assert out[0] == generate(model, PROMPTS[:1], max_new_tokens=4, stop=())[0]
    assert [c.tokens for c in out[1:]] == [[1, 2, 3, 4], [2, 3, 4, 5]]
    assert asked == [(row, out[row].tokens[:n]) for n in range(4) for row in range(3)]


def test_top_lists_what_was_likely(model: Transformer) -> None:
    (out,) = generate(model, PROMPTS[:1], top=5, top_k=2, stop=())
    hidden = model([PROMPTS[0] + out.tokens])[0, len(PROMPTS[0]) - 1 : -1]
    wanted = farspan.top(hidden, model.unembedding.detach(), 5)
    assert out.top_tokens == wanted.token.tolist()
    assert np.allclose(out.top_logprobs, (wanted.logit - wanted.lse[:, None]).numpy(), atol=1e-5)
    assert all(token in likely[:2] for token, likely in zip(out.tokens, out.top_tokens, strict=True))


def test_greedy_takes_penalties_and_bans(model: Transformer) -> None:
    (free,) = generate(model, PROMPTS[:1], temperature=0.0, stop=())
    (other,) = generate(model, PROMPTS[:1], temperature=0.0, stop=(), banned=[free.tokens[0]])
    assert other.tokens[0] != free.tokens[0]
    (fresh,) = generate(model, PROMPTS[:1], temperature=0.0, stop=(), no_repeat_ngram=1)
    assert len({*PROMPTS[0], *fresh.tokens}) == len({*PROMPTS[0]}) + 12


def test_reference_backend_draws_the_same(model: Transformer) -> None:
    slow = small_model("reference", tie_word_embeddings=True)
    settings: dict[str, Any] = {
        "top_p": [0.9, 0.5], "repetition_penalty": 1.2, "no_repeat_ngram": 2, "banned": [5], "min_tokens": 3,
        "logit_bias": {8: 1.0}, "mask": lambda row, tokens: np.full(WORDS, -1 - row, np.int32),
    }  # fmt: skip
    first, second = (generate(m, PROMPTS[:2], max_new_tokens=5, **settings) for m in (model, slow))
    assert [c.tokens for c in first] == [c.tokens for c in second]


def test_a_text_that_nothing_can_continue_is_an_error(model: Transformer) -> None:
    with pytest.raises(farspan.Error, match=r"prompts\[1\]: .* 2 new tokens .*banned"):
        generate(model, PROMPTS, stop=(), mask=lambda row, tokens: np.full(1, -(len(tokens) < 2 or row != 1), np.int32))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"topk": 3, "colour": 1}, "topk, colour"), ({"history": ([1], [0, 1])}, "history"),
        ({"samples": 2}, "samples"), ({"top_k": -1}, "top_k"), ({"top_k": 1.5}, "top_k"),
        ({"top_k": [1, 2, 3]}, "top_k.*2"),
        ({"top_p": 1.1}, "top_p"), ({"top_p": [0.5, -1.0]}, "top_p.*row 1"), ({"top_p": "much"}, "top_p"),
        ({"top_p": [[0.5], [1, 2]]}, "top_p"), ({"top_p": None}, "top_p"),
        ({"order": "random"}, "order"),
        ({"min_p": True}, "min_p"), ({"top": -1}, "top"),
        ({"top": 102}, "top"), ({"repetition_penalty": 0}, "repetition_penalty"), ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": [1, 0.5]}, "min_tokens"), ({"banned": [101]}, "banned.*101"), ({"banned": 3}, "banned"),
        ({"banned": [[1], ["a"]]}, r"banned\[1\]"), ({"banned": [[1], [2], [3]]}, "banned.*2"),
        ({"allowed": [[1], [-1]]}, r"allowed\[1\]"), ({"logit_bias": [1, 2]}, r"logit_bias\[0\]"),
        ({"logit_bias": {101: 1.0}}, "logit_bias.*101"), ({"logit_bias": {1: "x"}}, "logit_bias"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias"), ({"bad_words": [[1], []]}, r"bad_words\[1\]"),
        ({"bad_words": [[]]}, "bad_words.*2"),
        ({"bad_words": [1]}, "bad_words"), ({"bad_words": [[1, 101]]}, r"bad_words\[0\].*101"),
        ({"bad_words": [[[1]], [[2], []]]}, r"bad_words\[1\]\[1\]"), ({"mask": "x"}, "mask"),
        ({"mask": np.zeros(5, np.int32)}, "mask.*4 words"), ({"mask": np.zeros(4)}, "mask.*int32"),
        ({"mask": np.zeros((3, 4), np.int32)}, "mask.*2"),
        ({"mask": lambda row, tokens: [1]}, r"mask\(0, tokens\).*int32"),
        ({"mask": lambda row, tokens: np.zeros((2, 4), np.int32)}, r"mask\(0, tokens\)"),
    ],
    ids=lambda x: "-".join(x) if isinstance(x, dict) else "",
)  # fmt: skip
def test_refuses(model: Transformer, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(farspan.Error, match=word):
        model.generate(PROMPTS[:2], max_new_tokens=2, temperature=1.0, **settings)
