"""The windows of a text that a model reads, at every length the same ones, and what else a measurement is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import torch
from torch import Tensor

from farspan._errors import ArgumentError, DtypeError, message
from farspan.lab import schemes as named
from farspan.lab.reach import chosen_schemes, trained_length_of
from farspan.model import Transformer
from farspan.positions import Scheme

TOKENS_AT_ONCE = 8192


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

    @property
    def facts(self) -> dict[str, Any]:
        """What the losses in windows of any length depend on, beside model and text."""
        return {
            "longest length": self.lengths[-1], "windows": len(self.ends), "stride": self.stride,
            "targets": self.targets, "first tokens": self.first_tokens.tolist(),
        }  # fmt: skip

    def windows(self, length: int, tell: Callable[[int], object]) -> Iterator[Tensor]:
        """Windows `[some, length + 1]`, the last column only predicted. `tell` hears how many tokens came before."""
        told = 0
        for part in self.ends.split(max(1, TOKENS_AT_ONCE // length)):
            tell(told)
            told += len(part) * length
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
