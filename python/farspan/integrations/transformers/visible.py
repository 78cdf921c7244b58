"""Which keys a query sees, said by meaning and not as a matrix of booleans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import FunctionType
from typing import Any, NoReturn

import torch
from transformers import masking_utils

from farspan._errors import ArgumentError, message

EXPECTED = "a mask by position and padding: causal or not, with or without a window, padded or packed"


class UnreadableMask(ArgumentError, AttributeError):
    """Code of a model looked into a mask that only the attention can read."""


UnreadableMask.__module__ = "farspan"


@dataclass(frozen=True, eq=False)
class Visible:
    """What the mask function gives the attention function, in the words of `farspan.attention`."""

    causal: bool
    window: tuple[int, int] | None
    queries: int
    keys: int
    key_bias: torch.Tensor | None = None
    """`[batch, 1, keys]`, -inf for padding. None where nothing is padding."""
    offsets: torch.Tensor | None = None
    """Where the packed sequences begin in all rows laid end to end, and the end of the last one."""

    def __getattr__(self, name: str) -> NoReturn:
        given = f"a model that reads {name!r} of its mask"
        raise UnreadableMask(message("attention_mask", "a model that only hands its mask to the attention", given))

    def __getitem__(self, part: Any) -> NoReturn:
        given = "a model that cuts its mask"
        raise UnreadableMask(message("attention_mask", "a model that only hands its mask to the attention", given))


def visible(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = masking_utils.causal_mask_function,
    attention_mask: torch.Tensor | None = None,
    local_size: int | None = None,
    **hints: Any,
) -> Visible:
    """The mask function. The hints tell other attention functions how to build a matrix; here there is none."""
    causal, window, packed = _pattern(mask_function, local_size)
    ends_align = not isinstance(q_offset, torch.Tensor) and q_offset + q_length == kv_offset + kv_length
    if not ends_align and (causal or window is not None):
        given = (
            f"{q_length} queries after {q_offset} tokens and {kv_length} keys after {kv_offset}, as in a static cache"
        )
        raise ArgumentError(message("attention_mask", "keys that end where the queries end (a DynamicCache)", given))
    key_bias = _key_bias(attention_mask, batch_size, kv_offset, kv_length)
    if packed is None:
        return Visible(causal, window, q_length, kv_length, key_bias)
    if key_bias is not None:
        raise ArgumentError(message("attention_mask", "packed sequences without padding", "packed and padded rows"))
    return Visible(causal, window, q_length, kv_length, offsets=_offsets(*packed))


def _pattern(
    function: Callable[..., Any], local_size: int | None
) -> tuple[bool, tuple[int, int] | None, tuple[torch.Tensor, torch.Tensor] | None]:
    """Causal or not, the window's bounds, and what packed sequences are told by.

    transformers describes a mask by nested functions. A function is recognised when it equals, all the way down, one
    that transformers itself makes for a pattern of known meaning.
    """
    patterns: list[tuple[Callable[..., Any], bool, tuple[int, int] | None]] = [
        (masking_utils.causal_mask_function, True, None),
        (masking_utils.bidirectional_mask_function, False, None),
    ]
    if local_size is not None:
        sliding = masking_utils.sliding_window_causal_mask_function(local_size)
        both_ways = masking_utils.sliding_window_bidirectional_mask_function(local_size)
        patterns += [(sliding, True, (local_size - 1, 0)), (both_ways, False, (local_size, local_size))]
    positions, numbers = _inside(function, "position_ids"), _inside(function, "packed_sequence_mask")
    for known, causal, window in patterns:
        if _same(function, known):
            return causal, window, None
        if isinstance(positions, torch.Tensor) and isinstance(numbers, torch.Tensor):
            inside = masking_utils.packed_sequence_mask_function(numbers)
            remapped = masking_utils.remap_positions_for_packed_sequence(known, positions)
            if _same(function, masking_utils.and_masks(remapped, inside)):
                return causal, window, (positions, numbers)
    raise ArgumentError(message("attention_mask", EXPECTED, f"a mask of {_described(function)}"))


def _same(one: Any, other: Any) -> bool:
    """Whether two functions have the same code and hold the same values."""
    if one is other:
        return True
    if isinstance(one, FunctionType) and isinstance(other, FunctionType):
        cells = zip(one.__closure__ or (), other.__closure__ or (), strict=False)  # the same code has as many
        return one.__code__ is other.__code__ and all(_same(a.cell_contents, b.cell_contents) for a, b in cells)
    if isinstance(one, tuple) and isinstance(other, tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return isinstance(one, int) and isinstance(other, int) and one == other


def _inside(function: Any, name: str) -> Any:
    """The value that a function, or one of those that it calls, holds by this name."""
    if isinstance(function, tuple):
        return next((found for one in function if (found := _inside(one, name)) is not None), None)
    if not isinstance(function, FunctionType):
        return None
    held = dict(zip(function.__code__.co_freevars, (c.cell_contents for c in function.__closure__ or ()), strict=True))
    return held[name] if name in held else _inside(tuple(held.values()), name)


def _described(function: Any) -> str:
    """The names of the functions that a mask is made of."""
    if not isinstance(function, FunctionType):
        return type(function).__name__
    parts = [cell.cell_contents for cell in function.__closure__ or ()]
    inner = [f for part in parts for f in (part if isinstance(part, tuple) else (part,)) if isinstance(f, FunctionType)]
    name = function.__qualname__.partition(".<locals>")[0]
    return f"{name}({', '.join(map(_described, inner))})" if inner else name


def _key_bias(mask: torch.Tensor | None, batch: int, start: int, keys: int) -> torch.Tensor | None:
    """-inf where the two-dimensional mask is 0. Keys past its end are hidden, as transformers hides them."""
    if mask is None:
        return None
    if mask.ndim != 2 or mask.shape[0] != batch:
        raise ArgumentError(message("attention_mask", f"a mask of padding [{batch}, keys]", list(mask.shape)))
    there = mask[:, start : start + keys].bool()
    there = torch.nn.functional.pad(there, (0, keys - there.shape[1]))
    if there.all():
        return None
    return torch.zeros(there.shape, device=mask.device).masked_fill_(~there, -torch.inf)[:, None]


def _offsets(positions: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """Where each packed sequence begins. Inside one the positions must count on by one: order then means position."""
    begins = torch.ones_like(numbers, dtype=torch.bool)
    begins[:, 1:] = numbers.diff(dim=1) != 0
    if not ((positions.diff(dim=1) == 1) | begins[:, 1:]).all():
        raise ArgumentError(message("position_ids", "positions that count on by one in a sequence", "others"))
    return torch.cat([begins.flatten().nonzero()[:, 0], torch.tensor([begins.numel()], device=begins.device)])
