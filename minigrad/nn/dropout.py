"""Dropout and Dropout2d."""

from __future__ import annotations

from .._core.engine.graph import Tensor
from ..checks import probability
from ..rng import Generator, check_generator
from . import functional
from .module import Module

__all__ = ["Dropout", "Dropout2d"]


class Dropout(Module):
    """In training, zero each element with probability p and scale the others by 1 / (1 - p)
    (Srivastava et al. 2014, inverted); in evaluation the identity.

    Raises ValueError unless 0 <= p <= 1. `inplace` is taken for PyTorch's sake: a new tensor is
    made anyhow. generator: draw the masks from this one, whose state a checkpoint must then include
    (`generator.get_state()`); by default from the library's.

    >>> layer = mg.nn.Dropout(0.5)
    >>> sorted(set(layer(mg.ones(100)).tolist()))
    [0.0, 2.0]
    """

    def __init__(
        self, p: float = 0.5, inplace: bool = False, *, generator: Generator | None = None
    ) -> None:
        super().__init__()
        self.p = probability(p, "dropout: the probability p")
        self.generator = check_generator(generator, type(self).__name__)

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape and dtype of x."""
        return functional.dropout(x, self.p, self.training, generator=self.generator)

    def extra_repr(self) -> str:
        """The probability of zero, and the generator if it is not the library's."""
        return f"p={self.p}" + (f", generator={self.generator}" if self.generator else "")


class Dropout2d(Dropout):
    """Like Dropout, but zeroes whole channels of (N, C, H, W) or (N, C, L) (Tompson et al. 2015).

    >>> y = mg.nn.Dropout2d(0.5)(mg.ones(1, 8, 2, 2))
    >>> bool((y.min(axis=(2, 3)) == y.max(axis=(2, 3))).all())
    True
    """

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape and dtype of x."""
        return functional.dropout2d(x, self.p, self.training, generator=self.generator)
