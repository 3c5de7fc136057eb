"""Lesson 11: a Gaussian process, and the likelihood that chooses its smoothness.

A curve is measured at 60 places, with errors. What is it in between, and how sure is that?
A Gaussian process (Rasmussen & Williams, Gaussian Processes for Machine Learning, 2006) treats the
values of the curve as normally distributed numbers, correlated where places are close:

    k(x, x') = a² exp( - (x - x')² / 2 ℓ² ).

Given the measurements y, whose covariance is K = k(x, x) + σ² I, the curve elsewhere is normally
distributed too. With Cholesky's factor L of K (K = L Lᵀ),

    mean = k(*, x) K⁻¹ y,        variance = a² - Σ ( L⁻¹ k(x, *) )²:

two triangular systems. But how far does a measurement reach (ℓ), how large is the curve (a), and
how large are the errors (σ)? The data decide, by their probability density, the evidence

    log p(y) = - ½ | L⁻¹ y |² - Σ log diag L - ½ n log 2π,

the first term of which rewards a good fit and the second a simple curve (equation 5.8 there). A
smaller ℓ always fits better, but the evidence stops in time, and no data are set aside for a test.

Nobody derives its gradient: it flows back through `mg.linalg.cholesky`, whose rule is a few
lines of triangular systems (Murray 2016). Adam climbs from a guess that takes nearly all for noise.
And as that rule consists of operations that have rules, the Hessian is there as well (lesson 9):
Newton's method makes the last steps, and the inverse of the Hessian is the covariance of the three
logarithms, their ± in the table and the ellipse in the picture. Note the gap in the measurements:
the band is wide where nothing was measured, and narrow where much was.

Exercise: the rule of a log-determinant. `make exercise N=11` judges your answer.
"""

from __future__ import annotations

import math

import numpy as np
from lesson import BLUE, GREY, ORANGE, panels, progress, read_options, save

import minigrad as mg
from minigrad import linalg, optim

NAMES = ("amplitude a", "length ℓ", "noise σ")
TRUE = np.array([1.5, 0.8, 0.3])
GUESS = np.array([1.0, 4.0, 1.0])
WHOLE, GAP = (0.0, 10.0), (5.6, 7.4)


def kernel(theta: mg.Tensor, x: mg.Tensor, z: mg.Tensor) -> mg.Tensor:
    """The covariances of the curve at places x and z, for theta of (..., 3): logarithms."""
    amplitude, length, _ = mg.unstack(mg.exp(theta)[..., None, None], -3)
    return mg.square(amplitude) * mg.exp(-0.5 * mg.square((x[:, None] - z) / length))


def factor(theta: mg.Tensor, x: mg.Tensor) -> mg.Tensor:
    """Cholesky's factor of the covariance of the measurements."""
    noise = mg.exp(2 * theta[..., 2])[..., None, None]
    return linalg.cholesky(kernel(theta, x, x) + noise * mg.eye(x.size, dtype=x.dtype))


def surprise(theta: mg.Tensor, x: mg.Tensor, y: mg.Tensor) -> mg.Tensor:
    """Minus the log-evidence, for each theta."""
    triangle = factor(theta, x)
    fit = linalg.solve_triangular(triangle, y[:, None], upper=False)[..., 0]
    simplicity = mg.log(linalg.diagonal(triangle)).sum(-1)
    return 0.5 * mg.square(fit).sum(-1) + simplicity + 0.5 * x.size * math.log(2 * math.pi)


@mg.no_grad()
def predict(theta: mg.Tensor, x: mg.Tensor, y: mg.Tensor, z: mg.Tensor) -> tuple[np.ndarray, ...]:
    """Mean and standard deviation of the curve at places z."""
    triangle, across = factor(theta, x), kernel(theta, x, z)
    weights = linalg.solve_triangular(triangle, across, upper=False)
    mean = weights.mT @ linalg.solve_triangular(triangle, y, upper=False)
    variance = mg.exp(2 * theta[0]) - mg.square(weights).sum(0)
    return mean.numpy(), np.sqrt(variance.numpy())


def hessian(theta: mg.Tensor, x: mg.Tensor, y: mg.Tensor) -> tuple[mg.Tensor, mg.Tensor]:
    """Gradient and Hessian of `surprise`, as in lesson 9."""
    (g,) = mg.autograd.grad(surprise(theta, x, y), theta, create_graph=True)
    rows = [mg.autograd.grad(element, theta, retain_graph=True)[0] for element in g]
    return g.detach(), mg.stack(rows)


def measure(random: np.random.Generator, count: int) -> tuple[mg.Tensor, ...]:
    """Places outside the gap, measurements there, a fine grid, and the true curve on it."""
    z = mg.linspace(*WHOLE, 400, dtype=mg.float64)
    x = random.uniform(*WHOLE, 10 * count)
    x = mg.tensor(np.sort(x[(x < GAP[0]) | (x > GAP[1])][:count]))
    places = mg.concat([x, z])
    covariance = kernel(mg.tensor(np.log(TRUE)), places, places).numpy()
    values, vectors = np.linalg.eigh(covariance)  # singular but for roundings: near places agree
    curve = vectors @ (np.sqrt(np.maximum(values, 0)) * random.normal(size=values.size))
    noisy = curve[:count] + TRUE[2] * random.normal(size=count)
    return x, mg.tensor(noisy), z, mg.tensor(curve[count:])


def main(arguments: list[str] | None = None) -> dict[str, np.ndarray]:
    options = read_options(__file__, __doc__, arguments)
    x, y, z, curve = measure(np.random.default_rng(3), 60)
    theta = mg.tensor(np.log(GUESS), requires_grad=True)
    optimizer, path, losses = optim.Adam([theta], lr=0.1), [], []
    for _ in progress(60 if options.fast else 150, "Adam"):
        optimizer.zero_grad()
        loss = surprise(theta, x, y)
        loss.backward()
        path.append(theta.tolist())
        losses.append(loss.item())
        optimizer.step()
    for _ in progress(5, "Newton"):
        g, h = hessian(theta, x, y)
        path.append(theta.tolist())
        with mg.no_grad():
            theta -= linalg.solve(h, g)
    path.append(theta.tolist())
    losses.append(surprise(theta, x, y).item())
    covariance = linalg.inv(hessian(theta, x, y)[1]).numpy()
    spread = np.sqrt(np.diag(covariance))  # of logarithms: relative errors
    found = np.exp(theta.numpy())
    print(f"{'':12}{'guess':>9}{'found':>9}{'±':>9}{'true':>9}")
    for name, *numbers in zip(NAMES, GUESS, found, found * spread, TRUE, strict=True):
        print(f"{name:12}" + "".join(f"{number:9.3f}" for number in numbers))
    print(f"log-evidence: {-losses[0]:.2f} of the guess, {-losses[-1]:.2f} in the end")

    figure, (left, right) = panels(2, width=5.4)
    mean, deviation = predict(theta, x, y, z)
    low, high = mean - 1.96 * deviation, mean + 1.96 * deviation
    first, _ = predict(mg.tensor(np.log(GUESS)), x, y, z)
    places, truth = z.numpy(), curve.numpy()
    left.fill_between(places, low, high, color=BLUE, alpha=0.25, lw=0, label="95 % band")
    left.plot(places, mean, color=BLUE, label="mean")
    left.plot(places, first, ":", color=GREY, label="mean by the guess")
    left.plot(places, truth, "--", color="black", lw=1, label="true")
    left.plot(x.numpy(), y.numpy(), ".", color=ORANGE, label="measured")
    left.set(xlabel="place x", ylabel="value", title="The curve given the measurements")
    left.legend(fontsize=8, ncols=3, loc="upper center")
    left.set_ylim(min(low.min(), y.min().item()) - 0.2, 1.5 * max(high.max(), y.max().item()))

    count = 25 if options.fast else 80
    lengths, noises = np.linspace(-1.2, 2, count), np.linspace(-2.2, 0.6, count)
    grid = np.stack(np.broadcast_arrays(theta.numpy()[0], *np.meshgrid(lengths, noises)), -1)
    with mg.no_grad():
        heights = [surprise(mg.tensor(row), x, y).numpy() for row in grid]
    excess = np.array(heights) - losses[-1]
    levels = (0, 1, 3, 6, 12, 25, 50, 100, 200)
    shades = right.contourf(
        np.exp(lengths), np.exp(noises), excess, levels, cmap="Blues", extend="max"
    )
    figure.colorbar(shades, ax=right, label="log-evidence lost")
    steps = np.exp(np.array(path))
    right.plot(steps[:, 1], steps[:, 2], ".-", color=ORANGE, lw=1, ms=4, label="Adam, then Newton")
    right.plot(*TRUE[1:], "+", color="black", ms=12, mew=2, label="true")
    turn = np.linspace(0, 2 * np.pi, 100)
    # 95 % of a normal distribution in two dimensions lies within sqrt(5.99) deviations
    circle = np.sqrt(5.99) * np.linalg.cholesky(covariance[1:, 1:]) @ [np.cos(turn), np.sin(turn)]
    right.plot(
        *np.exp(theta.numpy()[1:, None] + circle), color="black", lw=1, label="95 %, by the Hessian"
    )
    right.set(xscale="log", yscale="log", xlabel="length ℓ", ylabel="noise σ")
    for axis, ticks in ((right.xaxis, (0.5, 1, 2, 4)), (right.yaxis, (0.2, 0.5, 1))):
        axis.set_ticks(ticks, map(str, ticks))
        axis.set_ticks([], minor=True)
    right.set(xlim=np.exp(lengths[[0, -1]]), ylim=np.exp(noises[[0, -1]]))
    right.set(title="What the measurements say of ℓ and σ")
    right.legend(fontsize=8, loc="lower right")
    save(figure, __file__)
    inside = ((low < truth) & (truth < high)).mean()
    gap = (places > GAP[0] + 0.5) & (places < GAP[1] - 0.5)
    return {
        "found": found,
        "spread": spread,
        "losses": np.array(losses),
        "inside": inside,
        "widening": deviation[gap].min() / np.median(deviation),
        "errors": np.array([np.abs(m - truth).mean() for m in (first, mean)]),
    }


if __name__ == "__main__":
    main()
