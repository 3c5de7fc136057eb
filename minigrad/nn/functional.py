"""The formulas of layers and losses, composed from primitives, so that no gradient is written."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np

from .. import creation
from .._core import ops
from .._core.loops import count_classes
from .._core.ops import (
    abs as absolute,
    getitem,
    log_softmax,
    logsigmoid,
    put,
    reshape,
    sqrt,
    square,
    take_along_axis,
    where,
)
from .._core.tensor import Tensor, move_average, to_tensor
from ..functions import moveaxis, softmax
from .module import number

# ---------------------------------------------------------------------------------------- layers
linear = ops.linear


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | float | None = None,
    bias: Tensor | float | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Batch normalisation (Ioffe & Szegedy 2015, algorithm 1) over all axes of x (N, C, ...) but
    the channels.

    In training, or without running statistics, it normalises by mean and biased variance of x; in
    training the running statistics, if given, move by the fraction `momentum` towards the batch's
    mean and unbiased variance, in place. Otherwise it normalises by the running statistics. These,
    weight and bias have the shape (C,). Nothing is detached, so derivatives of any order are those
    of the formula.

    Raises ValueError for a wrong shape, or one value per channel in training, and then writes
    nothing.

    >>> x = mg.tensor([[1.0], [3.0]])
    >>> mg.nn.functional.batch_norm(x, None, None, eps=0.0)
    tensor([[-1.],
            [ 1.]])
    """
    x = to_tensor(x, "batch_norm")
    shape, ndim = x.shape, x.ndim
    if ndim < 2:
        raise ValueError(f"batch_norm: expected a tensor of shape (N, C, ...), got {shape}")
    given: dict[str, Any] = {
        "running_mean": running_mean,
        "running_var": running_var,
        "weight": weight,
        "bias": bias,
    }
    _check_channels(shape, given)
    axes = (0, *range(2, ndim))
    weight = 1.0 if weight is None else _per_channel(weight, ndim)
    bias = 0.0 if bias is None else _per_channel(bias, ndim)

    if training or running_mean is None or running_var is None:
        count = x.size // max(shape[1], 1)
        if count < 2:
            raise ValueError(
                "batch_norm: the statistics of a batch need more than one value per channel, "
                f"got shape {shape}; use a larger batch, or eval()"
            )
        mean, var = x.mean(axes, keepdims=True), x.var(axes, keepdims=True)
    else:
        mean, var = _per_channel(running_mean, ndim), _per_channel(running_var, ndim)
    y = (x - mean) / sqrt(var + eps) * weight + bias

    # After all that can fail; detached, so that the buffers hold no graph.
    if training and running_mean is not None and running_var is not None:
        # (1 - m) old + m new: old + m (new - old) would lose a small variance beside the first 1.
        move_average(running_mean, mean, 1.0 - momentum, momentum)
        move_average(running_var, var, 1.0 - momentum, momentum * count / (count - 1))
    return y


def _per_channel(parameter: Any, ndim: int) -> Any:
    """(C,) in the shape that broadcasts against (N, C, ...); a number as it is."""
    if ndim == 2 or not isinstance(parameter, Tensor):
        return parameter
    return reshape(parameter, (-1, *(1,) * (ndim - 2)))


def _check_channels(shape: tuple[int, ...], parameters: dict[str, Tensor | None]) -> None:
    for name, parameter in parameters.items():
        if parameter is not None and parameter.shape != shape[1:2]:
            raise ValueError(
                f"batch_norm: {name} has shape {parameter.shape}, but the input {shape} has "
                f"{shape[1]} channels"
            )


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """In training, zero each element with probability p and scale the others by 1 / (1 - p).

    Raises ValueError unless 0 <= p <= 1, TypeError in training for an x that is not of floats.

    >>> mg.nn.functional.dropout(mg.ones(3), p=0.9, training=False)
    tensor([1., 1., 1.])
    """
    check_probability(p)
    x = to_tensor(x, "dropout")
    if not training or p == 0:
        return x
    if x.dtype.kind != "f":
        raise TypeError(
            f"dropout: expected float32 or float64, got {x.dtype}; use x.astype(mg.float32)"
        )
    kept = creation.generator().random(x.shape, np.float32) >= p
    return x * Tensor(np.multiply(kept, 0.0 if p == 1 else 1 / (1 - p), dtype=x.dtype))


def check_probability(p: float) -> None:
    """Raise ValueError unless 0 <= p <= 1, TypeError for what is not a number.

    >>> mg.nn.functional.check_probability(0.5)
    """
    if not 0 <= number(p, "dropout: the probability p") <= 1:
        raise ValueError(f"dropout: the probability p must be between 0 and 1, got {p}")


def embedding(
    indices: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
) -> Tensor:
    """The rows of weight (num_embeddings, embedding_dim) at integer `indices` (...), as a tensor
    (..., embedding_dim). A row that is looked up several times gets the sum of the gradients.

    padding_idx: a row that gets no gradient.
    max_norm: rows that are looked up and whose norm_type-norm is larger are scaled to it first, in
    place, without a gradient.

    Raises TypeError for indices that are not integers, IndexError for a negative one or one without
    a row.

    >>> weight = mg.tensor([[0.0, 1.0], [2.0, 3.0]])
    >>> mg.nn.functional.embedding(mg.tensor([1, 0, 1]), weight)
    tensor([[2., 3.],
            [0., 1.],
            [2., 3.]])
    """
    labels, weight = to_tensor(indices, "embedding")._array, to_tensor(weight, "embedding")
    if labels.dtype.kind != "i":
        raise TypeError(f"embedding: the indices must be integers, got {labels.dtype}")
    if weight.ndim != 2:
        raise ValueError(f"embedding: expected a weight of two dimensions, got {weight.shape}")
    if labels.size and (labels.min() < 0 or labels.max() >= weight.shape[0]):
        worst = labels.min() if labels.min() < 0 else labels.max()
        raise IndexError(f"embedding: index {worst} is out of range for {weight.shape[0]} rows")
    if max_norm is not None:
        used = np.unique(labels)
        rows = weight._array[used]
        norms = np.linalg.norm(rows, norm_type, axis=1, keepdims=True)
        scale = np.where(norms > max_norm, max_norm / (norms + 1e-7), 1.0)
        if (scale < 1).any():
            weight.detach()[used] = (rows * scale).astype(rows.dtype)
    y = getitem(weight, labels)
    if padding_idx is not None:
        padding = labels == padding_idx % max(weight.shape[0], 1)
        if padding.any():
            y = where(Tensor(padding[..., None]), y.detach(), y)
    return y


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """softmax(query keyᵀ scale + mask) value (Vaswani et al. 2017, equation 1).

    query (..., L, E), key (..., S, E), value (..., S, Ev) -> (..., L, Ev); leading dimensions
    broadcast. scale: 1/sqrt(E) by default. attn_mask broadcasts to (..., L, S): bool, True where a
    query may look, or floats that are added. is_causal: query i sees keys 0 to i; not with a mask.
    A query that may look nowhere gives 0. dropout_p is the probability to drop a weight, whatever
    the mode of any module. Raises ValueError for shapes that do not fit.

    >>> x = mg.tensor([[1.0, 0.0], [0.0, 1.0]])
    >>> mg.nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)[0]
    tensor([1., 0.])
    """
    return attention(query, key, value, attn_mask, dropout_p, is_causal, scale)[0]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """As `scaled_dot_product_attention`; also the weights (..., L, S), which multiplied the values.

    >>> x = mg.eye(2)
    >>> mg.nn.functional.attention(x, x, x, scale=0.0)[1]
    tensor([[0.5, 0.5],
            [0.5, 0.5]])
    """
    name = "scaled_dot_product_attention"
    query, key, value = (to_tensor(x, name) for x in (query, key, value))
    shapes = f"query {query.shape}, key {key.shape}, value {value.shape}"
    if min(query.ndim, key.ndim, value.ndim) < 2 or (
        query.shape[-1] != key.shape[-1] or key.shape[-2] != value.shape[-2]
    ):
        raise ValueError(f"{name}: {shapes}: expected (..., L, E), (..., S, E), (..., S, Ev)")
    if is_causal and attn_mask is not None:
        raise ValueError(f"{name}: give is_causal or attn_mask, not both; & makes one mask of two")
    scale = 1 / math.sqrt(max(query.shape[-1], 1)) if scale is None else number(scale, name)
    scores = ops.matmul(query * scale, ops.matrix_transpose(key))
    if is_causal:
        attn_mask = Tensor(np.tri(*scores.shape[-2:], dtype=bool))
    if attn_mask is None:
        weights = softmax(scores)
    else:
        mask = to_tensor(attn_mask, f"{name}: attn_mask")
        try:
            fits = np.broadcast_shapes(mask.shape, scores.shape) == scores.shape
        except ValueError:
            fits = False
        if not fits or mask.dtype.kind not in "bf":
            raise ValueError(
                f"{name}: attn_mask must be of bools or floats and broadcast to {scores.shape}, "
                f"got {mask.dtype} {mask.shape}"
            )
        bias = mask if mask.dtype.kind == "f" else Tensor(np.where(mask._array, 0.0, -np.inf))
        scores = scores + bias.astype(scores.dtype)
        blind = np.all(scores._array == -np.inf, axis=-1, keepdims=True)
        if blind.any() and scores.size:
            weights = where(Tensor(blind), 0.0, softmax(where(Tensor(blind), 0.0, scores)))
        else:
            weights = softmax(scores)
    weights = dropout(weights, dropout_p)
    return ops.matmul(weights, value), weights


def one_hot(target: Tensor, num_classes: int = -1) -> Tensor:
    """Class indices (...) as int64 rows (..., num_classes) with one 1; by default max + 1 classes.

    Raises IndexError for an index that is negative or too large.

    >>> mg.nn.functional.one_hot(mg.tensor([0, 2]))
    tensor([[1, 0, 0],
            [0, 0, 1]])
    """
    target = to_tensor(target, "one_hot")
    labels = target._array
    if labels.dtype.kind != "i":
        raise TypeError(f"one_hot: class indices must be integers, got {labels.dtype}")
    if num_classes == -1:
        if labels.size == 0:
            raise ValueError("one_hot: give num_classes, an empty target does not tell it")
        num_classes = int(labels.max()) + 1
    nothing_ignored = np.iinfo(np.int64).min
    count_classes("one_hot", labels.astype(np.int64).reshape(-1), num_classes, nothing_ignored)
    return Tensor(np.equal(labels[..., None], np.arange(num_classes)).astype(np.int64))


# ---------------------------------------------------------------------------------------- losses
def check_reduction(reduction: str, name: str) -> None:
    """Raise ValueError unless reduction is "none", "mean" or "sum".

    >>> mg.nn.functional.check_reduction("mean", "mse_loss")
    """
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(f"{name}: reduction must be 'none', 'mean' or 'sum', got {reduction!r}")


def check_smoothing(label_smoothing: float) -> None:
    """Raise ValueError unless 0 <= label_smoothing <= 1, TypeError for what is not a number.

    >>> mg.nn.functional.check_smoothing(0.1)
    """
    if not 0 <= number(label_smoothing, "cross_entropy: label_smoothing") <= 1:
        raise ValueError(
            f"cross_entropy: label_smoothing must be between 0 and 1, got {label_smoothing}"
        )


def _reduce(loss: Tensor, reduction: str, name: str) -> Tensor:
    check_reduction(reduction, name)
    if reduction == "none":
        return loss
    return loss.mean() if reduction == "mean" else loss.sum()


def _pair(x: Tensor, target: Tensor, name: str) -> tuple[Tensor, Tensor]:
    x, target = to_tensor(x, name), to_tensor(target, name)
    if x.shape != target.shape:
        warnings.warn(
            f"{name}: the target has shape {target.shape}, the input {x.shape}; broadcasting them "
            "against each other is seldom meant: reshape one of them",
            stacklevel=4,
        )
    return x, target


def mse_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """(x - target)². Warns, as PyTorch does, where the shapes differ.

    >>> mg.nn.functional.mse_loss(mg.tensor([1.0, 2.0]), mg.tensor([1.0, 4.0]))
    tensor(2.)
    """
    x, target = _pair(x, target, "mse_loss")
    return _reduce(square(x - target), reduction, "mse_loss")


def l1_loss(x: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
    """|x - target|. Warns, as PyTorch does, where the shapes differ.

    >>> mg.nn.functional.l1_loss(mg.tensor([1.0, 2.0]), mg.tensor([1.0, 4.0]))
    tensor(1.)
    """
    x, target = _pair(x, target, "l1_loss")
    return _reduce(absolute(x - target), reduction, "l1_loss")


def binary_cross_entropy_with_logits(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """-(pos_weight t log(s) + (1 - t) log(1 - s)) for s = sigmoid(x), written with log(1 - s) =
    log(s) - x, so that it overflows nowhere. weight (for every element) and pos_weight broadcast.

    Raises ValueError if the shapes of x and target differ.

    >>> mg.nn.functional.binary_cross_entropy_with_logits(mg.tensor([1000.0]), mg.tensor([0.0]))
    tensor(1000.)
    """
    name = "binary_cross_entropy_with_logits"
    x, target = to_tensor(x, name), to_tensor(target, name)
    if x.shape != target.shape:
        raise ValueError(
            f"{name}: the target has shape {target.shape}, the input {x.shape}; they must be equal"
        )
    log_s = logsigmoid(x)
    if pos_weight is not None:
        log_s = log_s * (1.0 + (pos_weight - 1.0) * target)
    loss = (1.0 - target) * x - log_s
    return _reduce(loss if weight is None else loss * weight, reduction, name)


def nll_loss(
    x: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
) -> Tensor:
    """-weight[t] x[t] for log-probabilities x (N, C), (C,) or (N, C, d1, ...) and class indices t.

    target: int32 or int64, of the shape of x without C. Elements equal to ignore_index count
    nothing. "mean" divides by the sum of the weights that counted. Raises IndexError for a class
    that x does not have.

    >>> mg.nn.functional.nll_loss(mg.tensor([[-0.5, -1.0]]), mg.tensor([1]))
    tensor(1.)
    """
    x, target = to_tensor(x, "nll_loss"), to_tensor(target, "nll_loss")
    rows, batch_shape = _class_rows(x, "nll_loss")
    return _index_loss("nll_loss", rows, batch_shape, target, weight, ignore_index, reduction, 0.0)


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
        ignore_index, or for probabilities by the number of rows, as in PyTorch.

    Raises IndexError for a class that x does not have, ValueError for shapes, TypeError for dtypes.

    >>> mg.nn.functional.cross_entropy(mg.zeros(2, 4), mg.tensor([0, 3]))
    tensor(1.3862944)
    """
    x, target = to_tensor(x, "cross_entropy"), to_tensor(target, "cross_entropy")
    check_smoothing(label_smoothing)
    rows, batch_shape = _class_rows(x, "cross_entropy")
    log_p = log_softmax(rows, axis=1)
    if target.dtype.kind == "f" and target.shape == x.shape:
        q, _ = _class_rows(target, "cross_entropy")
        return _probability_loss(log_p, batch_shape, q, weight, reduction, label_smoothing)
    return _index_loss(
        "cross_entropy",
        log_p,
        batch_shape,
        target,
        weight,
        ignore_index,
        reduction,
        label_smoothing,
    )


def _class_rows(x: Tensor, name: str) -> tuple[Tensor, tuple[int, ...]]:
    """x as rows (n, C), and the shape that the n have in x."""
    if x.ndim == 2:
        return x, x.shape[:1]
    if x.ndim == 0:
        raise ValueError(
            f"{name}: expected an input of shape (N, C), (C,) or (N, C, d1, ...), got a 0-d tensor"
        )
    if x.ndim > 2:
        x = moveaxis(x, 1, -1)
    return reshape(x, (-1, x.shape[-1]) if x.size else (0, x.shape[-1])), x.shape[:-1]


def _class_weight(weight: Tensor, log_p: Tensor) -> Tensor:
    weight = to_tensor(weight, "cross_entropy")
    if weight.shape != log_p.shape[1:]:
        raise ValueError(
            f"cross_entropy: expected one weight per class, {log_p.shape[1:]}, got {weight.shape}"
        )
    return weight.detach().astype(log_p.dtype)


def _index_loss(
    name: str,
    log_p: Tensor,
    batch_shape: tuple[int, ...],
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    """The loss of the rows log_p (n, C) that are not ignored. Elements are picked rather than
    multiplied by a mask, since a class that is masked out with -inf would give -inf * 0."""
    check_reduction(reduction, name)
    if target.dtype.kind != "i":
        raise TypeError(
            f"{name}: expected class indices, int64 or int32 of shape {batch_shape}, got a target "
            f"of {target.dtype} of shape {target.shape}; convert it: target.astype(mg.int64)"
        )
    if target.shape != batch_shape:
        raise ValueError(f"{name}: expected a target of shape {batch_shape}, got {target.shape}")
    labels = target.astype(np.int64)._array.reshape(-1)
    rows, classes = log_p.shape
    count = count_classes(name, labels, classes, ignore_index)
    kept = slice(None) if count == rows else (labels != ignore_index).nonzero()[0]
    labels = labels[kept]

    picked = take_along_axis(log_p[kept] if count < rows else log_p, labels[:, None])
    if weight is None and not label_smoothing and reduction != "none":
        return picked.sum() / (-count if reduction == "mean" else -1)
    loss = -reshape(picked, (-1,))
    total: Tensor | float = float(count)
    spread = log_p
    if weight is not None:
        weight = _class_weight(weight, log_p)
        counted = getitem(weight, labels)
        loss, total, spread = loss * counted, counted.sum(), log_p * weight
    if label_smoothing:
        smoothed = spread.sum(axis=1)[kept]
        loss = loss * (1.0 - label_smoothing) - smoothed * (label_smoothing / classes)

    if reduction == "none":
        return reshape(loss if count == rows else put(loss, kept, (rows,)), batch_shape)
    return loss.sum() / total if reduction == "mean" else loss.sum()


def _probability_loss(
    log_p: Tensor,
    batch_shape: tuple[int, ...],
    q: Tensor,
    weight: Tensor | None,
    reduction: str,
    label_smoothing: float,
) -> Tensor:
    if label_smoothing:
        q = q * (1.0 - label_smoothing) + label_smoothing / log_p.shape[1]
    if weight is not None:
        q = q * _class_weight(weight, log_p)
    loss = -(log_p * q).sum(axis=1)
    return _reduce(reshape(loss, batch_shape), reduction, "cross_entropy")
