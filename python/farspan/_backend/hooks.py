"""The hooks of attention as the backends take them.

This is the one list: the torch operator's schema and its defaults follow from it, and `_core` reads it by name
(`rust/py/src/attention/hooks.rs`; `tests/unit/test_hooks.py` compares the names). `farspan.attention.hook_arguments`
makes it of the public arguments, whose documentation says what each hook does.
"""

from __future__ import annotations

from typing import NamedTuple

from farspan._backend.schema import Array


class Hooks(NamedTuple):
    """Arrays are of the kind of the query; None where a hook is not given."""

    causal: bool = False
    left: int | None = None
    """How many keys before the query's order the window reaches; None: all."""
    right: int | None = None
    """How many behind it."""
    keep_first: int = 0
    scale: float | None = None
    softcap: float | None = None
    sink: Array | None = None
    key_bias: Array | None = None
    query_scale: Array | None = None
    distance_table: Array | None = None
    """`farspan.DistanceBias.table`"""
    distance_minimum: int = 0
    inv_freq: Array | None = None
    """This and the next five: the fields of `farspan.Rotary`."""
    magnitude: float = 1.0
    interleaved: bool = False
    border: float | None = None
    far_query_positions: Array | None = None
    far_key_positions: Array | None = None
    query_positions: Array | None = None
    key_positions: Array | None = None
    key_lengths: Array | None = None
    query_offsets: Array | None = None
    key_offsets: Array | None = None
    block_table: Array | None = None

    @property
    def ragged(self) -> bool:
        """Whether the query is `[total, heads, dim]`."""
        return self.query_offsets is not None

    @property
    def paged(self) -> bool:
        """Whether key and value are `[pages, heads, page_size, dim]`."""
        return self.block_table is not None


class Above(NamedTuple):
    """What the backward pass takes beside the large arrays: the LSE that the call gave, and what is asked for."""

    lse: Array
    lse_gradient: Array | None
    """Gradient of the LSE; None: nothing depends on it."""
    asking: str
    """The names of the arguments that ask for a gradient, between commas: of those of `Gradients`."""


class Gradients(NamedTuple):
    """The arguments that have gradients, by the names that the operators have for them."""

    query: Array | None = None
    key: Array | None = None
    value: Array | None = None
    sink: Array | None = None
    key_bias: Array | None = None
    query_scale: Array | None = None
    distance_table: Array | None = None
