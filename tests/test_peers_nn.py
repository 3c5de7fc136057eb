"""nn vs. PyTorch: names, state dicts, initial values, forward, gradients, losses."""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.autograd import grad

torch = pytest.importorskip("torch")

from peers import DTYPES, both, check_layer, close, pair, peer, random_array  # noqa: E402

SHAPES = [(6, 3), (4, 3, 5), (3, 3, 2, 4), (1, 3, 2, 2)]


def mlp(n):
    return n.Sequential(
        n.Linear(3, 8), n.BatchNorm1d(8), n.ReLU(), n.Sequential(n.Linear(8, 4), n.Tanh())
    )


LAYERS = [
    pytest.param(lambda n: n.Linear(3, 5), (6, 3), marks=peer("nn.Linear")),
    pytest.param(lambda n: n.Linear(3, 5, bias=False), (2, 4, 3), marks=peer("nn.Linear")),
    pytest.param(lambda n: n.ReLU(), (6, 3), marks=peer("nn.ReLU")),
    pytest.param(lambda n: n.Sigmoid(), (6, 3), marks=peer("nn.Sigmoid")),
    pytest.param(lambda n: n.Tanh(), (6, 3), marks=peer("nn.Tanh")),
    pytest.param(lambda n: n.GELU(), (6, 3), marks=peer("nn.GELU")),
    pytest.param(lambda n: n.GELU(approximate="tanh"), (6, 3), marks=peer("nn.GELU")),
    pytest.param(lambda n: n.SiLU(), (6, 3), marks=peer("nn.SiLU")),
    pytest.param(lambda n: n.Softplus(beta=2.0), (6, 3), marks=peer("nn.Softplus")),
    pytest.param(lambda n: n.LogSigmoid(), (6, 3), marks=peer("nn.LogSigmoid")),
    pytest.param(lambda n: n.Softmax(dim=1), (6, 3, 2), marks=peer("nn.Softmax")),
    pytest.param(lambda n: n.LogSoftmax(dim=-1), (6, 3), marks=peer("nn.LogSoftmax")),
    pytest.param(lambda n: n.Flatten(), (2, 3, 4), marks=peer("nn.Flatten")),
    pytest.param(lambda n: n.Identity(), (2, 3), marks=peer("nn.Identity")),
    pytest.param(mlp, (6, 3), marks=peer("nn.Sequential")),
    pytest.param(
        lambda n: n.Sequential(*n.ModuleList([n.Linear(3, 2), n.Tanh()])),
        (6, 3),
        marks=peer("nn.ModuleList"),
    ),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("build", "shape"), LAYERS)
def test_layer(build, shape, dtype):
    check_layer(build, random_array(shape, dtype), dtype)


def holding(n, container, forward):
    """A Module of either library around a container of Parameters or Modules."""
    module = n.Module()
    module.held = container
    module.forward = lambda x: forward(module.held, x)
    return module


def tensors(n, *shapes):
    return [(mg if n is nn else torch).ones(shape) for shape in shapes]


def dictionary(n):
    modules = n.ModuleDict({"b": n.Linear(3, 2), "a": n.Tanh()})
    return holding(n, modules, lambda held, x: held["a"](held["b"](x)))


def parameter_list(n):
    values = n.ParameterList(tensors(n, (6, 3), (3,)))
    return holding(n, values, lambda held, x: held[0] * x + held[-1])


def parameter_dictionary(n):
    values = n.ParameterDict(zip("ba", tensors(n, (6, 3), (3,)), strict=True))
    return holding(n, values, lambda held, x: held["b"] * x + held["a"])


CONTAINERS = [
    pytest.param(dictionary, marks=peer("nn.ModuleDict")),
    pytest.param(parameter_list, marks=peer("nn.ParameterList")),
    pytest.param(parameter_dictionary, marks=peer("nn.ParameterDict")),
]


@pytest.mark.parametrize("build", CONTAINERS)
def test_containers(build):
    check_layer(build, random_array((6, 3), "float64"), "float64")


@pytest.mark.peer("nn.Dropout")
@pytest.mark.parametrize("dtype", DTYPES)
def test_dropout(dtype):
    """Equal in evaluation; in training another generator, but the same two values."""
    check_layer(lambda n: n.Dropout(0.3), random_array((6, 3), dtype), dtype, ("eval",))
    ones = np.ones(1000, dtype)
    ours = nn.Dropout(0.3)(mg.tensor(ones)).numpy()
    theirs = torch.nn.Dropout(0.3)(torch.tensor(ones)).numpy()
    np.testing.assert_allclose(np.unique(ours), np.unique(theirs), rtol=1e-6)


# ------------------------------------------------------------------------------------- BatchNorm
OPTIONS = [
    {},
    {"momentum": None},
    {"momentum": 0.0, "eps": 0.1},
    {"momentum": 1.0},
    {"affine": False},
    {"track_running_stats": False},
]


def batch_norm(n, shape, **options):
    return (n.BatchNorm2d if len(shape) == 4 else n.BatchNorm1d)(shape[1], **options)


@pytest.mark.peer("nn.BatchNorm1d", "nn.BatchNorm2d")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm(shape, options, dtype):
    check_layer(
        lambda n: batch_norm(n, shape, **options),
        random_array(shape, dtype),
        dtype,
        ("train", "train", "eval"),
    )


@pytest.mark.peer("nn.BatchNorm1d", "nn.BatchNorm2d")
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_double_backward(shape, mode):
    ours, theirs = pair(lambda n: batch_norm(n, shape), "float64")
    getattr(ours, mode)()
    getattr(theirs, mode)()
    x, tx = both(random_array(shape, "float64"))
    u, tu = both(random_array(shape, "float64", 2))
    v = random_array(shape, "float64", 3)
    (g,) = grad(ours(x), x, u, create_graph=True)
    (tg,) = torch.autograd.grad(theirs(tx), tx, tu, create_graph=True)
    close(g, tg, "float64", 10)
    # in evaluation the gradient does not depend on x, which we know and PyTorch computes as zeros
    inputs = [x, u, ours.weight]
    second = grad((g * mg.tensor(v)).sum(), inputs, allow_unused=True)
    expected = torch.autograd.grad(
        (tg * torch.tensor(v)).sum(), [tx, tu, theirs.weight], allow_unused=True
    )
    for one, other, wanted in zip(second, expected, inputs, strict=True):
        zeros = np.zeros(wanted.shape)
        one = zeros if one is None else one.numpy()
        other = zeros if other is None else other.numpy()
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-11)


def test_state_dicts_of_both_libraries_are_interchangeable():
    def build(n):
        return n.Sequential(n.Linear(3, 4), n.BatchNorm1d(4), n.ReLU(), n.Linear(4, 2))

    ours, theirs = build(nn), build(torch.nn)
    theirs(torch.randn(8, 3))
    ours.load_state_dict({key: value.numpy() for key, value in theirs.state_dict().items()})
    x = random_array((5, 3), "float32")
    close(ours.eval()(mg.tensor(x)), theirs.eval()(torch.tensor(x)), "float32")
    ours.train()(mg.tensor(x))
    state = {key: torch.tensor(value.numpy(copy=True)) for key, value in ours.state_dict().items()}
    fresh = build(torch.nn)
    fresh.load_state_dict(state)
    close(ours.eval()(mg.tensor(x)), fresh.eval()(torch.tensor(x)), "float32")


# -------------------------------------------------------------------------------- starting values
@pytest.mark.parametrize("sizes", [(100, 400), (7, 9000)])
def test_linear_starts_in_the_same_distribution(sizes):
    mg.manual_seed(0)
    torch.manual_seed(0)
    ours, theirs = nn.Linear(*sizes), torch.nn.Linear(*sizes)
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        one, other = one.numpy(), other.detach().numpy()
        bound = 1 / np.sqrt(sizes[0])
        assert np.abs(one).max() <= bound * (1 + 1e-6) and np.abs(other).max() <= bound * (1 + 1e-6)
        deciles = np.linspace(0, 1, 11)
        np.testing.assert_allclose(
            np.quantile(one, deciles), np.quantile(other, deciles), atol=0.12 * bound
        )


@pytest.mark.peer(
    "nn.init.kaiming_uniform_",
    "nn.init.kaiming_normal_",
    "nn.init.xavier_uniform_",
    "nn.init.xavier_normal_",
)
@pytest.mark.parametrize(
    "name", ["kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "xavier_normal_"]
)
def test_initialisation_has_the_same_spread(name):
    mg.manual_seed(0)
    torch.manual_seed(0)
    ours = getattr(nn.init, name)(mg.empty(200, 30, 3)).numpy()
    theirs = getattr(torch.nn.init, name)(torch.empty(200, 30, 3)).numpy()
    assert abs(ours.std() / theirs.std() - 1) < 0.03


@pytest.mark.peer("nn.init.calculate_gain")
@pytest.mark.parametrize(
    "name", ["linear", "relu", "tanh", "sigmoid", "selu", "leaky_relu", "conv2d"]
)
def test_gains(name):
    assert nn.init.calculate_gain(name) == pytest.approx(torch.nn.init.calculate_gain(name))
    assert nn.init.calculate_gain("leaky_relu", 0.3) == pytest.approx(
        torch.nn.init.calculate_gain("leaky_relu", 0.3)
    )


# ----------------------------------------------------------------------------------------- losses
def check_loss(ours, theirs, x, target, dtype):
    (a, ta), (b, tb) = both(x), both(target)
    loss, other = ours(a, b), theirs(ta, tb)
    close(loss, other, dtype, 2)
    cotangent = random_array(loss.shape, dtype, seed=4)
    loss.backward(mg.tensor(cotangent))
    other.backward(torch.tensor(cotangent))
    close(a.grad, ta.grad, dtype, 5)
    if target.dtype.kind == "f":
        close(b.grad, tb.grad, dtype, 5)


CROSS_ENTROPY = list(
    itertools.product(
        ["none", "mean", "sum"],
        [False, True],
        [-100, 2],
        [0.0, 0.2],
        [(6, 4), (2, 4, 3), (2, 4, 3, 2)],
    )
)


@pytest.mark.peer("nn.CrossEntropyLoss")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("reduction", "weighted", "ignored", "smoothing", "shape"), CROSS_ENTROPY)
def test_cross_entropy_of_indices(reduction, weighted, ignored, smoothing, shape, dtype):
    weight = np.array([0.5, 2.0, 1.0, 3.0], dtype)
    options = {"reduction": reduction, "label_smoothing": smoothing, "ignore_index": ignored}
    ours = nn.CrossEntropyLoss(mg.tensor(weight) if weighted else None, **options)
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weight) if weighted else None, **options)
    labels = np.random.default_rng(3).integers(0, 4, (shape[0], *shape[2:]))
    check_loss(ours, theirs, random_array(shape, dtype), labels, dtype)


@pytest.mark.peer("nn.CrossEntropyLoss")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4,), (6, 4), (2, 4, 3)], ids=str)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_cross_entropy_of_probabilities(reduction, weighted, smoothing, shape, dtype):
    weight = np.array([0.5, 2.0, 1.0, 3.0], dtype)
    options = {"reduction": reduction, "label_smoothing": smoothing}
    ours = nn.CrossEntropyLoss(mg.tensor(weight) if weighted else None, **options)
    theirs = torch.nn.CrossEntropyLoss(torch.tensor(weight) if weighted else None, **options)
    q = np.random.default_rng(3).uniform(size=shape).astype(dtype)
    check_loss(ours, theirs, random_array(shape, dtype), q, dtype)


@pytest.mark.peer("nn.CrossEntropyLoss")
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_cross_entropy_of_one_row(reduction):
    ours, theirs = (n.CrossEntropyLoss(reduction=reduction) for n in (nn, torch.nn))
    check_loss(ours, theirs, random_array((4,), "float64"), np.array(2), "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("MSELoss", marks=peer("nn.MSELoss")),
        pytest.param("L1Loss", marks=peer("nn.L1Loss")),
        pytest.param("BCEWithLogitsLoss", marks=peer("nn.BCEWithLogitsLoss")),
    ],
)
def test_elementwise_loss(name, reduction, dtype):
    ours, theirs = (getattr(n, name)(reduction=reduction) for n in (nn, torch.nn))
    target = np.random.default_rng(3).uniform(size=(5, 3)).astype(dtype)
    check_loss(ours, theirs, random_array((5, 3), dtype), target, dtype)


@pytest.mark.peer("nn.BCEWithLogitsLoss")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_weighted_binary_cross_entropy(reduction, dtype):
    weights = np.array([1.0, 2.0, 0.5], dtype), np.array([3.0, 1.0, 0.2], dtype)
    ours = nn.BCEWithLogitsLoss(mg.tensor(weights[0]), reduction, mg.tensor(weights[1]))
    theirs = torch.nn.BCEWithLogitsLoss(
        torch.tensor(weights[0]), reduction=reduction, pos_weight=torch.tensor(weights[1])
    )
    target = np.random.default_rng(3).uniform(size=(5, 3)).astype(dtype)
    check_loss(ours, theirs, random_array((5, 3), dtype, 6) * 10, target, dtype)


@pytest.mark.peer("nn.NLLLoss")
@pytest.mark.parametrize("ignored", [-100, 2])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_nll_loss(reduction, ignored):
    weight, labels = np.array([0.5, 2.0, 1.0, 3.0]), np.array([[0, 1, 2], [3, 2, 0]])
    options = {"reduction": reduction, "ignore_index": ignored}
    ours = nn.NLLLoss(mg.tensor(weight), **options)
    theirs = torch.nn.NLLLoss(torch.tensor(weight), **options)
    check_loss(ours, theirs, random_array((2, 4, 3), "float64"), labels, "float64")


@pytest.mark.peer("nn.utils.clip_grad_norm_")
# --------------------------------------------------------------------------------------- clipping
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, float("inf")])
@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clip_grad_norm(norm_type, max_norm):
    ours, theirs = pair(lambda n: n.Linear(3, 5), "float64")
    x, tx = both(random_array((6, 3), "float64"))
    (ours(x) ** 2).mean().backward()
    (theirs(tx) ** 2).mean().backward()
    total = nn.utils.clip_grad_norm_(ours.parameters(), max_norm, norm_type)
    other = torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm, norm_type)
    close(total, other, "float64")
    for parameter, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(parameter.grad, expected.grad, "float64")


@pytest.mark.peer("nn.utils.clip_grad_value_")
def test_clip_grad_value():
    ours, theirs = pair(lambda n: n.Linear(3, 5), "float64")
    x, tx = both(random_array((6, 3), "float64"))
    (ours(x) ** 2).mean().backward()
    (theirs(tx) ** 2).mean().backward()
    nn.utils.clip_grad_value_(ours.parameters(), 0.1)
    torch.nn.utils.clip_grad_value_(theirs.parameters(), 0.1)
    for parameter, expected in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(parameter.grad, expected.grad, "float64")


def test_a_training_run_step_by_step():
    """Twenty steps of gradient descent agree up to rounding."""
    ours, theirs = pair(mlp, "float64")
    start = copy.deepcopy(ours)
    x, labels = random_array((16, 3), "float64"), np.arange(16) % 4
    for _ in range(20):
        for net, loss, tensor in (
            (ours, nn.CrossEntropyLoss(), mg.tensor),
            (theirs, torch.nn.CrossEntropyLoss(), torch.tensor),
        ):
            net.zero_grad()
            loss(net(tensor(x)), tensor(labels)).backward()
        with mg.no_grad(), torch.no_grad():
            for parameter, other in zip(ours.parameters(), theirs.parameters(), strict=True):
                parameter -= 0.1 * parameter.grad
                other -= 0.1 * other.grad
    for key, value in theirs.state_dict().items():
        np.testing.assert_allclose(ours.state_dict()[key].numpy(), value.numpy(), rtol=1e-9)
    assert not np.allclose(start[0].weight.numpy(), ours[0].weight.numpy())
