"""`farspan generate`: a prompt, and what the model makes of it, as it is drawn."""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.lab.subject import LoadedModel, load_model
from farspan.model import Completion, Transformer
from farspan.model.generation.draft import PROMPT_LOOKUP
from farspan.tokenizer import TextStream


def write_completion(
    folder: Path | None, prompt: str, *, max_new_tokens: int, temperature: float, seed: int, as_json: bool,
    settings: dict[str, Any], device: str = "cpu",
) -> None:  # fmt: skip
    """Print the prompt and its completion, or one JSON document about them. `settings`: further arguments of
    `model.generate`, bad words as texts and a model that drafts as its folder."""
    loaded = load_model(folder, device)
    options = settings | {name: read(loaded, settings[name]) for name, read in _READ.items() if name in settings}
    started = time.perf_counter()
    show = (lambda text: None) if as_json else _print_now
    show(prompt)
    completion, text = stream_completion(loaded, prompt, max_new_tokens, temperature, seed, show, **options)
    seconds = time.perf_counter() - started
    if as_json:
        document = {
            "model": loaded.name,
            "prompt": prompt,
            "text": text,
            "tokens": completion.tokens,
            "logprobs": completion.logprobs,
            "finish_reason": completion.finish_reason,
            "temperature": temperature,
            "seed": seed,
            "settings": settings,
            "seconds": seconds,
        }
        if "draft" in settings:
            document |= {"drafted": completion.drafted, "accepted": completion.accepted}
        if "top" in settings:
            document |= {"top_tokens": completion.top_tokens, "top_logprobs": completion.top_logprobs}
        print(json.dumps(_without_infinities(document), allow_nan=False))
        return
    print()
    if sys.stderr.isatty():
        count = len(completion.tokens)
        drafts = f", {completion.accepted} of {completion.drafted} drafts accepted" if completion.drafted else ""
        speed = f"{count} tokens in {seconds:.2f} s, {count / seconds:.0f} tokens/s"
        print(f"[{speed}{drafts}, seed {seed}]", file=sys.stderr)


def stream_completion(
    loaded: LoadedModel, prompt: str, max_new_tokens: int, temperature: float, seed: int,
    show: Callable[[str], object], **settings: Any,
) -> tuple[Completion, str]:  # fmt: skip
    """Continue one prompt; `show` gets each piece of new text at once. Text of a stop token is left out."""
    stops = set(loaded.model.config.eos_token_ids)
    stream, pieces = TextStream(loaded.tokenizer), []

    def take(row: int, token: int) -> None:
        if token not in stops:
            put(stream.push(token))

    def put(piece: str) -> None:
        pieces.append(piece)
        show(piece)

    (completion,) = loaded.model.generate(
        [prompt_ids(loaded, prompt)], max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, streamer=take,
        **settings,
    )  # fmt: skip
    put(stream.end())
    return completion, "".join(pieces)


def prompt_ids(loaded: LoadedModel, prompt: str) -> list[int]:
    """The prompt's tokens; for an empty one the model's token for the beginning of a text."""
    ids = loaded.tokenizer.encode(prompt)
    begin = loaded.model.config.bos_token_id
    if ids:
        return ids
    if begin is None:
        raise ArgumentError(message("prompt", "some text: this model has no token that begins one", repr(prompt)))
    return [begin]


def _bad_words(loaded: LoadedModel, texts: list[str]) -> list[list[int]]:
    return [loaded.tokenizer.encode(text) for text in texts]


def _drafter(loaded: LoadedModel, name: str) -> str | Transformer:
    return name if name == PROMPT_LOOKUP else Transformer.from_pretrained(name, device=loaded.model.device)


_READ: dict[str, Callable[[LoadedModel, Any], Any]] = {"bad_words": _bad_words, "draft": _drafter}
"""Settings that need the model or its tokenizer to be read."""


def _without_infinities(x: Any) -> Any:
    """What JSON can hold: a banned token's -inf by its name."""
    if isinstance(x, dict):
        return {name: _without_infinities(value) for name, value in x.items()}
    if isinstance(x, list):
        return [_without_infinities(value) for value in x]
    return str(x) if isinstance(x, float) and math.isinf(x) else x


def _print_now(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
