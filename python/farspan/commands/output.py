"""How commands print."""

from __future__ import annotations

import sys
from typing import Any

from farspan import _strict_json


def print_now(text: str) -> None:
    """Show a piece of text at once, without a line end."""
    sys.stdout.write(text)
    sys.stdout.flush()


def print_json(document: Any) -> None:
    """The one document of a command that was given `--json`."""
    print(_strict_json.dumps(document))
