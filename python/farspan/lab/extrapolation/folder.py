"""The folder of an extrapolation by its trials. While a training is not over, `runs/NAME.safetensors` says where it
stands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from farspan.lab.extrapolation.learning import steps_kept
from farspan.lab.extrapolation.settings import Trial
from farspan.lab.runs import Runs


class Folder:
    """Where results are kept."""

    def __init__(self, path: str | os.PathLike[str], *, resume: bool) -> None:
        """Error: it holds results and is not to be resumed."""
        self._runs = Runs(path, resume=resume, facts_name="trial")

    def checkpoint(self, trial: Trial) -> Path:
        return self._runs.place(trial.name, ".safetensors")

    def steps(self, trial: Trial) -> int:
        """How many steps of a trial's training are done."""
        return trial.settings.steps if self.result(trial) is not None else steps_kept(self.checkpoint(trial))

    def result(self, trial: Trial) -> dict[str, Any] | None:
        """What a trial has given, None where it is not over. Error: it was made with other settings."""
        return self._runs.result(trial.name, trial.facts)

    def keep(self, trial: Trial, result: dict[str, Any]) -> None:
        """The result of a trial, whose checkpoint then goes."""
        self._runs.keep(trial.name, result)
        self.checkpoint(trial).unlink(missing_ok=True)
