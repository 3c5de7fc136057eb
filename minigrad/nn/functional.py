"""The formulas of layers and losses, composed from primitives; no gradient is written here."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import creation
from .._core import ops
from .._core.engine.graph import Tensor, adopt, move_statistics, to_tensor, to_tensors
from .._core.fast.fusion import fused
from .._core.fast.loops import count_classes, memory_checked
from .._core.ops import (
    abs as absolute,
    broadcast_to,
    clip,
    exp,
    getitem,
    hypot,
    linear,
    log,
    log1p,
    logsigmoid as logsigmoid,
    minimum,
    put,
    reshape,
    sigmoid as sigmoid,
    softplus as softplus_,
    sqrt,
    square,
    take_along_axis,
    tanh as tanh,
    weigh,
    where,
)
from ..checks import choice, integer, nonnegative_real, positive, positive_real, probability, real
from ..functions import moveaxis, norm
from .activation import (
    celu as celu,
    elu as elu,
    gelu as gelu,
    glu as glu,
    hardshrink as hardshrink,
    hardsigmoid as hardsigmoid,
    hardswish as hardswish,
    hardtanh as hardtanh,
    leaky_relu as leaky_relu,
    log_softmax as log_softmax,
    mish as mish,
    prelu as prelu,
    relu as relu,
    relu6 as relu6,
    selu as selu,
    silu as silu,
    softmax as softmax,
    softmin as softmin,
    softplus as softplus,
    softshrink as softshrink,
    softsign as softsign,
    tanhshrink as tanhshrink,
    threshold as threshold,
)
from .conv import conv1d, conv2d, conv_transpose1d, conv_transpose2d, pad
from .pooling import (
    adaptive_avg_pool1d as adaptive_avg_pool1d,
    adaptive_avg_pool2d as adaptive_avg_pool2d,
    adaptive_max_pool2d as adaptive_max_pool2d,
    avg_pool1d as avg_pool1d,
    avg_pool2d as avg_pool2d,
    interpolate as interpolate,
    max_pool1d as max_pool1d,
    max_pool2d as max_pool2d,
)

__all__ = [
    "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_max_pool2d", "avg_pool1d", "avg_pool2d",
    "batch_norm", "binary_cross_entropy", "binary_cross_entropy_with_logits", "celu", "conv1d",
    "conv2d", "conv_transpose1d", "conv_transpose2d", "cosine_embedding_loss", "cosine_similarity",
    "cross_entropy", "dropout", "dropout2d", "elu", "embedding", "gelu", "glu", "group_norm",
    "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "huber_loss", "instance_norm",
    "interpolate", "kl_div", "l1_loss", "layer_norm", "leaky_relu", "linear", "log_softmax",
    "logsigmoid", "max_pool1d", "max_pool2d", "mish", "mse_loss", "nll_loss", "normalize",
    "one_hot", "pad", "pairwise_distance", "prelu", "relu", "relu6", "rms_norm",
    "scaled_dot_product_attention", "selu", "sigmoid", "silu", "smooth_l1_loss", "softmax",
    "softmin", "softplus", "softshrink", "softsign", "tanh", "tanhshrink", "threshold",
    "triplet_margin_loss",
]  # fmt: skip
__dir__ = __all__.copy


# ---------------------------------------------------------------------------------------- layers
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

    An empty x comes back, and the running statistics stay. Raises ValueError for a wrong shape, one
    of the statistics without the other, and in training for one value per channel or statistics in
    read-only memory, TypeError for statistics that are not floats, RuntimeError for those that
    require grad, and then writes nothing.

    >>> x = mg.tensor([[1.0], [3.0]])
    >>> mg.nn.functional.batch_norm(x, None, None, eps=0.0)
    tensor([[-1.],
            [ 1.]])
    """
    if not isinstance(x, Tensor):
        x = to_tensor(x, "batch_norm")
    shape, ndim = x.shape, x.ndim
    if ndim < 2:
        raise ValueError(f"batch_norm: expected a tensor of shape (N, C, ...), got {shape}")
    channels, axes = shape[1:2], (0,)
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm: give running_mean and running_var, or neither")
    operands: tuple[Any, ...] = running_mean, running_var, weight, bias
    for operand in operands:
        if operand is not None and (given := getattr(operand, "shape", ())) != channels:
            names = ("running_mean", "running_var", "weight", "bias")
            name = next(n for n, other in zip(names, operands, strict=True) if other is operand)
            raise ValueError(
                f"batch_norm: {name} has shape {given}, but the input {shape} has "
                f"{shape[1]} channels"
            )
    weight = 1.0 if weight is None else weight
    bias = 0.0 if bias is None else bias
    if ndim > 2:
        axes = (0, *range(2, ndim))
        weight, bias = _per_channel(weight, ndim), _per_channel(bias, ndim)
    size = x.size
    if size == 0:  # no statistics; weight and bias have gradients of 0
        return x * weight + bias

    if training or running_mean is None or running_var is None:
        count = size // max(shape[1], 1)
        if count < 2:
            raise ValueError(
                "batch_norm: the statistics of a batch need more than one value per channel, "
                f"got shape {shape}; use a larger batch, or eval()"
            )
        y, mean, var = centre_and_scale(x, weight, bias, axes, eps)
    else:
        mean, var = _per_channel(running_mean, ndim), _per_channel(running_var, ndim)
        y = (x - mean) * (weight / sqrt(var + eps)) + bias

    # After all that can fail. The statistics have no graph, so the buffers hold none.
    if training and running_mean is not None and running_var is not None:
        correction = count / (count - 1)
        move_statistics("batch_norm", running_mean, running_var, mean, var, momentum, correction)
    return y


@fused
def centre_and_scale(
    x: Tensor, weight: Tensor | float, bias: Tensor | float, axes: tuple[int, ...], eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """x with mean 0 and variance 1 over the axes, times weight, plus bias; and mean and variance.

    The formula of all layers that normalise by the statistics of their input. Weight and bias
    broadcast against x. Mean and variance are returned as values, without a graph.

    >>> y, mean, var = mg.nn.functional.centre_and_scale(mg.tensor([1.0, 3.0]), 2, 1, (0,), 0.0)
    >>> y.tolist(), mean.tolist(), var.tolist()
    ([-1.0, 3.0], [2.0], [1.0])
    """
    mean = x.mean(axes, keepdims=True)
    centred = x - mean
    var = centred.var(axes, keepdims=True)
    y = centred * (weight / sqrt(var + eps)) + bias
    return y, mean.detach(), var.detach()


def _or_neutral(weight: Any, bias: Any) -> tuple[Any, Any]:
    """Both, and 1 and 0 where there is none."""
    return 1.0 if weight is None else weight, 0.0 if bias is None else bias


def _per_channel(parameter: Any, ndim: int) -> Any:
    """(C,) in the shape that broadcasts against (N, C, ...); a number as it is."""
    if ndim == 2 or not isinstance(parameter, Tensor):
        return parameter
    return reshape(parameter, (-1, *(1,) * (ndim - 2)))


def standardise(
    x: Tensor,
    mean: Tensor | None,
    var: Tensor,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, all broadcast; what is None is left out.

    >>> x, mean, var = mg.tensor([1.0, 5.0]), mg.tensor(3.0), mg.tensor(4.0)
    >>> mg.nn.functional.standardise(x, mean, var, eps=0.0)
    tensor([-1.,  1.])
    """
    y = (x if mean is None else x - mean) / sqrt(var + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _columns(name: str, x: Tensor, split: tuple[int, ...], **operands: Tensor | None) -> list[Any]:
    """Operands of shape (C,) as `split`, which broadcasts against x with its channels on axis 1."""
    for parameter, operand in operands.items():
        if operand is not None and (given := getattr(operand, "shape", ())) != x.shape[1:2]:
            raise ValueError(
                f"{name}: {parameter} has shape {given}, but the input {x.shape} has "
                f"{x.shape[1]} channels"
            )
    return [None if operand is None else reshape(operand, split) for operand in operands.values()]


def _trailing(
    x: Tensor, normalized_shape: int | Sequence[int], name: str, **operands: Any
) -> tuple[int, ...]:
    """The last axes of x, which must have the sizes normalized_shape, as must the operands."""
    sizes = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else normalized_shape
    sizes = sizes if isinstance(sizes, tuple) else (sizes,)
    if not sizes or x.shape[-len(sizes) :] != sizes:
        raise ValueError(
            f"{name}: expected an input of shape (*, {', '.join(map(str, sizes))}), got {x.shape}"
        )
    for parameter, operand in operands.items():
        if operand is not None and (given := getattr(operand, "shape", ())) != sizes:
            raise ValueError(
                f"{name}: {parameter} has shape {given}, but normalized_shape is {sizes}"
            )
    return tuple(range(x.ndim - len(sizes), x.ndim))


def layer_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise x over its last axes, of sizes normalized_shape (Ba et al. 2016, equation 4), with
    the biased variance; weight and bias, if given, have that shape.

    Raises ValueError for shapes that do not agree.

    >>> mg.nn.functional.layer_norm(mg.tensor([[1.0, 5.0], [2.0, 2.0]]), 2, eps=0.01).shape
    (2, 2)
    """
    x = to_tensor(x, "layer_norm")
    axes = _trailing(x, normalized_shape, "layer_norm", weight=weight, bias=bias)
    return centre_and_scale(x, *_or_neutral(weight, bias), axes, eps)[0]


def rms_norm(
    x: Tensor,
    normalized_shape: int | Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last axes, of sizes normalized_shape (Zhang &
    Sennrich 2019, equation 4). eps=None is the machine epsilon of x's dtype.

    >>> mg.nn.functional.rms_norm(mg.tensor([3.0, 4.0, 0.0, 0.0]), 4, eps=0.0)
    tensor([1.2, 1.6, 0. , 0. ])
    """
    x = to_tensor(x, "rms_norm")
    x = x if x.dtype.kind == "f" else x.astype(np.float64)
    axes = _trailing(x, normalized_shape, "rms_norm", weight=weight)
    if eps is None:
        eps = float(np.finfo(x.dtype).eps)
    return standardise(x, None, square(x).mean(axes, keepdims=True), eps, weight)


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each sample of x (N, C, ...) over groups of C / num_groups successive channels
    (Wu & He 2018, equations 1-3, 7); weight and bias have the shape (C,).

    Raises ValueError if num_groups does not divide the channels, or for other shapes.

    >>> mg.nn.functional.group_norm(mg.randn(2, 6, 4), num_groups=3).shape
    (2, 6, 4)
    """
    x = to_tensor(x, "group_norm")
    if x.ndim < 2:
        raise ValueError(f"group_norm: expected a tensor of shape (N, C, ...), got {x.shape}")
    batch, channels = x.shape[:2]
    num_groups = positive(num_groups, "group_norm: num_groups")
    if channels % num_groups:
        raise ValueError(
            f"group_norm: {channels} channels cannot be split into {num_groups} groups"
        )
    around = (1,) * (x.ndim - 2)
    members = channels // num_groups
    columns = _columns("group_norm", x, (num_groups, members, *around), weight=weight, bias=bias)
    rows = reshape(x, (batch, num_groups, members, *x.shape[2:]))
    axes = tuple(range(2, rows.ndim))
    return reshape(centre_and_scale(rows, *_or_neutral(*columns), axes, eps)[0], x.shape)


def instance_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel of each sample of x (N, C, ...) over its own elements (Ulyanov et al.
    2016, equation 5), or with use_input_stats=False by the running statistics, of shape (C,).

    The running statistics, if given, move by the fraction `momentum` towards the averages over the
    batch of the samples' means and unbiased variances, in place.

    Raises ValueError for one element per channel or shapes that do not agree, for running
    statistics errors as `batch_norm`, and then writes nothing.

    >>> x = mg.tensor([[[1.0, 3.0], [10.0, 30.0]]])
    >>> mg.nn.functional.instance_norm(x, eps=0.0).tolist()
    [[[-1.0, 1.0], [-1.0, 1.0]]]
    """
    x = to_tensor(x, "instance_norm")
    if x.ndim < 3:
        raise ValueError(f"instance_norm: expected a tensor of shape (N, C, L, ...), got {x.shape}")
    if (running_mean is None) != (running_var is None):
        raise ValueError("instance_norm: give running_mean and running_var, or neither")
    own = {"running_mean": running_mean, "running_var": running_var, "weight": weight, "bias": bias}
    mean, var, weight, bias = _columns("instance_norm", x, (-1, *(1,) * (x.ndim - 2)), **own)
    if not use_input_stats:
        if mean is None or var is None:
            raise ValueError("instance_norm: use_input_stats=False needs running statistics")
        return standardise(x, mean, var, eps, weight, bias)
    axes = tuple(range(2, x.ndim))
    count = x.size // max(x.shape[0] * x.shape[1], 1)
    if count < 2 and x.size:
        raise ValueError(
            "instance_norm: the statistics of a sample need more than one element per channel, got "
            f"an input of shape {x.shape}; use a larger input, or running statistics"
        )
    y, mean, var = centre_and_scale(x, *_or_neutral(weight, bias), axes, eps)
    if running_mean is not None and running_var is not None and x.size:
        every = (0, *axes)
        means, variances, correction = mean.mean(every), var.mean(every), count / (count - 1)
        move_statistics(
            "instance_norm", running_mean, running_var, means, variances, momentum, correction
        )
    return y


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """In training, zero each element with probability p and scale the others by 1 / (1 - p).

    Raises ValueError unless 0 <= p <= 1, TypeError in training for an x that is not of floats.

    >>> mg.nn.functional.dropout(mg.ones(3), p=0.9, training=False)
    tensor([1., 1., 1.])
    """
    x = to_tensor(x, "dropout")
    return _dropped(x, x.shape, p, training, "dropout")


def dropout2d(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
    """As `dropout`, but zeroes whole channels of x (N, C, H, W) or (N, C, L) (Tompson et al. 2015).

    >>> mg.nn.functional.dropout2d(mg.ones(1, 2, 3, 3), p=0.9, training=False).shape
    (1, 2, 3, 3)
    """
    x = to_tensor(x, "dropout2d")
    if x.ndim not in (3, 4):
        raise ValueError(f"dropout2d: expected (N, C, H, W) or (N, C, L), got {x.shape}")
    return _dropped(x, (*x.shape[:2], *(1,) * (x.ndim - 2)), p, training, "dropout2d")


@memory_checked
def _dropped(x: Tensor, shape: tuple[int, ...], p: float, training: bool, name: str) -> Tensor:
    """x times a random mask of a shape that broadcasts against it."""
    probability(p, "dropout: the probability p")
    if not training or p == 0:
        return x
    if x.dtype.kind != "f":
        raise TypeError(
            f"{name}: expected float32 or float64, got {x.dtype}; use x.astype(mg.float32)"
        )
    kept = creation.generator().random(shape, np.float32) >= p
    return x * adopt(np.multiply(kept, 0.0 if p == 1 else 1 / (1 - p), dtype=x.dtype))


@memory_checked
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
        norms = np.linalg.norm(rows.astype(np.float64), norm_type, axis=1, keepdims=True)
        scale = np.where(norms > max_norm, max_norm / (norms + 1e-7), 1.0)
        if (scale < 1).any():
            weight.detach()[used] = (rows * scale).astype(rows.dtype)
    y = getitem(weight, labels)
    if padding_idx is not None:
        padding = labels == padding_idx % max(weight.shape[0], 1)
        if padding.any():
            y = where(adopt(padding[..., None]), y.detach(), y)
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


@memory_checked
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
    if scale is None:
        scale = 1 / math.sqrt(max(query.shape[-1], 1))
    scores = ops.matmul(query * real(scale, f"{name}: scale"), ops.matrix_transpose(key))
    if is_causal:
        attn_mask = adopt(np.tri(*scores.shape[-2:], dtype=bool))
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
        bias = mask if mask.dtype.kind == "f" else adopt(np.where(mask._array, 0.0, -np.inf))
        scores = scores + bias.astype(scores.dtype)
        blind = (scores._array == -np.inf).all(axis=-1, keepdims=True)
        if blind.any() and scores.size:
            idle = adopt(blind)
            weights = where(idle, 0.0, softmax(where(idle, 0.0, scores)))
        else:
            weights = softmax(scores)
    weights = dropout(weights, dropout_p)
    return ops.matmul(weights, value), weights


@memory_checked
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
    num_classes = integer(num_classes, "one_hot: num_classes")
    nothing_ignored = np.iinfo(np.int64).min
    count_classes("one_hot", labels.astype(np.int64).reshape(-1), num_classes, nothing_ignored)
    return adopt(np.equal(labels[..., None], np.arange(num_classes)).astype(np.int64))


# -------------------------------------------------------------------------------------- distances
def normalize(x: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12) -> Tensor:
    """x / max(|x|_p, eps) with the norm of order p along `dim`.

    >>> mg.nn.functional.normalize(mg.tensor([[3.0, 4.0]]))
    tensor([[0.6, 0.8]])
    """
    return x / clip(norm(x, axis=dim, keepdims=True, ord=p), min=eps)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """x1 · x2 / (max(|x1|, eps) max(|x2|, eps)) along `dim`, which goes, of inputs
    that broadcast first.

    >>> x = mg.tensor([[3.0, 4.0]])
    >>> mg.nn.functional.cosine_similarity(x, mg.tensor([[4.0, 3.0]])).numpy().round(2)
    array([0.96], dtype=float32)
    """
    x1, x2 = to_tensors((x1, x2), "cosine_similarity")
    try:
        shape = np.broadcast_shapes(x1.shape, x2.shape)
    except ValueError:
        raise ValueError(
            f"cosine_similarity: shapes {x1.shape} and {x2.shape} do not broadcast"
        ) from None
    x1, x2 = broadcast_to(x1, shape), broadcast_to(x2, shape)
    return (normalize(x1, 2.0, dim, eps) * normalize(x2, 2.0, dim, eps)).sum(axis=dim)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """|x1 - x2 + eps|_p along the last dimension; the others broadcast.

    >>> x1, x2 = mg.tensor([[3.0, 0.0]]), mg.tensor([[0.0, 4.0]])
    >>> mg.nn.functional.pairwise_distance(x1, x2)
    tensor([5.])
    """
    return norm(x1 - x2 + eps, axis=-1, keepdims=keepdim, ord=p)


# ---------------------------------------------------------------------------------------- losses
def _reduce(loss: Tensor, reduction: str, name: str) -> Tensor:
    if reduction == "mean":
        return loss.mean()
    if reduction == "sum":
        return loss.sum()
    choice(reduction, f"{name}: reduction", "none", "mean", "sum")
    return loss


def _pair(x: Tensor, target: Tensor, name: str) -> tuple[Tensor, Tensor]:
    x, target = to_tensors((x, target), name)
    if x.shape != target.shape:
        warnings.warn(
            f"{name}: the target has shape {target.shape}, the input {x.shape}; broadcasting them "
            "against each other is seldom meant: reshape one of them",
            stacklevel=4,
        )
    if x.dtype.kind != "f" and target.dtype.kind != "f":  # their squares could overflow
        return x.astype(np.float64), target.astype(np.float64)
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


def smooth_l1_loss(x: Tensor, target: Tensor, reduction: str = "mean", beta: float = 1.0) -> Tensor:
    """d² / (2 beta) where |d| < beta, |d| - beta / 2 elsewhere, for d = x - target (Girshick 2015,
    equation 3). beta=0 is `l1_loss`. Warns where the shapes differ, ValueError for beta < 0.

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
    Warns where the shapes differ, ValueError unless delta > 0.

    >>> mg.nn.functional.huber_loss(mg.tensor([1.0, 3.0]), mg.zeros(2), "none", delta=2.0)
    tensor([0.5, 4. ])
    """
    positive_real(delta, "huber_loss: delta")
    x, target = _pair(x, target, "huber_loss")
    return _reduce(_huber(x - target, delta), reduction, "huber_loss")


def _huber(difference: Tensor, delta: float, divisor: float = 1.0) -> Tensor:
    """With c = clip(d, -delta, delta) both branches are c (d - c / 2), without |d|, whose kink at 0
    would hide the curvature from the second derivative. c is divided first, since the product may
    underflow."""
    limited = clip(difference, -delta, delta)
    rest = difference - 0.5 * limited
    return (limited if divisor == 1 else limited / divisor) * rest


def kl_div(x: Tensor, target: Tensor, reduction: str = "mean", log_target: bool = False) -> Tensor:
    """t (log t - x) for log-probabilities x and probabilities t, or with log_target=True their
    logarithms; where t is 0, so is the loss, and where it is negative, NaN. "batchmean" divides the
    sum by the size of the first axis, and is the Kullback-Leibler divergence; "mean" divides by the
    number of elements.

    >>> p = mg.tensor([[0.5, 0.5]])
    >>> mg.nn.functional.kl_div(mg.log(mg.tensor([[0.25, 0.75]])), p, "batchmean")
    tensor(0.14384103)
    """
    choice(reduction, "kl_div: reduction", "none", "batchmean", "mean", "sum")
    x, target = _pair(x, target, "kl_div")
    if log_target:
        weight, log_target_ = exp(target), where(target == -math.inf, 0.0, target)
    else:
        weight, log_target_ = target, log(where(target == 0, 1.0, target))
    loss = weigh(log_target_ - x, weight)
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
    # 1e-12 is added to the squares, as in PyTorch, but nothing is squared that may overflow
    lengths = [hypot(norm(x, axis=-1, keepdims=True), 1e-6) for x in (x1, x2)]
    cosine = ((x1 / lengths[0]) * (x2 / lengths[1])).sum(axis=-1)
    apart = where(target == -1, clip(cosine - margin, min=0.0), 0.0)
    return _reduce(where(target == 1, 1.0 - cosine, apart), reduction, name)


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
    order p, for inputs of shape (N, D) or (D,). swap=True takes the nearer of d(anchor, negative)
    and d(positive, negative) (Balntas et al. 2016, section 3.3).

    >>> a, b, c = mg.tensor([[0.0, 0.0]]), mg.tensor([[3.0, 4.0]]), mg.tensor([[0.0, 4.0]])
    >>> mg.nn.functional.triplet_margin_loss(a, b, c)
    tensor(2.)
    """
    positive_real(margin, "triplet_margin_loss: margin")
    near = pairwise_distance(anchor, positive, p, eps)
    far = pairwise_distance(anchor, negative, p, eps)
    if swap:
        far = minimum(far, pairwise_distance(positive, negative, p, eps))
    return _reduce(clip(near - far + margin, min=0.0), reduction, "triplet_margin_loss")


@memory_checked
def _bounds(x: np.ndarray) -> tuple[float, float]:
    return x.min(initial=math.inf), x.max(initial=-math.inf)


def binary_cross_entropy(
    x: Tensor, target: Tensor, weight: Tensor | None = None, reduction: str = "mean"
) -> Tensor:
    """-(t log(x) + (1 - t) log(1 - x)) for probabilities x. The logarithms are held at -100, so
    that the loss is finite at 0 and 1; there they have the gradient 0. weight broadcasts.

    Raises ValueError if the shapes of x and target differ, or x lies outside [0, 1].

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
    # where stands inside the logarithm too: the gradient of log(0) is inf, and inf * 0 is NaN
    log_x = where(x > 0, clip(log(where(x > 0, x, 1.0)), min=-100.0), -100.0)
    log_rest = where(x < 1, clip(log1p(-where(x < 1, x, 0.0)), min=-100.0), -100.0)
    loss = (target - 1.0) * log_rest - target * log_x
    return _reduce(loss if weight is None else weigh(loss, weight), reduction, name)


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
    """-(pos_weight t log(s) + (1 - t) log(1 - s)) for s = sigmoid(x), from the logits x, so that
    nothing overflows or cancels; 0 log(0) is 0. weight (for every element) and pos_weight
    broadcast.

    Raises ValueError if the shapes of x and target differ.

    >>> mg.nn.functional.binary_cross_entropy_with_logits(mg.tensor([1000.0]), mg.tensor([0.0]))
    tensor(1000.)
    """
    name = "binary_cross_entropy_with_logits"
    x, target = _equal_shapes(x, target, name)
    positive_weight = target if pos_weight is None else pos_weight * target
    loss = weigh(softplus_(-x), positive_weight) + weigh(softplus_(x), 1.0 - target)
    return _reduce(loss if weight is None else weigh(loss, weight), reduction, name)


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

    def losses(log_p: Tensor, labels: np.ndarray) -> Tensor:
        return -reshape(take_along_axis(log_p, labels.reshape(-1, 1)), (-1,))

    return _index_loss(
        "nll_loss", losses, rows, batch_shape, target, weight, reduction, ignore_index
    )


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
        loss = -weigh(log_p, q).sum(axis=1)
        return _reduce(reshape(loss, places), reduction, "cross_entropy")
    options = target, weight, reduction, ignore_index, label_smoothing
    return _index_loss("cross_entropy", ops.softmax_cross_entropy, rows, places, *options)


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
    """The loss of the rows (n, C) that are not ignored, where `losses` takes rows and their labels.
    Elements are picked rather than multiplied by a mask, since a class that is masked out with -inf
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
        counted = getitem(weight, labels)
        loss, total = weigh(loss, counted), counted.sum()
    if label_smoothing:
        log_p = ops.log_softmax(rows, axis=1)
        smoothed = (log_p if weight is None else weigh(log_p, weight)).sum(axis=1)[kept]
        loss = weigh(loss, 1.0 - label_smoothing) - smoothed * (label_smoothing / classes)

    if reduction == "none":
        return reshape(loss if count == size else put(loss, kept, (size,)), batch_shape)
    return loss.sum() / total if reduction == "mean" else _reduce(loss, reduction, name)
