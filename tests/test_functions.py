"""Composed functions, creation and grad modes: subgradients, empty input, and errors."""

from __future__ import annotations

import inspect
import itertools
import math
import pickle
import re

import numpy as np
import pytest

import minigrad as mg
import minigrad.nn.functional as F
from minigrad import autograd
from minigrad._core import ops
from minigrad.autograd import gradcheck, gradgradcheck


def leaf(data, dtype=mg.float64):
    return mg.tensor(data, dtype=dtype, requires_grad=True)


def slope(function, x):
    (gradient,) = autograd.grad(function(x).sum(), x)
    return gradient.tolist()


# ------------------------------------------------------------------------------- subgradients
@pytest.mark.parametrize("dtype", [mg.float32, mg.float64])
def test_std_of_equal_elements_has_gradient_zero(dtype):
    x = leaf([[2.0, 2.0], [1.0, 3.0]], dtype)
    assert mg.std(x, 1).tolist() == [0.0, 1.0] and mg.std(x, 1).dtype == dtype
    assert slope(lambda x: mg.std(x, 1), x) == [[0.0, 0.0], [-0.5, 0.5]]
    assert slope(lambda x: mg.std(x, 1, correction=1), x)[0] == [0.0, 0.0]


def test_std_against_finite_differences():
    x = leaf(np.random.default_rng(0).normal(size=(3, 4)))
    for check in (gradcheck, gradgradcheck):
        assert check(lambda x: mg.std(x, 1, correction=1), (x,))
    assert math.isnan(mg.std(mg.zeros(0)).item())


def test_norm_of_zero_elements():
    x = leaf([0.0, 1.0, 4.0])
    assert slope(lambda x: mg.norm(x, ord=0.5), x) == [0.0, 3.0, 1.5]
    assert slope(lambda x: mg.norm(x, ord=0.5), leaf([0.0, 0.0])) == [0.0, 0.0]
    for order in (1.5, 2, 3, math.inf):
        gradient = slope(lambda x, order=order: mg.norm(x, ord=order), leaf([0.0, 2.0]))
        assert gradient == pytest.approx([0.0, 1.0], rel=1e-14)


@pytest.mark.parametrize("order", [0.5, 1.5, 2, 3])
def test_norm_against_finite_differences(order):
    x = leaf([0.7, -1.3, 2.1])
    for check in (gradcheck, gradgradcheck):
        assert check(lambda x: mg.norm(x, ord=order), (x,))


def test_numbers_take_the_default_dtype():
    for result in (mg.norm(1.5), mg.norm(1.5, ord=3), mg.std(1.5), mg.silu(1.5), mg.gelu(1.5)):
        assert result.dtype == mg.float32


# -------------------------------------------------------------------------------- empty input
@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (0,)])
def test_softmax_of_nothing_is_empty(shape):
    x = mg.zeros(*shape, requires_grad=True)
    for axis in range(len(shape)):
        y = mg.softmax(x, axis)
        y.sum().backward()
        assert y.shape == x.grad.shape == shape and y.dtype == mg.float32
    with pytest.raises(IndexError, match="softmax: axis 2 is out of bounds"):
        mg.softmax(x, 2)


def test_split():
    def shapes(*arguments):
        return [piece.shape for piece in mg.split(*arguments)]

    assert shapes(mg.zeros(0), 2) == [(0,)]
    assert shapes(mg.ones(4), 2) == [(2,), (2,)]
    assert shapes(mg.ones(5), np.int64(2)) == [(2,), (2,), (1,)]
    assert shapes(mg.ones(2, 5), np.array([2, 0, 3]), 1) == [(2, 2), (2, 0), (2, 3)]
    assert shapes(mg.ones(2, 5), (5,), -1) == [(2, 5)]


@pytest.mark.parametrize(
    "sizes, error, message",
    [
        ([7, -2], ValueError, r"split: a size cannot be negative, got \[7, -2\]"),
        ([2, 2], ValueError, r"split: sizes \[2, 2\] add up to 4, axis 0 has 5"),
        (0, ValueError, "split: the size must be positive, got 0"),
        (True, TypeError, "split: expected an int or a sequence of ints, got True"),
        ([2.5, 2.5], TypeError, "split: expected an int or a sequence of ints"),
        (2.0, TypeError, "split: expected an int or a sequence of ints, got 2.0"),
        (None, TypeError, "split: expected an int or a sequence of ints, got None"),
    ],
)
def test_split_refuses(sizes, error, message):
    with pytest.raises(error, match=message):
        mg.split(mg.ones(5), sizes)


# -------------------------------------------------------------------------------- wrong axes
@pytest.mark.parametrize("name", ["all", "any", "count_nonzero", "argmax", "argmin"])
def test_axes(name):
    function, values = getattr(mg, name), np.random.default_rng(0).integers(0, 2, (2, 3, 4))
    x = mg.tensor(values)
    axes = (None, 0, -1) if name.startswith("arg") else (None, 1, (0, -1), ())
    for axis in axes:
        for keepdims in (False, True):
            result = function(x, axis, keepdims=keepdims).numpy()
            np.testing.assert_array_equal(
                result, getattr(np, name)(values, axis=axis, keepdims=keepdims)
            )
    with pytest.raises(IndexError, match=f"{name}: axis 3 is out of bounds for a tensor of 3"):
        function(x, 3)
    for wrong in ("a", 1.0, True, (0, "a")):
        with pytest.raises(TypeError, match=f"{name}: axis must be an int"):
            function(x, wrong)
    with pytest.raises((TypeError, ValueError), match=f"{name}: (duplicate axis|axis must)"):
        function(x, (0, -3))


# ------------------------------------------------------------------- rounding, norm, closeness
def test_round_to_decimals_as_numpy():
    values = np.array([12345.678, -0.125, 2.5, 0.0, math.nan, math.inf])
    for decimals in (-3, -1, 0, 1, 2, np.int64(3)):
        result = mg.round(mg.tensor(values), decimals)
        np.testing.assert_array_equal(result.numpy(), np.round(values, decimals))
    assert mg.round(mg.tensor([12345, -5]), -2).tolist() == [12300, 0]
    for wrong in (1.0, True, "1"):
        with pytest.raises(TypeError, match="round: decimals must be an int"):
            mg.round(mg.ones(2), wrong)


@pytest.mark.parametrize("order", [0.5, 1, 1.0, 1.5, 2, 3, 5, math.inf])
@pytest.mark.parametrize("axis", [None, 0, -1, (0, 2), (0, 1, 2)])
def test_norm_is_the_formula_of_its_order(order, axis):
    values = np.random.default_rng(3).normal(size=(3, 4, 2))
    axes = tuple(range(3)) if axis is None else axis
    if order == math.inf:
        expected = abs(values).max(axes, keepdims=True)
    else:
        expected = (abs(values) ** order).sum(axes, keepdims=True) ** (1 / order)
    for dtype, tolerance in ((mg.float64, 1e-14), (mg.float32, 1e-6)):
        x = mg.tensor(values, dtype=dtype)
        kept, dropped = (mg.norm(x, axis, keepdims=k, ord=order).numpy() for k in (True, False))
        assert kept.dtype == dtype and kept.shape == expected.shape
        np.testing.assert_allclose(kept, expected, rtol=tolerance)
        np.testing.assert_array_equal(dropped, kept.squeeze(axes))
        if not isinstance(axes, tuple):
            expected_too = np.linalg.norm(values, order, axis)
            np.testing.assert_allclose(dropped, expected_too, rtol=tolerance)
    assert gradcheck(lambda x: mg.norm(x, axis, ord=order), (leaf(values),))
    assert gradgradcheck(lambda x: mg.square(mg.norm(x, axis, ord=order)), (leaf(values),))


@pytest.mark.parametrize("dtype", ["bool", "int32", "int64", "float32", "float64"])
def test_where_takes_what_is_not_zero_for_true(dtype):
    values = np.array([[0.0, 2.0, -1.0, 0.0], [256.0, 0.0, 65536.0, 1.0]]).astype(dtype)
    if np.dtype(dtype).kind == "f":
        values[0, 1:] = 1e-30, np.nan, -0.0
    for condition in (values, values[:, ::-1], values[:1]):
        x, y = leaf(np.ones((2, 4))), leaf(np.full((2, 4), 5.0))
        z = mg.where(mg.asarray(condition), x, y)
        expected = np.broadcast_to(condition != 0, (2, 4))
        np.testing.assert_array_equal(z.detach().numpy(), np.where(expected, 1.0, 5.0))
        z.sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), expected)
        np.testing.assert_array_equal(y.grad.numpy(), ~expected)


BOUNDS = {
    "none": lambda low, high, dtype: (None, None),
    "numbers": lambda low, high, dtype: (float(low.flat[0]), float(high.flat[0])),
    "arrays": lambda low, high, dtype: (low.astype(dtype), high.astype(dtype)),
    "tensors": lambda low, high, dtype: (
        mg.tensor(low, dtype=dtype, requires_grad=True),
        mg.tensor(high, dtype=dtype, requires_grad=True),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("lower", "upper"), [p for p in itertools.product(BOUNDS, BOUNDS) if p != ("none", "none")]
)
def test_clip_with_every_kind_of_bound(lower, upper, dtype):
    random = np.random.default_rng(5)
    x = mg.tensor(random.normal(size=(3, 4)) * 2, dtype=dtype, requires_grad=True)
    low, high = -random.uniform(0.2, 1, (3, 1)), random.uniform(0.2, 1, 4)
    minimum, maximum = BOUNDS[lower](low, high, dtype)[0], BOUNDS[upper](low, high, dtype)[1]
    y = mg.clip(x, minimum, maximum)
    arrays = [b.detach().numpy() if isinstance(b, mg.Tensor) else b for b in (minimum, maximum)]
    values = x.detach().numpy()
    np.testing.assert_array_equal(y.detach().numpy(), np.clip(values, *arrays).astype(dtype))
    assert y.dtype == dtype
    y.sum().backward()
    below = False if minimum is None else values < arrays[0]
    above = False if maximum is None else values > arrays[1]
    np.testing.assert_array_equal(x.grad.numpy(), np.broadcast_to(~(below | above), (3, 4)))
    for bound, beyond in ((minimum, below), (maximum, above)):
        if isinstance(bound, mg.Tensor):
            axis, keep = (1, True) if bound.ndim == 2 else (0, False)
            np.testing.assert_array_equal(bound.grad.numpy(), beyond.sum(axis, keepdims=keep))


@pytest.mark.parametrize("bounds", [(-1.0, 1.0), (None, 1.0), (-1.0, None)])
def test_clip_passes_no_gradient_through_nan(bounds):
    as_tensors = [None if bound is None else mg.tensor(bound) for bound in bounds]
    for low, high in (bounds, as_tensors):
        x = leaf([math.nan, 0.5])
        y = mg.clip(x, low, high)
        y.sum().backward()
        assert np.isnan(y.detach().numpy()).tolist() == [True, False]
        assert x.grad.tolist() == [0.0, 1.0]


def test_norm_takes_the_frobenius_norm_by_name():
    x = leaf([[3.0, 0.0], [0.0, 4.0]])
    assert mg.norm(x, ord="fro").item() == 5.0
    assert mg.norm(x, axis=1, ord="fro").tolist() == [3.0, 4.0]
    for wrong in ("nuc", "", "2"):
        with pytest.raises(ValueError, match="norm: ord must be a positive number, inf or 'fro'"):
            mg.norm(x, ord=wrong)


def test_norm_of_a_high_order_at_zero():
    x = leaf([0.0, 2.0])
    assert slope(lambda x: mg.norm(x, ord=3), x) == pytest.approx([0.0, 1.0], rel=1e-14)
    assert gradcheck(lambda x: mg.norm(x, ord=4), (leaf([0.0, -1.0]),))


def test_isclose():
    x = np.array([1.0, math.nan, math.inf, 1e-9])
    y = np.array([1.000001, math.nan, math.inf, 0.0])
    for equal_nan in (False, True):
        expected = np.isclose(x, y, equal_nan=equal_nan)
        assert mg.isclose(mg.tensor(x), y, equal_nan=equal_nan).tolist() == expected.tolist()
        assert mg.allclose(mg.tensor(x), y, equal_nan=equal_nan) is bool(expected.all())
    assert mg.allclose(mg.zeros(0), mg.zeros(0)) is True
    assert mg.ones(2).isclose(1.1, rtol=0.2).tolist() == [True, True]


# ------------------------------------------------------------------------- cumulative functions
@pytest.mark.parametrize("name", ["cumulative_sum", "cumulative_prod"])
def test_cumulative_functions(name):
    function, exact = getattr(mg, name), getattr(np, {"s": "cumsum", "p": "cumprod"}[name[11]])
    values = np.random.default_rng(0).integers(0, 3, (3, 4, 700))
    for dtype in (np.float32, np.float64, np.int32, np.int64, bool):
        x = values.astype(dtype)
        for axis in (0, 1, -1):
            for view in (x, x.transpose(2, 0, 1), x[::-1, :, ::2]):
                result = function(mg.asarray(view), axis=axis)
                expected = exact(view, axis=axis)
                np.testing.assert_array_equal(result.numpy(), expected)
                assert result.dtype == expected.dtype
    with pytest.raises(ValueError, match=f"{name}: a tensor of 2 dimensions needs an axis"):
        function(mg.ones(2, 2))
    with pytest.raises(ValueError, match=f"{name}: a tensor of 0 dimensions needs an axis"):
        function(mg.tensor(1.0))
    with pytest.raises(IndexError, match=f"{name}: axis 2 is out of bounds"):
        function(mg.ones(2, 2), axis=2)


def test_cumulative_sum_of_a_million_float32_keeps_its_digits():
    x = np.random.default_rng(0).random(10**6, np.float32)
    exact = np.cumsum(x.astype(np.float64))
    np.testing.assert_allclose(mg.cumulative_sum(mg.asarray(x)).numpy(), exact, rtol=1e-7)


ZEROS = ([0.0], [0.0, 0.0, 0.0], [2.0, 0.0, 3.0], [0.0, 1.5, 0.0, -2.0], [1.5, -2.0, 0.0, 0.0, 3.0])


@pytest.mark.parametrize("values", ZEROS)
def test_products_with_zeros_have_exact_gradients(values):
    x, cotangent = leaf(values), mg.tensor(np.arange(1.0, len(values) + 1))
    y = mg.cumulative_prod(x)
    (gradient,) = autograd.grad(y, x, cotangent)
    exact = [
        sum((j + 1) * math.prod(np.delete(values[: j + 1], k)) for j in range(k, len(values)))
        for k in range(len(values))
    ]
    assert gradient.tolist() == exact
    (gradient,) = autograd.grad(mg.prod(x), x)
    assert gradient.tolist() == [math.prod(np.delete(values, k)) for k in range(len(values))]
    for function in (mg.cumulative_prod, mg.prod):
        assert gradcheck(function, (x,)) and gradgradcheck(function, (x,))


@pytest.mark.parametrize(
    ("a", "b", "dtype"),
    [(1e20, 1e25, "float32"), (1e30, 1e30, "float32"), (1e200, 1e250, "float64")],
)
def test_second_derivatives_of_products_of_factors_far_apart(a, b, dtype):
    x = mg.tensor([a, b, 1 / a, 1 / b], dtype=dtype, requires_grad=True)
    (slope,) = autograd.grad(mg.prod(x), x, create_graph=True)
    rows = [autograd.grad(slope[k], x, retain_graph=True)[0].numpy() for k in range(4)]
    exact = [
        [0, 1 / a / b, 1, b / a],
        [1 / a / b, 0, a / b, 1],
        [1, a / b, 0, np.inf],
        [b / a, 1, np.inf, 0],
    ]
    smallest = np.finfo(dtype).smallest_subnormal
    np.testing.assert_allclose(rows, np.array(exact, dtype), rtol=1e-5, atol=smallest)


def test_the_gradient_of_long_products_with_a_zero_needs_little_memory():
    values = np.ones(10**6)
    values[1234] = 0.0
    for function in (mg.prod, lambda x: mg.cumulative_prod(x)[-1]):
        x = leaf(values)
        function(x).backward()
        assert x.grad.sum().item() == x.grad[1234].item() == 1.0


def test_a_linear_recurrence_of_two_dtypes():
    y = ops.linear_recurrence(mg.ones(2), mg.ones(2, dtype=mg.float64))
    assert y.dtype == mg.float64 and y.tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match=r"factor of shape \(2,\) and x of shape \(3,\) differ"):
        ops.linear_recurrence(mg.ones(2), mg.ones(3))


# ------------------------------------------------------------------------------------- shape
@pytest.mark.parametrize("times", [2, (2,), (0,), (2, 3), (1, 2, 1), (2, 1, 1, 3)])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (2, 0), (2, 1, 3)])
def test_tile(shape, times):
    values = np.random.default_rng(0).normal(size=shape)
    np.testing.assert_array_equal(mg.tile(mg.tensor(values), times).numpy(), np.tile(values, times))
    assert gradcheck(lambda x: mg.tile(x, times), (leaf(values),))


@pytest.mark.parametrize("k", [-5, -1, 0, 2, 9])
@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 4), (4, 2), (0, 3)])
@pytest.mark.parametrize("name", ["tril", "triu"])
def test_triangles(name, shape, k):
    function, exact = getattr(mg, name), getattr(np, name)
    for dtype in (np.float32, np.float64, np.int32, np.int64, bool):
        values = np.random.default_rng(0).integers(-2, 3, shape).astype(dtype)
        result = function(mg.tensor(values), k)
        np.testing.assert_array_equal(result.numpy(), exact(values, k))
        assert result.dtype == dtype
    x = leaf(np.random.default_rng(0).normal(size=shape))
    assert gradcheck(lambda x: function(x, k), (x,))
    with pytest.raises(ValueError, match=f"{name}: expected two or more dimensions, got shape"):
        function(mg.ones(3))


def test_a_triangle_drops_nan():
    assert mg.tril(mg.tensor([[1.0, math.nan]])).tolist() == [[1.0, 0.0]]


def test_swapaxes_and_meshgrid():
    x = np.arange(24).reshape(2, 3, 4)
    for a, b in ((0, 2), (-1, 1), (1, 1)):
        np.testing.assert_array_equal(mg.swapaxes(mg.tensor(x), a, b).numpy(), np.swapaxes(x, a, b))
    for sizes in ((), (2,), (2, 3), (2, 0, 4)):
        arrays = [np.arange(float(n)) for n in sizes]
        for indexing in ("xy", "ij"):
            grid = mg.meshgrid(*map(mg.tensor, arrays), indexing=indexing)
            for ours, exact in zip(grid, np.meshgrid(*arrays, indexing=indexing), strict=True):
                np.testing.assert_array_equal(ours.numpy(), exact)
    with pytest.raises(ValueError, match="meshgrid: indexing must be 'xy' or 'ij', got 'yx'"):
        mg.meshgrid(mg.ones(2), indexing="yx")
    with pytest.raises(ValueError, match=r"meshgrid: expected 1-d tensors, got"):
        mg.meshgrid(mg.ones(2, 2))


def test_nonzero():
    for values in ([[0.0, 5.0], [math.nan, -0.0]], [True, False], [[]]):
        places = mg.nonzero(mg.tensor(values))
        for ours, exact in zip(places, np.nonzero(np.array(values)), strict=True):
            np.testing.assert_array_equal(ours.numpy(), exact)
            assert ours.dtype == mg.int64
    with pytest.raises(ValueError, match="nonzero: a 0-d tensor has no positions"):
        mg.nonzero(mg.tensor(1.0))


def test_what_is_repeated_or_taken_may_be_overwritten_afterwards():
    for function in (lambda x, i: mg.repeat(x, i), lambda x, i: mg.take(x, i, 0)):
        x, numbers = leaf([1.0, 2.0]), np.array([0, 1])
        y = function(x, numbers)
        numbers[:] = 5
        y.sum().backward()
        assert x.grad.sum().item() == y.size


BAD_SHAPES = {
    "roll: a shift for each of two axes": (lambda x: mg.roll(x, (1, 2), 0), ValueError),
    "roll: a fractional shift": (lambda x: mg.roll(x, 1.5, 0), TypeError),
    "roll: an axis too far": (lambda x: mg.roll(x, 1, 2), IndexError),
    "repeat: a fraction": (lambda x: mg.repeat(x, 1.5), TypeError),
    "repeat: a negative number": (lambda x: mg.repeat(x, -1), ValueError),
    "repeat: too few numbers": (lambda x: mg.repeat(x, [1, 1], 1), ValueError),
    "repeat: no numbers": (lambda x: mg.repeat(x, np.array([], int), 1), ValueError),
    "reciprocal: integers": (lambda x: mg.reciprocal(mg.arange(3)), TypeError),
    "moveaxis: more axes than places": (lambda x: mg.moveaxis(x, (0, 1), (1,)), ValueError),
    "moveaxis: an axis twice": (lambda x: mg.moveaxis(x, (0, -2), (0, 1)), ValueError),
    "moveaxis: a place twice": (lambda x: mg.moveaxis(x, (0, 1), (1, -1)), ValueError),
    "take: no axis": (lambda x: mg.take(x, mg.tensor([0])), TypeError),
    "take_along_axis: 2 rows of 3": (
        lambda x: mg.take_along_axis(x, mg.zeros(3, 1, dtype=mg.int64), 1),
        ValueError,
    ),
    "tile: a fraction": (lambda x: mg.tile(x, 1.5), TypeError),
    "tile: a negative number": (lambda x: mg.tile(x, (1, -1)), ValueError),
    "diagonal: one axis twice": (lambda x: mg.diagonal(x, axis1=1, axis2=-1), ValueError),
    "diagonal: a vector": (lambda x: mg.diagonal(x[0]), ValueError),
    "diagonal: a fractional offset": (lambda x: mg.diagonal(x, 0.5), TypeError),
    "trace: a vector": (lambda x: mg.trace(x[0]), ValueError),
    "sort: two axes": (lambda x: mg.sort(x, (0, 1)), TypeError),
    "argsort: a number": (lambda x: mg.argsort(x[0, 0]), IndexError),
    "topk: more than there are": (lambda x: mg.topk(x, 4), ValueError),
    "topk: less than none": (lambda x: mg.topk(x, -1), ValueError),
    "topk: a fraction": (lambda x: mg.topk(x, 1.0), TypeError),
    "take: a fraction": (lambda x: mg.take(x, 0.5, 0), TypeError),
    "take_along_axis: no axis": (lambda x: mg.take_along_axis(x, x.argsort(), None), TypeError),
    "expand_dims: no axis": (lambda x: mg.expand_dims(x, None), TypeError),
}


@pytest.mark.parametrize("name", BAD_SHAPES)
def test_bad_arguments_name_the_function(name):
    call, error = BAD_SHAPES[name]
    with pytest.raises(error, match=name.split(":")[0] + ":"):
        call(mg.ones(2, 3))


# ----------------------------------------------------------------------------------- order
TIES = np.array([[2.0, 1.0, 2.0, math.nan, 1.0], [0.0, -0.0, 0.0, math.inf, -math.inf]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_argsort(dtype):
    values = np.random.default_rng(0).integers(0, 3, (3, 50)).astype(dtype)
    x = mg.tensor(values)
    for axis in (0, 1):
        exact = np.argsort(values, axis, stable=True)
        np.testing.assert_array_equal(mg.argsort(x, axis, stable=True).numpy(), exact)
        order = mg.argsort(x, axis, descending=True, stable=True).numpy()
        exact = np.argsort(-values.astype(float), axis, stable=True)
        np.testing.assert_array_equal(order, exact)
        for descending in (False, True):
            order = mg.argsort(x, axis, descending=descending)
            ordered = mg.take_along_axis(x, order, axis)
            np.testing.assert_array_equal(
                ordered.numpy(), mg.sort(x, axis, descending=descending).numpy()
            )


@pytest.mark.parametrize("length", [9, 4000, 20_000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, bool])
def test_equal_elements_stay_in_their_order(dtype, length):
    values = np.resize(np.array([0, 0, 1, 1, -1, 0, 1, 0, -1]), length).astype(dtype)
    if values.dtype.kind == "f":
        values[1::5] *= -1.0  # -0.0 among the zeros
        values[7 : 7 + 5 * (length != 4000)] = math.nan
    down = length - 1 - np.argsort(values[::-1], stable=True)[::-1]
    for order, descending in ((np.argsort(values, stable=True), False), (down, True)):
        for x in (mg.tensor(values), mg.asarray(values[::-1].copy()[::-1])):
            assert mg.argsort(x, descending=descending).tolist() == order.tolist()
            ordered = mg.sort(x, descending=descending).numpy()
            np.testing.assert_array_equal(ordered, values[order])
            if values.dtype.kind == "f":
                zeros = ordered == 0
                signs = np.signbit(values[order])[zeros]
                np.testing.assert_array_equal(np.signbit(ordered)[zeros], signs)
            for k in (1, 4, length - 1, length):
                positions = mg.topk(x, k, largest=descending)[1].tolist()
                assert positions == order[:k].tolist()
                positions = mg.topk(x, k, largest=descending, sorted=False)[1].tolist()
                assert positions == sorted(order[:k].tolist())
    columns = np.stack([values, values[::-1]], 1)
    for axis, x in ((0, mg.tensor(columns)), (1, mg.tensor(columns).T)):
        order = mg.argsort(x, axis)
        np.testing.assert_array_equal(order.numpy(), np.argsort(x.numpy(), axis, stable=True))


def test_nan_is_the_largest():
    x = mg.tensor(TIES)
    assert np.isnan(mg.sort(x)[0, -1].item()) and np.isnan(mg.sort(x, descending=True)[0, 0].item())
    values, positions = mg.topk(x, 2)
    assert positions[0].tolist()[0] == 3 and positions[1].tolist()[0] == 3
    values, positions = mg.topk(x, 4, largest=False)
    assert values[0].tolist() == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("dtype", [mg.float32, mg.float64])
def test_the_sign_of_either_zero_is_zero(dtype):
    for x in (mg.tensor([-0.0, 0.0] * 20, dtype), mg.tensor(-0.0, dtype)):
        assert not np.signbit(mg.sign(x).numpy()).any()


@pytest.mark.parametrize(
    ("source", "destination"),
    [((0, 1), (1, 2)), ([0, 2], [2, 0]), ((2, 1), (0, -1)), ((0,), (1,)), ((), ()), (-1, 0)],
)
def test_moveaxis_takes_tuples(source, destination):
    x = mg.tensor(np.arange(24.0).reshape(2, 3, 4))
    exact = np.moveaxis(x.numpy(), source, destination)
    np.testing.assert_array_equal(mg.moveaxis(x, source, destination).numpy(), exact)
    np.testing.assert_array_equal(x.moveaxis(source, destination).numpy(), exact)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32, np.int64, bool])
@pytest.mark.parametrize(
    ("shape", "indices", "axis"),
    [
        ((2, 3), [[0]], 1),
        ((1, 3), [[0], [-1]], 1),
        ((3, 1), [[2, 0]], 0),
        ((2, 1, 4), [[[0, 3], [1, 1], [-2, 0]]], -1),
        ((2, 3, 1), [[[0]], [[2]]], 1),
        ((0, 3), [[1, 2]], 1),
    ],
)
def test_take_along_axis_broadcasts_the_other_axes(shape, indices, axis, dtype):
    values = (np.arange(math.prod(shape)).reshape(shape) % 3).astype(dtype)
    exact = np.take_along_axis(values, np.array(indices), axis)
    result = mg.take_along_axis(mg.tensor(values), mg.tensor(indices), axis)
    np.testing.assert_array_equal(result.numpy(), exact)
    assert result.dtype == dtype and result.shape == exact.shape
    if dtype == np.float64:
        for check in (gradcheck, gradgradcheck):
            assert check(
                lambda x: mg.take_along_axis(x, mg.tensor(indices), axis) ** 2, leaf(values)
            )


@pytest.mark.parametrize("count", [np.array([2]), [2], mg.tensor([2]), np.array(2), np.int32(2)])
def test_repeat_takes_one_count_for_all(count):
    x = leaf([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    for axis in (None, 0, 1):
        y = mg.repeat(x, count, axis=axis)
        np.testing.assert_array_equal(y.numpy(), np.repeat(x.numpy(), 2, axis))
        assert gradcheck(lambda x, axis=axis: mg.repeat(x, count, axis), x)


def test_diagonals_and_ends_of_creation():
    np.testing.assert_array_equal(mg.eye(3, 4, k=-1).numpy(), np.eye(3, 4, -1))
    np.testing.assert_array_equal(mg.eye(2, k=1).numpy(), [[0, 1], [0, 0]])
    assert mg.linspace(0, 1, 4, endpoint=False).tolist() == [0.0, 0.25, 0.5, 0.75]
    assert mg.take(mg.tensor([5.0, 6.0, 7.0]), mg.tensor([2, 0])).tolist() == [7.0, 5.0]


@pytest.mark.parametrize("stable", [False, True])
def test_the_gradient_of_ties_follows_the_order(stable):
    x, cotangent = leaf([1.0, 0.0, 1.0]), mg.tensor([1.0, 2.0, 3.0], dtype=mg.float64)
    (gradient,) = autograd.grad(mg.sort(x, stable=stable), x, cotangent)
    assert gradient[1].item() == 1.0 and sorted(gradient.tolist()) == [1.0, 2.0, 3.0]
    assert not stable or gradient.tolist() == [2.0, 1.0, 3.0]


@pytest.mark.parametrize("largest", [True, False])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_topk(axis, largest):
    values = np.random.default_rng(0).permutation(60).reshape(5, 4, 3).astype(float)
    exact = np.flip(np.sort(values, axis), axis) if largest else np.sort(values, axis)
    x = leaf(values)
    for k in range(values.shape[axis] + 1):
        expected = np.take(exact, range(k), axis)
        top, positions = mg.topk(x, k, axis, largest)
        np.testing.assert_array_equal(top.numpy(), expected)
        np.testing.assert_array_equal(np.take_along_axis(values, positions.numpy(), axis), expected)
        assert positions.dtype == mg.int64
        top, positions = mg.topk(x, k, axis, largest, sorted=False)
        np.testing.assert_array_equal(np.sort(top.numpy(), axis), np.sort(expected, axis))
        (gradient,) = autograd.grad(top.sum(), x)
        assert gradient.sum().item() == top.size and set(gradient.reshape(-1).tolist()) <= {
            0.0,
            1.0,
        }
    assert gradcheck(lambda x: mg.topk(x, 2, axis, largest)[0], (x,))


def test_topk_of_nothing():
    for shape, axis in (((0,), 0), ((0, 3), 0), ((3, 0), 0), ((3, 0), 1)):
        values, positions = mg.topk(mg.zeros(*shape), 0, axis)
        assert values.shape == positions.shape and values.shape[axis] == 0


# --------------------------------------------------------------------------------- scatter_add
def test_scatter_add_adds_duplicates():
    x, source = leaf(np.ones((2, 3))), leaf([[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]])
    places = mg.tensor([[0, 0, -1, 0], [1, 2, 1, 1]])
    y = mg.scatter_add(x, 1, places, source)
    assert y.tolist() == [[8.0, 1.0, 4.0], [1.0, 21.0, 7.0]] and x.tolist() == [[1.0] * 3] * 2
    for check in (gradcheck, gradgradcheck):
        assert check(lambda x, s: mg.scatter_add(x, 1, places, s), (x, source))


def test_scatter_add_of_a_part_into_a_part():
    x, source = leaf(np.zeros((3, 4))), leaf(np.arange(1.0, 13.0).reshape(3, 4))
    y = mg.scatter_add(x, 0, mg.tensor([[2, 0], [2, 1]]), source)
    assert y.tolist() == [[0, 2, 0, 0], [0, 6, 0, 0], [6, 0, 0, 0]]
    for check in (gradcheck, gradgradcheck):
        assert check(lambda x, s: mg.scatter_add(x, 0, mg.tensor([[2, 0], [2, 1]]), s), (x, source))
    assert mg.scatter_add(mg.tensor([1, 2]), 0, mg.tensor([1, 1]), mg.tensor([5, 6])).tolist() == [
        1,
        13,
    ]
    assert mg.scatter_add(mg.ones(2), 0, np.zeros(0, int), mg.ones(3)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "axis, places, source, error",
    [
        (0, [3], (1,), IndexError),
        (0, [-4], (1,), IndexError),
        (0, [0, 0], (1,), ValueError),
        (0, [[0]], (1,), ValueError),
        (0, [[0]], (1, 1), ValueError),
        (0, [0.5], (1,), TypeError),
        (1, [0], (1,), IndexError),
        ("0", [0], (1,), TypeError),
    ],
)
def test_scatter_add_refuses(axis, places, source, error):
    with pytest.raises(error, match=r"(scatter_add|add_along_axis): "):
        mg.scatter_add(mg.zeros(3), axis, np.array(places), mg.ones(*source))
    with pytest.raises(ValueError, match="scatter_add: indices"):
        mg.scatter_add(mg.zeros(2, 3), 0, np.zeros((1, 4), int), mg.ones(1, 4))


# ------------------------------------------------------------------------------- contractions
EINSUM = [  # subscripts and the shapes of the operands
    ("i->", (3,)),
    ("ij->ji", (2, 3)),
    ("ij", (2, 3)),
    ("ba", (2, 3)),
    ("ii", (3, 3)),
    ("ii->i", (3, 3)),
    ("iji->j", (3, 2, 3)),
    ("iii->i", (3, 3, 3)),
    ("iijj->ij", (2, 2, 3, 3)),
    ("...ii->...", (2, 3, 3)),
    ("...i", (2, 3)),
    ("i...->...", (2, 3, 2)),
    ("i,i->", (3,), (3,)),
    ("i,i", (3,), (3,)),
    ("i,j->ij", (3,), (2,)),
    (",i->i", (), (3,)),
    ("ij,j->i", (2, 3), (3,)),
    ("ij,jk", (2, 3), (3, 4)),
    ("ij,jk->ki", (2, 3), (3, 4)),
    ("ji,kj->ik", (3, 2), (4, 3)),
    ("ij,ij->", (2, 3), (2, 3)),
    ("ij,ij->i", (2, 3), (2, 3)),
    ("ij,ij->j", (2, 3), (2, 3)),
    ("ij,ji->ij", (2, 3), (3, 2)),
    ("ij,kl->jl", (2, 3), (4, 2)),
    ("bij,bjk->bik", (2, 2, 3), (2, 3, 4)),
    ("ibj,jkb->kbi", (2, 3, 2), (2, 4, 3)),
    ("bhqd,bhkd->bhqk", (2, 2, 3, 2), (2, 2, 4, 2)),
    ("ijk,jil->kl", (2, 3, 4), (3, 2, 2)),
    ("iij,jk->ik", (2, 2, 3), (3, 4)),
    ("...ij,...jk->...ik", (2, 1, 2, 3), (3, 3, 2)),
    ("...ij,jk->...ik", (2, 2, 3), (3, 2)),
    ("i...,i...->...", (2, 3), (2, 3)),
    ("...,...->...", (2, 3), (3,)),
    ("...i,i...->...", (2, 3), (3, 2)),
    ("ij,jk->ik", (2, 1), (3, 4)),
    ("ij,ij->ij", (1, 3), (2, 1)),
    ("ij,jk,kl->il", (2, 3), (3, 4), (4, 2)),
    ("i,ij,j", (2,), (2, 3), (3,)),
    ("ij,ik,il->jkl", (2, 3), (2, 2), (2, 3)),
    ("ij,ij,ij->", (2, 3), (2, 3), (2, 3)),
    ("a,b,c,abc->cb", (2,), (3,), (2,), (2, 3, 2)),
    ("ij,jk->ik", (2, 0), (0, 3)),
    ("ij,jk->ik", (0, 2), (2, 3)),
    ("i j , j k -> i k", (2, 3), (3, 4)),
    ("Ab,bC", (2, 3), (3, 2)),
]


@pytest.mark.parametrize("case", EINSUM, ids=str)
def test_einsum_against_numpy_and_finite_differences(case):
    subscripts, *shapes = case
    random = np.random.default_rng(0)
    arrays = [random.normal(size=shape) for shape in shapes]
    inputs = [leaf(a) for a in arrays]
    exact = np.einsum(subscripts, *arrays)
    result = mg.einsum(subscripts, *inputs)
    assert result.shape == exact.shape
    np.testing.assert_allclose(result.numpy(), exact, rtol=1e-13, atol=1e-13)
    for check in (gradcheck, gradgradcheck):
        assert check(lambda *x: mg.einsum(subscripts, *x), inputs)
    for dtype in (np.float32, np.int64):
        arrays = [random.integers(-3, 4, shape).astype(dtype) for shape in shapes]
        result = mg.einsum(subscripts, *map(mg.asarray, arrays))
        np.testing.assert_array_equal(result.numpy(), np.einsum(subscripts, *arrays))
        assert result.dtype == dtype


def test_einsum_sums_an_ellipsis_that_the_result_lacks():
    """As in PyTorch; NumPy raises."""
    x = np.random.default_rng(0).normal(size=(2, 3, 4))
    np.testing.assert_allclose(mg.einsum("...i->i", mg.tensor(x)).numpy(), x.sum((0, 1)))


def test_einsum_of_views_and_of_mixed_dtypes():
    x, y = (np.random.default_rng(i).normal(size=(4, 3, 2)) for i in range(2))
    ours = mg.einsum("kji,ikj->j", mg.tensor(x).permute_dims((1, 0, 2)), mg.tensor(y).T)
    np.testing.assert_allclose(ours.numpy(), np.einsum("kji,ikj->j", x.transpose(1, 0, 2), y.T))
    mixed = mg.einsum("ij,j", mg.ones(2, 3, dtype=mg.float32), mg.ones(3, dtype=mg.float64))
    assert mixed.dtype == mg.float64
    assert mg.einsum("i,i", np.ones(2), mg.ones(2)).item() == 2.0


@pytest.mark.parametrize(
    "call, error, message",
    [
        (("ij,jk", (2, 3)), ValueError, "einsum: 'ij,jk' is for 2 operands, got 1"),
        (("ij", (2, 3), (2, 3)), ValueError, "einsum: 'ij' is for 1 operands, got 2"),
        (("ij,jk", (2, 3), (4, 5)), ValueError, r"index 'j' has sizes 3 and 4; the shapes are \(2"),
        (("ii", (2, 3)), ValueError, "einsum: index 'i' has sizes 2 and 3"),
        (("ii", (1, 3)), ValueError, "einsum: index 'i' has sizes 1 and 3"),
        (("ijk", (2, 3)), ValueError, "'ijk' names 3 dimensions, there are 2"),
        (("i", (2, 3)), ValueError, "'i' names 1 dimensions, there are 2"),
        (("ij->k", (2, 3)), ValueError, "'k' must occur once after '->', and before it"),
        (("ij->ii", (2, 3)), ValueError, "'i' must occur once after '->', and before it"),
        (("i1", (2, 3)), ValueError, "'i1' may contain only letters and one '...'"),
        (("i..", (2, 3)), ValueError, "may contain only letters and one '...'"),
        (("...i...", (2, 3)), ValueError, "may contain only letters and one '...'"),
        (("ij->i->j", (2, 3)), ValueError, "may contain only letters and one '...'"),
        (("...i,...i", (2, 3), (4, 3)), ValueError, "einsum: axis -1 has sizes 2 and 4"),
        ((3, (2, 3)), TypeError, "einsum: expected subscripts such as 'ij,jk->ik', got 3"),
    ],
)
def test_einsum_refuses(call, error, message):
    subscripts, *shapes = call
    with pytest.raises(error, match=message):
        mg.einsum(subscripts, *(mg.ones(*shape) for shape in shapes))
    with pytest.raises(TypeError, match="einsum: expected a Tensor, got list"):
        mg.einsum("i", [1.0])


TENSORDOT = [
    ((2, 3), (3, 4), 1),
    ((2, 3, 4), (3, 4, 2), 2),
    ((2, 3), (4,), 0),
    ((2, 3), (2, 3), ((0, 1), (0, 1))),
    ((2, 3, 4), (4, 3, 2), ([0, 1], [-1, 1])),
    ((2, 3, 4), (5, 3), (1, 1)),
    ((2, 0), (0, 3), 1),
]


@pytest.mark.parametrize("case", TENSORDOT, ids=str)
def test_tensordot(case):
    first, second, axes = case
    x, y = (np.random.default_rng(i).normal(size=shape) for i, shape in enumerate((first, second)))
    result, exact = mg.tensordot(mg.tensor(x), mg.tensor(y), axes), np.tensordot(x, y, axes)
    assert result.shape == exact.shape
    np.testing.assert_allclose(result.numpy(), exact, rtol=1e-13, atol=1e-14)
    for check in (gradcheck, gradgradcheck):
        assert check(lambda x, y: mg.tensordot(x, y, axes), (leaf(x), leaf(y)))


@pytest.mark.parametrize(
    "shapes", [((3,), (3,)), ((2, 3), (3,)), ((2, 1, 3), (4, 3)), ((0,), (0,))]
)
def test_vecdot(shapes):
    x, y = (np.random.default_rng(i).normal(size=shape) for i, shape in enumerate(shapes))
    exact = np.sum(x * y, -1)
    np.testing.assert_allclose(mg.vecdot(mg.tensor(x), mg.tensor(y)).numpy(), exact, atol=1e-14)
    for check in (gradcheck, gradgradcheck):
        assert check(mg.vecdot, (leaf(x), leaf(y)))


def test_vecdot_along_another_axis():
    x = np.random.default_rng(0).normal(size=(3, 2, 4))
    result = mg.vecdot(mg.tensor(x), mg.tensor(x[:, :1]), axis=-3)
    np.testing.assert_allclose(result.numpy(), (x * x[:, :1]).sum(0))


LARGE_PRODUCTS = {
    "vecdot": lambda x: mg.vecdot(x, x),
    "vecdot, broadcast": lambda x: mg.vecdot(x, x[0]),
    "tensordot, one axis": lambda x: mg.tensordot(x, x.T, 1),
    "tensordot, both axes": lambda x: mg.tensordot(x, x),
    "tensordot of vectors": lambda x: mg.tensordot(x[0], x[0], 1),
    "einsum of rows": lambda x: mg.einsum("ij,ij->i", x, x),
    "einsum of matrices": lambda x: mg.einsum("ij,kj", x, x),
    "einsum of three": lambda x: mg.einsum("ij,ij,j->", x, x, mg.ones(4, dtype=mg.int32)),
    "einsum of a diagonal": lambda x: mg.einsum("ii,ii->", x[:, :2], x[:, :2]),
    "sum_product": lambda x: ops.sum_product(x, x, 1),
    "packed_outer": lambda x: ops.packed_outer(x.reshape(1, 2, 4), x.reshape(1, 2, 4), (1, 2, 4)),
}


@pytest.mark.parametrize("name", LARGE_PRODUCTS)
def test_sums_of_products_of_int32_do_not_overflow(name):
    """They are int64, like the sum, and so are the products before it."""
    values = np.array([[50_000, -60_000, 70_000, 2**31 - 1], [1, 2, 3, -(2**31)]], np.int32)
    result = LARGE_PRODUCTS[name](mg.tensor(values))
    exact = LARGE_PRODUCTS[name](mg.tensor(values.astype(np.int64)))
    assert result.dtype == mg.int64 and exact.dtype == mg.int64
    assert result.tolist() == exact.tolist()
    mask = values % 2 == 0
    assert LARGE_PRODUCTS[name](mg.tensor(mask)).dtype == mg.int64  # bools are counted


def test_products_that_are_not_summed_keep_their_dtype():
    x = mg.tensor([[1, 2], [3, 4]], dtype=mg.int32)
    for y in (mg.outer(x[0], x[1]), mg.einsum("i,j->ij", x[0], x[1]), mg.einsum("ij->ji", x)):
        assert y.dtype == mg.int32
    assert mg.tensordot(x, x, 0).dtype == mg.int32
    assert (x @ x).dtype == mg.int32 and (x @ x).tolist() == [[7, 10], [15, 22]]  # as NumPy's
    mixed = mg.einsum("i,i,i", x[0] * 50_000, x[0] * 50_000, mg.ones(2, dtype=mg.float64))
    assert mixed.item() == 12_500_000_000.0


@pytest.mark.parametrize("order", [1, 2, 3, math.inf])
def test_norm_of_integers_is_float(order):
    x = np.array([50_000, -(2**31), 7], np.int32)
    result = mg.norm(mg.tensor(x), ord=order)
    assert result.dtype == mg.float32
    assert result.item() == np.float32(np.linalg.norm(x.astype(float), order))


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"])
def test_losses_of_integers_do_not_overflow(name):
    x = np.array([50_000, -60_000, 2**31 - 1], np.int32)
    target = np.array([1, 2, -(2**31)], np.int32)
    loss = getattr(mg.nn.functional, name)
    exact = loss(mg.tensor(x.astype(float)), mg.tensor(target.astype(float)))
    result = loss(mg.tensor(x), mg.tensor(target))
    assert result.dtype == mg.float32
    assert result.item() == pytest.approx(exact.item(), rel=3e-7)


def test_rms_norm_of_integers():
    x = np.array([50_000, -60_000, 70_000], np.int32)
    expected = mg.nn.functional.rms_norm(mg.tensor(x.astype(float)), 3)
    result = mg.nn.functional.rms_norm(mg.tensor(x), 3)
    np.testing.assert_allclose(result.numpy(), expected.numpy(), rtol=2e-7)


class Three:
    """An integer type of no library."""

    def __index__(self):
        return 3


INTEGERS = {
    "int64": np.int64(3),
    "int32": np.int32(3),
    "uint8": np.uint8(3),
    "0-d array": np.array(3),
    "Tensor": mg.tensor(3),
    "__index__": Three(),
}
TAKE_INTEGERS = {
    "reshape": lambda n: mg.ones(6).reshape(n, 2),
    "reshape of a view": lambda n: mg.ones(2, 3).T.reshape((n, 2)),
    "permute_dims": lambda n: mg.ones(1, 2, 3, 4).permute_dims((n, 0, 2, 1)),
    "broadcast_to": lambda n: mg.broadcast_to(mg.ones(1), (2, n)),
    "zeros": lambda n: mg.zeros(n, n),
    "full": lambda n: mg.full((n,), 1.0),
    "sum": lambda n: mg.ones(1, 2, 3, 4).sum(n),
    "mean": lambda n: mg.ones(1, 2, 3, 4).mean((n, 0)),
    "softmax": lambda n: mg.softmax(mg.ones(1, 2, 3, 4), n),
    "argmax": lambda n: mg.argmax(mg.ones(1, 2, 3, 4), n),
    "sort": lambda n: mg.sort(mg.ones(1, 2, 3, 4), n),
    "topk": lambda n: mg.topk(mg.ones(5), n)[0],
    "roll": lambda n: mg.roll(mg.arange(24).reshape(1, 2, 3, 4), n, n),
    "repeat": lambda n: mg.repeat(mg.ones(2), n if not isinstance(n, Three) else 3),
    "tile": lambda n: mg.tile(mg.ones(2), (n, 2)),
    "flip": lambda n: mg.flip(mg.arange(24).reshape(1, 2, 3, 4), (n, 1)),
    "expand_dims": lambda n: mg.expand_dims(mg.ones(1, 2, 3), n),
    "moveaxis": lambda n: mg.moveaxis(mg.ones(1, 2, 3, 4), n, 0),
    "concat": lambda n: mg.concat([mg.ones(1, 2, 3, 4)] * 2, n),
    "take": lambda n: mg.take(mg.ones(1, 2, 3, 4), mg.tensor([0]), n),
    "cumulative_sum": lambda n: mg.cumulative_sum(mg.ones(1, 2, 3, 4), n),
    "tensordot": lambda n: mg.tensordot(mg.ones(1, 2, 3), mg.ones(1, 2, 3), n),
    "tril": lambda n: mg.tril(mg.ones(5, 5), n),
    "triu": lambda n: mg.triu(mg.ones(5, 5), n),
    "diagonal": lambda n: mg.diagonal(mg.ones(5, 5), n),
    "sliding_windows": lambda n: mg.sliding_windows(mg.arange(9), n, n),
    "sliding_windows, pairs": lambda n: mg.sliding_windows(mg.ones(5, 5), (n, 2), (1, n)),
    "round": lambda n: mg.round(mg.tensor([1.23456]), n),
    "func.grad": lambda n: mg.func.grad(lambda a, b, c, d: (a * d).sum(), n)(*[mg.ones(2)] * 4),
    "DataLoader": lambda n: next(iter(mg.data.DataLoader(list(range(9)), n))),
}


@pytest.mark.parametrize("kind", INTEGERS)
@pytest.mark.parametrize("name", TAKE_INTEGERS)
def test_whatever_acts_as_an_integer_is_a_size_an_axis_and_a_count(name, kind):
    expected = TAKE_INTEGERS[name](3)
    result = TAKE_INTEGERS[name](INTEGERS[kind])
    assert result.shape == expected.shape and result.tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["sum", "topk", "sliding_windows", "tile", "roll", "softmax"])
@pytest.mark.parametrize("wrong", [3.0, "3", True, None, np.float64(3)], ids=repr)
def test_whatever_does_not_is_a_type_error(name, wrong):
    if wrong is not None or name not in ("sum", "roll"):
        with pytest.raises(TypeError, match=f"{name}: .* must be an int|{name}: a shape is an int"):
            TAKE_INTEGERS[name](wrong)


def test_outer_and_trace():
    x, y = leaf([1.0, -2.0, 0.5]), leaf([3.0, 4.0])
    np.testing.assert_array_equal(mg.outer(x, y).numpy(), np.outer(x.numpy(), y.numpy()))
    a = leaf(np.random.default_rng(0).normal(size=(3, 4, 2)))
    options = {"offset": 1, "axis1": 1, "axis2": 2}
    np.testing.assert_array_equal(mg.trace(a, **options).numpy(), np.trace(a.numpy(), **options))
    for check in (gradcheck, gradgradcheck):
        assert check(mg.outer, (x, y)) and check(lambda a: mg.trace(a, 1, 1, 2), (a,))


BAD_PRODUCTS = {
    "outer: expected two vectors, got shapes (2, 2) and (2,)": lambda x: mg.outer(x, x[0]),
    "vecdot: (2, 2) and (3,) along axis -1": lambda x: mg.vecdot(x, mg.ones(3)),
    "vecdot: (2, 2) and (2, 2) along axis 0": lambda x: mg.vecdot(x, x, axis=0),
    "vecdot: axis -2 has sizes 2 and 3": lambda x: mg.vecdot(x, mg.ones(3, 2)),
    "tensordot: (2, 2) and (3,) over axes [-1] and [0]": lambda x: mg.tensordot(x, mg.ones(3), 1),
    "tensordot: axis -3 is out of bounds": lambda x: mg.tensordot(x, x, 3),
    "tensordot: axes must be an int": lambda x: mg.tensordot(x, x, 1.0),
    "tensordot: axes must be": lambda x: mg.tensordot(x, x, (1, 2, 3)),
    "tensordot: duplicate axis": lambda x: mg.tensordot(x, x, ((0, 0), (0, 1))),
}


@pytest.mark.parametrize("message", BAD_PRODUCTS)
def test_bad_products(message):
    with pytest.raises((ValueError, TypeError, IndexError), match=re.escape(message)):
        BAD_PRODUCTS[message](mg.ones(2, 2))


# ---------------------------------------------------------------------------------- creation
@pytest.mark.parametrize(
    "make", [mg.tensor, mg.asarray, lambda data, **o: mg.full((2,), data, **o)]
)
def test_python_ints_do_not_wrap_around(make):
    with pytest.raises(OverflowError, match="1099511627776 out of bounds for int32; give a wider"):
        make(2**40, dtype=mg.int32)
    assert make(2**40, dtype=mg.int64).max().item() == 2**40
    assert make(2**31 - 1, dtype=mg.int32).max().item() == 2**31 - 1
    assert make(1.75, dtype=mg.int32).max().item() == 1


def test_lists_of_ints_take_the_dtype_asked_for():
    with pytest.raises(OverflowError, match="tensor: Python integer"):
        mg.tensor([[0, 2**40]], dtype=mg.int32)
    for dtype in (mg.int32, mg.int64, mg.float32, mg.float64, mg.bool):
        assert mg.tensor([[0, 3]], dtype=dtype).dtype == dtype
        assert mg.full((2,), 3, dtype=dtype).dtype == dtype


@pytest.mark.parametrize("dtype", [None, mg.float32])
def test_asarray_of_a_tensor_shares_its_version(dtype):
    x = mg.ones(2)
    shared = mg.asarray(x, dtype=dtype, requires_grad=True)
    assert shared.requires_grad and not x.requires_grad
    y = (shared * shared).sum()
    x[0] = 7.0
    assert shared[0].item() == 7.0
    with pytest.raises(RuntimeError, match="multiply"):
        y.backward()


def test_asarray_of_a_tensor_is_outside_its_graph():
    x = mg.ones(2, requires_grad=True)
    assert not mg.asarray(x * 2).requires_grad and mg.asarray(x * 2).is_leaf
    assert mg.asarray(x, dtype=mg.float64).dtype == mg.float64


@pytest.mark.parametrize("name", ["zeros_like", "ones_like", "full_like", "empty_like"])
def test_like_functions_name_themselves(name):
    arguments = (1,) if name == "full_like" else ()
    assert getattr(mg, name)(np.ones((2, 3), np.int32), *arguments).dtype == mg.int32
    for wrong in (None, [1.0], "a"):
        with pytest.raises(TypeError, match=f"{name}: expected a Tensor, got"):
            getattr(mg, name)(wrong, *arguments)


def test_full_refuses_what_is_no_number():
    for wrong in (None, "1"):
        with pytest.raises(TypeError, match="full: expected numbers"):
            mg.full((2,), wrong, dtype=mg.float32)


@pytest.mark.parametrize("dtype", [mg.int32, mg.int64])
@pytest.mark.parametrize("number", [2**70, -(2**70), 1e30, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("kind", [lambda n: n, np.float64], ids=["Python", "NumPy"])
def test_numbers_that_do_not_fit_into_integers(dtype, number, kind):
    number, x = kind(number), mg.zeros(3, dtype=dtype)
    makers = (
        lambda: mg.tensor(number, dtype=dtype),
        lambda: mg.tensor([0, number], dtype=dtype),
        lambda: mg.asarray([[number]], dtype=dtype),
        lambda: mg.full((2,), number, dtype=dtype),
        lambda: mg.full_like(x, number),
        lambda: mg.full((2,), mg.tensor(float(number)), dtype=dtype),
        lambda: mg.full_like(x, np.array([0.0, float(number), 1.0])),
        lambda: mg.pad(x, 1, value=number),
        lambda: mg.pad(x, 1, value=mg.tensor(float(number))),
        lambda: mg.linspace(0, number, 3, dtype=dtype),
        lambda: x.fill_(number),
        lambda: x.copy_(number),
        lambda: x.copy_(mg.tensor([0.0, float(number), 1.0])),
        lambda: x.copy_(np.array([float(number)])),
        lambda: mg.nn.init.constant_(x, number),
    )
    for make in makers:
        with pytest.raises(ValueError if number != number else OverflowError):
            make()
    with pytest.raises((OverflowError, TypeError)):
        x[0] = number
    assert x.tolist() == [0, 0, 0]


def test_integers_that_do_not_fit_into_int32():
    x = mg.zeros(3, dtype=mg.int32)
    for number in (2**31, -(2**31) - 1, 2**40 + 7, np.int64(2**40 + 7)):
        writes = (
            lambda n: x.__setitem__(0, n),
            lambda n: x.__setitem__(slice(1), mg.tensor([n])),
            lambda n: x.__setitem__(x > -1, np.array(n)),
            lambda n: x.copy_(mg.tensor(n)),
            lambda n: x.fill_(n),
            lambda n: mg.full((2,), n, dtype=mg.int32),
            lambda n: mg.full((2,), np.array(n), dtype=mg.int32),
            lambda n: mg.full_like(x, mg.tensor([0, n, 0])),
            lambda n: mg.pad(x, 1, value=np.array(n)),
            lambda n: mg.arange(n, n + 3, dtype=mg.int32),
            lambda n: mg.arange(0, 3 * n, n, dtype=mg.int32),
            lambda n: mg.linspace(0, n, 2, dtype=mg.int32),
        )
        for write in writes:
            with pytest.raises(OverflowError, match="out of bounds for int32"):
                write(number)
        assert x.tolist() == [0, 0, 0]
    for number in (2**31 - 1, -(2**31)):
        x[0] = number
        x[1:] = mg.tensor([number, number])
        assert (
            x.tolist()
            == [number] * 3
            == x.copy_(mg.tensor(float(number), dtype="float64")).tolist()
        )
    with pytest.raises(OverflowError, match="out of bounds for int32"):
        mg.arange(0, 2**31 + 5, 2**30, dtype=mg.int32)
    with pytest.raises(ValueError, match="out of bounds for int32"):
        mg.randint(2**40, dtype=mg.int32)


def test_ints_beyond_int64():
    for make in (mg.tensor, mg.asarray, mg.exp, lambda n: mg.zeros(1, dtype=mg.int64).fill_(n)):
        for number in (2**63, -(2**63) - 1, 2**70):
            with pytest.raises(OverflowError):
                make(number)
    assert mg.tensor([2**63, 2**70], dtype=mg.float64).tolist() == [2.0**63, 2.0**70]
    assert mg.tensor([2**70, 0.5]).dtype == mg.float32


def test_writes_into_bools():
    b = mg.zeros(2, dtype=mg.bool)
    b[0] = np.True_
    assert b.tolist() == [True, False] and b.fill_(2).tolist() == [True, True]
    for value in (1, 0.5, mg.tensor(1)):
        with pytest.raises(TypeError, match="into a bool tensor"):
            b[0] = value


# -------------------------------------------------------------------------------- weak numbers
FULL = (0.1, 1e300, 2**53 - 1, np.float64(0.1), np.float64(1e-300), np.longdouble(0.25))
MEETS = {
    **{
        name: lambda x, n, name=name: (getattr(mg, name)(x, n), getattr(mg, name)(n, x))
        for name in (
            *("add", "subtract", "multiply", "divide", "maximum", "minimum", "hypot", "atan2"),
            *("pow", "remainder", "floor_divide", "less", "equal", "not_equal", "logical_and"),
        )
    },
    "where": lambda x, n: (mg.where(x > 1, x, n), mg.where(x > 1, n, x)),
    "clip": lambda x, n: (mg.clip(x, n), mg.clip(x, max=n), mg.clip(n, x, x)),
    "isclose": lambda x, n: (mg.isclose(x + n, n, 0, 0), mg.isclose(n, x * 0 + n, 0, 0)),
    "allclose": lambda x, n: mg.tensor(mg.allclose(x * 0 + n, n, 0, 0)),
    "in": lambda x, n: mg.tensor([n in x * 0 + n, n in x]),
    "concat": lambda x, n: mg.concat([x, n], axis=None),
    "stack": lambda x, n: mg.stack([x[0, 0], n]),
    "meshgrid": lambda x, n: mg.meshgrid(x[0], n),
    "einsum": lambda x, n: mg.einsum("ij,->ij", x, n),
    "tensordot": lambda x, n: mg.tensordot(x, n, 0),
    "sum_product": lambda x, n: ops.sum_product(x[0, 0], n),
    "full_like": lambda x, n: mg.full_like(x, n.item() if isinstance(n, mg.Tensor) else n),
    "pad": lambda x, n: mg.pad(x, 1, value=n),
    "F.pad": lambda x, n: F.pad(x, (1, 1), value=n),
    "mse_loss": lambda x, n: F.mse_loss(x[0, 0], n, "none"),
    "l1_loss": lambda x, n: F.l1_loss(x[0, 0], n, "none"),
    "cosine_similarity": lambda x, n: F.cosine_similarity(x, n, dim=0),
    "prelu": lambda x, n: F.prelu(-x[0], n),
    "where of a condition": lambda x, n: mg.where(n, x, -x),
    "kl_div": lambda x, n: F.kl_div(x[0, 0], n, "none"),
    "bce": lambda x, n: F.binary_cross_entropy_with_logits(x[0, 0], n),
    "threshold": lambda x, n: F.threshold(x, 1.0, n.item() if isinstance(n, mg.Tensor) else n),
}


@pytest.mark.parametrize("name", MEETS)
@pytest.mark.parametrize("number", FULL, ids=repr)
def test_a_number_meets_float64_at_full_value(name, number):
    x = mg.tensor([[0.3, 1.7], [2.5, 0.1]], dtype=mg.float64)
    got, exact = MEETS[name](x, number), MEETS[name](x, mg.tensor(float(number), dtype=mg.float64))
    for a, b in zip(*(y if isinstance(y, tuple) else (y,) for y in (got, exact)), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a.numpy(), b.numpy())


WRITES = {
    "x[i] = n": lambda x, n: x.__setitem__(1, n),
    "x[:] = n": lambda x, n: x.__setitem__(slice(None), n),
    "x[mask] = n": lambda x, n: x.__setitem__(x < 1, n),
    "x[list] = n": lambda x, n: x.__setitem__([0, 1], n),
    "x[...] = n": lambda x, n: x.__setitem__(..., n),
    "fill_": lambda x, n: x.fill_(n),
    "copy_": lambda x, n: x.copy_(n),
    "constant_": lambda x, n: mg.nn.init.constant_(x, n),
    "x[i] += n": lambda x, n: x.__setitem__(1, x[1] + n),
}


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("dtype", [mg.float32, mg.float64])
@pytest.mark.parametrize("number", FULL, ids=repr)
def test_a_number_is_written_at_full_value(write, dtype, number):
    x = mg.zeros(2, dtype=dtype)
    WRITES[write](x, number)
    with np.errstate(over="ignore"):
        assert x[1].item() == dtype.type(float(number))


def test_a_number_written_into_integers():
    x = mg.zeros(2, dtype=mg.int64)
    x[0], x[1] = 2**53 + 1, np.int64(-(2**62) - 1)
    assert x.tolist() == [2**53 + 1, -(2**62) - 1]
    assert x.fill_(np.int64(2**53 + 1)).tolist() == [2**53 + 1] * 2
    with pytest.raises(TypeError, match=r"cannot write 2\.5 into a int64 tensor"):
        x[0] = 2.5


# -------------------------------------------------------------------------------- grad modes
@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("mode", [True, False])
def test_set_grad_enabled_as_a_decorator(mode, outside):
    with mg.set_grad_enabled(outside):

        @mg.set_grad_enabled(mode)
        def inside():
            """Whether recording is on."""
            return mg.is_grad_enabled()

        for _ in range(3):
            assert mg.is_grad_enabled() is outside
            assert inside() is mode
        assert mg.is_grad_enabled() is outside and inside.__doc__ == "Whether recording is on."
    assert mg.is_grad_enabled()


def test_set_grad_enabled_restores_after_an_exception_and_more_than_once():
    block = mg.set_grad_enabled(False)
    for _ in range(2):
        with pytest.raises(KeyError), block:
            assert not mg.is_grad_enabled()
            raise KeyError
        assert mg.is_grad_enabled()


GENERATOR_DECORATORS = {
    "no_grad": mg.no_grad,
    "no_grad()": mg.no_grad(),
    "enable_grad": mg.enable_grad,
    "set_grad_enabled": lambda function: mg.set_grad_enabled(False)(function),
}


@pytest.mark.parametrize("name", GENERATOR_DECORATORS)
def test_each_resumption_of_a_generator_runs_in_the_mode(name):
    mode, log = name == "enable_grad", []

    @GENERATOR_DECORATORS[name]
    def generator(n):
        try:
            for i in range(n):
                try:
                    log.append((yield i, mg.is_grad_enabled()))
                except KeyError:
                    log.append(("caught", mg.is_grad_enabled()))
            return "end", mg.is_grad_enabled()
        finally:
            log.append(("closed", mg.is_grad_enabled()))

    assert inspect.isgeneratorfunction(generator)
    with mg.set_grad_enabled(not mode):
        running = generator(3)
        assert next(running) == (0, mode) and mg.is_grad_enabled() is not mode
        assert running.send("sent") == (1, mode) and mg.is_grad_enabled() is not mode
        assert running.throw(KeyError()) == (2, mode) and mg.is_grad_enabled() is not mode
        with pytest.raises(StopIteration) as end:
            next(running)
        assert end.value.value == ("end", mode)
        assert log == ["sent", ("caught", mode), None, ("closed", mode)]

        running = generator(3)
        next(running)
        running.close()
        assert log[-1] == ("closed", mode) and mg.is_grad_enabled() is not mode
        running = generator(3)
        next(running)
        with pytest.raises(ZeroDivisionError):
            running.throw(ZeroDivisionError())
        assert mg.is_grad_enabled() is not mode and list(generator(0)) == []
    assert mg.is_grad_enabled()


# ------------------------------------------------------- reductions over rows that lie side by side
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 15, 17, 31, 33, 63, 64, 65, 130, 1023, 1025, 5000, 40_000])
def test_rows_of_every_length(dtype, n):
    x = np.random.default_rng(n).standard_normal((3, 37 if n < 2000 else 2, n)).astype(dtype)
    for axis in (2, (0, 2)):
        exact, size = x.astype(np.longdouble), np.abs(x).sum(axis) * np.finfo(dtype).eps
        total = mg.sum(mg.asarray(x), axis=axis).numpy()
        assert (np.abs(total - exact.sum(axis)) <= size + 1e-300).all()
        product = ops.sum_product(mg.asarray(x), mg.asarray(x[::-1].copy()), axis=axis).numpy()
        bound = (x * x).sum(axis).max() * np.finfo(dtype).eps * 8
        assert (np.abs(product - (exact * exact[::-1]).sum(axis)) <= bound).all()
        np.testing.assert_allclose(mg.var(mg.asarray(x), axis=axis).numpy(), exact.var(axis), 1e-5)
        np.testing.assert_array_equal(mg.max(mg.asarray(x), axis=axis).numpy(), x.max(axis))
        np.testing.assert_array_equal(
            mg.min(mg.asarray(x[..., ::-1]), axis=axis).numpy(), x.min(axis)
        )
    x[1, 1, n // 2] = np.nan
    for reduction in (mg.max, mg.min):
        for axis in (0, 2, (0, 2), None):
            found = reduction(mg.asarray(x), axis=axis).numpy()
            np.testing.assert_array_equal(np.isnan(found), np.isnan(x).any(axis))


def test_a_nan_stays_in_any_row_of_a_column():
    for k in range(9):
        x = np.arange(27, dtype=np.float32).reshape(9, 3)
        x[k, 1] = np.nan
        for reduction, expected in ((mg.max, x[-1]), (mg.min, x[0])):
            found = reduction(mg.asarray(x), axis=0).numpy()
            np.testing.assert_array_equal(found[[0, 2]], expected[[0, 2]])
            assert np.isnan(found[1])


def test_logarithms_of_tiles_with_special_numbers():
    usual = np.random.default_rng(0).uniform(0.1, 9.0, 1500)
    for dtype in (np.float32, np.float64):
        x = usual.astype(dtype)
        special = [0.0, -1.0, np.inf, np.nan, -0.0, np.finfo(dtype).smallest_subnormal]
        x[700 : 700 + len(special)] = special
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(mg.log(mg.asarray(x)).numpy(), np.log(x), 4e-7)
            found = mg.log1p(mg.asarray(x)).numpy()
            np.testing.assert_allclose(found, np.log1p(x), 4e-7)
        assert np.signbit(found[704])


# --------------------------------------------- values whose squares and powers over- or underflow
SCALES = {"float32": (1e-42, 1e-30, 1e-25, 1e25, 1e30), "float64": (1e-310, 1e-200, 1e200, 1e300)}
SCALED = [(dtype, scale) for dtype in SCALES for scale in SCALES[dtype]]


@pytest.mark.parametrize(("dtype", "scale"), SCALED)
@pytest.mark.parametrize("order", [2, "fro", 1, 3, 0.5, 1.5, 10, math.inf])
@pytest.mark.parametrize("keepdims", [False, True])
def test_norm_scales_with_its_elements(order, keepdims, dtype, scale):
    exact = np.array([[3.0, -4.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    large = (exact * scale).astype(dtype)
    large[1] = [1.0, 1.0, 1.0]  # next to a row that needs no scaling
    x = mg.tensor(large, requires_grad=True)
    y = mg.norm(x, axis=1, keepdims=keepdims, ord=order)
    y.sum().backward()
    p = 2 if order == "fro" else order
    slopes = np.zeros((3, 3))
    lengths = np.zeros(3)
    for k, row in enumerate(exact[:2]):
        lengths[k] = np.abs(row).max() if p == math.inf else (np.abs(row) ** p).sum() ** (1 / p)
        if p == math.inf:
            slopes[k] = [0, -1, 0] if k == 0 else [1 / 3] * 3
        else:
            nonzero = row != 0
            ratio = np.abs(row[nonzero]) / lengths[k]
            slopes[k, nonzero] = np.sign(row[nonzero]) * ratio ** (p - 1)
    rtol = 2e-3 if scale in (1e-42, 1e-310) else 1e-6 if dtype == "float32" else 1e-13
    expected = np.array([lengths[0] * scale, lengths[1], 0.0])
    if scale * 20 < np.finfo(dtype).max:
        np.testing.assert_allclose(y.numpy().reshape(-1), expected, rtol=rtol)
    np.testing.assert_allclose(x.grad.numpy(), slopes, rtol=rtol, atol=0)
    assert y.dtype == dtype and y.shape == ((3, 1) if keepdims else (3,))


@pytest.mark.parametrize(("dtype", "scale"), SCALED)
@pytest.mark.parametrize("axis", [None, 0, (0, 1)])
@pytest.mark.parametrize("correction", [0, 1])
def test_std_scales_with_its_elements(correction, axis, dtype, scale):
    unit = np.array([[1.0, 2.0], [3.0, 6.0]])
    x = mg.tensor((unit * scale).astype(dtype), requires_grad=True)
    y = mg.std(x, axis=axis, correction=correction)
    y.sum().backward()
    reference = mg.tensor(unit, requires_grad=True)
    expected = mg.std(reference, axis=axis, correction=correction)
    expected.sum().backward()
    rtol = 2e-3 if scale in (1e-42, 1e-310) else 1e-5 if dtype == "float32" else 1e-13
    np.testing.assert_allclose(y.numpy(), expected.numpy() * scale, rtol=rtol)
    np.testing.assert_allclose(x.grad.numpy(), reference.grad.numpy(), rtol=rtol, atol=rtol)


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 1e-15), ("float32", 1e15), *SCALED[5:]])
def test_second_derivatives_of_norm_and_std_out_of_range(dtype, scale):
    """They are those at scale 1, divided by the scale."""
    for function in (mg.norm, mg.std, lambda x: mg.norm(x, ord=3)):
        curvatures = []
        for s in (1.0, scale):
            x = mg.tensor(np.array([1.0, 3.0, 4.0]) * s, dtype, requires_grad=True)
            (slope,) = mg.autograd.grad(function(x), x, create_graph=True)
            v = mg.tensor([1.0, -2.0, 0.5], dtype)
            curvatures.append(mg.autograd.grad((slope * v).sum(), x)[0].numpy())
        if 1 / scale < np.finfo(dtype).max:
            np.testing.assert_allclose(curvatures[1] * scale, curvatures[0], rtol=1e-5)


def test_clip_grad_norm_of_large_and_small_gradients():
    for scale in (1e25, 1e-25):
        x = mg.zeros(2, requires_grad=True)
        x.grad = mg.tensor([3 * scale, 4 * scale])
        total = mg.nn.utils.clip_grad_norm_([x], 1.0)
        np.testing.assert_allclose(total.item(), 5 * scale, rtol=1e-6)
        expected = [0.6, 0.8] if scale > 1 else [3 * scale, 4 * scale]
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e25])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_cosine_similarity_broadcasts_before_it_takes_lengths(axis, scale):
    a, b = np.array([[1.0, 2.0], [3.0, -1.0]]), np.array([[2.0], [1.0]])
    if axis == 0:
        b = b.T
    full = np.broadcast_to(b, a.shape)
    lengths = np.linalg.norm(a, axis=axis) * np.linalg.norm(full, axis=axis)
    x, y = (mg.tensor(v * scale, requires_grad=True, dtype="float32") for v in (a, b))
    result = mg.nn.functional.cosine_similarity(x, y, dim=axis)
    np.testing.assert_allclose(result.numpy(), (a * full).sum(axis) / lengths, rtol=1e-5)
    result.sum().backward()
    assert x.grad.shape == x.shape and y.grad.shape == y.shape
    other = mg.tensor(full, requires_grad=True)
    mg.nn.functional.cosine_similarity(mg.tensor(a), other, dim=axis).sum().backward()
    expected = other.grad.numpy().sum(axis, keepdims=True)
    np.testing.assert_allclose(y.grad.numpy() * scale, expected, rtol=1e-4, atol=1e-6)


def test_cosine_similarity_names_shapes_that_do_not_broadcast():
    with pytest.raises(ValueError, match=r"cosine_similarity: shapes \(2, 3\) and \(2, 2\)"):
        mg.nn.functional.cosine_similarity(mg.ones(2, 3), mg.ones(2, 2))


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_atan2_far_from_and_near_the_origin(scale):
    x, y = (mg.tensor(v * scale, requires_grad=True) for v in (3.0, 4.0))
    mg.atan2(x, y).backward()
    np.testing.assert_allclose([x.grad.item() * scale, y.grad.item() * scale], [0.16, -0.12], 1e-5)


@pytest.mark.parametrize("make", [mg.tensor, mg.asarray])
@pytest.mark.parametrize("name", ["int8", "int16", "uint8", "uint16", "uint32", "float16"])
def test_narrow_arrays_widen_exactly(make, name):
    dtype = np.dtype(name)
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    for given in (dtype, dtype.newbyteorder()):
        array = np.array([[limits.min, 0, limits.max]], given)
        x = make(array)
        assert x.dtype == (mg.float32 if dtype.kind == "f" else mg.int64)
        assert x.tolist() == array.tolist() and x._array.flags.c_contiguous
        assert make(array, dtype=mg.float64).dtype == mg.float64
    assert make(np.zeros((0, 2), dtype)).shape == (0, 2) and make(array[:, ::2]).shape == (1, 2)


@pytest.mark.parametrize("name", ["uint64", "complex64", "longdouble"])
def test_what_no_dtype_holds_exactly_is_refused(name):
    with pytest.raises(TypeError, match=f"dtype {np.dtype(name)} is not supported; convert it to"):
        mg.tensor(np.zeros(2, name))
    if name != "complex64":
        assert mg.tensor(np.ones(2, name), dtype=mg.float32).tolist() == [1, 1]


def test_unpacking_a_maximum_names_the_way_out():
    x = mg.tensor([[3.0, 1.0], [2.0, 5.0], [4.0, 0.0]])
    with pytest.raises(ValueError, match=r"too many values to unpack \(expected 2\); max, min and"):
        _values, _indices = x.max(1)
    with pytest.raises(ValueError, match="values to unpack"):
        _a, _b, _c, _d = x
    a, b, c = x
    assert [a.tolist(), b.tolist(), c.tolist()] == x.tolist() == [row.tolist() for row in x]
    first, *others = x
    assert first.tolist() == [3.0, 1.0] and len(others) == 2 and len([*x]) == len(list(x)) == 3
    # iterated over inside of another iterator
    values, indices = itertools.chain(x[:1, 0], x[1:2, 0])
    assert values.item() == 3 and indices.item() == 2
    with pytest.raises(ValueError, match="too many"):
        _values, _indices = itertools.chain(x[:1, 0], x)
    names = ", ".join(f"x{i}" for i in range(300))
    exec(f"{names} = t", {"t": mg.zeros(300)})


def test_the_type_is_called_as_users_write_it():
    assert repr(mg.Tensor) == "<class 'minigrad.Tensor'>" and mg.Tensor.__module__ == "minigrad"
    with pytest.raises(AttributeError, match=r"^.minigrad.Tensor. object has no attribute .zzz.$"):
        mg.ones(1).zzz  # noqa: B018
    assert pickle.loads(pickle.dumps(mg.Tensor)) is mg.Tensor
