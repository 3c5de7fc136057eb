"""Linear, Flatten, Identity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from .._core.engine.graph import Tensor
from .._core.ops import linear
from ..checks import positive
from ..creation import empty
from ..functions import flatten
from . import init
from .applied import Applied
from .module import Module, Parameter

__all__ = ["Flatten", "Identity", "Linear"]


class Linear(Module):
    """x @ weight.T + bias: (..., in_features) -> (..., out_features).

    weight has the shape (out_features, in_features), bias (out_features,); both start uniform in
    ±1/sqrt(in_features), as in PyTorch. dtype defaults to `get_default_dtype()`.

    >>> layer = mg.nn.Linear(3, 2)
    >>> layer(mg.ones(5, 3)).shape
    (5, 2)
    """

    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features = positive(in_features, "Linear: in_features")
        self.out_features = positive(out_features, "Linear: out_features")
        self.weight = Parameter(empty(self.out_features, self.in_features, dtype=dtype))
        self.register_parameter(
            "bias", Parameter(empty(self.out_features, dtype=dtype)) if bias else None
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw weight and bias anew.

        >>> layer = mg.nn.Linear(4, 2)
        >>> layer.reset_parameters()
        >>> bool((layer.weight.abs() <= 0.5).all())
        True
        """
        bound = 1 / math.sqrt(self.in_features)
        for parameter in self.parameters(recurse=False):
            init.uniform_(parameter, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        return linear(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Sizes and whether there is a bias."""
        has_bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={has_bias}"


@dataclass(eq=False, repr=False)
class Flatten(Applied, function=flatten):
    """The dimensions from start_dim to end_dim (included) as one; by default all but the batch.

    >>> mg.nn.Flatten()(mg.ones(2, 3, 4)).shape
    (2, 12)
    """

    start_dim: int = 1
    end_dim: int = -1

    def forward(self, x: Tensor) -> Any:
        """The flattened tensor, a view where possible."""
        return self._function(x, *self._values(self))


class Identity(Module):
    """Gives back what it gets; takes, and ignores, any arguments.

    >>> mg.nn.Identity()(mg.ones(2))
    tensor([1., 1.])
    """

    def __init__(self, *ignored: Any, **options: Any) -> None:
        super().__init__()

    def forward(self, x: Any) -> Any:
        """x itself."""
        return x
