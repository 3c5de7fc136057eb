# The opcodes, and the kernels that branch on them. kernels.pyx opens with the Design note.
from cython cimport floating

cdef enum Opcode:
    # unary
    NEGATIVE, ABS, SIGN, SQUARE, SQRT, RSQRT, RECIPROCAL, RELU
    EXP, EXPM1, LOG, LOG1P, TANH, SIGMOID, SOFTPLUS, LOGSIGMOID, ERF
    # binary
    ADD, SUBTRACT, MULTIPLY, DIVIDE, MAXIMUM, MINIMUM, GATE
    # comparisons: floating in, bool out
    LESS, LESS_EQUAL, GREATER, GREATER_EQUAL, EQUAL, NOT_EQUAL
    # ternary
    WHERE, CLIP
    # reductions in one pass; passes about a centre; reductions that `loops` makes of such passes
    SUM, PROD, MAX, MIN
    DIFFERENCE, DEVIATION, SUMEXP
    MEAN, VAR, LOGSUMEXP
    # no kernel: NumPy computes
    NO_KERNEL

cdef enum:
    TILE = 512              # elements of a tile: three operands in float64 fill 12 KiB of the L1 cache

ctypedef unsigned char mask_t

cdef void call_kernel(int opcode, bint is_double, void** operands, void* out, Py_ssize_t n) noexcept nogil
cdef void pack(char* source, Py_ssize_t row_stride, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t n,
               int itemsize, char* tile) noexcept nogil
cdef void take_along(char* x, long long* index, Py_ssize_t outer, Py_ssize_t length, Py_ssize_t picks,
                     Py_ssize_t inner, int itemsize, char* o) noexcept nogil
cdef void add_along(floating* x, long long* index, Py_ssize_t outer, Py_ssize_t length, Py_ssize_t picks,
                    Py_ssize_t inner, floating* o) noexcept nogil
cdef void lstm_forward(floating* z, floating* c, Py_ssize_t n, floating* kept, floating* out) noexcept nogil
cdef void lstm_backward(floating* g, floating* c, floating* kept, Py_ssize_t n, bint of_gates,
                        floating* out) noexcept nogil
cdef void reduce_row(int opcode, bint is_double, void* x, Py_ssize_t n, double centre,
                     double* accumulator) noexcept nogil
cdef void reduce_columns(int opcode, bint is_double, void* x, Py_ssize_t row_stride, Py_ssize_t rows,
                         Py_ssize_t n, double* centre, double* accumulator) noexcept nogil
cdef double reduction_start(int opcode) noexcept nogil
cdef void accumulate(bint is_double, void* x, void* out, Py_ssize_t rows, Py_ssize_t n) noexcept nogil
cdef void blend_into(floating* x, floating* out, Py_ssize_t n, double keep, double gain) noexcept nogil
cdef void sgd_step(floating* parameter, floating* gradient, floating* velocity, Py_ssize_t n, double lr,
                   double momentum, double dampening, double weight_decay, bint nesterov,
                   bint first, bint maximize) noexcept nogil
cdef void adam_step(floating* parameter, floating* gradient, floating* first_moment,
                    floating* second_moment, floating* largest, Py_ssize_t n, double lr, double beta1,
                    double beta2, double eps, double weight_decay, bint decoupled, bint maximize,
                    long step) noexcept nogil
