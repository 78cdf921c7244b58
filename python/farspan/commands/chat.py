"""`farspan chat`: a conversation in the terminal, or with lines that are piped in, each of them a turn."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan._errors import ArgumentError, Error, message
from farspan.commands.options import add_model
from farspan.commands.output import print_now
from farspan.commands.sampling import add_sampler_options, ready_settings, sampler_settings
from farspan.commands.scheme import check_scheme, with_scheme
from farspan.commands.values import real, whole

if TYPE_CHECKING:
    from farspan.model.generation.conversation import Conversation
    from farspan.model.generation.text import TextCompletion

SUMMARY = "Talk with a model; piped in, each line is a turn."
PROMPT = "> "
WIDENED = 4
"""By how much schemes are to widen what a model was trained on, unless --context says it."""

SEED = whole(-(2**63), 2**63)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "in the conversation:\n" + "\n".join(f"  {name}" for name in HELP)
    add_model(parser)
    add = parser.add_argument
    add("--system", metavar="TEXT", help="what the model is told before the first turn")
    add("--max-new-tokens", type=whole(1), default=512, metavar="N", help="in a reply, at most (default: %(default)s)")
    add("--temperature", type=real(0), default=0.8, metavar="T", help="0 is greedy (default: %(default)s)")
    add("--seed", type=SEED, default=0, metavar="S", help="of the draws (default: %(default)s)")
    what = "go on past the trained length by this position scheme, such as streaming or self-extend"
    add("--scheme", metavar="NAME", help=what)
    what = f"tokens that --scheme is to reach (default: {WIDENED} times the trained length)"
    add("--context", type=whole(2), metavar="N", help=what)
    add_sampler_options(parser, logprobs=False)


def run(options: argparse.Namespace) -> None:
    if options.context and not options.scheme:
        options.parser.error("--context: expected --scheme beside it, given none")
    check_scheme(options)
    from farspan.lab.reach import trained_length_of
    from farspan.lab.subject import load_model
    from farspan.model.generation.conversation import Conversation

    loaded = load_model(options.model, options.device)
    trained = trained_length_of(loaded.model.config)
    model = with_scheme(loaded.model, options.scheme, options.context or WIDENED * trained)
    settings = ready_settings(loaded, sampler_settings(options))
    conversation = Conversation(
        model, loaded.tokenizer, options.system, seed=options.seed, max_new_tokens=options.max_new_tokens,
        temperature=options.temperature, **settings,
    )  # fmt: skip
    reach = None if options.scheme else trained
    _Talk(conversation, reach, talks=sys.stdin is not None and sys.stdin.isatty()).run()


class _Talk:
    """Reads turns, shows replies and does what /commands say, until there is no more input."""

    def __init__(self, conversation: Conversation, reach: int | None, talks: bool) -> None:
        self._conversation, self._reach, self._talks = conversation, reach, talks
        self._warned = False

    def run(self) -> None:
        if sys.stdin is None:
            return
        if self._talks:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401 - arrow keys and a history, where the platform has it
            print(f"[{', '.join(HELP)}]", file=sys.stderr)
        elif hasattr(sys.stdin, "reconfigure"):
            sys.stdin.reconfigure(errors="replace")
        while (line := self._line()) is not None:
            if command := re.fullmatch(r"/(\w+)(?:\s+(.*))?", line.strip()):
                self._obey(command[1], command[2])
            elif line.strip():
                self._turn(line)

    def _line(self) -> str | None:
        """The next turn; None at the end of the input."""
        if not self._talks:
            line = sys.stdin.readline()
            return line.rstrip("\r\n") if line else None
        while True:
            try:
                return input(PROMPT)
            except KeyboardInterrupt:  # the line is given up, the conversation is not
                print()
            except EOFError:
                print()
                return None

    def _turn(self, line: str) -> None:
        started = time.perf_counter()
        try:
            reply = self._conversation.say(line, print_now)
        except Error as error:
            if not self._talks:
                raise
            print(f"\nfarspan: error: {error}", file=sys.stderr)
            return
        print(flush=True)
        if sys.stderr.isatty():
            print(f"[{self._status(reply, time.perf_counter() - started)}]", file=sys.stderr)
        if self._reach is not None and self._conversation.length > self._reach and not self._warned:
            self._warned = True
            print(
                f"farspan: the conversation is longer than the {self._reach} tokens that the model was trained on: "
                "/reset starts a new one, and --scheme streaming goes on",
                file=sys.stderr,
            )

    def _status(self, reply: TextCompletion, seconds: float) -> str:
        count, length = len(reply.tokens), self._conversation.length
        context = f"{length} tokens of context" + (f", trained on {self._reach}" if self._reach is not None else "")
        ended = {"length": ", cut at --max-new-tokens", "interrupted": ", interrupted"}.get(reply.finish_reason, "")
        return (
            f"{count} tokens in {seconds:.2f} s, {count / seconds:.0f} tokens/s{ended}; {self._conversation.computed} "
            f"read; {context}; seed {self._conversation.seed}"
        )

    # ---- commands

    def _obey(self, name: str, argument: str | None) -> None:
        if name not in COMMANDS:
            print(f"farspan: /{name}: expected {', '.join(HELP)}", file=sys.stderr)
            return
        try:
            COMMANDS[name](self, argument)
        except (Error, OSError, argparse.ArgumentTypeError) as error:
            print(f"farspan: /{name}: {error}", file=sys.stderr)

    def reset(self, argument: str | None) -> None:
        _require(argument is None, "nothing behind it", argument)
        self._conversation.reset()
        self._warned = False

    def seed(self, argument: str | None) -> None:
        self._conversation.seed = SEED(argument or "")

    def save(self, argument: str | None) -> None:
        _require(bool(argument), "a file's name behind it", argument)
        document = json.dumps(list(map(dict, self._conversation.messages)), ensure_ascii=False, indent=2)
        Path(str(argument)).write_text(document + "\n", encoding="utf-8")
        if sys.stderr.isatty():
            print(f"[saved {len(self._conversation.messages)} messages: {argument}]", file=sys.stderr)


def _require(holds: bool, expected: str, given: Any) -> None:
    if not holds:
        raise ArgumentError(message("argument", expected, repr(given)))


COMMANDS: dict[str, Callable[[_Talk, str | None], None]] = {
    "reset": _Talk.reset, "seed": _Talk.seed, "save": _Talk.save,
}  # fmt: skip
HELP = (
    "/reset forgets all turns",
    "/seed N sets the seed",
    "/save FILE writes the turns as JSON",
    "Ctrl-C ends a reply",
)
