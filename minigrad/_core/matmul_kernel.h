/* The product of two float32 matrices, for one instruction set: matmul.h includes this file once for each,
 * with MG_NAME(x) giving each name its own ending, MG_TARGET the attribute that allows the instructions,
 * MG_LANES the floats of a vector, MG_HEIGHT the rows of a tile (at least 4).
 *
 * A tile of MG_HEIGHT rows by two vectors of the output stays in registers while the inner dimension is
 * walked: each step is one row of b, and a multiply-add for each row of a. Columns of b that are not contiguous
 * (b is a transpose), far apart, or too few for a vector, are first copied to a panel in the cache; a b
 * that many products share (the weight of a recurrent layer) can be packed into panels once, before. */

typedef float MG_NAME(vector) __attribute__((vector_size(4 * MG_LANES), aligned(4), may_alias));

/* R rows by V vectors of the output. All loops over r and v have constant bounds, and unroll. */
static inline __attribute__((always_inline)) void MG_NAME(tile)(
        const int R, const int V, mg_matrix a, const float* panel, ptrdiff_t step, mg_matrix start,
        float* out, ptrdiff_t out_row, ptrdiff_t inner, ptrdiff_t columns)
{
    MG_NAME(vector) sum[MG_HEIGHT][2], b[2];
    float edge[MG_HEIGHT][2 * MG_LANES];    /* the tile at the right edge, which may have fewer columns */
    const int whole = columns == MG_LANES * V;
    float* to = whole ? out : edge[0];
    const ptrdiff_t to_row = whole ? out_row : 2 * MG_LANES;
    if (!whole && start.row) {
        for (int r = 0; r < R; r++) memcpy(edge[r], start.data + r * start.row, columns * sizeof(float));
        start.data = edge[0];
        start.row = 2 * MG_LANES;
    }
    #pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        #pragma GCC unroll 2
        for (int v = 0; v < V; v++)
            sum[r][v] = *(const MG_NAME(vector)*) (start.data + r * start.row + MG_LANES * v);
    }
    for (ptrdiff_t k = 0; k < inner; k++) {
        #pragma GCC unroll 2
        for (int v = 0; v < V; v++) b[v] = *(const MG_NAME(vector)*) (panel + k * step + MG_LANES * v);
        #pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const float x = a.data[r * a.row + k * a.column];
            #pragma GCC unroll 2
            for (int v = 0; v < V; v++) sum[r][v] += x * b[v];
        }
    }
    #pragma GCC unroll 8
    for (int r = 0; r < R; r++) {
        #pragma GCC unroll 2
        for (int v = 0; v < V; v++) *(MG_NAME(vector)*) (to + r * to_row + MG_LANES * v) = sum[r][v];
    }
    if (!whole)
        for (int r = 0; r < R; r++) memcpy(out + r * out_row, edge[r], columns * sizeof(float));
}

static inline __attribute__((always_inline)) void MG_NAME(rows)(
        const int V, mg_matrix a, const float* panel, ptrdiff_t step, mg_matrix start, float* out,
        ptrdiff_t out_row, ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns)
{
    ptrdiff_t i = 0;
    for (; i + MG_HEIGHT <= rows; i += MG_HEIGHT, a.data += MG_HEIGHT * a.row, start.data += MG_HEIGHT * start.row)
        MG_NAME(tile)(MG_HEIGHT, V, a, panel, step, start, out + i * out_row, out_row, inner, columns);
    if (i + 4 <= rows) {
        MG_NAME(tile)(4, V, a, panel, step, start, out + i * out_row, out_row, inner, columns);
        i += 4;
        a.data += 4 * a.row;
        start.data += 4 * start.row;
    }
    for (; i < rows; i++, a.data += a.row, start.data += start.row)
        MG_NAME(tile)(1, V, a, panel, step, start, out + i * out_row, out_row, inner, columns);
}

/* Copy `width` columns of b to a panel that is `wide` (a constant) columns wide, the rest zeros. */
static inline __attribute__((always_inline)) void MG_NAME(pack)(
        mg_matrix b, ptrdiff_t inner, ptrdiff_t width, const ptrdiff_t wide, float* panel)
{
    ptrdiff_t k, t;
    if (b.column == 1)
        for (k = 0; k < inner; k++) memcpy(panel + k * wide, b.data + k * b.row, width * sizeof(float));
    else {
        const ptrdiff_t whole = b.row == 1 ? inner - inner % 4 : 0, fours = width - width % 4;
        for (k = 0; k < whole; k += 4)
            for (t = 0; t < fours; t += 4)
                mg_transpose(b.data + t * b.column + k, b.column, panel + k * wide + t, wide);
        for (k = 0; k < inner; k++)
            for (t = k < whole ? fours : 0; t < width; t++)
                panel[k * wide + t] = b.data[k * b.row + t * b.column];
    }
    if (width < wide)
        for (k = 0; k < inner; k++)
            for (t = width; t < wide; t++) panel[k * wide + t] = 0;
}

/* How many columns the panel that starts at column j has room for. */
static inline ptrdiff_t MG_NAME(wide)(ptrdiff_t j, ptrdiff_t columns)
{
    return columns - j > MG_LANES ? 2 * MG_LANES : MG_LANES;
}

static inline __attribute__((always_inline)) void MG_NAME(pack_panel)(
        mg_matrix b, ptrdiff_t j, ptrdiff_t inner, ptrdiff_t columns, float* panel)
{
    const ptrdiff_t wide = MG_NAME(wide)(j, columns), width = columns - j < wide ? columns - j : wide;
    b.data += j * b.column;
    if (wide == MG_LANES) MG_NAME(pack)(b, inner, width, MG_LANES, panel);
    else MG_NAME(pack)(b, inner, width, 2 * MG_LANES, panel);
}

MG_TARGET static void MG_NAME(pack_panels)(mg_matrix b, ptrdiff_t inner, ptrdiff_t columns, float* panels)
{
    for (ptrdiff_t j = 0; j < columns; j += 2 * MG_LANES)
        MG_NAME(pack_panel)(b, j, inner, columns, panels + j * inner);
}

MG_TARGET static int MG_NAME(matmul)(mg_matrix a, mg_matrix b, const float* panels, mg_matrix start, float* out,
                                     ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns)
{
    float on_stack[MG_STACK * 2 * MG_LANES], bias[2 * MG_LANES];
    float* packed = panels || inner <= MG_STACK ? on_stack : malloc(inner * 2 * MG_LANES * sizeof(float));
    ptrdiff_t j, t, wide, width;
    if (!packed) return 0;
    for (j = 0; j < columns; j += wide) {
        mg_matrix panel = {b.data + j * b.column, b.row, b.column};
        mg_matrix begin = {bias, start.row, 1};
        wide = MG_NAME(wide)(j, columns);
        width = columns - j < wide ? columns - j : wide;
        if (start.row) begin.data = start.data + j;
        else for (t = 0; t < wide; t++) bias[t] = start.data && t < width ? start.data[j + t] : 0;
        if (panels) {
            panel.data = panels + j * inner;
            panel.row = wide;
        } else if (b.column != 1 || width < wide || b.row > MG_APART) {
            MG_NAME(pack_panel)(b, j, inner, columns, packed);
            panel.data = packed;
            panel.row = wide;
        }
        if (wide == MG_LANES)
            MG_NAME(rows)(1, a, panel.data, panel.row, begin, out + j, columns, rows, inner, width);
        else MG_NAME(rows)(2, a, panel.data, panel.row, begin, out + j, columns, rows, inner, width);
    }
    if (packed != on_stack) free(packed);
    return 1;
}

#undef MG_NAME
#undef MG_TARGET
#undef MG_LANES
#undef MG_HEIGHT
