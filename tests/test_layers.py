"""Linear, Flatten, Identity, activations, Dropout, initialisation, gradient clipping, one_hot."""

from __future__ import annotations

import copy
import math
import pickle
from importlib.util import find_spec

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.nn import functional, init, utils

RANDOM = np.random.default_rng(0)


# ---------------------------------------------------------------------------------------- Linear
@pytest.mark.parametrize("shape", [(4,), (5, 4), (2, 3, 4), (0, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_values(shape, bias):
    layer = nn.Linear(4, 3, bias=bias, dtype=mg.float64)
    x = RANDOM.normal(size=shape)
    expected = x @ layer.weight.numpy().T + (layer.bias.numpy() if bias else 0)
    assert layer(mg.tensor(x)).shape == (*shape[:-1], 3)
    np.testing.assert_allclose(layer(mg.tensor(x)).numpy(), expected, rtol=1e-12, atol=1e-14)


STARTS = {  # a layer, and for its parameters ±bound of a uniform or the deviation of a normal start
    "Linear": (lambda: nn.Linear(50, 3000), {"weight": 50**-0.5, "bias": 50**-0.5}, {}),
    "Conv1d": (
        lambda: nn.Conv1d(10, 3000, 4, groups=2),
        {"weight": 20**-0.5, "bias": 20**-0.5},
        {},
    ),
    "Conv2d": (lambda: nn.Conv2d(3, 3000, (2, 3)), {"weight": 18**-0.5, "bias": 18**-0.5}, {}),
    "ConvTranspose2d": (
        lambda: nn.ConvTranspose2d(4, 3000, 3, groups=2),
        {"weight": 13500**-0.5, "bias": 13500**-0.5},
        {},
    ),
    **{
        kind: (
            lambda kind=kind: getattr(nn, kind)(30, 900),
            dict.fromkeys(("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), 1 / 30),
            {},
        )
        for kind in ("RNN", "LSTM", "GRU")
    },
    **{
        kind: (
            lambda kind=kind: getattr(nn, kind)(30, 900),
            dict.fromkeys(("weight_ih", "weight_hh", "bias_ih", "bias_hh"), 1 / 30),
            {},
        )
        for kind in ("RNNCell", "LSTMCell", "GRUCell")
    },
    "MultiheadAttention": (
        lambda: nn.MultiheadAttention(60, 4),
        {"in_proj_weight": (6 / 240) ** 0.5, "out_proj.weight": 60**-0.5},
        {},
    ),
    "MultiheadAttention of other keys": (
        lambda: nn.MultiheadAttention(60, 4, kdim=30, vdim=90),
        {
            "q_proj_weight": (6 / 120) ** 0.5,
            "k_proj_weight": (6 / 90) ** 0.5,
            "v_proj_weight": (6 / 150) ** 0.5,
            "out_proj.weight": 60**-0.5,
        },
        {},
    ),
    "Embedding": (lambda: nn.Embedding(500, 20), {}, {"weight": 1.0}),
}


def assert_uniform(values, bound):
    assert 0.98 * bound < values.max() <= bound * (1 + 1e-6)
    assert 0.98 * bound < -values.min() <= bound * (1 + 1e-6)
    assert values.std() == pytest.approx(bound / math.sqrt(3), rel=0.05)


@pytest.mark.parametrize("name", STARTS)
def test_where_parameters_start(name):
    """As in PyTorch's documentation, in both directions; and again after a reset."""
    mg.manual_seed(0)
    make, bounds, deviations = STARTS[name]
    layer = make()
    for again in (False, True):
        before = {key: p.numpy(copy=True) for key, p in layer.named_parameters()}
        if again:
            layer.reset_parameters()
        for key, parameter in layer.named_parameters():
            values = parameter.numpy()
            changed = not np.array_equal(values, before[key])
            if key in bounds:
                assert_uniform(values, bounds[key])
                assert changed == again or key == "out_proj.weight"
            elif key in deviations:
                assert abs(values.mean()) < 0.05 * deviations[key] and changed == again
                assert values.std() == pytest.approx(deviations[key], rel=0.05)
                assert np.abs(values).max() > 3 * deviations[key]
            else:
                assert not values.any(), key


def test_where_the_weights_of_a_batch_normalised_lstm_start():
    mg.manual_seed(0)
    for cell in (nn.BatchNormLSTMCell(30, 900, 2), nn.BatchNormLSTM(30, 900, 2).cells[0]):
        start = {key: p.numpy(copy=True) for key, p in cell.named_parameters()}
        for again in (False, True):
            if again:
                cell.reset_parameters()
            for key in ("weight_ih", "weight_hh", "bias"):
                values = getattr(cell, key).numpy()
                assert_uniform(values, 1 / 30)
                assert np.array_equal(values, start[key]) != again
        for key, parameter in cell.named_parameters():
            assert "norm" not in key or np.array_equal(parameter.numpy(), start[key])


def test_linear_gradients():
    layer = nn.Linear(4, 3).double()
    x = mg.tensor(RANDOM.normal(size=(5, 4)), requires_grad=True)
    assert gradcheck(lambda x, w, b: layer(x), (x, layer.weight, layer.bias))
    assert gradgradcheck(lambda x, w, b: layer(x), (x, layer.weight, layer.bias))


def test_linear_shapes_dtype_and_seed():
    layer = nn.Linear(4, 3)
    assert layer.weight.shape == (3, 4) and layer.bias.shape == (3,)
    assert layer.weight.dtype == mg.float32
    weights = []
    for _ in range(2):
        mg.manual_seed(3)
        weights.append(nn.Linear(4, 3).weight.numpy())
    np.testing.assert_array_equal(*weights)


def test_linear_starts_uniform_within_one_over_sqrt_fan_in():
    mg.manual_seed(0)
    layer = nn.Linear(100, 1000)
    for values in (layer.weight.numpy(), layer.bias.numpy()):
        assert np.abs(values).max() <= 0.1 and np.abs(values).max() > 0.099
        assert abs(values.std() - 0.1 / math.sqrt(3)) < 0.002


def test_linear_errors():
    with pytest.raises(ValueError, match=r"linear: .*\(2, 5\).*\(3, 4\)"):
        nn.Linear(4, 3)(mg.ones(2, 5))
    with pytest.raises(TypeError, match="Linear: in_features must be an int"):
        nn.Linear(4.0, 3)
    with pytest.raises(ValueError, match="Linear: out_features must be positive"):
        nn.Linear(4, 0)


EMPTY_BATCHES = {
    "Linear": (nn.Linear(4, 3), (0, 4), (0, 3)),
    "Linear, 3-d": (nn.Linear(4, 3), (2, 0, 4), (2, 0, 3)),
    "LSTM": (nn.LSTM(4, 3), (5, 0, 4), (5, 0, 3)),
    "GRU": (nn.GRU(4, 3), (5, 0, 4), (5, 0, 3)),
    "LSTMCell": (nn.LSTMCell(4, 3), (0, 4), (0, 3)),
    "TransformerEncoderLayer": (nn.TransformerEncoderLayer(4, 2, 8), (5, 0, 4), (5, 0, 4)),
    "TransformerEncoderLayer, batch first": (
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
        (0, 5, 4),
        (0, 5, 4),
    ),
    "LayerNorm": (nn.LayerNorm(4), (0, 5, 4), (0, 5, 4)),
    "GroupNorm": (nn.GroupNorm(2, 4), (0, 4, 5), (0, 4, 5)),
    "InstanceNorm1d": (nn.InstanceNorm1d(4), (0, 4, 5), (0, 4, 5)),
    "BatchRenorm1d": (nn.BatchRenorm1d(4), (0, 4), (0, 4)),
    "GhostBatchNorm": (nn.GhostBatchNorm(4, 2), (0, 4, 5), (0, 4, 5)),
    "DynamicTanh": (nn.DynamicTanh(4), (0, 5, 4), (0, 5, 4)),
    "Softmax": (nn.Softmax(1), (0, 4), (0, 4)),
    "Softmax over nothing": (nn.Softmax(0), (0, 4), (0, 4)),
    "LogSoftmax": (nn.LogSoftmax(0), (0, 4), (0, 4)),
    "Dropout": (nn.Dropout(0.5), (0, 4), (0, 4)),
}


@pytest.mark.parametrize("name", EMPTY_BATCHES)
def test_an_empty_batch(name):
    layer, shape, expected = EMPTY_BATCHES[name]
    x = mg.zeros(*shape, requires_grad=True)
    y = layer(x)
    y = y[0] if isinstance(y, tuple) else y
    assert y.shape == expected
    y.sum().backward()
    assert x.grad.shape == shape
    assert all(not p.grad.numpy().any() for p in layer.parameters())


@pytest.mark.parametrize("shape", [(0, 5, 4), (2, 0, 4)])
def test_attention_over_nothing(shape):
    layer, x = nn.MultiheadAttention(4, 2, batch_first=True), mg.zeros(*shape, requires_grad=True)
    y, weights = layer(x, x, x)
    assert y.shape == shape and weights.shape == (shape[0], shape[1], shape[1])
    y.sum().backward()
    assert x.grad.shape == shape


OF_INTEGERS = {
    "Linear": lambda n: nn.Linear(n, n),
    "BatchNorm1d": lambda n: nn.BatchNorm1d(n),
    "BatchRenorm2d": lambda n: nn.BatchRenorm2d(n),
    "GhostBatchNorm": lambda n: nn.GhostBatchNorm(n, n),
    "DynamicTanh": lambda n: nn.DynamicTanh(n),
    "LayerNorm": lambda n: nn.LayerNorm((n,)),
    "GroupNorm": lambda n: nn.GroupNorm(n, n),
    "InstanceNorm1d": lambda n: nn.InstanceNorm1d(n),
    "Embedding": lambda n: nn.Embedding(5, n, padding_idx=n),
    "LSTM": lambda n: nn.LSTM(n, 5, n, proj_size=n),
    "GRU": lambda n: nn.GRU(n, n),
    "BatchNormLSTM": lambda n: nn.BatchNormLSTM(n, n, n),
    "MultiheadAttention": lambda n: nn.MultiheadAttention(n, n),
    "PReLU": lambda n: nn.PReLU(n),
    "Flatten": lambda n: nn.Flatten(0, n),
    "Upsample": lambda n: nn.Upsample(n),
}


@pytest.mark.parametrize("integer", [np.int64(4), np.uint8(4), np.array(4)], ids=repr)
@pytest.mark.parametrize("name", OF_INTEGERS)
def test_sizes_of_layers_are_whatever_acts_as_an_integer(name, integer):
    given, expected = OF_INTEGERS[name](integer), OF_INTEGERS[name](4)
    shapes = {key: value.shape for key, value in expected.state_dict().items()}
    assert {key: value.shape for key, value in given.state_dict().items()} == shapes


def test_flatten_and_identity():
    x = mg.randn(2, 3, 4, 5)
    assert nn.Flatten()(x).shape == (2, 60)
    assert nn.Flatten(0, 1)(x).shape == (6, 4, 5)
    assert nn.Identity(3, unused=True)(x) is x


# ----------------------------------------------------------------------------------- activations
def softplus(x):
    return np.logaddexp(x, 0)


ACTIVATIONS = {
    "ReLU": (nn.ReLU(), lambda x: np.maximum(x, 0)),
    "Sigmoid": (nn.Sigmoid(), lambda x: 1 / (1 + np.exp(-x))),
    "Tanh": (nn.Tanh(), np.tanh),
    "GELU": (nn.GELU(), lambda x: 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
    "GELU tanh": (
        nn.GELU("tanh"),
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    "SiLU": (nn.SiLU(), lambda x: x / (1 + np.exp(-x))),
    "Softplus": (nn.Softplus(), softplus),
    "Softplus beta": (nn.Softplus(beta=3.0), lambda x: softplus(3 * x) / 3),
    "LogSigmoid": (nn.LogSigmoid(), lambda x: -softplus(-x)),
    "Softmax": (nn.Softmax(dim=1), lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    "LogSoftmax": (nn.LogSoftmax(dim=0), lambda x: x - np.log(np.exp(x).sum(0, keepdims=True))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation(name):
    module, reference = ACTIVATIONS[name]
    x = RANDOM.normal(size=(4, 5))
    np.testing.assert_allclose(module(mg.tensor(x)).numpy(), reference(x), rtol=1e-10, atol=1e-14)
    assert module(mg.tensor(x, dtype=mg.float32)).dtype == mg.float32
    assert gradcheck(module, (mg.tensor(x, requires_grad=True),))
    assert not list(module.state_dict())


def test_activation_options():
    assert repr(nn.GELU("tanh")) == "GELU(approximate='tanh')" and repr(nn.ReLU(True)) == "ReLU()"
    with pytest.raises(ValueError, match="approximate"):
        nn.GELU("exact")
    with pytest.raises(ValueError, match="beta"):
        nn.Softplus(beta=0)


# --------------------------------------------------------------------------------------- dropout
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(p):
    mg.manual_seed(0)
    y = nn.Dropout(p)(mg.ones(100_000)).numpy()
    assert abs((y == 0).mean() - p) < 0.01
    np.testing.assert_allclose(y[y != 0], 1 / (1 - p), rtol=1e-6)


def test_dropout_gradient_is_the_mask():
    x = mg.ones(50, requires_grad=True)
    y = nn.Dropout(0.5)(x)
    y.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), y.numpy())


def test_dropout_is_the_identity_in_eval_and_at_zero():
    x = mg.randn(3)
    assert nn.Dropout(0.5).eval()(x) is x and nn.Dropout(0)(x) is x
    assert nn.Dropout(1.0)(x).tolist() == [0.0] * 3


def test_dropout_names_itself_in_errors():
    with pytest.raises(TypeError, match="dropout: the probability p must be a number, got 'a'"):
        nn.Dropout("a")
    with pytest.raises(TypeError, match=r"dropout: expected .* got int64; use x.astype"):
        nn.Dropout()(mg.tensor([1, 2]))
    with pytest.raises(TypeError, match="Softplus: beta must be a number, got None"):
        nn.Softplus(None)
    with pytest.raises(TypeError, match="label_smoothing must be a number, got 'a'"):
        nn.CrossEntropyLoss(label_smoothing="a")


def test_dropout_follows_the_seed_and_the_dtype():
    draws = []
    for _ in range(2):
        mg.manual_seed(5)
        draws.append(nn.Dropout()(mg.ones(50, dtype=mg.float64)))
    np.testing.assert_array_equal(draws[0].numpy(), draws[1].numpy())
    assert draws[0].dtype == mg.float64


@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_dropout_checks_the_probability(p):
    with pytest.raises(ValueError, match="between 0 and 1"):
        nn.Dropout(p)
    with pytest.raises(ValueError, match="between 0 and 1"):
        functional.dropout(mg.ones(2), p, training=False)


# -------------------------------------------------------------------------------- initialisation
FAN_IN, FAN_OUT = 4 * 9, 200 * 9
SPREADS = {
    "kaiming_uniform_": (lambda t: init.kaiming_uniform_(t), math.sqrt(2 / FAN_IN)),
    "kaiming_uniform_ a": (
        lambda t: init.kaiming_uniform_(t, a=math.sqrt(5)),
        math.sqrt(1 / 3 / FAN_IN),
    ),
    "kaiming_normal_": (
        lambda t: init.kaiming_normal_(t, mode="fan_out", nonlinearity="relu"),
        math.sqrt(2 / FAN_OUT),
    ),
    "xavier_uniform_": (
        lambda t: init.xavier_uniform_(t, 2.0),
        2 * math.sqrt(2 / (FAN_IN + FAN_OUT)),
    ),
    "xavier_normal_": (lambda t: init.xavier_normal_(t), math.sqrt(2 / (FAN_IN + FAN_OUT))),
    "uniform_": (lambda t: init.uniform_(t, -1, 1), math.sqrt(1 / 3)),
    "normal_": (lambda t: init.normal_(t, 0.0, 3.0), 3.0),
}


@pytest.mark.parametrize("name", SPREADS)
def test_initialisation_has_the_spread_of_the_papers(name):
    mg.manual_seed(0)
    function, spread = SPREADS[name]
    tensor = nn.Parameter(mg.empty(200, 4, 3, 3))
    assert function(tensor) is tensor
    values = tensor.numpy()
    assert abs(values.std() / spread - 1) < 0.03 and abs(values.mean()) < 0.05 * spread
    if "uniform" in name:
        assert np.abs(values).max() <= spread * math.sqrt(3) * (1 + 1e-6)
    assert tensor.requires_grad and tensor.grad_fn is None


def test_constant_initialisation():
    assert init.constant_(mg.empty(2), 3).tolist() == [3.0, 3.0]
    assert init.zeros_(mg.empty(1)).tolist() == [0.0] and init.ones_(mg.empty(1)).tolist() == [1.0]


def test_initialisation_errors():
    with pytest.raises(ValueError, match="two or more dimensions"):
        init.xavier_normal_(mg.empty(3))
    with pytest.raises(ValueError, match="'fan_in' or 'fan_out'"):
        init.kaiming_normal_(mg.empty(3, 3), mode="fan")
    with pytest.raises(ValueError, match="unknown nonlinearity 'swish'"):
        init.kaiming_uniform_(mg.empty(3, 3), nonlinearity="swish")
    with pytest.raises(ValueError, match="order"):
        init.uniform_(mg.empty(3), 1.0, 0.0)
    with pytest.raises(ValueError, match="negative"):
        init.normal_(mg.empty(3), std=-1.0)


# -------------------------------------------------------------------------------------- clipping
def with_gradients(*gradients):
    parameters = [nn.Parameter(np.zeros(len(g))) for g in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = mg.tensor(np.array(gradient, dtype="d"))
    return [*parameters, nn.Parameter([1.0])]


@pytest.mark.parametrize(
    ("norm_type", "norm"), [(2.0, 13.0), (1.0, 19.0), (math.inf, 12.0), (3.0, 1880 ** (1 / 3) + 0)]
)
def test_clip_grad_norm_scales_all_gradients_by_one_factor(norm_type, norm):
    gradients = np.array([3.0, -4.0, 12.0])
    norm = np.linalg.norm(gradients, norm_type)
    parameters = with_gradients([3.0, -4.0], [12.0])
    kept = parameters[0].grad
    total = utils.clip_grad_norm_(parameters, 1.0, norm_type)
    np.testing.assert_allclose(total.item(), norm, rtol=1e-12)
    clipped = np.concatenate([p.grad.numpy() for p in parameters[:2]])
    np.testing.assert_allclose(clipped, gradients / (norm + 1e-6), rtol=1e-12)
    assert parameters[0].grad is kept


def test_clip_grad_norm_leaves_small_gradients_alone():
    parameters = with_gradients([3.0, 4.0])
    assert utils.clip_grad_norm_(iter(parameters), 10.0).item() == 5.0
    assert parameters[0].grad.tolist() == [3.0, 4.0]
    assert utils.clip_grad_norm_([nn.Parameter([1.0])], 1.0).item() == 0.0
    assert utils.clip_grad_norm_(parameters[0], 10.0).item() == 5.0


def test_clip_grad_norm_errors_change_nothing():
    parameters = with_gradients([3.0, math.inf], [1.0])
    with pytest.raises(RuntimeError, match="nothing was scaled"):
        utils.clip_grad_norm_(parameters, 1.0, error_if_nonfinite=True)
    assert parameters[1].grad.tolist() == [1.0]
    with pytest.raises(ValueError, match="negative"):
        utils.clip_grad_norm_(parameters, -1.0)


def test_clip_grad_value():
    parameters = with_gradients([3.0, -4.0], [0.5])
    utils.clip_grad_value_(parameters, 1.0)
    assert [p.grad.tolist() for p in parameters[:2]] == [[1.0, -1.0], [0.5]]
    with pytest.raises(ValueError, match="negative"):
        utils.clip_grad_value_(parameters, -1.0)


@pytest.mark.parametrize("clip", [utils.clip_grad_norm_, utils.clip_grad_value_])
def test_clipping_refuses_what_is_not_a_tensor_and_changes_nothing(clip):
    parameters = with_gradients([3.0, -4.0])
    for given in ([*parameters, 1], 5, None, "w"):
        with pytest.raises(TypeError, match=f"{clip.__name__}: expected Tensors, got .*pass model"):
            clip(given, 1.0)
    with pytest.raises(TypeError, match=f"{clip.__name__}: .* must be a number, got 'a'"):
        clip(parameters, "a")
    assert parameters[0].grad.tolist() == [3.0, -4.0]


# --------------------------------------------------------------------------------------- one_hot
def test_one_hot():
    rows = functional.one_hot(mg.tensor([[0, 2], [1, 1]]), 4)
    assert rows.dtype == mg.int64
    np.testing.assert_array_equal(rows.numpy(), np.eye(4, dtype=int)[[[0, 2], [1, 1]]])
    assert functional.one_hot(mg.tensor(2)).tolist() == [0, 0, 1]
    for wrong in (4, -1):
        with pytest.raises(IndexError, match=f"target {wrong} is out of range for 4 classes"):
            functional.one_hot(mg.tensor([wrong]), 4)
    with pytest.raises(TypeError, match="integers"):
        functional.one_hot(mg.ones(2), 4)
    with pytest.raises(ValueError, match="num_classes"):
        functional.one_hot(mg.zeros(0, dtype=mg.int64))


# ------------------------------------------------------------------------------------ everything
def test_a_net_learns():
    mg.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))
    x = RANDOM.normal(size=(64, 2)).astype(np.float32)
    y = mg.tensor((x[:, 0] * x[:, 1] > 0).astype(np.int64))
    loss_function = nn.CrossEntropyLoss()
    for _ in range(200):
        net.zero_grad()
        loss = loss_function(net(mg.tensor(x)), y)
        loss.backward()
        with mg.no_grad():
            for parameter in net.parameters():
                parameter -= 0.5 * parameter.grad
    assert loss.item() < 0.1


@pytest.mark.parametrize(
    "call",
    [
        lambda F, x: F.conv2d(x, mg.ones(2, 3, 3, 3), 1.0),
        lambda F, x: F.conv2d(x, 1.0),
        lambda F, x: F.conv_transpose2d(x, mg.ones(3, 2, 3, 3), 1.0),
        lambda F, x: F.batch_norm(x, None, None, 1.0, None, True),
        lambda F, x: F.batch_norm(x, 1.0, 1.0),
        lambda F, x: F.layer_norm(x, (4, 4), 1.0),
        lambda F, x: F.group_norm(x, 1, 1.0),
        lambda F, x: F.instance_norm(x, weight=1.0),
        lambda F, x: F.rms_norm(x, (4, 4), 1.0),
        lambda F, x: F.linear(x, 1.0),
        lambda F, x: F.embedding(mg.tensor([1]), 1.0),
    ],
)
def test_a_number_in_the_place_of_a_weight_is_refused(call):
    with pytest.raises(ValueError, match=r"shape \(\)|got shape \(\)|got \(\)"):
        call(mg.nn.functional, mg.ones(2, 3, 4, 4))


# ------------------------------------------------------------------------- a net of many layers
class Net(nn.Module):
    """Containers of Modules and Parameters, and layers with statistics, in one net."""

    def __init__(self):
        super().__init__()
        self.paths = nn.ModuleDict(
            {
                "first": nn.Sequential(
                    nn.ReflectionPad2d(1),
                    nn.Conv2d(1, 4, 3),
                    nn.BatchRenorm2d(4),
                    nn.Upsample(scale_factor=2, mode="bilinear"),
                ),
                "second": nn.Sequential(
                    nn.GhostBatchNorm(4, 4),
                    nn.DynamicTanh((4, 1, 1)),
                    nn.InstanceNorm2d(4, track_running_stats=True),
                    nn.Flatten(),
                    nn.Unflatten(1, (4, -1)),
                ),
            }
        )
        self.scales = nn.ParameterList([mg.ones(4, 1)])
        self.shifts = nn.ParameterDict({"all": mg.zeros(1)})

    def forward(self, x):
        for path in self.paths.values():
            x = path(x)
        return x * self.scales[0] + self.shifts["all"]


def test_a_net_of_many_layers_trains_freezes_and_is_saved(tmp_path):
    mg.manual_seed(0)
    net, x = Net(), mg.randn(8, 1, 5, 5)
    optimizer = mg.optim.Adam(net.parameters(), lr=0.1)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = mg.square(net(x) - 1.0).mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.1 * losses[0]
    norms = nn.BatchRenorm2d, nn.GhostBatchNorm, nn.InstanceNorm2d
    before = {name: value.numpy(copy=True) for name, value in net.named_buffers()}
    net.freeze(*norms).train()(x)
    assert all(np.array_equal(value.numpy(), before[k]) for k, value in net.named_buffers())
    net.unfreeze()(x)
    moved = {k for k, value in net.named_buffers() if not np.array_equal(value.numpy(), before[k])}
    assert moved == {k for k in before if k != "paths.second.2.num_batches_tracked"}
    net.eval()
    expected = net(x).numpy()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other(x).numpy(), expected)
    for suffix in ("npz", "safetensors") if find_spec("safetensors") else ("npz",):
        path = tmp_path / f"net.{suffix}"
        mg.save(net.state_dict(), path)
        other = Net().eval()
        assert other.load_state_dict(mg.load(path)) == ([], [])
        np.testing.assert_array_equal(other(x).numpy(), expected)
    rows = {row.path: row.trainable for row in mg.viz.summary(net, x).rows}
    assert rows["scales"] == 4 and rows["shifts"] == 1 and rows["paths.second.1"] == 9
    assert sum(rows.values()) == sum(p.size for p in net.parameters())
    assert net.double()(x.astype(mg.float64)).dtype == mg.float64
