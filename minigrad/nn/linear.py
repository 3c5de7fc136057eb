"""Linear, Flatten, Unflatten, Identity."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._core.engine.graph import Tensor, to_tensor
from .._core.ops import linear, reshape
from ..checks import integer, positive
from ..creation import empty
from ..functions import flatten
from . import init
from .applied import AppliedToOne
from .module import Module, Parameter

__all__ = ["Flatten", "Identity", "Linear", "Unflatten"]


class _Uniform(Module):
    """Base class of layers initialised uniformly in ±1 / sqrt(fan_in), as in PyTorch."""

    weight: Any
    bias: Any

    def _fan_in(self) -> int:
        return math.prod(self.weight.shape[1:])

    def _add_weight(self, shape: tuple[int, ...], outputs: int, bias: bool, dtype: Any) -> None:
        self.weight = Parameter(empty(shape, dtype=dtype))
        start = Parameter(empty(outputs, dtype=dtype)) if bias else None
        self.register_parameter("bias", start)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Reinitialise every parameter uniformly in ±1 / sqrt(fan_in): the second size of the
        weight times the size of the kernel, or hidden_size in recurrent layers.

        >>> layer = mg.nn.Conv1d(4, 2, 4)
        >>> layer.reset_parameters()
        >>> bool((layer.weight.abs() <= 0.25).all())
        True
        """
        bound = 1 / math.sqrt(self._fan_in())
        for parameter in self.parameters(recurse=False):
            init.uniform_(parameter, -bound, bound)


class Linear(_Uniform):
    """x @ weight.T + bias: (..., in_features) -> (..., out_features).

    weight has the shape (out_features, in_features), bias (out_features,); both are initialised
    uniformly in ±1/sqrt(in_features), as in PyTorch. dtype defaults to `get_default_dtype()`.

    >>> layer = mg.nn.Linear(3, 2)
    >>> layer(mg.ones(5, 3)).shape
    (5, 2)
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features = positive(in_features, "Linear: in_features")
        self.out_features = positive(out_features, "Linear: out_features")
        shape = (self.out_features, self.in_features)
        self._add_weight(shape, self.out_features, bias, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """The sizes, and whether there is a bias."""
        has_bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={has_bias}"


@dataclass(eq=False, repr=False)
class Flatten(AppliedToOne, function=flatten):
    """Flatten the dimensions from start_dim to end_dim, inclusive; by default all but the batch. A
    view where possible.

    >>> mg.nn.Flatten()(mg.ones(2, 3, 4)).shape
    (2, 12)
    """

    start_dim: int = 1
    end_dim: int = -1


def _unflattened(value: Any, name: str) -> tuple[int, ...]:
    if not isinstance(value, (tuple, list)):
        raise TypeError(f"{name} must be a tuple of ints, got {value!r}")
    sizes = tuple(integer(n, name, -1) for n in value)
    if not sizes or sizes.count(-1) > 1:
        raise ValueError(f"{name} must be sizes, of which one may be -1, got {value!r}")
    return sizes


def _unflatten(x: Tensor, dim: int, unflattened_size: Sequence[int]) -> Tensor:
    x = to_tensor(x, "Unflatten")
    if not -x.ndim <= dim < x.ndim:
        raise IndexError(f"Unflatten: dim {dim} is out of range for an input of shape {x.shape}")
    dim %= x.ndim
    size, known = x.shape[dim], math.prod(n for n in unflattened_size if n != -1)
    rest = size // max(known, 1) if -1 in unflattened_size else 1
    if known * rest != size:
        raise ValueError(
            f"Unflatten: axis {dim} of an input of shape {x.shape} cannot become {unflattened_size}"
        )
    sizes = (rest if n == -1 else n for n in unflattened_size)
    return reshape(x, (*x.shape[:dim], *sizes, *x.shape[dim + 1 :]))


@dataclass(eq=False, repr=False)
class Unflatten(AppliedToOne, function=_unflatten, dim=integer, unflattened_size=_unflattened):
    """One dimension as several, of which one size may be -1: the inverse of Flatten, and a view
    where possible.

    Raises ValueError for sizes whose product is not that of the dimension, IndexError for a
    dimension that the input does not have.

    >>> mg.nn.Unflatten(1, (3, -1))(mg.ones(2, 12)).shape
    (2, 3, 4)
    """

    dim: int
    unflattened_size: Sequence[int]


class Identity(Module):
    """Returns its input unchanged; ignores all constructor arguments.

    >>> mg.nn.Identity()(mg.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, *ignored: Any, **options: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        """Returns x itself."""
        return x
