# Arrays to loops. loops.pyx opens with the Design note.
from cpython.ref cimport PyObject
from numpy cimport NPY_ARRAY_OWNDATA, PyArray_DIMS, PyArray_FLAGS, PyArray_NDIM, ndarray, npy_intp

from .strides cimport Block

cdef struct Operand:            # an operand of an elementwise loop: an array, or a scalar with ndim 0
    char* data
    npy_intp* shape
    npy_intp* strides           # in bytes
    int ndim
    int itemsize

cdef enum:
    IN_PARTS = 1 << 18          # elements above which a loop runs on several threads

cdef struct Transfer:           # a plan for copying or adding elements between strided arrays
    bint add, is_double         # only floats are added
    int itemsize
    Block block                 # of the source and the target

ctypedef void (*Part)(void* job, npy_intp part, npy_intp parts) noexcept nogil  # one of `parts` parts

cdef npy_intp merge_dimensions(Block* block, int ndim, npy_intp* shape, Operand* operands,
                               int count) noexcept nogil
cdef void run_blocks(int opcode, bint is_double, Operand* operands, int count, Block* block, char* out,
                     Py_ssize_t out_itemsize) noexcept nogil
cdef inline npy_intp elements(ndarray array) noexcept:
    """Like PyArray_SIZE, but not a call into NumPy: 3 ns, six times for each small operation."""
    cdef npy_intp size = 1
    cdef int d
    for d in range(PyArray_NDIM(array)):
        size *= PyArray_DIMS(array)[d]
    return size

cpdef npy_intp number_of_threads() noexcept nogil
cdef void in_parts(Part part, void* job, npy_intp parts) noexcept nogil
cdef npy_intp threads_awake() noexcept nogil
cdef bint gains(unsigned long long kind, long long* begun) noexcept nogil
cdef void compare(unsigned long long kind, bint divided, long long begun) noexcept nogil
cdef void share_work(npy_intp n, npy_intp parts, Part part, void* job) noexcept
cdef npy_intp start_of(npy_intp part, npy_intp parts, npy_intp n) noexcept nogil
cdef ndarray difference(str name, ndarray x, ndarray y)
cdef void recycle(PyObject* array) noexcept
cdef bint bounds_meet(ndarray a, ndarray b) noexcept
cdef inline bint may_overlap(ndarray a, ndarray b) noexcept:
    """Whether two arrays may share bytes, so that one must be copied before the other is written."""
    if PyArray_FLAGS(a) & PyArray_FLAGS(b) & NPY_ARRAY_OWNDATA:
        return a is b
    return bounds_meet(a, b)

cdef ndarray copied(ndarray array)
cdef ndarray empty_of(tuple shape, int typenum)
cdef ndarray zeros_of(tuple shape, int typenum)
cdef ndarray empty(int ndim, npy_intp* shape, int typenum)
cdef ndarray zeros(int ndim, npy_intp* shape, int typenum)
cdef ndarray contiguous(ndarray array)
cdef bint is_viewable(ndarray x, tuple shape) except -1
cdef void plan_transfer(Transfer* plan, int ndim, npy_intp* shape, npy_intp* source, npy_intp* target,
                        int itemsize, bint add) noexcept
cdef void run_transfer(Transfer* plan, char* x, char* o) noexcept nogil
cdef void transfer(ndarray source, ndarray target, bint add)
cdef tuple first_maxima_of(str name, ndarray x, list bounds, npy_intp row_step, npy_intp column_step)
cdef ndarray elementwise(str name, int opcode, bint is_double, int typenum, Operand* operands, int count)
cdef ndarray scaled_difference(ndarray x, ndarray y, ndarray z)
cdef void view_array(Operand* operand, ndarray array) noexcept
cdef void check_positions(str name, ndarray index, int axis, npy_intp length) except *
cdef ndarray take_along_axis(ndarray x, ndarray index, int axis)
cdef ndarray add_along_axis(ndarray x, ndarray index, int axis, tuple shape)
cdef ndarray cumulate(ndarray factor, ndarray x, int axis)
cdef void* vector(ndarray a, ndarray like, bint writable, str what) except? NULL
cdef void blend(ndarray average, ndarray batch, double keep, double gain) except *
cdef ndarray joined(list arrays, int axis, npy_intp length)
cdef ndarray take_slices(str name, ndarray x, ndarray index, int axis)
cdef void add_slices(str name, ndarray x, ndarray index, int axis, ndarray out) except *
cdef void add_in_place(ndarray target, ndarray addend) noexcept
