"""From documents to batches: every token is predicted from its own document, in a seeded order."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from farspan._errors import ArgumentError, DtypeError
from farspan.training.packing import Batch, Batches, Corpus, validation_batches

# Ids tell where they come from: document d is 100 d, 100 d + 1, ...
DOCUMENTS = [[100 * d + i for i in range(size)] for d, size in enumerate((2, 9, 30, 1, 16, 17, 5))]
PREDICTED = sorted(token for document in DOCUMENTS for token in document[1:])
VOCAB = 1000


def corpus() -> Corpus:
    return Corpus(DOCUMENTS, VOCAB)


def pairs_of(batch: Batch) -> list[tuple[int, int]]:
    assert sum(batch.lengths) == len(batch.ids) == len(batch.targets)
    return list(zip(batch.ids.tolist(), batch.targets.tolist(), strict=True))


def epochs(count: int, seed: int = 3, tokens: int = 40) -> list[list[Batch]]:
    """The batches of so many epochs. A batch may begin in one and end in the next."""
    batches, found = Batches(corpus(), 8, tokens, seed), []
    for epoch in range(count):
        found.append([])
        while batches.epoch == epoch:
            found[-1].append(batches.take())
    return found


def test_every_token_but_the_first_of_a_document_is_predicted_once_an_epoch() -> None:
    batches = [batch for epoch in epochs(3) for batch in epoch]
    predicted = Counter(target for batch in batches for _, target in pairs_of(batch))
    times = [predicted[token] for token in PREDICTED]
    assert sum(times) == sum(predicted.values())
    assert min(times) >= 3
    assert max(times) <= 4  # the last batch has begun the fourth epoch


def test_a_target_is_the_next_token_of_the_same_document() -> None:
    for batch in epochs(2)[1]:
        for token, target in pairs_of(batch):
            assert target == token + 1
            assert target // 100 == token // 100


def test_pieces_are_neighbours_of_one_document_and_fit_into_the_context() -> None:
    for batch in epochs(2)[0]:
        assert max(batch.lengths) <= 8
        assert len(batch.ids) <= 40
        for piece in batch.ids.split(batch.lengths):
            assert torch.equal(piece, torch.arange(len(piece)) + piece[0])
            assert piece[0] // 100 == piece[-1] // 100


def test_a_batch_takes_as_many_pieces_as_fit() -> None:
    all_batches = [batch for epoch in epochs(4) for batch in epoch]
    for batch, after in pairwise(all_batches):
        assert len(batch.ids) + after.lengths[0] > 40


def test_a_long_document_is_cut_elsewhere_in_each_epoch() -> None:
    begins = [
        {int(piece[0]) for batch in epoch for piece in batch.ids.split(batch.lengths) if 200 < piece[0] < 300}
        for epoch in epochs(6)
    ]
    assert len({frozenset(b) for b in begins}) > 2
    short = [piece for batch in epochs(2)[0] for piece in batch.ids.split(batch.lengths) if piece[0] // 100 == 0]
    assert all(piece.tolist() == [0] for piece in short)


def test_the_seed_decides_the_order() -> None:
    first, again, other = ([b.ids.tolist() for b in epochs(1, seed)[0]] for seed in (3, 3, -3))
    assert first == again
    assert first != other


def test_batches_go_on_from_any_place() -> None:
    whole = Batches(corpus(), 8, 20, 1)
    for _ in range(25):
        epoch, place = whole.epoch, whole.place
        gone_on = Batches(corpus(), 8, 20, 1)
        gone_on.move_to(epoch, place)
        expected, found = whole.take(), gone_on.take()
        assert torch.equal(expected.ids, found.ids)
        assert (gone_on.epoch, gone_on.place) == (whole.epoch, whole.place)
    assert whole.epoch > 2


def test_validation_reads_everything_or_a_part_spread_over_it() -> None:
    everything = validation_batches(corpus(), 8, 20, 10_000)
    assert sorted(target for batch in everything for _, target in pairs_of(batch)) == PREDICTED
    assert all(len(batch.ids) <= 20 for batch in everything)
    part = validation_batches(Corpus([list(range(900))], VOCAB), 8, 20, 90)
    starts = [int(piece[0]) for batch in part for piece in batch.ids.split(batch.lengths)]
    assert len(starts) == 11
    assert (starts[0], starts[-1]) == (0, 896)
    assert max(np.diff(starts)) < 110


def test_the_digest_tells_documents_apart() -> None:
    same = Corpus((np.array(document) for document in DOCUMENTS), VOCAB)
    joined = Corpus([DOCUMENTS[0] + DOCUMENTS[1], *DOCUMENTS[2:]], VOCAB)
    assert same.digest == corpus().digest
    assert joined.digest != corpus().digest
    assert Corpus([*DOCUMENTS[:-1], DOCUMENTS[-1][:-1]], VOCAB).digest != corpus().digest


def test_documents_of_any_kind() -> None:
    kinds = [[1, 2], (3, 4), np.array([5, 6], np.uint8), torch.tensor([7, 8])]
    assert Corpus(kinds, VOCAB).tokens.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("wrong", "error", "words"),
    [
        ([], ArgumentError, "documents: expected at least one document of two tokens or more, given 0 documents"),
        ([[], [1]], ArgumentError, "documents: .* given 2 documents of at most 1 tokens"),
        ([[1, 2], [3, VOCAB]], ArgumentError, r"documents\[1\]: expected ids of the vocabulary, 0 to 999, given 1000"),
        ([[1, -2]], ArgumentError, r"documents\[0\]: .* given -2"),
        ([[1.0, 2.0]], DtypeError, r"documents\[0\]: expected a list of ids, given float64"),
        ([[[1, 2]]], DtypeError, r"documents\[0\]: .* shape \[1, 2\]"),
        (["ab"], DtypeError, r"documents\[0\]: expected a list of ids"),
        ([[1, [2, 3]]], DtypeError, r"documents\[0\]: expected a list of ids"),
        ("some text", DtypeError, "documents: expected an iterable of id lists"),
        (7, DtypeError, "documents: expected an iterable of id lists"),
    ],
)
def test_what_are_no_documents(wrong: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=f"^{words}"):
        Corpus(wrong, VOCAB)
