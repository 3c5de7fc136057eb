"""Functions vs. PyTorch: values, first and second order on random input in float64.

A row is the mark with the public name, the inputs, and our function and PyTorch's, unless they are
called by that name with only the inputs.
"""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad import autograd
from minigrad._core import ops

torch = pytest.importorskip("torch")

from peers import both, close, peer  # noqa: E402

F = torch.nn.functional
RANDOM = np.random.default_rng(0)
ANY = RANDOM.normal(size=(4, 3, 5))
OTHER = RANDOM.normal(size=(3, 1))
POSITIVE = RANDOM.uniform(0.2, 3.0, (4, 3, 5))
INSIDE = RANDOM.uniform(-0.95, 0.95, (4, 3, 5))
BEYOND = RANDOM.uniform(1.1, 5.0, (4, 3, 5))
ZEROS = np.where(RANDOM.random((4, 3, 5)) < 0.2, 0.0, ANY)
MASK, MASK2 = RANDOM.random((2, 4, 3, 5)) < 0.5
SMALL = RANDOM.integers(-1, 2, (4, 3, 5)).astype(float)
ODD = np.array([0.0, np.nan, np.inf, -np.inf, 1.0])
PLACES = RANDOM.integers(0, 3, (4, 7, 5))
MATRIX, SQUARE = RANDOM.normal(size=(4, 6)), RANDOM.normal(size=(4, 4))
VECTOR = RANDOM.normal(size=5)
REGULAR = np.linspace(2, 0.5, 4) * np.linalg.qr(RANDOM.normal(size=(2, 4, 4)))[0]
REGULAR += 0.1 * RANDOM.normal(size=(2, 4, 4))


def row(mark, *inputs, ours=None, theirs=None):
    """mark: peer(name), or only the name if it is not public."""
    name, marks = (mark, ()) if isinstance(mark, str) else (mark.args[0], mark)
    ours = ours or getattr(ops, name, None) or getattr(mg, name)
    return pytest.param(ours, theirs or getattr(torch, name), inputs, marks=marks, id=name)


def alike(mark, *inputs, call):
    """The same call of both libraries; their names and argument order agree."""
    return row(mark, *inputs, ours=lambda *x: call(mg, *x), theirs=lambda *x: call(torch, *x))


def matrices(name, *inputs, ours=None, theirs=None):
    """A function of mg.linalg and of torch.linalg."""
    ours = ours or getattr(mg.linalg, name)
    theirs = theirs or getattr(torch.linalg, name)
    return row(peer(f"linalg.{name}"), *inputs, ours=ours, theirs=theirs)


def solvers(name, *inputs, call):
    """The same call of both modules."""
    return matrices(
        name, *inputs, ours=lambda *x: call(mg.linalg, *x), theirs=lambda *x: call(torch.linalg, *x)
    )


def symmetrised(function):
    """Of the symmetric part; vectors without their sign."""
    return lambda x: tuple(abs(part) for part in function((x + x.mT) / 2))


def recurrence(factor, x):
    states = [x[..., 0]]
    for k in range(1, x.shape[-1]):
        states.append(factor[..., k] * states[-1] + x[..., k])
    return torch.stack(states, -1)


ELEMENTWISE = [
    row(peer("abs"), ANY),
    row(peer("acos"), INSIDE),
    row(peer("acosh"), BEYOND),
    row(peer("asin"), INSIDE),
    row(peer("asinh"), ANY),
    row(peer("atan"), ANY),
    row(peer("atanh"), INSIDE),
    row(peer("ceil"), ANY),
    row(peer("clone"), ANY),
    row(peer("cos"), ANY),
    row(peer("cosh"), ANY),
    row(peer("erf"), ANY),
    row(peer("exp"), ANY),
    row(peer("exp2"), ANY),
    row(peer("expm1"), ANY),
    row(peer("floor"), ANY),
    row(peer("gelu"), ANY, theirs=F.gelu),
    row(peer("isfinite"), ODD),
    row(peer("isinf"), ODD),
    row(peer("isnan"), ODD),
    row(peer("log"), POSITIVE),
    row(peer("log10"), POSITIVE),
    row(peer("log1p"), POSITIVE),
    row(peer("log2"), POSITIVE),
    row(peer("logical_not"), MASK),
    row(peer("logsigmoid"), ANY, theirs=F.logsigmoid),
    row(peer("nan_to_num"), ODD),
    alike(peer("nan_to_num"), ODD, call=lambda n, x: n.nan_to_num(x, 1.0, 2.0, 3.0)),
    row(peer("negative"), ANY),
    row(peer("reciprocal"), POSITIVE),
    row(peer("relu"), ANY),
    row(peer("round"), 3 * ANY),
    row(peer("round"), 3 * ANY, theirs=lambda x: x.round(decimals=2), ours=lambda x: x.round(2)),
    row(peer("rsqrt"), POSITIVE),
    row(peer("sigmoid"), ANY),
    row(peer("sign"), ZEROS),
    row(peer("silu"), ANY, theirs=F.silu),
    row(peer("sin"), ANY),
    row(peer("sinh"), ANY),
    row(peer("softplus"), ANY, theirs=F.softplus),
    row(peer("sqrt"), POSITIVE),
    row(peer("square"), ANY),
    row(peer("tan"), INSIDE),
    row(peer("tanh"), ANY),
    row(peer("trunc"), 3 * ANY),
    row(peer("astype"), ANY, ours=lambda x: x.astype("float32"), theirs=lambda x: x.float()),
    row(peer("add"), ANY, OTHER),
    row(peer("atan2"), ANY, OTHER),
    alike(peer("cross"), ANY, POSITIVE, call=lambda n, x, y: n.cross(x, y, 1)),
    row(peer("divide"), ANY, POSITIVE),
    row("equal", SMALL, SMALL[0], theirs=torch.eq),  # torch.equal is another function
    row(
        peer("floor_divide"),
        3 * ANY,
        OTHER,
        theirs=lambda x, y: torch.div(x, y, rounding_mode="floor"),
    ),
    row(
        "gate",
        ANY,
        SMALL,
        ours=lambda g, x: ops.gate(g, x.detach()),
        theirs=lambda g, x: g * (x > 0),
    ),
    row(peer("greater"), SMALL, SMALL[0]),
    row(peer("greater_equal"), SMALL, SMALL[0]),
    row(peer("hypot"), ANY, OTHER),
    row(peer("nextafter"), ANY, OTHER),
    row(peer("isclose"), SMALL, SMALL[0] + 1e-9),
    row(peer("lerp"), ANY, OTHER, POSITIVE),
    alike(peer("lerp"), ANY, POSITIVE, call=lambda n, x, y: n.lerp(x, y, 0.3)),
    row(peer("less"), SMALL, SMALL[0]),
    row(peer("less_equal"), SMALL, SMALL[0]),
    row(peer("logical_and"), MASK, MASK2),
    row(peer("logical_or"), MASK, MASK2),
    row(peer("logical_xor"), MASK, MASK2),
    row(peer("maximum"), SMALL, SMALL[0]),
    row(peer("minimum"), SMALL, SMALL[0]),
    row(peer("multiply"), ANY, OTHER),
    row(peer("not_equal"), SMALL, SMALL[0]),
    row(peer("pow"), POSITIVE, OTHER),
    row(peer("remainder"), 3 * ANY, OTHER),
    row(peer("subtract"), ANY, OTHER),
    row(peer("where"), MASK, ANY, OTHER),
    alike(peer("clip"), ANY, call=lambda n, x: n.clip(x, -0.5, 1.0)),
]
REDUCTIONS = [
    row(peer("all"), MASK),
    row(peer("any"), MASK),
    row(peer("argmax"), ANY),
    row(peer("argmin"), ANY),
    row(peer("count_nonzero"), ZEROS),
    row(peer("max"), SMALL, theirs=torch.amax),
    row(peer("mean"), ANY),
    row(peer("min"), SMALL, theirs=torch.amin),
    row(peer("norm"), ANY),
    row(peer("norm"), ANY, ours=lambda x: x.norm(ord=3), theirs=lambda x: x.norm(3)),
    row(peer("prod"), ANY),
    row(peer("prod"), ZEROS),
    row(peer("median"), ANY, theirs=lambda x: torch.quantile(x, 0.5)),
    *(
        row(
            peer("quantile"),
            ANY,
            ours=lambda x, m=m: mg.quantile(x, [0.2, 0.7], 2, method=m),
            theirs=lambda x, m=m: torch.quantile(
                x, torch.tensor([0.2, 0.7], dtype=x.dtype), 2, interpolation=m
            ),
        )
        for m in ("linear", "lower", "higher", "midpoint", "nearest")
    ),
    row(
        peer("quantile"),
        np.where(ANY > 1.5, np.nan, ANY),
        ours=lambda x: mg.quantile(x, 0.3, 1, True),
        theirs=lambda x: torch.quantile(x, 0.3, 1, True),
    ),
    row(peer("std"), ANY, ours=lambda x: x.std(correction=1)),
    row(peer("sum"), ANY),
    row(peer("var"), ANY, ours=lambda x: x.var(correction=1)),
    alike(peer("all"), MASK, call=lambda n, x: n.all(x, axis=1, keepdims=True)),
    alike(peer("argmax"), ANY, call=lambda n, x: n.argmax(x, 1)),
    row(
        peer("cumulative_prod"),
        ANY,
        ours=lambda x: x.cumulative_prod(1),
        theirs=lambda x: x.cumprod(1),
    ),
    row(
        peer("cumulative_prod"),
        ZEROS,
        ours=lambda x: x.cumulative_prod(2),
        theirs=lambda x: x.cumprod(2),
    ),
    row(
        peer("cumulative_sum"),
        ANY,
        ours=lambda x: x.cumulative_sum(0),
        theirs=lambda x: x.cumsum(0),
    ),
    alike(peer("max"), SMALL, call=lambda n, x: (x.amax if n is torch else x.max)((0, 2))),
    alike(peer("mean"), ANY, call=lambda n, x: n.mean(x, (0, 2), keepdims=True)),
    alike(peer("sum"), ANY, call=lambda n, x: n.sum(x, (0, -1))),
    alike(peer("var"), ANY, call=lambda n, x: n.var(x, (0, 1), correction=0)),
    row(
        peer("log_softmax"), ANY, ours=lambda x: x.log_softmax(1), theirs=lambda x: x.log_softmax(1)
    ),
    row(
        peer("logsumexp"),
        ANY,
        ours=lambda x: x.logsumexp((0, 2)),
        theirs=lambda x: x.logsumexp((0, 2)),
    ),
    row(peer("softmax"), ANY, ours=lambda x: x.softmax(1), theirs=lambda x: x.softmax(1)),
    row("linear_recurrence", ANY, POSITIVE, theirs=recurrence),
]
SHAPE = [
    alike(peer("broadcast_to"), OTHER, call=lambda n, x: n.broadcast_to(x, (2, 3, 4))),
    alike(peer("concat"), ANY, MATRIX, call=lambda n, x, y: n.concat([x[0, :, :4], y[:, :4]], 0)),
    alike(peer("diagonal"), ANY, call=lambda n, x: n.diagonal(x, 1, 0, 2)),
    row(peer("expand_dims"), ANY, ours=lambda x: mg.expand_dims(x, 1), theirs=lambda x: x[:, None]),
    alike(peer("flatten"), ANY, call=lambda n, x: n.flatten(x, 1)),
    row(peer("flip"), ANY, ours=lambda x: mg.flip(x, (0, 2)), theirs=lambda x: x.flip((0, 2))),
    alike("getitem", ANY, call=lambda n, x: x[1:, None, [2, 0, 2], ::2]),
    row(peer("matrix_transpose"), ANY, theirs=lambda x: x.mT),
    row(peer("meshgrid"), VECTOR, VECTOR[:3], theirs=lambda *x: torch.meshgrid(*x, indexing="xy")),
    alike(peer("moveaxis"), ANY, call=lambda n, x: n.moveaxis(x, 0, -1)),
    row(
        peer("permute_dims"),
        ANY,
        ours=lambda x: x.permute_dims((2, 0, 1)),
        theirs=lambda x: x.permute(2, 0, 1),
    ),
    row(
        peer("repeat"),
        ANY,
        ours=lambda x: x.repeat(2, 1),
        theirs=lambda x: x.repeat_interleave(2, 1),
    ),
    alike(peer("reshape"), ANY, call=lambda n, x: n.reshape(x, (5, -1))),
    alike(peer("roll"), ANY, call=lambda n, x: n.roll(x, (1, -2), (0, 2))),
    alike(peer("split"), ANY, call=lambda n, x: n.split(x, 2)),
    alike(peer("squeeze"), OTHER, call=lambda n, x: n.squeeze(x)),
    alike(peer("stack"), ANY, POSITIVE, call=lambda n, x, y: n.stack([x, y], 1)),
    alike(peer("swapaxes"), ANY, call=lambda n, x: n.swapaxes(x, 0, 2)),
    alike(peer("tile"), ANY, call=lambda n, x: n.tile(x, (2, 1, 2))),
    alike(peer("tril"), ANY, call=lambda n, x: n.tril(x, 1)),
    alike(peer("triu"), ANY, call=lambda n, x: n.triu(x, -1)),
    row(peer("unstack"), ANY, theirs=lambda x: x.unbind(0)),
]
ORDER = [
    row(peer("bincount"), PLACES.reshape(-1)),
    row(
        peer("searchsorted"),
        np.sort(VECTOR),
        SQUARE,
        theirs=lambda x, v: torch.searchsorted(x.detach(), v.detach()),
    ),
    alike(peer("unique"), SMALL, call=lambda n, x: n.unique(x.detach(), return_counts=True)),
    row(
        peer("unique"),
        SMALL,
        ours=lambda x: mg.unique(x, return_inverse=True),
        theirs=lambda x: torch.unique(x.detach(), return_inverse=True),
    ),
    row(peer("argsort"), ANY),
    row(peer("nonzero"), MASK, theirs=lambda x: x.nonzero(as_tuple=True)),
    row(peer("sort"), ANY, theirs=lambda x: x.sort().values),
    row(
        peer("sort"),
        ANY,
        ours=lambda x: x.sort(0, descending=True),
        theirs=lambda x: x.sort(0, descending=True).values,
    ),
    row(peer("topk"), ANY, ours=lambda x: x.topk(2, 1), theirs=lambda x: tuple(x.topk(2, 1))),
    row(
        peer("topk"),
        ANY,
        ours=lambda x: x.topk(3, 0, False),
        theirs=lambda x: tuple(x.topk(3, 0, False)),
    ),
    row(
        peer("take"),
        ANY,
        ours=lambda x: x.take([2, 0, 2], 1),
        theirs=lambda x: x.index_select(1, torch.tensor([2, 0, 2])),
    ),
    row(
        peer("take_along_axis"),
        ANY,
        PLACES,
        ours=lambda x, i: x.take_along_axis(i, 1),
        theirs=lambda x, i: x.take_along_dim(i, 1),
    ),
    row(
        "add_along_axis",
        RANDOM.normal(size=PLACES.shape),
        PLACES,
        ours=lambda x, i: ops.add_along_axis(x, i, 1, ANY.shape),
        theirs=lambda x, i: torch.zeros(ANY.shape, dtype=x.dtype).scatter_add(1, i, x),
    ),
    row(
        "put",
        VECTOR,
        ours=lambda x: ops.put(x, np.array([0, 2, 0, 1, 2]), (4,)),
        theirs=lambda x: x.new_zeros(4).index_add(0, torch.tensor([0, 2, 0, 1, 2]), x),
    ),
    alike(
        peer("scatter_add"),
        ANY,
        PLACES[:3],
        RANDOM.normal(size=(3, 7, 5)),
        call=lambda n, x, i, s: x.scatter_add(1, i, s),
    ),
]
PRODUCTS = [
    row(peer("linear"), ANY, RANDOM.normal(size=(2, 5)), RANDOM.normal(size=2), theirs=F.linear),
    row(peer("matmul"), ANY, RANDOM.normal(size=(5, 2))),
    row(peer("matmul"), ANY, RANDOM.normal(size=(2, 1, 5, 3))),
    row(peer("matmul"), VECTOR, VECTOR[::-1].copy()),
    row(peer("outer"), VECTOR, VECTOR[:3]),
    row(peer("tensordot"), ANY, ANY[0], theirs=lambda x, y: torch.tensordot(x, y, 2)),
    row(
        peer("tensordot"),
        ANY,
        MATRIX,
        ours=lambda x, y: mg.tensordot(x, y, (0, 0)),
        theirs=lambda x, y: torch.tensordot(x, y, ([0], [0])),
    ),
    row(peer("trace"), SQUARE),
    row(peer("vecdot"), ANY, POSITIVE, theirs=torch.linalg.vecdot),
    alike(peer("einsum"), SQUARE, call=lambda n, x: n.einsum("ii", x)),
    alike(peer("einsum"), ANY, ANY[:1], call=lambda n, x, y: n.einsum("...ij,...kj->...ik", x, y)),
    alike(peer("einsum"), ANY, MATRIX, SQUARE, call=lambda n, *x: n.einsum("ijk,il,im->mlj", *x)),
    alike(peer("einsum"), SQUARE, SQUARE[0], call=lambda n, x, y: n.einsum("ii,j->ij", x, y)),
]
CREATION = [
    alike(peer("arange"), call=lambda n: n.arange(2, 11, 3)),
    alike(peer("asarray"), call=lambda n: n.asarray([[1.5, 2.0]])),
    alike(peer("eye"), call=lambda n: n.eye(3, 4)),
    alike(peer("full"), call=lambda n: n.full((2, 3), 1.5)),
    alike(peer("full_like"), ANY, call=lambda n, x: n.full_like(x, 2.5)),
    alike(peer("linspace"), call=lambda n: n.linspace(-1.0, 3.0, 9)),
    alike(peer("ones"), call=lambda n: n.ones(2, 3)),
    alike(peer("ones_like"), ANY, call=lambda n, x: n.ones_like(x)),
    alike(peer("tensor"), call=lambda n: n.tensor([[1, 2], [3, 4]])),
    alike(peer("zeros"), call=lambda n: n.zeros(2, 3)),
    alike(peer("zeros_like"), ANY, call=lambda n, x: n.zeros_like(x)),
]


LINALG = [
    matrices("solve", REGULAR, RANDOM.normal(size=(2, 4, 3))),
    solvers("solve", REGULAR[0], SQUARE[0], call=lambda n, x, y: n.solve(x, y)),
    solvers("solve", REGULAR[0], RANDOM.normal(size=(2, 4, 1)), call=lambda n, x, y: n.solve(x, y)),
    *(
        solvers(
            "solve_triangular",
            REGULAR,
            RANDOM.normal(size=(2, 4, 3)),
            call=lambda n, x, y, upper=upper: n.solve_triangular(x, y, upper=upper),
        )
        for upper in (False, True)
    ),
    matrices("inv", REGULAR),
    matrices("det", REGULAR),
    matrices("slogdet", REGULAR),
    *(
        solvers("cholesky", REGULAR, call=lambda n, x, u=u: n.cholesky(x @ x.mT, upper=u))
        for u in (False, True)
    ),
    matrices("qr", REGULAR),
    matrices("qr", REGULAR[:, :, :2]),
    matrices("qr", REGULAR[:, :2]),
    matrices(
        "eigh", REGULAR, ours=symmetrised(mg.linalg.eigh), theirs=symmetrised(torch.linalg.eigh)
    ),
    solvers("eigvalsh", REGULAR, call=lambda n, x: n.eigvalsh((x + x.mT) / 2)),
    solvers("svd", REGULAR, call=lambda n, x: tuple(abs(part) for part in n.svd(x))),
    *(
        solvers("svd", x, call=lambda n, x: tuple(abs(p) for p in n.svd(x, full_matrices=False)))
        for x in (REGULAR[:, :2], REGULAR[:, :, :3])
    ),
    matrices("svdvals", REGULAR[:, :3]),
    matrices("pinv", REGULAR),
    matrices("pinv", REGULAR[:, :2]),
    solvers("pinv", REGULAR[:, :, :2], call=lambda n, x: n.pinv(x, rtol=1e-3)),
    solvers("lstsq", REGULAR[:, :, :2], REGULAR[:, :, 2:], call=lambda n, x, y: n.lstsq(x, y)[0]),
    matrices("matrix_rank", REGULAR),
    *(
        solvers("matrix_power", REGULAR, call=lambda n, x, k=k: n.matrix_power(x, k))
        for k in (-2, 1, 3)
    ),
    matrices(
        "matrix_power",
        REGULAR,
        ours=lambda x: mg.linalg.matrix_power(x, 0),
        theirs=lambda x: torch.linalg.matrix_power(x.detach(), 0),
    ),
    *(
        solvers("matrix_norm", REGULAR[:, :3], call=lambda n, x, o=o: n.matrix_norm(x, ord=o))
        for o in ("fro", "nuc", 1, -1, 2, -2, np.inf, -np.inf)
    ),
    *(
        solvers("vector_norm", ANY, call=lambda n, x, o=o: n.vector_norm(x, ord=o))
        for o in (0.5, 1, 2, 3, -1.5, np.inf, -np.inf)
    ),
    solvers("vector_norm", ANY, call=lambda n, x: n.vector_norm(x.detach(), ord=0)),
    matrices("vecdot", ANY, POSITIVE),
    matrices("cross", ANY[..., :3], POSITIVE[..., :3]),
    matrices("diagonal", ANY),
    matrices("trace", ANY, theirs=lambda x: torch.diagonal(x, 0, -2, -1).sum(-1)),
]


def outputs(result):
    return list(result) if isinstance(result, (tuple, list)) else [result]


def gradients(grad, y, x, cotangents):
    """Of the sum of all y · cotangents that have a graph; None if no gradient flows."""
    pairs = [p for p in zip(y, cotangents, strict=True) if p[0] is not None and p[0].requires_grad]
    if not pairs:
        return [None] * len(x)
    y, cotangents = zip(*pairs, strict=True)
    return grad(y, x, cotangents, create_graph=True, allow_unused=True)


def agree(ours, theirs, leaves, scale):
    for a, b, leaf in zip(ours, theirs, leaves, strict=True):
        a = mg.zeros_like(leaf) if a is None else a
        zeros = torch.zeros(leaf.shape, dtype=getattr(torch, str(leaf.dtype)))
        b = zeros if b is None else b + zeros
        close(a, b, str(a.dtype), scale)


@pytest.mark.parametrize(
    "ours, theirs, inputs",
    [*ELEMENTWISE, *REDUCTIONS, *SHAPE, *ORDER, *PRODUCTS, *CREATION, *LINALG],
)
def test_function(ours, theirs, inputs):
    """Second order: the gradient of the randomly weighted first to inputs and cotangents."""
    x, tx = zip(*map(both, inputs), strict=True) if inputs else ((), ())
    y, ty = outputs(ours(*x)), outputs(theirs(*tx))
    for a, b in zip(y, ty, strict=True):
        close(a, b, str(a.dtype) if a.dtype.kind == "f" else "float64")
        assert a.requires_grad == b.requires_grad
    x, tx = ([a for a in side if a.requires_grad] for side in (x, tx))
    random = np.random.default_rng(1)
    v, tv = zip(*(both(random.normal(size=a.shape).astype(a.dtype)) for a in y), strict=True)
    w, tw = zip(*(both(random.normal(size=a.shape)) for a in x), strict=True) if x else ((), ())
    first = gradients(autograd.grad, y, x, v)
    other = gradients(torch.autograd.grad, ty, tx, tv)
    agree(first, other, x, 10)
    v, tv = ([a for a in side if a.requires_grad] for side in (v, tv))
    second = gradients(autograd.grad, first, x + v, w)
    agree(second, gradients(torch.autograd.grad, other, tx + tv, tw), x + v, 100)


WRONG = {
    "value": lambda x: 1.0000001 * mg.exp(x),
    "first order": lambda x: mg.exp(x.detach()) + 0.5 * (x - x.detach()),
    "second order": lambda x: mg.exp(x.detach()) * (1.0 + x - x.detach()),
}


@pytest.mark.parametrize("order", WRONG)
def test_a_wrong_function_is_noticed(order):
    with pytest.raises(AssertionError):
        test_function(WRONG[order], torch.exp, (ANY,))


def test_only_the_order_of_equal_elements_is_excused():
    pytest.importorskip("expecttest")
    opinfo = pytest.importorskip("opinfo")
    x = torch.tensor([[3.0, 1.0, 3.0, np.nan, 1.0]])
    values, positions = torch.sort(x)
    swapped = [[4, 1, 2, 0, 3]]

    def excused(name, order, sorted_values=values, options=(("dim", -1),)):
        found = mg.tensor(sorted_values.numpy()), mg.tensor(order)
        found, expected = ((each[1:] if name == "argsort" else each) for each in (found, both))
        return opinfo.order_of_equals(name, found, expected, (x,), dict(options))

    both = values, positions
    assert positions.tolist() == [[1, 4, 0, 2, 3]]
    for name in ("sort", "argsort", "topk"):
        assert excused(name, swapped)
        assert not excused(name, [[4, 0, 2, 1, 3]]), "other elements"
        assert not excused(name, [[1, 1, 0, 2, 3]]), "an element twice"
    assert not excused("sort", swapped, values + 1)
    assert not excused("median", swapped)
