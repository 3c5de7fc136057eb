"""One row per option of a loss or layer: what test_layer_table.py crosses with values, first and
second order. The values come from the formula in NumPy, written with loops over positions
or windows, not as minigrad computes them; nothing here needs PyTorch.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn
from minigrad.func import functional_call
from minigrad.nn import functional as F

RANDOM = np.random.default_rng(7)


@dataclass(frozen=True)
class Row:
    """`call` of Tensors gives `expected`; the float arrays come first, and have gradients."""

    name: str
    call: Callable[..., Any]
    inputs: tuple[np.ndarray, ...]
    expected: np.ndarray


# ------------------------------------------------------------------------------------------ losses
N, C = 5, 3
X, T, U = RANDOM.normal(size=(3, N, C)) * 1.5
P, Q = RANDOM.dirichlet(np.ones(C), (2, N))
LABELS = np.array([0, 2, 1, 2, 2])
IMAGE = RANDOM.normal(size=(2, C, 2, 2))
IMAGE_LABELS = np.array([[[0, 1], [2, 2]], [[1, 0], [2, 0]]])
WEIGHT = np.array([0.5, 2.0, 1.25])
SIGNS = np.array([1, -1, -1, 1, -1])


def huber(d, delta):
    return np.where(abs(d) < delta, d * d / 2, delta * (abs(d) - delta / 2))


def log_softmax(x):
    """Along axis 1."""
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def cosine(a, b):
    return (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1))


def distance(a, b, p):
    return (abs(a - b + 1e-6) ** p).sum(1) ** (1 / p)


def picked(log_p, labels, weight, ignored, smoothing=0.0):
    """-weight log_p at each label, and the divisor of the mean, position by position."""
    losses, total = np.zeros(labels.shape), 0.0
    for place in np.ndindex(labels.shape):
        label = labels[place]
        if label == ignored:
            continue
        row = log_p[(place[0], slice(None), *place[1:])]
        spread = sum(weight[k] * row[k] for k in range(len(row))) * smoothing / len(row)
        losses[place] = -(1 - smoothing) * weight[label] * row[label] - spread
        total += weight[label]
    return losses, total


def class_losses():
    """nll_loss and cross_entropy of labels, with every option, for rows, images and one row."""
    data = {"rows": (X, LABELS), "image": (IMAGE, IMAGE_LABELS)}
    for (shape, (x, labels)), weight, ignored in itertools.product(
        data.items(), (None, WEIGHT), (-100, 2)
    ):
        options = {"ignore_index": ignored, "weight": weight}
        text = f"{shape}, weight {weight is not None}, ignore {ignored}"
        weights = np.ones(C) if weight is None else weight
        yield (
            f"nll_loss {text}",
            F.nll_loss,
            (x, labels),
            options,
            *picked(x, labels, weights, ignored),
        )
        for smoothing in (0.0, 0.3):
            yield (
                f"cross_entropy {text}, smoothing {smoothing}",
                F.cross_entropy,
                (x, labels),
                options | {"label_smoothing": smoothing},
                *picked(log_softmax(x), labels, weights, ignored, smoothing),
            )
    for weight, smoothing in itertools.product((None, WEIGHT), (0.0, 0.3)):
        weights = np.ones(C) if weight is None else weight
        q = (1 - smoothing) * Q + smoothing / C
        yield (
            f"cross_entropy probabilities, weight {weight is not None}, smoothing {smoothing}",
            F.cross_entropy,
            (X, Q),
            {"weight": weight, "label_smoothing": smoothing},
            -(weights * q * log_softmax(X)).sum(1),
            None,
        )


def elementwise_losses():
    d = X - T
    sigmoid = 1 / (1 + np.exp(-X))
    yield "mse_loss", F.mse_loss, (X, T), {}, d * d, None
    yield "l1_loss", F.l1_loss, (X, T), {}, abs(d), None
    for beta in (1.0, 0.4, 3.0):
        expected = huber(d, beta) / beta
        yield f"smooth_l1_loss {beta}", F.smooth_l1_loss, (X, T), {"beta": beta}, expected, None
        yield f"huber_loss {beta}", F.huber_loss, (X, T), {"delta": beta}, huber(d, beta), None
    yield "smooth_l1_loss 0", F.smooth_l1_loss, (X, T), {"beta": 0}, abs(d), None
    kl = Q * (np.log(Q) - np.log(P))
    yield "kl_div", F.kl_div, (np.log(P), Q), {}, kl, None
    yield "kl_div log", F.kl_div, (np.log(P), np.log(Q)), {"log_target": True}, kl, None
    for weight in (None, WEIGHT):
        weights = np.ones(C) if weight is None else weight
        options = {"weight": weight}
        expected = -weights * (Q * np.log(P) + (1 - Q) * np.log(1 - P))
        yield (
            f"binary_cross_entropy {weight}",
            F.binary_cross_entropy,
            (P, Q),
            options,
            expected,
            None,
        )
        for positive in (None, WEIGHT[::-1]):
            factor = 1 if positive is None else positive
            yield (
                f"binary_cross_entropy_with_logits {weight}, {positive}",
                F.binary_cross_entropy_with_logits,
                (X, Q),
                {"weight": weight, "pos_weight": positive},
                -weights * (factor * Q * np.log(sigmoid) + (1 - Q) * np.log(1 - sigmoid)),
                None,
            )
    for margin in (0.0, 0.3):
        expected = np.where(SIGNS == 1, 1 - cosine(X, T), np.maximum(cosine(X, T) - margin, 0))
        yield (
            f"cosine_embedding_loss {margin}",
            F.cosine_embedding_loss,
            (X, T, SIGNS),
            {"margin": margin},
            expected,
            None,
        )
    for margin, p, swap in ((1.0, 2, False), (2.5, 3, False), (1.0, 2, True)):
        near, far, other = distance(X, T, p), distance(X, U, p), distance(T, U, p)
        yield (
            f"triplet_margin_loss {margin}, {p}, {swap}",
            F.triplet_margin_loss,
            (X, T, U),
            {"margin": margin, "p": p, "swap": swap},
            np.maximum(near - (np.minimum(far, other) if swap else far) + margin, 0),
            None,
        )


def likelihood_and_quantile_losses():
    variances = np.exp(RANDOM.normal(size=(N, C)))
    for var in (variances, variances[:, 0], variances[:, :1], variances[:1]):
        wide = var[:, None] if var.ndim == 1 else var
        for full in (False, True):
            expected = np.log(np.sqrt(wide)) + (X - T) ** 2 / (2 * wide)
            expected = expected + full * math.log(math.sqrt(2 * math.pi))
            yield (
                f"gaussian_nll_loss {var.shape}, {full}",
                F.gaussian_nll_loss,
                (X, T, var),
                {"full": full},
                expected,
                None,
            )
    counts = RANDOM.uniform(0, 6, (N, C)).round(1)
    stirling = np.where(
        counts > 1, counts * np.log(counts / math.e) + np.log(2 * math.pi * counts) / 2, 0
    )
    for full in (False, True):
        logarithmic = np.exp(X) - counts * X + full * stirling
        rates = np.exp(X) - counts * np.log(np.exp(X) + 0.1) + full * stirling
        inputs, options = (X, counts), {"full": full}
        yield (
            f"poisson_nll_loss log, {full}",
            F.poisson_nll_loss,
            inputs,
            options,
            logarithmic,
            None,
        )
        inputs, options = (np.exp(X), counts), {"full": full, "log_input": False, "eps": 0.1}
        yield f"poisson_nll_loss {full}", F.poisson_nll_loss, inputs, options, rates, None
    column = SIGNS[:, None]
    for margin in (0.0, 1.5):
        expected = np.where(column == 1, T - X + margin, X - T + margin)
        yield (
            f"margin_ranking_loss {margin}",
            F.margin_ranking_loss,
            (X, T, column),
            {"margin": margin},
            np.maximum(expected, 0),
            None,
        )
    for q in (0.5, 0.1, 0.0, 1.0):
        expected = np.where(T > X, q * (T - X), (1 - q) * (X - T))
        yield f"quantile_loss {q}", F.quantile_loss, (X, T), {"q": q}, expected, None
    levels = (0.1, 0.5, 0.8)
    d = T[:, :1] - X
    slopes = [[q if d[n, k] > 0 else 1 - q for k, q in enumerate(levels)] for n in range(N)]
    for target in (T[:, 0], T[:, :1]):
        yield (
            f"quantile_loss {levels}, {target.shape}",
            F.quantile_loss,
            (X, target),
            {"q": levels},
            slopes * abs(d),
            None,
        )


def loss_rows():
    """The losses above with each reduction; a mean divides by the size by default."""
    for name, function, inputs, options, losses, total in itertools.chain(
        elementwise_losses(), likelihood_and_quantile_losses(), class_losses()
    ):
        reductions = {
            "none": losses,
            "sum": losses.sum(),
            "mean": losses.sum() / (losses.size if total is None else total),
        }
        if function is F.kl_div:
            reductions["batchmean"] = losses.sum() / len(losses)
        for reduction, expected in reductions.items():
            yield Row(f"{name}, {reduction}", with_options(function, options, reduction), inputs,
                      np.asarray(expected))  # fmt: skip


def with_options(function, options, reduction=None):
    """The function with these options; arrays among them become Tensors of the input's dtype."""
    given = options | ({} if reduction is None else {"reduction": reduction})

    def call(x, *inputs):
        tensors = {
            key: mg.tensor(value, dtype=x.dtype) if isinstance(value, np.ndarray) else value
            for key, value in given.items()
        }
        return function(x, *inputs, **tensors)

    return call


def layer_row(name, layer, inputs, expected, start=None, **options):
    """A layer whose parameters are inputs too, random ones; `expected` is a function of all arrays.
    start: its buffers before each call; options: of the call."""
    names = [name for name, _ in layer.named_parameters()]
    weights = [RANDOM.normal(size=p.shape) for p in layer.parameters()]

    def call(*tensors):
        x, parameters = tensors[: len(inputs)], tensors[len(inputs) :]
        buffers = {key: mg.tensor(a, dtype=x[0].dtype) for key, a in (start or {}).items()}
        given = dict(zip(names, parameters, strict=True))
        return functional_call(layer, [given, buffers], tuple(x), options)

    everything = (*inputs, *weights)
    return Row(f"nn.{name}", call, everything, expected(*everything))


# ----------------------------------------------------------------------------------- normalisation
MEAN, VAR = np.array([0.5, -1.0, 2.0]), np.array([0.3, 2.0, 9.0])
AVERAGES = {"running_mean": MEAN, "running_var": VAR}


def by_channel(array, x):
    return array.reshape(-1, *(1,) * (x.ndim - 2))


def standard(x, axes, eps):
    mean = x.mean(axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axes, keepdims=True) + eps)


def averaged(x):
    return (x - by_channel(MEAN, x)) / np.sqrt(by_channel(VAR, x) + 1e-5)


def renormed(x, weight, bias, mean, var, rmax, dmax, eps=1e-5):
    """Ioffe 2017, algorithm 1, channel by channel."""
    y = np.empty_like(x)
    for c in range(x.shape[1]):
        sigma_b, sigma = math.sqrt(x[:, c].var() + eps), math.sqrt(var[c] + eps)
        r = min(max(sigma_b / sigma, 1 / rmax), rmax)
        d = min(max((x[:, c].mean() - mean[c]) / sigma, -dmax), dmax)
        y[:, c] = ((x[:, c] - x[:, c].mean()) / sigma_b * r + d) * weight[c] + bias[c]
    return y


def ghosts(x, weight, bias, sizes):
    """Hoffer et al. 2017, algorithm 1: each ghost batch by its own statistics."""
    parts, start = [], 0
    for size in sizes:
        part = x[start : start + size]
        axes = (0, *range(2, x.ndim))
        parts.append(standard(part, axes, 1e-5) * by_channel(weight, x) + by_channel(bias, x))
        start += size
    return np.concatenate(parts)


def norm_rows():
    for shape in ((5, C), (2, C, 4), (2, C, 2, 3)):
        x, axes = RANDOM.normal(size=shape) * 1.5 + 1, (0, *range(2, len(shape)))
        weight, bias = RANDOM.normal(size=(2, C))
        scale, shift = by_channel(weight, x), by_channel(bias, x)
        own, text = standard(x, axes, 1e-5), f"{len(shape)}-d"
        yield Row(
            f"batch_norm {text}",
            lambda x, w, b: F.batch_norm(x, None, None, w, b),
            (x, weight, bias),
            own * scale + shift,
        )
        yield Row(
            f"batch_norm {text}, no bias",
            lambda x, w: F.batch_norm(x, None, None, w),
            (x, weight),
            own * scale,
        )
        yield Row(
            f"batch_norm {text}, evaluation",
            F.batch_norm,
            (x, MEAN, VAR, weight, bias),
            averaged(x) * scale + shift,
        )
        # Limits that every channel reaches, the constants r and d do not move with x.
        mean, var = np.array([-60.0, 60.0, 60.0]), np.array([0.01, 90.0, 0.01])
        for rmax, dmax in ((1.0, 0.0), (1.5, 0.3)):
            start = {"running_mean": mean, "running_var": var}
            layer = (nn.BatchRenorm2d if len(shape) == 4 else nn.BatchRenorm1d)(
                C, rmax=rmax, dmax=dmax
            )
            yield layer_row(
                f"{type(layer).__name__} {text}, {rmax}, {dmax}",
                layer,
                (x,),
                lambda *a, r=rmax, d=dmax, m=mean, v=var: renormed(*a, m, v, r, d),
                start,
            )
        if len(shape) > 2:
            each = standard(x, axes[1:], 1e-5)
            yield Row(
                f"instance_norm {text}",
                lambda x, w, b: F.instance_norm(x, None, None, w, b),
                (x, weight, bias),
                each * scale + shift,
            )
            layer = (nn.InstanceNorm2d if len(shape) == 4 else nn.InstanceNorm1d)(
                C, affine=True, track_running_stats=True, bias=False
            )
            yield layer_row(
                f"{type(layer).__name__} {text}, training, no bias",
                layer,
                (x,),
                lambda x, w, y=each: y * by_channel(w, x),
                AVERAGES,
            )
            layer = type(layer)(C, affine=True, track_running_stats=True).eval()
            yield layer_row(
                f"{type(layer).__name__} {text}, evaluation",
                layer,
                (x,),
                lambda x, w, b: averaged(x) * by_channel(w, x) + by_channel(b, x),
                AVERAGES,
            )
        for size, sizes in ((3, (2, 2, 3)), (2, (1, 2, 2, 2)), (9, (7,))):
            x = RANDOM.normal(size=(7, *shape[1:])) * 1.5 + 1
            if size == 2 and len(shape) == 2:
                continue  # its first ghost batch would have one value per channel
            yield layer_row(
                f"GhostBatchNorm {text}, {size}",
                nn.GhostBatchNorm(C, size),
                (x,),
                lambda *a, s=sizes: ghosts(*a, s),
            )
    x = RANDOM.normal(size=(4, 6, 3)) * 1.5 + 1
    weight, bias = RANDOM.normal(size=(2, 3))
    yield Row(
        "layer_norm",
        lambda x, w, b: F.layer_norm(x, 3, w, b),
        (x, weight, bias),
        standard(x, 2, 1e-5) * weight + bias,
    )
    yield layer_row(
        "LayerNorm no bias",
        nn.LayerNorm((6, 3), bias=False),
        (x,),
        lambda x, w: standard(x, (1, 2), 1e-5) * w,
    )
    yield Row(
        "rms_norm",
        lambda x, w: F.rms_norm(x, 3, w, 0.1),
        (x, weight),
        x / np.sqrt((x * x).mean(2, keepdims=True) + 0.1) * weight,
    )
    rows = standard(x.reshape(4, 2, 9), 2, 1e-5).reshape(x.shape)
    weight, bias = RANDOM.normal(size=(2, 6))
    yield Row(
        "group_norm",
        lambda x, w, b: F.group_norm(x, 2, w, b),
        (x, weight, bias),
        rows * weight[:, None] + bias[:, None],
    )
    yield layer_row(
        "GroupNorm no bias", nn.GroupNorm(2, 6, bias=False), (x,), lambda x, w: rows * w[:, None]
    )
    for sizes in (3, (6, 3), (6, 1)):
        yield layer_row(
            f"DynamicTanh {sizes}",
            nn.DynamicTanh(sizes),
            (x,),
            lambda x, w, b, alpha: np.tanh(alpha * x) * w + b,
        )
    yield layer_row(
        "DynamicTanh no bias",
        nn.DynamicTanh(3, 2.0, bias=False),
        (x,),
        lambda x, w, alpha: np.tanh(alpha * x) * w,
    )
    yield layer_row(
        "DynamicTanh no weight",
        nn.DynamicTanh(3, 2.0, False),
        (x,),
        lambda x, alpha: np.tanh(alpha * x),
    )


# --------------------------------------------------------------------------------- windows by loops
def pairs(value, axes):
    return value if isinstance(value, tuple) else (value,) * axes


def convolution(x, weight, bias, stride=1, padding=0, dilation=1, groups=1):
    """One output after another. padding="same" adds d (k - 1) zeros to an axis, half of them before
    it and, for even kernels, the odd one after it, as in PyTorch."""
    axes = x.ndim - 2
    stride, dilation = pairs(stride, axes), pairs(dilation, axes)
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if padding == "same":
        widths = [(math.floor(n / 2), math.ceil(n / 2)) for n in totals]
    else:
        widths = [(p, p) for p in pairs(0 if padding == "valid" else padding, axes)]
    x = np.pad(x, [(0, 0), (0, 0), *widths])
    places = [
        (n - total - 1) // s + 1 for n, total, s in zip(x.shape[2:], totals, stride, strict=True)
    ]
    y = np.zeros((len(x), len(weight), *places))
    each, depth = len(weight) // groups, weight.shape[1]
    for out, place in itertools.product(range(len(weight)), np.ndindex(*places)):
        for channel, offset in itertools.product(range(depth), np.ndindex(*weight.shape[2:])):
            at = tuple(
                i * s + k * d for i, s, k, d in zip(place, stride, offset, dilation, strict=True)
            )
            source = x[(slice(None), out // each * depth + channel, *at)]
            y[(slice(None), out, *place)] += source * weight[(out, channel, *offset)]
    return y + bias.reshape(-1, *(1,) * axes)


def transposed(x, weight, bias, stride=1, padding=0, output_padding=0, groups=1, dilation=1):
    """Each element of x adds its multiple of the kernel to the place it came from."""
    axes = x.ndim - 2
    stride, padding, dilation = pairs(stride, axes), pairs(padding, axes), pairs(dilation, axes)
    extra = pairs(output_padding, axes)
    sizes = [
        (n - 1) * s + d * (k - 1) + 1 + e
        for n, s, d, k, e in zip(
            x.shape[2:], stride, dilation, weight.shape[2:], extra, strict=True
        )
    ]
    each = x.shape[1] // groups
    y = np.zeros((len(x), weight.shape[1] * groups, *sizes))
    for channel, out, place, offset in itertools.product(
        range(x.shape[1]),
        range(weight.shape[1]),
        np.ndindex(*x.shape[2:]),
        np.ndindex(*weight.shape[2:]),
    ):
        at = tuple(
            i * s + k * d for i, s, k, d in zip(place, stride, offset, dilation, strict=True)
        )
        target = channel // each * weight.shape[1] + out
        y[(slice(None), target, *at)] += (
            x[(slice(None), channel, *place)] * weight[(channel, out, *offset)]
        )
    inside = tuple(slice(p, n - p) for p, n in zip(padding, sizes, strict=True))
    return y[(..., *inside)] + bias.reshape(-1, *(1,) * axes)


def convolution_rows():
    for axes, kernels in ((1, [(1,), (2,), (3,), (4,)]), (2, [(2, 2), (2, 3), (3, 4)])):
        for kernel, dilation in itertools.product(kernels, (1, 2)):
            options = {"padding": "same", "dilation": dilation}
            yield conv_row(axes, (2, 2, *(7, 6)[:axes]), (4, 2, *kernel), options)
        yield conv_row(axes, (2, 2, *(5, 6)[:axes]), (4, 2, *(2, 3)[:axes]), {"padding": "valid"})
    for axes, groups in itertools.product((1, 2), (1, 2, 4)):
        options = {"stride": (2, 1)[:axes], "padding": (1, 2)[:axes], "groups": groups}
        weight = (4, 4 // groups, *(3, 2)[:axes])
        yield conv_row(axes, (2, 4, *(6, 4)[:axes]), weight, options | {"dilation": (1, 2)[:axes]})
        options |= {"output_padding": (1, 1)[:axes], "dilation": (1, 3)[:axes]}
        weight = (4, 2, *(3, 2)[:axes])
        yield conv_row(axes, (2, 4, *(3, 4)[:axes]), weight, options, transposed)


def conv_row(axes, shape, weight_shape, options, formula=convolution):
    outputs = weight_shape[0] if formula is convolution else weight_shape[1] * options["groups"]
    x, weight, bias = (RANDOM.normal(size=s) for s in (shape, weight_shape, (outputs,)))
    name = f"conv{'_transpose' * (formula is transposed)}{axes}d"
    text = ", ".join(f"{key} {value}" for key, value in options.items())
    return Row(
        f"{name} {weight_shape[2:]}, {text}",
        with_options(getattr(F, name), options),
        (x, weight, bias),
        formula(x, weight, bias, **options),
    )


def windows_of(size, kernel, stride, padding, dilation, ceil_mode):
    """The positions of each window along one axis, including the padding."""
    span = dilation * (kernel - 1) + 1
    starts = range(-padding, size + padding, stride)
    for start in starts:
        fits = start + span <= size + padding
        if fits or (ceil_mode and start < size and start + span - stride < size + padding):
            yield [start + k * dilation for k in range(kernel)]


def pooled(x, kernel, stride, padding, dilation, ceil_mode, reduce):
    axes = x.ndim - 2
    each = [pairs(v, axes) for v in (kernel, stride, padding, dilation)]
    windows = [
        list(windows_of(n, *w, ceil_mode))
        for n, w in zip(x.shape[2:], zip(*each, strict=True), strict=True)
    ]
    y = np.zeros((*x.shape[:2], *map(len, windows)))
    for place in np.ndindex(*y.shape[2:]):
        inside = [
            [i for i in windows[axis][k] if 0 <= i < n]
            for axis, (k, n) in enumerate(zip(place, x.shape[2:], strict=True))
        ]
        # elements of the padding count, those that ceil_mode adds beyond it do not
        counted = math.prod(
            sum(i < n + p for i in windows[axis][k])
            for axis, (k, n, p) in enumerate(zip(place, x.shape[2:], each[2], strict=True))
        )
        y[(..., *place)] = reduce(x[(slice(None), slice(None), *np.ix_(*inside))], counted, axes)
    return y


def pooling_rows():
    for axes, kernel, stride, padding, dilation, ceil_mode in [
        (1, 2, 2, 0, 1, False),
        (1, 3, 2, 1, 1, True),
        (1, 2, 3, 1, 1, True),
        (1, 3, 1, 1, 2, False),
        (2, 2, 2, 0, 1, True),
        (2, (3, 2), (2, 1), (1, 0), 1, False),
        (2, (2, 3), (1, 2), (1, 1), 1, True),
        (2, (2, 3), (2, 1), (0, 1), (3, 1), False),
    ]:
        shape = (2, 2, *(8, 7)[:axes])
        x = RANDOM.permutation(math.prod(shape)).reshape(shape) * 0.1
        options = {"stride": stride, "padding": padding, "ceil_mode": ceil_mode}
        text = f"{kernel}, {stride}, {padding}, {dilation}, {ceil_mode}"
        places = kernel, stride, padding, dilation, ceil_mode
        yield Row(
            f"max_pool{axes}d {text}",
            with_options(
                getattr(F, f"max_pool{axes}d"),
                options | {"kernel_size": kernel, "dilation": dilation},
            ),
            (x,),
            pooled(x, *places, lambda part, _, axes: part.max(tuple(range(-axes, 0)))),
        )
        if dilation != 1:
            continue
        for include, divisor in ((True, None), (False, None), (True, 3))[: 3 if axes == 2 else 2]:

            def mean(part, counted, axes, include=include, divisor=divisor):
                inside = math.prod(part.shape[-axes:])
                count = divisor or (counted if include else inside)
                return part.sum(tuple(range(-axes, 0))) / count

            given = options | {"kernel_size": kernel, "count_include_pad": include}
            given |= {} if divisor is None else {"divisor_override": divisor}
            yield Row(
                f"avg_pool{axes}d {text}, {include}, {divisor}",
                with_options(getattr(F, f"avg_pool{axes}d"), given),
                (x,),
                pooled(x, *places, mean),
            )
    for name, shape, size in [
        ("adaptive_avg_pool1d", (2, 2, 7), 3),
        ("adaptive_avg_pool1d", (2, 2, 6), 3),
        ("adaptive_avg_pool2d", (2, 2, 5, 6), (2, 4)),
        ("adaptive_avg_pool2d", (2, 2, 4, 6), (2, 3)),
        ("adaptive_max_pool2d", (2, 2, 5, 6), (3, 4)),
    ]:
        x = RANDOM.permutation(math.prod(shape)).reshape(shape) * 0.1
        sizes = pairs(size, len(shape) - 2)
        bounds = [
            [(i * n // m, -(-(i + 1) * n // m)) for i in range(m)]
            for n, m in zip(shape[2:], sizes, strict=True)
        ]
        y = np.zeros((*shape[:2], *sizes))
        for place in np.ndindex(*sizes):
            part = x[(..., *(slice(*bounds[axis][i]) for axis, i in enumerate(place)))]
            reduce = part.max if "max" in name else part.mean
            y[(..., *place)] = reduce(axis=tuple(range(2, x.ndim)))
        options = {"output_size": size}
        yield Row(f"{name} {shape}, {size}", with_options(getattr(F, name), options), (x,), y)


# ------------------------------------------------------------------- padding, sizes and resampling
def padded(x, widths, mode, value):
    """Each element of the result from where its place lies in x, or `value`; widths as in `pad`."""
    before = [0] * (x.ndim - len(widths) // 2) + list(widths[-2::-2])
    after = [0] * (x.ndim - len(widths) // 2) + list(widths[::-2])
    if mode == "circular":  # what is cropped does not come back at the other end
        sides = zip(before, after, x.shape, strict=True)
        x = x[tuple(slice(max(-a, 0), n + min(b, 0)) for a, b, n in sides)]
        before, after = np.maximum(before, 0), np.maximum(after, 0)
    y = np.full([n + a + b for n, a, b in zip(x.shape, before, after, strict=True)], value)
    for place in np.ndindex(*y.shape):
        at = [i - a for i, a in zip(place, before, strict=True)]
        if mode == "constant" and any(not 0 <= i < n for i, n in zip(at, x.shape, strict=True)):
            continue
        y[place] = x[tuple(map(SOURCE[mode], at, x.shape))]
    return y


SOURCE = {  # of place i of an axis of n elements
    "constant": lambda i, n: i,
    "reflect": lambda i, n: -i if i < 0 else i if i < n else 2 * (n - 1) - i,
    "replicate": lambda i, n: min(max(i, 0), n - 1),
    "circular": lambda i, n: i % n,
}
PADS = {
    "Constant": "constant",
    "Zero": "constant",
    "Reflection": "reflect",
    "Replication": "replicate",
    "Circular": "circular",
}


def padding_rows():
    for (kind, mode), axes in itertools.product(PADS.items(), (1, 2)):
        for widths, shape in (
            (1, (2, 3, 4)),
            ((2, 1, 0, 2)[: 2 * axes], (2, 2, *(3, 4)[:axes])),
            ((1, -1, -2, 1)[: 2 * axes], (2, 4, 4)),
        ):
            x, name = RANDOM.normal(size=shape), f"{kind}Pad{axes}d"
            value = 2.5 if kind == "Constant" else 0.0
            options = {"value": value} if kind == "Constant" else {}
            wide = (widths,) * 2 * axes if isinstance(widths, int) else widths
            layer = getattr(nn, name)(widths, **options)
            expected = padded(x, wide, mode, value)
            yield Row(f"nn.{name} {widths} of {shape}", layer, (x,), expected)
    x = RANDOM.normal(size=(2, 6, 3))
    for dim, sizes, shape in (
        (1, (2, 3), (2, 2, 3, 3)),
        (-2, (3, -1), (2, 3, 2, 3)),
        (2, (1, 3, 1), (2, 6, 1, 3, 1)),
    ):
        yield Row(f"nn.Unflatten {dim}, {sizes}", nn.Unflatten(dim, sizes), (x,), x.reshape(shape))


def resampled(x, sizes, mode, align_corners, factors):
    """Each place of the result as a sum over all elements, weighted by their distance."""
    for axis, n in enumerate(sizes, 2):
        old, y = x.shape[axis], np.zeros((*x.shape[:axis], n, *x.shape[axis + 1 :]))
        step = old / n if factors is None else 1 / factors[axis - 2]
        for k, i in itertools.product(range(n), range(old)):
            at = k * (old - 1) / max(n - 1, 1) if align_corners else (k + 0.5) * step - 0.5
            weight = max(0, 1 - abs(min(max(at, 0), old - 1) - i))
            if mode == "nearest":
                weight = i == min(math.floor(k * step), old - 1)
            y[(slice(None),) * axis + (k,)] += weight * x[(slice(None),) * axis + (i,)]
        x = y
    return x


def resampling_rows():
    for axes, size, factors in (
        (1, (7,), None),
        (1, (3,), None),
        (1, (1,), None),
        (1, (8,), (2.0,)),
        (1, (7,), (1.9,)),
        (2, (7, 3), None),
        (2, (4, 5), None),
        (2, (8, 15), (2.0, 3.0)),
        (2, (3, 8), (0.8, 1.7)),
    ):
        x = RANDOM.normal(size=(2, 2, *(4, 5)[:axes]))
        between = "linear" if axes == 1 else "bilinear"
        for mode, align_corners in (("nearest", None), (between, False), (between, True)):
            options = {"size": size} if factors is None else {"scale_factor": factors}
            options |= {"mode": mode, "align_corners": align_corners}
            yield Row(
                f"interpolate {size}, {factors}, {mode}, {align_corners}",
                with_options(F.interpolate, options),
                (x,),
                resampled(x, size, mode, align_corners, factors),
            )


# ------------------------------------------------------------------------------------ transformers
def attended(x, memory, causal, weight, bias, out_weight, out_bias, heads=2):
    """Attention of x (L, N, E) to memory (S, N, E), query by query, added to x."""
    size, y = x.shape[2] // heads, np.zeros_like(x)
    q, k, v = (
        source @ w.T + b
        for source, w, b in zip(
            (x, memory, memory), np.split(weight, 3), np.split(bias, 3), strict=True
        )
    )
    for place, n, head in np.ndindex(*x.shape[:2], heads):
        at, seen = slice(head * size, (head + 1) * size), place + 1 if causal else None
        scores = np.exp(k[:seen, n, at] @ q[place, n, at] / math.sqrt(size))
        y[place, n, at] = scores @ v[:seen, n, at] / scores.sum()
    return y @ out_weight.T + out_bias


def transformed(x, parameters, sublayers, norm_first):
    """The sublayers, functions of x and their four parameters, each with residual and norm."""
    norms = parameters[4 * len(sublayers) :]
    for k, sublayer in enumerate(sublayers):
        part, (weight, bias) = parameters[4 * k : 4 * k + 4], norms[2 * k : 2 * k + 2]
        if norm_first:
            x = x + sublayer(standard(x, 2, 1e-5) * weight + bias, *part)
        else:
            x = standard(x + sublayer(x, *part), 2, 1e-5) * weight + bias
    return x


def feed(x, weight1, bias1, weight2, bias2):
    return np.tanh(x @ weight1.T + bias1) @ weight2.T + bias2


def transformer_rows():
    x, memory = RANDOM.normal(size=(3, 2, 4)), RANDOM.normal(size=(2, 2, 4))
    for norm_first, causal in itertools.product((False, True), repeat=2):
        options = {"dropout": 0.0, "activation": mg.tanh, "norm_first": norm_first}

        def to_itself(x, *parameters, causal=causal):
            return attended(x, x, causal, *parameters)

        def to_memory(memory):
            return lambda x, *parameters: attended(x, memory, False, *parameters)

        yield layer_row(
            f"TransformerEncoderLayer {norm_first}, {causal}",
            nn.TransformerEncoderLayer(4, 2, 3, **options),
            (x,),
            lambda x, *p, own=to_itself, f=norm_first: transformed(x, p, (own, feed), f),
            is_causal=causal,
        )
        yield layer_row(
            f"TransformerDecoderLayer {norm_first}, {causal}",
            nn.TransformerDecoderLayer(4, 2, 3, **options),
            (x, memory),
            lambda x, m, *p, own=to_itself, f=norm_first: transformed(
                x, p, (own, to_memory(m), feed), f
            ),
            tgt_is_causal=causal,
        )


TABLES = (loss_rows, norm_rows, convolution_rows, pooling_rows, padding_rows, resampling_rows)
ROWS = {row.name: row for table in (*TABLES, transformer_rows) for row in table()}
