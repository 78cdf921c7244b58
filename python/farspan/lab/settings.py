"""What the settings of every kind of extrapolation share: which values can be, and how they are written down."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.lab import custom, schemes
from farspan.model.kinds import Kind, count

MANY = 2**31

KINDS: Mapping[str, Kind] = {
    "steps": count(MANY),
    "seeds": count(10_000),
    "examples": count(MANY),
    "batch": count(MANY),
    "layers": count(1000),
    "width": count(2**20),
    "heads": count(2**16),
}
"""Of the settings that all have."""


def settle(settings: Any, kinds: Mapping[str, Kind]) -> None:
    """Checks the values of a new object, a frozen dataclass, and makes tuples of lists. `kinds`: of its own settings.
    ArgumentError: a value that cannot be."""
    for name, kind in {**KINDS, **kinds}.items():
        value = kind.check(name, getattr(settings, name))
        put(settings, name, tuple(value) if isinstance(value, list) else value)
    if settings.width % settings.heads:
        raise ArgumentError(message("width", f"a multiple of heads, {settings.heads}", settings.width))


def put(settings: Any, name: str, value: object) -> None:
    """Settles a value of a new object."""
    object.__setattr__(settings, name, value)


def require_new(names: Iterable[str]) -> None:
    """ArgumentError: no name, an unknown one, or one that belongs to a model that is there."""
    given = list(names)
    if not given:
        raise ArgumentError(message("schemes", "at least one", "none"))
    schemes.check(given)
    for name in given:
        if not custom.is_reference(name) and schemes.find(name) is schemes.OWN:
            raise ArgumentError(message("schemes", "schemes that a new model can have", repr(name)))


def plain(settings: Any) -> dict[str, Any]:
    """The settings with JSON types."""
    values = dataclasses.asdict(settings).items()
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values}
