"""A caller's cache stays right: one of another model is refused, and an interrupt leaves no guess in it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from support.models import disturbed, ids, small_model

import farspan
from farspan.model import Cache, Transformer
from farspan.model.generation.draft import ModelDrafter
from farspan.model.operations import ArrayOperations

PROMPTS = [ids(1, 11)[0].tolist(), ids(1, 6, seed=2)[0].tolist()]

# ------------------------------------------------------------------------------------------- a cache of another model

OTHERS: dict[str, dict[str, Any]] = {
    "layers": {"num_hidden_layers": 4}, "fewer layers": {"num_hidden_layers": 2},
    "kv_heads": {"num_key_value_heads": 4}, "one kv_heads": {"num_key_value_heads": 1},
    "head_dim": {"head_dim": 20}, "head_dim of the same size": {"head_dim": 24, "num_key_value_heads": 1},
    "dtype": {"dtype": "float64", "backend": "reference"},
}  # fmt: skip


def calls(model: Transformer, cache: Cache) -> dict[str, Callable[[], Any]]:
    return {
        "model": lambda: model(ids(1, 3), cache),
        "generate": lambda: model.generate([[1, 2, 3]], max_new_tokens=2, cache=cache),
        "generate no token": lambda: model.generate([[1, 2, 3]], max_new_tokens=0, cache=cache),
    }


def written(cache: Cache) -> bool:
    return any(bool(store.any()) for store in cache.stores) or any(cache.counts)


@pytest.mark.parametrize("change", OTHERS)
@pytest.mark.parametrize("call", ["model", "generate", "generate no token"])
def test_a_cache_of_another_model_is_refused(change: str, call: str) -> None:
    name = next(word for word in ("layers", "kv_heads", "head_dim", "dtype") if word in change)
    cache = small_model(**OTHERS[change]).new_cache(1)
    given = getattr(cache.form, "kv_heads" if change == "head_dim of the same size" else name)
    with pytest.raises(farspan.ArgumentError, match=rf"^cache: expected one of this model, .*, given .* {given}$"):
        calls(small_model(), cache)[call]()
    assert not written(cache)


@pytest.mark.parametrize("call", ["model", "generate"])
def test_a_cache_on_another_device_is_refused(call: str) -> None:
    model = small_model()
    cache = Cache(model.new_cache(1).form._replace(device=torch.device("meta")), 1)
    with pytest.raises(farspan.ArgumentError, match=r"^cache: expected .* device cpu, given .* device meta$"):
        calls(model, cache)[call]()


def test_a_cache_without_room_is_refused_before_it_is_written() -> None:
    model = small_model()
    cache = model.new_cache(1, capacity=4)
    with pytest.raises(farspan.ArgumentError, match=r"^cache: expected at most 4 tokens.*, given 5 tokens$"):
        model(ids(1, 5), cache)
    with pytest.raises(farspan.ArgumentError, match=r"^cache: expected at most 4 tokens.*, given 5 tokens$"):
        model.generate([[1, 2]], max_new_tokens=4, cache=cache)
    assert not written(cache)
    assert len(model.generate([[1, 2]], max_new_tokens=3, cache=cache)[0].tokens) == 3


def test_a_cache_fits_the_same_model_under_another_scheme() -> None:
    model = small_model()
    cache = model.new_cache(1)
    model(ids(1, 5), cache)
    model.with_positions(farspan.positions.ALiBi())(ids(1, 5), cache.fork([0]))


# ------------------------------------------------------------------------------------------------------- interrupted


class Countdown:
    """Raises when it is counted down, at the nth call of whatever it stands before."""

    def __init__(self, n: int, error: BaseException) -> None:
        self.left, self.error = n, error

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


def before(owner: Any, name: str) -> Callable[[Countdown], Any]:
    """Counts down before each call of a method."""
    method = getattr(owner, name)

    def patched(countdown: Countdown) -> Any:
        return mock.patch.object(owner, name, lambda *arguments: countdown() or method(*arguments))

    return patched


PLACES: dict[str, Callable[[Countdown], Any]] = {
    "the plan of a pass": before(Cache, "reserve"), "a layer of a pass": before(ArrayOperations, "attention"),
    "the end of a pass": before(Cache, "advance"), "a draw": before(ArrayOperations, "draw"),
    "the drafter": before(ModelDrafter, "propose"),
}  # fmt: skip
FURTHER = ("the streamer", "the mask")


@pytest.fixture(scope="module")
def model() -> Transformer:
    return small_model(tie_word_embeddings=True)


@pytest.fixture(scope="module")
def similar() -> Transformer:
    return disturbed(small_model(tie_word_embeddings=True))


@pytest.mark.parametrize("drafted", [True, False], ids=["with drafts", "without drafts"])
@pytest.mark.parametrize("place", [*PLACES, *FURTHER])
def test_an_interrupt_leaves_no_guess_in_the_cache(
    place: str, drafted: bool, model: Transformer, similar: Transformer
) -> None:
    everything = np.full(4, -1, np.int32)
    options: dict[str, Any] = {"temperature": 0.9, "seed": 3}
    texts = model.generate(PROMPTS, max_new_tokens=24, **options)
    longer = [prompt + text.tokens for prompt, text in zip(PROMPTS, texts, strict=True)]
    fresh = model.generate(longer, max_new_tokens=8, **options)
    raised = 0
    for n in (*range(1, 14), 17, 30, 45):
        for error in (KeyboardInterrupt(), ValueError("of the caller")):
            countdown = Countdown(n, error)
            cache = model.new_cache(2)
            interrupted = dict(options)
            if place == "the streamer":
                interrupted["streamer"] = lambda row, token, countdown=countdown: countdown()
            elif place == "the mask":
                interrupted["mask"] = lambda row, tokens, countdown=countdown: countdown() or everything
            patch = PLACES[place](countdown) if place in PLACES else mock.MagicMock()
            try:
                with patch:
                    draft = similar if drafted else None
                    model.generate(PROMPTS, 20, cache=cache, draft=draft, draft_length=5, **interrupted)
            except type(error) as found:
                raised += found is error
            assert all(held <= len(text) for held, text in zip(cache.counts, longer, strict=True))
            assert model.generate(longer, max_new_tokens=8, cache=cache, **options) == fresh, f"{place}, call {n}"
    assert raised >= 2 or (place == "the drafter" and not drafted)
