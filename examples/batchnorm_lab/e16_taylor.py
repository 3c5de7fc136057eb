"""Claim 16: BatchNorm blocks the low-order terms of the loss."""

from __future__ import annotations

import numpy as np

import minigrad as mg
from minigrad import nn

from .lab import FAILS, HOLDS, Claim, Lab, Panel
from .train import BATCHNORM, MEASURE, NONE, mlp

CLAIM = Claim(
    number=16,
    text="It blocks the first-order and part of the second-order terms of the loss",
    source="Zhou et al., AAAI 2024: the gradient of the first-order Taylor term with respect to "
    "the input of BatchNorm is zero, and so is that of the diagonal of the second-order term, if "
    "all samples have the same loss function.",
    setup="A loss ℓ(y) of 8 features: cross-entropy behind a layer of 16 tanh, float64. A batch "
    "of 32 samples x, and y = BN(x)γ + β with ε = 0, or y = xγ + β. Σ ℓ(yᵢ) is expanded about the "
    "mean ȳ of the batch with gradient g and Hessian H from automatic differentiation: Σ "
    "(yᵢ−ȳ)·g, ½ Σ Σ H_dd (yᵢ−ȳ)_d², the same with the other elements of H, and the rest. Drawn: "
    "the norm of each term's gradient with respect to x, over that of the whole loss. Left with "
    "one class for all samples, right with each sample's own, where g and H are those of the "
    "sample.",
    rule="Holds if for samples of one class the first-order and the diagonal term have less than "
    "10⁻⁹ of the gradient with BatchNorm, and the other terms and all those without BatchNorm "
    "more than 10⁻³.",
    shows="For one class Σ (yᵢ−ȳ) = 0 and Σ (yᵢ−ȳ)_d² = Nγ_d² whatever x is: terms that are "
    "constant have no gradient. The off-diagonal second-order term and the rest pass.",
    limits="The condition matters: with different classes in a batch the first-order term passes "
    "(right), and that is how training takes place. The features here are random, not those of a "
    "trained net.",
)
TERMS = ["first order", "second order,\ndiagonal", "second order,\noff-diagonal", "the rest"]
SAMPLES, FEATURES, CLASSES = 32, 8, 10


def features(x: mg.Tensor, gamma: mg.Tensor, beta: mg.Tensor, normed: bool) -> mg.Tensor:
    """BN(x)γ + β without eps, or xγ + β."""
    if normed:
        x = (x - x.mean(axis=0, keepdims=True)) / mg.sqrt(x.var(axis=0, keepdims=True))
    return x * gamma + beta


def gradients(seed: int, normed: bool, shared: bool) -> tuple[list[np.ndarray], np.ndarray]:
    """The gradients with respect to x of the four terms, and that of the loss."""
    random = np.random.default_rng(seed)
    mg.manual_seed(seed)
    head = mlp([FEATURES, 16, CLASSES], None, nn.Tanh).double()
    classes = random.integers(CLASSES, size=1 if shared else SAMPLES)
    gamma, beta = (
        mg.tensor(random.normal(1, 0.3, FEATURES)),
        mg.tensor(random.normal(size=FEATURES)),
    )
    x = mg.tensor(2 + random.normal(size=(SAMPLES, FEATURES)), requires_grad=True)
    y = features(x, gamma, beta, normed)
    center = y.mean(axis=0).detach()

    def loss(point: mg.Tensor, number: int) -> mg.Tensor:
        return MEASURE(head(point.reshape(1, -1)), mg.tensor(classes[number : number + 1]))

    slopes = [mg.func.grad(lambda p, n=n: loss(p, n))(center) for n in range(len(classes))]
    curvatures = [mg.func.hessian(lambda p, n=n: loss(p, n))(center) for n in range(len(classes))]
    g = mg.tensor(np.stack([slope.numpy() for slope in slopes]))  # (1 or samples, features)
    h = np.stack([curvature.numpy() for curvature in curvatures])
    diagonal = np.diagonal(h, axis1=1, axis2=2)
    off = h - diagonal[:, :, None] * np.eye(FEATURES)

    def quadratic(matrix: np.ndarray) -> mg.Tensor:
        shift = (y - center).reshape(SAMPLES, 1, FEATURES)
        return 0.5 * (shift @ mg.tensor(matrix) * shift).sum()

    first = ((y - center) * g).sum()
    second = 0.5 * (mg.square(y - center) * mg.tensor(diagonal.copy())).sum()
    mixed = quadratic(off)
    targets = mg.tensor(np.broadcast_to(classes, SAMPLES).copy())
    whole = MEASURE(head(y), targets) * SAMPLES
    terms = [first, second, mixed, whole - first - second - mixed]
    found = [mg.autograd.grad(t, x, retain_graph=True)[0].numpy() for t in (*terms, whole)]
    return found[:-1], found[-1]


def run(lab: Lab) -> list[Panel]:
    panels = []
    for title, shared in (("one class for all samples", True), ("each sample's own class", False)):
        arms = {}
        for arm, normed in ((BATCHNORM, True), (NONE, False)):
            found = []
            for seed in lab.seeds:
                terms, whole = gradients(seed, normed, shared)
                sizes = [np.linalg.norm(term) / np.linalg.norm(whole) for term in terms]
                found.append(np.maximum(sizes, 1e-20))
            arms[arm] = np.array(found).T.tolist()
        panels.append(
            Panel(
                title,
                "term of the loss",
                "‖∇ₓ term‖ / ‖∇ₓ loss‖",
                TERMS,
                arms,
                scales=("linear", "log"),
            )
        )
    return panels


def judge(panels: list[Panel]) -> tuple[str, str]:
    shared, own = (panel.mean(BATCHNORM) for panel in panels)
    plain = panels[0].mean(NONE)
    text = (
        f"Samples of one class: first order {shared[0]:.1e}, diagonal of the second "
        f"{shared[1]:.1e}, off-diagonal {shared[2]:.2f}, rest {shared[3]:.2f} of the whole "
        f"gradient; "
        f"without BatchNorm {plain[0]:.2f}, {plain[1]:.2f}, {plain[2]:.2f}, {plain[3]:.2f}. "
        f"With the samples' own "
        f"classes the first-order term has {own[0]:.2f}: the claim holds under its condition only."
    )
    blocked = shared[:2].max() < 1e-9 and shared[2:].min() > 1e-3 and plain.min() > 1e-3
    return (HOLDS if blocked else FAILS), text
