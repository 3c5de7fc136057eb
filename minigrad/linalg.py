"""Linear algebra on stacks of matrices, with gradients of any order.

Names follow the `linalg` extension of the array API standard, and what is missing there NumPy and
PyTorch. Matrices are the last two dimensions, (..., n, m); all others are a stack. Integers and
bools take the default dtype. An input that has no answer (a singular matrix, one that is not
square, ...) raises numpy.linalg.LinAlgError, which is a ValueError.

Values are NumPy's (LAPACK's), or, for what needs LU or Cholesky factors, those of
_core/fast/factors.pyx. A gradient rule is an expression in Tensor operations, as of any primitive
(Giles 2008, "An extended collection of matrix derivative results for forward and reverse mode
algorithmic differentiation"; Townsend 2016, "Differentiating the singular value decomposition").

Where a decomposition is not unique, a function of it has a gradient only if it does not depend on
the choice: signs of eigenvectors always, and any basis of a space that repeated eigenvalues or
singular values share. A function that does depend on the latter gets infinite or NaN gradients, as
in PyTorch.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, NoReturn, cast

import numpy as np
from numpy.linalg import LinAlgError as LinAlgError

from . import contraction, functions
from ._core import ops
from ._core.engine.graph import (
    Op,
    Tensor,
    adopt,
    announce,
    attach_op,
    get_default_dtype,
    is_grad_enabled,
    make_op,
    to_tensors,
)
from ._core.fast import factors as kernels
from ._core.fast.loops import memory_checked
from ._core.ops import (
    abs,
    astype,
    concat,
    logical_and,
    matmul as matmul,
    matrix_transpose as matrix_transpose,
    max,
    min,
    pad,
    pow,
    reshape,
    square,
    sum,
    where,
)
from .checks import choice, flag, integer, real
from .contraction import outer as outer, tensordot as tensordot, vecdot as vecdot
from .functions import cross as cross, norm, tril, triu
from .types import Axis, TensorLike

__all__ = [
    "LinAlgError", "cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "lstsq",
    "matmul", "matrix_norm", "matrix_power", "matrix_rank", "matrix_transpose", "outer", "pinv",
    "qr", "slogdet", "solve", "solve_triangular", "svd", "svdvals", "tensordot", "trace", "vecdot",
    "vector_norm",
]  # fmt: skip
__dir__ = __all__.copy

Array = np.ndarray
UpLo = Literal["L", "U"]
Factors = tuple[Array, Array]  # what `kernels.lu` returns of a stack of matrices


class SlogdetResult(NamedTuple):
    """det(x) = sign * exp(logabsdet)."""

    sign: Tensor
    logabsdet: Tensor


class QRResult(NamedTuple):
    """x = Q R with orthonormal columns in Q and R upper triangular."""

    Q: Tensor
    R: Tensor


class EighResult(NamedTuple):
    """x v = w v for each eigenvalue w and column v."""

    eigenvalues: Tensor
    eigenvectors: Tensor


class SVDResult(NamedTuple):
    """x = U diag(S) Vh."""

    U: Tensor
    S: Tensor
    Vh: Tensor


class LstsqResult(NamedTuple):
    """What `lstsq` finds, under NumPy's names."""

    x: Tensor
    residuals: Tensor
    rank: Tensor
    singular_values: Tensor


# ----------------------------------------------------------------------- operands, results, errors
def _operands(name: str, *values: TensorLike) -> list[Tensor]:
    """The operands as Tensors of one floating dtype; integers and bools take that of the others."""
    tensors = to_tensors(values, name)
    floats = {t.dtype for t in tensors if t.dtype.kind == "f"} or {get_default_dtype()}
    dtype = np.result_type(*floats) if len(floats) > 1 else floats.pop()
    return [t if t.dtype == dtype else astype(t, dtype) for t in tensors]


def _matrix(name: str, value: TensorLike) -> Tensor:
    """A stack of matrices of a floating dtype."""
    (x,) = _operands(name, value)
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
    a, b = _operands(name, x, y)
    _square(name, a, way_out)
    column = reshape(b, (-1, 1)) if b.ndim == 1 else b
    if column.ndim < 2 or column.shape[-2] != a.shape[-1]:
        raise LinAlgError(
            f"{name}: matrices of shape {a.shape} and right side of shape {b.shape}: expected "
            "(..., n, n) and (n,) or (..., n, k); for a stack of vectors use y[..., None]"
        )
    try:
        _common(a.shape[:-2], column.shape[:-2])
    except ValueError:
        raise LinAlgError(
            f"{name}: matrices of shape {a.shape} and right side of shape {b.shape}: the leading "
            f"dimensions {a.shape[:-2]} and {column.shape[:-2]} do not broadcast"
        ) from None
    return a, column


def _common(shape: tuple[int, ...], other: tuple[int, ...]) -> tuple[int, ...]:
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


def _stacked(array: Array, shape: tuple[int, ...] | None = None) -> Array:
    """One leading dimension for a stack of matrices, which are broadcast to `shape` first."""
    if array.ndim == 2 and not shape:
        return array[None]
    if shape is not None and array.shape[:-2] != shape:
        array = np.broadcast_to(array, shape + array.shape[-2:])
    return array.reshape(math.prod(array.shape[:-2]), *array.shape[-2:])


def _unstacked(array: Array, shape: tuple[int, ...]) -> Array:
    """The inverse, for the leading dimensions `shape`."""
    return array.reshape(shape + array.shape[1:]) if shape else array[0]


# ---------------------------------------------------------------------------------- linear systems
def _factorise(name: str, x: Tensor) -> Factors:
    lu, pivots, singular = kernels.lu(np.ascontiguousarray(_stacked(x._array)))
    if singular >= 0:
        _fail(name, SINGULAR, x.shape[:-2], singular)
    return lu, pivots


@memory_checked
def _solution(name: str, x: Tensor, y: Array, transposed: bool, lu: Factors | None) -> Array:
    """The solution of x X = y, or x.mT X = y, from the factors of x if there are any."""
    if lu is None or not kernels.factors_by_kernels():
        try:
            return np.linalg.solve(x._array.mT if transposed else x._array, y)
        except LinAlgError:
            _fail(name, SINGULAR, x.shape[:-2])
    stack, which = x.shape[:-2], None
    shape = _common(stack, y.shape[:-2])
    if stack != shape:  # several right sides have one matrix
        numbers = np.arange(len(lu[0])).reshape(stack)
        which = np.array(np.broadcast_to(numbers, shape)).reshape(-1)
    return _unstacked(kernels.lu_solve(*lu, _stacked(y, shape), transposed, which), shape)


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
        shape = _common(t.shape[:-2], b.shape[:-2])
        t = _stacked(t, shape)
        if t.itemsize not in t.strides[1:]:
            t = np.ascontiguousarray(t)
        values = _unstacked(kernels.solve_triangular(t, _stacked(b, shape), upper), shape)
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
    """`solve` for triangular matrices x, in half the time it takes to multiply by them: of x only
    the upper or the lower triangle is read.

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
        lu, pivots, singular = kernels.lu(np.ascontiguousarray(_stacked(x._array)))
        if singular < 0:
            odd = np.count_nonzero(pivots != np.arange(x.shape[-1]), -1) % 2
            with np.errstate(over="ignore", under="ignore"):
                values = np.diagonal(lu, 0, -2, -1).prod(-1) * (1 - 2 * odd).astype(x.dtype)
            return _made(DET, values.reshape(x.shape[:-2]), (x,), ((lu, pivots),))
    return _made(DET, np.asarray(np.linalg.det(x._array)), (x,), (None,))


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
    try:
        # From the same factors, so that of a matrix near a singular one their errors cancel.
        inverse = _inverse("det", x, lu)
        condition = np.abs(x._array).sum(-2).max(-1) * np.abs(inverse._array).sum(-2).max(-1)
        if (condition < 0.01 / (x.shape[-1] * np.finfo(x.dtype).eps)).all():
            return _times(g * out, inverse.mT)
    except LinAlgError:
        pass
    u, s, vh = np.linalg.svd(x._array)
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
    sign, logabsdet = map(np.asarray, np.linalg.slogdet(a._array))
    return SlogdetResult(adopt(sign), _made(LOGABSDET, logabsdet, (a,), ()))


# ------------------------------------------------------------------------------------- Cholesky, QR
@memory_checked
def _cholesky(x: Tensor) -> Tensor:
    if kernels.factors_by_kernels():
        values, indefinite = kernels.cholesky(np.ascontiguousarray(_stacked(x._array)))
        if indefinite >= 0:
            _fail("cholesky", INDEFINITE, x.shape[:-2], indefinite)
        return _made(CHOLESKY, _unstacked(values, x.shape[:-2]), (x,), ())
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


def _divided(x: Tensor, r: Tensor) -> Tensor:
    """x R^-T for an upper triangular R."""
    return _solved_triangle("qr", r, x.mT, True).mT


def _q_gradient(g: Tensor, x: Tensor, parts: tuple[Tensor, Tensor]) -> Tensor:
    q, r = qr(x) if is_grad_enabled() else parts
    return _divided(g - matmul(q, _mirrored(matmul(g.mT, q))), r)


def _r_gradient(g: Tensor, x: Tensor, parts: tuple[Tensor, Tensor]) -> Tensor:
    q, r = qr(x) if is_grad_enabled() else parts
    return _divided(matmul(q, _mirrored(matmul(r, g.mT))), r)


# Each part of a decomposition has an operation of its own, whose rule has copies of all parts or,
# if the gradient itself is recorded, decomposes x again, so that they are in the graph.
QR_Q = make_op("qr.Q", rules=(_q_gradient,), attributes=("parts",))
QR_R = make_op("qr.R", rules=(_r_gradient,), attributes=("parts",))


def _undetermined(name: str) -> Any:
    """The rule of a basis that x leaves open."""

    def rule(g: Tensor) -> Tensor:
        raise LinAlgError(
            f"{name}: x does not determine the columns that complete the basis, so they have no "
            "gradient; use the reduced form"
        )

    return rule


QR_COMPLETE = make_op("qr.Q complete", rules=(_undetermined("qr"),))


def _copies(x: Tensor, *arrays: Array) -> tuple[Tensor, ...]:
    """Parts of a decomposition for the rules, which must not see later writes to the outputs."""
    if not (x.requires_grad and is_grad_enabled()):
        return ()
    return tuple(adopt(np.array(a, order="C")) for a in arrays)


@memory_checked
def qr(x: TensorLike, mode: Literal["reduced", "complete", "r"] = "reduced") -> Any:
    """Q with orthonormal columns and R upper triangular, x = Q R, for matrices (..., n, m). With
    k = min(n, m), Q is (..., n, k) and R (..., k, m); mode="complete" gives Q (..., n, n) and R
    (..., n, m), and mode="r" R alone, as in NumPy.

    The first k columns of x must be linearly independent, or backward raises LinAlgError; so does
    that of a Q that "complete" has completed. Gradients: Walter & Lehmann 2010, "Algorithmic
    differentiation of linear algebra functions", section 4.

    >>> q, r = mg.linalg.qr(mg.tensor([[3.0, 1.0], [4.0, 2.0]]))
    >>> mg.allclose(q @ r, mg.tensor([[3.0, 1.0], [4.0, 2.0]])), r.shape
    (True, (2, 2))
    """
    a = _matrix("qr", x)
    choice(mode, "qr: mode", "reduced", "complete", "r")
    n, m = a.shape[-2:]
    if n < m:  # of the columns beyond the first n, R is Q' x
        q, r = qr(a[..., :n])
        r = concat([r, matmul(q.mT, a[..., n:])], -1)
        return r if mode == "r" else QRResult(q, r)
    array_q, array_r = np.linalg.qr(a._array)
    parts = _copies(a, array_q, array_r)
    r = _made(QR_R, array_r, (a,), (parts,))
    if mode == "r":
        return r
    if mode == "reduced" or n == m:
        return QRResult(_made(QR_Q, array_q, (a,), (parts,)), r)
    q = _made(QR_COMPLETE, np.linalg.qr(a._array, "complete")[0], (a,), ())
    return QRResult(q, pad(r, ((0, 0),) * (a.ndim - 2) + ((0, n - m), (0, 0))))


# ------------------------------------------------------------- eigenvalues and singular values
def _quotient(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and 0 where both are 0: what does not depend on a choice needs no division."""
    both = logical_and(x == 0.0, y == 0.0)
    return x / where(both, 1.0, y)


def _skew(x: Tensor) -> Tensor:
    return x - x.mT


def _differences(x: Tensor) -> Tensor:
    """x[j] - x[i]"""
    return functions.expand_dims(x, -2) - functions.expand_dims(x, -1)


def _row(x: Tensor) -> Tensor:
    return functions.expand_dims(x, -2)


def _eigenvalue_gradient(g: Tensor, x: Tensor, parts: tuple[Tensor, Tensor], uplo: UpLo) -> Tensor:
    _, v = eigh(x, uplo) if is_grad_enabled() else parts
    return matmul(v * _row(g), v.mT)


def _eigenvector_gradient(g: Tensor, x: Tensor, parts: tuple[Tensor, Tensor], uplo: UpLo) -> Tensor:
    w, v = eigh(x, uplo) if is_grad_enabled() else parts
    inner = _quotient(0.5 * _skew(matmul(v.mT, g)), _differences(w))
    return matmul(matmul(v, inner), v.mT)


EIGENVALUES = make_op("eigenvalues", rules=(_eigenvalue_gradient,), attributes=("parts", "uplo"))
EIGENVECTORS = make_op("eigenvectors", rules=(_eigenvector_gradient,), attributes=("parts", "uplo"))


@memory_checked
def _eigh(name: str, x: TensorLike, uplo: UpLo) -> tuple[Tensor, Array, Array, tuple[Any, ...]]:
    a = _square(name, _matrix(name, x))
    choice(uplo, f"{name}: UPLO", "L", "U")
    try:
        w, v = np.linalg.eigh(a._array, uplo)
    except LinAlgError:
        _fail(name, "such that its eigenvalues do not converge; is it finite?", a.shape[:-2])
    return a, w, v, (_copies(a, w, v), uplo)


def eigh(x: TensorLike, UPLO: UpLo = "L") -> EighResult:
    """The eigenvalues (..., n), in ascending order, and eigenvectors, the columns of (..., n, n),
    of symmetric matrices (..., n, n), of which only the lower triangle is read, or the upper one if
    UPLO="U". The gradient is symmetric.

    Functions of the eigenvectors of a repeated eigenvalue that depend on their choice have infinite
    or NaN gradients. Gradients: Giles 2008, section 3.1.

    >>> w, v = mg.linalg.eigh(mg.tensor([[2.0, 1.0], [1.0, 2.0]]))
    >>> w
    tensor([1., 3.])
    """
    a, w, v, attributes = _eigh("eigh", x, UPLO)
    return EighResult(
        _made(EIGENVALUES, w, (a,), attributes), _made(EIGENVECTORS, v, (a,), attributes)
    )


def eigvalsh(x: TensorLike, UPLO: UpLo = "L") -> Tensor:
    """The eigenvalues of `eigh` alone.

    >>> mg.linalg.eigvalsh(mg.tensor([[2.0, 1.0], [1.0, 2.0]]))
    tensor([1., 3.])
    """
    a, w, _, attributes = _eigh("eigvalsh", x, UPLO)
    return _made(EIGENVALUES, w, (a,), attributes)


Parts = tuple[Tensor, Tensor, Tensor]


def _usv(x: Tensor, parts: Parts) -> Parts:
    return svd(x, full_matrices=False) if is_grad_enabled() else parts


def _gaps(s: Tensor) -> Tensor:
    """s[j]² - s[i]²"""
    return _differences(s) * (_row(s) + functions.expand_dims(s, -1))


def _value_gradient(g: Tensor, x: Tensor, parts: Parts) -> Tensor:
    u, _, vh = _usv(x, parts)
    return matmul(u * _row(g), vh)


def _basis_gradient(g: Tensor, u: Tensor, s: Tensor, vh: Tensor) -> Tensor:
    """Townsend 2016, the terms of the left singular vectors u."""
    inner = matmul(u.mT, g)
    turned = matmul(u, _quotient(_skew(inner), _gaps(s)) * _row(s))
    if u.shape[-2] > u.shape[-1]:
        turned = turned + _quotient(g - matmul(u, inner), _row(s))
    return matmul(turned, vh)


def _left_gradient(g: Tensor, x: Tensor, parts: Parts) -> Tensor:
    return _basis_gradient(g, *_usv(x, parts))


def _right_gradient(g: Tensor, x: Tensor, parts: Parts) -> Tensor:
    """The right singular vectors are the left ones of x.mT."""
    u, s, vh = _usv(x, parts)
    return _basis_gradient(g.mT, vh.mT, s, u.mT).mT


SINGULAR_VALUES = make_op("singular_values", rules=(_value_gradient,), attributes=("parts",))
LEFT = make_op("svd.U", rules=(_left_gradient,), attributes=("parts",))
RIGHT = make_op("svd.Vh", rules=(_right_gradient,), attributes=("parts",))
COMPLETED = make_op("svd completed", rules=(_undetermined("svd"),))


@memory_checked
def _svd(name: str, x: Tensor, full: bool = False) -> tuple[Array, Array, Array]:
    try:
        return np.linalg.svd(x._array, full)
    except LinAlgError:
        _fail(name, "such that its singular values do not converge; is it finite?", x.shape[:-2])


def svd(x: TensorLike, full_matrices: bool = True) -> SVDResult:
    """The singular value decomposition x = U diag(S) Vh of matrices (..., n, m). With k = min(n,
    m), S is (..., k), in descending order. U is (..., n, n) and Vh (..., m, m), or with
    full_matrices=False (..., n, k) and (..., k, m).

    A U or Vh that full_matrices has completed has no gradient: its backward raises LinAlgError.
    Functions of the vectors of a repeated singular value that depend on their choice have infinite
    or NaN gradients, and so has what depends on the vectors of a singular value of 0. Gradients:
    Townsend 2016.

    >>> u, s, vh = mg.linalg.svd(mg.tensor([[3.0, 0.0], [0.0, -4.0]]))
    >>> s
    tensor([4., 3.])
    """
    a = _matrix("svd", x)
    full = flag(full_matrices, "svd: full_matrices") and a.shape[-1] != a.shape[-2]
    u, s, vh = _svd("svd", a)
    parts = (_copies(a, u, s, vh),)
    left, values, right = (
        _made(op, array, (a,), parts)
        for op, array in ((LEFT, u), (SINGULAR_VALUES, s), (RIGHT, vh))
    )
    if full:
        u, _, vh = _svd("svd", a, True)
        if a.shape[-2] > a.shape[-1]:
            left = _made(COMPLETED, u, (a,), ())
        else:
            right = _made(COMPLETED, vh, (a,), ())
    return SVDResult(left, values, right)


def svdvals(x: TensorLike) -> Tensor:
    """The singular values of matrices (..., n, m) in descending order, (..., min(n, m)).

    >>> mg.linalg.svdvals(mg.tensor([[3.0, 0.0], [0.0, -4.0]]))
    tensor([4., 3.])
    """
    a = _matrix("svdvals", x)
    u, s, vh = _svd("svdvals", a)
    return _made(SINGULAR_VALUES, s, (a,), (_copies(a, u, s, vh),))


# ------------------------------------------------------------------------- pseudo-inverse, rank
def _pinv_gradient(g: Tensor, x: Tensor, out: Tensor) -> Tensor:
    """Golub & Pereyra 1973, "The differentiation of pseudo-inverses and nonlinear least squares
    problems whose variables separate", equation 4.12."""
    p, gt = out.mT, g.mT
    total = -matmul(matmul(p, g), p)
    outside = gt - matmul(x, matmul(out, gt))  # x out and out x are projections
    beside = gt - matmul(matmul(gt, out), x)
    return total + matmul(matmul(outside, out), p) + matmul(p, matmul(out, beside))


PINV = make_op("pinv", rules=(_pinv_gradient,))


def _pseudo_inverse(name: str, x: Tensor, rtol: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The pseudo-inverse, the ranks and the singular values."""
    u, s, vh = _svd(name, x)
    limit = np.finfo(x.dtype).eps * np.max(x.shape[-2:])
    if rtol is not None:
        limit = np.asarray(rtol._array if isinstance(rtol, Tensor) else rtol)[..., None]
    large = s > limit * np.max(s, -1, keepdims=True, initial=0)
    inverse = np.where(large, 1 / np.where(large, s, 1), 0).astype(x.dtype)
    values = np.matmul(vh.mT * inverse[..., None, :], u.mT)
    singular = _made(SINGULAR_VALUES, s, (x,), (_copies(x, u, s, vh),))
    return _made(PINV, values, (x,), ()), adopt(np.asarray(large.sum(-1))), singular


def pinv(x: TensorLike, *, rtol: TensorLike | None = None) -> Tensor:
    """The Moore-Penrose pseudo-inverses (..., m, n) of matrices (..., n, m). Singular values up to
    rtol times the largest count as 0; rtol defaults to eps * max(n, m), and may be a tensor (...).

    The gradient (Golub & Pereyra 1973) is that among matrices of the same rank.

    >>> mg.linalg.pinv(mg.tensor([[2.0, 0.0], [0.0, 0.0]]))
    tensor([[0.5, 0. ],
            [0. , 0. ]])
    """
    return _pseudo_inverse("pinv", _matrix("pinv", x), rtol)[0]


def matrix_rank(x: TensorLike, *, rtol: TensorLike | None = None) -> Tensor:
    """The number of singular values above rtol times the largest, int64, (..., n, m) -> (...); rtol
    as in `pinv`. Vectors are an error, as in the array API.

    >>> mg.linalg.matrix_rank(mg.tensor([[1.0, 2.0], [2.0, 4.0]]))
    tensor(1)
    """
    return _pseudo_inverse("matrix_rank", _matrix("matrix_rank", x).detach(), rtol)[1]


def lstsq(x: TensorLike, y: TensorLike, rcond: float | None = None) -> LstsqResult:
    """The least-squares solution X of x X = y, for matrices x (..., n, m) and a vector y (n,) or
    matrices (..., n, k); the one of smallest norm if there are several. As NumPy's function, on
    stacks too, it returns

    x: the solution (m,) or (..., m, k).
    residuals: the sums of the squared residuals, (1,) or (..., k); empty if n <= m, or if the
        rank of a matrix is below m.
    rank: int64, (...).
    singular_values: of x, (..., min(n, m)).

    Singular values up to rcond times the largest count as 0; rcond defaults to eps * max(n, m). The
    gradients are those among matrices of the same rank.

    >>> mg.linalg.lstsq(mg.tensor([[1.0], [1.0]]), mg.tensor([1.0, 3.0])).x
    tensor([2.])
    """
    a, b = _operands("lstsq", x, y)
    column = reshape(b, (-1, 1)) if b.ndim == 1 else b
    if a.ndim < 2 or column.ndim < 2 or column.shape[-2] != a.shape[-2]:
        raise LinAlgError(
            f"lstsq: matrices of shape {a.shape} and right side of shape {b.shape}: expected "
            "(..., n, m) and (n,) or (..., n, k)"
        )
    inverse, rank, singular = _pseudo_inverse("lstsq", a, rcond)
    found = matmul(inverse, column)
    n, m = a.shape[-2:]
    if n > m and (rank._array == m).all():
        residuals = sum(square(column - matmul(a, found)), -2)
    else:
        residuals = adopt(np.zeros(0, a.dtype))
    return LstsqResult(_as_given(found, y), residuals, rank, singular)


# ------------------------------------------------------------------------------- powers and norms
def matrix_power(x: TensorLike, n: int) -> Tensor:
    """x @ x @ ... of n factors, for square matrices (..., m, m); of -n inverses if n < 0.

    >>> mg.linalg.matrix_power(mg.tensor([[1.0, 1.0], [0.0, 1.0]]), 5)
    tensor([[1., 5.],
            [0., 1.]])
    """
    (a,) = to_tensors((x,), "matrix_power")
    n = integer(n, "matrix_power: n")
    _square("matrix_power", a)
    if n < 0:
        a, n = _inverse("matrix_power", *_operands("matrix_power", a)), -n
    result = None
    while n:
        if n & 1:
            result = a if result is None else matmul(result, a)
        n >>= 1
        if n:
            a = matmul(a, a)
    if result is None:
        identity = np.eye(a.shape[-1], dtype=a.dtype)
        return adopt(np.array(np.broadcast_to(identity, a.shape)))
    return result


def vector_norm(
    x: TensorLike, *, axis: Axis = None, keepdims: bool = False, ord: float = 2
) -> Tensor:
    """(sum |x|**ord) ** (1 / ord) over the axes, by default over all elements. ord=inf is the
    largest |x|, -inf the smallest, and 0 counts the elements that are not 0. Gradients at 0 as in
    `mg.norm`.

    >>> mg.linalg.vector_norm(mg.tensor([3.0, -4.0]))
    tensor(5.)
    """
    (a,) = _operands("vector_norm", x)
    if not real(ord, "vector_norm: ord") <= 0:
        return norm(a, axis, keepdims, ord)
    if ord == 0:
        return astype(functions.count_nonzero(a, axis, keepdims), a.dtype)
    if ord == -math.inf:
        return min(abs(a), axis=axis, keepdims=keepdims)
    return pow(sum(pow(abs(a), ord), axis=axis, keepdims=keepdims), 1.0 / ord)


NORMS = {  # of matrices: by sums of columns or rows, or by singular values
    1: (-2, max), -1: (-2, min), math.inf: (-1, max), -math.inf: (-1, min),
    2: (None, max), -2: (None, min), "nuc": (None, sum),
}  # fmt: skip


def matrix_norm(
    x: TensorLike,
    *,
    keepdims: bool = False,
    ord: float | Literal["fro", "nuc"] = "fro",
) -> Tensor:
    """A norm of matrices, (..., n, m) -> (...). ord="fro": Frobenius's, that of the elements as a
    vector; "nuc": the sum of the singular values; 2, -2: the largest and smallest of them; 1, -1:
    the largest and smallest sum of |x| over a column; inf, -inf: over a row.

    >>> mg.linalg.matrix_norm(mg.tensor([[1.0, -2.0], [3.0, 4.0]]), ord=1)
    tensor(6.)
    """
    a = _matrix("matrix_norm", x)
    if ord == "fro":
        return norm(a, (-2, -1), keepdims)
    if ord not in NORMS:
        raise ValueError(
            f"matrix_norm: ord must be 'fro', 'nuc', 1, -1, 2, -2, inf or -inf, got {ord!r}"
        )
    axis, combine = NORMS[ord]
    numbers = svdvals(a) if axis is None else sum(abs(a), axis=axis)
    result = combine(numbers, axis=-1)
    return reshape(result, (*result.shape, 1, 1)) if keepdims else result


# --------------------------------------------------- of the last two dimensions, as in the standard
def diagonal(x: TensorLike, *, offset: int = 0) -> Tensor:
    """The diagonals of matrices (..., n, m), a view; `mg.diagonal` takes other axes as well.

    >>> mg.linalg.diagonal(mg.ones(5, 2, 3)).shape
    (5, 2)
    """
    return ops.diagonal(cast(Tensor, x), offset, -2, -1)


def trace(x: TensorLike, *, offset: int = 0) -> Tensor:
    """The sums of the diagonals of matrices (..., n, m); `mg.trace` takes other axes as well.

    >>> mg.linalg.trace(mg.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor(5.)
    """
    return contraction.trace(cast(Tensor, x), offset, -2, -1)
