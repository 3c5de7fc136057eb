"""Averages of weights: schedule-free optimisers in their two modes, AveragedModel, and the exact
statistics of BatchNorm for both."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest
from test_optim import give_gradients, parameters, schedule_free_formula, train

import minigrad as mg
from minigrad import nn, optim
from minigrad.optim import SGD, AveragedModel, ScheduleFreeAdamW, ScheduleFreeSGD
from minigrad.optim.swa_utils import SWALR
from minigrad.serialization import load, save

KINDS = [
    (ScheduleFreeSGD, {"lr": 0.5}),
    (ScheduleFreeSGD, {"lr": 0.5, "momentum": 0.5, "warmup_steps": 4, "weight_decay": 0.1}),
    (ScheduleFreeAdamW, {"lr": 0.1}),
    (ScheduleFreeAdamW, {"lr": 0.1, "betas": (0.95, 0.9), "r": 1.0, "weight_lr_power": 0.5}),
]


def net():
    mg.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2))


def batches(count=5):
    random = np.random.default_rng(2)
    return [mg.tensor(random.normal(1.0, 2.0, (8, 3)), dtype=mg.float32) for _ in range(count)]


def fit(model, optimizer, data, each=lambda: None):
    for x in data:
        optimizer.zero_grad()
        (model(x) - mg.sin(x[:, :2])).square().mean().backward()
        optimizer.step()
        each()


def values(module):
    return {name: value.numpy(copy=True) for name, value in module.state_dict().items()}


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# ----------------------------------------------------------------------------- schedule-free modes
@pytest.mark.parametrize("kind, options", KINDS)
def test_evaluation_is_at_the_mean(kind, options):
    params = parameters()
    starts = [p.numpy(copy=True) for p in params]
    optimizer, gradients = kind(params, **options), []
    group = optimizer.param_groups[0]
    betas = group.get("betas") or (group["momentum"], 0)
    rest = [group[n] for n in ("weight_decay", "warmup_steps", "r", "weight_lr_power", "maximize")]
    for step in range(9):
        give_gradients(params, step)
        gradients.append([p.grad.numpy(copy=True) for p in params])
        optimizer.step()
        for evaluate in (True, False):
            optimizer.eval() if evaluate else optimizer.train()
            for i, (p, start) in enumerate(zip(params, starts, strict=True)):
                expected = schedule_free_formula(
                    start,
                    [g[i] for g in gradients],
                    group["lr"],
                    betas,
                    group.get("eps"),
                    *rest,
                    evaluate,
                )
                np.testing.assert_allclose(p.numpy(), expected, rtol=1e-9, atol=1e-11)
    assert group["k"] == 9 and group["lr_max"] == group["scheduled_lr"]


@pytest.mark.parametrize("kind, options", KINDS)
def test_a_mode_is_set_once(kind, options):
    params = parameters()
    optimizer = kind(params, **options)
    optimizer.state[params[0]] = {}  # as a checkpoint may have it
    optimizer.eval()  # before the first step there is nothing to average
    optimizer.train()
    train(optimizer, params, 3)
    versions = [p._version for p in params]
    optimizer.train()
    assert [p._version for p in params] == versions
    optimizer.eval()
    mean = [p.numpy(copy=True) for p in params]
    optimizer.eval()
    for p, x, version in zip(params, mean, versions, strict=True):
        np.testing.assert_array_equal(p.numpy(), x)
        assert p._version == version + 1


def test_a_step_in_evaluation_mode_is_refused():
    params = parameters()
    optimizer = ScheduleFreeSGD([{"params": params[:2]}, {"params": params[2:]}])
    train(optimizer, params, 2)
    optimizer.eval()
    before = optimizer.state_dict(), [p.numpy(copy=True) for p in params]
    with pytest.raises(RuntimeError, match=r"ScheduleFreeSGD.step: .* call optimizer.train\(\)"):
        optimizer.step(lambda: pytest.fail("the closure ran"))
    for p, value in zip(params, before[1], strict=True):
        np.testing.assert_array_equal(p.numpy(), value)
    assert optimizer.state_dict()["param_groups"] == before[0]["param_groups"]
    late = mg.ones(2, requires_grad=True)
    optimizer.add_param_group({"params": late})
    optimizer.train()
    late.grad = mg.ones(2)
    optimizer.step()
    assert [group["k"] for group in optimizer.param_groups] == [3, 3, 1]
    np.testing.assert_array_equal(late.numpy(), [0.0, 0.0])  # its first step: y = x = z


def test_a_mode_that_cannot_be_set_changes_nothing():
    params = parameters()
    optimizer = ScheduleFreeAdamW(params)
    train(optimizer, params, 2)
    before = [p.numpy(copy=True) for p in params]
    params[2]._array.flags.writeable = False
    with pytest.raises(ValueError, match=r"ScheduleFreeAdamW: .* shares read-only memory"):
        optimizer.eval()
    params[2]._array.flags.writeable = True
    unused = mg.ones(2, requires_grad=True)
    unused._array.flags.writeable = False
    optimizer.add_param_group({"params": unused})  # has no gradient, so nothing writes to it
    assert optimizer.param_groups[0]["train_mode"]
    for p, value in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.numpy(), value)
    optimizer.eval()
    assert [group["train_mode"] for group in optimizer.param_groups] == [False, False]


def test_the_mean_is_found_after_a_conversion_and_in_memory_of_others():
    storage = np.arange(12.0).reshape(3, 4)
    strided, plain = mg.asarray(storage.T[::2]), mg.tensor(storage.T[::2])
    for p in (strided, plain):
        p.requires_grad_()
    optimizer = ScheduleFreeSGD([strided, plain], lr=0.5)
    for step in range(3):
        for p in (strided, plain):
            p.grad = mg.full(p.shape, step + 1.0, dtype="float64")
        optimizer.step()
    optimizer.eval()
    np.testing.assert_array_equal(storage.T[::2], plain.numpy())
    layer = nn.Linear(2, 1)
    optimizer = ScheduleFreeSGD(layer.parameters(), lr=0.5)
    fit(layer, optimizer, [mg.ones(1, 2)] * 3)
    layer.double()
    optimizer.eval()
    assert layer.weight.dtype == np.float64 and np.isfinite(layer.weight.numpy()).all()


@pytest.mark.parametrize("evaluating", [False, True])
@pytest.mark.parametrize("kind, options", KINDS)
def test_a_checkpoint_of_either_mode_continues_the_exact_trajectory(kind, options, evaluating):
    params = parameters("float32")
    optimizer = kind(params, **options)
    train(optimizer, params, 3)
    if evaluating:
        optimizer.eval()
    file = io.BytesIO()
    save(optimizer.state_dict(), file)
    resumed = [mg.tensor(p.numpy(copy=True), requires_grad=True) for p in params]
    other = kind(resumed, lr=7.0)
    file.seek(0)
    other.load_state_dict(load(file))
    for each in (optimizer, other):
        each.train()
    for a, b in zip(train(optimizer, params, 4, 3), train(other, resumed, 4, 3), strict=True):
        np.testing.assert_array_equal(a, b)
    assert {**optimizer.param_groups[0], "params": 0} == {**other.param_groups[0], "params": 0}


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("k", None, "lacks k; is it from another optimiser"),
        ("k", -1, "Invalid k: -1"),
        ("weight_sum", float("nan"), "Invalid weight_sum: nan"),
        ("lr_max", "a", "the lr_max must be a number, got str 'a'"),
        ("train_mode", None, "lacks train_mode"),
    ],
)
def test_progress_that_does_not_fit_changes_nothing(name, value, message):
    params = parameters()
    optimizer = ScheduleFreeSGD(params)
    train(optimizer, params, 1)
    state = optimizer.state_dict()
    group = dict(optimizer.param_groups[0])
    state["param_groups"][0][name] = value
    if value is None:
        del state["param_groups"][0][name]
    with pytest.raises((TypeError, ValueError), match=message):
        optimizer.load_state_dict(state)
    assert optimizer.param_groups[0] == group


def test_a_rate_that_falls_does_not_lessen_the_weight():
    """The weights of the mean go by the largest rate so far, as in the authors' package."""
    x, start = mg.tensor([1.0], dtype="float64", requires_grad=True), 1.0
    optimizer = ScheduleFreeSGD([x], lr=0.5, momentum=0.5)
    mean, z = start, start
    for step, lr in enumerate((0.5, 1.0, 0.25, 0.125)):
        optimizer.param_groups[0]["lr"] = lr  # as a scheduler does
        x.grad = mg.tensor([1.0 + step], dtype="float64")
        optimizer.step()
        z -= lr * (1.0 + step)
        weights = np.square([0.5, 1.0, 1.0, 1.0][: step + 1])
        mean += (z - mean) * weights[-1] / weights.sum()
    optimizer.eval()
    np.testing.assert_allclose(x.item(), mean, rtol=1e-14)


def test_a_rate_of_zero_leaves_everything():
    params = parameters()
    before = [p.numpy(copy=True) for p in params]
    for kind in (ScheduleFreeSGD, ScheduleFreeAdamW):
        train(kind(params, lr=0.0), params, 3)
    for p, value in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.numpy(), value)


# --------------------------------------------------------------------------------- AveragedModel
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("decay", [None, 0.0, 0.9, 1])
def test_the_average_is_the_formula(decay, use_buffers):
    model = net().double()
    averaged = AveragedModel(model, decay, use_buffers)
    seen = []
    fit(
        model,
        SGD(model.parameters(), lr=0.1),
        [x.astype(mg.float64) for x in batches()],
        lambda: (averaged.update_parameters(model), seen.append(values(model))),
    )
    found = values(averaged.module)
    parameter_names = {name for name, _ in model.named_parameters()}
    for name, value in found.items():
        track = [state[name] for state in seen]
        if name == "1.num_batches_tracked" or not (use_buffers or name in parameter_names):
            np.testing.assert_array_equal(value, track[-1], err_msg=name)
        elif decay is None:
            np.testing.assert_allclose(value, np.mean(track, 0), rtol=1e-13, err_msg=name)
        else:
            expected = track[0]
            for later in track[1:]:
                expected = decay * expected + (1 - decay) * later
            np.testing.assert_allclose(value, expected, rtol=1e-13, err_msg=name)
    assert averaged.n_averaged.item() == 5


def test_an_average_is_a_module_of_its_own():
    model = net()
    averaged = AveragedModel(model, decay=0.5)
    assert repr(averaged).startswith("AveragedModel(decay=0.5\n  (module): Sequential(")
    assert list(averaged.state_dict()) == ["n_averaged", *(f"module.{n}" for n in values(model))]
    assert not {id(p) for p in averaged.parameters()} & {id(p) for p in model.parameters()}
    x = batches(1)[0]
    np.testing.assert_array_equal(averaged.eval()(x).numpy(), model.eval()(x).numpy())
    with mg.no_grad():
        model[0].weight.fill_(1.0)
    first = averaged.module[0].weight
    version = first._version
    averaged.update_parameters(model)
    assert first.tolist() == model[0].weight.tolist() and first._version > version
    assert first.is_leaf and first.requires_grad  # as in PyTorch


def test_an_average_is_resumed_exactly():
    model, data = net(), batches()
    optimizer, averaged = SGD(model.parameters(), lr=0.1), AveragedModel(model, 0.9)
    fit(model, optimizer, data[:3], lambda: averaged.update_parameters(model))
    file = io.BytesIO()
    save(averaged.state_dict(), file)
    file.seek(0)
    resumed = AveragedModel(net(), 0.9)
    resumed.load_state_dict(load(file))
    fit(
        model,
        optimizer,
        data[3:],
        lambda: (averaged.update_parameters(model), resumed.update_parameters(model)),
    )
    assert_same(values(averaged), values(resumed))


def test_an_average_keeps_its_dtype_and_shared_parameters():
    layer = nn.Linear(2, 2)
    model = nn.Sequential(layer, nn.Tanh(), layer)
    averaged = AveragedModel(model).double()
    assert averaged.module[0] is averaged.module[2]
    for value in (1.0, 2.0):
        with mg.no_grad():
            layer.weight.fill_(value)
        averaged.update_parameters(model)
    weight = averaged.module[2].weight
    assert weight.dtype == np.float64 and weight.tolist() == [[1.5] * 2] * 2
    averaged.float()
    layer.double()
    averaged.update_parameters(model)
    assert weight.dtype == np.float32 and weight.tolist() == [[np.float32(5 / 3)] * 2] * 2


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: AveragedModel(optim.SGD), TypeError, "AveragedModel: expected a Module, got type"),
        (lambda: AveragedModel(net(), "cpu"), TypeError, "the decay must be a number, got str"),
        (lambda: AveragedModel(net(), 1.5), ValueError, "decay must be between 0 and 1, got 1.5"),
        (lambda: AveragedModel(net(), -0.1), ValueError, "AveragedModel: Invalid decay: -0.1"),
        (
            lambda: AveragedModel(net(), avg_fn=max),
            TypeError,
            "AveragedModel: unknown option 'avg_fn'; known are decay, use_buffers",
        ),
        (lambda: AveragedModel(net(), use_buffers=1), TypeError, "use_buffers must be True or"),
    ],
)
def test_what_an_average_refuses(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "other, message",
    [
        (lambda model: model[0], r"copy has 0.weight \(4, 3\) where the model has weight \(4, 3\)"),
        (
            lambda model: nn.Sequential(*list(model)[:3], nn.Linear(4, 3)),
            r"3.weight \(2, 4\) where the model has 3.weight \(3, 4\)",
        ),
        (
            lambda model: nn.Sequential(
                model[0], nn.BatchNorm1d(4, track_running_stats=False), *list(model)[2:]
            ),
            r"1.running_mean \(4,\) where the model has 3.weight",
        ),
        (lambda model: AveragedModel(model), "pass the model that was copied"),
    ],
)
def test_the_weights_of_another_net_change_nothing(other, message):
    with pytest.raises(TypeError, match="expected the Module that was copied, got list"):
        AveragedModel(net()).update_parameters([])
    model = net()
    averaged = AveragedModel(model)
    averaged.update_parameters(model)
    before = values(averaged)
    with pytest.raises(ValueError, match=message):
        averaged.update_parameters(other(model))
    assert_same(values(averaged), before)


# ----------------------------------------------------------------------- BatchNorm's statistics
def statistics(model, data):
    """Mean and variance of what BatchNorm gets, of all data at once, by NumPy in float64."""
    x = np.concatenate([x.numpy() for x in data]).astype(np.float64)
    weight, bias = (p.detach().numpy().astype(np.float64) for p in model[0].parameters())
    inputs = x @ weight.T + bias
    return inputs.mean(0), inputs.var(0)


def assert_exact(model, data):
    mean, var = statistics(model, data)
    np.testing.assert_allclose(model[1].running_mean.numpy(), mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(model[1].running_var.numpy(), var, rtol=1e-5)


@pytest.mark.parametrize("decay", [None, 0.7])
def test_recalibrate_sets_the_statistics_of_an_average(decay):
    model, data = net(), batches()
    averaged = AveragedModel(model, decay)
    optimizer = SGD(model.parameters(), lr=0.5)
    scheduler = SWALR(optimizer, swa_lr=0.2, anneal_epochs=1)
    fit(model, optimizer, data, lambda: (averaged.update_parameters(model), scheduler.step()))
    with pytest.raises(AssertionError):  # those copied belong to other weights
        assert_exact(averaged.module, data)
    before = [p.numpy(copy=True) for p in averaged.parameters()]
    nn.recalibrate(averaged, data)
    assert_exact(averaged.module, data)
    for p, value in zip(averaged.parameters(), before, strict=True):
        np.testing.assert_array_equal(p.numpy(), value)


@pytest.mark.parametrize("kind", [ScheduleFreeSGD, ScheduleFreeAdamW])
def test_recalibrate_sets_the_statistics_of_schedule_free_evaluation(kind):
    model, data = net(), batches()
    optimizer = kind(model.parameters(), lr=0.5)
    fit(model, optimizer, data)
    optimizer.eval()
    with pytest.raises(AssertionError):
        assert_exact(model, data)
    nn.recalibrate(model, data)
    assert_exact(model, data)
    optimizer.train()
    with pytest.raises(AssertionError):  # the mean is not where training goes on
        assert_exact(model, data)


def test_evaluating_in_between_does_not_disturb_the_training():
    """But for a rounding of the parameters."""
    found = []
    for evaluate in (False, True):
        model = net()
        optimizer = ScheduleFreeSGD(model.parameters(), lr=0.05)

        def look(optimizer=optimizer, evaluate=evaluate):
            if evaluate:
                optimizer.eval()
                optimizer.train()

        fit(model, optimizer, batches(20), look)
        found.append(values(model))
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_a_copied_optimiser_keeps_its_mode():
    params = parameters()
    optimizer = ScheduleFreeSGD(params)
    train(optimizer, params, 2)
    optimizer.eval()
    params_copy, twin = copy.deepcopy((params, optimizer))
    for each in (optimizer, twin):
        each.train()
    for a, b in zip(train(optimizer, params, 2), train(twin, params_copy, 2), strict=True):
        np.testing.assert_array_equal(a, b)
