"""Exercise 1: another neuron, by hand.

The neuron of lesson 1 had a tanh. This one has a logistic function,

    a = w·x + b,    y = σ(a) = 1 / (1 + exp(-a)),    loss = (y - t)²,

and three of the four lines of its gradient are there. Write the missing one, d loss / d a.
(Differentiate σ, and express the result by y, as tanh' = 1 - y² does.) Your gradient is compared
with differences of the loss.
"""

import numpy as np

from .judge import compare, measured


def loss(w, b, x, t):
    """The loss of one sample, for w and x of shape (features,)."""
    return (1 / (1 + np.exp(-(w @ x + b))) - t) ** 2


def gradient(w, b, x, t):
    """d loss / d w and d loss / d b."""
    y = 1 / (1 + np.exp(-(w @ x + b)))
    dy = 2 * (y - t)
    da = ...
    return da * x, da


def judge():
    random = np.random.default_rng(0)
    for _ in range(3):
        w, x = random.normal(size=(2, 4))
        b, t = random.normal(size=2)
        right = measured(lambda w, b, x=x, t=t: loss(w, b, x, t), w, b)
        y = 1 / (1 + np.exp(-(w @ x + b)))
        dy = 2 * (y - t)
        wrong = {
            "1 - y² is the derivative of tanh; σ has another": dy * (1 - y**2) * x,
            "that is only d y / d a; the chain rule multiplies it by d loss / d y": y * (1 - y) * x,
            "that is only d loss / d y; the chain rule multiplies it by d y / d a": dy * x,
        }
        yours = gradient(w, b, x, t)
        compare("d loss / d w", yours[0], right[0], wrong)
        compare("d loss / d b", yours[1], right[1])
    return "It agrees with the differences of three neurons."
