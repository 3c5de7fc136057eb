"""The headers of the core in plain C (kernels.c), with each available compiler; the test finds a
planted error."""

from __future__ import annotations

import subprocess
from pathlib import Path
from shutil import which

import pytest

ROOT = Path(__file__).parent.parent
FLAGS = ["-std=gnu11", "-O2", "-fno-math-errno", "-fno-trapping-math", "-pthread"]
PLANTED = [
    ("matmul_kernel.h", "sum[r][v] += x * b[v]", "sum[r][v] -= x * b[v]"),
    ("vecmath_body.h", "0.00518832759f", "0.00528832759f"),
    ("threads.h", "< pieces->parts)", "< pieces->parts - 1)"),
    ("threads.h", "mg_pool.missed + 1", "mg_pool.missed"),
    ("threads.h", "(other < took)", "(other > took)"),
]


def result(compiler, headers, folder):
    """The output of the compiled test, and its exit status."""
    target = folder / "kernels"
    subprocess.run(
        [compiler, *FLAGS, f"-I{headers}", ROOT / "tests/kernels.c", "-o", target, "-lm"],
        check=True,
    )
    done = subprocess.run([target], capture_output=True, text=True, timeout=60, check=False)
    return done.stdout, done.returncode


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_products_functions_and_threads_in_c(compiler, tmp_path):
    if not which(compiler):
        pytest.skip(f"no {compiler} here")
    output, status = result(compiler, ROOT / "minigrad/_core/fast", tmp_path)
    assert status == 0, output
    assert "products by the kernels for vector128" in output


@pytest.mark.skipif(not which("gcc"), reason="no gcc here")
@pytest.mark.parametrize(("name", "right", "wrong"), PLANTED)
def test_a_planted_error_is_found(name, right, wrong, tmp_path):
    for header in (ROOT / "minigrad/_core/fast").glob("*.h"):
        text = header.read_text()
        if header.name == name:
            assert right in text
            text = text.replace(right, wrong)
        (tmp_path / header.name).write_text(text)
    output, status = result("gcc", tmp_path, tmp_path)
    assert status == 1, output
    assert "WRONG" in output
