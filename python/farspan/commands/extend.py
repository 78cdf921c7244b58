"""`farspan extend`: how to take a model to longer texts, measured on a text of yours, and the checkpoint."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan._errors import ArgumentError, message
from farspan._files import remove_unfinished, write_json
from farspan.commands.options import add_json, add_model
from farspan.commands.output import print_json
from farspan.commands.progress import progress_on_stderr
from farspan.commands.scheme import look_here
from farspan.commands.values import entries, real, whole
from farspan.lab import schemes
from farspan.tokenizer import ByteTokenizer

if TYPE_CHECKING:
    from farspan.lab.extension import Extension
    from farspan.lab.extension.checkpoint import Readers

SUMMARY = "Take a model to longer texts: measure methods, train some, recommend one, and write its checkpoint."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        "methods:\n  pose          YaRN, trained on short texts with a gap in their positions (with --steps)\n"
        "  drope         no positions any more, queries scaled by log n (with --steps)\n"
        "  lora          YaRN, trained by adapters, norms and embeddings alone (with --steps; needs the package peft)\n"
        f"{schemes.command_line_help(own=False)}\n\n"
        "linear, yarn, pose, drope and lora train where --steps is given. The text is split then: its last quarter is\n"
        "measured, unless --train-data has other texts to learn from."
    )
    add_model(parser)
    add = parser.add_argument
    add("--to", type=whole(2), required=True, metavar="LENGTH", help="tokens that the model is to read at once")
    add("--data", type=Path, nargs="+", action="extend", required=True, metavar="FILE", help="text to measure on")
    add("--out", type=Path, required=True, metavar="DIR", help="the folder for the checkpoint and what was found")
    add("--methods", type=entries, metavar="NAME,...", help="see below (default: what suits a model with RoPE)")
    what = "numbers to hide at each of five depths of every length, and to ask for (default: %(default)s)"
    add("--needles", type=whole(0), default=2, metavar="N", help=what)
    what = "pieces of the text to be copied at every length (default: %(default)s)"
    add("--copies", type=whole(0), default=4, metavar="N", help=what)
    add("--steps", type=whole(1), metavar="N", help="train with methods that can (default: none is trained)")
    what = "text to learn from (default: a part of --data that is not measured)"
    add("--train-data", type=Path, nargs="+", action="extend", metavar="FILE", help=what)
    add("--learning-rate", type=real(above=0), default=2e-5, metavar="X", help="(default: %(default)g)")
    what = "tokens that a training step reads at most (default: %(default)s)"
    add("--batch-tokens", type=whole(1), default=4096, metavar="N", help=what)
    add("--seed", type=whole(0, 2**63), default=0, metavar="S", help="of the trainings (default: %(default)s)")
    add("--trained", type=whole(2), metavar="N", help="trained length (default: what config.json says)")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    _check(options)
    from farspan.embedded import FOLDER
    from farspan.lab import report
    from farspan.lab.extension import Tuning, checkpoint, extend, lora, methods
    from farspan.lab.subject import copy_tokenizer, load_model, load_text, open_model
    from farspan.lab.windows import window_ends

    # What is missing or does not fit is told now, not after minutes.
    report.require_matplotlib()
    if "lora" in methods.split(options.methods, trains=options.steps is not None)[1]:
        lora.require_peft()
    opened = None if options.model is None else open_model(options.model)
    place = FOLDER if opened is None else opened[0].place
    if options.out.exists() and options.out.samefile(place):
        raise ArgumentError(message("out", "another folder than the model's", options.out))
    tokenizer = ByteTokenizer() if opened is None else opened[1]
    text = load_text(options.data, tokenizer)
    window_ends(len(text.tokens), options.to, windows=1, targets=1)
    learnt = load_text(options.train_data, tokenizer).tokens if options.train_data else None
    loaded = load_model(options.model, options.device, opened)
    tuning = None
    if options.steps:
        tuning = Tuning(options.steps, options.batch_tokens, options.learning_rate, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    partial = options.out / "extend-partial.json"
    remove_unfinished(partial)
    partial.unlink(missing_ok=True)
    try:
        with progress_on_stderr("extending") as progress:
            found = extend(
                loaded.model, text.tokens, options.to, options.methods, tuning, train_tokens=learnt,
                trained_length=options.trained, tokenizer=loaded.tokenizer, needles=options.needles,
                copies=options.copies, progress=progress, say=lambda said: print(said, file=sys.stderr),
                keep=lambda so_far: write_json(partial, so_far.to_dict()), model_name=loaded.name, text_name=text.name,
                notes=text.notes, bytes_per_token=text.bytes_per_token, first_tokens=text.first_tokens,
            )  # fmt: skip
    except BaseException:  # by Ctrl-C, or at a length that does not fit into memory
        if partial.exists():
            print(f"farspan: what was found so far: {partial}", file=sys.stderr)
        raise
    readers = checkpoint.write(found.model, options.to, options.out)
    copy_tokenizer(place, options.out)
    report.draw(found.measurement, options.out / "extend.png")
    if found.measurement.needles or found.measurement.copies:
        report.retrieval.draw(found.measurement, options.out / "retrieval.png")
    written = {
        "folder": str(options.out), "transformers_reads_it": readers.transformers,
        "llama_cpp_reads_it": readers.llama_cpp,
    }  # fmt: skip
    document = {**found.to_dict(), "checkpoint": written}
    write_json(options.out / "extend.json", document)
    partial.unlink(missing_ok=True)
    if options.json:
        print_json(document)
        return
    _print(found, options.out, readers)


def _check(options: argparse.Namespace) -> None:
    """What cannot be is wrong usage."""
    if options.train_data and not options.steps:
        options.parser.error("--train-data: expected --steps beside it, given none")
    look_here()
    from farspan.lab.extension import methods

    try:
        methods.split(options.methods, trains=options.steps is not None)
    except ArgumentError as error:
        options.parser.error(str(error))


def _print(found: Extension, out: Path, readers: Readers) -> None:
    from farspan.lab import report

    said: dict[str, Any] = found.evidence
    home, best = found.measurement.trained_length, found.recommended
    print(report.table(found.measurement))
    if found.measurement.needles:
        print(report.needle_table(found.measurement))
    if found.measurement.copies:
        print(report.copy_table(found.measurement))
    for note in found.measurement.notes:
        print(f"note: {note}")
    print(f"recommended: {best}")
    if best == "own":
        print(f"No method reads {found.to} tokens better than the model as it is.")
    else:
        print(f"  at {found.to} tokens {said['gain_over_own']:.3f} nats per token less than the model as it is")
        error = "" if said["cost_error"] != said["cost_error"] else f" (standard error {said['cost_error']:.3f})"
        print(f"  at {home} tokens {said['cost_at_trained_length']:+.3f} against it{error}")
    for what, shares in found.retrieval.items():
        if shares and (most := max(shares, key=lambda name: shares[name])) != best and shares[most] > shares[best]:
            shown = f"{100 * shares[best]:.0f} %, and {100 * shares[most]:.0f} % by {most}"
            print(f"  {what.replace('_', ' ')} at {found.to} tokens: {shown}")
    print(f"written: {out} with extend.json and pictures. {_read_by(readers)}")


def _read_by(readers: Readers) -> str:
    if not readers.transformers:
        return "ONLY farspan reads it: no config.json says this scheme"
    if not readers.llama_cpp:
        return "transformers and farspan read it; llama.cpp's converter passes over this scheme"
    return "transformers and farspan read it, and llama.cpp once it is converted"
