/* Our own matrix products: out = start + a @ b, in float and double. The kernel of matmul_kernel.h is built for
 * each instruction set and selected when the module is loaded (MINIGRAD_MATMUL in the environment overrides the
 * choice: avx512, avx2, vector128, blas). Without vector extensions in the compiler, BLAS computes all products.
 * (target_clones cannot be used, because the vectors of a kernel have the size of the registers: those of
 * AVX-512 ran on AVX2 50 times slower than BLAS.)
 *
 * 1. *Small products*, whose operands stay in the L2 cache, are read in place (a transposed b is packed panel by
 *    panel).
 * 2. *Large products* are blocked as in Goto and van de Geijn (2008): b is packed once, into panels of two
 *    vectors of columns; blocks of a are packed to stay in the L2 cache. The unit of work for a thread is one
 *    block of rows times one stripe of columns; the first thread to reach a stripe packs it.
 * 3. *Stacks* of small products are divided among threads by product.
 * 4. *Narrow products*, of few rows or columns, are dot products, which sum in another order.
 * 1 to 3 give the same bits (see matmul_kernel.h), and no result depends on the number of threads. */
#ifndef MINIGRAD_MATMUL_H
#define MINIGRAD_MATMUL_H

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define MG_STACK 128        /* inner sizes up to which a panel, 16 KiB, is on the stack */
#define MG_CHAIN 1024       /* terms of one chain of multiply-adds: a panel of 128 KiB */
#define MG_CACHED (1 << 18) /* elements of an operand that stay in the L2 cache */
#define MG_DEPTH 256        /* inner steps of a block: a panel of 32 KiB; divides MG_CHAIN */
#define MG_ROWS 240         /* the most rows in a block of a: a multiple of every height */
#define MG_LONGEST 8192     /* inner steps whose panels are in memory at once; a multiple of MG_CHAIN */
#define MG_STRIPES 64
#define MG_SHARED (1 << 22) /* multiply-adds from which on a product is divided: 75 us; waking costs 45 (half as many
                             * where a helper that is awake gains) */
#define MG_PIECE (1 << 20)  /* the fewest multiply-adds of a piece: 18 us */

typedef void (*mg_part)(void* job, ptrdiff_t part, ptrdiff_t parts);
typedef void (*mg_sharer)(mg_part part, void* job, ptrdiff_t parts);   /* runs all parts, see threads.h */

typedef struct { const void* data; ptrdiff_t row, column; } mg_matrix;   /* strides in elements */

typedef struct {
    ptrdiff_t size, lanes, height;      /* bytes of an element, elements of a vector, rows of a tile */
    /* All panels of b in sequence: `inner` times `columns` (rounded up to lanes) elements. */
    void (*pack_panels)(mg_matrix b, ptrdiff_t inner, ptrdiff_t columns, void* panels);
    /* out (rows, columns), contiguous, = start + a (rows, inner) @ b (inner, columns), inner <= MG_CHAIN. start may
     * be out; its row is 0 for a bias, and its data is NULL for none. panels: b packed by pack_panels, or
     * NULL. */
    void (*matmul)(mg_matrix a, mg_matrix b, const void* panels, mg_matrix start, void* out,
                  ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns);
    void (*pack_rows)(mg_matrix a, ptrdiff_t rows, ptrdiff_t inner, void* packed);
    void (*block)(const void* packed, const void* panels, ptrdiff_t whole, ptrdiff_t from, mg_matrix start,
                  void* out, ptrdiff_t out_row, ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, int add);
    void (*dots)(mg_matrix a, mg_matrix b, mg_matrix start, void* out, ptrdiff_t out_long, ptrdiff_t out_short,
                 ptrdiff_t longs, ptrdiff_t inner, ptrdiff_t shorts);
} mg_kernel;

typedef struct { const char* name; const mg_kernel *of_float, *of_double; } mg_kernels;

static const mg_kernels mg_by_blas = {"blas", NULL, NULL};

#if defined(__clang__) || (defined(__GNUC__) && __GNUC__ >= 12)
typedef float mg_four __attribute__((vector_size(16), aligned(4), may_alias));

/* Transpose four rows of x to four columns of out: interleave pairs of rows, twice. */
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

#define MG_KERNEL(set, real, lanes, height) {sizeof(real), lanes, height, mg_##set##_##real##_pack_panels, \
    mg_##set##_##real##_matmul, mg_##set##_##real##_pack_rows, mg_##set##_##real##_block, \
    mg_##set##_##real##_dots}

#if defined(__x86_64__)
#define MG_NAME(x) mg_avx512_float_##x
#define MG_TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#define MG_REAL float
#define MG_LANES 16
#define MG_HEIGHT 8
#include "matmul_kernel.h"

#define MG_NAME(x) mg_avx512_double_##x
#define MG_TARGET __attribute__((target("avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")))
#define MG_REAL double
#define MG_LANES 8
#define MG_HEIGHT 8
#include "matmul_kernel.h"

#define MG_NAME(x) mg_avx2_float_##x
#define MG_TARGET __attribute__((target("avx2,fma")))
#define MG_REAL float
#define MG_LANES 8
#define MG_HEIGHT 6
#include "matmul_kernel.h"

#define MG_NAME(x) mg_avx2_double_##x
#define MG_TARGET __attribute__((target("avx2,fma")))
#define MG_REAL double
#define MG_LANES 4
#define MG_HEIGHT 6
#include "matmul_kernel.h"

static const mg_kernel mg_avx512_float = MG_KERNEL(avx512, float, 16, 8);
static const mg_kernel mg_avx512_double = MG_KERNEL(avx512, double, 8, 8);
static const mg_kernel mg_avx2_float = MG_KERNEL(avx2, float, 8, 6);
static const mg_kernel mg_avx2_double = MG_KERNEL(avx2, double, 4, 6);
static const mg_kernels mg_by_avx512 = {"avx512", &mg_avx512_float, &mg_avx512_double};
static const mg_kernels mg_by_avx2 = {"avx2", &mg_avx2_float, &mg_avx2_double};
#endif

#define MG_NAME(x) mg_vector128_float_##x
#define MG_TARGET
#define MG_REAL float
#define MG_LANES 4
#define MG_HEIGHT 6
#include "matmul_kernel.h"

#define MG_NAME(x) mg_vector128_double_##x
#define MG_TARGET
#define MG_REAL double
#define MG_LANES 2
#define MG_HEIGHT 6
#include "matmul_kernel.h"

static const mg_kernel mg_vector128_float = MG_KERNEL(vector128, float, 4, 6);
static const mg_kernel mg_vector128_double = MG_KERNEL(vector128, double, 2, 6);
static const mg_kernels mg_by_vector128 = {"vector128", &mg_vector128_float, &mg_vector128_double};

/* The kernels of that name, or for "" the best; NULL if the processor cannot run them. */
static const mg_kernels* mg_find_kernels(const char* name)
{
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")
            && __builtin_cpu_supports("avx512dq") && (!*name || !strcmp(name, mg_by_avx512.name)))
        return &mg_by_avx512;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")
            && (!*name || !strcmp(name, mg_by_avx2.name)))
        return &mg_by_avx2;
#endif
    if (!*name || !strcmp(name, mg_by_vector128.name)) return &mg_by_vector128;
    return !strcmp(name, mg_by_blas.name) ? &mg_by_blas : NULL;
}
#else
static const mg_kernels* mg_find_kernels(const char* name)
{
    return !*name || !strcmp(name, mg_by_blas.name) ? &mg_by_blas : NULL;
}
#endif

/* ------------------------------------------------------------------------------------ large products */
static inline ptrdiff_t mg_least(ptrdiff_t x, ptrdiff_t y) { return x < y ? x : y; }
static inline ptrdiff_t mg_times(ptrdiff_t x, ptrdiff_t y) { return (x + y - 1) / y; }      /* y in x, rounded up */

/* How many threads are worthwhile for a product of `work` multiply-adds. */
static ptrdiff_t mg_threads_for(double work, ptrdiff_t threads)
{
    return work < MG_SHARED ? 1 : mg_least(threads, 1 + (ptrdiff_t) (work / MG_PIECE / 2));
}

/* Bytes of scratch memory of `mg_multiply_large`. */
static ptrdiff_t mg_room(const mg_kernel* kernel, ptrdiff_t inner, ptrdiff_t columns, int packed, ptrdiff_t threads)
{
    const ptrdiff_t panels = packed ? 0 : mg_least(inner, MG_LONGEST) * mg_times(columns, kernel->lanes) * kernel->lanes;
    return (panels + threads * MG_ROWS * MG_DEPTH) * kernel->size;
}

typedef struct {
    const mg_kernel* kernel;
    mg_matrix a, b;                     /* strides; `left` and `right` have the starts */
    const char **left, **right;
    char* out;
    mg_matrix start;                    /* as in `matmul` of a kernel, for the first product */
    ptrdiff_t step;                     /* bytes from there to that of the next */
    ptrdiff_t count, rows, inner, columns;
} mg_stack;

#if !defined(__GNUC__)      /* no kernels, so these are never called */
static ptrdiff_t mg_take(ptrdiff_t* next) { return (*next)++; }

static void mg_multiply_large(const mg_kernel* kernel, mg_matrix a, mg_matrix b, const void* panels, mg_matrix start,
                              void* out, ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, ptrdiff_t threads,
                              mg_sharer share, char* room)
{
    (void) kernel, (void) a, (void) b, (void) panels, (void) start, (void) out, (void) rows, (void) inner;
    (void) columns, (void) threads, (void) share, (void) room;
}

static void mg_multiply_stack(mg_stack* stack, ptrdiff_t threads, mg_sharer share)
{
    (void) stack, (void) threads, (void) share;
}
#else
#include <sched.h>

/* The next number of a counter shared by threads. */
static inline ptrdiff_t mg_take(ptrdiff_t* next) { return __atomic_fetch_add(next, 1, __ATOMIC_RELAXED); }

enum { MG_FREE, MG_PACKING, MG_READY };     /* the panels of a stripe */

typedef struct {
    const mg_kernel* kernel;
    mg_matrix a, b, start;
    char* out;
    ptrdiff_t rows, inner, columns;
    int begun;                          /* out holds the sum of the steps before, at the end of a chain */
    ptrdiff_t width, stripes;           /* columns of a stripe */
    ptrdiff_t height, blocks;           /* rows of a block */
    char *panels, *packed;              /* room for all panels, and for a block of a for each thread */
    int state[MG_STRIPES];
    ptrdiff_t next[MG_STRIPES];         /* the next block of each stripe */
} mg_product;

static mg_matrix mg_part_of(const mg_product* p, mg_matrix x, ptrdiff_t row, ptrdiff_t column)
{
    if (x.data) x.data = (const char*) x.data + (row * x.row + column * x.column) * p->kernel->size;
    return x;
}

static void mg_multiply_block(const mg_product* p, ptrdiff_t row, ptrdiff_t column, void* packed)
{
    const ptrdiff_t rows = mg_least(p->height, p->rows - row), columns = mg_least(p->width, p->columns - column);
    const mg_matrix whole = {p->out, p->columns, 1}, out = mg_part_of(p, whole, row, column);
    ptrdiff_t k = 0, inner;
    do {
        const int first = k == 0 && !p->begun;
        inner = mg_least(MG_DEPTH, p->inner - k);
        p->kernel->pack_rows(mg_part_of(p, p->a, row, k), rows, inner, packed);
        p->kernel->block(packed, p->panels + column * p->inner * p->kernel->size, p->inner, k,
                         first ? mg_part_of(p, p->start, row, column) : out, (void*) out.data, p->columns, rows, inner,
                         columns, !first && k % MG_CHAIN == 0);
        k += inner;
    } while (k < p->inner);
}

static void mg_product_part(void* job, ptrdiff_t part, ptrdiff_t parts)
{
    mg_product* const p = job;
    char* const packed = p->packed + part * MG_ROWS * MG_DEPTH * p->kernel->size;
    for (ptrdiff_t n = 0; n < 2 * p->stripes; n++) {
        const ptrdiff_t s = (part * p->stripes / parts + n) % p->stripes, column = s * p->width;
        int state = MG_FREE;
        if (__atomic_compare_exchange_n(&p->state[s], &state, MG_PACKING, 0, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)) {
            p->kernel->pack_panels(mg_part_of(p, p->b, 0, column), p->inner, mg_least(p->width, p->columns - column),
                                   p->panels + column * p->inner * p->kernel->size);
            __atomic_store_n(&p->state[s], MG_READY, __ATOMIC_RELEASE);
        } else if (n < p->stripes && state == MG_PACKING)
            continue;                   /* return to it later */
        while (__atomic_load_n(&p->state[s], __ATOMIC_ACQUIRE) != MG_READY) sched_yield();
        for (ptrdiff_t i; (i = mg_take(&p->next[s])) < p->blocks;)
            mg_multiply_block(p, i * p->height, column, packed);
    }
}

/* out = start + a @ b, like `matmul` of a kernel, for all sizes except no rows or columns, on several threads. */
static void mg_multiply_large(const mg_kernel* kernel, mg_matrix a, mg_matrix b, const void* panels, mg_matrix start,
                              void* out, ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns, ptrdiff_t threads,
                              mg_sharer share, char* room)
{
    mg_product p = {.kernel = kernel, .start = start, .out = out, .rows = rows, .columns = columns};
    const ptrdiff_t panel = 2 * kernel->lanes;
    const ptrdiff_t each = (ptrdiff_t) ((double) rows * inner * columns / MG_PIECE) / threads;
    const ptrdiff_t pieces = threads == 1 ? 1 : threads * mg_least(8, each > 0 ? each : 1);
    /* Small blocks of rows cost little; for narrow stripes a is packed once per stripe. */
    p.height = mg_times(mg_times(rows, mg_least(pieces, mg_times(rows, 48))), kernel->height) * kernel->height;
    p.height = mg_least(p.height, MG_ROWS / kernel->height * kernel->height);
    p.blocks = mg_times(rows, p.height);
    p.width = mg_times(mg_times(columns, mg_times(pieces, p.blocks)), panel) * panel;
    if (p.width < 4 * panel) p.width = 4 * panel;
    if (p.width > 64 * panel) p.width = 64 * panel;
    if (p.width * MG_STRIPES < columns) p.width = mg_times(mg_times(columns, MG_STRIPES), panel) * panel;
    p.stripes = mg_times(columns, p.width);
    p.packed = room;
    p.panels = panels ? (char*) panels : room + threads * MG_ROWS * MG_DEPTH * kernel->size;
    for (ptrdiff_t k = 0; k == 0 || k < inner; k += p.inner) {
        p.inner = panels ? inner : mg_least(MG_LONGEST, inner - k);
        p.a = mg_part_of(&p, a, 0, k);
        p.b = mg_part_of(&p, b, k, 0);
        p.begun = k > 0;
        for (ptrdiff_t s = 0; s < p.stripes; s++) p.state[s] = panels ? MG_READY : MG_FREE, p.next[s] = 0;
        share(mg_product_part, &p, threads);
        if (inner == 0) break;
    }
}

/* -------------------------------------------------------------------------------------------- stacks */
static void mg_stack_part(void* job, ptrdiff_t part, ptrdiff_t parts)
{
    mg_stack* const s = job;
    mg_matrix a = s->a, b = s->b, start = s->start;
    for (ptrdiff_t i = part * s->count / parts; i < (part + 1) * s->count / parts; i++) {
        a.data = s->left[i];
        b.data = s->right[i];
        if (start.data) start.data = (const char*) s->start.data + i * s->step;
        s->kernel->matmul(a, b, NULL, start, s->out + i * s->rows * s->columns * s->kernel->size, s->rows, s->inner,
                          s->columns);
    }
}

/* All products of a stack, each of them `mg_is_small`. */
static void mg_multiply_stack(mg_stack* stack, ptrdiff_t threads, mg_sharer share)
{
    const double work = (double) stack->rows * stack->inner * stack->columns * stack->count;
    const ptrdiff_t pieces = mg_threads_for(work, threads) == 1 ? 1 : mg_least(stack->count, mg_least(64, 1 + (ptrdiff_t) (work / MG_PIECE)));
    share(mg_stack_part, stack, pieces);
}
#endif

/* Whether both operands stay in the cache: then `matmul` of the kernel computes it, on one thread. */
static inline int mg_is_small(ptrdiff_t rows, ptrdiff_t inner, ptrdiff_t columns)
{
    return inner <= MG_CHAIN && rows * inner <= MG_CACHED && inner * columns <= MG_CACHED;
}

/* Whether an output of these sizes leaves most lanes of the kernel's vectors empty. */
static inline int mg_is_narrow(const mg_kernel* kernel, ptrdiff_t columns)
{
    return columns < kernel->lanes - 4;
}

/* Whether a b shared by many products is worth packing: for any number of rows and columns, because a product
 * reads the panels in sequence. */
static inline int mg_takes_panels(const mg_kernel* kernel, ptrdiff_t inner, ptrdiff_t columns)
{
    return kernel && !mg_is_narrow(kernel, columns) && inner <= MG_CHAIN;
}
#endif
