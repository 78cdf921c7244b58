"""Drafters of speculative decoding: guesses at the next tokens that the model checks in one pass instead of many.

A guess is right when it is the token that the model draws itself, so a drafter decides how fast a text comes and never
what it says.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from typing import Any, Protocol

from farspan._errors import ArgumentError, message
from farspan.model.decoder import Decoder
from farspan.model.generation.drawing import Drawing
from farspan.model.generation.restrictions import Text
from farspan.model.generation.steps import Steps, lacking

PROMPT_LOOKUP = "prompt-lookup"


class Drafter(Protocol):
    """What `generate` asks for guesses."""

    def propose(self, texts: dict[int, Text], most: dict[int, int]) -> dict[int, list[int]]:
        """Up to `most[row]` tokens that may follow each sequence; a token that would end it is not proposed."""
        ...


def make_drafter(
    draft: Any, model: Decoder, batch: int, drawing: Drawing, stops: frozenset[int], graphs: bool
) -> Drafter | None:
    """The drafter that `draft` names: another model of the same vocabulary, "prompt-lookup", or None."""
    if draft is None:
        return None
    if draft == PROMPT_LOOKUP:
        return PromptLookup(batch, drawing, stops)
    if not isinstance(draft, Decoder):
        raise ArgumentError(message("draft", f"a farspan.Transformer, {PROMPT_LOOKUP!r} or None", repr(draft)))
    ours, theirs = model.config.vocab_size, draft.config.vocab_size
    if ours != theirs:
        raise ArgumentError(message("draft", f"a model of the same {ours} tokens", f"one of {theirs} tokens"))
    return ModelDrafter(draft, batch, drawing, stops, graphs)


class ModelDrafter:
    """Another model, that draws with the same noise under the same settings: where the two give a token similar
    probabilities they mostly draw the same one (Daliri, Musco and Suresh 2024, arXiv 2408.07978)."""

    def __init__(self, model: Decoder, batch: int, drawing: Drawing, stops: Iterable[int], graphs: bool = True) -> None:
        self._steps, self._cache = Steps(model, drawing, graphs), model.new_cache(batch)
        self._ends = {-1, *stops}  # -1: nothing could be drawn

    def propose(self, texts: dict[int, Text], most: dict[int, int]) -> dict[int, list[int]]:
        # A text grows by right guesses and one token more: what the cache holds before that one is the text.
        held = list(self._cache.counts)
        for row, text in texts.items():
            held[row] = min(held[row], len(text) - 1)
        self._cache.truncate(held)
        drafts: dict[int, list[int]] = {row: [] for row in texts}
        guessed = {row: text[:] for row, text in texts.items() if most[row]}
        while guessed:
            places = list(guessed.items())
            drawn = self._steps(lacking(guessed, self._cache), self._cache, places)
            for (row, _), token in zip(places, drawn.token.tolist(), strict=True):
                if token in self._ends:
                    del guessed[row]
                    continue
                guessed[row].append(token)
                drafts[row].append(token)
                if len(drafts[row]) == most[row]:
                    del guessed[row]
        return drafts


class PromptLookup:
    """What followed the last tokens where they stood before in the same text (Saxena 2023, "prompt lookup decoding"):
    the longest match of up to three tokens counts, and of those the latest."""

    LONGEST = 3

    def __init__(self, batch: int, drawing: Drawing, stops: frozenset[int]) -> None:
        self._drawing, self._stops = drawing, stops
        self._ends: list[dict[tuple[int, ...], int]] = [{} for _ in range(batch)]  # where each run of tokens last ended
        self._noted = [0] * batch

    def propose(self, texts: dict[int, Text], most: dict[int, int]) -> dict[int, list[int]]:
        guesses = {row: self._guess(row, text, most[row]) for row, text in texts.items()}
        return {row: self._drawing.permitted(row, texts[row], guess) for row, guess in guesses.items()}

    def _guess(self, row: int, text: Text, most: int) -> list[int]:
        ends = self._ends[row]
        for end in range(self._noted[row] + 1, len(text)):
            for run in range(1, min(self.LONGEST, end) + 1):
                ends[tuple(text[end - run : end])] = end
        self._noted[row] = len(text) - 1
        matches = (ends.get(tuple(text[-run:])) for run in range(min(self.LONGEST, len(text)), 0, -1))
        start = next((end for end in matches if end is not None), None)
        if start is None:
            return []
        repeated = text + array("q")  # a text that repeats itself at once goes on with its own continuation
        for at in range(start, start + most):
            if repeated[at] in self._stops:
                break
            repeated.append(repeated[at])
        return repeated[len(text) :].tolist()
