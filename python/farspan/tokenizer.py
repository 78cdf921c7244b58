"""Between text and token ids: bytes for the embedded model, the tokenizer of a checkpoint for all others."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from farspan._errors import ArgumentError, BackendError, CheckpointError, message, missing_package
from farspan.chat_template import ChatTemplate, Message, folder_template


class Tokenizer(Protocol):
    """What generating and measuring need to know of a tokenizer."""

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that stands for text."""
        ...

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        """The text's ids; with `special` also those that begin and end a text."""
        ...

    def decode(self, ids: Iterable[int]) -> str: ...

    def chat(self, messages: Sequence[Message]) -> list[int]:
        """The ids of a conversation, by the checkpoint's chat template, up to where the next answer begins.
        BackendError: there is no template."""
        ...


class ByteTokenizer:
    """The tokens are the 256 bytes: `encode` gives a text's UTF-8, `decode` reads it, U+FFFD where it is none.

    A byte that was no UTF-8 where the text was read, and that Python keeps as a surrogate, is itself again; any other
    surrogate becomes U+FFFD.
    """

    vocab_size = 256

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        return list(_OF_NO_BYTE.sub("\ufffd", text).encode("utf-8", errors="surrogateescape"))

    def decode(self, ids: Iterable[int]) -> str:
        return bytes(map(int, ids)).decode("utf-8", errors="replace")

    def chat(self, messages: Sequence[Message]) -> list[int]:
        raise _no_template("a model whose tokens are bytes")


_OF_NO_BYTE = re.compile("[\ud800-\udc7f\udd00-\udfff]")


class SubwordTokenizer:
    """A tokenizer of the package `tokenizers`, with the chat template that came with it.

    Some decoders strip the space before the first word. `decode` lets them where the ids are a whole text, with the
    token that begins one if the tokenizer has one; ids from the middle of a text keep their space.
    """

    def __init__(self, tokenizer: Any, template: ChatTemplate | None, where: Path) -> None:
        self._tokenizer, self._template, self._where = tokenizer, template, where
        # What a training run left in the file must neither cut a text nor fill it up.
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._begin: list[int] = self.encode("", special=True)[:1]
        self._word = self._any_word()

    @property
    def vocab_size(self) -> int:
        added = self._tokenizer.get_added_tokens_decoder()
        control = {index for index, token in added.items() if token.special}
        ids = self._tokenizer.get_vocab().values()
        return max((index for index in ids if index not in control), default=-1) + 1

    def encode(self, text: str, *, special: bool = False) -> list[int]:
        try:
            return list(self._tokenizer.encode(text, add_special_tokens=special).ids)
        except TypeError:  # the package takes no lone surrogates
            raise ArgumentError(message("text", "text that has a UTF-8 form", ascii(text)[:60])) from None

    def decode(self, ids: Iterable[int]) -> str:
        listed = [int(i) for i in ids]
        if listed[:1] == self._begin or not self._word:
            return str(self._tokenizer.decode(listed))
        word: str = self._tokenizer.decode(self._word)
        return str(self._tokenizer.decode(self._word + listed))[len(word) :]

    def chat(self, messages: Sequence[Message]) -> list[int]:
        if self._template is None:
            raise _no_template(str(self._where))
        return self.encode(self._template.render(messages))

    def save(self, folder: Path) -> None:
        """Writes `tokenizer.json`, and with a template `tokenizer_config.json`, as model folders have them."""
        folder.mkdir(parents=True, exist_ok=True)
        self._tokenizer.save(str(folder / "tokenizer.json"))
        if self._template is not None:
            settings = {**self._template.tokens, "chat_template": self._template.source}
            settings["tokenizer_class"] = "PreTrainedTokenizerFast"
            text = json.dumps(settings, ensure_ascii=False, indent=2)
            (folder / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    def _any_word(self) -> list[int]:
        """A token that is plain letters, in front of which no decoder changes what follows; none where all is."""
        if not self._begin:
            return []
        for token, index in sorted(self._tokenizer.get_vocab().items(), key=lambda item: item[1]):
            if token.isalnum() and self._tokenizer.decode([index]) == token:
                return [index]
        return []


class FolderTokenizer(SubwordTokenizer):
    """`tokenizer.json` of a model folder, and the template beside it."""

    def __init__(self, path: Path) -> None:
        try:
            import tokenizers
        except ImportError:
            raise missing_package("reading tokenizer.json", "tokenizers") from None
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises bare Exception
            raise CheckpointError(message(str(path), "a tokenizer the package tokenizers reads", error)) from error
        super().__init__(tokenizer, folder_template(path.parent), path.parent)


def _no_template(where: str) -> BackendError:
    return BackendError(message("chat template", "one, which says how a conversation is written", f"none in {where}"))


def load_tokenizer(folder: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a model folder. CheckpointError: the folder has none."""
    path = Path(folder) / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(message(str(path), "a file: without it no text can be read or written", "none"))
    return FolderTokenizer(path)


LONGEST_CHARACTER = 4
"""Bytes of UTF-8, and so the most tokens that one character is spread over."""

MOST_UNSETTLED = 64
"""How many tokens a stream holds whose text may be unfinished, before it forgets those that are long out."""


class TextStream:
    """Text from tokens that come one by one; a character spread over several tokens appears with its last.

    `before` are the ids that the tokens continue. All that is shown, and `end` with it, is what decoding those and the
    tokens at once gives behind the text of `before`.
    """

    def __init__(self, tokenizer: Tokenizer, before: Sequence[int] = ()) -> None:
        self._tokenizer = tokenizer
        # Decoding starts at ids whose text is out: many tokenizers write a token differently at the start of a text.
        self._ids = list(before)
        self._settled = len(self._ids)  # ids whose text is out and cannot change
        self._shown = 0  # characters that are out of the text of the others
        self._waiting = 0  # tokens in a row that have completed nothing

    def push(self, token: int) -> str:
        """The text that this token completes."""
        self._ids.append(token)
        text = self._new_text()
        if not text:  # a token without text is no context for the next one, but it may begin a text
            del self._ids[max(1, len(self._ids) - 1) :]
            return ""
        whole = len(text.rstrip("\ufffd"))  # behind it, perhaps, the first bytes of a character
        if whole == len(text):
            piece = text[self._shown :]
            self._settle()
            return piece
        self._waiting = 0 if whole > self._shown else self._waiting + 1
        if self._waiting >= LONGEST_CHARACTER:  # bytes that are no text: only the last ones may still become some
            whole = max(whole, len(text) - LONGEST_CHARACTER + 1)
        piece = text[self._shown : whole]
        self._shown = max(self._shown, whole)
        if len(self._ids) - self._settled > MOST_UNSETTLED:
            self._forget()
        return piece

    def end(self) -> str:
        """What is left of a character that was never completed."""
        rest = self._new_text()[self._shown :]
        self._settle()
        return rest

    def _settle(self) -> None:
        new = self._ids[self._settled :]
        if new:
            self._ids, self._settled, self._shown = new, len(new), 0
        self._waiting = 0

    def _forget(self) -> None:
        """The oldest tokens, whose text is out; what is not yet shown stays at the end of the text."""
        held = len(self._new_text()) - self._shown
        self._ids = self._ids[-2 * LONGEST_CHARACTER :]
        self._settled = LONGEST_CHARACTER
        self._shown = max(0, len(self._new_text()) - held)

    def _new_text(self) -> str:
        before = self._tokenizer.decode(self._ids[: self._settled])
        return self._tokenizer.decode(self._ids)[len(before) :]
