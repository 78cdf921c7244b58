"""Position schemes by name, with defaults that follow from what a model was trained on and how far it is to reach."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from farspan import positions
from farspan._errors import ArgumentError, message
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


def _self_extend(reach: Reach) -> Scheme:
    """Half the trained length stays as it was; the group is the smallest that folds the rest into the other half."""
    window = max(1, reach.trained // 2)

    def farthest(group: int) -> int:
        return (reach.longest - 1) // group + window - window // group

    group = 1
    while farthest(group) >= max(reach.trained, window + 1) and group < reach.longest:
        group += 1
    return positions.SelfExtend(group, window, inner=positions.RoPE(reach.base))


_SCHEMES: dict[str, tuple[str, Callable[[Reach], Scheme | None]]] = {
    "own": ("as the model says", lambda r: None),
    "rope": ("RoPE", lambda r: positions.RoPE(r.base)),
    "linear": ("linear interpolation", lambda r: positions.LinearInterpolation(r.factor)),
    "ntk": ("NTK-aware", lambda r: positions.NTK(r.factor)),
    "dynamic-ntk": ("dynamic NTK", lambda r: positions.DynamicNTK(r.factor, r.trained)),
    "yarn": ("YaRN", lambda r: positions.YaRN(r.factor, r.trained)),
    "llama3": ("Llama 3", lambda r: positions.Llama3(r.factor, 1.0, 4.0, r.trained)),
    "logn": ("log-n", lambda r: positions.LogN(r.trained, inner=positions.RoPE(r.base))),
    "rerope": ("ReRoPE", lambda r: positions.ReRoPE(max(1, r.trained // 2), inner=positions.RoPE(r.base))),
    "self-extend": ("Self-Extend", _self_extend),
    "streaming": (
        "Streaming",
        lambda r: positions.Streaming(min(4, r.trained - 1), max(1, r.trained - 4), inner=positions.RoPE(r.base)),
    ),
    "alibi": ("ALiBi", lambda r: positions.ALiBi()),
    "nope": ("NoPE", lambda r: positions.NoPE()),
}
_ALIASES = {"pi": "linear", "dynamic": "dynamic-ntk", "log-n": "logn", "selfextend": "self-extend"}

NAMES = tuple(_SCHEMES)
"""Every name that `make` knows."""

COMPARED = ("rope", "linear", "ntk", "dynamic-ntk", "yarn", "logn", "rerope", "self-extend", "streaming")
"""What `farspan measure` and `farspan demo` compare unless told otherwise: what can help a model trained with RoPE."""


def canonical(name: str) -> str:
    """The name under which results are kept. ArgumentError: no such scheme."""
    wanted = name.strip().lower().replace("_", "-")
    wanted = _ALIASES.get(wanted, wanted)
    if wanted not in _SCHEMES:
        raise ArgumentError(message("schemes", f"names among {', '.join(NAMES)}", repr(name)))
    return wanted


def label(name: str) -> str:
    """How a picture's legend calls the scheme."""
    return _SCHEMES[name][0]


def make(names: Iterable[str], reach: Reach) -> dict[str, Scheme | None]:
    """The schemes of these names, in this order, each named once; None for "own", the scheme the model comes with."""
    return {name: _SCHEMES[name][1](reach) for name in dict.fromkeys(map(canonical, names))}
