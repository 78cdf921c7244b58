"""`farspan.attention` against its definition in float64, on every instruction set."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from support.arrays import as_float64, as_numpy
from support.attention_cases import Case, attention_cases, largest_score

from farspan import _core
from farspan.testing import allowed_error, assert_close, assert_same_bits

KINDS = st.sampled_from(["torch", "numpy"])


@given(case=attention_cases(), kind=KINDS)
def test_attention_is_its_definition(backend: str, case: Case, kind: str) -> None:
    output, lse = case.call(kind, return_lse=True)
    truth, true_lse = case.reference(torch.float64, return_lse=True)
    dtype = case.arrays[0].dtype
    eager, eager_lse = case.reference(dtype, return_lse=True)
    score = largest_score(case)
    values = float(case.arrays[2].double().nan_to_num().abs().amax()) if case.arrays[2].numel() else 0.0
    name = str(dtype).removeprefix("torch.")
    allowed = allowed_error(truth, eager.double(), rounding=name, magnitude=values, largest_score=score)
    assert_close(as_float64(output), truth, allowed, "output")
    allowed = allowed_error(true_lse, eager_lse.double(), rounding="logit", magnitude=1 + score, largest_score=0)
    assert_close(as_float64(lse), true_lse, allowed, "lse")


@given(case=attention_cases())
def test_attention_has_the_same_bits_on_every_backend(case: Case) -> None:
    results = {}
    for machine, available in _core.cpu_info()[1]:
        if available:
            _core.force_cpu(machine)
            results[machine] = case.call(return_lse=True)
    _core.force_cpu(None)
    for machine, (output, lse) in results.items():
        first = results["portable"]
        assert_same_bits(as_numpy(output), as_numpy(first[0]), f"output, {machine} against portable")
        assert_same_bits(as_numpy(lse), as_numpy(first[1]), f"lse, {machine} against portable")
