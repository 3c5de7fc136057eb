"""Trade time for memory: `checkpoint` drops the intermediate results of a part of a net and
recomputes them in backward (Chen, Xu, Zhang & Guestrin 2016).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .. import rng
from .._core.engine.graph import (
    Node,
    Tensor,
    count_nodes,
    edges_below,
    freeze,
    is_grad_enabled,
    observe_writes,
    run_graph,
    set_recording,
    set_running,
)
from ..tree import flatten_tree
from .function import _Joint, _joint_ops

OPS = _joint_ops("checkpoint")
_recomputing: list[Any] = []  # the runs that are being repeated, nested ones last


def is_recomputing() -> bool:
    """Whether a checkpoint runs its function again, in backward.

    >>> from minigrad.autograd.checkpoint import is_recomputing
    >>> is_recomputing()
    False
    """
    return bool(_recomputing)


def checkpoint(
    function: Callable[..., Any], *args: Any, use_reentrant: bool | None = None, **kwargs: Any
) -> Any:
    """Return `function(*args, **kwargs)` without keeping the graph between its inputs and outputs:
    backward calls the function again to rebuild it.

    A net of n equal parts, each in a checkpoint, keeps the outputs of n parts and the graph of one,
    and takes the time of one more forward. Gradients reach every tensor the function uses:
    arguments, module parameters, tensors it closes over. They can be differentiated again
    (create_graph), and checkpoints can be nested.

    The second run must compute the same as the first. It draws the same random numbers from the
    library's generator and from every `mg.Generator` (the same dropout mask). Tensors that the
    first run wrote to (running statistics of BatchNorm) start with their original values.
    Generators and tensors are restored afterwards: statistics are updated once. (To a graph that
    saved such a tensor, this is a write.) Other state, such as train() or eval(), is up to the
    caller.
    `use_reentrant` is accepted for compatibility with PyTorch and ignored.

    Raises RuntimeError in backward if an argument or a parameter was written to in place since, or
    if the second run returns outputs of other shapes or dtypes.

    >>> net = mg.nn.Sequential(mg.nn.Linear(4, 64), mg.nn.Tanh(), mg.nn.Linear(64, 1))
    >>> y = mg.autograd.checkpoint(net, mg.ones(8, 4))
    >>> y.grad_fn
    <checkpoint>
    >>> y.sum().backward()
    >>> net[0].weight.grad.shape
    (64, 4)
    """
    if not callable(function):
        raise TypeError(f"checkpoint: expected a function, got {type(function).__name__}")
    if not is_grad_enabled():
        return function(*args, **kwargs)
    run = _Run(function, args, kwargs)
    since = count_nodes()
    result = run.first()
    leaves, rebuild = flatten_tree(result)
    made = [i for i, leaf in enumerate(leaves) if _is_newer(leaf, since)]
    if not made:
        return result
    outputs = [leaves[i] for i in made]
    run.remember(made, edges_below(outputs, since))
    attached = _Joint(OPS, run.again).attach(run.inputs, [y.detach() for y in outputs])
    for i, y in zip(made, attached, strict=True):
        leaves[i] = y
    return rebuild(leaves)


def _is_newer(value: Any, since: int) -> bool:
    return isinstance(value, Tensor) and value.grad_fn is not None and value.grad_fn.number > since


class _Run:
    """A call, and everything needed to repeat it."""

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        # the arguments of the second run: the caller may refill its arrays before backward
        given, rebuild = flatten_tree((args, kwargs))
        saved = list(map(_frozen, given))
        as_given = all(a is b for a, b in zip(given, saved, strict=True))
        self.saved = (args, kwargs) if as_given else rebuild(saved)
        self.random_states = rng.states()
        # tensors that the first run wrote to, with their previous values; weak references, because
        # the function's own temporaries are gone afterwards and need no restoring
        self.written: list[tuple[weakref.ref[Tensor], np.ndarray]] = []
        self.inputs: list[Node | Tensor] = []

    def first(self) -> Any:
        before: dict[int, tuple[Tensor, np.ndarray]] = {}

        def note(tensor: Tensor) -> None:
            if id(tensor) not in before:
                before[id(tensor)] = tensor, tensor.numpy(copy=True)
            if outer is not None:
                outer(tensor)

        outer = observe_writes(note)
        try:
            result = self.function(*self.args, **self.kwargs)
        finally:
            observe_writes(outer)
        self.written = [(weakref.ref(tensor), values) for tensor, values in before.values()]
        return result

    def remember(self, made: list[int], inputs: list[Node | Tensor]) -> None:
        """Remember which leaves of the result are outputs, and the versions of the inputs."""
        self.written = [(tensor, values) for tensor, values in self.written if tensor() is not None]
        self.made, self.inputs = made, inputs
        given = [*flatten_tree((self.args, self.kwargs))[0], *inputs]
        ours = {id(tensor()) for tensor, _ in self.written}
        others = (x for x in given if isinstance(x, Tensor) and id(x) not in ours)
        self.versions = [(x, x._version) for x in others]

    def again(self, call: _Joint, cotangents: list[Tensor]) -> list[Tensor | None]:
        """The gradient rule: run the function again, recorded, and differentiate that graph."""
        for x, version in self.versions:
            if x._version != version:
                raise RuntimeError(
                    f"checkpoint: an input of shape {x.shape} was written to in place since "
                    f"(version {version} then, {x._version} now), but backward runs the function "
                    "on it again; write to a copy, x.clone(), or after backward"
                )
        create_graph = is_grad_enabled()
        args, kwargs = self.saved
        with self._as_it_was():
            set_recording(True)
            try:
                rule = set_running(None)
                try:
                    leaves, _ = flatten_tree(self.function(*args, **kwargs))
                finally:
                    set_running(rule)
                outputs = [leaves[i] for i in self.made if i < len(leaves)]
                made = [(y.shape, y.dtype) for y in outputs if _is_newer(y, 0)]
                if made != list(zip(call.shapes, call.dtypes, strict=True)):
                    raise RuntimeError(
                        f"checkpoint: the first run returned outputs of shapes {call.shapes}, the "
                        f"second of {[shape for shape, _ in made]}; the function must compute the "
                        "same when it runs again in backward"
                    )
                given: list[Tensor | None] = [*cotangents]
                return run_graph(outputs, given, self.inputs, True, create_graph, True)
            finally:
                set_recording(create_graph)

    @contextmanager
    def _as_it_was(self) -> Iterator[None]:
        """Restore the random states and the tensors the first run started with; afterwards, the
        current ones."""
        current = rng.states()
        alive = [(tensor, values) for ref, values in self.written if (tensor := ref()) is not None]
        now = [(tensor, tensor.numpy(copy=True)) for tensor, _ in alive]
        _recomputing.append(self)
        try:
            rng.restore(self.random_states)
            for tensor, values in alive:
                _put_back(tensor, values)
            yield
        finally:
            _recomputing.pop()
            rng.restore(current)
            for tensor, values in now:
                _put_back(tensor, values)


def _frozen(value: Any) -> Any:
    if isinstance(value, Tensor):
        return freeze(value)
    return value.copy() if isinstance(value, np.ndarray) else value


def _put_back(tensor: Tensor, values: np.ndarray) -> None:
    tensor._array[...] = values
    tensor._bump_version()
