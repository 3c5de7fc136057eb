# Primitives that move elements: reshape, broadcast, index, sort, join.
cdef Op RESHAPE_ = register("reshape", NO_KERNEL, None, (lambda g, shape: reshape(g, shape),))
@method
def reshape(x: TensorLike, shape: Any = (), *more: int, copy: bool | None = None) -> Tensor:
    """The same elements in C order in another shape, given as ints or one tuple; one size may be -1. A view
    where possible; copy=True always copies, copy=False raises ValueError where there is no view.

    >>> mg.reshape(mg.arange(4), (2, 2))
    tensor([[0, 1],
            [2, 3]])
    """
    cdef Tensor tensor = to_tensor(x, "reshape")
    cdef ndarray array = tensor.array
    target = shape if not more and isinstance(shape, (tuple, list)) else (shape,) + more
    try:
        if not cnp.PyArray_IS_C_CONTIGUOUS(array) and PyArray_SIZE(array):
            sizes = tuple([index_of(n) for n in target])
            array = array if loops.is_viewable(array, sizes) else contiguous(array)
        out = array.reshape(target)
    except (ValueError, TypeError):
        kind = ValueError if all([as_int(n) is not None for n in target]) else TypeError
        raise kind(f"reshape: a tensor of shape {tensor.shape} ({tensor.size} elements) "
                   f"cannot take the shape {tuple(target)}") from None
    if copy is True and PyArray_DATA(out) == PyArray_DATA(tensor.array):
        out = loops.copied(out)
    if PyArray_DATA(out) != PyArray_DATA(tensor.array):      # a copy, whose writes x does not see
        if copy is False:
            raise ValueError(f"reshape: no view of a tensor of shape {tensor.shape} has the shape "
                             f"{tuple(target)}")
        return record(RESHAPE_, out, tensor)
    return record_view(RESHAPE_, out, tensor)


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
    shifts = tuple([integer(n, "roll: shift") for n in shifts])
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
    offset = integer(offset, "diagonal: offset")
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
def astype(x: TensorLike, dtype: DTypeLike, copy: bool = False, device: str | None = None) -> Tensor:
    """x in another dtype; x itself if it has that dtype, unless `copy`. The gradient comes back in the dtype
    of x. The only device is "cpu".

    Floats are truncated in an integer dtype. As in NumPy and PyTorch, the values are not checked: NaN,
    infinities and values out of range become arbitrary integers. (Python numbers and assignments raise
    instead.)

    >>> mg.astype(mg.tensor([1.7, -1.7]), mg.int64)
    tensor([ 1, -1])
    """
    cdef Tensor tensor = to_tensor(x, "astype")
    cdef ndarray out
    if device is not None:
        check_device("astype", device)
    if tensor.array.dtype is dtype or tensor.array.dtype == dtype:
        return reshape(tensor, tensor.shape, copy=True) if copy else tensor
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
    for part in index if isinstance(index, tuple) else (index,):
        if type(part) is slice or type(part) is int:
            continue
        if (not (part is None or part is Ellipsis or isinstance(part, (int, slice, np.integer)))
                or isinstance(part, bool)):
            return False
    return True


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
    cdef Positions kept = integer_positions("take_along_axis", indices, tensor)
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
    cdef Positions kept = integer_positions("add_along_axis", indices, tensor)
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


cdef Positions integer_positions(str name, indices, Tensor tensor):
    cdef Positions positions
    cdef ndarray array
    if isinstance(indices, Positions):      # from a Node: its rule passes them on
        return indices
    array = (<Tensor> indices).array if isinstance(indices, Tensor) else np.asarray(indices)
    if PyArray_TYPE(array) != NPY_INT64 and array.dtype.kind not in "iu":
        raise TypeError(f"{name}: indices must be integers, got {array.dtype}")
    if PyArray_NDIM(array) != PyArray_NDIM(tensor.array):
        raise ValueError(f"{name}: indices have {PyArray_NDIM(array)} dimensions, x has {tensor.ndim}")
    positions = Positions.__new__(Positions)
    if PyArray_TYPE(array) != NPY_INT64 or not cnp.PyArray_ISBEHAVED_RO(array):
        array = array.astype(np.int64, order="C")
    elif tensor.requires and recording():
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
        return concat(in_common_dtype(tuple(tensors)), axis)
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
