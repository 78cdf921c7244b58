"""The scripts behind `make`: what they count and complain about, and that the documents' figures are generated."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

import extrapolation_figures
from checks import Outcome, Step, cargo_outcomes, junit_outcomes, summary
from farspan.lab import language
from farspan.lab.extrapolation import Extrapolation, Settings
from farspan.lab.language.result import Model
from machine import slug
from readme_table import BEGIN, END, README_ROWS, chosen, committed, replaced, section, wanted
from setup_venv import requirements
from timing import Case, Effort, measure
from tree_check import UNSAFE_FOLDERS, complaints

CARGO_OUTPUT = """
running 3 tests
test dot::avx2_matches_portable ... ok
test noise::philox ... FAILED
test dot::avx512 ... ignored, this CPU has no AVX-512

test result: FAILED. 1 passed; 1 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s
"""

JUNIT_REPORT = """
<testsuites><testsuite>
<testcase classname="tests.property.test_attention" name="test_hooks[portable-f32]"/>
<testcase classname="tests.unit.test_noise" name="test_tail"><failure message="no"/></testcase>
<testcase classname="tests.unit.test_noise" name="test_gpu"><skipped message="no GPU"/></testcase>
</testsuite></testsuites>
"""


def test_cargo_output_is_counted() -> None:
    assert cargo_outcomes(CARGO_OUTPUT.splitlines()) == [
        Outcome("dot::avx2_matches_portable", "passed"),
        Outcome("noise::philox", "failed"),
        Outcome("dot::avx512", "skipped", "this CPU has no AVX-512"),
    ]


def test_junit_report_is_counted() -> None:
    assert [(o.result, o.backend, o.reason) for o in junit_outcomes(JUNIT_REPORT)] == [
        ("passed", "portable", ""),
        ("failed", "any", ""),
        ("skipped", "any", "no GPU"),
    ]


@pytest.mark.parametrize(
    ("name", "backend"),
    [("a::avx2_matches_portable", "avx2"), ("test_x[avx512-f32]", "avx512"), ("test_reference", "reference"),
     ("test_unportable", "any")],
)  # fmt: skip
def test_backend_is_read_from_the_name(name: str, backend: str) -> None:
    assert Outcome(name, "passed").backend == backend


def test_summary_names_counts_and_reasons() -> None:
    step = Step("Rust tests", [], ok=False, outcomes=cargo_outcomes(CARGO_OUTPUT.splitlines()))
    text = summary([step])
    assert "FAILED  Rust tests" in text
    assert "1 passed, 1 failed, 1 skipped" in text
    assert "1 x this CPU has no AVX-512" in text
    assert any(line.split() == ["avx2", "1", "0", "0"] for line in text.splitlines())


@pytest.mark.parametrize(
    ("path", "text", "complaint"),
    [
        ("rust/core/src/a.rs", "x" * 25_001, "25001 bytes"),
        ("python/farspan/a.py", "x" * 121, "121 columns"),
        ("rust/core/src/a.rs", "    let x = unsafe { y };", "unsafe code outside"),
        ("python/farspan/a.py", "# FIX" + "ME later", "unfinished"),
    ],
)
def test_tree_check_complains(path: str, text: str, complaint: str) -> None:
    assert any(complaint in found for found in complaints(Path(path), text))


def test_tree_check_is_content() -> None:
    assert not list(complaints(UNSAFE_FOLDERS[0] / "avx2.rs", "unsafe { go() }"))
    assert not list(complaints(Path("rust/core/src/lib.rs"), "#![forbid(unsafe_code)]\n// unsafe { } is not used here"))


def test_requirements_expand_the_projects_own_extras() -> None:
    project = {
        "name": "farspan",
        "dependencies": ["numpy>=2"],
        "optional-dependencies": {"torch": ["torch>=2.11"], "test": ["farspan[torch]", "pytest"], "dev": ["ruff"]},
    }
    assert requirements(project, ("test",)) == ["numpy>=2", "pytest", "torch>=2.11"]


REPORT = {
    "machine": {"cpu": "Model X", "flags": ["avx2"], "cores": 2},
    "isa": None,
    "threads": 2,
    "software": {"farspan": "0.1.0", "torch": "2.15.0", "python": "3.11"},
    "command": "python benches/peers/run.py --full",
    "date": "2026-01-01",
    "results": [
        {
            "operation": "sample",
            "case": "bf16 B 8",
            "farspan": {"min_ms": 10.0, "median_ms": 12.5, "timed_calls": 9},
            "peer": {"name": "torch", "min_ms": 55.0, "median_ms": 60.0, "timed_calls": 5},
            "ratio": 5.5,
            "ratio_of_medians": 4.8,
            "goal_on_avx2": 5.0,
        }
    ],
}


def test_table_holds_machine_command_and_figures() -> None:
    text = section([REPORT])
    assert "**Model X** (avx2), 2 threads" in text
    assert "`python benches/peers/run.py --full`" in text
    assert "| sample | bf16 B 8 | torch | 10 (12.5) | 55 (60) | 5.50x |" in text
    assert "| memory |" not in text
    row = {"operation": "load", "case": "f32", "weights_mib": 513.2, "grown_mib": 540.4, "ratio": 1.053, "goal": 1.1}
    large = row | {"case": "f64", "grown_mib": None, "ratio": None}
    text = section([REPORT | {"memory": [row, large]}])
    assert "| load | f32 | 513 | 540 | 1.05 |" in text
    assert "| load | f64 | 513 | does not fit |  |" in text


def test_only_the_marked_section_is_replaced() -> None:
    readme = f"before\n{BEGIN}\nold figures\n{END}\nafter\n"
    assert replaced(readme, section([])) == f"before\n{BEGIN}\n\n{END}\nafter\n"
    with pytest.raises(SystemExit, match="must hold the lines"):
        replaced("a README without markers", section([]))


def test_documents_show_the_committed_results() -> None:
    assert committed(), "benches/results holds the figures of at least one machine"
    assert [path.name for path, text in wanted().items() if text != path.read_text()] == []


def test_the_page_of_trainings_shows_the_committed_results() -> None:
    page = extrapolation_figures.PAGE.read_text()
    assert page == extrapolation_figures.wanted(page), "run tools/extrapolation_figures.py"
    folders = [path.name for path in extrapolation_figures.RESULTS.iterdir()]
    assert sorted(extrapolation_figures.shown(page)) == sorted(folders), "every result that is kept is shown"


def test_figures_of_several_seeds_have_the_least_and_the_most() -> None:
    assert extrapolation_figures.spread([0.5]) == "50"
    assert extrapolation_figures.spread([0.25, 1.0, 0.5]) == "50 (25-100)"
    assert extrapolation_figures.spread([]) == ""


def test_figures_of_runs_with_other_lengths_stand_under_their_own() -> None:
    def made_up(scheme: str, lengths: tuple[int, ...], exact: float) -> Extrapolation:
        settings = Settings("reverse_string", (scheme,), train_length=4, test_lengths=lengths, seeds=2)
        results = {
            one: {"points": [{"length": n, "accuracy": (one.seed + n) / 10, "exact": exact} for n in lengths],
                  "held_out_loss": 0.1}
            for one in settings.trials()
        }  # fmt: skip
        return Extrapolation(settings, "a machine", results)

    runs = {"short": made_up("rope", (4, 6), 0.25), "long": made_up("alibi", (6, 8), 0.5)}
    assert extrapolation_figures.table(runs).splitlines() == [
        "| run | scheme | 4 | 6 | 8 | all right at 8 |",
        "|---|---|---:|---:|---:|---:|",
        "| short | `rope` | 45 (40-50) | 65 (60-70) |  |  |",
        "| long | `alibi` |  | 65 (60-70) | 85 (80-90) | 50 (50-50) |",
    ]


def test_figures_of_language_are_medians_in_bits() -> None:
    settings = language.Settings(("rope", "alibi"), train_length=2, test_lengths=(2, 4), seeds=3)
    models = tuple(
        Model(name, seed, {n: n * (seed + 1) * math.log(2) for n in (2, 4)}, {2: 0.1, 4: 0.1}, (), ())
        for seed in range(3) for name in settings.schemes
    )  # fmt: skip
    found = language.Language(settings, "a machine", "a text", 9, models)
    assert extrapolation_figures.table({"one": found}).splitlines()[2] == "| `rope` | 4.00 | 8.00 |"


def test_readme_shows_the_newest_measurement_that_holds_nobody_back() -> None:
    rows = [{"operation": operation, "case": case, "peer": {"name": peer}} for operation, case, peer in README_ROWS]
    reports = [REPORT | {"date": date, "isa": isa, "results": [*rows, *REPORT["results"]]}
               for date, isa in (("2026-01-01", None), ("2026-03-01", "avx2"), ("2026-02-01", None))]  # fmt: skip
    reports.append(REPORT | {"date": "2026-04-01"})  # a part of the cases only
    assert chosen(reports) == [reports[2] | {"results": rows, "memory": []}]


def test_measured_rows_have_the_fields_of_a_results_file() -> None:
    calls: list[str] = []
    case = Case("sleep", "case", "peer", lambda: calls.append("farspan"), lambda: calls.append("other"), calls=2)
    row = measure(case, Effort(rounds=2, block_seconds=1e-6))
    assert row.keys() == REPORT["results"][0].keys()
    assert row["peer"].keys() == {"name", *row["farspan"]}
    # Each block starts with a call that is not counted, and the two sides take turns.
    assert row["farspan"]["timed_calls"] <= calls.count("farspan") - 2
    turns = [name for name, before in zip(calls, [None, *calls], strict=False) if name != before]
    assert turns == ["farspan", "other"] * 2


def test_slug() -> None:
    assert slug("AMD EPYC (family 26, model 2)", "avx2") == "amd-epyc-family-26-model-2-held-to-avx2"
