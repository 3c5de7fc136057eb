"""The formulas of layers, composed from primitives, so none of them needs a gradient rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import functions
from .._core import formulas, ops
from .._core.engine.graph import Tensor, adopt, move_statistics, to_tensor, to_tensors
from .._core.fast.derived import derived
from .._core.fast.loops import count_classes, memory_checked
from .._core.ops import linear as linear, logsigmoid as logsigmoid, sigmoid as sigmoid, tanh as tanh
from ..checks import (
    choice,
    integer,
    nonnegative_real,
    positive,
    positive_real,
    probability,
    real,
    wrong_shape,
)
from ..rng import Generator, generator as numpy_generator
from ..types import Shape
from .conv import conv1d, conv2d, conv_transpose1d, conv_transpose2d, pad
from .loss import (
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cosine_embedding_loss,
    cosine_similarity,
    cross_entropy,
    gaussian_nll_loss,
    huber_loss,
    kl_div,
    l1_loss,
    margin_ranking_loss,
    mse_loss,
    nll_loss,
    normalize,
    pairwise_distance,
    poisson_nll_loss,
    quantile_loss,
    smooth_l1_loss,
    triplet_margin_loss,
)
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
    "cross_entropy", "dropout", "dropout2d", "elu", "embedding", "gaussian_nll_loss", "gelu", "glu",
    "group_norm", "hardshrink", "hardsigmoid", "hardswish", "hardtanh", "huber_loss",
    "instance_norm", "interpolate", "kl_div", "l1_loss", "layer_norm", "leaky_relu", "linear",
    "log_softmax", "logsigmoid", "margin_ranking_loss", "max_pool1d", "max_pool2d", "mish",
    "mse_loss", "nll_loss", "normalize", "one_hot", "pad", "pairwise_distance", "poisson_nll_loss",
    "prelu", "quantile_loss", "relu", "relu6", "rms_norm", "scaled_dot_product_attention", "selu",
    "sigmoid", "silu", "smooth_l1_loss", "softmax", "softmin", "softplus", "softshrink", "softsign",
    "tanh", "tanhshrink", "threshold", "triplet_margin_loss",
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
    renorm: tuple[float, float] | None = None,
) -> Tensor:
    """Batch normalisation (Ioffe & Szegedy 2015, algorithm 1) of x (N, C, ...), over all axes
    except the channels.

    In training, or without running statistics, it normalises by the mean and biased variance of x.
    In training the running statistics, if given, also move by the fraction `momentum` towards the
    batch's mean and unbiased variance, in place. In evaluation it normalises by the running
    statistics. These, weight and bias have shape (C,). Nothing is detached, so derivatives of any
    order are those of the formula.

    renorm=(rmax, dmax), in training: batch renormalisation (Ioffe 2017, algorithm 1), which scales
    and shifts what is normalised, before weight and bias, by the constants r = std / running_std,
    limited to [1/rmax, rmax], and d = (mean - running_mean) / running_std, to [-dmax, dmax].

    An empty x comes back, and the running statistics stay. Raises ValueError for a wrong shape, one
    of the statistics without the other, limits out of range, and in training for one value per
    channel or statistics in read-only memory, TypeError for statistics that are not floats,
    RuntimeError for those that require grad, and then writes nothing.

    >>> x = mg.tensor([[1.0], [3.0]])
    >>> mg.nn.functional.batch_norm(x, None, None, eps=0.0)
    tensor([[-1.],
            [ 1.]])
    """
    if not isinstance(x, Tensor):
        x = to_tensor(x, "batch_norm")
    shape, ndim = x.shape, x.ndim
    if ndim < 2:
        raise wrong_shape("batch_norm", shape, "(N, C, ...)")
    channels, axes = shape[1:2], (0,)
    if (running_mean is None) != (running_var is None):
        raise ValueError("batch_norm: give running_mean and running_var, or neither")
    for operand in (running_mean, running_var, weight, bias):
        if operand is not None and getattr(operand, "shape", ()) != channels:
            given: Any = {"running_mean": running_mean, "running_var": running_var}
            _check_shapes("batch_norm", x, **given, weight=weight, bias=bias)
    weight, bias = _or_neutral(weight, bias)
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
                f"got shape {shape}; use a larger batch, for the last of an epoch "
                'DataLoader(last="merge"), or eval()'
            )
        if renorm is None or not training:
            y, mean, var = _normalise(x, weight, bias, axes, eps)
        else:
            y, mean, var = _normalise(x, 1.0, 0.0, axes, eps)
            r, d = _renormalisation(mean, var, running_mean, running_var, eps, *renorm)
            y = y * (weight * r) + (weight * d + bias)
    else:
        mean, var = _per_channel(running_mean, ndim), _per_channel(running_var, ndim)
        y = (x - mean) * (weight / ops.sqrt(var + eps)) + bias

    # Last, because all of the above may raise. mean and var have no graph, so the buffers get none.
    if training and running_mean is not None and running_var is not None:
        correction = count / (count - 1)
        move_statistics("batch_norm", running_mean, running_var, mean, var, momentum, correction)
    return y


def renorm_limits(name: str, rmax: Any, dmax: Any) -> tuple[float, float]:
    """rmax and dmax, which must be at least 1 and 0.

    >>> mg.nn.functional.renorm_limits("batch_norm", 3.0, 5.0)
    (3.0, 5.0)
    """
    if not real(rmax, f"{name}: rmax") >= 1:
        raise ValueError(f"{name}: rmax must be at least 1, got {rmax}")
    return rmax, nonnegative_real(dmax, f"{name}: dmax")


def _renormalisation(
    mean: Tensor, var: Tensor, running_mean: Any, running_var: Any, eps: float, *limits: float
) -> tuple[Tensor, Tensor]:
    """r and d of `batch_norm`, in the shape of the statistics of the batch and without a graph."""
    if running_mean is None:
        raise ValueError("batch_norm: renorm needs running statistics")
    rmax, dmax = renorm_limits("batch_norm", *limits)
    old_mean, old_var = (
        ops.reshape(to_tensor(s, "batch_norm").detach().astype(mean.dtype), mean.shape)
        for s in (running_mean, running_var)
    )
    old_std = ops.sqrt(old_var + eps)
    r = ops.clip(ops.sqrt(var + eps) / old_std, 1 / rmax, rmax)
    return r, ops.clip((mean - old_mean) / old_std, -dmax, dmax)


_normalise: Callable[..., tuple[Tensor, Tensor, Tensor]] = derived(formulas.normalise)
_rms_normalise: Callable[..., Tensor] = derived(formulas.rms_normalise)


def _or_neutral(weight: Any, bias: Any) -> tuple[Any, Any]:
    """Weight and bias, with 1 and 0 for None."""
    return 1.0 if weight is None else weight, 0.0 if bias is None else bias


def _per_channel(parameter: Any, ndim: int) -> Any:
    """Reshape (C,) to broadcast against (N, C, ...); a number is returned unchanged."""
    if ndim == 2 or not isinstance(parameter, Tensor):
        return parameter
    return ops.reshape(parameter, (-1, *(1,) * (ndim - 2)))


def standardise(
    x: Tensor,
    mean: Tensor,
    var: Tensor,
    eps: float,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """(x - mean) / sqrt(var + eps) * weight + bias, all broadcast; None is left out.

    >>> x, mean, var = mg.tensor([1.0, 5.0]), mg.tensor(3.0), mg.tensor(4.0)
    >>> mg.nn.functional.standardise(x, mean, var, eps=0.0)
    tensor([-1.,  1.])
    """
    y = (x - mean) / ops.sqrt(var + eps)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias


def _check_shapes(name: str, x: Tensor, sizes: Any = None, **operands: Any) -> None:
    """Raise ValueError for an operand whose shape is not `sizes`, by default (C,)."""
    expected = x.shape[1:2] if sizes is None else sizes
    for operand_name, operand in operands.items():
        if operand is not None and (given := getattr(operand, "shape", ())) != expected:
            channels = f"the input {x.shape} has {expected[0]} channels"
            reason = channels if sizes is None else f"normalized_shape is {sizes}"
            raise ValueError(f"{name}: {operand_name} has shape {given}, but {reason}")


def _columns(name: str, x: Tensor, split: tuple[int, ...], **operands: Tensor | None) -> list[Any]:
    """Reshape operands of shape (C,) to `split`, which broadcasts against x (N, C, ...)."""
    _check_shapes(name, x, **operands)
    return [given if given is None else ops.reshape(given, split) for given in operands.values()]


def _trailing(x: Tensor, normalized_shape: Shape, name: str, **operands: Any) -> tuple[int, ...]:
    """The last axes of x; checks that x and the operands match normalized_shape there."""
    sizes = tuple(normalized_shape) if isinstance(normalized_shape, Sequence) else normalized_shape
    sizes = sizes if isinstance(sizes, tuple) else (sizes,)
    if not sizes or x.shape[-len(sizes) :] != sizes:
        raise wrong_shape(name, x.shape, f"(*, {', '.join(map(str, sizes))})")
    _check_shapes(name, x, sizes, **operands)
    return tuple(range(x.ndim - len(sizes), x.ndim))


def layer_norm(
    x: Tensor,
    normalized_shape: Shape,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise x over its last axes, which have shape normalized_shape (Ba et al. 2016, equation
    4), by the biased variance; weight and bias, if given, have that shape too.

    Raises ValueError for shapes that do not match.

    >>> mg.nn.functional.layer_norm(mg.tensor([[1.0, 5.0], [2.0, 2.0]]), 2, eps=0.01).shape
    (2, 2)
    """
    x = to_tensor(x, "layer_norm")
    axes = _trailing(x, normalized_shape, "layer_norm", weight=weight, bias=bias)
    return _normalise(x, *_or_neutral(weight, bias), axes, eps)[0]


def rms_norm(
    x: Tensor, normalized_shape: Shape, weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """x / sqrt(mean(x²) + eps) * weight over the last axes, which have shape normalized_shape
    (Zhang & Sennrich 2019, equation 4). eps=None means the machine epsilon of x's dtype.

    >>> mg.nn.functional.rms_norm(mg.tensor([3.0, 4.0, 0.0, 0.0]), 4, eps=0.0)
    tensor([1.2, 1.6, 0. , 0. ])
    """
    x = ops.floating(x, "rms_norm")
    axes = _trailing(x, normalized_shape, "rms_norm", weight=weight)
    if eps is None:
        eps = float(np.finfo(x.dtype).eps)
    return _rms_normalise(x, 1.0 if weight is None else weight, axes, eps)


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each sample of x (N, C, ...) over groups of C / num_groups consecutive channels
    (Wu & He 2018, equations 1-3, 7); weight and bias have shape (C,).

    Raises ValueError if C is not divisible by num_groups, and for other shapes.

    >>> mg.nn.functional.group_norm(mg.randn(2, 6, 4), num_groups=3).shape
    (2, 6, 4)
    """
    x = to_tensor(x, "group_norm")
    if x.ndim < 2:
        raise wrong_shape("group_norm", x.shape, "(N, C, ...)")
    batch, channels = x.shape[:2]
    num_groups = positive(num_groups, "group_norm: num_groups")
    if channels % num_groups:
        raise ValueError(
            f"group_norm: {channels} channels cannot be split into {num_groups} groups"
        )
    around = (1,) * (x.ndim - 2)
    members = channels // num_groups
    columns = _columns("group_norm", x, (num_groups, members, *around), weight=weight, bias=bias)
    rows = ops.reshape(x, (batch, num_groups, members, *x.shape[2:]))
    axes = tuple(range(2, rows.ndim))
    return ops.reshape(_normalise(rows, *_or_neutral(*columns), axes, eps)[0], x.shape)


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

    The running statistics, if given, move in place by the fraction `momentum` towards the samples'
    means and unbiased variances, averaged over the batch.

    Raises ValueError for one element per channel or shapes that do not match, and the errors of
    `batch_norm` for the running statistics, which are then unchanged.

    >>> x = mg.tensor([[[1.0, 3.0], [10.0, 30.0]]])
    >>> mg.nn.functional.instance_norm(x, eps=0.0).tolist()
    [[[-1.0, 1.0], [-1.0, 1.0]]]
    """
    x = to_tensor(x, "instance_norm")
    if x.ndim < 3:
        raise wrong_shape("instance_norm", x.shape, "(N, C, L, ...)")
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
    y, mean, var = _normalise(x, *_or_neutral(weight, bias), axes, eps)
    if running_mean is not None and running_var is not None and x.size:
        every = (0, *axes)
        new = mean.mean(every), var.mean(every), momentum, count / (count - 1)
        move_statistics("instance_norm", running_mean, running_var, *new)
    return y


def dropout(
    x: Tensor, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Tensor:
    """In training, zero each element with probability p and scale the others by 1 / (1 - p). The
    mask is drawn from `generator` or the library's.

    Raises ValueError unless 0 <= p <= 1, and in training TypeError unless x has a float dtype.

    >>> mg.nn.functional.dropout(mg.ones(3), p=0.9, training=False)
    tensor([1., 1., 1.])
    """
    x = to_tensor(x, "dropout")
    return _dropped(x, x.shape, p, training, generator, "dropout")


def dropout2d(
    x: Tensor, p: float = 0.5, training: bool = True, *, generator: Generator | None = None
) -> Tensor:
    """As `dropout`, but zeroes whole channels of x (N, C, H, W) or (N, C, L) (Tompson et al. 2015).

    >>> mg.nn.functional.dropout2d(mg.ones(1, 2, 3, 3), p=0.9, training=False).shape
    (1, 2, 3, 3)
    """
    x = to_tensor(x, "dropout2d")
    if x.ndim not in (3, 4):
        raise wrong_shape("dropout2d", x.shape, "(N, C, H, W)", "(N, C, L)")
    shape = (*x.shape[:2], *(1,) * (x.ndim - 2))
    return _dropped(x, shape, p, training, generator, "dropout2d")


@memory_checked
def _dropped(
    x: Tensor,
    shape: tuple[int, ...],
    p: float,
    training: bool,
    generator: Generator | None,
    name: str,
) -> Tensor:
    """x times a random mask of a shape that broadcasts against it."""
    probability(p, "dropout: the probability p")
    if not training or p == 0:
        return x
    if x.dtype.kind != "f":
        raise TypeError(
            f"{name}: expected float32 or float64, got {x.dtype}; use x.astype(mg.float32)"
        )
    kept = numpy_generator(generator, name).random(shape, np.float32) >= p
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
    (..., embedding_dim). The gradient of a row is the sum over its look-ups.

    padding_idx: a row that gets no gradient.
    max_norm: before the look-up, rows whose norm of order norm_type exceeds max_norm are scaled
    down to it, in place and without a gradient.

    Raises TypeError for indices that are not integers, IndexError for those out of range.

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
    y = ops.getitem(weight, labels)
    if padding_idx is not None:
        padding = labels == padding_idx % max(weight.shape[0], 1)
        if padding.any():
            y = ops.where(adopt(padding[..., None]), y.detach(), y)
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
    broadcast. scale: 1/sqrt(E) by default. attn_mask broadcasts to (..., L, S): bools, True where a
    query may attend, or floats to add. is_causal: query i attends to keys 0 to i; not with a mask.
    A query whose keys are all masked gives 0. dropout_p: the probability of dropping a weight,
    in any mode. Raises ValueError for shapes that do not match.

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
    """Like `scaled_dot_product_attention`, but also returns the attention weights (..., L, S).

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
        raise ValueError(f"{name}: give is_causal or attn_mask, not both; & combines two masks")
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
            weights = ops.where(idle, 0.0, softmax(ops.where(idle, 0.0, scores)))
        else:
            weights = softmax(scores)
    weights = dropout(weights, dropout_p)
    return ops.matmul(weights, value), weights


@memory_checked
def one_hot(target: Tensor, num_classes: int = -1) -> Tensor:
    """Class indices (...) as int64 rows (..., num_classes) with one 1; max + 1 classes by default.

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
            raise ValueError("one_hot: give num_classes; an empty target does not show it")
        num_classes = int(labels.max()) + 1
    num_classes = integer(num_classes, "one_hot: num_classes")
    nothing_ignored = np.iinfo(np.int64).min
    count_classes("one_hot", labels.astype(np.int64).reshape(-1), num_classes, nothing_ignored)
    return adopt(np.equal(labels[..., None], np.arange(num_classes)).astype(np.int64))


# ----------------------------------------------------------------------------- smooth activations
def silu(x: Tensor, inplace: bool = False) -> Tensor:
    """x sigmoid(x), also called swish (Elfwing et al. 2018).

    >>> mg.nn.functional.silu(mg.tensor([0.0, 1.0]))
    tensor([0.       , 0.7310586])
    """
    return ops.silu(x)


def gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """x Φ(x) with the normal distribution function Φ, or with approximate="tanh" its approximation
    by tanh (Hendrycks & Gimpel 2016, section 2).

    >>> mg.nn.functional.gelu(mg.tensor([0.0, 1.0]), approximate="tanh")
    tensor([0.        , 0.84119195])
    """
    if approximate == "none":
        return ops.gelu(x)
    choice(approximate, "GELU: approximate", "none", "tanh")
    x = to_tensor(x, "gelu")
    far = ops.abs(x) > 100.0  # gelu equals relu here, and inf * 0 would be NaN
    near = ops.where(far, 0.0, x)
    # 1 + tanh(u) = 2 sigmoid(2 u), which does not cancel in the left tail
    inner = math.sqrt(8 / math.pi) * (near + 0.044715 * (near * near * near))
    return near * sigmoid(inner) + ops.where(far, ops.relu(x), 0.0)


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """log(1 + e**(beta x)) / beta. The primitive does not overflow, so `threshold`, above which
    PyTorch returns x, is not needed. Raises ValueError unless beta is positive.

    >>> mg.nn.functional.softplus(mg.tensor([1000.0]), beta=2.0)
    tensor([1000.])
    """
    positive_real(beta, "Softplus: beta")
    return ops.softplus(x) if beta == 1 else ops.softplus(beta * x) / beta


def mish(x: Tensor, inplace: bool = False) -> Tensor:
    """x tanh(softplus(x)) (Misra 2019).

    >>> mg.nn.functional.mish(mg.tensor([0.0, 1.0]))
    tensor([0.       , 0.8650984])
    """
    return ops.mish(x)


def softsign(x: Tensor) -> Tensor:
    """x / (1 + |x|).

    >>> mg.nn.functional.softsign(mg.tensor([-1.0, 3.0]))
    tensor([-0.5 ,  0.75])
    """
    # For |x| > 1 as 1 / (sign x + 1/x): its slope does not cancel, and it is right at ±inf.
    x = to_tensor(x, "softsign")
    large = ops.abs(x) > 1.0
    near, far = ops.where(large, 0.0, x), ops.where(large, x, 1.0)
    return ops.where(large, 1.0 / (ops.sign(far) + 1.0 / far), near / (1.0 + ops.abs(near)))


def tanhshrink(x: Tensor) -> Tensor:
    """x - tanh(x).

    >>> mg.nn.functional.tanhshrink(mg.tensor([0.0, 100.0]))
    tensor([ 0., 99.])
    """
    return x - tanh(x)


def elu(x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, alpha (e**x - 1) elsewhere (Clevert et al. 2016, equation 16); its gradient at
    0 is alpha.

    >>> mg.nn.functional.elu(mg.tensor([-1000.0, 2.0]))
    tensor([-1.,  2.])
    """
    # clip keeps positive x from overflowing in the exponential; unlike minimum, it has the slope 1
    # at its bound.
    return ops.relu(x) + alpha * ops.expm1(ops.clip(x, max=0.0))


def selu(x: Tensor, inplace: bool = False) -> Tensor:
    """λ elu(x, α), where λ = 1.0507 and α = 1.6733 keep the mean at 0 and the variance at 1
    (Klambauer et al. 2017, equations 2 and 14).

    >>> mg.nn.functional.selu(mg.tensor([-1000.0, 1.0]))
    tensor([-1.7580993,  1.050701 ])
    """
    return 1.0507009873554804934193349852946 * elu(x, 1.6732632423543772848170429916717)


def celu(x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """x where x > 0, alpha (e**(x / alpha) - 1) elsewhere (Barron 2017): an elu whose slope at 0 is
    1 for every alpha. Raises ValueError for alpha=0.

    >>> mg.nn.functional.celu(mg.tensor([-1000.0, 2.0]), alpha=3.0)
    tensor([-3.,  2.])
    """
    if alpha == 0:
        raise ValueError("CELU: alpha must not be 0")
    return ops.relu(x) + alpha * ops.expm1(ops.clip(x, max=0.0) / alpha)


# ------------------------------------------------------------------ piecewise linear activations
def relu(x: Tensor, inplace: bool = False) -> Tensor:
    """max(x, 0); its gradient at 0 is 0.

    >>> mg.nn.functional.relu(mg.tensor([-1.0, 2.0]))
    tensor([0., 2.])
    """
    return ops.relu(x)


def hardtanh(
    x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    """x limited to [min_val, max_val]; its gradient at the bounds is 0, unlike that of `clip`.
    Raises ValueError if min_val > max_val.

    >>> mg.nn.functional.hardtanh(mg.tensor([-3.0, 0.5, 3.0]))
    tensor([-1. ,  0.5,  1. ])
    """
    if not min_val <= max_val:
        raise ValueError(f"Hardtanh: min_val {min_val} is greater than max_val {max_val}")
    x = to_tensor(x, "hardtanh")
    outside = (x <= min_val) | (x >= max_val)
    return ops.where(outside, ops.clip(x.detach(), min_val, max_val), x)


def relu6(x: Tensor, inplace: bool = False) -> Tensor:
    """min(max(x, 0), 6) (Krizhevsky 2010); its gradient at 0 and 6 is 0.

    >>> mg.nn.functional.relu6(mg.tensor([-1.0, 2.0, 7.0]))
    tensor([0., 2., 6.])
    """
    return hardtanh(x, 0.0, 6.0)


def hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """relu6(x + 3) / 6.

    >>> mg.nn.functional.hardsigmoid(mg.tensor([-4.0, 0.0, 4.0]))
    tensor([0. , 0.5, 1. ])
    """
    return relu6(x + 3.0) / 6.0


def hardswish(x: Tensor, inplace: bool = False) -> Tensor:
    """x relu6(x + 3) / 6 (Howard et al. 2019, section 5.2).

    >>> mg.nn.functional.hardswish(mg.tensor([-4.0, 1.5, 4.0]))
    tensor([-0.   ,  1.125,  4.   ])
    """
    return x * hardsigmoid(x)


def leaky_relu(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """x where x > 0, negative_slope x elsewhere (Maas et al. 2013); its gradient at 0 is
    negative_slope.

    >>> mg.nn.functional.leaky_relu(mg.tensor([-1.0, 2.0]))
    tensor([-0.01,  2.  ])
    """
    x = to_tensor(x, "leaky_relu")
    return ops.where(x > 0, x, negative_slope * x)


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """x where x > 0, weight x elsewhere, for a weight of shape (1,), or (C,) for x (N, C, ...) (He
    et al. 2015, equation 1).

    Raises ValueError for a weight of another shape.

    >>> mg.nn.functional.prelu(mg.tensor([[-1.0, -1.0]]), mg.tensor([0.25, 0.5]))
    tensor([[-0.25, -0.5 ]])
    """
    x, weight = to_tensors((x, weight), "prelu")
    channels = x.shape[1:2]
    if weight.shape not in ((1,), channels):
        expected = f"(1,) or {channels}" if channels else "(1,)"
        raise ValueError(
            f"prelu: expected a weight of shape {expected} for an input of shape {x.shape}, got "
            f"{weight.shape}"
        )
    column = (-1, *(1,) * (x.ndim - 2)) if x.ndim > 1 else weight.shape[: x.ndim]
    return ops.where(x > 0, x, ops.reshape(weight, column) * x)


def threshold(x: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """x where x > threshold, value elsewhere.

    >>> mg.nn.functional.threshold(mg.tensor([0.5, 2.0]), 1.0, 20.0)
    tensor([20.,  2.])
    """
    x = to_tensor(x, "threshold")
    return ops.where(x <= threshold, value, x)


def hardshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """x where |x| > lambd, 0 elsewhere.

    >>> mg.nn.functional.hardshrink(mg.tensor([-2.0, 0.5, 2.0]))
    tensor([-2.,  0.,  2.])
    """
    return ops.where(ops.abs(x) <= lambd, 0.0, x)


def softshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """x moved towards 0 by lambd; 0 where |x| <= lambd. Raises ValueError for a negative lambd.

    >>> mg.nn.functional.softshrink(mg.tensor([-2.0, 0.5, 2.0]))
    tensor([-1.5,  0. ,  1.5])
    """
    nonnegative_real(lambd, "Softshrink: lambd")
    return x - ops.clip(x, -lambd, lambd)


# ------------------------------------------------------------------- activations along a dimension
# `dim` is PyTorch's name; `axis`, as the functions of `mg` have it, is another for the same.
def softmax(x: Tensor, dim: int = -1, *, axis: int | None = None) -> Tensor:
    """exp(x) / sum(exp(x)) along `dim` or `axis`, by default the last.

    >>> mg.nn.functional.softmax(mg.zeros(1, 2), dim=1)
    tensor([[0.5, 0.5]])
    """
    return functions.softmax(x, dim if axis is None else axis)


def softmin(x: Tensor, dim: int = -1, *, axis: int | None = None) -> Tensor:
    """softmax(-x) along `dim` or `axis`, by default the last.

    >>> mg.nn.functional.softmin(mg.tensor([0.0, 1000.0]))
    tensor([1., 0.])
    """
    return functions.softmax(-x, dim if axis is None else axis)


def log_softmax(x: Tensor, dim: int = -1, *, axis: int | None = None) -> Tensor:
    """log(softmax(x)) along `dim` or `axis`, by default the last.

    >>> mg.nn.functional.log_softmax(mg.zeros(1, 2), dim=1)
    tensor([[-0.6931472, -0.6931472]])
    """
    return ops.log_softmax(x, dim if axis is None else axis)


def glu(x: Tensor, dim: int = -1, *, axis: int | None = None) -> Tensor:
    """a sigmoid(b) for the halves a and b of x along `dim` or `axis` (Dauphin et al. 2017, equation
    1).

    Raises ValueError for an odd size.

    >>> mg.nn.functional.glu(mg.tensor([3.0, 4.0, 0.0, 100.0]))
    tensor([1.5, 4. ])
    """
    x = to_tensor(x, "glu")
    dim = integer(dim if axis is None else axis, "glu: dim")
    size = x.shape[dim] if -x.ndim <= dim < x.ndim else 1
    if size % 2:
        raise ValueError(f"glu: dimension {dim} of shape {x.shape} cannot be halved")
    value, gate = functions.split(x, [size // 2] * 2, dim)
    return value * sigmoid(gate)
