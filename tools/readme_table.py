"""Write every measured figure in the documents from benches/results/*.json, so that none was ever typed by hand.

All of them go to docs/benchmarks.md, and a few, from the newest measurement, to README.md.

python tools/readme_table.py            rewrite the tables
python tools/readme_table.py --check    exit 1 if a document does not hold exactly what would be written
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
BENCHMARKS = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "benches" / "results"
BEGIN = "<!-- figures: written by tools/readme_table.py -->"
END = "<!-- end of figures -->"

# What the README shows: wins, draws and losses of each operation, at one size. (operation, case, against).
README_ROWS = (
    ("attention, prefill", "f32 8 heads T 4096 D 128 causal", "torch SDPA"),
    ("attention, prefill", "bf16 8 heads T 4096 D 128 causal", "torch SDPA"),
    ("attention, decode", "bf16 32/8 heads, 8192 keys D 128", "torch SDPA"),
    ("sample", "bf16 B 1 V 151936 D 896", "torch linear, softmax, exponential race"),
    ("sample", "bf16 B 64 V 151936 D 896", "torch linear, softmax, exponential race"),
    ("greedy", "bf16 B 64 V 151936 D 896", "torch linear, argmax"),
    ("sample with settings", "bf16 B 64 V 151936 D 896", "transformers' processors"),
    ("generate, one step", "embedded model, B 8, 128 new tokens", "eager torch with a cache"),
)


def machine_line(report: dict) -> str:
    """One sentence saying where, with what and how the figures below it were measured."""
    machine, software = report["machine"], report["software"]
    isa = f", both sides held to {report['isa']}" if report["isa"] else ""
    return (
        f"**{machine['cpu']}** ({', '.join(machine['flags']) or 'no vector flags'}), {report['threads']} threads{isa}; "
        f"farspan {software['farspan']}, torch {software['torch']}, {report['date']}; `{report['command']}`"
    )


def table(rows: list[dict]) -> list[str]:
    """A row per case: least (and median) milliseconds of one operation, and the ratio of the least ones."""
    lines = ["| operation | case | against | farspan ms | other ms | ratio |", "|---|---|---|---:|---:|---:|"]
    for row in rows:
        ours, other = (f"{row[side]['min_ms']:.3g} ({row[side]['median_ms']:.3g})" for side in ("farspan", "peer"))
        lines.append(
            f"| {row['operation']} | {row['case']} | {row['peer']['name']} | {ours} | {other} | {row['ratio']:.2f}x |"
        )
    return lines


def memory_table(rows: list[dict]) -> list[str]:
    """A row per case: by how much a process grew, beside the size of the weights."""
    lines = ["| memory | case | weights MiB | grown by MiB | share |", "|---|---|---:|---:|---:|"]
    for row in rows:
        grown = "does not fit | " if row["grown_mib"] is None else f"{row['grown_mib']:.0f} | {row['ratio']:.2f}"
        lines.append(f"| {row['operation']} | {row['case']} | {row['weights_mib']:.0f} | {grown} |")
    return lines


TABLES = {"results": table, "memory": memory_table}
"""By what a report has rows of."""


def section(reports: list[dict]) -> str:
    """All tables, each under the line that says where it was measured."""
    parts = [BEGIN]
    for report in reports:
        parts += ["", machine_line(report)]
        for kind, written in TABLES.items():
            if report.get(kind):
                parts += ["", *written(report[kind])]
    return "\n".join([*parts, "", END])


def chosen(reports: list[dict]) -> list[dict]:
    """Of the measurements that have the README's rows and hold neither side back, the newest, with these rows alone."""
    candidates = []
    for report in reports:
        rows = {(row["operation"], row["case"], row["peer"]["name"]): row for row in report["results"]}
        if not report["isa"] and rows.keys() >= set(README_ROWS):
            shown = {"results": [rows[wanted] for wanted in README_ROWS]}
            candidates.append(report | {kind: shown.get(kind, []) for kind in TABLES})
    return [max(candidates, key=lambda report: report["date"])]


def replaced(document: str, new: str) -> str:
    """The document with everything from the first marker to the last replaced."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the document must hold the lines {BEGIN!r} and {END!r}")
    return before + new + after


def committed() -> list[dict]:
    """The measurements on CPUs."""
    reports = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return [report for report in reports if "isa" in report]


def wanted() -> dict[Path, str]:
    """What each document with figures must hold."""
    reports = committed()
    sections = {README: section(chosen(reports)), BENCHMARKS: section(reports)}
    return {path: replaced(path.read_text(), text) for path, text in sections.items()}


def main() -> int:
    stale = {path: text for path, text in wanted().items() if text != path.read_text()}
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(
                f"{path.relative_to(ROOT)} shows other figures than benches/results: run python tools/readme_table.py"
            )
        return 1 if stale else 0
    for path, text in stale.items():
        path.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
