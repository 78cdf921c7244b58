"""The two kinds of arrays that a caller may bring, NumPy's and torch's, and the checks that both need.

Shapes are checked where they mean something, in the Rust core; here an argument only becomes an array of the right
kind. Nothing in this module imports torch: whoever passes a tensor has done so already.
"""

from __future__ import annotations

import math
import operator
import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from farspan._errors import ArgumentError, BackendError, DtypeError, message

if TYPE_CHECKING:
    from collections.abc import Sequence

HALVES = ("bfloat16", "float16")
FLOATS = ("float32", *HALVES)
"""Element types of the large inputs."""

_INT64 = 2**63
_FLOAT32_END = 2.0**128 - 2.0**103
"""What float32 rounds to infinity begins here."""
_NAMES: dict[Any, str] = {}
"""Of element types of either kind that have been met."""
_DTYPES = {name: np.dtype(name) for name in ("int64", "float32", "float64")}
"""Element types of settings; NumPy takes longer to read a name than to make a small array."""


def stays_on_host(x: object) -> bool:
    """Whether x is a plain number of a call on a GPU, which a launch carries: `farspan._backend.settings.draws_of`."""
    return type(x) is int or type(x) is float


def is_tensor(x: object) -> bool:
    """Whether x is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(x, torch.Tensor)


def dtype_name(x: Any) -> str:
    """`float32` and so on, of either kind of array."""
    name = _NAMES.get(x.dtype)
    if name is None:  # to spell a name takes a microsecond in torch, and three in NumPy
        name = _NAMES[x.dtype] = name_of(x.dtype)
    return name


def name_of(dtype: Any) -> str:
    """`float32` and so on, of an element type of NumPy or torch, or of its name."""
    return str(dtype).removeprefix("torch.")


def describe(x: object) -> str:
    """An array by its shape, anything else by its type and value."""
    if isinstance(x, np.ndarray) or is_tensor(x):
        return f"{dtype_name(x)} of shape {list(x.shape)}"  # type: ignore[attr-defined]
    return f"{type(x).__name__} {str(x)[:60]!r}"


def large(name: str, x: Any) -> str:
    """Check the first large input; gives the name of its dtype."""
    if not (isinstance(x, np.ndarray) or is_tensor(x)):
        raise DtypeError(message(name, "a torch.Tensor or a numpy.ndarray", describe(x)))
    dtype = dtype_name(x)
    if dtype not in FLOATS:
        raise DtypeError(message(name, " or ".join(FLOATS), dtype))
    if not (isinstance(x, np.ndarray) or x.is_cpu or x.is_cuda or x.is_meta):
        raise BackendError(message(name, "a tensor on the CPU or on a CUDA device", f"one on {x.device}"))
    return dtype


def large_like(name: str, x: Any, first_name: str, first: Any, *, any_float: bool = False) -> str:
    """Check a further large input: of the kind, device and, unless `any_float`, dtype of the first."""
    numpy = isinstance(first, np.ndarray)
    if type(x) is type(first) and x.dtype == first.dtype and (numpy or x.device == first.device):
        return dtype_name(x)  # nearly every call
    if not (isinstance(x, np.ndarray) if numpy else is_tensor(x)):
        raise DtypeError(
            message(name, f"a {'numpy.ndarray' if numpy else 'torch.Tensor'}, as {first_name} is", describe(x))
        )
    dtype = dtype_name(x)
    if dtype not in FLOATS or not (any_float or dtype == dtype_name(first)):
        expected = " or ".join(FLOATS) if any_float else f"{dtype_name(first)}, as {first_name} has"
        raise DtypeError(message(name, expected, dtype))
    if not numpy and x.device != first.device:
        raise ArgumentError(message(name, f"a tensor on {first.device}, as {first_name} is", f"one on {x.device}"))
    return dtype


def rank(name: str, x: Any, dimensions: str) -> None:
    """Check the number of dimensions, given as `[batch, heads, time, dim]`."""
    if x.ndim != dimensions.count(",") + 1:
        raise ArgumentError(message(name, f"shape {dimensions}", list(x.shape)))


def small(name: str, x: Any, first: Any) -> Any:
    """A table, positions or lengths as an array of the kind of `first`; lists of numbers become float32 or int64."""
    if x is None:
        return None
    if isinstance(first, np.ndarray):
        return _ordinary(name, x if isinstance(x, np.ndarray) else _numbers(name, x))
    if not is_tensor(x):
        return _tensor(name, x if isinstance(x, np.ndarray) else _numbers(name, x)).to(first.device)
    if x.device != first.device:
        raise ArgumentError(message(name, f"a tensor on {first.device}", f"one on {x.device}"))
    return x


def _ordinary(name: str, x: np.ndarray) -> np.ndarray:
    """The same small array, checked for what both torch and the core refuse."""
    if x.flags.c_contiguous and x.dtype.isnative and x.dtype.kind in "fiu":
        return x  # nearly every call
    if x.dtype.kind not in "fiu" or not x.dtype.isnative:
        raise DtypeError(message(name, "an array of numbers in this machine's byte order", describe(x)))
    if any(stride < 0 or stride % x.itemsize for stride in x.strides):
        expected = f"strides of whole {x.itemsize}-byte elements, none negative"
        raise ArgumentError(message(name, expected, f"strides {x.strides} in bytes"))
    return x


def _tensor(name: str, x: np.ndarray) -> Any:
    """A small array as a tensor; the memory is shared where torch can write to it."""
    import torch

    if torch.compiler.is_compiling():  # a traced array has no flags
        return torch.from_numpy(x)
    x = _ordinary(name, x)
    try:
        return torch.from_numpy(x if x.flags.writeable else x.copy())
    except TypeError:  # torch has no such element type
        raise DtypeError(message(name, "an array of numbers", describe(x))) from None


def _numbers(name: str, x: Any) -> np.ndarray:
    if is_tensor(x):
        if dtype_name(x) == "bfloat16":  # which NumPy does not have
            raise DtypeError(message(name, "an array of numbers", describe(x)))
        array: np.ndarray = x.detach().cpu().numpy()
        return array
    try:
        array = np.asarray(x)
    except ValueError:
        raise DtypeError(message(name, "an array", describe(x))) from None
    if array.dtype.kind not in "if":
        raise DtypeError(message(name, "an array of numbers", describe(x)))
    return array.astype(np.int64 if array.dtype.kind == "i" else np.float32)


def per_row(
    name: str, x: Any, first: Any, rows: Sequence[int], *, integer: bool, wide: bool = False, low: int = 0,
    high: int = 0,
) -> Any:  # fmt: skip
    """One setting per row: int64 (`low <= x < high` for a plain int) or float32, or float64 where it is `wide`,
    0-dimensional or of shape `rows`.
    """
    kind = "int64" if integer else "float64" if wide else "float32"
    if isinstance(x, (int, float)):
        return _scalar(of_all_rows(name, x, integer=integer, wide=wide, low=low, high=high), first, kind)
    if not is_tensor(x):
        x = np.asarray(x)
    dtype = dtype_name(x)
    accepted = (
        ("int32", "int64", "uint64") if integer else ("float32", "float64", "float16", "bfloat16", "int32", "int64")
    )
    if dtype not in accepted:
        raise DtypeError(message(name, "int32 or int64" if integer else "numbers", dtype))
    if tuple(x.shape) not in ((), tuple(rows)):
        raise ArgumentError(
            message(name, f"a scalar or shape {list(rows)}, one per row of the first argument", list(x.shape))
        )
    if not is_tensor(x):  # uint64 becomes the int64 of its bits
        x = float32(name, x) if kind == "float32" else np.ascontiguousarray(x, kind).reshape(x.shape)
        return small(name, x, first)
    if kind == "float32" and dtype == "float64" and x.is_cpu:
        float32(name, x.detach().numpy())
    x = x.detach().to(getattr(sys.modules["torch"], kind))
    return _numbers(name, x) if isinstance(first, np.ndarray) else x.to(first.device)


def of_all_rows(name: str, x: Any, *, integer: bool, wide: bool = False, low: int = 0, high: int = 0) -> float:
    """A plain number that is the setting of each row, checked as `per_row` says.

    An integer of 2**63 and more, where `high` lets it pass, becomes the int64 of the same bits.
    """
    if integer and type(x) is int and low <= x < high:  # nearly every call
        return x - 2 * _INT64 if x >= _INT64 else x
    value = number(name, x)
    if integer:
        whole = index(name, x)
        if not low <= whole < high:
            raise ArgumentError(message(name, f"{low} to {high - 1}", whole))
        return whole - 2 * _INT64 if whole >= _INT64 else whole
    if not wide and _FLOAT32_END <= abs(value) < math.inf:
        raise ArgumentError(message(name, "numbers that float32 can hold", value))
    return value


def _scalar(value: float, first: Any, kind: str) -> Any:
    if isinstance(first, np.ndarray):
        return np.array(value, _DTYPES[kind])
    torch = sys.modules["torch"]  # its own constructor: torch.compile traces it
    return torch.full((), value, dtype=getattr(torch, kind), device=first.device)


def float32(name: str, x: np.ndarray) -> np.ndarray:
    """The numbers in float32, contiguous; an error names a finite one that it cannot hold."""
    with np.errstate(over="ignore"):
        narrow = np.ascontiguousarray(x, np.float32).reshape(x.shape)
    lost = np.isinf(narrow) & np.isfinite(x)
    if lost.any():
        raise ArgumentError(message(name, "numbers that float32 can hold", x[lost].flat[0]))
    return narrow


def index(name: str, x: Any) -> int:
    """A whole number that fits int64 or uint64."""
    if type(x) is int:
        return x
    if isinstance(x, (bool, np.bool_)):
        raise DtypeError(message(name, "an integer", describe(x)))
    try:
        value = operator.index(x)
    except TypeError:
        raise DtypeError(message(name, "an integer", describe(x))) from None
    return value


def count(name: str, x: Any) -> int:
    """A whole number from 0 that fits int64."""
    value = index(name, x)
    if not 0 <= value < _INT64:
        raise ArgumentError(message(name, "an integer from 0 to 2**63 - 1", value))
    return value


def number(name: str, x: Any) -> float:
    """A real number."""
    if type(x) is float:
        return x
    if isinstance(x, (str, bytes, bool)):
        raise DtypeError(message(name, "a number", describe(x)))
    try:
        return float(x)
    except (TypeError, ValueError, OverflowError):
        raise DtypeError(message(name, "a number", describe(x))) from None
