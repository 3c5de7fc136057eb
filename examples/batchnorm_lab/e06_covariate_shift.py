"""Claim 6: BatchNorm works because it reduces internal covariate shift."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn, optim

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel, clearly_above
from .train import BATCHNORM, MEASURE, NONE, accuracy, fit, mlp

CLAIM = Claim(
    number=6,
    text="It works because it reduces internal covariate shift",
    source="Ioffe & Szegedy (2015), title and figure 1b, c. Against it: Santurkar et al. (2018), "
    "who add noise behind BatchNorm, train deep linear nets, and say that the loss becomes "
    "smoother.",
    setup="Nets with three hidden layers of 64 tanh, 300 steps of SGD at batch 60, each arm at the "
    "best of four rates on validation images. The noisy arm adds N(m, s²) to every output of "
    "BatchNorm in training, with m from −1 to 1 and s from 0 to 1 drawn anew for each unit at each "
    "step. In order: the 15th, 50th and 85th percentile of the input of a unit of the last hidden "
    "layer in training mode; how far the means of that layer's units move between two looks, over "
    "their standard deviation; test accuracy; how much the gradient of a batch of 200 changes over "
    "a step of length 0.1 along it, relative; 25 linear layers of 64 units.",
    rule="Does not hold if the noisy net is less steady than the net without a norm, and yet "
    "clearly faster by the test accuracy averaged over the looks. Otherwise it holds if inputs are "
    "steadier with BatchNorm and the noisy net is not clearly faster, and else in part.",
    shows="Two questions that are often mixed: whether BatchNorm makes the inputs of a unit "
    "steadier, and whether that is why training is faster. The noise makes them unsteady by "
    "design.",
    limits="That the means hardly move behind BatchNorm is so by construction: they are β. The "
    "noise also regularises. How much the gradient changes depends on the length of the step and "
    "on the scale of the weights, so one length says little about smoothness; this picture does "
    "not repeat that of the paper. PyTorch's initial weights shrink the values by about √3 in each "
    "linear layer, which is what the deep linear net without a norm suffers from. Nothing here "
    "says that steadiness never helps.",
)
NOISY = "noise after BatchNorm"


class NoisyBatchNorm(nn.BatchNorm1d):
    """BatchNorm1d, and in training noise with another mean and scale at each step."""

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        y = super().forward(x)
        if not self.training:
            return y
        mean, scale = 2 * mg.rand(1, self.num_features) - 1, mg.rand(1, self.num_features)
        return y + mean + scale * mg.randn(*y.shape)


def search(
    lab: Lab, text: str, make: Callable[[], nn.Module], rates: list[float], steps: int, look: Any
) -> np.ndarray:
    """What `look(net)` returns at each of the times, at the best rate: (seeds, times, ...)."""
    data, tried = lab.data, []
    times = moments(steps)
    for rate in rates:
        seen, validation = [], []
        for seed in lab.seeds:
            mg.manual_seed(seed)
            net, rows = make(), []

            def watch(step: int, net: nn.Module = net, rows: list[Any] = rows) -> None:
                if step in times:
                    rows.append(look(net))

            fit(lab, text, net, optim.SGD(net.parameters(), lr=rate), steps, 60, seed, watch=watch)
            seen.append(rows)
            validation.append(accuracy(net, data.validation_x, data.validation_y))
        tried.append((float(np.mean(validation)), np.array(seen, float)))
    return max(tried, key=lambda pair: pair[0])[1]


def moments(steps: int) -> list[int]:
    """The times at which nets are looked at."""
    return sorted({round(t) for t in np.geomspace(1, steps + 1, 10) - 1})


def run(lab: Lab) -> list[Panel]:
    data, steps = lab.data, lab.pick(300, 40)
    rates = lab.pick([0.03, 0.1, 0.3, 1.0], [0.3])
    sample = data.train_x[:200], data.train_y[:200]
    previous: dict[int, tuple[np.ndarray, mg.Tensor]] = {}

    def inputs(net: nn.Sequential) -> np.ndarray:
        """The inputs of the last hidden activation in training mode, statistics left alone."""
        with mg.no_grad():
            kept = {name: value.clone() for name, value in net.state_dict().items()}
            h = net[:-2](sample[0]).numpy()
            net.load_state_dict(kept)
        return h

    def gradient(net: nn.Module, parameters: list[mg.Tensor]) -> np.ndarray:
        mg.manual_seed(0)  # the same noise, if any
        found = mg.autograd.grad(MEASURE(net(sample[0]), sample[1]), parameters)
        return np.concatenate([g.numpy().ravel() for g in found])

    def roughness(net: nn.Module) -> float:
        kept = {name: value.clone() for name, value in net.state_dict().items()}
        state = mg.get_rng_state()
        parameters = list(net.parameters())
        here = gradient(net, parameters)
        with mg.no_grad():
            position = 0
            for p in parameters:
                step = here[position : position + p.size].reshape(p.shape)
                p.copy_(p - mg.tensor(0.1 / np.linalg.norm(here) * step))
                position += p.size
        there = gradient(net, parameters)
        net.load_state_dict(kept)
        mg.set_rng_state(state)
        return float(np.linalg.norm(there - here) / np.linalg.norm(here))

    def look(net: nn.Sequential) -> list[float]:
        h = inputs(net)
        mean = h.mean(0)
        before = previous.get(id(net))
        moved = 0.0 if before is None else float(np.abs((mean - before[0]) / h.std(0)).mean())
        previous.clear()
        previous[id(net)] = (mean, sample[0])
        correct = float(accuracy(net, data.test_x, data.test_y))
        return [*np.percentile(h[:, 0], [15, 50, 85]), moved, correct, roughness(net)]

    norms = {BATCHNORM: nn.BatchNorm1d, NONE: None, NOISY: NoisyBatchNorm}
    sizes = [data.features, 64, 64, 64, 10]
    seen = {
        arm: search(lab, arm, lambda norm=norm: mlp(sizes, norm, nn.Tanh), rates, steps, look)
        for arm, norm in norms.items()
    }
    deep_sizes = [data.features, *[64] * 24, 10]
    deep = {
        arm: search(
            lab,
            f"deep, {arm}",
            lambda norm=norms[arm]: mlp(deep_sizes, norm, nn.Identity),
            rates,
            steps,
            lambda net: accuracy(net, data.test_x, data.test_y),
        )
        for arm in (BATCHNORM, NONE)
    }
    times = moments(steps)
    shown = {
        f"{arm} · {name}": seen[arm][:, :, i].T.tolist()
        for arm in (BATCHNORM, NONE)
        for i, name in enumerate(("15th", "50th", "85th"))
    }

    def per_arm(i: int, since: int = 0) -> dict[str, list[list[float]]]:
        return {arm: found[:, since:, i].T.tolist() for arm, found in seen.items()}

    return [
        Panel(
            "percentiles of a unit's input",
            "step + 1",
            "input of the tanh",
            [t + 1 for t in times],
            shown,
            scales=("log", "linear"),
        ),
        Panel(
            "movement of the means since the last point",
            "step + 1",
            "mean |change| / sd",
            [t + 1 for t in times[1:]],
            per_arm(3, 1),
            scales=("log", "log"),
        ),
        Panel(
            "speed",
            "step + 1",
            "test accuracy, %",
            [t + 1 for t in times],
            per_arm(4),
            scales=("log", "linear"),
        ),
        Panel(
            "roughness of the loss",
            "step + 1",
            "relative change of the gradient",
            [t + 1 for t in times],
            per_arm(5),
            scales=("log", "linear"),
        ),
        Panel(
            "25 linear layers",
            "step + 1",
            "test accuracy, %",
            [t + 1 for t in times],
            {arm: found.T.tolist() for arm, found in deep.items()},
            scales=("log", "linear"),
        ),
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    _, moved, speed, rough, deep = panels
    shift = {arm: float(moved.mean(arm).mean()) for arm in moved.arms}
    area = {arm: np.array(speed.arms[arm]).mean(0) for arm in speed.arms}
    roughness = {arm: float(rough.mean(arm).mean()) for arm in rough.arms}
    steadier = shift[BATCHNORM] < shift[NONE]
    noisy_shifts = shift[NOISY] > shift[NONE]
    noisy_fast = clearly_above(area[NOISY], area[NONE])
    text = (
        "Between two looks the means move by "
        + ", ".join(f"{shift[a]:.2g} sd ({a})" for a in shift)
        + "; the test accuracy, averaged over the looks, is "
        + ", ".join(f"{area[a].mean():.1f} % ({a})" for a in area)
        + f"; the gradient changes by {roughness[BATCHNORM]:.2f} with BatchNorm and "
        f"{roughness[NONE]:.2f} without. Inputs are steadier with BatchNorm: "
        f"{'yes' if steadier else 'no'}. The noisy net, less steady than that without a norm: "
        f"{'yes' if noisy_shifts else 'no'}, is still clearly faster than it: "
        f"{'yes' if noisy_fast else 'no'}. 25 linear layers end at "
        f"{deep.mean(BATCHNORM)[-1]:.1f} % with BatchNorm and {deep.mean(NONE)[-1]:.1f} % without."
    )
    if noisy_shifts and noisy_fast:
        return FAILS, text
    return (HOLDS if steadier and not noisy_fast else PARTLY), text
