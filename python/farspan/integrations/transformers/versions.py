"""The versions of transformers whose interfaces farspan knows."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from farspan._errors import BackendError, message, missing_package

FIRST = (5, 24)
BEFORE = (6,)


def check() -> None:
    """Refuse a version outside the range. Attention and mask functions are called with other arguments there."""
    try:
        installed = version("transformers")
    except PackageNotFoundError as missing:
        raise missing_package("farspan.integrations.transformers", "transformers") from missing
    parts = tuple(int(part) for part in installed.split(".")[:2] if part.isdigit())
    if not FIRST <= parts < BEFORE:
        expected = f"a version from {'.'.join(map(str, FIRST))} on and below {BEFORE[0]}"
        raise BackendError(message("transformers", expected, installed))
