/* The product of two matrices, for one instruction set and one precision. matmul.h includes this file once for
 * each: MG_NAME(x) adds a prefix to each name, MG_TARGET is the attribute that enables the instructions, MG_REAL
 * the type of an element, MG_LANES the elements of a vector, MG_HEIGHT the rows of a tile (at least 4).
 *
 * A tile of MG_HEIGHT rows by two vectors of the output stays in registers while the inner dimension is
 * walked: each step is one row of b, and a multiply-add for each row of a. Rows of b that are not contiguous
 * (b is a transpose), or too short for a vector, are first copied to a panel in the cache; a b
 * that many products share (the weight of a recurrent layer) can be packed into panels once, before.
 * A large product is computed in blocks whose operands are both packed (`block`). Either way an element is a
 * chain of multiply-adds in the order of the inner dimension, broken every MG_CHAIN terms: the same bits. */

typedef MG_REAL MG_NAME(vector) __attribute__((vector_size(sizeof(MG_REAL) * MG_LANES), aligned(sizeof(MG_REAL)),
                                               may_alias));
typedef struct { const MG_REAL* data; ptrdiff_t row, column; } MG_NAME(matrix);

/* R rows by V vectors of the output: start + a @ panel, or with `add` out + a @ panel, summed before it is
 * added. All loops over r and v have constant bounds, and unroll. */
static inline __attribute__((always_inline)) void MG_NAME(tile)(
        const int R, const int V, MG_NAME(matrix) a, const MG_REAL* panel, ptrdiff_t step, MG_NAME(matrix) start,
        MG_REAL* out, ptrdiff_t out_row, ptrdiff_t inner, ptrdiff_t columns, const int add)
{
    MG_NAME(vector) sum[MG_HEIGHT][2], b[2];
    MG_REAL edge[MG_HEIGHT][2 * MG_LANES];  /* for the tile at the right edge, which may have fewer columns */
    const int whole = columns == MG_LANES * V;
    MG_REAL* to = whole ? out : edge[0];
    const ptrdiff_t to_row = whole ? out_row : 2 * MG_LANES;
    if (!whole && start.row) {
        for (int r = 0; r < R; r++) memcpy(edge[r], start.data + r * start.row, columns * sizeof(MG_REAL));
        start.data = edge[0];
        start.row = 2 * MG_LANES;
    }
    #pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        #pragma GCC unroll 2
        for (int v = 0; v < V; v++)
            if (add) sum[r][v] = (MG_NAME(vector)) {0};
            else sum[r][v] = *(const MG_NAME(vector)*) (start.data + r * start.row + MG_LANES * v);
    }
    for (ptrdiff_t k = 0; k < inner; k++) {
        #pragma GCC unroll 2
        for (int v = 0; v < V; v++) b[v] = *(const MG_NAME(vector)*) (panel + k * step + MG_LANES * v);
        #pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const MG_REAL x = a.data[r * a.row + k * a.column];
            #pragma GCC unroll 2
            for (int v = 0; v < V; v++) sum[r][v] += x * b[v];
        }
    }
    #pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        #pragma GCC unroll 2
        for (int v = 0; v < V; v++) {
            if (add) sum[r][v] += *(const MG_NAME(vector)*) (start.data + r * start.row + MG_LANES * v);
            *(MG_NAME(vector)*) (to + r * to_row + MG_LANES * v) = sum[r][v];
        }
    }
    if (!whole)
        for (int r = 0; r < R; r++) memcpy(out + r * out_row, edge[r], columns * sizeof(MG_REAL));
}

/* Fetch a share of the next panel into the second cache, and the output of the next tile into the first, while a tile
 * is computed: they come from the third (2048 x 2048 floats: 0.8 to 0.9 of the time, with 240 rows in a block). */
static inline __attribute__((always_inline)) const char* MG_NAME(fetch)(
        const char* panel, ptrdiff_t share, const MG_REAL* out, ptrdiff_t out_row, ptrdiff_t rows, const int V)
{
    if (!panel) return NULL;
    for (ptrdiff_t t = 0; t < share; t += 64) __builtin_prefetch(panel + t, 0, 2);
    for (ptrdiff_t r = 0; r < MG_HEIGHT && r < rows; r++) {
        __builtin_prefetch(out + r * out_row, 1, 3);
        __builtin_prefetch(out + r * out_row + MG_LANES * V - 1, 1, 3);
    }
    return panel + share;
}

static inline __attribute__((always_inline)) void MG_NAME(rows)(
        const int V, MG_NAME(matrix) a, const ptrdiff_t a_tile, const MG_REAL* panel, ptrdiff_t step,
        MG_NAME(matrix) start, MG_REAL* out, ptrdiff_t out_row, ptrdiff_t rows, ptrdiff_t inner,
        ptrdiff_t columns, const int add, const char* next)
{
    const ptrdiff_t tiles = rows / MG_HEIGHT + 1, share = MG_LANES * V * inner * sizeof(MG_REAL) / tiles / 64 * 64 + 64;
    ptrdiff_t i = 0;
    for (; i + MG_HEIGHT <= rows; i += MG_HEIGHT, a.data += a_tile, start.data += MG_HEIGHT * start.row) {
        next = MG_NAME(fetch)(next, share, out + (i + MG_HEIGHT) * out_row, out_row, rows - i - MG_HEIGHT, V);
        MG_NAME(tile)(MG_HEIGHT, V, a, panel, step, start, out + i * out_row, out_row, inner, columns, add);
    }
    if (i + 4 <= rows) {
        MG_NAME(tile)(4, V, a, panel, step, start, out + i * out_row, out_row, inner, columns, add);
        i += 4;
        a.data += 4 * a.row;
        start.data += 4 * start.row;
    }
    for (; i < rows; i++, a.data += a.row, start.data += start.row)
        MG_NAME(tile)(1, V, a, panel, step, start, out + i * out_row, out_row, inner, columns, add);
}

/* Copy `width` columns of b to a panel that is `wide` (a constant) columns wide, the rest zeros. */
static inline __attribute__((always_inline)) void MG_NAME(pack)(
        MG_NAME(matrix) b, ptrdiff_t inner, ptrdiff_t width, const ptrdiff_t wide, MG_REAL* panel)
{
    ptrdiff_t k, t;
    if (b.column == 1 && width == wide && wide % MG_LANES == 0)
        for (k = 0; k < inner; k++)
            for (t = 0; t < wide; t += MG_LANES)    /* (memcpy uses smaller vectors) */
                *(MG_NAME(vector)*) (panel + k * wide + t) = *(const MG_NAME(vector)*) (b.data + k * b.row + t);
    else if (b.column == 1)
        for (k = 0; k < inner; k++) memcpy(panel + k * wide, b.data + k * b.row, width * sizeof(MG_REAL));
    else {
        const ptrdiff_t whole = b.row == 1 && sizeof(MG_REAL) == 4 ? inner - inner % 4 : 0;
        const ptrdiff_t fours = width - width % 4;
        for (k = 0; k < whole; k += 4)
            for (t = 0; t < fours; t += 4)
                mg_transpose((const float*) (b.data + t * b.column + k), b.column,
                             (float*) (panel + k * wide + t), wide);
        for (k = 0; k < inner; k++)
            for (t = k < whole ? fours : 0; t < width; t++)
                panel[k * wide + t] = b.data[k * b.row + t * b.column];
    }
    if (width < wide)
        for (k = 0; k < inner; k++)
            for (t = width; t < wide; t++) panel[k * wide + t] = 0;
}

/* The width of the panel that starts at column j. */
static inline ptrdiff_t MG_NAME(wide)(ptrdiff_t j, ptrdiff_t columns)
{
    return columns - j > MG_LANES ? 2 * MG_LANES : MG_LANES;
}

static inline __attribute__((always_inline)) void MG_NAME(pack_panel)(
        MG_NAME(matrix) b, ptrdiff_t j, ptrdiff_t inner, ptrdiff_t columns, MG_REAL* panel)
{
    const ptrdiff_t wide = MG_NAME(wide)(j, columns), width = columns - j < wide ? columns - j : wide;
    b.data += j * b.column;
    if (wide == MG_LANES) MG_NAME(pack)(b, inner, width, MG_LANES, panel);
    else MG_NAME(pack)(b, inner, width, 2 * MG_LANES, panel);
}

MG_TARGET static void MG_NAME(pack_panels)(mg_matrix matrix, ptrdiff_t inner, ptrdiff_t columns, void* panels)
{
    const MG_NAME(matrix) b = {matrix.data, matrix.row, matrix.column};
    for (ptrdiff_t j = 0; j < columns; j += 2 * MG_LANES)
        MG_NAME(pack_panel)(b, j, inner, columns, (MG_REAL*) panels + j * inner);
}

MG_TARGET static void MG_NAME(matmul)(mg_matrix left, mg_matrix right, const void* packed_before, mg_matrix first,
                                      void* target, ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns)
{
    const MG_NAME(matrix) a = {left.data, left.row, left.column}, b = {right.data, right.row, right.column};
    const MG_NAME(matrix) start = {first.data, first.row, 1};
    const MG_REAL* panels = packed_before;
    MG_REAL* out = target;
    MG_REAL on_stack[MG_STACK * 2 * MG_LANES], bias[2 * MG_LANES] = {0};
    MG_REAL* packed = panels || inner <= MG_STACK ? on_stack : malloc(inner * 2 * MG_LANES * sizeof(MG_REAL));
    /* Rows of b 1 KiB apart, or 2, ..., share few sets of the first cache (512 doubles: twice the time). */
    const int collide = rows >= 8 * MG_HEIGHT && b.row * sizeof(MG_REAL) % 1024 == 0;
    ptrdiff_t j, t, wide, width;
    if (!packed) {          /* no memory: several steps, with their panels on the stack */
        mg_matrix x = left, y = right, so_far = {target, columns, 1};
        for (ptrdiff_t k = 0; k < inner; k += MG_STACK) {
            x.data = a.data + k * a.column;
            y.data = b.data + k * b.row;
            MG_NAME(matmul)(x, y, NULL, k ? so_far : first, target, rows, inner - k < MG_STACK ? inner - k : MG_STACK,
                            columns);
        }
        return;
    }
    for (j = 0; j < columns; j += wide) {
        MG_NAME(matrix) panel = {b.data + j * b.column, b.row, b.column};
        MG_NAME(matrix) begin = {bias, start.row, 1};
        wide = MG_NAME(wide)(j, columns);
        width = columns - j < wide ? columns - j : wide;
        if (start.row) begin.data = start.data + j;
        else if (start.data) for (t = 0; t < wide; t++) bias[t] = t < width ? start.data[j + t] : 0;
        if (panels) {
            panel.data = panels + j * inner;
            panel.row = wide;
        } else if (b.column != 1 || width < wide || collide) {
            MG_NAME(pack_panel)(b, j, inner, columns, packed);
            panel.data = packed;
            panel.row = wide;
        }
        if (wide == MG_LANES)
            MG_NAME(rows)(1, a, MG_HEIGHT * a.row, panel.data, panel.row, begin, out + j, columns, rows, inner,
                          width, 0, NULL);
        else MG_NAME(rows)(2, a, MG_HEIGHT * a.row, panel.data, panel.row, begin, out + j, columns, rows, inner,
                           width, 0, NULL);
    }
    if (packed != on_stack) free(packed);
}

/* Copy a block of a to tiles of MG_HEIGHT rows, each in the order in which the kernel reads it. */
MG_TARGET static void MG_NAME(pack_rows)(mg_matrix matrix, ptrdiff_t rows, ptrdiff_t inner, void* block)
{
    MG_NAME(matrix) a = {matrix.data, matrix.row, matrix.column};
    MG_REAL* packed = block;
    for (ptrdiff_t i = 0; i < rows; i += MG_HEIGHT, a.data += MG_HEIGHT * a.row, packed += MG_HEIGHT * inner) {
        const MG_NAME(matrix) columns = {a.data, a.column, a.row};      /* its rows are the columns to pack */
        if (rows - i < MG_HEIGHT) MG_NAME(pack)(columns, inner, rows - i, MG_HEIGHT, packed);
        else MG_NAME(pack)(columns, inner, MG_HEIGHT, MG_HEIGHT, packed);
    }
}

/* A block of the output, whose first column is that of a panel: start + the packed rows @ the panels, of which it
 * uses steps from `from` on, of `whole` steps; with `add` the product is summed before it is added. */
MG_TARGET static void MG_NAME(block)(const void* packed, const void* panels, ptrdiff_t whole, ptrdiff_t from,
                                     mg_matrix first, void* target, ptrdiff_t out_row, ptrdiff_t rows,
                                     ptrdiff_t inner, ptrdiff_t columns, int add)
{
    const MG_NAME(matrix) a = {packed, 1, MG_HEIGHT};
    const ptrdiff_t a_tile = MG_HEIGHT * inner;
    const MG_REAL* start = first.data;
    MG_REAL* out = target;
    MG_REAL bias[2 * MG_LANES];
    for (ptrdiff_t j = 0; j < columns; j += 2 * MG_LANES) {
        const ptrdiff_t wide = MG_NAME(wide)(j, columns), width = columns - j < wide ? columns - j : wide;
        const MG_REAL* panel = (const MG_REAL*) panels + j * whole + from * wide;
        MG_NAME(matrix) begin = {start + j, first.row, 1};
        const char* next = j + wide < columns ? (const char*) (panel + wide * whole) : NULL;
        if (!first.row) {
            for (ptrdiff_t t = 0; t < wide; t++) bias[t] = start && t < width ? start[j + t] : 0;
            begin.data = bias;
        }
        if (wide == MG_LANES) {
            if (add)
                MG_NAME(rows)(1, a, a_tile, panel, MG_LANES, begin, out + j, out_row, rows, inner, width, 1, next);
            else MG_NAME(rows)(1, a, a_tile, panel, MG_LANES, begin, out + j, out_row, rows, inner, width, 0, next);
        } else {
            if (add)
                MG_NAME(rows)(2, a, a_tile, panel, 2 * MG_LANES, begin, out + j, out_row, rows, inner, width, 1, next);
            else MG_NAME(rows)(2, a, a_tile, panel, 2 * MG_LANES, begin, out + j, out_row, rows, inner, width, 0, next);
        }
    }
}

/* The dot products of long rows and short rows, all contiguous: out[l * out_long + s * out_short] =
 * start[l * start.row + s * start.column] + long_[l] . short_[s]. For outputs narrower than a vector. */
MG_TARGET static void MG_NAME(dots)(mg_matrix long_, mg_matrix short_, mg_matrix first, void* target,
                                    ptrdiff_t out_long, ptrdiff_t out_short, ptrdiff_t longs, ptrdiff_t inner,
                                    ptrdiff_t shorts)
{
    const MG_REAL* start = first.data;
    MG_REAL* out = target;
    const ptrdiff_t whole = inner - inner % MG_LANES;
    for (ptrdiff_t l = 0; l < longs; l += 4) {
        const ptrdiff_t n = longs - l < 4 ? longs - l : 4;
        const MG_REAL* a[4];
        for (ptrdiff_t i = 0; i < 4; i++) a[i] = (const MG_REAL*) long_.data + (l + (i < n ? i : 0)) * long_.row;
        for (ptrdiff_t s = 0; s < shorts; s++) {
            const MG_REAL* b = (const MG_REAL*) short_.data + s * short_.row;
            MG_NAME(vector) sum[4] = {{0}};
            MG_REAL rest[4] = {0};
            for (ptrdiff_t k = 0; k < whole; k += MG_LANES) {
                const MG_NAME(vector) y = *(const MG_NAME(vector)*) (b + k);
                #pragma GCC unroll 4
                for (int i = 0; i < 4; i++) sum[i] += *(const MG_NAME(vector)*) (a[i] + k) * y;
            }
            for (ptrdiff_t k = whole; k < inner; k++)
                for (int i = 0; i < 4; i++) rest[i] += a[i][k] * b[k];
            for (ptrdiff_t i = 0; i < n; i++) {
                for (int v = 0; v < MG_LANES; v++) rest[i] += sum[i][v];
                out[(l + i) * out_long + s * out_short] =
                    rest[i] + (start ? start[(l + i) * first.row + s * first.column] : 0);
            }
        }
    }
}

#undef MG_NAME
#undef MG_TARGET
#undef MG_REAL
#undef MG_LANES
#undef MG_HEIGHT
