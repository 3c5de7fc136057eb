"""The suite with every loop divided into parts, on two and on seven threads.

Usually loops of at least 2^18 elements and products of at least 2^22 multiply-adds are divided; few
tests are that large. Here the core is compiled in a copy of the tree, build/sanitized/parts, with
thresholds of one element: the suite runs through divided loops and the thread pool.

PLANTED is a wrong division, tried first, that must be detected: it drops the last element of all.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from torture import Result, Share
from torture.sanitizers import compiled, copied

THRESHOLDS = {
    "minigrad/_core/fast/loops.pxd": [("IN_PARTS = 1 << 18 ", "IN_PARTS = 1 ")],
    "minigrad/_core/fast/loops.pyx": [
        ("RELEASE_GIL = 1 << 15 ", "RELEASE_GIL = 1 "),
        ("BRIEF = 1 << 20 ", "BRIEF = 1 "),
        ("PIECE = 1 << 17 ", "PIECE = 1 "),
    ],
    "minigrad/_core/fast/matmul.h": [
        ("MG_SHARED (1 << 22)", "MG_SHARED 1"),
        ("MG_PIECE (1 << 20)", "MG_PIECE 1"),
    ],
    "minigrad/_core/engine/apply.pxi": [
        ("elements(tensor.array) < 32768", "elements(tensor.array) < 2"),
        ("elements(x) < 32768", "elements(x) < 2"),
    ],
}
PLANTED = (
    "minigrad/_core/fast/loops.pyx",
    "return n if part == parts else n * part // parts",
    "return n - (parts > 1) if part == parts else n * part // parts",
)
# Left out: tests that count or time threads for loops of the usual sizes, or measure memory, and
# test files that need the whole tree or do not run the core.
NOT = "not (million or little_memory or recycled or nested or threads or benchmark or busy)"
ELSEWHERE = ("examples", "lessons", "readme", "kernels", "torture")


def replaced(tree: Path, name: str, pairs: list[tuple[str, str]]) -> None:
    text = (tree / name).read_text()
    for right, wrong in pairs:
        assert text.count(right) == 1, f"{name} no longer says {right!r}: change it here"
        text = text.replace(right, wrong)
    (tree / name).write_text(text)


def tested(tree: Path, threads: int, *arguments: str) -> tuple[int, str]:
    """Run these tests there; return the exit status and pytest's output."""
    words = [sys.executable, "-m", "pytest", "-o", "addopts=", "-q", "-p", "no:cacheprovider"]
    environment = {
        **os.environ,
        "MINIGRAD_NUM_THREADS": str(threads),
        "PYTHONPATH": os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")]),
        "OPENBLAS_NUM_THREADS": "1",
    }
    words += [f"--ignore=tests/test_{name}.py" for name in ELSEWHERE]
    words += ["-k", NOT, *arguments]
    child = subprocess.run(
        words, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    return child.returncode, child.stdout + child.stderr


def torment(share: Share) -> Result:
    """Run the suite once on each number of threads."""
    result = Result("tests with every loop in parts")
    tree = copied("parts")
    for name, pairs in THRESHOLDS.items():
        replaced(tree, name, pairs)
    name, right, wrong = PLANTED
    replaced(tree, name, [(right, wrong)])
    if problem := compiled(tree, ""):
        result.failures.append(f"not compiled: {problem}")
        return result
    text = tested(tree, 2, "-x", "tests/test_op_table.py")[1]
    noticed = bool(re.search(r"\b1 failed\b", text))  # a missing file is an error instead
    result.note("planted wrong cut noticed", int(noticed))
    if not noticed:
        result.failures.append("a planted wrong cut of the loops is not noticed")
    replaced(tree, name, [(wrong, right)])
    if problem := compiled(tree, ""):
        result.failures.append(f"not compiled: {problem}")
        return result
    files = ["tests/test_op_table.py"] if share.quick else []
    for threads in share.progress([2, 7]):
        status, text = tested(tree, threads, *files)
        passed = re.search(r"(\d+) passed", text)
        result.count += int(passed[1]) if passed else 0
        if status:
            lines = re.findall(r"^(?:FAILED|ERROR) .*", text, re.MULTILINE) or [text[-3000:]]
            result.failures += [f"{threads} threads, status {status}: {line}" for line in lines]
    return result
