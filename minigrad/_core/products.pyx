# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Matrix products: which kernel gets them, and what is packed before.

Design note
-----------
1. This file knows arrays, as `loops.pyx` does, and no Tensor.
2. Small and middle float32 products run in a kernel of our own (`matmul.h`), where a call of BLAS would
   cost as much as the work, and with the bias on the way. All others go to the BLAS that NumPy carries.
   Where it may use several threads, only products that it would not divide are kept from it.
3. A stack of products with one matrix in common is one product, if the stack is packed into rows or
   columns first: block by block, so that it stays in the second cache.
4. A failed allocation is a MemoryError, with one exception that cannot be caught: OpenBLAS prints a message
   and ends the process if it gets no memory for its own use. That is some 32 MB at its first large product,
   which it keeps, and a few KB at each large product where it has threads (OPENBLAS_NUM_THREADS=1: none).
"""
cimport numpy as cnp
from cpython.ref cimport PyObject
from numpy cimport (NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_NBYTES, PyArray_NDIM, PyArray_STRIDES,
                    PyArray_TYPE, ndarray, npy_intp)

from .kernels cimport SUM
from .loops cimport MAXDIMS, add_in_place, contiguous, empty, is_viewable, recycle, transfer
from .reductions cimport reduce

import os

import numpy as np

from .loops import processors

cnp.import_array()

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    PyThreadState* PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState*)

cdef extern from *:
    """
    static PyObject* mg_matrix_product(PyObject* x, PyObject* y, PyObject* out) {
        PyObject* product = PyArray_MatrixProduct2(x, y, (PyArrayObject*) out);
        if (product == NULL && !PyErr_Occurred()) PyErr_NoMemory();     /* NumPy may forget to */
        return product;
    }
    """
    object matrix_product "mg_matrix_product"(object x, object y, object out)

cdef extern from "matmul.h" nogil:
    ctypedef struct Matrix "mg_matrix":
        float* data
        npy_intp row, column
    ctypedef struct MatmulKernel "mg_kernel":
        const char* name
        npy_intp lanes
        void (*pack_panels)(Matrix b, npy_intp inner, npy_intp columns, float* panels)
        bint (*matmul)(Matrix a, Matrix b, float* panels, Matrix start, float* out, npy_intp rows,
                       npy_intp inner, npy_intp columns)
    const MatmulKernel* find_kernel "mg_find_kernel"(const char* name)
    bint takes "mg_takes"(const MatmulKernel* kernel, npy_intp rows, npy_intp inner, npy_intp columns)
    bint takes_panels "mg_takes_panels"(const MatmulKernel* kernel, npy_intp inner, npy_intp columns)

cdef enum:
    PACKED_BYTES = 1 << 19      # of the blocks that `packed_matmul` packs
    SHARED_WORK = 1 << 18       # multiply-adds above which OpenBLAS divides a product among its threads
    SHARED_PACKED = 1 << 22     # and above which that gains more than to have packed once


def threads_of_blas():
    """How many threads NumPy's OpenBLAS was given: by its variables, else one for each processor."""
    for name in ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit() and int(os.environ[name]) > 0:
            return int(os.environ[name])
    return processors()


cdef bint blas_alone = threads_of_blas() == 1   # else larger products are left to its threads
cdef const MatmulKernel* matmul_kernel = choose_kernel(os.environ.get("MINIGRAD_MATMUL", ""))


cdef const MatmulKernel* choose_kernel(str name) except NULL:
    """The kernel of that name; for "" the best that the processor can run."""
    cdef bytes encoded = os.fsencode(name)
    found = find_kernel(encoded)
    if found == NULL:
        raise ValueError(f"MINIGRAD_MATMUL is {name!r}: expected avx512 or avx2, if the processor has it, or "
                         "blas")
    return found


def name_of_kernel():
    """The instruction set of the kernel of small matrix products; "blas" where there is none."""
    return matmul_kernel.name.decode()


cdef inline Matrix matrix(ndarray x) noexcept:
    cdef Matrix view
    view.data = <float*> PyArray_DATA(x)
    view.row = PyArray_STRIDES(x)[0] // 4
    view.column = PyArray_STRIDES(x)[1] // 4
    return view


cdef ndarray matmul(ndarray x, ndarray y, ndarray bias=None):
    """x @ y (+ bias for each row) for arrays of two or more dimensions, float32 or float64. The caller has
    checked the shapes; bias is C-contiguous, and x and y are 2-D then."""
    cdef npy_intp shape[MAXDIMS]
    cdef npy_intp size
    cdef int n = PyArray_NDIM(x), m = PyArray_NDIM(y), ndim = max(n, m), d
    for d in range(ndim - 2):                   # broadcast; sizes that do not fit NumPy will name
        shape[d] = PyArray_DIMS(x)[d - ndim + n] if d >= ndim - n else 1
        size = PyArray_DIMS(y)[d - ndim + m] if d >= ndim - m else 1
        shape[d] = size if shape[d] == 1 else shape[d]
    shape[ndim - 2] = PyArray_DIMS(x)[n - 2]
    shape[ndim - 1] = PyArray_DIMS(y)[m - 1]
    out = empty(ndim, shape, PyArray_TYPE(x))
    if ndim > 2:
        return np.matmul(x, y, out)
    multiply(x, y, None, bias, out)
    return out


cdef void multiply(ndarray x, ndarray y, ndarray panels, ndarray start, ndarray out) except *:
    """out = start + x @ y for matrices. out is C-contiguous; so is start, which has the shape of out, or of a
    row, or is `out` itself, or None. panels: what `panels_of` made of y, or None."""
    cdef npy_intp rows = PyArray_DIMS(out)[0], columns = PyArray_DIMS(out)[1], inner = PyArray_DIMS(y)[0]
    cdef Matrix left = matrix(x), right = matrix(y), first
    cdef bint done
    cdef float* packed
    cdef PyThreadState* thread = NULL
    if panels is not None or (PyArray_TYPE(x) == NPY_FLOAT and takes(matmul_kernel, rows, inner, columns)
                              and (blas_alone or rows * inner * columns <= SHARED_WORK)):
        first.data, first.row, first.column = NULL, 0, 1
        if start is not None:
            first.data = <float*> PyArray_DATA(start)
            first.row = columns if PyArray_NDIM(start) == 2 else 0
        if rows * inner * columns > SHARED_WORK:
            thread = PyEval_SaveThread()
        packed = NULL if panels is None else <float*> PyArray_DATA(panels)
        done = matmul_kernel.matmul(left, right, packed, first, <float*> PyArray_DATA(out), rows, inner,
                                    columns)
        if thread != NULL:
            PyEval_RestoreThread(thread)
        if done:
            return
    if start is out:
        add_in_place(out, matmul(x, y))
        return
    matrix_product(x, y, out)                   # in 0.4 us, where np.matmul took 1.2
    if start is not None:
        add_in_place(out, start)


cdef ndarray panels_of(ndarray y, npy_intp rows, npy_intp uses):
    """The matrix y packed for `multiply`, where one call has so many products of so many rows with it: the
    panels must not outlive that call, as nothing tells them of a write to y. None where they gain nothing."""
    cdef npy_intp inner = PyArray_DIMS(y)[0], columns = PyArray_DIMS(y)[1]
    cdef npy_intp lanes = max(matmul_kernel.lanes, 1), size = inner * ((columns + lanes - 1) // lanes * lanes)
    if (uses < 2 or PyArray_TYPE(y) != NPY_FLOAT or not takes_panels(matmul_kernel, inner, columns)
            or not (blas_alone or rows * size <= SHARED_PACKED)):
        return None
    panels = empty(1, &size, NPY_FLOAT)
    matmul_kernel.pack_panels(matrix(y), inner, columns, <float*> PyArray_DATA(panels))
    return panels


cdef npy_intp block_of(ndarray y):
    """How many elements of the first axis of y to pack at a time: as many as stay in the L2 cache."""
    cdef npy_intp n = PyArray_DIMS(y)[0]
    return max(1, min(n, PACKED_BYTES * n // max(1, PyArray_NBYTES(y))))


cdef ndarray packed_block(ndarray y, npy_intp start, npy_intp stop, tuple shape, ndarray tile):
    """y[start:stop] in C order, as if y had that shape: a view where it can be, else packed into the tile."""
    cdef ndarray part = y[start:stop]
    shape = (PyArray_DIMS(part)[0],) + shape[1:]
    if is_viewable(part, shape):
        return part.reshape(shape)
    tile = tile[:PyArray_DIMS(part)[0]]
    transfer(part, tile.reshape((<object> part).shape), False)
    return tile


cdef ndarray packed_matmul(ndarray x, ndarray y, tuple shape, ndarray bias):
    """x @ y.reshape(shape) + bias, block by block of the first axis: what must be packed is read while it is
    in the cache, and never lies in memory as a whole (for the columns of a convolution 1.45 ms, not 2.2)."""
    cdef npy_intp sizes[MAXDIMS]
    cdef npy_intp n = PyArray_DIMS(y)[0], block = block_of(y), i
    cdef int ndim = len(shape), d
    cdef ndarray out, tile, part
    for d in range(ndim):
        sizes[d] = shape[d]
    sizes[0] = block
    tile = empty(ndim, sizes, PyArray_TYPE(y))
    sizes[0] = n
    sizes[ndim - 2] = PyArray_DIMS(x)[PyArray_NDIM(x) - 2]
    out = empty(ndim, sizes, PyArray_TYPE(y))
    for i in range(0, n, block):
        part = np.matmul(x, packed_block(y, i, min(n, i + block), shape, tile), out[i:i + block])
        if bias is not None:
            np.add(part, bias, part)
    recycle(<PyObject*> tile)
    return out


cdef ndarray packed_outer(ndarray x, ndarray y, tuple shape):
    """The sum of x[i] @ y.reshape(shape)[i].T over the first axis, block by block as `packed_matmul`.
    (Computed as its transpose, for which BLAS took 1.5 ms where it took 2.1.)"""
    cdef npy_intp sizes[MAXDIMS]
    cdef npy_intp n = PyArray_DIMS(y)[0], block = block_of(y), i
    cdef int ndim = len(shape), d
    cdef ndarray tile, product, part, total = None
    for d in range(ndim):
        sizes[d] = shape[d]
    sizes[0] = block
    tile = empty(ndim, sizes, PyArray_TYPE(y))
    for i in range(0, n, block):
        product = matmul(packed_block(y, i, min(n, i + block), shape, tile),
                         cnp.PyArray_SwapAxes(x[i:i + block], ndim - 2, ndim - 1))
        part = reduce(SUM, product, 1, False, 0)
        recycle(<PyObject*> product)
        if total is None:
            total = part
        else:
            add_in_place(total, part)
            recycle(<PyObject*> part)
    recycle(<PyObject*> tile)
    return contiguous(cnp.PyArray_SwapAxes(total, ndim - 3, ndim - 2))
