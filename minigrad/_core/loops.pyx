# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""From arrays and shapes to loops over memory.

Design note
-----------
1. This file knows NumPy arrays: shapes, strides, axes, broadcasting, allocation. It must not know
   Tensors, dtypes other than float32 and float64 (and the bool of a mask), or the graph.
2. Every output is C-contiguous and nobody else's. Its memory is new or was let go by a Tensor that died:
   a training step asks for the same shapes again and again, and an array from a bin costs 10 ns where
   a new one costs 100, and page faults when it is large. Then any array of that size will do, whatever
   its shape was; and where a view dies last, what it looked at goes into the bin. Inputs may have any
   strides: transposed, reversed, broadcast, overlapping windows.
3. *Elementwise*: dimensions that lie behind one another in memory for every operand are merged first;
   most calls end as one loop. What is left is walked in blocks of rows, and an operand that is not
   contiguous there is packed into a tile in the L1 cache, once if it repeats (a bias row, a scalar).
4. *Reductions*: dimensions are sorted by stride, so that memory is read in order whichever axes are
   reduced. If the fastest dimension is reduced, rows are folded side by side, each into an accumulator
   of its own; if it is kept, up to 1024 columns are. Accumulators are double (but see kernels.pyx);
   sums of blocks are compensated (Neumaier 1974), so that 10^7 float64 elements lose no more than a few
   ulp either.
5. In float64 the mean is taken about the first element, and the variance about the mean (two passes): a
   constant gives exactly itself and exactly 0, and a large mean does not cancel the variance. The variance
   of float32 is taken in double about the first element, in one pass, with the same two properties.
6. *Windows* are strides too. One walk over two sets of strides (`transfer`) copies what cannot be viewed
   (the columns of a convolution: 0.4 ms where NumPy took 1.0) and adds up what overlaps (its adjoint).
7. Large loops release the GIL. Elementwise loops and reductions to several results of more than a million
   elements run on two threads (`threads.h`; MINIGRAD_NUM_THREADS says how many, 1 for none), in 0.55 to 0.9
   of the time; to wake a thread takes 45 us on the machine measured, so that less does not pay. Not one
   bit depends on their number. Sums to one number, windows, products and optimisers stay on one.
"""
cimport numpy as cnp
from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.math cimport INFINITY, fabs, isfinite
from libc.string cimport memcmp, memcpy, memset
from numpy cimport (NPY_ARRAY_OWNDATA, NPY_DOUBLE, NPY_FLOAT, NPY_INT64, PyArray_CheckExact, PyArray_DATA,
                    PyArray_DIMS, PyArray_FLAGS, PyArray_ITEMSIZE, PyArray_NBYTES, PyArray_NDIM,
                    PyArray_STRIDES, PyArray_TYPE, ndarray, npy_intp)

from .kernels cimport (
    COLUMNS, DEVIATION, DIFFERENCE, EXP, LOG, LOGSUM, MAX, MEAN, MIN, MOMENTS, PROD, PRODUCTS,
    SCALED_DIFFERENCE, SUBTRACT, SUM, TILE, VAR, accumulate, add_along, add_block, all_within, blend_into,
    call_kernel, call_with_numbers, copy_block, first_maxima, pack, reduce_columns, reduce_rows,
    reduction_start, scan, take_along, takes_numbers)

import os

import numpy as np

cnp.import_array()

cdef extern from "Python.h":
    Py_ssize_t Py_REFCNT(PyObject*)
    ctypedef struct PyThreadState:
        pass
    PyThreadState* PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState*)

cdef extern from "<stdlib.h>" nogil:
    long long llabs(long long)

cdef extern from "numpy/npy_common.h":
    npy_intp NPY_MAX_INTP

cdef extern from "numpy/arrayobject.h":
    ctypedef struct PyArray_Dims:
        npy_intp* ptr
        int len
    object PyArray_MatrixProduct2(object x, object y, ndarray out)
    object PyArray_Resize(ndarray array, PyArray_Dims* shape, int refcheck, cnp.NPY_ORDER order)

cdef extern from "threads.h" nogil:
    int MOST_THREADS "MG_MOST_THREADS"
    int threads "mg_threads"
    void in_parts "mg_in_parts"(void (*part)(void* job, npy_intp part, npy_intp parts) noexcept nogil,
                                void* job)

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
    BIN_SIZE = 128              # as many as the steps of a sequence, which all make arrays of the same shapes
    BIN_DIMS = 4
    BIN_BYTES = 1 << 28         # all bins together; beyond it they are emptied
    BY_SIZE = 1 << 14           # elements from which on arrays of one size share a bin, whatever their shape
    RELEASE_GIL = 1 << 15       # elements above which a loop lets other threads run
    IN_PARTS = 1 << 20          # and above which it runs on two itself: to wake the other takes 45 us
    SHORT_ROW = 16              # a row reduction over fewer elements costs more to start than to do
    PACKED_BYTES = 1 << 19      # of the blocks that `packed_matmul` packs
    BLOCK = 1024                # elements that a row reduction sums before it compensates
    BLOCKS = 16                 # of one row that it hands to the kernel together
    ROWS = 4096                 # elements of the rows that it sums side by side, if it reads them twice
    CANCELLED = 1000            # times a variance: the part of the sum of squares that cancels


# -------------------------------------------------------------------------------------- allocation
cdef struct Bin:                # arrays of one dtype and shape (the larger ones: size) that nobody uses
    int typenum
    int ndim
    npy_intp shape[BIN_DIMS]
    int wanted                  # how many `empty` had to make: more would be kept for nothing
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
    """The bin shall keep one more array of that shape."""
    cdef int i
    if not belongs(bin, ndim, shape, typenum):
        empty_bin(bin)
        bin.typenum, bin.ndim, bin.wanted = typenum, ndim, 0
        for i in range(ndim):
            bin.shape[i] = shape[i]
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
    for d in range(ndim):
        size *= shape[d]
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
                PyArray_Resize(array, &wanted, 0, cnp.NPY_CORDER)       # the memory stays: the size is equal
            return array
        if by_size:
            ask_for(bin, 1, &size, typenum)
        else:
            ask_for(bin, ndim, shape, typenum)
    return cnp.PyArray_SimpleNew(ndim, shape, typenum)


cdef ndarray copied(ndarray array):
    """A C-contiguous copy."""
    cdef ndarray copy = empty(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array))
    cnp.PyArray_CopyInto(copy, array)
    return copy


cdef ndarray zeros_of(tuple shape, int typenum):
    """As `zeros`, for a shape in a tuple."""
    cdef npy_intp sizes[MAXDIMS]
    cdef int d
    for d in range(len(shape)): sizes[d] = shape[d]
    return zeros(len(shape), sizes, typenum)


cdef ndarray zeros(int ndim, npy_intp* shape, int typenum):
    """As `empty`, with zeros in it."""
    cdef ndarray array = empty(ndim, shape, typenum)
    memset(PyArray_DATA(array), 0, PyArray_NBYTES(array))
    return array


cdef void recycle(PyObject* array) noexcept:
    """Called by a Tensor that lets go of its array, and by functions that are done with one: keep it for
    `empty`, if nobody else can see it and one like it was asked for (else NumPy, which made it, gets its
    memory back). Of a view, keep the array that owns the memory, if only the view holds it."""
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
        for i in range(BINS):
            empty_bin(&bins[i])
    bin = bin_of(ndim, shape, PyArray_TYPE(a))
    if belongs(bin, ndim, shape, PyArray_TYPE(a)) and bin.count < bin.wanted:
        Py_INCREF(a)
        bin.arrays[bin.count] = array
        bin.count += 1
        binned_bytes += nbytes


# ------------------------------------------------------------------------------------- elementwise
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
    cdef PyThreadState* thread = NULL
    for k in range(count):
        ndim = max(ndim, operands[k].ndim)
    for d in range(ndim):
        shape[d] = 1
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
    if total > RELEASE_GIL:
        thread = PyEval_SaveThread()
    job = ElementwiseJob(opcode, count, is_double, operands, &block, <char*> PyArray_DATA(out),
                         PyArray_ITEMSIZE(out))
    if total > IN_PARTS:
        in_parts(elementwise_part, &job)
    else:
        elementwise_part(&job, 0, 1)
    if thread != NULL:
        PyEval_RestoreThread(thread)
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
    for d in range(1, block.ndim):
        step *= block.shape[d]
    run_blocks(job.opcode, job.is_double, operands, job.count, &block, job.out + begin * step,
               job.out_itemsize)


cdef inline npy_intp start_of(npy_intp part, npy_intp parts, npy_intp n) noexcept nogil:
    """Where the part of a range starts: at whole vectors, so that no bit of a result depends on the parts."""
    cdef npy_intp step = 64 if n >= 1024 else (4 if n >= 8 else 1)
    return n if part == parts else n * part // parts // step * step


cdef npy_intp merge_dimensions(Block* block, int ndim, npy_intp* shape, Operand* operands,
                               int count) noexcept nogil:
    """The loop for operands that broadcast to `shape`; returns the number of its elements."""
    cdef npy_intp size, stride, total = 1
    cdef int d, k, offset
    cdef bint merge
    cdef Operand* operand
    block.ndim = 0
    for d in range(ndim):
        size = shape[d]
        total *= size
        if size == 1:
            continue
        merge = block.ndim > 0
        for k in range(count):
            operand = operands + k
            offset = d - ndim + operand.ndim
            stride = operand.strides[offset] if offset >= 0 and operand.shape[offset] != 1 else 0
            block.strides[k][block.ndim] = stride
            if merge and block.strides[k][block.ndim - 1] != stride * size:
                merge = False
        if merge:
            block.ndim -= 1
            for k in range(count):
                block.strides[k][block.ndim] = block.strides[k][block.ndim + 1]
            block.shape[block.ndim] *= size
        else:
            block.shape[block.ndim] = size
        block.ndim += 1
    return total


cdef void run_blocks(int opcode, bint is_double, Operand* operands, int count, Block* block, char* out,
                     Py_ssize_t out_itemsize) noexcept nogil:
    """Walk the outer dimensions; each two innermost ones are a block of rows."""
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
    for d in range(outer):
        index[d] = 0
    while True:
        run_rows(opcode, is_double, operands, count, data, row_stride, stride, rows, n, out, out_itemsize)
        out += rows * n * out_itemsize
        d = outer - 1
        while d >= 0:                       # an odometer: the next index, last dimension fastest
            index[d] += 1
            for k in range(count):
                data[k] += block.strides[k][d]
            if index[d] < block.shape[d]:
                break
            for k in range(count):
                data[k] -= block.strides[k][d] * block.shape[d]
            index[d] = 0
            d -= 1
        if d < 0:
            return


cdef void run_rows(int opcode, bint is_double, Operand* operands, int count, char** data,
                   npy_intp* row_stride, npy_intp* stride, npy_intp rows, npy_intp n, char* out,
                   Py_ssize_t out_itemsize) noexcept nogil:
    """Run rows × n elements, in groups that fit a tile; pack what is not contiguous."""
    cdef char tile[MAXOPERANDS][TILE * 8]
    cdef bint direct[MAXOPERANDS]
    cdef bint held[MAXOPERANDS]             # the tile holds what the next group needs as well
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


# -------------------------------------------------------------------------------------- reductions
cdef void make_plan(Plan* plan, Operand* x, unsigned long long axes, double correction) noexcept nogil:
    """How the axes whose bits are set are reduced: the dimensions sorted by stride, and merged."""
    cdef npy_intp shape[MAXDIMS]
    cdef npy_intp strides[MAXDIMS]
    cdef npy_intp out_strides[MAXDIMS]
    cdef bint reduced[MAXDIMS]
    cdef npy_intp size, stride, out_stride, step = x.itemsize
    cdef int ndim = 0, d, e, inner, beside
    plan.count = 1
    plan.kept = plan.reduced = 0
    plan.other = plan.centres = 0
    plan.is_double, plan.correction = x.itemsize == 8, correction
    for d in reversed(range(x.ndim)):                       # drop sizes of 1, insert by stride
        size = x.shape[d]
        stride = x.strides[d]
        out_stride = 0
        if axes >> d & 1:
            plan.count *= size
        else:
            out_stride = step
            step *= size
        if size == 1:
            continue
        e = ndim
        while e > 0 and llabs(strides[e - 1]) > llabs(stride):
            shape[e] = shape[e - 1]; strides[e] = strides[e - 1]
            out_strides[e] = out_strides[e - 1]; reduced[e] = reduced[e - 1]
            e -= 1
        shape[e] = size; strides[e] = stride
        out_strides[e] = out_stride; reduced[e] = axes >> d & 1
        ndim += 1
    e = 0                                                   # merge; dimension 0 is the fastest now
    for d in range(1, ndim):
        if (reduced[d] == reduced[e] and strides[d] == strides[e] * shape[e]
                and out_strides[d] == out_strides[e] * shape[e]):
            shape[e] *= shape[d]
        else:
            e += 1
            shape[e] = shape[d]; strides[e] = strides[d]
            out_strides[e] = out_strides[d]; reduced[e] = reduced[d]
    if ndim == 0:
        shape[0] = 1; strides[0] = out_strides[0] = x.itemsize; reduced[0] = True
    else:
        ndim = e + 1
    inner = 0
    if reduced[0] and shape[0] <= SHORT_ROW:    # a short row is folded as columns beside its neighbours
        for d in range(1, ndim):
            if not reduced[d] and shape[d] >= 8:
                inner = d
                break
    plan.row_wise = reduced[inner]
    plan.width, plan.stride = shape[inner], strides[inner]
    beside = inner
    if plan.row_wise:
        beside = 1                              # the fastest that is kept, since neighbours have merged
        while beside < ndim and reduced[beside]:
            beside += 1
    plan.places, plan.place_stride, plan.out_stride = 1, 0, 0
    if beside < ndim:
        plan.places, plan.place_stride, plan.out_stride = shape[beside], strides[beside], out_strides[beside]
    for d in reversed(range(ndim)):
        if d == inner or d == beside:
            continue
        if reduced[d]:
            plan.reduced_shape[plan.reduced] = shape[d]
            plan.reduced_strides[plan.reduced] = strides[d]
            plan.reduced += 1
        else:
            plan.kept_shape[plan.kept] = shape[d]
            plan.kept_strides[plan.kept] = strides[d]
            plan.kept_out[plan.kept] = out_strides[d]
            plan.kept += 1


cdef ndarray reduce(int opcode, ndarray x, unsigned long long axes, bint keepdims, double correction):
    """Reduce the axes whose bits are set in `axes`. The caller has checked them."""
    return reduce_beside(opcode, x, x, None, axes, keepdims, correction)


cdef ndarray variance(ndarray x, ndarray means, unsigned long long axes, bint keepdims, double correction):
    """The variance; writes the means to an array of the shape that it has with keepdims."""
    return reduce_beside(VAR, x, x, means, axes, keepdims, correction)


cdef ndarray sum_product(ndarray x, ndarray y, unsigned long long axes, bint keepdims):
    """The sum of x * y over the axes, for two arrays of one shape and dtype."""
    cdef int d
    for d in range(PyArray_NDIM(x)):
        if PyArray_STRIDES(x)[d] != PyArray_STRIDES(y)[d]:
            x, y = contiguous(x), contiguous(y)
    return reduce_beside(PRODUCTS, x, y, None, axes, keepdims, 0)


cdef ndarray reduce_beside(int opcode, ndarray x, ndarray y, ndarray centres, unsigned long long axes,
                           bint keepdims, double correction):
    """`reduce`, for an opcode that reads two arrays with the same strides, or gives its centres as well."""
    cdef npy_intp shape[MAXDIMS]
    cdef int d, ndim = 0
    cdef Plan plan
    cdef Operand operand
    cdef ReductionJob job
    cdef PyThreadState* thread = NULL
    for d in range(PyArray_NDIM(x)):
        if axes >> d & 1:
            if keepdims:
                shape[ndim] = 1
                ndim += 1
        else:
            shape[ndim] = PyArray_DIMS(x)[d]
            ndim += 1
    out = empty(ndim, shape, PyArray_TYPE(x))
    if elements(out) == 0:
        return out
    view_array(&operand, x)
    make_plan(&plan, &operand, axes, correction)
    plan.other = <char*> PyArray_DATA(y) - <char*> PyArray_DATA(x)
    if centres is not None:
        plan.centres = <char*> PyArray_DATA(centres) - <char*> PyArray_DATA(out)
    if elements(x) > RELEASE_GIL:
        thread = PyEval_SaveThread()
    job = ReductionJob(opcode, &plan, <char*> PyArray_DATA(x), <char*> PyArray_DATA(out))
    if elements(x) > IN_PARTS and elements(out) > 1:
        in_parts(reduction_part, &job)
    else:
        run_plan(opcode, &plan, job.x, job.out)
    if thread != NULL:
        PyEval_RestoreThread(thread)
    return out


cdef struct ReductionJob:
    int opcode
    Plan* plan
    char* x
    char* out


cdef void reduction_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """A range of the results: of those that are computed side by side, if there are many, else of the
    outermost dimension that is kept."""
    cdef ReductionJob* job = <ReductionJob*> data
    cdef Plan plan = job.plan[0]
    cdef npy_intp begin
    cdef char* x = job.x
    cdef char* out = job.out
    if plan.kept == 0 or plan.places >= plan.kept_shape[0]:
        begin = start_of(part, parts, plan.places)
        plan.places = start_of(part + 1, parts, plan.places) - begin
        x += begin * plan.place_stride
        out += begin * plan.out_stride
        if plan.places == 0:
            return
    else:
        begin = start_of(part, parts, plan.kept_shape[0])
        plan.kept_shape[0] = start_of(part + 1, parts, plan.kept_shape[0]) - begin
        x += begin * plan.kept_strides[0]
        out += begin * plan.kept_out[0]
        if plan.kept_shape[0] == 0:
            return
    run_plan(job.opcode, &plan, x, out)


cdef void view_array(Operand* operand, ndarray array) noexcept:
    operand.data = <char*> PyArray_DATA(array)
    operand.shape = PyArray_DIMS(array)
    operand.strides = PyArray_STRIDES(array)
    operand.ndim = PyArray_NDIM(array)
    operand.itemsize = PyArray_ITEMSIZE(array)


cdef ndarray scaled_difference(ndarray x, ndarray y, ndarray z):
    """(x - y) * z in one pass, broadcast; of one dtype."""
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


cdef ndarray logsum_of_exp(str name, ndarray x, unsigned long long axes, bint keepdims):
    """log(sum(exp(x))), for an x that does not overflow."""
    cdef Operand operand
    view_array(&operand, x)
    exponentials = elementwise(name, EXP, PyArray_TYPE(x) == NPY_DOUBLE, PyArray_TYPE(x), &operand, 1)
    total = reduce(LOGSUM, exponentials, axes, keepdims, 0)
    recycle(<PyObject*> exponentials)
    return total


cdef ndarray logsumexp(ndarray x, unsigned long long axes, bint keepdims):
    """log(sum(exp(x - max))) + max; without an infinite max, which would leave inf - inf."""
    cdef ndarray largest = reduce(MAX, x, axes, True, 0), shifted, total
    cdef npy_intp i
    for i in range(elements(largest)):
        if PyArray_TYPE(x) == NPY_DOUBLE:
            if not isfinite((<double*> PyArray_DATA(largest))[i]): (<double*> PyArray_DATA(largest))[i] = 0
        elif not isfinite((<float*> PyArray_DATA(largest))[i]): (<float*> PyArray_DATA(largest))[i] = 0
    shifted = difference("logsumexp", x, largest)
    total = logsum_of_exp("logsumexp", shifted, axes, keepdims)
    add_in_place(total, largest)
    recycle(<PyObject*> shifted)
    return total


cdef ndarray log_softmax(ndarray x, unsigned long long axes):
    """(x - max) - log(sum(exp(x - max))): the sum's logarithm is small, and keeps its digits beside a
    large x."""
    cdef ndarray largest = reduce(MAX, x, axes, True, 0), shifted, total, out
    shifted = difference("log_softmax", x, largest)
    total = logsum_of_exp("log_softmax", shifted, axes, True)
    out = difference("log_softmax", shifted, total)
    recycle(<PyObject*> shifted)
    return out


cdef void run_plan(int opcode, Plan* plan, char* x, char* out) noexcept nogil:
    """Walk the kept positions; at each, fold what lies side by side: as many columns as accumulators stay in
    the L1 cache, or as many rows as their elements do when they are read twice."""
    cdef npy_intp index[MAXDIMS]
    cdef double accumulator[2 * COLUMNS]
    cdef double centre[COLUMNS]
    cdef npy_intp c, w, widest
    cdef bint contiguous = plan.stride == (8 if plan.is_double else 4)
    cdef int d
    if plan.row_wise:
        widest = (ROWS if opcode == VAR else 8 * ROWS) if contiguous else TILE
        widest = max(1, min(<npy_intp> TILE, widest // max(plan.width, 1)))
    else:
        widest = COLUMNS if contiguous else TILE
    for d in range(plan.kept):
        index[d] = 0
    while True:
        c = -widest
        while c + widest < plan.places:
            c += widest
            w = min(widest, plan.places - c)
            reduce_position(opcode, plan, x + c * plan.place_stride, w, centre, accumulator)
            store(plan, accumulator, w, out + c * plan.out_stride)
            if plan.centres:
                store(plan, centre, w, out + c * plan.out_stride + plan.centres)
        d = plan.kept - 1
        while d >= 0:
            index[d] += 1
            x += plan.kept_strides[d]
            out += plan.kept_out[d]
            if index[d] < plan.kept_shape[d]:
                break
            x -= plan.kept_strides[d] * plan.kept_shape[d]
            out -= plan.kept_out[d] * plan.kept_shape[d]
            index[d] = 0
            d -= 1
        if d < 0:
            return


cdef void store(Plan* plan, double* accumulator, npy_intp w, char* out) noexcept nogil:
    cdef npy_intp i
    if plan.is_double:
        for i in range(w): (<double*> (out + i * plan.out_stride))[0] = accumulator[i]
    elif plan.out_stride == sizeof(float):
        for i in range(w): (<float*> out)[i] = <float> accumulator[i]
    else:
        for i in range(w): (<float*> (out + i * plan.out_stride))[0] = <float> accumulator[i]


cdef void reduce_position(int opcode, Plan* plan, char* x, npy_intp w, double* centre,
                          double* accumulator) noexcept nogil:
    """The reduction at one kept position (w places of it): one fold, or two about a centre."""
    cdef void* source
    cdef npy_intp i
    cdef bint finite = True
    for i in range(w): centre[i] = 0
    if opcode == VAR and not plan.is_double:
        variances(plan, x, w, centre, accumulator)
    elif opcode == MEAN or opcode == VAR:
        if plan.is_double:
            first_elements(plan, x, w, centre)
            fold(DIFFERENCE, plan, x, w, centre, accumulator)
            for i in range(w):
                accumulator[i] = centre[i] + accumulator[i] / plan.count
                finite &= isfinite(accumulator[i])
        else:                               # equal floats add up exactly in double, to 2^29 of them
            fold(SUM, plan, x, w, centre, accumulator)
            for i in range(w): accumulator[i] /= plan.count
        if not finite:                      # inf - inf, or an overflow of the differences
            fold(SUM, plan, x, w, centre, accumulator)
            for i in range(w): accumulator[i] /= plan.count
        if opcode == VAR:
            deviations(plan, x, w, centre, accumulator)
    elif opcode == LOGSUM:                  # in double: a sum just above 1 has a logarithm too
        fold(SUM, plan, x, w, centre, accumulator)
        for i in range(w): centre[i] = accumulator[i]
        source = centre
        call_kernel(LOG, True, &source, accumulator, w)
    else:
        fold(opcode, plan, x, w, centre, accumulator)


cdef void deviations(Plan* plan, char* x, npy_intp w, double* centre, double* accumulator) noexcept nogil:
    """From the means in the accumulators to the variances; the means go to `centre`."""
    cdef npy_intp i
    for i in range(w): centre[i] = accumulator[i]
    fold(DEVIATION, plan, x, w, centre, accumulator)
    for i in range(w): accumulator[i] /= max(plan.count - plan.correction, 0.0)


cdef void variances(Plan* plan, char* x, npy_intp w, double* centre, double* accumulator) noexcept nogil:
    """Of floats, in one pass about the first element, in double: sum(d^2) - sum(d)^2 / n. That cancels only
    where the first element is far from the others; then the deviations from the mean are added up."""
    cdef double* squares = accumulator + COLUMNS
    cdef double shift, divisor = max(plan.count - plan.correction, 0.0)
    cdef bint cancels = False
    cdef npy_intp i
    first_elements(plan, x, w, centre)
    fold(MOMENTS, plan, x, w, centre, accumulator)
    for i in range(w):
        shift = accumulator[i] / plan.count
        squares[i] -= shift * accumulator[i]
        cancels |= shift * accumulator[i] > CANCELLED * squares[i]
        accumulator[i] = centre[i] = centre[i] + shift
    if cancels:
        deviations(plan, x, w, centre, accumulator)
    else:
        for i in range(w): accumulator[i] = squares[i] / divisor


cdef inline void first_elements(Plan* plan, char* x, npy_intp w, double* centre) noexcept nogil:
    cdef npy_intp i
    for i in range(w if plan.count > 0 else 0):
        if plan.is_double: centre[i] = (<double*> (x + i * plan.place_stride))[0]
        else: centre[i] = (<float*> (x + i * plan.place_stride))[0]


cdef inline npy_intp pack_both(Plan* plan, char* x, npy_intp row_stride, npy_intp stride, npy_intp rows,
                               npy_intp n, char* tile) noexcept nogil:
    """Pack x into the tile and, behind it, the other array; returns the bytes between them."""
    cdef int itemsize = 8 if plan.is_double else 4
    pack(x, row_stride, stride, rows, n, itemsize, tile)
    if plan.other == 0:
        return 0
    pack(x + plan.other, row_stride, stride, rows, n, itemsize, tile + TILE * 8)
    return TILE * 8


cdef void fold(int opcode, Plan* plan, char* x, npy_intp w, double* centre,
               double* accumulator) noexcept nogil:
    """Fold all reduced positions below x into w accumulators."""
    cdef char tile[2 * TILE * 8]
    cdef double compensation[TILE]
    cdef npy_intp index[MAXDIMS]
    cdef double start = reduction_start(opcode)
    cdef int itemsize = 8 if plan.is_double else 4
    cdef bint contiguous = (plan.stride == itemsize or (plan.row_wise and plan.width == 1)
                            or (not plan.row_wise and w == 1))
    cdef int outer = plan.reduced, d
    cdef npy_intp rows = 1, row_stride = 0, other, height, r, i
    for i in range(w): accumulator[i] = start
    if opcode == MOMENTS:
        for i in range(w): accumulator[COLUMNS + i] = 0
    if plan.count == 0:
        return
    if plan.row_wise:
        for i in range(w): compensation[i] = 0
    elif outer > 0:                         # the columns' kernel walks one dimension by itself
        outer -= 1
        rows = plan.reduced_shape[outer]
        row_stride = plan.reduced_strides[outer]
    for d in range(outer):
        index[d] = 0
    while True:
        if plan.row_wise:
            fold_rows(opcode, plan, x, w, centre, contiguous, tile, accumulator, compensation)
        elif contiguous:
            reduce_columns(opcode, plan.is_double, x, plan.other, row_stride, rows, w, centre, accumulator)
        else:
            r = 0
            while r < rows:
                height = min(TILE // w, rows - r)
                other = pack_both(plan, x + r * row_stride, row_stride, plan.stride, height, w, tile)
                reduce_columns(opcode, plan.is_double, tile, other, w * itemsize, height, w, centre,
                               accumulator)
                r += height
        d = outer - 1
        while d >= 0:
            index[d] += 1
            x += plan.reduced_strides[d]
            if index[d] < plan.reduced_shape[d]:
                break
            x -= plan.reduced_strides[d] * plan.reduced_shape[d]
            index[d] = 0
            d -= 1
        if d < 0:
            break
    for i in range(w if plan.row_wise else 0):      # unless it is infinite or NaN
        accumulator[i] += compensation[i] if fabs(compensation[i]) < INFINITY else 0


cdef inline void fold_rows(int opcode, Plan* plan, char* x, npy_intp w, double* centre, bint contiguous,
                           char* tile, double* accumulator, double* compensation) noexcept nogil:
    """Fold w rows into as many accumulators, block by block; of one long row several blocks at a time, as if
    they were rows."""
    cdef double part[TILE]
    cdef double centres[TILE]
    cdef bint exact = (opcode in (PROD, MAX, MIN, MOMENTS)      # nothing to compensate, or little
                       or (plan.count <= BLOCK and contiguous))
    cdef npy_intp block = (plan.width if exact else BLOCK) if contiguous else TILE, i = 0, k, n, count
    cdef npy_intp row_stride = plan.place_stride, other = plan.other
    cdef int itemsize = 8 if plan.is_double else 4
    cdef double total, larger, smaller
    cdef double* to
    cdef double* about
    cdef char* source
    while i < plan.width:
        n = min(block, plan.width - i)
        source = x + i * plan.stride
        count = w
        if not contiguous:
            other = pack_both(plan, source, plan.place_stride, plan.stride, w, n, tile)
            source = tile
            row_stride = n * itemsize
        elif w == 1 and n == block:
            count = min(<npy_intp> BLOCKS, (plan.width - i) // block)
            row_stride = block * itemsize
        if exact:
            i += n
            reduce_rows(opcode, plan.is_double, source, other, row_stride, w, n, centre, accumulator)
            continue
        for k in range(count): part[k] = 0
        about = centre
        if count > w:
            for k in range(count): centres[k] = centre[0]
            about = centres
        i += n * (count // w)
        reduce_rows(opcode, plan.is_double, source, other, row_stride, count, n, about, part)
        for k in range(count):              # Neumaier: keep what the addition rounds off
            to = accumulator + (k if w > 1 else 0)
            total = to[0] + part[k]
            larger = to[0] if fabs(to[0]) >= fabs(part[k]) else part[k]
            smaller = part[k] if fabs(to[0]) >= fabs(part[k]) else to[0]
            compensation[k if w > 1 else 0] += (larger - total) + smaller
            to[0] = total


# --------------------------------------------------------------------- from strides to other strides
cdef void transfer(ndarray source, ndarray target, bint add):
    """target = source, or += it, for arrays of one shape and dtype (floats, to add) and any strides; elements
    of a target that is added to may coincide. Dimensions are walked in the order in which they lie in the
    memory of the one that is dense: the target of a copy, the source of an addition (where it is broadcast,
    outermost)."""
    cdef npy_intp shape[MAXDIMS]
    cdef npy_intp x_strides[MAXDIMS]
    cdef npy_intp o_strides[MAXDIMS]
    cdef npy_intp* key = <npy_intp*> x_strides if add else <npy_intp*> o_strides
    cdef npy_intp size, x_stride, o_stride
    cdef int ndim = 0, d, e, itemsize = PyArray_ITEMSIZE(source)
    cdef PyThreadState* thread = NULL
    if elements(source) == 0:
        return
    for d in range(PyArray_NDIM(source)):       # drop sizes of 1, insert by stride, the largest first
        size = PyArray_DIMS(source)[d]
        x_stride, o_stride = PyArray_STRIDES(source)[d], PyArray_STRIDES(target)[d]
        if size == 1:
            continue
        e = ndim
        while e > 0 and rank(key[e - 1]) < rank(x_stride if add else o_stride):
            shape[e] = shape[e - 1]; x_strides[e] = x_strides[e - 1]; o_strides[e] = o_strides[e - 1]
            e -= 1
        shape[e] = size; x_strides[e] = x_stride; o_strides[e] = o_stride
        ndim += 1
    e = 0
    for d in range(1, ndim):                    # merge what lies one behind the other in both
        if x_strides[e] == x_strides[d] * shape[d] and o_strides[e] == o_strides[d] * shape[d]:
            shape[e] *= shape[d]
        else:
            e += 1
            shape[e] = shape[d]
        x_strides[e] = x_strides[d]; o_strides[e] = o_strides[d]
    ndim = min(ndim, e + 1)
    while ndim < 2:                             # the kernels take rows
        shape[ndim] = 1; x_strides[ndim] = o_strides[ndim] = itemsize
        ndim += 1
    if elements(source) > RELEASE_GIL:
        thread = PyEval_SaveThread()
    walk(add, PyArray_TYPE(source) == NPY_DOUBLE, itemsize, ndim, shape, <char*> PyArray_DATA(source),
         x_strides, <char*> PyArray_DATA(target), o_strides)
    if thread != NULL:
        PyEval_RestoreThread(thread)


cdef inline npy_intp rank(npy_intp stride):
    return llabs(stride) if stride else NPY_MAX_INTP


cdef void walk(bint add, bint is_double, int itemsize, int ndim, npy_intp* shape, char* x,
               npy_intp* x_strides, char* o, npy_intp* o_strides) noexcept nogil:
    """Run the kernel over the two last dimensions, at each index of the others."""
    cdef npy_intp index[MAXDIMS]
    cdef int inner = ndim - 1, rows = ndim - 2, d
    for d in range(rows):
        index[d] = 0
    while True:
        if add:
            add_block(is_double, x, x_strides[rows], x_strides[inner], o, o_strides[rows], o_strides[inner],
                      shape[rows], shape[inner])
        else:
            copy_block(x, x_strides[rows], x_strides[inner], o, o_strides[rows], o_strides[inner],
                       shape[rows], shape[inner], itemsize)
        d = rows - 1
        while d >= 0:
            index[d] += 1
            x += x_strides[d]
            o += o_strides[d]
            if index[d] < shape[d]:
                break
            x -= x_strides[d] * shape[d]
            o -= o_strides[d] * shape[d]
            index[d] = 0
            d -= 1
        if d < 0:
            return


cdef ndarray contiguous(ndarray array):
    """The array itself, or a copy in C order if it is not."""
    cdef ndarray copy
    if cnp.PyArray_IS_C_CONTIGUOUS(array):
        return array
    copy = empty(PyArray_NDIM(array), PyArray_DIMS(array), PyArray_TYPE(array))
    transfer(array, copy, False)
    return copy


cdef bint is_viewable(ndarray x, tuple shape) except -1:
    """Whether x, which is not empty, has the elements of `shape` (one size may be -1) in C order without a
    copy: each run of dimensions that lie behind one another in memory must be a product of sizes."""
    cdef npy_intp run = 1, product, known = 1, size
    cdef int d, last, i = 0, n = len(shape), ndim = PyArray_NDIM(x)
    for d in range(n):
        known *= -(<npy_intp> shape[d]) if shape[d] < 0 else <npy_intp> shape[d]
    if known == 0:
        return True                             # NumPy will raise
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
            raise ValueError(f"{name}: a window from {first[i]} to {end[i]} is empty or leaves its axis of "
                             f"{size}")


cdef tuple first_maxima_of(str name, ndarray x, list bounds, npy_intp row_step, npy_intp column_step):
    """`first_maxima` and their indices in the planes that the last two dimensions of x are, which is
    C-contiguous. bounds: four int64 arrays, where the windows start and stop by rows, then by columns."""
    cdef npy_intp shape[MAXDIMS]
    cdef long long* pointers[4]
    cdef npy_intp planes = 1
    cdef int d, ndim = PyArray_NDIM(x)
    cdef PyThreadState* thread = NULL
    for d in range(ndim - 2):
        shape[d] = PyArray_DIMS(x)[d]
        planes *= shape[d]
    for d in range(2):
        check_windows(name, bounds[2 * d], bounds[2 * d + 1], PyArray_DIMS(x)[ndim - 2 + d])
        shape[ndim - 2 + d] = elements(<ndarray> bounds[2 * d])
        pointers[2 * d] = <long long*> PyArray_DATA(<ndarray> bounds[2 * d])
        pointers[2 * d + 1] = <long long*> PyArray_DATA(<ndarray> bounds[2 * d + 1])
    cdef ndarray index = empty(ndim, shape, NPY_INT64), out = empty(ndim, shape, PyArray_TYPE(x))
    if elements(x) > RELEASE_GIL:
        thread = PyEval_SaveThread()
    first_maxima(PyArray_TYPE(x) == NPY_DOUBLE, PyArray_DATA(x), planes, PyArray_DIMS(x)[ndim - 2],
                 PyArray_DIMS(x)[ndim - 1], pointers, shape[ndim - 2], shape[ndim - 1], row_step, column_step,
                 PyArray_DATA(out), <long long*> PyArray_DATA(index))
    if thread != NULL:
        PyEval_RestoreThread(thread)
    return out, index


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
    """x at the int64 positions `index` along an axis. Both C-contiguous, of one shape but for the axis; the
    caller has checked the positions, here and below."""
    cdef npy_intp outer, inner, length = PyArray_DIMS(x)[axis]
    out = empty(PyArray_NDIM(index), PyArray_DIMS(index), PyArray_TYPE(x))
    split_at(PyArray_DIMS(x), PyArray_NDIM(x), axis, &outer, &inner)
    take_along(<char*> PyArray_DATA(x), <long long*> PyArray_DATA(index), outer, length,
               PyArray_DIMS(index)[axis], inner, PyArray_ITEMSIZE(x), <char*> PyArray_DATA(out))
    return out


cdef ndarray add_along_axis(ndarray x, ndarray index, int axis, tuple shape):
    """Zeros of `shape` with x added at the int64 positions `index` along an axis."""
    cdef npy_intp outer, inner
    cdef npy_intp sizes[MAXDIMS]
    cdef int d
    for d in range(len(shape)):
        sizes[d] = shape[d]
    cdef ndarray out = zeros(len(shape), sizes, PyArray_TYPE(x))
    split_at(PyArray_DIMS(out), PyArray_NDIM(out), axis, &outer, &inner)
    if PyArray_TYPE(x) == NPY_DOUBLE:
        add_along(<double*> PyArray_DATA(x), <long long*> PyArray_DATA(index), outer, PyArray_DIMS(out)[axis],
                  PyArray_DIMS(index)[axis], inner, <double*> PyArray_DATA(out))
    else:
        add_along(<float*> PyArray_DATA(x), <long long*> PyArray_DATA(index), outer, PyArray_DIMS(out)[axis],
                  PyArray_DIMS(index)[axis], inner, <float*> PyArray_DATA(out))
    return out


cdef ndarray cumulate(ndarray factor, ndarray x, int axis):
    """`kernels.scan` along an axis of C-contiguous arrays of one shape, of which one may be None."""
    cdef npy_intp outer, inner
    cdef ndarray like = factor if x is None else x
    cdef void* f = NULL if factor is None else PyArray_DATA(factor)
    cdef void* data = NULL if x is None else PyArray_DATA(x)
    out = empty(PyArray_NDIM(like), PyArray_DIMS(like), PyArray_TYPE(like))
    split_at(PyArray_DIMS(like), PyArray_NDIM(like), axis, &outer, &inner)
    if PyArray_TYPE(like) == NPY_DOUBLE:
        scan(<double*> f, <double*> data, outer, PyArray_DIMS(like)[axis], inner, <double*> PyArray_DATA(out))
    else:
        scan(<float*> f, <float*> data, outer, PyArray_DIMS(like)[axis], inner, <float*> PyArray_DATA(out))
    return out


cdef ndarray take_slices(str name, ndarray x, ndarray index, int axis):
    """x[..., index, ...] for an int64 `index` at an axis, both C-contiguous."""
    cdef npy_intp shape[MAXDIMS]
    cdef npy_intp outer, inner, length = PyArray_DIMS(x)[axis], picks = elements(index), _, p
    cdef int ndim = PyArray_NDIM(x) - 1 + PyArray_NDIM(index), d, k = PyArray_NDIM(index)
    cdef long long* positions = <long long*> PyArray_DATA(index)
    cdef char* source = <char*> PyArray_DATA(x)
    if ndim > MAXDIMS:
        raise ValueError(f"{name}: {ndim} dimensions, a tensor has at most {MAXDIMS}")
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
    cdef bint is_double = PyArray_TYPE(x) == NPY_DOUBLE
    cdef long long* positions = <long long*> PyArray_DATA(index)
    cdef char* source = <char*> PyArray_DATA(x)
    cdef char* target = <char*> PyArray_DATA(out)
    check_positions(name, index, axis, length)
    split_at(PyArray_DIMS(out), PyArray_NDIM(out), axis, &outer, &inner)
    cdef npy_intp size = inner * PyArray_ITEMSIZE(x)
    for _ in range(outer):
        if inner > 1:
            for p in range(picks):
                accumulate(is_double, source + p * size,
                           target + (positions[p] + (length if positions[p] < 0 else 0)) * size, 1, inner)
        elif is_double:
            add_along(<double*> source, positions, 1, length, picks, 1, <double*> target)
        else:
            add_along(<float*> source, positions, 1, length, picks, 1, <float*> target)
        source += picks * size
        target += length * size


cdef ndarray joined(list arrays, int axis, npy_intp length):
    """Arrays of one dtype and, but for an axis, one shape, joined along it to a size of `length`."""
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


def count_classes(str name, ndarray labels not None, long long classes, long long ignored):
    """How many of the int64 class indices differ from `ignored`. IndexError if one of them is no class."""
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


# --------------------------------------------------------------------------------------- matrices
cdef enum:
    SHARED_WORK = 1 << 18       # multiply-adds above which OpenBLAS divides a product among its threads
    SHARED_PACKED = 1 << 22     # and above which that gains more than to have packed once


def threads_of_blas():
    """How many threads NumPy's OpenBLAS was given: by its variables, else one for each processor."""
    for name in ("OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"):
        if os.environ.get(name, "").isdigit() and int(os.environ[name]) > 0:
            return int(os.environ[name])
    return processors()


def processors():
    """How many this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


cdef bint blas_alone = threads_of_blas() == 1   # else larger products are left to its threads
cdef const MatmulKernel* matmul_kernel = choose_kernel(os.environ.get("MINIGRAD_MATMUL", ""))


cdef const MatmulKernel* choose_kernel(str name) except NULL:
    """The kernel of that name; for "" the best that the processor can run."""
    cdef bytes ascii = name.encode()
    found = find_kernel(ascii)
    if found == NULL:
        raise ValueError(f"MINIGRAD_MATMUL is {name!r}: expected avx512 or avx2, if the processor has it, or "
                         "blas")
    return found


def set_threads(int n):
    """How many threads a large loop runs on; returns how many it was."""
    global threads
    before, threads = threads, min(max(n, 1), <int> MOST_THREADS)
    return before


set_threads(int(os.environ.get("MINIGRAD_NUM_THREADS") or min(2, processors())))


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
    PyArray_MatrixProduct2(x, y, out)           # in 0.4 us, where np.matmul took 1.2
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


cdef void add_in_place(ndarray target, ndarray addend) noexcept:
    """target += addend, both C-contiguous and of one dtype; the addend has the shape of the target, or of
    each of its rows."""
    cdef npy_intp n = elements(addend)
    accumulate(PyArray_TYPE(target) == NPY_DOUBLE, PyArray_DATA(addend), PyArray_DATA(target),
               elements(target) // max(n, 1), n)


# ----------------------------------------------------------- running averages, optimiser steps
cdef void* vector(ndarray a, ndarray like, bint writable, str what) except? NULL:
    """The memory of `a`, after a check that one flat loop may run over it beside `like`."""
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
    if PyArray_TYPE(average) == NPY_DOUBLE:
        blend_into(<double*> b, <double*> a, elements(average), keep, gain)
    else:
        blend_into(<float*> b, <float*> a, elements(average), keep, gain)
