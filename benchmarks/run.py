"""Time minigrad beside its peers: `python benchmarks/run.py [group ...]`; `make bench` runs it all.

Every row is timed in one process, pinned to one processor, one thread each, the contenders in turn
(A B C A B C ...), after a warm-up; the table gives the median of the rounds, their spread, and the
ratio of minigrad's median to each peer's beside the ratio to reach. Ratios, not seconds, are what
holds on another machine.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from pathlib import Path

# OPENBLAS_CORETYPE holds a BLAS at an older instruction set, and L2_SIZE changes its blocking: both
# are cleared for every contender, before any library is loaded.
CLEARED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "NVPL_BLAS_DEBUG_CPU_TYPE")
ONE_THREAD = {
    **dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"),
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
    "JAX_PLATFORMS": "cpu",
}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "groups", nargs="*", help="steps, batchnorm, kernels; all of them by default"
    )
    parser.add_argument("--match", default="", help="only rows whose name contains this text")
    parser.add_argument("--rounds", type=int, default=15, help="rounds per row (default 15)")
    parser.add_argument(
        "--seconds", type=float, default=0.05, help="time of one measurement (default 0.05)"
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file as well")
    return parser.parse_args()


def calls_in(function, seconds: float) -> int:
    """How many calls take about this long. The first calls, which may compile, are not counted."""
    for _ in range(3):
        function()
    count = 1
    while True:
        start = time.perf_counter()
        for _ in range(count):
            function()
        elapsed = time.perf_counter() - start
        if elapsed > seconds / 2:
            return max(1, round(count * seconds / elapsed))
        count *= 2


def measure(functions: dict, rounds: int, seconds: float) -> dict[str, list[float]]:
    """Microseconds per call, a list of `rounds` for each contender, measured in turn."""
    counts = {name: calls_in(function, seconds) for name, function in functions.items()}
    times: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                function()
            times[name].append((time.perf_counter() - start) / counts[name] * 1e6)
    return times


def report(name: str, times: dict[str, list[float]], targets: dict[str, float]) -> dict:
    """Print one row and return it for the JSON file."""
    print(name)
    medians = {contender: statistics.median(values) for contender, values in times.items()}
    for contender, values in times.items():
        line = f"  {contender:<18}{medians[contender]:>12.2f} us"
        line += f"  ({min(values):.2f} to {max(values):.2f})"
        ratio = medians["minigrad"] / medians[contender]
        if contender != "minigrad":
            line += f"   minigrad / {contender} = {ratio:.3f}"
            if contender in targets:
                verdict = "ok" if ratio <= targets[contender] else "NOT YET"
                line += f"   to reach: {targets[contender]:.3f} {verdict}"
        print(line, flush=True)
    return {"name": name, "microseconds": times, "targets": targets}


def main() -> None:
    options = arguments()
    from contenders import WORK, available, present, versions

    if unknown := set(options.groups) - set(WORK):
        sys.exit(
            f"run.py: unknown group {', '.join(sorted(unknown))}; the groups are {', '.join(WORK)}"
        )
    if available("torch"):
        import torch

        torch.set_num_threads(1)
    cleared = [name for name in CLEARED if name in os.environ.get("BENCH_CLEARED", "")]
    print(", ".join(f"{name} {version}" for name, version in versions().items()))
    print(
        f"one thread, one processor; cleared for all: {', '.join(cleared) or 'nothing was set'}\n"
    )
    rows = []
    for group in options.groups or WORK:
        for work in WORK[group]:
            if options.match in work.name:
                functions = {name: make() for name, make in present(work).items()}
                rows.append(
                    report(
                        work.name, measure(functions, options.rounds, options.seconds), work.targets
                    )
                )
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    if "BENCH_CLEARED" not in os.environ:
        environment = {k: v for k, v in os.environ.items() if k not in CLEARED}
        environment |= ONE_THREAD | {
            "BENCH_CLEARED": " ".join(k for k in CLEARED if k in os.environ) or "none"
        }
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    main()
