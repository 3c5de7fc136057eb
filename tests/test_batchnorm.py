"""BatchNorm: one test for each trap that other implementations fell into."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.nn import functional as F

# Allowed, at half the speed: test_promotion.py expects the warning.
pytestmark = pytest.mark.filterwarnings("ignore:.*float64 data meets:UserWarning")

SHAPES = {
    "(N,C)": (6, 3),
    "(N,C,L)": (4, 3, 5),
    "(N,C,H,W)": (3, 3, 2, 4),
    "batch of 1": (1, 3, 2, 2),
}


@pytest.fixture(params=SHAPES.values(), ids=SHAPES.keys())
def values(request):
    return np.random.default_rng(0).normal(2.0, 3.0, request.param)


def batch_norm(shape, **options):
    kind = nn.BatchNorm2d if len(shape) == 4 else nn.BatchNorm1d
    return kind(shape[1], **options)


def batch_renorm(shape, **options):
    kind = nn.BatchRenorm2d if len(shape) == 4 else nn.BatchRenorm1d
    return kind(shape[1], **options)


def ghost_batch_norm(shape, **options):
    return nn.GhostBatchNorm(shape[1], 100, **options)


@pytest.fixture(params=[batch_norm, batch_renorm, ghost_batch_norm])
def layer_for(request):
    """What moves the same statistics for the same reasons, and evaluates by them."""
    return request.param


def axes_of(array):
    return (0, *range(2, array.ndim))


def buffers(layer):
    return {name: value.numpy(copy=True) for name, value in layer.named_buffers()}


def unchanged(layer, before):
    return all(np.array_equal(value, before[name]) for name, value in buffers(layer).items())


# ------------------------------------------------------------------------------------ statistics
def test_normalises_with_the_biased_variance(values):
    y = batch_norm(values.shape, eps=0.0).double()(mg.tensor(values)).numpy()
    np.testing.assert_allclose(y.mean(axes_of(y)), 0, atol=1e-14)
    np.testing.assert_allclose(y.var(axes_of(y), ddof=0), 1, rtol=1e-12)


def test_stores_the_unbiased_variance(layer_for, values):
    layer = layer_for(values.shape, momentum=1.0).double()
    layer(mg.tensor(values))
    axes = axes_of(values)
    np.testing.assert_allclose(layer.running_mean.numpy(), values.mean(axes), rtol=1e-13)
    np.testing.assert_allclose(layer.running_var.numpy(), values.var(axes, ddof=1), rtol=1e-13)


def test_momentum_is_the_weight_of_the_new_batch(layer_for, values):
    layer = layer_for(values.shape, momentum=0.25).double()
    layer(mg.tensor(values))
    mean, var = values.mean(axes_of(values)), values.var(axes_of(values), ddof=1)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.25 * mean, rtol=1e-13)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.75 + 0.25 * var, rtol=1e-13)


def test_momentum_none_is_the_cumulative_average(layer_for):
    layer = layer_for((4, 2), momentum=None).double()
    batches = np.random.default_rng(1).normal(size=(5, 4, 2))
    for batch in batches:
        layer(mg.tensor(batch))
    np.testing.assert_allclose(layer.running_mean.numpy(), batches.mean((0, 1)), rtol=1e-12)
    expected = batches.var(1, ddof=1).mean(0)
    np.testing.assert_allclose(layer.running_var.numpy(), expected, rtol=1e-12)
    assert layer.num_batches_tracked.item() == 5


def test_momentum_zero_freezes_the_statistics(layer_for, values):
    layer = layer_for(values.shape, momentum=0.0)
    layer(mg.tensor(values))
    assert layer.running_mean.tolist() == [0.0] * 3 and layer.running_var.tolist() == [1.0] * 3
    assert layer.num_batches_tracked.item() == 1


def test_running_var_starts_at_one_and_mean_at_zero():
    layer = nn.BatchNorm2d(4)
    assert layer.running_var.tolist() == [1.0] * 4 and layer.running_mean.tolist() == [0.0] * 4
    assert layer.weight.tolist() == [1.0] * 4 and layer.bias.tolist() == [0.0] * 4
    assert layer.num_batches_tracked.dtype == mg.int64 and layer.num_batches_tracked.item() == 0


def test_eps_never_enters_running_var(layer_for, values):
    layer = layer_for(values.shape, eps=1e3, momentum=1.0).double()
    layer(mg.tensor(values))
    expected = values.var(axes_of(values), ddof=1)
    np.testing.assert_allclose(layer.running_var.numpy(), expected, rtol=1e-13)


def test_a_tiny_variance_is_not_lost_beside_the_one_it_starts_at(layer_for):
    layer = layer_for((2, 1), momentum=1.0)
    layer(mg.tensor([[0.0], [1e-6]]))
    np.testing.assert_allclose(layer.running_var.numpy(), [5e-13], rtol=1e-6)


@pytest.mark.parametrize("shape", [(1, 3), (1, 3, 1), (1, 3, 1, 1)])
@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"track_running_stats": False}])
def test_one_value_per_channel_raises_and_leaves_the_buffers_alone(layer_for, shape, options):
    if layer_for is batch_renorm and "track_running_stats" in options:
        pytest.skip("it has no such option")
    layer = layer_for(shape, **options)
    before = buffers(layer)
    with pytest.raises(ValueError, match="more than one value per channel"):
        layer(mg.ones(*shape))
    assert unchanged(layer, before)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4), (2, 3, 0), (0, 3, 4, 5), (2, 3, 0, 5)])
@pytest.mark.parametrize(
    "options", [{}, {"affine": False}, {"track_running_stats": False}, {"dtype": mg.float64}]
)
def test_an_empty_batch_comes_back(layer_for, shape, options, training):
    if layer_for is batch_renorm and "track_running_stats" in options:
        pytest.skip("it has no such option")
    layer = layer_for(shape, **options).train(training)
    x = mg.zeros(*shape, dtype=options.get("dtype"), requires_grad=True)
    y = layer(x)
    assert y.shape == shape and y.dtype == x.dtype
    y.sum().backward()
    assert x.grad.shape == shape
    for parameter in layer.parameters():
        assert parameter.grad.tolist() == [0.0] * 3
    if layer.running_mean is not None:
        assert layer.running_mean.tolist() == [0.0] * 3 and layer.running_var.tolist() == [1.0] * 3


def test_one_value_per_channel_is_fine_in_eval(layer_for):
    assert layer_for((1, 3)).eval()(mg.ones(1, 3)).shape == (1, 3)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e4 + 0.3, -7.7e-5])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(7, 3), (32, 3), (1000, 3), (5, 3, 3, 7)])
def test_a_constant_channel_gives_exactly_zero(shape, dtype, value):
    layer = batch_norm(shape).to(dtype)
    assert not layer(mg.full(shape, value, dtype=dtype)).numpy().any()


def test_a_large_mean_does_not_cancel_the_variance():
    values = np.random.default_rng(0).normal(1e4, 1.0, (64, 3)).astype(np.float32)
    y = nn.BatchNorm1d(3)(mg.tensor(values)).numpy()
    exact = (values - values.mean(0, dtype="d")) / np.sqrt(values.var(0, dtype="d") + 1e-5)
    np.testing.assert_allclose(y, exact, atol=2e-3)


# ------------------------------------------------------------------------------------------ modes
def test_eval_uses_running_statistics_and_leaves_them_alone(layer_for, values):
    layer = layer_for(values.shape).double()
    layer(mg.tensor(values))
    before = buffers(layer.eval())
    column = (3,) + (1,) * (values.ndim - 2)
    mean, var = (before[n].reshape(column) for n in ("running_mean", "running_var"))
    y = layer(mg.tensor(values))
    np.testing.assert_allclose(y.numpy(), (values - mean) / np.sqrt(var + 1e-5), rtol=1e-12)
    assert unchanged(layer, before)


def test_eval_has_a_backward(layer_for, values):
    layer = layer_for(values.shape).double()
    layer(mg.tensor(values))
    layer.eval()
    x = mg.tensor(values, requires_grad=True)
    assert gradcheck(lambda x, w, b: layer(x), (x, layer.weight, layer.bias))
    assert gradgradcheck(lambda x, w, b: layer(x), (x, layer.weight, layer.bias))


def test_training_under_no_grad_still_moves_the_buffers(layer_for, values):
    recorded, silent = layer_for(values.shape), layer_for(values.shape)
    recorded(mg.tensor(values))
    with mg.no_grad():
        silent(mg.tensor(values))
    assert unchanged(recorded, buffers(silent)) and silent.num_batches_tracked.item() == 1


def test_buffers_hold_no_graph_and_stay_the_same_objects(layer_for, values):
    layer = layer_for(values.shape)
    before = list(layer.buffers())
    for _ in range(3):
        layer(mg.tensor(values, requires_grad=True))
    for buffer, old in zip(layer.buffers(), before, strict=True):
        assert buffer is old and buffer.grad_fn is None and not buffer.requires_grad


def test_two_forwards_before_a_backward():
    layer, x = nn.BatchNorm1d(3), mg.randn(5, 3, requires_grad=True)
    (layer(x) * layer(x)).sum().backward()
    assert x.grad is not None


def test_affine_false(values):
    layer = batch_norm(values.shape, affine=False).double()
    assert layer.weight is None and layer.bias is None and not list(layer.parameters())
    assert list(layer.state_dict()) == ["running_mean", "running_var", "num_batches_tracked"]
    with_affine = batch_norm(values.shape).double()
    x = mg.tensor(values)
    np.testing.assert_array_equal(layer(x).numpy(), with_affine(x).numpy())


def test_track_running_stats_false_uses_the_batch_in_eval_too(values):
    layer = batch_norm(values.shape, track_running_stats=False).double()
    assert list(layer.state_dict()) == ["weight", "bias"]
    assert layer.running_mean is None and layer.num_batches_tracked is None
    x = mg.tensor(values)
    y = layer(x).numpy()
    np.testing.assert_array_equal(y, layer.eval()(x).numpy())
    np.testing.assert_allclose(y.mean(axes_of(y)), 0, atol=1e-14)
    layer.reset_running_stats()


def test_float64_input_with_float32_buffers(layer_for, values):
    layer = layer_for(values.shape)
    y = layer(mg.tensor(values))
    assert y.dtype == mg.float64 and layer.running_mean.dtype == mg.float32
    expected = 0.1 * values.mean(axes_of(values))
    np.testing.assert_allclose(layer.running_mean.numpy(), expected, rtol=1e-6)
    assert layer.eval()(mg.tensor(values)).dtype == mg.float64


def test_channels_last_memory_gives_the_same(layer_for, values):
    x = mg.tensor(np.moveaxis(np.moveaxis(values, 1, -1).copy(), -1, 1))
    y, expected = layer_for(values.shape)(x), layer_for(values.shape)(mg.tensor(values))
    np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-12)


# ------------------------------------------------------------------------- statistics that move
def statistics():
    """Running statistics of 3 channels that cannot be updated, and the error."""
    frozen = np.ones(3)
    frozen.flags.writeable = False
    leaf = mg.ones(3, dtype="float64").requires_grad_()
    return {
        "integers": (mg.ones(3, dtype="int64"), TypeError, "must be float32 or float64"),
        "bools": (mg.ones(3, dtype="bool"), TypeError, "must be float32 or float64"),
        "of another shape": (mg.ones(4), ValueError, r"has shape \(4,\)"),
        "a column": (mg.ones(3, 1), ValueError, r"has shape \(3, 1\)"),
        "read-only": (mg.asarray(frozen), ValueError, "read-only"),
        "broadcast": (mg.broadcast_to(mg.ones(1), (3,)), ValueError, "broadcast"),
        "a leaf": (leaf, RuntimeError, "requires grad"),
        "an output": (leaf * 2.0, RuntimeError, "requires grad"),
        "an array": (np.ones(3), TypeError, "must be a Tensor, got ndarray"),
        "missing": (None, ValueError, "give running_mean and running_var, or neither"),
    }


MOVING = {
    "batch_norm": lambda mean, var: F.batch_norm(mg.randn(6, 3), mean, var, training=True),
    "batch_norm, renorm": lambda mean, var: F.batch_norm(
        mg.randn(6, 3), mean, var, training=True, renorm=(3.0, 5.0)
    ),
    "batch_norm of images": lambda mean, var: F.batch_norm(
        mg.randn(6, 3, 2, 2), mean, var, training=True
    ),
    "instance_norm": lambda mean, var: F.instance_norm(mg.randn(2, 3, 5), mean, var),
}


@pytest.mark.parametrize("function", MOVING)
@pytest.mark.parametrize("which", ["mean", "var"])
@pytest.mark.parametrize("name", statistics())
def test_statistics_are_checked_before_either_moves(name, which, function):
    bad, error, message = statistics()[name]
    good = mg.ones(3, dtype="float64")
    pair = (bad, good) if which == "mean" else (good, bad)
    with pytest.raises(error, match=rf"{function.split()[0].rstrip(',')}: .*{message}"):
        MOVING[function](*pair)
    assert good.tolist() == [1.0] * 3 and good._version == 0
    if isinstance(bad, mg.Tensor):
        assert (bad.numpy() == (2 if name == "an output" else 1)).all()


@pytest.mark.parametrize("function", MOVING)
@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32")])
def test_statistics_may_lie_anywhere(function, dtypes):
    def views(dtype):
        for place in (1, slice(None, None, 2)), (2, slice(4, 1, -1)), (slice(3), 1), (0, slice(3)):
            table = np.ones((4, 6), dtype)
            yield table, table[place]

    expected = [mg.ones(3, dtype=dtype) for dtype in dtypes]
    mg.manual_seed(0)
    MOVING[function](*expected)
    pairs = zip(views(dtypes[0]), views(dtypes[1]), strict=True)
    for (means, mean), (variances, var) in pairs:
        mg.manual_seed(0)
        given = mg.asarray(mean), mg.asarray(var)
        MOVING[function](*given)
        np.testing.assert_array_equal(mean, expected[0].numpy())
        np.testing.assert_array_equal(var, expected[1].numpy())
        assert [tensor._version for tensor in given] == [1, 1]
        assert (means == 1).sum() == (variances == 1).sum() == 21  # nothing else was written


def test_statistics_that_require_grad_may_move_under_no_grad():
    mean, var = (mg.ones(3, dtype="float64").requires_grad_() for _ in range(2))
    with mg.no_grad():
        MOVING["batch_norm"](mean, var)
    assert mean.tolist() != [1.0] * 3 and mean.is_leaf
    y = F.batch_norm(mg.randn(6, 3), mean, var)  # evaluation differentiates with respect to them
    y.sum().backward()
    assert mean.grad.shape == (3,)


@pytest.mark.parametrize("ghost", [100, 2])
def test_a_layer_counts_no_batch_that_failed(layer_for, ghost):
    layer = layer_for((6, 3))
    layer.virtual_batch_size = ghost
    frozen = np.ones(3, "float32")
    frozen.flags.writeable = False
    layer.running_var = mg.asarray(frozen)
    with pytest.raises(ValueError, match="running_var shares read-only"):
        layer(mg.randn(6, 3))
    assert layer.num_batches_tracked.item() == 0 and not layer.running_mean.numpy().any()


def test_reset(layer_for):
    layer = layer_for((4, 2))
    with mg.no_grad():
        layer.weight.fill_(3)
        layer.bias.fill_(3)
    layer(mg.randn(4, 2))
    layer.reset_parameters()
    fresh = layer_for((4, 2)).state_dict()
    for name, value in layer.state_dict().items():
        assert value.tolist() == fresh[name].tolist()


def test_checkpoint_without_num_batches_tracked_loads(layer_for):
    source, target = nn.BatchNorm1d(3), nn.Sequential(layer_for((5, 3)))
    source(mg.randn(5, 3))
    state = {f"0.{name}": value for name, value in source.state_dict().items()}
    del state["0.num_batches_tracked"]
    assert target.load_state_dict(state) == ([], [])
    assert target[0].running_mean.tolist() == source.running_mean.tolist()
    del state["0.running_var"]
    with pytest.raises(RuntimeError, match=r"missing: 0.running_var$"):
        target.load_state_dict(state)


# ----------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (nn.BatchNorm1d, (3,)),
        (nn.BatchNorm1d, (2, 3, 4, 5)),
        (nn.BatchNorm2d, (2, 3)),
        (nn.BatchRenorm1d, (2, 3, 4, 5)),
        (nn.BatchRenorm2d, (2, 3)),
        (nn.GhostBatchNorm, (3,)),
        (nn.GhostBatchNorm, (2, 3, 4, 5, 6)),
    ],
)
def test_wrong_rank_is_a_clear_error(kind, shape):
    layer = kind(3, 2) if kind is nn.GhostBatchNorm else kind(3)
    before = buffers(layer)
    with pytest.raises(ValueError, match=rf"{kind.__name__}: expected an input of shape \(N, C"):
        layer(mg.ones(*shape))
    assert unchanged(layer, before)


@pytest.mark.parametrize("options", [{}, {"affine": False, "track_running_stats": False}])
def test_wrong_channel_count_is_a_clear_error(options):
    for layer in (nn.BatchNorm2d(3, **options), nn.BatchRenorm2d(3), nn.GhostBatchNorm(3, 2)):
        message = f"{type(layer).__name__}: expected 3 channels, got 4"
        with pytest.raises(ValueError, match=message):
            layer(mg.ones(2, 4, 5, 5))


def test_other_errors():
    layer = nn.BatchNorm1d(3)
    before = buffers(layer)
    with pytest.raises(TypeError, match="BatchNorm1d: expected a Tensor, got list"):
        layer([[1.0, 2.0, 3.0]])
    layer.weight = nn.Parameter(mg.ones(2))
    with pytest.raises(ValueError, match=r"weight has shape \(2,\).* has 3 channels"):
        layer(mg.ones(4, 3))
    assert unchanged(layer, before)
    with pytest.raises(ValueError, match="positive"):
        nn.BatchNorm1d(0)
    with pytest.raises(TypeError, match="int"):
        nn.BatchNorm1d(2.0)
    with pytest.raises(ValueError, match="momentum"):
        nn.BatchNorm1d(2, momentum=1.5)
    with pytest.raises(ValueError, match="eps"):
        nn.BatchNorm1d(2, eps=-1e-5)
    with pytest.raises(TypeError, match="BatchNorm1d: momentum must be a number, got 'a'"):
        nn.BatchNorm1d(2, momentum="a")
    with pytest.raises(TypeError, match="BatchNorm2d: eps must be a number, got None"):
        nn.BatchNorm2d(2, eps=None)
    with pytest.raises(ValueError, match=r"\(N, C, ...\)"):
        nn.functional.batch_norm(mg.ones(3), None, None)


# -------------------------------------------------------------------------------------- gradients
def test_first_and_second_order_against_finite_differences(values):
    layer = batch_norm(values.shape).double()
    x = mg.tensor(values, requires_grad=True)
    random = np.random.default_rng(5)
    with mg.no_grad():
        layer.weight.copy_(random.normal(size=3))
        layer.bias.copy_(random.normal(size=3))
    inputs = (x, layer.weight, layer.bias)
    assert gradcheck(lambda x, w, b: layer(x), inputs, full=True)
    assert gradgradcheck(lambda x, w, b: layer(x), inputs)


def test_second_order_would_show_a_detached_mean():
    """Var with a detached mean has the right first derivative and the wrong second one."""

    def detached(x):
        mean = x.mean(0, keepdims=True)
        var = ((x - mean.detach()) ** 2).mean(0, keepdims=True)
        return (x - mean) / mg.sqrt(var + 1e-5)

    x = mg.tensor(np.random.default_rng(0).normal(size=(5, 2)), requires_grad=True)
    assert gradcheck(detached, (x,))
    assert not gradgradcheck(detached, (x,), raise_exception=False)
    layer = nn.BatchNorm1d(2, affine=False)
    assert gradgradcheck(lambda x: layer(x), (x,))


def test_the_sum_of_the_output_has_zero_gradient(values):
    x = mg.tensor(values, requires_grad=True)
    batch_norm(values.shape).double()(x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), 0, atol=1e-13)


def test_the_gradient_is_blind_to_shift_and_scale_of_the_input(values):
    cotangent = mg.tensor(np.random.default_rng(3).normal(size=values.shape))
    x = mg.tensor(values, requires_grad=True)
    batch_norm(values.shape, eps=0.0).double()(x).backward(cotangent)
    g, axes = x.grad.numpy(), axes_of(values)
    np.testing.assert_allclose(g.sum(axes), 0, atol=1e-12)
    np.testing.assert_allclose((g * values).sum(axes), 0, atol=1e-11)


# ------------------------------------------------------------------------------------------ renorm
def moved_statistics(layer, random):
    layer.running_mean.copy_(mg.tensor(random.normal(2.0, 1.0, 3)))
    layer.running_var.copy_(mg.tensor(random.uniform(2.0, 8.0, 3)))
    with mg.no_grad():
        layer.weight.copy_(random.normal(size=3))
        layer.bias.copy_(random.normal(size=3))
    return layer


def test_batch_renorm_takes_r_and_d_as_constants(values):
    """Within the limits: values by the formula, and gradients of both orders those of a BatchNorm
    that has r and d in its weight and bias."""
    layer = moved_statistics(batch_renorm(values.shape).double(), np.random.default_rng(5))
    axes, x = axes_of(values), mg.tensor(values, requires_grad=True)
    mean, sigma = values.mean(axes), np.sqrt(values.var(axes) + 1e-5)
    old = layer.running_mean.numpy(copy=True), np.sqrt(layer.running_var.numpy() + 1e-5)
    r, d = (mg.tensor(a) for a in (sigma / old[1], (mean - old[0]) / old[1]))
    assert (r.numpy() > 1 / 3).all() and (r.numpy() < 3).all() and (abs(d.numpy()) < 5).all()
    inputs = (x, layer.weight, layer.bias)

    def constants(x, w, b):
        return F.batch_norm(x, None, None, w * r, w * d + b)

    y = layer(x)
    column = (3,) + (1,) * (values.ndim - 2)
    expected = (values - old[0].reshape(column)) / old[1].reshape(column)
    expected = expected * layer.weight.numpy().reshape(column)
    expected = expected + layer.bias.numpy().reshape(column)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-10)  # that of evaluation
    u, v = (mg.tensor(np.random.default_rng(k).normal(size=values.shape)) for k in (6, 7))
    second = []
    for output in (y, constants(*inputs)):
        first = mg.autograd.grad((output * u).sum(), inputs, create_graph=True)
        second.append([*first, *mg.autograd.grad((first[0] * v).sum(), inputs[:2])])
    for one, other in zip(*second, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-9, atol=1e-11)
    assert gradcheck(constants, inputs) and gradgradcheck(constants, inputs)


def test_batch_renorm_at_its_narrowest_limits_is_batch_norm(values):
    renorm, norm = batch_renorm(values.shape, rmax=1, dmax=0), batch_norm(values.shape)
    for _ in range(3):
        y, expected = renorm(mg.tensor(values)), norm(mg.tensor(values))
        np.testing.assert_allclose(y.numpy(), expected.numpy(), rtol=1e-12)
        assert unchanged(norm, buffers(renorm))
    assert norm.load_state_dict(renorm.state_dict()) == ([], [])


def test_batch_renorm_of_a_constant_channel_is_exactly_its_shift():
    layer = nn.BatchRenorm1d(1, dmax=0.25)
    assert (layer(mg.full((7, 1), 3.0)).numpy() == 0.25).all()


def test_the_dtype_of_batch_renorm_is_that_of_batch_norm():
    x = mg.randn(6, 3)
    for options in ({}, {"affine": False}):
        for dtype in ("float32", "float64"):
            kinds = batch_norm, batch_renorm
            dtypes = {kind(x.shape, **options).to(dtype)(x).dtype for kind in kinds}
            assert len(dtypes) == 1


def test_batch_renorm_limits():
    for options, error, message in [
        ({"rmax": 0.9}, ValueError, "BatchRenorm1d: rmax must be at least 1, got 0.9"),
        ({"rmax": float("nan")}, ValueError, "rmax must be at least 1, got nan"),
        ({"dmax": -0.1}, ValueError, "BatchRenorm1d: dmax must not be negative, got -0.1"),
        ({"dmax": "5"}, TypeError, "dmax must be a number, got '5'"),
    ]:
        with pytest.raises(error, match=message):
            nn.BatchRenorm1d(3, **options)
    layer = nn.BatchRenorm1d(3)
    layer.rmax = 0.5  # by a schedule
    before = buffers(layer)
    with pytest.raises(ValueError, match=r"batch_norm: rmax must be at least 1, got 0\.5"):
        layer(mg.randn(5, 3))
    assert unchanged(layer, before)
    assert layer.eval()(mg.randn(5, 3)).shape == (5, 3)
    with pytest.raises(ValueError, match="renorm needs running statistics"):
        F.batch_norm(mg.randn(5, 3), None, None, training=True, renorm=(1.0, 0.0))
    assert repr(nn.BatchRenorm1d(3, bias=False)).startswith(
        "BatchRenorm1d(3, eps=1e-05, momentum=0.1, affine=True, bias=False, rmax=3.0, dmax=5.0)"
    )


# ------------------------------------------------------------------------------------------- ghosts
GHOSTS = {"(7,C) by 3": ((7, 3), 3, (2, 2, 3)), "(8,C) by 4": ((8, 3), 4, (4, 4))}
GHOSTS |= {"(4,C,L) by 1": ((4, 3, 5), 1, (1,) * 4), "images": ((5, 3, 2, 4), 2, (1, 2, 2))}


@pytest.mark.parametrize("options", [{}, {"momentum": None}, {"momentum": 0.3, "affine": False}])
@pytest.mark.parametrize(("shape", "size", "sizes"), GHOSTS.values(), ids=GHOSTS)
def test_ghost_batches_are_batches_one_after_the_other(shape, size, sizes, options):
    x = mg.tensor(np.random.default_rng(0).normal(2.0, 3.0, shape))
    ghost = nn.GhostBatchNorm(3, size, **options).double()
    norm = batch_norm(shape, **options).double()
    for batches in (1, 2):
        y = ghost(x)
        parts = mg.split(x, list(sizes))
        np.testing.assert_array_equal(y.numpy(), mg.concat([norm(p) for p in parts]).numpy())
        assert unchanged(ghost, buffers(norm))
        assert ghost.num_batches_tracked.item() == batches * len(sizes)
    np.testing.assert_array_equal(ghost.eval()(x).numpy(), norm.eval()(x).numpy())
    assert norm.load_state_dict(ghost.state_dict()) == ([], [])


def test_the_statistics_of_ghost_batches_are_those_of_the_paper():
    """Algorithm 1: (1 - m)^n old + the sum of (1 - m)^i m for the ghosts from the last, i = 0."""
    values = np.random.default_rng(0).normal(2.0, 3.0, (12, 3))
    layer = nn.GhostBatchNorm(3, 4, momentum=0.3).double()
    layer(mg.tensor(values))
    ghosts, weights = values.reshape(3, 4, 3), 0.3 * 0.7 ** np.arange(3)[::-1, None]
    mean, var = ((weights * a).sum(0) for a in (ghosts.mean(1), ghosts.var(1, ddof=1)))
    np.testing.assert_allclose(layer.running_mean.numpy(), mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.7**3 + var, rtol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_ghost_batch_norm_without_running_statistics_has_ghosts_in_evaluation_too(training):
    layer = nn.GhostBatchNorm(3, 4, track_running_stats=False).double().train(training)
    y = layer(mg.randn(8, 3, dtype=mg.float64)).numpy()
    np.testing.assert_allclose(y.reshape(2, 4, 3).mean(1), 0, atol=1e-14)


def test_a_ghost_batch_that_fails_changes_nothing():
    layer = nn.GhostBatchNorm(3, 2)
    before = buffers(layer)
    with pytest.raises(ValueError, match=r"one value per channel, since 5 samples .* into 3"):
        layer(mg.randn(5, 3))
    with pytest.raises(ValueError, match=r"one value per channel, since 2 samples .* into 2"):
        nn.GhostBatchNorm(3, 1)(mg.randn(2, 3))
    calls = []

    def fail_late(*inputs, **options):
        calls.append(inputs)
        if len(calls) == 3:
            raise MemoryError
        return F.batch_norm(*inputs, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("minigrad.nn.norm.functional", SimpleNamespace(batch_norm=fail_late))
        with pytest.raises(MemoryError):
            layer(mg.randn(6, 3))
    assert unchanged(layer, before)
    for wrong, error in ((0, ValueError), (2.0, TypeError)):
        with pytest.raises(error, match="GhostBatchNorm: virtual_batch_size must be"):
            nn.GhostBatchNorm(3, wrong)
    assert repr(layer).startswith("GhostBatchNorm(3, virtual_batch_size=2, eps=1e-05, momentum")


# ----------------------------------------------------------------------------------- recalibration
DATA = np.random.default_rng(7).normal(1.0, 2.0, (60, 5)) * [1.0, 10.0, 0.1, 1.0, 100.0]
PARTITIONS = {
    "one batch": [60],
    "equal": [20, 20, 20],
    "uneven": [37, 1, 2, 19, 1],
    "single samples": [1] * 60,
    "with an empty batch": [30, 0, 30],
}


def parts(data, sizes):
    return [mg.tensor(piece) for piece in np.split(data, np.cumsum(sizes)[:-1])]


def deep_net(seed=0):
    mg.manual_seed(seed)
    net = nn.Sequential(
        nn.BatchNorm1d(5),
        nn.Linear(5, 8),
        nn.Sequential(nn.BatchRenorm1d(8), nn.ReLU(), nn.Dropout(0.5)),
        nn.Linear(8, 4),
        nn.GhostBatchNorm(4, 7, momentum=None),
    ).double()
    for batch in parts(DATA[::-1] * 3, [20, 40]):
        net(batch)
    return net


@pytest.mark.parametrize("sizes", PARTITIONS.values(), ids=PARTITIONS.keys())
def test_recalibrated_statistics_are_exact_whatever_the_partition(sizes):
    net = deep_net()
    nn.recalibrate(net, parts(DATA, sizes))
    x = DATA
    for layer in (net[0], net[1], net[2], net[3], net[4]):
        norm = layer[0] if isinstance(layer, nn.Sequential) else layer
        if hasattr(norm, "running_mean"):
            np.testing.assert_allclose(norm.running_mean.numpy(), x.mean(0), rtol=1e-10)
            np.testing.assert_allclose(norm.running_var.numpy(), x.var(0), rtol=1e-10)
        x = layer.eval()(mg.tensor(x)).numpy()
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-10)


def test_recalibrate_in_float32_is_the_same_to_1e_6_relative():
    results = []
    for sizes in PARTITIONS.values():
        net = deep_net().float()
        nn.recalibrate(net, parts(DATA.astype(np.float32), sizes))
        results.append(np.concatenate([m.running_var.numpy() for m in (net[0], net[2][0], net[4])]))
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-6)


def test_recalibrate_images_and_large_means():
    images = np.random.default_rng(0).normal(1e6, 1.0, (10, 3, 4, 4))
    net = nn.BatchNorm2d(3).double()
    nn.recalibrate(net, parts(images, [1, 6, 3]))
    np.testing.assert_allclose(net.running_mean.numpy(), images.mean((0, 2, 3)), rtol=1e-13)
    np.testing.assert_allclose(net.running_var.numpy(), images.var((0, 2, 3)), rtol=1e-8)


def test_recalibrate_restores_modes_and_keeps_the_rest():
    net = deep_net()
    net[2].eval()
    modes = [module.training for module in net.modules()]
    tracked = net[4].num_batches_tracked.item()
    parameters = [p.numpy(copy=True) for p in net.parameters()]
    nn.recalibrate(net, iter([(piece, "label") for piece in parts(DATA, [30, 30])]))
    assert [module.training for module in net.modules()] == modes
    assert net[4].num_batches_tracked.item() == tracked
    assert all(
        np.array_equal(p.numpy(), q) for p, q in zip(net.parameters(), parameters, strict=True)
    )
    assert not net[0]._forward_pre_hooks and not net[0].running_mean.requires_grad


def test_recalibrate_goes_in_the_order_of_the_data_not_of_the_names():
    class Backwards(nn.Module):
        def __init__(self):
            super().__init__()
            self.second, self.unused, self.first = (nn.BatchNorm1d(5) for _ in range(3))

        def forward(self, x):
            return self.second(mg.relu(self.first(x)))

    results = []
    for sizes in ([60], [7, 50, 3]):
        net = Backwards().double()
        nn.recalibrate(net, parts(DATA, sizes))
        results.append(net.second.running_mean.numpy())
        assert net.unused.running_var.tolist() == [1.0] * 5
    normalised = (DATA - DATA.mean(0)) / np.sqrt(DATA.var(0) + 1e-5)
    np.testing.assert_allclose(results[0], np.maximum(normalised, 0).mean(0), rtol=1e-10)
    np.testing.assert_allclose(results[1], results[0], rtol=1e-10)


def test_recalibrate_errors_leave_everything_as_it_was():
    net = deep_net()
    before = {name: value.numpy(copy=True) for name, value in net.named_buffers()}
    good = parts(DATA, [30, 30])
    seen = []

    def fail_late(module, inputs):
        seen.append(None)
        if len(seen) == 4:
            raise ZeroDivisionError

    net[2].register_forward_pre_hook(fail_late)
    with pytest.raises(ZeroDivisionError):
        nn.recalibrate(net, good)
    with pytest.raises(ValueError, match="expected 5 channels, got 4"):
        nn.recalibrate(net, [good[0], mg.ones(3, 4)])
    with pytest.raises(ValueError, match="no data"):
        nn.recalibrate(net, [])
    with pytest.raises(TypeError, match="recalibrate: batches must be a DataLoader or a list, got"):
        nn.recalibrate(net, 5)
    with pytest.raises(ValueError, match="track_running_stats=False"):
        nn.recalibrate(nn.Sequential(net, nn.BatchNorm1d(4, track_running_stats=False)), good)
    assert all(np.array_equal(value.numpy(), before[name]) for name, value in net.named_buffers())
    assert all(module.training for module in net.modules()) and not net[0]._forward_pre_hooks


def test_recalibrate_without_batchnorm_does_nothing():
    nn.recalibrate(nn.Linear(2, 2), [mg.ones(1, 2)])
