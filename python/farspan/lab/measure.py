"""Loss against length: how a model's predictions fare as its context grows, under several position schemes.

Curves compare like with like: at every length and under every scheme the very same tokens are predicted, the last
`targets` of each window, and only how much text stands before them differs. Windows are spread evenly over the text.
(Scoring all tokens of ever longer windows would show a loss that falls merely because fewer tokens have a short past.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from farspan._errors import ArgumentError, message
from farspan.lab import schemes as named
from farspan.lab.measurement import Measurement, Point, mean_and_error
from farspan.lab.notes import notes_on
from farspan.lab.progress import Progress
from farspan.lab.windows import set_up
from farspan.model import Config, Transformer
from farspan.positions import Scheme
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
    chosen, start = setup.schemes, setup.first_tokens
    read = lengths if by == "length" else lengths[-1:]

    points: list[Point] = []

    def so_far(complete: bool) -> Measurement:
        return Measurement(
            model_name, text_name, setup.trained_length, bytes_per_token,
            {name: _settings(model.config, scheme) for name, scheme in chosen.items()},
            by, lengths, len(ends), stride, targets, tuple(start.tolist()),
            (*notes, *notes_on(model.config, chosen, by, lengths, start.tolist(), stride)), complete, tuple(points),
            float(margin),
        )  # fmt: skip

    total, done = len(chosen) * len(ends) * sum(read), 0
    for name, scheme in chosen.items():
        switched = model if scheme is None else model.with_positions(scheme)
        for length in read:
            scored = targets if by == "length" else length
            losses = []
            for part in setup.windows(length):
                if progress:
                    progress(done, total, f"{name} at {length}")
                losses.append(_losses(switched, part, scored))
                done += len(part) * length
            per_token = torch.cat(losses)
            if by == "length":
                points.append(_point(name, length, length - scored + 1, per_token))
            else:
                spans = zip((0, *lengths), lengths, strict=False)
                points += [_point(name, last, first + 1, per_token[:, first:last]) for first, last in spans]
            if keep:
                keep(so_far(False))
    if progress:
        progress(done, total, "done")
    return so_far(True)


@torch.no_grad()
def _losses(model: Transformer, windows: Tensor, scored: int) -> Tensor:
    """Nats `[batch, scored]` of the last `scored` tokens; logits are never built."""
    hidden = model(windows[:, :-1])[:, -scored:]
    return -score(hidden, model.unembedding, windows[:, -scored:], **model.logit_settings).logprob.cpu()


def _point(name: str, length: int, shortest: int, losses: Tensor) -> Point:
    per_window = losses.double().mean(dim=1).tolist()
    return Point(name, length, shortest, *mean_and_error(per_window), losses.numel(), tuple(per_window))


def _settings(config: Config, scheme: Scheme | None) -> dict[str, Any]:
    """As a dict of JSON types; of a scheme that differs from layer to layer what each kind of layer has."""
    if scheme is None:
        return {"scheme": "own", "layers": [own.to_dict() for own in dict.fromkeys(config.positions)]}
    put = config.with_positions(scheme)
    first, *others = dict.fromkeys(put.positions[layer] for layer in put.rotating_layers)
    if not others:
        return first.to_dict()
    return {"scheme": type(scheme).__name__, "layers": [own.to_dict() for own in (first, *others)]}
