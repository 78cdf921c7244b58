"""The picture in CONTRIBUTING.md is true: every import of the Python package points downwards."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "farspan"

# Modules and subpackages, the highest layer first; modules of one layer do not import each other.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("lab",),
    ("embedded",),
    ("model",),
    ("positions",),
    ("verify",),
    ("attention", "linear", "unembed"),
    ("ops", "reference"),
    ("parallel",),
    ("_backend",),
    ("_core", "_results", "testing", "tokenizer"),
    ("_errors",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imported(path: Path) -> Iterator[str]:
    """The part of the package that each import of a file names, imports inside functions included."""
    inside = path.relative_to(PACKAGE).parent.parts
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            above = ("farspan", *inside)[: len(inside) + 2 - node.level]
            names = [".".join((*above, *filter(None, [node.module]), alias.name)) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name.split(".")[1] for name in names if name.startswith("farspan."))


def part_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_module_has_a_layer() -> None:
    parts = {part_of(path) for path in PACKAGE.rglob("*.py")} - {"__init__"}
    assert parts | {"_core"} == RANK.keys()


def test_imports_point_downwards() -> None:
    upward = [
        f"{path.relative_to(PACKAGE)} imports {name}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if path != PACKAGE / "__init__.py"  # the facade names them all
        for name in imported(path)
        if name in RANK and name != part_of(path) and RANK[name] <= RANK[part_of(path)]
    ]
    assert not upward
