"""Gradient accumulation that equals the full batch, for nets with BatchNorm.

BatchNorm couples the samples of a batch: if each micro-batch is normalised by its own statistics,
the accumulated gradients belong to a different function. Here every micro-batch is normalised by
the statistics of all of them, and the gradient flows through these statistics to all samples, in
the memory of one micro-batch's graph. Let s_k be the mean and variance of the k-th BatchNorm call,
a_km its input from micro-batch m, and o_m the output of the model. The full batch computes
loss(o_1, ..., o_M), where o_m and a_km are functions of s_1, s_2, ... (a_km of s_1 to s_(k-1)) and
s_k is a function of a_k1, ..., a_kM. So

- forward, k = 1, 2, ...: run all micro-batches up to call k and pool their a_km into s_k;
- the loss, computed once on all outputs, gives the cotangents of o_m, whatever its reduction;
- backward, k = ..., 2, 1: run all micro-batches with the s_k as leaves. Once the later calls are
  done, the cotangent of s_k is the sum over m of what reaches it from o_m and from the later
  s_j through a_jm, with dL/da_jm = (dL/dmean_j + 2 (a_jm - mean_j) dL/dvar_j) / n_j;
- parameters: one more run, from o_m and all a_jm in the same way.

K BatchNorm calls in training take K + 1 forward passes, of which K stop at their call, and K + 1
forward and backward passes. For 6 layers Linear(64, 64)-Tanh, K of them with a BatchNorm, this took
1.5 (K = 0), 2.3 (1) and 4.5 (4) times as long as one full batch of 8192, in a quarter of the
memory with 16 micro-batches (most of it the outputs of all samples).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from typing import Any

import numpy as np

from .. import rng
from .._core.engine.graph import Tensor, move_statistics, to_tensor
from .._core.ops import concat
from ..autograd import enable_grad, grad, no_grad
from ..checks import instance
from . import functional
from .module import Module
from .norm import _BatchNorm, _Pool

__all__ = ["accumulate"]


class _Reached(BaseException):
    """Raised when the call whose statistics are being pooled is reached. It leaves the model's
    forward, past any `except Exception` in it."""


class _Call:
    """One BatchNorm call in the forward pass: its statistics and their cotangents."""

    def __init__(self, layer: _BatchNorm) -> None:
        self.layer, self.pool = layer, _Pool()
        self.statistics: tuple[Tensor, ...] = ()  # mean and variance, once known
        self.cotangents = np.zeros((2, layer.num_features))

    def add(self, x: Tensor) -> None:
        self.pool.add(x)
        self.dtype = x.dtype

    def fix(self) -> None:
        count = self.pool.count
        if count < 2:
            raise ValueError(
                f"accumulate: {self.layer!r} needs more than one value per channel in all "
                f"micro-batches together, got {count}; use a larger batch, or eval()"
            )
        values = (self.pool.mean, self.pool.squares / count)
        self.statistics = tuple(Tensor(v, dtype=self.dtype, requires_grad=True) for v in values)

    def normalise(self, x: Tensor) -> Tensor:
        layer, (mean, var) = self.layer, self.statistics
        return functional.batch_norm(x, mean, var, layer.weight, layer.bias, eps=layer.eps)

    def cotangent(self, x: Tensor) -> Tensor:
        """The cotangent of an input x of the call, through the statistics."""
        parts = (Tensor(c / self.pool.count, dtype=self.dtype) for c in self.cotangents)
        rows = (*parts, self.statistics[0].detach())
        mean, var, centre = (functional._per_channel(row, x.ndim) for row in rows)
        with no_grad():
            cotangent: Tensor = mean + 2.0 * var * (x - centre)
            return cotangent

    def move_running_statistics(self) -> None:
        """As one forward pass of the full batch would."""
        layer, count = self.layer, self.pool.count
        if not layer.training or layer.running_mean is None:
            return
        seen, momentum = layer.num_batches_tracked.item() + 1, layer.momentum
        if momentum is None:
            momentum = 1 / seen
        mean, var = (s.detach() for s in self.statistics)
        averages = layer.running_mean, layer.running_var
        move_statistics("accumulate", *averages, mean, var, momentum, count / (count - 1))
        layer.num_batches_tracked.fill_(seen)


class _Runner:
    """Runs the model on each micro-batch in turn, with the statistics known so far."""

    def __init__(self, model: Module, inputs: list[Any]) -> None:
        self.model, self.inputs = model, inputs
        norms = (m for m in model.modules() if isinstance(m, _BatchNorm))
        self.layers = [n for n in norms if n.training or n.running_mean is None]
        for layer in self.layers:
            own = type(layer).forward is not _BatchNorm.forward or layer._renorm is not None
            if own or layer._forward_wrappers:
                raise TypeError(
                    f"accumulate: {type(layer).__name__} has a forward of its own or a forward "
                    "wrapper, in which the statistics cannot be shared; call eval() on it"
                )
        self.calls: list[_Call] = []
        self.reached: list[Tensor] = []  # the inputs of the calls so far in this run
        # Each micro-batch draws dropout masks from streams of its own, so that all its runs draw
        # the same; a generator that is not drawn from stays as it was.
        self.start = rng.states()
        seeds = [int(each.numpy().integers(2**63)) for each, _ in self.start]
        self.after = [(each, each.get_state()) for each, _ in self.start]
        rng.restore(self.start)
        self.streams = [
            [
                (each, rng.state_of(type(each.numpy().bit_generator)([seed, m])))
                for (each, _), seed in zip(self.start, seeds, strict=True)
            ]
            for m in range(len(inputs))
        ]
        self.drew: set[int] = set()  # the positions of the generators that were drawn from
        self.buffers = [(b, b.clone(), b._version) for b in model.buffers()]

    @contextmanager
    def sharing(self) -> Iterator[None]:
        """While the BatchNorms share their statistics."""
        before = rng.states()
        handles = [layer.register_forward_wrapper(self._forward) for layer in self.layers]
        try:
            yield
        finally:
            rng.restore(before)
            for handle in handles:
                handle.remove()

    def restore(self) -> None:
        """Buffers and generators as they were before."""
        rng.restore(self.start)
        for buffer, before, version in self.buffers:
            if buffer._version != version:
                buffer.copy_(before)

    def _forward(self, layer: _BatchNorm, own: Callable[..., Tensor], x: Tensor) -> Tensor:
        x = layer._checked(x)
        position = len(self.reached)
        if position == len(self.calls):
            self.calls.append(_Call(layer))
        call = self.calls[position]
        if call.layer is not layer:
            raise RuntimeError(
                "accumulate: every micro-batch must go through the BatchNorms in the same order, "
                f"but call {position + 1} is {call.layer!r} for one and {layer!r} for another"
            )
        if not call.statistics:
            call.add(x)
            raise _Reached
        self.reached.append(x)
        return call.normalise(x)

    def run(self, m: int) -> Tensor:
        """The output for micro-batch m."""
        rng.restore(self.streams[m])
        self.reached = []
        try:
            output = self.model(self.inputs[m])
        finally:
            for position, (each, state) in enumerate(self.streams[m]):
                if each.get_state() != state:
                    self.drew.add(position)
        if len(self.reached) < len(self.calls):
            raise RuntimeError(
                "accumulate: every micro-batch must go through the same BatchNorms, but number "
                f"{m + 1} never reaches {self.calls[-1].layer!r}"
            )
        return to_tensor(output, "accumulate: the output of the model")

    @no_grad()
    def pool(self) -> list[Tensor]:
        """Compute the statistics, call by call, and then the outputs."""
        while True:
            outputs = []
            for m in range(len(self.inputs)):
                with suppress(_Reached):
                    outputs.append(self.run(m))
            if not self.calls or self.calls[-1].statistics:
                break
            if outputs:
                raise RuntimeError(
                    "accumulate: every micro-batch must go through the same BatchNorms, but only "
                    f"some reach {self.calls[-1].layer!r}"
                )
            self.calls[-1].fix()
        if any(buffer._version != version for buffer, _, version in self.buffers):
            raise RuntimeError(
                "accumulate: the model's forward writes to a buffer that is not a BatchNorm's, and "
                "would do so in every run; call eval() on the module that owns it"
            )
        return outputs

    @enable_grad()
    def potential(self, m: int, cotangent: Tensor, after: int) -> Tensor | None:
        """A scalar with the same gradient as the loss has through the output of micro-batch m and
        its contribution to the statistics of the calls from number `after` on."""
        output = self.run(m)
        calls = zip(self.reached[after:], self.calls[after:], strict=True)
        pairs = [(output, cotangent), *((x, c.cotangent(x)) for x, c in calls if x.requires_grad)]
        self.reached = []  # only the graph keeps what it needs
        terms = [(x * c).sum() for x, c in pairs if x.requires_grad]
        return sum(terms[1:], terms[0]) if terms else None

    def pull_back(self, cotangents: list[Tensor]) -> None:
        """Accumulate the gradients of all leaves from the cotangents of the outputs."""
        for k in reversed(range(len(self.calls))):
            call = self.calls[k]
            for m, cotangent in enumerate(cotangents):
                scalar = self.potential(m, cotangent, k + 1)
                if scalar is not None:
                    gradients = grad(scalar, call.statistics, allow_unused=True)
                    for total, gradient in zip(call.cotangents, gradients, strict=True):
                        if gradient is not None:
                            total += gradient.numpy()
                scalar = None  # free this graph before the next is built
        for m, cotangent in enumerate(cotangents):
            scalar = self.potential(m, cotangent, 0)
            if scalar is not None:
                scalar.backward()
            scalar = None


def accumulate(model: Module, loss: Callable[..., Tensor], batches: Iterable[Any]) -> Tensor:
    """Accumulate in `.grad` what `loss(model(x), target).backward()` would for the full batch, in
    the memory of one micro-batch's graph. Returns the loss, detached.

    Equals the full batch up to rounding, with BatchNorm in training too: every micro-batch is
    normalised by the statistics of all, the gradient flows through these, and running statistics
    and `num_batches_tracked` are updated once. The loss is computed once, on all outputs, so its
    reduction and weights need no correction. K BatchNorm calls in training take K + 1 forward
    passes, of which K stop early, and K + 1 forward and backward passes (two and one without any);
    hooks run in each. Random masks are the same in each pass.

    batches: the micro-batches, of any size: tuples or lists (input, target, ...), or inputs alone.
        All are kept in memory. Samples lie along the first axis of inputs, outputs and targets.
    loss: called with the concatenated outputs and targets. A Module's parameters get gradients.

    Raises TypeError or ValueError for no micro-batches or mismatched ones, one value per channel in
    total, or a BatchNorm subclass with its own forward; RuntimeError if the micro-batches go
    through different BatchNorms, or another buffer is written. After an error all gradients and
    buffers are unchanged.

    >>> net = mg.nn.Sequential(mg.nn.Linear(3, 4), mg.nn.BatchNorm1d(4), mg.nn.Linear(4, 1))
    >>> x, y = mg.randn(8, 3), mg.randn(8, 1)
    >>> mse = mg.nn.MSELoss()
    >>> value = mg.nn.accumulate(net, mse, [(x[:6], y[:6]), (x[6:], y[6:])])
    >>> small = net[0].weight.grad.numpy()
    >>> net.zero_grad()
    >>> mse(net(x), y).backward()
    >>> np.allclose(small, net[0].weight.grad.numpy(), atol=1e-6)
    True
    """
    instance(model, Module, "accumulate: model must be a Module")
    if isinstance(batches, Tensor) or not isinstance(batches, Iterable):
        raise TypeError(
            "accumulate: batches must be a list of micro-batches or a DataLoader, got "
            f"{type(batches).__name__}"
        )
    rows = [tuple(b) if isinstance(b, (tuple, list)) else (b,) for b in batches]
    if not rows or {len(row) for row in rows} != {len(rows[0])} or not rows[0]:
        raise ValueError(
            "accumulate: expected micro-batches with an input and the same number of targets, got "
            f"{[len(row) for row in rows]} tensors in them"
        )
    inputs, *targets = (list(column) for column in zip(*rows, strict=True))
    owners = [model, loss] if isinstance(loss, Module) else [model]
    kept = {p: p.grad for owner in owners for p in owner.parameters()}
    runner = _Runner(model, inputs)
    try:
        for parameter in kept:
            parameter.grad = None
        with runner.sharing():
            outputs = runner.pool()
        rng.restore(runner.after[position] for position in runner.drew)
        joined = concat(outputs).requires_grad_()
        with enable_grad():
            value = loss(joined, *[concat(parts) for parts in targets])
        value.backward()
        bounds = np.cumsum([0, *(len(output) for output in outputs)])
        gradient = joined.grad
        del outputs, joined
        if gradient is not None:
            with runner.sharing():
                runner.pull_back([gradient[a:b] for a, b in pairwise(bounds.tolist())])
        for call in runner.calls:
            call.move_running_statistics()
    except BaseException:
        runner.restore()
        for parameter, before in kept.items():
            parameter.grad = before
        raise
    for parameter, before in kept.items():
        if before is not None:
            if parameter.grad is not None:
                with no_grad():
                    before += parameter.grad
            parameter.grad = before
    return value.detach()
