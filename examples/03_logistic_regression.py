"""Lesson 3: logistic regression, or learning a probability.

There are two classes of points in the plane, 200 of each, and they overlap. For a new point x
we want a probability rather than a class, and the simplest model that gives one is

    p(x) = σ(w·x + b),    σ(z) = 1 / (1 + exp(-z)).

What is a good w? One that makes the data likely (*maximum likelihood*): the probability of all
labels y ∈ {0, 1} is the product of p where y = 1 and of 1 - p where y = 0. Its negative
logarithm, per point, is the loss, called cross-entropy:

    loss = -mean( y log p + (1 - y) log(1 - p) ).

The gradient is beautiful: with respect to z it is (p - y) / N, prediction minus truth, as this
lesson checks. But the loss must not be computed as written: for z = -200 the float32 p is 0 and
its logarithm minus infinity. `binary_cross_entropy_with_logits` takes z itself and computes
log(1 + exp(z)) - y z in a way that cannot overflow; `mg.softplus` is that logarithm.

The loss is convex (Bishop, Pattern Recognition and Machine Learning, 2006, section 4.3): there
is a single valley, and going downhill, w ← w - rate · gradient, must reach it. The points were
drawn from two normal distributions with means ±m and the same covariance S, so Bayes' theorem
gives the right answer: w = 2 S⁻¹ m, b = 0 (ibid., section 4.2). The learnt w is as close as 400
points allow: the inverse of the Hessian of N · loss gives the expected error, printed in the
table as ±. No other method could do much better: even with the true w some points are on the
wrong side. The picture shows them, the line where p = 1/2, and the falling loss.

Exercise: the gradient with respect to the weights. `make exercise N=3` judges your answer.
"""

from __future__ import annotations

import numpy as np
from lesson import BLUE, BLUE_TO_ORANGE, GREY, ORANGE, panels, progress, read_options, save

import minigrad as mg
from minigrad.nn.functional import binary_cross_entropy_with_logits

MEAN = np.array([0.9, 0.4])
COVARIANCE = np.array([[1.0, 0.5], [0.5, 0.8]])
TRUE = np.array([*2 * np.linalg.solve(COVARIANCE, MEAN), 0.0])  # w0, w1, b
RATE = 2.0


def make_points(count: int) -> tuple[np.ndarray, np.ndarray]:
    """x with a column of ones (which makes b an ordinary weight), and y: half 0, half 1."""
    random = np.random.default_rng(5)
    y = np.arange(count) % 2
    x = random.multivariate_normal([0, 0], COVARIANCE, count) + np.where(y[:, None], MEAN, -MEAN)
    return np.column_stack([x, np.ones(count)]), y.astype(np.float64)


def main(arguments: list[str] | None = None) -> dict[str, object]:
    options = read_options(__file__, __doc__, arguments)
    points, labels = make_points(400)
    x, y = mg.tensor(points), mg.tensor(labels)
    w = mg.zeros(3, dtype=mg.float64, requires_grad=True)

    losses = []
    for _ in progress(60 if options.fast else 300, "walking downhill"):
        loss = binary_cross_entropy_with_logits(x @ w, y)
        w.grad = None
        loss.backward()
        with mg.no_grad():
            w -= RATE * w.grad
        losses.append(loss.item())

    logits = x @ w
    probability = mg.sigmoid(logits).detach()
    (gradient,) = mg.autograd.grad(binary_cross_entropy_with_logits(logits, y), logits)
    difference = float(abs(gradient - (probability - y) / len(labels)).max())
    p = probability.numpy()
    hessian = (points.T * (p * (1 - p))) @ points  # of N · loss (Bishop, equation 4.97)
    spread = np.sqrt(np.diag(np.linalg.inv(hessian)))
    accuracy = float(((p > 0.5) == labels).mean())
    best = float(((points @ TRUE > 0) == labels).mean())
    print(f"the gradient is (p - y)/N to {difference:.0e}")
    for name, learnt, error, true in zip(("w0", "w1", "b"), w.tolist(), spread, TRUE, strict=True):
        print(f"{name:<3} learnt {learnt:6.3f} ± {error:.3f}   true {true:6.3f}")
    print(f"right side of the line: {accuracy:.1%}; of the true line: {best:.1%}")

    figure, (left, right) = panels(2)
    ticks = np.linspace(-4.2, 4.2, 200)
    plane = np.stack([*np.meshgrid(ticks, ticks), np.ones((200, 200))], axis=-1)
    chances = 1 / (1 + np.exp(-plane @ w.tolist()))
    shades = left.imshow(
        chances, BLUE_TO_ORANGE, origin="lower", extent=[-4.2, 4.2] * 2, vmin=0, vmax=1, alpha=0.6
    )
    left.contour(ticks, ticks, chances, [0.5], colors="black")
    left.contour(ticks, ticks, plane @ TRUE, [0], colors=GREY, linestyles="--")
    left.grid(False)
    for kind, color in ((0, BLUE), (1, ORANGE)):
        left.plot(*points[labels == kind, :2].T, ".", color=color, label=f"y = {kind}")
    left.plot([], [], color="black", label="p = 1/2, learnt")
    left.plot([], [], "--", color=GREY, label="p = 1/2, true")
    left.set(xlabel="$x_0$", ylabel="$x_1$", title="Points and probabilities", aspect="equal")
    left.legend(loc="lower right", fontsize=8)
    figure.colorbar(shades, ax=left, label="p(y = 1)", shrink=0.85)
    right.semilogx(np.arange(1, len(losses) + 1), losses, color=BLUE, label="learnt")
    true_loss = binary_cross_entropy_with_logits(x @ mg.tensor(TRUE), y).item()
    right.axhline(true_loss, ls="--", color=GREY, label="true weights")
    right.set(xlabel="step", ylabel="cross-entropy (nats per point)", title="Downhill")
    right.legend()
    save(figure, __file__)
    return {"difference": difference, "learnt": w.tolist(), "spread": spread, "losses": losses}


if __name__ == "__main__":
    main()
