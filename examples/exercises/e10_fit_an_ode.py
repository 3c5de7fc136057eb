"""Exercise 10: a method of second order.

To solve dy/dt = slope(y), Euler's method takes the step y + h · slope(y). Its error falls with h:
half the step, half the error. Write a step whose error falls with h², with two calls of slope: the
slope in the middle of the step is a better guess for the whole of it, and a first half step leads
there. (There are others; any method of second order or higher will do.) The order is measured.
"""

import numpy as np

from .judge import WrongAnswerError


def step(slope, y, h):
    """y after the time h."""
    return ...


def error(steps):
    """The error at t = 1 of y' = y (1 - y), y(0) = 0.2, whose solution is a logistic curve."""
    y = np.array([0.2])
    for _ in range(steps):
        y = np.asarray(step(lambda y: y * (1 - y), y, 1 / steps), float)
    return float(np.abs(y - 1 / (1 + 4 * np.exp(-1))).max())


def judge():
    errors = np.array([error(steps) for steps in (20, 40, 80)])
    if not np.isfinite(errors).all() or errors[-1] > 0.05:
        raise WrongAnswerError(
            f"With steps of 1/80 the error is {errors[-1]:.2g}: this solves another equation."
        )
    orders = np.log2(errors[:-1] / np.maximum(errors[1:], 1e-16))
    order = orders.max() if errors[-1] < 1e-13 else orders.min()
    if order < 1.7:
        hint = (
            "; that is the order of Euler's method" if order > 0.8 else ", so it does not converge"
        )
        raise WrongAnswerError(
            f"At half the step the error is divided by {2**order:.2f}, not by 4{hint}."
        )
    return (
        f"At half the step the error is divided by {2**order:.1f}: a method of order {order:.1f}."
    )
