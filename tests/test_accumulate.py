"""nn.accumulate equals the full batch, unlike naive accumulation, in the memory of a part."""

from __future__ import annotations

import copy
import itertools
import tracemalloc

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn

RANDOM = np.random.default_rng(0)


class Flat(nn.Module):
    """(N, C, H, W) to (N, C * H, W): BatchNorm1d of three dimensions."""

    def forward(self, x):
        return x.reshape(x.shape[0], x.shape[1] * x.shape[2], x.shape[3])


class Residual(nn.Module):
    """One BatchNorm called twice, another in a parallel branch."""

    def __init__(self):
        super().__init__()
        self.norm, self.other = nn.BatchNorm1d(4), nn.BatchNorm1d(4, momentum=None)
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        y = self.norm(mg.tanh(self.layer(x)))
        return self.other(x * x) + self.norm(self.layer(y)) + y * y


def mlp():
    return nn.Sequential(
        nn.BatchNorm1d(4),
        nn.Linear(4, 8),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8, affine=False), nn.Tanh()),
        nn.Linear(8, 3),
        nn.BatchNorm1d(3, momentum=None, eps=0.1),
    )


def images():
    return nn.Sequential(
        nn.BatchNorm2d(2),
        nn.GELU(),
        nn.BatchNorm2d(2, track_running_stats=False),
        Flat(),
        nn.BatchNorm1d(6),
        nn.Flatten(),
        nn.Linear(24, 3),
        nn.BatchNorm1d(3),
    )


NETS = {
    "no BatchNorm": (lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), (24, 4)),
    "one": (
        lambda: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)),
        (24, 4),
    ),
    "several": (mlp, (24, 4)),
    "images": (images, (24, 2, 3, 4)),
    "called twice": (lambda: nn.Sequential(Residual(), Residual(), nn.Linear(4, 3)), (24, 4)),
    "LayerNorm between": (
        lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.BatchNorm1d(6), nn.Linear(6, 3)),
        (24, 4),
    ),
}
PARTITIONS = {
    "one": [24],
    "equal": [8, 8, 8],
    "uneven": [1, 13, 2, 8],
    "single samples": [1] * 24,
    "an empty one": [12, 0, 12],
}
LABELS = np.arange(24) % 3
WEIGHT = np.array([0.5, 2.0, 1.0])


def losses(dtype):
    weight = mg.tensor(WEIGHT.astype(dtype))
    labels, real = mg.tensor(LABELS), mg.tensor(RANDOM.normal(size=(24, 3)).astype(dtype))
    return {
        "mean": (nn.CrossEntropyLoss(), labels),
        "sum": (nn.CrossEntropyLoss(reduction="sum"), labels),
        "weights": (nn.CrossEntropyLoss(weight, ignore_index=1, label_smoothing=0.1), labels),
        "MSE": (nn.MSELoss(), real),
    }


def build(name, dtype):
    """A net with parameters and running statistics other than the initial ones."""
    mg.manual_seed(0)
    net = NETS[name][0]().to(dtype)
    random = np.random.default_rng(1)
    with mg.no_grad():
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.dtype.kind == "f":
                tensor.copy_(tensor.numpy() + random.uniform(0.0, 0.5, tensor.shape))
    x = np.random.default_rng(2).normal(1.0, 2.0, NETS[name][1]).astype(dtype)
    return net, mg.tensor(x)


def parts(sizes, *tensors):
    bounds = np.cumsum([0, *sizes])
    return [tuple(t[a:b] for t in tensors) for a, b in itertools.pairwise(bounds)]


def gradients(net):
    return {name: parameter.grad.numpy(copy=True) for name, parameter in net.named_parameters()}


def buffers(net):
    return {name: buffer.numpy(copy=True) for name, buffer in net.named_buffers()}


def largest(values):
    return max(np.abs(value).max() for value in values.values())


def distance(one, other):
    """The largest difference of any element, relative to the largest element."""
    return max(np.abs(one[name] - other[name]).max() for name in other) / largest(other)


@pytest.mark.parametrize("sizes", PARTITIONS.values(), ids=PARTITIONS)
@pytest.mark.parametrize("name", NETS)
def test_gradients_loss_and_buffers_are_those_of_the_full_batch(name, sizes):
    for loss, target in losses("float64").values():
        whole, x = build(name, "float64")
        divided = copy.deepcopy(whole)
        expected = loss(whole(x), target)
        expected.backward()
        value = nn.accumulate(divided, loss, parts(sizes, x, target))
        np.testing.assert_allclose(value.item(), expected.item(), rtol=1e-12)
        assert not value.requires_grad
        assert distance(gradients(divided), gradients(whole)) < 1e-12
        for key, buffer in buffers(whole).items():
            np.testing.assert_allclose(buffers(divided)[key], buffer, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sizes", [[8, 8, 8], [1, 13, 2, 8]], ids=str)
@pytest.mark.parametrize("name", NETS)
def test_float32_to_1e_6_relative(name, sizes):
    for loss, target in losses("float32").values():
        whole, x = build(name, "float32")
        divided = copy.deepcopy(whole)
        expected = loss(whole(x), target)
        expected.backward()
        value = nn.accumulate(divided, loss, parts(sizes, x, target))
        np.testing.assert_allclose(value.item(), expected.item(), rtol=1e-6)
        assert distance(gradients(divided), gradients(whole)) < 1e-6
        for key, buffer in buffers(whole).items():
            np.testing.assert_allclose(buffers(divided)[key], buffer, rtol=1e-6, atol=1e-7)


def test_where_rounding_is_amplified_both_are_equally_far_from_the_truth():
    """Saturated inputs of a BatchNorm have a tiny variance: float32 loses three digits of six."""
    exact, x = build("called twice", "float64")
    with mg.no_grad():
        for parameter in exact.parameters():
            parameter.copy_(np.random.default_rng(1).uniform(0.5, 1.5, parameter.shape))
    whole, divided = copy.deepcopy(exact).float(), copy.deepcopy(exact).float()
    loss, target = nn.CrossEntropyLoss(), mg.tensor(LABELS)
    single = x.astype(mg.float32)
    loss(exact(single.astype(mg.float64)), target).backward()
    loss(whole(single), target).backward()
    nn.accumulate(divided, loss, parts([1, 13, 2, 8], single, target))
    own = distance(gradients(whole), gradients(exact))
    assert own > 1e-6 and distance(gradients(divided), gradients(exact)) < 3 * own


@pytest.mark.parametrize("name", ["one", "several", "images", "called twice"])
def test_naive_accumulation_is_not_equal(name):
    whole, x = build(name, "float64")
    naive = copy.deepcopy(whole)
    loss, target = nn.CrossEntropyLoss(), mg.tensor(LABELS)
    loss(whole(x), target).backward()
    for piece, labels in parts([8, 8, 8], x, target):
        (loss(naive(piece), labels) / 3).backward()
    assert distance(gradients(naive), gradients(whole)) > 0.01
    assert largest(buffers(naive)) != largest(buffers(whole))


def test_statistics_without_a_gradient_would_not_be_enough():
    """Shared statistics held constant, as with eval(), give a different gradient."""
    whole, x = build("one", "float64")
    constant = copy.deepcopy(whole)
    loss, target = nn.CrossEntropyLoss(), mg.tensor(LABELS)
    loss(whole(x), target).backward()
    nn.recalibrate(constant, [x])
    value = loss(constant.eval()(x), target)
    value.backward()
    np.testing.assert_allclose(
        value.item(), loss(copy.deepcopy(constant).train()(x), target).item()
    )
    assert distance(gradients(constant), gradients(whole)) > 0.01


def test_gradients_add_to_those_that_are_there():
    whole, x = build("several", "float64")
    divided = copy.deepcopy(whole)
    loss, target = nn.CrossEntropyLoss(), mg.tensor(LABELS)
    kept = []
    for _ in range(2):
        loss(whole(x), target).backward()
        nn.accumulate(divided, loss, iter(parts([10, 14], x, target)))
        kept.append(next(divided.parameters()).grad)
    assert distance(gradients(divided), gradients(whole)) < 1e-12 and kept[0] is kept[1]


@pytest.mark.parametrize("name", ["several", "called twice"])
def test_training_runs_stay_together(name):
    whole, x = build(name, "float64")
    divided = copy.deepcopy(whole)
    loss, target = nn.CrossEntropyLoss(), mg.tensor(LABELS)
    first, second = (
        mg.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in (whole, divided)
    )
    for _ in range(10):
        first.zero_grad()
        second.zero_grad()
        loss(whole(x), target).backward()
        nn.accumulate(divided, loss, parts([1, 13, 10], x, target))
        first.step()
        second.step()
    for name, value in whole.state_dict().items():
        np.testing.assert_allclose(divided.state_dict()[name].numpy(), value.numpy(), rtol=1e-9)


# ----------------------------------------------------------------------------- what is not shared
def test_evaluation_mode_and_frozen_layers_are_left_alone():
    whole, x = build("several", "float64")
    whole[2].freeze()
    divided = copy.deepcopy(whole)
    loss, target = nn.CrossEntropyLoss(), mg.tensor(LABELS)
    loss(whole(x), target).backward()
    nn.accumulate(divided, loss, parts([8, 16], x, target))
    for one, other in zip(divided.parameters(), whole.parameters(), strict=True):
        assert (one.grad is None) == (other.grad is None)
        if one.grad is not None:
            np.testing.assert_allclose(one.grad.numpy(), other.grad.numpy(), rtol=1e-10, atol=1e-13)
    before = buffers(divided.eval())
    nn.accumulate(divided, loss, parts([8, 16], x, target))
    assert all(np.array_equal(value, before[name]) for name, value in buffers(divided).items())


def test_losses_that_couple_the_samples_and_parameters_of_the_loss():
    class Contrast(nn.Module):
        """Every output against every other, at a learned temperature."""

        def __init__(self):
            super().__init__()
            self.temperature = nn.Parameter(np.array(0.7))

        def forward(self, y):
            scores = y @ y.T / self.temperature
            return mg.logsumexp(scores, axis=1).mean() - mg.tanh(scores).mean()

    whole, x = build("several", "float64")
    divided, loss = copy.deepcopy(whole), Contrast()
    other = copy.deepcopy(loss)
    loss(whole(x)).backward()
    nn.accumulate(divided, other, [x[:5], x[5:]])
    assert distance(gradients(divided), gradients(whole)) < 1e-12
    assert distance(gradients(other), gradients(loss)) < 1e-12


def test_a_loss_that_uses_the_model_again_or_draws():
    whole, x = build("several", "float64")
    divided = copy.deepcopy(whole)
    seen = []

    def loss_of(net):
        def loss(y):
            seen.append(mg.rand(2).tolist())
            penalty = sum((p * p).sum() for p in net.parameters())
            return (y * y).mean() + penalty + net(x * 0.5)[:, 0].mean()

        return loss

    loss_of(whole)(whole(x)).backward()
    mg.manual_seed(0)
    for _ in range(2):
        divided.zero_grad()
        twin = copy.deepcopy(divided)
        nn.accumulate(divided, loss_of(divided), [x[:5], x[5:]])
    assert seen[1] != seen[2]
    nn.accumulate(twin, lambda y: loss_of(twin)(y) * 0.0, [x])
    assert distance(gradients(divided), gradients(whole)) < 1e-12


def test_gradients_of_inputs():
    whole, x = build("several", "float64")
    divided, loss, target = copy.deepcopy(whole), nn.CrossEntropyLoss(), mg.tensor(LABELS)
    x.requires_grad_()
    pieces = [piece.detach().requires_grad_() for (piece,) in parts([10, 14], x)]
    loss(whole(x), target).backward()
    nn.accumulate(divided, loss, [(pieces[0], target[:10]), (pieces[1], target[10:])])
    together = np.concatenate([piece.grad.numpy() for piece in pieces])
    np.testing.assert_allclose(together, x.grad.numpy(), rtol=1e-9, atol=1e-14)


# ---------------------------------------------------------------------------------------- dropout
class Mask(nn.Module):
    """Multiplies by masks seen before, one after another."""

    def __init__(self, masks):
        super().__init__()
        self.masks = masks

    def forward(self, x):
        return x * self.masks


def test_every_run_of_a_micro_batch_draws_the_same_dropout_mask():
    def net(dropout):
        mg.manual_seed(1)
        return nn.Sequential(
            dropout,
            nn.Linear(4, 8),
            nn.BatchNorm1d(8),
            nn.Tanh(),
            nn.BatchNorm1d(8),
            nn.Linear(8, 3),
        ).double()

    seen = {}
    divided, x, target = net(nn.Dropout(0.4)), mg.tensor(RANDOM.normal(size=(24, 4))), LABELS

    def record(module, inputs, output):
        mask = (output / inputs[0]).detach().numpy()
        seen.setdefault(len(mask), []).append(mask)

    divided[0].register_forward_hook(record)
    mg.manual_seed(5)
    loss = nn.CrossEntropyLoss()
    nn.accumulate(divided, loss, parts([10, 14], x, mg.tensor(target)))
    for masks in seen.values():
        assert len(masks) == 3 + 3 and all(np.array_equal(mask, masks[0]) for mask in masks)
    assert not np.array_equal(seen[10][0], seen[14][0][:10])

    whole = net(Mask(mg.tensor(np.concatenate([seen[10][0], seen[14][0]]))))
    loss(whole(x), mg.tensor(target)).backward()
    assert distance(gradients(divided), gradients(whole)) < 1e-12

    first = seen[10][0]
    seen.clear()
    nn.accumulate(divided, loss, parts([10, 14], x, mg.tensor(target)))
    assert not np.array_equal(seen[10][0], first)  # other masks in the next step
    seen.clear()
    mg.manual_seed(5)
    nn.accumulate(divided, loss, parts([10, 14], x, mg.tensor(target)))
    assert np.array_equal(seen[10][0], first)  # and the same from the same seed


def test_masks_do_not_come_again():
    net, masks = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3)).double(), set()
    net[0].register_forward_hook(lambda module, inputs, y: masks.add(y.detach().numpy().tobytes()))
    batches = parts([12, 12], mg.ones(24, 4, dtype=mg.float64), mg.zeros(24, 3))
    mg.manual_seed(5)
    for _ in range(200):
        nn.accumulate(net, nn.MSELoss(), batches)
    assert len(masks) == 400


def test_the_generator_moves_only_where_something_is_drawn():
    net, x = build("several", "float64")
    mg.manual_seed(3)
    expected = mg.rand(3).tolist()
    mg.manual_seed(3)
    nn.accumulate(net, nn.MSELoss(), parts([4, 20], x, mg.zeros(24, 3)))
    assert mg.rand(3).tolist() == expected


# ----------------------------------------------------------------------------------------- memory
def test_peak_memory_is_that_of_a_micro_batch():
    layers = [nn.Linear(61, 61), nn.BatchNorm1d(61), nn.Tanh()]
    net = nn.Sequential(*[copy.deepcopy(layer) for _ in range(4) for layer in layers])
    x, y, loss = mg.randn(2048, 61), mg.zeros(2048, 61), nn.MSELoss()

    def peak(run):
        tracemalloc.start()
        run()
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    whole = peak(lambda: loss(net(x), y).backward())
    divided = peak(lambda: nn.accumulate(net, loss, parts([128] * 16, x, y)))
    # what remains are the outputs, their cotangents and the loss, for all samples
    outputs = x.size * 4
    assert divided < whole / 3 and divided < 6 * outputs + whole / 8


# ----------------------------------------------------------------------------------------- errors
def test_errors_leave_everything_as_it_was():
    net, x = build("several", "float64")
    target, loss = mg.tensor(LABELS), nn.CrossEntropyLoss()
    nn.accumulate(net, loss, parts([24], x, target))
    grads, state = gradients(net), buffers(net)
    mg.manual_seed(3)
    expected = mg.rand(3).tolist()
    mg.manual_seed(3)
    good = parts([10, 14], x, target)
    runs = []

    def fail_late(module, inputs):
        runs.append(None)
        if len(runs) == 12:
            raise ZeroDivisionError

    handle = net[5].register_forward_pre_hook(fail_late)
    with pytest.raises(ZeroDivisionError):
        nn.accumulate(net, loss, good)
    handle.remove()
    with pytest.raises(ValueError, match="expected 4 channels, got 3"):
        nn.accumulate(net, loss, [good[0], (mg.ones(3, 3), mg.tensor([0, 1, 2]))])
    with pytest.raises(ValueError, match=r"more than one value per channel in all .*, got 1;"):
        nn.accumulate(net, loss, parts([1], x, target))
    with pytest.raises(ValueError, match=r"same number of targets, got \[2, 1\] tensors"):
        nn.accumulate(net, loss, [good[0], x])
    with pytest.raises(ValueError, match=r"got \[\] tensors"):
        nn.accumulate(net, loss, [])
    with pytest.raises(TypeError, match="a list of micro-batches or a DataLoader, got Tensor"):
        nn.accumulate(net, loss, x)
    with pytest.raises(TypeError, match="model must be a Module, got function"):
        nn.accumulate(lambda x: x, loss, good)
    with pytest.raises(RuntimeError, match=r"backward"):
        nn.accumulate(net, nn.CrossEntropyLoss(reduction="none"), good)
    assert all(np.array_equal(value, grads[name]) for name, value in gradients(net).items())
    assert all(np.array_equal(value, state[name]) for name, value in buffers(net).items())
    assert mg.rand(3).tolist() == expected
    assert all("forward" not in vars(module) for module in net.modules())


class Forked(nn.Module):
    """Takes another branch for large inputs."""

    def __init__(self, large):
        super().__init__()
        self.first, self.second, self.large = nn.BatchNorm1d(2), nn.BatchNorm1d(2), large

    def forward(self, x):
        layers = {"swap": [1, 0], "skip": [0], "add": [0, 1, 0]}[self.large]
        layers = layers if x.detach().max().item() > 100 else [0, 1]
        for i in layers:
            x = (self.first, self.second)[i](x)
        return x


@pytest.mark.parametrize("large", ["swap", "skip", "add"])
@pytest.mark.parametrize("order", [1, -1])
def test_micro_batches_must_go_the_same_way(large, order):
    net = Forked(large)
    before = buffers(net)
    batches = [mg.randn(4, 2), mg.randn(4, 2) + 1000.0][::order]
    with pytest.raises(RuntimeError, match=r"accumulate: every micro-batch must go through the"):
        nn.accumulate(net, lambda y: y.sum(), batches)
    assert all(np.array_equal(value, before[name]) for name, value in buffers(net).items())


def test_a_buffer_that_moves_in_every_run_is_refused():
    net = nn.Sequential(nn.InstanceNorm1d(2, track_running_stats=True))
    before = buffers(net)
    with pytest.raises(RuntimeError, match="a buffer that is not a BatchNorm's"):
        nn.accumulate(net, lambda y: y.sum(), [mg.randn(4, 2, 5)])
    assert all(np.array_equal(value, before[name]) for name, value in buffers(net).items())
    nn.accumulate(net.eval(), lambda y: (y * y).sum(), [mg.randn(4, 2, 5, requires_grad=True)])


def test_a_batch_norm_with_a_forward_of_its_own_is_refused():
    class Scaled(nn.BatchNorm1d):
        def forward(self, x):
            return 2.0 * super().forward(x)

    class Named(nn.BatchNorm1d):
        """The same forward."""

    with pytest.raises(TypeError, match="Scaled has a forward of its own"):
        nn.accumulate(nn.Sequential(Scaled(2)), nn.MSELoss(), [(mg.ones(4, 2), mg.ones(4, 2))])
    nn.accumulate(nn.Sequential(Named(2)), nn.MSELoss(), [(mg.ones(4, 2), mg.ones(4, 2))])
    for other in (nn.BatchRenorm1d(2), nn.GhostBatchNorm(2, 2)):
        net, batches = nn.Sequential(other), [(mg.ones(4, 2), mg.ones(4, 2))]
        with pytest.raises(TypeError, match=f"{type(other).__name__} has a forward of its own"):
            nn.accumulate(net, nn.MSELoss(), batches)
        nn.accumulate(net.eval(), nn.MSELoss(), batches)
    norm = nn.BatchNorm1d(2)
    handle = norm.register_forward_wrapper(lambda layer, forward, x: 2.0 * forward(x))
    with pytest.raises(TypeError, match="or a forward wrapper"):
        nn.accumulate(nn.Sequential(norm), nn.MSELoss(), [(mg.ones(4, 2), mg.ones(4, 2))])
    handle.remove()
    nn.accumulate(nn.Sequential(norm), nn.MSELoss(), [(mg.ones(4, 2), mg.ones(4, 2))])


def test_an_error_in_one_layer_moves_no_other():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 2), nn.BatchNorm1d(2))
    frozen = np.ones(2, "float32")
    frozen.flags.writeable = False
    net[2].running_var = mg.asarray(frozen)
    batches = [(mg.randn(4, 3), mg.randn(4, 2)), (mg.randn(3, 3), mg.randn(3, 2))]
    with pytest.raises(ValueError, match="accumulate: running_var shares read-only"):
        nn.accumulate(net, nn.MSELoss(), batches)
    assert [net[i].num_batches_tracked.item() for i in (0, 2)] == [0, 0]
    assert not net[0].running_mean.numpy().any() and not net[2].running_mean.numpy().any()
    assert all(p.grad is None for p in net.parameters())
