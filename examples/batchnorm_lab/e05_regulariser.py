"""Claim 5: BatchNorm regularises."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn, optim

from .data import Data
from .e07_batch_size import best_of
from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel, clearly_above
from .train import BATCHNORM, NONE, accuracy, mlp, train

CLAIM = Claim(
    number=5,
    text="It acts as a regulariser",
    source="Ioffe & Szegedy (2015), section 3.4. Statistics over parts of a large batch: Hoffer "
    "et al. (2017).",
    setup="Nets with two hidden layers of 100 ReLU, 600 steps of SGD at batch 60. Each arm has "
    "the best of three rates on validation images; dropout (0.1 or 0.4) and weight decay (0.001 "
    "or 0.01) have two strengths as well, which the other arms have not. Above: a part of the "
    "training labels is replaced by random ones; then, with true labels, fewer images. Below: the "
    "standard deviation of a batch's mean, over that of the values; and batch 240, with "
    "statistics over all or over parts.",
    rule="Holds if the net with BatchNorm fits wrong labels clearly less at some share and clearly "
    "more at none, and if its test accuracy is clearly higher somewhere and clearly lower "
    "nowhere; in part if one of the two is so.",
    shows="Whether BatchNorm does what a regulariser does: to fit wrong labels less and to "
    "generalise better from the same data. The noise of the statistics falls as 1/√B.",
    limits="Faster training and regularisation are mixed: after equal steps the net with "
    "BatchNorm has fitted more. The gap between training and test says more than either alone. "
    "The search of strengths favours dropout and weight decay. By the rule of the first report, "
    "which asked only for a higher accuracy somewhere, the claim held in part.",
)
GHOST = "ghost batches of 16"


def dropout(sizes: list[int], p: float) -> nn.Sequential:
    """An mlp with dropout behind each activation."""
    layers: list[nn.Module] = []
    for layer in mlp(sizes, None):
        layers += [layer, nn.Dropout(p)] if isinstance(layer, nn.ReLU) else [layer]
    return nn.Sequential(*layers)


def with_noise(data: Data, share: float) -> Data:
    """The data with a share of the training labels drawn at random."""
    random = np.random.default_rng(0)
    labels = data.train_y.numpy(copy=True)
    wrong = random.random(len(labels)) < share
    labels[wrong] = random.integers(10, size=wrong.sum())
    return dataclasses.replace(data, train_y=mg.tensor(labels))


def run(lab: Lab) -> list[Panel]:
    sizes = [lab.data.features, 100, 100, 10]
    steps, rates = lab.pick(600, 60), lab.pick([0.03, 0.1, 0.3], [0.1])
    arms: dict[str, list[tuple[Any, float]]] = {
        BATCHNORM: [(lambda: mlp(sizes, nn.BatchNorm1d), 0.0)],
        NONE: [(lambda: mlp(sizes, None), 0.0)],
        "dropout": [(lambda p=p: dropout(sizes, p), 0.0) for p in lab.pick((0.1, 0.4), (0.2,))],
        "weight decay": [(lambda: mlp(sizes, None), d) for d in lab.pick((1e-3, 1e-2), (1e-3,))],
    }

    def measure(arm: str, data: Data, text: str) -> tuple[list[float], list[float]]:
        tried = []
        for make, decay in arms[arm]:
            found = train(lab, text, make, rates, steps, weight_decay=decay, data=data)
            on_training = accuracy(found.net, data.train_x, data.train_y).reshape(len(rates), -1)
            tried.append(
                (
                    found.validation[found.best].mean(),
                    on_training[found.best],
                    found.test[found.best],
                )
            )
        _, on_training, test = max(tried, key=lambda each: each[0])
        return on_training.tolist(), test.tolist()

    shares = lab.pick([0.0, 20.0, 40.0, 60.0], [0.0, 40.0])
    counts = lab.pick([100, 200, 400, 1000], [100])
    noisy = {
        a: [measure(a, with_noise(lab.data, s / 100), f"{a}, noise {s}") for s in shares]
        for a in arms
    }
    small = {a: [measure(a, lab.data.first(c), f"{a}, {c} images") for c in counts] for a in arms}

    batches = [4, 8, 16, 32, 64, 128]
    spread = []
    for b in batches:
        draws = [np.random.default_rng(s).normal(size=(1000, b)) for s in lab.seeds]
        spread.append([float(draw.mean(1).std()) for draw in draws])

    norms = {BATCHNORM: nn.BatchNorm1d, GHOST: lambda n: nn.GhostBatchNorm(n, 16)}
    ghosts = {
        arm: [
            best_of(lab, arm, lambda norm=norm: mlp(sizes, norm), optim.SGD, rates, steps // 3, 240)
        ]
        for arm, norm in norms.items()
    }
    return [
        Panel(
            "training images with wrong labels",
            "random labels, %",
            "accuracy on training labels, %",
            shares,
            {a: [one[0] for one in found] for a, found in noisy.items()},
        ),
        Panel(
            "test images, after wrong labels",
            "random labels, %",
            "test accuracy, %",
            shares,
            {a: [one[1] for one in found] for a, found in noisy.items()},
        ),
        Panel(
            "fewer images",
            "training images",
            "test accuracy, %",
            counts,
            {a: [one[1] for one in found] for a, found in small.items()},
            scales=("log", "linear"),
        ),
        Panel(
            "noise of the statistics",
            "batch size B",
            "sd of a batch's mean / sd of the values",
            batches,
            {BATCHNORM: spread},
            {"1/√B": [b**-0.5 for b in batches]},
            ("log", "log"),
        ),
        Panel(f"batch 240, {steps // 3} steps", "", "test accuracy, %", ["true labels"], ghosts),
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    fitted, noisy, small, _, ghosts = panels

    def compare(panel: Panel) -> tuple[int, int]:
        """At how many points BatchNorm is clearly above, and below, the net without."""
        pairs = [(panel.values(BATCHNORM, at), panel.values(NONE, at)) for at in panel.at]
        return sum(clearly_above(a, b) for a, b in pairs), sum(
            clearly_above(b, a) for a, b in pairs
        )

    better, worse = compare(noisy)
    better_small, worse_small = compare(small)
    fits_more, fits_less = compare(fitted)
    most = noisy.at[-1]
    text = (
        f"On test images BatchNorm is clearly above the net without at {better} and clearly "
        f"below at "
        f"{worse} of {len(noisy.at)} shares of random labels, above at {better_small} and below at "
        f"{worse_small} of {len(small.at)} numbers of images. It fits the training labels clearly "
        f"more at {fits_more} and less at {fits_less} shares. At {most:.0f} % random labels the "
        f"arms "
        "fit the training labels to "
        + ", ".join(f"{fitted.values(a, most).mean():.1f} % ({a})" for a in fitted.arms)
        + " and reach on test images "
        + ", ".join(f"{noisy.values(a, most).mean():.1f} % ({a})" for a in noisy.arms)
        + f". Ghost batches: {ghosts.mean(GHOST)[0]:.1f} %, whole batches: "
        f"{ghosts.mean(BATCHNORM)[0]:.1f} %."
    )
    resists = fits_less and not fits_more
    generalises = better + better_small and not worse + worse_small
    return (HOLDS if resists and generalises else PARTLY if resists or generalises else FAILS), text
