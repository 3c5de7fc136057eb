"""Describe an installation for a bug report: `mg.show_config()`, `python -m minigrad`."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path

import numpy as np

from ._core.fast.products import name_of_kernel
from .threads import get_num_threads, processors


def show_config() -> None:
    """Print versions, processor, instruction set, kernels, threads and BLAS.

    >>> mg.show_config()  # doctest: +ELLIPSIS
    minigrad ...
    """
    for name, value in _configuration().items():
        print(f"{name:<16} {value}")


def _configuration() -> dict[str, str]:
    from . import __version__

    kernel, variables = name_of_kernel(), ("MINIGRAD_", "OMP_", "OPENBLAS_", "MKL_")
    products = "NumPy's BLAS" if kernel == "blas" else f"minigrad's kernel for {kernel}"
    simd = np.show_config(mode="dicts")["SIMD Extensions"]
    return {
        "minigrad": f"{__version__}, in {Path(__file__).parent}",
        "Python": f"{platform.python_version()} ({platform.python_implementation()})",
        "NumPy": f"{np.__version__}, {(simd.get('found') or simd['baseline'])[-1]}",
        "system": f"{platform.system()} {platform.release()}, {platform.machine()}",
        "processor": f"{_processor()}, {os.cpu_count()} processors",
        "threads": f"{get_num_threads()}, where the process may use {processors()} processors",
        "matrix products": products,
        "NumPy's BLAS": _blas(),
        "environment": ", ".join(
            f"{name}={value}"
            for name, value in sorted(os.environ.items())
            if name.startswith(variables)
        ),
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _blas() -> str:
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')}".strip()
