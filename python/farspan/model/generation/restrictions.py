"""Which tokens a sequence may go on with: biases, bans, bad words, a least length, and the masks of a grammar."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from farspan._backend import arrays
from farspan._errors import ArgumentError, DtypeError, message
from farspan.model import arguments

Text = array  # of type "q": the ids of a sequence so far; NumPy reads them without a copy

LISTS = ("logit_bias", "banned", "allowed", "bad_words", "min_tokens")
"""Settings that become lists of ids, in the forms that are convenient in Python."""


class Lists:
    """`logit_bias`, `banned` and `allowed` of every prompt, with what bad words and a least length ban now and then.

    Args:
        rows: how many prompts.
        vocab: how many tokens.
        stops: the ids that end a sequence.
        settings: those of `LISTS` that were given: `logit_bias` a dict of id and value, `banned` and `allowed` ids,
            `bad_words` a list of id lists, each for all prompts or in a list of one per prompt; `min_tokens` a number,
            or one per prompt.
    """

    def __init__(self, rows: int, vocab: int, stops: Iterable[int], settings: dict[str, Any]) -> None:
        biases = _each("logit_bias", settings.get("logit_bias"), rows, lambda x: isinstance(x, dict))
        self._bias_ids, self._bias_values = [], []
        for name, bias in biases:
            if not isinstance(bias, dict):
                raise DtypeError(message(name, "a dict of token ids and values", arrays.describe(bias)))
            self._bias_ids.append(_column(arguments.ids(name, bias, vocab)))
            values = np.array([arrays.number(name, x) for x in bias.values()], np.float64)
            self._bias_values.append(arrays.float32(name, values))
        self._allowed, self._banned = (
            [_column(arguments.ids(*one, vocab)) for one in _each(name, settings.get(name), rows, _holds_no_lists)]
            for name in ("allowed", "banned")
        )
        words = [
            [_word(f"{name}[{i}]", word, vocab) for i, word in enumerate(arguments.plain(given) or ())]
            for name, given in _each("bad_words", settings.get("bad_words"), rows, _holds_no_lists_of_lists)
        ]
        self._words = [[word for word in own if len(word) > 1] for own in words]
        lone = [_column([word[0] for word in own if len(word) == 1]) for own in words]
        self._banned = [np.concatenate(pair) for pair in zip(self._banned, lone, strict=True)]
        least = arguments.per_prompt("min_tokens", settings.get("min_tokens", 0), rows, whole=True)
        self._least = np.broadcast_to(least, rows)
        if np.any(self._least < 0):
            raise ArgumentError(message("min_tokens", "integers, at least 0", settings["min_tokens"]))
        self._stops = _column([token for token in sorted(stops) if 0 <= token < vocab])

    def arguments(self, rows: Sequence[int], texts: Sequence[Text], made: Sequence[int]) -> dict[str, Any]:
        """Arguments of `farspan.sample` for the tokens behind `texts`, of which `made` tokens are new."""
        found: dict[str, Any] = {}
        if any(self._bias_ids[row].size for row in rows):
            found["logit_bias"] = ragged(self._bias_ids, self._bias_values, rows=rows)
        if any(self._allowed[row].size for row in rows):
            found["allowed"] = ragged(self._allowed, rows=rows)
        banned = [self._banned_after(*place) for place in zip(rows, texts, made, strict=True)]
        if any(ids.size for ids in banned):
            found["banned"] = ragged(banned)
        return found

    def _banned_after(self, row: int, text: Text, made: int) -> np.ndarray:
        parts = [self._banned[row]]
        if made < self._least[row]:
            parts.append(self._stops)
        ends = [word[-1] for word in self._words[row] if text[1 - len(word) :] == word[:-1]]
        return np.concatenate([*parts, _column(ends)]) if ends or len(parts) > 1 else parts[0]


class Masks:
    """The allowed tokens in packed words of 32, given once or asked for before each draw.

    `mask`: int32 words `[words]` for all prompts or `[prompts, words]`, or a callable `(row, tokens)` of the prompt's
    index and its new tokens, which answers with words or with None where everything is allowed.
    """

    def __init__(self, rows: int, vocab: int, mask: Any) -> None:
        self._width, self._ask, self._given = -(-vocab // 32), None, []
        if callable(mask):
            self._ask = mask
            return
        words = _words("mask", mask, ndim=(1, 2))
        if words.ndim == 2 and len(words) != rows:
            raise ArgumentError(message("mask", f"{rows} rows of words, one per prompt", list(words.shape)))
        self._given = [self._padded("mask", row) for row in (words if words.ndim == 2 else [words] * rows)]

    def arguments(self, rows: Sequence[int], texts: Sequence[Text], made: Sequence[int]) -> dict[str, Any]:
        """Arguments of `farspan.sample`, as `Lists.arguments` gives them."""
        return {"mask": np.stack([self._after(*place) for place in zip(rows, texts, made, strict=True)])}

    def permitted(self, row: int, text: Text, made: int, draft: list[int]) -> list[int]:
        """The drafts before the first one that is banned: behind that one a grammar has nothing to say."""
        text = text[:]
        for index, token in enumerate(draft):
            if not self._after(row, text, made + index)[token // 32] >> token % 32 & 1:
                return draft[:index]
            text.append(token)
        return draft

    def _after(self, row: int, text: Text, made: int) -> np.ndarray:
        if self._ask is None:
            return self._given[row]
        words = self._ask(row, text[len(text) - made :].tolist())
        if words is None:
            return np.full(self._width, -1, np.int32)
        name = f"mask({row}, tokens)"
        words = _words(name, words, ndim=(1, 2))
        if words.ndim == 2 and len(words) != 1:
            raise ArgumentError(message(name, "one row of words, or None", list(words.shape)))
        return self._padded(name, words.reshape(-1))

    def _padded(self, name: str, words: np.ndarray) -> np.ndarray:
        """Missing words ban."""
        if len(words) > self._width:
            raise ArgumentError(message(name, f"at most {self._width} words, 32 tokens each", len(words)))
        return np.concatenate([words, np.zeros(self._width - len(words), np.int32)])


def ragged(*columns: Sequence[Any], rows: Sequence[int] | None = None) -> tuple[np.ndarray, ...]:
    """Lists one after the other, `(ids, ..., offsets)`; of some rows only, in their order."""
    if rows is not None:
        columns = tuple([column[row] for row in rows] for column in columns)
    return (*map(np.concatenate, columns), np.cumsum([0, *map(len, columns[0])]))


def _each(name: str, value: Any, rows: int, is_shared: Callable[[Any], bool]) -> list[tuple[str, Any]]:
    """The setting of each prompt with its name."""
    value = arguments.plain(value)
    nothing: Any = {} if name == "logit_bias" else ()
    if value is None or is_shared(value):
        return [(name, nothing if value is None else value)] * rows
    if not isinstance(value, (list, tuple)):
        raise DtypeError(message(name, "one for all prompts, or a list of one per prompt", arrays.describe(value)))
    if len(value) != rows:
        raise ArgumentError(message(name, f"one for all prompts, or {rows}, one per prompt", f"{len(value)}"))
    return [(f"{name}[{row}]", nothing if own is None else own) for row, own in enumerate(value)]


def _holds_no_lists(value: Any) -> bool:
    return isinstance(value, (list, tuple, set, frozenset, range)) and not any(x is None or _is_list(x) for x in value)


def _holds_no_lists_of_lists(value: Any) -> bool:
    """No word is empty: where all are, they are the empty lists of the prompts."""
    words = isinstance(value, (list, tuple)) and all(_is_list(word) and _holds_no_lists(word) for word in value)
    return words and (any(map(len, value)) or not value)


def _is_list(x: Any) -> bool:
    return not isinstance(x, str) and hasattr(x, "__iter__")


def _word(name: str, word: Any, vocab: int) -> Text:
    ids = arguments.ids(name, word, vocab)
    if not ids:
        raise ArgumentError(message(name, "at least one id", "none"))
    return array("q", ids)


def _words(name: str, mask: Any, ndim: tuple[int, ...]) -> np.ndarray:
    words = mask.cpu().numpy() if arrays.is_tensor(mask) else mask
    if not isinstance(words, np.ndarray) or words.dtype != np.int32:
        raise DtypeError(message(name, "packed int32 words", arrays.describe(mask)))
    if words.ndim not in ndim:
        raise ArgumentError(message(name, "shape [words], or a row of them per prompt", list(words.shape)))
    return words


def _column(ids: Sequence[int]) -> np.ndarray:
    return np.array(ids, np.int64)
