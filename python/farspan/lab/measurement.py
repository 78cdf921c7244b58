"""What a measurement of loss against length holds."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from farspan.lab.copying import Copied
    from farspan.lab.needle import Found


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
    margin: float = 0.05
    """in nats per token: by how much a loss may lie above a scheme's best one, and the length still counts as read"""
    needles: tuple[Found, ...] = ()
    """how often numbers in the text are found, if that was asked"""
    copies: tuple[Copied, ...] = ()
    """how well pieces of the text are repeated, if that was asked"""

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

    def effective_lengths(self) -> dict[str, int]:
        """Of each scheme the greatest length up to which, from its best one on, every loss is within the margin of the
        best."""
        return {name: _effective_length(points, self.margin) for name, points in self.curves().items()}

    def to_dict(self) -> dict[str, Any]:
        """Everything as one JSON document, with a row for each point."""
        found = {"unit": self.unit, "points": self.rows(), "effective_lengths": self.effective_lengths()}
        return dataclasses.asdict(self) | found

    def rows(self) -> list[dict[str, Any]]:
        """The points as dicts, with bits per byte where the text's bytes are known, and perplexity: of a token."""
        bits = math.log(2) * self.bytes_per_token if self.bytes_per_token else math.nan
        return [
            dataclasses.asdict(point)
            | {"bits_per_byte": point.nats_per_token / bits, "perplexity": _exponential(point.nats_per_token)}
            for point in self.points
        ]


def _effective_length(points: Sequence[Point], margin: float) -> int:
    best = min(points, key=lambda point: point.nats_per_token)
    further = [point for point in points if point.length >= best.length]
    kept = itertools.takewhile(lambda point: point.nats_per_token <= best.nats_per_token + margin, further)
    return max((point.length for point in kept), default=best.length)


def _exponential(x: float) -> float:
    return math.exp(x) if x < 700 else math.inf


def mean_and_error(window_losses: Sequence[float]) -> tuple[float, float]:
    """The mean over windows and its standard error, NaN for a single one."""
    count = len(window_losses)
    mean = math.fsum(window_losses) / count
    if count == 1:
        return mean, math.nan
    variance = math.fsum((x - mean) ** 2 for x in window_losses) / (count - 1)
    return mean, math.sqrt(variance / count)
