"""The primitives that table.py cannot define: reductions, shapes, indexing, products, a few elementwise.

Design note
-----------
1. Elementwise primitives are in table.py; generate.py turns them into the code included below. How to read
   an entry of this file: in `reduction_op("prod", PROD, np.multiply.reduce, rule)`, PROD is the opcode,
   which selects the loop, NumPy's function computes integers, and the rule is the gradient. Users call the
   function below it. The files included at the end go on: shapes.pxi, windows.pxi, products.pxi.
2. A rule is written in Tensor operations, so its own gradient derives automatically. A Node saves only
   what the rule's parameters name: `g` the cotangent; `out` the output; `x`, `y` the inputs; `shape` the
   first input's shape; `i` which input (variadic operations); or an attribute, given by the caller
   (`axis`) or computed by the forward (`kept`, `means`).
3. Rules never undo broadcasting: the engine sums a gradient to its input's shape.
   Beside its rules, which are enough, a primitive may have something faster for a pass that is not recorded
   (fast/cotangents.pxi): `faster_rules` with the same parameters, one of which may return None; `add_part`
   adds the cotangent of a pick into that of the whole in place; `summed_gradient` sums one as it is
   computed; `sums` takes many gradients of a product at once.
4. `None` as a rule: no gradient flows there (a mask, a comparison).
5. Smooth functions whose composition has a kink or overflows are primitives (softplus, logsigmoid,
   logsumexp, log_softmax, erf, sigmoid), and so are some whose composition takes too many passes (linear,
   lstm_cell, sum_product, softmax_cross_entropy). Everything else is composed in functions.py,
   contraction.py and nn/.
"""
cimport numpy as cnp
from numpy cimport (NPY_BOOL, NPY_DOUBLE, NPY_FLOAT, NPY_INT32, NPY_INT64, PyArray_DATA, PyArray_DIMS,
                    PyArray_NDIM, PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, ndarray, npy_intp)

from .fast cimport loops, loss, products, recurrent, reductions
from .fast.accelerate cimport Shortcut
from .fast.kernels cimport (
    CLIP, LOGSUM, MAX, MEAN, MIN, NO_KERNEL, PROD, SUM, VAR, WHERE, all_between)
from .fast.loops cimport Operand, contiguous, view_array
from .engine.graph cimport (
    Op, Tensor, beside_rules, binary, checked, in_common_dtype, number_array, python_number, record,
    record_view, recording, registry, repeated_axes, shape_of, to_tensor, to_tensors, unary, unbroadcast,
    without_first, wrap)

import math
from operator import index as index_of

import numpy as np

from ..checks import as_int, check_device, integer, sizes_of
from . import formulas
from .fast.loops import count_classes
from .engine.graph import (
    attach_methods, drops_graph, faster_rules, get_default_dtype, observe, plain_index, register, slopes_of)

cnp.import_array()

cdef enum:
    LARGE = 1 << 15             # elements of a product; larger ones are summed without being stored
    MANY = 1 << 10              # elements; from here on a second pass costs less than a slower sort

cdef Shortcut VAR_SLOPE = Shortcut("slope of var about the kept means")
cdef Shortcut PROD_SLOPE = Shortcut("slope of prod by division")
cdef Shortcut LSTM_STEP = Shortcut("step of an LSTM"), CROSS_ENTROPY = Shortcut("cross-entropy")


cdef Op reduction_op(str name, int opcode, object fallback, object rule):
    return register(name, opcode, fallback, (rule,), attributes=("axis", "keepdims", "correction"))


__all__ = []


cdef object exported(function):
    """Export a function from `mg`."""
    __all__.append(function.__name__)
    return function


cdef object method(function):
    """Export a function from `mg`, and make it a method of Tensor."""
    attach_methods({function.__name__: function}, [function.__name__])
    return exported(function)


# ================================================================================ elementwise
# The functions of table.py, except those that do more than call their kernel.
include "generated/functions.pxi"


@method
def round(x: TensorLike, decimals: int = 0) -> Tensor:
    """x rounded to `decimals` decimals elementwise, halves to even; its gradient is 0.

    >>> mg.round(mg.tensor([0.5, 1.5, 2.25]))
    tensor([0., 2., 2.])
    """
    if integer(decimals, "round: decimals") == 0:
        return unary(ROUND_, x)
    cdef Tensor tensor = to_tensor(x, "round")
    with np.errstate(all="ignore"):
        return record(ROUND_, checked(np.round(tensor.array, decimals)), tensor)


@method
def reciprocal(x: TensorLike) -> Tensor:
    """1 / x elementwise. Raises TypeError for integers and bools; use 1 / x, which gives floats.

    >>> mg.reciprocal(mg.tensor([2.0, 4.0]))
    tensor([0.5 , 0.25])
    """
    cdef Tensor tensor = to_tensor(x, "reciprocal")
    if tensor.array.dtype.kind != "f":
        raise TypeError(f"reciprocal: expected float32 or float64, got {tensor.array.dtype}; use 1 / x")
    return unary(RECIPROCAL_, tensor)


@method
def pow(x: TensorLike, y: TensorLike) -> Tensor:
    """x ** y elementwise, broadcast; NaN for a negative x and a fractional y.

    >>> mg.pow(mg.tensor([1.0, 3.0]), 2)
    tensor([1., 9.])
    """
    number = python_number(y)
    if number is not None:
        if number == 2:
            return unary(SQUARE_, x)
        if number == 0.5 and PyArray_TYPE(to_tensor(x, "pow").array) in (NPY_FLOAT, NPY_DOUBLE):
            return unary(SQRT_, x)
    return binary(POW_, x, y)


cdef Op NEXTAFTER_ = register("nextafter", NO_KERNEL, np.nextafter,
                              (lambda g, x, y: where(x == y, 0.0, g), lambda g: zeros_like(g)), core_dims=0)
@method
def nextafter(x: TensorLike, y: TensorLike) -> Tensor:
    """The next float after x in the direction of y, elementwise, broadcast; integers take the default dtype
    first. The gradient of x is 1, and 0 where it equals y, as in PyTorch; that of y is 0.

    >>> mg.nextafter(mg.tensor([1.0]), 2.0).item() - 1
    1.1920928955078125e-07
    """
    x, y = floating_operands((x, y), "nextafter")
    return binary(NEXTAFTER_, x, y)


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


# =============================================================================== elementwise, three inputs
cdef Op WHERE_ = register("where", WHERE, np.where,
                          (None, lambda g, condition: where(condition, g, 0.0),
                           lambda g, condition: where(condition, 0.0, g)),
                          inputs=("condition", "x", "y"), core_dims=0)
@exported
def where(condition: TensorLike, x: TensorLike, y: TensorLike) -> Tensor:
    """x where condition is true, y elsewhere, all three broadcast together. condition is bool.

    >>> mg.where(mg.tensor([True, False]), mg.tensor([1.0, 2.0]), 0.0)
    tensor([1., 0.])
    """
    cdef Operand operands[3]
    cdef Tensor mask = truth(condition, "where"), a, b
    if PyArray_TYPE(mask.array) != NPY_BOOL:
        mask = not_equal(mask, 0)
    a, b = to_tensors((x, y), "where")
    if PyArray_TYPE(a.array) != PyArray_TYPE(b.array):
        a, b = in_common_dtype((a, b))
    if PyArray_TYPE(a.array) != NPY_FLOAT and PyArray_TYPE(a.array) != NPY_DOUBLE:
        return wrap(checked(np.where(mask.array, a.array, b.array)))
    view_array(&operands[0], mask.array)
    view_array(&operands[1], a.array)
    view_array(&operands[2], b.array)
    typenum = PyArray_TYPE(a.array)
    out = loops.elementwise("where", WHERE, typenum == NPY_DOUBLE, typenum, operands, 3)
    return record(WHERE_, out, mask, a, (b,))


cdef Op CLIP_ = register("clip", CLIP, np.clip,
                         (lambda g, x, low, high: where(logical_and(x >= low, x <= high), g, 0.0),),
                         attributes=("low", "high"))
@method
def clip(x: TensorLike, min: TensorLike | None = None, max: TensorLike | None = None) -> Tensor:
    """x limited to [min, max]; the gradient inside and at the bounds is 1. A bound may be None (without
    both, x is returned), a number or a Tensor; a NaN bound gives NaN.

    >>> mg.clip(mg.tensor([-1.0, 0.5, 2.0]), 0, 1)
    tensor([0. , 0.5, 1. ])
    """
    cdef Operand operands[3]
    cdef Tensor tensor
    cdef ndarray low, high
    if min is None and max is None:
        return to_tensor(x, "clip")
    for bound in (min, max):
        if not (bound is None or isinstance(bound, (int, float, np.generic, np.ndarray, Tensor))):
            raise TypeError(f"clip: a bound is None, a number or a Tensor, got {bound!r}")
    if isinstance(min, np.generic):
        min = python_number(min)
    if isinstance(max, np.generic):
        max = python_number(max)
    if isinstance(min, (Tensor, np.ndarray)) or isinstance(max, (Tensor, np.ndarray)):
        tensor = to_tensors(tuple([v for v in (x, min, max) if v is not None]), "clip")[0]
        limited = tensor if min is None else where(tensor < min, min, tensor)
        limited = limited if max is None else where(limited > max, max, limited)
        for value in (tensor, min, max):
            undefined = False if value is None else np.isnan(to_tensor(value, "clip").array)
            if np.logical_or.reduce(undefined, axis=None):      # comparisons with NaN are false
                limited = where(undefined, math.nan, limited)
        return limited
    number = isinstance(min, float) or isinstance(max, float)
    tensor = floating(x, "clip") if number else to_tensor(x, "clip")
    typenum = PyArray_TYPE(tensor.array)
    if typenum != NPY_FLOAT and typenum != NPY_DOUBLE:
        return wrap(checked(np.clip(tensor.array, min, max)))
    low = number_array(-math.inf if min is None else min, typenum, "clip")
    high = number_array(math.inf if max is None else max, typenum, "clip")
    view_array(&operands[0], tensor.array)
    view_array(&operands[1], low)
    view_array(&operands[2], high)
    if min != min or max != max:            # the kernel does not check its bounds for NaN
        out = np.full_like(tensor.array, math.nan)
    else:
        out = loops.elementwise("clip", CLIP, typenum == NPY_DOUBLE, typenum, operands, 3)
    return record(CLIP_, out, tensor, None, None, (float(low), float(high)))


# ------------------------------------------------------------------------------------- logical, no gradient
cdef Tensor truth(x, str name):
    """As `to_tensor`, but a number becomes its truth value, since a dtype might round it to 0."""
    if isinstance(x, Tensor):
        return x
    number = python_number(x)
    return to_tensor(x, name) if number is None else wrap(number_array(number, NPY_BOOL, name))


cdef Tensor logical(str name, object ufunc, x, y):
    cdef Tensor a = truth(x, name), b = truth(y, name)
    try:
        return wrap(checked(ufunc(a.array, b.array)))
    except ValueError:
        raise ValueError(f"{name}: shapes {a.shape} and {b.shape} do not broadcast") from None


@method
def logical_and(x: TensorLike, y: TensorLike) -> Tensor:
    """x and y elementwise, broadcast; bool. For bool tensors this is `x & y`.

    >>> mg.logical_and(mg.tensor([True, False]), mg.tensor([True, True]))
    tensor([ True, False])
    """
    return logical("logical_and", np.logical_and, x, y)


@method
def logical_or(x: TensorLike, y: TensorLike) -> Tensor:
    """x or y elementwise, broadcast; bool. For bool tensors this is `x | y`.

    >>> mg.logical_or(mg.tensor([True, False]), mg.tensor([False, False]))
    tensor([ True, False])
    """
    return logical("logical_or", np.logical_or, x, y)


@method
def logical_xor(x: TensorLike, y: TensorLike) -> Tensor:
    """Exactly one of x and y, elementwise, broadcast; bool. For bool tensors this is `x ^ y`.

    >>> mg.logical_xor(mg.tensor([True, False]), mg.tensor([True, True]))
    tensor([False,  True])
    """
    return logical("logical_xor", np.logical_xor, x, y)


@method
def logical_not(x: TensorLike) -> Tensor:
    """not x elementwise; bool. For bool tensors this is `~x`.

    >>> mg.logical_not(mg.tensor([True, False]))
    tensor([False,  True])
    """
    return wrap(checked(np.logical_not(truth(x, "logical_not").array)))


# ================================================================================================ reductions
cdef bint ascending(tuple axes, int ndim):
    """Whether these are nonnegative ints in ascending order, the common case."""
    cdef long last = -1, a
    for axis in axes:
        if type(axis) is not int:
            return False
        a = axis
        if not last < a < ndim:
            return False
        last = a
    return True


cpdef tuple reduced_axes(str name, axis: Axis, int ndim):  # type: tuple[int, ...]
    """`axis` (None, an int, or a tuple of ints) as a sorted tuple of nonnegative ints."""
    if axis is None:
        return tuple(range(ndim))
    if type(axis) is int and -ndim <= axis < ndim:
        return (axis % ndim,)
    if type(axis) is tuple and ascending(axis, ndim):
        return axis
    axes = []
    for given in (axis if isinstance(axis, (tuple, list)) else (axis,)):
        a = as_int(given)
        if a is None:
            raise TypeError(f"{name}: axis must be an int, a tuple of ints or None, got {axis!r}")
        if not -ndim <= a < ndim:
            raise np.exceptions.AxisError(f"{name}: axis {a} is out of bounds for a tensor of "
                                          f"{ndim} dimensions")
        axes.append(a % ndim)
    if len(set(axes)) != len(axes):
        raise ValueError(f"{name}: duplicate axis in {axis}")
    return tuple(sorted(axes))


cpdef int one_axis(str name, axis: int, int ndim) except -1:
    """`axis`, a single int, as a nonnegative int."""
    if axis is None or isinstance(axis, (tuple, list)):
        raise TypeError(f"{name}: axis must be an int, got {axis!r}")
    return reduced_axes(name, axis, ndim)[0]


cdef object reduction(Op op, x, axis, bint keepdims, double correction=0, object dtype=None):
    cdef Tensor tensor = to_tensor(x, op.name)
    cdef tuple axes
    cdef int ndim = PyArray_NDIM(tensor.array)
    cdef unsigned long long mask = 0
    cdef int typenum = PyArray_TYPE(tensor.array), d
    cdef ndarray out, means = None
    if axis is None:
        axes = ALL_AXES[ndim]
        mask = ~mask                        # bits beyond the last axis are ignored
    else:
        axes = reduced_axes(op.name, axis, ndim)
        for d in axes:
            mask |= <unsigned long long> 1 << d
    if op.opcode == MAX or op.opcode == MIN:
        for d in axes:
            if PyArray_DIMS(tensor.array)[d] == 0:
                raise ValueError(f"{op.name}: axis {d} of shape {tensor.shape} is empty, "
                                 f"and the {op.name} of an empty axis is undefined")
    if typenum == NPY_FLOAT or typenum == NPY_DOUBLE:
        if op.opcode == LOGSUM:
            out = reductions.logsumexp(tensor.array, mask, keepdims)
        elif op.opcode == VAR and tensor.requires and recording() and VAR_SLOPE.taken():
            means = means_of(tensor.array, axes)
            out = reductions.variance(tensor.array, means, mask, keepdims, correction)
        else:
            out = reductions.reduce(op.opcode, tensor.array, mask, keepdims, correction)
    else:
        if op.opcode == LOGSUM or op.opcode == VAR or op.opcode == MEAN:
            wide = reduction(op, astype(tensor, np.float64), axis, keepdims, correction)
            return astype(wide, get_default_dtype())
        options = {} if dtype is None else {"dtype": dtype}
        out = checked(op.fallback(tensor.array, axis=axes, keepdims=keepdims, **options))
    return record(op, out, tensor, None, None, (axes, keepdims, correction, means))


cdef ndarray means_of(ndarray x, tuple axes):
    """An uninitialised array for the means of x over the axes."""
    cdef npy_intp shape[64]
    cdef int d
    for d in range(PyArray_NDIM(x)): shape[d] = PyArray_DIMS(x)[d]
    for d in axes: shape[d] = 1
    return loops.empty(PyArray_NDIM(x), shape, PyArray_TYPE(x))


cdef list ALL_AXES = [tuple(range(n)) for n in range(65)]


cdef object expand(Tensor g, tuple shape, tuple axis):
    """Expand the result of a reduction to the shape of its input; a view."""
    if PyArray_NDIM(g.array) != len(shape):
        g = reshape(g, tuple([1 if d in axis else shape[d] for d in range(len(shape))]))
    return broadcast_to(g, shape)


cdef double elements(tuple shape, tuple axis) except? -1:
    """The number of elements that a reduction combines into one."""
    cdef double n = 1
    for d in axis:
        n *= shape[d]
    return n


cdef Tensor sum_of_products(Tensor g, Tensor factor, unsigned long long repeated, int extra):
    """`unbroadcast(g * factor)` without storing the product, if that is large enough to pay; else None."""
    cdef tuple shape = shape_of(g.array), axes
    if (PyArray_SIZE(g.array) <= LARGE or PyArray_TYPE(g.array) != PyArray_TYPE(factor.array)
            or shape != shape_of(factor.array)):
        return None
    axes = tuple([d for d in range(len(shape)) if repeated >> d & 1])
    total = wrap(reductions.sum_product(g.array, factor.array, repeated, extra == 0))
    return without_first(total, shape, axes, extra)


beside_rules(MULTIPLY_).summed_gradient = sum_of_products


cdef object sum_to(Tensor g, tuple shape):
    """As `unbroadcast`, for the shape that g was broadcast from."""
    cdef npy_intp sizes[64]
    cdef int d
    for d in range(len(shape)):
        sizes[d] = shape[d]
    repeated = repeated_axes(sizes, len(shape), g.array, 0)
    return unbroadcast(g, repeated, g.array.ndim - len(shape)) if repeated else g


cdef Op SUM_ = reduction_op("sum", SUM, np.add.reduce, lambda g, shape, axis: expand(g, shape, axis))
@method
def sum(x: TensorLike, axis: Axis = None, keepdims: bool = False, dtype: DTypeLike | None = None) -> Tensor:
    """The sum over all axes, one axis, or a tuple of axes; 0 without elements. Accumulates in double. With a
    dtype, the elements are converted to it first.

    >>> mg.sum(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    tensor([4., 6.])
    """
    return reduction(SUM_, x if dtype is None else astype(x, dtype), axis, keepdims, 0, dtype)


cdef Op SUM_PRODUCT_ = register("sum_product", NO_KERNEL, None,
                                (lambda g, y, shape, axis: expand(g, shape, axis) * y,
                                 lambda g, x, shape, axis: expand(g, shape, axis) * x),
                                attributes=("axis", "keepdims"))
def sum_product(x: TensorLike, y: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum of x * y, two tensors of one shape, over all axes, one axis, or a tuple of axes. The products
    are not stored; rows of float32 are summed in float32, 1024 elements at a time.

    >>> from minigrad._core import ops
    >>> ops.sum_product(mg.tensor([1.0, 2.0]), mg.tensor([3.0, 4.0]))
    tensor(11.)
    """
    cdef Tensor a, b
    a, b = to_tensors((x, y), "sum_product")
    cdef int typenum = PyArray_TYPE(a.array), d
    cdef unsigned long long mask = 0
    cdef tuple axes
    if a.shape != b.shape:
        raise ValueError(f"sum_product: expected two tensors of one shape, got {a.shape} and {b.shape}")
    if typenum != PyArray_TYPE(b.array) or typenum != NPY_FLOAT and typenum != NPY_DOUBLE:
        if a.array.dtype.kind != "f" and b.array.dtype.kind != "f":
            a = astype(a, np.int64)         # as the sum is, so that no product of int32 overflows
        return sum(multiply(a, b), axis, keepdims)
    axes = reduced_axes("sum_product", axis, PyArray_NDIM(a.array))
    for d in axes:
        mask |= <unsigned long long> 1 << d
    out = reductions.sum_product(a.array, b.array, mask, keepdims)
    return record(SUM_PRODUCT_, out, a, b, None, (axes, bool(keepdims)))


cdef Op MEAN_ = reduction_op("mean", MEAN, np.mean,
                             lambda g, shape, axis:
                             expand(g * (1 / (elements(shape, axis) or 1)), shape, axis))
@method
def mean(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The arithmetic mean; NaN without elements.

    >>> mg.mean(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=1)
    tensor([1.5, 3.5])
    """
    return reduction(MEAN_, x, axis, keepdims)


cdef Op VAR_ = register("var", VAR, np.var,
                        (lambda g, x, axis, correction, means: slope_of_var(g, x, axis, correction),),
                        attributes=("axis", "keepdims", "correction", "means"))
faster_rules(VAR_, VAR_SLOPE,
             lambda g, x, axis, correction, means: slope_about(means, g, x, axis, correction))
@method
def var(x: TensorLike, axis: Axis = None, correction: float = 0, keepdims: bool = False) -> Tensor:
    """The variance: the sum of (x - mean)² over (n - correction). correction=1 is the unbiased estimate.

    >>> mg.var(mg.tensor([1.0, 2.0, 3.0, 4.0]))
    tensor(1.25)
    """
    return reduction(VAR_, x, axis, keepdims, correction)


cdef object slope_of_var(Tensor g, Tensor x, tuple axis, double correction):
    return expand(scaled_for_var(g, x, axis, correction), x.shape, axis) * (x - mean(x, axis, True))


cdef Tensor scaled_for_var(Tensor g, Tensor x, tuple axis, double correction):
    cdef double count = elements(x.shape, axis)
    return g * (2 / (count - correction) if count > correction else math.nan if count else 0)


cdef object slope_about(ndarray means, Tensor g, Tensor x, tuple axis, double correction):
    """`slope_of_var` in one pass about the means that the forward kept, if it did."""
    if means is None:
        return None
    g = scaled_for_var(g, x, axis, correction)
    if PyArray_NDIM(g.array) != PyArray_NDIM(means):
        g = reshape(g, shape_of(means))
    return wrap(loops.scaled_difference(x.array, means, g.array))


cdef Op PROD_ = reduction_op("prod", PROD, np.multiply.reduce,
                             lambda g, x, out, axis: slope_of_prod(g, x, axis))
faster_rules(PROD_, PROD_SLOPE, lambda g, x, out, axis: slope_by_division(g, x, out, axis))
@method
def prod(x: TensorLike, axis: Axis = None, keepdims: bool = False, dtype: DTypeLike | None = None) -> Tensor:
    """The product; 1 without elements. Accumulates in double. With a dtype, the elements are converted to it
    first. Its gradient is exact for zeros too, and if the product over- or underflows.

    >>> mg.prod(mg.tensor([2.0, 3.0, 4.0]))
    tensor(24.)
    """
    return reduction(PROD_, x if dtype is None else astype(x, dtype), axis, keepdims, 0, dtype)


cdef object slope_by_division(Tensor g, Tensor x, Tensor out, tuple axis):
    """`slope_of_prod` as out / x, unless the product is or may be out of range."""
    if in_safe_range(out.array):
        return expand(g, x.shape, axis) * (expand(out, x.shape, axis) / x)


cdef object slope_of_prod(Tensor g, Tensor x, tuple axis):
    """For each element the product of all others: of all before it times all after it, with separate powers
    of two."""
    order = tuple([d for d in range(x.ndim) if d not in axis]) + axis
    moved = permute_dims(x, order)
    count = math.prod([x.shape[d] for d in axis])
    rows = astype(reshape(moved, moved.shape[:x.ndim - len(axis)] + (count,)), np.float64)
    cdef int last = rows.ndim - 1
    powers = powers_in((<Tensor> rows).array)
    rest = np.clip(powers.sum(last, keepdims=True) - powers, -2000, 2000)
    rows = scaled(rows, -powers)
    behind = turned(shifted(cumulative_prod(turned(rows, last), last), 1.0, last), last)
    product = scaled(shifted(cumulative_prod(rows, last), 1.0, last) * behind, rest)
    product = permute_dims(reshape(product, moved.shape), inverse(order))
    return astype(expand(astype(g, np.float64), x.shape, axis) * product, x.dtype)


cdef ndarray powers_in(ndarray x):
    """Powers of two that scale the elements of x to 0 or to [sqrt(1/2), sqrt(2)]."""
    fractions, powers = np.frexp(x)
    return powers.astype(np.int64) - (np.abs(fractions) < math.sqrt(0.5))


cdef object scaled(Tensor x, powers):
    """x times two to these powers, in two steps, because the power itself may be out of range."""
    half = powers // 2
    return x * wrap(np.ldexp(1.0, half)) * wrap(np.ldexp(1.0, powers - half))


cpdef bint in_safe_range(ndarray x) except -1:
    """Whether all elements (floats) are so far from over- and underflow that their squares, their roots and
    the intermediate results behind them are in range.

    >>> from minigrad._core.ops import in_safe_range
    >>> in_safe_range(np.array([1.0, 1e10])), in_safe_range(np.array([1.0, 0.0]))
    (True, False)
    """
    cdef bint is_double = PyArray_TYPE(x) == NPY_DOUBLE
    x = contiguous(x)
    return all_between(is_double, PyArray_DATA(x), PyArray_SIZE(x), 1e-200 if is_double else 1e-20,
                       1e200 if is_double else 1e20)


cdef object turned(x, int axis):
    """The elements in reverse order along an axis; a view."""
    return getitem(x, (slice(None),) * axis + (slice(None, None, -1),))


cdef object shifted(x, double first, int axis):
    """The elements shifted by one along an axis; the first becomes `first`, the last is dropped."""
    before = (slice(None),) * axis
    start = astype(broadcast_to(first, x[before + (slice(1),)].shape), x.dtype)
    return concat([start, x[before + (slice(-1),)]], axis) if x.shape[axis] else x


# ----------------------------------------------------------------------------------- along an axis, in order
cdef Op CUMULATIVE_SUM_ = register("cumulative_sum", NO_KERNEL, np.cumsum,
                                   (lambda g, axis: turned(cumulative_sum(turned(g, axis), axis), axis),),
                                   attributes=("axis",))
@method
def cumulative_sum(x: TensorLike, axis: int | None = None, include_initial: bool = False,
                   dtype: DTypeLike | None = None) -> Tensor:
    """The sums of the first 1, 2, ... elements along an axis, which is optional for a 1-d tensor; with
    include_initial they start with 0. Accumulates in double. With a dtype, the elements are converted to it
    first.

    >>> mg.cumulative_sum(mg.tensor([1.0, 2.0, 3.0]))
    tensor([1., 3., 6.])
    """
    return cumulated(CUMULATIVE_SUM_, x, axis, include_initial, dtype)


cdef Op CUMULATIVE_PROD_ = register("cumulative_prod", NO_KERNEL, np.cumprod,
                                    (lambda g, x, out, axis:
                                     recurrence_adjoint(g, x, axis) * shifted(out, 1.0, axis),),
                                    attributes=("axis",))
@method
def cumulative_prod(x: TensorLike, axis: int | None = None, include_initial: bool = False,
                    dtype: DTypeLike | None = None) -> Tensor:
    """The products of the first 1, 2, ... elements along an axis, which is optional for a 1-d tensor; with
    include_initial they start with 1. With a dtype, the elements are converted to it first. Its gradient is
    exact for zeros too.

    >>> mg.cumulative_prod(mg.tensor([2.0, 3.0, 4.0]))
    tensor([ 2.,  6., 24.])
    """
    return cumulated(CUMULATIVE_PROD_, x, axis, include_initial, dtype)


cdef object cumulated(Op op, x, axis, bint include_initial, dtype):
    cdef Tensor tensor = to_tensor(x, op.name) if dtype is None else astype(x, dtype), result
    cdef int ndim = PyArray_NDIM(tensor.array), typenum = PyArray_TYPE(tensor.array)
    if axis is None and ndim != 1:
        raise ValueError(f"{op.name}: a tensor of {ndim} dimensions needs an axis")
    cdef int along = 0 if axis is None else one_axis(op.name, axis, ndim)
    if typenum != NPY_FLOAT and typenum != NPY_DOUBLE:
        result = wrap(checked(op.fallback(tensor.array, axis=along, dtype=dtype)))
    else:
        array = contiguous(tensor.array)
        out = (loops.cumulate(None, array, along) if op is CUMULATIVE_SUM_
               else loops.cumulate(array, None, along))
        result = record(op, out, tensor, None, None, (along,))
    if not include_initial:
        return result
    one = tensor.shape[:along] + (1,) + tensor.shape[along + 1:]
    initial = np.full(one, op is CUMULATIVE_PROD_, result.array.dtype)
    return concat([wrap(initial), result], along)


cdef Op LINEAR_RECURRENCE_ = register("linear_recurrence", NO_KERNEL, None,
                                      (lambda g, x, out, axis:
                                       recurrence_adjoint(g, x, axis) * shifted(out, 0.0, axis),
                                       lambda g, x, axis: recurrence_adjoint(g, x, axis)),
                                      attributes=("axis",))
def linear_recurrence(factor: TensorLike, x: TensorLike, axis: int = -1) -> Tensor:
    """y[k] = factor[k] * y[k - 1] + x[k] along an axis, for tensors of one shape, with y[-1] = 0. The
    gradient of a cumulative product is such a recurrence in reverse order. Accumulates in double.

    >>> from minigrad._core import ops
    >>> ops.linear_recurrence(mg.tensor([0.5, 0.5, 0.5]), mg.tensor([4.0, 0.0, 1.0]))
    tensor([4., 2., 2.])
    """
    cdef Tensor a, b
    a, b = floating_operands((factor, x), "linear_recurrence")
    if a.shape != b.shape:
        raise ValueError(f"linear_recurrence: factor of shape {a.shape} and x of shape {b.shape} differ")
    cdef int along = one_axis("linear_recurrence", axis, PyArray_NDIM(a.array))
    out = loops.cumulate(contiguous(a.array), contiguous(b.array), along)
    return record(LINEAR_RECURRENCE_, out, a, b, None, (along,))


cdef object recurrence_adjoint(g, factor, int axis):
    """The gradient of the inputs x of a recurrence: h[k] = g[k] + factor[k + 1] * h[k + 1]."""
    later = shifted(turned(factor, axis), 0.0, axis)
    return turned(linear_recurrence(later, turned(g, axis), axis), axis)


cdef Op MAX_ = reduction_op("max", MAX, np.maximum.reduce,
                            lambda g, x, out, axis: share_ties(g, x, out, axis))
@method
def max(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The largest element, NaN if there is one. Ties share the gradient evenly. Raises ValueError for an
    empty axis.

    >>> mg.max(mg.tensor([[1.0, 5.0], [3.0, 4.0]]), axis=1)
    tensor([5., 4.])
    """
    return reduction(MAX_, x, axis, keepdims)


cdef Op MIN_ = reduction_op("min", MIN, np.minimum.reduce,
                            lambda g, x, out, axis: share_ties(g, x, out, axis))
@method
def min(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The smallest element, NaN if there is one. Ties share the gradient evenly. Raises ValueError for an
    empty axis.

    >>> mg.min(mg.tensor([[1.0, 5.0], [3.0, 4.0]]), axis=1)
    tensor([1., 3.])
    """
    return reduction(MIN_, x, axis, keepdims)


cdef object share_ties(g, x, out, tuple axis):
    hit = astype(x == expand(out, x.shape, axis), x.dtype)
    return expand(g, x.shape, axis) * (hit / sum(hit, axis, True))


cdef Op LOGSUMEXP_ = reduction_op("logsumexp", LOGSUM, None,
                                  lambda g, x, out, axis:
                                  expand(g, x.shape, axis) * exp(x - expand(out, x.shape, axis)))
@method
def logsumexp(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """log(sum(exp(x))) without overflow; -inf without elements.

    >>> mg.logsumexp(mg.tensor([1000.0, 1000.0]))
    tensor(1000.6931)
    """
    return reduction(LOGSUMEXP_, x, axis, keepdims)


cdef Op LOG_SOFTMAX_ = register("log_softmax", NO_KERNEL, None,
                                (lambda g, out, axis: g - exp(out) * sum(g, axis, True),),
                                attributes=("axis",))
@method
def log_softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """x - logsumexp(x) along one axis: the logarithm of softmax.

    >>> mg.log_softmax(mg.tensor([0.0, 0.0]))
    tensor([-0.6931472, -0.6931472])
    """
    cdef Tensor tensor = floating(x, "log_softmax")
    cdef int along = one_axis("log_softmax", axis, PyArray_NDIM(tensor.array))
    out = (reductions.log_softmax(tensor.array, <unsigned long long> 1 << along)
           if PyArray_SIZE(tensor.array) else tensor.array.copy())
    return record(LOG_SOFTMAX_, out, tensor, None, None, (along,))


cpdef Tensor floating(x: TensorLike, str name):
    """x as a float32 or float64 Tensor; integers take the default dtype."""
    cdef Tensor tensor = to_tensor(x, name)
    if PyArray_TYPE(tensor.array) == NPY_FLOAT or PyArray_TYPE(tensor.array) == NPY_DOUBLE:
        return tensor
    return astype(tensor, get_default_dtype())


cpdef tuple floating_operands(tuple values, str name):  # type: tuple[Any, ...]
    """As `to_tensors`, in one dtype, float32 or float64: their common one, or of integers and bools alone the
    default dtype."""
    return tuple([floating(tensor, name) for tensor in in_common_dtype(to_tensors(values, name))])


# ========================================================================================= more primitives
include "shapes.pxi"
include "windows.pxi"
include "products.pxi"


# ------------------------------------------------------------------------------ what users call a primitive
cdef object name, function
for name, function in globals().items():
    if name in registry:
        (<Op> registry[name]).function = function
