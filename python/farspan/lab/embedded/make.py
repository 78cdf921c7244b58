"""How the embedded model is made: `python -m farspan.lab.embedded --out DIR`, about an hour on one core.

A byte-level Llama of 1.1 million parameters learns the source files of Python's standard library, 256 bytes at a time.
Some modules are held out (`data.HELD_OUT`). The folder it writes is an ordinary Hugging Face checkpoint with a card.
`run` in it is the folder of the run, from which `--resume` goes on.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
from collections.abc import Sequence
from pathlib import Path

import torch

import farspan
from farspan.lab.embedded import card, data
from farspan.lab.embedded.byte_tokenizer import write_byte_tokenizer
from farspan.model import Config, Transformer, checkpoint
from farspan.training import Recipe, Result, fit

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

STEPS = 3400
BATCH = 16
RUN = "run"
"""The run's folder within the model's."""


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    farspan.set_num_threads(options.threads)
    documents, held_out = data.training_documents(), data.held_out_text()
    recipe = Recipe(
        steps=options.steps, batch=BATCH, context=CONFIG.max_position_embeddings, learning_rate=3e-3, warmup=100,
        seed=options.seed, schedule="plateau", decay=0.3, validate_every=1000, validation_tokens=len(held_out),
    )  # fmt: skip
    torch.manual_seed(recipe.seed)
    model = Transformer(CONFIG, dtype="float32")
    learnt = sum(map(len, documents))
    print(f"{_size(model):,} parameters, {learnt:,} bytes to learn from, {len(held_out):,} held out", flush=True)
    result = fit(
        model, map(list, documents), recipe, options.out / RUN, options.resume, validation=[list(held_out)],
        progress=_tell,
    )  # fmt: skip
    _write(model, options.out, _facts(model, recipe, result, options.out / RUN, learnt, len(held_out)))


def _tell(step: int, steps: int, words: str) -> None:
    if step % 25 == 0 or step in (1, steps):
        print(f"step {step}/{steps}  {words} nats/byte", flush=True)


def _facts(
    model: Transformer, recipe: Recipe, result: Result, run: Path, trained_bytes: int, held_out_bytes: int
) -> card.Facts:
    assert result.validation_loss is not None
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    last = [line["loss"] for line in lines[-card.LAST_STEPS :]]
    return card.Facts(
        recipe=recipe,
        parameters=_size(model),
        trained_bytes=trained_bytes,
        read_bytes=sum(line["tokens"] for line in lines),
        held_out_bytes=held_out_bytes,
        train_loss=sum(last) / len(last),
        held_out_loss=result.validation_loss,
        minutes=result.seconds / 60,
        threads=torch.get_num_threads(),
        python=platform.python_version(),
        torch=torch.__version__,
        machine=card.machine_class(),
    )


def _write(model: Transformer, out: Path, facts: card.Facts) -> None:
    """Weights in float16, config, tokenizer and card."""
    checkpoint.save(copy.deepcopy(model).to(torch.float16), out)
    write_byte_tokenizer(out)
    (out / "CARD.md").write_text(card.text(facts, CONFIG))


def _size(model: Transformer) -> int:
    return sum(weight.numel() for weight in model.parameters())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m farspan.lab.embedded", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write config.json, weights and card to")
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the weights and the order of texts (default: 0)")
    parser.add_argument("--threads", type=int, default=1, help="of farspan and torch (default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on with the run in DIR, if there is one")
    return parser
