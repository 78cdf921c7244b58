"""The rotation that a `config.json` describes: `rope_parameters`, or `rope_scaling` and `rope_theta` as they were
before transformers 5. Every family reads and writes it here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.model.kinds import (
    FACTOR,
    FLAG,
    LENGTH,
    OBJECT,
    TEXT,
    Kind,
    Setting,
    list_of,
    number,
    one_of,
    optional,
    read,
    shown,
)
from farspan.positions import DynamicNTK, LinearInterpolation, Llama3, LongRoPE, RoPE, Scheme, YaRN
from farspan.positions.frequencies import DEFAULT_BASE, yarn_attention_factor

__all__ = ["DEFAULT_BASE", "KEYS", "ORIGINAL", "PARTIAL_KEYS", "by_kind", "read_rope", "section", "share", "written"]

ORIGINAL = "original_max_position_embeddings"
THETA = number(least=1, most=1e30)
SHARE = optional(number(above=0, most=1))
WHOLE_HEAD = optional(Kind("1: whole heads turn", lambda x: not isinstance(x, bool) and x == 1))

KEYS = {
    "rope_theta": Setting(optional(THETA), None),
    "rope_parameters": Setting(optional(OBJECT), None),
    "rope_scaling": Setting(optional(OBJECT), None),
    "partial_rotary_factor": Setting(WHOLE_HEAD, None),
    ORIGINAL: Setting(optional(LENGTH), None),
}
"""The keys at the top of `config.json`."""

PARTIAL_KEYS = {**KEYS, "partial_rotary_factor": Setting(SHARE, None)}
"""Those of a family of whose heads a part may turn."""

COMMON = {
    "rope_theta": Setting(optional(THETA), None),
    "partial_rotary_factor": Setting(WHOLE_HEAD, None),
    ORIGINAL: Setting(optional(LENGTH), None),
}
"""What the settings of every rope type may hold."""

FACTORS = list_of(FACTOR)
MAYBE = optional(FACTOR)


@dataclasses.dataclass(frozen=True)
class Rotation:
    """What a scheme is made of, whatever its type."""

    given: Mapping[str, Any]
    """The settings of the type, checked."""
    where: str
    theta: float
    longest: int
    """`max_position_embeddings`"""
    original: int
    """The length before any scaling"""
    head_dim: int

    def require(self, name: str, kind: Kind, value: Any) -> None:
        """A check that needs more than the value alone."""
        kind.check(self.where + name, value)


@dataclasses.dataclass(frozen=True)
class RopeType:
    keys: Mapping[str, Setting]
    scheme: Callable[[Rotation], Scheme]


def _yarn(r: Rotation) -> YaRN:
    given = r.given
    factor = given["factor"] or r.longest / r.original
    fast, slow = given["beta_fast"] or 32, given["beta_slow"] or 1
    r.require("beta_fast", number(least=slow), fast)
    r.require("rope_theta", number(above=1), r.theta)
    magnitude, own, all_dims = given["attention_factor"], given["mscale"], given["mscale_all_dim"]
    if magnitude is None and own and all_dims:
        magnitude = yarn_attention_factor(factor, own) / yarn_attention_factor(factor, all_dims)
    return YaRN(
        factor, r.original, beta_fast=fast, beta_slow=slow, attention_factor=magnitude, truncate=given["truncate"],
        base=r.theta,
    )  # fmt: skip


def _llama3(r: Rotation) -> Llama3:
    low, high = r.given["low_freq_factor"], r.given["high_freq_factor"]
    r.require("high_freq_factor", number(above=low), high)
    return Llama3(r.given["factor"], low, high, r.original, base=r.theta)


def _longrope(r: Rotation) -> LongRoPE:
    given = r.given
    for name in ("short_factor", "long_factor"):
        expected = f"{r.head_dim // 2} numbers, one for each pair of a head's {r.head_dim} dims"
        r.require(name, Kind(expected, lambda x: len(x) == r.head_dim // 2), given[name])
    r.require(ORIGINAL, number(least=2), r.original)
    reach = r.longest if given["factor"] is None else given["factor"] * r.original
    return LongRoPE(
        given["short_factor"], given["long_factor"], r.original, reach, attention_factor=given["attention_factor"],
        base=r.theta,
    )  # fmt: skip


ROPE_TYPES = {
    "default": RopeType({}, lambda r: RoPE(r.theta)),
    "linear": RopeType(
        {"factor": Setting(FACTOR)},
        lambda r: LinearInterpolation(r.given["factor"], base=r.theta),
    ),
    "dynamic": RopeType(
        {"factor": Setting(number(least=1, most=1e9))},
        lambda r: DynamicNTK(r.given["factor"], r.longest, base=r.theta),
    ),
    "yarn": RopeType(
        {
            "factor": Setting(MAYBE),
            "attention_factor": Setting(MAYBE, None),
            "beta_fast": Setting(MAYBE, None),
            "beta_slow": Setting(MAYBE, None),
            "mscale": Setting(optional(number(least=0, most=1e9)), None),
            "mscale_all_dim": Setting(optional(number(least=0, most=1e9)), None),
            "truncate": Setting(FLAG, True),
        },
        _yarn,
    ),
    "llama3": RopeType(
        {
            "factor": Setting(FACTOR),
            "low_freq_factor": Setting(FACTOR),
            "high_freq_factor": Setting(FACTOR),
        },
        _llama3,
    ),
    "longrope": RopeType(
        {
            "short_factor": Setting(FACTORS),
            "long_factor": Setting(FACTORS),
            "factor": Setting(MAYBE, None),
            "attention_factor": Setting(MAYBE, None),
        },
        _longrope,
    ),
}


def section(settings: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """What `rope_scaling` says, else `rope_parameters`: the name and what it holds."""
    name = "rope_scaling" if settings["rope_scaling"] else "rope_parameters"
    rope = settings[name] or {}
    if any(isinstance(value, dict) for value in rope.values()):
        raise ArgumentError(message(name, "one flat object of settings", shown(rope)))
    return name, rope


def share(settings: Mapping[str, Any], default: float) -> float:
    """How much of a head turns, by settings that the `PARTIAL_KEYS` have passed."""
    name, rope = section(settings)
    own = SHARE.check(f"{name}.partial_rotary_factor", rope.get("partial_rotary_factor"))
    return float(own or settings["partial_rotary_factor"] or default)


def read_rope(
    settings: Mapping[str, Any], *, theta: float, longest: int, head_dim: int, partial: bool = False
) -> Scheme:
    """The scheme of settings that the `KEYS` have passed. `theta`: the family's own, where none is given. `partial`:
    `head_dim` is what turns of a head, by `share`."""
    name, rope = section(settings)
    if partial:
        rope = without_share(rope)
    return _scheme(
        rope, name + ".", theta=settings["rope_theta"] or theta, original=settings[ORIGINAL], longest=longest,
        head_dim=head_dim,
    )  # fmt: skip


def without_share(rope: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in rope.items() if name != "partial_rotary_factor"}


def by_kind(
    settings: Mapping[str, Any], thetas: Mapping[str, float], *, longest: int, head_dim: int
) -> dict[str, Scheme]:
    """The schemes of families whose kinds of layers turn differently: `rope_parameters` has an object for each kind,
    and `rope_scaling`, as it was called, is that of the first kind. `thetas`: the bases where those are silent."""
    first, nested = next(iter(thetas)), settings["rope_parameters"] or {}
    flat = [name for name in nested if name not in thetas]
    if flat:
        expected = f"an object of settings for each of {', '.join(thetas)}"
        raise ArgumentError(message("rope_parameters", expected, shown(flat[0])))
    schemes: dict[str, Scheme] = {}
    for kind, theta in thetas.items():
        where = f"rope_parameters.{kind}"
        rope = optional(OBJECT).check(where, nested.get(kind)) or {}
        if kind == first and settings["rope_scaling"]:
            where, rope = "rope_scaling", rope | settings["rope_scaling"]
        # transformers looks for this one beside the kinds.
        one_of(True).check(f"{where}.truncate", rope.get("truncate", True))
        schemes[kind] = _scheme(rope, where + ".", theta=theta, original=None, longest=longest, head_dim=head_dim)
    return schemes


def _scheme(
    rope: Mapping[str, Any], where: str, *, theta: float, original: int | None, longest: int, head_dim: int
) -> Scheme:
    kind = _rope_type(rope, where)
    common = read(COMMON, rope, where)
    given = read(kind.keys, rope, where)
    return kind.scheme(Rotation(
        given, where,
        theta=float(common["rope_theta"] or theta),
        longest=longest,
        original=original or common[ORIGINAL] or longest,
        head_dim=head_dim,
    ))  # fmt: skip


def _rope_type(rope: Mapping[str, Any], where: str) -> RopeType:
    """`rope_type`, or `type` as it was called."""
    keys = {name: Setting(optional(TEXT), None) for name in ("rope_type", "type")}
    named = read(keys, rope, where)
    for name, kind in named.items():
        if kind is not None:
            return ROPE_TYPES[one_of(*ROPE_TYPES).check(where + name, kind)]
    return ROPE_TYPES["default"]


# ------------------------------------------------------------------------------------------------------------- writing


def written(scheme: Scheme) -> dict[str, Any] | None:
    """The settings that say this scheme, for readers of both ages; None where none do."""
    kind = _kind_of(scheme)
    if kind is None:
        return None
    theta = getattr(scheme, "base", None)
    return {"rope_theta": theta, "rope_parameters": {**kind, "rope_theta": theta}}


def _kind_of(scheme: Scheme) -> dict[str, Any] | None:
    names: tuple[str, ...]
    match scheme:
        case RoPE():
            return {"rope_type": "default"}
        case LinearInterpolation():
            return {"rope_type": "linear", "factor": scheme.factor}
        case DynamicNTK():
            return {"rope_type": "dynamic", "factor": scheme.factor}
        case YaRN():
            names = ("factor", "beta_fast", "beta_slow", "attention_factor", "truncate")
        case Llama3():
            names = ("factor", "low_freq_factor", "high_freq_factor")
        case LongRoPE():
            return {
                "rope_type": "longrope", "factor": scheme.max_length / scheme.original_length,
                "short_factor": list(scheme.short_factor), "long_factor": list(scheme.long_factor),
                "attention_factor": scheme.attention_factor, ORIGINAL: scheme.original_length,
            }  # fmt: skip
        case _:
            return None
    settings = {name: getattr(scheme, name) for name in names}
    return {"rope_type": type(scheme).__name__.lower(), **settings, ORIGINAL: scheme.original_length}
