"""Memory ownership: operands that others write to, gradients, values outside the graph."""

from __future__ import annotations

import copy
from collections import UserList, deque
from itertools import combinations
from typing import NamedTuple

import numpy as np
import pytest

import minigrad as mg
from minigrad._core import ops
from minigrad.nn import functional as F

RANDOM = np.random.default_rng(0)


class Exporter:
    """An object that supports only DLPack."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


# ------------------------------------------------------------- operands that change before backward
SHARED = {
    "array": lambda n: n,
    "asarray": mg.asarray,
    "Tensor": mg.Tensor,
    "from_dlpack": lambda n: mg.from_dlpack(Exporter(n)),
    "view": lambda n: mg.asarray(n)[...],
    "transposed": lambda n: mg.asarray(n.T).T,
    "detach": lambda n: mg.asarray(n).detach(),
}

# x is a (3, 3) leaf; n shares memory with an array of that shape, with values in (0.2, 0.8).
OPERATIONS = {
    "multiply": lambda x, n: x * n,
    "multiply reflected": lambda x, n: n * x,
    "divide": lambda x, n: x / n,
    "divide reflected": lambda x, n: n / x,
    "pow": lambda x, n: x**n,
    "pow reflected": lambda x, n: n**x,
    "remainder": lambda x, n: n % x,
    "maximum": lambda x, n: mg.maximum(x, n),
    "minimum": lambda x, n: mg.minimum(n, x),
    "atan2": lambda x, n: mg.atan2(x, n),
    "hypot": lambda x, n: mg.hypot(n, x),
    "gate": lambda x, n: ops.gate(x, n),
    "clip": lambda x, n: mg.clip(x, n, None) * 2,
    "matmul": lambda x, n: x @ n,
    "matmul reflected": lambda x, n: n @ x,
    "a vector": lambda x, n: x @ n[0],
    "broadcast": lambda x, n: x * n[:, :1],
    "broadcast x": lambda x, n: x[0] * n,
    "reversed": lambda x, n: x * n[::-1],
    "linear": lambda x, n: mg.linear(x, n),
    "linear weight": lambda x, n: F.linear(n, x),
    "vecdot": lambda x, n: mg.vecdot(x, n),
    "einsum": lambda x, n: mg.einsum("ij,kj->ik", x, n),
    "einsum, three": lambda x, n: mg.einsum("ij,jk,kl->il", n, x, n),
    "tensordot": lambda x, n: mg.tensordot(n, x, 1),
    "outer": lambda x, n: mg.outer(x[0], n[1]),
    "sum_product": lambda x, n: ops.sum_product(n, x, 0),
    "linear_recurrence": lambda x, n: ops.linear_recurrence(n, x, 0),
    "mse_loss": lambda x, n: F.mse_loss(x, n),
    "l1_loss": lambda x, n: F.l1_loss(x, n),
    "huber_loss": lambda x, n: F.huber_loss(x, n),
    "smooth_l1_loss": lambda x, n: F.smooth_l1_loss(x, n),
    "kl_div": lambda x, n: F.kl_div(x, n),
    "binary_cross_entropy": lambda x, n: F.binary_cross_entropy(x, n),
    "weight of a loss": lambda x, n: F.binary_cross_entropy(x, mg.zeros(3, 3, dtype=mg.float64), n),
    "bce with logits": lambda x, n: F.binary_cross_entropy_with_logits(x, n, n, pos_weight=n),
    "cross_entropy": lambda x, n: F.cross_entropy(x, n),
    "class weight": lambda x, n: F.cross_entropy(x, mg.tensor([0, 2, 1]), n[0]),
    "cosine_embedding_loss": lambda x, n: F.cosine_embedding_loss(x, n, mg.tensor([1, -1, 1])),
    "triplet_margin_loss": lambda x, n: F.triplet_margin_loss(x, n, n[::-1]),
    "cosine_similarity": lambda x, n: F.cosine_similarity(x, n),
    "prelu": lambda x, n: F.prelu(-x, n[0]),
    "layer_norm": lambda x, n: F.layer_norm(x, 3, n[0], n[1]),
    "batch_norm": lambda x, n: F.batch_norm(x, None, None, n[0], n[1]),
    "running statistics": lambda x, n: F.batch_norm(x, n[0], n[1]),
    "conv1d": lambda x, n: F.conv1d(mg.asarray(n)[None], x.reshape(3, 3, 1)),
    "conv2d": lambda x, n: F.conv2d(mg.asarray(n)[None, None], x[None, None, :2, :2]),
    "attention": lambda x, n: F.scaled_dot_product_attention(x, n, n),
    "attention mask": lambda x, n: F.scaled_dot_product_attention(x, x, x, n),
    "lstm_cell": lambda x, n: ops.lstm_cell(mg.concat([x[0], x[1], x[0], x[2]]), n[0]),
    "checkpoint": lambda x, n: mg.autograd.checkpoint(lambda x, n: x * n, x, n),
    "Function": lambda x, n: Times.apply(x, mg.asarray(n)),
    "vjp": lambda x, n: x * 0 + mg.func.vjp(lambda z: (z * n).sum(), x)[0],
}


class Times(mg.autograd.Function):
    """x * n; saves both."""

    @staticmethod
    def forward(ctx, x, n):
        ctx.save_for_backward(x, n)
        return x * n

    @staticmethod
    def backward(ctx, g):
        x, n = ctx.saved_tensors
        return g * n, (g * x if ctx.needs_input_grad[1] else None)


def leaf(values=None, dtype=np.float64):
    values = RANDOM.uniform(0.2, 0.8, (3, 3)) if values is None else values
    return mg.tensor(np.asarray(values, dtype), requires_grad=True)


def gradient_after(function, x, n, share, write):
    """dx and d²x of a function whose operand is refilled between forward and backward."""
    y = function(x, share(n)).sum()
    if write:
        n[...] = 7.0
    if not y.requires_grad:
        pytest.skip("no gradient")
    (g,) = mg.autograd.grad(y, x, create_graph=True)
    found = [g.numpy()]
    if g.requires_grad:
        found.append(mg.autograd.grad((g * g).sum(), x, allow_unused=True)[0])
    return found


@pytest.mark.parametrize("share", SHARED)
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operand_may_be_refilled_before_backward(name, share):
    x, n = leaf(), RANDOM.uniform(0.2, 0.8, (3, 3))
    function, use = OPERATIONS[name], SHARED[share]
    expected = gradient_after(function, x, n.copy(), use, False)
    found = gradient_after(function, x, n, use, True)
    for got, want in zip(found, expected, strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            np.testing.assert_allclose(np.asarray(got), np.asarray(want), rtol=1e-12)


INTEGERS = {
    "getitem": lambda x, n: x[n],
    "getitem, two": lambda x, n: x[n, n],
    "take": lambda x, n: mg.take(x, n, 0),
    "take_along_axis": lambda x, n: mg.take_along_axis(x, n[:, None], 1),
    "scatter_add": lambda x, n: (
        mg.scatter_add(mg.zeros(3, 3, dtype=mg.float64), 1, n[:, None], x) ** 2
    ),
    "put": lambda x, n: ops.put(x[0], n, (4,)) ** 2,
    "repeat": lambda x, n: mg.repeat(x, n, axis=0),
    "embedding": lambda x, n: F.embedding(n, x),
    "cross_entropy": lambda x, n: F.cross_entropy(x, n),
    "cross_entropy, ignoring": lambda x, n: F.cross_entropy(x, n, ignore_index=1),
    "nll_loss": lambda x, n: F.nll_loss(x, n),
    "mask": lambda x, n: mg.where(n > 0, x, 0.0),
    "cosine_embedding_loss": lambda x, n: F.cosine_embedding_loss(x, x**2, n * 2 - 1),
}


@pytest.mark.parametrize("share", ["array", "asarray", "from_dlpack"])
@pytest.mark.parametrize("name", INTEGERS)
def test_indices_may_be_refilled_before_backward(name, share):
    gradients = []
    for refilled in (False, True):
        x, n = leaf(np.arange(1.0, 10.0).reshape(3, 3) / 10), np.array([0, 1, 1])
        y = INTEGERS[name](x, SHARED[share](n))
        if refilled:
            n[:] = 2
        y.sum().backward()
        gradients.append(x.grad.tolist())
    assert gradients[0] == gradients[1]


@pytest.mark.parametrize("share", [lambda n: n, mg.asarray, mg.Tensor])
def test_masks_may_be_refilled_before_backward(share):
    x, mask, rows = leaf(np.ones((2, 2))), np.array([[True, False], [True, True]]), [[0, 1], [1, 1]]
    y = mg.where(share(mask), x, 3 * x).sum() + x[share(mask)].sum() + x[rows].sum()
    mask[...] = False
    rows[0][0] = rows[0][1] = 1
    y.backward()
    assert x.grad.tolist() == [[3.0, 4.0], [5.0, 5.0]]


def test_a_cotangent_may_be_refilled_before_the_next_backward():
    x, g = leaf(np.ones(2)), np.ones(2)
    (dx,) = mg.autograd.grad(x**3, x, mg.asarray(g), create_graph=True)
    g[:] = 7.0
    (ddx,) = mg.autograd.grad(dx.sum(), x)
    assert dx.tolist() == [3.0, 3.0] and ddx.tolist() == [6.0, 6.0]


def test_a_loop_that_refills_one_buffer():
    """The mean gradient over batches in one buffer, each used in backward only after the next."""
    net = mg.nn.Sequential(mg.nn.Linear(3, 4), mg.nn.Tanh(), mg.nn.Linear(4, 1))
    batches, buffer, losses = RANDOM.random((5, 2, 3), np.float32), np.zeros((2, 3), np.float32), []
    for batch in batches:
        buffer[...] = batch
        losses.append(net(mg.asarray(buffer)).square().mean())
    mg.stack(losses).sum().backward()
    found = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    for batch in batches:
        net(mg.tensor(batch)).square().mean().backward()
    for got, p in zip(found, net.parameters(), strict=True):
        np.testing.assert_allclose(got.numpy(), p.grad.numpy(), rtol=1e-5)


def test_derived_formulas_save_copies():
    n, gradients = np.array([[1.0, 2.0], [3.0, 5.0], [4.0, 4.0]]), []
    for fast in (True, False):
        with mg.autograd.accelerated(fast):
            w, data = leaf([1.0, 2.0]), n.copy()
            y = (F.batch_norm(mg.asarray(data), None, None, w, None) ** 3).sum()
            data[...] = 7.0 + n * n  # read by the gradients of the gradient
            (g,) = mg.autograd.grad(y, w, create_graph=True)
            (second,) = mg.autograd.grad(g.sum(), w)
        gradients.append([g.tolist(), second.tolist()])
    np.testing.assert_allclose(*gradients, rtol=1e-12)
    assert abs(gradients[0][0][0]) > 0.1


def test_a_leaf_on_foreign_memory():
    """It stays a leaf of its graph, to any order, and an optimiser may write to it."""
    n = np.array([2.0, 3.0])
    x = mg.asarray(n, requires_grad=True)
    y = (x * x * x).sum()
    n[:] = 7.0
    (g,) = mg.autograd.grad(y, x, create_graph=True)
    (h,) = mg.autograd.grad(g.sum(), x, create_graph=True)
    (third,) = mg.autograd.grad(h.sum(), x)
    assert (g.tolist(), h.tolist(), third.tolist()) == ([12.0, 27.0], [12.0, 18.0], [6.0, 6.0])
    (x * 2.0).sum().backward()
    mg.optim.SGD([x], lr=1.0).step()
    assert n.tolist() == [5.0, 5.0]


def test_a_write_through_the_library_is_still_reported():
    t, w = mg.asarray(np.ones(2)), leaf([1.0, 2.0])
    y = (t * w).sum()
    t[0] = 5.0
    with pytest.raises(RuntimeError, match=r"multiply: .* was written to in place"):
        y.backward()


def test_what_is_exported_is_saved_as_a_copy():
    t, w = mg.tensor([1.0, 2.0]), mg.tensor([1.0, 1.0], requires_grad=True)
    theirs = np.from_dlpack(t)
    y = (t * w).sum()
    theirs[...] = 7.0
    y.backward()
    assert w.grad.tolist() == [1.0, 2.0] and t.tolist() == [7.0, 7.0]


def test_copies_are_made_only_where_a_gradient_needs_them():
    n = np.ones(2)
    x, t = leaf([1.0, 2.0]), mg.asarray(n)
    assert np.shares_memory(t.numpy(), n)

    def saved(y):
        return [m for m in y.grad_fn.next_functions if isinstance(m, mg.Tensor) and m is t]

    assert saved(x + t) == []  # a sum saves nothing
    own = mg.tensor(n, requires_grad=True)
    assert (x * own).grad_fn.next_functions == (x, own)  # no copy, no Node between


def test_windows_are_copied_without_growing():
    """Sliding windows view each element many times; the saved copy has the size of the image."""
    image = RANDOM.random((1, 4, 64, 64), np.float32)
    weight = mg.tensor(RANDOM.random((4, 4, 3, 3), np.float32), requires_grad=True)
    y = F.conv2d(mg.asarray(image), weight).sum()
    expected = F.conv2d(mg.tensor(image), weight).sum()
    image[...] = 0.0
    y.backward()
    found, weight.grad = weight.grad, None
    expected.backward()
    assert found.tolist() == weight.grad.tolist()


# ------------------------------------------------------------------------ gradients share no memory
class Both(mg.autograd.Function):
    """a + b; returns its cotangent twice."""

    @staticmethod
    def forward(ctx, a, b):
        return a + b

    @staticmethod
    def backward(ctx, g):
        return g, g


class Own(mg.autograd.Function):
    """a * b with a wrong backward that returns the saved tensors."""

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
    "sum_product": lambda a, b: ops.sum_product(a, b),
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
    "derived": lambda a, b: F.layer_norm(a + b, 2, b[0], b[1]),
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
    (2 * a).sum().backward()  # the gradient is a broadcast view, which is read-only
    assert a.grad.tolist() == [35.0, 35.0]


def test_what_a_hook_returns_stays_its_own():
    a, b, mine = leaf([1.0, 2.0]), leaf([3.0, 4.0]), mg.tensor([9.0, 9.0], dtype=mg.float64)
    a.register_hook(lambda g: mine)
    ga, gb = mg.autograd.grad((a + b).sum(), [a, b])
    ga *= 2
    assert mine.tolist() == [9.0, 9.0] and gb.tolist() == [1.0, 1.0]


def apart(*results):
    leaves = [t for result in results for t in mg.tree.flatten_tree(result)[0]]
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


# --------------------------------------------------------------------- values that leave the graph
class Pair(NamedTuple):
    first: mg.Tensor
    second: mg.Tensor


class Row(list):
    pass


SCALARS = leaf(1.0), leaf(2.0)
LOSING = {
    "tensor": lambda a, b: mg.tensor([a, b]),
    "asarray": lambda a, b: mg.asarray([a, b]),
    "Tensor": lambda a, b: mg.Tensor([a, b]),
    "tuple": lambda a, b: mg.tensor((a, b)),
    "nested": lambda a, b: mg.tensor([[1.0, a], [b, 2.0]]),
    "mixed": lambda a, b: mg.tensor([1.0, b]),
    "results": lambda a, b: mg.tensor([a * 2, b.detach()]),
    "dtype": lambda a, b: mg.tensor([a, b], dtype=mg.float32),
    "requires_grad": lambda a, b: mg.tensor([a, b], requires_grad=True),
    "vectors": lambda a, b: mg.tensor([mg.stack([a, b]), mg.stack([b, a])]),
    "Parameter": lambda a, b: mg.nn.Parameter([a, b]),
    "full": lambda a, b: mg.full((2,), a),
    "full_like": lambda a, b: mg.full_like(mg.zeros(2), b),
    "arange": lambda a, b: mg.arange(a, 5.0),
    "linspace": lambda a, b: mg.linspace(a, b, 3),
    "assignment": lambda a, b: mg.zeros(2).__setitem__(0, a),
    "deque": lambda a, b: mg.tensor(deque([a, b])),
    "UserList": lambda a, b: mg.asarray(UserList([a, b])),
    "nested deque": lambda a, b: mg.Tensor([deque([a, b]), [1.0, 2.0]]),
    "full of a deque": lambda a, b: mg.full((2,), deque([a, b])),
    "pad": lambda a, b: mg.pad(mg.zeros(2), 1, value=a),
    "F.pad": lambda a, b: F.pad(mg.zeros(2), (1, 1), value=b),
}


@pytest.mark.parametrize("name", LOSING)
def test_a_list_of_tensors_does_not_drop_its_graph(name):
    a, b = SCALARS
    with pytest.raises(RuntimeError, match="gradient"):
        LOSING[name](a, b)
    with mg.no_grad():
        LOSING[name](a, b)
    LOSING[name](a.detach(), b.detach())


def test_the_error_says_what_to_use():
    with pytest.raises(RuntimeError, match=r"tensor: .*mg\.stack"):
        mg.tensor([SCALARS[0], 1.0])


def test_lists_of_tensors_without_a_graph():
    a, b = mg.tensor(1.0, dtype=mg.float64), mg.tensor(0.1, dtype=mg.float64)
    assert mg.tensor([a, b]).tolist() == [1.0, 0.1] and mg.tensor([a, b]).dtype == mg.float64
    assert mg.tensor([[mg.tensor(1), 2]]).tolist() == [[1, 2]]
    assert mg.tensor([mg.tensor(1.0), 2.0]).dtype == mg.float32
    assert mg.tensor([mg.ones(2), mg.zeros(2)]).tolist() == [[1.0, 1.0], [0.0, 0.0]]
    with pytest.raises((ValueError, RecursionError)):
        endless = [1.0]
        endless.append(endless)
        mg.tensor(endless)


class Samples:
    """A dataset of three samples."""

    def __init__(self, *samples):
        self.samples = samples

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, i):
        return self.samples[i]


@pytest.mark.parametrize(
    "others", [(2.0, 3.0), (np.float64(2), np.float64(3)), (np.array(2.0), mg.tensor(3.0))]
)
def test_collation_keeps_the_graph(others):
    x = leaf(1.0)
    (batch,) = mg.data.DataLoader(Samples(x * 2, *others), batch_size=3)
    (batch * batch).sum().backward()
    assert batch.tolist() == [2.0, 2.0, 3.0] and x.grad.item() == 8.0
    (pair,) = mg.data.DataLoader(Samples((x, 1), (2.0, 2), (3.0, 3)), batch_size=3)
    assert pair[0].requires_grad and pair[1].tolist() == [1, 2, 3]


NUMPY: dict = {
    "np.dot": (lambda x: np.dot(x, x), "v @ u"),
    "np.linalg.norm": (lambda x: np.linalg.norm(x), "mg.norm"),
    "np.sum": (lambda x: np.sum(x), "mg.sum"),
    "np.mean": (lambda x: np.mean(x), "mg.mean"),
    "np.max": (lambda x: np.max(x), "mg.max"),
    "np.amax": (lambda x: np.amax(x), "x.max"),
    "np.std": (lambda x: np.std(x), "mg.std"),
    "np.cumsum": (lambda x: np.cumsum(x), "x.cumulative_sum"),
    "np.concatenate": (lambda x: np.concatenate([np.ones((1, 3)), x]), "mg.concat"),
    "np.stack": (lambda x: np.stack((x, x)), "mg.stack"),
    "np.where": (lambda x: np.where(np.ones(3, bool), x, 0.0), "mg.where"),
    "np.einsum": (lambda x: np.einsum("ij->i", x), "mg.einsum"),
    "np.transpose": (lambda x: np.transpose(x), "x.swapaxes"),
    "np.clip": (lambda x: np.clip(x, a_min=0, a_max=1), "mg.clip"),
    "np.linalg.inv": (lambda x: np.linalg.inv(x), "mg.linalg.inv"),
    "np.nanmax": (lambda x: np.nanmax(x), "no function of that name, and x.detach"),
    "np.median": (lambda x: np.median(x), "mg.median"),
    "np.split": (lambda x: np.split(x, 3), "mg.split"),
    "np.tensordot": (lambda x: np.tensordot(np.eye(3), x, 1), "mg.tensordot"),
}


@pytest.mark.parametrize("name", NUMPY)
def test_functions_of_numpy_do_not_drop_the_graph(name):
    function, twin = NUMPY[name]
    x = leaf([[0.5, 0.25, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 4.0]])
    with pytest.raises(TypeError, match=rf"^{name}: .*{twin}\b"):
        function(x)
    with mg.no_grad():
        np.testing.assert_array_equal(function(x), function(x.numpy()))
    values = function(x.detach())
    np.testing.assert_array_equal(values, function(x.numpy()))
    assert not isinstance(values, mg.Tensor)


@pytest.mark.parametrize("kind", [deque, UserList, lambda pair: Pair(*pair), Row])
def test_functions_of_numpy_take_any_sequence(kind):
    x = leaf([1.0, 2.0])
    with pytest.raises(TypeError, match=r"^np.stack: .*mg.stack"):
        np.stack(kind([x, x]))
    with pytest.raises(TypeError, match=r"^np.concatenate: .*mg.concat"):
        np.concatenate(kind([x, np.ones(2)]))
    assert np.stack(kind([x.detach(), np.ones(2)])).tolist() == [[1.0, 2.0], [1.0, 1.0]]
    with mg.no_grad():
        assert np.concatenate(kind([x, x])).tolist() == [1.0, 2.0, 1.0, 2.0]


def test_a_shallow_copy_of_a_result_is_a_clone():
    x = leaf([1.0, 2.0])
    y = copy.copy(x * 3)
    y.sum().backward()
    assert x.grad.tolist() == [3.0, 3.0] and y.tolist() == [3.0, 6.0]
    with pytest.raises(RuntimeError, match="only leaves can be copied"):
        copy.deepcopy(y)
    parameter = copy.copy(mg.nn.Parameter([1.0]))
    assert isinstance(parameter, mg.nn.Parameter) and parameter.is_leaf and parameter.requires_grad


@pytest.mark.parametrize("recorded", [True, False])
def test_plotting_takes_any_tensor(recorded):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    x, grid = mg.tensor([0.5, 1.0, 2.0]), mg.tensor([[1.0, 2.0], [3.0, 5.0]])
    x, grid = (t.requires_grad_(recorded) * 1.0 for t in (x, grid))
    figure, axes = plt.subplots()
    (line,) = axes.plot(x, x * x)
    assert line.get_ydata().tolist() == [0.25, 1.0, 4.0]
    axes.plot(x, label="one")
    axes.scatter(x, x, c=x, s=x)
    axes.fill_between(x, x - 1, x + 1)
    axes.errorbar(x, x, yerr=x)
    axes.bar(x, x)
    axes.step(x, x)
    axes.hist(x)
    axes.boxplot(x)
    axes.imshow(grid)
    axes.contour(grid)
    axes.pcolormesh(grid)
    axes.axhline(x[0])
    plt.close(figure)


def test_functions_of_numpy_that_inspect():
    x = leaf([[3.0, 1.0], [2.0, 0.0]])
    assert np.shape(x) == (2, 2) and np.ndim(x) == 2 and np.size(x) == 4
    assert np.argmax(x) == 0 and np.argsort(x).tolist() == [[1, 0], [1, 0]]
    assert np.allclose(x, x.numpy()) and np.array_equal(x, x.numpy()) and np.isclose(x, x).all()
    assert np.array2string(x) == np.array2string(x.numpy()) and np.count_nonzero(x) == 3
    assert np.shares_memory(x, x.numpy()) and np.may_share_memory(x, x.detach())
    assert np.zeros_like(x).tolist() == [[0.0, 0.0], [0.0, 0.0]] and np.ones_like(x).sum() == 4
    assert np.full_like(x, 7).sum() == 28 and np.result_type(x) == np.float64
    assert np.histogram(x)[0].sum() == 4 and np.atleast_1d(x).shape == (2, 2)
    assert np.asarray(x).sum() == 6 and np.array([x.detach(), x.detach()]).shape == (2, 2, 2)
    np.testing.assert_allclose(x, x.numpy())
    np.testing.assert_array_equal(x, x.detach())


def test_ufuncs_raise_and_operators_do_not():
    x = leaf([1.0, 2.0])
    for function in (np.sin, np.exp, lambda x: np.add(x, x), lambda x: np.multiply.reduce(x)):
        with pytest.raises(TypeError, match="ufunc"):
            function(x)
    assert (np.ones(2) * x).requires_grad and (np.float64(2) * x).requires_grad
