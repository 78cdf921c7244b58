"""`farspan.training.fit`: the steps of a run, and what happens between them."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from farspan._errors import Error
from farspan.model.checkpoint import require_own_parameters
from farspan.training import adapters
from farspan.training.folder import RunFolder
from farspan.training.heap import freed_memory_stays
from farspan.training.learner import Learner
from farspan.training.packing import Corpus
from farspan.training.recipe import Recipe, require_recipe

Progress = Callable[[int, int, str], object]
"""What is told of a run after each step: the steps done, the steps in all, and the loss in words."""


@dataclasses.dataclass(frozen=True)
class Result:
    """How a run ended."""

    steps: int
    loss: float
    """nats per token over the last step"""
    validation_loss: float | None
    """nats per token after the last step; None without validation documents"""
    seconds: float
    """of all processes that worked on the run"""


@torch.inference_mode(False)  # it learns, whatever the caller's mode
def fit(
    model: Any, documents: Iterable[Any], recipe: Recipe, out: str | os.PathLike[str] | None = None,
    resume: bool = False, *, validation: Iterable[Any] | None = None, progress: Progress | None = None,
) -> Result:  # fmt: skip
    """Trains a model, in place, to predict each token of the documents from those before it.

    The parameters that ask for a gradient learn: all of them, or those that an adapter or you have left so.

    Args:
        model: a `farspan.Transformer`, or what `peft.get_peft_model` made of one.
        documents: id lists. They are packed without padding, and no token sees another document. A document that is
            longer than the context is read in pieces.
        recipe: a `farspan.training.Recipe`.
        out: a folder for the run. It gets `config.json` and `model.safetensors`, which `Transformer.from_pretrained`
            reads, `log.jsonl` with a line for each step, `loss.png`, and checkpoints. Of a model with adapters it gets
            these alone, as `peft.PeftModel.from_pretrained` reads them. None: nothing is written.
        resume: go on with the run in `out`, if there is one. It ends with the bits of a run that nobody stopped. If the
            run is over, the model gets its weights.
        validation: id lists that are scored at intervals.
        progress: is told `(steps done, steps in all, the loss in words)` after each step.

    Returns:
        A `Result`. The same model, documents and recipe give the same bits, on the same machine.

    Raises:
        ArgumentError, DtypeError: documents without a token to predict, ids that are none of the vocabulary, or a model
            without a parameter that asks for a gradient, or one whose tokens see those behind them.
        Error: `out` holds a run and `resume` is not given, or it holds another run. Or a loss or a gradient is NaN or
            infinite: the model has the weights from before that step then, and the checkpoint stays as it is.
    """
    inner = adapters.transformer_of(model)
    require_recipe(recipe)
    inner.require_causal("model")
    vocab = inner.config.vocab_size
    corpus = Corpus(documents, vocab)
    held_out = None if validation is None else Corpus(validation, vocab, "validation")
    learner = Learner(inner, corpus, recipe, held_out)
    was_training = model.training
    try:
        if out is None:
            return _run(model, learner, None, progress)
        facts: dict[str, Any] = {
            "recipe": dataclasses.asdict(recipe),
            "documents": corpus.digest,
            "validation": None if held_out is None else held_out.digest,
            "model": inner.config.to_dict(),
            "learning": list(learner.optimizer.names),
        }
        if adapters.is_adapted(model):
            facts["adapters"] = adapters.facts_of(model)
        else:
            require_own_parameters(inner)
        folder = RunFolder(out, facts, resume=resume)
        try:
            return _run(model, learner, folder, progress)
        finally:
            folder.close()
    finally:
        model.train(was_training)
        learner.optimizer.forget_gradients()


@freed_memory_stays()
def _run(model: Any, learner: Learner, folder: RunFolder | None, progress: Progress | None) -> Result:
    """The steps that are left."""
    if folder is not None and folder.finished:
        folder.load_finished(model)
        return _result(folder.log.lines()[-1])
    line: dict[str, Any] = {"seconds": 0.0}
    saved = 0
    if folder is not None and (found := folder.load()) is not None:
        learner.restore(*found)
        line, saved = folder.log.lines()[-1], learner.step
    recipe, begun = learner.recipe, time.monotonic() - line["seconds"]
    while learner.step < recipe.steps:
        try:
            line = learner.take_step() | {"seconds": time.monotonic() - begun}
        except Error as error:
            kept = "" if folder is None else f"; {folder.path} has the checkpoint of step {saved}" if saved else ""
            raise Error(f"{error}{kept}") from error
        if folder is not None:
            folder.log.append(line)
            if learner.step % recipe.save_every == 0 and learner.step < recipe.steps:
                folder.save(model, *learner.state())
                saved = learner.step
        if progress is not None:
            progress(learner.step, recipe.steps, f"loss {line['loss']:.3f}")
    if folder is not None:
        folder.finish(model)
    return _result(line)


def _result(line: dict[str, Any]) -> Result:
    return Result(line["step"], line["loss"], line.get("validation_loss"), line["seconds"])
