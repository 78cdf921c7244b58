"""Random attention problems: every hook of `farspan.attention` alone and with the others."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st

import farspan
from farspan import reference
from support.arrays import DTYPES, LAYOUTS, as_kind, lay_out

LENGTHS = st.one_of(st.integers(1, 40), st.sampled_from([0, 1, 63, 64, 65, 127, 128, 129, 150]))
PAGE_SIZES = st.one_of(st.integers(1, 20), st.sampled_from([64, 128, 200]))
DIMS = st.sampled_from([1, 2, 3, 8, 15, 16, 17, 24, 40, 64, 80, 128, 256])


@dataclass
class Case:
    """Tensors and keyword arguments; rotary and distance_bias as the keywords of their classes."""

    arrays: list[torch.Tensor]
    hooks: dict[str, Any] = field(default_factory=dict)

    def call(self, kind: str = "torch", **more: Any) -> Any:
        """`farspan.attention` with arrays of this kind."""
        return farspan.attention(*(as_kind(x, kind) for x in self.arrays), **self._hooks(kind, None), **more)

    def reference(self, dtype: torch.dtype, **more: Any) -> Any:
        """The definition, every step in this dtype."""
        return reference.attention(*(x.to(dtype) for x in self.arrays), **self._hooks("torch", dtype), **more)

    def statistics(self, kind: str = "torch") -> farspan.AttentionStatistics:
        """`farspan.attention_statistics` with arrays of this kind."""
        return farspan.attention_statistics(*(as_kind(x, kind) for x in self.arrays[:2]), **self._hooks(kind, None))

    def defined_statistics(self, dtype: torch.dtype) -> farspan.AttentionStatistics:
        """Their definition, every step in this dtype."""
        large = (x.to(dtype) for x in self.arrays[:2])
        return reference.attention_statistics(*large, **self._hooks("torch", dtype))

    def orders(self) -> float:
        """A bound of how far apart the orders of a query and a key can be."""
        ragged = "query_offsets" in self.hooks
        keys = math.prod(
            self.arrays[1].shape[i] for i in ((0, 2) if "block_table" in self.hooks else (0 if ragged else 2,))
        )
        return 1.0 + keys + self.arrays[0].shape[0 if ragged else 2]

    def _hooks(self, kind: str, table_dtype: torch.dtype | None) -> dict[str, Any]:
        def convert(x: Any) -> Any:
            widen = table_dtype == torch.float64 and isinstance(x, torch.Tensor) and x.dtype == torch.float32
            return as_kind(x.double() if widen else x, kind)

        hooks = {name: convert(x) for name, x in self.hooks.items()}
        if "rotary" in hooks:
            hooks["rotary"] = farspan.Rotary(**{name: convert(x) for name, x in hooks["rotary"].items()})
        if "distance_bias" in hooks:
            hooks["distance_bias"] = farspan.DistanceBias(**{n: convert(x) for n, x in hooks["distance_bias"].items()})
        return hooks


@st.composite
def attention_cases(draw: st.DrawFn, dtypes: tuple[str, ...] = tuple(DTYPES), pages: bool = True) -> Case:
    """A problem whose numbers come from one drawn seed, so that hypothesis shrinks the structure. `pages` allows keys
    in pages."""
    make = torch.Generator().manual_seed(draw(st.integers(0, 2**32), label="numbers"))

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=make)

    def integers(low: int, high: int, *shape: int) -> torch.Tensor:
        return torch.randint(low, high, shape, generator=make)

    def sometimes(label: str) -> bool:
        return draw(st.integers(0, 3), label=label) == 3

    dtype = DTYPES[draw(st.sampled_from(dtypes), label="dtype")]
    batch, key_heads, group = (
        draw(st.integers(1, 3)),
        draw(st.sampled_from([1, 2, 3])),
        draw(st.sampled_from([1, 2, 4])),
    )
    heads, dim = key_heads * group, draw(DIMS, label="dim")
    value_dim = draw(st.one_of(st.just(dim), DIMS), label="value_dim")
    magnify = draw(st.sampled_from([1.0, 1.0, 1e-3, 4.0, 30.0 if dtype != torch.float16 else 2.0]), label="magnify")
    hooks: dict[str, Any] = {"causal": draw(st.booleans(), label="causal")}

    ragged = sometimes("ragged")
    page_size = draw(PAGE_SIZES, label="page_size") if pages and sometimes("paged") else None
    if ragged:
        counts = draw(
            st.lists(st.tuples(st.integers(0, 20), st.integers(0, 40)), min_size=1, max_size=4), label="counts"
        )
        queries, keys = (sum(pair[i] for pair in counts) for i in (0, 1))
        sequences, rows, columns = len(counts), (heads, queries), (heads, keys)
        for i, name in enumerate(("query_offsets", "key_offsets")):
            hooks[name] = torch.tensor([0, *(pair[i] for pair in counts)]).cumsum(0)
        longest = [pair[1] for pair in counts]
        arrays = [normal(queries, heads, dim), normal(keys, key_heads, dim), normal(keys, key_heads, value_dim)]
        if page_size is not None:
            keys = -(-max(longest) // page_size) * page_size
            columns = (sequences, heads, keys)
            del hooks["key_offsets"]
            hooks["key_lengths"] = torch.tensor(longest)
            arrays[1:] = [normal(sequences, key_heads, keys, size) for size in (dim, value_dim)]
    else:
        queries, keys = draw(LENGTHS, label="queries"), draw(LENGTHS, label="keys")
        keys = keys if page_size is None else -(-keys // page_size) * page_size
        sequences, rows, columns = batch, (batch, heads, queries), (batch, heads, keys)
        longest = [keys] * batch
        arrays = [normal(*rows, dim), normal(batch, key_heads, keys, dim), normal(batch, key_heads, keys, value_dim)]
    arrays = [arrays[0] * magnify, arrays[1] * magnify, arrays[2]]
    arrays = [lay_out(x.to(dtype), draw(st.sampled_from(LAYOUTS), label="layout")) for x in arrays]

    def broadcast(shape: tuple[int, ...], label: str) -> torch.Tensor:
        return normal(*(1 if draw(st.booleans(), label=label) else size for size in shape))

    if sometimes("key_lengths"):
        lengths = [draw(st.integers(0, most), label="length") for most in longest]
        hooks["key_lengths"] = torch.tensor(lengths, dtype=draw(st.sampled_from([torch.int32, torch.int64])))
    if sometimes("window"):
        side = st.one_of(st.none(), st.integers(0, 70))
        hooks["window"] = draw(st.one_of(st.integers(1, 140), st.tuples(side, side)), label="window")
        hooks["keep_first"] = draw(st.integers(0, 6), label="keep_first")
    if sometimes("scale"):
        hooks["scale"] = draw(st.sampled_from([0.0, 0.05, 1.0, -0.3]), label="scale")
    if sometimes("softcap"):
        hooks["softcap"] = draw(st.sampled_from([0.5, 3.0, 50.0]), label="softcap")
    if sometimes("sink"):
        hooks["sink"] = normal(heads) * 2
    if sometimes("query_scale"):
        hooks["query_scale"] = broadcast(rows, "query_scale axis")
    if sometimes("key_bias"):
        bias = broadcast(columns, "key_bias axis")
        hidden = torch.rand(bias.shape, generator=make) < draw(st.sampled_from([0.0, 0.3, 1.0]), label="hidden")
        hooks["key_bias"] = bias.masked_fill(hidden, -torch.inf)
    if sometimes("distance_bias"):
        table = normal(draw(st.sampled_from([1, heads])), draw(st.sampled_from([1, 2, 30, 300])))
        hooks["distance_bias"] = {"table": table, "minimum": draw(st.sampled_from([0, 0, 5, -20]), label="minimum")}

    def positions(shape: tuple[int, ...], label: str) -> torch.Tensor:
        first, time = (shape[0] if len(shape) == 3 else None), shape[-1]
        at = torch.cumsum(integers(0, 4, time), 0) + draw(st.sampled_from([0, 50, 100_000]), label="start")
        kinds = [torch.int32, torch.int64, torch.float32]
        at = at.to(draw(st.sampled_from(kinds), label=label))
        return at if first is None or draw(st.booleans()) else at + integers(0, 40, first, 1).to(at.dtype)

    for name, shape in (("query_positions", rows), ("key_positions", columns)):
        if sometimes(name):
            hooks[name] = positions(shape, name)
    if dim > 1 and draw(st.booleans(), label="rotary"):
        half = draw(st.integers(1, dim // 2), label="r / 2")
        inv_freq = 50.0 ** (-torch.arange(half) / half)
        if draw(st.booleans(), label="inv_freq per sequence"):
            inv_freq = inv_freq / (1.0 + torch.arange(sequences)[:, None])
        hooks["rotary"] = {
            "inv_freq": inv_freq.float(),
            "magnitude": draw(st.sampled_from([1.0, 1.2])),
            "interleaved": draw(st.booleans(), label="interleaved"),
        }
        if sometimes("border"):
            hooks["rotary"]["border"] = draw(st.sampled_from([1, 7, 30, 65.5]), label="border")
            hooks["rotary"]["far_query_positions"] = positions(rows, "far queries")
            hooks["rotary"]["far_key_positions"] = positions(columns, "far keys")

    case = Case(arrays, hooks)
    if dim * value_dim <= 1600 and keys and sometimes("garbage"):
        _spoil(case, integers(0, keys, 1 + keys // 8))
    if page_size is not None:
        order = torch.randperm(sequences * (keys // page_size) + 3, generator=make)
        _put_into_pages(case, page_size, order.to(draw(st.sampled_from([torch.int32, torch.int64]))))
        layout = draw(st.sampled_from([x for x in LAYOUTS if x != "expanded"]), label="layout of pages")
        case.arrays[1:] = [lay_out(x, layout) for x in case.arrays[1:]]
    return case


def largest_score(case: Case) -> float:
    """A bound of every score that comes before the softmax."""
    query, key = (x.double().nan_to_num().norm(dim=-1).amax().item() if x.numel() else 0.0 for x in case.arrays[:2])
    scale = abs(case.hooks.get("scale", case.arrays[0].shape[-1] ** -0.5))
    stretch = (
        case.hooks["query_scale"].abs().amax().item() if case.hooks.get("query_scale", torch.ones(0)).numel() else 1.0
    )
    magnitude = case.hooks.get("rotary", {}).get("magnitude", 1.0)
    return min(query * key * scale * stretch * magnitude**2, case.hooks.get("softcap", float("inf"))) + 8.0


def _put_into_pages(case: Case, page_size: int, order: torch.Tensor) -> None:
    """The same keys and values, their blocks scattered over pages; what belongs to nobody is NaN, the table wrong."""
    sequences, heads, keys, _ = case.arrays[1].shape
    blocks = keys // page_size
    table = order[: sequences * blocks].view(sequences, blocks).clone()
    for i in (1, 2):
        pages = torch.full((len(order), heads, page_size, case.arrays[i].shape[-1]), torch.nan)
        pages = pages.to(case.arrays[i].dtype)
        pages[table.long()] = case.arrays[i].unflatten(2, (blocks, page_size)).transpose(1, 2)
        case.arrays[i] = pages
    if "key_lengths" in case.hooks:
        unused = torch.arange(blocks) * page_size >= case.hooks["key_lengths"][:, None]
        table[unused] = -1 if len(order) % 2 else 2**31 - 1
    case.hooks["block_table"] = table


def _spoil(case: Case, chosen: torch.Tensor) -> None:
    """NaN in some keys and values: the rows that see one are lost, every other row must not notice."""
    for i in (1, 2):
        spoiled = case.arrays[i].clone()
        spoiled[(slice(None), slice(None), chosen) if spoiled.ndim == 4 else chosen] = torch.nan
        case.arrays[i] = spoiled
