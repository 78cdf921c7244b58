"""What the value of a setting may be, as data: `config.json`'s keys and `Config`'s fields are tables of these kinds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from farspan._errors import ArgumentError, message

REQUIRED: Any = object()
"""The default of a setting that has none."""


def _unchanged(value: Any) -> Any:
    return value


@dataclasses.dataclass(frozen=True)
class Kind:
    """A test with the words for what passes it. `settled` turns equivalent spellings into one."""

    expected: str
    accepts: Callable[[Any], bool]
    settled: Callable[[Any], Any] = _unchanged

    def check(self, name: str, value: Any) -> Any:
        """The value, settled. ArgumentError: another kind of value."""
        if not self.accepts(value):
            raise ArgumentError(message(name, self.expected, shown(value)))
        return self.settled(value)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A key of a table: what its value may be, and what holds where the key is missing."""

    kind: Kind
    default: Any = REQUIRED


def read(table: Mapping[str, Setting], given: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The settings of a table, checked; `where` is put before their names in errors. Keys of no table are left out."""
    found = {}
    for name, setting in table.items():
        if name in given:
            found[name] = setting.kind.check(where + name, given[name])
        elif setting.default is REQUIRED:
            raise ArgumentError(message(where + name, setting.kind.expected, "none"))
        else:
            found[name] = setting.default
    return found


def shown(value: Any) -> str:
    """The value as errors print it: its beginning, if it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def count(most: int, least: int = 1) -> Kind:
    return Kind(f"an integer from {least} to {most}", lambda x: _is_integer(x) and least <= x <= most)


def whole(most: int, least: int = 1) -> Kind:
    """A count that may be written as a float, 8192.0, as YAML and numpy write it."""
    return Kind(
        f"a whole number from {least} to {most}",
        lambda x: _is_number(x) and least <= x <= most and x == int(x),
        int,
    )


def number(*, least: float = -math.inf, above: float = -math.inf, most: float = math.inf) -> Kind:
    """A finite number."""
    bounds = [f"at least {least:g}"] * (least > -math.inf) + [f"above {above:g}"] * (above > -math.inf)
    bounds += [f"at most {most:g}"] * (most < math.inf)
    return Kind(
        " ".join(["a finite number", " and ".join(bounds)]).rstrip(),
        lambda x: _is_number(x) and least <= x <= most and x > above,
    )


def one_of(*choices: Any) -> Kind:
    """One of these very values: `True` is not 1 here."""
    return Kind(
        f"one of {', '.join(map(str, choices))}",
        lambda x: any(type(x) is type(choice) and x == choice for choice in choices),
    )


def list_of(kind: Kind) -> Kind:
    """A list, or a tuple."""
    return Kind(
        f"a list, each of it {kind.expected}",
        lambda x: isinstance(x, (list, tuple)) and all(map(kind.accepts, x)),
        lambda x: [kind.settled(entry) for entry in x],
    )


def optional(kind: Kind) -> Kind:
    """This kind, or null."""
    return Kind(
        f"{kind.expected}, or null",
        lambda x: x is None or kind.accepts(x),
        lambda x: None if x is None else kind.settled(x),
    )


def either(one: Kind, other: Kind) -> Kind:
    return Kind(
        f"{one.expected}, or {other.expected}",
        lambda x: one.accepts(x) or other.accepts(x),
        lambda x: one.settled(x) if one.accepts(x) else other.settled(x),
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """A finite one. Integers past the largest float are none: no setting is that large."""
    if _is_integer(value):
        return bool(abs(value) < 2**1000)
    return isinstance(value, float) and math.isfinite(value)


FLAG = Kind("true or false", lambda x: isinstance(x, bool))
TEXT = Kind("a string", lambda x: isinstance(x, str))
OBJECT = Kind("an object of settings", lambda x: isinstance(x, dict))
TOKEN = Kind("a token id, an integer from 0 on", lambda x: _is_integer(x) and x >= 0)

# Bounds that keep products of sizes within 64 bits, far above any model there is.
VOCABULARY = count(2**31 - 1)
WIDTH = count(2**24)
LAYERS = count(10_000)
HEADS = count(2**16)
LENGTH = whole(2**53)
POSITIVE = number(above=0)
FACTOR = number(least=1e-9, most=1e9)
MULTIPLIER = number(least=-1e9, most=1e9)
