"""LayerNorm, GroupNorm, InstanceNorm, RMSNorm, freezing, and BatchNorm on another domain."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.nn import functional as F

RANDOM = np.random.default_rng(0)


def standardised(x, axes, eps):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def grouped(x, groups, eps):
    rows = x.reshape(x.shape[0], groups, -1)
    return standardised(rows, 2, eps).reshape(x.shape)


def root_mean_square(x, axes, eps):
    return x / np.sqrt(np.square(x).mean(axes, keepdims=True) + eps)


NORMS = {
    "LayerNorm": (lambda: nn.LayerNorm(4), (5, 4), lambda x: standardised(x, 1, 1e-5)),
    "LayerNorm 2": (
        lambda: nn.LayerNorm((3, 2), eps=0.1),
        (2, 3, 2),
        lambda x: standardised(x, (1, 2), 0.1),
    ),
    "LayerNorm of a vector": (lambda: nn.LayerNorm(4), (4,), lambda x: standardised(x, 0, 1e-5)),
    "LayerNorm without bias": (
        lambda: nn.LayerNorm(4, bias=False),
        (5, 4),
        lambda x: standardised(x, 1, 1e-5),
    ),
    "RMSNorm": (
        lambda: nn.RMSNorm(4),
        (5, 4),
        lambda x: root_mean_square(x, 1, np.finfo(x.dtype).eps),
    ),
    "RMSNorm 2": (
        lambda: nn.RMSNorm((3, 2), eps=0.1),
        (2, 3, 2),
        lambda x: root_mean_square(x, (1, 2), 0.1),
    ),
    "GroupNorm": (lambda: nn.GroupNorm(2, 6), (2, 6, 3), lambda x: grouped(x, 2, 1e-5)),
    "GroupNorm 2-D": (lambda: nn.GroupNorm(3, 6, 0.1), (4, 6), lambda x: grouped(x, 3, 0.1)),
    "GroupNorm of all": (lambda: nn.GroupNorm(1, 4), (2, 4, 2, 3), lambda x: grouped(x, 1, 1e-5)),
    "InstanceNorm1d": (
        lambda: nn.InstanceNorm1d(3, affine=True),
        (2, 3, 4),
        lambda x: standardised(x, 2, 1e-5),
    ),
    "InstanceNorm2d": (
        lambda: nn.InstanceNorm2d(3),
        (2, 3, 2, 3),
        lambda x: standardised(x, (2, 3), 1e-5),
    ),
    "InstanceNorm2d of one sample": (
        lambda: nn.InstanceNorm2d(3),
        (3, 2, 3),
        lambda x: standardised(x, (1, 2), 1e-5),
    ),
}


@pytest.fixture(params=NORMS)
def norm(request):
    build, shape, reference = NORMS[request.param]
    return build().double(), RANDOM.normal(2.0, 3.0, shape), reference


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_values(norm, mode):
    layer, x, reference = norm
    y = getattr(layer, mode)()(mg.tensor(x))
    np.testing.assert_allclose(y.numpy(), reference(x), rtol=1e-10, atol=1e-12)
    single = layer.float()(mg.tensor(x.astype(np.float32)))
    assert single.dtype == mg.float32 and single.shape == x.shape
    np.testing.assert_allclose(single.numpy(), reference(x), rtol=1e-4, atol=1e-5)


def test_gradients_of_first_and_second_order(norm):
    layer, x, _ = norm
    with mg.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(RANDOM.normal(size=parameter.shape))
    inputs = (mg.tensor(x, requires_grad=True), *layer.parameters())
    assert gradcheck(lambda x, *_: layer(x), inputs)
    assert gradgradcheck(lambda x, *_: layer(x), inputs)


def test_memory_order_and_empty_batches(norm):
    layer, x, reference = norm
    strided = mg.tensor(np.asfortranarray(x[::-1]))
    np.testing.assert_allclose(layer(strided).numpy(), reference(x[::-1]), rtol=1e-10, atol=1e-12)
    if len(x.shape) > 1 and not isinstance(layer, nn.InstanceNorm2d):
        empty = mg.zeros(0, *x.shape[1:], dtype=mg.float64, requires_grad=True)
        y = layer(empty)
        y.sum().backward()
        assert y.shape == empty.shape == empty.grad.shape


def test_scale_and_shift_are_per_channel_or_per_element(norm):
    layer, x, reference = norm
    if layer.weight is None:
        assert not list(layer.parameters())
        return
    with mg.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(RANDOM.normal(size=parameter.shape))
    channels = isinstance(layer, (nn.GroupNorm, nn.InstanceNorm1d))
    shape = (-1, *(1,) * (x.ndim - 2)) if channels else layer.weight.shape
    bias = getattr(layer, "bias", None)
    expected = reference(x) * layer.weight.numpy().reshape(shape)
    expected += 0.0 if bias is None else bias.numpy().reshape(shape)
    np.testing.assert_allclose(layer(mg.tensor(x)).numpy(), expected, rtol=1e-9, atol=1e-11)
    if hasattr(layer, "reset_parameters"):
        layer.reset_parameters()
        np.testing.assert_allclose(layer(mg.tensor(x)).numpy(), reference(x), rtol=1e-9, atol=1e-11)


def test_a_constant_sample_gives_exactly_zero_and_a_large_mean_does_not_cancel():
    for layer in (nn.LayerNorm(7), nn.GroupNorm(1, 7), nn.InstanceNorm1d(1)):
        x = mg.full((1, 1, 7) if isinstance(layer, nn.InstanceNorm1d) else (1, 7), 1e4 + 0.3)
        assert not layer(x).numpy().any()
    values = RANDOM.normal(1e4, 1.0, (5, 64)).astype(np.float32)
    y = nn.LayerNorm(64)(mg.tensor(values)).numpy()
    np.testing.assert_allclose(y, standardised(values.astype("d"), 1, 1e-5), atol=2e-3)


def test_dynamic_tanh_starts_again():
    layer = nn.DynamicTanh(3, 0.25)
    with mg.no_grad():
        for parameter in layer.parameters():
            parameter.fill_(7.0)
    layer.reset_parameters()
    state = {name: value.tolist() for name, value in layer.state_dict().items()}
    assert state == {"weight": [1.0] * 3, "bias": [0.0] * 3, "alpha": [0.25]}


def test_group_norm_between_layer_and_instance_norm():
    x = mg.randn(2, 6, 4, 3)
    one = nn.GroupNorm(1, 6)(x).numpy()
    np.testing.assert_allclose(one, nn.LayerNorm((6, 4, 3))(x).numpy(), atol=1e-5)
    each = nn.GroupNorm(6, 6)(x).numpy()
    np.testing.assert_allclose(each, nn.InstanceNorm2d(6)(x).numpy(), atol=1e-5)


# ------------------------------------------------------------- running statistics of InstanceNorm
def test_instance_norm_tracks_the_averages_over_the_batch():
    layer = nn.InstanceNorm1d(3, momentum=0.25, track_running_stats=True).double()
    x = RANDOM.normal(2.0, 3.0, (4, 3, 5))
    layer(mg.tensor(x))
    mean, var = x.mean(2).mean(0), x.var(2, ddof=1).mean(0)
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.25 * mean, rtol=1e-12)
    np.testing.assert_allclose(layer.running_var.numpy(), 0.75 + 0.25 * var, rtol=1e-12)
    layer.eval()
    before = layer.running_mean.tolist()
    y = layer(mg.tensor(x)).numpy()
    scale = np.sqrt(layer.running_var.numpy() + 1e-5)[:, None]
    expected = (x - layer.running_mean.numpy()[:, None]) / scale
    np.testing.assert_allclose(y, expected, rtol=1e-12)
    assert layer.running_mean.tolist() == before
    inputs = (mg.tensor(x, requires_grad=True),)
    assert gradcheck(layer, inputs) and gradgradcheck(layer, inputs)


def test_recalibrate_and_isinstance_do_not_take_instance_norm_for_batch_norm():
    net = nn.Sequential(nn.InstanceNorm1d(2, track_running_stats=True))
    nn.recalibrate(net, [mg.randn(4, 2, 5)])
    assert net[0].running_mean.tolist() == [0.0, 0.0]
    assert not isinstance(net[0], nn.BatchNorm1d)


# ----------------------------------------------------------------------------------------- errors
def test_errors():
    with pytest.raises(ValueError, match=r"layer_norm: expected .* \(\*, 4\), got \(2, 3\)"):
        nn.LayerNorm(4)(mg.ones(2, 3))
    with pytest.raises(ValueError, match=r"rms_norm: expected .* \(\*, 2, 4\), got \(4,\)"):
        nn.RMSNorm((2, 4))(mg.ones(4))
    with pytest.raises(ValueError, match=r"layer_norm: bias has shape \(3,\), .* is \(4,\)"):
        F.layer_norm(mg.ones(2, 4), 4, bias=mg.ones(3))
    with pytest.raises(ValueError, match="GroupNorm: num_channels 5 cannot be split into 2 groups"):
        nn.GroupNorm(2, 5)
    with pytest.raises(ValueError, match=r"GroupNorm: expected .* \(N, 6, ...\), got \(2, 5\)"):
        nn.GroupNorm(2, 6)(mg.ones(2, 5))
    with pytest.raises(ValueError, match="group_norm: 5 channels cannot be split into 2 groups"):
        F.group_norm(mg.ones(3, 5), 2)
    with pytest.raises(ValueError, match=r"group_norm: weight has shape \(2,\).* has 4 channels"):
        F.group_norm(mg.ones(3, 4), 2, mg.ones(2))
    with pytest.raises(ValueError, match=r"group_norm: expected .* \(N, C, ...\), got \(3,\)"):
        F.group_norm(mg.ones(3), 1)
    with pytest.raises(ValueError, match=r"InstanceNorm1d: expected .* \(N, C, L\), got"):
        nn.InstanceNorm1d(3)(mg.ones(2, 3, 4, 5))
    with pytest.raises(ValueError, match="InstanceNorm2d: expected 3 channels, got 4"):
        nn.InstanceNorm2d(3)(mg.ones(2, 4, 5, 5))
    with pytest.raises(ValueError, match=r"instance_norm: .* more than one element per channel"):
        nn.InstanceNorm1d(3)(mg.ones(2, 3, 1))
    with pytest.raises(ValueError, match="use_input_stats=False needs running statistics"):
        F.instance_norm(mg.ones(2, 3, 4), use_input_stats=False)
    for build in (nn.LayerNorm, nn.RMSNorm):
        with pytest.raises(ValueError, match=r"at least one size, got \(\)"):
            build(())
        with pytest.raises(TypeError, match=r"normalized_shape must be an int, got 2\.0"):
            build(2.0)
        with pytest.raises(ValueError, match="eps must not be negative, got -1"):
            build(2, eps=-1.0)
    for build in (nn.LayerNorm, lambda n, eps: nn.GroupNorm(1, n, eps), nn.InstanceNorm1d):
        with pytest.raises(TypeError, match="eps must be a number, got 'a'"):
            build(2, eps="a")
    for sizes, shape in ((4, (4, 3)), ((3, 1), (3,)), ((3, 1), (4, 5)), ((1, 3), (2, 2))):
        with pytest.raises(ValueError, match=r"DynamicTanh: expected an input of shape \(\*, "):
            nn.DynamicTanh(sizes)(mg.ones(*shape))
    with pytest.raises(TypeError, match="DynamicTanh: alpha_init_value must be a number, got 'a'"):
        nn.DynamicTanh(3, "a")
    for layer in (nn.LayerNorm(2), nn.RMSNorm(2), nn.GroupNorm(1, 2), nn.InstanceNorm1d(2)):
        with pytest.raises(TypeError, match="expected a Tensor, got list"):
            layer([[1.0, 2.0]])


def test_text():
    assert repr(nn.LayerNorm(4)) == (
        "LayerNorm((4,), eps=1e-05, elementwise_affine=True)  8 parameters"
    )
    assert repr(nn.BatchNorm1d(4, bias=False)).endswith("=True, bias=False)  4 parameters")
    assert repr(nn.InstanceNorm1d(4, bias=False)).endswith("track_running_stats=False)")
    assert repr(nn.GroupNorm(2, 4, bias=False)).endswith("affine=True, bias=False)  4 parameters")
    assert repr(nn.GroupNorm(2, 4, affine=False)) == "GroupNorm(2, 4, eps=1e-05, affine=False)"


# ------------------------------------------------------------------------------- another domain
def test_recalibrate_adapts_batch_norm_to_another_domain():
    """A net trained on one domain gets inputs of another scale and shift (Li et al. 2016): its
    normalised activations are wrong until it is recalibrated on unlabelled data of that domain."""
    mg.manual_seed(0)
    net = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU()).double()
    source = RANDOM.normal(size=(256, 4))
    for _ in range(100):
        net(mg.tensor(source))
    net.eval()
    target = source * [3.0, 0.2, 1.0, 10.0] + [5.0, -1.0, 0.0, 100.0]
    expected = net(mg.tensor(source)).numpy()

    adapted = copy.deepcopy(net)
    nn.recalibrate(adapted, [mg.tensor(part) for part in np.split(target, [100, 101, 200])])
    moments = []
    for model in (net, adapted):
        y = model[:3](mg.tensor(target)).numpy()
        moments.append((np.abs(y.mean(0)).max(), np.abs(y.std(0) - 1).max()))
    assert min(moments[0]) > 0.5 and max(moments[1]) < 1e-3
    wrong, right = (np.abs(m(mg.tensor(target)).numpy() - expected).max() for m in (net, adapted))
    assert wrong > 1.0 and right < 0.05
    for one, other in zip(adapted.parameters(), net.parameters(), strict=True):
        assert one.tolist() == other.tolist()


# ---------------------------------------------------------------------------------------- freezing
def net_with_norms():
    mg.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))


def test_a_frozen_batch_norm_survives_train():
    net = net_with_norms()
    x = mg.randn(8, 3)
    net(x)
    assert net.freeze(nn.BatchNorm1d) is net
    state = {name: value.numpy(copy=True) for name, value in net[1].state_dict().items()}
    optimizer = mg.optim.SGD(net.parameters(), lr=1.0, momentum=0.9)
    for _ in range(3):
        net.train()
        assert [module.training for module in net] == [True, False, True, True] and net.training
        optimizer.zero_grad()
        net(x).sum().backward()
        optimizer.step()
    for name, value in net[1].state_dict().items():
        np.testing.assert_array_equal(value.numpy(), state[name])
    expected = copy.deepcopy(net[1]).eval()(net[0](x)).numpy()
    np.testing.assert_array_equal(net[1](net[0](x)).numpy(), expected)
    assert net[0].weight.grad is not None and net[1].weight.grad is None
    net.unfreeze()
    assert net[1].training and net[1].weight.requires_grad
    net(x)
    assert not np.array_equal(net[1].running_mean.numpy(), state["running_mean"])


def test_freezing_everything_below_and_back():
    net = net_with_norms()
    net[0].bias.requires_grad = False
    net(mg.randn(8, 3)).sum().backward()
    net.freeze().freeze().train()
    assert not any(module.training for module in net.modules())
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())
    twin = copy.deepcopy(net)
    assert not twin.train()[1].training
    net[1].unfreeze()
    assert [module.training for module in net.train()] == [False, True, False, False]
    net.unfreeze()
    assert all(module.training for module in net.modules())
    wanted = [name for name, p in net.named_parameters() if not p.requires_grad]
    assert wanted == ["0.bias"]  # it did not require grad before either
    assert not net.eval().unfreeze().training  # nothing was frozen, so nothing changes


def test_freeze_errors():
    net = net_with_norms()
    for wrong in (net[1], "BatchNorm1d", int):
        with pytest.raises(TypeError, match="freeze: expected classes of Modules, got"):
            net.freeze(wrong)
    assert all(module.training for module in net.modules())
