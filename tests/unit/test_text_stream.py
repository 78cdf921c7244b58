"""Text of a SentencePiece-like tokenizer, whole and token by token: spaces, special tokens, characters in pieces."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.sentencepiece import sentencepiece_like

from farspan._errors import ArgumentError
from farspan.tokenizer import ByteTokenizer, FolderTokenizer, TextStream, Tokenizer


@pytest.fixture(params=[True, False], ids=["with BOS", "without"])
def tokenizer(request: pytest.FixtureRequest, tmp_path: Path) -> FolderTokenizer:
    sentencepiece_like(bos=request.param).save(str(tmp_path / "tokenizer.json"))
    return FolderTokenizer(tmp_path / "tokenizer.json")


def streamed(tokenizer: Tokenizer, ids: Iterable[int], before: Sequence[int] = ()) -> str:
    stream = TextStream(tokenizer, before)
    return "".join([*map(stream.push, ids), stream.end()])


@pytest.mark.parametrize("text", ["Hello world", "world", "Hello  world", "Hello é", "H", ""])
def test_a_text_comes_back(text: str, tokenizer: FolderTokenizer) -> None:
    assert tokenizer.decode(tokenizer.encode(text, special=True)) == text
    assert streamed(tokenizer, tokenizer.encode(text, special=True)) == text


def test_a_continuation_keeps_its_first_space(tokenizer: FolderTokenizer) -> None:
    prompt, world = tokenizer.encode("Hello", special=True), tokenizer.encode("world")
    for ids in (
        world,
        world * 2,
        [1, *world],
        [2, *world],
        [999, *world],
        [*world, 2, *world],
        tokenizer.encode("é", special=True),
    ):
        whole = tokenizer.decode([*prompt, *ids])
        assert "Hello" + streamed(tokenizer, ids, before=prompt) == whole
        assert whole.startswith("Hello ")
    if tokenizer.encode("", special=True)[:1]:  # then ids that do not begin as a text does are the middle of one
        assert tokenizer.decode(world) == streamed(tokenizer, world) == " world"
        assert streamed(tokenizer, [*world, 1, *world]) == tokenizer.decode([*world, 1, *world]) == " world world"


def test_special_tokens_are_of_whole_texts_only(tokenizer: FolderTokenizer) -> None:
    assert 1 not in tokenizer.encode("world")
    assert ByteTokenizer().encode("ab", special=True) == [97, 98]


def test_text_that_is_no_utf8_is_named(tokenizer: FolderTokenizer) -> None:
    with pytest.raises(ArgumentError, match=r"text: expected text that has a UTF-8 form, given 'caf\\udce9'"):
        tokenizer.encode("caf\udce9")


class Pieces:
    """A tokenizer of byte strings."""

    def __init__(self, pieces: list[bytes]) -> None:
        self._pieces = pieces

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        raise AssertionError("a stream only decodes")

    def decode(self, ids: Iterable[int]) -> str:
        return b"".join(self._pieces[i] for i in ids).decode(errors="replace")


@given(st.lists(st.integers(0, 6), max_size=40), st.integers(1, 6))
def test_tokens_that_end_inside_characters(ids: list[int], times: int) -> None:
    tokenizer = Pieces([b"\xe3", b"\x83\xbc\xe3", b"\x83\xbc", b"x", b"\xf0\x9f", b"\x98\x80", b"\xff"])
    assert streamed(tokenizer, ids * times) == tokenizer.decode(ids * times)


@pytest.mark.parametrize("piece", [b"\x80", b"\xff\xe2\x82", b"\xe3\x83\xbc\xe3"])
def test_bytes_that_are_no_text_are_held_no_longer_than_a_character(piece: bytes) -> None:
    tokenizer = Pieces([piece])
    stream, shown = TextStream(tokenizer), ""
    for count in range(1, 300):
        shown += stream.push(0)
        assert len(tokenizer.decode([0] * count)) - len(shown) <= 6
    assert shown + stream.end() == tokenizer.decode([0] * 299)
    assert len(stream._ids) <= 70


@pytest.mark.parametrize("count", [5, 8, 20])
def test_characters_appear_though_every_token_ends_inside_one(count: int) -> None:
    stream = TextStream(Pieces([b"\xe3", b"\x83\xbc\xe3", b"\x83\xbc"]))
    assert [stream.push(token) for token in [0, *[1] * count, 2]] == ["", *["ー"] * (count + 1)]
