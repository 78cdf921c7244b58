"""The map of the laboratory, which is what its package says of itself."""

from __future__ import annotations

import pkgutil
import re

from farspan import lab


def test_the_map_has_every_module() -> None:
    modules = {module.name for module in pkgutil.iter_modules(lab.__path__)}
    text = lab.__doc__ or ""
    named = {*re.findall(r"`(\w+)`", text), *re.findall(r"^    (\w+)  ", text, re.MULTILINE)}
    assert named == modules
