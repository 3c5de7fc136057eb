"""Windows, convolution and transposed convolution: values by loops and SciPy, gradients, errors."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad._core import ops
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.nn import functional

RANDOM = np.random.default_rng(0)


def leaf(*shape, dtype=np.float64):
    return mg.tensor(RANDOM.normal(size=shape).astype(dtype), requires_grad=True)


def conv_by_loops(x, weight, stride, padding, dilation, groups):
    """The definition, one output after another."""
    x = np.pad(x, ((0, 0), (0, 0), *((p, p) for p in padding)))
    outputs, channels, *kernel = weight.shape
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    places = [(n - s) // t + 1 for n, s, t in zip(x.shape[2:], spans, stride, strict=True)]
    y = np.zeros((len(x), outputs, *places))
    for o, *place in itertools.product(range(outputs), *map(range, places)):
        first = o // (outputs // groups) * channels
        window = tuple(
            slice(i * t, i * t + s, d)
            for i, t, s, d in zip(place, stride, spans, dilation, strict=True)
        )
        patch = x[(slice(None), slice(first, first + channels), *window)]
        y[(slice(None), o, *place)] = (patch * weight[o]).sum(tuple(range(1, x.ndim)))
    return y


CONVOLUTIONS = [  # shapes of x and weight, stride, padding, dilation, groups
    ((2, 3, 7), (4, 3, 3), (1,), (0,), (1,), 1),
    ((2, 4, 9), (6, 2, 2), (2,), (3,), (3,), 2),
    ((2, 3, 6, 5), (4, 3, 3, 3), (1, 1), (1, 1), (1, 1), 1),
    ((2, 3, 6, 7), (4, 3, 2, 3), (2, 3), (0, 2), (2, 1), 1),
    ((1, 4, 5, 5), (4, 1, 3, 3), (1, 1), (1, 0), (1, 1), 4),
    ((3, 2, 4, 4), (5, 2, 1, 1), (1, 1), (0, 0), (1, 1), 1),
    ((0, 2, 4, 4), (5, 2, 3, 3), (1, 1), (0, 0), (1, 1), 1),
]


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=str)
def test_conv_is_the_sum_of_products(case):
    shape, weight_shape, *options = case
    x, weight = leaf(*shape), leaf(*weight_shape)
    conv = functional.conv1d if len(shape) == 3 else functional.conv2d
    stride, padding, dilation, groups = options
    y = conv(x, weight, None, stride, padding, dilation, groups)
    expected = conv_by_loops(x.numpy(), weight.numpy(), *options)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-12, atol=1e-12)


def test_same_padding_of_even_kernels_has_the_odd_zero_behind():
    """As in PyTorch: nothing before the first element, one zero after the last."""
    x, weight = mg.tensor([[1.0, 2.0, 3.0]]), mg.tensor([[[1.0, 10.0]]])
    assert functional.conv1d(x, weight, padding="same").tolist() == [[21.0, 32.0, 3.0]]
    x, weight = mg.tensor([[[1.0, 2.0], [3.0, 4.0]]]), mg.tensor([[[[1.0, 10.0], [100.0, 1000.0]]]])
    for layer in (functional.conv2d, conv2d_of_layer):
        result = layer(x, weight, padding="same").tolist()
        assert result == [[[4321.0, 402.0], [43.0, 4.0]]]


def conv2d_of_layer(x, weight, padding):
    layer = nn.Conv2d(1, 1, 2, padding=padding, bias=False)
    layer.weight = nn.Parameter(weight)
    return layer(x)


def test_conv_is_scipys_correlation():
    correlate = pytest.importorskip("scipy.signal").correlate
    x, weight = leaf(1, 1, 9, 8), leaf(1, 1, 4, 3)
    expected = correlate(x.numpy()[0, 0], weight.numpy()[0, 0], "valid")
    y = functional.conv2d(x, weight)
    np.testing.assert_allclose(y.numpy()[0, 0], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CONVOLUTIONS[:-1], ids=str)
def test_gradients_to_second_order(case):
    shape, weight_shape, stride, padding, dilation, groups = case
    x, weight, bias = leaf(*shape), leaf(*weight_shape), leaf(weight_shape[0])
    conv = functional.conv1d if len(shape) == 3 else functional.conv2d

    def function(x, weight, bias):
        return conv(x, weight, bias, stride, padding, dilation, groups)

    assert gradcheck(function, (x, weight, bias))
    assert gradgradcheck(function, (x, weight, bias))


TRANSPOSED = [  # shapes of x and weight, stride, padding, output padding, groups, dilation
    ((2, 3, 4), (3, 2, 3), (2,), (1,), (1,), 1, (1,)),
    ((2, 4, 3, 4), (4, 1, 2, 3), (2, 1), (1, 0), (1, 0), 2, (1, 2)),
    ((1, 2, 3, 3), (2, 3, 2, 2), (1, 1), (0, 0), (2, 0), 1, (3, 1)),
]


@pytest.mark.parametrize("case", TRANSPOSED, ids=str)
def test_transposed_gradients_to_second_order(case):
    shape, weight_shape, *options = case
    groups = options[3]
    x, weight, bias = leaf(*shape), leaf(*weight_shape), leaf(weight_shape[1] * groups)
    conv = functional.conv_transpose1d if len(shape) == 3 else functional.conv_transpose2d

    def function(x, weight, bias):
        return conv(x, weight, bias, *options)

    assert gradcheck(function, (x, weight, bias))
    assert gradgradcheck(function, (x, weight, bias))


@pytest.mark.parametrize("case", [c for c in CONVOLUTIONS if 0 not in c[0]], ids=str)
def test_transposed_is_the_adjoint(case):
    """<conv(x), y> = <x, transposed(y)> for any x and y."""
    shape, weight_shape, stride, padding, dilation, groups = case
    x, weight = leaf(*shape), leaf(*weight_shape)
    axes = len(stride)
    y = getattr(functional, f"conv{axes}d")(x, weight, None, stride, padding, dilation, groups)
    other = RANDOM.normal(size=y.shape)
    spans = [d * (k - 1) + 1 for k, d in zip(weight_shape[2:], dilation, strict=True)]
    lost = tuple(
        (n + 2 * p - span) % s
        for n, p, span, s in zip(shape[2:], padding, spans, stride, strict=True)
    )
    back = getattr(functional, f"conv_transpose{axes}d")(
        mg.tensor(other), weight, None, stride, padding, lost, groups, dilation
    )
    assert back.shape == shape
    left, right = (y.numpy() * other).sum(), (x.numpy() * back.numpy()).sum()
    np.testing.assert_allclose(left, right, rtol=1e-10)


# ---------------------------------------------------------------------------------------- layers
def test_the_gradient_of_the_image_is_not_computed_unless_wanted():
    layer = nn.Conv2d(2, 3, 3)
    for wanted in (False, True):
        x = mg.randn(2, 2, 6, 6).requires_grad_(wanted)
        with mg.profile() as seen:
            layer(x).sum().backward()
        assert (
            seen.rows["sliding_windows"][2] > 0
        ) == wanted  # the time of its rule, `overlap_add`
        assert (x.grad is not None) == wanted and layer.weight.grad is not None


def test_layouts_and_dtypes():
    layer = nn.Conv2d(3, 4, 3, padding=1)
    x = RANDOM.normal(size=(5, 6, 2, 3)).astype(np.float32)
    strided = mg.asarray(x).permute_dims((2, 3, 0, 1))
    plain = mg.tensor(np.ascontiguousarray(x.transpose(2, 3, 0, 1)))
    np.testing.assert_array_equal(layer(strided).numpy(), layer(plain).numpy())
    flipped = mg.asarray(plain.numpy()[:, :, ::-1, ::-1])
    np.testing.assert_array_equal(
        layer(flipped).numpy(), layer(mg.tensor(flipped.numpy(copy=True))).numpy()
    )
    assert layer(plain).dtype == mg.float32
    assert layer.double()(plain.astype(mg.float64)).dtype == mg.float64


def test_many_blocks_of_columns_give_what_one_gives():
    """Columns are packed a megabyte at a time; here they fill several, the last one partly."""
    layer, x = nn.Conv2d(8, 4, 3, padding=1).double(), leaf(13, 8, 20, 20)
    y = layer(x)
    y.backward(mg.ones_like(y))
    gradient = layer.weight.grad.numpy(copy=True)
    whole = x.grad.numpy(copy=True)
    layer.zero_grad()
    for i in range(13):
        part = mg.tensor(x.numpy()[i], requires_grad=True)
        z = layer(part)
        np.testing.assert_allclose(z.numpy(), y.numpy()[i], rtol=1e-12, atol=1e-12)
        z.backward(mg.ones_like(z))
        np.testing.assert_allclose(part.grad.numpy(), whole[i], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(layer.weight.grad.numpy(), gradient, rtol=1e-10)


def test_unbatched_inputs_and_shapes():
    assert nn.Conv2d(3, 4, 3)(mg.ones(3, 5, 6)).shape == (4, 3, 4)
    assert nn.Conv1d(3, 4, 3)(mg.ones(3, 5)).shape == (4, 3)
    assert nn.ConvTranspose2d(3, 4, 3)(mg.ones(3, 5, 6)).shape == (4, 7, 8)
    assert nn.Conv2d(3, 4, 3)(mg.ones(0, 3, 5, 6)).shape == (0, 4, 3, 4)
    layer = nn.ConvTranspose2d(2, 6, 3, stride=2, groups=2, bias=False)
    assert layer.weight.shape == (2, 3, 3, 3) and list(layer.state_dict()) == ["weight"]


def test_starts_uniform_within_one_over_the_root_of_the_fan():
    mg.manual_seed(0)
    for layer, fan in (
        (nn.Conv2d(10, 500, 3), 90),
        (nn.Conv1d(10, 500, 4, groups=2), 20),
        (nn.ConvTranspose2d(10, 500, 3, groups=5), 900),
    ):
        for values in (layer.weight.numpy(), layer.bias.numpy()):
            assert 0.97 < np.abs(values).max() * math.sqrt(fan) <= 1 + 1e-6


@pytest.mark.parametrize(
    "n", [np.int64(2), np.uint8(2), np.array(2), (2,), [np.int32(2)]], ids=repr
)
def test_sizes_are_whatever_acts_as_an_integer_or_one_in_a_tuple(n):
    two = n[0] if isinstance(n, (tuple, list)) else n
    x = mg.randn(1, 4, 7, 8)
    layer = nn.Conv2d(4, two, n, n, n, n, two)
    assert layer.weight.shape == (2, 2, 2, 2) and layer.padding == layer.stride == (2, 2)
    assert "np." not in repr(layer) and type(layer.groups) is int
    y = functional.conv2d(x, layer.weight, layer.bias, n, n, n, two)
    assert y.shape == layer(x).shape == nn.Conv2d(4, 2, 2, 2, 2, 2, 2)(x).shape
    layer = nn.ConvTranspose2d(4, two, n, n, n, dilation=n, output_padding=1)
    assert layer(x).shape == nn.ConvTranspose2d(4, 2, 2, 2, 2, 1, dilation=2)(x).shape
    assert functional.pad(x, (two, two)).shape == (1, 4, 7, 12)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(3, 4, 3, 2)], ids=repr)
def test_an_empty_batch(layer):
    x = mg.zeros(0, 3, 6, 6, requires_grad=True)
    y = layer(x)
    assert y.shape == (0, *layer(mg.zeros(1, 3, 6, 6)).shape[1:])
    y.sum().backward()
    assert x.grad.shape == x.shape and not layer.weight.grad.numpy().any()


def test_repr_says_what_differs_from_the_defaults():
    assert (
        repr(nn.Conv2d(1, 2, 3)) == "Conv2d(1, 2, kernel_size=(3, 3), stride=(1, 1))  20 parameters"
    )
    layer = nn.ConvTranspose1d(2, 2, 3, 2, 1, 1, groups=2, bias=False, dilation=2)
    assert repr(layer) == (
        "ConvTranspose1d(2, 2, kernel_size=(3,), stride=(2,), padding=(1,), "
        "output_padding=(1,), dilation=(2,), groups=2, bias=False)  6 parameters"
    )
    assert "padding='same', padding_mode='reflect'" in repr(
        nn.Conv1d(1, 1, 3, padding="same", padding_mode="reflect")
    )


BAD_LAYERS = [
    (lambda: nn.Conv2d(0, 1, 3), ValueError, "Conv2d: in_channels must be positive"),
    (lambda: nn.Conv2d(1, 1, 3.0), TypeError, r"Conv2d: kernel_size must be an int .* got 3\.0"),
    (lambda: nn.Conv2d(1, 1, True), TypeError, "Conv2d: kernel_size must be an int"),
    (lambda: nn.Conv2d(1, 1, 0), ValueError, "Conv2d: kernel_size .* at least 1, got 0"),
    (lambda: nn.Conv2d(1, 1, (3, 3, 3)), ValueError, "Conv2d: kernel_size .* 2 ints"),
    (lambda: nn.Conv1d(1, 1, 3, stride=0), ValueError, "Conv1d: stride"),
    (lambda: nn.Conv2d(1, 1, 3, padding=-1), ValueError, "Conv2d: padding"),
    (lambda: nn.Conv2d(1, 1, 3, padding="full"), ValueError, "'same' or 'valid', got 'full'"),
    (lambda: nn.Conv2d(1, 1, 3, 2, "same"), ValueError, "padding='same' needs stride 1"),
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "groups=2 must divide in_channels=3"),
    (lambda: nn.Conv2d(1, 1, 3, padding_mode="zero"), ValueError, "padding_mode must be zeros or"),
    (lambda: nn.ConvTranspose2d(1, 1, 3, padding="same"), TypeError, "ConvTranspose2d: padding"),
]
BAD_CALLS = [
    (
        lambda: nn.Conv2d(3, 4, 3)(mg.ones(2, 1, 5, 5)),
        r"Conv2d: expected 3 channels for a weight of shape \(4, 3, 3, 3\) and groups=1, got 1 in "
        r"an input of shape \(2, 1, 5, 5\)",
    ),
    (
        lambda: nn.Conv2d(1, 4, 3)(mg.ones(5, 5)),
        r"Conv2d: expected an input of shape \(N, C, H, W\) or \(C, H, W\), got \(5, 5\)",
    ),
    (
        lambda: nn.Conv2d(1, 4, 5, padding=1)(mg.ones(1, 1, 2, 9)),
        r"Conv2d: a kernel of \(5, 5\) with dilation \(1, 1\) is larger than the padded input",
    ),
    (
        lambda: functional.conv2d(mg.ones(1, 1, 4, 4), mg.ones(3, 3)),
        "conv2d: expected a weight of 4 dimensions",
    ),
    (
        lambda: functional.conv2d(mg.ones(1, 4, 4, 4), mg.ones(3, 2, 2, 2), groups=2),
        "conv2d: groups=2 does not divide 3 channels",
    ),
    (
        lambda: functional.conv2d(mg.ones(1, 1, 4, 4), mg.ones(3, 1, 2, 2), mg.ones(2)),
        r"conv2d: expected a bias of shape \(3,\), got \(2,\)",
    ),
    (
        lambda: nn.Conv1d(1, 1, 3, padding=4, padding_mode="reflect")(mg.ones(1, 1, 4)),
        r"Conv1d: padding \(4, 4\) in mode 'reflect' is too large for the size 4",
    ),
    (
        lambda: nn.ConvTranspose2d(1, 1, 3, 2, output_padding=2)(mg.ones(1, 1, 3, 3)),
        r"ConvTranspose2d: output_padding \(2, 2\) must be smaller than either stride \(2, 2\)",
    ),
    (
        lambda: nn.ConvTranspose2d(1, 1, 1, padding=2)(mg.ones(1, 1, 3, 3)),
        "ConvTranspose2d: .* leaves no output",
    ),
    (
        lambda: nn.ConvTranspose1d(1, 1, 3, 2)(mg.ones(1, 1, 3), output_size=(9,)),
        r"ConvTranspose1d: output_size \(9,\) must be at least \(7,\) and less than a stride",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), BAD_LAYERS)
def test_options_out_of_range(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(("call", "message"), BAD_CALLS)
def test_inputs_that_do_not_fit(call, message):
    with pytest.raises(ValueError, match=message):
        call()


# --------------------------------------------------------------------------- windows and padding
def test_sliding_windows_are_a_read_only_view():
    x = mg.tensor(np.arange(12.0).reshape(3, 4))
    windows = mg.sliding_windows(x, (2, 2))
    assert np.shares_memory(windows.numpy(), x.numpy())
    with pytest.raises(ValueError, match="read-only"):
        windows[0] = 1.0
    x[0, 0] = 50.0
    assert windows[0, 0, 0, 0].item() == 50.0


def test_fold_counts_how_many_windows_hold_an_element():
    counts = mg.overlap_add(mg.ones(3, 4, 3, 2), (5, 5))
    expected = np.outer([1, 2, 3, 2, 1], [1, 2, 2, 2, 1])
    np.testing.assert_array_equal(counts.numpy(), expected)


def test_the_gradient_of_a_sum_of_windows():
    """Its cotangent is a broadcast view, of stride 0 along the windows."""
    x = leaf(2, 6, 7)
    assert gradcheck(lambda x: mg.sliding_windows(x, (3, 2), (2, 1)).sum(axis=(-1, -2)), x)
    x = mg.ones(5, 5, requires_grad=True)
    mg.sliding_windows(x, (3, 2)).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), np.outer([1, 2, 3, 2, 1], [1, 2, 2, 2, 1]))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "int64", "bool"])
def test_reshape_of_every_strided_layout(dtype):
    """A view where NumPy returns one, otherwise a copy with the same elements."""
    base = RANDOM.integers(0, 2, (2, 3, 4, 1, 6)).astype(dtype)
    shapes = [(144,), (6, 24), (2, -1, 6), (4, 3, 2, 6), (1, 144, 1), (24, 1, 6), (12, 12)]
    views = 0
    for order in itertools.permutations(range(5)):
        for array in (base.transpose(order), base.transpose(order)[::-1]):
            for shape in shapes:
                result = mg.asarray(array).reshape(shape).numpy()
                expected = array.reshape(shape)
                np.testing.assert_array_equal(result, expected)
                view = np.shares_memory(expected, base)
                assert np.shares_memory(result, base) == view
                views += view
    assert views > 100


def test_pad_options():
    x = mg.arange(6).reshape(2, 3)
    assert mg.pad(x, 1).dtype == mg.int64
    np.testing.assert_array_equal(mg.pad(x, (1, 2)).numpy(), np.pad(x.numpy(), (1, 2)))
    assert functional.pad(x, (0, 0)) is x
    assert functional.pad(x, (-1, -1, 1, 0)).tolist() == [[0], [1], [4]]


# of 0, 1, 2, 3, 4; as PyTorch has it
CROPPED = {
    ("reflect", (2, -1)): [2, 1, 0, 1, 2, 3],
    ("reflect", (-2, 3)): [2, 3, 4, 3, 2, 1],
    ("reflect", (4, -3)): [4, 3, 2, 1, 0, 1],
    ("reflect", (-4, 4)): [4, 3, 2, 1, 0],
    ("reflect", (-5, 2)): [3, 2],
    ("reflect", (2, -5)): [2, 1],
    ("reflect", (-2, -2)): [2],
    ("replicate", (3, -2)): [0, 0, 0, 0, 1, 2],
    ("replicate", (-5, 2)): [4, 4],
    ("replicate", (6, -6)): [0, 0, 0, 0, 0],
    ("circular", (3, -2)): [0, 1, 2, 0, 1, 2],
    ("circular", (-1, 4)): [1, 2, 3, 4, 1, 2, 3, 4],
    ("circular", (-1, -1)): [1, 2, 3],
    ("constant", (-5, 2)): [0, 0],
    ("constant", (5, -5)): [0, 0, 0, 0, 0],
}


@pytest.mark.parametrize(("mode", "widths"), CROPPED)
def test_pad_with_a_negative_side(mode, widths):
    x = mg.arange(5.0).reshape(1, 1, 5)
    assert functional.pad(x, widths, mode).tolist() == [[CROPPED[mode, widths]]]
    square = mg.arange(25.0).reshape(1, 1, 5, 5)
    both = functional.pad(square, widths * 2, mode).numpy()[0, 0]
    index = functional.pad(mg.arange(5).reshape(1, 1, 5), widths, mode).numpy()[0, 0]
    if mode != "constant":
        np.testing.assert_array_equal(both, square.numpy()[0, 0][np.ix_(index, index)])
    leaf = mg.tensor(x.numpy().astype(float), requires_grad=True)
    assert gradcheck(lambda x: functional.pad(x, widths, mode), leaf)


@pytest.mark.parametrize(
    ("mode", "widths"),
    [
        ("reflect", (5, -1)),
        ("reflect", (-6, 5)),
        ("reflect", (-1, -4)),
        ("replicate", (-1, -4)),
        ("circular", (4, -3)),
        ("circular", (-5, 2)),
        ("constant", (-6, 5)),
    ],
)
def test_pad_with_a_negative_side_that_asks_too_much(mode, widths):
    with pytest.raises(ValueError, match=r"pad: padding .* (is too large|leaves none)"):
        functional.pad(mg.arange(5.0).reshape(1, 1, 5), widths, mode)


WINDOW_ERRORS = [
    (
        lambda: mg.sliding_windows(mg.ones(3), 4),
        ValueError,
        r"sliding_windows: a window of 4 .* axis 0 of shape \(3,\)",
    ),
    (
        lambda: mg.sliding_windows(mg.ones(3), (2, 2)),
        ValueError,
        "sliding_windows: 2 sizes of a kernel for 1 dim",
    ),
    (
        lambda: mg.sliding_windows(mg.ones(3), 2.0),
        TypeError,
        "sliding_windows: kernel_size must be an int",
    ),
    (
        lambda: mg.sliding_windows(mg.ones(3), True),
        TypeError,
        "sliding_windows: kernel_size must be an int",
    ),
    (
        lambda: mg.sliding_windows(mg.ones(3), 0),
        ValueError,
        "sliding_windows: kernel_size .* at least 1",
    ),
    (lambda: mg.sliding_windows(mg.ones(3), 2, stride=0), ValueError, "sliding_windows: stride"),
    (
        lambda: mg.sliding_windows(mg.ones(3), 2, dilation=(1, 1)),
        ValueError,
        "sliding_windows: dilation",
    ),
    (
        lambda: mg.sliding_windows(mg.ones(*(1,) * 40), (1,) * 30),
        ValueError,
        "sliding_windows: 30 sizes",
    ),
    (
        lambda: mg.overlap_add(mg.ones(3, 2), (5,)),
        ValueError,
        r"overlap_add: shape \(5,\) has windows \(4, 2\)",
    ),
    (lambda: mg.overlap_add(mg.ones(3), (5,)), ValueError, "overlap_add: x .* must have between"),
    (lambda: mg.overlap_add(mg.ones(3, 2, 1), (5, 5.0)), TypeError, "overlap_add: a shape"),
    (
        lambda: mg.overlap_add(mg.arange(6).reshape(3, 2), (4,)),
        TypeError,
        "overlap_add: expected float32",
    ),
    (lambda: mg.pad(mg.ones(3), -1), ValueError, "pad: a width cannot be negative"),
    (lambda: mg.pad(mg.ones(3), 1.5), TypeError, "pad: pad_width must hold ints"),
    (lambda: mg.pad(mg.ones(3), ((1, 1), (1, 1))), ValueError, "pad: pad_width must be"),
    (lambda: mg.pad(mg.ones(3), 1, mode="mirror"), ValueError, "pad: mode must be 'constant'"),
    (lambda: mg.pad(mg.ones(0), 1, mode="edge"), ValueError, r"pad: axis 0 of shape \(0,\)"),
    (lambda: functional.pad(mg.ones(3), (1,)), ValueError, "pad: expected pairs"),
    (lambda: functional.pad(mg.ones(3), (1.0, 1)), TypeError, "pad: expected ints"),
    (lambda: functional.pad(mg.ones(3), (-2, -2)), ValueError, "leaves none of 3"),
    (lambda: functional.pad(mg.ones(1, 3), (4, 0), "circular"), ValueError, "too large"),
    (lambda: ops.packed_matmul(mg.ones(2, 3), mg.ones(4), (4, 1, 1)), ValueError, "inner sizes"),
    (
        lambda: ops.packed_matmul(mg.ones(2, 3), mg.ones(4), (3, 1, 1)),
        ValueError,
        "packed_matmul: ",
    ),
    (lambda: ops.packed_outer(mg.ones(2, 3), mg.ones(4), (4, 1, 1)), ValueError, "must agree"),
]


@pytest.mark.parametrize(("call", "error", "message"), WINDOW_ERRORS)
def test_bad_windows(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_memory_under_a_view_is_recycled():
    """A convolution returns a view of its product, whose memory is reused."""
    layer, x = nn.Conv2d(3, 5, 3, bias=False), mg.randn(2, 3, 8, 8)
    addresses, others = set(), []

    def address(y):
        return y.numpy().ctypes.data  # y outlives the array, which would keep the memory

    with mg.no_grad():
        for _ in range(10):
            addresses.add(address(layer(x)))
            others.append(np.empty(2 * 5 * 6 * 6, np.float32))  # takes what was really freed
    assert len(addresses) <= 2
    kept = layer(x).detach().numpy()  # also referenced here: it must not change
    before = kept.copy()
    for _ in range(3):
        layer(x * 2.0)
    np.testing.assert_array_equal(kept, before)


def test_large_memory_is_recycled_under_another_shape():
    x = np.ones((128, 256), np.float32)
    addresses = set()
    for shape in ((128, 256), (2, 64, 256), (1, 2, 4, 8, 2, 256), (32768,)) * 3:
        y = mg.asarray(x.reshape(shape)) + 1.0
        assert y.shape == shape and y.numpy().flags.c_contiguous
        np.testing.assert_array_equal(y.numpy(), np.full(shape, 2.0, np.float32))
        addresses.add(y.numpy().ctypes.data)
    assert len(addresses) <= 3


# -------------------------------------------------------------------------------- layers of padding
def test_padding_layers():
    layer = nn.ConstantPad2d((np.int64(1), 2, 0, 1), 0.5)
    assert repr(layer) == "ConstantPad2d(padding=(1, 2, 0, 1), value=0.5)"
    assert repr(nn.ZeroPad1d(2)) == "ZeroPad1d(padding=(2, 2))" and layer.padding == (1, 2, 0, 1)
    assert repr(copy.deepcopy(layer)) == repr(pickle.loads(pickle.dumps(layer))) == repr(layer)
    assert len({nn.ZeroPad1d(2), nn.ZeroPad1d(2)}) == 2  # each by itself, as all Modules
    assert layer(mg.ones(2, 2)).tolist() == [[0.5, 1, 1, 0.5, 0.5]] * 2 + [[0.5] * 5]
    for build, error, message in [
        (lambda: nn.ZeroPad1d(1.5), TypeError, "ZeroPad1d: padding must be an int, got 1.5"),
        (lambda: nn.ReflectionPad2d((1, 2)), ValueError, r"or \(left, right, top, bottom\), got"),
        (lambda: nn.ConstantPad1d(1, "a"), TypeError, "ConstantPad1d: value must be a number"),
        (lambda: nn.ConstantPad1d(1), TypeError, "value"),
        (lambda: nn.ZeroPad2d(1)(mg.ones(3)), ValueError, "pairs for up to 1 axes"),
        (lambda: nn.Unflatten(1, 6), TypeError, "unflattened_size must be a tuple of ints, got 6"),
        (lambda: nn.Unflatten(1, (2.0, 3)), TypeError, r"unflattened_size must be an int, got 2.0"),
        (lambda: nn.Unflatten(1, (-2, 3)), ValueError, "must be at least -1, got -2"),
        (lambda: nn.Unflatten(1, (-1, -1)), ValueError, "of which one may be -1"),
        (lambda: nn.Unflatten(1, ()), ValueError, "of which one may be -1"),
        (lambda: nn.Unflatten(2, (2, 3))(mg.ones(2, 6)), IndexError, "dim 2 is out of range"),
        (lambda: nn.Unflatten(1, (4, -1))(mg.ones(2, 6)), ValueError, r"cannot become \(4, -1\)"),
        (lambda: nn.Unflatten(1, (0, -1))(mg.ones(2, 6)), ValueError, r"cannot become \(0, -1\)"),
    ]:
        with pytest.raises(error, match=message):
            build()
    empty = nn.Unflatten(1, (3, -1))(mg.ones(0, 6))
    assert empty.shape == (0, 3, 2) and nn.Unflatten(0, (-1, 2))(mg.ones(0, 6)).shape == (0, 2, 6)
