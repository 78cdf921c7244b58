"""`farspan measure`: from a model, a text and names of schemes to files."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from farspan._errors import ArgumentError
from farspan.cli.options import add_json, add_model, add_out
from farspan.cli.output import print_json
from farspan.cli.values import names, whole
from farspan.lab import schemes

if TYPE_CHECKING:
    from farspan.lab.measure import Progress

SUMMARY = "Loss against context length under several position schemes: JSON, CSV and a picture."
DEFAULT_LENGTHS = (64, 128, 256, 512, 1024, 2048)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        f"schemes:\n{schemes.command_line_help()}\n\n"
        "Their settings follow from the trained length and the longest measured."
    )
    add_model(parser)
    add = parser.add_argument
    what = "text to predict (default: modules of this Python's library that the embedded model was not trained on)"
    add("--data", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=what)
    what = f"context lengths in tokens (default: {','.join(map(str, DEFAULT_LENGTHS))})"
    add("--lengths", type=_lengths, default=DEFAULT_LENGTHS, metavar="N,N,...", help=what)
    add("--schemes", type=names, metavar="NAME,...", help="see below (default: nine that suit a model with RoPE)")
    what = "score the same tokens under each length, or every token of the longest windows (default: %(default)s)"
    add("--by", choices=("length", "position"), default="length", help=what)
    add("--windows", type=whole(1), default=32, metavar="N", help="windows over the text (default: %(default)s)")
    what = "tokens scored at a window's end, at most half the shortest length (default: %(default)s)"
    add("--targets", type=whole(1), default=64, metavar="K", help=what)
    add("--trained", type=whole(2), metavar="N", help="trained length (default: what config.json says)")
    add_out(parser, "out/measure")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    try:
        chosen = [schemes.find(name).name for name in options.schemes or schemes.COMPARED]
    except ArgumentError as error:
        options.parser.error(str(error))
    from farspan.lab.report import files
    from farspan.lab.subject import load_model, load_text, measure_schemes

    loaded = load_model(options.model, options.device)
    text = load_text(options.data, loaded.tokenizer)
    measurement, subject = measure_schemes(
        loaded, text, chosen, options.lengths, trained=options.trained, by=options.by, windows=options.windows,
        targets=options.targets, progress=stderr_progress(),
    )  # fmt: skip
    paths = files.write(measurement, subject, options.out)
    if options.json:
        print_json(files.as_dict(measurement, subject))
        return
    print(files.table(measurement, subject))
    print("written: " + ", ".join(map(str, paths)))


def _lengths(text: str) -> tuple[int, ...]:
    return tuple(map(whole(2), names(text)))


def stderr_progress() -> Progress:
    """One line on stderr that rewrites itself, where stderr is a terminal."""
    started = time.monotonic()

    def show(done: int, total: int, next_step: str) -> None:
        if not sys.stderr.isatty():
            return
        seconds = time.monotonic() - started
        left = f", about {seconds / done * (total - done):.0f} s left" if done else ""
        line = f"measuring {100 * done // max(1, total):3d} %  {next_step}{left}"
        sys.stderr.write("\r\x1b[K" + ("" if done == total else line))
        sys.stderr.flush()

    return show
