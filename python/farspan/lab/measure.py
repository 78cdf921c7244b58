"""Loss against length: how a model's predictions fare as its context grows, under several position schemes.

Curves compare like with like: at every length and under every scheme the very same tokens are predicted, the last
`targets` of each window, and only how much text stands before them differs. Windows are spread evenly over the text.
(Scoring all tokens of ever longer windows would show a loss that falls merely because fewer tokens have a short past.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Protocol

import torch
from torch import Tensor

from farspan._errors import ArgumentError, DtypeError, message
from farspan.lab import schemes as named
from farspan.lab.measurement import Measurement, Point, mean_and_error
from farspan.lab.schemes import Reach
from farspan.model import Config, Transformer
from farspan.positions import RoPE, Scheme
from farspan.positions.frequencies import DEFAULT_BASE
from farspan.unembed import score

TOKENS_AT_ONCE = 8192


class Progress(Protocol):
    """What a long computation calls on its way."""

    def __call__(self, done: int, total: int, next_step: str) -> object:
        """`done` of `total` tokens are read; `next_step` says in words what comes now."""


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
            (*notes, *_notes(model.config, chosen, by, lengths, start.tolist(), stride)), complete, tuple(points),
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


@dataclass(frozen=True)
class Setup:
    """What a measurement reads, its arguments checked."""

    tokens: Tensor
    first_tokens: Tensor
    """what every window begins with"""
    lengths: tuple[int, ...]
    schemes: dict[str, Scheme | None]
    trained_length: int
    targets: int
    ends: Tensor
    """where windows end"""
    stride: int
    """from one end to the next"""

    def windows(self, length: int) -> Iterator[Tensor]:
        """Windows `[some, length + 1]`, the last column only predicted."""
        for part in self.ends.split(max(1, TOKENS_AT_ONCE // length)):
            windows = self.tokens[part[:, None] + torch.arange(-length, 1)].long()
            windows[:, : len(self.first_tokens)] = self.first_tokens
            yield windows


def set_up(
    model: Transformer, tokens: Any, lengths: Sequence[int], schemes: named.Chosen, windows: int, targets: int,
    stride: int | None, trained_length: int | None, first_tokens: Sequence[int],
) -> Setup:  # fmt: skip
    """The arguments of `measure` as it uses them. ArgumentError, DtypeError: one that cannot be."""
    if not isinstance(model, Transformer):
        raise DtypeError(message("model", "a farspan.Transformer", type(model).__name__))
    model.require_causal("model")
    lengths = _checked_lengths(lengths)
    trained_length = trained_length_of(model.config) if trained_length is None else trained_length
    for name, count in (("windows", windows), ("targets", targets), ("trained_length", trained_length)):
        if not isinstance(count, Integral) or count < 1:
            raise ArgumentError(message(name, "a positive integer", repr(count)))
    tokens, start = _as_ids("tokens", tokens), _as_ids("first_tokens", first_tokens)
    if 2 * len(start) > lengths[0]:
        expected = f"at most half as many ids as the shortest length, {lengths[0]}"
        raise ArgumentError(message("first_tokens", expected, len(start)))
    chosen = chosen_schemes(model.config, schemes, lengths, trained_length)
    if stride is not None and (isinstance(stride, bool) or not isinstance(stride, Integral) or stride < 1):
        raise ArgumentError(message("stride", "a positive integer, or None", repr(stride)))
    targets = min(targets, max(1, lengths[0] // 2), stride or targets)
    ends, stride = window_ends(len(tokens), lengths[-1], windows, targets, stride)
    return Setup(tokens, start, lengths, chosen, trained_length, targets, ends, stride)


def chosen_schemes(
    config: Config, schemes: named.Chosen, lengths: Sequence[int], trained_length: int
) -> dict[str, Scheme | None]:
    """What is measured under which name, in a measurement of these lengths."""
    return named.choose(schemes, reach_of(config, max(lengths), trained_length), default=default_schemes(config))


def reach_of(config: Config, longest: int, trained_length: int | None = None) -> Reach:
    """How far a model is to reach, of what it was made for."""
    trained = trained_length_of(config) if trained_length is None else trained_length
    return Reach(trained, longest, config.rope_theta or DEFAULT_BASE)


def trained_length_of(config: Config) -> int:
    """The longest sequence seen in training, as far as the config tells: before any scaling of its positions."""
    lengths = (getattr(scheme, "original_length", None) for scheme in config.positions)
    return min((n for n in lengths if n is not None), default=config.max_position_embeddings)


def _own_schemes(config: Config) -> tuple[Scheme, ...]:
    """The model's different schemes where another one would take their place: in the layers that rotate."""
    return tuple(dict.fromkeys(config.positions[layer] for layer in config.rotating_layers))


def default_schemes(config: Config) -> tuple[str, ...]:
    """The model's own scheme, then those that can help; plain RoPE only where it is not the model's own."""
    plain = all(isinstance(scheme, RoPE) for scheme in _own_schemes(config))
    return tuple(name for name in named.COMPARED if name != "rope" or not plain)


def window_ends(tokens: int, longest: int, windows: int, targets: int, stride: int | None = None) -> tuple[Tensor, int]:
    """Where windows end, and the stride between them: the one asked for, from the first place on where a window fits,
    or None, evenly over the text and never with a target in common.

    A window of length L that ends at e reads the tokens e - L to e - 1 and predicts those one later.
    """
    room = tokens - 1 - longest
    if room < 0:
        expected = f"at most {max(0, tokens - 1)}, what this text of {tokens} tokens holds"
        raise ArgumentError(message("lengths", expected, longest))
    if stride is not None:
        return longest + stride * torch.arange(min(windows, room // stride + 1)), stride
    count = min(windows, room // targets + 1)
    stride = room // (count - 1) if count > 1 else 0
    return longest + stride * torch.arange(count), stride


def _checked_lengths(lengths: Sequence[int]) -> tuple[int, ...]:
    given = list(lengths) if isinstance(lengths, Iterable) else [lengths]
    if not given or not all(isinstance(length, Integral) and length >= 2 for length in given):
        raise ArgumentError(message("lengths", "numbers of tokens, integers of at least 2", lengths))
    return tuple(sorted(set(map(int, given))))


def _as_ids(name: str, ids: Any) -> Tensor:
    """`[n]` integers of any kind on the CPU."""
    try:
        found = torch.as_tensor(ids, dtype=None if len(ids) else torch.int64).cpu()
    except (TypeError, ValueError, RuntimeError):
        raise DtypeError(message(name, "token ids, integers [n]", type(ids).__name__)) from None
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise DtypeError(message(name, "token ids, integers [n]", found.dtype))
    if found.ndim != 1:
        raise ArgumentError(message(name, "token ids of shape [n]", f"shape {list(found.shape)}"))
    return found


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


def _notes(
    config: Config, chosen: Mapping[str, Scheme | None], by: str, lengths: Sequence[int], start: list[int], stride: int
) -> Iterator[str]:
    """What a reader of the figures should know."""
    if by == "position" and 0 < stride < lengths[-1]:
        yield (
            f"windows of {lengths[-1]} tokens begin every {stride}: they share tokens, and standard errors, which take "
            "them as independent, are too small"
        )
    if start:
        yield f"every window begins with {', '.join(map(str, start))}, the token for the beginning of a text"
    own = _own_schemes(config)
    kept = config.num_hidden_layers - len(config.rotating_layers)
    if kept and any(chosen.values()):
        yield f"{kept} of the model's {config.num_hidden_layers} layers rotate nothing and stay so under every scheme"
    scaled = [type(scheme).__name__ for scheme in own if not isinstance(scheme, RoPE)]
    if scaled and any(chosen.values()):
        yield f"the model's own positions have {', '.join(scaled)}, which the other schemes put out of use"
    held = {type(part) for scheme in config.positions for part in scheme.learned_parts}
    new = [name for name, scheme in chosen.items() if scheme and {type(p) for p in scheme.learned_parts} - held]
    if new:
        yield f"{', '.join(new)}: the model was not trained with what these schemes learn; it stands at its beginning"
    if by == "position":
        used = {name: own if scheme is None else (scheme,) for name, scheme in chosen.items()}
        dynamic = [name for name, those in used.items() if any(_is_dynamic(scheme, lengths) for scheme in those)]
        if dynamic:
            yield (
                f"{', '.join(dynamic)}: every position was read with frequencies or places for the whole window of "
                f"{lengths[-1]} tokens, which it does not have in a shorter text; by length shows that"
            )


def _is_dynamic(scheme: Scheme, lengths: Sequence[int]) -> bool:
    """Whether its frequencies or positions differ between sequences of these lengths."""
    return len({scheme.switch(length) for length in lengths}) > 1
