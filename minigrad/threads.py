"""The number of threads that large loops use, and its value when minigrad is imported.

The loops are divided in `_core/fast/threads.h`. Results do not depend on the number of threads.
"""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from ._core.fast.loops import MOST_THREADS, number_of_threads, set_threads
from .checks import integer


def set_num_threads(n: int) -> None:
    """Run large loops on n threads, including the calling thread.

    The initial value is MINIGRAD_NUM_THREADS in the environment, or otherwise the number of
    processors available to the process (its affinity and the quota of its control group), at most
    OMP_NUM_THREADS, which joblib and others set in their workers.
    `threadpoolctl.threadpool_limits` also sets it. Raises TypeError if n is not an int, ValueError
    if it is below 1 or above 64.

    >>> before = mg.get_num_threads()
    >>> mg.set_num_threads(1)
    >>> mg.get_num_threads()
    1
    >>> mg.set_num_threads(before)
    """
    count = integer(n, "set_num_threads: the number of threads")
    if not 1 <= count <= MOST_THREADS:
        raise ValueError(
            f"set_num_threads: expected 1 (the calling thread only) to {MOST_THREADS}, got {n}"
        )
    set_threads(count)


def get_num_threads() -> int:
    """The number of threads of a large loop, including the calling one; see `set_num_threads`.

    >>> mg.get_num_threads() >= 1
    True
    """
    return number_of_threads()


def processors() -> int:
    """The number of processors available to this process, by affinity and control group quota.

    >>> mg.threads.processors() >= 1
    True
    """
    affine = hasattr(os, "sched_getaffinity")
    count = len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1
    return max(1, int(min(count, _quota())))


def _quota(root: str = "/sys/fs/cgroup", groups: str = "/proc/self/cgroup") -> float:
    """The processors granted by the control groups of this process on Linux, else infinity."""
    least = float("inf")
    with suppress(OSError):
        for line in Path(groups).read_text().splitlines():
            _, controllers, group = line.split(":", 2)  # version 2 names no controllers
            if not controllers or "cpu" in controllers.split(","):
                folder = Path(root, "cpu" if controllers else "")
                for name in ("", *group.strip("/").split("/")):  # each group limits its children
                    folder /= name
                    least = min(least, _quota_of(folder))
    return least


def _quota_of(folder: Path) -> float:
    """The quota in the files of a control group, version 1 or 2."""
    with suppress(OSError, ValueError):
        if (folder / "cpu.max").exists():
            quota, period = map(float, (folder / "cpu.max").read_text().split())
        else:
            quota, period = (
                float((folder / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period")
            )
        if quota > 0 and period > 0:
            return quota / period
    return float("inf")


def _at_the_start() -> int:
    asked = os.environ.get("MINIGRAD_NUM_THREADS")
    if asked:
        if asked.isdecimal() and 1 <= int(asked) <= MOST_THREADS:
            return int(asked)
        raise ValueError(
            f"MINIGRAD_NUM_THREADS is {asked!r}: expected a number of threads from 1 (the "
            f"calling thread only) to {MOST_THREADS}"
        )
    count = min(processors(), MOST_THREADS)
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(count, int(first)) if first.isdecimal() and int(first) else count


def _register_with_threadpoolctl() -> None:
    try:
        threadpoolctl: Any = import_module("threadpoolctl")
    except ImportError:
        return

    class _Controller(threadpoolctl.LibController):  # type: ignore[misc]  # which has no stubs
        user_api = internal_api = "minigrad"
        filename_prefixes = ("loops.cpython",)  # the library that owns the threads

        def get_num_threads(self) -> int:
            return get_num_threads()

        def set_num_threads(self, num_threads: Any) -> None:
            set_num_threads(min(num_threads, MOST_THREADS))

        def get_version(self) -> str:
            from . import __version__

            return __version__

    threadpoolctl.register(_Controller)


set_threads(_at_the_start())
_register_with_threadpoolctl()
