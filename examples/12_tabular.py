"""Lesson 12: nets on tables, against trees and straight lines.

Most data are tables: a row per patient, a column per measurement. This lesson takes four that
ship with scikit-learn, nothing is downloaded: diabetes (442 patients, Efron et al. 2004), wine
(178 bottles), breast cancer (569 biopsies, Street et al. 1993) and digits (1,797 scans). Who
predicts best?

`NetClassifier` and `NetRegressor` are estimators like scikit-learn's own: `fit`, `predict` and
`score`, and whatever is built on these. Inside is a net of two hidden layers with BatchNorm (lesson
5), trained by Adam with a rate that falls to zero. Features are standardised inside. The opponents
are scikit-learn's `MLPClassifier`, a similar net without BatchNorm; gradient-boosted trees
(Friedman 2001); and logistic or ridge regression. Nothing is tuned: all have their default
settings, but MLP and regression get standardised features, and the MLP standardised targets.

One split proves little: with 45 bottles to test on, one bottle is 2 %. Every method gets the same
ten splits, three quarters to train on, and the bars are two standard errors of the mean. What
they show on these small tables:

- On wine and cancer a straight line is as good as anything, within the bars. Start with it.
- Diabetes is so noisy that flexible models fit the noise. The line wins; a net comes close if it
  stops early, watching a tenth of the data.
- Digits are images, whose features act together. Nets are clearly better than a line, and a
  little better than trees.
- Five nets, whose predictions are averaged (Lakshminarayanan et al. 2017), have a lower mean error
  than one on all four tables, but by less than the bars.

Do trees never win? They do on larger tables of unlike columns (Grinsztajn et al. 2022), and one
of the reasons is easily shown: a tree ignores columns that do not help, while a line must learn
to, and a net even more so. One panel appends columns of noise to the wine data. The trees do not
care, the net suffers most. Where most columns may be useless, take trees. The last panel shows the
losses that an estimator keeps: the net goes back to the weights at the grey line.

Exercise: standardise without looking at the test. `make exercise N=12` judges your answer.
"""

from __future__ import annotations

import warnings

import numpy as np
from lesson import BLUE, GREEN, GREY, ORANGE, progress, read_options, save, say_missing
from matplotlib.figure import Figure

try:
    from sklearn.compose import TransformedTargetRegressor
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.model_selection import train_test_split
    from sklearn.neural_network import MLPClassifier, MLPRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from threadpoolctl import threadpool_limits  # which scikit-learn requires

    from minigrad.estimators import NetClassifier, NetRegressor
except ImportError as error:
    say_missing(error)

TABLES = {
    "diabetes": load_diabetes,
    "wine": load_wine,
    "breast cancer": load_breast_cancer,
    "digits": load_digits,
}
COLORS = {
    "linear": GREY,
    "boosted trees": GREEN,
    "scikit-learn's MLP": ORANGE,
    "net": BLUE,
    "net, early stop": BLUE,
    "five nets": BLUE,
}
COMPARED = ("linear", "boosted trees", "net")  # on columns of noise


def methods(regression: bool, seed: int, fast: bool) -> dict[str, object]:
    """An estimator of each kind, with its default settings."""
    epochs = {"max_epochs": 20} if fast else {}
    rounds = {"max_iter": 20} if fast else {}
    if regression:
        net, trees, line = NetRegressor, HistGradientBoostingRegressor, Ridge()
        mlp = TransformedTargetRegressor(
            MLPRegressor(random_state=seed, **rounds), transformer=StandardScaler()
        )
    else:
        net, trees, line = NetClassifier, HistGradientBoostingClassifier, LogisticRegression()
        mlp = MLPClassifier(random_state=seed, **rounds)
    return {
        "linear": make_pipeline(StandardScaler(), line),
        "boosted trees": trees(random_state=seed, **rounds),
        "scikit-learn's MLP": make_pipeline(StandardScaler(), mlp),
        "net": net(random_state=seed, **epochs),
        "net, early stop": net(early_stopping=True, random_state=seed, **epochs),
        "five nets": net(n_members=5, random_state=seed, **epochs),
    }


def errors(X: np.ndarray, y: np.ndarray, seed: int, fast: bool, names=tuple(COLORS)) -> list[float]:
    """The test error of each method in per cent: of classes, or of the variance of a number."""
    regression = len(np.unique(y)) > 20
    strata = None if regression else y
    X, X_test, y, y_test = train_test_split(X, y, stratify=strata, random_state=seed)
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that MLPClassifier has not converged
        for name in names:
            estimator = methods(regression, seed, fast)[name].fit(X, y)
            found.append(100 * (1 - estimator.score(X_test, y_test)))
    return found


def measure(data: dict, splits: int, widths: tuple[int, ...], fast: bool):
    """The errors of all methods on all tables, by name (splits, methods), and of some on wine with
    columns of noise (splits, widths, methods)."""
    found: dict[str, list] = {name: [] for name in data}
    noisy = []
    for seed in progress(splits, "splits", "split"):
        for name, (X, y) in data.items():
            found[name].append(errors(X, y, seed, fast))
        X, y = data["wine"]
        noise = np.random.default_rng(seed).normal(size=(len(X), max(widths)))
        noisy.append([errors(np.c_[X, noise[:, :n]], y, seed, fast, COMPARED) for n in widths])
    return {name: np.array(rows) for name, rows in found.items()}, np.array(noisy)


def spread(values: np.ndarray) -> np.ndarray:
    """Two standard errors of the mean over the first axis."""
    return 2 * values.std(axis=0, ddof=1) / np.sqrt(len(values))


def main(arguments: list[str] | None = None) -> dict[str, object]:
    options = read_options(__file__, __doc__, arguments)
    splits = 2 if options.fast else 10
    widths = (0, 100) if options.fast else (0, 10, 30, 100, 300)
    data = {name: load(return_X_y=True) for name, load in TABLES.items()}
    with threadpool_limits(1):  # the threads of the others spin: very slow on a busy machine
        tables, curves = measure(data, splits, widths, options.fast)
    print(f"{'error in %, mean of ' + str(splits) + ' splits':<30}", *(f"{n:>16}" for n in tables))
    for k, method in enumerate(COLORS):
        cells = (f"{t[:, k].mean():6.2f} ± {spread(t)[k]:5.2f}" for t in tables.values())
        print(f"{method:<30}", *(f"{cell:>16}" for cell in cells))
    for k, method in enumerate(COMPARED):
        ends = (curves[:, end, k].mean() for end in (0, -1))
        print("{}: {:.1f} % on wine, {:.1f} % with {} columns of noise".format(
            method, *ends, widths[-1]))  # fmt: skip

    figure = Figure(figsize=(14, 6.4), layout="constrained")
    axes = figure.subplots(2, 3).flat
    for axis, (name, table) in zip(axes, tables.items(), strict=False):
        for k, color in enumerate(COLORS.values()):
            axis.plot(table[:, k], np.full(splits, k), ".", color=color, alpha=0.25, ms=5)
            axis.errorbar(table[:, k].mean(), k, xerr=spread(table)[k], fmt="o", color=color,
                          capsize=3)  # fmt: skip
        rows, columns = data[name][0].shape
        kind = "1 − R², %" if name == "diabetes" else "wrong classes, %"
        axis.set(title=f"{name}: {rows:,} × {columns}", xlabel=kind, ylim=(5.5, -0.5))
        axis.set_yticks(range(len(COLORS)), list(COLORS))
        axis.set_xlim(left=-0.15 if name != "diabetes" else None)
        axis.grid(axis="x", alpha=0.3)
    axis = axes[4]
    for k, method in enumerate(COMPARED):
        axis.errorbar(range(len(widths)), curves[:, :, k].mean(0), spread(curves)[:, k],
                      fmt="o-", color=COLORS[method], capsize=3, label=method)  # fmt: skip
    axis.set_xticks(range(len(widths)), [str(n) for n in widths])
    axis.set(
        title="wine, and columns of noise", xlabel="columns of noise", ylabel="wrong classes, %"
    )
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    axis = axes[5]
    net = NetClassifier(early_stopping=True, random_state=0).fit(*data["digits"])
    net.plot_history(axis)
    axis.axvline(net.n_iter_ - net.n_iter_no_change, color=GREY, lw=1, label="kept")
    axis.set(title="plot_history() on digits", yscale="log")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    save(figure, __file__)
    return {"errors": tables, "noise": curves}


if __name__ == "__main__":
    main()
