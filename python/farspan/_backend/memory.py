"""A CUDA device as `_core.cuda_*` sees it: where it is, memory for one call, and arrays by their addresses."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from farspan._backend.compiler import open_compiler

Described = tuple[int, tuple[int, ...], tuple[int, ...]]
"""Address, shape, and strides in elements."""


class Memory(Protocol):
    """What a call needs of a device. An object serves one call, and keeps what it allocated until the call is over."""

    place: Any
    """`(ordinal, stream)`, or a `_core.Emulator`."""

    def empty(self, shape: tuple[int, ...], kind: str) -> Any:
        """An array that outlives the call."""

    def describe(self, x: Any) -> Described:
        """An array of the device as `_core` takes it."""

    def take(self, x: Any, kind: str) -> Any:
        """A small array of the host or of the device, as one of the device."""

    def host(self, x: Any) -> Any:
        """A small array of the device or of the host, as NumPy's; waits for the device."""

    def allocate(self, size: int) -> int:
        """The address of so many bytes, at a multiple of 256."""

    def upload(self, data: bytes) -> int:
        """The address of a copy of these bytes."""

    def download(self, address: int, size: int) -> bytes:
        """What lies at an address that `allocate` gave, once everything before has run."""


class GpuMemory:
    """torch's memory and current stream on the device of a tensor."""

    def __init__(self, like: Any) -> None:
        import torch

        open_compiler()
        self._torch, self._device = torch, like.device
        self.place = (like.device.index or 0, torch.cuda.current_stream(like.device).cuda_stream)
        self._held: dict[int, Any] = {}

    def empty(self, shape: tuple[int, ...], kind: str) -> Any:
        return self._torch.empty(shape, dtype=getattr(self._torch, kind), device=self._device)

    def describe(self, x: Any) -> Described:
        return x.data_ptr(), tuple(x.shape), x.stride()

    def take(self, x: Any, kind: str) -> Any:
        x = self._torch.from_numpy(x) if isinstance(x, np.ndarray) else x
        return x.to(self._device, getattr(self._torch, kind))

    def host(self, x: Any) -> Any:
        return x.detach().cpu().numpy() if isinstance(x, self._torch.Tensor) else x

    def allocate(self, size: int) -> int:
        return self._hold(self._torch.empty(size, dtype=self._torch.uint8, device=self._device))

    def upload(self, data: bytes) -> int:
        copied = self._torch.frombuffer(bytearray(data), dtype=self._torch.uint8)
        address = self.allocate(len(data))
        self._held[address][: len(data)].copy_(copied)
        return address

    def download(self, address: int, size: int) -> bytes:
        found: bytes = self._held[address][:size].cpu().numpy().tobytes()
        return found

    def _hold(self, tensor: Any) -> int:
        address: int = tensor.data_ptr()
        self._held[address] = tensor
        return address
