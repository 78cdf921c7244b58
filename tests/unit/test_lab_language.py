"""Extrapolation on language: its settings, how it goes on after a stop, what it finds, and the figures beside it."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

import farspan
from farspan import ArgumentError, Error, Transformer
from farspan.lab import language
from farspan.lab.embedded import data
from farspan.lab.language import Language, Settings, published_table, run, table, training
from farspan.lab.language.result import Model
from farspan.lab.language_recipes import LANGUAGE_RECIPES, LanguageRecipe
from farspan.lab.subject import byte_texts, open_model

TINY = Settings(
    schemes=("rope", "drope"), zero_shot=("ntk",), tuned=("pose",), tuning_steps=1, train_length=8,
    test_lengths=(16, 128), steps=9, examples=2, batch=2, layers=1, width=16, heads=2, needles=1, copies=1,
)  # fmt: skip
TEXT = torch.tensor(list(b"def add(first, second):\n    return first + second\n" * 40))
LEARNT, HELD_OUT = TEXT[:1500], TEXT[1500:]
NAMES = ["rope", "drope", "ntk, zero-shot", "pose, tuned"]


def changed(**settings: Any) -> Settings:
    return dataclasses.replace(TINY, **settings)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"schemes": ("rope", "nonsense")}, "nonsense"),
        ({"schemes": ("own",)}, "^schemes: expected schemes that a new model can have"),
        ({"schemes": ()}, "^schemes: expected at least one"),
        ({"schemes": ("alibi",)}, "rope among them"),
        ({"zero_shot": ("pose",)}, "^zero_shot: expected schemes that need no training"),
        ({"steps": 1}, "^steps: expected at least 2 with drope"),
        ({"train_length": 1}, "^train_length: "),
        ({"tuned": ("rerope",)}, "tuned: expected methods among"),
        ({"train_length": 0}, "train_length"),
        ({"needles": -1}, "needles"),
        ({"width": 18, "heads": 4}, "width"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        changed(**wrong)


@pytest.mark.parametrize("name", LANGUAGE_RECIPES)
def test_recipes_are_settings_that_can_be(name: str) -> None:
    recipe = LANGUAGE_RECIPES[name]
    settings = Settings(**recipe.common)
    assert {*recipe.growth, *recipe.needles} <= settings.models.keys()
    factors = {length / settings.train_length for length in settings.test_lengths}
    assert {factor for figures in recipe.growth.values() for factor in figures} <= factors
    assert not recipe.needles or 2 in factors


def test_a_run_measures_every_model_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    fit = training.fit

    def watched(model: Transformer, documents: Any, recipe: Any, folder: Path, **more: Any) -> Any:
        trained.append(f"{folder.name}: {recipe.steps}")
        return fit(model, documents, recipe, folder, **more)

    monkeypatch.setattr(training, "fit", watched)
    told: list[tuple[int, int]] = []

    def tell(done: int, total: int, next_step: str) -> None:
        told.append((done, total))

    first = run(TINY, LEARNT, HELD_OUT, tmp_path / "a", progress=tell)
    assert sorted(told) == told, "steps of all trainings, and measuring takes none"
    assert {done for done, _ in told} == set(range(1, 20))
    assert {total for _, total in told} == {2 * 9 + 1}
    assert trained[:3] == ["rope-seed0: 9", "drope-seed0: 8", "drope-without-seed0: 1"]
    assert first.names == NAMES
    assert [model.nats.keys() for model in first.models] == [{8, 16, 128}] * 4
    assert [model.found(8) for model in first.models] == [None] * 4, "no room"
    assert all(model.found(128) is not None and model.copied(16) is not None for model in first.models)

    rope = Transformer.from_pretrained(tmp_path / "a" / "runs" / "rope-seed0")
    truth = farspan.measure(rope, HELD_OUT, [8, 16, 128], ["own", "ntk"], windows=2, trained_length=8)
    found = {(model.name, n): nats for model in first.models for n, nats in model.nats.items()}
    for point in truth.points:
        name = "rope" if point.scheme == "own" else "ntk, zero-shot"
        assert found[name, point.length] == pytest.approx(point.nats_per_token, abs=1e-5)
    bare = Transformer.from_pretrained(tmp_path / "a" / "runs" / "drope-without-seed0")
    assert bare.config.positions[0].to_dict()["scheme"] == "LogN"

    with pytest.raises(Error, match="resume"):
        run(TINY, LEARNT, HELD_OUT, tmp_path / "a")
    for name in ("ntk__zero-shot", "rope"):
        (tmp_path / "a" / "runs" / f"{name}-seed0.json").unlink()
    trained.clear()
    told.clear()
    again = run(TINY, LEARNT, HELD_OUT, tmp_path / "a", resume=True, progress=tell)
    assert set(told) == {(19, 19)}, "all steps were done before"
    assert again.to_dict() == first.to_dict()
    assert trained == ["rope-seed0: 9"] * 2, "which is over, and only read"
    with pytest.raises(Error, match="batch: expected 2"):
        run(changed(batch=3), LEARNT, HELD_OUT, tmp_path / "a", resume=True)
    with pytest.raises(Error, match=r"^texts: expected"):
        run(TINY, LEARNT, HELD_OUT.flip(0), tmp_path / "a", resume=True)
    checkpoint, tokenizer = open_model(tmp_path / "a" / "runs" / "rope-seed0")
    assert tokenizer.encode("def") == list(b"def")
    assert checkpoint.config.max_position_embeddings == 8
    paths = language.write(first, tmp_path / "a")
    assert json.loads(paths[0].read_text())["points"] == first.rows()
    assert len(paths[1].read_text().splitlines()) == 1 + 4 * 3
    assert paths[2].read_bytes().startswith(b"\x89PNG")


def test_a_scheme_that_is_trained_and_put_on_another_model_is_two_models(tmp_path: Path) -> None:
    both = changed(schemes=("RoPE", "yarn"), zero_shot=("yarn",), tuned=(), needles=0, copies=0)
    found = run(both, LEARNT, HELD_OUT, tmp_path)
    assert found.names == ["rope", "yarn", "yarn, zero-shot"]
    _, trained, put_on = found.models
    assert trained.nats != put_on.nats


def made_up() -> Language:
    models = [
        Model(name, seed, {8: nats, 16: nats + grown, 128: nats + 1.0}, {8: 0.1, 16: 0.1, 128: 0.1},
              ({"length": 16, "accuracy": 0.25}, {"length": 16, "accuracy": 0.75}), ())
        for name, nats, grown in (("rope", math.log(2), math.log(3)), ("alibi", 2 * math.log(2), math.log(0.5)))
        for seed in (0, 1)
    ]  # fmt: skip
    return Language(changed(schemes=("rope", "alibi"), zero_shot=(), tuned=()), "a machine", "a text", 9, tuple(models))


def test_a_result_comes_back_from_its_document() -> None:
    found = made_up()
    again = Language.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert again.to_dict() == found.to_dict()


def test_figures_of_a_paper_stand_beside_ours() -> None:
    recipe = LanguageRecipe("what", {}, "somebody", {"rope": {1: 10.0, 2: 50.0}}, {"alibi": 12.5})
    lines = published_table(made_up(), recipe).splitlines()
    assert lines[1].split() == ["rope", "3.00", "5.00"], "times the perplexity at the trained length"
    assert lines[3].split() == ["alibi", "50.0", "12.5"]
    assert lines[4] == "paper: somebody"
    assert table(made_up()).splitlines()[1].split() == ["rope", "1.000", "2.585", "2.443"]
    assert table(made_up()).splitlines()[4].split() == ["rope", "-", "50", "-"]


def test_the_picture_has_a_panel_for_what_was_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    draw_curve = language.report.draw_curve
    monkeypatch.setattr(
        language.report, "draw_curve", lambda axes, *rest: (drawn.append((axes, *rest)), draw_curve(axes, *rest))
    )
    language.report.draw(made_up(), tmp_path / "a.png")
    assert [axes.get_ylabel() for axes, *_ in drawn] == ["bits per byte"] * 2 + ["needles found, %"] * 2
    assert [y for _, _, y, _ in drawn][2:] == [[None, 50.0, None]] * 2, "only one length has needles"
    assert drawn[0][2] == pytest.approx([1.0, 2.585, 2.443], abs=1e-3)
    panel = drawn[0][0]
    assert len(panel.get_lines()) == 2 * 2 + 2 + 1, "two seeds of two schemes, their medians, and the trained length"
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_without_files_the_text_is_that_of_the_embedded_model() -> None:
    learnt, held_out, name = byte_texts([], 2048)
    assert name == "Python's standard library"
    assert bytes(held_out.tolist()) == data.held_out_text()
    content = bytes(learnt.tolist())
    assert content.startswith(b"\0")
    assert content.count(b"\0") == len(data.training_documents()), "one byte between two files"


def test_texts_of_bytes(tmp_path: Path) -> None:
    file = tmp_path / "text.txt"
    file.write_bytes(bytes(range(100)) * 10)
    learnt, held_out, name = byte_texts([file], 20)
    assert name == "text.txt"
    assert bytes(torch.cat([learnt, held_out]).tolist()) == b"\0" + file.read_bytes()
    assert len(held_out) == 100, "a tenth"
    assert len(byte_texts([file], 300)[1]) == 301, "or what the longest window needs"
    with pytest.raises(ArgumentError, match="at least 1202 bytes"):
        byte_texts([file], 600)
