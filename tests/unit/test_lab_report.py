"""Measurements as files: JSON, CSV, pictures, and the table for a terminal."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
from pathlib import Path

import pytest

from farspan import _files
from farspan.lab import report
from farspan.lab.measurement import Measurement, Point, mean_and_error
from farspan.lab.needle import Found
from farspan.lab.report import plot

LOSSES = {
    "own": {16: (1.0, 1.2, 0.8), 32: (3.0, 3.4, 2.9)},
    "yarn": {16: (1.1, 1.3, 0.9), 32: (1.1, 1.2, 1.0)},
    "Mine(strength=2)": {16: (1.0, 1.2, 0.8), 32: (0.9, 1.1, 0.7)},
}


def points(losses: dict[str, dict[int, tuple[float, ...]]]) -> tuple[Point, ...]:
    return tuple(
        Point(name, length, length - 7, *mean_and_error(values), 24, values)
        for name, by_length in losses.items()
        for length, values in by_length.items()
    )


def measurement(**changes: object) -> Measurement:
    settings = {name: {"scheme": name} for name in LOSSES}
    whole = Measurement(
        "a model", "a text", 16, 1.0, settings, "length", (16, 32), 3, 40, 8, (), ("a note",), True, points(LOSSES)
    )
    return dataclasses.replace(whole, **changes)


ONE_WINDOW = measurement(windows=1, points=points({n: {k: v[:1] for k, v in x.items()} for n, x in LOSSES.items()}))


@pytest.mark.parametrize("by", ["length", "position"])
def test_files(by: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = measurement(by=by)
    paths = report.write(result, tmp_path / "deep" / "out")
    assert [path.name for path in paths] == ["loss.json", "loss.csv", "loss.png", "loss.svg", "loss.pdf"]
    document = json.loads(paths[0].read_text())
    assert (document["model"], document["trained_length"], document["by"]) == ("a model", 16, by)
    assert (document["complete"], document["notes"], document["unit"]) == (True, ["a note"], "bits per byte")
    assert [(p["scheme"], p["length"]) for p in document["points"]] == [(n, k) for n in LOSSES for k in (16, 32)]
    for point in document["points"]:
        assert point["bits_per_byte"] == pytest.approx(point["nats_per_token"] / math.log(2))
        assert tuple(point["window_losses"]) == LOSSES[point["scheme"]][point["length"]]
    with paths[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["nats_per_token"]) for row in rows] == [p["nats_per_token"] for p in document["points"]]
    assert "window_losses" not in rows[0]
    starts = [path.read_bytes()[:5] for path in paths[2:]]
    assert starts == [b"\x89PNG\r", b"<?xml", b"%PDF-"]


def test_files_of_an_interrupted_measurement_are_marked_and_go_with_the_next_whole_one(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    partial = measurement(complete=False, points=points(LOSSES)[:3])
    paths = report.write(partial, tmp_path)
    assert {path.stem for path in paths} == {"loss-partial"}
    assert json.loads(paths[0].read_text())["complete"] is False
    assert "INTERRUPTED" in paths[3].read_text()
    report.write(measurement(), tmp_path)
    assert {path.stem for path in tmp_path.iterdir()} == {"loss"}


def test_json_has_no_nan(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert math.isnan(ONE_WINDOW.points[0].standard_error)
    path, *_ = report.write(ONE_WINDOW, tmp_path)
    document = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert {point["standard_error"] for point in document["points"]} == {None}


def test_tokens_of_several_bytes_are_drawn_in_nats_and_also_told_in_bits_per_byte() -> None:
    result = measurement(bytes_per_token=4.0)
    assert result.unit == "nats per token"
    row = result.rows()[0]
    assert row["bits_per_byte"] == pytest.approx(row["nats_per_token"] / math.log(2) / 4)


def test_where_the_bytes_are_not_known_there_are_no_bits_per_byte() -> None:
    result = measurement(bytes_per_token=None)
    assert result.unit == "nats per token"
    assert math.isnan(result.rows()[0]["bits_per_byte"])


def test_the_table_has_a_row_for_each_scheme_and_shows_what_is_missing() -> None:
    lines = report.table(measurement(points=points(LOSSES)[:3])).splitlines()
    assert lines[0].split() == ["bits", "per", "byte", "16", "32"]
    assert [line.split()[0] for line in lines[1:]] == ["own", "yarn"]
    assert lines[2].split()[-1] == "-"
    assert len({len(line) for line in lines}) == 1


def test_the_table_of_needles_has_means_over_depths() -> None:
    found = tuple(Found("own", length, depth, depth * length / 40, 4) for length in (20, 40) for depth in (0.0, 1.0))
    lines = report.needle_table(measurement(needles=found)).splitlines()
    assert lines[0].split()[-2:] == ["20", "40"]
    assert lines[1].split() == ["own", "25", "50"]


def test_how_far_a_scheme_reads_is_said_with_the_margin() -> None:
    line = report.reach_line(measurement())
    assert line.endswith("within 0.05 nats per token of its best: own 16, yarn 32, Mine(strength=2) 32")


# ------------------------------------------------------------------------------------------------------------- pictures


def texts(result: Measurement, tmp_path: Path) -> str:
    """What is written in a picture: SVG keeps it as text."""
    pytest.importorskip("matplotlib")
    report.draw(result, tmp_path / "picture.svg")
    return (tmp_path / "picture.svg").read_text()


def test_a_picture_names_model_text_schemes_and_the_trained_length(tmp_path: Path) -> None:
    drawn = texts(measurement(), tmp_path)
    wanted = (
        ">a model on a text<", "trained length: 16", "the model's own", "YaRN", "Mine(strength=2)", "each of 3 windows",
        "own loss at 16 bytes", "loss, bits per byte", "difference, bits per byte",
        "Note: a note.",
    )  # fmt: skip
    assert [text for text in wanted if text not in drawn] == []
    assert ">The embedded model on a text<" in texts(measurement(model="the embedded model"), tmp_path)


def test_by_position_the_lower_panel_claims_nothing_of_the_same_tokens(tmp_path: Path) -> None:
    drawn = texts(measurement(by="position"), tmp_path)
    assert "own loss at positions 9 to 16" in drawn
    assert "further back" not in drawn


def test_a_single_window_is_singular_and_has_no_bands(tmp_path: Path) -> None:
    drawn = texts(ONE_WINDOW, tmp_path)
    assert "the last 8 bytes of 1 window;" in drawn
    assert "standard error" not in drawn
    assert "FillBetween" not in drawn
    assert "FillBetween" in texts(measurement(), tmp_path)


def test_without_the_models_own_there_is_one_panel(tmp_path: Path) -> None:
    others = points({name: LOSSES[name] for name in ("yarn", "Mine(strength=2)")})
    assert "difference" not in texts(measurement(points=others), tmp_path)


def test_the_same_numbers_give_the_same_files(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    first, second = (report.write(measurement(), tmp_path / name) for name in ("a", "b"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_labels_move_apart_and_stay_in_order() -> None:
    heights = [0.1, 0.5, 0.5, 0.51, 0.9]
    moved = plot._moved_apart(heights, 0.06)
    assert all(b - a >= 0.06 - 1e-9 for a, b in itertools.pairwise(moved))
    assert (moved[0], moved[-1]) == (0.1, 0.9)
    assert sum(moved) == pytest.approx(sum(heights))


def test_without_matplotlib_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(report.plot.BackendError, match="pip install matplotlib"):
        report.require_matplotlib()


# --------------------------------------------------------------------------------------------------- never half a file


def test_a_write_that_stops_in_the_middle_leaves_the_files_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = pytest.importorskip("matplotlib.figure")
    before = {path.name: path.read_bytes() for path in report.write(measurement(), tmp_path)}

    def half(_: object, path: Path, **settings: object) -> None:
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    def stop(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(figure.Figure, "savefig", half)
    monkeypatch.setattr(_files, "_to_disk", stop)
    with pytest.raises(KeyboardInterrupt):
        plot.draw(measurement(), tmp_path / "loss.png")
    with pytest.raises(KeyboardInterrupt):
        report.write(measurement(margin=0.1), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
