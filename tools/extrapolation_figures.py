"""Write the figures of trainings in docs/extrapolation-results.md from benches/results/extrapolate, and their pictures.

A table stands between markers that name a folder there. The folder holds `extrapolate.json` files under other names.

python tools/extrapolation_figures.py    rewrite tables and pictures; a test holds the page to the results
"""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from farspan.lab import language
from farspan.lab.extrapolation import Extrapolation, report
from farspan.lab.language import Language
from farspan.lab.language.result import Model

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "extrapolation-results.md"
RESULTS = ROOT / "benches" / "results" / "extrapolate"
MARKED = re.compile(r"(<!-- figures of (\S+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def runs_of(folder: str) -> dict[str, Extrapolation | Language]:
    """By their names, the extrapolations whose documents are in a folder."""
    paths = sorted((RESULTS / folder).glob("*.json"))
    if not paths:
        raise SystemExit(f"{RESULTS / folder}: expected results, found none")
    documents = {path.stem: json.loads(path.read_text()) for path in paths}
    return {
        name: (Language if document["task"] == "language" else Extrapolation).from_dict(document)
        for name, document in documents.items()
    }


def table(runs: dict[str, Extrapolation | Language]) -> str:
    """One for each run on language, and one for all that are on tasks."""
    on_tasks = {name: run for name, run in runs.items() if isinstance(run, Extrapolation)}
    tables = [language_table(run) for run in runs.values() if isinstance(run, Language)]
    return "\n".join([*tables, *([task_table(on_tasks)] if on_tasks else [])])


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
    if len(shares) < 2:
        return "".join(map(percent, shares))
    return f"{percent(statistics.median(shares))} ({percent(min(shares))}-{percent(max(shares))})"


def percent(share: float) -> str:
    """Without decimals, unless that would make all of it out of nearly all."""
    whole = f"{100 * share:.0f}"
    return whole if share == 1 or whole != "100" else f"{math.floor(1000 * share) / 10:.1f}"


def language_table(found: Language) -> str:
    """Bits per byte at each length, in the median over seeds."""
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
    return MARKED.sub(lambda found: f"{found[1]}\n{table(runs_of(found[2]))}\n{found[3]}", page)


def draw(runs: dict[str, Extrapolation | Language], picture: Path) -> None:
    """One run as its command draws it, and several as their recipe does."""
    if len(runs) > 1:
        report.draw_overview(runs, picture)
        return
    (run,) = runs.values()
    (language if isinstance(run, Language) else report).draw(run, picture)


def main() -> None:
    page = PAGE.read_text()
    PAGE.write_text(wanted(page))
    for folder in shown(page):
        picture = PAGE.parent / f"extrapolation-{folder}.png"
        if f"({picture.name})" in page:
            draw(runs_of(folder), picture)


if __name__ == "__main__":
    main()
