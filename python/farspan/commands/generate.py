"""`farspan generate`: a prompt, and what the model makes of it, as it is drawn."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan._errors import ArgumentError, message
from farspan.commands.options import add_json, add_model
from farspan.commands.output import print_json, print_now
from farspan.commands.sampling import add_sampler_options, sampler_settings
from farspan.commands.values import real, whole
from farspan.tokenizer import ByteTokenizer, TextStream

if TYPE_CHECKING:
    from farspan.lab.subject import LoadedModel
    from farspan.model import Completion, Transformer

_OF_NO_CHARACTER = re.compile("[\ud800-\udfff]")
"""What Python makes of an argument's bytes that are no UTF-8."""

SUMMARY = "Continue a prompt, streaming the text as it is drawn."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add = parser.add_argument
    add("--prompt", default="def ", metavar="TEXT", help="what to continue (default: %(default)r)")
    add("--max-new-tokens", type=whole(0), default=256, metavar="N", help="at most (default: %(default)s)")
    add("--temperature", type=real(0), default=0.8, metavar="T", help="0 is greedy (default: %(default)s)")
    add("--seed", type=whole(-(2**63), 2**63), default=0, metavar="S", help="of the draws (default: %(default)s)")
    add_json(parser)
    add_sampler_options(parser)


def run(options: argparse.Namespace) -> None:
    write_completion(
        options.model, options.prompt, max_new_tokens=options.max_new_tokens, temperature=options.temperature,
        seed=options.seed, as_json=options.json, settings=sampler_settings(options), device=options.device,
    )  # fmt: skip


def write_completion(
    folder: Path | None, prompt: str, *, max_new_tokens: int, temperature: float, seed: int, as_json: bool,
    settings: dict[str, Any], device: str = "cpu",
) -> None:  # fmt: skip
    """Print the prompt and its completion, or one JSON document about them. `settings`: further arguments of
    `model.generate`, bad words as texts and a model that drafts as its folder."""
    from farspan.lab.subject import load_model

    loaded = load_model(folder, device)
    options = settings | {name: read(loaded, settings[name]) for name, read in _READ.items() if name in settings}
    ids = prompt_ids(loaded, prompt)
    started = time.perf_counter()
    show = (lambda text: None) if as_json else print_now
    readable = _OF_NO_CHARACTER.sub("\ufffd", prompt)
    show(readable)
    completion, text = stream_completion(loaded, ids, max_new_tokens, temperature, seed, show, **options)
    seconds = time.perf_counter() - started
    if as_json:
        document = {
            "model": loaded.name,
            "prompt": readable,
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
        print_json(document)
        return
    print()
    if sys.stderr.isatty():
        count = len(completion.tokens)
        drafts = f", {completion.accepted} of {completion.drafted} drafts accepted" if completion.drafted else ""
        speed = f"{count} tokens in {seconds:.2f} s, {count / seconds:.0f} tokens/s"
        print(f"[{speed}{drafts}, seed {seed}]", file=sys.stderr)


def stream_completion(
    loaded: LoadedModel, ids: list[int], max_new_tokens: int, temperature: float, seed: int,
    show: Callable[[str], object], **settings: Any,
) -> tuple[Completion, str]:  # fmt: skip
    """Continue one prompt; `show` gets each piece of new text at once. Text of a stop token is left out."""
    stops = set(loaded.model.config.eos_token_ids)
    stream, pieces = TextStream(loaded.tokenizer, ids), []

    def take(row: int, token: int) -> None:
        if token not in stops:
            put(stream.push(token))

    def put(piece: str) -> None:
        pieces.append(piece)
        show(piece)

    (completion,) = loaded.model.generate(
        [ids], max_new_tokens=max_new_tokens, temperature=temperature, seed=seed, streamer=take, **settings,
    )  # fmt: skip
    put(stream.end())
    return completion, "".join(pieces)


def prompt_ids(loaded: LoadedModel, prompt: str) -> list[int]:
    """The prompt's tokens; for an empty one the model's token for the beginning of a text."""
    if _OF_NO_CHARACTER.search(prompt) and not isinstance(loaded.tokenizer, ByteTokenizer):
        raise ArgumentError(message("prompt", "UTF-8, the only form that this model's tokenizer reads", ascii(prompt)))
    ids = loaded.tokenizer.encode(prompt, special=True)
    begin = loaded.model.config.bos_token_id
    if ids:
        return ids
    if begin is None:
        raise ArgumentError(message("prompt", "some text: this model has no token that begins one", repr(prompt)))
    return [begin]


def _bad_words(loaded: LoadedModel, texts: list[str]) -> list[list[int]]:
    return [loaded.tokenizer.encode(text) for text in texts]


def _drafter(loaded: LoadedModel, name: str) -> str | Transformer:
    from farspan.model import Transformer
    from farspan.model.generation.draft import PROMPT_LOOKUP

    return name if name == PROMPT_LOOKUP else Transformer.from_pretrained(name, device=loaded.model.device)


_READ: dict[str, Callable[[LoadedModel, Any], Any]] = {"bad_words": _bad_words, "draft": _drafter}
"""Settings that need the model or its tokenizer to be read."""
