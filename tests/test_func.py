"""mg.func: derivatives of functions, to any order, over trees, and of modules."""

from __future__ import annotations

import gc
import math
import weakref
from collections import Counter, OrderedDict, defaultdict, namedtuple

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.autograd import checkpoint, gradcheck
from minigrad.func import functional_call, grad, hessian, hvp, jacobian, jvp, value_and_grad, vjp
from minigrad.tree import flatten_tree as flatten

RANDOM = np.random.default_rng(0)
Pair = namedtuple("Pair", "a b")


def array(*shape):
    return mg.tensor(RANDOM.normal(size=shape))


def close(ours, expected, rtol=1e-11):
    np.testing.assert_allclose(ours.numpy(), np.asarray(expected), rtol=rtol, atol=1e-13)


def f(x, y):
    """A smooth function of two vectors, with every second derivative different from zero."""
    return (mg.sin(x) * mg.exp(y) * (x * y).sum()).sum()


def numeric(function, x, eps=1e-5):
    """The gradient or Jacobian by central differences; the last axes are those of x."""
    columns = []
    for i in range(x.size):
        step = np.zeros(x.size)
        step[i] = eps
        step = mg.tensor(step.reshape(x.shape))
        columns.append((function(x + step).numpy() - function(x - step).numpy()) / (2 * eps))
    stacked = np.stack(columns, -1)
    return stacked.reshape(stacked.shape[:-1] + x.shape)


# -------------------------------------------------------------------------------------- gradients
def test_grad_and_value_and_grad():
    x, y = array(3), array(3)
    expected = numeric(lambda x: f(x, y), x)
    close(grad(f)(x, y), expected, 1e-7)
    value, (dx, dy) = value_and_grad(f, argnums=(0, -1))(x, y)
    assert value.item() == f(x, y).item() and not value.requires_grad
    close(dx, expected, 1e-7)
    close(dy, numeric(lambda y: f(x, y), y), 1e-7)
    close(grad(lambda x, *, y: f(x, y))(x, y=y), expected, 1e-7)


@pytest.mark.parametrize("order", range(1, 6))
def test_any_order(order):
    function, x = mg.sin, mg.tensor(0.3, dtype=mg.float64)
    for _ in range(order):
        function = grad(function)
    close(function(x), math.sin(0.3 + order * math.pi / 2))
    assert not function(x).requires_grad


@pytest.mark.parametrize("x", [2.0, np.float64(2.0), np.array(2.0), mg.tensor(2.0)])
def test_numbers_and_arrays_are_arguments(x):
    g = grad(lambda x: x**3)(x)
    assert g.item() == 12 and g.dtype == (mg.float32 if x.__class__ is float else x.dtype)


def test_perturbations_are_not_confused():
    """Siskind & Pearlmutter 2005: d/dx (x · d/dy (x + y)) is 1; a confused engine says 2."""
    assert grad(lambda x: x * grad(lambda y: x + y)(1.0))(1.0).item() == 1.0
    assert grad(lambda x: x * grad(lambda y: x * y)(2.0))(3.0).item() == 6.0
    assert grad(lambda x: grad(lambda y: x * y * y)(x))(3.0).item() == 12.0  # y is not x
    assert grad(lambda x: grad(lambda y: x * x)(x) + x)(3.0).item() == 1.0
    assert jvp(lambda x: x * jvp(lambda y: x + y, (1.0,), (1.0,))[1], (1.0,), (1.0,))[1].item() == 1


def test_trees_in_and_out_and_the_structure_of_the_gradient():
    tree = {
        "w": array(2),
        "rest": [array(3), (array(1), Pair(array(2), None))],
        "o": OrderedDict(z=array(1)),
    }

    def loss(tree):
        return sum(((k + 1.0) * leaf**2).sum() for k, leaf in enumerate(flatten(tree)[0]))

    g = grad(loss)(tree)
    assert (
        type(g["rest"][1][1]) is Pair and type(g["o"]) is OrderedDict and g["rest"][1][1].b is None
    )
    assert list(g) == ["w", "rest", "o"] and isinstance(g["rest"], list)
    for k, (leaf, slope) in enumerate(zip(flatten(tree)[0], flatten(g)[0], strict=True)):
        close(slope, 2 * (k + 1) * leaf.numpy())


def test_namedtuples_and_dicts_of_any_kind_keep_their_type():
    class Scaled(namedtuple("Scaled", "a b")):
        def __new__(cls, a):
            return super().__new__(cls, a, 2 * a)

    tree = Scaled(array(2)), Counter(x=array(1)), defaultdict(list, y=array(1))
    g = grad(lambda tree: (tree[0].a * tree[0].b).sum() + 3 * tree[1]["x"][0] + tree[2]["y"][0])(
        tree
    )
    assert [type(branch) for branch in g] == [Scaled, Counter, defaultdict]
    assert g[2].default_factory is list
    close(g[0].a, tree[0].b.numpy())
    close(g[0].b, tree[0].a.numpy())
    assert [g[1]["x"].tolist(), g[2]["y"].tolist()] == [[3.0], [1.0]]
    tree[0].a.requires_grad_()
    out = checkpoint(lambda tree: (tree[0]._replace(a=tree[0].a * 2), tree[1]), tree)
    assert [type(branch) for branch in out] == [Scaled, Counter]
    close(out[0].a, 2 * tree[0].a.detach().numpy())
    close(out[1]["x"], tree[1]["x"].numpy())


def test_one_tensor_in_two_places_is_two_variables():
    x = array(2)
    g = grad(lambda p: (p["a"] * 2 + p["b"] * 3).sum())({"a": x, "b": x})
    assert g["a"].tolist() == [2, 2] and g["b"].tolist() == [3, 3]


def test_what_is_not_used_has_a_gradient_of_zeros():
    x, y = array(2), mg.ones(3)
    dx, dy = grad(lambda x, y: x.sum(), argnums=(0, 1))(x, y)
    assert dy.tolist() == [0, 0, 0] and dy.dtype == mg.float32 and dx.tolist() == [1, 1]
    assert grad(lambda x: mg.tensor(3.0))(x).tolist() == [0, 0]
    assert jacobian(lambda x: mg.ones(3))(x).numpy().tolist() == np.zeros((3, 2)).tolist()
    assert hessian(lambda x: x.sum())(x).numpy().tolist() == np.zeros((2, 2)).tolist()
    out, pushed = jvp(lambda x: (x.sum(), mg.ones(3)), (x,), (x,))
    assert pushed[1].tolist() == [0, 0, 0] and out[1].tolist() == [1, 1, 1]
    close(pushed[0], x.numpy().sum())
    _, pushed = jvp(lambda x: (mg.argmax(x), x, x), (x,), (x,))
    assert pushed[0].item() == 0 and pushed[1].tolist() == pushed[2].tolist() == x.tolist()
    assert jacobian(lambda x: mg.argmax(x))(x).tolist() == [0, 0]


def test_aux():
    x = array(3)

    def function(x):
        y = mg.sin(x)
        return y.sum(), {"y": y, "n": 3}

    g, aux = grad(function, has_aux=True)(x)
    close(g, np.cos(x.numpy()))
    close(aux["y"], np.sin(x.numpy()))
    assert aux["n"] == 3 and not aux["y"].requires_grad and aux["y"].is_leaf
    (value, aux), g = value_and_grad(function, has_aux=True)(x)
    close(value, np.sin(x.numpy()).sum())
    assert jacobian(function, has_aux=True)(x)[1]["n"] == 3
    assert hessian(function, has_aux=True)(x)[1]["n"] == 3
    y, pull, aux = vjp(function, x, has_aux=True)
    assert aux["n"] == 3 and pull(mg.tensor(1.0))[0].shape == (3,)
    assert jvp(function, (x,), (x,), has_aux=True)[2]["n"] == 3
    assert not y.requires_grad


def test_aux_of_an_inner_function_is_differentiated_by_an_outer_one():
    def outer(x):
        _, aux = grad(lambda y: (y * y, y * x * 3.0), has_aux=True)(x)
        return aux

    assert grad(outer)(2.0).item() == 12.0


# --------------------------------------------------------------------------- recording and purity
def test_arguments_and_closures_are_left_alone():
    w = mg.tensor([1.0, 2.0], requires_grad=True)
    x = mg.tensor([3.0, 4.0])
    w.grad = before = mg.ones(2)
    version = x._version
    g = grad(lambda x: (w * x * x).sum())(x)
    assert g.requires_grad  # it depends on w, which may be differentiated elsewhere
    assert not x.requires_grad and x.grad is None and x._version == version
    assert w.grad is before and w.requires_grad and w.is_leaf
    g.sum().backward()
    assert w.grad.tolist() == [7, 9]  # 1 + 2x


def test_a_gradient_penalty_reaches_the_parameters():
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x = array(5, 3)

    def penalty(*parameters):
        slope = grad(lambda x: net(x).sum())(x)
        return ((slope**2).sum(axis=1) - 1.0).square().mean()

    assert gradcheck(penalty, tuple(net.parameters()))


def test_within_no_grad_and_around_it():
    x = mg.tensor([1.0, 2.0], requires_grad=True)
    with mg.no_grad():
        g = grad(lambda x: (x**3).sum())(x)
        h = hessian(lambda x: (x**3).sum())(x)
        _, pushed = jvp(lambda x: x**3, (x,), (mg.ones(2),))
        _, pull = vjp(lambda x: x**3, x)
        (pulled,) = pull(mg.ones(2))
        assert not grad(lambda y: (x * y).sum())(mg.ones(2)).requires_grad
        assert not mg.is_grad_enabled()
    for found in (g, h, pushed, pulled):
        assert not found.requires_grad and found.is_leaf
    assert g.tolist() == pushed.tolist() == pulled.tolist() == [3, 12]
    assert np.diag(h.numpy()).tolist() == [6, 12]

    def detached(x):
        with mg.no_grad():
            constant = x**2
        return (constant * x).sum()

    assert grad(detached)(x).tolist() == [1, 4]


def test_a_result_is_recorded_only_where_that_can_matter():
    x = array(3)
    for found in (
        grad(f)(x, x),
        hessian(f)(x, x),
        *jvp(mg.sin, (x,), (x,)),
        vjp(mg.sin, x)[0],
        vjp(mg.sin, x)[1](x)[0],
    ):
        assert not found.requires_grad and found.is_leaf
    x.requires_grad_()
    for found in (grad(f)(x, x), *jvp(mg.sin, (x,), (x,)), vjp(mg.sin, x)[1](x)[0]):
        assert found.requires_grad
        assert mg.autograd.grad(found.sum(), x, retain_graph=True)[0].shape == (3,)


def test_a_graph_around_the_call_survives_it():
    w = mg.tensor([2.0, 3.0], requires_grad=True)
    h = w * w
    with mg.no_grad():
        grad(lambda x: (x * h).sum())(mg.ones(2))
    grad(lambda x: (x * h).sum())(mg.ones(2))
    h.sum().backward()
    assert w.grad.tolist() == [4, 6]


def test_gradients_of_recorded_results_agree_with_differences():
    x, y, v = (array(3).requires_grad_() for _ in range(3))
    assert gradcheck(grad(f), (x, y))
    assert gradcheck(lambda x, y: grad(f, argnums=(0, 1))(x, y), (x, y))
    assert gradcheck(lambda x, v: jvp(lambda x: f(x, x), (x,), (v,))[1], (x, v))
    assert gradcheck(lambda x, v: vjp(mg.sin, x)[1](v)[0], (x, v))
    assert gradcheck(lambda x, v: vjp(mg.sin, x)[1](v)[0], (x.detach(), v))
    assert gradcheck(lambda x, v: jvp(mg.sin, (x,), (v,))[1], (x.detach(), v))
    assert gradcheck(lambda x, v: hvp(lambda x: f(x, x), (x,), (v,))[0], (x, v))
    assert gradcheck(lambda x: hessian(lambda x: f(x, x))(x), x)


def test_an_error_inside_restores_recording():
    with mg.no_grad(), pytest.raises(ZeroDivisionError):
        grad(lambda x: x / (1 // 0))(1.0)
    assert mg.is_grad_enabled()
    with mg.no_grad():
        assert not mg.is_grad_enabled()


def test_nothing_is_kept_in_a_cycle():
    gc.collect()
    gc.disable()
    try:
        inside = []

        def function(x):
            h = mg.exp(x)
            inside.append(weakref.ref(h))
            return h.sum()

        x = array(3)
        grad(function)(x)
        grad(grad(lambda x: function(x)))(mg.tensor(1.0))
        jacobian(function)(x)
        jvp(function, (x,), (x,))
        _, pull = vjp(function, x)
        pull(mg.tensor(1.0))
        del pull
        assert len(inside) == 5 and all(reference() is None for reference in inside)
    finally:
        gc.enable()


# ------------------------------------------------------------------------- products and matrices
def test_tangents_and_cotangents_take_the_dtype_of_what_they_belong_to():
    x = mg.ones(2)
    for v in (mg.ones(2, dtype=mg.float64), np.ones(2), [1.0, 1.0]):
        assert vjp(mg.sin, x)[1](v if not isinstance(v, list) else np.array(v))[0].dtype == x.dtype
    assert jvp(mg.sin, (x,), (np.ones(2),))[1].dtype == mg.float32
    assert vjp(mg.sum, mg.ones(2, dtype=mg.float64))[1](0.1)[0].tolist() == [0.1, 0.1]


def test_vjp_and_jvp_are_transposes():
    x, y = array(3), array(2, 2)

    def function(x, p):
        y = p["y"]
        return {"u": mg.sin(x) * y.sum(), "v": (y @ y, x[:2] * y[0])}

    v, u = (array(3), {"y": array(2, 2)}), {"u": array(3), "v": (array(2, 2), array(2))}
    out, pushed = jvp(function, (x, {"y": y}), v)
    same, pull = vjp(function, x, {"y": y})
    for a, b in zip(flatten(out)[0], flatten(same)[0], strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())
    for _ in range(2):
        pulled = pull(u)
        left = sum((a * b).sum() for a, b in zip(flatten(u)[0], flatten(pushed)[0], strict=True))
        right = sum((a * b).sum() for a, b in zip(flatten(pulled)[0], flatten(v)[0], strict=True))
        close(left, right.item())


def test_jvp_agrees_with_differences_and_with_kinks():
    x, v = array(4), array(4)
    _, pushed = jvp(lambda x: mg.softmax(x, axis=0) * x.max(), (x,), (v,))
    eps = 1e-6

    def function(x):
        return (mg.softmax(x, axis=0) * x.max()).numpy()

    close(pushed, (function(x + eps * v) - function(x - eps * v)) / (2 * eps), 1e-6)
    assert jvp(mg.relu, (mg.tensor([-1.0, 2.0]),), (mg.ones(2),))[1].tolist() == [0, 1]
    assert jvp(lambda x: x, (x,), (v,))[1].tolist() == v.tolist()


@pytest.mark.parametrize("shape", [(), (3,), (2, 2), (0,)])
def test_jacobian_shape_is_that_of_the_output_then_that_of_the_input(shape):
    x = array(2, 3)

    def function(x):
        rows = mg.sin(x).reshape(-1)
        return mg.reshape(rows[: math.prod(shape)], shape) * x.sum()

    J = jacobian(function)(x)
    assert J.shape == (*shape, 2, 3)
    if math.prod(shape):
        close(J, numeric(function, x), 1e-6)


def test_jacobian_of_trees_and_several_arguments():
    x, y = array(2), array(3)

    def function(p, y):
        return {"s": p["x"].sum() * y, "t": [p["x"] * y[:2]]}

    J = jacobian(function, argnums=(0, 1))({"x": x}, y)
    assert J["s"][0]["x"].shape == (3, 2) and J["s"][1].shape == (3, 3)
    close(J["s"][1], np.eye(3) * x.numpy().sum())
    close(J["t"][0][0]["x"], np.diag(y.numpy()[:2]))
    assert jacobian(function)({"x": x}, y)["t"][0]["x"].shape == (2, 2)


def test_hessian_of_trees_is_symmetric_and_agrees_with_differences():
    x, y = array(3), array(3)
    H = hessian(f, argnums=(0, 1))(x, y)
    close(H[0][1], H[1][0].numpy().T)
    close(H[0][0], numeric(lambda x: grad(f)(x, y), x), 1e-6)
    close(H[0][1], numeric(lambda y: grad(f)(x, y), y), 1e-6)
    tree = hessian(lambda p: f(p["x"], p["y"]))({"x": x, "y": y})
    np.testing.assert_array_equal(tree["x"]["y"].numpy(), H[0][1].numpy())
    close(jacobian(grad(f))(x, y), H[0][0].numpy())
    v = array(3)
    close(hvp(lambda x: f(x, y), (x,), (v,))[0], H[0][0].numpy() @ v.numpy())


def test_hessian_of_a_quadratic_and_of_a_vector():
    A = array(3, 3)
    H = hessian(lambda x: 0.5 * (x @ A @ x))(array(3))
    close(H, (A.numpy() + A.numpy().T) / 2)
    third = jacobian(hessian(lambda x: (x**3).sum()))(array(2))
    assert third.shape == (2, 2, 2) and abs(third[0, 0, 0].item() - 6) < 1e-12
    assert hessian(lambda x: x**3)(array(2)).shape == (2, 2, 2)


# ------------------------------------------------------------------------------------ composition
def test_with_function_and_checkpoint():
    class Square(mg.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            return 2.0 * ctx.saved_tensors[0] * g

    x = array(3)
    close(
        hessian(lambda x: (Square.apply(x) * mg.sin(x)).sum())(x).numpy().diagonal()
        * mg.ones(3, dtype=mg.float64),
        hessian(lambda x: (x * x * mg.sin(x)).sum())(x).numpy().diagonal(),
    )
    close(hessian(lambda x: checkpoint(lambda: f(x, x)))(x), hessian(lambda x: f(x, x))(x).numpy())
    _, pushed = jvp(Square.apply, (x,), (x,))
    close(pushed, 2 * x.numpy() ** 2)
    inside = checkpoint(lambda x: grad(lambda y: f(y, x))(x).sum(), x.requires_grad_())
    inside.backward()
    close(x.grad, grad(lambda x: grad(lambda y: f(y, x))(x).sum())(x.detach()).numpy())


# --------------------------------------------------------------------------------- functional_call
def test_gradients_of_a_module_equal_backward():
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    x = mg.randn(6, 3)
    net(x).square().mean().backward()

    def loss(parameters):
        return functional_call(net, parameters, x).square().mean()

    parameters = {name: p.detach() for name, p in net.named_parameters()}
    g = grad(loss)(parameters)
    assert list(g) == [name for name, _ in net.named_parameters()]
    for name, p in net.named_parameters():
        np.testing.assert_allclose(g[name].numpy(), p.grad.numpy(), rtol=1e-5, atol=1e-8)
        assert not g[name].requires_grad
    assert all(p is q for p, q in zip(net.parameters(), net.parameters(), strict=True))


def test_functional_call_restores_also_after_an_error():
    net = nn.Linear(2, 1)
    weight, bias = net.weight, net.bias
    given = {"weight": mg.ones(1, 2), "bias": mg.zeros(1)}
    assert functional_call(net, given, (mg.ones(3, 2),)).tolist() == [[2.0]] * 3
    assert (
        net.weight is weight and net.bias is bias and list(net.state_dict()) == ["weight", "bias"]
    )
    with pytest.raises(ValueError, match="linear"):
        functional_call(net, given, mg.ones(3, 5))
    assert net.weight is weight and net.bias is bias and set(given) == {"weight", "bias"}


def test_functional_call_arguments_and_partial_dicts():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter([2.0])
            self.other = nn.Parameter([10.0])

        def forward(self, x, y=0.0, *, z=0.0):
            return self.weight * x + self.other * y + z

    net = Scaled()
    new = {"weight": mg.tensor([3.0])}
    assert functional_call(net, new, mg.tensor(1.0)).item() == 3
    assert functional_call(net, new, (1.0, 1.0), {"z": 0.5}).item() == 13.5
    assert functional_call(net, (new, {"other": mg.tensor([1.0])}), (1.0, 1.0)).item() == 4
    assert functional_call(net, {}, (1.0,), {"y": 1.0}).item() == 12


def test_buffers_that_are_given_are_updated_and_the_modules_own_are_not():
    net = nn.BatchNorm1d(2)
    x = mg.tensor([[1.0, 10.0], [3.0, 30.0]])
    buffers = {name: b.clone() for name, b in net.named_buffers()}
    functional_call(net, buffers, x)
    np.testing.assert_allclose(buffers["running_mean"].numpy(), [0.2, 2.0], rtol=1e-6)
    assert buffers["num_batches_tracked"].item() == 1
    assert net.running_mean.tolist() == [0, 0] and net.num_batches_tracked.item() == 0
    functional_call(net, {}, x)
    assert net.num_batches_tracked.item() == 1

    class Counter(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("count", mg.tensor(0))

        def forward(self):
            self.count = self.count + 1  # a new tensor replaces the old one

    given = {"count": mg.tensor(5)}
    counter = Counter()
    functional_call(counter, given)
    assert given["count"].item() == 6 and counter.count.item() == 0


def test_tied_weights_are_replaced_everywhere():
    net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    net[1].weight = net[0].weight
    tied = net[0].weight
    new = dict(net.named_parameters())
    assert list(new) == ["0.weight"]
    eye = mg.tensor([[2.0, 0.0], [0.0, 2.0]])
    assert functional_call(net, {"0.weight": eye}, mg.ones(1, 2)).tolist() == [[4, 4]]
    assert functional_call(net, {"1.weight": eye}, mg.ones(1, 2)).tolist() == [[4, 4]]
    assert functional_call(net, {"0.weight": eye, "1.weight": eye}, mg.ones(1, 2)).sum().item() == 8
    assert net[0].weight is tied and net[1].weight is tied
    with pytest.raises(ValueError, match=r"1\.weight is one parameter under several names"):
        functional_call(net, {"0.weight": eye, "1.weight": eye * 1}, mg.ones(1, 2))
    g = grad(lambda p: functional_call(net, p, mg.ones(1, 2)).sum())({"0.weight": eye})
    assert g["0.weight"].tolist() == [[4, 4], [4, 4]]
    shared = nn.Sequential(net[0], net[0])  # one module in two places
    assert functional_call(shared, {"0.weight": eye}, mg.ones(1, 2)).tolist() == [[4, 4]]


# ------------------------------------------------------------------------------------------- errors
X = mg.ones(3)
ERRORS = [
    (lambda: grad(lambda x: x)(X), ValueError, r"grad: .*shape \(\), got \(3,\); reduce it.*jacob"),
    (lambda: grad(lambda x: (x.sum(), x.sum()))(X), ValueError, r"got \(\(\), \(\)\)"),
    (lambda: value_and_grad(lambda x: x)(X), ValueError, "value_and_grad: "),
    (lambda: grad(lambda x: x.sum().item())(X), TypeError, "grad: .*got float; leave out .item"),
    (lambda: grad(lambda x: x.sum(), has_aux=True)(X), TypeError, r"grad: .*\(output, aux\)"),
    (lambda: grad(lambda x: x.sum(), argnums=1)(X), ValueError, "argnums=1, but .* 1 positional"),
    (lambda: grad(lambda x: x.sum())(x=X), ValueError, "0 positional .* keyword"),
    (lambda: grad(lambda x: x.sum(), argnums=(0, -1))(X), ValueError, "name each argument once"),
    (
        lambda: grad(lambda x: x.sum(), argnums=())(X),
        ValueError,
        r"name each argument once, got \(\)",
    ),
    (lambda: grad(lambda x: x.sum(), argnums=True)(X), TypeError, "argnums must be an int"),
    (lambda: grad(lambda x: x.sum(), argnums=0.0)(X), TypeError, "argnums must be an int"),
    (lambda: grad(lambda x: x.sum(), argnums="x")(X), TypeError, "argnums must be an int"),
    (lambda: grad(lambda x: x)(1), TypeError, "argument 0 holds int64.*1.0 for 1"),
    (lambda: grad(lambda x: x["a"])({"a": "s"}), TypeError, "argument 0: expected a Tensor"),
    (lambda: grad(3)(X), TypeError, "grad: expected a function, got int"),
    (lambda: vjp(lambda x: x, X)[1](mg.ones(2)), ValueError, r"vjp: .*\(3,\), got \(2,\)"),
    (lambda: vjp(lambda x: [x], X)[1](X), ValueError, r"vjp: .*structure \[\(3,\)\].* got \(3,\)"),
    (lambda: jvp(lambda x: x, X, X), TypeError, "jvp: primals and tangents must be tuples"),
    (lambda: jvp(lambda x: x, (X,), (X, X)), ValueError, "jvp: expected the structure"),
    (lambda: jvp(lambda x: x, (X,), (mg.ones(4),)), ValueError, "jvp: "),
    (lambda: jacobian(lambda x: 3)(X), TypeError, "jacobian: .*must return Tensors, got int"),
    (lambda: functional_call(3, {}, X), TypeError, "functional_call: expected a Module"),
    (lambda: functional_call(nn.ReLU(), {"w": X}, X), KeyError, "no parameter or buffer 'w'.*none"),
    (lambda: functional_call(nn.Linear(3, 1), {"weights": X}, X), KeyError, "has weight, bias"),
    (lambda: functional_call(nn.Linear(3, 1), {"bias": 1}, X), TypeError, "bias must be a Tensor"),
]


@pytest.mark.parametrize(("run", "kind", "message"), ERRORS)
def test_errors(run, kind, message):
    with pytest.raises(kind, match=message):
        run()
    assert mg.is_grad_enabled() and not X.requires_grad
