"""Results as tables: in columns for a terminal, and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

LEAST = 16
"""How wide the first column is at least."""
BETWEEN = 2
"""So many blanks at least stand behind the first column."""
WIDTH = 8
"""How wide the other columns are."""


def in_columns(title: str, heads: Iterable[object], rows: Mapping[str, Sequence[str]]) -> str:
    """A head with the title, and below it a row for each name."""
    first = max(LEAST, *(len(text) + BETWEEN for text in (title, *rows)))
    lines = {title: list(map(str, heads)), **rows}
    return "\n".join(f"{name:<{first}}" + "".join(f"{cell:>{WIDTH}}" for cell in row) for name, row in lines.items())


def number(value: float | None, digits: int) -> str:
    """A cell; `-` where there is no number."""
    return "-" if value is None else f"{value:.{digits}f}"


def percent(share: float | None, digits: int = 0) -> str:
    """A share as a cell; `-` where there is none."""
    return number(None if share is None else 100 * share, digits)


def as_csv(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """The columns of all rows, or those of the first row where none are named."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]) if columns is None else columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
