"""What NetClassifier and NetRegressor share: what scikit-learn asks of an estimator, around
`training.py`.

Design note
-----------
1. `nets_` holds pipelines of three Modules, `inputs`, `net` and `outputs`, which map features to
   outputs in the user's own units. `inputs` and `outputs` only shift and scale; `net` is trained on
   data standardised beforehand. So a state dict or an ONNX file of `net_` is complete.
2. Nets are trained in float32, as their weights are, and predict in float64.
3. Weights are scaled to a mean of 1 over all samples. Over a batch, a batch of unimportant samples
   would make a full step. Where all data fit one batch, the fit does not depend on the order of the
   rows, and a sample of weight 2 stands in the batch twice, so that it counts twice for BatchNorm
   too: bit for bit, the fit is that on repeated rows. With several batches that holds on average.
4. The members of an ensemble are separate nets here; `training.trainers_of` stacks them to train.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone, is_regressor
from sklearn.model_selection import train_test_split
from sklearn.utils import check_array, check_consistent_length, check_random_state, column_or_1d
from sklearn.utils.validation import check_is_fitted, validate_data

from .. import nn
from ..checks import flag, integer
from ..creation import asarray
from ..namespace import Constructed
from ..nn.norm import _BatchNorm
from ..rng import Generator, drawing_from
from .build import Affine, check_outputs, made, mean_and_std, mlp, optimizer_for, scheduler_for
from .losses import Loss
from .training import COLUMNS, Batches, Member, Rows, Trainer, Validation, evaluate, trainers_of

FLOATS: tuple[Any, ...] = (np.float64, np.float32)
Data = tuple[Any, np.ndarray, "np.ndarray | None"]  # X, targets, weights


class NetEstimator(Constructed, BaseEstimator):
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

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
        return tags

    # ------------------------------------------------------------------------------------- fitting
    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, *, X_val: Any = None, y_val: Any = None
    ) -> Any:
        """Train on X (n, features), an array, a data frame or a sparse matrix, and y. Returns self.

        sample_weight: (n,), not negative; only ratios matter.
        X_val, y_val: data whose loss and score are recorded; early_stopping=True stops by them.

        Raises what scikit-learn's estimators raise for bad data, which changes nothing, and
        ValueError in the first epoch whose loss is not finite. When training ends early, by Ctrl-C
        or any other exception, the estimator keeps the best weights so far, and warns that it does;
        the exception goes on.
        """
        with _unchanged_by_errors(self):
            first = not (flag(self.warm_start, "warm_start") and hasattr(self, "nets_"))
            flag(self.recalibrate, "recalibrate")
            epochs = integer(self.max_epochs, "max_epochs", 1)
            X, y, weight = self._checked(X, y, sample_weight, first, least=2)
            random = check_random_state(self.random_state)
            X, y, weight = _in_one_batch(X, y, weight, integer(self.batch_size, "batch_size", 1))
            held: Data | None = None
            if (X_val is None) != (y_val is None):
                raise ValueError("fit: X_val and y_val go together; one of them is missing")
            if X_val is not None:
                X_val = validate_data(self, X_val, accept_sparse="csr", dtype=FLOATS, reset=False)
                y_val = check_array(
                    y_val, accept_sparse="csr", ensure_2d=False, dtype=None, input_name="y_val"
                )
                check_consistent_length(X_val, y_val)
                held = X_val, self._targets(_flattened(y_val), False, None), None
            elif flag(self.early_stopping, "early_stopping"):
                (X, y, weight), held = self._split(X, y, weight, random)
            if weight is not None:
                weight = None if (weight == weight[0]).all() else weight / weight.mean()
            trainers = self._new_trainers((X, y, weight), first, random, epochs)
            batches = self._batches((X, y, weight))
            validation = None if held is None else self._validation(held)
        self._train(trainers, batches, validation, epochs, first)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any, classes: Any = None) -> Any:
        with _unchanged_by_errors(self):
            if flag(self.early_stopping, "early_stopping"):
                raise ValueError("partial_fit does not support early_stopping=True")
            first = not hasattr(self, "nets_")
            data = self._checked(X, y, sample_weight, first, classes, chunk=True)
            trainers = vars(self).get("_chunk_trainers")
            if trainers is not None and isinstance(self.optimizer, str):
                self._set_options(trainers)
            if trainers is None:
                random = check_random_state(self.random_state)
                trainers = self._new_trainers(data, first, random, None)
            batches = self._batches(data)
        self._train(trainers, batches, None, None, first)
        self._chunk_trainers = trainers
        return self

    def _set_options(self, trainers: list[Trainer]) -> None:
        """Let optimisers take the present lr and weight_decay, which `set_params` may change from
        chunk to chunk."""
        for optimizer in [member.optimizer for t in trainers for member in t.members]:
            for group in optimizer.param_groups:
                options = {**group, "lr": self.lr, "weight_decay": self.weight_decay}
                optimizer.check_options(options)
                group.update(options)

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
            if not (factors >= 0).all():
                raise ValueError("class_weight must not be negative or NaN")
            kept = weight > 0
            if not kept.any():
                raise ValueError("class_weight and sample_weight give all samples the weight zero")
            X, targets, weight = X[kept], targets[kept], weight[kept]
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
    def _new_trainers(
        self, data: Data, first: bool, random: Any, epochs: int | None
    ) -> list[Trainer]:
        """The training of the members, with new nets at the first fit and their own later. epochs:
        of the schedule, None for a constant rate."""
        X, y, weight = data
        n_members = integer(self.n_members, "n_members", 1)
        # What must stay while training continues, and is not seen from the nets: as given, and as
        # compared.
        settings = {"n_members": (n_members, n_members), "loss": (self.loss, self._loss().scaling)}
        if first:
            self.__dict__.pop("nets_", None)
            self._inputs, self._outputs = self._ends(X, y, weight)
            self._settings = settings
        for name, (former, kind) in vars(self).get("_settings", {}).items():
            if settings[name][1] != kind:
                raise ValueError(
                    f"{name}={settings[name][0]!r} cannot continue a fit with {name}={former!r}; "
                    "set it as it was, or warm_start=False"
                )
        count = n_members if first else len(self.nets_)
        self.__dict__.pop("_chunk_trainers", None)
        members = []
        for k, seed in enumerate(random.randint(np.iinfo(np.int32).max, size=count)):
            generator = np.random.default_rng(seed)
            with drawing_from(Generator(generator)):
                net = self._new_net() if first else self.nets_[k].net
                width = self.n_outputs_ * self._loss().outputs
                free = is_regressor(self) and callable(self.loss)
                check_outputs(net, self.n_features_in_, None if free else width)
                optimizer = optimizer_for(
                    self.optimizer, net.parameters(), self.lr, self.weight_decay
                )
            members.append(Member(net, optimizer, generator))
        trainers = trainers_of(members)
        if epochs is not None:
            for member in members:
                member.scheduler = scheduler_for(self.schedule, member.optimizer, self.lr, epochs)
        return trainers

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
        mean, std = mean_and_std(X, weight)
        inputs = Affine(mean, 1 / std)
        if loss.scaling is None:
            return inputs, nn.Identity()
        mean, std = (np.repeat(values, k) for values in mean_and_std(y, weight))
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
    def _batches(self, data: Data) -> Batches:
        X, y, weight = data
        rows = Rows(X, self._inputs.centre.numpy(), self._inputs.factor.numpy())
        weights = None if weight is None else weight.astype(np.float32)
        size = integer(self.batch_size, "batch_size", 1)
        return Batches(rows, self._standardised(y), weights, size)

    def _train(
        self,
        trainers: list[Trainer],
        batches: Batches,
        validation: Validation | None,
        epochs: int | None,
        first: bool,
    ) -> None:
        """Train all members. epochs: None for one epoch at a constant rate."""
        loss, rows = self._loss(), batches.rows if epochs else None
        members = [member for trainer in trainers for member in trainer.members]
        started: list[Member] = []
        with ExitStack() as stack:
            report = self._progress(len(members) * (epochs or 1), stack)
            try:
                for trainer in trainers:
                    started += trainer.members
                    trainer.train(loss, batches, epochs or 1, validation, report)
            except BaseException as error:
                started = [member for member in started if member.history]
                if started:
                    self._finish(started, rows, first)
                if started or not first:
                    self._say_kept(error, started)
                raise
        self._finish(members, rows, first)

    def _finish(self, members: list[Member], rows: Rows | None, first: bool) -> None:
        """Set what `fit` leaves behind; with rows, also recalibrate."""
        if first:
            self.nets_ = [self._pipeline(member.net) for member in members]
        table = [(k, row) for k, member in enumerate(members) for row in member.history]
        self.history_ = {"member": [k for k, _ in table]}
        for name in COLUMNS:
            self.history_[name] = [row[name] for _, row in table]
        self.n_iter_ = max((len(member.history) for member in members), default=0)
        if rows is None or not flag(self.recalibrate, "recalibrate"):
            return
        for member in members:
            norms = [m for m in member.net.modules() if isinstance(m, _BatchNorm)]
            if norms and all(norm.running_mean is not None for norm in norms):
                nn.recalibrate(member.net, rows)

    def _say_kept(self, error: BaseException, members: list[Member]) -> None:
        best = ", ".join(str(member.best.epoch) for member in members)
        kept = f"the best weights so far, of epoch {best}" if members else "its former weights"
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
        return np.stack([evaluate(net, rows) for net in self.nets_], dtype=np.float64)

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
                state[name] = _encoded(getattr(self, name))
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
                learnt[key] = _decoded(state_dict[key])
        new.__dict__.update(learnt)
        ends = []
        for end in ("inputs", "outputs"):
            size = np.shape(state_dict["nets"][0].get(f"{end}.factor", 0.0))
            ends.append(Affine(np.zeros(size), np.ones(size)) if size else nn.Identity())
        new._inputs, new._outputs = ends
        nets = []
        for saved in state_dict["nets"]:
            nets.append(new._pipeline(new._new_net()))
            nets[-1].load_state_dict(saved)
        self.__dict__.update(learnt, nets_=nets, _inputs=ends[0], _outputs=ends[1])
        for name in ("_chunk_trainers", "_settings"):
            self.__dict__.pop(name, None)
        return self


def _encoded(value: Any) -> Any:
    """What `mg.save` stores: an array, or each in a list, as a dict of its values and its dtype."""
    if isinstance(value, list):
        return list(map(_encoded, value))
    if isinstance(value, np.ndarray):
        return {"values": value.tolist(), "dtype": value.dtype.str}
    return value


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return list(map(_decoded, value))
    return np.array(value["values"], dtype=value["dtype"]) if isinstance(value, dict) else value


@contextmanager
def _unchanged_by_errors(estimator: Any) -> Iterator[None]:
    """A context in which an error leaves the estimator as it was: fitted to the former data."""
    before = vars(estimator).copy()
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise


def _flattened(y: Any) -> Any:
    """y, made a vector, with a warning, if it is a column."""
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
