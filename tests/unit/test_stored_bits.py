"""Results have the bits that are stored, on every instruction set and on the emulated kernels."""

from __future__ import annotations

import pytest
from support import stored_bits
from support.stored_bits import Case

CASES = stored_bits.cases()
SHARES = {name: [case for case in found if case.emulated] for name, found in CASES.items()}


def compare(operation: str, backend: str, found: list[Case]) -> None:
    stored = stored_bits.stored(backend).get(operation, {})
    assert sorted(stored) == sorted(case.name for case in found), "other cases than are stored"
    other = [case.name for case in found if case.digest() != stored[case.name]]
    assert not other, f"{len(other)} of {len(found)} results of {operation} have other bits: {other[:20]}"


@pytest.mark.parametrize("operation", CASES)
def test_results_have_the_stored_bits(instruction_set: str, operation: str) -> None:
    compare(operation, "cpu", CASES[operation])


@pytest.mark.parametrize("operation", [name for name, share in SHARES.items() if share])
def test_emulated_kernels_give_the_stored_bits(emulated: None, operation: str) -> None:
    compare(operation, "emulated", SHARES[operation])
