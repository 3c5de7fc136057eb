"""The engine: recording, the backward pass, hooks, versions, memory."""

from __future__ import annotations

import copy
import gc
import itertools
import pickle
import signal
import subprocess
import sys
import threading
import weakref
from functools import partial

import numpy as np
import pytest

import minigrad as mg
from minigrad._core.engine.graph import make_op, primitives, register


def leaf(*values: float) -> mg.Tensor:
    return mg.tensor(list(values), dtype=mg.float64, requires_grad=True)


def numbers(tensor: mg.Tensor) -> list:
    return tensor.tolist()


# ------------------------------------------------------------------------------------- recording
def test_leaf_and_result():
    x = leaf(1, 2)
    y = x * 2
    assert x.is_leaf and x.requires_grad and x.grad_fn is None
    assert not y.is_leaf and y.requires_grad and repr(y.grad_fn) == "<multiply>"
    assert y.grad_fn.next_functions[0] is x


def test_nothing_is_recorded_without_need():
    x = mg.ones(2)
    assert (x * 2).is_leaf and not (x * 2).requires_grad
    with mg.no_grad():
        assert (leaf(1) * 2).is_leaf
    assert (leaf(1).detach() * 2).is_leaf


def test_integers_have_no_gradient():
    with pytest.raises(RuntimeError, match="only float32 and float64"):
        mg.tensor([1, 2], requires_grad=True)
    assert not (leaf(1.0) > 0).requires_grad
    assert not leaf(1.0).astype(mg.int64).requires_grad


@pytest.mark.parametrize("decorate", [mg.no_grad, mg.no_grad()])
def test_no_grad_as_a_decorator(decorate):
    @decorate
    def double(x):
        """Twice x."""
        return x * 2

    assert not double(leaf(1)).requires_grad
    assert mg.is_grad_enabled() and double.__doc__ == "Twice x."


def test_grad_modes_nest_and_survive_exceptions():
    with pytest.raises(KeyError), mg.no_grad():
        with mg.enable_grad():
            assert mg.is_grad_enabled()
        assert not mg.is_grad_enabled()
        raise KeyError
    assert mg.is_grad_enabled()
    mg.set_grad_enabled(False)
    assert not mg.is_grad_enabled()
    mg.set_grad_enabled(True)
    with mg.set_grad_enabled(False):
        assert not mg.is_grad_enabled()
    assert mg.is_grad_enabled()


def test_grad_mode_is_per_thread():
    seen = []
    with mg.no_grad():
        thread = threading.Thread(target=lambda: seen.append(mg.is_grad_enabled()))
        thread.start()
        thread.join()
    assert seen == [True]


def test_requires_grad_of_a_result_cannot_be_cleared():
    y = leaf(1) * 2
    with pytest.raises(RuntimeError, match="detach"):
        y.requires_grad = False


# -------------------------------------------------------------------------------- the backward pass
def test_gradient_accumulates():
    x = leaf(1, 2)
    (x * 3).sum().backward()
    (x * 4).sum().backward()
    assert numbers(x.grad) == [7, 7]


def frozen(array):
    array.setflags(write=False)
    return array


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize(
    "layout",
    [
        np.copy,
        lambda a: a.T.copy().T,
        lambda a: a[:, ::-1].copy()[:, ::-1],
        lambda a: np.broadcast_to(a[0], a.shape),
        lambda a: frozen(a.copy()),
    ],
)
def test_a_gradient_adds_to_one_of_any_layout(layout, create_graph):
    first = layout(np.arange(12.0).reshape(3, 4))
    before, x = first.copy(), mg.tensor(np.linspace(1, 2, 12).reshape(3, 4), requires_grad=True)
    x.grad = mg.asarray(first)
    (x * x * x).sum().backward(create_graph=create_graph)
    np.testing.assert_allclose(x.grad.numpy(), before + 3 * x.detach().numpy() ** 2, rtol=1e-14)
    if create_graph or not first.flags.carray:  # otherwise it was added in place
        np.testing.assert_array_equal(first, before)
    if create_graph:
        (second,) = mg.autograd.grad(x.grad.sum(), x)
        np.testing.assert_allclose(second.numpy(), 6 * x.detach().numpy(), rtol=1e-14)


def test_a_gradient_with_a_graph_keeps_it_when_another_is_added():
    x = leaf(2, 3)
    (x * x * x).sum().backward(create_graph=True)
    first = x.grad
    (x * x).sum().backward()
    assert numbers(first) == [12, 27] and numbers(x.grad) == [16, 33]
    (second,) = mg.autograd.grad(first.sum(), x)
    assert numbers(second) == [12, 18]


def test_a_tensor_used_twice_gets_both_gradients():
    x = leaf(3)
    (x * x + x).sum().backward()
    assert numbers(x.grad) == [7]


def test_diamond_of_shared_results():
    x = leaf(2)
    a = x * 3
    b, c = a * a, mg.exp(a * 0.1)
    (b * c + a).sum().backward()
    e = np.exp(0.6)
    assert np.allclose(x.grad.numpy(), 3 * (2 * 6 * e + 36 * 0.1 * e + 1))


def test_gradients_of_two_leaves_do_not_share_memory():
    x, y = leaf(1, 2), leaf(3, 4)
    (x + y).backward(mg.ones(2, dtype=mg.float64))
    with mg.no_grad():
        x.grad += 1
    assert numbers(y.grad) == [1, 1]


def test_the_given_cotangent_stays_the_users():
    x, cotangent = leaf(1, 2), mg.tensor([1.0, 1.0], dtype=mg.float64)
    (x + 0).backward(cotangent)
    (x + 0).backward(cotangent)
    assert numbers(cotangent) == [1, 1] and numbers(x.grad) == [2, 2]


def test_gradient_has_the_dtype_of_its_leaf():
    x, y = mg.ones(2, requires_grad=True), leaf(1, 2)
    (x * y).sum().backward()
    assert x.grad.dtype == mg.float32 and y.grad.dtype == mg.float64


def test_backward_of_a_leaf():
    x = mg.tensor(2.0, requires_grad=True)
    x.backward()
    assert x.grad.item() == 1


def test_backward_needs_a_cotangent_for_more_than_one_element():
    with pytest.raises(RuntimeError, match=r"\(2,\).*one element"):
        (leaf(1, 2) * 2).backward()


def test_cotangent_of_the_wrong_shape():
    with pytest.raises(RuntimeError, match=r"\(3,\).*\(2,\)"):
        (leaf(1, 2) * 2).backward(mg.ones(3))


def test_backward_without_a_graph():
    with pytest.raises(RuntimeError, match="does not require grad"):
        mg.ones(1).backward()


def test_second_backward_through_a_freed_graph():
    x = leaf(1, 2)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(RuntimeError, match="retain_graph=True"):
        y.backward()
    assert numbers(x.grad) == [2, 4]


def test_retain_graph():
    x = leaf(1, 2)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    assert numbers(x.grad) == [4, 8]


def test_create_graph_reaches_third_order():
    x = leaf(2)
    y = x**4
    for expected in (32, 48, 48):
        (y,) = mg.autograd.grad(y.sum(), x, create_graph=True)
        assert np.allclose(y.numpy(), expected)


def test_create_graph_gives_a_grad_with_a_graph():
    x = leaf(3)
    (x**3).sum().backward(create_graph=True)
    assert x.grad.requires_grad
    g, x.grad = x.grad, None
    g.sum().backward()
    assert np.allclose(x.grad.numpy(), 18)


def test_grad_leaves_dot_grad_alone():
    x, w = leaf(2), leaf(3)
    (g,) = mg.autograd.grad((x * w).sum(), x)
    assert numbers(g) == [3] and x.grad is None and w.grad is None


def test_grad_of_an_intermediate_result():
    x = leaf(2)
    y = x * 3
    assert numbers(mg.autograd.grad((y * y).sum(), [y, x])[0]) == [12]


def test_grad_of_what_is_not_used():
    x, w = leaf(2), leaf(3)
    with pytest.raises(RuntimeError, match=r"input 1.*allow_unused"):
        mg.autograd.grad((x * 2).sum(), [x, w])
    assert mg.autograd.grad((x * 2).sum(), [x, w], allow_unused=True)[1] is None


def test_grad_runs_only_what_leads_to_the_inputs():
    x, w = leaf(2), leaf(3)
    calls = []
    branch = w * 2
    branch.register_hook(lambda g: calls.append(g))
    deep = mg.exp(w)
    deep_sum = (x * deep.detach() + x * branch).sum()
    mg.autograd.grad(deep_sum, x)
    assert not calls


def test_random_graphs_against_finite_differences():
    binary = [mg.add, mg.multiply, mg.subtract, lambda a, b: mg.tanh(a) * b]
    unary = [mg.tanh, mg.sin, lambda a: a * 0.5, lambda a: a.sum() * a, lambda a: a[::-1]]

    def program(values, seed):
        rng = np.random.default_rng(seed)
        pool = list(values)
        for _ in range(25):
            if rng.random() < 0.6:
                a, b = rng.integers(len(pool), size=2)
                pool.append(binary[rng.integers(len(binary))](pool[a], pool[b]))
            else:
                pool.append(unary[rng.integers(len(unary))](pool[rng.integers(len(pool))]))
            pool[-1] = mg.tanh(pool[-1])
        return (pool[-1] * pool[-2] + pool[len(pool) // 2]).sum()

    for seed in range(30):
        start = np.random.default_rng(seed).standard_normal((3, 4))
        leaves = [leaf(*row) for row in start]
        program(leaves, seed).backward()
        direction = np.random.default_rng(100 + seed).standard_normal((3, 4))
        slope = sum(
            float((t.grad.numpy() * d).sum())
            for t, d in zip(leaves, direction, strict=True)
            if t.grad is not None
        )
        low, high = (
            program([mg.tensor(row) for row in start + step * direction], seed).item()
            for step in (-1e-6, 1e-6)
        )
        assert abs(slope - (high - low) / 2e-6) < 1e-6 * max(1, abs(slope)), seed


# -------------------------------------------------------------------------------------------- hooks
def test_hook_sees_and_replaces_the_gradient():
    x = leaf(1, 2)
    y = x * 3
    seen = []
    y.register_hook(lambda g: seen.append(numbers(g)))
    y.register_hook(lambda g: g * 10)
    y.sum().backward()
    assert seen == [[1, 1]] and numbers(x.grad) == [30, 30]


def test_hook_of_a_leaf_runs_once_with_the_whole_gradient():
    x = leaf(1)
    seen = []
    x.register_hook(lambda g: seen.append(g.item()))
    (x * 2 + x * 3).sum().backward()
    assert seen == [5]


def test_hook_can_be_removed():
    x = leaf(1)
    handle = x.register_hook(lambda g: g * 100)
    handle.remove()
    handle.remove()
    (x * 2).sum().backward()
    assert numbers(x.grad) == [2]


def test_hook_that_returns_nonsense():
    x = leaf(1)
    x.register_hook(lambda g: "no")
    with pytest.raises(RuntimeError, match="hook: expected None or a Tensor"):
        (x * 2).sum().backward()
    assert x.grad is None


def test_retain_grad():
    x = leaf(1, 2)
    y = x * 3
    y.retain_grad()
    y.retain_grad()
    (y * y).sum().backward()
    assert numbers(y.grad) == [6, 12]


# --------------------------------------------------------------------------------- writes, versions
def test_write_to_a_leaf_that_requires_grad():
    x = leaf(1, 2)
    with pytest.raises(RuntimeError, match="no_grad"):
        x += 1
    with pytest.raises(RuntimeError, match="no_grad"):
        x[0] = 5
    with pytest.raises(RuntimeError, match="no_grad"):
        x.zero_()
    assert numbers(x) == [1, 2]
    with mg.no_grad():
        x += 1
        x[0] = 7
    assert numbers(x) == [7, 3] and x.requires_grad


def test_in_place_operator_on_a_result_makes_a_new_tensor():
    x = leaf(1, 2)
    y = first = x * 2
    y += 1
    assert y is not first and numbers(first) == [2, 4]
    y.sum().backward()
    assert numbers(x.grad) == [2, 2]


def test_in_place_operator_without_a_gradient_writes_in_place():
    x = first = mg.tensor([1.0, 2.0])
    x *= 3
    assert x is first and numbers(first) == [3, 6]
    total = mg.zeros(1)
    total += leaf(1).sum()  # its result is recorded, so it cannot be a write
    assert total.requires_grad


def test_in_place_operator_may_not_grow_or_change_the_dtype():
    x = mg.zeros(2)
    with pytest.raises(ValueError, match="broadcast"):
        x += mg.ones(3, 2)
    i = mg.tensor([1, 2])
    with pytest.raises(TypeError, match="cannot write float32 into a int64"):
        i /= 2
    assert numbers(i) == [1, 2] and x.shape == (2,)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x * x,
        lambda x: mg.log(x),
        lambda x: mg.var(x),
        lambda x: mg.where(x > 0, x * x, x),
    ],
)
def test_write_to_a_saved_input_is_noticed(make):
    x = leaf(1, 2)
    y = make(x).sum()
    with mg.no_grad():
        x += 1
    with pytest.raises(RuntimeError, match=r"\(2,\).*version 0.*1 now.*clone"):
        y.backward()
    assert x.grad is None


def test_write_to_a_saved_output_is_noticed():
    x = leaf(1, 2)
    y = mg.exp(x)
    with mg.no_grad():
        y.zero_()
    with pytest.raises(RuntimeError, match="exp: its gradient needs its output"):
        y.sum().backward()


@pytest.mark.parametrize(
    "view", [lambda x: x.detach(), lambda x: x[:1], lambda x: x.reshape(2, 1), lambda x: x.T]
)
def test_write_through_a_view_is_noticed(view):
    x = leaf(1, 2)
    y = (x * x).sum()
    with mg.no_grad():
        view(x)[...] = 9
    with pytest.raises(RuntimeError, match="written to in place"):
        y.backward()


def test_write_to_what_was_not_saved_does_no_harm():
    x = leaf(1, 2)
    y = x + 1
    with mg.no_grad():
        x += 1
    y.sum().backward()
    assert numbers(x.grad) == [1, 1]


def test_only_what_a_rule_names_is_kept():
    a, b = leaf(1, 2), mg.tensor([3.0, 4.0], dtype=mg.float64)
    inner = a * 1
    reference = weakref.ref(inner)
    y = inner * b  # the rule of `inner` names y alone, and `b` needs no gradient
    del inner
    assert reference() is None
    y.sum().backward()
    assert numbers(a.grad) == [3, 4]


def test_numpy_is_a_read_only_view():
    x = mg.ones(2)
    with pytest.raises(ValueError, match="read-only"):
        x.numpy()[0] = 5
    own = x.numpy(copy=True)
    own[0] = 5
    assert numbers(x) == [1, 1]


def test_read_only_memory_is_not_written_to():
    x = mg.broadcast_to(mg.ones(1), (3,))
    with pytest.raises(ValueError, match=r"read-only.*clone"):
        x += 1


# A view to write to, and one to read from, of 24 elements: named by what makes them.
VIEWS = {
    "whole": lambda a: a,
    "reversed": lambda a: a[::-1],
    "front": lambda a: a[:12],
    "back": lambda a: a[12:],
    "later": lambda a: a[3:15],
    "even": lambda a: a[::2],
    "odd, reversed": lambda a: a[::-2],
    "matrix": lambda a: a.reshape(4, 6),
    "transposed": lambda a: a.reshape(6, 4).T,
    "rows up": lambda a: a.reshape(4, 6)[::-1],
    "column": lambda a: a.reshape(4, 6)[:, 1:2],
    "row": lambda a: a.reshape(4, 6)[2],
    "element": lambda a: a[5],
    "cube": lambda a: a[:12].reshape(2, 3, 2).T,
}


def fitting_views():
    for target, source in itertools.product(VIEWS, repeat=2):
        shapes = [VIEWS[name](np.arange(24)).shape for name in (target, source)]
        try:
            if np.broadcast_shapes(*shapes) == shapes[0]:
                yield target, source
        except ValueError:
            pass


OVERLAPPING_WRITES = {  # of Tensors, and of arrays
    "x[...] = y": lambda x, y: x.__setitem__(..., y),
    "copy_": lambda x, y: getattr(x, "copy_", partial(x.__setitem__, ...))(y),
    "+=": lambda x, y: x.__iadd__(y),
    "-=": lambda x, y: x.__isub__(y),
    "*=": lambda x, y: x.__imul__(y),
    "x[...] += y": lambda x, y: x.__setitem__(..., x.__iadd__(y)),
}


@pytest.mark.parametrize("name", OVERLAPPING_WRITES)
@pytest.mark.parametrize("dtype", [mg.float32, mg.float64, mg.int64])
def test_a_source_in_the_memory_of_the_target_is_read_first(name, dtype):
    write, rng = OVERLAPPING_WRITES[name], np.random.default_rng(0)
    for target, source in fitting_views():
        expected = rng.integers(0, 100, 24).astype(dtype)
        base = mg.tensor(expected)
        copied = VIEWS[source](expected).copy()
        place = expected[5:6].reshape(()) if target == "element" else VIEWS[target](expected)
        write(VIEWS[target](base), VIEWS[source](base))
        write(place, copied)
        np.testing.assert_array_equal(base.numpy(), expected, f"{target} from {source}")


@pytest.mark.parametrize("dtype", [mg.float32, mg.float64, mg.int32])
def test_overlapping_assignments(dtype):
    def eight():
        return mg.arange(8, dtype=dtype)

    x = eight()
    x[::2] = x[:4]
    assert numbers(x) == [0, 1, 1, 3, 2, 5, 3, 7]
    x = eight()
    x[1:] = x[:-1]
    assert numbers(x) == [0, 0, 1, 2, 3, 4, 5, 6]
    x = eight()
    x[1:] += x[:-1]
    assert numbers(x) == [0, 1, 3, 5, 7, 9, 11, 13]
    x = eight()
    x += x[::-1]
    assert numbers(x) == [7] * 8
    x = eight().reshape(2, 4)[:, :2]
    x[...] = x.T
    assert numbers(x) == [[0, 4], [1, 5]]
    x = eight()
    x[mg.tensor([0, 2, 4, 6])] = x[3::-1]
    assert numbers(x) == [3, 1, 2, 3, 1, 5, 0, 7]
    x = eight()
    x[x > 3] = x[:4]
    assert numbers(x) == [0, 1, 2, 3] * 2
    x = mg.asarray(np.arange(8, dtype=dtype))
    x[::2] = np.asarray(x)[:4]
    assert numbers(x) == [0, 1, 1, 3, 2, 5, 3, 7]
    x, order = mg.arange(8), mg.arange(8)[::-1]
    order[order[:4]] = order[4:]
    x[7 - x[:4]] = x[:4]
    assert numbers(x) == [0, 1, 2, 3, 3, 2, 1, 0] and numbers(order) == [7, 6, 5, 4, 0, 1, 2, 3]


def test_a_running_average_of_what_overlaps_it():
    memory = mg.tensor([1.0, 2.0, 3.0, 4.0])
    batch = memory[:3]
    mg._core.engine.graph.move_statistics(
        "test", memory[1:], mg.ones(3), batch, mg.ones(3), 0.5, 1.0
    )
    assert numbers(memory) == [1, 1.5, 2.5, 3.5]


def test_a_gradient_of_what_overlaps_grad():
    x, memory = leaf(0, 0, 0), mg.tensor([1.0, 2.0, 3.0, 4.0], dtype=mg.float64)
    x.grad = memory[1:]
    x.backward(memory[:3])
    assert numbers(x.grad) == [3, 5, 7]


# --------------------------------------------------------------------------- exceptions, interrupts
def test_an_exception_leaves_every_grad_as_it_was():
    x, w = leaf(1), leaf(2)
    (x * w).sum().backward()

    def fail(g):
        raise KeyError("from the hook")

    y = x * 3
    handle = y.register_hook(fail)
    z = (w * 5 + y * w).sum()
    with pytest.raises(KeyError):
        z.backward(retain_graph=True)
    assert numbers(x.grad) == [2] and numbers(w.grad) == [1]
    handle.remove()
    z.backward()  # the graph is intact, and nothing is left over from the failed pass
    assert numbers(x.grad) == [8] and numbers(w.grad) == [9]


def test_a_pass_inside_a_hook_over_the_same_graph():
    x = leaf(3)
    y = x * x
    z, seen = y.sum(), []

    def hook(g):
        if not seen:
            seen.append("running")
            seen[0] = numbers(mg.autograd.grad(z, x, retain_graph=True)[0])

    y.register_hook(hook)
    z.backward(retain_graph=True)
    assert seen == [[6]] and numbers(x.grad) == [6]


def test_a_hook_that_frees_what_is_still_to_run():
    x = leaf(3)
    y = x * x
    z, calls = y.sum(), []

    def hook(g):
        calls.append(g)
        if len(calls) == 1:
            mg.autograd.grad(
                y, x, g
            )  # frees the node of y, whose rule the outer pass is to run next

    y.register_hook(hook)
    with pytest.raises(RuntimeError, match="freed"):
        z.backward()
    assert x.grad is None


def test_ctrl_c_inside_backward():
    # A shell starts background jobs with the signal ignored, and Python leaves it so.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    x = leaf(1)
    y = x
    for _ in range(2000):
        y = y + x
    y.register_hook(lambda g: signal.raise_signal(signal.SIGINT))
    try:
        with pytest.raises(KeyboardInterrupt):
            y.sum().backward()
    finally:
        signal.signal(signal.SIGINT, before)
    assert x.grad is None


# ------------------------------------------------------------------------------------------- memory
def in_a_small_stack(function) -> None:
    failures = []

    def run():
        try:
            function()
        except BaseException as error:  # re-raised in the test's thread
            failures.append(error)

    previous = threading.stack_size(512 * 1024)
    try:
        thread = threading.Thread(target=run)
        thread.start()
    finally:
        threading.stack_size(previous)
    thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("step", [lambda y: y + 1.0, lambda y: y * y, lambda y: mg.exp(y * 0.0)])
def test_a_chain_of_a_million_ops(step):
    def run():
        x = leaf(1)
        y = x
        for _ in range(1_000_000 if step(leaf(1)).grad_fn.name == "add" else 300_000):
            y = step(y)
        del y  # freed without a backward
        y = x
        for _ in range(1_000_000):
            y = y + 1.0
        y.sum().backward()
        assert numbers(x.grad) == [1]

    in_a_small_stack(run)


def live_tensors() -> int:
    return sum(issubclass(type(o), mg.Tensor) for o in gc.get_objects())


def test_training_steps_leave_no_tensor_behind():
    w = mg.randn(4, 3, requires_grad=True)
    x = mg.randn(8, 4)

    def step():
        hidden = x @ w
        normal = (hidden - hidden.mean(0, keepdims=True)) / mg.sqrt(
            hidden.var(0, keepdims=True) + 1e-5
        )
        loss = -mg.log_softmax(mg.relu(normal))[:, 0].mean()
        loss.backward()
        with mg.no_grad():
            w.copy_(w - 0.1 * w.grad)
        w.grad = None

    gc.collect()
    gc.disable()
    try:
        step()
        before = live_tensors()
        for _ in range(1000):
            step()
        assert live_tensors() == before
    finally:
        gc.enable()


def test_a_graph_is_freed_by_reference_counting_alone():
    gc.disable()
    try:
        x = leaf(1, 2)
        y = mg.exp(x) * mg.tanh(x)
        reference = weakref.ref(y)
        del y
        assert reference() is None
    finally:
        gc.enable()


def test_a_cycle_through_grad_is_collected():
    x = leaf(2)
    (x**3).sum().backward(create_graph=True)
    reference = weakref.ref(x)
    del x
    gc.collect()
    assert reference() is None


def test_threads_train_side_by_side():
    results = {}

    def train(seed):
        rng = np.random.default_rng(seed)
        w = mg.tensor(rng.standard_normal((200, 300)), requires_grad=True)
        x = mg.tensor(rng.standard_normal((100, 200)))
        for _ in range(10):
            mg.tanh(x @ w).sum().backward()
        results[seed] = w.grad.numpy(copy=True)

    threads = [
        threading.Thread(target=train, args=(seed % 2 + 10 * (seed // 2),)) for seed in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    together = dict(results)
    for seed in together:
        train(seed)
        assert np.array_equal(together[seed], results[seed])


# ----------------------------------------------------- passes within and beside each other
def test_create_graph_gives_each_leaf_a_grad_of_its_own():
    a, b = mg.ones(2, requires_grad=True), mg.ones(2, requires_grad=True)
    ((a + b) * 2).sum().backward(create_graph=True)
    assert a.grad is not b.grad
    (a + b).sum().backward()
    assert numbers(a.grad) == numbers(b.grad) == [3, 3]


def test_create_graph_leaves_the_given_cotangent_alone():
    a, v = leaf(1, 2), mg.ones(2, dtype=mg.float64)
    (a + 0).backward(v, create_graph=True)
    (a + 0).backward(v)
    assert numbers(v) == [1, 1] and numbers(a.grad) == [2, 2]


def test_two_retained_gradients_do_not_share_memory():
    x = leaf(1)
    y, z = x * 2, x * 3
    y.retain_grad()
    z.retain_grad()
    (y + z).sum().backward()
    with mg.no_grad():
        y.grad += 1
    assert numbers(z.grad) == [1]


def test_a_hook_may_not_change_the_dtype():
    x = leaf(1, 2)
    x.grad = mg.zeros(2, dtype=mg.float64)
    x.register_hook(lambda g: g.astype(mg.float32))
    with pytest.raises(RuntimeError, match="dtype float64"):
        (x * 2).sum().backward()
    assert numbers(x.grad) == [0, 0]


def test_a_pass_inside_a_hook_has_cotangents_of_its_own():
    w, h = leaf(2), leaf(1) * 1
    y = h * 1
    seen = []

    def hook(g):
        with mg.enable_grad():
            inner = (w * w).sum()
        seen.append(numbers(mg.autograd.grad(inner, w)[0]))

    y.register_hook(hook)
    (y + w * 5).sum().backward()
    assert seen == [[4]] and numbers(w.grad) == [5]


def test_a_pass_inside_a_hook_over_nodes_that_the_outer_has_yet_to_run():
    x, q = leaf(2), leaf(1)
    h = x * 3
    y, other = h * 4, (h * q).sum()
    seen = []
    y.register_hook(lambda g: seen.append(mg.autograd.grad(other, q, retain_graph=True)[0].item()))
    assert numbers(mg.autograd.grad(y.sum(), x)[0]) == [12]
    assert seen == [6]


def test_threads_share_a_leaf():
    w = mg.ones(200, 200, requires_grad=True)
    x = mg.ones(200, 200)

    def run():
        for _ in range(10):
            ((x * w) + (w * x) * 2 + (w + 1)).sum().backward()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert np.array_equal(w.grad.numpy(), np.full((200, 200), 160))


def test_threads_take_gradients_of_a_shared_leaf():
    w, results = mg.ones(100, 100, requires_grad=True), []

    def run():
        for _ in range(30):
            results.append(mg.autograd.grad((w * 4).sum(), w)[0].numpy().mean())

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [4] * 90


def test_retain_grad_comes_after_the_hooks_and_waits_for_success():
    x = leaf(1)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    (y * 1).sum().backward(retain_graph=True)
    assert numbers(y.grad) == [10]

    def fail(g):
        raise KeyError

    x.register_hook(fail)
    with pytest.raises(KeyError):
        (y * 1).sum().backward()
    assert numbers(y.grad) == [10]


def test_a_failed_pass_does_not_disturb_the_next():
    x = leaf(1)
    with pytest.raises(RuntimeError):
        mg.ones(1).backward()
    with pytest.raises(RuntimeError, match="one element"):
        (leaf(1, 2) * 2).backward()
    (x * 2).sum().backward()
    assert numbers(x.grad) == [2]


# ------------------------------------------------------------------- operators, odd inputs
@pytest.mark.parametrize("operator", ["//", "%", "**", "+", "-", "*", "/"])
def test_every_in_place_operator_writes_in_place(operator):
    a = b = mg.tensor([7.0, 8.0])
    scope = {"a": a}
    exec(f"a {operator}= 2", scope)
    assert scope["a"] is b and numbers(b) == numbers(
        eval(f"x {operator} 2", {"x": mg.tensor([7.0, 8.0])})
    )
    q = mg.tensor([7.0], requires_grad=True)
    with pytest.raises(RuntimeError, match="no_grad"):
        exec(f"q {operator}= 2", {"q": q})


def test_bit_operators_of_integers_are_bitwise():
    a, b = mg.tensor([6, 2]), mg.tensor([3, 3])
    assert numbers(a & b) == [2, 2] and numbers(a | b) == [7, 3] and numbers(a ^ b) == [5, 1]
    assert numbers(~a) == [-7, -3] and numbers(~mg.tensor([True, False])) == [False, True]
    c = a
    c &= 3
    assert c is a and numbers(a) == [2, 2]
    with pytest.raises(TypeError, match="bitwise_or"):
        mg.tensor([1.0]) | 1


def test_comparison_with_what_is_no_number():
    x = mg.tensor([1.0])
    assert (x == "a") is False and (x != None) is True  # noqa: E711
    assert "a" not in [x]
    with pytest.raises(TypeError):
        pow(x, 2, 3)


def test_a_tensor_made_without_init_is_empty():
    class Forgetful(mg.Tensor):
        def __init__(self):
            pass

    assert Forgetful().sum().item() == 0 and mg.Tensor.__new__(mg.Tensor).shape == (0,)


def test_what_the_engine_makes_has_no_constructor():
    node = (leaf(1) * 2).grad_fn
    for kind in (type(node), type(node.op), type(mg.ones(2) == mg.ones(3))):
        for make in (
            kind,
            lambda kind=kind: kind.__new__(kind),
            lambda kind=kind: object.__new__(kind),
        ):
            with pytest.raises(TypeError):
                make()
    for again in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            again(node)
    assert repr(node) == "<multiply>"


POKE = """
import copy, importlib, pickle, pkgutil
import numpy as np
import minigrad as mg

x = mg.ones(2, requires_grad=True)
for module in pkgutil.walk_packages(mg._core.__path__, "minigrad._core."):
    module = importlib.import_module(module.name)
    for value in list(vars(module).values()):
        if not isinstance(value, type) or value.__module__ != module.__name__:
            continue
        for make in (value, lambda: value.__new__(value), lambda: object.__new__(value)):
            try:
                made = make()
            except Exception:
                continue
            uses = [repr, hash, str, bool, len, copy.copy, copy.deepcopy, pickle.dumps, list, dir]
            for member in dir(made):
                uses.append(lambda made: getattr(made, member))
                if member not in ("__class__", "__init_subclass__"):
                    uses += [
                        lambda made: getattr(made, member)(),
                        lambda made: getattr(made, member)(None),
                        lambda made: getattr(made, member)(made, None),
                        lambda made: mg.take_along_axis(x, made, 0),
                    ]
            for use in uses:
                try:
                    use(made)
                except Exception:
                    pass
print("alive")
"""


def test_no_object_of_the_core_crashes():
    command = [sys.executable, "-W", "ignore", "-X", "faulthandler", "-c", POKE]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.stdout.strip().endswith("alive"), result.stderr


def rule(*parameters):
    return eval(f"lambda {', '.join(parameters)}: 0")


BAD_OPS = {
    "4 rules": {"rules": (rule("g"),) * 4},
    "1000 rules": {"rules": (rule("g"),) * 1000},
    "2 rules of a variadic": {"rules": (rule("g"),) * 2, "variadic": True},
    "9 parameters": {"rules": (rule(*"abcdefghi"),), "attributes": tuple("abcdefghi")},
    "100 parameters": {
        "rules": (rule(*(f"p{i}" for i in range(100))),),
        "attributes": tuple(f"p{i}" for i in range(100)),
    },
    "300 attributes": {"attributes": tuple(f"p{i}" for i in range(300))},
    "an unknown parameter": {"rules": (rule("g", "nothing"),)},
    "a third input": {"rules": (rule("g", "z"),)},
    "an opcode below 0": {"opcode": -1},
    "an opcode beyond the kernels": {"opcode": 10**6},
    "core_dims below -1": {"core_dims": -2},
    "core_dims of a variadic": {"core_dims": 0, "variadic": True},
}


@pytest.mark.parametrize("what", BAD_OPS)
def test_an_op_that_a_node_has_no_room_for(what):
    with pytest.raises(ValueError, match=r"^bad: "):
        make_op("bad", **BAD_OPS[what])
    with pytest.raises(ValueError, match=r"^bad: "):
        register("bad", **{"opcode": -1, "fallback": None, "rules": (), **BAD_OPS[what]})
    assert "bad" not in primitives()


def test_a_primitive_registered_twice_leaves_the_first():
    with pytest.raises(ValueError, match="registered twice"):
        register("add", 0, None, ())
    assert numbers(leaf(1) + leaf(2)) == [3]


@pytest.mark.parametrize("specification", [None, 1, b"f"])
def test_a_format_that_is_no_string(specification):
    for x in (mg.tensor(1.0), mg.ones(2)):
        with pytest.raises(TypeError):
            format(x, specification)
        with pytest.raises(TypeError):
            x.__format__(specification)
    assert f"{mg.tensor(1.0):.2f}" == "1.00"


def test_a_list_finds_its_tensors_among_others_of_other_shapes():
    a, b, c = mg.zeros(2), mg.zeros(3), mg.zeros(4, dtype=mg.int64)
    tensors = [a, b, c]
    for i, x in enumerate(tensors):
        assert x in tensors and tensors.index(x) == i and tensors.count(x) == 1
        assert x in tuple(tensors)
    assert mg.zeros(5) not in tensors and np.zeros(5) not in tensors
    tensors.remove(c)
    assert len(tensors) == 2 and c not in tensors
    assert [a, c] != [b, c] and [a, b] == [a, b]


def test_equality_of_shapes_that_do_not_broadcast():
    a, b = mg.zeros(2), mg.zeros(3)
    for other in (b, np.zeros(3), b.astype(mg.int64)):
        assert not a == other and a != other and not other == a and other != a  # noqa: SIM201
    for function in (mg.equal, mg.not_equal):
        with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
            function(a, b)
    unequal = a == b
    uses = (
        lambda: unequal.mean(),
        lambda: unequal.shape,
        lambda: mg.where(unequal, 1, 2),
        lambda: np.where(unequal, 1, 2),
        lambda: np.asarray(unequal),
        lambda: a[unequal],
        lambda: mg.asarray(unequal),
    )
    for use in uses:  # a failed comparison must not count as a result
        with pytest.raises(ValueError, match=r"shapes \(2,\) and \(3,\)"):
            use()
    for use in (lambda: ~unequal, lambda: unequal * a, lambda: a | unequal, lambda: sum([unequal])):
        with pytest.raises(TypeError):
            use()
    assert "do not broadcast" in repr(unequal)


def test_what_a_tensor_contains():
    x = mg.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert 3 in x and np.float64(2) in x and 5 not in x
    assert mg.tensor([3.0, 0.0]) in x and np.array([0.0, 2.0]) in x
    with pytest.raises(ValueError, match=r"shapes \(2, 2\) and \(3,\)"):
        mg.zeros(3) in x  # noqa: B015
    with pytest.raises(TypeError, match="in: expected a Tensor, got str"):
        "a" in x  # noqa: B015


def test_a_tensor_made_of_a_tensor_shares_its_version():
    x, w = mg.tensor([1.0, 2.0]), mg.ones(2, requires_grad=True)
    y = (w * x).sum()
    mg.Tensor(x)[0] = 100
    with pytest.raises(RuntimeError, match="written to in place"):
        y.backward()


def test_a_reshape_that_copies_has_a_version_of_its_own():
    x = mg.ones(2, 3, requires_grad=True)
    y, z = (x * x).sum(), x.T.reshape(-1)
    with mg.no_grad():
        z[0] = 5
    y.backward()
    assert numbers(x.grad) == [[2] * 3] * 2


def test_a_gradient_is_not_its_own_tensor():
    x = leaf(1)
    with pytest.raises(TypeError, match="itself"):
        x.grad = x


def test_a_hook_is_removed_by_identity():
    class Hook:
        def __call__(self, g):
            return None

        def __eq__(self, other):
            raise ValueError("compared")

        __hash__ = None

    x = leaf(1)
    handles = [x.register_hook(Hook()) for _ in range(3)]
    for handle in (*handles[1:], *handles):
        handle.remove()
    (x * 2).sum().backward()
    assert numbers(x.grad) == [2]


@pytest.mark.parametrize("number", [0.1, 1e300, 3, True, np.float64(0.1), np.float32(0.5)])
def test_a_cotangent_given_as_a_number(number):
    x = leaf(3)
    y = (x * 2).sum()
    y.backward(number, retain_graph=True)
    assert x.grad.item() == 2 * float(number)
    for given in (number, [number], (number,), np.array(number), mg.tensor(number, dtype=x.dtype)):
        (gradient,) = mg.autograd.grad(y, x, given, retain_graph=True)
        assert gradient.dtype == mg.float64 and gradient.item() == 2 * float(number)
    _, pull_back = mg.func.vjp(lambda x: (x * 2).sum(), x.detach())
    assert pull_back(number)[0].item() == 2 * float(number)
    _, tangent = mg.func.jvp(lambda x: x * 2, (x.detach()[0],), (number,))
    assert tangent.item() == 2 * float(number)


def test_a_hook_registered_twice_is_removed_once():
    x, calls = leaf(1), []
    first = x.register_hook(calls.append)
    x.register_hook(calls.append)
    first.remove()
    first.remove()
    (x * 1).sum().backward()
    assert len(calls) == 1


def test_indices_are_copied_whatever_they_are():
    x, p = (
        mg.tensor(np.arange(12.0).reshape(3, 4), requires_grad=True),
        np.array([[3, 1, 0], [0, 2, 1]]),
    )
    view = p.T.view()
    view.flags.writeable = False
    assert (
        numbers(mg.take_along_axis(x, view, 1)) == np.take_along_axis(x.numpy(), view, 1).tolist()
    )
    small = np.zeros((3, 1), np.int32)
    small.flags.writeable = False
    y = mg.take_along_axis(x, small, 1)
    assert numbers(y) == [[0], [4], [8]]
    taken = mg.take_along_axis(x, view, 1)
    p[...] = 2
    taken.sum().backward()
    assert x.grad.numpy().sum(1).tolist() == [2, 2, 2] and x.grad.numpy()[0].tolist() == [
        1,
        0,
        0,
        1,
    ]


@pytest.mark.parametrize("logits", [[20.0, 6.0], [100.0, 84.0], [1e4, 1e4], [1e8, 1e8]])
def test_log_softmax_keeps_small_losses_of_large_logits(logits):
    x = mg.tensor(logits, requires_grad=True)
    exact = np.log1p(np.exp(logits[1] - logits[0]))
    y = mg.log_softmax(x)
    assert abs(-y[0].item() - exact) <= 2e-7 * max(exact, 1e-30) + 1e-30 or np.isclose(
        -y[0].item(), exact, rtol=1e-6
    )
    y[0].backward()
    assert abs(x.grad.numpy().sum()) < 1e-7


def test_products_of_nothing():
    assert (mg.zeros(2, 3, 0) @ mg.zeros(0, 4)).shape == (2, 3, 4)
    assert (mg.zeros(2, 3, 0) @ mg.zeros(0)).shape == (2, 3)
    assert mg.linear(mg.zeros(2, 3, 0), mg.zeros(4, 0)).shape == (2, 3, 4)


def test_clip_at_a_tensor_bound_has_gradient_one():
    x = leaf(0, 1, 2)
    mg.clip(x, mg.tensor(0.0), mg.tensor(1.0)).sum().backward()
    assert numbers(x.grad) == [1, 1, 0]


def test_mixed_second_derivative_of_a_power_at_zero():
    x, y = leaf(2.0), leaf(0.0)
    (slope,) = mg.autograd.grad((x**y).sum(), x, create_graph=True)
    assert numbers(mg.autograd.grad(slope.sum(), y)[0]) == [0.5]


@pytest.mark.parametrize("dtype", [mg.float32, mg.float64])
@pytest.mark.parametrize(
    "shapes",
    [
        ((300, 200), (200,)),
        ((300, 200), (300, 1)),
        ((300, 200), (1, 1)),
        ((3, 100, 200), (100, 1)),
        ((3, 100, 200), (3, 1, 200)),
        ((200, 3, 100), ()),
        ((300, 1), (1, 200)),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_large_products_are_summed_as_they_are_computed(shapes, dtype, transposed):
    """The gradient of a broadcast factor, with and without the product in memory."""
    random = np.random.default_rng(0)
    x, y = (mg.tensor(random.standard_normal(s), dtype=dtype, requires_grad=True) for s in shapes)
    g = mg.tensor(random.standard_normal(np.broadcast_shapes(*shapes)), dtype=dtype)
    if transposed:
        axes = tuple(reversed(range(g.ndim)))
        x, g = mg.permute_dims(x.detach(), axes).requires_grad_(), mg.permute_dims(g, axes)
        y = mg.reshape(y.detach(), (1,) * (g.ndim - y.ndim) + y.shape)
        y = mg.permute_dims(y, axes).requires_grad_()
    for left, right in ((x, y), (y, x)):
        direct = mg.autograd.grad(left * right, (x, y), g)
        recorded = mg.autograd.grad(left * right, (x, y), g, create_graph=True)
        for got, want in zip(direct, recorded, strict=True):
            assert got.shape == want.shape and got.dtype == want.dtype
            scale = float(np.abs(want.numpy()).max())
            atol = (2e-7 if dtype == mg.float32 else 1e-15) * 30 * scale
            np.testing.assert_allclose(got.numpy(), want.numpy(), rtol=0, atol=atol)


@pytest.mark.parametrize("axis", [0, 1, (0, 2), None])
@pytest.mark.parametrize("keepdims", [False, True])
def test_the_variance_has_one_gradient_recorded_or_not(axis, keepdims):
    x = mg.tensor(np.random.default_rng(0).standard_normal((4, 5, 6)), requires_grad=True)
    for z in (x, mg.permute_dims(x, (2, 0, 1)), mg.flip(x, 1)):
        v = mg.var(z, axis, correction=1, keepdims=keepdims)
        g = mg.tensor(np.random.default_rng(1).standard_normal(v.shape))
        direct = mg.autograd.grad(v, x, g, retain_graph=True)[0]
        recorded = mg.autograd.grad(v, x, g, create_graph=True)[0]
        np.testing.assert_array_equal(direct.numpy(), recorded.detach().numpy())
