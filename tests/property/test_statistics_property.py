"""`farspan.attention_statistics` against its definition in float64, on every backend."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from support.arrays import as_float64, as_numpy
from support.attention_cases import Case, attention_cases, largest_score

from farspan import AttentionStatistics, _core
from farspan.testing import allowed_error, assert_close, assert_same_bits

KINDS = st.sampled_from(["torch", "numpy"])


@given(case=attention_cases(), kind=KINDS)
def test_statistics_are_their_definition(backend: str, case: Case, kind: str) -> None:
    found = case.statistics(kind)
    assert isinstance(found, AttentionStatistics)
    truth, eager = case.defined_statistics(torch.float64), case.defined_statistics(case.arrays[0].dtype)
    score, orders = largest_score(case), case.orders()
    for name, result in found._asdict().items():
        exact, plain = getattr(truth, name), getattr(eager, name).double()
        magnitude = {"lse": 1 + score, "entropy": 8.0, "distance": orders}.get(name, 1.0)
        of_score = 0.0 if name == "lse" else score
        allowed = allowed_error(exact, plain, rounding="logit", magnitude=magnitude, largest_score=of_score)
        assert_close(as_float64(result), exact, allowed, name)


@given(case=attention_cases())
def test_statistics_have_the_same_bits_on_every_backend_and_the_lse_of_attention(case: Case) -> None:
    results = {}
    for machine, available in _core.cpu_info()[1]:
        if available:
            _core.force_cpu(machine)
            results[machine] = case.statistics()
    _core.force_cpu(None)
    first = results["portable"]
    for machine, found in results.items():
        for name, one, other in zip(found._fields, found, first, strict=True):
            assert_same_bits(as_numpy(one), as_numpy(other), f"{name}, {machine} against portable")
    assert_same_bits(as_numpy(first.lse), as_numpy(case.call(return_lse=True)[1]), "lse, against attention's")


@given(case=attention_cases(dtypes=("float32",)))
def test_statistics_lie_where_shares_do(backend: str, case: Case) -> None:
    found = {name: as_float64(x) for name, x in case.statistics()._asdict().items()}
    seen = ~torch.from_numpy(found["lse"]).isnan().numpy()
    for name in ("largest", "first", "sink"):
        assert (found[name][seen] >= 0).all(), name
        assert (found[name][seen] <= 1 + 1e-6).all(), name
    assert (found["first"][seen] <= found["largest"][seen]).all()
    assert (found["entropy"][seen] >= 0).all()
