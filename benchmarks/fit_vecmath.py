"""Fit the polynomials of minigrad/_core/fast/vecmath.h.

Every function of the header reduces to a polynomial on a short interval.  This script recomputes
the polynomials, to check or change the header: for each polynomial it prints the largest error (as
a power of two, before the coefficients are rounded) and the nested expression used in the header.

Method: the exchange algorithm of Remez (1934) on a fixed grid of Chebyshev points, in 60-digit
arithmetic.  A trial polynomial is given errors of equal size and alternating sign at n + 2 grid
points; the points then move to the extremes of its error, until they no longer change.  The error
is weighted, so that the error of the finished function is minimised:

    exp    e^z = 1 + z + z^2 P(z)                   relative, |z| <= ln(2)/2
    log    log(1+f) = f - f^2/2 + f^3 P(f)          relative, -1/4 <= f <= 1/2        (float32)
    artanh log(1+f) = 2 s + s^3 P(s^2), s = f/(2+f)  relative, sqrt(1/2) <= 1+f <= sqrt(2) (float64)
    erf    erf(x) = x + x P(x^2)                    relative, |x| <= 1
    erfc   erf(x) = 1 - exp(-x P(x))                absolute, 1 <= x <= where erf rounds to 1
    tail   Φ(-x) = exp(-x^2/2) P(t) / (x + 5)       relative, 0 <= x <= where Φ(-x) rounds to 0,
           t = (x - 5) / (x + 5)                    (after Shepherd & Laframboise 1981)

It also prints ln 2 as the sum of two numbers; the first is short enough for k times it to be exact.
"""

import argparse

from mpmath import mp, mpf

mp.dps = 60


def remez(target, weight, low, high, degree, grid_size=1200, rounds=60):
    """Coefficients (constant term first) minimising max |weight * (target - polynomial)|."""
    middle, half = mpf(low + high) / 2, mpf(high - low) / 2
    grid = [middle - half * mp.cos(mp.pi * (i + mpf(1) / 2) / grid_size) for i in range(grid_size)]
    values, weights = [target(x) for x in grid], [weight(x) for x in grid]
    count = degree + 2
    chosen = [int(grid_size * (i + 0.5) / count) for i in range(count)]
    for _ in range(rounds):
        matrix = mp.matrix(count, count)
        for row, i in enumerate(chosen):
            for power in range(degree + 1):
                matrix[row, power] = grid[i] ** power
            matrix[row, degree + 1] = (-1) ** row / weights[i]
        solution = list(mp.lu_solve(matrix, mp.matrix([values[i] for i in chosen])))
        coefficients = solution[:-1]
        errors = [
            w * (v - mp.polyval(coefficients[::-1], x))
            for x, v, w in zip(grid, values, weights, strict=True)
        ]
        moved = alternating_extremes(errors, count)
        if moved == chosen:
            break
        chosen = moved
    return coefficients, max(abs(e) for e in errors)


def alternating_extremes(errors, count):
    """Indices of `count` extremes of the error with alternating sign."""
    extremes = []
    for i, error in enumerate(errors):
        if extremes and (errors[extremes[-1]] > 0) == (error > 0):
            if abs(error) > abs(errors[extremes[-1]]):
                extremes[-1] = i
        else:
            extremes.append(i)
    while len(extremes) > count:  # drop the weaker end, which keeps the alternation
        weaker_first = abs(errors[extremes[0]]) < abs(errors[extremes[-1]])
        extremes.pop(0 if weaker_first else -1)
    return extremes


def near_zero(series, closed):
    """The closed form, except within 1e-8 of zero, where a short series replaces 0/0."""
    return lambda x: series(x) if abs(x) < mpf(10) ** -8 else closed(x)


def problems():
    """Name, target, weight, interval and degree of every polynomial of the header."""
    half_log2 = mp.log(2) / 2 * mpf("1.001")
    exp_rest = near_zero(
        lambda r: mpf(1) / 2 + r / 6 + r * r / 24, lambda r: (mp.expm1(r) - r) / r**2
    )
    log_rest = near_zero(
        lambda f: mpf(1) / 3 - f / 4 + f * f / 5, lambda f: (mp.log1p(f) - f + f * f / 2) / f**3
    )
    log_weight = near_zero(lambda f: f * f, lambda f: f**3 / mp.log1p(f))
    artanh_rest = near_zero(
        lambda z: mpf(2) / 3 + 2 * z / 5 + 2 * z * z / 7,
        lambda z: 2 * (mp.atanh(mp.sqrt(z)) - mp.sqrt(z)) / mp.sqrt(z) ** 3,
    )
    artanh_weight = near_zero(
        lambda z: z / 2, lambda z: mp.sqrt(z) ** 3 / (2 * mp.atanh(mp.sqrt(z)))
    )
    artanh_end = (mp.sqrt(2) - 1) ** 4 * mpf("1.001")  # of s^2
    erf_slope = 2 / mp.sqrt(mp.pi)
    erf_rest = near_zero(
        lambda s: erf_slope * (1 - s / 3) - 1, lambda s: mp.erf(mp.sqrt(s)) / mp.sqrt(s) - 1
    )
    erf_weight = near_zero(lambda s: 1 / erf_slope, lambda s: mp.sqrt(s) / mp.erf(mp.sqrt(s)))

    def erfc_exponent(x):
        return -mp.log(mp.erfc(x)) / x

    def erfc_weight(x):
        return x * mp.erfc(x)

    def tail(t):
        x = 5 * (1 + t) / (1 - t)
        return mp.erfc(x / mp.sqrt(2)) / 2 * mp.exp(x * x / 2) * (x + 5)

    yield "log_f32", "f", log_rest, log_weight, -mpf(1) / 4, mpf(1) / 2, 7
    yield "log_f64", "z", artanh_rest, artanh_weight, mpf(0), artanh_end, 6
    for name, exp_degree, cut, erf_degree, end, erfc_degree, far, tail_degree in (
        ("f32", 4, 1, 6, 4, 5, 15, 10),
        ("f64", 9, 1, 11, 6, 17, 39, 22),
    ):
        yield f"exp_{name}", "z", exp_rest, lambda r: r * r, -half_log2, half_log2, exp_degree
        yield f"erf_{name}", "s", erf_rest, erf_weight, mpf(0), mpf(cut), erf_degree
        yield f"erfc_{name}", "a", erfc_exponent, erfc_weight, mpf(cut), mpf(end), erfc_degree
        tail_end = mpf(far - 5) / (far + 5)
        yield f"tail_{name}", "t", tail, lambda t: 1 / tail(t), mpf(-1), tail_end, tail_degree


def nested(coefficients, variable, single, width=92):
    """The polynomial as a nested C expression, in lines no wider than `width`."""
    digits, suffix = (9, "f") if single else (17, "")
    words = [f"{float(c):.{digits}g}{suffix}" for c in coefficients]
    words = [w if "." in w or "e" in w else w.replace("f", "") + ".0" + suffix for w in words]
    pieces = [f"{w} + {variable} * (" for w in words[:-2]]
    pieces += [f"{words[-2]} + {variable} * {words[-1]}" + ")" * (len(words) - 2) + ";"]
    lines = [""]
    for piece in pieces:
        if len(lines[-1]) + len(piece) > width:
            lines.append("")
        lines[-1] += piece
    return "\n".join("        " + line.rstrip() for line in lines)


def main():
    """Print every table whose name contains the argument."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="fit only the names that contain this text")
    only = parser.parse_args().only
    for name, bits in (("ln2_f32", 16), ("ln2_f64", 42)):
        first = mp.nint(mp.log(2) * 2**bits) / 2**bits
        print(f"{name}: {float(first)!r} + {float(mp.log(2) - first)!r}")
    for name, variable, target, weight, low, high, degree in problems():
        if only in name:
            coefficients, error = remez(target, weight, low, high, degree)
            print(f"{name}: degree {degree}, error 2^{float(mp.log(error, 2)):.1f}")
            print(nested(coefficients, variable, name.endswith("f32")))


if __name__ == "__main__":
    main()
