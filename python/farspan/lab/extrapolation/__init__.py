"""Train short, test long: how far models with different position schemes generalise on a task.

    settings = Settings("bucket_sort", schemes=("rope", "alibi"), train_length=10, test_lengths=(10, 20), steps=200)
    print(table(extrapolate(settings, "out/sort")))

`farspan extrapolate` is the same on the command line.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from farspan._errors import ArgumentError, message
from farspan.lab.extrapolation.folder import Folder
from farspan.lab.extrapolation.result import Extrapolation, Point, table
from farspan.lab.extrapolation.settings import Settings, Trial
from farspan.lab.extrapolation.workers import cores, run_all
from farspan.lab.machine import processor_name
from farspan.lab.trainings import Tally

if TYPE_CHECKING:
    from farspan.lab.progress import Progress

__all__ = ["Extrapolation", "Point", "Settings", "Trial", "extrapolate", "require_folder", "table"]


def require_folder(settings: Settings, out: str | os.PathLike[str], *, resume: bool = False) -> None:
    """Makes the folder of results. Error: what `out` holds is not what `extrapolate` with the same arguments could go
    on with."""
    folder = Folder(out, resume=resume)
    for trial in settings.trials():
        folder.steps(trial)


def extrapolate(
    settings: Settings, out: str | os.PathLike[str], *, resume: bool = False, workers: int | None = None,
    device: str = "cpu", progress: Progress | None = None,
) -> Extrapolation:  # fmt: skip
    """Trains and tests every trial of the settings, and keeps each result in `out` as soon as it is there.

    `resume`: go on where a run in `out` was stopped, with the numbers of one that nobody stopped. Trials that are over
    are not repeated, so more schemes or more seeds can join. `workers`: how many trainings run side by side, with the
    cores shared between them; None: one for each core, or one on a GPU. `progress(done, total, next_step)` hears how
    many steps are done.

    The same settings give the same numbers, on the same machine with the same number of workers.

    Error: `out` holds results and `resume` is not given, or of other settings; or a training has failed.
    """
    trials = settings.trials()
    if workers is not None and (isinstance(workers, bool) or not isinstance(workers, int) or workers < 1):
        raise ArgumentError(message("workers", "an integer of at least 1", repr(workers)))
    # By all trials, those that are over too: torch's sums depend on the number of threads.
    crew = min(workers or (cores() if device == "cpu" else 1), len(trials))
    threads = max(1, cores() // crew)
    folder = Folder(out, resume=resume)
    results = {trial: found for trial in trials if (found := folder.result(trial)) is not None}
    tally = Tally(settings.trainings, progress)
    for trial in trials:
        tally.count(trial, folder.steps(trial))

    def report(trial: Trial, done: int, _: int, what: str) -> None:
        tally.count(trial, done)
        tally.tell(what)

    run_all([trial for trial in trials if trial not in results], folder, crew, threads, device, report)
    for trial in trials:
        found = folder.result(trial)
        assert found is not None
        results[trial] = found
    return Extrapolation(settings, processor_name(), {trial: results[trial] for trial in trials})
