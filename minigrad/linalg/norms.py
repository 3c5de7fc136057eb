"""Powers and norms of matrices, norms of vectors, and diagonals of the last two dimensions."""

from __future__ import annotations

import math
from typing import Literal, cast

import numpy as np
from numpy.typing import DTypeLike

from .. import contraction
from .._core import ops
from .._core.engine.graph import Tensor, adopt, to_tensor
from .._core.ops import abs, astype, floating, matmul, max, min, pow, reshape, sum
from ..checks import integer, real
from ..functions import count_nonzero, norm
from ..namespace import led
from ..types import Axis, TensorLike
from .decompositions import svdvals
from .systems import _inverse, _matrix, _square

__all__ = ["diagonal", "matrix_norm", "matrix_power", "trace", "vector_norm"]


# ------------------------------------------------------------------------------- powers and norms
def matrix_power(x: TensorLike, n: int) -> Tensor:
    """x @ x @ ... of n factors, for square matrices (..., m, m); of -n inverses if n < 0.

    >>> mg.linalg.matrix_power(mg.tensor([[1.0, 1.0], [0.0, 1.0]]), 5)
    tensor([[1., 5.],
            [0., 1.]])
    """
    a = to_tensor(x, "matrix_power")
    n = integer(n, "matrix_power: n")
    _square("matrix_power", a)
    if n < 0:
        a, n = _inverse("matrix_power", floating(a, "matrix_power")), -n
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
    a = floating(x, "vector_norm")
    if not real(ord, "vector_norm: ord") <= 0:
        return norm(a, axis, keepdims, ord)
    if ord == 0:
        return astype(count_nonzero(a, axis, keepdims), a.dtype)
    if ord == -math.inf:
        return min(abs(a), axis=axis, keepdims=keepdims)
    return pow(sum(pow(abs(a), ord), axis=axis, keepdims=keepdims), 1.0 / ord)


NORMS = {  # of matrices: by sums of columns or rows, or by singular values
    1: (-2, max), -1: (-2, min), math.inf: (-1, max), -math.inf: (-1, min),
    2: (None, max), -2: (None, min), "nuc": (None, sum),
}  # fmt: skip


def matrix_norm(
    x: TensorLike, *, keepdims: bool = False, ord: float | Literal["fro", "nuc"] = "fro"
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
    if combine is max and numbers.shape[-1] == 0:
        combine = sum  # every norm of a matrix without elements is 0, as in PyTorch
    result = combine(numbers, axis=-1)
    return reshape(result, (*result.shape, 1, 1)) if keepdims else result


# --------------------------------------------------- of the last two dimensions, as in the standard
def diagonal(x: TensorLike, *, offset: int = 0) -> Tensor:
    """The diagonals of matrices (..., n, m), a view; `mg.diagonal` takes other axes as well.

    >>> mg.linalg.diagonal(mg.ones(5, 2, 3)).shape
    (5, 2)
    """
    return ops.diagonal(cast(Tensor, x), offset, -2, -1)


def trace(x: TensorLike, *, offset: int = 0, dtype: DTypeLike | None = None) -> Tensor:
    """The sums of the diagonals of matrices (..., n, m), computed in `dtype` if one is given;
    `mg.trace` takes other axes as well.

    >>> mg.linalg.trace(mg.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor(5.)
    """
    if dtype is not None:
        x = astype(to_tensor(x, "trace"), dtype)
    return contraction.trace(cast(Tensor, x), offset, -2, -1)


led(globals(), ["diagonal", "matrix_norm", "trace", "vector_norm"])
