"""Lesson 5: BatchNorm in four lines, and a gradient that nobody wrote.

Batch normalisation (Ioffe & Szegedy 2015, algorithm 1) gives each channel of a batch mean 0 and
variance 1, and then lets the network choose a new scale γ and shift β:

    mean = x.mean(axis=0, keepdims=True)
    var = x.var(axis=0, keepdims=True)
    normal = (x - mean) / mg.sqrt(var + eps)
    y = normal * gamma + beta

Its gradient is not so simple, because every x affects every y of its channel in three ways:
directly, through the mean, and through the variance. The paper derives it by hand in section 3;
simplified, with x̂ for `normal` and sums over the N elements of a channel, it is

    dx = γ / (N √(var + ε)) · ( N dy - Σ dy - x̂ Σ (dy · x̂) ).

Libraries write out this formula, and another for its own gradient. Here the four lines are all
there is. The lesson checks the gradient derived from them against the formula and against
finite differences, and also the gradient's gradient: `gradgradcheck`. The cotangent dy must be
random: for the loss y.sum() the right dx is zero, and a wrong rule may give zero as well.

What if mean and variance are treated as constants, for example by a well-meant `detach()`? Then
the last two terms are missing. The left picture compares each element of dx with the formula:
the machine's elements lie on the diagonal, those of the detached variant do not. The terms
matter: without them the gradient calls for changes, a common shift and a common scale, that the
normalisation undoes. Section 2 of the paper describes the result, and the right picture repeats
its experiment. A layer u = x W + b is normalised by its mean and variance, and a readout
without bias should match a target of mean 1, but cannot. The remaining error pushes b forever,
in vain: the output does not depend on b at all. "b will grow indefinitely while the loss
remains fixed." With the whole gradient b does not move.

Exercise: the backward of LayerNorm. `make exercise N=5` judges your answer.
"""

from __future__ import annotations

import numpy as np
from lesson import BLUE, GREY, ORANGE, panels, progress, read_options, save

import minigrad as mg

EPS = 1e-5


def batch_norm(x, gamma=1.0, beta=0.0, detached=False):
    """The four lines, for x of shape (N, C); `detached` treats the statistics as constants."""
    mean = x.mean(axis=0, keepdims=True)
    var = x.var(axis=0, keepdims=True)
    if detached:
        mean, var = mean.detach(), var.detach()
    normal = (x - mean) / mg.sqrt(var + EPS)
    return normal * gamma + beta


def closed_form(x: np.ndarray, gamma: np.ndarray, dy: np.ndarray) -> np.ndarray:
    """dx by the formula of the paper."""
    deviation = np.sqrt(x.var(axis=0) + EPS)
    normal = (x - x.mean(axis=0)) / deviation
    terms = len(x) * dy - dy.sum(axis=0) - normal * (dy * normal).sum(axis=0)
    return gamma / (len(x) * deviation) * terms


def train(steps: int, detached: bool) -> tuple[list[float], list[float]]:
    """The experiment of section 2: the size of b and the loss, step by step."""
    mg.manual_seed(1)
    x, target = mg.randn(64, 3), 1 + 0.5 * mg.randn(64)
    w, b, readout = mg.randn(3, 4), mg.zeros(4), 0.5 * mg.randn(4)
    weights = [tensor.requires_grad_() for tensor in (w, b, readout)]
    sizes, losses = [], []
    for _ in progress(steps, "detached" if detached else "whole gradient"):
        loss = mg.square(batch_norm(x @ w + b, detached=detached) @ readout - target).mean()
        gradients = mg.autograd.grad(loss, weights)
        with mg.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight -= 0.05 * gradient
        sizes.append(mg.norm(b).item())
        losses.append(loss.item())
    return sizes, losses


def main(arguments: list[str] | None = None) -> dict[str, float]:
    options = read_options(__file__, __doc__, arguments)
    random = np.random.default_rng(0)
    x, dy = random.normal(3, 2, (8, 5)), random.normal(size=(8, 5))
    gamma, beta = random.normal(1, 0.5, 5), random.normal(size=5)
    parts = [mg.tensor(array, requires_grad=True) for array in (x, gamma, beta)]

    formula, cotangent = closed_form(x, gamma, dy), mg.tensor(dy)
    dx, *_ = mg.autograd.grad(batch_norm(*parts), parts, cotangent)
    wrong, *_ = mg.autograd.grad(batch_norm(*parts, detached=True), parts, cotangent)
    error, missing = (float(np.abs(g.numpy() - formula).max()) for g in (dx, wrong))
    print(f"largest |dx|                        {np.abs(formula).max():.3f}")
    print(f"machine against the formula         {error:.0e}")
    print(f"detached against the formula        {missing:.3f}")
    print(f"finite differences, gradient        {mg.autograd.gradcheck(batch_norm, parts)}")
    print(f"finite differences, its gradient    {mg.autograd.gradgradcheck(batch_norm, parts)}")

    steps = 200 if options.fast else 2000
    (size, loss), (lost_size, lost_loss) = (train(steps, detached) for detached in (False, True))
    print(f"after {steps} steps: ‖b‖ {size[-1]:.2f}, loss {loss[-1]:.3f} with the whole gradient;")
    print(f"                  ‖b‖ {lost_size[-1]:.2f}, loss {lost_loss[-1]:.3f} detached")

    figure, (left, right) = panels(2)
    reach = 1.15 * np.abs(formula).max()
    left.plot([-reach, reach], [-reach, reach], color=GREY, lw=0.8)
    left.plot(formula.ravel(), wrong.numpy().ravel(), "x", color=ORANGE, label="detached")
    left.plot(formula.ravel(), dx.numpy().ravel(), ".", color=BLUE, label="machine, four lines")
    left.set(xlabel="formula of the paper", ylabel="found", title="Each element of dx")
    left.legend()
    counted = np.arange(1, steps + 1)
    right.plot(counted, lost_size, color=ORANGE, label="‖b‖, detached")
    right.plot(counted, size, color=BLUE, label="‖b‖, whole gradient")
    right.plot(counted, lost_loss, color=ORANGE, lw=5, alpha=0.4, label="loss, detached")
    right.plot(counted, loss, "--", color=BLUE, label="loss, whole gradient (the same)")
    right.set(xlabel="step", ylabel="size of b, and loss")
    right.set_title("A bias that runs away (Ioffe & Szegedy, section 2)")
    right.legend(fontsize=9)
    save(figure, __file__)
    return {"error": error, "missing": missing, "bias": size[-1], "lost_bias": lost_size[-1]}


if __name__ == "__main__":
    main()
