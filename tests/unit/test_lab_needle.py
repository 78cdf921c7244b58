"""Needles in a text: where they stand, which text is around them, and what counts as found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import farspan
from farspan import ArgumentError
from farspan.lab import needle
from farspan.lab.needle import QUESTION, find_needles, haystack
from farspan.tokenizer import ByteTokenizer

TEXT = torch.tensor(list(b"All the text around it, which is not special. " * 20))


def draw(seed: int = 1) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


@pytest.mark.parametrize("depth", needle.DEPTHS)
def test_a_needle_stands_at_its_depth_of_a_prompt_of_the_length(depth: float) -> None:
    hay = haystack(ByteTokenizer(), TEXT, 300, depth, draw(), first_tokens=(0,))
    content = bytes(hay.prompt)
    assert len(content) == 300
    assert content.startswith(b"\0")
    assert content.endswith(QUESTION.encode())
    key = bytes(hay.answer).decode()
    assert key[0] == " "
    assert 10_000 <= int(key) < 100_000
    sentence = needle.NEEDLE.format(key=key.strip()).encode()
    assert content.count(sentence) == 1
    room = 300 - 1 - len(sentence) - len(QUESTION)
    assert content.index(sentence) == 1 + round(depth * room)
    assert content[1 : 1 + round(depth * room)] in bytes(TEXT.tolist())


def test_the_answer_begins_where_the_tokens_of_the_question_end() -> None:
    """Some tokenizers merge the question's last letters with what follows."""

    class Pairs(ByteTokenizer):
        def encode(self, text: str, *, special: bool = False) -> list[int]:
            content = text.encode()
            return [int.from_bytes(content[i : i + 2], "big") for i in range(0, len(content), 2)]

    tokenizer = Pairs()
    hay = haystack(tokenizer, TEXT, 200, 0.5, draw())
    key = next(
        k for k in range(10_000, 100_000) if tokenizer.encode(f"{QUESTION} {k}")[-len(hay.answer) :] == hay.answer
    )
    whole = tokenizer.encode(f"{QUESTION} {key}")
    assert [*hay.prompt, *hay.answer][-len(whole) :] == whole


def test_no_room() -> None:
    with pytest.raises(ArgumentError, match="lengths"):
        haystack(ByteTokenizer(), TEXT, 40, 0.5, draw())
    with pytest.raises(ArgumentError, match="text around"):
        haystack(ByteTokenizer(), TEXT[:20], 300, 0.5, draw())


def test_what_is_likeliest_at_every_token_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that reads the number wherever it stands, and one that is wrong about its last digit."""
    wrong_from: list[int] = []

    def ranks(hidden: Any, weight: Any, wanted: torch.Tensor, **settings: Any) -> Any:
        rank = torch.zeros(len(wanted), dtype=torch.int64)
        if wrong_from:
            rank[wrong_from[0] :] = 1
        return type("Score", (), {"rank": rank})

    monkeypatch.setattr(needle, "score", ranks)
    model, tokenizer = farspan.load_embedded()
    common = {"lengths": (150,), "schemes": {"own": None}, "count": 1, "depths": (0.0, 1.0)}
    assert [x.accuracy for x in find_needles(model, tokenizer, TEXT, **common)] == [1.0, 1.0]
    wrong_from.append(5)
    assert [x.accuracy for x in find_needles(model, tokenizer, TEXT, **common)] == [0.0, 0.0]


def test_ranks_are_those_of_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = farspan.load_embedded()
    hay = haystack(tokenizer, TEXT, 150, 1.0, draw())
    logits = model.logits(torch.tensor([[*hay.prompt, *hay.answer]]))[0, 149:-1]
    likeliest = logits.argmax(-1).tolist()
    assert needle.finds(model, hay) == (likeliest == hay.answer)
    assert needle.finds(model, needle.Haystack(hay.prompt, likeliest[:1]))
