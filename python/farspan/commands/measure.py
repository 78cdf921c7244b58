"""`farspan measure`: from a model, a text and names of schemes to files."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan._errors import ArgumentError, message
from farspan.commands.options import add_json, add_model, add_out
from farspan.commands.output import print_json
from farspan.commands.progress import progress_on_stderr
from farspan.commands.values import entries, whole
from farspan.lab import schemes
from farspan.tokenizer import ByteTokenizer

if TYPE_CHECKING:
    from farspan.lab.measurement import Measurement
    from farspan.lab.subject import LoadedModel, Text

SUMMARY = "Loss against context length under several position schemes: JSON, CSV and a picture."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        f"schemes:\n{schemes.command_line_help()}\n\n"
        "Their settings follow from the trained length and the longest measured. A class of your own is written\n"
        "module:Class or module:Class(3, window=trained). Settings are Python's literals, or these names: trained,\n"
        "longest (the greatest length measured), factor (their ratio, at least 1), base (of the model's RoPE)."
    )
    add_model(parser)
    add = parser.add_argument
    what = "text to predict (default: modules of this Python's library that the embedded model was not trained on)"
    add("--data", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=what)
    what = f"context lengths in tokens (default: {','.join(map(str, schemes.LENGTHS))})"
    add("--lengths", type=_lengths, default=schemes.LENGTHS, metavar="N,N,...", help=what)
    what = "see below (default: own, and what suits a model with RoPE)"
    add("--schemes", type=entries, metavar="NAME,...", help=what)
    what = "score the same tokens under each length, or every token of the longest windows (default: %(default)s)"
    add("--by", choices=("length", "position"), default="length", help=what)
    add("--windows", type=whole(1), default=32, metavar="N", help="windows over the text (default: %(default)s)")
    what = "tokens scored at a window's end, at most half the shortest length (default: %(default)s)"
    add("--targets", type=whole(1), default=64, metavar="K", help=what)
    add("--trained", type=whole(2), metavar="N", help="trained length (default: what config.json says)")
    what = "begin every window with the token for the beginning of a text; auto: where the tokenizer does"
    add("--bos", choices=("auto", "always", "never"), default="auto", help=f"{what} (default: %(default)s)")
    add_out(parser, "out/measure")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    _check_schemes(options)
    from farspan.lab import report
    from farspan.lab.measure import window_ends
    from farspan.lab.subject import load_model, load_text, open_model

    # What is missing or does not fit is told now, not after minutes.
    report.require_matplotlib()
    opened = None if options.model is None else open_model(options.model)
    text = load_text(options.data, ByteTokenizer() if opened is None else opened[1])
    window_ends(len(text.tokens), max(options.lengths), options.windows, targets=1)
    loaded = load_model(options.model, options.device, opened)
    measurement, paths = measure_to_files(
        loaded, text, options.out, lengths=options.lengths, schemes=options.schemes, by=options.by,
        windows=options.windows, targets=options.targets, trained_length=options.trained,
        first_tokens=_first_tokens(options.bos, loaded, text),
    )  # fmt: skip
    if options.json:
        print_json(measurement.to_dict())
        return
    print(report.table(measurement))
    for note in measurement.notes:
        print(f"note: {note}")
    print("written: " + ", ".join(map(str, paths)))


def measure_to_files(loaded: LoadedModel, text: Text, out: Path, **options: Any) -> tuple[Measurement, list[Path]]:
    """`farspan.measure` with these options and with progress on stderr, and the files written. What is measured by then
    is written also where it ends early: by Ctrl-C, or at a length that does not fit into memory."""
    from farspan.lab import report
    from farspan.lab.measure import measure

    out.mkdir(parents=True, exist_ok=True)
    so_far: list[Measurement] = []
    try:
        with progress_on_stderr("measuring") as progress:
            measurement = measure(
                loaded.model, text.tokens, model_name=loaded.name, text_name=text.name, notes=text.notes,
                bytes_per_token=text.bytes_per_token, progress=progress, keep=so_far.append, **options,
            )  # fmt: skip
    except BaseException:
        if so_far:
            paths = report.write(so_far[-1], out)
            print(f"farspan: what was measured so far: {', '.join(map(str, paths))}", file=sys.stderr)
        raise
    return measurement, report.write(measurement, out)


def _check_schemes(options: argparse.Namespace) -> None:
    """An unknown name is wrong usage. Classes of the user's own are looked for where the command runs, too."""
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        schemes.check(options.schemes or ())
    except ArgumentError as error:
        options.parser.error(str(error))


def _first_tokens(bos: str, loaded: LoadedModel, text: Text) -> tuple[int, ...]:
    """What stands before every window."""
    if bos == "never":
        return ()
    begin = loaded.model.config.bos_token_id
    if text.first_tokens or bos == "auto":
        return text.first_tokens
    if begin is None:
        given = "always, and neither tokenizer nor model has one"
        raise ArgumentError(message("bos", "auto or never where no token begins a text", given))
    return (begin,)


def _lengths(text: str) -> tuple[int, ...]:
    return tuple(map(whole(2), entries(text)))
