"""mg.autograd.Function: hand-written gradients, and errors for malformed ones."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest

import minigrad as mg
from minigrad._core import ops
from minigrad._core.engine.graph import observe
from minigrad.autograd import Function, gradcheck, gradgradcheck

RANDOM = np.random.default_rng(0)


def leaf(*shape, dtype="float64"):
    return mg.tensor(RANDOM.normal(size=shape).astype(dtype), requires_grad=True)


class Cube(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (3.0 * x * x)


class Exp(Function):
    """Saves its output."""

    @staticmethod
    def forward(ctx, x):
        y = mg.asarray(np.exp(x.numpy()))
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        return g * ctx.saved_tensors[0]


class Several(Function):
    """e = exp(x), e * y, n * sum(x), and the index of the largest element."""

    calls = 0

    @staticmethod
    def forward(ctx, x, n, y):
        e = mg.exp(x)
        ctx.save_for_backward(y, None, e)
        ctx.n, ctx.x = n, x
        return e, e * y, n * x.sum(), mg.argmax(x)

    @staticmethod
    def backward(ctx, a, b, c, largest):
        Several.calls += 1
        assert largest.dtype == mg.int64 and largest.shape == () and largest.item() == 0
        y, nothing, e = ctx.saved_tensors
        assert nothing is None
        return a * e + b * e * y + mg.broadcast_to(c * ctx.n, ctx.x.shape), None, b * e


def define(forward, backward, name="Mine"):
    return type(name, (Function,), {"forward": staticmethod(forward), "backward": backward})


# ---------------------------------------------------------------------------- values and gradients
@pytest.mark.parametrize("function", [Cube, Exp])
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0, 2)])
def test_first_and_second_order(function, shape):
    x = leaf(*shape)
    assert gradcheck(function.apply, x)
    assert gradgradcheck(function.apply, x)


def test_third_order_through_a_saved_output():
    x = mg.tensor(0.7, dtype=mg.float64, requires_grad=True)
    y = Exp.apply(x)
    for _ in range(3):
        (y,) = mg.autograd.grad(y, x, create_graph=True)
    np.testing.assert_allclose(y.item(), np.exp(0.7), rtol=1e-14)


def test_several_outputs_first_and_second_order():
    x, y = leaf(4), leaf(4)

    def function(x, y):
        return Several.apply(x, 2.0, y)[:3]

    assert gradcheck(function, (x, y), full=True)
    assert gradgradcheck(function, (x, y))


def test_backward_is_called_once_for_all_inputs_and_outputs():
    x, y = leaf(4), leaf(4)
    e, product, total, largest = Several.apply(x, 2.0, y)
    assert not largest.requires_grad and largest.is_leaf
    Several.calls = 0
    (e.sum() + (product * e).sum() + total).backward()
    assert Several.calls == 1
    assert x.grad.shape == y.grad.shape == (4,)


@pytest.mark.parametrize("k", range(3))
def test_outputs_that_are_not_used_give_zeros(k):
    x, y = leaf(4), leaf(4)
    outputs = Several.apply(x, 2.0, y)
    outputs[k].sum().backward()
    e = np.exp(x.numpy())
    np.testing.assert_allclose(x.grad.numpy(), [e, e * y.numpy(), np.full(4, 2.0)][k])
    np.testing.assert_allclose(y.grad.numpy(), [np.zeros(4), e, np.zeros(4)][k])


def test_outputs_of_different_dtypes_and_sizes():
    def backward(ctx, a, b, c):
        assert (a.dtype, b.dtype, c.dtype) == (mg.float32, mg.float64, mg.float32)
        assert (a.shape, b.shape, c.shape) == ((2, 2), (0, 3), ())
        return a * 2.0 + c

    split = define(lambda ctx, x: (x * 2, mg.zeros(0, 3, dtype=mg.float64), x.sum()), backward)
    x = leaf(2, 2, dtype="float32")
    a, b, c = split.apply(x)
    (a.sum() + c * 3 + b.sum()).backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full((2, 2), 5.0, np.float32))


def test_a_gradient_of_another_float_dtype_is_converted():
    double = define(lambda ctx, x: x * 2, lambda ctx, g: g.astype(mg.float64) * 2)
    x = leaf(3, dtype="float32")
    double.apply(x).sum().backward()
    assert x.grad.dtype == mg.float32 and x.grad.tolist() == [2, 2, 2]


def test_needs_input_grad_and_none():
    seen = []

    def backward(ctx, g):
        seen.append(ctx.needs_input_grad)
        return g, None, None

    function = define(lambda ctx, x, y, n: x + y, backward)
    x, y = leaf(2), mg.ones(2, dtype=mg.float64)
    function.apply(x, y, 3).sum().backward()
    assert seen == [(True, False, False)] and y.grad is None
    z = leaf(2)
    function.apply(x, z, 3).sum().backward()  # None for a Tensor that requires grad: no gradient
    assert z.grad is None


def test_outputs_without_gradient():
    def forward(ctx, x):
        order = mg.tensor(np.argsort(x.numpy()))
        rank = order.astype(mg.float64)
        ctx.mark_non_differentiable(rank)
        ctx.save_for_backward(order)
        return mg.take(x, order, axis=0), rank, order

    def backward(ctx, g, rank, order):
        assert not rank.numpy().any() and not order.numpy().any()
        return ops.put(g, ctx.saved_tensors[0], g.shape)

    sort = define(forward, backward)
    x = mg.tensor([3.0, 1.0, 2.0], dtype=mg.float64, requires_grad=True)
    y, rank, order = sort.apply(x)
    assert not rank.requires_grad and not order.requires_grad
    (y * mg.tensor([1.0, 10.0, 100.0])).sum().backward()
    assert x.grad.tolist() == [100, 1, 10]


def test_an_input_returned_is_another_tensor_in_the_graph():
    reverse = define(lambda ctx, x: x, lambda ctx, g: -g)
    x = leaf(3)
    y = reverse.apply(x)
    assert y is not x and np.shares_memory(y.numpy(), x.numpy())
    (x + 3 * y).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.full(3, -2.0))
    with mg.no_grad():
        assert not reverse.apply(x).requires_grad
    twice = define(lambda ctx, x: (x, x), lambda ctx, a, b: a + 10 * b)
    a, b = twice.apply(x)
    x.grad = None
    (a + b).sum().backward()
    assert x.grad.tolist() == [11, 11, 11]


def test_an_input_that_is_saved_and_returned_is_an_input_to_second_order():
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x

    mine = define(forward, lambda ctx, g: g * ctx.saved_tensors[0])
    x = mg.tensor(3.0, requires_grad=True)
    (slope,) = mg.autograd.grad(mine.apply(x), x, create_graph=True)
    assert slope.item() == 3
    assert mg.autograd.grad(slope, x)[0].item() == 1


def test_nothing_is_recorded_without_need():
    x = leaf(3)
    with mg.no_grad():
        assert Cube.apply(x).is_leaf
    assert not Cube.apply(x.detach()).requires_grad
    assert define(lambda ctx, x: mg.argmax(x), None).apply(x).is_leaf


def test_forward_sees_recording_off_and_apply_restores_it():
    seen = []
    define(lambda ctx, x: seen.append(mg.is_grad_enabled()) or x * 1, None).apply(leaf(2))
    assert seen == [False] and mg.is_grad_enabled()
    with pytest.raises(ZeroDivisionError):
        define(lambda ctx, x: 1 / 0, None).apply(leaf(2))
    assert mg.is_grad_enabled()


def test_more_inputs_than_a_node_has_bits():
    def backward(ctx, g):
        return tuple(g * float(k) for k in range(200))

    total = define(lambda ctx, *xs: mg.sum(mg.stack(xs), axis=0), backward)
    for held in (0, 63, 64, 199):  # one input that requires no gradient
        xs = [mg.ones(2, requires_grad=k != held) for k in range(200)]
        total.apply(*xs).sum().backward()
        for k, x in enumerate(xs):
            assert x.grad is None if k == held else x.grad.tolist() == [k, k]
    xs = [mg.ones(2, requires_grad=k == 150) for k in range(200)]
    (only,) = mg.autograd.grad(total.apply(*xs).sum(), xs[150])
    assert only.tolist() == [150, 150]


# ------------------------------------------------------------------------------------ the graph
def test_names_in_the_graph():
    y = Cube.apply(leaf(2))
    assert repr(y.grad_fn) == "<Cube>" and "grad_fn=<Cube>" in repr(y)
    x = leaf(2)
    (call,) = (f for f in Cube.apply(x).grad_fn.next_functions if f is not None)
    assert repr(call) == "<Cube>" and call.next_functions[0] is x


def test_a_graph_is_freed_by_reference_counting_and_once():
    gc.collect()
    gc.disable()
    try:
        x = leaf(3)
        contexts = []

        def forward(ctx, x):
            y = x * 2
            ctx.save_for_backward(x, y)
            contexts.append(weakref.ref(ctx))
            return y, y + 1

        mine = define(forward, lambda ctx, a, b: 2 * a + 2 * b + 0 * ctx.saved_tensors[1])
        a, b = mine.apply(x)
        del a, b
        assert contexts.pop()() is None
        a, b = mine.apply(x)
        (a * b).sum().backward()
        assert contexts.pop()() is None  # freed by backward, although a and b are alive
        with pytest.raises(RuntimeError, match=r"freed.*retain_graph=True"):
            a.sum().backward()
        a, b = mine.apply(x)
        (g,) = mg.autograd.grad((a * b).sum(), x, create_graph=True)
        del a, b, g
        assert contexts.pop()() is None
    finally:
        gc.enable()


def test_retain_graph_runs_backward_again():
    x = leaf(3)
    y = Cube.apply(x).sum()
    y.backward(retain_graph=True)
    y.backward()
    np.testing.assert_allclose(x.grad.numpy(), 6 * x.numpy() ** 2)


def test_hooks_and_retained_gradients_of_outputs():
    x = leaf(3)
    y = Cube.apply(x)
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    y.sum().backward()
    assert y.grad.tolist() == [10, 10, 10]
    np.testing.assert_allclose(x.grad.numpy(), 30 * x.numpy() ** 2)


def test_a_backward_within_backward():
    def backward(ctx, g):
        inner = mg.tensor([2.0, 3.0], dtype=mg.float64, requires_grad=True)
        with mg.enable_grad():
            Cube.apply(inner).sum().backward()
        return g * inner.grad

    x = leaf(2)
    define(lambda ctx, x: x * 1, backward).apply(x).sum().backward()
    assert x.grad.tolist() == [12, 27]


def test_an_observer_sees_one_operation_with_its_own_inputs():
    seen = []
    x, y = leaf(2), leaf(2)
    previous = observe(lambda *event: seen.append(event))
    try:
        a = define(lambda ctx, x, n, y: (x, y), None, "Pair").apply(x, 3, y)
    finally:
        observe(previous)
    assert [event[0] for event in seen] == ["Pair", "Pair"]
    assert seen[0][1] == (x, y) and seen[0][3] is a[0] and seen[1][3] is a[1]


# ------------------------------------------------------------------------------------------ errors
@pytest.mark.parametrize("saved", ["input", "output"])
def test_a_saved_tensor_written_to_since_is_noticed(saved):
    x = leaf(3)
    y = x * 1
    z = Cube.apply(y) if saved == "input" else Exp.apply(y)
    target = y if saved == "input" else z
    with mg.no_grad():
        target[0] = 5.0
    with pytest.raises(RuntimeError, match=r"(Cube|Exp): .*shape \(3,\).*version 0 .*1 now"):
        z.sum().backward()
    assert x.grad is None


WRONG = [
    (lambda ctx, g: (g, g), RuntimeError, "2 gradients were returned for 1 argument"),
    (lambda ctx, g: (), RuntimeError, "0 gradients"),
    (lambda ctx, g: g.sum(), RuntimeError, r"argument 0 has shape \(\) .* shape \(3,\)"),
    (lambda ctx, g: g.numpy(), TypeError, r"argument 0 is a ndarray.*mg.asarray"),
    (lambda ctx, g: mg.ones(3, dtype=mg.int64), RuntimeError, "dtype int64"),
    (lambda ctx, g: 1 / 0, ZeroDivisionError, "division"),
]


@pytest.mark.parametrize(("backward", "kind", "message"), WRONG)
def test_a_wrong_backward_is_named_and_leaves_the_gradients(backward, kind, message):
    x, w = leaf(3), leaf(3)
    w.grad = before = mg.ones(3, dtype=mg.float64)
    y = define(lambda ctx, x: x * 2, backward, "Wrong").apply(x) * w
    with pytest.raises(kind, match=message if kind is ZeroDivisionError else "Wrong.*" + message):
        y.sum().backward()
    assert x.grad is None and w.grad is before and w.grad.tolist() == [1, 1, 1]


def test_a_gradient_for_what_is_no_tensor():
    wrong = define(lambda ctx, x, n: x * n, lambda ctx, g: (g, g), "Wrong")
    with pytest.raises(RuntimeError, match="argument 1 of forward is not a Tensor; return None"):
        wrong.apply(leaf(3), 2).sum().backward()


def test_errors_of_forward_and_of_the_class():
    x = leaf(3)
    for bad in (lambda ctx, x: x.numpy(), lambda ctx, x: (x * 1, 3), lambda ctx, x: [x * 1]):
        with pytest.raises(TypeError, match=r"Wrong.forward: expected a Tensor or a tuple"):
            define(bad, None, "Wrong").apply(x)
    with pytest.raises(TypeError, match=r"Cube.apply"):
        Cube()
    with pytest.raises(NotImplementedError, match="forward"):
        type("Empty", (Function,), {}).apply(x)
    half = type("Half", (Function,), {"forward": staticmethod(lambda ctx, x: x * 1)})
    with pytest.raises(NotImplementedError, match="backward"):
        half.apply(x).sum().backward()
    with pytest.raises(TypeError, match=r"save_for_backward takes Tensors, got float; .*ctx.name"):
        define(lambda ctx, x: ctx.save_for_backward(x, 2.0), None).apply(x)


def test_gradcheck_finds_a_wrong_function():
    wrong = define(lambda ctx, x: x * x, lambda ctx, g: g * 2.5)
    with pytest.raises(mg.autograd.GradcheckError):
        gradcheck(wrong.apply, leaf(3))
