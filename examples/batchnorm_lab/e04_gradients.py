"""Claim 4: BatchNorm keeps gradients stable. What it does at initialisation, by formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import minigrad as mg
from minigrad import nn

from .lab import FAILS, HOLDS, PARTLY, Claim, Lab, Panel
from .train import BATCHNORM, MEASURE, NONE, mlp

CLAIM = Claim(
    number=4,
    text="It keeps gradients stable through depth",
    source="Ioffe & Szegedy (2015), section 3.3. Against it, for wide nets at initialisation: "
    "Yang et al. (2019), who find that BatchNorm multiplies the squared gradient by (B−2)/(B−3) "
    "per linear layer and, for large batches, by π/(π−1) per ReLU layer. Meterez et al. (2024): "
    "not with orthogonal weights.",
    setup="In order: the squared norm of the gradient of a weight, by layer, in nets of 20 layers "
    "of 100 units with PyTorch's initialisation, over that of the last hidden layer, on 60 "
    "images. Then nets without training, Gaussian inputs, a random cotangent, float64: growth of "
    "‖∂L/∂x‖² per layer of linear nets (width 1,000, 12 layers) against batch size B, and of ReLU "
    "nets (layers 3 to 12 of 20). Last: linear nets of width 32 at batch 40, with Gaussian and "
    "with orthogonal weights.",
    rule="Holds if for every activation the squared gradients of all layers are nearer to that of "
    "the last one with BatchNorm, and do not grow in linear layers; in part if they are "
    "nearer for some activation.",
    shows="Without BatchNorm the gradients of sigmoid nets vanish; with it they do not. But it "
    "does not make them constant: they grow from layer to layer towards the input at the rates of "
    "the formulas. Orthogonal weights stop the growth in linear nets.",
    limits="All this is before the first step of training. With saturating activations and with "
    "residual connections the rates are others. The formulas are for wide nets: at width 32 "
    "Gaussian weights let gradients grow much faster where the layers' outputs have become nearly "
    "parallel.",
)
ACTIVATIONS: dict[str, Any] = {"sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "ReLU": nn.ReLU}


def linear_rate(batch: int) -> float:
    """The growth of the squared gradient per linear layer (Yang et al. 2019)."""
    return (batch - 2) / (batch - 3)


RELU_RATE = np.pi / (np.pi - 1)  # per ReLU layer, for batches without end (Yang et al. 2019)


def normalise(h: mg.Tensor) -> mg.Tensor:
    """Batch normalisation without eps."""
    return (h - h.mean(axis=0, keepdims=True)) / mg.sqrt(h.var(axis=0, keepdims=True))


def squared_gradients(
    random: np.random.Generator,
    batch: int,
    width: int,
    depth: int,
    activation: Callable[[mg.Tensor], mg.Tensor] | None = None,
    orthogonal: bool = False,
) -> np.ndarray:
    """‖∂L/∂x‖² at the input of each layer x -> activation(BN(x W)), from the first to the last."""
    x = normalise(mg.tensor(random.normal(size=(batch, width)))).requires_grad_()
    inputs = []
    for _ in range(depth):
        inputs.append(x)
        w = random.normal(size=(width, width))
        x = normalise(x @ mg.tensor(np.linalg.qr(w)[0] if orthogonal else w / np.sqrt(width)))
        x = activation(x) if activation else x
    cotangent = mg.tensor(random.normal(size=x.shape))
    gradients = mg.autograd.grad(x, inputs, cotangent)
    return np.array([np.square(g.numpy()).sum() for g in gradients])


def growth(squared: np.ndarray) -> float:
    """The factor per layer, towards the input: the geometric mean."""
    return float((squared[0] / squared[-1]) ** (1 / (len(squared) - 1)))


def weight_gradients(lab: Lab, seed: int, norm: Any, activation: Any, depth: int) -> np.ndarray:
    """‖∂L/∂W‖² for each hidden layer of a net on images, over that of the last."""
    mg.manual_seed(seed)
    net = mlp([lab.data.features, *[100] * depth, 10], norm, activation).double()
    x = lab.data.train_x[60 * seed :][:60].astype(mg.float64)
    MEASURE(net(x), lab.data.train_y[60 * seed :][:60]).backward()
    linear = [layer for layer in net if isinstance(layer, nn.Linear)][1:-1]
    squared = np.array([np.square(layer.weight.grad.numpy()).sum() for layer in linear])
    return squared / squared[-1]


def run(lab: Lab) -> list[Panel]:
    def over_seeds(measure: Callable[[np.random.Generator], Any]) -> list[Any]:
        return [measure(np.random.default_rng(seed)) for seed in lab.seeds]

    depth, arms = lab.pick(20, 8), {}
    for arm, norm in ((BATCHNORM, nn.BatchNorm1d), (NONE, None)):
        for name, activation in ACTIVATIONS.items():
            found = [weight_gradients(lab, s, norm, activation, depth) for s in lab.seeds]
            arms[f"{arm} · {name}"] = np.maximum(np.array(found).T, 1e-40).tolist()
    layers = Panel(
        "weights of a net on images, before training",
        "layer",
        "‖∂L/∂W‖² / that of the last layer",
        list(range(2, depth + 1)),
        arms,
        scales=("linear", "log"),
    )

    width, depth = lab.pick((1000, 12), (300, 6))
    batches = lab.pick([6, 8, 12, 16, 32, 64], [8, 16, 32])
    found = [
        over_seeds(lambda r, b=b: growth(squared_gradients(r, b, width, depth))) for b in batches
    ]
    linear = Panel(
        "linear layers",
        "batch size B",
        "growth of ‖∂L/∂x‖² per layer",
        batches,
        {BATCHNORM: found},
        {"(B−2)/(B−3)": [linear_rate(b) for b in batches]},
        ("log", "linear"),
    )

    depth, tail = lab.pick(
        (20, 12), (12, 6)
    )  # the first layers see Gaussian inputs, not those of a ReLU
    batches = lab.pick([8, 16, 32, 64, 128], [8, 64])
    found = [
        over_seeds(lambda r, b=b: growth(squared_gradients(r, b, width, depth, mg.relu)[2:tail]))
        for b in batches
    ]
    relu = Panel(
        "ReLU layers",
        "batch size B",
        "growth of ‖∂L/∂x‖² per layer",
        batches,
        {BATCHNORM: found},
        {"π/(π−1), B → ∞": [RELU_RATE] * len(batches)},
        ("log", "linear"),
    )

    depth = lab.pick(200, 60)
    arms = {}
    for arm, orthogonal in (("Gaussian weights", False), ("orthogonal weights", True)):
        found = over_seeds(
            lambda r, o=orthogonal: squared_gradients(r, 40, 32, depth, orthogonal=o)
        )
        arms[arm] = [list(column[::-1] / column[-1]) for column in found]
    every = max(depth // 20, 1)
    deep = Panel(
        "linear, width 32, batch 40",
        "layers from the output",
        "‖∂L/∂x‖² / that of the last layer",
        list(range(0, depth, every)),
        {arm: np.array(f).T[::every].tolist() for arm, f in arms.items()},
        scales=("linear", "log"),
    )
    return [layers, linear, relu, deep]


def judge(panels: list[Panel]) -> tuple[str, str]:
    layers, linear, relu, deep = panels
    reach = {arm: float(np.abs(np.log10(layers.mean(arm))).max()) for arm in layers.arms}
    steadier = [n for n in ACTIVATIONS if reach[f"{BATCHNORM} · {n}"] < reach[f"{NONE} · {n}"]]
    formula = np.array(linear.formulas["(B−2)/(B−3)"])
    error = float(np.abs(linear.mean(BATCHNORM) / formula - 1).max())
    last = float(relu.mean(BATCHNORM)[-1])
    gaussian, orthogonal = deep.mean("Gaussian weights")[-1], deep.mean("orthogonal weights")[-1]
    text = (
        "In the net on images the squared gradients differ from that of the last layer by up to "
        + "; ".join(
            f"{reach[f'{BATCHNORM} · {n}']:.1f} decades with BatchNorm and "
            f"{reach[f'{NONE} · {n}']:.1f} without ({n})"
            for n in ACTIVATIONS
        )
        + f". Growth per linear layer is within {100 * error:.1f} % of (B−2)/(B−3); per ReLU layer "
        f"it is {last:.3f} at batch {relu.at[-1]}, and π/(π−1) = {RELU_RATE:.3f}. Over "
        f"{deep.at[-1]} linear layers it is {gaussian:.2g} with Gaussian and {orthogonal:.2g} "
        f"with orthogonal "
        "weights."
    )
    if len(steadier) == len(ACTIVATIONS) and linear.mean(BATCHNORM).max() <= 1:
        return HOLDS, text
    return (PARTLY if steadier else FAILS), text
