"""Copying: whether a model repeats an excerpt of a text that it has read before, however far back that is.

Half of what it reads is an excerpt of the text, and the other half the same excerpt again. Tokens of the second half
are there to be looked up, at a distance of half the length. At every length and under every scheme the very same tokens
are asked for: those that end an excerpt.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from farspan._errors import ArgumentError, message
from farspan.lab.pieces import Piece, found_anew, piece_name
from farspan.lab.progress import Progress
from farspan.lab.reach import settings_under, switched
from farspan.model import Transformer
from farspan.positions import Scheme
from farspan.unembed import score

TARGETS = 64
"""Tokens asked for at the end of each excerpt, or as many as the shortest has."""


@dataclass(frozen=True)
class Copied:
    """How well a scheme repeats excerpts that fill half of a length."""

    scheme: str
    length: int
    accuracy: float
    """the share of the tokens asked for that are the likeliest ones"""
    guessed: float
    """the same share where the model as it is reads the excerpt for the first time, within its trained length"""
    nats_per_token: float
    count: int
    """how many tokens were asked for"""


LEAST = 2
"""Tokens of an excerpt, of which the first is there to begin with."""


def require_room(length: int, first_tokens: Sequence[int] = ()) -> None:
    """ArgumentError: a text of this length has no room for an excerpt that stands twice."""
    if not has_room(length, first_tokens):
        least = 2 * LEAST - 1 + len(first_tokens)
        raise ArgumentError(message("lengths", f"at least {least} tokens, for a piece that stands twice", length))


def has_room(length: int, first_tokens: Sequence[int] = ()) -> bool:
    """Whether a text of this length has room for an excerpt that stands twice."""
    return _excerpt(length, first_tokens) >= LEAST


def twice(text: Tensor, end: int, length: int, first_tokens: Sequence[int] = ()) -> Tensor:
    """`[length + 1]` ids, the last one only predicted: the excerpt that ends at `end` twice, and before it
    `first_tokens`, and a token of the text where the length is even."""
    excerpt = text[end - _excerpt(length, first_tokens) : end].long()
    start = torch.tensor(first_tokens, dtype=torch.int64)
    left = length + 1 - len(start) - 2 * len(excerpt)
    return torch.cat([start, excerpt[-1:].expand(left), excerpt, excerpt])


@torch.no_grad()
def find_copies(
    model: Transformer, text: Tensor, lengths: Sequence[int], schemes: Mapping[str, Scheme | None], *,
    trained_length: int, count: int = 4, first_tokens: Sequence[int] = (),
    progress: Progress | None = None, piece: Piece = found_anew,
) -> tuple[Copied, ...]:  # fmt: skip
    """`count` excerpts from all over the text at each length under each scheme. `schemes`: as in `farspan.measure`,
    None being the model's own; `piece` as there. ArgumentError: a length has no room for an excerpt that stands
    twice."""
    if not lengths:
        return ()
    require_room(min(lengths), first_tokens)
    excerpts = [_excerpt(length, first_tokens) for length in lengths]
    targets = min(TARGETS, min(excerpts))
    ends = torch.linspace(max(excerpts), len(text), count).long().tolist()
    home = max([n for n in excerpts if n + len(first_tokens) <= trained_length], default=min(excerpts))
    start = torch.tensor(first_tokens, dtype=torch.int64)
    alone = torch.stack([torch.cat([start, text[end - home : end].long()]) for end in ends])
    common = {
        "copies": count, "lengths": list(lengths), "first tokens": list(first_tokens), "trained length": trained_length
    }  # fmt: skip
    ((guessed, _),) = piece("copies-guessed", common, lambda: [[*_asked(model, alone, min(targets, home - 1))]])
    found: list[Copied] = []
    total = len(schemes) * len(lengths)
    for name, scheme in schemes.items():
        reader = switched(model, scheme)
        facts = {**common, "scheme": settings_under(model.config, scheme)}
        for length in lengths:
            if progress:
                progress(len(found), total, f"copies: {name} at {length}")
            find = partial(_repeated, reader, (twice(text, end, length, first_tokens) for end in ends), targets)
            ((right, nats),) = piece(piece_name("copies", name, length), facts, find)
            found.append(Copied(name, length, right, guessed, nats, targets * len(ends)))
    return tuple(found)


def _excerpt(length: int, first_tokens: Sequence[int]) -> int:
    """How many tokens an excerpt has that stands twice in such a length."""
    return (length + 1 - len(first_tokens)) // 2


def _repeated(model: Transformer, texts: Iterable[Tensor], targets: int) -> list[list[float]]:
    """The means over texts of what `_asked` gives."""
    parts = [_asked(model, ids[None], targets) for ids in texts]
    return [[sum(numbers) / len(parts) for numbers in zip(*parts, strict=True)]]


def _asked(model: Transformer, ids: Tensor, targets: int) -> tuple[float, float]:
    """The share of the last `targets` ids that are the likeliest ones, and their loss."""
    hidden = model(ids[:, :-1])[:, -targets:].reshape(-1, model.config.hidden_size)
    wanted = ids[:, -targets:].reshape(-1).to(hidden.device)
    scored = score(hidden, model.unembedding, wanted, **model.logit_settings)
    return float((scored.rank == 0).double().mean()), -float(scored.logprob.double().mean())
