"""`--scheme`: a position scheme by name, in place of the one that a model comes with."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

from farspan._errors import ArgumentError
from farspan.lab import schemes

if TYPE_CHECKING:
    from farspan.model.transformer import Transformer


def look_here() -> None:
    """Classes of the user's own are looked for where the command runs, too."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def check_scheme(options: argparse.Namespace) -> None:
    """An unknown name is wrong usage."""
    check_schemes(options, [options.scheme] if options.scheme else [])


def check_schemes(options: argparse.Namespace, names: Iterable[str]) -> None:
    """An unknown name is wrong usage."""
    look_here()
    try:
        schemes.check(names)
    except ArgumentError as error:
        options.parser.error(str(error))


def with_scheme(model: Transformer, name: str | None, longest: int) -> Transformer:
    """The model with this scheme, whose settings follow from what it was made for and from how far it is to reach."""
    if name is None:
        return model
    from farspan.lab.reach import reach_of, trained_length_of

    reach = reach_of(model.config, max(trained_length_of(model.config), longest))
    (scheme,) = schemes.make([name], reach).values()
    return model if scheme is None else model.with_positions(scheme)
