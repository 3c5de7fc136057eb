# Primitives over windows: sliding windows and their adjoint, padding, pooling, convolutions as products.
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
    """As `checks.per_axis` (k 0: any number of axes), which would take 5 of 20 us of a small convolution."""
    given = value if isinstance(value, (tuple, list)) else (value,) * (k or 1)
    numbers = tuple([n if type(n) is int else as_int(n) for n in given])
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
    plain = type(shape) is tuple and all([type(n) is int and n >= 0 for n in shape])
    cdef tuple matrices = shape if plain else sizes_of(shape, name)
    if (len(a.shape) < 2 or len(matrices) < 3 or math.prod(matrices) != PyArray_SIZE(b.array)
            or PyArray_NDIM(b.array) == 0 or PyArray_DIMS(b.array)[0] != matrices[0]):
        raise ValueError(f"{name}: expected matrices {a.shape} and {b.shape}, the latter in the shape "
                         f"{matrices} of three or more axes, the first of which it has")
    if PyArray_TYPE(a.array) != PyArray_TYPE(b.array):
        a, b = in_common_dtype((a, b))
    return a, b, matrices
