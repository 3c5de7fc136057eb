"""Claim 2: BatchNorm allows higher learning rates. On images, and exactly on least squares."""

from __future__ import annotations

import numpy as np

import minigrad as mg
from minigrad import nn

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel
from .train import BATCHNORM, NONE, mlp, train

CLAIM = Claim(
    number=2,
    text="It allows higher learning rates",
    source="Ioffe & Szegedy (2015), section 3.3; measured by Bjorck et al. (2018). For least "
    "squares it is a theorem of Cai, Li & Shen (2019): gradient descent with BatchNorm converges "
    "at any rate of the weights, plain gradient descent only below 2/λ, with λ the largest "
    "eigenvalue of the Hessian.",
    setup="Left: networks with two hidden layers of 64 ReLU, 300 steps of plain SGD at batch 60, "
    "for rates over five decades. Right: full-batch gradient descent on least squares in 20 "
    "dimensions, eigenvalues from 0.01 to 1, in float64, 3,000 steps; with BatchNorm the "
    "prediction is a·BN(w·x) and the rate of a is 1. The dashed line is the exact excess loss of "
    "plain descent, ½ Σ λᵢ (1 − ηλᵢ)²ᵗ cᵢ². Values above 10⁴ are drawn at 10⁴.",
    rule="Holds if BatchNorm stays within 5 points of its best accuracy up to a higher rate, and "
    "on least squares its loss falls at every rate, while plain descent diverges at every rate "
    "above 2/λ; in part if one of the two is so.",
    shows="The range of rates that train is wider, and BatchNorm goes on where plain descent "
    "diverges: a large step makes ‖w‖ large, and that makes the next step small.",
    limits="To converge at any rate is not to converge soon: at 10⁴ times the plain limit the "
    "excess loss falls, but slowly. The best accuracy over all rates is a different question.",
)
DIMENSIONS, SAMPLES, CEILING = 20, 100, 1e4


def least_squares(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """X (samples, dimensions), y, the eigenvalues of XᵀX/n, and the start w.

    X has mean zero and a diagonal second moment, and y = X u without noise: the least loss is zero.
    """
    random = np.random.default_rng(seed)
    x = random.normal(size=(SAMPLES, DIMENSIONS))
    x, _ = np.linalg.qr(x - x.mean(0))
    eigenvalues = np.geomspace(0.01, 1, DIMENSIONS)
    x = x * np.sqrt(SAMPLES * eigenvalues)
    u, start = random.normal(size=(2, DIMENSIONS))
    return x, x @ u, eigenvalues, start


def loss_with(x: mg.Tensor, y: mg.Tensor, w: mg.Tensor, a: mg.Tensor) -> mg.Tensor:
    """½ mean (y - a BN(x w))², for the columns of w as so many channels."""
    z = x @ w
    z = (z - z.mean(axis=0, keepdims=True)) / mg.sqrt(z.var(axis=0, keepdims=True))
    return 0.5 * mg.square(y - a * z).mean(axis=0)


def loss_without(x: mg.Tensor, y: mg.Tensor, w: mg.Tensor) -> mg.Tensor:
    """½ mean (y - x w)²."""
    return 0.5 * mg.square(y - x @ w).mean(axis=0)


def descend(seed: int, rates: np.ndarray, steps: int, normed: bool) -> np.ndarray:
    """The loss after gradient descent at each rate, over that at the start."""
    x, y, _, start = (mg.tensor(array) for array in least_squares(seed))
    y, rate = y.reshape(-1, 1), mg.tensor(rates)
    w = mg.tensor(np.repeat(start.numpy()[:, None], len(rates), 1), requires_grad=True)
    a = mg.zeros(len(rates), dtype=mg.float64).requires_grad_()
    leaves = [w, a] if normed else [w]
    loss = loss_with if normed else loss_without
    first = loss(x, y, *leaves).numpy().copy()
    for _ in range(steps):
        gradients = mg.autograd.grad(loss(x, y, *leaves).sum(), leaves)
        with mg.no_grad():
            w -= rate * gradients[0]
            if normed:
                a -= gradients[1]
            elif np.abs(w.numpy()).max() > 1e100:  # far beyond the ceiling
                w.copy_(np.clip(w.numpy(), -1e100, 1e100))
    return loss(x, y, *leaves).numpy() / first


def exact_descent(seed: int, rates: np.ndarray, steps: int) -> np.ndarray:
    """What `descend` finds without BatchNorm, by the formula."""
    x, y, eigenvalues, start = least_squares(seed)
    error = (x.T @ y) / SAMPLES / eigenvalues - start
    parts = eigenvalues * error**2
    with np.errstate(over="ignore"):
        left = (1 - rates[:, None] * eigenvalues) ** (2 * steps) * parts
    return left.sum(1) / parts.sum()


def run(lab: Lab) -> list[Panel]:
    rates = lab.pick(np.geomspace(1e-3, 1e2, 11), np.array([1e-2, 0.3, 10.0]))
    steps = lab.pick(300, 60)
    sizes = [lab.data.features, 64, 64, 10]
    arms = {}
    for arm, norm in ((BATCHNORM, nn.BatchNorm1d), (NONE, None)):
        found = train(lab, arm, lambda norm=norm: mlp(sizes, norm), list(rates), steps)
        arms[arm] = found.test.tolist()
    images = Panel(
        f"{steps} steps on {lab.data.name}",
        "learning rate",
        "test accuracy, %",
        list(rates),
        arms,
        scales=("log", "linear"),
    )
    rates = np.concatenate(
        [
            lab.pick(np.geomspace(1e-3, 1, 7), np.array([0.1, 1.0])),
            [1.98, 2.02],
            lab.pick(np.geomspace(10, 1e4, 7), np.array([10.0, 1e4])),
        ]
    )
    steps = lab.pick(3000, 1000)
    found = {
        arm: np.array([descend(s, rates, steps, normed) for s in lab.seeds]).T
        for arm, normed in ((BATCHNORM, True), (NONE, False))
    }
    exact = np.mean([exact_descent(seed, rates, steps) for seed in lab.seeds], axis=0)
    return [
        images,
        Panel(
            f"least squares, {steps} steps",
            "learning rate · largest eigenvalue",
            "loss / loss at the start",
            list(rates),
            {arm: np.clip(f, 1e-30, CEILING).tolist() for arm, f in found.items()},
            {"no norm, exact": np.clip(exact, 1e-30, CEILING).tolist()},
            ("log", "log"),
        ),
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    images, squares = panels
    trained = {}
    for arm in (BATCHNORM, NONE):
        mean = images.mean(arm)
        near = np.array(images.at)[mean > images.mean(arm).max() - 5]
        trained[arm] = (near.max(), np.log10(near.max() / near.min()), mean.max())
    above = np.array(squares.at) > 2
    descends = bool((squares.mean(BATCHNORM) < 1).all())
    diverges = bool((squares.mean(NONE)[above] >= CEILING).all())
    wider = trained[BATCHNORM][0] > trained[NONE][0]
    text = (
        f"Within 5 points of its best accuracy BatchNorm ({trained[BATCHNORM][2]:.1f} %) stays up "
        f"to a rate of {trained[BATCHNORM][0]:.2g} over {trained[BATCHNORM][1]:.1f} decades, "
        f"the net "
        f"without ({trained[NONE][2]:.1f} %) up to {trained[NONE][0]:.2g} over "
        f"{trained[NONE][1]:.1f}. On least squares the loss falls at every rate with BatchNorm: "
        f"{'yes' if descends else 'no'}; without, it diverges at every rate above 2/λ: "
        f"{'yes' if diverges else 'no'}."
    )
    exact = descends and diverges
    return (HOLDS if wider and exact else PARTLY if wider or exact else FAILS), text
