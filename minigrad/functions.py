"""Functions composed from primitives: they need no gradient rules.

Every function here whose first parameter is a Tensor is also a method of Tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate, pairwise
from typing import Any, Literal

import numpy as np

from ._core import ops
from ._core.engine.graph import (
    Tensor,
    adopt,
    attach_methods,
    get_default_dtype,
    to_tensor,
    to_tensors,
)
from ._core.fast.loops import memory_checked
from .checks import choice, integer, real, sizes_of
from .namespace import led
from .types import Axis, Shape, TensorLike

__all__ = [
    "all", "allclose", "any", "argmax", "argmin", "bincount", "clone", "count_nonzero", "cross",
    "expand_dims", "flatten", "flip", "isclose", "isfinite", "isinf", "isnan", "lerp",
    "meshgrid", "moveaxis", "nan_to_num", "nonzero", "norm", "scatter_add", "searchsorted",
    "softmax", "split", "squeeze", "stack", "std", "swapaxes", "tile", "topk", "tril", "triu",
    "unique", "unstack",
]  # fmt: skip


# ------------------------------------------------------------------------ activations, statistics
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along one axis. The largest element is subtracted first to avoid
    overflow; this does not change the result, so no gradient needs to flow through it.

    >>> mg.softmax(mg.tensor([0.0, 0.0]))
    tensor([0.5, 0.5])
    """
    x = ops.floating(x, "softmax")
    axis = ops.one_axis("softmax", axis, x.ndim)
    largest = ops.max(x, axis=axis, keepdims=True).detach() if x.size else 0.0  # empty: max raises
    weights = ops.exp(x - largest)
    return weights / ops.sum(weights, axis=axis, keepdims=True)


def std(x: Tensor, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Tensor:
    """The square root of `var`. The gradient of equal elements is 0 (a subgradient), as in PyTorch.

    >>> mg.std(mg.tensor([1.0, 3.0]))
    tensor(1.)
    """
    square = ops.var(x, axis, correction, keepdims)
    if ops.in_safe_range(square._array) and not _scaling:
        return ops.sqrt(square)
    x = to_tensor(x, "std")
    if x.dtype.kind != "f":
        return std(x.astype(np.float64), axis, correction, keepdims).astype(get_default_dtype())
    scale = _magnitude(x, axis)
    return _rescaled(_power(ops.var(x / scale, axis, correction, keepdims), 0.5), scale)


def norm(
    x: Tensor, axis: Axis = None, keepdims: bool = False, ord: float | Literal["fro"] = 2
) -> Tensor:
    """The vector norm (sum |x|**ord) ** (1/ord) over the axes; ord=inf is the largest |x|, and
    ord="fro", the Frobenius norm of a matrix, is ord=2.

    The gradient of the norm at 0 is 0 (a subgradient), as in PyTorch; for ord < 1 the gradient of
    an element that is 0 is also 0.

    >>> mg.norm(mg.tensor([3.0, 4.0]))
    tensor(5.)
    """
    if isinstance(axis, (float, str)):  # PyTorch's second argument is the order
        raise TypeError(f"norm: axis is {axis!r}; the order is a keyword: norm(x, ord={axis!r})")
    x = to_tensor(x, "norm")
    if x.dtype.kind != "f":
        return norm(x.astype(np.float64), axis, keepdims, ord).astype(get_default_dtype())
    if ord == 2 or ord == "fro":
        square = ops.sum_product(x, x, axis, keepdims)
        if ops.in_safe_range(square._array) and not _scaling:
            return ops.sqrt(square)
        scale = _magnitude(x, axis)
        y = x / scale
        return _rescaled(_power(ops.sum_product(y, y, axis, keepdims), 0.5), scale)
    if isinstance(ord, str):
        raise ValueError(f"norm: ord must be a positive number, inf or 'fro', got {ord!r}")
    if ord == math.inf:
        return ops.max(ops.abs(x), axis=axis, keepdims=keepdims)
    if ord == 1:
        return ops.sum(ops.abs(x), axis=axis, keepdims=keepdims)
    if not ord > 0:
        raise ValueError(f"norm: ord must be positive or inf, got {ord}")
    power = ops.pow if ord > 2 else _power
    total = ops.sum(power(ops.abs(x), ord), axis=axis, keepdims=keepdims)
    if ops.in_safe_range(total._array) and not _scaling:
        return ops.pow(total, 1.0 / ord)
    scale = _magnitude(x, axis, ord if ord > 1 else 1)
    total = ops.sum(power(ops.abs(x / scale), ord), axis=axis, keepdims=keepdims)
    return _rescaled(_power(total, 1.0 / ord), scale)


_scaling = 0  # how many blocks `scaling()` are open


@contextmanager
def scaling() -> Iterator[None]:
    """Make `std` and `norm` scale all data by recorded operations: an export needs one graph that
    is valid for any data. Applies to all threads.

    >>> with mg.functions.scaling():
    ...     mg.norm(mg.tensor([3.0, 4.0]))
    tensor(5.)
    """
    global _scaling
    _scaling += 1
    try:
        yield
    finally:
        _scaling -= 1


@memory_checked
def _magnitude(x: Tensor, axis: Axis, ord: float = 2) -> Tensor:
    """The largest |x| over the axes, rounded down to a power of two; 1 where |x|**ord is in range
    anyway, or no scale would help (0, inf and NaN). Dividing x by it is exact, and powers of the
    quotient do not overflow or underflow. Since |x| = s |x / s| for any s, no gradient needs to
    flow through it."""
    if _scaling:
        scale = ops.max(ops.abs(x), axis=axis, keepdims=True)
        return ops.where(scale > 0, ops.where(scale < np.inf, scale, 1.0), 1.0)
    if x.size == 0:
        return adopt(np.ones((), x.dtype))
    largest = np.asarray(ops.max(ops.abs(x.detach()), axis=axis, keepdims=True)._array)
    info, one = np.finfo(largest.dtype), largest.dtype.type(1)
    # At least the smallest normal number: gradients pass through multiples of the scale.
    powers = np.maximum(np.frexp(largest)[1] - 1, info.minexp)
    needed = (largest > 0) & (largest < np.inf) & (np.abs(powers) * ord > info.maxexp // 2)
    return adopt(np.where(needed, np.ldexp(one, powers), one))


def _rescaled(x: Tensor, scale: Tensor) -> Tensor:
    return x * (scale if scale.ndim in (0, x.ndim) else ops.reshape(scale, x.shape))


def _power(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent for x >= 0 and a positive exponent, with slope 0 at x = 0. The slope of `pow`
    is inf there if the exponent is below 1, and the chain rule would give inf * 0 = NaN."""
    if not x.requires_grad:
        return ops.sqrt(x) if exponent == 0.5 else ops.pow(x, exponent)
    zero = x == 0.0
    return ops.where(zero, 0.0, ops.pow(ops.where(zero, 1.0, x), exponent))


# -------------------------------------------------------------------------------------- elementwise
def lerp(x: Tensor, y: TensorLike, weight: TensorLike) -> Tensor:
    """x + weight * (y - x) elementwise, broadcast: exactly x at weight 0, and y at 1, as in
    PyTorch.

    >>> mg.lerp(mg.tensor([0.0, 10.0]), mg.tensor([1.0, 20.0]), 0.25)
    tensor([ 0.25, 12.5 ])
    """
    x, y, weight = to_tensors((x, y, weight), "lerp")
    way = y - x
    return ops.where(weight < 0.5, x + weight * way, y - (1.0 - weight) * way)


def nan_to_num(
    x: Tensor, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None
) -> Tensor:
    """x with NaN replaced by `nan`, inf by `posinf` and -inf by `neginf`, which default to the
    largest and the smallest finite number of the dtype. The gradient of what was replaced is 0.

    >>> mg.nan_to_num(mg.tensor([1.0, float("nan"), float("inf")]), posinf=9.0)
    tensor([1., 0., 9.])
    """
    x = to_tensor(x, "nan_to_num")
    if x.dtype.kind != "f":
        return clone(x)
    largest = float(np.finfo(x.dtype).max)
    for odd, replacement in (
        (isnan(x), nan),
        (x == math.inf, largest if posinf is None else posinf),
        (x == -math.inf, -largest if neginf is None else neginf),
    ):
        x = ops.where(odd, float(real(replacement, "nan_to_num: a replacement")), x)
    return x


def cross(x: Tensor, y: TensorLike, axis: int = -1) -> Tensor:
    """The cross products of vectors of 3 elements along an axis; other dimensions broadcast.

    >>> mg.cross(mg.tensor([1.0, 0.0, 0.0]), mg.tensor([0.0, 1.0, 0.0]))
    tensor([0., 0., 1.])
    """
    x, y = to_tensors((x, y), "cross")
    fewest, largest = sorted((x.ndim, y.ndim))
    along = ops.one_axis("cross", axis, largest) - largest  # counted from the end, in both
    if along < -fewest or x.shape[along] != 3 or y.shape[along] != 3:
        raise ValueError(
            f"cross: {x.shape} and {y.shape} along axis {axis}: expected 3 elements in both"
        )
    return ops.roll(x * ops.roll(y, -1, along) - ops.roll(x, -1, along) * y, -1, along)


# -------------------------------------------------------------------------------------------- shape
def expand_dims(x: Tensor, axis: int | tuple[int, ...] = 0) -> Tensor:
    """Insert a dimension of size 1 at `axis` (or several); a view.

    >>> mg.expand_dims(mg.ones(3), 0).shape
    (1, 3)
    """
    x = to_tensor(x, "expand_dims")
    if not isinstance(axis, (tuple, list)):
        axis = (ops.one_axis("expand_dims", axis, x.ndim + 1),)
    ndim = x.ndim + len(axis)
    new = ops.reduced_axes("expand_dims", axis, ndim)
    sizes = iter(x.shape)
    return ops.reshape(x, tuple(1 if d in new else next(sizes) for d in range(ndim)))


def squeeze(x: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Drop dimensions of size 1: all, or the given ones. Raises ValueError for any other size.

    >>> mg.squeeze(mg.ones(1, 3, 1)).shape
    (3,)
    """
    x = to_tensor(x, "squeeze")
    if axis is None:
        return ops.reshape(x, tuple(n for n in x.shape if n != 1))
    dropped = ops.reduced_axes("squeeze", axis, x.ndim)
    for d in dropped:
        if x.shape[d] != 1:
            raise ValueError(f"squeeze: axis {d} of shape {x.shape} has size {x.shape[d]}, not 1")
    return ops.reshape(x, tuple(n for d, n in enumerate(x.shape) if d not in dropped))


def flatten(x: Tensor, start_axis: int = 0, end_axis: int = -1) -> Tensor:
    """Merge the dimensions from start_axis to end_axis (inclusive) into one.

    >>> mg.flatten(mg.ones(2, 3, 4), 1).shape
    (2, 12)
    """
    x = to_tensor(x, "flatten")
    if x.ndim == 0:
        return ops.reshape(x, (1,))
    start, end = (ops.one_axis("flatten", axis, x.ndim) for axis in (start_axis, end_axis))
    if start > end:
        raise ValueError(f"flatten: start_axis {start_axis} comes after end_axis {end_axis}")
    before, merged, after = x.shape[:start], x.shape[start : end + 1], x.shape[end + 1 :]
    return ops.reshape(x, (*before, math.prod(merged), *after))


def moveaxis(x: Tensor, source: int | Sequence[int], destination: int | Sequence[int]) -> Tensor:
    """Move one dimension, or a tuple of them, to new positions; the others keep their order. A
    view. Raises ValueError for a repeated dimension, or if source and destination differ in length.

    >>> mg.moveaxis(mg.ones(2, 3, 4), 0, -1).shape
    (3, 4, 2)
    >>> mg.moveaxis(mg.ones(2, 3, 4), (0, 1), (-1, 0)).shape
    (3, 4, 2)
    """
    x = to_tensor(x, "moveaxis")
    if isinstance(source, int) and isinstance(destination, int):
        order = list(range(x.ndim))
        moved = order.pop(ops.one_axis("moveaxis", source, x.ndim))
        order.insert(ops.one_axis("moveaxis", destination, x.ndim), moved)
        return ops.permute_dims(x, tuple(order))
    sources, places = (_listed_axes("moveaxis", axes, x.ndim) for axes in (source, destination))
    if len(sources) != len(places):
        raise ValueError(
            f"moveaxis: source {source} and destination {destination} differ in length"
        )
    order = [d for d in range(x.ndim) if d not in sources]
    for place, moved in sorted(zip(places, sources, strict=True)):
        order.insert(place, moved)
    return ops.permute_dims(x, tuple(order))


def _listed_axes(name: str, axes: int | Sequence[int], ndim: int) -> list[int]:
    """`axes` in the given order, as nonnegative ints; none may occur twice."""
    listed = tuple(axes) if isinstance(axes, (tuple, list)) else (axes,)
    ops.reduced_axes(name, listed, ndim)
    return [ops.one_axis(name, axis, ndim) for axis in listed]


def swapaxes(x: Tensor, axis1: int, axis2: int) -> Tensor:
    """Swap two dimensions; a view.

    >>> mg.swapaxes(mg.ones(2, 3, 4), 0, 2).shape
    (4, 3, 2)
    """
    x = to_tensor(x, "swapaxes")
    order = list(range(x.ndim))
    a, b = ops.one_axis("swapaxes", axis1, x.ndim), ops.one_axis("swapaxes", axis2, x.ndim)
    order[a], order[b] = b, a
    return ops.permute_dims(x, order)


def flip(x: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Reverse the order of elements along the axes (all by default); a view.

    >>> mg.flip(mg.tensor([1.0, 2.0, 3.0]))
    tensor([3., 2., 1.])
    """
    x = to_tensor(x, "flip")
    turned = ops.reduced_axes("flip", axis, x.ndim)
    return ops.getitem(x, tuple(slice(None, None, -1 if d in turned else 1) for d in range(x.ndim)))


def stack(arrays: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors of the same shape along a new axis.

    >>> mg.stack([mg.ones(2), mg.zeros(2)]).shape
    (2, 2)
    """
    if isinstance(arrays, Tensor) or not isinstance(arrays, (list, tuple)) or not arrays:
        raise TypeError(f"stack: expected a non-empty list or tuple of Tensors, got {arrays!r:.60}")
    tensors = to_tensors(tuple(arrays), "stack")
    if len({t.shape for t in tensors}) > 1:
        raise ValueError(f"stack: shapes {', '.join(str(t.shape) for t in tensors)} differ")
    return ops.concat([expand_dims(t, axis) for t in tensors], axis=axis)


def split(x: Tensor, sizes: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Split into views of consecutive pieces, of `sizes` elements each (the last may be shorter) or
    of the sizes in a sequence. Raises TypeError for sizes that are not ints, ValueError for a size
    below 1 (in a sequence below 0) or sizes that do not add up.

    >>> [piece.shape for piece in mg.split(mg.ones(5), 2)]
    [(2,), (2,), (1,)]
    """
    x = to_tensor(x, "split")
    axis = ops.one_axis("split", axis, x.ndim)
    n = x.shape[axis]
    given = np.asarray(sizes, None if np.size(sizes) else np.int64)  # [] is of floats, to NumPy
    if given.dtype.kind not in "iu" or given.ndim > 1:
        raise TypeError(f"split: expected an int or a sequence of ints, got {sizes!r:.60}")
    if given.ndim == 0:
        if int(given) < 1:
            raise ValueError(f"split: the size must be positive, got {given}")
        bounds = [0, *range(int(given), n, int(given)), n]
    else:
        bounds = list(accumulate(given.tolist(), initial=0))
        if bounds != sorted(bounds):
            raise ValueError(f"split: a size cannot be negative, got {given.tolist()}")
        if bounds[-1] != n:
            raise ValueError(
                f"split: sizes {given.tolist()} add up to {bounds[-1]}, axis {axis} has {n}"
            )
    before = (slice(None),) * axis
    return tuple(ops.getitem(x, (*before, slice(a, b))) for a, b in pairwise(bounds))


def unstack(x: Tensor, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices along an axis, without that axis: the inverse of `stack`; views.

    >>> mg.unstack(mg.tensor([[1.0, 2.0], [3.0, 4.0]]))[1]
    tensor([3., 4.])
    """
    x = to_tensor(x, "unstack")
    before = (slice(None),) * ops.one_axis("unstack", axis, x.ndim)
    return tuple(ops.getitem(x, (*before, i)) for i in range(x.shape[axis]))


def tile(x: Tensor, repetitions: Shape) -> Tensor:
    """Repeat x as many times as `repetitions` says along each dimension; the shorter of it and the
    shape is padded with ones in front. (PyTorch also calls this repeat.)

    >>> mg.tile(mg.tensor([1.0, 2.0]), 2)
    tensor([1., 2., 1., 2.])
    """
    x = to_tensor(x, "tile")
    times = sizes_of(repetitions, "tile")
    ndim = max(len(times), x.ndim)
    times, sizes = (1,) * (ndim - len(times)) + times, (1,) * (ndim - x.ndim) + x.shape
    for d in range(ndim):  # to tile a dimension, repeat the whole block below each earlier index
        block = math.prod(sizes[d:])
        if times[d] != 1 and block:
            x = ops.repeat(ops.reshape(x, (-1, block)), times[d], 0)
    return ops.reshape(x, tuple(t * n for t, n in zip(times, sizes, strict=True)))


def meshgrid(*arrays: TensorLike, indexing: Literal["xy", "ij"] = "xy") -> tuple[Tensor, ...]:
    """The coordinates of a grid given by 1-d tensors along its axes; read-only views. "xy", the
    default as in NumPy, swaps the first two axes, "ij" does not.

    >>> [x.shape for x in mg.meshgrid(mg.ones(2), mg.ones(3))]
    [(3, 2), (3, 2)]
    """
    tensors = to_tensors(arrays, "meshgrid")
    choice(indexing, "meshgrid: indexing", "xy", "ij")
    if wrong := [t.shape for t in tensors if t.ndim > 1]:
        raise ValueError(f"meshgrid: expected 1-d tensors, got shape {wrong[0]}")
    n, shape = len(tensors), tuple(t.size for t in tensors)
    grid = [
        ops.broadcast_to(ops.reshape(t, (1,) * i + (-1,) + (1,) * (n - i - 1)), shape)
        for i, t in enumerate(tensors)
    ]
    return tuple(swapaxes(g, 0, 1) if indexing == "xy" and n > 1 else g for g in grid)


def tril(x: Tensor, k: int = 0) -> Tensor:
    """The lower triangle of matrices (..., n, m): zeros above the k-th diagonal.

    >>> mg.tril(mg.ones(2, 2))
    tensor([[1., 0.],
            [1., 1.]])
    """
    return _triangle(x, k, "tril", True)


def triu(x: Tensor, k: int = 0) -> Tensor:
    """The upper triangle of matrices (..., n, m): zeros below the k-th diagonal.

    >>> mg.triu(mg.ones(2, 2))
    tensor([[1., 1.],
            [0., 1.]])
    """
    return _triangle(x, k, "triu", False)


@memory_checked
def _triangle(x: Tensor, k: int, name: str, lower: bool) -> Tensor:
    x, k = to_tensor(x, name), integer(k, f"{name}: k")
    if x.ndim < 2:
        raise ValueError(f"{name}: expected two or more dimensions, got shape {x.shape}")
    below = adopt(np.tri(x.shape[-2], x.shape[-1], k if lower else k - 1, dtype=bool))
    return ops.where(below, x, False) if lower else ops.where(below, False, x)


def clone(x: Tensor) -> Tensor:
    """A copy in new memory; gradients flow through it.

    >>> mg.clone(mg.ones(2))
    tensor([1., 1.])
    """
    x = to_tensor(x, "clone")
    if x.dtype.kind != "f":
        return adopt(x.numpy(copy=True))
    return x * 1.0


# ----------------------------------------------------------------------------------------- indexing
def scatter_add(x: Tensor, axis: int, indices: TensorLike, source: Tensor) -> Tensor:
    """A copy of x with each source[i] added at indices[i] along an axis; duplicates accumulate. As
    in PyTorch, indices and source have the rank of x, and the part of source covered by the shape
    of indices is added, at the same position in the other dimensions.

    >>> mg.scatter_add(mg.zeros(3), 0, mg.tensor([0, 2, 0]), mg.ones(3))
    tensor([2., 0., 1.])
    """
    x, source = to_tensors((x, source), "scatter_add")
    axis = ops.one_axis("scatter_add", axis, x.ndim)
    places = _integers(indices, "scatter_add")
    pairs = zip(source.shape, x.shape, strict=False)
    covered = [n if d == axis or n < m else m for d, (n, m) in enumerate(pairs)]
    larger = [n for n, m in zip(places.shape, covered, strict=False) if n > m]
    if not places.ndim == x.ndim == source.ndim or larger:
        raise ValueError(
            f"scatter_add: indices {places.shape} must not exceed source {source.shape} nor, "
            f"except along axis {axis}, x {x.shape}; all three need the same rank"
        )
    if source.shape != places.shape:
        source = ops.getitem(source, tuple(slice(n) for n in places.shape))
    shape = (*places.shape[:axis], x.shape[axis], *places.shape[axis + 1 :])
    added = ops.add_along_axis(source, places, axis, shape)
    return x + (added if shape == x.shape else ops.put(added, tuple(map(slice, shape)), x.shape))


def topk(
    x: Tensor, k: int, axis: int = -1, largest: bool = True, sorted: bool = True
) -> tuple[Tensor, Tensor]:
    """The k largest elements along an axis in descending order (or the k smallest, ascending), and
    their positions, int64. Ties are broken by the lowest position; NaN counts as the largest, as in
    PyTorch. sorted=False returns them by position.

    >>> mg.topk(mg.tensor([3.0, 1.0, 2.0]), 2)
    (tensor([3., 2.]), tensor([0, 2]))
    """
    x = to_tensor(x, "topk")
    axis = ops.one_axis("topk", axis, x.ndim)
    n = x.shape[axis]
    k = integer(k, "topk: k")
    if not 0 <= k <= n:
        raise ValueError(f"topk: k must be from 0 to {n}, the size of axis {axis}, got {k}")
    positions = Tensor(_first_of_the_largest(x._array, k, axis, largest))
    if sorted:
        found = ops.take_along_axis(x.detach(), positions, axis)
        by_size = ops.argsort(found, axis, descending=largest)
        positions = ops.take_along_axis(positions, by_size, axis)
    return ops.take_along_axis(x, positions, axis), positions


@memory_checked
def _first_of_the_largest(x: np.ndarray, k: int, axis: int, largest: bool) -> np.ndarray:
    """The positions, in ascending order, of the k largest or smallest elements along an axis; among
    those equal to the last of them, the first."""
    rows = np.moveaxis(x, axis, -1)
    shape, n = (*rows.shape[:-1], k), rows.shape[-1]
    if k == 0 or rows.size == 0 or k == n:
        return np.moveaxis(np.broadcast_to(np.arange(k), shape), -1, axis)
    keys = ops.sort_keys(rows) if rows.dtype.kind == "f" and np.isnan(rows).any() else rows
    if not largest:
        keys = -keys if keys.dtype.kind == "f" else ~keys
    last = np.partition(keys, n - k, -1)[..., n - k : n - k + 1]
    chosen = keys >= last
    surplus = np.count_nonzero(chosen, -1, keepdims=True) - k
    if surplus.any():
        equal = keys == last
        room = np.count_nonzero(equal, -1, keepdims=True) - surplus
        chosen &= ~equal | (np.cumsum(equal, -1) <= room)
    return np.moveaxis(np.nonzero(chosen)[-1].reshape(shape), -1, axis)


@memory_checked
def nonzero(x: Tensor) -> tuple[Tensor, ...]:
    """The positions of the nonzero elements in C order: an int64 tensor of indices for each
    dimension.

    >>> mg.nonzero(mg.tensor([[0.0, 5.0], [7.0, 0.0]]))
    (tensor([0, 1]), tensor([1, 0]))
    """
    x = to_tensor(x, "nonzero")
    if x.ndim == 0:
        raise ValueError("nonzero: a 0-d tensor has no positions")
    return tuple(map(adopt, np.nonzero(x._array)))


@memory_checked
def searchsorted(
    x: Tensor,
    values: TensorLike,
    side: Literal["left", "right"] = "left",
    sorter: TensorLike | None = None,
) -> Tensor:
    """Where to insert values into a sorted x (n,) to keep it in order, int64, in the shape of the
    values: before ("left") or after ("right") elements that are equal. NaN counts as the largest.
    As in PyTorch, x may be sorted rows (..., n) for values (..., k). `sorter` are integers that
    sort x, as `argsort` returns them.

    >>> mg.searchsorted(mg.tensor([1.0, 3.0, 5.0]), mg.tensor([0.0, 3.0, 9.0]))
    tensor([0, 1, 3])
    """
    x, values = to_tensors((x, values), "searchsorted")
    choice(side, "searchsorted: side", "left", "right")
    if x.ndim == 0 or (x.ndim > 1 and x.shape[:-1] != values.shape[:-1]):
        raise ValueError(
            f"searchsorted: x of shape {x.shape} and values of shape {values.shape}: expected x "
            "(n,), or (..., n) and values (..., k)"
        )
    order = None if sorter is None else _integers(sorter, "searchsorted")
    if order is not None and order.shape != x.shape:
        raise ValueError(f"searchsorted: the sorter has shape {order.shape}, x has shape {x.shape}")
    if order is not None and order.size and not 0 <= order.min() <= order.max() < x.shape[-1]:
        raise ValueError(f"searchsorted: the sorter has positions outside of x, {x.shape}")
    if x.ndim == 1:
        return adopt(np.asarray(np.searchsorted(x._array, values._array, side, order)))
    found = np.empty(values.shape, np.int64)
    for row in np.ndindex(x.shape[:-1]):
        row_order = None if order is None else order[row]
        found[row] = np.searchsorted(x._array[row], values._array[row], side, row_order)
    return adopt(found)


@memory_checked
def bincount(x: Tensor, weights: TensorLike | None = None, minlength: int = 0) -> Tensor:
    """How often each integer from 0 to the largest in x (n,) occurs, int64, for at least minlength
    integers; with weights (n,) the sum of their weights, which is differentiable.

    >>> mg.bincount(mg.tensor([0, 2, 2]))
    tensor([1, 0, 2])
    """
    numbers = _integers(x, "bincount")
    least = integer(minlength, "bincount: minlength", 0)
    if numbers.ndim != 1 or (numbers.size and numbers.min() < 0):
        raise ValueError(
            f"bincount: expected integers of 0 or more, of shape (n,), got shape {numbers.shape}"
            + (f" with the smallest {numbers.min()}" if numbers.size else "")
        )
    if weights is None:
        return adopt(np.bincount(numbers, minlength=least))
    w = ops.floating(weights, "bincount")
    if w.shape != numbers.shape:
        raise ValueError(f"bincount: weights of shape {w.shape} for x of shape {numbers.shape}")
    length = int(numbers.max()) + 1 if numbers.size else 0
    return ops.add_along_axis(w, numbers, 0, (max(length, least),))


@memory_checked
def unique(
    x: Tensor,
    return_index: bool = False,
    return_inverse: bool = False,
    return_counts: bool = False,
    axis: int | None = None,
    *,
    equal_nan: bool = True,
) -> Tensor | tuple[Tensor, ...]:
    """The distinct elements in ascending order, (k,), or with an axis the distinct slices along it,
    in lexicographic order. As in NumPy, a tuple follows if more is asked for, each int64: the
    position where each occurs first (return_index), the place of each element of x among the
    distinct ones (return_inverse, in the shape of x, or along the axis), and how often each occurs
    (return_counts). No gradient flows; index x by the positions if it should.

    >>> mg.unique(mg.tensor([3, 1, 3]), return_counts=True)
    (tensor([1, 3]), tensor([1, 2]))
    """
    x = to_tensor(x, "unique")
    along = None if axis is None else ops.one_axis("unique", axis, x.ndim)
    found: Any = np.unique(  # type: ignore[call-overload]
        x._array, return_index, return_inverse, return_counts, along, equal_nan=equal_nan
    )
    return tuple(map(adopt, found)) if isinstance(found, tuple) else adopt(found)


def _integers(indices: TensorLike, name: str) -> np.ndarray:
    array = indices.numpy() if isinstance(indices, Tensor) else np.asarray(indices)
    if isinstance(indices, (list, tuple)) and array.size == 0:  # floats, to NumPy
        return array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: indices must be integers, got {array.dtype}")
    return array


# ------------------------------------------------------------------- no gradient: NumPy computes
@memory_checked
def _plain(function: Callable[..., Any], x: TensorLike, name: str, **options: Any) -> Tensor:
    return adopt(function(to_tensor(x, name)._array, **options))


def _reduced(
    function: Callable[..., Any], x: TensorLike, name: str, axis: Axis, keepdims: bool
) -> Tensor:
    x = to_tensor(x, name)
    return _plain(function, x, name, axis=ops.reduced_axes(name, axis, x.ndim), keepdims=keepdims)


def _position(
    function: Callable[..., Any], x: TensorLike, name: str, axis: int | None, keepdims: bool
) -> Tensor:
    x = to_tensor(x, name)
    axis = None if axis is None else ops.one_axis(name, axis, x.ndim)
    return _plain(function, x, name, axis=axis, keepdims=keepdims)


def argmax(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position of the (first) largest element, int64; in the flattened tensor if axis is None.

    >>> mg.argmax(mg.tensor([1.0, 3.0, 2.0]))
    tensor(1)
    """
    return _position(np.argmax, x, "argmax", axis, keepdims)


def argmin(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position of the (first) smallest element, int64; in the flattened tensor if axis is None.

    >>> mg.argmin(mg.tensor([1.0, 3.0, 2.0]))
    tensor(0)
    """
    return _position(np.argmin, x, "argmin", axis, keepdims)


def all(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether all elements are true (nonzero), bool.

    >>> mg.all(mg.tensor([True, False]))
    tensor(False)
    """
    return _reduced(np.logical_and.reduce, x, "all", axis, keepdims)


def any(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether any element is true (nonzero), bool.

    >>> mg.any(mg.tensor([True, False]))
    tensor(True)
    """
    return _reduced(np.logical_or.reduce, x, "any", axis, keepdims)


def count_nonzero(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The number of nonzero elements, int64.

    >>> mg.count_nonzero(mg.tensor([1.0, 0.0, 2.0]))
    tensor(2)
    """
    return _reduced(np.count_nonzero, x, "count_nonzero", axis, keepdims)


def isnan(x: Tensor) -> Tensor:
    """Which elements are NaN, bool.

    >>> mg.isnan(mg.tensor([1.0, float("nan")]))
    tensor([False,  True])
    """
    return _plain(np.isnan, x, "isnan")


def isinf(x: Tensor) -> Tensor:
    """Which elements are infinite, bool.

    >>> mg.isinf(mg.tensor([1.0, float("-inf")]))
    tensor([False,  True])
    """
    return _plain(np.isinf, x, "isinf")


def isfinite(x: Tensor) -> Tensor:
    """Which elements are neither infinite nor NaN, bool.

    >>> mg.isfinite(mg.tensor([1.0, float("inf")]))
    tensor([ True, False])
    """
    return _plain(np.isfinite, x, "isfinite")


@memory_checked
def isclose(
    x: Tensor, y: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> Tensor:
    """Where |x - y| <= atol + rtol |y|, elementwise, broadcast; bool.

    >>> mg.isclose(mg.tensor([1.0, 2.0]), mg.tensor([1.000001, 2.1]))
    tensor([ True, False])
    """
    a, b = (t._array for t in to_tensors((x, y), "isclose"))
    try:
        return adopt(np.isclose(a, b, rtol=rtol, atol=atol, equal_nan=equal_nan))
    except ValueError:
        raise ValueError(f"isclose: shapes {a.shape} and {b.shape} do not broadcast") from None


def allclose(
    x: Tensor, y: TensorLike, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    """Whether `isclose` is true for all elements; a Python bool, as in NumPy and PyTorch.

    >>> mg.allclose(mg.tensor([1.0]), mg.tensor([1.000001]))
    True
    """
    return bool(all(isclose(x, y, rtol, atol, equal_nan)))


led(globals(), __all__)
attach_methods(globals(), sorted({*__all__} - {"stack", "unstack", "split", "meshgrid"}))
