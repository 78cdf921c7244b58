"""`linear_cross_entropy`, `divergence`, and their gradients and those of `score`, against their definitions in float64
under autograd, on every backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.arrays import DTYPES, as_float64, as_kind, as_numpy, lay_out

import farspan
from farspan import reference
from farspan.testing import ROUNDING, allowed_error, assert_close, assert_same_bits

GIVEN = ("hidden", "weight", "bias")


class Case(NamedTuple):
    """A loss, and what gradients are asked of."""

    name: str
    tensors: dict[str, torch.Tensor]
    """hidden, weight and perhaps bias."""
    positional: tuple[Any, ...]
    options: dict[str, Any]
    upstream: dict[str, torch.Tensor]
    """The gradients of the results, by name; of the loss by its own."""

    def run(self, module: Any, tensors: dict[str, Any], kind: str = "torch") -> dict[str, Any]:
        """The results by name."""
        positional = [as_kind(x, kind) for x in self.positional]
        options = {name: as_kind(x, kind) for name, x in self.options.items()}
        found = getattr(module, self.name)(
            tensors["hidden"], tensors["weight"], *positional, bias=tensors.get("bias"), **options
        )
        if self.name == "score":
            return {name: getattr(found, name) for name in self.upstream}
        return {self.name: found}

    def wide(self, dtype: torch.dtype) -> Case:
        """The same with the target's side in another dtype."""
        change = [x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in self.positional]
        return self._replace(positional=tuple(change))

    def gradients(self, module: Any, dtype: torch.dtype | None = None) -> tuple[dict[str, Any], dict[str, Any]]:
        """The results, and the gradients of the tensors."""
        case = self if dtype is None else self.wide(dtype)
        given = {
            name: (x if dtype is None else x.to(dtype)).detach().requires_grad_() for name, x in self.tensors.items()
        }
        results = case.run(module, given)
        upstream = [self.upstream[name].to(x.dtype) for name, x in results.items()]
        found = torch.autograd.grad(list(results.values()), list(given.values()), upstream)
        return {name: x.detach() for name, x in results.items()}, dict(zip(given, found, strict=True))


ROWS = st.sampled_from([(), (0,), (1,), (2,), (3, 2), (7,), (17,), (40,), (101,)])
VOCABS = st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 257, 383, 384, 385, 700, 1025]))
DIMS = st.sampled_from([1, 2, 7, 15, 16, 17, 33, 64, 100])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    make = torch.Generator().manual_seed(draw(st.integers(0, 2**32), label="numbers"))
    rows, vocab, dim = draw(ROWS, label="rows"), draw(VOCABS, label="vocab"), draw(DIMS, label="dim")
    dtype = DTYPES[draw(st.sampled_from(list(DTYPES)), label="dtype")]
    sharp = draw(st.sampled_from([0.1, 1.0, 5.0, 30.0]), label="sharp")

    def matrix(shape: tuple[int, ...], size: float, label: str) -> torch.Tensor:
        layouts = ["plain", "padded", "expanded"] if label == "hidden" and rows else ["plain", "padded"]
        x = (torch.randn(*shape, generator=make) * size).to(dtype)
        return lay_out(x, draw(st.sampled_from(layouts), label=label))

    tensors = {
        "hidden": matrix((*rows, dim), 1.0, "hidden"),
        "weight": matrix((vocab, dim), sharp * dim**-0.5, "weight"),
    }
    options: dict[str, Any] = {}
    exist = vocab
    if draw(st.booleans(), label="scale"):
        options["scale"] = draw(st.sampled_from([0.3, -1.0, 2.0]))
    if draw(st.booleans(), label="softcap"):
        options["softcap"] = draw(st.sampled_from([2.0, 10.0, 50.0]))
    if draw(st.booleans(), label="valid_vocab"):
        options["valid_vocab"] = exist = draw(st.integers(1, vocab))
    if draw(st.booleans(), label="bias"):
        tensors["bias"] = torch.randn(vocab, generator=make)
    name = draw(st.sampled_from(["linear_cross_entropy", "score", "divergence"]), label="name")
    targets = torch.randint(0, exist, rows, generator=make)
    if name == "divergence":
        options["temperature"] = draw(st.sampled_from([0.5, 1.0, 3.0]))
        if draw(st.booleans(), label="another target"):
            size = draw(DIMS, label="target's dim")
            positional = (
                matrix((*rows, size), 1.0, "target_hidden"),
                matrix((vocab, size), sharp * size**-0.5, "target_weight"),
            )
            if draw(st.booleans(), label="target_bias"):
                options["target_bias"] = torch.randn(vocab, generator=make)
        else:
            positional = (matrix((*rows, dim), 1.0, "target_hidden"),)
        return Case(name, tensors, positional, options, {name: torch.randn(rows, generator=make)})
    if name == "score":
        top = min(exist, draw(st.sampled_from([0, 0, 3]), label="top"))
        options["top"] = top
        names = draw(st.lists(st.sampled_from(["logprob", "entropy", "lse"]), min_size=1, unique=True), label="fields")
        upstream = {field: torch.randn(rows, generator=make) for field in names}
        if top:
            upstream["top_logprob"] = torch.randn(*rows, top, generator=make)
        return Case(name, tensors, (targets,), options, upstream)
    options["ignore_index"] = ignored = draw(st.sampled_from([-100, -1, 0]), label="ignore_index")
    gone = torch.rand(rows, generator=make) < draw(st.sampled_from([0.0, 0.4, 1.0]), label="ignored")
    if rows and gone.any() and tensors["hidden"].stride(0) != 0 and draw(st.booleans(), label="NaN where ignored"):
        tensors["hidden"] = tensors["hidden"].clone()
        tensors["hidden"][gone] = torch.nan
        gone = gone.clone()
    targets = targets.masked_fill(gone, ignored)
    if draw(st.booleans(), label="label_smoothing"):
        options["label_smoothing"] = draw(st.sampled_from([0.1, 0.7, 1.0]))
    if draw(st.booleans(), label="class_weight"):
        options["class_weight"] = torch.rand(vocab, generator=make) + 0.1
    if draw(st.booleans(), label="z_loss"):
        options["z_loss"] = draw(st.sampled_from([1e-3, 0.2]))
    options["reduction"] = draw(st.sampled_from(["mean", "sum", "none"]), label="reduction")
    shape = rows if options["reduction"] == "none" else ()
    return Case(name, tensors, (targets,), options, {name: torch.randn(shape, generator=make)})


def truths(case: Case) -> tuple[Any, Any]:
    """Results and gradients in float64, and of the eager program in float32; ignored rows of NaN are left out of it."""
    clean = {name: x.nan_to_num() if name == "hidden" else x for name, x in case.tensors.items()}
    case = case._replace(tensors=clean)
    return case.gradients(reference, torch.float64), case.gradients(reference, torch.float32)


@given(case=cases())
def test_losses_and_their_gradients_are_their_definitions(backend: str, case: Case) -> None:
    (truth, right), (eager, plain) = truths(case)
    found, gradients = case.gradients(farspan)
    rules = {name: x for name, x in case.options.items() if name in ("scale", "softcap", "valid_vocab")}
    hidden, weight = (case.tensors[name].nan_to_num().double() for name in ("hidden", "weight"))
    logits = reference.logits(hidden, weight, bias=case.tensors.get("bias"), **rules)
    largest = float(logits.abs().max()) if logits.numel() else 0.0
    cold = 1 / min(1.0, case.options.get("temperature", 1.0))
    rows = max(1, logits[..., 0].numel()) if case.options.get("reduction") == "sum" else 1
    for name, result in found.items():
        assert result.dtype == torch.float32
        size = (1 + largest) * cold * (1 + case.options.get("z_loss", 0.0) * largest)
        size *= rows
        allowed = allowed_error(truth[name], eager[name].double(), rounding="logit", magnitude=4 * size)
        assert_close(result, truth[name], allowed, name)
    for name, gradient in gradients.items():
        tensor = case.tensors[name]
        assert (gradient.dtype, gradient.shape) == (tensor.dtype, tensor.shape)
        if not all(torch.isfinite(x).all() for x in truth.values()):
            continue
        size = float(right[name].abs().max()) if right[name].numel() else 0.0
        # What a slope is off by comes with the sizes of what it is multiplied with, which may cancel in the sum.
        terms = cold * sum(float(x.abs().sum()) for x in case.upstream.values()) * (1 + case.options.get("z_loss", 0.0))
        scale = abs(case.options.get("scale", 1.0)) if name != "bias" else 1.0
        other = {"hidden": weight, "weight": hidden}.get(name, torch.ones(1))
        terms *= scale * float(other.abs().max()) if other.numel() else 0.0
        floor = terms * 2.0**-21 * (1 + largest * cold) * (1 + largest * case.options.get("z_loss", 0.0))
        rounding = str(tensor.dtype).removeprefix("torch.")
        # There slopes are of the type of what they are multiplied with.
        if backend in ("emulated", "cuda") and name != "bias":
            floor += rows * terms * ROUNDING[rounding]
        allowed = allowed_error(right[name], plain[name].double(), rounding=rounding, magnitude=size) + floor
        assert_close(as_float64(gradient), right[name], allowed, f"{case.name}: gradient of {name}")


@given(case=cases())
def test_losses_have_the_same_bits_in_numpy(case: Case) -> None:
    if case.name == "score":
        return
    expected = case.run(farspan, case.tensors)[case.name]
    result = case.run(farspan, {name: as_kind(x, "numpy") for name, x in case.tensors.items()}, "numpy")[case.name]
    assert_same_bits(np.asarray(result), as_numpy(expected), case.name)


@given(case=cases(), data=st.data())
def test_threads_and_other_rows_show_in_no_bit(
    backend: str, threads: Callable[[int], None], case: Case, data: st.DataObject
) -> None:
    threads(2)
    found, gradients = case.gradients(farspan)
    threads(data.draw(st.sampled_from([1, 3]), label="threads"))
    for one, other in zip((found, gradients), case.gradients(farspan), strict=True):
        for name, x in one.items():
            assert_same_bits(as_numpy(x), as_numpy(other[name]), name)
    rows = case.tensors["hidden"].shape[:-1]
    if len(rows) != 1 or not rows[0] or case.options.get("reduction") == "mean":
        return
    row = data.draw(st.integers(0, rows[0] - 1), label="row")
    first, *rest = case.positional
    summed = case.options.get("reduction") == "sum"
    alone = case._replace(
        tensors=case.tensors | {"hidden": case.tensors["hidden"][row : row + 1]},
        positional=(first[row : row + 1], *rest),
        upstream=case.upstream if summed else {name: x[row : row + 1] for name, x in case.upstream.items()},
    )
    results, apart = alone.gradients(farspan)
    assert_same_bits(as_numpy(apart["hidden"]), as_numpy(gradients["hidden"][row : row + 1]), "gradient of hidden")
    if not summed:
        for name, x in results.items():
            assert_same_bits(as_numpy(x), as_numpy(found[name][row : row + 1]), name)


def test_losses_have_the_same_bits_on_every_instruction_set() -> None:
    from farspan import _core

    make = torch.Generator().manual_seed(1)
    tensors = {
        "hidden": torch.randn(130, 70, generator=make),
        "weight": torch.randn(900, 70, generator=make) / 8,
        "bias": torch.randn(900, generator=make),
    }
    options = {"label_smoothing": 0.1, "z_loss": 0.01, "softcap": 5.0, "class_weight": torch.rand(900, generator=make)}
    targets = torch.randint(0, 900, (130,), generator=make)
    case = Case("linear_cross_entropy", tensors, (targets,), options, {"linear_cross_entropy": torch.tensor(0.7)})
    results: dict[str, Any] = {}
    for machine, available in _core.cpu_info()[1]:
        if available:
            _core.force_cpu(machine)
            found, gradients = case.gradients(farspan)
            results[machine] = [*found.values(), *gradients.values()]
    _core.force_cpu(None)
    for machine, found in results.items():
        for one, other in zip(found, results["portable"], strict=True):
            assert_same_bits(as_numpy(one), as_numpy(other), f"{machine} against portable")


@pytest.mark.parametrize("filling", [1e30, 1e-30, 0.0])
def test_huge_and_tiny_numbers(filling: float) -> None:
    """Logits that exp cannot take, and products that underflow: what the definition gives."""
    hidden, weight = torch.full((3, 4), filling, requires_grad=True), torch.ones(5, 4)
    weight[1] = -1
    weight.requires_grad_()
    call = (hidden, weight, torch.tensor([0, 1, 2]))
    loss = farspan.linear_cross_entropy(*call, reduction="none")
    expected = reference.linear_cross_entropy(*call, reduction="none")
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    for found, right in zip(*(torch.autograd.grad(x.sum(), (hidden, weight)) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["linear_cross_entropy", "score", "divergence"])
def test_a_second_derivative_is_refused(name: str) -> None:
    hidden, weight = torch.randn(3, 8, requires_grad=True), torch.randn(11, 8, requires_grad=True)
    targets = torch.zeros(3, dtype=torch.int64)
    result = {
        "linear_cross_entropy": lambda: farspan.linear_cross_entropy(hidden, weight, targets),
        "score": lambda: farspan.score(hidden, weight, targets).entropy.sum(),
        "divergence": lambda: farspan.divergence(hidden, weight, torch.randn(3, 8)).sum(),
    }[name]()
    with pytest.raises(farspan.BackendError, match=f"no second derivative: farspan.{name} has a first one only"):
        torch.autograd.grad(result, hidden, create_graph=True)


def test_only_what_asks_gets_a_gradient() -> None:
    hidden, weight, bias = torch.randn(3, 8), torch.randn(11, 8), torch.randn(11)
    for asking in (hidden, weight, bias):
        for x in (hidden, weight, bias):
            x.requires_grad_(x is asking)
            x.grad = None
        farspan.linear_cross_entropy(hidden, weight, torch.zeros(3, dtype=torch.int64), bias=bias).backward()
        assert [x.grad is not None for x in (hidden, weight, bias)] == [x is asking for x in (hidden, weight, bias)]
