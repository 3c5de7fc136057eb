"""Losses against their formulas, written out in NumPy; bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn
from minigrad.gradcheck import gradcheck, gradgradcheck
from minigrad.nn import functional

RANDOM = np.random.default_rng(0)
WEIGHT = np.array([0.5, 2.0, 1.0, 3.0])


def log_softmax(x, axis=1):
    x = x - x.max(axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis, keepdims=True))


def reference(x, target, weight, ignore_index, reduction, smoothing):
    """Cross-entropy row by row, as the definition says, for x (N, C)."""
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
