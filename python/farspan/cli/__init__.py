"""The command line: `farspan demo | generate | measure | info | cache`.

Exit code 0 on success, 2 on wrong usage, 1 on a failure, told in one line on stderr; `--debug` shows its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from farspan import __version__
from farspan.cli.options import names, real, whole
from farspan.cli.sampling import add_sampler_options, sampler_settings

LONGEST_LINE = 600
DEFAULT_LENGTHS = (64, 128, 256, 512, 1024, 2048)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.run(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our output has seen enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        print("farspan: interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if "debug" in options:
            traceback.print_exc()
        print(f"farspan: error: {_in_one_line(error)}", file=sys.stderr)
        return 1
    return 0


def _in_one_line(error: Exception) -> str:
    from farspan._errors import Error

    text = " ".join(str(error).split())
    text = text if len(text) <= LONGEST_LINE else text[:LONGEST_LINE] + " ..."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError):
        return f"this command needs the package {error.name}: pip install farspan[torch,plot]"
    return text if isinstance(error, Error) and text else f"{type(error).__name__}: {text}"


# ------------------------------------------------------------------------------------------------------------ commands
# Each imports what it needs when it runs: `farspan info` has to work where only numpy is installed.


def _run_demo(options: argparse.Namespace) -> None:
    from farspan.cli.demo import demo

    demo(options.out)


def _run_generate(options: argparse.Namespace) -> None:
    settings = sampler_settings(options)
    from farspan.cli.generate import write_completion

    write_completion(
        options.model, options.prompt, max_new_tokens=options.max_new_tokens, temperature=options.temperature,
        seed=options.seed, as_json=options.json, settings=settings, device=options.device,
    )  # fmt: skip


def _run_measure(options: argparse.Namespace) -> None:
    from farspan.cli.measure import measure_and_write
    from farspan.lab import schemes

    try:
        names = [schemes.canonical(name) for name in options.schemes or schemes.COMPARED]
    except ValueError as error:
        options.parser.error(str(error))
    measure_and_write(
        options.model, options.data, names, lengths=options.lengths, trained=options.trained, by=options.by,
        windows=options.windows, targets=options.targets, out=options.out, as_json=options.json,
        device=options.device,
    )  # fmt: skip


def _run_cache(options: argparse.Namespace) -> None:
    from farspan.cli import cache

    if options.action == "warm":
        cache.warm(options.architectures, as_json=options.json)
        return
    if options.architectures:
        options.parser.error("architectures are for warm")
    {"info": cache.print_info, "clear": cache.clear}[options.action](as_json=options.json)


def _run_info(options: argparse.Namespace) -> None:
    from farspan.cli.info import print_info

    print_info(as_json=options.json)


# ----------------------------------------------------------------------------------------------------------- arguments


def _parser() -> argparse.ArgumentParser:
    # --debug is understood on both sides of the command. It has no default: a subcommand's would undo what came before.
    debug = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    debug.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    parser = argparse.ArgumentParser(
        prog="farspan",
        description="Transformers without the two big matrices, and how far they reach past their trained length.",
        parents=[debug],
    )
    parser.add_argument("--version", action="version", version=f"farspan {__version__}")
    commands = parser.add_subparsers(
        title="commands", metavar="demo | generate | measure | info | cache", required=True
    )
    for name, (summary, add_arguments, run) in _COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, parents=[debug])
        add_arguments(command)
        command.set_defaults(run=run, parser=command)
    return parser


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    _add_out(parser, "out/demo")


def _generate_arguments(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    add = parser.add_argument
    add("--prompt", default="def ", metavar="TEXT", help="what to continue (default: %(default)r)")
    add("--max-new-tokens", type=whole(0), default=256, metavar="N", help="at most (default: %(default)s)")
    add("--temperature", type=real(0), default=0.8, metavar="T", help="0 is greedy (default: %(default)s)")
    add("--seed", type=whole(-(2**63), 2**63), default=0, metavar="S", help="of the draws (default: %(default)s)")
    _add_json(parser)
    add_sampler_options(parser)


def _measure_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Schemes: own (as the model says), rope, linear (or pi), ntk, dynamic-ntk, yarn, llama3, logn, rerope, "
        "self-extend, streaming, alibi, nope. Their settings follow from the trained length and the longest measured."
    )
    _add_model(parser)
    add = parser.add_argument
    what = "text to predict (default: modules of this Python's library that the embedded model was not trained on)"
    add("--data", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=what)
    usual = ",".join(map(str, DEFAULT_LENGTHS))
    what = f"context lengths in tokens (default: {usual})"
    add("--lengths", type=_lengths, default=DEFAULT_LENGTHS, metavar="N,N,...", help=what)
    add("--schemes", type=names, metavar="NAME,...", help="see below (default: nine that suit a model with RoPE)")
    what = "score the same tokens under each length, or every token of the longest windows (default: %(default)s)"
    add("--by", choices=("length", "position"), default="length", help=what)
    add("--windows", type=whole(1), default=32, metavar="N", help="windows over the text (default: %(default)s)")
    what = "tokens scored at a window's end, at most half the shortest length (default: %(default)s)"
    add("--targets", type=whole(1), default=64, metavar="K", help=what)
    add("--trained", type=whole(2), metavar="N", help="trained length (default: what config.json says)")
    _add_out(parser, "out/measure")
    _add_json(parser)


def _cache_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "info: where the kernels are and how many; clear: remove them; warm: compile all of them now"
    add("action", choices=("info", "clear", "warm"), help=what)
    what = "for warm: compute capabilities such as 90 for 9.0 (default: those of the GPUs here)"
    add("architectures", type=whole(80), nargs="*", metavar="ARCH", help=what)
    _add_json(parser)


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    _add_json(parser)


_COMMANDS = {
    "demo": (
        "Text, reproducible seeds, speed and reach of the embedded model, in two minutes.", _demo_arguments, _run_demo
    ),
    "generate": ("Continue a prompt, streaming the text as it is drawn.", _generate_arguments, _run_generate),
    "measure": (
        "Loss against context length under several position schemes: JSON, CSV and a picture.", _measure_arguments,
        _run_measure,
    ),
    "info": ("Versions, processor, and which backend each operation uses and why.", _info_arguments, _run_info),
    "cache": ("The compiled CUDA kernels on this machine; none of it needs a GPU.", _cache_arguments, _run_cache),
}  # fmt: skip


def _add_out(parser: argparse.ArgumentParser, usual: str) -> None:
    what = "the folder for JSON, CSV and picture (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path(usual), metavar="DIR", help=what)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, metavar="DIR", help="a model folder (default: the embedded model)")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:1 (default: %(default)s)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")


def _lengths(text: str) -> tuple[int, ...]:
    return tuple(map(whole(2), names(text)))
