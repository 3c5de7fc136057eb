"""Gradients on demand, the grad modes, and the tools around the graph: `Function`, `checkpoint`,
`detect_anomaly`, `gradcheck`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ContextDecorator
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any, TypeVar, overload

from .._core.engine.graph import Tensor, is_grad_enabled, run_graph, set_recording
from .._core.fast.accelerate import is_accelerated, set_accelerated
from ..checks import instance
from ..namespace import led
from .anomaly import detect_anomaly
from .checkpoint import checkpoint
from .function import Function
from .gradcheck import GradcheckError, gradcheck, gradgradcheck

F = TypeVar("F", bound=Callable[..., Any])


class _Mode(ContextDecorator):
    """A context manager and decorator that switches a mode of the current thread."""

    _mode: bool
    _previous: list[bool]

    @staticmethod
    def _switch(mode: bool) -> bool:
        """Set the mode and return the previous one."""
        raise NotImplementedError

    def _recreate_cm(self) -> _Mode:
        """A decorated function may run in several threads at once; each call gets its own block."""
        raise NotImplementedError

    def __call__(self, function: Any) -> Any:
        if not isgeneratorfunction(function):
            return super().__call__(function)

        # Between two resumptions the caller runs in its own mode: each resumption enters a block.
        @wraps(function)
        def generator(*arguments: Any, **options: Any) -> Any:
            running = function(*arguments, **options)
            resume, value = running.send, None
            try:
                while True:
                    with self._recreate_cm():
                        result = resume(value)
                    try:
                        resume, value = running.send, (yield result)
                    except GeneratorExit:
                        with self._recreate_cm():
                            running.close()
                        raise
                    except BaseException as error:
                        resume, value = running.throw, error
            except StopIteration as end:
                return end.value

        return generator

    def __enter__(self) -> None:
        self._previous.append(self._switch(self._mode))

    def __exit__(self, *exception: object) -> None:
        self._switch(self._previous.pop())


class _GradMode(_Mode):
    """Also works without parentheses (`@mg.no_grad`)."""

    _switch = staticmethod(set_recording)

    @overload
    def __new__(cls, function: None = None) -> _GradMode: ...
    @overload
    def __new__(cls, function: F) -> F: ...  # type: ignore[misc] # without parentheses, see above
    def __new__(cls, function: Any = None) -> Any:
        self = super().__new__(cls)
        self._previous = []
        return self if function is None else self(function)

    def _recreate_cm(self) -> _GradMode:
        return type(self)()


class no_grad(_GradMode):  # noqa: N801 (used like a function, as in PyTorch)
    """Disable recording: `with mg.no_grad():` or `@mg.no_grad()`.

    >>> x = mg.ones(2, requires_grad=True)
    >>> with mg.no_grad():
    ...     (x * 2).requires_grad
    False
    """

    _mode = False


class enable_grad(_GradMode):  # noqa: N801 (used like a function, as in PyTorch)
    """Enable recording inside `no_grad`.

    >>> x = mg.ones(2, requires_grad=True)
    >>> with mg.no_grad(), mg.enable_grad():
    ...     (x * 2).requires_grad
    True
    """

    _mode = True


class set_grad_enabled:  # noqa: N801 (used like a function, as in PyTorch)
    """Turn recording on or off in this thread: immediately, or for a `with` block.

    As a decorator it changes the mode only inside the function.

    >>> with mg.set_grad_enabled(False):
    ...     mg.is_grad_enabled()
    False
    """

    def __init__(self, mode: bool) -> None:
        self._mode = bool(mode)
        self._before = set_recording(self._mode)

    def __enter__(self) -> None:
        set_recording(self._mode)

    def __exit__(self, *exception: object) -> None:
        set_recording(self._before)

    def __call__(self, function: F) -> F:
        """Decorate `function`."""
        set_recording(self._before)
        return enable_grad(function) if self._mode else no_grad(function)


class accelerated(_Mode):  # noqa: N801 (used like a function, as no_grad is)
    """Enable or disable shortcuts in this thread, in a `with` block or a decorated function.

    With False everything runs by its definition: primitives and their rules, formulas composed of
    them, BLAS for products. Results are the same up to rounding, but slower, which tells whether a
    shortcut causes a wrong result. MINIGRAD_FAST=0 in the environment disables shortcuts for the
    whole process. `minigrad._core.fast.accelerate.shortcuts()` lists them.

    >>> with mg.autograd.accelerated(False):
    ...     mg.autograd.is_accelerated()
    False
    """

    _switch = staticmethod(set_accelerated)

    def __init__(self, mode: bool = True) -> None:
        self._mode, self._previous = bool(mode), []

    def _recreate_cm(self) -> accelerated:
        return accelerated(self._mode)


def grad(
    outputs: Tensor | Sequence[Tensor],
    inputs: Tensor | Sequence[Tensor],
    grad_outputs: Tensor | Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    allow_unused: bool = False,
) -> tuple[Tensor | None, ...]:
    """The gradients of (the sum of) `outputs` with respect to `inputs`, a tuple; sets no `.grad`.

    grad_outputs: a cotangent for each output, of its shape (a number has shape ()); None means 1
        for a single-element output.
    retain_graph: keep the graph for another pass; defaults to create_graph.
    create_graph: record the gradients, so that they can be differentiated again.
    allow_unused: return None for an input that no output depends on, instead of raising.

    >>> x = mg.tensor(3.0, requires_grad=True)
    >>> (dx,) = mg.autograd.grad(x * x, x, create_graph=True)
    >>> mg.autograd.grad(dx, x)
    (tensor(2.),)
    """
    outputs = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    inputs = [inputs] if isinstance(inputs, Tensor) else list(inputs)
    if grad_outputs is None:
        cotangents: list[Tensor | None] = [None] * len(outputs)
    else:
        several = isinstance(grad_outputs, Sequence)
        cotangents = list(grad_outputs) if several else [grad_outputs]  # type: ignore[list-item]
    for tensor in (*outputs, *inputs):
        instance(tensor, Tensor, "grad: expected Tensors")
    if len(cotangents) != len(outputs):
        raise ValueError(f"grad: {len(outputs)} outputs but {len(cotangents)} grad_outputs")
    retain = create_graph if retain_graph is None else retain_graph
    result = tuple(run_graph(outputs, cotangents, inputs, retain, create_graph))
    unused = [i for i, g in enumerate(result) if g is None]
    if unused and not allow_unused:
        raise RuntimeError(
            f"grad: no output depends on input {unused[0]}; pass allow_unused=True to get None "
            "for it"
        )
    return result


led(globals(), ["grad"])

__all__ = [
    "Function", "GradcheckError", "accelerated", "checkpoint", "detect_anomaly", "enable_grad",
    "grad", "gradcheck", "gradgradcheck", "is_accelerated", "is_grad_enabled", "no_grad",
    "set_grad_enabled",
]  # fmt: skip
__dir__ = __all__.copy
