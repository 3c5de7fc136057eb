# Applies an elementwise primitive: promotion, broadcasting, and the call of its kernel.
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
            return unary(op, tensor.astype(default_dtype))
        return record(op, call_numpy(op, tensor.array, None), tensor)
    if plain(tensor.array) and elements(tensor.array) < 32768:   # one call; a larger loop releases the GIL
        out = empty(PyArray_NDIM(tensor.array), PyArray_DIMS(tensor.array), typenum)
        data = PyArray_DATA(tensor.array)
        call_kernel(op.opcode, typenum == NPY_DOUBLE, &data, PyArray_DATA(out), elements(out))
    else:
        view_array(&operand, tensor.array)
        out = elementwise(op.name, op.opcode, typenum == NPY_DOUBLE, typenum, &operand, 1)
    return record(op, out, tensor)


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
    """The slow path: mixed or integer dtypes, arrays, and unsupported types."""
    cdef int typenum
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
    typenum = highest_type((left if x is None else None, right if y is None else None))
    if x is not None or y is not None:
        typenum = type_with(typenum, y if x is None else x)
    if FIRST_COMPARISON <= op.opcode < NO_KERNEL:
        typenum = type_to_compare(typenum, left, right)
    if typenum >= NPY_FLOAT:                # bring Tensors to the common dtype, differentiably
        dtype = cnp.PyArray_DescrFromType(typenum)
        left = left.astype(dtype) if x is None else left
        right = right.astype(dtype) if y is None else right
        if op.opcode != NO_KERNEL:
            return binary(op, left, right)
    x = (<Tensor> left).array if x is None else left
    y = (<Tensor> right).array if y is None else right
    return record(op, call_numpy(op, x, y), left, right)
