"""Write the figures of trainings in docs/extrapolation-results.md from benches/results/extrapolate, and their pictures.

A table stands between markers that name a folder there. The folder holds `extrapolate.json` files under other names.

python tools/extrapolation_figures.py            rewrite tables and pictures
python tools/extrapolation_figures.py --check    exit 1 if the page holds other tables
"""

from __future__ import annotations

import json
import math
import re
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from farspan.lab import language
from farspan.lab.extrapolation import Extrapolation, report
from farspan.lab.language.result import Model

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "extrapolation-results.md"
RESULTS = ROOT / "benches" / "results" / "extrapolate"
LANGUAGE = "language"
"""The name of a document that is on no task."""
MARKED = re.compile(r"(<!-- figures of (\S+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def documents_of(folder: str) -> dict[str, dict[str, Any]]:
    """By their names, the documents in a folder."""
    paths = sorted((RESULTS / folder).glob("*.json"))
    if not paths:
        raise SystemExit(f"{RESULTS / folder}: expected results, found none")
    return {path.stem: json.loads(path.read_text()) for path in paths}


def runs_of(documents: dict[str, dict[str, Any]]) -> dict[str, Extrapolation]:
    """Those that are on tasks."""
    return {
        name: Extrapolation.from_dict(document) for name, document in documents.items() if document["task"] != LANGUAGE
    }


def table(folder: str) -> str:
    documents = documents_of(folder)
    if LANGUAGE in documents:
        return language_table(documents[LANGUAGE])
    return task_table(runs_of(documents))


def task_table(runs: dict[str, Extrapolation]) -> str:
    """Outputs right at each length, in percent; and inputs that are right as a whole at the last one, where an answer
    has several symbols."""
    lengths = sorted({length for found in runs.values() for length in found.settings.test_lengths})
    head, rows = ["run", "scheme", *map(str, lengths)], []
    several = any(found.curves() != found.curves("exact") for found in runs.values())
    for name, found in runs.items():
        exact = found.curves("exact")
        for scheme, seeds in found.curves().items():
            at = dict(zip(found.settings.test_lengths, zip(*seeds, strict=True), strict=True))
            shares = [at.get(length, ()) for length in lengths]
            whole = [[row[-1] for row in exact[scheme]] if lengths[-1] in at else ()] if several else []
            rows.append([name, f"`{scheme}`", *map(spread, shares + whole)])
    return markdown([*head, f"all right at {lengths[-1]}"] if several else head, rows, texts=2)


def spread(shares: Sequence[float]) -> str:
    """In percent; of several, the median, the least and the most."""
    percent = [100 * share for share in shares]
    if len(percent) < 2:
        return "".join(f"{share:.0f}" for share in percent)
    return f"{statistics.median(percent):.0f} ({min(percent):.0f}-{max(percent):.0f})"


def language_table(document: dict[str, Any]) -> str:
    """Bits per byte at each length, in the median over seeds."""
    found = language.Language.from_dict(document)
    lengths = found.settings.test_lengths
    rows = []
    for name in found.names:
        nats = (found.median(name, Model.loss, length) for length in lengths)
        rows.append([f"`{name}`", *("" if x is None else f"{x / math.log(2):.2f}" for x in nats)])
    return markdown(["bits per byte", *map(str, lengths)], rows, texts=1)


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int) -> str:
    """The first `texts` columns to the left, the others to the right."""
    rule = "|" + "---|" * texts + "---:|" * (len(head) - texts)
    return "\n".join(["| " + " | ".join(head) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def shown(page: str) -> list[str]:
    """The folders whose figures a page has."""
    return [found[2] for found in MARKED.finditer(page)]


def wanted(page: str) -> str:
    """The page with the tables of the results."""
    return MARKED.sub(lambda found: f"{found[1]}\n{table(found[2])}\n{found[3]}", page)


def main() -> int:
    page = PAGE.read_text()
    new = wanted(page)
    if "--check" in sys.argv[1:]:
        if new != page:
            print(f"{PAGE.relative_to(ROOT)} shows other figures than {RESULTS.relative_to(ROOT)}: run {sys.argv[0]}")
        return int(new != page)
    PAGE.write_text(new)
    for folder in shown(page):
        picture = PAGE.parent / f"extrapolation-{folder}.png"
        if f"({picture.name})" not in page:
            continue
        documents = documents_of(folder)
        runs = runs_of(documents)
        if LANGUAGE in documents:
            language.draw(language.Language.from_dict(documents[LANGUAGE]), picture)
        elif len(runs) == 1:
            report.draw(*runs.values(), picture)
        else:
            report.draw_overview(runs, picture)
    return 0


if __name__ == "__main__":
    sys.exit(main())
