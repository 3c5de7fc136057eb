"""LayerNorm, as the transformer needs it."""

from __future__ import annotations

from typing import Any

from .._core.ops import sqrt
from .._core.tensor import Tensor
from ..creation import ones, zeros
from .module import Module, Parameter


class LayerNorm(Module):
    """Normalisation over the last dimensions (Ba et al. 2016).

    >>> mg.nn.LayerNorm(4)(mg.randn(2, 4)).shape
    (2, 4)
    """

    weight: Any
    bias: Any

    def __init__(
        self,
        normalized_shape: Any,
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else normalized_shape
        self.normalized_shape, self.eps = tuple(shape), eps
        affine = elementwise_affine
        self.register_parameter("weight", Parameter(ones(shape, dtype=dtype)) if affine else None)
        self.register_parameter(
            "bias", Parameter(zeros(shape, dtype=dtype)) if affine and bias else None
        )

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of x."""
        axes = tuple(range(-len(self.normalized_shape), 0))
        y = (x - x.mean(axes, keepdims=True)) / sqrt(x.var(axes, keepdims=True) + self.eps)
        y = y if self.weight is None else y * self.weight
        return y if self.bias is None else y + self.bias
