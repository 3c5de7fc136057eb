# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Matrix products: the choice of the kernel, and what is packed in advance.

Design note
-----------
1. This file knows arrays, like `loops.pyx`, but no Tensors.
2. All float products, including the bias, run in our own kernels (`matmul.h`), on the threads of `loops.pyx`.
   NumPy's BLAS is used only if there is no kernel: its threads spin while they wait for each other, which on
   a busy machine took up to a hundred times as long as a single thread.
3. A convolution is a stack of products with one matrix in common; the other matrices have the memory layout
   of an image. Each image is packed right before its product, so that it stays in the L2 cache.
4. If there is no memory to pack operands, a product runs without packing. Any other failed allocation is a
   MemoryError, with one exception that cannot be caught: OpenBLAS prints a message and ends the process if
   it cannot allocate its own memory. That is about 32 MB, kept, at its first large product, and a few KB at
   each large product if it has threads (OPENBLAS_NUM_THREADS=1: none).
"""
cimport numpy as cnp
from cpython.ref cimport PyObject
from libc.stdlib cimport free, malloc
from numpy cimport (NPY_DOUBLE, NPY_FLOAT, PyArray_DATA, PyArray_DIMS, PyArray_ITEMSIZE, PyArray_NDIM,
                    PyArray_SIZE, PyArray_STRIDES, PyArray_TYPE, ndarray, npy_intp)

from .accelerate cimport Shortcut
from .kernels cimport SUM, add_block
from .loops cimport (
    Part, Transfer, add_in_place, compare, contiguous, empty, empty_of, gains, in_parts, number_of_threads,
    plan_transfer, recycle, run_transfer, threads_awake)
from .reductions cimport reduce
from .strides cimport MAXDIMS

import math
import os

import numpy as np

cnp.import_array()

cdef extern from "Python.h":
    ctypedef struct PyThreadState:
        pass
    PyThreadState* PyEval_SaveThread()
    void PyEval_RestoreThread(PyThreadState*)

cdef extern from *:
    """
    static PyObject* mg_matrix_product(PyObject* x, PyObject* y, PyObject* out) {
        PyObject* product = PyArray_MatrixProduct2(x, y, (PyArrayObject*) out);
        if (product == NULL && !PyErr_Occurred()) PyErr_NoMemory();     /* NumPy may not do it */
        return product;
    }
    """
    object matrix_product "mg_matrix_product"(object x, object y, object out)

cdef extern from "matmul.h" nogil:
    ctypedef struct Matrix "mg_matrix":
        const void* data
        npy_intp row, column
    ctypedef struct Kernel "mg_kernel":
        npy_intp size, lanes, height
        void (*pack_panels)(Matrix b, npy_intp inner, npy_intp columns, void* panels) noexcept nogil
        void (*matmul)(Matrix a, Matrix b, const void* panels, Matrix start, void* out, npy_intp rows,
                       npy_intp inner, npy_intp columns) noexcept nogil
        void (*pack_rows)(Matrix a, npy_intp rows, npy_intp inner, void* packed) noexcept nogil
        void (*block)(const void* packed, const void* panels, npy_intp whole, npy_intp start, Matrix first,
                      void* out, npy_intp out_row, npy_intp rows, npy_intp inner, npy_intp columns,
                      bint add) noexcept nogil
        void (*dots)(Matrix a, Matrix b, Matrix start, void* out, npy_intp out_long, npy_intp out_short,
                     npy_intp longs, npy_intp inner, npy_intp shorts)
    ctypedef struct Kernels "mg_kernels":
        const char* name
        const Kernel* of_float
        const Kernel* of_double
    ctypedef struct Stack "mg_stack":
        const Kernel* kernel
        Matrix a, b
        const char** left
        const char** right
        char* out
        Matrix start
        npy_intp step, count, rows, inner, columns
    npy_intp CHAIN "MG_CHAIN"
    npy_intp ROWS "MG_ROWS"
    const Kernels* find_kernels "mg_find_kernels"(const char* name)
    bint is_small "mg_is_small"(npy_intp rows, npy_intp inner, npy_intp columns)
    bint is_narrow "mg_is_narrow"(const Kernel* kernel, npy_intp columns)
    bint takes_panels "mg_takes_panels"(const Kernel* kernel, npy_intp inner, npy_intp columns)
    int SHARED "MG_SHARED"
    npy_intp threads_for "mg_threads_for"(double work, npy_intp threads)
    npy_intp room_for "mg_room"(const Kernel* kernel, npy_intp inner, npy_intp columns, bint packed,
                                npy_intp threads)
    void multiply_large "mg_multiply_large"(
        const Kernel* kernel, Matrix a, Matrix b, const void* panels, Matrix start, void* out, npy_intp rows,
        npy_intp inner, npy_intp columns, npy_intp threads,
        void (*share)(Part, void*, npy_intp) noexcept nogil, char* room)
    npy_intp take "mg_take"(npy_intp* next)
    npy_intp times "mg_times"(npy_intp x, npy_intp y)
    void multiply_stack "mg_multiply_stack"(Stack* stack, npy_intp threads,
                                            void (*share)(Part, void*, npy_intp) noexcept nogil)

cdef enum:
    IMAGES = 1 << 20            # multiply-adds of a chunk of images: 18 us
    CHUNKS = 16                 # partial sums of the products of images, at most, if ...
    SUMS_BYTES = 1 << 22        # ... together they are no larger than this
    RELEASE_GIL = 1 << 18       # multiply-adds above which a product lets other threads run
    AT_ONCE = 256               # inner steps of `subtract_product` whose panels are in memory at a time
    LONG = 64                   # inner sizes from which on narrow outputs are dot products

cdef Shortcut PRODUCTS = Shortcut("products by our kernels")
cdef const Kernels* kernels = choose_kernels(os.environ.get("MINIGRAD_MATMUL", ""))


cdef const Kernels* choose_kernels(str name) except NULL:
    """The kernels of that name; for "" the best ones for the processor."""
    cdef bytes encoded = os.fsencode(name)
    found = find_kernels(encoded)
    if found == NULL:
        raise ValueError(f"MINIGRAD_MATMUL is {name!r}: expected avx512, avx2 or vector128, if the processor "
                         "supports it, or blas")
    return found


def name_of_kernel() -> str:
    """The instruction set of the matrix product kernels; "blas" if there are none."""
    return kernels.name.decode()


cdef inline const Kernel* kernel_of(ndarray x) noexcept:
    """The kernel for the dtype of x; NULL if BLAS is used."""
    if not PRODUCTS.taken():
        return NULL
    return kernels.of_float if PyArray_TYPE(x) == NPY_FLOAT else kernels.of_double


cdef inline Matrix matrix(ndarray x) noexcept:
    """The last two dimensions of x."""
    cdef Matrix view
    cdef int n = PyArray_NDIM(x)
    view.data = PyArray_DATA(x)
    view.row = PyArray_STRIDES(x)[n - 2] // PyArray_ITEMSIZE(x)
    view.column = PyArray_STRIDES(x)[n - 1] // PyArray_ITEMSIZE(x)
    return view


cdef inline Matrix transposed(Matrix x) noexcept nogil:
    x.row, x.column = x.column, x.row
    return x


cdef ndarray matmul(ndarray x, ndarray y, ndarray bias=None):
    """x @ y (+ bias for each row) for arrays of two or more dimensions, float32 or float64. The caller has
    checked the shapes; bias is C-contiguous, and has the shape of the result without its rows."""
    cdef npy_intp shape[MAXDIMS]
    cdef npy_intp size
    cdef int n = PyArray_NDIM(x), m = PyArray_NDIM(y), ndim = max(n, m), d
    for d in range(ndim - 2):
        shape[d] = PyArray_DIMS(x)[d - ndim + n] if d >= ndim - n else 1
        size = PyArray_DIMS(y)[d - ndim + m] if d >= ndim - m else 1
        if shape[d] != size and shape[d] != 1 and size != 1:
            raise ValueError("the leading dimensions do not broadcast")
        shape[d] = size if shape[d] == 1 else shape[d]
    shape[ndim - 2] = PyArray_DIMS(x)[n - 2]
    shape[ndim - 1] = PyArray_DIMS(y)[m - 1]
    out = empty(ndim, shape, PyArray_TYPE(x))
    if ndim > 2:
        multiply_all(x, y, bias, out)
    else:
        multiply(x, y, None, bias, out)
    return out


cdef void multiply(ndarray x, ndarray y, ndarray panels, ndarray start, ndarray out) except *:
    """out = start + x @ y for matrices. out is C-contiguous; so is start, which has the shape of out or of a
    row, or is `out` itself, or None. panels: y packed by `panels_of`, or None."""
    cdef npy_intp rows = PyArray_DIMS(out)[0], columns = PyArray_DIMS(out)[1], inner = PyArray_DIMS(y)[0]
    cdef const Kernel* kernel = kernel_of(x)
    cdef Matrix first
    if rows == 0 or columns == 0:
        return
    if kernel == NULL:
        by_blas(x, y, start, out)
        return
    first.data, first.row, first.column = NULL, 0, 1
    if start is not None:
        first.data = PyArray_DATA(start)
        first.row = columns if PyArray_NDIM(start) == 2 else 0
    if panels is None and inner >= LONG and (rows < 4 or is_narrow(kernel, columns)):
        multiply_narrow(kernel, x, y, first, out)
    else:
        multiply_matrices(kernel, matrix(x), matrix(y), panels, first, PyArray_DATA(out), rows, inner,
                          columns)


cdef void by_blas(ndarray x, ndarray y, ndarray start, ndarray out) except *:
    if start is out:
        start = out.copy()
    matrix_product(x, y, out)                   # in 0.4 us, where np.matmul took 1.2
    if start is not None:
        add_in_place(out, start)


cdef void multiply_matrices(const Kernel* kernel, Matrix x, Matrix y, ndarray panels, Matrix start, void* out,
                            npy_intp rows, npy_intp inner, npy_intp columns) except *:
    """Like `multiply`, by the kernel."""
    cdef double work = <double> rows * inner * columns, weight = work * kernel.size / 4
    cdef npy_intp threads = threads_of(weight), size
    cdef bint brief = SHARED // 2 <= weight < SHARED        # too brief to wake a helper
    cdef unsigned long long kind
    cdef long long begun = 0
    cdef const void* packed = NULL if panels is None else PyArray_DATA(panels)
    cdef ndarray room = None
    cdef PyThreadState* thread = NULL
    if brief:
        kind = ((rows * 1000003ULL + inner) * 1000003 + columns) * 1000003
        kind += kernel.size + (x.column == 1) + 2 * (y.column == 1)
        threads = 2 if gains(kind, &begun) else 1
    cdef bint small = threads == 1 and is_small(rows, inner, columns)
    if not small:
        try:
            size = (room_for(kernel, inner, columns, packed != NULL, threads) + 7) // 8
            room = empty(1, &size, NPY_DOUBLE)
        except MemoryError:                     # slower, without packing
            small = True
    if work > RELEASE_GIL:
        thread = PyEval_SaveThread()
    if small:
        kernel.matmul(x, y, packed, start, out, rows, inner, columns)
    else:
        multiply_large(kernel, x, y, packed, start, out, rows, inner, columns, threads, in_parts,
                       <char*> PyArray_DATA(room))
    if brief: compare(kind, threads > 1, begun)
    if thread != NULL:
        PyEval_RestoreThread(thread)
    if room is not None:
        recycle(<PyObject*> room)


cdef void multiply_narrow(const Kernel* kernel, ndarray x, ndarray y, Matrix start, ndarray out) except *:
    """Like `multiply`, for an output of few rows or columns, which would leave most of a tile empty: dot
    products of contiguous rows of x and columns of y, or the transposed product."""
    cdef npy_intp rows = PyArray_DIMS(out)[0], columns = PyArray_DIMS(out)[1], inner = PyArray_DIMS(y)[0]
    cdef Matrix a = matrix(x), b = transposed(matrix(y))
    cdef ndarray copy                           # keeps its memory alive
    if columns <= rows and a.column == 1:       # many rows of x, few columns of y
        copy = contiguous(y.T)
        b = matrix(copy)
        kernel.dots(a, b, start, PyArray_DATA(out), columns, 1, rows, inner, columns)
    elif rows < 4 and b.column == 1:            # few rows of x, many columns of y
        copy = contiguous(x)
        a = matrix(copy)
        kernel.dots(b, a, transposed(start), PyArray_DATA(out), 1, columns, columns, inner, rows)
    elif columns == 1 and start.data == NULL:
        multiply_matrices(kernel, b, transposed(a), None, start, PyArray_DATA(out), 1, inner, rows)
    else:
        multiply_matrices(kernel, a, transposed(b), None, start, PyArray_DATA(out), rows, inner,
                          columns)


cdef void multiply_all(ndarray x, ndarray y, ndarray bias, ndarray out) except *:
    """out = x @ y (+ bias), for stacks of matrices whose leading dimensions broadcast to those of out,
    contiguous."""
    cdef const Kernel* kernel = kernel_of(x)
    cdef int ndim = PyArray_NDIM(out), d
    cdef npy_intp rows = PyArray_DIMS(out)[ndim - 2], columns = PyArray_DIMS(out)[ndim - 1]
    cdef npy_intp inner = PyArray_DIMS(y)[PyArray_NDIM(y) - 2], count = 1, i
    cdef npy_intp shape[MAXDIMS]
    cdef Stack stack
    cdef PyThreadState* thread
    if kernel == NULL:
        np.matmul(x, y, out)
        if bias is not None:
            np.add(out, bias[..., None, :], out)
        return
    for d in range(ndim - 2):
        shape[d] = PyArray_DIMS(out)[d]
        count *= shape[d]
    if count * rows * columns == 0:
        return
    stack.left = <const char**> malloc(2 * count * sizeof(char*))
    if stack.left == NULL:
        raise MemoryError("matmul: no memory for a stack of products")
    stack.right = stack.left + count
    try:
        beginnings(x, ndim - 2, shape, stack.left)
        beginnings(y, ndim - 2, shape, stack.right)
        stack.kernel, stack.a, stack.b, stack.out = kernel, matrix(x), matrix(y), <char*> PyArray_DATA(out)
        stack.count, stack.rows, stack.inner, stack.columns = count, rows, inner, columns
        stack.start.data = NULL if bias is None else PyArray_DATA(bias)
        stack.start.row, stack.start.column, stack.step = 0, 1, columns * kernel.size
        if is_small(rows, inner, columns):
            thread = PyEval_SaveThread()
            multiply_stack(&stack, number_of_threads(), in_parts)
            PyEval_RestoreThread(thread)
            return
        for i in range(count):
            stack.a.data, stack.b.data = stack.left[i], stack.right[i]
            multiply_matrices(kernel, stack.a, stack.b, None, stack.start,
                              stack.out + i * rows * columns * kernel.size, rows, inner, columns)
            if bias is not None:
                stack.start.data = <const char*> stack.start.data + stack.step
    finally:
        free(stack.left)


cdef void beginnings(ndarray x, int ndim, npy_intp* shape, const char** first) noexcept:
    """The start of each matrix of x, with its leading dimensions broadcast to `shape`."""
    cdef npy_intp count = 1, stride, inside, i
    cdef int d, k
    first[0] = <const char*> PyArray_DATA(x)
    for d in range(ndim):                       # each dimension repeats the starts of those before it
        k = d - ndim + PyArray_NDIM(x) - 2
        stride = PyArray_STRIDES(x)[k] if k >= 0 and PyArray_DIMS(x)[k] > 1 else 0
        for i in range(count - 1, -1, -1):
            for inside in range(shape[d] - 1, -1, -1):
                first[i * shape[d] + inside] = first[i] + inside * stride
        count *= shape[d]


cdef ndarray panels_of(ndarray y, npy_intp rows, npy_intp uses):
    """The matrix y packed for `multiply`, for a call with `uses` products of `rows` rows. The panels must not
    outlive that call, because they do not follow writes to y. None if packing gains nothing."""
    cdef npy_intp inner = PyArray_DIMS(y)[0], columns = PyArray_DIMS(y)[1], size
    cdef const Kernel* kernel = kernel_of(y)
    if uses < 2 or not takes_panels(kernel, inner, columns):
        return None
    size = inner * ((columns + kernel.lanes - 1) // kernel.lanes * kernel.lanes)
    panels = empty(1, &size, PyArray_TYPE(y))
    kernel.pack_panels(matrix(y), inner, columns, PyArray_DATA(panels))
    return panels


cdef Factor factor_of(ndarray y, ndarray panels) noexcept:
    """The matrix y for `multiply_rows`; panels: y packed by `panels_of`, or None. Both are borrowed."""
    cdef Factor factor
    factor.kernel, factor.typenum, factor.array = kernel_of(y), PyArray_TYPE(y), <PyObject*> y
    factor.panels = NULL if panels is None else PyArray_DATA(panels)
    factor.inner, factor.columns = PyArray_DIMS(y)[0], PyArray_DIMS(y)[1]
    factor.row, factor.column = matrix(y).row, matrix(y).column
    factor.data = PyArray_DATA(y)
    return factor


cdef bint multiply_rows(Factor* factor, char* x, char* start, bint is_bias, char* out,
                        npy_intp rows) noexcept nogil:
    """out = start + x @ factor for contiguous rows; start is a row, or as large as out, or NULL. Without the
    GIL; returns False if there was no memory."""
    cdef const Kernel* kernel = <const Kernel*> factor.kernel
    cdef Matrix a, b, first
    cdef npy_intp[2] shape
    if kernel != NULL and factor.inner <= CHAIN:
        b.data, b.row, b.column = factor.data, factor.row, factor.column
        a.data, a.row, a.column = x, factor.inner, 1
        first.data, first.row, first.column = start, factor.columns, 1
        if is_bias or start == NULL:
            first.row = 0
        kernel.matmul(a, b, factor.panels, first, out, rows, factor.inner, factor.columns)
        return True
    with gil:
        try:
            shape = [rows, factor.inner]
            left = cnp.PyArray_SimpleNewFromData(2, shape, factor.typenum, x)
            shape = [rows, factor.columns]
            target = cnp.PyArray_SimpleNewFromData(2, shape, factor.typenum, out)
            begin = None
            if start == out:
                begin = target
            elif start != NULL:
                begin = cnp.PyArray_SimpleNewFromData(2 - is_bias, shape + is_bias, factor.typenum, start)
            multiply(left, <ndarray> factor.array, None, begin, target)
            return True
        except MemoryError:
            return False


cdef bint has_kernels() noexcept:
    """Whether there are kernels of our own, without which there is no `subtract_product`."""
    return kernels.of_float != NULL


cdef npy_intp room_to_subtract(npy_intp columns) noexcept nogil:
    """Elements of the room for `subtract_product`, for up to so many columns."""
    return AT_ONCE * (columns + 2 * kernels.of_float.lanes + ROWS)


cdef void subtract_product(bint is_double, const void* x, npy_intp x_row, npy_intp x_column, const void* y,
                           npy_intp y_row, void* out, npy_intp out_row, npy_intp rows, npy_intp inner,
                           npy_intp columns, void* room) noexcept nogil:
    """out -= x @ y for matrices whose rows are so many elements apart, on one thread: for the factors of a
    matrix, which are parts of it."""
    cdef const Kernel* kernel = kernels.of_double if is_double else kernels.of_float
    cdef Matrix a, b, target
    cdef char* panels = <char*> room
    cdef char* packed = panels + AT_ONCE * (columns + 2 * kernel.lanes) * kernel.size
    cdef npy_intp i, k, t, count, depth
    a.row, a.column, b.row, b.column, target.row, target.column = x_row, x_column, y_row, 1, out_row, 1
    for k from 0 <= k < inner by AT_ONCE:
        depth = min(inner - k, <npy_intp> AT_ONCE)
        b.data = <char*> y + k * y_row * kernel.size
        kernel.pack_panels(b, depth, columns, panels)
        for i from 0 <= i < rows by ROWS:
            count = min(rows - i, ROWS)
            a.data = <char*> x + (i * x_row + k * x_column) * kernel.size
            target.data = <char*> out + i * out_row * kernel.size
            kernel.pack_rows(a, count, depth, packed)
            for t in range(times(count, kernel.height) * kernel.height * depth):
                if is_double: (<double*> packed)[t] = -(<double*> packed)[t]
                else: (<float*> packed)[t] = -(<float*> packed)[t]
            kernel.block(packed, panels, depth, 0, target, <void*> target.data, out_row, count, depth,
                         columns, False)


cdef npy_intp threads_of(double work) noexcept nogil:
    """The number of threads that is worthwhile for this many multiply-adds."""
    return 1 if work < SHARED else threads_for(work, threads_awake())


# ------------------------------------------------------- products with matrices that are packed on the way
cdef struct PackedJob:
    const Kernel* kernel
    Transfer plan                   # packs an image: a matrix (depth, places) for each group
    const char* images
    npy_intp step                   # bytes from one image to the next
    bint packed                     # whether they already are
    npy_intp count, chunk, groups, outputs, depth, places
    bint summed                     # whether products are summed over the images of a chunk
    Matrix other                    # strides of the other operand, and ...
    const char** others             # ... its starts: for each group; if summed, for each image and group
    const void* bias                # (groups, outputs), or NULL
    char* out
    char* room
    npy_intp bytes, room_bytes      # of a packed image, and of the scratch memory of a thread
    npy_intp threads                # for each product
    npy_intp next


cdef void packed_part(void* data, npy_intp part, npy_intp parts) noexcept nogil:
    """Process chunks of images until none is left."""
    cdef PackedJob* job = <PackedJob*> data
    cdef char* room = job.room + part * job.room_bytes
    cdef const char* image
    cdef npy_intp chunk = take(&job.next), i, g
    while chunk * job.chunk < job.count:
        for i in range(chunk * job.chunk, min(job.count, (chunk + 1) * job.chunk)):
            image = job.images + i * job.step
            if not job.packed:
                run_transfer(&job.plan, <char*> image, room)
                image = room
            for g in range(job.groups):
                multiply_packed(job, image, i, g, room + job.bytes)
        chunk = take(&job.next)


cdef void multiply_packed(PackedJob* job, const char* image, npy_intp i, npy_intp g,
                          char* room) noexcept nogil:
    cdef const Kernel* kernel = job.kernel
    cdef Matrix x, y, start
    cdef npy_intp rows = job.outputs, inner = job.depth, columns = job.places, place = i * job.groups + g
    x, y.row, y.column = job.other, job.places, 1
    x.data, y.data = job.others[place if job.summed else g], image + g * job.depth * job.places * kernel.size
    start.data, start.row, start.column = NULL, 0, 1
    if job.summed:                              # (outputs, places) @ (depth, places).T, transposed
        x, y = y, transposed(x)
        rows, inner, columns = job.depth, job.places, job.outputs
        place = i // job.chunk * job.groups + g
    cdef char* out = job.out + place * rows * columns * kernel.size
    if job.summed and i % job.chunk:
        start.data, start.row = out, columns
    if is_small(rows, inner, columns):
        kernel.matmul(x, y, NULL, start, out, rows, inner, columns)
    else:
        multiply_large(kernel, x, y, NULL, start, out, rows, inner, columns, job.threads, in_parts, room)
    if job.bias != NULL:                        # a number for each row
        add_block(kernel.size == 8, <char*> job.bias + g * rows * kernel.size, kernel.size, 0, out,
                  columns * kernel.size, kernel.size, rows, columns)


cdef void multiply_images(PackedJob* job, ndarray x, ndarray y, tuple shape, ndarray out) except *:
    """Run a job whose kernel, `summed`, `chunk` and `bias` are set; the images are y in the given shape."""
    cdef npy_intp strides[MAXDIMS]
    cdef npy_intp sizes[MAXDIMS]
    cdef npy_intp size = PyArray_ITEMSIZE(y), step = size, outer = len(shape) - 3, threads
    cdef int d, ndim = PyArray_NDIM(y)
    cdef double work
    cdef ndarray room
    job.count, job.depth, job.places = shape[0], shape[outer + 1], shape[outer + 2]
    job.outputs, job.groups = PyArray_DIMS(x)[PyArray_NDIM(x) - 2], 1
    if PyArray_SIZE(out) == 0:
        return
    for d in range(outer):
        sizes[1 + d] = shape[1 + d]
        job.groups *= sizes[1 + d]
    sizes[0] = job.count
    for d in range(ndim - 1, 0, -1):            # the strides of an image in C order
        strides[d] = step
        step *= PyArray_DIMS(y)[d]
    plan_transfer(&job.plan, ndim - 1, PyArray_DIMS(y) + 1, PyArray_STRIDES(y) + 1, strides + 1, size, False)
    job.images, job.step = <char*> PyArray_DATA(y), PyArray_STRIDES(y)[0]
    job.packed = cnp.PyArray_IS_C_CONTIGUOUS(y)
    job.out, job.other, job.next = <char*> PyArray_DATA(out), matrix(x), 0
    job.others = <const char**> malloc((job.count if job.summed else 1) * job.groups * sizeof(char*))
    if job.others == NULL:
        raise MemoryError("matmul: no memory for a stack of products")
    beginnings(x, outer + job.summed, sizes + (not job.summed), job.others)
    work = <double> job.outputs * job.depth * job.places
    threads = min(threads_of(work * job.groups * job.count), times(job.count, job.chunk))
    job.threads = threads_of(work) if threads == 1 else 1
    job.bytes = 0 if job.packed else times(step, 64) * 64
    job.room_bytes = job.bytes + times(room_of(job), 64) * 64
    size = threads * job.room_bytes // 8
    try:
        room = empty(1, &size, NPY_DOUBLE)
        job.room = <char*> PyArray_DATA(room)
        with nogil:
            in_parts(packed_part, job, threads)
        recycle(<PyObject*> room)
    finally:
        free(job.others)


cdef npy_intp room_of(PackedJob* job) noexcept:
    """The bytes of scratch memory that one product needs."""
    cdef npy_intp rows = job.outputs, inner = job.depth, columns = job.places
    if job.summed:
        rows, inner, columns = job.depth, job.places, job.outputs
    return 0 if is_small(rows, inner, columns) else room_for(job.kernel, inner, columns, False, job.threads)


cdef ndarray packed_matmul(ndarray x, ndarray y, tuple shape, ndarray bias):
    """x @ y.reshape(shape) + bias[..., None], with a contiguous bias or None. y is packed image by image (the
    first axis), if at all, so that it is read from the cache and is never in memory as a whole: 1.45 instead
    of 2.2 ms for the columns of a convolution."""
    cdef npy_intp outputs = PyArray_DIMS(x)[PyArray_NDIM(x) - 2]
    cdef int ndim = len(shape)
    cdef PackedJob job
    cdef double work = math.prod(shape[1:]) * outputs
    cdef ndarray out = empty_of(shape[:ndim - 2] + (outputs, shape[ndim - 1]), PyArray_TYPE(y))
    job.kernel, job.summed = kernel_of(y), False
    if job.kernel == NULL:
        np.matmul(x, y.reshape(shape), out)
        return out if bias is None else np.add(out, bias[..., None], out)
    job.bias = NULL if bias is None else PyArray_DATA(bias)
    job.chunk = <npy_intp> min(<double> shape[0], 1 + IMAGES / work)
    multiply_images(&job, x, y, shape, out)
    return out


cdef ndarray packed_outer(ndarray x, ndarray y, tuple shape):
    """The sum of x[i] @ y.reshape(shape)[i].T over the first axis, packed as in `packed_matmul`. (Computed as
    its transpose, for which BLAS took 1.5 instead of 2.1 ms.) The images are summed in chunks, whose number
    does not depend on the threads."""
    cdef npy_intp outputs = PyArray_DIMS(x)[PyArray_NDIM(x) - 2], n = shape[0], chunks, bytes
    cdef int ndim = len(shape)
    cdef PackedJob job
    cdef ndarray sums, total
    job.kernel, job.summed, job.bias = kernel_of(y), True, NULL
    if job.kernel == NULL:
        return np.matmul(x, np.swapaxes(y.reshape(shape), -1, -2)).sum(0)
    bytes = PyArray_ITEMSIZE(y) * outputs * math.prod(shape[1:ndim - 1])
    chunks = max(1, min(CHUNKS, SUMS_BYTES // bytes))
    job.chunk = times(n, chunks)
    sums = empty_of((times(n, job.chunk),) + shape[1:ndim - 1] + (outputs,), PyArray_TYPE(y))
    multiply_images(&job, x, y, shape, sums)
    total = reduce(SUM, sums, 1, False, 0)
    recycle(<PyObject*> sums)
    return contiguous(cnp.PyArray_SwapAxes(total, ndim - 3, ndim - 2))
