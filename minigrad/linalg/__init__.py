"""Linear algebra on stacks of matrices, with gradients of any order.

Names follow the `linalg` extension of the array API standard, and what is missing there NumPy and
PyTorch. Matrices are the last two dimensions, (..., n, m); all others are a stack. Operands take
their common dtype, integers and bools alone the default dtype; but products (`matmul`, `outer`,
`matrix_power` for n >= 0, ...), `diagonal` and `trace` of integers are integers, as elsewhere. An
input that has no answer (a singular matrix, one that is not square, ...) raises
numpy.linalg.LinAlgError, which is a ValueError. A NaN comes out as NaN, but decompositions that
iterate (`eigh`, `svd`, `pinv`, `lstsq`) and `cholesky` raise LinAlgError, as NumPy's do.

Values are NumPy's (LAPACK's), or, for what needs LU or Cholesky factors, those of
_core/fast/factors.pyx. A gradient rule is an expression in Tensor operations, as of any primitive
(Giles 2008, "An extended collection of matrix derivative results for forward and reverse mode
algorithmic differentiation"; Townsend 2016, "Differentiating the singular value decomposition").

Where a decomposition is not unique, a function of it has a gradient only if it does not depend on
the choice: signs of eigenvectors always, and any basis of a space that repeated eigenvalues or
singular values share. A function that does depend on the latter gets infinite or NaN gradients, as
in PyTorch.
"""

import typing

from numpy.linalg import LinAlgError as LinAlgError

from .._core.ops import matmul as matmul, matrix_transpose as matrix_transpose
from ..contraction import outer as outer, tensordot as tensordot, vecdot as vecdot
from ..functions import cross as cross
from ..namespace import public_names as _public_names
from .decompositions import *
from .norms import *
from .systems import *

if not typing.TYPE_CHECKING:  # mypy reads only literal lists; without one, it goes by the imports
    __all__ = _public_names(vars())
    __dir__ = __all__.copy
