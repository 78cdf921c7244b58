"""Draw docs/positions.png: what each position scheme does, read from the package's own schemes.

python tools/positions_picture.py            write the picture
python tools/positions_picture.py --out FILE write it elsewhere
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from farspan import positions
from farspan.positions import Scheme, Span

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "positions.png"

TRAINED, READ, DIM, HEADS = 256, 1024, 64, 8
SINKS = 4
FACTOR = READ / TRAINED
LONG_FACTORS = tuple(np.linspace(1, FACTOR, DIM // 2).tolist())

SEEN = {
    "RoPE": positions.RoPE(),
    "SelfExtend(8, 128)": positions.SelfExtend(8, 128),
    "ReRoPE(128)": positions.ReRoPE(128),
    f"Streaming({SINKS}, {TRAINED - SINKS})": positions.Streaming(SINKS, TRAINED - SINKS),
    f"RandomPositions({2 * READ})": positions.RandomPositions(2 * READ),
}
STREAMING = 3
SLOWED = {
    "RoPE": positions.RoPE(),
    f"LinearInterpolation({FACTOR:g})": positions.LinearInterpolation(FACTOR),
    f"NTK({FACTOR:g})": positions.NTK(FACTOR),
    f"DynamicNTK(2, {TRAINED})": positions.DynamicNTK(2.0, TRAINED),
    f"YaRN({FACTOR:g}, {TRAINED})": positions.YaRN(FACTOR, TRAINED),
    f"Llama3({FACTOR:g}, 1, 4, {TRAINED})": positions.Llama3(FACTOR, 1, 4, TRAINED),
    "LongRoPE, factors 1 .. 4": positions.LongRoPE((1.0,) * (DIM // 2), LONG_FACTORS, TRAINED, READ),
    "PRoPE(0.75): slower ones not at all": positions.PRoPE(0.75),
    f"ClippedRoPE({TRAINED}): likewise": positions.ClippedRoPE(TRAINED),
}
BIASES = {
    "ALiBi": positions.ALiBi(),
    "Sandwich": positions.Sandwich(),
    "Hard-ALiBi": positions.HardALiBi(),
}
OTHERS = (*BIASES.values(), positions.NoPE(), positions.LogN(TRAINED))
COLOURS = ("#222222", "#0077BB", "#CC3311", "#009988", "#EE7733", "#AA3377", "#DDAA33", "#33BBEE", "#882255")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)), "-", "--")


def seen_distance(scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """For the last query of READ tokens: the true distance of each key, and the one it is rotated by, NaN if hidden."""
    hooks = scheme.hooks(Span(time=1, lengths=(READ,), heads=HEADS, head_dim=DIM))
    key = np.arange(READ)
    distance = READ - 1 - key
    rotary = hooks["rotary"]
    seen = distance.astype(float)
    if "key_positions" in hooks:
        seen = hooks["query_positions"][-1] - hooks["key_positions"].astype(float)
    if rotary.border is not None:
        far = float(np.ravel(rotary.far_query_positions)[0]) - np.asarray(rotary.far_key_positions, float)
        seen = np.where(distance >= rotary.border, far, seen)
    if "window" in hooks:
        seen[(distance >= hooks["window"]) & (key >= hooks["keep_first"])] = np.nan
    return distance, seen


def slow_down(scheme: Scheme) -> tuple[np.ndarray, np.ndarray]:
    """For each pair of dimensions: the plain wavelength in tokens, and how many times slower the scheme turns it."""
    span = Span(time=1, lengths=(READ,), heads=HEADS, head_dim=DIM)
    plain, own = (s.hooks(span)["rotary"].inv_freq.astype(float) for s in (positions.RoPE(), scheme))
    return 2 * np.pi / plain, np.where(own > 0, plain / np.where(own > 0, own, 1), np.nan)


def draw(path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 7.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    (seen, slowed), (bias, scale) = figure.subplots(2, 2)
    _draw_seen(seen)
    _draw_slowed(slowed)
    _draw_bias(bias)
    _draw_scale(scale)
    for axes in (seen, slowed, bias, scale):
        axes.legend(fontsize=8, frameon=False)
        axes.grid(color="#E4E4E4", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    figure.savefig(path)


def _lines(axes: Any, lines: dict[str, tuple[np.ndarray, np.ndarray]], **style: Any) -> None:
    for (name, (x, y)), colour, dashes in zip(lines.items(), COLOURS, DASHES, strict=False):
        axes.plot(x, y, label=name, color=colour, linestyle=dashes, linewidth=1.8, **style)


def _title(axes: Any, title: str, x: str, y: str) -> None:
    axes.set_title(title, loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)
    axes.tick_params(labelsize=8)


def _trained(axes: Any, at: float, horizontal: bool = False) -> None:
    (axes.axhline if horizontal else axes.axvline)(at, color="#999999", linestyle=(0, (2, 3)), linewidth=1, zorder=1)


def _draw_seen(axes: Any) -> None:
    _lines(axes, {name: seen_distance(scheme) for name, scheme in SEEN.items()})
    colour, (distance, seen) = COLOURS[STREAMING], seen_distance(list(SEEN.values())[STREAMING])
    axes.plot(distance[:SINKS], seen[:SINKS], ".", color=colour, markersize=6)
    _trained(axes, TRAINED, horizontal=True)
    _title(axes, "Regions: far keys look nearer", "true distance of the key", "distance it is rotated by")
    small = {"fontsize": 7.5, "textcoords": "offset points", "ha": "right"}
    what = f"Streaming's {SINKS} sinks; it hides the keys between"
    axes.annotate(what, (READ, seen[0]), (4, 17), color=colour, **small)
    axes.annotate("longest distance in training", (READ, TRAINED), (4, 4), color="#666666", **small)


def _draw_slowed(axes: Any) -> None:
    _lines(axes, {name: slow_down(scheme) for name, scheme in SLOWED.items()})
    _trained(axes, TRAINED)
    axes.set_xscale("log")
    axes.set_xlim(left=0.03)  # room for the legend
    axes.set_xticks([10, 100, 1000, 10_000])
    axes.minorticks_off()
    _title(
        axes, "Frequencies: slow pairs are slowed further", "wavelength of the pair, tokens", "times slower than RoPE"
    )


def _draw_bias(axes: Any) -> None:
    span, lowest = Span(time=1, lengths=(READ,), heads=HEADS, head_dim=DIM), -40
    lines = {}
    for (name, scheme), heads in zip(BIASES.items(), ((0, 4), (0, 7), (3,)), strict=True):
        table = scheme.hooks(span)["distance_bias"].table
        distance = np.arange(READ).clip(max=table.shape[1] - 1)
        for h in heads:
            lines[f"{name}, head {h + 1} of {HEADS}"] = np.arange(READ), table[h, distance].clip(min=lowest)
    _lines(axes, lines | {"NoPE: nothing at all": (np.arange(READ), np.zeros(READ))})
    axes.set_ylim(lowest, 2)
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(0, READ)
    _title(axes, "Biases: far keys weigh less", "distance of the key", "added to the score")


def _draw_scale(axes: Any) -> None:
    hooks = OTHERS[-1].hooks(Span(time=READ, lengths=(READ,), heads=HEADS, head_dim=DIM))
    lines = {"RoPE": (np.arange(READ), np.ones(READ)), f"LogN({TRAINED})": (np.arange(READ), hooks["query_scale"])}
    _lines(axes, lines)
    _trained(axes, TRAINED)
    _title(axes, "Scales: late queries are sharper", "order of the query", "factor of its scores")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PICTURE)
    draw(parser.parse_args().out)


if __name__ == "__main__":
    main()
