"""NetClassifier and NetRegressor: their targets, losses, predictions and scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import d2_pinball_score, r2_score
from sklearn.utils import check_array
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets

from ..checks import choice
from ..optim.optimizer import options
from .base import NetEstimator
from .losses import (
    BINARY,
    CROSS_ENTROPY,
    REGRESSION,
    Loss,
    by_columns,
    checked_levels,
    pinball,
    variance,
)

__all__ = ["NetClassifier", "NetRegressor"]


class NetClassifier(ClassifierMixin, NetEstimator):
    """A small net that classifies: two or more classes, several labels at once, or several columns
    of classes.

    With the labels y (n,) the net has one output per class, whose softmax is the probability; with
    a matrix y of zeros and ones (n, labels), one per label, whose sigmoid it is; with any other
    matrix (n, columns), one per class of each column, in this order. Then the loss is the mean over
    the columns, and `classes_`, `predict_proba` and kin have a list, an entry per column.

    loss: "cross_entropy", or a function of the outputs and the targets, the number of the class
        (n,) or (n, columns), or zeros and ones (n, labels), both Tensors, that returns a value per
        sample, (n,) or of the shape of the targets, or their mean.
    class_weight: a dict of weights, "balanced" (inverse to the frequency) or None; for several
        columns a list of dicts.
    {parameters}

    Attributes: `classes_`; `net_` and `nets_`, the trained Modules; `history_`, a dict of columns:
    member, epoch, loss, val_loss, val_score, lr, seconds; `n_iter_`; `n_features_in_`,
    `feature_names_in_`.

    >>> from minigrad.estimators import NetClassifier
    >>> X, y = np.array([[0.0], [1.0], [10.0], [11.0]]), np.array(["low", "low", "high", "high"])
    >>> net = NetClassifier(hidden=(8,), lr=0.05, random_state=0).fit(X, y)
    >>> net.predict([[0.5], [10.5]]).tolist()
    ['low', 'high']
    """

    _learnt = (*NetEstimator._learnt, "classes_", "_kind")

    def __init__(
        self,
        hidden: Any = (64, 64),
        *,
        activation: Any = "relu",
        normalisation: Any = "batch",
        dropout: float = 0.0,
        make: Any = None,
        optimizer: Any = "adam",
        lr: float = 1e-3,
        schedule: Any = "cosine",
        batch_size: int = 32,
        max_epochs: int = 100,
        loss: Any = "cross_entropy",
        weight_decay: float = 0.0,
        class_weight: Any = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        standardise: bool = True,
        recalibrate: bool = True,
        warm_start: bool = False,
        n_members: int = 1,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.__dict__.update(options(locals()))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Any:
        """Train for one epoch on a chunk of the data, at the rate `lr`. Returns self.

        classes: all labels, at the first call. Features are standardised as in the first chunk.
        Raises ValueError without them, and for a label that is not among them.
        """
        if classes is None and not hasattr(self, "nets_"):
            raise ValueError("classes must be passed on the first call to partial_fit")
        return self._partial_fit(X, y, sample_weight, classes)

    def _targets(self, y: Any, first: bool, classes: Any) -> np.ndarray:
        check_classification_targets(y)
        y = y if isinstance(y, np.ndarray) else y.toarray()
        if first:
            self._learn_classes(y, classes)
        elif classes is not None and not _same(_each_unique(classes), self.classes_):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{self.classes_!r}"
            )
        labels, known = self._kind == "labels", self._columns()
        columns = y.T if y.ndim == 2 else [y]
        codes = []
        for k, column in enumerate(columns):
            found = np.unique(column)
            if (
                (y.ndim == 1) != (self._kind == "classes")
                or len(columns) != (len(self.classes_) if labels else len(known))
                or len(np.setdiff1d(found, [0, 1] if labels else known[k]))
            ):
                raise ValueError(
                    f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. "
                    f"'y' has {found}{f' in column {k} of {len(columns)}' * (y.ndim == 2)}."
                )
            codes.append(column if labels else np.searchsorted(known[k], column))
        targets = codes[0] if y.ndim == 1 else np.stack(codes, axis=1)
        return targets.astype(np.float32 if labels else np.int64)

    def _learn_classes(self, y: np.ndarray, classes: Any) -> None:
        """Set the kind of targets, "classes", "labels" or "columns" of classes, and which."""
        given = None if classes is None else _each_unique(classes)
        marks = y.ndim == 2 and y.dtype.kind in "biuf" and bool(np.isin(y, (0, 1)).all())
        if isinstance(given, list) or (y.ndim == 2 and not marks):
            self._kind, found = "columns", _each_unique(list(y.T))
            if given is not None and not isinstance(given, list):
                raise ValueError("classes must be a list of the classes of each column of y")
        elif marks:
            self._kind, found = "labels", np.arange(y.shape[1])
        else:
            self._kind, found = "classes", np.unique(y)
        self.classes_ = found if given is None else given
        for each in self._columns():
            if len(each) < 2 and self._kind != "labels":
                raise ValueError(
                    f"{type(self).__name__} needs samples of at least 2 classes in the data, but "
                    f"the data contains only one class: {each.tolist()}"
                )
        self.n_outputs_ = sum(map(len, self._columns()))

    def _columns(self) -> list[Any]:
        """The classes of each column of y; all labels for labels."""
        return list(self.classes_) if self._kind == "columns" else [self.classes_]

    def _class_weights(self, y: Any, chunk: bool) -> Any:
        if self.class_weight is None:
            return None
        if chunk and self.class_weight == "balanced":
            raise ValueError(
                "class_weight 'balanced' is not supported for partial_fit, which sees a chunk of "
                "the data; give a dict, or sample_weight"
            )
        return compute_sample_weight(self.class_weight, y)

    def _loss(self) -> Loss:
        if callable(self.loss):
            return Loss(self.loss, by_sample=False)
        choice(self.loss, "loss", "cross_entropy")
        if self._kind == "columns":
            return by_columns([len(each) for each in self.classes_])
        return BINARY if self._kind == "labels" else CROSS_ENTROPY

    def _parts(self, z: np.ndarray) -> list[np.ndarray]:
        """The outputs (..., n, outputs) for each column of y."""
        ends = np.cumsum([len(each) for each in self._columns()])
        return np.split(z, ends[:-1], axis=-1)

    def _score(self, z: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> float:
        if self._kind == "labels":
            right = ((z > 0) == y).all(axis=1)
        else:
            found = np.stack([part.argmax(axis=1) for part in self._parts(z)], axis=1)
            right = (found == y.reshape(found.shape)).all(axis=1)
        return float(np.average(right, weights=weight))

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """The share of the samples that are right, for several labels or columns in all of them."""
        if vars(self).get("_kind") != "columns":
            return float(super().score(X, y, sample_weight))
        right = self.predict(X) == check_array(y, dtype=None, input_name="y")
        return float(np.average(right.all(axis=1), weights=sample_weight))

    # ----------------------------------------------------------------------------------- predicting
    def _logs(self, X: Any) -> list[tuple[np.ndarray, np.ndarray]]:
        """The logarithm of the probability of each class, and for labels that of its contrary, of
        each member: a pair for each column of y."""
        z = self._outputs_of(X)
        if self._kind == "labels":
            return [(-np.logaddexp(0, -z), -np.logaddexp(0, z))]
        logs = [part - np.logaddexp.reduce(part, axis=-1, keepdims=True) for part in self._parts(z)]
        return [(each, each) for each in logs]

    def _by_column(self, results: list[Any]) -> Any:
        """A list for several columns of classes, as scikit-learn's trees have it."""
        return results if self._kind == "columns" else results[0]

    def decision_function(self, X: Any) -> Any:
        """Scores of the classes: for two classes (n,), the log-odds of the second; for more the
        logarithms of the probabilities (n, classes); for labels their log-odds (n, labels). For
        several columns of classes, a list."""
        found = []
        for logs, contrary in ([_log_mean(each) for each in pair] for pair in self._logs(X)):
            if self._kind == "labels":
                found.append(logs - contrary)
            else:
                found.append(logs[:, 1] - logs[:, 0] if logs.shape[1] == 2 else logs)
        return self._by_column(found)

    def predict_proba(self, X: Any, return_std: bool = False) -> Any:
        """The probabilities (n, classes) or (n, labels), the mean of the members', or a list of
        them for several columns; with return_std=True also their standard deviation between the
        members."""
        logs = [each for each, _ in self._logs(X)]
        mean = self._by_column([np.exp(_log_mean(each)) for each in logs])
        if not return_std:
            return mean
        self._need_members("predict_proba")
        return mean, self._by_column([np.exp(each).std(axis=0) for each in logs])

    def predict_log_proba(self, X: Any) -> Any:
        """The logarithms of `predict_proba`, exact where that underflows."""
        return self._by_column([_log_mean(each) for each, _ in self._logs(X)])

    def predict(self, X: Any) -> np.ndarray:
        """The most probable classes, of the shape of y; for labels zeros and ones."""
        scores = self.decision_function(X)
        if self._kind == "labels":
            return (scores > 0).astype(int)
        found = []
        for each, classes in zip(
            scores if self._kind == "columns" else [scores], self._columns(), strict=True
        ):
            found.append(classes[(each > 0).astype(int) if each.ndim == 1 else each.argmax(1)])
        return np.stack(found, axis=1) if self._kind == "columns" else found[0]


def _log_mean(logs: np.ndarray) -> np.ndarray:
    """The logarithm of the mean over the members."""
    return logs[0] if len(logs) == 1 else np.logaddexp.reduce(logs, axis=0) - math.log(len(logs))


def _each_unique(classes: Any) -> Any:
    """The distinct values of a sequence, or of each one in a sequence of them, a list."""
    several = len(classes) > 0 and np.ndim(classes[0]) == 1
    return [np.unique(each) for each in classes] if several else np.unique(classes)


def _same(one: Any, other: Any) -> bool:
    """Whether the classes, or those of all columns, are the same."""
    if isinstance(one, list) != isinstance(other, list) or len(one) != len(other):
        return False
    pairs = zip(one, other, strict=True) if isinstance(one, list) else [(one, other)]
    return all(np.array_equal(*pair) for pair in pairs)


class NetRegressor(RegressorMixin, NetEstimator):
    """A small net that predicts numbers: y (n,), or several at once, (n, targets).

    loss: "squared", "huber" (linear beyond one standard deviation of y), "quantile", "poisson" (of
        counts; the net predicts the logarithm of the rate), "gaussian" (the net predicts mean and
        variance, Nix & Weigend 1994), or a function of outputs and targets, both Tensors
        (n, targets), that returns a value per sample, (n,) or (n, targets), or their mean. With
        standardise=True, targets are standardised too, inside, for losses given by name; for a
        function sklearn.compose.TransformedTargetRegressor does it.
    quantile: the level of loss="quantile", in (0, 1), or several: `predict` then returns one more
        axis, and quantiles do not cross.
    {parameters}

    Attributes: `net_` and `nets_`, the trained Modules; `history_`, a dict of columns: member,
    epoch, loss, val_loss, val_score, lr, seconds; `n_iter_`; `n_features_in_`,
    `feature_names_in_`.

    >>> from minigrad.estimators import NetRegressor
    >>> X = np.linspace(-1, 1, 64).reshape(-1, 1)
    >>> net = NetRegressor(normalisation=None, lr=0.01, random_state=0).fit(X, X[:, 0] ** 2)
    >>> net.score(X, X[:, 0] ** 2) > 0.95
    True
    """

    _learnt = (*NetEstimator._learnt, "_flat")

    def __init__(
        self,
        hidden: Any = (64, 64),
        *,
        activation: Any = "relu",
        normalisation: Any = "batch",
        dropout: float = 0.0,
        make: Any = None,
        optimizer: Any = "adam",
        lr: float = 1e-3,
        schedule: Any = "cosine",
        batch_size: int = 32,
        max_epochs: int = 100,
        loss: Any = "squared",
        quantile: Any = (0.1, 0.5, 0.9),
        weight_decay: float = 0.0,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 10,
        standardise: bool = True,
        recalibrate: bool = True,
        warm_start: bool = False,
        n_members: int = 1,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.__dict__.update(options(locals()))

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Any:
        """Train for one epoch on a chunk of the data, at the rate `lr`. Returns self.

        Features and targets are standardised as in the first chunk.
        """
        return self._partial_fit(X, y, sample_weight)

    def _targets(self, y: Any, first: bool, classes: Any) -> np.ndarray:
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        if self.loss == "poisson" and y.min() < 0:
            raise ValueError("y is negative, which loss='poisson' excludes: it takes counts")
        table = y.reshape(len(y), -1)
        if first:
            self.n_outputs_, self._flat = table.shape[1], y.ndim == 1
        elif table.shape[1] != self.n_outputs_:
            raise ValueError(
                f"y has {table.shape[1]} targets, but {type(self).__name__} was fitted to "
                f"{self.n_outputs_}"
            )
        return table

    def _loss(self) -> Loss:
        if callable(self.loss):
            return Loss(self.loss, by_sample=False)
        if self.loss == "quantile":
            return pinball(checked_levels(self.quantile, "quantile"))
        return REGRESSION[choice(self.loss, "loss", *REGRESSION, "quantile")]

    def _predicted(self, z: np.ndarray) -> np.ndarray:
        """From the outputs (..., n, outputs) to values (..., n, targets), or with one more axis."""
        return self._loss().predict(z.reshape(*z.shape[:-1], self.n_outputs_, -1))

    def _score(self, z: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> float:
        return self._score_of(y, self._predicted(z), weight)

    def _score_of(self, y: np.ndarray, predicted: np.ndarray, weight: Any) -> float:
        if self.loss == "quantile":
            levels = checked_levels(self.quantile, "quantile")
            columns = np.moveaxis(predicted.reshape(*y.shape, len(levels)), -1, 0)
            scores = [
                d2_pinball_score(y, column, alpha=level, sample_weight=weight)
                for level, column in zip(levels, columns, strict=True)
            ]
            return float(np.mean(scores))
        if predicted.shape != y.shape:
            return math.nan
        return float(r2_score(y, predicted, sample_weight=weight))

    # ----------------------------------------------------------------------------------- predicting
    def predict(self, X: Any, return_std: bool = False) -> Any:
        """The predictions: of the shape of y, and for several quantiles with one axis more.

        return_std: also their standard deviations: between the members, and with loss="gaussian"
            that of the mixture, which includes the predicted variance (Lakshminarayanan et al.
            2017). Raises ValueError for one member and another loss.
        """
        z = self._outputs_of(X)
        members = self._predicted(z)
        mean = self._shaped(members.mean(axis=0))
        if not return_std:
            return mean
        spread = members.var(axis=0)
        if self.loss == "gaussian":
            spread = spread + variance(z.reshape(*members.shape, 2)).mean(axis=0)
        else:
            self._need_members("predict")
        return mean, np.sqrt(self._shaped(spread))

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        return values[:, 0] if self._flat else values

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² of the predictions; with loss="quantile", the mean over the levels of D², the share of
        the pinball loss of constant quantiles that the predictions save."""
        if self.loss != "quantile":
            return float(super().score(X, y, sample_weight))
        predicted = self.predict(X)
        y = np.asarray(y, dtype=np.float64)
        return self._score_of(y, predicted, sample_weight)


_PARAMETERS = """hidden: the sizes of the hidden layers, an int or a tuple.
    activation: the name of a Module in `minigrad.nn`, in any case ("relu", "gelu", "tanh", ...), or
        a class.
    normalisation: "batch", "layer", "rms", None, or a class that takes a size.
    dropout: the probability after each hidden layer.
    make: a function (n_features, n_outputs) that returns any Module, in place of the four above.
    optimizer: the name of a class in `minigrad.optim` ("adam", "sgd", ...), a function of the
        parameters, or an instance, of which the class and the options are taken.
    lr, weight_decay: of an optimiser given by name.
    schedule: of the rate, by epoch: "cosine" and "linear" fall to 0, "one_cycle", "plateau", None
        for a constant rate, a function of the optimiser, or an instance.
    batch_size: so many samples per step, at most all; a last batch of one joins the one before.
    max_epochs: the number of passes over the data of each `fit`.
    early_stopping: stop when the validation loss has not fallen for n_iter_no_change epochs, and
        go back to the weights where it was lowest. The validation data are X_val and y_val of
        `fit`, or else a random validation_fraction of X, with all classes in proportion.
    standardise: shift and scale each feature to mean 0 and variance 1, inside: `predict` takes
        what `fit` takes.
    recalibrate: at the end of `fit`, replace the running statistics of BatchNorm by the exact ones
        of the training data (`nn.recalibrate`).
    warm_start: `fit` goes on from the present weights.
    n_members: train an ensemble of so many nets, each with its own initialisation and order of the
        data; predictions are the mean. Those that `nn.Ensemble` takes train in one step, with the
        same results, to rounding, as one by one.
    random_state: an int makes results repeatable, bit for bit and for any number of processes.
    verbose: 1 shows a progress bar (tqdm)."""
for _estimator in (NetClassifier, NetRegressor):
    _estimator.__doc__ = (_estimator.__doc__ or "").replace("{parameters}", _PARAMETERS)
