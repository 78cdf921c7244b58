"""`farspan demo`: what farspan is about, on the model that comes with it, in under two minutes on two cores.

1. Text streams from the model. 2. The same seed gives the same text alone and in a batch. 3. Tokens per second, beside
an eager torch loop over the same weights. 4. How far the model reaches past its trained length, as a picture.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from farspan.commands.measure import measure_to_files
from farspan.commands.options import add_out
from farspan.commands.output import print_now

if TYPE_CHECKING:
    from farspan.lab.subject import LoadedModel

SUMMARY = "Text, reproducible seeds, speed and reach of the embedded model, in two minutes."

PROMPT = 'class Stack:\n    """A last-in, first-out container."""\n\n    def '
OTHER_PROMPTS = ("import os\n", "def main(", "#")
TEMPERATURE = 0.55
SEED = 5
LENGTHS = (64, 128, 256, 512, 1024, 2048)
WINDOWS = 24
SPEED_TOKENS, ROUNDS = 128, 5
LARGEST_SPREAD = 1.5
"""Rounds of the same work that differ by more say nothing about the program."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_out(parser, "out/demo")


def run(options: argparse.Namespace) -> None:
    """Run the four parts, print what they show, and write the measurement."""
    from farspan.lab.report import require_matplotlib
    from farspan.lab.subject import load_model

    require_matplotlib()
    started = time.monotonic()
    loaded = load_model(None)
    _show_text(loaded)
    _show_seeds(loaded)
    _show_speed(loaded)
    _show_reach(loaded, options.out)
    print(f"\nthe whole demo took {time.monotonic() - started:.0f} s")


def _show_text(loaded: LoadedModel) -> None:
    count = sum(weight.numel() for weight in loaded.model.parameters())
    _headline("1", f"text, byte by byte, from the embedded model ({count / 1e6:.1f} million parameters)")
    from farspan.model.generation.text import generate_text

    print_now(PROMPT)
    generate_text(
        loaded.model, loaded.tokenizer, PROMPT, max_new_tokens=240, temperature=TEMPERATURE, seed=SEED,
        streamer=lambda row, text: print_now(text),
    )  # fmt: skip
    print()


def _show_seeds(loaded: LoadedModel) -> None:
    _headline("2", "a seed's text does not depend on the batch it is drawn in")
    prompts = [loaded.tokenizer.encode(text) for text in (*OTHER_PROMPTS[:2], PROMPT, *OTHER_PROMPTS[2:])]
    draw = partial(loaded.model.generate, max_new_tokens=64, temperature=TEMPERATURE, stop=())
    (alone,) = draw([prompts[2]], seed=[SEED])
    together = draw(prompts, seed=[101, 102, SEED, 103])[2]
    same = alone.tokens == together.tokens
    print(f"alone:             {_excerpt(loaded, alone.tokens)}")
    print(f"third of a batch:  {_excerpt(loaded, together.tokens)}")
    print("all 64 tokens are the same" if same else "THE TEXTS DIFFER: please report this")


def _show_speed(loaded: LoadedModel) -> None:
    import torch

    from farspan.lab.eager import EagerLlama, weights_of
    from farspan.model.places import named_tensors

    tokens, rounds = SPEED_TOKENS, ROUNDS
    _headline(
        "3", f"speed: one sequence, {tokens} tokens, {torch.get_num_threads()} threads, median of {rounds} rounds"
    )
    ids = loaded.tokenizer.encode(PROMPT)
    eager = EagerLlama(weights_of(named_tensors(loaded.model), loaded.model.dtype), loaded.model.config)

    def ours(count: int) -> None:
        loaded.model.generate([ids], max_new_tokens=count, temperature=TEMPERATURE, seed=SEED, stop=())

    def plain(count: int) -> None:
        eager.generate(torch.tensor([ids]), count, TEMPERATURE, SEED)

    speeds: dict[str, list[float]] = {"farspan": [], "eager torch": []}
    for warm_up in (ours, plain):
        warm_up(8)
    for _ in range(rounds):
        for name, run in (("farspan", ours), ("eager torch", plain)):
            speeds[name].append(tokens / _seconds(run, tokens))
    for name, values in speeds.items():
        print(f"{name:<14}{statistics.median(values):8.0f} tokens/s ({min(values):.0f} to {max(values):.0f})")
    print(speed_summary(*speeds.values(), waiting=os.getloadavg()[0], cores=os.cpu_count() or 1))


def speed_summary(ours: Sequence[float], theirs: Sequence[float], *, waiting: float, cores: int) -> str:
    """How many times as fast, from the speeds of each round, or why that cannot be said: on average `waiting` processes
    shared the cores."""
    if waiting > cores:
        return f"this machine was too busy to compare: {waiting:.1f} processes for {cores} cores in the last minute"
    spread = max(max(speeds) / min(speeds) for speeds in (ours, theirs))
    if spread > LARGEST_SPREAD:
        return f"this machine was too noisy to compare: equal rounds were up to {spread:.2f} times apart"
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    said = f"farspan is {statistics.median(ratios):.2f} times as fast as eager torch with a key-value cache"
    return f"{said} ({min(ratios):.2f} to {max(ratios):.2f} over the rounds)" if len(ratios) > 1 else said


def _show_reach(loaded: LoadedModel, out: Path) -> None:
    from farspan.lab import report
    from farspan.lab.reach import trained_length_of
    from farspan.lab.subject import load_text

    times = LENGTHS[-1] // trained_length_of(loaded.model.config)
    _headline("4", f"held-out loss up to {times} times the trained length")
    print(f"reading {WINDOWS} windows of each length under several position schemes ...", flush=True)
    text = load_text((), loaded.tokenizer)
    measurement, paths = measure_to_files(loaded, text, out, lengths=LENGTHS, windows=WINDOWS, targets=32)
    print(report.table(measurement))
    print(f"the picture: {next(path for path in paths if path.suffix == '.png')}")


def _seconds(run: Callable[[int], None], tokens: int) -> float:
    started = time.perf_counter()
    run(tokens)
    return time.perf_counter() - started


def _excerpt(loaded: LoadedModel, tokens: list[int], width: int = 60) -> str:
    return repr(loaded.tokenizer.decode(tokens))[:width] + " ..."


def _headline(number: str, text: str) -> None:
    print(f"\n{number}. {text}\n" + "-" * 78)
