"""The matrix product kernel: every tail of its tiles, every layout, its limits."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import minigrad as mg
from minigrad._core.fast.loops import set_threads
from minigrad._core.fast.products import name_of_kernel

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


@pytest.mark.parametrize("shape", [(5, 8, 16), (3, 4, 5), (200, 300, 150)])
def test_a_stack_of_linear_adds_each_bias(shape):
    rows, inner, columns = shape
    a, w = random(3, rows, inner), random(3, columns, inner, seed=1)
    bias = random(3, columns, seed=2)
    found = mg.linear(mg.tensor(a), mg.tensor(w), mg.tensor(bias)).numpy()
    for member in range(3):
        one = mg.linear(*(mg.tensor(part[member]) for part in (a, w, bias)))
        np.testing.assert_array_equal(found[member], one.numpy())
    shared = mg.broadcast_to(mg.tensor(a[0]), a.shape)
    close(mg.linear(shared, mg.tensor(w))[2], a[0], w[2].T)
    with pytest.raises(ValueError, match=r"or a stack of each: \(K, N, in\)"):
        mg.linear(mg.tensor(a[:2]), mg.tensor(w))


def test_nan_and_inf_stay_in_their_row_and_column():
    a, b = np.ones((9, 5), np.float32), np.ones((5, 19), np.float32)
    a[2, 3], b[1, 7] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        expected, found = a @ b, mg.tensor(a) @ mg.tensor(b)
    np.testing.assert_array_equal(found.numpy(), expected)


LARGER = [
    (512, 193, 32), (193, 512, 33), (128, 784, 256), (40, 1024, 48), (13, 1025, 20), (70, 300, 141),
    (512, 256, 193), (30, 95, 35), (30, 33, 66), (30, 20, 36), (250, 2100, 300), (9, 9000, 70),
]  # fmt: skip
NARROW = [
    (3, 70, 40),
    (1, 300, 50),
    (90, 65, 1),
    (90, 200, 5),
    (200, 64, 11),
    (1, 500, 1),
    (2, 64, 2),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", LARGER + NARROW)
def test_blocks_and_dot_products(shape, dtype):
    rows, inner, columns = shape
    a, b = random(rows, inner).astype(dtype), random(inner, columns, seed=1).astype(dtype)
    bias, exact = (
        random(columns, seed=2).astype(dtype),
        a.astype(np.longdouble) @ b.astype(np.longdouble),
    )
    bound = (
        (np.abs(a) @ np.abs(b) + np.abs(bias)) * np.finfo(dtype).eps * (min(inner, 1024) + 12) / 2
    )
    for left, right in itertools.product(layouts(a), layouts(b)):
        found = (mg.asarray(left) @ mg.asarray(right)).numpy()
        assert found.dtype == dtype and (np.abs(found - exact) <= bound).all()
    found = mg.linear(mg.tensor(a), mg.asarray(b.T), mg.tensor(bias)).numpy()
    assert (np.abs(found - exact - bias) <= bound).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_stacks(dtype):
    for left, right in [
        ((5, 4, 3), (5, 3, 20)),
        ((2, 3, 9, 40), (3, 40, 17)),
        ((6, 1, 4, 5), (2, 5, 6)),
        ((0, 3, 4), (4, 5)),
        ((3, 2, 0), (3, 0, 4)),
        ((3, 300, 1100), (1, 1100, 40)),
        ((4, 5, 70), (4, 70, 1)),
    ]:
        a, b = random(*left).astype(dtype), random(*right, seed=1).astype(dtype)
        exact = np.matmul(a.astype(np.longdouble), b.astype(np.longdouble))
        inner = min(left[-1], 1024)
        bound = np.matmul(np.abs(a), np.abs(b)) * np.finfo(dtype).eps * (inner + 12) / 2
        for x, y in ((a, b), (a, np.asfortranarray(b)), (a[..., ::-1], b[..., ::-1, :])):
            found = (mg.asarray(x) @ mg.asarray(y)).numpy()
            assert found.shape == exact.shape and (np.abs(found - exact) <= bound).all()


def products():
    """Sizes that are divided among threads, and sizes that are not."""
    a, b = random(700, 1300), random(1300, 650, seed=1)
    x, y = mg.tensor(a), mg.tensor(b)
    stack = mg.tensor(random(40, 60, 80)) @ mg.tensor(random(40, 80, 70, seed=1))
    wide = mg.tensor(a.astype(np.float64)) @ mg.tensor(b.astype(np.float64))
    return [t.numpy() for t in (x @ y, x[:300, :900] @ y[:900], x.T @ x[:, :90], stack, wide)]


def test_any_number_of_threads_gives_the_same_bits():
    before = set_threads(1)
    try:
        alone = products()
        for count in (2, 3, 7):
            set_threads(count)
            for found, expected in zip(products(), alone, strict=True):
                np.testing.assert_array_equal(found, expected)
    finally:
        set_threads(before)


@pytest.mark.accelerated
def test_a_row_does_not_depend_on_the_number_of_rows():
    """Small and large products take different paths, but sum in the same order."""
    if name_of_kernel() == "blas":
        pytest.skip("BLAS makes no such promise")
    a, b = mg.tensor(random(900, 1000)), mg.tensor(random(1000, 300, seed=1))
    whole = (a @ b).numpy()
    for rows in (4, 13, 60, 300):
        np.testing.assert_array_equal((a[:rows] @ b).numpy(), whole[:rows])


def run(kernel, *arguments):
    environment = {**os.environ, "MINIGRAD_MATMUL": kernel}
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kernel", ["avx2", "vector128", "blas"])
def test_this_file_with_the_other_kernels(kernel):
    name = run(
        kernel, "-c", "from minigrad._core.fast.products import name_of_kernel as n; print(n())"
    )
    if "if the processor has it" in name.stderr:
        pytest.skip(f"this processor has no {kernel}")
    assert name.stdout == f"{kernel}\n", name.stderr
    here = run(kernel, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "not kernel")
    assert here.returncode == 0, here.stdout


def test_an_unknown_kernel_is_refused():
    result = run("mmx", "-c", "import minigrad")
    assert "MINIGRAD_MATMUL is 'mmx': expected avx512, avx2 or vector128" in result.stderr


@pytest.mark.parametrize(
    "left, right, hint",
    [
        ((3,), (4, 5), ""),
        ((2, 3), (4, 5), ""),
        ((3,), (4,), ""),
        ((2, 3), (4, 3), "; did you mean w.T?"),
        ((2, 3), (7, 4, 3), "; did you mean w.mT?"),
        ((4, 3), (4, 5), "; did you mean x.T on the left?"),
        ((4, 3), (4,), "; did you mean x.T on the left?"),
    ],
)
def test_what_does_not_fit_is_named_with_a_hint_where_there_is_one(left, right, hint):
    inner = left[-1], right[-2] if len(right) > 1 else right[0]
    message = f"matmul: {left} @ {right}: inner sizes {inner[0]} and {inner[1]} differ{hint}"
    with pytest.raises(ValueError, match="^" + re.escape(message) + "$"):
        mg.ones(left) @ mg.ones(right)
