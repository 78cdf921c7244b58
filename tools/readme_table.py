"""Write the README's performance table from benches/results/*.json, so that no figure in it was ever typed by hand.

python tools/readme_table.py            rewrite the table in README.md
python tools/readme_table.py --check    exit 1 if README.md does not hold exactly what would be written
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
RESULTS = ROOT / "benches" / "results"
BEGIN = "<!-- performance: written by tools/readme_table.py -->"
END = "<!-- end of performance -->"


def machine_line(report: dict) -> str:
    """One sentence saying where, with what and how the figures below it were measured."""
    machine, software = report["machine"], report["software"]
    isa = f", both sides held to {report['isa']}" if report["isa"] else ""
    return (
        f"**{machine['cpu']}** ({', '.join(machine['flags']) or 'no vector flags'}), {report['threads']} threads{isa}; "
        f"farspan {software['farspan']}, torch {software['torch']}, {report['date']}; `{report['command']}`"
    )


def table(report: dict) -> list[str]:
    """A row per case: least (and median) milliseconds of one operation, and the ratio of the least ones."""
    lines = ["| operation | case | against | farspan ms | other ms | ratio |", "|---|---|---|---:|---:|---:|"]
    for row in report["results"]:
        ours, other = (f"{row[side]['min_ms']:.3g} ({row[side]['median_ms']:.3g})" for side in ("farspan", "peer"))
        lines.append(
            f"| {row['operation']} | {row['case']} | {row['peer']['name']} | {ours} | {other} | {row['ratio']:.2f}x |"
        )
    return lines


def section(reports: list[dict]) -> str:
    """All tables, each under the line that says where it was measured."""
    parts = [BEGIN]
    for report in reports:
        parts += ["", machine_line(report), "", *table(report)]
    return "\n".join([*parts, "", END])


def replaced(readme: str, new: str) -> str:
    """The README with everything from the first marker to the last replaced."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"README.md must hold the lines {BEGIN!r} and {END!r}")
    return before + new + after


def committed() -> list[dict]:
    """The measurements on CPUs."""
    reports = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("*.json"))]
    return [report for report in reports if "isa" in report]


def main() -> int:
    readme = README.read_text()
    wanted = replaced(readme, section(committed()))
    if wanted == readme:
        return 0
    if "--check" in sys.argv[1:]:
        print("README.md's performance table is not what benches/results says: run python tools/readme_table.py")
        return 1
    README.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
