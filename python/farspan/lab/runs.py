"""The folder of an extrapolation: a file for each model, so that what is finished is not repeated.

    extrapolate.json    what came out, when all is over
    runs/NAME.json      what was found of a model, with the facts that it depends on
    runs/NAME...        where its training stands, in a form that is the trainer's

Each file is replaced as a whole, so a kill loses no more than what came after the last checkpoint.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from farspan._errors import Error, message
from farspan._files import read_json, remove_unfinished, require_same, write_json

RUNS, RESULT = "runs", "extrapolate.json"


def written(name: str) -> str:
    """A name of a scheme as a part of a file's."""
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name)


class Runs:
    """Where results are kept."""

    def __init__(self, out: str | os.PathLike[str], *, resume: bool, facts: str) -> None:
        """`facts`: what a result calls those that it depends on. Error: the folder holds an extrapolation and is not to
        be resumed."""
        self._folder, self._facts = Path(out) / RUNS, facts
        held = [Path(out) / RESULT, *self._folder.glob("[!.]*")]
        if not resume and any(path.exists() for path in held):
            expected = "a folder without an extrapolation, or resume=True (--resume) to go on with the one there"
            raise Error(message("out", expected, out))
        self._folder.mkdir(parents=True, exist_ok=True)

    def place(self, name: str, ending: str = "") -> Path:
        """Where the training of a model has what it goes on from."""
        return self._folder / f"{name}{ending}"

    def result(self, name: str, facts: Mapping[str, Any]) -> dict[str, Any] | None:
        """What was found of a model, None where it is not over. Error: it was made with other facts."""
        path = self.place(name, ".json")
        remove_unfinished(path)
        if not path.exists():
            return None
        found: dict[str, Any] = read_json(path)
        require_same(facts, found[self._facts], f"{path} was made with")
        return found

    def keep(self, name: str, result: Mapping[str, Any]) -> None:
        """What was found of a model, its facts among it."""
        write_json(self.place(name, ".json"), result)
