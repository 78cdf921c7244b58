"""A measurement piece by piece, so that one that was stopped goes on: what is found of a scheme at a length is a file
in the folder of results as soon as it is found. The files go when all is over.

    unfinished/loss-NAME-LENGTH.json    and needles-, copies- and attention-NAME-LENGTH.json
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan.lab.kept import Kept, require_resumed, written
from farspan.model.digests import digest, digest_of_model

if TYPE_CHECKING:
    from farspan.lab.subject import LoadedModel, Text

UNFINISHED = "unfinished"

Rows = list[list[float]]
"""What a piece holds."""
Find = Callable[[], Rows]
Piece = Callable[[str, Mapping[str, Any], Find], Rows]
"""From the name of a piece, the facts that it depends on, and a function that finds it, to what it holds."""


def found_anew(name: str, facts: Mapping[str, Any], find: Find) -> Rows:
    """A measurement that keeps nothing."""
    del name, facts
    return find()


def piece_name(what: str, scheme: str, length: int) -> str:
    """What a piece is called."""
    return f"{what}-{written(scheme)}-{length}"


def require_folder(out: str | os.PathLike[str], *, resume: bool) -> None:
    """Error: `out` holds a measurement that was stopped, and is not to be resumed."""
    held = (Path(out) / UNFINISHED).glob("[!.]*")
    require_resumed(out, held, "an unfinished measurement", resume=resume)


class Pieces:
    """What is found by now, and what was found by a measurement that goes on here."""

    def __init__(self, out: str | os.PathLike[str], facts: Mapping[str, Any], *, resume: bool) -> None:
        """`facts`: what all pieces depend on. Error: `out` holds a measurement that was stopped, and is not to be
        resumed."""
        require_folder(out, resume=resume)
        self._kept, self._facts = Kept(Path(out) / UNFINISHED, "facts"), dict(facts)
        self.grown = False
        """Whether anything new is kept."""

    @classmethod
    def of(cls, out: str | os.PathLike[str], loaded: LoadedModel, text: Text, *, resume: bool) -> Pieces:
        """Those of a model and a text. Error: `out` holds a measurement that was stopped, and is not to be resumed."""
        model = loaded.model
        facts = {
            "model": f"{loaded.name}, sha256 {digest_of_model(model)[:16]}", "config": model.config.to_dict(),
            "device": model.device.type, "text": f"{text.name}, sha256 {digest(text.tokens)[:16]}",
        }  # fmt: skip
        return cls(out, facts, resume=resume)

    def __call__(self, name: str, facts: Mapping[str, Any], find: Find) -> Rows:
        """What a piece holds: what is kept of it, or else what is found and then kept. Error: what is kept was found
        with other facts."""
        facts = {**self._facts, **facts}
        kept = self._kept.result(name, facts)
        if kept is not None:
            return [[_number(x) for x in row] for row in kept["found"]]
        found = find()
        self._kept.keep(name, {"facts": facts, "found": found})
        self.grown = True
        return found

    def remove(self) -> None:
        """All is over, and nobody goes on from here."""
        shutil.rmtree(self._kept.folder, ignore_errors=True)


def _number(x: float | str | None) -> float:
    """A number as it was before it was JSON, which has neither NaN nor infinity."""
    return math.nan if x is None else float(x)
