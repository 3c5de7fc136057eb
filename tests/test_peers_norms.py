"""Normalisation, activations, losses, distances, initialisation and utilities vs. PyTorch."""

from __future__ import annotations

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.nn import functional as F

torch = pytest.importorskip("torch")

from peers import DTYPES, both, check_layer, close, pair, peer, random_array  # noqa: E402

# --------------------------------------------------------------------------------- normalisation
NORMS = [
    pytest.param(lambda n: n.LayerNorm(5), (4, 3, 5), marks=peer("nn.LayerNorm")),
    pytest.param(lambda n: n.LayerNorm((3, 5), eps=0.1), (4, 3, 5), marks=peer("nn.LayerNorm")),
    pytest.param(
        lambda n: n.LayerNorm(5, elementwise_affine=False), (4, 5), marks=peer("nn.LayerNorm")
    ),
    pytest.param(lambda n: n.LayerNorm([2, 2], bias=False), (3, 2, 2), marks=peer("nn.LayerNorm")),
    pytest.param(lambda n: n.RMSNorm(5), (4, 3, 5), marks=peer("nn.RMSNorm")),
    pytest.param(lambda n: n.RMSNorm((3, 5), eps=0.1), (4, 3, 5), marks=peer("nn.RMSNorm")),
    pytest.param(lambda n: n.RMSNorm(5, elementwise_affine=False), (5,), marks=peer("nn.RMSNorm")),
    pytest.param(lambda n: n.GroupNorm(2, 6), (3, 6), marks=peer("nn.GroupNorm")),
    pytest.param(lambda n: n.GroupNorm(3, 6, eps=0.1), (2, 6, 4), marks=peer("nn.GroupNorm")),
    pytest.param(lambda n: n.GroupNorm(1, 6), (2, 6, 3, 4), marks=peer("nn.GroupNorm")),
    pytest.param(
        lambda n: n.GroupNorm(6, 6, affine=False), (2, 6, 3, 4), marks=peer("nn.GroupNorm")
    ),
    pytest.param(lambda n: n.InstanceNorm1d(3), (4, 3, 5), marks=peer("nn.InstanceNorm1d")),
    pytest.param(
        lambda n: n.InstanceNorm1d(3, affine=True), (3, 5), marks=peer("nn.InstanceNorm1d")
    ),
    pytest.param(
        lambda n: n.InstanceNorm1d(3, 0.1, 0.3, True, True),
        (4, 3, 5),
        marks=peer("nn.InstanceNorm1d"),
    ),
    pytest.param(
        lambda n: n.InstanceNorm1d(3, momentum=None), (4, 3, 5), marks=peer("nn.InstanceNorm1d")
    ),
    pytest.param(
        lambda n: n.InstanceNorm2d(3, affine=True), (4, 3, 5, 2), marks=peer("nn.InstanceNorm2d")
    ),
    pytest.param(
        lambda n: n.InstanceNorm2d(3, track_running_stats=True),
        (2, 3, 5, 2),
        marks=peer("nn.InstanceNorm2d"),
    ),
    pytest.param(lambda n: n.InstanceNorm2d(3), (3, 5, 2), marks=peer("nn.InstanceNorm2d")),
    pytest.param(lambda n: n.BatchNorm1d(3, bias=False), (4, 3), marks=peer("nn.BatchNorm1d")),
    pytest.param(
        lambda n: n.BatchNorm2d(3, affine=False, bias=False),
        (4, 3, 2, 2),
        marks=peer("nn.BatchNorm2d"),
    ),
    pytest.param(lambda n: n.GroupNorm(2, 6, bias=False), (3, 6), marks=peer("nn.GroupNorm")),
    pytest.param(
        lambda n: n.InstanceNorm1d(3, 0.1, 0.3, True, True, bias=False),
        (3, 5),
        marks=peer("nn.InstanceNorm1d"),
    ),
    pytest.param(
        lambda n: n.InstanceNorm2d(3, affine=True, track_running_stats=True, momentum=None),
        (2, 3, 5, 2),
        marks=peer("nn.InstanceNorm2d"),
    ),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("build", "shape"), NORMS)
def test_norm(build, shape, dtype):
    check_layer(build, random_array(shape, dtype), dtype, ("train", "train", "eval"))


@pytest.mark.parametrize(("build", "shape"), NORMS)
def test_norm_defaults(build, shape):
    ours, theirs = build(nn), build(torch.nn)
    for key, value in theirs.state_dict().items():
        assert ours.state_dict()[key].tolist() == value.tolist()
    for option in ("eps", "affine", "momentum", "track_running_stats", "elementwise_affine"):
        assert getattr(ours, option, None) == getattr(theirs, option, None)


# ----------------------------------------------------------------------------------- activations
ACTIVATIONS = [
    pytest.param(lambda n: n.ReLU(), (6, 4), marks=peer("nn.ReLU")),
    pytest.param(lambda n: n.ReLU6(), (6, 4), marks=peer("nn.ReLU6")),
    pytest.param(lambda n: n.LeakyReLU(), (6, 4), marks=peer("nn.LeakyReLU")),
    pytest.param(lambda n: n.LeakyReLU(0.3), (6, 4, 2), marks=peer("nn.LeakyReLU")),
    pytest.param(lambda n: n.PReLU(), (6, 4), marks=peer("nn.PReLU")),
    pytest.param(lambda n: n.PReLU(4, 0.1), (6, 4), marks=peer("nn.PReLU")),
    pytest.param(lambda n: n.PReLU(4), (2, 4, 3, 2), marks=peer("nn.PReLU")),
    pytest.param(lambda n: n.PReLU(), (5,), marks=peer("nn.PReLU")),
    pytest.param(lambda n: n.ELU(), (6, 4), marks=peer("nn.ELU")),
    pytest.param(lambda n: n.ELU(0.3), (6, 4, 2), marks=peer("nn.ELU")),
    pytest.param(lambda n: n.SELU(), (6, 4), marks=peer("nn.SELU")),
    pytest.param(lambda n: n.CELU(), (6, 4), marks=peer("nn.CELU")),
    pytest.param(lambda n: n.CELU(0.25), (6, 4, 2), marks=peer("nn.CELU")),
    pytest.param(lambda n: n.Hardtanh(), (6, 4), marks=peer("nn.Hardtanh")),
    pytest.param(lambda n: n.Hardtanh(-0.5, 2.0), (6, 4, 2), marks=peer("nn.Hardtanh")),
    pytest.param(lambda n: n.Hardswish(), (6, 4), marks=peer("nn.Hardswish")),
    pytest.param(lambda n: n.Hardshrink(), (6, 4), marks=peer("nn.Hardshrink")),
    pytest.param(lambda n: n.Hardshrink(1.0), (6, 4, 2), marks=peer("nn.Hardshrink")),
    pytest.param(lambda n: n.Softshrink(), (6, 4), marks=peer("nn.Softshrink")),
    pytest.param(lambda n: n.Softshrink(1.0), (6, 4, 2), marks=peer("nn.Softshrink")),
    pytest.param(lambda n: n.Mish(), (6, 4), marks=peer("nn.Mish")),
    pytest.param(lambda n: n.Softsign(), (6, 4), marks=peer("nn.Softsign")),
    pytest.param(lambda n: n.Tanhshrink(), (6, 4), marks=peer("nn.Tanhshrink")),
    pytest.param(lambda n: n.Threshold(0.5, 20.0), (6, 4), marks=peer("nn.Threshold")),
    pytest.param(lambda n: n.Softmin(dim=1), (6, 4, 2), marks=peer("nn.Softmin")),
    pytest.param(lambda n: n.GLU(), (6, 4), marks=peer("nn.GLU")),
    pytest.param(lambda n: n.GLU(dim=1), (6, 4, 3), marks=peer("nn.GLU")),
    pytest.param(lambda n: n.GELU(), (6, 4), marks=peer("nn.GELU")),
    pytest.param(lambda n: n.SiLU(), (6, 4), marks=peer("nn.SiLU")),
    pytest.param(lambda n: n.Sigmoid(), (6, 4), marks=peer("nn.Sigmoid")),
    pytest.param(lambda n: n.Tanh(), (6, 4), marks=peer("nn.Tanh")),
    pytest.param(lambda n: n.Softplus(2.0, 50.0), (6, 4), marks=peer("nn.Softplus")),
    pytest.param(lambda n: n.LogSigmoid(), (6, 4), marks=peer("nn.LogSigmoid")),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("build", "shape"), ACTIVATIONS)
def test_activation(build, shape, dtype):
    check_layer(build, random_array(shape, dtype) * 2, dtype)


KINKS = np.array([-20.0, -6.0, -3.0, -2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, 6.0, 20.0])


@pytest.mark.parametrize(("build", "shape"), [a for a in ACTIVATIONS if len(a.values[1]) == 2])
def test_gradients_at_kinks(build, shape):
    """The bounds of every piece, and infinities, have PyTorch's values and gradients."""
    ours, theirs = pair(build, "float64")
    values = np.repeat(np.append(KINKS, [-1e5, 1e5])[:, None], shape[1], 1)
    x, tx = both(values)
    y, ty = ours(x), theirs(tx)
    y.backward(mg.ones(y.shape, dtype=mg.float64))
    ty.backward(torch.ones_like(ty))
    np.testing.assert_allclose(y.numpy(), ty.detach().numpy(), rtol=1e-11, atol=1e-13)
    np.testing.assert_allclose(x.grad.numpy(), tx.grad.numpy(), rtol=1e-11, atol=1e-13)


@pytest.mark.peer("nn.Hardsigmoid")
@pytest.mark.parametrize("dtype", DTYPES)
def test_hardsigmoid(dtype):
    """PyTorch's gradient has a 1/6 of float32 in float64 too, so it is compared to that."""
    x, tx = both(np.append(KINKS, [-1e5, -0.3, 1e5]).astype(dtype))
    y, ty = nn.Hardsigmoid()(x), torch.nn.Hardsigmoid()(tx)
    close(y, ty, dtype)
    y.sum().backward()
    ty.sum().backward()
    close(x.grad, tx.grad, dtype, 1 if dtype == "float32" else 1e4)


FUNCTIONS = [
    ("relu", ()),
    ("relu6", ()),
    ("leaky_relu", (0.2,)),
    ("elu", (0.5,)),
    ("selu", ()),
    ("celu", (0.5,)),
    ("hardtanh", (-2.0, 0.5)),
    ("hardswish", ()),
    ("hardshrink", (0.7,)),
    ("softshrink", (0.7,)),
    ("mish", ()),
    ("softsign", ()),
    ("tanhshrink", ()),
    ("threshold", (0.1, 5.0)),
    ("silu", ()),
    ("softplus", (2.0,)),
    ("logsigmoid", ()),
    ("sigmoid", ()),
    ("tanh", ()),
    ("gelu", ()),
    ("glu", (0,)),
    ("softmax", (1,)),
    ("softmin", (0,)),
    ("log_softmax", (1,)),
    ("normalize", ()),
    ("normalize", (3.0, 0)),
    ("layer_norm", ((3,),)),
    ("rms_norm", ((3,),)),
]


@pytest.mark.parametrize(("name", "arguments"), FUNCTIONS)
def test_function(name, arguments):
    x, tx = both(random_array((4, 3), "float64"))
    y, ty = getattr(F, name)(x, *arguments), getattr(torch.nn.functional, name)(tx, *arguments)
    close(y, ty, "float64")
    cotangent = random_array(y.shape, "float64", 3)
    y.backward(mg.tensor(cotangent))
    ty.backward(torch.tensor(cotangent))
    close(x.grad, tx.grad, "float64", 10)


@pytest.mark.parametrize("p", [1.0, 2.0, 3.0, float("inf")])
def test_distances(p):
    (a, ta), (b, tb) = (both(random_array((4, 3), "float64", seed)) for seed in (0, 1))
    for ours, theirs in (
        (F.pairwise_distance(a, b, p), torch.nn.functional.pairwise_distance(ta, tb, p)),
        (F.cosine_similarity(a, b), torch.nn.functional.cosine_similarity(ta, tb)),
        (F.cosine_similarity(a, b, 0), torch.nn.functional.cosine_similarity(ta, tb, 0)),
        (F.normalize(a, p), torch.nn.functional.normalize(ta, p)),
    ):
        a.grad = b.grad = ta.grad = tb.grad = None
        cotangent = random_array(ours.shape, "float64", 5)
        close(ours, theirs, "float64")
        ours.backward(mg.tensor(cotangent))
        theirs.backward(torch.tensor(cotangent))
        close(a.grad, ta.grad, "float64", 10)


# ----------------------------------------------------------------------------------------- losses
def probabilities(dtype, shape=(5, 3)):
    return np.random.default_rng(3).dirichlet(np.ones(shape[-1]), shape[:-1]).astype(dtype)


def signs(dtype):
    return np.array([1, -1, -1, 1, -1])


def columns(dtype):
    return signs(dtype)[:, None]


LOSSES = [
    pytest.param(
        lambda n, r: n.SmoothL1Loss(reduction=r), 1, random_array, marks=peer("nn.SmoothL1Loss")
    ),
    pytest.param(
        lambda n, r: n.SmoothL1Loss(reduction=r, beta=3.0),
        1,
        random_array,
        marks=peer("nn.SmoothL1Loss"),
    ),
    pytest.param(
        lambda n, r: n.SmoothL1Loss(reduction=r, beta=0.0),
        1,
        random_array,
        marks=peer("nn.SmoothL1Loss"),
    ),
    pytest.param(
        lambda n, r: n.HuberLoss(reduction=r), 1, random_array, marks=peer("nn.HuberLoss")
    ),
    pytest.param(
        lambda n, r: n.HuberLoss(reduction=r, delta=3.0),
        1,
        random_array,
        marks=peer("nn.HuberLoss"),
    ),
    pytest.param(
        lambda n, r: n.KLDivLoss(reduction=r), 1, probabilities, marks=peer("nn.KLDivLoss")
    ),
    pytest.param(
        lambda n, r: n.KLDivLoss(reduction=r, log_target=True),
        1,
        random_array,
        marks=peer("nn.KLDivLoss"),
    ),
    pytest.param(
        lambda n, r: n.CosineEmbeddingLoss(reduction=r),
        2,
        signs,
        marks=peer("nn.CosineEmbeddingLoss"),
    ),
    pytest.param(
        lambda n, r: n.CosineEmbeddingLoss(0.3, reduction=r),
        2,
        signs,
        marks=peer("nn.CosineEmbeddingLoss"),
    ),
    pytest.param(
        lambda n, r: n.TripletMarginLoss(reduction=r), 3, None, marks=peer("nn.TripletMarginLoss")
    ),
    pytest.param(
        lambda n, r: n.TripletMarginLoss(3.0, p=1.0, swap=True, reduction=r),
        3,
        None,
        marks=peer("nn.TripletMarginLoss"),
    ),
    pytest.param(
        lambda n, r: n.MarginRankingLoss(reduction=r),
        2,
        columns,
        marks=peer("nn.MarginRankingLoss"),
    ),
    pytest.param(
        lambda n, r: n.MarginRankingLoss(1.5, reduction=r),
        2,
        columns,
        marks=peer("nn.MarginRankingLoss"),
    ),
    pytest.param(
        lambda n, r: n.GaussianNLLLoss(reduction=r),
        2,
        probabilities,
        marks=peer("nn.GaussianNLLLoss"),
    ),
    pytest.param(
        lambda n, r: n.GaussianNLLLoss(full=True, eps=0.3, reduction=r),
        2,
        lambda dtype: probabilities(dtype)[:, 0].copy(),
        marks=peer("nn.GaussianNLLLoss"),
    ),
    pytest.param(
        lambda n, r: n.PoissonNLLLoss(reduction=r), 1, random_array, marks=peer("nn.PoissonNLLLoss")
    ),
    pytest.param(
        lambda n, r: n.PoissonNLLLoss(full=True, reduction=r),
        1,
        lambda dtype: np.arange(1, 16, dtype=dtype).reshape(5, 3),
        marks=peer("nn.PoissonNLLLoss"),
    ),
    pytest.param(
        lambda n, r: n.PoissonNLLLoss(log_input=False, eps=20.0, reduction=r),
        1,
        random_array,
        marks=peer("nn.PoissonNLLLoss"),
    ),
]


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum", "batchmean"])
@pytest.mark.parametrize(("build", "inputs", "target"), LOSSES)
def test_loss(build, inputs, target, reduction, dtype):
    if reduction == "batchmean" and not isinstance(build(nn, "mean"), nn.KLDivLoss):
        with pytest.raises(ValueError, match="reduction must be"):
            build(nn, reduction)
        return
    arrays = [random_array((5, 3), dtype, seed) for seed in range(inputs)]
    if target is not None:
        arrays.append(target(dtype) if target is not random_array else target((5, 3), dtype, 9))
    pairs = [both(array) for array in arrays]
    loss = build(nn, reduction)(*[ours for ours, _ in pairs])
    other = build(torch.nn, reduction)(*[theirs for _, theirs in pairs])
    close(loss, other, dtype, 2)
    cotangent = random_array(loss.shape, dtype, seed=4)
    loss.backward(mg.tensor(cotangent))
    other.backward(torch.tensor(cotangent))
    for ours, theirs in pairs:
        if theirs.requires_grad:
            close(ours.grad, theirs.grad, dtype, 10)


@pytest.mark.peer("nn.BCELoss")
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_cross_entropy(dtype, reduction, weighted):
    weight = np.array([1.0, 2.0, 0.5], dtype)
    ours = nn.BCELoss(mg.tensor(weight) if weighted else None, reduction)
    theirs = torch.nn.BCELoss(torch.tensor(weight) if weighted else None, reduction=reduction)
    (x, tx), (t, tt) = both(probabilities(dtype)), both(probabilities(dtype, (5, 3))[::-1].copy())
    loss, other = ours(x, t), theirs(tx, tt)
    close(loss, other, dtype, 2)
    loss.sum().backward()
    other.sum().backward()
    close(x.grad, tx.grad, dtype, 10)
    close(t.grad, tt.grad, dtype, 10)


def test_binary_cross_entropy_at_the_ends_of_its_range():
    x = np.array([0.0, 0.0, 1.0, 1.0, 1e-30, 1e-42], np.float32)
    t = np.array([0.0, 1.0, 0.0, 1.0, 1.0, 1.0], np.float32)
    close(
        nn.BCELoss(reduction="none")(mg.tensor(x), mg.tensor(t)),
        torch.nn.BCELoss(reduction="none")(torch.tensor(x), torch.tensor(t)),
        "float32",
    )


# ------------------------------------------------------------------------- init, utils, wholes
GAINS = ["linear", "conv3d", "conv_transpose2d", "sigmoid", "tanh", "relu", "leaky_relu", "selu"]


@pytest.mark.peer("nn.init.calculate_gain")
@pytest.mark.parametrize("name", GAINS)
def test_gain(name):
    assert nn.init.calculate_gain(name) == torch.nn.init.calculate_gain(name)


@pytest.mark.peer("nn.init.eye_", "nn.init.ones_", "nn.init.zeros_", "nn.init.constant_")
def test_fixed_starting_values():
    for name, shape, options in [
        ("eye_", (3, 5), {}),
        ("ones_", (2, 3), {}),
        ("zeros_", (2, 3), {}),
        ("constant_", (2, 3), {"val": 0.3}),
    ]:
        ours = getattr(nn.init, name)(mg.empty(shape), **options)
        theirs = getattr(torch.nn.init, name)(torch.empty(shape), **options)
        close(ours, theirs, "float32")


@pytest.mark.peer(
    "nn.init.trunc_normal_", "nn.init.orthogonal_", "nn.init.normal_", "nn.init.uniform_"
)
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("trunc_normal_", {}),
        ("trunc_normal_", {"mean": 0.5, "std": 0.5, "a": 0.0, "b": 3.0}),
        ("orthogonal_", {"gain": 3.0}),
        ("uniform_", {"a": -1.0, "b": 3.0}),
        ("normal_", {"mean": 2.0, "std": 0.5}),
    ],
)
def test_random_starting_values_have_the_same_distribution(name, options):
    mg.manual_seed(0)
    torch.manual_seed(0)
    ours = getattr(nn.init, name)(mg.empty(300, 40, 3), **options).numpy()
    theirs = getattr(torch.nn.init, name)(torch.empty(300, 40, 3), **options).numpy()
    tenths = np.linspace(0, 1, 11)[1:-1]
    spread = theirs.std()
    np.testing.assert_allclose(
        np.quantile(ours, tenths), np.quantile(theirs, tenths), atol=0.05 * spread
    )


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.peer("nn.utils.weight_norm", "nn.utils.remove_weight_norm")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [0, 1, None])
def test_weight_norm(dim, dtype):
    check_layer(
        lambda n: n.utils.weight_norm(n.Linear(3, 4), dim=dim), random_array((5, 3), dtype), dtype
    )
    ours, theirs = pair(lambda n: n.utils.weight_norm(n.Linear(3, 4), dim=dim), dtype)
    nn.utils.remove_weight_norm(ours)
    torch.nn.utils.remove_weight_norm(theirs)
    assert sorted(ours.state_dict()) == sorted(theirs.state_dict())
    close(ours.weight.detach(), theirs.weight, dtype)


@pytest.mark.peer("nn.utils.parameters_to_vector", "nn.utils.vector_to_parameters")
def test_vectors():
    ours, theirs = pair(lambda n: n.Sequential(n.Linear(3, 4), n.BatchNorm1d(4)), "float64")
    vector = nn.utils.parameters_to_vector(ours.parameters())
    other = torch.nn.utils.parameters_to_vector(theirs.parameters())
    close(vector, other, "float64")
    nn.utils.vector_to_parameters(vector.detach() * 2, ours.parameters())
    torch.nn.utils.vector_to_parameters(other.detach() * 2, theirs.parameters())
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(one, two, "float64")


@pytest.mark.peer("nn.utils.fuse_batchnorm")
@pytest.mark.parametrize("dtype", DTYPES)
def test_fuse_batchnorm(dtype):
    ours, theirs = pair(lambda n: n.Sequential(n.Linear(3, 4), n.BatchNorm1d(4)), dtype)
    fused = nn.utils.fuse_batchnorm(ours.eval())[0]
    expected = torch.nn.utils.fusion.fuse_linear_bn_eval(*theirs.eval())
    for one, two in zip(fused.parameters(), expected.parameters(), strict=True):
        close(one, two, dtype, 2)


def test_accumulation_equals_the_full_batch_in_pytorch():
    def build(n):
        return n.Sequential(
            n.Linear(3, 8), n.BatchNorm1d(8), n.Tanh(), n.Linear(8, 4), n.BatchNorm1d(4)
        )

    ours, theirs = pair(build, "float64")
    x, labels = random_array((20, 3), "float64"), np.arange(20) % 4
    loss = torch.nn.CrossEntropyLoss()(theirs(torch.tensor(x)), torch.tensor(labels))
    loss.backward()
    cuts = [1, 8, 15]
    batches = [
        (mg.tensor(a), mg.tensor(b))
        for a, b in zip(np.split(x, cuts), np.split(labels, cuts), strict=True)
    ]
    value = nn.accumulate(ours, nn.CrossEntropyLoss(), batches)
    close(value, loss, "float64")
    for one, two in zip(ours.parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(one.grad.numpy(), two.grad.numpy(), rtol=1e-9, atol=1e-13)
    for key, buffer in theirs.state_dict().items():
        close(ours.state_dict()[key], buffer, "float64")
