"""How the tensors of a file lie in the parameters of a model: which rows, and in which order of axes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, Protocol

from torch import Tensor


class Heads(Protocol):
    """What a layout asks of a `Config`."""

    @property
    def num_attention_heads(self) -> int: ...

    @property
    def dim_per_head(self) -> int: ...


class Place(NamedTuple):
    """Where a tensor of a file lies in a model."""

    view: Tensor
    """Of a parameter: its numbers in the order of the file's tensor."""
    shape: tuple[int, ...]
    """The file's, with as many numbers."""


Layout = Callable[[Tensor, Heads], Place]
"""The place, in a parameter, of the one tensor that a file has for it."""


def as_it_is(parameter: Tensor) -> Place:
    return Place(parameter, tuple(parameter.shape))


def transposed(parameter: Tensor, shape: Heads) -> Place:
    """A weight `[in, out]`, with more axes before these two, as GPT-2 and the experts of GPT-OSS have them."""
    del shape
    return as_it_is(parameter.mT if parameter.ndim > 1 else parameter)


def transposed_experts(parameter: Tensor, shape: Heads) -> Place:
    """`[experts, in, out]`; biases as they are."""
    return transposed(parameter, shape) if parameter.ndim == 3 else as_it_is(parameter)


def alternating_experts(parameter: Tensor, shape: Heads) -> Place:
    """`[experts, in, out]`, where each column of a gate stands before the one that it gates."""
    del shape
    experts, stacked, *inputs = parameter.shape
    halves = parameter.unflatten(1, (2, stacked // 2))
    return Place(halves.permute(0, *range(3, 3 + len(inputs)), 2, 1), (experts, *inputs, stacked))


def by_head(parameter: Tensor, shape: Heads) -> Place:
    """Rows of a head's query, its key and its value, then those of the next head."""
    kinds = parameter.unflatten(0, (3, shape.num_attention_heads, shape.dim_per_head))
    return Place(kinds.transpose(0, 1), tuple(parameter.shape))


def stacked(parameter: Tensor, names: Sequence[str], sizes: Sequence[int]) -> Iterator[tuple[str, Place]]:
    """The rows of a parameter in tensors of their own, so many in each; a name for all of them is one tensor's."""
    rows = parameter.split(list(sizes)) if len(names) > 1 else [parameter]
    for name, part in zip(names, rows, strict=True):
        yield name, as_it_is(part)
