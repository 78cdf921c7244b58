"""What a caller of `generate` may write, as plain numbers: ids, prompts, settings of one value or one per prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from farspan._backend import arrays
from farspan._errors import ArgumentError, message


def as_prompts(prompts: Any) -> list[list[int]]:
    """The ids of each prompt, at least one."""
    listed = plain(prompts)
    if not isinstance(listed, (list, tuple)):
        raise ArgumentError(message("prompts", "a list of id lists, or ids [batch, time]", repr(prompts)))
    known = [integers(f"prompts[{row}]", prompt) for row, prompt in enumerate(listed)]
    for row, prompt in enumerate(known):
        if not prompt:
            raise ArgumentError(message(f"prompts[{row}]", "at least one token", "none"))
    return known


def integers(name: str, value: Any) -> list[int]:
    """Integers from any iterable of them."""
    try:
        return [integer(x) for x in plain(value)]
    except TypeError:
        raise ArgumentError(message(name, "integers", repr(value))) from None


def integer(value: Any) -> int:
    """TypeError: anything but a whole number."""
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError
    return int(value.__index__())


def count(name: str, value: Any, least: int) -> int:
    """One whole number."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ArgumentError(message(name, f"an integer, at least {least}", repr(value)))
    return value


def counted_lengths(lengths: Any, tokens: int) -> tuple[int, ...]:
    """The lengths of sequences, each at least one token, that are so many tokens together."""
    found = tuple(integers("lengths", lengths))
    if any(length < 1 for length in found) or sum(found) != tokens:
        expected = f"lengths of at least 1 that add up to the {tokens} ids"
        raise ArgumentError(message("lengths", expected, list(found) if len(found) < 10 else f"{sum(found)} in all"))
    return found


def placed(name: str, value: Any, lengths: Sequence[int]) -> list[np.ndarray]:
    """Integers of at least 0, one for each token: `[batch, time]`, or all behind each other, or a list for each
    sequence."""
    listed = plain(value)
    nested = isinstance(listed, (list, tuple)) and len(listed) > 0 and isinstance(plain(listed[0]), (list, tuple))
    rows = [integers(name, row) for row in listed] if nested else [integers(name, listed)]
    if [len(row) for row in rows] == [sum(lengths)]:
        rows = [list(row) for row in np.split(np.array(rows[0], np.int64), np.cumsum(lengths)[:-1])]
    if [len(row) for row in rows] != list(lengths) or any(x < 0 for row in rows for x in row):
        expected = f"integers of at least 0, one for each of {_shown(lengths)} tokens"
        raise ArgumentError(message(name, expected, f"{_shown([len(row) for row in rows])} of them"))
    return [np.array(row, np.int64) for row in rows]


def _shown(counts: Sequence[int]) -> str:
    return ", ".join(map(str, counts[:8])) + (", ..." if len(counts) > 8 else "")


def ids(name: str, value: Any, vocab: int) -> list[int]:
    """Token ids of the vocabulary."""
    listed = integers(name, value)
    for token in listed:
        if not 0 <= token < vocab:
            raise ArgumentError(message(name, f"ids of the vocabulary, 0 to {vocab - 1}", token))
    return listed


def check_ids(ids: Any, vocab: int) -> None:
    """ArgumentError if an array or a tensor has an id that is none of the vocabulary. Waits for a tensor's device."""
    if ((ids < 0) | (ids >= vocab)).any():
        raise unknown_id(ids, vocab)


def unknown_id(ids: Any, vocab: int) -> ArgumentError:
    """The error that names the first of them."""
    wrong = ids[(ids < 0) | (ids >= vocab)]
    return ArgumentError(message("ids", f"ids of the vocabulary, 0 to {vocab - 1}", int(wrong[0])))


def per_prompt(name: str, value: Any, rows: int, *, whole: bool) -> Any:
    """A number as it is, or an array of one per prompt."""
    if isinstance(value, (list, tuple)):
        try:
            value = np.asarray(value)
        except ValueError:
            raise ArgumentError(message(name, f"a number, or {rows}, one per prompt", repr(value))) from None
        if value.shape != (rows,):
            raise ArgumentError(message(name, f"a number, or {rows}, one per prompt", f"shape {list(value.shape)}"))
    column = arrays.per_row(name, value, np.empty(0), (rows,), integer=whole, wide=True, high=2**63)
    return column if column.ndim else column[()].item()


def plain(value: Any) -> Any:
    """An array or a tensor as nested lists, anything else as it is."""
    return value.tolist() if hasattr(value, "tolist") else value
