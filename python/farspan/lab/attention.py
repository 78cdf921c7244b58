"""What a model's heads look at as the context grows, layer by layer: how attention flattens, and where it parks.

At every length and under every scheme the same queries are asked, the last `targets` of each window, as in `measure`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from farspan._results import AttentionStatistics
from farspan.lab import schemes as named
from farspan.lab.pieces import Piece, found_anew, piece_name
from farspan.lab.progress import Progress, part_of
from farspan.lab.reach import settings_under, switched
from farspan.lab.windows import set_up
from farspan.model import Transformer

FIELDS = ("entropy", "largest", "first", "sink", "distance")
"""The statistics that have a mean, in the order of a point."""


@dataclass(frozen=True)
class AttentionPoint:
    """Means over windows and queries of one layer under one scheme, a number for each head."""

    scheme: str
    length: int
    """tokens of context of the last query, itself included"""
    layer: int
    """from 1, as a reading of `farspan.lens` counts: the layer that this attention is in"""
    entropy: tuple[float, ...]
    """nats"""
    largest: tuple[float, ...]
    first: tuple[float, ...]
    """share of the first key"""
    sink: tuple[float, ...]
    """share of the head's sink, 0 without one"""
    distance: tuple[float, ...]
    """tokens"""

    def mean(self, name: str) -> float:
        """The mean over the heads of a statistic; "parked" is the share of the first key and of the sink."""
        if name == "parked":
            return self.mean("first") + self.mean("sink")
        of_heads: tuple[float, ...] = getattr(self, name)
        return sum(of_heads) / len(of_heads)


@dataclass(frozen=True)
class AttentionMeasurement:
    """What was measured, how, and what came out."""

    model: str
    text: str
    trained_length: int
    lengths: tuple[int, ...]
    windows: int
    targets: int
    """queries asked at the end of each window"""
    points: tuple[AttentionPoint, ...]

    def of(self, scheme: str) -> list[AttentionPoint]:
        return [point for point in self.points if point.scheme == scheme]

    @property
    def schemes(self) -> list[str]:
        return list(dict.fromkeys(point.scheme for point in self.points))

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def measure_attention(
    model: Transformer,
    tokens: Any,
    lengths: Sequence[int] = named.LENGTHS,
    schemes: named.Chosen = ("own",),
    *,
    windows: int = 8,
    targets: int = 64,
    stride: int | None = None,
    trained_length: int | None = None,
    first_tokens: Sequence[int] = (),
    model_name: str = "the model",
    text_name: str = "the text",
    progress: Progress | None = None,
    piece: Piece = found_anew,
) -> AttentionMeasurement:
    """The means of `model.attention_statistics` at every length and under every scheme. Arguments as in
    `farspan.measure`; no logits are computed, and no weights of attention are kept."""
    setup = set_up(model, tokens, lengths, schemes, windows, targets, stride, trained_length, first_tokens)
    total, done = len(setup.schemes) * len(setup.ends) * sum(setup.lengths), 0
    points: list[AttentionPoint] = []
    for name, scheme in setup.schemes.items():
        reader = switched(model, scheme)
        facts = {**setup.facts, "scheme": settings_under(model.config, scheme)}
        for length in setup.lengths:
            parts = setup.windows(length, part_of(progress, done, total, f"attention, {name} at {length}"))
            find = partial(_means, reader, parts, setup.targets)
            points += _points(name, length, piece(piece_name("attention", name, length), facts, find))
            done += len(setup.ends) * length
    if progress:
        progress(done, total, "done")
    return AttentionMeasurement(
        model_name, text_name, setup.trained_length, setup.lengths, len(setup.ends), setup.targets, tuple(points)
    )


def _means(model: Transformer, parts: Iterable[Tensor], targets: int) -> list[list[float]]:
    """Over windows and their last queries: of each statistic and each layer a mean for every head."""
    sums, windows = {field: torch.zeros(()) for field in FIELDS}, 0
    for part in parts:
        found = model.attention_statistics(part[:, :-1])
        sums = {field: sums[field] + _summed(found, field, targets) for field in FIELDS}
        windows += len(part)
    return [heads for field in FIELDS for heads in (sums[field] / (windows * targets)).tolist()]


def _summed(found: AttentionStatistics, field: str, targets: int) -> Tensor:
    """`[layers, heads]`, over the sequences and their last queries."""
    values: Tensor = getattr(found, field)
    return values[..., -targets:].double().sum((1, 3)).cpu()


def _points(scheme: str, length: int, means: Sequence[Sequence[float]]) -> list[AttentionPoint]:
    layers = len(means) // len(FIELDS)
    return [
        AttentionPoint(scheme, length, at + 1, *(tuple(means[field * layers + at]) for field in range(len(FIELDS))))
        for at in range(layers)
    ]
