"""The primitives that are not elementwise: reductions, shapes, indexing, products.

Design note
-----------
1. Elementwise primitives are in table.py; generate.py turns them into the code included below. How to read
   an entry of this file: in `register("prod", PROD, np.multiply.reduce, rules)`, PROD is the branch of the
   kernel, NumPy's function computes integers, and the rules are the gradients. Users call the function
   below it.
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
    Op, Tensor, beside_rules, binary, checked, number_array, python_number, record, record_view,
    recording, registry, repeated_axes, shape_of, to_tensor, to_tensors, unary, unbroadcast, without_first,
    wrap)

import math
from operator import index as index_of

import numpy as np

from .fast.loops import count_classes
from .engine.graph import attach_methods, drops_graph, faster_rules, observe, plain_index, register

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
    if whole("round: decimals", decimals) == 0:
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
        dtype = np.result_type(a.array.dtype, b.array.dtype)
        a, b = astype(a, dtype), astype(b, dtype)
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
    """x limited to [min, max]; the gradient inside and at the bounds is 1. A bound may be None, a
    number or a Tensor; a NaN bound gives NaN.

    >>> mg.clip(mg.tensor([-1.0, 0.5, 2.0]), 0, 1)
    tensor([0. , 0.5, 1. ])
    """
    cdef Operand operands[3]
    cdef Tensor tensor
    cdef ndarray low, high
    if min is None and max is None:
        raise ValueError("clip: give min, max or both")
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
    tensor = to_tensor(x, "clip")
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
        a = integer(given)
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


cdef object integer(value):
    """`value` as an int if it has `__index__`, as NumPy's integers do, and is not a bool; else None."""
    if type(value) is int:
        return value
    if isinstance(value, bool):
        return None
    try:
        return index_of(value)
    except TypeError:
        return None


cpdef object whole(str what, value: Any):  # type: int
    """`value` as an int; raises TypeError if it is not an integer."""
    number = integer(value)
    if number is None:
        raise TypeError(f"{what} must be an int, got {value!r}")
    return number


cdef object reduction(Op op, x, axis, bint keepdims, double correction=0):
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
            return reduction(op, astype(tensor, np.float64), axis, keepdims, correction)
        out = checked(op.fallback(tensor.array, axis=axes, keepdims=keepdims))
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
def sum(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The sum over all axes, one axis, or a tuple of axes; 0 without elements. Accumulates in double.

    >>> mg.sum(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), axis=0)
    tensor([4., 6.])
    """
    return reduction(SUM_, x, axis, keepdims)


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
def prod(x: TensorLike, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """The product; 1 without elements. Accumulates in double. Its gradient is exact for zeros too, and if the
    product over- or underflows.

    >>> mg.prod(mg.tensor([2.0, 3.0, 4.0]))
    tensor(24.)
    """
    return reduction(PROD_, x, axis, keepdims)


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
def cumulative_sum(x: TensorLike, axis: int | None = None, include_initial: bool = False) -> Tensor:
    """The sums of the first 1, 2, ... elements along an axis, which is optional for a 1-d tensor; with
    include_initial they start with 0. Accumulates in double.

    >>> mg.cumulative_sum(mg.tensor([1.0, 2.0, 3.0]))
    tensor([1., 3., 6.])
    """
    return cumulated(CUMULATIVE_SUM_, x, axis, include_initial)


cdef Op CUMULATIVE_PROD_ = register("cumulative_prod", NO_KERNEL, np.cumprod,
                                    (lambda g, x, out, axis:
                                     recurrence_adjoint(g, x, axis) * shifted(out, 1.0, axis),),
                                    attributes=("axis",))
@method
def cumulative_prod(x: TensorLike, axis: int | None = None, include_initial: bool = False) -> Tensor:
    """The products of the first 1, 2, ... elements along an axis, which is optional for a 1-d tensor; with
    include_initial they start with 1. Its gradient is exact for zeros too.

    >>> mg.cumulative_prod(mg.tensor([2.0, 3.0, 4.0]))
    tensor([ 2.,  6., 24.])
    """
    return cumulated(CUMULATIVE_PROD_, x, axis, include_initial)


cdef object cumulated(Op op, x, axis, bint include_initial):
    cdef Tensor tensor = to_tensor(x, op.name), result
    cdef int ndim = PyArray_NDIM(tensor.array), typenum = PyArray_TYPE(tensor.array)
    if axis is None and ndim != 1:
        raise ValueError(f"{op.name}: a tensor of {ndim} dimensions needs an axis")
    cdef int along = 0 if axis is None else one_axis(op.name, axis, ndim)
    if typenum != NPY_FLOAT and typenum != NPY_DOUBLE:
        result = wrap(checked(op.fallback(tensor.array, axis=along)))
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
    cdef Tensor a = floating(factor, "linear_recurrence"), b = floating(x, "linear_recurrence")
    if a.shape != b.shape:
        raise ValueError(f"linear_recurrence: factor of shape {a.shape} and x of shape {b.shape} differ")
    dtype = np.result_type(a.dtype, b.dtype)
    a, b = astype(a, dtype), astype(b, dtype)
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
    cdef tuple axes = reduced_axes("log_softmax", axis, PyArray_NDIM(tensor.array))
    if len(axes) != 1:
        raise ValueError(f"log_softmax: expected one axis, got {axis}")
    cdef unsigned long long mask = <unsigned long long> 1 << <int> axes[0]
    if PyArray_SIZE(tensor.array) == 0:
        return record(LOG_SOFTMAX_, tensor.array.copy(), tensor, None, None, axes)
    return record(LOG_SOFTMAX_, reductions.log_softmax(tensor.array, mask), tensor, None, None, axes)


cdef Tensor floating(x, str name):
    """x as a float32 or float64 Tensor; integers become float64, as in NumPy."""
    cdef Tensor tensor = to_tensor(x, name)
    if PyArray_TYPE(tensor.array) == NPY_FLOAT or PyArray_TYPE(tensor.array) == NPY_DOUBLE:
        return tensor
    return astype(tensor, np.float64)


# ===================================================================================================== shape
cdef Op RESHAPE_ = register("reshape", NO_KERNEL, None, (lambda g, shape: reshape(g, shape),))
@method
def reshape(x: TensorLike, *shape: Any) -> Tensor:
    """The same elements in C order in another shape; one size may be -1. A view where possible.

    >>> mg.reshape(mg.arange(4), (2, 2))
    tensor([[0, 1],
            [2, 3]])
    """
    cdef Tensor tensor = to_tensor(x, "reshape")
    cdef ndarray array = tensor.array
    target = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    try:
        if not cnp.PyArray_IS_C_CONTIGUOUS(array) and PyArray_SIZE(array):
            sizes = tuple([index_of(n) for n in target])
            array = array if loops.is_viewable(array, sizes) else contiguous(array)
        out = array.reshape(target)
    except (ValueError, TypeError):
        raise type_or_value(target)(f"reshape: a tensor of shape {tensor.shape} ({tensor.size} elements) "
                                    f"cannot take the shape {tuple(target)}") from None
    if PyArray_DATA(out) != PyArray_DATA(tensor.array):      # a copy, whose writes x does not see
        return record(RESHAPE_, out, tensor)
    return record_view(RESHAPE_, out, tensor)


cdef object type_or_value(target):
    return ValueError if all([integer(n) is not None for n in target]) else TypeError


cdef Op PERMUTE_DIMS_ = register("permute_dims", NO_KERNEL, None,
                                 (lambda g, axes: permute_dims(g, inverse(axes)),), attributes=("axes",))
@method
def permute_dims(x: TensorLike, axes: Sequence[int]) -> Tensor:
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
    axes = tuple([index_of(a) % ndim for a in axes])
    return record_view(PERMUTE_DIMS_, tensor.array.transpose(axes), tensor, (axes,))


cdef tuple inverse(tuple axes):
    cdef list order = [0] * len(axes)
    for i, a in enumerate(axes):
        order[a] = i
    return tuple(order)


cdef Op BROADCAST_TO_ = register("broadcast_to", NO_KERNEL, None, (lambda g, shape: sum_to(g, shape),))
@method
def broadcast_to(x: TensorLike, shape: Sequence[int]) -> Tensor:
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
            shape = sizes_of(shape, "broadcast_to")
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


cpdef tuple sizes_of(shape: Shape, str name):  # type: tuple[int, ...]
    """A shape, given as an int or a sequence of ints, as a tuple; raises TypeError or ValueError."""
    sizes = tuple([integer(n) for n in (shape if isinstance(shape, (tuple, list)) else (shape,))])
    if None in sizes:
        raise TypeError(f"{name}: a shape is an int or a tuple of ints, got {shape!r}")
    if any([n < 0 for n in sizes]):
        raise ValueError(f"{name}: a size cannot be negative, got {shape!r}")
    return sizes


cdef ndarray strided_view(ndarray base, int ndim, npy_intp* sizes, npy_intp* strides, int flags=0):
    """An array on the memory of `base`, read-only without flags (np.broadcast_to took 5 us, this 0.1)."""
    cdef ndarray view = cnp.PyArray_New(ndarray, ndim, sizes, PyArray_TYPE(base), strides, PyArray_DATA(base),
                                        0, cnp.NPY_ARRAY_ALIGNED | flags, None)
    cnp.set_array_base(view, base)
    return view


cdef Op ROLL_ = register("roll", NO_KERNEL, np.roll,
                         (lambda g, shift, axis: roll(g, tuple([-n for n in shift]), axis),),
                         attributes=("shift", "axis"))
@method
def roll(x: TensorLike, shift: Shape, axis: int | Sequence[int] | None = None) -> Tensor:
    """Elements shifted by `shift` places along an axis, from its end back to its start; tuples for several
    axes. Without an axis, the elements are rolled in C order.

    >>> mg.roll(mg.tensor([1.0, 2.0, 3.0]), 1)
    tensor([3., 1., 2.])
    """
    cdef Tensor tensor = to_tensor(x, "roll")
    if axis is None:
        return reshape(roll(reshape(tensor, -1), shift, 0), tensor.shape)
    axes = tuple(axis) if isinstance(axis, (tuple, list)) else (axis,)
    shifts = tuple(shift) if isinstance(shift, (tuple, list)) else (shift,) * len(axes)
    if len(shifts) != len(axes):
        raise ValueError(f"roll: shift {shift} and axis {axis} differ in length")
    axes = tuple([one_axis("roll", a, PyArray_NDIM(tensor.array)) for a in axes])
    shifts = tuple([whole("roll: shift", n) for n in shifts])
    return record(ROLL_, np.roll(tensor.array, shifts, axes), tensor, None, None, (shifts, axes))


cdef Op REPEAT_ = register("repeat", NO_KERNEL, np.repeat,
                           (lambda g, shape, repeats, axis: sum_repeats(g, shape, repeats, axis),),
                           attributes=("repeats", "axis"))
@method
def repeat(x: TensorLike, repeats: TensorLike | Sequence[int], axis: int | None = None) -> Tensor:
    """Each element along an axis `repeats` times in a row: one count, or one for each element. Without an
    axis, x is flattened first. (PyTorch calls this repeat_interleave, and calls `tile` repeat.)

    >>> mg.repeat(mg.tensor([1.0, 2.0]), 2)
    tensor([1., 1., 2., 2.])
    """
    cdef Tensor tensor = to_tensor(x, "repeat")
    if axis is None:
        tensor, axis = reshape(tensor, -1), 0
    cdef int along = one_axis("repeat", axis, PyArray_NDIM(tensor.array))
    counts = own_array(repeats, tensor)
    if counts.dtype.kind not in "iu":
        raise TypeError(f"repeat: repeats must be an int or integers, got {repeats!r:.60}")
    if counts.shape == (1,):
        counts = counts[0]                  # one count is for every element, as in NumPy
    if counts.ndim and counts.shape != tensor.shape[along:along + 1] or counts.size and counts.min() < 0:
        raise ValueError(f"repeat: expected one count of 0 or more, or {tensor.shape[along]} of them, "
                         f"got {repeats!r:.60}")
    out = np.repeat(tensor.array, counts, along)
    return record(REPEAT_, out, tensor, None, None, (counts, along))


cdef object sum_repeats(g, tuple shape, repeats, int axis):
    before = (slice(None),) * axis
    if repeats.ndim == 0:
        return sum(reshape(g, shape[:axis + 1] + (int(repeats),) + shape[axis + 1:]), axis + 1)
    return put(g, before + (np.repeat(np.arange(len(repeats)), repeats),), shape)


cdef Op DIAGONAL_ = register("diagonal", NO_KERNEL, None,
                             (lambda g, shape, offset, axis1, axis2:
                              onto_diagonal(g, shape, offset, axis1, axis2),),
                             attributes=("offset", "axis1", "axis2"))
@method
def diagonal(x: TensorLike, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """The elements whose index on axis2 is that on axis1 plus `offset`, along a new last dimension; a view,
    which is read-only.

    >>> mg.diagonal(mg.tensor([[1.0, 2.0], [3.0, 4.0]]))
    tensor([1., 4.])
    """
    cdef Tensor tensor = to_tensor(x, "diagonal")
    cdef int ndim = PyArray_NDIM(tensor.array), first, second
    if ndim < 2:
        raise ValueError(f"diagonal: expected two or more dimensions, got shape {tensor.shape}")
    first, second = one_axis("diagonal", axis1, ndim), one_axis("diagonal", axis2, ndim)
    if first == second:
        raise ValueError(f"diagonal: axis1 and axis2 are both {first}")
    offset = whole("diagonal: offset", offset)
    out = tensor.array.diagonal(offset, first, second)
    return record_view(DIAGONAL_, out, tensor, (offset, first, second))


cdef object onto_diagonal(g, tuple shape, offset, int axis1, int axis2):
    """Zeros with g on a diagonal: the adjoint of `diagonal`. In C order a diagonal is a slice."""
    rest = tuple([d for d in range(len(shape)) if d != axis1 and d != axis2])
    sizes = tuple([shape[d] for d in rest])
    rows, columns = shape[axis1], shape[axis2]
    first = offset if offset >= 0 else -offset * columns
    along = slice(first, first + g.shape[-1] * (columns + 1), columns + 1)
    flat = put(g, (Ellipsis, along), sizes + (rows * columns,))
    return permute_dims(reshape(flat, sizes + (rows, columns)), inverse(rest + (axis1, axis2)))


cdef Op ASTYPE_ = register("astype", NO_KERNEL, None, (lambda g, source: astype(g, source),),
                           attributes=("source",))
@method
def astype(x: TensorLike, dtype: DTypeLike) -> Tensor:
    """x in another dtype; x itself if it has that dtype. The gradient comes back in the dtype of x.

    Floats are truncated in an integer dtype. As in NumPy and PyTorch, the values are not checked: NaN,
    infinities and values out of range become arbitrary integers. (Python numbers and assignments raise
    instead.)

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
beside_rules(GETITEM_).add_part = add_picked
def getitem(x: TensorLike, index: Any) -> Tensor:
    """x[index] as in NumPy: a view for integers, slices, None and Ellipsis, a copy for index arrays.

    >>> from minigrad._core import ops
    >>> ops.getitem(mg.tensor([1.0, 2.0, 3.0]), slice(1, None))
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
        index = own_index(index)            # the caller may modify its index arrays before backward
    return record(GETITEM_, out, tensor, None, None, (index,))


@method
def take(x: TensorLike, indices: TensorLike, axis: int | None = None) -> Tensor:
    """The slices of x at integer `indices` along an axis, optional for a 1-d tensor; for axis=1
    x[:, indices].

    >>> mg.take(mg.tensor([10.0, 20.0, 30.0]), mg.tensor([2, 0]), axis=0)
    tensor([30., 10.])
    """
    cdef Tensor tensor = to_tensor(x, "take")
    cdef int ndim = PyArray_NDIM(tensor.array)
    cdef int along = one_axis("take", 0 if axis is None and ndim == 1 else axis, ndim)
    positions = own_array(indices, tensor)
    if positions.dtype.kind not in "iu":
        raise TypeError(f"take: indices must be integers, got {positions.dtype}")
    out = np.asarray(np.take(tensor.array, positions, along))
    return record(GETITEM_, out, tensor, None, None, ((slice(None),) * along + (positions,),))


cdef object own_array(numbers, Tensor tensor):
    """The numbers as an array; a private copy if the gradient of `tensor` will need it."""
    return np.array(plain_index(numbers), copy=True if tensor.requires and recording() else None)


cdef object own_index(index):
    if isinstance(index, tuple):
        return tuple([own_index(part) for part in index])
    if isinstance(index, np.ndarray):
        return index.copy()
    return [own_index(part) for part in index] if isinstance(index, list) else index


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
    """The integer array (C-contiguous, int64) of an index in which only full slices precede it; else None."""
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
    """out[index] += addend; repeated indices accumulate."""
    cdef int axis = 0
    cdef ndarray positions = picked_slices(index, &axis)
    if is_basic(index):
        if not isinstance(index, tuple):
            index = (index,)
        view = out[index if Ellipsis in index else index + (Ellipsis,)]
        np.add(view, addend, view)
    elif (positions is not None and axis < PyArray_NDIM(out)
          and PyArray_TYPE(out) in (NPY_FLOAT, NPY_DOUBLE) and PyArray_TYPE(out) == PyArray_TYPE(addend)
          and shape_of(addend) == shape_of(out)[:axis] + shape_of(positions) + shape_of(out)[axis + 1:]):
        loops.add_slices("put", contiguous(addend), positions, axis, out)
    elif isinstance(index, np.ndarray) and index.dtype == bool:
        out[index] = out[index] + addend
    else:
        np.add.at(out, index, addend)


cdef void add_picked(ndarray whole, ndarray part, tuple attributes) except *:
    add_at(whole, attributes[0], part)


cdef Op PUT_ = register("put", NO_KERNEL, None, (lambda g, index: getitem(g, index),), attributes=("index",))
def put(x: TensorLike, index: Any, shape: Sequence[int]) -> Tensor:
    """Zeros of `shape` with x added at [index]; repeated indices accumulate. The adjoint of x[index].

    >>> from minigrad._core import ops
    >>> ops.put(mg.tensor([1.0, 2.0]), mg.tensor([0, 0]), (3,))
    tensor([3., 0., 0.])
    """
    cdef Tensor tensor = to_tensor(x, "put")
    cdef ndarray out = np.zeros(sizes_of(shape, "put"), tensor.array.dtype)
    index = own_index(plain_index(index)) if tensor.requires and recording() else plain_index(index)
    try:
        add_at(out, index, tensor.array)
    except (ValueError, IndexError) as error:
        raise type(error)(f"put: shape {tensor.shape} at {index!r} of shape {shape}: {error}") from None
    return record(PUT_, out, tensor, None, None, (index,))


cdef Op TAKE_ALONG_AXIS_ = register("take_along_axis", NO_KERNEL, None,
                                    (lambda g, shape, indices, axis:
                                     add_along_axis(g, indices, axis, shape),),
                                    attributes=("indices", "axis"))
@method
def take_along_axis(x: TensorLike, indices: TensorLike, axis: int = -1) -> Tensor:
    """x at the integer `indices` along an axis. Both have the same number of dimensions; all but `axis` are
    broadcast. A negative index counts from the end. Raises IndexError out of bounds.

    >>> mg.take_along_axis(mg.tensor([[1.0, 2.0], [3.0, 4.0]]), mg.tensor([[1], [0]]), axis=1)
    tensor([[2.],
            [3.]])
    """
    cdef Tensor tensor = to_tensor(x, "take_along_axis")
    cdef bint own = tensor.requires and recording()
    cdef Positions kept = integer_positions("take_along_axis", indices, tensor.array.ndim, own)
    cdef ndarray positions = kept.array
    cdef int d, along = one_axis("take_along_axis", axis, PyArray_NDIM(tensor.array))
    for d in range(PyArray_NDIM(positions)):
        if d != along and PyArray_DIMS(positions)[d] != PyArray_DIMS(tensor.array)[d]:
            return take_broadcast(tensor, positions, along)
    kept.check("take_along_axis", along, PyArray_DIMS(tensor.array)[along])
    out = loops.take_along_axis(contiguous(tensor.array), positions, along)
    return record(TAKE_ALONG_AXIS_, out, tensor, None, None, (kept, along))


cdef object take_broadcast(Tensor x, ndarray positions, int axis):
    """`take_along_axis` of operands that are first broadcast in all dimensions but `axis`."""
    sizes, picked = x.shape, shape_of(positions)
    try:
        common = np.broadcast_shapes(sizes[:axis] + (1,) + sizes[axis + 1:],
                                     picked[:axis] + (1,) + picked[axis + 1:])
    except ValueError:
        raise ValueError(f"take_along_axis: indices of shape {picked} and x of shape {sizes} do not "
                         f"broadcast in the dimensions other than axis {axis}") from None
    x = broadcast_to(x, common[:axis] + sizes[axis:axis + 1] + common[axis + 1:])
    return take_along_axis(x, np.broadcast_to(positions, common[:axis] + picked[axis:axis + 1]
                                              + common[axis + 1:]), axis)


cdef Op ADD_ALONG_AXIS_ = register("add_along_axis", NO_KERNEL, None,
                                   (lambda g, indices, axis: take_along_axis(g, indices, axis),),
                                   attributes=("indices", "axis"))
def add_along_axis(x: TensorLike, indices: TensorLike, axis: int, shape: Sequence[int]) -> Tensor:
    """Zeros of `shape` with x added at `indices`, of the shape of x, along an axis: the adjoint of
    `take_along_axis`.

    >>> from minigrad._core import ops
    >>> ops.add_along_axis(mg.tensor([[1.0, 2.0]]), mg.tensor([[0, 0]]), 1, (1, 3))
    tensor([[3., 0., 0.]])
    """
    cdef Tensor tensor = to_tensor(x, "add_along_axis")
    cdef bint own = tensor.requires and recording()
    cdef Positions kept = integer_positions("add_along_axis", indices, tensor.array.ndim, own)
    cdef ndarray positions = kept.array
    cdef tuple sizes = sizes_of(shape, "add_along_axis")
    cdef int along = one_axis("add_along_axis", axis, PyArray_NDIM(tensor.array))
    if (tensor.shape != (<object> positions).shape or len(sizes) != tensor.array.ndim
            or sizes[:along] + sizes[along + 1:] != tensor.shape[:along] + tensor.shape[along + 1:]):
        raise ValueError(f"add_along_axis: x {tensor.shape}, indices {(<object> positions).shape} "
                         f"and shape {sizes} must agree but for axis {along} of the last")
    if tensor.array.dtype.kind != "f":
        grid = list(np.indices((<object> positions).shape))
        grid[along] = positions
        return put(tensor, tuple(grid), sizes)
    kept.check("add_along_axis", along, sizes[along])
    out = loops.add_along_axis(contiguous(tensor.array), positions, along, sizes)
    return record(ADD_ALONG_AXIS_, out, tensor, None, None, (kept, along))


cdef ndarray NO_POSITIONS = np.zeros(0, np.int64)


cdef class Positions:
    """Integer indices as a C-contiguous int64 array; a private copy if a gradient rule will need it."""
    cdef readonly ndarray array
    cdef npy_intp length                    # of the axis for which they have been checked

    def __cinit__(self):
        self.array = NO_POSITIONS           # until the engine sets it: never None

    cdef void check(self, str name, int axis, npy_intp length) except *:
        if length != self.length or length == 0:
            loops.check_positions(name, self.array, axis, length)
            self.length = length


cdef Positions integer_positions(str name, indices, int ndim, bint own):
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
    if PyArray_TYPE(array) != NPY_INT64 or not cnp.PyArray_ISBEHAVED_RO(array):
        array = array.astype(np.int64, order="C")
    elif own:
        array = cnp.PyArray_NewCopy(array, cnp.NPY_CORDER)
    positions.array = contiguous(array)
    return positions


cdef Op SORT_ = register("sort", NO_KERNEL, np.sort,
                         (lambda g, x, axis, descending, stable:
                          add_along_axis(g, argsort(x, axis, descending, stable), axis, x.shape),),
                         attributes=("axis", "descending", "stable"))
@method
def sort(x: TensorLike, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The elements in ascending order along an axis, NaN last, or in descending order, NaN first. If
    `stable`, equal elements (0.0 and -0.0 too) keep their order. The gradient of equal elements follows the
    order of `argsort` with these arguments.

    >>> mg.sort(mg.tensor([3.0, 1.0, 2.0]), descending=True)
    tensor([3., 2., 1.])
    """
    cdef Tensor tensor = to_tensor(x, "sort")
    cdef int along = one_axis("sort", axis, PyArray_NDIM(tensor.array))
    cdef ndarray array = np.flip(tensor.array, along) if descending and stable else tensor.array
    # Equal integers are the same, and so are equal floats but 0.0 and -0.0, which NumPy's fast sort mixes up.
    zeros = (stable and array.dtype.kind == "f"
             and (PyArray_SIZE(array) < MANY or has_negative_zero(array)))
    out = np.sort(array, along, stable=True if zeros else None)
    if descending:
        out = np.flip(out, along)
    return record(SORT_, out, tensor, None, None, (along, bool(descending), bool(stable)))


@method
def argsort(x: TensorLike, axis: int = -1, descending: bool = False, stable: bool = True) -> Tensor:
    """The positions, int64, of the elements in ascending order along an axis, NaN last, or in descending
    order, NaN first. If `stable`, equal elements keep their order.

    >>> mg.argsort(mg.tensor([3.0, 1.0, 2.0]))
    tensor([1, 2, 0])
    """
    cdef ndarray array = to_tensor(x, "argsort").array
    cdef int along = one_axis("argsort", axis, PyArray_NDIM(array))
    if descending and stable:               # reversed twice, so that equal elements are not
        last = PyArray_DIMS(array)[along] - 1
        return wrap(checked(last - np.flip(stable_order(np.flip(array, along), along), along)))
    order = stable_order(array, along) if stable else np.argsort(array, along)
    return wrap(checked(np.flip(order, along) if descending else order))


# The integer dtype of a float's size; its minimum, which has the bits of -0.0; its maximum.
cdef dict INTEGERS = {4: (np.dtype("int32"), np.int32(-1 << 31), np.int32((1 << 31) - 1)),
                      8: (np.dtype("int64"), np.int64(-1 << 63), np.int64((1 << 63) - 1))}


cdef bint has_negative_zero(ndarray x) except -1:
    bits, least, _ = INTEGERS[x.itemsize]
    return bool((x.view(bits) == least).any())


cdef object stable_order(ndarray x, int axis):
    """np.argsort(x, axis, stable=True), which is 3 times slower than NumPy's default. So rows are sorted with
    the default, and again if they have equal elements; long rows of 32 bits become integers of 64 bits with
    the position in the lower half, so that no two are equal."""
    cdef int last = PyArray_NDIM(x) - 1
    cdef npy_intp length = PyArray_DIMS(x)[axis]
    if PyArray_SIZE(x) < MANY:
        return np.argsort(x, axis, stable=True)
    cdef ndarray rows = contiguous(cnp.PyArray_SwapAxes(x, axis, last)), order
    if x.itemsize <= 4 and length > 16 * MANY:
        order = sort_keys(rows).astype(np.int64) << 32
        order |= np.arange(length)
        order.sort(-1)
        order &= (1 << 32) - 1
    else:
        order = np.argsort(rows, -1)
        ordered = loops.take_along_axis(rows, order, last)
        tied = ~(ordered[..., 1:] > ordered[..., :-1]).all(-1)
        if tied.any():
            order[tied] = np.argsort((<object> rows)[tied], -1, stable=True)
    return contiguous(cnp.PyArray_SwapAxes(order, axis, last))


cpdef object sort_keys(ndarray x):  # type: NDArray[Any]
    """Integers or bools that sort as the elements of x do: equal for 0.0 and -0.0, and for NaNs, which come
    last. The bits of floats sort as the floats do, but in reverse for negative ones."""
    if x.dtype.kind != "f":
        return x
    bits, _, largest = INTEGERS[x.itemsize]
    keys = (x + 0).view(bits)
    keys ^= (keys >> (8 * x.itemsize - 1)) & largest
    keys[np.isnan(x)] = largest
    return keys


cdef Op CONCAT_ = register("concat", NO_KERNEL, None,
                           (lambda g, axis, offsets, i: section(g, axis, offsets, i),),
                           attributes=("axis", "offsets"), variadic=True)
@exported
def concat(arrays: Sequence[TensorLike], axis: int | None = 0) -> Tensor:
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
    cdef list tensors = list(to_tensors(tuple(arrays), "concat")), offsets = [0]
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
    along = one_axis("concat", axis, ndim)
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


# =================================================================================================== windows
cdef Op SLIDING_WINDOWS_ = register(
    "sliding_windows", NO_KERNEL, None,
    (lambda g, shape, stride, dilation: overlap_add(g, shape, stride, dilation),),
    attributes=("stride", "dilation"))
@exported
def sliding_windows(x: TensorLike, kernel_size: int | Sequence[int], stride: int | Sequence[int] = 1,
                    dilation: int | Sequence[int] = 1) -> Tensor:
    """Sliding windows over the last k axes of x, k the length of kernel_size (an int is one axis): the shape
    (..., *places, *kernel_size), as numpy.lib.stride_tricks.sliding_window_view. A read-only view.

    stride: the distance of neighbouring windows; dilation: the distance of the elements of a window; ints or
    k ints. There are (size - dilation (kernel - 1) - 1) // stride + 1 places along an axis. Raises
    ValueError for a window larger than its axis.

    >>> mg.sliding_windows(mg.tensor([1.0, 2.0, 3.0, 4.0]), 2)
    tensor([[1., 2.],
            [2., 3.],
            [3., 4.]])
    """
    cdef Tensor tensor = to_tensor(x, "sliding_windows")
    cdef tuple kernel = per_axis("sliding_windows", "kernel_size", kernel_size, 0, 1)
    cdef int k = len(kernel)
    steps = per_axis("sliding_windows", "stride", stride, k, 1)
    gaps = per_axis("sliding_windows", "dilation", dilation, k, 1)
    view = windows("sliding_windows", tensor.array, kernel, steps, gaps, 0)
    return record_view(SLIDING_WINDOWS_, view, tensor, (steps, gaps))


cdef Op OVERLAP_ADD_ = register(
    "overlap_add", NO_KERNEL, None,
    (lambda g, kernel_size, stride, dilation: sliding_windows(g, kernel_size, stride, dilation),),
    attributes=("kernel_size", "stride", "dilation"))
@exported
def overlap_add(x: TensorLike, shape: Sequence[int], stride: int | Sequence[int] = 1,
                dilation: int | Sequence[int] = 1) -> Tensor:
    """Zeros of `shape` with windows x (..., *places, *kernel_size) added where `sliding_windows` takes them
    from: its adjoint. Raises ValueError unless `sliding_windows` of that shape gives the shape of x.

    >>> mg.overlap_add(mg.tensor([[1.0, 2.0], [2.0, 3.0], [3.0, 4.0]]), (4,))
    tensor([1., 4., 6., 4.])
    """
    cdef Tensor tensor = to_tensor(x, "overlap_add")
    cdef npy_intp target[64]
    cdef tuple sizes = sizes_of(shape, "overlap_add")
    cdef int ndim = len(sizes), k = PyArray_NDIM(tensor.array) - ndim, d
    cdef ndarray out, view
    if tensor.array.dtype.kind != "f":
        raise TypeError(f"overlap_add: expected float32 or float64, got {tensor.array.dtype}; use "
                        "x.astype(mg.float32)")
    if not 0 < k <= ndim:
        raise ValueError(f"overlap_add: x {tensor.shape} must have between one and {ndim} dimensions more "
                         f"than the shape {sizes}: places and kernel sizes for each axis with windows")
    kernel = tensor.shape[ndim:]
    steps = per_axis("overlap_add", "stride", stride, k, 1)
    gaps = per_axis("overlap_add", "dilation", dilation, k, 1)
    for d in range(ndim):
        target[d] = sizes[d]
    out = loops.zeros(ndim, target, PyArray_TYPE(tensor.array))
    view = windows("overlap_add", out, kernel, steps, gaps, cnp.NPY_ARRAY_WRITEABLE)
    if shape_of(view) != tensor.shape:
        raise ValueError(f"overlap_add: shape {sizes} has windows {shape_of(view)} with stride {steps} and "
                         f"dilation {gaps}, not {tensor.shape}")
    loops.transfer(tensor.array, view, True)
    return record(OVERLAP_ADD_, out, tensor, None, None, (kernel, steps, gaps))


cdef tuple per_axis(str name, str what, value, int k, int least):
    """An option for each of k axes (of any number if k is 0) from an int or a tuple of ints."""
    given = value if isinstance(value, (tuple, list)) else (value,) * (k or 1)
    numbers = tuple([integer(n) for n in given])
    if None in numbers:
        raise TypeError(f"{name}: {what} must be an int or a tuple of ints, got {value!r}")
    if not numbers or len(numbers) != (k or len(numbers)) or min_of(numbers) < least:
        raise ValueError(f"{name}: {what} must be an int or {k or 'some'} ints of at least {least}, got "
                         f"{value!r}")
    return numbers


cdef object min_of(sequence):               # `min` is the reduction here
    return sorted(sequence)[0]


cdef ndarray windows(str name, ndarray base, tuple kernel, tuple stride, tuple dilation, int flags):
    """The view of `sliding_windows`, writable with flags."""
    cdef npy_intp shape[64]
    cdef npy_intp strides[64]
    cdef int k = len(kernel), ndim = PyArray_NDIM(base), d, i
    cdef npy_intp span, step, gap, width
    if k > ndim or ndim + k > 64:
        raise ValueError(f"{name}: {k} sizes of a kernel for {ndim} dimensions")
    for d in range(ndim):
        shape[d], strides[d] = PyArray_DIMS(base)[d], PyArray_STRIDES(base)[d]
        i = d - ndim + k
        if i < 0:
            continue
        width, step, gap = kernel[i], stride[i], dilation[i]
        span = gap * (width - 1) + 1
        if span > shape[d]:
            raise ValueError(f"{name}: a window of {width} elements with dilation {gap} spans {span}, and "
                             f"axis {d} of shape {shape_of(base)} has {shape[d]}")
        shape[ndim + i], strides[ndim + i] = width, gap * strides[d]
        shape[d], strides[d] = (shape[d] - span) // step + 1, step * strides[d]
    return strided_view(base, ndim + k, shape, strides, flags)


cdef Op PAD_ = register("pad", NO_KERNEL, None, (lambda g, index: getitem(g, index),), attributes=("index",))
@exported
def pad(x: TensorLike, pad_width: Any, mode: str = "constant", value: float = 0) -> Tensor:
    """x with pad_width = ((before, after), ...) additional elements along its axes, as in numpy.pad; one pair
    applies to every axis, an int to every side.

    mode: "constant" for elements equal to `value`; or, as NumPy names them, "edge" (also called replicate),
    "reflect", "symmetric" and "wrap" (also called circular) for elements of x. Raises ValueError for
    negative widths and other modes.

    >>> mg.pad(mg.tensor([1.0, 2.0, 3.0]), (2, 1), mode="reflect")
    tensor([3., 2., 1., 2., 3., 2.])
    """
    cdef Tensor tensor = to_tensor(x, "pad")
    cdef int ndim = PyArray_NDIM(tensor.array), d
    cdef npy_intp sizes[64]
    cdef npy_intp before, after
    cdef ndarray out
    cdef tuple widths = pad_widths(pad_width, ndim)
    if mode != "constant":
        return padded_by_index(tensor, widths, mode)
    index = []
    for d in range(ndim):
        before, after = widths[d]
        sizes[d] = PyArray_DIMS(tensor.array)[d] + before + after
        index.append(slice(before, before + PyArray_DIMS(tensor.array)[d]))
    number = python_number(value)
    if number is None:
        if drops_graph([to_tensor(value, "pad")]):
            raise RuntimeError("pad: value requires grad, and its gradient would be lost; use mg.concat, or "
                               "value.item()")
        number = to_tensor(value, "pad").item()
    filling = number_array(number, PyArray_TYPE(tensor.array), "pad")
    out = loops.empty(ndim, sizes, PyArray_TYPE(tensor.array))
    inner = tuple(index) + (Ellipsis,)
    for d in range(ndim):                   # along d, between what was padded along the axes before it
        before, after = widths[d]
        part = out[inner[:d]]
        part[(slice(None),) * d + (slice(before),)] = filling
        part[(slice(None),) * d + (slice(sizes[d] - after, None),)] = filling
    loops.transfer(tensor.array, out[inner], False)
    return record(PAD_, out, tensor, None, None, (inner,))


cdef bint are_pairs(pad_width, int ndim):
    """Whether this is a tuple of one pair per axis, the common case; np.broadcast_to would take 8 us."""
    if type(pad_width) is not tuple or len(pad_width) != ndim:
        return False
    for pair in pad_width:
        if type(pair) is not tuple or len(pair) != 2:
            return False
        for n in pair:
            if type(n) is not int or n < 0:
                return False
    return True


cdef tuple pad_widths(pad_width, int ndim):
    if are_pairs(pad_width, ndim):
        return pad_width
    if isinstance(pad_width, (bool, float, str)) or np.asarray(pad_width).dtype.kind not in "iu":
        raise TypeError(f"pad: pad_width must hold ints, got {pad_width!r}")
    try:
        widths = np.broadcast_to(pad_width, (ndim, 2)).tolist()
    except ValueError:
        raise ValueError(f"pad: pad_width must be an int, a pair of ints, or one for each of {ndim} axes, "
                         f"got {pad_width!r}") from None
    if ndim and min_of([n for pair in widths for n in pair]) < 0:
        raise ValueError(f"pad: a width cannot be negative, got {pad_width!r}")
    return tuple([tuple(pair) for pair in widths])


cdef object padded_by_index(x, tuple widths, mode):
    modes = {"edge": "edge", "replicate": "edge", "reflect": "reflect", "symmetric": "symmetric",
             "wrap": "wrap", "circular": "wrap"}
    if mode not in modes:
        raise ValueError(f"pad: mode must be 'constant' or one of {', '.join(modes)}, got {mode!r}")
    for d, width in enumerate(widths):
        if width != (0, 0):
            try:
                index = np.pad(np.arange(x.shape[d]), width, modes[mode])
            except ValueError as error:
                raise ValueError(f"pad: axis {d} of shape {x.shape}: {error}") from None
            x = getitem(x, (slice(None),) * d + (index,))
    return x


def window_max(x: TensorLike, starts: Sequence[Any], stops: Sequence[Any], steps: Sequence[int],
               return_indices: bool = False) -> Any:
    """The largest element of each window of the last k axes of x, k 1 or 2: the shape (..., *places), NaN if
    the window has one. The gradient goes to the first maximum: x is indexed along these axes, flattened.

    starts, stops: for each axis the indices where its windows start and stop; steps: how far apart the
    elements of a window are. return_indices: also the int64 indices. Raises ValueError for a window that is
    empty or leaves its axis.

    >>> from minigrad._core import ops
    >>> ops.window_max(mg.tensor([1.0, 5.0, 2.0, 7.0]), [[0, 2]], [[2, 4]], [1])
    tensor([5., 7.])
    """
    cdef Tensor tensor = floating(x, "window_max"), flat
    cdef ndarray array = contiguous(tensor.array)
    cdef list bounds
    cdef Positions kept = Positions.__new__(Positions)
    cdef int k = len(starts), n = PyArray_NDIM(array)
    if not 1 <= k <= 2 or k > n or len(stops) != k or len(steps) != k or min_of(steps) < 1:
        raise ValueError(f"window_max: expected starts, stops and positive steps for one or two axes of "
                         f"{tensor.shape}, got {k}, {len(stops)} and {steps}")
    bounds = [np.ascontiguousarray(side[d], np.int64) for d in range(k) for side in (starts, stops)]
    places, before = tuple([bound.size for bound in bounds[::2]]), tensor.shape[:n - k]
    if k == 1:                              # a row is a plane of height 1
        array = array.reshape(before + (1,) + tensor.shape[n - 1:])
        bounds, steps = [np.zeros(1, np.int64), np.ones(1, np.int64)] + bounds, [1, steps[0]]
    largest, index = loops.first_maxima_of("window_max", array, bounds, steps[0], steps[1])
    kept.array = index.reshape(before + (math.prod(places),))
    kept.length = math.prod(tensor.shape[n - k:])
    flat = reshape(tensor, before + (kept.length,))
    largest = largest.reshape((<object> kept.array).shape)
    out = reshape(record(TAKE_ALONG_AXIS_, largest, flat, None, None, (kept, n - k)), before + places)
    return (out, wrap(kept.array.copy().reshape(before + places))) if return_indices else out


cdef Op PACKED_MATMUL_ = register("packed_matmul", NO_KERNEL, None,
                                  (lambda g, y, matrices: packed_outer(g, y, matrices),
                                   lambda g, x, source: reshape(matmul(matrix_transpose(x), g), source),
                                   lambda g: sum(g, (0, g.ndim - 1))),
                                  inputs=("x", "y", "bias"), attributes=("matrices", "source"))
def packed_matmul(x: TensorLike, y: TensorLike, shape: Sequence[int],
                  bias: TensorLike | None = None) -> Tensor:
    """x @ reshape(y, shape) + bias[..., None] for x (..., n, k), y of that shape (b, ..., k, m), b being an
    axis that x does not have, and bias (..., n) or None: (b, ..., n, m). Unlike that composition, it adds the
    bias in place, and copies a y that is not viewable in this shape, such as sliding windows, block by block
    and again for the gradient, instead of saving the copy.

    >>> from minigrad._core import ops
    >>> windows = mg.sliding_windows(mg.tensor([1.0, 2.0, 4.0]), 2)
    >>> ops.packed_matmul(mg.ones(1, 2), windows, (2, 2, 1)).tolist()
    [[[3.0]], [[6.0]]]
    """
    cdef Tensor a, b, c = None if bias is None else to_tensor(bias, "packed_matmul")
    a, b, matrices = packed_operands("packed_matmul", x, y, shape)
    if a.shape[:-2] not in ((), matrices[1:-2]) or a.shape[-1] != matrices[-2]:
        raise ValueError(f"packed_matmul: {a.shape} @ {matrices}: the inner sizes differ, or what stands "
                         "before the matrices")
    if c is not None and c.shape != matrices[1:-2] + a.shape[-2:-1]:
        raise ValueError(f"packed_matmul: expected a bias of shape {matrices[1:-2] + a.shape[-2:-1]}, got "
                         f"{c.shape}")
    if c is not None and PyArray_TYPE(c.array) != PyArray_TYPE(a.array):
        return packed_matmul(a, b, matrices) + reshape(c, c.shape + (1,))
    if a.array.dtype.kind != "f" or PyArray_SIZE(b.array) == 0:
        product = matmul(a, reshape(b, matrices))
        return product if c is None else product + reshape(c, c.shape + (1,))
    out = products.packed_matmul(a.array, b.array, matrices, None if c is None else contiguous(c.array))
    return record(PACKED_MATMUL_, out, a, b, None if c is None else (c,), (matrices, b.shape))


cdef Op PACKED_OUTER_ = register("packed_outer", NO_KERNEL, None,
                                 (lambda g, y, matrices: packed_matmul(g, y, matrices),
                                  lambda g, x, source: reshape(matmul(matrix_transpose(g), x), source)),
                                 attributes=("matrices", "source"))
def packed_outer(x: TensorLike, y: TensorLike, shape: Sequence[int]) -> Tensor:
    """The sum over b of x[b] @ reshape(y, shape)[b].mT, for x (b, ..., n, m) and y of that shape
    (b, ..., k, m): (..., n, k). The gradient of `packed_matmul` for its x.

    >>> from minigrad._core import ops
    >>> ops.packed_outer(mg.ones(2, 1, 1), mg.sliding_windows(mg.tensor([1.0, 2.0, 4.0]), 2), (2, 2, 1))
    tensor([[3., 6.]])
    """
    cdef Tensor a, b
    a, b, matrices = packed_operands("packed_outer", x, y, shape)
    if a.shape[:-2] != matrices[:-2] or a.shape[-1] != matrices[-1]:
        raise ValueError(f"packed_outer: shapes {a.shape} and {matrices} must agree but for their last axis "
                         "but one")
    if a.array.dtype.kind != "f" or PyArray_SIZE(b.array) == 0:
        if a.array.dtype.kind == "i":
            a = astype(a, np.int64)         # as the sum is, so that no product of int32 overflows
        return sum(matmul(a, matrix_transpose(reshape(b, matrices))), 0)
    out = products.packed_outer(a.array, b.array, matrices)
    return record(PACKED_OUTER_, out, a, b, None, (matrices, b.shape))


cdef tuple packed_operands(str name, x, y, shape):
    cdef Tensor a = to_tensor(x, name), b = to_tensor(y, name)
    cdef tuple matrices = sizes_of(shape, name)
    if (len(a.shape) < 2 or len(matrices) < 3 or math.prod(matrices) != PyArray_SIZE(b.array)
            or PyArray_NDIM(b.array) == 0 or PyArray_DIMS(b.array)[0] != matrices[0]):
        raise ValueError(f"{name}: expected matrices {a.shape} and {b.shape}, the latter in the shape "
                         f"{matrices} of three or more axes, the first of which it has")
    if PyArray_TYPE(a.array) != PyArray_TYPE(b.array):
        dtype = np.result_type(a.array.dtype, b.array.dtype)
        a, b = astype(a, dtype), astype(b, dtype)
    return a, b, matrices


# ================================================================================================== matrices
cdef Op MATMUL_ = register("matmul", NO_KERNEL, np.matmul,
                           (lambda g, y: matmul(g, matrix_transpose(y)),
                            lambda g, x: matmul(matrix_transpose(x), g)),
                           core_dims=2)
beside_rules(MATMUL_).sums = (
    lambda gs, ys: matmul(concat(gs, 1), matrix_transpose(concat(ys, 1))),
    lambda gs, xs: matmul(matrix_transpose(concat(xs)), concat(gs)))
@method
def matmul(x: TensorLike, y: TensorLike) -> Tensor:
    """The matrix product x @ y as in NumPy: (..., n, k) @ (..., k, m) -> (..., n, m). Leading dimensions
    broadcast; a 1-d operand is a row on the left or a column on the right.

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
        out = products.matmul(a.array, b.array)
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


@method
def matrix_transpose(x: TensorLike) -> Tensor:
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
beside_rules(LINEAR_).sums = (None, lambda gs, xs: matmul(matrix_transpose(concat(gs)), concat(xs)))
@exported
def linear(x: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
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
    out = products.matmul(a.array, cnp.PyArray_SwapAxes(w.array, 0, 1),
                          None if b is None else contiguous(b.array))
    return record(LINEAR_, out, a, w, None if b is None else (b,))


cdef Op LSTM_CELL_ = register("lstm_cell", NO_KERNEL, None,
                              (lambda g, gates, cell, kept: lstm_slope(g, gates, cell, True),
                               lambda g, gates, cell, kept: lstm_slope(g, gates, cell, False)),
                              inputs=("gates", "cell"), attributes=("kept",))
faster_rules(LSTM_CELL_, LSTM_STEP,
             lambda g, gates, cell, kept: lstm_slope_of(kept, g, cell, True),
             lambda g, gates, cell, kept: lstm_slope_of(kept, g, cell, False))
def lstm_cell(gates: TensorLike, cell: TensorLike) -> Tensor:
    """One step of long short-term memory: gates (4 n, ...), the blocks i, f, g, o before their activation,
    and the cell (n, ...) give (2 n, ...), the next cell c = sigmoid(f) cell + sigmoid(i) tanh(g) and the
    output sigmoid(o) tanh(c). A primitive of its own, since the composition takes 13 passes over memory
    forward and 25 backward.

    >>> from minigrad._core import ops
    >>> ops.lstm_cell(mg.zeros(4), mg.ones(1))
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
    cdef Tensor kept = None
    cdef ndarray out
    if LSTM_STEP.taken():
        kept = wrap(recurrent.blocks(c.array, 5))
        out = recurrent.cell_forward(contiguous(z.array), contiguous(c.array), kept.array)
    else:
        out = unobserved(lstm_step, z.array, c.array)
    return record(LSTM_CELL_, out, z, c, None, (kept,))


cdef ndarray unobserved(object definition, ndarray x, ndarray y):
    """Evaluate a definition in primitives outside the graph, hidden from observers."""
    observer = observe(None)
    try:
        return (<Tensor> definition(wrap(x), wrap(y))).array
    finally:
        observe(observer)


def lstm_step(gates: TensorLike, cell: TensorLike) -> Tensor:
    """The formula of `lstm_cell`."""
    n = cell.shape[0]
    i, f, g, o = [gates[k * n:(k + 1) * n] for k in range(4)]
    after = sigmoid(f) * cell + sigmoid(i) * tanh(g)
    return concat([after, sigmoid(o) * tanh(after)])


cdef object lstm_slope_of(Tensor kept, Tensor g, Tensor cell, bint of_gates):
    """`lstm_slope` in one pass, from what the forward kept, if it did."""
    return None if kept is None else wrap(recurrent.cell_backward(
        contiguous(g.array), contiguous(cell.array), kept.array, of_gates))


cdef object lstm_slope(Tensor g, Tensor gates, Tensor cell, bint of_gates):
    """The rule of `lstm_cell` for either input."""
    n = cell.shape[0]
    z_i, z_f, z_g, z_o = [gates[k * n:(k + 1) * n] for k in range(4)]
    i, f, m, o = sigmoid(z_i), sigmoid(z_f), tanh(z_g), sigmoid(z_o)
    c = f * cell + i * m
    down = g[:n] + g[n:] * o * tanh_slope(c)
    if not of_gates:
        return down * f
    return concat([down * m * sigmoid_slope(z_i), down * cell * sigmoid_slope(z_f),
                   down * i * tanh_slope(z_g), g[n:] * tanh(c) * sigmoid_slope(z_o)])


cdef Op SOFTMAX_CROSS_ENTROPY_ = register(
    "softmax_cross_entropy", NO_KERNEL, None,
    (lambda g, x, labels, kept: slope_of_cross_entropy(g, x, labels),), inputs=("x",),
    attributes=("labels", "kept"))
faster_rules(SOFTMAX_CROSS_ENTROPY_, CROSS_ENTROPY, lambda g, x, labels, kept: None if kept is None else
             wrap(loss.cross_entropy_slopes(contiguous((<Tensor> x).array), labels, kept,
                                            contiguous((<Tensor> g).array))))
def softmax_cross_entropy(x: TensorLike, labels: TensorLike) -> Tensor:
    """-log(softmax(x)) at the label of each row: x (n, C), labels (n,) of integers in [0, C), to (n,). A
    primitive of its own, because training steps of small nets spent a fifth of their time on its composition.
    Raises IndexError for a label outside [0, C), TypeError for float labels.

    >>> from minigrad._core import ops
    >>> ops.softmax_cross_entropy(mg.zeros(2, 4), mg.tensor([0, 3]))
    tensor([1.3862944, 1.3862944])
    """
    cdef Tensor rows = to_tensor(x, "softmax_cross_entropy")
    cdef ndarray classes = to_tensor(labels, "softmax_cross_entropy").array
    cdef npy_intp sizes[2]
    if (PyArray_NDIM(rows.array) != 2 or PyArray_NDIM(classes) != 1
            or PyArray_DIMS(rows.array)[0] != PyArray_DIMS(classes)[0]):
        raise ValueError("softmax_cross_entropy: expected x of shape (n, C) and labels of shape (n,), got "
                         f"{rows.shape} and {shape_of(classes)}")
    if PyArray_TYPE(classes) != NPY_INT64 and PyArray_TYPE(classes) != NPY_INT32:
        raise TypeError(f"softmax_cross_entropy: expected labels of integers, got {classes.dtype}")
    if PyArray_TYPE(rows.array) != NPY_FLOAT and PyArray_TYPE(rows.array) != NPY_DOUBLE:
        rows = astype(rows, np.float32 if PyArray_TYPE(rows.array) == NPY_BOOL else np.float64)
    # A private copy of the labels, as the caller may modify them before backward.
    classes = loops.copied(classes) if PyArray_TYPE(classes) == NPY_INT64 else classes.astype(np.int64)
    if count_classes("softmax_cross_entropy", classes, PyArray_DIMS(rows.array)[1], NO_LABEL) != len(classes):
        raise IndexError(f"softmax_cross_entropy: label {NO_LABEL} is out of range")
    sizes[0], sizes[1] = 2, PyArray_DIMS(classes)[0]
    cdef ndarray kept = None, out
    if CROSS_ENTROPY.taken():
        kept = loops.empty(2, sizes, NPY_DOUBLE)
        out = loss.cross_entropy(contiguous(rows.array), classes, kept)
    else:
        out = unobserved(picked_entropy, rows.array, classes)
    return record(SOFTMAX_CROSS_ENTROPY_, out, rows, None, None, (classes, kept))


def picked_entropy(x: TensorLike, labels: TensorLike) -> Tensor:
    """The formula of `softmax_cross_entropy`."""
    return negative(reshape(take_along_axis(log_softmax(x, 1), reshape(labels, (-1, 1)), 1), (-1,)))


cdef long long NO_LABEL = -(<long long> 1 << 62)


cdef object slope_of_cross_entropy(Tensor g, Tensor x, ndarray labels):
    hot = np.zeros(x.shape, bool)
    hot[np.arange(len(labels)), labels] = True
    log_p = log_softmax(x, 1)
    return where(wrap(hot), expm1(log_p), exp(log_p)) * reshape(g, (-1, 1))


def zeros_like(x: TensorLike, dtype: DTypeLike | None = None) -> Tensor:
    """Zeros in the shape and dtype of x (or another dtype), outside the graph.

    >>> mg.zeros_like(mg.tensor([1.0, 2.0]))
    tensor([0., 0.])
    """
    cdef ndarray array = to_tensor(x, "zeros_like").array
    if dtype is None:
        return wrap(cnp.PyArray_ZEROS(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array), 0))
    return wrap(checked(np.zeros(tuple([PyArray_DIMS(array)[d] for d in range(PyArray_NDIM(array))]), dtype)))


# ------------------------------------------------------------------------------ what users call a primitive
cdef object name, function
for name, function in globals().items():
    if name in registry:
        (<Op> registry[name]).function = function
