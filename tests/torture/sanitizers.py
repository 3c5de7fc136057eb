"""A part of the suite under the address, undefined-behaviour and thread sanitizers of gcc.

The core is compiled in a copy of the tree, build/sanitized/<kind>, which leaves the usual build
alone; a second run compiles only what has changed. -fno-wrapv: Python's own flags include -fwrapv,
which makes integer overflow defined. Memory that Python or NumPy would take from their own pools
comes from malloc, which the sanitizer watches.

The address sanitizer itself is tested first: PLANTED makes the packed panels of a matrix too small,
and this must be reported.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from torture import Result, Share

ROOT = Path(__file__).parent.parent.parent
SOURCES = ("minigrad", "tests", "setup.py", "pyproject.toml", "README.md", "LICENSE")
ADDRESS = (
    *("matmul", "derived", "recurrent", "serialization", "optim", "graph", "conv", "pooling"),
    *("norms", "batchnorm", "embedding", "function", "functions", "attention", "loss"),
    *("hostile_files", "random_programs", "op_table"),
)
# Left out: tests that take minutes, measure memory, or run in a stack too small for the sanitizers'
# frames. The thread sanitizer has a thread of its own, and does not follow a fork.
NOT = {
    "address,undefined": "not (million or little_memory or recycled or chain or nested)",
    "thread": "not (million or chain or nested or fork or none_start_early)",
}
THREAD = ("threads", "graph")
PLANTED = (
    "minigrad/_core/fast/products.pyx",
    "size = inner * ((columns + kernel.lanes - 1) // kernel.lanes * kernel.lanes)",
    "size = inner * columns",
)
REPORT = re.compile(r"ERROR: AddressSanitizer|runtime error:|WARNING: ThreadSanitizer")


def library(name: str) -> str | None:
    """Where gcc keeps it."""
    try:
        words = ["gcc", f"-print-file-name=lib{name}.so"]
        path = subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
    return path if os.path.isabs(path) else None


def copied(kind: str) -> Path:
    """The tree, copied where it has changed."""
    target = ROOT / "build" / "sanitized" / kind.replace(",", "-")
    for name in SOURCES:
        for path in [ROOT / name, *(ROOT / name).rglob("*")]:
            place = target / path.relative_to(ROOT)
            if not path.is_file() or path.suffix in (".so", ".pyc", ".c"):
                continue
            if not place.exists() or place.read_bytes() != path.read_bytes():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)
    return target


def compiled(tree: Path, kind: str) -> str:
    """Compile the core; return the error, if any."""
    words = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    environment = {**os.environ, "MINIGRAD_SANITIZE": kind}
    child = subprocess.run(
        words, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    return child.stderr[-2000:] if child.returncode else ""


def tested(tree: Path, kind: str, *arguments: str) -> tuple[int, str]:
    """Run these tests there; return the exit status and the output of pytest and sanitizer."""
    libraries = ["tsan"] if kind == "thread" else ["asan", "ubsan"]
    logs = tree / "logs"  # pytest captures stderr
    shutil.rmtree(logs, ignore_errors=True)
    logs.mkdir()
    log = f"log_path={logs}/report"
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(filter(None, map(library, libraries))),
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")]),
        "ASAN_OPTIONS": f"detect_leaks=0:allocator_may_return_null=1:{log}",
        "UBSAN_OPTIONS": f"print_stacktrace=1:{log}",
        "TSAN_OPTIONS": f"suppressions={Path(__file__).parent / 'tsan.txt'}:{log}",
        "OPENBLAS_NUM_THREADS": "1",
    }
    options = [
        "-o",
        "addopts=",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:faulthandler",
        "-k",
        NOT[kind],
    ]
    words = [sys.executable, "-m", "pytest", *options, *arguments]
    if kind == "thread" and shutil.which("setarch"):  # it supports fewer memory layouts than Linux
        words = ["setarch", "-R", *words]
    child = subprocess.run(
        words, cwd=tree, env=environment, capture_output=True, text=True, check=False
    )
    reports = [path.read_text(errors="replace") for path in sorted(logs.iterdir())]
    return child.returncode, "\n".join([*reports, child.stdout, child.stderr])


def judge(result: Result, kind: str, name: str, tree: Path) -> None:
    status, text = tested(tree, kind, f"tests/test_{name}.py")
    passed = re.search(r"(\d+) passed", text)
    result.count += int(passed[1]) if passed else 0
    report = REPORT.search(text)
    if status or report:
        start = report.start() if report else max(0, len(text) - 1500)
        result.failures.append(f"{kind}, {name}: status {status}: {text[start : start + 3000]}")


def planted(tree: Path, kind: str) -> bool:
    """Whether a write past packed panels is reported. Restores the tree, uncompiled."""
    path, right, wrong = PLANTED
    source = (tree / path).read_text()
    assert source.count(right) == 1, f"{path} no longer says {right!r}: change PLANTED"
    (tree / path).write_text(source.replace(right, wrong))
    try:
        if compiled(tree, kind):
            return False
        text = tested(tree, kind, "-x", "tests/test_recurrent.py", "tests/test_matmul.py")[1]
        return "heap-buffer-overflow" in text and "panels_of" in text
    finally:
        (tree / path).write_text(source)


def torment(share: Share) -> Result:
    """Every test of these files, once under each sanitizer."""
    result = Result("tests under sanitizers")
    missing = [name for name in ("asan", "ubsan", "tsan") if not library(name)]
    if sys.platform != "linux" or missing:
        result.skipped = f"gcc with {', '.join(missing) or 'its sanitizers'}"
        return result
    jobs = []
    for kind, names in (("address,undefined", ADDRESS), ("thread", THREAD)):
        tree = copied(kind)
        if kind != "thread":
            result.note("planted overflow reported", int(planted(tree, kind)))
            if not result.notes["planted overflow reported"]:
                result.failures.append("a planted write behind the packed panels is not reported")
        if wrong := compiled(tree, kind):
            result.failures.append(f"{kind}: not compiled: {wrong}")
            continue
        jobs += [(kind, name, tree) for name in (names[:2] if share.quick else names)]
    for job in share.progress(jobs):
        judge(result, *job)
    return result
