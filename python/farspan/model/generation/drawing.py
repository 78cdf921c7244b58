"""How `generate` draws: the sampler settings of its prompts as arguments of `farspan.sample`, draw by draw."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from farspan._backend import arrays
from farspan._backend.settings import COUNTS, REALS
from farspan._errors import ArgumentError, message
from farspan.model import arguments
from farspan.model.generation.restrictions import LISTS, Lists, Masks, Text, ragged

PENALTIES = ("repetition_penalty", "frequency_penalty", "presence_penalty", "no_repeat_ngram", "dry_multiplier")
"""What reads the sequence so far; the other settings of penalties only shape these."""

NAMES = ("order", *REALS, *COUNTS, *LISTS, "mask", "top")
"""Every setting of `generate` beside temperature and seed."""

OPTIONAL = ("logit_bias", "banned", "allowed", "bad_words", "mask")
"""Those for which None means that they are not given."""


class Drawing:
    """Seeds, temperatures and settings of a call with prompts of these lengths."""

    def __init__(
        self, lengths: Sequence[int], vocab: int, stops: Iterable[int], temperature: Any, seed: Any,
        settings: dict[str, Any],
    ) -> None:  # fmt: skip
        rows = len(lengths)
        unknown = [name for name in settings if name not in NAMES]
        if unknown:
            raise ArgumentError(message("settings", f"some of {', '.join(NAMES)}", ", ".join(unknown)))
        settings = {name: x for name, x in settings.items() if x is not None or name not in OPTIONAL}
        self._lengths = np.array(lengths, np.int64)
        self._seed, self._stream = _seeds(seed, rows)
        self._temperature = _temperatures(temperature, rows)
        self._numbers = {
            name: arguments.per_prompt(name, settings[name], rows, whole=name in COUNTS)
            for name in (*REALS, *COUNTS) if name in settings
        }  # fmt: skip
        self._shared: dict[str, Any] = {name: settings[name] for name in ("order", "top") if name in settings}
        self.top = arrays.count("top", settings.get("top", 0))
        off = REALS | COUNTS
        self._reads_text = any(np.any(self._numbers[name] != off[name]) for name in PENALTIES if name in settings)
        self._lists = Lists(rows, vocab, stops, settings) if any(name in settings for name in LISTS) else None
        self._masks = Masks(rows, vocab, settings["mask"]) if "mask" in settings else None
        self.plain = not settings
        """Whether nothing but seeds and temperatures is set."""

    def arguments(self, rows: Sequence[int], texts: Sequence[Text]) -> dict[str, Any] | None:
        """Arguments of `farspan.sample` for the token behind each of `texts`, that belong to the prompts `rows`.

        None where every temperature is 0 and no setting is given: nothing is left to chance.
        """
        index = np.array(rows)
        temperature = self._temperature[index]
        if self.plain and not temperature.any():
            return None
        position = np.array([len(text) for text in texts], np.int64)
        found: dict[str, Any] = {
            "seed": self._seed[index], "stream": self._stream[index], "temperature": temperature, "position": position,
        }  # fmt: skip
        if self.plain:
            return found
        found |= self._shared
        found |= {name: x[index] if isinstance(x, np.ndarray) else x for name, x in self._numbers.items()}
        if self._reads_text:
            found["history"] = ragged([np.frombuffer(text, np.int64) for text in texts])
            found["prompt_lengths"] = self._lengths[index]
        made = (position - self._lengths[index]).tolist()
        for restrictions in (self._lists, self._masks):
            if restrictions is not None:
                found |= restrictions.arguments(rows, texts, made)
        return found

    def permitted(self, row: int, text: Text, draft: list[int]) -> list[int]:
        """The drafts that no mask bans, up to the first that one does."""
        if self._masks is None:
            return draft
        return self._masks.permitted(row, text, len(text) - int(self._lengths[row]), draft)


def _temperatures(temperature: Any, rows: int) -> np.ndarray:
    given = np.asarray(arguments.per_prompt("temperature", temperature, rows, whole=False))
    found: np.ndarray = np.broadcast_to(arrays.float32("temperature", given), rows)
    if not all(math.isfinite(t) and t >= 0 for t in found.tolist()):
        raise ArgumentError(message("temperature", "finite numbers, at least 0", temperature))
    return found


def _seeds(seed: Any, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Seeds by their bits, and streams: an integer's row b is stream b, and one seed per prompt has stream 0."""
    try:
        shared = arguments.integer(seed)
        seeds, streams = [shared] * rows, list(range(rows))
    except TypeError:
        seeds, streams = arguments.integers("seed", seed), [0] * rows
    if len(seeds) != rows:
        raise ArgumentError(message("seed", f"an integer, or {rows}, one per prompt", f"{len(seeds)}"))
    if not all(-(2**63) <= s < 2**64 for s in seeds):
        raise ArgumentError(message("seed", "64-bit integers", repr(seed)))
    signed = [s - 2**64 if s >= 2**63 else s for s in seeds]
    return np.array(signed, np.int64), np.array(streams, np.int64)
