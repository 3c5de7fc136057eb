# Operands to arrays: promotion, broadcasting, and the elementwise primitives' only way in.
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


cpdef tuple to_tensors(tuple values, str name):
    """As `to_tensor` of each; but a number, Python's or NumPy's, is weak: it takes the dtype that promotion
    gives it with the Tensors and arrays among the values. Where there are none, the numbers take the
    dtype of those that are NumPy's, or that of the most general."""
    cdef list tensors = [], dtypes = [], numpys = []
    cdef object general = False             # of the numbers, the one of the most general type
    for value in values:
        if not isinstance(value, Tensor):
            break
    else:
        return values
    for value in values:
        number = python_number(value)
        if number is None:
            value = to_tensor(value, name)
            dtypes.append((<Tensor> value).array.dtype)
        else:
            if isinstance(value, np.generic):
                numpys.append(value)
            if PyFloat_CheckExact(number) or PyBool_Check(general):
                general = number
            value = number
        tensors.append(value)
    if not dtypes:
        for value in numpys or [general]:
            dtypes.append(to_tensor(value, name).array.dtype)
    for i, value in enumerate(tensors):
        if not isinstance(value, Tensor):
            tensors[i] = wrap(number_array(value, np.result_type(*dtypes, value).num, name))
    return tuple(tensors)


cdef inline bint plain(ndarray array):
    return cnp.PyArray_IS_C_CONTIGUOUS(array)


cdef object unary(Op op, object x):
    """Apply an elementwise primitive of one input."""
    cdef Tensor tensor
    cdef ndarray out
    cdef Operand operand
    cdef void* data
    cdef int typenum
    if not isinstance(x, Tensor):
        x = to_tensor(x, op.name)
    tensor = x
    typenum = PyArray_TYPE(tensor.array)
    if op.opcode == NO_KERNEL or (typenum != NPY_FLOAT and typenum != NPY_DOUBLE):
        if op.fallback is None:
            return unary(op, cast(tensor, np.float32 if typenum == NPY_BOOL else np.float64))
        return record(op, call_numpy(op, tensor.array, None), tensor)
    if plain(tensor.array) and elements(tensor.array) < 32768:
        out = empty(PyArray_NDIM(tensor.array), PyArray_DIMS(tensor.array), typenum)
        data = PyArray_DATA(tensor.array)
        call_kernel(op.opcode, typenum == NPY_DOUBLE, &data, PyArray_DATA(out), elements(out))
    else:
        view_array(&operand, tensor.array)
        out = elementwise(op.name, op.opcode, typenum == NPY_DOUBLE, typenum, &operand, 1)
    return record(op, out, tensor)


cdef object numpy_error(str name, error):
    """NumPy's error (often of a private class) as the plain one, with the name of the operation."""
    for kind in (TypeError, OverflowError):
        if isinstance(error, kind):
            return kind(f"{name}: {error}")
    return ValueError(f"{name}: {error}")


cdef ndarray call_numpy(Op op, object x, object y):
    """What the kernels do not do (integers, booleans, rare functions) NumPy's ufunc does."""
    cdef ndarray target
    if op.fallback is None:
        raise TypeError(f"{op.name}: dtype {x.dtype} is not supported")
    with np.errstate(all="ignore"):
        # In C order, since NumPy's loops for other strides may round otherwise.
        if (isinstance(x, np.ndarray) and x.dtype.kind == "f"
                and (y is None or is_number(y) or isinstance(y, np.ndarray) and alike(x, y))):
            x = contiguous(x)
            y = contiguous(y) if isinstance(y, np.ndarray) else y
            target = empty(PyArray_NDIM(x), PyArray_DIMS(x), PyArray_TYPE(x))   # recycled, if there is one
            return op.fallback(x, out=target) if y is None else op.fallback(x, y, out=target)
        if op.opcode == NO_KERNEL:
            x, y = in_order(op, x, y)
        try:
            out = np.asarray(op.fallback(x) if y is None else op.fallback(x, y))
        except (TypeError, ValueError, OverflowError) as error:
            raise numpy_error(op.name, error) from None
        if out.dtype == np.float16:         # which NumPy makes of bool: too coarse, and no dtype of ours
            x = x.astype(np.float32)
            out = np.asarray(op.fallback(x) if y is None else op.fallback(x, y))
        elif out.dtype == np.int8:
            out = out.astype(np.int64)
    return checked(out)


cdef tuple in_order(Op op, object x, object y):
    """The operands, where they are arrays, in C order and of one shape, so that it does not matter of which
    arrays they are views."""
    if isinstance(x, np.ndarray) and isinstance(y, np.ndarray) and np.ndim(x) and np.ndim(y):
        if not same_shape(x, y):
            try:
                x, y = np.broadcast_arrays(x, y)
            except ValueError as error:
                raise numpy_error(op.name, error) from None
    return (contiguous(x) if isinstance(x, np.ndarray) else x,
            contiguous(y) if isinstance(y, np.ndarray) else y)


cdef object binary(Op op, object left, object right):
    """Apply an elementwise primitive of two inputs: Tensors, arrays or numbers, broadcast together."""
    cdef Operand operands[2]
    cdef void* pointers[2]
    cdef double number64
    cdef float number32
    cdef ndarray x, y, out
    cdef int typenum, out_typenum
    cdef Operand* scalar = NULL
    if isinstance(left, Tensor):
        x = (<Tensor> left).array
        typenum = PyArray_TYPE(x)
        if isinstance(right, Tensor):
            y = (<Tensor> right).array
            if (PyArray_TYPE(y) != typenum or (typenum != NPY_FLOAT and typenum != NPY_DOUBLE)
                    or op.opcode == NO_KERNEL):
                return promote(op, left, right)
            out_typenum = NPY_BOOL if op.opcode >= FIRST_COMPARISON else typenum
            if plain(x) and plain(y) and same_shape(x, y) and elements(x) < 32768:
                out = empty(PyArray_NDIM(x), PyArray_DIMS(x), out_typenum)
                pointers[0], pointers[1] = PyArray_DATA(x), PyArray_DATA(y)
                call_kernel(op.opcode, typenum == NPY_DOUBLE, pointers, PyArray_DATA(out), elements(x))
                return record(op, out, left, right)
            view_array(&operands[0], x)
            view_array(&operands[1], y)
        elif is_number(right):
            view_array(&operands[0], x)
            scalar = &operands[1]
        else:
            return promote(op, left, right)
    elif is_number(left) and isinstance(right, Tensor):
        typenum = PyArray_TYPE((<Tensor> right).array)
        view_array(&operands[1], (<Tensor> right).array)
        scalar = &operands[0]
    else:
        return promote(op, left, right)
    if op.opcode == NO_KERNEL or (typenum != NPY_FLOAT and typenum != NPY_DOUBLE):
        return promote(op, left, right)
    if scalar != NULL:                      # a Python number is weak: it takes the Tensor's dtype
        if scalar == &operands[1]: number64 = right
        else: number64 = left
        number32 = <float> number64
        scalar.data = <char*> &number64 if typenum == NPY_DOUBLE else <char*> &number32
        scalar.shape = scalar.strides = NULL
        scalar.ndim = 0
        scalar.itemsize = 8 if typenum == NPY_DOUBLE else 4
    out_typenum = NPY_BOOL if op.opcode >= FIRST_COMPARISON else typenum
    out = elementwise(op.name, op.opcode, typenum == NPY_DOUBLE, out_typenum, operands, 2)
    return record(op, out, left, right)


cdef object promote(Op op, object left, object right):
    """Mixed or integer dtypes, arrays, and what is no operand at all. Promotion is NumPy's."""
    x, y = python_number(left), python_number(right)
    if x is not None and y is not None:
        left, right = to_tensors((left, right), op.name)
        return binary(op, left, right)
    if x is not None and x is not left or y is not None and y is not right:     # NumPy's numbers are weak too
        return binary(op, left if x is None else x, right if y is None else y)
    if x is None:
        left = to_tensor(left, op.name)
    if y is None:
        right = to_tensor(right, op.name)
    x = (<Tensor> left).array if isinstance(left, Tensor) else left
    y = (<Tensor> right).array if isinstance(right, Tensor) else right
    if op.opcode != NO_KERNEL or requires(left) or requires(right):
        dtype = np.result_type(x, y)
        if dtype.kind == "f":               # bring Tensors to the common dtype, differentiably
            if isinstance(left, Tensor) and x.dtype != dtype:
                left = cast(left, dtype)
            if isinstance(right, Tensor) and y.dtype != dtype:
                right = cast(right, dtype)
            if op.opcode != NO_KERNEL:
                return binary(op, left, right)
            x = (<Tensor> left).array if isinstance(left, Tensor) else left
            y = (<Tensor> right).array if isinstance(right, Tensor) else right
    out = call_numpy(op, x, y)
    if op.core_dims != NO_BROADCAST:
        return record(op, out, left, right)
    return wrap(out)


cdef object operator(int opcode, object left, object right):
    """`binary` for the operators, which leave types that they do not know to the other side."""
    other = right if isinstance(left, Tensor) else left
    if (isinstance(other, Tensor) or is_number(other)
            or isinstance(other, OPERANDS) or isinstance(other, (list, tuple, str, dict, set, type(None)))):
        return binary(<Op> by_opcode[opcode], left, right)
    return NotImplemented


@cython.final
@cython.auto_pickle(False)
cdef class Unequal:
    """The result of `==` and `!=` for shapes that do not broadcast: False and True as truth values, so that
    `x in [a, b]`, which asks `x == a` first, can go on to b. Any other use raises the error that the
    functions `equal` and `not_equal` raise at once."""
    cdef str message
    cdef bint differs

    def __bool__(self):
        return self.differs

    def __getattr__(self, name):
        raise ValueError(self.message)

    def __array__(self, dtype=None, copy=None):
        raise ValueError(self.message)

    def __repr__(self):
        return f"<{self.differs}: {self.message}>"


cdef object equality(int opcode, object left, object right):
    """As `operator`, but other types, and shapes that do not broadcast, are unequal instead of raising."""
    cdef Unequal result
    if not isinstance(right, OPERANDS):
        return NotImplemented
    try:
        return binary(<Op> by_opcode[opcode], left, right)
    except ValueError as error:
        result = Unequal.__new__(Unequal)
        result.message, result.differs = str(error), opcode == NOT_EQUAL
        return result


cdef object power(object left, object right, object modulo):
    return functions["pow"](left, right) if modulo is None else NotImplemented


cdef object bitwise(object ufunc, object left, object right):
    """`&`, `|` and `^` of booleans and integers, as NumPy's."""
    if not (isinstance(left, OPERANDS) and isinstance(right, OPERANDS)):
        return NotImplemented
    x, y = python_number(left), python_number(right)
    if x is None:
        x = to_tensor(left, ufunc.__name__).array
    if y is None:
        y = to_tensor(right, ufunc.__name__).array
    try:
        return wrap(checked(ufunc(x, y)))
    except (TypeError, ValueError, OverflowError) as error:
        raise numpy_error(ufunc.__name__, error) from None
