"""`farspan generate`: a prompt, and what the model makes of it, as it is drawn."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from farspan.commands.options import add_json, add_model
from farspan.commands.output import print_json, print_now
from farspan.commands.sampling import add_sampler_options, ready_settings, sampler_settings
from farspan.commands.values import real, whole

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
    from farspan.model.generation.text import NO_CHARACTER, generate_text, prompt_ids

    loaded = load_model(folder, device)
    ids = prompt_ids(loaded.model, loaded.tokenizer, prompt)
    options = ready_settings(loaded, settings)
    started = time.perf_counter()
    show = (lambda text: None) if as_json else print_now
    readable = NO_CHARACTER.sub("\ufffd", prompt)
    show(readable)
    (completion,) = generate_text(
        loaded.model, loaded.tokenizer, [ids], max_new_tokens=max_new_tokens, temperature=temperature, seed=seed,
        streamer=lambda row, text: show(text), **options,
    )  # fmt: skip
    seconds = time.perf_counter() - started
    if as_json:
        document = {
            "model": loaded.name,
            "prompt": readable,
            "text": completion.text,
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
