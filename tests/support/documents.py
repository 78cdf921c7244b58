"""Pages of documentation as something that runs: their code blocks, in order, and what the page says they answer."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import torch

from farspan import Error
from farspan.cli import main

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "python" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass
class Block:
    """One fenced block, and the ```text block right behind it: what it prints or which error it raises."""

    page: Path
    line: int
    language: str
    code: str
    answer: str | None = None

    @property
    def where(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The commands of a console block, one a line, comments dropped."""
        lines = [shlex.split(line, comments=True) for line in self.code.splitlines()]
        return [line for line in lines if line]

    @property
    def runs(self) -> bool:
        """Whether a test runs it: Python does, and commands of farspan do but for the demo, which takes minutes."""
        if self.language == "console":
            return any(command[0] == "farspan" and command[1] != "demo" for command in self.commands)
        return self.language == "python"


def blocks(page: Path) -> list[Block]:
    """The page's blocks in order; a ```text block is the answer of the one that it follows without a word between."""
    text, found, end = page.read_text(), [], 0
    for fence in FENCE.finditer(text):
        follows = bool(found) and found[-1].runs and not text[end : fence.start()].strip()
        if fence[1] == "text" and follows:
            found[-1].answer = fence[2]
        else:
            found.append(Block(page, text.count("\n", 0, fence.start(2)) + 1, fence[1], fence[2]))
        end = fence.end()
    return found


def run_page(page: Path) -> None:
    """Run the page's Python and its farspan commands from top to bottom, as a reader would, in one namespace."""
    names = {"__name__": page.stem}
    torch.manual_seed(0)  # an equality on random numbers holds in each run or in none
    wrong = []
    for block in filter(lambda block: block.runs, blocks(page)):
        given = run_python(block, names) if block.language == "python" else run_commands(block)
        if block.answer is not None and not matches(given, block.answer):
            wrong.append(f"{block.where}: the page says\n{block.answer}\nbut this comes\n{given}")
    assert not wrong, "\n\n".join(wrong)


def run_python(block: Block, names: dict[str, object]) -> str:
    """What the block prints; with an answer on the page also the error that ends it, as a traceback's last line."""
    code = compile("\n" * (block.line - 1) + block.code, str(block.page), "exec")  # errors name the page's own line
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        try:
            exec(code, names)
        except Error as error:
            if block.answer is None:
                raise
            printed.write(f"{type(error).__module__}.{type(error).__name__}: {error}\n")
    return printed.getvalue()


def run_commands(block: Block) -> str:
    """What the block's commands print on both streams. Without an answer on the page each has to succeed."""
    shown = io.StringIO()
    for command in block.commands:
        if command[0] == "farspan" and command[1] != "demo":
            with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(shown):
                try:
                    status = main(command[1:])
                except SystemExit as usage:  # argparse leaves with 2 on wrong usage
                    status = usage.code
            if status and block.answer is None:
                raise AssertionError(f"{block.where}: {shlex.join(command)} fails: {shown.getvalue()}")
    return shown.getvalue()


def matches(given: str, wanted: str) -> bool:
    """Whether the text is the one on the page, whose `...` stand for anything; breaks of lines do not count."""
    pattern = ".*".join(re.escape(" ".join(part.split())) for part in wanted.split("..."))
    return re.fullmatch(pattern.replace(r".*\ ", ".*").replace(r"\ .*", ".*"), " ".join(given.split())) is not None
