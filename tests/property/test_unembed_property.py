"""`greedy`, `sample`, `score` and `top` against their definitions in float64, on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.arrays import as_float64, as_kind, as_numpy, fields_of
from support.unembed_cases import Case, unembed_cases

import farspan
from farspan import _core, reference
from farspan.testing import allowed_error, assert_close, assert_same_bits

KINDS = st.sampled_from(["torch", "numpy"])
OPERATIONS = ("greedy", "sample", "score", "top")


def run(case: Case, operation: str, kind: str) -> Any:
    more, options = case.arguments(operation)
    arrays = (as_kind(x, kind) for x in (case.hidden, case.weight, *more))
    return getattr(farspan, operation)(*arrays, **{name: as_kind(x, kind) for name, x in options.items()})


def definition(case: Case, operation: str, dtype: torch.dtype) -> Any:
    more, options = case.arguments(operation)
    return getattr(reference, operation)(case.hidden.to(dtype), case.weight.to(dtype), *more, **options)


class Allowed:
    """The bounds of one case: of a logit, and of numbers made of many."""

    def __init__(self, case: Case) -> None:
        self.logits = reference.logits(case.hidden.double(), case.weight.double(), **case.rules)
        eager = reference.logits(case.hidden.float(), case.weight.float(), **case.rules)
        finite = self.logits[self.logits.isfinite()].abs()
        self.size = 1.0 + (float(finite.max()) if finite.numel() else 0.0)
        self.logit = allowed_error(self.logits, eager.double(), rounding="logit", magnitude=self.size)
        self.sum = 3 * self.logit


def check_draw(case: Case, operation: str, result: farspan.Sample, truth: farspan.Sample, allowed: Allowed) -> None:
    """Every field, where the two best tokens of a row lie further apart than a logit may be off."""
    temperature = torch.as_tensor(case.draws["temperature"] if operation == "sample" else 0.0).double()
    temperature = temperature.expand(case.hidden.shape[:-1])
    warm = temperature > 0
    scaled = allowed.logits / temperature.where(warm, 1)[..., None]
    if operation == "sample":
        keys = [case.draws[name] for name in ("seed", "position", "stream")]
        g = torch.from_numpy(reference.noise(*keys, np.arange(scaled.shape[-1]))).expand_as(scaled)
        scaled = torch.where(warm[..., None], scaled + g, scaled)
    best = scaled.nan_to_num(-torch.inf, neginf=-torch.inf, posinf=torch.inf).topk(min(2, scaled.shape[-1])).values
    margin = best[..., 0] - best[..., 1] if best.shape[-1] > 1 else torch.full(warm.shape, torch.inf).double()
    slack = (2 * allowed.logit / temperature.where(warm, 1).clamp(max=1.0)) + torch.where(warm, 4e-6, 0.0)
    clear = ((margin > slack) | (truth.flag != 0)).numpy()

    assert (as_numpy(result.flag) == truth.flag.numpy()).all(), f"{operation}: flags"
    wrong = clear & (as_numpy(result.token) != truth.token.numpy())
    assert not wrong.any(), (
        f"{operation}: tokens {as_numpy(result.token)[wrong]}, expected {truth.token.numpy()[wrong]}"
    )
    assert_close(result.lse, truth.lse, allowed.sum, f"{operation}: lse")
    raw, true_raw = as_float64(result.raw_logprob), truth.raw_logprob.numpy()
    assert_close(np.where(clear, raw, 0), np.where(clear, true_raw, 0), allowed.sum, f"{operation}: raw_logprob")
    coldness = float(temperature[warm].clamp(max=1.0).min()) if warm.any() else 1.0
    drawn, true_drawn = as_float64(result.logprob), truth.logprob.numpy()
    assert_close(
        np.where(clear, drawn, 0), np.where(clear, true_drawn, 0), allowed.sum / coldness, f"{operation}: logprob"
    )


@given(case=unembed_cases(), kind=KINDS)
def test_unembedding_is_its_definition(backend: str, case: Case, kind: str) -> None:
    allowed = Allowed(case)
    for operation in ("greedy", "sample"):
        check_draw(case, operation, run(case, operation, kind), definition(case, operation, torch.float64), allowed)

    result, truth = run(case, "score", kind), definition(case, "score", torch.float64)
    assert_close(result.logprob, truth.logprob, allowed.sum, "score: logprob")
    assert_close(result.entropy, truth.entropy, allowed.sum * 8, "score: entropy")
    assert_close(result.lse, truth.lse, allowed.sum, "score: lse")
    chosen = allowed.logits.gather(-1, case.targets[..., None])
    fewest, most = ((allowed.logits > chosen + sign * 2 * allowed.logit).sum(-1).numpy() for sign in (1, -1))
    rank, flawed = as_numpy(result.rank), truth.rank.numpy() < 0
    banned = chosen[..., 0].isneginf().numpy()
    assert (flawed | banned | ((fewest <= rank) & (rank <= most))).all(), f"score: rank {rank}, expected {truth.rank}"
    assert (rank == truth.rank.numpy())[flawed | banned].all(), "score: rank of a flawed row or of a banned target"
    if truth.top_token is None:
        assert result.top_token is None
        assert result.top_logprob is None
    else:
        listed = as_numpy(run(case, "top", kind).token)[..., : truth.top_token.shape[-1]]
        assert (as_numpy(result.top_token) == listed).all(), "score: the list is that of top"
        assert_close(result.top_logprob, truth.top_logprob, allowed.sum, "score: top_logprob")

    result, truth = run(case, "top", kind), definition(case, "top", torch.float64)
    assert_close(result.logit, truth.logit, allowed.logit, "top: logit")
    token = torch.from_numpy(as_numpy(result.token).copy())
    fine = token >= 0
    assert (fine.numpy() == (truth.token >= 0).numpy()).all(), "top: tokens of a flawed row"
    belonging = allowed.logits.gather(-1, token.clamp(min=0)).where(fine, torch.nan)
    assert_close(result.logit, belonging, allowed.logit, "top: logits that belong to the tokens")
    ordered = token[fine.all(-1)].sort(-1).values
    assert (ordered[..., 1:] != ordered[..., :-1]).all(), "top: tokens repeat"


@given(case=unembed_cases())
def test_unembedding_has_the_same_bits_on_every_backend(case: Case) -> None:
    results: dict[str, list[Any]] = {}
    for machine, available in _core.cpu_info()[1]:
        if available:
            _core.force_cpu(machine)
            results[machine] = [
                x for operation in OPERATIONS for x in fields_of(run(case, operation, "torch")).values()
            ]
    _core.force_cpu(None)
    for machine, fields in results.items():
        for field, expected in zip(fields, results["portable"], strict=True):
            assert_same_bits(as_numpy(field), as_numpy(expected), f"{machine} against portable")
