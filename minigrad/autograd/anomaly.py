"""`detect_anomaly`: find where the first NaN or infinity comes from."""

from __future__ import annotations

import linecache
import os
import sys
from contextlib import ContextDecorator
from typing import Any, NamedTuple

import numpy as np

from .._core.engine.graph import Node, Tensor, observe, running_node

HERE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
FROM_OUTSIDE = "It came with the data, or from outside of the library: check the inputs."
USUAL_CAUSES = (
    "log, sqrt, norm, divide and pow near 0 and exp of large numbers are the usual causes: add a "
    "small constant, or replace the argument with mg.where before the operation."
)


class _Place(NamedTuple):
    """A line of the user's program."""

    filename: str
    line: int
    function: str

    def __str__(self) -> str:
        source = linecache.getline(self.filename, self.line).strip()
        where = f"{self.filename}:{self.line} in {self.function}"
        return f"{where}\n    {source}" if source else where


class detect_anomaly(ContextDecorator):  # noqa: N801 (used like a function, as in PyTorch)
    """Raise FloatingPointError at the first operation in this thread that produces a NaN or
    infinity, and name the line of the program that called it.

    In forward the error names the operation, its line, and the shapes of its inputs; in backward,
    the line of the forward operation whose gradient rule produced the NaN or infinity. A NaN is
    always an anomaly. An infinity is one only if an operation produces it from finite inputs:
    infinite inputs, such as a mask of -inf before a softmax or an infinite bound, are allowed.

    check_inf: False checks for NaN only.

    Run forward and backward inside the block, or use it as a decorator. Checking costs a few
    microseconds per operation inside a block and nothing outside. Operations of other threads
    and of NumPy are not checked.

    >>> x = mg.tensor([0.0, 4.0], requires_grad=True)
    >>> try:
    ...     with mg.autograd.detect_anomaly():
    ...         mg.sqrt(x).sum().backward()
    ... except FloatingPointError as error:
    ...     print(str(error).splitlines()[0].split(",")[0])
    backward of sqrt: divide made an infinity in 1 of 2 elements
    """

    def __init__(self, *, check_inf: bool = True) -> None:
        self._check_inf = check_inf
        self._outer: list[Any] = []  # the previous observers; a block can be nested in itself

    def __enter__(self) -> None:
        self._outer.append(observe(self._look))

    def __exit__(self, *exception: object) -> None:
        observe(self._outer.pop())

    def _look(
        self, name: str, inputs: tuple[Any, ...], attributes: dict[str, Any], output: Tensor
    ) -> None:
        if self._outer[-1] is not None:
            self._outer[-1](name, inputs, attributes, output)
        node = running_node()  # results of its rule get the line of the forward operation
        place = _place() if node is None else (node.metadata or {}).get("place")
        if output.grad_fn is not None:
            _note(output.grad_fn, place)
        if output.dtype.kind != "f" or np.isfinite(output._array).all():
            return
        nan = np.isnan(output._array)
        given_nan = any(_holds(np.isnan, x) for x in inputs)
        given_inf = any(_holds(np.isinf, x) for x in inputs)
        if nan.any():
            what, count = "NaN", int(nan.sum())
            verb = "was given a" if given_nan else "made a"
        elif self._check_inf and not given_inf:
            what, count, verb = "infinity", int(np.isinf(output._array).sum()), "made an"
        else:
            return
        where = "forward" if node is None else f"backward of {node.name}"
        shapes = ", ".join(f"{tuple(x.shape)}" for x in inputs if isinstance(x, Tensor)) or "none"
        raise FloatingPointError(
            f"{where}: {name} {verb} {what} in {count} of {output.size} elements, "
            f"from inputs of shapes {shapes}\n  {_history(node, place)}\n"
            f"{FROM_OUTSIDE if given_nan else USUAL_CAUSES}"
        )


def _holds(test: Any, value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.dtype.kind == "f" and bool(test(value._array).any())
    return isinstance(value, float) and bool(test(value))


def _place() -> _Place | None:
    """The innermost running line outside of the library."""
    frame = sys._getframe(1)
    while frame.f_code.co_filename.startswith(HERE):
        if frame.f_back is None:
            return None
        frame = frame.f_back
    return _Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def _note(node: Node, place: _Place | None) -> None:
    if node.metadata is None:
        node.metadata = {}
    node.metadata["place"] = place


def _history(node: Node | None, place: _Place | None) -> str:
    if node is not None and place is None:
        return "of an operation made before detect_anomaly() began; run forward inside it too"
    return f"at {place}" if node is None else f"forward was at {place}"
