"""From a model and a text to a recommendation: schemes as they are, then trainings, all scored on the same tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from farspan._errors import ArgumentError, message
from farspan.lab import schemes
from farspan.lab.extension import lora
from farspan.lab.extension import methods as named
from farspan.lab.extension.tuning import Tuning, memory, tuned
from farspan.lab.measure import measure
from farspan.lab.measurement import Measurement, Point
from farspan.lab.progress import Progress
from farspan.lab.reach import reach_of, switched, trained_length_of
from farspan.lab.retrieval import Retrieval
from farspan.model import Transformer
from farspan.tokenizer import Tokenizer
from farspan.training import Result

HELD_OUT = 4
"""One of so many parts of a text is measured, where the others are learnt."""

Say = Callable[[str], object]


@dataclass(frozen=True)
class Extension:
    """What was measured and trained, and what follows from it."""

    measurement: Measurement
    to: int
    trainings: dict[str, dict[str, Any]]
    """by the names that the trained models have in the measurement"""
    models: dict[str, Transformer]
    """of every name in the measurement, the model as it was measured"""

    def losses(self, length: int) -> dict[str, Point]:
        return {point.scheme: point for point in self.measurement.points if point.length == length}

    @property
    def ranking(self) -> list[str]:
        """From the lowest loss at the length to reach."""
        at = self.losses(self.to)
        return sorted(at, key=lambda name: at[name].nats_per_token)

    @property
    def recommended(self) -> str:
        return self.ranking[0]

    @property
    def model(self) -> Transformer:
        """The recommended model."""
        return self.models[self.recommended]

    @property
    def evidence(self) -> dict[str, Any]:
        """What speaks for the recommendation, and what it costs: nats per token, and the standard errors of
        differences over the same windows."""
        best, home = self.recommended, self.measurement.trained_length
        far, near = self.losses(self.to), self.losses(home)
        at_home = near["own"]
        gain, gain_error = far[best].above(far["own"])
        cost, cost_error = near[best].above(at_home)
        further, further_error = far[best].above(at_home)
        return {
            "at_trained_length": {"own": at_home.nats_per_token, best: near[best].nats_per_token},
            "at_length_to_reach": {"own": far["own"].nats_per_token, best: far[best].nats_per_token},
            "gain_over_own": -gain, "gain_error": gain_error,
            "cost_at_trained_length": cost, "cost_error": cost_error,
            "above_own_at_trained_length": further, "above_error": further_error,
        }  # fmt: skip

    @property
    def retrieval(self) -> dict[str, dict[str, float]]:
        """What a loss does not show, at the length to reach: of each name the share of needles that are found, over all
        depths, and the share of tokens that are copied. Empty where that was not asked, or has no room."""
        needles: dict[str, list[float]] = {}
        for found in self.measurement.needles:
            if found.length == self.to:
                needles.setdefault(found.scheme, []).append(found.accuracy)
        copied = {found.scheme: found.accuracy for found in self.measurement.copies if found.length == self.to}
        return {
            "needles_found": {name: math.fsum(shares) / len(shares) for name, shares in needles.items()},
            "copied": copied,
        }  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        found = self.measurement.to_dict()
        return {
            "to": self.to, "ranking": self.ranking, "recommended": self.recommended, "evidence": self.evidence,
            "retrieval": self.retrieval, "trainings": self.trainings,
        } | found  # fmt: skip


def lengths_up_to(trained: int, to: int) -> tuple[int, ...]:
    """Half the trained length, the trained length, and its doubles up to the one to reach, which is the last."""
    doubled = [trained]
    while 2 * doubled[-1] < to:
        doubled.append(2 * doubled[-1])
    return (max(2, trained // 2), *doubled, to)


def extend(
    model: Transformer, tokens: Any, to: int, methods: Sequence[str] | None = None, tuning: Tuning | None = None, *,
    train_tokens: Any = None, trained_length: int | None = None, tokenizer: Tokenizer | None = None, needles: int = 2,
    copies: int = 4, progress: Progress | None = None, say: Say = lambda text: None,
    keep: Callable[[Extension], object] = lambda found: None, **described: Any,
) -> Extension:  # fmt: skip
    """Measures how a model reads texts of `to` tokens under each method, and what each costs at short lengths.

    `tokens`: the text, `[n]` ids. `methods`: position schemes by name, and `pose`, `drope` and `lora`, which train;
    None: all but `lora`. With `tuning` those that train do: linear, yarn, pose, drope and lora. They learn from
    `train_tokens`; without these the text is split, and its last quarter, or more where that is too short, is measured.
    All methods are scored on the same tokens. `described`: `model_name`, `text_name`, `first_tokens` and so on, as in
    `farspan.measure`.

    With a `tokenizer` so many `needles` are hidden at each depth of each length, and asked for. So many `copies` of
    pieces of the text are asked for at each length.

    `progress(done, total, next_step)` hears what is done, `say(text)` what a training needs before it begins,
    `keep(extension)` what is found by then: of the model as it is, then of each scheme, and after each training.

    ArgumentError: a text that is too short, a length that is none, a method that is unknown or needs training.
    BackendError: `lora` without the package peft.
    """
    plain, training = named.split(methods, trains=tuning is not None)
    if "lora" in training:
        lora.require_peft()
    trained = trained_length_of(model.config) if trained_length is None else trained_length
    if isinstance(to, bool) or not isinstance(to, int) or to <= trained:
        raise ArgumentError(message("to", f"a length beyond the trained {trained} tokens", to))
    for name, count in (("needles", needles), ("copies", copies)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ArgumentError(message(name, "an integer of at least 0", repr(count)))
    text = torch.as_tensor(tokens)
    learnt, measured = _divided(text, train_tokens, to, trained, trains=bool(training))
    lengths = lengths_up_to(trained, to)
    common = {"trained_length": trained, "progress": progress, **described}
    start = described.get("first_tokens", ())
    asking = Retrieval(measured, lengths, trained, tokenizer, needles, copies, start)
    reach = reach_of(model.config, to, trained)
    asked = schemes.make(("own", *plain), reach)
    models = {name: switched(model, scheme) for name, scheme in asked.items()}
    trainings: dict[str, dict[str, Any]] = {}

    def keep_untrained(found: Measurement) -> None:
        """What is measured of the model as it is, and then of each scheme."""
        if found.points[-1].length == to:
            keep(Extension(found, to, {}, {name: models[name] for name in found.curves()}))

    whole = measure(model, measured, lengths, asked, keep=keep_untrained, **common)

    def keep_asked(found: Measurement) -> None:
        keep(Extension(found, to, trainings, models))

    whole = asking.added_to(whole, model, asked, progress, keep_asked)
    keep_asked(whole)
    for method in training:
        assert tuning is not None
        name = f"{method}, {tuning.steps} steps"
        by = named.trained_by(method, reach)
        context = to if by.whole_reach else trained
        needed = memory(model, by, context, tuning)
        say(f"{name}: context {context}, about {needed / 2**30:.2f} GiB of memory beside the model")
        learner, result = tuned(model, learnt, by, context, tuning, progress)
        found = measure(learner, measured, lengths, {name: None}, **common)
        models[name], trainings[name] = learner, _told(method, context, needed, tuning, result)
        whole = dataclasses.replace(whole, schemes=whole.schemes | found.schemes, points=(*whole.points, *found.points))
        keep_asked(whole)
        whole = asking.added_to(whole, learner, {name: None}, progress, keep_asked)
        keep_asked(whole)
    notes = [*whole.notes, *asking.notes]
    if training:
        same = " of the same text" * (train_tokens is None)
        notes.append(f"the trained models learnt from {len(learnt)} other tokens{same}")
    return Extension(dataclasses.replace(whole, notes=tuple(notes)), to, trainings, models)


def _told(method: str, context: int, needed: int, tuning: Tuning, result: Result) -> dict[str, Any]:
    return {"method": method, "context": context, "memory_bound": needed, **dataclasses.asdict(tuning),
            "last_loss": result.loss, "seconds": result.seconds}  # fmt: skip


def _divided(text: Tensor, train: Any, to: int, trained: int, *, trains: bool) -> tuple[Tensor, Tensor]:
    """What is learnt and what is measured."""
    if not trains:
        return text[:0], text
    if train is not None:
        return torch.as_tensor(train), text
    held_out = max(math.ceil(len(text) / HELD_OUT), to + 1)
    if len(text) - held_out < trained:
        expected = f"a text of at least {to + 1 + trained} tokens, of which {to + 1} are held out, or one to train on"
        raise ArgumentError(message("tokens", expected, len(text)))
    return text[:-held_out], text[-held_out:]
