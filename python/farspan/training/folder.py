"""The folder of a run: what a kill at any moment must not damage.

    run.json              what the run is: recipe, documents, model; and whether it is over
    state.safetensors     the last checkpoint: everything that later steps depend on, in one file; gone when it is over
    log.jsonl             a line for each step
    config.json, model.safetensors, loss.png    for readers, as of the last checkpoint; adapters have files of their own

Each file but the log is replaced as a whole. The log reaches the disk before a checkpoint does, and resuming cuts off
what was logged after the checkpoint, so each step is in it once.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from farspan._errors import BackendError, Error, message
from farspan._files import read_json, remove_unfinished, replaced, require_same
from farspan._pictures import require_matplotlib
from farspan.model.checkpoint import Checkpoint
from farspan.model.state_file import StateFile
from farspan.training import adapters
from farspan.training.log import Log
from farspan.training.picture import draw_loss

RUN, STATE, LOG, PICTURE = "run.json", "state.safetensors", "log.jsonl", "loss.png"
MODEL = ("config.json", "model.safetensors")
SECONDS_BETWEEN_PICTURES = 60.0


class RunFolder:
    """One process at a time works with it."""

    def __init__(self, path: str | os.PathLike[str], facts: Mapping[str, Any], *, resume: bool) -> None:
        """A new run, or with `resume` the one that the folder holds, if there is one. `facts` tell runs apart.

        Error: it holds a run and is not to be resumed, or another one, or a model of somebody else's.
        """
        self.path, self._facts = Path(path), dict(facts)
        require_no_run(path, resume=resume)
        self.finished = (self.path / RUN).exists() and self._is_over()
        self._drawn, self._draws = -SECONDS_BETWEEN_PICTURES, _can_draw()
        self.path.mkdir(parents=True, exist_ok=True)
        self.log = Log(self.path / LOG)
        self._state = StateFile(self.path / STATE, "the checkpoint of a run")
        for name in (RUN, PICTURE, *MODEL, *adapters.FILES):
            remove_unfinished(self.path / name)
        if not (self.path / RUN).exists():
            self._describe()

    def close(self) -> None:
        """Another process may have it now."""
        self.log.close()

    # ------------------------------------------------------------------------------------------------------ checkpoints

    def save(self, model: Any, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """A checkpoint in the place of the one before: tensors, and facts as JSON has them. Then the model and the
        picture, for readers."""
        self.log.to_disk()
        self._state.write(tensors, facts)
        self._save_model(model)
        if time.monotonic() - self._drawn >= SECONDS_BETWEEN_PICTURES:
            self._draw()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The checkpoint, and the log as it was then; None, and an empty log, where there is none yet."""
        found = self._state.read()
        if found is None:
            self.log.cut(0)
            return None
        tensors, facts = found
        self.log.cut(facts["step"])
        return {name: stored.read() for name, stored in tensors.items()}, facts

    def finish(self, model: Any) -> None:
        """The run is over: what only resuming needs goes."""
        self.log.to_disk()
        self._save_model(model)
        self._draw()
        self.finished = True
        self._describe()
        self._state.remove()

    def _save_model(self, model: Any) -> None:
        if adapters.is_adapted(model):
            adapters.save(model, self.path)
        else:
            model.save_pretrained(self.path)

    def load_finished(self, model: Any) -> None:
        """The weights that the run ended with."""
        if adapters.is_adapted(model):
            adapters.load(model, self.path)
            return
        saved = Checkpoint(self.path)
        saved.check(model)
        saved.load(model)

    # ------------------------------------------------------------------------------------------------------ what it is

    def _describe(self) -> None:
        with replaced(self.path / RUN) as beside:
            beside.write_text(json.dumps({"finished": self.finished, **self._facts}, indent=2) + "\n", encoding="utf-8")

    def _is_over(self) -> bool:
        """Whether the run that the folder holds is over. Error: it is another run."""
        held = read_json(self.path / RUN)
        require_same(_flat(self._facts), _flat(held), f"the run in {self.path} began with")
        return bool(held["finished"])

    def _draw(self) -> None:
        if self._draws:
            draw_loss(self.log.lines(), self.path / PICTURE)
            self._drawn = time.monotonic()


def require_no_run(path: str | os.PathLike[str], *, resume: bool) -> None:
    """Error: the folder holds a run, which is not to be resumed, or a model of somebody else's."""
    folder = Path(path)
    if (folder / RUN).exists():
        if not resume:
            expected = "a folder without a run, or resume=True (--resume) to go on with the one that is there"
            raise Error(message("out", expected, folder))
        return
    for name in (*MODEL, *adapters.FILES, STATE, LOG):
        # A run that was killed at once has an empty log.
        if (folder / name).exists() and (folder / name).stat().st_size:
            raise Error(message("out", "a folder of its own for the run", f"{folder}, which has a {name}"))


def _can_draw() -> bool:
    """Whether there is matplotlib. A run goes on without it; it says so at its beginning."""
    try:
        require_matplotlib()
    except BackendError as error:
        warnings.warn(f"there will be no {PICTURE}: {error}", RuntimeWarning, stacklevel=4)
        return False
    return True


def _flat(facts: Any, above: str = "") -> dict[str, Any]:
    """Settings by their full names."""
    if not isinstance(facts, Mapping):
        return {above: facts}
    flat: dict[str, Any] = {}
    for name, value in facts.items():
        flat |= _flat(value, f"{above}.{name}" if above else name)
    return flat
