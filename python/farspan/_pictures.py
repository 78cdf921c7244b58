"""What all pictures share: matplotlib, where it is installed, without a display and without pyplot's global state."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from farspan._errors import missing_package
from farspan._files import replaced

GREY = "#555555"


def require_matplotlib() -> None:
    """BackendError: no picture can be drawn here. Whoever computes for minutes asks first."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise missing_package("drawing a picture", "matplotlib") from None


@contextmanager
def figure(path: str | os.PathLike[str], width: float, height: float) -> Iterator[Any]:
    """A figure of so many inches to draw into. Afterwards it is at `path`, all of it, as PNG, SVG or PDF by the
    ending.

    BackendError: matplotlib is not installed.
    """
    require_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.hashsalt": "farspan", "svg.fonttype": "none", "pdf.fonttype": 42}):
        drawn = Figure(figsize=(width, height), dpi=160, layout="constrained")
        FigureCanvasAgg(drawn)
        yield drawn
        kind = Path(path).suffix.lstrip(".")
        if kind != "svg":  # whose texts are drawn by who shows it, with all fonts that are there
            _make_drawable(drawn)
        # Two runs with the same numbers give the same files.
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with replaced(Path(path)) as beside:
            drawn.savefig(beside, metadata=undated)


def drawable(text: str, family: str | Sequence[str]) -> list[str]:
    """The characters of a text, by their numbers (U+4F60) where no font of the family has a picture of them."""
    glyphs = _glyphs((family,) if isinstance(family, str) else tuple(family))
    return [x if ord(x) in glyphs or x == "\n" else f"U+{ord(x):04X}" for x in text]


@cache
def _glyphs(family: tuple[str, ...]) -> frozenset[int]:
    """What the fonts that matplotlib chooses for a family have pictures of."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    files = {findfont(FontProperties(family=[name])) for name in family}
    return frozenset(number for file in files for number in get_font(file).get_charmap())


def _make_drawable(drawn: Any) -> None:
    """Of all texts but the labels of ticks, which are made anew when they are drawn: `drawable` is their caller's."""
    from matplotlib.text import Text

    for label in drawn.findobj(Text):
        label.set_text("".join(drawable(label.get_text(), label.get_fontfamily())))


def plain_axes(axes: Any) -> None:
    """Lines to read heights by, and no frame."""
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
