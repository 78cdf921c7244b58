"""Draw docs/visibility.png: which keys each query sees, found out from `farspan.attention` itself.

python tools/visibility_picture.py            write the picture
python tools/visibility_picture.py --out FILE write it elsewhere
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np

import farspan

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "visibility.png"

KEYS = 12
CASES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("causal=True", KEYS, {"causal": True}),
    ("causal=True, 4 queries", 4, {"causal": True}),
    ("causal=True, window=4", KEYS, {"causal": True, "window": 4}),
    ("... window=4, keep_first=2", KEYS, {"causal": True, "window": 4, "keep_first": 2}),
    ("window=(3, 1)", KEYS, {"window": (3, 1)}),
    ("causal=True, key_lengths=[9]", KEYS, {"causal": True, "key_lengths": np.array([9])}),
)


def visible(queries: int, hooks: dict[str, Any]) -> np.ndarray:
    """`[queries, KEYS]`: whether attention gives weight to the key, where all scores are equal."""
    query, key = np.zeros((1, 1, queries, 1), np.float32), np.zeros((1, 1, KEYS, 1), np.float32)
    weights = farspan.attention(query, key, np.eye(KEYS, dtype=np.float32)[None, None], **hooks)
    return weights[0, 0] > 0


def draw(path: Path) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.4, 6.2), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (title, queries, hooks) in zip(figure.subplots(2, 3).flat, CASES, strict=True):
        edges_x, edges_y = np.arange(KEYS + 1) - 0.5, np.arange(queries + 1) - 0.5
        seen = visible(queries, hooks)
        axes.pcolormesh(edges_x, edges_y, seen, cmap=ListedColormap(["#EEEEEE", "#0077BB"]), edgecolor="white", vmin=0,
                        vmax=1)  # fmt: skip
        axes.set_title(title, loc="left", fontsize=10, family="monospace")
        axes.set_xlabel("key", fontsize=9)
        axes.set_ylabel("query", fontsize=9)
        axes.set_xticks(range(0, KEYS, 2))
        axes.set_yticks(range(0, queries, 2))
        axes.tick_params(labelsize=8)
        axes.set_aspect("equal")
        axes.invert_yaxis()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PICTURE)
    draw(parser.parse_args().out)


if __name__ == "__main__":
    main()
