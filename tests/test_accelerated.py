"""Every shortcut gives the result of its definition, and all of them can be switched off."""

import subprocess
import sys
import threading

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad._core import formulas, ops
from minigrad._core.fast.accelerate import Shortcut, shortcuts
from minigrad.autograd import accelerated, is_accelerated
from minigrad.nn import functional

DTYPES = ("float32", "float64")


def leaf(dtype, *shape, seed=0):
    values = np.random.default_rng(seed).standard_normal(shape)
    return mg.tensor(values, dtype=dtype, requires_grad=True)


# --------------------------------------- what takes a shortcut: from leaves of a dtype to an output
def parts(dtype):
    x = leaf(dtype, 4, 6)
    return [x], lambda: x[0] * x[1:3] ** 2 + x[..., ::2][3].sum()


def postponed_sums(dtype):
    x, w, b = leaf(dtype, 5, 4), leaf(dtype, 4, 4, seed=1), leaf(dtype, 4, seed=2)

    def run():
        h = x
        for _ in range(3):
            h = mg.tanh(nn.functional.linear(h, w, b)) @ w
        return h

    return [x, w, b], run


def summed_products(dtype):
    x, w = leaf(dtype, 256, 200), leaf(dtype, 200, seed=1)
    return [x, w], lambda: x * w


def products(dtype):
    x, w = leaf(dtype, 3, 40, 20), leaf(dtype, 20, 70, seed=1)
    images, kernel = leaf(dtype, 2, 3, 8, 8, seed=2), leaf(dtype, 4, 3, 3, 3, seed=3)
    bias = leaf(dtype, 4, seed=4)

    def run():
        convolved = functional.conv2d(images, kernel, bias, padding=1)
        return (x @ w).sum(0) @ w.T + (x @ x.mT).sum() + convolved.square().sum()

    return [x, w, images, kernel, bias], run


def layer(make, *shape):
    def program(dtype):
        mg.manual_seed(0)
        net, x = make().to(np.dtype(dtype)), leaf(dtype, *shape)
        return [x, *net.parameters()], lambda: net(x)[0]

    return program


def lstm_step(dtype):
    gates, cell = leaf(dtype, 12, 5), leaf(dtype, 3, 5, seed=1)
    return [gates, cell], lambda: ops.lstm_cell(gates, cell)


def cross_entropy(dtype):
    x, labels = leaf(dtype, 7, 5), mg.tensor([0, 1, 2, 3, 4, 0, 1])
    return [x], lambda: functional.cross_entropy(4.0 * x, labels, reduction="none")


def variance(dtype):
    x = leaf(dtype, 6, 30)
    return [x], lambda: (x + 3.0).var(0, correction=1) * x.var() + x.var(1)[0]


def product(dtype):
    x = leaf(dtype, 4, 5)
    return [x], lambda: x.prod(1)[:, None] + x.prod()


def derived(dtype):
    x, weight, bias = leaf(dtype, 20, 3), leaf(dtype, 3, seed=1), leaf(dtype, 3, seed=2)

    def run():
        return functional._normalise(x, weight, bias, (0,), 1e-5)[0]

    return [x, weight, bias], run


def equations(dtype):
    x, y, many = leaf(dtype, 2, 40, 40), leaf(dtype, 40, 2, seed=1), leaf(dtype, 40, 40, seed=2)
    identity = mg.eye(40, dtype=dtype)

    def run():
        matrix = x + 10.0 * identity
        factor = mg.linalg.cholesky(x @ x.mT + 100.0 * identity)
        solved = mg.linalg.solve(matrix, y) @ y.mT + mg.linalg.solve(matrix.mT, many)
        return solved + factor + mg.linalg.solve_triangular(factor, many, upper=False)

    return [x, y, many], run


PROGRAMS = {
    "parts added in place": parts,
    "postponed sums of products": postponed_sums,
    "products summed as they are made": summed_products,
    "products by our kernels": products,
    "LSTM over all steps in one call": layer(lambda: nn.LSTM(3, 4), 5, 2, 3),
    "step of an LSTM": lstm_step,
    "cross-entropy": cross_entropy,
    "slope of var about the kept means": variance,
    "slope of prod by division": product,
    "derived formulas": derived,
    "factors by our kernels": equations,
}
OPTIMIZERS = {
    "SGD": {},
    "SGD with momentum": {"momentum": 0.9, "dampening": 0.1, "weight_decay": 0.1},
    "SGD of Nesterov": {"momentum": 0.9, "nesterov": True, "maximize": True},
    "Adam": {"weight_decay": 0.1, "maximize": True},
    "Adam, decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "Adam, amsgrad": {"amsgrad": True},
    "AdamW": {"lr": 0.1},
    "NAdam": {"weight_decay": 0.1, "momentum_decay": 0.1},
    "NAdam, decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "RAdam": {"weight_decay": 0.1, "maximize": True},
    "RAdam, decoupled": {"weight_decay": 0.1, "decoupled_weight_decay": True},
    "RMSprop": {"weight_decay": 0.1},
    "RMSprop, centred": {"centered": True, "momentum": 0.9},
    "RMSprop with momentum": {"momentum": 0.9, "maximize": True},
    "Adagrad": {"lr_decay": 0.1, "weight_decay": 0.1},
    "Adagrad from 1": {"initial_accumulator_value": 1.0, "maximize": True},
    "Lion": {"weight_decay": 0.1, "maximize": True},
    "ScheduleFreeSGD": {"weight_decay": 0.1, "maximize": True},
    "ScheduleFreeAdamW": {"weight_decay": 0.1, "warmup_steps": 2},
}


def derivatives(program, dtype, forward, backward):
    """The output, its gradients and theirs; forward and backward with shortcuts or without."""
    with accelerated(forward):
        leaves, run = program(dtype)
        outputs = [run(), run()]
    random = np.random.default_rng(9)
    found = [outputs[0]]
    with accelerated(backward):
        g = mg.tensor(random.standard_normal(outputs[0].shape), dtype=dtype)
        found += mg.autograd.grad(outputs[0], leaves, g)
        gradients = mg.autograd.grad(outputs[1], leaves, g, create_graph=True)
        total = sum(
            (first * mg.tensor(random.standard_normal(first.shape), dtype=dtype)).sum()
            for first in gradients
        )
        second = mg.autograd.grad(total, leaves, allow_unused=True)
    found += [*gradients, *(g for g in second if g is not None)]
    return [np.array(tensor.detach()) for tensor in found]


def trained(name, dtype, on):
    """A parameter and the state of an optimiser after seven steps, the last of RAdam rectified."""
    options = OPTIMIZERS[name]
    with accelerated(on):
        parameter = leaf(dtype, 5, 4)
        optimizer = getattr(mg.optim, name.split(",")[0].split(" ")[0])([parameter], **options)
        for step in range(7):
            parameter.grad = leaf(dtype, 5, 4, seed=step + 1).detach()
            optimizer.step()
    return [parameter.numpy(), *map(np.asarray, optimizer.state.get(parameter, {}).values())]


def assert_equal(found, expected, dtype):
    assert len(found) == len(expected)
    tolerance = 2e-5 if dtype == "float32" else 1e-12
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * (1 + np.abs(b).max()))


def test_the_table_holds_every_shortcut():
    assert {*PROGRAMS, "loops of the optimisers"} == set(shortcuts())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_shortcut_gives_what_its_definition_gives(name, dtype):
    shortcut = shortcuts()[name]
    before = shortcut.uses
    expected = derivatives(PROGRAMS[name], dtype, False, False)
    assert shortcut.uses == before
    assert_equal(derivatives(PROGRAMS[name], dtype, True, True), expected, dtype)
    assert shortcut.uses > before
    for modes in ((True, False), (False, True)):  # a graph may meet the other mode in backward
        assert_equal(derivatives(PROGRAMS[name], dtype, *modes), expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_loop_of_an_optimiser_gives_what_its_formula_gives(name, dtype):
    loops = shortcuts()["loops of the optimisers"]
    before = loops.uses
    expected = trained(name, dtype, False)
    assert loops.uses == before
    assert_equal(trained(name, dtype, True), expected, dtype)
    assert loops.uses == before + 7


def test_a_wrong_formula_is_noticed(monkeypatch):
    right = formulas.adam
    monkeypatch.setattr(formulas, "adam", lambda *a, **o: right(*a, **{**o, "lr": 0.0011}))
    with pytest.raises(AssertionError):
        test_the_loop_of_an_optimiser_gives_what_its_formula_gives("Adam", "float32")


def test_a_wrong_shortcut_is_noticed():
    def program(dtype):
        x = leaf(dtype, 5)
        return [x], lambda: x * x * (1.0 if is_accelerated() else 1.001)

    with pytest.raises(AssertionError):
        assert_equal(
            derivatives(program, "float32", True, True),
            derivatives(program, "float32", False, False),
            "float32",
        )


def test_a_block_and_a_function_in_one_thread():
    seen = []
    with accelerated(True):
        with accelerated(False):
            other = threading.Thread(target=lambda: seen.append(is_accelerated()))
            other.start()
            other.join()
            assert not is_accelerated()
            assert accelerated(True)(is_accelerated)()
        assert is_accelerated()
        with pytest.raises(ZeroDivisionError), accelerated(False):
            _ = 1 / 0
        assert is_accelerated()
    new_thread = subprocess.run(
        [sys.executable, "-c", "import minigrad as mg; print(mg.autograd.is_accelerated())"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(seen[0]) == new_thread.stdout.strip()


def test_a_decorated_generator_leaves_the_mode_of_its_caller_alone():
    @accelerated(False)
    def modes():
        yield is_accelerated()
        yield is_accelerated()

    with accelerated(True):
        running = modes()
        assert [next(running), is_accelerated(), next(running)] == [False, True, False]


@pytest.mark.parametrize("asked", ["0", "1", "", "off"])
def test_the_environment_switches_them_off(asked):
    code = "import minigrad as mg; print(mg.autograd.is_accelerated())"
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"MINIGRAD_FAST": asked},
        capture_output=True,
        text=True,
        check=False,
    )
    if asked in ("0", "1"):
        assert result.stdout.strip() == str(asked == "1"), result.stderr
    else:
        assert f"MINIGRAD_FAST is {asked!r}: expected 1, or 0" in result.stderr


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'cross-entropy' is registered twice"):
        Shortcut("cross-entropy")
