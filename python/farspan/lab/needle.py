"""A needle in the text: whether a model finds a number that stands somewhere in a long context.

Loss is no retrieval: it hardly changes for a model that forgets most of what it reads. Here a sentence with a number
stands at some depth of a real text, and the end asks for it. The answer counts if every token of the number is the
likeliest one after the right tokens before it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from farspan._errors import ArgumentError, message
from farspan.lab.pieces import Piece, found_anew, piece_name
from farspan.lab.progress import Progress, part_of
from farspan.lab.reach import settings_under, switched
from farspan.model import Transformer
from farspan.positions import Scheme
from farspan.tokenizer import Tokenizer
from farspan.unembed import score

NEEDLE = "\nThe pass key is {key}. Remember it: {key} is the pass key.\n"
QUESTION = "\nWhat is the pass key? The pass key is"
ANSWER = " {key}"
DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where needles stand: 0 is the beginning of the text, 1 its end, right before the question."""


@dataclass(frozen=True)
class Found:
    """How often a scheme finds needles at a depth of texts of one length."""

    scheme: str
    length: int
    depth: float
    accuracy: float
    count: int


@dataclass(frozen=True)
class Haystack:
    """A text with a needle, and the answer to the question that ends it."""

    prompt: list[int]
    answer: list[int]


def require_room(tokenizer: Tokenizer, text: Tensor, length: int, first_tokens: Sequence[int] = ()) -> None:
    """ArgumentError: a text of this length has no room for a needle and its question."""
    haystack(tokenizer, text, length, 0.0, np.random.default_rng(0), first_tokens)


def has_room(tokenizer: Tokenizer, text: Tensor, length: int, first_tokens: Sequence[int] = ()) -> bool:
    """Whether a text of this length has room for a needle and its question."""
    try:
        require_room(tokenizer, text, length, first_tokens)
    except ArgumentError:
        return False
    return True


def haystack(
    tokenizer: Tokenizer, text: Tensor, length: int, depth: float, draw: np.random.Generator,
    first_tokens: Sequence[int] = (),
) -> Haystack:  # fmt: skip
    """A prompt of `length` tokens from a random place of the text. ArgumentError: there is no room for the needle."""
    key = str(draw.integers(10_000, 100_000))
    needle, question = tokenizer.encode(NEEDLE.format(key=key)), tokenizer.encode(QUESTION)
    answered = tokenizer.encode(QUESTION + ANSWER.format(key=key))
    shared = next((i for i, (a, b) in enumerate(zip(question, answered, strict=False)) if a != b), len(question))
    question, answer = answered[:shared], answered[shared:]
    room = length - len(first_tokens) - len(needle) - len(question)
    if room < 0:
        raise ArgumentError(message("lengths", f"at least {length - room} tokens, for needle and question", length))
    if len(text) < room:
        raise ArgumentError(message("lengths", f"at most {len(text)} tokens of text around a needle", room))
    start = int(draw.integers(len(text) - room + 1))
    around = text[start : start + room].tolist()
    place = round(depth * room)
    return Haystack([*first_tokens, *around[:place], *needle, *around[place:], *question], answer)


@torch.no_grad()
def finds(model: Transformer, hay: Haystack) -> bool:
    """Whether each token of the answer is the likeliest after those before it."""
    ids = torch.tensor([[*hay.prompt, *hay.answer]])
    hidden = model(ids[:, :-1])[0, -len(hay.answer) :]
    wanted = torch.tensor(hay.answer, device=hidden.device)
    return bool((score(hidden, model.unembedding, wanted, **model.logit_settings).rank == 0).all())


def find_needles(
    model: Transformer, tokenizer: Tokenizer, text: Tensor, lengths: Sequence[int],
    schemes: Mapping[str, Scheme | None], *, count: int = 4, depths: Sequence[float] = DEPTHS,
    first_tokens: Sequence[int] = (), seed: int = 0, progress: Progress | None = None, piece: Piece = found_anew,
) -> tuple[Found, ...]:  # fmt: skip
    """`count` needles at each depth and length under each scheme; all schemes have the same ones to find. `schemes`:
    as in `farspan.measure`, None being the model's own; `piece` as there."""
    found: list[Found] = []
    total = len(schemes) * len(lengths) * len(depths)

    def hidden(length: int, number: int) -> list[Haystack]:
        draw = np.random.Generator(np.random.PCG64([seed, length, number]))
        return [haystack(tokenizer, text, length, depths[number], draw, first_tokens) for _ in range(count)]

    for name, scheme in schemes.items():
        reader = switched(model, scheme)
        facts = {
            "needles": count, "depths": list(depths), "seed": seed, "first tokens": list(first_tokens),
            "scheme": settings_under(model.config, scheme),
        }  # fmt: skip
        for length in lengths:
            tell = part_of(progress, len(found), total, f"needles: {name} at {length}")
            find = partial(_right, reader, (hidden(length, number) for number in range(len(depths))), tell)
            (right,) = piece(piece_name("needles", name, length), facts, find)
            found += [Found(name, length, depth, n / count, count) for depth, n in zip(depths, right, strict=True)]
    return tuple(found)


def _right(
    model: Transformer, depths: Iterable[Sequence[Haystack]], tell: Callable[[int], object]
) -> list[list[float]]:
    """How many needles are found at each depth."""
    right: list[float] = []
    for hays in depths:
        tell(len(right))
        right.append(sum(finds(model, hay) for hay in hays))
    return [right]
