# Arrays to loops. loops.pyx opens with the Design note.
from cpython.ref cimport PyObject
from numpy cimport ndarray, npy_intp

cdef struct Operand:            # what an elementwise loop reads: an array, or one scalar with ndim 0
    char* data
    npy_intp* shape
    npy_intp* strides           # in bytes
    int ndim
    int itemsize

cdef void recycle(PyObject* array) noexcept
cdef ndarray copied(ndarray array)
cdef ndarray zeros_of(tuple shape, int typenum)
cdef ndarray empty(int ndim, npy_intp* shape, int typenum)
cdef ndarray zeros(int ndim, npy_intp* shape, int typenum)
cdef ndarray contiguous(ndarray array)
cdef bint is_viewable(ndarray x, tuple shape) except -1
cdef void transfer(ndarray source, ndarray target, bint add)
cdef tuple first_maxima_of(str name, ndarray x, list bounds, npy_intp row_step, npy_intp column_step)
cdef ndarray elementwise(str name, int opcode, bint is_double, int typenum, Operand* operands, int count)
cdef ndarray reduce(int opcode, ndarray x, unsigned long long axes, bint keepdims, double correction)
cdef ndarray logsumexp(ndarray x, unsigned long long axes, bint keepdims)
cdef ndarray log_softmax(ndarray x, unsigned long long axes)
cdef void view_array(Operand* operand, ndarray array) noexcept
cdef void check_positions(str name, ndarray index, int axis, npy_intp length) except *
cdef ndarray take_along_axis(ndarray x, ndarray index, int axis)
cdef ndarray add_along_axis(ndarray x, ndarray index, int axis, tuple shape)
cdef ndarray cumulate(ndarray factor, ndarray x, int axis)
cdef void* vector(ndarray a, ndarray like, bint writable, str what) except? NULL
cdef void blend(ndarray average, ndarray batch, double keep, double gain) except *
cdef ndarray matmul(ndarray x, ndarray y, ndarray bias=*)
cdef void multiply(ndarray x, ndarray y, ndarray panels, ndarray start, ndarray out) except *
cdef ndarray panels_of(ndarray y, npy_intp rows, npy_intp uses)
cdef ndarray packed_matmul(ndarray x, ndarray y, tuple shape, ndarray bias)
cdef ndarray packed_outer(ndarray x, ndarray y, tuple shape)
cdef ndarray joined(list arrays, int axis, npy_intp length)
cdef ndarray take_slices(str name, ndarray x, ndarray index, int axis)
cdef void add_slices(str name, ndarray x, ndarray index, int axis, ndarray out) except *
cdef void add_in_place(ndarray target, ndarray addend) noexcept
