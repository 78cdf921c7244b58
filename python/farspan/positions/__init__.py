"""Position schemes: how far away a token looks, as small data objects that give `farspan.attention` its arguments.

`model.with_positions(YaRN(4, 4096))` puts one on a loaded model, also while a cache already holds keys: keys are cached
un-rotated. `Scheme.hooks` gives the arguments to callers of `farspan.attention` itself.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.positions.biases import ALiBi, HardALiBi, NoPE, Sandwich
from farspan.positions.coupled import Coupled
from farspan.positions.fire import FIRE
from farspan.positions.forgetting import Forgetting
from farspan.positions.frequencies import (
    NTK,
    ClippedRoPE,
    DynamicNTK,
    LinearInterpolation,
    Llama3,
    LongRoPE,
    PRoPE,
    RoPE,
    YaRN,
)
from farspan.positions.learned import LayerShape, Learned
from farspan.positions.learned_biases import T5, Kerple
from farspan.positions.randomised import RandomPositions
from farspan.positions.regions import ReRoPE, SelfExtend, Streaming
from farspan.positions.relative import Relative
from farspan.positions.scales import LogN, SSMax
from farspan.positions.scheme import Scheme, Span
from farspan.positions.table import TABLE

SCHEMES: tuple[type[Scheme], ...] = tuple(dict.fromkeys(entry.scheme for entry in TABLE if entry.scheme))

__all__ = [
    "FIRE", "NTK", "SCHEMES", "T5", "ALiBi", "ClippedRoPE", "Coupled", "DynamicNTK", "Forgetting", "HardALiBi",
    "Kerple", "LayerShape", "Learned", "LinearInterpolation", "Llama3", "LogN", "LongRoPE", "NoPE", "PRoPE",
    "RandomPositions", "ReRoPE", "Relative", "RoPE", "SSMax", "Sandwich", "Scheme", "SelfExtend", "Span", "Streaming",
    "YaRN", "scheme_from_dict",
]  # fmt: skip


def scheme_from_dict(settings: Any) -> Scheme:
    """The scheme that `Scheme.to_dict` wrote down."""
    names = {scheme.__name__: scheme for scheme in SCHEMES}
    named = settings.get("scheme") if isinstance(settings, dict) else None
    if not isinstance(named, str) or named not in names:
        raise ArgumentError(message("scheme", f"a dict whose `scheme` is one of {', '.join(names)}", repr(settings)))
    kind = names[named]
    given = {name: value for name, value in settings.items() if name != "scheme"}
    fields = {field.name: field for field in dataclasses.fields(kind)}
    unknown = given.keys() - fields.keys()
    if unknown:
        raise ArgumentError(message(f"{kind.__name__} settings", "names that it has", ", ".join(sorted(unknown))))
    missing = [name for name, field in fields.items() if field.default is dataclasses.MISSING and name not in given]
    if missing:
        raise ArgumentError(message(f"{kind.__name__} settings", f"a value for {missing[0]}", "none"))
    if "inner" in given:
        given["inner"] = scheme_from_dict(given["inner"])
    return kind(**given)
