"""The command line: `farspan demo | generate | measure | ...`.

Exit code 0 on success, 2 on wrong usage, 1 on a failure, told in one line on stderr; `--debug` shows its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

from farspan import __version__
from farspan._errors import Error, missing_package
from farspan.commands import cache, chat, demo, extend, extrapolate, generate, info, lens, measure, train

COMMANDS = {
    "demo": demo, "generate": generate, "chat": chat, "measure": measure, "extend": extend, "extrapolate": extrapolate,
    "lens": lens, "train": train, "info": info, "cache": cache,
}  # fmt: skip
"""Each is a module with a `SUMMARY`, `add_arguments(parser)` and `run(options)`. What needs more than numpy is imported
inside `run`: `farspan info` and every `--help` have to work where only numpy is installed."""

LONGEST_LINE = 600


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    _replace_closed_streams()
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


def _replace_closed_streams() -> None:
    """Services close what nobody reads: what would be written there goes nowhere, and everything else goes on."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process


def _in_one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    text = text if len(text) <= LONGEST_LINE else text[:LONGEST_LINE] + " ..."
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, ModuleNotFoundError):
        return str(missing_package("this command", str(error.name)))
    return text if isinstance(error, Error) and text else f"{type(error).__name__}: {text}"


class _Parser(argparse.ArgumentParser):
    """Takes `--prompt=--` for the text `--`. Before Python 3.13 argparse drops it, and gives an empty list."""

    def _get_values(self, action: argparse.Action, arg_strings: list[str]) -> Any:
        if action.option_strings and arg_strings == ["--"]:
            value = self._get_value(action, arg_strings[0])
            self._check_value(action, value)
            return value if action.nargs is None else [value]
        return super()._get_values(action, arg_strings)


def _parser() -> argparse.ArgumentParser:
    # --debug is understood on both sides of the command. It has no default: a subcommand's would undo what came before.
    debug = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    debug.add_argument("--debug", action="store_true", help="show the traceback of a failure")
    parser = _Parser(
        prog="farspan",
        description="Transformers without the two big matrices, and how far they reach past their trained length.",
        parents=[debug],
    )
    parser.add_argument("--version", action="version", version=f"farspan {__version__}")
    commands = parser.add_subparsers(title="commands", metavar=" | ".join(COMMANDS), required=True)
    for name, module in COMMANDS.items():
        command = commands.add_parser(name, help=module.SUMMARY, description=module.SUMMARY, parents=[debug])
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser
