"""lerp, nan_to_num, cross, searchsorted, bincount, unique, quantile, and draws from distributions:
values as NumPy's, gradients of both orders, and the errors of bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest

import minigrad as mg
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.statistics import weighted_positions

FLOATS = ("float32", "float64")
NAN, INF = math.nan, math.inf


def leaf(*shape, seed=0, dtype="float64"):
    return mg.tensor(np.random.default_rng(seed).normal(size=shape), dtype, requires_grad=True)


def both_orders(function, *inputs):
    return gradcheck(function, inputs, full=True) and gradgradcheck(function, inputs, full=True)


# ------------------------------------------------------------------------------------- elementwise
def test_lerp_is_exact_at_both_ends_and_between():
    x, y = (np.array([a, 1e30, 3.0], np.float32) for a in (0.1, -1e30))
    for weight, exact in ((0, x), (1, y), (0.0, x), (1.0, y)):
        assert mg.lerp(mg.tensor(x), mg.tensor(y), weight).tolist() == exact.tolist()
    a, b, w = leaf(3, 4), leaf(4, seed=1), mg.tensor([[0.2], [0.7], [1.5]], mg.float64)
    found = mg.lerp(a, b, w).detach().numpy()
    parts = (t.detach().numpy() for t in (a, b))
    x, y = parts
    np.testing.assert_allclose(found, x + w.numpy() * (y - x), rtol=1e-14)
    assert both_orders(mg.lerp, a, b, w.requires_grad_())
    assert mg.lerp(mg.ones(2), 3.0, 0.5).tolist() == [2.0, 2.0]
    assert a.lerp(b, 0.25).dtype == np.float64
    assert mg.lerp(mg.ones(2), mg.zeros(2), 0.25).dtype == np.float32


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(
    "options", [{}, {"nan": 7.0}, {"posinf": 8.0}, {"nan": 1.0, "posinf": 2.0, "neginf": -3.0}]
)
def test_nan_to_num(options, dtype):
    a = np.array([[1.5, NAN], [INF, -INF]], dtype)
    x = mg.tensor(a, requires_grad=True)
    y = mg.nan_to_num(x, **options)
    np.testing.assert_array_equal(y.detach().numpy(), np.nan_to_num(a, **options))
    assert y.dtype == dtype
    y.backward(mg.full((2, 2), 3.0, dtype=dtype))
    assert x.grad.tolist() == [[3, 0], [0, 0]]
    assert mg.nan_to_num(mg.tensor([1, 2])).dtype == np.int64
    with pytest.raises(TypeError, match="nan_to_num: a replacement must be a number"):
        mg.nan_to_num(x, "zero")


@pytest.mark.parametrize(
    ("shapes", "axis"),
    [(((3,), (3,)), -1), (((4, 3), (3,)), -1), (((2, 1, 3), (5, 3)), -1), (((3, 4), (3, 4)), 0)],
)
def test_cross(shapes, axis):
    x, y = (leaf(*shape, seed=i) for i, shape in enumerate(shapes))
    found = mg.cross(x, y, axis)
    a, b = x.detach().numpy(), y.detach().numpy()
    exact = np.cross(a, b, axisa=axis, axisb=axis, axisc=axis)
    np.testing.assert_allclose(found.detach().numpy(), exact, rtol=1e-14)
    assert both_orders(lambda x, y: mg.cross(x, y, axis), x, y)


def test_cross_of_other_sizes_and_dtypes():
    whole = mg.cross(mg.tensor([1, 2, 3]), mg.tensor([4, 5, 6]))
    assert whole.tolist() == [-3, 6, -3] and whole.dtype == np.int64
    for shapes, axis in ((((2,), (2,)), -1), (((3, 4), (3, 4)), 1), (((3, 4), (4,)), 0)):
        with pytest.raises(ValueError, match=r"cross: .* expected 3 elements in both"):
            mg.cross(*(mg.ones(shape) for shape in shapes), axis)


# ------------------------------------------------------------------------------- search and counts
@pytest.mark.parametrize("side", ["left", "right"])
def test_searchsorted(side):
    a, v = np.array([1.0, 2.0, 2.0, 5.0, NAN]), np.array([[0.0, 2.0], [NAN, 9.0]])
    found = mg.searchsorted(mg.tensor(a), mg.tensor(v), side)
    np.testing.assert_array_equal(found.numpy(), np.searchsorted(a, v, side))
    assert found.dtype == np.int64
    shuffled = np.array([3.0, 1.0, 2.0])
    x = mg.tensor(shuffled)
    order = mg.argsort(x)
    assert mg.searchsorted(x, 2.5, side, order).item() == 2
    assert mg.searchsorted(mg.tensor([1, 3]), 2, side).shape == ()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 6), (0, 3), (2, 0)])
def test_searchsorted_in_rows(shape, side):
    random = np.random.default_rng(0)
    x, v = random.integers(0, 9, shape), random.integers(0, 9, (*shape[:-1], 7))
    order = np.argsort(x, -1)
    found = mg.searchsorted(mg.tensor(x), mg.tensor(v), side, order)
    ordered = mg.searchsorted(mg.sort(mg.tensor(x)), v.astype(float), side)
    assert found.shape == v.shape and found.dtype == np.int64
    np.testing.assert_array_equal(found.numpy(), ordered.numpy())
    for row in np.ndindex(shape[:-1]):
        exact = np.searchsorted(x[row], v[row], side, order[row])
        np.testing.assert_array_equal(found.numpy()[row], exact)


def test_an_empty_list_is_one_of_integers():
    assert mg.bincount([], minlength=2).tolist() == [0, 0]
    assert mg.searchsorted(mg.zeros(0), 1.0, sorter=[]).item() == 0
    assert mg.split(mg.zeros(0, 2), []) == ()


def test_bincount():
    a = np.array([3, 0, 3, 1])
    for options in ({}, {"minlength": 7}):
        found = mg.bincount(mg.tensor(a), **options)
        np.testing.assert_array_equal(found.numpy(), np.bincount(a, **options))
        assert found.dtype == np.int64
    w = leaf(4)
    found = mg.bincount(mg.tensor(a), w, 6)
    np.testing.assert_allclose(found.detach().numpy(), np.bincount(a, w.detach().numpy(), 6))
    assert both_orders(lambda w: mg.square(mg.bincount(a, w)), w)
    assert mg.bincount(mg.tensor(a), mg.ones(4)).dtype == np.float32
    assert mg.bincount(mg.tensor(a), mg.arange(4)).dtype == np.float32
    assert mg.bincount(mg.tensor(np.zeros(0, np.int64)), minlength=2).tolist() == [0, 0]
    assert mg.bincount(mg.tensor(np.zeros(0, np.int32)), mg.ones(0)).shape == (0,)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_unique(axis):
    a = np.array([[2.0, 1.0, 2.0], [2.0, 1.0, 2.0], [0.0, -0.0, 5.0]])
    found = mg.unique(mg.tensor(a), True, True, True, axis)
    exact = np.unique(a, True, True, True, axis)
    for ours, theirs in zip(found, exact, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)
    assert [t.dtype for t in found[1:]] == [np.int64] * 3
    np.testing.assert_array_equal(mg.unique(mg.tensor(a), axis=axis).numpy(), exact[0])
    x = mg.tensor([NAN, NAN, 1.0])
    assert (x.unique().size, x.unique(equal_nan=False).size) == (2, 3)
    assert not leaf(3).unique().requires_grad
    assert mg.unique(mg.tensor([True, False, True])).dtype == np.bool_


# ------------------------------------------------------------------------------------- quantiles
QS = (0.0, 0.1, 0.25, 0.5, 0.77, 1.0, [0.3, 0.6], [[0.0, 0.5, 1.0]])
METHODS = ("linear", "lower", "higher", "midpoint", "nearest")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("q", QS, ids=str)
def test_quantile(q, method):
    a = np.random.default_rng(0).normal(size=(4, 3, 5))
    for axis in (None, 0, -1, (0, 2), (0, 1, 2)):
        for keepdims in (False, True):
            exact = np.quantile(a, q, axis=axis, keepdims=keepdims, method=method)
            found = mg.quantile(mg.tensor(a), q, axis, keepdims, method=method)
            assert found.shape == exact.shape
            np.testing.assert_allclose(found.numpy(), exact, rtol=1e-13, atol=1e-15)
    x = leaf(2, 6)
    if not isinstance(q, list):
        assert both_orders(lambda x: mg.quantile(x, q, 1, method=method) ** 2, x)


@pytest.mark.parametrize("n", [1, 2, 5, 6])
def test_median(n):
    a = np.random.default_rng(n).normal(size=(3, n)).astype(np.float32)
    for axis in (None, 1, 0):
        found = mg.median(mg.tensor(a), axis)
        np.testing.assert_allclose(found.numpy(), np.median(a, axis), rtol=1e-6)
        assert found.dtype == np.float32
    assert both_orders(lambda x: x.median(1, keepdims=True) ** 2, leaf(3, n))
    assert mg.median(mg.tensor([1, 2, 4, 8])).item() == 3.0
    assert mg.median(mg.tensor([1, 2])).dtype == np.float32


def test_the_gradient_of_a_quantile_to_what_it_lies_between_and_to_q():
    x = mg.tensor([5.0, 1.0, 3.0, 9.0], mg.float64, requires_grad=True)
    mg.quantile(x, 0.25).backward()  # at 0.75 from 1 to 3
    np.testing.assert_allclose(x.grad.numpy(), [0, 0.25, 0.75, 0])
    q = mg.tensor([0.2, 0.6], mg.float64, requires_grad=True)
    assert both_orders(lambda x, q: mg.quantile(x, q), x, q)
    x = mg.tensor([2.0, 2.0, 1.0], requires_grad=True)  # the first of equals comes first
    mg.quantile(x, 0.75).backward()
    assert x.grad.tolist() == [0.5, 0.5, 0.0]


def test_quantiles_with_nan_and_inf():
    a = np.array([[1.0, NAN, 3.0], [1.0, 2.0, 4.0]])
    x = mg.tensor(a, requires_grad=True)
    y = mg.quantile(x, 0.5, 1)
    np.testing.assert_array_equal(y.detach().numpy(), [NAN, 2])
    y.sum().backward()
    assert x.grad.tolist() == [[0, 1, 0], [0, 1, 0]]  # as PyTorch's: to the NaN
    for values, q, exact in (
        ([1.0, INF, INF], 0.75, INF),
        ([1.0, 2.0, INF], 0.5, 2.0),
        ([-INF, -INF, 1.0], 0.25, -INF),
        ([-INF, 0.0], 0.5, -INF),
    ):
        x = mg.tensor(values, requires_grad=True)
        y = mg.quantile(x, q)
        assert y.item() == exact
        y.backward()
        assert np.isfinite(x.grad.numpy()).all()
    assert mg.median(mg.tensor([0.1, 0.1, 0.1, 0.1])).item() == np.float32(0.1)


def test_quantile_of_many_numbers_in_float32():
    """A place computed in float32 would be off by several elements."""
    x = mg.arange(3_000_001, dtype=mg.float32)
    assert mg.quantile(x, 0.123).item() == 0.123 * 3_000_000


# ---------------------------------------------------------------------------------------- draws
def test_normal_draws_what_it_says_and_differentiates_mean_and_std():
    mean, std = leaf(3), mg.tensor([0.5, 1.0, 0.0], mg.float64, requires_grad=True)
    mg.manual_seed(0)
    drawn = mg.normal(mean, std, (20000, 3))
    assert drawn.dtype == np.float64
    np.testing.assert_allclose(drawn.detach().numpy().mean(0), mean.detach().numpy(), atol=0.03)
    np.testing.assert_allclose(drawn.detach().numpy().std(0), std.detach().numpy(), atol=0.02)
    drawn.sum().backward()
    assert mean.grad.tolist() == [20000.0] * 3
    noise = (drawn.detach() - mean.detach()).numpy()[:, :2] / [0.5, 1.0]
    np.testing.assert_allclose(std.grad.numpy()[:2], noise.sum(0), rtol=1e-9)
    assert mg.normal().shape == () and mg.normal().dtype == np.float32
    assert mg.normal(0, 1, 4, dtype=mg.float64).dtype == np.float64
    assert mg.normal(np.zeros(2), 1.0).dtype == np.float64
    assert mg.normal(mg.zeros(2), np.float64(1)).dtype == np.float32
    assert mg.normal(mg.tensor([0, 1]), np.float32(1)).dtype == np.float32
    assert mg.normal(mg.zeros(2, dtype=mg.float64), mg.tensor(1)).dtype == np.float64
    assert mg.normal(mg.zeros(2, 1), mg.ones(3)).shape == (2, 3)


def test_bernoulli():
    mg.manual_seed(0)
    p = mg.tensor([0.0, 0.3, 1.0], requires_grad=True)
    drawn = mg.bernoulli(p, (5000, 3))
    assert set(np.unique(drawn.numpy())) == {0.0, 1.0}
    np.testing.assert_allclose(drawn.numpy().mean(0), [0, 0.3, 1], atol=0.03)
    assert drawn.dtype == np.float32 and not drawn.requires_grad
    assert p.bernoulli().shape == (3,) and mg.bernoulli(0.5).shape == ()


@pytest.mark.parametrize("replacement", [False, True])
def test_multinomial(replacement):
    mg.manual_seed(0)
    w = np.array([0.0, 1.0, 2.0, 5.0])
    rows = mg.multinomial(mg.tensor(np.tile(w, (20000, 1))), 2, replacement)
    assert rows.shape == (20000, 2) and rows.dtype == np.int64
    drawn = rows.numpy()
    shares = np.bincount(drawn[:, 0], minlength=4) / len(drawn)
    np.testing.assert_allclose(shares, w / 8, atol=0.02)
    assert shares[0] == 0 and not (drawn == 0).any()
    assert ((drawn[:, 0] == drawn[:, 1]).any()) == replacement
    after = drawn[drawn[:, 0] == 3][:, 1]  # the second draw, after a 3
    left = w / 8 if replacement else np.array([0, 1, 2, 0]) / 3
    np.testing.assert_allclose(np.bincount(after, minlength=4) / len(after), left, atol=0.03)
    assert mg.multinomial(mg.tensor(w), 3, replacement).shape == (3,)
    every = mg.multinomial(mg.ones(4), 4)
    assert sorted(every.tolist()) == [0, 1, 2, 3]
    tiny = mg.tensor([1e-300, 0.0, 3e-300], mg.float64)
    assert 1 not in mg.multinomial(tiny, 50, replacement=True).tolist()


class Ends:
    """A generator whose uniform numbers are the smallest and the largest there are."""

    def __init__(self):
        self.random_ = np.random.default_rng(0)

    def random(self, shape):
        return np.resize([0.0, 1 - 2**-53], shape)

    def __getattr__(self, name):
        return getattr(self.random_, name)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int64", "bool"])
@pytest.mark.parametrize("n", [3, 5000])
def test_positions_of_weight_0_are_never_drawn(n, dtype):
    """Not by the largest random number, and not because sums of many weights are rounded."""
    weights = np.zeros((2, n), dtype)
    weights[:, 1:-1] = 1
    if n == 3 and weights.dtype.kind == "f":
        weights[1, 1] = np.finfo(dtype).smallest_subnormal
    for random in (Ends(), np.random.default_rng(1)):
        for replacement in (True, False):
            drawn = weighted_positions(weights, 1 if n == 3 else 400, replacement, random)
            assert drawn.dtype == np.int64 and (drawn >= 1).all() and (drawn <= n - 2).all()
    drawn = weighted_positions(weights, 20_000, True, np.random.default_rng(2))
    counts = np.bincount(drawn[0] * 10 // n, minlength=10)
    assert n == 3 or np.abs(counts - 2000).max() < 200  # float16 and float32 lose the last ones


def test_tiny_weights_are_drawn_before_those_that_are_0():
    """Exponential numbers divided by such weights overflow, as does the division of 0."""
    w = mg.tensor([0.0, 5e-324, 0.0, 1e-320, 1e300, 0.0], mg.float64)
    for seed in range(20):
        drawn = mg.multinomial(w, 3, generator=mg.Generator(seed)).tolist()
        assert drawn[0] == 4 and sorted(drawn) == [1, 3, 4]


def test_draws_repeat_with_the_seed_and_with_a_generator():
    p = mg.tensor([0.2, 0.5, 0.3])
    for draw in (
        lambda **g: mg.normal(p, 1.0, (4, 3), **g),
        lambda **g: mg.bernoulli(p, (50, 3), **g),
        lambda **g: mg.multinomial(p, 20, True, **g),
        lambda **g: mg.multinomial(p, 3, **g),
    ):
        mg.manual_seed(1)
        first = draw().tolist()
        mg.manual_seed(1)
        draw(generator=mg.Generator(2))  # leaves the other alone
        assert draw().tolist() == first
        one, two = (draw(generator=mg.Generator(3)).tolist() for _ in range(2))
        assert one == two


# ------------------------------------------------------------------------------------- bad input
X = mg.ones(2, 3)
BAD = {
    "searchsorted: side must be 'left' or 'right'": lambda: mg.searchsorted(X[0], 1, "up"),
    r"searchsorted: x of shape \(2, 3\) and values of shape \(\): ": lambda: mg.searchsorted(X, 1),
    r"searchsorted: x of shape \(\) and": lambda: mg.searchsorted(mg.ones(()), X),
    r"searchsorted: the sorter has shape \(1,\)": lambda: mg.searchsorted(X[0], 1, sorter=[0]),
    r"searchsorted: the sorter has positions outside of x, .3,.": (
        lambda: mg.searchsorted(X[0], 1, sorter=[0, 1, 3])
    ),
    "searchsorted: indices must be integers": lambda: mg.searchsorted(X[0], 1, sorter=[0.5]),
    "bincount: indices must be integers, got float32": lambda: mg.bincount(X[0]),
    "bincount: .* with the smallest -1": lambda: mg.bincount(mg.tensor([-1, 2])),
    r"bincount: .* got shape \(1, 2\)": lambda: mg.bincount(mg.tensor([[1, 2]])),
    r"bincount: weights of shape \(3,\) for x of shape \(2,\)": lambda: mg.bincount(
        mg.tensor([0, 1]), X[0]
    ),
    "bincount: minlength must be at least 0": lambda: mg.bincount(mg.tensor([0]), minlength=-1),
    "quantile: q must be between 0 and 1, got 1.5": lambda: mg.quantile(X, 1.5),
    "quantile: q must be between 0 and 1, got nan": lambda: mg.quantile(X, NAN),
    "quantile: method must be 'linear'": lambda: mg.quantile(X, 0.5, method="cubic"),
    r"quantile: no elements over axis 0 of shape \(0, 3\)": lambda: mg.quantile(X[:0], 0.5, 0),
    "median: no elements": lambda: mg.median(mg.zeros(0)),
    "median: .*axis": lambda: mg.median(X, 2),
    "unique: .*axis": lambda: mg.unique(X, axis=2),
    "cross: .*axis": lambda: mg.cross(X, X, 2),
    "normal: std must not be negative": lambda: mg.normal(0.0, mg.tensor([1.0, -1.0])),
    r"broadcast_shapes: shapes \(2,\), \(3,\) do not": lambda: mg.normal(mg.ones(2), mg.ones(3)),
    "normal: dtype must be float32 or float64, got int64": lambda: mg.normal(dtype="int64"),
    "rand: dtype must be float32 or float64, got int64; conv": lambda: mg.rand(2, dtype=mg.int64),
    "randn: dtype must be float32 or float64, got float16": lambda: mg.randn(2, dtype="float16"),
    "randperm: n must be at least 0, got -1": lambda: mg.randperm(-1),
    r"isclose: shapes \(2,\) and \(3,\) do not broadcast": lambda: mg.isclose(
        mg.ones(2), mg.ones(3)
    ),
    "result_type: expected Tensors": lambda: mg.result_type([1.0]),
    "normal: std must not be negative, got nan": lambda: mg.normal(0.0, NAN),
    r"normal: parameters of shape \(2,\) do not broadcast to size \(3,\)": lambda: mg.normal(
        mg.ones(2), 1.0, 3
    ),
    "bernoulli: p must be between 0 and 1, got 1.1": lambda: mg.bernoulli(1.1),
    "bernoulli: p must be between": lambda: mg.bernoulli(mg.tensor([NAN])),
    "multinomial: weights must be finite and not neg": lambda: mg.multinomial(-X, 1),
    "multinomial: weights must be finite": lambda: mg.multinomial(X * INF, 1),
    "multinomial: cannot draw 4 of 3 weights above 0 without replacement; give replacement=": (
        lambda: mg.multinomial(X, 4)
    ),
    "multinomial: cannot draw 1 of 0 weights above 0$": lambda: mg.multinomial(0 * X, 1, True),
    r"multinomial: expected weights \(n,\) or \(m, n\)": lambda: mg.multinomial(mg.ones(()), 1),
    "multinomial: num_samples must be at least 1": lambda: mg.multinomial(X, 0),
    "multinomial: replacement must be True or": lambda: mg.multinomial(X, 1, "yes"),
}


@pytest.mark.parametrize("message", BAD)
def test_bad_input(message):
    with pytest.raises((ValueError, TypeError, IndexError), match=f"^{message}"):
        BAD[message]()
