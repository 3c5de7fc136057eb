"""QR, eigenvalues, singular values, and the pseudo-inverses and least squares that they give.

Each part of a decomposition is an operation of its own, whose rule has copies of all parts. If the
gradient itself is recorded, the rule decomposes x again, so that the parts are in the graph.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.linalg import LinAlgError

from .._core.engine.graph import Tensor, adopt, is_grad_enabled, make_op
from .._core.fast.loops import memory_checked
from .._core.ops import (
    concat,
    floating_operands,
    logical_and,
    matmul,
    pad,
    reshape,
    square,
    sum,
    where,
)
from ..checks import choice, flag
from ..functions import expand_dims
from ..types import TensorLike
from .systems import Array, _as_given, _fail, _made, _matrix, _mirrored, _solved_triangle, _square

__all__ = ["eigh", "eigvalsh", "lstsq", "matrix_rank", "pinv", "qr", "svd", "svdvals"]

Pair: TypeAlias = tuple[Tensor, Tensor]  # copies of what a decomposition computed
Parts: TypeAlias = tuple[Tensor, Tensor, Tensor]


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


# ---------------------------------------------------------------------------------------------- QR
def _divided(x: Tensor, r: Tensor) -> Tensor:
    """x R^-T for an upper triangular R."""
    return _solved_triangle("qr", r, x.mT, True).mT


def _q_gradient(g: Tensor, x: Tensor, parts: Pair) -> Tensor:
    q, r = qr(x) if is_grad_enabled() else parts
    return _divided(g - matmul(q, _mirrored(matmul(g.mT, q))), r)


def _r_gradient(g: Tensor, x: Tensor, parts: Pair) -> Tensor:
    q, r = qr(x) if is_grad_enabled() else parts
    return _divided(matmul(q, _mirrored(matmul(r, g.mT))), r)


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
    return expand_dims(x, -2) - expand_dims(x, -1)


def _row(x: Tensor) -> Tensor:
    return expand_dims(x, -2)


def _eigenvalue_gradient(g: Tensor, x: Tensor, parts: Pair, uplo: Literal["L", "U"]) -> Tensor:
    _, v = eigh(x, uplo) if is_grad_enabled() else parts
    return matmul(v * _row(g), v.mT)


def _eigenvector_gradient(g: Tensor, x: Tensor, parts: Pair, uplo: Literal["L", "U"]) -> Tensor:
    w, v = eigh(x, uplo) if is_grad_enabled() else parts
    inner = _quotient(0.5 * _skew(matmul(v.mT, g)), _differences(w))
    return matmul(matmul(v, inner), v.mT)


EIGENVALUES = make_op("eigenvalues", rules=(_eigenvalue_gradient,), attributes=("parts", "uplo"))
EIGENVECTORS = make_op("eigenvectors", rules=(_eigenvector_gradient,), attributes=("parts", "uplo"))


@memory_checked
def _eigh(
    name: str, x: TensorLike, uplo: Literal["L", "U"]
) -> tuple[Tensor, Array, Array, tuple[Any, ...]]:
    a = _square(name, _matrix(name, x))
    choice(uplo, f"{name}: UPLO", "L", "U")
    try:
        w, v = np.linalg.eigh(a._array, uplo)
    except LinAlgError:
        _fail(name, "such that its eigenvalues do not converge; is it finite?", a.shape[:-2])
    return a, w, v, (_copies(a, w, v), uplo)


def eigh(x: TensorLike, UPLO: Literal["L", "U"] = "L") -> EighResult:
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


def eigvalsh(x: TensorLike, UPLO: Literal["L", "U"] = "L") -> Tensor:
    """The eigenvalues of `eigh` alone.

    >>> mg.linalg.eigvalsh(mg.tensor([[2.0, 1.0], [1.0, 2.0]]))
    tensor([1., 3.])
    """
    a, w, _, attributes = _eigh("eigvalsh", x, UPLO)
    return _made(EIGENVALUES, w, (a,), attributes)


def _usv(x: Tensor, parts: Parts) -> Parts:
    return svd(x, full_matrices=False) if is_grad_enabled() else parts


def _gaps(s: Tensor) -> Tensor:
    """s[j]² - s[i]²"""
    return _differences(s) * (_row(s) + expand_dims(s, -1))


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
        given = rtol._array if isinstance(rtol, Tensor) else rtol
        limit = np.asarray(given, np.float64)[..., None]
        if not (limit >= 0).all():
            label = "rcond" if name == "lstsq" else "rtol"
            raise ValueError(
                f"{name}: {label} must not be negative, got {rtol!r:.40}; leave it out for "
                "eps * max(n, m)"
            )
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
    a, b = floating_operands((x, y), "lstsq")
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
