"""`farspan extrapolate`: train short, test long, under several position schemes."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan._errors import ArgumentError
from farspan.commands.options import add_device, add_json
from farspan.commands.output import print_json
from farspan.commands.progress import progress_on_stderr
from farspan.commands.scheme import look_here
from farspan.commands.values import entries, listed, real, whole
from farspan.lab import schemes, tasks
from farspan.lab.language_recipes import LANGUAGE_RECIPES, LanguageRecipe
from farspan.lab.recipes import RECIPES, Recipe
from farspan.lab.trainings import Trainings, all_steps, in_words

if TYPE_CHECKING:
    from farspan.lab.extrapolation import Extrapolation, Settings
    from farspan.lab.language import Settings as LanguageSettings
    from farspan.lab.progress import Progress

LANGUAGE_DEFAULTS = (
    "--train-length 256 --steps 6000 --seeds 1 --examples 32\n"
    "  --learning-rates 0.003 --batch 16 --layers 6 --width 128 --heads 4"
)
"""What `farspan.lab.language.Settings` have where nothing is said. A help that asked them would need torch."""

SUMMARY = "Train models on short inputs of a task, and test them on long ones: JSON, CSV, picture and page."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = (
        f"tasks:\n{_wrapped(tasks.NAMES)}\n\n"
        f"recipes, at a size for a processor and at one for a GPU:\n{_recipes()}\n"
        f"  The defaults above are those of a task. Recipes have their own settings, which options change. Where\n"
        f"  e5 to e7 say nothing they have {LANGUAGE_DEFAULTS}.\n\n"
        f"schemes:\n{schemes.command_line_help(own=False)}\n\n"
        "A class of your own is written module:Class or module:Class(3, window=trained). Of several learning rates a\n"
        "scheme is shown with the one whose loss at trained lengths is least."
    )
    add = parser.add_argument
    add("task", metavar="TASK", help="a task, or a recipe for some")
    add("--schemes", type=entries, metavar="NAME,...", help="see below")
    add("--train-length", type=whole(1), metavar="N", help="train on inputs of lengths up to this (default: 40)")
    add("--test-lengths", type=listed(whole(1)), metavar="N,N,...", help="(default: 40,64,100,200)")
    add("--steps", type=whole(1), metavar="N", help="of each training (default: 2000)")
    add("--seeds", type=whole(1), metavar="K", help="trainings of each scheme, seeds 0 to K - 1 (default: 3)")
    add("--examples", type=whole(1), metavar="N", help="inputs a test has at each length (default: 128)")
    add("--learning-rates", type=listed(real(above=0)), metavar="X,...", help="(default: 0.001)")
    add("--batch", type=whole(1), metavar="N", help="inputs a step learns from (default: 64)")
    add("--layers", type=whole(1), metavar="N", help="(default: 5)")
    add("--width", type=whole(1), metavar="N", help="of the residual stream (default: 64)")
    add("--heads", type=whole(1), metavar="N", help="(default: 8)")
    what = "answers in empty slots, and all tokens see all; or a decoder (default: as in the task's papers)"
    add("--reading", choices=("slots", "causal"), help=what)
    add("--workers", type=whole(1), metavar="N", help="trainings side by side (default: one for each core)")
    add_device(parser)
    what = "the folder for results (default: out/extrapolate-TASK)"
    add("--out", type=Path, metavar="DIR", help=what)
    what = "text that e5 to e7 learn, but its last tenth, and are measured on (default: as in farspan measure)"
    add("--data", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help=what)
    add("--resume", action="store_true", help="go on with what is in DIR; finished trainings are not repeated")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    look_here()
    if options.task in LANGUAGE_RECIPES:
        _language(options, LANGUAGE_RECIPES[options.task])
        return
    if options.data:
        options.parser.error(f"--data: expected a recipe about language beside it, given {options.task}")
    recipe = RECIPES.get(options.task)
    runs = recipe.runs if recipe else {options.task: (options.task, {})}
    asked = {name: _settings(options, task, common) for name, (task, common) in runs.items()}
    from farspan.lab.extrapolation import extrapolate, report, require_folder

    report.require_matplotlib()
    out = options.out or Path("out") / f"extrapolate-{options.task}"
    several = len(asked) > 1
    trainings = sum((settings.trainings for settings in asked.values()), Trainings())
    _announce(options.task, trainings, f"{len(asked)} runs, " if several else "")
    places = {name: out / name if several else out for name in asked}
    for name, settings in asked.items():  # told now, and not after the trainings of the runs before
        require_folder(settings, places[name], resume=options.resume)
    found: dict[str, Extrapolation] = {}
    before = 0
    for name, settings in asked.items():
        place = places[name]
        with _training(options.task) as progress:
            found[name] = extrapolate(
                settings, place, resume=options.resume, workers=options.workers, device=options.device,
                progress=_among_others(progress, f"{name}, " if several else "", before, all_steps(trainings)),
            )  # fmt: skip
        before += all_steps(settings.trainings)
        paths = report.write(found[name], place, recipe)
        if not options.json:
            _print(name, found[name], recipe, paths)
    if several:
        report.draw_overview(found, out / "extrapolate.png")
    if options.json:
        documents = [one.to_dict() for one in found.values()]
        named = [{"run": name, **document} for name, document in zip(found, documents, strict=True)]
        print_json({"recipe": options.task, "tasks": named} if several else documents[0])
    elif several:
        print(f"written: {out / 'extrapolate.png'}")


def _print(name: str, found: Extrapolation, recipe: Recipe | None, paths: Sequence[Path]) -> None:
    from farspan.lab.extrapolation import table

    settings = found.settings
    print(table(found, recipe.published.get(settings.task) if recipe else None))
    seeds = f"median of {settings.seeds} seeds" if settings.seeds > 1 else "one seed"
    print(f"{name}, {seeds}; chance {100 * found.chance:.1f}; trained up to {settings.train_length}")
    if recipe:
        print(f"paper: {recipe.source}")
    print("written: " + ", ".join(map(str, paths)))


def _announce(name: str, trainings: Trainings, runs: str = "") -> None:
    """How much there is to do, before it begins."""
    print(f"{name}: {runs}{in_words(trainings)}", file=sys.stderr)


@contextmanager
def _training(what: str) -> Iterator[Progress]:
    """What trainings tell their progress. Who stops them learns how they go on."""
    try:
        with progress_on_stderr(what, unit="step") as progress:
            yield progress
    except KeyboardInterrupt:
        print("farspan: the same command with --resume goes on where this one stopped", file=sys.stderr)
        raise


def _among_others(progress: Progress, name: str, before: int, steps: int) -> Progress:
    """Progress of one run as that of all, which have so many steps, some of them before it."""

    def tell(done: int, total: int, next_step: str) -> None:
        del total  # of the one run
        progress(before + done, steps, f"{name}{next_step}")

    return tell


def _language(options: argparse.Namespace, recipe: LanguageRecipe) -> None:
    """A recipe about language: other models, and a text in place of a task."""
    for name in ("reading", "workers"):
        if (value := getattr(options, name)) is not None:
            options.parser.error(f"--{name}: expected a task that is no language beside it, given {value}")
    rates = options.learning_rates or []
    if len(rates) > 1:
        options.parser.error(f"--learning-rates: expected one for a recipe about language, given {len(rates)}")
    from farspan.lab import language
    from farspan.lab.subject import byte_texts

    given = _given(options, language.Settings) | ({"learning_rate": rates[0]} if rates else {})
    try:
        settings = language.Settings(**{**recipe.common, **given})
    except ArgumentError as error:
        raise options.parser.error(str(error)) from error
    from farspan.lab.report import require_matplotlib

    require_matplotlib()
    learnt, held_out, name = byte_texts(options.data, settings.longest)
    out = options.out or Path("out") / f"extrapolate-{options.task}"
    _announce(options.task, settings.trainings)
    with _training(options.task) as progress:
        found = language.run(
            settings, learnt, held_out, out, resume=options.resume, device=options.device, text_name=name,
            progress=progress,
        )  # fmt: skip
    paths = language.write(found, out)
    if options.json:
        print_json(found.to_dict())
        return
    print(language.table(found))
    print(language.published_table(found, recipe))
    print("written: " + ", ".join(map(str, paths)))


def _settings(options: argparse.Namespace, task: str, common: Mapping[str, Any]) -> Settings:
    """What cannot be is wrong usage. What is asked for on the command line counts more than a recipe."""
    from farspan.lab.extrapolation import Settings

    try:
        return Settings(task, **{**common, **_given(options, Settings)})
    except ArgumentError as error:
        raise options.parser.error(str(error)) from error


def _given(options: argparse.Namespace, settings: type[Settings | LanguageSettings]) -> dict[str, Any]:
    """The settings that the command line has, by their names."""
    given = {field.name: getattr(options, field.name, None) for field in dataclasses.fields(settings)}
    return {name: value for name, value in given.items() if value is not None and name != "task"}


def _recipes() -> str:
    """A line for each question, with the names of its sizes."""
    names: dict[str, list[str]] = {}
    for name, recipe in (RECIPES | LANGUAGE_RECIPES).items():
        names.setdefault(recipe.what, []).append(name)
    return "\n".join(f"  {', '.join(those):<22}{what}" for what, those in names.items())


def _wrapped(names: Sequence[str]) -> str:
    return textwrap.fill(", ".join(names), 100, initial_indent="  ", subsequent_indent="  ")
