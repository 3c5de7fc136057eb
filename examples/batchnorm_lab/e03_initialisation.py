"""Claim 3: with BatchNorm the scale of the weights at the start matters less."""

from __future__ import annotations

import numpy as np

import minigrad as mg
from minigrad import nn

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel
from .train import BATCHNORM, NONE, mlp, train

CLAIM = Claim(
    number=3,
    text="Training depends less on the initial weights",
    source="Ioffe & Szegedy (2015), abstract: one can be “less careful about initialization”.",
    setup="Nets with three hidden layers of 64 ReLU. The weights of the hidden layers are "
    "PyTorch's times a factor from 0.001 to 1,000. 300 steps of plain SGD at batch 60; for each "
    "factor and arm the best of four rates on validation images.",
    rule="Holds if BatchNorm is within 5 points of its best accuracy at every factor, and over "
    "more decades than the net without; in part if only over more decades.",
    shows="Over which range of initial scales a net trains at all in the given number of steps.",
    limits="The direction of the weights, and zero weights, which BatchNorm does not mend. Large "
    "weights with BatchNorm also mean a small effective rate (claim 14); more steps would widen "
    "its range.",
)


def rescale(net: nn.Ensemble, factor: float) -> None:
    """Multiply the weights of all layers but the last by the factor."""
    linear = [p for name, p in net.named_parameters() if name.endswith("weight") and p.ndim == 3]
    with mg.no_grad():
        for weight in linear[:-1]:
            weight.copy_(weight * factor)


def run(lab: Lab) -> list[Panel]:
    factors = lab.pick([1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0, 10.0, 1e2, 1e3], [1e-2, 1.0, 10.0])
    rates, steps = lab.pick([0.01, 0.03, 0.1, 0.3], [0.03, 0.3]), lab.pick(300, 100)
    arms: dict[str, list[list[float]]] = {BATCHNORM: [], NONE: []}
    for arm, norm in ((BATCHNORM, nn.BatchNorm1d), (NONE, None)):
        for factor in factors:
            found = train(
                lab,
                f"{arm}, {factor:g}",
                lambda norm=norm: mlp([lab.data.features, 64, 64, 64, 10], norm),
                rates,
                steps,
                prepare=lambda net, factor=factor: rescale(net, factor),
            )
            arms[arm].append(found.test[found.best].tolist())
    return [
        Panel(
            f"{steps} steps, each at its best rate",
            "factor of the initial weights",
            "test accuracy, %",
            factors,
            arms,
            scales=("log", "linear"),
        )
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    (panel,) = panels
    text, decades = [], {}
    for arm in panel.arms:
        mean = panel.mean(arm)
        near = np.array(panel.at)[mean > mean.max() - 5]
        decades[arm] = float(np.log10(near.max() / near.min()))
        text.append(
            f"{arm} is within 5 points of its best, {mean.max():.1f} %, for factors from "
            f"{near.min():g} to {near.max():g}, and has {mean.min():.1f} % at worst"
        )
    wider = decades[BATCHNORM] > decades[NONE]
    steady = panel.mean(BATCHNORM).min() > panel.mean(BATCHNORM).max() - 5
    return (HOLDS if wider and steady else PARTLY if wider else FAILS), "; ".join(text) + "."
