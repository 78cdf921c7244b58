"""What follows from a list of arguments that is kept as a NamedTuple: the schema of a torch operator."""

from __future__ import annotations

from typing import Any, TypeAlias, get_args, get_type_hints

Array: TypeAlias = Any
"""An argument that is an array: NumPy's, torch's, or one of a device by its address."""

_SCALARS = {bool: "bool", int: "int", float: "float", str: "str"}


def schema(arguments: Any) -> str:
    """The fields of a NamedTuple as a torch schema writes arguments, with their types and defaults."""
    defaults = arguments._field_defaults
    kinds = get_type_hints(arguments)
    return ", ".join(f"{_kind(kinds[name])} {name}={defaults[name]!r}" for name in arguments._fields)


def array_fields(arguments: Any) -> tuple[str, ...]:
    """The fields that are arrays."""
    return tuple(name for name, kind in get_type_hints(arguments).items() if _kind(kind).startswith("Tensor"))


def _kind(hint: Any) -> str:
    choices = get_args(hint)
    if not choices:
        return _SCALARS.get(hint, "Tensor")
    (kind,) = (choice for choice in choices if choice is not type(None))
    return _kind(kind) + "?"
