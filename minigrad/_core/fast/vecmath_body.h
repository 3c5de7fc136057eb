/* The functions of vecmath.h for one precision. vecmath.h includes this file once for each, and
 * documents the macros. */

/* ---- The bits of a number, and back ------------------------------------------------------ */

MG_INLINE MG_BITS MG_NAME(bits)(MG_REAL x) { MG_BITS u; memcpy(&u, &x, sizeof u); return u; }
MG_INLINE MG_REAL MG_NAME(from_bits)(MG_BITS u) { MG_REAL x; memcpy(&x, &u, sizeof x); return x; }

/* The exponent field as a number.  Few machines convert 64-bit integers; as the low bits of 2^52
 * they need no conversion. */
MG_INLINE MG_REAL MG_NAME(exponent)(MG_BITS bits)
{
    return MG_PICK((float) (int32_t) (bits >> 23),
                   mg_from_bits_f64((bits >> 52) | 0x4330000000000000u) - 4503599627370496.0);
}

/* x clamped to -limit..limit.  (With a constant instead of copysign gcc would compute both outcomes.) */
MG_INLINE MG_REAL MG_NAME(clamp)(MG_REAL x, MG_REAL limit)
{
    return MG_ABS(x) > limit ? MG_COPYSIGN(limit, x) : x;
}

/* ---- Powers of e ------------------------------------------------------------------------- */

/* e^r - 1 - r, |r| <= ln(2)/2. */
MG_INLINE MG_REAL MG_NAME(exp_tail)(MG_REAL r)
{
    return r * r * MG_PICK((
        0.50000001f + r * (0.166665183f + r * (0.0416662042f + r * (
        0.00836895345f + r * 0.00139505998f)))), (
        0.50000000000000133 + r * (0.16666666666666699 + r * (0.041666666666514328 + r * (
        0.0083333333333070123 + r * (0.0013888888947330847 + r * (0.00019841269917801529 + r * (
        2.480148959089345e-05 + r * (2.7557215924768996e-06 + r * (
        2.7631413688939861e-07 + r * 2.511798107126534e-08))))))))));
}

/* x = k ln 2 + r, |r| <= ln(2)/2.  *scale holds k plus twice the exponent bias.  Returns e^r - 1 - r;
 * *lost is the rounding error of *r. */
MG_INLINE MG_REAL MG_NAME(exp_reduce)(MG_REAL x, MG_REAL *r, MG_REAL *lost, MG_BITS *scale)
{
    MG_REAL shifted = x * MG_PICK(1.44269504f, 1.4426950408889634) + MG_ROUNDER;
    MG_REAL k = shifted - MG_ROUNDER, high = x - k * MG_LN2_HIGH;
    MG_REAL z = high - k * MG_LN2_LOW;
    *scale = MG_NAME(bits)(shifted);
    *r = z;
    *lost = (high - z) - k * MG_LN2_LOW;
    return MG_NAME(exp_tail)(z);
}

/* e^x = 2^k e^r.  2^k is two factors, each in range even if 2^k is not. Only the last product rounds,
 * so results underflow gradually, through the subnormal numbers. */
MG_INLINE MG_REAL MG_NAME(exp)(MG_REAL x)
{
    MG_BITS scale, half;
    MG_REAL r, lost, y = MG_NAME(clamp)(x, MG_PICK(104, 746));
    MG_REAL tail = MG_NAME(exp_reduce)(y, &r, &lost, &scale);
    half = scale >> 1;
    return (1 + (r + tail)) * MG_NAME(from_bits)(half << MG_FRACTION)
           * MG_NAME(from_bits)((scale - half) << MG_FRACTION);
}

/* (2^k - 1) + 2^k (e^r - 1), computed at half its size because 2^128 (2^1024) would overflow. */
MG_INLINE MG_REAL MG_NAME(expm1)(MG_REAL x)
{
    MG_BITS scale;
    MG_REAL r, lost, y = MG_NAME(clamp)(x, MG_PICK(89, 710));
    MG_REAL tail = MG_NAME(exp_reduce)(y, &r, &lost, &scale);
    MG_REAL half = MG_NAME(from_bits)((scale - MG_BIAS - 1) << MG_FRACTION);
    y = 2 * (((half - MG_HALF) + half * r) + half * (tail + lost));
    y = x < MG_PICK(-20, -40) ? -1 : y;
    return MG_ABS(x) < MG_PICK(1e-8f, 1e-17) ? x : y;
}

/* e^(x + rest) = m first second, where rest is the rounding error of x.  The caller multiplies by m
 * first, and by `second` last of all, so that results underflow gradually, like those of exp. */
MG_INLINE MG_REAL MG_NAME(exp_parts)(MG_REAL x, MG_REAL rest, MG_REAL *first, MG_REAL *second)
{
    MG_BITS scale, half;
    MG_REAL r, lost, tail = MG_NAME(exp_reduce)(x, &r, &lost, &scale);
    half = scale >> 1;
    *first = MG_NAME(from_bits)(half << MG_FRACTION);
    *second = MG_NAME(from_bits)((scale - half) << MG_FRACTION);
    lost += rest;
    return 1 + (r + (tail + lost * (1 + (r + tail))));
}

/* ---- Logarithms -------------------------------------------------------------------------- */

/* The exponent field, in its place, of 2^k, where x = 2^k m with 3/4 <= m < 3/2 (in double sqrt(1/2)
 * <= m < sqrt(2)): part of a unit of the field, added, carries larger m into the next exponent. */
MG_INLINE MG_BITS MG_NAME(log_field)(MG_BITS bits)
{
    return (bits + MG_PICK(0x00400000u, 0x00095f619980c433u)) & ~(MG_UNIT - 1);
}

/* k ln 2 + log(1 + f), smallest terms first.  In double log(1 + f) is 2 artanh s, s = f / (2 + f),
 * whose series in s^2 has a third of the terms; 2 s = f - s f, and f, the largest term, is exact. */
MG_INLINE MG_REAL MG_NAME(log_sum)(MG_REAL k, MG_REAL f)
{
#if MG_PICK(1, 0)
    float tail = f * (
        0.333334491f + f * (-0.250000958f + f * (0.199908614f + f * (-0.166473126f + f * (
        0.14478394f + f * (-0.131611881f + f * (0.104630158f + f * -0.0450747855f)))))));
    return k * MG_LN2_HIGH + (f + (f * f * (tail - 0.5f) + k * MG_LN2_LOW));
#else
    double s = f / (2 + f), z = s * s, half = 0.5 * f * f;
    double rest = z * (
        0.66666666666667351 + z * (0.399999999994128 + z * (0.28571428742887739 + z * (
        0.22222198513841523 + z * (0.18183567807371803 + z * (
        0.1531395177464954 + z * 0.14797031199281249))))));
    return k * MG_LN2_HIGH + (f - (half - (s * (half + rest) + k * MG_LN2_LOW)));
#endif
}

/* Whether all numbers, plus 1 for log1p, are positive, normal and far from overflow: then the
 * functions that follow are enough, and save a quarter of the work. */
MG_INLINE int MG_NAME(usual)(const MG_REAL *x, ptrdiff_t n, MG_REAL added)
{
    MG_BITS worst = 0;
    for (ptrdiff_t i = 0; i < n; i++) {
        MG_BITS above = MG_NAME(bits)(x[i] + added) - MG_UNIT;
        worst = above > worst ? above : worst;
    }
    return worst < (2 * MG_BIAS - 1) * MG_UNIT;
}

MG_INLINE MG_REAL MG_NAME(log_usual)(MG_REAL x)
{
    MG_BITS bits = MG_NAME(bits)(x), field = MG_NAME(log_field)(bits);
    MG_REAL f = MG_NAME(from_bits)(bits - field + MG_ONE) - 1;
    return MG_NAME(log_sum)(MG_NAME(exponent)(field) - MG_BIAS, f);
}

/* A subnormal x is first scaled to a normal number, by 2^23 (2^52). */
MG_INLINE MG_REAL MG_NAME(log)(MG_REAL x)
{
    MG_REAL least = MG_PICK(1.17549435e-38f, 2.2250738585072014e-308);
    MG_BITS lift = MG_ONE + (x < least) * (MG_FRACTION * MG_UNIT);
    MG_BITS bits = MG_NAME(bits)(x * MG_NAME(from_bits)(lift)), field = MG_NAME(log_field)(bits);
    MG_REAL k = MG_NAME(exponent)(field) - MG_NAME(exponent)(lift);
    MG_REAL y = MG_NAME(log_sum)(k, MG_NAME(from_bits)(bits - field + MG_ONE) - 1);
    MG_REAL special = x < 0 ? (MG_REAL) NAN : (x == 0 ? -MG_INFINITY : x);
    return x > 0 && x < MG_INFINITY ? y : special;
}

/* log(1 + x), x > -1: u = 1 + x, rounded, is 2^k m, and x - (u - 1) is the rounding error. */
MG_INLINE MG_REAL MG_NAME(log1p_finite)(MG_REAL x)
{
    MG_REAL u = 1 + x, lost = x - (u - 1);
    MG_BITS bits = MG_NAME(bits)(u), field = MG_NAME(log_field)(bits);
    MG_REAL inverse = MG_NAME(from_bits)(2 * MG_ONE - field);   /* 2^-k */
    MG_REAL f = MG_NAME(from_bits)(bits - field + MG_ONE) - 1;
    f += u > MG_PICK(1e30f, 1e300) ? 0 : lost * inverse;    /* nothing lost, and 2^-k out of range */
    return MG_NAME(log_sum)(MG_NAME(exponent)(field) - MG_BIAS, f);
}

MG_INLINE MG_REAL MG_NAME(log1p_usual)(MG_REAL x)
{
    MG_REAL u = 1 + x, lost = x - (u - 1);
    MG_BITS bits = MG_NAME(bits)(u), field = MG_NAME(log_field)(bits);
    MG_REAL f = MG_NAME(from_bits)(bits - field + MG_ONE) - 1;
    f += lost * MG_NAME(from_bits)(2 * MG_ONE - field);
    return MG_COPYSIGN(MG_NAME(log_sum)(MG_NAME(exponent)(field) - MG_BIAS, f), x);
}

MG_INLINE MG_REAL MG_NAME(log1p)(MG_REAL x)
{
    MG_REAL y = MG_NAME(log1p_finite)(x);
    y = x < MG_INFINITY ? y : x;
    y = x > -1 ? y : (x == -1 ? -MG_INFINITY : (MG_REAL) NAN);
    return MG_ABS(x) < MG_PICK(1e-8f, 1e-17) ? x : y;
}

/* ---- Activations and their slopes -------------------------------------------------------- */

/* With e = e^-2|x|, tanh |x| = base + (1 - base - (1 + base) e) / (1 + e) for any base.  A base near
 * the result gives a small quotient with small rounding errors: (1 - 2^k)^2, where e = 2^k e^r.
 * In float, ln 2 in one part saves 7 % of the time: its error in r matters less for larger k, and
 * not at all at 0. */
MG_INLINE MG_REAL MG_NAME(tanh)(MG_REAL x)
{
    MG_BITS scale;
    MG_REAL r, rest, y = -MG_ABS(MG_NAME(clamp)(x, MG_PICK(10, 20)));
#if MG_PICK(1, 0)
    float shifted = y * 2.88539008f + MG_ROUNDER;
    scale = mg_bits_f32(shifted);
    r = y + y - (shifted - MG_ROUNDER) * 0.693147182f;
    rest = r + mg_exp_tail_f32(r);
#else
    double lost, tail = mg_exp_reduce_f64(y + y, &r, &lost, &scale);
    rest = r + tail;
#endif
    MG_REAL power = MG_NAME(from_bits)((scale - MG_BIAS) << MG_FRACTION);
    MG_REAL base = (1 - power) * (1 - power), factor = power + power * base;
    y = ((1 - base - factor) - factor * rest) / ((1 + power) + power * rest);
    return MG_COPYSIGN(base + y, x);
}

/* With e = e^-|x| and q = e / (1 + e): 1 - q for x >= 0, and q = e - e q for x < 0. */
MG_INLINE MG_REAL MG_NAME(sigmoid)(MG_REAL x)
{
    MG_REAL e = MG_NAME(exp)(-MG_ABS(x));
    MG_REAL base = x < 0 ? e : 1;
    return base - base * (e / (1 + e));
}

/* log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), which does not overflow. */
MG_INLINE MG_REAL MG_NAME(softplus)(MG_REAL x)
{
    return (x > 0 ? x : 0) + MG_NAME(log1p_finite)(MG_NAME(exp)(-MG_ABS(x)));
}

/* The slope of sigmoid, e / (1 + e)^2 with e = e^-|x|; that of tanh is four times the same at 2 x. */
MG_INLINE MG_REAL MG_NAME(sigmoid_slope)(MG_REAL x)
{
    MG_REAL first, second, y = MG_NAME(clamp)(x, MG_PICK(130, 800));
    MG_REAL m = MG_NAME(exp_parts)(-MG_ABS(y), 0, &first, &second);
    MG_REAL e = m * first * second, sum = 1 + e;
    return m * first / (sum * sum) * second;
}

MG_INLINE MG_REAL MG_NAME(tanh_slope)(MG_REAL x)
{
    return MG_NAME(sigmoid_slope)(x + x) * 4;
}

/* x / (1 + e^-x) and its slope, with e = e^-|x|: accurate in both tails. */
MG_INLINE MG_REAL MG_NAME(silu)(MG_REAL x)
{
    MG_REAL first, second, y = MG_NAME(clamp)(x, MG_PICK(130, 800));
    MG_REAL m = MG_NAME(exp_parts)(-MG_ABS(y), 0, &first, &second), sum = 1 + m * first * second;
    return x < 0 ? y * (m * first) / sum * second : x / sum;
}

MG_INLINE MG_REAL MG_NAME(silu_slope)(MG_REAL x)
{
    MG_REAL first, second, y = MG_NAME(clamp)(x, MG_PICK(130, 800));
    MG_REAL m = MG_NAME(exp_parts)(-MG_ABS(y), 0, &first, &second), e = m * first * second;
    MG_REAL sum = 1 + e;
    MG_REAL rise = (x < 0 ? sum + y : sum + y * e) / (sum * sum);
    return x < 0 ? rise * (m * first) * second : rise;
}

/* x tanh(log(1 + e^x)) and its slope.  With n = e (e + 2) it is x n / (n + 2) for e = e^x; for x > 0
 * both are multiplied by powers of e = e^-x. */
MG_INLINE MG_REAL MG_NAME(mish)(MG_REAL x)
{
    MG_REAL first, second, y = MG_NAME(clamp)(x, MG_PICK(130, 800));
    MG_REAL m = MG_NAME(exp_parts)(-MG_ABS(y), 0, &first, &second), e = m * first * second;
    MG_REAL low = y * (m * first) * (e + 2) / (e * (e + 2) + 2) * second;
    return x < 0 ? low : x * ((1 + 2 * e) / (1 + 2 * e * (1 + e)));
}

MG_INLINE MG_REAL MG_NAME(mish_slope)(MG_REAL x)
{
    MG_REAL first, second, y = MG_NAME(clamp)(x, MG_PICK(130, 800));
    MG_REAL m = MG_NAME(exp_parts)(-MG_ABS(y), 0, &first, &second), e = m * first * second;
    MG_REAL four = 4 * y * (1 + e), low = e * (e + 2) + 2;
    MG_REAL high = 1 + 2 * e * (1 + e);
    low = ((e + 2) * low + four) / (low * low) * (m * first) * second;
    return x < 0 ? low : ((1 + 2 * e) * high + four * (e * e)) / (high * high);
}

/* ---- The normal distribution ------------------------------------------------------------- */

/* erf |x| = |x| + |x| P(x^2) up to 1, then 1 - exp(-|x| P(|x|)) until that rounds to 1. */
MG_INLINE MG_REAL MG_NAME(erf)(MG_REAL x)
{
    MG_BITS scale;
    MG_REAL a = MG_ABS(MG_NAME(clamp)(x, MG_PICK(4, 6))), s = a * a;
    MG_REAL small = a + a * MG_PICK((
        0.128379166f + s * (-0.376126258f + s * (0.112835851f + s * (-0.0268538119f + s * (
        0.00518832759f + s * (-0.000801019287f + s * 7.85385902e-05f)))))), (
        0.12837916709551256 + s * (-0.37612638903183521 + s * (0.11283791670944185 + s * (
        -0.026866170643111413 + s * (0.0052239776061181135 + s * (-0.00085483259293000298 + s * (
        0.00012055293576533761 + s * (-1.4924712295970096e-05 + s * (1.6447131506868005e-06 + s * (
        -1.6206313329059389e-07 + s * (
        1.3710978771185197e-08 + s * -7.7794658160706919e-10))))))))))));
    MG_REAL exponent = -a * MG_PICK((
        1.12847558f + a * (0.635846404f + a * (0.105096664f + a * (-0.0227860831f + a * (
        0.00318311645f + a * -0.000210181997f))))), (
        1.1283791082076851 + a * (0.63662027711485536 + a * (0.10277072254373501 + a * (
        -0.019124689137652039 + a * (-0.0002125375351325315 + a * (0.0016932751050028794 + a * (
        -0.00057533197876541008 + a * (-4.4894712887255947e-07 + a * (9.5164707183573784e-05 + a * (
        -5.5883332569043939e-05 + a * (2.0292398451088128e-05 + a * (-5.3676897830567887e-06 + a * (
        1.0740833152334149e-06 + a * (-1.6231739650435012e-07 + a * (1.8040391740841658e-08 + a * (
        -1.3944507451596893e-09 + a * (
        6.7014389192154241e-11 + a * -1.5079304167551009e-12))))))))))))))))));
    MG_REAL r, lost, tail = MG_NAME(exp_reduce)(exponent, &r, &lost, &scale);
    MG_REAL power = MG_NAME(from_bits)((scale - MG_BIAS) << MG_FRACTION);
    return MG_COPYSIGN(a < 1 ? small : (1 - power) - power * (r + tail), x);
}

/* e^(-factor a^2), as in exp_parts.  Every bit of a^2 matters, and it has twice as many, so a is
 * split in two. */
MG_INLINE MG_REAL MG_NAME(exp_square)(MG_REAL a, MG_REAL factor, MG_REAL *first, MG_REAL *second)
{
    MG_BITS cut = MG_PICK(0xfffff000u, 0xfffffffff8000000u);
    MG_REAL head = MG_NAME(from_bits)(MG_NAME(bits)(a) & cut), most = factor * head * head;
    MG_REAL less = factor * (a - head) * (a + head), exponent = -most - less;
    return MG_NAME(exp_parts)(exponent, (-most - exponent) - less, first, second);
}

/* Mills' ratio R(a) for a >= 0: the tail of the normal distribution is Φ(-a) = e^(-a^2/2) R(a). */
MG_INLINE MG_REAL MG_NAME(mills)(MG_REAL a)
{
    MG_REAL inverse = 1 / (a + 5), t = (a - 5) * inverse;
    return inverse * MG_PICK((
        0.76919305f + t * (-0.665382476f + t * (0.495305623f + t * (-0.313534323f + t * (
        0.16501993f + t * (-0.0691050059f + t * (0.0208054555f + t * (-0.00305275798f + t * (
        -0.000869889365f + t * (0.00062077654f + t * 9.20405754e-05f)))))))))), (
        0.76919304975006297 + t * (-0.66538250289005674 + t * (0.4953056159699773 + t * (
        -0.31353315667129622 + t * (0.16502036617033744 + t * (-0.069118638706570007 + t * (
        0.020795066800837488 + t * (-0.0029933767667055713 + t * (-0.0007978694080078972 + t * (
        0.00054489903339012243 + t * (-5.9375674802475101e-05 + t * (-4.9762654909005338e-05 + t * (
        1.6681041255562509e-05 + t * (3.9803847013350688e-06 + t * (-2.7689525453913891e-06 + t * (
        -3.3553719872755879e-07 + t * (4.328841812895495e-07 + t * (4.0880505599388768e-08 + t * (
        -6.6011576076617339e-08 + t * (-8.2948318569630486e-09 + t * (7.9421884926212046e-09 + t * (
        1.4319860094882634e-09 + t * -3.0289376862447703e-10)))))))))))))))))))))));
}

/* x Φ(x) and its slope, Φ(x) + x φ(x). */
MG_INLINE MG_REAL MG_NAME(gelu)(MG_REAL x)
{
    MG_REAL first, second, y = MG_NAME(clamp)(x, MG_PICK(15, 39)), a = MG_ABS(y);
    MG_REAL m = MG_NAME(exp_square)(a, MG_HALF, &first, &second);
    MG_REAL tail = MG_NAME(mills)(a) * m * first;
    return x < 0 ? y * tail * second : x * (1 - tail * second);
}

MG_INLINE MG_REAL MG_NAME(gelu_slope)(MG_REAL x)
{
    MG_REAL first, second, a = MG_ABS(MG_NAME(clamp)(x, MG_PICK(15, 39)));
    MG_REAL m = MG_NAME(exp_square)(a, MG_HALF, &first, &second);
    MG_REAL ratio = MG_NAME(mills)(a) - a * MG_PICK(0.398942280f, 0.3989422804014327);
    MG_REAL tail = ratio * m * first * second;
    return x < 0 ? tail : 1 - tail;
}

#undef MG_NAME
#undef MG_REAL
#undef MG_BITS
#undef MG_FRACTION
#undef MG_BIAS
#undef MG_PICK
