"""`_core.attention_backward_of_heads`: gradients where heads of queries, of keys and of values lie side by side in one
array, bit for bit those of `attention_backward`, and what cannot be, by name."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.lib.stride_tricks import as_strided

import farspan
from farspan import _core
from farspan._backend import packed as packed_heads
from farspan._backend.hooks import Above, Gradients, Hooks
from farspan.testing import assert_same_bits

COUNTS = [(4, 2, 2), (8, 8, 8), (3, 1, 1)]
LENGTHS = {"dense": (7, 7, 7), "ragged": (1, 19, 0, 5)}
KINDS = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}
Array = np.ndarray


class Call:
    """What attention among packed heads `[tokens, heads, dim]` gave, as the binding takes it. Half types are bits."""

    def __init__(self, dtype: str, counts: tuple[int, int, int], dim: int, lengths: tuple[int, ...], **hooks: Any):
        draw = np.random.default_rng([*counts, dim, *lengths])
        self.dtype, self.counts = dtype, counts
        dense = len(set(lengths)) == 1
        self.time = lengths[0] if dense else None
        offsets = None if dense else np.cumsum([0, *lengths])
        self.hooks = Hooks(query_offsets=offsets, key_offsets=offsets, **hooks)

        def drawn(heads: int) -> Array:
            numbers = draw.standard_normal((sum(lengths), heads, dim)).astype(KINDS[dtype])
            return numbers if dtype == "float32" else numbers.view(np.uint16)

        self.heads, self.slope = drawn(sum(counts)), drawn(counts[0])
        self.output = np.zeros_like(self.slope)
        shape = self.batch(self.slope).shape[:-1]
        self.lse = np.zeros(shape if dense else (counts[0], sum(lengths)), np.float32)
        _core.attention(dtype, self.batch(self.output), self.lse, *self.parts(self.heads), self.hooks)

    def batch(self, packed: Array) -> Array:
        """`[batch, heads, time, dim]` of sequences of one length, in the same memory."""
        return packed if self.time is None else packed.reshape(-1, self.time, *packed.shape[1:]).swapaxes(1, 2)

    def parts(self, packed: Array) -> list[Array]:
        """Queries, keys and values, in the same memory."""
        return np.split(self.batch(packed), np.cumsum(self.counts)[:2], axis=1)

    def given(self) -> list[Array]:
        """Query, key, value, output and its gradient."""
        return [*self.parts(self.heads), self.batch(self.output), self.batch(self.slope)]

    def packed(self) -> Array:
        """The gradient as the binding under test writes it."""
        found = np.zeros_like(self.heads)
        above = Above(self.lse, None, "")
        _core.attention_backward_of_heads(self.dtype, self.batch(found), *self.given(), above, self.hooks)
        return found

    def apart(self) -> Array:
        """The same from arrays of their own, by `attention_backward`."""
        arrays = [x.copy() for x in self.given()]
        found = [np.zeros_like(x) for x in arrays[:3]]
        _core.attention_backward(
            self.dtype, Gradients(*found), *arrays, Above(self.lse, None, "query,key,value"), self.hooks
        )
        together = np.concatenate(found, axis=1)
        return together if self.time is None else together.swapaxes(1, 2).reshape(self.heads.shape)


@pytest.mark.parametrize("dtype", KINDS)
@pytest.mark.parametrize("counts", COUNTS, ids=str)
@pytest.mark.parametrize("dim", [1, 8, 24])
@pytest.mark.parametrize("layout", LENGTHS)
@pytest.mark.parametrize("causal", [True, False], ids=["causal", "both ways"])
def test_the_bits_are_those_of_heads_apart(
    dtype: str, counts: tuple[int, int, int], dim: int, layout: str, causal: bool
) -> None:
    call = Call(dtype, counts, dim, LENGTHS[layout], causal=causal)
    found = call.packed()
    assert_same_bits(found, call.apart(), "gradient")
    for name, part in zip(("query", "key", "value"), call.parts(found), strict=True):
        assert part.any() or (name != "value" and dim == 1), name


@pytest.mark.parametrize("layout", LENGTHS)
def test_hooks_count_as_they_do_for_heads_apart(layout: str) -> None:
    frequencies = np.float32([1.0, 0.1, 0.01])
    call = Call("float32", (4, 2, 2), 8, LENGTHS[layout], causal=True, left=3, inv_freq=frequencies, softcap=5.0)
    assert_same_bits(call.packed(), call.apart(), "gradient")


@pytest.mark.parametrize("layout", LENGTHS)
def test_what_training_calls_gives_the_same(layout: str) -> None:
    call = Call("float32", (4, 2, 2), 24, LENGTHS[layout], causal=True)
    mixed, lse = packed_heads.mix_heads(call.heads, packed_heads.Call(call.counts, call.time, call.hooks))
    assert_same_bits(mixed, call.output, "mixed")
    found = packed_heads.mix_heads_gradient(
        call.heads, packed_heads.Call(call.counts, call.time, call.hooks), mixed, lse, call.slope
    )
    assert_same_bits(found, call.apart(), "gradient")


# ------------------------------------------------------------------------------------------------------ what cannot be

CALL = Call("float32", (4, 2, 2), 8, (5, 5))
NAMES = ("query", "key", "value", "output", "output_gradient")


def refused(said: str, kind: type[farspan.Error] = farspan.ArgumentError, **changes: Any) -> None:
    """A call with these arguments in place of good ones is an error that says so."""
    good = dict(zip(NAMES, CALL.given(), strict=True))
    good |= {"gradient": CALL.batch(np.zeros_like(CALL.heads)), "dtype": "float32", "lse": CALL.lse,
             "lse_gradient": None, "hooks": CALL.hooks}  # fmt: skip
    assert changes.keys() <= good.keys()
    x = {**good, **changes}
    above = Above(x["lse"], x["lse_gradient"], "")
    with pytest.raises(kind, match=said):
        _core.attention_backward_of_heads(x["dtype"], x["gradient"], *(x[name] for name in NAMES), above, x["hooks"])


def zeros(*shape: int, dtype: Any = np.float32) -> Array:
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    "shape", [(2, 7, 5, 8), (2, 9, 5, 8), (10, 8, 8), (8,), (2, 8, 5, 9), (2, 8, 4, 8), (3, 8, 5, 8)], ids=str
)
def test_a_gradient_of_another_shape(shape: tuple[int, ...]) -> None:
    heads = r"\[4, 2, 2\] heads of queries, of keys and of values"
    given = re.escape(str(list(shape)))
    refused(rf"^gradient: expected shape \[2, 8, 5, 8\], {heads}, given shape {given}", gradient=zeros(*shape))


WHOLE = (2, 8, 5, 8)
MEMORY: dict[str, Callable[[], Array]] = {
    "sequences that overlap": lambda: as_strided(zeros(*WHOLE), WHOLE, (0, 160, 32, 4)),
    "heads that overlap": lambda: as_strided(zeros(*WHOLE), WHOLE, (1280, 32, 32, 4)),
    "numbers that overlap": lambda: as_strided(zeros(*WHOLE), WHOLE, (1280, 160, 32, 0)),
    "heads backwards": lambda: zeros(*WHOLE)[:, ::-1],
    "columns in place of rows": lambda: zeros(2, 8, 8, 5).swapaxes(2, 3),
}  # fmt: skip


@pytest.mark.parametrize("memory", MEMORY)
def test_memory_that_no_gradient_can_be_written_to(memory: str) -> None:
    refused("^gradient: ", gradient=MEMORY[memory]())


def test_memory_of_others_is_not_written_to() -> None:
    locked = zeros(*WHOLE)
    locked.flags.writeable = False
    refused("^gradient: expected memory of its own, given a read-only array", gradient=locked)
    refused("^query: .* overlaps another argument", gradient=CALL.batch(CALL.heads))
    shared = zeros(*WHOLE)
    refused("^output: .* overlaps another argument", gradient=shared, output=shared[:, :4])
    refused("^output_gradient: .* overlaps another argument", gradient=shared, output_gradient=shared[:, 4:])


def test_arrays_of_other_shapes() -> None:
    query, key, value, output, slope = CALL.given()
    refused(r"^gradient: expected shape \[2, 7, 5, 8\], \[3, 2, 2\] heads", query=query[:, :3])
    refused("^key: expected heads that divide query's 3", query=query[:, :3], gradient=zeros(2, 7, 5, 8))
    refused("^value: ", value=value[:, :1], gradient=zeros(2, 7, 5, 8))
    refused("^key: ", key=key[:, :, :, :7])
    refused("^query: expected an axis of heads behind the first", query=zeros(5))
    refused(r"^output: expected shape \[2, 4, 5, 8\], given shape \[2, 3, 5, 8\]", output=output[:, :3])
    refused(
        r"^output_gradient: expected shape \[2, 4, 5, 8\], given shape \[2, 4, 4, 8\]", output_gradient=slope[:, :, :4]
    )
    refused(r"^lse: expected .*\[2, 4, 5\], given \[2, 3, 5\]", lse=CALL.lse[:, :3])
    refused(r"^lse_gradient: expected .*\[2, 4, 5\], given \[2, 4, 4\]", lse_gradient=CALL.lse[:, :, :4])


@pytest.mark.parametrize("name", ["gradient", *NAMES, "lse", "lse_gradient"])
def test_arrays_of_another_dtype(name: str) -> None:
    good = dict(zip(NAMES, CALL.given(), strict=True))
    good |= {"gradient": zeros(*WHOLE), "lse": CALL.lse, "lse_gradient": CALL.lse}
    refused(f"^{name}: expected float32, given float64", farspan.DtypeError, **{name: good[name].astype(np.float64)})
    refused(f"^{name}: expected an array", farspan.DtypeError, **{name: "numbers"})


def test_what_has_no_gradient() -> None:
    refused("^query: expected float32, bfloat16 or float16, given float64", farspan.DtypeError, dtype="float64")
    refused("^query_offsets: expected key_offsets too", hooks=Hooks(query_offsets=np.array([0, 5])))
    paged = Hooks(block_table=np.zeros((2, 1), np.int64), key_lengths=np.array([5, 5]))
    refused("^block_table: .* no gradient is known", farspan.BackendError, hooks=paged)
