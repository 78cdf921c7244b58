"""`farspan generate`: a prompt, and what the model makes of it, as it is drawn."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from farspan._errors import ArgumentError, message
from farspan.lab.subject import LoadedModel, load_model
from farspan.model import Completion
from farspan.tokenizer import TextStream


def write_completion(
    folder: Path | None, prompt: str, *, max_new_tokens: int, temperature: float, seed: int, as_json: bool
) -> None:
    """Print the prompt and its completion, or one JSON document about them."""
    loaded = load_model(folder)
    started = time.perf_counter()
    show = (lambda text: None) if as_json else _print_now
    show(prompt)
    completion, text = stream_completion(loaded, prompt, max_new_tokens, temperature, seed, show)
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
            "seconds": seconds,
        }
        print(json.dumps(document))
        return
    print()
    if sys.stderr.isatty():
        count = len(completion.tokens)
        print(f"[{count} tokens in {seconds:.2f} s, {count / seconds:.0f} tokens/s, seed {seed}]", file=sys.stderr)


def stream_completion(
    loaded: LoadedModel, prompt: str, max_new_tokens: int, temperature: float, seed: int, show: Callable[[str], object]
) -> tuple[Completion, str]:
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
        [prompt_ids(loaded, prompt)], max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, streamer=take
    )
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


def _print_now(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
