"""What `farspan` shows: public names and nothing else, and without torch one clear error for all that need it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import farspan

ROOT = Path(__file__).resolve().parents[2]
CODE = {".py", ".rs", ".md"}

WITHOUT_TORCH = """
import json, sys

class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTorch())
import farspan
told = {}
for name in farspan.__all__:
    try:
        getattr(farspan, name)
    except farspan.BackendError as error:
        told[name] = str(error)
print(json.dumps(told))
"""


def test_dir_shows_the_public_names() -> None:
    assert dir(farspan) == sorted([*farspan.__all__, "__version__"])
    assert len(set(farspan.__all__)) == len(farspan.__all__)
    assert all(getattr(farspan, name) is not None for name in farspan.__all__)


def test_without_torch_every_name_that_needs_it_gives_the_same_error() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"Cache", "Completion", "Config", "Transformer", "load_embedded", "measure", "reference"} <= told.keys()
    for name, text in told.items():
        assert text == f"farspan.{name}: expected the package torch to be installed, given none: pip install torch"
    assert not {"attention", "sample", "positions"} & told.keys(), "these need numpy alone"


def test_hints_name_packages_that_an_index_has() -> None:
    """farspan is on no index: `pip install farspan[plot]` finds nothing."""
    sources = [path for folder in ("python", "rust") for path in (ROOT / folder).rglob("*") if path.suffix in CODE]
    assert len(sources) > 100
    assert [path for path in sources if "pip install farspan" in path.read_text()] == []


def test_measure_is_the_laboratorys() -> None:
    from farspan.lab.measure import measure

    assert farspan.measure is measure
