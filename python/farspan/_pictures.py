"""What all pictures share: matplotlib, where it is installed, without a display and without pyplot's global state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
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
        # Two runs with the same numbers give the same files.
        undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        with replaced(Path(path)) as beside:
            drawn.savefig(beside, metadata=undated)


def plain_axes(axes: Any) -> None:
    """Lines to read heights by, and no frame."""
    axes.grid(axis="y", color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
