"""RNN, LSTM, GRU, their cells, and the batch-normalised LSTM.

An LSTM layer without proj_size is one `Function` over all steps, which runs the loops of
`_core/fast/recurrent.pyx`: 7.0 ms where a composition of steps took 8.6 (64 to 128 units, 32 steps
of batch 32, forward and backward).

Everything else is composed of steps. There a state is a matrix of columns, (hidden_size, N), so the
gates are contiguous in memory, as blocks of rows of (4 hidden_size, N). A step is one product, of
[W_ih b W_hh] and [x; 1; h], whose weight is not packed (56 us where `h @ weight.T` took 91). In
backward the engine merges the products for the weights over many steps. (It was slower to project
the inputs of all steps before the loop: no arithmetic is saved, and the gates are read again.)

Pad sequences of different lengths at the end. A step does not look ahead, so the last output of
each sequence is the one at `lengths - 1` (`y[lengths - 1, mg.arange(N)]`), and a loss masks the
rest. Only the reverse direction of a bidirectional net reads the padding first.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np

from .._core.engine.graph import Tensor, in_common_dtype, is_grad_enabled, slopes_of, to_tensor
from .._core.fast.accelerate import Shortcut
from .._core.fast.recurrent import lstm_backward, lstm_forward
from .._core.ops import (
    concat,
    linear,
    lstm_cell,
    matmul,
    permute_dims,
    relu,
    reshape,
    sigmoid,
    tanh,
)
from ..autograd import Function
from ..checks import choice, flag, integer, nonnegative_real, positive, probability, wrong_shape
from ..creation import empty, full, ones, zeros
from ..functions import expand_dims, flip, split, stack, unstack
from . import functional
from .containers import ModuleList
from .linear import _Uniform
from .module import Module, Parameter

__all__ = ["GRU", "LSTM", "RNN", "BatchNormLSTM", "BatchNormLSTMCell", "GRUCell", "LSTMCell"]
__all__ += ["RNNCell"]

SEQUENCE = Shortcut("LSTM over all steps in one call")

State = tuple[Tensor, ...]


def _beside(*parts: Tensor | None) -> Tensor:
    """Concatenate matrices, and vectors as columns, side by side."""
    columns = [p if p.ndim == 2 else reshape(p, (-1, 1)) for p in parts if p is not None]
    return concat(columns, axis=1)


# ---------------------------------------------------------------------------------------- one step
class _Kind(_Uniform):
    """Base class of a layer and its cell: the parameters, and the step from state to state.

    A subclass defines `_gates`, the number of blocks in its weights, `_states`, the number of
    tensors in its state, of which the first is h, and `_step`.
    """

    _gates: ClassVar[int]
    _states: ClassVar[int] = 1
    input_size: int
    hidden_size: int
    proj_size: int = 0
    bias: bool

    def _add_weights(self, suffix: str, n_in: int, dtype: Any) -> None:
        rows, n_out = self._gates * self.hidden_size, self.proj_size or self.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, n_in), "weight_hh": (rows, n_out)}
        if self.bias:
            shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
        if self.proj_size:
            shapes["weight_hr"] = (self.proj_size, self.hidden_size)
        for name, shape in shapes.items():
            setattr(self, name + suffix, Parameter(empty(shape, dtype=dtype)))

    def _matrices(self, suffix: str) -> list[Tensor]:
        """The matrices that multiply [x; 1; h], or without bias [x; h], in every step."""
        ih, hh, bias_ih, bias_hh = self._weights(suffix)
        return [_beside(ih, bias_ih + bias_hh if self.bias else None, hh)]

    def _weights(self, suffix: str) -> list[Any]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [self.__dict__.get(name + suffix) for name in names]

    def _fan_in(self) -> int:
        return self.hidden_size

    def _step(self, inputs: list[Tensor], state: State, matrices: list[Tensor]) -> State:
        """The next state, from a state and inputs [x] or [x, 1], (input_size, N) and (1, N)."""
        raise NotImplementedError

    def _input(self, given: Any, ranks: dict[int, str]) -> Tensor:
        x: Tensor = to_tensor(given, type(self).__name__)
        if x.ndim not in ranks or x.shape[-1] != self.input_size:
            where = f" with input_size {self.input_size}"
            raise wrong_shape(type(self).__name__, x.shape, *ranks.values(), where=where)
        return x

    def _given_state(self, hx: Any, leading: tuple[int, ...], x: Tensor) -> list[Tensor]:
        """Check a state and list its tensors, (*leading, size); None gives zeros."""
        name = type(self).__name__
        sizes = (self.proj_size or self.hidden_size, self.hidden_size)[: self._states]
        if hx is None:
            return [zeros(*leading, size, dtype=x.dtype) for size in sizes]
        if self._states == 2 and not (isinstance(hx, (tuple, list)) and len(hx) == 2):
            raise TypeError(f"{name}: the state must be a tuple (h, c), got {type(hx).__name__}")
        given = [to_tensor(h, name) for h in (hx if self._states == 2 else (hx,))]
        for h, size, which in zip(given, sizes, "hc"[: len(sizes)], strict=True):
            if h.shape != (*leading, size):
                raise ValueError(
                    f"{name}: expected the state {which} of shape {(*leading, size)}, got {h.shape}"
                )
        return given


class _ElmanKind(_Kind):
    _gates = 1
    nonlinearity: str

    def _set_nonlinearity(self, nonlinearity: str) -> None:
        name = f"{type(self).__name__}: nonlinearity"
        self.nonlinearity = choice(nonlinearity, name, "tanh", "relu")

    def _step(self, inputs: list[Tensor], state: State, matrices: list[Tensor]) -> State:
        z = matmul(matrices[0], concat([*inputs, state[0]]))
        return (tanh(z) if self.nonlinearity == "tanh" else relu(z),)


class _LSTMKind(_Kind):
    _gates = 4
    _states = 2

    def _matrices(self, suffix: str) -> list[Tensor]:
        projection = [getattr(self, f"weight_hr{suffix}")] if self.proj_size else []
        return super()._matrices(suffix) + projection

    def _step(self, inputs: list[Tensor], state: State, matrices: list[Tensor]) -> State:
        both = lstm_cell(matmul(matrices[0], concat([*inputs, state[0]])), state[1])
        c, h = both[: self.hidden_size], both[self.hidden_size :]
        return matmul(matrices[1], h) if self.proj_size else h, c


class _GRUKind(_Kind):
    _gates = 3

    def _matrices(self, suffix: str) -> list[Tensor]:
        ih, hh, bias_ih, bias_hh = self._weights(suffix)
        gates, new = slice(2 * self.hidden_size), slice(2 * self.hidden_size, None)
        if not self.bias:
            return [_beside(ih[gates], hh[gates]), ih[new], hh[new]]
        return [
            _beside(ih[gates], (bias_ih + bias_hh)[gates], hh[gates]),
            _beside(ih[new], bias_ih[new]),
            _beside(bias_hh[new], hh[new]),
        ]

    def _step(self, inputs: list[Tensor], state: State, matrices: list[Tensor]) -> State:
        size, h = self.hidden_size, state[0]
        x1h = concat([*inputs, h])
        gates = sigmoid(matmul(matrices[0], x1h))
        reset, update = gates[:size], gates[size:]
        x1, h1 = x1h[: -h.shape[0]], x1h[inputs[0].shape[0] :]  # [x; 1] and [1; h]
        new = tanh(matmul(matrices[1], x1) + reset * matmul(matrices[2], h1))
        return (new + update * (h - new),)


# ------------------------------------------------------------------------------- layers over time
class _Sequence(_Kind):
    """Runs a step over time, in several layers and directions."""

    def _over_time(self, x: Tensor, state: State, suffix: str) -> tuple[Tensor, State]:
        """Run one layer in one direction, step by step, on x (T, features, N) and a state of
        (N, size). Returns the outputs (T, size, N) and the last state. If `_has_rows`, x is
        (T, N, features) and the outputs are (T, N, size)."""
        matrices = self._matrices(suffix)
        one = [ones(1, x.shape[2], dtype=x.dtype)] if self.bias else []
        state, outputs = tuple(h.T for h in state), []
        for columns in unstack(x):
            state = self._step([columns, *one], state, matrices)
            outputs.append(state[0])
        return stack(outputs), tuple(h.T for h in state)

    def _has_rows(self) -> bool:
        """Whether sequences are rows, not columns, in `_over_time`."""
        return False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size = input_size = positive(input_size, f"{name}: input_size")
        self.hidden_size = hidden_size = positive(hidden_size, f"{name}: hidden_size")
        self.num_layers = num_layers = positive(num_layers, f"{name}: num_layers")
        self.bias = flag(bias, f"{name}: bias")
        self.batch_first = flag(batch_first, f"{name}: batch_first")
        self.bidirectional = flag(bidirectional, f"{name}: bidirectional")
        probability(dropout, "dropout: the probability p")
        if dropout and num_layers == 1:
            text = f"{name}: dropout={dropout} applies between layers, but there is only one"
            warnings.warn(text, stacklevel=3)
        if proj_size and self._gates != 4:
            raise ValueError(f"{name}: only LSTM takes proj_size")
        proj_size = proj_size and positive(proj_size, f"{name}: proj_size")
        if proj_size >= hidden_size:
            raise ValueError(
                f"{name}: proj_size must be smaller than hidden_size, got {proj_size} and "
                f"{hidden_size}"
            )
        self.dropout, self.proj_size = dropout, proj_size
        n_out = proj_size or hidden_size
        for layer in range(num_layers):
            n_in = n_out * (1 + bidirectional) if layer else input_size
            for suffix in self._suffixes(layer):
                self._add_weights(suffix, n_in, dtype)
        self.reset_parameters()

    def _suffixes(self, layer: int) -> list[str]:
        return [f"_l{layer}{way}" for way in (("", "_reverse") if self.bidirectional else ("",))]

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """The outputs of the last layer at all steps, and the last state of every layer."""
        given = self._input(x, {2: "(T, input_size)", 3: self._layout()})
        x = given if given.ndim == 3 else expand_dims(given, 0 if self.batch_first else 1)
        x = permute_dims(x, (1, 0, 2)) if self.batch_first else x
        length, batch, _ = x.shape
        rows = self._has_rows()
        if length == 0:
            raise ValueError(f"{type(self).__name__}: the sequence has no steps, got {given.shape}")
        count = self.num_layers * (1 + self.bidirectional)
        leading = (count, batch) if given.ndim == 3 else (count,)
        states = self._given_state(hx, leading, x)
        initial = [reshape(h, (count, batch, h.shape[-1])) for h in states]

        last: list[State] = []
        x = x if rows else permute_dims(x, (0, 2, 1))
        for layer in range(self.num_layers):
            if layer and self.training and self.dropout:
                x = functional.dropout(x, self.dropout)
            ways = []
            for suffix in self._suffixes(layer):
                backwards = suffix.endswith("reverse")
                state = tuple(h[len(last)] for h in initial)
                y, state = self._over_time(flip(x, 0) if backwards else x, state, suffix)
                ways.append(flip(y, 0) if backwards else y)
                last.append(state)
            x = concat(ways, axis=2 if rows else 1) if len(ways) > 1 else ways[0]

        y = x if rows else permute_dims(x, (0, 2, 1))
        y = permute_dims(y, (1, 0, 2)) if self.batch_first else y
        final = [stack([state[k] for state in last]) for k in range(self._states)]
        if given.ndim == 2:
            y, final = reshape(y, (length, -1)), [reshape(h, (count, -1)) for h in final]
        return y, tuple(final) if self._states == 2 else final[0]

    def _layout(self) -> str:
        return "(N, T, input_size)" if self.batch_first else "(T, N, input_size)"

    def extra_repr(self) -> str:
        """The sizes, and the options that differ from the defaults."""
        options = {"batch_first": False, "dropout": 0, "bidirectional": False}
        given = self._changed(proj_size=0, num_layers=1, bias=True, **options)
        return ", ".join([str(self.input_size), str(self.hidden_size), *given])


class RNN(_ElmanKind, _Sequence):
    """An Elman net (Elman 1990) over a sequence: h_t = tanh(W_ih x_t + b_ih + W_hh h_(t-1) + b_hh),
    or relu with nonlinearity="relu".

    forward(x, h0=None) takes x of shape (T, N, input_size), (N, T, input_size) with batch_first,
    or (T, input_size) without a batch, and h0 of shape (num_layers * directions, N, hidden_size),
    zeros by default. It returns the outputs of the last layer, (T, N, directions * hidden_size) in
    the layout of x, and the last h of every layer, in the shape of h0. Parameters as in PyTorch:
    weight_ih_l0 (hidden_size, input_size), weight_hh_l0, bias_ih_l0, bias_hh_l0, ..., with
    `_reverse` for the other direction, initialised uniformly in ±1/sqrt(hidden_size). dropout: the
    probability of zeroing an element between layers, in training.

    Pad sequences of different lengths, see the top of minigrad/nn/recurrent.py.
    Raises ValueError for a wrong shape or a sequence without steps.

    >>> layer = mg.nn.RNN(3, 4, num_layers=2)
    >>> y, h = layer(mg.randn(5, 2, 3))
    >>> y.shape, h.shape
    ((5, 2, 4), (2, 2, 4))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        dtype: Any = None,
    ) -> None:
        options = (num_layers, bias, batch_first, dropout, bidirectional)
        super().__init__(input_size, hidden_size, *options, dtype=dtype)
        self._set_nonlinearity(nonlinearity)


class LSTM(_LSTMKind, _Sequence):
    """Long short-term memory (Hochreiter & Schmidhuber 1997, with the forget gate of Gers et al.
    2000) over a sequence:

    i, f, g, o = the four blocks of W_ih x_t + b_ih + W_hh h_(t-1) + b_hh
    c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g)
    h_t = sigmoid(o) tanh(c_t), or with proj_size W_hr sigmoid(o) tanh(c_t) (Sak et al. 2014)

    forward(x, (h0, c0)=None) gives the outputs and (h_n, c_n); shapes and parameters as for RNN,
    with 4 hidden_size rows in the weights. With proj_size every h has that size, c has hidden_size,
    and there is weight_hr_l0 (proj_size, hidden_size).

    >>> layer = mg.nn.LSTM(3, 4, bidirectional=True, batch_first=True)
    >>> y, (h, c) = layer(mg.randn(2, 5, 3))
    >>> y.shape, h.shape, c.shape
    ((2, 5, 8), (2, 2, 4), (2, 2, 4))
    """

    def _over_time(self, x: Tensor, state: State, suffix: str) -> tuple[Tensor, State]:
        if not self._has_rows():
            return super()._over_time(x, state, suffix)
        weight_ih, weight_hh, bias_ih, bias_hh = self._weights(suffix)
        tensors = [x, *state, weight_ih, weight_hh, *([bias_ih + bias_hh] if self.bias else [])]
        y, c = LSTMSequence.apply(is_grad_enabled(), *in_common_dtype(tuple(tensors)))
        return y, (y[-1], c)

    def _has_rows(self) -> bool:
        return not self.proj_size and SEQUENCE.take()


class LSTMSequence(Function):
    """All h and the last c, from x (T, N, features), h and c (N, size), the weights and an optional
    bias; `keep` saves what a gradient needs. The gradient is one call too, unless it is recorded;
    then it is that of the same steps in primitives."""

    @staticmethod
    def forward(ctx: Any, keep: bool, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Run all steps in one call."""
        x, h, c, weight_ih, weight_hh, *bias = tensors
        y, last, *ctx.kept = lstm_forward(
            x, h, c, weight_ih, weight_hh, bias[0] if bias else None, keep
        )
        ctx.save_for_backward(y, *tensors)
        return y, last

    @staticmethod
    def backward(ctx: Any, g: Tensor, g_last: Tensor) -> list[Tensor | None]:
        """The gradients in one call, or recorded."""
        needs = ctx.needs_input_grad[1:]
        y, *tensors = ctx.saved_tensors
        if is_grad_enabled() or not SEQUENCE.take():
            return [None, *slopes_of(LSTMSequence.composed, tensors, list(needs), [g, g_last])]
        x, h, _, weight_ih, weight_hh = tensors[:5]
        kept, cells = ctx.kept
        gradients = lstm_backward(
            g, g_last, x, h, weight_ih, weight_hh, y, kept, cells, needs[0], any(needs[5:])
        )
        return [None, *gradients[: len(needs)]]

    @staticmethod
    def composed(
        x: Tensor, h: Tensor, c: Tensor, weight_ih: Tensor, weight_hh: Tensor, *bias: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The same values, composed step by step."""
        size, outputs = c.shape[1], []
        for step in unstack(x):
            gates = linear(step, weight_ih, *bias) + linear(h, weight_hh)
            both = lstm_cell(gates.T, c.T).T
            c, h = both[:, :size], both[:, size:]
            outputs.append(h)
        return stack(outputs), c


class GRU(_GRUKind, _Sequence):
    """The gated recurrent unit (Cho et al. 2014, in the form of cuDNN and PyTorch, whose reset gate
    acts after the product) over a sequence:

    r = sigmoid(W_ir x_t + b_ir + W_hr h_(t-1) + b_hr), z likewise
    n = tanh(W_in x_t + b_in + r (W_hn h_(t-1) + b_hn))
    h_t = (1 - z) n + z h_(t-1)

    Shapes and parameters as for RNN, with the three blocks r, z, n in the rows of the weights.

    >>> y, h = mg.nn.GRU(3, 4)(mg.randn(5, 2, 3))
    >>> y.shape, h.shape
    ((5, 2, 4), (1, 2, 4))
    """


# ------------------------------------------------------------------------------------------- cells
class _Cell(_Kind):
    """One step: the next state from (N, input_size) or (input_size,) and a state."""

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, dtype: Any = None
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size = input_size = positive(input_size, f"{name}: input_size")
        self.hidden_size = hidden_size = positive(hidden_size, f"{name}: hidden_size")
        self.bias = flag(bias, f"{name}: bias")
        self._add_weights("", input_size, dtype)
        self.reset_parameters()

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        """The next state, of the shape of the given one."""
        given = self._input(x, {1: "(input_size,)", 2: "(N, input_size)"})
        x = reshape(given, (-1, self.input_size))
        inputs = [x.T, ones(1, x.shape[0], dtype=x.dtype)] if self.bias else [x.T]
        states = self._given_state(hx, given.shape[:-1], given)
        columns = tuple(reshape(h, (-1, self.hidden_size)).T for h in states)
        state = self._step(inputs, columns, self._matrices(""))
        rows = tuple(reshape(h.T, (*given.shape[:-1], self.hidden_size)) for h in state)
        return rows if self._states == 2 else rows[0]

    def extra_repr(self) -> str:
        """The sizes, and bias=False if there is none."""
        return f"{self.input_size}, {self.hidden_size}" + ", bias=False" * (not self.bias)


class RNNCell(_ElmanKind, _Cell):
    """One step of an RNN: the next h from x (N, input_size) or (input_size,) and h of shape
    (N, hidden_size), zeros by default. Parameters weight_ih, weight_hh, bias_ih, bias_hh.

    >>> mg.nn.RNNCell(3, 4)(mg.randn(2, 3)).shape
    (2, 4)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        dtype: Any = None,
    ) -> None:
        super().__init__(input_size, hidden_size, bias, dtype)
        self._set_nonlinearity(nonlinearity)


class LSTMCell(_LSTMKind, _Cell):
    """One step of an LSTM: the next (h, c) from x and (h, c); shapes as for RNNCell.

    >>> h, c = mg.nn.LSTMCell(3, 4)(mg.randn(2, 3))
    >>> h.shape, c.shape
    ((2, 4), (2, 4))
    """


class GRUCell(_GRUKind, _Cell):
    """One step of a GRU: the next h from x and h; shapes as for RNNCell.

    >>> mg.nn.GRUCell(3, 4)(mg.randn(3), mg.zeros(4)).shape
    (4,)
    """


# ------------------------------------------------------------------ recurrent batch normalisation
class _StepNorm(Module):
    """Batch normalisation of (N, features) with running statistics for each step up to max_length;
    all later steps share the last. In evaluation a step that no training batch reached uses those
    of the last step that one did. The scale starts at 0.1."""

    bias: Any
    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self, features: int, max_length: int, eps: float, momentum: float, bias: bool, dtype: Any
    ) -> None:
        super().__init__()
        self.eps, self.momentum, self.max_length = eps, momentum, max_length
        self.weight = Parameter(full((features,), 0.1, dtype=dtype))
        self.register_parameter("bias", Parameter(zeros(features, dtype=dtype)) if bias else None)
        self.register_buffer("running_mean", zeros(max_length, features, dtype=dtype))
        self.register_buffer("running_var", ones(max_length, features, dtype=dtype))

    def forward(self, x: Tensor, time: int) -> Tensor:
        row = min(time, self.max_length - 1)
        if not self.training:
            row = self._trained(row)
        mean, var = self.running_mean[row], self.running_var[row]  # views, updated in place
        options = self.training, self.momentum, self.eps
        return functional.batch_norm(x, mean, var, self.weight, self.bias, *options)

    def _trained(self, row: int) -> int:
        """The last row up to this one that a batch has updated, or this one if there is none. A
        batch updates all features, so looking at the first is enough."""
        mean, var = self.running_mean._array, self.running_var._array
        if var.item(row, 0) == 1 and mean.item(row, 0) == 0:
            moved = np.flatnonzero((var[:row, 0] != 1) | (mean[:row, 0] != 0))
            return int(moved[-1]) if moved.size else row
        return row


class BatchNormLSTMCell(_LSTMKind):
    """One step of the batch-normalised LSTM (Cooijmans et al. 2016, equations 6 to 8):

    i, f, g, o = the four blocks of BN(W_ih x_t) + BN(W_hh h_(t-1)) + b
    c_t = sigmoid(f) c_(t-1) + sigmoid(i) tanh(g)
    h_t = sigmoid(o) tanh(BN(c_t))

    Each BN normalises per unit over the batch and has separate statistics for each step, because
    those at the start, where h is constant, differ from later ones. `time` is the number of the
    step; from max_length - 1 on, all steps share the last statistics. In evaluation, steps beyond
    the longest training sequence use the statistics of its last step (section 4). The scales start
    at 0.1, since with unit variance tanh saturates and gradients vanish (section 4); the BN of c
    has a shift as well.

    Parameters: weight_ih (4 hidden_size, input_size), weight_hh (4 hidden_size, hidden_size), bias,
    norm_ih.weight, norm_hh.weight, norm_c.weight, norm_c.bias, and for each norm the buffers
    running_mean and running_var, (max_length, features). Training updates them as in BatchNorm1d.
    Raises ValueError for wrong shapes, a negative time, and in training a batch of one.

    >>> cell = mg.nn.BatchNormLSTMCell(3, 4, max_length=10)
    >>> h, c = cell(mg.randn(8, 3), time=0)
    >>> h.shape, c.shape
    ((8, 4), (8, 4))
    """

    _details = "{0.input_size}, {0.hidden_size}, max_length={0.max_length}"
    bias: Any

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        max_length: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.input_size = input_size = positive(input_size, f"{name}: input_size")
        self.hidden_size = hidden_size = positive(hidden_size, f"{name}: hidden_size")
        self.max_length = max_length = positive(max_length, f"{name}: max_length")
        nonnegative_real(eps, f"{name}: eps")
        probability(momentum, f"{name}: momentum")
        rows = 4 * hidden_size
        self.weight_ih = Parameter(empty(rows, input_size, dtype=dtype))
        self.weight_hh = Parameter(empty(rows, hidden_size, dtype=dtype))
        self.bias = Parameter(empty(rows, dtype=dtype))
        self.norm_ih = _StepNorm(rows, max_length, eps, momentum, False, dtype)
        self.norm_hh = _StepNorm(rows, max_length, eps, momentum, False, dtype)
        self.norm_c = _StepNorm(hidden_size, max_length, eps, momentum, True, dtype)
        self.reset_parameters()

    def forward(self, x: Tensor, hx: Any = None, time: int = 0) -> tuple[Tensor, Tensor]:
        """The next (h, c) from x (N, input_size) and a state (h, c), zeros by default."""
        x = self._input(x, {2: "(N, input_size)"})
        name = type(self).__name__
        time = integer(time, f"{name}: time")
        if time < 0:
            raise ValueError(f"{name}: time must not be negative, got {time}")
        h, c = self._given_state(hx, x.shape[:1], x)
        gates = (
            self.norm_ih(linear(x, self.weight_ih), time)
            + self.norm_hh(linear(h, self.weight_hh), time)
            + self.bias
        )
        i, f, g, o = split(gates, self.hidden_size, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        return sigmoid(o) * tanh(self.norm_c(c, time)), c


class BatchNormLSTM(Module):
    """The batch-normalised LSTM over a sequence (Cooijmans et al. 2016); see BatchNormLSTMCell.

    forward(x, (h0, c0)=None) takes x of shape (T, N, input_size), or (N, T, input_size) with
    batch_first, and states of shape (num_layers, N, hidden_size). It returns the outputs of the
    last layer and (h_n, c_n), like LSTM. The layers are the BatchNormLSTMCells `cells.0`, ...
    `recalibrate` does not change their statistics; only further training batches do.

    >>> net = mg.nn.BatchNormLSTM(3, 4, max_length=10, num_layers=2)
    >>> y, (h, c) = net(mg.randn(5, 8, 3))
    >>> y.shape, h.shape
    ((5, 8, 4), (2, 8, 4))
    >>> net.cells[0].norm_hh.running_mean.shape
    (10, 16)
    """

    _details = "num_layers={0.num_layers}, batch_first={0.batch_first}"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        max_length: int,
        num_layers: int = 1,
        batch_first: bool = False,
        eps: float = 1e-5,
        momentum: float = 0.1,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.num_layers = num_layers = positive(num_layers, "BatchNormLSTM: num_layers")
        self.batch_first = flag(batch_first, "BatchNormLSTM: batch_first")
        self.cells = ModuleList(
            BatchNormLSTMCell(
                hidden_size if layer else input_size, hidden_size, max_length, eps, momentum, dtype
            )
            for layer in range(num_layers)
        )

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The outputs of the last layer at all steps, and the last (h, c) of every layer."""
        x = to_tensor(x, "BatchNormLSTM")
        n_in, time_axis = self.cells[0].input_size, 1 if self.batch_first else 0
        if x.ndim != 3 or x.shape[2] != n_in or x.shape[time_axis] == 0:
            layout = "(N, T, input_size)" if self.batch_first else "(T, N, input_size)"
            where = f" with input_size {n_in} and T > 0"
            raise wrong_shape("BatchNormLSTM", x.shape, layout, where=where)
        steps: Any = unstack(x, axis=time_axis)
        if hx is not None and any(len(h) != self.num_layers for h in hx):
            raise ValueError(f"BatchNormLSTM: expected h0 and c0 for {self.num_layers} layers")
        shape = (x.shape[1 - time_axis], self.cells[0].hidden_size)
        if hx is not None and any(state.shape != shape for h in hx for state in h):
            raise ValueError(f"BatchNormLSTM: expected h0 and c0 of shape {shape} for each layer")
        last = []
        for layer, cell in enumerate(self.cells):
            state: Any = None if hx is None else (hx[0][layer], hx[1][layer])
            outputs = []
            for time, step in enumerate(steps):
                state = cell(step, state, time)
                outputs.append(state[0])
            steps = outputs
            last.append(state)
        h, c = (stack([state[k] for state in last]) for k in range(2))
        return stack(steps, axis=time_axis), (h, c)
