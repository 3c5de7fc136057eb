"""Summarise models in tables."""

from __future__ import annotations

import html
import time
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

from .._core.engine.graph import Tensor
from ..autograd import no_grad
from ..nn.module import Module
from ..tree import flatten_tree
from .graphs import check_model, wrap_forwards

__all__ = ["Row", "Summary", "summary"]


def aligned(cells: list[list[str]], left: int) -> list[str]:
    """The rows of a table as lines of text; the first `left` columns are aligned to the left."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    sides = "<" * left + ">" * (len(widths) - left)
    form = "  ".join(f"{{:{side}{width}}}" for side, width in zip(sides, widths, strict=True))
    return [form.format(*row).rstrip() for row in cells]


class Row(NamedTuple):
    """One module in a `Summary`, without its submodules, which have their own rows.

    path: its name, '' for the model itself. kind: its class. shape: that of its last output, '' if
    it was not called. trainable, frozen: elements of its parameters. calls: per forward pass of the
    model. seconds: the time spent in it.

    >>> mg.viz.summary(mg.nn.Linear(3, 2), mg.ones(5, 3)).rows[0][:5]
    ('', 'Linear', '(5, 2)', 8, 0)
    """

    path: str
    kind: str
    shape: str
    trainable: int
    frozen: int
    calls: int
    seconds: float


class Summary(NamedTuple):
    """The table that `summary` returns: print it, or show it in a notebook.

    >>> table = mg.viz.summary(mg.nn.Linear(3, 2), mg.ones(5, 3))
    >>> str(table).splitlines()[0].split()
    ['layer', 'class', 'output', 'shape', 'trainable', 'frozen', 'time']
    """

    rows: list[Row]

    def _cells(self) -> list[list[str]]:
        """The cells of the table: header, rows and sum."""
        total = sum(row.seconds for row in self.rows) or 1.0
        cells = [["layer", "class", "output shape", "trainable", "frozen", "time"]]
        for path, kind, shape, trainable, frozen, calls, seconds in self.rows:
            name = "  " * path.count(".") + path.rpartition(".")[2] if path else "(model)"
            shape += f" x{calls}" * (calls > 1)
            counts = [f"{count:,}" if count else "" for count in (trainable, frozen)]
            cells.append([name, kind, shape, *counts, f"{seconds / total:.1%}" if calls else ""])
        counts = [f"{sum(column):,}" for column in list(zip(*self.rows, strict=True))[3:5]]
        return [*cells, ["sum", "", "", *counts, f"{total * 1e3:.3g} ms"]]

    def __str__(self) -> str:
        head, *lines, total = aligned(self._cells(), left=3)
        rule = "-" * len(head)
        return "\n".join([head, rule, *lines, rule, total])

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        cell = '<td style="white-space: pre; text-align: {}">{}</td>'.format
        sides = ["left"] * 3 + ["right"] * 3
        rows = ["".join(map(cell, sides, map(html.escape, row))) for row in self._cells()]
        return f"<table><tr>{'</tr><tr>'.join(rows)}</tr></table>"


def summary(model: Module, *inputs: Any) -> Summary:
    """A table of the modules of `model`: output shape, parameters and share of the forward time.

    The model runs on `inputs` in evaluation mode, without recording: once to warm up and three
    times to measure, of which each module's shortest time counts. The model does not change: every
    module gets its mode back, and evaluation does not update running statistics. A row counts only
    the module's own parameters and time; a shared parameter or module counts where it comes first.
    Raises TypeError unless `model` is a Module, or without inputs.

    >>> net = mg.nn.Sequential(mg.nn.Linear(4, 3), mg.nn.BatchNorm1d(3), mg.nn.ReLU())
    >>> for row in mg.viz.summary(net, mg.ones(5, 4)).rows:
    ...     print(row.path, row.kind, row.shape, row.trainable)
     Sequential (5, 3) 0
    0 Linear (5, 3) 15
    1 BatchNorm1d (5, 3) 6
    2 ReLU (5, 3) 0
    """
    check_model(model)
    if not inputs:
        raise TypeError(f"viz.summary: pass the inputs of {type(model).__name__}.forward")
    shapes: dict[str, str] = {}
    calls: Counter[str] = Counter()
    spent: dict[str, list[float]] = {path: [] for path, _ in model.named_modules()}  # in each pass
    inner = [0.0]  # seconds in the submodules of each running module; first: outside all

    def call(
        path: str, module: Module, forward: Callable[..., Any], *arguments: Any, **options: Any
    ) -> Any:
        entered = time.perf_counter()
        inner.append(0.0)
        start = time.perf_counter()
        try:
            output = forward(*arguments, **options)
        finally:
            spent[path][-1] += time.perf_counter() - start - inner.pop()
        calls[path] += 1
        shapes[path] = _shapes(output)
        inner[-1] += time.perf_counter() - entered  # with our overhead, not the parent's
        return output

    modes = [(module, module.training) for module in model.modules()]
    handles = wrap_forwards(model, call)
    try:
        model.eval()
        with no_grad():
            for _ in range(4):
                for passes in spent.values():
                    passes.append(0.0)
                model(*inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes:
            module.training = mode
    counts = {path: Counter[bool]() for path, _ in model.named_modules()}
    for name, parameter in model.named_parameters():
        counts[name.rpartition(".")[0]][parameter.requires_grad] += parameter.size
    rows = []
    for path, module in model.named_modules():
        known = type(module).__name__, shapes.get(path, ""), counts[path][True], counts[path][False]
        rows.append(Row(path, *known, calls[path] // 4, min(spent[path][1:])))
    return Summary(rows)


def _shapes(output: Any) -> str:
    """The shapes of an output: a Tensor, or a tuple, list or dict of them."""
    leaves = [None] if output is None else flatten_tree(output)[0]
    return ", ".join(str(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in leaves)
