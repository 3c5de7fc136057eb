# Matrix products. products.pyx opens with the Design note.
from cpython.ref cimport PyObject
from numpy cimport ndarray, npy_intp

cdef struct Factor:             # a matrix that many products have in common
    const void* kernel
    const void* data
    const void* panels          # its packed form, or NULL
    npy_intp inner, columns, row, column        # sizes, strides
    int typenum
    PyObject* array             # borrowed

cdef Factor factor_of(ndarray y, ndarray panels) noexcept
cdef bint multiply_rows(Factor* factor, char* x, char* start, bint is_bias, char* out,
                        npy_intp rows) noexcept nogil
cdef npy_intp threads_of(double work) noexcept nogil
cdef bint has_kernels() noexcept
cdef npy_intp room_to_subtract(npy_intp columns) noexcept nogil
cdef void subtract_product(bint is_double, const void* x, npy_intp x_row, npy_intp x_column, const void* y,
                           npy_intp y_row, void* out, npy_intp out_row, npy_intp rows, npy_intp inner,
                           npy_intp columns, void* room) noexcept nogil

cdef ndarray matmul(ndarray x, ndarray y, ndarray bias=*)
cdef void multiply(ndarray x, ndarray y, ndarray panels, ndarray start, ndarray out) except *
cdef ndarray panels_of(ndarray y, npy_intp rows, npy_intp uses)
cdef ndarray packed_matmul(ndarray x, ndarray y, tuple shape, ndarray bias)
cdef ndarray packed_outer(ndarray x, ndarray y, tuple shape)
