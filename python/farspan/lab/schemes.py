"""Position schemes by name: how they are asked for, and their looks in pictures. `farspan.positions.table` has them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from farspan._errors import ArgumentError, message
from farspan.lab import custom
from farspan.positions import Scheme, table
from farspan.positions.table import Entry, Reach

OWN = Entry(None, "own", "the model's own", "as the model says", "#000000", "o", lambda r: None)
"""The scheme that the model comes with."""

TABLE = (OWN, *(entry for entry in table.TABLE if entry.make))
"""What can be asked for by name."""

SPARE = (("#44AA99", "H"), ("#AA4499", "d"), ("#999933", "8"), ("#661100", "^"), ("#6699CC", "s"), ("#CC6677", "v"))
"""Colours and markers for schemes that are not in the table."""


class Look(NamedTuple):
    """How a scheme looks in a picture."""

    label: str
    colour: str
    marker: str


_BY_NAME = {name: entry for entry in TABLE for name in (entry.name, *entry.aliases)}

LENGTHS = (64, 128, 256, 512, 1024, 2048)
"""Context lengths that are measured unless others are asked for."""

COMPARED = ("own", "rope", "linear", "ntk", "dynamic-ntk", "yarn", "logn", "rerope", "self-extend", "streaming")
"""What is compared unless something else is asked for: the model's own, and what can help a model trained with RoPE."""


def find(name: str) -> Entry:
    """The entry of a name, however it is written. ArgumentError: no such scheme."""
    entry = _BY_NAME.get(name.strip().lower().replace("_", "-"))
    if entry is None:
        expected = f"names among {', '.join(entry.name for entry in TABLE)}, or module:Class"
        raise ArgumentError(message("schemes", expected, repr(name)))
    return entry


def make(names: Iterable[str], reach: Reach) -> dict[str, Scheme | None]:
    """The schemes of these names, in this order, each named once; None for "own", the scheme the model comes with. A
    name of the form `module:Class(settings)` is a class of somebody's own."""
    made: dict[str, Scheme | None] = {}
    for name in names:
        if custom.is_reference(name):
            made[name] = custom.load(name, _known(reach))
        else:
            entry = find(name)
            made[entry.name] = entry.make(reach) if entry.make else None
    return made


def check(names: Iterable[str]) -> None:
    """ArgumentError, without a model at hand: a name that is not in the table, or a class that is not to be found."""
    for name in names:
        if custom.is_reference(name):
            custom.find_class(name, _known(Reach(trained=1, longest=1, base=1.0)))
        else:
            find(name)


def _known(reach: Reach) -> dict[str, float]:
    """What may stand for a number in the settings of somebody's own class."""
    return {"trained": reach.trained, "longest": reach.longest, "factor": reach.factor, "base": reach.base}


Chosen = Mapping[str, Scheme | None] | Iterable[str | Scheme] | str | Scheme | None
"""How schemes are asked for: by names, as objects, or as objects with names of the caller's."""


def choose(schemes: Chosen, reach: Reach, default: Iterable[str]) -> dict[str, Scheme | None]:
    """Names and objects as a dict; an object is called by its class and those settings that are not the default."""
    if isinstance(schemes, Mapping):
        chosen = dict(schemes)
    else:
        wanted = [schemes] if isinstance(schemes, (str, Scheme)) else list(default if schemes is None else schemes)
        chosen = {}
        for scheme in wanted:
            chosen |= make([scheme], reach) if isinstance(scheme, str) else {written(scheme): scheme}
    for name, scheme in chosen.items():
        if not (scheme is None or isinstance(scheme, Scheme)):
            raise ArgumentError(message("schemes", "names and position schemes", f"{name!r}: {scheme!r}"))
    if not chosen:
        raise ArgumentError(message("schemes", "at least one", "none"))
    return chosen


def written(scheme: Scheme) -> str:
    """A short text for a scheme: `YaRN(factor=8, original_length=256)`."""
    if not dataclasses.is_dataclass(scheme):
        return str(scheme)
    fields = [field for field in dataclasses.fields(scheme) if getattr(scheme, field.name) != field.default]
    settings = ", ".join(f"{field.name}={getattr(scheme, field.name)!r}" for field in fields)
    return type(scheme).__name__ + (f"({settings})" if settings else "")


def looks(names: Iterable[str]) -> dict[str, Look]:
    """How schemes look in one picture. Those that the table does not know are called as they are, and get what it does
    not use."""
    spare = itertools.cycle(SPARE)
    return {
        name: Look(_BY_NAME[name].label, _BY_NAME[name].colour, _BY_NAME[name].marker)
        if name in _BY_NAME
        else Look(name, *next(spare))
        for name in names
    }


def command_line_help(*, own: bool = True) -> str:
    """Every name with what it is, a line each; `own` only where there is a model that could have one."""
    width = max(len(entry.name) for entry in TABLE) + 2
    listed = (entry for entry in TABLE if own or entry is not OWN)
    lines = (f"  {entry.name:<{width}}{entry.what}{_written(entry.aliases)}" for entry in listed)
    return "\n".join(lines)


def _written(aliases: tuple[str, ...]) -> str:
    return f" (or {', '.join(aliases)})" if aliases else ""
