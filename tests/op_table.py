"""One row per primitive: what test_op_table.py crosses with dtypes, layouts, sizes and orders.

A row says how to call the primitive, what NumPy computes, the domain of the inputs (away from kinks
and poles), their shapes and attributes, which inputs have a gradient, how accurate the value must
be, and what happens at special values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import minigrad as mg
from minigrad._core import ops

INF, NAN = math.inf, math.nan


# ----------------------------------------------------------------------------------------- domains
def real(random, shape):
    """Both signs, away from 0 and ±1, where some function here has a kink."""
    magnitude = np.where(
        random.random(shape) < 0.5,
        random.uniform(0.2, 0.85, shape),
        random.uniform(1.15, 2.0, shape),
    )
    return random.choice((-1.0, 1.0), shape) * magnitude


def positive(random, shape):
    return random.uniform(0.3, 3.0, shape)


def distinct(random, shape):
    """No two elements closer than 0.1, so perturbations do not change which is the largest."""
    return random.permutation(math.prod(shape)).reshape(shape) * 0.1 - 1.0


def shifted(random, shape):
    """Also distinct, and at least 0.05 from any element of `distinct`."""
    return distinct(random, shape) + 0.05


def half_integers(random, shape):
    """Dividends with a remainder far from 0 and from the divisor ..."""
    return random.integers(-3, 4, shape) + random.uniform(0.4, 0.6, shape)


def near_ones(random, shape):
    """... for these divisors."""
    return random.choice((-1.0, 1.0), shape) * random.uniform(0.98, 1.02, shape)


def near_integers(random, shape):
    """Numbers to round, not close to a half."""
    return random.integers(-3, 4, shape) + random.uniform(-0.4, 0.4, shape)


def inside(random, shape):
    """In (-1, 1), away from 0 and the ends."""
    return random.choice((-1.0, 1.0), shape) * random.uniform(0.1, 0.9, shape)


def above_one(random, shape):
    return random.uniform(1.2, 4.0, shape)


def small_integers(random, shape):
    """Ties are likely, to test both outcomes of equality."""
    return random.integers(-2, 3, shape).astype(float)


def booleans(random, shape):
    return random.random(shape) < 0.5


# ------------------------------------------------------------------------------------- rows, cases
@dataclass(frozen=True)
class Special:
    """Inputs, the value, and the gradients of its sum, up to so many rounding errors."""

    what: str
    inputs: tuple[Any, ...]
    value: Any
    gradients: tuple[Any, ...] = ()
    options: tuple[tuple[str, Any], ...] = ()
    roundings: int = 4


Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Row:
    name: str
    function: Callable[..., Any]  # of Tensors and attributes
    reference: Callable[..., Any]  # the same for NumPy arrays
    domains: tuple[Callable[..., np.ndarray], ...] = (real,)  # one for each input
    cases: tuple[tuple[Shapes, dict[str, Any]], ...] = ()
    differentiable: tuple[int, ...] = (0,)
    ulps: float = 0.5  # of the exact result; 0.5 is correctly rounded
    scale: Callable[..., Any] | None = None  # the magnitude that ulps refer to, if terms can cancel
    floating: bool = False  # integers and bools become floats, where NumPy has no such function
    eps: float = 1e-6  # of gradcheck
    specials: tuple[Special, ...] = ()


def cases(shapes, *options):
    return tuple(itertools.product(shapes, options or ({},)))


UNARY = (((),), ((0,),), ((3, 0),), ((5,),), ((3, 4),), ((2, 3, 2),))
BINARY = (
    ((3, 4), (3, 4)),
    ((3, 4), (4,)),
    ((3, 1), (1, 4)),
    ((2, 1, 4), (3, 1)),
    ((2, 3), ()),
    ((), (2, 3)),
    ((), ()),
    ((0, 3), (3,)),
    ((2, 0), (2, 1)),
)
TERNARY = (
    ((3, 4), (3, 4), (3, 4)),
    ((3, 1), (4,), ()),
    ((), (3, 1), (1, 4)),
    ((2, 1, 1), (3, 1), (4,)),
    ((0, 3), (3,), (1, 1)),
    ((), (), ()),
)
REDUCED = (
    (((2, 3, 4),), {}),
    (((2, 3, 4),), {"keepdims": True}),
    (((2, 3, 4),), {"axis": 1}),
    (((2, 3, 4),), {"axis": (0, -1)}),
    (((2, 3, 4),), {"axis": (2, 0), "keepdims": True}),
    (((2, 3),), {"axis": ()}),
    (((1, 4),), {"axis": 0}),
    (((5,),), {"axis": -1}),
    (((),), {}),
    (((0, 3),), {"axis": 1}),
)
OF_NOTHING = ((((0, 3),), {"axis": 0}), (((0,),), {}), (((2, 0, 3),), {"axis": (1, 2)}))


def unary(name, reference, domain=real, **more):
    return Row(name, getattr(ops, name), reference, (domain,), cases(UNARY), **more)


def binary(name, reference, domains=(real, real), **more):
    more = {"differentiable": (0, 1)} | more
    return Row(name, getattr(ops, name), reference, domains, cases(BINARY), **more)


def comparison(name, *specials):
    reference, domains = getattr(np, name), (small_integers, small_integers)
    return binary(name, reference, domains, differentiable=(), specials=specials)


def reduction(name, reference, domain=real, nothing=True, **more):
    every = REDUCED + (OF_NOTHING if nothing else ())
    return Row(name, getattr(mg, name), reference, (domain,), every, **more)


# ------------------------------------------------------------------ what NumPy has no function for
def np_reciprocal(x):
    if x.dtype.kind != "f":  # NumPy truncates: all but 1, 0 and -1 give 0
        raise TypeError
    return np.reciprocal(x)


def np_sigmoid(x):
    x = x.astype(np.result_type(x, np.float64))  # longdouble stays
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def np_softplus(x):
    return np.logaddexp(x.astype(np.result_type(x, np.float64)), 0)


def np_sigmoid_slope(x):
    return np_sigmoid(x) * np_sigmoid(-x.astype(np.result_type(x, np.float64)))


def np_normal(x):
    """The normal distribution function."""
    return 0.5 * np.vectorize(math.erfc, otypes=[np.float64])(-math.sqrt(0.5) * x)


def np_gelu_slope(x):
    return np_normal(x) + x * np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)


def np_silu_slope(x):
    return np_sigmoid(x) * (1 + x * (1 - np_sigmoid(x)))


def np_mish(x):
    return x * np.tanh(np_softplus(x))


def np_mish_slope(x):
    t = np.tanh(np_softplus(x))
    return t + x * (1 - t * t) * np_sigmoid(x)


def ones_like(*inputs, **options):
    return np.ones_like(np.asarray(inputs[0], float))


def np_erf(x):
    return np.vectorize(math.erf, otypes=[np.float64])(x)


def np_erfinv(x):
    """By Newton's method on erf."""
    x = np.asarray(x, float)
    y = np.zeros_like(x)
    inside = np.abs(x) < 1
    for _ in range(60):
        y = y - np.where(inside, np_erf(y) - x, 0) * (math.sqrt(math.pi) / 2) * np.exp(y * y)
    return np.where(inside, y, np.where(np.abs(x) == 1, x * math.inf, math.nan))


SLOPE_OF_ERFINV = math.sqrt(math.pi) / 2 * math.exp(0.47693627620446987**2)  # at 1/2


def np_logsumexp(x, axis=None, keepdims=False):
    """logaddexp.reduce takes one axis at a time."""
    axes = range(x.ndim) if axis is None else (axis if isinstance(axis, tuple) else (axis,))
    axes = sorted((a % x.ndim for a in axes), reverse=True)
    x = np.asarray(x, float)
    for a in axes:
        x = np.logaddexp.reduce(x, axis=a, keepdims=keepdims)
    return np.asarray(x)


def np_sum_product(x, y, axis=None, keepdims=False):
    return np.sum(x * y, axis=axis, keepdims=keepdims)


def np_put(x, index, shape):
    out = np.zeros(shape, x.dtype)
    np.add.at(out, index, x)
    return out


ALONG = (  # the shape of the source, indices of the same rank, an axis
    ((4,), np.array([3, 0, 0, -1, 2]), 0),
    ((3, 4), np.array([[0], [3], [-4]]), 1),
    ((3, 4), np.array([[2, 0, 2, -1], [2, 1, 0, 0]]), 0),
    ((2, 3, 2), np.array([[[0, 2], [1, 1]], [[2, 2], [-1, 0]]]), -2),
    ((2, 3), np.zeros((2, 0), int), 1),
)


def np_add_along_axis(x, indices, axis, shape):
    out = np.zeros(shape, x.dtype)
    grid = list(np.indices(indices.shape))
    grid[axis] = indices
    np.add.at(out, tuple(grid), x)
    return out


WINDOWS = (  # the shape of x, then kernel size, stride, dilation
    ((5,), 2, 1, 1),
    ((7,), (3,), 2, 2),
    ((2, 5), 5, 3, 1),
    ((2, 5, 6), (3, 2), 1, 1),
    ((2, 5, 6), (2, 3), (2, 1), (3, 2)),
    ((1, 2, 4, 4), (2, 2), 2, 1),
    ((3, 4), (1, 1), (1, 3), 1),
    ((2, 3, 4), (2, 1, 2), (1, 2, 3), (1, 5, 2)),
    ((0, 4), 2, 1, 1),
)


def np_sliding_windows(x, kernel_size, stride=1, dilation=1):
    """Wider windows subsampled by the dilation, at every stride-th position."""
    kernel = np.atleast_1d(kernel_size)
    k = len(kernel)
    stride, dilation = (np.broadcast_to(n, k) for n in (stride, dilation))
    axes = tuple(range(x.ndim - k, x.ndim))
    windows = np.lib.stride_tricks.sliding_window_view(x, (kernel - 1) * dilation + 1, axes)
    steps = tuple(slice(None, None, int(n)) for n in (*stride, *dilation))
    return windows[(..., *steps)]


def np_overlap_add(x, shape, stride=1, dilation=1):
    """Add every element to the place that `np_sliding_windows` takes it from."""
    if x.dtype.kind != "f":
        raise TypeError("floats only")
    kernel = x.shape[len(shape) :]
    places = np_sliding_windows(
        np.arange(math.prod(shape)).reshape(shape), kernel, stride, dilation
    )
    return np_put(x, places.reshape(x.shape), (math.prod(shape),)).reshape(shape)


def folded():
    """Windows of the shapes above, and the arguments to add them up again."""
    for shape, kernel, stride, dilation in WINDOWS:
        windows = np_sliding_windows(np.zeros(shape), kernel, stride, dilation)
        yield (windows.shape,), {"shape": shape, "stride": stride, "dilation": dilation}


def np_pad(x, pad_width, mode="constant", value=0):
    names = {"replicate": "edge", "circular": "wrap"}
    options = {"constant_values": value} if mode == "constant" else {}
    return np.pad(x, pad_width, names.get(mode, mode), **options)


PACKED = (  # shapes of x and y, and the shape that y is used in
    ((2, 3), (2, 3, 4), (2, 3, 4)),
    ((2, 6), (3, 2, 3, 2, 2), (3, 6, 4)),
    ((2, 1, 3), (2, 6, 2), (2, 2, 3, 2)),
    ((1, 1), (4,), (4, 1, 1)),
    ((2, 4), (0, 4, 3), (0, 4, 3)),
    ((2, 0), (2, 0, 3), (2, 0, 3)),
)


def np_packed_matmul(x, y, bias=None, *, shape):
    product = np.matmul(x, y.reshape(shape))
    return product if bias is None else product + bias[..., None]


def np_packed_outer(x, y, shape):
    return np.sum(np.matmul(x, y.reshape(shape).swapaxes(-1, -2)), axis=0)


def absolute(reference):
    """The magnitude of a sum of products: the sum with absolute values."""
    return lambda *inputs, **options: np.abs(reference(*(np.abs(x) for x in inputs), **options))


def np_concat(*arrays, axis=0):
    return np.concatenate(arrays, axis=axis)


def np_linear(x, weight, bias=None):
    product = x @ np.swapaxes(weight, -1, -2)
    return product if bias is None else product + (bias if bias.ndim == 1 else bias[..., None, :])


def np_lstm_cell(gates, cell):
    i, f, g, o = np.split(gates, 4)
    c = np_sigmoid(f) * cell + np_sigmoid(i) * np.tanh(g)
    return np.concatenate([c, np_sigmoid(o) * np.tanh(c)])


def np_lstm_scale(gates, cell):
    """The next cell is a sum of two terms, which may cancel; the output is as accurate as that."""
    return np.tile(np.abs(cell) + 1.0, (2, *[1] * (cell.ndim - 1)))


def np_softmax_cross_entropy(x, labels):
    return -np_log_softmax(x)[np.arange(len(labels)), labels]


def np_variance(x, axis=None, keepdims=False, correction=0):
    return np.var(x, axis=axis, keepdims=keepdims, ddof=correction)


def np_log_softmax(x, axis=-1):
    return x - np_logsumexp(x, axis, True)


def np_cumulated(function, start):
    def reference(x, axis=0, include_initial=False):
        out = function(x, axis=axis)
        first = np.full((*x.shape[:axis], 1, *x.shape[axis + 1 :]), start, out.dtype)
        return np.concatenate([first, out], axis) if include_initial else out

    return reference


def np_linear_recurrence(factor, x, axis=-1):
    factor, x = (np.moveaxis(a.astype(float), axis, 0) for a in (factor, x))
    out = np.zeros_like(x)
    for k in range(len(x)):
        out[k] = factor[k] * (out[k - 1] if k else 0) + x[k]
    return np.moveaxis(out, 0, axis)


def np_sort(x, axis=-1, descending=False, stable=False):
    return np.flip(np.sort(x, axis), axis) if descending else np.sort(x, axis)


def round_trip(x, dtype):
    """To another dtype and back, for finite differences."""
    return mg.astype(mg.astype(x, dtype), x.dtype)


# ---------------------------------------------------------------------------- shape cases, indices
INDICES = (
    ((4,), 1),
    ((4,), -1),
    ((3, 4), 2),
    ((3, 4), slice(1, None)),
    ((3, 4), (slice(None), slice(None, None, -2))),
    ((3, 4), (slice(2, 0, -1), 1)),
    ((3, 4), (Ellipsis, 0)),
    ((3, 4), (None, slice(None), None, 2)),
    ((2, 3), (1, 2)),
    ((2, 3), ()),
    ((2, 3), slice(2, 2)),
    ((), ()),
    ((), (None, Ellipsis)),
    ((3, 4), np.array([0, 2, 0])),
    ((3, 4), np.array([[0, -1], [1, 1]])),
    ((3, 4), (np.array([0, 2, 0]), np.array([1, 3, 1]))),
    ((3, 4), (slice(None), np.array([3, 3, 0]))),
    ((2, 3, 4), (np.array([1, 0]), slice(None), np.array([0, 0]))),
    ((3, 4), (np.array([[0], [2]]), np.array([1, 3]))),
    ((3,), np.array([True, False, True])),
    ((2, 3), np.array([[True, False, True], [False, False, True]])),
    ((2, 3), (slice(None), np.array([True, False, True]))),
    ((2, 3), (1, np.array([0, 0, 2]))),
    ((3,), np.array([], np.int64)),
    ((0, 3), slice(None)),
)
MATRICES = (
    ((3, 4), (4, 2)),
    ((4,), (4,)),
    ((3, 4), (4,)),
    ((4,), (4, 2)),
    ((2, 3, 4), (4, 2)),
    ((2, 3, 4), (2, 4, 2)),
    ((3, 4), (2, 4, 2)),
    ((2, 1, 3, 4), (3, 4, 2)),
    ((2, 3, 4), (4,)),
    ((4,), (2, 4, 3)),
    ((1, 1), (1, 1)),
    ((0, 4), (4, 2)),
    ((3, 0), (0, 2)),
    ((3, 4), (4, 0)),
    ((2, 0, 4), (2, 4, 3)),
)
LINEAR = (
    ((3, 4), (2, 4), (2,)),
    ((3, 4), (2, 4)),  # without a bias
    ((4,), (2, 4), (2,)),
    ((2, 3, 4), (5, 4), (5,)),
    ((0, 4), (2, 4), (2,)),
    ((3, 0), (2, 0), (2,)),
    ((1, 1), (1, 1), (1,)),
    ((3, 5, 4), (3, 2, 4), (3, 2)),  # stacks
    ((2, 5, 4), (2, 20, 4)),
)
RESHAPED = ((12,), (2, -1), (4, 1, 3))
ORDERS = tuple(itertools.permutations(range(3)))
BROADCAST = (
    (((4,),), {"shape": (3, 4)}),
    (((3, 1),), {"shape": (2, 3, 4)}),
    (((),), {"shape": (2, 3)}),
    (((2, 3),), {"shape": (2, 3)}),
    (((1, 3),), {"shape": (0, 3)}),
    (((),), {"shape": ()}),
)

CUMULATED = (
    (((4,),), {}),
    (((2, 3, 2),), {"axis": 1}),
    (((3, 4),), {"axis": 0, "include_initial": True}),
    (((1, 3),), {"axis": 1}),
    (((0, 3),), {"axis": 0, "include_initial": True}),
    (((2, 0),), {"axis": 0}),
)
ROLLED = (
    (((5,),), {"shift": 2}),
    (((2, 3),), {"shift": -4}),
    (((2, 3),), {"shift": 1, "axis": -1}),
    (((2, 3, 2),), {"shift": (1, -1), "axis": (2, 1)}),
    (((2, 3),), {"shift": 1, "axis": (0, 1)}),
    (((0, 3),), {"shift": 1, "axis": 0}),
    (((),), {"shift": 3}),
)
REPEATED = (
    (((3,),), {"repeats": 2}),
    (((2, 3),), {"repeats": 2}),
    (((2, 3),), {"repeats": 3, "axis": 0}),
    (((2, 3, 2),), {"repeats": 2, "axis": -2}),
    (((2, 3),), {"repeats": np.array([2, 0, 1]), "axis": 1}),
    (((2, 3),), {"repeats": 0, "axis": 1}),
    (((0, 3),), {"repeats": 2, "axis": 0}),
    (((),), {"repeats": 2}),
)
DIAGONALS = (
    (((3, 3),), {}),
    (((3, 4),), {"offset": 1}),
    (((3, 4),), {"offset": -2}),
    (((4, 2),), {"offset": -1}),
    (((2, 5),), {"offset": 7}),
    (((2, 3, 4),), {"axis1": 0, "axis2": 2}),
    (((2, 3, 4),), {"offset": -1, "axis1": 2, "axis2": 1}),
    (((0, 3),), {}),
)
SORTED = (
    (((5,),), {}),
    (((5,),), {"descending": True}),
    (((3, 4),), {"axis": 0}),
    (((2, 3, 2),), {"axis": 1, "descending": True, "stable": True}),
    (((0, 3),), {"axis": 0}),
    (((2, 0),), {}),
)

# -------------------------------------------------------------------------------- the table itself
TABLE = (
    # ---------------------------------------------------------------------- elementwise, one input
    unary("negative", np.negative),
    unary(
        "abs",
        np.abs,
        specials=(
            Special("abs'(±0) is 0", ([0.0, -0.0],), [0.0, 0.0], ([0.0, 0.0],)),
            Special("abs of infinities and NaN", ([-INF, NAN],), [INF, NAN]),
        ),
    ),
    unary(
        "sign",
        np.sign,
        specials=(
            Special(
                "sign of zeros, infinities and NaN", ([0.0, INF, -INF, NAN],), [0.0, 1.0, -1.0, NAN]
            ),
            Special(
                "sign' is 0 everywhere", ([-2.0, 0.0, 3.0],), [-1.0, 0.0, 1.0], ([0.0, 0.0, 0.0],)
            ),
        ),
    ),
    unary(
        "floor",
        np.floor,
        half_integers,
        specials=(
            Special("floor of halves", ([1.5, -1.5, -0.0, INF, NAN],), [1.0, -2.0, -0.0, INF, NAN]),
            Special("floor' is 0", ([1.0, 0.5],), [1.0, 0.0], ([0.0, 0.0],)),
        ),
    ),
    unary(
        "ceil",
        np.ceil,
        half_integers,
        specials=(Special("ceil of halves", ([1.5, -1.5, -INF],), [2.0, -1.0, -INF]),),
    ),
    unary(
        "trunc",
        np.trunc,
        half_integers,
        specials=(Special("trunc of halves", ([1.5, -1.5, NAN],), [1.0, -1.0, NAN]),),
    ),
    Row(
        "round",
        mg.round,
        np.round,
        (near_integers,),
        cases(UNARY),
        specials=(
            Special(
                "halves to even, with gradient 0",
                ([0.5, 1.5, 2.5, -0.5, -1.5],),
                [0.0, 2.0, 2.0, -0.0, -2.0],
                ([0.0] * 5,),
            ),
            Special(
                "to decimals",
                ([0.125, 2.25, -1.75],),
                [0.1, 2.2, -1.8],
                ([0.0] * 3,),
                (("decimals", 1),),
            ),
            Special("to tens", ([15.0, 26.0],), [20.0, 30.0], (), (("decimals", -1),)),
        ),
    ),
    unary("square", np.square, specials=(Special("square'(0) is 0", ([0.0],), [0.0], ([0.0],)),)),
    unary(
        "sqrt",
        np.sqrt,
        positive,
        floating=True,
        specials=(
            Special("sqrt'(0) is inf", ([0.0],), [0.0], ([INF],)),
            Special("sqrt below 0 is NaN, of inf inf", ([-1.0, INF],), [NAN, INF]),
        ),
    ),
    unary(
        "rsqrt",
        lambda x: 1 / np.sqrt(x),
        positive,
        floating=True,
        ulps=1.5,
        specials=(Special("rsqrt at 0, inf, below 0", ([0.0, INF, -1.0],), [INF, 0.0, NAN]),),
    ),
    unary(
        "reciprocal",
        np_reciprocal,
        specials=(Special("1/0 keeps the sign of zero", ([0.0, -0.0, INF],), [INF, -INF, 0.0]),),
    ),
    unary(
        "relu",
        lambda x: np.maximum(x, 0),
        specials=(
            Special("relu'(±0) is 0", ([0.0, -0.0],), [0.0, 0.0], ([0.0, 0.0],)),
            Special("relu(NaN) is NaN with gradient 1", ([NAN],), [NAN], ([1.0],)),
            Special("relu of infinities", ([INF, -INF],), [INF, 0.0], ([1.0, 0.0],)),
        ),
    ),
    unary(
        "exp",
        np.exp,
        floating=True,
        ulps=2,
        specials=(
            Special(
                "exp of ±0, infinities, NaN",
                ([0.0, -0.0, -INF, INF, NAN],),
                [1.0, 1.0, 0.0, INF, NAN],
            ),
            Special(
                "exp overflows and underflows", ([1000.0, -1000.0],), [INF, 0.0], ([INF, 0.0],)
            ),
        ),
    ),
    unary(
        "exp2",
        np.exp2,
        real,
        floating=True,
        ulps=2,
        specials=(Special("exp2 at the ends", ([-INF, INF, 10.0],), [0.0, INF, 1024.0]),),
    ),
    unary(
        "expm1",
        np.expm1,
        floating=True,
        ulps=2.5,
        specials=(
            Special(
                "expm1 of infinities, NaN", ([-INF, INF, NAN, -1000.0],), [-1.0, INF, NAN, -1.0]
            ),
            Special(
                "expm1 keeps tiny values",
                ([0.0, 1e-30, -1e-30],),
                [0.0, 1e-30, -1e-30],
                ([1.0, 1.0, 1.0],),
            ),
        ),
    ),
    unary(
        "log",
        np.log,
        positive,
        floating=True,
        ulps=2,
        specials=(
            Special("log of ±0, 1, inf", ([0.0, -0.0, 1.0, INF],), [-INF, -INF, 0.0, INF]),
            Special("log below 0 and of NaN is NaN", ([-1.0, -INF, NAN],), [NAN, NAN, NAN]),
            Special("log'(0) is inf", ([0.0],), [-INF], ([INF],)),
        ),
    ),
    unary(
        "log2",
        np.log2,
        positive,
        floating=True,
        ulps=2,
        specials=(
            Special(
                "log2 of powers of 2, below 0", ([8.0, 0.25, 0.0, -1.0],), [3.0, -2.0, -INF, NAN]
            ),
        ),
    ),
    unary(
        "log10",
        np.log10,
        positive,
        floating=True,
        ulps=2,
        specials=(Special("log10 of powers of 10", ([1000.0, 0.0, -1.0],), [3.0, -INF, NAN]),),
    ),
    unary(
        "log1p",
        np.log1p,
        positive,
        floating=True,
        ulps=2.5,
        specials=(
            Special(
                "log1p at -1, below, inf, NaN", ([-1.0, -2.0, INF, NAN],), [-INF, NAN, INF, NAN]
            ),
            Special(
                "log1p keeps tiny values",
                ([0.0, 1e-30, -1e-30],),
                [0.0, 1e-30, -1e-30],
                ([1.0, 1.0, 1.0],),
            ),
        ),
    ),
    unary(
        "sin",
        np.sin,
        floating=True,
        ulps=2,
        specials=(Special("sin of infinities is NaN", ([0.0, INF, -INF],), [0.0, NAN, NAN]),),
    ),
    unary(
        "cos",
        np.cos,
        floating=True,
        ulps=2,
        specials=(Special("cos of infinities is NaN", ([0.0, INF, -INF],), [1.0, NAN, NAN]),),
    ),
    unary(
        "sinc",
        np.sinc,
        specials=(Special("sinc at 0 and NaN", ([0.0, NAN],), [1.0, NAN], ([0.0, NAN],)),),
    ),
    unary(
        "tan",
        np.tan,
        inside,
        floating=True,
        ulps=4,
        specials=(Special("tan of infinities is NaN", ([0.0, INF],), [0.0, NAN], ([1.0, NAN],)),),
    ),
    unary(
        "asin",
        np.arcsin,
        inside,
        floating=True,
        ulps=4,
        specials=(Special("asin at the ends", ([1.0, 1.5],), [math.pi / 2, NAN], ([INF, NAN],)),),
    ),
    unary(
        "acos",
        np.arccos,
        inside,
        floating=True,
        ulps=4,
        specials=(Special("acos at the ends", ([1.0, -1.0],), [0.0, math.pi], ([-INF, -INF],)),),
    ),
    unary(
        "atan",
        np.arctan,
        real,
        floating=True,
        ulps=4,
        specials=(
            Special(
                "atan of infinities", ([INF, -INF],), [math.pi / 2, -math.pi / 2], ([0.0, 0.0],)
            ),
        ),
    ),
    unary(
        "sinh",
        np.sinh,
        real,
        floating=True,
        ulps=4,
        specials=(Special("sinh overflows", ([1000.0, 0.0],), [INF, 0.0], ([INF, 1.0],)),),
    ),
    unary(
        "cosh",
        np.cosh,
        real,
        floating=True,
        ulps=4,
        specials=(Special("cosh overflows", ([1000.0, 0.0],), [INF, 1.0], ([INF, 0.0],)),),
    ),
    unary(
        "asinh",
        np.arcsinh,
        real,
        floating=True,
        ulps=4,
        specials=(Special("asinh of the largest", ([0.0, INF],), [0.0, INF], ([1.0, 0.0],)),),
    ),
    unary(
        "acosh",
        np.arccosh,
        above_one,
        floating=True,
        ulps=4,
        specials=(Special("acosh at 1 and below", ([1.0, 0.5],), [0.0, NAN], ([INF, NAN],)),),
    ),
    unary(
        "atanh",
        np.arctanh,
        inside,
        floating=True,
        ulps=4,
        specials=(Special("atanh at 1 and beyond", ([1.0, 2.0],), [INF, NAN]),),
    ),
    unary(
        "tanh",
        np.tanh,
        floating=True,
        ulps=2.5,
        specials=(
            Special(
                "tanh saturates with gradient 0",
                ([1000.0, -1000.0, INF, -INF],),
                [1.0, -1.0, 1.0, -1.0],
                ([0.0, 0.0, 0.0, 0.0],),
            ),
            Special("tanh of ±0, NaN", ([0.0, -0.0, NAN],), [0.0, -0.0, NAN], ([1.0, 1.0, NAN],)),
        ),
    ),
    unary(
        "sigmoid",
        np_sigmoid,
        floating=True,
        ulps=2.5,
        specials=(
            Special(
                "sigmoid saturates with gradient 0",
                ([1000.0, -1000.0, INF, -INF],),
                [1.0, 0.0, 1.0, 0.0],
                ([0.0, 0.0, 0.0, 0.0],),
            ),
            Special("sigmoid of 0, NaN", ([0.0, NAN],), [0.5, NAN], ([0.25, NAN],)),
        ),
    ),
    unary(
        "softplus",
        np_softplus,
        floating=True,
        ulps=2.5,
        specials=(
            Special(
                "softplus does not overflow",
                ([1000.0, -1000.0, INF, -INF],),
                [1000.0, 0.0, INF, 0.0],
                ([1.0, 0.0, 1.0, 0.0],),
            ),
            Special("softplus of 0, NaN", ([0.0, NAN],), [math.log(2), NAN], ([0.5, NAN],)),
        ),
    ),
    unary(
        "logsigmoid",
        lambda x: -np_softplus(-x.astype(np.result_type(x, np.float64))),
        floating=True,
        ulps=2.5,
        specials=(
            Special(
                "logsigmoid does not overflow",
                ([1000.0, -1000.0, INF, -INF],),
                [0.0, -1000.0, 0.0, -INF],
                ([0.0, 1.0, 0.0, 1.0],),
            ),
        ),
    ),
    unary(
        "erf",
        np_erf,
        floating=True,
        ulps=2.5,
        specials=(
            Special(
                "erf saturates with gradient 0",
                ([30.0, -30.0, INF, -INF],),
                [1.0, -1.0, 1.0, -1.0],
                ([0.0] * 4,),
            ),
            Special("erf of 0, NaN", ([0.0, NAN],), [0.0, NAN], ([2 / math.sqrt(math.pi), NAN],)),
        ),
    ),
    unary(
        "erfc",
        np.vectorize(math.erfc, otypes=[np.float64]),
        floating=True,
        ulps=2,
        specials=(
            Special(
                "erfc of 0, NaN, far out",
                ([0.0, NAN, 30.0, -30.0, INF, -INF],),
                [1.0, NAN, 0.0, 2.0, 0.0, 2.0],
                ([-2 / math.sqrt(math.pi), NAN, 0.0, 0.0, 0.0, 0.0],),
            ),
        ),
    ),
    unary(
        "erfinv",
        np_erfinv,
        inside,
        floating=True,
        ulps=4,
        specials=(
            Special(
                "erfinv of 0, NaN, the ends, outside",
                ([0.0, NAN, 1.0, -1.0, 1.5],),
                [0.0, NAN, INF, -INF, NAN],
                ([math.sqrt(math.pi) / 2, NAN, INF, INF, NAN],),
            ),
            Special(
                "erfinv of -0.5",
                ([-0.5],),
                [-0.47693627620446987],
                ([SLOPE_OF_ERFINV],),
            ),
        ),
    ),
    unary(
        "silu",
        lambda x: x * np_sigmoid(x),
        floating=True,
        ulps=2.5,
        specials=(
            Special(
                "silu at the ends",
                ([INF, -INF, 1000.0, -1000.0, -0.0],),
                [INF, -0.0, 1000.0, -0.0, -0.0],
                ([1.0, 0.0, 1.0, 0.0, 0.5],),
            ),
            Special("silu of NaN", ([NAN],), [NAN], ([NAN],)),
        ),
    ),
    unary(
        "gelu",
        lambda x: x * np_normal(x),
        floating=True,
        ulps=5,
        specials=(
            Special(
                "gelu at the ends",
                ([INF, -INF, 1000.0, -1000.0, -0.0],),
                [INF, -0.0, 1000.0, -0.0, -0.0],
                ([1.0, 0.0, 1.0, 0.0, 0.5],),
            ),
            Special("gelu of NaN", ([NAN],), [NAN], ([NAN],)),
        ),
    ),
    unary(
        "mish",
        np_mish,
        floating=True,
        ulps=4,
        specials=(
            Special(
                "mish at the ends",
                ([INF, -INF, 1000.0, -1000.0, -0.0],),
                [INF, -0.0, 1000.0, -0.0, -0.0],
                ([1.0, 0.0, 1.0, 0.0, 0.6],),
            ),
            Special("mish of NaN", ([NAN],), [NAN], ([NAN],)),
        ),
    ),
    *(
        unary(
            name,
            slope,
            floating=True,
            ulps=5,
            scale=ones_like,  # the derivatives of gelu, silu and mish are 0 somewhere
            specials=(
                Special(
                    "flat at the ends, to second order",
                    ([INF, -INF, 1000.0, -1000.0],),
                    [end, 0.0, end, 0.0],
                    ([0.0] * 4,),
                ),
                Special(f"{name} of 0, NaN", ([0.0, NAN],), [middle, NAN]),
            ),
        )
        for name, slope, middle, end in (
            ("tanh_slope", lambda x: 1 - np.tanh(x) ** 2, 1.0, 0.0),
            ("sigmoid_slope", np_sigmoid_slope, 0.25, 0.0),
            ("silu_slope", np_silu_slope, 0.5, 1.0),
            ("gelu_slope", np_gelu_slope, 0.5, 1.0),
            ("mish_slope", np_mish_slope, 0.6, 1.0),
        )
    ),
    # --------------------------------------------------------------------- elementwise, two inputs
    binary(
        "add",
        np.add,
        specials=(Special("inf - inf is NaN", ([INF], [-INF]), [NAN], ([1.0], [1.0])),),
    ),
    binary("subtract", np.subtract),
    binary(
        "multiply",
        np.multiply,
        specials=(Special("0 · inf is NaN", ([0.0], [INF]), [NAN], ([INF], [0.0])),),
    ),
    binary(
        "divide",
        np.divide,
        specials=(
            Special(
                "x / 0 as in IEEE 754",
                ([1.0, -1.0, 0.0, 1.0], [0.0, 0.0, 0.0, -0.0]),
                [INF, -INF, NAN, -INF],
            ),
        ),
    ),
    binary(
        "pow",
        np.power,
        (positive, real),
        ulps=1,
        specials=(
            Special("0 to the 0 is 1 with gradient 0", ([0.0], [0.0]), [1.0], ([0.0], [0.0])),
            Special("0 to the -1", ([0.0], [-1.0]), [INF], ([-INF], [-INF])),
            Special("0 to the 2", ([0.0], [2.0]), [0.0], ([0.0], [0.0])),
            Special("a negative base, a whole exponent", ([-2.0], [3.0]), [-8.0], ([12.0], [NAN])),
            Special("a negative base, a fractional exponent", ([-1.0], [0.5]), [NAN]),
            Special(
                "anything to the 0 is 1",
                ([INF, NAN, -3.0], [0.0, 0.0, 0.0]),
                [1.0, 1.0, 1.0],
                ([0.0, 0.0, 0.0],),
            ),
        ),
    ),
    binary(
        "floor_divide",
        np.floor_divide,
        (half_integers, near_ones),
        specials=(
            Special(
                "rounds down, with gradient 0",
                ([5.0, -5.0], [2.0, 2.0]),
                [2.0, -3.0],
                ([0.0, 0.0], [0.0, 0.0]),
            ),
        ),
    ),
    binary(
        "remainder",
        np.remainder,
        (half_integers, near_ones),
        specials=(
            Special(
                "has the sign of the divisor",
                ([5.0, -5.0, 5.0], [3.0, 3.0, -3.0]),
                [2.0, 1.0, -1.0],
            ),
            Special("by 0 is NaN", ([1.0], [0.0]), [NAN]),
        ),
    ),
    binary(
        "maximum",
        np.maximum,
        (distinct, shifted),
        specials=(
            Special(
                "at a tie each has half",
                ([1.0, 2.0], [1.0, 0.0]),
                [1.0, 2.0],
                ([0.5, 1.0], [0.5, 0.0]),
            ),
            Special(
                "a NaN wins on either side", ([NAN, 1.0], [1.0, NAN]), [NAN, NAN], ([1.0, 1.0],) * 2
            ),
            Special("infinities", ([INF, -INF], [1.0, 1.0]), [INF, 1.0], ([1.0, 0.0], [0.0, 1.0])),
        ),
    ),
    binary(
        "minimum",
        np.minimum,
        (distinct, shifted),
        specials=(
            Special(
                "at a tie each has half",
                ([1.0, 2.0], [1.0, 0.0]),
                [1.0, 0.0],
                ([0.5, 0.0], [0.5, 1.0]),
            ),
            Special(
                "a NaN wins on either side", ([NAN, 1.0], [1.0, NAN]), [NAN, NAN], ([1.0, 1.0],) * 2
            ),
        ),
    ),
    binary(
        "atan2",
        np.arctan2,
        floating=True,
        ulps=4,
        specials=(
            Special(
                "atan2 on the axes, with gradient 0 at the origin",
                ([0.0, 1.0, 0.0], [0.0, 0.0, -1.0]),
                [0.0, math.pi / 2, math.pi],
                ([0.0, 0.0, -1.0], [0.0, -1.0, 0.0]),
            ),
        ),
    ),
    binary(
        "nextafter",
        np.nextafter,
        floating=True,
        ulps=2,  # next to the exact value in float32 is another number than in float64
        specials=(
            Special(
                "nextafter'(x, x) is 0",
                ([1.0, 1.0, -0.0, INF, 2.0], [INF, 1.0, 0.0, INF, NAN]),
                [1.0, 1.0, 0.0, INF, NAN],
                ([1.0, 0.0, 0.0, 0.0, 1.0], [0.0] * 5),
            ),
        ),
    ),
    binary(
        "logaddexp",
        np.logaddexp,
        (positive, positive),  # close to log(e**x + e**y) = 0 it cancels
        floating=True,
        ulps=4,
        specials=(
            Special(
                "logaddexp neither overflows nor loses the ends",
                ([1000.0, -1000.0, INF, -INF, NAN], [1000.0, -1001.0, 1.0, -INF, 1.0]),
                [1000.0 + math.log(2), -1000.0 + math.log1p(math.exp(-1)), INF, -INF, NAN],
            ),
        ),
    ),
    binary(
        "hypot",
        np.hypot,
        floating=True,
        ulps=2,
        specials=(
            Special(
                "hypot'(0, 0) is 0", ([0.0, 3.0], [0.0, 4.0]), [0.0, 5.0], ([0.0, 0.6], [0.0, 0.8])
            ),
            Special("an infinity wins", ([INF, NAN], [NAN, 1.0]), [INF, NAN]),
        ),
    ),
    binary(
        "gate",
        lambda x, y: np.where(y <= 0, 0, x),
        differentiable=(0,),
        specials=(
            Special(
                "shut at ±0, open at NaN",
                ([1.0, 2.0, 3.0], [0.0, -0.0, NAN]),
                [0.0, 0.0, 3.0],
                ([0.0, 0.0, 1.0],),
            ),
        ),
    ),
    Row(
        "weigh",
        ops.weigh,
        np.multiply,
        (real, real),
        cases(BINARY),
        (0, 1),
        specials=(
            Special(
                "a weight of 0 hides inf, not NaN",
                ([INF, -INF, NAN, INF, 2.0], [0.0, -0.0, 0.0, 1.0, 0.0]),
                [0.0, 0.0, NAN, INF, 0.0],
                ([0.0, 0.0, 0.0, 1.0, 0.0], [0.0, 0.0, NAN, INF, 2.0]),
            ),
        ),
    ),
    comparison(
        "less",
        Special("NaN is not less", ([NAN, 1.0, -INF], [1.0, NAN, INF]), [False, False, True]),
    ),
    comparison(
        "less_equal", Special("NaN is not less or equal", ([NAN, -0.0], [NAN, 0.0]), [False, True])
    ),
    comparison(
        "greater",
        Special("NaN is not greater", ([NAN, 1.0, INF], [1.0, NAN, -INF]), [False, False, True]),
    ),
    comparison(
        "greater_equal",
        Special("NaN is not greater or equal", ([NAN, -0.0], [NAN, 0.0]), [False, True]),
    ),
    comparison(
        "equal",
        Special("NaN equals nothing, -0 equals 0", ([NAN, -0.0], [NAN, 0.0]), [False, True]),
    ),
    comparison(
        "not_equal", Special("NaN differs from itself", ([NAN, -0.0], [NAN, 0.0]), [True, False])
    ),
    # ------------------------------------------------------------------- elementwise, three inputs
    Row(
        "where",
        mg.where,
        np.where,
        (booleans, real, real),
        cases(TERNARY),
        differentiable=(1, 2),
        specials=(
            Special(
                "a NaN that is not chosen does no harm",
                ([True, False], [1.0, NAN], [NAN, 2.0]),
                [1.0, 2.0],
                (None, [1.0, 0.0], [0.0, 1.0]),
            ),
        ),
    ),
    Row(
        "clip",
        mg.clip,
        np.clip,
        cases=cases(
            UNARY, {"min": -1.0, "max": 1.0}, {"min": -1.0, "max": None}, {"min": None, "max": 1.0}
        ),
        specials=(
            Special(
                "clip' at a bound is 1",
                ([-1.0, 1.0, -1.5, 1.5],),
                [-1.0, 1.0, -1.0, 1.0],
                ([1.0, 1.0, 0.0, 0.0],),
                (("min", -1.0), ("max", 1.0)),
            ),
            Special(
                "clip(NaN) is NaN",
                ([NAN, INF, -INF],),
                [NAN, 1.0, -1.0],
                ([0.0, 0.0, 0.0],),
                (("min", -1.0), ("max", 1.0)),
            ),
            *(
                Special(
                    f"a bound of NaN, {kind}: NaN, and no gradient",
                    ([-2.0, 0.0, 2.0, NAN],),
                    [NAN] * 4,
                    ([0.0] * 4,),
                    options=(("min", make(low)), ("max", make(high))),
                )
                for kind, make in (
                    ("a number", float),
                    ("a tensor", np.float64),
                    ("0-d", mg.tensor),
                )
                for low, high in ((NAN, 1.0), (-1.0, NAN), (NAN, NAN))
            ),
        ),
    ),
    # ---------------------------------------------------------------------------------- reductions
    reduction(
        "sum",
        np.sum,
        ulps=0.51,
        scale=absolute(np.sum),
        specials=(
            Special("of nothing is 0", (np.zeros(0),), 0.0, (np.zeros(0),)),
            Special("inf - inf is NaN", ([INF, -INF],), NAN, ([1.0, 1.0],)),
            Special("infinity stays", ([INF, 1.0],), INF),
        ),
    ),
    Row(
        "sum_product",
        ops.sum_product,
        np_sum_product,
        (real, real),
        tuple((shapes * 2, options) for shapes, options in REDUCED + OF_NOTHING),
        (0, 1),
        ulps=4,
        scale=absolute(np_sum_product),
        specials=(
            Special("NaN stays", ([NAN, 1.0], [0.0, 1.0]), NAN),
            Special("inf - inf is NaN", ([INF, 1.0], [1.0, -INF]), NAN),
        ),
    ),
    reduction(
        "mean",
        np.mean,
        ulps=0.51,
        scale=absolute(np.mean),
        specials=(
            Special("of nothing is NaN", (np.zeros(0),), NAN, (np.zeros(0),)),
            Special("does not overflow", ([1e308, 1e308],), 1e308, ([0.5, 0.5],)),
            Special("of infinities", ([INF, 1.0],), INF),
        ),
    ),
    Row(
        "var",
        mg.var,
        np_variance,
        cases=REDUCED
        + OF_NOTHING
        + ((((2, 3, 4),), {"axis": (0, 2), "correction": 1}), (((5,),), {"correction": 0.5})),
        ulps=1,
        specials=(
            Special("of one value is 0 with gradient 0", ([3.0],), 0.0, ([0.0],)),
            Special("of a constant is exactly 0", ([0.1] * 7,), 0.0, ([0.0] * 7,)),
            Special("unbiased, of one value is NaN", ([3.0],), NAN, (), (("correction", 1),)),
            Special("of nothing is NaN", (np.zeros(0),), NAN),
            Special("of infinities is NaN", ([INF, 1.0],), NAN),
        ),
    ),
    reduction(
        "prod",
        np.prod,
        ulps=0.51,
        specials=(
            Special("of nothing is 1", (np.zeros(0),), 1.0, (np.zeros(0),)),
            Special("one zero: the exact gradient", ([2.0, 0.0, 3.0],), 0.0, ([0.0, 6.0, 0.0],)),
            Special("two zeros: the gradient is 0", ([0.0, 0.0, 3.0],), 0.0, ([0.0, 0.0, 0.0],)),
            Special(
                "parts of it out of range",
                ([1e30] * 4 + [1e-30] * 4,),
                1.0,
                ([1e-30] * 4 + [1e30] * 4,),
                roundings=16,
            ),
            Special(
                "above the range of float32", ([1e30, 1e30, 1.0],), 1e60, ([1e30, 1e30, 1e60],)
            ),
            Special("below the range of float32", ([1e-30, 1e-30],), 1e-60, ([1e-30, 1e-30],)),
            Special(
                "a zero beside large elements",
                ([0.0, 1e25, 1e25, 1e-25],),
                0.0,
                ([1e25, 0.0, 0.0, 0.0],),
            ),
            Special("many", (np.full(5000, -1.0),), 1.0, (np.full(5000, -1.0),)),
            Special("many with a zero", ([0.0, *[1.0] * 5000],), 0.0, ([1.0, *[0.0] * 5000],)),
            Special(
                "a zero in one row",
                ([[2.0, 0.0], [3.0, 4.0]],),
                [0.0, 12.0],
                ([[0.0, 2.0], [4.0, 3.0]],),
                (("axis", 1),),
            ),
        ),
    ),
    reduction(
        "max",
        np.max,
        distinct,
        nothing=False,
        specials=(
            Special("ties share the gradient", ([2.0, 1.0, 2.0],), 2.0, ([0.5, 0.0, 0.5],)),
            Special(
                "ties share over several axes",
                ([[1.0, 1.0], [1.0, 1.0]],),
                1.0,
                ([[0.25, 0.25], [0.25, 0.25]],),
                (("axis", (0, 1)),),
            ),
            Special("a NaN wins", ([1.0, NAN, INF],), NAN),
            Special("of infinities", ([-INF, -INF],), -INF, ([0.5, 0.5],)),
        ),
    ),
    reduction(
        "min",
        np.min,
        distinct,
        nothing=False,
        specials=(
            Special("ties share the gradient", ([2.0, 1.0, 1.0],), 1.0, ([0.0, 0.5, 0.5],)),
            Special("a NaN wins", ([1.0, NAN, -INF],), NAN),
            Special("of infinities", ([INF, INF],), INF, ([0.5, 0.5],)),
        ),
    ),
    reduction(
        "logsumexp",
        np_logsumexp,
        ulps=1.5,
        scale=lambda x, **options: np.float64(1),
        specials=(
            Special(
                "does not overflow",
                ([1000.0, 1000.0],),
                1000.0 + math.log(2),
                ([0.5, 0.5],),
                roundings=1000,
            ),
            Special(
                "does not underflow",
                ([-1000.0, -1000.0],),
                -1000.0 + math.log(2),
                ([0.5, 0.5],),
                roundings=1000,
            ),
            Special("of nothing is -inf", (np.zeros(0),), -INF, (np.zeros(0),)),
            Special("a term of -inf counts nothing", ([-INF, 1.0],), 1.0, ([0.0, 1.0],)),
            Special("of infinities", ([INF, 1.0],), INF),
            Special("of -inf alone", ([-INF, -INF],), -INF),
        ),
    ),
    Row(
        "log_softmax",
        mg.log_softmax,
        np_log_softmax,
        cases=(
            *cases((((3, 4),), ((2, 3, 4),), ((1, 1),), ((0, 3),)), {}, {"axis": 0}, {"axis": -2}),
            (((5,),), {}),
        ),
        ulps=2,
        scale=lambda x, **options: np.float64(4),
        specials=(
            Special("does not overflow", ([1000.0, 0.0],), [0.0, -1000.0], ([-1.0, 1.0],)),
            Special("of one element is 0", ([7.0],), [0.0], ([0.0],)),
            Special("a term of -inf", ([-INF, 1.0],), [-INF, 0.0], ([1.0, -1.0],)),
        ),
    ),
    Row(
        "cumulative_sum",
        mg.cumulative_sum,
        np_cumulated(np.cumsum, 0),
        cases=CUMULATED,
        ulps=0.51,
        scale=absolute(np_cumulated(np.cumsum, 0)),
        specials=(
            Special("a NaN stays", ([1.0, NAN, 2.0],), [1.0, NAN, NAN], ([3.0, 2.0, 1.0],)),
            Special("of infinities", ([INF, -INF],), [INF, NAN]),
        ),
    ),
    Row(
        "cumulative_prod",
        mg.cumulative_prod,
        np_cumulated(np.cumprod, 1),
        cases=CUMULATED,
        ulps=0.51,
        specials=(
            Special(
                "one zero: the exact gradient",
                ([2.0, 0.0, 3.0],),
                [2.0, 0.0, 0.0],
                ([1.0, 8.0, 0.0],),
            ),
            Special(
                "two zeros: the exact gradient",
                ([2.0, 0.0, 0.0, 5.0],),
                [2.0, 0.0, 0.0, 0.0],
                ([1.0, 2.0, 0.0, 0.0],),
            ),
        ),
    ),
    Row(
        "linear_recurrence",
        ops.linear_recurrence,
        np_linear_recurrence,
        (real, real),
        (
            (((4,), (4,)), {}),
            (((2, 3, 2), (2, 3, 2)), {"axis": 1}),
            (((1, 3), (1, 3)), {"axis": 0}),
            (((0, 3), (0, 3)), {"axis": 0}),
        ),
        (0, 1),
        ulps=0.51,
        scale=absolute(np_linear_recurrence),
    ),
    # --------------------------------------------------------------------------------------- shape
    Row(
        "reshape",
        lambda x, shape: mg.reshape(x, shape),
        lambda x, shape: np.reshape(x, shape),
        cases=(
            *cases((((3, 4),), ((2, 3, 2),), ((12,),)), *({"shape": s} for s in RESHAPED)),
            (((),), {"shape": (1, 1)}),
            (((0, 3),), {"shape": (3, 0, 2)}),
            (((1,),), {"shape": ()}),
        ),
    ),
    Row(
        "permute_dims",
        mg.permute_dims,
        lambda x, axes: np.transpose(x, axes),
        cases=(
            *cases((((2, 3, 2),), ((1, 0, 3),)), *({"axes": a} for a in ORDERS)),
            (((),), {"axes": ()}),
            (((3, 4),), {"axes": (-1, 0)}),
        ),
    ),
    Row(
        "broadcast_to", mg.broadcast_to, lambda x, shape: np.broadcast_to(x, shape), cases=BROADCAST
    ),
    Row("roll", mg.roll, np.roll, cases=ROLLED),
    Row("repeat", mg.repeat, np.repeat, cases=REPEATED),
    Row("diagonal", mg.diagonal, np.diagonal, cases=DIAGONALS),
    Row(
        "sort",
        mg.sort,
        np_sort,
        (distinct,),
        cases=SORTED,
        specials=(
            Special("NaN is last", ([NAN, 1.0, -INF, INF],), [-INF, 1.0, INF, NAN]),
            Special(
                "descending, NaN is first",
                ([1.0, NAN, 2.0],),
                [NAN, 2.0, 1.0],
                ([1.0, 1.0, 1.0],),
                (("descending", True),),
            ),
        ),
    ),
    Row(
        "astype",
        round_trip,
        lambda x, dtype: x.astype(dtype).astype(x.dtype),
        cases=cases(UNARY, {"dtype": np.float32}, {"dtype": np.float64}),
        eps=0.125,  # the function is linear up to the rounding to float32
    ),
    Row(
        "getitem",
        ops.getitem,
        lambda x, index: x[index],
        cases=tuple((((shape),), {"index": index}) for shape, index in INDICES),
    ),
    Row(
        "put",
        ops.put,
        np_put,
        cases=tuple(
            ((np.zeros(shape)[index].shape,), {"index": index, "shape": shape})
            for shape, index in INDICES
        ),
        scale=absolute(np_put),
        ulps=1,
    ),
    Row(
        "take_along_axis",
        mg.take_along_axis,
        np.take_along_axis,
        cases=tuple(
            ((shape,), {"indices": indices, "axis": axis}) for shape, indices, axis in ALONG
        ),
        ulps=0,
    ),
    Row(
        "add_along_axis",
        ops.add_along_axis,
        np_add_along_axis,
        cases=tuple(
            ((indices.shape,), {"indices": indices, "axis": axis, "shape": shape})
            for shape, indices, axis in ALONG
        ),
        scale=absolute(np_add_along_axis),
        ulps=1,
    ),
    Row(
        "concat",
        lambda *arrays, axis=0: mg.concat(list(arrays), axis=axis),
        np_concat,
        (real, real, real),
        cases=(
            (((3,), (1,), (2,)), {}),
            (((2, 3), (0, 3), (1, 3)), {"axis": 0}),
            (((2, 3), (2, 1), (2, 4)), {"axis": -1}),
            (((2, 1, 2), (2, 3, 2), (2, 2, 2)), {"axis": 1}),
            (((2, 3), (), (4,)), {"axis": None}),
        ),
        differentiable=(0, 1, 2),
    ),
    # ------------------------------------------------------------------------------------- windows
    Row(
        "sliding_windows",
        mg.sliding_windows,
        np_sliding_windows,
        cases=tuple(
            ((shape,), {"kernel_size": kernel, "stride": stride, "dilation": dilation})
            for shape, kernel, stride, dilation in WINDOWS
        ),
        ulps=0,
    ),
    Row(
        "overlap_add",
        mg.overlap_add,
        np_overlap_add,
        cases=tuple(folded()),
        ulps=4,
        scale=absolute(np_overlap_add),
    ),
    Row(
        "pad",
        mg.pad,
        np_pad,
        cases=(
            (((4,),), {"pad_width": 2}),
            (((4,),), {"pad_width": (1, 0), "value": -1.5}),
            (((2, 3),), {"pad_width": ((0, 0), (2, 1)), "value": 3}),
            (((2, 0),), {"pad_width": ((1, 0), (2, 1))}),
            (((),), {"pad_width": 3}),
            (((2, 3, 4),), {"pad_width": ((0, 0), (1, 2), (3, 0)), "mode": "reflect"}),
            *(
                (((3, 4),), {"pad_width": ((1, 0), (3, 2)), "mode": mode})
                for mode in ("edge", "replicate", "reflect", "symmetric", "wrap", "circular")
            ),
            (((2, 3),), {"pad_width": ((0, 0), (5, 9)), "mode": "wrap"}),
        ),
        ulps=0,
    ),
    Row(
        "packed_matmul",
        lambda x, y, bias=None, *, shape: ops.packed_matmul(x, y, shape, bias),
        np_packed_matmul,
        (real, real, real),
        tuple(
            ((x, y, *bias), {"shape": shape})
            for x, y, shape in PACKED
            for bias in ((), ((*shape[1:-2], x[-2]),))
        ),
        (0, 1, 2),
        ulps=4,
        scale=absolute(np_packed_matmul),
    ),
    Row(
        "packed_outer",
        ops.packed_outer,
        np_packed_outer,
        (real, real),
        tuple((((*shape[:-2], x[-2], shape[-1]), y), {"shape": shape}) for x, y, shape in PACKED),
        (0, 1),
        ulps=4,
        scale=absolute(np_packed_outer),
    ),
    # ------------------------------------------------------------------------------------ matrices
    Row(
        "matmul",
        mg.matmul,
        np.matmul,
        (real, real),
        cases(MATRICES),
        (0, 1),
        ulps=4,
        scale=absolute(np.matmul),
    ),
    Row(
        "linear",
        mg.linear,
        np_linear,
        (real, real, real),
        cases(LINEAR),
        (0, 1, 2),
        ulps=4,
        scale=absolute(np_linear),
    ),
    Row(
        "lstm_cell",
        ops.lstm_cell,
        np_lstm_cell,
        (real, real),
        cases(
            (
                ((4,), (1,)),
                ((8, 3), (2, 3)),
                ((12, 2, 2), (3, 2, 2)),
                ((0,), (0,)),
                ((8, 0), (2, 0)),
            )
        ),
        (0, 1),
        ulps=4,
        scale=np_lstm_scale,
        floating=True,
    ),
    Row(
        "softmax_cross_entropy",
        ops.softmax_cross_entropy,
        np_softmax_cross_entropy,
        floating=True,
        cases=(
            (((3, 4),), {"labels": np.array([0, 3, 1])}),
            (((2, 1),), {"labels": np.array([0, 0])}),
            (((40, 2),), {"labels": np.arange(40) % 2}),
            (((3, 17),), {"labels": np.array([16, 0, 8], np.int32)}),
            (((2, 600),), {"labels": np.array([599, 7])}),
            (((0, 3),), {"labels": np.array([], np.int64)}),
        ),
        ulps=2,
        scale=lambda x, **options: np.float64(8),
        specials=(
            Special(
                "does not overflow",
                ([[1000.0, 0.0], [1000.0, 0.0]],),
                [0.0, 1000.0],
                ([[0.0, 0.0], [1.0, -1.0]],),
                options=(("labels", np.array([0, 1])),),
            ),
            Special(
                "a class of -inf counts nothing",
                ([[-INF, 1.0, 1.0]],),
                [math.log(2)],
                ([[0.0, 0.5, -0.5]],),
                options=(("labels", np.array([2])),),
            ),
        ),
    ),
)
ROWS = {row.name: row for row in TABLE}


def compare_names(registered, rows):
    """Complaints about primitives without a row, rows without a primitive, and duplicates."""
    complaints = [
        f"primitive {name} has no row in op_table.py" for name in registered if name not in rows
    ]
    complaints += [f"row {name} names no primitive" for name in rows if name not in registered]
    complaints += [
        f"two rows are called {name}"
        for name in sorted({n for n in rows if list(rows).count(n) > 1})
    ]
    return complaints
