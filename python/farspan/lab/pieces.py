"""A measurement piece by piece, so that one that was stopped goes on: what is found of a scheme at a length is a file
in the folder of results as soon as it is found. The files go when all is over.

    unfinished/loss-NAME-LENGTH.json    and needles-, copies- and attention-NAME-LENGTH.json
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import farspan
from farspan._errors import Error, message
from farspan.lab.kept import Kept, require_resumed, written
from farspan.model.digests import digest, digest_of_model

if TYPE_CHECKING:
    from farspan.lab.subject import LoadedModel, Text

UNFINISHED = "unfinished"
READABLE = 40
"""Letters of a scheme's name that a file's name has at most."""
FILES = re.compile(r"(\.[0-9]+\.)?((loss|needles|copies|attention)-.*-[0-9]+|copies-guessed)\.json")
"""What pieces are called, and what killed processes leave of them. A folder may hold other files."""

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
    """What a piece is called. Two schemes never have the same name, where a system takes no account of case either."""
    readable = written(scheme)[:READABLE]
    if readable != scheme or not readable.isascii() or readable != readable.lower():
        readable += "-" + hashlib.sha256(scheme.encode()).hexdigest()[:12]
    return f"{what}-{readable}-{length}"


def require_folder(out: str | os.PathLike[str], *, resume: bool) -> None:
    """Error: `out` holds a measurement that was stopped, and is not to be resumed."""
    held = (path for path in _files(Path(out) / UNFINISHED) if not path.name.startswith("."))
    require_resumed(out, held, "an unfinished measurement", resume=resume)


def facts_of_model(loaded: LoadedModel) -> dict[str, Any]:
    """What pieces depend on of a model. All of its weights are read for that."""
    model = loaded.model
    return {
        "model": f"{loaded.name}, sha256 {digest_of_model(model)[:16]}", "config": model.config.to_dict(),
        "device": model.device.type,
    }  # fmt: skip


class Pieces:
    """What is found by now, and what was found by a measurement that goes on here."""

    def __init__(self, out: str | os.PathLike[str], facts: Mapping[str, Any], *, resume: bool) -> None:
        """`facts`: what all pieces depend on, beside the version of farspan. Error: `out` holds a measurement that was
        stopped, and is not to be resumed."""
        require_folder(out, resume=resume)
        self._kept, self._facts = Kept(Path(out) / UNFINISHED, "facts"), {"farspan": farspan.__version__, **facts}
        self.grown = False
        """Whether anything new is kept."""

    @classmethod
    def of(cls, out: str | os.PathLike[str], model: Mapping[str, Any], text: Text, *, resume: bool) -> Pieces:
        """Those of a model, by its `facts_of_model`, and a text. Error: `out` holds a measurement that was stopped, and
        is not to be resumed."""
        return cls(out, {**model, "text": f"{text.name}, sha256 {digest(text.tokens)[:16]}"}, resume=resume)

    def __call__(self, name: str, facts: Mapping[str, Any], find: Find) -> Rows:
        """What a piece holds: what is kept of it, or else what is found and then kept. Error: what is kept was found
        with other facts, or is no piece."""
        facts = {**self._facts, **facts}
        kept = self._kept.result(name, facts)
        if kept is not None:
            return self._rows(name, kept)
        found = find()
        self._kept.keep(name, {"facts": facts, "found": found})
        self.grown = True
        return found

    def remove(self) -> None:
        """All is over, and nobody goes on from here. Files of others stay, and their folder with them."""
        for path in _files(self._kept.folder):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # it holds other files, or is not there
            self._kept.folder.rmdir()

    def _rows(self, name: str, kept: Mapping[str, Any]) -> Rows:
        """Error: the file has no rows of numbers."""
        try:
            return [[_number(x) for x in row] for row in kept["found"]]
        except (KeyError, TypeError, ValueError):
            path = self._kept.place(name, ".json")
            raise Error(message(str(path), "a piece with rows of numbers as 'found'", "another JSON file")) from None


def _files(folder: Path) -> Iterator[Path]:
    """Those of pieces."""
    return (path for path in folder.glob("*") if FILES.fullmatch(path.name))


def _number(x: float | str | None) -> float:
    """A number as it was before it was JSON, which has neither NaN nor infinity."""
    return math.nan if x is None else float(x)
