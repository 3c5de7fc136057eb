"""NetClassifier against scikit-learn's MLPClassifier, and with BatchNorm against skorch:
`python benchmarks/run.py estimators`.

For each of five seeds (fewer with --rounds) the data are split anew, 3 to 1, and each contender is
fitted once, minigrad first; the first fits are not preceded by a warm-up. A time is the median over
the seeds, of `fit` alone; an error is the mean over the seeds, on the quarter that was held back.
The same for all: layers, Adam at 0.001 without weight decay, batch size, epochs, and inputs
standardised beforehand. Not the same: the initial weights are drawn as each library does by
default. NetClassifier standardises the inputs once more and joins a last batch of one to the one
before; with BatchNorm it also recomputes the running statistics at the end. scikit-learn computes
in the precision of the data, which is float64 unless users convert it; the conversion to float32
for skorch is within its time, as NetClassifier's is.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

import contenders
import numpy as np

RATE = 1e-3


@lru_cache
def samples(data: str) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits, make_classification

    if data == "digits":
        return load_digits(return_X_y=True)
    options = {"n_informative": 20, "n_classes": 5, "class_sep": 1.5, "random_state": 0}
    return make_classification(20_000, 50, **options)


def split(data: str, seed: int) -> list[np.ndarray]:
    """Training and test inputs, standardised, and their classes: 3 to 1."""
    from sklearn.model_selection import train_test_split
    from sklearn.preprocessing import StandardScaler

    X, y = samples(data)
    X, X_test, y, y_test = train_test_split(X, y, stratify=y, random_state=seed)
    scaler = StandardScaler().fit(X)
    return [scaler.transform(X), scaler.transform(X_test), y, y_test]


def minigrad(fit: Fit, seed: int):
    from minigrad.estimators import NetClassifier

    normalisation = "batch" if fit.batchnorm else None
    options = {"batch_size": fit.batch, "max_epochs": fit.epochs, "random_state": seed}
    return NetClassifier(fit.hidden, normalisation=normalisation, lr=RATE, schedule=None, **options)


def scikit_learn(fit: Fit, seed: int):
    from sklearn.neural_network import MLPClassifier

    options = {"batch_size": fit.batch, "max_iter": fit.epochs, "random_state": seed}
    never = {"n_iter_no_change": fit.epochs + 1, "alpha": 0.0}
    return MLPClassifier(fit.hidden, learning_rate_init=RATE, **options, **never)


def skorch(fit: Fit, seed: int):
    import torch
    from skorch import NeuralNetClassifier

    class Float32(NeuralNetClassifier):
        def fit(self, X, y):
            return super().fit(X.astype(np.float32), y.astype(np.int64))

        def score(self, X, y):
            return super().score(X.astype(np.float32), y)

    torch.manual_seed(seed)
    X, y = samples(fit.data)
    sizes = (X.shape[1], *fit.hidden, y.max() + 1)
    net = torch.nn.Sequential(*contenders.mlp_layers(torch.nn, sizes))
    return Float32(
        net,
        criterion=torch.nn.CrossEntropyLoss,
        optimizer=torch.optim.Adam,
        lr=RATE,
        batch_size=fit.batch,
        max_epochs=fit.epochs,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
    )


@dataclass
class Fit:
    """One fit, and for each peer the largest acceptable share of its time."""

    data: str
    hidden: tuple[int, ...]
    batch: int
    epochs: int
    targets: dict[str, float]
    batchnorm: bool = False
    contenders: dict[str, Callable] = field(init=False)

    def __post_init__(self) -> None:
        peer = {"skorch": skorch} if self.batchnorm else {"scikit-learn": scikit_learn}
        self.contenders = {"minigrad": minigrad, **peer}

    @property
    def name(self) -> str:
        net = "-".join(map(str, self.hidden)) + ", BatchNorm" * self.batchnorm
        return f"{self.data}, {net}, batch {self.batch}"


def rows() -> Iterator[Fit]:
    for data, epochs in (("digits", 50), ("20,000x50", 10)):
        for hidden, at_most in (((16, 16), 0.25), ((64, 64), 0.25), ((100,), 0.35)):
            for batch in (32, 200):
                yield Fit(data, hidden, batch, epochs, {"scikit-learn": at_most})
    yield Fit("digits", (64, 64), 32, 10, {"skorch": 0.2}, batchnorm=True)


def measure(fit: Fit, seeds: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds of each fit, and its test error in per cent, by contender."""
    times: dict[str, list[float]] = {}
    errors: dict[str, list[float]] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that MLPClassifier has not converged
        for seed in range(seeds):
            X, X_test, y, y_test = split(fit.data, seed)
            for name, make in fit.contenders.items():
                if name == "skorch" and not contenders.available("skorch", "torch"):
                    continue
                estimator = make(fit, seed)
                start = time.perf_counter()
                estimator.fit(X, y)
                times.setdefault(name, []).append((time.perf_counter() - start) * 1e3)
                errors.setdefault(name, []).append(100 * (1 - estimator.score(X_test, y_test)))
    return times, errors


def judged(fit: Fit, seeds: int, make_row: Callable) -> tuple[dict, dict]:
    """Two rows of the JSON file: of the time, and of the error, which should not be larger. It is
    the mean, since a median of few seeds is one of a few values."""
    times, errors = measure(fit, seeds)
    work = contenders.Work(f"fit: {fit.name}", {}, fit.targets, unit="ms")
    error = contenders.Work(f"error: {fit.name}", {}, dict.fromkeys(fit.targets, 1.0), unit="%")
    means = {name: [float(np.mean(values))] for name, values in errors.items()}
    return make_row("estimators", work, times), make_row("estimators", error, means)
