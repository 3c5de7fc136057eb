"""Claim 7: BatchNorm needs large batches; norms of one sample do not."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

import minigrad as mg
from minigrad import nn, optim

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel, clearly_above
from .train import BATCHNORM, NONE, accuracy, fit, mlp

CLAIM = Claim(
    number=7,
    text="It needs large batches, unlike norms of single samples",
    source="Wu & He (2018), who propose GroupNorm for small batches; RMSNorm: Zhang & Sennrich "
    "(2019); a tanh instead of a norm in transformers: Zhu et al. (2025).",
    setup="Left: nets with two hidden layers of 64 ReLU. Middle: a CNN with convolutions of 8 and "
    "16 channels, each with the norm and ReLU. Both: three passes over 1,000 images at each batch "
    "size, SGD with momentum 0.9 at a rate proportional to the batch size (as Wu & He), the "
    "better of two constants on validation images. LayerNorm and RMSNorm are over all values of a "
    "sample, GroupNorm in four groups. Right: a transformer encoder of one layer that reads an "
    "image row by row, 300 steps of Adam at batch 60, with different norms in its two places, "
    "each at the best of three rates.",
    rule="Holds if, in both kinds of net, the error of BatchNorm at the smallest batch is clearly "
    "above that at its best size, and clearly above that of every other norm; in part if in "
    "one of them.",
    shows="How the error depends on the batch size at equal numbers of images seen. In a fully "
    "connected layer at batch 2 BatchNorm turns every value into ±1; in a convolution each of the "
    "two images brings many values to the statistics. And whether a transformer of this size "
    "needs a norm.",
    limits="At batch 128 there are few steps, and all arms suffer. Distributed training, for "
    "which small batches matter, and large nets are not tested. The linear layers were added after "
    "the CNN alone had shown no difference.",
)
NORMS: dict[str, Callable[[int, int], nn.Module]] = {
    BATCHNORM: lambda c, side: nn.BatchNorm2d(c),
    "LayerNorm": lambda c, side: nn.GroupNorm(1, c),
    "GroupNorm": lambda c, side: nn.GroupNorm(4, c),
    "InstanceNorm": lambda c, side: nn.InstanceNorm2d(c, affine=True),
    "RMSNorm": lambda c, side: nn.RMSNorm((c, side, side)),
}
FLAT: dict[str, Callable[[int], nn.Module] | None] = {
    BATCHNORM: nn.BatchNorm1d,
    "LayerNorm": nn.LayerNorm,
    "RMSNorm": nn.RMSNorm,
    NONE: None,
}
WIDTH = 32  # of the transformer


def cnn(side: int, norm: Callable[[int, int], nn.Module]) -> nn.Sequential:
    """Two convolutions with norm and ReLU, and a linear layer, for rows of side² pixels."""
    half = (side + 1) // 2
    return nn.Sequential(
        nn.Unflatten(1, (1, side, side)),
        nn.Conv2d(1, 8, 3, padding=1),
        norm(8, side),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        norm(16, half),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * half * half, 10),
    )


class Reader(nn.Module):
    """A transformer encoder of one layer over the rows of an image."""

    def __init__(self, side: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.side = side
        self.embed = nn.Linear(side, WIDTH)
        self.position = nn.Parameter(0.1 * mg.randn(side, WIDTH))
        self.layer = nn.TransformerEncoderLayer(
            WIDTH, 4, 2 * WIDTH, dropout=0.0, batch_first=True, norm_first=True
        )
        self.layer.norm1, self.layer.norm2 = norm(WIDTH), norm(WIDTH)
        self.output = nn.Linear(WIDTH, 10)

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        rows = self.embed(x.reshape(-1, self.side, self.side)) + self.position
        return self.output(self.layer(rows).mean(axis=1))


def best_of(
    lab: Lab,
    text: str,
    make: Callable[[], nn.Module],
    optimizer: Callable[..., optim.Optimizer],
    rates: list[float],
    steps: int,
    batch: int,
) -> list[float]:
    """The test accuracies over the seeds at the rate that is best on validation images."""
    data, tried = lab.data, []
    for rate in rates:
        runs = []
        for seed in lab.seeds:
            mg.manual_seed(seed)
            net = make()
            fit(lab, text, net, optimizer(net.parameters(), lr=rate), steps, batch, seed)
            validation = accuracy(net, data.validation_x, data.validation_y)
            runs.append((validation, accuracy(net, data.test_x, data.test_y)))
        tried.append(np.array(runs, float).T)
    return list(max(tried, key=lambda found: found[0].mean())[1])


def run(lab: Lab) -> list[Panel]:
    side, images = lab.data.side, 1000
    lab = dataclasses.replace(lab, data=lab.data.first(images))
    sizes, epochs = lab.pick([2, 4, 16, 128], [2, 32]), lab.pick(3, 1)
    constants = lab.pick([0.01, 0.05], [0.05])
    norms = lab.pick(NORMS, {arm: NORMS[arm] for arm in (BATCHNORM, "GroupNorm")})

    def momentum(parameters, lr):
        return optim.SGD(parameters, lr=lr, momentum=0.9)

    def errors(text: str, make: Callable[[], nn.Module], size: int) -> list[float]:
        scaled, count = [c * size / 32 for c in constants], epochs * images // size
        found = best_of(lab, f"{text}, batch {size}", make, momentum, scaled, count, size)
        return [100 - each for each in found]

    widths = [lab.data.features, 64, 64, 10]
    flat = {
        arm: [errors(arm, lambda norm=norm: mlp(widths, norm), size) for size in sizes]
        for arm, norm in FLAT.items()
    }
    convolved = {
        arm: [errors(arm, lambda norm=norm: cnn(side, norm), size) for size in sizes]
        for arm, norm in norms.items()
    }
    steps, rates = lab.pick(300, 30), lab.pick([1e-3, 3e-3, 1e-2], [3e-3])
    places = {
        "LayerNorm": nn.LayerNorm,
        "RMSNorm": nn.RMSNorm,
        "DynamicTanh": nn.DynamicTanh,
        NONE: lambda width: nn.Identity(),
    }
    reading = {
        arm: [best_of(lab, arm, lambda norm=norm: Reader(side, norm), optim.Adam, rates, steps, 60)]
        for arm, norm in places.items()
    }
    return [
        Panel("fully connected", "batch size", "test error, %", sizes, flat, scales=("log", "log")),
        Panel("CNN", "batch size", "test error, %", sizes, convolved, scales=("log", "log")),
        Panel("transformer", "", "test accuracy, %", ["one layer"], reading),
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    *nets, transformer = panels
    text, shown = [], []
    for panel in nets:
        smallest, others = panel.at[0], [arm for arm in panel.arms if arm not in (BATCHNORM, NONE)]
        best = panel.at[int(panel.mean(BATCHNORM).argmin())]
        at_smallest = panel.values(BATCHNORM, smallest)
        rises = clearly_above(at_smallest, panel.values(BATCHNORM, best))
        worse = [arm for arm in others if clearly_above(at_smallest, panel.values(arm, smallest))]
        shown.append(rises and len(worse) == len(others))
        text.append(
            f"{panel.title}: at batch {smallest} the error of BatchNorm is "
            f"{at_smallest.mean():.1f} %, at its best size, {best}, it is "
            f"{panel.mean(BATCHNORM).min():.1f} %; others at batch "
            f"{smallest}: "
            + ", ".join(
                f"{arm} {panel.mean(arm)[0]:.1f} %" for arm in panel.arms if arm != BATCHNORM
            )
            + f"; it is clearly above {', '.join(worse) or 'none'}"
        )
    text.append(
        "transformer: "
        + ", ".join(f"{arm} {transformer.mean(arm)[0]:.1f} %" for arm in transformer.arms)
    )
    return (HOLDS if all(shown) else PARTLY if any(shown) else FAILS), ". ".join(text) + "."
