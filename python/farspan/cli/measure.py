"""`farspan measure`: from a model, a text and names of schemes to files."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from farspan.lab import schemes
from farspan.lab.measure import Measurement, Told, measure
from farspan.lab.report.files import Subject, as_dict, table, write
from farspan.lab.schemes import Reach
from farspan.lab.subject import LoadedModel, Text, load_model, load_text


def measure_and_write(
    folder: Path | None, files: Sequence[Path], names: Sequence[str], *, lengths: Sequence[int], trained: int | None,
    by: str, windows: int, targets: int, out: Path, as_json: bool, device: str = "cpu",
) -> None:  # fmt: skip
    """Measure, write JSON, CSV and picture to `out`, and print a table or the JSON document."""
    loaded = load_model(folder, device)
    text = load_text(files, loaded.tokenizer)
    measurement, subject = measure_schemes(
        loaded, text, names, lengths, trained=trained, by=by, windows=windows, targets=targets
    )
    paths = write(measurement, subject, out)
    if as_json:
        print(json.dumps(as_dict(measurement, subject)))
        return
    print(table(measurement, subject))
    print("written: " + ", ".join(map(str, paths)))


def measure_schemes(
    loaded: LoadedModel, text: Text, names: Sequence[str], lengths: Sequence[int], *, trained: int | None = None,
    by: str = "length", windows: int = 32, targets: int = 64,
) -> tuple[Measurement, Subject]:  # fmt: skip
    """The measurement, with progress on a terminal's stderr, and what it is about."""
    trained = trained or loaded.trained_length
    base = loaded.model.config.rope_theta or 10000.0
    chosen = schemes.make(names, Reach(trained, max(lengths), base))
    measurement = measure(
        loaded.model, text.tokens, lengths, chosen, by=by, windows=windows, targets=targets, told=_progress()
    )
    settings = {name: None if scheme is None else scheme.to_dict() for name, scheme in chosen.items()}
    return measurement, Subject(loaded.name, text.name, trained, text.bytes_per_token, settings)


def _progress() -> Told:
    """One line on stderr that rewrites itself, where stderr is a terminal."""
    started = time.monotonic()

    def told(done: int, whole: int, what: str) -> None:
        if not sys.stderr.isatty():
            return
        seconds = time.monotonic() - started
        left = f", about {seconds / done * (whole - done):.0f} s left" if done else ""
        line = f"measuring {100 * done // max(1, whole):3d} %  {what}{left}"
        sys.stderr.write("\r\x1b[K" + ("" if done == whole else line))
        sys.stderr.flush()

    return told
