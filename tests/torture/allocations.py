"""Failed allocations: for every kind of line of the random programs, with backward, and for the
operations of tests/test_allocation.py, each Python allocation fails once, alone.

Every failure must raise MemoryError. Each line runs in a separate process, a fork, so a crash
counts as one failure. Afterwards `.grad` is unchanged, and the line gives the same result again.
"""

from __future__ import annotations

import faulthandler
import gc
import linecache
import os
import re
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import minigrad as mg
from minigrad.nn import functional
from torture import Result, Share
from torture.leaks import program_of
from torture.programs import inplace, prepared
from torture.rows import ROWS

try:
    import _testcapi as inject  # CPython's own test module makes memory fail
except ImportError:
    inject = None

SCRIPT = Path(__file__).parent.parent / "test_allocation.py"


def step_of(name: str) -> tuple[list[Any], Callable[[], Any]]:
    """The leaves, and a function that runs the last line of a program forward and backward."""
    program = program_of(name)
    scope: dict[str, Any] = {"np": np, "mg": mg, "F": functional, "inplace": inplace}
    point = prepared(program.leaves, program.writes)
    leaves = {key: mg.tensor(x, requires_grad=True) for key, x in point.items()}
    *before, last = program.source().splitlines()
    values: dict[str, Any] = dict(leaves)
    exec("\n".join(before), scope, values)
    code = compile(last.partition(" = ")[2], "<line>", "eval")
    for key, x in values.items():
        if isinstance(x, mg.Tensor) and not x.is_leaf:
            values[key] = x.detach().requires_grad_()
    operands = [x for x in values.values() if isinstance(x, mg.Tensor)]
    scope |= values
    cotangent = mg.ones_like(eval(code, scope))

    def run() -> Any:
        out = eval(code, scope)
        if out.requires_grad:
            out.backward(cotangent)
        return out

    return operands, run


def fail_each(name: str) -> tuple[int, str]:
    """The number of failed allocations, and what went wrong."""
    operands, run = step_of(name)

    def clear() -> None:
        for x in operands:
            x.grad = None

    for _ in range(3):  # fill the caches
        clear()
        expected = run().numpy(copy=True)
    gradients = [None if x.grad is None else x.grad.numpy(copy=True) for x in operands]
    gc.collect()
    gc.disable()
    start = failed = survived = 0
    while survived < 3:  # memory freed by a failure may spare the next run an allocation
        clear()
        start, survived = start + 1, survived + 1
        inject.set_nomemory(start, start + 1)
        try:
            run()
        except MemoryError:
            survived, failed = 0, failed + 1
        finally:
            inject.remove_mem_hooks()
        if not survived and any(x.grad is not None for x in operands):
            return failed, f"a gradient was left, by allocation {start}"
        if start > 5000:
            return failed, "there is no end of allocations"
    clear()
    again = run().numpy()
    same = [
        x.grad is None if g is None else np.array_equal(x.grad.numpy(), g)
        for x, g in zip(operands, gradients, strict=True)
    ]
    if not (np.array_equal(again, expected) and all(same)):
        return failed, "the next run gives other values"
    return failed, ""


def in_a_fork(name: str) -> tuple[int, str]:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        os.dup2(writing, 2)
        faulthandler.enable()
        try:
            failed, fault = fail_each(name)
            os.write(writing, f"{failed} {fault}".encode())
        except BaseException:
            inject.remove_mem_hooks()
            os.write(writing, f"0 {traceback.format_exc()[-1500:]}".encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        said = file.read().decode(errors="replace")
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status or not said[:1].isdigit():
        return 0, f"ended with {status}: {said[:1500]}"
    count, _, fault = said.partition(" ")
    return int(count), fault


def foreign(fault: str) -> str:
    """If a fault is a crash in NumPy or CPython, the function: one of NumPy's Python functions, or
    in CPython 3.11, without memory for the iterator over a dict's items, which it frees before the
    collector knows it."""
    frame = re.search(r'File "(.*?)", line (\d+) in (\S+)', fault)  # most recent call first
    if "Segmentation fault" not in fault or not frame:
        return ""
    file, line, function = frame.groups()
    if "/numpy/" in file:
        return f"NumPy's {function}"
    return "CPython's dict.items" if ".items()" in linecache.getline(file, int(line)) else ""


def torment(share: Share) -> Result:
    """Check every line, and every operation of the suite."""
    result = Result("failed allocations")
    if inject is None or not hasattr(os, "fork"):
        result.skipped = "CPython's _testcapi, and fork"
        return result
    jobs = list(ROWS)[share.number :: share.shares][: 20 if share.quick else None]
    operations: list[str] = []
    if SCRIPT.exists() and not share.number:
        import test_allocation

        operations = [operation.__name__ for operation in test_allocation.OPERATIONS]
    for name in share.progress([*jobs, *operations]):
        if name in ROWS:
            count, fault = in_a_fork(name)
        else:
            words = [sys.executable, str(SCRIPT), name]
            child = subprocess.run(words, capture_output=True, text=True, check=False)
            fault = child.stderr[-2000:] if child.returncode else ""
            count = 0 if fault else int(child.stdout.split()[-1])
        result.count += count
        result.note("kinds of lines and groups of operations")
        if culprit := foreign(fault):
            result.note(f"ended by a crash in {culprit}")
        elif fault:
            result.failures.append(f"{name}: {fault}")
    return result
