"""`farspan train`: a model from scratch, or a checkpoint further, on texts of yours."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from farspan._backend.arrays import FLOATS
from farspan._errors import ArgumentError, message
from farspan.commands.options import MODEL, add_device, add_json
from farspan.commands.output import print_json
from farspan.commands.progress import progress_on_stderr
from farspan.commands.scheme import check_scheme, with_scheme
from farspan.commands.values import real, whole

if TYPE_CHECKING:
    from farspan.model import Config, Transformer
    from farspan.training.files import Encode

SUMMARY = "Train a model on texts, from a config or from a checkpoint; a run that was killed goes on with --resume."

BYTES, END = 256, 256
"""Tokens of a model from a config are the bytes, and one id that ends a document."""
LONGEST_CONTEXT = 1024
RATES = {"new": 1e-3, "fine-tuned": 2e-5}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    what = "texts, or .jsonl files with a text in each line; each is a document"
    add("--data", type=Path, nargs="+", action="extend", required=True, metavar="FILE", help=what)
    add("--out", type=Path, required=True, metavar="DIR", help="the folder of the run, and of the model")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, metavar="PATH", help=f"fine-tune this model: {MODEL}")
    what = "train a new model of this config.json; tokens are bytes, and id 256 ends a document"
    source.add_argument("--config", type=Path, metavar="FILE", help=what)
    add("--scheme", metavar="NAME", help="train with this position scheme (names: farspan measure --help)")
    what = "texts that are scored at intervals"
    add("--validation", type=Path, nargs="+", action="extend", metavar="FILE", help=what)
    add("--steps", type=whole(1), default=1000, metavar="N", help="(default: %(default)s)")
    add("--batch", type=whole(1), default=16, metavar="N", help="contexts a step reads at most (default: %(default)s)")
    what = f"longest piece of a document, in tokens (default: the model's reach, at most {LONGEST_CONTEXT})"
    add("--context", type=whole(1), metavar="N", help=what)
    add("--accumulate", type=whole(1), default=1, metavar="N", help="batches a step adds up (default: %(default)s)")
    what = f"the largest (default: {RATES['new']:g}, with --model {RATES['fine-tuned']:g})"
    add("--learning-rate", type=real(above=0), metavar="X", help=what)
    add("--warmup", type=whole(0), metavar="N", help="steps up to it (default: a tenth of all, at most 100)")
    what = "how the rate falls: from there on, or over the last fifth of the steps (default: %(default)s)"
    add("--schedule", choices=("cosine", "plateau"), default="cosine", help=what)
    add("--weight-decay", type=real(0), default=0.1, metavar="X", help="of AdamW, for matrices (default: %(default)s)")
    what = "of new weights, and of the order of documents (default: %(default)s)"
    add("--seed", type=whole(-(2**63), 2**63), default=0, metavar="S", help=what)
    add("--dtype", choices=FLOATS, help="of the weights (default: as the model or the config says)")
    add_device(parser)
    add("--recompute", action="store_true", help="compute layers again instead of keeping them: less memory")
    what = "steps between validations (default: %(default)s)"
    add("--validate-every", type=whole(1), default=100, metavar="N", help=what)
    what = "steps between checkpoints (default: %(default)s)"
    add("--save-every", type=whole(1), default=100, metavar="N", help=what)
    add("--resume", action="store_true", help="go on with the run in DIR, if there is one")
    add_json(parser)


def run(options: argparse.Namespace) -> None:
    check_scheme(options)
    from farspan import training
    from farspan.training import files
    from farspan.training.folder import require_no_run

    # What is wrong with the folder, the files or the settings is told before anything long begins.
    require_no_run(options.out, resume=options.resume)
    config, encode = _fine_tuned(options.model) if options.model else _new(options.config)
    recipe = _recipe(options, config)
    documents = files.documents(options.data, encode)
    validation = files.documents(options.validation, encode) if options.validation else None
    model = with_scheme(_model(options, config), options.scheme, recipe.context)
    try:
        with progress_on_stderr("training", unit="step") as progress:
            result = training.fit(
                model, documents, recipe, options.out, options.resume, validation=validation, progress=progress
            )
    except KeyboardInterrupt:
        print("farspan: the same command with --resume goes on from the last checkpoint", file=sys.stderr)
        raise
    _write_tokenizer(options)
    document = {
        "out": str(options.out),
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "documents": len(documents),
        **dataclasses.asdict(result),
    }
    if options.json:
        print_json(document)
        return
    held_out = "" if result.validation_loss is None else f", {result.validation_loss:.4f} on the validation text"
    print(f"{result.steps} steps in {result.seconds:.0f} s: {result.loss:.4f} nats per token at the end{held_out}")
    print(f"written: {options.out}")


def _new(path: Path) -> tuple[Config, Encode]:
    """The config of a new model, whose tokens are bytes."""
    from farspan._files import read_json
    from farspan.model import Config
    from farspan.training import files

    config = Config.from_dict(read_json(path))
    if config.vocab_size <= END:
        expected = f"at least {END + 1}: the {BYTES} bytes, and an id that ends a document"
        raise ArgumentError(message("vocab_size", expected, config.vocab_size))
    return dataclasses.replace(config, eos_token_ids=config.eos_token_ids or (END,)), files.as_bytes(END)


def _fine_tuned(path: Path) -> tuple[Config, Encode]:
    """The config of a checkpoint, and its tokenizer."""
    from farspan.lab.subject import open_model
    from farspan.training import files

    checkpoint, tokenizer = open_model(path)
    config = checkpoint.config
    return config, files.by_tokenizer(tokenizer, next(iter(config.eos_token_ids), None))


def _recipe(options: argparse.Namespace, config: Config) -> Any:
    from farspan.training import Recipe

    rate = options.learning_rate or RATES["fine-tuned" if options.model else "new"]
    return Recipe(
        steps=options.steps, batch=options.batch, learning_rate=rate, warmup=options.warmup, seed=options.seed,
        context=options.context or min(config.max_position_embeddings, LONGEST_CONTEXT), schedule=options.schedule,
        weight_decay=options.weight_decay, accumulate=options.accumulate, recompute=options.recompute,
        validate_every=options.validate_every, save_every=options.save_every,
    )  # fmt: skip


def _model(options: argparse.Namespace, config: Config) -> Transformer:
    import torch

    from farspan.model import Transformer

    torch.manual_seed(options.seed)  # of new weights, and of what a scheme that learns brings along
    if options.model:
        return Transformer.from_pretrained(options.model, options.dtype, options.device)
    return Transformer(config, dtype=options.dtype).to(options.device)


def _write_tokenizer(options: argparse.Namespace) -> None:
    """`farspan generate --model DIR` reads and writes text then."""
    if options.model:
        from farspan.lab.subject import copy_tokenizer

        copy_tokenizer(options.model, options.out)
        return
    from farspan.lab.embedded.byte_tokenizer import write_byte_tokenizer

    write_byte_tokenizer(options.out, end=END)
