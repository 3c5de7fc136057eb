"""Claim 9: evaluation needs statistics of the population, and which are good."""

from __future__ import annotations

import copy

import numpy as np

import minigrad as mg
from minigrad import nn, optim

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel, clearly_above
from .train import accuracy, fit, mlp

CLAIM = Claim(
    number=9,
    text="Evaluation needs population statistics",
    source="Ioffe & Szegedy (2015), section 3.1 and algorithm 2; exact recalibration: Wu & "
    "Johnson (2021); recalibration on unlabelled images of another domain: Li et al. (2016), "
    "adaptive BatchNorm.",
    setup="Nets with two hidden layers of 64 ReLU, 100 steps of SGD at batch 16 and a rate of "
    "0.3. Then the same weights are evaluated on the test images in three ways: with running "
    "averages of the given momentum, with `nn.recalibrate` on the training images, and with the "
    "statistics of each test batch of 16. Right: test images that are changed, with the "
    "statistics of the training images, or recalibrated on the changed images without labels "
    "(momentum 0.1).",
    rule="Holds if recalibrated statistics are at most one point below the best running averages, "
    "and clearly above the batch's own; in part if only the former.",
    shows="How much accuracy is lost by averages that lag (small momentum) or are noisy (momentum "
    "1), and that recalibration needs no choice of a momentum. A shift of brightness and contrast "
    "is undone.",
    limits="Not every shift is one of statistics: images moved by a pixel are repaired in part at "
    "most, and a negative turns each normalised value into its opposite, which no statistics "
    "repair. After long training at a falling rate running averages are good too. With the "
    "batch's own statistics the answer for one image depends on the others.",
)
RUNNING, RECALIBRATED, OWN = "running averages", "recalibrated", "the batch's own"


def changed(x: np.ndarray, side: int, how: str) -> np.ndarray:
    """Images in rows, changed."""
    images = x.reshape(-1, side, side)
    if how == "half the\ncontrast":
        return x * 0.5 + 0.4
    if how == "negative":
        return 1 - x
    if how == "noise":
        return x + np.random.default_rng(0).normal(0, 0.4, x.shape).astype(x.dtype)
    if how == "moved by\na pixel":
        return np.roll(images, 1, axis=2).reshape(x.shape)
    return x


CHANGES = ["none", "half the\ncontrast", "negative", "noise", "moved by\na pixel"]


def own_statistics(net: nn.Module, x: mg.Tensor, y: mg.Tensor, batch: int) -> float:
    """The accuracy in training mode, batch by batch, in percent."""
    net = copy.deepcopy(net).train()
    with mg.no_grad():
        right = [
            net(x[i : i + batch]).numpy().argmax(1) == y.numpy()[i : i + batch]
            for i in range(0, len(x) - batch + 1, batch)
        ]
    return 100 * float(np.mean(right))


def run(lab: Lab) -> list[Panel]:
    data, batch, steps = lab.data, 16, lab.pick(100, 50)
    momenta = lab.pick([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0], [0.001, 0.1, 1.0])
    found: dict[str, list[list[float]]] = {arm: [] for arm in (RUNNING, RECALIBRATED, OWN)}
    shifted: dict[str, list[list[float]]] = {RUNNING: [], RECALIBRATED: []}
    test = data.test_x.numpy()
    for momentum in momenta:
        rows = []
        for seed in lab.seeds:
            mg.manual_seed(seed)
            net = mlp(
                [data.features, 64, 64, 10], lambda n, m=momentum: nn.BatchNorm1d(n, momentum=m)
            )
            fit(lab, f"{momentum}", net, optim.SGD(net.parameters(), lr=0.3), steps, batch, seed)
            exact = copy.deepcopy(net)
            nn.recalibrate(exact, data.train_x.numpy().reshape(10, -1, data.features))
            rows.append(
                [
                    float(accuracy(net, data.test_x, data.test_y)),
                    float(accuracy(exact, data.test_x, data.test_y)),
                    own_statistics(net, data.test_x, data.test_y, batch),
                ]
            )
            if momentum == 0.1:
                for arm in shifted:
                    row = []
                    for how in CHANGES:
                        x = mg.tensor(changed(test, data.side, how))
                        adapted = copy.deepcopy(net)
                        if arm == RECALIBRATED:
                            nn.recalibrate(adapted, [x])
                        row.append(float(accuracy(adapted, x, data.test_y)))
                    shifted[arm].append(row)
        for arm, values in zip(found, np.array(rows).T, strict=True):
            found[arm].append(values.tolist())
    return [
        Panel(
            f"after {steps} steps at batch {batch}",
            "momentum of the running averages",
            "test accuracy, %",
            momenta,
            found,
            scales=("log", "linear"),
        ),
        Panel(
            "changed test images",
            "change",
            "test accuracy, %",
            CHANGES,
            {arm: np.array(rows).T.tolist() for arm, rows in shifted.items()},
        ),
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    momentum, shift = panels
    running, exact, own = (momentum.mean(arm) for arm in (RUNNING, RECALIBRATED, OWN))
    helped = [
        c
        for c in shift.at
        if clearly_above(shift.values(RECALIBRATED, c), shift.values(RUNNING, c))
    ]
    harmed = [
        c
        for c in shift.at
        if clearly_above(shift.values(RUNNING, c), shift.values(RECALIBRATED, c))
    ]
    best = momentum.at[int(running.argmax())]
    text = (
        f"Running averages reach {running.max():.1f} % at a momentum of {best:g} and "
        f"{running.min():.1f} % at the worst; recalibrated {exact.mean():.1f} %, the batch's own "
        f"statistics {own.mean():.1f} %. On changed images recalibration clearly helps for: "
        f"{', '.join(helped) or 'none'}; it harms for: {', '.join(harmed) or 'none'}."
    ).replace("\n", " ")
    better = clearly_above(momentum.arms[RECALIBRATED][0], momentum.arms[OWN][0])
    good = exact.mean() > running.max() - 1
    return (HOLDS if good and better else PARTLY if good else FAILS), text
