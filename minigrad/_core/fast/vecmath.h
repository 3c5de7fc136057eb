/* Elementary functions that a compiler can vectorise.
 *
 * Design note.  What this file knows: how to compute e^x and its relatives for one number, in float
 * and in double, with arithmetic alone.  There is no call and no branch (a ?: here becomes a
 * select), so a plain loop over an array runs on 4, 8 or 16 numbers at once, where a loop that
 * calls libm runs on one.  Each function reduces its argument to a short interval and evaluates one
 * polynomial there; benchmarks/fit_vecmath.py finds the polynomials and prints these tables.
 *
 * Why the code looks as it does:
 * - The order of every sum matters: compile with -O3 -fno-math-errno -fno-trapping-math, never with
 *   -ffast-math.  Fused multiply-adds are welcome, and the accuracy holds with and without them.
 * - Integers are taken from bits, not by conversion: AVX2 has no 64-bit shift right with sign, no
 *   64-bit unsigned comparison and no conversion between 64-bit integers and doubles.
 * - A select with a constant tempts gcc to compute what follows once per outcome and to select
 *   later, which costs up to half the speed; mg_clamp, lift (in log) and base (in tanh) avoid it.
 *
 * Measured (gcc 12.2, one thread of an AVX-512 AMD EPYC, 2^20 normal numbers of deviation 3, NumPy
 * 2.4; erf beside SciPy 1.17, sigmoid beside 1 / (1 + exp(-x)), softplus beside logaddexp).  Error
 * in units in the last place, the largest of all three targets: x86-64, x86-64-v3, x86-64-v4.
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

/* ---- The bits of a number, and back ------------------------------------------------------ */

MG_INLINE uint32_t mg_bits_f32(float x) { uint32_t u; memcpy(&u, &x, sizeof u); return u; }
MG_INLINE uint64_t mg_bits_f64(double x) { uint64_t u; memcpy(&u, &x, sizeof u); return u; }
MG_INLINE float mg_from_bits_f32(uint32_t u) { float x; memcpy(&x, &u, sizeof x); return x; }
MG_INLINE double mg_from_bits_f64(uint64_t u) { double x; memcpy(&x, &u, sizeof x); return x; }

/* The exponent field as a number.  Few machines convert 64-bit integers: as the low bits of 2^52
 * they count ones. */
MG_INLINE float mg_exponent_f32(uint32_t bits) { return (float)(int32_t)(bits >> 23); }
MG_INLINE double mg_exponent_f64(uint64_t bits)
{
    return mg_from_bits_f64((bits >> 52) | 0x4330000000000000u) - 4503599627370496.0;
}

/* ---- float32 ----------------------------------------------------------------------------- */

/* e^r - 1 - r, |r| <= ln(2)/2. */
MG_INLINE float mg_exp_tail_f32(float r)
{
    return r * r * (
        0.50000001f + r * (0.166665183f + r * (0.0416662042f + r * (
        0.00836895345f + r * 0.00139505998f))));
}

/* Added to a number, this rounds it to an integer and leaves that in the low bits, with 254 added:
 * twice the exponent bias. */
#define MG_ROUNDER_F32 (12582912.0f + 254.0f)   /* 1.5 * 2^23 + 254 */

/* x = k ln 2 + r, |r| <= ln(2)/2 (Cody & Waite 1980: ln 2 in two parts, so that k times the first
 * is exact).  *scale holds k + 254.  Returns e^r - 1 - r; *lost is what *r has lost. */
MG_INLINE float mg_exp_reduce_f32(float x, float *r, float *lost, uint32_t *scale)
{
    float shifted = x * 1.44269504f + MG_ROUNDER_F32;
    float k = shifted - MG_ROUNDER_F32, high = x - k * 0.693145751953125f;
    float z = high - k * 1.42860682e-6f;
    *scale = mg_bits_f32(shifted);
    *r = z;
    *lost = (high - z) - k * 1.42860682e-6f;
    return mg_exp_tail_f32(z);
}

/* x kept within -limit..limit.  (With a constant for copysign gcc would compute both outcomes.) */
MG_INLINE float mg_clamp_f32(float x, float limit)
{
    return fabsf(x) > limit ? copysignf(limit, x) : x;
}

/* e^x = 2^k e^r.  2^k comes as two factors, each in range though 2^k may not be:
 * only the last product rounds, so results fade through the subnormal numbers to zero. */
MG_INLINE float mg_exp_f32(float x)
{
    uint32_t scale, half;
    float r, lost, tail = mg_exp_reduce_f32(mg_clamp_f32(x, 104.0f), &r, &lost, &scale);
    half = scale >> 1;
    return (1.0f + (r + tail)) * mg_from_bits_f32(half << 23)
           * mg_from_bits_f32((scale - half) << 23);
}

/* (2^k - 1) + 2^k (e^r - 1), computed at half its size because 2^128 would overflow. */
MG_INLINE float mg_expm1_f32(float x)
{
    uint32_t scale;
    float r, lost, tail = mg_exp_reduce_f32(mg_clamp_f32(x, 89.0f), &r, &lost, &scale);
    float half = mg_from_bits_f32((scale - 128) << 23);
    float y = 2.0f * (((half - 0.5f) + half * r) + half * (tail + lost));
    y = x < -20.0f ? -1.0f : y;
    return fabsf(x) < 1e-8f ? x : y;
}

/* k ln 2 + log(1 + f) for -1/4 <= f <= 1/2, smallest terms first. */
MG_INLINE float mg_log_sum_f32(float k, float f)
{
    float tail = f * (
        0.333334491f + f * (-0.250000958f + f * (0.199908614f + f * (-0.166473126f + f * (
        0.14478394f + f * (-0.131611881f + f * (0.104630158f + f * -0.0450747855f)))))));
    return k * 0.693145751953125f + (f + (f * f * (tail - 0.5f) + k * 1.42860682e-6f));
}

/* Whether all numbers, with 1 added for log1p, are positive, normal and far from overflow: then the
 * functions that follow will do, and a quarter of the work is saved. */
MG_INLINE int mg_usual_f32(const float *x, ptrdiff_t n, float added)
{
    uint32_t worst = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        uint32_t above = mg_bits_f32(x[i] + added) - 0x00800000u;
        worst = above > worst ? above : worst;
    }
    return worst < 0x7e800000u;
}

MG_INLINE float mg_log_usual_f32(float x)
{
    uint32_t bits = mg_bits_f32(x), field = (bits + 0x00400000u) & 0xff800000u;
    float f = mg_from_bits_f32(bits - field + 0x3f800000u) - 1.0f;
    return mg_log_sum_f32(mg_exponent_f32(field) - 127.0f, f);
}

/* x = 2^k m with 3/4 <= m < 3/2: half a unit of the exponent field, added, carries m >= 3/2 into
 * the next exponent.  Subnormal x is first lifted to a normal number, times 2^23. */
MG_INLINE float mg_log_f32(float x)
{
    uint32_t lift = 0x3f800000u + (x < 1.17549435e-38f) * (23u << 23);
    uint32_t bits = mg_bits_f32(x * mg_from_bits_f32(lift));
    uint32_t field = (bits + 0x00400000u) & 0xff800000u;
    float k = mg_exponent_f32(field) - mg_exponent_f32(lift);
    float y = mg_log_sum_f32(k, mg_from_bits_f32(bits - field + 0x3f800000u) - 1.0f);
    float special = x < 0.0f ? (float)NAN : (x == 0.0f ? -(float)INFINITY : x);
    return mg_bits_f32(x) - 1 < 0x7f7fffffu ? y : special; /* 0 < x < infinity, one test */
}

/* log(1 + x), x > -1: u = 1 + x, rounded, is 2^k m, and x - (u - 1) is what the rounding lost. */
MG_INLINE float mg_log1p_finite_f32(float x)
{
    float u = 1.0f + x, lost = x - (u - 1.0f);
    uint32_t bits = mg_bits_f32(u), field = (bits + 0x00400000u) & 0xff800000u;
    float inverse = mg_from_bits_f32(0x7f000000u - field); /* 2^-k */
    float f = mg_from_bits_f32(bits - field + 0x3f800000u) - 1.0f;
    f += u > 1e30f ? 0.0f : lost * inverse; /* where 2^-k is out of range, nothing is lost */
    return mg_log_sum_f32(mg_exponent_f32(field) - 127.0f, f);
}

MG_INLINE float mg_log1p_usual_f32(float x)
{
    float u = 1.0f + x, lost = x - (u - 1.0f);
    uint32_t bits = mg_bits_f32(u), field = (bits + 0x00400000u) & 0xff800000u;
    float f = mg_from_bits_f32(bits - field + 0x3f800000u) - 1.0f;
    f += lost * mg_from_bits_f32(0x7f000000u - field);
    return copysignf(mg_log_sum_f32(mg_exponent_f32(field) - 127.0f, f), x);
}

MG_INLINE float mg_log1p_f32(float x)
{
    float y = mg_log1p_finite_f32(x);
    y = x < (float)INFINITY ? y : x;
    y = x > -1.0f ? y : (x == -1.0f ? -(float)INFINITY : (float)NAN);
    return fabsf(x) < 1e-8f ? x : y;
}

/* With e = e^-2|x|, tanh |x| = base + (1 - base - (1 + base) e) / (1 + e) for any base.  One near
 * the result makes a small quotient with small rounding errors: (1 - 2^k)^2, where e = 2^k e^r. (What
 * ln 2 in one part makes wrong in r counts less the larger k is, and nothing at 0: 7 % of the time.) */
MG_INLINE float mg_tanh_f32(float x)
{
    float y = -fabsf(mg_clamp_f32(x, 10.0f));
    float shifted = y * 2.88539008f + MG_ROUNDER_F32;
    float r = y + y - (shifted - MG_ROUNDER_F32) * 0.693147182f, rest = r + mg_exp_tail_f32(r);
    float power = mg_from_bits_f32((mg_bits_f32(shifted) - 127) << 23);
    float base = (1.0f - power) * (1.0f - power), factor = power + power * base;
    y = ((1.0f - base - factor) - factor * rest) / ((1.0f + power) + power * rest);
    return copysignf(base + y, x);
}

/* With e = e^-|x| and q = e / (1 + e): 1 - q for x >= 0, and q = e - e q for x < 0. */
MG_INLINE float mg_sigmoid_f32(float x)
{
    float e = mg_exp_f32(-fabsf(x));
    float base = x < 0.0f ? e : 1.0f;
    return base - base * (e / (1.0f + e));
}

/* log(1 + e^x) = max(x, 0) + log(1 + e^-|x|): nothing overflows. */
MG_INLINE float mg_softplus_f32(float x)
{
    return (x > 0.0f ? x : 0.0f) + mg_log1p_finite_f32(mg_exp_f32(-fabsf(x)));
}

/* erf |x| = |x| + |x| P(x^2) up to 1, then 1 - exp(-|x| P(|x|)) until that rounds to 1. */
MG_INLINE float mg_erf_f32(float x)
{
    uint32_t scale;
    float a = fabsf(mg_clamp_f32(x, 4.0f)), s = a * a;
    float small = a + a * (
        0.128379166f + s * (-0.376126258f + s * (0.112835851f + s * (-0.0268538119f + s * (
        0.00518832759f + s * (-0.000801019287f + s * 7.85385902e-05f))))));
    float exponent = -a * (
        1.12847558f + a * (0.635846404f + a * (0.105096664f + a * (-0.0227860831f + a * (
        0.00318311645f + a * -0.000210181997f)))));
    float r, lost, tail = mg_exp_reduce_f32(exponent, &r, &lost, &scale);
    float power = mg_from_bits_f32((scale - 127) << 23);
    return copysignf(a < 1.0f ? small : (1.0f - power) - power * (r + tail), x);
}

/* e^(x + rest) = m first second, where rest is what x, itself rounded, lacks.  For who multiplies by
 * m first, and by second last of all: then results fade to zero as those of exp do. */
MG_INLINE float mg_exp_parts_f32(float x, float rest, float *first, float *second)
{
    uint32_t scale, half;
    float r, lost, tail = mg_exp_reduce_f32(x, &r, &lost, &scale);
    half = scale >> 1;
    *first = mg_from_bits_f32(half << 23);
    *second = mg_from_bits_f32((scale - half) << 23);
    lost += rest;
    return 1.0f + (r + (tail + lost * (1.0f + (r + tail))));
}

/* The slope of sigmoid, e / (1 + e)^2 with e = e^-|x|; that of tanh is four times the same at 2 x. */
MG_INLINE float mg_sigmoid_slope_f32(float x)
{
    float first, second, m = mg_exp_parts_f32(-fabsf(mg_clamp_f32(x, 130.0f)), 0.0f, &first, &second);
    float e = m * first * second, sum = 1.0f + e;
    return m * first / (sum * sum) * second;
}

MG_INLINE float mg_tanh_slope_f32(float x)
{
    return mg_sigmoid_slope_f32(x + x) * 4.0f;
}

/* x / (1 + e^-x) and its slope: with e = e^-|x|, so that neither tail is lost. */
MG_INLINE float mg_silu_f32(float x)
{
    float first, second, y = mg_clamp_f32(x, 130.0f);
    float m = mg_exp_parts_f32(-fabsf(y), 0.0f, &first, &second), sum = 1.0f + m * first * second;
    return x < 0.0f ? y * (m * first) / sum * second : x / sum;
}

MG_INLINE float mg_silu_slope_f32(float x)
{
    float first, second, y = mg_clamp_f32(x, 130.0f);
    float m = mg_exp_parts_f32(-fabsf(y), 0.0f, &first, &second), e = m * first * second;
    float sum = 1.0f + e;
    float rise = (x < 0.0f ? sum + y : sum + y * e) / (sum * sum);
    return x < 0.0f ? rise * (m * first) * second : rise;
}

/* x tanh(log(1 + e^x)) and its slope.  With n = e (e + 2) it is x n / (n + 2) for e = e^x; for x > 0
 * both are multiplied by powers of e = e^-x. */
MG_INLINE float mg_mish_f32(float x)
{
    float first, second, y = mg_clamp_f32(x, 130.0f);
    float m = mg_exp_parts_f32(-fabsf(y), 0.0f, &first, &second), e = m * first * second;
    float low = y * (m * first) * (e + 2.0f) / (e * (e + 2.0f) + 2.0f) * second;
    return x < 0.0f ? low : x * ((1.0f + 2.0f * e) / (1.0f + 2.0f * e * (1.0f + e)));
}

MG_INLINE float mg_mish_slope_f32(float x)
{
    float first, second, y = mg_clamp_f32(x, 130.0f);
    float m = mg_exp_parts_f32(-fabsf(y), 0.0f, &first, &second), e = m * first * second;
    float four = 4.0f * y * (1.0f + e), low = e * (e + 2.0f) + 2.0f;
    float high = 1.0f + 2.0f * e * (1.0f + e);
    low = ((e + 2.0f) * low + four) / (low * low) * (m * first) * second;
    return x < 0.0f ? low : ((1.0f + 2.0f * e) * high + four * (e * e)) / (high * high);
}

/* Φ(-a) = e^(-a^2/2) R(a), the tail of the normal distribution, for a >= 0; returns R.  In a^2 every
 * bit counts, and its half has twice as many: so a is cut in two. */
MG_INLINE float mg_normal_tail_f32(float a, float *m, float *first, float *second)
{
    float inverse = 1.0f / (a + 5.0f), t = (a - 5.0f) * inverse;
    float head = mg_from_bits_f32(mg_bits_f32(a) & 0xfffff000u), most = 0.5f * head * head;
    float less = 0.5f * (a - head) * (a + head), exponent = -most - less;
    *m = mg_exp_parts_f32(exponent, (-most - exponent) - less, first, second);
    return inverse * (
        0.76919305f + t * (-0.665382476f + t * (0.495305623f + t * (-0.313534323f + t * (
        0.16501993f + t * (-0.0691050059f + t * (0.0208054555f + t * (-0.00305275798f + t * (
        -0.000869889365f + t * (0.00062077654f + t * 9.20405754e-05f))))))))));
}

/* x Φ(x) and its slope, Φ(x) + x φ(x). */
MG_INLINE float mg_gelu_f32(float x)
{
    float m, first, second, y = mg_clamp_f32(x, 15.0f);
    float tail = mg_normal_tail_f32(fabsf(y), &m, &first, &second) * m * first;
    return x < 0.0f ? y * tail * second : x * (1.0f - tail * second);
}

MG_INLINE float mg_gelu_slope_f32(float x)
{
    float m, first, second, a = fabsf(mg_clamp_f32(x, 15.0f));
    float ratio = mg_normal_tail_f32(a, &m, &first, &second) - a * 0.398942280f;
    float tail = ratio * m * first * second;
    return x < 0.0f ? tail : 1.0f - tail;
}

/* ---- float64: the same with other constants, explained above ----------------------------- */

MG_INLINE double mg_exp_reduce_f64(double x, double *r, double *lost, uint64_t *scale)
{
    const double magic = 6755399441055744.0 + 2046.0;
    double shifted = x * 1.4426950408889634 + magic;
    double k = shifted - magic, high = x - k * 0.6931471805598903;
    double z = high - k * 5.497923018708371e-14;
    *scale = mg_bits_f64(shifted);
    *r = z;
    *lost = (high - z) - k * 5.497923018708371e-14;
    return z * z * (
        0.50000000000000133 + z * (0.16666666666666699 + z * (0.041666666666514328 + z * (
        0.0083333333333070123 + z * (0.0013888888947330847 + z * (0.00019841269917801529 + z * (
        2.480148959089345e-05 + z * (2.7557215924768996e-06 + z * (
        2.7631413688939861e-07 + z * 2.511798107126534e-08)))))))));
}

MG_INLINE double mg_clamp_f64(double x, double limit)
{
    return fabs(x) > limit ? copysign(limit, x) : x;
}

MG_INLINE double mg_exp_f64(double x)
{
    uint64_t scale, half;
    double r, lost, tail = mg_exp_reduce_f64(mg_clamp_f64(x, 746.0), &r, &lost, &scale);
    half = scale >> 1;
    return (1.0 + (r + tail)) * mg_from_bits_f64(half << 52)
           * mg_from_bits_f64((scale - half) << 52);
}

MG_INLINE double mg_expm1_f64(double x)
{
    uint64_t scale;
    double r, lost, tail = mg_exp_reduce_f64(mg_clamp_f64(x, 710.0), &r, &lost, &scale);
    double half = mg_from_bits_f64((scale - 1024) << 52);
    double y = 2.0 * (((half - 0.5) + half * r) + half * (tail + lost));
    y = x < -40.0 ? -1.0 : y;
    return fabs(x) < 1e-17 ? x : y;
}

/* Here sqrt(1/2) <= m < sqrt(2), and log(1 + f) = 2 artanh s with s = f / (2 + f), whose series in s^2
 * has a third of the terms; 2 s = f - s f, and f, the largest term, is exact. */
MG_INLINE double mg_log_sum_f64(double k, double f)
{
    double s = f / (2.0 + f), z = s * s, half = 0.5 * f * f;
    double rest = z * (
        0.66666666666667351 + z * (0.399999999994128 + z * (0.28571428742887739 + z * (
        0.22222198513841523 + z * (0.18183567807371803 + z * (
        0.1531395177464954 + z * 0.14797031199281249))))));
    return k * 0.6931471805598903 + (f - (half - (s * (half + rest) + k * 5.497923018708371e-14)));
}

MG_INLINE int mg_usual_f64(const double *x, ptrdiff_t n, double added)
{
    uint64_t worst = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        uint64_t above = mg_bits_f64(x[i] + added) - 0x0010000000000000u;
        worst = above > worst ? above : worst;
    }
    return worst < 0x7fd0000000000000u;
}

MG_INLINE double mg_log_usual_f64(double x)
{
    uint64_t bits = mg_bits_f64(x), field = (bits + 0x00095f619980c433u) & 0xfff0000000000000u;
    double f = mg_from_bits_f64(bits - field + 0x3ff0000000000000u) - 1.0;
    return mg_log_sum_f64(mg_exponent_f64(field) - 1023.0, f);
}

MG_INLINE double mg_log_f64(double x)
{
    uint64_t lift = 0x3ff0000000000000u + (x < 2.2250738585072014e-308) * ((uint64_t)52 << 52);
    uint64_t bits = mg_bits_f64(x * mg_from_bits_f64(lift));
    uint64_t field = (bits + 0x00095f619980c433u) & 0xfff0000000000000u;
    double k = mg_exponent_f64(field) - mg_exponent_f64(lift);
    double y = mg_log_sum_f64(k, mg_from_bits_f64(bits - field + 0x3ff0000000000000u) - 1.0);
    double special = x < 0.0 ? (double)NAN : (x == 0.0 ? -(double)INFINITY : x);
    return x > 0.0 && x < (double)INFINITY ? y : special;
}

MG_INLINE double mg_log1p_finite_f64(double x)
{
    double u = 1.0 + x, lost = x - (u - 1.0);
    uint64_t bits = mg_bits_f64(u), field = (bits + 0x00095f619980c433u) & 0xfff0000000000000u;
    double inverse = mg_from_bits_f64(0x7fe0000000000000u - field);
    double f = mg_from_bits_f64(bits - field + 0x3ff0000000000000u) - 1.0;
    f += u > 1e300 ? 0.0 : lost * inverse;
    return mg_log_sum_f64(mg_exponent_f64(field) - 1023.0, f);
}

MG_INLINE double mg_log1p_usual_f64(double x)
{
    double u = 1.0 + x, lost = x - (u - 1.0);
    uint64_t bits = mg_bits_f64(u), field = (bits + 0x00095f619980c433u) & 0xfff0000000000000u;
    double f = mg_from_bits_f64(bits - field + 0x3ff0000000000000u) - 1.0;
    f += lost * mg_from_bits_f64(0x7fe0000000000000u - field);
    return copysign(mg_log_sum_f64(mg_exponent_f64(field) - 1023.0, f), x);
}

MG_INLINE double mg_log1p_f64(double x)
{
    double y = mg_log1p_finite_f64(x);
    y = x < (double)INFINITY ? y : x;
    y = x > -1.0 ? y : (x == -1.0 ? -(double)INFINITY : (double)NAN);
    return fabs(x) < 1e-17 ? x : y;
}

MG_INLINE double mg_tanh_f64(double x)
{
    uint64_t scale;
    double y = -fabs(mg_clamp_f64(x, 20.0));
    double r, lost, tail = mg_exp_reduce_f64(y + y, &r, &lost, &scale), rest = r + tail;
    double power = mg_from_bits_f64((scale - 1023) << 52);
    double base = (1.0 - power) * (1.0 - power), factor = power + power * base;
    y = ((1.0 - base - factor) - factor * rest) / ((1.0 + power) + power * rest);
    return copysign(base + y, x);
}

MG_INLINE double mg_sigmoid_f64(double x)
{
    double e = mg_exp_f64(-fabs(x));
    double base = x < 0.0 ? e : 1.0;
    return base - base * (e / (1.0 + e));
}

MG_INLINE double mg_softplus_f64(double x)
{
    return (x > 0.0 ? x : 0.0) + mg_log1p_finite_f64(mg_exp_f64(-fabs(x)));
}

MG_INLINE double mg_erf_f64(double x)
{
    uint64_t scale;
    double a = fabs(mg_clamp_f64(x, 6.0)), s = a * a;
    double small = a + a * (
        0.12837916709551256 + s * (-0.37612638903183521 + s * (0.11283791670944185 + s * (
        -0.026866170643111413 + s * (0.0052239776061181135 + s * (-0.00085483259293000298 + s * (
        0.00012055293576533761 + s * (-1.4924712295970096e-05 + s * (1.6447131506868005e-06 + s * (
        -1.6206313329059389e-07 + s * (
        1.3710978771185197e-08 + s * -7.7794658160706919e-10)))))))))));
    double exponent = -a * (
        1.1283791082076851 + a * (0.63662027711485536 + a * (0.10277072254373501 + a * (
        -0.019124689137652039 + a * (-0.0002125375351325315 + a * (0.0016932751050028794 + a * (
        -0.00057533197876541008 + a * (-4.4894712887255947e-07 + a * (9.5164707183573784e-05 + a * (
        -5.5883332569043939e-05 + a * (2.0292398451088128e-05 + a * (-5.3676897830567887e-06 + a * (
        1.0740833152334149e-06 + a * (-1.6231739650435012e-07 + a * (1.8040391740841658e-08 + a * (
        -1.3944507451596893e-09 + a * (
        6.7014389192154241e-11 + a * -1.5079304167551009e-12)))))))))))))))));
    double r, lost, tail = mg_exp_reduce_f64(exponent, &r, &lost, &scale);
    double power = mg_from_bits_f64((scale - 1023) << 52);
    return copysign(a < 1.0 ? small : (1.0 - power) - power * (r + tail), x);
}

MG_INLINE double mg_exp_parts_f64(double x, double rest, double *first, double *second)
{
    uint64_t scale, half;
    double r, lost, tail = mg_exp_reduce_f64(x, &r, &lost, &scale);
    half = scale >> 1;
    *first = mg_from_bits_f64(half << 52);
    *second = mg_from_bits_f64((scale - half) << 52);
    lost += rest;
    return 1.0 + (r + (tail + lost * (1.0 + (r + tail))));
}

MG_INLINE double mg_sigmoid_slope_f64(double x)
{
    double first, second, m = mg_exp_parts_f64(-fabs(mg_clamp_f64(x, 800.0)), 0.0, &first, &second);
    double e = m * first * second, sum = 1.0 + e;
    return m * first / (sum * sum) * second;
}

MG_INLINE double mg_tanh_slope_f64(double x)
{
    return mg_sigmoid_slope_f64(x + x) * 4.0;
}

MG_INLINE double mg_silu_f64(double x)
{
    double first, second, y = mg_clamp_f64(x, 800.0);
    double m = mg_exp_parts_f64(-fabs(y), 0.0, &first, &second), sum = 1.0 + m * first * second;
    return x < 0.0 ? y * (m * first) / sum * second : x / sum;
}

MG_INLINE double mg_silu_slope_f64(double x)
{
    double first, second, y = mg_clamp_f64(x, 800.0);
    double m = mg_exp_parts_f64(-fabs(y), 0.0, &first, &second), e = m * first * second;
    double sum = 1.0 + e;
    double rise = (x < 0.0 ? sum + y : sum + y * e) / (sum * sum);
    return x < 0.0 ? rise * (m * first) * second : rise;
}

MG_INLINE double mg_mish_f64(double x)
{
    double first, second, y = mg_clamp_f64(x, 800.0);
    double m = mg_exp_parts_f64(-fabs(y), 0.0, &first, &second), e = m * first * second;
    double low = y * (m * first) * (e + 2.0) / (e * (e + 2.0) + 2.0) * second;
    return x < 0.0 ? low : x * ((1.0 + 2.0 * e) / (1.0 + 2.0 * e * (1.0 + e)));
}

MG_INLINE double mg_mish_slope_f64(double x)
{
    double first, second, y = mg_clamp_f64(x, 800.0);
    double m = mg_exp_parts_f64(-fabs(y), 0.0, &first, &second), e = m * first * second;
    double four = 4.0 * y * (1.0 + e), low = e * (e + 2.0) + 2.0;
    double high = 1.0 + 2.0 * e * (1.0 + e);
    low = ((e + 2.0) * low + four) / (low * low) * (m * first) * second;
    return x < 0.0 ? low : ((1.0 + 2.0 * e) * high + four * (e * e)) / (high * high);
}

/* Mills' ratio of the normal distribution, R(a) of mg_normal_tail. */
MG_INLINE double mg_mills_f64(double a)
{
    double inverse = 1.0 / (a + 5.0), t = (a - 5.0) * inverse;
    return inverse * (
        0.76919304975006297 + t * (-0.66538250289005674 + t * (0.4953056159699773 + t * (
        -0.31353315667129622 + t * (0.16502036617033744 + t * (-0.069118638706570007 + t * (
        0.020795066800837488 + t * (-0.0029933767667055713 + t * (-0.0007978694080078972 + t * (
        0.00054489903339012243 + t * (-5.9375674802475101e-05 + t * (-4.9762654909005338e-05 + t * (
        1.6681041255562509e-05 + t * (3.9803847013350688e-06 + t * (-2.7689525453913891e-06 + t * (
        -3.3553719872755879e-07 + t * (4.328841812895495e-07 + t * (4.0880505599388768e-08 + t * (
        -6.6011576076617339e-08 + t * (-8.2948318569630486e-09 + t * (7.9421884926212046e-09 + t * (
        1.4319860094882634e-09 + t * -3.0289376862447703e-10))))))))))))))))))))));
}

/* e^(-factor a^2) as mg_exp_parts, from a cut in two. */
MG_INLINE double mg_exp_square_f64(double a, double factor, double *first, double *second)
{
    double head = mg_from_bits_f64(mg_bits_f64(a) & 0xfffffffff8000000u), most = factor * head * head;
    double less = factor * (a - head) * (a + head), exponent = -most - less;
    return mg_exp_parts_f64(exponent, (-most - exponent) - less, first, second);
}

MG_INLINE double mg_normal_tail_f64(double a, double *m, double *first, double *second)
{
    *m = mg_exp_square_f64(a, 0.5, first, second);
    return mg_mills_f64(a);
}

/* 1 - erf x below 1/2, which loses no digit there; above 2 Φ(-x √2) = 2 e^(-x^2) R(x √2). */
MG_INLINE double mg_erfc_f64(double x)
{
    double first, second, a = fabs(mg_clamp_f64(x, 27.3));
    double m = mg_exp_square_f64(a, 1.0, &first, &second);
    double tail = 2.0 * mg_mills_f64(a * 1.4142135623730951) * m * first * second;
    return x < 0.5 ? 1.0 - mg_erf_f64(x) : tail;
}

/* In double, as float32 has no digits to spare in the argument of R. */
MG_INLINE float mg_erfc_f32(float x)
{
    return (float) mg_erfc_f64(x);
}

MG_INLINE double mg_gelu_f64(double x)
{
    double m, first, second, y = mg_clamp_f64(x, 39.0);
    double tail = mg_normal_tail_f64(fabs(y), &m, &first, &second) * m * first;
    return x < 0.0 ? y * tail * second : x * (1.0 - tail * second);
}

MG_INLINE double mg_gelu_slope_f64(double x)
{
    double m, first, second, a = fabs(mg_clamp_f64(x, 39.0));
    double ratio = mg_normal_tail_f64(a, &m, &first, &second) - a * 0.3989422804014327;
    double tail = ratio * m * first * second;
    return x < 0.0 ? tail : 1.0 - tail;
}

/* The y with erf y = x: Winitzki's approximation (2008), then twice the step of Halley, in which the
 * difference is that of erfc from 1/2 on, where erf would cancel. */
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

/* One name for both precisions. Cython sees a function of double; C picks by the argument's type. */
#define MG_BOTH(name, x) _Generic((x), float: name##_f32, double: name##_f64)(x)
#endif
