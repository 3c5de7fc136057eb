"""NetClassifier and NetRegressor: their targets, losses, predictions and scores."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import d2_pinball_score, r2_score
from sklearn.utils import check_array
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from ..checks import choice
from .base import NetEstimator
from .losses import BINARY, CROSS_ENTROPY, REGRESSION, Loss, checked_levels, pinball, variance

__all__ = ["NetClassifier", "NetRegressor"]


class NetClassifier(ClassifierMixin, NetEstimator):
    """A small net that classifies: two or more classes, or several labels at once.

    With the labels y (n,) the net has one output per class, whose softmax is the probability; with
    a matrix y of zeros and ones (n, labels), one per label, whose sigmoid it is.

    loss: "cross_entropy", or a function of the outputs (n, classes or labels) and the targets, the
        number of the class (n,) or zeros and ones (n, labels), both Tensors, that returns a value
        per sample, (n,) or (n, labels), or their mean.
    class_weight: a dict of weights, "balanced" (inverse to the frequency) or None.
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

    _learnt = (*NetEstimator._learnt, "classes_", "_multilabel")

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
        self.hidden = hidden
        self.activation = activation
        self.normalisation = normalisation
        self.dropout = dropout
        self.make = make
        self.optimizer = optimizer
        self.lr = lr
        self.schedule = schedule
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.loss = loss
        self.weight_decay = weight_decay
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.standardise = standardise
        self.recalibrate = recalibrate
        self.warm_start = warm_start
        self.n_members = n_members
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
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
        kind, name = type_of_target(y), type(self).__name__
        if kind == "multiclass-multioutput":
            raise ValueError(
                f"Unknown label type: {kind}; {name} takes one column of classes, or several of "
                f"zeros and ones. Use sklearn.multioutput.MultiOutputClassifier({name}(...))"
            )
        multilabel = kind == "multilabel-indicator"
        if multilabel:
            y = y if isinstance(y, np.ndarray) else y.toarray()
            found = np.arange(y.shape[1])
        else:
            found = np.unique(y)
        if first:
            self._learn_classes(found, classes, multilabel)
        elif classes is not None and not np.array_equal(np.unique(classes), self.classes_):
            raise ValueError(
                f"`classes={classes!r}` is not the same as on last call to partial_fit, was: "
                f"{self.classes_!r}"
            )
        unknown = np.setdiff1d(found, self.classes_)
        if (
            multilabel != self._multilabel
            or len(unknown)
            or (multilabel and len(found) != len(self.classes_))
        ):
            raise ValueError(
                f"`y` has classes not in `self.classes_`. `self.classes_` has {self.classes_}. "
                f"'y' has {found}."
            )
        if multilabel:
            return y.astype(np.float32)
        return np.searchsorted(self.classes_, y).astype(np.int64)

    def _learn_classes(self, found: np.ndarray, classes: Any, multilabel: bool) -> None:
        classes = found if classes is None else np.unique(classes)
        if len(classes) < 2 and not multilabel:
            raise ValueError(
                f"{type(self).__name__} needs samples of at least 2 classes in the data, but the "
                f"data contains only one class: {classes[0]!r}"
            )
        self.classes_, self.n_outputs_, self._multilabel = classes, len(classes), multilabel

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
        return BINARY if self._multilabel else CROSS_ENTROPY

    def _score(self, z: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> float:
        right = ((z > 0) == y).all(axis=1) if self._multilabel else z.argmax(axis=1) == y
        return float(np.average(right, weights=weight))

    # ----------------------------------------------------------------------------------- predicting
    def _logs(self, X: Any) -> tuple[np.ndarray, np.ndarray]:
        """The logarithm of the probability of each class, and for labels that of its contrary."""
        z = self._outputs_of(X)
        if self._multilabel:
            return -np.logaddexp(0, -z), -np.logaddexp(0, z)
        logs = z - np.logaddexp.reduce(z, axis=-1, keepdims=True)
        return logs, logs

    def decision_function(self, X: Any) -> np.ndarray:
        """Scores of the classes: for two classes (n,), the log-odds of the second; for more the
        logarithms of the probabilities (n, classes); for labels their log-odds (n, labels)."""
        logs, contrary = map(_log_mean, self._logs(X))
        if self._multilabel:
            return logs - contrary
        return logs[:, 1] - logs[:, 0] if len(self.classes_) == 2 else logs

    def predict_proba(self, X: Any, return_std: bool = False) -> Any:
        """The probabilities (n, classes) or (n, labels), the mean of the members'; with
        return_std=True also their standard deviation between the members."""
        logs, _ = self._logs(X)
        mean = np.exp(_log_mean(logs))
        if not return_std:
            return mean
        self._need_members("predict_proba")
        return mean, np.exp(logs).std(axis=0)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """The logarithms of `predict_proba`, exact where that underflows."""
        return _log_mean(self._logs(X)[0])

    def predict(self, X: Any) -> np.ndarray:
        """The most probable classes (n,), or zeros and ones (n, labels)."""
        scores = self.decision_function(X)
        if self._multilabel:
            return (scores > 0).astype(int)
        return self.classes_[(scores > 0).astype(int) if scores.ndim == 1 else scores.argmax(1)]


def _log_mean(logs: np.ndarray) -> np.ndarray:
    """The logarithm of the mean over the members."""
    return logs[0] if len(logs) == 1 else np.logaddexp.reduce(logs, axis=0) - math.log(len(logs))


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
        self.hidden = hidden
        self.activation = activation
        self.normalisation = normalisation
        self.dropout = dropout
        self.make = make
        self.optimizer = optimizer
        self.lr = lr
        self.schedule = schedule
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.loss = loss
        self.quantile = quantile
        self.weight_decay = weight_decay
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.standardise = standardise
        self.recalibrate = recalibrate
        self.warm_start = warm_start
        self.n_members = n_members
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
        return tags

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
