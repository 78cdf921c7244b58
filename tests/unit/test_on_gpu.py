"""What the suites of tests/gpu are trusted with: inputs reach the device as they lie on the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from support.on_gpu import PIECE, laid_out, moved

from farspan._backend.hooks import Hooks
from farspan._backend.settings import Settings

WORDS = np.arange(4000, dtype=np.uint16)
FLOATS = np.arange(4000, dtype=np.float32)
ARRAYS = {
    "contiguous": FLOATS[:24].reshape(2, 3, 4),
    "rows with gaps": FLOATS[:60].reshape(5, 12)[:, :7],
    "misaligned": WORDS[1:13].reshape(3, 4),
    "misaligned rows with gaps": WORDS[3:63].reshape(5, 12)[:, 1:8],
    "time before heads": FLOATS[:24].reshape(2, 3, 4).transpose(1, 0, 2),
    "expanded": np.broadcast_to(WORDS[8:12], (3, 2, 4)),
    "one number for all": np.broadcast_to(FLOATS[3], (5,)),
    "a number": np.array(7, np.int64),
    "empty": FLOATS[:0].reshape(0, 4),
}


@pytest.mark.parametrize("x", ARRAYS.values(), ids=ARRAYS)
def test_an_array_lies_on_a_device_as_on_the_host(x: np.ndarray) -> None:
    found = laid_out(x, "cpu")
    assert tuple(found.shape) == x.shape
    assert np.array_equal(found.numpy(), x)
    if x.size:
        assert found.stride() == tuple(stride // x.itemsize for stride in x.strides)
        start = found.data_ptr() - found.untyped_storage().data_ptr()
        assert start % PIECE == x.ctypes.data % PIECE
        assert torch.empty(1).data_ptr() % PIECE == 0, "torch aligns what it allocates"


def test_the_arrays_of_lists_are_moved_and_settings_stay() -> None:
    hooks = moved(Hooks(causal=True, key_bias=FLOATS[:3], query_offsets=WORDS[:2].astype(np.int64)), "bfloat16", "cpu")
    assert (hooks.causal, hooks.sink) == (True, None)
    assert isinstance(hooks.key_bias, torch.Tensor)
    assert isinstance(hooks.query_offsets, torch.Tensor)
    settings = Settings(reals=FLOATS[:4].reshape(2, 2))
    assert moved(settings, "bfloat16", "cpu") is settings
    assert moved((WORDS[:4], 3), "bfloat16", "cpu")[0].dtype == torch.bfloat16
