"""What notebooks show of Modules and Tensors: HTML without scripts, and without colours of its own,
so that it is legible on any background."""

from __future__ import annotations

import html
from typing import Any

import numpy as np

MONOSPACE, QUIET = "font-family: monospace; line-height: 1.5", "opacity: 0.65"
OPEN_LEVELS = 2  # of the tree of a Module
FEW = 60  # the elements that a Tensor shows; of more, those at the edges


def tensor_html(tensor: Any) -> str:
    """Some elements of a Tensor, its shape and dtype, and how it was made.

    >>> mg.viz.notebook.tensor_html(mg.tensor([1.0, 2.0])).count("shape (2,), float32")
    1
    """
    notes = [f"shape {tensor.shape}", str(tensor.dtype)]
    if tensor.grad_fn is not None:
        notes.append(f"made by {tensor.grad_fn.name}")
    elif tensor.requires_grad:
        notes.append("requires grad")
    if tensor.grad is not None:
        notes.append("has .grad")
    values = tensor.numpy()
    where = ""
    if values.size > FEW and values.ndim > 2:  # the first matrix stands for all of them
        first = (0,) * (values.ndim - 2)
        where, values = f"[{', '.join(map(str, first))}] =\n", values[first]
    text = where + np.array2string(values, 110, threshold=FEW, edgeitems=3, separator=", ")
    head = f"<b>{html.escape(type(tensor).__name__)}</b> {_quiet(', '.join(notes))}"
    pre = f'<pre style="margin: 0">{html.escape(text)}</pre>'
    return f'<div style="{MONOSPACE}">{head}{pre}</div>'


def module_html(module: Any) -> str:
    """The tree of a Module: classes, options, and the number and shapes of parameters; each level
    folds. What occurs twice is counted once.

    >>> mg.viz.notebook.module_html(mg.nn.Linear(2, 3)).count("9 parameters")
    1
    """
    return f'<div style="{MONOSPACE}">{_branch("", module, set(), 0)[0]}</div>'


def _quiet(text: str) -> str:
    return f'<span style="{QUIET}">{html.escape(text)}</span>'


def _branch(name: str, module: Any, counted: set[int], level: int) -> tuple[str, int]:
    """A module and those below it, and how many elements their parameters have."""
    total, notes = 0, []
    for key, parameter in module.named_parameters(recurse=False):
        again = id(parameter) in counted
        counted.add(id(parameter))
        total += 0 if again else parameter.size
        marks = [", shared"] * again + [", frozen"] * (not parameter.requires_grad)
        notes.append(f"{key} {parameter.shape}{''.join(marks)}")
    below = []
    for key, child in module.named_children():
        text, count = _branch(key, child, counted, level + 1)
        total += count
        below.append(text)
    notes = [f"{total:,} parameters"] * bool(total) + notes
    kind, options = type(module).__name__, module.extra_repr()
    head = html.escape(f"({name}): ") * bool(name) + f"<b>{html.escape(kind)}</b>"
    head += html.escape(f"({options}) ") + _quiet("; ".join(notes))
    if not below:
        return f"<div>{head}</div>", total
    summary = f'<summary style="cursor: pointer">{head}</summary>'
    inner = f'<div style="margin-left: 1.5em">{"".join(below)}</div>'
    shown = " open" * (level < OPEN_LEVELS)
    return f"<details{shown}>{summary}{inner}</details>", total
