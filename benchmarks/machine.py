"""Give every contender the same environment, and describe the machine.

`settle` restarts the script in a clean environment and pins it to one processor: libraries read the
environment when they are loaded, so it must be set before the first import.
"""

from __future__ import annotations

import os
import platform
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

# OPENBLAS_CORETYPE restricts a BLAS to an older instruction set, L2_SIZE changes its blocking.
CLEARED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NVPL_BLAS_DEBUG_CPU_TYPE")
ONE_THREAD = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}
# The levels that clones.h builds for, and the processor flags that each needs.
LEVELS = {
    "x86-64-v4 (AVX-512)": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "x86-64-v3 (AVX2)": {"avx2", "bmi1", "bmi2", "f16c", "fma", "movbe"},
}


def settle(pinned: bool = True) -> None:
    """Clear the environment; if pinned, allow one thread and pin to one processor. Call before any
    import."""
    if "BENCH_CLEARED" not in os.environ:
        environment = {k: v for k, v in os.environ.items() if k not in CLEARED}
        environment |= ONE_THREAD if pinned else {}
        environment["BENCH_CLEARED"] = " ".join(k for k in CLEARED if k in os.environ)
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment)
    if not pinned:
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if find_spec("torch"):
        import torch

        torch.set_num_threads(1)


def cpu_field(field: str) -> str:
    """A field of the first processor in Linux's /proc/cpuinfo, "" elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def kernel_level() -> str:
    """Which build of minigrad's kernels the loader picks here (minigrad/_core/fast/clones.h)."""
    flags = set(cpu_field("flags").split())
    return next((level for level, needed in LEVELS.items() if needed <= flags), "baseline")


def numpy_blas() -> str:
    """The BLAS loaded by NumPy and the kernels it chose; otherwise what it was built with."""
    import numpy as np

    if find_spec("threadpoolctl"):
        from threadpoolctl import threadpool_info

        for library in threadpool_info():
            if library["user_api"] == "blas":
                kernels = library.get("architecture", "unknown")
                threads = library["num_threads"]
                return (
                    f"{library['internal_api']} {library['version']}, "
                    f"{kernels} kernels, {threads} thread{'s' * (threads > 1)}"
                )
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return f"{blas['name']} {blas['version']} (threadpoolctl would tell its kernels)"


def libraries() -> dict[str, dict[str, str]]:
    """For each installed contender: version, BLAS and instruction set."""
    import numpy as np

    configuration = np.show_config(mode="dicts")
    simd = configuration["SIMD Extensions"]
    found = {
        "minigrad": {"blas": "NumPy's", "instruction_set": kernel_level()},
        "numpy": {
            "blas": numpy_blas(),
            "instruction_set": (simd.get("found") or simd["baseline"])[-1],
            "built_with": configuration["Build Dependencies"]["blas"].get(
                "openblas configuration", ""
            ),
        },
    }
    if find_spec("torch"):
        import torch

        lines = [line.strip(" -") for line in torch.__config__.show().splitlines()]
        kept = ("BLAS_INFO", "Math Kernel", "MKL-DNN", "OpenMP")
        built_with = "; ".join(
            line.split(",")[0] for line in lines if any(word in line for word in kept)
        )
        found["torch"] = {
            "blas": built_with.partition("BLAS_INFO=")[2] or "see built_with",
            "instruction_set": torch.backends.cpu.get_cpu_capability(),
            "built_with": built_with,
        }
    if find_spec("jax"):
        found["jax"] = {
            "blas": "XLA's own (Eigen, oneDNN)",
            "instruction_set": "compiled for this processor",
        }
    return {name: {"version": import_module(name).__version__} | found[name] for name in found}


def describe() -> dict:
    """Machine, libraries and environment, as stored in the JSON file."""
    processors = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    return {
        "cpu": cpu_field("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "allowed": processors,
        "pinned_to": processors[0] if len(processors) == 1 else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "environment_cleared": os.environ.get("BENCH_CLEARED", "").split(),
        "environment_set": {k: os.environ[k] for k in ONE_THREAD if k in os.environ},
        "libraries": libraries(),
    }


def summary(machine: dict) -> str:
    """`describe()` in a few lines."""
    pinned = machine["pinned_to"]
    cleared = ", ".join(machine["environment_cleared"]) or "nothing was set"
    lines = [
        f"{machine['cpu']}, {machine['cores']} cores, Python {machine['python']}, "
        + ("not pinned" if pinned is None else f"pinned to processor {pinned}"),
        f"cleared from the environment of all: {cleared}",
    ]
    for name, library in machine["libraries"].items():
        lines.append(
            f"{name} {library['version']}: {library['instruction_set']}; BLAS: {library['blas']}"
        )
    return "\n".join(lines)
