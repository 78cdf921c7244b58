"""A vocabulary of which several processes hold a part each, as tensor-parallel models do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from farspan._backend import arrays
from farspan._backend.settings import Shard
from farspan._core import SHARD_UNIT
from farspan._errors import ArgumentError, DtypeError, message

__all__ = ["VocabularyShard", "vocabulary_ranges"]


@dataclass(frozen=True)
class VocabularyShard:
    """The part of a vocabulary that `weight` holds, and how its holder hears from those of the other parts.

        def gather(part: bytes) -> list[bytes]:
            parts = [b""] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, part)
            return parts

    `first` is the id of the weight's first row, `vocab` the number of ids in all. `gather` sends `part` to every holder
    and gives what all of them sent, in any order, its own included. Every holder makes the same calls with the same
    rows and settings; all of them get the same result, whose bits are those of one process that holds everything.

    Raises:
        DtypeError: a `gather` that cannot be called.
        ArgumentError: `first` that is not a multiple of 2048, or not inside the vocabulary.
    """

    first: int
    vocab: int
    gather: Callable[[bytes], list[bytes]]

    def __post_init__(self) -> None:
        first, vocab = arrays.count("first", self.first), arrays.count("vocab", self.vocab)
        if first > vocab or (first % SHARD_UNIT and first != vocab):
            raise ArgumentError(message("first", f"a multiple of {SHARD_UNIT}, at most {vocab}", first))
        if not callable(self.gather):
            given = arrays.describe(self.gather)
            raise DtypeError(message("gather", "a function from bytes to a list of bytes", given))


def place(shard: Any) -> Shard | None:
    """The shard of a call, as the backends take it."""
    if shard is None:
        return None
    if not isinstance(shard, VocabularyShard):
        raise DtypeError(message("shard", "a farspan.VocabularyShard", arrays.describe(shard)))
    return Shard(shard.first, shard.vocab, shard.gather)


def vocabulary_ranges(vocab: int, shards: int) -> list[range]:
    """Cut the ids 0 to `vocab` into so many parts, as even as they can be.

        weight = unembedding[ranges[rank].start : ranges[rank].stop]

    Cuts lie at multiples of 2048, the stretches by which softmax sums are added up; of a small vocabulary the last
    parts can be empty.

    Raises:
        ArgumentError: a negative vocabulary, or less than one shard.
    """
    vocab, shards = arrays.count("vocab", vocab), arrays.count("shards", shards)
    if shards == 0:
        raise ArgumentError(message("shards", "at least 1", shards))
    units = -(-vocab // SHARD_UNIT)
    ends = [min(units * i // shards * SHARD_UNIT, vocab) for i in range(shards + 1)]
    return [range(a, b) for a, b in pairwise(ends)]


for _public in (VocabularyShard, vocabulary_ranges):
    _public.__module__ = "farspan"
