"""mg.profile: what it counts, and that it leaves nothing switched on."""

from __future__ import annotations

import threading
import time

import pytest

import minigrad as mg
from minigrad._core.engine.graph import observe


def test_calls_times_and_bytes():
    x = mg.ones(10, 10, requires_grad=True)
    with mg.profile() as seen:
        for _ in range(3):
            mg.exp(x * x).sum().backward()
    calls, forward, backward, size = seen.rows["multiply"]
    assert calls == 3 and size == 3 * 400
    assert forward > 0 and backward > 0
    assert set(seen.rows) == {"multiply", "exp", "sum"}  # calls made by rules count as rules


def test_the_times_are_parts_of_the_time_that_passes():
    x = mg.rand(500, 500, requires_grad=True)
    start = time.perf_counter()
    with mg.profile() as seen:
        mg.exp(x @ x).sum().backward()
    passed = (time.perf_counter() - start) * 1e6
    times = [row[1:3] for row in seen.rows.values()]
    assert all(seconds >= 0 for row in times for seconds in row)
    assert passed / 10 < sum(map(sum, times)) <= passed
    assert sum(seen.rows["matmul"][1:3]) > sum(seen.rows["sum"][1:3])


def test_nothing_is_counted_outside():
    with mg.profile() as seen:
        pass
    mg.ones(2) * 2
    assert seen.rows == {} and "all" in str(seen)
    with mg.profile() as second:
        mg.ones(2) + 2
    assert list(second.rows) == ["add"]


def test_the_table_is_sorted_and_ends_with_a_sum():
    x = mg.ones(300, 300)
    with mg.profile() as seen:
        mg.exp(x) + 1
    lines = str(seen).splitlines()
    assert lines[0].split()[:2] == ["primitive", "calls"] and lines[-1].startswith("all")
    assert len(lines) == 4 and lines[-1].split()[1] == "2"


def test_the_columns_are_aligned_whatever_the_names():
    seen = mg.profile()
    seen.rows = {"a": (1, 2.0, 3.0, 4), "normalise_short_groups_backward": (5, 6.0, 7.0, 8)}
    lines = str(seen).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert [line.split()[0] for line in lines[1:]] == [*seen.rows, "all"]


def test_passes_in_hooks_and_threads_leave_the_profiler_ready():
    x, w = mg.ones(2, requires_grad=True), mg.ones(2, requires_grad=True)
    y = x * 2

    def hook(g):
        with mg.enable_grad():
            (w * 3).sum().backward()

    y.register_hook(hook)
    threads = [threading.Thread(target=lambda: (x * 2).sum().backward()) for _ in range(4)]
    for thread in threads:
        thread.start()
    y.sum().backward()
    for thread in threads:
        thread.join()
    with mg.profile() as seen:
        mg.ones(2) * 2
    assert list(seen.rows) == ["multiply"]


def test_an_observer_sees_every_primitive_with_its_inputs_attributes_and_output():
    seen = []
    x, y = mg.tensor([[1.0, 2.0]]), mg.tensor([3.0, 4.0])
    assert observe(lambda *event: seen.append(event)) is None
    try:
        total = mg.sum(x * y, axis=1)
        joined = mg.concat([y, y, y])
    finally:
        observe(None)
    _ = x + y  # no longer profiled
    assert [event[0] for event in seen] == ["multiply", "sum", "concat"]
    (_, factors, _, product), (_, summed, attributes, out), (_, parts, _, whole) = seen
    assert factors[0] is x and factors[1] is y and summed == (product,)
    assert attributes["axis"] == (1,) and out is total
    assert len(parts) == 3 and whole is joined


def test_an_error_in_an_observer_reaches_the_caller():
    def refuse(*event):
        raise RuntimeError("seen enough")

    observe(refuse)
    try:
        with pytest.raises(RuntimeError, match="seen enough"):
            mg.exp(mg.tensor([1.0]))
    finally:
        observe(None)
