"""What follows from a list of arguments that is kept as a NamedTuple: the schema of a torch operator."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Annotated, Any, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

Array: TypeAlias = Any
"""An argument that is an array: NumPy's, torch's, or one of a device by its address."""

Size: TypeAlias = Annotated[int, "SymInt"]
"""An integer that may be a shape's, which torch can trace without knowing its value."""

_Arguments = TypeVar("_Arguments", bound=tuple[Any, ...])

_SCALARS = {bool: "bool", int: "int", float: "float", str: "str"}


def schema(arguments: Any) -> str:
    """The fields of a NamedTuple as a torch schema writes arguments, with their types and defaults."""
    defaults = {name: f"={value!r}" for name, value in arguments._field_defaults.items()}
    kinds = get_type_hints(arguments, include_extras=True)
    return ", ".join(f"{_kind(kinds[name])} {name}{defaults.get(name, '')}" for name in arguments._fields)


@cache
def array_fields(arguments: Any) -> tuple[str, ...]:
    """The fields that are arrays."""
    kinds = get_type_hints(arguments, include_extras=True)
    return tuple(name for name, kind in kinds.items() if _kind(kind).startswith("Tensor"))


def map_arrays(change: Callable[[str, Any], Any], arguments: _Arguments) -> _Arguments:
    """The same arguments with each array x that is given replaced by `change(name, x)`."""
    changed: list[Any] | None = None
    for i, name in _places_of_arrays(type(arguments)):
        x = arguments[i]
        if x is not None:
            changed = list(arguments) if changed is None else changed
            changed[i] = change(name, x)
    return arguments if changed is None else arguments._make(changed)  # type: ignore[attr-defined]


def given_arrays(arguments: tuple[Any, ...]) -> list[Any]:
    """The arrays among the arguments that are given."""
    return [x for i, _ in _places_of_arrays(type(arguments)) if (x := arguments[i]) is not None]


@cache
def _places_of_arrays(arguments: Any) -> tuple[tuple[int, str], ...]:
    return tuple((arguments._fields.index(name), name) for name in array_fields(arguments))


def _kind(hint: Any) -> str:
    if get_origin(hint) is Annotated:
        return str(hint.__metadata__[0])
    choices = get_args(hint)
    if not choices:
        return _SCALARS.get(hint, "Tensor")
    (kind,) = (choice for choice in choices if choice is not type(None))
    return _kind(kind) + "?"
