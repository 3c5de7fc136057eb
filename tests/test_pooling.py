"""Pooling, resampling and Dropout2d: values by loops, where the gradient goes, errors."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad._core import ops
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.nn import functional

RANDOM = np.random.default_rng(0)
INF, NAN = math.inf, math.nan


def distinct(*shape):
    """No two elements closer than 0.1: perturbations do not change which is the largest."""
    return RANDOM.permutation(math.prod(shape)).reshape(shape) * 0.1


def max_by_loops(x, kernel, stride, padding, dilation):
    """On -inf around x, by the definition."""
    padded = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)), constant_values=-INF)
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    places = [(n - s) // t + 1 for n, s, t in zip(padded.shape[2:], spans, stride, strict=True)]
    y = np.zeros((*x.shape[:2], *places))
    for place in itertools.product(*map(range, places)):
        window = tuple(
            slice(i * t, i * t + s, d)
            for i, t, s, d in zip(place, stride, spans, dilation, strict=True)
        )
        y[(..., *place)] = padded[(..., *window)].max(axis=tuple(range(2, x.ndim)))
    return y


POOLS = [  # shape, kernel, stride, padding, dilation
    ((2, 3, 8), (2,), (2,), (0,), (1,)),
    ((2, 3, 9), (3,), (2,), (1,), (2,)),
    ((2, 3, 6, 8), (2, 2), (2, 2), (0, 0), (1, 1)),
    ((2, 3, 7, 9), (3, 2), (1, 3), (1, 1), (2, 1)),
    ((1, 2, 5, 5), (5, 5), (1, 1), (2, 2), (1, 1)),
    ((1, 1, 3, 1100), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((1, 1, 40, 40), (2, 2), (1, 1), (0, 0), (1, 1)),
    ((0, 3, 4, 4), (2, 2), (2, 2), (0, 0), (1, 1)),
]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", POOLS, ids=str)
def test_max_pool(case, dtype):
    shape, *options = case
    array = distinct(*shape).astype(dtype)
    pool = functional.max_pool1d if len(shape) == 3 else functional.max_pool2d
    y, places = pool(mg.asarray(array), *options, return_indices=True)
    np.testing.assert_array_equal(y.numpy(), max_by_loops(array, *options))
    assert y.dtype == dtype and places.dtype == mg.int64 and places.shape == y.shape
    flat = array.reshape(*shape[:2], math.prod(shape[2:]))
    at = places.numpy().reshape(*shape[:2], math.prod(y.shape[2:]))
    taken = np.take_along_axis(flat, at, -1)
    np.testing.assert_array_equal(taken.reshape(y.shape), y.numpy())
    for view in (array[..., ::-1], np.asfortranarray(array)):
        result = pool(mg.asarray(view), *options)
        np.testing.assert_array_equal(result.numpy(), max_by_loops(view, *options))


@pytest.mark.parametrize("case", POOLS[:5], ids=str)
def test_max_pool_gradients(case):
    shape, *options = case
    x = mg.tensor(distinct(*shape), requires_grad=True)
    pool = functional.max_pool1d if len(shape) == 3 else functional.max_pool2d
    assert gradcheck(lambda x: pool(x, *options), x)
    assert gradgradcheck(lambda x: mg.square(pool(x, *options)), x)


@pytest.mark.parametrize(
    ("row", "value", "gradient"),
    [
        ([1.0, 1.0, 1.0, 1.0], 1.0, [1, 0, 0, 0]),
        ([0.0, 2.0, 2.0, 1.0], 2.0, [0, 1, 0, 0]),
        ([-INF, -INF, -INF, -INF], -INF, [1, 0, 0, 0]),
        ([1.0, NAN, INF, 2.0], NAN, [0, 1, 0, 0]),
        ([NAN, INF, 1.0, 1.0], NAN, [1, 0, 0, 0]),
        ([-0.0, 0.0, -1.0, -1.0], 0.0, [1, 0, 0, 0]),
    ],
    ids=str,
)
def test_the_first_maximum_has_the_gradient_and_a_nan_wins(row, value, gradient):
    for shape, pool in (((1, 1, 4), nn.MaxPool1d(4)), ((1, 2, 2), nn.MaxPool2d(2))):
        x = mg.tensor(np.reshape(row, shape), requires_grad=True)
        y = pool(x)
        np.testing.assert_array_equal(y.item(), value)
        y.sum().backward()
        assert x.grad.numpy().ravel().tolist() == gradient


def test_overlapping_windows_add_their_gradients():
    x = mg.tensor([[[0.0, 5.0, 1.0]]], requires_grad=True)
    nn.MaxPool1d(2, stride=1)(x).sum().backward()
    assert x.grad.tolist() == [[[0.0, 2.0, 0.0]]]


def test_positions_given_away_do_not_change_the_gradient():
    x = mg.tensor([[[0.0, 5.0, 1.0, 2.0]]], requires_grad=True)
    y, places = functional.max_pool1d(x, 2, return_indices=True)
    places.zero_()
    y.sum().backward()
    assert x.grad.tolist() == [[[0.0, 1.0, 0.0, 1.0]]]


def test_ceil_mode_takes_windows_that_begin_inside():
    x = mg.arange(5.0).reshape(1, 1, 5)
    assert nn.MaxPool1d(2, ceil_mode=True)(x).tolist() == [[[1.0, 3.0, 4.0]]]
    assert nn.MaxPool1d(2, 3, 1, ceil_mode=True)(x).tolist() == [[[0.0, 3.0]]]
    assert nn.AvgPool1d(2, ceil_mode=True)(x).tolist() == [[[0.5, 2.5, 4.0]]]


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_every_window_of_a_row(ceil_mode, dilation):
    """Against the definition: which windows exist, and what each covers."""
    for size, kernel, stride, padding in itertools.product(
        range(1, 8), (1, 2, 3, 4), (1, 2, 3, 5), (0, 1, 2)
    ):
        span = dilation * (kernel - 1) + 1
        room = size + 2 * padding - span
        if 2 * padding > span or (room < 0 and not (ceil_mode and room > -stride)):
            continue
        starts = list(range(-padding, size + padding, stride))
        starts = [s for s in starts if s + span <= size + padding or (ceil_mode and s < size)]
        if ceil_mode:  # at most one window extends beyond the padding
            whole = [s for s in starts if s + span <= size + padding]
            starts = starts[: len(whole) + (room % stride > 0)]
        x = RANDOM.permutation(size) + 1.0
        seen = [[p for p in range(s, s + span, dilation) if 0 <= p < size] for s in starts]
        options = kernel, stride, padding
        pool = nn.MaxPool1d(*options, dilation=dilation, ceil_mode=ceil_mode)
        if all(seen):
            y = pool(mg.tensor(x).reshape(1, 1, size))
            assert y.tolist() == [[[x[window].max() for window in seen]]]
        else:
            with pytest.raises(ValueError, match=r"MaxPool1d: window . over .* is all padding"):
                pool(mg.tensor(x).reshape(1, 1, size))
        for include in (True, False) if dilation == 1 else ():
            ends = [min(s + span, size + padding) for s in starts]
            counts = [e - s for s, e in zip(starts, ends, strict=True)]
            counts = counts if include else [len(window) for window in seen]
            means = [x[window].sum() / n for window, n in zip(seen, counts, strict=True)]
            y = nn.AvgPool1d(*options, ceil_mode, include)(mg.tensor(x).reshape(1, 1, size))
            np.testing.assert_allclose(y.numpy()[0, 0], means, rtol=1e-14)


def test_one_size_in_a_tuple_is_for_every_axis():
    x = mg.tensor(distinct(2, 3, 7, 8))
    expected = functional.max_pool2d(x, 2, 2, 1, 1).tolist()
    for kernel, stride, padding, dilation in (((2,), (2,), (1,), (1,)), ([2], 2, [1], 1)):
        assert functional.max_pool2d(x, kernel, stride, padding, dilation).tolist() == expected
        assert nn.MaxPool2d(kernel, stride, padding, dilation)(x).tolist() == expected
    expected = functional.avg_pool2d(x, 2, 2, 1).tolist()
    assert functional.avg_pool2d(x, 2, 2, padding=(1,)).tolist() == expected
    assert nn.AvgPool2d((2,), (2,), (1,))(x).tolist() == expected
    three = np.int64(3)
    assert nn.AvgPool2d(three, three, np.uint8(1))(x).shape == nn.AvgPool2d(3, 3, 1)(x).shape
    assert "kernel_size=3, stride=(3, 2), padding=0" in repr(nn.MaxPool2d(three, (three, 2)))
    assert nn.AdaptiveAvgPool2d(three)(x).shape == (2, 3, 3, 3)
    assert (
        functional.avg_pool2d(x, 2, divisor_override=-4).tolist()
        == (-functional.avg_pool2d(x, 2)).tolist()
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.AdaptiveMaxPool2d(1),
        nn.Upsample(scale_factor=2),
    ],
    ids=repr,
)
def test_an_empty_batch(layer):
    x = mg.zeros(0, 3, 6, 6, requires_grad=True)
    y = layer(x)
    assert y.shape == (0, *layer(mg.zeros(1, 3, 6, 6)).shape[1:])
    y.sum().backward()
    assert x.grad.shape == x.shape


# ------------------------------------------------------------------------------------------ means
def test_avg_pool_values():
    x = RANDOM.normal(size=(2, 3, 6, 8))
    expected = x.reshape(2, 3, 3, 2, 4, 2).mean(axis=(3, 5))
    np.testing.assert_allclose(nn.AvgPool2d(2)(mg.tensor(x)).numpy(), expected, rtol=1e-12)
    row = mg.tensor([[1.0, 2.0, 3.0]])
    assert functional.avg_pool1d(row, 2, 1, 1).tolist() == [[0.5, 1.5, 2.5, 1.5]]
    one_sided = functional.avg_pool1d(row, 2, 1, 1, count_include_pad=False)
    assert one_sided.tolist() == [[1.0, 1.5, 2.5, 3.0]]
    assert functional.avg_pool2d(mg.ones(1, 4, 4), 2, divisor_override=8).tolist() == [
        [[0.5, 0.5], [0.5, 0.5]]
    ]


def test_a_nan_stays_in_its_window():
    x = np.ones((1, 1, 6, 6))
    x[0, 0, 0, 0] = NAN
    x[0, 0, 5, 5] = INF
    for y in (
        nn.AvgPool2d(2)(mg.tensor(x)),
        nn.AdaptiveAvgPool2d(4)(mg.tensor(x)),
        nn.MaxPool2d(3)(mg.tensor(x)),
    ):
        values = y.numpy()[0, 0]
        assert np.isnan(values[0, 0]) and values[-1, -1] == INF
        assert np.isfinite(values).sum() == values.size - 2


@pytest.mark.parametrize(
    "layer",
    [
        nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
        nn.AdaptiveAvgPool2d((2, 3)),
        nn.AdaptiveAvgPool2d((5, 2)),
        nn.Upsample(scale_factor=2),
        nn.Upsample(size=(3, 7)),
        nn.Upsample(size=(3, 7), mode="bilinear"),
        nn.ReflectionPad2d(1),
    ],
    ids=repr,
)
def test_linear_layers_have_gradients_to_second_order(layer):
    x = mg.tensor(RANDOM.normal(size=(2, 2, 4, 6)), requires_grad=True)
    assert gradcheck(layer, x) and gradgradcheck(lambda x: mg.square(layer(x)), x)


@pytest.mark.parametrize("n", range(1, 10))
@pytest.mark.parametrize("size", [5, 6])
def test_adaptive_windows(size, n):
    x = RANDOM.normal(size=(2, 3, size))
    bounds = [(i * size // n, -(-(i + 1) * size // n)) for i in range(n)]
    means = np.stack([x[..., a:b].mean(-1) for a, b in bounds], -1)
    np.testing.assert_allclose(nn.AdaptiveAvgPool1d(n)(mg.tensor(x)).numpy(), means, rtol=1e-12)
    image = np.stack([x, -x], -2)
    largest = np.stack([image[..., a:b].max(-1) for a, b in bounds], -1)
    y = nn.AdaptiveMaxPool2d((None, n))(mg.tensor(image))
    np.testing.assert_array_equal(y.numpy(), largest)


def test_upsample_repeats():
    x = RANDOM.normal(size=(2, 3, 4, 5))
    y = nn.Upsample(scale_factor=(2, 3))(mg.tensor(x))
    np.testing.assert_array_equal(y.numpy(), x.repeat(2, 2).repeat(3, 3))
    small = functional.interpolate(mg.tensor(x), size=(2, 5))
    np.testing.assert_array_equal(small.numpy(), x[:, :, ::2])


def test_a_nan_stays_between_its_neighbours():
    x = np.ones((1, 1, 8, 8), np.float32)
    x[0, 0, 3, 3] = np.nan
    y = nn.Upsample(scale_factor=2, mode="bilinear")(mg.tensor(x)).numpy()[0, 0]
    assert np.isnan(y[5:9, 5:9]).all() and np.isnan(y).sum() == 16


def test_a_ramp_stays_a_ramp():
    ramp = mg.tensor(np.linspace(0.0, 1.0, 5)[None, None])
    y = functional.interpolate(ramp, 17, mode="linear", align_corners=True)
    np.testing.assert_allclose(y.numpy()[0, 0], np.linspace(0.0, 1.0, 17), rtol=1e-15)
    assert functional.interpolate(ramp, 5, mode="linear").tolist() == ramp.tolist()


# --------------------------------------------------------------------------------------- dropout
def test_dropout2d_zeroes_channels():
    mg.manual_seed(0)
    x = mg.ones(50, 40, 2, 3, requires_grad=True)
    y = nn.Dropout2d(0.25)(x)
    channels = y.numpy().reshape(2000, 6)
    assert set(np.unique(channels.std(axis=1))) == {0.0}
    assert abs((channels[:, 0] == 0).mean() - 0.25) < 0.03
    np.testing.assert_allclose(channels[channels != 0], 4 / 3, rtol=1e-6)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())
    assert nn.Dropout2d(0.5).eval()(x) is x
    with pytest.raises(ValueError, match="dropout2d: expected"):
        nn.Dropout2d()(mg.ones(2, 3))


# ---------------------------------------------------------------------------------------- errors
ERRORS = [
    (
        lambda: nn.MaxPool2d(3)(mg.ones(1, 1, 2, 5)),
        ValueError,
        "MaxPool2d: a window of 3 .* larger",
    ),
    (
        lambda: nn.MaxPool2d(3, padding=2)(mg.ones(1, 1, 5, 5)),
        ValueError,
        "MaxPool2d: padding must be at most half .* kernel_size=3, stride=3, padding=2, dilation=1",
    ),
    (
        lambda: functional.max_pool1d(mg.ones(1, 1, 5), 2, padding=2, dilation=2),
        ValueError,
        "max_pool1d: padding must be at most half of the window, which spans 3",
    ),
    (
        lambda: nn.AvgPool1d(2, padding=2)(mg.ones(1, 1, 5)),
        ValueError,
        "AvgPool1d: padding must be at most half .* kernel_size=2, stride=2, padding=2",
    ),
    (
        lambda: nn.MaxPool1d(2, 1, 1, dilation=3)(mg.ones(1, 1, 2)),
        ValueError,
        "MaxPool1d: window 0 over the 2 elements of an axis is all padding with kernel_size=2, "
        "stride=1, padding=1, dilation=3",
    ),
    (
        lambda: functional.max_pool2d(mg.ones(1, 5, 1), (1, 3), 5, (0, 1), (1, 2), ceil_mode=True),
        ValueError,
        "max_pool2d: window 0 over the 1 elements of an axis is all padding",
    ),
    (lambda: nn.MaxPool2d(3, stride=0), ValueError, "MaxPool2d: stride must be"),
    (lambda: nn.MaxPool2d(2.0), TypeError, "MaxPool2d: kernel_size must be an int"),
    (lambda: nn.MaxPool1d(2)(mg.ones(4)), ValueError, r"MaxPool1d: expected .* got \(4,\)"),
    (lambda: nn.MaxPool2d(1)(mg.ones(1, 1, 0, 5)), ValueError, "none of these sizes 0"),
    (lambda: nn.AvgPool2d(2, padding=-1), ValueError, "AvgPool2d: padding"),
    (lambda: nn.AvgPool1d(4)(mg.ones(1, 1, 3)), ValueError, "AvgPool1d: a window of 4"),
    (
        lambda: functional.avg_pool2d(mg.ones(1, 2, 2), 2, divisor_override=0),
        ValueError,
        "avg_pool2d: divisor_override must not be 0",
    ),
    (lambda: nn.AdaptiveAvgPool2d(0)(mg.ones(1, 1, 3, 3)), ValueError, "output_size must be pos"),
    (lambda: nn.AdaptiveAvgPool2d((1,))(mg.ones(1, 1, 3, 3)), ValueError, "must have 2 sizes"),
    (lambda: functional.interpolate(mg.ones(1, 1, 3)), ValueError, "either size or scale_factor"),
    (lambda: functional.interpolate(mg.ones(1, 1, 3, 3), (2,)), ValueError, "an int or 2 ints"),
    (
        lambda: nn.Upsample(2, mode="bicubic")(mg.ones(1, 1, 3)),
        ValueError,
        "'nearest', 'linear' or",
    ),
    (lambda: functional.interpolate(mg.ones(1, 3), 2), ValueError, r"shape \(N, C, \.\.\.\)"),
    (lambda: functional.interpolate(mg.ones(1, 1, 0), 2), ValueError, r"got \(1, 1, 0\)"),
    (lambda: functional.interpolate(mg.ones(1, 1, 3, 0), 2), ValueError, r"got \(1, 1, 3, 0\)"),
    (lambda: nn.Upsample(scale_factor="2")(mg.ones(1, 1, 3)), TypeError, "must be a number"),
    (lambda: nn.Upsample(scale_factor=0)(mg.ones(1, 1, 3)), ValueError, "must be positive"),
    (lambda: nn.Upsample(scale_factor=0.1)(mg.ones(1, 1, 3)), ValueError, "an empty output"),
    (
        lambda: ops.window_max(mg.ones(4), [[2]], [[2]], [1]),
        ValueError,
        "window_max: a window from",
    ),
    (lambda: ops.window_max(mg.ones(4), [[2]], [[5]], [1]), ValueError, "exceeds its axis of 4"),
    (lambda: ops.window_max(mg.ones(4), [[0, 1]], [[1]], [1]), ValueError, "of the same length"),
    (lambda: ops.window_max(mg.ones(4), [[0]], [[1]], [0]), ValueError, "positive steps"),
    (lambda: ops.window_max(mg.ones(4), [], [], []), ValueError, "one or two axes"),
]


@pytest.mark.parametrize(("call", "error", "message"), ERRORS)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()
