"""Planting mutants (`make mutants`): what is changed, what is left alone, and that the same seed
plants the same ones."""

from __future__ import annotations

import itertools

import pytest
from mutants import (
    ROOT,
    SOURCES,
    changed_number,
    explained_in,
    is_explained,
    mutants_of,
    planted,
)

PYTHON = b'''"""1 + 1 in a docstring."""
import a_1
Pair = int | None
def clip(x: int | None = 3, low=-1) -> bool | int:
    """True or False."""
    # x < 4
    if x < low and "a < b":
        raise ValueError(f"{x} < {1 + 2}")
    return min(x, low)
'''
CYTHON = b'''"""1 + 1 in a docstring: \xc3\xa9."""
from a cimport b_1
cdef extern from "x.h":
    int f(int x, int y)
cdef inline float* clip(float* x, npy_intp n, bint low=True) noexcept:
    """x < 3"""
    cdef float* y = <float*> x + n, z   # n - 1
    if n < 0:
        raise ValueError(f"n < 0: {n + 1}")
    y[0] *= -n
    return y
'''
C = b"""/* 1 + 1 */
#include <a_1.h>
#if A < 1
#define SIZE 8
#endif
static inline float* f(const float* x, int n) /* x * n */
{
    return !n ? x : x + n; // - 1
}
"""


def changes(file, source):
    """(before, after) for all mutants of a file."""
    for mutant in itertools.chain(*mutants_of(file, source)):
        yield source[mutant.start : mutant.stop].decode(), mutant.after


def test_what_is_changed_in_python():
    assert set(changes("a.py", PYTHON)) == {
        ("3", "4"),
        ("3", "2"),
        ("-1", "(1)"),
        ("1", "2"),
        ("1", "0"),
        ('x < low and "a < b"', '(not (x < low and "a < b"))'),
        ('x < low and "a < b"', '(("a < b"))'),
        ('x < low and "a < b"', "((x < low))"),
        ("and", "or"),
        ("<", "<="),
        ("<", ">="),
        ("min", "max"),
    }


def test_what_is_changed_in_cython():
    assert set(changes("a.pyx", CYTHON)) == {
        ("True", "False"),
        ("+", "-"),
        ("<", "<="),
        ("<", ">="),
        ("0", "1"),
        ("n < 0", "not (n < 0)"),
        ("*=", "+="),
        ("-", ""),
        ("y[0] *= -n", "pass"),
    }


def test_what_is_changed_in_c():
    assert set(changes("a.h", C)) == {("8", "9"), ("8", "7"), ("!", ""), ("+", "-")}


@pytest.mark.parametrize(
    "number, changed",
    [
        ("7", ["8", "6"]),
        ("0", ["1"]),
        ("64LL", ["65LL", "63LL"]),
        ("0.5f", ["(0.5f * 2.0f)", "(0.5f * 0.5f)"]),
        ("1e-3", ["(1e-3 * 2.0)", "(1e-3 * 0.5)"]),
        ("0x7fu", []),
    ],
)
def test_how_a_number_is_changed(number, changed):
    assert changed_number(number) == changed


def test_every_source_has_mutants():
    for path in itertools.chain(*map(ROOT.glob, SOURCES)):
        source = path.read_bytes()
        assert mutants_of(path.name, source) or b"return" not in source, path


@pytest.mark.parametrize("file, source", [("a.py", PYTHON), ("a.pyx", CYTHON), ("a.h", C)])
def test_a_seed_plants_the_same_mutants(file, source):
    first, again, other = (
        [mutant.applied(source) for mutant in planted({file: source}, seed)] for seed in (1, 1, 2)
    )
    assert first == again != other and source not in first


def test_rows_of_the_table_explain_mutants():
    rows = explained_in(
        "| file | line | mutant | why |\n|---|---|---|---|\n"
        "| `a.py` | `return min(x, low)` | `return max(x, low)` | sorted |\n"
        "| `a.h` | `return !n ? …` | `…` | equal, `!n \\|\\| n` |\n"
    )
    found = {
        file: [m.after for [*site] in mutants_of(file, s) for m in site if is_explained(m, s, rows)]
        for file, s in {"a.py": PYTHON, "a.h": C}.items()
    }
    assert found == {"a.py": ["max"], "a.h": ["", "-"]}
