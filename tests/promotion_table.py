"""The dtype of what two operands make together, for every pair: one table, for two tests.

A row is an operand, and stands for what it makes with a Tensor of each dtype. PyTorch gives the
same: test_peers_promotion.py.
"""

from __future__ import annotations

import numpy as np

DTYPES = ("bool", "int32", "int64", "float32", "float64")
B, I, L, F, D = DTYPES  # noqa: E741

#             bool int32 int64 float32 float64
COMMON = {
    "bool": (B, I, L, F, D),
    "int32": (I, I, L, F, D),
    "int64": (L, L, L, F, D),
    "float32": (F, F, F, F, D),
    "float64": (D, D, D, D, D),
    # numbers
    True: (B, I, L, F, D),
    2: (L, I, L, F, D),
    2.5: (F, F, F, F, D),
}
PAIRS = [
    (row, column, result)
    for row, results in COMMON.items()
    for column, result in zip(DTYPES, results, strict=True)
]

# What a function makes of operands whose common dtype is this; "same" is that dtype.
SAME, FLOAT, BOOL = "same", "float", "bool"
TWO = {  # one operand is a Tensor, the other a Tensor or a number
    "add": (SAME, lambda lib, x, y: x + y),
    "multiply": (SAME, lambda lib, x, y: x * y),
    "divide": (FLOAT, lambda lib, x, y: x / y),
    "pow": (SAME, lambda lib, x, y: x**y),
    "floor_divide": (SAME, lambda lib, x, y: x // y),
    "remainder": (SAME, lambda lib, x, y: x % y),
    "equal": (BOOL, lambda lib, x, y: x == y),
    "less": (BOOL, lambda lib, x, y: x < y),
    "where": (SAME, lambda lib, x, y: lib.where(lib.ones(2, dtype=lib.bool), x, y)),
}
TENSORS = {  # both are Tensors
    "maximum": (SAME, lambda lib, x, y: lib.maximum(x, y)),
    "minimum": (SAME, lambda lib, x, y: lib.minimum(x, y)),
    "atan2": (FLOAT, lambda lib, x, y: lib.atan2(x, y)),
    "concat": (SAME, lambda lib, x, y: lib.concat([x, y])),
    "stack": (SAME, lambda lib, x, y: lib.stack([x, y])),
    "clip": (SAME, lambda lib, x, y: lib.clip(x, y)),
    "logical_and": (BOOL, lambda lib, x, y: lib.logical_and(x, y)),
}
ONE = {
    **{
        name: (FLOAT, lambda lib, x, name=name: getattr(lib, name)(x))
        for name in (
            *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "sin"),
            *("cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh"),
            *("atanh", "sinc", "sigmoid", "erf", "erfc", "erfinv"),
        )
    },
    **{
        name: (SAME, lambda lib, x, name=name: getattr(lib, name)(x))
        for name in ("square", "floor", "ceil", "round", "trunc", "abs", "negative", "relu", "max")
    },
}
# PyTorch does not compute these of bools alone (except one, in one order); NumPy makes them int8.
OF_BOOLS = {"pow": "int64", "floor_divide": "int64", "remainder": "int64"}


def resulting(name, kind, common, default="float32"):
    """The dtype of a result whose operands have this common dtype."""
    if common == "bool" and name in OF_BOOLS:
        return OF_BOOLS[name]
    if kind == BOOL:
        return "bool"
    return default if kind == FLOAT and np.dtype(common).kind != "f" else common


def operand(library, kind):
    """A Tensor of the library of this dtype, or the number itself."""
    return library.ones(2, dtype=getattr(library, kind)) if isinstance(kind, str) else kind
