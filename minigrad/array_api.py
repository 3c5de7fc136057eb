"""What the Python array API standard has beyond the rest of `mg`: kinds and limits of dtypes, bits,
sets, constants, and the questions that a library asks of a namespace.

Standard: https://data-apis.org/array-api/2025.12. `Tensor.__array_namespace__()` is `minigrad`
itself. docs/array-api.md says what differs from the standard, and why. Nothing here has a gradient
except what is composed of functions that have one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from ._core.engine.graph import (
    DTYPES,
    Tensor,
    adopt,
    attach_methods,
    get_default_dtype,
    in_common_dtype,
    result_type,
    to_tensor,
    to_tensors,
)
from ._core.fast.loops import memory_checked
from ._core.ops import abs, broadcast_to, concat, floating_operands, getitem, one_axis, where
from .checks import check_device, integer
from .types import TensorLike

__all__ = [
    "bitwise_and", "bitwise_invert", "bitwise_left_shift", "bitwise_or", "bitwise_right_shift",
    "bitwise_xor", "broadcast_arrays", "broadcast_shapes", "can_cast", "conj", "copysign",
    "diff", "e", "finfo", "iinfo", "imag", "inf", "isdtype", "isin", "nan", "newaxis", "pi",
    "positive", "real", "signbit", "unique_all", "unique_counts", "unique_inverse",
    "unique_values",
]  # fmt: skip

e, inf, nan, newaxis, pi = math.e, math.inf, math.nan, None, math.pi
DType = np.dtype[Any]


# ------------------------------------------------------------------------------------------- dtypes
class FInfo(NamedTuple):
    """The limits of a floating dtype."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


class IInfo(NamedTuple):
    """The limits of an integer dtype."""

    bits: int
    max: int
    min: int
    dtype: DType


def finfo(type: Tensor | DTypeLike) -> FInfo:
    """Bits, eps, largest, smallest and smallest normal number of a floating dtype or a Tensor's.

    >>> mg.finfo(mg.float32).eps
    1.1920928955078125e-07
    """
    dtype = _known(type, "finfo", "f")
    info = np.finfo(dtype)
    eps, most, least, normal = map(float, (info.eps, info.max, info.min, info.smallest_normal))
    return FInfo(info.bits, eps, most, least, normal, dtype)


def iinfo(type: Tensor | DTypeLike) -> IInfo:
    """Bits, largest and smallest number of an integer dtype, or of a Tensor's.

    >>> mg.iinfo(mg.int32).max
    2147483647
    """
    dtype = _known(type, "iinfo", "i")
    info = np.iinfo(dtype)
    return IInfo(info.bits, int(info.max), int(info.min), dtype)


def _known(of: Tensor | DTypeLike, name: str, kind: str = "bif") -> DType:
    dtype = result_type(of)
    if dtype.kind not in kind:
        expected = {"f": "float32 or float64", "i": "int32 or int64"}[kind]
        raise TypeError(f"{name}: expected {expected}, got {dtype}")
    return dtype


KINDS = {
    "bool": "b",
    "signed integer": "i",
    "unsigned integer": "",
    "integral": "i",
    "real floating": "f",
    "complex floating": "",
    "numeric": "if",
}


def isdtype(dtype: DTypeLike, kind: DTypeLike | str | tuple[DTypeLike | str, ...]) -> bool:
    """Whether a dtype is of a kind: a dtype, "bool", "signed integer", "integral", "real floating",
    "numeric" (and "unsigned integer", "complex floating", of which there are none), or one of a
    tuple of these.

    >>> mg.isdtype(mg.float32, "real floating"), mg.isdtype(mg.int64, (mg.bool, "integral"))
    (True, True)
    """
    own = _known(dtype, "isdtype")
    for one in kind if isinstance(kind, tuple) else (kind,):
        if isinstance(one, str):
            if one not in KINDS:
                raise ValueError(f"isdtype: kind must be one of {', '.join(KINDS)}; got {one!r}")
            if own.kind in KINDS[one]:
                return True
        elif own == np.dtype(one):
            return True
    return False


def can_cast(from_: Tensor | DTypeLike, to: DTypeLike) -> bool:
    """Whether promotion makes this dtype (or that of a Tensor) `to`: see `result_type`.

    >>> mg.can_cast(mg.int64, mg.float32), mg.can_cast(mg.float64, mg.float32)
    (True, False)
    """
    return result_type(_known(from_, "can_cast"), to) == to


class NamespaceInfo:
    """What `mg.__array_namespace_info__()` returns: dtypes, devices and capabilities."""

    def capabilities(self) -> dict[str, Any]:
        """Masks as indices and shapes that depend on data work; at most 64 dimensions."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> str:
        """The only device, "cpu"."""
        return "cpu"

    def devices(self) -> tuple[str]:
        """All devices: "cpu"."""
        return ("cpu",)

    def default_dtypes(self, *, device: str | None = None) -> dict[str, DType]:
        """The dtypes of Python floats and ints, and of positions."""
        check_device("default_dtypes", device)
        whole = np.dtype(np.int64)
        return {"real floating": get_default_dtype(), "integral": whole, "indexing": whole}

    def dtypes(
        self, *, device: str | None = None, kind: str | tuple[str, ...] | None = None
    ) -> dict[str, DType]:
        """The dtypes by name, those of a kind (see `isdtype`) or all."""
        check_device("dtypes", device)
        return {d.name: d for d in DTYPES if kind is None or isdtype(d, kind)}


def __array_namespace_info__() -> NamespaceInfo:  # noqa: N807
    """The dtypes, devices and capabilities of minigrad, for libraries that ask.

    >>> list(mg.__array_namespace_info__().dtypes(kind="integral"))
    ['int32', 'int64']
    """
    return NamespaceInfo()


# -------------------------------------------------------------------------------------- elementwise
@memory_checked
def _computed(function: Callable[..., Any], name: str, *operands: TensorLike) -> Tensor:
    """What NumPy computes of operands in their common dtype, without a gradient."""
    tensors = in_common_dtype(to_tensors(operands, name))
    try:
        return adopt(function(*(t._array for t in tensors)))
    except TypeError:
        given = ", ".join(str(t.dtype) for t in tensors)
        raise TypeError(f"{name}: not defined for {given}") from None
    except ValueError:
        shapes = " and ".join(str(t.shape) for t in tensors)
        raise ValueError(f"{name}: shapes {shapes} do not broadcast") from None


def bitwise_and(x: TensorLike, y: TensorLike) -> Tensor:
    """x & y of integers or bools, elementwise, broadcast.

    >>> mg.bitwise_and(mg.tensor([5, 6]), 4)
    tensor([4, 4])
    """
    return _computed(np.bitwise_and, "bitwise_and", x, y)


def bitwise_or(x: TensorLike, y: TensorLike) -> Tensor:
    """x | y of integers or bools, elementwise, broadcast.

    >>> mg.bitwise_or(mg.tensor([5, 6]), 1)
    tensor([5, 7])
    """
    return _computed(np.bitwise_or, "bitwise_or", x, y)


def bitwise_xor(x: TensorLike, y: TensorLike) -> Tensor:
    """x ^ y of integers or bools, elementwise, broadcast.

    >>> mg.bitwise_xor(mg.tensor([5, 6]), 1)
    tensor([4, 7])
    """
    return _computed(np.bitwise_xor, "bitwise_xor", x, y)


def bitwise_left_shift(x: TensorLike, y: TensorLike) -> Tensor:
    """x << y of integers, elementwise, broadcast.

    >>> mg.bitwise_left_shift(mg.tensor([1, 2]), 3)
    tensor([ 8, 16])
    """
    return _computed(np.bitwise_left_shift, "bitwise_left_shift", x, y)


def bitwise_right_shift(x: TensorLike, y: TensorLike) -> Tensor:
    """x >> y of integers, elementwise, broadcast; the sign stays.

    >>> mg.bitwise_right_shift(mg.tensor([8, -8]), 2)
    tensor([ 2, -2])
    """
    return _computed(np.bitwise_right_shift, "bitwise_right_shift", x, y)


def bitwise_invert(x: TensorLike) -> Tensor:
    """~x of integers or bools, elementwise.

    >>> mg.bitwise_invert(mg.tensor([0, 5]))
    tensor([-1, -6])
    """
    return _computed(np.bitwise_invert, "bitwise_invert", x)


def signbit(x: TensorLike) -> Tensor:
    """Whether the sign is negative, elementwise, that of -0.0 too; bool.

    >>> mg.signbit(mg.tensor([1.0, -0.0]))
    tensor([False,  True])
    """
    return _computed(np.signbit, "signbit", x)


def copysign(x: TensorLike, y: TensorLike) -> Tensor:
    """|x| with the sign of y, elementwise, broadcast. Only x gets a gradient.

    >>> mg.copysign(mg.tensor([1.0, -2.0]), -0.0)
    tensor([-1., -2.])
    """
    a, b = floating_operands((x, y), "copysign")
    size = abs(a)
    return where(signbit(b), -size, size)


def positive(x: TensorLike) -> Tensor:
    """+x: x itself.

    >>> mg.positive(mg.tensor([1.0, -2.0]))
    tensor([ 1., -2.])
    """
    return to_tensor(x, "positive")


def conj(x: TensorLike) -> Tensor:
    """The complex conjugate: of real numbers, x itself.

    >>> mg.conj(mg.tensor([1.0]))
    tensor([1.])
    """
    return to_tensor(x, "conj")


def real(x: TensorLike) -> Tensor:
    """The real part: of real numbers, x itself.

    >>> mg.real(mg.tensor([1.0]))
    tensor([1.])
    """
    return to_tensor(x, "real")


def imag(x: TensorLike) -> Tensor:
    """The imaginary part: of real numbers, 0.

    >>> mg.imag(mg.tensor([1.0]))
    tensor([0.])
    """
    return _computed(np.zeros_like, "imag", x)


# ------------------------------------------------------------------------------------- shapes, sets
def broadcast_shapes(*shapes: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that tensors of these shapes are broadcast to. Raises ValueError if there is none.

    >>> mg.broadcast_shapes((2, 1), (3,))
    (2, 3)
    """
    try:
        return tuple(np.broadcast_shapes(*shapes))
    except ValueError:
        listed = ", ".join(map(str, shapes))
        raise ValueError(f"broadcast_shapes: shapes {listed} do not broadcast") from None


def broadcast_arrays(*arrays: TensorLike) -> tuple[Tensor, ...]:
    """The tensors broadcast to one shape: read-only views.

    >>> [x.shape for x in mg.broadcast_arrays(mg.ones(2, 1), mg.ones(3))]
    [(2, 3), (2, 3)]
    """
    tensors = to_tensors(arrays, "broadcast_arrays")
    shape = broadcast_shapes(*(t.shape for t in tensors))
    return tuple(broadcast_to(t, shape) for t in tensors)


def diff(
    x: Tensor,
    n: int = 1,
    axis: int = -1,
    prepend: TensorLike | None = None,
    append: TensorLike | None = None,
) -> Tensor:
    """The differences x[i + 1] - x[i] along an axis, n times; of bools, whether the two differ.
    `prepend` and `append` are joined to x first, unless n is 0; a number stands for one element
    along the axis.

    >>> mg.diff(mg.tensor([1.0, 4.0, 9.0]), prepend=0)
    tensor([1., 3., 5.])
    """
    x = to_tensor(x, "diff")
    axis, n = one_axis("diff", axis, x.ndim), integer(n, "diff: n", 0)
    if n == 0:
        return x
    once = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
    given = to_tensors(tuple(part for part in (prepend, x, append) if part is not None), "diff")
    parts = [part if part.ndim else broadcast_to(part, once) for part in given]
    joined = concat(parts, axis) if len(parts) > 1 else x
    before = (slice(None),) * axis
    for _ in range(min(n, joined.shape[axis])):
        later, earlier = (getitem(joined, (*before, s)) for s in (slice(1, None), slice(-1)))
        joined = later != earlier if joined.dtype.kind == "b" else later - earlier
    return joined


@memory_checked
def isin(x1: TensorLike, x2: TensorLike, invert: bool = False) -> Tensor:
    """Which elements of x1 are among those of x2 (with invert: are not); bool, of the shape of x1.

    >>> mg.isin(mg.tensor([1, 2, 3]), mg.tensor([3, 1]))
    tensor([ True, False,  True])
    """
    a, b = to_tensors((x1, x2), "isin")  # NumPy compares int64 with float32 in float64
    return adopt(np.isin(a._array, b._array, invert=invert))


class UniqueAll(NamedTuple):
    """What `unique_all` returns."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """What `unique_counts` returns."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """What `unique_inverse` returns."""

    values: Tensor
    inverse_indices: Tensor


def unique_all(x: TensorLike) -> UniqueAll:
    """The different elements in ascending order, where each is first found in the flattened x,
    which of them each element of x is, and how often each occurs. A NaN differs from any other.

    >>> [part.tolist() for part in mg.unique_all(mg.tensor([3, 1, 3]))]
    [[1, 3], [1, 0], [1, 0, 1], [1, 2]]
    """
    return UniqueAll(*_distinct(x, "unique_all"))


def unique_counts(x: TensorLike) -> UniqueCounts:
    """The different elements in ascending order, and how often each occurs.

    >>> mg.unique_counts(mg.tensor([3, 1, 3])).counts
    tensor([1, 2])
    """
    values, _, _, counts = _distinct(x, "unique_counts")
    return UniqueCounts(values, counts)


def unique_inverse(x: TensorLike) -> UniqueInverse:
    """The different elements in ascending order, and which of them each element of x is.

    >>> mg.unique_inverse(mg.tensor([3, 1, 3])).inverse_indices
    tensor([1, 0, 1])
    """
    values, _, inverse, _ = _distinct(x, "unique_inverse")
    return UniqueInverse(values, inverse)


def unique_values(x: TensorLike) -> Tensor:
    """The different elements in ascending order.

    >>> mg.unique_values(mg.tensor([3, 1, 3]))
    tensor([1, 3])
    """
    return _distinct(x, "unique_values")[0]


@memory_checked
def _distinct(x: TensorLike, name: str) -> tuple[Tensor, ...]:
    return tuple(map(adopt, np.unique_all(to_tensor(x, name)._array)))


# -------------------------------------------------------------------------------- methods of Tensor
def __array_namespace__(self: Tensor, *, api_version: str | None = None) -> ModuleType:  # noqa: N807
    """The namespace of the functions that take Tensors: `minigrad`."""
    import minigrad

    known = ("2021.12", "2022.12", "2023.12", "2024.12", "2025.12")
    if api_version not in (None, *known):
        expected = f"api_version must be one of {', '.join(known)}"
        raise ValueError(f"__array_namespace__: {expected}; got {api_version!r}")
    return minigrad


def __complex__(self: Tensor) -> complex:  # noqa: N807
    return complex(self.item())


def to_device(self: Tensor, device: str, *, stream: None = None) -> Tensor:
    """The tensor itself: the only device is "cpu". Raises ValueError for any other."""
    check_device("to_device", device)
    return self


attach_methods(globals(), ["__array_namespace__", "__complex__", "to_device"])
