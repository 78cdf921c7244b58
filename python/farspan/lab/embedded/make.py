"""How the embedded model is made: `python -m farspan.lab.embedded --out DIR`, under an hour on two cores.

A byte-level Llama of 1.1 million parameters learns the source files of Python's standard library, 256 bytes at a time.
Some modules are held out (`data.HELD_OUT`). The folder it writes is an ordinary Hugging Face checkpoint with a card.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from farspan.lab.embedded import card, data
from farspan.lab.embedded.byte_tokenizer import byte_tokenizer_json
from farspan.lab.train import Recipe, State, held_out_loss, train
from farspan.model import Config, Transformer, checkpoint

CONFIG = Config(
    vocab_size=256,
    hidden_size=128,
    intermediate_size=344,
    num_hidden_layers=6,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=32,
    max_position_embeddings=256,
    norm_eps=1e-5,
    tie_word_embeddings=True,
    bos_token_id=data.FILE_START[0],
    eos_token_ids=(data.FILE_START[0],),
    dtype="float16",
)

SAVE_EVERY_SECONDS = 120.0


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = Recipe(steps=options.steps, context=CONFIG.max_position_embeddings, seed=options.seed)
    text, held_out = _ids(data.training_text()), _ids(data.held_out_text())
    torch.manual_seed(recipe.seed)
    model = Transformer(CONFIG, backend="reference", dtype="float32")
    parameters = sum(weight.numel() for weight in model.parameters())
    print(f"{parameters:,} parameters, {len(text):,} bytes to learn from, {len(held_out):,} held out", flush=True)

    run = _Run(model, held_out, options.out, recipe, parameters, len(text))
    last = train(model, lambda: model.unembedding, text, recipe, minutes=options.minutes, each_step=run.after_step)
    run.save(last, whole=True)


class _Run:
    """What happens beside the training: lines of progress, and checkpoints, so that an interrupted run leaves one."""

    def __init__(
        self, model: Transformer, held_out: Tensor, out: Path, recipe: Recipe, parameters: int, trained_bytes: int
    ) -> None:
        self.model, self.held_out, self.out, self.recipe = model, held_out, out, recipe
        self.parameters, self.trained_bytes = parameters, trained_bytes
        self.saved = time.monotonic()

    def after_step(self, state: State) -> None:
        if state.step % 25 == 0 or state.step == 1:
            print(
                f"step {state.step}/{state.steps}  loss {state.train_loss:.4f} nats/byte  "
                f"rate {state.learning_rate:.2e}  {state.seconds:.0f} s",
                flush=True,
            )
        if time.monotonic() - self.saved > SAVE_EVERY_SECONDS:
            self.save(state, whole=False)
            self.saved = time.monotonic()

    def save(self, state: State, whole: bool) -> None:
        """Weights, config and card; on the whole held-out text at the end, on 64 windows of it on the way."""
        loss = held_out_loss(
            self.model, self.model.unembedding, self.held_out, self.recipe.context, most=None if whole else 64
        )
        print(f"held-out loss after step {state.step}: {loss:.4f} nats/byte", flush=True)
        checkpoint.save(copy.deepcopy(self.model).to(torch.float16), self.out)
        (self.out / "tokenizer.json").write_text(json.dumps(byte_tokenizer_json(), indent=0) + "\n")
        facts = card.Facts(
            recipe=dataclasses.replace(self.recipe, steps=state.step),
            parameters=self.parameters,
            trained_bytes=self.trained_bytes,
            held_out_bytes=len(self.held_out),
            train_loss=state.train_loss,
            held_out_loss=loss,
            finished=state.step == state.steps,
            minutes=state.seconds / 60,
            threads=torch.get_num_threads(),
            python=platform.python_version(),
            torch=torch.__version__,
            machine=card.machine_class(),
        )
        (self.out / "CARD.md").write_text(card.text(facts, CONFIG))


def _ids(text: bytes) -> Tensor:
    return torch.frombuffer(bytearray(text), dtype=torch.uint8)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m farspan.lab.embedded", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write config.json, weights and card to")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="training steps (default: %(default)s)")
    parser.add_argument("--minutes", type=float, help="begin the decay early enough to be done in about this time")
    parser.add_argument("--seed", type=int, default=Recipe.seed, help="of the weights and the windows (default: 0)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (default: %(default)s)")
    return parser
