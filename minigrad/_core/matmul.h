/* Matrix products of small and middle size, float32: out = start + a @ b; by the kernel of matmul_kernel.h,
 * built for AVX-512 and for AVX2 and picked when the module is loaded (MINIGRAD_MATMUL in the environment may
 * ask for another: avx512, avx2, blas). A processor with neither, or a compiler that does not know how,
 * leaves every product to BLAS. (Not by target_clones: the vectors of a kernel have the size of the
 * registers. Those of AVX-512 ran on AVX2 50 times slower than BLAS.)
 *
 * Measured against np.dot with OpenBLAS 0.3.31, AVX-512, ratio of times (benchmarks/run.py products):
 * 100x16 @ 16x16 0.75, 32x64 @ 64x64 1.0, the same with b transposed 0.6; 512x193 @ 193x32 0.8,
 * 193x512 @ 512x32 with a transposed 0.77, 128x784 @ 784x256 with b transposed 0.8. Beyond the second
 * cache BLAS is as fast or faster, and for fewer than 12 rows or columns. Both come to 55e9 of the 58e9
 * multiply-adds a second there, what the processor's one unit for 512 bits can do. The width of a panel
 * is a constant where it is packed: as a variable it took a quarter longer. 32x128 @ 128x512 with b
 * transposed took 64 us, with panels packed before 42; for 4 rows 29 and 7 us. */
#ifndef MINIGRAD_MATMUL_H
#define MINIGRAD_MATMUL_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MG_STACK 128        /* inner sizes up to this have their panel, 16 KiB, on the stack */
#define MG_INNER 1024       /* the longest inner dimension: a panel of 128 KiB */
#define MG_CACHED (1 << 18) /* elements of an operand that stay in the second cache */
#define MG_APART 128        /* rows of b that lie further apart than so many elements are packed */

typedef struct { const float* data; ptrdiff_t row, column; } mg_matrix;   /* strides in elements */

typedef struct {
    const char* name;
    ptrdiff_t lanes;        /* of a vector, 0 for no kernel */
    /* All panels of b, one after the other: `inner` times `columns`, rounded up to lanes, elements. */
    void (*pack_panels)(mg_matrix b, ptrdiff_t inner, ptrdiff_t columns, float* panels);
    /* out (rows, columns), contiguous, = start + a (rows, inner) @ b (inner, columns). start may be out; its row
     * is 0 for a bias of each row, its data NULL as well for none. panels: b packed by pack_panels, or NULL.
     * Returns 0, with nothing done, if there is no memory for a panel. */
    int (*matmul)(mg_matrix a, mg_matrix b, const float* panels, mg_matrix start, float* out,
                  ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns);
} mg_kernel;

static const mg_kernel mg_by_blas = {"blas", 0, NULL, NULL};

#if defined(__x86_64__) && (defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12))
typedef float mg_four __attribute__((vector_size(16), aligned(4), may_alias));

/* Four rows of x are four columns of out: a pair of rows interleaved with the other pair, twice. */
static inline __attribute__((always_inline)) void mg_transpose(
        const float* x, ptrdiff_t x_row, float* out, ptrdiff_t out_row)
{
    const mg_four a = *(const mg_four*) x, b = *(const mg_four*) (x + x_row);
    const mg_four c = *(const mg_four*) (x + 2 * x_row), d = *(const mg_four*) (x + 3 * x_row);
    const mg_four ac = __builtin_shufflevector(a, c, 0, 4, 1, 5), ac2 = __builtin_shufflevector(a, c, 2, 6, 3, 7);
    const mg_four bd = __builtin_shufflevector(b, d, 0, 4, 1, 5), bd2 = __builtin_shufflevector(b, d, 2, 6, 3, 7);
    *(mg_four*) out = __builtin_shufflevector(ac, bd, 0, 4, 1, 5);
    *(mg_four*) (out + out_row) = __builtin_shufflevector(ac, bd, 2, 6, 3, 7);
    *(mg_four*) (out + 2 * out_row) = __builtin_shufflevector(ac2, bd2, 0, 4, 1, 5);
    *(mg_four*) (out + 3 * out_row) = __builtin_shufflevector(ac2, bd2, 2, 6, 3, 7);
}

#define MG_NAME(x) mg_avx512_##x
#define MG_TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#define MG_LANES 16
#define MG_HEIGHT 8
#include "matmul_kernel.h"

#define MG_NAME(x) mg_avx2_##x
#define MG_TARGET __attribute__((target("avx2,fma")))
#define MG_LANES 8
#define MG_HEIGHT 6
#include "matmul_kernel.h"

static const mg_kernel mg_by_avx512 = {"avx512", 16, mg_avx512_pack_panels, mg_avx512_matmul};
static const mg_kernel mg_by_avx2 = {"avx2", 8, mg_avx2_pack_panels, mg_avx2_matmul};

/* The kernel of that name, for "" the best; NULL if the processor cannot run it. */
static const mg_kernel* mg_find_kernel(const char* name)
{
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512dq") && (!*name || !strcmp(name, mg_by_avx512.name)))
        return &mg_by_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
            && (!*name || !strcmp(name, mg_by_avx2.name)))
        return &mg_by_avx2;
    return !*name || !strcmp(name, mg_by_blas.name) ? &mg_by_blas : NULL;
}
#else
static const mg_kernel* mg_find_kernel(const char* name)
{
    return !*name || !strcmp(name, mg_by_blas.name) ? &mg_by_blas : NULL;
}
#endif

/* Whether the kernel takes a product of these sizes: narrow outputs would waste most lanes. */
static inline int mg_takes(const mg_kernel* kernel, ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns)
{
    if (!kernel->lanes || columns < kernel->lanes - 4 || inner > MG_INNER) return 0;
    if (rows * inner * columns <= 40000) return 1;      /* what a call of BLAS costs */
    return rows >= 12 && inner >= 12 && rows * inner <= MG_CACHED && inner * columns <= MG_CACHED;
}

/* Whether a b that many products share is worth packing: any number of rows, and any number of columns, as
 * a product reads the panels one after the other. */
static inline int mg_takes_panels(const mg_kernel* kernel, ptrdiff_t inner, ptrdiff_t columns)
{
    return kernel->lanes && columns >= kernel->lanes - 4 && inner <= MG_INNER;
}
#endif
