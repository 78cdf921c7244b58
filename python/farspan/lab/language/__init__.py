"""Extrapolation on language: byte models trained on short windows of a text, tested on long ones.

    settings = Settings(schemes=("rope", "alibi"), train_length=64, test_lengths=(64, 128), steps=50)
    print(table(run(settings, train_ids, held_out_ids, "out/language")))

The recipes e5, e6 and e7 of `farspan extrapolate` are this on the command line, and
`farspan.lab.language_recipes` has them.
"""

from __future__ import annotations

from farspan.lab.language.report import draw, published_table, table, write
from farspan.lab.language.result import Language
from farspan.lab.language.settings import Settings
from farspan.lab.language.work import run

__all__ = ["Language", "Settings", "draw", "published_table", "run", "table", "write"]
