"""Activations: a table that makes a Module of each function.

A Module takes the options of the function in the same order. `inplace` is accepted for
compatibility with PyTorch and ignored: the result is always a new tensor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

from .._core import ops
from .._core.engine.graph import Tensor
from ..checks import positive, real
from ..creation import full, zeros
from ..spellings import lead_on
from . import functional
from .applied import AppliedToOne
from .module import Module, Parameter

__all__ = ["CELU", "ELU", "GELU", "GLU", "Hardshrink", "Hardsigmoid", "Hardswish", "Hardtanh"]
__all__ += ["LeakyReLU", "LogSigmoid", "LogSoftmax", "Mish", "PReLU", "ReLU", "ReLU6", "SELU"]
__all__ += ["Sigmoid", "SiLU", "Softmax", "Softmin", "Softplus", "Softshrink", "Softsign", "Tanh"]
__all__ += ["Tanhshrink", "Threshold"]

_Function: TypeAlias = Callable[..., Tensor]


# ----------------------------------------------------------------------------------------- Modules
class _Activation(AppliedToOne):
    """A Module whose options, `axis` among them, are those of the function."""

    __signature__: ClassVar[inspect.Signature]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        try:
            bound = self.__signature__.bind(*arguments, **options)
        except TypeError as error:
            named = TypeError(f"{type(self).__name__}: {error}")
            lead_on(named, type(self))
            raise named from None
        if "axis" in bound.arguments:  # another name of dim
            bound.arguments["dim"] = bound.arguments.pop("axis")
        bound.apply_defaults()
        self._keep(bound.arguments)
        if "dim" not in self._options:
            AppliedToOne.forward(self, zeros(0))  # the function checks its options


def _module(name: str, function: _Function, direct: _Function | None = None) -> type[_Activation]:
    """A class of Modules that apply `function`. `direct`, if given, is the function that `function`
    wraps, and is called without the wrapper."""
    try:
        _, *options = inspect.signature(function).parameters.values()
    except ValueError:  # a compiled primitive
        options = []
    members = {
        "__doc__": f"As a Module: {(function.__doc__ or '').strip()}\n    ",
        "__module__": __name__,
        "__annotations__": {o.name: o.annotation for o in options if o.name != "axis"},
        "__signature__": inspect.Signature(options, return_annotation=None),
    }
    floats = {option.name: real for option in options if option.annotation == "float"}
    return type(name, (_Activation,), members, function=direct or function, **floats)


CELU = _module("CELU", functional.celu)
ELU = _module("ELU", functional.elu)
GELU = _module("GELU", functional.gelu)
GLU = _module("GLU", functional.glu)
Hardshrink = _module("Hardshrink", functional.hardshrink)
Hardsigmoid = _module("Hardsigmoid", functional.hardsigmoid)
Hardswish = _module("Hardswish", functional.hardswish)
Hardtanh = _module("Hardtanh", functional.hardtanh)
LeakyReLU = _module("LeakyReLU", functional.leaky_relu)
LogSigmoid = _module("LogSigmoid", functional.logsigmoid)
LogSoftmax = _module("LogSoftmax", functional.log_softmax)
Mish = _module("Mish", functional.mish, ops.mish)
ReLU = _module("ReLU", functional.relu, ops.relu)
ReLU6 = _module("ReLU6", functional.relu6)
SELU = _module("SELU", functional.selu)
SiLU = _module("SiLU", functional.silu, ops.silu)
Sigmoid = _module("Sigmoid", functional.sigmoid)
Softmax = _module("Softmax", functional.softmax)
Softmin = _module("Softmin", functional.softmin)
Softplus = _module("Softplus", functional.softplus)
Softshrink = _module("Softshrink", functional.softshrink)
Softsign = _module("Softsign", functional.softsign)
Tanh = _module("Tanh", functional.tanh)
Tanhshrink = _module("Tanhshrink", functional.tanhshrink)
Threshold = _module("Threshold", functional.threshold)


class PReLU(Module):
    """x where x > 0, weight x elsewhere, with one learnable weight for all channels or one for
    each, initialised to `init`; see `functional.prelu`.

    >>> mg.nn.PReLU()(mg.tensor([-1.0, 2.0])).tolist()
    [-0.25, 2.0]
    """

    _details = "num_parameters={0.num_parameters}"

    def __init__(self, num_parameters: int = 1, init: float = 0.25, dtype: Any = None) -> None:
        super().__init__()
        self.num_parameters = positive(num_parameters, "PReLU: num_parameters")
        start = float(real(init, "PReLU: init"))
        self.weight = Parameter(full((self.num_parameters,), start, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Returns a tensor of the shape of x."""
        return functional.prelu(x, self.weight)
