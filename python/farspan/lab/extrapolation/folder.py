"""The folder of an extrapolation: a file for each training.

    runs/NAME.json           the result of a training that is over
    runs/NAME.safetensors    where a training stands that is not

Each is replaced as a whole, so a kill loses no more than what came after the last checkpoint.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from farspan import _strict_json
from farspan._errors import Error, message
from farspan._files import read_json, remove_unfinished, replaced
from farspan.lab.extrapolation.settings import Trial

RUNS, RESULT = "runs", "extrapolate.json"


class Folder:
    """Where results are kept."""

    def __init__(self, path: str | os.PathLike[str], *, resume: bool) -> None:
        """Error: it holds results and is not to be resumed."""
        self.path, self.runs = Path(path), Path(path) / RUNS
        held = [self.path / RESULT, *self.runs.glob("*.json"), *self.runs.glob("*.safetensors")]
        if not resume and any(file.exists() for file in held):
            expected = "a folder without an extrapolation, or resume=True (--resume) to go on with the one there"
            raise Error(message("out", expected, self.path))
        self.runs.mkdir(parents=True, exist_ok=True)

    def checkpoint(self, trial: Trial) -> Path:
        return self.runs / f"{trial.name}.safetensors"

    def result(self, trial: Trial) -> dict[str, Any] | None:
        """What a trial has given, None where it is not over. Error: it was made with other settings."""
        path = self._file(trial)
        remove_unfinished(path)
        if not path.exists():
            return None
        found: dict[str, Any] = read_json(path)
        trial.require_same(found["trial"], path)
        return found

    def keep(self, trial: Trial, result: dict[str, Any]) -> None:
        """The result of a trial, whose checkpoint then goes."""
        with replaced(self._file(trial)) as beside:
            beside.write_text(_strict_json.dumps(result, indent=1) + "\n", encoding="utf-8")
        self.checkpoint(trial).unlink(missing_ok=True)

    def _file(self, trial: Trial) -> Path:
        return self.runs / f"{trial.name}.json"
