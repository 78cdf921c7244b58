"""Loss against length: how a model's predictions fare as its context grows, under several position schemes.

Curves compare like with like: at every length and under every scheme the very same tokens are predicted, the last
`targets` of each window, and only how much text stands before them differs. Windows are spread evenly over the text.
(Scoring all tokens of ever longer windows would show a loss that falls merely because fewer tokens have a short past.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from farspan._errors import ArgumentError, message
from farspan.model import Transformer
from farspan.positions import Scheme
from farspan.unembed import score

TOKENS_AT_ONCE = 8192


class Progress(Protocol):
    """What a long computation calls on its way."""

    def __call__(self, done: int, total: int, next_step: str) -> object:
        """`done` of `total` tokens are read; `next_step` says in words what comes now."""


def no_progress(done: int, total: int, next_step: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Point:
    """The loss of one scheme where predictions have `shortest` to `length` tokens of context, the newest included."""

    scheme: str
    length: int
    shortest: int
    nats_per_token: float
    standard_error: float
    """of the mean over windows, which are taken as independent"""
    tokens: int
    """how many predictions the mean is over"""


@dataclass(frozen=True)
class Measurement:
    """What was measured, and how."""

    by: str
    """"length": the same tokens under windows of every length. "position": all tokens of the longest windows."""
    lengths: tuple[int, ...]
    windows: int
    stride: int
    """tokens from one window's end to the next one's"""
    targets: int
    """tokens predicted at the end of each window (by length)"""
    points: tuple[Point, ...]


@torch.no_grad()
def measure(
    model: Transformer,
    tokens: Tensor,
    lengths: Sequence[int],
    schemes: Mapping[str, Scheme | None],
    *,
    by: str = "length",
    windows: int = 32,
    targets: int = 64,
    progress: Progress = no_progress,
) -> Measurement:
    """The losses of `model` over `tokens` `[n]`; a scheme of None is the model's own.

    By length: windows of each length that end at the same places, their last `targets` tokens scored (at most half the
    shortest length). By position: all tokens of windows of the greatest length, averaged from one length to the next.
    """
    lengths = _checked_lengths(lengths)
    if by not in ("length", "position"):
        raise ArgumentError(message("by", "'length' or 'position'", repr(by)))
    if windows < 1 or targets < 1:
        raise ArgumentError(message("windows and targets", "positive numbers", f"{windows} and {targets}"))
    targets = min(targets, max(1, lengths[0] // 2))
    ends, stride = window_ends(len(tokens), lengths[-1], windows, targets)
    read = lengths if by == "length" else lengths[-1:]
    total, done = len(schemes) * len(ends) * sum(read), 0
    points: list[Point] = []
    for name, scheme in schemes.items():
        switched = model if scheme is None else model.with_positions(scheme)
        for length in read:
            progress(done, total, f"{name} at {length}")
            keep = targets if by == "length" else length
            losses = torch.cat([_losses(switched, part, keep) for part in _batches(tokens, ends, length)])
            if by == "length":
                points.append(_point(name, length, length - keep + 1, losses))
            else:
                spans = zip((0, *lengths), lengths, strict=False)
                points += [_point(name, last, first + 1, losses[:, first:last]) for first, last in spans]
            done += len(ends) * length
    progress(done, total, "done")
    return Measurement(by, lengths, len(ends), stride, targets, tuple(points))


def window_ends(tokens: int, longest: int, windows: int, targets: int) -> tuple[Tensor, int]:
    """Where windows end, evenly over the text and never with a target in common, and the stride between them.

    A window of length L that ends at e reads the tokens e - L to e - 1 and predicts those one later.
    """
    room = tokens - 1 - longest
    if room < 0:
        expected = f"at most {tokens - 1}, what this text of {tokens} tokens holds"
        raise ArgumentError(message("lengths", expected, longest))
    count = min(windows, room // targets + 1)
    stride = room // (count - 1) if count > 1 else 0
    return longest + stride * torch.arange(count), stride


def _checked_lengths(lengths: Sequence[int]) -> tuple[int, ...]:
    checked = tuple(sorted(set(lengths)))
    if not checked or checked[0] < 2:
        raise ArgumentError(message("lengths", "numbers of tokens, at least 2", list(lengths)))
    return checked


def _batches(tokens: Tensor, ends: Tensor, length: int) -> Iterator[Tensor]:
    """Windows `[some, length + 1]`, the last column only predicted."""
    for part in ends.split(max(1, TOKENS_AT_ONCE // length)):
        yield tokens[part[:, None] + torch.arange(-length, 1)].long()


def _losses(model: Transformer, windows: Tensor, keep: int) -> Tensor:
    """Nats `[batch, keep]` of the last `keep` tokens; logits are never built."""
    hidden = model(windows[:, :-1])[:, -keep:]
    return -score(hidden, model.unembedding, windows[:, -keep:]).logprob.cpu()


def _point(name: str, length: int, shortest: int, losses: Tensor) -> Point:
    per_window = losses.double().mean(dim=1)
    error = float(per_window.std() / math.sqrt(len(per_window))) if len(per_window) > 1 else math.nan
    return Point(name, length, shortest, float(per_window.mean()), error, losses.numel())
