# What pickle and NumPy ask of a Tensor: rebuilding, lists of Tensors, functions of NumPy.
def rebuild(kind, array, requires_grad, grad):
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


def listed_tensors(data, str name):
    """The Tensors in `data`, if it is a sequence. Raises RuntimeError if values taken from them lack a
    gradient."""
    found = find_tensors(data) if is_sequence(data) else []
    if drops_graph(found):
        raise RuntimeError(f"{name}: a tensor in the list requires grad, and its gradient would be lost; use "
                           "mg.stack([...]), or x.detach() for values alone")
    return found


def drops_graph(list tensors not None):
    """Whether one of these has a graph that is lost where values are taken from it."""
    cdef Tensor tensor
    if mg_recording:
        for tensor in tensors:
            if tensor.requires:
                return True
    return False


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
# Functions of NumPy that have another name here.
cdef dict TWINS = {
    "amax": "max", "amin": "min", "around": "round", "average": "mean", "concatenate": "concat",
    "append": "concat", "hstack": "concat", "vstack": "concat", "column_stack": "concat",
    "cumsum": "cumulative_sum", "cumprod": "cumulative_prod", "dot": "matmul", "multi_dot": "matmul",
    "inner": "vecdot", "vdot": "vecdot", "ravel": "flatten", "transpose": "permute_dims",
    "rollaxis": "moveaxis", "array_split": "split",
    "flipud": "flip", "fliplr": "flip", "vector_norm": "norm", "copy": "clone"}


cdef str numpy_drops_graph(function):
    import minigrad
    name = function.__name__
    path = f"{function.__module__}.{name}".replace("numpy.", "np.", 1)
    twin = TWINS.get(name, name)
    way_out = f"mg.{twin} keeps it" if hasattr(minigrad, twin) else "minigrad has no function of that name"
    return (f"{path}: an argument requires grad, and the gradient would be lost; {way_out}, and "
            "x.detach() gives values without it")


def plain_index(index):
    """An index with Tensors replaced by their arrays, as NumPy takes it."""
    if isinstance(index, Tensor):
        return (<Tensor> index).array
    if isinstance(index, tuple):
        return tuple([plain_index(i) for i in index])
    return index
