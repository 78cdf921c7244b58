"""The table of operations: what each takes, and what it gives.

The torch operators (`farspan.ops`) and the calls with NumPy arrays (`farspan._compute`) follow from it. An operation is
a line here, a function of its name in `results.py`, `cpu.py` and `gpu.py`, and a public function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

from farspan._backend import results
from farspan._backend.arrays import dtype_name
from farspan._backend.hooks import Above, Gradients, Hooks
from farspan._backend.losses import Asked, CrossEntropy, CrossEntropyRead, DivergenceRead, ScoreRead, Target
from farspan._backend.schema import schema
from farspan._backend.settings import Bias, Drawn, Draws, Listed, Longest, Rules, Settings, Targets
from farspan._results import AttentionStatistics


@dataclass(frozen=True)
class Operation:
    """One line of the table."""

    name: str
    large: tuple[str, ...]
    """The large inputs, which are read where they lie."""
    lists: tuple[Any, ...]
    """The lists of further arguments, each a NamedTuple, in the order in which the backends take them."""
    results: tuple[str, ...]
    mixed: bool = False
    """Whether the large inputs may differ in their element type; backends are told all of these then."""
    gradient_of: str = ""
    """The operation whose backward pass this is, or a part of it."""

    def schema(self) -> str:
        """The operator as torch declares it."""
        given = ", ".join([*(f"Tensor {name}" for name in self.large), *map(schema, self.lists)])
        found = ", ".join(f"Tensor {name}" for name in self.results)
        return f"{self.name}({given}) -> " + (f"({found})" if len(self.results) > 1 else "Tensor")

    def split(self, given: Sequence[Any]) -> tuple[Sequence[Any], list[Any]]:
        """The large inputs and the lists, from arguments one behind the other. What is left out at the end has its
        default."""
        return given[: len(self.large)], [kind(*given[places]) for kind, places in self._places]

    @cached_property
    def _places(self) -> list[tuple[Any, slice]]:
        """Where each list stands."""
        ends = list(accumulate((len(kind._fields) for kind in self.lists), initial=len(self.large)))
        return [(kind, slice(*pair)) for kind, pair in zip(self.lists, pairwise(ends), strict=True)]

    def dtype(self, large: Sequence[Any]) -> Any:
        """The element type that the backends are told."""
        return tuple([dtype_name(x) for x in large]) if self.mixed else dtype_name(large[0])


_ATTENTION = ("query", "key", "value")
_UNEMBEDDING = ("hidden", "weight")
_SIDES = ("hidden", "weight", "target_hidden", "target_weight")
_GRADIENTS = ("hidden", "weight", "bias")

OPERATIONS = {
    operation.name: operation
    for operation in (
        Operation("attention", _ATTENTION, (Hooks,), ("output", "lse")),
        Operation(
            "attention_backward",
            (*_ATTENTION, "output", "output_gradient"),
            (Above, Hooks),
            tuple(f"{name}_gradient" for name in Gradients._fields),
            gradient_of="attention",
        ),
        Operation("attention_statistics", ("query", "key"), (Hooks,), AttentionStatistics._fields),
        Operation("linear", ("x", "weight"), (Bias,), ("output",), mixed=True),
        Operation("linear_x_gradient", ("gradient", "weight"), (), ("x_gradient",), mixed=True, gradient_of="linear"),
        Operation(
            "linear_weight_gradient", ("gradient", "x"), (), ("weight_gradient",), mixed=True, gradient_of="linear"
        ),
        Operation("greedy", _UNEMBEDDING, (Rules,), tuple(results.SAMPLE)),
        Operation("sample", _UNEMBEDDING, (Draws, Rules, Settings), tuple(results.SAMPLE)),
        Operation("ranks", _UNEMBEDDING, (Drawn, Rules, Settings), ("rank",)),
        Operation("score", _UNEMBEDDING, (Targets, Rules, Listed), tuple(results.SCORE)),
        Operation("score_gradient", _UNEMBEDDING, (Targets, ScoreRead, Rules, Asked), _GRADIENTS, gradient_of="score"),
        Operation("top", _UNEMBEDDING, (Longest, Rules), ("token", "logit", "lse")),
        Operation("linear_cross_entropy", _UNEMBEDDING, (CrossEntropy, Rules), ("loss", "max", "log_sum")),
        Operation(
            "linear_cross_entropy_gradient",
            _UNEMBEDDING,
            (CrossEntropyRead, CrossEntropy, Rules, Asked),
            _GRADIENTS,
            gradient_of="linear_cross_entropy",
        ),
        Operation("divergence", _SIDES, (Target, Rules), ("divergence", *DivergenceRead._fields[:-1])),
        Operation(
            "divergence_gradient", _SIDES, (DivergenceRead, Target, Rules, Asked), _GRADIENTS, gradient_of="divergence"
        ),
    )
}
