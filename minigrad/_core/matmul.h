/* Matrix products of small and middle size, float32: out = start + a @ b.
 *
 * A tile of 8 rows by 32 columns of the output stays in registers while the inner dimension is walked:
 * each step is one row of b, and a multiply-add for each row of a. Columns of b that are not contiguous
 * (b is a transpose), far apart, or too few for a vector, are first copied to a panel in the cache; a b
 * that many products share (the weight of a recurrent layer) can be packed into panels once, before.
 *
 * Measured against np.dot with OpenBLAS 0.3.31, AVX-512, ratio of times (benchmarks/run.py products):
 * 100x16 @ 16x16 0.9, 32x64 @ 64x64 1.0, the same with b transposed 0.75; 512x193 @ 193x32 0.84,
 * 193x512 @ 512x32 with a transposed 0.78, 128x784 @ 784x256 with b transposed 0.9. Beyond the second
 * cache BLAS is as fast or faster, and for fewer than 12 rows or columns. Both come to 57e9
 * multiply-adds a second there, what the processor's one unit for 512 bits can do. The width of a panel
 * is a constant where it is packed: as a variable it took a quarter longer. 32x128 @ 128x512 with b
 * transposed took 64 us, with panels packed before 42; for 4 rows 29 and 7 us.
 * The vectors are those of gcc and clang; a compiler without them leaves every product to BLAS. */
#ifndef MINIGRAD_MATMUL_H
#define MINIGRAD_MATMUL_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include "clones.h"

enum { MG_LANES = 16 };
#define MG_STACK 128        /* inner sizes up to this have their panel, 16 KiB, on the stack */
#define MG_INNER 1024       /* the longest inner dimension: a panel of 128 KiB */
#define MG_CACHED (1 << 18) /* elements of an operand that stay in the second cache */
#define MG_APART 128        /* rows of b that lie further apart than so many elements are packed */

typedef struct { const float* data; ptrdiff_t row, column; } mg_matrix;   /* strides in elements */

#if defined(__GNUC__)
typedef float mg_vector __attribute__((vector_size(64), aligned(4), may_alias));

/* R rows by V vectors of the output. All loops over r and v have constant bounds, and unroll. */
static inline __attribute__((always_inline)) void mg_tile(
        const int R, const int V, mg_matrix a, const float* panel, ptrdiff_t step, mg_matrix start,
        float* out, ptrdiff_t out_row, ptrdiff_t inner, ptrdiff_t columns)
{
    mg_vector sum[8][2], b[2];
    #pragma GCC unroll 8
    for (int r = 0; r < R; r++)
        if (columns == MG_LANES * V || start.row == 0) {
            #pragma GCC unroll 2
            for (int v = 0; v < V; v++)
                sum[r][v] = *(const mg_vector*) (start.data + r * start.row + MG_LANES * v);
        } else {
            memset(sum[r], 0, sizeof sum[r]);
            memcpy(sum[r], start.data + r * start.row, columns * sizeof(float));
        }
    for (ptrdiff_t k = 0; k < inner; k++) {
        #pragma GCC unroll 2
        for (int v = 0; v < V; v++) b[v] = *(const mg_vector*) (panel + k * step + MG_LANES * v);
        #pragma GCC unroll 8
        for (int r = 0; r < R; r++) {
            const float x = a.data[r * a.row + k * a.column];
            #pragma GCC unroll 2
            for (int v = 0; v < V; v++) sum[r][v] += x * b[v];
        }
    }
    #pragma GCC unroll 8
    for (int r = 0; r < R; r++)
        if (columns == MG_LANES * V) {
            #pragma GCC unroll 2
            for (int v = 0; v < V; v++) *(mg_vector*) (out + r * out_row + MG_LANES * v) = sum[r][v];
        } else memcpy(out + r * out_row, sum[r], columns * sizeof(float));
}

static inline __attribute__((always_inline)) void mg_rows(
        const int V, mg_matrix a, const float* panel, ptrdiff_t step, mg_matrix start, float* out,
        ptrdiff_t out_row, ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns)
{
    ptrdiff_t i = 0;
    for (; i + 8 <= rows; i += 8, a.data += 8 * a.row, start.data += 8 * start.row)
        mg_tile(8, V, a, panel, step, start, out + i * out_row, out_row, inner, columns);
    if (i + 4 <= rows) {
        mg_tile(4, V, a, panel, step, start, out + i * out_row, out_row, inner, columns);
        i += 4;
        a.data += 4 * a.row;
        start.data += 4 * start.row;
    }
    for (; i < rows; i++, a.data += a.row, start.data += start.row)
        mg_tile(1, V, a, panel, step, start, out + i * out_row, out_row, inner, columns);
}

/* Whether mg_matmul takes a product of these sizes: narrow outputs would waste most lanes. */
static inline int mg_takes(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns)
{
    if (columns < MG_LANES - 4 || inner > MG_INNER) return 0;
    if (rows * inner * columns <= 40000) return 1;      /* what a call of BLAS costs */
    return rows >= 12 && inner >= 12 && rows * inner <= MG_CACHED && inner * columns <= MG_CACHED;
}

/* Whether a b that many products share is worth packing: any number of rows, and any number of columns, as
 * a product reads the panels one after the other. */
static inline int mg_takes_panels(ptrdiff_t inner, ptrdiff_t columns)
{
    return columns >= MG_LANES - 4 && inner <= MG_INNER;
}

/* Copy `width` columns of b to a panel that is `wide` (a constant) columns wide, the rest zeros. */
static inline __attribute__((always_inline)) void mg_pack(
        mg_matrix b, ptrdiff_t inner, ptrdiff_t width, const ptrdiff_t wide, float* panel)
{
    ptrdiff_t k, t, block, end;
    if (b.column == 1)
        for (k = 0; k < inner; k++) memcpy(panel + k * wide, b.data + k * b.row, width * sizeof(float));
    else
        for (block = 0; block < inner; block = end) {   /* so that what is written stays in the first cache */
            end = block + 64 < inner ? block + 64 : inner;
            for (t = 0; t < width; t++)
                for (k = block; k < end; k++) panel[k * wide + t] = b.data[k * b.row + t * b.column];
        }
    if (width < wide)
        for (k = 0; k < inner; k++)
            for (t = width; t < wide; t++) panel[k * wide + t] = 0;
}

/* How many columns the panel that starts at column j has room for. */
static inline ptrdiff_t mg_wide(ptrdiff_t j, ptrdiff_t columns)
{
    return columns - j > MG_LANES ? 2 * MG_LANES : MG_LANES;
}

static inline __attribute__((always_inline)) void mg_pack_panel(
        mg_matrix b, ptrdiff_t j, ptrdiff_t inner, ptrdiff_t columns, float* panel)
{
    const ptrdiff_t wide = mg_wide(j, columns), width = columns - j < wide ? columns - j : wide;
    b.data += j * b.column;
    if (wide == MG_LANES) mg_pack(b, inner, width, MG_LANES, panel);
    else mg_pack(b, inner, width, 2 * MG_LANES, panel);
}

/* All panels of b, one after the other: `inner` times `columns`, rounded up to MG_LANES, elements. */
MG_CLONED static void mg_pack_panels(mg_matrix b, ptrdiff_t inner, ptrdiff_t columns, float* panels)
{
    for (ptrdiff_t j = 0; j < columns; j += 2 * MG_LANES) mg_pack_panel(b, j, inner, columns, panels + j * inner);
}

/* out (rows, columns), contiguous, = start + a (rows, inner) @ b (inner, columns). start may be out; its row is
 * 0 for a bias of each row, its data NULL as well for none. panels: b packed by mg_pack_panels, or NULL. Returns
 * 0, with nothing done, if there is no memory for a panel. */
MG_CLONED static int mg_matmul(mg_matrix a, mg_matrix b, const float* panels, mg_matrix start, float* out,
                               ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns)
{
    float on_stack[MG_STACK * 2 * MG_LANES], bias[2 * MG_LANES];
    float* packed = panels || inner <= MG_STACK ? on_stack : malloc(inner * 2 * MG_LANES * sizeof(float));
    ptrdiff_t j, t, wide, width;
    if (!packed) return 0;
    for (j = 0; j < columns; j += wide) {
        mg_matrix panel = {b.data + j * b.column, b.row, b.column};
        mg_matrix begin = {bias, start.row, 1};
        wide = mg_wide(j, columns);
        width = columns - j < wide ? columns - j : wide;
        if (start.row) begin.data = start.data + j;
        else for (t = 0; t < wide; t++) bias[t] = start.data && t < width ? start.data[j + t] : 0;
        if (panels) {
            panel.data = panels + j * inner;
            panel.row = wide;
        } else if (b.column != 1 || width < wide || b.row > MG_APART) {
            mg_pack_panel(b, j, inner, columns, packed);
            panel.data = packed;
            panel.row = wide;
        }
        if (wide == MG_LANES)
            mg_rows(1, a, panel.data, panel.row, begin, out + j, columns, rows, inner, width);
        else mg_rows(2, a, panel.data, panel.row, begin, out + j, columns, rows, inner, width);
    }
    if (packed != on_stack) free(packed);
    return 1;
}
#else
static inline int mg_takes(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns) { return 0; }
static inline int mg_takes_panels(ptrdiff_t inner, ptrdiff_t columns) { return 0; }
static void mg_pack_panels(mg_matrix b, ptrdiff_t inner, ptrdiff_t columns, float* panels) {}
static int mg_matmul(mg_matrix a, mg_matrix b, const float* panels, mg_matrix start, float* out,
                     ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns) { return 0; }
#endif
#endif
