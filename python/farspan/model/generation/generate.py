"""From prompts to new tokens: prefill, then one token of every sequence at a time, or several that were guessed."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from farspan._errors import ArgumentError, Error, message
from farspan.model import arguments
from farspan.model.cache import Cache
from farspan.model.decoder import Decoder, check_not_capturing
from farspan.model.generation.draft import make_drafter
from farspan.model.generation.drawing import Drawing
from farspan.model.generation.restrictions import Text
from farspan.model.generation.steps import Steps, lacking
from farspan.model.passes import check_length, steady_tokens
from farspan.verify import agreement

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
    top_tokens: list[list[int]] = field(default_factory=list)
    """With `top=n`, the n most likely ids in the place of each token, most likely first."""
    top_logprobs: list[list[float]] = field(default_factory=list)
    """With `top=n`, nats, of those before temperature and cuts."""
    drafted: int = 0
    """How many tokens the drafter guessed."""
    accepted: int = 0
    """How many of them were right."""

    @property
    def acceptance(self) -> float | None:
        """The share of the guesses that were right; None where there were none."""
        return self.accepted / self.drafted if self.drafted else None


# What is kept for the next call, such as CUDA graphs, must serve in any mode. `inference_mode(False)` stands above
# `no_grad`, since it turns gradients on.
@torch.inference_mode(False)
@torch.no_grad()
def generate(
    model: Decoder, prompts: Any, max_new_tokens: int, temperature: Any, seed: Any,
    stop: Iterable[int] | int | None, streamer: Streamer | None, cache: Cache | None, draft: Any, draft_length: int,
    graphs: Any, positions: Any, settings: dict[str, Any],
) -> list[Completion]:  # fmt: skip
    """The meaning of `Transformer.generate`."""
    model.require_causal("generate")
    arguments.count("max_new_tokens", max_new_tokens, 0)
    arguments.count("draft_length", draft_length, 1)
    if streamer is not None and not callable(streamer):
        raise ArgumentError(message("streamer", "a callable (row, token)", repr(streamer)))
    if not isinstance(graphs, bool):
        raise ArgumentError(message("graphs", "True or False", repr(graphs)))
    if positions is not None and not callable(positions):
        raise ArgumentError(message("positions", "a callable (tokens)", repr(positions)))
    check_not_capturing(model.device)
    known = arguments.as_prompts(prompts)
    stops = end_tokens(model, stop)
    drawing = Drawing([len(prompt) for prompt in known], model.config.vocab_size, stops, temperature, seed, settings)
    drafter = make_drafter(draft, model, len(known), drawing, stops, graphs)
    writer = _Writer(known, max_new_tokens, stops, streamer)
    texts = writer.texts
    if cache is not None:
        _check_cache(model, cache, texts, max_new_tokens)
    if max_new_tokens:
        check_length(model.config, [len(text) + max_new_tokens - 1 for text in texts], "prompts")
    if not known or not max_new_tokens:
        return writer.completions

    cache = model.new_cache(len(known)) if cache is None else cache
    steps = Steps(model, drawing, graphs, positions)
    # The last token of a prompt is always read: its hidden state, which no cache keeps, gives the first new token.
    _keep_all_but_last(cache, texts)
    new: Mapping[int, Sequence[int]] = lacking(dict(enumerate(texts)), cache)
    rows = list(range(len(known)))  # the sequences that go on
    drafts: dict[int, list[int]] = {row: [] for row in rows}
    try:
        while True:
            places = [
                (row, texts[row] + array("q", drafts[row][:i])) for row in rows for i in range(len(drafts[row]) + 1)
            ]
            rows = writer.take(rows, drafts, steps(new, cache, places))
            if not rows:
                return writer.completions
            if drafter is not None:
                _keep_all_but_last(cache, texts)
                most = {row: min(draft_length, writer.left(row) - 1) for row in rows}
                most = {row: steady_tokens(model.config, len(texts[row]), count) for row, count in most.items()}
                drafts = drafter.propose({row: texts[row] for row in rows}, most)
            new = {row: [texts[row][-1], *drafts[row]] for row in rows}
    finally:  # also where a streamer or a mask raises, or the user interrupts
        _keep_all_but_last(cache, texts)


class _Writer:
    """Appends what is drawn, and knows when a text is over."""

    def __init__(
        self, prompts: list[list[int]], max_new_tokens: int, stops: frozenset[int], streamer: Streamer | None
    ) -> None:
        self.texts: list[Text] = [array("q", prompt) for prompt in prompts]
        self.completions = [Completion() for _ in prompts]
        self._most, self._stops, self._streamer = max_new_tokens, stops, streamer

    def left(self, row: int) -> int:
        """How many tokens may still come."""
        return self._most - len(self.completions[row].tokens)

    def take(self, rows: Sequence[int], drafts: dict[int, list[int]], drawn: Any) -> list[int]:
        """Of each row's draws, those behind drafts that are right, as `farspan.verify` does; the rows that go on."""
        tokens, logprobs = drawn.token.tolist(), drawn.logprob.tolist()
        lists = None if drawn.top_token is None else (drawn.top_token.tolist(), drawn.top_logprob.tolist())
        going, first = [], 0
        for row in rows:
            completion, draft = self.completions[row], drafts[row]
            after = first + len(draft) + 1
            right = int(agreement(np.array([tokens[first:after]]), np.array([draft]))[0]) if draft else 0
            taken, goes_on = 0, True
            while goes_on and taken <= right:
                place = first + taken
                if lists is not None:
                    completion.top_tokens.append(lists[0][place])
                    completion.top_logprobs.append(lists[1][place])
                goes_on = self._goes_on_after(row, tokens[place], logprobs[place])
                taken += 1
            # Behind the end of a text a guess is neither right nor wrong.
            judged = len(draft) if goes_on else min(len(draft), taken)
            completion.drafted += judged
            completion.accepted += min(right, judged)
            if goes_on:
                going.append(row)
            first = after
        return going

    def _goes_on_after(self, row: int, token: int, logprob: float) -> bool:
        completion = self.completions[row]
        if token < 0:
            made = len(completion.tokens)
            raise Error(f"prompts[{row}]: the logits after {made} new tokens are NaN, or all of them -inf or banned")
        completion.tokens.append(token)
        completion.logprobs.append(logprob)
        self.texts[row].append(token)
        stopped = self._streamer is not None and bool(self._streamer(row, token))
        if stopped or token in self._stops:
            completion.finish_reason = "stop"
            return False
        return self.left(row) > 0


def end_tokens(model: Decoder, stop: Iterable[int] | int | None) -> frozenset[int]:
    """The ids that end a sequence, by an argument `stop`."""
    if stop is None:
        return frozenset(model.config.eos_token_ids)
    return frozenset(arguments.integers("stop", [stop] if isinstance(arguments.plain(stop), int) else stop))


def _check_cache(model: Decoder, cache: Cache, texts: list[Text], max_new_tokens: int) -> None:
    """ArgumentError unless the model can use it, it holds no more than the prompts, and all new tokens but the last
    find room."""
    model.check_cache(cache, len(texts))
    for row, (text, held) in enumerate(zip(texts, cache.counts, strict=True)):
        if held > len(text):
            expected = f"at least the {held} tokens that the cache holds"
            raise ArgumentError(message(f"prompts[{row}]", expected, f"{len(text)} tokens"))
    cache.check_room([len(text) + max_new_tokens - 1 for text in texts])


def _keep_all_but_last(cache: Cache, texts: list[Text]) -> None:
    """The cache forgets what lies behind: guesses that were wrong or not looked at, and those behind a token that
    ended a text."""
    cache.truncate([min(held, len(text) - 1) for held, text in zip(cache.counts, texts, strict=True)])
