"""Claim 14: with BatchNorm the loss does not depend on the scale of the weights before it."""

from __future__ import annotations

from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn

from .lab import FAILS, HOLDS, Claim, Lab, Panel
from .train import BATCHNORM, MEASURE, NONE

CLAIM = Claim(
    number=14,
    text="The loss does not depend on the scale of the weights",
    source="Ioffe & Szegedy (2015), section 3.3; its consequences for training: van Laarhoven "
    "(2017), Arora, Li & Lyu (2019).",
    setup="A net with one hidden layer of 50 tanh, in float64, BatchNorm with ε = 0, 200 images. "
    "L is the cross-entropy, w the weights of the hidden layer. From the left: the cosine between "
    "w and ∇L; the largest difference between c·∇L(cw) and ∇L(w), over the largest element of "
    "∇L(w); and ‖w‖ under plain SGD at a rate of 1, with the dashed line √(‖w₀‖² + Σ η²‖∇L‖²), "
    "which follows from w·∇L = 0.",
    rule="Holds if the cosine, the differences of gradients and that of ‖w‖ from the formula are "
    "below 10⁻⁹, and ‖w‖ only grows.",
    shows="L(cw) = L(w), therefore w·∇L = 0 and ∇L(cw) = ∇L(w)/c, to machine precision. Under "
    "plain SGD ‖w‖ cannot shrink; its growth lowers the rate at which the direction of w turns, "
    "η/‖w‖².",
    limits="With ε > 0, as in practice, it is true only where the variance is far above ε. Weight "
    "decay or momentum can shrink ‖w‖. The last layer has no BatchNorm behind it and keeps its "
    "scale. Without BatchNorm ‖w‖ grows here too, but by no law.",
)
IMAGES, WIDTH = 200, 50


class Problem:
    """L(w), its gradient, and a step of SGD."""

    def __init__(self, lab: Lab, seed: int, normed: bool) -> None:
        mg.manual_seed(seed)
        self.first = nn.Linear(lab.data.features, WIDTH).double()
        norm: Any = nn.BatchNorm1d(WIDTH).double() if normed else nn.Identity()
        norm.eps = 0.0
        self.rest = nn.Sequential(norm, nn.Tanh(), nn.Linear(WIDTH, 10).double())
        random = np.random.default_rng(seed)
        chosen = random.choice(len(lab.data.train_x), IMAGES, replace=False)
        self.x = lab.data.train_x[chosen].astype(mg.float64)
        self.y = lab.data.train_y[chosen]

    def loss(self, w: mg.Tensor) -> mg.Tensor:
        return MEASURE(self.rest(mg.nn.functional.linear(self.x, w, self.first.bias)), self.y)

    def gradient(self, w: mg.Tensor) -> np.ndarray:
        w = w.detach().clone().requires_grad_()
        return mg.autograd.grad(self.loss(w), w)[0].numpy()

    def walk(self, rate: float, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """‖w‖ after 0 ... steps of SGD, and what w·∇L = 0 predicts."""
        w, squared = self.first.weight.detach().clone(), [0.0]
        norms = [float(mg.norm(w).item())]
        for _ in range(steps):
            gradient = self.gradient(w)
            w -= rate * mg.tensor(gradient)
            norms.append(float(mg.norm(w).item()))
            squared.append(squared[-1] + rate**2 * float(np.square(gradient).sum()))
        return np.array(norms), np.sqrt(norms[0] ** 2 + np.array(squared))


def run(lab: Lab) -> list[Panel]:
    arms = {BATCHNORM: True, NONE: False}
    problems = {a: [Problem(lab, seed, normed) for seed in lab.seeds] for a, normed in arms.items()}

    def cosine(p: Problem) -> float:
        w, gradient = p.first.weight.numpy(), p.gradient(p.first.weight)
        return max(
            abs(float((w * gradient).sum())) / np.linalg.norm(w) / np.linalg.norm(gradient), 1e-20
        )

    def scaling(p: Problem, c: float) -> float:
        plain, scaled = p.gradient(p.first.weight), c * p.gradient(p.first.weight.detach() * c)
        return max(float(np.abs(scaled - plain).max() / np.abs(plain).max()), 1e-20)

    constants = lab.pick([1e-3, 1e-2, 0.1, 0.5, 3.0, 10.0, 1e2, 1e3], [1e-2, 3.0, 1e2])
    steps = lab.pick(200, 20)
    walks = {arm: [p.walk(1.0, steps) for p in some] for arm, some in problems.items()}
    every = list(range(0, steps + 1, steps // 20))
    predicted = np.mean([prediction for _, prediction in walks[BATCHNORM]], axis=0)
    return [
        Panel(
            "is ∇L orthogonal to w?",
            "",
            "|w·∇L| / (‖w‖ ‖∇L‖)",
            ["at the start"],
            {arm: [[cosine(p) for p in some]] for arm, some in problems.items()},
            scales=("linear", "log"),
        ),
        Panel(
            "is ∇L(cw) = ∇L(w)/c?",
            "c",
            "largest relative difference",
            constants,
            {
                arm: [[scaling(p, c) for p in some] for c in constants]
                for arm, some in problems.items()
            },
            scales=("log", "log"),
        ),
        Panel(
            "does ‖w‖ shrink?",
            "step",
            "‖w‖",
            every,
            {arm: np.array([w for w, _ in some]).T[every].tolist() for arm, some in walks.items()},
            {"√(‖w₀‖² + Σ η²‖∇L‖²)": predicted[every].tolist()},
        ),
    ]


def judge(panels: list[Panel]) -> tuple[str, str]:
    cosine, scaling, walk = panels
    prediction = walk.formulas["√(‖w₀‖² + Σ η²‖∇L‖²)"]
    error = float(np.abs(walk.mean(BATCHNORM) / np.array(prediction) - 1).max())
    largest = max(cosine.mean(BATCHNORM).max(), scaling.mean(BATCHNORM).max(), error)
    grows = all((np.diff(values) > 0).all() for values in np.array(walk.arms[BATCHNORM]).T)
    text = (
        f"The cosine is {cosine.mean(BATCHNORM)[0]:.1e} with BatchNorm and "
        f"{cosine.mean(NONE)[0]:.1e} without; c·∇L(cw) differs from ∇L(w) by at most "
        f"{scaling.mean(BATCHNORM).max():.1e} and {scaling.mean(NONE).max():.1e}; ‖w‖ follows the "
        f"formula to {error:.1e} and {'only grows' if grows else 'shrinks'}."
    )
    return (HOLDS if largest < 1e-9 and grows else FAILS), text
