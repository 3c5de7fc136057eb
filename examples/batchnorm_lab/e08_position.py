"""Claim 8: BatchNorm belongs before the activation."""

from __future__ import annotations

from typing import Any

from minigrad import nn

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel, clearly_above
from .train import BATCHNORM, mlp, train

CLAIM = Claim(
    number=8,
    text="It belongs before the activation",
    source="Ioffe & Szegedy (2015), section 3.2. Others put it after the activation; sources "
    "disagree.",
    setup="Nets with 2, 5 and 10 hidden layers of 64 units, with sigmoid, tanh and ReLU; 300 "
    "steps of plain SGD at batch 60, each at the best of four rates on validation images.",
    rule="Holds if before the activation is clearly better in more than half of the cases, and "
    "after it in none; in part if before is clearly better in some.",
    shows="Which place gives the higher test accuracy after equal steps, for each activation and "
    "depth.",
    limits="A rule. Where the two differ, depth and activation decide; convolutions and residual "
    "connections are not tested.",
)
AFTER = "BatchNorm after the activation"
ACTIVATIONS: dict[str, Any] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "ReLU": nn.ReLU}


def behind(sizes: list[int], activation: Any) -> nn.Sequential:
    """An mlp with BatchNorm behind each activation."""
    layers: list[nn.Module] = []
    for layer in mlp(sizes, nn.BatchNorm1d, activation):
        if isinstance(layer, nn.BatchNorm1d):
            norm = layer
        else:
            layers += [layer, norm] if isinstance(layer, activation) else [layer]
    return nn.Sequential(*layers)


def run(lab: Lab) -> list[Panel]:
    depths, steps = lab.pick([2, 5, 10], [2, 4]), lab.pick(300, 40)
    rates, panels = lab.pick([0.03, 0.1, 0.3, 1.0], [0.1]), []
    for name, activation in ACTIVATIONS.items():
        arms: dict[str, list[list[float]]] = {BATCHNORM: [], AFTER: []}
        for depth in depths:
            sizes = [lab.data.features, *[64] * depth, 10]
            makes = {
                BATCHNORM: lambda s=sizes, a=activation: mlp(s, nn.BatchNorm1d, a),
                AFTER: lambda s=sizes, a=activation: behind(s, a),
            }
            for arm, make in makes.items():
                found = train(lab, f"{name}, {depth} layers", make, rates, steps)
                arms[arm].append(found.test[found.best].tolist())
        panels.append(Panel(name, "hidden layers", "test accuracy, %", depths, arms))
    return panels


def judge(panels: list[Panel]) -> tuple[str, str]:
    before, after = [], []
    for panel in panels:
        for depth in panel.at:
            cell = f"{panel.title} with {depth} layers"
            pair = panel.values(BATCHNORM, depth), panel.values(AFTER, depth)
            said = f"{cell} ({pair[0].mean():.1f} against {pair[1].mean():.1f} %)"
            if clearly_above(*pair):
                before.append(said)
            elif clearly_above(*pair[::-1]):
                after.append(said)
    cells = sum(len(panel.at) for panel in panels)
    text = (
        f"Of {cells} cases, before the activation is clearly better in {len(before)}: "
        f"{'; '.join(before) or '-'}. After it is clearly better in {len(after)}: "
        f"{'; '.join(after) or '-'}."
    )
    if len(before) > cells / 2 and not after:
        return HOLDS, text
    return (PARTLY if before else FAILS), text
