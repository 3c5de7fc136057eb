# Matrix products, and what takes one pass for speed: linear, the LSTM cell, cross-entropy.
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
        a, b = in_common_dtype((a, b))
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
                            lambda g: sum(g, -2)),
                           inputs=("x", "weight", "bias"))
beside_rules(LINEAR_).sums = (None, lambda gs, xs: matmul(matrix_transpose(concat(gs)), concat(xs)))
@exported
def linear(x: TensorLike, weight: TensorLike, bias: TensorLike | None = None) -> Tensor:
    """x @ weight.T + bias for weight (out, in), bias (out,) or None, x (..., in) -> (..., out). A
    primitive of its own: the gradient of weight comes out in the layout of weight, and the bias is added
    in place. With a stack of weights (K, out, in), bias (K, out) and x (K, N, in) each has its own rows:
    (K, N, out).

    >>> mg.linear(mg.tensor([[1.0, 2.0]]), mg.tensor([[1.0, 1.0], [0.0, 1.0], [2.0, 0.0]]))
    tensor([[3., 2., 2.]])
    """
    cdef Tensor a = to_tensor(x, "linear"), w = to_tensor(weight, "linear")
    cdef Tensor b = None if bias is None else to_tensor(bias, "linear")
    cdef int n = PyArray_NDIM(a.array), m = PyArray_NDIM(w.array)
    cdef int typenum = PyArray_TYPE(w.array)
    cdef ndarray out
    if (m < 2 or n == 0 or PyArray_DIMS(a.array)[n - 1] != PyArray_DIMS(w.array)[m - 1]
            or b is not None and b.shape != w.shape[:m - 1] or m > 2 and a.shape[:n - 2] != w.shape[:m - 2]):
        raise ValueError(f"linear: x of shape {a.shape}, weight of shape {w.shape}, bias "
                         f"{'None' if b is None else f'of shape {b.shape}'}: "
                         "expected (..., in), (out, in), (out,), or a stack of each: (K, N, in), "
                         "(K, out, in), (K, out)")
    if PyArray_TYPE(a.array) != typenum or b is not None and PyArray_TYPE(b.array) != typenum:
        a, w, b = in_common_dtype((a, w, b))
    if m == 2 and n != 2:
        rows = reshape(a, (math.prod(a.shape[:-1]), a.shape[-1]))
        return reshape(linear(rows, w, b), a.shape[:-1] + w.shape[:1])
    if a.array.dtype.kind != "f":
        product = matmul(a, matrix_transpose(w))
        return product if b is None else product + b[..., None, :]
    out = products.matmul(a.array, cnp.PyArray_SwapAxes(w.array, m - 2, m - 1),
                          None if b is None else contiguous(b.array))
    return record(LINEAR_, out, a, w, None if b is None else (b,))


cdef Op LSTM_CELL_ = register(
    "lstm_cell", NO_KERNEL, None,
    (lambda g, gates, cell, kept: slopes_of(lstm_step, [gates, cell], [True, True], [g]),),
    inputs=("gates", "cell"), attributes=("kept",), joint=True)
faster_rules(LSTM_CELL_, LSTM_STEP, lambda g, gates, cell, kept: None if kept is None else
             recurrent.cell_backward(contiguous((<Tensor> g).array), contiguous((<Tensor> cell).array),
                                     (<Tensor> kept).array))
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
        z, c = in_common_dtype((z, c))
        z, c = floating(z, "lstm_cell"), floating(c, "lstm_cell")
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
    return concat(list(formulas.lstm_cell(*[gates[k * n:(k + 1) * n] for k in range(4)], cell)))


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
    cdef Tensor rows = floating(x, "softmax_cross_entropy")
    cdef ndarray classes = to_tensor(labels, "softmax_cross_entropy").array
    cdef npy_intp sizes[2]
    if (PyArray_NDIM(rows.array) != 2 or PyArray_NDIM(classes) != 1
            or PyArray_DIMS(rows.array)[0] != PyArray_DIMS(classes)[0]):
        raise ValueError("softmax_cross_entropy: expected x of shape (n, C) and labels of shape (n,), got "
                         f"{rows.shape} and {shape_of(classes)}")
    if PyArray_TYPE(classes) != NPY_INT64 and PyArray_TYPE(classes) != NPY_INT32:
        raise TypeError(f"softmax_cross_entropy: expected labels of integers, got {classes.dtype}")
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
