# Arrays to loops. loops.pyx opens with the Design note.
from cpython.ref cimport PyObject
from numpy cimport PyArray_DIMS, PyArray_NDIM, ndarray, npy_intp

cdef struct Operand:            # what an elementwise loop reads: an array, or one scalar with ndim 0
    char* data
    npy_intp* shape
    npy_intp* strides           # in bytes
    int ndim
    int itemsize

cdef enum:
    MAXDIMS = 64                # NumPy's own limit
    MAXOPERANDS = 3

cdef struct Block:              # the loop that is left once dimensions were merged
    int ndim
    npy_intp shape[MAXDIMS]
    npy_intp strides[MAXOPERANDS][MAXDIMS]

cdef struct Plan:               # a reduction whose dimensions were sorted by stride and merged
    bint is_double
    npy_intp other              # bytes from an element to that of the other array, for a sum of products
    npy_intp centres            # bytes from a variance to where its mean goes, 0 for nowhere
    bint row_wise               # the fastest dimension is reduced
    npy_intp width              # its length then
    npy_intp stride             # and stride
    npy_intp places             # results that are computed side by side: of rows, or of columns
    npy_intp place_stride
    npy_intp out_stride
    int kept                    # the other dimensions
    npy_intp kept_shape[MAXDIMS]
    npy_intp kept_strides[MAXDIMS]
    npy_intp kept_out[MAXDIMS]
    int reduced
    npy_intp reduced_shape[MAXDIMS]
    npy_intp reduced_strides[MAXDIMS]
    npy_intp count              # elements that fold into one
    double correction

cdef npy_intp merge_dimensions(Block* block, int ndim, npy_intp* shape, Operand* operands,
                               int count) noexcept nogil
cdef void run_blocks(int opcode, bint is_double, Operand* operands, int count, Block* block, char* out,
                     Py_ssize_t out_itemsize) noexcept nogil
cdef void make_plan(Plan* plan, Operand* x, unsigned long long axes, double correction) noexcept nogil
cdef void run_plan(int opcode, Plan* plan, char* x, char* out) noexcept nogil
cdef inline npy_intp elements(ndarray array) noexcept:
    """As PyArray_SIZE, which is a call into NumPy: 3 ns, six times for each small operation."""
    cdef npy_intp size = 1
    cdef int d
    for d in range(PyArray_NDIM(array)):
        size *= PyArray_DIMS(array)[d]
    return size

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
cdef ndarray variance(ndarray x, ndarray means, unsigned long long axes, bint keepdims, double correction)
cdef ndarray scaled_difference(ndarray x, ndarray y, ndarray z)
cdef ndarray sum_product(ndarray x, ndarray y, unsigned long long axes, bint keepdims)
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
