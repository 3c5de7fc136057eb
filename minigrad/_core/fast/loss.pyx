# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The cross-entropy of softmax, forward and backward in one pass each.

Design note
-----------
1. This file knows rows of numbers and their labels. It must not know the graph: the entry of the primitive
   `softmax_cross_entropy` is in ops.pyx. Its rule, in Tensor operations, defines what backward computes here.
2. log(sum(exp(x))) is computed relative to the largest element of a row. That and the logarithm of the sum
   are stored separately, in `kept` (2, n): their sum would lose the digits of the logarithm for a large x.
3. Rows are processed in blocks that fit the L1 cache, because exp needs long loops and a row of ten classes
   is short. The loss of 100 x 2 and its gradient took 8.6 us as log_softmax, take_along_axis, sum and divide,
   and take 5.8 as this and `mean`.
4. These loops are written by hand, because derived ones would be less accurate: the rules give the gradient
   softmax(x) - one_hot, which cancels for a probability near 1 (`expm1` below does not).
"""
from cpython.ref cimport PyObject
from cython cimport floating
from numpy cimport (NPY_DOUBLE, PyArray_DATA, PyArray_DIMS, PyArray_TYPE, ndarray, npy_intp)

from .kernels cimport EXP, EXPM1, LOG, MAX, SUM, TILE, call_kernel, reduce_rows
from .loops cimport empty, recycle

cdef enum:
    FEW_CLASSES = 16            # up to which a call of the kernel for long rows is not worth it
    BLOCK_ROWS = 256            # in a block, at most


cdef inline void largest_of(floating* x, Py_ssize_t rows, Py_ssize_t n, double* largest) noexcept nogil:
    """The maximum of each row. (A NaN need not win here: it makes the sum of the row NaN anyway.)"""
    cdef Py_ssize_t r, c
    cdef floating best
    for r in range(rows):
        best = x[r * n]
        for c in range(1, n if n <= FEW_CLASSES else 0):
            if x[r * n + c] > best: best = x[r * n + c]
        largest[r] = best
    if n > FEW_CLASSES:
        reduce_rows(MAX, floating is double, x, 0, n * sizeof(floating), rows, n, largest, largest)


cdef inline void sums_of(floating* x, Py_ssize_t rows, Py_ssize_t n, double* total) noexcept nogil:
    cdef Py_ssize_t r, c
    for r in range(rows):
        total[r] = 0
        for c in range(n if n <= FEW_CLASSES else 0): total[r] += x[r * n + c]
    if n > FEW_CLASSES:
        reduce_rows(SUM, floating is double, x, 0, n * sizeof(floating), rows, n, total, total)


cdef void losses_of(floating* x, long long* labels, Py_ssize_t rows, Py_ssize_t n, floating* work,
                    double* kept, floating* out) noexcept nogil:
    cdef double total[BLOCK_ROWS]
    cdef double* largest
    cdef double* logarithm
    cdef Py_ssize_t start, r, c, count, block = max(1, min(<Py_ssize_t> BLOCK_ROWS, TILE // n))
    cdef void* source
    for start from 0 <= start < rows by block:
        count = min(block, rows - start)
        largest, logarithm = kept + start, kept + rows + start
        largest_of(x, count, n, largest)
        for r in range(count):
            for c in range(n): work[r * n + c] = x[r * n + c] - <floating> largest[r]
        for r in range(count): out[r] = -work[r * n + labels[r]]
        source = work
        call_kernel(EXP, floating is double, &source, work + block * n, count * n)
        sums_of(work + block * n, count, n, total)
        source = total
        call_kernel(LOG, True, &source, logarithm, count)
        for r in range(count): out[r] = <floating> logarithm[r] + out[r]
        x, labels, out = x + count * n, labels + count, out + count


cdef void slopes_of(floating* x, long long* labels, double* kept, floating* g, Py_ssize_t rows, Py_ssize_t n,
                    floating* work, floating* out) noexcept nogil:
    cdef floating picked[BLOCK_ROWS]
    cdef floating slope[BLOCK_ROWS]
    cdef Py_ssize_t start, r, c, count, block = max(1, min(<Py_ssize_t> BLOCK_ROWS, TILE // n))
    cdef floating largest, logarithm
    cdef void* source
    for start from 0 <= start < rows by block:
        count = min(block, rows - start)
        for r in range(count):
            largest, logarithm = <floating> kept[start + r], <floating> kept[rows + start + r]
            for c in range(n): work[r * n + c] = x[r * n + c] - largest - logarithm
        source = work
        call_kernel(EXP, floating is double, &source, out, count * n)
        for r in range(count): picked[r] = work[r * n + labels[r]]
        source = picked                     # e^x - 1: accurate for a probability near 1
        call_kernel(EXPM1, floating is double, &source, slope, count)
        for r in range(count):
            out[r * n + labels[r]] = slope[r]
            for c in range(n): out[r * n + c] *= g[r]
        x, labels, g, out = x + count * n, labels + count, g + count, out + count * n


cdef ndarray work_for(ndarray x, int copies):
    """Scratch memory for `copies` blocks of rows."""
    cdef npy_intp n = PyArray_DIMS(x)[1], size = copies * max(n, <npy_intp> TILE)
    return empty(1, &size, PyArray_TYPE(x))


cdef ndarray cross_entropy(ndarray x, ndarray labels, ndarray kept):
    """-log(softmax(x)) at the label of each row of x (n, C); writes `kept`, (2, n) doubles, for
    `cross_entropy_slopes`. All arrays are C-contiguous, labels int64 and in range."""
    cdef npy_intp rows = PyArray_DIMS(x)[0], n = PyArray_DIMS(x)[1]
    cdef ndarray out = empty(1, &rows, PyArray_TYPE(x)), work = work_for(x, 2)
    if rows and PyArray_TYPE(x) == NPY_DOUBLE:
        losses_of(<double*> PyArray_DATA(x), <long long*> PyArray_DATA(labels), rows, n,
                  <double*> PyArray_DATA(work), <double*> PyArray_DATA(kept), <double*> PyArray_DATA(out))
    elif rows:
        losses_of(<float*> PyArray_DATA(x), <long long*> PyArray_DATA(labels), rows, n,
                  <float*> PyArray_DATA(work), <double*> PyArray_DATA(kept), <float*> PyArray_DATA(out))
    recycle(<PyObject*> work)
    return out


cdef ndarray cross_entropy_slopes(ndarray x, ndarray labels, ndarray kept, ndarray g):
    """The cotangent of x from that of the losses, g (n,): (softmax(x) - one_hot(labels)) g."""
    cdef npy_intp rows = PyArray_DIMS(x)[0], n = PyArray_DIMS(x)[1]
    cdef ndarray out = empty(2, PyArray_DIMS(x), PyArray_TYPE(x)), work = work_for(x, 1)
    if rows and PyArray_TYPE(x) == NPY_DOUBLE:
        slopes_of(<double*> PyArray_DATA(x), <long long*> PyArray_DATA(labels), <double*> PyArray_DATA(kept),
                  <double*> PyArray_DATA(g), rows, n, <double*> PyArray_DATA(work),
                  <double*> PyArray_DATA(out))
    elif rows:
        slopes_of(<float*> PyArray_DATA(x), <long long*> PyArray_DATA(labels), <double*> PyArray_DATA(kept),
                  <float*> PyArray_DATA(g), rows, n, <float*> PyArray_DATA(work), <float*> PyArray_DATA(out))
    recycle(<PyObject*> work)
    return out
