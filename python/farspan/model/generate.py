"""From prompts to new tokens: prefill, then one token of every sequence at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from farspan._errors import ArgumentError, Error, message
from farspan.model.cache import Cache
from farspan.model.passes import plan_pass

if TYPE_CHECKING:
    from farspan.model.transformer import Transformer

Streamer = Callable[[int, int], Any]


@dataclass
class Completion:
    """What was generated for one prompt."""

    tokens: list[int] = field(default_factory=list)
    """The new ids; the stop token, where one came, is the last."""
    logprobs: list[float] = field(default_factory=list)
    """Nats, of each token under the distribution it was drawn from; 0 at temperature 0."""
    finish_reason: str = "length"
    """"length" or "stop"."""


@dataclass(frozen=True)
class Draws:
    """How the next tokens are drawn, one entry per sequence that still goes on."""

    seed: np.ndarray
    stream: np.ndarray
    temperature: np.ndarray
    position: np.ndarray
    """The index that the next token will have in its sequence."""

    def settings(self) -> dict[str, Any] | None:
        """Arguments of `farspan.sample`; None where every temperature is 0 and nothing is left to chance."""
        return vars(self) if self.temperature.any() else None

    def after(self, kept: list[int]) -> Draws:
        """Those of the sequences `kept`, one token later."""
        return Draws(self.seed[kept], self.stream[kept], self.temperature[kept], self.position[kept] + 1)


@torch.no_grad()
def generate(
    model: Transformer,
    prompts: Any,
    max_new_tokens: int,
    temperature: Any,
    seed: Any,
    stop: Iterable[int] | int | None,
    streamer: Streamer | None,
    cache: Cache | None,
) -> list[Completion]:
    """The meaning of `Transformer.generate`."""
    if isinstance(max_new_tokens, bool) or not isinstance(max_new_tokens, int) or max_new_tokens < 0:
        raise ArgumentError(message("max_new_tokens", "an integer, at least 0", repr(max_new_tokens)))
    if streamer is not None and not callable(streamer):
        raise ArgumentError(message("streamer", "a callable (row, token)", repr(streamer)))
    known = _as_prompts(prompts)
    stops = frozenset(model.config.eos_token_ids if stop is None else _integers("stop", stop))
    draws = _draws(temperature, seed, [len(prompt) for prompt in known])
    completions = [Completion() for _ in known]
    if not known or not max_new_tokens:
        return completions

    cache = model.new_cache(len(known)) if cache is None else cache
    kernels = model.kernels
    hidden = _prefill(model, known, cache, kernels)
    rows = list(range(len(known)))  # the sequences that go on
    while True:
        drawn = kernels.draw(hidden, model.unembedding, draws.settings())
        kept, tokens = [], drawn.token.tolist()
        for index, (row, new, score) in enumerate(zip(rows, tokens, drawn.logprob.tolist(), strict=True)):
            goes_on = _take(completions[row], row, new, score, stops, streamer)
            if goes_on and len(completions[row].tokens) < max_new_tokens:
                kept.append(index)
        if not kept:
            return completions
        draws = draws.after(kept)
        rows = [rows[index] for index in kept]
        one_each = [0] * len(known)
        for row in rows:
            one_each[row] = 1
        newest = np.array([tokens[index] for index in kept])
        hidden = model.run(newest, plan_pass(model.config, one_each, cache), kernels)


def _take(
    completion: Completion, row: int, token: int, logprob: float, stops: frozenset[int], streamer: Streamer | None
) -> bool:
    """Appends a drawn token; whether nothing stops the sequence after it."""
    if token < 0:
        raise Error(f"prompts[{row}]: the logits after {len(completion.tokens)} new tokens are NaN or all -inf")
    completion.tokens.append(token)
    completion.logprobs.append(logprob)
    stopped = streamer is not None and bool(streamer(row, token))
    if stopped or token in stops:
        completion.finish_reason = "stop"
        return False
    return True


def _prefill(model: Transformer, prompts: list[list[int]], cache: Cache, kernels: Any) -> Any:
    """Hidden state of each prompt's last token `[batch, dim]`; what the cache holds already is not computed again."""
    model.check_cache(cache, len(prompts))
    for row, (prompt, held) in enumerate(zip(prompts, cache.counts, strict=True)):
        if held > len(prompt):
            expected = f"at least the {held} tokens that the cache holds"
            raise ArgumentError(message(f"prompts[{row}]", expected, f"{len(prompt)} tokens"))
    # The last token is always computed: its hidden state, which no cache keeps, gives the first new token.
    cache.truncate([min(held, len(prompt) - 1) for prompt, held in zip(prompts, cache.counts, strict=True)])
    lacking = [prompt[held:] for prompt, held in zip(prompts, cache.counts, strict=True)]
    counts = [len(prompt) for prompt in lacking]
    tokens = np.array([token for prompt in lacking for token in prompt], np.int64)
    return model.run(tokens, plan_pass(model.config, counts, cache), kernels)[np.cumsum(counts) - 1]


# ----------------------------------------------------------------------------------------------------------- arguments


def _as_prompts(prompts: Any) -> list[list[int]]:
    listed = prompts.tolist() if hasattr(prompts, "tolist") else prompts
    if not isinstance(listed, (list, tuple)):
        raise ArgumentError(message("prompts", "a list of id lists, or ids [batch, time]", repr(prompts)))
    known = [_integers(f"prompts[{row}]", prompt) for row, prompt in enumerate(listed)]
    for row, prompt in enumerate(known):
        if not prompt:
            raise ArgumentError(message(f"prompts[{row}]", "at least one token", "none"))
    return known


def _integers(name: str, value: Any) -> list[int]:
    listed = value.tolist() if hasattr(value, "tolist") else value
    listed = [listed] if isinstance(listed, int) and name == "stop" else listed
    try:
        return [_integer(x) for x in listed]
    except TypeError:
        raise ArgumentError(message(name, "integers", repr(value))) from None


def _integer(value: Any) -> int:
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError
    return int(value.__index__())


def _draws(temperature: Any, seed: Any, lengths: list[int]) -> Draws:
    rows = len(lengths)
    temperatures = _numbers("temperature", temperature, rows)
    if not all(math.isfinite(t) and t >= 0 for t in temperatures):
        raise ArgumentError(message("temperature", "finite numbers, at least 0", temperature))
    try:
        shared = _integer(seed)
        seeds, streams = [shared] * rows, list(range(rows))
    except TypeError:
        seeds, streams = _integers("seed", seed), [0] * rows
    if len(seeds) != rows:
        raise ArgumentError(message("seed", f"an integer, or {rows}, one per prompt", f"{len(seeds)}"))
    if not all(-(2**63) <= s < 2**64 for s in seeds):
        raise ArgumentError(message("seed", "64-bit integers", repr(seed)))
    return Draws(
        np.array([s - 2**64 if s >= 2**63 else s for s in seeds], np.int64),
        np.array(streams, np.int64),
        np.array(temperatures, np.float32),
        np.array(lengths, np.int64),
    )


def _numbers(name: str, value: Any, rows: int) -> list[float]:
    listed = value.tolist() if hasattr(value, "tolist") else value
    try:
        numbers = [float(x) for x in listed] if isinstance(listed, (list, tuple)) else [float(listed)] * rows
    except (TypeError, ValueError):
        raise ArgumentError(message(name, "a number, or one per prompt", repr(value))) from None
    if len(numbers) != rows:
        raise ArgumentError(message(name, f"a number, or {rows}, one per prompt", f"{len(numbers)} numbers"))
    return numbers
