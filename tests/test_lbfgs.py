"""LBFGS against textbook formulas: directions, strong Wolfe conditions, problems solved."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.optim import LBFGS
from minigrad.optim.lbfgs import Point, _cubic_minimum, _quasi_newton, strong_wolfe
from minigrad.serialization import load, save


def rosenbrock(x):
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def closure_of(optimizer, function, x, calls=None):
    def closure():
        optimizer.zero_grad()
        loss = function(x)
        loss.backward()
        if calls is not None:
            calls.append(x.numpy(copy=True))
        return loss

    return closure


def solve(function, start, dtype="float64", steps=10, **options):
    options = {"tolerance_change": 1e-15, "tolerance_grad": 1e-9, **options}
    x = mg.tensor(start, dtype=dtype, requires_grad=True)
    optimizer = LBFGS([x], **options)
    for _ in range(steps):
        optimizer.step(closure_of(optimizer, function, x))
    return x.numpy(copy=True), optimizer


# ------------------------------------------------------------------------------- problems solved
@pytest.mark.parametrize("size", [2, 10])
def test_solves_rosenbrock(size):
    start = np.where(np.arange(size) % 2, 1.0, -1.2)
    x, optimizer = solve(rosenbrock, start, steps=8, line_search_fn="strong_wolfe")
    if size == 2:
        np.testing.assert_allclose(x, 1.0, atol=1e-7)
        assert optimizer.state[optimizer.param_groups[0]["params"][0]]["func_evals"] < 80
    else:  # there are two minima
        assert np.abs(mg.autograd.grad(rosenbrock(t := leaf(x)), t)[0].numpy()).max() < 1e-5


def leaf(values):
    return mg.tensor(values, requires_grad=True)


@pytest.mark.parametrize("dtype, tolerance", [("float32", 1e-3), ("float64", 1e-6)])
@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_solves_a_quadratic(line_search, dtype, tolerance):
    random = np.random.default_rng(0)
    factor = random.normal(size=(6, 6))
    matrix, target = factor @ factor.T + np.eye(6), random.normal(size=6)

    def loss(x):
        a, b = mg.tensor(matrix, dtype=x.dtype), mg.tensor(target, dtype=x.dtype)
        return 0.5 * (x @ (a @ x)) - (b * x).sum()

    x, _ = solve(loss, np.zeros(6), dtype, line_search_fn=line_search)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, target), atol=tolerance)


def test_trains_a_net_with_batchnorm():
    mg.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)).double()
    random = np.random.default_rng(1)
    x = mg.tensor(random.normal(size=(40, 3)))
    y = mg.tensor(np.sin(x.numpy().sum(1, keepdims=True)))
    optimizer = LBFGS(net.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = ((net(x) - y) ** 2).mean()
        loss.backward()
        return loss

    first = optimizer.step(closure).item()
    for _ in range(3):
        optimizer.step(closure)
    assert closure().item() < 1e-3 < first


def test_turns_back_from_where_the_loss_is_not_finite():
    """x - log x has its minimum at 1; the first step goes far, and the log of a negative is NaN."""
    with np.errstate(all="ignore"):
        for start in (0.001, 30.0):
            x, _ = solve(
                lambda x: (x - mg.log(x)).sum(), [start], lr=100, line_search_fn="strong_wolfe"
            )
            np.testing.assert_allclose(x, 1.0, rtol=1e-5)


# --------------------------------------------------------------------------------- the line search
FUNCTIONS = {  # value and derivative, with f'(0) < 0
    "parabola": (lambda t: (t - 3) ** 2, lambda t: 2 * (t - 3)),
    "quartic": (lambda t: (t - 1) ** 4 - 0.1 * t, lambda t: 4 * (t - 1) ** 3 - 0.1),
    "waves": (
        lambda t: math.cos(3 * t) - t + 0.1 * t * t,
        lambda t: -3 * math.sin(3 * t) - 1 + 0.2 * t,
    ),
    "well": (
        lambda t: -t / (t * t + 2),
        lambda t: (t * t - 2) / (t * t + 2) ** 2,
    ),  # Moré & Thuente
    "steep": (
        lambda t: (t + 0.004) ** 5 - 2 * (t + 0.004) ** 4,
        lambda t: 5 * (t + 0.004) ** 4 - 8 * (t + 0.004) ** 3,
    ),
    "barrier": (
        lambda t: t * 0.01 - math.log(1 - t) - 2 * t if t < 1 else math.nan,
        lambda t: 0.01 + 1 / (1 - t) - 2 if t < 1 else math.nan,
    ),
}


@pytest.mark.parametrize("first", [1e-3, 0.1, 1.0, 10.0, 1e3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_strong_wolfe_conditions_hold(name, first):
    f, slope = FUNCTIONS[name]
    calls = []

    def along(t):
        calls.append(t)
        return f(t), np.full(1, slope(t)), slope(t)

    start = Point(0.0, *along(0.0))
    point, count = strong_wolfe(along, start, first, 50, 1e-12)
    assert count == len(calls) - 1 and point.step in calls
    assert point.step > 0 and point.loss == f(point.step) and point.gradient == slope(point.step)
    assert point.loss <= f(0) + 1e-4 * point.step * slope(0)
    assert abs(point.slope) <= 0.9 * abs(slope(0))


LENGTHS = {  # evaluations and step, from each first length, of PyTorch 2.13's line search
    "parabola": [(4, 1.0), (2, 1.0), (1, 1.0), (2, 3.0), (2, 3.0)],
    "quartic": [(4, 0.16677411263), (1, 0.1), (1, 1.0), (3, 1.82833377877), (8, 1.13532011578)],
    "waves": [
        (5, 1.10276137165),
        (3, 1.10276137165),
        (2, 1.10569640456),
        (2, 6.38506714969),
        (7, 5.16526060848),
    ],
    "well": [(4, 0.82304930609), (2, 0.82230329645), (1, 1.0), (1, 10.0), None],
    "steep": [(13, 1.596), (10, 1.596), (7, 1.596), (9, 1.596), (14, 1.596)],
    "barrier": [(3, 0.1), (1, 0.1), None, None, None],
}


@pytest.mark.parametrize("name", LENGTHS)
def test_the_line_search_goes_the_way_of_pytorch(name):
    """Other implementations could satisfy the conditions too. (None: PyTorch does not end.)"""
    f, slope = FUNCTIONS[name]

    def along(t):
        return f(t), np.full(1, slope(t)), slope(t)

    for first, expected in zip((1e-3, 0.1, 1.0, 10.0, 1e3), LENGTHS[name], strict=True):
        if expected is not None:
            point, count = strong_wolfe(along, Point(0.0, *along(0.0)), first, 25, 1e-9)
            assert (count, point.step) == (expected[0], pytest.approx(expected[1], rel=1e-9))


def test_every_accepted_step_fulfils_the_strong_wolfe_conditions(monkeypatch):
    searches = []

    def spy(along, start, *arguments):
        point, count = strong_wolfe(along, start, *arguments)
        searches.append((start, point))
        return point, count

    monkeypatch.setattr("minigrad.optim.lbfgs.strong_wolfe", spy)
    solve(rosenbrock, [-1.2, 1.0, -0.5], steps=1, max_iter=40, line_search_fn="strong_wolfe")
    assert len(searches) > 15
    for start, point in searches[:-1]:  # the last may end at the limit of precision
        assert start.slope < 0
        assert point.loss <= start.loss + 1e-4 * point.step * start.slope
        assert abs(point.slope) <= 0.9 * abs(start.slope)


def test_the_line_search_ends():
    def falling(t):  # without a minimum
        return -t, np.zeros(1), -1.0

    point, count = strong_wolfe(falling, Point(0.0, *falling(0.0)), 1.0, 7, 1e-9)
    assert count == 8 and point.loss < 0

    def nowhere(t):
        return (0.0, np.zeros(1), -1.0) if t == 0 else (math.nan, np.zeros(1), math.nan)

    point, count = strong_wolfe(nowhere, Point(0.0, *nowhere(0.0)), 1.0, 1000, 1e-9)
    assert point.step == 0.0 and count < 50  # the bracket is halved until it is narrow enough
    assert strong_wolfe(nowhere, Point(0.0, *nowhere(0.0)), 1.0, 0, 1e-9)[1] == 1


@pytest.mark.parametrize("max_iter", [0, 1, 30])
@pytest.mark.parametrize("loss", [0.16, math.nan, -math.inf])
@pytest.mark.parametrize("slope", [0.8, math.inf, -math.inf, math.nan])
def test_the_line_search_turns_back_from_a_loss_or_slope_that_is_not_finite(slope, loss, max_iter):
    """A parabola that is lower at the first length, 1, but not differentiable or defined there."""

    def along(t):
        return ((t - 0.6) ** 2, np.ones(1), 2 * (t - 0.6)) if t != 1 else (loss, np.ones(1), slope)

    start = Point(0.0, *along(0.0))
    point, count = strong_wolfe(along, start, 1.0, max_iter, 1e-9)
    assert count <= max_iter + 1
    if math.isfinite(slope) and math.isfinite(loss):
        assert (point.step, point.loss, point.slope) == (1.0, loss, slope) and count == 1
    elif count == 1:
        assert point is start
    else:
        assert 0 < point.step < 1 and point.loss < start.loss
        assert abs(point.slope) <= 0.9 * abs(start.slope)


def test_a_parameter_never_ends_where_the_slope_is_infinite():
    """The root of |x| is lowest at 0, where it has no slope; the first step goes there."""
    with np.errstate(all="ignore"):
        x, optimizer = solve(
            lambda x: mg.sqrt(mg.abs(x)).sum(), [1.0], lr=2, steps=1, line_search_fn="strong_wolfe"
        )
    assert 0 < abs(x[0]) < 1
    state = optimizer.state[optimizer.param_groups[0]["params"][0]]
    assert np.isfinite(state["prev_flat_grad"]).all() and np.isfinite(state["d"]).all()


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_a_direction_whose_slope_overflows_is_not_taken(line_search):
    with np.errstate(all="ignore"):
        x, _ = solve(
            lambda x: 1e200 * x.sum(), [1.0, 2.0], "float64", steps=1, line_search_fn=line_search
        )
    assert x.tolist() == [1.0, 2.0]


def test_the_cubic_goes_through_both_points():
    coefficients = np.array([0.7, -1.1, -2.0, 0.3])  # t³, t², t, 1
    cubic, slope = np.poly1d(coefficients), np.poly1d(coefficients).deriv()
    minimum = max(slope.roots)
    a, b = (Point(t, float(cubic(t)), np.zeros(1), float(slope(t))) for t in (0.2, 2.5))
    for pair in ((a, b), (b, a)):
        assert _cubic_minimum(*pair, 0.0, 3.0) == pytest.approx(minimum, rel=1e-12)
    assert _cubic_minimum(a, b, 0.0, 1.0) == 1.0 and _cubic_minimum(a, b, 2.0, 3.0) == 2.0
    assert _cubic_minimum(a, a, 2.0, 3.0) == 2.5
    assert _cubic_minimum(a, b._replace(loss=math.inf), 2.0, 3.0) == 2.5


# ----------------------------------------------------------------------------------- the direction
def test_the_direction_is_the_bfgs_formula():
    """H as in Nocedal & Wright 2006, equation 6.17, from H_0 = scale I, multiplied out."""
    random = np.random.default_rng(4)
    gradient, scale, history = random.normal(size=5), 0.3, []
    inverse_hessian = scale * np.eye(5)
    for _ in range(4):
        s = random.normal(size=5)
        y = s + 0.3 * random.normal(size=5)
        rho = 1 / (y @ s)
        history.append((s, y, rho))
        left = np.eye(5) - rho * np.outer(s, y)
        inverse_hessian = left @ inverse_hessian @ left.T + rho * np.outer(s, s)
    direction = _quasi_newton(gradient, history, scale)
    np.testing.assert_allclose(direction, -inverse_hessian @ gradient, rtol=1e-12)


def test_steps_without_a_line_search_are_the_formula():
    """Iterations written out: t d with d = -g / |g|₁ first, then -H g."""
    scale = np.array([1.0, 4.0, 0.5])
    x, lr, history, calls = np.array([1.0, -2.0, 3.0]), 0.5, [], []
    expected, previous, h = [x], None, 1.0
    for iteration in range(6):
        g = 2 * scale * x
        if previous is not None:
            s, y = x - previous[0], g - previous[1]
            history = [*history, (s, y, 1 / (y @ s))][-2:]
            h = (y @ s) / (y @ y)
        previous = (x, g)
        inverse = h * np.eye(3)
        for s, y, rho in history:
            left = np.eye(3) - rho * np.outer(s, y)
            inverse = left @ inverse @ left.T + rho * np.outer(s, s)
        x = x - (lr if iteration else lr * min(1, 1 / abs(g).sum())) * inverse @ g
        expected.append(x)
    p = leaf([1.0, -2.0, 3.0])
    p = mg.tensor(p.numpy(), dtype="float64", requires_grad=True)
    optimizer = LBFGS([p], lr=lr, max_iter=3, max_eval=9, history_size=2)
    for _ in range(2):
        optimizer.step(closure_of(optimizer, lambda p: (mg.tensor(scale) * p * p).sum(), p, calls))
    np.testing.assert_allclose(calls, expected[:6], rtol=1e-12)
    np.testing.assert_allclose(p.numpy(), expected[6], rtol=1e-12)


# ------------------------------------------------------------------------------- the step's limits
def test_max_iter_and_max_eval():
    for options, iterations, evaluations in [
        ({"max_iter": 5}, 5, 5),
        ({"max_iter": 5, "max_eval": 2}, 1, 2),
        ({"max_iter": 1, "line_search_fn": "strong_wolfe"}, 1, None),
        ({"max_iter": 9, "max_eval": 4, "line_search_fn": "strong_wolfe"}, None, 4),
    ]:
        calls = []
        x = mg.tensor([-1.2, 1.0], dtype="float64", requires_grad=True)
        optimizer = LBFGS([x], lr=1e-3 if "line_search_fn" not in options else 1, **options)
        optimizer.step(closure_of(optimizer, rosenbrock, x, calls))
        state = optimizer.state[x]
        assert state["func_evals"] == len(calls)
        assert iterations is None or state["n_iter"] == iterations
        assert evaluations is None or len(calls) == evaluations


def test_stops_where_the_gradient_is_small():
    calls = []
    x = leaf([1.0, 1.0])
    optimizer = LBFGS([x])
    loss = optimizer.step(closure_of(optimizer, rosenbrock, x, calls))
    assert loss.item() == 0.0 and len(calls) == 1 and x.tolist() == [1.0, 1.0]
    assert optimizer.state[x] == {"func_evals": 1, "n_iter": 0}


@pytest.mark.parametrize("tolerance, iterations", [(1e-6, 1), (1e-9, 4)])
def test_stops_where_the_loss_hardly_changes(tolerance, iterations):
    """Whatever the loss: 1000 + x^2 / 2 falls by 3.75e-7, while x moves by 5e-4."""
    x = mg.tensor([1e-3], dtype="float64", requires_grad=True)
    optimizer = LBFGS([x], lr=0.5, max_iter=4, tolerance_change=tolerance, tolerance_grad=0)
    optimizer.step(closure_of(optimizer, lambda x: 1000 + (x * x).sum() / 2, x))
    assert optimizer.state[x]["n_iter"] == iterations


def test_parameters_of_several_shapes_layouts_and_without_gradient():
    storage = np.arange(6.0).reshape(2, 3)
    strided, scalar = mg.asarray(storage.T), mg.tensor(2.0, dtype="float64")
    unused, empty = mg.ones(2), mg.zeros((0, 2))
    params = [strided, scalar, unused, empty]
    for p in params:
        p.requires_grad_()
    optimizer = LBFGS(params, line_search_fn="strong_wolfe")
    versions = [p._version for p in params]

    def closure():
        optimizer.zero_grad()
        loss = ((strided - 1) ** 2).sum() + (scalar + 3) ** 2
        loss.backward()
        return loss

    with mg.no_grad():  # the closure records all the same
        optimizer.step(closure)
    np.testing.assert_allclose(storage, 1.0, atol=1e-6)
    assert scalar.item() == pytest.approx(-3) and unused.tolist() == [1.0, 1.0]
    assert all(p._version > v for p, v in zip(params, versions, strict=True))


# --------------------------------------------------------------------------------------- the state
@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_a_checkpoint_continues_the_exact_trajectory(line_search):
    def run(x, optimizer, steps):
        for _ in range(steps):
            optimizer.step(closure_of(optimizer, rosenbrock, x))
        return x.numpy(copy=True)

    options = {"lr": 0.1 if line_search is None else 1, "max_iter": 3, "history_size": 4}
    x = leaf([-1.2, 1.0, 0.3])
    optimizer = LBFGS([x], line_search_fn=line_search, **options)
    middle = run(x, optimizer, 2)
    file = io.BytesIO()
    save(optimizer.state_dict(), file)
    end = run(x, optimizer, 3)
    file.seek(0)
    y = leaf(middle)
    resumed = LBFGS([y])
    resumed.load_state_dict(load(file))
    np.testing.assert_array_equal(run(y, resumed, 3), end)
    names = {"func_evals", "n_iter", "d", "t", "old_dirs", "old_stps", "ro", "H_diag"}
    assert set(resumed.state[y]) == names | {"prev_flat_grad", "prev_loss"}
    assert len(resumed.state[y]["old_dirs"]) <= 4


def test_a_snapshot_stays_what_it_is():
    x = leaf([-1.2, 1.0])
    optimizer = LBFGS([x], max_iter=4)
    optimizer.step(closure_of(optimizer, rosenbrock, x))
    snapshot = optimizer.state_dict()
    held = [v.numpy(copy=True) for v in snapshot["state"][0]["old_stps"]]
    optimizer.step(closure_of(optimizer, rosenbrock, x))
    assert len(held) == 3
    for a, b in zip(snapshot["state"][0]["old_stps"], held, strict=True):
        np.testing.assert_array_equal(a.numpy(), b)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda s: s.update(d=mg.ones(3)), r"has a vector of shape \(3,\), the parameters have 2"),
        (lambda s: s["old_dirs"].append(mg.ones(1)), r"old_dirs has a vector of shape \(1,\)"),
        (lambda s: s["ro"].pop(), "the histories differ in length"),
        (lambda s: s.update(prev_flat_grad="a"), "prev_flat_grad has a vector of shape"),
    ],
)
def test_a_state_that_does_not_fit(damage, message):
    x = leaf([-1.2, 1.0])
    optimizer = LBFGS([x], max_iter=4)
    optimizer.step(closure_of(optimizer, rosenbrock, x))
    state, before = optimizer.state_dict(), dict(optimizer.state[x])
    damage(state["state"][0])
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(state)
    assert optimizer.state[x].keys() == before.keys()
    assert all(optimizer.state[x][name] is before[name] for name in before)


@pytest.mark.parametrize("line_search", [None, "strong_wolfe"])
def test_after_an_error_in_the_closure_all_is_as_before(line_search):
    x = leaf([-1.2, 1.0])
    optimizer = LBFGS([x], lr=0.01, max_iter=3, line_search_fn=line_search)
    optimizer.step(closure_of(optimizer, rosenbrock, x))
    before, state = x.numpy(copy=True), optimizer.state[x]
    copies = {name: np.copy(value) for name, value in state.items()}
    calls = []
    good = closure_of(optimizer, rosenbrock, x, calls)

    def failing():
        if len(calls) == 2:
            raise KeyboardInterrupt
        return good()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(failing)
    assert len(calls) == 2 and not np.array_equal(calls[1], before)
    np.testing.assert_array_equal(x.numpy(), before)
    assert optimizer.state[x] is state
    for name, value in copies.items():
        np.testing.assert_array_equal(state[name], value)


# ------------------------------------------------------------------------------- what is refused
def one():
    return [mg.ones(2, requires_grad=True)]


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: LBFGS(one(), lr=-1), ValueError, "LBFGS: Invalid learning rate: -1"),
        (lambda: LBFGS(one(), max_iter=0), ValueError, "max_iter must be at least 1, got 0"),
        (lambda: LBFGS(one(), max_iter=2.0), TypeError, "max_iter must be an int, got float 2.0"),
        (lambda: LBFGS(one(), max_eval=True), TypeError, "max_eval must be an int, got bool"),
        (lambda: LBFGS(one(), history_size=0), ValueError, "history_size must be at least 1"),
        (lambda: LBFGS(one(), tolerance_grad=-1), ValueError, "Invalid tolerance_grad value: -1"),
        (lambda: LBFGS(one(), tolerance_change="a"), TypeError, "must be a number, got str 'a'"),
        (
            lambda: LBFGS(one(), line_search_fn="armijo"),
            ValueError,
            "line_search_fn must be None or 'strong_wolfe', got 'armijo'",
        ),
        (lambda: LBFGS(one(), weight_decay=1), TypeError, "LBFGS: unknown option 'weight_decay'"),
        (
            lambda: LBFGS([{"params": one()}, {"params": one()}]),
            ValueError,
            "LBFGS: there can be only one parameter group",
        ),
        (lambda: LBFGS(one()).step(), TypeError, "LBFGS: step needs a closure.* got NoneType"),
        (
            lambda: LBFGS(one()).step(lambda: None),
            TypeError,
            "the closure must return the loss, a number, got NoneType",
        ),
        (lambda: LBFGS(one()).step(lambda: mg.ones(2)), ValueError, "expected one element"),
    ],
)
def test_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()
