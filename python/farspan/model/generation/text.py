"""From texts to texts: prompts that are encoded, replies that are decoded as they come, and strings that end them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.model.decoder import Decoder
from farspan.model.generation.generate import Completion, end_tokens
from farspan.model.transformer import Transformer
from farspan.tokenizer import ByteTokenizer, TextStream, Tokenizer

NO_CHARACTER = re.compile("[\ud800-\udfff]")
"""What Python makes of an argument's bytes that are no UTF-8."""
TextStreamer = Callable[[int, str], Any]


@dataclass
class TextCompletion(Completion):
    """What was generated for one prompt, as text too."""

    text: str = ""
    """The new text, without the token or the string that ended it."""
    stop_string: str | None = None
    """The string that ended it; `finish_reason` is "stop_string" then."""


def generate_text(
    model: Transformer, tokenizer: Tokenizer, prompts: str | Sequence[str | Sequence[int]], *,
    stop_strings: str | Iterable[str] = (), max_new_tokens: int = 64, temperature: Any = 0.0, seed: Any = 0,
    stop: Iterable[int] | int | None = None, streamer: TextStreamer | None = None, **settings: Any,
) -> list[TextCompletion]:  # fmt: skip
    """Continue texts: one `TextCompletion` for each prompt, which is a text or ids, such as `tokenizer.chat` gives.

    A completion ends before the first of `stop_strings` that its text holds, wherever that begins and ends within
    tokens. `finish_reason` says why it ended: "stop_string" (then `stop_string` is the one), "stop" (a token of
    `stop`, the last of `tokens`, or a streamer that said so) or "length". `tokens` are all that were drawn, those of a
    stop string too.

    `streamer(row, text)` hears new text as soon as it is certain: whole characters, and nothing that could yet become
    a stop string. A true result ends the row. Everything else is as in `model.generate`.

    ArgumentError: a prompt that cannot be encoded, an empty stop string, or what `model.generate` refuses.
    """
    asked = [prompts] if isinstance(prompts, str) else list(prompts)
    ids = [prompt_ids(model, tokenizer, x) if isinstance(x, str) else list(x) for x in asked]
    strings = _strings(stop_strings)
    ends = end_tokens(model, stop)

    def shown(row: int) -> Callable[[str], Any]:
        return (lambda text: None) if streamer is None else lambda text: streamer(row, text)

    writers = [TextWriter(tokenizer, before, ends, strings, shown(row)) for row, before in enumerate(ids)]
    completions = model.generate(
        ids, max_new_tokens, temperature, seed, stop, lambda row, token: writers[row].take(token), **settings
    )
    return [writer.completed(completion) for writer, completion in zip(writers, completions, strict=True)]


def prompt_ids(model: Decoder, tokenizer: Tokenizer, prompt: str) -> list[int]:
    """The prompt's tokens, with those that begin a text; for an empty one the model's token for that."""
    if NO_CHARACTER.search(prompt) and not isinstance(tokenizer, ByteTokenizer):
        raise ArgumentError(message("prompt", "UTF-8, the only form that this model's tokenizer reads", ascii(prompt)))
    ids = tokenizer.encode(prompt, special=True)
    begin = model.config.bos_token_id
    if ids:
        return ids
    if begin is None:
        raise ArgumentError(message("prompt", "some text: this model has no token that begins one", repr(prompt)))
    return [begin]


class TextWriter:
    """The text of one row as it grows, token by token, until a stop string ends it."""

    def __init__(
        self, tokenizer: Tokenizer, before: Sequence[int], ends: frozenset[int], stop_strings: tuple[str, ...],
        show: Callable[[str], Any],
    ) -> None:  # fmt: skip
        self.tokens: list[int] = []
        self.text = ""
        self.stop_string: str | None = None
        self._stream, self._ends, self._strings, self._show = TextStream(tokenizer, before), ends, stop_strings, show
        self._longest = max(map(len, stop_strings), default=0)
        self._shown = 0

    def take(self, token: int) -> bool:
        """Whether the row is to end."""
        self.tokens.append(token)
        return token not in self._ends and self._grow(self._stream.push(token))

    def completed(self, completion: Completion) -> TextCompletion:
        """The completion of the tokens taken, with its text, whose rest is shown."""
        self.finish()
        reason = completion.finish_reason if self.stop_string is None else "stop_string"
        known = {**vars(completion), "finish_reason": reason}
        return TextCompletion(**known, text=self.text, stop_string=self.stop_string)

    def finish(self) -> None:
        """No more tokens come."""
        if self.stop_string is None:
            self._grow(self._stream.end())
        self._show_until(len(self.text))

    def _grow(self, piece: str) -> bool:
        first = max(0, len(self.text) - self._longest + 1)
        self.text += piece
        found = [(at, string) for string in self._strings if (at := self.text.find(string, first)) >= 0]
        if found:
            at, self.stop_string = min(found, key=lambda match: match[0])
            self.text = self.text[:at]
            self._show_until(at)
            return True
        return self._show_until(len(self.text) - self._begun())

    def _begun(self) -> int:
        """How many characters at the end of the text could be the beginning of a stop string."""
        for count in range(min(self._longest - 1, len(self.text)), 0, -1):
            if any(string.startswith(self.text[-count:]) for string in self._strings):
                return count
        return 0

    def _show_until(self, end: int) -> bool:
        if end <= self._shown:
            return False
        piece, self._shown = self.text[self._shown : end], end
        return bool(self._show(piece))


def _strings(given: str | Iterable[str]) -> tuple[str, ...]:
    strings = (given,) if isinstance(given, str) else tuple(given)
    for index, string in enumerate(strings):
        if not isinstance(string, str) or not string:
            raise ArgumentError(message(f"stop_strings[{index}]", "a text that is not empty", repr(string)))
    return strings
