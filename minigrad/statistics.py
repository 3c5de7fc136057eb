"""Order statistics, and random numbers whose distribution is given by tensors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike

from ._core import ops
from ._core.engine.graph import Tensor, adopt, attach_methods, to_tensor
from ._core.fast.loops import memory_checked
from .array_api import broadcast_shapes
from .checks import choice, flag, integer, sizes_of
from .creation import random_floats
from .functions import lerp
from .namespace import led
from .rng import Generator, generator as numpy_generator
from .types import Axis, Shape, TensorLike

__all__ = ["bernoulli", "median", "multinomial", "normal", "quantile"]


# --------------------------------------------------------------------------------- order statistics
def quantile(
    x: Tensor,
    q: TensorLike | Sequence[float],
    axis: Axis = None,
    keepdims: bool = False,
    *,
    method: Literal["linear", "lower", "higher", "midpoint", "nearest"] = "linear",
) -> Tensor:
    """The q-quantiles over the axes, by default of all elements. q in [0, 1] is a number, or a
    tensor or list, whose shape comes before what is left of that of x. Among n elements in
    ascending order it is the one at q (n - 1); between two, the linear interpolation (definition 7
    of Hyndman & Fan 1996), or another `method` of NumPy.

    The gradient flows to the elements that it is interpolated between, and to q; of equal elements,
    to those that `argsort` puts there. Where there is a NaN, the quantile is NaN. Integers give the
    default dtype. Raises ValueError for q outside [0, 1] and for an axis without elements.

    >>> mg.quantile(mg.tensor([1.0, 2.0, 4.0]), mg.tensor([0.25, 1.0]))
    tensor([1.5, 4. ])
    """
    return _quantile("quantile", x, q, axis, keepdims, method)


def median(x: Tensor, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """`quantile` for q = 0.5: of an even number of elements, the mean of the two in the middle, as
    in NumPy. (PyTorch's median is the lower of them.)

    >>> mg.median(mg.tensor([[1.0, 3.0, 2.0], [6.0, 4.0, 5.0]]), axis=1)
    tensor([2., 5.])
    """
    return _quantile("median", x, 0.5, axis, keepdims, "linear")


@memory_checked
def _quantile(name: str, x: TensorLike, q: Any, axis: Axis, keepdims: bool, method: str) -> Tensor:
    x = ops.floating(x, name)
    given = to_tensor(np.asarray(q, np.float64) if isinstance(q, (list, tuple)) else q, name)
    choice(method, f"{name}: method", "linear", "lower", "higher", "midpoint", "nearest")
    share = np.asarray(q if isinstance(q, float) else given._array, np.float64)
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"{name}: q must be between 0 and 1, got {q!r:.60}")
    axes = ops.reduced_axes(name, axis, x.ndim)
    kept = tuple(d for d in range(x.ndim) if d not in axes)
    left = tuple(x.shape[d] for d in kept)
    n = math.prod(x.shape[d] for d in axes)
    if n == 0:
        raise ValueError(f"{name}: no elements over axis {axis} of shape {x.shape}")
    rows = ops.sort(ops.reshape(ops.permute_dims(x, kept + axes), (math.prod(left), n)), axis=-1)

    place = share.reshape(-1) * (n - 1)
    low, high = np.floor(place).astype(np.int64), np.ceil(place).astype(np.int64)
    weight = place - low
    if method == "nearest":
        low = high = np.rint(place).astype(np.int64)
    elif method == "lower":
        high = low
    elif method == "higher":
        low = high
    elif method == "midpoint":
        weight = np.where(low == high, 0.0, 0.5)
    odd = np.isnan(rows._array[:, -1:])  # NaN is sorted last
    low, high = (np.where(odd, n - 1, np.broadcast_to(p, (len(odd), p.size))) for p in (low, high))
    below, above = rows.take_along_axis(low, 1), rows.take_along_axis(high, 1)
    factor = adopt(weight.astype(x.dtype))
    if method == "linear" and given.requires_grad:
        moving = ops.reshape(given, -1).astype(x.dtype)
        factor = factor + (moving - moving.detach()) * (n - 1)
    found = lerp(below, above, factor)
    alike = np.isinf(below._array) & (below._array == above._array)
    if alike.any():
        found = ops.where(adopt(alike), below, found)
    sizes = tuple(1 if d in axes else m for d, m in enumerate(x.shape)) if keepdims else left
    return ops.reshape(found.mT, share.shape + sizes)


# ----------------------------------------------------------------------------------- random numbers
def _size(name: str, given: tuple[int, ...], size: Shape | None) -> tuple[int, ...]:
    """The shape of the result: `size`, or that of the parameters."""
    if size is None:
        return given
    wanted = sizes_of(size, name)
    try:
        if np.broadcast_shapes(given, wanted) == wanted:
            return wanted
    except ValueError:
        pass
    raise ValueError(f"{name}: parameters of shape {given} do not broadcast to size {wanted}")


@memory_checked
def normal(
    mean: TensorLike = 0.0,
    std: TensorLike = 1.0,
    size: Shape | None = None,
    *,
    dtype: DTypeLike | None = None,
    generator: Generator | None = None,
) -> Tensor:
    """Normal random numbers, mean + std * standard normal ones, of shape `size`, by default that of
    mean and std, broadcast. Gradients flow to mean and std (the reparametrisation of Kingma &
    Welling 2014). Raises ValueError for a negative std.

    >>> mg.normal(mg.tensor([0.0, 100.0]), 0.5).shape
    (2,)
    """
    centre, spread = ops.floating_operands((mean, std), "normal")
    if not (spread._array >= 0).all():
        raise ValueError(f"normal: std must not be negative, got {std!r:.60}")
    shape = _size("normal", broadcast_shapes(centre.shape, spread.shape), size)
    kind = centre.dtype if dtype is None else dtype
    noise = adopt(random_floats("standard_normal", "normal", shape, kind, generator))
    return ops.astype(centre, noise.dtype) + ops.astype(spread, noise.dtype) * noise


@memory_checked
def bernoulli(
    p: TensorLike, size: Shape | None = None, *, generator: Generator | None = None
) -> Tensor:
    """1 with probability p and 0 otherwise, in the dtype of p, of shape `size`, by default that of
    p. No gradient flows to p, as in PyTorch. Raises ValueError for p outside [0, 1].

    >>> mg.bernoulli(mg.tensor([0.0, 1.0]))
    tensor([0., 1.])
    """
    chance = to_tensor(p, "bernoulli")
    if not ((chance._array >= 0) & (chance._array <= 1)).all():
        raise ValueError(f"bernoulli: p must be between 0 and 1, got {p!r:.60}")
    shape = _size("bernoulli", chance.shape, size)
    uniform = random_floats("random", "bernoulli", shape, np.float64, generator)
    return adopt(np.asarray(uniform < chance._array, chance.dtype))


@memory_checked
def multinomial(
    weights: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator: Generator | None = None,
) -> Tensor:
    """num_samples positions drawn in proportion to nonnegative weights (n,), or for each row of (m,
    n), int64, (num_samples,) or (m, num_samples). Without replacement none is drawn twice: each
    further one in proportion to the weights that are left (Efraimidis & Spirakis 2006).

    Raises ValueError for weights that are negative, not finite, or all 0 in a row, and without
    replacement for a row with fewer than num_samples weights above 0.

    >>> mg.multinomial(mg.tensor([0.0, 2.0, 0.0]), 3, replacement=True)
    tensor([1, 1, 1])
    """
    given = to_tensor(weights, "multinomial")
    count = integer(num_samples, "multinomial: num_samples", 1)
    again = flag(replacement, "multinomial: replacement")
    if given.ndim not in (1, 2) or given.shape[-1] == 0:
        raise ValueError(f"multinomial: expected weights (n,) or (m, n), got shape {given.shape}")
    w = np.atleast_2d(given._array).astype(np.float64)
    if not (np.isfinite(w) & (w >= 0)).all():
        raise ValueError("multinomial: weights must be finite and not negative")
    fewest = int((w > 0).sum(-1).min(initial=w.shape[-1]))
    if fewest < (1 if again else count):
        raise ValueError(
            f"multinomial: cannot draw {count} of {fewest} weights above 0"
            + (" without replacement; give replacement=True" if fewest else "")
        )
    random = numpy_generator(generator, "multinomial")
    positions = weighted_positions(w, count, again, random)
    return adopt(positions.reshape((*given.shape[:-1], count)))


def weighted_positions(
    weights: np.ndarray, count: int, replacement: bool, random: np.random.Generator
) -> np.ndarray:
    """`count` positions for each row of weights (m, n), in proportion to them, int64, (m, count).
    The weights are finite and not negative, and enough of them are above 0.

    >>> rows = np.array([[0.0, 5e-324, 0.0], [1e308, 0.0, 0.0]])
    >>> mg.statistics.weighted_positions(rows, 2, True, np.random.default_rng(0))
    array([[1, 1],
           [0, 0]])
    """
    w = np.asarray(weights, np.float64)  # sums of float32 would lose small weights
    if not replacement:  # by logarithms, as quotients overflow
        with np.errstate(divide="ignore", invalid="ignore"):
            waits = np.log(random.standard_exponential(w.shape)) - np.log(w)
        return np.argsort(waits, -1, kind="stable")[:, :count].astype(np.int64, copy=False)
    ends = np.cumsum(w / w.max(-1, keepdims=True), -1)
    drawn = random.random((len(w), count)) * ends[:, -1:]
    drawn = np.minimum(drawn, np.nextafter(ends[:, -1:], 0))  # the product may be rounded up
    # A search for sorted numbers goes through memory in order: 3 times faster, with shuffle.
    if ordered := w.shape[-1] > 1000:
        drawn.sort(-1)
    rows = [np.searchsorted(e, d, "right") for e, d in zip(ends, drawn, strict=True)]
    positions = np.array(rows, np.int64).reshape(len(w), count)
    return random.permuted(positions, axis=-1) if ordered else positions


led(globals(), __all__)
attach_methods(globals(), ["bernoulli", "median", "multinomial", "quantile"])
