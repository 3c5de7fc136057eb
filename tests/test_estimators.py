"""The scikit-learn estimators: scikit-learn's own checks, then what they promise beyond those."""

# ruff: noqa: E402  # imports after importorskip

from __future__ import annotations

import io
import pickle
import subprocess
import sys
import warnings
from unittest import SkipTest

import numpy as np
import pytest

import minigrad as mg
from minigrad import nn, optim
from minigrad.optim import lr_scheduler

sklearn = pytest.importorskip("sklearn", minversion="1.6", reason="scikit-learn is missing")
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.datasets import load_diabetes, load_digits, load_iris, make_multilabel_classification
from sklearn.exceptions import NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.metrics import d2_pinball_score, mean_pinball_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import (
    check_estimator,
    check_sample_weight_equivalence_on_dense_data,
)

from minigrad.estimators import NetClassifier, NetRegressor, base, build, losses, training

IRIS = load_iris(return_X_y=True)
DIABETES = load_diabetes(return_X_y=True)
ESTIMATORS = [NetClassifier, NetRegressor]


def classifier(**parameters):
    return NetClassifier(**{"hidden": (8,), "max_epochs": 5, "random_state": 0} | parameters)


def regressor(**parameters):
    return NetRegressor(**{"hidden": (8,), "max_epochs": 5, "random_state": 0} | parameters)


class Unstackable(nn.Module):
    def __init__(self, n_features, n_outputs):
        super().__init__()
        self.inner = nn.Linear(n_features, n_outputs)

    def forward(self, x):
        return self.inner(x)


def refuse(members):
    raise TypeError("not now")


def fitted(**parameters):
    return classifier(**parameters).fit(*IRIS)


@pytest.fixture
def float64_nets(monkeypatch):
    """The nets of estimators have float64 parameters: what differs by rounding alone is equal to
    some 1e-12."""
    monkeypatch.setattr(base, "mlp", lambda *sizes: build.mlp(*sizes).double())


def moons(n=400):
    random = np.random.default_rng(0)
    label = random.integers(0, 2, n)
    angle = np.pi * (random.random(n) + label)
    X = np.c_[np.cos(angle) + label, np.sin(angle) + label / 2]
    return X + random.normal(0, 0.1, X.shape), label


# ----------------------------------------------------------------------- scikit-learn's own checks
@pytest.mark.parametrize(
    "keyword, words",
    [
        ("hidden_layer_sizes", "the keywords are hidden, activation, .*max_epochs"),
        ("learning_rate", "learning_rate is called lr here"),
        ("drop_out", "did you mean dropout"),
    ],
)
def test_a_keyword_of_another_estimator_is_answered(keyword, words):
    with pytest.raises(TypeError, match=rf"NetClassifier.__init__.*{keyword}.*{words}"):
        NetClassifier(**{keyword: 1})


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("estimator", [NetClassifier, NetRegressor])
def test_check_estimator(estimator):
    results = check_estimator(estimator(), on_fail=None)
    failed = {r["check_name"]: r["exception"] for r in results if r["status"] != "passed"}
    skipped = {name for name, e in failed.items() if isinstance(e, SkipTest)}
    assert failed.keys() - skipped == set(), failed
    assert len(results) > 50 and len(skipped) < 6


def test_the_check_of_sample_weights_can_fail(monkeypatch):
    monkeypatch.setattr(base, "_in_one_batch", lambda X, y, weight, size: (X, y, weight))
    with pytest.raises(AssertionError, match="not equivalent"):
        check_sample_weight_equivalence_on_dense_data("NetClassifier", NetClassifier())


def test_in_scikit_learns_tools():
    X, y = IRIS
    pipe = make_pipeline(StandardScaler(), classifier(max_epochs=30, lr=0.03))
    assert cross_val_score(pipe, X, y, cv=3).mean() > 0.9
    grid = GridSearchCV(pipe, {"netclassifier__hidden": [(4,), (8, 8)]}, cv=2).fit(X, y)
    assert grid.best_score_ > 0.85
    calibrated = CalibratedClassifierCV(classifier(lr=0.01), cv=2).fit(X, y)
    assert calibrated.predict_proba(X).shape == (150, 3)
    importances = permutation_importance(pipe.fit(X, y), X, y, n_repeats=2, random_state=0)
    assert importances.importances_mean.argmax() in (2, 3), "the petals tell irises apart"
    y = DIABETES[1]
    inner = regressor(loss=nn.L1Loss(), max_epochs=20)
    model = TransformedTargetRegressor(inner, transformer=StandardScaler()).fit(DIABETES[0], y)
    assert model.score(DIABETES[0], y) > 0.3


# --------------------------------------------------------------------------------- repeatability
def test_one_seed_gives_one_result_in_every_backend():
    from joblib import parallel_config

    X, y = IRIS
    parameters = {"hidden": [(8,), (4, 4)]}
    search = GridSearchCV(classifier(dropout=0.3), parameters, cv=2, refit=False)
    results = []
    for backend, n_jobs in (("sequential", 1), ("threading", 2), ("loky", 2)):
        with parallel_config(backend=backend, n_jobs=n_jobs):
            results.append(clone(search).fit(X, y).cv_results_["split0_test_score"].tolist())
    assert results[0] == results[1] == results[2]


def test_bits_repeat_and_depend_on_the_seed_and_nobody_elses_draws_change():
    X = IRIS[0]
    mg.manual_seed(7)
    expected = mg.rand(3).tolist()
    mg.manual_seed(7)
    one = fitted(dropout=0.2).predict_proba(X)
    assert mg.rand(3).tolist() == expected
    assert (fitted(dropout=0.2).predict_proba(X) == one).all()
    assert (fitted(dropout=0.2, random_state=1).predict_proba(X) != one).any()


def test_in_one_batch_the_order_of_the_rows_does_not_count():
    X, y = IRIS[0][::5], IRIS[1][::5]
    order = np.random.default_rng(0).permutation(len(y))
    one, other = (classifier().fit(X[k], y[k]).predict_proba(X) for k in (slice(None), order))
    assert (one == other).all()


# --------------------------------------------------------------------------------------- weights
@pytest.mark.parametrize("make", [classifier, regressor])
def test_an_integer_weight_is_a_repetition(make):
    X, y = IRIS[0][::6], IRIS[1][::6]
    weight = np.arange(len(y)) % 3
    rows = np.repeat(np.arange(len(y)), weight)
    weighted = make(batch_size=64).fit(X, y, sample_weight=weight)
    repeated = make(batch_size=64).fit(X[rows], y[rows])
    assert (weighted.predict(X) == repeated.predict(X)).all()
    assert weighted.history_["loss"] == repeated.history_["loss"]


def test_weights_act_by_their_ratios_and_classes_through_samples(float64_nets):
    X, y = IRIS
    weight = np.random.default_rng(0).random(150)
    one, other = (classifier().fit(X, y, sample_weight=w) for w in (weight, 1000 * weight))
    np.testing.assert_allclose(one.predict_proba(X), other.predict_proba(X), 1e-10)
    by_class = classifier(class_weight={0: 1.0, 1: 2.5, 2: 0.5}).fit(X, y)
    by_sample = classifier().fit(X, y, sample_weight=np.array([1.0, 2.5, 0.5])[y])
    assert (by_class.predict_proba(X) == by_sample.predict_proba(X)).all()
    assert by_class.history_["loss"] != fitted().history_["loss"]


def test_balanced_weights_help_the_rare_class():
    random = np.random.default_rng(0)
    y = (np.arange(600) % 20 == 0).astype(int)
    X = random.normal(size=(600, 2)) + y[:, None]
    plain, balanced = (
        classifier(class_weight=w, max_epochs=20).fit(X, y).predict(X)[y == 1].mean()
        for w in (None, "balanced")
    )
    assert balanced > plain + 0.3


def test_the_loss_of_the_history_is_the_weighted_mean():
    X, y = IRIS
    weight = np.random.default_rng(0).random(150)
    estimator = classifier(lr=0.0, normalisation=None, max_epochs=1).fit(X, y, sample_weight=weight)
    logs = estimator.predict_log_proba(X)[np.arange(150), y]
    assert estimator.history_["loss"][0] == pytest.approx(-np.average(logs, weights=weight))


# ----------------------------------------------------------------------------------------- losses
def by_formula(name, z, y):
    z = z.reshape(len(y), -1, losses.REGRESSION[name].outputs) if name != "quantile" else z
    if name == "squared":
        return (z[..., 0] - y) ** 2
    if name == "huber":
        d = np.abs(z[..., 0] - y)
        return np.where(d < 1, d**2 / 2, d - 0.5)
    if name == "poisson":
        return np.exp(z[..., 0]) - y * z[..., 0]
    return 0.5 * (z[..., 1] + (y - z[..., 0]) ** 2 / np.exp(z[..., 1]))


@pytest.mark.parametrize("name", losses.REGRESSION)
def test_losses_and_their_gradients(name):
    random = np.random.default_rng(0)
    loss = losses.REGRESSION[name]
    z, y = random.normal(size=(5, 2 * loss.outputs)), random.random((5, 2))
    x = mg.tensor(z, requires_grad=True)
    np.testing.assert_allclose(
        loss.values(x, mg.tensor(y)).detach().numpy(), by_formula(name, z, y), rtol=1e-12
    )
    weight = mg.tensor(random.random(5))
    for w in (None, weight):
        assert mg.autograd.gradcheck(lambda x, w=w: loss.mean(x, mg.tensor(y), w), x)
        assert mg.autograd.gradgradcheck(lambda x, w=w: loss.mean(x, mg.tensor(y), w), x)


def test_the_quantile_loss_is_scikit_learns():
    random = np.random.default_rng(0)
    levels, z, y = (0.1, 0.5, 0.9), random.normal(size=(6, 6)), random.normal(size=(6, 2))
    values = losses.pinball(levels).values(mg.tensor(z), mg.tensor(y)).numpy()
    assert values.shape == (6, 2, 3)
    columns = z.reshape(6, 2, 3)
    for k, level in enumerate(levels):
        expected = mean_pinball_loss(y, columns[..., k], alpha=level)
        assert values[..., k].mean() == pytest.approx(expected, rel=1e-6)
    x = mg.tensor(z, requires_grad=True)
    assert mg.autograd.gradcheck(lambda x: losses.pinball(levels).values(x, mg.tensor(y)), x)


def noisy(n=2000):
    """x, y ~ N(2 x, (0.1 + x)²)"""
    random = np.random.default_rng(0)
    x = random.random((n, 1))
    return x, 2 * x[:, 0] + (0.1 + x[:, 0]) * random.normal(size=n)


def test_quantiles_cover_their_share_and_do_not_cross():
    X, y = noisy()
    estimator = regressor(loss="quantile", quantile=(0.9, 0.1, 0.5), max_epochs=20, lr=5e-3)
    predicted = estimator.fit(X, y).predict(X)
    assert predicted.shape == (2000, 3)
    np.testing.assert_allclose((y[:, None] < predicted).mean(0), (0.9, 0.1, 0.5), atol=0.03)
    assert (predicted[:, 1] <= predicted[:, 2]).all() and (predicted[:, 2] <= predicted[:, 0]).all()
    scores = [
        d2_pinball_score(y, p, alpha=level)
        for p, level in zip(predicted.T, estimator.quantile, strict=True)
    ]
    assert estimator.score(X, y) == pytest.approx(np.mean(scores))
    median = regressor(loss="quantile", quantile=0.5).fit(X, y)
    assert median.predict(X).shape == (2000,) and 0.1 < median.score(X, y) < 0.5


def test_a_variance_is_predicted():
    X, y = noisy()
    estimator = regressor(loss="gaussian", max_epochs=20, lr=5e-3).fit(X, 10 * y)
    mean, std = estimator.predict(np.array([[0.2], [0.5], [0.8]]), return_std=True)
    np.testing.assert_allclose(mean, (4, 10, 16), rtol=0.15)
    np.testing.assert_allclose(std, (3, 6, 9), rtol=0.15)


def test_counts_have_positive_rates():
    random = np.random.default_rng(0)
    X = random.normal(size=(2000, 2))
    y = random.poisson(50 * np.exp(X[:, 0]))
    estimator = regressor(loss="poisson", max_epochs=30, lr=5e-3).fit(X, y)
    rates = estimator.predict(X)
    assert (rates > 0).all()
    assert np.corrcoef(np.log(rates), X[:, 0])[0, 1] > 0.98
    assert rates.mean() == pytest.approx(y.mean(), rel=0.1)
    with pytest.raises(ValueError, match="negative, which loss='poisson' excludes"):
        estimator.fit(X, -y)


def test_outliers_move_the_huber_loss_less():
    random = np.random.default_rng(0)
    X = np.linspace(-1, 1, 200)[:, None]
    y = X[:, 0] + 20 * (random.random(200) < 0.1)
    squared, huber = (
        np.abs(regressor(loss=loss, max_epochs=60, lr=5e-3).fit(X, y).predict(X) - X[:, 0]).mean()
        for loss in ("squared", "huber")
    )
    assert huber < squared / 2


def test_a_loss_of_ones_own(float64_nets):
    X, y = DIABETES

    def l1(output, target):
        assert output.shape == target.shape and target.shape[1] == 1
        return (output - target).abs()

    own = regressor(loss=l1).fit(X, y)
    module = regressor(loss=nn.L1Loss()).fit(X, y)
    np.testing.assert_allclose(own.predict(X), module.predict(X), 1e-10)
    own.fit(X, y, sample_weight=np.arange(len(y)) + 0.5)
    with pytest.raises(ValueError, match="one value per sample"), pytest.warns(match="ended"):
        module.set_params(warm_start=True).fit(X, y, sample_weight=np.arange(len(y)) + 0.5)
    smoothed = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="none")
    plain, smooth = (
        fitted(loss=loss, max_epochs=60, lr=0.02).predict_proba(IRIS[0]).max(axis=1).mean()
        for loss in ("cross_entropy", smoothed)
    )
    assert smooth < plain - 0.05


# ----------------------------------------------------------------------------------- kinds of data
def test_several_labels_at_once():
    X, y = make_multilabel_classification(400, n_classes=4, random_state=0)
    estimator = classifier(hidden=(32,), max_epochs=30, lr=0.02).fit(X, y)
    assert estimator.predict_proba(X).shape == estimator.decision_function(X).shape == (400, 4)
    assert (estimator.predict(X) == y).mean() > 0.9
    log_proba = estimator.predict_log_proba(X)
    np.testing.assert_allclose(np.exp(log_proba), estimator.predict_proba(X))
    sparse = pytest.importorskip("scipy.sparse")
    assert (
        classifier().fit(X, sparse.csr_array(y)).predict(X) == classifier().fit(X, y).predict(X)
    ).all()
    labels = sparse.csr_array(y)
    assert np.isfinite(classifier().fit(X, labels, X_val=X, y_val=labels).history_["val_loss"][0])
    with pytest.raises(TypeError, match="Sparse data was passed for y"):
        regressor().fit(X, labels)
    with pytest.raises(ValueError, match=r"classes not in .* in column 0 of 4"):
        classifier(warm_start=True).fit(X, y).fit(X, y + 1)


def two_columns():
    X, y = IRIS
    return X, np.c_[np.array(["x", "y", "z"])[y], np.where(X[:, 0] > 5.8, "long", "short")]


def test_several_columns_of_classes():
    X, y = two_columns()
    estimator = classifier(max_epochs=30, lr=0.02, early_stopping=True).fit(X, y)
    assert [each.tolist() for each in estimator.classes_] == [["x", "y", "z"], ["long", "short"]]
    predicted, probabilities = estimator.predict(X), estimator.predict_proba(X)
    assert predicted.shape == y.shape and (predicted == y).mean() > 0.9
    assert estimator.score(X, y) == (predicted == y).all(axis=1).mean()
    weight = np.arange(150.0)
    expected = np.average((predicted == y).all(axis=1), weights=weight)
    assert estimator.score(X, y, sample_weight=weight) == pytest.approx(expected)
    logs = mg.log_softmax(estimator.net_(mg.tensor(X, mg.float32))[:, :3].detach(), axis=1).numpy()
    np.testing.assert_allclose(estimator.predict_log_proba(X)[0], logs, 1e-5, 1e-6)
    scores = estimator.decision_function(X)
    assert [each.shape for each in probabilities] == [(150, 3), (150, 2)]
    for k, each in enumerate(probabilities):
        np.testing.assert_allclose(each.sum(axis=1), 1)
        assert (estimator.classes_[k][each.argmax(axis=1)] == predicted[:, k]).all()
    odds = probabilities[1][:, 1] / probabilities[1][:, 0]
    np.testing.assert_allclose(scores[1], np.log(odds), 1e-6)
    held = np.array(estimator.history_["val_score"])
    assert (held * 15 % 1 < 1e-9).all() and held.max() > 0.7
    search = GridSearchCV(classifier(), {"lr": [1e-3, 1e-2]}, cv=2).fit(X, y)
    assert search.predict(X).shape == (150, 2)
    assert MultiOutputClassifier(classifier()).fit(X, y).predict(X).shape == (150, 2)


def test_columns_of_classes_in_chunks_members_and_files(monkeypatch, float64_nets):
    X, y = two_columns()
    classes = [["x", "y", "z"], ["long", "short"]]
    chunks = classifier(n_members=2).partial_fit(X[:40], y[:40], classes)  # of one species
    chunks.partial_fit(X, y, classes)
    spread = chunks.predict_proba(X, return_std=True)[1]
    assert [each.shape for each in spread] == [(150, 3), (150, 2)]
    together = classifier(n_members=2, class_weight="balanced").fit(X, y, X_val=X, y_val=y)
    file = io.BytesIO()
    mg.save(together.state_dict(), file)
    file.seek(0)
    for copy in (
        classifier().load_state_dict(mg.load(file)),
        pickle.loads(pickle.dumps(together)),
    ):
        assert (copy.predict(X) == together.predict(X)).all()
    monkeypatch.setattr(training, "StackedTrainer", refuse)
    alone = classifier(n_members=2, class_weight="balanced").fit(X, y, X_val=X, y_val=y)
    for one, other in zip(alone.predict_proba(X), together.predict_proba(X), strict=True):
        np.testing.assert_allclose(one, other, 1e-10, 1e-12)
    np.testing.assert_allclose(alone.history_["val_loss"], together.history_["val_loss"], 1e-6)
    own = classifier(loss=lambda z, t: nn.functional.cross_entropy(z[:, 3:], t[:, 1]), lr=0.05)
    assert (own.fit(X, y).predict(X)[:, 1] == y[:, 1]).mean() > 0.9
    for wrong in (y[:, :1], np.c_[y, y], np.c_[y[:, 0], y[:, 0]], y[:, ::-1]):
        with pytest.raises(ValueError, match="classes not in"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a column was made a vector
            chunks.partial_fit(X, wrong)
    for others in (["x", "y"], [["x", "y", "z"]], [["x", "y"], ["long", "short"]]):
        with pytest.raises(ValueError, match="not the same as on last call"):
            chunks.partial_fit(X, y, others)
    with pytest.raises(ValueError, match="classes must be a list of the classes of each column"):
        classifier().partial_fit(X, y, ["x", "y"])
    with pytest.raises(ValueError, match="classes not in"):
        classifier().partial_fit(X, y[:, 0], classes)
    with pytest.raises(ValueError, match="only one class"):
        classifier().fit(X, np.c_[y[:, 0], y[:, 0] == "no"].astype(str))


def test_columns_of_two_numbers_are_classes_unless_these_are_0_and_1():
    X, labels = IRIS[0], np.random.default_rng(0).integers(0, 2, (150, 3))
    assert isinstance(fitted().classes_, np.ndarray)
    assert isinstance(classifier().fit(X, labels).classes_, np.ndarray)
    for y in (labels + 1, 2 * labels - 1, 0.5 * labels + 0.5 == 1, np.where(labels, "a", "b")):
        estimator = classifier().fit(X, y)
        assert isinstance(estimator.classes_, list) == (y.dtype != bool)
        assert set(np.unique(estimator.predict(X))) <= set(np.unique(y))


def test_the_loss_of_columns_and_its_gradients():
    random = np.random.default_rng(0)
    z, y = random.normal(size=(6, 5)), np.c_[random.integers(0, 3, 6), random.integers(0, 2, 6)]
    loss, x = losses.by_columns([3, 2]), mg.tensor(z, requires_grad=True)
    parts = [(z[:, :3], y[:, 0]), (z[:, 3:], y[:, 1])]
    expected = [
        np.logaddexp.reduce(part, axis=1) - part[np.arange(6), column] for part, column in parts
    ]
    found = loss.values(x, mg.tensor(y)).detach().numpy()
    np.testing.assert_allclose(found, np.stack(expected, 1), 1e-12)
    for weight in (None, mg.tensor(random.random(6))):
        mean = lambda x, w=weight: loss.mean(x, mg.tensor(y), w)  # noqa: E731
        assert mg.autograd.gradcheck(mean, x) and mg.autograd.gradgradcheck(mean, x)


def test_several_targets_at_once():
    X, y = DIABETES
    both = regressor(max_epochs=20).fit(X, np.c_[y, -1000 * y])
    predicted = both.predict(X)
    assert predicted.shape == (442, 2)
    assert np.corrcoef(predicted.T)[0, 1] < -0.9
    np.testing.assert_allclose(predicted.mean(0) / (1, -1000), y.mean(), rtol=0.1)
    assert both.score(X, np.c_[y, -1000 * y]) > 0.4
    several = regressor(loss="quantile").fit(X, np.c_[y, y])
    assert several.predict(X).shape == (442, 2, 3)


def test_sparse_and_dense_inputs_are_the_same_data(float64_nets):
    sparse = pytest.importorskip("scipy.sparse")
    X, y = load_digits(return_X_y=True)
    for make, parameters in ((classifier, {}), (classifier, {"early_stopping": True})):
        dense = make(**parameters).fit(X, y).predict_proba(X)
        for container in (sparse.csr_array, sparse.csc_matrix, sparse.coo_array):
            found = make(**parameters).fit(container(X), y).predict_proba(container(X))
            np.testing.assert_allclose(found, dense, 1e-10)


def test_data_frames_have_names():
    pandas = pytest.importorskip("pandas", reason="pandas is missing")
    X, y = IRIS
    frame = pandas.DataFrame(X, columns=list("abcd"))
    names = pandas.Series(np.array(["x", "y", "z"])[y])
    estimator = classifier().fit(frame, names)
    assert estimator.feature_names_in_.tolist() == list("abcd")
    assert set(estimator.predict(frame)) <= {"x", "y", "z"}
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(frame.rename(columns={"a": "e"}))
    estimator.fit(frame, names, X_val=frame[:50], y_val=names[:50])
    assert np.isfinite(estimator.history_["val_loss"]).all()


def test_standardising_makes_units_irrelevant_and_spares_constant_features(float64_nets):
    X, y = DIABETES
    one = regressor().fit(X, y).predict(X)
    scaled = np.c_[1e6 * X + 1e3, np.full(len(X), 7.0)]
    other = regressor().fit(np.c_[X, np.zeros(len(X))], y).predict(np.c_[X, np.zeros(len(X))])
    found = regressor().fit(scaled, 1000 * y - 5).predict(scaled)
    np.testing.assert_allclose((found + 5) / 1000, other, rtol=1e-6)
    assert np.corrcoef(one, y)[0, 1] > 0.3
    raw = regressor(standardise=False).fit(X, y)
    inputs, outputs = raw.net_.inputs, raw.net_.outputs
    assert (inputs.centre.numpy() == 0).all() and (inputs.factor.numpy() == 1).all()
    assert isinstance(outputs, nn.Identity)


def test_means_and_deviations():
    sparse = pytest.importorskip("scipy.sparse")
    X = np.random.default_rng(0).normal(5, [1, 2, 0], (1000, 3))
    weight = np.random.default_rng(1).random(1000)
    for given in (X, X.astype(np.float32), sparse.csr_array(X)):
        for w in (None, weight):
            mean, std = build.mean_and_std(given, w)
            expected = np.average(X, axis=0, weights=w)
            np.testing.assert_allclose(mean, expected, rtol=1e-6)
            expected = np.sqrt(np.average((X - expected) ** 2, axis=0, weights=w))
            np.testing.assert_allclose(std, [*expected[:2], 1.0], rtol=1e-5)


# ---------------------------------------------------------------------------------------- training
def test_it_is_the_loop_that_one_would_write(float64_nets):
    X, y = IRIS
    estimator = fitted(lr=0.01, dropout=0.2)
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=1)[0]
    with mg.rng.drawing_from(mg.Generator(seed)):
        random = mg.rng.generator()
        first, norm, last = nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 3)
        model = nn.Sequential(first, norm, nn.ReLU(), nn.Dropout(0.2), last).double()
        optimizer = optim.Adam(model.parameters(), lr=0.01)
        scheduler = lr_scheduler.CosineAnnealingLR(optimizer, 5)
        x = ((X - X.mean(0)) * (1 / X.std(0))).astype(np.float32)
        for _ in range(5):
            order = random.permutation(150)
            for start in range(0, 150, 32):
                rows = order[start : start + 32]
                optimizer.zero_grad()
                nn.CrossEntropyLoss()(model(mg.tensor(x[rows])), mg.tensor(y[rows])).backward()
                optimizer.step()
            scheduler.step()
    found = estimator.net_.net.named_parameters()
    for (name, one), other in zip(found, model.parameters(), strict=True):
        assert one.dtype == mg.float64
        np.testing.assert_allclose(
            one.detach().numpy(), other.detach().numpy(), 1e-10, 1e-12, err_msg=name
        )


def test_batches_take_each_sample_once_and_leave_none_alone():
    x, y = np.arange(13.0).reshape(-1, 1), np.arange(13)
    weight = y / 2
    batches = training.Batches(training.Rows(x), y, weight, 4)
    random, orders = np.random.default_rng(0), []
    for _ in range(2):
        parts = [tuple(t.numpy(copy=True) for t in part) for part in batches.shuffled(random)]
        assert [len(part[1]) for part in parts] == [4, 4, 5]
        for x_part, y_part, w_part in parts:
            assert (x_part[:, 0] == y_part).all() and (w_part == y_part / 2).all()
        orders.append(np.concatenate([part[1] for part in parts]).tolist())
        assert sorted(orders[-1]) == list(range(13))
    assert orders[0] != orders[1] != sorted(orders[1])


@pytest.mark.parametrize("size", [32, 149, 1000])
def test_a_last_sample_joins_and_large_batches_are_whole(size):
    assert classifier(batch_size=size).fit(IRIS[0][:97], IRIS[1][:97]).n_iter_ == 5


def test_early_stopping_restores_the_best_weights():
    X, y = moons()
    X, X_val, y, y_val = train_test_split(X, y, random_state=0)
    estimator = classifier(
        hidden=(64, 64), early_stopping=True, n_iter_no_change=3, max_epochs=500, lr=0.05,
        schedule=None, recalibrate=False,
    )  # fmt: skip
    estimator.fit(X, y, X_val=X_val, y_val=y_val)
    held = np.array(estimator.history_["val_loss"])
    assert len(held) == estimator.n_iter_ == held.argmin() + 1 + 3 < 500
    loss = -estimator.predict_log_proba(X_val)[np.arange(len(y_val)), y_val].mean()
    assert loss == pytest.approx(held.min(), rel=1e-6)
    assert estimator.history_["val_score"][held.argmin()] == estimator.score(X_val, y_val)


def test_a_validation_set_is_split_off_in_proportion(monkeypatch):
    seen = []
    original = NetClassifier._validation
    monkeypatch.setattr(
        NetClassifier, "_validation", lambda self, held: seen.append(held) or original(self, held)
    )
    fitted(early_stopping=True, validation_fraction=0.2)
    assert np.bincount(seen[0][1]).tolist() == [10, 10, 10]
    X, y = IRIS
    rare = np.where(np.arange(150) == 3, 7, y)
    classifier(early_stopping=True).fit(X, rare, sample_weight=np.arange(150) + 1)
    assert len(seen[1][1]) == 15
    with pytest.raises(ValueError, match="both need 2"):
        regressor(early_stopping=True).fit(X[:4], y[:4])
    watched = classifier().fit(X, y, X_val=X[:3], y_val=y[:3])
    assert watched.n_iter_ == 5 and np.isfinite(watched.history_["val_loss"]).all()


def test_a_nan_names_its_epoch_and_leaves_the_best_weights():
    X, y = DIABETES
    calls = []

    def explodes(output, target):
        calls.append(1)
        return (output - target) ** 2 * (np.nan if len(calls) > 2 * 14 else 1.0)

    estimator = regressor(loss=explodes)
    with (
        pytest.raises(ValueError, match="the loss became NaN in epoch 3; use a smaller lr"),
        pytest.warns(UserWarning, match="ended by ValueError; .* of epoch 2"),
    ):
        estimator.fit(X, y)
    assert np.isfinite(estimator.predict(X)).all() and estimator.n_iter_ == 2
    expected = regressor(loss=lambda z, y: (z - y) ** 2, max_epochs=2, schedule=None)
    expected.fit(X, y)
    estimator = regressor(loss=explodes, schedule=None)
    calls.clear()
    with pytest.raises(ValueError), pytest.warns():
        estimator.fit(X, y)
    assert (estimator.predict(X) == expected.predict(X)).all()
    with pytest.raises(ValueError, match="in epoch 1"):
        estimator.fit(X, y)
    with pytest.raises(NotFittedError):
        estimator.predict(X)
    with pytest.raises(ValueError, match=r"(NaN|infinite) in epoch"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        regressor(lr=1e30, optimizer="sgd", normalisation=None).fit(X, y)


@pytest.mark.parametrize(
    "options, kept",
    [({}, "4"), ({"n_members": 2}, "4, 4"), ({"n_members": 2, "make": Unstackable}, "5, 4")],
    ids=["one", "together", "one by one"],
)
def test_an_interrupted_fit_leaves_the_best_weights(options, kept):
    X, y = DIABETES
    calls, n_members = [], options.get("n_members", 1)

    def interrupted(output, target):
        calls.append(1)
        if len(calls) == n_members * 5 * 14 - 2:
            raise KeyboardInterrupt
        return (output - target) ** 2

    estimator = regressor(loss=interrupted, **options)
    # In this order: pytest.warns checks nothing when a KeyboardInterrupt leaves it.
    with (
        pytest.warns(match=f"KeyboardInterrupt; the estimator keeps .* of epoch {kept}$"),
        pytest.raises(KeyboardInterrupt),
    ):
        estimator.fit(X, y)
    assert len(estimator.nets_) == n_members and np.isfinite(estimator.predict(X)).all()


@pytest.mark.parametrize(
    "parameters, data",
    [
        ({}, {"X_val": IRIS[0]}),
        ({"batch_size": 0}, {}),
        ({"schedule": "no"}, {}),
        ({"optimizer": "no"}, {}),
        ({"recalibrate": "no"}, {}),
        ({"max_epochs": 0}, {}),
        ({"n_members": 0}, {}),
        ({"early_stopping": True, "n_iter_no_change": 0}, {}),
        ({}, {"sample_weight": -np.ones(150)}),
    ],
)
@pytest.mark.parametrize("warm_start", [False, True])
def test_what_is_refused_changes_nothing(parameters, data, warm_start):
    X, y = IRIS
    estimator = fitted(warm_start=warm_start)
    before, expected = vars(estimator).copy(), estimator.predict_proba(X)
    other = X if warm_start else X[:, :2], y if warm_start else np.array(["a", "b", "c"])[y]
    with pytest.raises((ValueError, TypeError)), warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing was trained, so nothing is kept
        estimator.set_params(**parameters).fit(*other, **data)
    estimator.set_params(**{name: before[name] for name in parameters})
    for wrong in ({"normalisation": "no"}, {"make": lambda n, k: nn.Linear(n, 7)}):
        with pytest.raises(ValueError, match=r"normalisation|the net must map"):
            estimator.set_params(**wrong, warm_start=False).fit(*other)
        estimator.set_params(normalisation="batch", make=None, warm_start=warm_start)
    assert vars(estimator) == before
    assert (estimator.predict_proba(X) == expected).all()
    with pytest.raises(ValueError, match="4 features"):
        estimator.partial_fit(X[:, :2], y)
    with pytest.raises(ValueError, match="classes not in"):
        estimator.partial_fit(X, y + 1)
    assert vars(estimator) == before


def test_a_warm_start_that_ends_at_once_keeps_its_history():
    X, y = IRIS
    estimator = fitted(warm_start=True)
    history, expected = estimator.history_, estimator.predict_proba(X)

    def interrupted(output, target):
        raise KeyboardInterrupt

    with pytest.warns(match="keeps its former weights"), pytest.raises(KeyboardInterrupt):
        estimator.set_params(loss=interrupted).fit(X, y)
    estimator.set_params(loss="cross_entropy")
    assert estimator.history_ == history and estimator.n_iter_ == 5
    assert (estimator.predict_proba(X) == expected).all()


def test_warm_start_goes_on():
    X, y = IRIS
    estimator = classifier(warm_start=True, lr=0.01).fit(X, y)
    before = estimator.history_["loss"]
    net_ = estimator.net_
    estimator.fit(X, y)
    assert estimator.net_ is net_ and estimator.history_["loss"][0] < before[0] * 0.8
    with pytest.raises(ValueError, match="expecting 4 features"):
        estimator.fit(X[:, :3], y)
    with pytest.raises(ValueError, match="classes not in"):
        estimator.fit(X, y + 1)
    estimator.set_params(warm_start=False).fit(X[:, :3], y + 1)
    model = regressor(warm_start=True, loss="gaussian").fit(*DIABETES)
    with pytest.raises(ValueError, match=r"must map \(n, 10\) to \(n, 1\), but .*\(1, 2\)"):
        model.set_params(loss="squared").fit(*DIABETES)
    model = regressor(warm_start=True).fit(*DIABETES)
    model.set_params(loss="huber").fit(*DIABETES)
    with pytest.raises(ValueError, match="loss='poisson' cannot continue a fit with loss='sq"):
        model.set_params(loss="poisson").fit(*DIABETES)
    with pytest.raises(ValueError, match="n_members=2 cannot continue a fit with n_members=1"):
        estimator.set_params(n_members=2, warm_start=True).fit(X[:, :3], y + 1)
    with pytest.raises(ValueError, match="n_members=2 cannot continue"):
        fitted().set_params(n_members=2).partial_fit(X, y)


def test_chunks():
    X, y = load_digits(return_X_y=True)
    estimator = classifier(hidden=(32,), lr=0.01)
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        clone(estimator).partial_fit(X, y)
    with pytest.raises(ValueError, match="only one class"):
        clone(estimator).partial_fit(X, y, classes=[3])
    with pytest.raises(ValueError, match="more than one value per channel"):
        clone(estimator).partial_fit(X[:1], y[:1], classes=range(10))
    for start in range(0, 1600, 200):
        estimator.partial_fit(X[start : start + 200], y[start : start + 200], classes=range(10))
        copy = pickle.loads(pickle.dumps(estimator))
    assert estimator.score(X[1600:], y[1600:]) > 0.7
    assert estimator.history_["epoch"] == list(range(1, 9))
    for each in (estimator, copy):
        each.partial_fit(X[:200], y[:200])
    assert (estimator.predict_proba(X) == copy.predict_proba(X)).all(), "the moments go on, too"
    with pytest.raises(ValueError, match=r"`y` has classes not in `self.classes_`"):
        estimator.partial_fit(X[:3], [1, 2, 10])
    with pytest.raises(ValueError, match="not the same as on last call"):
        estimator.partial_fit(X[:3], y[:3], classes=[1, 2, 3])
    with pytest.raises(ValueError, match="early_stopping"):
        classifier(early_stopping=True).partial_fit(X, y, classes=range(10))
    with pytest.raises(ValueError, match="'balanced' is not supported"):
        classifier(class_weight="balanced").partial_fit(X, y, classes=range(10))
    heavy, light = (
        classifier(normalisation=None, optimizer="sgd").partial_fit(
            X[:32], y[:32], range(10), sample_weight=np.full(32, w)
        )
        for w in (1.0, 1e-6)
    )
    start, moved = (e.history_["loss"][0] for e in (light, heavy))
    assert start == pytest.approx(1e-6 * moved, rel=1e-3), "chunks are not rescaled"
    numbers = regressor()
    for _ in range(3):
        numbers.partial_fit(*DIABETES)
    assert numbers.n_iter_ == 3
    with pytest.raises(ValueError, match="fitted to 1"):
        numbers.partial_fit(DIABETES[0], np.c_[DIABETES[1], DIABETES[1]])


@pytest.mark.parametrize("n_members", [1, 3])
def test_chunks_follow_the_rate(n_members):
    X, y = IRIS
    estimator = classifier(n_members=n_members, recalibrate=False).partial_fit(X, y, range(3))
    before = [p.tolist() for net in estimator.nets_ for p in net.parameters()]
    estimator.set_params(lr=0.0).partial_fit(X, y)
    assert [p.tolist() for net in estimator.nets_ for p in net.parameters()] == before
    assert estimator.history_["lr"] == [0.001, 0.0] * n_members
    estimator.set_params(lr=0.1).partial_fit(X, y)
    assert [p.tolist() for net in estimator.nets_ for p in net.parameters()] != before
    with pytest.raises(ValueError, match="learning rate"):
        estimator.set_params(lr=-1.0).partial_fit(X, y)
    assert estimator.n_iter_ == 3


@pytest.mark.parametrize("name", ["ScheduleFreeAdamW", "ScheduleFreeSGD"])
def test_schedule_free_optimisers_leave_the_mean(name, float64_nets):
    X, y = IRIS
    options = {"schedule": None, "normalisation": None, "batch_size": 150, "recalibrate": False}
    estimator = classifier(optimizer=name, lr=0.05, max_epochs=3, **options)
    chunks = clone(estimator)
    for _ in range(3):
        chunks.partial_fit(X, y, range(3))
    estimator.fit(X, y)
    seed = np.random.RandomState(0).randint(np.iinfo(np.int32).max, size=1)[0]
    with mg.rng.drawing_from(mg.Generator(seed)):
        model = build.mlp(4, 3, (8,), "relu", None, 0.0).double()
    optimizer = getattr(optim, name)(model.parameters(), lr=0.05)
    x = mg.tensor(training.Rows(X, X.mean(0), 1 / X.std(0))[:])
    for _ in range(3):
        optimizer.zero_grad()
        nn.CrossEntropyLoss()(model(x), mg.tensor(y)).backward()
        optimizer.step()
    optimizer.eval()
    for each in (estimator, chunks):
        for one, other in zip(each.net_.net.parameters(), model.parameters(), strict=True):
            np.testing.assert_allclose(one.tolist(), other.tolist(), 1e-9, 1e-12)


@pytest.mark.parametrize(
    "kind", [nn.BatchNorm1d, nn.BatchRenorm1d, lambda size: nn.GhostBatchNorm(size, 16)]
)
def test_every_batchnorm_is_recalibrated(kind):
    norm = fitted(normalisation=kind).net_.net[1]
    lagging = fitted(normalisation=kind, recalibrate=False).net_.net[1]
    assert np.abs(norm.running_var.numpy() / lagging.running_var.numpy() - 1).max() > 1e-3


def test_the_statistics_of_batchnorm_are_exact_at_the_end(float64_nets):
    X = IRIS[0]
    estimator = fitted(hidden=(8,))
    first, norm = estimator.net_.net[0], estimator.net_.net[1]
    rows = training.Rows(X, *(end.numpy() for end in estimator.net_.inputs.buffers()))
    inputs = first(mg.tensor(rows[:])).detach().numpy()
    np.testing.assert_allclose(norm.running_mean.numpy(), inputs.mean(0), 1e-10, 1e-12)
    np.testing.assert_allclose(norm.running_var.numpy(), inputs.var(0), 1e-10)
    lagging = fitted(hidden=(8,), recalibrate=False).net_.net[1]
    assert np.abs(lagging.running_var.numpy() / inputs.var(0) - 1).max() > 1e-3


# --------------------------------------------------------------------------------------- ensembles
def test_members_are_averaged_and_differ(float64_nets):
    X, y = DIABETES
    estimator = regressor(n_members=3).fit(X, y)
    x = mg.tensor(X)
    each = np.stack([member(x).detach().numpy()[:, 0] for member in estimator.nets_])
    mean, std = estimator.predict(X, return_std=True)
    np.testing.assert_allclose(mean, each.mean(0), 1e-10)
    np.testing.assert_allclose(std, each.std(0), 1e-10)
    assert (std > 0).all()
    assert estimator.history_["member"] == [0] * 5 + [1] * 5 + [2] * 5
    with pytest.raises(ValueError, match="n_members"):
        regressor().fit(X, y).predict(X, return_std=True)
    single = regressor(loss="gaussian").fit(X, y)
    several = regressor(loss="gaussian", n_members=3).fit(X, y)
    each = np.stack([member(x).detach().numpy() for member in several.nets_])
    variance = np.exp(each[..., 1]).mean(0) + each[..., 0].var(0)
    found = several.predict(X, return_std=True)[1]
    np.testing.assert_allclose(found, np.sqrt(variance), 1e-10)
    assert single.predict(X, return_std=True)[1].min() > 0


def test_probabilities_of_members_are_averaged(float64_nets):
    X = IRIS[0]
    estimator = fitted(n_members=3)
    x = mg.tensor(X)
    each = np.stack([mg.softmax(m(x), axis=1).detach().numpy() for m in estimator.nets_])
    mean, std = estimator.predict_proba(X, return_std=True)
    np.testing.assert_allclose(mean, each.mean(0), 1e-10)
    np.testing.assert_allclose(std, each.std(0), 1e-10, 1e-12)
    assert (estimator.predict(X) == estimator.classes_[each.mean(0).argmax(1)]).all()
    with pytest.raises(ValueError, match="n_members"):
        fitted().predict_proba(X, return_std=True)


STACKED = [  # parameters of the estimator, and of fit
    (NetClassifier, {}, {}),
    (NetClassifier, {"dropout": 0.3, "schedule": "one_cycle"}, {}),
    (NetClassifier, {"class_weight": "balanced", "normalisation": "layer"}, {"sample_weight": 1}),
    (NetClassifier, {"max_epochs": 30, "early_stopping": True, "n_iter_no_change": 2}, {}),
    (NetClassifier, {"schedule": "plateau", "optimizer": "adamw"}, {}),
    (NetClassifier, {"optimizer": lambda p: optim.SGD(p, lr=0.1, momentum=0.9)}, {}),
    (NetRegressor, {"loss": "gaussian", "activation": "gelu"}, {"sample_weight": 1}),
    (NetRegressor, {"loss": "quantile", "batch_size": 37}, {}),
    (NetRegressor, {"loss": "poisson", "normalisation": None}, {}),
    (NetRegressor, {"loss": lambda z, y: (z - y + 0.1 * mg.randn(*z.shape)) ** 2}, {}),
    (NetRegressor, {"loss": nn.HuberLoss()}, {"sparse": 1}),
]


@pytest.mark.parametrize("kind, options, data", STACKED, ids=[str(k) for k in range(len(STACKED))])
def test_members_train_together_as_they_do_one_by_one(
    kind, options, data, monkeypatch, float64_nets
):
    X, y = load_iris(return_X_y=True) if kind is NetClassifier else DIABETES
    X, y = X[:149], y[:149]  # a last batch of another size
    if "sparse" in data:
        X = pytest.importorskip("scipy.sparse").csr_array(X)
    weight = np.random.default_rng(0).random(149) if "sample_weight" in data else None
    options = {"hidden": (8, 8), "max_epochs": 6, "random_state": 0, "n_members": 4} | options
    results, stopped, stop = [], [], nn.Ensemble.stop
    monkeypatch.setattr(nn.Ensemble, "stop", lambda *a: stopped.append(a[1]) or stop(*a))
    for stacked in (True, False):
        if not stacked:
            monkeypatch.setattr(training, "StackedTrainer", refuse)
        results.append(kind(**options).fit(X, y, sample_weight=weight))
    together, one_by_one = results
    assert together.history_["member"] == one_by_one.history_["member"]
    for name in ("loss", "val_loss", "val_score", "lr"):
        np.testing.assert_allclose(
            together.history_[name], one_by_one.history_[name], 1e-10, 1e-12, err_msg=name
        )
    for mine, other in zip(together.nets_, one_by_one.nets_, strict=True):
        for name, value in other.state_dict().items():
            found = mine.state_dict()[name].numpy()
            np.testing.assert_allclose(found, value.numpy(), 1e-10, 1e-12, err_msg=name)
    if "early_stopping" in options:
        epochs = np.bincount(together.history_["member"])
        assert len(set(epochs)) > 1, "members stop by themselves"
        assert set(stopped) == set(np.flatnonzero(epochs < 30))


def test_chunks_and_warm_starts_continue_with_all_members(monkeypatch, float64_nets):
    X, y = IRIS

    def run():
        chunks = classifier(n_members=3)
        for start in (0, 1, 2):
            chunks.partial_fit(X[start::3], y[start::3], classes=range(3))
        chunks = pickle.loads(pickle.dumps(chunks))
        for p in chunks.nets_[1].net.parameters():  # weights of the user's count
            p.detach().copy_(p.detach() * 0.5)
        chunks.partial_fit(X, y)
        warm = classifier(n_members=3, warm_start=True).fit(X, y).fit(X, y)
        return chunks, warm

    together = run()
    assert type(together[0]._chunk_trainers[0]) is training.StackedTrainer
    monkeypatch.setattr(training, "StackedTrainer", refuse)
    for mine, other in zip(together, run(), strict=True):
        np.testing.assert_allclose(mine.predict_proba(X), other.predict_proba(X), 1e-10, 1e-12)
        np.testing.assert_allclose(mine.history_["loss"], other.history_["loss"], 1e-10)


def frozen(n_features, n_outputs):
    net = nn.Sequential(nn.Linear(n_features, 5), nn.ReLU(), nn.Linear(5, n_outputs))
    net[0].weight.requires_grad_(False)
    return net.double()


def hooked(n_features, n_outputs):
    net = nn.Sequential(nn.Linear(n_features, n_outputs))
    net[0].register_forward_hook(lambda module, inputs, output: output * 2)
    return net.double()


class Clipped(optim.Adam):
    """Changes the step for all parameters together, so it cannot serve several members."""


@pytest.mark.parametrize(
    "options, stacked",
    [
        ({"make": frozen}, True),
        ({"make": hooked}, False),
        ({"make": Unstackable}, False),
        ({"optimizer": Clipped}, False),
        ({"optimizer": lambda p: optim.Adam(p, weight_decay=float(mg.rand(())))}, False),
        ({"optimizer": lambda p: optim.Adam(p, lr=float(mg.rand(())))}, True),
        ({"optimizer": "schedulefreeadamw"}, False),
    ],
)
def test_members_that_cannot_be_stacked_train_one_by_one(
    options, stacked, monkeypatch, float64_nets
):
    made = []
    make = training.StackedTrainer
    monkeypatch.setattr(training, "StackedTrainer", lambda m: made.append(make(m)) or made[-1])
    estimator = fitted(n_members=2, **options)
    assert len(made) == stacked
    monkeypatch.setattr(training, "StackedTrainer", refuse)
    expected = fitted(n_members=2, **options)
    found, other = estimator.predict_proba(IRIS[0]), expected.predict_proba(IRIS[0])
    np.testing.assert_allclose(found, other, 1e-10, 1e-12)


def test_one_member_whose_loss_is_not_finite_stops_all():
    X, y = DIABETES
    rates = iter([1e-3, 1e30])
    estimator = regressor(n_members=2, optimizer=lambda p: optim.SGD(p, lr=next(rates)))
    with pytest.raises(ValueError, match="in epoch 1"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        estimator.fit(X, y)
    assert not hasattr(estimator, "nets_")


# ----------------------------------------------------------------------------- names and instances
OPTIMIZERS = [
    name
    for name, member in vars(optim).items()
    if isinstance(member, type)
    and issubclass(member, optim.Optimizer)
    and name not in ("Optimizer", "LBFGS", "Muon")  # Muon is for matrices alone
]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimiser_by_name(name):
    losses = fitted(optimizer=name, lr=0.01, weight_decay=0.01, schedule=None).history_["loss"]
    assert losses == sorted(losses, reverse=True)
    assert fitted(optimizer=name.upper(), weight_decay=0.5).history_["loss"] != losses


def test_optimisers_by_function_and_instance():
    X, y = IRIS
    dummy = [mg.ones(1, requires_grad=True)]
    options = {"lr": 0.05, "momentum": 0.5}
    by_instance = fitted(optimizer=optim.SGD(dummy, **options))
    by_function = fitted(optimizer=lambda params: optim.SGD(params, **options))
    assert (by_instance.predict_proba(X) == by_function.predict_proba(X)).all()
    assert clone(by_instance).fit(X, y).predict(X).tolist() == by_instance.predict(X).tolist()
    for wrong, error in (
        ("lbfgs", ValueError),
        (3, TypeError),
        (lambda p: None, TypeError),
        (optim.LBFGS, TypeError),
        (optim.LBFGS(dummy), TypeError),
    ):
        with pytest.raises(error, match="optimizer must be"):
            fitted(optimizer=wrong)


def test_schedules():
    def rates(schedule, **others):
        return np.array(fitted(schedule=schedule, lr=1.0, optimizer="sgd", **others).history_["lr"])

    epochs = np.arange(5)
    assert (rates(None) == 1).all()
    np.testing.assert_allclose(rates("cosine"), (1 + np.cos(np.pi * epochs / 5)) / 2)
    np.testing.assert_allclose(rates("linear"), 1 - epochs / 5)
    assert rates("one_cycle").argmax() in (1, 2) and rates("one_cycle")[0] < 0.1
    assert rates("plateau")[0] == 1
    halved = 0.5**epochs
    np.testing.assert_allclose(rates(lambda o: lr_scheduler.ExponentialLR(o, 0.5)), halved)
    optimizer = optim.SGD([mg.ones(1, requires_grad=True)], lr=2.0)
    schedule = lr_scheduler.ExponentialLR(optimizer, 0.5)
    schedule.step()
    np.testing.assert_allclose(rates(schedule), 2 * halved)
    two = lr_scheduler.SequentialLR(
        optimizer,
        [lr_scheduler.ConstantLR(optimizer, 1.0), lr_scheduler.ExponentialLR(optimizer, 0.5)],
        [2],
    )
    np.testing.assert_allclose(rates(two), 2 * np.array([1, 1, 1, 0.5, 0.25]))
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5, threshold=100.0)
    assert (np.diff(rates(plateau)) <= 0).all() and rates(plateau)[-1] < 1
    for wrong, error in (("no", ValueError), (3, TypeError), (lambda o: o, TypeError)):
        with pytest.raises(error, match="schedule must be"):
            fitted(schedule=wrong)


def test_layers_by_name():
    layers = list(
        fitted(hidden=(8, 4), activation="GELU", normalisation="layer", dropout=0.1).net_.net
    )
    hidden = ["Linear", "LayerNorm", "GELU", "Dropout"]
    assert [type(layer).__name__ for layer in layers] == [*hidden, *hidden, "Linear"]
    assert layers[0].bias is None and layers[-1].out_features == 3
    plain = list(fitted(hidden=5, activation=nn.ELU, normalisation=None).net_.net)
    assert [type(layer).__name__ for layer in plain] == ["Linear", "ELU", "Linear"]
    assert plain[0].bias is not None
    assert len(fitted(hidden=()).net_.net) == 1
    for wrong in ({"activation": "swoosh"}, {"normalisation": "no"}, {"dropout": 2}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            fitted(**wrong)


def test_a_net_of_ones_own():
    X, y = load_digits(return_X_y=True)

    class Convolutional(nn.Module):
        def __init__(self, n_features, n_outputs):
            super().__init__()
            assert (n_features, n_outputs) == (64, 10)
            self.convolution, self.norm = nn.Conv2d(1, 8, 3, stride=2), nn.BatchNorm2d(8)
            self.last = nn.Linear(72, n_outputs)

        def forward(self, x):
            x = mg.relu(self.norm(self.convolution(x.reshape(-1, 1, 8, 8))))
            return self.last(x.reshape(len(x), -1))

    estimator = classifier(make=Convolutional, lr=0.01).fit(X[:1000], y[:1000])
    assert estimator.score(X[1000:], y[1000:]) > 0.9
    for wrong, error, said in (
        (nn.Linear(64, 10), TypeError, "must be a function"),
        (lambda features, outputs: 3, TypeError, "must return a Module"),
        (lambda features, outputs: nn.Linear(features, 3), ValueError, r"gives the shape \(1, 3\)"),
    ):
        with pytest.raises(error, match=said):
            classifier(make=wrong).fit(X, y)


# ------------------------------------------------------------------------------- saving and showing
@pytest.mark.parametrize("labels", [["a", "b", "c"], [3, 5, 9], [-1.0, 0.0, 2.0]])
@pytest.mark.parametrize("suffix", ["npz", "safetensors"])
def test_what_was_learnt_is_saved_without_pickle(labels, suffix, tmp_path):
    if suffix == "safetensors":
        pytest.importorskip("safetensors")
    X, y = IRIS
    estimator = classifier(n_members=2).fit(X, np.array(labels)[y])
    mg.save(estimator.state_dict(), tmp_path / f"net.{suffix}")
    loaded = classifier().load_state_dict(mg.load(tmp_path / f"net.{suffix}"))
    assert (loaded.predict(X) == estimator.predict(X)).all()
    assert (loaded.predict_proba(X) == estimator.predict_proba(X)).all()
    assert loaded.classes_.dtype == estimator.classes_.dtype
    with pytest.raises(ValueError, match="expecting 4 features"):
        loaded.predict(X[:, :2])
    loaded.set_params(warm_start=True).fit(X, np.array(labels)[y])
    other = fitted(hidden=(7,))
    before = other.predict_proba(X)
    with pytest.raises(RuntimeError, match=r"expected shape \(7, 4\), got \(8, 4\)"):
        other.load_state_dict(estimator.state_dict())
    assert (other.predict_proba(X) == before).all()
    with pytest.raises(ValueError, match=r"expected what NetClassifier\.state_dict"):
        classifier().load_state_dict({"nets": []})
    with pytest.raises(NotFittedError):
        classifier().state_dict()


@pytest.mark.parametrize("loss", ["squared", "gaussian", "quantile", "poisson"])
def test_a_regressor_is_saved_with_its_units(loss):
    X, y = DIABETES
    estimator, file = regressor(loss=loss).fit(X, y), io.BytesIO()
    mg.save(estimator.state_dict(), file)
    file.seek(0)
    loaded = regressor(loss=loss).load_state_dict(mg.load(file))
    assert (loaded.predict(X) == estimator.predict(X)).all()
    assert (pickle.loads(pickle.dumps(estimator)).predict(X) == estimator.predict(X)).all()


def test_an_onnx_file_takes_features():
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    X, y = DIABETES
    estimator, file = regressor().fit(X, y), io.BytesIO()
    x = mg.tensor(X[:2], mg.float32)
    mg.onnx.export(nn.utils.fuse_batchnorm(estimator.net_), x, file)
    session = onnxruntime.InferenceSession(file.getvalue())
    found = session.run(None, {session.get_inputs()[0].name: X.astype(np.float32)})[0][:, 0]
    np.testing.assert_allclose(found, estimator.predict(X), rtol=1e-4)


def test_history_and_its_picture():
    pytest.importorskip("matplotlib").use("agg")
    estimator = fitted(n_members=2, early_stopping=True)
    table = estimator.history_
    assert list(table) == ["member", "epoch", "loss", "val_loss", "val_score", "lr", "seconds"]
    assert {len(column) for column in table.values()} == {10}
    assert table["seconds"][4] > table["seconds"][0] > 0
    ax = estimator.plot_history()
    assert len(ax.lines) == 4 and ax.get_xlabel() == "epoch"
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["training", "validation"]
    assert estimator.plot_history(ax) is ax and len(ax.lines) == 8
    assert len(fitted().plot_history().lines) == 1
    from matplotlib import pyplot

    pyplot.close("all")


def test_a_bar_shows_the_epochs(capsys, monkeypatch):
    pytest.importorskip("tqdm")
    fitted(verbose=1)
    assert "5/5" in capsys.readouterr().err
    fitted()
    assert capsys.readouterr().err == ""
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.warns(match="needs tqdm"):
        fitted(verbose=1)


# --------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("parameters", "data", "error", "said"),
    [
        ({}, {"y": np.zeros(150)}, ValueError, "at least 2 classes .* only one class: "),
        ({}, {"X": np.full((150, 4), np.nan)}, ValueError, "contains NaN"),
        ({}, {"X": np.full((150, 4), np.inf)}, ValueError, "contains infinity"),
        ({}, {"X": np.zeros((0, 4)), "y": []}, ValueError, r"0 sample\(s\)"),
        ({}, {"X": np.zeros((1, 4)), "y": [1]}, ValueError, r"1 sample\(s\)"),
        ({}, {"sample_weight": -np.ones(150)}, ValueError, "must not be negative"),
        ({}, {"sample_weight": np.zeros(150)}, ValueError, "at least one non-zero"),
        ({}, {"X_val": IRIS[0]}, ValueError, "go together"),
        ({}, {"X_val": IRIS[0][:, :2], "y_val": IRIS[1]}, ValueError, "expecting 4 features"),
        ({}, {"X_val": IRIS[0], "y_val": IRIS[1][:7]}, ValueError, "inconsistent numbers"),
        ({}, {"X_val": IRIS[0], "y_val": IRIS[1] + 1}, ValueError, "classes not in"),
        ({"batch_size": 0}, {}, ValueError, "batch_size must be at least 1"),
        ({"batch_size": 2.5}, {}, TypeError, "batch_size must be an int"),
        ({"max_epochs": 0}, {}, ValueError, "max_epochs must be at least 1"),
        ({"n_members": 0}, {}, ValueError, "n_members must be at least 1"),
        ({"hidden": (0,)}, {}, ValueError, "hidden"),
        ({"lr": -1.0}, {}, ValueError, "learning rate"),
        ({"loss": "squared"}, {}, ValueError, "loss must be 'cross_entropy', got 'squared'"),
        ({"warm_start": 1}, {}, TypeError, "warm_start must be True or False"),
        ({"early_stopping": "yes"}, {}, TypeError, "early_stopping must be True or False"),
        (
            {"early_stopping": True, "n_iter_no_change": 0},
            {},
            ValueError,
            "n_iter_no_change must be at least 1",
        ),
        ({"early_stopping": True, "validation_fraction": 2.0}, {}, ValueError, "test_size"),
    ],
)
def test_bad_input(parameters, data, error, said):
    given = {"X": IRIS[0], "y": IRIS[1]} | data
    with pytest.raises(error, match=said):
        classifier(**parameters).fit(**given)


def test_a_validation_loss_that_is_not_finite():
    X, y = np.abs(DIABETES[0]), DIABETES[1]
    far = np.where(np.arange(442) == 3, 1e6, 1.0)[:, None] * X
    estimator = regressor(loss="poisson", lr=0.05)
    with np.errstate(over="ignore"):
        estimator.fit(X, y, X_val=far, y_val=y)
        held, score = (np.array(estimator.history_[f"val_{name}"]) for name in ("loss", "score"))
        assert np.isinf(held).any() and np.isnan(score[np.isinf(held)]).all()
        estimator.set_params(early_stopping=True, n_iter_no_change=2)
        with pytest.raises(ValueError, match="not finite in any epoch"), pytest.warns():
            estimator.fit(X, y, X_val=far, y_val=y)


def test_classes_without_weight_do_not_count():
    X, y = IRIS
    others = np.where(y[:, None] == 0, 1000.0, X)
    one, other = (classifier(class_weight={0: 0.0, 1: 1.0, 2: 2.0}).fit(x, y) for x in (X, others))
    assert one.classes_.tolist() == [0, 1, 2]
    assert (one.predict_proba(X) == other.predict_proba(X)).all()
    for wrong in (-1.0, np.nan):
        with pytest.raises(ValueError, match="class_weight must not be negative or NaN"):
            classifier(class_weight={0: wrong, 1: 1.0, 2: 1.0}).fit(X, y)


@pytest.mark.parametrize("quantile", [0.0, (0.5, 1.5), (), "half"])
def test_bad_quantiles(quantile):
    with pytest.raises((ValueError, TypeError), match="quantile"):
        regressor(loss="quantile", quantile=quantile).fit(*DIABETES)
    with pytest.raises(ValueError, match="loss must be 'squared'"):
        regressor(loss="cubic").fit(*DIABETES)


# ----------------------------------------------------------------------------------------- imports
def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


def test_minigrad_alone_does_not_import_them():
    code = (
        "import sys, minigrad; print({'sklearn', 'scipy', 'minigrad.estimators'} & {*sys.modules})"
    )
    assert run(code).stdout == "set()\n"


def test_without_scikit_learn_one_line_says_what_to_install():
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "try: import minigrad.estimators\n"
        "except ImportError as error: print(error)"
    )
    assert run(code).stdout == (
        "minigrad.estimators needs scikit-learn 1.6 or later: "
        "pip install 'minigrad-cython[sklearn]'\n"
    )
