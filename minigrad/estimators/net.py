"""NetClassifier and NetRegressor: what scikit-learn asks of an estimator, around `training.py`.

Design note
-----------
1. `nets_` holds pipelines of three Modules, `inputs`, `net` and `outputs`, which map features to
   outputs in the user's own units. `inputs` and `outputs` only shift and scale; `net` is trained on
   data standardised beforehand. So a state dict or an ONNX file of `net_` is complete.
2. Predictions are computed in float64 although the weights are float32: an operation on both gives
   float64. So they do not depend on how the rows are divided into blocks.
3. Weights are scaled to a mean of 1 over all samples. Over a batch, a batch of unimportant samples
   would make a full step. Where all data fit one batch, the fit does not depend on the order of the
   rows, and a sample of weight 2 stands in the batch twice, so that it counts twice for BatchNorm
   too: bit for bit, the fit is that on repeated rows. With several batches that holds on average.
4. The members of an ensemble are separate nets; `_train` is the one place that knows it.
"""

from __future__ import annotations

import math
import warnings
from collections import OrderedDict
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone, is_regressor
from sklearn.metrics import d2_pinball_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import nn
from ..checks import choice, flag, integer
from ..creation import asarray
from .build import Affine, check_outputs, made, mlp, moments, optimizer_for, scheduler_for
from .losses import BINARY, CROSS_ENTROPY, REGRESSION, Loss, checked_levels, quantile_loss, variance
from .training import Batches, Rows, Run, Validation, drawing_from, evaluate

__all__ = ["NetClassifier", "NetRegressor"]

FLOATS = (np.float64, np.float32)
Data = tuple[Any, np.ndarray, "np.ndarray | None"]  # X, targets, weights


class _Net(BaseEstimator):
    """What both estimators share: a subclass knows targets, losses and scores."""

    nets_: list[Any]  # Sequentials of `inputs`, `net` and `outputs`
    history_: dict[str, list[float]]

    # ---------------------------------------------------------------- provided by the subclasses
    def _targets(self, y: Any, first: bool, classes: Any) -> np.ndarray:
        """The targets as the loss takes them. If this is the first fit, set `n_outputs_`, how many
        there are for a sample, and what else predictions need."""
        raise NotImplementedError

    def _class_weights(self, y: Any, chunk: bool) -> Any:
        """The factor of each sample, or None; a chunk is one of several, of `partial_fit`."""

    def _loss(self) -> Loss:
        raise NotImplementedError

    def _score(self, z: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> float:
        """The score of the outputs of one net, in the units in which it was trained."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------- fitting
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None
    ) -> Any:
        """Train on X (n, features), an array, a data frame or a sparse matrix, and y. Returns self.

        sample_weight: (n,), not negative; only ratios matter.
        X_val, y_val: data whose loss and score are recorded; early_stopping=True stops by them.

        Raises what scikit-learn's estimators raise for bad data, and ValueError in the first epoch
        whose loss is not finite. When training ends early, by Ctrl-C or any other exception, the
        estimator keeps the best weights so far, and warns that it does; the exception goes on.
        """
        first = not (flag(self.warm_start, "warm_start") and hasattr(self, "nets_"))
        X, y, weight = self._checked(X, y, sample_weight, first, least=2)
        random = check_random_state(self.random_state)
        X, y, weight = _in_one_batch(X, y, weight, integer(self.batch_size, "batch_size", 1))
        held: Data | None = None
        if (X_val is None) != (y_val is None):
            raise ValueError("fit: X_val and y_val go together; one of them is missing")
        if X_val is not None:
            X_val = validate_data(self, X_val, accept_sparse="csr", dtype=FLOATS, reset=False)
            y_val = check_array(y_val, ensure_2d=False, dtype=None, input_name="y_val")
            check_consistent_length(X_val, y_val)
            held = X_val, self._targets(_flattened(y_val), False, None), None
        elif flag(self.early_stopping, "early_stopping"):
            (X, y, weight), held = self._split(X, y, weight, random)
        if weight is not None:
            weight = None if (weight == weight[0]).all() else weight / weight.mean()
        epochs = integer(self.max_epochs, "max_epochs", 1)
        runs = self._new_runs((X, y, weight), first, random)
        self._train(runs, (X, y, weight), held, epochs, first)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Any:
        if flag(self.early_stopping, "early_stopping"):
            raise ValueError("partial_fit does not support early_stopping=True")
        first = not hasattr(self, "nets_")
        X, y, weight = self._checked(X, y, sample_weight, first, classes, chunk=True)
        runs = vars(self).get("_chunk_runs")
        if runs is None:
            random = check_random_state(self.random_state)
            runs = self._new_runs((X, y, weight), first, random)
        self._train(runs, (X, y, weight), None, None, first)
        self._chunk_runs = runs
        return self

    def _checked(
        self,
        X: Any,
        y: Any,
        sample_weight: Any,
        first: bool,
        classes: Any = None,
        least: int = 1,
        chunk: bool = False,
    ) -> Data:
        """X, targets and weights without the samples of weight 0."""
        X, y = validate_data(
            self,
            X,
            y,
            accept_sparse="csr",
            dtype=FLOATS,
            multi_output=True,
            y_numeric=is_regressor(self),
            reset=first,
            ensure_min_samples=least,
        )
        weight = None
        if sample_weight is not None:
            weight = check_array(
                sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight"
            )
            if weight.ndim != 1:
                raise ValueError(f"sample_weight must be 1-D, got the shape {weight.shape}")
            check_consistent_length(X, weight)
            if weight.min() < 0:
                raise ValueError("sample_weight must not be negative")
            kept = weight > 0
            if not kept.any():
                raise ValueError("sample_weight must contain at least one non-zero number")
            X, y, weight = X[kept], y[kept], weight[kept]
        y = _flattened(y)
        targets = self._targets(y, first, classes)
        factors = self._class_weights(y, chunk)
        if factors is not None:
            weight = factors if weight is None else weight * factors
            if not (weight > 0).any():
                raise ValueError("class_weight and sample_weight give all samples the weight zero")
        return X, targets, weight

    def _split(self, X: Any, y: np.ndarray, weight: Any, random: Any) -> tuple[Data, Data]:
        """The samples to train on, and those held out, in the proportion of the classes unless
        there are too few of one."""
        rows = np.arange(len(y))
        options = {"test_size": self.validation_fraction, "random_state": random}
        try:
            labels = y if y.dtype.kind == "i" else None
            train, held = train_test_split(rows, stratify=labels, **options)
        except ValueError:
            train, held = train_test_split(rows, **options)
        if len(train) < 2 or len(held) < 2:
            raise ValueError(
                f"early_stopping: {len(train)} samples to train on and {len(held)} to validate "
                "with, but both need 2; change validation_fraction, or fit on more data"
            )
        parts = [(X[k], y[k], None if weight is None else weight[k]) for k in (train, held)]
        return parts[0], parts[1]

    # ------------------------------------------------------------------------------------ nets
    def _new_runs(self, data: Data, first: bool, random: Any) -> list[Run]:
        """The training of each member, with a new net or, unless this is the first fit, its own."""
        X, y, weight = data
        if first:
            self.__dict__.pop("nets_", None)
            count = integer(self.n_members, "n_members", 1)
            self._inputs, self._outputs = self._ends(X, y, weight)
        else:
            count = len(self.nets_)
        self.__dict__.pop("_chunk_runs", None)
        runs = []
        for k, seed in enumerate(random.randint(np.iinfo(np.int32).max, size=count)):
            generator = np.random.default_rng(seed)
            with drawing_from(generator):
                net = self._new_net() if first else self.nets_[k].net
                width = self.n_outputs_ * self._loss().outputs
                free = is_regressor(self) and callable(self.loss)
                check_outputs(net, self.n_features_in_, None if free else width)
                optimizer = optimizer_for(
                    self.optimizer, net.parameters(), self.lr, self.weight_decay
                )
            runs.append(Run(net, optimizer, generator))
        return runs

    def _new_net(self) -> nn.Module:
        sizes = self.n_features_in_, self.n_outputs_ * self._loss().outputs
        if self.make is not None:
            return made(self.make, *sizes)
        return mlp(*sizes, self.hidden, self.activation, self.normalisation, self.dropout)

    def _ends(self, X: Any, y: np.ndarray, weight: Any) -> tuple[Affine, nn.Module]:
        """The Modules before and after the net, which standardise features and targets."""
        loss, k = self._loss(), self._loss().outputs
        mean, std = np.zeros(X.shape[1]), np.ones(X.shape[1])
        if not flag(self.standardise, "standardise"):
            return Affine(mean, std), nn.Identity()
        mean, std = moments(X, weight)
        inputs = Affine(mean, 1 / std)
        if loss.scaling is None:
            return inputs, nn.Identity()
        mean, std = (np.repeat(values, k) for values in moments(y, weight))
        if loss.scaling == "log":
            return inputs, Affine(-np.log(np.where(mean > 0, mean, 1.0)), np.ones_like(mean))
        centre, factor = -mean / std, std
        for place in loss.log_variances:  # log(var std²) = log(var) + 2 log(std)
            centre[place::k], factor[place::k] = -2 * np.log(std[place::k]), 1.0
        return inputs, Affine(centre, factor)

    def _standardised(self, y: np.ndarray) -> np.ndarray:
        """The targets in the units of the outputs of the net."""
        if isinstance(self._outputs, Affine):
            loss = self._loss()
            ends = self._outputs.centre, self._outputs.factor
            centre, factor = (end.numpy()[:: loss.outputs] for end in ends)
            y = y * np.exp(centre) if loss.scaling == "log" else y / factor + centre
        return y if y.dtype.kind == "i" else y.astype(np.float32)

    def _pipeline(self, net: nn.Module) -> nn.Sequential:
        parts = {"inputs": self._inputs, "net": net, "outputs": self._outputs}
        return nn.Sequential(OrderedDict(parts)).eval()

    # ------------------------------------------------------------------------------------ training
    def _train(
        self, runs: list[Run], data: Data, held: Data | None, epochs: int | None, first: bool
    ) -> None:
        """Train the members, one after the other. epochs: None for one epoch at a constant rate."""
        X, y, weight = data
        loss, size = self._loss(), integer(self.batch_size, "batch_size", 1)
        rows = Rows(X, self._inputs.centre.numpy(), self._inputs.factor.numpy())
        weights = None if weight is None else weight.astype(np.float32)
        batches = Batches(rows, self._standardised(y), weights, size)
        validation = None if held is None else self._validation(held)
        finished: list[Run] = []
        with ExitStack() as stack:
            report = self._progress(len(runs) * (epochs or 1), stack)
            try:
                for run in runs:
                    finished.append(run)
                    schedule = None
                    if epochs is not None:
                        schedule = scheduler_for(self.schedule, run.optimizer, self.lr, epochs)
                    with drawing_from(run.random):
                        run.train(loss, batches, epochs or 1, schedule, validation, report)
            except BaseException as error:
                finished = [run for run in finished if run.history]
                if finished or not first:
                    self._finish(finished, rows if epochs else None, first)
                    self._say_kept(error, finished)
                raise
        self._finish(runs, rows if epochs else None, first)

    def _finish(self, runs: list[Run], rows: Rows | None, first: bool) -> None:
        """Set what `fit` leaves behind; with rows, also recalibrate."""
        if rows is not None and flag(self.recalibrate, "recalibrate"):
            for run in runs:
                modules = list(run.net.modules())
                norms = [m for m in modules if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d))]
                if norms and all(norm.running_mean is not None for norm in norms):
                    nn.recalibrate(run.net, rows)
        if first:
            self.nets_ = [self._pipeline(run.net) for run in runs]
        table = [(k, row) for k, run in enumerate(runs) for row in run.history]
        self.history_ = {"member": [k for k, _ in table]}
        for name in table[0][1] if table else ():
            self.history_[name] = [row[name] for _, row in table]
        self.n_iter_ = max((len(run.history) for run in runs), default=0)

    def _say_kept(self, error: BaseException, runs: list[Run]) -> None:
        best = ", ".join(str(run.best.epoch) for run in runs)
        kept = f"the best weights so far, of epoch {best}" if runs else "its former weights"
        warnings.warn(
            f"{type(self).__name__}: training ended by {type(error).__name__}; the estimator keeps "
            f"{kept}",
            stacklevel=4,
        )

    def _validation(self, held: Data) -> Validation:
        X, y, weight = held
        y = self._standardised(y)
        rows = Rows(X, self._inputs.centre.numpy(), self._inputs.factor.numpy())
        patience = None
        if self.early_stopping:
            patience = integer(self.n_iter_no_change, "n_iter_no_change", 1)
        w = None if weight is None else (weight / weight.mean()).astype(np.float32)
        return Validation(
            rows if rows.sparse else list(rows),
            asarray(y),
            None if w is None else asarray(w),
            lambda z: self._score(z, y, w),
            patience,
        )

    def _progress(self, total: int, stack: ExitStack) -> Callable[[dict[str, float]], Any]:
        """A function to call after each epoch."""
        if not self.verbose:
            return lambda row: None
        try:
            from tqdm import tqdm
        except ImportError:
            warnings.warn("verbose=1 needs tqdm: pip install tqdm", stacklevel=4)
            return lambda row: None
        bar = stack.enter_context(tqdm(total=total, desc=type(self).__name__, unit="epoch"))

        def report(row: dict[str, float]) -> None:
            bar.set_postfix(loss=f"{row['loss']:.4f}", refresh=False)
            bar.update()

        return report

    # ------------------------------------------------------------------------------- using the nets
    @property
    def net_(self) -> nn.Sequential:
        """The net of the first member, from features to outputs, with what standardises."""
        return self.nets_[0]

    def _outputs_of(self, X: Any) -> np.ndarray:
        """The outputs of each member: (members, n, outputs), float64."""
        check_is_fitted(self, "nets_")
        X = validate_data(self, X, accept_sparse="csr", dtype=FLOATS, reset=False)
        rows = Rows(X, dtype=np.float64)
        return np.stack([evaluate(net, rows) for net in self.nets_])

    def _need_members(self, what: str) -> None:
        if len(self.nets_) == 1:
            raise ValueError(
                f"{what}: return_std=True needs several nets, whose spread it is; "
                "fit with n_members=5 or so"
            )

    def plot_history(self, ax: Any = None) -> Any:
        """Plot the losses by epoch with Matplotlib; returns the axes, new ones unless given."""
        check_is_fitted(self, "nets_")
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.figure().add_subplot()
        table = {name: np.array(column) for name, column in self.history_.items()}
        for name, style in (("loss", "-"), ("val_loss", "--")):
            for member in np.unique(table["member"]):
                rows = table["member"] == member
                if np.isfinite(table[name][rows]).any():
                    label = {"loss": "training", "val_loss": "validation"}[name]
                    ax.plot(
                        table["epoch"][rows],
                        table[name][rows],
                        style,
                        color=f"C{member % 10}",
                        label=label if member == 0 else None,
                    )
        ax.set(xlabel="epoch", ylabel="loss")
        ax.legend()
        return ax

    # ------------------------------------------------------------------------------------- saving
    _learnt: tuple[str, ...] = ("n_features_in_", "n_outputs_", "feature_names_in_")

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, for `mg.save`: no pickle, so a file that can be loaded without trust."""
        check_is_fitted(self, "nets_")
        state: dict[str, Any] = {"nets": [dict(net.state_dict()) for net in self.nets_]}
        for name in self._learnt:
            if hasattr(self, name):
                value = getattr(self, name)
                if isinstance(value, np.ndarray):
                    value = {"values": value.tolist(), "dtype": value.dtype.str}
                state[name] = value
        return state

    def load_state_dict(self, state_dict: Any) -> Any:
        """Become the estimator whose `state_dict()` this was; the parameters that determine the net
        must be the same. Returns self, fitted.

        Raises ValueError for the state of something else, RuntimeError for that of another net;
        nothing has changed then.
        """
        name = type(self).__name__
        if not isinstance(state_dict, dict) or not {"nets", "n_outputs_"} <= set(state_dict):
            raise ValueError(f"{name}.load_state_dict: expected what {name}.state_dict() returned")
        new, learnt = clone(self), {}
        for key in self._learnt:
            if key in state_dict:
                value = state_dict[key]
                if isinstance(value, dict):
                    value = np.array(value["values"], dtype=value["dtype"])
                learnt[key] = value
        vars(new).update(learnt)
        ends = []
        for end in ("inputs", "outputs"):
            size = np.shape(state_dict["nets"][0].get(f"{end}.factor", 0.0))
            ends.append(Affine(np.zeros(size), np.ones(size)) if size else nn.Identity())
        new._inputs, new._outputs = ends
        nets = []
        for saved in state_dict["nets"]:
            nets.append(new._pipeline(new._new_net()))
            nets[-1].load_state_dict(saved)
        vars(self).update(learnt, nets_=nets, _inputs=ends[0], _outputs=ends[1])
        self.__dict__.pop("_chunk_runs", None)
        return self


def _flattened(y: Any) -> Any:
    """y, where it is a column with a warning as a vector."""
    return column_or_1d(y, warn=True) if y.ndim == 2 and y.shape[1] == 1 else y


def _in_one_batch(X: Any, y: np.ndarray, weight: Any, size: int) -> Data:
    """Where all samples fit a batch: integer weights as repetitions, and the rows in an order that
    depends on their contents alone. See the Design note, 3."""
    if weight is not None and (weight % 1 == 0).all() and weight.sum() <= size:
        rows = np.repeat(np.arange(len(y)), weight.astype(int))
        X, y, weight = X[rows], y[rows], None
    if len(y) > size:
        return X, y, weight
    dense = X if isinstance(X, np.ndarray) else X.toarray()
    columns = [dense, y] if weight is None else [dense, y, weight]
    keys = [b"".join(column[k].tobytes() for column in columns) for k in range(len(y))]
    order = sorted(range(len(y)), key=keys.__getitem__)
    return X[order], y[order], None if weight is None else weight[order]


class NetClassifier(ClassifierMixin, _Net):
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

    _learnt = (*_Net._learnt, "classes_", "_multilabel")

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
            return Loss(self.loss)
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


class NetRegressor(RegressorMixin, _Net):
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
    >>> X = np.linspace(-1, 1, 40).reshape(-1, 1)
    >>> net = NetRegressor(hidden=(16,), activation="tanh", random_state=0).fit(X, X[:, 0] ** 2)
    >>> net.score(X, X[:, 0] ** 2) > 0.95
    True
    """

    _learnt = (*_Net._learnt, "_flat")

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
        y = np.asarray(y, dtype=np.float64)
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
            return Loss(self.loss)
        if self.loss == "quantile":
            return quantile_loss(checked_levels(self.quantile, "quantile"))
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
        data; predictions are the mean.
    random_state: an int makes results repeatable, bit for bit and for any number of processes.
    verbose: 1 shows a progress bar (tqdm).
"""
for _estimator in (NetClassifier, NetRegressor):
    _estimator.__doc__ = (_estimator.__doc__ or "").replace("{parameters}\n", _PARAMETERS)
