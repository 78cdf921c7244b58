"""The folder of an extrapolation: a file for each model.

    extrapolate.json    what came out, when all is over
    runs/NAME.json      what was found of a model, with the facts that it depends on
    runs/NAME...        where its training stands, in a form that is the trainer's

A kill loses no more than what came after the last checkpoint.
"""

from __future__ import annotations

import os
from pathlib import Path

from farspan.lab.kept import Kept, require_resumed

RUNS, RESULT = "runs", "extrapolate.json"


class Runs(Kept):
    """Where results are kept. `place` is also where the training of a model has what it goes on from."""

    def __init__(self, out: str | os.PathLike[str], *, resume: bool, facts_name: str) -> None:
        """`facts_name`: what a result calls the facts that it depends on. Error: the folder holds an extrapolation and
        is not to be resumed."""
        super().__init__(Path(out) / RUNS, facts_name)
        require_resumed(out, [Path(out) / RESULT, *self.folder.glob("[!.]*")], "an extrapolation", resume=resume)
        self.folder.mkdir(parents=True, exist_ok=True)
