"""`farspan lens`: what each layer of a model would say, as JSON, a picture and a page to click through."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan._errors import ArgumentError, message
from farspan.commands.options import add_json, add_model, add_out
from farspan.commands.output import print_json
from farspan.commands.values import whole

if TYPE_CHECKING:
    from farspan.lab.subject import LoadedModel

SUMMARY = "What each layer of a model would say about a text: JSON, a picture and a page."

PROMPT = "def first(self, name):\n    return self.name"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_model(parser)
    add = parser.add_mutually_exclusive_group().add_argument
    add("--prompt", default=PROMPT, metavar="TEXT", help="the text (default: %(default)r)")
    add("--data", type=Path, metavar="FILE", help="a file with the text")
    add = parser.add_argument
    add("--top", type=whole(0), default=5, metavar="N", help="how many of the likeliest tokens (default: %(default)s)")
    what = "translators that farspan.train_lens trained for this model (default: none, the logit lens)"
    add("--translators", type=Path, metavar="FILE", help=what)
    add_out(parser, "out/lens", "JSON, picture and page")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    import torch

    from farspan.inside import Translators, lens
    from farspan.inside.page import document_of
    from farspan.lab.lens_report import require_matplotlib, write
    from farspan.lab.subject import load_model
    from farspan.model.generation.text import prompt_ids

    # What is missing is told now, not after the weights have been read.
    require_matplotlib()
    if options.data is not None:
        options.data.open("rb").close()
    translators = None if options.translators is None else Translators.load(options.translators)
    loaded = load_model(options.model, options.device)
    tokens = (
        prompt_ids(loaded.model, loaded.tokenizer, options.prompt)
        if options.data is None
        else _tokens_of(options.data, loaded)
    )
    found = lens(loaded.model, torch.tensor([tokens]), top=options.top, translators=translators)
    document = document_of(found, lambda token: loaded.tokenizer.decode([token]), loaded.name)
    paths = write(document, options.out)
    if options.json:
        print_json(document)
        return
    print(f"{len(tokens)} tokens, {len(found.layers)} layers of {loaded.name}")
    print("layer  mean KL to the last, nats  likeliest after the last token")
    for at, kl in zip(found.layers, found.kl.mean((1, 2)).tolist(), strict=True):
        print(f"{at:5}  {kl:25.2f}  {_likeliest(document, at)}".rstrip())
    print("written: " + ", ".join(map(str, paths)))


def _likeliest(document: dict[str, Any], layer: int) -> str:
    """What a layer would say behind the text."""
    last = zip(document["top_token"][layer][-1], document["top_logprob"][layer][-1], strict=True)
    return "  ".join(f"{document['texts'][str(token)]!r} {math.exp(logprob):.1%}" for token, logprob in last)


def _tokens_of(file: Path, loaded: LoadedModel) -> list[int]:
    """The file's tokens, behind what the tokenizer puts before a text."""
    from farspan.lab.subject import load_text

    text = load_text([file], loaded.tokenizer)
    tokens = [*text.first_tokens, *text.tokens.tolist()]
    if not tokens:
        raise ArgumentError(message("data", "some text", f"{file}, which is empty"))
    return tokens
