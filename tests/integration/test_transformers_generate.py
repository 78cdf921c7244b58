"""`custom_generate` in transformers: the draws of the definition, by transformers' settings, and no logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.family_models import CASES, theirs
from support.models import VOCAB, ids, transformers_model

import farspan
from farspan.reference.noise import noise

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from farspan.integrations.transformers import generate, heads, loop  # noqa: E402

OTHERS = ("Llama", "Mistral", "Qwen2", "Qwen3", "SmolLM3")
GEMMAS = ("Gemma", "Gemma2")
LENGTHS = (9, 4, 6)
NEW = 6


def model_of(name: str) -> Any:
    if name in CASES:
        return theirs(name)
    return transformers_model(name, head_dim=16) if name in GEMMAS else transformers_model(name)


@pytest.fixture(scope="module")
def llama() -> Any:
    return model_of("Llama")


def padded() -> tuple[torch.Tensor, torch.Tensor]:
    mask = torch.stack([torch.arange(max(LENGTHS)) >= max(LENGTHS) - length for length in LENGTHS])
    return ids(len(LENGTHS), max(LENGTHS)), mask.long()


def draw(model: Any, tokens: torch.Tensor, mask: torch.Tensor | None = None, **options: Any) -> list[list[int]]:
    usual = {"do_sample": True, "top_k": 0, "max_new_tokens": NEW, "pad_token_id": 0, "custom_generate": generate}
    out = model.generate(tokens, attention_mask=mask, **{**usual, **options})
    return [row[tokens.shape[1] :] for row in out.tolist()]


def test_the_head_of_every_known_model_gives_its_logits() -> None:
    seen = set()
    for name in (*CASES, *OTHERS, *GEMMAS):
        model = model_of(name)
        head, tokens = heads.head_of(model), ids(1, 5)
        assert head is not None, name
        with torch.no_grad():
            hidden, wanted = model.base_model(tokens).last_hidden_state, model(tokens).logits
            found = hidden @ head["weight"].T * head.get("scale", 1.0)
            if cap := head.get("softcap"):
                found = cap * torch.tanh(found / cap)
        assert torch.allclose(found, wanted, atol=1e-5), name
        seen.add(type(model).__name__)
    assert seen == set(heads.BEHIND)


def test_draws_are_those_of_the_definition(llama: Any) -> None:
    """Row b has stream b; the position is the index in the sequence without its padding."""
    tokens, mask = padded()
    seed = 2**40 + 5
    for row, drawn in enumerate(draw(llama, tokens, mask, seed=seed, temperature=0.8)):
        alone = tokens[row, mask[row].bool()].tolist()
        for token in drawn:
            with torch.no_grad():
                l = llama(torch.tensor([alone])).logits[0, -1].double().numpy() / 0.8
            assert token == (l + noise(seed, len(alone), row, np.arange(VOCAB))).argmax()
            alone.append(token)


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": False},
        {"top_k": 12, "top_p": 0.8, "temperature": 0.7},
        {"min_p": 0.1, "repetition_penalty": 1.7},
        {"typical_p": 0.8, "epsilon_cutoff": 0.01, "eta_cutoff": 0.02, "top_h": 0.9},
        {"do_sample": False, "repetition_penalty": 2.5},
    ],
    ids=str,
)
def test_settings_mean_what_the_processors_of_transformers_do(
    options: dict[str, Any], llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fused = draw(llama, *padded(), seed=3, **options)
    monkeypatch.setattr(loop, "head_of", lambda model: None)  # transformers' own processors change the logits now
    assert fused == draw(llama, *padded(), seed=3, **options)


def test_no_repeated_ngram(llama: Any) -> None:
    (drawn,) = draw(llama, ids(1, 4), do_sample=False, no_repeat_ngram_size=1, max_new_tokens=20)
    assert len({*drawn, *ids(1, 4)[0].tolist()}) == 20 + len(set(ids(1, 4)[0].tolist()))


def test_one_seed_per_row_is_the_row_alone(llama: Any) -> None:
    tokens, mask = padded()
    seeds = [11, -3, 2**40]
    together = draw(llama, tokens, mask, seed=seeds)
    for row, length in enumerate(LENGTHS):
        alone = tokens[row : row + 1, -length:], mask[row : row + 1, -length:]
        assert draw(llama, *alone, seed=seeds[row : row + 1]) == [together[row]]
    assert len(set(map(tuple, draw(llama, ids(1, 5), seed=1, num_return_sequences=3)))) == 3


def test_the_head_is_not_run_unless_a_processor_asks(llama: Any) -> None:
    runs = []

    class Ban(transformers.LogitsProcessor):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            return scores.index_fill(1, torch.arange(50), -torch.inf)

    handle = llama.lm_head.register_forward_hook(lambda *call: runs.append(call))
    try:
        free = draw(llama, *padded(), seed=3)
        assert not runs
        banned = draw(llama, *padded(), seed=3, logits_processor=transformers.LogitsProcessorList([Ban()]))
        assert len(runs) == NEW
    finally:
        handle.remove()
    assert min(min(row) for row in free) < 50 <= min(min(row) for row in banned)


def test_a_row_that_ends_is_filled_with_padding(llama: Any) -> None:
    free = draw(llama, *padded(), seed=3)
    end = free[0][2]
    for row, other in zip(draw(llama, *padded(), seed=3, eos_token_id=end, pad_token_id=100), free, strict=True):
        until = other.index(end) + 1 if end in other else NEW
        assert row == other[:until] + [100] * (len(row) - until)


def test_a_cache_goes_on(llama: Any) -> None:
    """The prompts are given whole; only what the cache lacks is computed."""
    options = {"do_sample": True, "top_k": 0, "custom_generate": generate, "seed": 4, "return_dict_in_generate": True}
    first = llama.generate(ids(2, 5), max_new_tokens=3, **options)
    again = llama.generate(first.sequences, max_new_tokens=3, cache=first.cache, **options)
    assert again.cache.get_seq_length() == 5 + 6 - 1
    assert again.sequences.tolist() == llama.generate(ids(2, 5), max_new_tokens=6, **options).sequences.tolist()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"num_beams": 2}, "custom_generate: expected sampling or greedy search"),
        ({"return_dict_in_generate": True, "output_scores": True}, "output_scores"),
        ({"prefill_chunk_size": 2}, "prefill_chunk_size"),
        ({"seed": [1, 2, 3]}, "seed: expected an integer, or one for each of 1 rows"),
        ({"seed": 2**64}, "seed: expected 64 bits"),
    ],
)
def test_what_the_loop_does_not_do_is_an_error(options: dict[str, Any], named: str, llama: Any) -> None:
    with pytest.raises(farspan.ArgumentError, match=named):
        draw(llama, ids(1, 5), **options)


def test_a_row_of_nan_is_an_error() -> None:
    model = model_of("Llama")
    torch.nn.init.constant_(model.lm_head.weight, torch.nan)
    with pytest.raises(farspan.ArgumentError, match=r"logits: .*rows \[0\]"):
        draw(model, ids(1, 5))
