"""mg.profile: what it counts, and that it leaves nothing switched on."""

from __future__ import annotations

import threading

import minigrad as mg


def test_calls_times_and_bytes():
    x = mg.ones(10, 10, requires_grad=True)
    with mg.profile() as seen:
        for _ in range(3):
            mg.exp(x * x).sum().backward()
    calls, forward, backward, size = seen.rows["multiply"]
    assert calls == 3 and size == 3 * 400
    assert forward > 0 and backward > 0
    assert set(seen.rows) == {"multiply", "exp", "sum"}  # what rules call is booked on the rules


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
