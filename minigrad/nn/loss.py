"""Losses as Modules; the formulas stand in functional.py."""

from __future__ import annotations

from .._core.tensor import Tensor
from . import functional
from .module import Module


class _Loss(Module):
    """A Module that ends in a reduction: "mean", "sum" or "none"."""

    weight: Tensor | None

    def __init__(self, reduction: str = "mean", weight: Tensor | None = None) -> None:
        super().__init__()
        functional.check_reduction(reduction, type(self).__name__)
        self.reduction = reduction
        self.register_buffer("weight", weight)


class MSELoss(_Loss):
    """(x - target)², averaged ("mean"), added ("sum") or element by element ("none").

    >>> mg.nn.MSELoss()(mg.tensor([1.0, 2.0]), mg.tensor([1.0, 4.0]))
    tensor(2.)
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x and target of one shape; 0-d unless reduction="none"."""
        return functional.mse_loss(x, target, self.reduction)


class L1Loss(_Loss):
    """|x - target|, averaged ("mean"), added ("sum") or element by element ("none").

    >>> mg.nn.L1Loss()(mg.tensor([1.0, 2.0]), mg.tensor([1.0, 4.0]))
    tensor(1.)
    """

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__(reduction)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x and target of one shape; 0-d unless reduction="none"."""
        return functional.l1_loss(x, target, self.reduction)


class BCEWithLogitsLoss(_Loss):
    """Binary cross-entropy of sigmoid(x), from the logits x, so that nothing overflows.

    weight: a factor for every element, broadcast; pos_weight: a factor for the positive class.

    >>> mg.nn.BCEWithLogitsLoss()(mg.tensor([0.0, 100.0]), mg.tensor([1.0, 1.0]))
    tensor(0.3465736)
    """

    pos_weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        reduction: str = "mean",
        pos_weight: Tensor | None = None,
    ) -> None:
        super().__init__(reduction, weight)
        self.register_buffer("pos_weight", pos_weight)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x and target (numbers in [0, 1]) of one shape; 0-d unless reduction="none"."""
        return functional.binary_cross_entropy_with_logits(
            x, target, self.weight, self.reduction, self.pos_weight
        )


class NLLLoss(_Loss):
    """-x[target] for log-probabilities x; see `functional.nll_loss`.

    >>> log_p = mg.log_softmax(mg.zeros(2, 4), axis=1)
    >>> mg.nn.NLLLoss()(log_p, mg.tensor([0, 3]))
    tensor(1.3862944)
    """

    def __init__(
        self, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
    ) -> None:
        super().__init__(reduction, weight)
        self.ignore_index = ignore_index

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x of (N, C), (C,) or (N, C, d1, ...), target of class indices; 0-d unless
        reduction="none"."""
        return functional.nll_loss(x, target, self.weight, self.ignore_index, self.reduction)


class CrossEntropyLoss(_Loss):
    """Cross-entropy of softmax(x) with class indices or class probabilities; see
    `functional.cross_entropy`.

    >>> mg.nn.CrossEntropyLoss()(mg.zeros(2, 4), mg.tensor([0, 3]))
    tensor(1.3862944)
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, weight)
        functional.check_smoothing(label_smoothing)
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x of (N, C), (C,) or (N, C, d1, ...); 0-d unless reduction="none"."""
        return functional.cross_entropy(
            x, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )
