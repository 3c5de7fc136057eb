"""Recurrent layers against NumPy, their gradients, the engine behind them, and bad input."""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad._core import ops
from minigrad.autograd import gradcheck, gradgradcheck

RANDOM = np.random.default_rng(0)
KINDS = {"RNN": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
CELLS = {"RNN": nn.RNNCell, "LSTM": nn.LSTMCell, "GRU": nn.GRUCell}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def tensor(*shape):
    return mg.tensor(RANDOM.normal(size=shape), requires_grad=True)


# --------------------------------------------------------------------- values, one step by itself
def step(kind, x, state, w_ih, w_hh, b_ih, b_hh):
    """One step for rows x, as in the docstrings."""
    u, v = x @ w_ih.T + b_ih, state[0] @ w_hh.T + b_hh
    if kind == "RNN":
        return (np.tanh(u + v),)
    if kind == "LSTM":
        i, f, g, o = np.split(u + v, 4, axis=1)
        c = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
        return sigmoid(o) * np.tanh(c), c
    (ur, uz, un), (vr, vz, vn) = np.split(u, 3, axis=1), np.split(v, 3, axis=1)
    z = sigmoid(uz + vz)
    return ((1 - z) * np.tanh(un + sigmoid(ur + vr) * vn) + z * state[0],)


@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_is_its_cell_step_by_step_and_the_formula(kind):
    layer, cell = KINDS[kind](3, 4).double(), CELLS[kind](3, 4).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    weights = [p.numpy() for p in layer.parameters()]
    x = RANDOM.normal(size=(5, 2, 3))
    expected = tuple(np.zeros((2, 4)) for _ in range(1 + (kind == "LSTM")))
    state, outputs = None, []
    y, last = layer(mg.tensor(x))
    for t in range(5):
        expected = step(kind, x[t], expected, *weights)
        state = cell(mg.tensor(x[t]), state)
        np.testing.assert_allclose(y[t].numpy(), expected[0], rtol=1e-12, atol=1e-14)
        for ours, value in zip(state if kind == "LSTM" else [state], expected, strict=True):
            np.testing.assert_allclose(ours.numpy(), value, rtol=1e-12, atol=1e-14)
        outputs.append(state)
    for ours, value in zip(last if kind == "LSTM" else [last], expected, strict=True):
        np.testing.assert_allclose(ours.numpy()[0], value, rtol=1e-12, atol=1e-14)


def whole_layer(kind, x, states, weights, directions, layers, activation):
    """(T, N, *) through all layers and directions; weights and states in PyTorch's order."""
    last = []
    for layer in range(layers):
        ways = []
        for way in range(directions):
            w_ih, w_hh, b_ih, b_hh, w_hr = weights[layer * directions + way]
            state = tuple(s[layer * directions + way] for s in states)
            outputs = [None] * len(x)
            for t in reversed(range(len(x))) if way else range(len(x)):
                if activation is not None:
                    state = (activation(x[t] @ w_ih.T + b_ih + state[0] @ w_hh.T + b_hh),)
                else:
                    state = step(kind, x[t], state, w_ih, w_hh, b_ih, b_hh)
                state = state if w_hr is None else (state[0] @ w_hr.T, *state[1:])
                outputs[t] = state[0]
            ways.append(np.stack(outputs))
            last.append(state)
        x = np.concatenate(ways, axis=2)
    return x, [np.stack(s) for s in zip(*last, strict=True)]


@pytest.mark.parametrize("given", [False, True], ids=["zero state", "given state"])
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("RNN", {}),
        ("RNN", {"nonlinearity": "relu", "bias": False}),
        ("LSTM", {}),
        ("LSTM", {"proj_size": 2, "batch_first": True}),
        ("LSTM", {"bias": False}),
        ("GRU", {"bias": False}),
        ("GRU", {"batch_first": True}),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_every_option_is_the_formula(kind, options, bidirectional, layers, given, dtype):
    layer = KINDS[kind](3, 4, num_layers=layers, bidirectional=bidirectional, **options)
    layer = layer.to(mg.float64 if dtype == "float64" else mg.float32)
    named = {name: p.numpy().astype(float) for name, p in layer.named_parameters()}
    directions, outputs = 1 + bidirectional, options.get("proj_size", 4)
    weights = [
        [
            named.get(f"{name}_l{number}{suffix}", None if name == "weight_hr" else 0.0)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
        ]
        for number in range(layers)
        for suffix in ("", "_reverse")[:directions]
    ]
    x = RANDOM.normal(size=(5, 2, 3))
    shapes = [(layers * directions, 2, outputs)] + [(layers * directions, 2, 4)] * (kind == "LSTM")
    states = [RANDOM.normal(size=shape) if given else np.zeros(shape) for shape in shapes]
    relu = options.get("nonlinearity") == "relu"
    expected, last = whole_layer(
        kind, x, states, weights, directions, layers, (lambda z: np.maximum(z, 0)) if relu else None
    )
    first = "batch_first" in options
    hx = [mg.tensor(s, dtype=dtype) for s in states]
    hx = None if not given else tuple(hx) if kind == "LSTM" else hx[0]
    y, ours = layer(mg.tensor(x.swapaxes(0, 1) if first else x, dtype=dtype), hx)
    tolerance = {"rtol": 1e-11, "atol": 1e-13} if dtype == "float64" else {"atol": 2e-6}
    np.testing.assert_allclose(y.numpy().swapaxes(0, int(first)), expected, **tolerance)
    for a, b in zip(ours if kind == "LSTM" else [ours], last, strict=True):
        np.testing.assert_allclose(a.numpy(), b, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_starting_values_and_dtype(kind):
    mg.manual_seed(0)
    layer = KINDS[kind](50, 100, dtype=mg.float64)
    for parameter in layer.parameters():
        values = parameter.numpy()
        assert values.dtype == np.float64 and 0.099 < np.abs(values).max() <= 0.1
        assert abs(values.std() - 0.1 / math.sqrt(3)) < 0.01
    assert KINDS[kind](2, 3)(mg.randn(4, 1, 2))[0].dtype == mg.float32


@pytest.mark.parametrize("kind", KINDS)
def test_the_outputs_do_not_depend_on_later_steps_or_padding(kind):
    layer, x = KINDS[kind](3, 4), mg.randn(6, 2, 3)
    whole, _ = layer(x)
    part, last = layer(x[:4])
    np.testing.assert_array_equal(whole[:4].numpy(), part.numpy())
    lengths = np.array([4, 6])
    h = (last[0] if kind == "LSTM" else last).numpy()
    np.testing.assert_array_equal(whole[lengths - 1, np.arange(2)].numpy()[0], h[0, 0])


def test_dropout_draws_in_training_only():
    layer, x = nn.LSTM(3, 4, num_layers=2, dropout=0.5), mg.randn(5, 2, 3)
    assert not np.array_equal(layer(x)[0].numpy(), layer(x)[0].numpy())
    layer.eval()
    np.testing.assert_array_equal(layer(x)[0].numpy(), layer(x)[0].numpy())
    with pytest.warns(UserWarning, match="RNN: dropout=0.5 applies between layers, .* only one"):
        nn.RNN(3, 4, dropout=0.5)


# --------------------------------------------------------------------------------------- gradients
OPTIONS = {
    "RNN": [{}, {"nonlinearity": "relu", "bias": False}],
    "LSTM": [{}, {"bidirectional": True}, {"proj_size": 2, "bias": False}],
    "GRU": [{}, {"bias": False, "batch_first": True}],
}


@pytest.mark.parametrize(
    ("kind", "options"),
    [(kind, options) for kind, several in OPTIONS.items() for options in several],
)
def test_gradients_of_both_orders(kind, options):
    """Of the input, the first state and every parameter, of the whole layer."""
    layer = KINDS[kind](2, 3, **options).double()
    count = options.get("num_layers", 1) * (2 if options.get("bidirectional") else 1)
    state = [tensor(count, 2, options.get("proj_size", 3))]
    if kind == "LSTM":
        state.append(tensor(count, 2, 3))

    def function(x, *rest):
        y, last = layer(x, tuple(rest[:2]) if kind == "LSTM" else rest[0])
        return (y, *last) if kind == "LSTM" else (y, last)

    inputs = (tensor(*((2, 3, 2) if options.get("batch_first") else (3, 2, 2))), *state)
    assert gradcheck(function, (*inputs, *layer.parameters()))
    assert gradgradcheck(function, (*inputs, *layer.parameters()))


@pytest.mark.parametrize("kind", CELLS)
def test_gradients_of_cells(kind):
    cell = CELLS[kind](2, 3).double()
    state = [tensor(2, 3) for _ in range(1 + (kind == "LSTM"))]

    def function(x, *rest):
        return cell(x, tuple(rest[:2]) if kind == "LSTM" else rest[0])

    assert gradcheck(function, (tensor(2, 2), *state, *cell.parameters()))
    assert gradgradcheck(function, (tensor(2, 2), *state, *cell.parameters()))


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True),
        lambda: nn.LSTM(3, 4, proj_size=2),
        lambda: nn.GRU(3, 4, num_layers=2, bidirectional=True),
    ],
    ids=["LSTM", "LSTM with proj_size", "GRU"],
)
def test_recorded_and_unrecorded_gradients_are_the_same(build):
    """When recorded, a layer is a composition of steps, lstm_cell of elementwise operations, and
    products and parts are computed separately."""
    layer = build().double()
    x, d = (
        tensor(40, 20, 3),
        mg.tensor(RANDOM.normal(size=(40, 20, layer(mg.ones(1, 3))[0].shape[1]))),
    )
    inputs = [x, *layer.parameters()]
    plain = mg.autograd.grad(layer(x)[0], inputs, d)
    recorded = mg.autograd.grad(layer(x)[0], inputs, d, create_graph=True)
    for one, other in zip(plain, recorded, strict=True):
        assert other.requires_grad and not one.requires_grad
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-10, atol=1e-13)


# ------------------------------------------------------------------------ an LSTM layer as one call
SIZES = [  # steps, batch, features, hidden: tails of tiles, of panels, of the chunks of backward
    (1, 1, 1, 1),
    (3, 1, 5, 16),
    (7, 3, 2, 4),
    (20, 33, 7, 9),
    (9, 40, 64, 20),
    (2, 300, 3, 12),
    (5, 13, 33, 130),
    (4, 0, 3, 2),
]


def results(layer, x, state, cotangents):
    """Outputs, and gradients of the input, the state and the parameters."""
    inputs = [mg.tensor(a, layer.weight_ih_l0.dtype, requires_grad=True) for a in (x, *state)]
    y, last = layer(inputs[0], tuple(inputs[1:]))
    outputs, given = [y, *last], [mg.tensor(g, y.dtype) for g in cotangents]
    gradients = mg.autograd.grad(outputs, [*inputs, *layer.parameters()], given)
    return [t.numpy() for t in (*outputs, *gradients)]


def check_single_precision(sizes=SIZES):
    """float32, where weights are packed, against float64, which gradcheck checks."""
    random = np.random.default_rng(2)
    for steps, batch, features, hidden in sizes:
        layer = nn.LSTM(features, hidden)
        x, state = random.normal(size=(steps, batch, features)), (1, batch, hidden)
        states, cotangents = (
            [random.normal(size=shape) for shape in shapes]
            for shapes in ([state, state], [(steps, batch, hidden), state, state])
        )
        single = results(layer, x, states, cotangents)
        for one, exact in zip(single, results(layer.double(), x, states, cotangents), strict=True):
            assert one.dtype == np.float32 and one.shape == exact.shape
            scale = np.abs(exact).max(initial=1.0)
            np.testing.assert_allclose(one, exact, rtol=0, atol=3e-6 * scale)


def test_single_precision_where_blas_shares_its_work():
    check_single_precision()


def test_single_precision_where_blas_has_one_thread():
    environment = {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    program = "import test_recurrent as t; t.check_single_precision([*t.SIZES, (5, 64, 128, 300)])"
    here = os.path.dirname(__file__)
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=here, check=True)


def test_a_write_to_a_weight_is_seen_by_the_next_call():
    """Panels of a packed weight must not outlive the call that packed it."""
    layer, x = nn.LSTM(16, 32), mg.randn(6, 16, 16)

    def fresh():
        copy = nn.LSTM(16, 32)
        copy.load_state_dict(layer.state_dict())
        return copy(x)[0].numpy()

    optimizer = mg.optim.SGD(layer.parameters(), lr=0.5)
    values = [layer(x)[0].numpy()]
    for write in (
        lambda: layer.weight_hh_l0.copy_(layer.weight_hh_l0.numpy() * 2),
        lambda: layer.weight_ih_l0.fill_(0.1),
        lambda: nn.init.orthogonal_(layer.weight_hh_l0),
        optimizer.step,
        lambda: layer.weight_hh_l0._array.__setitem__((0, 0), 5.0),  # unknown to every version
    ):
        layer.zero_grad()
        (layer(x)[0] ** 2).sum().backward()
        with mg.no_grad():
            write()
        values.append(layer(x)[0].numpy())
        np.testing.assert_array_equal(values[-1], fresh())
        assert not np.array_equal(values[-1], values[-2])


@pytest.mark.accelerated
@pytest.mark.parametrize("written", ["x", "h", "weight_ih_l0", "weight_hh_l0", "y"])
def test_a_write_before_backward_is_noticed(written):
    layer, x, state = nn.LSTM(3, 4), mg.randn(5, 2, 3), (mg.zeros(1, 2, 4), mg.zeros(1, 2, 4))
    y, _ = layer(x, state)
    target = {"x": x, "h": state[0], "y": y}
    with mg.no_grad():
        (target[written] if written in target else getattr(layer, written)).fill_(0.5)
    with pytest.raises(RuntimeError, match="written to in place since"):
        y.sum().backward()
    assert all(p.grad is None for p in layer.parameters())


def test_one_tensor_given_twice_and_parts_of_one_another():
    """h is c, and both come from x: each path to x counts once."""
    layer, x, d = nn.LSTM(4, 4).double(), tensor(6, 3, 4), mg.tensor(RANDOM.normal(size=(6, 3, 4)))
    cell = nn.LSTMCell(4, 4).double()
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in layer.state_dict().items()})
    start = x[:1] * 2.0
    expected, state = [], (start[0], start[0])
    for step_ in x:
        state = cell(step_, state)
        expected.append(state[0])
    (exact,) = mg.autograd.grad(mg.stack(expected), x, d, retain_graph=True)
    for create_graph in (False, True):
        y, _ = layer(x, (start, start))
        (found,) = mg.autograd.grad(y, x, d, retain_graph=True, create_graph=create_graph)
        np.testing.assert_allclose(found.numpy(), exact.numpy(), rtol=1e-10, atol=1e-13)


def test_third_order():
    layer, x = nn.LSTM(2, 2).double(), tensor(3, 1, 2)

    def slope(x):
        y, (_, c) = layer(x)
        return mg.autograd.grad((y * y).sum() + (c * c).sum(), x, create_graph=True)[0]

    assert gradgradcheck(slope, (x,))


@pytest.mark.accelerated
def test_passes_over_one_graph_and_hooks():
    layer, x, seen = nn.LSTM(3, 4), mg.randn(5, 2, 3), []
    y, (h, c) = layer(x)
    y.register_hook(lambda g: g * 2.0)
    layer.weight_hh_l0.register_hook(lambda g: seen.append(g.numpy(copy=True)))
    for output in (y.sum(), h.sum(), c.sum()):  # outputs without a cotangent count as zero
        output.backward(retain_graph=True)
    y, (h, c) = layer(x)
    (y.sum() * 2.0 + h.sum() * 2.0 + c.sum()).backward()  # h is a part of y
    assert len(seen) == 4
    np.testing.assert_allclose(sum(seen[:3]), seen[3], rtol=1e-4, atol=1e-6)
    assert x.grad is None and layer(x)[0].requires_grad


@pytest.mark.accelerated
def test_weights_of_other_shapes_are_refused():
    """The loops do not check sizes; a Parameter may be replaced, and functional_call takes any."""
    layer, x = nn.LSTM(3, 4), mg.randn(5, 2, 3)
    for name, parameter in layer.state_dict().items():
        for shape in [(*parameter.shape[:-1], parameter.shape[-1] - 1), (1, *parameter.shape)]:
            with pytest.raises(ValueError, match=r"differ|expected|broadcast|cannot take"):
                mg.func.functional_call(layer, {name: mg.ones(*shape)}, (x,))
    layer.weight_hh_l0 = nn.Parameter(mg.ones(16, 5))
    with pytest.raises(
        ValueError, match=r"LSTM: .* shapes .*\(16, 5\), \(16,\): expected \(T, N, i\)"
    ):
        layer(x)


def test_nothing_is_kept_where_nothing_is_recorded():
    layer, x = nn.LSTM(3, 4), mg.randn(5, 2, 3)
    y, (_, c) = layer(x)
    with mg.no_grad():
        other, (_, d) = layer(x)
    np.testing.assert_array_equal(y.numpy(), other.numpy())
    np.testing.assert_array_equal(c.numpy(), d.numpy())
    assert y.grad_fn is not None and other.grad_fn is None
    x = x.astype(mg.float64)  # another dtype than the weights'
    with pytest.warns(UserWarning, match="^LSTM: float64 data meets float32 parameters"):
        assert layer(x)[0].dtype == mg.float64
    layer(x)[0].sum().backward()
    assert layer.weight_ih_l0.grad.dtype == mg.float32


# ------------------------------------------------------------------------- the engine behind them
@pytest.mark.accelerated
def test_products_with_one_weight_are_taken_together():
    w, v = tensor(3, 4), tensor(4, 2)
    factors = [mg.tensor(RANDOM.normal(size=(4, n))) for n in (20, 300, 0, 41) * 10]
    rows = [mg.tensor(RANDOM.normal(size=(n, 4))) for n in (20, 300, 0, 41) * 10]
    total = sum((w @ y).sum() * k for k, y in enumerate(factors))
    total = total + sum((x @ v).sum() * k for k, x in enumerate(rows))
    total = total + sum((mg.linear(x, w)).sum() for x in rows) + (w * w).sum()
    matmuls = []
    previous = mg._core.engine.graph.observe(lambda name, *rest: matmuls.append(name))
    try:
        total.backward()
    finally:
        mg._core.engine.graph.observe(previous)
    assert 30 < matmuls.count("matmul") <= 45  # instead of 120; 30 are large by themselves
    one = np.ones((3, 4))
    expected = sum(np.ones((3, y.shape[1])) @ y.numpy().T * k for k, y in enumerate(factors))
    expected = expected + sum(x.numpy().sum(0) * one for x in rows) + 2 * w.numpy()
    np.testing.assert_allclose(w.grad.numpy(), expected, rtol=1e-10, atol=1e-12)
    expected = sum(x.numpy().T @ np.ones((x.shape[0], 2)) * k for k, x in enumerate(rows))
    np.testing.assert_allclose(v.grad.numpy(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("leaf", [True, False], ids=["leaf", "made by an operation"])
def test_hooks_see_the_whole_sum_of_products(leaf):
    source = tensor(3, 3)
    w, seen = source if leaf else source * 1.0, []
    w.register_hook(lambda g: seen.append(g.numpy(copy=True)))
    y = mg.eye(3, dtype=mg.float64)
    for _ in range(5):
        y = w @ y
    y.sum().backward()
    (total,) = seen
    np.testing.assert_array_equal(total, source.grad.numpy())
    (expected,) = mg.autograd.grad(
        (source @ source @ source @ source @ source).sum(), source, create_graph=True
    )
    np.testing.assert_allclose(total, expected.numpy(), rtol=1e-10)


def test_a_factor_written_to_in_a_hook_is_noticed():
    w, x = tensor(2, 2), mg.tensor(RANDOM.normal(size=(2, 2)))
    first = w @ x
    first.register_hook(lambda g: x.zero_())
    total = first.sum() + (w @ x).sum() + (w @ x).sum()
    with pytest.raises(RuntimeError, match=r"matmul: .* was written to"):
        total.backward()
    assert w.grad is None


def test_parts_add_into_one_gradient_in_any_order():
    x = tensor(4, 5)
    picks = (1, (slice(None), slice(2, 4)), np.array([0, 0, -1]), x.numpy() > 0, (..., None))
    expected = np.ones((4, 5))
    for k, pick in enumerate(picks):
        np.add.at(expected, pick, k + 2.0)
    rng = np.random.default_rng(1)
    for _ in range(10):
        x.grad, total = None, 0.0
        for k in rng.permutation(len(picks) + 1):
            total = total + ((x[picks[k]] * (k + 2.0)).sum() if k < len(picks) else x.sum())
        total.backward()
        np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-13)


def test_a_part_does_not_write_into_a_cotangent_that_others_hold():
    x, held = tensor(3), []
    y = x * 1.0
    y.register_hook(lambda g: held.append((g, g.numpy(copy=True))))
    z = y + 0.0
    z.register_hook(lambda g: held.append((g, g.numpy(copy=True))))
    (z.sum() + y[0] * 5.0 + y[1:].sum()).backward()
    np.testing.assert_array_equal(x.grad.numpy(), [6.0, 2.0, 2.0])
    for tensor_, values in held:
        np.testing.assert_array_equal(tensor_.numpy(), values)


def test_lstm_cell_errors():
    with pytest.raises(ValueError, match=r"lstm_cell: gates \(8, 3\) and cell \(2, 2\): expected"):
        ops.lstm_cell(mg.ones(8, 3), mg.ones(2, 2))
    with pytest.raises(ValueError, match="lstm_cell"):
        ops.lstm_cell(mg.ones(4), mg.ones(()))


# -------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("kind", "arguments", "options", "error", "message"),
    [
        (nn.RNN, (0, 4), {}, ValueError, "RNN: input_size must be positive, got 0"),
        (nn.LSTM, (3, 4.0), {}, TypeError, "LSTM: hidden_size must be an int, got 4.0"),
        (nn.GRU, (3, 4), {"num_layers": True}, TypeError, "GRU: num_layers must be an int"),
        (nn.GRU, (3, 4), {"bias": 1}, TypeError, "GRU: bias must be True or False, got 1"),
        (nn.GRU, (3, 4), {"batch_first": "no"}, TypeError, "GRU: batch_first must be True or"),
        (nn.LSTM, (3, 4), {"bidirectional": None}, TypeError, "LSTM: bidirectional must be"),
        (nn.LSTM, (3, 4), {"dropout": 1.5}, ValueError, "between 0 and 1, got 1.5"),
        (nn.LSTM, (3, 4), {"proj_size": 4}, ValueError, "proj_size must be smaller than hidden"),
        (nn.LSTM, (3, 4), {"proj_size": -1}, ValueError, "LSTM: proj_size must be positive"),
        (nn.GRU, (3, 4), {"proj_size": 2}, ValueError, "GRU: only LSTM takes proj_size"),
        (
            nn.RNN,
            (3, 4),
            {"nonlinearity": "sin"},
            ValueError,
            "must be 'tanh' or 'relu', got 'sin'",
        ),
        (nn.RNNCell, (3, 4), {"nonlinearity": 1}, ValueError, "RNNCell: nonlinearity must be"),
        (nn.LSTMCell, (3, -4), {}, ValueError, "LSTMCell: hidden_size must be positive"),
        (nn.BatchNormLSTM, (3, 4, 0), {}, ValueError, "max_length must be positive, got 0"),
        (nn.BatchNormLSTM, (3, 4, 5), {"momentum": 2}, ValueError, "momentum must be between"),
        (nn.BatchNormLSTMCell, (3, 4, 5), {"eps": -1}, ValueError, "eps must not be negative"),
    ],
)
def test_constructors_refuse(kind, arguments, options, error, message):
    with pytest.raises(error, match=message):
        kind(*arguments, **options)


@pytest.mark.parametrize(
    ("layer", "inputs", "error", "message"),
    [
        (nn.LSTM(3, 4), (mg.ones(5, 2, 4),), ValueError, r"expected an input of shape \(T, .*4\)"),
        (nn.GRU(3, 4), (mg.ones(3),), ValueError, "GRU: expected an input of shape"),
        (nn.GRU(3, 4), (mg.ones(0, 2, 3),), ValueError, "has no steps"),
        (nn.GRU(3, 4), ([[1.0]],), TypeError, "GRU: expected a Tensor, got list"),
        (nn.GRU(3, 4), (mg.ones(5, 2, 3), mg.ones(2, 4)), ValueError, r"state h .*\(1, 2, 4\)"),
        (nn.LSTM(3, 4), (mg.ones(5, 2, 3), mg.ones(1, 2, 4)), TypeError, r"a tuple \(h, c\)"),
        (
            nn.LSTM(3, 4, proj_size=2),
            (mg.ones(5, 3), (mg.ones(1, 2), mg.ones(1, 2))),
            ValueError,
            r"the state c of shape \(1, 4\), got \(1, 2\)",
        ),
        (nn.LSTMCell(3, 4), (mg.ones(2, 2, 3),), ValueError, "LSTMCell: expected an input"),
        (nn.GRUCell(3, 4), (mg.ones(2, 3), mg.ones(3, 4)), ValueError, r"\(2, 4\), got \(3, 4\)"),
        (nn.BatchNormLSTM(3, 4, 5), (mg.ones(5, 3),), ValueError, "BatchNormLSTM: expected"),
        (nn.BatchNormLSTM(3, 4, 5), (mg.ones(0, 2, 3),), ValueError, "T > 0"),
    ],
)
def test_forward_refuses(layer, inputs, error, message):
    with pytest.raises(error, match=message):
        layer(*inputs)


def test_repr():
    assert repr(nn.GRU(3, 4)).startswith("GRU(3, 4)")
    layer = nn.LSTM(3, 4, num_layers=2, bidirectional=True, proj_size=2)
    assert "LSTM(3, 4, proj_size=2, num_layers=2, bidirectional=True)" in repr(layer)
    assert repr(nn.RNNCell(3, 4, bias=False)).startswith("RNNCell(3, 4, bias=False)")


# ------------------------------------------------------------------------- batch-normalised LSTM
def normalise(x, gain, shift=0.0, mean=None, var=None, eps=1e-5):
    mean = x.mean(0) if mean is None else mean
    var = x.var(0) if var is None else var
    return (x - mean) / np.sqrt(var + eps) * gain + shift


def reference(cell, x, running=None):
    """Equations 6 to 8 of Cooijmans et al. 2016, and the batch statistics at each step; `running`
    gives (mean, var) of each norm at each step instead."""
    s = {k: v.numpy() for k, v in cell.state_dict().items()}
    n, size = x.shape[1], cell.hidden_size
    h, c, outputs, seen = np.zeros((n, size)), np.zeros((n, size)), [], []
    for t in range(len(x)):
        u, v = x[t] @ s["weight_ih"].T, h @ s["weight_hh"].T
        used = running[t] if running else [(None, None)] * 3
        gates = normalise(u, s["norm_ih.weight"], 0.0, *used[0])
        gates = gates + normalise(v, s["norm_hh.weight"], 0.0, *used[1]) + s["bias"]
        i, f, g, o = np.split(gates, 4, axis=1)
        c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(normalise(c, s["norm_c.weight"], s["norm_c.bias"], *used[2]))
        outputs.append(h)
        if not running:
            seen.append([(a.mean(0), a.var(0, ddof=1)) for a in (u, v, c)])
    return np.stack(outputs), h, c, seen


def batch_norm_lstm(max_length=10, **options):
    mg.manual_seed(1)
    net = nn.BatchNormLSTM(3, 4, max_length, dtype=mg.float64, **options)
    with mg.no_grad():
        for cell in net.cells:
            cell.norm_c.bias.copy_(RANDOM.normal(size=4))
    return net


def test_batch_norm_lstm_is_the_formula_of_the_paper():
    net, x = batch_norm_lstm(), RANDOM.normal(size=(5, 6, 3))
    outputs, h, c, _ = reference(net.cells[0], x)
    y, (last_h, last_c) = net(mg.tensor(x))
    np.testing.assert_allclose(y.numpy(), outputs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(last_h.numpy()[0], h, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(last_c.numpy()[0], c, rtol=1e-9, atol=1e-12)


def test_batch_norm_lstm_keeps_statistics_for_each_step():
    """Up to max_length; later steps share, and update, the last. Evaluation reads them."""
    net, x = batch_norm_lstm(max_length=3, momentum=0.3), RANDOM.normal(2.0, size=(5, 6, 3))
    cell = net.cells[0]
    seen = reference(cell, x)[3]
    net(mg.tensor(x))
    norms = (cell.norm_ih, cell.norm_hh, cell.norm_c)
    for k, norm in enumerate(norms):
        means = np.zeros(norm.running_mean.shape)
        variances = np.ones(means.shape)
        for t in range(5):
            row, (mean, var) = min(t, 2), seen[t][k]
            means[row] = 0.7 * means[row] + 0.3 * mean
            variances[row] = 0.7 * variances[row] + 0.3 * var
        np.testing.assert_allclose(norm.running_mean.numpy(), means, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(norm.running_var.numpy(), variances, rtol=1e-9, atol=1e-12)
    running = [
        [(n.running_mean.numpy()[min(t, 2)], n.running_var.numpy()[min(t, 2)]) for n in norms]
        for t in range(5)
    ]
    before = {k: v.numpy(copy=True) for k, v in net.state_dict().items()}
    y, _ = net.eval()(mg.tensor(x[:, :1]))  # a batch of one is enough
    np.testing.assert_allclose(y.numpy(), reference(cell, x[:, :1], running)[0], rtol=1e-9)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])


@pytest.mark.parametrize("max_length", [2, 3, 4, 7, 20])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("layers", [1, 2])
def test_batch_norm_lstm_beyond_the_steps_of_training(layers, dtype, max_length):
    """Uses the statistics of the last trained step, also after a checkpoint."""
    net = batch_norm_lstm(max_length, momentum=0.5, num_layers=layers).to(dtype)
    for _ in range(20):
        net(mg.tensor(RANDOM.normal(2.0, 3.0, size=(3, 16, 3)), dtype=dtype))
    loaded = nn.BatchNormLSTM(3, 4, max_length, layers, dtype=mg.float64)
    loaded.load_state_dict(net.state_dict())
    loaded.to(dtype)

    def check(trained):
        x = RANDOM.normal(2.0, 3.0, size=(9, 2, 3))
        expected = x
        for cell in net.cells:
            norms = (cell.norm_ih, cell.norm_hh, cell.norm_c)
            rows = [min(t, trained - 1, max_length - 1) for t in range(9)]
            running = [
                [(n.running_mean.numpy()[row], n.running_var.numpy()[row]) for n in norms]
                for row in rows
            ]
            expected = reference(cell, expected, running)[0]
        tolerance = {"rtol": 1e-3, "atol": 1e-5} if dtype == "float32" else {"rtol": 1e-9}
        for model in (net, copy.deepcopy(net)) if trained > 3 else (net, loaded):
            y = model.eval()(mg.tensor(x, dtype=dtype))[0].numpy()
            np.testing.assert_allclose(y, expected, **tolerance)
        model = net.train()
        assert (model.cells[0].norm_c.running_var.numpy()[trained:] == 1).all()

    check(3)
    for _ in range(20):  # continue training with longer ones
        net(mg.tensor(RANDOM.normal(2.0, 3.0, size=(5, 16, 3)), dtype=dtype))
    check(5)


def test_batch_norm_lstm_does_not_collapse_on_longer_sequences():
    net = nn.BatchNormLSTM(3, 4, 50)
    for _ in range(50):
        net(mg.tensor(RANDOM.normal(size=(8, 64, 3)), dtype="float32"))
    y = net.eval()(mg.tensor(RANDOM.normal(size=(40, 64, 3)), dtype="float32"))[0].numpy()
    spread = y.std(axis=1)
    assert (spread[30:].mean(axis=0) > 0.8 * spread[6:8].mean(axis=0)).all()


def test_batch_norm_lstm_without_training_uses_what_it_starts_with():
    net, x = batch_norm_lstm(max_length=3), RANDOM.normal(size=(5, 2, 3))
    plain = [[(np.zeros(16), np.ones(16))] * 2 + [(np.zeros(4), np.ones(4))]] * 5
    expected = reference(net.cells[0], x, plain)[0]
    np.testing.assert_allclose(net.eval()(mg.tensor(x))[0].numpy(), expected, rtol=1e-9)


def test_batch_norm_lstm_starts_with_a_scale_of_a_tenth_and_has_its_state():
    net = nn.BatchNormLSTM(3, 4, 7)
    shapes = {k.removeprefix("cells.0."): v.shape for k, v in net.state_dict().items()}
    assert shapes == {
        "weight_ih": (16, 3),
        "weight_hh": (16, 4),
        "bias": (16,),
        "norm_ih.weight": (16,),
        "norm_ih.running_mean": (7, 16),
        "norm_ih.running_var": (7, 16),
        "norm_hh.weight": (16,),
        "norm_hh.running_mean": (7, 16),
        "norm_hh.running_var": (7, 16),
        "norm_c.weight": (4,),
        "norm_c.bias": (4,),
        "norm_c.running_mean": (7, 4),
        "norm_c.running_var": (7, 4),
    }
    for norm in (net.cells[0].norm_ih, net.cells[0].norm_hh, net.cells[0].norm_c):
        np.testing.assert_array_equal(norm.weight.numpy(), np.float32(0.1))


def test_batch_norm_lstm_layers_and_layouts():
    net, x = batch_norm_lstm(num_layers=2), RANDOM.normal(size=(5, 6, 3))
    first = reference(net.cells[0], x)[0]
    expected = reference(net.cells[1], first)[0]
    y, (h, c) = net(mg.tensor(x))
    assert h.shape == c.shape == (2, 6, 4)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-8, atol=1e-11)
    net.batch_first = True
    y, (again, _) = net(mg.tensor(x.transpose(1, 0, 2)))
    np.testing.assert_allclose(y.numpy(), expected.transpose(1, 0, 2), rtol=1e-8, atol=1e-11)
    np.testing.assert_allclose(again.numpy(), h.numpy(), rtol=1e-12)


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_batch_norm_lstm_gradients(mode):
    net = nn.BatchNormLSTM(2, 3, 2, dtype=mg.float64)
    getattr(net, mode)()
    state = tensor(1, 4, 3), tensor(1, 4, 3)

    def function(x, h, c, *rest):
        y, last = net(x, (h, c))
        return (y, *last)

    assert gradcheck(function, (tensor(3, 4, 2), *state, *net.parameters()))
    assert gradgradcheck(function, (tensor(3, 4, 2), *state, *net.parameters()))


def test_batch_norm_lstm_leaves_its_buffers_alone_after_an_error():
    net = nn.BatchNormLSTM(3, 4, 5)
    before = {k: v.numpy(copy=True) for k, v in net.state_dict().items()}
    bad = (mg.ones(5, 1, 3),), (mg.ones(5, 2, 3), (mg.ones(1, 2, 3), mg.ones(1, 2, 3)))
    deep = nn.BatchNormLSTM(3, 4, 5, num_layers=2)
    good, other = mg.zeros(2, 4), mg.zeros(2, 5)
    for states in (([good, other], [good, good]), ([good, good], [good, other])):
        with pytest.raises(ValueError, match=r"expected h0 and c0 of shape \(2, 4\) for each"):
            deep(mg.randn(5, 2, 3), states)
    assert not deep.cells[0].norm_ih.running_mean.numpy().any()
    for inputs in (*bad, (mg.ones(5, 2, 3), (mg.ones(2, 2, 4), mg.ones(2, 2, 4)))):
        with pytest.raises(ValueError, match=r"batch_norm|BatchNormLSTM"):
            net(*inputs)
    cell = net.cells[0]
    with pytest.raises(TypeError, match=r"time must be an int, got 1\.0"):
        cell(mg.ones(2, 3), time=1.0)
    with pytest.raises(ValueError, match="time must not be negative"):
        cell(mg.ones(2, 3), time=-1)
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])


# ------------------------------------------------------------------------------------ everything
@pytest.mark.parametrize("build", [nn.RNN, nn.LSTM, nn.GRU, lambda n, m: nn.BatchNormLSTM(n, m, 8)])
def test_a_recurrent_net_learns_to_remember(build):
    """Tell the sign of the first element from the last output."""
    mg.manual_seed(0)
    net, head = build(1, 8), nn.Linear(8, 1)
    optimizer = mg.optim.Adam([*net.parameters(), *head.parameters()], lr=0.02)
    x = np.random.default_rng(0).normal(size=(8, 64, 1)).astype(np.float32)
    target = mg.tensor((x[0] > 0).astype(np.float32))
    for _ in range(80):
        optimizer.zero_grad()
        loss = nn.BCEWithLogitsLoss()(head(net(mg.tensor(x))[0][-1]), target)
        loss.backward()
        # without it the path of the Elman net depends on the last bit of a gradient
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
    assert loss.item() < 0.25


@pytest.mark.parametrize("create_graph", [False, True])
def test_a_weight_that_is_frozen_after_the_forward_still_gets_its_gradient(create_graph):
    lstm, x = mg.nn.LSTM(2, 3), mg.randn(4, 2, 2)
    gradients = []
    for freeze in (False, True):
        lstm.zero_grad()
        loss = lstm(x)[0].square().sum()
        lstm.weight_hh_l0.requires_grad_(not freeze)
        loss.backward(create_graph=create_graph)
        gradients.append(lstm.weight_hh_l0.grad.numpy(copy=True))
    np.testing.assert_allclose(*gradients, rtol=1e-5)
