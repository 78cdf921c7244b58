"""Every position scheme by its name: its class, what it is called and how it looks in pictures, what the command
line says of it, and the settings that follow from what a model was trained on and how far it is to reach.

`farspan.positions.SCHEMES` and the names of `farspan.measure` follow from `TABLE`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

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
from farspan.positions.learned_biases import T5, Kerple
from farspan.positions.randomised import RandomPositions
from farspan.positions.regions import ReRoPE, SelfExtend, Streaming
from farspan.positions.relative import Relative
from farspan.positions.scales import LogN, SSMax
from farspan.positions.scheme import Scheme


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
    """What there is to know of a scheme."""

    scheme: type[Scheme] | None
    name: str
    """for the command line and `farspan.measure`"""
    label: str
    """in a picture"""
    what: str
    """on the command line"""
    colour: str
    marker: str
    make: Callable[[Reach], Scheme | None] | None
    """The scheme for a reach; without it a scheme has settings that no reach tells, and cannot be asked for by name."""
    aliases: tuple[str, ...] = ()


def _self_extend(reach: Reach) -> Scheme:
    """Half the trained length stays as it was; the group is the smallest that folds the rest into the other half."""
    window = max(1, reach.trained // 2)

    def farthest(group: int) -> int:
        return (reach.longest - 1) // group + window - window // group

    group = 1
    while farthest(group) >= max(reach.trained, window + 1) and group < reach.longest:
        group += 1
    return SelfExtend(group, window, inner=RoPE(None))


def _streaming(reach: Reach) -> Scheme:
    sinks, window = min(4, reach.trained - 1), max(1, reach.trained - 4)
    return Streaming(sinks, window, inner=RoPE(None))


def _pool(reach: Reach) -> int:
    """How many positions random ones are drawn from."""
    return 2 * max(reach.longest, reach.trained)


# The colours mix Paul Tol's "bright" and "vibrant" sets for contrast under the common colour-vision deficiencies. The
# marker says the same as the colour, so that a picture can be read in grey too. A scheme has one look in all pictures.
TABLE: tuple[Entry, ...] = (
    Entry(RoPE, "rope", "RoPE", "plain RoPE of each layer's base", "#777777", "d", lambda r: RoPE(None)),
    Entry(
        LinearInterpolation, "linear", "linear interpolation", "positions divided by the factor", "#EE7733", "s",
        lambda r: LinearInterpolation(r.factor), aliases=("pi",),
    ),
    Entry(NTK, "ntk", "NTK-aware", "the base grown once", "#0077BB", "^", lambda r: NTK(r.factor)),
    Entry(
        DynamicNTK, "dynamic-ntk", "dynamic NTK", "the base grown with the sequence", "#33BBEE", "v",
        lambda r: DynamicNTK(r.factor, r.trained), aliases=("dynamic",),
    ),
    Entry(
        YaRN, "yarn", "YaRN", "NTK by parts, and sharper attention", "#CC3311", "D",
        lambda r: YaRN(r.factor, r.trained),
    ),
    Entry(
        Llama3, "llama3", "Llama 3", "long wavelengths divided by the factor", "#BBBBBB", "h",
        lambda r: Llama3(r.factor, 1.0, 4.0, r.trained),
    ),
    Entry(LongRoPE, "longrope", "LongRoPE", "factors that were searched for one model", "#332288", "8", None),
    Entry(PRoPE, "p-rope", "p-RoPE", "three quarters of the pairs, the fastest", "#AAAA00", "H", lambda r: PRoPE()),
    Entry(
        ClippedRoPE, "clipped-rope", "clipped RoPE", "without the pairs that training never saw turn once", "#EE3377",
        "1", lambda r: ClippedRoPE(r.trained),
    ),
    Entry(
        RandomPositions, "random-rope", "random positions, RoPE", "positions drawn from twice as many", "#000080", "2",
        lambda r: RandomPositions(_pool(r), inner=RoPE(None)),
    ),
    Entry(
        RandomPositions, "random-relative", "random positions, relative", "the same, and queries learn what to ask",
        "#3288BD", "$R$", lambda r: RandomPositions(_pool(r), inner=Relative()),
    ),
    Entry(
        SSMax, "random-rope-ssmax", "random positions, RoPE, SSMax", "random-rope with a learned scale of queries",
        "#4477AA", "$2$", lambda r: SSMax(r.trained, inner=RandomPositions(_pool(r), inner=RoPE(None))),
    ),
    Entry(
        SSMax, "random-relative-ssmax", "random positions, relative, SSMax", "random-relative with such a scale",
        "#228833", "$Q$", lambda r: SSMax(r.trained, inner=RandomPositions(_pool(r), inner=Relative())),
    ),
    Entry(
        LogN, "random-relative-logn", "random positions, relative, log-n", "random-relative with log-n",
        "#CCBB44", "$l$", lambda r: LogN(r.trained, inner=RandomPositions(_pool(r), inner=Relative())),
    ),
    Entry(
        SSMax, "nope-ssmax", "NoPE, SSMax", "no positions, queries scaled by a learned multiple of log n", "#BB5566",
        "$N$", lambda r: SSMax(r.trained, inner=NoPE()),
    ),
    Entry(
        LogN, "logn", "log-n", "queries scaled by the logarithm of their place", "#AA3377", "P",
        lambda r: LogN(r.trained, inner=RoPE(None)), aliases=("log-n",),
    ),
    Entry(
        SSMax, "ssmax", "SSMax", "queries scaled by a learned multiple of that logarithm", "#D95F02", "$S$",
        lambda r: SSMax(r.trained, inner=RoPE(None)),
    ),
    Entry(
        SSMax, "logn-learned", "log-n, learned", "the same with a learned offset", "#5E4FA2", "$L$",
        lambda r: SSMax(r.trained, inner=RoPE(None), offset=True),
    ),
    Entry(
        ReRoPE, "rerope", "ReRoPE", "one distance for all that is far", "#009988", "X",
        lambda r: ReRoPE(max(1, r.trained // 2), inner=RoPE(None)),
    ),
    Entry(
        SelfExtend, "self-extend", "Self-Extend", "far positions in groups", "#DDAA33", "p", _self_extend,
        aliases=("selfextend",),
    ),
    Entry(Streaming, "streaming", "Streaming", "four first keys and a window", "#6633AA", "*", _streaming),
    Entry(ALiBi, "alibi", "ALiBi", "a bias that falls with the distance", "#117733", "<", lambda r: ALiBi()),
    Entry(
        HardALiBi, "hard-alibi", "Hard-ALiBi", "half of the heads see 1, 2, 3, ... tokens", "#8DA600", "3",
        lambda r: HardALiBi(),
    ),
    Entry(
        Sandwich, "sandwich", "Sandwich", "a bias that falls with the logarithm of the distance", "#805D00", "4",
        lambda r: Sandwich(),
    ),
    Entry(
        Relative, "relative", "relative", "Transformer-XL's: what queries learn to ask of distances", "#9E0142", "$r$",
        lambda r: Relative(),
    ),
    Entry(T5, "t5", "T5 bias", "a learned bias for each range of distances", "#1B9E77", "$T$", lambda r: T5()),
    Entry(
        Kerple, "kerple", "KERPLE", "a bias that falls with the logarithm of the distance, learned", "#7570B3", "$K$",
        lambda r: Kerple(), aliases=("kerple-log",),
    ),
    Entry(
        Kerple, "kerple-power", "KERPLE, power", "a bias that falls with a power of the distance, learned", "#A6761D",
        "$k$", lambda r: Kerple(power=True),
    ),
    Entry(
        FIRE, "fire", "FIRE", "a learned curve over distances, measured by how far on the query stands", "#E7298A",
        "$f$", lambda r: FIRE(),
    ),
    Entry(
        Forgetting, "forgetting", "forget gates", "each token learns what to let through of those before it",
        "#66A61E", "$F$", lambda r: Forgetting(), aliases=("fox",),
    ),
    Entry(
        Coupled, "coupled", "coupled positions", "tokens stand where the task says, several at one place",
        "#006837", "$C$", lambda r: Coupled(inner=RoPE(None)),
    ),
    Entry(
        Coupled, "coupled-alibi", "coupled positions, ALiBi", "the same, and a bias that falls with the distance",
        "#2CA25F", "$c$", lambda r: Coupled(inner=ALiBi()),
    ),
    Entry(
        Coupled, "coupled-random", "coupled positions, random", "the same, the places drawn from more than there are",
        "#8C6BB1", "$D$", lambda r: Coupled(inner=RandomPositions(_pool(r), inner=RoPE(None))),
    ),
    Entry(
        SSMax, "coupled-random-ssmax", "coupled positions, random, SSMax", "coupled-random with a learned scale",
        "#BF812D", "$d$",
        lambda r: SSMax(r.trained, inner=Coupled(inner=RandomPositions(_pool(r), inner=RoPE(None)))),
    ),
    Entry(NoPE, "nope", "NoPE", "no positions at all", "#882255", ">", lambda r: NoPE(), aliases=("none",)),
)  # fmt: skip
