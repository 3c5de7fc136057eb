"""Claim 10: divide by the standard deviation, or by the variance?"""

from __future__ import annotations

import numpy as np

import minigrad as mg
from minigrad import nn, optim

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel, clearly_above
from .train import BATCHNORM, accuracy, fit, mlp

CLAIM = Claim(
    number=10,
    text="It divides by the standard deviation, not by the variance",
    source="Ioffe & Szegedy (2015), algorithm 1. At least one article in circulation says the "
    "variance.",
    setup="Left: the variance of (x − μ)/σ and of (x − μ)/σ² for a Gaussian batch of 1,000 in "
    "float64, against the standard deviation σ of x; dashed, 1/σ². Right: nets with two hidden "
    "layers of 64 ReLU, 300 steps of SGD at batch 60, weights drawn at different scales; for each "
    "scale and arm the best of four rates on validation images.",
    rule="Holds if the variances are 1 and 1/σ² to 9 digits, and the net with the standard "
    "deviation is clearly better at some scale; in part if only the former.",
    shows="Var(x/σ) = 1 whatever σ is. Var(x/σ²) = 1/σ², which is 1 only for σ = 1: dividing by "
    "the variance does not normalise, it turns small values into large ones. The output then "
    "depends on the scale of the weights, which it should not.",
    limits="At a scale of weights where σ is near 1 a net may train with either. γ can repair the "
    "scale of a channel as it is trained.",
)
VARIANCE = "divided by the variance"


class DividedByVariance(nn.BatchNorm1d):
    """(x - mean) / (var + eps) * gamma + beta."""

    def __init__(self, num_features: int) -> None:
        super().__init__(num_features, affine=False)
        self.gamma = nn.Parameter(mg.ones(num_features))
        self.beta = nn.Parameter(mg.zeros(num_features))

    def forward(self, x: mg.Tensor) -> mg.Tensor:
        var = x.var(axis=0) if self.training else self.running_var
        return super().forward(x) / mg.sqrt(var + self.eps) * self.gamma + self.beta


NORMS = {BATCHNORM: nn.BatchNorm1d, VARIANCE: DividedByVariance}


def output_variance(norm: type[nn.Module], sd: float, seed: int) -> float:
    """The variance of the layer's output for a batch whose standard deviation is `sd`."""
    x = np.random.default_rng(seed).normal(size=(1000, 1))
    layer = norm(1).double()
    layer.eps = 0.0
    return layer(mg.tensor(5 + sd * (x - x.mean()) / x.std())).var().item()


def run(lab: Lab) -> list[Panel]:
    sds = [0.01, 0.1, 1.0, 10.0, 100.0]
    exact = Panel(
        "variance of the output",
        "standard deviation σ of the input",
        "variance of the output",
        sds,
        {
            a: [[output_variance(n, sd, s) for s in lab.seeds] for sd in sds]
            for a, n in NORMS.items()
        },
        {"1/σ²": [sd**-2 for sd in sds]},
        ("log", "log"),
    )
    scales = lab.pick([0.01, 0.1, 1.0, 10.0, 100.0], [0.01, 1.0])
    rates, steps = lab.pick([0.001, 0.01, 0.1, 1.0], [0.01, 0.1]), lab.pick(300, 60)
    found: dict[str, list[list[float]]] = {arm: [] for arm in NORMS}
    for scale in scales:
        for arm, norm in NORMS.items():
            tried = []
            for rate in rates:
                runs = []
                for seed in lab.seeds:
                    mg.manual_seed(seed)
                    net = mlp([lab.data.features, 64, 64, 10], norm)
                    with mg.no_grad():
                        for layer in list(net)[:-1]:
                            if isinstance(layer, nn.Linear):
                                layer.weight.copy_(layer.weight * scale)
                    fit(lab, arm, net, optim.SGD(net.parameters(), lr=rate), steps, 60, seed)
                    runs.append(
                        (
                            float(accuracy(net, lab.data.validation_x, lab.data.validation_y)),
                            float(accuracy(net, lab.data.test_x, lab.data.test_y)),
                        )
                    )
                tried.append(np.array(runs).T)
            best = max(tried, key=lambda accuracies: accuracies[0].mean())
            found[arm].append(list(best[1]))
    trained = Panel(
        f"{steps} steps on {lab.data.name}",
        "scale of the first weights (1: PyTorch's)",
        "test accuracy, %",
        scales,
        found,
        scales=("log", "linear"),
    )
    return [exact, trained]


def judge(panels: list[Panel]) -> tuple[str, str]:
    exact, trained = panels
    sd = np.array(exact.at)
    unit = bool(np.allclose(exact.mean(BATCHNORM), 1, rtol=1e-9))
    inverse = bool(np.allclose(exact.mean(VARIANCE), sd**-2.0, rtol=1e-9))
    better = [
        s
        for s in trained.at
        if clearly_above(trained.values(BATCHNORM, s), trained.values(VARIANCE, s))
    ]
    text = (
        f"The variance of the output is 1 for the standard deviation ({'yes' if unit else 'no'}) "
        f"and 1/σ² for the variance ({'yes' if inverse else 'no'}), to 9 digits. Trained, the "
        f"accuracy "
        f"with the standard deviation is between {trained.mean(BATCHNORM).min():.1f} and "
        f"{trained.mean(BATCHNORM).max():.1f} %, with the variance between "
        f"{trained.mean(VARIANCE).min():.1f} and {trained.mean(VARIANCE).max():.1f} %; clearly "
        f"higher at {len(better)} of {len(trained.at)} scales."
    )
    exactly = unit and inverse
    return (HOLDS if exactly and better else PARTLY if exactly else FAILS), text
