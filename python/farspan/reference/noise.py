"""The noise of a draw, version 1, in NumPy's float64."""

from __future__ import annotations

from typing import Any

import numpy as np


def philox(counter: tuple[Any, ...], key: tuple[Any, ...]) -> tuple[Any, ...]:
    """Philox4x32-10 (Salmon et al. 2011): four words from four counter words and two key words, in uint64 arrays."""
    low, word = np.uint64(0xFFFFFFFF), np.uint64(32)
    c0, c1, c2, c3 = (np.asarray(c, np.uint64) for c in counter)
    k0, k1 = (np.asarray(k, np.uint64) for k in key)
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * c0, np.uint64(0xCD9E8D57) * c2
        c0, c1, c2, c3 = (b >> word) ^ c1 ^ k0, b & low, (a >> word) ^ c3 ^ k1, a & low
        k0, k1 = (k0 + np.uint64(0x9E3779B9)) & low, (k1 + np.uint64(0xBB67AE85)) & low
    return c0, c1, c2, c3


def noise(seed: Any, position: Any, stream: Any, tokens: Any) -> np.ndarray:
    """Gumbel noise, version 1, float64 `[..., tokens]`: a function of (seed, stream, position, token id), nothing else.

    Philox4x32-10 with key (low and high word of seed) and counter (token >> 1, position, stream, 0) gives two 64-bit
    numbers, the first for the even token, the second for the odd; `t = (r + 0.5) / 2**64`, `g = -log(-log1p(-t))`.
    """
    low, word = np.uint64(0xFFFFFFFF), np.uint64(32)
    seed, position, stream = (unsigned(x)[..., None] for x in (seed, position, stream))
    v = np.asarray(tokens, np.uint64)
    x0, x1, x2, x3 = philox((v >> np.uint64(1), position, stream, 0), (seed & low, seed >> word))
    r = np.where(v & np.uint64(1), x2 + (x3 << word), x0 + (x1 << word))
    with np.errstate(divide="ignore"):  # once in 2**54 numbers t rounds to 1 and g to -inf: as good as the true -3.6
        return -np.log(-np.log1p(-(r.astype(np.float64) + 0.5) / 2.0**64))


def unsigned(x: Any) -> np.ndarray:
    """Integers by their bits."""
    return np.asarray(x % 2**64 if isinstance(x, int) else x).astype(np.uint64)
