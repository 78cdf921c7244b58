"""The README is true: its examples and commands run, and it names everything a user can call."""

from __future__ import annotations

import inspect
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

farspan = pytest.importorskip("farspan")
pytest.importorskip("torch", reason="the README's examples use torch")

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[re.Match[str]]:
    return list(re.finditer(rf"^```{language}\n(.*?)^```", README, re.MULTILINE | re.DOTALL))


EXAMPLES = "".join(block.group(1) for block in blocks("python"))
COMMANDS = [shlex.split(line, comments=True) for block in blocks("console") for line in block.group(1).splitlines()]


def test_examples_run_in_order() -> None:
    at = {"__name__": "readme"}
    for block in blocks("python"):
        line = README[: block.start(1)].count("\n")
        exec(compile("\n" * line + block.group(1), "README.md", "exec"), at)  # errors name the README's own line


# The demo takes minutes; test_cli.py runs a short one.
@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "farspan" and c[1] != "demo"], ids=" ".join)
def test_command_runs(command: list[str], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("target", [command[1] for command in COMMANDS if command[0] == "make"])
def test_make_target_exists(target: str) -> None:
    assert re.search(rf"^{target}:.* ## ", (ROOT / "Makefile").read_text(), re.MULTILINE)


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "docs/noise.md", "docs/numerics.md"])
def test_paths_it_names_exist(document: str) -> None:
    named = re.findall(r"`((?:\.ci|benches|docs|python|rust|tests|tools)/[\w./-]+)`", (ROOT / document).read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", sorted(farspan.__all__))
def test_public_name_is_in_an_example(name: str) -> None:
    assert re.search(rf"\b{name}\b", EXAMPLES)


@pytest.mark.parametrize("operation", [farspan.attention, farspan.sample], ids=lambda operation: operation.__name__)
def test_every_argument_is_in_an_example(operation: Callable[..., object]) -> None:
    missing = [name for name in inspect.signature(operation).parameters if not re.search(rf"\b{name}\b", EXAMPLES)]
    assert not missing


@pytest.mark.parametrize("scheme", [scheme.__name__ for scheme in farspan.positions.SCHEMES])
def test_every_position_scheme_is_in_an_example(scheme: str) -> None:
    assert f"positions.{scheme}(" in EXAMPLES
