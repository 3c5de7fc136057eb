# cython: boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Inner loops over raw, contiguous memory: one branch per opcode.

Design note
-----------
1. This file knows memory, lengths and opcodes. It must not know arrays, shapes, Tensors or the graph.
2. Every loop runs over contiguous memory. `loops.pyx` and `reductions.pyx` first pack operands that are
   strided, reversed, transposed or broadcast into a tile of 512 elements (`pack`), so an operation is written
   once, not once per layout; but numbers are read in place (`call_with_numbers`).
3. A kernel is a fused function over float and double. Functions called by other modules take void pointers
   and select the dtype, once for each kernel. `MG_CLONED` (clones.h) makes gcc build a kernel for AVX-512,
   AVX2 and baseline x86-64 and select one at load time; the loops vectorise without intrinsics.
4. Reductions accumulate in double, whatever the input; extrema and sums of products in the precision of
   the input, the latter 1024 at a time. 256 bytes of lanes keep the adders busy. The main cost is the
   conversion to double: the variance of floats reads them once (`row_moments`), and columns are folded by
   straight-line code (`fold_four`), for which gcc converts directly from memory; in a loop it converted
   halves of vectors, a third slower. (Folding rows like columns is slower below 512 elements and a fifth
   faster above: not worth two code paths.)
5. Everything is `noexcept nogil`: no kernel can fail, and none needs the interpreter.
"""
from cython cimport floating
from libc.math cimport INFINITY
from libc.string cimport memcpy

cdef extern from "clones.h" nogil:
    ctypedef void cloned "MG_CLONED void"
    ctypedef void inlined "MG_INLINED void"

cdef extern from "vecmath.h":
    pass

cdef extern from * nogil:
    """
    #define mg_usual(x, n, added) _Generic((x), float*: mg_usual_f32, double*: mg_usual_f64)(x, n, added)
    /* The larger or smaller; a NaN wins and stays. (`best` is one instruction that keeps a NaN in a, so these
       vectorise, unlike Cython's branches. Four elements are checked for NaN together, because compilers
       generated bad code for nested pairs.) */
    #define MG_EXTREMUM(name, type, beats) \\
        static inline type name(type a, type x) { type best = x beats a ? x : a; return x != x ? x : best; }\\
        static inline type name##_of(type a, type x, type y, type z, type w) { \\
            type p = x beats y ? x : y, q = z beats w ? z : w, r = p beats q ? p : q; \\
            type best = r beats a ? r : a; \\
            return isunordered(x, y) | isunordered(z, w) ? (type) NAN : best; }
    MG_EXTREMUM(mg_larger_f32, float, >)
    MG_EXTREMUM(mg_larger_f64, double, >)
    MG_EXTREMUM(mg_smaller_f32, float, <)
    MG_EXTREMUM(mg_smaller_f64, double, <)
    #define mg_larger(a, x) _Generic((x), float: mg_larger_f32, double: mg_larger_f64)(a, x)
    #define mg_smaller(a, x) _Generic((x), float: mg_smaller_f32, double: mg_smaller_f64)(a, x)
    #define mg_largest(a, ...) _Generic((a), float: mg_larger_f32_of, double: mg_larger_f64_of)(a, \\
        __VA_ARGS__)
    #define mg_smallest(a, ...) _Generic((a), float: mg_smaller_f32_of, double: mg_smaller_f64_of)(a, \\
        __VA_ARGS__)
    #define mg_sqrt(x) _Generic((x), float: sqrtf, double: sqrt)(x)
    #define mg_abs(x) _Generic((x), float: fabsf, double: fabs)(x)
    double mg_one = 1;              /* not static, so that its value is unknown to compilers: see fold_four */
    #ifdef __GNUC__
    #define mg_straight_line() __asm__ volatile("")
    #else
    #define mg_straight_line()
    #endif
    """
    double mg_one
    void mg_straight_line()
    bint mg_usual(void*, Py_ssize_t, double)
    double mg_sqrt(double)
    double mg_abs(double)
    double mg_larger(double, double)
    double mg_smaller(double, double)
    double mg_largest(double, double, double, double, double)
    double mg_smallest(double, double, double, double, double)

ctypedef fused item_t:                      # the elements that `pack` moves: 1, 4 or 8 bytes
    unsigned char
    unsigned int
    unsigned long long


# ------------------------------------------------------------------------------------- elementwise
# Generated from table.py: `unary`, `binary_loop` and `compare_loop`, which branch on the opcode.
include "../generated/loops.pxi"


# ------------------------------------------------------------------------------------------ binary
# A number operand is read with a step of 0, which is a constant after inlining.
cdef cloned binary(int opcode, floating* x, floating* y, floating* o, Py_ssize_t n,
                   int numbers) noexcept nogil:
    if numbers == 0: binary_loop(opcode, x, y, o, n, 1, 1)
    elif numbers == 1: binary_loop(opcode, x, y, o, n, 0, 1)
    else: binary_loop(opcode, x, y, o, n, 1, 0)


cdef cloned compare(int opcode, floating* x, floating* y, mask_t* o, Py_ssize_t n,
                    int numbers) noexcept nogil:
    if numbers == 0: compare_loop(opcode, x, y, o, n, 1, 1)
    elif numbers == 1: compare_loop(opcode, x, y, o, n, 0, 1)
    else: compare_loop(opcode, x, y, o, n, 1, 0)


# ----------------------------------------------------------------------------------------- ternary
cdef inline inlined where_loop(mask_t* condition, floating* x, floating* y, floating* o, Py_ssize_t n,
                               Py_ssize_t dx, Py_ssize_t dy) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n): o[i] = x[i * dx] if condition[i] else y[i * dy]


cdef cloned where(mask_t* condition, floating* x, floating* y, floating* o, Py_ssize_t n,
                  int numbers) noexcept nogil:
    if numbers == 0: where_loop(condition, x, y, o, n, 1, 1)
    elif numbers == 2: where_loop(condition, x, y, o, n, 0, 1)
    else: where_loop(condition, x, y, o, n, 1, 0)


cdef inline inlined clip_loop(floating* x, floating* low, floating* high, floating* o, Py_ssize_t n,
                              Py_ssize_t step) noexcept nogil:
    cdef Py_ssize_t i
    cdef floating value
    for i in range(n):                      # minimum(maximum(x, low), high); a NaN stays NaN
        value = low[i * step] if x[i] < low[i * step] else x[i]
        o[i] = high[i * step] if value > high[i * step] else value


cdef cloned clip(floating* x, floating* low, floating* high, floating* o, Py_ssize_t n,
                 int numbers) noexcept nogil:
    if numbers == 0: clip_loop(x, low, high, o, n, 1)
    else: clip_loop(x, low, high, o, n, 0)


cdef cloned scaled_difference(floating* x, floating* y, floating* z, floating* o,
                              Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n): o[i] = (x[i] - y[i]) * z[i]


cdef inline void dispatch(int opcode, void** p, void* out, Py_ssize_t n, floating* precision,
                          int numbers) noexcept nogil:
    if opcode < FIRST_BINARY:
        unary(opcode, <floating*> p[0], <floating*> out, n)
    elif opcode < FIRST_COMPARISON:
        binary(opcode, <floating*> p[0], <floating*> p[1], <floating*> out, n, numbers)
    elif opcode < WHERE:
        compare(opcode, <floating*> p[0], <floating*> p[1], <mask_t*> out, n, numbers)
    elif opcode == WHERE:
        where(<mask_t*> p[0], <floating*> p[1], <floating*> p[2], <floating*> out, n, numbers)
    elif opcode == SCALED_DIFFERENCE:
        scaled_difference(<floating*> p[0], <floating*> p[1], <floating*> p[2], <floating*> out, n)
    else:
        clip(<floating*> p[0], <floating*> p[1], <floating*> p[2], <floating*> out, n, numbers)


cdef bint takes_numbers(int opcode, int numbers) noexcept nogil:
    """Whether `call_with_numbers` accepts numbers for this set of operands: bit k stands for operand k."""
    if FIRST_BINARY <= opcode < WHERE:
        return numbers < 3
    if opcode == WHERE:
        return numbers == 0 or numbers == 2 or numbers == 4
    return numbers == 0 or (opcode == CLIP and numbers == 6)


cdef void call_with_numbers(int opcode, bint is_double, void** operands, void* out, Py_ssize_t n,
                            int numbers) noexcept nogil:
    """Like `call_kernel`, but an operand whose bit is set is a single number. (Reading a tile filled with it
    took a fifth longer.)"""
    if is_double:
        dispatch(opcode, operands, out, n, <double*> NULL, numbers)
    else:
        dispatch(opcode, operands, out, n, <float*> NULL, numbers)


cdef void call_kernel(int opcode, bint is_double, void** operands, void* out, Py_ssize_t n) noexcept nogil:
    """Run the elementwise kernel of `opcode` over n contiguous elements of each operand."""
    call_with_numbers(opcode, is_double, operands, out, n, 0)


# ----------------------------------------------------------------------------------------- packing
cdef cloned pack_items(item_t* source, Py_ssize_t row_stride, Py_ssize_t stride, Py_ssize_t rows,
                       Py_ssize_t n, item_t* tile) noexcept nogil:
    cdef Py_ssize_t i, r
    cdef char* row
    for r in range(rows):
        row = <char*> source + r * row_stride
        if stride == 0:
            for i in range(n): tile[i] = (<item_t*> row)[0]
        elif stride == sizeof(item_t):
            for i in range(n): tile[i] = (<item_t*> row)[i]
        elif stride == 2 * sizeof(item_t):  # every other element: a constant, so it vectorises
            for i in range(n): tile[i] = (<item_t*> row)[2 * i]
        else:
            for i in range(n): tile[i] = (<item_t*> (row + i * stride))[0]
        tile += n


cdef void pack(char* source, Py_ssize_t row_stride, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t n,
               int itemsize, char* tile) noexcept nogil:
    """Copy rows × n elements that lie `row_stride` and `stride` bytes apart into a contiguous tile."""
    cdef Py_ssize_t filled = n * itemsize, whole = rows * filled
    if row_stride == 0 and rows > 1:        # one repeated row, such as a bias: double what is there
        pack(source, 0, stride, 1, n, itemsize, tile)
        while filled < whole:
            memcpy(tile + filled, tile, min(filled, whole - filled))
            filled *= 2
        return
    if itemsize == 4:
        pack_items(<unsigned int*> source, row_stride, stride, rows, n, <unsigned int*> tile)
    elif itemsize == 8:
        pack_items(<unsigned long long*> source, row_stride, stride, rows, n, <unsigned long long*> tile)
    else:
        pack_items(<unsigned char*> source, row_stride, stride, rows, n, <unsigned char*> tile)


# ------------------------------------------------------------------- from strided memory to strided memory
cdef inline void copy_items(item_t* x, Py_ssize_t x_row, Py_ssize_t x_stride, char* o, Py_ssize_t o_row,
                            Py_ssize_t o_stride, Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i, _
    for _ in range(rows):
        for i in range(n):
            (<item_t*> (o + i * o_stride))[0] = (<item_t*> (<char*> x + i * x_stride))[0]
        x = <item_t*> (<char*> x + x_row)
        o += o_row


cdef inline void copy_bytes(char* x, char* o, Py_ssize_t n) noexcept nogil:
    """memcpy, but short runs as two overlapping moves, which take a third of the time of the call."""
    if 16 <= n <= 32:
        memcpy(o, x, 16)
        memcpy(o + n - 16, x + n - 16, 16)
    elif 32 < n <= 64:
        memcpy(o, x, 32)
        memcpy(o + n - 32, x + n - 32, 32)
    else:
        memcpy(o, x, n)


cdef void copy_block(char* x, Py_ssize_t x_row, Py_ssize_t x_stride, char* o, Py_ssize_t o_row,
                     Py_ssize_t o_stride, Py_ssize_t rows, Py_ssize_t n, int itemsize) noexcept nogil:
    """Copy rows × n elements between strided memories; all strides are in bytes. (`pack` fills 64 x 256
    floats, each row with one number, in 1.3 us; copy_items, without special cases, in 5.)"""
    cdef Py_ssize_t r
    if x_stride == itemsize and o_stride == itemsize:
        for r in range(rows): copy_bytes(x + r * x_row, o + r * o_row, n * itemsize)
    elif o_stride == itemsize and (rows == 1 or o_row == n * itemsize):
        pack(x, x_row, x_stride, rows, n, itemsize, o)
    elif itemsize == 4:
        copy_items(<unsigned int*> x, x_row, x_stride, o, o_row, o_stride, rows, n)
    elif itemsize == 8:
        copy_items(<unsigned long long*> x, x_row, x_stride, o, o_row, o_stride, rows, n)
    else:
        copy_items(<unsigned char*> x, x_row, x_stride, o, o_row, o_stride, rows, n)


cdef cloned add_strided(floating* x, Py_ssize_t x_row, Py_ssize_t x_stride, floating* o, Py_ssize_t o_row,
                        Py_ssize_t o_stride, Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i, _
    cdef floating number
    for _ in range(rows):
        if x_stride == sizeof(floating) and o_stride == sizeof(floating):
            for i in range(n): o[i] += x[i]
        elif x_stride == 0 and o_stride == sizeof(floating):
            number = x[0]
            for i in range(n): o[i] += number
        else:
            for i in range(n):
                (<floating*> (<char*> o + i * o_stride))[0] += (<floating*> (<char*> x + i * x_stride))[0]
        x = <floating*> (<char*> x + x_row)
        o = <floating*> (<char*> o + o_row)


cdef void add_block(bint is_double, void* x, Py_ssize_t x_row, Py_ssize_t x_stride, void* o,
                    Py_ssize_t o_row, Py_ssize_t o_stride, Py_ssize_t rows, Py_ssize_t n) noexcept nogil:
    """Like `copy_block`, but o += x; elements of o may coincide. (`binary(ADD)` in place would not vectorise,
    because its operands would overlap.)"""
    if is_double:
        add_strided(<double*> x, x_row, x_stride, <double*> o, o_row, o_stride, rows, n)
    else:
        add_strided(<float*> x, x_row, x_stride, <float*> o, o_row, o_stride, rows, n)


# ------------------------------------------------------------------------------------------------ windows
cdef cloned keep_larger(floating* x, int place, floating* largest, int* at, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    cdef bint larger
    for i in range(n):
        larger = (x[i] > largest[i]) | ((x[i] != x[i]) & (largest[i] == largest[i]))
        largest[i] = x[i] if larger else largest[i]
        at[i] = place if larger else at[i]


cdef inline Py_ssize_t equal_windows(long long* start, long long* stop, Py_ssize_t first,
                                     Py_ssize_t end) noexcept nogil:
    """The number of windows from `first` on with equal sizes and equal distances to the next."""
    cdef Py_ssize_t i = first + 1
    while i < end and (stop[i] - start[i] == stop[first] - start[first]
                       and start[i] - start[i - 1] == start[first + 1] - start[first]):
        i += 1
    return i - first


cdef inline void first_maxima_of(floating* x, Py_ssize_t planes, Py_ssize_t height, Py_ssize_t width,
                                 long long** bounds, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t row_step,
                                 Py_ssize_t column_step, floating* o, long long* index) noexcept nogil:
    """Windows of equal size at equal distances are processed together, a tile at a time: one element of each,
    then the next."""
    cdef floating tile[TILE]
    cdef floating largest[TILE]
    cdef int at[TILE]
    cdef Py_ssize_t i, j, r, c, m, n, h, w, down, along, place, to
    cdef int size = sizeof(floating)
    for _ in range(planes):
        i = 0
        while i < rows:
            m = equal_windows(bounds[0], bounds[1], i, rows)
            j = 0
            while j < columns:
                n = min(equal_windows(bounds[2], bounds[3], j, columns), <Py_ssize_t> TILE)
                m = min(m, TILE // n)
                down = (bounds[0][i + 1] - bounds[0][i]) * width if m > 1 else 0
                along = bounds[2][j + 1] - bounds[2][j] if n > 1 else 0
                place = bounds[0][i] * width + bounds[2][j]
                pack(<char*> (x + place), down * size, along * size, m, n, size, <char*> largest)
                for r in range(m * n): at[r] = 0
                h = 0
                while h < bounds[1][i] - bounds[0][i]:
                    w = 0
                    while w < bounds[3][j] - bounds[2][j]:
                        if h + w:
                            pack(<char*> (x + place + h * width + w), down * size, along * size, m, n, size,
                                 <char*> tile)
                            keep_larger(tile, <int> (h * width + w), largest, at, m * n)
                        w += column_step
                    h += row_step
                for r in range(m):
                    to = (i + r) * columns + j
                    for c in range(n):
                        o[to + c] = largest[r * n + c]
                        index[to + c] = place + r * down + c * along + at[r * n + c]
                j += n
            i += m
        o += rows * columns
        index += rows * columns
        x += height * width


cdef void first_maxima(bint is_double, void* x, Py_ssize_t planes, Py_ssize_t height, Py_ssize_t width,
                       long long** bounds, Py_ssize_t rows, Py_ssize_t columns, Py_ssize_t row_step,
                       Py_ssize_t column_step, void* o, long long* index) noexcept nogil:
    """The first maximum of each window, and its index in its plane of height × width; a NaN wins. `bounds`:
    the starts and stops of the windows by rows, then by columns, checked by the caller."""
    if is_double:
        first_maxima_of(<double*> x, planes, height, width, bounds, rows, columns, row_step, column_step,
                        <double*> o, index)
    else:
        first_maxima_of(<float*> x, planes, height, width, bounds, rows, columns, row_step, column_step,
                        <float*> o, index)


# -------------------------------------------------------------------------------- indexing along an axis
cdef cloned furthest(long long* index, Py_ssize_t n, long long length,
                     unsigned long long* result) noexcept nogil:
    """The largest index + length as an unsigned number. If it is below 2 * length, every index is at least
    -length and below length."""
    cdef unsigned long long place, most = 0
    cdef Py_ssize_t i
    for i in range(n):
        place = <unsigned long long> index[i] + <unsigned long long> length
        most = place if place > most else most
    result[0] = most


cdef bint all_within(long long* index, Py_ssize_t n, long long length) noexcept nogil:
    """Whether every index, negative or not, is valid for an axis of this length."""
    cdef unsigned long long most
    furthest(index, n, length, &most)
    return n == 0 or most < 2 * <unsigned long long> length


cdef cloned count_between(floating* x, Py_ssize_t n, floating low, floating high,
                          Py_ssize_t* result) noexcept nogil:
    cdef Py_ssize_t i, count = 0
    for i in range(n): count += (mg_abs(x[i]) >= low) & (mg_abs(x[i]) <= high)
    result[0] = count


cdef bint all_between(bint is_double, void* x, Py_ssize_t n, double low, double high) noexcept nogil:
    """Whether low <= |x| <= high for all n elements."""
    cdef Py_ssize_t count
    if is_double:
        count_between(<double*> x, n, low, high, &count)
    else:
        count_between(<float*> x, n, <float> low, <float> high, &count)
    return count == n


cdef inline void take_items(item_t* x, long long* index, Py_ssize_t length, Py_ssize_t picks,
                            Py_ssize_t inner, item_t* o) noexcept nogil:
    cdef Py_ssize_t p, i
    if inner == 1:
        for p in range(picks): o[p] = x[index[p] + (length if index[p] < 0 else 0)]
        return
    for p in range(picks):
        for i in range(inner):
            o[p * inner + i] = x[(index[p * inner + i]
                                  + (length if index[p * inner + i] < 0 else 0)) * inner + i]


cdef void take_along(char* x, long long* index, Py_ssize_t outer, Py_ssize_t length, Py_ssize_t picks,
                     Py_ssize_t inner, int itemsize, char* o) noexcept nogil:
    """o[a, p, i] = x[a, index[a, p, i], i]; a negative index counts from the end. Checked by the caller."""
    cdef Py_ssize_t _
    for _ in range(outer):
        if itemsize == 4:
            take_items(<unsigned int*> x, index, length, picks, inner, <unsigned int*> o)
        elif itemsize == 8:
            take_items(<unsigned long long*> x, index, length, picks, inner, <unsigned long long*> o)
        else:
            take_items(<unsigned char*> x, index, length, picks, inner, <unsigned char*> o)
        x += length * inner * itemsize
        o += picks * inner * itemsize
        index += picks * inner


cdef inline void add_items(floating* x, long long* index, Py_ssize_t outer, Py_ssize_t length,
                           Py_ssize_t picks, Py_ssize_t inner, floating* o) noexcept nogil:
    cdef Py_ssize_t _, p, i
    cdef long long k
    for _ in range(outer):
        if inner == 1:
            for p in range(picks): o[index[p] + (length if index[p] < 0 else 0)] += x[p]
        for p in range(picks if inner > 1 else 0):
            for i in range(inner):
                k = index[p * inner + i]
                o[(k + (length if k < 0 else 0)) * inner + i] += x[p * inner + i]
        o += length * inner
        x += picks * inner
        index += picks * inner


cdef void add_along(bint is_double, void* x, long long* index, Py_ssize_t outer, Py_ssize_t length,
                    Py_ssize_t picks, Py_ssize_t inner, void* o) noexcept nogil:
    """o[a, index[a, p, i], i] += x[a, p, i], the adjoint of `take_along`."""
    if is_double:
        add_items(<double*> x, index, outer, length, picks, inner, <double*> o)
    else:
        add_items(<float*> x, index, outer, length, picks, inner, <float*> o)


cdef inline double next_state(floating* factor, floating* x, Py_ssize_t i, double state) noexcept nogil:
    if factor != NULL:
        state = state * factor[i]
    return state if x == NULL else state + x[i]


cdef cloned scan_columns(floating* factor, floating* x, Py_ssize_t length, Py_ssize_t inner, Py_ssize_t w,
                         floating* o) noexcept nogil:
    cdef double states[TILE]
    cdef double state = 1 if x == NULL else 0
    cdef Py_ssize_t k, i
    if w == 1:                              # one chain: the state stays in a register
        for k in range(length):
            state = next_state(factor, x, k * inner, state)
            o[k * inner] = <floating> state
        return
    for i in range(w): states[i] = state
    for k in range(length):
        for i in range(w):
            states[i] = next_state(factor, x, k * inner + i, states[i])
            o[k * inner + i] = <floating> states[i]


cdef inline void scan_all(floating* factor, floating* x, Py_ssize_t outer, Py_ssize_t length,
                          Py_ssize_t inner, floating* o) noexcept nogil:
    cdef Py_ssize_t a, i, start
    for a in range(outer):
        for i from 0 <= i < inner by TILE:
            start = a * length * inner + i
            scan_columns(NULL if factor == NULL else factor + start, NULL if x == NULL else x + start, length,
                         inner, min(<Py_ssize_t> TILE, inner - i), o + start)


cdef void scan(bint is_double, void* factor, void* x, Py_ssize_t outer, Py_ssize_t length, Py_ssize_t inner,
               void* o) noexcept nogil:
    """o[a, k, i] = factor[a, k, i] * o[a, k - 1, i] + x[a, k, i], accumulated in double. factor=NULL means 1;
    x=NULL means 0, with o[a, -1, i] = 1."""
    if is_double:
        scan_all(<double*> factor, <double*> x, outer, length, inner, <double*> o)
    else:
        scan_all(<float*> factor, <float*> x, outer, length, inner, <float*> o)


# -------------------------------------------------------------------------------------- reductions
cdef enum:
    LANES = 256             # bytes of independent accumulators, so that no addition waits for the last one
    MOST_LANES = 64         # the most lanes: floats
    GROUP = 16              # rows whose lanes are folded together
    MOMENT_LANES = 16       # for sums, and as many for squares

ctypedef fused lane_t:      # the type of an accumulator: double, or the precision of x
    float
    double


cdef double reduction_start(int opcode) noexcept nogil:
    """The initial accumulator of a reduction."""
    if opcode == PROD:
        return 1
    if opcode == MAX:
        return -INFINITY
    if opcode == MIN:
        return INFINITY
    return 0


cdef inline lane_t combine(int opcode, lane_t a, lane_t x) noexcept nogil:
    if opcode == PROD:
        return a * x
    if opcode == MAX:
        return <lane_t> mg_larger(a, x)
    if opcode == MIN:
        return <lane_t> mg_smaller(a, x)
    return a + x


cdef inline lane_t combine_four(int opcode, lane_t a, lane_t x, lane_t y, lane_t z, lane_t w) noexcept nogil:
    if opcode == MAX:
        return <lane_t> mg_largest(a, x, y, z, w)
    if opcode == MIN:
        return <lane_t> mg_smallest(a, x, y, z, w)
    return combine(opcode, a, combine(opcode, combine(opcode, x, y), combine(opcode, z, w)))


cdef inline lane_t prepare(int opcode, floating x, floating y, lane_t centre) noexcept nogil:
    """The term of a reduction for the element x (and y, for a sum of products)."""
    if opcode == DIFFERENCE:
        return <lane_t> x - centre
    if opcode == DEVIATION:
        return (<lane_t> x - centre) * (<lane_t> x - centre)
    if opcode == PRODUCTS:
        return <lane_t> x * <lane_t> y
    return <lane_t> x


cdef inline inlined halve(int opcode, lane_t* a, Py_ssize_t rows, Py_ssize_t h, lane_t* b) noexcept nogil:
    """Fold rows of 2 h lanes to rows of h."""
    cdef Py_ssize_t r, k
    for r in range(rows):
        for k in range(h): b[r * h + k] = combine(opcode, a[2 * r * h + k], a[2 * r * h + h + k])


cdef inline inlined fold_rows(int opcode, floating* x, Py_ssize_t other, Py_ssize_t row_stride,
                              Py_ssize_t rows, Py_ssize_t n, double* centre, lane_t* kind,
                              double* accumulator) noexcept nogil:
    """The lanes of a row are folded as a tree, which rounds less than a chain. Its lower levels are folded in
    memory for many rows together: for one row in registers, compilers generated scalar code."""
    cdef lane_t lane[MOST_LANES]
    cdef lane_t rest[MOST_LANES]
    cdef lane_t a[GROUP * MOST_LANES]
    cdef lane_t b[GROUP * MOST_LANES]
    cdef Py_ssize_t i, k, r, height, lanes = LANES // sizeof(lane_t), whole = n - n % lanes
    cdef lane_t c, start = <lane_t> reduction_start(opcode)
    cdef floating* y
    while rows > 0:
        height = min(rows, <Py_ssize_t> GROUP)
        for r in range(height):
            y = <floating*> (<char*> x + other)
            c = <lane_t> centre[r]
            for k in range(lanes): lane[k] = start
            i = 0
            while i < whole:
                for k in range(lanes):
                    lane[k] = combine(opcode, lane[k], prepare(opcode, x[i + k], y[i + k], c))
                i += lanes
            if whole < n:                   # (in separate lanes: a variable index keeps these in memory)
                for k in range(lanes): rest[k] = start
                for k in range(n - whole): rest[k] = prepare(opcode, x[whole + k], y[whole + k], c)
                for k in range(lanes): lane[k] = combine(opcode, lane[k], rest[k])
            for k in range(lanes // 2): lane[k] = combine(opcode, lane[k], lane[k + lanes // 2])
            for k in range(lanes // 4):
                a[r * (lanes // 4) + k] = combine(opcode, lane[k], lane[k + lanes // 4])
            x = <floating*> (<char*> x + row_stride)
        halve(opcode, a, height, lanes // 8, b)
        halve(opcode, b, height, lanes // 16, a)
        halve(opcode, a, height, lanes // 32, b)
        if lanes > 32:
            halve(opcode, b, height, lanes // 64, a)
            for r in range(height): b[r] = a[r]
        for r in range(height): accumulator[r] = combine(opcode, accumulator[r], <double> b[r])
        rows -= height
        centre += height
        accumulator += height


cdef cloned row_moments(float* x, Py_ssize_t row_stride, Py_ssize_t rows, Py_ssize_t n, double* centre,
                        double* accumulator) noexcept nogil:
    """The sums of x - centre of each row and, COLUMNS further on, the sums of its squares."""
    cdef double sums[MOMENT_LANES]
    cdef double squares[MOMENT_LANES]
    cdef double d[MOMENT_LANES]
    cdef float rest[MOMENT_LANES]
    cdef double a[2 * GROUP * MOMENT_LANES]         # for each row its sums, then its squares, which are
    cdef double b[2 * GROUP * MOMENT_LANES]         # halved from one array to the other
    cdef Py_ssize_t i, k, r, height, whole = n - n % MOMENT_LANES
    cdef double c
    cdef float* y
    while rows > 0:
        height = min(rows, <Py_ssize_t> GROUP)
        for r in range(height):
            c = centre[r]
            for k in range(MOMENT_LANES): sums[k] = 0
            for k in range(MOMENT_LANES): squares[k] = 0
            for k in range(MOMENT_LANES): rest[k] = <float> c           # contributes 0
            for k in range(n - whole): rest[k] = x[whole + k]
            i = 0
            while i < n:
                y = x + i if i < whole else rest
                for k in range(MOMENT_LANES): d[k] = y[k] - c
                for k in range(MOMENT_LANES): sums[k] += d[k]
                for k in range(MOMENT_LANES): squares[k] += d[k] * d[k]
                i += MOMENT_LANES
            for k in range(MOMENT_LANES): a[2 * r * MOMENT_LANES + k] = sums[k]
            for k in range(MOMENT_LANES): a[(2 * r + 1) * MOMENT_LANES + k] = squares[k]
            x = <float*> (<char*> x + row_stride)
        halve(SUM, a, 2 * height, 8, b)
        halve(SUM, b, 2 * height, 4, a)
        halve(SUM, a, 2 * height, 2, b)
        halve(SUM, b, 2 * height, 1, a)
        for r in range(height):
            accumulator[r] += a[2 * r]
            accumulator[COLUMNS + r] += a[2 * r + 1]
        rows -= height
        centre += height
        accumulator += height


cdef cloned row_kernel(int opcode, floating* x, Py_ssize_t other, Py_ssize_t row_stride, Py_ssize_t rows,
                       Py_ssize_t n, double* centre, double* accumulator) noexcept nogil:
    cdef double* wide = NULL                # only its type matters
    cdef floating* alike = NULL             # selecting an element does not round
    if opcode == SUM: fold_rows(SUM, x, other, row_stride, rows, n, centre, wide, accumulator)
    elif opcode == PROD: fold_rows(PROD, x, other, row_stride, rows, n, centre, wide, accumulator)
    elif opcode == MAX: fold_rows(MAX, x, other, row_stride, rows, n, centre, alike, accumulator)
    elif opcode == MIN: fold_rows(MIN, x, other, row_stride, rows, n, centre, alike, accumulator)
    elif opcode == DIFFERENCE: fold_rows(DIFFERENCE, x, other, row_stride, rows, n, centre, wide, accumulator)
    elif opcode == DEVIATION: fold_rows(DEVIATION, x, other, row_stride, rows, n, centre, wide, accumulator)
    elif opcode == PRODUCTS: fold_rows(PRODUCTS, x, other, row_stride, rows, n, centre, alike, accumulator)


cdef inline inlined fold_four(int opcode, floating* x, Py_ssize_t other, Py_ssize_t row_stride,
                              double* centre, lane_t one, lane_t* accumulator, lane_t* out) noexcept nogil:
    """One column of four rows, as a tree: a chain would wait for each addition. Sums multiply by one: fused
    multiply-adds use other execution units than conversions to double, and round like additions. (Without
    such an instruction the multiplication is wasted.)"""
    cdef floating* x1 = <floating*> (<char*> x + row_stride)
    cdef floating* x2 = <floating*> (<char*> x + 2 * row_stride)
    cdef floating* x3 = <floating*> (<char*> x + 3 * row_stride)
    cdef floating* y = <floating*> (<char*> x + other)
    cdef floating* y1 = <floating*> (<char*> x1 + other)
    cdef floating* y2 = <floating*> (<char*> x2 + other)
    cdef floating* y3 = <floating*> (<char*> x3 + other)
    cdef lane_t a = accumulator[0], c = <lane_t> centre[0]
    if opcode == PRODUCTS:                  # in the precision of x, because two conversions would be slow
        out[0] = a + <lane_t> ((x[0] * y[0] + x1[0] * y1[0]) + (x2[0] * y2[0] + x3[0] * y3[0]))
    elif opcode == SUM:
        out[0] = a * one + ((x[0] * one + x1[0]) * one + (x2[0] * one + x3[0]))
    else:
        out[0] = combine_four(
            opcode, a, prepare(opcode, x[0], y[0], c), prepare(opcode, x1[0], y1[0], c),
            prepare(opcode, x2[0], y2[0], c), prepare(opcode, x3[0], y3[0], c))


cdef inline inlined fold_columns(int opcode, floating* x, Py_ssize_t other, Py_ssize_t row_stride,
                                 Py_ssize_t rows, Py_ssize_t n, double* centre,
                                 lane_t* accumulator) noexcept nogil:
    cdef Py_ssize_t i, r = 0
    cdef floating* y
    cdef lane_t a0, a1, a2, a3, one = <lane_t> mg_one
    while r + 4 <= rows:                    # four rows at once: a quarter of the traffic to the accumulators
        i = 0
        if lane_t is double and floating is float:
            while i + 4 <= n:               # straight-line code converts four floats from memory at once
                fold_four(opcode, x + i, other, row_stride, centre + i, one, accumulator + i, &a0)
                fold_four(opcode, x + i + 1, other, row_stride, centre + i + 1, one, accumulator + i + 1, &a1)
                fold_four(opcode, x + i + 2, other, row_stride, centre + i + 2, one, accumulator + i + 2, &a2)
                fold_four(opcode, x + i + 3, other, row_stride, centre + i + 3, one, accumulator + i + 3, &a3)
                accumulator[i], accumulator[i + 1], accumulator[i + 2], accumulator[i + 3] = a0, a1, a2, a3
                mg_straight_line()
                i += 4
        for i in range(i, n):
            fold_four(opcode, x + i, other, row_stride, centre + i, one, accumulator + i, &a0)
            accumulator[i] = a0
        x = <floating*> (<char*> x + 4 * row_stride)
        r += 4
    while r < rows:
        y = <floating*> (<char*> x + other)
        for i in range(n):
            accumulator[i] = combine(opcode, accumulator[i], prepare(opcode, x[i], y[i], <lane_t> centre[i]))
        x = <floating*> (<char*> x + row_stride)
        r += 1


cdef inline inlined four_moments(float* x, Py_ssize_t row_stride, double c, double one, double* sum,
                                 double* square) noexcept nogil:
    """The moments of one column of four rows."""
    cdef double d = x[0] - c
    cdef double d1 = (<float*> (<char*> x + row_stride))[0] - c
    cdef double d2 = (<float*> (<char*> x + 2 * row_stride))[0] - c
    cdef double d3 = (<float*> (<char*> x + 3 * row_stride))[0] - c
    sum[0] = sum[0] * one + ((d * one + d1) * one + (d2 * one + d3))
    square[0] = square[0] + ((d * d + d1 * d1) + (d2 * d2 + d3 * d3))


cdef cloned column_moments(float* x, Py_ssize_t row_stride, Py_ssize_t rows, Py_ssize_t n, double* centre,
                           double* accumulator) noexcept nogil:
    """Like `row_moments`, for columns."""
    cdef double* squares = accumulator + COLUMNS
    cdef double s0, s1, s2, s3, q0, q1, q2, q3, one = mg_one
    cdef Py_ssize_t i, r = 0
    while r + 4 <= rows:
        i = 0
        while i + 4 <= n:                   # straight-line code, as in fold_columns
            s0, s1, s2, s3 = accumulator[i], accumulator[i + 1], accumulator[i + 2], accumulator[i + 3]
            q0, q1, q2, q3 = squares[i], squares[i + 1], squares[i + 2], squares[i + 3]
            four_moments(x + i, row_stride, centre[i], one, &s0, &q0)
            four_moments(x + i + 1, row_stride, centre[i + 1], one, &s1, &q1)
            four_moments(x + i + 2, row_stride, centre[i + 2], one, &s2, &q2)
            four_moments(x + i + 3, row_stride, centre[i + 3], one, &s3, &q3)
            accumulator[i], accumulator[i + 1], accumulator[i + 2], accumulator[i + 3] = s0, s1, s2, s3
            squares[i], squares[i + 1], squares[i + 2], squares[i + 3] = q0, q1, q2, q3
            mg_straight_line()
            i += 4
        for i in range(i, n): four_moments(x + i, row_stride, centre[i], one, accumulator + i, squares + i)
        x = <float*> (<char*> x + 4 * row_stride)
        r += 4
    while r < rows:
        for i in range(n):
            accumulator[i] += x[i] - centre[i]
            squares[i] += (x[i] - centre[i]) * (x[i] - centre[i])
        x = <float*> (<char*> x + row_stride)
        r += 1


cdef inline inlined column_extremum(int opcode, floating* x, Py_ssize_t other, Py_ssize_t row_stride,
                                    Py_ssize_t rows, Py_ssize_t n, double* centre,
                                    double* accumulator) noexcept nogil:
    """The extremum in the precision of x; n is at most COLUMNS."""
    cdef floating best[COLUMNS]
    cdef Py_ssize_t i
    for i in range(n): best[i] = <floating> accumulator[i]
    fold_columns(opcode, x, other, row_stride, rows, n, centre, <floating*> best)
    for i in range(n): accumulator[i] = best[i]


cdef cloned column_kernel(int opcode, floating* x, Py_ssize_t other, Py_ssize_t row_stride, Py_ssize_t rows,
                          Py_ssize_t n, double* centre, double* accumulator) noexcept nogil:
    if opcode == SUM: fold_columns(SUM, x, other, row_stride, rows, n, centre, accumulator)
    elif opcode == PROD: fold_columns(PROD, x, other, row_stride, rows, n, centre, accumulator)
    elif opcode == MAX: column_extremum(MAX, x, other, row_stride, rows, n, centre, accumulator)
    elif opcode == MIN: column_extremum(MIN, x, other, row_stride, rows, n, centre, accumulator)
    elif opcode == DIFFERENCE: fold_columns(DIFFERENCE, x, other, row_stride, rows, n, centre, accumulator)
    elif opcode == DEVIATION: fold_columns(DEVIATION, x, other, row_stride, rows, n, centre, accumulator)
    elif opcode == PRODUCTS: fold_columns(PRODUCTS, x, other, row_stride, rows, n, centre, accumulator)


cdef void reduce_rows(int opcode, bint is_double, void* x, Py_ssize_t other, Py_ssize_t row_stride,
                      Py_ssize_t rows, Py_ssize_t n, double* centre, double* accumulator) noexcept nogil:
    """Fold rows of n contiguous elements, `row_stride` bytes apart, each into its own accumulator. PRODUCTS
    sums x times the element `other` bytes after it; MOMENTS, for floats only, has two accumulators, the
    second COLUMNS after the first."""
    if opcode == MOMENTS:
        row_moments(<float*> x, row_stride, rows, n, centre, accumulator)
    elif is_double:
        row_kernel(opcode, <double*> x, other, row_stride, rows, n, centre, accumulator)
    else:
        row_kernel(opcode, <float*> x, other, row_stride, rows, n, centre, accumulator)


cdef void reduce_columns(int opcode, bint is_double, void* x, Py_ssize_t other, Py_ssize_t row_stride,
                         Py_ssize_t rows, Py_ssize_t n, double* centre, double* accumulator) noexcept nogil:
    """Fold rows of n contiguous elements, `row_stride` bytes apart, into n accumulators, one per column."""
    if opcode == MOMENTS:
        column_moments(<float*> x, row_stride, rows, n, centre, accumulator)
    elif is_double:
        column_kernel(opcode, <double*> x, other, row_stride, rows, n, centre, accumulator)
    else:
        column_kernel(opcode, <float*> x, other, row_stride, rows, n, centre, accumulator)


# -------------------------------------------------------------------------------- running averages
cdef cloned blend(floating* x, floating* o, Py_ssize_t n, floating keep, floating gain) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(n): o[i] = keep * o[i] + gain * x[i]


cdef void blend_into(bint is_double, void* x, void* out, Py_ssize_t n, double keep,
                     double gain) noexcept nogil:
    """out = keep * out + gain * x, the step of a running average."""
    if is_double:
        blend(<double*> x, <double*> out, n, keep, gain)
    else:
        blend(<float*> x, <float*> out, n, <float> keep, <float> gain)
