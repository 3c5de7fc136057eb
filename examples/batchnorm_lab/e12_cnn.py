"""Claim 12: BatchNorm works in convolutional nets; and what γ and β alone can do."""

from __future__ import annotations

import numpy as np

import minigrad as mg
from minigrad import nn, optim

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel, clearly_above
from .train import BATCHNORM, NONE, accuracy, fit

CLAIM = Claim(
    number=12,
    text="It works in convolutional nets",
    source="Ioffe & Szegedy (2015), section 3.2. That training only γ and β of random features "
    "gives much: Frankle, Schwab & Morcos (2021).",
    setup="CNNs of three 3×3 convolutions with ReLU, the second and third with stride 2, and a "
    "linear layer; 200 steps of SGD with momentum 0.9 at batch 32, each arm at the best of four "
    "rates on validation images. Two arms train only a part of the net with BatchNorm, everything "
    "else stays as it was drawn: γ and β; or the output layer.",
    rule="Holds if the net with BatchNorm is clearly ahead both at the middle one of the times and "
    "at the end; in part if at one of them.",
    shows="The gain from BatchNorm in a small CNN, and that scaling and shifting random features "
    "is already a way to learn.",
    limits="Images of 8×8 pixels and three layers; the published nets are far deeper and train "
    "longer. γ and β alone are best at the largest of the rates, which are the same for all arms; "
    "that rate was added to the list after a first run. `--dataset fashion-mnist` repeats this on "
    "larger images.",
)
GAMMA, OUTPUT = "γ and β only", "output layer only"


def cnn(side: int, width: int, normed: bool) -> nn.Sequential:
    """For rows of side² pixels."""
    layers: list[nn.Module] = [nn.Unflatten(1, (1, side, side))]
    channels = 1
    for n_out, stride in ((width, 1), (width, 2), (2 * width, 2)):
        layers.append(nn.Conv2d(channels, n_out, 3, stride=stride, padding=1))
        layers += [nn.BatchNorm2d(n_out), nn.ReLU()] if normed else [nn.ReLU()]
        channels, side = n_out, (side + stride - 1) // stride
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * side * side, 10))


def trained_part(net: nn.Sequential, arm: str) -> list[mg.Tensor]:
    """The parameters that this arm trains; the others stop requiring a gradient."""
    if arm in (BATCHNORM, NONE):
        return list(net.parameters())
    chosen = [m for m in net if isinstance(m, nn.BatchNorm2d)] if arm == GAMMA else [net[-1]]
    net.requires_grad_(False)
    return [p.requires_grad_() for module in chosen for p in module.parameters()]


def run(lab: Lab) -> list[Panel]:
    data, steps = lab.data, lab.pick(200, 30)
    widths, rates = lab.pick([4, 8, 16], [4]), lab.pick([0.01, 0.03, 0.1, 0.3], [0.03])
    times = sorted({round(t) for t in np.geomspace(5, steps, 7)})
    accuracies: dict[str, list[list[float]]] = {}
    curves: dict[str, list[list[float]]] = {}
    for arm in (BATCHNORM, NONE, GAMMA, OUTPUT):
        accuracies[arm] = []
        for width in widths:
            tried = []
            for rate in rates:
                validation, seen = [], []
                for seed in lab.seeds:
                    mg.manual_seed(seed)
                    net, rows = cnn(data.side, width, arm != NONE), []

                    def watch(step: int, net: nn.Module = net, rows: list[float] = rows) -> None:
                        if step in times:
                            rows.append(float(accuracy(net, data.test_x, data.test_y)))

                    optimizer = optim.SGD(trained_part(net, arm), lr=rate, momentum=0.9)
                    fit(lab, f"{arm}, width {width}", net, optimizer, steps, 32, seed, watch=watch)
                    validation.append(accuracy(net, data.validation_x, data.validation_y))
                    seen.append(rows)
                tried.append((float(np.mean(validation)), np.array(seen)))
            best = max(tried, key=lambda pair: pair[0])[1]
            accuracies[arm].append(best[:, -1].tolist())
        curves[arm] = best.T.tolist()  # of the widest
    return [
        Panel(
            f"width {widths[-1]}",
            "step",
            "test accuracy, %",
            times,
            curves,
            scales=("log", "linear"),
        ),
        Panel(
            f"after {steps} steps",
            "channels of the first layer",
            "test accuracy, %",
            widths,
            accuracies,
            scales=("log", "linear"),
        ),
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    curve, width = panels
    early = curve.at[len(curve.at) // 2]
    sooner = clearly_above(curve.values(BATCHNORM, early), curve.values(NONE, early))
    end = curve.at[-1]
    better = clearly_above(curve.values(BATCHNORM, end), curve.values(NONE, end))
    widest = width.at[-1]
    text = (
        f"After {early} steps {curve.values(BATCHNORM, early).mean():.1f} % with BatchNorm and "
        f"{curve.values(NONE, early).mean():.1f} % without; after {end}, "
        f"{curve.values(BATCHNORM, end).mean():.1f} and {curve.values(NONE, end).mean():.1f} %. "
        f"γ and β alone reach {width.values(GAMMA, widest).mean():.1f} %, the output layer alone "
        f"{width.values(OUTPUT, widest).mean():.1f} %, at width {widest}."
    )
    return (HOLDS if sooner and better else PARTLY if sooner or better else FAILS), text
