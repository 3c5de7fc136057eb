"""Dropout and Dropout2d."""

from __future__ import annotations

from .._core.engine.graph import Tensor
from ..checks import probability
from . import functional
from .module import Module

__all__ = ["Dropout", "Dropout2d"]


class Dropout(Module):
    """In training, zero each element with probability p and scale the others by 1 / (1 - p)
    (Srivastava et al. 2014, inverted); in evaluation the identity.

    Raises ValueError unless 0 <= p <= 1. `inplace` is taken for PyTorch's sake: a new tensor is
    made anyhow.

    >>> layer = mg.nn.Dropout(0.5)
    >>> sorted(set(layer(mg.ones(100)).tolist()))
    [0.0, 2.0]
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        self.p = probability(p, "dropout: the probability p")

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape and dtype of x."""
        return functional.dropout(x, self.p, self.training)

    def extra_repr(self) -> str:
        """The probability of zero."""
        return f"p={self.p}"


class Dropout2d(Dropout):
    """As Dropout, but whole channels of (N, C, H, W) or (N, C, L) are zeroed (Tompson et al. 2015).

    >>> y = mg.nn.Dropout2d(0.5)(mg.ones(1, 8, 2, 2))
    >>> bool((y.min(axis=(2, 3)) == y.max(axis=(2, 3))).all())
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape and dtype of x."""
        return functional.dropout2d(x, self.p, self.training)
