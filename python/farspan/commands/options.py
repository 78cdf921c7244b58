"""Options that several commands have, each written once."""

from __future__ import annotations

import argparse
from pathlib import Path

MODEL = "a model folder, a .gguf file, a name on the Hugging Face hub, or package:NAME"
"""What `--model` takes."""


def add_model(parser: argparse.ArgumentParser) -> None:
    """`--model` and `--device`."""
    what = f"{MODEL} (default: the embedded model)"
    parser.add_argument("--model", type=Path, metavar="PATH", help=what)
    add_device(parser)


def add_device(parser: argparse.ArgumentParser) -> None:
    """`--device`."""
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu, cuda or cuda:1 (default: %(default)s)")


def add_out(parser: argparse.ArgumentParser, usual: str, files: str = "JSON, CSV and picture") -> None:
    """`--out`, the folder that results are written to."""
    what = f"the folder for {files} (default: %(default)s)"
    parser.add_argument("--out", type=Path, default=Path(usual), metavar="DIR", help=what)


def add_json(parser: argparse.ArgumentParser) -> None:
    """`--json`."""
    parser.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
