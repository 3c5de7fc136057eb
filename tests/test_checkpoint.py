"""mg.autograd.checkpoint: the same gradients, buffers and random numbers, in less memory."""

from __future__ import annotations

import gc
import tracemalloc
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.autograd import checkpoint, gradcheck, gradgradcheck

RANDOM = np.random.default_rng(0)


def leaf(*shape):
    return mg.tensor(RANDOM.normal(size=shape), requires_grad=True)


def direct(function, *args, **kwargs):
    return function(*args, **kwargs)


def make_net():
    mg.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Tanh(), nn.Linear(8, 2)
    ).double()


def outcome(run):
    """All results of a training step."""
    net, x = make_net(), mg.tensor(np.linspace(-1, 1, 64).reshape(16, 4), requires_grad=True)
    mg.manual_seed(3)
    for _ in range(2):
        ((run(net, x * 2.0) ** 2).mean() + net[0].weight.sum()).backward()
    tensors = [x.grad, *(p.grad for p in net.parameters()), *net.buffers(), mg.rand(3)]
    return [t.numpy(copy=True) for t in tensors]


# ------------------------------------------------------------------------- the same as without it
def test_gradients_buffers_and_random_numbers_are_the_same():
    for plain, again in zip(outcome(direct), outcome(checkpoint), strict=True):
        np.testing.assert_array_equal(plain, again)


def test_nested_checkpoints_are_the_same():
    def nested(net, x):
        def inner(x):
            return net[2:](checkpoint(net[1], x))

        return checkpoint(lambda x: checkpoint(inner, net[0](x)), x)

    for plain, again in zip(outcome(direct), outcome(nested), strict=True):
        np.testing.assert_array_equal(plain, again)


def test_second_order():
    w, x = leaf(3, 3), leaf(2, 3)

    def function(x, w):
        return checkpoint(lambda x: mg.tanh(mg.tanh(x @ w) @ w.T), x)

    assert gradcheck(function, (x, w))
    assert gradgradcheck(function, (x, w))
    twice = mg.func.hessian(lambda x: function(x, w).sum())(x).numpy()
    plain = mg.func.hessian(lambda x: mg.tanh(mg.tanh(x @ w) @ w.T).sum())(x).numpy()
    np.testing.assert_allclose(twice, plain, rtol=1e-12, atol=1e-14)


def test_what_the_function_closes_over_gets_its_gradient_once():
    """h comes from w, and the function uses both: the inner pass must not also propagate the
    gradient of h to w."""
    w = leaf(3)

    def step(run):
        w.grad = None
        h = mg.exp(w)
        y = run(lambda: h * w * mg.sin(h))
        (y.sum() + (h * 3).sum()).backward()
        return w.grad.numpy(copy=True)

    np.testing.assert_allclose(step(checkpoint), step(direct), rtol=1e-14)


def test_hooks_run_once():
    w, calls = leaf(3), []
    w.register_hook(lambda g: calls.append("w") or g * 2)
    h = w * 3
    h.register_hook(lambda g: calls.append("h") or g * 5)
    checkpoint(lambda: h * w.detach() + w).sum().backward()
    np.testing.assert_allclose(w.grad.numpy(), 2 * (15 * w.numpy() + 1))
    assert sorted(calls) == ["h", "w"]


def test_trees_and_keywords_go_in_and_out():
    x, y = leaf(2), leaf(2)

    def function(given, *, scale):
        return {"product": given["x"] * given["rest"][0] * scale, "same": given["x"], "n": 3}

    result = checkpoint(function, {"x": x, "rest": [y]}, scale=2.0)
    assert result["same"] is x and result["n"] == 3
    result["product"].sum().backward()
    np.testing.assert_allclose(y.grad.numpy(), 2 * x.numpy())


def test_several_outputs_used_partly():
    x = leaf(3)
    a, b = checkpoint(lambda x: (mg.exp(x), mg.sin(x)), x)
    b.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.cos(x.numpy()))
    del a


def test_more_parameters_than_a_node_has_bits():
    weights = [leaf(2) for _ in range(100)]

    def function(x):
        for k, w in enumerate(weights):
            x = x + float(k) * w
        return x

    checkpoint(function, mg.zeros(2)).sum().backward()
    assert [w.grad.tolist()[0] for w in weights] == list(range(100))


def test_autograd_grad_with_some_inputs_and_retain_graph():
    x, w = leaf(3), leaf(3)
    y = checkpoint(lambda: mg.sin(x) * w).sum()
    for _ in range(2):
        (g,) = mg.autograd.grad(y, w, retain_graph=True)
        np.testing.assert_allclose(g.numpy(), np.sin(x.numpy()))
    assert x.grad is None and w.grad is None


def test_under_no_grad_it_only_calls():
    x, calls = leaf(3), []

    def function(x):
        calls.append(mg.is_grad_enabled())
        return x * 2

    with mg.no_grad():
        assert checkpoint(function, x).is_leaf
    assert checkpoint(function, x.detach()).is_leaf
    assert calls == [False, True]


def test_use_reentrant_is_taken():
    x = leaf(3)
    checkpoint(mg.exp, x, use_reentrant=False).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), np.exp(x.numpy()))


def test_in_place_addition_means_what_it_means_without_a_checkpoint():
    x = leaf(3)
    h = x * 1

    def function(h):
        before = h
        h += 1
        return h * before

    values = h.numpy(copy=True)
    checkpoint(function, h).sum().backward()
    np.testing.assert_array_equal(h.numpy(), values)
    np.testing.assert_allclose(x.grad.numpy(), 2 * values + 1)


# -------------------------------------------------------------------------------- state and errors
class Normaliser(nn.Module):
    """Divides by a running scale after updating it: the output depends on its state."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", mg.ones(1, dtype=mg.float64))

    def forward(self, x):
        with mg.no_grad():
            scratch = mg.zeros(1, dtype=mg.float64)
            scratch[0] = 1.0
            self.scale.copy_(0.5 * self.scale + abs(x.detach()).max() * scratch)
        return x / self.scale.clone()


def test_the_second_run_starts_with_the_state_that_the_first_found():
    def step(run):
        net, x = Normaliser(), mg.tensor([1.0, -4.0], dtype=mg.float64, requires_grad=True)
        first, second = run(net, x), run(net, x * 2)  # both use and update the buffer
        (first.sum() + (second**2).sum()).backward()
        return x.grad.numpy(), net.scale.numpy()

    for plain, again in zip(step(direct), step(checkpoint), strict=True):
        np.testing.assert_array_equal(plain, again)


def test_an_argument_that_the_function_writes_to():
    count, x = mg.zeros(1, dtype=mg.float64), mg.ones(2, dtype=mg.float64, requires_grad=True)

    def function(x, count):
        count += 1
        return x * count.clone()

    y = [checkpoint(function, x, count).sum() for _ in range(2)]
    for _ in range(2):
        y[0].backward(retain_graph=True)
        assert count.item() == 2
    y[1].backward()
    assert x.grad.tolist() == [4, 4]


def test_the_generator_goes_on_where_it_was():
    x = leaf(1000)
    mg.manual_seed(5)
    y = checkpoint(lambda x: nn.functional.dropout(x), x)
    following = mg.rng.generator().bit_generator.state
    kept = y.numpy() != 0
    mg.manual_seed(6)
    other = mg.rand(3).tolist()
    mg.manual_seed(6)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy() != 0, kept)
    assert mg.rand(3).tolist() == other
    mg.manual_seed(5)
    mg.rand(1000)
    assert mg.rng.generator().bit_generator.state["state"] == following["state"]


@pytest.mark.parametrize("which", ["argument", "parameter"])
def test_an_input_written_to_since_is_noticed(which):
    x, w = leaf(3) * 1, leaf(3)
    y = checkpoint(lambda x: x + w, x)
    with mg.no_grad():
        (x if which == "argument" else w).fill_(0.0)
    with pytest.raises(RuntimeError, match=r"checkpoint: an input of shape \(3,\) was written to"):
        y.sum().backward()


def test_a_second_run_that_differs_is_an_error_and_everything_is_put_back():
    net, x = make_net(), leaf(16, 4)
    size = [3]

    def function(x):
        y = net(x)
        if size[0] == 0:
            raise KeyError("gone")
        return mg.concat([y] * size[0])

    y = checkpoint(function, x).sum()
    buffers = [b.numpy(copy=True) for b in net.buffers()]
    state = mg.rng.generator().bit_generator.state
    size[0] = 2
    with pytest.raises(RuntimeError, match=r"checkpoint: .*\(48, 2\).*\(32, 2\).*compute the same"):
        y.backward(retain_graph=True)
    size[0] = 0
    with pytest.raises(KeyError, match="gone"):
        y.backward(retain_graph=True)
    for now, before in zip(net.buffers(), buffers, strict=True):
        np.testing.assert_array_equal(now.numpy(), before)
    assert mg.rng.generator().bit_generator.state == state
    assert x.grad is None and all(p.grad is None for p in net.parameters())
    assert mg.is_grad_enabled()
    size[0] = 3
    y.backward()
    assert x.grad is not None


def test_an_error_in_the_first_run_and_what_is_no_function():
    with pytest.raises(ZeroDivisionError):
        checkpoint(lambda x: 1 / 0, leaf(2))
    with pytest.raises(TypeError, match="checkpoint: expected a function, got Tensor"):
        checkpoint(leaf(2), leaf(2))
    outcome(checkpoint)  # no observer is left


# ------------------------------------------------------------------------------------------ memory
def peak_bytes(run, size, depth=16):
    """The peak memory of a forward and backward through `depth` parts. No other test has arrays of
    this size, so none are available for reuse."""
    x = mg.ones(size, requires_grad=True)

    def part(h):
        for _ in range(depth):
            h = mg.sin(h)  # each keeps its input
        return h

    def step():
        h = x
        for _ in range(depth):
            h = run(part, h)
        h.sum().backward()

    tracemalloc.start()
    try:
        step()
        return tracemalloc.get_traced_memory()[1] / (size * 4)
    finally:
        tracemalloc.stop()


def test_peak_memory_falls_from_n_squared_to_n():
    plain, again = peak_bytes(direct, 40_001), peak_bytes(checkpoint, 40_003)
    assert plain > 16 * 16  # in arrays of the size of x
    assert again < 5 * 16, again


def test_the_graph_of_the_first_run_is_gone_and_nothing_is_in_a_cycle():
    gc.collect()
    gc.disable()
    try:
        inside = []

        def function(x):
            h = mg.exp(x)
            inside.append(weakref.ref(h))
            return mg.sin(h)

        x = leaf(3)
        y = checkpoint(function, x)
        assert inside[0]() is None
        (g,) = mg.autograd.grad(y.sum(), x, create_graph=True)
        del y, g
        assert len(inside) == 2 and inside[1]() is None
        held = weakref.ref(function)
        del function
        assert held() is None
    finally:
        gc.enable()
