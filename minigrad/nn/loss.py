"""Distances and losses: the formulas as functions, and a Module for each loss."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._core import ops
from .._core.engine.graph import Tensor, adopt, get_default_dtype, to_tensor, to_tensors
from .._core.fast.loops import count_classes, memory_checked
from ..checks import choice, flag, nonnegative_real, positive_real, probability, real
from ..functions import moveaxis, norm
from .applied import Applied, Check

__all__ = ["BCELoss", "BCEWithLogitsLoss", "CosineEmbeddingLoss", "CrossEntropyLoss"]
__all__ += ["GaussianNLLLoss", "HuberLoss", "KLDivLoss", "L1Loss", "MSELoss", "MarginRankingLoss"]
__all__ += ["NLLLoss", "PoissonNLLLoss", "QuantileLoss", "SmoothL1Loss", "TripletMarginLoss"]


# -------------------------------------------------------------------------------------- distances
def normalize(
    x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, *, axis: int | None = None
) -> Tensor:
    """x / max(|x|_p, eps) with the norm of order p along `dim` or `axis`.

    >>> mg.nn.functional.normalize(mg.tensor([[3.0, 4.0]]))
    tensor([[0.6, 0.8]])
    """
    along = dim if axis is None else axis
    return x / ops.clip(norm(x, axis=along, keepdims=True, ord=p), min=eps)


def cosine_similarity(
    x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8, *, axis: int | None = None
) -> Tensor:
    """x1 · x2 / (max(|x1|, eps) max(|x2|, eps)) along `dim` or `axis`, which goes, of inputs that
    broadcast first.

    >>> x = mg.tensor([[3.0, 4.0]])
    >>> mg.nn.functional.cosine_similarity(x, mg.tensor([[4.0, 3.0]])).numpy().round(2)
    array([0.96], dtype=float32)
    """
    x1, x2 = to_tensors((x1, x2), "cosine_similarity")
    dim = dim if axis is None else axis
    try:
        shape = np.broadcast_shapes(x1.shape, x2.shape)
    except ValueError:
        raise ValueError(
            f"cosine_similarity: shapes {x1.shape} and {x2.shape} do not broadcast"
        ) from None
    x1, x2 = ops.broadcast_to(x1, shape), ops.broadcast_to(x2, shape)
    return (normalize(x1, 2.0, dim, eps) * normalize(x2, 2.0, dim, eps)).sum(axis=dim)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """|x1 - x2 + eps|_p over the last dimension; the inputs are broadcast.

    >>> x1, x2 = mg.tensor([[3.0, 0.0]]), mg.tensor([[0.0, 4.0]])
    >>> mg.nn.functional.pairwise_distance(x1, x2)
    tensor([5.])
    """
    return norm(x1 - x2 + eps, axis=-1, keepdims=keepdim, ord=p)


# ---------------------------------------------------------------------------------------- losses
def _reduction(value: Any, name: str) -> Any:
    return choice(value, name, "none", "mean", "sum")


def _kl_reduction(value: Any, name: str) -> Any:
    return choice(value, name, "none", "batchmean", "mean", "sum")


def _reduce(loss: Tensor, reduction: str, name: str) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    _reduction(reduction, f"{name}: reduction")
    return loss


def _pair(x: Tensor, target: Tensor, name: str) -> tuple[Tensor, Tensor]:
    x, target = to_tensors((x, target), name)
    if x.shape != target.shape:
        warnings.warn(
            f"{name}: the target has shape {target.shape}, the input {x.shape}; they are "
            "broadcast, which is rarely what you want; reshape one of them",
            stacklevel=4,
        )
    if x.dtype.kind != "f" and target.dtype.kind != "f":  # their squares could overflow
        return x.astype(get_default_dtype()), target.astype(get_default_dtype())
    return x, target


def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(x - target)². Warns, as PyTorch does, if the shapes differ.

    >>> mg.nn.functional.mse_loss(mg.tensor([1.0, 2.0]), mg.tensor([1.0, 4.0]))
    tensor(2.)
    """
    x, target = _pair(x, target, "mse_loss")
    return _reduce(ops.square(x - target), reduction, "mse_loss")


def l1_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|x - target|. Warns, as PyTorch does, if the shapes differ.

    >>> mg.nn.functional.l1_loss(mg.tensor([1.0, 2.0]), mg.tensor([1.0, 4.0]))
    tensor(1.)
    """
    x, target = _pair(x, target, "l1_loss")
    return _reduce(ops.abs(x - target), reduction, "l1_loss")


def smooth_l1_loss(x: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d² / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere, for d = x - target (Girshick 2015,
    equation 3). beta=0 gives `l1_loss`. Warns if the shapes differ; ValueError for beta < 0.

    >>> mg.nn.functional.smooth_l1_loss(mg.tensor([0.5, 3.0]), mg.zeros(2), "none")
    tensor([0.125, 2.5  ])
    """
    nonnegative_real(beta, "smooth_l1_loss: beta")
    if beta == 0:
        return l1_loss(x, target, reduction)
    x, target = _pair(x, target, "smooth_l1_loss")
    return _reduce(_huber(x - target, beta, beta), reduction, "smooth_l1_loss")


def huber_loss(x: Tensor, target: Tensor, reduction: str = "mean", delta: float = 1.0) -> Tensor:
    """d² / 2 where |d| < delta, delta (|d| - delta / 2) elsewhere, for d = x - target (Huber 1964).
    Warns if the shapes differ; raises ValueError unless delta > 0.

    >>> mg.nn.functional.huber_loss(mg.tensor([1.0, 3.0]), mg.zeros(2), "none", delta=2.0)
    tensor([0.5, 4. ])
    """
    positive_real(delta, "huber_loss: delta")
    x, target = _pair(x, target, "huber_loss")
    return _reduce(_huber(x - target, delta), reduction, "huber_loss")


def _huber(difference: Tensor, delta: float, divisor: float = 1.0) -> Tensor:
    """With c = clip(d, -delta, delta) both branches are c (d - c / 2). This avoids |d|, whose kink
    at 0 would hide the curvature from the second derivative. c is divided first, since the product
    may underflow."""
    limited = ops.clip(difference, -delta, delta)
    rest = difference - 0.5 * limited
    return (limited if divisor == 1 else limited / divisor) * rest


def kl_div(x: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """t (log t - x) for log-probabilities x and probabilities t, or with log_target=True their
    logarithms. The loss is 0 where t is 0, and NaN where t is negative. "batchmean" divides the sum
    by the size of the first axis, which gives the Kullback-Leibler divergence; "mean" divides by
    the number of elements.

    >>> p = mg.tensor([[0.5, 0.5]])
    >>> mg.nn.functional.kl_div(mg.log(mg.tensor([[0.25, 0.75]])), p, "batchmean")
    tensor(0.14384103)
    """
    _kl_reduction(reduction, "kl_div: reduction")
    x, target = _pair(x, target, "kl_div")
    if log_target:
        weight, log_target_ = ops.exp(target), ops.where(target == -math.inf, 0.0, target)
    else:
        weight, log_target_ = target, ops.log(ops.where(target == 0, 1.0, target))
    loss = ops.weigh(log_target_ - x, weight)
    if reduction != "batchmean":
        return _reduce(loss, reduction, "kl_div")
    return loss.sum() / (loss.shape[0] if loss.ndim else 1)


def cosine_embedding_loss(
    x1: Tensor, x2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """1 - cos(x1, x2) where target is 1, max(0, cos(x1, x2) - margin) where it is -1.

    x1, x2: (N, D) or (D,). target: of 1 and -1, (N,) or (). Raises ValueError for other shapes.

    >>> x1, x2 = mg.tensor([[1.0, 0.0], [1.0, 0.0]]), mg.tensor([[0.0, 2.0], [2.0, 0.0]])
    >>> mg.nn.functional.cosine_embedding_loss(x1, x2, mg.tensor([1, -1]), reduction="none")
    tensor([1., 1.])
    """
    name = "cosine_embedding_loss"
    x1, x2, target = to_tensors((x1, x2, target), name)
    if x1.shape != x2.shape or x1.ndim not in (1, 2) or target.shape != x1.shape[:-1]:
        raise ValueError(
            f"{name}: expected two inputs of shape (N, D) or (D,) and a target of shape (N,) or "
            f"(), got {x1.shape}, {x2.shape} and {target.shape}"
        )
    # adds 1e-12 to the squares, as in PyTorch, but without a square that may overflow
    lengths = [ops.hypot(norm(x, axis=-1, keepdims=True), 1e-6) for x in (x1, x2)]
    cosine = ((x1 / lengths[0]) * (x2 / lengths[1])).sum(axis=-1)
    apart = ops.where(target == -1, ops.clip(cosine - margin, min=0.0), 0.0)
    return _reduce(ops.where(target == 1, 1.0 - cosine, apart), reduction, name)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: str = "mean",
) -> Tensor:
    """max(0, d(anchor, positive) - d(anchor, negative) + margin) with the `pairwise_distance` d of
    order p, for inputs of shape (N, D) or (D,). swap=True replaces d(anchor, negative) by the
    smaller of it and d(positive, negative) (Balntas et al. 2016, section 3.3).

    >>> a, b, c = mg.tensor([[0.0, 0.0]]), mg.tensor([[3.0, 4.0]]), mg.tensor([[0.0, 4.0]])
    >>> mg.nn.functional.triplet_margin_loss(a, b, c)
    tensor(2.)
    """
    positive_real(margin, "triplet_margin_loss: margin")
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = ops.minimum(far, pairwise_distance(positive, negative, p, eps))
    return _reduce(ops.clip(near - far + margin, min=0.0), reduction, "triplet_margin_loss")


def margin_ranking_loss(
    x1: Tensor, x2: Tensor, target: Tensor, margin: float = 0.0, reduction: str = "mean"
) -> Tensor:
    """max(0, -target (x1 - x2) + margin): x1 is to lie above x2 by the margin where target is 1,
    below it where target is -1.

    Raises ValueError unless the three have as many axes, whose sizes broadcast.

    >>> x1, x2 = mg.tensor([3.0, 3.0]), mg.tensor([1.0, 1.0])
    >>> mg.nn.functional.margin_ranking_loss(x1, x2, mg.tensor([1, -1]), 0.5, "none")
    tensor([0. , 2.5])
    """
    name = "margin_ranking_loss"
    real(margin, f"{name}: margin")
    x1, x2, target = to_tensors((x1, x2, target), name)
    shapes = x1.shape, x2.shape, target.shape
    if len({len(shape) for shape in shapes}) > 1:
        raise ValueError(f"{name}: expected tensors of as many axes, got shapes {shapes}")
    loss = ops.clip(margin - _as_floats_of(x1, target) * (x1 - x2), min=0.0)
    return _reduce(loss, reduction, name)


def _as_floats_of(x: Tensor, target: Tensor) -> Tensor:
    """Labels and counts in the dtype of x, which they must not widen."""
    return target if target.dtype.kind == "f" else target.astype(x.dtype)


# ------------------------------------------------------------------- distributions and quantiles
def gaussian_nll_loss(
    x: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: str = "mean",
) -> Tensor:
    """(log(var) + (x - target)² / var) / 2, the negative log-likelihood of normal distributions of
    mean x and variance var (Nix & Weigend 1994); with full=True plus log(2π) / 2.

    var: of the shape of x, of that shape without its last axis or with sizes of 1, or a number. One
    below eps counts as eps, but has a gradient, as in PyTorch. Warns where the shapes of x and
    target differ. Raises ValueError for a negative var or another shape.

    >>> x, target, var = mg.tensor([1.0, 3.0]), mg.zeros(2), mg.tensor([1.0, 9.0])
    >>> mg.nn.functional.gaussian_nll_loss(x, target, var, reduction="none")
    tensor([0.5      , 1.5986123])
    """
    name = "gaussian_nll_loss"
    nonnegative_real(eps, f"{name}: eps")
    x, target = _pair(x, target, name)
    _, var = to_tensors((x, var), name)
    if var.ndim and var.shape == x.shape[:-1]:
        var = ops.reshape(var, (*var.shape, 1))
    pairs = zip(var.shape, x.shape, strict=False)
    fits = var.ndim == x.ndim and all(n in (1, m) for n, m in pairs)
    if var.ndim and not fits:
        raise ValueError(
            f"{name}: var has shape {var.shape}; expected {x.shape}, that of the input, "
            f"{x.shape[:-1]}, or sizes of 1 in it"
        )
    if _bounds(var._array)[0] < 0:
        raise ValueError(f"{name}: var must not be negative; of a log-variance take mg.exp")
    var = var + ops.where(var < eps, eps - var, 0.0).detach()
    loss = 0.5 * (ops.log(var) + ops.square(x - _as_floats_of(x, target)) / var)
    return _reduce(loss + 0.5 * math.log(2 * math.pi) if full else loss, reduction, name)


def poisson_nll_loss(
    x: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: str = "mean",
) -> Tensor:
    """exp(x) - t x for counts t, the negative log-likelihood of Poisson distributions of rate
    exp(x), without log(t!); with log_input=False x - t log(x + eps) for rates x.

    full=True adds Stirling's approximation of log(t!), t log(t) - t + log(2πt) / 2, where t is
    above 1. Warns where the shapes differ.

    >>> mg.nn.functional.poisson_nll_loss(mg.zeros(2), mg.tensor([0, 5]), reduction="none")
    tensor([1., 1.])
    """
    name = "poisson_nll_loss"
    nonnegative_real(eps, f"{name}: eps")
    x, target = _pair(x, target, name)
    target = _as_floats_of(x, target)
    rate, log_rate = (ops.exp(x), x) if log_input else (x, ops.log(x + eps))
    loss = rate - ops.weigh(log_rate, target)
    if full:
        t = ops.where(target > 1, target, 1.0)
        stirling = t * ops.log(t) - t + 0.5 * ops.log(2 * math.pi * t)
        loss = loss + ops.where(target > 1, stirling, 0.0)
    return _reduce(loss, reduction, name)


def quantile_loss(
    x: Tensor, target: Tensor, q: float | Sequence[float] = 0.5, reduction: str = "mean"
) -> Tensor:
    """max(q d, (q - 1) d) for d = target - x, which the q-quantile of the targets minimises
    (Koenker & Bassett 1978, section 3), also called pinball loss; half of `l1_loss` for q=0.5.

    q: a level between 0 and 1, for x and target of one shape; or several, each for its place along
    the last axis of x (..., levels), with target (...) or (..., 1). "mean" is over the levels too.
    Where d is 0 the gradient is that of the middle, 1/2 - q. Raises ValueError for other shapes and
    levels.

    >>> x, target = mg.tensor([[1.0, 2.0, 3.0]]), mg.tensor([2.5])
    >>> mg.nn.functional.quantile_loss(x, target, (0.1, 0.5, 0.9), reduction="none")
    tensor([[0.15, 0.25, 0.05]])
    """
    name = "quantile_loss"
    levels = _levels(q, f"{name}: q")
    if isinstance(levels, tuple):
        x, target = to_tensors((x, target), name)
        places = x.shape[:-1]
        if x.shape[-1:] != (len(levels),) or target.shape not in (places, (*places, 1)):
            raise ValueError(
                f"{name}: expected an input of shape (..., {len(levels)}), one value for each "
                f"level, and a target of shape (...), got {x.shape} and {target.shape}"
            )
        target = ops.reshape(target, (*places, 1))
        levels = adopt(np.array(levels, x.dtype if x.dtype.kind == "f" else None))
    else:
        x, target = _equal_shapes(x, target, name)
    distance = _as_floats_of(x, target) - x
    return _reduce(ops.maximum(levels * distance, (levels - 1.0) * distance), reduction, name)


def _levels(value: Any, name: str) -> Any:
    """A probability, or a tuple of several."""
    if not isinstance(value, (tuple, list, np.ndarray)) or np.ndim(value) == 0:
        return probability(value, name)
    if not len(value):
        raise ValueError(f"{name} must hold a level, got {value!r}")
    return tuple(float(probability(level, name)) for level in value)


@memory_checked
def _bounds(x: np.ndarray) -> tuple[float, float]:
    return x.min(initial=math.inf), x.max(initial=-math.inf)


def binary_cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """-(t log(x) + (1 - t) log(1 - x)) for probabilities x. The logarithms are clamped at -100,
    so the loss is finite at 0 and 1, with a gradient of 0 there. weight broadcasts.

    Raises ValueError if the shapes of x and target differ, or x is outside [0, 1].

    >>> mg.nn.functional.binary_cross_entropy(mg.tensor([0.0, 0.0]), mg.tensor([0.0, 1.0]))
    tensor(50.)
    """
    name = "binary_cross_entropy"
    x, target = _equal_shapes(x, target, name)
    low, high = _bounds(x._array)
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"{name}: expected probabilities between 0 and 1, got values from {low} to {high}; "
            "use binary_cross_entropy_with_logits for logits"
        )
    # where is needed inside the logarithm too: log(0) has the gradient inf, and inf * 0 is NaN
    log_x = ops.where(x > 0, ops.clip(ops.log(ops.where(x > 0, x, 1.0)), min=-100.0), -100.0)
    log_rest = ops.where(x < 1, ops.clip(ops.log1p(-ops.where(x < 1, x, 0.0)), min=-100.0), -100.0)
    loss = (target - 1.0) * log_rest - target * log_x
    return _reduce(loss if weight is None else ops.weigh(loss, weight), reduction, name)


def _equal_shapes(x: Tensor, target: Tensor, name: str) -> tuple[Tensor, Tensor]:
    x, target = to_tensors((x, target), name)
    if x.shape != target.shape:
        raise ValueError(
            f"{name}: the target has shape {target.shape}, the input {x.shape}; they must be equal"
        )
    return x, target


def binary_cross_entropy_with_logits(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-(pos_weight t log(s) + (1 - t) log(1 - s)) for s = sigmoid(x), computed from the logits x
    without overflow or cancellation; 0 log(0) is 0. weight (for every element) and pos_weight
    broadcast.

    Raises ValueError if the shapes of x and target differ.

    >>> mg.nn.functional.binary_cross_entropy_with_logits(mg.tensor([1000.0]), mg.tensor([0.0]))
    tensor(1000.)
    """
    name = "binary_cross_entropy_with_logits"
    x, target = _equal_shapes(x, target, name)
    positive_weight = target if pos_weight is None else pos_weight * target
    loss = ops.weigh(ops.softplus(-x), positive_weight) + ops.weigh(ops.softplus(x), 1.0 - target)
    return _reduce(loss if weight is None else ops.weigh(loss, weight), reduction, name)


def nll_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-weight[t] x[t] for log-probabilities x (N, C), (C,) or (N, C, d1, ...) and class indices t.

    target: int32 or int64, of the shape of x without C. Elements equal to ignore_index are ignored.
    "mean" divides by the sum of the weights of the others. Raises IndexError for a class index out
    of range.

    >>> mg.nn.functional.nll_loss(mg.tensor([[-0.5, -1.0]]), mg.tensor([1]))
    tensor(1.)
    """
    x, target = to_tensor(x, "nll_loss"), to_tensor(target, "nll_loss")
    rows, places = _class_rows(x, "nll_loss")

    def losses(log_p: Tensor, labels: np.ndarray) -> Tensor:
        return -ops.reshape(ops.take_along_axis(log_p, labels.reshape(-1, 1)), (-1,))

    return _index_loss("nll_loss", losses, rows, places, target, weight, reduction, ignore_index)


def cross_entropy(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """-sum over classes of weight q log(softmax(x)), for logits x (N, C), (C,) or (N, C, d1, ...).

    target: class indices, int32 or int64 of the shape of x without C, or probabilities q, floats of
        the shape of x.
    label_smoothing: s replaces q by (1 - s) q + s / C (Szegedy et al. 2016, section 7).
    weight: a factor for each class, (C,).
    reduction: "mean" divides by the sum of the weights of the target classes that are not
        ignored, or for probabilities by the number of rows, as in PyTorch.

    Raises IndexError for a class index out of range, ValueError for shapes, TypeError for dtypes.

    >>> mg.nn.functional.cross_entropy(mg.zeros(2, 4), mg.tensor([0, 3]))
    tensor(1.3862944)
    """
    x, target = to_tensor(x, "cross_entropy"), to_tensor(target, "cross_entropy")
    if label_smoothing or type(label_smoothing) is not float:
        probability(label_smoothing, "cross_entropy: label_smoothing")
    rows, places = _class_rows(x, "cross_entropy")
    if target.dtype.kind == "f" and target.shape == x.shape:
        log_p = ops.log_softmax(rows, axis=1)
        q, _ = _class_rows(target, "cross_entropy")
        if label_smoothing:
            q = q * (1.0 - label_smoothing) + label_smoothing / log_p.shape[1]
        if weight is not None:
            q = q * _class_weight(weight, log_p.dtype, log_p.shape[1])
        loss = -ops.weigh(log_p, q).sum(axis=1)
        return _reduce(ops.reshape(loss, places), reduction, "cross_entropy")
    options = target, weight, reduction, ignore_index, label_smoothing
    return _index_loss("cross_entropy", ops.softmax_cross_entropy, rows, places, *options)


def _class_rows(x: Tensor, name: str) -> tuple[Tensor, tuple[int, ...]]:
    """x as rows (n, C), and the shape of the n rows in x."""
    if x.ndim == 2:
        return x, x.shape[:1]
    if x.ndim == 0:
        raise ValueError(
            f"{name}: expected an input of shape (N, C), (C,) or (N, C, d1, ...), got a 0-d tensor"
        )
    if x.ndim > 2:
        x = moveaxis(x, 1, -1)
    return ops.reshape(x, (-1, x.shape[-1]) if x.size else (0, x.shape[-1])), x.shape[:-1]


def _class_weight(weight: Tensor, dtype: Any, classes: int) -> Tensor:
    weight = to_tensor(weight, "cross_entropy")
    if weight.shape != (classes,):
        raise ValueError(
            f"cross_entropy: expected one weight per class, {(classes,)}, got {weight.shape}"
        )
    return weight.astype(dtype)


def _index_loss(
    name: str,
    losses: Callable[[Tensor, np.ndarray], Tensor],
    rows: Tensor,
    batch_shape: tuple[int, ...],
    target: Tensor,
    weight: Tensor | None,
    reduction: str,
    ignore_index: int,
    label_smoothing: float = 0.0,
) -> Tensor:
    """The loss of the rows (n, C) that are not ignored; `losses` maps rows and labels to losses.
    Elements are selected rather than multiplied by a mask, because a class masked out with -inf
    would give -inf * 0."""
    if target.dtype.kind != "i":
        raise TypeError(
            f"{name}: expected class indices, int64 or int32 of shape {batch_shape}, got a target "
            f"of {target.dtype} of shape {target.shape}; convert it: target.astype(mg.int64)"
        )
    if target.shape != batch_shape:
        raise ValueError(f"{name}: expected a target of shape {batch_shape}, got {target.shape}")
    labels = target.astype(np.int64)._array
    if len(batch_shape) != 1:
        labels = labels.reshape(-1)
    size, classes = rows.shape
    count = count_classes(name, labels, classes, ignore_index)
    kept: Any = slice(None)
    chosen = rows
    if count != size:
        kept = (labels != ignore_index).nonzero()[0]
        labels, chosen = labels[kept], rows[kept]
    loss = losses(chosen, labels)
    if weight is None and not label_smoothing and reduction != "none":
        return _reduce(loss, reduction, name)
    total: Tensor | float = float(count)
    if weight is not None:
        weight = _class_weight(weight, loss.dtype, classes)
        counted = ops.getitem(weight, labels)
        loss, total = ops.weigh(loss, counted), counted.sum()
    if label_smoothing:
        log_p = ops.log_softmax(rows, axis=1)
        smoothed = (log_p if weight is None else ops.weigh(log_p, weight)).sum(axis=1)[kept]
        loss = ops.weigh(loss, 1.0 - label_smoothing) - smoothed * (label_smoothing / classes)

    if reduction == "none":
        return ops.reshape(loss if count == size else ops.put(loss, kept, (size,)), batch_shape)
    return loss.sum() / total if reduction == "mean" else _reduce(loss, reduction, name)


# ----------------------------------------------------------------------------------------- Modules
class _Loss(Applied, reduction=_reduction):
    """A Module that applies a loss, whose text follows that of the class."""

    _shown = ()

    def __init_subclass__(cls, function: Callable[..., Any] | None = None, **checks: Check) -> None:
        super().__init_subclass__(function, function, **checks)


class _TargetLoss(_Loss):
    """A loss of one input and a target."""

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """The loss for x and target, shaped as for the function; 0-d unless reduction="none"."""
        return self._function(x, target, *self._values(self))


class _PairLoss(_Loss):
    """A loss of two inputs and a target."""

    def forward(self, x1: Tensor, x2: Tensor, target: Tensor) -> Tensor:
        """The loss for three tensors, shaped as for the function; 0-d unless reduction="none"."""
        return self._function(x1, x2, target, *self._values(self))


@dataclass(eq=False, repr=False)
class MSELoss(_TargetLoss, function=mse_loss):
    """The mean squared error: `functional.mse_loss` as a Module."""

    reduction: str = "mean"


@dataclass(eq=False, repr=False)
class L1Loss(_TargetLoss, function=l1_loss):
    """The mean absolute error: `functional.l1_loss` as a Module."""

    reduction: str = "mean"


@dataclass(eq=False, repr=False)
class SmoothL1Loss(_TargetLoss, function=smooth_l1_loss, beta=nonnegative_real):
    """Squared near 0, absolute beyond beta: `functional.smooth_l1_loss` as a Module."""

    reduction: str = "mean"
    beta: float = 1.0


@dataclass(eq=False, repr=False)
class HuberLoss(_TargetLoss, function=huber_loss, delta=positive_real):
    """Squared near 0, absolute beyond delta: `functional.huber_loss` as a Module."""

    reduction: str = "mean"
    delta: float = 1.0


@dataclass(eq=False, repr=False)
class KLDivLoss(_TargetLoss, function=kl_div, reduction=_kl_reduction):
    """The Kullback-Leibler divergence: `functional.kl_div` as a Module."""

    reduction: str = "mean"
    log_target: bool = False


@dataclass(eq=False, repr=False)
class CosineEmbeddingLoss(_PairLoss, function=cosine_embedding_loss, margin=real):
    """A loss of the angle of two vectors: `functional.cosine_embedding_loss` as a Module."""

    margin: float = 0.0
    reduction: str = "mean"


@dataclass(eq=False, repr=False)
class MarginRankingLoss(_PairLoss, function=margin_ranking_loss, margin=real):
    """A loss of the order of two scores: `functional.margin_ranking_loss` as a Module."""

    margin: float = 0.0
    reduction: str = "mean"


@dataclass(eq=False, repr=False)
class TripletMarginLoss(_Loss, function=triplet_margin_loss, margin=positive_real, p=positive_real):
    """A loss of the distances of an anchor: `functional.triplet_margin_loss` as a Module."""

    margin: float = 1.0
    p: float = 2.0
    eps: float = 1e-6
    swap: bool = False
    reduction: str = "mean"

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Three tensors (N, D) or (D,); the loss, 0-d unless reduction="none"."""
        return self._function(anchor, positive, negative, *self._values(self))


@dataclass(eq=False, repr=False)
class GaussianNLLLoss(_Loss, function=gaussian_nll_loss, full=flag, eps=nonnegative_real):
    """The negative log-likelihood of Gaussians: `functional.gaussian_nll_loss` as a Module."""

    full: bool = False
    eps: float = 1e-6
    reduction: str = "mean"

    def forward(self, x: Tensor, target: Tensor, var: Tensor | float) -> Tensor:
        """Means, targets and variances; 0-d unless reduction="none"."""
        return self._function(x, target, var, *self._values(self))


@dataclass(eq=False, repr=False)
class PoissonNLLLoss(_TargetLoss, function=poisson_nll_loss, full=flag, eps=nonnegative_real):
    """The negative log-likelihood of counts: `functional.poisson_nll_loss` as a Module."""

    log_input: bool = True
    full: bool = False
    eps: float = 1e-8
    reduction: str = "mean"


@dataclass(eq=False, repr=False)
class QuantileLoss(_TargetLoss, function=quantile_loss, q=_levels):
    """The quantile loss of one or more levels: `functional.quantile_loss` as a Module."""

    q: float | Sequence[float] = 0.5
    reduction: str = "mean"


@dataclass(eq=False, repr=False)
class BCELoss(_TargetLoss, function=binary_cross_entropy):
    """Binary cross-entropy of probabilities: `functional.binary_cross_entropy` as a Module.
    `BCEWithLogitsLoss`, applied to the input of the sigmoid, is more accurate."""

    weight: Tensor | None = None
    reduction: str = "mean"


@dataclass(eq=False, repr=False)
class BCEWithLogitsLoss(_TargetLoss, function=binary_cross_entropy_with_logits):
    """Binary cross-entropy of logits: `functional.binary_cross_entropy_with_logits` as a Module."""

    weight: Tensor | None = None
    reduction: str = "mean"
    pos_weight: Tensor | None = None


@dataclass(eq=False, repr=False)
class NLLLoss(_TargetLoss, function=nll_loss):
    """The negative log-likelihood of classes: `functional.nll_loss` as a Module."""

    weight: Tensor | None = None
    ignore_index: int = -100
    reduction: str = "mean"


@dataclass(eq=False, repr=False)
class CrossEntropyLoss(_TargetLoss, function=cross_entropy, label_smoothing=probability):
    """The cross-entropy of softmax: `functional.cross_entropy` as a Module."""

    weight: Tensor | None = None
    ignore_index: int = -100
    reduction: str = "mean"
    label_smoothing: float = 0.0
