"""Loss against length: how a model's predictions fare as its context grows, under several position schemes.

Curves compare like with like: at every length and under every scheme the very same tokens are predicted, the last
`targets` of each window, and only how much text stands before them differs. Windows are spread evenly over the text.
(Scoring all tokens of ever longer windows would show a loss that falls merely because fewer tokens have a short past.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from farspan._errors import ArgumentError, message
from farspan.lab import schemes as named
from farspan.lab.measurement import Measurement, Point, mean_and_error
from farspan.lab.notes import notes_on
from farspan.lab.pieces import Piece, found_anew, piece_name
from farspan.lab.progress import Progress, part_of
from farspan.lab.reach import settings_under, switched
from farspan.lab.windows import set_up
from farspan.model import Transformer
from farspan.unembed import score


def measure(
    model: Transformer,
    tokens: Any,
    lengths: Sequence[int] = named.LENGTHS,
    schemes: named.Chosen = None,
    *,
    by: str = "length",
    windows: int = 32,
    targets: int = 64,
    stride: int | None = None,
    margin: float = 0.05,
    trained_length: int | None = None,
    first_tokens: Sequence[int] = (),
    model_name: str = "the model",
    text_name: str = "the text",
    bytes_per_token: float | None = None,
    notes: Sequence[str] = (),
    progress: Progress | None = None,
    keep: Callable[[Measurement], object] | None = None,
    piece: Piece = found_anew,
) -> Measurement:
    """The mean loss of `model` over a text at every length and under every scheme, with its standard error.

    `tokens`: the text, `[n]` ids. `lengths`: context lengths in tokens. `schemes`: names as `farspan measure --help`
    lists them, and objects of `farspan.positions` or of a class of your own; or a mapping from names to schemes, in
    which None is the scheme that the model comes with. None: that one ("own") and those that can help a model trained
    with RoPE. A name's settings follow from `trained_length` (None: what the model's config says) and the greatest
    length.

    `by` "length": windows of each length that end at the same places, at most `windows` of them, their last `targets`
    tokens scored (at most half the shortest length). "position": all tokens of windows of the greatest length, averaged
    from one length to the next. A scheme whose frequencies depend on the length then has those of the whole window at
    every position; a note in the result says so.

    `stride`: tokens from one window's end to the next one's (None: the windows are spread over the text, as far apart
    as it allows). At most so many `targets` are scored, so that no token counts twice. By position windows may overlap:
    with a stride of 1 every position is averaged over nearly the same tokens. `margin`, in nats per token, is for
    `Measurement.effective_lengths`.

    `first_tokens`: ids that every window begins with, such as the model's token for the beginning of a text. A window
    of length n then has n tokens with them. `bytes_per_token`: of the text, for bits per byte.

    `model_name` and `text_name` stand above a picture; `notes` go before those of the result. `progress(done, total,
    next_step)` hears how many tokens are read, `keep(so_far)` gets what is measured after each point.
    `piece`: what a scheme's losses at a length come from and are kept by, such as `farspan.lab.pieces.Pieces`.
    `farspan.lab.report` writes and draws the result.

    ArgumentError, DtypeError: an argument that cannot be, such as a length that the text does not hold.

        model, tokenizer = farspan.load_embedded()
        text = torch.tensor(tokenizer.encode(Path("setup.py").read_text()))
        measurement = farspan.measure(model, text, [64, 128], ["own", farspan.positions.YaRN(4, 256)])
    """
    if by not in ("length", "position"):
        raise ArgumentError(message("by", "'length' or 'position'", repr(by)))
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not 0 <= margin < math.inf:
        raise ArgumentError(message("margin", "a finite number of at least 0", repr(margin)))
    setup = set_up(model, tokens, lengths, schemes, windows, targets, stride, trained_length, first_tokens)
    lengths, ends, stride, targets = setup.lengths, setup.ends, setup.stride, setup.targets
    chosen, start = setup.schemes, setup.first_tokens.tolist()
    settings = {name: settings_under(model.config, scheme) for name, scheme in chosen.items()}
    read = lengths if by == "length" else lengths[-1:]

    points: list[Point] = []

    def so_far(complete: bool) -> Measurement:
        return Measurement(
            model_name, text_name, setup.trained_length, bytes_per_token,
            settings, by, lengths, len(ends), stride, targets, tuple(start),
            (*notes, *notes_on(model.config, chosen, by, lengths, start, stride)), complete, tuple(points),
            float(margin),
        )  # fmt: skip

    total, done = len(chosen) * len(ends) * sum(read), 0
    for name, scheme in chosen.items():
        reader = switched(model, scheme)
        facts = {"by": by, **setup.facts, "scheme": settings[name]}
        for length in read:
            spans = [(length - targets, length)]
            if by == "position":
                spans, facts = list(zip((0, *lengths), lengths, strict=False)), {**facts, "lengths": lengths}
            parts = setup.windows(length, part_of(progress, done, total, f"{name} at {length}"))
            find = partial(_window_losses, reader, parts, length, spans)
            for (first, last), losses in zip(spans, piece(piece_name("loss", name, length), facts, find), strict=True):
                count = len(losses) * (last - first)
                points.append(Point(name, last, first + 1, *mean_and_error(losses), count, tuple(losses)))
            done += len(ends) * length
            if keep:
                keep(so_far(False))
    if progress:
        progress(done, total, "done")
    return so_far(True)


def _window_losses(
    model: Transformer, parts: Iterable[Tensor], length: int, spans: Sequence[tuple[int, int]]
) -> list[list[float]]:
    """Of each span of places the mean loss of every window."""
    begin = spans[0][0]
    per_token = torch.cat([_losses(model, part, length - begin) for part in parts])
    return [per_token[:, first - begin : last - begin].double().mean(dim=1).tolist() for first, last in spans]


@torch.no_grad()
def _losses(model: Transformer, windows: Tensor, scored: int) -> Tensor:
    """Nats `[batch, scored]` of the last `scored` tokens; logits are never built."""
    hidden = model(windows[:, :-1])[:, -scored:]
    return -score(hidden, model.unembedding, windows[:, -scored:], **model.logit_settings).logprob.cpu()
