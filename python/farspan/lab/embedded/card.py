"""The card of an embedded model: what it learned from, what it reached, how to make it again."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass

from farspan.lab.embedded.data import HELD_OUT
from farspan.lab.machine import processor_name
from farspan.model import Config
from farspan.training import Recipe

LAST_STEPS = 50
"""Steps at the end of a run whose losses the train loss is the mean of."""

FIRST_WEIGHTS = 1.2119
"""What farspan's first embedded model reached on the held-out text after 1,956 steps of an eager loop."""


@dataclass(frozen=True)
class Facts:
    """What a training run knows at its end; losses in nats per byte."""

    recipe: Recipe
    parameters: int
    trained_bytes: int
    """of the files"""
    read_bytes: int
    """in all steps together"""
    held_out_bytes: int
    train_loss: float
    held_out_loss: float
    minutes: float
    threads: int
    python: str
    torch: str
    machine: str


def text(facts: Facts, config: Config) -> str:
    """The card in Markdown."""
    rows = "\n".join(f"| {name} | {content} |" for name, content in _rows(facts, config).items())
    return f"""# The embedded model

A byte-level Llama of {facts.parameters:,} parameters, for demonstrations and tests: it knows Python source only.

| | |
|---|---|
{rows}

## Notes

- The training text is read from the running Python, so another version of Python gives another text and slightly other
  weights. `farspan measure` and `farspan demo` read the held-out modules from the running Python as well: their losses
  compare between schemes and lengths of one run, and between machines with the same Python.
- The same Python, torch, seed and kind of CPU give the same weights; elsewhere the order of float32 sums differs.
- Python's source is under the Python Software Foundation License 2.0, (c) Python Software Foundation
  (https://docs.python.org/3/license.html). None of its text is in this package; the weights are under the Apache
  License 2.0, as the package is.
- It completes Python that looks like the standard library. It knows no facts, and what it writes is not to be run.
"""


def _rows(facts: Facts, config: Config) -> dict[str, str]:
    recipe = facts.recipe
    return {
        "architecture": f"Llama: {config.num_hidden_layers} layers, width {config.hidden_size}, "
        f"{config.num_attention_heads} query heads and {config.kv_heads} key-value heads of "
        f"{config.dim_per_head} dims, SwiGLU {config.intermediate_size}, RoPE base {config.rope_theta:g}, "
        "tied embeddings",
        "tokens": "the 256 bytes; byte 0 opens a file and ends it",
        "trained context": f"{recipe.context} bytes",
        "weights": "float16, `model.safetensors` under the names of Hugging Face's Llama",
        "data": f"the source files of the standard library of Python {facts.python} "
        f"(`farspan.lab.embedded.data.training_files`), {facts.trained_bytes:,} bytes",
        "held out": ", ".join(f"`{name}`" for name in HELD_OUT) + f": {facts.held_out_bytes:,} bytes",
        "training": f"`farspan.training.fit`: {recipe.steps:,} steps of up to {recipe.batch} x {recipe.context} bytes "
        f"({facts.read_bytes / 1e6:.1f} million bytes), AdamW, rate {recipe.learning_rate:g} with {recipe.warmup} "
        f"steps of warm-up and a fall to 0 over the last {recipe.decay:.0%} of the steps, weight decay "
        f"{recipe.weight_decay:g}, gradient clip {recipe.clip:g}, float32",
        "train loss": f"{_both_units(facts.train_loss)} (mean of the last {LAST_STEPS} steps)",
        "held-out loss": f"{_both_units(facts.held_out_loss)} (every byte of consecutive windows of {recipe.context})",
        "improved": f"the first weights, from 1,956 steps of an eager loop, reached {_both_units(FIRST_WEIGHTS)}",
        "made on": f"{facts.machine}, {facts.threads} thread{'s' * (facts.threads > 1)}, torch {facts.torch}, "
        f"{facts.minutes:.0f} minutes beside other work",
        "command": f"`python -m farspan.lab.embedded --out DIR --steps {recipe.steps} --seed {recipe.seed} "
        f"--threads {facts.threads}`",
    }


def _both_units(nats: float) -> str:
    return f"{nats:.4f} nats per byte, {nats / math.log(2):.4f} bits per byte"


def machine_class() -> str:
    """The processor in words, such as "2 cores of AMD EPYC (x86_64)"."""
    return f"{os.cpu_count()} cores of {processor_name()} ({platform.machine()})"
