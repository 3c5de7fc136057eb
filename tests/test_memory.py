"""Who owns which memory: operands that others write to, gradients, values outside the graph."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

import minigrad as mg
from minigrad.nn import functional as F

RANDOM = np.random.default_rng(0)


class Exporter:
    """An object that offers nothing but DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def leaf(values=None, dtype=np.float64):
    values = RANDOM.uniform(0.2, 0.8, (3, 3)) if values is None else values
    return mg.tensor(np.asarray(values, dtype), requires_grad=True)


# ------------------------------------------------------------------------ gradients share no memory
class Both(mg.autograd.Function):
    """a + b, which returns its cotangent twice."""

    @staticmethod
    def forward(ctx, a, b):
        return a + b

    @staticmethod
    def backward(ctx, g):
        return g, g


class Own(mg.autograd.Function):
    """a * b with a wrong backward, that returns what was saved."""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, g):
        return ctx.saved_tensors


SAME_GRADIENTS = {
    "add": lambda a, b: a + b,
    "add thrice": lambda a, b: a + b + a,
    "remainder": lambda a, b: a % 2.0 + b,
    "reshape": lambda a, b: a.reshape(4) + b.reshape(4),
    "transpose": lambda a, b: (a.T + b).T,
    "sum": lambda a, b: a.sum() + b.sum(),
    "mean": lambda a, b: (a + b).mean(axis=0),
    "broadcast_to": lambda a, b: a + mg.broadcast_to(b, (3, 2, 2)),
    "concat": lambda a, b: mg.concat([a, b]),
    "stack": lambda a, b: mg.stack([a, b]),
    "getitem": lambda a, b: a[0] + b[1],
    "expand_dims": lambda a, b: a[None] + b[None, :, :],
    "squeeze": lambda a, b: mg.squeeze(a[None] + b, 0),
    "where": lambda a, b: mg.where(True, a, b),
    "clip": lambda a, b: mg.clip(a, -9, 9) + b,
    "sum_product": lambda a, b: mg.sum_product(a, b),
    "multiply": lambda a, b: a * b,
    "matmul": lambda a, b: a @ b,
    "astype": lambda a, b: a.astype(mg.float32) + b.astype(mg.float32),
    "identity": lambda a, b: a,
    "sort": lambda a, b: mg.sort(a) + mg.flip(b, 0),
    "norm": lambda a, b: mg.norm(a + b),
    "permuted products": lambda a, b: mg.einsum("ij,jk->ki", a, b),
    "Function": lambda a, b: Both.apply(a, b),
    "Function, saved": lambda a, b: Own.apply(a, b),
    "checkpoint": lambda a, b: mg.autograd.checkpoint(mg.add, a, b),
    "fused": lambda a, b: F.layer_norm(a + b, 2, b[0], b[1]),
    "dropout": lambda a, b: F.dropout(a, 0.0) + b,
}


def assert_apart(**tensors):
    present = {name: t for name, t in tensors.items() if t is not None}
    for (i, a), (k, b) in combinations(present.items(), 2):
        if i.startswith("g") or k.startswith("g"):
            assert not np.shares_memory(a._array, b._array), f"{i} and {k} share memory"
    for name, t in present.items():
        if name.startswith("g"):
            assert t._array.flags.writeable and t._array.flags.c_contiguous, name


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", SAME_GRADIENTS)
def test_gradients_share_no_memory(name, create_graph):
    a, b = leaf(RANDOM.random((2, 2))), leaf(RANDOM.random((2, 2)))
    middle = a * 1.0
    y = SAME_GRADIENTS[name](middle, b)
    v = mg.tensor(RANDOM.random(y.shape), dtype=y.dtype)
    found = mg.autograd.grad(y, [a, b, middle, a], v, True, create_graph, allow_unused=True)
    tensors = dict(zip(("g_a", "g_b", "g_middle", "g_again"), found, strict=True))
    assert_apart(**tensors, a=a, b=b, middle=middle, y=y, v=v)
    if create_graph:
        return
    before = [None if g is None else g.tolist() for g in found]
    for k, g in enumerate(found):
        if g is not None:
            g *= 5
            rest = [None if h is None else h.tolist() for h in found]
            assert rest[k + 1 :] == before[k + 1 :]


@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("name", SAME_GRADIENTS)
def test_grads_of_leaves_share_no_memory(name, create_graph):
    a, b = leaf(RANDOM.random((2, 2))), leaf(RANDOM.random((2, 2)))
    middle, kept = a * 1.0, []
    middle.retain_grad()
    for t in (a, b, middle):
        t.register_hook(kept.append)
    y = SAME_GRADIENTS[name](middle, b)
    v = mg.tensor(RANDOM.random(y.shape), dtype=y.dtype)
    y.backward(v, create_graph=create_graph)
    hooks = {f"g_hook_{k}": g for k, g in enumerate(kept)}
    assert_apart(g_a=a.grad, g_b=b.grad, g_middle=middle.grad, **hooks, a=a, b=b, y=y, v=v)


def test_a_hook_may_write_to_its_gradient():
    def scale(g):
        g *= 5.0

    a, b, v = leaf([1.0, 2.0]), leaf([3.0, 4.0]), mg.tensor([1.0, 1.0], dtype=mg.float64)
    middle = a * 1.0
    middle.register_hook(scale)
    a.register_hook(scale)
    (middle + b).backward(v)
    assert a.grad.tolist() == [25.0, 25.0] and b.grad.tolist() == v.tolist() == [1.0, 1.0]
    (2 * a).sum().backward()  # a gradient that is a broadcast view, which nobody could write to
    assert a.grad.tolist() == [35.0, 35.0]


def test_what_a_hook_returns_stays_its_own():
    a, b, mine = leaf([1.0, 2.0]), leaf([3.0, 4.0]), mg.tensor([9.0, 9.0], dtype=mg.float64)
    a.register_hook(lambda g: mine)
    ga, gb = mg.autograd.grad((a + b).sum(), [a, b])
    ga *= 2
    assert mine.tolist() == [9.0, 9.0] and gb.tolist() == [1.0, 1.0]


def apart(*results):
    leaves = [t for result in results for t in mg.tree.flatten(result)[0]]
    names = {f"g{k}": t for k, t in enumerate(leaves)}
    assert_apart(**names)


@pytest.mark.parametrize("name", SAME_GRADIENTS)
def test_derivatives_of_func_share_no_memory(name):
    function = SAME_GRADIENTS[name]
    a, b = mg.tensor(RANDOM.random((2, 2))), mg.tensor(RANDOM.random((2, 2)))
    y = function(a, b)
    u, v = mg.tensor(RANDOM.random(y.shape), dtype=y.dtype), mg.ones(2, 2, dtype=mg.float64)
    _, pull_back = mg.func.vjp(function, a, b)
    apart(pull_back(u), pull_back(u), u, a, b)
    apart(mg.func.grad(lambda a, b: function(a, b).sum(), (0, 1))(a, b), a, b)
    apart(mg.func.value_and_grad(lambda a, b: function(a, b).sum(), (0, 1))(a, b)[1], a, b)
    apart(mg.func.jacobian(function, (0, 1))(a, b), a, b)
    if name not in ("Function", "Function, saved"):
        apart(mg.func.jvp(function, (a, b), (v, v.clone()))[1], v, a, b)


