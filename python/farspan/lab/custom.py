"""Scheme classes of somebody's own, written `module:Class` or `module:Class(3, window=trained)`."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.positions import Scheme

FORM = "module:Class or module:Class(settings)"


def is_reference(name: str) -> bool:
    """Whether this is a class rather than a name of the table."""
    return ":" in name


def load(reference: str, known: Mapping[str, float]) -> Scheme:
    """The object. Settings are Python's literals; the names in `known` stand for their numbers.

    ArgumentError: not of that form, no such class, or a class that is no scheme or does not take these settings.
    """
    name, positional, named = _parts(reference, known)
    kind = find_class(reference, known)
    try:
        return kind(*positional, **named)
    except TypeError as error:
        raise ArgumentError(message("schemes", f"settings that {name} takes", f"{reference!r}: {error}")) from error


def find_class(reference: str, known: Mapping[str, float]) -> type[Scheme]:
    """The class alone. ArgumentError: as `load`, but for settings that the class refuses."""
    module, name = reference.strip().partition(":")[0], _parts(reference, known)[0]
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        expected = f"a class that can be imported, {FORM}"
        raise ArgumentError(message("schemes", expected, f"{reference!r}: {error}")) from error
    if not (isinstance(found, type) and issubclass(found, Scheme)):
        raise ArgumentError(message("schemes", "a subclass of farspan.positions.Scheme", f"{reference!r}, {found!r}"))
    return found


def _parts(reference: str, known: Mapping[str, float]) -> tuple[str, list[Any], dict[str, Any]]:
    """Class name, positional and named settings."""
    rest = reference.strip().partition(":")[2]
    try:
        call = ast.parse(rest, mode="eval").body
        if isinstance(call, ast.Name):
            return call.id, [], {}
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name):
            named = {str(keyword.arg): _value(keyword.value, known) for keyword in call.keywords}
            return call.func.id, [_value(setting, known) for setting in call.args], named
    except (SyntaxError, ValueError) as error:
        raise ArgumentError(message("schemes", FORM, f"{reference!r}: {error}")) from None
    raise ArgumentError(message("schemes", FORM, repr(reference)))


def _value(node: ast.expr, known: Mapping[str, float]) -> Any:
    if isinstance(node, ast.Name) and node.id in known:
        return known[node.id]
    try:
        return ast.literal_eval(node)
    except ValueError:
        names = ", ".join(known)
        raise ValueError(f"{ast.unparse(node)} is neither a number or text nor one of {names}") from None
