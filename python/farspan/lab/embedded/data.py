"""Text every machine has: the source files of Python's own standard library, read where this Python keeps them.

The text is bytes. Files follow each other in the order of their names, each opened by the byte 0, which Python source
never contains: a model learns from it where a file begins and, when it produces one, that the file is over.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Iterable
from pathlib import Path

from farspan._errors import Error

FILE_START = b"\0"

# Modules no embedded model was trained on. Each has been one file of this name in every Python since 3.8.
HELD_OUT = (
    "argparse.py",
    "configparser.py",
    "csv.py",
    "difflib.py",
    "fractions.py",
    "graphlib.py",
    "heapq.py",
    "ipaddress.py",
    "json/decoder.py",
    "shlex.py",
    "statistics.py",
    "textwrap.py",
)

# Tests and bundled applications repeat themselves, `encodings` and `msilib` are tables, the rest is not the library's.
SKIPPED_FOLDERS = frozenset((
    "__pycache__", "dist-packages", "distutils", "encodings", "ensurepip", "idlelib", "lib-dynload", "lib2to3",
    "msilib", "pydoc_data", "site-packages", "test", "tests", "turtledemo",
))  # fmt: skip


def stdlib_folder() -> Path:
    return Path(sysconfig.get_paths()["stdlib"])


def training_files(root: Path | None = None) -> list[Path]:
    """The files a model may learn from, in the order of their names: the standard library less what is held out."""
    root = root or stdlib_folder()
    names = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py"))
    return [root / name for name in names if _is_training_file(name)]


def held_out_files(root: Path | None = None) -> list[Path]:
    """The held-out modules that this Python has as source files."""
    root = root or stdlib_folder()
    return [root / name for name in HELD_OUT if (root / name).is_file()]


def read_text(files: Iterable[Path]) -> bytes:
    """The files one after the other, each opened by the byte 0, line ends as on Unix."""
    return b"".join(FILE_START + _content(path) for path in files)


def training_text() -> bytes:
    """The training files one behind the other, each behind the byte 0."""
    return read_text(_required(training_files()))


def training_documents() -> list[bytes]:
    """The training files, each with the byte 0 at both ends."""
    return [FILE_START + _content(path) + FILE_START for path in _required(training_files())]


def held_out_text() -> bytes:
    return read_text(_required(held_out_files()))


def _is_training_file(name: str) -> bool:
    *folders, file = name.split("/")
    # A config-* folder and _sysconfigdata describe the machine Python was built on; html/entities.py is one table.
    ours = not any(folder in SKIPPED_FOLDERS or folder.startswith("config-") for folder in folders)
    return ours and name not in HELD_OUT and name != "html/entities.py" and not file.startswith("_sysconfigdata")


def _content(path: Path) -> bytes:
    return path.read_bytes().replace(b"\r\n", b"\n")


def _required(files: list[Path]) -> list[Path]:
    if not files:
        raise Error(f"no source files of the standard library under {stdlib_folder()}: this Python comes without them")
    return files
