"""The options of `farspan generate` for the sampler settings, one line each, and what was given as arguments."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from farspan._backend.settings import MAX_TOP, ORDERS
from farspan.commands.values import biases, ids, real, some_text, whole

if TYPE_CHECKING:
    from farspan.lab.subject import LoadedModel
    from farspan.model import Transformer

Kind = Callable[[str], Any]

SHARE, FROM_ZERO, ANY = real(0, 1), real(0), real()

CUTS: dict[str, tuple[Kind, str, str]] = {
    "top_k": (whole(0), "K", "keep the K most likely tokens; 0 keeps all"),
    "top_p": (SHARE, "P", "keep the most likely tokens until their probability reaches P; 1 keeps all"),
    "min_p": (SHARE, "P", "drop tokens less likely than P times the most likely one"),
    "typical": (real(most=1, above=0), "P", "keep the tokens of the most typical information up to mass P"),
    "epsilon": (SHARE, "E", "drop tokens less likely than E"),
    "eta": (SHARE, "E", "drop tokens less likely than E, or than a share of it where the entropy is high"),
    "top_h": (real(most=1, above=0), "H", "keep the most likely tokens while their entropy is at most H of the whole"),
    "top_n_sigma": (FROM_ZERO, "N", "drop logits more than N standard deviations below the largest; 0 keeps all"),
    "xtc_probability": (SHARE, "P", "how often all but the least likely of the likely tokens are dropped"),
    "xtc_threshold": (SHARE, "P", "from what probability on XTC calls a token likely (default: 0.1)"),
    "min_keep": (whole(1), "N", "tokens that cuts of the orders hf and llamacpp leave at least (default: 1)"),
}

PENALTIES: dict[str, tuple[Kind, str, str]] = {
    "repetition_penalty": (real(above=0), "R", "divide positive logits of ids seen so far by R, multiply the others"),
    "frequency_penalty": (ANY, "F", "subtract F for each time that a new token came already"),
    "presence_penalty": (ANY, "F", "subtract F once from every token that came already"),
    "no_repeat_ngram": (whole(0), "N", "never write the same N tokens twice; 0 allows it"),
    "dry_multiplier": (FROM_ZERO, "M", "subtract M * base ** (match - allowed length) from what repeats a passage"),
    "dry_base": (real(1), "B", "the base of that (default: 1.75)"),
    "dry_allowed_length": (whole(0), "N", "how long a repeated passage may be before it costs (default: 2)"),
}

RESTRICTIONS: dict[str, tuple[Kind, str, str]] = {
    "logit_bias": (biases, "ID=X,...", "add X to the logit of a token; -inf bans it"),
    "banned": (ids, "ID,...", "token ids that are never drawn"),
    "allowed": (ids, "ID,...", "the only token ids that are drawn"),
    "min_tokens": (whole(0), "N", "do not end the text before N new tokens"),
}

GROUPS = {"cuts": CUTS, "penalties": PENALTIES, "restrictions": RESTRICTIONS}


def add_sampler_options(parser: argparse.ArgumentParser, *, logprobs: bool = True) -> None:
    """Every setting of `model.generate` that a command line can hold; `logprobs`: those of the JSON document too."""
    for title, options in GROUPS.items():
        group = parser.add_argument_group(title)
        for name, (kind, metavar, what) in options.items():
            group.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar=metavar, help=what)
        if title == "cuts":
            group.add_argument("--order", choices=ORDERS, help="whose chain of cuts (default: hf)")
    what = "a text never to write, as the tokenizer splits it; may be repeated"
    group.add_argument("--bad-word", type=some_text, dest="bad_words", action="append", metavar="TEXT", help=what)
    what = "end before this text, which is not shown; may be repeated"
    group.add_argument("--stop", type=some_text, dest="stop_strings", action="append", metavar="TEXT", help=what)
    group = parser.add_argument_group("speculative decoding and details")
    what = "guess tokens ahead, by 'prompt-lookup' or a smaller model's folder: the same text, sooner"
    group.add_argument("--draft", metavar="DRAFTER", help=what)
    group.add_argument("--draft-length", type=whole(1), metavar="N", help="how many tokens to guess (default: 4)")
    if not logprobs:
        return
    what = "with --json, the N most likely tokens in each place with their log-probabilities"
    group.add_argument("--logprobs", type=whole(0, MAX_TOP + 1), dest="top", metavar="N", help=what)


def sampler_settings(options: argparse.Namespace) -> dict[str, Any]:
    """What was given, by the names of `model.generate`; bad words and the drafter as they were written."""
    names = [*CUTS, *PENALTIES, *RESTRICTIONS, "order", "bad_words", "stop_strings", "draft", "draft_length", "top"]
    given = {name: getattr(options, name, None) for name in names}
    if given["top"] and not options.json:
        options.parser.error("--logprobs: expected --json beside it, where they are printed, given none")
    if given["draft_length"] and not given["draft"]:
        options.parser.error("--draft-length: expected --draft beside it, given none")
    return {name: value for name, value in given.items() if value is not None}


def ready_settings(loaded: LoadedModel, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with bad words as ids, and with the model that drafts in place of its name."""
    return settings | {name: read(loaded, settings[name]) for name, read in _READ.items() if name in settings}


def _bad_words(loaded: LoadedModel, texts: list[str]) -> list[list[int]]:
    return [loaded.tokenizer.encode(text) for text in texts]


def _drafter(loaded: LoadedModel, name: str) -> str | Transformer:
    from farspan.model import Transformer
    from farspan.model.generation.draft import PROMPT_LOOKUP

    return name if name == PROMPT_LOOKUP else Transformer.from_pretrained(name, device=loaded.model.device)


_READ: dict[str, Callable[[LoadedModel, Any], Any]] = {"bad_words": _bad_words, "draft": _drafter}
"""Settings that need the model or its tokenizer to be read."""
