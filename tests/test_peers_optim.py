"""Trajectories of 100 steps of optimisers, averages and learning rates vs. PyTorch, and vs. the
package schedulefree."""

from __future__ import annotations

import warnings
from importlib.util import find_spec

import numpy as np
import pytest
from peers import DTYPES, pair, peer, torch

import minigrad as mg
from minigrad.optim import lr_scheduler

STEPS = 100
torch.set_num_threads(1)  # for nets this small


def sign(options):
    """When maximising, the loss is negated, so the trajectory stays bounded."""
    return -1.0 if options.get("maximize") else 1.0


def both(values, dtype):
    ours = [mg.tensor(v, dtype=dtype, requires_grad=True) for v in values]
    theirs = [torch.tensor(v, dtype=getattr(torch, dtype), requires_grad=True) for v in values]
    return ours, theirs


def run(optimizer, loss, steps, scheduler=None):
    def closure():
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)
        if scheduler is not None:
            scheduler.step()


def compare(ours, theirs, tolerance=1e-5):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a.numpy(), b.detach().numpy(), rtol=tolerance, atol=tolerance)


def cases(name, mark, *options):
    return [pytest.param(name, option, marks=mark) for option in options]


ADAM = {"lr": 0.01, "betas": (0.8, 0.95), "eps": 1e-6}
CASES = [
    *cases(
        "SGD",
        peer("optim.SGD"),
        *(
            {
                "lr": 0.05,
                "momentum": m,
                "dampening": d,
                "nesterov": n,
                "weight_decay": w,
                "maximize": x,
            }
            for m, d, n in [(0, 0, False), (0.9, 0, False), (0.9, 0.5, False), (0.9, 0, True)]
            for w in (0, 0.1)
            for x in (False, True)
        ),
    ),
    *[
        case
        for kind, mark in [("Adam", peer("optim.Adam")), ("AdamW", peer("optim.AdamW"))]
        for w in (0, 0.1)
        for a in (False, True)
        for x in (False, True)
        for case in cases(kind, mark, {**ADAM, "weight_decay": w, "amsgrad": a, "maximize": x})
    ],
    *cases(
        "Adam", peer("optim.Adam"), {**ADAM, "weight_decay": 0.1, "decoupled_weight_decay": True}
    ),
    *cases(
        "NAdam",
        peer("optim.NAdam"),
        {"lr": 0.01},
        {**ADAM, "momentum_decay": 0.1, "maximize": True},
        {**ADAM, "weight_decay": 0.1},
        {**ADAM, "weight_decay": 0.1, "decoupled_weight_decay": True},
    ),
    *cases(
        "RMSprop",
        peer("optim.RMSprop"),
        {"lr": 0.005, "eps": 1e-4},
        {"lr": 0.005, "alpha": 0.9, "eps": 1e-3, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.005, "eps": 1e-3, "momentum": 0.5},
        {"lr": 0.005, "eps": 1e-3, "centered": True},
        {"lr": 0.005, "eps": 1e-3, "centered": True, "momentum": 0.5, "weight_decay": 0.1},
    ),
    *cases(
        "Adagrad",
        peer("optim.Adagrad"),
        {"lr": 0.05},
        {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.1, "maximize": True},
        {"lr": 0.05, "initial_accumulator_value": 0.5, "eps": 1e-3},
    ),
    *cases(
        "RAdam",
        peer("optim.RAdam"),
        {"lr": 0.01},
        {**ADAM, "weight_decay": 0.1, "maximize": True},
        {**ADAM, "weight_decay": 0.1, "decoupled_weight_decay": True},
        {"lr": 0.01, "betas": (0.5, 0.6)},  # never rectified
    ),
]
LBFGS_CASES = cases(
    "LBFGS",
    peer("optim.LBFGS"),
    {"lr": 0.1, "max_iter": 1},
    {"lr": 0.05, "max_iter": 4, "history_size": 3},
    {"lr": 1.0, "max_iter": 2, "line_search_fn": "strong_wolfe"},
    {"lr": 0.5, "max_iter": 3, "max_eval": 5, "history_size": 2, "line_search_fn": "strong_wolfe"},
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind, options", CASES + LBFGS_CASES)
def test_quadratic(kind, options, dtype):
    rng = np.random.default_rng(0)
    scale = np.linspace(0.1, 2.0, 12).reshape(3, 4)
    # far enough that none passes the minimum, where v is small and rounding is amplified
    (x,), (y,) = both([rng.uniform(3.0, 4.0, (3, 4))], dtype)
    a, b = mg.tensor(scale, dtype=dtype), torch.tensor(scale, dtype=y.dtype)
    ours = getattr(mg.optim, kind)([x], **options)
    theirs = getattr(torch.optim, kind)([y], **options)
    run(ours, lambda: sign(options) * (a * (x - 1.0) ** 2).sum(), STEPS)
    run(theirs, lambda: sign(options) * (b * (y - 1.0) ** 2).sum(), STEPS)
    # PyTorch keeps NAdam's mu_product in float32; LBFGS ends where the loss stops to change
    exact = dtype == "float64" and kind not in ("NAdam", "LBFGS")
    compare([x], [y], 1e-10 if exact else 1e-5)


def net(layers):
    # no bias before BatchNorm: its gradient is rounding noise, which some optimisers scale up
    return layers.Sequential(
        layers.Linear(5, 8, bias=False),
        layers.BatchNorm1d(8),
        layers.Tanh(),
        layers.Linear(8, 2),
    )


def net_pair(dtype, batch=32, seed=0):
    rng = np.random.default_rng(1)
    torch.manual_seed(seed)  # `pair` takes PyTorch's initial weights
    inputs = rng.normal(size=(batch, 5))
    targets = np.sin(inputs @ rng.normal(size=(5, 2)))
    ours, theirs = pair(net, dtype)
    x, y = (mg.tensor(v, dtype=dtype) for v in (inputs, targets))
    tx, ty = (torch.tensor(v, dtype=getattr(torch, dtype)) for v in (inputs, targets))
    return (
        ours,
        theirs,
        lambda: ((ours(x) - y) ** 2).mean(),
        lambda: ((theirs(tx) - ty) ** 2).mean(),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind, options", CASES)
def test_net_with_batchnorm_and_two_groups(kind, options, dtype):
    ours, theirs, loss, their_loss = net_pair(dtype)
    # Small steps: weights before BatchNorm that decay or jump far make it chaotic. At five times
    # the rate PyTorch's float64 run differs from itself by up to 3e-4 if it starts 1e-15 away.
    options = {**options, "lr": options["lr"] / 5}
    optimizers = []
    for module, optim in ((ours, mg.optim), (theirs, torch.optim)):
        p = list(module.parameters())
        groups = [{"params": p[:2]}, {"params": p[2:], "lr": options["lr"] / 3}]
        optimizers.append(getattr(optim, kind)(groups, **options))
    run(optimizers[0], lambda: sign(options) * loss(), STEPS)
    run(optimizers[1], lambda: sign(options) * their_loss(), STEPS)
    compare(ours.state_dict().values(), theirs.state_dict().values())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kind, options", LBFGS_CASES)
def test_lbfgs_on_a_net_with_batchnorm(kind, options, seed):
    ours, theirs, loss, their_loss = net_pair("float64", seed=seed)
    a = getattr(mg.optim, kind)(ours.parameters(), **options)
    b = getattr(torch.optim, kind)(theirs.parameters(), **options)
    # of up to 4 iterations; after 25 steps PyTorch from a start 1e-15 away differs by up to 2e-5
    run(a, loss, 15)
    run(b, their_loss, 15)
    compare(ours.state_dict().values(), theirs.state_dict().values())
    mine, other = a.state_dict()["state"][0], b.state_dict()["state"][0]
    assert {n: mine[n] for n in ("func_evals", "n_iter")} == {
        n: other[n] for n in ("func_evals", "n_iter")
    }
    assert set(mine) | {"al"} == set(other) and len(mine["old_dirs"]) == len(other["old_dirs"])


STATEFUL = [CASES[i] for i in (4, 20, 30)] + [
    case for case in CASES[33:] if case.values[0] in ("NAdam", "RMSprop", "Adagrad", "RAdam")
]


def as_torch(value):
    """Our state in the form that PyTorch loads."""
    if isinstance(value, mg.Tensor):
        return torch.tensor(value.numpy())
    if isinstance(value, dict):
        return {key: as_torch(item) for key, item in value.items()}
    return [as_torch(item) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize("kind, options", STATEFUL + LBFGS_CASES)
def test_continues_from_pytorchs_state_dict_and_back(kind, options):
    start = np.random.default_rng(2).normal(size=(2, 4))
    (x,), (y,) = both([start], "float64")
    scale = np.linspace(0.5, 2.0, 8).reshape(2, 4)
    ours = getattr(mg.optim, kind)([x], lr=1.0)
    theirs = getattr(torch.optim, kind)([y], **options)

    def loss():
        return sign(options) * (mg.tensor(scale) * x**2).sum()

    def their_loss():
        return sign(options) * (torch.tensor(scale) * y**2).sum()

    run(theirs, their_loss, 4)
    with mg.no_grad():
        x.copy_(y.detach().numpy())
    ours.load_state_dict(theirs.state_dict())
    run(theirs, their_loss, 6)
    run(ours, loss, 6)
    compare([x], [y], 1e-6 if kind == "NAdam" else 1e-10)
    fresh = getattr(torch.optim, kind)([y], lr=1.0)
    fresh.load_state_dict(as_torch(ours.state_dict()))
    run(fresh, their_loss, 6)
    run(ours, loss, 6)
    compare([x], [y], 1e-6 if kind == "NAdam" else 1e-10)


# ------------------------------------------------------------------------------------------- Muon
MUON_CASES = [
    {"lr": 0.02},
    {"lr": 0.02, "momentum": 0.5, "nesterov": False, "weight_decay": 0},
    {"lr": 0.02, "adjust_lr_fn": "match_rms_adamw", "ns_steps": 3},
    {"lr": 0.02, "ns_coefficients": (1.5, -0.5, 0.0), "eps": 5.0, "adjust_lr_fn": "original"},
]


@pytest.fixture
def whole_precision(monkeypatch):
    """PyTorch rounds Muon's iterations to bfloat16: let it compute them in the dtype of the
    gradient, as we do."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())


@pytest.mark.peer("optim.Muon")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 4), (8, 3), (1, 1)])
@pytest.mark.parametrize("options", MUON_CASES)
def test_muon(options, shape, dtype, whole_precision):
    rng = np.random.default_rng(0)
    scale, start = rng.uniform(0.1, 2.0, shape), rng.uniform(3.0, 4.0, shape)
    (x,), (y,) = both([start], dtype)
    a, b = mg.tensor(scale, dtype=dtype), torch.tensor(scale, dtype=y.dtype)
    run(mg.optim.Muon([x], **options), lambda: (a * (x - 1.0) ** 2).sum(), STEPS)
    run(torch.optim.Muon([y], **options), lambda: (b * (y - 1.0) ** 2).sum(), STEPS)
    compare([x], [y], 1e-10 if dtype == "float64" else 1e-3)


@pytest.mark.parametrize("dtype", DTYPES)
def test_muon_and_adamw_on_a_net(dtype, whole_precision):
    ours, theirs, loss, their_loss = net_pair(dtype)
    for module, optim, value in ((ours, mg.optim, loss), (theirs, torch.optim, their_loss)):
        p = list(module.parameters())
        muon = optim.Muon([w for w in p if w.ndim == 2], lr=0.01)
        adamw = optim.AdamW([w for w in p if w.ndim != 2], lr=0.01)
        for _ in range(30):
            muon.zero_grad()
            adamw.zero_grad()
            value().backward()
            muon.step()
            adamw.step()
    compare(
        ours.state_dict().values(),
        theirs.state_dict().values(),
        1e-9 if dtype == "float64" else 0.01,
    )


def test_muon_is_near_pytorchs_in_bfloat16():
    rng = np.random.default_rng(1)
    (x,), (y,) = both([np.zeros((6, 9))], "float32")
    gradient = rng.normal(size=(6, 9))
    x.grad, y.grad = mg.tensor(gradient, dtype="float32"), torch.tensor(gradient).float()
    for optimizer in (mg.optim.Muon([x], lr=1.0), torch.optim.Muon([y], lr=1.0)):
        optimizer.step()
    compare([x], [y], 0.03)


def test_muon_continues_from_pytorchs_state_dict_and_back(whole_precision):
    (x,), (y,) = both([np.random.default_rng(2).normal(size=(2, 4))], "float64")
    ours, theirs = mg.optim.Muon([x], lr=1.0), torch.optim.Muon([y], **MUON_CASES[1])
    run(theirs, lambda: (y**4).sum(), 4)
    with mg.no_grad():
        x.copy_(y.detach().numpy())
    ours.load_state_dict(theirs.state_dict())
    run(theirs, lambda: (y**4).sum(), 6)
    run(ours, lambda: (x**4).sum(), 6)
    compare([x], [y], 1e-10)
    fresh = torch.optim.Muon([y], lr=1.0)
    fresh.load_state_dict(as_torch(ours.state_dict()))
    run(fresh, lambda: (y**4).sum(), 6)
    run(ours, lambda: (x**4).sum(), 6)
    compare([x], [y], 1e-10)


# ------------------------------------------------------------------------ schedule-free, averages
NAMES = {"ScheduleFreeSGD": "SGDScheduleFree", "ScheduleFreeAdamW": "AdamWScheduleFree"}
SCHEDULE_FREE = [
    *cases(
        "ScheduleFreeSGD",
        peer("optim.ScheduleFreeSGD"),
        {"lr": 0.05},
        {"lr": 0.05, "momentum": 0.5, "weight_decay": 0.1, "warmup_steps": 20},
        {"lr": 0.05, "r": 1.5, "weight_lr_power": 1.0, "warmup_steps": 5},
    ),
    *cases(
        "ScheduleFreeAdamW",
        peer("optim.ScheduleFreeAdamW"),
        {"lr": 0.01},
        {**ADAM, "weight_decay": 0.1, "warmup_steps": 20},
        {**ADAM, "r": 1.5, "weight_lr_power": 0.0, "warmup_steps": 5},
    ),
]


def schedule_free_pair(kind, params, others, options):
    import schedulefree

    ours = getattr(mg.optim, kind)(params, **options)
    theirs = getattr(schedulefree, NAMES[kind])(others, foreach=False, **options)
    theirs.train()
    return ours, theirs


@pytest.mark.skipif(not find_spec("schedulefree"), reason="needs the package schedulefree")
class TestScheduleFree:
    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("kind, options", SCHEDULE_FREE)
    def test_quadratic(self, kind, options, dtype):
        rng = np.random.default_rng(0)
        scale = np.linspace(0.1, 2.0, 12).reshape(3, 4)
        (x,), (y,) = both([rng.uniform(3.0, 4.0, (3, 4))], dtype)
        a, b = mg.tensor(scale, dtype=dtype), torch.tensor(scale, dtype=y.dtype)
        optimizers = schedule_free_pair(kind, [x], [y], options)
        for _ in range(4):
            run(optimizers[0], lambda: (a * (x - 1.0) ** 2).sum(), STEPS // 4)
            run(optimizers[1], lambda: (b * (y - 1.0) ** 2).sum(), STEPS // 4)
            for mode in ("eval", "train"):
                for optimizer in optimizers:
                    getattr(optimizer, mode)()
                compare([x], [y], 1e-10 if dtype == "float64" else 1e-5)

    @pytest.mark.parametrize("dtype", DTYPES)
    @pytest.mark.parametrize("kind, options", SCHEDULE_FREE)
    def test_net_with_batchnorm_and_two_groups(self, kind, options, dtype):
        ours, theirs, loss, their_loss = net_pair(dtype)
        options = {**options, "lr": options["lr"] / 5}
        groups = []
        for module in (ours, theirs):
            p = list(module.parameters())
            groups.append([{"params": p[:2]}, {"params": p[2:], "lr": options["lr"] / 3}])
        optimizers = schedule_free_pair(kind, *groups, options)
        run(optimizers[0], loss, STEPS)
        run(optimizers[1], their_loss, STEPS)
        compare(ours.state_dict().values(), theirs.state_dict().values())
        for optimizer in optimizers:
            optimizer.eval()
        compare(ours.state_dict().values(), theirs.state_dict().values())

    @pytest.mark.parametrize("mode", ["train", "eval"])
    @pytest.mark.parametrize("kind, options", SCHEDULE_FREE)
    def test_continues_from_the_state_of_the_package_and_back(self, kind, options, mode):
        (x,), (y,) = both([np.random.default_rng(2).normal(size=(2, 4))], "float64")
        ours, theirs = schedule_free_pair(kind, [x], [y], {**options})
        run(theirs, lambda: (y**4).sum(), 4)
        getattr(theirs, mode)()
        with mg.no_grad():
            x.copy_(y.detach().numpy())
        ours = getattr(mg.optim, kind)([x], lr=1.0)
        ours.load_state_dict(theirs.state_dict())
        for optimizer, value in ((ours, lambda: (x**4).sum()), (theirs, lambda: (y**4).sum())):
            optimizer.train()
            run(optimizer, value, 6)
            getattr(optimizer, mode)()
        compare([x], [y], 1e-10)
        _, fresh = schedule_free_pair(kind, [x], [y], {"lr": 1.0})
        fresh.load_state_dict(as_torch(ours.state_dict()))
        for optimizer, value in ((ours, lambda: (x**4).sum()), (fresh, lambda: (y**4).sum())):
            optimizer.train()
            run(optimizer, value, 6)
        compare([x], [y], 1e-10)

    @pytest.mark.parametrize("kind", NAMES)
    def test_defaults(self, kind):
        ours, theirs = schedule_free_pair(
            kind, [mg.ones(1, requires_grad=True)], [torch.ones(1, requires_grad=True)], {}
        )
        options = {n: v for n, v in ours.defaults.items() if n != "maximize"}
        assert options == {name: theirs.defaults[name] for name in options}
        kept = {"foreach", *ours.progress}
        assert set(theirs.defaults) == set(options) | kept


AVERAGES = {
    "SWA": ({}, lambda: {}),
    "EMA": (
        {"decay": 0.9},
        lambda: {"multi_avg_fn": torch.optim.swa_utils.get_ema_multi_avg_fn(0.9)},
    ),
}


@pytest.mark.peer("optim.AveragedModel")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("use_buffers", [False, True])
@pytest.mark.parametrize("name", AVERAGES)
def test_averages(name, use_buffers, dtype):
    ours, theirs, loss, their_loss = net_pair(dtype)
    options, their_options = AVERAGES[name]
    averaged = mg.optim.AveragedModel(ours, use_buffers=use_buffers, **options)
    other = torch.optim.swa_utils.AveragedModel(theirs, use_buffers=use_buffers, **their_options())
    optimizers = [
        optim.SGD(module.parameters(), lr=0.05)
        for module, optim in ((ours, mg.optim), (theirs, torch.optim))
    ]
    for _ in range(20):
        run(optimizers[0], loss, 1)
        run(optimizers[1], their_loss, 1)
        averaged.update_parameters(ours)
        other.update_parameters(theirs)
    mine, expected = averaged.state_dict(), other.state_dict()
    assert set(mine) == set(expected)
    for state in (mine, expected):  # PyTorch averages this count too, and cuts the result off
        state.pop("module.1.num_batches_tracked")
    compare(
        [mine[key] for key in expected], expected.values(), 1e-10 if dtype == "float64" else 1e-5
    )

    rng = np.random.default_rng(5)
    data = rng.normal(1.0, 2.0, (64, 5))
    mg.nn.recalibrate(
        averaged, [mg.tensor(data[:40], dtype=dtype), mg.tensor(data[40:], dtype=dtype)]
    )
    torch.optim.swa_utils.update_bn([torch.tensor(data, dtype=getattr(torch, dtype))], other)
    layer, its = averaged.module[1], other.module[1]
    compare(
        [layer.running_mean, layer.running_var * (64 / 63)], [its.running_mean, its.running_var]
    )

    fresh = mg.optim.AveragedModel(ours, use_buffers=use_buffers, **options)
    fresh.load_state_dict(other.state_dict())
    fresh.update_parameters(ours)
    other.update_parameters(theirs)
    assert fresh.n_averaged.item() == other.n_averaged.item() == 21
    compare(fresh.module.parameters(), other.module.parameters())


# ------------------------------------------------------------------------------------- schedulers
SCHEDULES = [
    *cases("StepLR", peer("optim.lr_scheduler.StepLR"), {"step_size": 3}, {"step_size": 1}),
    *cases(
        "MultiStepLR",
        peer("optim.lr_scheduler.MultiStepLR"),
        {"milestones": [2, 5, 5, 9]},
        {"milestones": [0, 30], "gamma": 0.5},
    ),
    *cases(
        "ConstantLR",
        peer("optim.lr_scheduler.ConstantLR"),
        {},
        {"factor": 0.5, "total_iters": 3},
    ),
    *cases(
        "LinearLR",
        peer("optim.lr_scheduler.LinearLR"),
        {},
        {"start_factor": 0.1, "end_factor": 0.7, "total_iters": 9},
        {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 6},
    ),
    *cases(
        "ExponentialLR", peer("optim.lr_scheduler.ExponentialLR"), {"gamma": 0.9}, {"gamma": 1.02}
    ),
    *cases(
        "PolynomialLR",
        peer("optim.lr_scheduler.PolynomialLR"),
        {},
        {"total_iters": 12, "power": 2.0},
        {"total_iters": 12, "power": 0.5},
    ),
    *cases(
        "CosineAnnealingLR",
        peer("optim.lr_scheduler.CosineAnnealingLR"),
        {"T_max": 10},
        {"T_max": 7, "eta_min": 0.01},
        {"T_max": 1},
        {"T_max": 3, "eta_min": 0.3},
    ),
    *cases(
        "CosineAnnealingWarmRestarts",
        peer("optim.lr_scheduler.CosineAnnealingWarmRestarts"),
        {"T_0": 5},
        {"T_0": 2, "T_mult": 2, "eta_min": 0.01},
        {"T_0": 1, "T_mult": 3},
    ),
    *cases(
        "LambdaLR",
        peer("optim.lr_scheduler.LambdaLR"),
        {"lr_lambda": lambda epoch: 0.95**epoch},
        {"lr_lambda": [lambda epoch: 0.95**epoch, lambda epoch: 1 / (1 + epoch)]},
    ),
    *cases(
        "OneCycleLR",
        peer("optim.lr_scheduler.OneCycleLR"),
        {"max_lr": 0.5, "total_steps": STEPS},
        {"max_lr": [0.5, 0.2], "epochs": 10, "steps_per_epoch": 10, "anneal_strategy": "linear"},
        {"max_lr": 0.5, "total_steps": STEPS, "three_phase": True, "pct_start": 0.4},
        {"max_lr": 0.5, "total_steps": STEPS, "three_phase": True, "anneal_strategy": "linear"},
        {"max_lr": 0.5, "total_steps": STEPS, "cycle_momentum": False, "pct_start": 0.0},
        {"max_lr": 1.0, "total_steps": 2 * STEPS, "div_factor": 10, "final_div_factor": 100},
        {"max_lr": 1.0, "total_steps": STEPS, "base_momentum": [0.7, 0.8], "max_momentum": 0.9},
    ),
]
# resumed, or in a sequence, PyTorch's counts its own steps and not the epochs
ANNEALED = cases(
    "SWALR",
    peer("optim.lr_scheduler.SWALR"),
    {"swa_lr": 0.05},
    {"swa_lr": [0.05, 0.3], "anneal_epochs": 4, "anneal_strategy": "linear"},
    {"swa_lr": 0.5, "anneal_epochs": 0},
    {"swa_lr": 0.0, "anneal_epochs": 1},
)
KINDS = [("SGD", {"momentum": 0.9}), ("Adam", {})]


def optimizer_pair(kind, options):
    made = []
    for optim, ones in ((mg.optim, mg.ones), (torch.optim, torch.ones)):
        a, b = ones(2, requires_grad=True), ones(3, requires_grad=True)
        groups = [{"params": [a]}, {"params": [b], "lr": 0.02}]
        made.append(getattr(optim, kind)(groups, lr=0.1, **options))
    return made


def same_rates(a, b):
    for ours, theirs in zip(a.param_groups, b.param_groups, strict=True):
        for name in {"lr", "momentum", "betas"} & set(theirs):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-11, atol=1e-15)


def step_together(optimizers, schedulers, steps, metrics=None):
    same_rates(*optimizers)
    for step in range(steps):
        for optimizer in optimizers:
            optimizer.step()
        for scheduler in schedulers:
            scheduler.step(*(() if metrics is None else (float(metrics[step]),)))
        same_rates(*optimizers)
        for a, b in zip(schedulers[::2], schedulers[1::2], strict=True):
            np.testing.assert_allclose(a.get_last_lr(), b.get_last_lr(), rtol=1e-11, atol=1e-15)
            assert a.last_epoch == b.last_epoch


def schedules(optimizers, name, options):
    theirs = torch.optim.swa_utils if name == "SWALR" else torch.optim.lr_scheduler
    libraries = (lr_scheduler, theirs)
    return [getattr(m, name)(o, **options) for m, o in zip(libraries, optimizers, strict=True)]


@pytest.mark.parametrize("kind, settings", KINDS)
@pytest.mark.parametrize("name, options", SCHEDULES + ANNEALED)
def test_schedule(name, options, kind, settings):
    optimizers = optimizer_pair(kind, settings)
    step_together(optimizers, schedules(optimizers, name, options), STEPS)


# when it resumes, PyTorch misses all but the first of the restarts
RESUMABLE = [case for case in SCHEDULES if case.values[1].get("T_mult", 1) == 1]


@pytest.mark.parametrize("last_epoch", [0, 1, 4])
@pytest.mark.parametrize("name, options", RESUMABLE)
def test_resumed_schedule(name, options, last_epoch):
    optimizers = optimizer_pair("SGD", {"momentum": 0.9})
    schedules(optimizers, name, options)
    resumed = schedules(optimizers, name, {**options, "last_epoch": last_epoch})
    step_together(optimizers, resumed, 20)


@pytest.mark.parametrize("last, options", SCHEDULES + ANNEALED)
@pytest.mark.parametrize("first, settings", [("LinearLR", {}), ("ExponentialLR", {"gamma": 0.9})])
def test_several_schedules_multiply(first, settings, last, options):
    optimizers = optimizer_pair("Adam", {})
    chained = [
        *schedules(optimizers, first, settings),
        *schedules(optimizers, last, options),
        *schedules(optimizers, "StepLR", {"step_size": 4}),
    ]
    step_together(optimizers, chained, 30)


@pytest.mark.peer("optim.lr_scheduler.SequentialLR")
@pytest.mark.parametrize("name, options", SCHEDULES)
def test_sequence(name, options):
    optimizers = optimizer_pair("SGD", {"momentum": 0.9})
    parts = [
        schedules(optimizers, *part)
        for part in [
            ("LinearLR", {"total_iters": 3}),
            (name, options),
            ("StepLR", {"step_size": 2}),
        ]
    ]
    sequences = [
        module.SequentialLR(optimizer, list(part), [4, 20])
        for module, optimizer, part in zip(
            (lr_scheduler, torch.optim.lr_scheduler),
            optimizers,
            zip(*parts, strict=True),
            strict=True,
        )
    ]
    step_together(optimizers, sequences, 40)


@pytest.mark.peer("optim.lr_scheduler.ReduceLROnPlateau")
@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 0, "factor": 0.5, "cooldown": 3},
        {"mode": "max", "patience": 1, "threshold": 0.1, "min_lr": [0.01, 0.001]},
        {"threshold_mode": "abs", "patience": 1, "threshold": 0.3, "factor": 0.7, "eps": 1e-3},
        {"mode": "max", "threshold_mode": "abs", "patience": 1},
    ],
)
def test_plateau(options):
    metrics = np.random.default_rng(3).normal(size=STEPS).cumsum() * 0.3
    metrics[40:44] = np.nan
    metrics[50] = np.inf
    optimizers = optimizer_pair("SGD", {})
    step_together(optimizers, schedules(optimizers, "ReduceLROnPlateau", options), STEPS, metrics)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name, options", SCHEDULES)
def test_training_a_net_with_a_schedule(name, options, seed):
    ours, theirs, loss, their_loss = net_pair("float64", seed=seed)
    if "max_lr" in options:  # or PyTorch's own run is chaotic, as above
        options = {**options, "max_lr": 0.05}
    optimizers = []
    for module, optim in ((ours, mg.optim), (theirs, torch.optim)):
        p = list(module.parameters())
        groups = [{"params": p[:2]}, {"params": p[2:], "lr": 0.02}]
        optimizers.append(optim.SGD(groups, lr=0.05, momentum=0.5))
    mine, other = schedules(optimizers, name, options)
    run(optimizers[0], loss, STEPS, mine)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(optimizers[1], their_loss, STEPS, other)
    compare(ours.state_dict().values(), theirs.state_dict().values())


# PyTorch keeps the phases of OneCycleLR themselves, here they follow from the options
SHARED_STATE = [case for case in SCHEDULES if case.values[0] != "OneCycleLR"]


@pytest.mark.parametrize("name, options", SHARED_STATE)
def test_takes_pytorchs_scheduler_state(name, options):
    optimizers = optimizer_pair("SGD", {})
    mine, other = schedules(optimizers, name, options)
    for _ in range(7):
        optimizers[1].step()
        other.step()
    for a, b in zip(*(o.param_groups for o in optimizers), strict=True):
        a["lr"] = b["lr"]
    mine.load_state_dict(other.state_dict())
    step_together(optimizers, [mine, other], 10)


def test_defaults():
    """Each of our options is PyTorch's, with the same default."""
    for kind in ("SGD", "Adam", "AdamW", "NAdam", "RAdam", "RMSprop", "Adagrad", "LBFGS", "Muon"):
        ours = getattr(mg.optim, kind)([mg.ones((1, 1), requires_grad=True)]).defaults
        theirs = getattr(torch.optim, kind)([torch.ones((1, 1), requires_grad=True)]).defaults
        if kind in ("LBFGS", "Muon"):
            assert ours.pop("maximize") is False and "maximize" not in theirs
        assert ours == {name: theirs[name] for name in ours}
        only_theirs = {"foreach", "fused", "capturable", "differentiable", "decoupled_weight_decay"}
        assert set(theirs) - set(ours) <= only_theirs
