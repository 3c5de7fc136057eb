# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""From arrays and shapes to loops over memory.

Design note
-----------
1. This file knows NumPy arrays: shapes, strides, axes, broadcasting, allocation. It must not know
   Tensors, dtypes other than float32 and float64 (and the bool of a mask), or the graph.
2. Every output is C-contiguous and unshared. Its memory is new, or recycled from a Tensor that was freed:
   a training step needs the same shapes again and again, and an array from a bin costs 10 ns, a new one 100,
   plus page faults if it is large. A large array is reused for any shape of the same size. If the last
   reference is a view, its base array is recycled. Inputs may have any strides: transposed, reversed,
   broadcast, overlapping windows.
3. *Elementwise*: dimensions that are contiguous to each other in every operand are merged first, so most
   calls are a single loop. The rest is walked in blocks of rows, and an operand that is not contiguous there
   is packed into a tile in the L1 cache, only once if it repeats (a bias row, a scalar).
4. *Windows* are strides too. One walk over two sets of strides (`transfer`) copies what cannot be a view
   (the columns of a convolution: 0.4 ms, NumPy 1.0) and adds up overlaps (its adjoint).
5. Large loops release the GIL. From 2^18 elements on they are divided into parts for the pool of `threads.h`,
   which products, optimisers and recurrent layers use as well. Waking a thread takes 45 us, so a loop of up
   to 2^20 elements is divided only if it is one of many in a row. No bit depends on the number of threads, so
   no result may depend on its neighbours in a part. Sums to a single number stay on one thread.
6. Reductions are in `reductions.pyx`, products in `products.pyx`.
"""
cimport numpy as cnp
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.string cimport memcmp, memcpy, memset
from numpy cimport (NPY_ARRAY_OWNDATA, NPY_DOUBLE, NPY_FLOAT, NPY_INT64, PyArray_CheckExact, PyArray_DATA,
                    PyArray_DIMS, PyArray_FLAGS, PyArray_ITEMSIZE, PyArray_NBYTES, PyArray_NDIM,
                    PyArray_STRIDES, PyArray_TYPE, ndarray, npy_intp)

from .kernels cimport (
    SCALED_DIFFERENCE, SUBTRACT, TILE, add_along, add_block, all_within, blend_into, call_kernel,
    call_with_numbers, copy_block, first_maxima, pack, scan, take_along, takes_numbers)
from .strides cimport (
    MAXDIMS, MAXOPERANDS, Block, add_loop, advance, insert_loop, llabs, merge)

from functools import wraps

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject*)
    ctypedef struct PyThreadState:
        pass
    PyThreadState* PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState*)

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArray_Dims:
        npy_intp* ptr
        int len
    object PyArray_Resize(ndarray array, PyArray_Dims* shape, int refcheck, cnp.NPY_ORDER order)

cdef extern from "threads.h" nogil:
    int MG_MOST_THREADS
    int threads "mg_threads"
    void run_parts "mg_in_parts"(Part part, void* job, npy_intp parts)
    bint is_paused "mg_is_paused"()
    bint try_parts "mg_gains"(unsigned long long kind, long long* begun)
    void compare_ways "mg_compare"(unsigned long long kind, bint divided, long long begun)

cdef extern from *:
    """
    #define MG_OWN_AND_PLAIN (NPY_ARRAY_OWNDATA | NPY_ARRAY_CARRAY)
    static int mg_weakly_referenced(PyObject* array) {
        return ((PyArrayObject_fields*) array)->weakreflist != NULL;
    }
    static PyObject* mg_base_of(PyObject* array) { return PyArray_BASE((PyArrayObject*) array); }
    """
    int OWN_AND_PLAIN "MG_OWN_AND_PLAIN"
    bint weakly_referenced "mg_weakly_referenced"(PyObject*)
    PyObject* base_of "mg_base_of"(PyObject*)

cdef enum:
    BINS = 256
    BIN_SIZE = 128              # enough for the steps of a sequence, which all make arrays of the same shapes
    BIN_DIMS = 4
    BIN_BYTES = 1 << 28         # in all bins together; beyond it they are emptied
    BY_SIZE = 1 << 14           # elements from which on arrays of equal size, of any shape, share a bin
    RELEASE_GIL = 1 << 15       # elements above which a loop lets other threads run
    BRIEF = 1 << 20             # elements up to which waking a thread costs as much as it gains
    PIECE = 1 << 17             # the fewest elements of a part
    SOURCE = 0                  # the operands of a transfer
    TARGET = 1


# -------------------------------------------------------------------------------------- allocation
cdef struct Bin:                # unused arrays of one dtype and shape (large ones: size)
    int typenum
    int ndim
    npy_intp shape[BIN_DIMS]
    int wanted                  # the number that `empty` had to allocate: more are not needed
    int count
    PyObject* arrays[BIN_SIZE]

cdef Bin bins[BINS]
cdef npy_intp binned_bytes = 0


cdef inline Bin* bin_of(int ndim, npy_intp* shape, int typenum):
    cdef unsigned long long key = typenum
    cdef int d
    for d in range(ndim):
        key = key * 1000003 + <unsigned long long> shape[d]
    return &bins[(key * 0x9E3779B97F4A7C15ULL) >> 56]   # Fibonacci hashing; BINS is 2^8


cdef inline bint belongs(Bin* bin, int ndim, npy_intp* shape, int typenum):
    cdef int d
    if bin.typenum != typenum or bin.ndim != ndim:
        return False
    for d in range(ndim):
        if bin.shape[d] != shape[d]:
            return False
    return True


cdef void empty_bin(Bin* bin):
    global binned_bytes
    while bin.count:
        bin.count -= 1
        binned_bytes -= PyArray_NBYTES(<ndarray> bin.arrays[bin.count])
        Py_DECREF(<object> bin.arrays[bin.count])


cdef inline void ask_for(Bin* bin, int ndim, npy_intp* shape, int typenum):
    """Let the bin keep one more array of this shape."""
    cdef int i
    if not belongs(bin, ndim, shape, typenum):
        empty_bin(bin)
        bin.typenum, bin.ndim, bin.wanted = typenum, ndim, 0
        for i in range(ndim): bin.shape[i] = shape[i]
    bin.wanted = min(bin.wanted + 1, <int> BIN_SIZE)


cdef ndarray empty(int ndim, npy_intp* shape, int typenum):
    """A C-contiguous array with undefined contents, from its bin or new; every caller writes all of it."""
    global binned_bytes
    cdef Bin* bin
    cdef ndarray array
    cdef PyArray_Dims wanted
    cdef npy_intp size = 1
    cdef bint by_size
    cdef int d
    for d in range(ndim): size *= shape[d]
    by_size = size >= BY_SIZE
    if ndim <= BIN_DIMS or by_size:
        bin = bin_of(1, &size, typenum) if by_size else bin_of(ndim, shape, typenum)
        if bin.count and (belongs(bin, 1, &size, typenum) if by_size
                          else belongs(bin, ndim, shape, typenum)):
            bin.count -= 1
            array = <ndarray> bin.arrays[bin.count]
            Py_DECREF(array)                # the bin's reference; the variable has its own
            binned_bytes -= size * PyArray_ITEMSIZE(array)
            if by_size and (PyArray_NDIM(array) != ndim
                            or memcmp(PyArray_DIMS(array), shape, ndim * sizeof(npy_intp)) != 0):
                wanted.ptr, wanted.len = shape, ndim
                PyArray_Resize(array, &wanted, 0, cnp.NPY_CORDER)   # keeps the memory: equal size
            return array
        if by_size:
            ask_for(bin, 1, &size, typenum)
        else:
            ask_for(bin, ndim, shape, typenum)
    return cnp.PyArray_SimpleNew(ndim, shape, typenum)


def memory_checked(function: Function) -> Function:
    """A decorator for Python functions that call NumPy: they raise MemoryError if NumPy runs out of memory
    without setting an exception, as all compiled code does (see setup.py).

    >>> from minigrad._core.fast.loops import memory_checked
    >>> memory_checked(np.add)(1, 2)
    np.int64(3)
    """
    @wraps(function)
    def checked(*arguments, **options):
        return function(*arguments, **options)
    return checked


cdef ndarray copied(ndarray array):
    """A C-contiguous copy."""
    cdef ndarray copy = empty(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array))
    cnp.PyArray_CopyInto(copy, array)
    return copy


cdef inline void take_bounds(ndarray a, char** low, char** high) noexcept:
    """The first byte of an array's elements, and the one after the last."""
    cdef npy_intp extent
    cdef int d
    low[0] = high[0] = <char*> PyArray_DATA(a)
    for d in range(PyArray_NDIM(a)):
        extent = (PyArray_DIMS(a)[d] - 1) * PyArray_STRIDES(a)[d]
        if extent > 0: high[0] += extent
        else: low[0] += extent
    high[0] += PyArray_ITEMSIZE(a)


cdef bint bounds_meet(ndarray a, ndarray b) noexcept:
    """Whether the memory ranges of two arrays overlap. Interleaved arrays, x[::2] and x[1::2], count too:
    copying them is harmless, and distinguishing them takes time."""
    cdef char* low_a
    cdef char* high_a
    cdef char* low_b
    cdef char* high_b
    take_bounds(a, &low_a, &high_a)
    take_bounds(b, &low_b, &high_b)
    return low_a < high_b and low_b < high_a


cdef ndarray empty_of(tuple shape, int typenum):
    """Like `empty`, for a shape in a tuple."""
    cdef npy_intp sizes[MAXDIMS]
    cdef int d
    for d in range(len(shape)): sizes[d] = shape[d]
    return empty(len(shape), sizes, typenum)


cdef ndarray zeros_of(tuple shape, int typenum):
    """Like `empty_of`, filled with zeros."""
    cdef ndarray array = empty_of(shape, typenum)
    memset(PyArray_DATA(array), 0, PyArray_NBYTES(array))
    return array


cdef ndarray zeros(int ndim, npy_intp* shape, int typenum):
    """Like `empty`, filled with zeros."""
    cdef ndarray array = empty(ndim, shape, typenum)
    memset(PyArray_DATA(array), 0, PyArray_NBYTES(array))
    return array


cdef void recycle(PyObject* array) noexcept:
    """Called by a Tensor that is freed, and by functions for scratch arrays: keep the array for `empty` if
    nothing else refers to it and its bin needs one (otherwise NumPy frees its memory). For a view, keep the
    array that owns the memory, if only the view refers to it."""
    global binned_bytes
    cdef ndarray a
    cdef Bin* bin
    cdef int i, ndim
    cdef npy_intp size, nbytes
    cdef npy_intp* shape
    while (Py_REFCNT(array) == 1 and not PyArray_FLAGS(<ndarray> array) & NPY_ARRAY_OWNDATA
           and base_of(array) != NULL and PyArray_CheckExact(<object> base_of(array))):
        array = base_of(array)
    ndim = PyArray_NDIM(<ndarray> array)
    size = elements(<ndarray> array)
    nbytes = size * PyArray_ITEMSIZE(<ndarray> array)
    if size >= BY_SIZE:
        ndim, shape = 1, &size
    else:
        shape = PyArray_DIMS(<ndarray> array)
    if (Py_REFCNT(array) != 1 or ndim > BIN_DIMS or not PyArray_CheckExact(<object> array)
            or PyArray_FLAGS(<ndarray> array) & OWN_AND_PLAIN != OWN_AND_PLAIN
            or nbytes > BIN_BYTES // 4 or weakly_referenced(array)):
        return
    a = <ndarray> array
    if binned_bytes + nbytes > BIN_BYTES:
        for i in range(BINS): empty_bin(&bins[i])
    bin = bin_of(ndim, shape, PyArray_TYPE(a))
    if belongs(bin, ndim, shape, PyArray_TYPE(a)) and bin.count < bin.wanted:
        Py_INCREF(a)
        bin.arrays[bin.count] = array
        bin.count += 1
        binned_bytes += nbytes


# ----------------------------------------------------------------------------------------- threads
MOST_THREADS: int = MG_MOST_THREADS


def set_threads(int n) -> int:
    """Set the number of threads for large loops; returns the previous number."""
    global threads
    before, threads = threads, min(max(n, 1), <int> MG_MOST_THREADS)
    return before


cpdef npy_intp number_of_threads() noexcept nogil:
    return threads


cdef void in_parts(Part part, void* job, npy_intp parts) noexcept nogil:
    """Run part(job, i, parts) for all i on the pool that all modules share."""
    run_parts(part, job, parts)


cdef npy_intp threads_awake() noexcept nogil:
    """The number of threads for a loop; 1 during a pause."""
    return 1 if threads == 1 or is_paused() else threads


cdef bint gains(unsigned long long kind, long long* begun) noexcept nogil:
    """Whether to divide a brief loop of this kind, one of many; `compare` follows it."""
    return try_parts(kind, begun)


cdef void compare(unsigned long long kind, bint divided, long long begun) noexcept nogil:
    compare_ways(kind, divided, begun)


cdef void share_work(npy_intp n, npy_intp parts, Part part, void* job) noexcept:
    """Run part(job, 0, 1), a loop over n elements; or, if it is large, part(job, i, parts) for all i, in no
    more parts than given. The first four bytes of the job tell loops of one `part` apart."""
    cdef PyThreadState* thread
    cdef unsigned long long kind = (<size_t> part + (<unsigned int*> job)[0]) * 1000003ULL + n
    cdef long long begun = 0
    if n <= RELEASE_GIL:
        part(job, 0, 1)
        return
    thread = PyEval_SaveThread()
    parts = max(1, min(parts, n // PIECE, <npy_intp> 64))
    if threads == 1 or parts == 1 or n <= IN_PARTS or (n <= BRIEF and not gains(kind, &begun)):
        parts = 1
    run_parts(part, job, parts)
    compare(kind, parts > 1, begun)
    PyEval_RestoreThread(thread)


cdef npy_intp start_of(npy_intp part, npy_intp parts, npy_intp n) noexcept nogil:
    """The start of a part of a range: in a long range at a multiple of a vector, in any but the shortest at a
    multiple of four, because columns are folded four at a time."""
    cdef npy_intp step = 64 if n >= 1024 else (4 if n >= 8 else 1)
    return n if part == parts else n * part // parts // step * step


# ------------------------------------------------------------------------------------- elementwise
cdef void view_array(Operand* operand, ndarray array) noexcept:
    operand.data = <char*> PyArray_DATA(array)
    operand.shape = PyArray_DIMS(array)
    operand.strides = PyArray_STRIDES(array)
    operand.ndim = PyArray_NDIM(array)
    operand.itemsize = PyArray_ITEMSIZE(array)


cdef ndarray scaled_difference(ndarray x, ndarray y, ndarray z):
    """(x - y) * z in one pass, broadcast, for arrays of one dtype."""
    cdef Operand operands[3]
    view_array(&operands[0], x)
    view_array(&operands[1], y)
    view_array(&operands[2], z)
    return elementwise("scaled_difference", SCALED_DIFFERENCE, PyArray_TYPE(x) == NPY_DOUBLE, PyArray_TYPE(x),
                       operands, 3)


cdef ndarray difference(str name, ndarray x, ndarray y):
    cdef Operand operands[2]
    view_array(&operands[0], x)
    view_array(&operands[1], y)
    return elementwise(name, SUBTRACT, PyArray_TYPE(x) == NPY_DOUBLE, PyArray_TYPE(x), operands, 2)


cdef object broadcast_error(str name, Operand* operands, int count):
    shapes = [tuple([operands[k].shape[d] for d in range(operands[k].ndim)]) for k in range(count)]
    return ValueError(f"{name}: shapes {' and '.join(map(str, shapes))} do not broadcast: "
                      "aligned at the right, sizes must be equal or 1")


cdef ndarray elementwise(str name, int opcode, bint is_double, int typenum, Operand* operands, int count):
    """Broadcast the operands, allocate the output and run the kernel of `opcode`."""
    cdef npy_intp shape[MAXDIMS]
    cdef npy_intp size, total
    cdef int ndim = 0, k, d, offset
    cdef Block block
    cdef ElementwiseJob job
    cdef Operand* operand
    for k in range(count): ndim = max(ndim, operands[k].ndim)
    for d in range(ndim): shape[d] = 1
    for k in range(count):
        operand = operands + k
        offset = ndim - operand.ndim
        for d in range(operand.ndim):
            size = operand.shape[d]
            if size != 1:
                if shape[offset + d] == 1:
                    shape[offset + d] = size
                elif shape[offset + d] != size:
                    raise broadcast_error(name, operands, count)
    out = empty(ndim, shape, typenum)
    total = merge_dimensions(&block, ndim, shape, operands, count)
    if total == 0:
        return out
    job = ElementwiseJob(opcode, count, is_double, operands, &block, <char*> PyArray_DATA(out),
                         PyArray_ITEMSIZE(out))
    share_work(total, block.shape[0], elementwise_part, &job)
    return out


cdef struct ElementwiseJob:
    int opcode, count
    bint is_double
    Operand* operands
    Block* block
    char* out
    Py_ssize_t out_itemsize


cdef void elementwise_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """A range of the outermost dimension."""
    cdef ElementwiseJob* job = <ElementwiseJob*> data
    cdef Operand operands[MAXOPERANDS]
    cdef Block block
    cdef npy_intp begin, step = job.out_itemsize
    cdef int k, d
    if parts == 1:
        run_blocks(job.opcode, job.is_double, job.operands, job.count, job.block, job.out, job.out_itemsize)
        return
    block = job.block[0]
    begin = start_of(part, parts, block.shape[0])
    block.shape[0] = start_of(part + 1, parts, block.shape[0]) - begin
    if block.shape[0] == 0:
        return
    for k in range(job.count):
        operands[k] = job.operands[k]
        operands[k].data += begin * block.strides[k][0]
    for d in range(1, block.ndim): step *= block.shape[d]
    run_blocks(job.opcode, job.is_double, operands, job.count, &block, job.out + begin * step,
               job.out_itemsize)


cdef npy_intp merge_dimensions(Block* block, int ndim, npy_intp* shape, Operand* operands,
                               int count) noexcept nogil:
    """The loop for operands that broadcast to `shape`; returns its number of elements."""
    cdef npy_intp total = 1
    cdef int d, k, own, place
    cdef Operand* operand
    block.ndim = 0
    for d in range(ndim):
        total *= shape[d]
        place = block.ndim
        for k in range(count):
            operand = operands + k
            own = d - ndim + operand.ndim
            block.strides[k][place] = operand.strides[own] if own >= 0 and operand.shape[own] != 1 else 0
        add_loop(block, count, shape[d], place)
    return total


cdef void run_blocks(int opcode, bint is_double, Operand* operands, int count, Block* block, char* out,
                     Py_ssize_t out_itemsize) noexcept nogil:
    """Walk the outer dimensions; the two innermost ones are a block of rows."""
    cdef npy_intp index[MAXDIMS]
    cdef npy_intp row_stride[MAXOPERANDS]
    cdef npy_intp stride[MAXOPERANDS]
    cdef char* data[MAXOPERANDS]
    cdef int inner = block.ndim - 1, outer = block.ndim - 2, k, d
    cdef npy_intp n = block.shape[inner] if inner >= 0 else 1
    cdef npy_intp rows = block.shape[outer] if outer >= 0 else 1
    for k in range(count):
        data[k] = operands[k].data
        stride[k] = block.strides[k][inner] if inner >= 0 else 0
        row_stride[k] = block.strides[k][outer] if outer >= 0 else 0
    for d in range(outer): index[d] = 0
    while True:
        run_in_tiles(opcode, is_double, operands, count, data, row_stride, stride, rows, n, out, out_itemsize)
        out += rows * n * out_itemsize
        if not advance(block, outer, count, index, data):
            return


cdef void run_in_tiles(int opcode, bint is_double, Operand* operands, int count, char** data,
                       npy_intp* row_stride, npy_intp* stride, npy_intp rows, npy_intp n, char* out,
                       Py_ssize_t out_itemsize) noexcept nogil:
    """Run rows × n elements, in groups that fit a tile; pack operands that are not contiguous."""
    cdef char tile[MAXOPERANDS][TILE * 8]
    cdef bint direct[MAXOPERANDS]
    cdef bint held[MAXOPERANDS]             # the tile is valid for the next group too
    cdef void* pointers[MAXOPERANDS]
    cdef npy_intp group = 1, width = n, r, c, height, w
    cdef bint all_direct = True, whole_direct = True
    cdef int k, numbers = 0
    for k in range(count):
        if stride[k] == 0 and rows * n > 1 and (rows == 1 or row_stride[k] == 0):
            numbers |= 1 << k
    for k in range(count):
        held[k] = False
        direct[k] = stride[k] == operands[k].itemsize or n == 1
        all_direct &= direct[k]
        whole_direct &= ((numbers & (1 << k)) != 0
                         or (direct[k] and (rows == 1 or row_stride[k] == n * operands[k].itemsize)))
    if whole_direct and takes_numbers(opcode, numbers):
        call_with_numbers(opcode, is_double, <void**> data, out, n * rows, numbers)
        return
    if n <= TILE // 2:
        group = TILE // n
        for k in range(count):
            direct[k] = direct[k] and row_stride[k] == n * operands[k].itemsize
    elif not all_direct:
        width = TILE
    r = -group
    while r + group < rows:
        r += group
        height = min(group, rows - r)
        for k in range(count):
            held[k] = held[k] and row_stride[k] == 0
        c = -width
        while c + width < n:
            c += width
            w = min(width, n - c)
            for k in range(count):
                if direct[k]:
                    pointers[k] = data[k] + r * row_stride[k] + c * stride[k]
                    continue
                pointers[k] = tile[k]
                if not held[k]:
                    pack(data[k] + r * row_stride[k] + c * stride[k], row_stride[k], stride[k], height, w,
                         operands[k].itemsize, tile[k])
                    held[k] = ((row_stride[k] == 0 and (width == n or stride[k] == 0))
                               or (stride[k] == 0 and height == 1))
            call_kernel(opcode, is_double, pointers, out + (r * n + c) * out_itemsize, height * w)


# --------------------------------------------------------------------- from strides to other strides
cdef void transfer(ndarray source, ndarray target, bint add):
    """target = source or, with `add`, target += source, for arrays of one shape and dtype (floats, to add),
    with any strides; elements of a target that is added to may coincide."""
    cdef TransferJob job
    if elements(source) == 0:
        return
    plan_transfer(&job.plan, PyArray_NDIM(source), PyArray_DIMS(source), PyArray_STRIDES(source),
                  PyArray_STRIDES(target), PyArray_ITEMSIZE(source), add)
    job.source, job.target = <char*> PyArray_DATA(source), <char*> PyArray_DATA(target)
    share_work(elements(source), job.plan.block.shape[0] if outermost_apart(&job.plan) else 1, transfer_part,
               &job)


cdef struct TransferJob:
    Transfer plan
    char* source
    char* target


cdef void transfer_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """A range of the outermost dimension."""
    cdef TransferJob* job = <TransferJob*> data
    cdef Transfer plan
    cdef npy_intp begin
    if parts == 1:
        run_transfer(&job.plan, job.source, job.target)
        return
    plan = job.plan
    begin = plan.block.shape[0] * part // parts
    plan.block.shape[0] = plan.block.shape[0] * (part + 1) // parts - begin
    run_transfer(&plan, job.source + begin * plan.block.strides[SOURCE][0],
                 job.target + begin * plan.block.strides[TARGET][0])


cdef bint outermost_apart(Transfer* plan) noexcept:
    """Whether there is an outermost dimension, and no two positions along it share an element of the
    target."""
    cdef npy_intp reach = plan.itemsize
    cdef int d
    for d in range(1, plan.block.ndim):
        reach += (plan.block.shape[d] - 1) * llabs(plan.block.strides[TARGET][d])
    return plan.block.ndim > 0 and llabs(plan.block.strides[TARGET][0]) >= reach


cdef void plan_transfer(Transfer* plan, int ndim, npy_intp* shape, npy_intp* source, npy_intp* target,
                        int itemsize, bint add) noexcept:
    """Plan how `run_transfer` copies, or adds, elements with these strides. Dimensions are walked in the
    memory order of the dense operand: the target of a copy, the source of an addition (broadcast dimensions
    outermost)."""
    cdef npy_intp strides[2]
    cdef int d
    plan.add, plan.itemsize, plan.is_double, plan.block.ndim = add, itemsize, itemsize == 8, 0
    for d in range(ndim):
        strides[SOURCE], strides[TARGET] = source[d], target[d]
        insert_loop(&plan.block, 2, shape[d], strides, SOURCE if add else TARGET, True)
    merge(&plan.block, 2)


cdef void run_transfer(Transfer* plan, char* x, char* o) noexcept nogil:
    """Run the kernel over the two innermost dimensions, for each index of the others."""
    cdef Block* block = &plan.block
    cdef npy_intp index[MAXDIMS]
    cdef npy_intp row_stride[2]
    cdef npy_intp stride[2]
    cdef char* at[2]
    cdef int inner = block.ndim - 1, outer = block.ndim - 2, k, d
    cdef npy_intp n = block.shape[inner] if inner >= 0 else 1
    cdef npy_intp rows = block.shape[outer] if outer >= 0 else 1
    at[SOURCE], at[TARGET] = x, o
    for k in range(2):
        stride[k] = block.strides[k][inner] if inner >= 0 else 0
        row_stride[k] = block.strides[k][outer] if outer >= 0 else 0
    for d in range(outer):
        index[d] = 0
    while True:
        if plan.add:
            add_block(plan.is_double, at[SOURCE], row_stride[SOURCE], stride[SOURCE], at[TARGET],
                      row_stride[TARGET], stride[TARGET], rows, n)
        else:
            copy_block(at[SOURCE], row_stride[SOURCE], stride[SOURCE], at[TARGET], row_stride[TARGET],
                       stride[TARGET], rows, n, plan.itemsize)
        if not advance(block, outer, 2, index, at):
            return


cdef ndarray contiguous(ndarray array):
    """The array itself if it is C-contiguous, otherwise a copy in C order."""
    cdef ndarray copy
    if cnp.PyArray_IS_C_CONTIGUOUS(array):
        return array
    copy = empty(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array))
    transfer(array, copy, False)
    return copy


cdef bint is_viewable(ndarray x, tuple shape) except -1:
    """Whether x, which is not empty, can be viewed in `shape` (one size may be -1) without a copy: each run
    of dimensions that are contiguous to each other must be a product of sizes."""
    cdef npy_intp run = 1, product, known = 1, size
    cdef int d, last, i = 0, n = len(shape), ndim = PyArray_NDIM(x)
    for d in range(n):
        known *= -(<npy_intp> shape[d]) if shape[d] < 0 else <npy_intp> shape[d]
    if known == 0:
        return True                             # NumPy raises
    last = -1
    for d in range(ndim + 1):
        if d < ndim and PyArray_DIMS(x)[d] == 1:
            continue
        if (d < ndim and last >= 0
                and PyArray_STRIDES(x)[last] == PyArray_STRIDES(x)[d] * PyArray_DIMS(x)[d]):
            run *= PyArray_DIMS(x)[d]
        elif last >= 0:
            product = 1
            while product < run and i < n:
                size = shape[i]
                product *= elements(x) // known if size < 0 else size
                i += 1
            if product != run:
                return False
            run = PyArray_DIMS(x)[d] if d < ndim else 1
        else:
            run = PyArray_DIMS(x)[d] if d < ndim else 1
        last = d
    return True


# -------------------------------------------------------------------------------------- windows
cdef void check_windows(str name, ndarray start, ndarray stop, npy_intp size) except *:
    cdef long long* first = <long long*> PyArray_DATA(start)
    cdef long long* end = <long long*> PyArray_DATA(stop)
    cdef npy_intp i
    if PyArray_NDIM(start) != 1 or PyArray_NDIM(stop) != 1 or elements(start) != elements(stop):
        raise ValueError(f"{name}: starts and stops must be rows of the same length, got {start} and {stop}")
    for i in range(elements(start)):
        if not 0 <= first[i] < end[i] <= size:
            raise ValueError(f"{name}: a window from {first[i]} to {end[i]} is empty or exceeds its axis of "
                             f"{size}")


cdef tuple first_maxima_of(str name, ndarray x, list bounds, npy_intp row_step, npy_intp column_step):
    """`first_maxima`, and their indices in the planes of the last two dimensions of x, which is C-contiguous.
    bounds: four int64 arrays, the starts and stops of the windows by rows, then by columns."""
    cdef npy_intp shape[MAXDIMS]
    cdef long long* pointers[4]
    cdef int d, ndim = PyArray_NDIM(x)
    cdef MaximaJob job
    job.planes = 1
    for d in range(ndim - 2):
        shape[d] = PyArray_DIMS(x)[d]
        job.planes *= shape[d]
    for d in range(2):
        check_windows(name, bounds[2 * d], bounds[2 * d + 1], PyArray_DIMS(x)[ndim - 2 + d])
        shape[ndim - 2 + d] = elements(<ndarray> bounds[2 * d])
        pointers[2 * d] = <long long*> PyArray_DATA(<ndarray> bounds[2 * d])
        pointers[2 * d + 1] = <long long*> PyArray_DATA(<ndarray> bounds[2 * d + 1])
    cdef ndarray index = empty(ndim, shape, NPY_INT64), out = empty(ndim, shape, PyArray_TYPE(x))
    job.x, job.out = <char*> PyArray_DATA(x), <char*> PyArray_DATA(out)
    job.is_double = PyArray_TYPE(x) == NPY_DOUBLE
    job.rows, job.columns = PyArray_DIMS(x)[ndim - 2], PyArray_DIMS(x)[ndim - 1]
    job.bounds, job.index = <long long**> pointers, <long long*> PyArray_DATA(index)
    job.out_rows, job.out_columns = shape[ndim - 2], shape[ndim - 1]
    job.row_step, job.column_step = row_step, column_step
    share_work(elements(x), job.planes, maxima_part, &job)
    return out, index


cdef struct MaximaJob:
    bint is_double
    char* x
    npy_intp planes, rows, columns, out_rows, out_columns, row_step, column_step
    long long** bounds
    char* out
    long long* index


cdef void maxima_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """A range of the planes."""
    cdef MaximaJob* job = <MaximaJob*> data
    cdef npy_intp begin = job.planes * part // parts, planes = job.planes * (part + 1) // parts - begin
    cdef npy_intp size = 8 if job.is_double else 4, places = begin * job.out_rows * job.out_columns
    first_maxima(job.is_double, job.x + begin * job.rows * job.columns * size, planes, job.rows, job.columns,
                 job.bounds, job.out_rows, job.out_columns, job.row_step, job.column_step,
                 job.out + places * size, job.index + places)


# -------------------------------------------------------------------------------- indexing along an axis
cdef void split_at(npy_intp* shape, int ndim, int axis, npy_intp* outer, npy_intp* inner):
    cdef int d
    outer[0] = inner[0] = 1
    for d in range(ndim):
        if d < axis:
            outer[0] *= shape[d]
        elif d > axis:
            inner[0] *= shape[d]


cdef void check_positions(str name, ndarray index, int axis, npy_intp length) except *:
    cdef long long* positions = <long long*> PyArray_DATA(index)
    cdef npy_intp i
    if all_within(positions, elements(index), length):
        return
    for i in range(elements(index)):
        if not -length <= positions[i] < length:
            raise IndexError(f"{name}: index {positions[i]} is out of bounds for axis {axis} "
                             f"with size {length}")


cdef ndarray take_along_axis(ndarray x, ndarray index, int axis):
    """x at the int64 positions `index` along an axis. Both are C-contiguous, with equal shapes except along
    the axis; here and below the caller has checked the positions."""
    cdef npy_intp outer, inner, length = PyArray_DIMS(x)[axis]
    out = empty(PyArray_NDIM(index), PyArray_DIMS(index), PyArray_TYPE(x))
    split_at(PyArray_DIMS(x), PyArray_NDIM(x), axis, &outer, &inner)
    take_along(<char*> PyArray_DATA(x), <long long*> PyArray_DATA(index), outer, length,
               PyArray_DIMS(index)[axis], inner, PyArray_ITEMSIZE(x), <char*> PyArray_DATA(out))
    return out


cdef ndarray add_along_axis(ndarray x, ndarray index, int axis, tuple shape):
    """Zeros of `shape` with x added at the int64 positions `index` along an axis."""
    cdef AlongJob job
    cdef ndarray out = empty_of(shape, PyArray_TYPE(x))
    split_at(PyArray_DIMS(out), PyArray_NDIM(out), axis, &job.outer, &job.inner)
    job.is_double = PyArray_TYPE(x) == NPY_DOUBLE
    job.length, job.picks = PyArray_DIMS(out)[axis], PyArray_DIMS(index)[axis]
    job.x, job.out = <char*> PyArray_DATA(x), <char*> PyArray_DATA(out)
    job.index = <long long*> PyArray_DATA(index)
    share_work(elements(out), job.outer, along_part, &job)
    return out


cdef struct AlongJob:
    bint is_double
    char* x
    long long* index
    npy_intp outer, length, picks, inner
    char* out


cdef void along_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """A range of the outer dimensions."""
    cdef AlongJob* job = <AlongJob*> data
    cdef npy_intp begin = job.outer * part // parts, outer = job.outer * (part + 1) // parts - begin
    cdef npy_intp size = 8 if job.is_double else 4, read = begin * job.picks * job.inner
    cdef char* out = job.out + begin * job.length * job.inner * size
    memset(out, 0, outer * job.length * job.inner * size)
    add_along(job.is_double, job.x + read * size, job.index + read, outer, job.length, job.picks, job.inner,
              out)


cdef ndarray cumulate(ndarray factor, ndarray x, int axis):
    """`kernels.scan` along an axis of C-contiguous arrays of one shape; one of them may be None."""
    cdef npy_intp outer, inner
    cdef ndarray like = factor if x is None else x
    cdef void* f = NULL if factor is None else PyArray_DATA(factor)
    cdef void* data = NULL if x is None else PyArray_DATA(x)
    out = empty(PyArray_NDIM(like), PyArray_DIMS(like), PyArray_TYPE(like))
    split_at(PyArray_DIMS(like), PyArray_NDIM(like), axis, &outer, &inner)
    scan(PyArray_TYPE(like) == NPY_DOUBLE, f, data, outer, PyArray_DIMS(like)[axis], inner, PyArray_DATA(out))
    return out


cdef ndarray take_slices(str name, ndarray x, ndarray index, int axis):
    """x[..., index, ...] for an int64 `index` at an axis; both are C-contiguous."""
    cdef npy_intp shape[MAXDIMS]
    cdef npy_intp outer, inner, length = PyArray_DIMS(x)[axis], picks = elements(index), _, p
    cdef int ndim = PyArray_NDIM(x) - 1 + PyArray_NDIM(index), d, k = PyArray_NDIM(index)
    cdef long long* positions = <long long*> PyArray_DATA(index)
    cdef char* source = <char*> PyArray_DATA(x)
    if ndim > MAXDIMS:
        raise ValueError(f"{name}: the result would have {ndim} dimensions; the limit is {MAXDIMS}")
    check_positions(name, index, axis, length)
    split_at(PyArray_DIMS(x), PyArray_NDIM(x), axis, &outer, &inner)
    for d in range(ndim):
        shape[d] = (PyArray_DIMS(x)[d] if d < axis else PyArray_DIMS(index)[d - axis] if d < axis + k
                    else PyArray_DIMS(x)[d - k + 1])
    out = empty(ndim, shape, PyArray_TYPE(x))
    cdef char* target = <char*> PyArray_DATA(out)
    cdef npy_intp size = inner * PyArray_ITEMSIZE(x)
    for _ in range(outer):
        if inner > 1:
            for p in range(picks):
                memcpy(target + p * size,
                       source + (positions[p] + (length if positions[p] < 0 else 0)) * size, size)
        else:
            take_along(source, positions, 1, length, picks, 1, size, target)
        source += length * size
        target += picks * size
    return out


cdef void add_slices(str name, ndarray x, ndarray index, int axis, ndarray out) except *:
    """out[..., index, ...] += x for an int64 `index` at an axis; all C-contiguous, x and out of one dtype."""
    cdef npy_intp outer, inner, length = PyArray_DIMS(out)[axis], picks = elements(index), _, p
    cdef npy_intp itemsize = PyArray_ITEMSIZE(x), size
    cdef bint is_double = PyArray_TYPE(x) == NPY_DOUBLE
    cdef long long* positions = <long long*> PyArray_DATA(index)
    cdef char* source = <char*> PyArray_DATA(x)
    cdef char* target = <char*> PyArray_DATA(out)
    check_positions(name, index, axis, length)
    split_at(PyArray_DIMS(out), PyArray_NDIM(out), axis, &outer, &inner)
    size = inner * itemsize
    for _ in range(outer):
        if inner > 1:
            for p in range(picks):
                add_block(is_double, source + p * size, 0, itemsize,
                          target + (positions[p] + (length if positions[p] < 0 else 0)) * size, 0, itemsize,
                          1, inner)
        else:
            add_along(is_double, source, positions, 1, length, picks, 1, target)
        source += picks * size
        target += length * size


cdef ndarray joined(list arrays, int axis, npy_intp length):
    """Concatenate arrays of one dtype along an axis, to a size of `length`; other sizes are equal."""
    cdef npy_intp shape[MAXDIMS]
    cdef npy_intp outer, inner, chunk, row, start = 0, k
    cdef ndarray array = arrays[0], out
    cdef int d
    cdef char* source
    cdef char* target
    for d in range(PyArray_NDIM(array)): shape[d] = PyArray_DIMS(array)[d]
    shape[axis] = length
    out = empty(PyArray_NDIM(array), shape, PyArray_TYPE(array))
    split_at(shape, PyArray_NDIM(array), axis, &outer, &inner)
    row = length * inner * PyArray_ITEMSIZE(array)
    target = <char*> PyArray_DATA(out)
    for array in arrays:
        chunk = PyArray_DIMS(array)[axis] * inner * PyArray_ITEMSIZE(array)
        if cnp.PyArray_IS_C_CONTIGUOUS(array):
            source = <char*> PyArray_DATA(array)
            for k in range(outer): memcpy(target + k * row, source + k * chunk, chunk)
        else:
            stop = start + PyArray_DIMS(array)[axis]
            (<object> out)[(slice(None),) * axis + (slice(start, stop),)] = array
        target += chunk
        start += PyArray_DIMS(array)[axis]
    return out


def count_classes(str name, ndarray labels not None, long long classes, long long ignored) -> int:
    """The number of int64 class indices other than `ignored`. IndexError if one of them is out of range."""
    cdef npy_intp i, count = 0
    cdef long long label
    if PyArray_TYPE(labels) != NPY_INT64 or elements(labels) != PyArray_DIMS(labels)[0]:
        raise TypeError(f"{name}: expected one int64 class index for each row, got {labels.dtype}")
    for i in range(elements(labels)):
        label = (<long long*> (<char*> PyArray_DATA(labels) + i * PyArray_STRIDES(labels)[0]))[0]
        if label == ignored:
            continue
        if not 0 <= label < classes:
            raise IndexError(f"{name}: target {label} is out of range for {classes} classes "
                             f"(0 to {classes - 1})")
        count += 1
    return count


# ----------------------------------------------------------- running averages, optimiser steps
cdef void add_in_place(ndarray target, ndarray addend) noexcept:
    """target += addend, both C-contiguous and of one dtype; the addend has the shape of the target or of one
    of its rows."""
    cdef npy_intp n = elements(addend), size = PyArray_ITEMSIZE(target)
    add_block(PyArray_TYPE(target) == NPY_DOUBLE, PyArray_DATA(addend), 0, size, PyArray_DATA(target),
              n * size, size, elements(target) // max(n, 1), n)


cdef void* vector(ndarray a, ndarray like, bint writable, str what) except? NULL:
    """The memory of `a`, after a check that a flat loop can run over it together with `like`."""
    if a is None:
        return NULL
    if (PyArray_TYPE(a) != PyArray_TYPE(like) or elements(a) != elements(like)
            or not cnp.PyArray_IS_C_CONTIGUOUS(a) or (writable and not cnp.PyArray_ISWRITEABLE(a))):
        raise ValueError(f"update: {what} must be a {'writable ' if writable else ''}C-contiguous "
                         f"{like.dtype} array of {like.size} elements, got {a.dtype} {(<object> a).shape}")
    if PyArray_TYPE(like) != NPY_FLOAT and PyArray_TYPE(like) != NPY_DOUBLE:
        raise TypeError(f"update: expected float32 or float64, got {like.dtype}")
    return PyArray_DATA(a)


cdef void blend(ndarray average, ndarray batch, double keep, double gain) except *:
    """average = keep * average + gain * batch, in place."""
    cdef void* a = vector(average, average, True, "the running average")
    cdef void* b = vector(batch, average, False, "the batch's value")
    blend_into(PyArray_TYPE(average) == NPY_DOUBLE, b, a, elements(average), keep, gain)
