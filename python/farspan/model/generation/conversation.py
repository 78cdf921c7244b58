"""A conversation: the checkpoint's chat template over everything said, and a cache that has read most of it already."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from farspan.chat_template import Message
from farspan.model.generation.generate import Completion, end_tokens
from farspan.model.generation.text import TextCompletion, TextWriter
from farspan.model.transformer import Transformer
from farspan.tokenizer import Tokenizer

INTERRUPTED = "interrupted"
"""The `finish_reason` of a reply that Ctrl-C ended."""


class Conversation:
    """Turns of a user and a model. `settings` are those of `model.generate`, the same in each turn.

    A reply is what `generate` gives for the template over the whole history, token by token. The cache keeps what it
    has read, so a turn computes only the tokens that came since. Where the template writes earlier turns differently
    than before (some leave out thoughts), it is read again from there on.

    BackendError: the checkpoint has no chat template.
    """

    def __init__(
        self, model: Transformer, tokenizer: Tokenizer, system: str | None = None, *,
        stop_strings: Iterable[str] = (), seed: int = 0, **settings: Any,
    ) -> None:  # fmt: skip
        self.seed = seed
        self._model, self._tokenizer, self._settings = model, tokenizer, settings
        self._stop_strings = tuple(stop_strings)
        self._opening: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._cache = model.new_cache(1)
        self._read: list[int] = []  # the tokens that the cache holds
        self.messages: list[Message] = list(self._opening)
        self.computed = 0
        """How many tokens of the last prompt had to be read."""
        tokenizer.chat([*self._opening, {"role": "user", "content": ""}])  # whether it has a template is told at once

    @property
    def length(self) -> int:
        """How many tokens of context the conversation takes."""
        return len(self._read) + bool(self._read)

    def reset(self) -> None:
        """Forget all turns; the system's words stay."""
        self.messages = list(self._opening)
        self._forget(0)

    def say(self, text: str, show: Callable[[str], Any] = lambda piece: None) -> TextCompletion:
        """The model's reply to a turn of the user's; `show` gets it piece by piece, in whole characters.

        KeyboardInterrupt ends a reply that has begun: what came until then is the reply. Where nothing came, or an
        exception ends it, the turn was never said.
        """
        messages = [*self.messages, {"role": "user", "content": text}]
        ids = self._tokenizer.chat(messages)
        self._forget(min(_common(self._read, ids), len(ids) - 1))
        self.computed = len(ids) - len(self._read)
        writer = TextWriter(self._tokenizer, ids, end_tokens(self._model, None), self._stop_strings, show)
        try:
            (completion,) = self._model.generate(
                [ids], seed=self.seed, streamer=lambda row, token: writer.take(token), cache=self._cache,
                **self._settings,
            )  # fmt: skip
        except KeyboardInterrupt:
            completion = Completion(tokens=list(writer.tokens), finish_reason=INTERRUPTED)
        finally:
            self._read = (ids + writer.tokens)[: self._cache.counts[0]]
        reply = writer.completed(completion)
        if reply.tokens:
            self.messages = [*messages, {"role": "assistant", "content": reply.text}]
        return reply

    def _forget(self, count: int) -> None:
        """All but the first tokens."""
        self._cache.truncate([count])
        self._read = self._read[:count]


def _common(first: list[int], second: list[int]) -> int:
    """How many tokens two texts begin with alike."""
    return next(
        (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), min(len(first), len(second))
    )
