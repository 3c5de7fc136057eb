"""docs/book/one_page.py, the engine on one page, against the real engine and finite differences."""

from __future__ import annotations

import doctest
import functools
import gc
import itertools
import weakref
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import op_table
import pytest

import minigrad as mg
from minigrad._core import ops
from minigrad._core.formulas import normalise

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/book/one_page.py"


@pytest.fixture
def page():
    """The page as a module of its own, so that a test may spoil it."""
    spec = spec_from_file_location("one_page", PAGE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_its_example_is_right(page):
    assert doctest.testmod(page).failed == 0


def test_it_is_one_page_and_needs_numpy_alone():
    text = PAGE.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 200
    assert "minigrad" not in text.split('"""', 2)[2]


# ------------------------------------------------------------- random programs, on both engines
def leaves(random):
    """Arrays of shapes that broadcast together, matrices last."""
    shapes = (3, 4), (4,), (3, 1), (1, 1), (), (4, 4)
    return [random.uniform(-1.5, 1.5, shape) for shape in shapes]


def matrix(x):
    return x + np.zeros((3, 4))


LINES = {  # a module with functions, and one or two values that broadcast to (3, 4)
    "x + y": lambda m, x, y: x + y,
    "x - y": lambda m, x, y: x - y,
    "x * y": lambda m, x, y: x * y,
    "x / y": lambda m, x, y: x / (m.square(y) + 1.0),
    "1 / x": lambda m, x, y: 1.0 / (x * x + 2.0),
    "-x": lambda m, x, y: -x,
    "sin, cos": lambda m, x, y: m.sin(x) * m.cos(y),
    "tanh": lambda m, x, y: m.tanh(x),
    "exp": lambda m, x, y: m.exp(m.sin(x)),
    "log, sqrt": lambda m, x, y: m.log(m.sqrt(m.square(x) + 1.5)),
    "relu": lambda m, x, y: m.relu(x + 0.1 * y),
    "sum": lambda m, x, y: matrix(x).sum(0) * y,
    "mean": lambda m, x, y: matrix(x).mean((0, 1), keepdims=True) + y,
    "var": lambda m, x, y: matrix(x).var(1, keepdims=True) - y,
    "getitem": lambda m, x, y: matrix(x)[:, ::-1] * y,
    "an index twice": lambda m, x, y: matrix(x)[np.array([0, 2, 0])] + y,
    "matmul": lambda m, x, y: matrix(x) @ (matrix(y)[np.array([0, 1, 2, 2])]) * 0.3,
    "normalise": lambda m, x, y: normalise(matrix(x), y, 0.5, (0,), 0.1)[0],
    "detach": lambda m, x, y: x.detach() * y,
}
ONE_AT_A_TIME = [(name,) * 3 for name in LINES]


def derivatives(m, tensor, grad, lines, seed):
    """The value, the gradients and the gradients of a projection of them, of a random program."""
    random = np.random.default_rng(seed)
    inputs = [tensor(array) for array in leaves(random)[:-1]]
    values = list(inputs)
    for line in lines:
        i, j = random.integers(len(values), size=2)
        values.append(LINES[line](m, values[i], values[j]))
    loss = sum((matrix(v) * random.normal(size=(3, 4))).sum() for v in values)
    first = [g for g in grad(loss, inputs, create_graph=True) if g is not None]
    projection = sum((g * random.normal(size=shape_of(g))).sum() for g in first)
    second = grad(projection, inputs) if projection.requires_grad else [None] * len(inputs)
    return loss, first, [s for s in second if s is not None]


def shape_of(x):
    return (x.array if hasattr(x, "array") else x).shape


def values_of(x):
    return x.array if hasattr(x, "array") else x.numpy()


def compare(page, lines, seed):
    """Assert that the page and the real engine agree about a program."""

    def real(loss, inputs, create_graph=False):
        return mg.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)

    theirs = derivatives(mg, lambda array: mg.tensor(array, requires_grad=True), real, lines, seed)
    ours = derivatives(
        page, lambda array: page.Tensor(array, requires_grad=True), page.grad, lines, seed
    )
    for a, b in zip(ours, theirs, strict=True):
        a, b = (each if isinstance(each, list) else [each] for each in (a, b))
        for x, y in zip(a, b, strict=True):
            assert shape_of(x) == shape_of(y)
            np.testing.assert_allclose(values_of(x), values_of(y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("seed", range(30))
def test_random_programs_have_the_same_derivatives_as_in_the_real_engine(page, seed):
    names = np.random.default_rng(seed).choice(list(LINES), 6)
    compare(page, names, seed)


@pytest.mark.parametrize("lines", ONE_AT_A_TIME, ids=LINES)
def test_programs_of_one_kind_of_line(page, lines):
    for seed in range(3):
        compare(page, lines, seed)


WRONG = {
    "x * y": ("multiply", (lambda g, y: g * y, lambda g, x, y: g * y)),
    "x / y": ("divide", (lambda g, y: g / y, lambda g, y, out: g * out / y)),
    "tanh": ("tanh", (lambda g, out: g * (1.0 - out),)),
    "exp": ("exp", (lambda g, out: g * out.detach(),)),  # wrong at second order only
}


@pytest.mark.parametrize("line", WRONG)
def test_a_planted_wrong_rule_is_noticed(page, line):
    name, rules = WRONG[line]
    getattr(page, name).rules = rules
    with pytest.raises(AssertionError):
        for seed in range(3):
            compare(page, (line,) * 3, seed)


def test_it_is_noticed_if_broadcasting_is_not_undone(page):
    page.unbroadcast = lambda g, shape: g
    with pytest.raises(AssertionError):
        compare(page, ("x + y",) * 3, 0)


# ------------------------------------------------------------------------------ finite differences
def cases(page, random):
    """For each entry of the page's table a function, and arrays that it is smooth at."""
    x, positive = random.uniform(0.2, 1.5, (3, 4)), random.uniform(0.5, 2, (3, 4))
    signed = x * random.choice((-1, 1), x.shape)
    of_one = dict.fromkeys(("negative", "square", "exp", "sin", "cos", "tanh", "relu"), signed)
    of_one |= {"sqrt": positive, "log": positive, "transpose": signed}
    of_two = dict.fromkeys(("add", "subtract", "multiply", "divide"), (signed, positive[0]))
    of_two["matmul"] = np.stack([x, signed]), positive.T
    index = (np.array([0, 2, 0]), slice(1, 3))
    return {
        **{name: (getattr(page, name), [array]) for name, array in of_one.items()},
        **{name: (getattr(page, name), arrays) for name, arrays in of_two.items()},
        "gate": (lambda x: page.gate(x, signed), [positive]),
        "total": (lambda x: page.total(x, axis=(0,)), [signed]),
        "broadcast_to": (lambda x: page.broadcast_to(x, shape=(2, 3, 4)), [signed[:, :1]]),
        "reshape": (lambda x: page.reshape(x, shape=(2, 6)), [signed]),
        "getitem": (lambda x: page.getitem(x, index=index), [signed]),
        "put": (lambda x: page.put(x, index=np.array([1, 1, 4]), shape=(5, 4)), [signed]),
        "detach": (lambda x: x * page.detach(signed), [positive]),
    }


def slope_error(page, function, arrays, order):
    """How far the derivative in a random direction is from a central difference: of a projection
    of the function, or (order 2) of a projection of its gradient."""
    random = np.random.default_rng(1)
    cotangent = random.normal(size=function(*map(page.Tensor, arrays)).array.shape)
    directions, weights = ([random.normal(size=a.shape) for a in arrays] for _ in range(2))

    def projected(inputs):
        value = (function(*inputs) * cotangent).sum()
        if order == 1:
            return value
        gradients = page.grad(value, inputs, create_graph=True)
        return sum((g * w).sum() for g, w in zip(gradients, weights, strict=True))

    def at(step):
        moved = [a + step * d for a, d in zip(arrays, directions, strict=True)]
        return projected([page.Tensor(a, requires_grad=True) for a in moved])

    inputs = [page.Tensor(a, requires_grad=True) for a in arrays]
    gradients = page.grad(projected(inputs), inputs)  # None where the first one is constant
    slopes = [0 if g is None else g.array for g in gradients]
    found = sum((g * d).sum() for g, d in zip(slopes, directions, strict=True))
    return abs(found - (at(1e-5).array - at(-1e-5).array) / 2e-5)


@pytest.mark.parametrize("order", [1, 2])
def test_every_entry_agrees_with_finite_differences(page, order):
    entries = {name for name, op in vars(page).items() if isinstance(op, page.Primitive)} - {"op"}
    checked = cases(page, np.random.default_rng(0))
    assert set(checked) == entries
    errors = {name: slope_error(page, *case, order) for name, case in checked.items()}
    assert max(errors.values()) < 1e-7, errors
    page.sin.rules = (lambda g, x: g * page.cos(x) + 1e-5 * g,)
    assert slope_error(page, *checked["sin"], 1) > 1e-6


# ----------------------------------------------------------------- a net, and the form of the graph
def train(m, parameter, steps):
    """Losses and parameters of a net with BatchNorm, trained by plain gradient descent."""
    random = np.random.default_rng(0)
    x = random.normal(size=(32, 6))
    target = x[:, :3].argmax(axis=1)
    shapes = (6, 8), (8,), (8,), (8, 3), (3,)
    parameters = [parameter(random.normal(0.2, 0.7, shape)) for shape in shapes]
    losses = []
    for _ in range(steps):
        w, weight, bias, last, shift = parameters
        hidden, _, _ = normalise(x @ w, weight, bias, (0,), 1e-5)
        scores = m.relu(hidden) @ last + shift
        log_sum = m.log(m.exp(scores).sum(1))
        loss = (log_sum - scores[np.arange(32), target]).mean()
        for p in parameters:
            p.grad = None
        loss.backward()
        losses.append(float(values_of(loss)))
        parameters = [parameter(values_of(p) - 0.5 * values_of(p.grad)) for p in parameters]
    return losses, [values_of(p) for p in parameters]


def test_a_net_with_batchnorm_trains_to_the_same_numbers(page):
    ours, a = train(page, lambda array: page.Tensor(array, requires_grad=True), 20)
    theirs, b = train(mg, lambda array: mg.tensor(array, requires_grad=True), 20)
    assert ours[-1] < 0.5 * ours[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)
    for x, y in zip(a, b, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-12)


def test_a_long_chain_needs_no_recursion(page):
    x = page.Tensor(1.0, requires_grad=True)
    y = x
    for _ in range(20_000):
        y = y * 1.0
    y.backward()
    assert x.grad.array == 1.0


def test_a_graph_is_freed_without_a_collector(page):
    x = page.Tensor([1.0, 2.0], requires_grad=True)
    gc.disable()
    try:
        y = page.exp(page.tanh(x)).sum()
        y.backward(create_graph=True)
        x.grad = None
        gone = weakref.ref(y.node)
        del y
        assert gone() is None
    finally:
        gc.enable()


def test_an_error_in_a_rule_leaves_recording_on(page):
    def broken(g):
        raise ZeroDivisionError

    x = page.Tensor([1.0], requires_grad=True)
    page.sin.rules = (broken,)
    with pytest.raises(ZeroDivisionError):
        page.sin(x).backward()
    assert page.recording


# ---------------------------------------------------------------------- the rules of the real table
def real_table(page):
    """The entries of table.py as primitives of the page: values by NumPy, rules as they are."""
    path = ROOT / "minigrad/_core/engine/table.py"
    space = {"__name__": "table"}
    exec(compile(path.read_text(encoding="utf-8"), path.name, "exec"), space)
    entries = {name: e for name, e in space.items() if type(e) is space["Entry"]}
    for name, entry in entries.items():
        space[name] = page.Primitive(op_table.ROWS[name].reference, *entry.rules)
        if entry.operator and f"__{entry.operator}__" not in vars(
            page.Tensor
        ):  # `x != 0` in a rule
            operator = functools.partial(lambda op, *inputs: op(*inputs), space[name])
            setattr(page.Tensor, f"__{entry.operator}__", functools.partialmethod(operator))
    page.Tensor.dtype = property(lambda x: x.array.dtype)
    where = page.Primitive(
        np.where, None, lambda g, x: where(x, g, 0.0), lambda g, x: where(x, 0.0, g)
    )
    space |= {
        "Tensor": page.Tensor,
        "where": where,
        "clip": page.Primitive(np.clip, lambda g: g, None, None),
        "astype": lambda x, dtype: page.Tensor(x.array.astype(dtype)),
        "zeros_like": lambda x: page.Tensor(np.zeros(x.array.shape)),
        "logical_or": page.Primitive(np.logical_or, None, None),
        "logical_and": page.Primitive(np.logical_and, None, None),
        "power_slope": lambda x, y: y * space["pow"](x, y - 1),
        "log_of": space["log"],
    }
    return {name: space[name] for name, e in entries.items() if any(e.rules)}


def two_orders(tensor, grad, function, arrays):
    """The gradients of a projection, and of a projection of these; zeros where there is none."""
    random = np.random.default_rng(2)
    inputs = [tensor(a) for a in arrays]
    shape = values_of(function(*inputs)).shape
    first = grad((function(*inputs) * random.normal(size=shape)).sum(), inputs, True)
    weights = [random.normal(size=a.shape) for a in arrays]
    projected = sum((g * w).sum() for g, w in zip(first, weights, strict=True) if g is not None)
    second = grad(projected, inputs, False) if projected.requires_grad else [None] * len(arrays)
    return [
        np.zeros(a.shape) if g is None else values_of(g)
        for g, a in zip([*first, *second], [*arrays, *arrays], strict=True)
    ]


def test_the_rules_of_the_real_table_run_on_the_page_unchanged(page):
    def real(output, inputs, create_graph):
        return mg.autograd.grad(output, inputs, create_graph=create_graph, allow_unused=True)

    def ours(output, inputs, create_graph):
        return page.grad(output, inputs, create_graph=create_graph)

    table = real_table(page)
    assert len(table) > 50
    for name, op in table.items():
        random = np.random.default_rng(3)
        shapes = [(3, 4), (4,)][: len(op.rules)]
        domains = itertools.cycle(op_table.ROWS[name].domains)
        arrays = [domain(random, shape) for shape, domain in zip(shapes, domains, strict=False)]
        a = two_orders(lambda x: page.Tensor(x, requires_grad=True), ours, op, arrays)
        b = two_orders(lambda x: mg.tensor(x, requires_grad=True), real, getattr(ops, name), arrays)
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-9, err_msg=name)
