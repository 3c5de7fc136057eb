/* Small matrix products, float32: out = a @ b (+ bias), where a call of BLAS costs more than its work.
 *
 * A tile of 8 rows by 32 columns of the output stays in registers while the inner dimension is walked:
 * each step is one row of b, and a multiply-add for each row of a. Columns of b that are not contiguous
 * (b is a transpose), or too few for a vector, are first copied to a panel in the L1 cache.
 *
 * Measured against np.dot with OpenBLAS 0.3.30, AVX-512 (ratio of times): 100x16 @ 16x16 0.6,
 * 32x64 @ 64x64 0.9, the same with b transposed 0.7; at 128x32 @ 32x128 both are equal.
 * The vectors are those of gcc and clang; a compiler without them leaves every product to BLAS. */
#ifndef MINIGRAD_MATMUL_H
#define MINIGRAD_MATMUL_H

#include <stddef.h>
#include <string.h>
#include "clones.h"

#define MG_INNER 128     /* the longest inner dimension: a panel of 16 KiB */
#define MG_WORK 300000   /* multiplications from which BLAS is as fast */

typedef struct { const float* data; ptrdiff_t row, column; } mg_matrix;   /* strides in elements */

#if defined(__GNUC__)
typedef float mg_vector __attribute__((vector_size(64), aligned(4), may_alias));
enum { MG_LANES = 16 };

/* R rows by V vectors of the output. All loops over r and v have constant bounds, and unroll. */
static inline __attribute__((always_inline)) void mg_tile(
        const int R, const int V, mg_matrix a, const float* panel, ptrdiff_t step, const float* bias,
        float* out, ptrdiff_t out_row, ptrdiff_t inner, ptrdiff_t columns)
{
    mg_vector sum[8][2], b[2];
    #pragma GCC unroll 8
    for (int r = 0; r < R; r++)
        #pragma GCC unroll 2
        for (int v = 0; v < V; v++) sum[r][v] = *(const mg_vector*) (bias + MG_LANES * v);
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
        const int V, mg_matrix a, const float* panel, ptrdiff_t step, const float* bias, float* out,
        ptrdiff_t out_row, ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns)
{
    ptrdiff_t i = 0;
    for (; i + 8 <= rows; i += 8, a.data += 8 * a.row)
        mg_tile(8, V, a, panel, step, bias, out + i * out_row, out_row, inner, columns);
    if (i + 4 <= rows) {
        mg_tile(4, V, a, panel, step, bias, out + i * out_row, out_row, inner, columns);
        i += 4;
        a.data += 4 * a.row;
    }
    for (; i < rows; i++, a.data += a.row)
        mg_tile(1, V, a, panel, step, bias, out + i * out_row, out_row, inner, columns);
}

/* Whether mg_small_matmul takes a product of these sizes: narrow outputs would waste most lanes. */
static inline int mg_is_small(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns)
{
    return inner <= MG_INNER && columns >= MG_LANES - 4 && rows * inner * columns <= MG_WORK;
}

/* out (rows, columns), contiguous, = a (rows, inner) @ b (inner, columns) + bias (columns) or NULL. */
MG_CLONED static void mg_small_matmul(mg_matrix a, mg_matrix b, const float* bias, float* out,
                                      ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns)
{
    float packed[MG_INNER * 2 * MG_LANES], start[2 * MG_LANES];
    ptrdiff_t j, k, t, wide, width, step;
    for (j = 0; j < columns; j += wide) {
        const float* panel = b.data + j * b.column;
        wide = columns - j > MG_LANES ? 2 * MG_LANES : MG_LANES;
        width = columns - j < wide ? columns - j : wide;
        step = b.row;
        if (b.column != 1 || width < wide) {
            for (t = 0; t < width; t++)
                for (k = 0; k < inner; k++) packed[k * wide + t] = panel[k * b.row + t * b.column];
            for (k = 0; k < inner; k++)
                for (t = width; t < wide; t++) packed[k * wide + t] = 0;
            panel = packed;
            step = wide;
        }
        for (t = 0; t < wide; t++) start[t] = bias && t < width ? bias[j + t] : 0;
        if (wide == MG_LANES) mg_rows(1, a, panel, step, start, out + j, columns, rows, inner, width);
        else mg_rows(2, a, panel, step, start, out + j, columns, rows, inner, width);
    }
}
#else
static inline int mg_is_small(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns) { return 0; }
static void mg_small_matmul(mg_matrix a, mg_matrix b, const float* bias, float* out,
                            ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns) {}
#endif
#endif
