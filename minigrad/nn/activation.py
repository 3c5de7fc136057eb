"""Activations: the formulas as functions, and a table that makes a Module of each.

`functional` has the functions, `nn` the Modules: those named in one line of the table take the same
options in the same order. `inplace` is taken for PyTorch's sake: a new tensor is made anyhow.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any, TypeAlias

from .. import functions
from .._core import ops
from .._core.engine.graph import Tensor, to_tensor, to_tensors
from .._core.ops import clip, expm1, logsigmoid, reshape, sigmoid, tanh, where
from ..checks import choice, integer, nonnegative_real, positive, positive_real, real
from ..creation import full, zeros
from .applied import Applied
from .module import Module, Parameter

__all__ = ["CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh"]
__all__ += ["LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU6", "SELU"]
__all__ += ["Sigmoid", "SiLU", "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh"]
__all__ += ["Tanhshrink", "Threshold"]

_Function: TypeAlias = Callable[..., Tensor]


# ----------------------------------------------------------------------------------------- smooth
def silu(x: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x), also called swish (Elfwing et al. 2018).

    >>> mg.nn.functional.silu(mg.tensor([0.0, 1.0]))
    tensor([0.       , 0.7310586])
    """
    return ops.silu(x)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x) with the normal distribution function Φ, or with approximate="tanh" the form with tanh
    (Hendrycks & Gimpel 2016, section 2).

    >>> mg.nn.functional.gelu(mg.tensor([0.0, 1.0]), approximate="tanh")
    tensor([0.        , 0.84119195])
    """
    if approximate == "none":
        return ops.gelu(x)
    choice(approximate, "GELU: approximate", "none", "tanh")
    x = to_tensor(x, "gelu")
    far = ops.abs(x) > 100.0  # where gelu is relu, and inf * 0 would be NaN
    near = where(far, 0.0, x)
    # 1 + tanh(u) = 2 sigmoid(2 u), which keeps the left tail
    inner = math.sqrt(8 / math.pi) * (near + 0.044715 * (near * near * near))
    return near * sigmoid(inner) + where(far, ops.relu(x), 0.0)


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e**(beta x)) / beta. The primitive does not overflow, so `threshold`, above which
    PyTorch returns x, is not needed. Raises ValueError unless beta is positive.

    >>> mg.nn.functional.softplus(mg.tensor([1000.0]), beta=2.0)
    tensor([1000.])
    """
    positive_real(beta, "Softplus: beta")
    return ops.softplus(x) if beta == 1 else ops.softplus(beta * x) / beta


def mish(x: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(softplus(x)) (Misra 2019).

    >>> mg.nn.functional.mish(mg.tensor([0.0, 1.0]))
    tensor([0.       , 0.8650984])
    """
    return ops.mish(x)


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|).

    >>> mg.nn.functional.softsign(mg.tensor([-1.0, 3.0]))
    tensor([-0.5 ,  0.75])
    """
    # Beyond 1 as 1 / (sign x + 1/x), whose slope does not cancel and which has limits at ±inf.
    x = to_tensor(x, "softsign")
    large = ops.abs(x) > 1.0
    near, far = where(large, 0.0, x), where(large, x, 1.0)
    return where(large, 1.0 / (ops.sign(far) + 1.0 / far), near / (1.0 + ops.abs(near)))


def tanhshrink(x: Tensor) -> Tensor:
    """x - tanh(x).

    >>> mg.nn.functional.tanhshrink(mg.tensor([0.0, 100.0]))
    tensor([ 0., 99.])
    """
    return x - tanh(x)


def elu(x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, alpha (e**x - 1) elsewhere (Clevert et al. 2016, equation 16); its gradient at
    0 is alpha.

    >>> mg.nn.functional.elu(mg.tensor([-1000.0, 2.0]))
    tensor([-1.,  2.])
    """
    # The exponential sees no x above 0, where it would overflow; clip, unlike minimum, has the
    # slope 1 at its bound.
    return ops.relu(x) + alpha * expm1(clip(x, max=0.0))


def selu(x: Tensor, inplace: bool = False) -> Tensor:
    """λ elu(x, α) with the λ = 1.0507 and α = 1.6733 that bring mean and variance to 0 and 1
    (Klambauer et al. 2017, equations 2 and 14).

    >>> mg.nn.functional.selu(mg.tensor([-1000.0, 1.0]))
    tensor([-1.7580993,  1.050701 ])
    """
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


def celu(x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, alpha (e**(x / alpha) - 1) elsewhere (Barron 2017): an elu whose slope at 0 is
    1 for every alpha. Raises ValueError for alpha=0.

    >>> mg.nn.functional.celu(mg.tensor([-1000.0, 2.0]), alpha=3.0)
    tensor([-3.,  2.])
    """
    if alpha == 0:
        raise ValueError("CELU: alpha must not be 0")
    return ops.relu(x) + alpha * expm1(clip(x, max=0.0) / alpha)


# ------------------------------------------------------------------------------ piecewise straight
def relu(x: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0); its gradient at 0 is 0.

    >>> mg.nn.functional.relu(mg.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return ops.relu(x)


def hardtanh(
    x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """x limited to [min_val, max_val]; its gradient at the bounds is 0, unlike that of `clip`.
    Raises ValueError if min_val lies above max_val.

    >>> mg.nn.functional.hardtanh(mg.tensor([-3.0, 0.5, 3.0]))
    tensor([-1. ,  0.5,  1. ])
    """
    if not min_val <= max_val:
        raise ValueError(f"Hardtanh: min_val {min_val} lies above max_val {max_val}")
    x = to_tensor(x, "hardtanh")
    outside = (x <= min_val) | (x >= max_val)
    return where(outside, clip(x.detach(), min_val, max_val), x)


def relu6(x: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6) (Krizhevsky 2010); its gradient at 0 and 6 is 0.

    >>> mg.nn.functional.relu6(mg.tensor([-1.0, 2.0, 7.0]))
    tensor([0., 2., 6.])
    """
    return hardtanh(x, 0.0, 6.0)


def hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6.

    >>> mg.nn.functional.hardsigmoid(mg.tensor([-4.0, 0.0, 4.0]))
    tensor([0. , 0.5, 1. ])
    """
    return relu6(x + 3.0) / 6.0


def hardswish(x: Tensor, inplace: bool = False) -> Tensor:
    """x relu6(x + 3) / 6 (Howard et al. 2019, section 5.2).

    >>> mg.nn.functional.hardswish(mg.tensor([-4.0, 1.5, 4.0]))
    tensor([-0.   ,  1.125,  4.   ])
    """
    return x * hardsigmoid(x)


def leaky_relu(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, negative_slope x elsewhere (Maas et al. 2013); its gradient at 0 is
    negative_slope.

    >>> mg.nn.functional.leaky_relu(mg.tensor([-1.0, 2.0]))
    tensor([-0.01,  2.  ])
    """
    x = to_tensor(x, "leaky_relu")
    return where(x > 0, x, negative_slope * x)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, weight x elsewhere, for a weight of shape (1,), or (C,) for x (N, C, ...) (He
    et al. 2015, equation 1).

    Raises ValueError for a weight of another shape.

    >>> mg.nn.functional.prelu(mg.tensor([[-1.0, -1.0]]), mg.tensor([0.25, 0.5]))
    tensor([[-0.25, -0.5 ]])
    """
    x, weight = to_tensors((x, weight), "prelu")
    channels = x.shape[1:2]
    if weight.shape not in ((1,), channels):
        expected = f"(1,) or {channels}" if channels else "(1,)"
        raise ValueError(
            f"prelu: expected a weight of shape {expected} for an input of shape {x.shape}, got "
            f"{weight.shape}"
        )
    column = (-1, *(1,) * (x.ndim - 2)) if x.ndim > 1 else weight.shape[: x.ndim]
    return where(x > 0, x, reshape(weight, column) * x)


def threshold(x: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where x > threshold, value elsewhere.

    >>> mg.nn.functional.threshold(mg.tensor([0.5, 2.0]), 1.0, 20.0)
    tensor([20.,  2.])
    """
    x = to_tensor(x, "threshold")
    return where(x <= threshold, value, x)


def hardshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """x where |x| > lambd, 0 elsewhere.

    >>> mg.nn.functional.hardshrink(mg.tensor([-2.0, 0.5, 2.0]))
    tensor([-2.,  0.,  2.])
    """
    return where(ops.abs(x) <= lambd, 0.0, x)


def softshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """x brought nearer to 0 by lambd, 0 where |x| <= lambd. Raises ValueError for a negative lambd.

    >>> mg.nn.functional.softshrink(mg.tensor([-2.0, 0.5, 2.0]))
    tensor([-1.5,  0. ,  1.5])
    """
    nonnegative_real(lambd, "Softshrink: lambd")
    return x - clip(x, -lambd, lambd)


# ------------------------------------------------------------------------------- along a dimension
def softmax(x: Tensor, dim: int = -1) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim`, by default the last.

    >>> mg.nn.functional.softmax(mg.zeros(1, 2), dim=1)
    tensor([[0.5, 0.5]])
    """
    return functions.softmax(x, dim)


def softmin(x: Tensor, dim: int = -1) -> Tensor:
    """softmax(-x) along `dim`, by default the last.

    >>> mg.nn.functional.softmin(mg.tensor([0.0, 1000.0]))
    tensor([1., 0.])
    """
    return functions.softmax(-x, dim)


def log_softmax(x: Tensor, dim: int = -1) -> Tensor:
    """log(softmax(x)) along `dim`, by default the last.

    >>> mg.nn.functional.log_softmax(mg.zeros(1, 2), dim=1)
    tensor([[-0.6931472, -0.6931472]])
    """
    return ops.log_softmax(x, dim)


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """a sigmoid(b) for the halves a and b of x along `dim` (Dauphin et al. 2017, equation 1).

    Raises ValueError for an odd size.

    >>> mg.nn.functional.glu(mg.tensor([3.0, 4.0, 0.0, 100.0]))
    tensor([1.5, 4. ])
    """
    x = to_tensor(x, "glu")
    dim = integer(dim, "glu: dim")
    size = x.shape[dim] if -x.ndim <= dim < x.ndim else 1
    if size % 2:
        raise ValueError(f"glu: dimension {dim} of shape {x.shape} cannot be halved")
    value, gate = functions.split(x, [size // 2] * 2, dim)
    return value * sigmoid(gate)


# ----------------------------------------------------------------------------------------- Modules
class _Activation(Applied):
    """A Module that applies a function of one tensor."""

    __signature__: inspect.Signature

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            bound = self.__signature__.bind(*arguments, **options)
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        bound.apply_defaults()
        self._keep(bound.arguments)
        if "dim" not in self._options:
            self.forward(zeros(0))  # the function checks its options

    def forward(self, x: Tensor) -> Tensor:
        """The function of x."""
        return self._function(x, *self._values(self)) if self._options else self._function(x)


def _module(name: str, function: _Function, direct: _Function | None = None) -> type[_Activation]:
    """A class of Modules that apply `function`. What `function` ignores is spared where `direct`,
    the primitive or composed function behind it, is given."""
    try:
        _, *options = inspect.signature(function).parameters.values()
    except ValueError:  # a compiled primitive
        options = []
    members = {
        "__doc__": f"As a Module: {(function.__doc__ or '').strip()}\n    ",
        "__module__": __name__,
        "__annotations__": {option.name: option.annotation for option in options},
        "__signature__": inspect.Signature(options, return_annotation=None),
    }
    floats = {option.name: real for option in options if option.annotation == "float"}
    return type(name, (_Activation,), members, function=direct or function, **floats)


CELU = _module("CELU", celu)
ELU = _module("ELU", elu)
GELU = _module("GELU", gelu)
GLU = _module("GLU", glu)
Hardshrink = _module("Hardshrink", hardshrink)
Hardsigmoid = _module("Hardsigmoid", hardsigmoid)
Hardswish = _module("Hardswish", hardswish)
Hardtanh = _module("Hardtanh", hardtanh)
LeakyReLU = _module("LeakyReLU", leaky_relu)
LogSigmoid = _module("LogSigmoid", logsigmoid)
LogSoftmax = _module("LogSoftmax", log_softmax)
Mish = _module("Mish", mish, ops.mish)
ReLU = _module("ReLU", relu, ops.relu)
ReLU6 = _module("ReLU6", relu6)
SELU = _module("SELU", selu)
SiLU = _module("SiLU", silu, ops.silu)
Sigmoid = _module("Sigmoid", sigmoid)
Softmax = _module("Softmax", softmax)
Softmin = _module("Softmin", softmin)
Softplus = _module("Softplus", softplus)
Softshrink = _module("Softshrink", softshrink)
Softsign = _module("Softsign", softsign)
Tanh = _module("Tanh", tanh)
Tanhshrink = _module("Tanhshrink", tanhshrink)
Threshold = _module("Threshold", threshold)


class PReLU(Module):
    """x where x > 0, weight x elsewhere, with one learned weight for all channels or one for each;
    see `functional.prelu`. It starts at `init`.

    >>> mg.nn.PReLU()(mg.tensor([-1.0, 2.0])).tolist()
    [-0.25, 2.0]
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters = positive(num_parameters, "PReLU: num_parameters")
        start = float(real(init, "PReLU: init"))
        self.weight = Parameter(full((self.num_parameters,), start, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        return prelu(x, self.weight)

    def extra_repr(self) -> str:
        """How many weights."""
        return f"num_parameters={self.num_parameters}"
