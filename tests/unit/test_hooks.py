"""Attention's hooks stand in one list: what should follow from it does."""

from __future__ import annotations

import inspect

import numpy as np
import torch

import farspan
from farspan import _core, ops, reference
from farspan._backend.hooks import Above, Gradients, Hooks
from farspan._backend.schema import array_fields, map_arrays, schema
from farspan._results import AttentionStatistics
from farspan.attention import hook_arguments

QUERY = np.zeros((1, 1, 2, 4), np.float32)


def test_rust_reads_every_hook_and_no_other() -> None:
    assert Hooks._fields == _core.HOOKS
    assert array_fields(Above) == _core.ABOVE
    assert Gradients._fields == _core.GRADIENTS
    assert AttentionStatistics._fields == _core.STATISTICS


def test_what_has_a_gradient_is_an_argument() -> None:
    arguments = {"query", "key", "value", *array_fields(Hooks)}
    assert set(Gradients._fields) <= arguments


def test_the_operators_arguments_are_the_hooks() -> None:
    assert "attention" in ops.CALLS  # registered
    arguments = torch.ops.farspan.attention.default._schema.arguments[3:]
    assert tuple(a.name for a in arguments) == Hooks._fields
    assert Hooks(*(a.default_value for a in arguments)) == Hooks()
    tensors = tuple(a.name for a in arguments if "Tensor" in str(a.type))
    assert tensors == array_fields(Hooks)


def test_a_schema_says_types_and_defaults() -> None:
    text = schema(Hooks)
    for part in ("bool causal=False", "int? left=None", "int keep_first=0", "float? scale=None", "float magnitude=1.0"):
        assert part in text.split(", ")
    assert text.endswith("Tensor? block_table=None")


def test_public_functions_take_the_same_arguments() -> None:
    def parameters(function: object) -> dict[str, object]:
        found = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
        return {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY and p.name != "return_lse"}

    hooks = parameters(hook_arguments)
    assert hooks == parameters(farspan.attention) == parameters(reference.attention)
    assert hooks == parameters(farspan.attention_statistics) == parameters(reference.attention_statistics)


def test_nothing_given_is_the_default_of_every_hook() -> None:
    assert hook_arguments(QUERY) == Hooks()


def test_arrays_are_mapped_by_name() -> None:
    sink, lengths = np.zeros(1, np.float32), np.array([2])
    hooks = hook_arguments(QUERY, sink=sink, key_lengths=lengths, causal=True)
    seen = {}
    mapped = map_arrays(lambda name, x: seen.setdefault(name, x).size, hooks)
    assert seen.keys() == {"sink", "key_lengths"}
    assert seen["sink"] is sink
    assert mapped == Hooks(causal=True, sink=1, key_lengths=1)


def test_shapes_that_hooks_ask_for() -> None:
    assert not Hooks().ragged
    assert not Hooks().paged
    assert Hooks(query_offsets=np.zeros(2)).ragged
    assert Hooks(block_table=np.zeros((1, 1))).paged
