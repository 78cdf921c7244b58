"""Results that are kept in a folder, a file each with the facts that it depends on, so that what is finished is not
repeated.

Each file is replaced as a whole: a kill or a loss of power leaves a result or none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from farspan._errors import Error, message
from farspan._files import read_json, remove_unfinished, require_same, write_json


def written(name: str) -> str:
    """A name of a scheme as a part of a file's."""
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)


def require_resumed(out: str | os.PathLike[str], held: Iterable[Path], what: str, *, resume: bool) -> None:
    """Error: a folder holds one of these files, which are of such a thing, and it is not to be gone on with."""
    if not resume and any(path.exists() for path in held):
        raise Error(
            message("out", f"a folder without {what}, or resume=True (--resume) to go on with the one there", out)
        )


class Kept:
    """Where results are kept."""

    def __init__(self, folder: Path, facts_name: str) -> None:
        """`facts_name`: what a result calls the facts that it depends on."""
        self.folder, self._facts_name = folder, facts_name

    def place(self, name: str, ending: str = "") -> Path:
        """Where a file of this name is."""
        return self.folder / f"{name}{ending}"

    def result(self, name: str, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was found under a name, None where it is not over. Error: it was made with other facts, or it is
        no result."""
        path = self.place(name, ".json")
        remove_unfinished(path)
        if not path.exists():
            return None
        found = read_json(path)
        before = found.get(self._facts_name) if isinstance(found, dict) else None
        if not isinstance(before, dict):
            raise Error(message(str(path), f"a result with its facts as {self._facts_name!r}", "another JSON file"))
        require_same(facts, before, f"{path} was made with")
        return dict(found)

    def keep(self, name: str, result: Mapping[str, Any]) -> None:
        """What was found under a name, its facts among it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.place(name, ".json"), result)
