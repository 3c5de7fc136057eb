"""A checker must be shown to fail: planted wrong rules are all caught, right ones all pass."""

from __future__ import annotations

import re

import numpy as np
import pytest

import minigrad as mg
from minigrad.autograd import GradcheckError, gradcheck, gradgradcheck


def leaf(*shape, seed=0, low=-2.0, high=2.0):
    random = np.random.default_rng(seed)
    return mg.tensor(random.uniform(low, high, shape), requires_grad=True)


def plant(value, wrong):
    """A function with the value of one function and the gradient of another."""

    def planted(*inputs):
        gradient = wrong(*inputs)
        return value(*inputs).detach() + gradient - gradient.detach()

    return planted


def report(function, inputs, check=gradcheck, **options):
    with pytest.raises(GradcheckError) as caught:
        check(function, inputs, **options)
    assert check(function, inputs, raise_exception=False, **options) is False
    return str(caught.value)


def normalised(x, mean, var):
    return (x - mean) / mg.sqrt(var + 1e-5)


def batch_norm(x):
    return normalised(x, x.mean(0, keepdims=True), x.var(0, keepdims=True))


def mean_detached_inside_var(x):
    mean = x.mean(0, keepdims=True)
    return normalised(x, mean, mg.square(x - mean.detach()).mean(0, keepdims=True))


def statistics_detached(x):
    mean, var = x.mean(0, keepdims=True), x.var(0, keepdims=True)
    return normalised(x, mean.detach(), var.detach())


# ---------------------------------------------------------------------------- right ones pass
RIGHT = {
    "tanh": (mg.tanh, (leaf(3),)),
    "product of two inputs": (lambda x, y: x * y, (leaf(2, 3), leaf(3, seed=1))),
    "matrix product": (lambda x, y: x @ y, (leaf(2, 3), leaf(3, 4, seed=1))),
    "two outputs": (lambda x: (mg.exp(x), x.sum()), (leaf(4),)),
    "an integer output too": (lambda x: (x * x, mg.argmax(x)), (leaf(4),)),
    "0-d": (mg.exp, (leaf(),)),
    "size 0": (mg.exp, (leaf(0, 3),)),
    "sum of nothing": (mg.sum, (leaf(0, 3),)),
    "a constant beside it": (lambda x, c, k: c * x**k, (leaf(3), mg.ones(3, dtype=mg.float64), 3)),
    "an input that is not used": (lambda x, y: x * x, (leaf(3), leaf(2))),
    "BatchNorm": (batch_norm, (leaf(6, 3),)),
    "large": (lambda x: mg.tanh(x) * x, (leaf(40, 50),)),
    "large, reduced": (lambda x: mg.logsumexp(x, axis=0), (leaf(400, 2),)),
}


@pytest.mark.parametrize("full", [False, True], ids=["projection", "full"])
@pytest.mark.parametrize("name", RIGHT)
def test_right_gradients_pass(name, full):
    function, inputs = RIGHT[name]
    if full and name.startswith("large"):
        inputs = tuple(leaf(5, 4) for _ in inputs)
    assert gradcheck(function, inputs, full=full) is True
    assert gradgradcheck(function, inputs, full=full) is True


@pytest.mark.parametrize("change", [
    lambda x: x.T,
    lambda x: x[::-1],
    lambda x: x[:, ::2],
])  # fmt: skip
def test_layouts_that_are_not_contiguous(change):
    x = change(leaf(4, 6).detach()).requires_grad_()
    assert not x.numpy().flags.c_contiguous
    assert gradcheck(lambda x: mg.tanh(x) * x, x)
    assert gradgradcheck(lambda x: mg.tanh(x) * x, x)
    message = report(plant(lambda x: x * x, lambda x: x), x)
    assert "in 24 of 24" in message or "in 12 of 12" in message


def test_inputs_that_are_not_leaves():
    x = leaf(3) * 2.0
    assert gradcheck(mg.exp, x)
    assert gradgradcheck(mg.exp, x)


class Cube(mg.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x * x

    @staticmethod
    def backward(ctx, g):
        (x,) = ctx.saved_tensors
        return g * (3.0 * x * x)


def slope(f, x):
    """f'(x) by `autograd.grad`, in the graph."""
    return mg.autograd.grad(f(x).sum(), x, create_graph=True)[0]


DIFFERENTIATING = {
    "gradient penalty": lambda x, w: (slope(lambda x: mg.tanh(x * w), x) ** 2).sum(),
    "of a Function": lambda x, w: slope(Cube.apply, x) * w,
    "of a checkpoint": lambda x, w: slope(lambda x: mg.autograd.checkpoint(mg.tanh, x), x) * w,
    "func.grad": lambda x, w: mg.func.grad(lambda x: (mg.sin(x) * w).sum())(x),
    "func.jvp": lambda x, w: mg.func.jvp(lambda x: mg.sin(x) * x, (x,), (w,)),
    "func.hessian": lambda x, w: mg.func.hessian(lambda x: (x**3 * w).sum())(x),
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", DIFFERENTIATING)
def test_functions_that_differentiate_inside(name, full):
    inputs = leaf(3), leaf(3, seed=1)
    assert gradcheck(DIFFERENTIATING[name], inputs, full=full)
    assert gradgradcheck(DIFFERENTIATING[name], inputs, full=full)
    with mg.no_grad():
        assert gradcheck(DIFFERENTIATING[name], inputs, full=full)


def test_a_wrong_gradient_of_a_gradient_is_caught():
    def detached(x):
        return (slope(mg.sin, x).detach() ** 2).sum() + x.sum()

    assert "the gradient of input 0 (x) is wrong in 3 of 3" in report(detached, leaf(3))


def test_inputs_reached_by_another_way_are_seen():
    x, weight = leaf(3), leaf(3, seed=1)
    assert gradcheck(lambda x, _: x * weight, (x, weight))
    report(lambda x, _: x * weight.detach(), (x, weight))


# -------------------------------------------------------------------------- wrong ones are caught
X, Y, SQUARE = leaf(3, 4), leaf(3, 4, seed=1), leaf(4, 4)
ONE_ELEMENT = mg.tensor(np.eye(1, 12, 6).reshape(3, 4))
PRODUCT = mg.multiply
WRONG = {
    "sign": (plant(PRODUCT, lambda x, y: -x * y), (X, Y)),
    "sign in one input": (plant(PRODUCT, lambda x, y: x.detach() * y - x * y.detach()), (X, Y)),
    "factor 2": (plant(PRODUCT, lambda x, y: 2.0 * x * y), (X, Y)),
    "factor 1.01": (plant(PRODUCT, lambda x, y: 1.01 * x * y), (X, Y)),
    "factor 12345": (plant(PRODUCT, lambda x, y: 12345.0 * x * y), (X, Y)),
    "a term of the product rule missing": (lambda x: x * mg.sin(x).detach(), (X,)),
    "inputs swapped": (plant(PRODUCT, lambda x, y: 0.5 * (x * x + y * y)), (X, Y)),
    "quotient upside down": (plant(mg.divide, lambda x, y: mg.divide(y, x)), (X, Y)),
    "mean and var detached": (statistics_detached, (leaf(6, 3),)),
    "transposed": (plant(lambda x: (x * x).T, lambda x: (x.T.detach() * x).T), (SQUARE,)),
    "one element": (plant(mg.tanh, lambda x: mg.tanh(x) * (1.0 - 0.01 * ONE_ELEMENT)), (X,)),
    "one input forgotten": (lambda x, y: x * y.detach(), (X, Y)),
    "no graph at all": (lambda x: mg.exp(x.detach()), (X,)),
    "a gradient where there is none": (plant(lambda x: 0.0 * x, lambda x: x), (X,)),
    "only one of two outputs": (lambda x: (mg.exp(x), mg.tanh(x.detach())), (X,)),
    "sum over a broadcast axis": (
        plant(lambda x, y: x * y, lambda x, y: x * mg.broadcast_to(y[:1].mean(), (4,))),
        (X, leaf(4)),
    ),
}


@pytest.mark.parametrize("full", [False, True], ids=["projection", "full"])
@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_rules_are_caught(name, full):
    function, inputs = WRONG[name]
    message = report(function, inputs, full=full)
    assert "likely cause: the gradient rule" in message


@pytest.mark.parametrize("name", WRONG)
def test_planted_wrong_rules_are_caught_with_any_seed(name):
    function, inputs = WRONG[name]
    assert not any(gradcheck(function, inputs, seed=s, raise_exception=False) for s in range(5))


def test_mean_detached_inside_var_is_right_at_first_order_and_wrong_at_second():
    """d var / d mean is zero at the mean, so only the second derivative misses the term."""
    x = leaf(6, 3)
    assert gradcheck(batch_norm, x) and gradgradcheck(batch_norm, x)
    assert gradcheck(mean_detached_inside_var, x)
    assert "likely cause: the gradient rule" in report(mean_detached_inside_var, x, gradgradcheck)


def test_statistics_detached_is_wrong_at_first_order():
    report(statistics_detached, leaf(6, 3))


def test_a_wrong_second_derivative_of_a_right_first_one():
    def cube(x):  # the gradient is 3 x², recorded as if it were a constant times x
        return (plant(lambda x: x * x * x, lambda x: 3.0 * mg.square(x).detach() * x))(x)

    assert gradcheck(cube, X)
    message = report(cube, X, gradgradcheck)
    assert message.startswith(
        "gradgradcheck: cube: the gradient of input 0 (x) is wrong in 12 of 12"
    )


def test_one_wrong_element_among_many_is_found():
    mask = np.zeros((60, 50))
    mask[3, 7] = 0.05
    wrong = plant(mg.square, lambda x: mg.square(x) * (1.0 - mg.tensor(mask)))
    message = report(wrong, leaf(60, 50))
    assert "wrong in 1 of 32 directions through 3000 elements" in message
    assert "worst at index (3, 7)" in message


# -------------------------------------------------------------------------------------- the report
def values(message):
    found = re.search(
        r"analytic (\S+), numeric (\S+), absolute error (\S+), relative error (\S+)\n", message
    )
    return [float(v) for v in found.groups()]


def test_the_report_names_everything():
    x = mg.tensor([1.0, 2.0, 3.0], dtype=mg.float64, requires_grad=True)
    y = mg.tensor([4.0, 5.0, 6.0], dtype=mg.float64, requires_grad=True)

    def area(width, height):
        return plant(PRODUCT, lambda x, y: x * y * mg.tensor([1.0, 1.0, 1.5], mg.float64))(
            width, height
        )

    message = report(area, (x, y), full=True)
    first, second = message.split("\nthe gradient of input 1")
    assert first.startswith(
        "gradcheck: area: the gradient of input 0 (width) is wrong in 1 of 9 entries"
    )
    assert "worst at index (2,), for output 0 at index (2,): " in first
    assert values(first + "\n") == pytest.approx([9.0, 6.0, 3.0, 0.5])
    assert second.startswith(" (height) is wrong in 1 of 9 entries of the Jacobian")
    assert values(second) == pytest.approx([4.5, 3.0, 1.5, 0.5])

    message = report(area, (x, y))
    assert "input 0 (width) is wrong in 1 of 3 elements" in message
    analytic, numeric, absolute, relative = values(message)
    assert analytic / numeric == pytest.approx(1.5)
    assert absolute == pytest.approx(abs(analytic - numeric), rel=0.01)
    assert relative == pytest.approx(0.5)


def test_the_report_finds_the_output_among_several():
    message = report(
        lambda x: (x * 2.0, mg.square(x.detach()).reshape(2, 2) + 0.0 * x.sum()), leaf(4), full=True
    )
    assert re.search(r"worst at index \((\d),\), for output 1 at index", message)


@pytest.mark.parametrize(("function", "options", "name"), [
    (lambda x: -mg.exp(x).detach() + 0.0 * x, {}, "add"),
    (lambda x: mg.exp(x.detach()), {"name": "my function"}, "my function"),
])  # fmt: skip
def test_the_report_names_the_function(function, options, name):
    assert report(function, leaf(3), **options).startswith(f"gradcheck: {name}: ")


def test_the_same_call_gives_the_same_report():
    function, inputs = WRONG["factor 1.01"]
    assert report(function, inputs) == report(function, inputs)
    assert report(function, inputs) != report(function, inputs, seed=1)


# ------------------------------------------------------------------------------------ the diagnosis
def step(x):
    return mg.floor_divide(x, 1.0)


KINKS = [(mg.relu, 0.0), (step, 0.0)]
KINKS += [
    (f, k)
    for f in (mg.relu, mg.abs, lambda x: mg.maximum(x, 0.0), step)
    for k in (3e-7, -3e-7, 5e-8)
]


@pytest.mark.parametrize(("function", "place"), KINKS)
def test_a_kink_within_the_step_is_named(function, place):
    x = mg.tensor([1.5, place], dtype=mg.float64, requires_grad=True)
    message = report(function, x)
    assert "wrong in 1 of 2 elements" in message and "index (1,)" in message
    assert "likely cause: a kink or jump of the function within eps = 1e-06" in message


@pytest.mark.parametrize("function", [mg.abs, lambda x: mg.maximum(x, 0.0)])
def test_at_a_kink_the_mean_of_both_slopes_agrees_with_the_central_difference(function):
    assert gradcheck(function, mg.tensor([1.5, 0.0], dtype=mg.float64, requires_grad=True))


def test_a_jump_of_the_gradient_is_named():
    x = mg.tensor([1.5, 0.0], dtype=mg.float64, requires_grad=True)
    assert "likely cause: a kink or jump" in report(lambda x: mg.maximum(x, 0.0), x, gradgradcheck)


@pytest.mark.parametrize("eps", [0.5, 0.1, 1e-14, 1e-15])
def test_a_step_too_large_or_too_small_is_named(eps):
    message = report(lambda x: x**3 + mg.exp(2.0 * x), leaf(5), eps=eps)
    assert "likely cause: the step size" in message and f"{eps:g}" in message


def test_a_wrong_rule_at_a_point_of_strong_curvature_is_not_called_a_kink():
    x = leaf(3)
    assert gradcheck(lambda x: mg.sin(1000.0 * x), x)
    wrong = plant(lambda x: mg.sin(1000.0 * x), lambda x: 1.1 * mg.sin(1000.0 * x))
    assert "likely cause: the gradient rule" in report(wrong, x)


def test_a_function_that_is_not_finite_is_named():
    x = mg.tensor([1.0, 0.0], dtype=mg.float64, requires_grad=True)
    assert "likely cause: the function is not finite within eps" in report(mg.log, x)
    x = mg.tensor([1.0, 1e-6], dtype=mg.float64, requires_grad=True)  # 1 / (x - eps) is infinite
    assert "likely cause: the function is not finite within eps" in report(mg.reciprocal, x)


# ---------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("check", [gradcheck, gradgradcheck])
def test_inputs_that_cannot_be_checked(check):
    with pytest.raises(TypeError, match=r"input 0 is float32.*\.astype\(mg\.float64\)"):
        check(mg.exp, mg.ones(2, requires_grad=True))
    with pytest.raises(ValueError, match="no input requires grad"):
        check(mg.exp, mg.ones(2, dtype=mg.float64))
    with pytest.raises(ValueError, match="eps must be positive"):
        check(mg.exp, leaf(2), eps=0.0)
    with pytest.raises(ValueError, match=r"read-only or broadcast.*clone\(\)"):
        check(mg.exp, mg.broadcast_to(leaf(2), (3, 2)))
    with pytest.raises(TypeError, match="output 0 is float32"):
        check(lambda x: x.astype(mg.float32), leaf(2))
    with pytest.raises(TypeError, match="output 0 is a float, expected a Tensor"):
        check(lambda x: 1.0, leaf(2))


def test_grad_outputs():
    x, u = leaf(3), leaf(3, seed=1)
    assert gradgradcheck(mg.tanh, x, u)
    assert gradgradcheck(mg.tanh, x, u.detach())
    assert gradgradcheck(lambda x: (mg.tanh(x), x.sum()), x, (u, leaf()))
    with pytest.raises(
        ValueError, match=r"shapes \[\(3,\)\], but grad_outputs of shapes \[\(4,\)\]"
    ):
        gradgradcheck(mg.tanh, x, leaf(4))


def test_a_random_function_is_refused():
    message = report(lambda x: x * mg.randn(3, dtype=mg.float64), leaf(3))
    assert "different values when called twice" in message and "manual_seed" in message


def test_a_function_that_writes_to_its_input_is_refused():
    def write(x):
        with mg.no_grad():
            x += 1.0
        return x * 1.0

    assert "changed input 0 in place; work on a copy: x.clone()" in report(write, leaf(3))


def test_nothing_is_left_behind():
    x = leaf(30, 20)
    before, version = x.numpy(copy=True), x._version
    report(plant(mg.square, lambda x: x), x)
    with pytest.raises(ZeroDivisionError):
        gradcheck(lambda x: 1 // int(x.numpy()[0, 0] == before[0, 0]) * x, x)
    np.testing.assert_array_equal(x.numpy(), before)
    assert x.grad is None and x._version == version and mg.is_grad_enabled()
