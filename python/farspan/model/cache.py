"""Keys, un-rotated, and values of the tokens that a model has seen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from farspan._backend.arrays import name_of
from farspan._errors import ArgumentError, message

FIRST_CAPACITY = 64


class CacheForm(NamedTuple):
    """All by which the caches of two models differ."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device
    gates: int = 0
    """How many forget gates a token has in each layer."""


class Cache:
    """One store per layer, `[2, batch, kv_heads, capacity, head_dim]`: keys as they were before rotation, and values.

    Un-rotated keys are right under any position scheme, also where angles depend on how long the sequence has become.
    `capacity` None: grows by doubling. A given capacity is allocated at once and is a bound: one more token is an
    error. The sequences of a batch may have different `lengths`. Where layers have forget gates, their logarithms lie
    in further stores, `[batch, capacity, gates]`, float32 at least.
    """

    def __init__(self, form: CacheForm, batch: int, capacity: int | None = None) -> None:
        self.form, self.fixed = form, capacity is not None
        self.graphs: Any = None
        """What `generate` captured over it on a GPU, for the next call."""
        self._lengths = [0] * batch
        room = FIRST_CAPACITY if capacity is None else capacity
        shape = (2, batch, form.kv_heads, room, form.head_dim)
        gates, precise = (batch, room, form.gates), torch.promote_types(form.dtype, torch.float32)
        self._hold(
            (_zeros(shape, form.dtype, form.device) for _ in range(form.layers)),
            [_zeros(gates, precise, form.device) for _ in range(form.layers if form.gates else 0)],
        )

    def _hold(self, stores: Iterable[Tensor], gates: list[Tensor]) -> None:
        """Takes over one store per layer, and sees each as an array too, where that is the same memory."""
        held = list(stores)
        arrays = [store.numpy() for store in held if _in_numpy(store.dtype, store.device)]
        two, batch, kv_heads, room, _ = held[0].shape
        steps = (np.arange(two)[:, None] * batch * kv_heads + np.arange(kv_heads)) * room
        # Last, and at once: an interrupt leaves all as they were.
        self._stores, self._arrays, self._steps, self._gates = held, arrays, steps, gates

    @property
    def batch(self) -> int:
        return len(self._lengths)

    @property
    def capacity(self) -> int:
        """Tokens for which there is memory now."""
        return self._stores[0].shape[3]

    @property
    def stores(self) -> list[Tensor]:
        """One of each layer: the same list until the cache has grown."""
        return self._stores

    @property
    def lengths(self) -> Tensor:
        """`[batch]`, int64: how many tokens of each sequence are held."""
        return torch.tensor(self._lengths, dtype=torch.int64)

    @property
    def counts(self) -> tuple[int, ...]:
        """`lengths` as plain numbers."""
        return tuple(self._lengths)

    def truncate(self, lengths: Any) -> Cache:
        """Forgets all but the first `lengths` tokens, one number or one per sequence, in place; returns the cache."""
        wanted = _integers("lengths", lengths, self.batch)
        for row, (new, held) in enumerate(zip(wanted, self._lengths, strict=True)):
            if not 0 <= new <= held:
                raise ArgumentError(message(f"lengths[{row}]", f"0 to {held}, the tokens held", new))
        self._lengths = wanted
        return self

    def free_graphs(self) -> Cache:
        """Forgets the CUDA graphs of steps over this cache, which hold memory for what a step computes; the next
        `generate` captures them anew. Returns the cache."""
        self.graphs = None
        return self

    @torch.inference_mode(False)
    def fork(self, indices: Any) -> Cache:
        """A new cache whose row i continues sequence `indices[i]` of this one on its own."""
        rows = _integers("indices", indices, None)
        for index, row in enumerate(rows):
            if not 0 <= row < self.batch:
                raise ArgumentError(message(f"indices[{index}]", f"0 to {self.batch - 1}", row))
        twin = Cache.__new__(Cache)
        twin.form, twin.fixed, twin.graphs = self.form, self.fixed, None
        twin._lengths = [self._lengths[row] for row in rows]
        where = torch.tensor(rows, dtype=torch.int64, device=self._stores[0].device)
        twin._hold(
            (store.index_select(1, where) for store in self._stores),
            [store.index_select(0, where) for store in self._gates],
        )
        return twin

    # ------------------------------------------------------------------------------------------------- forward passes

    def check_room(self, lengths: Sequence[int]) -> None:
        """ArgumentError where sequences of these lengths are more than a fixed capacity."""
        needed, room = max(lengths, default=0), self.capacity
        if self.fixed and needed > room:
            raise ArgumentError(message("cache", f"at most {room} tokens, its fixed capacity", f"{needed} tokens"))

    def reserve(self, lengths: Sequence[int]) -> None:
        """Makes room for sequences of these lengths; a fixed capacity is an error instead."""
        self.check_room(lengths)
        needed, room = max(lengths, default=0), self.capacity
        if needed <= room:
            return
        room = max(room, FIRST_CAPACITY)
        while room < needed:
            room *= 2
        held = max(self._lengths, default=0)

        def widened(store: Tensor) -> Tensor:
            wider = _zeros((*store.shape[:3], room, store.shape[4]), store.dtype, store.device)
            wider[:, :, :, :held] = store[:, :, :, :held]
            return wider

        def more_gates(store: Tensor) -> Tensor:
            wider = _zeros((len(store), room, store.shape[2]), store.dtype, store.device)
            wider[:, :held] = store[:, :held]
            return wider

        self._hold(map(widened, self._stores), list(map(more_gates, self._gates)))

    def slots(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Where the keys and values of tokens go that stand at `positions` of sequences `rows`: for `write`."""
        _, _, kv_heads, room, _ = self._stores[0].shape
        first: np.ndarray = rows * (kv_heads * room) + positions
        return (first[:, None, None] + self._steps).reshape(-1)

    def write(self, layer: int, new: Any, slots: Any) -> None:
        """Stores `new` `[tokens, 2 * kv_heads, head_dim]`, keys before values, at `slots`, an array or a tensor."""
        if isinstance(new, np.ndarray):
            array = self._arrays[layer]
            array.reshape(-1, array.shape[4])[slots] = new.reshape(-1, array.shape[4])
            return
        store = self._stores[layer]
        where = torch.as_tensor(slots, device=store.device)
        store.view(-1, store.shape[4]).index_copy_(0, where, new.reshape(-1, store.shape[4]).to(store.dtype))

    def read(self, layer: int, rows: slice, length: int, like: Any) -> tuple[Any, Any]:
        """Views of the first `length` keys and values of some sequences, `[batch, kv_heads, length, head_dim]` each."""
        both = (self._arrays if isinstance(like, np.ndarray) else self._stores)[layer][:, rows, :, :length]
        return both[0], both[1]

    def write_gates(self, layer: int, new: Tensor, slots: Any) -> None:
        """Stores `new` `[tokens, gates]` for the tokens whose keys go to `slots`."""
        _, _, kv_heads, room, _ = self._stores[0].shape
        first = torch.as_tensor(slots, device=new.device)[:: 2 * kv_heads]  # of a token, its slot in the first head
        places = first // (kv_heads * room) * room + first % room
        store = self._gates[layer]
        store.view(-1, store.shape[2]).index_copy_(0, places, new.to(store.dtype))

    def read_gates(self, layer: int, rows: slice, length: int) -> Tensor:
        """The gates of the first `length` tokens of some sequences, `[batch, length, gates]`."""
        return self._gates[layer][rows, :length]

    def advance(self, lengths: Sequence[int]) -> None:
        """The sequences now hold this many tokens."""
        self._lengths = list(lengths)


@torch.inference_mode(False)  # a store that is made in inference mode could not be written to outside of it
def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As `torch.zeros`; on a CPU of pages that the system zeroes when they are first used, as most never are."""
    if not _in_numpy(dtype, device):
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.from_numpy(np.zeros(shape, name_of(dtype)))


def _in_numpy(dtype: torch.dtype, device: torch.device) -> bool:
    return device.type == "cpu" and dtype != torch.bfloat16


def _integers(name: str, value: Any, count: int | None) -> list[int]:
    """One integer per sequence, from a number, a list, or an array."""
    listed = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(listed, int) and count is not None:
        listed = [listed] * count
    right = isinstance(listed, (list, tuple)) and all(isinstance(x, int) and not isinstance(x, bool) for x in listed)
    if not right or (count is not None and len(listed) != count):
        expected = "integers" if count is None else f"an integer, or {count}, one per sequence"
        raise ArgumentError(message(name, expected, repr(value)))
    return list(listed)
