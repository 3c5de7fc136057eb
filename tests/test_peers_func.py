"""mg.func, Function and checkpoint against torch.func, PyTorch's own, and jax."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad import func, nn

torch = pytest.importorskip("torch")

from peers import DTYPES, check_layer, close, pair, peer, random_array  # noqa: E402


def near(ours, theirs, dtype, scale=100.0):
    """Equal trees of tensors."""
    if isinstance(ours, dict):
        assert list(ours) == list(theirs)
        for key, value in ours.items():
            near(value, theirs[key], dtype, scale)
    elif isinstance(ours, (tuple, list)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            near(a, b, dtype, scale)
    else:
        close(ours, theirs, dtype, scale)


def inputs(dtype):
    """Equal arguments for both libraries."""
    x, w = random_array((3,), dtype, 1) / 4, random_array((3, 2), dtype, 2) / 4
    ours = mg.tensor(x), {"w": mg.tensor(w), "b": [mg.tensor(x[:2])]}
    return ours, (torch.tensor(x), {"w": torch.tensor(w), "b": [torch.tensor(x[:2])]})


def scalar(x, p):
    y = x @ p["w"] + p["b"][0]
    return (y * y * y).sum() * x.sum()


def tree(x, p):
    y = x @ p["w"] + p["b"][0]
    return {"y": y * y, "z": (x * y.sum(), p["b"][0] * 2)}


CASES = {
    "grad": lambda f, a: f.grad(scalar)(*a),
    "grad of both": lambda f, a: f.grad(scalar, argnums=(0, 1))(*a),
    "second order": lambda f, a: f.grad(lambda x: f.grad(scalar)(x, a[1]).sum())(a[0]),
    "jacobian": lambda f, a: jacobian_of(f)(tree, argnums=(0, 1))(*a),
    "jacobian of the second": lambda f, a: jacobian_of(f)(tree, argnums=1)(*a),
    "hessian": lambda f, a: f.hessian(scalar)(*a),
    "hessian of both": lambda f, a: f.hessian(scalar, argnums=(0, 1))(*a),
    "vjp": lambda f, a: f.vjp(tree, *a)[1](tree(*a)),
    "vjp value": lambda f, a: f.vjp(tree, *a)[0],
    "jvp": lambda f, a: f.jvp(tree, a, a),
    "hessian of a vector": lambda f, a: f.hessian(lambda x: x * x * x)(a[0]),
    "aux": lambda f, a: f.grad(lambda x: (scalar(x, a[1]), x * 2), has_aux=True)(a[0]),
}


def jacobian_of(library):
    return library.jacobian if library is func else library.jacrev


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("grad", marks=peer("func.grad")),
        pytest.param("grad of both", marks=peer("func.grad")),
        pytest.param("second order", marks=peer("func.grad")),
        pytest.param("aux", marks=peer("func.grad")),
        pytest.param("jacobian", marks=peer("func.jacobian")),
        pytest.param("jacobian of the second", marks=peer("func.jacobian")),
        pytest.param("hessian", marks=peer("func.hessian")),
        pytest.param("hessian of both", marks=peer("func.hessian")),
        pytest.param("hessian of a vector", marks=peer("func.hessian")),
        pytest.param("vjp", marks=peer("func.vjp")),
        pytest.param("vjp value", marks=peer("func.vjp")),
        pytest.param("jvp", marks=peer("func.jvp")),
    ],
)
def test_transforms(name, dtype):
    ours, theirs = inputs(dtype)
    near(CASES[name](func, ours), CASES[name](torch.func, theirs), dtype)


@peer("func.value_and_grad")
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_and_grad(dtype):
    ours, theirs = inputs(dtype)
    value, g = func.value_and_grad(scalar, argnums=1)(*ours)
    g_theirs, value_theirs = torch.func.grad_and_value(scalar, argnums=1)(*theirs)
    near((value, g), (value_theirs, g_theirs), dtype)


@peer("func.value_and_grad", "func.hvp")
@pytest.mark.parametrize("has_aux", [False, True])
def test_against_jax(has_aux):
    jax = pytest.importorskip("jax")

    def function(x):
        y = (x * x * x).sum() * x[0]
        return (y, x * 2.0) if has_aux else y

    x = np.linspace(0.5, 1.5, 4, dtype=np.float32)
    ours = func.value_and_grad(function, has_aux=has_aux)(mg.tensor(x))
    theirs = jax.value_and_grad(function, has_aux=has_aux)(x)
    flat, _ = mg.tree.flatten_tree(ours)
    for a, b in zip(flat, jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a.numpy(), np.asarray(b), rtol=1e-6)
    (product,) = func.hvp(lambda x: mg.sin(x * x).sum(), (mg.tensor(x),), (mg.tensor(x),))
    _, expected = jax.jvp(jax.grad(lambda x: jax.numpy.sin(x * x).sum()), (x,), (x,))
    np.testing.assert_allclose(product.numpy(), np.asarray(expected), rtol=1e-5)


@peer("func.functional_call")
@pytest.mark.parametrize("dtype", DTYPES)
def test_functional_call(dtype):
    ours, theirs = pair(
        lambda nn: nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)),
        dtype,
    )
    x = random_array((6, 4), dtype)
    p = {name: t.detach() for name, t in ours.named_parameters()}
    q = {name: t.detach() for name, t in theirs.named_parameters()}
    b = {name: t.clone() for name, t in ours.named_buffers()}
    c = {name: t.clone() for name, t in theirs.named_buffers()}
    call, call_theirs = func.functional_call, torch.func.functional_call
    g = func.grad(lambda p: (call(ours, (p, b), mg.tensor(x)) ** 2).mean())(p)
    for t in q.values():
        t.requires_grad_()  # torch.func.grad rejects functions that update buffers
    (call_theirs(theirs, (q, c), torch.tensor(x)) ** 2).mean().backward()
    near(g, {name: t.grad for name, t in q.items()}, dtype)
    near(b, c, dtype)
    assert ours[1].num_batches_tracked.item() == theirs[1].num_batches_tracked.item()


@peer("autograd.Function")
@pytest.mark.parametrize("dtype", DTYPES)
def test_function(dtype):
    def run(library):
        class SwishAndSquare(library.autograd.Function):
            """x · sigmoid(x), with its output saved, and x²."""

            @staticmethod
            def forward(ctx, x, scale):
                y = x * library.sigmoid(x)
                ctx.save_for_backward(x, y)
                ctx.scale = scale
                return y * scale, x * x

            @staticmethod
            def backward(ctx, g, h):
                x, _ = ctx.saved_tensors
                s = library.sigmoid(x)
                return g * ctx.scale * (s + x * s * (1.0 - s)) + h * 2.0 * x, None

        x = library.tensor(random_array((5,), dtype), requires_grad=True)
        a, b = SwishAndSquare.apply(x, 3.0)
        (g,) = library.autograd.grad((a * b).sum(), x, create_graph=True)
        (h,) = library.autograd.grad((g * g).sum(), x)
        return a, b, g, h

    near(run(mg), run(torch), dtype)


@peer("autograd.checkpoint")
@pytest.mark.parametrize("dtype", DTYPES)
def test_checkpoint(dtype):
    from torch.utils.checkpoint import checkpoint

    class Ours(nn.Sequential):
        def forward(self, x):
            return mg.autograd.checkpoint(super().forward, x)

    class Theirs(torch.nn.Sequential):
        def forward(self, x):
            return checkpoint(super().forward, x, use_reentrant=False)

    def build(library):
        kind = Ours if library is nn else Theirs
        # no BatchNorm: PyTorch updates its statistics twice
        return kind(library.Linear(4, 5), library.Tanh(), library.Linear(5, 2))

    check_layer(build, random_array((6, 4), dtype), dtype)
