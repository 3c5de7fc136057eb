"""Operations with a hand-written gradient: `Function`.

How it works. A call becomes one Node whose rule is called once and returns the gradients of all
inputs. That Node produces no values. Each output has a Node above it, whose rule writes the
cotangent of the output to its place in a vector of all cotangents; the Node below splits the
vector again. To the engine, a call with many outputs is therefore a graph of single-output
operations, and second order works as everywhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, compress, pairwise
from typing import Any

import numpy as np

from .._core.engine.graph import (
    Op,
    Tensor,
    adopt,
    announce,
    attach_op,
    freeze,
    is_grad_enabled,
    make_op,
    set_recording,
)
from .._core.ops import put, zeros_like

NOTHING = adopt(np.zeros(0, np.float32))


def _joint_ops(name: str) -> tuple[Op, Op]:
    """The Ops for the calls of a function and for each of their outputs."""
    whole = (lambda g, out, call: call.gradients(g, out),)
    part = (lambda g, call, k: call.placed(g, k),)
    return (
        make_op(name, rules=whole, attributes=("call",), joint=True),
        make_op(name, rules=part, attributes=("call", "k")),
    )


class _Joint:
    """One call in the graph with all its outputs. `rule(call, cotangents)` takes a cotangent per
    output and returns the gradients of the inputs, which are Tensors or Nodes."""

    def __init__(self, ops: tuple[Op, Op], rule: Callable[..., Sequence[Tensor | None]]) -> None:
        self.ops, self.rule = ops, rule
        self.node: Tensor = NOTHING  # represents the Node of the call while its rule runs

    def attach(self, inputs: Sequence[Any], outputs: Sequence[Tensor]) -> list[Tensor]:
        """Attach the outputs, which have no graph yet, to this one."""
        self.shapes = [y.shape for y in outputs]
        self.dtypes = [y.dtype for y in outputs]
        self.offsets = list(accumulate((y.size for y in outputs), initial=0))
        whole = self.node = attach_op(self.ops[0], NOTHING, tuple(inputs), (self,))
        parts = [self.part(y, k) for k, y in enumerate(outputs)]
        self.node = NOTHING  # the Node holds this call, not the reverse
        shared: dict[str, Any] = {}  # a tool's notes on an output apply to the call too
        for made in (whole, *parts):
            if made.grad_fn is not None:
                made.grad_fn.metadata = shared
        return parts

    def part(self, values: Tensor, k: int) -> Tensor:
        """Output k of the call."""
        return attach_op(self.ops[1], values, (self.node,), (self, k))

    def placed(self, g: Tensor, k: int) -> Tensor:
        """The rule of an output: place its cotangent among those of all outputs."""
        if len(self.shapes) == 1:
            return g
        return put(g.reshape(-1), slice(*self.offsets[k : k + 2]), (self.offsets[-1],))

    def gradients(self, g: Tensor, node: Tensor) -> list[Tensor | None]:
        """The rule of the call."""
        cotangents = [g]
        if len(self.shapes) > 1:
            pieces = zip(pairwise(self.offsets), self.shapes, self.dtypes, strict=True)
            cotangents = [g[a:b].reshape(shape).astype(dtype) for (a, b), shape, dtype in pieces]
        self.node = node
        try:
            return list(self.rule(self, cotangents))
        finally:
            self.node = NOTHING


class FunctionContext:
    """The `ctx` by which `Function.forward` passes values to `Function.backward`.

    `needs_input_grad` says for each argument of forward whether it is a Tensor that requires grad.
    Set any other attribute to keep values that are not Tensors.

    >>> ctx = mg.autograd.function.FunctionContext("Cube", (True, False))
    >>> ctx.save_for_backward(mg.ones(2))
    >>> ctx.saved_tensors
    (tensor([1., 1.]),)
    """

    def __init__(self, name: str, needs_input_grad: tuple[bool, ...]) -> None:
        self.needs_input_grad = needs_input_grad
        self._name = name
        self._saved: list[tuple[Tensor | None, int, int | None]] = []  # tensor, version, output
        self._constant: tuple[Tensor, ...] = ()
        self._call: _Joint | None = None  # set while backward runs: the graph has no cycles

    def save_for_backward(self, *tensors: Tensor | None) -> None:
        """Keep inputs or outputs (or None) for backward, where they are in `saved_tensors`.

        Raises TypeError for anything else: set it as an attribute of ctx.
        """
        for tensor in tensors:
            if tensor is not None and not isinstance(tensor, Tensor):
                raise TypeError(
                    f"{self._name}: save_for_backward takes Tensors, got {type(tensor).__name__}; "
                    "keep other values as attributes: ctx.name = value"
                )
        self._saved = [(t, 0 if t is None else t._version, None) for t in tensors]

    @property
    def saved_tensors(self) -> tuple[Tensor | None, ...]:
        """The saved tensors. Raises RuntimeError if one of them was written to in place since."""
        for tensor, version, _ in self._saved:
            if tensor is not None and tensor._version != version:
                raise RuntimeError(
                    f"{self._name}: its gradient needs a saved tensor of shape {tensor.shape}, "
                    f"which was written to in place since (version {version} when it was saved, "
                    f"{tensor._version} now); write to a copy, x.clone(), or after backward"
                )
        call = self._call
        if call is None or not call.node.requires_grad:
            return tuple(tensor for tensor, *_ in self._saved)
        return tuple(
            tensor if tensor is None or k is None else call.part(tensor, k)
            for tensor, _, k in self._saved
        )

    def mark_non_differentiable(self, *outputs: Tensor) -> None:
        """Declare in forward that no gradient flows through these outputs; integer and bool outputs
        never have one. Backward gets zeros for them."""
        self._constant += outputs

    def _link(self, inputs: tuple[Any, ...], outputs: list[Tensor]) -> None:
        """Mark the saved tensors that are outputs: second order must see how they were computed.
        From now on they are part of a graph, which copies foreign memory."""
        given = {id(x) for x in inputs}
        place = {id(y): k for k, y in enumerate(outputs) if id(y) not in given}
        self._saved = [
            (None if t is None else freeze(t), version, place.get(id(t)))
            for t, version, _ in self._saved
        ]


class Function:
    """An operation with a custom gradient: subclass it, write both static methods, call `apply`.

    `forward(ctx, *arguments)` returns a Tensor or a tuple of them; nothing in it is recorded.
    `backward(ctx, *cotangents)` takes a cotangent for each output (zeros if there is none) and
    returns a gradient for each argument of forward: None if the argument has no gradient or is not
    a Tensor. It is called once per pass. If it is written in Tensor operations and takes inputs and
    outputs from `ctx.saved_tensors`, it can itself be differentiated, to any order.

    Errors of a backward are raised when it runs: RuntimeError for a wrong number of gradients, a
    wrong shape, or a gradient for an argument that is not a Tensor; TypeError for a gradient that
    is not a Tensor. A gradient of another floating dtype is converted to that of its argument.

    >>> class Cube(mg.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x * x * x
    ...     @staticmethod
    ...     def backward(ctx, g):
    ...         (x,) = ctx.saved_tensors
    ...         return g * (3.0 * x * x)
    >>> x = mg.tensor(2.0, requires_grad=True)
    >>> (slope,) = mg.autograd.grad(Cube.apply(x), x, create_graph=True)
    >>> mg.autograd.grad(slope, x)
    (tensor(12.),)
    """

    _ops: tuple[Op, Op]

    def __init__(self) -> None:
        raise TypeError(f"{type(self).__name__}: call {type(self).__name__}.apply(...)")

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        cls._ops = _joint_ops(cls.__name__)

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Any:
        """Return the result, a Tensor or a tuple of Tensors."""
        raise NotImplementedError("Function: a subclass needs a static method forward(ctx, ...)")

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        """Return a gradient for each argument of forward."""
        raise NotImplementedError("Function: a subclass needs a static method backward(ctx, ...)")

    @classmethod
    def apply(cls, *arguments: Any) -> Any:
        """Call `forward`, and record the call if a Tensor argument requires grad.

        Raises TypeError if forward returns anything but a Tensor or a tuple of Tensors.
        """
        needs = tuple(isinstance(x, Tensor) and x.requires_grad for x in arguments)
        ctx = FunctionContext(cls.__name__, needs)
        previous = set_recording(False)
        try:
            returned = cls.forward(ctx, *arguments)
        finally:
            set_recording(previous)
        outputs = list(returned) if isinstance(returned, tuple) else [returned]
        if not all(isinstance(y, Tensor) for y in outputs):
            raise TypeError(
                f"{cls.__name__}.forward: expected a Tensor or a tuple of Tensors, got "
                f"{', '.join(type(y).__name__ for y in outputs)}"
            )
        tensors = tuple(x for x in arguments if isinstance(x, Tensor))
        results = [y.detach() for y in outputs]
        constant, ctx._constant = set(map(id, ctx._constant)), ()
        flowing = [y.dtype.kind == "f" and id(y) not in constant for y in outputs]
        if is_grad_enabled() and any(needs) and any(flowing):
            ctx._link(arguments, list(compress(outputs, flowing)))
            expected = [(x.shape, x.dtype) if isinstance(x, Tensor) else None for x in arguments]
            pairs = list(zip(outputs, flowing, strict=True))
            zeros = [None if flows else zeros_like(y) for y, flows in pairs]

            def rule(call: _Joint, arrived: list[Tensor]) -> list[Tensor | None]:
                rest = iter(arrived)
                cotangents = [next(rest) if zero is None else zero for zero in zeros]
                ctx._call = call
                try:
                    gradients = cls.backward(ctx, *cotangents)
                finally:
                    ctx._call = None
                return _accepted(f"{cls.__name__}.backward", gradients, expected, cotangents)

            made = list(compress(results, flowing))
            attached = iter(_Joint(cls._ops, rule).attach(tensors, made))
            places = zip(results, zeros, strict=True)
            results = [next(attached) if zero is None else y for y, zero in places]
        for y in results:
            announce(cls.__name__, tensors, {}, y)
        return tuple(results) if isinstance(returned, tuple) else results[0]


def _accepted(
    name: str, returned: Any, expected: list[tuple[Any, Any] | None], cotangents: list[Tensor]
) -> list[Tensor | None]:
    """The gradients of the Tensor arguments; raises an error that says what is wrong with them."""
    gradients = returned if isinstance(returned, (tuple, list)) else (returned,)
    if len(gradients) != len(expected):
        raise RuntimeError(
            f"{name}: {len(gradients)} gradients were returned for {len(expected)} arguments of "
            "forward; return one for each, None if it has no gradient"
        )
    fitting: list[Tensor | None] = []
    for i, (gradient, wanted) in enumerate(zip(gradients, expected, strict=True)):
        if gradient is None:
            fitting += [] if wanted is None else [None]
            continue
        if not isinstance(gradient, Tensor):
            kind = type(gradient).__name__
            raise TypeError(
                f"{name}: the gradient of argument {i} is a {kind}, not a Tensor; make one with "
                "mg.asarray(...)"
            )
        if wanted is None:
            raise RuntimeError(f"{name}: argument {i} of forward is not a Tensor; return None")
        shape, dtype = wanted
        if gradient.shape != shape or gradient.dtype.kind != "f":
            raise RuntimeError(
                f"{name}: the gradient of argument {i} has shape {gradient.shape} and dtype "
                f"{gradient.dtype}, the argument shape {shape} and dtype {dtype}"
            )
        announce(name, tuple(cotangents), {}, gradient)
        fitting.append(gradient.astype(dtype))
    return fitting
