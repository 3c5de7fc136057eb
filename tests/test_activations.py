"""Activations against their formulas in NumPy, to second order; kinks, large inputs, options."""

from __future__ import annotations

import copy
import inspect
import math
import pickle

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.nn import functional as F

RANDOM = np.random.default_rng(0)


def sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def softplus(x):
    return np.logaddexp(x, 0)


def elu(x, alpha=1.0):
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def hardsigmoid(x):
    return np.clip(x + 3, 0, 6) / 6


ACTIVATIONS = {
    "ReLU": (nn.ReLU(), lambda x: np.maximum(x, 0)),
    "Sigmoid": (nn.Sigmoid(), sigmoid),
    "Tanh": (nn.Tanh(), np.tanh),
    "SiLU": (nn.SiLU(), lambda x: x * sigmoid(x)),
    "GELU": (nn.GELU(), lambda x: x * np.vectorize(math.erfc)(-x / math.sqrt(2)) / 2),
    "GELU tanh": (  # 0.5 x (1 + tanh(u)) without cancellation
        nn.GELU("tanh"),
        lambda x: x / (1 + np.exp(-2 * math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "Softplus": (nn.Softplus(), softplus),
    "Softplus 2": (nn.Softplus(2), lambda x: softplus(2 * x) / 2),
    "Softplus 0.3": (nn.Softplus(beta=0.3), lambda x: softplus(0.3 * x) / 0.3),
    "LogSigmoid": (nn.LogSigmoid(), lambda x: -softplus(-x)),
    "Softmax": (nn.Softmax(dim=1), lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    "Softmax 0": (nn.Softmax(0), lambda x: np.exp(x) / np.exp(x).sum(0)),
    "LogSoftmax": (nn.LogSoftmax(1), lambda x: x - np.log(np.exp(x).sum(1, keepdims=True))),
    "LogSoftmax 0": (nn.LogSoftmax(0), lambda x: x - np.log(np.exp(x).sum(0))),
    "ReLU6": (nn.ReLU6(), lambda x: np.clip(x, 0, 6)),
    "LeakyReLU": (nn.LeakyReLU(), lambda x: np.where(x > 0, x, 0.01 * x)),
    "LeakyReLU 0.3": (nn.LeakyReLU(0.3), lambda x: np.where(x > 0, x, 0.3 * x)),
    "PReLU": (nn.PReLU(init=0.25).double(), lambda x: np.where(x > 0, x, 0.25 * x)),
    "ELU": (nn.ELU(), elu),
    "ELU 0.3": (nn.ELU(alpha=0.3), lambda x: elu(x, 0.3)),
    "SELU": (nn.SELU(), lambda x: 1.0507009873554805 * elu(x, 1.6732632423543772)),
    "CELU": (nn.CELU(), elu),
    "CELU 3": (nn.CELU(3.0), lambda x: np.where(x > 0, x, 3 * np.expm1(np.minimum(x, 0) / 3))),
    "CELU -3": (nn.CELU(-3.0), lambda x: np.where(x > 0, x, -3 * np.expm1(np.minimum(x, 0) / -3))),
    "Hardtanh": (nn.Hardtanh(), lambda x: np.clip(x, -1, 1)),
    "Hardtanh -2 0.5": (nn.Hardtanh(-2, 0.5), lambda x: np.clip(x, -2, 0.5)),
    "Hardswish": (nn.Hardswish(), lambda x: x * hardsigmoid(x)),
    "Hardsigmoid": (nn.Hardsigmoid(), hardsigmoid),
    "Hardshrink": (nn.Hardshrink(), lambda x: np.where(np.abs(x) > 0.5, x, 0)),
    "Softshrink": (nn.Softshrink(), lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0)),
    "Softshrink 0": (nn.Softshrink(0), lambda x: x),
    "Mish": (nn.Mish(), lambda x: x * np.tanh(softplus(x))),
    "Softsign": (nn.Softsign(), lambda x: x / (1 + np.abs(x))),
    "Tanhshrink": (nn.Tanhshrink(), lambda x: x - np.tanh(x)),
    "Softmin": (nn.Softmin(dim=0), lambda x: np.exp(-x) / np.exp(-x).sum(0)),
    "GLU": (nn.GLU(), lambda x: x[:, :3] * sigmoid(x[:, 3:])),
    "GLU 0": (nn.GLU(0), lambda x: x[:2] * sigmoid(x[2:])),
    "Threshold": (nn.Threshold(0.5, 20.0), lambda x: np.where(x > 0.5, x, 20.0)),
}


def test_every_activation_has_a_row():
    module = inspect.getmodule(nn.ReLU)
    modules = {name for name, value in vars(module).items() if isinstance(value, type)}
    public = {
        name for name in modules & set(nn.__all__) if issubclass(getattr(nn, name), nn.Module)
    }
    assert {key.split()[0] for key in ACTIVATIONS} >= public - {"Module"}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_values_and_derivatives(name):
    module, reference = ACTIVATIONS[name]
    x = RANDOM.normal(0.0, 2.0, size=(4, 6))
    y = module(mg.tensor(x))
    np.testing.assert_allclose(y.numpy(), reference(x), rtol=1e-12, atol=1e-15)
    strided = np.asfortranarray(x)[:, ::-1]
    result = module(mg.tensor(strided)).numpy()
    np.testing.assert_allclose(result, reference(strided), rtol=1e-12)
    inputs = (mg.tensor(x, requires_grad=True),)
    assert gradcheck(module, inputs) and gradgradcheck(module, inputs)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_dtype_empty_and_large(name):
    module, _ = ACTIVATIONS[name]
    assert module(mg.zeros(0, 6)).shape == (0, 3 if name == "GLU" else 6)
    x = mg.tensor(np.array([[-1e4, -1e2, 0, 1e2, 1e4, 88.0]] * 2, "f"), requires_grad=True)
    y = copy.deepcopy(module).float()(x)
    y.sum().backward()
    assert y.dtype == mg.float32
    if name == "CELU -3":
        return  # the one that is unbounded
    assert np.isfinite(y.numpy()).all() and np.isfinite(x.grad.numpy()).all()


# value and slope at -inf and inf
ENDS = {
    "silu": (F.silu, 0.0, 0.0, math.inf, 1.0),
    "gelu": (F.gelu, 0.0, 0.0, math.inf, 1.0),
    "gelu tanh": (lambda x: F.gelu(x, "tanh"), 0.0, 0.0, math.inf, 1.0),
    "mish": (F.mish, 0.0, 0.0, math.inf, 1.0),
    "softplus": (F.softplus, 0.0, 0.0, math.inf, 1.0),
    "logsigmoid": (F.logsigmoid, -math.inf, 1.0, 0.0, 0.0),
    "sigmoid": (F.sigmoid, 0.0, 0.0, 1.0, 0.0),
    "tanh": (F.tanh, -1.0, 0.0, 1.0, 0.0),
    "elu": (F.elu, -1.0, 0.0, math.inf, 1.0),
    "celu": (F.celu, -1.0, 0.0, math.inf, 1.0),
    "selu": (F.selu, -1.7580993408473766, 0.0, math.inf, 1.0507009873554805),
    "softsign": (F.softsign, -1.0, 0.0, 1.0, 0.0),
    "tanhshrink": (F.tanhshrink, -math.inf, 1.0, math.inf, 1.0),
    "hardsigmoid": (F.hardsigmoid, 0.0, 0.0, 1.0, 0.0),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ENDS)
def test_limits_at_infinity_to_second_order(name, dtype):
    function, low, low_slope, high, high_slope = ENDS[name]
    x = mg.tensor([-math.inf, math.inf], dtype, requires_grad=True)
    y = function(x)
    (slope,) = mg.autograd.grad(y.sum(), x, create_graph=True)
    np.testing.assert_allclose(y.numpy(), [low, high], rtol=1e-6)
    np.testing.assert_allclose(slope.numpy(), [low_slope, high_slope], rtol=1e-6)
    if slope.requires_grad:
        assert mg.autograd.grad(slope.sum(), x)[0].tolist() == [0.0, 0.0]


# x, and the value, first and second derivative there, by mpmath. (`gelu`, `silu`, `mish`, `sigmoid`
# and `tanh` are primitives: their rows are in test_op_table.py.)
TAILS = {
    "gelu tanh": (
        lambda x: F.gelu(x, "tanh"),
        (-7.0, -2.315442262072549e-15, -2.765117350706602e-14, -3.2322584067057344e-13),
        (5.0, 4.999999770820381, 1.0000015463619876, -9.934132224996203e-06),
    ),
    "elu": (F.elu, (-20.0, -0.9999999979388464, 2.061153622438558e-09, 2.061153622438558e-09)),
    "celu": (F.celu, (-20.0, -0.9999999979388464, 2.061153622438558e-09, 2.061153622438558e-09)),
    "softsign": (
        F.softsign,
        (-1e6, -0.999999000001, 9.99998000003e-13, 1.999994000012e-18),
        (1e10, 0.9999999999, 9.999999998e-21, -1.9999999994e-30),
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", TAILS)
def test_tails_keep_their_digits_to_second_order(name, dtype):
    function, *points = TAILS[name]
    for point, *values in points:
        x = mg.tensor(point, dtype, requires_grad=True)
        y = function(x)
        (slope,) = mg.autograd.grad(y, x, create_graph=True)
        (curvature,) = mg.autograd.grad(slope, x)
        for result, value in zip((y, slope, curvature), values, strict=True):
            rtol = 2e-5 if dtype == "float32" else 1e-12
            np.testing.assert_allclose(result.item(), value, rtol=rtol)


def test_elu_keeps_the_digits_of_small_inputs_and_nan_stays_nan():
    x = mg.tensor(np.array([-1e-12, 1e-12]))
    for function in (F.elu, F.celu):
        np.testing.assert_allclose(function(x).numpy(), x.numpy(), rtol=1e-11)
    nan = mg.tensor([math.nan])
    for function in (F.relu6, F.leaky_relu, F.elu, F.hardtanh, F.hardshrink, F.softshrink, F.mish):
        assert math.isnan(function(nan).item()), function.__name__
    assert math.isnan(F.threshold(nan, 0.0, 1.0).item())


KINKS = {
    "relu": (F.relu, 0.0, 0.0),
    "relu6": (F.relu6, 6.0, 0.0),
    "hardtanh": (F.hardtanh, -1.0, 0.0),
    "leaky_relu": (F.leaky_relu, 0.0, 0.01),
    "elu": (lambda x: F.elu(x, 0.3), 0.0, 0.3),
    "celu": (lambda x: F.celu(x, 0.3), 0.0, 1.0),
    "hardshrink": (F.hardshrink, 0.5, 0.0),
    "softshrink": (F.softshrink, -0.5, 0.0),
    "threshold": (lambda x: F.threshold(x, 1.0, 0.0), 1.0, 0.0),
    "softsign": (F.softsign, 0.0, 1.0),
}


@pytest.mark.parametrize("name", KINKS)
def test_gradient_at_the_kink(name):
    function, where, slope = KINKS[name]
    x = mg.tensor([where], requires_grad=True)
    function(x).backward()
    np.testing.assert_allclose(x.grad.item(), slope, rtol=1e-6)


def test_prelu_has_a_slope_per_channel():
    x = RANDOM.normal(size=(2, 3, 4))
    layer = nn.PReLU(3).double()
    with mg.no_grad():
        layer.weight.copy_(np.array([0.1, 0.2, 0.3]))
    expected = np.where(x > 0, x, x * np.array([[0.1], [0.2], [0.3]]))
    np.testing.assert_allclose(layer(mg.tensor(x)).numpy(), expected, rtol=1e-12)
    inputs = (mg.tensor(x, requires_grad=True), layer.weight)
    assert gradcheck(F.prelu, inputs) and gradgradcheck(F.prelu, inputs)
    assert list(layer.state_dict()) == ["weight"] and layer.weight.shape == (3,)
    assert nn.PReLU()(mg.tensor(-1.0)).item() == -0.25
    assert repr(layer) == "PReLU(num_parameters=3)  3 parameters"
    with pytest.raises(ValueError, match=r"prelu: expected .* \(1,\) or \(4,\) .*, got \(3,\)"):
        layer(mg.ones(2, 4))
    with pytest.raises(ValueError, match=r"prelu: expected .* \(1,\) for .*, got \(3,\)"):
        layer(mg.ones(3, dtype=mg.float64))
    with pytest.raises(ValueError, match="num_parameters must be positive"):
        nn.PReLU(0)
    with pytest.raises(TypeError, match="init must be a number"):
        nn.PReLU(init="a")


# ---------------------------------------------------------------------------------------- options
def test_options_are_attributes_and_stand_in_the_text():
    layer = nn.Hardtanh(-2.0, max_val=3.0)
    assert repr(layer) == "Hardtanh(min_val=-2.0, max_val=3.0)"
    layer.max_val = 5.0
    assert layer(mg.tensor(10.0)).item() == 5.0
    assert repr(nn.Softmax(dim=1)) == "Softmax(dim=1)" and repr(nn.ReLU6(inplace=True)) == "ReLU6()"
    assert repr(nn.LeakyReLU(0.2, True)) == "LeakyReLU(negative_slope=0.2)"
    assert (
        str(inspect.signature(nn.ELU)) == "(alpha: 'float' = 1.0, inplace: 'bool' = False) -> None"
    )


def test_modules_are_classes_of_their_own_that_can_be_copied_and_pickled():
    assert isinstance(nn.ELU(), nn.ELU) and not isinstance(nn.ELU(), nn.CELU)
    for layer in (nn.ELU(0.5), nn.GELU("tanh"), nn.Threshold(1.0, 2.0), nn.Softmax(0)):
        for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
            assert repr(twin) == repr(layer) and type(twin) is type(layer)

    class Mine(nn.LeakyReLU):
        """A subclass has the options too."""

    assert Mine(0.5)(mg.tensor(-1.0)).item() == -0.5

    class Scaled(nn.ReLU):
        """The constructor does not call a forward that needs what it has not set yet."""

        def __init__(self):
            super().__init__()
            self.factor = 3.0

        def forward(self, x):
            return self.factor * super().forward(x)

    assert Scaled()(mg.tensor(2.0)).item() == 6.0


def test_wrong_options():
    for build, message in [
        (lambda: nn.ELU("a"), "ELU: alpha must be a number, got 'a'"),
        (lambda: nn.Hardtanh(None), "Hardtanh: min_val must be a number, got None"),
        (lambda: nn.Threshold(0.1), "Threshold: missing a required argument: 'value'"),
        (lambda: nn.ReLU(1, 2), "ReLU: too many positional arguments"),
        (lambda: nn.Softsign(dim=1), "unexpected keyword argument 'dim'"),
        (lambda: F.softplus(mg.ones(1), None), "Softplus: beta must be a number, got None"),
        (lambda: F.softplus(mg.ones(1), mg.ones(())), "beta must be a number, got tensor"),
    ]:
        with pytest.raises(TypeError, match=message):
            build()
    for build, message in [
        (lambda: nn.Hardtanh(2.0, 1.0), "Hardtanh: min_val 2.0 is greater than max_val 1.0"),
        (lambda: nn.CELU(0.0), "CELU: alpha must not be 0"),
        (lambda: nn.Softshrink(-1.0), "Softshrink: lambd must not be negative, got -1.0"),
        (lambda: nn.Softplus(-1.0), "Softplus: beta must be positive, got -1.0"),
        (lambda: nn.GLU()(mg.ones(2, 3)), r"glu: dimension -1 of shape \(2, 3\) cannot be halved"),
        (lambda: nn.GLU()(mg.tensor(1.0)), r"glu: dimension -1 of shape \(\) cannot be halved"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    for name in ("elu", "relu6", "hardshrink", "mish", "glu", "softmin", "leaky_relu", "hardswish"):
        with pytest.raises(TypeError):
            getattr(F, name)([1.0, 2.0])


@pytest.mark.parametrize("name", ["softmax", "softmin", "log_softmax", "glu", "normalize"])
def test_dim_is_called_axis_too(name):
    function = getattr(nn.functional, name)
    x = mg.tensor(np.random.default_rng(0).normal(size=(2, 4, 6)))
    for axis in (0, 1, -1):
        assert (function(x, axis=axis) == function(x, dim=axis)).all()
    with pytest.raises((ValueError, IndexError), match=r"axis 7|dim.*7"):
        function(x, axis=7)
    kind = {"softmax": "Softmax", "softmin": "Softmin", "log_softmax": "LogSoftmax", "glu": "GLU"}
    if name in kind:
        module = getattr(nn, kind[name])(axis=1)
        assert (module(x) == function(x, 1)).all() and module.dim == 1
        assert repr(module) == f"{kind[name]}(dim=1)"


def test_cosine_similarity_takes_axis_too():
    x, y = mg.randn(3, 4), mg.randn(3, 4)
    function = nn.functional.cosine_similarity
    assert (function(x, y, axis=0) == function(x, y, dim=0)).all()
