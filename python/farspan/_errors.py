"""The exceptions of farspan. Messages name the argument, what was expected and what was given."""

from __future__ import annotations


class Error(Exception):
    """Base class of everything farspan raises on purpose."""


class ArgumentError(Error, ValueError):
    """An argument has a value or a shape that the operation does not accept."""


class DtypeError(Error, TypeError):
    """An argument has a type or an element type that the operation does not accept."""


class BackendError(Error, RuntimeError):
    """The machine or the build, not the caller's data, stands in the way."""


class CheckpointError(Error, ValueError):
    """A model folder is damaged, incomplete or of an unknown kind."""


for _class in (Error, ArgumentError, DtypeError, BackendError, CheckpointError):
    _class.__module__ = "farspan"  # tracebacks show the public path


def message(argument: str, expected: str, given: object) -> str:
    """The one wording that every layer uses."""
    return f"{argument}: expected {expected}, given {given}"


def missing_package(what: str, package: str) -> BackendError:
    """The error of every part that needs a package that is not installed. The hint works from a clone and from a wheel
    file alike: farspan's extras have names only where farspan itself comes from an index."""
    return BackendError(message(what, f"the package {package} to be installed", f"none: pip install {package}"))
