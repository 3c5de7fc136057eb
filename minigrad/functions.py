"""Functions composed from the primitives: their gradients need no rule.

Every function here is also a method of Tensor where its first parameter is one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ._core.ops import (
    abs,
    concat,
    erf,
    exp,
    getitem,
    max,
    permute_dims,
    pow,
    reshape,
    sigmoid,
    square,
    sum,
    var,
    where,
)
from ._core.tensor import Tensor, attach_methods, to_tensor
from ._core.types import Axis, TensorLike

__all__ = [
    "all",
    "any",
    "argmax",
    "argmin",
    "clone",
    "count_nonzero",
    "expand_dims",
    "flatten",
    "flip",
    "gelu",
    "isfinite",
    "isinf",
    "isnan",
    "moveaxis",
    "norm",
    "silu",
    "softmax",
    "split",
    "squeeze",
    "stack",
    "std",
    "take",
    "unstack",
]


def _one_axis(axis: int, ndim: int, name: str) -> int:
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)):
        raise TypeError(f"{name}: axis must be an int, got {axis!r}")
    if not -ndim <= axis < ndim:
        raise np.exceptions.AxisError(
            f"{name}: axis {axis} is out of bounds for a tensor of {ndim} dimensions"
        )
    return int(axis) % ndim


def _axes(axis: int | Sequence[int], ndim: int, name: str) -> set[int]:
    given = axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = [_one_axis(a, ndim, name) for a in given]
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name}: an axis stands twice in {axis}")
    return set(axes)


# ------------------------------------------------------------------------ activations, statistics
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along one axis. The largest element is subtracted first, which changes
    nothing, so that nothing overflows (and no gradient needs to flow through it).

    >>> mg.softmax(mg.tensor([0.0, 0.0]))
    tensor([0.5, 0.5])
    """
    x = to_tensor(x, "softmax")
    axis = _one_axis(axis, x.ndim, "softmax")
    largest = max(x, axis=axis, keepdims=True).detach() if x.size else 0.0  # max of nothing raises
    weights = exp(x - largest)
    return weights / sum(weights, axis=axis, keepdims=True)


def gelu(x: Tensor) -> Tensor:
    """x Φ(x), with the normal distribution function Φ (Hendrycks & Gimpel 2016, exact form).

    >>> mg.gelu(mg.tensor([0.0, 1.0]))
    tensor([0.       , 0.8413447])
    """
    x = to_tensor(x, "gelu")
    return 0.5 * x * (1.0 + erf(x * math.sqrt(0.5)))


def silu(x: Tensor) -> Tensor:
    """x sigmoid(x), also called swish (Elfwing et al. 2018).

    >>> mg.silu(mg.tensor([0.0, 1.0]))
    tensor([0.       , 0.7310586])
    """
    x = to_tensor(x, "silu")
    return x * sigmoid(x)


def std(x: Tensor, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Tensor:
    """The square root of `var`. The gradient of equal elements is 0 (a subgradient), as in PyTorch.

    >>> mg.std(mg.tensor([1.0, 3.0]))
    tensor(1.)
    """
    return _power(var(x, axis=axis, correction=correction, keepdims=keepdims), 0.5)


def norm(x: Tensor, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """The vector norm (sum |x|**ord) ** (1/ord) over the axes; ord=inf is the largest |x|.

    The gradient of the norm at 0 is 0 (a subgradient), as in PyTorch; so is, for ord < 1, that of
    an element that is 0.

    >>> mg.norm(mg.tensor([3.0, 4.0]))
    tensor(5.)
    """
    x = to_tensor(x, "norm")
    if ord == math.inf:
        return max(abs(x), axis=axis, keepdims=keepdims)
    if ord == 1:
        return sum(abs(x), axis=axis, keepdims=keepdims)
    if not ord > 0:
        raise ValueError(f"norm: ord must be positive or inf, got {ord}")
    powers = square(x) if ord == 2 else _power(abs(x), ord)
    return _power(sum(powers, axis=axis, keepdims=keepdims), 1.0 / ord)


def _power(x: Tensor, exponent: float) -> Tensor:
    """x ** exponent for x >= 0 and a positive exponent, with the slope 0 at x = 0. The slope of
    `pow` is inf there if the exponent is below 1, and the chain rule would make inf * 0 = NaN."""
    zero = x == 0.0
    return where(zero, 0.0, pow(where(zero, 1.0, x), exponent))


# -------------------------------------------------------------------------------------------- shape
def expand_dims(x: Tensor, axis: int | tuple[int, ...] = 0) -> Tensor:
    """A new dimension of size 1 at `axis` (or several), a view.

    >>> mg.expand_dims(mg.ones(3), 0).shape
    (1, 3)
    """
    x = to_tensor(x, "expand_dims")
    ndim = x.ndim + (len(axis) if isinstance(axis, tuple) else 1)
    new = _axes(axis, ndim, "expand_dims")
    sizes = iter(x.shape)
    return reshape(x, tuple(1 if d in new else next(sizes) for d in range(ndim)))


def squeeze(x: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Drop dimensions of size 1: all, or those named. Raises ValueError for another size.

    >>> mg.squeeze(mg.ones(1, 3, 1)).shape
    (3,)
    """
    x = to_tensor(x, "squeeze")
    if axis is None:
        return reshape(x, tuple(n for n in x.shape if n != 1))
    dropped = _axes(axis, x.ndim, "squeeze")
    for d in dropped:
        if x.shape[d] != 1:
            raise ValueError(f"squeeze: axis {d} of shape {x.shape} has size {x.shape[d]}, not 1")
    return reshape(x, tuple(n for d, n in enumerate(x.shape) if d not in dropped))


def flatten(x: Tensor, start_axis: int = 0, end_axis: int = -1) -> Tensor:
    """The dimensions from start_axis to end_axis (included) as one.

    >>> mg.flatten(mg.ones(2, 3, 4), 1).shape
    (2, 12)
    """
    x = to_tensor(x, "flatten")
    if x.ndim == 0:
        return reshape(x, (1,))
    start, end = _one_axis(start_axis, x.ndim, "flatten"), _one_axis(end_axis, x.ndim, "flatten")
    if start > end:
        raise ValueError(f"flatten: start_axis {start_axis} lies behind end_axis {end_axis}")
    return reshape(x, (*x.shape[:start], math.prod(x.shape[start : end + 1]), *x.shape[end + 1 :]))


def moveaxis(x: Tensor, source: int, destination: int) -> Tensor:
    """One dimension moved to another place, a view.

    >>> mg.moveaxis(mg.ones(2, 3, 4), 0, -1).shape
    (3, 4, 2)
    """
    x = to_tensor(x, "moveaxis")
    order = list(range(x.ndim))
    moved = order.pop(_one_axis(source, x.ndim, "moveaxis"))
    order.insert(_one_axis(destination, x.ndim, "moveaxis"), moved)
    return permute_dims(x, tuple(order))


def flip(x: Tensor, axis: int | tuple[int, ...] | None = None) -> Tensor:
    """Elements in reverse order along the axes (all of them by default), a view.

    >>> mg.flip(mg.tensor([1.0, 2.0, 3.0]))
    tensor([3., 2., 1.])
    """
    x = to_tensor(x, "flip")
    turned = set(range(x.ndim)) if axis is None else _axes(axis, x.ndim, "flip")
    return getitem(x, tuple(slice(None, None, -1 if d in turned else 1) for d in range(x.ndim)))


def stack(arrays: Sequence[Tensor], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis.

    >>> mg.stack([mg.ones(2), mg.zeros(2)]).shape
    (2, 2)
    """
    if isinstance(arrays, Tensor) or not isinstance(arrays, (list, tuple)) or not arrays:
        raise TypeError(f"stack: expected a non-empty list or tuple of Tensors, got {arrays!r:.60}")
    tensors = [to_tensor(a, "stack") for a in arrays]
    if len({t.shape for t in tensors}) > 1:
        raise ValueError(f"stack: shapes {', '.join(str(t.shape) for t in tensors)} differ")
    return concat([expand_dims(t, axis) for t in tensors], axis=axis)


def split(x: Tensor, sizes: int | Sequence[int], axis: int = 0) -> tuple[Tensor, ...]:
    """Views of consecutive pieces, of `sizes` elements each (the last may be shorter) or of the
    sizes in a sequence. Raises TypeError for sizes that are not ints, ValueError for a size below 1
    (in a sequence below 0) or sizes that do not add up.

    >>> [piece.shape for piece in mg.split(mg.ones(5), 2)]
    [(2,), (2,), (1,)]
    """
    x = to_tensor(x, "split")
    axis = _one_axis(axis, x.ndim, "split")
    n = x.shape[axis]
    given = np.asarray(sizes)
    if given.dtype.kind not in "iu" or given.ndim > 1:
        raise TypeError(f"split: expected an int or a sequence of ints, got {sizes!r:.60}")
    if given.ndim == 0:
        if given < 1:
            raise ValueError(f"split: the size must be positive, got {given}")
        bounds = [0, *range(int(given), n, int(given)), n]
    else:
        bounds = [0, *np.cumsum(given).tolist()]
        if (given < 0).any():
            raise ValueError(f"split: a size cannot be negative, got {given.tolist()}")
        if bounds[-1] != n:
            raise ValueError(
                f"split: sizes {given.tolist()} add up to {bounds[-1]}, axis {axis} has {n}"
            )
    before = (slice(None),) * axis
    return tuple(getitem(x, (*before, slice(a, b))) for a, b in pairwise(bounds))


def unstack(x: Tensor, axis: int = 0) -> tuple[Tensor, ...]:
    """The slices along an axis, which they lose: the inverse of `stack`; views.

    >>> mg.unstack(mg.tensor([[1.0, 2.0], [3.0, 4.0]]))[1]
    tensor([3., 4.])
    """
    x = to_tensor(x, "unstack")
    before = (slice(None),) * _one_axis(axis, x.ndim, "unstack")
    return tuple(getitem(x, (*before, i)) for i in range(x.shape[axis]))


def clone(x: Tensor) -> Tensor:
    """A copy in new memory, through which gradients flow.

    >>> mg.clone(mg.ones(2))
    tensor([1., 1.])
    """
    x = to_tensor(x, "clone")
    if x.dtype.kind != "f":
        return Tensor(x.numpy(copy=True))
    return x * 1.0


# ----------------------------------------------------------------------------------------- indexing
def take(x: Tensor, indices: TensorLike, axis: int) -> Tensor:
    """The slices of x at integer `indices` along an axis.

    >>> mg.take(mg.tensor([10.0, 20.0, 30.0]), mg.tensor([2, 0]), axis=0)
    tensor([30., 10.])
    """
    x = to_tensor(x, "take")
    before = (slice(None),) * _one_axis(axis, x.ndim, "take")
    return getitem(x, (*before, _integers(indices, "take")))


def _integers(indices: TensorLike, name: str) -> np.ndarray:
    array = indices.numpy() if isinstance(indices, Tensor) else np.asarray(indices)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name}: indices must be integers, got {array.dtype}")
    return array


# ------------------------------------------------------------------- no gradient: NumPy computes
def _plain(function: Callable[..., Any], x: TensorLike, name: str, **options: Any) -> Tensor:
    return Tensor(function(to_tensor(x, name)._array, **options))


def _reduced(
    function: Callable[..., Any], x: TensorLike, name: str, axis: Axis, keepdims: bool
) -> Tensor:
    x = to_tensor(x, name)
    axes = None if axis is None else tuple(_axes(axis, x.ndim, name))
    return _plain(function, x, name, axis=axes, keepdims=keepdims)


def _position(
    function: Callable[..., Any], x: TensorLike, name: str, axis: int | None, keepdims: bool
) -> Tensor:
    x = to_tensor(x, name)
    axis = None if axis is None else _one_axis(axis, x.ndim, name)
    return _plain(function, x, name, axis=axis, keepdims=keepdims)


def argmax(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position of the (first) largest element, int64; of the flattened tensor without an axis.

    >>> mg.argmax(mg.tensor([1.0, 3.0, 2.0]))
    tensor(1)
    """
    return _position(np.argmax, x, "argmax", axis, keepdims)


def argmin(x: Tensor, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """The position of the (first) smallest element, int64; of the flattened tensor without an axis.

    >>> mg.argmin(mg.tensor([1.0, 3.0, 2.0]))
    tensor(0)
    """
    return _position(np.argmin, x, "argmin", axis, keepdims)


def all(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether every element is true (not zero), bool.

    >>> mg.all(mg.tensor([True, False]))
    tensor(False)
    """
    return _reduced(np.all, x, "all", axis, keepdims)


def any(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Whether some element is true (not zero), bool.

    >>> mg.any(mg.tensor([True, False]))
    tensor(True)
    """
    return _reduced(np.any, x, "any", axis, keepdims)


def count_nonzero(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """How many elements are not zero, int64.

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


_NOT_METHODS = {"stack", "unstack", "split"}
attach_methods({name: globals()[name] for name in __all__ if name not in _NOT_METHODS})
