"""Where only numpy is installed, the command line explains itself, and `farspan info` works.

`tests/packaging` asks the same of a wheel in an environment of its own, which takes minutes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from farspan.cli import COMMANDS
from farspan.lab.language_recipes import LANGUAGE_RECIPES
from farspan.lab.recipes import RECIPES

NUMPY_ALONE = """
import importlib.machinery, sys

class NumpyAlone(importlib.machinery.PathFinder):
    \"\"\"Finds no other packages than numpy and this one.\"\"\"

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        top = name.partition(".")[0]
        own = top in {"numpy", "farspan"} or top in sys.stdlib_module_names
        if own or top.startswith("_sysconfigdata"):
            return super().find_spec(name, path, target)

sys.meta_path[:] = [finder for finder in sys.meta_path if finder is not importlib.machinery.PathFinder] + [NumpyAlone]
assert "torch" not in sys.modules
"""

ASKED = """
import contextlib, io, json
from farspan.cli import COMMANDS, main

said = {}
for command in (["--help"], *([name, "--help"] for name in COMMANDS), ["info", "--json"], ["generate"]):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main(command)
        except SystemExit as ended:
            code = ended.code
    said[" ".join(command)] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(said))
"""


def output_of(program: str) -> str:
    """What a program prints where only numpy is installed."""
    done = subprocess.run([sys.executable, "-c", NUMPY_ALONE + program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def said() -> dict[str, Any]:
    """Exit code, stdout and stderr of each command."""
    found: dict[str, Any] = json.loads(output_of(ASKED))
    return found


@pytest.mark.parametrize("command", ["--help", *(f"{name} --help" for name in COMMANDS)])
def test_help_needs_nothing_else(command: str, said: dict[str, Any]) -> None:
    code, out, err = said[command]
    assert (code, err) == (0, "")
    assert out.startswith("usage: farspan")


def test_help_lists_recipes(said: dict[str, Any]) -> None:
    listed = said["extrapolate --help"][1].replace(",", " ").split()
    names = {*RECIPES, *LANGUAGE_RECIPES}
    assert len(names) > 5
    assert names <= {*listed}


def test_info_needs_nothing_else(said: dict[str, Any]) -> None:
    code, out, err = said["info --json"]
    assert (code, err) == (0, "")
    assert json.loads(out)


def test_what_needs_torch_says_so_in_one_line(said: dict[str, Any]) -> None:
    code, out, err = said["generate"]
    assert (code, out) == (1, "")
    (line,) = err.splitlines()
    assert line.endswith("pip install torch")


@pytest.mark.parametrize(
    "module",
    [
        "farspan", "farspan.cli", "farspan.lab.recipes", "farspan.lab.language_recipes",
        "farspan.lab.schemes", "farspan.lab.tasks", "farspan.lab.trainings", "farspan.positions", "farspan.tokenizer",
    ],
)  # fmt: skip
def test_modules_that_need_nothing_else(module: str) -> None:
    output_of(f"import {module}")
