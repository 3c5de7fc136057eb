"""Elementwise activations and softmax as Modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

from .._core.ops import log_softmax, logsigmoid, relu, sigmoid, softplus, tanh
from .._core.tensor import Tensor
from ..functions import gelu, silu, softmax
from .module import Module, number

_Function: TypeAlias = Callable[..., Tensor]


class _Elementwise(Module):
    """A Module without parameters or options that applies one function."""

    _function: _Function

    def forward(self, x: Tensor) -> Tensor:
        """The function of every element, in the shape of x."""
        return self._function(x)


class Sigmoid(_Elementwise):
    """1 / (1 + e**-x).

    >>> mg.nn.Sigmoid()(mg.tensor([0.0, 100.0]))
    tensor([0.5, 1. ])
    """

    _function: _Function = staticmethod(sigmoid)


class Tanh(_Elementwise):
    """The hyperbolic tangent.

    >>> mg.nn.Tanh()(mg.tensor([0.0, 100.0]))
    tensor([0., 1.])
    """

    _function: _Function = staticmethod(tanh)


class LogSigmoid(_Elementwise):
    """log(sigmoid(x)), which does not overflow.

    >>> mg.nn.LogSigmoid()(mg.tensor([-1000.0]))
    tensor([-1000.])
    """

    _function: _Function = staticmethod(logsigmoid)


class ReLU(_Elementwise):
    """max(x, 0); its gradient at 0 is 0. `inplace` is taken for PyTorch's sake: a new tensor is
    made anyhow.

    >>> mg.nn.ReLU()(mg.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """

    _function: _Function = staticmethod(relu)

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()


class SiLU(_Elementwise):
    """x sigmoid(x), also called swish. `inplace` is taken for PyTorch's sake: a new tensor is made
    anyhow.

    >>> mg.nn.SiLU()(mg.tensor([0.0, 1.0]))
    tensor([0.       , 0.7310586])
    """

    _function: _Function = staticmethod(silu)

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()


class GELU(Module):
    """x Φ(x) with the normal distribution function Φ, or with approximate="tanh" the form with tanh
    (Hendrycks & Gimpel 2016, section 2).

    >>> mg.nn.GELU()(mg.tensor([0.0, 1.0]))
    tensor([0.       , 0.8413447])
    """

    def __init__(self, approximate: str = "none") -> None:
        super().__init__()
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: approximate must be 'none' or 'tanh', got {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Tensor) -> Tensor:
        """The function of every element, in the shape of x."""
        if self.approximate == "none":
            return gelu(x)
        return 0.5 * x * (1.0 + tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x))))

    def extra_repr(self) -> str:
        """Which form."""
        return f"approximate={self.approximate!r}"


class Softplus(Module):
    """log(1 + e**(beta x)) / beta. The primitive does not overflow, so PyTorch's threshold is not
    needed.

    >>> mg.nn.Softplus()(mg.tensor([1000.0]))
    tensor([1000.])
    """

    def __init__(self, beta: float = 1.0) -> None:
        super().__init__()
        if not number(beta, "Softplus: beta") > 0:
            raise ValueError(f"Softplus: beta must be positive, got {beta}")
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """The function of every element, in the shape of x."""
        return softplus(x) if self.beta == 1 else softplus(self.beta * x) / self.beta

    def extra_repr(self) -> str:
        """The slope."""
        return f"beta={self.beta}"


class _AlongDimension(Module):
    """A Module without parameters that applies one function along one dimension."""

    _function: _Function

    def __init__(self, dim: int = -1) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, x: Tensor) -> Tensor:
        """The function along `dim`, in the shape of x."""
        return self._function(x, axis=self.dim)

    def extra_repr(self) -> str:
        """The dimension."""
        return f"dim={self.dim}"


class Softmax(_AlongDimension):
    """exp(x) / sum(exp(x)) along `dim`, by default the last.

    >>> mg.nn.Softmax(dim=1)(mg.zeros(1, 2))
    tensor([[0.5, 0.5]])
    """

    _function: _Function = staticmethod(softmax)


class LogSoftmax(_AlongDimension):
    """log(softmax(x)) along `dim`, by default the last.

    >>> mg.nn.LogSoftmax(dim=1)(mg.zeros(1, 2))
    tensor([[-0.6931472, -0.6931472]])
    """

    _function: _Function = staticmethod(log_softmax)
