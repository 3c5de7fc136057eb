# Writes in place: assignment, `op=`, running statistics. Each is checked, then counted in the version.
cdef void write(Tensor target, object value, object index) except *:
    """target[index] = value, in place, with NumPy's casting rules for `op=`, counted as a write. A number
    takes the dtype of the target; a source on the memory of the target is read before it is written."""
    cdef int typenum = PyArray_TYPE(target.array)
    cdef ndarray source
    number = None if isinstance(value, Tensor) else python_number(value)
    if number is None:
        source = to_tensor(value, "assignment").array
    elif typenum == NPY_BOOL and not PyBool_Check(number) or (PyFloat_CheckExact(number)
                                                              and typenum in (NPY_INT32, NPY_INT64)):
        raise TypeError(f"assignment: cannot write {number!r} into a {target.array.dtype} tensor; convert it "
                        "first")
    else:
        source = number_array(number, typenum, "assignment")
    if not cnp.PyArray_ISWRITEABLE(target.array):
        raise ValueError("assignment: the tensor's memory is read-only (it shares a read-only or broadcast "
                         "array); write to a copy: x.clone()")
    if observers:
        announce_write(target)
    if (index is Ellipsis and same_shape(source, target.array) and plain(source) and plain(target.array)
            and PyArray_TYPE(source) == PyArray_TYPE(target.array)):
        memmove(PyArray_DATA(target.array), PyArray_DATA(source), PyArray_NBYTES(source))
        count_write(target)
        return
    if PyArray_TYPE(source) != typenum:
        if not np.can_cast(source.dtype, target.array.dtype, "same_kind"):
            raise TypeError(f"assignment: cannot write {source.dtype} into a {target.array.dtype} tensor; "
                            f"convert it: value.astype(mg.{target.array.dtype})")
        source = converted(source, target.array, "assignment")
    elif may_overlap(source, target.array):
        source = copied(source)
    try:
        target.array[index] = source
    except ValueError:
        raise ValueError(f"assignment: shape {shape_of(source)} does not broadcast into the place written "
                         f"to, of shape {np.shape((<object> target.array)[index])}") from None
    count_write(target)


cdef void check_write(Tensor target, str name, object value) except *:
    """Raise if a write while gradients are recorded would happen behind the graph's back."""
    if target.requires:
        what = "a leaf that requires grad" if target.node is None else "a tensor that the graph made"
        raise RuntimeError(f"{name}: {what} cannot be written to in place while gradients are recorded; "
                           "use mg.no_grad(), or make a new tensor, for example with mg.where")
    if requires(value):
        raise RuntimeError(f"{name}: a write in place would drop the gradient of the value written; use "
                           "value.detach(), or make a new tensor, for example with mg.where or mg.concat")


cdef Tensor write_all(Tensor target, object value, str name):
    """target[...] = value, converted to the dtype of the target whatever its kind."""
    cdef Tensor source
    if mg_recording:
        check_write(target, name, value)
    number = None if isinstance(value, Tensor) else python_number(value)
    if number is not None:
        source = wrap(number_array(number, PyArray_TYPE(target.array), name))
    else:
        source = to_tensor(value, name)
        if PyArray_TYPE(source.array) != PyArray_TYPE(target.array):
            source = wrap(converted(source.array, target.array, name))
    write(target, source, Ellipsis)
    return target


cdef Tensor fill(Tensor target, object value):
    """Set every element to a number, in the dtype of the target."""
    cdef npy_intp i
    cdef long long number
    if (PyLong_CheckExact(value) and PyArray_TYPE(target.array) == NPY_INT64 and plain(target.array)
            and cnp.PyArray_ISWRITEABLE(target.array)):       # a counter, five times faster than below
        if target.requires and mg_recording:
            check_write(target, "fill_", value)
        try:
            number = value
        except OverflowError:
            raise out_of_bounds("fill_", value, target.array.dtype) from None
        if observers:
            announce_write(target)
        for i in range(elements(target.array)):
            (<long long*> PyArray_DATA(target.array))[i] = number
        count_write(target)
        return target
    return write_all(target, value, "fill_")


cdef ndarray writable_average(str owner, str name, object average, Tensor batch):
    """The array of `average`, or a contiguous copy of it; raises where it cannot be moved."""
    if not isinstance(average, Tensor):
        raise TypeError(f"{owner}: {name} must be a Tensor, got {type(average).__name__}")
    cdef Tensor tensor = average
    if PyArray_TYPE(tensor.array) != NPY_FLOAT and PyArray_TYPE(tensor.array) != NPY_DOUBLE:
        raise TypeError(f"{owner}: {name} must be float32 or float64 to be moved, got {tensor.array.dtype}")
    if not cnp.PyArray_ISWRITEABLE(tensor.array):
        raise ValueError(f"{owner}: {name} shares read-only or broadcast memory and cannot be moved; make it "
                         "of a copy: x.clone()")
    if tensor.requires and mg_recording:
        raise RuntimeError(f"{owner}: {name} requires grad, but moves in place, which is not recorded; pass "
                           f"{name}.detach(), or use mg.no_grad()")
    if elements(tensor.array) != elements(batch.array):
        raise ValueError(f"{owner}: {name} has shape {tensor.shape}, which is not that of the batch's, "
                         f"{batch.shape}")
    return contiguous(tensor.array)


def move_statistics(str owner not None, mean: Tensor, var: Tensor, Tensor batch_mean not None,
                    Tensor batch_var not None, double momentum, double correction) -> None:
    """mean = (1 - momentum) mean + momentum batch_mean, and var likewise with correction * batch_var, in
    place and each in its dtype; a write like any other, but never recorded. Both are checked before either
    is written to."""
    cdef ndarray means = writable_average(owner, "running_mean", mean, batch_mean)
    cdef ndarray variances = writable_average(owner, "running_var", var, batch_var)
    cdef ndarray x = contiguous(batch_mean.array), y = contiguous(batch_var.array)
    if PyArray_TYPE(x) != PyArray_TYPE(means):
        x = x.astype(means.dtype)
    if PyArray_TYPE(y) != PyArray_TYPE(variances):
        y = y.astype(variances.dtype)
    if may_overlap(x, means):
        x = copied(x)
    if may_overlap(y, means) or may_overlap(y, variances):
        y = copied(y)
    if observers:
        announce_write(mean)
        announce_write(var)
    # (1 - m) old + m new: old + m (new - old) would round away a variance far below the initial 1
    blend(means, x, 1.0 - momentum, momentum)
    blend(variances, y, 1.0 - momentum, momentum * correction)
    if means is not (<Tensor> mean).array:
        cnp.PyArray_CopyInto((<Tensor> mean).array, means)
    if variances is not (<Tensor> var).array:
        cnp.PyArray_CopyInto((<Tensor> var).array, variances)
    count_write(mean)
    count_write(var)
