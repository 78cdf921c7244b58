"""What is read from files, compared with what it should be."""

from __future__ import annotations

import pytest

import farspan
from farspan._files import require_same


def test_other_settings_are_named() -> None:
    before = {"steps": 5, "lengths": [1, 2], "old": 1}
    require_same({"steps": 5, "lengths": (1, 2)}, before, "it was made with")
    with pytest.raises(farspan.Error, match="steps: expected 5, as it was made with, given 6"):
        require_same({"steps": 6}, before, "it was made with")
    with pytest.raises(farspan.Error, match="seed: expected None, as it was made with, given 0"):
        require_same({"seed": 0}, before, "it was made with")
