"""JSON that every reader accepts, under the laboratory's name for it."""

from __future__ import annotations

from farspan._strict_json import dumps

__all__ = ["dumps"]
