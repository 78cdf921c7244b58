"""Gradients of `farspan.attention` against those of its definition in float64, on every backend."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from support.arrays import as_numpy
from support.attention_cases import Case, attention_cases
from support.attention_gradients import LARGE, check, gradients, leaves, upstream

import farspan
from farspan import _core
from farspan.testing import assert_same_bits

CASES = attention_cases(pages=False)


@given(case=CASES, through=st.sampled_from(["both", "both", "output", "lse"]), seed=st.integers(0, 99))
def test_gradients_are_those_of_the_definition(backend: str, case: Case, through: str, seed: int) -> None:
    output, lse = upstream(case, seed)
    above = (None if through == "lse" else output, None if through == "output" else lse)
    # Tensor cores take turned rows, weights and slopes in the element type.
    check(case, above, gradients(case, above), roundings=2 if backend in ("emulated", "cuda") else 1)


@given(case=CASES)
def test_gradients_have_the_same_bits_on_every_instruction_set(case: Case) -> None:
    above = upstream(case)
    found = {}
    for machine, available in _core.cpu_info()[1]:
        if available:
            _core.force_cpu(machine)
            found[machine] = gradients(case, above)
    _core.force_cpu(None)
    for machine, given_there in found.items():
        for leaf, gradient in given_there.items():
            expected = as_numpy(found["portable"][leaf])
            assert_same_bits(as_numpy(gradient), expected, f"gradient of {leaf}, {machine} against portable")


@given(case=CASES, data=st.data())
def test_one_gradient_alone_and_any_number_of_threads(case: Case, data: st.DataObject) -> None:
    above = upstream(case)
    leaf = data.draw(st.sampled_from(sorted(leaves(case))))
    before = farspan.get_num_threads()
    farspan.set_num_threads(1)
    whole = gradients(case, above)
    farspan.set_num_threads(3)
    alone = gradients(case, above, only=leaf)
    farspan.set_num_threads(before)
    assert_same_bits(as_numpy(alone[leaf]), as_numpy(whole[leaf]), f"gradient of {leaf}")


@given(case=CASES.filter(lambda case: "query_offsets" not in case.hooks and case.arrays[0].shape[0] > 1))
def test_a_sequence_of_a_batch_has_the_bits_it_has_alone(backend: str, case: Case) -> None:
    above = upstream(case)
    whole = gradients(case, above)
    last = case.arrays[0].shape[0] - 1
    alone = gradients(_sequence(case, last), (above[0][last:], above[1][last:]))
    for leaf in LARGE:
        assert_same_bits(as_numpy(alone[leaf]), as_numpy(whole[leaf][last:]), f"gradient of {leaf}")


def _sequence(case: Case, index: int) -> Case:
    """One sequence of a dense batch."""

    def cut(x: object, rank: int) -> object:
        whole = isinstance(x, torch.Tensor) and x.ndim == rank and x.shape[0] > 1
        return x[index : index + 1] if whole else x  # type: ignore[index]

    ranks = {"key_lengths": 1, "query_positions": 2, "key_positions": 2, "key_bias": 3, "query_scale": 3}
    hooks = {name: cut(x, ranks.get(name, -1)) for name, x in case.hooks.items()}
    if "rotary" in hooks:
        hooks["rotary"] = {name: cut(x, 2) for name, x in case.hooks["rotary"].items()}
    return Case([x[index : index + 1] for x in case.arrays], hooks)
