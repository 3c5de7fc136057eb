"""nn.utils and nn.init: parameters as a vector, weight norm, fuse_batchnorm, initial values."""

from __future__ import annotations

import copy
import math
import pickle
from itertools import pairwise

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.nn import init, utils

RANDOM = np.random.default_rng(0)


# ------------------------------------------------------------------------------------- as a vector
def test_parameters_to_vector_and_back():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False))
    vector = utils.parameters_to_vector(net.parameters())
    expected = np.concatenate([p.numpy().ravel() for p in net.parameters()])
    np.testing.assert_array_equal(vector.numpy(), expected)
    (vector * mg.arange(10.0)).sum().backward()
    assert net[1].weight.grad.tolist() == [[8.0, 9.0]]
    kept = list(net.parameters())
    utils.vector_to_parameters(mg.arange(10.0), net.parameters())
    assert net[0].weight.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert net[0].bias.tolist() == [6.0, 7.0] and net[1].weight.tolist() == [[8.0, 9.0]]
    assert all(p is q and p.is_leaf for p, q in zip(net.parameters(), kept, strict=True))


def test_vector_errors_write_nothing():
    layer = nn.Linear(3, 2)
    before = layer.weight.tolist()
    for wrong in (mg.ones(7), mg.ones(9), mg.ones(2, 4), mg.tensor(1.0)):
        with pytest.raises(ValueError, match=r"vector_to_parameters: .* a vector of 8 elements"):
            utils.vector_to_parameters(wrong, layer.parameters())
    with pytest.raises(TypeError, match="expected a Tensor, got list"):
        utils.vector_to_parameters([1.0] * 8, layer.parameters())
    with pytest.raises(TypeError, match="parameters_to_vector: expected Tensors, got str"):
        utils.parameters_to_vector("ab")
    with pytest.raises(ValueError, match="there are no parameters"):
        utils.parameters_to_vector([])
    assert layer.weight.tolist() == before


# ---------------------------------------------------------------------------------------- clipping
def with_gradient(*values, dtype="float64"):
    parameter = nn.Parameter(np.zeros(len(values), dtype=dtype))
    parameter.grad = mg.tensor(np.array(values, dtype=dtype))
    return parameter


@pytest.mark.parametrize("order", [0.5, 1, 2, 3.0, np.float32(2), math.inf])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_clip_grad_norm_counts_a_parameter_once(order, dtype):
    values = np.array([3.0, -4.0, 12.0])
    for listing in (lambda p, q: [p, q, p], lambda p, q: iter([q, q, p]), lambda p, q: (p, p, q)):
        p, q = with_gradient(3, -4, dtype=dtype), with_gradient(12, dtype=dtype)
        expected = float((np.abs(values) ** order).sum() ** (1 / order)) if order < 9 else 12.0
        total = utils.clip_grad_norm_(listing(p, q), 1.0, order)
        assert total.item() == pytest.approx(expected, rel=1e-6)
        clipped = np.concatenate([p.grad.numpy(), q.grad.numpy()])
        np.testing.assert_allclose(clipped, values / expected, rtol=2e-6)


def test_clip_grad_norm_scales_a_gradient_that_two_parameters_share_once():
    p, q = with_gradient(3, 4), with_gradient(0, 0)
    q.grad = p.grad
    assert utils.clip_grad_norm_([p, q], 1.0).item() == pytest.approx(50**0.5)
    np.testing.assert_allclose(p.grad.numpy(), np.array([3, 4]) / 50**0.5, rtol=1e-6)


@pytest.mark.parametrize("order", [0.5, 1, 2, 3, math.inf])
@pytest.mark.parametrize("strict", [False, True])
def test_clipping_of_parameters_of_size_0(order, strict):
    empty, full = with_gradient(), with_gradient(6)
    assert utils.clip_grad_norm_([empty], 1.0, order, strict).item() == 0
    assert utils.clip_grad_norm_([nn.Parameter(np.zeros((0, 3)))], 1.0, order, strict).item() == 0
    assert utils.clip_grad_norm_(iter([]), 1.0, order, strict).item() == 0
    assert utils.clip_grad_norm_([empty, full, empty], 3.0, order, strict).item() == pytest.approx(
        6
    )
    np.testing.assert_allclose(full.grad.numpy(), [3.0], rtol=1e-6)
    utils.clip_grad_value_([empty, full], 1.0)
    assert full.grad.tolist() == [1.0] and empty.grad.shape == (0,)


@pytest.mark.parametrize("order", [0, -1.0, -math.inf, math.nan])
def test_norms_that_are_none_are_refused(order):
    for parameters in ([], [with_gradient()], [with_gradient(3)]):
        with pytest.raises(ValueError, match="clip_grad_norm_: norm_type must be positive or inf"):
            utils.clip_grad_norm_(parameters, 1.0, order)
    with pytest.raises(TypeError, match="norm_type must be a number, got None"):
        utils.clip_grad_norm_(parameters, 1.0, None)


def test_read_only_memory_is_noticed_before_the_first_write():
    frozen = np.array([3.0, 4.0])
    frozen.flags.writeable = False
    p, q = with_gradient(3, 4), with_gradient(0, 0)
    q.grad = mg.asarray(frozen)
    for clip in (utils.clip_grad_norm_, utils.clip_grad_value_):
        with pytest.raises(ValueError, match=f"{clip.__name__}: a gradient of shape .*read-only"):
            clip([p, q], 1.0)
        assert p.grad.tolist() == [3.0, 4.0]
    assert utils.clip_grad_norm_([p, q], 100.0).item() == pytest.approx(50**0.5)  # writes nothing
    r = mg.asarray(frozen).requires_grad_()
    with pytest.raises(ValueError, match=r"vector_to_parameters: a parameter .*read-only"):
        utils.vector_to_parameters(mg.ones(4, dtype="float64"), [p, r])
    assert p.tolist() == [0.0, 0.0]


def test_a_vector_in_the_memory_of_the_parameters():
    memory = mg.arange(6.0)
    parameters = [memory[:3], memory[3:]]
    mg.nn.utils.vector_to_parameters(memory[::-1], parameters)
    assert memory.tolist() == [5, 4, 3, 2, 1, 0]


# ------------------------------------------------------------------------------------- weight norm
@pytest.mark.parametrize(("dim", "shape"), [(0, (4, 1)), (1, (1, 3)), (None, ())])
def test_weight_norm_splits_length_and_direction(dim, shape):
    layer = nn.Linear(3, 4).double()
    before, x = layer.weight.numpy(copy=True), mg.tensor(RANDOM.normal(size=(5, 3)))
    expected = layer(x).numpy()
    assert utils.weight_norm(layer, dim=dim) is layer
    assert list(layer.state_dict()) == ["bias", "weight_g", "weight_v"]
    assert layer.weight_g.shape == shape and layer.weight_v.shape == (4, 3)
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-12)
    with mg.no_grad():
        layer.weight_v *= 7.0
    np.testing.assert_allclose(layer(x).numpy(), expected, rtol=1e-12)  # only the direction counts
    with mg.no_grad():
        layer.weight_g *= 2.0
    np.testing.assert_allclose(layer(x).numpy(), 2 * expected - layer.bias.numpy(), rtol=1e-12)
    utils.remove_weight_norm(layer)
    assert sorted(layer.state_dict()) == ["bias", "weight"]
    assert isinstance(layer.weight, nn.Parameter) and layer.weight.requires_grad
    np.testing.assert_allclose(layer.weight.numpy(), 2 * before, rtol=1e-12)
    assert not layer._forward_pre_hooks and not layer._forward_hooks


@pytest.mark.parametrize("dim", [0, None])
def test_gradients_reach_length_and_direction(dim):
    layer = utils.weight_norm(nn.Linear(3, 2).double(), dim=dim)
    x = mg.tensor(RANDOM.normal(size=(4, 3)), requires_grad=True)
    inputs = (x, layer.weight_g, layer.weight_v, layer.bias)
    assert gradcheck(lambda x, *_: layer(x), inputs)
    assert gradgradcheck(lambda x, *_: layer(x), inputs)
    layer(x).sum().backward()
    along = (layer.weight_v.grad * layer.weight_v).sum().item()
    assert abs(along) < 1e-12 and layer.weight_g.grad is not None


def test_weight_norm_trains_copies_pickles_and_loads():
    net = nn.Sequential(utils.weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 1))
    x = mg.randn(16, 3)
    optimizer = mg.optim.SGD(net.parameters(), lr=0.05)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = ((net(x) - x[:, :1]) ** 2).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    expected = net(x).numpy()
    fresh = nn.Sequential(utils.weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 1))
    fresh.load_state_dict(net.state_dict())
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), fresh):
        np.testing.assert_array_equal(twin(x).numpy(), expected)
    double = net.double()(x.astype(mg.float64))
    np.testing.assert_allclose(double.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_weight_norm_errors():
    layer = nn.Linear(3, 4)
    with pytest.raises(ValueError, match="weight_norm: Linear has no parameter 'kernel'"):
        utils.weight_norm(layer, "kernel")
    for dim in (2, -1, "0", True):
        with pytest.raises(ValueError, match=r"an axis of 'weight' of shape \(4, 3\), got"):
            utils.weight_norm(layer, dim=dim)
    with pytest.raises(ValueError, match="remove_weight_norm: no weight norm on 'weight'"):
        utils.remove_weight_norm(layer)
    assert list(layer.state_dict()) == ["weight", "bias"]
    with pytest.raises(ValueError, match="has no parameter 'weight'"):
        utils.weight_norm(utils.weight_norm(layer))


# ------------------------------------------------------------------------------- fuse_batchnorm
def trained(net, shape):
    """With running statistics, weights and biases other than the initial ones."""
    net.double()
    for _ in range(3):
        net(mg.tensor(RANDOM.normal(1.0, 3.0, shape)))
    with mg.no_grad():
        for parameter in net.parameters():
            parameter.copy_(RANDOM.normal(size=parameter.shape))
    return net.eval()


def mlp(bias=True, **options):
    return nn.Sequential(
        nn.Linear(3, 4, bias=bias),
        nn.BatchNorm1d(4, **options),
        nn.ReLU(),
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2, eps=0.1)),
    )


FUSED = {
    "Linear": (mlp, (8, 3), 2),
    "without bias": (lambda: mlp(bias=False), (8, 3), 2),
    "without affine": (lambda: mlp(affine=False), (8, 3), 2),
    "a Linear or a norm beside something else": (
        lambda: nn.Sequential(
            nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 2), nn.BatchNorm1d(2)
        ),
        (8, 3),
        1,
    ),
    "BatchRenorm and GhostBatchNorm": (
        lambda: nn.Sequential(
            nn.Linear(3, 4),
            nn.BatchRenorm1d(4, bias=False),
            nn.Linear(4, 2),
            nn.GhostBatchNorm(2, 3),
        ),
        (8, 3),
        2,
    ),
    "Conv2d": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
        (2, 3, 4, 5),
        1,
    ),
    "Conv2d without bias": (
        lambda: nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 2, bias=False), nn.BatchNorm2d(4))),
        (2, 3, 4, 5),
        1,
    ),
    "Conv1d in groups": (
        lambda: nn.Sequential(nn.Conv1d(4, 6, 3, groups=2, stride=2), nn.BatchNorm1d(6)),
        (2, 4, 9),
        1,
    ),
}


@pytest.mark.parametrize("name", FUSED)
def test_fused_nets_have_the_same_outputs(name):
    build, shape, count = FUSED[name]
    net = trained(build(), shape)
    before = {key: value.numpy(copy=True) for key, value in net.state_dict().items()}
    fused = utils.fuse_batchnorm(net)
    x = mg.tensor(RANDOM.normal(size=shape))
    np.testing.assert_allclose(fused(x).numpy(), net(x).numpy(), rtol=1e-11, atol=1e-12)
    replaced = sum(isinstance(module, nn.Identity) for module in fused.modules())
    assert replaced == count and not any(isinstance(m, nn.Identity) for m in net.modules())
    assert all(np.array_equal(v.numpy(), before[k]) for k, v in net.state_dict().items())
    single = utils.fuse_batchnorm(copy.deepcopy(net).float())
    assert {p.dtype for p in single.parameters()} == {np.dtype("float32")}
    np.testing.assert_allclose(single(x.astype(mg.float32)).numpy(), net(x).numpy(), atol=1e-4)
    fused(x).sum().backward()
    assert all(p.grad is not None for p in fused.parameters())


def test_a_pair_and_a_layer_that_is_used_twice():
    layer = nn.Linear(3, 3)
    net = trained(nn.Sequential(layer, nn.BatchNorm1d(3), layer, nn.BatchNorm1d(3)), (8, 3))
    x = mg.tensor(RANDOM.normal(size=(5, 3)))
    np.testing.assert_allclose(utils.fuse_batchnorm(net)(x).numpy(), net(x).numpy(), rtol=1e-10)
    one = utils.fuse_batchnorm(net[0], net[1])
    assert isinstance(one, nn.Linear) and one is not layer
    np.testing.assert_allclose(one(x).numpy(), net[:2](x).numpy(), rtol=1e-11, atol=1e-13)


def test_fuse_errors():
    net = mlp()
    with pytest.raises(ValueError, match=r"normalises by the statistics of the batch.*eval\(\)"):
        utils.fuse_batchnorm(net)
    net.eval()
    with pytest.raises(ValueError, match="statistics of the batch"):
        utils.fuse_batchnorm(net[0], nn.BatchNorm1d(4, track_running_stats=False).eval())
    with pytest.raises(ValueError, match="Linear has 4 outputs, the BatchNorm 3 channels"):
        utils.fuse_batchnorm(net[0], nn.BatchNorm1d(3).eval())
    with pytest.raises(ValueError, match=r"expected a Linear, .* got ReLU and BatchNorm1d"):
        utils.fuse_batchnorm(net[2], net[1])
    with pytest.raises(ValueError, match="got Linear and LayerNorm"):
        utils.fuse_batchnorm(net[0], nn.LayerNorm(4))
    with pytest.raises(ValueError, match="got Conv2d and InstanceNorm2d"):
        tracked = nn.InstanceNorm2d(4, track_running_stats=True).eval()
        utils.fuse_batchnorm(nn.Conv2d(3, 4, 3), tracked)
    with pytest.raises(ValueError, match="the weight is normalised; use remove_weight_norm"):
        utils.fuse_batchnorm(utils.weight_norm(nn.Linear(3, 4)), net[1])
    with pytest.raises(ValueError, match="no Sequential in the model has a BatchNorm after"):
        utils.fuse_batchnorm(nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 3)).eval())


# -------------------------------------------------------------------------------- starting values
def test_gains():
    """For every name that PyTorch knows, as in its table."""
    linear = ["linear", "sigmoid", *(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3))]
    assert {name: init.calculate_gain(name) for name in linear} == dict.fromkeys(linear, 1.0)
    assert init.calculate_gain("tanh") == 5 / 3 and init.calculate_gain("selu") == 3 / 4
    assert init.calculate_gain("relu") == 2**0.5 == init.calculate_gain("leaky_relu", 0)
    assert init.calculate_gain("leaky_relu") == pytest.approx((2 / 1.0001) ** 0.5, rel=1e-15)
    assert init.calculate_gain("leaky_relu", 3) == pytest.approx(0.2**0.5, rel=1e-15)
    with pytest.raises(ValueError, match="unknown nonlinearity 'mish'"):
        init.calculate_gain("mish")


@pytest.mark.parametrize("shape", [(5, 5), (3, 8), (8, 3), (4, 3, 2, 2), (6, 2, 2)], ids=str)
def test_orthogonal(shape):
    w = init.orthogonal_(mg.empty(shape, dtype=mg.float64), gain=2.0).numpy()
    flat = w.reshape(shape[0], -1)
    product = flat @ flat.T if flat.shape[0] <= flat.shape[1] else flat.T @ flat
    np.testing.assert_allclose(product, 4 * np.eye(len(product)), atol=1e-12)


def test_orthogonal_matrices_are_equally_likely():
    """Without the signs of R, QR gives matrices whose first entry is never positive."""
    mg.manual_seed(0)
    draws = np.array([init.orthogonal_(mg.empty(3, 3)).numpy() for _ in range(400)])
    assert np.abs(draws.mean(0)).max() < 0.12  # standard error 0.03
    np.testing.assert_allclose(draws.var(0), 1 / 3, atol=0.08)
    assert 0.4 < (np.linalg.det(draws) > 0).mean() < 0.6


@pytest.mark.parametrize(
    ("mean", "std", "a", "b"),
    [
        (0.0, 1.0, -2.0, 2.0),
        (1.0, 2.0, -1.0, 8.0),
        (0.0, 1.0, -0.1, 0.2),
        (0.0, 1.0, 3.0, 5.0),
        (0.0, 1.0, -math.inf, -4.0),
        (0.0, 1.0, 1.0, 1.01),
        (5.0, 0.5, -math.inf, math.inf),
        (0.0, 0.02, -0.04, 0.04),
    ],
)
def test_truncated_normal_has_the_distribution(mean, std, a, b):
    stats = pytest.importorskip("scipy.stats")
    mg.manual_seed(0)
    values = init.trunc_normal_(mg.empty(100, 200, dtype=mg.float64), mean, std, a, b).numpy()
    assert values.min() >= a and values.max() <= b
    exact = stats.truncnorm((a - mean) / std, (b - mean) / std, loc=mean, scale=std)
    assert stats.kstest(values.ravel(), exact.cdf).pvalue > 1e-3
    single = init.trunc_normal_(mg.empty(100), mean, std, a, b).numpy()
    assert single.dtype == np.float32 and np.isfinite(single).all()


def test_eye():
    assert init.eye_(mg.empty(2, 3)).tolist() == [[1, 0, 0], [0, 1, 0]]


def test_initialisation_errors_and_edges():
    for wrong in ((3,), (2, 2, 2)):
        with pytest.raises(ValueError, match="eye_: expected a matrix"):
            init.eye_(mg.empty(wrong))
    with pytest.raises(ValueError, match="orthogonal_: expected two or more dimensions"):
        init.orthogonal_(mg.empty(3))
    with pytest.raises(ValueError, match="trunc_normal_: std must be positive, got 0"):
        init.trunc_normal_(mg.empty(3), std=0.0)
    with pytest.raises(ValueError, match=r"the bounds must be in order, got a=2.0 and b=-2.0"):
        init.trunc_normal_(mg.empty(3), a=2.0, b=-2.0)
    for mean in (math.nan, math.inf, -math.inf):  # no proposal would ever be accepted
        with pytest.raises(ValueError, match="mean and std must be finite"):
            init.trunc_normal_(mg.empty(3), mean=mean)
    with pytest.raises(ValueError, match="mean and std must be finite"):
        init.trunc_normal_(mg.empty(3), std=math.inf)
    with pytest.raises(ValueError, match="too far from mean"):
        init.trunc_normal_(mg.empty(3), mean=1e308, std=1e-308)
    assert init.trunc_normal_(mg.empty(0)).shape == (0,)
    assert init.orthogonal_(mg.empty(0, 3)).shape == (0, 3)


def test_fans_of_convolutions_are_those_of_the_papers():
    """Glorot & Bengio keep the variance of a layer's output at that of its input, He et al. with a
    ReLU before it: a stack of layers, each output summed over its fan_in."""
    mg.manual_seed(0)
    for start, after in [
        (lambda w: init.kaiming_normal_(w, nonlinearity="relu"), lambda y: np.maximum(y, 0)),
        (init.xavier_normal_, lambda y: y),
    ]:
        y = RANDOM.normal(size=(500, 64 * 9))
        variances = []
        for _ in range(4):
            weight = start(mg.empty(64, 64, 3, 3)).numpy().reshape(64, -1)
            y = after(np.tile(y, (1, 9))[:, : 64 * 9]) @ weight.T
            variances.append(y.var())
        assert all(0.7 < b / a < 1.4 for a, b in pairwise(variances))
