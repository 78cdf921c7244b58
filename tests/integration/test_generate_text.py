"""`farspan.generate_text`: texts from texts, ended by strings that begin and end anywhere within tokens."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import farspan
from farspan import ArgumentError, TextCompletion
from farspan.model import Completion
from farspan.model.generation.text import TextWriter
from farspan.tokenizer import ByteTokenizer

PROMPT = "def read(path):\n"
DRAW: dict[str, Any] = {"max_new_tokens": 60, "temperature": 0.9, "seed": 3}
END = 300


@pytest.fixture(scope="module")
def loaded() -> tuple[farspan.Transformer, ByteTokenizer]:
    return farspan.load_embedded()


def written(text: bytes, strings: tuple[str, ...], ends: frozenset[int] = frozenset()) -> tuple[TextWriter, list[str]]:
    """What a writer makes of these bytes as tokens, until it says that the row is to end."""
    shown: list[str] = []
    writer = TextWriter(ByteTokenizer(), [], ends, strings, shown.append)
    for token in text:
        if writer.take(token):
            break
    writer.finish()
    return writer, shown


@given(st.text(alphabet="aé\n", max_size=30), st.lists(st.text(alphabet="aé\n", min_size=1, max_size=4), max_size=3))
def test_the_first_stop_string_ends_the_text_before_it(text: str, strings: list[str]) -> None:
    writer, shown = written(text.encode(), tuple(strings))
    found = [at for string in strings if (at := text.find(string)) >= 0]
    # Of two that end at different tokens the one that is whole first ends the text, wherever it begins.
    ended = min((text.find(s) + len(s) for s in strings if s in text), default=None)
    assert writer.text == (text if ended is None else text[: text.find(str(writer.stop_string))])
    assert "".join(shown) == writer.text
    assert (writer.stop_string is None) == (not found)
    if ended is not None:
        assert writer.tokens == list(text[:ended].encode()), "no token behind the string is asked for"


def test_what_may_become_a_stop_string_is_held_back() -> None:
    for text, expected in ((b"a<|b", ["a", "<|b"]), (b"ab<|x|>", ["a", "b"]), (b"a<|", ["a", "<|"])):
        assert written(text, ("<|x|>",))[1] == expected


def test_a_character_is_shown_when_it_is_whole() -> None:
    assert written("é→".encode(), ())[1] == ["é", "→"]
    assert written("é".encode()[:1], ())[1] == ["\ufffd"]
    writer, _ = written("é".encode()[:1], ("\ufffd",))
    assert (writer.text, writer.stop_string) == ("", "\ufffd")


def test_texts_are_those_of_generate(loaded: Any) -> None:
    model, tokenizer = loaded
    prompts = [PROMPT, [100, 101, 102]]
    told: list[tuple[int, str]] = []
    texts = farspan.generate_text(model, tokenizer, prompts, **DRAW, streamer=lambda *piece: told.append(piece))
    plain = model.generate([tokenizer.encode(PROMPT), [100, 101, 102]], **DRAW)
    for row, (text, completion) in enumerate(zip(texts, plain, strict=True)):
        assert isinstance(text, TextCompletion)
        assert (text.tokens, text.logprobs, text.finish_reason) == (
            completion.tokens, completion.logprobs, completion.finish_reason,
        )  # fmt: skip
        assert text.text == tokenizer.decode(completion.tokens)
        assert "".join(piece for at, piece in told if at == row) == text.text
    assert farspan.generate_text(model, tokenizer, PROMPT, **DRAW) == texts[:1]


@pytest.mark.parametrize("draft", [None, "prompt-lookup"])
def test_a_stop_string_ends_its_row_alone(draft: str | None, loaded: Any) -> None:
    model, tokenizer = loaded
    free = farspan.generate_text(model, tokenizer, [PROMPT, "class A"], **DRAW)
    string = free[0].text[20:25]
    at = free[0].text.find(string)
    assert string not in free[1].text
    cut, other = farspan.generate_text(
        model, tokenizer, [PROMPT, "class A"], **DRAW, stop_strings=["no such text", string], draft=draft
    )
    assert (cut.finish_reason, cut.stop_string) == ("stop_string", string)
    assert cut.text == free[0].text[:at]
    assert cut.tokens == free[0].tokens[: len(cut.tokens)]
    assert tokenizer.decode(cut.tokens).endswith(string)
    assert (other.text, other.finish_reason) == (free[1].text, "length")


def test_why_it_ended(loaded: Any) -> None:
    model, tokenizer = loaded
    (free,) = farspan.generate_text(model, tokenizer, PROMPT, **DRAW)
    token = free.tokens[9]
    (stopped,) = farspan.generate_text(model, tokenizer, PROMPT, **DRAW, stop=[token])
    assert (stopped.finish_reason, stopped.tokens[-1], stopped.stop_string) == ("stop", token, None)
    assert stopped.text == tokenizer.decode(stopped.tokens[:-1]), "the token that ends it is not shown"
    (told,) = farspan.generate_text(model, tokenizer, PROMPT, **DRAW, streamer=lambda row, text: True)
    assert (told.finish_reason, len(told.tokens)) == ("stop", 1)


@pytest.mark.parametrize("wrong", ["", ["a", ""], [3]])
def test_a_stop_string_that_cannot_be(wrong: Any, loaded: Any) -> None:
    with pytest.raises(ArgumentError, match="stop_strings"):
        farspan.generate_text(*loaded, PROMPT, stop_strings=wrong or [""])


def test_an_end_token_takes_no_part_in_the_text() -> None:
    writer, shown = written(b"ab", (), ends=frozenset({98}))
    assert writer.completed(Completion(tokens=[97, 98], finish_reason="stop")).text == "a"
    assert shown == ["a"]
