"""Parsers for what stands behind an option; each says what it expected."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from typing import TypeVar

_Value = TypeVar("_Value")


def whole(least: int, below: float = math.inf) -> Callable[[str], int]:
    """An integer in `[least, below)`."""

    def parse(text: str) -> int:
        value = int(text) if text.lstrip("+-").isdecimal() else None
        if value is None or not least <= value < below:
            most = "" if below == math.inf else f" and below {below}"
            raise argparse.ArgumentTypeError(f"expected an integer, at least {least}{most}, given {text!r}")
        return value

    return parse


def real(least: float = -math.inf, most: float = math.inf, *, above: float = -math.inf) -> Callable[[str], float]:
    """A finite number of `[least, most]`, above `above`."""
    bounds = [f"{word} {bound:g}" for word, bound in (("at least", least), ("above", above), ("at most", most))
              if math.isfinite(bound)]  # fmt: skip

    def parse(text: str) -> float:
        value = number(text)
        if not (math.isfinite(value) and least <= value <= most and value > above):
            raise argparse.ArgumentTypeError(f"expected {', '.join(['a number', *bounds])}, given {text!r}")
        return value

    return parse


def number(text: str) -> float:
    """NaN where the text is no number."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def some_text(text: str) -> str:
    """A text that is not empty."""
    if not text:
        raise argparse.ArgumentTypeError("expected some text, given none")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise argparse.ArgumentTypeError(f"expected UTF-8, given {text!a}")
    return text


def entries(text: str) -> tuple[str, ...]:
    """Entries separated by commas, except those inside brackets."""
    found, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            found.append("")
        else:
            found[-1] += character
    given = tuple(entry.strip() for entry in found if entry.strip())
    if not given:
        raise argparse.ArgumentTypeError(f"expected entries separated by commas, given {text!r}")
    return given


def listed(kind: Callable[[str], _Value]) -> Callable[[str], list[_Value]]:
    """Values of a kind separated by commas."""
    return lambda text: list(map(kind, entries(text)))


ids = listed(whole(0))
"""Token ids separated by commas."""


def biases(text: str) -> dict[int, float]:
    """`ID=VALUE` entries separated by commas; -inf is a value."""
    found = {}
    for entry in entries(text):
        token, _, value = entry.partition("=")
        if not token.isdecimal() or math.isnan(number(value)) or number(value) == math.inf:
            raise argparse.ArgumentTypeError(f"expected ID=VALUE, an id and a number or -inf, given {entry!r}")
        found[int(token)] = number(value)
    return found
