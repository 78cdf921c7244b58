"""Copies: what is read twice, what is asked for, and what counts as right."""

from __future__ import annotations

import pytest
import torch

import farspan
from farspan import ArgumentError
from farspan.lab.copying import find_copies, require_room, twice

TEXT = torch.tensor(list(b"The quick brown fox jumps over the lazy dog, and nothing else happens on that day. " * 8))
TEXT = TEXT[torch.randperm(len(TEXT), generator=torch.Generator().manual_seed(2))]


@pytest.mark.parametrize("length", [8, 9, 64, 65])
@pytest.mark.parametrize("first", [(), (7, 9)])
def test_a_piece_stands_twice_and_ends_alike_at_every_length(length: int, first: tuple[int, ...]) -> None:
    ids = twice(TEXT, 300, length, first)
    assert len(ids) == length + 1, "the last one is only predicted"
    assert tuple(ids[: len(first)].tolist()) == first
    piece = (length + 1 - len(first)) // 2
    assert (ids[-piece:] == TEXT[300 - piece : 300]).all()
    assert (ids[-2 * piece : -piece] == ids[-piece:]).all()


def test_what_is_likeliest_counts() -> None:
    model, _ = farspan.load_embedded()
    found = find_copies(model, TEXT, [16, 40], {"own": None}, trained_length=256, count=2)
    assert [(copied.length, copied.count) for copied in found] == [(16, 16), (40, 16)], "8 tokens of each piece"
    for copied in found:
        piece = copied.length // 2
        right, nats = [], []
        for end in (20, len(TEXT)):
            ids = torch.cat([TEXT[end - 1 : end], TEXT[end - piece : end], TEXT[end - piece : end]])
            logits = model.logits(ids[None, :-1])[0, -8:]
            right.append((logits.argmax(-1) == ids[-8:]).double().mean())
            nats.append(torch.nn.functional.cross_entropy(logits.double(), ids[-8:]))
        assert copied.accuracy == pytest.approx(float(sum(right) / 2))
        assert copied.nats_per_token == pytest.approx(sum(nats).item() / 2, abs=1e-4)
    alone = torch.stack([TEXT[end - 20 : end] for end in (20, len(TEXT))])
    guessed = (model.logits(alone[:, :-1])[:, -8:].argmax(-1) == alone[:, -8:]).double().mean()
    assert {copied.guessed for copied in found} == {float(guessed)}


def test_a_length_without_room_is_named() -> None:
    model, _ = farspan.load_embedded()
    with pytest.raises(ArgumentError, match=r"^lengths: expected at least 3 tokens, .* twice, given 2$"):
        find_copies(model, TEXT, [8, 2], {"own": None}, trained_length=256)
    with pytest.raises(ArgumentError, match=r"^lengths: expected at least 5 tokens, .* twice, given 4$"):
        require_room(4, first_tokens=(7, 9))
    require_room(5, first_tokens=(7, 9))
