"""Convolution and pooling vs. PyTorch: forward, gradients, second order, state dicts, errors."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.autograd import grad

torch = pytest.importorskip("torch")

from peers import DTYPES, both, check_layer, close, pair, peer, random_array  # noqa: E402

# ---------------------------------------------------------------------------------------- layers
PADS = [name for name in nn.__all__ if "Pad" in name]
LAYERS = {
    "Conv1d": (lambda n: n.Conv1d(3, 4, 3), (2, 3, 8)),
    "Conv1d stride, padding, dilation": (
        lambda n: n.Conv1d(3, 4, 3, stride=2, padding=2, dilation=2),
        (2, 3, 9),
    ),
    "Conv1d groups, no bias": (lambda n: n.Conv1d(4, 6, 2, groups=2, bias=False), (3, 4, 5)),
    "Conv1d same": (lambda n: n.Conv1d(2, 3, 4, padding="same", dilation=3), (2, 2, 7)),
    "Conv1d circular": (
        lambda n: n.Conv1d(2, 3, 3, padding=2, padding_mode="circular"),
        (2, 2, 5),
    ),
    "Conv1d unbatched": (lambda n: n.Conv1d(3, 4, 3), (3, 8)),
    "Conv2d": (lambda n: n.Conv2d(3, 4, 3, padding=1), (2, 3, 6, 5)),
    "Conv2d 1x1": (lambda n: n.Conv2d(3, 4, 1), (2, 3, 4, 5)),
    "Conv2d 1x1 strided": (lambda n: n.Conv2d(3, 4, 1, stride=2), (2, 3, 5, 5)),
    "Conv2d rectangular": (
        lambda n: n.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(0, 2), dilation=(1, 3)),
        (3, 2, 9, 8),
    ),
    "Conv2d groups": (lambda n: n.Conv2d(4, 8, 3, padding=1, groups=2), (2, 4, 5, 5)),
    "Conv2d depthwise": (lambda n: n.Conv2d(4, 4, 3, groups=4, bias=False), (2, 4, 5, 6)),
    "Conv2d same": (lambda n: n.Conv2d(2, 3, (4, 3), padding="same"), (2, 2, 5, 6)),
    "Conv2d valid": (lambda n: n.Conv2d(2, 3, 3, padding="valid"), (2, 2, 5, 6)),
    "Conv2d reflect": (
        lambda n: n.Conv2d(2, 3, 3, padding=(2, 1), padding_mode="reflect"),
        (2, 2, 5, 6),
    ),
    "Conv2d replicate": (
        lambda n: n.Conv2d(2, 3, 3, padding=2, padding_mode="replicate", stride=2),
        (2, 2, 5, 6),
    ),
    "Conv2d same, reflect": (
        lambda n: n.Conv2d(2, 3, 4, padding="same", padding_mode="reflect"),
        (2, 2, 5, 6),
    ),
    "Conv2d unbatched": (lambda n: n.Conv2d(3, 4, 3, padding=1), (3, 6, 5)),
    "Conv2d of one pixel": (lambda n: n.Conv2d(3, 4, 3, padding=1), (1, 3, 1, 1)),
    "ConvTranspose1d": (lambda n: n.ConvTranspose1d(3, 4, 3), (2, 3, 5)),
    "ConvTranspose1d options": (
        lambda n: n.ConvTranspose1d(4, 6, 3, stride=3, padding=1, output_padding=2, groups=2),
        (2, 4, 5),
    ),
    "ConvTranspose2d": (lambda n: n.ConvTranspose2d(3, 4, 2, stride=2), (2, 3, 4, 5)),
    "ConvTranspose2d options": (
        lambda n: n.ConvTranspose2d(
            4, 6, (3, 2), (2, 3), (1, 0), (1, 2), groups=2, bias=False, dilation=(2, 1)
        ),
        (2, 4, 4, 3),
    ),
    "ConvTranspose2d output padding beyond the stride": (
        lambda n: n.ConvTranspose2d(2, 3, 2, stride=1, output_padding=2, dilation=3),
        (2, 2, 4, 3),
    ),
    "ConvTranspose2d unbatched": (lambda n: n.ConvTranspose2d(3, 4, 3, padding=1), (3, 4, 5)),
    "MaxPool1d": (lambda n: n.MaxPool1d(2), (2, 3, 7)),
    "MaxPool1d options": (lambda n: n.MaxPool1d(3, 2, 1, 2, ceil_mode=True), (3, 8)),
    "MaxPool2d": (lambda n: n.MaxPool2d(2), (2, 3, 6, 8)),
    "MaxPool2d long rows": (lambda n: n.MaxPool2d(2), (1, 1, 4, 1500)),
    "MaxPool2d overlapping": (lambda n: n.MaxPool2d(3, stride=2, padding=1), (2, 3, 7, 8)),
    "MaxPool2d stride 1": (lambda n: n.MaxPool2d(2, stride=1), (2, 3, 11, 13)),
    "MaxPool2d options": (
        lambda n: n.MaxPool2d((3, 2), (2, 3), (1, 1), (2, 1), ceil_mode=True),
        (2, 2, 9, 10),
    ),
    "MaxPool2d unbatched": (lambda n: n.MaxPool2d(2), (3, 6, 8)),
    "AvgPool1d": (lambda n: n.AvgPool1d(3, 2, 1), (2, 3, 8)),
    "AvgPool2d": (lambda n: n.AvgPool2d(2), (2, 3, 6, 8)),
    "AvgPool2d ceil mode": (
        lambda n: n.AvgPool2d(3, stride=2, padding=1, ceil_mode=True),
        (2, 3, 8, 6),
    ),
    "AvgPool2d without the padding": (
        lambda n: n.AvgPool2d((3, 2), 2, 1, ceil_mode=True, count_include_pad=False),
        (2, 3, 6, 7),
    ),
    "AvgPool2d divisor": (lambda n: n.AvgPool2d(3, 2, divisor_override=5), (3, 7, 9)),
    "AdaptiveAvgPool1d": (lambda n: n.AdaptiveAvgPool1d(3), (2, 3, 7)),
    "AdaptiveAvgPool2d": (lambda n: n.AdaptiveAvgPool2d((2, 3)), (2, 3, 4, 6)),
    "AdaptiveAvgPool2d uneven": (lambda n: n.AdaptiveAvgPool2d((3, None)), (2, 3, 7, 5)),
    "AdaptiveAvgPool2d larger": (lambda n: n.AdaptiveAvgPool2d((5, 7)), (3, 4, 3)),
    "AdaptiveAvgPool2d global": (lambda n: n.AdaptiveAvgPool2d(1), (2, 3, 5, 4)),
    "AdaptiveMaxPool2d": (lambda n: n.AdaptiveMaxPool2d((3, 2)), (2, 3, 7, 5)),
    "Upsample": (lambda n: n.Upsample(scale_factor=2), (2, 3, 4, 5)),
    "Upsample to a size": (lambda n: n.Upsample(size=(7, 3)), (2, 3, 4, 5)),
    "Upsample by fractions": (lambda n: n.Upsample(scale_factor=(1.5, 0.6)), (2, 3, 4, 6)),
    "Upsample 1d": (lambda n: n.Upsample(scale_factor=3), (2, 3, 4)),
    **{
        f"Upsample {mode}, {options}, align_corners={align}": (
            lambda n, m=mode, o=options, a=align: n.Upsample(mode=m, align_corners=a, **o),
            (2, 3, 4, 6)[: 3 + (mode == "bilinear")],
        )
        for mode, options in [
            ("linear", {"scale_factor": 2}),
            ("linear", {"size": 3}),
            ("linear", {"scale_factor": 1.9}),
            ("bilinear", {"scale_factor": 2}),
            ("bilinear", {"size": (7, 3)}),
            ("bilinear", {"size": 1}),
            ("bilinear", {"scale_factor": (1.5, 0.6)}),
            ("bilinear", {"size": (4, 6)}),
        ]
        for align in (None, False, True)
    },
    **{
        f"{name}, {widths}, of {shape}": (
            lambda n, k=name, w=widths: getattr(n, k)(w, *[1.5] * k.startswith("Const")),
            shape,
        )
        for name in PADS
        for widths, shape in (
            [(2, (2, 3, 4)), ((1, 2), (3, 4)), ((2, -1), (2, 3, 4)), ((0, 0), (2, 3, 4))]
            if "1d" in name
            else [(2, (2, 3, 4, 5)), ((1, 2, 0, 3), (3, 4, 5)), ((-1, 2, 1, -2), (2, 3, 4, 5))]
        )
    },
    "Unflatten": (lambda n: n.Unflatten(1, (3, 2)), (2, 6, 4)),
    "Unflatten last": (lambda n: n.Unflatten(-1, (2, -1)), (2, 6, 4)),
    "Dropout2d": (lambda n: n.Dropout2d(0.0), (2, 3, 4, 5)),
    "CNN": (
        lambda n: n.Sequential(
            n.Conv2d(1, 4, 3, padding=1),
            n.BatchNorm2d(4),
            n.ReLU(),
            n.MaxPool2d(2),
            n.Conv2d(4, 6, 3),
            n.AdaptiveAvgPool2d(1),
            n.Flatten(),
            n.Linear(6, 3),
        ),
        (4, 1, 8, 8),
    ),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@peer("nn.Conv1d", "nn.Conv2d", "nn.ConvTranspose1d", "nn.ConvTranspose2d")
@peer("nn.MaxPool1d", "nn.MaxPool2d", "nn.AvgPool1d", "nn.AvgPool2d")
@peer("nn.AdaptiveAvgPool1d", "nn.AdaptiveAvgPool2d", "nn.AdaptiveMaxPool2d")
@peer("nn.Upsample", "nn.Dropout2d", "nn.Unflatten")
@peer("nn.CircularPad1d", "nn.CircularPad2d", "nn.ConstantPad1d", "nn.ConstantPad2d")
@peer("nn.ReflectionPad1d", "nn.ReflectionPad2d", "nn.ReplicationPad1d", "nn.ReplicationPad2d")
@peer("nn.ZeroPad1d", "nn.ZeroPad2d")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name, dtype):
    build, shape = LAYERS[name]
    check_layer(build, random_array(shape, dtype), dtype)
    ours, theirs = build(nn), build(torch.nn)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert one.shape == tuple(other.shape)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize(
    "name",
    [
        name
        for name in LAYERS
        if name.startswith(("Conv", "AvgPool", "MaxPool")) and "long" not in name
    ],
)
def test_second_order(name):
    build, shape = LAYERS[name]
    ours, theirs = pair(build, "float64")
    x, tx = both(random_array(shape, "float64"))
    y, ty = ours(x), theirs(tx)
    u, tu = both(random_array(y.shape, "float64", 2))
    inputs, others = [x, *ours.parameters()], [tx, *theirs.parameters()]
    first = grad(mg.tanh(y), inputs, u, create_graph=True)
    expected = torch.autograd.grad(torch.tanh(ty), others, tu, create_graph=True)
    for one, other in zip(first, expected, strict=True):
        close(one, other, "float64", 10)
    v = random_array(shape, "float64", 3)
    second = grad((first[0] * mg.tensor(v)).sum(), [*inputs, u])
    wanted = torch.autograd.grad((expected[0] * torch.tensor(v)).sum(), [*others, tu])
    for one, other in zip(second, wanted, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("options", [{}, {"stride": 1, "padding": 1}, {"ceil_mode": True}], ids=str)
def test_indices_of_maxima(options):
    x = random_array((2, 3, 7, 5), "float32")
    for ours, theirs, array in (
        (nn.MaxPool2d, torch.nn.MaxPool2d, x),
        (nn.MaxPool1d, torch.nn.MaxPool1d, x[0]),
    ):
        y, places = ours(2, return_indices=True, **options)(mg.tensor(array))
        ty, expected = theirs(2, return_indices=True, **options)(torch.tensor(array))
        close(y, ty, "float32")
        np.testing.assert_array_equal(places.numpy(), expected.numpy())
    y, places = nn.AdaptiveMaxPool2d((3, 2), return_indices=True)(mg.tensor(x))
    ty, expected = torch.nn.AdaptiveMaxPool2d((3, 2), return_indices=True)(torch.tensor(x))
    np.testing.assert_array_equal(places.numpy(), expected.numpy())


def test_ties_and_nan_of_maxima():
    array = np.array([[[1.0, 1.0, 0.0, np.nan], [1.0, 0.0, np.inf, 2.0]]])
    x, tx = both(array)
    y, ty = nn.MaxPool2d(2)(x), torch.nn.MaxPool2d(2)(tx)
    close(y, ty, "float64")
    y.backward(mg.ones_like(y))
    ty.backward(torch.ones_like(ty))
    close(x.grad, tx.grad, "float64")


@peer("nn.functional.pad")
@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("widths", [(1, 2), (2, 0, 1, 1), (-1, 2, 0, -2)], ids=str)
def test_pad(widths, mode):
    shape = (2, 3, 4) if mode != "constant" and len(widths) == 2 else (2, 3, 4, 5)
    if mode == "circular" and min(widths) < 0:
        widths = tuple(map(abs, widths))
    x, tx = both(random_array(shape, "float64"))
    value = 1.5 if mode == "constant" else 0
    y = nn.functional.pad(x, widths, mode, value)
    ty = torch.nn.functional.pad(tx, widths, mode, value)
    close(y, ty, "float64")
    u, tu = both(random_array(y.shape, "float64", 2), False)
    y.backward(u)
    ty.backward(tu)
    close(x.grad, tx.grad, "float64")


FUNCTIONS = {
    "conv1d": ((2, 4, 9), (6, 2, 3), {"stride": 2, "padding": 1, "groups": 2}),
    "conv2d": ((2, 2, 9, 8), (3, 2, 3, 2), {"padding": "same", "dilation": 2}),
    "conv_transpose1d": ((2, 4, 5), (4, 3, 3), {"stride": 2, "groups": 2, "output_padding": 1}),
    "conv_transpose2d": ((2, 2, 4, 5), (2, 3, 3, 2), {"stride": (2, 1), "padding": 1}),
}


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@peer("nn.functional.conv1d", "nn.functional.conv2d")
@peer("nn.functional.conv_transpose1d", "nn.functional.conv_transpose2d")
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functional(name):
    shape, weight_shape, options = FUNCTIONS[name]
    x, tx = both(random_array(shape, "float64"))
    w, tw = both(random_array(weight_shape, "float64", 1))
    y = getattr(nn.functional, name)(x, w, **options)
    ty = getattr(torch.nn.functional, name)(tx, tw, **options)
    close(y, ty, "float64")
    u, tu = both(random_array(y.shape, "float64", 2), False)
    y.backward(u)
    ty.backward(tu)
    close(x.grad, tx.grad, "float64", 10)
    close(w.grad, tw.grad, "float64", 10)


@peer("nn.ConvTranspose2d")
@pytest.mark.parametrize("size", [(10, 9), (9, 10), (2, 3, 9, 9)], ids=str)
def test_output_size(size):
    ours, theirs = pair(lambda n: n.ConvTranspose2d(2, 3, 3, stride=2, padding=1), "float32")
    x, tx = both(random_array((2, 2, 5, 5), "float32"))
    close(ours(x, output_size=size), theirs(tx, output_size=size), "float32")


# -------------------------------------------------------------------------------- starting values
@pytest.mark.parametrize(
    "build",
    [
        lambda n: n.Conv2d(8, 300, 3),
        lambda n: n.Conv1d(8, 300, 9, groups=4),
        lambda n: n.ConvTranspose2d(8, 1200, 2, groups=2),
    ],
)
def test_starts_in_the_same_distribution(build):
    mg.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = build(nn), build(torch.nn)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        one, other = one.numpy(), other.detach().numpy()
        bound = np.abs(other).max()
        assert abs(np.abs(one).max() / bound - 1) < 0.02
        quarters = np.linspace(0, 1, 5)
        np.testing.assert_allclose(
            np.quantile(one, quarters), np.quantile(other, quarters), atol=0.2 * bound
        )


# ----------------------------------------------------------------------------------------- errors
ERRORS = {
    "a kernel larger than the input": (lambda n: n.Conv2d(1, 1, 5), (1, 1, 4, 9)),
    "too many channels": (lambda n: n.Conv2d(2, 1, 3), (1, 3, 4, 4)),
    "too many dimensions": (lambda n: n.Conv2d(2, 1, 3), (1, 1, 2, 4, 4)),
    "groups that do not divide": (lambda n: n.Conv2d(3, 2, 3, groups=2), (1, 3, 4, 4)),
    "same with a stride": (lambda n: n.Conv1d(3, 2, 3, stride=2, padding="same"), (1, 3, 4)),
    "stride 0": (lambda n: n.Conv2d(3, 2, 3, stride=0), (1, 3, 4, 4)),
    "dilation 0": (lambda n: n.Conv2d(3, 2, 3, dilation=0), (1, 3, 4, 4)),
    "negative padding": (lambda n: n.Conv2d(3, 2, 3, padding=-1), (1, 3, 4, 4)),
    "an unknown padding": (lambda n: n.Conv2d(3, 2, 3, padding="half"), (1, 3, 4, 4)),
    "an unknown padding mode": (lambda n: n.Conv2d(3, 2, 3, padding_mode="edge"), (1, 3, 4, 4)),
    "a long reflection": (
        lambda n: n.Conv1d(3, 2, 3, padding=4, padding_mode="reflect"),
        (1, 3, 4),
    ),
    "a large output padding": (
        lambda n: n.ConvTranspose2d(1, 1, 3, stride=2, output_padding=2),
        (1, 1, 3, 3),
    ),
    "padding mode of a transposed convolution": (
        lambda n: n.ConvTranspose2d(1, 1, 3, padding_mode="reflect"),
        (1, 1, 3, 3),
    ),
    "no output": (lambda n: n.ConvTranspose1d(1, 1, 1, padding=2), (1, 1, 3)),
    "a pool larger than the input": (lambda n: n.MaxPool2d(5), (1, 1, 4, 4)),
    "a pool with too much padding": (lambda n: n.MaxPool2d(3, padding=2), (1, 1, 4, 4)),
    "an average with too much padding": (lambda n: n.AvgPool2d(3, padding=2), (1, 1, 4, 4)),
    "a pool of stride 0": (lambda n: n.MaxPool1d(2, stride=0), (1, 1, 4)),
    "a pool of too few dimensions": (lambda n: n.MaxPool2d(2), (4, 4)),
    "a negative adaptive size": (lambda n: n.AdaptiveAvgPool2d(-1), (1, 1, 4, 4)),
    "an upsampling without a size": (lambda n: n.Upsample(), (1, 1, 4, 4)),
    "linear for images": (lambda n: n.Upsample(2, mode="linear"), (1, 1, 4, 4)),
    "bilinear for rows": (lambda n: n.Upsample(2, mode="bilinear"), (1, 1, 4)),
    "corners of the nearest": (lambda n: n.Upsample(2, align_corners=False), (1, 1, 4)),
    "an unknown resampling": (lambda n: n.Upsample(2, mode="cubic"), (1, 1, 4)),
    "an unflattening of other sizes": (lambda n: n.Unflatten(1, (2, 2)), (1, 6)),
    "an unflattening by no divisor": (lambda n: n.Unflatten(1, (4, -1)), (1, 6)),
    "an unflattening of two unknowns": (lambda n: n.Unflatten(1, (-1, -1)), (1, 6)),
    "a reflection as long as the axis": (lambda n: n.ReflectionPad1d(4), (1, 2, 4)),
    "more than a turn": (lambda n: n.CircularPad1d(5), (1, 2, 4)),
    "three widths": (lambda n: n.ZeroPad1d((1, 2, 3)), (4,)),
}


@pytest.mark.parametrize("name", ERRORS)
def test_both_refuse(name):
    build, shape = ERRORS[name]
    with pytest.raises((ValueError, RuntimeError, TypeError)):
        build(torch.nn)(torch.zeros(shape))
    with pytest.raises((ValueError, TypeError)):
        build(nn)(mg.zeros(*shape))
