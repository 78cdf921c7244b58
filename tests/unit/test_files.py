"""What is read from files, compared with what it should be."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import farspan
from farspan._files import read_json, require_same, write_json


def test_other_settings_are_named() -> None:
    before = {"steps": 5, "lengths": [1, 2], "old": 1}
    require_same({"steps": 5, "lengths": (1, 2)}, before, "it was made with")
    with pytest.raises(farspan.Error, match="steps: expected 5, as it was made with, given 6"):
        require_same({"steps": 6}, before, "it was made with")
    with pytest.raises(farspan.Error, match="seed: expected None, as it was made with, given 0"):
        require_same({"seed": 0}, before, "it was made with")


def test_settings_without_bounds_are_the_same_as_in_their_file(tmp_path: Path) -> None:
    facts = {"longest": math.inf, "layers": [{"least": -math.inf, "none": math.nan}]}
    write_json(tmp_path / "facts.json", facts)
    require_same(facts, read_json(tmp_path / "facts.json"), "it was made with")
    require_same(facts, facts, "it was made with")
    with pytest.raises(farspan.Error, match="longest: expected 'inf', as it was made with, given 3"):
        require_same({"longest": 3}, read_json(tmp_path / "facts.json"), "it was made with")
