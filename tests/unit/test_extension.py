"""Extending a model: what is measured, what is trained, what is recommended, and what the checkpoint says."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import farspan
from farspan import ArgumentError, BackendError, Config, Transformer
from farspan.lab.copying import find_copies
from farspan.lab.extension import Extension, Tuning, checkpoint, extend, lora, methods, tuning
from farspan.lab.extension.extension import lengths_up_to
from farspan.lab.extension.pose import SkippedPositions, skipped
from farspan.lab.measurement import Measurement, Point
from farspan.lab.needle import find_needles
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


def test_lora_trains_only_where_it_is_asked_for() -> None:
    assert methods.split(["LoRA", "yarn"], trains=True) == (("yarn",), ("lora", "yarn"))
    assert "lora" not in methods.split(None, trains=True)[1], "peft may not be there"


@pytest.mark.parametrize(
    ("name", "named"), [("nonsense", "nonsense"), ("own", "own"), ("drope", "--steps"), ("lora", "--steps")]
)
def test_wrong_methods(name: str, named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        methods.split([name], trains=False)


def test_what_trainings_leave_behind() -> None:
    reach = Reach(16, 64, 10000.0)
    left = {method: methods.trained_by(method, reach).after for method in methods.TUNED}
    assert left["linear"].to_dict() == LinearInterpolation(4.0).to_dict()
    assert left["yarn"] == left["pose"] == left["lora"] == YaRN(4.0, 16)
    assert left["drope"] == LogN(16, inner=NoPE()), "no rotation, and queries scaled from the trained length on"
    assert {m for m in methods.TUNED if methods.trained_by(m, reach).whole_reach} == {"linear", "yarn", "lora"}


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


def test_what_is_measured_is_kept_scheme_by_scheme_and_the_model_as_it_is_first(model: Transformer) -> None:
    kept: list[Extension] = []
    found = extend(model, TEXT, 64, ["yarn", "ntk"], copies=0, keep=kept.append)
    names = [["own"], ["own", "yarn"], ["own", "yarn", "ntk"]]
    assert [list(one.measurement.curves()) for one in kept[:3]] == names
    assert [list(one.models) for one in kept[:3]] == names
    assert kept[0].recommended == "own"
    assert kept[0].measurement.points == found.measurement.points[:4]
    assert kept[0].to_dict()["complete"] is False


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
    if method == "lora":
        pytest.importorskip("peft", reason="peft is not installed")
    before = [weight.clone() for weight in model.parameters()]
    said: list[str] = []
    text = torch.arange(400) % 7
    how = Tuning(6, tokens=128, learning_rate=3e-3)
    found = extend(model, text, 64, [method], how, say=said.append)
    name = f"{method}, 6 steps"
    assert found.recommended == name, "the text is a loop, which is soon learnt"
    assert found.models[name].config.positions[0].to_dict()["scheme"] == {
        "linear": "LinearInterpolation", "yarn": "YaRN", "pose": "YaRN", "drope": "LogN", "lora": "YaRN"
    }[method]  # fmt: skip
    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True))
    assert found.trainings[name]["context"] == (64 if method in ("linear", "yarn", "lora") else 16)
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


def test_the_bound_of_memory_grows_with_what_a_step_reads(model: Transformer) -> None:
    whole = methods.trained_by("yarn", Reach(16, 64, 10000.0))
    small, large = (tuning.memory(model, whole, 16, Tuning(1, tokens=n)) for n in (64, 128))
    per_token = (large - small) / 64
    numbers = sum(weight.numel() for weight in model.parameters())
    assert small - 64 * per_token == 16 * numbers, "weights, gradients and two moments"
    assert per_token > 4 * CONFIG.hidden_size * CONFIG.num_hidden_layers
    halves = tuning.memory(model.bfloat16(), whole, 16, Tuning(1, tokens=64))
    assert halves - 64 * per_token == 20 * numbers, "with masters, and gradients of both"


def test_the_bound_of_memory_of_adapters_is_by_what_learns(model: Transformer) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    numbers = sum(weight.numel() for weight in model.parameters())
    counted = lora.learning(model)
    lora.adapt(model)
    assert counted == sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert sum(weight.numel() for weight in model.parameters()) > numbers


# ---------------------------------------------------------------------------------------------------------------- LoRA


def test_adapters_norms_and_embeddings_learn_and_nothing_else(model: Transformer) -> None:
    pytest.importorskip("peft", reason="peft is not installed")
    before = dict(model.named_parameters())
    expected, found = model(TEXT[None, :12]), None
    merge = lora.adapt(model)
    learning = {name for name, weight in model.named_parameters() if weight.requires_grad}
    vectors = {name for name, weight in before.items() if weight.ndim == 1}
    assert {name for name in learning if "lora_" not in name} == {"embedding", *vectors}
    assert len([name for name in learning if "lora_" in name]) == 2 * 4 * CONFIG.num_hidden_layers
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.1)
        found = model(TEXT[None, :12])
        merge()
        assert torch.allclose(model(TEXT[None, :12]), found, atol=1e-4)
    assert not torch.allclose(expected, found, atol=1e-2)
    assert list(dict(model.named_parameters())) == list(before)
    assert all(weight.requires_grad for weight in model.parameters()), "as they were"


def test_lora_without_peft_is_told_before_anything_is_measured(
    model: Transformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(BackendError, match=r"lora: expected the package peft .*pip install peft"):
        extend(model, TEXT[:1], 64, ["lora"], Tuning(1))


# ----------------------------------------------------------------------------------------------------------- retrieval


class Digits:
    """Every character of a needle is a token of this small vocabulary."""

    def encode(self, text: str, **_: object) -> list[int]:
        return [ord(letter) % 40 for letter in text.replace(" ", "")]


def test_needles_and_copies_are_those_of_their_modules(model: Transformer) -> None:
    found = extend(model, TEXT, 128, ["yarn"], needles=1, copies=3, tokenizer=Digits())  # type: ignore[arg-type]
    asked = {"own": None, "yarn": YaRN(8.0, 16)}
    whole = found.measurement
    assert whole.lengths == (8, 16, 32, 64, 128)
    assert whole.needles == find_needles(model, Digits(), TEXT, [128], asked, count=1)  # type: ignore[arg-type]
    assert whole.copies == find_copies(model, TEXT, whole.lengths, asked, trained_length=16, count=3)
    assert "no room for a needle and its question in 8, 16, 32, 64 tokens" in whole.notes
    assert found.to_dict()["retrieval"] == found.retrieval
    assert found.retrieval["needles_found"].keys() == found.retrieval["copied"].keys() == {"own", "yarn"}


def test_a_trained_model_is_asked_for_the_same(model: Transformer) -> None:
    found = extend(model, torch.arange(400) % 7, 64, ["pose"], Tuning(2, tokens=64))
    own = [copied for copied in found.measurement.copies if copied.scheme == "own"]
    trained = [copied for copied in found.measurement.copies if copied.scheme == "pose, 2 steps"]
    assert [copied.length for copied in own] == [copied.length for copied in trained] == [8, 16, 32, 64]
    assert len({copied.guessed for copied in found.measurement.copies}) == 1, "those of the model as it is"


def test_needles_are_kept_before_copies_are_asked_for(model: Transformer) -> None:
    kept: list[Extension] = []
    more: dict[str, Any] = {"tokenizer": Digits(), "needles": 1, "copies": 1, "keep": kept.append}
    found = extend(model, TEXT, 128, ["yarn"], **more)
    *_, before, after = (one.measurement for one in kept)
    assert before.needles == after.needles == found.measurement.needles != ()
    assert before.copies == ()
    assert after.copies == found.measurement.copies != ()


def test_nothing_is_asked_for_that_is_not_wanted(model: Transformer) -> None:
    found = extend(model, TEXT, 64, ["yarn"], needles=0, copies=0, tokenizer=Digits())  # type: ignore[arg-type]
    assert found.measurement.needles == found.measurement.copies == ()
    assert found.retrieval == {"needles_found": {}, "copied": {}}
    with pytest.raises(ArgumentError, match="copies"):
        extend(model, TEXT, 64, ["yarn"], copies=-1)


# ---------------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize(
    ("scheme", "says", "reach", "converts"),
    [
        (YaRN(4, 16), "yarn", 64, True),
        (LinearInterpolation(4), "linear", 64, True),
        (DynamicNTK(4, 16), "dynamic", 16, False),
        (NTK(4), "default", 64, True),
        (RoPE(None), "default", 64, True),
        (SelfExtend(7, 8), None, 64, False),
        (LogN(16, inner=NoPE()), None, 64, False),
    ],
)
def test_checkpoints(
    scheme: Any, says: str | None, reach: int, converts: bool, model: Transformer, tmp_path: Path
) -> None:
    extended = model.with_positions(scheme)
    assert checkpoint.write(extended, 64, tmp_path) == checkpoint.Readers(says is not None, converts)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["model_type"] == ("llama" if says else "farspan")
    assert config["max_position_embeddings"] == reach
    if says:
        assert config["rope_parameters"]["rope_type"] == says
    ids = TEXT[None, :50]
    read = Transformer.from_pretrained(tmp_path)
    assert torch.allclose(read(ids), extended(ids), atol=1e-5)
