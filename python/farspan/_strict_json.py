"""JSON that every reader accepts: the standard has neither NaN nor infinity, Python's writer has both."""

from __future__ import annotations

import json
import math
from typing import Any


def dumps(document: Any, indent: int | None = None) -> str:
    """One JSON document: null for NaN, "inf" and "-inf" by their names."""
    return json.dumps(_writable(document), indent=indent, allow_nan=False)


def _writable(x: Any) -> Any:
    if isinstance(x, dict):
        return {name: _writable(value) for name, value in x.items()}
    if isinstance(x, (list, tuple)):
        return [_writable(value) for value in x]
    if isinstance(x, float) and not math.isfinite(x):
        return None if math.isnan(x) else str(x)
    return x
