"""Which operations have CUDA kernels."""

from __future__ import annotations

from farspan._backend import gpu
from farspan._backend.operations import OPERATIONS

ON_GPU = tuple(name for name in OPERATIONS if hasattr(gpu, name))
"""The others are torch's there."""
