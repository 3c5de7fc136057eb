/* Elementary functions that a compiler can vectorise.
 *
 * Design note.  This file knows how to compute e^x and related functions of one number, in float and
 * in double, with arithmetic only.  There are no calls and no branches (a ?: becomes a select), so a
 * plain loop over an array processes 4, 8 or 16 numbers at once, whereas a loop that calls libm
 * processes one.  Each function reduces its argument to a short interval and evaluates one
 * polynomial there; benchmarks/fit_vecmath.py finds the polynomials and prints their expressions.
 * Both precisions share one algorithm and one text, vecmath_body.h.
 *
 * Why the code looks as it does:
 * - The order of every sum matters: compile with -O3 -fno-math-errno -fno-trapping-math, never with
 *   -ffast-math.  Fused multiply-adds are allowed; the accuracy holds with and without them.
 * - Integers come from bits, not from conversions: AVX2 has no arithmetic 64-bit right shift, no
 *   64-bit unsigned comparison and no conversion between 64-bit integers and doubles.
 * - With a select of a constant, gcc may compute the following code once per outcome and select
 *   later, which costs up to half the speed; mg_clamp, lift (in log) and base (in tanh) avoid it.
 *
 * Measured (gcc 12.2, one thread of an AVX-512 AMD EPYC, 2^20 normal numbers of deviation 3, NumPy
 * 2.4; erf against SciPy 1.17, sigmoid against 1 / (1 + exp(-x)), softplus against logaddexp).
 * Error in units in the last place, the largest of all three targets: x86-64, x86-64-v3, x86-64-v4.
 *
 *              float: error  ns v1   v3    v4  NumPy    double: error  ns v1   v3    v4  NumPy
 * exp               1.02   1.17  0.37  0.28  0.45             1.02   3.62  1.13  0.73  0.86
 * expm1             1.32   1.56  0.47  0.32  0.35             1.36   4.46  1.26  0.83  1.19
 * log               0.97   1.37  0.34  0.25  0.37             0.85   3.62  1.23  0.72  0.83
 * log1p             0.99   1.71  0.51  0.32  0.46             1.38   4.67  1.66  0.88  1.04
 * tanh              1.93   1.54  0.50  0.35  0.36             2.00   4.83  1.45  0.95  1.72
 * sigmoid           1.77   1.70  0.54  0.38  0.72             1.77   4.99  1.49  0.96  1.78
 * softplus          1.59   4.16  1.31  0.80 15.99             1.67  11.94  3.87  2.10 17.29
 * erf               1.23   3.11  0.86  0.56 17.42             1.33  15.39  3.79  2.12 17.38
 * silu              1.84   2.15  0.81  0.50                   2.13  18.20  2.10  1.42
 * gelu              7.49   7.40  1.13  0.83                   6.25  37.48  7.56  2.41
 * mish              3.03   2.63  0.93  0.60                   3.04  23.19  2.51  1.63
 *
 * The largest errors, of tanh and sigmoid, are those of a quotient of two rounded numbers; of gelu,
 * of the argument of its polynomial near 0.  The slopes of tanh and sigmoid err by 3.3 at most, those
 * of silu, gelu and mish by 7.2, but near their zeros by 0.8 units in the last place of 1. */
#ifndef MINIGRAD_VECMATH_H
#define MINIGRAD_VECMATH_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define MG_INLINE static inline __attribute__((always_inline, unused))
#elif defined(_MSC_VER)
#define MG_INLINE static __inline
#else
#define MG_INLINE static inline
#endif

/* ---- The macros of vecmath_body.h -------------------------------------------------------- */

/* For each precision these are defined: MG_NAME(x), the name x with a suffix; MG_REAL, the type of a
 * number, and MG_BITS, that of its bits; MG_FRACTION, the number of bits below the exponent field;
 * MG_BIAS, the bias of that field; and MG_PICK(of_float, of_double), one of the two, for constants
 * and polynomials.  (Integers are converted to the type of the other operand.) */
#define MG_HALF ((MG_REAL) 0.5)
#define MG_INFINITY ((MG_REAL) INFINITY)
#define MG_ABS(x) MG_PICK(fabsf, fabs)(x)
#define MG_COPYSIGN(x, y) MG_PICK(copysignf, copysign)(x, y)
#define MG_UNIT ((MG_BITS) 1 << MG_FRACTION)    /* one, in the exponent field */
#define MG_ONE (MG_BIAS * MG_UNIT)              /* the bits of 1 */

/* ln 2 in two parts, so that k times the first is exact (Cody & Waite 1980). */
#define MG_LN2_HIGH MG_PICK(0.693145751953125f, 0.6931471805598903)
#define MG_LN2_LOW MG_PICK(1.42860682e-6f, 5.497923018708371e-14)

/* Added to a number, this rounds it to an integer and leaves the integer in the low bits, plus twice
 * the exponent bias: 1.5 * 2^23 + 254, 1.5 * 2^52 + 2046. */
#define MG_ROUNDER MG_PICK((12582912.0f + 254.0f), (6755399441055744.0 + 2046.0))

#define MG_NAME(x) mg_##x##_f32
#define MG_REAL float
#define MG_BITS uint32_t
#define MG_FRACTION 23
#define MG_BIAS 127
#define MG_PICK(of_float, of_double) of_float
#include "vecmath_body.h"

#define MG_NAME(x) mg_##x##_f64
#define MG_REAL double
#define MG_BITS uint64_t
#define MG_FRACTION 52
#define MG_BIAS 1023
#define MG_PICK(of_float, of_double) of_double
#include "vecmath_body.h"

/* ---- In double only, because float has no digits to spare in the argument of R ----------- */

/* 1 - erf x below 1/2, where that loses no digits; above, 2 Φ(-x √2) = 2 e^(-x^2) R(x √2). */
MG_INLINE double mg_erfc_f64(double x)
{
    double first, second, a = fabs(mg_clamp_f64(x, 27.3));
    double m = mg_exp_square_f64(a, 1.0, &first, &second);
    double tail = 2.0 * mg_mills_f64(a * 1.4142135623730951) * m * first * second;
    return x < 0.5 ? 1.0 - mg_erf_f64(x) : tail;
}

MG_INLINE float mg_erfc_f32(float x)
{
    return (float) mg_erfc_f64(x);
}

/* The y with erf y = x: Winitzki's approximation (2008), then two Halley steps, whose difference is
 * computed with erfc from 1/2 on, where erf would cancel. */
MG_INLINE double mg_erfinv_f64(double x)
{
    double a = fabs(x), low = mg_log_f64((1.0 - a) * (1.0 + a)), h = 4.3307467508 + 0.5 * low;
    double y = sqrt(sqrt(h * h - low * 6.8027210884) - h);
    for (int i = 0; i < 2; i++) {
        double rest = a < 0.5 ? a - mg_erf_f64(y) : mg_erfc_f64(y) - (1.0 - a);
        double step = rest * 0.88622692545275801 * mg_exp_f64(y * y);
        y += step / (1.0 - y * step);
    }
    y = a < 1.0 ? y : (a == 1.0 ? (double)INFINITY : (double)NAN);
    return copysign(y, x);
}

MG_INLINE float mg_erfinv_f32(float x)
{
    return (float) mg_erfinv_f64(x);
}

/* One name for both precisions. Cython sees a function of double; C selects by the argument's type. */
#define MG_BOTH(name, x) _Generic((x), float: name##_f32, double: name##_f64)(x)
#endif
