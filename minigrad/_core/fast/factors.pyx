# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""LU and Cholesky factors of matrices, and what they solve, by the kernels of our matrix products.

Design note
-----------
1. This file knows arrays. It must not know Tensors: the operations and their gradients are in linalg/, which
   asks NumPy's LAPACK where `factors_by_kernels` is not taken. Every function here takes stacks of matrices,
   float32 or float64, of which the first index counts all leading dimensions together.
2. The arithmetic is in factor.h, once for both precisions. Nearly all of the work of a large matrix is
   products, and those of a small one are so short that a call of NumPy's LAPACK, 4 us, takes longer.
3. Why not LAPACK alone: NumPy does not hand out the factors, so that backward of `solve` would factorise the
   transpose again, and solves triangular systems as it does any other. At n = 256 Cholesky's factor took
   OpenBLAS 700 us, and takes 170 here.
4. A matrix without the factors (singular, or not positive definite) is reported by its number; the caller
   knows what to say of it.
"""
cimport numpy as cnp
from cpython.ref cimport PyObject
from numpy cimport (NPY_DOUBLE, NPY_INTP, PyArray_DATA, PyArray_DIMS, PyArray_ITEMSIZE,
                    PyArray_STRIDES, PyArray_TYPE, ndarray, npy_intp)

from .accelerate cimport Shortcut
from .loops cimport copied, empty, recycle
from .products cimport has_kernels, room_to_subtract, subtract_product

import numpy as np

cnp.import_array()

cdef extern from *:
    """
    #include <math.h>
    #include <stddef.h>
    #include <string.h>
    #include "clones.h"

    #ifdef _MSC_VER
    #define restrict __restrict
    #endif
    #define MG_WIDTH 32         /* columns of a block */
    #define MG_TILE 128         /* columns of a right side that are solved for together */
    #define MG_NARROW 8         /* right sides of fewer columns are solved for one by one */

    typedef struct {
        void *block, *vector, *packed;      /* room for n rows of MG_WIDTH, n numbers, and `subtract` */
        void (*subtract)(int is_double, const void* a, ptrdiff_t a_row, ptrdiff_t a_column, const void* b,
                         ptrdiff_t b_row, void* out, ptrdiff_t out_row, ptrdiff_t rows, ptrdiff_t inner,
                         ptrdiff_t columns, void* packed);
    } mg_room;

    #define MG_REAL float
    #define MG_NAME(x) mg_##x##_f32
    #define MG_SQRT sqrtf
    #include "factor.h"
    #define MG_REAL double
    #define MG_NAME(x) mg_##x##_f64
    #define MG_SQRT sqrt
    #include "factor.h"
    """
    ctypedef struct Room "mg_room":
        void* block
        void* vector
        void* packed
        void (*subtract)(bint is_double, const void* a, npy_intp a_row, npy_intp a_column, const void* b,
                         npy_intp b_row, void* out, npy_intp out_row, npy_intp rows, npy_intp inner,
                         npy_intp columns, void* packed) noexcept nogil
    npy_intp WIDTH "MG_WIDTH"
    npy_intp lu_f32 "mg_lu_f32"(float* a, npy_intp n, npy_intp* pivots, Room room) noexcept nogil
    npy_intp lu_f64 "mg_lu_f64"(double* a, npy_intp n, npy_intp* pivots, Room room) noexcept nogil
    npy_intp cholesky_f32 "mg_cholesky_f32"(float* a, npy_intp n, Room room) noexcept nogil
    npy_intp cholesky_f64 "mg_cholesky_f64"(double* a, npy_intp n, Room room) noexcept nogil
    void solve_f32 "mg_solve_f32"(const float* lu, const npy_intp* pivots, bint transposed, float* b,
                                  npy_intp n, npy_intp columns, Room room) noexcept nogil
    void solve_f64 "mg_solve_f64"(const double* lu, const npy_intp* pivots, bint transposed, double* b,
                                  npy_intp n, npy_intp columns, Room room) noexcept nogil
    void triangular_f32 "mg_triangular_f32"(
        const float* t, npy_intp row, npy_intp column, bint upper, bint unit, float* b, npy_intp b_row,
        npy_intp n, npy_intp columns, Room room) noexcept nogil
    void triangular_f64 "mg_triangular_f64"(
        const double* t, npy_intp row, npy_intp column, bint upper, bint unit, double* b, npy_intp b_row,
        npy_intp n, npy_intp columns, Room room) noexcept nogil

cdef Shortcut FACTORS = Shortcut("factors by our kernels")


def factors_by_kernels() -> bool:
    """Whether to call these functions now; counts a use of the shortcut if so.

    >>> from minigrad._core.fast.factors import factors_by_kernels
    >>> with mg.autograd.accelerated(False):
    ...     factors_by_kernels()
    False
    """
    return FACTORS.taken() and has_kernels()


cdef ndarray room_for(Room* room, npy_intp n, npy_intp columns, int typenum):
    """Fill in the room for matrices of n rows and right sides of so many columns; it lives as the array does.
    (One block alone subtracts nothing; room for it would be 40 pages, which cost 8 us where they are new.)"""
    if n > WIDTH and not has_kernels():
        raise RuntimeError("factors: no kernels here; ask factors_by_kernels first")
    cdef npy_intp size = n * WIDTH + n + (room_to_subtract(max(n, columns)) if n > WIDTH else 0)
    cdef ndarray memory = empty(1, &size, typenum)
    cdef char* data = <char*> PyArray_DATA(memory)
    room.block, room.vector = data, data + n * WIDTH * PyArray_ITEMSIZE(memory)
    room.packed = data + n * (WIDTH + 1) * PyArray_ITEMSIZE(memory)
    room.subtract = subtract_product
    return memory


def lu(ndarray a not None) -> tuple[np.ndarray, np.ndarray, int]:
    """The factors of C-contiguous matrices (count, n, n) as `lu_solve` takes them, the rows exchanged, and
    the number of the first matrix that is singular, or -1.

    >>> from minigrad._core.fast.factors import lu
    >>> lu(np.array([[[2.0, 0.0], [4.0, 1.0]]]))
    (array([[[ 4. ,  1. ],
            [ 0.5, -0.5]]]), array([[1, 1]]), -1)
    """
    cdef npy_intp* shape = PyArray_DIMS(a)
    cdef npy_intp count = shape[0], n = shape[1], i, missing = -1, singular = -1
    cdef bint is_double = PyArray_TYPE(a) == NPY_DOUBLE
    cdef Room room
    cdef ndarray factors = copied(a), pivots = empty(2, shape, NPY_INTP)
    cdef ndarray memory = room_for(&room, n, n, PyArray_TYPE(a))
    cdef char* matrix = <char*> PyArray_DATA(factors)
    cdef npy_intp* rows = <npy_intp*> PyArray_DATA(pivots)
    with nogil:
        for i in range(count):
            if is_double: missing = lu_f64(<double*> matrix, n, rows, room)
            else: missing = lu_f32(<float*> matrix, n, rows, room)
            if missing >= 0:
                singular = i
                break
            matrix += n * n * (8 if is_double else 4)
            rows += n
    recycle(<PyObject*> memory)
    return factors, pivots, singular


def lu_solve(ndarray factors not None, ndarray pivots not None, ndarray b not None, bint transposed,
             ndarray which: np.ndarray | None = None) -> np.ndarray:
    """The solutions x of a x = b, or a' x = b, for b (count, n, columns) and what `lu` made of matrices a.
    which: the number of the matrix for each of the `count`, int64.

    >>> from minigrad._core.fast.factors import lu, lu_solve
    >>> factors, pivots, _ = lu(np.array([[[2.0, 0.0], [4.0, 1.0]]]))
    >>> lu_solve(factors, pivots, np.array([[[2.0], [5.0]]]), False)
    array([[[1.],
            [1.]]])
    """
    cdef npy_intp count = PyArray_DIMS(b)[0], n = PyArray_DIMS(b)[1], columns = PyArray_DIMS(b)[2], i, k
    cdef bint is_double = PyArray_TYPE(b) == NPY_DOUBLE
    cdef Room room
    cdef ndarray out = copied(b), memory = room_for(&room, n, columns, PyArray_TYPE(b))
    cdef char* matrices = <char*> PyArray_DATA(factors)
    cdef char* right = <char*> PyArray_DATA(out)
    cdef npy_intp* rows = <npy_intp*> PyArray_DATA(pivots)
    cdef npy_intp* numbers = NULL if which is None else <npy_intp*> PyArray_DATA(which)
    with nogil:
        for i in range(count):
            k = i if numbers == NULL else numbers[i]
            if is_double: solve_f64(<double*> matrices + k * n * n, rows + k * n, transposed,
                                    <double*> right + i * n * columns, n, columns, room)
            else: solve_f32(<float*> matrices + k * n * n, rows + k * n, transposed,
                            <float*> right + i * n * columns, n, columns, room)
    recycle(<PyObject*> memory)
    return out


def cholesky_factor(ndarray a not None) -> tuple[np.ndarray, int]:
    """The lower triangular L of a = L L' for matrices (count, n, n), of which the lower triangles are read,
    and the number of the first that is not positive definite, or -1.

    >>> from minigrad._core.fast.factors import cholesky_factor
    >>> cholesky_factor(np.array([[[4.0, 0.0], [2.0, 5.0]]]))
    (array([[[2., 0.],
            [1., 2.]]]), -1)
    """
    cdef npy_intp count = PyArray_DIMS(a)[0], n = PyArray_DIMS(a)[1], i, missing = -1, indefinite = -1
    cdef bint is_double = PyArray_TYPE(a) == NPY_DOUBLE
    cdef Room room
    cdef ndarray out = copied(a), memory = room_for(&room, n, n, PyArray_TYPE(a))
    cdef char* matrix = <char*> PyArray_DATA(out)
    with nogil:
        for i in range(count):
            if is_double: missing = cholesky_f64(<double*> matrix, n, room)
            else: missing = cholesky_f32(<float*> matrix, n, room)
            if missing >= 0:
                indefinite = i
                break
            matrix += n * n * (8 if is_double else 4)
    recycle(<PyObject*> memory)
    return out, indefinite


def triangular_solve(ndarray t not None, ndarray b not None, bint upper) -> np.ndarray:
    """The solutions x of t x = b for b (count, n, columns), reading one triangle of each t (count, n, n),
    which are transposes of C-contiguous matrices, or those.

    >>> from minigrad._core.fast.factors import triangular_solve
    >>> triangular_solve(np.array([[[2.0, 0.0], [4.0, 1.0]]]), np.array([[[2.0], [5.0]]]), False)
    array([[[1.],
            [1.]]])
    """
    cdef npy_intp count = PyArray_DIMS(b)[0], n = PyArray_DIMS(b)[1], columns = PyArray_DIMS(b)[2], i
    cdef npy_intp size = PyArray_ITEMSIZE(t)
    cdef npy_intp step = PyArray_STRIDES(t)[0] // size, row = PyArray_STRIDES(t)[1] // size
    cdef npy_intp column = PyArray_STRIDES(t)[2] // size
    cdef bint is_double = PyArray_TYPE(b) == NPY_DOUBLE
    cdef Room room
    cdef ndarray out = copied(b), memory = room_for(&room, n, columns, PyArray_TYPE(b))
    cdef char* matrices = <char*> PyArray_DATA(t)
    cdef char* right = <char*> PyArray_DATA(out)
    with nogil:
        for i in range(count):
            if is_double: triangular_f64(<double*> matrices + i * step, row, column, upper, False,
                                         <double*> right + i * n * columns, columns, n, columns, room)
            else: triangular_f32(<float*> matrices + i * step, row, column, upper, False,
                                 <float*> right + i * n * columns, columns, n, columns, room)
    recycle(<PyObject*> memory)
    return out
