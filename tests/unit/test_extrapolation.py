"""Extrapolation: its settings, single trainings and how they go on, the choice of learning rates, and its files."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from farspan import ArgumentError, Error
from farspan.lab.extrapolation import (
    Extrapolation,
    Settings,
    Trial,
    extrapolate,
    learning,
    report,
    table,
    trial,
    workers,
)
from farspan.lab.extrapolation.coupling import coupled_positions
from farspan.lab.extrapolation.folder import Folder
from farspan.lab.extrapolation.learning import Learner, batch_of
from farspan.lab.extrapolation.report import overview
from farspan.lab.extrapolation.subject import Subject
from farspan.lab.extrapolation.trial import run_trial
from farspan.lab.recipes import RECIPES, Recipe
from farspan.lab.trainings import all_steps

SMALL = Settings(
    "reverse_string", schemes=("rope", "alibi"), train_length=5, test_lengths=(5, 9), steps=8, seeds=2, examples=20,
    batch=4, layers=1, width=16, heads=2, reading="causal",
)  # fmt: skip


def changed(**settings: Any) -> Settings:
    return dataclasses.replace(SMALL, **settings)


def quiet(done: int, steps: int, what: str) -> None:
    """Reports go nowhere."""


# ------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"task": "chess"}, "chess"),
        ({"schemes": ("rope", "nonsense")}, "nonsense"),
        ({"schemes": ("own",)}, "own"),
        ({"schemes": ("rope", "self-extend"), "reading": "slots"}, "'self-extend', reading 'slots'"),
        ({"schemes": ()}, "schemes"),
        ({"train_length": 0}, "train_length"),
        ({"test_lengths": ()}, "test_lengths"),
        ({"seeds": 0}, "seeds"),
        ({"learning_rates": (0.0,)}, "learning_rates"),
        ({"width": 18, "heads": 4}, "width"),
        ({"reading": "backwards"}, "reading"),
        ({"task": "missing_duplicate_string", "test_lengths": (7,)}, "test_lengths"),
        ({"task": "missing_duplicate_string", "train_length": 1, "test_lengths": (8,)}, "train_length"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        changed(**wrong)


def test_every_combination_is_one_trial_with_a_name_of_its_own() -> None:
    settings = changed(learning_rates=(1e-3, 3e-4), schemes=("rope", "farspan.positions:YaRN(2, 8)", "alibi"))
    trials = settings.trials()
    assert len({trial.name for trial in trials}) == len(trials) == 3 * 2 * 2
    assert [trial.seed for trial in trials] == [0] * 6 + [1] * 6, "a seed's trials are done before the next one's"
    assert all("/" not in trial.name and ":" not in trial.name for trial in trials)


def test_a_trial_does_not_depend_on_its_companions() -> None:
    alone = changed(schemes=("alibi",), seeds=1, learning_rates=(1e-3,)).trials()[0]
    among = next(t for t in changed(learning_rates=(1e-3, 1e-4)).trials() if t.name == alone.name)
    assert alone.facts == among.facts


def test_schemes_reach_from_the_trained_tokens_to_the_tested() -> None:
    (scheme,) = {t.make_scheme() for t in changed(schemes=("yarn",)).trials()}
    assert scheme.to_dict()["original_length"] == 10, "an input of 5 symbols, and 5 outputs"
    assert scheme.to_dict()["factor"] == 1.8


# ------------------------------------------------------------------------------------------------------------- learning


def test_batches_are_functions_of_seed_and_step() -> None:
    rope, alibi = (t for t in SMALL.trials() if t.seed == 1)
    first, again = batch_of(rope, 3), batch_of(alibi, 3)
    assert (first.tokens == again.tokens).all(), "all schemes see the same"
    lengths = {batch_of(rope, step).prompt for step in range(60)}
    assert lengths == {1, 2, 3, 4, 5}, "and all lengths up to the trained one"
    other = batch_of(SMALL.trials()[0], 3)
    assert first.tokens.shape != other.tokens.shape or (first.tokens != other.tokens).any(), "another seed, others"


def test_only_counted_outputs_are_learnt() -> None:
    settings = changed(task="stack_manipulation")
    given = batch_of(settings.trials()[0], 1)
    assert (given.targets[~given.mask] == -100).all()
    subject = Subject(settings.trials()[0])
    loss = subject.loss(given, draw=1)
    logits = subject.model.logits(torch.from_numpy(given.tokens))
    counted = torch.from_numpy(given.mask)
    wanted = torch.nn.functional.cross_entropy(logits[counted], torch.from_numpy(given.targets)[counted])
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)


class Killed(BaseException):
    """As a kill is: nothing catches it."""


@pytest.mark.parametrize("kill_at", [1, 5, 7])
def test_a_training_goes_on_with_the_bits_of_one_that_nobody_stopped(
    kill_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(learning, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    (one,) = changed(schemes=("random-rope",), seeds=1).trials()
    whole = trial.run_trial(one, None, quiet)

    def dying(done: int, steps: int, what: str) -> None:
        if done == kill_at:
            raise Killed

    path = tmp_path / "state.safetensors"
    with pytest.raises(Killed):
        trial.run_trial(one, path, dying)
    seen: list[int] = []
    found = trial.run_trial(one, path, lambda done, steps, what: seen.append(done))
    assert seen[0] == kill_at, "the step that was under way is taken again, and none before it"
    assert {**found, "seconds": 0} == {**whole, "seconds": 0}
    assert [step for step, _ in found["losses"]] == list(range(1, 9)), "each step's loss stands once"


def test_a_checkpoint_of_other_settings_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "SECONDS_BETWEEN_CHECKPOINTS", -1.0)
    path = tmp_path / "state.safetensors"
    one, other = (changed(schemes=("rope",), seeds=1, batch=batch).trials()[0] for batch in (4, 5))
    Learner(one, Subject(one), path).finish(lambda step, loss: None)
    assert path.exists()
    assert Learner(one, Subject(one), path).step == 7
    with pytest.raises(Error, match=r"batch: expected 4, as .*state\.safetensors was made with, given 5"):
        Learner(other, Subject(other), path)
    assert path.exists()


def test_coupled_positions_are_for_tasks_that_have_places() -> None:
    with pytest.raises(ArgumentError, match="task: expected addition, copy, reverse_string with coupled"):
        Settings("bucket_sort", schemes=("coupled",))


def test_a_training_without_numbers_says_so() -> None:
    (one,) = changed(schemes=("rope",), seeds=1).trials()
    subject = Subject(one)
    with torch.no_grad():
        subject.model.embedding.fill_(float("nan"))
    with pytest.raises(Error, match="rope with seed 0, given nan at step 1"):
        Learner(one, subject, None).finish(lambda step, loss: None)


@pytest.mark.parametrize(
    ("task", "reading", "places"),
    [
        # 4 7 + 8 5 = and the mark; then 2, 3 and not the last 1: tens and units of all three numbers share places
        ("addition", "causal", [1, 2, 3, 1, 2, 3, 3, 2, 1]),
        ("addition", "slots", [1, 2, 3, 1, 2, 3, 2, 1, 0]),
        ("copy", "causal", [1, 2, 0, 1]),
        ("reverse_string", "slots", [1, 2, 2, 1]),
        ("reverse_string", "causal", [1, 2, 3, 2]),
    ],
)
def test_coupled_tokens_stand_where_the_task_says(task: str, reading: str, places: list[int]) -> None:
    (one,) = changed(task=task, reading=reading, schemes=("coupled",), seeds=1).trials()
    _, given = learning.sequences_of(one, 2, 3, 0)
    found = coupled_positions(task, given, reading)
    assert found.tolist() == [places] * 3
    subject = Subject(one)
    wanted = subject.model(torch.from_numpy(given.tokens), positions=found)
    assert not torch.equal(wanted, subject.model(torch.from_numpy(given.tokens)))
    likeliest = (given.outputs(wanted) @ subject.model.unembedding.T).argmax(-1)
    assert (subject.answers(given, draw=0) == likeliest).all()
    assert torch.isfinite(subject.loss(given, draw=1))


# ---------------------------------------------------------------------------------------------------------------- tests


def test_accuracy_counts_outputs_and_whole_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a model that is wrong about the first output of every fifth input. Parts are put together by counts."""
    (one,) = changed(schemes=("rope",), seeds=1, examples=25, test_lengths=(8,), steps=1).trials()
    monkeypatch.setattr(trial, "TOKENS_AT_ONCE", 16 * 10)

    def answers(subject: Subject, sequences: Any, draw: int) -> np.ndarray:
        right = sequences.outputs(sequences.targets).copy()
        right[::5, 0] = 1 - right[::5, 0]
        return right

    monkeypatch.setattr(Subject, "answers", answers)
    (point,) = trial.run_trial(one, None, quiet)["points"]
    assert point["exact"] == 1 - 5 / 25
    assert point["accuracy"] == 1 - 5 / (25 * 8)


def test_a_model_answers_what_its_logits_say() -> None:
    (one,) = changed(schemes=("alibi",), seeds=1).trials()
    subject = Subject(one)
    given = batch_of(one, 2)
    wanted = given.outputs(subject.model.logits(torch.from_numpy(given.tokens)).argmax(-1))
    assert (subject.answers(given, draw=0) == wanted).all()


# -------------------------------------------------------------------------------------------------------------- results


def made_up(settings: Settings, loss: Any) -> Extrapolation:
    """A result without any training: accuracy is a tenth of the seed, and losses are what the caller says."""
    lengths = settings.test_lengths
    results = {
        t: {
            "points": [{"length": n, "accuracy": t.seed / 10, "exact": 0.0} for n in lengths],
            "held_out_loss": loss(t), "losses": [[1, 0.5]], "parameters": 9, "seconds": 1.0, "threads": 1,
        }
        for t in settings.trials()
    }  # fmt: skip
    return Extrapolation(settings, "a machine", results)


def test_a_scheme_is_shown_with_the_rate_of_the_least_loss_at_trained_lengths() -> None:
    settings = changed(learning_rates=(1e-4, 1e-3, 1e-2), seeds=3)

    def loss(t: Trial) -> float:
        best = {"rope": 1e-4, "alibi": 1e-2}[t.scheme]
        lucky = t.seed == 0 and t.learning_rate == 1e-3  # the median over seeds counts, and not the best of them
        return -9.0 if lucky else abs(t.learning_rate - best)

    found = made_up(settings, loss)
    assert found.learning_rates == {"rope": 1e-4, "alibi": 1e-2}
    assert {(p.scheme, p.learning_rate) for p in found.points} == {("rope", 1e-4), ("alibi", 1e-2)}
    assert len(found.points) == 2 * 3 * 2, "each scheme, seed and length once"
    assert len(found.to_dict()["runs"]) == 2 * 3 * 3, "no training is left out"
    assert found.medians()["rope"] == [0.1, 0.1]


def test_files(tmp_path: Path) -> None:
    found = made_up(SMALL, lambda t: 0.1)
    json_file, csv_file, picture, page = report.write(found, tmp_path)
    document = json.loads(json_file.read_text())
    assert document["task"] == "reverse_string"
    assert document["settings"] == json.loads(json.dumps(SMALL.to_dict()))
    with csv_file.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [{name: str(value) for name, value in point.items()} for point in document["points"]] == rows
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert min(width, height) > 800
    content = page.read_text()
    assert "data:image/png;base64," in content
    assert "http" not in content, "one file that needs no network"
    assert "<td>RoPE</td><td>5.0 (0-10)</td><td>5.0 (0-10)</td>" in content
    assert table(found).splitlines()[1].split() == ["rope", "5.0", "5.0"]


def test_a_result_comes_back_from_its_document() -> None:
    settings = changed(learning_rates=(1e-4, 1e-3), seeds=3)
    found = made_up(settings, lambda t: t.learning_rate)
    again = Extrapolation.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again.to_dict() == found.to_dict()
    assert again.points == found.points
    assert again.medians() == {"rope": [0.1, 0.1], "alibi": [0.1, 0.1]}


def test_an_overview_has_a_panel_for_each_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    draw_panel = overview.draw_panel
    monkeypatch.setattr(overview, "draw_panel", lambda axes, *rest: (drawn.append(axes), draw_panel(axes, *rest)))
    runs = {f"run {seeds}": made_up(changed(seeds=seeds), lambda t: 0.1) for seeds in range(1, 4)}
    runs["run 4"] = made_up(changed(seeds=4, schemes=("rope", "nope")), lambda t: 0.1)
    report.draw_overview(runs, tmp_path / "overview.png")
    assert [axes.get_title(loc="left") for axes in drawn] == list(runs)
    assert [len(axes.get_lines()) for axes in drawn] == [2 + 2, 2 * 3 + 2, 2 * 4 + 2, 2 * 5 + 2]
    shown = [text.get_text() for text in drawn[0].figure.legends[0].get_texts()]
    assert shown == ["RoPE", "ALiBi", "NoPE", "chance"]
    width, height = struct.unpack(">II", (tmp_path / "overview.png").read_bytes()[16:24])
    assert width > height > 800, "three of them side by side, and one below"


def test_published_figures_stand_beside_ours(tmp_path: Path) -> None:
    recipe = Recipe("a", ("reverse_string",), {}, "a table with 5 < 6", {"reverse_string": {"rope": 51.9}})
    found = made_up(changed(test_lengths=(3, 7, 9), seeds=3), lambda t: 0.1)
    content = report.write(found, tmp_path, recipe)[-1].read_text()
    assert "<td>RoPE</td><td>10.0</td><td>51.9</td>" in content
    assert "a table with 5 &lt; 6" in content
    rows = [line.split() for line in table(found, recipe.published["reverse_string"]).splitlines()]
    assert rows[0][-5:] == ["3", "7", "9", "beyond", "paper"]
    assert rows[1][-2:] == ["10.0", "51.9"]
    assert rows[2][-2:] == ["10.0", "-"]


def test_the_mean_beyond_is_over_longer_inputs_alone() -> None:
    settings = changed(schemes=("rope",), test_lengths=(5, 6, 9), seeds=3)
    found = made_up(settings, lambda t: 0.1)
    for t, shares in zip(settings.trials(), ((0.0, 0.2, 0.4), (1.0, 0.5, 0.7), (1.0, 0.1, 0.9)), strict=True):
        for point, share in zip(found.results[t]["points"], shares, strict=True):
            point["accuracy"] = share
    assert found.beyond()["rope"] == pytest.approx(0.5), "the median of 0.3, 0.6 and 0.5"
    assert made_up(changed(test_lengths=(5,)), lambda t: 0.1).beyond() == {"rope": None, "alibi": None}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_settings_that_can_be(name: str) -> None:
    recipe = RECIPES[name]
    assert recipe.runs
    for task, common in recipe.runs.values():
        settings = Settings(task, **common)
        assert settings.trials()
        known = set(recipe.published.get(task, {})) >= set(settings.schemes)
        assert known or not recipe.published or len(recipe.variants) > 1, "what goes beyond a paper has no figure there"


def test_variants_of_a_recipe_are_runs_of_their_own() -> None:
    runs = RECIPES["stack"].runs
    assert list(runs) == [f"stack_manipulation-{name}" for name in ("slots", "causal", "wide", "deep")]
    settings = {name: Settings(task, **common) for name, (task, common) in runs.items()}
    assert settings["stack_manipulation-causal"].reading == "causal"
    shapes = [(settings[f"stack_manipulation-{name}"].layers, settings[f"stack_manipulation-{name}"].width)
              for name in ("wide", "slots", "deep")]  # fmt: skip
    assert shapes == [(2, 96), (5, 64), (9, 48)]
    assert all(one.train_length == 40 and one.steps == 10_000 for one in settings.values())
    assert max(RECIPES["max"].common["test_lengths"]) == 64 * RECIPES["max"].common["train_length"]


@pytest.mark.parametrize(
    "name", ["random-relative", "random-relative-ssmax", "random-relative-logn", "random-rope-ssmax"]
)
def test_other_inputs_of_a_test_have_other_random_positions(name: str) -> None:
    settings = changed(schemes=(name,), seeds=1, reading="slots")
    (one,) = settings.trials()
    subject = Subject(one)
    seeds = [_seed_in(one.make_scheme().redrawn(seed)) for seed in (3, 8)]
    assert seeds == [3, 8]
    with torch.no_grad():
        for parameter in subject.model.parameters():
            parameter.mul_(3.0)  # so that positions matter
    given = batch_of(one, 2)
    hidden = [subject.model.with_positions(one.make_scheme().redrawn(seed)).eval()(torch.from_numpy(given.tokens))
              for seed in (3, 8, 3)]  # fmt: skip
    assert torch.equal(hidden[0], hidden[2])
    assert not torch.allclose(hidden[0], hidden[1], atol=1e-4)
    assert subject.answers(given, draw=3).shape == (given.tokens.shape[0], given.tokens.shape[1] - given.prompt)


def _seed_in(scheme: Any) -> int:
    return int(scheme.seed) if hasattr(scheme, "seed") else _seed_in(scheme.inner)


# ------------------------------------------------------------------------------------------------- whole extrapolations


def numbers(found: Extrapolation) -> list[tuple[Any, ...]]:
    return [dataclasses.astuple(point) for point in found.points]


def test_more_schemes_and_seeds_can_join(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = extrapolate(changed(schemes=("rope",), seeds=1), tmp_path / "joined", workers=1)
    ran: list[str] = []
    keep = Folder.keep

    def counted(folder: Folder, one: Trial, result: Any) -> None:
        ran.append(one.name)
        keep(folder, one, result)

    monkeypatch.setattr(Folder, "keep", counted)
    joined = extrapolate(SMALL, tmp_path / "joined", resume=True, workers=1)
    assert len(ran) == 3, "what was there is not repeated"
    assert numbers(joined)[: len(first.points)] == numbers(first)
    assert numbers(joined) == numbers(extrapolate(SMALL, tmp_path / "whole", workers=1))


def test_what_a_checkpoint_has_done_counts_from_the_beginning(tmp_path: Path) -> None:
    """Else the first report of each training looks like speed."""
    over, *begun, _ = SMALL.trials()
    folder = Folder(tmp_path, resume=False)
    for one in begun:
        learner = Learner(one, Subject(one), folder.checkpoint(one))
        learner._begun = 0.0
        for _ in range(5):
            learner._take_step()
        assert learner._file is not None
        learner._save(learner._file)
    folder.keep(over, run_trial(over, None, quiet))
    assert [folder.steps(one) for one in SMALL.trials()] == [SMALL.steps, 5, 5, 0]
    told: list[int] = []
    extrapolate(SMALL, tmp_path, resume=True, workers=1, progress=lambda done, total, what: told.append(done))
    assert told[0] == SMALL.steps + 5 + 5 + 1, "a training that is over, five steps of two and one more"
    assert max(told) == all_steps(SMALL.trainings)


def test_runs_of_several_machines_join_in_one_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for scheme in SMALL.schemes:
        extrapolate(changed(schemes=(scheme,)), tmp_path / scheme, workers=1)
        shutil.copytree(tmp_path / scheme / "runs", tmp_path / "all" / "runs", dirs_exist_ok=True)
    monkeypatch.setattr(workers, "_run", lambda *_: pytest.fail("what is there is not repeated"))
    assert numbers(extrapolate(SMALL, tmp_path / "all", resume=True, workers=1)) == [
        point for scheme in SMALL.schemes
        for point in numbers(extrapolate(changed(schemes=(scheme,)), tmp_path / scheme, resume=True, workers=1))
    ]  # fmt: skip


def test_processes_give_the_numbers_of_one(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    told: list[tuple[int, int]] = []
    beside = extrapolate(
        SMALL, tmp_path / "beside", workers=2, progress=lambda done, total, what: told.append((done, total))
    )
    assert told[-1] == (32, 32)
    assert numbers(beside) == numbers(extrapolate(SMALL, tmp_path / "alone", workers=1))
    assert torch.get_num_threads() == threads


def test_what_goes_wrong_in_a_process_is_told(tmp_path: Path) -> None:
    folder = Folder(tmp_path, resume=False)
    folder.checkpoint(SMALL.trials()[1]).write_bytes(b"no checkpoint")
    with pytest.raises(Error, match=r"alibi-seed0-rate0\.001"):
        extrapolate(SMALL, tmp_path, resume=True, workers=2)


def test_a_folder_with_results_is_refused_without_resume(tmp_path: Path) -> None:
    one = changed(schemes=("rope",), seeds=1, steps=1)
    extrapolate(one, tmp_path, workers=1)
    with pytest.raises(Error, match="--resume"):
        extrapolate(one, tmp_path, workers=1)
    with pytest.raises(Error, match="steps: expected 1"):
        extrapolate(dataclasses.replace(one, steps=2), tmp_path, resume=True, workers=1)


@pytest.mark.parametrize("workers", [0, True, 1.5])
def test_wrong_numbers_of_workers(workers: Any, tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="workers"):
        extrapolate(SMALL, tmp_path, workers=workers)
