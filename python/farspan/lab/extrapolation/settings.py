"""What decides the outcome of an extrapolation, as data; and the single trainings that it consists of."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from farspan._errors import ArgumentError, message
from farspan.lab import custom, schemes, tasks
from farspan.lab.extrapolation.coupling import COUPLED
from farspan.lab.kept import written
from farspan.lab.schemes import Reach
from farspan.lab.settings import MANY, plain, put, require_new, settle
from farspan.lab.trainings import Trainings
from farspan.model.kinds import POSITIVE, Kind, count, list_of, one_of
from farspan.positions import Scheme, Span
from farspan.positions.frequencies import DEFAULT_BASE

READINGS = ("slots", "causal")

DECODED = frozenset((
    "addition", "sort_integers", "copy", "max_retrieval", "fine_max_retrieval", "induction", "needle", "flip_flop",
))  # fmt: skip
"""Tasks of papers with decoders. The others are of papers with encoders, and read so unless settings say otherwise."""

SCHEMES = ("none", "rope", "alibi", "random-rope", "random-relative")
"""What is compared unless others are asked for."""

KINDS: dict[str, Kind] = {
    "task": one_of(*tasks.NAMES),
    "train_length": count(MANY),
    "test_lengths": list_of(count(MANY)),
    "learning_rates": list_of(POSITIVE),
    "reading": one_of(*READINGS),
}


@dataclass(frozen=True)
class Settings:
    """An extrapolation: `seeds` models for each scheme and learning rate, trained on inputs of lengths 1 to
    `train_length` and tested at each of `test_lengths`.

    `reading`: "slots" reads answers from empty slots behind the input, and every token sees every other; "causal" is a
    decoder that reads the right answer so far; "" is the one of the papers that the task is from.

    Of several learning rates each scheme is shown with the one whose loss on new inputs of trained lengths is least, in
    the median over seeds: what lies beyond has no say.

    ArgumentError: a value that cannot be.
    """

    task: str
    schemes: tuple[str, ...] = SCHEMES
    train_length: int = 40
    test_lengths: tuple[int, ...] = (40, 64, 100, 200)
    steps: int = 2000
    seeds: int = 3
    examples: int = 128
    learning_rates: tuple[float, ...] = (1e-3,)
    batch: int = 64
    layers: int = 5
    width: int = 64
    heads: int = 8
    reading: str = ""

    def __post_init__(self) -> None:
        if self.reading == "":
            put(self, "reading", "causal" if self.task in DECODED else "slots")
        settle(self, KINDS)
        for name in ("test_lengths", "learning_rates"):
            put(self, name, tuple(sorted(set(getattr(self, name)))))
            if not getattr(self, name):
                raise ArgumentError(message(name, "at least one", "none"))
        # One scheme under two names, such as none and nope, is trained twice.
        put(self, "schemes", tuple(dict.fromkeys(self.schemes)))
        require_new(self.schemes)
        task = tasks.get(self.task)
        for length in self.test_lengths:
            if not task.nearest(length):
                raise ArgumentError(message("test_lengths", f"{task.lengths} for {self.task}", length))
        if not self.train_lengths:
            raise ArgumentError(message("train_length", f"{task.lengths} for {self.task}", self.train_length))
        for scheme in self.schemes:
            Trial(self, scheme, 0, self.learning_rates[0]).check()

    @property
    def train_lengths(self) -> tuple[int, ...]:
        """The lengths that batches are drawn from, each as likely as the others."""
        return tuple(tasks.get(self.task).possible_lengths(self.train_length))

    def trials(self) -> tuple[Trial, ...]:
        """All trainings, seed by seed: what all schemes have of a seed is done before the next one begins."""
        seeds = range(self.seeds)
        return tuple(
            Trial(self, scheme, seed, rate)
            for seed, scheme, rate in itertools.product(seeds, self.schemes, self.learning_rates)
        )

    @property
    def trainings(self) -> Trainings:
        """How many there are, by their steps."""
        return Trainings({self.steps: len(self.trials())})

    def to_dict(self) -> dict[str, Any]:
        """With JSON types."""
        return plain(self)


@dataclass(frozen=True)
class Trial:
    """One training: a scheme, a seed and a learning rate."""

    settings: Settings
    scheme: str
    seed: int
    learning_rate: float

    @property
    def name(self) -> str:
        """For files. The names of all trials of an extrapolation differ."""
        place = self.settings.schemes.index(self.scheme)
        scheme = written(self.scheme) + (f"-{place}" if custom.is_reference(self.scheme) else "")
        return f"{scheme}-seed{self.seed}-rate{self.learning_rate:g}"

    @property
    def facts(self) -> dict[str, Any]:
        """What a result depends on, as JSON has it. How many seeds and which other schemes there are is no part."""
        others = ("schemes", "seeds", "learning_rates")
        own = {name: value for name, value in self.settings.to_dict().items() if name not in others}
        return own | {"scheme": self.scheme, "seed": self.seed, "learning_rate": self.learning_rate}

    def tokens(self, length: int) -> int:
        """How many tokens a sequence has whose input is so long."""
        examples = tasks.get(self.settings.task).sample(length, 1, 0)
        return examples.inputs.shape[1] + examples.outputs.shape[1]

    def make_scheme(self) -> Scheme:
        """The scheme, its settings by the longest sequences of training and of the tests."""
        trained = self.tokens(self.settings.train_lengths[-1])
        longest = max(trained, *map(self.tokens, self.settings.test_lengths))
        (made,) = schemes.make([self.scheme], Reach(trained, longest, DEFAULT_BASE)).values()
        assert made is not None
        return made

    def check(self) -> None:
        """ArgumentError: a scheme that says nothing of the tokens behind, where those are seen, or whose places the
        task does not say."""
        settings = self.settings
        span = Span(
            time=2, lengths=(2,), heads=settings.heads, head_dim=settings.width // settings.heads,
            causal=settings.reading == "causal",
        )  # fmt: skip
        scheme = self.make_scheme()
        if scheme.takes_positions and settings.task not in COUPLED:
            expected = f"{', '.join(COUPLED)} with {self.scheme}: nobody has said what else belongs together"
            raise ArgumentError(message("task", expected, settings.task))
        try:
            scheme.fixed_hooks(span)
        except ArgumentError as error:
            raise ArgumentError(f"{error} (scheme {self.scheme!r}, reading {settings.reading!r})") from None
