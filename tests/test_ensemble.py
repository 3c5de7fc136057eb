"""Ensemble: every member trains as the plain net with its seed does."""

import copy
import pickle
import re
from collections import OrderedDict

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim

SIZE, FEATURES, CLASSES, SAMPLES, BATCH = 5, 4, 3, 60, 10
SEEDS = [11, 12, 13, 14, 15]
rng = np.random.default_rng(0)
X = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
Y = rng.integers(0, CLASSES, SAMPLES)


def full():
    # A bias before BatchNorm has a gradient of rounding errors, which Adam would magnify.
    hidden = nn.Linear(FEATURES, 9, bias=False), nn.BatchNorm1d(9), nn.ReLU(), nn.Dropout(0.3)
    tail = nn.Sequential(nn.Linear(9, 9, bias=False), nn.LayerNorm(9), nn.Tanh())
    return nn.Sequential(*hidden, tail, nn.Linear(9, CLASSES))


def small():
    hidden = nn.Linear(FEATURES, 6, bias=False), nn.BatchNorm1d(6), nn.ReLU()
    return nn.Sequential(*hidden, nn.Linear(6, CLASSES))


def train_plain(make, seed, create, lr, steps, criterion, target=Y):
    """The plain net after training, with the order of its data from its own generator."""
    generator = mg.manual_seed(seed).numpy()
    net = make()
    optimizer = create(net.parameters(), lr=lr)
    losses = []
    for start in range(steps):
        if start * BATCH % SAMPLES == 0:
            order = generator.permutation(SAMPLES)
        batch = order[start * BATCH % SAMPLES :][:BATCH]
        optimizer.zero_grad()
        loss = criterion(net(mg.tensor(X[batch])), mg.tensor(target[batch]))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return net, losses


def train_ensemble(make, create, rates, steps, criterion, target=Y, stops=None):
    net = nn.Ensemble(make, SIZE, seeds=SEEDS)
    optimizer = create(net.parameters(), lr=rates)
    losses = []
    for start in range(steps):
        if start * BATCH % SAMPLES == 0:
            order = net.randperm(SAMPLES).numpy()
        for member in np.flatnonzero(np.equal(stops or [], start)):
            net.stop(int(member))
        batch = order[:, start * BATCH % SAMPLES :][:, :BATCH]
        optimizer.zero_grad()
        loss = net.loss(criterion, net(mg.tensor(X[batch])), mg.tensor(target[batch]))
        loss.sum().backward()
        optimizer.step()
        losses.append(loss.tolist())
    return net, np.array(losses)


def assert_same(net, plain, tolerance=2e-4):
    for name, value in plain.state_dict().items():
        np.testing.assert_allclose(
            net.state_dict()[name].numpy(), value.numpy(), tolerance, tolerance, err_msg=name
        )


@pytest.mark.parametrize("create", [optim.SGD, optim.Adam, optim.RMSprop], ids=lambda c: c.__name__)
@pytest.mark.parametrize("make", [full, small], ids=lambda make: make.__name__)
def test_each_member_trains_as_the_plain_net_with_its_seed(make, create):
    criterion = nn.CrossEntropyLoss()
    net, losses = train_ensemble(make, create, 0.01, 15, criterion)
    assert not np.allclose(losses[0, 0], losses[0, 1])
    for member, seed in enumerate(SEEDS):
        plain, expected = train_plain(make, seed, create, 0.01, 15, criterion)
        np.testing.assert_allclose(losses[:, member], expected, 2e-4)
        assert_same(net[member], plain)


def test_each_member_has_its_own_rate_and_its_own_end():
    rates, stops, steps = [0.1, 0.01, 0.001, 0.03, 0.0], [20, 3, 8, 20, 0], 12
    create, criterion = optim.Adam, nn.CrossEntropyLoss()
    net, _ = train_ensemble(full, create, mg.tensor(rates), steps, criterion, stops=stops)
    for member, seed in enumerate(SEEDS):
        lasted = min(stops[member], steps)
        plain, _ = train_plain(full, seed, create, rates[member], lasted, criterion)
        assert_same(net[member], plain)
    assert net.active.tolist() == [True, False, False, True, False]


@pytest.mark.parametrize(
    "criterion, target",
    [
        (nn.MSELoss(), rng.normal(size=(SAMPLES, CLASSES)).astype(np.float32)),
        (nn.HuberLoss(reduction="sum", delta=0.5), rng.normal(size=(SAMPLES, CLASSES))),
        (nn.CrossEntropyLoss(label_smoothing=0.1), Y),
        (nn.CrossEntropyLoss(weight=mg.tensor([1.0, 2.0, 0.5])), Y),
        (nn.CrossEntropyLoss(ignore_index=1), Y),
        (nn.BCEWithLogitsLoss(), rng.integers(0, 2, (SAMPLES, CLASSES)).astype(np.float32)),
        (lambda output, target: ((output - 1) ** 2).mean() + target.sum(), Y),
    ],
    ids=["mse", "huber, sum", "smoothed", "weighted", "ignoring", "bce", "function"],
)
def test_the_losses_are_those_of_the_members(criterion, target):
    net = nn.Ensemble(small, SIZE, seeds=SEEDS).eval()
    output = net(mg.tensor(X))
    target = target.astype(np.float32) if target.dtype.kind == "f" else target
    shared = net.loss(criterion, output, mg.tensor(target))
    repeated = net.loss(criterion, output, mg.tensor(np.stack([target] * SIZE)))
    expected = [criterion(plain(mg.tensor(X)), mg.tensor(target)).item() for plain in net]
    for losses in (shared, repeated):
        assert losses.shape == (SIZE,)
        np.testing.assert_allclose(losses.tolist(), expected, 1e-5)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "criterion, output, target",
    [
        (nn.MSELoss, (3, 6, 1), (6,)),  # would broadcast to (18, 18), across the members
        (nn.MSELoss, (3, 6, 1), (3, 6)),
        (nn.L1Loss, (3, 6), (6, 1)),
        (nn.HuberLoss, (3, 3, 2), (3, 3)),
        (nn.SmoothL1Loss, (3, 6, 2), (6, 2, 1)),
        (nn.KLDivLoss, (3, 6, 2), (3, 6, 1)),
        (nn.PoissonNLLLoss, (3, 6, 1), ()),
        (nn.BCEWithLogitsLoss, (3, 6, 1), (6,)),
        (lambda: nn.QuantileLoss((0.1, 0.9)), (3, 6, 2), (6, 2)),
        (nn.CrossEntropyLoss, (3, 6, 2), (3, 6)),  # of floats
    ],
)
def test_a_target_of_another_shape_is_refused(criterion, output, target, weighted):
    net, loss = nn.Ensemble(lambda: nn.Linear(1, 1), 3), criterion()
    if weighted and hasattr(loss, "weight"):
        loss.weight = mg.tensor([1.0, 2.0])
    message = "Ensemble.loss: expected a target of shape .*, got "
    with pytest.raises(ValueError, match=message + re.escape(f"{target} of float32")):
        net.loss(loss, mg.rand(*output), mg.rand(*target))


def test_targets_are_told_apart_where_all_sizes_are_equal():
    """Three members, samples and classes."""
    net = nn.Ensemble(lambda: nn.Linear(1, 1), 3)
    output, square = mg.rand(3, 3, 3), mg.rand(3, 3)
    labels = mg.tensor([[0, 1, 2], [1, 1, 1], [2, 2, 0]])
    for criterion, target, own in (
        (nn.MSELoss(), square, False),
        (nn.CrossEntropyLoss(), square, False),
        (nn.CrossEntropyLoss(), labels, True),
        (nn.CrossEntropyLoss(weight=mg.ones(3)), labels, True),
        (nn.CrossEntropyLoss(), labels[0], False),
        (lambda y, t: (y[:, 0] * t).sum(), square, True),
    ):
        losses = net.loss(criterion, output, target).tolist()
        each = [criterion(y, target[k] if own else target).item() for k, y in enumerate(output)]
        np.testing.assert_allclose(losses, each, 1e-6)


def test_an_output_of_one_sample():
    net, output = nn.Ensemble(lambda: nn.Linear(1, 1), 2), mg.rand(2, 4)
    for target in (mg.tensor(1), mg.tensor([3, 1]), mg.rand(4)):
        losses = net.loss(nn.CrossEntropyLoss(), output, target).tolist()
        targets = target if target.shape == (2,) else [target] * 2
        each = [nn.CrossEntropyLoss()(y, t).item() for y, t in zip(output, targets, strict=True)]
        np.testing.assert_allclose(losses, each, 1e-6)


def test_members_are_independent():
    """The gradient of one member's loss is zero in all others."""
    net = nn.Ensemble(full, SIZE)
    net.loss(nn.CrossEntropyLoss(), net(mg.tensor(X)), mg.tensor(Y))[2].backward()
    for parameter in net.parameters():
        moved = [bool(part.any()) for part in parameter.grad.numpy()]
        assert moved == [False, False, True, False, False]


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_against_finite_differences(order):
    net = nn.Ensemble(small, 3).double()
    names = [name for name, _ in net.named_parameters()]
    labels = mg.tensor(Y[:6])

    def losses(x, *parameters):
        state = dict(zip(names, parameters, strict=True))
        output = mg.func.functional_call(net, state, (x,))
        return net.loss(nn.CrossEntropyLoss(), output, labels)

    x = mg.tensor(rng.normal(size=(3, 6, FEATURES)), requires_grad=True)
    inputs = [x, *(p.detach().clone().requires_grad_() for p in net.parameters())]
    check = mg.autograd.gradcheck if order == 1 else mg.autograd.gradgradcheck
    assert check(losses, inputs)


def test_momentum_none_averages_and_eval_uses_the_statistics_of_each_member():
    def make():
        return nn.Sequential(nn.Linear(FEATURES, 3), nn.BatchNorm1d(3, momentum=None))

    net = nn.Ensemble(make, SIZE, seeds=SEEDS)
    plain = list(net)
    for start in (0, 20, 40):
        batch = mg.tensor(X[start : start + 20])
        net(batch)
        for each in plain:
            each(batch)
    net.eval()
    for member, each in enumerate(plain):
        assert_same(net[member], each, 1e-5)
        y = each.eval()(mg.tensor(X)).numpy()
        np.testing.assert_allclose(net(mg.tensor(X))[member].numpy(), y, 1e-4, 1e-5)


def test_recalibrate_sets_the_statistics_of_each_member():
    def make():
        deep = nn.Sequential(nn.Linear(FEATURES, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 2))
        return nn.Sequential(deep, nn.BatchNorm1d(2))

    net = nn.Ensemble(make, SIZE, seeds=SEEDS)
    shared = [mg.tensor(X[:25]), mg.tensor(X[25:])]
    own = [mg.tensor(rng.normal(size=(SIZE, n, FEATURES)).astype(np.float32)) for n in (8, 3)]
    for batches in (shared, own):
        plain = list(net)
        nn.recalibrate(net, batches)
        for member, each in enumerate(plain):
            nn.recalibrate(each, [x if x.ndim == 2 else x[member] for x in batches])
            assert_same(net[member], each, 1e-5)


def test_active_members_may_be_assigned():
    net = nn.Ensemble(small, 2)
    for wrong in (mg.ones(2), mg.tensor([True]), None):
        with pytest.raises(ValueError, match="Ensemble: active must be 2 bools, got"):
            net.active = wrong
    net.active = mg.tensor([False, True])
    before = [p.numpy(copy=True) for p in net.parameters()]
    net.loss(nn.CrossEntropyLoss(), net(mg.tensor(X)), mg.tensor(Y)).sum().backward()
    optim.SGD(net.parameters(), lr=0.1).step()
    for old, p in zip(before, net.parameters(), strict=True):
        moved = (old != p.numpy()).reshape(2, -1).any(1)
        assert moved.tolist() == [False, True]
    assert net.net[1].num_batches_tracked.tolist() == [0, 1]


def test_a_plain_net_goes_in_and_comes_out():
    net = nn.Ensemble(full, SIZE)
    mg.manual_seed(99)
    plain = full()
    net[1] = plain
    assert_same(net[1], plain, 0)
    net[-1].load_state_dict(net[1].state_dict())
    with pytest.raises(RuntimeError, match=r"shape|missing|unexpected"):
        net[0] = small()
    with pytest.raises(IndexError, match="member 5 is out of range, there are 5"):
        net[5]
    with pytest.raises(TypeError, match="a member must be an int"):
        net["one"]
    assert len(net) == len(list(net)) == SIZE
    assert net.double()[0].state_dict()["0.weight"].dtype == np.float64


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_stops_its_own_members(twin):
    net = nn.Ensemble(small, 2)
    net.stop(0)
    other = twin(net)
    other.resume()
    other.stop(1)
    before = {name: value.clone() for name, value in other.state_dict().items()}
    optimizer = optim.SGD(other.parameters(), lr=0.1)
    other.loss(nn.CrossEntropyLoss(), other(mg.tensor(X)), mg.tensor(Y)).sum().backward()
    optimizer.step()
    moved = other.net.state_dict()["0.weight"].numpy() != before["net.0.weight"].numpy()
    assert moved[0].any() and not moved[1].any()
    assert net.active.tolist() == [False, True] and other.active.tolist() == [True, False]


def hooked():
    net = nn.Sequential(OrderedDict(first=nn.Linear(2, 2)))
    net.first.register_forward_hook(lambda module, inputs, output: output * 2)
    return net


def test_frozen_parameters_stay_frozen_and_generators_are_shared():
    def make():
        layer = nn.Linear(2, 2)
        layer.weight.requires_grad_(False)
        return layer

    generator = mg.Generator(3)
    net = nn.Ensemble(make, 2, seeds=[7, generator])
    assert not net.net.weight.requires_grad and net.net.bias.requires_grad
    assert not net[1].weight.requires_grad
    first = net.randperm(50)[1]
    assert generator.get_state() != mg.Generator(3).get_state()
    assert (nn.Ensemble(make, 2, seeds=[7, 3]).randperm(50)[1] == first).all()


def test_modes_go_in_and_come_out():
    def make():
        net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
        net[1].freeze()
        net[2].eval()
        return net

    net = nn.Ensemble(make, 2)
    net(mg.randn(4, 2))
    statistics = net.net[1]
    assert not statistics.running_mean.numpy().any() and not statistics.num_batches_tracked.any()
    assert [module.training for module in net.net] == [True, False, False]
    assert [module.training for module in net[1]] == [True, False, False]
    net.train()
    assert [module.training for module in net[1]] == [True, False, True]
    assert [p.requires_grad for p in net[0].parameters()] == [True, True, False, False]
    net.unfreeze()
    assert [module.training for module in net[0]] == [True, True, True]
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net[0].parameters())
    assert not nn.Ensemble(lambda: make().eval(), 2).training


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: nn.Conv1d(1, 1, 1), TypeError, "Conv1d cannot be stacked; .* Linear, BatchNorm1d"),
        (lambda: nn.Sequential(nn.Linear(2, 2), nn.GRU(2, 2)), TypeError, "GRU '1' cannot"),
        (lambda: nn.Sequential(nn.Softmax(dim=1)), ValueError, "Softmax '0' has dim=1.* dim=-1"),
        (lambda: 3, TypeError, "must return a Module, got int"),
        (hooked, TypeError, "Linear 'first' has hooks, which the stack would ignore"),
        (lambda: nn.Dropout(generator=mg.Generator(0)), TypeError, "has a generator of its own"),
        (lambda: nn.Sequential(*[nn.Linear(2, 2)] * 2), ValueError, "uses a parameter twice"),
        (lambda: nn.Linear(2, int(mg.randint(2, 9))), ValueError, "nets that differ at 'the top'"),
        (
            lambda: nn.Linear(2, 2).requires_grad_(bool(mg.randint(0, 2))),
            ValueError,
            r"Linear\(.*, (True|False)\)\] for member 0, Linear\(.*, (?!\1)(True|False)\)\] for",
        ),
        (
            lambda: nn.Sequential(*[nn.ReLU()] * int(mg.randint(1, 9))),
            ValueError,
            r"^[^\n]* for member 0, [^\n]*$",
        ),
    ],
    ids=[
        "conv",
        "nested",
        "dim",
        "no Module",
        "hooks",
        "generator",
        "twice",
        "differ",
        "grad",
        "one",
    ],
)
def test_nets_that_cannot_be_stacked(make, error, message):
    with pytest.raises(error, match=message):
        nn.Ensemble(make, 8, seeds=range(8))


def test_bad_input():
    net = nn.Ensemble(small, 3)
    with pytest.raises(ValueError, match=r"\(N, features\), or \(3, N, \.\.\.\).* got \(2, 6, 4\)"):
        net(mg.zeros(2, 6, 4))
    with pytest.raises(ValueError, match="more than one sample for each member in training, got 1"):
        net(mg.zeros(1, 4))
    with pytest.raises(ValueError, match=r"target of shape \(6,\) or \(3, 6\).* got \(2, 6\)"):
        net.loss(nn.CrossEntropyLoss(), net(mg.zeros(6, 4)), mg.zeros(2, 6, dtype=mg.int64))
    for seeds in ([1, 2], 3, np.ones((3, 3), int)):
        with pytest.raises(ValueError, match="expected a list of 3 seeds, got "):
            nn.Ensemble(small, 3, seeds=seeds)
    for make, name in ((small(), "Sequential"), (3, "int")):
        with pytest.raises(TypeError, match=f"make must be a function .*, got {name}"):
            nn.Ensemble(make, 3)
    with pytest.raises(ValueError, match="size must be positive"):
        nn.Ensemble(small, 0)
    with pytest.raises(ValueError, match=r"Invalid learning rate: -0\.1"):
        optim.Adam(net.parameters(), lr=mg.tensor([0.1, -0.1, 0.1]))
    losses = net.loss(nn.CrossEntropyLoss(), net(mg.tensor(X)), mg.tensor(Y))
    losses.sum().backward()
    before = net[0].state_dict()["0.weight"].numpy(copy=True)
    for parameters, rates in ((net.parameters(), 2), (small().parameters(), 3)):
        optimizer = optim.SGD(parameters, lr=mg.tensor([0.1] * rates))
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = mg.ones_like(parameter)
        with pytest.raises(ValueError, match=f"{rates} learning rates for a parameter of shape"):
            optimizer.step()
    np.testing.assert_array_equal(net[0].state_dict()["0.weight"].numpy(), before)


@pytest.mark.parametrize("kind", [optim.Muon, optim.LBFGS])
def test_optimisers_that_would_mix_the_members_are_refused(kind):
    """The biases of all members, (K, N), look like a matrix to Muon."""
    net = nn.Ensemble(small, 3)
    for parameters in (net.parameters(), [p for p in net.parameters() if p.ndim == 2]):
        with pytest.raises(
            (TypeError, ValueError), match=f"{kind.__name__}: parameter 0 of group 0"
        ):
            kind(parameters)
    biases = [p for p in net.parameters() if p.ndim == 2]
    with pytest.raises(TypeError, match=f"nn.Ensemble, whose members {kind.__name__} would mix"):
        kind(biases)


@pytest.mark.parametrize("rates", [[0.1, 0.2], (0.1, 0.2), np.array([0.1]), mg.tensor([0.1, 0.2])])
@pytest.mark.parametrize(
    "kind", [optim.Muon, optim.LBFGS, optim.ScheduleFreeSGD, optim.ScheduleFreeAdamW]
)
def test_optimisers_of_one_rate_refuse_several(kind, rates):
    message = f"{kind.__name__}: the learning rate must be one number, got"
    weight = mg.ones((2, 2), requires_grad=True)
    with pytest.raises(TypeError, match=message):
        kind([weight], lr=rates)
    with pytest.raises(TypeError, match=message):
        kind([{"params": [weight], "lr": rates}])
    optimizer = kind([weight])
    state = optimizer.state_dict()
    state["param_groups"][0]["lr"] = rates
    with pytest.raises(TypeError, match=message):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == optimizer.defaults["lr"]


def test_rates_are_checked_one_by_one():
    parameters = list(nn.Ensemble(small, 2).parameters())
    for rates, error, message in (
        ([0.1, "a"], TypeError, "SGD: the learning rate must be a number, got str 'a'"),
        ([0.1, [0.1]], TypeError, "SGD: the learning rate must be a number, got list"),
        (mg.ones((2, 2)), TypeError, "SGD: the learning rate must be a number, got ndarray"),
        ((0.1, float("nan")), ValueError, "SGD: Invalid learning rate: nan"),
    ):
        with pytest.raises(error, match=message):
            optim.SGD(parameters, lr=rates)


def test_schedulers_change_the_rate_of_each_member():
    net = nn.Ensemble(small, 3)
    optimizer = optim.SGD(net.parameters(), lr=mg.tensor([1.0, 0.1, 0.01]))
    scheduler = optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    for parameter in net.parameters():
        parameter.grad = mg.ones_like(parameter)
    optimizer.step()
    scheduler.step()
    np.testing.assert_allclose(optimizer.param_groups[0]["lr"], [0.5, 0.05, 0.005], 1e-6)
    again = optim.SGD(net.parameters(), lr=mg.tensor([1.0, 1.0, 1.0]))
    again.load_state_dict(optimizer.state_dict())
    np.testing.assert_array_equal(again.param_groups[0]["lr"], optimizer.param_groups[0]["lr"])
