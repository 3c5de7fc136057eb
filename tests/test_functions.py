"""Composed functions, creation and grad modes: subgradients, empty input, and what is refused."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest

import minigrad as mg
from minigrad import autograd
from minigrad.gradcheck import gradcheck, gradgradcheck


def leaf(data, dtype=mg.float64):
    return mg.tensor(data, dtype=dtype, requires_grad=True)


def slope(function, x):
    (gradient,) = autograd.grad(function(x).sum(), x)
    return gradient.tolist()


# ------------------------------------------------------------------------------- subgradients
@pytest.mark.parametrize("dtype", [mg.float32, mg.float64])
def test_std_of_equal_elements_has_gradient_zero(dtype):
    x = leaf([[2.0, 2.0], [1.0, 3.0]], dtype)
    assert mg.std(x, 1).tolist() == [0.0, 1.0] and mg.std(x, 1).dtype == dtype
    assert slope(lambda x: mg.std(x, 1), x) == [[0.0, 0.0], [-0.5, 0.5]]
    assert slope(lambda x: mg.std(x, 1, correction=1), x)[0] == [0.0, 0.0]


def test_std_against_finite_differences():
    x = leaf(np.random.default_rng(0).normal(size=(3, 4)))
    for check in (gradcheck, gradgradcheck):
        assert check(lambda x: mg.std(x, 1, correction=1), (x,))
    assert math.isnan(mg.std(mg.zeros(0)).item())


def test_norm_of_zero_elements():
    x = leaf([0.0, 1.0, 4.0])
    assert slope(lambda x: mg.norm(x, ord=0.5), x) == [0.0, 3.0, 1.5]
    assert slope(lambda x: mg.norm(x, ord=0.5), leaf([0.0, 0.0])) == [0.0, 0.0]
    for order in (1.5, 2, 3, math.inf):
        gradient = slope(lambda x, order=order: mg.norm(x, ord=order), leaf([0.0, 2.0]))
        assert gradient == pytest.approx([0.0, 1.0], rel=1e-14)


@pytest.mark.parametrize("order", [0.5, 1.5, 2, 3])
def test_norm_against_finite_differences(order):
    x = leaf([0.7, -1.3, 2.1])
    for check in (gradcheck, gradgradcheck):
        assert check(lambda x: mg.norm(x, ord=order), (x,))


def test_numbers_take_the_default_dtype():
    for result in (mg.norm(1.5), mg.norm(1.5, ord=3), mg.std(1.5), mg.silu(1.5), mg.gelu(1.5)):
        assert result.dtype == mg.float32


# -------------------------------------------------------------------------------- empty input
@pytest.mark.parametrize("shape", [(2, 0), (0, 3), (0,)])
def test_softmax_of_nothing_is_empty(shape):
    x = mg.zeros(*shape, requires_grad=True)
    for axis in range(len(shape)):
        y = mg.softmax(x, axis)
        y.sum().backward()
        assert y.shape == x.grad.shape == shape and y.dtype == mg.float32
    with pytest.raises(IndexError, match="softmax: axis 2 is out of bounds"):
        mg.softmax(x, 2)


def test_split():
    def shapes(*arguments):
        return [piece.shape for piece in mg.split(*arguments)]

    assert shapes(mg.zeros(0), 2) == [(0,)]
    assert shapes(mg.ones(4), 2) == [(2,), (2,)]
    assert shapes(mg.ones(5), np.int64(2)) == [(2,), (2,), (1,)]
    assert shapes(mg.ones(2, 5), np.array([2, 0, 3]), 1) == [(2, 2), (2, 0), (2, 3)]
    assert shapes(mg.ones(2, 5), (5,), -1) == [(2, 5)]


@pytest.mark.parametrize(
    "sizes, error, message",
    [
        ([7, -2], ValueError, r"split: a size cannot be negative, got \[7, -2\]"),
        ([2, 2], ValueError, r"split: sizes \[2, 2\] add up to 4, axis 0 has 5"),
        (0, ValueError, "split: the size must be positive, got 0"),
        (True, TypeError, "split: expected an int or a sequence of ints, got True"),
        ([2.5, 2.5], TypeError, "split: expected an int or a sequence of ints"),
        (2.0, TypeError, "split: expected an int or a sequence of ints, got 2.0"),
        (None, TypeError, "split: expected an int or a sequence of ints, got None"),
    ],
)
def test_split_refuses(sizes, error, message):
    with pytest.raises(error, match=message):
        mg.split(mg.ones(5), sizes)


# -------------------------------------------------------------------------------- wrong axes
@pytest.mark.parametrize("name", ["all", "any", "count_nonzero", "argmax", "argmin"])
def test_axes(name):
    function, values = getattr(mg, name), np.random.default_rng(0).integers(0, 2, (2, 3, 4))
    x = mg.tensor(values)
    axes = (None, 0, -1) if name.startswith("arg") else (None, 1, (0, -1), ())
    for axis in axes:
        for keepdims in (False, True):
            result = function(x, axis, keepdims=keepdims).numpy()
            np.testing.assert_array_equal(
                result, getattr(np, name)(values, axis=axis, keepdims=keepdims)
            )
    with pytest.raises(IndexError, match=f"{name}: axis 3 is out of bounds for a tensor of 3"):
        function(x, 3)
    for wrong in ("a", 1.0, True, (0, "a")):
        with pytest.raises(TypeError, match=f"{name}: axis must be an int"):
            function(x, wrong)
    with pytest.raises((TypeError, ValueError), match=f"{name}: (an axis stands|axis must)"):
        function(x, (0, -3))


# ---------------------------------------------------------------------------------- creation
@pytest.mark.parametrize(
    "make", [mg.tensor, mg.asarray, lambda data, **o: mg.full((2,), data, **o)]
)
def test_python_ints_do_not_wrap_around(make):
    with pytest.raises(OverflowError, match="1099511627776 out of bounds for int32; give a wider"):
        make(2**40, dtype=mg.int32)
    assert make(2**40, dtype=mg.int64).max().item() == 2**40
    assert make(2**31 - 1, dtype=mg.int32).max().item() == 2**31 - 1
    assert make(1.75, dtype=mg.int32).max().item() == 1


def test_lists_of_ints_take_the_dtype_asked_for():
    with pytest.raises(OverflowError, match="tensor: Python integer"):
        mg.tensor([[0, 2**40]], dtype=mg.int32)
    for dtype in (mg.int32, mg.int64, mg.float32, mg.float64, mg.bool):
        assert mg.tensor([[0, 3]], dtype=dtype).dtype == dtype
        assert mg.full((2,), 3, dtype=dtype).dtype == dtype


@pytest.mark.parametrize("dtype", [None, mg.float32])
def test_asarray_of_a_tensor_shares_its_version(dtype):
    x = mg.ones(2)
    shared = mg.asarray(x, dtype=dtype, requires_grad=True)
    assert shared.requires_grad and not x.requires_grad
    y = (shared * shared).sum()
    x[0] = 7.0
    assert shared[0].item() == 7.0
    with pytest.raises(RuntimeError, match="multiply"):
        y.backward()


def test_asarray_of_a_tensor_is_outside_its_graph():
    x = mg.ones(2, requires_grad=True)
    assert not mg.asarray(x * 2).requires_grad and mg.asarray(x * 2).is_leaf
    assert mg.asarray(x, dtype=mg.float64).dtype == mg.float64


@pytest.mark.parametrize("name", ["zeros_like", "ones_like", "full_like", "empty_like"])
def test_like_functions_name_themselves(name):
    arguments = (1,) if name == "full_like" else ()
    assert getattr(mg, name)(np.ones((2, 3), np.int32), *arguments).dtype == mg.int32
    for wrong in (None, [1.0], "a"):
        with pytest.raises(TypeError, match=f"{name}: expected a Tensor, got"):
            getattr(mg, name)(wrong, *arguments)


def test_full_refuses_what_is_no_number():
    for wrong in (None, "1"):
        with pytest.raises(TypeError, match="full: expected numbers"):
            mg.full((2,), wrong, dtype=mg.float32)


# -------------------------------------------------------------------------------- grad modes
@pytest.mark.parametrize("outside", [True, False])
@pytest.mark.parametrize("mode", [True, False])
def test_set_grad_enabled_as_a_decorator(mode, outside):
    with mg.set_grad_enabled(outside):

        @mg.set_grad_enabled(mode)
        def inside():
            """Whether recording is on."""
            return mg.is_grad_enabled()

        for _ in range(3):
            assert mg.is_grad_enabled() is outside
            assert inside() is mode
        assert mg.is_grad_enabled() is outside and inside.__doc__ == "Whether recording is on."
    assert mg.is_grad_enabled()


def test_set_grad_enabled_restores_after_an_exception_and_more_than_once():
    block = mg.set_grad_enabled(False)
    for _ in range(2):
        with pytest.raises(KeyError), block:
            assert not mg.is_grad_enabled()
            raise KeyError
        assert mg.is_grad_enabled()


GENERATOR_DECORATORS = {
    "no_grad": mg.no_grad,
    "no_grad()": mg.no_grad(),
    "enable_grad": mg.enable_grad,
    "set_grad_enabled": lambda function: mg.set_grad_enabled(False)(function),
}


@pytest.mark.parametrize("name", GENERATOR_DECORATORS)
def test_each_resumption_of_a_generator_runs_in_the_mode(name):
    mode, log = name == "enable_grad", []

    @GENERATOR_DECORATORS[name]
    def generator(n):
        try:
            for i in range(n):
                try:
                    log.append((yield i, mg.is_grad_enabled()))
                except KeyError:
                    log.append(("caught", mg.is_grad_enabled()))
            return "end", mg.is_grad_enabled()
        finally:
            log.append(("closed", mg.is_grad_enabled()))

    assert inspect.isgeneratorfunction(generator)
    with mg.set_grad_enabled(not mode):
        running = generator(3)
        assert next(running) == (0, mode) and mg.is_grad_enabled() is not mode
        assert running.send("sent") == (1, mode) and mg.is_grad_enabled() is not mode
        assert running.throw(KeyError()) == (2, mode) and mg.is_grad_enabled() is not mode
        with pytest.raises(StopIteration) as end:
            next(running)
        assert end.value.value == ("end", mode)
        assert log == ["sent", ("caught", mode), None, ("closed", mode)]

        running = generator(3)
        next(running)
        running.close()
        assert log[-1] == ("closed", mode) and mg.is_grad_enabled() is not mode
        running = generator(3)
        next(running)
        with pytest.raises(ZeroDivisionError):
            running.throw(ZeroDivisionError())
        assert mg.is_grad_enabled() is not mode and list(generator(0)) == []
    assert mg.is_grad_enabled()
