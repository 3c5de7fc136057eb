"""Claim 11: BatchNorm costs extra computation."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

import minigrad as mg
from minigrad import nn, optim

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel, clearly_above
from .train import BATCHNORM, MEASURE, NONE, mlp

CLAIM = Claim(
    number=11,
    text="It costs extra computation",
    source="Common in articles; Ioffe & Szegedy (2015), section 3.1, note that at inference it is "
    "a linear transform, which can be folded into the layer before it (Jacob et al. 2018).",
    setup="Nets with two hidden layers of ReLU. A training step (forward, backward, SGD) and an "
    "evaluation of 100 images; the arms take turns, and each time is the smallest of several "
    "tries, in each of 5 rounds. Memory: the bytes of all results of a forward pass, which "
    "`mg.profile` counts.",
    rule="Holds if a training step is clearly slower with BatchNorm at every width and batch size; "
    "in part if at some.",
    shows="What BatchNorm adds to a step with minigrad on this machine, by width and by batch "
    "size, and that after `fuse_batchnorm` evaluation costs what it costs without.",
    limits="Other machines and libraries. Times vary with the load of the machine; the spread is "
    "over rounds, not over seeds. Steps are not the measure of training: see claim 1.",
)
FOLDED = "folded BatchNorm"


def step_of(
    width: int, batch: int, features: int, norm: type[nn.Module] | None
) -> Callable[[], None]:
    """A training step on random data."""
    net = mlp([features, width, width, 10], norm)
    optimizer = optim.SGD(net.parameters(), lr=0.01)
    x, y = mg.randn(batch, features), mg.randint(0, 10, (batch,))

    def step() -> None:
        loss = MEASURE(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def rounds(
    lab: Lab, text: str, calls: dict[str, Callable[[], object]], tries: int
) -> dict[str, list[float]]:
    """Microseconds of each call: the smallest of some tries, in each round, the calls in turn."""
    found: dict[str, list[float]] = {arm: [] for arm in calls}
    for call in calls.values():
        call()
    for _ in lab.steps(len(lab.seeds), text):
        best = dict.fromkeys(calls, np.inf)
        for _ in range(tries):
            for arm, call in calls.items():
                start = time.perf_counter()
                call()
                best[arm] = min(best[arm], time.perf_counter() - start)
        for arm, seconds in best.items():
            found[arm].append(1e6 * seconds)
    return found


def run(lab: Lab) -> list[Panel]:
    arms = {BATCHNORM: nn.BatchNorm1d, NONE: None}
    features, tries = lab.data.features, lab.pick(60, 5)
    widths, batches = lab.pick([16, 64, 256, 1024], [16, 64]), lab.pick([8, 32, 128, 512], [8, 32])

    def times(cells: list[tuple[int, int]]) -> dict[str, list[list[float]]]:
        rows = []
        for width, batch in cells:
            calls = {a: step_of(width, batch, features, norm) for a, norm in arms.items()}
            rows.append(
                rounds(
                    lab,
                    f"width {width}, batch {batch}",
                    calls,
                    max(tries * 64 // width, lab.pick(20, 3)),
                )
            )
        return {arm: [row[arm] for row in rows] for arm in arms}

    def kilobytes(width: int, norm: type[nn.Module] | None) -> float:
        net = mlp([features, width, width, 10], norm)
        with mg.profile() as seen:
            net(mg.randn(64, features))
        return sum(row[3] for row in seen.rows.values()) / 1e3

    evaluated = []
    for width in widths:
        nets = {arm: mlp([features, width, width, 10], norm).eval() for arm, norm in arms.items()}
        nets[FOLDED] = nn.utils.fuse_batchnorm(nets[BATCHNORM]).eval()
        x = mg.randn(100, features)

        def evaluate(net: nn.Module, x: mg.Tensor = x) -> mg.Tensor:
            with mg.no_grad():
                return net(x)

        calls = {arm: lambda net=net, evaluate=evaluate: evaluate(net) for arm, net in nets.items()}
        evaluated.append(rounds(lab, f"evaluation, width {width}", calls, 2 * tries))
    return [
        Panel(
            "training, batch 64",
            "width of the hidden layers",
            "microseconds per step",
            widths,
            times([(w, 64) for w in widths]),
            scales=("log", "log"),
        ),
        Panel(
            "training, width 64",
            "batch size",
            "microseconds per step",
            batches,
            times([(64, b) for b in batches]),
            scales=("log", "log"),
        ),
        Panel(
            "memory, batch 64",
            "width of the hidden layers",
            "results of a forward pass, kB",
            widths,
            {
                a: [[kilobytes(w, norm)] * len(lab.seeds) for w in widths]
                for a, norm in arms.items()
            },
            scales=("log", "log"),
        ),
        Panel(
            "evaluation of 100 images",
            "width of the hidden layers",
            "microseconds",
            widths,
            {arm: [row[arm] for row in evaluated] for arm in evaluated[0]},
            scales=("log", "log"),
        ),
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    ratio = [panel.mean(BATCHNORM) / panel.mean(NONE) for panel in panels]
    folded = panels[3].mean(FOLDED) / panels[3].mean(NONE)
    text = (
        f"A step with BatchNorm takes {ratio[0].min():.2f} to {ratio[0].max():.2f} times as long "
        f"by width and {ratio[1].min():.2f} to {ratio[1].max():.2f} by batch size; results take "
        f"{ratio[2].max():.2f} times the memory at most. In evaluation it takes "
        f"{ratio[3].min():.2f} to {ratio[3].max():.2f} times as long, folded "
        f"{folded.min():.2f} to {folded.max():.2f}."
    )
    dearer = [
        clearly_above(panel.values(BATCHNORM, at), panel.values(NONE, at))
        for panel in panels[:2]
        for at in panel.at
    ]
    return (HOLDS if all(dearer) else PARTLY if any(dearer) else FAILS), text
