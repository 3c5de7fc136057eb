"""Run the public test suite of the array API standard against minigrad: `make test-array-api`.

The suite, https://github.com/data-apis/array-api-tests, has no release on PyPI: it is cloned at a
fixed commit into build/. Without a network, clone it elsewhere with its submodule and name the
folder in ARRAY_API_TESTS. This file is also the pytest plugin that marks what is expected to fail;
docs/array-api.md shows the same table. Arguments go to pytest (`--max-examples 1000`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SUITE = ROOT / "build" / "array-api-tests"
URL = "https://github.com/data-apis/array-api-tests"
COMMIT = "55fcc60179efa2680ddd6cd926ddf17b83530e2b"  # 3 April 2026, for version 2025.12
MISSING = "int8 int16 uint8 uint16 uint32 uint64 complex64 complex128"

# Where the tests' ids match, why they fail.
EXCEPTIONS = {
    r"imag\(|test_eig(vals)?$": "no complex numbers",
    r"names\[fft-": "no `mg.fft`, an optional extension: transforms are complex",
    r"floor(div__|_divide)\((x1_i is .infinity and isfinite|isfinite.* is .infinity\) -> -0)": (
        "`inf // 2` is NaN and `2 // -inf` is -1, as in NumPy and PyTorch"
    ),
    "getitem_masking|unique_inverse|unique_values": "the tests make arrays of uint8",
    r"test_(linalg_)?(vecdot|tensordot)": "sums of products of int32 are int64, as sums are",
}

# The suite assumes that there is a complex dtype.
PATCH = ("for dt in complex_dtypes], key=lambda x: x[1]\n)[0]",) * 2
PATCH = (PATCH[0], PATCH[0].replace("x[1]", "x[1], default=(None, 0)"))


def checkout() -> None:
    """The suite in build/, at its commit."""
    if (SUITE / "array_api_tests").exists():
        return
    if given := os.environ.get("ARRAY_API_TESTS"):
        shutil.copytree(given, SUITE, ignore=shutil.ignore_patterns(".git"))
    else:
        try:
            subprocess.run(["git", "clone", "--quiet", URL, SUITE], check=True)
            for command in (["checkout"], ["submodule", "update", "--init"]):
                last = [COMMIT] if command == ["checkout"] else []
                subprocess.run(["git", "-C", SUITE, *command, "--quiet", *last], check=True)
        except (OSError, subprocess.CalledProcessError):
            shutil.rmtree(SUITE, ignore_errors=True)
            sys.exit(
                f"minigrad: cannot clone {URL}; without a network, set ARRAY_API_TESTS to a folder "
                "with a clone and its submodule array-api"
            )
    helpers = SUITE / "array_api_tests" / "dtype_helpers.py"
    text = helpers.read_text(encoding="utf-8")
    assert PATCH[0] in text, "array-api-tests has changed: see PATCH"
    helpers.write_text(text.replace(*PATCH), encoding="utf-8")


def pytest_collection_modifyitems(items):
    for item in items:
        for pattern, reason in EXCEPTIONS.items():
            if re.search(pattern, item.nodeid):
                item.add_marker(pytest.mark.xfail(reason=reason))
                break


def pytest_terminal_summary(terminalreporter):
    found = {
        kind: len(terminalreporter.getreports(kind))
        for kind in ("passed", "failed", "xfailed", "xpassed", "skipped")
    }
    run = sum(found.values()) - found["skipped"]
    good = found["passed"] + found["xpassed"]
    terminalreporter.write_line(
        f"\n{good} of {run} pass, {100 * good / max(run, 1):.1f} %; expected to fail:"
    )
    reasons = Counter(
        r.wasxfail.removeprefix("reason: ") for r in terminalreporter.getreports("xfailed")
    )
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:5} {reason}")


if __name__ == "__main__":
    checkout()
    paths = [str(ROOT), str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["ARRAY_API_TESTS_MODULE"] = "minigrad"
    os.environ["ARRAY_API_TESTS_SKIP_DTYPES"] = ",".join(MISSING.split())
    options = ["-q", "-p", Path(__file__).stem, "-p", "no:cacheprovider", "--disable-warnings"]
    command = [sys.executable, "-m", "pytest", *options, *sys.argv[1:], "array_api_tests"]
    sys.exit(subprocess.run(command, cwd=SUITE, check=False).returncode)
