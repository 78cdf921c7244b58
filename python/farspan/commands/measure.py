"""`farspan measure`: from a model, a text and names of schemes to files."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan._errors import ArgumentError, message
from farspan.commands.options import add_json, add_model, add_out
from farspan.commands.output import print_json
from farspan.commands.progress import progress_on_stderr
from farspan.commands.scheme import check_schemes
from farspan.commands.values import entries, listed, real, whole
from farspan.lab import schemes
from farspan.tokenizer import ByteTokenizer

if TYPE_CHECKING:
    from farspan.lab.attention import AttentionMeasurement
    from farspan.lab.measurement import Measurement
    from farspan.lab.pieces import Pieces
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
    add("--lengths", type=listed(whole(2)), default=schemes.LENGTHS, metavar="N,N,...", help=what)
    what = "see below (default: own, and what suits a model with RoPE)"
    add("--schemes", type=entries, metavar="NAME,...", help=what)
    what = "score the same tokens under each length, or every token of the longest windows (default: %(default)s)"
    add("--by", choices=("length", "position"), default="length", help=what)
    add("--windows", type=whole(1), default=32, metavar="N", help="windows over the text (default: %(default)s)")
    what = "tokens scored at a window's end, at most half the shortest length (default: %(default)s)"
    add("--targets", type=whole(1), default=64, metavar="K", help=what)
    what = "tokens from one window's end to the next one's (default: windows are spread over the text)"
    add("--stride", type=whole(1), metavar="N", help=what)
    what = "nats per token above a scheme's best loss up to which a length counts as read (default: %(default)s)"
    add("--margin", type=real(0), default=0.05, metavar="X", help=what)
    what = "also hide N numbers at each of five depths of every length, and ask for them"
    add("--needles", type=whole(1), default=0, metavar="N", help=what)
    what = "also ask for N pieces of the text to be copied that fill half of every length"
    add("--copies", type=whole(1), default=0, metavar="N", help=what)
    what = "measure each file of --data on its own, in a folder of its own (default: one after the other)"
    add("--apart", action="store_true", help=what)
    add("--trained", type=whole(2), metavar="N", help="trained length (default: what config.json says)")
    what = "begin every window with the token for the beginning of a text; auto: where the tokenizer does"
    add("--bos", choices=("auto", "always", "never"), default="auto", help=f"{what} (default: %(default)s)")
    what = "also what the heads of each layer look at: entropy, share of first key and sink, mean distance"
    add("--statistics", action="store_true", help=what)
    add_out(parser, "out/measure")
    what = "go on with a measurement in DIR that was stopped; what is there is not measured again"
    add("--resume", action="store_true", help=what)
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    check_schemes(options, options.schemes or ())
    if options.apart and len({path.stem for path in options.data}) < max(1, len(options.data)):
        given = ", ".join(map(str, options.data)) or "none"
        options.parser.error(f"--apart: expected --data beside it, files with different names, given {given}")
    from farspan.embedded import FOLDER
    from farspan.lab import copying, needle, report
    from farspan.lab.pieces import Pieces, facts_of_model, require_folder
    from farspan.lab.subject import load_model, load_text, open_model
    from farspan.lab.windows import window_ends
    from farspan.model.source import open_checkpoint

    # What is missing or does not fit is told now, not after minutes.
    report.require_matplotlib()
    opened = None if options.model is None else open_model(options.model)
    tokenizer = ByteTokenizer() if opened is None else opened[1]
    parts = [[path] for path in options.data] if options.apart else [options.data]
    config = (open_checkpoint(FOLDER) if opened is None else opened[0]).config
    texts = [_begun(load_text(files, tokenizer), options.bos, config.bos_token_id) for files in parts]
    for text in texts:
        window_ends(len(text.tokens), max(options.lengths), options.windows, targets=1)
        if options.needles:
            needle.require_room(tokenizer, text.tokens, min(options.lengths), text.first_tokens)
        if options.copies:
            copying.require_room(min(options.lengths), text.first_tokens)
    folders = [options.out / files[0].stem if options.apart else options.out for files in parts]
    for out in folders:
        require_folder(out, resume=options.resume)
    loaded = load_model(options.model, options.device, opened)
    about = facts_of_model(loaded)
    kept = [Pieces.of(out, about, text, resume=options.resume) for out, text in zip(folders, texts, strict=True)]
    try:
        found = [_measured(loaded, *each, options) for each in zip(texts, folders, kept, strict=True)]
    except BaseException:
        if any(pieces.grown for pieces in kept):
            print("farspan: --resume goes on where this command stopped", file=sys.stderr)
        raise
    for pieces in kept:  # those of a text stay until all texts are measured
        pieces.remove()
    if options.json:
        print_json({"texts": found} if options.apart else found[0])


def _measured(loaded: LoadedModel, text: Text, out: Path, pieces: Pieces, options: argparse.Namespace) -> Any:
    """One text to its files; gives what is in `loss.json`, and in `attention.json` if that is asked for."""
    from farspan.lab import report

    asked = dict(
        lengths=options.lengths, schemes=options.schemes, windows=options.windows, targets=options.targets,
        trained_length=options.trained, stride=options.stride, first_tokens=text.first_tokens,
    )  # fmt: skip
    measurement, paths = measure_to_files(
        loaded, text, out, needles=options.needles, copies=options.copies, by=options.by, margin=options.margin,
        piece=pieces, **asked,
    )  # fmt: skip
    attention = attention_to_files(loaded, text, out, piece=pieces, **asked) if options.statistics else None
    if not options.json:
        if options.apart:
            print(text.name)
        print(report.table(measurement))
        print(report.reach_line(measurement))
        if measurement.needles:
            print(report.needle_table(measurement))
        if measurement.copies:
            print(report.copy_table(measurement))
        for note in measurement.notes:
            print(f"note: {note}")
        if attention is not None:
            print(report.attention.table(attention[0]))
            paths += attention[1]
        print("written: " + ", ".join(map(str, paths)))
    return measurement.to_dict() | ({} if attention is None else {"attention": attention[0].to_dict()})


def measure_to_files(
    loaded: LoadedModel, text: Text, out: Path, needles: int = 0, copies: int = 0, **options: Any
) -> tuple[Measurement, list[Path]]:
    """`farspan.measure` with these options and with progress on stderr, and the files written. What is measured by then
    is written also where it ends early: by Ctrl-C, or at a length that does not fit into memory. A kill leaves
    `loss-partial.json`."""
    from farspan.lab import report
    from farspan.lab.measure import measure
    from farspan.lab.pieces import found_anew
    from farspan.lab.reach import chosen_schemes
    from farspan.lab.retrieval import Retrieval

    out.mkdir(parents=True, exist_ok=True)
    so_far: list[Measurement] = []

    def keep(found: Measurement) -> None:
        so_far.append(found)
        report.keep(found, out)

    try:
        with progress_on_stderr("measuring") as progress:
            measurement = measure(
                loaded.model, text.tokens, model_name=loaded.name, text_name=text.name, notes=text.notes,
                bytes_per_token=text.bytes_per_token, progress=progress, keep=keep, **options,
            )  # fmt: skip
            so_far.append(measurement)
            lengths, trained = measurement.lengths, measurement.trained_length
            if needles or copies:
                asking = Retrieval(
                    text.tokens, lengths, trained, loaded.tokenizer, needles, copies, measurement.first_tokens
                )
                asked = chosen_schemes(loaded.model.config, options["schemes"], lengths, trained)
                piece = options.get("piece", found_anew)
                measurement = asking.added_to(measurement, loaded.model, asked, progress, so_far.append, piece)
    except BaseException:
        if so_far:
            paths = report.write(so_far[-1], out)
            print(f"farspan: what was measured so far: {', '.join(map(str, paths))}", file=sys.stderr)
        raise
    paths = report.write(measurement, out)
    if measurement.needles or measurement.copies:
        report.retrieval.draw(measurement, out / "retrieval.png")
        paths.append(out / "retrieval.png")
    return measurement, paths


def attention_to_files(
    loaded: LoadedModel, text: Text, out: Path, **options: Any
) -> tuple[AttentionMeasurement, list[Path]]:
    """What the model's heads look at with these options, with progress on stderr, and the files written."""
    from farspan.lab import report
    from farspan.lab.attention import measure_attention

    with progress_on_stderr("looking at attention") as progress:
        measurement = measure_attention(
            loaded.model, text.tokens, model_name=loaded.name, text_name=text.name, progress=progress, **options
        )
    return measurement, report.attention.write(measurement, out)


def _begun(text: Text, bos: str, begin: int | None) -> Text:
    """The text as `--bos` has its windows begin. `begin`: the model's token for the beginning of a text."""
    if bos == "never" and text.first_tokens:
        ids = ", ".join(map(str, text.first_tokens))
        note = f"no window begins with {ids}, which the tokenizer puts before a text"
        return dataclasses.replace(text, first_tokens=(), notes=(*text.notes, note))
    if bos != "always" or text.first_tokens:
        return text
    if begin is None:
        given = "always, and neither tokenizer nor model has one"
        raise ArgumentError(message("bos", "auto or never where no token begins a text", given))
    return dataclasses.replace(text, first_tokens=(begin,))
