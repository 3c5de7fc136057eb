"""Profile a computation by primitive."""

from __future__ import annotations

from ._core.engine.graph import profile_engine


class profile:  # noqa: N801  (a context manager is written like a function)
    """Count and time the operations inside a `with` block: primitives and functions that run as one
    operation (derived formulas, the backward of an LSTM layer); print it for a table.

    The engine records when each operation ends. *forward* is the time since the end of the previous
    operation, including the Python code in between; *backward* is the time of the gradient rules;
    *bytes* is the size of the outputs. The profiler costs about 0.2 us per operation. All threads
    are counted together, and only one profile can run at a time.

    >>> x = mg.ones(3, requires_grad=True)
    >>> with mg.profile() as seen:
    ...     (x * x).sum().backward()
    >>> sorted((name, calls) for name, (calls, *_) in seen.rows.items())
    [('multiply', 1), ('sum', 1)]
    """

    def __init__(self) -> None:
        self.rows: dict[str, tuple[int, float, float, int]] = {}

    def __enter__(self) -> profile:
        profile_engine(True)
        return self

    def __exit__(self, *exception: object) -> None:
        gathered = profile_engine(False).items()
        rows = {
            name: (calls, forward * 1e-3, backward * 1e-3, size)
            for name, (calls, forward, backward, size) in gathered
        }
        self.rows = dict(sorted(rows.items(), key=lambda row: -row[1][1] - row[1][2]))

    def __str__(self) -> str:
        """The table: microseconds, the most expensive primitive first."""
        columns = list(zip(*self.rows.values(), strict=True)) or [(0,), (0.0,), (0.0,), (0,)]
        calls, forward, backward, size = (sum(column) for column in columns)
        rows = {**self.rows, "all": (calls, forward, backward, size)}
        width = max(16, *map(len, rows)) + 2
        head = f"{'primitive':<{width}}{'calls':>8}{'forward us':>13}"
        lines = [
            f"{name:<{width}}{calls:>8,}{forward:>13,.1f}{backward:>13,.1f}{size:>14,}"
            for name, (calls, forward, backward, size) in rows.items()
        ]
        return "\n".join([f"{head}{'backward us':>13}{'bytes':>14}", *lines])

    __repr__ = __str__
