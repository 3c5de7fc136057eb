"""Fusion: a fused function gives, bit for bit, what the function gives, and so do its gradients."""

import numpy as np
import pytest

import minigrad as mg
from minigrad._core.fast.fusion import fused
from minigrad.autograd import accelerated, detect_anomaly, grad, gradcheck, gradgradcheck

pytestmark = pytest.mark.accelerated
random = np.random.default_rng(0)


def leaf(*shape, dtype=np.float32):
    return mg.tensor(random.standard_normal(shape).astype(dtype), requires_grad=True)


def leaves(dtype, *shapes):
    return tuple(leaf(*shape, dtype=dtype) for shape in shapes)


def normalised(x, weight, bias, axes, eps):
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    var = centred.var(axes, keepdims=True)
    return centred * (weight / mg.sqrt(var + eps)) + bias, mean, var


def softened(x, y):
    return mg.exp(-mg.square(x)) * mg.tanh(y) - mg.sigmoid(x * y)


def of_numbers(x, factor, power):
    return 2.0 / (1 + mg.abs(x) * factor) - x * power


def summed(x, y):
    return (x * y).sum(axis=0) + y.mean() - x.var(axis=0, correction=1, keepdims=True)


def repeated(x, y):
    return mg.broadcast_to(x, (4, 3)) * 2.0 + mg.broadcast_to(y, (4, 3)).sum(axis=0)


FUNCTIONS = {
    "BatchNorm": (normalised, lambda t: (*leaves(t, (7, 3), (3,), (3,)), (0,), 1e-5)),
    "BatchNorm, 4-d": (
        normalised,
        lambda t: (*leaves(t, (2, 3, 4, 5), (3, 1, 1)), 0.0, (0, 2, 3), 0.1),
    ),
    "LayerNorm": (normalised, lambda t: (*leaves(t, (5, 6), (6,), (6,)), (1,), 1e-5)),
    "one value per row": (normalised, lambda t: (*leaves(t, (4, 1)), 1.0, 0.0, (0,), 1e-5)),
    "exponentials": (softened, lambda t: leaves(t, (3, 4), (4,))),
    "numbers": (of_numbers, lambda t: (*leaves(t, (3, 4)), 3, True)),
    "reductions": (summed, lambda t: leaves(t, (3, 4), (3, 4))),
    "repetition": (repeated, lambda t: leaves(t, (4, 1), (3,))),
    "scalars": (softened, lambda t: leaves(t, (), ())),
}


def first(returned):
    return returned[0] if isinstance(returned, tuple) else returned


def run(function, inputs, cotangent):
    """The outputs, and the gradient of each input that has one."""
    for x in inputs:
        if isinstance(x, mg.Tensor):
            x.grad = None
    returned = function(*inputs)
    y = first(returned)
    y.backward(cotangent)
    outputs = returned if isinstance(returned, tuple) else (returned,)
    gradients = [x.grad for x in inputs if isinstance(x, mg.Tensor)]
    return y.grad_fn.name, [a.numpy(copy=True) for a in (*outputs, *gradients) if a is not None]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_values_and_gradients_are_those_of_the_function(name, dtype):
    function, make = FUNCTIONS[name]
    inputs, quick = make(dtype), fused(function)
    cotangent = mg.tensor(random.standard_normal(first(function(*inputs)).shape).astype(dtype))
    _, expected = run(function, inputs, cotangent)
    for call in range(4):
        op, values = run(quick, inputs, cotangent)
        assert (op == function.__name__) == (call > 0)  # the first call only looks at the shapes
        assert len(values) == len(expected)
        for value, want in zip(values, expected, strict=True):
            assert value.dtype == want.dtype and value.shape == want.shape
            np.testing.assert_array_equal(value, want)


@pytest.mark.parametrize("rows", [3, 9, 30])
def test_the_gradient_of_a_variance_is_about_the_mean_of_its_forward(rows):
    """That of what is centred is tiny; where x is its own mean, the gradient is nothing else."""

    def spread(x):
        return (x - x.mean(0, keepdims=True)).var(0)

    others = (10 * random.standard_normal((rows - 1, 1000))).astype(np.float32)
    mean = others.astype(np.float64).mean(0, keepdims=True).astype(np.float32)
    x = mg.tensor(np.concatenate([others, mean]), requires_grad=True)
    quick = fused(spread)
    _, expected = run(spread, [x], mg.ones(1000))
    for _ in range(3):
        op, values = run(quick, [x], mg.ones(1000))
        for value, want in zip(values, expected, strict=True):
            np.testing.assert_array_equal(value, want)
    assert op == "spread"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_gradients_of_both_orders(name):
    function, make = FUNCTIONS[name]
    inputs, quick = make(np.float64), fused(function)
    tensors = [x for x in inputs if isinstance(x, mg.Tensor)]

    def of_tensors(*given):
        rest = iter(given)
        return first(quick(*[next(rest) if isinstance(x, mg.Tensor) else x for x in inputs]))

    of_tensors(*tensors)
    assert of_tensors(*tensors).grad_fn.name == function.__name__
    assert gradcheck(of_tensors, tensors) and gradgradcheck(of_tensors, tensors)


def test_other_numbers_shapes_and_dtypes_are_told_apart():
    quick = fused(of_numbers)
    numbers = [(3, 1), (4, 1), (3.0, 1), (3, 2), (3, 0.0), (3, -0.0), (3, np.nan)]
    inputs = [*leaves(np.float32, (3, 4), (4, 3), (12,)), leaf(3, 4, dtype=np.float64)]
    for x in (*inputs, inputs[0].detach()):
        for factor, power in numbers * 3:
            want = of_numbers(x, factor, power)
            got = quick(x, factor, power).numpy()
            np.testing.assert_array_equal(got, want.numpy())
            np.testing.assert_array_equal(np.signbit(got), np.signbit(want.numpy()))


def test_calls_with_more_or_fewer_inputs_are_told_apart():
    @fused
    def total(first, *others):
        for other in others:
            first = first + other
        return first

    tensors = [mg.tensor([float(10**k)]) for k in range(3)]
    for count in (2, 3, 2):
        for _ in range(3):  # the third runs the program
            assert total(*tensors[:count]).item() == sum(10**k for k in range(count))


def test_inputs_that_want_no_gradient_get_none():
    quick = fused(softened)
    x, y = leaf(3, 4), mg.tensor(random.standard_normal(4).astype(np.float32))
    for _ in range(3):
        x.grad = None
        out = quick(x, y)
        out.sum().backward()
    assert out.grad_fn.name == "softened" and y.grad is None
    np.testing.assert_array_equal(x.grad.numpy(), grad(softened(x, y).sum(), [x])[0].numpy())
    with mg.no_grad():
        for _ in range(3):
            assert quick(x, y).grad_fn is None


def test_an_input_that_the_result_does_not_need():
    quick = fused(lambda x, y: x * 2.0)
    x, y = leaf(3), leaf(3)
    for _ in range(3):
        out = quick(x, y)
    assert grad(out.sum(), [x, y], allow_unused=True)[1] is None


@pytest.mark.parametrize(
    "function",
    [
        lambda x: mg.sort(x),
        lambda x: x * x.max(),  # its gradient compares
        lambda x: x[::2] * 1.0,
        lambda x: x * mg.tensor([2.0, 3.0, 4.0, 5.0]),
        lambda x: x * mg.tensor([2.0, 3.0, 4.0, 5.0]).reshape(1, 4),
        lambda x: x * mg.broadcast_to(mg.tensor(2.0), (4,)),
        lambda x: x.astype(mg.float64) * 2.0,
        lambda x: mg.where(x > 0, x, 0.0),
        lambda x: x.reshape(2, 2) * 2.0,
        lambda x: mg.permute_dims(x.reshape(2, 2), (1, 0)) * x.sum(),
        lambda x: x.reshape(1, 1, 1, 1, 1, 1, 4) * 2.0,
    ],
)
def test_what_does_not_make_a_program_runs_composed(function):
    quick, x = fused(function), mg.tensor([1.0, -2.0, 3.0, 0.5], requires_grad=True)
    for _ in range(3):
        y = quick(x)
        assert y.grad_fn.name != "<lambda>"
        np.testing.assert_array_equal(y.detach().numpy(), function(x).detach().numpy())


def test_inputs_that_no_program_takes_run_composed():
    quick, x = fused(softened), leaf(4, 4)
    y = x * 1.0
    for inputs in (
        (x, x),  # one input twice
        (y, y),
        (x.T, x),  # not in C order
        (x, leaf(4, 4, dtype=np.float64)),
        (mg.ones(0, 4, requires_grad=True), mg.ones(4)),
        (leaf(256, 256), leaf(256)),  # large: the steps themselves take the time
    ):
        for _ in range(3):
            out = quick(*inputs)
            assert out.grad_fn.name != "softened"
            np.testing.assert_array_equal(out.detach().numpy(), softened(*inputs).detach().numpy())
    for _ in range(3):
        with pytest.raises(ValueError, match="do not broadcast"):
            quick(leaf(3), leaf(4))


def test_a_result_that_is_an_input_or_comes_twice_is_a_copy():
    quick, x = fused(lambda x: (x, x, x + 0.0)), mg.tensor([1.0, 2.0])
    for _ in range(3):
        outputs = quick(x)
    outputs[0].fill_(7)
    assert x.tolist() == [1.0, 2.0] == outputs[1].tolist() == outputs[2].tolist()


def test_what_is_returned_beside_the_result_may_be_written_to():
    quick = fused(normalised)
    inputs = leaf(6, 3), leaf(3), leaf(3), (0,), 1e-5
    expected = grad(normalised(*inputs)[0].square().sum(), inputs[:3])
    for _ in range(3):
        y, mean, var = quick(*inputs)
        mean.detach().fill_(9), var.detach().fill_(9)
    for got, want in zip(grad(y.square().sum(), inputs[:3]), expected, strict=True):
        np.testing.assert_array_equal(got.numpy(), want.numpy())


def test_a_value_that_is_returned_and_that_the_gradient_needs_may_be_written_to():
    def function(x):
        power = mg.exp(x)
        return power * x, power

    quick, x = fused(function), leaf(5)
    expected = grad(function(x)[0].sum(), x)[0].numpy()
    for _ in range(3):
        y, power = quick(x)
        got = grad(y.sum(), x, retain_graph=True)[0].numpy()
        np.testing.assert_array_equal(got, expected)
    power.fill_(9)
    np.testing.assert_array_equal(grad(y.sum(), x)[0].numpy(), expected)


def test_what_differs_in_an_option_alone_is_not_done_once():
    quick, x = fused(lambda x: x.var(correction=0) + 2 * x.var(correction=1)), leaf(5)
    for _ in range(3):
        got = quick(x).item()
    assert got == (x.var(correction=0) + 2 * x.var(correction=1)).item()


def test_an_input_that_was_written_to_raises():
    quick, x, y = fused(softened), leaf(3), leaf(3)
    for _ in range(3):
        out = quick(x, y)
    with mg.no_grad():
        y += 1.0
    with pytest.raises(RuntimeError, match="softened: an input was written to in place"):
        out.sum().backward()
    assert x.grad is None


def test_a_write_to_what_the_gradient_does_not_need_does_no_harm():
    quick, x, y = fused(lambda x, y: mg.exp(x) + y), leaf(3), leaf(3)
    for _ in range(3):
        out = quick(x, y)
        with mg.no_grad():
            x += 1.0
            y += 1.0
        expected = out.numpy(copy=True) - (y.numpy() - 1.0)
        np.testing.assert_allclose(grad(out.sum(), x)[0].numpy(), expected, rtol=1e-5)
    out = quick(x, y)
    with mg.no_grad():
        y += 1.0
    with pytest.raises(RuntimeError, match="written to in place"):
        grad(out.sum(), x, create_graph=True)  # which runs the function again


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("frozen", [0, 1])
def test_an_input_that_is_frozen_after_the_forward_still_gets_its_gradient(frozen, create_graph):
    quick, inputs = fused(softened), leaves(np.float64, (3,), (3,))
    expected = grad(softened(*inputs).sum(), inputs)
    for _ in range(3):
        out = quick(*inputs).sum()
        inputs[frozen].requires_grad_(False)
        out.backward(create_graph=create_graph)
        inputs[frozen].requires_grad_(True)
        for x, want in zip(inputs, expected, strict=True):
            np.testing.assert_allclose(x.grad.numpy(), want.numpy(), rtol=1e-13)
            x.grad = None


def test_a_graph_that_is_kept_runs_twice_and_one_that_is_freed_does_not():
    quick, x, y = fused(softened), leaf(3), leaf(3)
    for _ in range(3):
        out = quick(x, y).sum()
    out.backward(retain_graph=True)
    once = x.grad.numpy(copy=True)
    out.backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * once)
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        out.backward()


def test_it_runs_composed_while_somebody_observes_and_when_switched_off():
    quick, x, y = fused(softened), leaf(3), leaf(3)
    for _ in range(3):
        out = quick(x, y)
    assert out.grad_fn.name == "softened"
    with detect_anomaly():
        assert quick(x, y).grad_fn.name == "subtract"
    with accelerated(False):
        assert quick(x, y).grad_fn.name == "subtract"
    assert quick(x, y).grad_fn.name == "softened"


def test_the_profiler_names_it():
    quick, x, y = fused(softened), leaf(3), leaf(3)
    for _ in range(3):
        quick(x, y)
    with mg.profile() as profile:
        quick(x, y).sum().backward()
    assert "softened" in str(profile)


def test_no_tensor_is_left_and_no_cycle():
    import gc
    import weakref

    quick, x, y = fused(softened), leaf(3), leaf(3)
    for _ in range(3):
        quick(x, y)
    gc.disable()
    try:
        z = leaf(3)
        alive = weakref.ref(z)
        quick(z, y).sum().backward()
        del z
        assert alive() is None
    finally:
        gc.enable()


def test_the_comparison_would_notice_another_function():
    """A program is what was traced; a function that breaks its contract gives something else."""
    factor = [2.0]

    def scaled(x):
        return x * factor[0]

    quick, x = fused(scaled), mg.tensor([1.0], requires_grad=True)
    for _ in range(3):
        quick(x)
    factor[0] = 3.0
    assert quick(x).item() == 2.0 != scaled(x).item()
