"""mg.autograd.detect_anomaly names the line; the repr of a Tensor says what is wrong with it."""

from __future__ import annotations

import gc
import inspect
import threading
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad._core.engine.graph import observe
from minigrad.autograd import Function, checkpoint, detect_anomaly


def leaf(*values):
    return mg.tensor(values, requires_grad=True)


def caught(run, **options):
    """The message that `run` ends with under detect_anomaly."""
    with pytest.raises(FloatingPointError) as error, detect_anomaly(**options):
        run()
    assert observe(None) is None
    return str(error.value)


def line_of(function, text):
    """`file:line` of the line of `function` that contains `text`."""
    lines, first = inspect.getsourcelines(function)
    (offset,) = (k for k, line in enumerate(lines) if text in line)
    return f"{__file__}:{first + offset} in"


# --------------------------------------------------------------------------------------- forward
def test_forward_names_the_operation_its_line_its_text_and_shapes():
    x = mg.ones(2, 3)

    def run():
        y = x * 2
        z = mg.log(y - 2.5)  # here
        return z + 1

    message = caught(run)
    assert message.startswith("forward: log made a NaN in 6 of 6 elements")
    assert "shapes (2, 3)" in message
    assert line_of(run, "# here") in message and "z = mg.log(y - 2.5)" in message


def test_the_line_is_never_one_of_the_library():
    def run():
        return mg.softmax(mg.tensor([np.inf, 1.0]))  # it is written in Python

    message = caught(run)
    assert message.startswith("forward: subtract made a NaN")
    assert line_of(run, "# it is written") in message


OVERFLOWS = [
    (lambda x: x / 0.0, "divide made an infinity in 2 of 2"),
    (lambda x: mg.exp(x * 1000), "exp made an infinity"),
    (lambda x: mg.log(x * 0), "log made an infinity"),
    (lambda x: x * 1e38 * 10, "multiply made an infinity"),
    (lambda x: (x - x) / (x - x), "divide made a NaN"),
    (lambda x: mg.where(x > 0, float("nan"), x), "where was given a NaN"),
    (lambda x: x * np.array([1, np.nan], np.float32), "multiply was given a NaN in 1 of 2"),
]


@pytest.mark.parametrize(("function", "message"), OVERFLOWS)
@pytest.mark.parametrize("requires_grad", [False, True])
def test_first_nan_or_infinity_in_forward(function, message, requires_grad):
    x = mg.ones(2, requires_grad=requires_grad)
    assert message in caught(lambda: function(x))


def test_infinities_that_are_given_pass_and_check_inf_false_passes_all():
    x = leaf(1.0, 2.0, 3.0)
    with detect_anomaly():
        masked = mg.where(mg.tensor([True, True, False]), x, -float("inf"))
        mg.softmax(masked * 2, axis=0).sum().backward()
        mg.minimum(x, float("inf"))
    with detect_anomaly(check_inf=False):
        assert mg.exp(x * 1000).numpy().max() == np.inf
    message = caught(lambda: mg.exp(x * 1000) * 0, check_inf=False)
    assert "multiply made a NaN in 3 of 3" in message


def test_integers_booleans_and_empty_tensors_pass():
    with detect_anomaly():
        assert (mg.arange(3) + 1).tolist() == [1, 2, 3]
        assert (mg.zeros(0, 3) / 0).shape == (0, 3)
        assert (mg.ones(2) > 0).all()


def test_the_line_is_the_innermost_of_the_program_not_of_the_library():
    class Block(nn.Module):
        def forward(self, x):
            return nn.functional.linear(x, mg.ones(1, 2)) / 0.0  # inner

    net = nn.Sequential(Block())
    message = caught(lambda: net(mg.ones(3, 2)))
    assert line_of(Block.forward, "# inner") in message and "in forward" in message


# --------------------------------------------------------------------------------------- backward
def test_backward_names_the_line_in_forward():
    x = leaf(0.0, 4.0)

    def forward():
        a = x * 1
        b = mg.sqrt(a)  # here
        return (b * 2).sum()

    message = caught(lambda: forward().backward())
    assert message.startswith("backward of sqrt: divide made an infinity in 1 of 2")
    assert line_of(forward, "# here") in message and "b = mg.sqrt(a)" in message
    assert x.grad is None


def test_backward_through_where_which_hides_the_value_but_not_the_gradient():
    x = leaf(0.0, 1.0)

    def forward():
        safe = mg.where(x > 0, x * mg.log(x), 0.0)  # the log of 0 is -inf, 0 · -inf is NaN
        return safe.sum()

    assert "log made an infinity" in caught(lambda: forward())
    assert "multiply made a NaN" in caught(lambda: forward(), check_inf=False)


def test_a_graph_made_before_the_block():
    y = mg.sqrt(leaf(0.0)).sum()
    message = caught(lambda: y.backward())
    assert "backward of sqrt" in message and "made before detect_anomaly() began" in message


def test_a_cotangent_that_holds_a_nan_was_given():
    y = leaf(1.0, 2.0) * 3.0
    message = caught(lambda: y.backward(mg.tensor([1.0, float("nan")])))
    assert "backward of multiply: multiply was given a NaN in 1 of 2" in message


def test_second_order_names_the_line_too():
    x = leaf(0.0)

    def forward():
        return (mg.pow(x, 1.5)).sum()  # here

    def second():
        (g,) = mg.autograd.grad(forward(), x, create_graph=True)
        mg.autograd.grad(g, x)

    message = caught(second)
    assert "backward of sqrt: divide made an infinity" in message  # d(1.5 sqrt(x)) / dx
    assert line_of(forward, "# here") in message


def test_a_gradient_made_outside_of_the_library():
    class Wrong(Function):
        @staticmethod
        def forward(ctx, x):
            return mg.asarray(np.sqrt(x.numpy()))

        @staticmethod
        def backward(ctx, g):
            return mg.asarray(g.numpy() / np.zeros(1, np.float32))

    x = leaf(1.0)

    def forward():
        return Wrong.apply(x * 1)  # here

    with np.errstate(all="ignore"):
        message = caught(lambda: forward().backward())
        assert message.startswith("backward of Wrong: Wrong.backward made an infinity in 1 of 1")
        assert line_of(forward, "# here") in message
        x = leaf(-1.0)
        message = caught(lambda: forward())
        assert message.startswith("forward: Wrong made a NaN in 1 of 1") and "(1,)" in message


def test_within_a_checkpoint_the_inner_line_is_named():
    def function(x):
        h = x * 1
        return mg.sqrt(h)  # inner

    x = leaf(0.0)
    message = caught(lambda: checkpoint(function, x).sum().backward())
    assert "backward of sqrt" in message and line_of(function, "# inner") in message


# ------------------------------------------------------------------------------------ the block
def test_nothing_is_looked_at_outside_and_other_observers_go_on():
    seen = []
    x = leaf(0.0)
    outer = observe(lambda name, *rest: seen.append(name))
    try:
        with detect_anomaly():
            _ = x + 1
        _ = x - 1
    finally:
        observe(outer)
    assert seen == ["add", "subtract"]
    assert (x / 0.0).isnan().all()
    assert mg.sqrt(x).grad_fn.metadata is None


def test_a_decorator_and_blocks_within_blocks():
    @detect_anomaly()
    def train(x):
        with detect_anomaly(check_inf=False):
            _ = x * 2
        return x / 0.0

    for _ in range(2):
        with pytest.raises(FloatingPointError, match="divide"):
            train(mg.ones(2))
    assert observe(None) is None


def test_other_threads_are_left_alone():
    results = []
    with detect_anomaly():
        thread = threading.Thread(target=lambda: results.append((mg.ones(1) / 0.0).item()))
        thread.start()
        thread.join()
    assert results == [np.inf]


def test_the_block_keeps_no_graph_alive():
    gc.collect()
    gc.disable()
    try:
        with detect_anomaly():
            y = mg.exp(leaf(1.0)) * 2
            reference = weakref.ref(y)
            y.sum().backward()
            del y
            assert reference() is None
    finally:
        gc.enable()


# -------------------------------------------------------------------------------------------- repr
REPRS = [
    (lambda: mg.tensor([1.0, 2.0]), "tensor([1., 2.])"),
    (lambda: mg.tensor([1.0, np.nan]), "tensor([ 1., nan], nan=1)"),
    (lambda: mg.tensor([np.inf, -np.inf, np.nan]), "tensor([ inf, -inf,  nan], nan=1, inf=2)"),
    (lambda: mg.tensor(np.nan, dtype=mg.float64), "tensor(nan, nan=1, dtype=float64)"),
    (lambda: mg.tensor([1, 2]), "tensor([1, 2])"),
    (lambda: mg.tensor([True]), "tensor([ True])"),
    (lambda: mg.zeros(0, 3), "tensor([], shape=(0, 3))"),
    (lambda: mg.zeros(0, dtype=mg.int32), "tensor([], shape=(0,), dtype=int32)"),
    (lambda: leaf(1.0), "tensor([1.], requires_grad=True)"),
    (lambda: leaf(0.0) / 0.0, "tensor([nan], nan=1, grad_fn=<divide>)"),
    (lambda: mg.zeros(1001), "tensor([0., 0., 0., ..., 0., 0., 0.], shape=(1001,))"),
]


@pytest.mark.parametrize(("make", "text"), REPRS)
def test_repr(make, text):
    assert repr(make()) == text


def test_a_nan_that_the_summary_hides_is_counted():
    x = np.zeros((100, 100), np.float32)
    x[50, 50:53] = np.nan
    x[70, 1] = -np.inf
    assert repr(mg.tensor(x)).endswith("nan=3, inf=1, shape=(100, 100))")
