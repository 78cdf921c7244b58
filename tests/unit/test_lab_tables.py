"""Tables: columns that stand below each other, cells without a number, and CSV."""

from __future__ import annotations

from farspan.lab.tables import as_csv, in_columns, number, percent


def test_columns_are_as_wide_as_the_longest_name_or_title_needs() -> None:
    lines = in_columns(
        "right, %", [8, 16], {"rope": ["1.0", "-"], "a scheme with a long name": ["0.5", "100.0"]}
    ).split("\n")
    assert [line.split()[-2:] for line in lines] == [["8", "16"], ["1.0", "-"], ["0.5", "100.0"]]
    assert {len(line) for line in lines} == {len("a scheme with a long name") + 2 + 2 * 8}
    title = "a title that is longer than any name"
    assert in_columns(title, [8], {"rope": ["1.0"]}).split("\n")[1].index("1.0") == len(title) + 2 + 8 - 3
    assert in_columns("loss", [8], {}) == f"{'loss':<16}{8:>8}"


def test_cells() -> None:
    assert [number(1.25, 1), number(None, 1), percent(0.125, 1), percent(1.0), percent(None)] == [
        "1.2", "-", "12.5", "100", "-"
    ]  # fmt: skip


def test_csv_has_the_columns_of_its_rows_or_those_that_are_named() -> None:
    rows = [{"scheme": "rope, scaled", "length": 8}, {"scheme": "alibi", "length": None}]
    assert as_csv(rows) == 'scheme,length\n"rope, scaled",8\nalibi,\n'
    assert as_csv([], ("scheme", "length")) == "scheme,length\n"
