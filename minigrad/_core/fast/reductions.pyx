# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Reductions: from axes and strides to folds of rows or of columns.

Design note
-----------
1. This file knows arrays and axes, like `loops.pyx`, but no Tensors. The folds are kernels.
2. Dimensions are sorted by stride, so memory is read in order whichever axes are reduced. If the fastest
   dimension is reduced, rows are folded together, each into its own accumulator; if it is kept, up to 1024
   columns are. Accumulators are double (but see kernels.pyx); sums of blocks are compensated (Neumaier
   1974), so 10^7 float64 elements do not lose more than a few ulp either.
3. In float64 the mean is computed relative to the first element, and the variance relative to the mean (two
   passes): a constant gives exactly itself and exactly 0, and the variance does not cancel for a large mean.
   That of float32 is computed in double relative to the first element, in one pass, and has both properties.
"""
cimport numpy as cnp
from cpython.ref cimport PyObject
from libc.math cimport INFINITY, fabs, isfinite
from numpy cimport (NPY_DOUBLE, PyArray_DATA, PyArray_DIMS, PyArray_NDIM, PyArray_STRIDES, PyArray_TYPE,
                    ndarray, npy_intp)

from .kernels cimport (
    COLUMNS, DEVIATION, DIFFERENCE, EXP, LOG, LOGSUM, MAX, MEAN, MIN, MOMENTS, PROD, PRODUCTS, SUM, TILE, VAR,
    call_kernel, pack, reduce_columns, reduce_rows, reduction_start)
from . cimport loops
from .loops cimport (
    add_in_place, difference, elements, elementwise, empty, recycle, share_work, start_of, view_array)
from .strides cimport MAXDIMS, add_loop, advance, insert_loop, merge

cnp.import_array()

cdef enum:
    SHORT_ROW = 16              # up to which a row costs more to start than to reduce
    BLOCK = 1024                # elements of a row that are summed before compensation
    BLOCKS = 16                 # blocks of one row in one call of the kernel
    FEW_COLUMNS = 32            # too few for a thread of their own
    ROWS = 4096                 # elements of the rows summed together, if they are read twice
    CANCELLED = 30              # ratio to the variance: the first element is 5.5 deviations off


cdef void make_plan(Plan* plan, Operand* x, unsigned long long axes, double correction) noexcept nogil:
    """Plan the reduction of the axes whose bits are set: sort the dimensions by stride, and merge them."""
    cdef Block* others
    cdef Block block                            # of x and the output, which has stride 0 along reduced axes
    cdef npy_intp out_strides[MAXDIMS]
    cdef npy_intp strides[2]
    cdef npy_intp step = x.itemsize
    cdef int d, inner, beside
    plan.count = 1
    plan.kept.ndim = plan.reduced.ndim = block.ndim = 0
    plan.other = plan.centres = 0
    plan.is_double, plan.correction = x.itemsize == 8, correction
    for d in reversed(range(x.ndim)):
        if axes >> d & 1:
            out_strides[d] = 0
            plan.count *= x.shape[d]
        else:
            out_strides[d] = step
            step *= max(x.shape[d], 1)
    for d in range(x.ndim):
        strides[0], strides[1] = x.strides[d], out_strides[d]
        insert_loop(&block, 2, x.shape[d], strides, 0, False)
    merge(&block, 2)
    if block.ndim == 0:                         # one number
        block.ndim = block.shape[0] = 1
        block.strides[0][0], block.strides[1][0] = x.itemsize, 0
    inner = block.ndim - 1
    if block.strides[1][inner] == 0 and block.shape[inner] <= SHORT_ROW:
        for d in reversed(range(inner)):        # short rows are folded together, as columns
            if block.strides[1][d] and block.shape[d] >= 8:
                inner = d
                break
    plan.row_wise = block.strides[1][inner] == 0
    plan.width, plan.stride = block.shape[inner], block.strides[0][inner]
    beside = inner
    while beside >= 0 and block.strides[1][beside] == 0:    # the fastest kept dimension
        beside -= 1
    plan.places, plan.place_stride, plan.out_stride = 1, 0, 0
    if beside >= 0:
        plan.places, plan.place_stride = block.shape[beside], block.strides[0][beside]
        plan.out_stride = block.strides[1][beside]
    for d in range(block.ndim):
        if d != inner and d != beside:
            others = &plan.kept if block.strides[1][d] else &plan.reduced
            others.strides[0][others.ndim] = block.strides[0][d]
            others.strides[1][others.ndim] = block.strides[1][d]
            add_loop(others, 2, block.shape[d], others.ndim)


cdef ndarray reduce(int opcode, ndarray x, unsigned long long axes, bint keepdims, double correction):
    """Reduce the axes whose bits are set in `axes`. The caller has checked them."""
    return reduce_beside(opcode, x, x, None, axes, keepdims, correction)


cdef ndarray variance(ndarray x, ndarray means, unsigned long long axes, bint keepdims, double correction):
    """The variance; writes the means to `means`, which has its shape with keepdims."""
    return reduce_beside(VAR, x, x, means, axes, keepdims, correction)


cdef ndarray sum_product(ndarray x, ndarray y, unsigned long long axes, bint keepdims):
    """The sum of x * y over the axes, for two arrays of one shape and dtype."""
    cdef int d
    for d in range(PyArray_NDIM(x)):
        if PyArray_STRIDES(x)[d] != PyArray_STRIDES(y)[d]:
            x, y = loops.contiguous(x), loops.contiguous(y)
    return reduce_beside(PRODUCTS, x, y, None, axes, keepdims, 0)


cdef ndarray reduce_beside(int opcode, ndarray x, ndarray y, ndarray centres, unsigned long long axes,
                           bint keepdims, double correction):
    """`reduce`, for an opcode that reads two arrays with equal strides, or also returns its centres."""
    cdef npy_intp shape[MAXDIMS]
    cdef int d, ndim = 0
    cdef Plan plan
    cdef Operand operand
    cdef ReductionJob job
    cdef npy_intp parts
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
    job = ReductionJob(opcode, &plan, <char*> PyArray_DATA(x), <char*> PyArray_DATA(out))
    parts = parts_of(&plan)
    if not plan.row_wise and (plan.kept.ndim == 0 or parts > plan.kept.shape[0]):
        parts = min(parts, loops.number_of_threads())   # narrow stripes of long rows cost twice as much
    share_work(elements(x), parts, reduction_part, &job)
    return out


cdef struct ReductionJob:
    int opcode
    Plan* plan
    char* x
    char* out


cdef inline npy_intp parts_of(Plan* plan) noexcept nogil:
    """The number of parts of results computed together: few columns are slower than many."""
    cdef npy_intp beside = plan.places if plan.row_wise else plan.places // FEW_COLUMNS
    return max(beside, plan.kept.shape[0] if plan.kept.ndim else 1)


cdef void reduction_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """A range of the results: along the outermost kept dimension, or of those computed together."""
    cdef ReductionJob* job = <ReductionJob*> data
    cdef Plan plan
    cdef npy_intp begin
    cdef char* x = job.x
    cdef char* out = job.out
    if parts == 1:
        run_plan(job.opcode, job.plan, x, out)
        return
    plan = job.plan[0]
    if plan.kept.ndim == 0 or parts_of(&plan) > plan.kept.shape[0]:
        begin = start_of(part, parts, plan.places)
        plan.places = start_of(part + 1, parts, plan.places) - begin
        x += begin * plan.place_stride
        out += begin * plan.out_stride
    else:
        begin = start_of(part, parts, plan.kept.shape[0])
        plan.kept.shape[0] = start_of(part + 1, parts, plan.kept.shape[0]) - begin
        x += begin * plan.kept.strides[0][0]
        out += begin * plan.kept.strides[1][0]
    if plan.places > 0 and (plan.kept.ndim == 0 or plan.kept.shape[0] > 0):
        run_plan(job.opcode, &plan, x, out)


cdef ndarray logsum_of_exp(str name, ndarray x, unsigned long long axes, bint keepdims):
    """log(sum(exp(x))), if exp(x) does not overflow."""
    cdef Operand operand
    view_array(&operand, x)
    exponentials = elementwise(name, EXP, PyArray_TYPE(x) == NPY_DOUBLE, PyArray_TYPE(x), &operand, 1)
    total = reduce(LOGSUM, exponentials, axes, keepdims, 0)
    recycle(<PyObject*> exponentials)
    return total


cdef ndarray logsumexp(ndarray x, unsigned long long axes, bint keepdims):
    """log(sum(exp(x - max))) + max, with 0 for an infinite max, to avoid inf - inf."""
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
    """(x - max) - log(sum(exp(x - max))): the logarithm is small, and would lose its digits next to a
    large x."""
    cdef ndarray largest = reduce(MAX, x, axes, True, 0), shifted, total, out
    shifted = difference("log_softmax", x, largest)
    total = logsum_of_exp("log_softmax", shifted, axes, True)
    out = difference("log_softmax", shifted, total)
    recycle(<PyObject*> shifted)
    return out


cdef void run_plan(int opcode, Plan* plan, char* x, char* out) noexcept nogil:
    """Walk the kept positions; at each, fold as many columns together as accumulators fit the L1 cache, or as
    many rows as fit there if they are read twice."""
    cdef npy_intp index[MAXDIMS]
    cdef char* at[2]
    cdef double accumulator[2 * COLUMNS]
    cdef double centre[COLUMNS]
    cdef npy_intp c, w, widest
    cdef bint contiguous = plan.stride == (8 if plan.is_double else 4)
    cdef int d
    if plan.row_wise:
        widest = (ROWS if opcode == VAR and plan.is_double else 8 * ROWS) if contiguous else TILE
        widest = max(1, min(<npy_intp> TILE, widest // max(plan.width, 1)))
    else:
        widest = COLUMNS if contiguous else TILE // 4
    at[0], at[1] = x, out
    for d in range(plan.kept.ndim):
        index[d] = 0
    while True:
        c = -widest
        while c + widest < plan.places:
            c += widest
            w = min(widest, plan.places - c)
            reduce_position(opcode, plan, at[0] + c * plan.place_stride, w, centre, accumulator)
            store(plan, accumulator, w, at[1] + c * plan.out_stride)
            if plan.centres:
                store(plan, centre, w, at[1] + c * plan.out_stride + plan.centres)
        if not advance(&plan.kept, plan.kept.ndim, 2, index, at):
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
    """The reduction at one kept position (w places of it): one fold, or two relative to a centre."""
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
        else:                               # exact in double for up to 2^29 equal floats
            fold(SUM, plan, x, w, centre, accumulator)
            for i in range(w): accumulator[i] /= plan.count
        if not finite:                      # inf - inf, or an overflow of the differences
            fold(SUM, plan, x, w, centre, accumulator)
            for i in range(w): accumulator[i] /= plan.count
        if opcode == VAR:
            deviations(plan, x, w, centre, accumulator)
    elif opcode == LOGSUM:                  # in double: for sums just above 1
        fold(SUM, plan, x, w, centre, accumulator)
        for i in range(w): centre[i] = accumulator[i]
        source = centre
        call_kernel(LOG, True, &source, accumulator, w)
    else:
        fold(opcode, plan, x, w, centre, accumulator)


cdef void deviations(Plan* plan, char* x, npy_intp w, double* centre, double* accumulator) noexcept nogil:
    """Replace the means in the accumulators by the variances; the means go to `centre`."""
    cdef npy_intp i
    for i in range(w): centre[i] = accumulator[i]
    fold(DEVIATION, plan, x, w, centre, accumulator)
    for i in range(w): accumulator[i] /= max(plan.count - plan.correction, 0.0)


cdef void variances(Plan* plan, char* x, npy_intp w, double* centre, double* accumulator) noexcept nogil:
    """The variances of floats, in one pass relative to the first element, in double: sum(d^2) - sum(d)^2 / n.
    If the second term is many times the variance, because the first element is far from the others, the
    deviations from the mean are summed instead."""
    cdef double* squares = accumulator + COLUMNS
    cdef double shift
    cdef bint cancelled = False
    cdef npy_intp i
    first_elements(plan, x, w, centre)
    fold(MOMENTS, plan, x, w, centre, accumulator)
    for i in range(w):
        shift = accumulator[i] / plan.count
        squares[i] -= shift * accumulator[i]
        if shift * accumulator[i] > CANCELLED * squares[i]:
            squares[i] = -1                 # a marker: no variance is negative
            cancelled = True
        else:
            squares[i] /= max(plan.count - plan.correction, 0.0)
        centre[i] += shift
        accumulator[i] = centre[i]
    if cancelled:
        deviations(plan, x, w, centre, accumulator)
    for i in range(w):                      # each on its own, so it does not depend on its neighbours
        if squares[i] != -1: accumulator[i] = squares[i]


cdef inline void first_elements(Plan* plan, char* x, npy_intp w, double* centre) noexcept nogil:
    cdef npy_intp i
    for i in range(w if plan.count > 0 else 0):
        if plan.is_double: centre[i] = (<double*> (x + i * plan.place_stride))[0]
        else: centre[i] = (<float*> (x + i * plan.place_stride))[0]


cdef inline npy_intp pack_both(Plan* plan, char* x, npy_intp row_stride, npy_intp stride, npy_intp rows,
                               npy_intp n, char* tile) noexcept nogil:
    """Pack x into the tile and, after it, the other array; returns the bytes between them."""
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
    cdef int outer = plan.reduced.ndim, d
    cdef npy_intp rows = 1, row_stride = 0, other, height, r, i
    for i in range(w): accumulator[i] = start
    if opcode == MOMENTS:
        for i in range(w): accumulator[COLUMNS + i] = 0
    if plan.count == 0:
        return
    if plan.row_wise:
        for i in range(w): compensation[i] = 0
    elif outer > 0:                         # the column kernel walks one dimension itself
        outer -= 1
        rows = plan.reduced.shape[outer]
        row_stride = plan.reduced.strides[0][outer]
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
                height = min(TILE // w // 4 * 4, rows - r)      # a multiple of four rows, whatever w is
                other = pack_both(plan, x + r * row_stride, row_stride, plan.stride, height, w, tile)
                reduce_columns(opcode, plan.is_double, tile, other, w * itemsize, height, w, centre,
                               accumulator)
                r += height
        if not advance(&plan.reduced, outer, 1, index, &x):
            break
    for i in range(w if plan.row_wise else 0):      # unless that is infinite or NaN
        accumulator[i] += compensation[i] if fabs(compensation[i]) < INFINITY else 0


cdef inline void fold_rows(int opcode, Plan* plan, char* x, npy_intp w, double* centre, bint contiguous,
                           char* tile, double* accumulator, double* compensation) noexcept nogil:
    """Fold w rows into w accumulators, block by block. Several blocks of one long row are folded at a time,
    as if they were rows."""
    cdef double part[TILE]
    cdef double centres[TILE]
    cdef bint exact = (opcode in (PROD, MAX, MIN, MOMENTS)      # not a sum, or one in double of floats
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
        for k in range(count):              # Neumaier: keep the rounding error
            to = accumulator + (k if w > 1 else 0)
            total = to[0] + part[k]
            larger = to[0] if fabs(to[0]) >= fabs(part[k]) else part[k]
            smaller = part[k] if fabs(to[0]) >= fabs(part[k]) else to[0]
            compensation[k if w > 1 else 0] += (larger - total) + smaller
            to[0] = total
