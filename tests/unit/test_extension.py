"""Extending a model: what is measured, what is trained, what is recommended, and what the checkpoint says."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import farspan
from farspan import ArgumentError, Config, Transformer
from farspan.lab.extension import Extension, Tuning, checkpoint, extend, methods, tuning
from farspan.lab.extension.extension import lengths_up_to
from farspan.lab.extension.pose import SkippedPositions, skipped
from farspan.lab.measurement import Measurement, Point
from farspan.lab.schemes import Reach
from farspan.positions import NTK, DynamicNTK, LinearInterpolation, LogN, NoPE, RoPE, SelfExtend, Span, YaRN

CONFIG = Config(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
    max_position_embeddings=16, tie_word_embeddings=True,
)  # fmt: skip


@pytest.fixture
def model() -> Transformer:
    torch.manual_seed(3)
    made = Transformer(CONFIG)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(4.0)  # so that positions matter
    return made


TEXT = torch.from_numpy(np.random.default_rng(5).integers(40, size=400))


# ------------------------------------------------------------------------------------------------------------- methods


@pytest.mark.parametrize(
    ("names", "trains", "expected"),
    [
        (["pi", "yarn"], False, (("linear", "yarn"), ())),
        (["PoSE", "yarn", "rerope"], True, (("yarn", "rerope"), ("pose", "yarn"))),
        (None, False, (methods.ZERO_SHOT, ())),
        (None, True, (methods.ZERO_SHOT, ("linear", "yarn", "pose", "drope"))),
    ],
)
def test_methods_by_name(names: list[str] | None, trains: bool, expected: Any) -> None:
    assert methods.split(names, trains=trains) == expected


@pytest.mark.parametrize(("name", "named"), [("nonsense", "nonsense"), ("own", "own"), ("drope", "--steps")])
def test_wrong_methods(name: str, named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        methods.split([name], trains=False)


def test_what_trainings_leave_behind() -> None:
    reach = Reach(16, 64, 10000.0)
    left = {method: methods.trained_by(method, reach).after for method in methods.TUNED}
    assert left["linear"].to_dict() == LinearInterpolation(4.0).to_dict()
    assert left["yarn"] == left["pose"] == YaRN(4.0, 16)
    assert left["drope"] == LogN(16, inner=NoPE()), "no rotation, and queries scaled from the trained length on"
    assert {m for m in methods.TUNED if methods.trained_by(m, reach).whole_reach} == {"linear", "yarn"}


# ---------------------------------------------------------------------------------------------------------------- PoSE


def test_the_second_part_of_a_text_stands_further_off() -> None:
    draws = [skipped(16, 64, draw) for draw in range(300)]
    for places in draws:
        steps = np.diff(places)
        assert places[0] == 0
        assert places[-1] < 64
        assert (steps >= 1).all()
        assert (steps > 1).sum() <= 1, "one gap at most"
    reached = {int(b - a) for places in draws for a in places for b in places if b > a}
    assert reached == set(range(1, 64)), "all distances below the limit are met"
    assert (skipped(64, 64, 1) == np.arange(64)).all()


def test_nothing_is_skipped_but_in_training() -> None:
    scheme = SkippedPositions(64, inner=YaRN(4, 16))
    span = Span(time=16, lengths=(16,), heads=2, head_dim=8)
    assert scheme.fixed_hooks(span).keys() == {"rotary"}
    drawn = scheme.fixed_hooks(dataclasses.replace(span, draw=5))
    assert (drawn["query_positions"] == skipped(16, 64, 5)).all()
    assert drawn["key_positions"] is drawn["query_positions"]
    with pytest.raises(ArgumentError, match="positions"):
        SkippedPositions(64, inner=NoPE())


# --------------------------------------------------------------------------------------------- measured and recommended


def test_lengths_go_from_half_the_trained_one_to_the_one_to_reach() -> None:
    assert lengths_up_to(256, 1024) == (128, 256, 512, 1024)
    assert lengths_up_to(256, 900) == (128, 256, 512, 900)
    assert lengths_up_to(2, 3) == (2, 2, 3)


def test_points_are_those_of_measure(model: Transformer) -> None:
    found = extend(model, TEXT, 64, ["yarn", "self-extend"])
    truth = farspan.measure(model, TEXT, [8, 16, 32, 64], ["own", "yarn", "self-extend"])
    assert found.measurement.points == truth.points
    assert not found.trainings
    assert list(found.models) == ["own", "yarn", "self-extend"]
    for name, scheme in (("own", RoPE()), ("yarn", YaRN(4.0, 16)), ("self-extend", SelfExtend(7, 8))):
        assert {own.to_dict()["scheme"] for own in found.models[name].config.positions} == {type(scheme).__name__}


def made_up(losses: dict[str, tuple[list[float], list[float]]]) -> Extension:
    """From the losses of windows at the trained length and at the one to reach."""
    points = [
        Point(name, length, 1, float(np.mean(windows)), 0.0, 2, tuple(windows))
        for name, pair in losses.items() for length, windows in zip((16, 64), pair, strict=True)
    ]  # fmt: skip
    names = {name: {} for name in losses}
    whole = Measurement(
        "m", "t", 16, None, names, "length", (16, 64), 2, 1, 1, (), (), True, tuple(points)
    )  # fmt: skip
    return Extension(whole, 64, {}, {})


def test_the_lowest_loss_at_the_length_to_reach_is_recommended_with_what_it_costs() -> None:
    found = made_up({"own": ([1.0, 3.0], [5.0, 7.0]), "a": ([0.5, 1.5], [4.0, 4.0]), "b": ([1.5, 3.3], [2.0, 5.0])})
    assert found.ranking == ["b", "a", "own"]
    assert found.recommended == "b"
    evidence = found.evidence
    assert evidence["gain_over_own"] == pytest.approx(2.5)
    assert evidence["cost_at_trained_length"] == pytest.approx(0.4)
    assert evidence["cost_error"] == pytest.approx(0.1), "of differences over the same windows"
    assert evidence["above_own_at_trained_length"] == pytest.approx(1.5)


def test_a_model_that_nothing_helps_stays_as_it_is() -> None:
    assert made_up({"own": ([1.0], [1.0]), "a": ([1.0], [2.0])}).recommended == "own"


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"to": 16}, "beyond the trained 16"),
        ({"to": 64, "tokens": TEXT[:64]}, "64"),
        ({"to": 64, "tokens": TEXT[:80], "methods": ["yarn"], "tuning": Tuning(2)}, "at least 81 tokens"),
    ],
)
def test_what_cannot_be_measured(wrong: dict[str, Any], named: str, model: Transformer) -> None:
    with pytest.raises(ArgumentError, match=named):
        extend(model, **{"tokens": TEXT, "methods": ["yarn"], **wrong})


# ------------------------------------------------------------------------------------------------------------- training


@pytest.mark.parametrize("method", methods.TUNED)
def test_trainings_learn_and_leave_the_model_as_it_was(method: str, model: Transformer) -> None:
    before = [weight.clone() for weight in model.parameters()]
    said: list[str] = []
    text = torch.arange(400) % 7
    how = Tuning(6, tokens=128, learning_rate=3e-3)
    found = extend(model, text, 64, [method], how, say=said.append)
    name = f"{method}, 6 steps"
    assert found.recommended == name, "the text is a loop, which is soon learnt"
    assert found.models[name].config.positions[0].to_dict()["scheme"] == {
        "linear": "LinearInterpolation", "yarn": "YaRN", "pose": "YaRN", "drope": "LogN"
    }[method]  # fmt: skip
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert found.trainings[name]["context"] == (64 if method in ("linear", "yarn") else 16)
    assert said == [f"{name}: context {found.trainings[name]['context']}, about 0.00 GiB of memory beside the model"]
    assert "learnt from 300 other tokens of the same text" in found.measurement.notes[-1]


def test_what_is_measured_is_not_learnt(model: Transformer, monkeypatch: pytest.MonkeyPatch) -> None:
    learnt: list[int] = []
    train = tuning.fit

    def watched(learner: Transformer, documents: Any, *rest: Any, **more: Any) -> Any:
        learnt.extend(len(document) for document in documents)
        return train(learner, documents, *rest, **more)

    monkeypatch.setattr(tuning, "fit", watched)
    how = Tuning(1, tokens=64)
    split = extend(model, TEXT, 64, ["yarn"], how)
    apart = extend(model, TEXT, 64, ["yarn"], how, train_tokens=TEXT[:90])
    assert learnt == [300, 90]
    assert split.measurement.points[0] == farspan.measure(model, TEXT[300:], [8, 16, 32, 64], "own").points[0]
    assert apart.measurement.points[0] == farspan.measure(model, TEXT, [8, 16, 32, 64], "own").points[0]


def test_the_bound_of_memory_grows_with_what_a_step_reads() -> None:
    small, large = (tuning.memory(CONFIG, 1000, 16, Tuning(1, tokens=n)) for n in (64, 128))
    per_token = (large - small) / 64
    assert small - 64 * per_token == 16 * 1000
    assert per_token > 4 * CONFIG.hidden_size * CONFIG.num_hidden_layers


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("scheme", "says", "reach"),
    [
        (YaRN(4, 16), "yarn", 64),
        (LinearInterpolation(4), "linear", 64),
        (DynamicNTK(4, 16), "dynamic", 16),
        (NTK(4), "default", 64),
        (RoPE(None), "default", 64),
        (SelfExtend(7, 8), None, 64),
        (LogN(16, inner=NoPE()), None, 64),
    ],
)
def test_checkpoints(scheme: Any, says: str | None, reach: int, model: Transformer, tmp_path: Path) -> None:
    extended = model.with_positions(scheme)
    assert checkpoint.write(extended, 64, tmp_path) is (says is not None)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == ("llama" if says else "farspan")
    assert config["max_position_embeddings"] == reach
    if says:
        assert config["rope_parameters"]["rope_type"] == says
    ids = TEXT[None, :50]
    read = Transformer.from_pretrained(tmp_path)
    assert torch.allclose(read(ids), extended(ids), atol=1e-5)
