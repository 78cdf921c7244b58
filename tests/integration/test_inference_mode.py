"""Every public function, and much of what models and the laboratory do, under `torch.no_grad()`, under
`torch.inference_mode()`, and of tensors that were made there: the same bits as anywhere else, of trainings too."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import inspect
import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from support.models import VOCAB, ids, small_model, transformers_model
from support.training import documents
from torch import Tensor

import farspan
from farspan.embedded import FOLDER
from farspan.lab.extension import Tuning, extend
from farspan.lab.extrapolation import Settings, extrapolate, learning
from farspan.lab.train import Recipe as WindowRecipe
from farspan.lab.train import train
from farspan.positions import FIRE, YaRN
from farspan.tokenizer import ByteTokenizer
from farspan.training import Recipe, fit

NOISE = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=NOISE)


HIDDEN, WEIGHT, BIAS = random(2, 3, 16), random(40, 16), random(40)
TARGETS = torch.arange(6).view(2, 3)
QUERY, KEY, VALUE = random(2, 4, 6, 8), random(2, 2, 6, 8), random(2, 2, 6, 8)
TABLE, SINK, FREQUENCIES = random(4, 5), random(4), torch.tensor([1.0, 0.1])
TRANSLATION = random(3, 48, 48)
IDS, TEXT = ids(2, 20), ids(1, 300)[0]
DRAWN = {"max_new_tokens": 5, "temperature": 1.0}


class Given(NamedTuple):
    """What a call gets, made in the mode that is tested or before it."""

    tensor: Callable[[Tensor], Tensor]
    model: Callable[..., farspan.Transformer]
    theirs: Callable[..., Any]
    """a model of transformers"""


class Templated(ByteTokenizer):
    """Turns are their texts, one behind the other."""

    def chat(self, messages: Any, **_: Any) -> list[int]:
        return [byte % VOCAB for message in messages for byte in message["content"].encode() + b"\n"]


def attend(given: Given) -> Any:
    tensor = given.tensor
    return farspan.attention(
        *map(tensor, (QUERY, KEY, VALUE)), causal=True, sink=tensor(SINK), return_lse=True,
        rotary=farspan.Rotary(tensor(FREQUENCIES)), distance_bias=farspan.DistanceBias(tensor(TABLE)),
    )  # fmt: skip


def draw_twice_over_one_cache(given: Given, **options: Any) -> Any:
    """The second call in no mode at all: what the first one left must serve there."""
    model = given.model(**options)
    cache = model.new_cache(2)
    texts = [model.generate(given.tensor(IDS), cache=cache, **DRAWN)]
    with torch.inference_mode(False):
        longer = [[*row, *new.tokens, 1] for row, new in zip(IDS.tolist(), texts[0], strict=True)]
        texts.append(model.generate(longer, cache=cache.fork([0, 1]), **DRAWN))
        texts.append(model.generate(longer, cache=cache, **DRAWN))
    return [[dataclasses.asdict(one) for one in text] for text in texts]


def talk(given: Given) -> Any:
    conversation = farspan.Conversation(given.model(), Templated(), **DRAWN)
    return [conversation.say(turn).tokens for turn in ("ab", "cd")]


def wrote(given: Given) -> Any:
    (found,) = farspan.generate_text(given.model(), ByteTokenizer(), "ab", max_new_tokens=5)
    return found.tokens, found.text


def loaded(model: farspan.Transformer, given: Given) -> Any:
    return model.loss(given.tensor(IDS)), model.generate(given.tensor(IDS), 3)[0].tokens


def translated(given: Given) -> Any:
    translators = farspan.Translators(given.tensor(0.1 * TRANSLATION), given.tensor(TRANSLATION[:, 0]))
    return fields(farspan.lens(given.model(), given.tensor(IDS), translators=translators))


def weights(model: torch.nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def fitted(model: farspan.Transformer) -> Any:
    recipe = Recipe(steps=3, batch=2, context=16, learning_rate=1e-2, warmup=1)
    return fit(model, documents(), recipe).loss, weights(model)


def saved_and_fitted(given: Given) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        given.model().save_pretrained(folder)
        return fitted(farspan.Transformer.from_pretrained(folder))


def trained(given: Given) -> Any:
    model = given.model(learns=True)
    recipe = WindowRecipe(steps=3, batch=2, context=16)
    return train(model, lambda: model.unembedding, given.tensor(TEXT), recipe).train_loss, weights(model)


def extended(given: Given) -> Any:
    model = given.model(learns=True, max_position_embeddings=16)
    found = extend(model, given.tensor(TEXT), 32, ["yarn", "pose"], Tuning(2, tokens=64))
    return [dataclasses.astuple(point) for point in found.measurement.points]


class Killed(BaseException):
    """As a kill is: nothing catches it."""


def extrapolated(given: Given) -> Any:
    """Stopped on its way and taken up again, so that what was kept is read in the mode too."""
    settings = Settings(
        "bucket_sort", schemes=("rope",), train_length=3, test_lengths=(4,), steps=4, seeds=1, examples=4, batch=2,
        layers=1, width=16, heads=2,
    )  # fmt: skip

    def dying(done: int, total: int, what: str) -> None:
        if done == 2:
            raise Killed

    with tempfile.TemporaryDirectory() as out, mock.patch.object(learning, "SECONDS_BETWEEN_CHECKPOINTS", -1.0):
        with pytest.raises(Killed):
            extrapolate(settings, out, workers=1, progress=dying)
        (found,) = extrapolate(settings, out, resume=True, workers=1).results.values()
    return {name: value for name, value in found.items() if name != "seconds"}


def slopes(given: Given) -> Any:
    """Of a model whose ids come from anywhere."""
    with torch.inference_mode(False):
        model = small_model(learns=True)
        model.loss(given.tensor(IDS), given.tensor(IDS)).backward()
        return [parameter.grad for parameter in model.parameters()]


def slope_beside_constants(given: Given) -> Any:
    with torch.inference_mode(False):
        hidden = HIDDEN.clone().requires_grad_()
        loss = farspan.linear_cross_entropy(hidden, given.tensor(WEIGHT), given.tensor(TARGETS))
        return torch.autograd.grad(loss, hidden)


CALLS: dict[str, Callable[[Given], Any]] = {
    "attention": attend,
    "attention_statistics": lambda given: farspan.attention_statistics(given.tensor(QUERY), given.tensor(KEY)),
    "linear": lambda given: farspan.linear(*map(given.tensor, (HIDDEN, WEIGHT, BIAS))),
    "greedy": lambda given: farspan.greedy(given.tensor(HIDDEN), given.tensor(WEIGHT), bias=given.tensor(BIAS)),
    "sample": lambda given: farspan.sample(given.tensor(HIDDEN), given.tensor(WEIGHT), seed=1, position=2, top_p=0.9),
    "verify": lambda given: farspan.verify(
        given.tensor(HIDDEN), given.tensor(WEIGHT), given.tensor(TARGETS[:, :2]), seed=0, position=1
    ),
    "top": lambda given: farspan.top(given.tensor(HIDDEN), given.tensor(WEIGHT), 3),
    "score": lambda given: farspan.score(*map(given.tensor, (HIDDEN, WEIGHT, TARGETS)), top=2),
    "linear_cross_entropy": lambda given: farspan.linear_cross_entropy(*map(given.tensor, (HIDDEN, WEIGHT, TARGETS))),
    "divergence": lambda given: farspan.divergence(*map(given.tensor, (HIDDEN, WEIGHT, 2 * HIDDEN))),
    "a gradient beside constants": slope_beside_constants,
    "model": lambda given: given.model()(given.tensor(IDS)),
    "model.logits": lambda given: given.model().logits(given.tensor(IDS)),
    "model.hidden_states": lambda given: given.model().hidden_states(given.tensor(IDS)),
    "model.attention_statistics": lambda given: given.model().attention_statistics(given.tensor(IDS)),
    "model.loss": lambda given: given.model(learns=True).loss(given.tensor(IDS)),
    "model.loss.backward": slopes,
    "model.with_positions": lambda given: given.model().with_positions(YaRN(4, 64))(given.tensor(IDS)),
    "model.with_positions, learned": lambda given: seeded(
        lambda: given.model().with_positions(FIRE(64))(given.tensor(IDS))
    ),
    "generate": draw_twice_over_one_cache,
    "generate, bfloat16 keys": lambda given: draw_twice_over_one_cache(given, backend="reference", dtype="bfloat16"),
    "generate, drafted": lambda given: [
        one.tokens for one in given.model().generate(given.tensor(IDS), 5, draft="prompt-lookup")
    ],
    "generate_text": wrote,
    "chat": talk,
    "lens": lambda given: fields(farspan.lens(given.model(), given.tensor(IDS))),
    "lens, soft cap": lambda given: fields(farspan.lens(given.model(final_logit_softcapping=5.0), given.tensor(IDS))),
    "lens, translators": translated,
    "attribution": lambda given: farspan.attribution(given.model(), given.tensor(IDS[0]), 4, 3),
    "measure": lambda given: [
        point.window_losses
        for point in farspan.measure(given.model(), given.tensor(TEXT), [16, 32], ["own", "yarn"], windows=2).points
    ],
    "train_lens": lambda given: vars(
        farspan.train_lens(given.model(learns=True), given.tensor(TEXT), steps=2, context=16, batch=2)
    ),
    "fit": lambda given: fitted(given.model(learns=True)),
    "fit of what was saved": saved_and_fitted,
    "load": lambda given: loaded(farspan.load(FOLDER)[0], given),
    "load_embedded": lambda given: loaded(farspan.load_embedded()[0], given),
    "lab.train": trained,
    "extend": extended,
    "extrapolate": extrapolated,
}
if importlib.util.find_spec("transformers"):
    CALLS["model.from_transformers"] = lambda given: loaded(
        farspan.Transformer.from_transformers(given.theirs("Llama")), given
    )
WITHOUT_TENSORS = {"get_num_threads", "set_num_threads", "vocabulary_ranges"}


def seeded(work: Callable[[], Any]) -> Any:
    torch.manual_seed(5)
    return work()


def fields(lens: farspan.Lens) -> dict[str, Any]:
    return {name: getattr(lens, name) for name in ("entropy", "kl", "logprob", "rank", "top_token", "top_logprob")}


def plain(found: Any) -> Any:
    """Tensors as their bits, whatever holds them."""
    if isinstance(found, Tensor):
        return (str(found.dtype), list(found.shape), found.detach().contiguous().numpy().tobytes())
    if isinstance(found, farspan.Sample):
        return [plain(found.token), plain(found.logprob), plain(found.rank)]
    if isinstance(found, Mapping):
        return {name: plain(value) for name, value in found.items()}
    return [*map(plain, found)] if isinstance(found, (list, tuple)) else found


def within(mode: Callable[[], AbstractContextManager[Any]], make: Callable[..., Any]) -> Callable[..., Any]:
    def made(*arguments: Any, **options: Any) -> Any:
        with mode():
            return make(*arguments, **options)

    return made


def outside_of_it() -> AbstractContextManager[Any]:
    return torch.inference_mode(False)


MODELS = (small_model, transformers_model)
PLAIN = Given(lambda x: x, *MODELS)
MADE_OUTSIDE = Given(PLAIN.tensor, *(within(outside_of_it, make) for make in MODELS))
MADE_INSIDE = Given(*(within(torch.inference_mode, make) for make in (torch.clone, *MODELS)))
MODES: dict[str, tuple[Callable[[], AbstractContextManager[Any]], Given]] = {
    "no_grad": (torch.no_grad, PLAIN),
    "inference_mode": (torch.inference_mode, PLAIN),
    "inference_mode, made outside": (torch.inference_mode, MADE_OUTSIDE),
    "tensors of inference_mode": (nullcontext, MADE_INSIDE),
    "tensors of inference_mode, no_grad": (torch.no_grad, MADE_INSIDE),
}


@cache
def outside(name: str) -> Any:
    """What a call gives in no mode."""
    return plain(CALLS[name](PLAIN))


def test_the_calls_are_of_every_public_function() -> None:
    functions = {name for name in farspan.__all__ if inspect.isfunction(getattr(farspan, name))}
    assert functions - WITHOUT_TENSORS <= CALLS.keys()
    assert functions >= WITHOUT_TENSORS


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", CALLS)
def test_a_call_has_the_same_bits_in_any_mode(name: str, mode: str) -> None:
    context, given = MODES[mode]
    with context():
        found = CALLS[name](given)
    assert plain(found) == outside(name)


def test_a_model_that_was_copied_in_inference_mode_reads_but_does_not_learn() -> None:
    model = small_model(learns=True)
    with torch.inference_mode():
        twin = copy.deepcopy(model)
    assert all(parameter.is_inference() for parameter in twin.parameters())
    assert plain(twin.loss(IDS)) == plain(model.loss(IDS))
    assert plain(fields(farspan.lens(twin, IDS))) == plain(fields(farspan.lens(model, IDS)))
    recipe = Recipe(steps=1, batch=1, context=16, learning_rate=1e-2)
    with pytest.raises(
        farspan.ArgumentError, match=r"model: expected weights that can learn.*move and copy .* outside"
    ):
        fit(twin, documents(), recipe)
