# Conversion of operands (numbers, arrays) to Tensors, and the dtype of what they make together: the dtypes
# are a chain, bool < int32 < int64 < float32 < float64 (as are NumPy's type numbers), and the highest operand
# wins. So integers are weak against floats, as in PyTorch; NumPy makes int64 with float32 float64, and the
# array API leaves it open. Arrays count as Tensors do. Numbers, Python's and NumPy's, are weaker: only their
# kind counts.
cdef tuple OPERANDS = (Tensor, np.ndarray, np.generic, int, float)


cdef ndarray checked(object array):
    """`array` as an aligned native array of one of the five dtypes, shared where that is possible."""
    cdef ndarray result
    result = array if type(array) is np.ndarray else np.asarray(array)
    if not cnp.PyArray_ISBEHAVED_RO(result):
        result = np.array(result, dtype=result.dtype.newbyteorder("="))
    if result.dtype not in DTYPES:
        raise TypeError(f"dtype {result.dtype} is not supported; convert it to one of "
                        f"{', '.join(map(str, DTYPES))}, for example array.astype('float32')")
    if PyArray_TYPE(result) not in (NPY_FLOAT, NPY_DOUBLE, NPY_INT32, NPY_INT64, NPY_BOOL):
        result = result.view(np.dtype(f"int{8 * PyArray_ITEMSIZE(result)}"))    # long long is int64
    return result


cdef inline bint is_number(object value):
    return PyFloat_CheckExact(value) or PyLong_CheckExact(value) or PyBool_Check(value)


cdef object python_number(object value):
    """A Python or NumPy scalar as a plain Python number; None for anything else, 0-d arrays too."""
    if is_number(value):
        return value
    if isinstance(value, np.generic):
        kind = value.dtype.kind
        return float(value) if kind == "f" else int(value) if kind in "iu" else bool(value) if kind == "b" \
            else None
    if isinstance(value, int):              # of a subclass, such as IntEnum
        return int(value)
    return float(value) if isinstance(value, float) else None


cdef ndarray number_array(object number, int typenum, str name):
    """A Python number as a 0-d array of this dtype. What an integer dtype cannot hold raises: OverflowError,
    ValueError for NaN."""
    cdef ndarray array = cnp.PyArray_ZEROS(0, NULL, typenum, 0)
    cdef void* data = PyArray_DATA(array)
    cdef long long whole = 0
    cdef bint fits = True
    if typenum == NPY_DOUBLE:
        (<double*> data)[0] = number
    elif typenum == NPY_FLOAT:
        (<float*> data)[0] = <float> <double> number
    elif typenum == NPY_BOOL:
        (<cnp.npy_bool*> data)[0] = bool(number)
    else:
        try:
            whole = int(number)
        except (OverflowError, ValueError):
            fits = False
        if not fits or typenum == NPY_INT32 and whole != <int> whole:
            raise out_of_bounds(name, number, array.dtype)
        if typenum == NPY_INT32: (<int*> data)[0] = <int> whole
        else: (<long long*> data)[0] = whole
    return array


cdef object out_of_bounds(str name, object number, object dtype):
    kind, wider = (ValueError, "floating") if number != number else (OverflowError, "wider")
    return kind(f"{name}: {number} is out of bounds for {dtype}; give a {wider} dtype")


cdef ndarray converted(ndarray source, ndarray like, str name):
    """The elements in the dtype of `like`; those that its integers cannot hold raise, as a number does."""
    if (PyArray_TYPE(like) in (NPY_INT32, NPY_INT64) and elements(source)
            and PyArray_TYPE(source) in (NPY_FLOAT, NPY_DOUBLE, NPY_INT64)):
        limits = np.iinfo(like.dtype)
        for extreme in (source.min().item(), source.max().item()):
            if not limits.min - 1 < extreme < limits.max + 1:       # of Python numbers, so exact
                raise out_of_bounds(name, extreme, like.dtype)
    return source.astype(like.dtype)


cpdef Tensor to_tensor(object value, str name):
    """A Tensor, array or number as a Tensor; raises TypeError with a hint otherwise. A number takes the
    default dtype here; where it meets another operand, call `to_tensors`."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray):
        return share(checked(value))
    if isinstance(value, np.generic):
        return wrap(checked(value))
    number = python_number(value)
    if number is None:
        if isinstance(value, Unequal):
            raise ValueError((<Unequal> value).message)
        raise TypeError(f"{name}: expected a Tensor, got {type(value).__name__}; make one with "
                        "mg.tensor(...)")
    if PyFloat_CheckExact(number):
        return wrap(number_array(number, default_dtype.num, name))
    return wrap(number_array(number, NPY_BOOL if PyBool_Check(number) else NPY_INT64, name))


cpdef tuple to_tensors(tuple values, str name):  # type: tuple[Tensor, ...]
    """As `to_tensor` of each; but a number, Python's or NumPy's, is weak: it takes the dtype that promotion
    gives it with the Tensors and arrays among the values. Where there are none, the numbers take the
    dtype of those that are NumPy's, or that of the most general."""
    cdef list tensors = [], numbers = [], numpys = []
    cdef int typenum = -1
    for value in values:
        if not isinstance(value, Tensor):
            break
    else:
        return values
    for value in values:
        number = python_number(value)
        if number is None:
            value = to_tensor(value, name)
            typenum = max(typenum, PyArray_TYPE((<Tensor> value).array))
        else:
            (numpys if isinstance(value, np.generic) else numbers).append(value)
            value = number
        tensors.append(value)
    if typenum < 0:                         # numbers alone
        typenum = highest_type(tuple([to_tensor(value, name) for value in numpys or numbers]))
    for i, value in enumerate(tensors):
        if not isinstance(value, Tensor):
            tensors[i] = wrap(number_array(value, type_with(typenum, value), name))
    return tuple(tensors)


cdef int type_with(int typenum, object number):
    """The type of what an operand of this type and a number make together."""
    if PyFloat_CheckExact(number):
        return typenum if typenum >= NPY_FLOAT else default_dtype.num
    return NPY_INT64 if typenum == NPY_BOOL and not PyBool_Check(number) else typenum


cdef int highest_type(tuple tensors) except -2:
    """The common type of Tensors; None among them is passed over."""
    cdef int highest = -1, typenum
    cdef bint single = False
    for tensor in tensors:
        if tensor is not None:
            typenum = PyArray_TYPE((<Tensor> tensor).array)
            single |= typenum == NPY_FLOAT
            highest = max(highest, typenum)
    if single and highest == NPY_DOUBLE and mixed_floats_hook is not None:
        mixed_floats_hook()
    return highest


cdef int type_to_compare(int typenum, object left, object right):
    """Integers are compared with float32 in double, which holds more of them; the result is bool anyway."""
    for value in (left, right):
        if isinstance(value, Tensor) and NPY_BOOL < PyArray_TYPE((<Tensor> value).array) < NPY_FLOAT:
            return NPY_DOUBLE if typenum == NPY_FLOAT else typenum
    return typenum


cpdef tuple in_common_dtype(tuple tensors):  # type: tuple[Any, ...]
    """These Tensors in their common dtype, converted differentiably; None among them stays."""
    cdef int typenum = highest_type(tensors)
    return tuple([tensor if tensor is None or PyArray_TYPE((<Tensor> tensor).array) == typenum
                  else tensor.astype(cnp.PyArray_DescrFromType(typenum)) for tensor in tensors])


def result_type(*operands: TensorLike | DTypeLike) -> np.dtype[Any]:
    """The dtype of what these make together: the highest of bool, int32, int64, float32, float64 among the
    Tensors, arrays and dtypes. Of a number, Python's or NumPy's, only the kind counts: a float makes integers
    the default dtype, an int makes bools int64.

    >>> mg.result_type(mg.arange(3), mg.float32), mg.result_type(mg.arange(3), 0.5)
    (dtype('float32'), dtype('float32'))
    """
    if not operands or any([x is None or isinstance(x, (list, tuple)) for x in operands]):
        raise TypeError(f"result_type: expected Tensors, arrays, numbers or dtypes, got {operands}")
    cdef tuple known = tuple([x if isinstance(x, OPERANDS) else np.empty(0, x) for x in operands])
    return cnp.PyArray_DescrFromType(highest_type(to_tensors(known, "result_type")))


cdef object mixed_floats_hook = None


def on_mixed_floats(hook: Callable[[], None] | None) -> None:
    """Have `hook()` called wherever float32 and float64 Tensors meet."""
    global mixed_floats_hook
    mixed_floats_hook = hook
