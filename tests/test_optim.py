"""Optimisers: one step against the formula, groups, checkpoints, and errors."""

from __future__ import annotations

import copy
import io

import numpy as np
import pytest

import minigrad as mg
from minigrad._core.fast.updates import Update
from minigrad.optim import (
    LBFGS,
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Lion,
    Muon,
    NAdam,
    Optimizer,
    RAdam,
    RMSprop,
    ScheduleFreeAdamW,
    ScheduleFreeSGD,
)
from minigrad.serialization import load, save

SHAPES = [(3, 4), (5,), ()]
MATRICES = [(3, 4), (5, 2), (1, 1)]


def parameters(dtype="float64", seed=0, kind=None):
    rng = np.random.default_rng(seed)
    shapes = MATRICES if kind is Muon else SHAPES
    return [mg.tensor(rng.normal(size=shape), dtype=dtype, requires_grad=True) for shape in shapes]


def give_gradients(params, step):
    rng = np.random.default_rng(100 + step)
    for p in params:
        p.grad = mg.tensor(rng.normal(size=p.shape), dtype=p.dtype)


def train(optimizer, params, steps, start=0):
    for step in range(start, start + steps):
        give_gradients(params, step)
        optimizer.step()
    return [p.numpy(copy=True) for p in params]


# --------------------------------------------------------------- formulas, written out with NumPy
def sgd_formula(
    p, gradients, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False, maximize=False
):
    velocity = None
    for g in gradients:
        g = (-g if maximize else g) + weight_decay * p
        if momentum:
            velocity = g if velocity is None else momentum * velocity + (1 - dampening) * g
            g = g + momentum * velocity if nesterov else velocity
        p = p - lr * g
    return p


def adam_formula(
    p,
    gradients,
    lr,
    betas,
    eps=1e-8,
    weight_decay=0,
    amsgrad=False,
    maximize=False,
    decoupled=False,
):
    m, v, largest = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for t, g in enumerate(gradients, 1):
        g = -g if maximize else g
        if decoupled:
            p = p * (1 - lr * weight_decay)
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        largest = np.maximum(largest, v)
        scale = (largest if amsgrad else v) / (1 - betas[1] ** t)
        p = p - lr * m / (1 - betas[0] ** t) / (np.sqrt(scale) + eps)
    return p


SGD_OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"momentum": 0.9},
    {"momentum": 0.9, "dampening": 0.5, "weight_decay": 0.1},
    {"momentum": 0.9, "nesterov": True, "maximize": True},
    {"maximize": True, "weight_decay": 0.2},
]
ADAM_OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"amsgrad": True, "eps": 1e-3},
    {"maximize": True, "weight_decay": 0.1},
    {"amsgrad": True, "maximize": True, "weight_decay": 0.3},
]


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("options", SGD_OPTIONS)
def test_sgd_is_the_formula(options, steps):
    params = parameters()
    starts = [p.numpy(copy=True) for p in params]
    check_against(
        lambda p, g: sgd_formula(p, g, 0.1, **options),
        SGD(params, 0.1, **options),
        params,
        starts,
        steps,
    )


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("options", ADAM_OPTIONS)
@pytest.mark.parametrize("kind", [Adam, AdamW])
def test_adam_is_the_formula(kind, options, steps):
    options = {"lr": 0.1, "betas": (0.8, 0.95), "weight_decay": 0, **options}
    params = parameters()
    starts = [p.numpy(copy=True) for p in params]
    decoupled = kind is AdamW
    check_against(
        lambda p, g: adam_formula(p, g, decoupled=decoupled, **options),
        kind(params, **options),
        params,
        starts,
        steps,
    )


def check_against(formula, optimizer, params, starts, steps):
    gradients = []
    for step in range(steps):
        give_gradients(params, step)
        gradients.append([p.grad.numpy(copy=True) for p in params])
        optimizer.step()
    for i, (p, start) in enumerate(zip(params, starts, strict=False)):
        np.testing.assert_allclose(
            p.numpy(), formula(start, [g[i] for g in gradients]), rtol=1e-12, atol=1e-14
        )


def test_defaults_are_pytorchs():
    p = parameters()
    assert SGD(p).defaults == {
        "lr": 1e-3,
        "momentum": 0,
        "dampening": 0,
        "weight_decay": 0,
        "nesterov": False,
        "maximize": False,
    }
    adam = {
        "lr": 1e-3,
        "betas": (0.9, 0.999),
        "eps": 1e-8,
        "weight_decay": 0,
        "amsgrad": False,
        "maximize": False,
        "decoupled_weight_decay": False,
    }
    assert Adam(p).defaults == adam
    decoupled = {"weight_decay": 1e-2, "decoupled_weight_decay": True}
    assert AdamW(p).defaults == {**adam, **decoupled}
    with pytest.raises(TypeError, match="multiple values for keyword argument 'decoupled_weight"):
        AdamW(p, decoupled_weight_decay=False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_minimises_a_quadratic(dtype):
    for optimizer_kind, options in [
        (SGD, {"momentum": 0.9}),
        (Adam, {}),
        (AdamW, {"weight_decay": 0}),
    ]:
        x = mg.tensor([3.0, -4.0], dtype=dtype, requires_grad=True)
        optimizer = optimizer_kind([x], lr=0.05, **options)
        for _ in range(400):
            optimizer.zero_grad()
            ((x - 1.0) ** 2).sum().backward()
            optimizer.step()
        np.testing.assert_allclose(x.numpy(), 1.0, atol=1e-3)


# ----------------------------------------------------------------------------------------- groups
def test_each_group_has_its_options():
    a, b, c = parameters()
    optimizer = SGD([{"params": [a], "lr": 0.5}, {"params": iter([b])}], lr=0.1)
    optimizer.add_param_group({"params": c, "lr": 0.0})
    assert [g["lr"] for g in optimizer.param_groups] == [0.5, 0.1, 0.0]
    before = [p.numpy(copy=True) for p in (a, b, c)]
    give_gradients((a, b, c), 0)
    optimizer.step()
    for p, old, lr in zip((a, b, c), before, [0.5, 0.1, 0.0], strict=False):
        np.testing.assert_allclose(p.numpy(), old - lr * p.grad.numpy(), rtol=1e-14)


def test_options_are_read_at_each_step():
    params, twin = parameters(), parameters()
    scheduled, formula = Adam(params, lr=0.1), Adam(twin, lr=0.02)
    scheduled.param_groups[0]["lr"] = np.float64(0.02)
    for a, b in zip(train(scheduled, params, 1), train(formula, twin, 1), strict=False):
        np.testing.assert_array_equal(a, b)
    scheduled.param_groups[0]["amsgrad"] = True  # its state is created when it is first needed
    train(scheduled, params, 1)
    assert "max_exp_avg_sq" in scheduled.state[params[0]]


def test_parameters_without_a_gradient_are_left_alone():
    params = parameters()
    frozen = mg.ones(2)
    optimizer = Adam([*params, frozen], weight_decay=0.1)
    before = params[0].numpy(copy=True)
    params[1].grad = mg.ones(5, dtype="float64")
    optimizer.step()
    np.testing.assert_array_equal(params[0].numpy(), before)
    assert set(map(id, optimizer.state)) == {id(params[1])} and frozen.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("kind", [Adam, AdamW, NAdam, RAdam])
def test_each_parameter_counts_its_own_steps(kind):
    """Parameters that joined at different steps behave as in separate optimisers."""
    together, alone = parameters(), parameters()
    optimizer, optimizers = kind(together, lr=0.1), [kind([p], lr=0.1) for p in alone]
    for step in range(4):
        give_gradients(together, step)
        give_gradients(alone, step)
        for late, (p, q) in enumerate(zip(together, alone, strict=True)):
            if step < late:
                p.grad = q.grad = None
        optimizer.step()
        for single in optimizers:
            single.step()
    for p, q in zip(together, alone, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())


def test_a_generator_of_parameters_and_a_parameter_of_size_0():
    optimizer = Adam(p for p in [mg.zeros((0, 3), requires_grad=True)])
    optimizer.param_groups[0]["params"][0].grad = mg.zeros((0, 3))
    optimizer.step()


# -------------------------------------------------------------------------------- the step itself
def test_zero_grad():
    params = parameters()
    optimizer = SGD(params)
    give_gradients(params[:2], 0)
    held = params[0].grad
    optimizer.zero_grad(set_to_none=False)
    assert (
        held.tolist() == [[0.0] * 4] * 3
        and params[0].grad.tolist() == held.tolist()
        and params[2].grad is None
    )
    optimizer.zero_grad()
    assert [p.grad for p in params] == [None] * 3


def test_zero_grad_drops_the_graph_of_a_gradient():
    x = mg.tensor([2.0], requires_grad=True)
    (x**3).sum().backward(create_graph=True)
    SGD([x]).zero_grad(set_to_none=False)
    assert not x.grad.requires_grad and x.grad.tolist() == [0.0]


def test_closure():
    x = mg.tensor([3.0], requires_grad=True)
    optimizer = SGD([x], lr=0.1)

    def closure():
        optimizer.zero_grad()
        loss = (x * x).sum()
        loss.backward()
        return loss

    with mg.no_grad():  # the closure records all the same
        loss = optimizer.step(closure)
    assert loss.item() == 9.0
    np.testing.assert_allclose(x.numpy(), [2.4], rtol=1e-6)
    assert optimizer.step() is None


def test_a_step_counts_as_a_write_and_records_nothing():
    x = mg.tensor([3.0], requires_grad=True)
    loss = (x * x).sum()
    x.grad = mg.ones(1)
    for optimizer in (SGD([x]), Adam([x])):
        version = x._version
        optimizer.step()
        assert x._version == version + 1 and x.is_leaf and x.requires_grad
    with pytest.raises(RuntimeError, match="written to in place"):
        loss.backward()


@pytest.mark.parametrize("kind", [SGD, Adam])
def test_arrays_that_are_not_contiguous(kind):
    storage = np.arange(12.0).reshape(3, 4)
    strided = mg.asarray(storage.T[::2])
    plain = mg.tensor(storage.T[::2])
    gradient = np.random.default_rng(0).normal(size=(3, 2)).T
    for p in (strided, plain):
        p.requires_grad_()
        p.grad = mg.asarray(gradient)
        assert not p.grad._array.flags.c_contiguous
        kind([p], lr=0.1).step()
    np.testing.assert_array_equal(strided.numpy(), plain.numpy())
    np.testing.assert_array_equal(storage.T[::2], plain.numpy())  # its own memory was written
    np.testing.assert_array_equal(storage[:, 1], np.arange(12.0).reshape(3, 4)[:, 1])


def test_a_read_only_parameter_raises_before_anything_changes():
    first = mg.ones(2, requires_grad=True)
    array = np.ones(2, np.float32)
    array.flags.writeable = False
    read_only = mg.asarray(array, requires_grad=True)
    for group in (first, read_only):
        group.grad = mg.ones(2)
    for optimizer in (
        SGD([first, read_only]),
        Adam([{"params": [first]}, {"params": [read_only]}]),
    ):
        with pytest.raises(
            ValueError, match=r"shape \(2,\) shares read-only memory .*create it from a copy"
        ):
            optimizer.step()
        assert first.tolist() == [1.0, 1.0]


def test_the_base_class_asks_for_a_rule():
    with pytest.raises(
        NotImplementedError, match="Optimizer: an optimiser must define update_rule"
    ):
        Optimizer(parameters(), {"lr": 1}).step()


def test_a_parameter_that_is_none():
    p = mg.ones(2, requires_grad=True)
    optimizer = mg.optim.SGD([p], lr=0.5)
    p.grad = mg.ones(2)
    optimizer.param_groups[0]["params"].append(None)
    with pytest.raises(TypeError, match="SGD: a parameter must be a Tensor, got None"):
        optimizer.step()
    assert p.tolist() == [1, 1]
    optimizer.zero_grad()
    assert p.grad is None


@pytest.mark.parametrize("shift", [0, 1, 2])
def test_a_gradient_in_the_memory_of_its_parameter(shift):
    memory = mg.tensor(np.arange(1.0, 43.0, dtype=np.float32))
    p = memory[shift : shift + 40].detach().requires_grad_()
    p.grad = memory[:40]
    expected = p.numpy() - np.float32(0.5) * p.grad.numpy()
    mg.optim.SGD([p], lr=0.5).step()
    np.testing.assert_array_equal(p.numpy(), expected)


# ------------------------------------------------------------------------------------ checkpoints
KINDS = [
    (SGD, {"momentum": 0.9, "dampening": 0.1}),
    (SGD, {}),
    (Adam, {"amsgrad": True}),
    (AdamW, {"lr": 0.01}),
]


@pytest.mark.parametrize("kind, options", KINDS)
@pytest.mark.parametrize("through_file", [False, True])
def test_a_checkpoint_continues_the_exact_trajectory(kind, options, through_file):
    params = parameters("float32")
    optimizer = kind(
        [{"params": params[:2], "weight_decay": 0.1}, {"params": params[2:]}], **options
    )
    train(optimizer, params, 3)
    values, checkpoint = [p.numpy(copy=True) for p in params], optimizer.state_dict()
    if through_file:
        file = io.BytesIO()
        save(checkpoint, file)
        checkpoint = load(file)
    expected = train(optimizer, params, 4, start=3)

    resumed = [mg.tensor(v, requires_grad=True) for v in values]
    other = kind([{"params": resumed[:2]}, {"params": resumed[2:]}], lr=7.0)
    other.load_state_dict(checkpoint)
    for a, b in zip(expected, train(other, resumed, 4, start=3), strict=False):
        np.testing.assert_array_equal(a, b)
    assert [g["weight_decay"] for g in other.param_groups] == [
        g["weight_decay"] for g in optimizer.param_groups
    ]


def test_state_dict_has_pytorchs_structure():
    params = parameters()
    optimizer = Adam([{"params": params[:2]}, {"params": params[2:], "lr": 0.1}], amsgrad=True)
    give_gradients(params[1:], 0)
    optimizer.step()
    state = optimizer.state_dict()
    assert list(state) == ["state", "param_groups"] and list(state["state"]) == [1, 2]
    assert list(state["state"][1]) == ["step", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"]
    assert state["state"][1]["step"] == 1 and state["state"][1]["exp_avg"].shape == (5,)
    assert [g["params"] for g in state["param_groups"]] == [[0, 1], [2]]
    assert state["param_groups"][1] == {**optimizer.defaults, "lr": 0.1, "params": [2]}


def test_state_is_copied_both_ways():
    params = parameters()
    optimizer = Adam(params)
    train(optimizer, params, 1)
    snapshot = optimizer.state_dict()
    held = snapshot["state"][0]["exp_avg"].numpy(copy=True)
    train(optimizer, params, 1, start=1)
    np.testing.assert_array_equal(snapshot["state"][0]["exp_avg"].numpy(), held)
    assert snapshot["state"][0]["step"] == 1

    other = Adam(params)
    other.load_state_dict(snapshot)
    train(other, params, 1)
    np.testing.assert_array_equal(snapshot["state"][0]["exp_avg"].numpy(), held)
    snapshot["param_groups"][0]["lr"] = 99
    assert other.param_groups[0]["lr"] == 1e-3


def test_loaded_state_takes_the_dtype_of_the_parameters():
    wide, narrow = parameters("float64"), parameters("float32")
    optimizer, other = Adam(wide), Adam(narrow)
    train(optimizer, wide, 1)
    other.load_state_dict(optimizer.state_dict())
    assert other.state[narrow[0]]["exp_avg"].dtype == np.float32
    train(other, narrow, 1)


CONVERTED = [
    (SGD, {"momentum": 0.9}),
    (SGD, {"momentum": 0.9, "dampening": 0.5, "nesterov": False}),
    (Adam, {"amsgrad": True}),
    (AdamW, {}),
    (NAdam, {}),
    (RMSprop, {"momentum": 0.9, "centered": True}),
    (Adagrad, {"initial_accumulator_value": 0.5, "lr_decay": 0.1}),
    (Lion, {}),
    (RAdam, {}),
    (Muon, {}),
    (ScheduleFreeSGD, {}),
    (ScheduleFreeAdamW, {"warmup_steps": 5}),
    (LBFGS, {"history_size": 3, "max_iter": 2}),
    (LBFGS, {"history_size": 3, "max_iter": 2, "line_search_fn": "strong_wolfe"}),
]


def arrays(state):
    for value in state.values():
        yield from value if isinstance(value, list) else [value]


@pytest.mark.parametrize("kind, options", CONVERTED)
@pytest.mark.parametrize("dtypes", [("float32", "float64"), ("float64", "float32")])
def test_state_follows_a_parameter_that_is_converted(kind, options, dtypes):
    """Like an optimiser that loaded the converted state from a checkpoint."""

    def steps(net, optimizer, count):
        x = mg.tensor(np.linspace(-1, 1, 12).reshape(4, 3), dtype=net.weight.dtype)

        def closure():
            optimizer.zero_grad()
            loss = ((net(x) - 1.0) ** 2).sum()
            loss.backward()
            return loss

        for _ in range(count):
            optimizer.step(closure)

    first, second = dtypes
    net = mg.nn.Linear(3, 2, bias=kind is not Muon).to(first)
    optimizer = kind(net.parameters(), lr=0.01, **options)
    steps(net, optimizer, 3)
    net.to(second)
    twin = copy.deepcopy(net)
    other = kind(twin.parameters(), lr=0.01, **options)
    other.load_state_dict(optimizer.state_dict())
    steps(net, optimizer, 2)
    steps(twin, other, 2)
    for p, q in zip(net.parameters(), twin.parameters(), strict=True):
        assert p.dtype == second and np.isfinite(p.numpy()).all()
        np.testing.assert_array_equal(p.numpy(), q.numpy())
        mine, theirs = optimizer.state.get(p, {}), other.state.get(q, {})
        assert mine.keys() == theirs.keys() and (mine or p is net.bias)
        for a, b in zip(arrays(mine), arrays(theirs), strict=True):
            if isinstance(a, np.ndarray):
                assert a.dtype == b.dtype == second
            np.testing.assert_array_equal(a, b)
    net.to(first)
    steps(net, optimizer, 1)
    for state in optimizer.state.values():
        assert {a.dtype for a in arrays(state) if isinstance(a, np.ndarray)} <= {np.dtype(first)}


def test_a_state_that_cannot_follow_changes_nothing():
    params = parameters()
    optimizer = Adam(params)
    train(optimizer, params, 1)
    optimizer.state[params[2]]["exp_avg"] = np.ones((), dtype=int)
    give_gradients(params, 1)
    before = [p.numpy(copy=True) for p in params]
    with pytest.raises(ValueError, match="exp_avg must be a writable C-contiguous float64 array"):
        optimizer.step()
    for p, old in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.numpy(), old)


NUMBERS = {
    "float32": np.float32,
    "float64": np.float64,
    "an array": np.array,
    "a tensor": mg.tensor,
    "a tensor of float64": lambda value: mg.tensor(value, dtype="float64"),
}


@pytest.mark.parametrize(
    "kind", [SGD, Adam, AdamW, NAdam, RAdam, RMSprop, Adagrad, Lion, LBFGS, Muon, ScheduleFreeAdamW]
)
@pytest.mark.parametrize("number", NUMBERS)
def test_options_are_kept_as_python_numbers(kind, number):
    make = NUMBERS[number]

    def check(optimizer):
        for group in optimizer.param_groups:
            kinds = {type(v) for o in group if o != "params" for v in flat(group[o])}
            assert kinds <= {int, float, bool, type(None)}
        file = io.BytesIO()
        save(optimizer.state_dict(), file)
        file.seek(0)
        other = kind([{"params": g["params"]} for g in optimizer.param_groups])
        other.load_state_dict(load(file))
        for a, b in zip(optimizer.param_groups, other.param_groups, strict=True):
            assert {**a, "params": 0} == {**b, "params": 0}

    def flat(value):
        return value if isinstance(value, (tuple, list)) else [value]

    plain = kind([mg.ones((1, 1), requires_grad=True)]).defaults
    options = {name: make(0.5) for name, v in plain.items() if type(v) is float or name == "lr"}
    options |= {name: (make(0.5), make(0.25)) for name in plain if name == "betas"}
    counts = ("max_iter", "history_size", "ns_steps", "warmup_steps")
    options |= {name: np.int64(3) for name in plain if name in counts}
    options |= {name: np.bool_(True) for name in plain if name in ("maximize", "amsgrad")}
    p = mg.ones((2, 1), requires_grad=True)
    optimizer = kind([p], **options)
    check(optimizer)
    assert optimizer.param_groups[0]["lr"] == 0.5 == optimizer.defaults["lr"]
    optimizer.param_groups[0]["lr"] = np.float32(0.25)  # as a user's schedule may
    loaded = kind([p])
    loaded.load_state_dict(optimizer.state_dict())
    check(loaded)
    if kind is not LBFGS:
        optimizer.param_groups[0]["lr"] = 0.5
        late = mg.ones((1, 1), requires_grad=True)
        optimizer.add_param_group({"params": late, "lr": make(0.125)})
        check(optimizer)
        assert optimizer.param_groups[1]["lr"] == 0.125


def test_a_checkpoint_with_numbers_of_numpy_loads():
    p = mg.ones(2, requires_grad=True)
    state = Adam([p]).state_dict()
    state["param_groups"][0] |= {"lr": np.float32(0.5), "betas": [np.array(0.5), mg.tensor(0.25)]}
    optimizer = Adam([p])
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["betas"] == [0.5, 0.25]
    assert type(optimizer.param_groups[0]["lr"]) is float


def edited(edit):
    def apply(state):
        state = copy.deepcopy(state)
        edit(state)
        return state

    return apply


MISFITS = {
    "expected a dict with 'state' and 'param_groups'": lambda state: state["state"],
    "has 2 parameter groups, this optimiser has 1": edited(
        lambda s: s["param_groups"].append(s["param_groups"][0])
    ),
    "group 0 has 2 parameters there, 3 here": edited(
        lambda s: s["param_groups"][0]["params"].pop()
    ),
    "group 0 lacks betas, eps": edited(
        lambda s: [s["param_groups"][0].pop(k) for k in ("betas", "eps")]
    ),
    "Invalid learning rate: -1": edited(lambda s: s["param_groups"][0].update(lr=-1)),
    "parameter 7, which is in none": edited(lambda s: s["state"].update({7: {}})),
    "the state of parameter 1 lacks exp_avg_sq": edited(lambda s: s["state"][1].pop("exp_avg_sq")),
    "the state of parameter 0 lacks step": edited(lambda s: s["state"][0].pop("step")),
    "the state of parameter 1 must be a dict, got NoneType": edited(
        lambda s: s["state"].update({1: None})
    ),
    "step of parameter 1 must consist of numbers, got 'a'": edited(
        lambda s: s["state"][1].update(step="a")
    ),
    "exp_avg of parameter 2 must consist of numbers, got 'a'": edited(
        lambda s: s["state"][2].update(exp_avg="a")
    ),
    "step of parameter 1 must be an int >= 0, got -5": edited(
        lambda s: s["state"][1].update(step=-5)
    ),
    "step of parameter 1 must be an int >= 0, got array": edited(
        lambda s: s["state"][1].update(step=mg.tensor([1.0, 2.0]))
    ),
    "step of parameter 1 must be an int >= 0, got nan": edited(
        lambda s: s["state"][1].update(step=float("nan"))
    ),
    "'state' must be a dict and 'param_groups' a list": edited(lambda s: s.update(state=None)),
    "'param_groups' a list; nothing": edited(lambda s: s.update(param_groups=None)),
    "group 0 must be a dict with a list of 'params'": edited(
        lambda s: s.update(param_groups=[None])
    ),
    "group 0 must be a dict with a list": edited(lambda s: s["param_groups"][0].update(params=3)),
    r"exp_avg of parameter 1 has shape \(2,\), the parameter has \(5,\)": edited(
        lambda s: s["state"][1].update(exp_avg=mg.ones(2))
    ),
}


@pytest.mark.parametrize("message", MISFITS)
def test_a_dict_that_does_not_fit_changes_nothing(message):
    params = parameters()
    optimizer = Adam(params, lr=0.5)
    train(optimizer, params, 1)
    before, groups = optimizer.state_dict(), copy.copy(optimizer.param_groups)
    good = Adam(params, lr=0.25)
    good.load_state_dict(before | {"param_groups": good.state_dict()["param_groups"]})
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(MISFITS[message](good.state_dict()))
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"] and optimizer.param_groups == groups
    for index, state in before["state"].items():
        assert all(
            np.array_equal(np.asarray(v), np.asarray(after["state"][index][k]))
            for k, v in state.items()
        )


def test_options_that_others_wrote_into_a_group_are_kept():
    params = parameters()
    optimizer = SGD(params)
    optimizer.param_groups[0]["initial_lr"] = 0.1
    other = SGD(params)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["initial_lr"] == 0.1


def test_an_optimiser_can_be_copied():
    params = parameters()
    optimizer = Adam(params)
    train(optimizer, params, 1)
    params_copy, twin = copy.deepcopy((params, optimizer))
    for a, b in zip(train(optimizer, params, 2), train(twin, params_copy, 2), strict=False):
        np.testing.assert_array_equal(a, b)


# -------------------------------------------------------------------------------- what is refused
def x():
    return mg.ones(2, requires_grad=True)


def matrix():
    return mg.ones((2, 3), requires_grad=True)


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: SGD([]), ValueError, "SGD: got an empty parameter list"),
        (lambda: Adam(iter([])), ValueError, "Adam: got an empty parameter list"),
        (
            lambda: SGD(x()),
            TypeError,
            r"ordered iterable of Tensors.* got Tensor; pass model.parameters\(\), or \[x\]",
        ),
        (lambda: SGD({x()}), TypeError, "got set"),
        (lambda: SGD({"params": [x()]}), TypeError, "got dict"),
        (lambda: SGD(None), TypeError, "got NoneType"),
        (
            lambda: SGD([x(), mg.tensor([1, 2])]),
            TypeError,
            "SGD: parameter 1 of group 0 is int64, but only float32 and float64 can be optimised",
        ),
        (lambda: Adam([mg.tensor([True])]), TypeError, "Adam: parameter 0 of group 0 is bool"),
        (lambda: SGD([1.0]), TypeError, "parameter 0 of group 0 must be a Tensor, got float"),
        (
            lambda: SGD([x(), ("name", x())]),
            TypeError,
            r"parameter 1 .* got tuple; pass model.parameters\(\), not the model or named",
        ),
        (
            lambda: SGD([x() * 2]),
            ValueError,
            "parameter 0 of group 0 is not a leaf but the output of <multiply>",
        ),
        (
            lambda: SGD([x()] * 2),
            ValueError,
            "parameter 1 of group 0 occurs in the parameter groups twice",
        ),
        (
            lambda: SGD([{"params": [x()]}, x()]),
            TypeError,
            "a parameter group is a dict, got Tensor",
        ),
        (
            lambda: SGD([{"parms": [x()]}]),
            ValueError,
            r"a parameter group needs 'params', got keys \['parms'\]",
        ),
        (lambda: SGD([{"params": {x()}}]), TypeError, r"ordered iterable of Tensors.* got set"),
        (lambda: SGD([{"params": 3}]), TypeError, r"ordered iterable of Tensors.* got int"),
        (
            lambda: SGD([{"params": [x()], "momentun": 1}]),
            TypeError,
            "unknown option 'momentun'; known are params, lr",
        ),
        (
            lambda: SGD([x()], betas=(0, 0)),
            TypeError,
            "SGD: unknown option 'betas'; known are lr, momentum, damp",
        ),
        (
            lambda: AdamW([x()], fused=True, foo=1),
            TypeError,
            "AdamW: unknown option 'fused', 'foo'; known are lr, betas",
        ),
        (
            lambda: SGD([x()], lr=-1),
            ValueError,
            r"SGD: Invalid learning rate: -1; give a number in \[0, inf\)",
        ),
        (lambda: SGD([x()], lr=float("nan")), ValueError, "Invalid learning rate: nan"),
        (
            lambda: SGD([x()], lr="0.1"),
            TypeError,
            "the learning rate must be a number, got str '0.1'",
        ),
        (lambda: SGD([x()], momentum=-0.1), ValueError, "Invalid momentum value: -0.1"),
        (lambda: SGD([x()], weight_decay=-1), ValueError, "Invalid weight_decay value: -1"),
        (
            lambda: SGD([x()], nesterov=True),
            ValueError,
            "Nesterov momentum requires a momentum and zero dampening",
        ),
        (
            lambda: SGD([x()], momentum=1, dampening=1, nesterov=True),
            ValueError,
            "zero dampening, got momentum=1",
        ),
        (lambda: Adam([x()], lr=-1), ValueError, "Adam: Invalid learning rate: -1"),
        (lambda: Adam([x()], eps=-1), ValueError, "Invalid epsilon value: -1"),
        (
            lambda: AdamW([x()], weight_decay=-1),
            ValueError,
            "AdamW: Invalid weight_decay value: -1",
        ),
        (
            lambda: Adam([x()], betas=(1.0, 0.9)),
            ValueError,
            r"beta parameter at index 0: 1.0; give .* \[0, 1\)",
        ),
        (lambda: Adam([x()], betas=(0.9, -1)), ValueError, "Invalid beta parameter at index 1: -1"),
        (
            lambda: Adam([x()], betas=0.9),
            TypeError,
            r"betas must be a pair of numbers such as \(0.9, 0.999\), got 0.9",
        ),
        (lambda: Adam([{"params": [x()], "lr": -2}]), ValueError, "Invalid learning rate: -2"),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    "kind, name",
    [
        *((kind, "maximize") for kind in (Adagrad, Lion, Muon, ScheduleFreeSGD, mg.optim.LBFGS)),
        *((SGD, "nesterov"), (Muon, "nesterov"), (AdamW, "amsgrad"), (RMSprop, "centered")),
        *((kind, "decoupled_weight_decay") for kind in (Adam, NAdam, RAdam)),
    ],
)
def test_options_that_are_true_or_false(kind, name):
    weight = mg.ones((2, 2), requires_grad=True)
    message = f"{kind.__name__}: {name} must be True or False, got 'no'"
    with pytest.raises(TypeError, match=message):
        kind([weight], **{name: "no"})
    with pytest.raises(TypeError, match=message):
        kind([{"params": weight, name: "no"}], **{name: False})


def test_weight_decay_may_be_decoupled_in_one_group():
    x, y = (mg.tensor([1.0], requires_grad=True) for _ in range(2))
    groups = [{"params": x}, {"params": y, "decoupled_weight_decay": True}]
    optimizer = Adam(groups, lr=0.25, weight_decay=1.0)
    for each in (x, y):
        each.grad = mg.zeros(1)
    optimizer.step()
    assert (x.item(), y.item()) == (0.75, 0.75)  # as Adam's first step, and by 1 - lr decay
    optimizer.step()
    assert y.item() == 0.75**2 and x.item() != y.item()
    state = optimizer.state_dict()
    del state["param_groups"][1]["decoupled_weight_decay"]  # as in an old checkpoint
    optimizer.load_state_dict(state)
    assert optimizer.param_groups[1]["decoupled_weight_decay"]


def test_a_refused_group_is_not_added():
    a, b = x(), x()
    optimizer = SGD([a])
    for group in (
        {"params": [b, a]},
        {"params": [b], "lr": -1},
        {"params": [b], "foo": 1},
        {"params": [b, b * 2]},
    ):
        with pytest.raises((TypeError, ValueError)):
            optimizer.add_param_group(group)
    assert len(optimizer.param_groups) == 1
    group = {"params": [b]}
    optimizer.add_param_group(group)
    assert group == {"params": [b]} and len(optimizer.param_groups) == 2


def test_repr():
    text = repr(SGD([{"params": [x()]}, {"params": [x(), x()], "lr": 0.5}]))
    assert (
        text.startswith("SGD(\n  group 0: 1 parameters, lr=0.001")
        and "group 1: 2 parameters, lr=0.5" in text
    )


# ----------------------------------------------- the others: formulas of the papers, with NumPy
def nadam_formula(p, gradients, lr, betas, eps, weight_decay, decay, decoupled, maximize):
    """Dozat 2016, algorithm 2, with mu_t = beta1 (1 - 0.96^(t decay) / 2)."""
    m, v, product = np.zeros_like(p), np.zeros_like(p), 1.0
    for t, g in enumerate(gradients, 1):
        g = -g if maximize else g
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            g = g + weight_decay * p
        mu, mu_next = (betas[0] * (1 - 0.5 * 0.96 ** (k * decay)) for k in (t, t + 1))
        product *= mu
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat = mu_next * m / (1 - product * mu_next) + (1 - mu) * g / (1 - product)
        p = p - lr * m_hat / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return p


def rmsprop_formula(p, gradients, lr, alpha, eps, weight_decay, momentum, centered, maximize):
    """Tieleman & Hinton 2012; centered as in Graves 2013, except for the place of eps."""
    square, mean, velocity = np.zeros_like(p), np.zeros_like(p), np.zeros_like(p)
    for g in gradients:
        g = (-g if maximize else g) + weight_decay * p
        square = alpha * square + (1 - alpha) * g**2
        mean = alpha * mean + (1 - alpha) * g
        variance = square - mean**2 if centered else square
        velocity = momentum * velocity + g / (np.sqrt(variance) + eps)
        p = p - lr * velocity
    return p


def adagrad_formula(p, gradients, lr, lr_decay, weight_decay, start, eps, maximize):
    """Duchi, Hazan & Singer 2011, figure 1, diagonal."""
    total = np.full_like(p, start)
    for t, g in enumerate(gradients):
        g = (-g if maximize else g) + weight_decay * p
        total = total + g**2
        p = p - lr / (1 + t * lr_decay) * g / (np.sqrt(total) + eps)
    return p


def lion_formula(p, gradients, lr, betas, weight_decay, maximize):
    """Chen et al. 2023, algorithm 2."""
    m = np.zeros_like(p)
    for g in gradients:
        g = -g if maximize else g
        p = p - lr * (np.sign(betas[0] * m + (1 - betas[0]) * g) + weight_decay * p)
        m = betas[1] * m + (1 - betas[1]) * g
    return p


def radam_formula(p, gradients, lr, betas, eps, weight_decay, decoupled, maximize):
    """Liu et al. 2020, algorithm 2, with eps; the threshold of rho is PyTorch's 5, not 4."""
    m, v = np.zeros_like(p), np.zeros_like(p)
    longest = 2 / (1 - betas[1]) - 1
    for t, g in enumerate(gradients, 1):
        g = -g if maximize else g
        if decoupled:
            p = p - lr * weight_decay * p
        else:
            g = g + weight_decay * p
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat = m / (1 - betas[0] ** t)
        length = longest - 2 * t * betas[1] ** t / (1 - betas[1] ** t)
        if length > 5:
            adaptive = np.sqrt(1 - betas[1] ** t) / (np.sqrt(v) + eps)
            r = (length - 4) / (longest - 4) * (length - 2) / (longest - 2) * longest / length
            p = p - lr * np.sqrt(r) * m_hat * adaptive
        else:
            p = p - lr * m_hat
    return p


def schedule_free_formula(
    p, gradients, lr, betas, eps, weight_decay, warmup, r, power, maximize, evaluate
):
    """Defazio et al. 2024, algorithm 1, with x, y and z; without eps it is SGD."""
    x, y, z, v = p, p, p, np.zeros_like(p)
    total, largest = 0.0, 0.0
    for t, g in enumerate(gradients, 1):
        rate = lr * min(1, t / warmup) if warmup else lr
        d = -g if maximize else g
        if eps is not None:
            v = betas[1] * v + (1 - betas[1]) * g**2
            d = d / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
        z = z - rate * (d + weight_decay * y)
        largest = max(largest, rate)
        weight = t**r * largest**power
        total += weight
        x = x + (z - x) * weight / total
        y = (1 - betas[0]) * z + betas[0] * x
    return x if evaluate else y


OTHERS = [
    (
        lambda params, betas, wd, decoupled, maximize: RAdam(
            params, 0.1, betas, 1e-3, wd, decoupled, maximize=maximize
        ),
        lambda p, g, betas, *rest: radam_formula(p, g, 0.1, betas, 1e-3, *rest),
        [
            ((0.9, 0.999), 0, False, False),
            ((0.8, 0.95), 0.1, False, True),
            ((0.8, 0.95), 0.1, True, False),
            ((0.5, 0.6), 0.1, False, False),  # never rectified
            ((0.0, 0.0), 0, False, False),
        ],
    ),
    (
        lambda params, momentum, *rest: ScheduleFreeSGD(
            params, 0.5, momentum, *rest[:-1], maximize=rest[-1]
        ),
        lambda p, g, momentum, *rest: schedule_free_formula(
            p, g, 0.5, (momentum, 0), None, *rest, evaluate=False
        ),
        [(0.9, 0, 0, 0, 2, False), (0.5, 0.1, 3, 0.5, 1, True), (0.9, 0.1, 200, 1, 0, False)],
    ),
    (
        lambda params, betas, *rest: ScheduleFreeAdamW(
            params, 0.1, betas, 1e-3, *rest[:-1], maximize=rest[-1]
        ),
        lambda p, g, betas, *rest: schedule_free_formula(
            p, g, 0.1, betas, 1e-3, *rest, evaluate=False
        ),
        [
            ((0.9, 0.999), 0, 0, 0, 2, False),
            ((0.5, 0.9), 0.1, 3, 0.5, 1, True),
            ((0.9, 0.0), 0.1, 200, 1, 0, False),
        ],
    ),
    (
        lambda params, decay, wd, decoupled, maximize: NAdam(
            params, 0.1, (0.8, 0.95), 1e-3, wd, decay, decoupled, maximize=maximize
        ),
        lambda p, g, *rest: nadam_formula(
            p, g, 0.1, (0.8, 0.95), 1e-3, rest[1], rest[0], *rest[2:]
        ),
        [
            (4e-3, 0, False, False),
            (0.1, 0.1, False, True),
            (0.1, 0.1, True, False),
            (0, 0, False, False),
        ],
    ),
    (
        lambda params, *rest: RMSprop(params, 0.1, *rest[:-1], maximize=rest[-1]),
        lambda p, g, *rest: rmsprop_formula(p, g, 0.1, *rest),
        [
            (0.9, 1e-3, 0, 0, False, False),
            (0.5, 1e-3, 0.1, 0.9, False, True),
            (0.5, 1e-3, 0, 0, True, False),
            (0.5, 1e-3, 0.1, 0.9, True, True),
        ],
    ),
    (
        lambda params, *rest: Adagrad(params, 0.1, *rest[:-1], maximize=rest[-1]),
        lambda p, g, *rest: adagrad_formula(p, g, 0.1, *rest),
        [(0, 0, 0, 1e-10, False), (0.5, 0.1, 0.25, 1e-3, True)],
    ),
    (
        lambda params, betas, wd, maximize: Lion(params, 0.1, betas, wd, maximize=maximize),
        lambda p, g, *rest: lion_formula(p, g, 0.1, *rest),
        [((0.9, 0.99), 0, False), ((0.5, 0.8), 0.1, True), ((0.0, 0.0), 0.1, False)],
    ),
]
FORMULAS = [(make, formula, options) for make, formula, every in OTHERS for options in every]


@pytest.mark.parametrize("steps", [1, 5, 100])
@pytest.mark.parametrize("make, formula, options", FORMULAS)
def test_the_others_are_their_formulas(make, formula, options, steps):
    params = parameters()
    starts = [p.numpy(copy=True) for p in params]
    optimizer = make(params, *options)
    gradients = []
    for step in range(steps):
        give_gradients(params, step)
        gradients.append([p.grad.numpy(copy=True) for p in params])
        optimizer.step()
    for i, (p, start) in enumerate(zip(params, starts, strict=True)):
        expected = formula(start, [g[i] for g in gradients], *options)
        np.testing.assert_allclose(p.numpy(), expected, rtol=1e-9, atol=1e-11)


ALL = [
    (SGD, {"lr": 0.1, "momentum": 0.9}),
    (Adam, {"lr": 0.1, "amsgrad": True}),
    (AdamW, {"lr": 0.1}),
    (NAdam, {"lr": 0.1}),
    (RMSprop, {"lr": 0.1, "momentum": 0.9, "centered": True, "eps": 1e-3}),
    (Adagrad, {"lr": 0.1, "lr_decay": 0.1}),
    (Lion, {"lr": 0.1, "weight_decay": 0.1}),
    (RAdam, {"lr": 0.1}),
    (Muon, {"lr": 0.1}),
    (ScheduleFreeSGD, {"lr": 0.1}),
    (ScheduleFreeAdamW, {"lr": 0.1, "warmup_steps": 5, "weight_decay": 0.1}),
]


@pytest.mark.parametrize("kind, options", ALL)
def test_float32_follows_float64(kind, options):
    narrow, wide = parameters("float32", kind=kind), parameters("float64", kind=kind)
    results = [train(kind(params, **options), params, 20) for params in (narrow, wide)]
    for a, b in zip(*results, strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4)


def test_defaults_of_the_others():
    p = parameters()
    adam = {"betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0, "maximize": False}
    decay = {"momentum_decay": 4e-3, "decoupled_weight_decay": False}
    assert NAdam(p).defaults == {"lr": 2e-3, **adam, **decay}
    assert RMSprop(p).defaults == {
        "lr": 1e-2,
        "momentum": 0,
        "alpha": 0.99,
        "eps": 1e-8,
        "centered": False,
        "weight_decay": 0,
        "maximize": False,
    }
    assert Adagrad(p).defaults == {
        "lr": 1e-2,
        "lr_decay": 0,
        "eps": 1e-10,
        "weight_decay": 0,
        "initial_accumulator_value": 0,
        "maximize": False,
    }
    lion = {"lr": 1e-4, "betas": (0.9, 0.99), "weight_decay": 0, "maximize": False}
    assert Lion(p).defaults == lion


@pytest.mark.parametrize("kind, options", ALL)
def test_a_checkpoint_of_each_continues_the_exact_trajectory(kind, options):
    params = parameters("float32", kind=kind)
    optimizer = kind(params, **options)
    train(optimizer, params, 3)
    file = io.BytesIO()
    save(optimizer.state_dict(), file)
    values = [p.numpy(copy=True) for p in params]
    expected = train(optimizer, params, 4, start=3)
    resumed = [mg.tensor(v, requires_grad=True) for v in values]
    other = kind(resumed, lr=7.0)
    file.seek(0)
    other.load_state_dict(load(file))
    for a, b in zip(expected, train(other, resumed, 4, start=3), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "kind, options, names",
    [
        (SGD, {}, None),
        (SGD, {"momentum": 0.9}, ["momentum_buffer"]),
        (NAdam, {}, ["step", "mu_product", "exp_avg", "exp_avg_sq"]),
        (RMSprop, {}, ["step", "square_avg"]),
        (RMSprop, {"momentum": 0.9}, ["step", "square_avg", "momentum_buffer"]),
        (RMSprop, {"centered": True}, ["step", "square_avg", "grad_avg"]),
        (Adagrad, {}, ["step", "sum"]),
        (Lion, {}, ["exp_avg"]),
        (RAdam, {}, ["step", "exp_avg", "exp_avg_sq"]),
        (Muon, {}, ["momentum_buffer"]),
        (ScheduleFreeSGD, {}, ["z"]),
        (ScheduleFreeAdamW, {}, ["z", "exp_avg_sq"]),
    ],
)
def test_state_has_pytorchs_names(kind, options, names):
    params = parameters(kind=kind)
    optimizer = kind(params, **options)
    train(optimizer, params, 2)
    state = optimizer.state_dict()["state"]
    if names is None:
        assert state == {}
        return
    assert list(state) == [0, 1, 2] and list(state[1]) == names
    assert state[1].get("step", 2) == 2 and type(state[1].get("step", 2)) is int
    assert all(state[0][n].shape == (3, 4) for n in names if n not in ("step", "mu_product"))


@pytest.mark.parametrize("kind, options", ALL)
def test_each_writes_where_the_parameter_lies_and_counts_it(kind, options):
    storage = np.arange(12.0).reshape(3, 4)
    strided, plain = mg.asarray(storage.T[::2]), mg.tensor(storage.T[::2])
    empty, unused = mg.zeros((0, 3)), mg.ones(2, 1)
    for p in (strided, plain, empty):
        p.requires_grad_()
        p.grad = mg.ones(p.shape, dtype=p.dtype)
    versions = [p._version for p in (strided, plain, unused)]
    optimizer = kind([strided, plain, empty, unused], **options)
    optimizer.step()
    optimizer.step()
    np.testing.assert_array_equal(storage.T[::2], plain.numpy())
    np.testing.assert_array_equal(storage[:, 1], np.arange(12.0).reshape(3, 4)[:, 1])
    assert [p._version for p in (strided, plain, unused)] == [v + 2 for v in versions[:2]] + [
        versions[2]
    ]
    assert id(unused) not in map(id, optimizer.state) and unused.tolist() == [[1.0]] * 2


@pytest.mark.parametrize("kind, options", [*ALL, (LBFGS, {})])
def test_read_only_parameters_stop_each_before_it_writes(kind, options):
    first, array = mg.ones((2, 1), requires_grad=True), np.ones((2, 1), np.float32)
    array.flags.writeable = False
    read_only = mg.asarray(array, requires_grad=True)
    for p in (first, read_only):
        p.grad = mg.ones(2, 1)
    optimizer = kind([first, read_only], **options)
    before = optimizer.state_dict()
    with pytest.raises(ValueError, match=rf"{kind.__name__}: a parameter of shape \(2, 1\) shares"):
        optimizer.step(lambda: 1.0)
    assert first.tolist() == [[1.0]] * 2 and not optimizer.state
    assert optimizer.state_dict() == before


@pytest.mark.parametrize(
    "damage, error, message",
    [
        (lambda s: s.update(exp_avg=np.zeros(3)), ValueError, "exp_avg must be .* 5 elements"),
        (lambda s: s.update(exp_avg_sq=np.zeros(5, np.float32)), ValueError, "float64 array"),
        (lambda s: s.update(exp_avg=np.zeros((5, 2))[:, 0]), ValueError, "C-contiguous"),
        (lambda s: s.update(exp_avg=[0.0] * 5), TypeError, "exp_avg must be an array, got list"),
        (lambda s: s.update(step="three"), TypeError, "must be real number"),
    ],
)
def test_a_damaged_state_changes_nothing(damage, error, message):
    params = parameters()
    optimizer = Adam([{"params": params[:1]}, {"params": params[1:]}])
    train(optimizer, params, 1)
    damage(optimizer.state[params[1]])
    before = [p.numpy(copy=True) for p in params]
    moment = optimizer.state[params[0]]["exp_avg"].copy()
    give_gradients(params, 1)
    with pytest.raises(error, match=message):
        optimizer.step()
    for p, old in zip(params, before, strict=True):
        np.testing.assert_array_equal(p.numpy(), old)
    assert optimizer.state[params[0]]["step"] == 1
    np.testing.assert_array_equal(optimizer.state[params[0]]["exp_avg"], moment)


def test_rules_of_ones_own_may_call_the_compiled_ones():
    class Clipped(Adam):
        def update_rule(self, group):
            adam = super().update_rule(group)

            def update(parameter, gradient, state):
                adam(parameter, np.asarray(gradient.clip(-0.1, 0.1)), state)

            return update

    params, twin = parameters(), parameters()
    clipped, plain = Clipped(params, lr=0.1), Adam(twin, lr=0.1)
    for step in range(3):
        give_gradients(params, step)
        for p, q in zip(params, twin, strict=True):
            q.grad = mg.tensor(p.grad.numpy().clip(-0.1, 0.1))
        clipped.step()
        plain.step()
    for p, q in zip(params, twin, strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())
    assert clipped.state[params[0]]["step"] == 3


def test_compiled_rules_check_what_they_get():
    options = Adam([mg.ones(1)]).defaults
    with pytest.raises(ValueError, match="Adam: expected 4 names, got 1"):
        Update("Adam", ("step",), options)
    with pytest.raises(KeyError, match="Adamant"):
        Update("Adamant", (), options)
    with pytest.raises(TypeError, match="Lion: maximize must be a number, got 'yes'"):
        Update("Lion", ("exp_avg",), {"lr": 1.0, "betas": (0.9, 0.99), "maximize": "yes"})
    rule = Update("SGD", (None,), {"lr": 1.0})
    array = np.ones(3)
    rule(array, np.ones(3), {})
    assert array.tolist() == [0.0] * 3
    with pytest.raises(TypeError, match="expected float32 or float64, got int64"):
        rule(np.ones(3, np.int64), np.ones(3, np.int64), {})
    with pytest.raises(ValueError, match="the gradient must be a C-contiguous float64 array of 3"):
        rule(array, np.ones(4), {})


def test_steps_run_beside_other_threads():
    """Large loops release the GIL to other threads, each on its own parameters."""
    from threading import Thread

    def work(size, results):
        p = mg.tensor(np.linspace(-1, 1, size), requires_grad=True)
        optimizer = Adam([p], lr=0.01)
        for _ in range(20):
            p.grad = mg.asarray(p.numpy(copy=True))
            optimizer.step()
        results.append(p.numpy(copy=True))

    alone, together = [], []
    work(50_000, alone)
    threads = [Thread(target=work, args=(50_000, together)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(together) == 4
    for result in together:
        np.testing.assert_array_equal(result, alone[0])


def test_lion_moves_by_the_sign():
    p = mg.tensor([1.0, 1.0, 1.0, 1.0], requires_grad=True)
    p.grad = mg.tensor([1e-30, -5.0, 0.0, float("nan")])
    Lion([p], lr=0.25).step()
    np.testing.assert_array_equal(p.numpy(), np.float32([0.75, 1.25, 1.0, np.nan]))


def test_centered_rmsprop_has_no_root_of_a_negative_variance():
    for dtype in ("float32", "float64"):
        p = mg.tensor(np.full(50, 1.0), dtype=dtype, requires_grad=True)
        optimizer = RMSprop([p], lr=1e-3, alpha=0.9, centered=True, eps=1.0)
        gradient = mg.tensor(np.linspace(0.1, 7.3, 50), dtype=dtype)
        for _ in range(500):  # constant: the variance falls to rounding noise
            p.grad = gradient
            optimizer.step()
        assert np.isfinite(p.numpy()).all()
        p.grad = mg.tensor(np.full(50, np.nan), dtype=dtype)
        optimizer.step()
        assert np.isnan(p.numpy()).all()


def test_adam_can_decouple_its_decay_too():
    params, twin = parameters(), parameters()
    decoupled = Adam(params, 0.1, weight_decay=0.2, decoupled_weight_decay=True)
    for a, b in zip(
        train(decoupled, params, 3), train(AdamW(twin, 0.1, weight_decay=0.2), twin, 3), strict=True
    ):
        np.testing.assert_array_equal(a, b)
    fresh = Adam(params, 0.1)
    fresh.load_state_dict(decoupled.state_dict())
    assert fresh.param_groups[0]["decoupled_weight_decay"] is True


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: NAdam([x()], lr=-1), ValueError, "NAdam: Invalid learning rate: -1"),
        (lambda: NAdam([x()], momentum_decay=-1), ValueError, "Invalid momentum_decay value: -1"),
        (lambda: NAdam([x()], betas=(0.9, 1.0)), ValueError, "beta parameter at index 1: 1.0"),
        (lambda: NAdam([x()], amsgrad=True), TypeError, "NAdam: unknown option 'amsgrad'"),
        (lambda: RMSprop([x()], alpha=-0.1), ValueError, "RMSprop: Invalid alpha value: -0.1"),
        (lambda: RMSprop([x()], momentum=-1), ValueError, "RMSprop: Invalid momentum value: -1"),
        (lambda: RMSprop([x()], eps="a"), TypeError, "epsilon value must be a number, got str"),
        (lambda: RMSprop([x()], foreach=True), TypeError, "RMSprop: unknown option 'foreach'"),
        (lambda: Adagrad([x()], lr_decay=-1), ValueError, "Adagrad: Invalid lr_decay value: -1"),
        (
            lambda: Adagrad([x()], initial_accumulator_value=-1),
            ValueError,
            "Invalid initial_accumulator_value value: -1",
        ),
        (lambda: Lion([x()], betas=(0.9, 0.99, 0)), TypeError, "Lion: betas must be a pair"),
        (lambda: Lion([x()], weight_decay=-1), ValueError, "Lion: Invalid weight_decay value: -1"),
        (lambda: Lion([x()], eps=1), TypeError, "Lion: unknown option 'eps'; known are lr, betas"),
        (lambda: SGD([x()], dampening="a"), TypeError, "SGD: the dampening must be a number"),
        (lambda: RAdam([x()], lr=-1), ValueError, "RAdam: Invalid learning rate: -1"),
        (
            lambda: RAdam([x()], betas=(1, 0)),
            ValueError,
            "RAdam: Invalid beta parameter at index 0",
        ),
        (lambda: RAdam([x()], amsgrad=True), TypeError, "RAdam: unknown option 'amsgrad'"),
        (
            lambda: Muon([matrix(), x()]),
            ValueError,
            r"Muon: parameter 1 of group 0 has shape \(2,\), .* the others to AdamW",
        ),
        (lambda: Muon([matrix()], lr=-1), ValueError, "Muon: Invalid learning rate: -1"),
        (lambda: Muon([matrix()], momentum=-1), ValueError, "Muon: Invalid momentum value: -1"),
        (lambda: Muon([matrix()], ns_steps=100), ValueError, "ns_steps must be below 100, got 100"),
        (lambda: Muon([matrix()], ns_steps=2.5), TypeError, "Muon: ns_steps must be an int"),
        (lambda: Muon([matrix()], ns_coefficients=(1, 2)), TypeError, "must be three numbers"),
        (lambda: Muon([matrix()], ns_coefficients=(1, 2, "a")), TypeError, "a coefficient must be"),
        (lambda: Muon([matrix()], adjust_lr_fn="adam"), ValueError, "Muon: adjust_lr_fn must be"),
        (lambda: Muon([matrix()], betas=(0, 0)), TypeError, "Muon: unknown option 'betas'"),
        (lambda: ScheduleFreeSGD([x()], momentum=0), ValueError, "momentum must be greater than 0"),
        (lambda: ScheduleFreeSGD([x()], momentum=1), ValueError, "Invalid momentum: 1"),
        (lambda: ScheduleFreeSGD([x()], momentum="a"), TypeError, "momentum must be a number"),
        (lambda: ScheduleFreeSGD([x()], r=-1), ValueError, "ScheduleFreeSGD: Invalid r value: -1"),
        (lambda: ScheduleFreeSGD([x()], k=3), TypeError, "ScheduleFreeSGD: unknown option 'k'"),
        (
            lambda: ScheduleFreeAdamW([x()], betas=(0.0, 0.9)),
            ValueError,
            "ScheduleFreeAdamW: the momentum must be greater than 0: .* an AveragedModel instead",
        ),
        (
            lambda: ScheduleFreeAdamW([x()], warmup_steps=-1),
            ValueError,
            "ScheduleFreeAdamW: warmup_steps must be at least 0, got -1",
        ),
        (lambda: ScheduleFreeAdamW([x()], eps=-1), ValueError, "Invalid epsilon value: -1"),
    ],
)
def test_the_others_refuse(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_product_of_momenta_that_is_no_number_is_refused():
    params = parameters()
    optimizer = NAdam(params)
    train(optimizer, params, 1)
    state = optimizer.state_dict()
    state["state"][0]["mu_product"] = "a"
    with pytest.raises(ValueError, match="mu_product of parameter 0 must consist of numbers"):
        optimizer.load_state_dict(state)


# ------------------------------------------------------------------------------------------- Muon
def newton_schulz_of_singular_values(g, coefficients, steps, eps):
    """The same iteration on the singular values, which is all that it changes."""
    a, b, c = coefficients
    u, s, vt = np.linalg.svd(g, full_matrices=False)
    s = s / max(np.sqrt((s**2).sum()), eps)
    for _ in range(steps):
        s = a * s + b * s**3 + c * s**5
    return (u * s) @ vt


MUON_OPTIONS = [
    {},
    {"nesterov": False, "weight_decay": 0},
    {"momentum": 0.5, "adjust_lr_fn": "match_rms_adamw", "maximize": True},
    {"adjust_lr_fn": "original", "ns_steps": 3, "ns_coefficients": (2.0, -1.5, 0.5), "eps": 10.0},
]


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3), (1, 5)])
@pytest.mark.parametrize("options", MUON_OPTIONS)
def test_muon_is_the_formula(options, shape):
    rng = np.random.default_rng(3)
    p, m = rng.normal(size=shape), np.zeros(shape)
    x = mg.tensor(p, requires_grad=True)
    optimizer = Muon([x], lr=0.1, **options)
    group = optimizer.param_groups[0]
    beta, adjusted = group["momentum"], group["adjust_lr_fn"] == "match_rms_adamw"
    scale = 0.2 * np.sqrt(max(shape)) if adjusted else np.sqrt(max(1, shape[0] / shape[1]))
    for _ in range(5):
        g = rng.normal(size=shape)
        x.grad = mg.tensor(g)
        optimizer.step()
        g = -g if group["maximize"] else g
        m = beta * m + (1 - beta) * g
        step = beta * m + (1 - beta) * g if group["nesterov"] else m
        orthogonal = newton_schulz_of_singular_values(
            step, group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        p = p - 0.1 * group["weight_decay"] * p - 0.1 * scale * orthogonal
        np.testing.assert_allclose(x.numpy(), p, rtol=1e-10, atol=1e-12)


def test_muon_makes_steps_nearly_orthogonal():
    rng = np.random.default_rng(0)
    x = mg.zeros((20, 30), dtype="float64", requires_grad=True)
    x.grad = mg.tensor(rng.normal(size=(20, 30)) * np.geomspace(1, 10, 30))
    Muon([x], lr=1.0).step()
    values = np.linalg.svd(x.numpy(), compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.25


def test_muon_takes_a_gradient_of_zero_and_empty_matrices():
    params = [mg.ones(shape, requires_grad=True) for shape in ((2, 3), (3, 0), (0, 3))]
    for p in params:
        p.grad = mg.zeros(p.shape)
    Muon(params, lr=0.5, weight_decay=0.5).step()
    np.testing.assert_array_equal(params[0].numpy(), np.full((2, 3), 0.75, np.float32))


# ------------------------------------------------------------------- maximize, and old checkpoints
@pytest.mark.parametrize("kind, options", [*ALL, (LBFGS, {"line_search_fn": "strong_wolfe"})])
def test_to_maximize_is_to_minimize_the_negative(kind, options):
    results = []
    for sign in (1.0, -1.0):
        options = {**options, "lr": 0.05, "maximize": sign < 0}
        p = mg.tensor(np.linspace(2.0, 3.0, 6).reshape(3, 2), requires_grad=True)
        optimizer = kind([p], **options)

        def closure(p=p, optimizer=optimizer, sign=sign):
            optimizer.zero_grad()
            loss = sign * (p * p).sum()
            loss.backward()
            return loss

        losses = [optimizer.step(closure).item() for _ in range(5)]
        results.append([p.numpy(), np.multiply(sign, losses)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)
    assert results[0][1][-1] < results[0][1][0]


@pytest.mark.parametrize("kind", [LBFGS, Muon, ScheduleFreeSGD, ScheduleFreeAdamW])
def test_a_checkpoint_without_maximize_loads(kind):
    """Of PyTorch, or of the package schedulefree, which do not have the option."""
    params = parameters(kind=Muon)
    state = kind(params).state_dict()
    del state["param_groups"][0]["maximize"]
    for maximize in (False, True):
        optimizer = kind([{"params": params, "maximize": maximize}], maximize=not maximize)
        optimizer.load_state_dict(state)
        assert optimizer.param_groups[0]["maximize"] is maximize
    del state["param_groups"][0]["lr"]
    with pytest.raises(ValueError, match="group 0 lacks lr"):
        optimizer.load_state_dict(state)


def test_a_step_asks_the_class_of_a_parameter_for_nothing_it_lacks():
    """Such a question raises and drops an AttributeError, in every step."""
    asked = []

    class Watched(type):
        def __getattr__(cls, name):
            asked.append(name)
            raise AttributeError(name)

    class Watching(mg.nn.Parameter, metaclass=Watched):
        pass

    parameter = Watching([1.0, 2.0])
    for kind in (mg.optim.SGD, mg.optim.Adam):
        optimizer = kind([parameter], lr=0.1)
        parameter.grad = mg.ones(2)
        asked.clear()
        optimizer.step()
        assert asked == []
