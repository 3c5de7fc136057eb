"""Systems of linear equations, inverses and determinants, and Cholesky's factor; also operands,
results and errors of all of mg.linalg."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, NoReturn, TypeAlias, cast

import numpy as np
from numpy.linalg import LinAlgError

from .._core.engine.graph import Op, Tensor, adopt, announce, attach_op, is_grad_enabled, make_op
from .._core.fast import factors as kernels
from .._core.fast.loops import memory_checked
from .._core.ops import floating, floating_operands, matmul, reshape, zeros_like
from ..checks import flag
from ..functions import tril, triu
from ..types import TensorLike

__all__ = ["cholesky", "det", "inv", "slogdet", "solve", "solve_triangular"]

Array: TypeAlias = np.ndarray
Factors = tuple[Array, Array]  # what `kernels.lu` returns of a stack of matrices


class SlogdetResult(NamedTuple):
    """det(x) = sign * exp(logabsdet)."""

    sign: Tensor
    logabsdet: Tensor


# ----------------------------------------------------------------------- operands, results, errors
def _matrix(name: str, value: TensorLike) -> Tensor:
    """A stack of matrices of a floating dtype."""
    x = floating(value, name)
    if x.ndim < 2:
        raise LinAlgError(f"{name}: expected matrices (..., n, m), got shape {x.shape}")
    return x


def _square(name: str, x: Tensor, way_out: str = "") -> Tensor:
    if x.ndim < 2 or x.shape[-1] != x.shape[-2]:
        raise LinAlgError(
            f"{name}: expected square matrices (..., n, n), got shape {x.shape}{way_out}"
        )
    return x


def _system(name: str, x: TensorLike, y: TensorLike, way_out: str = "") -> tuple[Tensor, Tensor]:
    """The matrices and the right side of equations, a vector as a column."""
    a, b = floating_operands((x, y), name)
    _square(name, a, way_out)
    column = reshape(b, (-1, 1)) if b.ndim == 1 else b
    if column.ndim < 2 or column.shape[-2] != a.shape[-1]:
        raise LinAlgError(
            f"{name}: matrices of shape {a.shape} and right side of shape {b.shape}: expected "
            "(..., n, n) and (n,) or (..., n, k); for a stack of vectors use y[..., None]"
        )
    try:
        _common_stack(a.shape[:-2], column.shape[:-2])
    except ValueError:
        raise LinAlgError(
            f"{name}: matrices of shape {a.shape} and right side of shape {b.shape}: the leading "
            f"dimensions {a.shape[:-2]} and {column.shape[:-2]} do not broadcast"
        ) from None
    return a, column


def _common_stack(shape: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
    """np.broadcast_shapes, which takes 3 us."""
    return shape if shape == other else np.broadcast_shapes(shape, other)


def _as_given(solution: Tensor, y: TensorLike) -> Tensor:
    """The solution for a vector y is a vector."""
    return reshape(solution, solution.shape[:-1]) if np.ndim(cast(Any, y)) == 1 else solution


def _made(op: Op, values: Array, inputs: tuple[Tensor, ...], attributes: tuple[Any, ...]) -> Tensor:
    """The result of an operation, recorded if an input requires a gradient."""
    out = adopt(values)
    if is_grad_enabled():
        out = attach_op(op, out, inputs, attributes)
    announce(op.name, inputs, {}, out)
    return out


def _fail(name: str, what: str, stack: tuple[int, ...], number: int | None = None) -> NoReturn:
    """Raise for a matrix that is `what`: the one of this number in a stack, or any of them."""
    where_ = "the matrix is"
    if stack and number is None:
        where_ = "one of the matrices is"
    elif stack and number is not None:
        where_ = f"matrix {tuple(map(int, np.unravel_index(number, stack)))} of the stack is"
    raise LinAlgError(f"{name}: {where_} {what}")


SINGULAR = (
    "singular; add a small multiple of the identity, or use mg.linalg.lstsq or mg.linalg.pinv"
)
INDEFINITE = "not positive definite; add a small multiple of the identity (x + 1e-6 * mg.eye(n))"
NO_PIVOT = "singular: there is a 0 on its diagonal"


def _as_stack(array: Array, shape: tuple[int, ...] | None = None) -> Array:
    """One leading dimension for a stack of matrices, which are broadcast to `shape` first."""
    if array.ndim == 2 and not shape:
        return array[None]
    if shape is not None and array.shape[:-2] != shape:
        array = np.broadcast_to(array, shape + array.shape[-2:])
    return array.reshape(math.prod(array.shape[:-2]), *array.shape[-2:])


def _from_stack(array: Array, shape: tuple[int, ...]) -> Array:
    """The inverse, for the leading dimensions `shape`."""
    return array.reshape(shape + array.shape[1:]) if shape else array[0]


def _nan_of(matrices: Array, values: Any, ndim: int = 0) -> Array:
    """The values (of `ndim` dimensions each), but NaN for matrices with a NaN, which LAPACK may
    multiply by 0 in its own way, by skipping the product."""
    odd = np.isnan(matrices).any((-2, -1))
    return np.where(odd.reshape(odd.shape + (1,) * ndim), np.nan, values)


# ---------------------------------------------------------------------------------- linear systems
def _factorise(name: str, x: Tensor) -> Factors:
    lu, pivots, singular = kernels.lu(np.ascontiguousarray(_as_stack(x._array)))
    if singular >= 0:
        _fail(name, SINGULAR, x.shape[:-2], singular)
    return lu, pivots


@memory_checked
def _solution(name: str, x: Tensor, y: Array, transposed: bool, lu: Factors | None) -> Array:
    """The solution of x X = y, or x.mT X = y, from the factors of x if there are any."""
    if lu is None or not kernels.factors_by_kernels():
        a = x._array.mT if transposed else x._array
        try:
            return _nan_of(a, np.linalg.solve(a, y), 2)
        except LinAlgError:
            _fail(name, SINGULAR, x.shape[:-2])
    stack, which = x.shape[:-2], None
    shape = _common_stack(stack, y.shape[:-2])
    if stack != shape:  # several right sides have one matrix
        numbers = np.arange(len(lu[0])).reshape(stack)
        which = np.array(np.broadcast_to(numbers, shape)).reshape(-1)
    return _from_stack(kernels.lu_solve(*lu, _as_stack(y, shape), transposed, which), shape)


def _solve(x: Tensor, y: Tensor, transposed: bool, lu: Factors | None) -> Tensor:
    values = _solution("solve", x, y._array, transposed, lu)
    return _made(SOLVE, values, (x, y), (transposed, lu))


def _solve_gradient(
    g: Tensor, x: Tensor, out: Tensor, transposed: bool, lu: Factors | None
) -> Tensor:
    """That of x: from x X = y follows x dX = -dx X (Giles 2008, section 2.3.1)."""
    down = _solve(x, g, not transposed, lu)
    return -matmul(out, down.mT) if transposed else -matmul(down, out.mT)


SOLVE = make_op(
    "solve",
    rules=(_solve_gradient, lambda g, x, transposed, lu: _solve(x, g, not transposed, lu)),
    attributes=("transposed", "lu"),
    core_dims=2,
)


def solve(x: TensorLike, y: TensorLike) -> Tensor:
    """The solution X of x X = y, for square matrices x (..., n, n) and a vector y (n,) or matrices
    (..., n, k); leading dimensions broadcast. Backward uses the factors of x again.

    Raises LinAlgError for a singular matrix and for shapes that do not fit. Gradients: Giles 2008,
    section 2.3.1.

    >>> mg.linalg.solve(mg.tensor([[2.0, 0.0], [4.0, 1.0]]), mg.tensor([2.0, 5.0]))
    tensor([1., 1.])
    """
    a, b = _system("solve", x, y, "; for the solution by least squares use mg.linalg.lstsq")
    lu = _factorise("solve", a) if kernels.factors_by_kernels() else None
    return _as_given(_solve(a, b, False, lu), y)


@memory_checked
def _solved_triangle(name: str, x: Tensor, y: Tensor, upper: bool) -> Tensor:
    t, b = x._array, y._array
    if not np.diagonal(t, 0, -2, -1).all():
        _fail(name, NO_PIVOT, x.shape[:-2])
    if kernels.factors_by_kernels():
        shape = _common_stack(t.shape[:-2], b.shape[:-2])
        t = _as_stack(t, shape)
        if t.itemsize not in t.strides[1:]:
            t = np.ascontiguousarray(t)
        values = _from_stack(kernels.triangular_solve(t, _as_stack(b, shape), upper), shape)
    else:
        values = np.linalg.solve(np.triu(t) if upper else np.tril(t), b)
    return _made(SOLVE_TRIANGULAR, values, (x, y), (upper,))


def _triangle_gradient(g: Tensor, x: Tensor, out: Tensor, upper: bool) -> Tensor:
    """That of x in `solve_triangular`: as in `solve`, on the triangle that is read."""
    full = -matmul(_solved_triangle("solve_triangular", x.mT, g, not upper), out.mT)
    return triu(full) if upper else tril(full)


SOLVE_TRIANGULAR = make_op(
    "solve_triangular",
    rules=(
        _triangle_gradient,
        lambda g, x, upper: _solved_triangle("solve_triangular", x.mT, g, not upper),
    ),
    attributes=("upper",),
    core_dims=2,
)


def solve_triangular(x: TensorLike, y: TensorLike, *, upper: bool) -> Tensor:
    """`solve` for triangular matrices, which need no factorisation: only the upper or the lower
    triangle of x is read.

    Raises LinAlgError if there is a 0 on the diagonal, and for shapes that do not fit.

    >>> mg.linalg.solve_triangular(mg.tensor([[2.0, 9.0], [4.0, 1.0]]), mg.ones(2), upper=False)
    tensor([ 0.5, -1. ])
    """
    a, b = _system("solve_triangular", x, y)
    upper = flag(upper, "solve_triangular: upper")
    return _as_given(_solved_triangle("solve_triangular", a, b, upper), y)


INV = make_op("inv", rules=(lambda g, out: -matmul(out.mT, matmul(g, out.mT)),))


def _inverse(name: str, x: Tensor, lu: Factors | None = None) -> Tensor:
    if lu is None and kernels.factors_by_kernels():
        lu = _factorise(name, x)
    identity = np.eye(x.shape[-1], dtype=x.dtype)
    return _made(INV, _solution(name, x, identity, False, lu), (x,), ())


def inv(x: TensorLike) -> Tensor:
    """The inverses of square matrices (..., n, n). To solve equations, `solve` is faster and more
    accurate.

    Raises LinAlgError for a singular matrix. Gradient: Giles 2008, section 2.2.3.

    >>> mg.linalg.inv(mg.tensor([[2.0, 0.0], [4.0, 1.0]]))
    tensor([[ 0.5,  0. ],
            [-2. ,  1. ]])
    """
    return _inverse("inv", _square("inv", _matrix("inv", x), "; use mg.linalg.pinv"))


# ------------------------------------------------------------------------------------ determinants
@memory_checked
def _det(x: Tensor) -> Tensor:
    if kernels.factors_by_kernels():
        lu, pivots, singular = kernels.lu(np.ascontiguousarray(_as_stack(x._array)))
        if singular < 0:
            odd = np.count_nonzero(pivots != np.arange(x.shape[-1]), -1) % 2
            with np.errstate(all="ignore"):
                values = np.diagonal(lu, 0, -2, -1).prod(-1) * (1 - 2 * odd).astype(x.dtype)
            return _made(DET, values.reshape(x.shape[:-2]), (x,), ((lu, pivots),))
    with np.errstate(all="ignore"):
        values = _nan_of(x._array, np.linalg.det(x._array))
    return _made(DET, values, (x,), (None,))


def _times(number: Tensor, matrix: Tensor) -> Tensor:
    """A number for each matrix of a stack, times the matrix."""
    return reshape(number, (*number.shape, 1, 1)) * matrix


def _det_gradient(g: Tensor, x: Tensor, out: Tensor, lu: Factors | None) -> Tensor:
    """g det(x) inv(x).T (Giles 2008, section 2.2.4), the transposed adjugate of x, which exists for
    a singular x too. There it is computed from matrices that are not singular.

    Along a direction W of rank k, t -> det(x + t W) is a polynomial of degree k. So det(x), for x
    in a neighbourhood, is a weighted sum of the determinants at more than k places t, none of them
    0, and its derivatives of any order are the same sums of theirs. As W serves what makes x
    singular: u v' for the singular vectors of small singular values."""
    if x.size == 0:
        return _times(g * out, x)
    try:
        # From the same factors, so that of a matrix near a singular one their errors cancel.
        inverse = _inverse("det", x, lu)
        condition = np.abs(x._array).sum(-2).max(-1) * np.abs(inverse._array).sum(-2).max(-1)
        if not (condition >= 0.01 / (x.shape[-1] * np.finfo(x.dtype).eps)).any():  # or NaN
            return _times(g * out, inverse.mT)
    except LinAlgError:
        pass
    finite = np.isfinite(x._array).all((-2, -1), keepdims=True)
    u, s, vh = np.linalg.svd(np.where(finite, x._array, 0))
    largest = s[..., :1]
    small = s <= 100 * x.shape[-1] * np.finfo(x.dtype).eps * largest
    direction = (u * np.where(small, np.where(largest > 0, largest, 1), 0)[..., None, :]) @ vh
    count = int(small.sum(-1).max()) // 2 * 2 + 2
    places = np.cos((np.arange(count) + 0.5) * math.pi / count)  # Chebyshev's, without 0
    total = None
    for i, t in enumerate(places):
        others = np.delete(places, i)
        weight = float(np.prod(others / (others - t)))  # of Lagrange's polynomial at 0
        shifted = x + adopt((t * direction).astype(x.dtype))
        part = _times((weight * g) * _det(shifted), _inverse("det", shifted).mT)
        total = part if total is None else total + part
    return cast(Tensor, total)


DET = make_op("det", rules=(_det_gradient,), attributes=("lu",))


def det(x: TensorLike) -> Tensor:
    """The determinants of square matrices, (..., n, n) -> (...). A singular matrix has a gradient
    as well, the adjugate. `slogdet` does not overflow.

    >>> mg.linalg.det(mg.tensor([[2.0, 1.0], [4.0, 3.0]]))
    tensor(2.)
    """
    return _det(_square("det", _matrix("det", x)))


SIGN = make_op("slogdet.sign", rules=(lambda g, x: zeros_like(x),))
LOGABSDET = make_op("slogdet", rules=(lambda g, x: _times(g, _inverse("slogdet", x).mT),))


@memory_checked
def slogdet(x: TensorLike) -> SlogdetResult:
    """The signs and the logarithms of the absolute determinants of square matrices: two tensors
    (...), `sign` and `logabsdet`. Of a singular matrix they are 0 and -inf, and its backward raises
    LinAlgError. The gradient of `sign` is 0.

    >>> mg.linalg.slogdet(mg.tensor([[2.0, 1.0], [4.0, 3.0]]))
    SlogdetResult(sign=tensor(1.), logabsdet=tensor(0.6931472))
    """
    a = _square("slogdet", _matrix("slogdet", x))
    with np.errstate(all="ignore"):
        sign, logabsdet = (_nan_of(a._array, part) for part in np.linalg.slogdet(a._array))
    return SlogdetResult(_made(SIGN, sign, (a,), ()), _made(LOGABSDET, logabsdet, (a,), ()))


# --------------------------------------------------------------------------- Cholesky's factor
@memory_checked
def _cholesky(x: Tensor) -> Tensor:
    if kernels.factors_by_kernels():
        values, indefinite = kernels.cholesky_factor(np.ascontiguousarray(_as_stack(x._array)))
        if indefinite >= 0:
            _fail("cholesky", INDEFINITE, x.shape[:-2], indefinite)
        return _made(CHOLESKY, _from_stack(values, x.shape[:-2]), (x,), ())
    try:
        values = np.linalg.cholesky(x._array)
        if np.isnan(values).any():  # of which LAPACK says nothing
            raise LinAlgError
    except LinAlgError:
        _fail("cholesky", INDEFINITE, x.shape[:-2])
    return _made(CHOLESKY, values, (x,), ())


def _mirrored(x: Tensor) -> Tensor:
    """The lower triangle of x, and its transpose above the diagonal."""
    return tril(x) + tril(x, -1).mT


def _cholesky_gradient(g: Tensor, out: Tensor) -> Tensor:
    """Murray 2016, "Differentiation of the Cholesky decomposition", equation 10, the symmetric
    part of it: L^-T M L^-1 / 2, with M the mirrored lower triangle of L' g."""
    half = _solved_triangle("cholesky", out.mT, 0.5 * _mirrored(matmul(out.mT, g)), True)
    return _solved_triangle("cholesky", out.mT, half.mT, True).mT


CHOLESKY = make_op("cholesky", rules=(_cholesky_gradient,))


def cholesky(x: TensorLike, *, upper: bool = False) -> Tensor:
    """The lower triangular L with L L' = x, for symmetric positive definite matrices (..., n, n);
    upper=True gives U = L' instead. Only that triangle of x is read; its gradient is symmetric.

    Raises LinAlgError for a matrix that is not positive definite. Gradient: Murray 2016.

    >>> mg.linalg.cholesky(mg.tensor([[4.0, 2.0], [2.0, 5.0]]))
    tensor([[2., 0.],
            [1., 2.]])
    """
    a = _square("cholesky", _matrix("cholesky", x))
    return _cholesky(a.mT).mT if flag(upper, "cholesky: upper") else _cholesky(a)
