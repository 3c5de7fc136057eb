"""Every elementwise primitive: what it computes, its gradient rules, one line of help, one example.

Design note
-----------
1. One entry defines a primitive. At build time generate.py derives from it the opcode, the loops
   for both precisions, the function with its docstring and types, the method of Tensor, and the
   name in `mg`. Primitives that need more than one pass over the elements are in ops.pyx.
2. `kernel` is the value of one element, as an expression of operators and functions of vecmath.h.
   A NaN must stay NaN: `0 if x <= 0 else x`, not `x if x > 0 else 0`. Without a kernel, NumPy's
   function computes the result. Integers and bools always use NumPy's function; if there is none,
   they are converted to floats.
3. A rule is the gradient of one input as an expression in Tensor operations, so it can be
   differentiated again. Its parameter names say what is saved for it: g, the gradient of
   the output, is always available; out is the output, x and y are the inputs. None: no gradient.
4. An example reads `call -> result`; lists in it are tensors.
"""
# mypy: ignore-errors
# ruff: noqa: F821 (rules name functions that are derived from this table, or defined in ops.pyx)

import math
from typing import Any, NamedTuple

import numpy as np


class Entry(NamedTuple):
    """A primitive. public: it is a function of `mg` and a method of Tensor. by_hand: ops.pyx has
    the function. usual: for a kernel with a faster version for usual arguments, what to add to x
    before `mg_usual` tests it. operator: the special method that applies it, without
    underscores."""

    kernel: str | None
    numpy: Any
    rules: tuple
    help: str = ""
    example: str = ""
    public: bool = True
    by_hand: bool = False
    usual: int | None = None
    operator: str | None = None


def unary(kernel, numpy, rule, *text, **options):
    """A primitive of one input."""
    return Entry(kernel, numpy, (rule,), *text, **options)


def binary(kernel, numpy, rule_x, rule_y, *text, **options):
    """A primitive of two inputs, broadcast together."""
    return Entry(kernel, numpy, (rule_x, rule_y), *text, **options)


def comparison(kernel, numpy, *text, **options):
    """A primitive of two inputs, broadcast together, that gives bools."""
    return Entry(kernel, numpy, (None, None), *text, **options)


# ---------------------------------------------------------------------------------- one input
# fmt: off
LN_2 = math.log(2)
LN_10 = math.log(10)
TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)


def _np_sinc(x, out=None):
    """np.sinc, which is not a ufunc. In float64, because πx loses digits in float32."""
    y = np.sinc(np.asarray(x, np.float64))
    return np.positive(y.astype(x.dtype) if x.dtype.kind == "f" else y, out=out)


negative = unary("-x", np.negative, lambda g: -g,
    "-x elementwise.", "negative([1.0, -2.0]) -> [-1.,  2.]", operator="neg")
abs = unary("mg_abs(x)", np.abs, lambda g, x: g * sign(x),
    "|x| elementwise; its gradient at 0 is 0.", "abs([-1.5, 2.0]) -> [1.5, 2. ]", operator="abs")
sign = unary("1 if x > 0 else (-1 if x < 0 else x + 0)", np.sign, lambda g: zeros_like(g),
    "-1, 0 or 1 elementwise; its gradient is 0.", "sign([-3.0, 0.0, 2.0]) -> [-1.,  0.,  1.]")
floor = unary(None, np.floor, lambda g: zeros_like(g),
    "The largest whole number not above x, elementwise; its gradient is 0.",
    "floor([1.5, -1.5]) -> [ 1., -2.]")
ceil = unary(None, np.ceil, lambda g: zeros_like(g),
    "The smallest whole number not below x, elementwise; its gradient is 0.",
    "ceil([1.5, -1.5]) -> [ 2., -1.]")
trunc = unary(None, np.trunc, lambda g: zeros_like(g),
    "x without its fraction, elementwise; its gradient is 0.", "trunc([1.5, -1.5]) -> [ 1., -1.]")
round = unary(None, np.round, lambda g: zeros_like(g), by_hand=True)
square = unary("x * x", np.square, lambda g, x: g * (2.0 * x),
    "x² elementwise.", "square([1.0, -3.0]) -> [1., 9.]")
sqrt = unary("mg_sqrt(x)", None, lambda g, out: g / (2.0 * out),
    "The square root elementwise; NaN below 0, its gradient at 0 is inf.",
    "sqrt([1.0, 4.0]) -> [1., 2.]")
rsqrt = unary("1 / mg_sqrt(x)", None, lambda g, out: g * (-0.5 * (out * out * out)),
    "1 / sqrt(x) elementwise.", "rsqrt([1.0, 4.0]) -> [1. , 0.5]")
reciprocal = unary("1 / x", None, lambda g, out: -g * (out * out), by_hand=True)
relu = unary("0 if x <= 0 else x", lambda x: np.maximum(x, 0), lambda g, out: gate(g, out),
    "max(x, 0) elementwise; the gradient at ±0 is 0, NaN stays NaN.",
    "relu([-1.0, 2.0]) -> [0., 2.]")
exp = unary("mg_exp(x)", None, lambda g, out: g * out,
    "e**x elementwise.", "exp([0.0, 1.0]) -> [1.       , 2.7182817]")
exp2 = unary(None, np.exp2, lambda g, out: g * (LN_2 * out),
    "2**x elementwise.", "exp2([0.0, 3.0]) -> [1., 8.]")
expm1 = unary("mg_expm1(x)", None, lambda g, x: g * exp(x),
    "e**x - 1 elementwise, accurate near 0.",
    "expm1([0.0, 1e-6]) -> [0.0000000e+00, 1.0000005e-06]")
log = unary("mg_log(x)", None, lambda g, x: g / x,
    "The natural logarithm elementwise; -inf at 0, NaN below.",
    "log([1.0, 10.0]) -> [0.       , 2.3025851]", usual=0)
log2 = unary(None, np.log2, lambda g, x: g / (LN_2 * x),
    "The logarithm to base 2 elementwise; -inf at 0, NaN below.", "log2([1.0, 8.0]) -> [0., 3.]")
log10 = unary(None, np.log10, lambda g, x: g / (LN_10 * x),
    "The logarithm to base 10 elementwise; -inf at 0, NaN below.",
    "log10([1.0, 1000.0]) -> [0., 3.]")
log1p = unary("mg_log1p(x)", None, lambda g, x: g / (x + 1.0),
    "log(1 + x) elementwise, accurate near 0.", "log1p([0.0, 1.0]) -> [0.       , 0.6931472]",
    usual=1)
sin = unary(None, np.sin, lambda g, x: g * cos(x),
    "The sine of x in radians, elementwise.", "sin([0.0, 1.0]) -> [0.      , 0.841471]")
cos = unary(None, np.cos, lambda g, x: -g * sin(x),
    "The cosine of x in radians, elementwise.", "cos([0.0, 1.0]) -> [1.        , 0.54030234]")
sinc = unary(None, _np_sinc, lambda g, x: g * _sinc_slope(x),
    "sin(πx) / (πx) elementwise, 1 at 0.", "sinc([0.0, 0.5]) -> [1.       , 0.63661975]")
tan = unary(None, np.tan, lambda g, out: g * (1.0 + out * out),
    "The tangent of x in radians, elementwise.", "tan([0.0, 1.0]) -> [0.       , 1.5574077]")
asin = unary(None, np.arcsin, lambda g, x: g * rsqrt((1.0 - x) * (1.0 + x)),
    "The angle in [-π/2, π/2] whose sine is x, elementwise; NaN outside [-1, 1].",
    "asin([0.0, 1.0]) -> [0.       , 1.5707964]")
acos = unary(None, np.arccos, lambda g, x: -g * rsqrt((1.0 - x) * (1.0 + x)),
    "The angle in [0, π] whose cosine is x, elementwise; NaN outside [-1, 1].",
    "acos([0.0, 1.0]) -> [1.5707964, 0.       ]")
atan = unary(None, np.arctan, lambda g, x: g / (1.0 + x * x),
    "The angle in (-π/2, π/2) whose tangent is x, elementwise.",
    "atan([0.0, 1.0]) -> [0.       , 0.7853982]")
sinh = unary(None, np.sinh, lambda g, x: g * cosh(x),
    "The hyperbolic sine elementwise.", "sinh([0.0, 1.0]) -> [0.       , 1.1752012]")
cosh = unary(None, np.cosh, lambda g, x: g * sinh(x),
    "The hyperbolic cosine elementwise.", "cosh([0.0, 1.0]) -> [1.       , 1.5430806]")
tanh = unary("mg_tanh(x)", None, lambda g, x: g * tanh_slope(x),
    "The hyperbolic tangent elementwise.", "tanh([0.0, 1.0]) -> [0.       , 0.7615942]")
asinh = unary(None, np.arcsinh, lambda g, x: g / hypot(x, 1.0),
    "The inverse of sinh elementwise.", "asinh([0.0, 1.0]) -> [0.       , 0.8813736]")
acosh = unary(None, np.arccosh, lambda g, x: g * (rsqrt(x - 1.0) * rsqrt(x + 1.0)),
    "The inverse of cosh, elementwise; NaN below 1.",
    "acosh([1.0, 2.0]) -> [0.       , 1.3169578]")
atanh = unary(None, np.arctanh, lambda g, x: g / ((1.0 - x) * (1.0 + x)),
    "The inverse of tanh, elementwise; NaN outside [-1, 1].",
    "atanh([0.0, 0.5]) -> [0.       , 0.5493062]")
sigmoid = unary("mg_sigmoid(x)", None, lambda g, x: g * sigmoid_slope(x),
    "1 / (1 + e**-x) elementwise; neither end overflows.", "sigmoid([0.0, 100.0]) -> [0.5, 1. ]")
softplus = unary("mg_softplus(x)", None, lambda g, x: g * sigmoid(x),
    "log(1 + e**x) elementwise; no overflow for large x, no loss for small.",
    "softplus([0.0, 1000.0]) -> [6.9314718e-01, 1.0000000e+03]")
logsigmoid = unary("-mg_softplus(-x)", None, lambda g, x: g * sigmoid(-x),
    "log(sigmoid(x)) = -softplus(-x) elementwise.",
    "logsigmoid([0.0, -1000.0]) -> [-6.9314718e-01, -1.0000000e+03]")
erf = unary("mg_erf(x)", None, lambda g, x: g * (TWO_OVER_SQRT_PI * exp(-square(x))),
    "The error function 2/sqrt(pi) * integral of exp(-t²) from 0 to x, elementwise.",
    "erf([0.0, 1.0]) -> [0.       , 0.8427008]")
erfc = unary("mg_erfc(x)", None, lambda g, x: g * (-TWO_OVER_SQRT_PI * exp(-square(x))),
    "1 - erf(x) elementwise, accurate where erf rounds to 1.",
    "erfc([0.0, 5.0]) -> [1.0000000e+00, 1.5374597e-12]")
erfinv = unary("mg_erfinv(x)", None, lambda g, out: g * (exp(square(out)) / TWO_OVER_SQRT_PI),
    "The inverse of erf, elementwise; ±inf at ±1, NaN outside [-1, 1].",
    "erfinv([0.0, 0.5]) -> [0.        , 0.47693628]")
silu = unary("mg_silu(x)", None, lambda g, x: g * silu_slope(x),
    "x sigmoid(x), also called swish (Elfwing et al. 2018).",
    "silu([0.0, 1.0]) -> [0.       , 0.7310586]")
gelu = unary("mg_gelu(x)", None, lambda g, x: g * gelu_slope(x),
    "x Φ(x), with the normal distribution function Φ (Hendrycks & Gimpel 2016, exact form).",
    "gelu([0.0, 1.0]) -> [0.       , 0.8413447]")
mish = unary("mg_mish(x)", None, lambda g, x: g * mish_slope(x),
    "x tanh(softplus(x)) (Misra 2019).", "mish([0.0, 1.0]) -> [0.       , 0.8650984]", public=False)


def _sinc_slope(x):
    """(cos(πx) - sinc(x)) / x; below 1/4 by its series, as the difference cancels."""
    near = abs(x) < 0.25
    small, far, series = where(near, x, 0.0), where(near, 1.0, x), 0.0
    for k in range(9, 0, -1):
        term = (-1) ** k * 2 * k * math.pi ** (2 * k) / math.factorial(2 * k + 1)
        series = term + series * square(small)
    return where(near, small * series, (cos(math.pi * far) - sinc(far)) / far)


# ------------------------------ derivatives whose formula in the output would cancel in one tail
FAR = 1000  # where every slope is flat, but inf * 0 would be NaN
ONE_OVER_SQRT_2_PI = 1 / math.sqrt(2 * math.pi)


def _silu_curvature(x):
    x = clip(x, -FAR, FAR)
    return sigmoid_slope(x) * (2.0 - x * tanh(0.5 * x))


def _gelu_curvature(x):
    x = clip(x, -FAR, FAR)
    return exp(-0.5 * square(x)) * (ONE_OVER_SQRT_2_PI * (2.0 - square(x)))


def _mish_curvature(x):
    x = clip(x, -FAR, FAR)
    gate, inner = sigmoid(x), softplus(x)
    return tanh_slope(inner) * gate * (2.0 + x * (sigmoid(-x) - 2.0 * tanh(inner) * gate))


tanh_slope = unary("mg_tanh_slope(x)", None, lambda g, x, out: g * (out * (-2.0 * tanh(x))),
    "1 / cosh²(x) elementwise, the derivative of tanh: where tanh rounds to ±1, 1 - tanh² is 0.",
    "tanh_slope([0.0, 20.0]) -> [1.000000e+00, 1.699342e-17]", public=False)
sigmoid_slope = unary("mg_sigmoid_slope(x)", None, lambda g, x, out: -g * (out * tanh(0.5 * x)),
    "sigmoid(x) sigmoid(-x) elementwise, the derivative of sigmoid.",
    "sigmoid_slope([0.0, 20.0]) -> [2.5000000e-01, 2.0611537e-09]", public=False)
silu_slope = unary("mg_silu_slope(x)", None, lambda g, x: g * _silu_curvature(x),
    "The derivative of silu elementwise: 0 at -inf, 1 at inf.",
    "silu_slope([0.0, float('inf')]) -> [0.5, 1. ]", public=False)
gelu_slope = unary("mg_gelu_slope(x)", None, lambda g, x: g * _gelu_curvature(x),
    "The derivative of gelu elementwise: 0 at -inf, 1 at inf.",
    "gelu_slope([0.0, float('inf')]) -> [0.5, 1. ]", public=False)
mish_slope = unary("mg_mish_slope(x)", None, lambda g, x: g * _mish_curvature(x),
    "The derivative of mish elementwise: 0 at -inf, 1 at inf.",
    "mish_slope([0.0, float('inf')]) -> [0.6, 1. ]", public=False)


# --------------------------------------------------------------------------------- two inputs
def _share(x, y):
    """1 where x > y or either is NaN, one half where they are equal, 0 elsewhere."""
    like = x if isinstance(x, Tensor) else y
    return 1.0 - 0.5 * (astype(less(x, y), like.dtype) + astype(less_equal(x, y), like.dtype))


def _over(x, length):
    """x / length, and 0 where both are 0."""
    return x / (length + (length == 0))


add = binary("x + y", np.add, lambda g: g, lambda g: g,
    "x + y elementwise, broadcast.", "add([1.0, 2.0], 1) -> [2., 3.]", operator="add")
subtract = binary("x - y", np.subtract, lambda g: g, lambda g: -g,
    "x - y elementwise, broadcast.", "subtract([1.0, 2.0], 1) -> [0., 1.]", operator="sub")
multiply = binary("x * y", np.multiply, lambda g, y: g * y, lambda g, x: g * x,
    "x * y elementwise, broadcast.", "multiply([1.0, 2.0], 3) -> [3., 6.]", operator="mul")
divide = binary("x / y", np.divide, lambda g, y: g / y, lambda g, y, out: g * out / -y,
    "x / y elementwise, broadcast; x / 0 is inf or NaN as in IEEE 754. Integers give floats of the "
    "default dtype.",
    "divide([1.0, 2.0], 4) -> [0.25, 0.5 ]", operator="truediv")
pow = binary(None, np.power, lambda g, x, y: g * power_slope(x, y),
    lambda g, x, y, out: g * where(logical_or(x != 0, y < 0), out * log_of(x), 0.0), by_hand=True,
    operator="pow")
floor_divide = binary(None, np.floor_divide, lambda g: zeros_like(g), lambda g: zeros_like(g),
    "floor(x / y) elementwise, broadcast; its gradient is 0.",
    "floor_divide([5.0, -5.0], 2) -> [ 2., -3.]", operator="floordiv")
remainder = binary(None, np.remainder, lambda g: g, lambda g, x, y: -g * floor_divide(x, y),
    "x - y * floor(x / y) elementwise, broadcast: the remainder with the sign of y.",
    "remainder([5.0, -5.0], 3) -> [2., 1.]", operator="mod")
maximum = binary("x if (x > y) | (x != x) else y", np.maximum, lambda g, x, y: g * _share(x, y),
    lambda g, x, y: g * _share(y, x),
    "The larger of x and y elementwise, broadcast; NaN if either is. At a tie each gets half the "
    "gradient.",
    "maximum([1.0, 5.0], 3) -> [3., 5.]")
minimum = binary("x if (x < y) | (x != x) else y", np.minimum, lambda g, x, y: g * _share(y, x),
    lambda g, x, y: g * _share(x, y),
    "The smaller of x and y elementwise, broadcast; NaN if either is. At a tie each gets half "
    "the gradient.",
    "minimum([1.0, 5.0], 3) -> [1., 3.]")
atan2 = binary(None, np.arctan2, lambda g, x, y: g * _over(_over(y, hypot(x, y)), hypot(x, y)),
    lambda g, x, y: -g * _over(_over(x, hypot(x, y)), hypot(x, y)),
    "The angle in [-π, π] of the point with ordinate x and abscissa y, elementwise, broadcast. "
    "The gradient at the origin is 0, as in PyTorch.",
    "atan2([1.0, 1.0], [0.0, -1.0]) -> [1.5707964, 2.3561945]")
hypot = binary(None, np.hypot, lambda g, x, out: g * _over(x, out),
    lambda g, y, out: g * _over(y, out),
    "sqrt(x² + y²) elementwise, broadcast, without overflow. The gradient at the origin is 0.",
    "hypot([3.0, 0.0], [4.0, 0.0]) -> [5., 0.]")
logaddexp = binary(
    "x + 0.6931471805599453 if x == y else (x if x > y else y) + mg_softplus(-mg_abs(x - y))",
    np.logaddexp, lambda g, x, y: g * sigmoid(x - y), lambda g, x, y: g * sigmoid(y - x),
    "log(e**x + e**y) elementwise, broadcast, without overflow.",
    "logaddexp([0.0, 1000.0], 0.0) -> [6.9314718e-01, 1.0000000e+03]")
gate = binary("0 if y <= 0 else x", lambda x, y: np.where(y <= 0, 0, x), lambda g, y: gate(g, y),
    None,
    "x where the gate y is positive or NaN, 0 elsewhere: the gradient of relu. y gets no gradient.",
    "gate([1.0, 2.0], [-1.0, 1.0]) -> [0., 2.]", public=False)
weigh = binary("0 if (y == 0) & (x == x) else x * y", np.multiply, lambda g, y: weigh(g, y),
    lambda g, x, y: g * where(logical_and(y == 0, abs(x) == math.inf), 0.0, x),
    "x times a weight y elementwise, broadcast, where a weight of 0 makes an infinite x 0 as "
    "well: so a loss of -log(0) in a class that does not occur counts nothing. There y gets no "
    "gradient.",
    "weigh([float('inf'), 2.0], [0.0, 0.5]) -> [0., 1.]", public=False)


# -------------------------------------------------------------------------------- comparisons
less = comparison("x < y", np.less,
    "x < y elementwise, broadcast; bool.", "less([1.0, 2.0], 2) -> [ True, False]", operator="lt")
less_equal = comparison("x <= y", np.less_equal,
    "x <= y elementwise, broadcast; bool.", "less_equal([1.0, 2.0], 2) -> [ True,  True]",
    operator="le")
greater = comparison("x > y", np.greater,
    "x > y elementwise, broadcast; bool.", "greater([1.0, 2.0], 1) -> [False,  True]",
    operator="gt")
greater_equal = comparison("x >= y", np.greater_equal,
    "x >= y elementwise, broadcast; bool.", "greater_equal([1.0, 2.0], 1) -> [ True,  True]",
    operator="ge")
equal = comparison("x == y", np.equal,
    "x == y elementwise, broadcast; bool.", "equal([1.0, 2.0], 1) -> [ True, False]", operator="eq")
not_equal = comparison("x != y", np.not_equal,
    "x != y elementwise, broadcast; bool.", "not_equal([1.0, 2.0], 1) -> [False,  True]",
    operator="ne")


# ------------------------------------ special method: primitive, for the primitives of ops.pyx
operators = {"matmul": "matmul", "getitem": "getitem"}
