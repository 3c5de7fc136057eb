/* The macros and types of the loops in generated/formulas.h and cells.h, which derive.py writes. */
#ifndef MINIGRAD_DERIVED_H
#define MINIGRAD_DERIVED_H

#include <math.h>
#include <stddef.h>
#include <string.h>

#if defined(_MSC_VER)
#define MG_RESTRICT __restrict
#else
#define MG_RESTRICT restrict
#endif

#define MG_BLOCK 1024 /* elements of a row that are summed before the sum is compensated */
#define MG_END(start, length) ((length) - (start) < MG_BLOCK ? (length) : (start) + MG_BLOCK)
#define MG_FINITE(x) ((x) - (x) == 0 ? (x) : 0)

/* Neumaier (1974): `low` accumulates the rounding errors of the additions. */
#define MG_ADD(sum, low, part) do { \
    const double before = sum; \
    sum = before + part; \
    low += fabs(before) >= fabs(part) ? (before - sum) + part : (part - sum) + before; \
} while (0)
#define MG_CLOSE(sum, low) (sum += MG_FINITE(low))

#define mg_sqrt_f32 sqrtf
#define mg_sqrt_f64 sqrt
#define mg_abs_f32 fabsf
#define mg_abs_f64 fabs

/* arrays: the inputs, then the results. extents: the sizes of the axes. The loop runs from `start` up to,
 * but not including, `stop` along the axis that is divided among threads; for columns, it runs one phase (or
 * MG_ALL) of part `start` of `stop` parts of the rows. */
typedef void (*MG_Loop)(void **arrays, const ptrdiff_t *extents, const double *numbers, double *work,
                        ptrdiff_t start, ptrdiff_t stop, int phase);

#define MG_ALL 0
#define MG_STOP(rows, part, parts) ((part) + 1 == (parts) ? (rows) : (rows) / 4 * ((part) + 1) / (parts) * 4)

typedef struct {
    MG_Loop forward[2], backward[2]; /* in float and in double */
    int kept;                        /* statistics that forward writes and backward reads */
    int forward_work, forward_phases, backward_work, backward_phases; /* work: doubles per element of a weight */
} MG_Loops;

typedef struct {
    const char *name;
    int weights, results; /* inputs besides the data, and results */
    unsigned reads;       /* the inputs that backward reads, as bits */
    MG_Loops loops[8];    /* for each layout */
} MG_Formula;

/* arrays: blocks of a row, the inputs, then the results; which elements of the row. */
typedef void (*MG_CellLoop)(void **arrays, ptrdiff_t start, ptrdiff_t stop);

typedef struct {
    MG_CellLoop forward[2], backward[2]; /* in float and in double */
    int gates, kept; /* inputs before the state; what backward reads of the forward */
} MG_Cell;

/* Rules of optimisers, in generated/steps.h. arrays: the parameter, its gradient and its state, NULL for what
 * is absent. given: options, `fresh`, numbers of state. numbers: of the loop, and the new ones of state. */
typedef void (*MG_Step)(void **arrays, const double *numbers, ptrdiff_t start, ptrdiff_t stop);

typedef struct {
    const char *name, *options;
    int arrays, optional, scalars, numbers; /* how many; `optional`: the arrays that may be absent, as bits */
    int fresh; /* whether the formula asks for it */
    void (*prepare)(const double *given, double *numbers);
    MG_Step loops[2]; /* in float and in double */
} MG_Rule;

#endif
