"""What an extrapolation gave: all trials, and of each scheme the ones that stand for it."""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from farspan.lab import tasks
from farspan.lab.extrapolation.settings import Settings, Trial
from farspan.lab.tables import in_columns, number, percent

COLUMNS = ("scheme", "seed", "length", "accuracy", "exact", "chance", "learning_rate")


@dataclass(frozen=True)
class Point:
    """How a trained model answers inputs of one length."""

    scheme: str
    seed: int
    length: int
    accuracy: float
    """the share of counted outputs that are right"""
    exact: float
    """the share of inputs whose outputs are all right"""
    chance: float
    """the accuracy of even guesses among the answer symbols"""
    learning_rate: float


@dataclass(frozen=True)
class Extrapolation:
    """The trials of some settings, and their results."""

    settings: Settings
    machine: str
    results: Mapping[Trial, Mapping[str, Any]]

    @property
    def learning_rates(self) -> dict[str, float]:
        """Of each scheme, the rate with the least loss at trained lengths, in the median over seeds."""
        return {scheme: min(self.settings.learning_rates, key=lambda rate: self._loss(scheme, rate))
                for scheme in self.settings.schemes}  # fmt: skip

    def _loss(self, scheme: str, rate: float) -> float:
        losses = [
            result["held_out_loss"] for trial, result in self.results.items()
            if trial.scheme == scheme and trial.learning_rate == rate
        ]  # fmt: skip
        return statistics.median(losses)

    @property
    def points(self) -> tuple[Point, ...]:
        """Scheme by scheme, seed by seed, length by length."""
        rates = self.learning_rates
        order = self.settings.schemes.index
        chosen = [(trial, result) for trial, result in self.results.items()
                  if trial.learning_rate == rates[trial.scheme]]  # fmt: skip
        chosen.sort(key=lambda pair: (order(pair[0].scheme), pair[0].seed))
        return tuple(
            Point(trial.scheme, trial.seed, point["length"], point["accuracy"], point["exact"], self.chance,
                  trial.learning_rate)
            for trial, result in chosen for point in result["points"]
        )  # fmt: skip

    def curves(self, value: str = "accuracy") -> dict[str, list[list[float]]]:
        """Of each scheme a row for each seed, a column for each length."""
        found: dict[str, dict[int, list[float]]] = {scheme: {} for scheme in self.settings.schemes}
        for point in self.points:
            found[point.scheme].setdefault(point.seed, []).append(getattr(point, value))
        return {scheme: list(rows.values()) for scheme, rows in found.items()}

    def medians(self, value: str = "accuracy") -> dict[str, list[float]]:
        """Of each scheme the median over seeds at each length."""
        return {scheme: [statistics.median(column) for column in zip(*rows, strict=True)]
                for scheme, rows in self.curves(value).items()}  # fmt: skip

    def beyond(self) -> dict[str, float | None]:
        """Of each scheme the median over seeds of a seed's mean accuracy past the trained length, as papers give it.
        None: no such length was tested."""
        past = [length > self.settings.train_length for length in self.settings.test_lengths]
        if not any(past):
            return dict.fromkeys(self.settings.schemes)
        return {
            scheme: statistics.median(statistics.fmean(itertools.compress(row, past)) for row in rows)
            for scheme, rows in self.curves().items()
        }

    @property
    def chance(self) -> float:
        return tasks.get(self.settings.task).chance

    def rows(self) -> list[dict[str, Any]]:
        return [dataclasses.asdict(point) for point in self.points]

    def to_dict(self) -> dict[str, Any]:
        """Everything as one JSON document."""
        told = ("held_out_loss", "losses", "parameters", "seconds", "threads")
        runs = [
            {"scheme": trial.scheme, "seed": trial.seed, "learning_rate": trial.learning_rate}
            | {name: result[name] for name in told}
            for trial, result in self.results.items()
        ]
        return {
            "task": self.settings.task,
            "settings": self.settings.to_dict(),
            "machine": self.machine,
            "points": self.rows(),
            "runs": runs,
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Extrapolation:
        """What `to_dict` gave. Of learning rates that no scheme is shown with there are no points in it."""
        points: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
        for point in document["points"]:
            of = (point["scheme"], point["seed"], point["learning_rate"])
            points.setdefault(of, []).append({name: point[name] for name in ("length", "accuracy", "exact")})
        settings = Settings(**document["settings"])
        runs = {(run["scheme"], run["seed"], run["learning_rate"]): run for run in document["runs"]}
        results = {}
        for trial in settings.trials():
            of = (trial.scheme, trial.seed, trial.learning_rate)
            results[trial] = {**runs[of], "points": points.get(of, [])}
        return cls(settings, document["machine"], results)


def table(found: Extrapolation, published: Mapping[str, float] | None = None) -> str:
    """Medians over seeds for a terminal, in percent: a row for each scheme, a column for each length. Where there are
    `published` figures, the mean beyond the trained length and those stand behind."""
    heads: list[object] = list(found.settings.test_lengths)
    rows = {scheme: [percent(median, 1) for median in row] for scheme, row in found.medians().items()}
    if published is not None:
        heads += ["beyond", "paper"]
        for scheme, mean in found.beyond().items():
            rows[scheme] += [percent(mean, 1), number(published.get(scheme), 1)]
    return in_columns("outputs right, %", heads, rows)
