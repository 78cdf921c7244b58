"""`farspan.attention` and the two small objects that it takes."""

from __future__ import annotations

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any

from farspan._backend import arrays
from farspan._backend.hooks import Hooks
from farspan._compute import compute
from farspan._errors import ArgumentError, DtypeError, message


@dataclass(frozen=True, eq=False)
class Rotary:
    """Rotation of queries and keys inside the attention tile (RoPE, Su et al. 2021).

        angle = position * inv_freq                                        # float64, so right at a million tokens
        first * cos(angle) - second * sin(angle), second * cos(angle) + first * sin(angle)     # each times magnitude

    `inv_freq` is `[r / 2]` or `[sequences, r / 2]`, float32, in radians per position. The first r dims turn, and the
    others stay as they are. Pairs are dims `(i, i + r / 2)`, or `(2i, 2i + 1)` when `interleaved`. Positions are the
    call's `query_positions` and `key_positions`. Where `query_position - key_position >= border` the score uses
    `far_query_positions` and `far_key_positions` instead (Self-Extend, ReRoPE). The arrays may be numpy arrays or
    tensors, whatever the query is.

    Raises:
        ArgumentError: `inv_freq` of another rank, or a `border` without both far positions (or the reverse).
    """

    inv_freq: Any
    _: KW_ONLY
    magnitude: float = 1.0
    interleaved: bool = False
    border: float | None = None
    far_query_positions: Any = None
    far_key_positions: Any = None

    def __post_init__(self) -> None:
        far = (self.border, self.far_query_positions, self.far_key_positions)
        if any(x is None for x in far) and not all(x is None for x in far):
            missing = [n for n in ("border", "far_query_positions", "far_key_positions") if getattr(self, n) is None]
            raise ArgumentError(
                message("border", "both far position arrays beside it", f"no {' and no '.join(missing)}")
            )
        if len(getattr(self.inv_freq, "shape", (0,))) not in (1, 2):
            raise ArgumentError(message("inv_freq", "shape [r / 2] or [batch, r / 2]", list(self.inv_freq.shape)))


@dataclass(frozen=True, eq=False)
class DistanceBias:
    """A bias looked up by distance (T5, KERPLE, symmetric ALiBi, Sandwich).

        score[h] += table[h, clamp(floor(query_position - key_position) - minimum, 0, L - 1)]

    `table` is `[q_heads or 1, L]`, float32. `minimum` is the distance of its first column.

    Raises:
        ArgumentError: a table of another rank, or an empty one.
    """

    table: Any
    _: KW_ONLY
    minimum: int = 0

    def __post_init__(self) -> None:
        shape = getattr(self.table, "shape", (1, 1))
        if len(shape) != 2 or 0 in tuple(shape):
            raise ArgumentError(message("distance_bias", "a table of shape [q_heads or 1, L], L >= 1", list(shape)))


def attention(
    query: Any,
    key: Any,
    value: Any,
    *,
    causal: bool = False,
    window: int | tuple[int | None, int | None] | None = None,
    keep_first: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
    sink: Any = None,
    key_bias: Any = None,
    distance_bias: DistanceBias | None = None,
    query_scale: Any = None,
    rotary: Rotary | None = None,
    query_positions: Any = None,
    key_positions: Any = None,
    key_lengths: Any = None,
    query_offsets: Any = None,
    key_offsets: Any = None,
    block_table: Any = None,
    return_lse: bool = False,
) -> Any:
    """Attention that never builds the score matrix.

        s = scale * query_scale * (rotate(query) @ rotate(key).mT)     # query head h reads key head h // group
        s = softcap * tanh(s / softcap) + key_bias + distance_bias
        s = where(visible, s, -inf)                                    # causal, window, keep_first, key_lengths
        output, lse = softmax([s, sink])[:-1] @ value, logsumexp([s, sink])

    Args:
        query: `[batch, q_heads, q_time, dim]`, or ragged `[total, q_heads, dim]` with both offsets. float32, bfloat16
            or float16. The last dimension must be contiguous, and dim is from 1 to 256.
        key: `[batch, kv_heads, k_time, dim]` (ragged `[total, kv_heads, dim]`), un-rotated. q_heads is a multiple of
            kv_heads.
        value: `[batch, kv_heads, k_time, v_dim]`. v_dim may differ from dim.
        causal: hide keys of a higher order than the query's. Key j has order j, and query i has order
            `i + (n_keys - n_queries)`.
        window: n for the last n keys, the query's own included, or `(left, right)` for `q - left <= k <= q + right`.
            None stands for no bound.
        keep_first: this many first keys stay visible whatever the window says.
        scale: factor of the products, by default `1 / sqrt(dim)`.
        softcap: bound of the scaled products, above 0.
        sink: `[q_heads]` float32: one more term `exp(sink)` in the softmax's denominator. It counts in the LSE.
        key_bias: float32, broadcastable to `[batch, q_heads, k_time]` (ragged `[q_heads, total]`). -inf hides a key.
        distance_bias: a `DistanceBias`.
        query_scale: float32, broadcastable to `[batch, q_heads, q_time]` (ragged `[q_heads, total]`).
        rotary: a `Rotary`.
        query_positions: `[q_time]` or `[batch, q_time]` (ragged `[total]`), int32, int64 or float32. By default the
            order.
        key_positions: the same for keys.
        key_lengths: `[batch]` integers: how many first keys of each sequence exist.
        query_offsets: `[batch + 1]` integers rising from 0 to total: where the sequences of a ragged batch begin.
        key_offsets: the same for keys.
        block_table: `[sequences, blocks]` integers, for keys in pages: `key` is `[pages, kv_heads, page_size, dim]`,
            and `value` has the same layout. Key j of sequence b is key `j % page_size` of page
            `block_table[b, j // page_size]`. `key_lengths` says how many first keys of each sequence exist; without it
            all `blocks * page_size` do. The table's entries for other keys, and what lies there, have no influence.
            Queries may be ragged, and `key_offsets` stays None. `key_bias` and key positions count
            `[sequences, .., blocks * page_size]` keys.
        return_lse: give the LSE too.

    Returns:
        The output `[batch, q_heads, q_time, v_dim]` (ragged `[total, q_heads, v_dim]`), of the query's kind and dtype.
        With `return_lse` also the natural logarithm of the denominators, float32, `[batch, q_heads, q_time]` (ragged
        `[q_heads, total]`). A row that sees nothing gives 0 and -inf. A masked key has no influence, even if it is NaN.
        Each row has the same bits in prefill and decode, in any batch, at any thread count, on every instruction set.
        Tensors have gradients through both results: of query, key, value, sink, key_bias, query_scale and the table of
        distance_bias, unless there is a block_table. Those of a sequence have the same bits in any batch too.

    Raises:
        ArgumentError: shapes that do not fit, or a value out of its range.
        DtypeError: an element type or a kind of object that the argument cannot have.
        BackendError: a tensor that no backend of this build serves, or one that needs a gradient that there is not.

    Sources: streaming softmax, Milakov & Gimelshein 2018 and Dao et al. 2022; grouped heads, Ainslie et al. 2023; sinks
    kept in a window, Xiao et al. 2023; keys in pages, Kwon et al. 2023; soft-capped scores, Gemma 2 2024.
    """
    dtype = arrays.large("query", query)
    arrays.large_like("key", key, "query", query)
    arrays.large_like("value", value, "query", query)
    hooks = hook_arguments(
        query, causal=causal, window=window, keep_first=keep_first, scale=scale, softcap=softcap, sink=sink,
        key_bias=key_bias, distance_bias=distance_bias, query_scale=query_scale, rotary=rotary,
        query_positions=query_positions, key_positions=key_positions, key_lengths=key_lengths,
        query_offsets=query_offsets, key_offsets=key_offsets, block_table=block_table,
    )  # fmt: skip
    output, lse = compute("attention", dtype, (query, key, value), (hooks,))
    return (output, lse) if return_lse else output


def hook_arguments(
    query: Any,
    *,
    causal: bool = False,
    window: Any = None,
    keep_first: int = 0,
    scale: float | None = None,
    softcap: float | None = None,
    sink: Any = None,
    key_bias: Any = None,
    distance_bias: DistanceBias | None = None,
    query_scale: Any = None,
    rotary: Rotary | None = None,
    query_positions: Any = None,
    key_positions: Any = None,
    key_lengths: Any = None,
    query_offsets: Any = None,
    key_offsets: Any = None,
    block_table: Any = None,
) -> Hooks:
    """All but the large inputs, checked, of the kind of `query`."""
    if block_table is not None:
        if key_offsets is not None:
            raise ArgumentError(message("key_offsets", "None, as there is a block_table", arrays.describe(key_offsets)))
    elif (query_offsets is None) != (key_offsets is None):
        missing = "query_offsets" if query_offsets is None else "key_offsets"
        raise ArgumentError(message(missing, "both query_offsets and key_offsets, or neither", "None"))
    # Hooks that are not given are left out: this is asked in every layer.
    given = {} if rotary is None else _rotary(rotary, query)
    if distance_bias is not None:
        given |= _distance_bias(distance_bias, query)
    if window is not None:
        given["left"], given["right"] = _window(window)
    if scale is not None:
        given["scale"] = arrays.number("scale", scale)
    if softcap is not None:
        given["softcap"] = arrays.number("softcap", softcap)
    small = (
        sink, key_bias, query_scale, query_positions, key_positions, key_lengths, query_offsets, key_offsets,
        block_table,
    )  # fmt: skip
    for name, x in zip(_SMALL, small, strict=True):
        if x is not None:
            given[name] = arrays.small(name, x, query)
    return Hooks(bool(causal), keep_first=arrays.count("keep_first", keep_first), **given)


_SMALL = (
    "sink", "key_bias", "query_scale", "query_positions", "key_positions", "key_lengths", "query_offsets",
    "key_offsets", "block_table",
)  # fmt: skip
"""The hooks that are arrays as the caller gives them."""


def _window(window: Any) -> tuple[int | None, int | None]:
    """The bounds to the left and to the right."""
    if window is None:
        return None, None
    if isinstance(window, (tuple, list)):
        if len(window) != 2:
            raise ArgumentError(message("window", "an integer, or a pair (left, right)", window))
        left, right = (None if bound is None else arrays.count("window", bound) for bound in window)
        return left, right
    length = arrays.index("window", window)
    if not 1 <= length <= 2**62:
        raise ArgumentError(message("window", "at least 1 key, the query's own", length))
    return length - 1, 0


def _distance_bias(bias: Any, query: Any) -> dict[str, Any]:
    if not isinstance(bias, DistanceBias):
        raise DtypeError(message("distance_bias", "a farspan.DistanceBias", arrays.describe(bias)))
    minimum = arrays.index("minimum", bias.minimum)
    if not -(2**62) <= minimum <= 2**62:
        raise ArgumentError(message("minimum", "a distance of at most 2**62", minimum))
    return dict(distance_table=arrays.small("distance_bias", bias.table, query), distance_minimum=minimum)


def _rotary(rotary: Any, query: Any) -> dict[str, Any]:
    if not isinstance(rotary, Rotary):
        raise DtypeError(message("rotary", "a farspan.Rotary", arrays.describe(rotary)))
    given: dict[str, Any] = {
        "inv_freq": arrays.small("inv_freq", rotary.inv_freq, query),
        "magnitude": arrays.number("magnitude", rotary.magnitude),
        "interleaved": bool(rotary.interleaved),
    }
    if rotary.border is not None:
        given["border"] = border = arrays.number("border", rotary.border)
        if math.isnan(border):
            raise ArgumentError(message("border", "a distance", border))
        for name in ("far_query_positions", "far_key_positions"):
            given[name] = arrays.small(name, getattr(rotary, name), query)
    return given


for _object in (Rotary, DistanceBias, attention):
    _object.__module__ = "farspan"  # tracebacks show the public path
