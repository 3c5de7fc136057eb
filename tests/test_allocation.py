"""A failed allocation raises MemoryError: no crash, no other error, every gradient unchanged.

Each group of operations runs in a separate process, once for each of its allocations, which then
fails. Operations with much Python code are left out, because CPython 3.11 itself crashes if it has
no memory for the iterator over a dict's items.
"""

import faulthandler
import gc
import operator
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad._core import ops

inject = pytest.importorskip("_testcapi", reason="CPython's own test module makes memory fail")


def leaf(*shape, dtype="float32"):
    return mg.tensor(np.linspace(0.1, 0.9, int(np.prod(shape))).reshape(shape), dtype, True)


def each_op(*operands):
    x, y, square = operands
    return lambda: (
        [x + y, x * y[:, :1], x / 2, x**2, mg.exp(x), mg.gelu(x), mg.clip(x, 0.2, 0.7), -x],
        [x.sum(), x.mean(1), x.var(0), x.prod(), x.max(1), mg.logsumexp(x, 1), mg.softmax(x, 1)],
        [mg.where(x > y, x, y), mg.maximum(x, y), x.cumulative_sum(1), mg.norm(x)],
        [x @ y.T, square @ square, mg.einsum("ij,kj->ik", x, y), mg.tensordot(x, y, 2)],
    )


def shapes(*operands):
    x, y, _ = operands
    rows = mg.tensor([0, 2, 1])
    return lambda: (
        [mg.concat([x, y, x]), mg.stack([x, y, x]), mg.split(x, 2), mg.unstack(x)],
        [x[1], x[::-1, ..., None], x[rows], x[x > 0.5], mg.take(x, rows, axis=0), mg.pad(x, 1)],
        [x.reshape(-1), x.T, mg.flip(x, 0), mg.sort(x), ~(x > 0.5)],
        [mg.broadcast_to(x[0], (3, 4)), mg.squeeze(x[:1])],
    )


def backward(x, y, square):
    def run():
        z = mg.concat([x * y, x + y[:1], mg.tanh(x)])
        (z[1:, ::2].sum() + (z @ x.T).var() + mg.stack(mg.unstack(x)).mean()).backward()

    return run


def hooks(x, y, square):
    x.register_hook(lambda g: g + 1)

    def run():
        z = x * y
        z.retain_grad()
        z.register_hook(lambda g: g * 2)
        z.sum().backward()

    return run


def grad(x, y, square):
    def run():
        (g,) = mg.autograd.grad((x**3 * y).sum(), [x], create_graph=True)
        return mg.autograd.grad((g * g).sum(), [x, y])

    return run


def func(x, y, square):
    def f(x, y):
        return (x * mg.sin(y)).sum()

    return lambda: (mg.func.grad(f, (0, 1))(x, y), mg.func.jvp(f, (x, y), (y, x)))


def network(x, y, square):
    net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2)).eval()
    target = mg.tensor([0, 1, 1])
    return lambda: nn.functional.cross_entropy(net(x), target).backward()


def convolution(x, y, square):
    image, kernel, bias = leaf(2, 1, 5, 5), leaf(2, 1, 2, 2), leaf(2)
    F = nn.functional
    return lambda: mg.autograd.grad(
        F.max_pool2d(F.conv2d(image, kernel, bias), 2).sum(), [image, kernel, bias]
    )


def recurrent(x, y, square):
    net, steps = nn.LSTM(4, 3), x.detach()[:, None]
    return lambda: mg.autograd.grad(net(steps)[0].sum(), list(net.parameters()))


def optimisers(x, y, square):
    parameter = mg.tensor([[1.0, 2.0]], requires_grad=True)
    parameter.grad = mg.ones(1, 2)
    names = ("SGD", "Adam", "AdamW", "RAdam", "RMSprop", "Adagrad", "Lion", "Muon")
    names += ("ScheduleFreeSGD", "ScheduleFreeAdamW")
    return lambda: [getattr(mg.optim, name)([parameter], 0.1).step() for name in names]


def in_place(x, y, square):
    z, doubles = x.detach().clone(), mg.zeros(3, 4, dtype="float64")

    def run():
        doubles[:] = y.detach()[:, :1]
        doubles[mg.tensor([True, False, True]), 1:3] = 1.0
        doubles[1:] = doubles[:-1]
        doubles[doubles > 0.5] = 3.0
        z[1:] = 2.0
        z[mg.tensor([0, 2])] = y.detach()[:2]
        z.fill_(1.0).zero_().copy_(y.detach())
        mg.tensor([[1, 2.5], [3, 4]]).tolist()
        return repr(z)

    return run


def products(x, y, square):
    whole = mg.tensor(np.arange(16).reshape(4, 4))
    stack = mg.stack([square] * 3)
    return lambda: (
        [square @ square, square.T @ square, square[::2] @ square, x @ y.T, stack @ stack.mT],
        [whole @ whole, whole // whole, whole**2, square[0] @ square, square @ x[0]],
        [ops.put(x[0], ([0, 0, 1, 2],), (3,)), mg.outer(x[0], y[0]), stack @ square],
    )


def rarely_in_range(x, y, square):
    big = mg.tensor([[1e30, 2e30], [3e-30, 4e-30]], requires_grad=True)
    zeros = mg.tensor([[0.0, 1, 2], [3, 0, 1]], requires_grad=True)

    def run():
        mg.autograd.grad(mg.norm(big, 1).sum() + mg.norm(big, ord=3) + mg.std(big), [big])
        mg.autograd.grad(mg.prod(zeros, 1).sum(), [zeros])
        return mg.clip(x, y, 0.7), mg.clip(x, 0.2, float("nan")), mg.atan2(x, y[0])

    return run


def in_order(x, y, square):
    long = mg.tensor(np.tile(np.arange(50.0), (3, 100))[:, ::-1])
    return lambda: (
        [mg.sort(x, 0, descending=True), mg.argsort(x, 0, descending=True), mg.sort(long)],
        [mg.argsort(long), mg.argsort(long.astype("float64")), mg.topk(x, 4), mg.topk(long, 3)],
        [mg.topk(mg.tensor([1.0, np.nan]), 1), mg.topk(mg.tensor([[2, 1]]), 1, largest=False)],
    )


def of_numpy(x, y, square):
    rows = mg.tensor([[0, 1, 1, 0]])
    return lambda: (
        [mg.repeat(x, 2, 0), mg.repeat(x, [1, 0, 2], 0), mg.tile(x, (2, 1)), mg.split(x, [1, 2])],
        [mg.tril(x), mg.triu(x, 1), mg.scatter_add(x, 0, rows, y), mg.take_along_axis(x, rows, 0)],
        [mg.any(x > 0.5), mg.all(x > 0, axis=1), rows.sum(0), rows.prod(), rows.max(1), rows.min()],
        [mg.count_nonzero(x), mg.nonzero(x), mg.isclose(x, y), mg.isnan(x)],
        [mg.logical_and(x > 0.5, y[0] > 0.2), rows % rows[0], rows // 2],
    )


def layers(x, y, square):
    F, image, indices = nn.functional, leaf(1, 1, 5, 5), mg.tensor([[1, 2], [3, 0]])
    sequence, mask = x.detach()[None], mg.ones(3, 3) > 0
    return lambda: (
        [F.avg_pool2d(image, 2, 1, 1, count_include_pad=False), F.avg_pool1d(image[0], 2)],
        [F.interpolate(image, 7), F.interpolate(image, scale_factor=1.5), F.dropout(x, 0.5)],
        [F.embedding(indices, square), F.embedding(indices, square, max_norm=0.5)],
        [F.one_hot(indices, 5), F.binary_cross_entropy(x, y), F.glu(x)],
        F.scaled_dot_product_attention(sequence, sequence, sequence, is_causal=True),
        F.scaled_dot_product_attention(sequence, sequence, sequence, attn_mask=mask),
    )


OPERATIONS = [
    each_op, shapes, backward, hooks, grad, func, network, convolution, recurrent, optimisers,
    in_place, products, rarely_in_range, in_order, of_numpy, layers,
]  # fmt: skip


def torment(name):
    """Make each allocation of an operation fail, one by one."""
    faulthandler.enable()
    operands = leaf(3, 4), leaf(3, 4), leaf(4, 4)
    run = globals()[name](*operands)
    for _ in range(3):  # fill the caches
        run()
    gc.collect()
    gc.freeze()
    gc.disable()
    references = list(map(sys.getrefcount, operands))
    start = failed = survived = 0
    while survived < 3:  # memory freed by a failure may spare the next run an allocation
        for i in range(3):
            operands[i].grad = mg.ones(*operands[i].shape)
        start, survived = start + 1, survived + 1
        inject.set_nomemory(start, start + 1)
        try:
            run()
        except MemoryError:
            survived, failed = 0, failed + 1
        finally:
            inject.remove_mem_hooks()
        if not survived:
            assert all((x.grad.numpy() == 1).all() for x in operands), start
        gc.collect()
        now = list(map(sys.getrefcount, operands))
        # CPython leaks the arguments of a call whose frame it cannot allocate: growth is allowed.
        assert all(map(operator.ge, now, references)), (start, now, references)
    print(failed)


@pytest.mark.parametrize(
    ("message", "kind"),
    [("a bug", SystemError), ("<ufunc> returned NULL without setting an exception", MemoryError)],
)
def test_only_an_error_that_was_never_set_becomes_a_memory_error(message, kind):
    def fail(g):
        raise SystemError(message)

    x = mg.ones(2, requires_grad=True)
    x.register_hook(fail)
    with pytest.raises(kind):
        x.sum().backward()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
def test_a_failed_allocation_is_a_memory_error(operation):
    if operation is in_order and np.lib.NumpyVersion(np.__version__) < "2.4.0":
        pytest.skip("argsort of NumPy before 2.4 crashes without memory")
    command = [sys.executable, __file__, operation.__name__]
    path = {"PYTHONPATH": str(Path(mg.__file__).parents[1])}
    child = subprocess.run(command, env=os.environ | path, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) > 5  # that many allocations failed


if __name__ == "__main__":
    torment(sys.argv[1])
