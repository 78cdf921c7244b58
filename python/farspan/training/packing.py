"""From documents to the tokens of a step: pieces that fit into the context, in a seeded order, one behind the other.

A batch has no rows and no padding: it is pieces that lie packed, and their lengths. Attention is told the lengths, so
no token sees another document. A piece's targets are the tokens that follow in its own document. A document's last
token has none, so it is read as a target only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from farspan._errors import ArgumentError, DtypeError, message


@dataclass(frozen=True)
class Batch:
    """Packed pieces of documents."""

    ids: Tensor
    """`[tokens]`"""
    targets: Tensor
    """`[tokens]`: what follows each of them"""
    lengths: tuple[int, ...]
    """of the pieces"""

    def to(self, device: torch.device) -> Batch:
        return Batch(self.ids.to(device), self.targets.to(device), self.lengths)


class Corpus:
    """All documents, one behind the other."""

    def __init__(self, documents: Iterable[Any], vocab: int, name: str = "documents") -> None:
        """ArgumentError, DtypeError: no document with a token to predict, or ids that are none of the vocabulary."""
        arrays = [_ids(f"{name}[{i}]", document, vocab) for i, document in enumerate(_listed(name, documents))]
        usable = [array for array in arrays if len(array) > 1]
        if not usable:
            given = f"{len(arrays)} documents of at most {max(map(len, arrays), default=0)} tokens"
            raise ArgumentError(message(name, "at least one document of two tokens or more", given))
        self.tokens = np.concatenate(usable)
        self.ends = np.cumsum([len(array) for array in usable])
        self.starts = self.ends - [len(array) for array in usable]

    @property
    def digest(self) -> str:
        """What two runs over the same documents have in common."""
        found = hashlib.blake2b(self.ends.tobytes(), digest_size=16)
        found.update(self.tokens.tobytes())
        return found.hexdigest()

    def pieces(self, context: int, random: np.random.Generator | None) -> np.ndarray:
        """`[pieces, 2]`: where each begins, and how many tokens it reads, at most `context`.

        With `random` a long document's first piece is of a random length, so that each epoch cuts elsewhere, and the
        pieces come in a random order.
        """
        sizes = self.ends - self.starts - 1  # the last token is nobody's past
        first = np.minimum(sizes, context)
        if random is not None:
            first = np.where(sizes > context, 1 + random.integers(context, size=len(sizes)), sizes)
        counts = 1 + -(-(sizes - first) // context)
        which = np.repeat(np.arange(len(sizes)), counts)
        nth = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        begin = np.where(nth == 0, 0, first[which] + (nth - 1) * context)
        end = np.minimum(first[which] + nth * context, sizes[which])
        found = np.stack([self.starts[which] + begin, end - begin], 1)
        return found if random is None else random.permutation(found)

    def batch(self, pieces: np.ndarray) -> Batch:
        """The pieces, packed."""
        places = np.concatenate([np.arange(start, start + length) for start, length in pieces])
        ids, targets = (torch.from_numpy(self.tokens[at].astype(np.int64)) for at in (places, places + 1))
        return Batch(ids, targets, tuple(pieces[:, 1].tolist()))


class Batches:
    """The batches of a run, one after the other: epochs follow each other within a batch."""

    def __init__(self, corpus: Corpus, context: int, tokens: int, seed: int) -> None:
        """`tokens`: of a batch, at most."""
        self._corpus, self._context, self._tokens, self._seed = corpus, context, tokens, seed
        self.move_to(0, 0)

    def move_to(self, epoch: int, place: int) -> None:
        """As if the pieces before had been taken: a run goes on where another one stood."""
        # 64 bits of the seed, as generators take no negative numbers.
        random = np.random.default_rng([self._seed % 2**64, epoch])
        self._pieces = self._corpus.pieces(self._context, random)
        self.epoch, self.place = epoch, place

    def take(self) -> Batch:
        """As many pieces as fit."""
        taken: list[np.ndarray] = []
        room = self._tokens
        while True:
            if self.place == len(self._pieces):
                self.move_to(self.epoch + 1, 0)
            piece = self._pieces[self.place]
            if piece[1] > room:
                return self._corpus.batch(np.array(taken))
            taken.append(piece)
            room -= piece[1]
            self.place += 1


def validation_batches(corpus: Corpus, context: int, tokens: int, most: int) -> list[Batch]:
    """Pieces of about `most` tokens, spread over the whole corpus, always the same, in batches of at most `tokens`."""
    pieces = corpus.pieces(context, None)
    total = int(pieces[:, 1].sum())
    if total > most:
        pieces = pieces[np.unique(np.linspace(0, len(pieces) - 1, max(1, len(pieces) * most // total)).astype(int))]
    return list(_filled(corpus, pieces, tokens))


def _filled(corpus: Corpus, pieces: np.ndarray, tokens: int) -> Iterator[Batch]:
    begin, room = 0, tokens
    for i, length in enumerate(pieces[:, 1]):
        if length > room:
            yield corpus.batch(pieces[begin:i])
            begin, room = i, tokens
        room -= length
    yield corpus.batch(pieces[begin:])


def _listed(name: str, documents: Any) -> Iterable[Any]:
    if isinstance(documents, (str, bytes)) or not isinstance(documents, Iterable):
        raise DtypeError(message(name, "an iterable of id lists", repr(documents)[:80]))
    return documents


def _ids(name: str, document: Any, vocab: int) -> np.ndarray:
    """int32 ids of the vocabulary, which has no more than these."""
    try:
        found = np.asarray(document.cpu() if isinstance(document, Tensor) else document)
    except (TypeError, ValueError):
        raise DtypeError(message(name, "a list of ids", repr(document)[:80])) from None
    if found.size == 0:
        return np.empty(0, np.int32)
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise DtypeError(message(name, "a list of ids", f"{found.dtype} of shape {list(found.shape)}"))
    wrong = (found < 0) | (found >= vocab)
    if wrong.any():
        raise ArgumentError(message(name, f"ids of the vocabulary, 0 to {vocab - 1}", int(found[wrong][0])))
    return found.astype(np.int32)
