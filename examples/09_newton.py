"""Lesson 9: second derivatives and Newton's method.

A gradient says which way is down, but not how far to go. In a long narrow valley this makes all
the difference: gradient descent must take steps that are safe for the steep walls, and creeps
along the floor. The curvature has the answer: the *Hessian* H of second derivatives

    H[i, j] = ∂² f / ∂x_i ∂x_j.

Newton's method approximates f by the parabola with its gradient g and Hessian H at the current
point, and jumps to the minimum of the parabola:

    x ← x - H⁻¹ g.

Near a minimum the error of the parabola is of third order, and the method converges
*quadratically*: each step roughly doubles the number of correct digits (Nocedal & Wright,
Numerical Optimization, 2006, theorem 3.5). Far from it there is no such guarantee. The valley
here is Rosenbrock's (1960),

    f(x, y) = (1 - x)² + 100 (y - x²)²,    lowest at (1, 1),

and the second pure Newton step climbs from f = 4.7 to 1,412. A remedy is to halve the step
until f has decreased enough (Armijo's condition, ibid., equation 3.4): the damped method never
climbs, and near the end it takes full steps and is as fast. Gradient descent is shown for
comparison, with the same halving, from a rate of 1/256 that the steep walls allow.

How does a machine compute H? The rules that compute a gradient are tensor operations like any
other. With `create_graph=True` they are recorded as well, and can be differentiated again: each
row of H is the gradient of one element of the gradient. Nobody wrote a second-derivative rule,
and third derivatives work the same way. For a network with a million weights H does not fit in
memory, but H v does, for a vector v: it is the gradient of g·v and costs one more backward
(Pearlmutter 1994).

Exercise: the Hessian times a vector, without the Hessian. `make exercise N=9` judges your answer.
"""

from __future__ import annotations

import numpy as np
from lesson import BLUE, GREEN, ORANGE, panels, read_options, save
from matplotlib.colors import LogNorm

import minigrad as mg

START, LOWEST = (-1.2, 1.0), np.ones(2)


def rosenbrock(p: mg.Tensor) -> mg.Tensor:
    x, y = p
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def gradient_and_hessian(function, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient, of shape (n,), and H, of shape (n, n): the gradients of its elements."""
    p = mg.tensor(place, requires_grad=True)
    (g,) = mg.autograd.grad(function(p), p, create_graph=True)
    rows = [mg.autograd.grad(element, p, retain_graph=True)[0].numpy() for element in g]
    return g.detach().numpy(), np.stack(rows)


def descend(method: str, steps: int) -> np.ndarray:
    """The points visited by a method: an array of shape (at most steps + 1, 2)."""
    places = [np.array(START)]
    value = [rosenbrock(mg.tensor(places[0])).item()]
    for _ in range(steps):
        g, hessian = gradient_and_hessian(rosenbrock, places[-1])
        direction = -g if method == "gradient descent" else -np.linalg.solve(hessian, g)
        size, slope = 2.0**-8 if method == "gradient descent" else 1.0, g @ direction
        while True:
            place = places[-1] + size * direction
            found = rosenbrock(mg.tensor(place)).item()
            # Armijo's condition; at the very end rounding keeps f from decreasing further
            if method == "Newton" or found <= value[-1] + 1e-4 * size * slope or size < 1e-10:
                break
            size /= 2
        places.append(place)
        value.append(found)
        if np.abs(place - LOWEST).max() < 1e-15:
            break
    return np.array(places)


def main(arguments: list[str] | None = None) -> dict[str, object]:
    options = read_options(__file__, __doc__, arguments)
    steps = {"Newton": 10, "damped Newton": 30, "gradient descent": 100 if options.fast else 3000}
    paths = {method: descend(method, count) for method, count in steps.items()}
    errors = {method: np.abs(path - LOWEST).max(axis=1) for method, path in paths.items()}
    for method, error in errors.items():
        print(f"{method:<17} {len(error) - 1:5} steps   error {error[-1]:.1e}")
    print("the last errors of damped Newton:", *(f"{e:.0e}" for e in errors["damped Newton"][-6:]))

    figure, (left, right) = panels(2)
    across, up = np.meshgrid(np.linspace(-1.6, 1.6, 200), np.linspace(-3.5, 2.2, 200))
    heights = (1 - across) ** 2 + 100 * (up - across**2) ** 2
    levels = np.logspace(-1, 3.5, 14)
    left.contour(across, up, heights, levels, cmap="Greys", norm=LogNorm(1e-2, 1e4), linewidths=0.7)
    colors = dict(zip(paths, (ORANGE, GREEN, BLUE), strict=True))
    for method in reversed(paths):
        # The way of gradient descent is drawn wide, as that of damped Newton lies on it.
        wide = {"lw": 6, "alpha": 0.4} if method == "gradient descent" else {"marker": ".", "lw": 1}
        left.plot(*paths[method].T, color=colors[method], ms=4, label=method, **wide)
        points = np.arange(1, len(errors[method]) + 1)
        right.plot(points, errors[method], ".-", color=colors[method], label=method)
    left.plot(*LOWEST, "*", color="black", ms=11, zorder=5, label="lowest point")
    left.set(xlabel="$x$", ylabel="$y$", title="Three ways through Rosenbrock's valley")
    left.legend(loc="lower left", fontsize=9)
    right.set(xlabel="point on the way (1 is the start)", ylabel="distance to (1, 1)")
    right.set(title="Each step doubles the digits, or does not", xscale="log")
    right.set_yscale("symlog", linthresh=1e-16)  # linear below, so that 0 has a place
    right.set(ylim=(-2e-17, 30), yticks=[0, *10.0 ** np.arange(-16, 1, 2)])
    right.legend(fontsize=9)
    save(figure, __file__)
    return {"errors": errors, "paths": paths}


if __name__ == "__main__":
    main()
