# What protocols.pxi calls, and memory that others may write to: pickle, nested lists, NumPy's functions.
def rebuild(kind: type[Tensor], array: NDArray[Any], requires_grad: bool, grad: Tensor | None) -> Tensor:
    """Make a Tensor again from what `pickle` or `copy` took apart."""
    cdef Tensor tensor = kind.__new__(kind)
    tensor.array = array
    tensor.requires = requires_grad
    tensor.gradient = grad
    return tensor


cdef bint is_sequence(value):
    """Whether NumPy takes this for a list of elements: lists, tuples, deques, but no arrays and no text."""
    if isinstance(value, (list, tuple)):
        return True
    if not PySequence_Check(value) or isinstance(value, (Tensor, str, range)):
        return False
    return not PyObject_CheckBuffer(value) and not hasattr(value, "__array__") and hasattr(value, "__len__")


cdef list find_tensors(data, list found=None, int depth=0):
    """The Tensors in a sequence, and in those within it, in order."""
    cdef PyObject** items
    cdef Py_ssize_t i
    data = data if isinstance(data, (list, tuple)) else list(data)
    items = PySequence_Fast_ITEMS(data)
    found = [] if found is None else found
    if depth > 64:                          # more than an array has dimensions: a list that contains itself
        return found
    for i in range(len(data)):
        if Py_TYPE(items[i]) == <PyObject*> float or Py_TYPE(items[i]) == <PyObject*> int:
            continue                        # by the pointer: half a nanosecond for each number of a long list
        item = <object> items[i]
        if isinstance(item, Tensor):
            found.append(item)
        elif is_sequence(item):
            find_tensors(item, found, depth + 1)
    return found


def listed_tensors(data: Any, str name) -> list[Tensor]:
    """The Tensors in `data`, if it is a sequence. Raises RuntimeError if values taken from them lack a
    gradient."""
    found = find_tensors(data) if is_sequence(data) else []
    if drops_graph(found):
        raise RuntimeError(f"{name}: a tensor in the list requires grad, and its gradient would be lost; use "
                           "mg.stack([...]), or x.detach() for values alone")
    return found


def drops_graph(list tensors not None: list[Tensor]) -> bool:
    """Whether one of these has a graph that is lost where values are taken from it."""
    cdef Tensor tensor
    if mg_recording:
        for tensor in tensors:
            if tensor.requires:
                return True
    return False


cdef object call_on_values(function, tuple arguments, dict options):
    """NumPy's functions compute with the values. Raises TypeError if an argument requires grad and the
    result is one that a gradient would have to flow through."""
    cdef list found = find_tensors((arguments, tuple(options.values())))
    result = function(*as_arrays(arguments), **as_arrays(options))
    if drops_graph(found) and function not in WITHOUT_GRADIENT and holds_floats(result):
        raise TypeError(numpy_drops_graph(function))
    return result


cdef object as_arrays(arguments):
    if isinstance(arguments, Tensor):
        return arguments.numpy()
    if isinstance(arguments, dict):
        return {key: as_arrays(value) for key, value in arguments.items()}
    if is_sequence(arguments):              # as a plain one, or NumPy would ask us again for what is in it
        values = [as_arrays(value) for value in arguments]
        return values if isinstance(arguments, list) else tuple(values)
    return arguments


cdef bint holds_floats(result) except -1:
    if isinstance(result, (list, tuple)):
        return any([holds_floats(part) for part in result])
    return isinstance(result, (np.ndarray, np.generic, float)) and np.asarray(result).dtype.kind in "fcO"


# Their floats do not depend on the values, or they are what plotting does first to what it is given.
cdef frozenset WITHOUT_GRADIENT = frozenset([
    np.zeros_like, np.ones_like, np.empty_like, np.full_like, np.atleast_1d, np.atleast_2d, np.atleast_3d,
    np.broadcast_arrays, np.histogram, np.histogram2d, np.histogramdd, np.histogram_bin_edges])
cdef int UNPACK = opcode.opmap["UNPACK_SEQUENCE"]

cdef str numpy_drops_graph(function):
    from minigrad.spellings import twin     # imported where an error is made
    here = twin(function.__name__, function.__module__)
    way_out = f"here it is {here}, which keeps it" if here else "minigrad has no function of that name"
    return (f"{function.__module__}.{function.__name__}: an argument requires grad, and the gradient would "
            f"be lost; {way_out}, and x.detach() gives values without it").replace("numpy.", "np.", 1)


cdef object iterate(list parts):
    """The iterator of a Tensor. Where it is unpacked into fewer names, its error names the way out."""
    frame = sys._getframe()                 # of the caller, since compiled functions have none
    code, at = frame.f_code.co_code, frame.f_lasti
    if code[at] != UNPACK or not code[at + 1] < len(parts) < 256:   # more have an EXTENDED_ARG
        return iter(parts)
    from minigrad.namespace import unpacked
    return unpacked(parts, code[at + 1])


def plain_index(index: Any) -> Any:
    """An index with Tensors replaced by their arrays, as NumPy takes it."""
    if isinstance(index, Tensor):
        return (<Tensor> index).array
    if isinstance(index, tuple):
        return tuple([plain_index(i) for i in index])
    return index


# ------------------------------------------------------------------ memory that others may write to
def adopt(array: ArrayLike, bint requires_grad=False) -> Tensor:
    """A Tensor on an array of one of the five dtypes that the caller has made and gives away. `Tensor(array)`
    expects that others write to the array."""
    cdef Tensor tensor = wrap(checked(array))
    if requires_grad:
        tensor.requires_grad = True
    return tensor


cdef Tensor share(ndarray array):
    """As `wrap`, for an array that others may write to."""
    cdef Tensor tensor = wrap(array)
    shared_version(tensor).foreign = True
    return tensor


cdef Tensor frozen(Tensor tensor):
    """The tensor as a graph may save it: itself, or a copy of a foreign one, at the same place in the graph.
    Its version is shared, so a write through the library is reported as for any other tensor."""
    cdef Tensor copy
    if tensor.version is None or not tensor.version.foreign or alone(<PyObject*> tensor.array):
        return tensor
    copy = wrap(copied_as_laid_out(tensor.array))
    if tensor.node is not None:
        copy.node, copy.requires = tensor.node, True
    elif tensor.requires:                   # a leaf stays the end of its graph
        copy = attach_op(ALIAS, copy, (tensor,), None)
    copy.version = tensor.version
    return copy


def freeze(Tensor tensor not None, bint follow=True) -> Tensor:
    """`frozen`, for what saves tensors in Python. Unless `follow`, a copy has no version, and is not copied
    again where it is saved."""
    cdef Tensor copy = frozen(tensor)
    if copy is not tensor and not follow:
        copy.version = None
    return copy


cdef inline bint alone(PyObject* array):
    """Whether an array owns its memory, and only one Tensor holds it. (A borrowed pointer, as in `ours`.)"""
    return Py_REFCNT(array) == 1 and cnp.PyArray_CHKFLAGS(<ndarray> array, cnp.NPY_ARRAY_OWNDATA)


cdef ndarray copied_as_laid_out(ndarray array):
    """A copy with the same strides if that takes no more memory than a copy in C order. Sliding windows and
    broadcast views are larger than the memory they look at."""
    cdef npy_intp low = 0, high = PyArray_ITEMSIZE(array), count, reach
    cdef int d
    cdef ndarray memory, view
    if plain(array):
        memory = empty(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array))
        memcpy(PyArray_DATA(memory), PyArray_DATA(array), PyArray_NBYTES(array))
        return memory
    for d in range(PyArray_NDIM(array)):
        reach = PyArray_STRIDES(array)[d] * (PyArray_DIMS(array)[d] - 1)
        if reach < 0:
            low += reach
        else:
            high += reach
    count = (high - low) // PyArray_ITEMSIZE(array)
    if high - low > PyArray_NBYTES(array) or (high - low) % PyArray_ITEMSIZE(array):
        return copied(array)
    memory = empty(1, &count, PyArray_TYPE(array))
    memcpy(PyArray_DATA(memory), <char*> PyArray_DATA(array) + low, high - low)
    view = cnp.PyArray_New(ndarray, PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array),
                           PyArray_STRIDES(array), <char*> PyArray_DATA(memory) - low, 0,
                           cnp.NPY_ARRAY_ALIGNED, None)
    cnp.set_array_base(view, memory)
    return view


# ------------------------------------------------------------------ what NumPy computes
cdef object numpy_error(str name, error):
    """NumPy's error (often of a private class) as the plain one, with the name of the operation."""
    for kind in (TypeError, OverflowError):
        if isinstance(error, kind):
            return kind(f"{name}: {error}")
    return ValueError(f"{name}: {error}")


cdef ndarray call_numpy(Op op, object x, object y):
    """What the kernels do not do (integers, booleans, rare functions) NumPy's ufunc does. Floats made of
    integers take the default dtype."""
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
            out = np.asarray(op.fallback(*[np.asarray(z, np.float64) for z in (x, y) if z is not None]))
        elif out.dtype == np.int8:
            out = out.astype(np.int64)
        if out.dtype.kind == "f" and (x if isinstance(x, np.ndarray) else y).dtype.kind != "f":
            out = out.astype(default_dtype)
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


# ------------------------------------------------------------------ the types
def attach_methods(dict module, list names: list[str]) -> None:
    """Add functions of a module to Tensor as methods; methods that Tensor already has stay."""
    cdef dict members = <dict> (<PyTypeObject*> Tensor).tp_dict
    for name in names:
        members.setdefault(name, module[name])
    PyType_Modified(<type> Tensor)


cdef extern from *:
    """
    static PyObject *mg_refuse(PyTypeObject *type, PyObject *arguments, PyObject *options) {
        PyErr_Format(PyExc_TypeError, "%s: made by the engine alone, it has no constructor", type->tp_name);
        return NULL;
    }
    static void mg_engine_only(PyObject *object) {
        PyTypeObject *type = (PyTypeObject *)object;
        type->tp_new = mg_refuse;
        type->tp_vectorcall = NULL;         /* which would call the old one */
        PyType_Modified(type);
    }
    """
    void mg_engine_only(object type)


# Only the engine may make these. Made from Python, by copy and pickle too, they would hold None where the
# code relies on a value.
mg_engine_only(Op)
mg_engine_only(Version)
mg_engine_only(Notes)
mg_engine_only(Node)
mg_engine_only(Unequal)
(<PyTypeObject*> Tensor).tp_name = "minigrad.Tensor"    # as errors, repr(type(x)) and pickles call it
