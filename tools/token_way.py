"""Print every function of the package that a token's way enters, in order: the full index behind CONTRIBUTING.md.

python tools/token_way.py            file and function, each once, where it is first entered
python tools/token_way.py --files    the files alone
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import farspan

PACKAGE = Path(farspan.__file__).parent
CORE = "farspan._core"
"""What stands for the file of a function that Rust gives to Python."""


@contextmanager
def entered() -> Iterator[list[tuple[str, str]]]:
    """(file, function) of the package in the order in which they are first called, `_core`'s functions among them."""
    found: list[tuple[str, str]] = []
    known: set[tuple[str, str]] = set()

    def note(frame: FrameType, event: str, function: Any) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(PACKAGE):
            call = (f"python/farspan/{path.relative_to(PACKAGE)}", frame.f_code.co_qualname)
        elif event == "c_call" and str(getattr(function, "__module__", "")).endswith("_core"):
            call = (CORE, function.__name__)
        else:
            return
        if call not in known:
            known.add(call)
            found.append(call)

    sys.setprofile(note)
    try:
        yield found
    finally:
        sys.setprofile(None)


def token_way() -> list[tuple[str, str]]:
    """What CONTRIBUTING.md follows: a prompt becomes two new tokens, and they become text."""
    model, tokenizer = farspan.load_embedded()

    def generate() -> str:
        (completion,) = model.generate([tokenizer.encode("x = ")], max_new_tokens=2, temperature=1.0)
        return tokenizer.decode(completion.tokens)

    generate()  # what is imported or computed once is not part of the way
    with entered() as calls:
        generate()
    return calls


def main() -> None:
    calls = token_way()
    if "--files" in sys.argv[1:]:
        print("\n".join(dict.fromkeys(file for file, _ in calls)))
    else:
        print("\n".join(f"{file}  {function}" for file, function in calls if "<" not in function))


if __name__ == "__main__":
    main()
