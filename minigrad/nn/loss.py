"""Losses as Modules; the formulas stand in functional.py."""

from __future__ import annotations

from .._core.engine.graph import Tensor
from ..checks import choice, nonnegative_real, positive_real, probability, real
from . import functional
from .module import Module


class _Loss(Module):
    """A Module that ends in a reduction: "mean", "sum" or "none"."""

    weight: Tensor | None

    def __init__(self, reduction: str = "mean", weight: Tensor | None = None, *also: str) -> None:
        super().__init__()
        name = f"{type(self).__name__}: reduction"
        self.reduction = choice(reduction, name, "none", *also, "mean", "sum")
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


class SmoothL1Loss(_Loss):
    """d² / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere; see `functional.smooth_l1_loss`.

    >>> mg.nn.SmoothL1Loss(reduction="none")(mg.tensor([0.5, 3.0]), mg.zeros(2))
    tensor([0.125, 2.5  ])
    """

    def __init__(self, reduction: str = "mean", beta: float = 1.0) -> None:
        super().__init__(reduction)
        nonnegative_real(beta, "SmoothL1Loss: beta")
        self.beta = beta

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x and target of one shape; 0-d unless reduction="none"."""
        return functional.smooth_l1_loss(x, target, self.reduction, self.beta)


class HuberLoss(_Loss):
    """d² / 2 where |d| < delta, delta (|d| - delta / 2) elsewhere; see `functional.huber_loss`.

    >>> mg.nn.HuberLoss(reduction="none", delta=2.0)(mg.tensor([1.0, 3.0]), mg.zeros(2))
    tensor([0.5, 4. ])
    """

    def __init__(self, reduction: str = "mean", delta: float = 1.0) -> None:
        super().__init__(reduction)
        positive_real(delta, "HuberLoss: delta")
        self.delta = delta

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x and target of one shape; 0-d unless reduction="none"."""
        return functional.huber_loss(x, target, self.reduction, self.delta)


class KLDivLoss(_Loss):
    """Kullback-Leibler divergence of the distribution `target` from that with the logarithm x, with
    reduction="batchmean"; see `functional.kl_div`.

    >>> p, q = mg.tensor([[0.5, 0.5]]), mg.tensor([[0.25, 0.75]])
    >>> mg.nn.KLDivLoss(reduction="batchmean")(mg.log(q), p)
    tensor(0.14384103)
    """

    def __init__(self, reduction: str = "mean", log_target: bool = False) -> None:
        super().__init__(reduction, None, "batchmean")
        self.log_target = log_target

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x and target of one shape; 0-d unless reduction="none"."""
        return functional.kl_div(x, target, self.reduction, self.log_target)


class CosineEmbeddingLoss(_Loss):
    """1 - cos(x1, x2) where target is 1, max(0, cos(x1, x2) - margin) where it is -1.

    >>> x1, x2 = mg.tensor([[1.0, 0.0], [1.0, 0.0]]), mg.tensor([[0.0, 2.0], [2.0, 0.0]])
    >>> mg.nn.CosineEmbeddingLoss(reduction="none")(x1, x2, mg.tensor([1, -1]))
    tensor([1., 1.])
    """

    def __init__(self, margin: float = 0.0, reduction: str = "mean") -> None:
        super().__init__(reduction)
        self.margin = real(margin, "CosineEmbeddingLoss: margin")

    def forward(self, x1: Tensor, x2: Tensor, target: Tensor) -> Tensor:
        """x1 and x2 of (N, D) or (D,), target of (N,) or (); 0-d unless reduction="none"."""
        return functional.cosine_embedding_loss(x1, x2, target, self.margin, self.reduction)


class TripletMarginLoss(_Loss):
    """max(0, d(anchor, positive) - d(anchor, negative) + margin); see
    `functional.triplet_margin_loss`.

    >>> a, b, c = mg.tensor([[0.0, 0.0]]), mg.tensor([[3.0, 4.0]]), mg.tensor([[0.0, 4.0]])
    >>> mg.nn.TripletMarginLoss()(a, b, c)
    tensor(2.)
    """

    def __init__(
        self,
        margin: float = 1.0,
        p: float = 2.0,
        eps: float = 1e-6,
        swap: bool = False,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        positive_real(margin, "TripletMarginLoss: margin")
        positive_real(p, "TripletMarginLoss: p")
        self.margin, self.p, self.eps, self.swap = margin, p, eps, swap

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Three tensors of (N, D) or (D,); 0-d unless reduction="none"."""
        return functional.triplet_margin_loss(
            anchor, positive, negative, self.margin, self.p, self.eps, self.swap, self.reduction
        )


class BCELoss(_Loss):
    """Binary cross-entropy of probabilities; see `functional.binary_cross_entropy`.

    weight: a factor for every element, broadcast. `BCEWithLogitsLoss` of what goes into the sigmoid
    is more accurate.

    >>> mg.nn.BCELoss()(mg.tensor([0.5, 1.0]), mg.tensor([1.0, 1.0]))
    tensor(0.3465736)
    """

    def __init__(self, weight: Tensor | None = None, reduction: str = "mean") -> None:
        super().__init__(reduction, weight)

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x and target (both in [0, 1]) of one shape; 0-d unless reduction="none"."""
        return functional.binary_cross_entropy(x, target, self.weight, self.reduction)


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
        probability(label_smoothing, "cross_entropy: label_smoothing")
        self.ignore_index = ignore_index
        self.label_smoothing = label_smoothing

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """x of (N, C), (C,) or (N, C, d1, ...); 0-d unless reduction="none"."""
        return functional.cross_entropy(
            x, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )
