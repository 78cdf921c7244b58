"""Position schemes by name. `TABLE` is the one place that knows a name: what it is called and how it looks in pictures,
what the command line says of it, and the settings that follow from what a model was trained on and how far it is to
reach."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from farspan import positions
from farspan._errors import ArgumentError, message
from farspan.lab import custom
from farspan.positions import Scheme


@dataclass(frozen=True)
class Reach:
    """From the longest sequence a model saw in training to the longest it is to read, in tokens."""

    trained: int
    longest: int
    base: float
    """of the model's own RoPE"""

    @property
    def factor(self) -> float:
        return max(1.0, self.longest / self.trained)


@dataclass(frozen=True)
class Entry:
    """What there is to know of a named scheme."""

    name: str
    label: str
    """in a picture"""
    what: str
    """on the command line"""
    colour: str
    marker: str
    make: Callable[[Reach], Scheme | None]
    """None is the scheme that the model comes with."""
    aliases: tuple[str, ...] = ()


def _self_extend(reach: Reach) -> Scheme:
    """Half the trained length stays as it was; the group is the smallest that folds the rest into the other half."""
    window = max(1, reach.trained // 2)

    def farthest(group: int) -> int:
        return (reach.longest - 1) // group + window - window // group

    group = 1
    while farthest(group) >= max(reach.trained, window + 1) and group < reach.longest:
        group += 1
    return positions.SelfExtend(group, window, inner=positions.RoPE(reach.base))


def _streaming(reach: Reach) -> Scheme:
    sinks, window = min(4, reach.trained - 1), max(1, reach.trained - 4)
    return positions.Streaming(sinks, window, inner=positions.RoPE(reach.base))


# The colours mix Paul Tol's "bright" and "vibrant" sets for contrast under the common colour-vision deficiencies. The
# marker says the same as the colour, so that a picture can be read in grey too. A scheme has one look in all pictures.
TABLE: tuple[Entry, ...] = (
    Entry("own", "the model's own", "as the model says", "#000000", "o", lambda r: None),
    Entry("rope", "RoPE", "plain RoPE of the model's base", "#777777", "d", lambda r: positions.RoPE(r.base)),
    Entry(
        "linear", "linear interpolation", "positions divided by the factor", "#EE7733", "s",
        lambda r: positions.LinearInterpolation(r.factor), aliases=("pi",),
    ),
    Entry("ntk", "NTK-aware", "the base grown once", "#0077BB", "^", lambda r: positions.NTK(r.factor)),
    Entry(
        "dynamic-ntk", "dynamic NTK", "the base grown with the sequence", "#33BBEE", "v",
        lambda r: positions.DynamicNTK(r.factor, r.trained), aliases=("dynamic",),
    ),
    Entry(
        "yarn", "YaRN", "NTK by parts, and sharper attention", "#CC3311", "D",
        lambda r: positions.YaRN(r.factor, r.trained),
    ),
    Entry(
        "llama3", "Llama 3", "long wavelengths divided by the factor", "#BBBBBB", "h",
        lambda r: positions.Llama3(r.factor, 1.0, 4.0, r.trained),
    ),
    Entry(
        "logn", "log-n", "queries scaled by the logarithm of their place", "#AA3377", "P",
        lambda r: positions.LogN(r.trained, inner=positions.RoPE(r.base)), aliases=("log-n",),
    ),
    Entry(
        "rerope", "ReRoPE", "one distance for all that is far", "#009988", "X",
        lambda r: positions.ReRoPE(max(1, r.trained // 2), inner=positions.RoPE(r.base)),
    ),
    Entry(
        "self-extend", "Self-Extend", "far positions in groups", "#DDAA33", "p", _self_extend, aliases=("selfextend",)
    ),
    Entry("streaming", "Streaming", "four first keys and a window", "#6633AA", "*", _streaming),
    Entry("alibi", "ALiBi", "a bias that falls with the distance", "#117733", "<", lambda r: positions.ALiBi()),
    Entry("nope", "NoPE", "no positions at all", "#882255", ">", lambda r: positions.NoPE()),
)  # fmt: skip

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
            made[entry.name] = entry.make(reach)
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


def command_line_help() -> str:
    """Every name with what it is, a line each."""
    width = max(len(entry.name) for entry in TABLE) + 2
    lines = (f"  {entry.name:<{width}}{entry.what}{_written(entry.aliases)}" for entry in TABLE)
    return "\n".join(lines)


def _written(aliases: tuple[str, ...]) -> str:
    return f" (or {', '.join(aliases)})" if aliases else ""
