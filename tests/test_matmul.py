"""The kernel of matrix products: every tail of its tiles, every layout, its limits."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

import minigrad as mg

SIZES = (1, 2, 3, 4, 5, 7, 8, 9, 12, 16, 17, 31, 32, 33, 48, 65)
ROWS, INNER, COLUMNS = (
    (1, 3, 4, 7, 8, 11, 13),
    (0, 1, 2, 17, 127, 128, 129),
    (11, 12, 15, 16, 17, 33),
)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def layouts(a):
    """The same matrix in C order, Fortran order, reversed in memory, and with gaps."""
    gaps = np.zeros((2 * a.shape[0], 3 * a.shape[1]), a.dtype)[::2, ::3]
    gaps[...] = a
    return a, np.asfortranarray(a), a[::-1, ::-1].copy()[::-1, ::-1], gaps


def close(product, a, b, bias=0.0):
    """Within the rounding of a sum of a.shape[1] products in float32."""
    exact = a.astype(np.float64) @ b + bias
    bound = (np.abs(a).astype(np.float64) @ np.abs(b) + np.abs(bias)) * 2.0**-24 * (a.shape[1] + 2)
    assert product.shape == exact.shape and product.dtype == np.float32
    assert (np.abs(product.numpy() - exact) <= bound).all()


@pytest.mark.parametrize("inner", INNER)
def test_every_tail_and_both_sides_of_the_limits(inner):
    for rows, columns in itertools.product(ROWS, COLUMNS):
        a, b = random(rows, inner), random(inner, columns, seed=1)
        close(mg.tensor(a) @ mg.tensor(b), a, b)


def test_square_sizes_up_to_where_blas_takes_over():
    for n in SIZES:
        a, b = random(n, n), random(n, n, seed=1)
        close(mg.tensor(a) @ mg.tensor(b), a, b)


@pytest.mark.parametrize("shape", [(9, 20, 18), (4, 3, 40), (1, 16, 16), (13, 64, 50)])
def test_layouts(shape):
    rows, inner, columns = shape
    a, b = random(rows, inner), random(inner, columns, seed=1)
    for left, right in itertools.product(layouts(a), layouts(b)):
        close(mg.asarray(left) @ mg.asarray(right), a, b)
    repeated = np.broadcast_to(b[:1], b.shape)
    close(mg.asarray(a) @ mg.asarray(repeated), a, repeated)


@pytest.mark.parametrize("shape", [(5, 8, 16), (9, 20, 18), (3, 4, 5), (40, 130, 50)])
def test_linear_adds_the_bias_to_each_row(shape):
    rows, inner, columns = shape
    a, w, bias = random(rows, inner), random(columns, inner, seed=1), random(columns, seed=2)
    close(mg.linear(mg.tensor(a), mg.tensor(w), mg.tensor(bias)), a, w.T, bias)
    spread = np.repeat(bias, 2)[::2]
    close(mg.linear(mg.tensor(a), mg.tensor(w), mg.asarray(spread)), a, w.T, bias)


def test_nan_and_inf_stay_in_their_row_and_column():
    a, b = np.ones((9, 5), np.float32), np.ones((5, 19), np.float32)
    a[2, 3], b[1, 7] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        expected, found = a @ b, mg.tensor(a) @ mg.tensor(b)
    np.testing.assert_array_equal(found.numpy(), expected)


LARGER = """
import numpy as np, minigrad as mg
from minigrad._core.products import threads_of_blas
assert threads_of_blas() == 1
random = np.random.default_rng(0)
for rows, inner, columns in [
    (512, 193, 32), (193, 512, 33), (128, 784, 256), (40, 1024, 48), (13, 1025, 20), (70, 300, 141),
    (512, 256, 193), (30, 95, 35), (30, 33, 66), (30, 20, 36),
]:
    a = random.standard_normal((rows, inner)).astype("f")
    b = random.standard_normal((inner, columns)).astype("f")
    bias = random.standard_normal(columns).astype("f")
    exact = a.astype(float) @ b
    for left in (a, np.asfortranarray(a)):
        for right in (b, np.asfortranarray(b)):
            found = (mg.asarray(left) @ mg.asarray(right)).numpy()
            assert np.abs(found - exact).max() < 1e-6 * inner, (rows, inner, columns)
    found = mg.linear(mg.tensor(a), mg.tensor(b.T), mg.tensor(bias)).numpy()
    assert np.abs(found - exact - bias).max() < 1e-6 * inner
"""


def test_larger_products_where_blas_has_one_thread():
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    subprocess.run([sys.executable, "-c", LARGER], env=environment, check=True)


def run(kernel, *arguments):
    environment = {**os.environ, "MINIGRAD_MATMUL": kernel}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kernel", ["avx2", "blas"])
def test_this_file_with_the_other_kernels(kernel):
    name = run(kernel, "-c", "from minigrad._core.products import name_of_kernel as n; print(n())")
    if "if the processor has it" in name.stderr:
        pytest.skip(f"this processor has no {kernel}")
    assert name.stdout == f"{kernel}\n", name.stderr
    here = run(kernel, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "not kernel")
    assert here.returncode == 0, here.stdout


def test_an_unknown_kernel_is_refused():
    result = run("mmx", "-c", "import minigrad")
    assert "MINIGRAD_MATMUL is 'mmx': expected avx512 or avx2" in result.stderr
