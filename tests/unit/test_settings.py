"""The arguments of the unembedding stand in one list each: what should follow from it does."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest
import torch

import farspan
from farspan import _core, ops
from farspan._backend import losses, results, settings
from farspan._backend.schema import array_fields, map_arrays, schema
from farspan._backend.settings import COUNTS, ORDERS, REALS, Draws, Listed, Rules, Settings

OPERATORS = {
    "greedy": (2, (Rules,)),
    "sample": (2, (Draws, Rules, Settings)),
    "ranks": (5, (Rules, Settings)),
    "score": (3, (Rules, Listed)),
    "top": (3, (Rules,)),
}
"""How many arguments come before the lists, and the lists."""


@pytest.mark.parametrize("name", ["Rules", "Draws", "Settings", "Shard", "CrossEntropy", "ScoreRead"])
def test_rust_reads_every_field_and_no_other(name: str) -> None:
    of = losses if hasattr(losses, name) else settings
    assert getattr(_core, name.upper()) == getattr(of, name)._fields


def test_rust_names_the_rows_of_tables_in_the_same_order() -> None:
    assert tuple(REALS) == _core.REALS
    assert tuple(COUNTS) == _core.COUNTS
    assert ORDERS == _core.ORDERS


def test_rust_writes_the_results_in_the_same_order() -> None:
    assert tuple(results.SAMPLE) == _core.SAMPLE
    assert tuple(results.SCORE) == _core.SCORE


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_take_the_lists(name: str) -> None:
    assert name in ops.CALLS  # registered
    before, lists = OPERATORS[name]
    arguments = getattr(torch.ops.farspan, name).default._schema.arguments[before:]
    assert [x.name for x in arguments] == [field for kind in lists for field in kind._fields]
    defaults = {field: value for kind in lists for field, value in kind._field_defaults.items()}
    assert {x.name: x.default_value for x in arguments if x.has_default_value()} == defaults
    tensors = [x.name for x in arguments if "Tensor" in str(x.type)]
    assert tensors == [field for kind in lists for field in array_fields(kind)]


def test_a_schema_says_types_and_defaults() -> None:
    assert schema(Rules) == "float scale=1.0, float? softcap=None, Tensor? bias=None, SymInt? valid_vocab=None"
    assert schema(Draws) == "Tensor seed, Tensor position, Tensor stream, Tensor temperature"
    assert schema(Settings).startswith("str order='hf', Tensor? reals=None")


def test_public_defaults_turn_everything_off() -> None:
    public = {name: p.default for name, p in inspect.signature(farspan.sample).parameters.items()}
    assert {name: public[name] for name in REALS | COUNTS} == REALS | COUNTS
    assert {name: public[name] for name in Rules._fields} == Rules._field_defaults
    assert (public["order"], public["top"], public["samples"]) == (Settings().order, 0, 1)


def test_arrays_are_mapped_by_name() -> None:
    bias = np.zeros(3, np.float32)
    seen: dict[str, Any] = {}
    mapped = map_arrays(lambda name, x: seen.setdefault(name, x).size, Rules(2.0, None, bias, 3))
    assert list(seen) == ["bias"]
    assert seen["bias"] is bias
    assert mapped == Rules(2.0, None, 3, 3)
    nothing = Rules(scale=0.5)
    assert map_arrays(lambda name, x: None, nothing) is nothing
