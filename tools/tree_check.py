"""The shape of the tree, asserted: small files, short lines, unsafe code where it belongs, nothing unfinished.

python tools/tree_check.py
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("rust", "python", "tests", "benches", "tools")
CODE = {".rs", ".py", ".pyi", ".cuh", ".hpp", ".cpp"}
MAX_BYTES = 25_000
MAX_COLUMNS = 120

UNSAFE_FOLDERS = (Path("rust/cpu/src/arch"), Path("rust/cuda"), Path("rust/py/src/cuda"))
UNSAFE = re.compile(r"^(?!\s*//).*\bunsafe\b *(\{|fn|impl|extern)")
# Spelt in pieces, so that this file does not find itself.
UNFINISHED = re.compile(
    r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b"
    r"|\b(to" r"do|unimpl" r"emented)!\("
    r"|raise NotImpl" r"ementedError"
)  # fmt: skip


def code_files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in CODE and path.is_file())


def complaints(path: Path, text: str) -> Iterator[str]:
    """What is wrong with one file; `path` is relative to the repository."""
    size = len(text.encode())
    if size > MAX_BYTES:
        yield f"{path}: {size} bytes, more than {MAX_BYTES}: it has two reasons to change"
    may_be_unsafe = any(path.is_relative_to(folder) for folder in UNSAFE_FOLDERS)
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > MAX_COLUMNS:
            yield f"{path}:{number}: {len(line)} columns, more than {MAX_COLUMNS}"
        if path.suffix == ".rs" and not may_be_unsafe and UNSAFE.search(line):
            yield f"{path}:{number}: unsafe code outside {' and '.join(map(str, UNSAFE_FOLDERS))}"
        if UNFINISHED.search(line):
            yield f"{path}:{number}: an unfinished mark"


def main() -> int:
    found = [complaint for path in code_files() for complaint in complaints(path.relative_to(ROOT), path.read_text())]
    print("\n".join(found) or "the tree is in shape")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
