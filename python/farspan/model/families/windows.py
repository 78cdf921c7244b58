"""Sliding windows by layer, as several families write them: one `sliding_window`, alone or beside `layer_types`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.model.kinds import Setting, count, list_of, one_of, optional

WINDOW = count(2**53)
FULL, SLIDING = "full_attention", "sliding_attention"

LAYER_TYPES = {"layer_types": Setting(optional(list_of(one_of(FULL, SLIDING))), None)}


def by_layer(kinds: Sequence[str], window: int | None, layers: int, silent: str) -> tuple[int | None, ...]:
    """How many keys each layer sees. `silent` names the settings that would say a window."""
    if len(kinds) != layers:
        raise ArgumentError(message("layer_types", f"{layers} entries, one for each layer", f"{len(kinds)} entries"))
    if window is None and SLIDING in kinds:
        raise ArgumentError(message(silent, f"a window for the layers that layer_types calls {SLIDING}", "none"))
    return tuple(window if kind == SLIDING else None for kind in kinds)


def settings_of(windows: Sequence[int | None]) -> dict[str, Any] | None:
    """`layer_types` and `sliding_window` that say these windows; None: there are different ones."""
    widths = {window for window in windows if window is not None}
    if len(widths) > 1:
        return None
    return {
        "sliding_window": next(iter(widths), None),
        "layer_types": [FULL if window is None else SLIDING for window in windows],
    }


def setting_of_one(windows: Sequence[int | None]) -> dict[str, Any] | None:
    """`sliding_window` alone, where it says the same of all layers; None: they differ."""
    return {"sliding_window": windows[0]} if len(set(windows)) == 1 else None
