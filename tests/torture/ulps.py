"""The largest error of each elementwise function, in units in the last place of the exact result.

float32: every 97th bit pattern of all 2^32 floats, and special values, against the function in
float64. float64: random bit patterns and numbers between 2^-20 and 2^10, against long double if it
is longer, otherwise mpmath (also for erf and gelu). A result that should be an infinity, a NaN or
a zero must be exactly that.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from op_table import np_erf

import minigrad as mg
from torture import Result, Share

Function = Callable[[np.ndarray], np.ndarray]
erfc = np.vectorize(math.erfc, otypes=[np.float64])


def sigmoid(x: np.ndarray) -> np.ndarray:
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def softplus(x: np.ndarray) -> np.ndarray:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def silu(x: np.ndarray) -> np.ndarray:
    return np.where(x == -np.inf, -0.0, x * sigmoid(x))


def gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * erfc(-x / math.sqrt(2.0))


# The function in a longer type, or mpmath's name if there is none, and the errors allowed in
# float32 and float64: 4 if the function is NumPy's own.
TABLE: dict[str, tuple[Function, str, float, float]] = {
    "exp": (np.exp, "exp", 2, 2),
    "expm1": (np.expm1, "expm1", 3, 3),
    "exp2": (np.exp2, "", 4, 4),
    "log": (np.log, "log", 2, 2),
    "log1p": (np.log1p, "log1p", 3, 3),
    "log2": (np.log2, "", 4, 4),
    "log10": (np.log10, "log10", 4, 4),
    "sin": (np.sin, "sin", 2, 2),
    "cos": (np.cos, "cos", 2, 2),
    "tan": (np.tan, "tan", 4, 4),
    "asin": (np.arcsin, "asin", 4, 4),
    "acos": (np.arccos, "acos", 4, 4),
    "atan": (np.arctan, "atan", 4, 4),
    "sinh": (np.sinh, "sinh", 4, 4),
    "cosh": (np.cosh, "cosh", 4, 4),
    "tanh": (np.tanh, "tanh", 3, 3),
    "asinh": (np.arcsinh, "asinh", 4, 4),
    "acosh": (np.arccosh, "acosh", 4, 4),
    "atanh": (np.arctanh, "atanh", 4, 4),
    "sigmoid": (sigmoid, "", 3, 3),
    "softplus": (softplus, "", 3, 3),
    "logsigmoid": (lambda x: -softplus(-x), "", 3, 3),
    "erf": (np_erf, "erf", 3, 3),
    "gelu": (gelu, "gelu", 8, 8),
    "silu": (silu, "", 4, 4),
    "sqrt": (np.sqrt, "sqrt", 0.5, 0.5),
    "rsqrt": (lambda x: 1 / np.sqrt(x), "", 1.5, 1.5),
    "reciprocal": (np.reciprocal, "", 0.5, 0.5),
    "square": (np.square, "", 0.5, 0.5),
}


def errors(result: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """In ulps of the exact result; infinite if one of the two is not finite and they differ. Past
    the largest number an error of an ulp may give an infinity."""
    limits = np.finfo(result.dtype)
    with np.errstate(all="ignore"):
        rounded = exact.astype(result.dtype)
        # The first number too large to be represented, which infinity represents here.
        beyond = 2 * exact.dtype.type(2.0) ** (limits.maxexp - 1)
        found = np.where(np.isinf(result), np.copysign(beyond, result), result.astype(exact.dtype))
        wanted = np.where(np.abs(exact) > beyond, np.copysign(beyond, exact), exact)
        largest = np.nextafter(limits.max, limits.dtype.type(0))  # its spacing is finite
        size = np.minimum(np.maximum(np.abs(rounded), limits.tiny), largest)
        error = np.abs(found - wanted) / np.spacing(size).astype(exact.dtype)
    error = np.where(np.isnan(exact) & np.isnan(result), 0, error)
    return np.where(np.isnan(error), np.inf, error).astype(float)


def worst(name: str, x: np.ndarray, exact: Function) -> tuple[float, float]:
    """The largest error, and where."""
    largest, place = 0.0, math.nan
    for start in range(0, x.size, 1 << 20):
        piece = x[start : start + (1 << 20)]
        with np.errstate(all="ignore"):
            wide = exact(piece.astype(np.float64 if x.dtype == np.float32 else np.longdouble))
        error = errors(getattr(mg, name)(mg.asarray(piece)).numpy(), np.asarray(wide))
        i = int(error.argmax())
        if error[i] > largest:
            largest, place = float(error[i]), float(piece[i])
    return largest, place


def floats(step: int) -> np.ndarray:
    """float32 of every step-th bit pattern, and all around the special ones."""
    specials = np.array(
        [0.0, 1.0, -1.0, np.inf, 88.72284, -87.33655, 0.5, 2.0, np.pi], np.float32
    ).view(np.int32)
    near = (specials[:, None] + np.arange(-500, 500, dtype=np.int32)).view(np.uint32).ravel()
    return np.concatenate([np.arange(0, 2**32, step, dtype=np.uint32), near]).view(np.float32)


def doubles(count: int) -> np.ndarray:
    random = np.random.default_rng(0)
    patterns = random.integers(0, 2**64, count, dtype=np.uint64).view(np.float64)
    even = random.choice((-1.0, 1.0), count) * 2 ** random.uniform(-20, 10, count)
    return np.concatenate(
        [patterns, even, -np.arange(0, 1, 1e-4), [0.0, -0.0, np.inf, -np.inf, np.nan]]
    )


def of_mpmath(name: str) -> Function | None:
    """The function with 40 digits, rounded to the sum of two doubles, or to one."""
    try:
        from mpmath import mp, mpf
    except ImportError:
        return None
    mp.dps = 40

    def gelu(x: Any) -> Any:  # mpmath's erfc fails for huge arguments
        return x * (x > 0) if abs(x) > 1000 else x / 2 * mp.erfc(-x / mp.sqrt(2))

    function = {"gelu": gelu}.get(name) or getattr(mp, name)

    def evaluate(x: np.ndarray) -> np.ndarray:
        out = []
        for number in x.astype(np.float64).tolist():
            y = function(mpf(number)) if math.isfinite(number) else mpf(np.nan)
            high = float(y)
            out.append(
                np.longdouble(high) + np.longdouble(float(y - high) if math.isfinite(high) else 0)
            )
        return np.array(out, np.longdouble)

    return evaluate


def torment(share: Share) -> Result:
    """Every function over all floats, and over 2 million doubles."""
    result = Result("functions")
    x32, x64 = floats(97 * 50 if share.quick else 97), doubles(20_000 if share.quick else 1_000_000)
    long = np.finfo(np.longdouble).nmant > 60
    for name in share.progress(list(TABLE)):
        exact, of_mp, allowed32, allowed64 = TABLE[name]
        error32, place32 = worst(name, x32, exact)
        points, reference = x64, exact
        if name in ("erf", "gelu") or not long:
            points = x64[np.isfinite(x64)][:: 1 + x64.size // 20_000]
            reference = of_mpmath(of_mp) if of_mp else None
        cells = ["", ""]
        if reference is not None:
            error64, place64 = worst(name, points, reference)
            cells = [f"{error64:.2f}", f"{place64:.6g}"]
            result.check(
                error64 <= allowed64,
                f"{name}: {error64:.2f} ulp in float64 at {place64!r}, allowed {allowed64}",
            )
        result.check(
            error32 <= allowed32,
            f"{name}: {error32:.2f} ulp in float32 at {place32!r}, allowed {allowed32}",
        )
        result.rows.append(
            [
                f"`{name}`",
                f"{error32:.2f}",
                f"{place32:.6g}",
                *cells,
                f"{allowed32:g}, {allowed64:g}",
            ]
        )
    result.count = len(TABLE)
    result.note("floats each", x32.size)
    result.note("doubles each", x64.size)
    return result
