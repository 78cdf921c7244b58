"""Retrieval: needles and copies beside a measurement, what is left out, and whose guesses stand beside copies."""

from __future__ import annotations

import dataclasses

import torch

import farspan
from farspan.lab.copying import find_copies
from farspan.lab.measurement import Measurement, Point
from farspan.lab.needle import find_needles
from farspan.lab.retrieval import Retrieval
from farspan.tokenizer import ByteTokenizer

TEXT = torch.tensor(list(b"All the text around it, which is not special. " * 20))
POINT = Point("own", 150, 143, 1.0, 0.1, 8, (1.0,))
BEFORE = Measurement("a model", "a text", 256, 1.0, {}, "length", (150,), 1, 0, 8, (), (), True, (POINT,))


def asking(*lengths: int, needles: int = 1, copies: int = 1) -> Retrieval:
    return Retrieval(TEXT, lengths, 256, ByteTokenizer(), needles, copies)


def test_needles_and_copies_join_those_that_are_there() -> None:
    model, tokenizer = farspan.load_embedded()
    kept: list[Measurement] = []
    found = asking(2, 150).added_to(BEFORE, model, {"own": None}, keep=kept.append)
    assert found.needles == find_needles(model, tokenizer, TEXT, [150], {"own": None}, count=1)
    assert found.copies == find_copies(model, TEXT, [150], {"own": None}, trained_length=256, count=1)
    assert dataclasses.replace(found, copies=()) == kept[0], "the needles were kept before copies were asked for"
    guessed = tuple(dataclasses.replace(copied, guessed=0.625) for copied in found.copies)
    more = asking(150, needles=0).added_to(
        dataclasses.replace(found, copies=guessed), model, {"rope": farspan.positions.RoPE()}
    )
    assert [copied.scheme for copied in more.copies] == ["own", "rope"]
    assert more.copies[1].guessed == 0.625, "that of the first model"
    assert more.needles == found.needles


def test_lengths_without_room_are_said() -> None:
    assert asking(2, 40, 400).notes == [
        "no room for a needle and its question in 2, 40 tokens", "no room for a piece that stands twice in 2 tokens"
    ]  # fmt: skip
    assert asking(400).notes == []
    assert asking(2, needles=0, copies=0).notes == []
    assert dataclasses.replace(asking(40), tokenizer=None).notes == []
    model, _ = farspan.load_embedded()
    assert asking(2).added_to(BEFORE, model, {"own": None}) == BEFORE
