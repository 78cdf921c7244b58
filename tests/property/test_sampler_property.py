"""Every combination of sampler settings against its definition in float64, on every backend.

Logits are exact, so what is left to rounding are exponentials, their sums and the noise. A draw is compared where no
decision of the definition lies within BORDER of its border and the winner leads by LEAD; nearly all do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.arrays import as_float64, as_kind, as_numpy, fields_of
from support.emulated import emulated_kernels
from support.sampler_cases import Case, sampler_cases

import farspan
from farspan import _core, reference
from farspan.reference import sampler
from farspan.testing import assert_close, assert_same_bits

BORDER, LEAD, EQUAL = 2e-5, 1e-4, 1e-5
THRESHOLDS = ("top_p", "min_p", "typical", "epsilon", "eta", "top_h", "top_n_sigma", "xtc_threshold")
OFF = sampler.RowSettings(xtc_threshold=-1.0)


def of_kind(value: Any, kind: str) -> Any:
    return tuple(as_kind(x, kind) for x in value) if isinstance(value, tuple) else as_kind(value, kind)


def run(case: Case, kind: str) -> farspan.Sample:
    settings = {name: of_kind(value, kind) for name, value in case.settings.items()}
    return farspan.sample(as_kind(case.hidden, kind), as_kind(case.weight, kind), **settings)


def on_emulator(case: Case, kind: str) -> farspan.Sample:
    """The result of the CUDA kernels; ranks are counted while these are in place."""
    with emulated_kernels():
        result = run(case, kind)
        assert result.rank is not None
    return result


def on_every_machine(case: Case, kind: str) -> farspan.Sample:
    """The result, which must have the same bits on all of them."""
    results = {}
    for machine, available in _core.cpu_info()[1]:
        if available:
            _core.force_cpu(machine)
            results[machine] = run(case, kind)
    _core.force_cpu(None)
    for machine, result in results.items():
        expected = fields_of(results["portable"])
        for name, field in fields_of(result).items():
            assert_same_bits(as_numpy(field), as_numpy(expected[name]), f"{name}, {machine} against portable")
    return results["portable"]


class Truth:
    """The definition's result, its logits, and how clear its decisions are."""

    def __init__(self, case: Case) -> None:
        rows, settings = len(case.logits), dict(case.settings)
        self.sample = reference.sample(case.hidden.double(), case.weight.double(), **settings)
        self.samples = settings.pop("samples")
        settings.pop("top")
        keys = [torch.as_tensor(settings.pop(name)) for name in ("seed", "position", "stream")]
        self.temperature = torch.as_tensor(settings["temperature"]).double().expand(rows)
        changes = {name: value for name, value in settings.items() if name != "temperature"}
        self.logits = sampler.changed_rows(torch.from_numpy(case.logits), changes)
        self.clear = np.zeros((rows, self.samples), bool)
        per_row = sampler._row_settings(settings, rows)
        for row, own in enumerate(per_row):
            for i in range(self.samples):
                key = [int(x[row]) for x in keys]
                key[2] = (key[2] + i) % 2**32
                self.clear[row, i] = self._clear(self.logits[row], own, *key)

    def _clear(self, l: torch.Tensor, own: sampler.RowSettings, *key: int) -> bool:
        if own.temperature == 0 or not l.isfinite().any():
            return True
        draw = dict(zip(("seed", "position", "stream"), key, strict=True))
        kept = sampler.kept(l, own, **draw)
        for sign in (-1, 1):
            used = [(name, getattr(own, name)) for name in THRESHOLDS if getattr(own, name) != getattr(OFF, name)]
            moved = [replace(own, **{name: value * (1 + sign * BORDER)}) for name, value in used]
            others = [sampler.kept(l, other, **draw) for other in moved]
            others.append(sampler.kept(l * (1 + sign * BORDER / 20), own, **draw))
            if any(not torch.equal(kept, other) for other in others):
                return False
        g = torch.from_numpy(reference.noise(*key[:2], key[2], np.arange(len(l))))
        scores = (l / own.temperature + g)[kept].topk(min(2, int(kept.sum()))).values
        return len(scores) < 2 or bool(scores[0] - scores[1] > LEAD / min(own.temperature, 1.0))


def check_row(row: int, result: dict[str, np.ndarray], truth: Truth) -> None:
    """Fields of a row that has a token."""
    l = truth.logits[row].numpy()
    expected = {name: field[row].numpy() for name, field in fields_of(truth.sample).items()}
    size = 1 + np.abs(l[np.isfinite(l)]).max()
    allowed = 1e-5 * size
    assert_close(result["lse"][row], expected["lse"], allowed, "lse")
    assert_close(result["entropy"][row], expected["entropy"], 4 * allowed, "entropy")
    if truth.clear[row, 0]:
        assert result["kept"][row] == expected["kept"], f"kept {result['kept'][row]}, expected {expected['kept']}"
        assert_close(result["kept_mass"][row], expected["kept_mass"], 1e-5, "kept_mass")
    warmth = float(truth.temperature[row]) or 1.0
    clear = truth.clear[row]
    drawn = {name: np.reshape(result[name][row], -1) for name in ("token", "logprob", "raw_logprob", "logit", "rank")}
    wanted = {name: np.reshape(expected[name], -1) for name in drawn}
    for i, token in enumerate(drawn["token"]):
        assert np.isfinite(l[token]), f"token {token} is banned"
        gap = l - l[token]
        near = int(((np.abs(gap) <= EQUAL) & (gap != 0)).sum())
        least = int(((gap > EQUAL) | ((gap == 0) & (np.arange(len(l)) < token))).sum())
        assert least <= drawn["rank"][i] <= least + near, f"rank {drawn['rank'][i]}, expected {least} to {least + near}"
        assert_close(drawn["logit"][i], l[token], allowed, "logit")
        assert_close(drawn["raw_logprob"][i], l[token] - expected["lse"], 2 * allowed, "raw_logprob")
    assert (drawn["token"] == wanted["token"])[clear].all(), f"tokens {drawn['token']}, expected {wanted['token']}"
    slack = 3 * allowed / min(warmth, 1.0)
    assert_close(drawn["logprob"][clear], wanted["logprob"][clear], slack, "logprob")


def check_top(row: int, result: dict[str, np.ndarray], truth: Truth) -> None:
    """The list of a row: in order, of the right tokens, with their own log-probabilities."""
    l, lse = truth.logits[row].numpy(), float(truth.sample.lse[row])
    token, logprob = result["top_token"][row], result["top_logprob"][row]
    allowed = 2e-5 * (1 + np.abs(l[np.isfinite(l)]).max())
    assert_close(logprob, truth.sample.top_logprob[row], allowed, "top_logprob")
    assert_close(logprob, l[token] - lse, allowed, "top_logprob of the tokens listed")
    steps = np.diff(np.sort(l[np.isfinite(l)]))
    if not ((steps > 0) & (steps < EQUAL)).any():  # float32 may see what is nearly equal in another order
        assert (token == truth.sample.top_token[row].numpy()).all(), f"top_token {token}"


@pytest.mark.parametrize("draw", [on_every_machine, on_emulator], ids=["cpu", "emulated"])
def test_settings_are_their_definition(draw: Callable[[Case, str], farspan.Sample]) -> None:
    tally: Counter[str] = Counter()

    @given(case=sampler_cases(), kind=st.sampled_from(["torch", "numpy"]))
    def check(case: Case, kind: str) -> None:
        drawn = draw(case, kind)
        result = {name: as_float64(x) for name, x in fields_of(drawn).items()}
        for name in ("token", "rank", "kept", "flag", *(["top_token"] if "top_token" in result else [])):
            result[name] = result[name].astype(np.int64)
        truth = Truth(case)
        assert (result["flag"] == truth.sample.flag.numpy()).all(), f"flags {result['flag']}"
        for row, flag in enumerate(result["flag"]):
            if flag:
                assert (np.reshape(result["token"][row], -1) == -1).all()
                assert result["kept"][row] == 0
                continue
            check_row(row, result, truth)
            if "top_token" in result:
                check_top(row, result, truth)
            tally["clear"] += int(truth.clear[row].sum())
            tally["draws"] += truth.samples
            tally["cut"] += int(0 < result["kept"][row] < int(truth.logits[row].isfinite().sum()))
            tally["rows"] += 1

    before = _core.second_passes()
    check()
    assert tally["clear"] >= 0.85 * tally["draws"], f"too few draws were clear: {tally}"
    assert tally["cut"] >= 0.3 * tally["rows"], f"too few rows were cut: {tally}"
    if draw is on_every_machine:
        assert _core.second_passes() > before, "no row was read a second time"
