# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Long short-term memory: the elementwise part of a step, and whole sequences.

Design note
-----------
1. This file knows the arithmetic of an LSTM (Hochreiter & Schmidhuber 1997, with the forget gate of Gers
   et al. 2000). It must not know parameters, layers, directions or the graph (it only reads the arrays of
   Tensors): the entry of `lstm_cell` is in ops.pyx, and a sequence is one `Function` in nn/recurrent.py.
2. The elementwise part of a step is one pass forward and one backward. The gates i, f, g, o are blocks of
   the whole tensor (`lstm_cell`) or of each row (a sequence). A composition took 13 passes and 25.
3. A sequence is one call because there is little work between its products: with 128 units and a batch of
   32 a step is 55 us of multiply-adds, and Nodes, Python and copies of slices took another third of the
   time. The weights are packed once for all steps. The panels do not outlive the call, so a write to a
   weight cannot make them stale. The rows of a batch are independent, so each thread takes some rows
   through all steps.
4. The loops of a step, forward and backward, are derived from the formula by derive.py.
5. For the gradients of the weights and the input, backward merges steps until they have CHUNK rows: large
   products, whose operands are still in the cache.
"""
cimport numpy as cnp
from cpython.exc cimport PyErr_CheckSignals
from cpython.ref cimport PyObject
from numpy cimport (NPY_DOUBLE, PyArray_DATA, PyArray_DIMS, PyArray_ITEMSIZE, PyArray_NBYTES,
                    PyArray_NDIM, PyArray_SIZE, PyArray_TYPE, ndarray, npy_intp)

from .kernels cimport SUM, TILE
from .loops cimport Part, add_in_place, contiguous, copied, empty, in_parts, recycle, zeros
from .products cimport Factor, factor_of, multiply, multiply_rows, panels_of, threads_of
from .reductions cimport reduce
from ..engine.graph cimport Tensor, wrap

cnp.import_array()

cdef extern from "clones.h": pass
cdef extern from "vecmath.h": pass
cdef extern from "derived.h" nogil:
    ctypedef void (*CellLoop "MG_CellLoop")(void** arrays, npy_intp start, npy_intp stop) noexcept
    ctypedef struct Cell "MG_Cell":
        CellLoop forward[2]
        CellLoop backward[2]
        int gates, kept

cdef extern from "../generated/cells.h":
    const Cell mg_cells[]

cdef enum:
    MAXDIMS = 64                # NumPy's own limit
    MAX_BLOCKS = 16             # of a row, in all arrays of a step
    CHUNK = 256                 # rows of a product that merges several steps
    AT_A_TIME = 1 << 28         # multiply-adds between two checks for Ctrl-C: 5 ms


# ------------------------------------------------------------------------------------------ one step
cdef void run_cell(CellLoop loop, bint is_double, npy_intp rows, npy_intp n, void** arrays, int* blocks,
                   int count) noexcept nogil:
    """Run a loop for arrays of rows, each of so many blocks of n elements; tile by tile, because the loops in
    it read what the last one wrote."""
    cdef void* at[MAX_BLOCKS]
    cdef npy_intp row, k
    cdef int a, b, q
    for row in range(rows):
        q = 0
        for a in range(count):
            for b in range(blocks[a]):
                at[q] = <char*> arrays[a] + (row * blocks[a] + b) * n * (8 if is_double else 4)
                q += 1
        for k from 0 <= k < n by TILE:
            loop(at, k, min(n, k + TILE))


cdef void step(bint is_double, void* z, void* c, npy_intp rows, npy_intp n, void* kept, void* after,
               void* h) noexcept nogil:
    """For each row, z: the gates before their activation, n each; c: the cell. Writes the next cell and h,
    and to `kept` what `step_back` reads."""
    cdef const Cell* cell = &mg_cells[0]
    cdef void** arrays = [z, c, kept, after, h]
    cdef int* blocks = [cell.gates, 1, cell.kept, 1, 1]
    run_cell(cell.forward[is_double], is_double, rows, n, arrays, blocks, 5)


cdef void step_back(bint is_double, void* g_after, void* g_h, void* c, npy_intp rows, npy_intp n, void* kept,
                    void* z, void* g_c) noexcept nogil:
    """The cotangents of the gates, z, and of the cell, which may replace those of the next cell."""
    cdef const Cell* cell = &mg_cells[0]
    cdef void** arrays = [g_after, g_h, c, kept, z, g_c]
    cdef int* blocks = [1, 1, 1, cell.kept, cell.gates, 1]
    run_cell(cell.backward[is_double], is_double, rows, n, arrays, blocks, 6)


cdef ndarray blocks(ndarray c, int count):
    """An array like c, `count` times as long along the first dimension."""
    cdef npy_intp shape[MAXDIMS]
    cdef int d
    for d in range(PyArray_NDIM(c)): shape[d] = PyArray_DIMS(c)[d]
    shape[0] *= count
    return empty(PyArray_NDIM(c), shape, PyArray_TYPE(c))


cdef ndarray cell_forward(ndarray z, ndarray c, ndarray kept):
    """The next cell and h as two blocks, from four blocks of gates and the cell, all C-contiguous. Writes
    five blocks to `kept`, for `cell_backward`."""
    cdef ndarray out = blocks(c, 2)
    step(PyArray_TYPE(c) == NPY_DOUBLE, PyArray_DATA(z), PyArray_DATA(c), 1, PyArray_SIZE(c),
         PyArray_DATA(kept), PyArray_DATA(out), <char*> PyArray_DATA(out) + PyArray_NBYTES(c))
    return out


cdef list cell_backward(ndarray g, ndarray c, ndarray kept):
    """The cotangents of the gates and of the cell from that of the output of `cell_forward`."""
    cdef ndarray z = blocks(c, 4), g_c = blocks(c, 1)
    step_back(PyArray_TYPE(c) == NPY_DOUBLE, PyArray_DATA(g), <char*> PyArray_DATA(g) + PyArray_NBYTES(c),
              PyArray_DATA(c), 1, PyArray_SIZE(c), PyArray_DATA(kept), PyArray_DATA(z), PyArray_DATA(g_c))
    return [wrap(z), wrap(g_c)]


# --------------------------------------------------------------------------------------- a sequence
cdef ndarray make(int typenum, npy_intp a, npy_intp b, npy_intp c=-1):
    """An array of shape (a, b) or (a, b, c) with undefined contents."""
    cdef npy_intp[3] shape = [a, b, c]
    return empty(2 if c < 0 else 3, shape, typenum)


cdef void let_go(ndarray scratch) noexcept:
    if scratch is not None:
        recycle(<PyObject*> scratch)


cdef ndarray rows_of(ndarray sequence, npy_intp start, npy_intp stop):
    """Steps of a contiguous (T, N, size) as a matrix of ((stop - start) N, size); a view."""
    cdef npy_intp* shape = PyArray_DIMS(sequence)
    return sequence[start:stop].reshape((stop - start) * shape[1], shape[2])


cdef struct Sequence:           # steps of a layer; the rows of a batch are independent
    bint is_double
    npy_intp steps, first, stop, rows, n, places, bytes     # bytes of an element
    Factor input, hidden
    char* x
    char* h
    char* y
    char* kept
    char* cells
    char* last
    char* z
    char* bias
    char* g_y
    char* g_h
    char* g_cell
    bint failed                 # no memory for a product


cdef void forward_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """Run the steps for a range of rows."""
    cdef Sequence* s = <Sequence*> data
    cdef npy_intp row = eights(part, parts, s.rows), rows = eights(part + 1, parts, s.rows) - row, t
    cdef npy_intp one = row * s.n * s.bytes, step_bytes = s.rows * s.n * s.bytes
    cdef char* before = s.h + one
    cdef char* cell
    cdef char* after
    for t in range(s.first, s.stop if rows else s.first):
        if t > 0:
            before = s.y + (t - 1) * step_bytes + one
        cell = s.cells + t % (s.places + 1) * step_bytes + one
        after = (s.last if t + 1 == s.steps else s.cells + (t + 1) % (s.places + 1) * step_bytes) + one
        if not (multiply_rows(&s.input, s.x + (t * s.rows + row) * s.input.inner * s.bytes, s.bias, True,
                              s.z + 4 * one, rows)
                and multiply_rows(&s.hidden, before, s.z + 4 * one, False, s.z + 4 * one, rows)):
            s.failed = True
            return
        step(s.is_double, s.z + 4 * one, cell, rows, s.n, s.kept + 5 * (t % s.places * step_bytes + one),
             after, s.y + t * step_bytes + one)


cdef void backward_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """The cotangents of the gates, z, which starts at the first step, from those of the outputs; the
    cotangents of the state are updated in place."""
    cdef Sequence* s = <Sequence*> data
    cdef npy_intp row = eights(part, parts, s.rows), rows = eights(part + 1, parts, s.rows) - row, t
    cdef npy_intp one = row * s.n * s.bytes, step_bytes = s.rows * s.n * s.bytes
    cdef char* z
    for t in range(s.stop - 1, s.first - 1 if rows else s.stop - 1, -1):
        z = s.z + 4 * ((t - s.first) * step_bytes + one)
        step_back(s.is_double, s.g_cell + one, (s.g_y + t * step_bytes if t + 1 == s.steps else s.g_h) + one,
                  s.cells + t * step_bytes + one, rows, s.n, s.kept + 5 * (t * step_bytes + one), z,
                  s.g_cell + one)
        if not multiply_rows(&s.hidden, z, s.g_y + (t - 1) * step_bytes + one if t else NULL, False,
                             s.g_h + one, rows):
            s.failed = True
            return


cdef npy_intp eights(npy_intp part, npy_intp parts, npy_intp rows) noexcept nogil:
    """The first row of a part: a multiple of the tiles of products."""
    return rows if part == parts else rows * part // parts // 8 * 8


cdef void run_rows(Sequence* s, Part part, double work) except *:
    """Run all rows of the steps from `first` up to `stop`, which take `work` multiply-adds."""
    cdef npy_intp threads = threads_of(work), parts = 1
    if threads > 1 and s.hidden.kernel != NULL:     # in BLAS the order of a sum depends on the number of rows
        parts = max(1, min(s.rows // 8, 4 * threads))
    PyErr_CheckSignals()
    with nogil:
        in_parts(part, s, parts)
    if s.failed:
        raise MemoryError("LSTM: no memory for a product")


cdef void check_operands(list tensors) except *:
    shapes, dtypes = [t.shape for t in tensors], {t.dtype for t in tensors}
    x, h = shapes[:2]
    if len(x) == 3 and x[0] > 0 and len(h) == 2 and len(dtypes) == 1 and dtypes.pop().kind == "f":
        n = h[1]
        expected = [x, (x[1], n), (x[1], n), (4 * n, x[2]), (4 * n, n), (4 * n,)]
        if shapes == expected[:len(shapes)]:
            return
    raise ValueError(f"LSTM: x, h, c, weight_ih, weight_hh and bias of shapes {', '.join(map(str, shapes))}: "
                     "expected (T, N, i), (N, n), (N, n), (4 n, i), (4 n, n), (4 n,), of one floating dtype")


def lstm_forward(Tensor x not None, Tensor h not None, Tensor c not None, Tensor weight_ih not None,
                 Tensor weight_hh not None, Tensor bias: Tensor | None,
                 bint keep) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A layer over x (T, N, input_size), T > 0, from the state h and c, (N, n), with the weights
    (4 n, input_size) and (4 n, n) and a bias (4 n,) or None, all of one floating dtype. Returns the outputs
    (T, N, n), the last cell and, for `lstm_backward` if `keep`, the activations (T, N, 5 n) and the cells at
    the start of each step (T, N, n)."""
    cdef int typenum = PyArray_TYPE(x.array)
    check_operands([x, h, c, weight_ih, weight_hh] + ([] if bias is None else [bias]))
    cdef npy_intp steps = PyArray_DIMS(x.array)[0], rows = PyArray_DIMS(x.array)[1]
    cdef npy_intp n = PyArray_DIMS(weight_hh.array)[1], places = steps if keep else 1
    cdef ndarray inputs = contiguous(x.array), before = contiguous(h.array)
    cdef ndarray w_ih = weight_ih.array.T, w_hh = weight_hh.array.T
    cdef ndarray panels_ih = panels_of(w_ih, rows, steps), panels_hh = panels_of(w_hh, rows, steps)
    cdef ndarray start = None if bias is None else contiguous(bias.array)
    cdef ndarray y = make(typenum, steps, rows, n), last = make(typenum, rows, n)
    cdef ndarray kept = make(typenum, places, rows, 5 * n), cells = make(typenum, places + 1, rows, n)
    cdef ndarray z = make(typenum, rows, 4 * n)
    cdef Sequence s
    cdef double work = 4.0 * rows * n * (PyArray_DIMS(w_ih)[0] + n)
    cells[0] = c.array
    s.is_double, s.bytes, s.failed = typenum == NPY_DOUBLE, PyArray_ITEMSIZE(y), False
    s.steps, s.rows, s.n, s.places = steps, rows, n, places
    s.input, s.hidden = factor_of(w_ih, panels_ih), factor_of(w_hh, panels_hh)
    s.x, s.h, s.y = <char*> PyArray_DATA(inputs), <char*> PyArray_DATA(before), <char*> PyArray_DATA(y)
    s.kept, s.cells = <char*> PyArray_DATA(kept), <char*> PyArray_DATA(cells)
    s.last = <char*> PyArray_DATA(last)
    s.z, s.bias = <char*> PyArray_DATA(z), NULL if start is None else <char*> PyArray_DATA(start)
    s.stop = 0
    while s.stop < steps:
        s.first, s.stop = s.stop, min(steps, s.stop + 1 + <npy_intp> (AT_A_TIME / (work + 1)))
        run_rows(&s, forward_part, work * (s.stop - s.first))
    let_go(z)
    let_go(panels_ih)
    let_go(panels_hh)
    return wrap(y), wrap(last), wrap(kept), wrap(cells)


def lstm_backward(Tensor g not None, Tensor g_last not None, Tensor x not None, Tensor h not None,
                  Tensor weight_ih not None, Tensor weight_hh not None, Tensor y not None,
                  Tensor kept not None, Tensor cells not None, bint of_x,
                  bint of_bias) -> tuple[Tensor | None, Tensor, Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of x, h, c, weight_ih, weight_hh and the bias (None for x and the bias unless requested),
    from the cotangents of the outputs y and of the last cell, of their shapes and dtype, and from the inputs
    and kept arrays of `lstm_forward`."""
    cdef int typenum = PyArray_TYPE(x.array)
    cdef npy_intp steps = PyArray_DIMS(x.array)[0], rows = PyArray_DIMS(x.array)[1], start, stop = steps
    cdef npy_intp n = PyArray_DIMS(weight_hh.array)[1], first
    cdef npy_intp chunk = max(1, min(steps, CHUNK // max(rows, 1)))
    cdef ndarray inputs = contiguous(x.array), g_y = contiguous(g.array)
    cdef ndarray w_ih = weight_ih.array, w_hh = weight_hh.array
    cdef ndarray panels_ih = panels_of(w_ih, chunk * rows, steps // chunk) if of_x else None
    cdef ndarray panels_hh = panels_of(w_hh, rows, steps)
    cdef ndarray g_x = make(typenum, steps, rows, PyArray_DIMS(x.array)[2]) if of_x else None
    cdef ndarray g_ih = zeros(2, PyArray_DIMS(w_ih), typenum), g_hh = zeros(2, PyArray_DIMS(w_hh), typenum)
    cdef ndarray g_bias = zeros(1, PyArray_DIMS(w_ih), typenum)
    cdef ndarray g_zs = make(typenum, chunk, rows, 4 * n), g_z
    cdef ndarray g_h = make(typenum, rows, n), g_c = copied(g_last.array)
    cdef Sequence s
    s.is_double, s.bytes, s.failed = typenum == NPY_DOUBLE, PyArray_ITEMSIZE(g_h), False
    s.steps, s.rows, s.n = steps, rows, n
    s.hidden = factor_of(w_hh, panels_hh)
    s.kept, s.cells = <char*> PyArray_DATA(kept.array), <char*> PyArray_DATA(cells.array)
    s.g_y, s.g_h, s.g_cell = <char*> PyArray_DATA(g_y), <char*> PyArray_DATA(g_h), <char*> PyArray_DATA(g_c)
    s.z = <char*> PyArray_DATA(g_zs)
    while stop > 0:
        start = max(0, stop - chunk)
        s.first, s.stop = start, stop
        run_rows(&s, backward_part, 4.0 * rows * n * n * (stop - start))
        g_z = rows_of(g_zs, 0, stop - start)
        if of_x:
            multiply(g_z, w_ih, panels_ih, None, rows_of(g_x, start, stop))
        if of_bias:
            add_in_place(g_bias, reduce(SUM, g_z, 1, False, 0))
        multiply(g_z.T, rows_of(inputs, start, stop), None, g_ih, g_ih)
        first = max(start, 1)               # step 0 starts from h, the others from an output
        if stop > first:
            multiply(g_z[(first - start) * rows:].T, rows_of(y.array, first - 1, stop - 1), None, g_hh, g_hh)
        if start == 0:
            multiply(g_z[:rows].T, contiguous(h.array), None, g_hh, g_hh)
        stop = start
    g_z = None
    let_go(g_zs)
    let_go(panels_ih)
    let_go(panels_hh)
    return (wrap(g_x) if of_x else None, wrap(g_h), wrap(g_c), wrap(g_ih), wrap(g_hh),
            wrap(g_bias) if of_bias else None)
