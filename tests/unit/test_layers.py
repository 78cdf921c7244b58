"""The picture in CONTRIBUTING.md is true: imports point downwards, and no files import each other in a circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[2] / "python" / "farspan"

# Modules and subpackages, the highest layer first; modules of one layer do not import each other.
LAYERS = (
    ("__main__",),
    ("cli",),
    ("commands",),
    ("integrations", "lab"),
    ("training",),
    ("inside",),
    ("embedded", "loading"),
    ("model",),
    ("positions",),
    ("statistics", "verify"),
    ("attention", "linear", "loss", "unembed"),
    ("_compute",),
    ("ops", "reference"),
    ("_transforms",),
    ("_gradients",),
    ("parallel",),
    ("_backend",),
    ("tokenizer",),
    ("chat_template",),
    ("_pictures",),
    ("_files",),
    ("_core", "_results", "_strict_json", "testing"),
    ("_errors",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
COMPILED = "_core"


@cache
def modules() -> dict[str, Path]:
    """Every file of the package by its dotted name; a package is its `__init__.py`."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = ("farspan", *path.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(source: str, module: str, known: Mapping[str, object], *, is_package: bool = False) -> Iterator[str]:
    """The files that each import names, imports inside functions and for type checkers included."""
    above = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = above[: len(above) + 1 - node.level] if node.level else []
            of = ".".join([*base, *filter(None, [node.module])])
            names = [f"{of}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in known:  # a name inside a file is that file
                name = name.rpartition(".")[0]
            if name and not (name == "farspan" and isinstance(node, ast.Import)):
                yield name


def part_of(module: str) -> str:
    return module.split(".")[1]


@cache
def edges() -> dict[str, frozenset[str]]:
    known = {**modules(), f"farspan.{COMPILED}": None}
    return {
        module: frozenset(imports(path.read_text(), module, known, is_package=path.name == "__init__.py")) - {module}
        for module, path in modules().items()
    }


def circle(graph: Mapping[str, frozenset[str]]) -> list[str]:
    """The names along one circle, or nothing."""
    done: set[str] = set()

    def visit(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for next_name in sorted(graph.get(name, ())):
            found = visit(next_name, [*way, name])
            if found:
                return found
        done.add(name)
        return []

    return next(filter(None, (visit(name, []) for name in sorted(graph))), [])


def test_every_module_has_a_layer() -> None:
    parts = {part_of(module) for module in modules() if module != "farspan"}
    assert parts | {COMPILED} == RANK.keys()


def test_imports_point_downwards() -> None:
    upward = [
        f"{module} imports {name}"
        for module, names in edges().items()
        if module != "farspan"  # the facade names them all
        for name in sorted(names - {"farspan"})
        if part_of(name) != part_of(module) and RANK[part_of(name)] <= RANK[part_of(module)]
    ]
    assert not upward


def test_no_files_import_each_other_in_a_circle() -> None:
    """The facade is left out: files name the file that has what they need, and `farspan` imports on first use."""
    without_facade = {module: names - {"farspan"} for module, names in edges().items() if module != "farspan"}
    assert not circle(without_facade)


def test_a_circle_is_found() -> None:
    known = dict.fromkeys(("farspan", "farspan.a", "farspan.b", "farspan.b.c"))
    graph = {
        "farspan.a": frozenset(imports("def f():\n    from farspan.b.c import g", "farspan.a", known)),
        "farspan.b.c": frozenset(imports("if TYPE_CHECKING:\n    from .. import a", "farspan.b.c", known)),
    }
    assert circle(graph) == ["farspan.a", "farspan.b.c", "farspan.a"]
    assert not circle({"farspan.a": frozenset({"farspan.b"}), "farspan.b": frozenset()})
