"""mg.linalg: a table of its functions, driven through dtypes, layouts, stacks and orders, and what
each does with matrices that have no answer."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import minigrad as mg
from minigrad import linalg
from minigrad._core.fast import factors
from minigrad.autograd import GradcheckError, accelerated, gradcheck, gradgradcheck
from minigrad.linalg import LinAlgError, decompositions

FLOATS = ("float32", "float64")
MODES = pytest.mark.parametrize("fast", [True, False], ids=["kernels", "LAPACK"])


# ----------------------------------------------------------------------------------- the table
def invertible(random, shape):
    """Singular values between 0.5 and 2, all of them apart."""
    u, _, vh = np.linalg.svd(random.normal(size=shape), full_matrices=False)
    values = np.linspace(2, 0.5, min(shape[-2:]))
    return (u * values) @ vh


def symmetric(random, shape):
    """With eigenvalues of both signs, all of them apart."""
    q, _ = np.linalg.qr(random.normal(size=shape))
    return (q * np.linspace(-1.0, 2.1, shape[-1])) @ q.mT


def definite(random, shape):
    a = random.normal(size=shape)
    return a @ a.mT + 0.5 * np.eye(shape[-1])


def lower(random, shape):
    return np.tril(invertible(random, shape)) + np.eye(shape[-1])


def any_(random, shape):
    return random.normal(size=shape)


def as_sym(function):
    """Of the symmetric part: what reads one triangle has the gradient of a symmetric argument."""
    return lambda x, **options: function((x + x.mT) / 2, **options)


def unsigned(function):
    """Of vectors whose sign is a matter of choice, the absolute values."""

    def result(x, **options):
        found = function(x, **options)
        return tuple(abs(part) for part in found) if isinstance(found, tuple) else abs(found)

    return result


def np_least(x, y):
    if y.ndim == 1 or x.ndim == 2:
        return np.linalg.lstsq(x, y, None)[0]
    return np.linalg.pinv(x) @ y


@dataclass(frozen=True)
class Row:
    """A function of tensors, NumPy's function, the inputs' domains and shapes, and options."""

    ours: Any
    theirs: Any
    domains: tuple
    cases: tuple
    options: tuple = ({},)
    differentiable: bool = True
    conditioning: float = 20  # by which roundings may grow


SQUARE = (((1, 1),), ((3, 3),), ((2, 3, 3),), ((2, 1, 2, 2),))
TALL = (((4, 2),), ((3, 3),), ((2, 4, 3),))
WIDE = (((2, 4),), ((2, 2, 3),))
SYSTEMS = (
    ((3, 3), (3,)),
    ((3, 3), (3, 2)),
    ((2, 3, 3), (2, 3, 1)),
    ((3, 3), (2, 3, 2)),
    ((2, 3, 3), (3,)),
    ((2, 1, 2, 2), (3, 2, 2)),
    ((1, 1), (1,)),
)
PAIRS = (((4, 3), (3,)), ((4, 3), (4, 3)), ((2, 1, 3), (5, 3)))
UPLO = ({}, {"UPLO": "U"})
ROWS = {
    "solve": Row(linalg.solve, np.linalg.solve, (invertible, any_), SYSTEMS),
    "solve_triangular": Row(
        lambda x, y, upper: linalg.solve_triangular(x.mT if upper else x, y, upper=upper),
        lambda x, y, upper: np.linalg.solve(np.tril(x).mT if upper else np.tril(x), y),
        (lower, any_),
        SYSTEMS,
        ({"upper": False}, {"upper": True}),
    ),
    "inv": Row(linalg.inv, np.linalg.inv, (invertible,), SQUARE),
    "det": Row(linalg.det, np.linalg.det, (invertible,), SQUARE),
    "slogdet": Row(linalg.slogdet, np.linalg.slogdet, (invertible,), SQUARE),
    "cholesky": Row(
        as_sym(linalg.cholesky),
        as_sym(np.linalg.cholesky),
        (definite,),
        SQUARE,
        ({}, {"upper": True}),
    ),
    "qr": Row(linalg.qr, np.linalg.qr, (invertible,), TALL + WIDE, ({}, {"mode": "r"})),
    "eigh": Row(
        unsigned(as_sym(linalg.eigh)), unsigned(as_sym(np.linalg.eigh)), (symmetric,), SQUARE, UPLO
    ),
    "eigvalsh": Row(
        as_sym(linalg.eigvalsh), as_sym(np.linalg.eigvalsh), (symmetric,), SQUARE, UPLO
    ),
    "svd": Row(
        unsigned(linalg.svd),
        unsigned(np.linalg.svd),
        (invertible,),
        TALL + WIDE,
        ({"full_matrices": False},),
    ),
    "svdvals": Row(linalg.svdvals, np.linalg.svdvals, (invertible,), TALL + WIDE),
    "pinv": Row(linalg.pinv, np.linalg.pinv, (invertible,), TALL + WIDE),
    "lstsq": Row(
        lambda x, y: linalg.lstsq(x, y).x,
        np_least,
        (invertible, any_),
        (((4, 2), (4,)), ((4, 2), (4, 3)), ((2, 4), (2,)), ((2, 4, 3), (4, 2)), ((3, 3), (3,))),
    ),
    "matrix_rank": Row(
        linalg.matrix_rank, np.linalg.matrix_rank, (invertible,), TALL, differentiable=False
    ),
    "matrix_power": Row(
        linalg.matrix_power,
        np.linalg.matrix_power,
        (invertible,),
        SQUARE,
        tuple({"n": n} for n in (-3, -1, 0, 1, 2, 5)),
    ),
    "matrix_norm": Row(
        linalg.matrix_norm,
        np.linalg.matrix_norm,
        (invertible,),
        TALL + WIDE,
        (
            {},
            {"keepdims": True},
            *({"ord": o} for o in ("fro", "nuc", 1, -1, 2, -2, math.inf, -math.inf)),
            {"ord": 2, "keepdims": True},
        ),
    ),
    "vector_norm": Row(
        linalg.vector_norm,
        np.linalg.vector_norm,
        (any_,),
        (((4,),), ((2, 3, 4),)),
        (
            {},
            {"keepdims": True},
            *({"axis": -1, "ord": o} for o in (0, 1, 2, 3, -1, -2.5, 0.5, math.inf, -math.inf)),
        ),
    ),
    "matmul": Row(linalg.matmul, np.matmul, (any_, any_), (((2, 3), (3, 2)), ((3,), (3, 2)))),
    "matrix_transpose": Row(linalg.matrix_transpose, np.matrix_transpose, (any_,), WIDE),
    "outer": Row(linalg.outer, np.linalg.outer, (any_, any_), (((2,), (3,)),)),
    "tensordot": Row(
        linalg.tensordot, np.tensordot, (any_, any_), (((2, 3), (3, 2)),), ({"axes": 1},)
    ),
    "vecdot": Row(linalg.vecdot, np.vecdot, (any_, any_), PAIRS),
    "cross": Row(linalg.cross, np.linalg.cross, (any_, any_), PAIRS),
    "diagonal": Row(linalg.diagonal, np.linalg.diagonal, (any_,), TALL + WIDE, ({}, {"offset": 1})),
    "trace": Row(linalg.trace, np.linalg.trace, (any_,), TALL + WIDE, ({}, {"offset": -1})),
}
CASES = [
    pytest.param(row, shapes, options, id=f"{name}{shapes}{options or ''}")
    for name, row in ROWS.items()
    for shapes in row.cases
    for options in row.options
]
EACH = pytest.mark.parametrize("row, shapes, options", CASES)
SMOOTH = pytest.mark.parametrize(
    "row, shapes, options",
    [
        case
        for case in CASES
        if case.values[0].differentiable and 0 not in (case.values[2].get(k) for k in ("n", "ord"))
    ],
)


def test_every_function_has_a_row():
    assert {*ROWS, "LinAlgError"} == set(linalg.__all__)


def sample(row, shapes, dtype="float64", seed=0):
    random = np.random.default_rng(seed)
    return [d(random, s).astype(dtype) for d, s in zip(row.domains, shapes, strict=True)]


def parts(result):
    return list(result) if isinstance(result, tuple) else [result]


def transposed(a):
    return a if a.ndim < 2 else np.array(a.mT, order="C").mT


def stepped(a):
    wide = np.zeros([2 * n for n in a.shape], a.dtype)
    view = wide[tuple(slice(None, None, 2) for _ in a.shape)]
    view[...] = a
    return view


def reversed_(a):
    turn = (slice(None, None, -1),) * a.ndim
    return np.array(a[turn], order="C")[turn]


# --------------------------------------------------------------------------------- values, by NumPy
@MODES
@EACH
def test_values(row, shapes, options, fast):
    for dtype, layout in itertools.product(FLOATS, (np.array, transposed, stepped, reversed_)):
        arrays = [layout(a) for a in sample(row, shapes, dtype)]
        before = [a.copy() for a in arrays]
        with accelerated(fast):
            found = parts(row.ours(*map(mg.asarray, arrays), **options))
        exact = parts(row.theirs(*(a.astype(np.float64) for a in arrays), **options))
        rounding = row.conditioning * np.finfo(dtype).eps
        for a, b in zip(found, exact, strict=True):
            assert a.shape == np.shape(b)
            assert a.dtype == (dtype if np.asarray(b).dtype.kind == "f" else np.int64)
            np.testing.assert_allclose(a.numpy(), b, rtol=rounding, atol=2 * rounding)
        for a, b in zip(arrays, before, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", ["int32", "int64", "bool"])
@pytest.mark.parametrize("name", ["solve", "inv", "det", "qr", "svdvals", "matrix_norm", "pinv"])
def test_integers_and_bools_take_the_default_dtype(name, dtype):
    row, (a, b) = ROWS[name], (np.array([[1, 0], [1, 1]], dtype), np.array([1, 0], dtype))
    arrays = (a, b)[: len(row.domains)]
    for ours, theirs in zip(
        parts(row.ours(*map(mg.asarray, arrays))),
        parts(row.theirs(*(x.astype(np.float32) for x in arrays))),
        strict=True,
    ):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-5, atol=1e-6)
    mixed = linalg.solve(mg.asarray(a), mg.ones(2, dtype=mg.float64))
    assert mixed.dtype == np.float64
    assert linalg.solve(mg.ones(1, 1), mg.asarray(b[:1])).dtype == np.float32


# ------------------------------------------------------------------------------------- gradients
@MODES
@SMOOTH
def test_gradients_of_both_orders(row, shapes, options, fast):
    inputs = [mg.tensor(a, requires_grad=True) for a in sample(row, shapes)]
    with accelerated(fast):
        assert gradcheck(lambda *x: row.ours(*x, **options), inputs, full=True)
        assert gradgradcheck(lambda *x: row.ours(*x, **options), inputs)


@SMOOTH
def test_gradients_have_the_shape_and_dtype_of_their_input(row, shapes, options):
    for dtype in FLOATS:
        inputs = [mg.tensor(a, requires_grad=True) for a in sample(row, shapes, dtype)]
        outputs = [y for y in parts(row.ours(*inputs, **options)) if y.requires_grad]
        sum(y.sum() for y in outputs).backward()
        for x in inputs:
            assert x.grad.shape == x.shape and x.grad.dtype == dtype
            assert not x.grad.requires_grad


@MODES
@SMOOTH
def test_gradients_are_of_the_values_at_the_call(row, shapes, options, fast):
    """The owner of the memory of the inputs may write to it before backward, and whoever has a
    result may write to that; if the gradient needs it, backward raises."""
    found = []
    for change in ("nothing", "inputs"):
        arrays = sample(row, shapes)
        inputs = [mg.Tensor(a, requires_grad=True) for a in arrays]
        with accelerated(fast):
            outputs = [y for y in parts(row.ours(*inputs, **options)) if y.requires_grad]
            for a in arrays:
                a += 3 * (change == "inputs")
            found.append(mg.autograd.grad(outputs, inputs, [mg.ones_like(y) for y in outputs]))
    for before, after in zip(*found, strict=True):
        np.testing.assert_array_equal(before.numpy(), after.numpy())


@pytest.mark.parametrize("name", ["eigh", "svd", "qr"])
def test_a_write_to_an_output_is_noticed_or_does_no_harm(name):
    x = mg.tensor(symmetric(np.random.default_rng(0), (3, 3)), requires_grad=True)
    wanted, found = [], []
    for results, written in ((wanted, False), (found, True)):
        outputs = getattr(linalg, name)(x)
        for y in outputs:
            view = y.detach()
            if written:
                view.fill_(7.0)
        results += mg.autograd.grad(list(outputs), x, [mg.ones_like(y) for y in outputs])
    np.testing.assert_array_equal(wanted[0].numpy(), found[0].numpy())


def test_a_wrong_rule_is_caught(monkeypatch):
    x = mg.tensor(invertible(np.random.default_rng(0), (3, 3)), requires_grad=True)
    right = decompositions._mirrored
    monkeypatch.setattr(decompositions, "_mirrored", lambda x: right(x) + 1e-2 * mg.tril(x, -1))
    with pytest.raises(GradcheckError):
        gradcheck(linalg.qr, x, full=True)
    monkeypatch.undo()
    skew = decompositions._skew
    monkeypatch.setattr(decompositions, "_skew", lambda x: 1.01 * skew(x))
    with pytest.raises(GradcheckError):
        gradcheck(lambda x: abs(linalg.svd(x)[0]), x, full=True)
    with pytest.raises(GradcheckError):
        gradcheck(lambda x: abs(linalg.eigh(x + x.mT)[1]), x, full=True)


def test_observers_hear_of_the_operations():
    from minigrad._core.engine.graph import observe

    heard = []
    before = observe(lambda name, inputs, attributes, output: heard.append((name, len(inputs))))
    try:
        linalg.solve(mg.eye(2), mg.ones(2, 1))
        linalg.cholesky(mg.eye(2))
    finally:
        observe(before)
    assert ("solve", 2) in heard and ("cholesky", 1) in heard


def test_nothing_is_recorded_where_recording_is_off():
    x = mg.tensor(np.eye(2), requires_grad=True)
    with mg.no_grad():
        assert not any(y.requires_grad for y in (*linalg.svd(x), linalg.solve(x, x)))
    assert linalg.inv(x).grad_fn.name == "inv"


# --------------------------------------------------------------------- the kernels at every size
SIZES = (0, 1, 2, 3, 5, 8, 31, 32, 33, 63, 64, 65, 97, 129, 300)


@pytest.mark.accelerated
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("n", SIZES)
def test_factors_of_every_size_have_small_residuals(n, dtype):
    """Backward errors, which do not grow with the condition of the matrix, and zeros above L."""
    if not factors.factors_by_kernels():
        pytest.skip("LAPACK does it all")
    random, rounding = np.random.default_rng(n), np.finfo(dtype).eps * (n + 4)
    a = random.normal(size=(2, n, n)).astype(dtype)
    lu, pivots, singular = factors.lu(a)
    assert singular == -1
    size = np.abs(a).max(initial=1)
    for columns in (1, 3, 8, 40, 200):
        b = random.normal(size=(2, n, columns)).astype(dtype)
        for flip in (False, True):
            x = factors.lu_solve(lu, pivots, b, flip)
            error = (a.mT if flip else a).astype(float) @ x - b
            assert np.abs(error).max(initial=0) <= rounding * size * max(
                1, np.abs(x).sum(1).max(initial=1)
            )
    s = a @ a.mT + np.eye(n, dtype=dtype)
    factor, indefinite = factors.cholesky_factor(s)
    assert indefinite == -1 and not np.triu(factor, 1).any()
    error = factor.astype(float) @ factor.mT.astype(float) - s
    assert np.abs(error).max(initial=0) <= rounding * np.abs(s).max(initial=1)
    for t, upper in ((factor, False), (factor.mT, True), (np.array(factor.mT, order="C"), True)):
        x = factors.triangular_solve(t, b, upper)
        error = t.astype(float) @ x - b
        scale = np.abs(t).max(initial=1) * np.abs(x).sum(1).max(initial=1)
        assert np.abs(error).max(initial=0) <= rounding * scale


@pytest.mark.accelerated
def test_pivots_keep_elimination_stable():
    """Without exchanges the first of these has no answer, and the second loses all digits."""
    for first in (0.0, 1e-20):
        a = mg.tensor([[first, 1.0], [1.0, 1.0]], dtype=mg.float64)
        np.testing.assert_allclose(linalg.solve(a, mg.tensor([1.0, 2.0])).numpy(), [1, 1])
    tiny = mg.tensor([[1e-310, 0.0], [0.0, 1e-310]], dtype=mg.float64)  # 1 / 1e-310 overflows
    np.testing.assert_allclose(
        linalg.solve(tiny, mg.tensor([1e-310, 2e-310], mg.float64)).numpy(), [1, 2]
    )


@MODES
def test_a_stack_of_right_sides_shares_one_matrix(fast):
    random = np.random.default_rng(0)
    a, b = random.normal(size=(40, 40)), random.normal(size=(5, 6, 40, 2))
    with accelerated(fast):
        found = linalg.solve(mg.tensor(a), mg.tensor(b))
    np.testing.assert_allclose(a @ found.numpy(), b, atol=1e-10)


@MODES
@pytest.mark.parametrize("shape", [(0, 0), (0, 3, 3), (2, 0, 0)])
def test_matrices_without_elements(shape, fast):
    with accelerated(fast):
        x = mg.ones(shape, requires_grad=True)
        assert linalg.inv(x).shape == linalg.cholesky(x).shape == shape
        assert linalg.det(x).tolist() == np.linalg.det(np.ones(shape)).tolist()
        assert linalg.solve(x, mg.ones(*shape[:-1], 2)).shape == (*shape[:-1], 2)
        assert linalg.eigvalsh(x).shape == linalg.svdvals(x).shape == shape[:-1]
        assert all(part.shape == shape for part in linalg.qr(x))
        (linalg.inv(x).sum() + linalg.cholesky(x).sum()).backward()
        assert x.grad.shape == shape
        for function in (linalg.det, lambda x: linalg.slogdet(x).logabsdet):
            y = function(x)
            (g,) = mg.autograd.grad(y, x, mg.ones_like(y), create_graph=True)
            (h,) = mg.autograd.grad(g, x, mg.ones_like(g))
            assert g.shape == h.shape == shape
        for order in ("fro", "nuc", 1, 2, math.inf):
            assert linalg.matrix_norm(x, ord=order).tolist() == np.zeros(shape[:-2]).tolist()


@MODES
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_nan_anywhere_in_a_matrix_comes_out_as_such(dtype, fast):
    random = np.random.default_rng(0)
    definite_ = definite(random, (3, 3))
    for i, j in np.ndindex(3, 3):
        for a in (invertible(random, (3, 3)), np.tril(definite_), np.eye(3), np.triu(definite_)):
            a[i, j] = math.nan
            stack = mg.tensor(np.stack([a, np.eye(3)]), dtype, requires_grad=True)
            with accelerated(fast):
                for y in (linalg.solve(stack, mg.ones(3, 2)), linalg.inv(stack)):
                    assert np.isnan(y[0].numpy()).all() and np.isfinite(y[1].numpy()).all()
                for y in (linalg.det(stack), linalg.slogdet(stack).logabsdet):
                    assert np.isnan(y.tolist()).tolist() == [True, False]
                    (g,) = mg.autograd.grad(y.sum(), stack)
                    assert np.isnan(g[0].numpy()).all() and g[1].tolist() == np.eye(3).tolist()
                with pytest.raises(LinAlgError, match=r"cholesky: .* not positive definite"):
                    linalg.cholesky(stack[0] + stack[0].mT)


@MODES
def test_the_determinant_of_a_singular_matrix_with_a_nan_is_nan(fast):
    a = np.stack([[[0.0, math.nan], [0.0, 1.0]], [[0.0, 1.0], [math.nan, 1.0]], [[0.0, 0.0]] * 2])
    x = mg.tensor(a, requires_grad=True)
    with accelerated(fast):
        y = linalg.det(x)
        for part in (y, *linalg.slogdet(x)):
            assert np.isnan(part.numpy()).tolist() == [True, True, False]
        y.sum().backward()
    assert np.isnan(x.grad.numpy()).any((1, 2)).tolist() == [True, True, False]


@pytest.mark.accelerated
def test_a_nan_that_may_be_the_pivot_is_no_missing_pivot():
    if not factors.factors_by_kernels():
        pytest.skip("LAPACK takes [0, NaN] for a column without a pivot")
    a = mg.tensor([[0.0, 1.0], [math.nan, 1.0]])
    assert np.isnan(linalg.solve(a, mg.ones(2)).numpy()).all()


# --------------------------------------------------------------------------------- determinants
def minors(x):
    """The gradient of det by its definition."""
    found = np.zeros_like(x)
    for i, j in np.ndindex(x.shape):
        rest = np.delete(np.delete(x, i, 0), j, 1)
        found[i, j] = (-1) ** (i + j) * (np.linalg.det(rest) if rest.size else 1.0)
    return found


def of_rank(rank, n=4, seed=0):
    random = np.random.default_rng(seed)
    return random.normal(size=(n, rank)) @ random.normal(size=(rank, n))


@MODES
@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4])
def test_the_gradient_of_the_determinant_of_a_singular_matrix(rank, fast):
    x = mg.tensor(of_rank(rank), requires_grad=True)
    with accelerated(fast):
        linalg.det(x).backward()
        np.testing.assert_allclose(x.grad.numpy(), minors(x.numpy()), atol=1e-12)
        assert gradcheck(linalg.det, x, full=True)
        assert gradgradcheck(linalg.det, x, full=True)


def test_determinants_singular_and_not_in_one_stack():
    arrays = np.stack([of_rank(r, seed=r) for r in (4, 3, 2, 0)])
    x = mg.tensor(arrays, requires_grad=True)
    (linalg.det(x) * mg.arange(1, 5)).sum().backward()
    wanted = [k * minors(a) for k, a in enumerate(arrays, 1)]
    np.testing.assert_allclose(x.grad.numpy(), wanted, atol=1e-11)
    assert gradgradcheck(linalg.det, x)


@pytest.mark.parametrize("integers", [[[1, 2, 3], [4, 5, 6], [7, 8, 9]], [[2, 4], [1, 2]]])
@pytest.mark.parametrize("dtype", FLOATS)
def test_the_adjugate_of_integers(integers, dtype):
    x = mg.tensor(integers, dtype=dtype, requires_grad=True)
    linalg.det(x).backward()
    exact = minors(np.array(integers, float))
    np.testing.assert_allclose(x.grad.numpy(), exact, atol=100 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", FLOATS)
def test_third_order_of_a_determinant(dtype):
    """det(t I) = t³."""
    for t in (0.0, 2.0):
        x = mg.tensor(t, dtype=dtype, requires_grad=True)
        y = linalg.det(x * mg.eye(3, dtype=dtype))
        for exact in (3 * t**2, 6 * t, 6.0):
            (y,) = mg.autograd.grad(y, x, create_graph=True)
            assert y.item() == pytest.approx(exact, rel=1e-4, abs=1e-5)


def test_slogdet_neither_overflows_nor_differentiates_what_is_singular():
    x = mg.tensor(1e-30 * np.eye(50), requires_grad=True)
    sign, logarithm = linalg.slogdet(x)
    assert sign.item() == 1 and logarithm.item() == pytest.approx(50 * math.log(1e-30))
    logarithm.backward()
    np.testing.assert_allclose(x.grad.numpy(), 1e30 * np.eye(50))
    assert mg.autograd.grad(sign, x)[0].tolist() == np.zeros((50, 50)).tolist()
    x = mg.zeros(2, 2, requires_grad=True)
    sign, logarithm = linalg.slogdet(x)
    assert (sign.item(), logarithm.item()) == (0, -math.inf)
    with pytest.raises(LinAlgError, match="slogdet: the matrix is singular"):
        logarithm.backward()
    assert x.grad is None


# ---------------------------------------------------------------------- what is not determined
def test_functions_of_repeated_values_that_do_not_depend_on_the_choice():
    """trace(x) and the sum of all |x|² are sums over eigenvalues and singular values."""
    x = mg.tensor(np.diag([2.0, 2.0, 1.0]), requires_grad=True)
    (linalg.eigvalsh(x) ** 2).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 2 * x.numpy(), atol=1e-14)
    for make, exact in (
        (lambda x: (linalg.svdvals(x) ** 2).sum(), 2 * np.eye(3)),
        (lambda x: linalg.matrix_norm(x, ord="nuc"), np.eye(3)),
        (lambda x: linalg.eigh(x)[0].sum(), np.eye(3)),
        (lambda x: linalg.svd(x)[1].sum(), np.eye(3)),
        (linalg.det, np.eye(3)),
    ):
        x = mg.tensor(np.eye(3), requires_grad=True)
        make(x).backward()
        np.testing.assert_allclose(x.grad.numpy(), exact, atol=1e-14)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy's products, of inf - inf
def test_functions_of_repeated_values_that_do_are_not_finite():
    for function in (linalg.eigh, lambda x: linalg.svd(x)[::-1]):
        x = mg.tensor(np.eye(3), requires_grad=True)
        vectors = function(x)[1] if function is linalg.eigh else function(x)[0]
        (vectors * mg.arange(9).reshape(3, 3)).sum().backward()
        assert not np.isfinite(x.grad.numpy()).all()


def test_what_completes_a_basis_has_no_gradient():
    tall = x = mg.tensor(invertible(np.random.default_rng(0), (4, 2)), requires_grad=True)
    q, r = linalg.qr(x, "complete")
    assert (q.shape, r.shape) == ((4, 4), (4, 2))
    np.testing.assert_allclose((q @ r).detach().numpy(), x.detach().numpy(), atol=1e-14)
    assert gradcheck(lambda x: linalg.qr(x, "complete").R, x)
    with pytest.raises(LinAlgError, match=r"qr: x does not determine .* use the reduced form"):
        q.sum().backward()
    for x in (tall.detach(), tall.detach().mT):
        u, _, vh = linalg.svd(x.requires_grad_())
        assert (u.shape[-1], vh.shape[-2]) == x.shape
        assert gradcheck(lambda x: linalg.svd(x).S, x)
        completed, other = (u, vh) if x.shape[0] > x.shape[1] else (vh, u)
        with pytest.raises(LinAlgError, match="svd: x does not determine"):
            completed.sum().backward()
        (other**3).sum().backward()
        assert np.isfinite(x.grad.numpy()).all()
    square = mg.tensor(np.diag([3.0, 2.0]), requires_grad=True)
    assert gradcheck(lambda x: abs(linalg.svd(x)[0]), square + 0.1)


def test_dependent_columns_have_no_qr_gradient():
    x = mg.tensor(np.zeros((3, 2)), requires_grad=True)
    with pytest.raises(LinAlgError, match="qr: the matrix is singular: there is a 0 on its diag"):
        linalg.qr(x).R.sum().backward()


def test_gradients_of_what_reads_a_triangle_are_symmetric():
    random = np.random.default_rng(0)
    for function in (linalg.cholesky, linalg.eigvalsh, lambda x: linalg.eigh(x)[1] ** 3):
        array = definite(random, (4, 4))
        x = mg.tensor(array, requires_grad=True)
        y = function(x)
        y.backward(mg.tensor(random.normal(size=y.shape)))
        np.testing.assert_allclose(x.grad.numpy(), x.grad.numpy().T, atol=1e-12)
        other = mg.tensor(np.tril(array) + np.triu(random.normal(size=(4, 4)), 1))
        np.testing.assert_array_equal(function(other).numpy(), y.detach().numpy())


def test_the_trace_in_another_dtype():
    assert linalg.trace(mg.ones(2, 3, 3), dtype=mg.float64).dtype == np.float64
    assert linalg.trace(mg.tensor([[1, 2], [3, 4]]), dtype=mg.float32).tolist() == 5.0


@pytest.mark.parametrize("right", ("bool", "int32", "int64", *FLOATS))
@pytest.mark.parametrize("left", ("bool", "int32", "int64", *FLOATS))
def test_operands_take_their_common_dtype(left, right):
    a, b = mg.eye(2, dtype=left), mg.eye(2, dtype=right)
    wanted = mg.result_type(a, b, 1.0)
    for found in (
        linalg.solve(a, b),
        linalg.solve(a, b[0]),
        linalg.solve(a, b.numpy()),
        linalg.solve_triangular(a, b, upper=True),
        *linalg.lstsq(a, b)[:2],
    ):
        assert found.dtype == wanted
    assert linalg.vector_norm(a).dtype == linalg.inv(a).dtype == mg.result_type(a, 1.0)


def test_cholesky_upper_reads_the_upper_triangle():
    array = definite(np.random.default_rng(0), (3, 3))
    found = linalg.cholesky(mg.tensor(np.triu(array)), upper=True)
    np.testing.assert_allclose(found.numpy().T @ found.numpy(), array, atol=1e-12)


# ----------------------------------------------------------------------- least squares, and rank
def test_lstsq_returns_what_numpy_does():
    random = np.random.default_rng(0)
    for a, b in (
        (random.normal(size=(5, 2)), random.normal(size=5)),
        (random.normal(size=(5, 2)), random.normal(size=(5, 3))),
        (random.normal(size=(2, 5)), random.normal(size=2)),
        (of_rank(2), random.normal(size=(4, 2))),
    ):
        found, exact = linalg.lstsq(mg.tensor(a), mg.tensor(b)), np.linalg.lstsq(a, b, None)
        for ours, theirs in zip(found, exact, strict=True):
            np.testing.assert_allclose(ours.numpy(), theirs, atol=1e-12)
            assert ours.shape == np.shape(theirs)
    stacked = linalg.lstsq(mg.randn(3, 5, 2), mg.randn(3, 5, 4))
    assert [part.shape for part in stacked] == [(3, 2, 4), (3, 4), (3,), (3, 2)]


def test_the_gradient_of_a_pseudo_inverse_of_lower_rank():
    """Among matrices of rank 2: finite differences along x + t (x a + b x) keep the rank."""
    random = np.random.default_rng(0)
    x, (a, b) = of_rank(2), random.normal(size=(2, 4, 4))
    direction = x @ a + b @ x
    g = random.normal(size=(4, 4))
    t = mg.tensor(x, requires_grad=True)
    (linalg.pinv(t) * mg.tensor(g)).sum().backward()
    step = 1e-6

    def moved(s):
        left, right = np.eye(4) + s * b, np.eye(4) + s * a
        return (np.linalg.pinv(left @ x @ right, rtol=1e-9) * g).sum()

    slope = (moved(step) - moved(-step)) / (2 * step)
    assert (t.grad.numpy() * direction).sum() == pytest.approx(slope, rel=1e-6)


def test_ranks_and_tolerances():
    for rank in range(5):
        assert linalg.matrix_rank(mg.tensor(of_rank(rank))).item() == rank
    x = mg.tensor(np.diag([1.0, 1e-3, 1e-6]))
    assert [linalg.matrix_rank(x, rtol=r).item() for r in (1e-7, 1e-5, 1e-2)] == [3, 2, 1]
    stack = mg.stack([x, x])
    assert linalg.matrix_rank(stack, rtol=mg.tensor([1e-7, 1e-2])).tolist() == [3, 1]
    np.testing.assert_allclose(
        linalg.pinv(x, rtol=1e-2).numpy(), np.linalg.pinv(x.numpy(), rtol=1e-2)
    )


# ------------------------------------------------------------------------------------ bad input
EYE, RECTANGLE = np.eye(2), np.ones((2, 3))
SINGULAR = np.array([[1.0, 2.0], [2.0, 4.0]])
BAD = {
    "solve: the matrix is singular; add a small multiple of the identity": lambda: linalg.solve(
        mg.tensor(SINGULAR), mg.ones(2)
    ),
    "inv: the matrix is singular": lambda: linalg.inv(mg.zeros(2, 2)),
    "matrix_power: the matrix is singular": lambda: linalg.matrix_power(mg.zeros(2, 2), -1),
    "cholesky: the matrix is not positive definite; add a small": lambda: linalg.cholesky(
        mg.tensor(-EYE)
    ),
    "solve_triangular: the matrix is singular: there is a 0 on its diagonal": lambda: (
        linalg.solve_triangular(mg.zeros(2, 2), mg.ones(2), upper=True)
    ),
    r"solve: expected square matrices \(..., n, n\), got shape \(2, 3\).*lstsq": lambda: (
        linalg.solve(mg.tensor(RECTANGLE), mg.ones(2))
    ),
    r"inv: expected square matrices .* got shape \(2, 3\); use mg.linalg.pinv": lambda: linalg.inv(
        mg.tensor(RECTANGLE)
    ),
    r"det: expected square matrices": lambda: linalg.det(mg.tensor(RECTANGLE)),
    r"slogdet: expected square matrices": lambda: linalg.slogdet(mg.tensor(RECTANGLE)),
    r"cholesky: expected square matrices": lambda: linalg.cholesky(mg.tensor(RECTANGLE)),
    r"eigh: expected square matrices": lambda: linalg.eigh(mg.tensor(RECTANGLE)),
    r"matrix_power: expected square": lambda: linalg.matrix_power(mg.tensor(RECTANGLE), 2),
    r"solve: matrices of shape \(2, 2\) and right side of shape \(3,\)": lambda: linalg.solve(
        mg.tensor(EYE), mg.ones(3)
    ),
    r"solve: .* for a stack of vectors use y\[..., None\]": lambda: linalg.solve(
        mg.ones(5, 3, 3), mg.ones(5, 3)
    ),
    r"solve: .* the leading dimensions \(4,\) and \(3,\) do not broadcast": lambda: linalg.solve(
        mg.ones(4, 2, 2), mg.ones(3, 2, 1)
    ),
    r"lstsq: matrices of shape \(2, 3\) and right side of shape \(3,\)": lambda: linalg.lstsq(
        mg.tensor(RECTANGLE), mg.ones(3)
    ),
    r"qr: expected matrices \(..., n, m\), got shape \(3,\)": lambda: linalg.qr(mg.ones(3)),
    r"svd: expected matrices": lambda: linalg.svd(mg.ones(3)),
    r"matrix_rank: expected matrices": lambda: linalg.matrix_rank(mg.ones(3)),
    r"matrix_norm: expected matrices": lambda: linalg.matrix_norm(mg.ones(3)),
    r"svd: the matrix is such that its singular values do not converge": lambda: linalg.svd(
        mg.full((2, 2), math.nan)
    ),
}


@MODES
@pytest.mark.parametrize("message", BAD)
def test_what_has_no_answer_raises_linalgerror(message, fast):
    with accelerated(fast), pytest.raises(LinAlgError, match=f"^{message}"):
        BAD[message]()
    assert issubclass(LinAlgError, ValueError) and LinAlgError is np.linalg.LinAlgError


@pytest.mark.accelerated
def test_the_error_names_the_matrix_of_a_stack():
    if not factors.factors_by_kernels():
        pytest.skip("LAPACK does not tell")
    stack = np.broadcast_to(np.eye(2), (2, 3, 2, 2)).copy()
    stack[1, 2] = SINGULAR
    x = mg.tensor(stack)
    with pytest.raises(LinAlgError, match=r"^solve: matrix \(1, 2\) of the stack is singular"):
        linalg.solve(x, mg.ones(2, dtype=mg.float64))
    with pytest.raises(LinAlgError, match=r"^inv: matrix \(1, 2\) of the stack is singular"):
        linalg.inv(x)
    with pytest.raises(LinAlgError, match=r"^cholesky: matrix \(1, 2\) of the stack is not pos"):
        linalg.cholesky(x)
    with accelerated(False), pytest.raises(LinAlgError, match=r"^inv: one of the matrices is sing"):
        linalg.inv(x)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: linalg.solve("a", mg.ones(2)), TypeError, "solve: expected a Tensor, got str"),
        (lambda: linalg.qr(mg.ones(2, 2), "raw"), ValueError, "qr: mode must be 'reduced', "),
        (lambda: linalg.eigh(mg.ones(2, 2), "X"), ValueError, "eigh: UPLO must be 'L' or 'U'"),
        (lambda: linalg.svd(mg.ones(2, 2), 1), TypeError, "svd: full_matrices must be True or"),
        (lambda: linalg.matrix_power(mg.ones(2, 2), 0.5), TypeError, "matrix_power: n must be an"),
        (lambda: linalg.matrix_norm(mg.ones(2, 2), ord=3), ValueError, "matrix_norm: ord must be"),
        (lambda: linalg.vector_norm(mg.ones(2), ord="x"), TypeError, "vector_norm: ord must be a"),
        (lambda: linalg.cholesky(mg.ones(2, 2), upper=1), TypeError, "cholesky: upper must be"),
        (lambda: linalg.pinv(mg.eye(2), rtol=-1), ValueError, "pinv: rtol must not be negative"),
        (
            lambda: linalg.matrix_rank(mg.eye(2), rtol=math.nan),
            ValueError,
            "matrix_rank: rtol must",
        ),
        (lambda: linalg.lstsq(mg.eye(2), mg.ones(2), -1), ValueError, "lstsq: rcond must not be n"),
    ],
)
def test_wrong_arguments(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_failed_backward_leaves_every_gradient():
    x, y = mg.ones(2, 2, requires_grad=True), mg.ones(2, requires_grad=True)
    y.sum().backward()
    before = y.grad.tolist()
    with pytest.raises(LinAlgError):
        (linalg.slogdet(x).logabsdet * y.sum()).backward()
    assert x.grad is None and y.grad.tolist() == before


def test_the_import_costs_nothing_beyond_numpy():
    """numpy.linalg is loaded with NumPy; scipy is not asked."""
    import subprocess
    import sys

    code = "import sys, minigrad; print({'scipy', 'numpy.random', 'sklearn'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
