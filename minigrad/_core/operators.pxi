# Python's operators: unknown types, `==` of any shapes, bits, in-place operators.
cdef object operate(Op op, object left, object right):
    """Apply a primitive, or leave a type that we do not know to the other side."""
    other = right if isinstance(left, Tensor) else left
    if (isinstance(other, Tensor) or is_number(other)
            or isinstance(other, OPERANDS) or isinstance(other, (list, tuple, str, dict, set, type(None)))):
        return binary(op, left, right) if op.opcode != NO_KERNEL else op.function(left, right)
    return NotImplemented


@cython.final
@cython.auto_pickle(False)
cdef class Unequal:
    """The result of `==` and `!=` for shapes that do not broadcast: False and True as truth values, so that
    `x in [a, b]`, which asks `x == a` first, can go on to b. Any other use raises the error that the
    functions `equal` and `not_equal` raise at once."""
    cdef str message
    cdef bint differs

    def __bool__(self) -> bool:
        return self.differs

    def __getattr__(self, name: str) -> Any:
        raise ValueError(self.message)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        raise ValueError(self.message)

    def __repr__(self) -> str:
        return f"<{self.differs}: {self.message}>"


cdef object equality(Op op, object left, object right, bint differs):
    """As `operate`, but other types, and shapes that do not broadcast, are unequal instead of raising."""
    cdef Unequal result
    if not isinstance(right, OPERANDS):
        return NotImplemented
    try:
        return binary(op, left, right)
    except ValueError as error:
        result = Unequal.__new__(Unequal)
        result.message, result.differs = str(error), differs
        return result


cdef object power(Op op, object left, object right, object modulo):
    return operate(op, left, right) if modulo is None else NotImplemented


cdef object bitwise(object ufunc, object left, object right):
    """`&`, `|` and `^` of booleans and integers, `<<` and `>>` of integers, as NumPy's."""
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


cdef object in_place(Op op, Tensor target, object value):
    """`target op= value`: in place where no gradient is recorded, else a new Tensor (DESIGN 5)."""
    if mg_recording and (target.requires or requires(value)):
        if target.node is None and target.requires:
            raise RuntimeError(f"{op.name}: a leaf that requires grad cannot be written to in place while "
                               "gradients are recorded; use mg.no_grad(), or x = x + ...")
        return op.function(target, value)
    write(target, op.function(target, value), Ellipsis)
    return target


cdef object write_result(Tensor target, object result):
    if result is NotImplemented:
        return result
    write(target, result, Ellipsis)
    return target
