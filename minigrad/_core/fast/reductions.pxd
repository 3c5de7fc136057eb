# Reductions. reductions.pyx opens with the Design note.
from numpy cimport ndarray, npy_intp

from .loops cimport Operand
from .strides cimport Block

cdef struct Plan:               # a reduction, with its dimensions sorted by stride and merged
    bint is_double
    npy_intp other              # bytes to the element of the second array, for a sum of products
    npy_intp centres            # bytes from a variance to its mean, or 0 if the mean is not stored
    npy_intp count              # elements folded into one
    double correction
    bint row_wise               # the fastest dimension is reduced
    npy_intp width              # then its length
    npy_intp stride             # and stride
    npy_intp places             # results computed side by side: of rows, or of columns
    npy_intp place_stride
    npy_intp out_stride
    Block kept                  # the other dimensions: of the array and the output
    Block reduced               # of the array only

cdef void make_plan(Plan* plan, Operand* x, unsigned long long axes, double correction) noexcept nogil
cdef void run_plan(int opcode, Plan* plan, char* x, char* out) noexcept nogil
cdef ndarray reduce(int opcode, ndarray x, unsigned long long axes, bint keepdims, double correction)
cdef ndarray variance(ndarray x, ndarray means, unsigned long long axes, bint keepdims, double correction)
cdef ndarray sum_product(ndarray x, ndarray y, unsigned long long axes, bint keepdims)
cdef ndarray logsumexp(ndarray x, unsigned long long axes, bint keepdims)
cdef ndarray log_softmax(ndarray x, unsigned long long axes)
