"""Hundreds of malformed calls: each raises a `farspan.Error` that names the argument. None may panic, crash or pass."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from numpy.lib.stride_tricks import as_strided

import farspan
from farspan import _core
from farspan._backend.hooks import Above, Hooks

B, H, G, N, M, D, ROWS, V = 2, 4, 2, 5, 9, 8, 3, 11
HUGE = 2**44


def ones(*shape: int, dtype: Any = np.float32) -> np.ndarray:
    return np.ones(shape, dtype)


def misaligned(x: np.ndarray) -> np.ndarray:
    """The same numbers one byte further on."""
    buffer = np.zeros(x.nbytes + 1, np.uint8)
    moved = buffer[1:].view(x.dtype).reshape(x.shape)
    moved[...] = x
    return moved


def packed_field(x: np.ndarray) -> np.ndarray:
    """The same numbers as a field of records whose size is no multiple of the element's."""
    records = np.zeros(x.shape, np.dtype([("tag", np.uint8), ("x", x.dtype)]))
    records["x"] = x
    return records["x"]


def bad_arrays(good: np.ndarray) -> Iterator[tuple[str, Any]]:
    """Everything that can be wrong with an array, whatever its meaning."""
    yield "a string", "abc"
    yield "an object", object()
    yield "a dict", {}
    yield "strings", np.full(good.shape, "x")
    yield "objects", good.astype(object)
    yield "booleans", good.astype(bool)
    yield "complex", good.astype(np.complex64)
    yield "dates", np.zeros(good.shape, "M8[s]")
    yield "the other byte order", good.astype(good.dtype.newbyteorder())
    yield "one dimension more", good[None]
    yield "misaligned", misaligned(good)
    yield "a packed field", packed_field(good)
    if good.ndim > 1 and good.shape[0] > 1:
        yield "a negative stride", np.ascontiguousarray(good[::-1])[::-1]
    if good.size > 1:
        yield "one dimension less", good[0]
        yield "an empty array", good[(slice(0, 1),) * good.ndim][..., :0]
    yield "forty dimensions", good.reshape(good.shape + (1,) * (40 - good.ndim))


def bad_floats(good: np.ndarray) -> Iterator[tuple[str, Any]]:
    yield from bad_arrays(good)
    for dtype in (np.int8, np.int32, np.int64, np.uint16, np.float64, np.longdouble, ml_dtypes.float8_e4m3fn):
        yield np.dtype(dtype).name, good.astype(dtype)


def bad_large(good: np.ndarray) -> Iterator[tuple[str, Any]]:
    yield from bad_floats(good)
    yield "None", None
    yield "a list", good.tolist()
    yield "another half type", good.astype(np.float16)
    yield "a tensor among arrays", torch.from_numpy(good)
    yield "a strided last dimension", np.repeat(good, 2, axis=-1)[..., ::2]
    yield "a repeated last dimension", np.broadcast_to(good[..., :1], good.shape)
    yield "a reversed last dimension", good[..., ::-1]


def bad_tables(good: np.ndarray) -> Iterator[tuple[str, Any]]:
    yield from bad_floats(good)
    yield "float16", good.astype(np.float16)
    yield "one element more", np.ones((*good.shape[:-1], good.shape[-1] + 1), good.dtype)


def bad_integers(good: np.ndarray) -> Iterator[tuple[str, Any]]:
    yield from bad_arrays(good)
    for dtype in (np.float32, np.float64, np.int8, np.uint8, np.uint32):
        yield np.dtype(dtype).name, good.astype(dtype)
    yield "one element more", np.zeros(good.shape[-1] + 1, good.dtype)


def bad_numbers() -> Iterator[tuple[str, Any]]:
    yield from (("a string", "x"), ("a number in a string", "1.0"), ("an object", object()), ("a list", [1.0, 2.0]))
    yield from (
        ("NaN", math.nan),
        ("infinity", math.inf),
        ("-infinity", -math.inf),
        ("complex", 1j),
        ("10**400", 10**400),
    )


def bad_counts() -> Iterator[tuple[str, Any]]:
    yield from (("a string", "3"), ("a float", 2.0), ("-1", -1), ("True", True), ("2**63", 2**63), ("-2**70", -(2**70)))
    yield from (("an array", np.arange(3)), ("NaN", math.nan), ("an object", object()))


# ------------------------------------------------------------------------------------------------------ the valid calls

ATTENTION = {"query": ones(B, H, N, D), "key": ones(B, G, M, D), "value": ones(B, G, M, D)}
RAGGED = {
    "query": ones(N, H, D),
    "key": ones(M, G, D),
    "value": ones(M, G, D),
    "query_offsets": np.array([0, 2, N]),
    "key_offsets": np.array([0, 4, M]),
}
PAGED = {
    "query": ones(B, H, N, D),
    "key": ones(7, G, 4, D),
    "value": ones(7, G, 4, D),
    "block_table": np.arange(2 * B).reshape(B, 2),
}
FAR = {"border": 2, "far_query_positions": np.arange(N), "far_key_positions": np.arange(M)}
ROTARY = {"inv_freq": ones(D // 2), **FAR}
TABLE = {"table": ones(H, 7)}
HIDDEN = {"hidden": ones(ROWS, D), "weight": ones(V, D)}
DRAWS = {"seed": np.arange(ROWS), "position": np.arange(ROWS), "stream": np.arange(ROWS), "temperature": ones(ROWS)}


def attention(**given: Any) -> Any:
    for name, wrapper in (("rotary", farspan.Rotary), ("distance_bias", farspan.DistanceBias)):
        if isinstance(given.get(name), dict):
            given[name] = wrapper(**given[name])
    return farspan.attention(**{**ATTENTION, **given})


def ragged(**given: Any) -> Any:
    return farspan.attention(**{**RAGGED, **given})


def paged(**given: Any) -> Any:
    return farspan.attention(**{**PAGED, **given})


def rotary(**given: Any) -> Any:
    return attention(rotary={**ROTARY, **given})


def statistics(**given: Any) -> Any:
    return farspan.attention_statistics(**{"query": ATTENTION["query"], "key": ATTENTION["key"], **given})


def distance_bias(**given: Any) -> Any:
    return attention(distance_bias={**TABLE, **given})


def unembed(operation: str) -> Callable[..., Any]:
    targets = {"targets": np.arange(ROWS)}
    more = {
        "sample": DRAWS,
        "score": targets,
        "top": {"k": 2},
        "linear_cross_entropy": targets,
        "divergence": {"target_hidden": ones(ROWS, D), "target_weight": ones(V, D)},
    }.get(operation, {})
    return lambda **given: getattr(farspan, operation)(**{**HIDDEN, **more, **given})


def linear(**given: Any) -> Any:
    return farspan.linear(**{"x": ones(ROWS, D), "weight": ones(V, D), **given})


# -------------------------------------------------------------------------------------------------------- what is wrong

UNEMBEDDING = ("greedy", "sample", "score", "top", "linear_cross_entropy", "divergence")

# call, argument, what is wrong with it
CASES: list[tuple[str, Callable[..., Any], str, Any]] = []


def add(
    call: Callable[..., Any], name: str, argument: str, bad: Iterator[tuple[str, Any]], *, fine: tuple[str, ...] = ()
) -> None:
    CASES.extend((f"{name}: {argument} is {label}", call, argument, x) for label, x in bad if label not in fine)


for call, name, shapes in (
    (attention, "attention", ATTENTION),
    (ragged, "ragged attention", RAGGED),
    (paged, "paged attention", PAGED),
):
    for argument in ("query", "key", "value"):
        add(call, name, argument, bad_large(shapes[argument]))
for argument in ("query", "key"):
    add(statistics, "statistics", argument, bad_large(ATTENTION[argument]))
add(statistics, "statistics", "key_lengths", bad_integers(np.full(B, M)))
for argument in ("query_offsets", "key_offsets"):
    add(ragged, "ragged attention", argument, bad_integers(RAGGED[argument]))
    wrong = {
        "falling": [0, 3, 2, 9],
        "too long": [0, 2, 10**6],
        "negative": [-1, 2, 5],
        "a start above 0": [1, 2, 5],
        "empty": [],
    }
    add(ragged, "ragged attention", argument, ((label, np.array(x, np.int64)) for label, x in wrong.items()))
broadcasts = ("one dimension less", "one dimension more")
add(attention, "attention", "sink", bad_tables(ones(H)), fine=broadcasts)
add(attention, "attention", "key_bias", bad_tables(ones(B, H, M)), fine=("one dimension less",))
add(attention, "attention", "query_scale", bad_tables(ones(B, H, N)), fine=("one dimension less",))
add(attention, "attention", "query_positions", bad_tables(ones(B, N)), fine=(*broadcasts, "int32", "int64"))
add(attention, "attention", "key_positions", bad_tables(ones(B, M)), fine=(*broadcasts, "int32", "int64"))
add(attention, "attention", "key_lengths", bad_integers(np.full(B, M)))
add(
    attention,
    "attention",
    "key_lengths",
    iter({"too long": np.array([M, M + 1]), "negative": np.array([-1, 2]), "huge": np.array([M, 2**62])}.items()),
)
add(paged, "paged attention", "block_table", bad_integers(PAGED["block_table"]))
add(
    paged,
    "paged attention",
    "block_table",
    iter(
        {"a page too far": np.full((B, 2), 7), "negative": np.full((B, 2), -1), "huge": np.full((B, 2), 2**62)}.items()
    ),
)
add(
    paged, "paged attention", "key_lengths", iter({"too long": np.array([8, 9]), "negative": np.array([-1, 2])}.items())
)
add(paged, "paged attention", "key_offsets", iter({"given": np.array([0, 4, M])}.items()))
add(attention, "attention", "keep_first", bad_counts())
add(attention, "attention", "window", bad_counts(), fine=("an array",))
add(
    attention,
    "attention",
    "window",
    iter(
        {
            "0": 0,
            "(1,)": (1,),
            "(1, 2, 3)": (1, 2, 3),
            "(-1, 0)": (-1, 0),
            "(0, 1.5)": (0, 1.5),
            "(2**64, 0)": (2**64, 0),
        }.items()
    ),
)
add(attention, "attention", "scale", bad_numbers())
add(attention, "attention", "softcap", bad_numbers())
add(attention, "attention", "softcap", iter({"0": 0.0, "negative": -2, "1e-60": 1e-60, "1e60": 1e60}.items()))
add(
    attention,
    "attention",
    "rotary",
    iter({"3": 3, "a dict in a list": [{}], "a DistanceBias": farspan.DistanceBias(ones(H, 2))}.items()),
)
add(
    attention,
    "attention",
    "distance_bias",
    iter({"3": 3, "a table": ones(H, 2), "a Rotary": farspan.Rotary(ones(2))}.items()),
)
add(rotary, "rotary", "inv_freq", bad_tables(ones(D // 2)), fine=(*broadcasts, "an empty array"))
add(
    rotary, "rotary", "inv_freq", iter({"of another batch": ones(B + 1, 2), "of no dimension": np.float32(1.0)}.items())
)
add(rotary, "rotary", "magnitude", bad_numbers())
add(rotary, "rotary", "border", bad_numbers(), fine=("infinity", "-infinity"))
for argument in ("far_query_positions", "far_key_positions"):
    add(
        rotary,
        "rotary",
        argument,
        bad_tables(ROTARY[argument].astype(np.float32)),
        fine=(*broadcasts, "int32", "int64"),
    )
    add(rotary, "rotary", argument, iter({"None": None}.items()))
add(distance_bias, "distance_bias", "table", bad_floats(ones(H, 7)))
add(distance_bias, "distance_bias", "table", iter({"of other heads": ones(3, 7), "empty": ones(H, 0)}.items()))
add(distance_bias, "distance_bias", "minimum", bad_counts(), fine=("-1",))
for operation in UNEMBEDDING:
    call = unembed(operation)
    add(call, operation, "hidden", bad_large(HIDDEN["hidden"]), fine=broadcasts)
    add(call, operation, "weight", bad_large(HIDDEN["weight"]))
    add(call, operation, "bias", bad_tables(ones(V)))
    add(call, operation, "scale", bad_numbers())
    add(call, operation, "softcap", bad_numbers())
    add(call, operation, "valid_vocab", bad_counts())
    add(call, operation, "valid_vocab", iter({"past the vocabulary": V + 1}.items()))
for argument in ("seed", "position", "stream"):
    add(
        unembed("sample"),
        "sample",
        argument,
        bad_integers(np.arange(ROWS)),
        fine=("one dimension less", "misaligned", "a packed field", "the other byte order"),
    )
    add(
        unembed("sample"),
        "sample",
        argument,
        iter({"a float": 1.5, "NaN": math.nan, "True": True, "2**64": 2**64, "-2**64": -(2**64)}.items()),
    )
for argument in ("position", "stream"):
    add(
        unembed("sample"),
        "sample",
        argument,
        iter(
            {
                "2**32": 2**32,
                "-1": -1,
                "an array past 2**32": np.full(ROWS, 2**32),
                "a negative array": np.full(ROWS, -1),
            }.items()
        ),
    )
wrong = {
    "negative": -1.0,
    "NaN": math.nan,
    "infinity": math.inf,
    "complex": 1j,
    "NaN in a row": np.array([1, math.nan, 1]),
    "negative in a row": np.array([1.0, -1, 1]),
    "of other rows": ones(ROWS + 1),
    "a string": "x",
}
add(unembed("sample"), "sample", "temperature", iter(wrong.items()))
add(
    unembed("score"),
    "score",
    "targets",
    bad_integers(np.arange(ROWS)),
    fine=("one dimension less", "misaligned", "a packed field", "the other byte order"),
)
add(
    unembed("score"),
    "score",
    "targets",
    iter({"past the vocabulary": np.full(ROWS, V), "negative": np.full(ROWS, -1), "-1": -1, "None": None}.items()),
)
entropy, divergence = unembed("linear_cross_entropy"), unembed("divergence")
add(
    entropy,
    "linear_cross_entropy",
    "targets",
    bad_integers(np.arange(ROWS)),
    fine=("one dimension less", "misaligned", "a packed field", "the other byte order"),
)
wrong = {"past the vocabulary": np.full(ROWS, V), "negative": np.full(ROWS, -1), "-1": -1, "None": None}
add(entropy, "linear_cross_entropy", "targets", iter(wrong.items()))
add(entropy, "linear_cross_entropy", "class_weight", bad_tables(ones(V)))
for argument in ("label_smoothing", "z_loss"):
    add(entropy, "linear_cross_entropy", argument, bad_numbers())
add(entropy, "linear_cross_entropy", "label_smoothing", iter({"-0.1": -0.1, "1.1": 1.1}.items()))
wrong = {"a float": 1.5, "NaN": math.nan, "True": True, "2**64": 2**64, "a string": "x"}
add(entropy, "linear_cross_entropy", "ignore_index", iter(wrong.items()))
add(entropy, "linear_cross_entropy", "reduction", iter({"unknown": "median", "None": None, "a number": 1}.items()))
add(divergence, "divergence", "target_hidden", bad_large(ones(ROWS, D)), fine=broadcasts)
add(divergence, "divergence", "target_weight", bad_large(ones(V, D)), fine=("None",))
add(divergence, "divergence", "target_bias", bad_tables(ones(V)))
add(divergence, "divergence", "temperature", bad_numbers())
add(divergence, "divergence", "temperature", iter({"0": 0, "negative": -1.0, "2**-140": 2.0**-140}.items()))
add(unembed("top"), "top", "k", bad_counts())
add(unembed("top"), "top", "k", iter({"past the vocabulary": V + 1, "2**62": 2**62, "None": None}.items()))
add(linear, "linear", "x", bad_large(ones(ROWS, D)), fine=(*broadcasts, "another half type"))
add(linear, "linear", "weight", bad_large(ones(V, D)), fine=("another half type",))
add(linear, "linear", "bias", bad_tables(ones(V)))

# What a message may call an argument that belongs to another one or is compared with it.
ALSO = {
    "query": "key|query_offsets",
    "key": "value|query",
    "value": "key",
    "table": "distance_bias",
    "hidden": "weight|seed|targets|target_hidden",
    "target_hidden": "target_weight",
    "target_weight": "target_hidden",
    "weight": "hidden|x|k",
    "border": "rotary",
    "far_query_positions": "border",
    "far_key_positions": "border",
    "query_offsets": "key_offsets",
    "key_offsets": "query_offsets",
}


@pytest.mark.parametrize(("call", "argument", "bad"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_malformed_argument(call: Callable[..., Any], argument: str, bad: Any) -> None:
    with pytest.raises(farspan.Error) as caught:
        call(**{argument: bad})
    assert "internal failure" not in str(caught.value)
    names = f"{argument}|{ALSO[argument]}" if argument in ALSO else argument
    assert re.search(rf"\b({names})\b", str(caught.value)), f"the message names another argument: {caught.value}"


@pytest.mark.parametrize(
    "call",
    [attention, ragged, paged, rotary, distance_bias, linear, *map(unembed, UNEMBEDDING)],
)
def test_the_calls_that_were_spoilt_are_fine(call: Callable[..., Any]) -> None:
    call()


def test_there_are_hundreds() -> None:
    assert len(CASES) > 500


# ----------------------------------------------------------------------------------------------------- sizes and memory


def repeated(shape: tuple[int, ...]) -> np.ndarray:
    """An array of any size in the memory of its last dimension."""
    return np.broadcast_to(ones(shape[-1]), shape)


HUGE_CALLS = {
    "batch": lambda: farspan.attention(repeated((HUGE, H, N, D)), repeated((HUGE, G, M, D)), repeated((HUGE, G, M, D))),
    "queries": lambda: farspan.attention(repeated((1, H, HUGE, D)), repeated((1, G, M, D)), repeated((1, G, M, D))),
    "key positions": lambda: farspan.attention(
        ones(1, 1, 1, D), repeated((1, 1, HUGE, D)), repeated((1, 1, HUGE, D)), key_positions=repeated((HUGE, 1))[:, 0]
    ),
    "rows": lambda: farspan.greedy(repeated((HUGE, D)), ones(V, D)),
    "rows of two axes": lambda: farspan.greedy(repeated((2**22, 2**22, D)), ones(V, D)),
    "linear": lambda: farspan.linear(repeated((HUGE, D)), ones(V, D)),
}


@pytest.mark.parametrize("name", HUGE_CALLS)
def test_a_result_that_no_memory_holds(name: str) -> None:
    with pytest.raises(farspan.Error):
        HUGE_CALLS[name]()


def test_no_query_of_a_huge_batch() -> None:
    shape = (HUGE, H, 0, D)
    output = farspan.attention(repeated(shape), repeated((HUGE, G, M, D)), repeated((HUGE, G, M, D)))
    assert output.shape == shape


def test_overlapping_inputs_are_read_as_they_are() -> None:
    """Sliding rows of one buffer overlap; for an input that is unusual but harmless."""
    buffer = np.random.default_rng(0).standard_normal(M + D - 1).astype(np.float32)
    sliding = as_strided(buffer, (B, G, M, D), (0, 0, 4, 4))
    for key, value in ((sliding, ATTENTION["value"]), (ATTENTION["key"], sliding)):
        expected = attention(key=key.copy(), value=value.copy())
        assert (attention(key=key, value=value) == expected).all()


def core_attention(output: Any, lse: Any = None) -> None:
    _core.attention("float32", output, ones(B, H, N) if lse is None else lse, *ATTENTION.values(), Hooks())


def test_outputs_that_cannot_be_written() -> None:
    output = ones(B, H, N, D)
    core_attention(output)
    locked = ones(B, H, N, D)
    locked.flags.writeable = False
    shared = ATTENTION["query"].copy()
    bad = {
        "read-only": locked,
        "overlapping": as_strided(ones(D + N), (B, H, N, D), (0, 0, 4, 4)),
        "repeated": as_strided(ones(D), (B, H, N, D), (0, 0, 0, 4)),
        "of another shape": ones(B, H, N, D + 1),
        "of another dtype": ones(B, H, N, D, dtype=np.float64),
        "misaligned": misaligned(output),
        "reversed": ones(B, H, N, D)[::-1],
        "no array": None,
    }
    for what, x in bad.items():
        with pytest.raises(farspan.Error, match="output"):
            core_attention(x)
        assert what
    with pytest.raises(farspan.Error, match="overlaps"):
        _core.attention("float32", shared, ones(B, H, N), shared, ATTENTION["key"], ATTENTION["value"], Hooks())
    with pytest.raises(farspan.Error, match="lse"):
        core_attention(output, lse=ones(B, H, N + 1))
    repeated = as_strided(ones(V), (ROWS, V), (0, 4))
    with pytest.raises(farspan.Error, match="do not overlap"):
        _core.linear("float32", "float32", repeated, ones(ROWS, D), ones(V, D), None)


def test_a_gradient_of_heads_that_does_not_fit() -> None:
    output = ones(B, H, N, D)
    bad = {
        r"^gradient: expected .*, 2, 2.* heads": (B, H + 2 * G + 1, N, D),
        r"^gradient: ": (B, H, N),
        r"^key: ": (B, H + 2 * G, N, D),
    }
    for says, shape in bad.items():
        with pytest.raises(farspan.Error, match=says):
            _core.attention_backward_of_heads(
                "float32", ones(*shape), *ATTENTION.values(), output, output, Above(ones(B, H, N), None, ""), Hooks()
            )


def test_messages_say_what_was_expected_and_given() -> None:
    with pytest.raises(farspan.ArgumentError, match=r"key_bias: expected .*\[2, 4, 9\].*, given .*\[2, 4, 10\]"):
        attention(key_bias=ones(B, H, M + 1))
    with pytest.raises(farspan.DtypeError, match="key: expected float32, as query has, given float16"):
        attention(key=ones(B, G, M, D, dtype=np.float16))


def test_classes_are_also_pythons() -> None:
    assert issubclass(farspan.ArgumentError, ValueError)
    assert issubclass(farspan.DtypeError, TypeError)
    assert issubclass(farspan.BackendError, RuntimeError)
    assert issubclass(farspan.CheckpointError, ValueError)
    for name in ("ArgumentError", "DtypeError", "BackendError", "CheckpointError"):
        assert issubclass(getattr(farspan, name), farspan.Error)
        assert getattr(farspan, name).__module__ == "farspan"


@pytest.mark.parametrize("name", ["", "amx9", "AVX2", "portable "])
def test_an_unknown_instruction_set(name: str) -> None:
    with pytest.raises(farspan.BackendError, match="FARSPAN_CPU"):
        _core.force_cpu(name)


@pytest.mark.parametrize("n", [0, -1, 10**9, 1.5, "2", None])
def test_a_number_of_threads_that_cannot_be(n: Any) -> None:
    with pytest.raises(farspan.Error, match=r"\bn\b"):
        farspan.set_num_threads(n)
