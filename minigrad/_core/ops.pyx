"""The table: one entry per primitive = kernel, gradient rule, docstring.

Design note
-----------
1. To read an entry: `cdef Op EXP_ = unary_op("exp", EXP, None, lambda g, out: g * out)` says that the
   kernel branch is EXP, that NumPy's np.exp serves integers, and that the cotangent g of the output
   becomes g * out for the input. The function below it is what users call.
2. A rule is written in Tensor operations, so its own gradient derives automatically. The names of its
   parameters are all that a Node keeps: `g` the cotangent; `out` the output; `x`, `y` the inputs;
   `shape` the first input's shape; `i` which input (variadic operations); or an attribute (`axis`).
3. Rules never undo broadcasting: the engine sums a gradient to its input's shape.
   Beside its rules, which are enough, a primitive may have `add_part`, which adds the cotangent of a
   pick into that of the whole in place, and `joint`, the sum of many gradients of a product at once.
4. `None` as a rule: no gradient flows there (a mask, a comparison).
5. Smooth functions whose composition has a kink or overflows are primitives (softplus, logsigmoid,
   logsumexp, log_softmax, erf, sigmoid). Everything else is composed, in functions.py.
"""
cimport numpy as cnp
from numpy cimport (NPY_BOOL, NPY_DOUBLE, NPY_FLOAT, NPY_INT64, PyArray_DATA, PyArray_DIMS,
                    PyArray_NDIM, PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, ndarray, npy_intp)

from . cimport loops
from .kernels cimport (
    ABS, ADD, CLIP, DIVIDE, EQUAL, ERF, EXP, EXPM1, GATE, GREATER, GREATER_EQUAL, LESS, LESS_EQUAL, LOG,
    LOG1P, LOGSIGMOID, LOGSUMEXP, MAX, MAXIMUM, MEAN, MIN, MINIMUM, MULTIPLY, NEGATIVE, NO_KERNEL,
    NOT_EQUAL, PROD, RECIPROCAL, RELU, RSQRT, SIGMOID, SIGN, SOFTPLUS, SQRT, SQUARE, SUBTRACT, SUM,
    TANH, VAR, WHERE)
from .loops cimport Operand
from .tensor cimport (Op, Tensor, binary, checked, install, record, record_view,
                      recording, repeated_axes, shape_of, to_tensor, unary, view_operand, wrap)

import math

import numpy as np

from .tensor import attach_methods, plain_index, register

cnp.import_array()

cdef double TWO_OVER_SQRT_PI = 2 / math.sqrt(math.pi)


cdef Op unary_op(str name, int opcode, object fallback, object rule):
    return register(name, opcode, fallback, (rule,))


cdef Op binary_op(str name, int opcode, object fallback, object rule_x=None, object rule_y=None):
    return register(name, opcode, fallback, (rule_x, rule_y), core_dims=0)


cdef Op reduction_op(str name, int opcode, object fallback, object rule):
    return register(name, opcode, fallback, (rule,), attributes=("axis", "keepdims", "correction"))


# ============================================================================== elementwise, one input
cdef Op NEGATIVE_ = unary_op("negative", NEGATIVE, np.negative, lambda g: -g)
def negative(x):
    """-x elementwise.

    >>> mg.negative(mg.tensor([1.0, -2.0]))
    tensor([-1.,  2.])
    """
    return unary(NEGATIVE_, x)


cdef Op ABS_ = unary_op("abs", ABS, np.abs, lambda g, x: g * sign(x))
def abs(x):
    """|x| elementwise; its gradient at 0 is 0.

    >>> mg.abs(mg.tensor([-1.5, 2.0]))
    tensor([1.5, 2. ])
    """
    return unary(ABS_, x)


cdef Op SIGN_ = unary_op("sign", SIGN, np.sign, lambda g: zeros_like(g))
def sign(x):
    """-1, 0 or 1 elementwise; its gradient is 0.

    >>> mg.sign(mg.tensor([-3.0, 0.0, 2.0]))
    tensor([-1.,  0.,  1.])
    """
    return unary(SIGN_, x)


cdef Op SQUARE_ = unary_op("square", SQUARE, np.square, lambda g, x: g * (2.0 * x))
def square(x):
    """x² elementwise.

    >>> mg.square(mg.tensor([1.0, -3.0]))
    tensor([1., 9.])
    """
    return unary(SQUARE_, x)


cdef Op SQRT_ = unary_op("sqrt", SQRT, None, lambda g, out: g / (2.0 * out))
def sqrt(x):
    """The square root elementwise; NaN below 0, its gradient at 0 is inf.

    >>> mg.sqrt(mg.tensor([1.0, 4.0]))
    tensor([1., 2.])
    """
    return unary(SQRT_, x)


cdef Op RSQRT_ = unary_op("rsqrt", RSQRT, None, lambda g, out: g * (-0.5 * (out * out * out)))
def rsqrt(x):
    """1 / sqrt(x) elementwise.

    >>> mg.rsqrt(mg.tensor([1.0, 4.0]))
    tensor([1. , 0.5])
    """
    return unary(RSQRT_, x)


cdef Op RECIPROCAL_ = unary_op("reciprocal", RECIPROCAL, np.reciprocal, lambda g, out: -g * (out * out))
def reciprocal(x):
    """1 / x elementwise.

    >>> mg.reciprocal(mg.tensor([2.0, 4.0]))
    tensor([0.5 , 0.25])
    """
    return unary(RECIPROCAL_, x)


cdef Op RELU_ = unary_op("relu", RELU, lambda x: np.maximum(x, 0), lambda g, out: gate(g, out))
def relu(x):
    """max(x, 0) elementwise; the gradient at ±0 is 0, NaN stays NaN.

    >>> mg.relu(mg.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return unary(RELU_, x)


cdef Op EXP_ = unary_op("exp", EXP, None, lambda g, out: g * out)
def exp(x):
    """e**x elementwise.

    >>> mg.exp(mg.tensor([0.0, 1.0]))
    tensor([1.       , 2.7182817])
    """
    return unary(EXP_, x)


cdef Op EXPM1_ = unary_op("expm1", EXPM1, None, lambda g, out: g * (out + 1.0))
def expm1(x):
    """e**x - 1 elementwise, accurate near 0.

    >>> mg.expm1(mg.tensor([0.0, 1e-6]))
    tensor([0.0000000e+00, 1.0000005e-06])
    """
    return unary(EXPM1_, x)


cdef Op LOG_ = unary_op("log", LOG, None, lambda g, x: g / x)
def log(x):
    """The natural logarithm elementwise; -inf at 0, NaN below.

    >>> mg.log(mg.tensor([1.0, 10.0]))
    tensor([0.       , 2.3025851])
    """
    return unary(LOG_, x)


cdef Op LOG1P_ = unary_op("log1p", LOG1P, None, lambda g, x: g / (x + 1.0))
def log1p(x):
    """log(1 + x) elementwise, accurate near 0.

    >>> mg.log1p(mg.tensor([0.0, 1.0]))
    tensor([0.       , 0.6931472])
    """
    return unary(LOG1P_, x)


cdef Op SIN_ = unary_op("sin", NO_KERNEL, np.sin, lambda g, x: g * cos(x))
def sin(x):
    """The sine of x in radians, elementwise.

    >>> mg.sin(mg.tensor([0.0, 1.0]))
    tensor([0.      , 0.841471])
    """
    return unary(SIN_, x)


cdef Op COS_ = unary_op("cos", NO_KERNEL, np.cos, lambda g, x: -g * sin(x))
def cos(x):
    """The cosine of x in radians, elementwise.

    >>> mg.cos(mg.tensor([0.0, 1.0]))
    tensor([1.        , 0.54030234])
    """
    return unary(COS_, x)


cdef Op TANH_ = unary_op("tanh", TANH, None, lambda g, out: g * (1.0 - out * out))
def tanh(x):
    """The hyperbolic tangent elementwise.

    >>> mg.tanh(mg.tensor([0.0, 1.0]))
    tensor([0.       , 0.7615942])
    """
    return unary(TANH_, x)


cdef Op SIGMOID_ = unary_op("sigmoid", SIGMOID, None, lambda g, out: g * (out * (1.0 - out)))
def sigmoid(x):
    """1 / (1 + e**-x) elementwise; neither end overflows.

    >>> mg.sigmoid(mg.tensor([0.0, 100.0]))
    tensor([0.5, 1. ])
    """
    return unary(SIGMOID_, x)


cdef Op SOFTPLUS_ = unary_op("softplus", SOFTPLUS, None, lambda g, x: g * sigmoid(x))
def softplus(x):
    """log(1 + e**x) elementwise; no overflow for large x, no loss for small.

    >>> mg.softplus(mg.tensor([0.0, 1000.0]))
    tensor([6.9314718e-01, 1.0000000e+03])
    """
    return unary(SOFTPLUS_, x)


cdef Op LOGSIGMOID_ = unary_op("logsigmoid", LOGSIGMOID, None, lambda g, x: g * sigmoid(-x))
def logsigmoid(x):
    """log(sigmoid(x)) = -softplus(-x) elementwise.

    >>> mg.logsigmoid(mg.tensor([0.0, -1000.0]))
    tensor([-6.9314718e-01, -1.0000000e+03])
    """
    return unary(LOGSIGMOID_, x)


cdef Op ERF_ = unary_op("erf", ERF, None, lambda g, x: g * (TWO_OVER_SQRT_PI * exp(-square(x))))
def erf(x):
    """The error function 2/sqrt(pi) * integral of exp(-t²) from 0 to x, elementwise.

    >>> mg.erf(mg.tensor([0.0, 1.0]))
    tensor([0.       , 0.8427008])
    """
    return unary(ERF_, x)


# ============================================================================= elementwise, two inputs
cdef Op ADD_ = binary_op("add", ADD, np.add, lambda g: g, lambda g: g)
def add(x, y):
    """x + y elementwise, broadcast.

    >>> mg.add(mg.tensor([1.0, 2.0]), 1)
    tensor([2., 3.])
    """
    return binary(ADD_, x, y)


cdef Op SUBTRACT_ = binary_op("subtract", SUBTRACT, np.subtract, lambda g: g, lambda g: -g)
def subtract(x, y):
    """x - y elementwise, broadcast.

    >>> mg.subtract(mg.tensor([1.0, 2.0]), 1)
    tensor([0., 1.])
    """
    return binary(SUBTRACT_, x, y)


cdef Op MULTIPLY_ = binary_op("multiply", MULTIPLY, np.multiply, lambda g, y: g * y, lambda g, x: g * x)
def multiply(x, y):
    """x * y elementwise, broadcast.

    >>> mg.multiply(mg.tensor([1.0, 2.0]), 3)
    tensor([3., 6.])
    """
    return binary(MULTIPLY_, x, y)


cdef Op DIVIDE_ = binary_op("divide", DIVIDE, np.divide, lambda g, y: g / y, lambda g, y, out: (g * out) / -y)
def divide(x, y):
    """x / y elementwise, broadcast; x / 0 is inf or NaN as in IEEE 754. Integers give float64, as in NumPy.

    >>> mg.divide(mg.tensor([1.0, 2.0]), 4)
    tensor([0.25, 0.5 ])
    """
    return binary(DIVIDE_, x, y)


cdef Op POW_ = binary_op("pow", NO_KERNEL, np.power, lambda g, x, y: g * power_slope(x, y),
                         lambda g, x, y, out: g * where(logical_or(x != 0, y < 0), out * log_of(x), 0.0))
def pow(x, y):
    """x ** y elementwise, broadcast; NaN for a negative x and a fractional y.

    >>> mg.pow(mg.tensor([1.0, 3.0]), 2)
    tensor([1., 9.])
    """
    if type(y) is int or type(y) is float:
        if y == 2:
            return unary(SQUARE_, x)
        if y == 0.5 and PyArray_TYPE(to_tensor(x, "pow").array) in (NPY_FLOAT, NPY_DOUBLE):
            return unary(SQRT_, x)
    return binary(POW_, x, y)


cdef object power_slope(x, y):
    """d(x**y)/dx = y x**(y - 1), and 0 where y is 0 and x is 0 or NaN."""
    if isinstance(y, Tensor):
        flat = logical_and(y == 0, logical_not(abs(x) > 0))
        return where(flat, 0.0, y * pow(where(flat, 1.0, x), y - 1))
    return zeros_like(x) if y == 0 else y * pow(x, y - 1)


cdef object log_of(x):
    if isinstance(x, Tensor):
        return log(x)
    return math.log(x) if x > 0 else (-math.inf if x == 0 else math.nan)


cdef Op FLOOR_DIVIDE_ = binary_op("floor_divide", NO_KERNEL, np.floor_divide,
                                  lambda g: zeros_like(g), lambda g: zeros_like(g))
def floor_divide(x, y):
    """floor(x / y) elementwise, broadcast; its gradient is 0.

    >>> mg.floor_divide(mg.tensor([5.0, -5.0]), 2)
    tensor([ 2., -3.])
    """
    return binary(FLOOR_DIVIDE_, x, y)


cdef Op REMAINDER_ = binary_op("remainder", NO_KERNEL, np.remainder,
                               lambda g: g, lambda g, x, y: -g * floor_divide(x, y))
def remainder(x, y):
    """x - y * floor(x / y) elementwise, broadcast: the remainder with the sign of y.

    >>> mg.remainder(mg.tensor([5.0, -5.0]), 3)
    tensor([2., 1.])
    """
    return binary(REMAINDER_, x, y)


cdef Op MAXIMUM_ = binary_op("maximum", MAXIMUM, np.maximum,
                             lambda g, x, y: g * share(x, y), lambda g, x, y: g * share(y, x))
def maximum(x, y):
    """The larger of x and y elementwise, broadcast; NaN if either is. At a tie each gets half the gradient.

    >>> mg.maximum(mg.tensor([1.0, 5.0]), 3)
    tensor([3., 5.])
    """
    return binary(MAXIMUM_, x, y)


cdef Op MINIMUM_ = binary_op("minimum", MINIMUM, np.minimum,
                             lambda g, x, y: g * share(y, x), lambda g, x, y: g * share(x, y))
def minimum(x, y):
    """The smaller of x and y elementwise, broadcast; NaN if either is. At a tie each gets half the gradient.

    >>> mg.minimum(mg.tensor([1.0, 5.0]), 3)
    tensor([1., 3.])
    """
    return binary(MINIMUM_, x, y)


cdef object share(x, y):
    """1 where x > y or either is NaN, one half where they are equal, 0 elsewhere."""
    like = x if isinstance(x, Tensor) else y
    return 1.0 - 0.5 * (astype(less(x, y), like.dtype) + astype(less_equal(x, y), like.dtype))


cdef Op GATE_ = binary_op("gate", GATE, lambda x, y: np.where(y <= 0, 0, x), lambda g, y: gate(g, y))
def gate(x, y):
    """x where the gate y is positive or NaN, 0 elsewhere: the gradient of relu. y gets no gradient.

    >>> mg.gate(mg.tensor([1.0, 2.0]), mg.tensor([-1.0, 1.0]))
    tensor([0., 2.])
    """
    return binary(GATE_, x, y)


# ---------------------------------------------------------------------------------------- comparisons
cdef Op LESS_ = binary_op("less", LESS, np.less)
def less(x, y):
    """x < y elementwise, broadcast; bool.

    >>> mg.less(mg.tensor([1.0, 2.0]), 2)
    tensor([ True, False])
    """
    return binary(LESS_, x, y)


cdef Op LESS_EQUAL_ = binary_op("less_equal", LESS_EQUAL, np.less_equal)
def less_equal(x, y):
    """x <= y elementwise, broadcast; bool.

    >>> mg.less_equal(mg.tensor([1.0, 2.0]), 2)
    tensor([ True,  True])
    """
    return binary(LESS_EQUAL_, x, y)


cdef Op GREATER_ = binary_op("greater", GREATER, np.greater)
def greater(x, y):
    """x > y elementwise, broadcast; bool.

    >>> mg.greater(mg.tensor([1.0, 2.0]), 1)
    tensor([False,  True])
    """
    return binary(GREATER_, x, y)


cdef Op GREATER_EQUAL_ = binary_op("greater_equal", GREATER_EQUAL, np.greater_equal)
def greater_equal(x, y):
    """x >= y elementwise, broadcast; bool.

    >>> mg.greater_equal(mg.tensor([1.0, 2.0]), 1)
    tensor([ True,  True])
    """
    return binary(GREATER_EQUAL_, x, y)


cdef Op EQUAL_ = binary_op("equal", EQUAL, np.equal)
def equal(x, y):
    """x == y elementwise, broadcast; bool.

    >>> mg.equal(mg.tensor([1.0, 2.0]), 1)
    tensor([ True, False])
    """
    return binary(EQUAL_, x, y)


cdef Op NOT_EQUAL_ = binary_op("not_equal", NOT_EQUAL, np.not_equal)
def not_equal(x, y):
    """x != y elementwise, broadcast; bool.

    >>> mg.not_equal(mg.tensor([1.0, 2.0]), 1)
    tensor([False,  True])
    """
    return binary(NOT_EQUAL_, x, y)


# =============================================================================== elementwise, three inputs
cdef Op WHERE_ = register("where", WHERE, np.where,
                          (None, lambda g, condition: where(condition, g, 0.0),
                           lambda g, condition: where(condition, 0.0, g)),
                          inputs=("condition", "x", "y"), core_dims=0)
def where(condition, x, y):
    """x where condition is true, y elsewhere, all three broadcast together. condition is bool.

    >>> mg.where(mg.tensor([True, False]), mg.tensor([1.0, 2.0]), 0.0)
    tensor([1., 0.])
    """
    cdef Operand operands[3]
    cdef Tensor mask = to_tensor(condition, "where"), a, b
    if PyArray_TYPE(mask.array) != NPY_BOOL:
        mask = not_equal(mask, 0)
    if (not isinstance(x, (Tensor, np.ndarray, np.generic))
            and not isinstance(y, (Tensor, np.ndarray, np.generic))):
        x = to_tensor(x, "where")           # two numbers: the first takes the default dtype
    for value in (x, y):
        to_tensor(value, "where")           # raises for what is no operand
    dtype = np.result_type(*[v.dtype if isinstance(v, (Tensor, np.ndarray, np.generic)) else v
                             for v in (x, y)])
    a, b = astype(to_tensor(x, "where"), dtype), astype(to_tensor(y, "where"), dtype)
    if dtype.kind != "f":
        return wrap(checked(np.where(mask.array, a.array, b.array)))
    view_operand(&operands[0], mask.array)
    view_operand(&operands[1], a.array)
    view_operand(&operands[2], b.array)
    typenum = PyArray_TYPE(a.array)
    out = loops.elementwise("where", WHERE, typenum == NPY_DOUBLE, typenum, operands, 3)
    return record(WHERE_, out, mask, a, (b,))


cdef Op CLIP_ = register("clip", CLIP, np.clip,
                         (lambda g, x, low, high: where(logical_and(x >= low, x <= high), g, 0.0),),
                         attributes=("low", "high"))
def clip(x, min=None, max=None):
    """x limited to [min, max]; the gradient inside and at the bounds is 1. A bound may be None, a
    number or a Tensor.

    >>> mg.clip(mg.tensor([-1.0, 0.5, 2.0]), 0, 1)
    tensor([0. , 0.5, 1. ])
    """
    cdef Operand operands[3]
    cdef Tensor tensor = to_tensor(x, "clip")
    cdef ndarray low, high
    if min is None and max is None:
        raise ValueError("clip: give min, max or both")
    for bound in (min, max):
        if not (bound is None or isinstance(bound, (int, float, np.generic, np.ndarray, Tensor))):
            raise TypeError(f"clip: a bound is None, a number or a Tensor, got {bound!r}")
    if isinstance(min, (Tensor, np.ndarray)) or isinstance(max, (Tensor, np.ndarray)):
        limited = tensor if min is None else where(tensor < min, min, tensor)
        return limited if max is None else where(limited > max, max, limited)
    typenum = PyArray_TYPE(tensor.array)
    if typenum != NPY_FLOAT and typenum != NPY_DOUBLE:
        return wrap(checked(np.clip(tensor.array, min, max)))
    low = np.asarray(-math.inf if min is None else min, tensor.array.dtype)
    high = np.asarray(math.inf if max is None else max, tensor.array.dtype)
    view_operand(&operands[0], tensor.array)
    view_operand(&operands[1], low)
    view_operand(&operands[2], high)
    out = loops.elementwise("clip", CLIP, typenum == NPY_DOUBLE, typenum, operands, 3)
    return record(CLIP_, out, tensor, None, None, (float(low), float(high)))


# ------------------------------------------------------------------------------------- logical, no gradient
cdef Tensor logical(str name, object ufunc, x, y):
    cdef Tensor a = to_tensor(x, name), b = to_tensor(y, name)
    try:
        return wrap(checked(ufunc(a.array, b.array)))
    except ValueError:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} do not broadcast") from None


def logical_and(x, y):
    """x and y elementwise, broadcast; bool. For bool tensors this is `x & y`.

    >>> mg.logical_and(mg.tensor([True, False]), mg.tensor([True, True]))
    tensor([ True, False])
    """
    return logical("logical_and", np.logical_and, x, y)


def logical_or(x, y):
    """x or y elementwise, broadcast; bool. For bool tensors this is `x | y`.

    >>> mg.logical_or(mg.tensor([True, False]), mg.tensor([False, False]))
    tensor([ True, False])
    """
    return logical("logical_or", np.logical_or, x, y)


def logical_xor(x, y):
    """Exactly one of x and y, elementwise, broadcast; bool. For bool tensors this is `x ^ y`.

    >>> mg.logical_xor(mg.tensor([True, False]), mg.tensor([True, True]))
    tensor([False,  True])
    """
    return logical("logical_xor", np.logical_xor, x, y)


def logical_not(x):
    """not x elementwise; bool. For bool tensors this is `~x`.

    >>> mg.logical_not(mg.tensor([True, False]))
    tensor([False,  True])
    """
    return wrap(checked(np.logical_not(to_tensor(x, "logical_not").array)))


# ================================================================================================ reductions
cdef bint ascending(tuple axes, int ndim):
    """Whether these are ints in order without negatives, as they mostly are."""
    cdef long last = -1, a
    for axis in axes:
        if type(axis) is not int:
            return False
        a = axis
        if not last < a < ndim:
            return False
        last = a
    return True


cdef tuple reduced_axes(str name, axis, int ndim):
    """`axis` (None, an int, or a tuple of them) as a sorted tuple without negatives."""
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    if type(axis) is tuple and ascending(axis, ndim):
        return axis
    if isinstance(axis, (bool, str, float)) or not isinstance(axis, (int, tuple, list, np.integer)):
        raise TypeError(f"{name}: axis must be None, an int or a tuple of ints, got {axis!r}")
    axes = []
    for a in (axis if isinstance(axis, (tuple, list)) else (axis,)):
        if isinstance(a, (bool, float, str)):
            raise TypeError(f"{name}: axis must be None, an int or a tuple of ints, got {axis!r}")
        if not -ndim <= a < ndim:
            raise np.exceptions.AxisError(f"{name}: axis {a} is out of bounds for a tensor of "
                                          f"{ndim} dimensions")
        axes.append(int(a) % ndim)
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name}: an axis stands twice in {axis}")
    return tuple(sorted(axes))


cdef object reduction(Op op, x, axis, bint keepdims, double correction=0):
    cdef Tensor tensor = to_tensor(x, op.name)
    cdef tuple axes
    cdef int ndim = PyArray_NDIM(tensor.array)
    cdef unsigned long long mask = 0
    cdef int typenum = PyArray_TYPE(tensor.array), d
    cdef ndarray out
    if axis is None:
        axes = ALL_AXES[ndim]
        mask = ~mask                        # bits beyond the last axis are not looked at
    else:
        axes = reduced_axes(op.name, axis, ndim)
        for d in axes:
            mask |= <unsigned long long> 1 << d
    if op.opcode == MAX or op.opcode == MIN:
        for d in axes:
            if PyArray_DIMS(tensor.array)[d] == 0:
                raise ValueError(f"{op.name}: axis {d} of shape {tensor.shape} is empty, "
                                 f"and nothing has no {op.name}")
    if typenum == NPY_FLOAT or typenum == NPY_DOUBLE:
        out = loops.reduce(op.opcode, tensor.array, mask, keepdims, correction)
    else:
        if op.opcode == LOGSUMEXP or op.opcode == VAR or op.opcode == MEAN:
            return reduction(op, astype(tensor, np.float64), axis, keepdims, correction)
        out = checked(op.fallback(tensor.array, axis=axes, keepdims=keepdims))
    return record(op, out, tensor, None, None, (axes, keepdims, correction))


cdef list ALL_AXES = [tuple(range(n)) for n in range(65)]


cdef object expand(Tensor g, tuple shape, tuple axis):
    """Bring the result of a reduction back to the shape that was reduced; a view."""
    if PyArray_NDIM(g.array) != len(shape):
        g = reshape(g, tuple([1 if d in axis else shape[d] for d in range(len(shape))]))
    return broadcast_to(g, shape)


cdef double elements(tuple shape, tuple axis) except? -1:
    """How many elements a reduction folds into one."""
    cdef double n = 1
    for d in axis:
        n *= shape[d]
    return n


cdef Tensor unbroadcast(Tensor g, unsigned long long repeated, int extra):
    """Sum g over the axes that broadcasting had repeated, the first `extra` of which it had added: the
    adjoint of broadcasting. Called by the engine."""
    cdef tuple shape = shape_of(g.array)
    cdef int d
    cdef tuple axes = tuple([d for d in range(len(shape)) if repeated >> d & 1])
    cdef Tensor total = reduction(SUM_, g, axes, extra == 0)
    if extra == 0 or len(axes) == extra:
        return total
    return reshape(total, tuple([1 if d in axes else shape[d] for d in range(extra, len(shape))]))


cdef object sum_to(Tensor g, tuple shape):
    """As `unbroadcast`, for the shape that g was broadcast from."""
    cdef npy_intp sizes[64]
    cdef int d
    for d in range(len(shape)):
        sizes[d] = shape[d]
    repeated = repeated_axes(sizes, len(shape), g.array, 0)
    return unbroadcast(g, repeated, g.array.ndim - len(shape)) if repeated else g


cdef Op SUM_ = reduction_op("sum", SUM, np.sum, lambda g, shape, axis: expand(g, shape, axis))
def sum(x, axis=None, keepdims=False):
    """The sum over all axes, one, or a tuple of them; 0 of nothing. Accumulates in double.

    >>> mg.sum(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    tensor([4., 6.])
    """
    return reduction(SUM_, x, axis, keepdims)


cdef Op MEAN_ = reduction_op("mean", MEAN, np.mean,
                             lambda g, shape, axis:
                             expand(g * (1 / (elements(shape, axis) or 1)), shape, axis))
def mean(x, axis=None, keepdims=False):
    """The arithmetic mean; NaN of nothing.

    >>> mg.mean(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=1)
    tensor([1.5, 3.5])
    """
    return reduction(MEAN_, x, axis, keepdims)


cdef Op VAR_ = reduction_op("var", VAR, np.var,
                            lambda g, x, axis, correction:
                            expand(g * slope_of_var(x.shape, axis, correction), x.shape, axis)
                            * (x - mean(x, axis, True)))
def var(x, axis=None, correction=0, keepdims=False):
    """The variance: the sum of (x - mean)² over (n - correction). correction=1 is the unbiased estimate.

    >>> mg.var(mg.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor(1.25)
    """
    return reduction(VAR_, x, axis, keepdims, correction)


cdef double slope_of_var(tuple shape, tuple axis, double correction) except? -1:
    cdef double count = elements(shape, axis)
    if count == 0:
        return 0                            # no element, so no gradient
    return 2 / (count - correction) if count > correction else math.nan


cdef Op PROD_ = reduction_op("prod", PROD, np.prod,
                             lambda g, x, out, axis: expand(g, x.shape, axis) * others(x, out, axis))
def prod(x, axis=None, keepdims=False):
    """The product; 1 of nothing. Its gradient is exact with zeros too.

    >>> mg.prod(mg.tensor([2.0, 3.0, 4.0]))
    tensor(24.)
    """
    return reduction(PROD_, x, axis, keepdims)


cdef object others(x, out, tuple axis):
    """For each element the product of all others. Division does it unless there is a zero; then each
    element gets a row of its own, with itself replaced by 1 (n² memory, but right to any order)."""
    if bool(np.all((<Tensor> x).array)):
        return expand(out, x.shape, axis) / x
    kept = [d for d in range(x.ndim) if d not in axis]
    moved = permute_dims(x, tuple(kept) + axis)
    rows = reshape(moved, tuple([x.shape[d] for d in kept]) + (1, -1))
    n = rows.shape[len(rows.shape) - 1]
    product = prod(where(wrap(np.eye(n, dtype=bool)), 1.0, rows), axis=-1)
    back = np.argsort(tuple(kept) + axis)
    return permute_dims(reshape(product, moved.shape), tuple([int(d) for d in back]))


cdef Op MAX_ = reduction_op("max", MAX, np.max, lambda g, x, out, axis: share_ties(g, x, out, axis))
def max(x, axis=None, keepdims=False):
    """The largest element; a NaN wins. Ties share the gradient evenly. Raises ValueError for nothing.

    >>> mg.max(mg.tensor([[1.0, 5.0], [3.0, 4.0]]), axis=1)
    tensor([5., 4.])
    """
    return reduction(MAX_, x, axis, keepdims)


cdef Op MIN_ = reduction_op("min", MIN, np.min, lambda g, x, out, axis: share_ties(g, x, out, axis))
def min(x, axis=None, keepdims=False):
    """The smallest element; a NaN wins. Ties share the gradient evenly. Raises ValueError for nothing.

    >>> mg.min(mg.tensor([[1.0, 5.0], [3.0, 4.0]]), axis=1)
    tensor([1., 3.])
    """
    return reduction(MIN_, x, axis, keepdims)


cdef object share_ties(g, x, out, tuple axis):
    hit = astype(x == expand(out, x.shape, axis), x.dtype)
    return expand(g, x.shape, axis) * (hit / sum(hit, axis, True))


cdef Op LOGSUMEXP_ = reduction_op("logsumexp", LOGSUMEXP, None,
                                  lambda g, x, out, axis:
                                  expand(g, x.shape, axis) * exp(x - expand(out, x.shape, axis)))
def logsumexp(x, axis=None, keepdims=False):
    """log(sum(exp(x))), without overflow; -inf of nothing.

    >>> mg.logsumexp(mg.tensor([1000.0, 1000.0]))
    tensor(1000.6931)
    """
    return reduction(LOGSUMEXP_, x, axis, keepdims)


cdef Op LOG_SOFTMAX_ = register("log_softmax", NO_KERNEL, None,
                                (lambda g, out, axis: g - exp(out) * sum(g, axis, True),),
                                attributes=("axis",))
def log_softmax(x, axis=-1):
    """x - logsumexp(x) along one axis: the logarithm of softmax.

    >>> mg.log_softmax(mg.tensor([0.0, 0.0]))
    tensor([-0.6931472, -0.6931472])
    """
    cdef Operand operands[2]
    cdef Tensor tensor = floating(x, "log_softmax")
    cdef tuple axes = reduced_axes("log_softmax", axis, PyArray_NDIM(tensor.array))
    if len(axes) != 1:
        raise ValueError(f"log_softmax: expected one axis, got {axis}")
    cdef unsigned long long mask = <unsigned long long> 1 << <int> axes[0]
    cdef int typenum = PyArray_TYPE(tensor.array)
    if PyArray_SIZE(tensor.array) == 0:
        return record(LOG_SOFTMAX_, tensor.array.copy(), tensor, None, None, axes)
    # (x - max) - log(sum(exp(x - max))): the sum's logarithm is small, and keeps its digits beside a large x
    cdef ndarray largest = loops.reduce(MAX, tensor.array, mask, True, 0), total, out
    view_operand(&operands[0], tensor.array)
    view_operand(&operands[1], largest)
    out = loops.elementwise("log_softmax", SUBTRACT, typenum == NPY_DOUBLE, typenum, operands, 2)
    total = loops.reduce(LOGSUMEXP, out, mask, True, 0)
    view_operand(&operands[0], out)
    view_operand(&operands[1], total)
    out = loops.elementwise("log_softmax", SUBTRACT, typenum == NPY_DOUBLE, typenum, operands, 2)
    return record(LOG_SOFTMAX_, out, tensor, None, None, axes)


cdef Tensor floating(x, str name):
    """x as a float32 or float64 Tensor; integers become float64, as in NumPy."""
    cdef Tensor tensor = to_tensor(x, name)
    if PyArray_TYPE(tensor.array) == NPY_FLOAT or PyArray_TYPE(tensor.array) == NPY_DOUBLE:
        return tensor
    return astype(tensor, np.float64)


# ===================================================================================================== shape
cdef Op RESHAPE_ = register("reshape", NO_KERNEL, None, (lambda g, shape: reshape(g, shape),))
def reshape(x, *shape):
    """The same elements in C order in another shape; one size may be -1. A view where possible.

    >>> mg.reshape(mg.arange(4), (2, 2))
    tensor([[0, 1],
            [2, 3]])
    """
    cdef Tensor tensor = to_tensor(x, "reshape")
    target = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    try:
        if cnp.PyArray_IS_C_CONTIGUOUS(tensor.array) or OLD_NUMPY:
            out = tensor.array.reshape(target)
        else:
            out = reshaped(tensor.array, tuple(target))
    except (ValueError, TypeError):
        raise type_or_value(target)(f"reshape: a tensor of shape {tensor.shape} ({tensor.size} elements) "
                                    f"cannot take the shape {tuple(target)}") from None
    if PyArray_DATA(out) != PyArray_DATA(tensor.array):      # a copy, whose writes x does not see
        return record(RESHAPE_, out, tensor)
    return record_view(RESHAPE_, out, tensor)


cdef bint OLD_NUMPY = np.lib.NumpyVersion(np.__version__) < "2.1.0"


cdef ndarray reshaped(ndarray array, tuple target):
    """A view if there is one, else a copy in memory that is used again, as NumPy's is not."""
    try:
        return (<object> array).reshape(target, copy=False)
    except ValueError:                      # no view; or a shape that is wrong anyway
        known = math.prod([n for n in target if n != -1])
        sizes = tuple([array.size // (known or 1) if n == -1 else n for n in target])
        if math.prod(sizes) != array.size or len(sizes) > 64 or any([n < 0 for n in sizes]):
            return (<object> array).reshape(target)
    out = loops.empty_of(sizes, PyArray_TYPE(array))
    np.copyto(out.reshape((<object> array).shape), array)
    return out


cdef object type_or_value(target):
    return ValueError if all([isinstance(n, (int, np.integer)) for n in target]) else TypeError


cdef Op PERMUTE_DIMS_ = register("permute_dims", NO_KERNEL, None,
                                 (lambda g, axes: permute_dims(g, inverse(axes)),), attributes=("axes",))
def permute_dims(x, axes):
    """The dimensions in another order; a view.

    >>> mg.permute_dims(mg.zeros((2, 3, 4)), (2, 0, 1)).shape
    (4, 2, 3)
    """
    cdef Tensor tensor = to_tensor(x, "permute_dims")
    cdef int ndim = PyArray_NDIM(tensor.array)
    if not isinstance(axes, (tuple, list)):
        raise TypeError(f"permute_dims: axes must be a tuple of ints, got {axes!r}")
    if reduced_axes("permute_dims", tuple(axes), ndim) != ALL_AXES[ndim]:
        raise ValueError(f"permute_dims: axes {tuple(axes)} must name each of the {ndim} dimensions once")
    axes = tuple([a % ndim for a in axes])
    return record_view(PERMUTE_DIMS_, tensor.array.transpose(axes), tensor, (axes,))


cdef tuple inverse(tuple axes):
    cdef list order = [0] * len(axes)
    for i, a in enumerate(axes):
        order[a] = i
    return tuple(order)


cdef Op BROADCAST_TO_ = register("broadcast_to", NO_KERNEL, None, (lambda g, shape: sum_to(g, shape),))
def broadcast_to(x, shape):
    """x repeated along dimensions of size 1 and new leading ones, without a copy; the view is read-only.

    >>> mg.broadcast_to(mg.tensor([1.0, 2.0]), (2, 2))
    tensor([[1., 2.],
            [1., 2.]])
    """
    cdef Tensor tensor = to_tensor(x, "broadcast_to")
    cdef npy_intp sizes[64]
    cdef npy_intp strides[64]
    cdef int ndim, extra, d
    if not isinstance(shape, tuple):
        shape = sizes_of(shape, "broadcast_to")
    ndim = len(shape)
    extra = ndim - PyArray_NDIM(tensor.array)
    if ndim > 64:
        raise ValueError(f"broadcast_to: a tensor has at most 64 dimensions, not {ndim}")
    for d in range(ndim):
        if type(shape[d]) is not int or shape[d] < 0:
            sizes_of(shape, "broadcast_to")
        sizes[d] = shape[d]
        strides[d] = 0
        if d >= extra >= 0:
            if PyArray_DIMS(tensor.array)[d - extra] == sizes[d]:
                strides[d] = PyArray_STRIDES(tensor.array)[d - extra]
            elif PyArray_DIMS(tensor.array)[d - extra] != 1:
                extra = -1
    if extra < 0:
        raise ValueError(f"broadcast_to: shape {tensor.shape} does not broadcast to {tuple(shape)}")
    return record_view(BROADCAST_TO_, strided_view(tensor.array, ndim, sizes, strides), tensor)


cdef tuple sizes_of(shape, str name):
    """A shape given as an int or a sequence of ints, as a tuple; anything else raises."""
    sizes = (shape,) if isinstance(shape, (int, np.integer)) else shape
    if (not isinstance(sizes, (tuple, list))
            or not all([isinstance(n, (int, np.integer)) and n is not True for n in sizes])):
        raise TypeError(f"{name}: a shape is an int or a tuple of ints, got {shape!r}")
    if any([n < 0 for n in sizes]):
        raise ValueError(f"{name}: a size cannot be negative, got {shape!r}")
    return tuple([int(n) for n in sizes])


cdef ndarray strided_view(ndarray base, int ndim, npy_intp* sizes, npy_intp* strides):
    """A read-only array on the memory of `base` (np.broadcast_to took 5 us, this takes 0.1)."""
    cdef ndarray view = cnp.PyArray_New(ndarray, ndim, sizes, PyArray_TYPE(base), strides, PyArray_DATA(base),
                                        0, cnp.NPY_ARRAY_ALIGNED, None)
    cnp.set_array_base(view, base)
    return view


cdef Op ASTYPE_ = register("astype", NO_KERNEL, None, (lambda g, source: astype(g, source),),
                           attributes=("source",))
def astype(x, dtype):
    """x in another dtype; x itself if it has that dtype. The gradient comes back in the dtype of x.

    >>> mg.astype(mg.tensor([1.7, -1.7]), mg.int64)
    tensor([ 1, -1])
    """
    cdef Tensor tensor = to_tensor(x, "astype")
    cdef ndarray out
    if tensor.array.dtype is dtype or tensor.array.dtype == dtype:
        return tensor
    with np.errstate(all="ignore"):
        out = checked(tensor.array.astype(dtype))
    if out.dtype.kind != "f":
        return wrap(out)
    return record(ASTYPE_, out, tensor, None, None, (tensor.array.dtype,))


cdef Op GETITEM_ = register("getitem", NO_KERNEL, None, (lambda g, shape, index: put(g, index, shape),),
                            attributes=("index",))
GETITEM_.add_part = add_picked
def getitem(x, index):
    """x[index], as in NumPy: integers, slices, None and Ellipsis give a view, integer and bool arrays a copy.

    >>> mg.getitem(mg.tensor([1.0, 2.0, 3.0]), slice(1, None))
    tensor([2., 3.])
    """
    cdef Tensor tensor = to_tensor(x, "x[index]")
    cdef int axis = 0
    index = plain_index(index)
    if is_basic(index):
        if not isinstance(index, tuple):
            index = (index,)
        view = tensor.array[index if Ellipsis in index else index + (Ellipsis,)]
        return record_view(GETITEM_, view, tensor, (index,))
    positions = picked_slices(index, &axis)
    if positions is not None and axis < PyArray_NDIM(tensor.array):
        out = loops.take_slices("x[index]", contiguous(tensor.array), positions, axis)
    else:
        out = np.asarray(tensor.array[index])
    if tensor.requires and recording():
        index = own_index(index)            # the caller may write to its index arrays before backward
    return record(GETITEM_, out, tensor, None, None, (index,))


cdef object own_index(index):
    if isinstance(index, tuple):
        return tuple([own_index(part) for part in index])
    if isinstance(index, np.ndarray):
        return index.copy()
    return list(index) if isinstance(index, list) else index


cdef bint is_basic(index):
    if isinstance(index, tuple):
        for part in index:
            if type(part) is slice or type(part) is int:
                continue
            if (not (part is None or part is Ellipsis or isinstance(part, (int, slice, np.integer)))
                    or isinstance(part, bool)):
                return False
        return True
    return ((index is None or index is Ellipsis or isinstance(index, (int, slice, np.integer)))
            and not isinstance(index, bool))


cdef ndarray picked_slices(index, int* axis):
    """The integer array (C-contiguous, int64) of an index that has only full slices beside it, before it;
    else None."""
    if type(index) is tuple:
        for part in index[:-1]:
            if type(part) is not slice or part != slice(None):
                return None
        axis[0] = len(index) - 1
        index = index[-1] if index else None
    if isinstance(index, np.ndarray) and index.dtype.kind == "i":
        return index.astype(np.int64, order="C", copy=False)
    return None


cdef void add_at(ndarray out, object index, ndarray addend) except *:
    """out[index] += addend; where an index stands twice both are added."""
    cdef int axis = 0
    cdef ndarray positions = picked_slices(index, &axis)
    if is_basic(index):
        if not isinstance(index, tuple):
            index = (index,)
        view = out[index if Ellipsis in index else index + (Ellipsis,)]
        view += addend
    elif (positions is not None and axis < PyArray_NDIM(out)
          and PyArray_TYPE(out) in (NPY_FLOAT, NPY_DOUBLE) and PyArray_TYPE(out) == PyArray_TYPE(addend)
          and shape_of(addend) == shape_of(out)[:axis] + shape_of(positions) + shape_of(out)[axis + 1:]):
        loops.add_slices("put", contiguous(addend), positions, axis, out)
    elif isinstance(index, np.ndarray) and index.dtype == bool:
        out[index] += addend
    else:
        np.add.at(out, index, addend)


cdef void add_picked(ndarray whole, ndarray part, tuple attributes) except *:
    add_at(whole, attributes[0], part)


cdef Op PUT_ = register("put", NO_KERNEL, None, (lambda g, index: getitem(g, index),), attributes=("index",))
def put(x, index, shape):
    """Zeros of `shape` with x added at [index]; where an index stands twice both are added. The adjoint of
    x[index].

    >>> mg.put(mg.tensor([1.0, 2.0]), mg.tensor([0, 0]), (3,))
    tensor([3., 0., 0.])
    """
    cdef Tensor tensor = to_tensor(x, "put")
    cdef ndarray out = np.zeros(sizes_of(shape, "put"), tensor.array.dtype)
    index = plain_index(index)
    try:
        add_at(out, index, tensor.array)
    except (ValueError, IndexError) as error:
        raise type(error)(f"put: shape {tensor.shape} at {index!r} of shape {shape}: {error}") from None
    return record(PUT_, out, tensor, None, None, (index,))


cdef Op TAKE_ALONG_AXIS_ = register("take_along_axis", NO_KERNEL, None,
                                    (lambda g, shape, indices, axis:
                                     add_along_axis(g, indices, axis, shape),),
                                    attributes=("indices", "axis"))
def take_along_axis(x, indices, axis=-1):
    """x at the positions that the integer `indices` give along an axis; in the other dimensions both
    have the same sizes. A negative index counts from the end. Raises IndexError out of bounds.

    >>> mg.take_along_axis(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), mg.tensor([[1], [0]]), axis=1)
    tensor([[2.],
            [3.]])
    """
    cdef Tensor tensor = to_tensor(x, "take_along_axis")
    cdef Positions kept = integer_positions("take_along_axis", indices, tensor.array.ndim)
    cdef ndarray positions = kept.array
    cdef int d, along = reduced_axes("take_along_axis", axis, PyArray_NDIM(tensor.array))[0]
    for d in range(PyArray_NDIM(positions)):
        if d != along and PyArray_DIMS(positions)[d] != PyArray_DIMS(tensor.array)[d]:
            raise ValueError(f"take_along_axis: indices of shape {(<object> positions).shape} and x of shape "
                             f"{tensor.shape} differ in more than axis {along}")
    out = loops.take_along_axis("take_along_axis", contiguous(tensor.array), positions, along)
    return record(TAKE_ALONG_AXIS_, out, tensor, None, None, (kept, along))


cdef Op ADD_ALONG_AXIS_ = register("add_along_axis", NO_KERNEL, None,
                                   (lambda g, indices, axis: take_along_axis(g, indices, axis),),
                                   attributes=("indices", "axis"))
def add_along_axis(x, indices, axis, shape):
    """Zeros of `shape` with x added at the positions that `indices`, of the shape of x, give along an axis:
    the adjoint of `take_along_axis`.

    >>> mg.add_along_axis(mg.tensor([[1.0, 2.0]]), mg.tensor([[0, 0]]), 1, (1, 3))
    tensor([[3., 0., 0.]])
    """
    cdef Tensor tensor = to_tensor(x, "add_along_axis")
    cdef Positions kept = integer_positions("add_along_axis", indices, tensor.array.ndim)
    cdef ndarray positions = kept.array
    cdef tuple sizes = sizes_of(shape, "add_along_axis")
    cdef int along = reduced_axes("add_along_axis", axis, PyArray_NDIM(tensor.array))[0]
    if (tensor.shape != (<object> positions).shape or len(sizes) != tensor.array.ndim
            or sizes[:along] + sizes[along + 1:] != tensor.shape[:along] + tensor.shape[along + 1:]):
        raise ValueError(f"add_along_axis: x {tensor.shape}, indices {(<object> positions).shape} "
                         f"and shape {sizes} must agree but for axis {along} of the last")
    if tensor.array.dtype.kind != "f":
        grid = list(np.indices((<object> positions).shape))
        grid[along] = positions
        return put(tensor, tuple(grid), sizes)
    out = loops.add_along_axis("add_along_axis", contiguous(tensor.array), positions, along, sizes)
    return record(ADD_ALONG_AXIS_, out, tensor, None, None, (kept, along))


cdef ndarray contiguous(ndarray array):
    return array if cnp.PyArray_IS_C_CONTIGUOUS(array) else loops.copied(array)


cdef class Positions:
    """Integer indices as a C-contiguous int64 array of our own, which nobody else can write to."""
    cdef ndarray array


cdef Positions integer_positions(str name, indices, int ndim):
    cdef Positions positions
    cdef ndarray array
    if isinstance(indices, Positions):      # from a Node: its rule passes them on
        return indices
    array = (<Tensor> indices).array if isinstance(indices, Tensor) else np.asarray(indices)
    if PyArray_TYPE(array) != NPY_INT64 and array.dtype.kind not in "iu":
        raise TypeError(f"{name}: indices must be integers, got {array.dtype}")
    if PyArray_NDIM(array) != ndim:
        raise ValueError(f"{name}: indices have {PyArray_NDIM(array)} dimensions, x has {ndim}")
    positions = Positions.__new__(Positions)
    positions.array = (cnp.PyArray_NewCopy(array, cnp.NPY_CORDER)
                       if PyArray_TYPE(array) == NPY_INT64 and cnp.PyArray_ISBEHAVED_RO(array)
                       else array.astype(np.int64, order="C"))
    return positions


cdef Op CONCAT_ = register("concat", NO_KERNEL, None,
                           (lambda g, axis, offsets, i: section(g, axis, offsets, i),),
                           attributes=("axis", "offsets"), variadic=True)
def concat(arrays, axis=0):
    """Join tensors along an existing axis; with axis=None they are flattened first.

    >>> mg.concat([mg.tensor([1.0]), mg.tensor([2.0, 3.0])])
    tensor([1., 2., 3.])
    """
    if isinstance(arrays, Tensor) or not isinstance(arrays, (list, tuple)) or not arrays:
        raise TypeError(f"concat: expected a non-empty list or tuple of Tensors, got {arrays!r:.60}")
    cdef Tensor first, t
    cdef npy_intp length = 0
    cdef int ndim, along, d, typenum
    cdef bint fits
    cdef list tensors = [to_tensor(a, "concat") for a in arrays], offsets = [0]
    if axis is None:
        tensors, axis = [reshape(t, -1) for t in tensors], 0
    first = tensors[0]
    ndim, typenum = PyArray_NDIM(first.array), PyArray_TYPE(first.array)
    if any([PyArray_TYPE((<Tensor> a).array) != typenum for a in tensors]):
        dtype = np.result_type(*[a.dtype for a in tensors])
        return concat([astype(a, dtype) for a in tensors], axis)
    if len(tensors) > 62:                   # a Node marks the inputs that need a gradient in 64 bits
        return concat([concat(tensors[k:k + 62], axis) for k in range(0, len(tensors), 62)], axis)
    if ndim == 0:
        raise ValueError("concat: 0-d tensors have no axis to join along; use mg.stack")
    along = reduced_axes("concat", axis, ndim)[0]
    for t in tensors:
        fits = PyArray_NDIM(t.array) == ndim
        for d in range(ndim if fits else 0):
            fits = fits and (d == along or PyArray_DIMS(t.array)[d] == PyArray_DIMS(first.array)[d])
        if not fits:
            raise ValueError(f"concat: shapes {first.shape} and {t.shape} differ in more than axis {along}")
        length += PyArray_DIMS(t.array)[along]
        offsets.append(length)
    out = loops.joined([(<Tensor> a).array for a in tensors], along, length)
    more = tuple(tensors[2:]) if len(tensors) > 2 else None
    return record(CONCAT_, out, first, tensors[1] if len(tensors) > 1 else None, more,
                  (along, tuple(offsets)))


cdef object section(g, int axis, tuple offsets, int i):
    return getitem(g, (slice(None),) * axis + (slice(offsets[i], offsets[i + 1]),))


# ================================================================================================== matrices
cdef Op MATMUL_ = register("matmul", NO_KERNEL, np.matmul,
                           (lambda g, y: matmul(g, matrix_transpose(y)),
                            lambda g, x: matmul(matrix_transpose(x), g)),
                           core_dims=2)
MATMUL_.joint = (lambda gs, ys: matmul(concat(gs, 1), matrix_transpose(concat(ys, 1))),
                 lambda gs, xs: matmul(matrix_transpose(concat(xs)), concat(gs)))
def matmul(x, y):
    """The matrix product x @ y as in NumPy: (..., n, k) @ (..., k, m) -> (..., n, m); leading dimensions
    broadcast, a 1-d operand is a row on the left or a column on the right.

    >>> mg.matmul(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), mg.tensor([1.0, 1.0]))
    tensor([3., 7.])
    """
    cdef Tensor a = to_tensor(x, "matmul"), b = to_tensor(y, "matmul")
    cdef int n = PyArray_NDIM(a.array), m = PyArray_NDIM(b.array)
    if n == 0 or m == 0:
        raise ValueError(f"matmul: {a.shape} @ {b.shape}: a 0-d operand; use * for scalars")
    if PyArray_DIMS(a.array)[n - 1] != PyArray_DIMS(b.array)[m - 2 if m > 1 else 0]:
        raise ValueError(matmul_error(a, b))
    if PyArray_TYPE(a.array) != PyArray_TYPE(b.array):
        dtype = np.result_type(a.array.dtype, b.array.dtype)
        a, b = astype(a, dtype), astype(b, dtype)
    if n == 1:
        product = matmul(reshape(a, (1, -1)), b)
        return reshape(product, product.shape[:-2] + product.shape[-1:] if m > 1 else ())
    if m == 1:
        product = matmul(a, reshape(b, (-1, 1)))
        return reshape(product, product.shape[:-1])
    if n > 2 and m == 2:                    # one large product instead of many small ones
        product = matmul(reshape(a, (math.prod(a.shape[:-1]), a.shape[-1])), b)
        return reshape(product, a.shape[:-1] + b.shape[-1:])
    if a.array.dtype.kind != "f":
        return wrap(checked(np.matmul(a.array, b.array)))
    try:
        out = loops.matmul(a.array, b.array)
    except ValueError:
        raise ValueError(f"matmul: {a.shape} @ {b.shape}: the leading dimensions do not broadcast") from None
    return record(MATMUL_, out, a, b)


cdef str matmul_error(Tensor a, Tensor b):
    left, right = a.shape[-1], b.shape[-2] if len(b.shape) > 1 else b.shape[0]
    message = f"matmul: {a.shape} @ {b.shape}: inner sizes {left} and {right} differ"
    if len(b.shape) > 1 and b.shape[-1] == left:
        message += "; did you mean w.T?" if len(b.shape) == 2 else "; did you mean w.mT?"
    elif len(a.shape) > 1 and a.shape[-2] == right:
        message += "; did you mean x.T on the left?"
    return message


def matrix_transpose(x):
    """The last two dimensions exchanged; a view.

    >>> mg.matrix_transpose(mg.zeros((5, 2, 3))).shape
    (5, 3, 2)
    """
    cdef Tensor tensor = to_tensor(x, "matrix_transpose")
    cdef int n = PyArray_NDIM(tensor.array)
    if n < 2:
        raise ValueError(f"matrix_transpose: expected two or more dimensions, got shape {tensor.shape}")
    axes = ALL_AXES[n - 2] + (n - 1, n - 2)
    return record_view(PERMUTE_DIMS_, cnp.PyArray_SwapAxes(tensor.array, n - 2, n - 1), tensor, (axes,))


cdef Op LINEAR_ = register("linear", NO_KERNEL, None,
                           (lambda g, weight: matmul(g, weight),
                            lambda g, x: matmul(matrix_transpose(g), x),
                            lambda g: sum(g, 0)),
                           inputs=("x", "weight", "bias"))
LINEAR_.joint = (None, lambda gs, xs: matmul(matrix_transpose(concat(gs)), concat(xs)))
def linear(x, weight, bias=None):
    """x @ weight.T + bias for weight (out, in), bias (out,) or None, x (..., in) -> (..., out). A
    primitive of its own: the gradient of weight comes out in the layout of weight, and the bias is added
    in place.

    >>> mg.linear(mg.tensor([[1.0, 2.0]]), mg.tensor([[1.0, 1.0], [0.0, 1.0], [2.0, 0.0]]))
    tensor([[3., 2., 2.]])
    """
    cdef Tensor a = to_tensor(x, "linear"), w = to_tensor(weight, "linear")
    cdef Tensor b = None if bias is None else to_tensor(bias, "linear")
    cdef int n = PyArray_NDIM(a.array)
    cdef int typenum = PyArray_TYPE(w.array)
    cdef ndarray out
    if (PyArray_NDIM(w.array) != 2 or n == 0 or PyArray_DIMS(a.array)[n - 1] != PyArray_DIMS(w.array)[1]
            or b is not None and b.shape != w.shape[:1]):
        raise ValueError(f"linear: x of shape {a.shape}, weight of shape {w.shape}, bias "
                         f"{'None' if b is None else f'of shape {b.shape}'}: "
                         "expected (..., in), (out, in), (out,)")
    if PyArray_TYPE(a.array) != typenum or b is not None and PyArray_TYPE(b.array) != typenum:
        dtype = np.result_type(*[t.dtype for t in (a, w, b) if t is not None])
        a, w, b = astype(a, dtype), astype(w, dtype), None if b is None else astype(b, dtype)
    if n != 2:
        rows = reshape(a, (math.prod(a.shape[:-1]), a.shape[-1]))
        return reshape(linear(rows, w, b), a.shape[:-1] + w.shape[:1])
    if a.array.dtype.kind != "f":
        return matmul(a, matrix_transpose(w)) if b is None else matmul(a, matrix_transpose(w)) + b
    out = loops.matmul(a.array, cnp.PyArray_SwapAxes(w.array, 0, 1))
    if b is not None:
        loops.add_in_place(out, contiguous(b.array))
    return record(LINEAR_, out, a, w, None if b is None else (b,))


cdef Op LSTM_CELL_ = register("lstm_cell", NO_KERNEL, None,
                              (lambda g, gates, cell, kept: lstm_slope(g, gates, cell, kept, True),
                               lambda g, gates, cell, kept: lstm_slope(g, gates, cell, kept, False)),
                              inputs=("gates", "cell"), attributes=("kept",))
def lstm_cell(gates, cell):
    """One step of long short-term memory: gates (4 n, ...), the blocks i, f, g, o before their activation,
    and the cell (n, ...) give (2 n, ...), the next cell c = sigmoid(f) cell + sigmoid(i) tanh(g) and the
    output sigmoid(o) tanh(c). A primitive of its own, since the composition takes 13 passes over memory
    forward and 25 backward.

    >>> mg.lstm_cell(mg.zeros(4), mg.ones(1))
    tensor([0.5       , 0.23105858])
    """
    cdef Tensor z = to_tensor(gates, "lstm_cell"), c = to_tensor(cell, "lstm_cell")
    if c.ndim == 0 or z.shape != (4 * c.shape[0],) + c.shape[1:]:
        raise ValueError(f"lstm_cell: gates {z.shape} and cell {c.shape}: expected (4 n, ...) and (n, ...)")
    cdef int typenum = PyArray_TYPE(z.array)
    if typenum != PyArray_TYPE(c.array) or typenum != NPY_FLOAT and typenum != NPY_DOUBLE:
        dtype = np.result_type(z.array.dtype, c.array.dtype)
        if dtype.kind != "f":
            dtype = np.float32 if dtype.kind == "b" else np.float64
        z, c = astype(z, dtype), astype(c, dtype)
    cdef Tensor kept = wrap(loops.blocks(c.array, 5))
    out = loops.lstm_cell(contiguous(z.array), contiguous(c.array), kept.array)
    return record(LSTM_CELL_, out, z, c, None, (kept,))


cdef object lstm_slope(Tensor g, Tensor gates, Tensor cell, Tensor kept, bint of_gates):
    """The rule of `lstm_cell` for either input; where nobody records it, in one pass."""
    if not recording():
        return wrap(loops.lstm_slopes(contiguous(g.array), contiguous(cell.array), kept.array, of_gates))
    n = cell.shape[0]
    z_i, z_f, z_g, z_o = [gates[k * n:(k + 1) * n] for k in range(4)]
    i, f, m, o = sigmoid(z_i), sigmoid(z_f), tanh(z_g), sigmoid(z_o)
    t = tanh(f * cell + i * m)
    down = g[:n] + g[n:] * o * (1.0 - t * t)
    if not of_gates:
        return down * f
    return concat([down * m * (i * (1.0 - i)), down * cell * (f * (1.0 - f)), down * i * (1.0 - m * m),
                   g[n:] * t * (o * (1.0 - o))])


def zeros_like(x, dtype=None):
    """Zeros in the shape and dtype of x (or another dtype), outside the graph.

    >>> mg.zeros_like(mg.tensor([1.0, 2.0]))
    tensor([0., 0.])
    """
    cdef ndarray array = to_tensor(x, "zeros_like").array
    if dtype is None:
        return wrap(cnp.PyArray_ZEROS(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array), 0))
    return wrap(checked(np.zeros(tuple([PyArray_DIMS(array)[d] for d in range(PyArray_NDIM(array))]), dtype)))


# -------------------------------------------------------------------------------------- the public table
install(add, unbroadcast, astype, {"getitem": getitem})
attach_methods({function.__name__: function for function in (
    negative, abs, sign, square, sqrt, rsqrt, reciprocal, relu, exp, expm1, log, log1p, sin, cos, tanh,
    sigmoid, softplus, logsigmoid, erf, add, subtract, multiply, divide, pow, floor_divide, remainder,
    maximum, minimum, less, less_equal, greater, greater_equal, equal, not_equal, clip, logical_and,
    logical_or, logical_xor, logical_not, sum, mean, var, prod, max, min, logsumexp, log_softmax, reshape,
    permute_dims, broadcast_to, astype, matmul, matrix_transpose, take_along_axis)})
