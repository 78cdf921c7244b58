"""What a measurement of loss against length holds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Point:
    """The loss of one scheme where predictions have `shortest` to `length` tokens of context, the newest included."""

    scheme: str
    length: int
    shortest: int
    nats_per_token: float
    standard_error: float
    """of the mean over windows, which are taken as independent; NaN for a single window"""
    tokens: int
    """how many predictions the mean is over"""
    window_losses: tuple[float, ...]
    """the mean of each window, in the order of the text: windows of two points are the same windows"""

    def above(self, other: Point) -> tuple[float, float]:
        """How many nats per token this loss lies above another, and the standard error of that.

        The same windows stand behind both, and their common ups and downs cancel: the error is far smaller than that
        of either loss.
        """
        return mean_and_error([a - b for a, b in zip(self.window_losses, other.window_losses, strict=True)])


@dataclass(frozen=True)
class Measurement:
    """What was measured, how, and what came out."""

    model: str
    text: str
    trained_length: int
    bytes_per_token: float | None
    """None where the text's bytes are not known"""
    schemes: dict[str, dict[str, Any]]
    """the settings of each scheme by its name, in the order in which they were asked for"""
    by: str
    """"length": the same tokens under windows of every length. "position": all tokens of the longest windows."""
    lengths: tuple[int, ...]
    windows: int
    stride: int
    """tokens from one window's end to the next one's"""
    targets: int
    """tokens predicted at the end of each window (by length)"""
    first_tokens: tuple[int, ...]
    """what each window begins with before its text, as a token for the beginning of a text"""
    notes: tuple[str, ...]
    """what a reader of the figures should know"""
    complete: bool
    """False: the measurement was interrupted, and `points` is what it had by then"""
    points: tuple[Point, ...]

    @property
    def unit(self) -> str:
        """Bytes as tokens are drawn in bits, which compare between models; other tokens in nats."""
        return "bits per byte" if self.bytes_per_token == 1 else "nats per token"

    def in_unit(self, nats_per_token: float) -> float:
        return nats_per_token / math.log(2) if self.bytes_per_token == 1 else nats_per_token

    def curves(self) -> dict[str, list[Point]]:
        """The points of each scheme that has any, by length."""
        found: dict[str, list[Point]] = {}
        for point in self.points:
            found.setdefault(point.scheme, []).append(point)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Everything as one JSON document, with a row for each point."""
        return dataclasses.asdict(self) | {"unit": self.unit, "points": self.rows()}

    def rows(self) -> list[dict[str, Any]]:
        """The points as dicts, with bits per byte where the text's bytes are known."""
        bits = math.log(2) * self.bytes_per_token if self.bytes_per_token else math.nan
        return [dataclasses.asdict(point) | {"bits_per_byte": point.nats_per_token / bits} for point in self.points]


def mean_and_error(window_losses: Sequence[float]) -> tuple[float, float]:
    """The mean over windows and its standard error, NaN for a single one."""
    count = len(window_losses)
    mean = math.fsum(window_losses) / count
    if count == 1:
        return mean, math.nan
    variance = math.fsum((x - mean) ** 2 for x in window_losses) / (count - 1)
    return mean, math.sqrt(variance / count)
