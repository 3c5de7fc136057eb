"""Every primitive × dtype × layout × order, driven by the rows of op_table.py."""

from __future__ import annotations

import itertools
import math
import operator
import subprocess
import sys
import warnings
import zlib
from functools import partial

import numpy as np
import pytest
from op_table import (
    BINARY,
    OF_NOTHING,
    ROWS,
    TABLE,
    TERNARY,
    UNARY,
    Special,
    cases,
    compare_names,
    np_erf,
    np_sigmoid,
    np_softplus,
)

import minigrad as mg
from minigrad._core import ops
from minigrad._core.engine.graph import primitives
from minigrad.autograd import gradcheck, gradgradcheck

FLOATS = (np.float32, np.float64)
DTYPES = ("float32", "float64", "int32", "int64", "bool")


def ours(dtype):
    """NumPy's result dtype, in native byte order; int8 is int64 here."""
    native = np.dtype(dtype).newbyteorder("=")
    return np.dtype(np.int64) if native.name == "int8" else native


# ------------------------------------------------------------------------ registry and table agree
def test_every_primitive_has_a_row_and_every_row_a_primitive():
    assert compare_names(primitives(), [row.name for row in TABLE]) == []


def test_a_missing_row_is_noticed():
    names = [row.name for row in TABLE]
    assert compare_names(primitives(), names[1:]) == [
        f"primitive {names[0]} has no row in op_table.py"
    ]
    assert compare_names(primitives(), [*names, "tangent"]) == ["row tangent names no primitive"]
    assert compare_names(primitives(), [*names, "tanh"]) == ["two rows are called tanh"]


# ----------------------------------------------------------------------------------------- layouts
def contiguous(a):
    return np.array(a, order="C")


def transposed(a):
    return np.array(a, order="F")


def reversed_(a):
    backwards = (slice(None, None, -1),) * a.ndim
    return np.array(a[backwards], order="C")[(..., *backwards)]


def stepped(a):
    wide = np.ones([2 * n for n in a.shape], a.dtype)
    view = wide[(..., *(slice(None, None, 2),) * a.ndim)]
    view[...] = a
    return view


def swapped_bytes(a):
    """Memory in foreign byte order, which is copied."""
    return a.astype(a.dtype.newbyteorder())


def repeated(a):
    """Other values than a: its first slice, at stride 0."""
    return np.broadcast_to(a[:1], a.shape) if a.ndim else a


LAYOUTS = (contiguous, transposed, reversed_, stepped, swapped_bytes, repeated)
MOVABLE = LAYOUTS[:4]  # whose elements finite differences can move one by one


def sample(row, shapes, dtype=np.float64, layout=contiguous):
    """Inputs of a row in its domains; integers between 1 and 4; booleans stay booleans."""
    random = np.random.default_rng(zlib.crc32(repr((row.name, shapes)).encode()))
    arrays = []
    for domain, shape in zip(itertools.cycle(row.domains), shapes, strict=False):
        a = np.asarray(domain(random, shape))
        if a.dtype != bool:
            integer = random.integers(1, 5, shape) if np.dtype(dtype).kind == "i" else a
            a = np.asarray(random.random(shape) < 0.5) if dtype is bool else integer.astype(dtype)
        arrays.append(layout(a))
    return arrays


def assert_close(result, exact, ulps, scale=0.0):
    """Within `ulps` of the exact result, in units of the last place of the result's dtype."""
    result = result.numpy()
    exact = np.asarray(exact)
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = exact.astype(result.dtype)
    size = np.maximum(np.abs(rounded), np.finfo(result.dtype).tiny)
    size = np.maximum(size, np.asarray(scale, result.dtype))
    finite = np.isfinite(rounded)
    np.testing.assert_array_equal(np.where(finite, 0, result), np.where(finite, 0, rounded))
    error = np.abs(result[finite] - exact[finite]) / np.spacing(size[finite])
    assert error.size == 0 or error.max() <= ulps, f"{error.max()} ulp"


def quietly(function, *arrays, **options):
    """NumPy warns about cases that are defined here, such as the mean of an empty axis."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(function(*arrays, **options))


def reference(row, arrays, options):
    return quietly(row.reference, *arrays, **options)


# -------------------------------------------------------------------------------- values, by NumPy
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", ROWS)
def test_values(name, dtype, layout):
    row = ROWS[name]
    for shapes, options in row.cases:
        arrays = sample(row, shapes, dtype, layout)
        wide = [a if a.dtype == bool else a.astype(np.float64) for a in arrays]
        exact = reference(row, wide, options)
        before = [a.copy() for a in arrays]
        result = row.function(*map(mg.asarray, arrays), **options)
        if name == "astype":
            assert result.dtype == dtype
            exact = reference(row, arrays, options)
        assert result.shape == exact.shape, (shapes, options)
        assert result.dtype == (exact.dtype if exact.dtype == bool else dtype), (shapes, options)
        for a, b in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(a, b)
        if exact.dtype == bool:
            np.testing.assert_array_equal(result.numpy(), exact)
            continue
        scale = quietly(row.scale, *wide, **options) if row.scale else 0.0
        # NumPy's float64 is not exact either
        assert_close(result, exact, row.ulps if dtype == np.float32 else 4 * row.ulps + 2, scale)


@pytest.mark.parametrize("layout", LAYOUTS[:5])
@pytest.mark.parametrize("dtype", [np.int32, np.int64, bool])
@pytest.mark.parametrize("name", ROWS)
def test_integers_and_booleans(name, dtype, layout):
    """As in NumPy 2: its values, its result dtype, and a TypeError where it has none; but floats
    made of integers take the default dtype."""
    row = ROWS[name]
    for shapes, options in row.cases:
        arrays = sample(row, shapes, dtype, layout)
        tensors = list(map(mg.asarray, arrays))
        if row.floating:
            exact = reference(row, [a.astype(float) for a in arrays], options)
        else:
            try:
                exact = reference(row, arrays, options)
            except TypeError:
                with pytest.raises(TypeError, match=name):
                    row.function(*tensors, **options)
                continue
        if exact.dtype == np.float16:  # of bools: too coarse
            exact = reference(row, [a.astype(float) for a in arrays], options)
        expected = np.dtype(np.float32) if exact.dtype.kind == "f" else ours(exact.dtype)
        result = row.function(*tensors, **options)
        assert result.dtype == expected, (shapes, options)
        assert result.shape == exact.shape, (shapes, options)
        if expected.kind == "f":
            scale = quietly(row.scale, *arrays, **options) if row.scale else 0.0
            assert_close(result, exact, 4 * row.ulps + 2, scale)
        else:
            np.testing.assert_array_equal(result.numpy(), exact)
        assert not result.requires_grad


# -------------------------------------------------------------------------- first and second order
def leaves(row, arrays):
    return [
        mg.Tensor(a, requires_grad=i % len(row.domains) in row.differentiable)
        for i, a in enumerate(arrays)
    ]


@pytest.mark.parametrize("layout", MOVABLE)
@pytest.mark.parametrize("name", [row.name for row in TABLE if row.differentiable])
def test_gradients(name, layout):
    row = ROWS[name]
    for shapes, options in row.cases:
        inputs = leaves(row, sample(row, shapes, np.float64, layout))
        for check in (gradcheck, gradgradcheck):
            assert check(
                lambda *x, o=options: row.function(*x, **o), inputs, eps=row.eps, name=name
            )


SMOOTH = [row.name for row in TABLE if row.differentiable and row.name not in ("max", "min")]


@pytest.mark.parametrize("name", SMOOTH)  # equal elements are ties, which are kinks of max and min
def test_gradients_through_broadcast_inputs(name):
    """Inputs of stride 0: the gradient is that of the tensor that was broadcast."""
    row = ROWS[name]
    for shapes, options in row.cases:
        arrays = [a[:1] if a.ndim else a for a in sample(row, shapes)]

        def function(*x, shapes=shapes, options=options):
            return row.function(*map(mg.broadcast_to, x, shapes), **options)

        inputs = leaves(row, arrays)
        assert gradcheck(function, inputs, eps=row.eps, name=name)
        assert gradgradcheck(function, inputs, eps=row.eps, name=name)


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "matmul", "gate"])
def test_gradients_with_the_same_tensor_twice(name):
    (x,) = leaves(ROWS[name], sample(ROWS[name], ((3, 3),)))
    assert gradcheck(lambda x: ROWS[name].function(x, x), x)
    assert gradgradcheck(lambda x: ROWS[name].function(x, x), x)


@pytest.mark.parametrize("layout", MOVABLE)
@pytest.mark.parametrize("name", [row.name for row in TABLE if row.differentiable])
def test_gradients_are_of_the_values_at_the_call(name, layout):
    """The owner of the memory of the inputs may write to it before backward."""
    row = ROWS[name]
    for shapes, options in row.cases:
        gradients = []
        for refilled in (False, True):
            arrays = sample(row, shapes, np.float64, layout)
            inputs = leaves(row, arrays)
            y = row.function(*inputs, **options)
            for a in arrays:
                a[...] = np.logical_not(a) if refilled and a.dtype == bool else a + 3 * refilled
            wanted = [x for x in inputs if x.requires_grad]
            gradients.append(mg.autograd.grad(y, wanted, mg.ones_like(y), allow_unused=True))
        for found, expected in zip(*gradients, strict=True):
            assert (found is None) == (expected is None)
            if expected is not None:
                np.testing.assert_array_equal(found.numpy(), expected.numpy())


NUMBERS = (-1.0, 0, 0.5, 1, 2, 3.25)
SIMPLE = ("add", "subtract", "multiply", "maximum", "minimum")
WITH_NUMBERS = [(name, n, side) for name in SIMPLE for n in NUMBERS for side in (0, 1)]
WITH_NUMBERS += [(name, n, 0) for name in ("divide", "pow", "gate") for n in NUMBERS if n]
WITH_NUMBERS += [("pow", 0, 0), ("pow", 0.5, 1), ("pow", 2, 1), ("divide", 3, 1), ("divide", 0, 1)]
WITH_NUMBERS += [("floor_divide", 1, 0), ("remainder", -1.0, 0), ("remainder", 2.5, 1)]


@pytest.mark.parametrize(("name", "number", "side"), WITH_NUMBERS)
def test_gradients_beside_python_numbers(name, number, side):
    row = ROWS[name]
    x = leaves(row, sample(row, ((3, 4), (3, 4))))[side]
    if name in ("maximum", "minimum"):
        number += 0.02  # away from a tie

    def function(x):
        return row.function(number, x) if side else row.function(x, number)

    assert function(x).dtype == np.float64
    assert gradcheck(function, x, name=name) and gradgradcheck(function, x, name=name)


@pytest.mark.parametrize("name", [row.name for row in TABLE if row.differentiable])
@pytest.mark.parametrize("dtype", FLOATS)
def test_gradients_have_the_shape_and_dtype_of_their_input(name, dtype):
    row = ROWS[name]
    for shapes, options in row.cases:
        inputs = leaves(row, sample(row, shapes, dtype))
        out = row.function(*inputs, **options)
        assert out.requires_grad
        out.backward(mg.ones_like(out))
        for i, x in enumerate(inputs):
            if i in row.differentiable:
                assert (
                    x.grad.shape == x.shape and x.grad.dtype == dtype and not x.grad.requires_grad
                )
            else:
                assert x.grad is None


@pytest.mark.parametrize("name", [row.name for row in TABLE if not row.differentiable])
def test_no_gradient_flows_where_there_is_none(name):
    row = ROWS[name]
    x, y = (mg.tensor(a, requires_grad=True) for a in sample(row, ((3,), (3,))))
    assert not row.function(x, y).requires_grad


# ---------------------------------------------------------------------------------- special values
SPECIALS = [(row, special) for row in TABLE for special in row.specials]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    ("row", "special"), SPECIALS, ids=[f"{row.name}: {special.what}" for row, special in SPECIALS]
)
def test_special_values(row, special, dtype):
    if special.what == "does not overflow" and row.name == "mean" and dtype == np.float32:
        special = Special(special.what, ([3e38, 3e38],), np.float32(3e38), ([0.5, 0.5],))
    arrays = [
        np.asarray(a) if np.asarray(a).dtype == bool else np.asarray(a, dtype)
        for a in special.inputs
    ]
    inputs = [
        mg.tensor(a, requires_grad=a.dtype != bool and bool(special.gradients)) for a in arrays
    ]
    out = row.function(*inputs, **dict(special.options))
    with np.errstate(over="ignore"):  # out of range for float32 is inf
        value = np.asarray(special.value, out.dtype)
        gradients = [g if g is None else np.asarray(g, dtype) for g in special.gradients]
    rtol = special.roundings * np.finfo(dtype).eps
    np.testing.assert_allclose(out.numpy(), value, rtol=rtol, atol=0)
    if special.gradients:
        out.backward(mg.ones_like(out))
    for x, expected in zip(inputs, gradients, strict=False):
        if expected is not None:
            np.testing.assert_allclose(x.grad.numpy(), expected, rtol=rtol, atol=0)


# x, and the value, first and second derivative there, by mpmath
TAILS = {
    "sigmoid": (
        [-80.0, -20.0, 20.0, 80.0],
        [1.8048513878454e-35, 2.0611536181902e-09, 0.9999999979388464, 1.0],
        [1.8048513878454e-35, 2.0611536139418e-09, 2.0611536139418e-09, 1.8048513878454e-35],
        [1.8048513878454e-35, 2.0611536054451e-09, -2.0611536054451e-09, -1.8048513878454e-35],
    ),
    "tanh": (
        [-40.0, -10.0, 10.0, 40.0],
        [-1.0, -0.9999999958776927, 0.9999999958776927, 1.0],
        [7.2194055513817e-35, 8.2446144557674e-09, 8.2446144557674e-09, 7.2194055513817e-35],
        [1.4438811102763e-34, 1.6489228843561e-08, -1.6489228843561e-08, -1.4438811102763e-34],
    ),
    "expm1": (
        [-80.0, -20.0, 20.0],
        [-1.0, -0.9999999979388464, 485165194.40979],
        [1.8048513878454e-35, 2.0611536224386e-09, 485165195.40979],
        [1.8048513878454e-35, 2.0611536224386e-09, 485165195.40979],
    ),
    "softplus": (
        [-80.0, -20.0, 20.0, 80.0],
        [1.8048513878454e-35, 2.0611536203144e-09, 20.000000002061153, 80.0],
        [1.8048513878454e-35, 2.0611536181902e-09, 0.9999999979388464, 1.0],
        [1.8048513878454e-35, 2.0611536139418e-09, 2.0611536139418e-09, 1.8048513878454e-35],
    ),
    "logsigmoid": (
        [-80.0, -20.0, 20.0, 80.0],
        [-80.0, -20.000000002061153, -2.0611536203144e-09, -1.8048513878454e-35],
        [1.0, 0.9999999979388464, 2.0611536181902e-09, 1.8048513878454e-35],
        [-1.8048513878454e-35, -2.0611536139418e-09, -2.0611536139418e-09, -1.8048513878454e-35],
    ),
    "silu": (
        [-90.0, -20.0, 20.0, 80.0],
        [-7.3746113615915e-38, -4.1223072363804e-08, 19.99999995877693, 80.0],
        [-7.2926712353516e-38, -3.9161918660647e-08, 1.0000000391619186, 1.0],
        [None, -3.7100764881019e-08, -3.7100764881019e-08, -1.4077840825194e-33],
    ),
    "gelu": (
        [-13.0, -7.0, 7.0, 12.0],
        [-7.9523137194148e-38, -8.9586878072008e-12, 6.999999999991041, 12.0],
        [-1.0337304440113e-36, -6.2663230314666e-11, 1.0000000000626632, 1.0],
        [-1.3358042354201e-35, -4.2933185919314e-10, -4.2933185919314e-10, -3.0478649046415e-30],
    ),
    "mish": (
        [-90.0, -20.0, 20.0, 40.0],
        [-7.3746113615915e-38, -4.1223072406288e-08, 20.0, 40.0],
        [-7.2926712353516e-38, -3.916191874349e-08, 1.0000000000000002, 1.0],
        [None, -3.7100765042457e-08, -6.4574984070979e-16, -5.6311363300777e-33],
    ),
    "erf": (
        [-9.0, 3.0, 9.0],
        [-1.0, 0.9999779095030014, 1.0],
        [7.492073428246e-36, 0.00013925305194674786, 7.492073428246e-36],
        [1.3485732170843e-34, -0.0008355183116804871, -1.3485732170843e-34],
    ),
}


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", TAILS)
def test_both_tails_keep_their_digits_to_second_order(name, dtype):
    points, *expected = TAILS[name]
    roundings = 8 * np.finfo(dtype).eps
    for k, point in enumerate(points):
        x = mg.tensor(point, dtype, requires_grad=True)
        y = ROWS[name].function(x)
        (slope,) = mg.autograd.grad(y, x, create_graph=True)
        (curvature,) = mg.autograd.grad(slope, x)
        for result, values in zip((y, slope, curvature), expected, strict=True):
            if values[k] is not None:  # of float32, a sigmoid of -90 is subnormal
                np.testing.assert_allclose(result.item(), values[k], rtol=max(roundings, 1e-13))


ODD = ("sin", "expm1", "log1p", "tanh", "erf", "sqrt", "reciprocal")


@pytest.mark.parametrize("name", ODD)
@pytest.mark.parametrize("dtype", FLOATS)
def test_odd_functions_keep_the_sign_of_zero(name, dtype):
    result = getattr(mg, name)(mg.tensor([0.0, -0.0], dtype)).numpy()
    assert np.signbit(result).tolist() == [False, True]


@pytest.mark.parametrize("name", ["max", "min"])
def test_the_largest_of_nothing_raises(name):
    for shapes, options in OF_NOTHING:
        with pytest.raises(ValueError, match=f"{name}: axis . of shape .* is empty"):
            ROWS[name].function(mg.zeros(*shapes), **options)
    assert ROWS[name].function(mg.zeros(0, 3), axis=1).shape == (0,)


def test_norm_at_zero_has_gradient_zero():
    x = mg.zeros(3, requires_grad=True)
    mg.norm(x).backward()
    assert x.grad.tolist() == [0.0, 0.0, 0.0]


def test_the_gradient_of_a_product_with_zeros_has_the_right_gradient():
    x = mg.tensor([2.0, 0.0, 3.0, 5.0], dtype=mg.float64, requires_grad=True)
    assert gradcheck(mg.prod, x) and gradgradcheck(mg.prod, x)
    x = mg.tensor([[2.0, 0.0, 3.0], [0.0, 4.0, 0.0]], dtype=mg.float64, requires_grad=True)
    for axis in (None, 0, 1):
        assert gradcheck(lambda x, a=axis: mg.prod(x, axis=a), x)
        assert gradgradcheck(lambda x, a=axis: mg.prod(x, axis=a), x)


def test_a_concat_of_many_tensors():
    parts = [
        mg.tensor([float(i)] * (i % 3), dtype=mg.float64, requires_grad=True) for i in range(150)
    ]
    assert mg.concat(parts).shape == (150,)
    assert gradcheck(lambda *x: mg.square(mg.concat(list(x))), parts)


@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("target", DTYPES)
def test_astype_between_all_dtypes(source, target):
    array = np.array([0, 1, 3], source)
    result = mg.asarray(array).astype(target)
    assert result.dtype == target
    np.testing.assert_array_equal(result.numpy(), array.astype(target))


def test_the_gradient_of_astype_comes_back_in_the_dtype_of_its_input():
    x = mg.ones(3, requires_grad=True)
    (x.astype(mg.float64) * 2.0).sum().backward()
    assert x.grad.dtype == np.float32 and x.grad.tolist() == [2.0, 2.0, 2.0]


# ------------------------------------------------------------------------------- layouts and bits
BIT_FOR_BIT = [
    row.name for row in TABLE if row.cases in (cases(UNARY), cases(BINARY), cases(TERNARY))
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", BIT_FOR_BIT)
def test_a_view_gives_the_bits_of_its_copy(name, dtype):
    row = ROWS[name]
    for shape in ((33, 31), (1031,)):
        arrays = sample(row, (shape,) * len(row.domains), dtype)
        bits = row.function(*map(mg.asarray, arrays)).numpy().tobytes()
        for layout in (transposed, reversed_, stepped):
            views = [mg.asarray(layout(a)) for a in arrays]
            assert row.function(*views).numpy().tobytes() == bits, layout
        last = arrays[-1]
        one = mg.broadcast_to(mg.asarray(last[:1]), shape)
        full = mg.asarray(np.ascontiguousarray(one.numpy()))
        before = [mg.asarray(a) for a in arrays[:-1]]
        bits = row.function(*before, full).numpy().tobytes()
        assert row.function(*before, one).numpy().tobytes() == bits
        if len(arrays) == 2 and len(shape) == 2:
            assert row.function(*before, one[:1]).numpy().tobytes() == bits
        if len(arrays) == 2:
            bits = row.function(1.5, mg.asarray(last)).numpy().tobytes()
            assert row.function(1.5, mg.asarray(reversed_(last))).numpy().tobytes() == bits


# ------------------------------------------------------------------------- across the tiles' edges
EDGES = (511, 512, 513, 1025, (3, 255), (3, 256), (3, 257), (257, 300), (2, 3, 513))
ELEMENTWISE = ("tanh", "add", "less", "where", "clip")


def edge_operands(row, shape):
    """Every operand in every layout, and once broadcast along each of its axes."""
    shape = shape if isinstance(shape, tuple) else (shape,)
    shapes = (shape,) * len(row.domains)
    for layout in LAYOUTS[:4]:
        yield sample(row, shapes, np.float32, layout)
    mixed = sample(row, shapes, np.float32)
    yield [layout(a) for layout, a in zip((reversed_, transposed, stepped), mixed, strict=False)]
    for i, d in itertools.product(range(len(mixed)), range(len(shape))):
        yield [
            a[(slice(None),) * d + (slice(1),)] if j == i else transposed(a)
            for j, a in enumerate(mixed)
        ]


@pytest.mark.parametrize("shape", EDGES, ids=str)
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_across_tiles(name, shape):
    row = ROWS[name]
    options = {"min": -1.0, "max": 1.0} if name == "clip" else {}
    for arrays in edge_operands(row, shape):
        exact = reference(row, [a if a.dtype == bool else a.astype(float) for a in arrays], options)
        result = row.function(*map(mg.asarray, arrays), **options)
        assert result.shape == exact.shape
        if exact.dtype == bool:
            np.testing.assert_array_equal(result.numpy(), exact)
        else:
            assert_close(result, exact, row.ulps)


REDUCTIONS = ("sum", "mean", "var", "prod", "max", "min", "logsumexp")
SUBSETS = [axes for n in range(5) for axes in itertools.combinations(range(4), n)]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_over_every_axis_subset_of_every_permuted_layout(name, dtype):
    row = ROWS[name]
    (base,) = sample(row, ((2, 3, 4, 5),), dtype)
    for order in itertools.permutations(range(4)):
        x = base.transpose(order)
        views = itertools.cycle((lambda a: a, stepped, reversed_))
        for axes, layout in zip(SUBSETS, views, strict=False):
            view, exact = layout(x), reference(row, [x.astype(float)], {"axis": axes})
            for keepdims in (False, True):
                result = row.function(mg.asarray(view), axis=axes, keepdims=keepdims)
                assert result.shape == (
                    np.sum(x, axes, keepdims=True).shape if keepdims else exact.shape
                )
                scale = (
                    np.asarray(row.scale(view.astype(float), axis=axes))
                    if row.scale
                    else np.zeros(())
                )
                scale = np.broadcast_to(scale, exact.shape).reshape(result.shape)
                ulps = row.ulps if dtype == np.float32 else 8 * row.ulps + 8
                assert_close(result, exact.reshape(result.shape), ulps, scale)


@pytest.mark.parametrize(
    "shape", [(2, 513, 3), (520, 2, 3), (300, 257), (3, 1025), (1025, 3), (16, 33, 17)], ids=str
)
@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_across_tiles(name, shape):
    row = ROWS[name]
    (base,) = sample(row, (shape,), np.float32)
    if name == "prod":
        base = np.sign(base) * np.abs(base) ** np.float32(0.01)  # or it overflows
    for order in itertools.permutations(range(base.ndim)):
        for x in (
            base.transpose(order),
            base[::-1].transpose(order),
            base[..., ::2].transpose(order),
        ):
            for axes in SUBSETS[1 : 2**4]:
                if max(axes) >= x.ndim:
                    continue
                exact = reference(row, [x.astype(float)], {"axis": axes})
                scale = quietly(row.scale, x.astype(float), axis=axes) if row.scale else 0.0
                assert_close(row.function(mg.asarray(x), axis=axes), exact, row.ulps, scale)


@pytest.mark.parametrize("name", REDUCTIONS)
def test_reductions_of_as_many_dimensions_as_numpy_has(name):
    """64 axes are the most that fit in a mask of 64 bits."""
    x = np.arange(2.0, 6.0).reshape((2,) + (1,) * 62 + (2,))
    for axis in (None, 0, 63, (0, 63), tuple(range(64)), tuple(range(1, 64))):
        exact = reference(ROWS[name], [x], {"axis": axis})
        result = ROWS[name].function(mg.asarray(x), axis=axis)
        assert result.shape == exact.shape
        np.testing.assert_allclose(result.numpy(), exact)


BAD_CALLS = {
    "broadcast_to: a number for a shape": (lambda: mg.broadcast_to(mg.ones(3), 7), ValueError),
    "broadcast_to: a fractional size": (lambda: mg.broadcast_to(mg.ones(1), (2.5,)), TypeError),
    "broadcast_to: a negative size": (lambda: mg.broadcast_to(mg.ones(3), (-1, 3)), ValueError),
    "permute_dims: a number for axes": (lambda: mg.permute_dims(mg.ones(3), 0), TypeError),
    "put: a shape that does not fit": (lambda: ops.put(mg.ones(2, 3), 0, (2,)), ValueError),
    "put: an index out of range": (lambda: ops.put(mg.ones(1), 5, (2,)), IndexError),
    "clip: a bound that is no number": (lambda: mg.clip(mg.ones(3), "a"), TypeError),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_name_the_primitive(name):
    call, error = BAD_CALLS[name]
    with pytest.raises(error, match=name.split(":")[0]):
        call()


def test_more_dimensions_than_numpy_has_raise():
    """In a separate process, since it once wrote past an array and crashed the interpreter."""
    call = "import minigrad as mg; mg.broadcast_to(mg.ones(1), (1,) * 200)"
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
    assert "ValueError: broadcast_to" in done.stderr


# ------------------------------------- values of mixed dtypes; the dtypes are in test_promotion.py
PROMOTED = {
    "add": np.add,
    "multiply": np.multiply,
    "divide": np.divide,
    "less": np.less,
    "maximum": np.maximum,
}
SCALARS = (True, 2, 2.5)


@pytest.mark.parametrize("name", PROMOTED)
@pytest.mark.parametrize("left", DTYPES)
@pytest.mark.parametrize("right", DTYPES)
def test_values_of_two_dtypes(name, left, right):
    x, y = np.array([1, 0, 1], left), np.array([1, 1, 0], right)
    with np.errstate(all="ignore"):
        exact = PROMOTED[name](x, y)
    result = getattr(mg, name)(mg.asarray(x), mg.asarray(y))
    np.testing.assert_array_equal(result.numpy(), exact)


@pytest.mark.parametrize("name", PROMOTED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scalar", SCALARS)
def test_values_with_python_scalars(name, dtype, scalar):
    x = np.array([1, 0, 1], dtype)
    with np.errstate(all="ignore"):
        right, left = PROMOTED[name](x, scalar), PROMOTED[name](scalar, x)
    for exact, result in (
        (right, getattr(mg, name)(mg.asarray(x), scalar)),
        (left, getattr(mg, name)(scalar, mg.asarray(x))),
    ):
        np.testing.assert_array_equal(result.numpy(), exact.astype(result.dtype))


NUMPY_SCALARS = (
    np.True_,
    np.uint8(2),
    np.int32(2),
    np.int64(2),
    np.float16(2.5),
    np.float32(2.5),
    np.float64(2.5),
    np.longdouble(2.5),
)
TAKE_TWO = (*PROMOTED, "subtract", "pow", "floor_divide", "remainder", "minimum", "equal")


@pytest.mark.parametrize("name", TAKE_TWO)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scalar", NUMPY_SCALARS, ids=lambda n: n.dtype.name)
def test_numpy_scalars_are_as_weak(name, dtype, scalar):
    function, x = getattr(mg, name), mg.asarray(np.array([1, 2, 1], dtype))
    number = float(scalar) if scalar.dtype.kind == "f" else scalar.item()

    def outcome(*operands):
        try:
            return function(*operands)
        except (TypeError, ValueError) as error:  # NumPy does not subtract bools
            return type(error)

    for a, b in (((x, scalar), (x, number)), ((scalar, x), (number, x))):
        result, exact = outcome(*a), outcome(*b)
        if isinstance(exact, type):
            assert result is exact
        else:
            assert result.dtype == exact.dtype
            np.testing.assert_array_equal(result.numpy(), exact.numpy())


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("scalar", [np.sqrt(2), np.float32(3), np.int64(2), np.True_])
def test_operators_with_a_numpy_scalar_keep_the_dtype(dtype, scalar):
    x = mg.ones(2, dtype=dtype, requires_grad=True)
    for y in (x * scalar, scalar * x, x / scalar, scalar - x, x**scalar, scalar**x, x // scalar):
        assert y.dtype == dtype
        assert mg.autograd.grad(y.sum(), x)[0].dtype == dtype
    wide = np.array(scalar)
    assert (x.detach() * wide).dtype == (np.float64 if wide.dtype == np.float64 else dtype)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("number", [2**40, -(2**40), 2**70, -(2**70), 2**2000, np.int64(2**40)])
def test_comparisons_of_integers_with_numbers_beyond_their_range(dtype, number):
    x, values = mg.asarray(np.array([0, 1], dtype)), [0, 1]
    for compare in ("eq", "ne", "lt", "le", "gt", "ge"):
        compare = getattr(operator, compare)
        assert compare(x, number).tolist() == [bool(compare(v, number)) for v in values]
        assert compare(number, x).tolist() == [bool(compare(number, v)) for v in values]


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1, 2**40, 2**70, np.int64(2**40)])
@pytest.mark.parametrize(
    "name", ["add", "subtract", "multiply", "floor_divide", "remainder", "maximum", "where"]
)
def test_arithmetic_of_integers_with_numbers_beyond_their_range(name, number):
    x = mg.ones(2, dtype=mg.int32)
    function = partial(mg.where, x > 0) if name == "where" else getattr(mg, name)
    for operands in ((x, number), (number, x)):
        with pytest.raises(OverflowError, match=f"^{name}: "):
            function(*operands)
    for operation in (operator.and_, operator.or_, operator.iadd, operator.ifloordiv):
        with pytest.raises(OverflowError, match=r"^\w+: "):
            operation(x, number)
    assert x.tolist() == [1, 1]


def test_two_numbers_take_the_default_dtype():
    for result in (mg.add(2, 2.5), mg.add(2.5, 2), mg.where(mg.tensor(True), 1, 0.5)):
        assert result.dtype == mg.float32
    assert mg.add(1, np.float64(0.1)).item() == 1.1
    assert mg.maximum(True, 2).dtype == mg.int64


# ---------------------------------------------------------------------------------------- accuracy
def spread(dtype, low=-1.0, high=1.0):
    """Magnitudes from the smallest normal number up, even in the exponent, and even in value."""
    information = np.finfo(dtype)
    smallest = np.log10(float(information.tiny))
    magnitudes = np.logspace(smallest + 0.1, np.log10(high), 20000, dtype=np.float64)
    even = np.linspace(low, high, 20001)
    return np.concatenate([magnitudes, -magnitudes if low < 0 else magnitudes, even]).astype(dtype)


# name, exact function in extended precision, the interval for float32 and for float64, allowed ulp
VECTORISED = (
    ("exp", np.exp, (-87, 88), (-708, 709), 2),
    ("expm1", np.expm1, (-87, 88), (-708, 709), 3),
    ("log", np.log, (0, 3e38), (0, 1e308), 2),
    ("log1p", np.log1p, (0, 3e38), (0, 1e308), 3),
    ("log1p", np.log1p, (-0.999, 1), (-0.999, 1), 3),
    ("tanh", np.tanh, (-10, 10), (-20, 20), 3),
    ("sigmoid", np_sigmoid, (-87, 87), (-700, 700), 3),
    ("softplus", np_softplus, (-87, 100), (-700, 800), 3),
    ("logsigmoid", lambda x: -np_softplus(-x), (-100, 87), (-800, 700), 3),
    ("erf", np_erf, (-4, 4), (-6, 6), 3),
    ("sin", np.sin, (-100, 100), (-100, 100), 2),
    ("cos", np.cos, (-100, 100), (-100, 100), 2),
    ("sqrt", np.sqrt, (0, 3e38), (0, 1e308), 0.5),
    ("rsqrt", lambda x: 1 / np.sqrt(x), (0, 3e38), (0, 1e308), 1.5),
    ("reciprocal", np.reciprocal, (-1e37, 1e37), (-1e307, 1e307), 0.5),
)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("row", VECTORISED, ids=[f"{row[0]} {row[2]}" for row in VECTORISED])
def test_accuracy_of_vectorised_functions(row, dtype):
    name, exact, *intervals, ulps = row
    x = spread(dtype, *intervals[dtype == np.float64])
    x = x[x != 0] if name in ("log", "rsqrt", "reciprocal") else x
    wide = np.float64 if name == "erf" else np.longdouble
    with np.errstate(all="ignore"):
        expected = exact(x.astype(wide))
    if dtype == np.float64 and np.finfo(wide).nmant < 60:
        ulps += 1  # the reference is rounded to float64 itself
    assert_close(getattr(mg, name)(mg.asarray(x)), expected, ulps)


@pytest.fixture(scope="module")
def ten_million():
    random = np.random.default_rng(0)
    return random.random(10**7, np.float32)


def test_the_sum_and_mean_of_ten_million_float32(ten_million):
    exact = math.fsum(ten_million)
    assert_close(mg.asarray(ten_million).sum(), exact, 1)
    assert_close(mg.asarray(ten_million).mean(), exact / 10**7, 1)


@pytest.mark.parametrize("shape", [(10**7,), (10**4, 10**3), (10, 10**6)], ids=str)
def test_reductions_of_ten_million_in_other_layouts(ten_million, shape):
    x = ten_million.reshape(shape)
    wide = x.astype(np.float64)
    for axis in range(len(shape)):
        for name, exact in (("sum", wide.sum(axis)), ("mean", wide.mean(axis))):
            assert_close(getattr(mg, name)(mg.asarray(x), axis=axis), exact, 1)


def test_ten_million_of_the_same_number():
    x = mg.full((10**7,), 0.1, dtype=mg.float32)
    assert_close(x.sum(), 10**7 * float(np.float32(0.1)), 1)
    assert x.mean().item() == np.float32(0.1) and x.var().item() == 0.0


@pytest.mark.parametrize("mean", [0.0, 1e4, -1e6])
def test_var_does_not_cancel_far_from_zero(ten_million, mean):
    x = ten_million + np.float32(mean)
    exact = np.var(x.astype(np.float64))
    assert_close(mg.asarray(x).var(), exact, 1)
    columns = x[: 10**6].reshape(-1, 4)
    assert_close(mg.asarray(columns).var(axis=0), np.var(columns.astype(np.float64), axis=0), 1)


@pytest.mark.parametrize("first", [1e4, -3e6, 1e30])
def test_var_about_a_first_element_that_is_far_from_the_others(ten_million, first):
    x = ten_million.copy()
    x[:4] = first
    exact = np.var(x.astype(np.float64))
    assert_close(mg.asarray(x).var(), exact, 1)
    columns = x.reshape(-1, 4)
    exact = np.var(columns.astype(np.float64), axis=0)
    assert_close(mg.asarray(columns).var(axis=0), exact, 1)
    assert_close(mg.asarray(np.ascontiguousarray(columns.T)).var(axis=1), exact, 1)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 15, 16, 17, 31, 32, 33, 63, 100])
def test_var_of_every_tail(n):
    x = np.random.default_rng(n).normal(3, 2, (n, n + 3)).astype(np.float32)
    for layout in (x, np.asfortranarray(x), x[::-1, ::-1], np.repeat(x, 2, 1)[:, ::2]):
        for axis in (0, 1, None):
            exact = np.var(layout.astype(np.float64), axis=axis)
            assert_close(mg.asarray(layout).var(axis=axis), exact, 1)


def test_float64_sums_are_compensated():
    x = np.array([1.0, 1e100, 1.0, -1e100] * 10**4)
    assert math.fsum(x) == 2e4
    x = np.random.default_rng(0).standard_normal(10**6)
    assert_close(mg.asarray(x).sum(), math.fsum(x), 4)
