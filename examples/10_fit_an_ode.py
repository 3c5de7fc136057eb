"""Lesson 10: fit a differential equation, through the program that solves it.

Foxes eat hares, and both breed. By Lotka (1925) and Volterra (1926), their numbers follow

    dx/dt = α x - β x y          hares breed, and are eaten
    dy/dt = δ x y - γ y          foxes breed on what they eat, and die

Both were counted 31 times in 15 years, with errors of about 10 %. What are α, β, γ and δ?

There is no formula for x(t), but there is a program: start somewhere and take small steps with
the classical Runge-Kutta method (Hairer, Nørsett & Wanner, Solving Ordinary Differential
Equations I, 1993, section II.1), whose error falls with the fourth power of the step. The
program consists of additions and multiplications, and a machine that differentiates programs
can differentiate it: `backward()` goes through all steps of the solver in reverse order and
gives the exact derivative of what the solver computes. (The alternative is to solve an adjoint
equation backwards in time: Chen et al. 2018.)

The counting errors are log-normal, so the log-likelihood of the counts is, up to a constant,

    log L(θ) = - Σ ( log counted - log computed )² / 2 σ².

Its six parameters θ are the logarithms of the four rates and of the two initial numbers, which
keeps all six positive. Adam moves from a poor guess to the vicinity; a few steps of Newton's
method (lesson 9) finish the work. The Hessian, a second derivative of a solver, is used twice:
its inverse is also the covariance of the estimate (Fisher 1925), which gives the ± in the
table. For the picture, 200 sets of parameters are drawn from that normal distribution and
solved at once: the program works for numbers and arrays alike. The bands contain 95 % of them.
They are narrow where there are counts; after the last count, errors of the period accumulate,
and the bands widen.

Exercise: a method of second order. `make exercise N=10` judges your answer.
"""

from __future__ import annotations

import numpy as np
from lesson import BLUE, GREY, ORANGE, panels, progress, read_options, save

import minigrad as mg
from minigrad import optim

NAMES = ("α", "β", "γ", "δ", "x(0)", "y(0)")
TRUE = np.array([0.6, 0.03, 0.9, 0.025, 30.0, 8.0])  # per year; β and δ per year and animal
YEARS, LATER, NOISE = 15, 45, 0.1
STEPS_A_YEAR, STEPS_A_COUNT = 6, 3


def solve(theta: mg.Tensor, years: int) -> mg.Tensor:
    """log x and log y after each step, of shape (steps + 1, 2, ...), for theta of (6, ...)."""
    alpha, beta, gamma, delta, x, y = mg.exp(theta)
    breeding, eating = mg.stack([alpha, -gamma]), mg.stack([-beta, delta])
    h, animals = 1 / STEPS_A_YEAR, mg.stack([x, y])

    def slope(animals):
        return animals * (breeding + eating * animals[::-1])

    states = [animals]
    for _ in range(years * STEPS_A_YEAR):
        a = slope(animals)
        b = slope(animals + h / 2 * a)
        c = slope(animals + h / 2 * b)
        d = slope(animals + h * c)
        animals = animals + h / 6 * (a + 2 * (b + c) + d)
        states.append(animals)
    return mg.log(mg.stack(states))


def surprise(theta: mg.Tensor, counted: mg.Tensor) -> mg.Tensor:
    """Minus the log-likelihood of the counts."""
    return mg.square(solve(theta, YEARS)[::STEPS_A_COUNT] - counted).sum() / (2 * NOISE**2)


def hessian(theta: mg.Tensor, counted: mg.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Gradient and Hessian of `surprise`, as in lesson 9."""
    (g,) = mg.autograd.grad(surprise(theta, counted), theta, create_graph=True)
    rows = [mg.autograd.grad(element, theta, retain_graph=True)[0].numpy() for element in g]
    return g.detach().numpy(), np.stack(rows)


def main(arguments: list[str] | None = None) -> dict[str, np.ndarray]:
    options = read_options(__file__, __doc__, arguments)
    random = np.random.default_rng(0)
    truth = solve(mg.tensor(np.log(TRUE)), LATER).numpy()
    seen = slice(0, YEARS * STEPS_A_YEAR + 1, STEPS_A_COUNT)
    counted = mg.tensor(truth[seen] + random.normal(0, NOISE, truth[seen].shape))

    guess = np.array([1.0, 0.05, 0.5, 0.02, *np.exp(counted[0].tolist())])
    theta = mg.tensor(np.log(guess), requires_grad=True)
    optimizer, losses = optim.Adam([theta], lr=0.02), []
    for _ in progress(80 if options.fast else 400, "Adam"):
        optimizer.zero_grad()
        loss = surprise(theta, counted)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for _ in progress(4, "Newton"):
        g, h = hessian(theta, counted)
        with mg.no_grad():
            theta -= mg.tensor(np.linalg.solve(h, g))
        losses.append(surprise(theta, counted).item())
    covariance = np.linalg.inv(hessian(theta, counted)[1])
    spread = np.sqrt(np.diag(covariance))  # of logarithms: relative errors
    found = np.exp(theta.numpy())
    print(f"{'':5}{'guess':>9}{'found':>9}{'±':>9}{'true':>9}")
    for name, *numbers in zip(NAMES, guess, found, found * spread, TRUE, strict=True):
        print(f"{name:5}" + "".join(f"{number:9.4f}" for number in numbers))

    draws = random.multivariate_normal(theta.numpy(), covariance, 200)
    sets = np.column_stack([np.log(found), np.log(guess), draws.T])
    animals = np.exp(solve(mg.tensor(sets), LATER).numpy())
    best, first, several = animals[..., 0], animals[..., 1], animals[..., 2:]
    low, high = np.quantile(several, [0.025, 0.975], axis=-1)
    time = np.arange(len(best)) / STEPS_A_YEAR
    figure, (left, right) = panels(2, width=5.4)
    for k, (name, color) in enumerate((("hares", BLUE), ("foxes", ORANGE))):
        left.plot(time, best[:, k], color=color, label=f"{name}, fitted")
        left.fill_between(time, low[:, k], high[:, k], color=color, alpha=0.25, lw=0)
        left.plot(time[seen], np.exp(counted.numpy()[:, k]), ".", color=color, label="counted")
        left.plot(time[: seen.stop], first[: seen.stop, k], ":", color=color, lw=1, label="guess")
        left.plot(time, np.exp(truth[:, k]), "--", color="black", lw=0.7, label="true")
    left.set(xlabel="time (years)", ylabel="animals", title="Fit, 95 % band, and forecast")
    left.legend(fontsize=8, ncols=2, loc="upper right")
    top = 1.55 * max(high.max(), np.exp(counted.numpy()).max())
    left.set_ylim(0, top)
    left.axvline(YEARS, color=GREY, lw=0.8)
    left.text(YEARS - 0.4, 0.97 * top, "last count", ha="right", va="top", fontsize=9)
    places = np.arange(len(NAMES))
    right.axhline(1, color=GREY, ls="--", lw=1, label="true")
    share = found / TRUE
    right.errorbar(places, share, 1.96 * spread * share, fmt="o", capsize=4, label="found, 95 %")
    right.plot(places, guess / TRUE, "x", color=GREY, label="guess")
    right.set(xticks=places, xticklabels=NAMES, ylabel="share of the true value")
    right.set(title="The parameters and how sure they are")
    right.legend()
    save(figure, __file__)
    return {"found": found, "spread": spread, "losses": np.array(losses)}


if __name__ == "__main__":
    main()
