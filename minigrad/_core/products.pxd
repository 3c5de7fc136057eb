# Matrix products. products.pyx opens with the Design note.
from numpy cimport ndarray, npy_intp

cdef ndarray matmul(ndarray x, ndarray y, ndarray bias=*)
cdef void multiply(ndarray x, ndarray y, ndarray panels, ndarray start, ndarray out) except *
cdef ndarray panels_of(ndarray y, npy_intp rows, npy_intp uses)
cdef ndarray packed_matmul(ndarray x, ndarray y, tuple shape, ndarray bias)
cdef ndarray packed_outer(ndarray x, ndarray y, tuple shape)
