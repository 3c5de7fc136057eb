"""Losses against their formulas, written out in NumPy; bad input."""

from __future__ import annotations

import copy
import inspect
import itertools
import math
import pickle

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad._core import ops
from minigrad.autograd import gradcheck, gradgradcheck
from minigrad.nn import functional

RANDOM = np.random.default_rng(0)
WEIGHT = np.array([0.5, 2.0, 1.0, 3.0])


def log_softmax(x, axis=1):
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def reference(x, target, weight, ignore_index, reduction, smoothing):
    """Cross-entropy row by row, by the definition, for x (N, C)."""
    log_p, classes = log_softmax(x), x.shape[1]
    weight = np.ones(classes) if weight is None else weight
    losses, denominator = [], 0.0
    for row, t in zip(log_p, target, strict=True):
        if t == ignore_index:
            losses.append(0.0)
            continue
        q = np.full(classes, smoothing / classes)
        q[t] += 1 - smoothing
        losses.append(-(weight * q * row).sum())
        denominator += weight[t]
    return {"none": losses, "sum": sum(losses), "mean": sum(losses) / denominator}[reduction]


CASES = list(
    itertools.product(
        ["none", "mean", "sum"], [None, WEIGHT], [-100, 1], [0.0, 0.1, 1.0], [np.int64, np.int32]
    )
)


@pytest.mark.parametrize(("reduction", "weight", "ignore_index", "smoothing", "dtype"), CASES)
def test_cross_entropy_of_class_indices(reduction, weight, ignore_index, smoothing, dtype):
    x = RANDOM.normal(size=(6, 4))
    target = np.array([0, 1, 3, 1, 2, 2])
    expected = reference(x, target, weight, ignore_index, reduction, smoothing)
    loss = nn.CrossEntropyLoss(
        weight=None if weight is None else mg.tensor(weight),
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=smoothing,
    )
    logits = mg.tensor(x, requires_grad=True)
    labels = mg.tensor(target.astype(dtype))
    np.testing.assert_allclose(loss(logits, labels).numpy(), expected, rtol=1e-12)
    assert gradcheck(lambda x: loss(x, labels), (logits,))
    # along the class axis of more dimensions, the same rows in another order
    images = mg.tensor(np.moveaxis(x.reshape(2, 3, 4), -1, 1))
    result = loss(images, labels.reshape(2, 3)).numpy()
    np.testing.assert_allclose(result, np.reshape(expected, result.shape), rtol=1e-12)


def test_cross_entropy_second_order():
    loss, labels = nn.CrossEntropyLoss(label_smoothing=0.1), mg.tensor([0, 2, 1])
    x = mg.tensor(RANDOM.normal(size=(3, 4)), requires_grad=True)
    assert gradgradcheck(lambda x: loss(x, labels), (x,))


def test_cross_entropy_of_one_row_without_a_batch():
    x = RANDOM.normal(size=4)
    for reduction in ("none", "mean", "sum"):
        loss = functional.cross_entropy(mg.tensor(x), mg.tensor(2), reduction=reduction)
        assert loss.shape == ()
        np.testing.assert_allclose(loss.item(), -log_softmax(x, 0)[2], rtol=1e-12)


@pytest.mark.parametrize("weight", [None, WEIGHT])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_cross_entropy_of_probabilities(weight, smoothing, reduction):
    x, q = RANDOM.normal(size=(5, 4)), RANDOM.dirichlet(np.ones(4), size=5)
    smoothed = q * (1 - smoothing) + smoothing / 4
    rows = -(smoothed * log_softmax(x) * (1 if weight is None else weight)).sum(1)
    expected = {"none": rows, "mean": rows.mean(), "sum": rows.sum()}[reduction]
    weight = None if weight is None else mg.tensor(weight)
    loss = nn.CrossEntropyLoss(weight, reduction=reduction, label_smoothing=smoothing)
    inputs = mg.tensor(x, requires_grad=True), mg.tensor(q, requires_grad=True)
    np.testing.assert_allclose(loss(*inputs).numpy(), expected, rtol=1e-12)
    assert gradcheck(loss, inputs)


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_gradients_flow_into_the_weights_of_the_classes(smoothing, reduction):
    x = mg.tensor(RANDOM.normal(size=(3, 4)), requires_grad=True)
    w = mg.tensor(WEIGHT + 0.5, requires_grad=True)
    for target in (mg.tensor([0, 3, 2]), mg.tensor(RANDOM.dirichlet(np.ones(4), size=3))):
        options = {"reduction": reduction, "label_smoothing": smoothing}
        assert gradcheck(
            lambda x, w, t=target, o=options: functional.cross_entropy(x, t, weight=w, **o), (x, w)
        )
    assert gradcheck(
        lambda x, w: functional.nll_loss(x, mg.tensor([0, 3, 2]), w, reduction=reduction), (x, w)
    )


def test_indices_and_one_hot_probabilities_agree():
    x, labels = mg.randn(6, 4), mg.tensor([0, 1, 3, 1, 2, 2])
    hot = functional.one_hot(labels, 4).astype(mg.float32)
    for smoothing in (0.0, 0.2):
        loss = nn.CrossEntropyLoss(label_smoothing=smoothing)
        np.testing.assert_allclose(loss(x, labels).item(), loss(x, hot).item(), rtol=1e-6)


def test_masked_classes_of_minus_infinity():
    x = mg.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    loss = nn.CrossEntropyLoss()(x, mg.tensor([0]))
    loss.backward()
    np.testing.assert_allclose(loss.item(), math.log(2), rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), [[-0.5, 0.5, 0.0]], rtol=1e-6)


def test_an_ignored_row_counts_nothing_even_if_it_is_nan():
    x = mg.tensor([[0.0, 1.0], [math.nan, math.nan]])
    loss = nn.CrossEntropyLoss(reduction="none")(x, mg.tensor([1, -100])).numpy()
    assert loss[1] == 0 and np.isfinite(loss[0])


def test_large_logits_do_not_overflow():
    x = mg.tensor([[1e4, 0.0], [0.0, -1e4]], requires_grad=True)
    loss = nn.CrossEntropyLoss()(x, mg.tensor([1, 0]))
    loss.backward()
    assert loss.item() == 5000.0 and np.isfinite(x.grad.numpy()).all()


def test_everything_ignored_gives_nan_for_the_mean_and_zero_for_the_sum():
    x, labels = mg.randn(2, 3), mg.tensor([-100, -100])
    assert math.isnan(nn.CrossEntropyLoss()(x, labels).item())
    assert nn.CrossEntropyLoss(reduction="sum")(x, labels).item() == 0


@pytest.mark.parametrize("wrong", [4, -1, 1000])
def test_a_class_that_does_not_exist_is_named(wrong):
    with pytest.raises(IndexError, match=f"target {wrong} is out of range for 4 classes"):
        nn.CrossEntropyLoss()(mg.zeros(3, 4), mg.tensor([0, wrong, 1]))


def test_cross_entropy_errors():
    loss, x = nn.CrossEntropyLoss(), mg.zeros(3, 4)
    with pytest.raises(ValueError, match=r"expected a target of shape \(3,\), got \(4,\)"):
        loss(x, mg.tensor([0, 1, 2, 3]))
    with pytest.raises(ValueError, match=r"shape \(3,\), got \(3, 1\)"):
        loss(x, mg.tensor([[0], [1], [2]]))
    with pytest.raises(TypeError, match=r"class indices.*float32.*astype\(mg.int64\)"):
        loss(x, mg.zeros(3))
    with pytest.raises(TypeError, match="got a target of bool"):
        loss(x, mg.tensor([True, False, True]))
    with pytest.raises(TypeError, match="expected a Tensor, got list"):
        loss(x, [0, 1, 2])
    with pytest.raises(ValueError, match="0-d"):
        loss(mg.tensor(1.0), mg.tensor(0))
    with pytest.raises(ValueError, match=r"one weight per class, \(4,\), got \(3,\)"):
        nn.CrossEntropyLoss(weight=mg.ones(3))(x, mg.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="label_smoothing"):
        nn.CrossEntropyLoss(label_smoothing=1.5)
    for kind in (nn.CrossEntropyLoss, nn.MSELoss, nn.BCEWithLogitsLoss, nn.NLLLoss, nn.L1Loss):
        with pytest.raises(
            ValueError, match=rf"{kind.__name__}: reduction must be 'none'.*'average'"
        ):
            kind(reduction="average")


def test_nll_is_cross_entropy_after_log_softmax():
    x, labels = mg.randn(6, 4), mg.tensor([0, 1, 3, 1, 2, 2])
    options = {"weight": mg.tensor(WEIGHT.astype("f")), "ignore_index": 2}
    expected = nn.CrossEntropyLoss(**options)(x, labels).item()
    assert nn.NLLLoss(**options)(mg.log_softmax(x, axis=1), labels).item() == expected


# ------------------------------------------------------------------------------ MSE, L1, BCE
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(("kind", "formula"), [(nn.MSELoss, np.square), (nn.L1Loss, np.abs)])
def test_regression_losses(kind, formula, reduction):
    x, target = RANDOM.normal(size=(2, 4, 3))
    expected = formula(x - target)
    expected = expected if reduction == "none" else getattr(np, reduction)(expected)
    loss = kind(reduction=reduction)
    inputs = mg.tensor(x, requires_grad=True), mg.tensor(target, requires_grad=True)
    np.testing.assert_allclose(loss(*inputs).numpy(), expected, rtol=1e-12)
    assert gradcheck(loss, inputs)


@pytest.mark.parametrize("kind", [nn.MSELoss, nn.L1Loss])
def test_regression_losses_warn_where_shapes_broadcast(kind):
    with pytest.warns(UserWarning, match=r"target has shape \(3,\), the input \(3, 1\)"):
        kind()(mg.ones(3, 1), mg.ones(3))


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("pos_weight", [None, np.array([0.5, 1.0, 4.0])])
@pytest.mark.parametrize("weight", [None, np.array([[1.0], [2.0], [0.0], [1.0]])])
def test_binary_cross_entropy(weight, pos_weight, reduction):
    x, t = RANDOM.normal(size=(4, 3)), RANDOM.uniform(size=(4, 3))
    s = 1 / (1 + np.exp(-x))
    expected = -(
        (1 if pos_weight is None else pos_weight) * t * np.log(s) + (1 - t) * np.log(1 - s)
    )
    expected = expected * (1 if weight is None else weight)
    expected = expected if reduction == "none" else getattr(np, reduction)(expected)
    weight, pos_weight = (None if v is None else mg.tensor(v) for v in (weight, pos_weight))
    loss = nn.BCEWithLogitsLoss(weight, reduction, pos_weight)
    inputs = mg.tensor(x, requires_grad=True), mg.tensor(t, requires_grad=True)
    np.testing.assert_allclose(loss(*inputs).numpy(), expected, rtol=1e-11)
    assert gradcheck(loss, inputs)


def test_binary_cross_entropy_is_stable():
    x = mg.tensor([1000.0, -1000.0, 1000.0, -1000.0, 40.0], requires_grad=True)
    loss = nn.BCEWithLogitsLoss(reduction="none")(x, mg.tensor([1.0, 0.0, 0.0, 1.0, 1.0]))
    loss.sum().backward()
    np.testing.assert_allclose(loss.numpy(), [0, 0, 1000, 1000, math.exp(-40)], rtol=1e-5)
    np.testing.assert_allclose(x.grad.numpy(), [0, 0, 1, -1, -math.exp(-40)], rtol=1e-5)


def test_binary_cross_entropy_shapes_must_be_equal():
    with pytest.raises(ValueError, match=r"\(3,\), the input \(3, 1\); they must be equal"):
        nn.BCEWithLogitsLoss()(mg.ones(3, 1), mg.ones(3))


def test_weights_are_buffers():
    loss = nn.BCEWithLogitsLoss(mg.ones(3), pos_weight=mg.ones(3))
    assert list(loss.state_dict()) == ["weight", "pos_weight"]
    assert loss.double().pos_weight.dtype == mg.float64
    assert list(nn.CrossEntropyLoss().state_dict()) == []


# ------------------------------------------- SmoothL1, Huber, KLDiv, cosine, triplet, probabilities
def smooth_l1(x, t, beta):
    d = np.abs(x - t)
    return np.where(d < beta, 0.5 * d**2 / beta, d - 0.5 * beta)


X, T = RANDOM.normal(size=(2, 5, 3)) * 2
P, Q = RANDOM.dirichlet(np.ones(3), (2, 5))
LABELS = np.array([1, -1, -1, 1, -1])
COSINE = (X * T).sum(1) / np.sqrt((X**2).sum(1) * (T**2).sum(1))


def distance(a, b, p=2):
    return (np.abs(a - b + 1e-6) ** p).sum(1) ** (1 / p)


ELEMENTWISE = {
    "SmoothL1": (lambda r: nn.SmoothL1Loss(r), (X, T), smooth_l1(X, T, 1.0)),
    "SmoothL1 3": (lambda r: nn.SmoothL1Loss(r, beta=3.0), (X, T), smooth_l1(X, T, 3.0)),
    "SmoothL1 0": (lambda r: nn.SmoothL1Loss(r, beta=0), (X, T), np.abs(X - T)),
    "Huber": (lambda r: nn.HuberLoss(r), (X, T), smooth_l1(X, T, 1.0)),
    "Huber 3": (lambda r: nn.HuberLoss(r, delta=3.0), (X, T), 3 * smooth_l1(X, T, 3.0)),
    "KLDiv": (lambda r: nn.KLDivLoss(r), (np.log(P), Q), Q * np.log(Q / P)),
    "KLDiv log": (
        lambda r: nn.KLDivLoss(r, log_target=True),
        (np.log(P), np.log(Q)),
        Q * np.log(Q / P),
    ),
    "BCE": (lambda r: nn.BCELoss(reduction=r), (P, Q), -Q * np.log(P) - (1 - Q) * np.log(1 - P)),
    "CosineEmbedding": (
        lambda r: nn.CosineEmbeddingLoss(0.2, r),
        (X, T, LABELS),
        np.where(LABELS == 1, 1 - COSINE, np.maximum(COSINE - 0.2, 0)),
    ),
    "TripletMargin": (
        lambda r: nn.TripletMarginLoss(reduction=r),
        (X, T, P),
        np.maximum(distance(X, T) - distance(X, P) + 1, 0),
    ),
    "TripletMargin swapped": (
        lambda r: nn.TripletMarginLoss(2.0, p=3, swap=True, reduction=r),
        (X, T, P),
        np.maximum(distance(X, T, 3) - np.minimum(distance(X, P, 3), distance(T, P, 3)) + 2, 0),
    ),
}


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_loss_values_and_derivatives(name, reduction):
    build, arrays, expected = ELEMENTWISE[name]
    loss = build(reduction)
    expected = expected if reduction == "none" else getattr(np, reduction)(expected)
    inputs = tuple(mg.tensor(a, requires_grad=a.dtype.kind == "f") for a in arrays)
    np.testing.assert_allclose(loss(*inputs).numpy(), expected, rtol=1e-11, atol=1e-14)
    moved = tuple(t for t in inputs if t.requires_grad)
    rest = inputs[len(moved) :]
    assert gradcheck(lambda *moved: loss(*moved, *rest), moved)
    assert gradgradcheck(lambda *moved: loss(*moved, *rest), moved)
    single = loss(*[t.detach().astype(mg.float32) if t.dtype.kind == "f" else t for t in inputs])
    assert single.dtype == mg.float32


def test_kl_divergence_of_a_batch_and_zero_probabilities():
    q = mg.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], requires_grad=True)
    x = mg.tensor(np.log(np.full((2, 3), 1 / 3, "f")), requires_grad=True)
    loss = nn.KLDivLoss("batchmean")(x, q)
    np.testing.assert_allclose(loss.item(), (math.log(3 / 2) + math.log(3)) / 2, rtol=1e-6)
    loss.backward()
    assert np.isfinite(q.grad.numpy()).all()
    np.testing.assert_allclose(x.grad.numpy(), -q.detach().numpy() / 2)
    with pytest.raises(
        ValueError, match="KLDivLoss: reduction must be 'none', 'batchmean', 'mean'"
    ):
        nn.KLDivLoss("average")
    with pytest.raises(ValueError, match="MSELoss: reduction must be 'none', 'mean' or 'sum'"):
        nn.MSELoss("batchmean")


def test_binary_cross_entropy_is_finite_at_zero_and_one():
    x = mg.tensor([0.0, 1.0, 0.0, 1.0], requires_grad=True)
    loss = nn.BCELoss(reduction="none")(x, mg.tensor([0.0, 1.0, 1.0, 0.0]))
    assert loss.tolist() == [0.0, 0.0, 100.0, 100.0]
    loss.sum().backward()
    assert x.grad.tolist() == [1.0, -1.0, 0.0, 0.0]
    logits = mg.tensor(RANDOM.normal(size=(5, 3)))
    np.testing.assert_allclose(
        nn.BCELoss()(mg.sigmoid(logits), mg.tensor(P)).item(),
        nn.BCEWithLogitsLoss()(logits, mg.tensor(P)).item(),
        rtol=1e-12,
    )


def test_curvature_of_huber_where_prediction_and_target_agree():
    x = mg.tensor([2.0], requires_grad=True)
    (slope,) = mg.autograd.grad(nn.HuberLoss()(x, mg.tensor([2.0])), x, create_graph=True)
    (curvature,) = mg.autograd.grad(slope, x)
    assert slope.item() == 0.0 and curvature.item() == 1.0


def test_distances_of_equal_and_zero_vectors_have_finite_gradients():
    for function in (functional.cosine_similarity, functional.pairwise_distance):
        a, b = mg.zeros(2, 3, requires_grad=True), mg.zeros(2, 3, requires_grad=True)
        function(a, b).sum().backward()
        assert np.isfinite(a.grad.numpy()).all()
    x = mg.zeros(2, 3, requires_grad=True)
    functional.normalize(x).sum().backward()
    assert np.isfinite(x.grad.numpy()).all()
    a = mg.tensor(X, requires_grad=True)
    for function in (functional.cosine_similarity, functional.pairwise_distance):
        assert gradcheck(function, (a, mg.tensor(T, requires_grad=True)))
    assert gradcheck(functional.normalize, (a,))
    norms = np.linalg.norm(functional.normalize(a).detach().numpy(), axis=1)
    np.testing.assert_allclose(norms, 1, rtol=1e-12)
    assert functional.pairwise_distance(a, a, keepdim=True).shape == (5, 1)


def test_errors_of_the_new_losses():
    x = mg.ones(4, 3)
    with pytest.raises(
        ValueError, match=r"between 0 and 1, got values from -0.5 to 1.0; use .*logits"
    ):
        nn.BCELoss()(mg.tensor([-0.5, 1.0]), mg.tensor([0.0, 1.0]))
    with pytest.raises(ValueError, match=r"\(3,\), the input \(4, 3\); they must be equal"):
        nn.BCELoss()(x, mg.ones(3))
    for build in (
        lambda: nn.SmoothL1Loss(beta=-1.0),
        lambda: functional.smooth_l1_loss(x, x, "sum", -1),
    ):
        with pytest.raises(ValueError, match="beta must not be negative, got -1"):
            build()
    with pytest.raises(ValueError, match="HuberLoss: delta must be positive, got 0"):
        nn.HuberLoss(delta=0)
    with pytest.raises(TypeError, match="HuberLoss: delta must be a number, got 'a'"):
        nn.HuberLoss(delta="a")
    with pytest.raises(ValueError, match="TripletMarginLoss: margin must be positive, got -1"):
        nn.TripletMarginLoss(margin=-1)
    with pytest.raises(TypeError, match="CosineEmbeddingLoss: margin must be a number"):
        nn.CosineEmbeddingLoss(margin=None)
    with pytest.raises(ValueError, match=r"got \(4, 3\), \(4, 3\) and \(3,\)"):
        nn.CosineEmbeddingLoss()(x, x, mg.tensor([1, 1, 1]))
    for loss in (nn.SmoothL1Loss(), nn.HuberLoss(), nn.KLDivLoss()):
        with pytest.warns(UserWarning, match=r"target has shape \(3,\), the input \(4, 3\)"):
            loss(x, mg.ones(3))


def test_a_variance_below_eps_counts_as_eps_and_keeps_its_gradient():
    """The gradient that it would have at eps, so that it can grow, as in PyTorch."""
    x, var = mg.zeros(3), mg.tensor([0.0, 1e-9, 2.0], requires_grad=True)
    loss = nn.GaussianNLLLoss(eps=0.5, reduction="none")(x, x + 1.0, var)
    loss.sum().backward()
    at = np.array([0.5, 0.5, 2.0])
    np.testing.assert_allclose(loss.numpy(), (np.log(at) + 1 / at) / 2, rtol=1e-6)
    np.testing.assert_allclose(var.grad.numpy(), (1 / at - 1 / at**2) / 2, rtol=1e-6)
    assert nn.GaussianNLLLoss()(x, x, 2.0).item() == pytest.approx(math.log(2) / 2)
    assert nn.GaussianNLLLoss()(x, x, mg.tensor(2.0)).item() == pytest.approx(math.log(2) / 2)


def test_counts_and_signs_do_not_widen_the_loss():
    x, counts, signs = mg.ones(3), mg.tensor([0, 1, 3]), mg.tensor([1, -1, 1])
    for loss in (
        nn.PoissonNLLLoss(full=True)(x, counts),
        nn.GaussianNLLLoss()(x, counts, x),
        nn.MarginRankingLoss()(x, x, signs),
        nn.QuantileLoss(0.3)(x, counts),
        nn.QuantileLoss((0.3, 0.7))(mg.ones(3, 2), counts),
    ):
        assert loss.dtype == mg.float32


def test_poisson_of_a_rate_of_zero_and_stirling_at_small_counts():
    x = mg.tensor([-math.inf, 0.0, 0.0], requires_grad=True)
    t = mg.tensor([0.0, 0.0, 1.0], requires_grad=True)
    loss = nn.PoissonNLLLoss(full=True, reduction="none")(x, t)
    assert loss.tolist() == [0.0, 1.0, 1.0]
    loss.sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 0.0] and t.grad.tolist() == [0.0, 0.0, 0.0]
    zero = nn.PoissonNLLLoss(log_input=False, eps=0.0, reduction="none")(mg.zeros(1), mg.zeros(1))
    assert zero.tolist() == [0.0]


def test_the_quantile_loss_is_least_at_the_quantile():
    values = np.sort(RANDOM.normal(size=101))
    for q in (0.1, 0.5, 0.77):
        sums = [
            nn.QuantileLoss(q, "sum")(mg.full((101,), v, dtype="float64"), mg.tensor(values)).item()
            for v in values
        ]
        assert values[np.argmin(sums)] == np.quantile(values, q, method="inverted_cdf")
    x = mg.tensor([1.0, 2.0], requires_grad=True)  # where it has a kink: the middle
    nn.QuantileLoss(0.9, "sum")(x, x.detach()).backward()
    np.testing.assert_allclose(x.grad.numpy(), [-0.4, -0.4], rtol=1e-6)
    assert functional.quantile_loss(x, mg.full((2,), math.inf)).item() == math.inf


def test_the_gaussian_likelihood_of_variances_at_the_ends():
    """One below eps counts as eps, but has a gradient; an infinite one knows nothing."""
    var = mg.tensor([math.inf, 1e-9, math.nan, 2.0], dtype="float64", requires_grad=True)
    x = mg.ones(4, dtype="float64", requires_grad=True)
    losses = functional.gaussian_nll_loss(x, mg.zeros(4), var, reduction="none")
    half = 0.5 * (math.log(1e-6) + 1e6), 0.5 * (math.log(2.0) + 0.5)
    np.testing.assert_allclose(losses.tolist(), [math.inf, half[0], math.nan, half[1]])
    losses.sum().backward()
    np.testing.assert_allclose(x.grad.tolist(), [0, 1e6, math.nan, 0.5])
    np.testing.assert_allclose(var.grad.tolist(), [0, 0.5e6 - 0.5e12, math.nan, 0.125])


def test_errors_of_likelihoods_and_quantiles():
    x = mg.ones(4, 3)
    for var in (mg.ones(3), mg.ones(2, 3), mg.ones(4, 3, 1), mg.ones(1, 4, 3)):
        with pytest.raises(ValueError, match=r"gaussian_nll_loss: var has shape .* \(4, 3\)"):
            nn.GaussianNLLLoss()(x, x, var)
    for var in (mg.tensor([[1.0], [1.0], [-0.1], [1.0]]), -1.0):
        with pytest.raises(ValueError, match="var must not be negative; of a log-variance take"):
            nn.GaussianNLLLoss()(x, x, var)
    with pytest.raises(ValueError, match="margin_ranking_loss: expected tensors of as many axes"):
        nn.MarginRankingLoss()(x, x, mg.ones(3))
    with pytest.raises(TypeError, match="MarginRankingLoss: margin must be a number"):
        nn.MarginRankingLoss("a")
    for q, error, message in [
        (1.1, ValueError, "QuantileLoss: q must be between 0 and 1, got 1.1"),
        ((0.1, -0.5), ValueError, "QuantileLoss: q must be between 0 and 1, got -0.5"),
        ((), ValueError, r"QuantileLoss: q must hold a level, got \(\)"),
        ("0.5", TypeError, "QuantileLoss: q must be a number, got '0.5'"),
        ((0.1, None), TypeError, "QuantileLoss: q must be a number, got None"),
    ]:
        with pytest.raises(error, match=message):
            nn.QuantileLoss(q)
    assert nn.QuantileLoss(np.array([0.1, 0.9])).q == (0.1, 0.9)
    with pytest.raises(ValueError, match=r"\(4,\), the input \(4, 3\); they must be equal"):
        nn.QuantileLoss(0.5)(x, mg.ones(4))
    for target, levels in ((mg.ones(4, 3), (0.1, 0.5, 0.9)), (mg.ones(4), (0.1, 0.9))):
        message = rf"an input of shape \(..., {len(levels)}\), one value for each level"
        with pytest.raises(ValueError, match=message):
            nn.QuantileLoss(levels)(x, target)
    for loss in (nn.PoissonNLLLoss(), lambda x, t: nn.GaussianNLLLoss()(x, t, x)):
        with pytest.warns(UserWarning, match=r"target has shape \(3,\), the input \(4, 3\)"):
            loss(x, mg.ones(3))


@pytest.mark.parametrize("label", [3, -1, -(2**62), 2**62])
def test_softmax_cross_entropy_refuses_labels_that_are_no_class(label):
    with pytest.raises(IndexError, match="softmax_cross_entropy"):
        ops.softmax_cross_entropy(mg.zeros(2, 3), mg.tensor([0, label]))


def test_softmax_cross_entropy_refuses_other_shapes_and_dtypes():
    with pytest.raises(ValueError, match=r"labels of shape \(n,\)"):
        ops.softmax_cross_entropy(mg.zeros(2, 3), mg.tensor([0]))
    with pytest.raises(TypeError, match="labels of integers"):
        ops.softmax_cross_entropy(mg.zeros(2, 3), mg.tensor([0.0, 1.0]))


def test_labels_may_be_written_to_after_the_forward():
    x, labels = mg.zeros(2, 3, requires_grad=True), mg.tensor([0, 1])
    loss = ops.softmax_cross_entropy(x, labels).sum()
    labels.fill_(2)
    loss.backward()
    np.testing.assert_allclose(x.grad.numpy(), np.full((2, 3), 1 / 3) - np.eye(2, 3), rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 40])
@pytest.mark.parametrize("place", [0, 1])
def test_a_nan_makes_the_loss_of_its_row_nan(classes, place):
    values = np.zeros((3, classes))
    values[1, place] = np.nan
    x = mg.tensor(values, requires_grad=True)
    loss = ops.softmax_cross_entropy(x, mg.tensor([0, 0, 1]))
    loss.sum().backward()
    assert np.isnan(loss.numpy()).tolist() == [False, True, False]
    assert np.isnan(x.grad.numpy()).all(axis=1).tolist() == [False, True, False]


# ------------------------------------------------------- both tails, and -inf where nothing weighs
LOGITS = [-80.0, -20.0, -15.0, -10.0, 0.0, 10.0, 20.0]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("target", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("pos_weight", [None, 3.0])
def test_binary_cross_entropy_with_logits_keeps_both_tails(target, pos_weight, dtype):
    x = mg.tensor(LOGITS, dtype, requires_grad=True)
    weight = None if pos_weight is None else mg.tensor(pos_weight, dtype)
    t = mg.full((len(LOGITS),), target, dtype=dtype)
    loss = functional.binary_cross_entropy_with_logits(x, t, None, "none", weight)
    (slope,) = mg.autograd.grad(loss.sum(), x, create_graph=True)
    (curvature,) = mg.autograd.grad(slope.sum(), x)
    for k, z in enumerate(LOGITS):
        up, down = (pos_weight or 1.0) * target, 1 - target  # weights of log(s) and log(1 - s)
        s, rest = 1 / (1 + math.exp(-z)), 1 / (1 + math.exp(z))
        values = [
            up * math.log1p(math.exp(-z)) + down * math.log1p(math.exp(z)),
            down * s - up * rest,
            (up + down) * s * rest,
        ]
        for result, value in zip((loss, slope, curvature), values, strict=True):
            size = down * s + up * rest if result is slope else value  # of the subtracted one
            tolerance = 8 * np.finfo(dtype).eps * size
            assert abs(result[k].item() - value) <= tolerance, (z, result[k].item(), value)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("x", "target"), [(-math.inf, 0.0), (math.inf, 1.0)])
def test_binary_cross_entropy_of_infinite_logits_that_are_right_is_zero(x, target, dtype):
    logits = mg.tensor([x, -x], dtype, requires_grad=True)
    t = mg.tensor([target] * 2, dtype)
    for weight in (None, mg.tensor(3.0, dtype)):
        loss = functional.binary_cross_entropy_with_logits(logits, t, None, "none", weight)
        assert loss.tolist() == [0.0, math.inf]
        (slope,) = mg.autograd.grad(loss.sum(), logits)
        assert slope[0].item() == 0 and math.isfinite(slope[1].item())


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("create_graph", [False, True])
@pytest.mark.parametrize("margin", [10.0, 15.0, 20.0])
def test_cross_entropy_of_two_classes_keeps_both_tails(margin, create_graph, dtype):
    """It equals the binary cross-entropy of the difference of the logits."""
    x = mg.tensor([[margin, 0.0], [0.0, -margin]], dtype, requires_grad=True)
    loss = nn.CrossEntropyLoss(reduction="sum")(x, mg.tensor([0, 0]))
    (slope,) = mg.autograd.grad(loss, x, create_graph=create_graph)
    rtol = 1e-6 if dtype == "float32" else 2e-16 * math.exp(margin)  # sums are of double precision
    np.testing.assert_allclose(loss.item(), 2 * math.log1p(math.exp(-margin)), rtol=rtol)
    rest = 1 / (1 + math.exp(margin))
    np.testing.assert_allclose(slope.numpy(), [[-rest, rest]] * 2, rtol=rtol)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_cross_entropy_of_minus_infinity_in_a_class_without_weight(kind, smoothing, dtype):
    """0 times -inf counts as 0, as if the class did not exist. Smoothing needs weights."""
    weight = mg.tensor([1.0, 0.0, 2.0] if smoothing else [1.0, 1.0, 2.0], dtype)
    x = mg.tensor([[0.5, -math.inf, 1.0], [1.0, -math.inf, 0.0]], dtype, requires_grad=True)
    target = mg.tensor([2, 0])
    if kind == "probabilities":
        target = mg.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], dtype)
    loss = functional.cross_entropy(x, target, weight, reduction="none", label_smoothing=smoothing)
    log_p = log_softmax(np.array([[0.5, 1.0], [1.0, 0.0]]))
    share = np.full((2, 2), smoothing / 3) + (1 - smoothing) * np.array([[0, 1], [1, 0]])
    expected = -(share * log_p * [1.0, 2.0]).sum(1)
    np.testing.assert_allclose(loss.numpy(), expected, rtol=1e-6)
    loss.sum().backward()
    assert np.isfinite(x.grad.numpy()).all() and (x.grad.numpy()[:, 1] == 0).all()


def test_nll_loss_of_minus_infinity_in_a_class_without_weight():
    x = mg.tensor([[-math.inf, -1.0], [-2.0, 0.0]], requires_grad=True)
    loss = functional.nll_loss(x, mg.tensor([0, 0]), mg.tensor([0.0, 1.0]), reduction="none")
    assert loss.tolist() == [0.0, 0.0]
    loss.sum().backward()
    assert x.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("log_target", [False, True])
def test_kl_div_where_the_target_is_zero_or_negative(log_target, dtype):
    x = mg.tensor([-math.inf, -1.0, math.nan], dtype, requires_grad=True)
    target = mg.tensor([-math.inf] * 3 if log_target else [0.0] * 3, dtype)
    loss = functional.kl_div(x, target, "none", log_target)
    np.testing.assert_array_equal(loss.numpy(), [0.0, 0.0, math.nan])
    loss.sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0.0, 0.0, 0.0])
    if not log_target:
        negative = functional.kl_div(x, mg.full((3,), -0.5, dtype=dtype), "none")
        assert np.isnan(negative.numpy()).all()


def test_smooth_l1_with_a_beta_whose_square_underflows():
    x = mg.tensor([1e-20, 1e-31, -2.0], requires_grad=True)
    loss = functional.smooth_l1_loss(x, mg.zeros(3), "none", beta=1e-30)
    np.testing.assert_allclose(loss.numpy(), [1e-20, 5e-33, 2.0], rtol=1e-6)
    loss.sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), [1.0, 0.1, -1.0], rtol=1e-6)


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e15, 1e30])
def test_cosine_embedding_loss_of_large_vectors(scale):
    x1 = mg.tensor([[3 * scale, 4 * scale]], requires_grad=True)
    loss = functional.cosine_embedding_loss(x1, mg.tensor([[4 * scale, 3 * scale]]), mg.tensor([1]))
    np.testing.assert_allclose(loss.item(), 0.04, rtol=1e-4)
    loss.backward()
    np.testing.assert_allclose(x1.grad.numpy() * scale, [[-0.0448, 0.0336]], rtol=1e-3)


# ------------------------------------------------------------------------------ losses as classes
def test_options_are_attributes_and_weights_are_buffers():
    loss = nn.BCEWithLogitsLoss(nn.Parameter(WEIGHT), "sum", mg.tensor(WEIGHT))
    assert list(loss.state_dict()) == ["weight", "pos_weight"] and not list(loss.parameters())
    assert loss.reduction == "sum" and nn.BCELoss().weight is None
    with pytest.raises(TypeError, match="BCELoss: buffer 'weight': expected a Tensor or None"):
        nn.BCELoss([1.0])
    huber = nn.HuberLoss(delta=3.0)
    huber.delta = 1.0
    assert huber(mg.tensor([3.0]), mg.zeros(1)).item() == 2.5
    for twin in (copy.deepcopy(loss), pickle.loads(pickle.dumps(loss))):
        assert vars(twin).keys() == vars(loss).keys()
        np.testing.assert_array_equal(twin.pos_weight.numpy(), WEIGHT)


def test_losses_have_signatures_and_subclasses():
    expected = "(reduction: 'str' = 'mean', delta: 'float' = 1.0) -> None"
    assert str(inspect.signature(nn.HuberLoss)) == expected

    class Scaled(nn.HuberLoss):
        """A subclass with a constructor and a field of its own."""

        scale: mg.Tensor

        def __init__(self, scale):
            super().__init__("sum", 2.0)
            self.scale = nn.Parameter(scale)

        def forward(self, x, target):
            return self.scale * super().forward(x, target)

    loss = Scaled([3.0])
    assert loss(mg.tensor([1.0]), target=mg.zeros(1)).item() == 1.5
    assert str(inspect.signature(Scaled)) == "(scale)" and len(list(loss.parameters())) == 1
