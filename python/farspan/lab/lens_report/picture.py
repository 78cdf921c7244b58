"""The picture of a lens: a grid of tokens and layers, coloured by how far a layer is from the last one."""

from __future__ import annotations

import itertools
import math
import os
from typing import Any

from farspan._pictures import GREY, drawable, figure

WIDE, BANDS = 40, 6
"""Tokens in a band, and bands in the picture: JSON and page have all."""
CELL = 5
"""Letters that fit a cell. A character that is written by its name takes more, and the letters are smaller then."""
FAMILY = "monospace"


def draw(document: dict[str, Any], path: str | os.PathLike[str]) -> None:
    """Writes the picture as PNG, SVG or PDF, by the ending of `path`. BackendError: matplotlib is not installed."""
    time, layers = len(document["tokens"]), document["layers"]
    shown = min(time, WIDE * BANDS)
    bands = [range(start, min(start + WIDE, shown)) for start in range(0, shown, WIDE)]
    wide = max(map(len, bands))
    largest = max((x for row in document["kl"] for x in row[:shown] if math.isfinite(x)), default=0) or 1.0
    with figure(path, max(7.0, 2.2 + 0.34 * wide), 1.2 + len(bands) * (0.8 + 0.24 * len(layers))) as drawn:
        panels = drawn.subplots(len(bands), 1, squeeze=False)[:, 0]
        for axes, band in zip(panels, bands, strict=True):
            grid = [[row[at] for at in band] for row in document["kl"]]
            image = axes.imshow(grid, origin="lower", aspect="auto", cmap="viridis_r", vmin=0, vmax=largest)
            axes.set_xlim(-0.5, wide - 0.5)
            read = [_short(document["texts"][str(document["tokens"][at])]) for at in band]
            axes.set_xticks(range(len(band)), read, family=FAMILY, parse_math=False)
            for label, text in zip(axes.get_xticklabels(), read, strict=True):
                label.set_fontsize(_size(7, text))
            axes.set_yticks(range(len(layers)), layers, fontsize=7)
            axes.tick_params(length=0)
            axes.set_ylabel("layer")
            for side in axes.spines.values():
                side.set_visible(False)
            if document["top_token"][0][0]:
                _write_likeliest(axes, document, band, largest)
        panels[-1].set_xlabel("token that was read; in each cell the likeliest next one", color=GREY)
        drawn.colorbar(image, ax=list(panels), label="KL of the final distribution to the layer's, nats")
        which = f"the first {shown} of {time} tokens" if shown < time else f"{time} tokens"
        drawn.suptitle(f"{document['lens']} lens of {document['model']}, {which}", fontsize=11, parse_math=False)


def _write_likeliest(axes: Any, document: dict[str, Any], band: range, largest: float) -> None:
    for row, kinds in enumerate(document["top_token"]):
        for column, at in enumerate(band):
            dark = document["kl"][row][at] > 0.5 * largest
            text = _short(document["texts"][str(kinds[at][0])])
            colour = "white" if dark else "black"
            axes.text(
                column, row, text, ha="center", va="center", fontsize=_size(6, text), family=FAMILY, color=colour,
                parse_math=False,
            )  # fmt: skip


def _short(text: str) -> str:
    """A token in a cell."""
    seen = list(map(_seen, text, drawable(text, FAMILY)))
    whole = "".join(seen)
    if len(whole) > CELL and len(seen) > 1:
        fitting = sum(end < CELL for end in itertools.accumulate(map(len, seen)))
        whole = "".join(seen[: max(1, fitting)]) + "\u2026"
    return whole


def _seen(character: str, drawn: str) -> str:
    """What cannot be seen, or cannot be drawn, by its name."""
    if character == " ":
        return "\u2423"
    return drawn if character.isprintable() else character.encode("unicode_escape").decode("ascii")


def _size(points: float, text: str) -> float:
    """Of letters, so that the text fits its cell."""
    return points * min(1.0, CELL / max(1, len(text)))
