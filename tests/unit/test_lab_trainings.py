"""How much there is to train: counted from settings, in words, and in the table of the documentation."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import pytest

from farspan.commands import extrapolate
from farspan.commands.extrapolate import LANGUAGE_DEFAULTS
from farspan.lab import language
from farspan.lab.extrapolation import Settings
from farspan.lab.language_recipes import LANGUAGE_RECIPES
from farspan.lab.recipes import RECIPES
from farspan.lab.trainings import Tally, Trainings, all_steps, in_words

PAGE = Path(__file__).parents[2] / "docs" / "extrapolation.md"


@pytest.mark.parametrize(
    ("trainings", "said", "steps"),
    [
        ({1000: 3, 6000: 1}, "1 training of 6,000 steps and 3 of 1,000", 9000),
        ({1: 2}, "2 trainings of 1 step", 2),
    ],
)
def test_in_words(trainings: dict[int, int], said: str, steps: int) -> None:
    assert in_words(trainings) == said
    assert all_steps(trainings) == steps


def of_recipe(name: str) -> Trainings:
    if name in LANGUAGE_RECIPES:
        return language.Settings(**LANGUAGE_RECIPES[name].common).trainings
    runs = RECIPES[name].runs.values()
    return sum((Settings(task, **common).trainings for task, common in runs), Trainings())


def test_the_trainings_of_recipes() -> None:
    assert of_recipe("e6-gpu") == {16_000: 3, 1000: 9}
    assert of_recipe("e1-gpu") == {100_000: 6 * 5 * 10 * 3}, "tasks, schemes, seeds and rates"
    assert language.Settings(("rope",), tuned=("pose",), steps=9, tuning_steps=9, seeds=2).trainings == {9: 4}


def test_the_table_of_recipes_tells_every_recipe_and_its_size() -> None:
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if re.match(r"\| `\w", line)]
    rows = [row for row in rows if re.search(r"\d training", row[-1])]
    told = {}
    for row in rows:
        names, sizes = re.findall("`([^`]+)`", row[0]), row[-1].split(";")
        told |= {name: size.strip() for name, size in zip(names, sizes, strict=True)}
    assert told.keys() == RECIPES.keys() | LANGUAGE_RECIPES.keys()
    for name, size in told.items():
        assert re.match(re.escape(in_words(of_recipe(name))) + r"($|\W)", size), name


def test_the_help_tells_the_defaults_of_a_task() -> None:
    parser = argparse.ArgumentParser()
    extrapolate.add_arguments(parser)
    told = {action.dest: re.search(r"\(default: ([\d.,]+)\)", action.help or "") for action in parser._actions}
    usual = Settings("bucket_sort").to_dict()
    found = {name: match[1] for name, match in told.items() if match}
    assert found == {name: str(usual[name]).strip("[]").replace(" ", "") for name in found}
    assert {"train_length", "test_lengths", "steps", "seeds", "examples", "learning_rates", "batch"} < found.keys()


def test_the_help_tells_what_recipes_about_language_leave_open() -> None:
    found = dict(re.findall(r"--(\S+) (\S+)", LANGUAGE_DEFAULTS))
    usual = language.Settings(("rope",)).to_dict()
    rate = float(found.pop("learning-rates"))
    assert rate == usual["learning_rate"]
    assert {name: int(x) for name, x in found.items()} == {name: usual[name.replace("-", "_")] for name in found}
    assert {"train-length", "steps", "seeds", "examples", "batch", "layers", "width", "heads"} == found.keys()


def test_a_tally_tells_of_all_trainings_together() -> None:
    told: list[tuple[int, int, str]] = []
    tally = Tally(Trainings({10: 2}), lambda *said: told.append(said))
    tally.count("over before", 10)
    tally.count("this one", 3)
    tally.tell("loss 2.0")
    tally.count("this one", 4)
    tally.tell("loss 1.0")
    assert told == [(13, 20, "loss 2.0"), (14, 20, "loss 1.0")]
    Tally(Trainings(), None).tell("nobody hears it")
