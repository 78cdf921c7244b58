"""Loss against length: windows, schemes by name, files."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
import torch

from farspan import positions, reference
from farspan._errors import ArgumentError
from farspan.lab import measure as measuring
from farspan.lab import schemes
from farspan.lab.measure import measure, window_ends
from farspan.lab.report import files
from farspan.lab.report.files import Subject
from farspan.lab.schemes import Reach
from farspan.model import Config, Transformer
from farspan.positions import RoPE, YaRN

CONFIG = Config(
    vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, head_dim=8
)
SUBJECT = Subject("a model", "a text", 16, 1.0, {"rope": RoPE().to_dict(), "yarn": YaRN(4, 16).to_dict()})


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(0)
    model = Transformer(CONFIG, backend="reference")
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(8 if weight.ndim > 1 else 1)  # far from uniform, so that a wrong window or target shows
    return model


@pytest.fixture(autouse=True)
def score_by_the_definition(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tested here is which windows and targets are scored, not the backend."""
    monkeypatch.setattr(measuring, "score", reference.score)


TOKENS = torch.randint(50, (700,), generator=torch.Generator().manual_seed(1))


def losses(model: Transformer, start: int, end: int) -> torch.Tensor:
    """Nats of the tokens start + 1 to end, read from start on."""
    logits = reference.logits(model(TOKENS[None, start:end]), model.unembedding)[0]
    return -torch.log_softmax(logits.double(), -1).gather(1, TOKENS[start + 1 : end + 1, None])[:, 0].detach()


# ------------------------------------------------------------------------------------------------------------- windows


@pytest.mark.parametrize(("tokens", "windows"), [(65, 4), (66, 4), (100, 3), (700, 7), (700, 1), (10_000, 32)])
def test_windows_fit_the_text_and_share_no_target(tokens: int, windows: int) -> None:
    ends, stride = window_ends(tokens, 64, windows, targets=8)
    assert 1 <= len(ends) <= windows
    assert int(ends[0]) == 64
    assert int(ends[-1]) < tokens
    assert (ends.diff() == stride).all()
    assert len(ends) == 1 or stride >= 8


def test_windows_reach_to_the_end_of_a_long_text() -> None:
    ends, _ = window_ends(10_000, 64, 32, targets=8)
    assert len(ends) == 32
    assert int(ends[-1]) > 10_000 - 64


def test_a_text_too_short_is_an_error_that_says_what_it_holds() -> None:
    with pytest.raises(ArgumentError, match="at most 63"):
        window_ends(64, 64, 4, targets=8)


# ------------------------------------------------------------------------------------------------------------- measure


def test_by_length_scores_the_same_tokens_at_every_length(model: Transformer) -> None:
    result = measure(model, TOKENS, [32, 16, 64], {"rope": None}, windows=5, targets=8)
    ends, stride = window_ends(len(TOKENS), 64, 5, 8)
    assert (result.lengths, result.windows, result.stride, result.targets) == ((16, 32, 64), 5, stride, 8)
    for point, length in zip(result.points, (16, 32, 64), strict=True):
        means = torch.stack([losses(model, end - length, end)[-8:].mean() for end in ends.tolist()])
        assert point.nats_per_token == pytest.approx(means.mean().item(), rel=1e-5)
        assert point.standard_error == pytest.approx(means.std().item() / math.sqrt(5), rel=1e-4)
        assert (point.length, point.shortest, point.tokens) == (length, length - 7, 40)


def test_by_position_averages_between_one_length_and_the_next(model: Transformer) -> None:
    result = measure(model, TOKENS, [16, 64], {"rope": None}, by="position", windows=3)
    ends, _ = window_ends(len(TOKENS), 64, 3, 8)
    whole = torch.stack([losses(model, end - 64, end) for end in ends.tolist()])
    near, far = result.points
    assert near.nats_per_token == pytest.approx(whole[:, :16].mean().item(), rel=1e-5)
    assert far.nats_per_token == pytest.approx(whole[:, 16:].mean().item(), rel=1e-5)
    assert [(p.shortest, p.length, p.tokens) for p in result.points] == [(1, 16, 48), (17, 64, 144)]


def test_batches_of_any_size_give_the_same(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    together = measure(model, TOKENS, [16, 32], {"rope": None}, windows=7)
    monkeypatch.setattr(measuring, "TOKENS_AT_ONCE", 40)
    alone = measure(model, TOKENS, [16, 32], {"rope": None}, windows=7)
    for a, b in zip(together.points, alone.points, strict=True):
        assert a.nats_per_token == pytest.approx(b.nats_per_token, rel=1e-5)


def test_schemes_are_put_on_the_model(model: Transformer) -> None:
    chosen = {"own": None, "rope": RoPE(), "yarn": YaRN(4, 16)}
    own, rope, yarn = measure(model, TOKENS, [64], chosen, windows=4).points
    assert own.nats_per_token == rope.nats_per_token
    assert abs(yarn.nats_per_token - rope.nats_per_token) > 1e-4
    assert model.config.positions == CONFIG.positions


def test_targets_are_at_most_half_the_shortest_length(model: Transformer) -> None:
    assert measure(model, TOKENS, [10, 32], {"rope": None}, windows=2, targets=64).targets == 5


def test_one_window_has_no_standard_error(model: Transformer) -> None:
    (point,) = measure(model, TOKENS, [16], {"rope": None}, windows=1).points
    assert math.isnan(point.standard_error)


def test_progress_counts_up_to_the_whole(model: Transformer) -> None:
    seen: list[tuple[int, int]] = []
    measure(model, TOKENS, [16, 32], {"rope": None, "yarn": YaRN(2, 16)}, windows=3,
            progress=lambda done, total, next_step: seen.append((done, total)))  # fmt: skip
    assert [done for done, _ in seen] == [0, 48, 144, 192, 288]
    assert {whole for _, whole in seen} == {288}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"lengths": []}, "lengths"), ({"lengths": [1]}, "lengths"), ({"lengths": [900]}, "lengths"),
        ({"by": "token"}, "by"), ({"windows": 0}, "windows"), ({"targets": 0}, "targets"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(changes: dict[str, object], named: str, model: Transformer) -> None:
    lengths = changes.pop("lengths", [16])
    with pytest.raises(ArgumentError, match=named):
        measure(model, TOKENS, lengths, {"rope": None}, **changes)


# ------------------------------------------------------------------------------------------------------------- schemes


@pytest.mark.parametrize(("trained", "longest"), [(256, 2048), (256, 300), (256, 100), (4096, 131072), (2, 64)])
def test_every_name_makes_a_scheme_for_every_reach(trained: int, longest: int) -> None:
    names = [entry.name for entry in schemes.TABLE]
    made = schemes.make(names, Reach(trained, longest, 10000.0))
    assert list(made) == names
    assert [name for name, scheme in made.items() if scheme is None] == ["own"]


@pytest.mark.parametrize(("trained", "longest"), [(256, 2048), (256, 4096), (100, 999), (512, 513)])
def test_region_schemes_stay_within_the_trained_distances(trained: int, longest: int) -> None:
    made = schemes.make(("rerope", "self-extend", "streaming"), Reach(trained, longest, 10000.0))
    assert made["rerope"].window < trained
    assert made["streaming"].sinks + made["streaming"].window <= trained
    extend = made["self-extend"]
    assert (longest - 1) // extend.group + extend.window - extend.window // extend.group < trained


def test_names_may_be_written_in_several_ways_and_each_counts_once() -> None:
    made = schemes.make(("PI", "linear", "dynamic_ntk", " log-n "), Reach(256, 512, 500.0))
    assert list(made) == ["linear", "dynamic-ntk", "logn"]
    assert made["logn"].inner == RoPE(500.0)


def test_an_unknown_scheme_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(ArgumentError, match=r"yarn.*'rotary'"):
        schemes.find("rotary")


def test_every_scheme_has_a_look_of_its_own_and_a_line_in_the_help() -> None:
    looks = [(entry.colour, entry.marker) for entry in schemes.TABLE]
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == len(schemes.TABLE)
    assert set(schemes.COMPARED) <= {entry.name for entry in schemes.TABLE}
    told = [line.split()[0] for line in schemes.command_line_help().splitlines()]
    assert told == [entry.name for entry in schemes.TABLE]


def test_every_class_of_positions_has_a_name_but_the_one_that_needs_searched_factors() -> None:
    made = schemes.make([entry.name for entry in schemes.TABLE], Reach(256, 2048, 10000.0))
    assert {type(scheme) for scheme in made.values() if scheme} == set(positions.SCHEMES) - {positions.LongRoPE}


# -------------------------------------------------------------------------------------------------------------- report


@pytest.mark.parametrize("by", ["length", "position"])
def test_files(by: str, model: Transformer, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = measure(model, TOKENS, [16, 32], {"rope": RoPE(), "yarn": YaRN(4, 16)}, by=by, windows=3)
    paths = files.write(result, SUBJECT, tmp_path / "deep" / "out")
    assert [path.name for path in paths] == ["loss.json", "loss.csv", "loss.png"]
    document = json.loads(paths[0].read_text())
    assert (document["model"], document["trained_length"], document["by"]) == ("a model", 16, by)
    assert [(p["scheme"], p["length"]) for p in document["points"]] == [
        ("rope", 16), ("rope", 32), ("yarn", 16), ("yarn", 32)
    ]  # fmt: skip
    assert document["schemes"]["yarn"]["factor"] == 4
    for point in document["points"]:
        assert point["bits_per_byte"] == pytest.approx(point["nats_per_token"] / math.log(2))
    with paths[1].open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["nats_per_token"]) for row in rows] == [p["nats_per_token"] for p in document["points"]]
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    table = files.table(result, SUBJECT).splitlines()
    assert len(table) == 3
    assert table[0].startswith("bits per byte")


def test_json_has_no_nan(model: Transformer, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    result = measure(model, TOKENS, [16], {"rope": RoPE()}, windows=1)
    path, *_ = files.write(result, SUBJECT, tmp_path)
    (point,) = json.loads(path.read_text(), parse_constant=pytest.fail)["points"]
    assert point["standard_error"] is None


def test_tokens_of_several_bytes_are_drawn_in_nats_and_also_told_in_bits_per_byte(model: Transformer) -> None:
    result = measure(model, TOKENS, [16], {"rope": RoPE()}, windows=2)
    subject = Subject("a model", "a text", 16, 4.0, {})
    (point,) = files.as_dict(result, subject)["points"]
    assert subject.unit == "nats per token"
    assert point["bits_per_byte"] == pytest.approx(point["nats_per_token"] / math.log(2) / 4)
