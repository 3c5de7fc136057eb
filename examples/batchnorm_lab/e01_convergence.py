"""Claim 1: networks with BatchNorm need fewer steps."""

from __future__ import annotations

from minigrad import nn

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel, clearly_above
from .train import BATCHNORM, NONE, mlp, train

CLAIM = Claim(
    number=1,
    text="Training converges faster",
    source="Ioffe & Szegedy (2015), section 4.1 and figure 1a: three hidden layers of 100 sigmoid "
    "units, small Gaussian weights, batch 60, 50,000 steps on MNIST.",
    setup="The same net and batch; Gaussian weights with a standard deviation of 0.1, zero "
    "biases. 3,000 steps of plain SGD instead of 50,000, because the data set is smaller. Each "
    "arm at the best of four rates by validation accuracy at the end, and each also at every "
    "rate.",
    rule="Holds if the net with BatchNorm reaches 85 % after fewer steps and is clearly ahead at "
    "more than half of the times; in part if it is clearly ahead at any.",
    shows="Steps needed at each arm's own best rate, on a net of sigmoid units, which is hard to "
    "train without help.",
    limits="Time: a step with BatchNorm costs more (claim 11). Other activations: see claims 3 "
    "and 8. Better weights at the start help the net without BatchNorm: that is claim 3.",
)
TARGET = 85.0  # percent


def gaussian(features: int, norm: type[nn.Module] | None) -> nn.Sequential:
    """The net of the paper's section 4.1."""
    net = mlp([features, 100, 100, 100, 10], norm, nn.Sigmoid)
    for layer in net:
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, 0.0, 0.1)
            nn.init.zeros_(layer.bias)
    return net


def run(lab: Lab) -> list[Panel]:
    steps = lab.pick(3000, 300)
    times = [t for t in (10, 20, 50, 100, 200, 300, 500, 700, 1000, 1500, 2000, 3000) if t <= steps]
    rates = lab.pick([0.1, 0.3, 1.0, 3.0], [0.3, 1.0])
    best, final = {}, {}
    for arm, norm in ((BATCHNORM, nn.BatchNorm1d), (NONE, None)):
        make = lambda norm=norm: gaussian(lab.data.features, norm)  # noqa: E731
        found = train(lab, arm, make, rates, steps, times=times)
        best[arm] = found.curve[:, found.best].tolist()
        final[arm] = found.test.tolist()
    return [
        Panel(
            "each arm at its best rate",
            "step",
            "test accuracy, %",
            times,
            best,
            scales=("log", "linear"),
        ),
        Panel(
            f"after {steps} steps",
            "learning rate",
            "test accuracy, %",
            rates,
            final,
            scales=("log", "linear"),
        ),
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    curve, _ = panels
    needed, text = {}, []
    for arm in curve.arms:
        reached = curve.mean(arm) >= TARGET
        needed[arm] = curve.at[int(reached.argmax())] if reached.any() else float("inf")
        said = f"after {needed[arm]} steps" if reached.any() else f"not in {curve.at[-1]} steps"
        text.append(f"{arm}: {TARGET:.0f} % {said}, {curve.mean(arm)[-1]:.1f} % at the end")
    ahead = [
        at for at in curve.at if clearly_above(curve.values(BATCHNORM, at), curve.values(NONE, at))
    ]
    text.append(f"BatchNorm is clearly ahead at {len(ahead)} of {len(curve.at)} times")
    sooner = needed[BATCHNORM] < needed[NONE]
    verdict = HOLDS if sooner and len(ahead) > len(curve.at) / 2 else PARTLY if ahead else FAILS
    return verdict, "; ".join(text) + "."
