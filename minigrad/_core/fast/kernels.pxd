# The opcodes, and the kernels that branch on them. kernels.pyx opens with the Design note.
include "../generated/opcodes.pxi"

cdef enum:
    TILE = 512              # elements of a tile: three operands in float64 fill 12 KiB of the L1 cache
    COLUMNS = 1024          # columns that a reduction folds at once: 8 KiB of accumulators and 8 of centres

ctypedef unsigned char mask_t

cdef void call_kernel(int opcode, bint is_double, void** operands, void* out, Py_ssize_t n) noexcept nogil
cdef bint takes_numbers(int opcode, int numbers) noexcept nogil
cdef void call_with_numbers(int opcode, bint is_double, void** operands, void* out, Py_ssize_t n,
                            int numbers) noexcept nogil
cdef void pack(char* source, Py_ssize_t row_stride, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t n,
               int itemsize, char* tile) noexcept nogil
cdef void copy_block(char* x, Py_ssize_t x_row, Py_ssize_t x_stride, char* o, Py_ssize_t o_row,
                     Py_ssize_t o_stride, Py_ssize_t rows, Py_ssize_t n, int itemsize) noexcept nogil
cdef void add_block(bint is_double, void* x, Py_ssize_t x_row, Py_ssize_t x_stride, void* o,
                    Py_ssize_t o_row, Py_ssize_t o_stride, Py_ssize_t rows, Py_ssize_t n) noexcept nogil
cdef void first_maxima(bint is_double, void* x, Py_ssize_t planes, Py_ssize_t height, Py_ssize_t width,
                       long long** bounds, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t row_step,
                       Py_ssize_t column_step, void* o, long long* index) noexcept nogil
cdef bint all_between(bint is_double, void* x, Py_ssize_t n, double low, double high) noexcept nogil
cdef bint all_within(long long* index, Py_ssize_t n, long long length) noexcept nogil
cdef void take_along(char* x, long long* index, Py_ssize_t outer, Py_ssize_t length, Py_ssize_t picks,
                     Py_ssize_t inner, int itemsize, char* o) noexcept nogil
cdef void add_along(bint is_double, void* x, long long* index, Py_ssize_t outer, Py_ssize_t length,
                    Py_ssize_t picks, Py_ssize_t inner, void* o) noexcept nogil
cdef void scan(bint is_double, void* factor, void* x, Py_ssize_t outer, Py_ssize_t length, Py_ssize_t inner,
               void* o) noexcept nogil
cdef void reduce_rows(int opcode, bint is_double, void* x, Py_ssize_t other, Py_ssize_t row_stride,
                      Py_ssize_t rows, Py_ssize_t n, double* centre, double* accumulator) noexcept nogil
cdef void reduce_columns(int opcode, bint is_double, void* x, Py_ssize_t other, Py_ssize_t row_stride,
                         Py_ssize_t rows, Py_ssize_t n, double* centre, double* accumulator) noexcept nogil
cdef double reduction_start(int opcode) noexcept nogil
cdef void blend_into(bint is_double, void* x, void* out, Py_ssize_t n, double keep,
                     double gain) noexcept nogil
