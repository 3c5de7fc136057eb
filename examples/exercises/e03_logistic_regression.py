"""Exercise 3: the gradient of logistic regression with respect to the weights.

In lesson 3 the gradient with respect to the logits z = X w was (p - y) / N, for the mean
cross-entropy of N points. Write the gradient with respect to w, for X of shape (N, features) and
p, y of shape (N,): one product. It is compared with differences of the loss.
"""

import numpy as np

from .judge import compare, measured


def loss(w, X, y):
    """The mean cross-entropy, in a form that cannot overflow."""
    z = X @ w
    return (np.logaddexp(0, z) - y * z).mean()


def gradient(w, X, y):
    """d loss / d w, of shape (features,)."""
    p = 1 / (1 + np.exp(-(X @ w)))
    return ...


def judge():
    random = np.random.default_rng(0)
    X, w, y = random.normal(size=(20, 3)), random.normal(size=3), np.arange(20.0) % 2
    (right,) = measured(lambda w: loss(w, X, y), w)
    p = 1 / (1 + np.exp(-(X @ w)))
    wrong = {
        "that is the gradient with respect to the logits, one for each point": (p - y) / len(y),
        "each point pulls by its x, which is not summed over the points yet": X
        * (p - y)[:, None]
        / 20,
        "the loss is a mean over the points, and this is 20 times its gradient": 20 * right,
    }
    compare("d loss / d w", gradient(w, X, y), right, wrong)
    return "It agrees with the differences of the loss."
